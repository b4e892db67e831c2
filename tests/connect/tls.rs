//! TLS, with a private libvirtd and with servers that are not what they should be.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{Error, Libvirt, TlsFailure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use super::{chain, daemon_on, patient};
use crate::support::lab::Lab;
use crate::support::pki::Pki;
use crate::support::process::free_addr;

/// An address, and a name that `localhost` is not.
const SERVER: &str = "IP:127.0.0.1,DNS:lab.example";

pub(super) const CA: (&str, &str) = ("cacert.pem", "ca.pem");

pub(super) fn pki() -> Pki {
    let pki = Pki::new();
    pki.issue("server", "ca", 3650, SERVER);
    pki.issue("client", "ca", 3650, "DNS:client.example");
    pki
}

async fn failure(uri: &str) -> TlsFailure {
    match Libvirt::connect_with(uri, patient()).await {
        Err(Error::Tls { source, .. }) => source,
        other => panic!("{uri}: {other:?}"),
    }
}

fn assert_file(failure: &TlsFailure, name: &str, why: &str) {
    match failure {
        TlsFailure::File { file, reason } => {
            assert!(file.ends_with(name) && reason.contains(why), "{failure}");
        }
        other => panic!("{other:?}"),
    }
}

fn assert_untrusted(failure: &TlsFailure, why: &str) {
    match failure {
        TlsFailure::Untrusted { reason } => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_daemon_that_wants_certificates() {
    let pki = pki();
    pki.issue("stranger", "other", 3650, "DNS:client.example");
    pki.revoke("server");
    let port = std::cell::Cell::new(0);
    let lab = Lab::start_with(|| {
        port.set(free_addr().port());
        pki.settings(port.get(), "none")
    });
    let guest = lab.guest("one");
    let port = port.get();
    let uri = |host: &str, directory: &Path, more: &str| {
        format!(
            "qemu+tls://{host}:{port}/session?pkipath={}{more}",
            directory.display()
        )
    };
    let pair = [
        ("clientcert.pem", "client.pem"),
        ("clientkey.pem", "client.key"),
    ];
    let good = pki.directory("good", &[CA, pair[0], pair[1]]);
    let libvirt = Libvirt::connect_with(&uri("127.0.0.1", &good, ""), patient())
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(libvirt.domains().await.unwrap()[0].uuid, guest.uuid);
    libvirt.close().await.unwrap();

    // The name, and nobody asking for it.
    assert_untrusted(&failure(&uri("localhost", &good, "")).await, "localhost");
    let careless = uri("localhost", &good, "&no_verify=1");
    Libvirt::connect_with(&careless, patient()).await.unwrap();

    // Our certificate.
    let without = pki.directory("without", &[CA]);
    let failed = failure(&uri("127.0.0.1", &without, "")).await;
    assert_eq!(failed, TlsFailure::Rejected { certificate: None });
    let stranger = [
        CA,
        ("clientcert.pem", "stranger.pem"),
        ("clientkey.pem", "stranger.key"),
    ];
    let stranger = pki.directory("stranger", &stranger);
    let failed = failure(&uri("127.0.0.1", &stranger, "")).await;
    assert_file(&failed, "clientcert.pem", "not issued by our CA");
    let failed = failure(&uri("127.0.0.1", &stranger, "&no_sanity=1")).await;
    let certificate = Some(stranger.join("clientcert.pem"));
    assert_eq!(failed, TlsFailure::Rejected { certificate });

    // Theirs.
    let other = pki.directory("other", &[("cacert.pem", "other.pem")]);
    assert_untrusted(
        &failure(&uri("127.0.0.1", &other, "")).await,
        "not issued by our CA",
    );
    let revoked = pki.directory(
        "revoked",
        &[CA, pair[0], pair[1], ("cacrl.pem", "server.crl")],
    );
    assert_untrusted(&failure(&uri("127.0.0.1", &revoked, "")).await, "revoked");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn files_that_are_not_right() {
    let pki = pki();
    pki.issue("expired", "ca", -1, "DNS:client.example");
    let expired_ca = ("cacert.pem", "expired.pem");
    std::fs::write(pki.path("empty"), "").unwrap();
    let cert = |from| ("clientcert.pem", from);
    let key = |from| ("clientkey.pem", from);
    for (name, files, file, why) in [
        ("d1", &[][..], "cacert.pem", "not there"),
        (
            "d2",
            &[("cacert.pem", "empty")],
            "cacert.pem",
            "no certificate",
        ),
        ("d10", &[expired_ca], "cacert.pem", "expired"),
        (
            "d3",
            &[CA, cert("client.pem")],
            "clientkey.pem",
            "not there",
        ),
        (
            "d4",
            &[CA, key("client.key")],
            "clientcert.pem",
            "not there",
        ),
        (
            "d5",
            &[CA, cert("client.pem"), key("server.key")],
            "clientkey.pem",
            "not the key of",
        ),
        (
            "d6",
            &[CA, cert("client.pem"), key("empty")],
            "clientkey.pem",
            "private key",
        ),
        (
            "d7",
            &[CA, cert("expired.pem"), key("expired.key")],
            "clientcert.pem",
            "expired",
        ),
        (
            "d8",
            &[
                CA,
                ("cacrl.pem", "ca.pem"),
                cert("empty"),
                key("client.key"),
            ],
            "clientcert.pem",
            "no certificate",
        ),
    ] {
        let directory = pki.directory(name, files);
        // Nobody is asked before the files are right.
        let uri = format!(
            "qemu+tls://127.0.0.1:1/system?pkipath={}",
            directory.display()
        );
        assert_file(&failure(&uri).await, file, why);
    }
    let unreadable = pki.directory("d9", &[]);
    std::fs::create_dir(unreadable.join("cacert.pem")).unwrap();
    let uri = format!(
        "qemu+tls://127.0.0.1:1/system?pkipath={}",
        unreadable.display()
    );
    assert_file(&failure(&uri).await, "cacert.pem", "directory");
}

/// A TLS server with this certificate, which wants none of its client.
pub(super) async fn accept(pki: &Pki, name: &str, listener: &TcpListener) -> TlsStream<TcpStream> {
    let read = |ending: &str| std::fs::read(pki.path(&format!("{name}.{ending}"))).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&read("pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&read("key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let stream = listener.accept().await.unwrap().0;
    TlsAcceptor::from(Arc::new(config))
        .accept(stream)
        .await
        .unwrap()
}

pub(super) fn uri(addr: SocketAddr, directory: &Path) -> String {
    format!("qemu+tls://{addr}/system?pkipath={}", directory.display())
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn after_the_handshake_the_daemon_confirms() {
    let pki = pki();
    let directory = pki.directory("pki", &[CA]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = uri(listener.local_addr().unwrap(), &directory);
    let connecting = || Libvirt::connect_with(&uri, patient());

    // The byte, and then a session.
    let serve = async {
        let mut stream = accept(&pki, "server", &listener).await;
        stream.write_all(&[1]).await.unwrap();
        stream.flush().await.unwrap();
        let mut daemon = daemon_on(stream);
        daemon.handshake().await;
        daemon
    };
    let (libvirt, _daemon) = tokio::join!(connecting(), serve);
    libvirt.unwrap();

    // The end in its place, with and without good manners.
    for polite in [true, false] {
        let serve = async {
            let mut stream = accept(&pki, "server", &listener).await;
            if polite {
                stream.shutdown().await.unwrap();
            }
        };
        let (failed, ()) = tokio::join!(failure(&uri), serve);
        assert_eq!(failed, TlsFailure::Rejected { certificate: None });
    }

    // Another byte.
    let serve = async {
        let mut stream = accept(&pki, "server", &listener).await;
        stream.write_all(&[2]).await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read(&mut [0]).await;
    };
    let (failed, ()) = tokio::join!(failure(&uri), serve);
    assert!(failed.to_string().contains("0x02"), "{failed}");

    // Nothing, long after the handshake.
    let config = patient().connect_timeout(Some(Duration::from_secs(5)));
    let serve = async { accept(&pki, "server", &listener).await };
    let (result, _stream) = tokio::join!(
        async {
            let result = Libvirt::connect_with(&uri, config).await;
            result.unwrap_err()
        },
        serve
    );
    assert!(
        result.is_timeout() && result.is_unavailable(),
        "{}",
        chain(&result)
    );
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_server_that_is_out_of_date_silent_or_no_tls() {
    let pki = pki();
    pki.issue("expired", "ca", -1, SERVER);
    let directory = pki.directory("pki", &[CA]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let uri = uri(addr, &directory);
    let serve = async {
        let read = |ending: &str| std::fs::read(pki.path(&format!("expired.{ending}"))).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(&read("pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(&read("key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let stream = listener.accept().await.unwrap().0;
        // The client turns away.
        TlsAcceptor::from(Arc::new(config))
            .accept(stream)
            .await
            .unwrap_err();
    };
    let (failed, ()) = tokio::join!(failure(&uri), serve);
    assert_untrusted(&failed, "expired");

    let serve = async {
        let mut stream = listener.accept().await.unwrap().0;
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let (failed, ()) = tokio::join!(failure(&uri), serve);
    assert!(matches!(failed, TlsFailure::Handshake { .. }), "{failed}");

    // It accepts, for the system does, and says nothing.
    let config = patient().connect_timeout(Some(Duration::from_millis(500)));
    let error = Libvirt::connect_with(&uri, config).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    match error {
        Error::Connect { target, .. } => assert_eq!(target, addr.to_string()),
        other => panic!("{other:?}"),
    }
}
