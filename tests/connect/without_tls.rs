//! A build without TLS.

use libvirt_qmp::{Error, Libvirt};

#[tokio::test]
async fn the_feature_is_named() {
    let error = Libvirt::connect("qemu+tls://host/system")
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Unsupported(what) if what.contains("feature `tls`")),
        "{error}"
    );
}
