//! SASL with a private libvirtd, over each of its sockets.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use libvirt_qmp::{
    AuthFailure, Backoff, Config, ConnectionState, Credentials, EndCause, Error, Libvirt,
    LibvirtRpc, Monitor,
};
use tokio::net::{TcpListener, UnixStream};

use super::{chain, patient};
use crate::support::lab::{Lab, SASL_USER};
use crate::support::process::PATIENCE;

/// More than a client of ours knows, and less than Cyrus SASL does.
const MECHANISMS: &str = "scram-sha-256 scram-sha-1 plain anonymous digest-md5";

fn lab(mechanisms: &str) -> Lab {
    Lab::start_with_sasl(mechanisms, || "listen_tls = 0\n".to_owned())
}

/// A driver of libvirtd with one domain, named `test`, that is always there.
fn uri(lab: &Lab, more: &str) -> String {
    format!(
        "test+unix:///default?socket={}{more}",
        lab.unix_path().display()
    )
}

fn fred() -> Config {
    patient().credentials(Credentials::new(SASL_USER.0, SASL_USER.1))
}

async fn assert_opens(uri: &str, config: Config) {
    let libvirt = Libvirt::connect_with(uri, config)
        .await
        .unwrap_or_else(|error| panic!("{uri}: {}", chain(&error)));
    let domains = libvirt.domains().await.unwrap();
    assert_eq!(domains.len(), 1, "{domains:?}");
    assert_eq!(domains[0].name, "test");
    libvirt.close().await.unwrap();
}

async fn failure(uri: &str, config: Config) -> AuthFailure {
    let error = Libvirt::connect_with(uri, config).await.unwrap_err();
    assert!(error.is_auth_failed(), "{}", chain(&error));
    let shown = format!("{} {error:?}", chain(&error));
    assert!(
        !shown.contains("battery") && !shown.contains("hunter2"),
        "{shown}"
    );
    match error {
        Error::Auth(failure) => *failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn over_a_unix_socket() {
    let lab = lab(MECHANISMS);
    assert_opens(&uri(&lab, ""), fred()).await;
    for mechanism in ["scram-sha-256", "SCRAM-SHA-1", "PLAIN", "ANONYMOUS"] {
        let uri = uri(&lab, &format!("&auth=sasl.{mechanism}"));
        assert_opens(&uri, fred()).await;
    }
    let stream = UnixStream::connect(lab.unix_path()).await.unwrap();
    let config = fred().uri("test:///default");
    let libvirt = Libvirt::open(stream, config).await.unwrap();
    assert_eq!(libvirt.domains().await.unwrap().len(), 1);
    libvirt.close().await.unwrap();
    // A monitor of its own goes the same way in; this driver has no QEMU behind it.
    let monitor = LibvirtRpc::connect_uri_with(&uri(&lab, "&auth=sasl"), "test", fred()).await;
    monitor.unwrap().disconnect().await.unwrap();

    // What is wrong.
    let wrong = patient().credentials(Credentials::new(SASL_USER.0, "hunter2"));
    let unknown = patient().credentials(Credentials::new("nobody", "hunter2"));
    for (config, name) in [(wrong, SASL_USER.0), (unknown, "nobody")] {
        for asked in ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"] {
            let uri = uri(&lab, &format!("&auth=sasl.{asked}"));
            match failure(&uri, config.clone()).await {
                AuthFailure::Refused {
                    user,
                    mechanism,
                    error,
                } => {
                    assert_eq!((user.as_deref(), &*mechanism), (Some(name), asked));
                    assert_eq!(error.code, 45);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    match failure(&uri(&lab, "&auth=sasl.EXTERNAL"), fred()).await {
        AuthFailure::NotOffered { wanted, offered } => {
            assert_eq!(wanted, "EXTERNAL");
            assert!(offered.contains(&"SCRAM-SHA-256".to_owned()), "{offered:?}");
        }
        other => panic!("{other:?}"),
    }
    let failed = failure(&uri(&lab, "&auth=sasl.DIGEST-MD5"), fred()).await;
    assert!(
        matches!(failed, AuthFailure::NoMechanism { .. }),
        "{failed:?}"
    );
    let error = Libvirt::connect_with(&uri(&lab, "&auth=polkit"), fred()).await;
    let error = error.unwrap_err();
    assert!(error.is_unsupported(), "{error}");
    assert!(error.to_string().ends_with("offers sasl"), "{error}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn only_plain_is_offered() {
    let lab = lab("plain");
    assert_opens(&uri(&lab, ""), fred()).await;
    // The same daemon over TCP, where others might listen.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let over_tcp = tcp(listener.local_addr().unwrap());
    let socket = lab.unix_path();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut daemon = UnixStream::connect(&socket).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut daemon).await;
        }
    });
    let failed = failure(&over_tcp, fred()).await;
    assert!(
        matches!(failed, AuthFailure::PlainInClear { .. }),
        "{failed:?}"
    );
    assert_opens(&over_tcp, fred().allow_plain_in_clear(true)).await;
}

fn auth_conf(file: &Path, host: &str, password: &str) {
    let text = format!(
        "[credentials-lab]\nauthname={}\npassword={password}\n[auth-libvirt-{host}]\ncredentials=lab\n",
        SASL_USER.0
    );
    fs::write(file, text).unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn credentials_in_a_file() {
    let lab = lab(MECHANISMS);
    let file = lab.dir().join("auth.conf");
    let with_file = uri(&lab, &format!("&authfile={}", file.display()));
    for host in ["localhost", "default"] {
        auth_conf(&file, host, SASL_USER.1);
        assert_opens(&with_file, patient()).await;
    }
    // libvirt's own client reads the same file.
    let virsh = std::process::Command::new("timeout")
        .args(["60", "virsh", "-q", "-c"])
        .arg(format!("{with_file}&auth=sasl.SCRAM-SHA-256"))
        .args(["list", "--name"])
        .env("XDG_CACHE_HOME", lab.dir().join("virsh"))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&virsh.stdout).trim(),
        "test",
        "{virsh:?}"
    );

    auth_conf(&file, "default", "hunter2");
    let failed = failure(&with_file, patient()).await;
    assert!(matches!(failed, AuthFailure::Refused { .. }), "{failed:?}");
    auth_conf(&file, "elsewhere", SASL_USER.1);
    let failed = failure(&with_file, patient()).await;
    assert!(
        matches!(failed, AuthFailure::NoCredentials { .. }),
        "{failed:?}"
    );
    // One of the two would have no effect.
    let error = Libvirt::connect_with(&with_file, fred()).await.unwrap_err();
    assert!(chain(&error).contains("`authfile`"), "{}", chain(&error));
    fs::remove_file(&file).unwrap();
    let error = Libvirt::connect_with(&with_file, patient())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Uri(_)), "{error:?}");
    assert!(chain(&error).contains("auth.conf"), "{}", chain(&error));
}

fn tcp(addr: SocketAddr) -> String {
    format!("test+tcp://{addr}/default")
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn plain_tcp_is_not_safe_enough_for_the_daemon() {
    for (mechanisms, expected) in [
        ("scram-sha-256", &[][..]),
        ("scram-sha-256 digest-md5", &["DIGEST-MD5"]),
    ] {
        let lab = lab(mechanisms);
        match failure(&tcp(lab.tcp_addr()), fred()).await {
            AuthFailure::NoMechanism { offered, reason } => {
                assert_eq!(offered, expected);
                assert!(reason.contains("use TLS, ssh or a unix socket"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn over_tls() {
    use crate::support::pki::Pki;
    use crate::support::process::free_addr;

    let pki = Pki::new();
    for name in ["server", "client"] {
        pki.issue(name, "ca", 3650, "IP:127.0.0.1");
    }
    let port = std::cell::Cell::new(0);
    let lab = Lab::start_with_sasl(MECHANISMS, || {
        port.set(free_addr().port());
        pki.settings(port.get(), "sasl")
    });
    let directory = pki.of_client();
    let uri = |more: &str| {
        format!(
            "test+tls://127.0.0.1:{}/default?pkipath={}{more}",
            port.get(),
            directory.display()
        )
    };
    assert_opens(&uri(""), fred()).await;
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"] {
        assert_opens(&uri(&format!("&auth=sasl.{mechanism}")), fred()).await;
    }
    let file = lab.dir().join("auth.conf");
    auth_conf(&file, "127.0.0.1", SASL_USER.1);
    let with_file = uri(&format!("&authfile={}", file.display()));
    assert_opens(&with_file, patient()).await;
    // Whom nobody has checked is not told the password.
    let unchecked = uri("&no_verify=1&auth=sasl.PLAIN");
    let failed = failure(&unchecked, fred()).await;
    assert!(
        matches!(failed, AuthFailure::PlainInClear { .. }),
        "{failed:?}"
    );
    let wrong = patient().credentials(Credentials::new(SASL_USER.0, "hunter2"));
    let failed = failure(&uri(""), wrong).await;
    assert!(matches!(failed, AuthFailure::Refused { .. }), "{failed:?}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_password_that_was_changed_meanwhile_ends_the_trying_at_once() {
    let lab = std::sync::Arc::new(lab(MECHANISMS));
    let restart = || {
        let lab = lab.clone();
        tokio::task::spawn_blocking(move || lab.restart_daemon())
    };
    let backoff = Backoff::new().longest(Duration::from_millis(200));
    let config = fred().reconnect(backoff);
    let libvirt = Libvirt::connect_with(&uri(&lab, ""), config).await.unwrap();
    // The right one opens the door again.
    let mut state = libvirt.state();
    for expected in [true, false] {
        if !expected {
            lab.set_sasl_password("changed");
        }
        restart().await.unwrap();
        let decided = |state: &ConnectionState| match state {
            ConnectionState::Connected => expected,
            ConnectionState::Closed { .. } => true,
            _ => false,
        };
        // The loss may not have been noticed yet.
        let _ = tokio::time::timeout(PATIENCE, state.changed()).await;
        let state = tokio::time::timeout(PATIENCE, state.wait_for(decided)).await;
        let state = state.expect("it is decided").unwrap().clone();
        match (expected, state) {
            (true, ConnectionState::Connected) => {
                assert_eq!(libvirt.domains().await.unwrap().len(), 1);
            }
            (false, ConnectionState::Closed { cause }) => {
                let EndCause::GaveUp { last, .. } = &*cause else {
                    panic!("{cause:?}");
                };
                assert!(
                    matches!(&**last, Error::Auth(failure) if matches!(**failure, AuthFailure::Refused { .. })),
                    "{last:?}"
                );
                let error = libvirt.domains().await.unwrap_err();
                let shown = format!("{} {error:?}", chain(&error));
                assert!(
                    !shown.contains("battery") && !shown.contains("changed"),
                    "{shown}"
                );
            }
            (_, other) => panic!("{other:?}"),
        }
    }
}
