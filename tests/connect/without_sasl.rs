//! A build without SASL.

use libvirt_qmp::protocol::remote::AuthType;
use libvirt_qmp::{Error, Libvirt};

use crate::support::mock;

#[tokio::test]
async fn a_file_of_credentials_would_have_no_effect() {
    let error = Libvirt::connect("qemu:///system?authfile=/x")
        .await
        .unwrap_err();
    let named = |what: &String| what.contains("`authfile`") && what.contains("feature `sasl`");
    assert!(
        matches!(&error, Error::Unsupported(what) if named(what)),
        "{error}"
    );
}

#[tokio::test]
async fn a_daemon_that_wants_it_names_the_feature() {
    let (conn, mut daemon) = mock::pair();
    let config = mock::quiet();
    let (opened, ()) = tokio::join!(Libvirt::open(conn, config), daemon.auth(&[AuthType::SASL]));
    let error = opened.unwrap_err();
    assert!(matches!(error, Error::AuthUnsupported { .. }), "{error:?}");
    assert!(error.is_auth_failed());
    let text = error.to_string();
    assert!(
        text.contains("feature `sasl`") && text.ends_with(": sasl"),
        "{text}"
    );
}
