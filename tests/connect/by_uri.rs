//! Unix and TCP sockets by URI, and the table that says which URI is needed.

use std::error::Error as _;
use std::time::Duration;

use libvirt_qmp::{Error, Libvirt, LibvirtRpc, MonitorExt, Transport, Uri, UriError, User};
use tokio::net::{TcpListener, UnixListener};

use super::{chain, daemon_on, patient};
use crate::support::lab::Lab;
use crate::support::mock;
use crate::support::scratch::Scratch;

/// The documentation of `Libvirt`, in which the table stands.
const SOURCE: &str = include_str!("../../src/libvirt/connect.rs");

#[test]
fn which_uri_do_i_need() {
    let rows: Vec<(&str, Uri)> = SOURCE
        .lines()
        .filter_map(|line| {
            let (what, uri) = line.strip_prefix("/// | ")?.split_once(" | `")?;
            let uri = uri.strip_suffix("` |")?;
            Some((
                what,
                uri.parse().unwrap_or_else(|error| panic!("{uri}: {error}")),
            ))
        })
        .collect();
    assert_eq!(rows.len(), 11);
    // What is documented is also tried with virsh.
    let cases = super::uris::table::cases();
    for (what, uri) in &rows {
        let there =
            |case: &super::uris::table::Case| case.uri.parse().is_ok_and(|case: Uri| case == *uri);
        assert!(cases.iter().any(there), "{what}: not in fixtures/uris.txt");
    }
    let mut user = User::default();
    user.runtime_dir = Some("/run/user/1000".into());
    for (what, uri) in rows {
        let session = what.contains("this user's own");
        let opens = if session {
            "qemu:///session"
        } else {
            "qemu:///system"
        };
        assert_eq!(uri.name(), opens, "{what}");
        assert_eq!(uri.is_session(&user), session, "{what}");
        let first = |uri: &Uri| uri.sockets(&user, false).unwrap()[0].display().to_string();
        let parameters = &uri.parameters;
        match what.split([',', ' ']).next().unwrap() {
            "this" if session => assert_eq!(first(&uri), "/run/user/1000/libvirt/virtqemud-sock"),
            "this" => assert_eq!(first(&uri), "/var/run/libvirt/virtqemud-sock"),
            "a" if what.contains("socket") => assert_eq!(first(&uri), "/run/other/libvirt-sock"),
            "an" => assert_eq!(first(&uri), "@name"),
            "ssh" => {
                assert_eq!(
                    (uri.transport, uri.user.as_deref()),
                    (Transport::Ssh, Some("root"))
                );
                assert_eq!(
                    parameters.proxy.is_some(),
                    what.contains("without"),
                    "{what}"
                );
            }
            "TLS" => {
                assert_eq!(
                    (uri.transport, uri.port_or_default()),
                    (Transport::Tls, Some(16514))
                );
                assert_eq!(parameters.pkipath.is_some(), what.contains("own"), "{what}");
            }
            "plain" => {
                assert_eq!(
                    (uri.transport, uri.port_or_default()),
                    (Transport::Tcp, Some(16509))
                );
            }
            "a" => assert_eq!(
                (uri.transport, parameters.command.clone()),
                (Transport::Ext, Some("/usr/bin/my-tunnel".into()))
            ),
            _ => panic!("{what}"),
        }
    }
}

#[tokio::test]
async fn a_unix_socket_by_path_and_by_abstract_name() {
    let scratch = Scratch::new();
    let path = scratch.path("sock");
    let name = format!("libvirt-qmp-test-{}", std::process::id());
    for (listener, socket) in [
        (
            UnixListener::bind(&path).unwrap(),
            path.display().to_string(),
        ),
        (
            UnixListener::bind(format!("\0{name}")).unwrap(),
            format!("@{name}"),
        ),
    ] {
        let serve = async {
            let mut daemon = daemon_on(listener.accept().await.unwrap().0);
            let opening = daemon.handshake().await;
            (daemon, opening.open)
        };
        let uri = format!("qemu:///session?socket={socket}");
        // What the settings say is opened is not asked for where a URI says it.
        let config = patient().uri("test:///other").readonly(true);
        let (libvirt, (_daemon, open)) = tokio::join!(Libvirt::connect_with(&uri, config), serve);
        libvirt.unwrap();
        assert_eq!(open.name.as_deref(), Some("qemu:///session"));
        assert_eq!(open.flags, 1);
    }
}

#[tokio::test]
async fn tcp_by_address_and_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // The name may have an IPv6 address too, on which nobody listens.
    for host in ["127.0.0.1", "localhost"] {
        let serve = async {
            let mut daemon = daemon_on(listener.accept().await.unwrap().0);
            let opening = daemon.handshake().await;
            daemon.lookup(mock::DOMAIN).await;
            (daemon, opening.open)
        };
        let uri = format!("qemu+tcp://{host}:{port}/system?name=test:///default");
        let (monitor, (_daemon, open)) = tokio::join!(
            LibvirtRpc::connect_uri_with(&uri, mock::DOMAIN, patient()),
            serve
        );
        monitor.unwrap();
        assert_eq!(open.name.as_deref(), Some("test:///default"));
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let scratch = Scratch::new();
    let path = scratch.path("missing").display().to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    for (uri, target, kind) in [
        (
            format!("qemu:///system?socket={path}"),
            path,
            std::io::ErrorKind::NotFound,
        ),
        (
            format!("qemu+tcp://{addr}/system"),
            addr.to_string(),
            std::io::ErrorKind::ConnectionRefused,
        ),
    ] {
        match Libvirt::connect(&uri).await.unwrap_err() {
            Error::Connect {
                target: named,
                source,
            } => {
                assert_eq!((named, source.kind()), (target, kind));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_uri_that_cannot_be_is_the_source() {
    let error = Libvirt::connect("qemu:///system?pkipath=/x")
        .await
        .unwrap_err();
    let source = error.source().unwrap().downcast_ref::<UriError>().unwrap();
    assert!(matches!(source, UriError::Parameter { parameter, .. } if parameter == "pkipath"));
    assert!(matches!(error, Error::Uri(_)) && !error.maybe_executed());
    LibvirtRpc::connect_uri("nowhere", "vm").await.unwrap_err();
}

/// A daemon that accepts and says nothing has the whole of connecting, and no more.
#[tokio::test]
async fn one_deadline_covers_dialling_and_opening() {
    let scratch = Scratch::new();
    let path = scratch.path("sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let limit = Duration::from_secs(2);
    let uri = format!("qemu:///system?socket={}", path.display());
    let error = Libvirt::connect_with(&uri, patient().connect_timeout(Some(limit)))
        .await
        .unwrap_err();
    assert!(error.is_timeout() && error.is_unavailable(), "{error}");
    assert!(chain(&error).contains("authenticating"), "{error}");
}

/// A full backlog: the target is named, and so is the limit.
#[tokio::test]
async fn a_deadline_while_dialling_names_the_target() {
    let scratch = Scratch::new();
    let path = scratch.path("sock");
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let _listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::net::UnixStream::connect(&path).await {
        waiting.push(stream);
    }
    let uri = format!("qemu:///system?socket={}", path.display());
    let config = patient().connect_timeout(Some(Duration::from_millis(300)));
    let error = Libvirt::connect_with(&uri, config).await.unwrap_err();
    assert!(error.is_timeout() && error.is_unavailable(), "{error}");
    let text = chain(&error);
    assert!(
        text.contains(&path.display().to_string()) && text.contains("300ms"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_running_daemon_by_unix_and_tcp() {
    let lab = Lab::start();
    let guest = lab.guest("one");
    let tcp = format!("qemu+tcp://{}/session", lab.tcp_addr());
    for uri in [lab.client_uri(), tcp] {
        let libvirt = Libvirt::connect_with(&uri, patient()).await.unwrap();
        let domains = libvirt.domains().await.unwrap();
        assert_eq!(domains[0].uuid, guest.uuid, "{uri}");
        libvirt.close().await.unwrap();
        let monitor = LibvirtRpc::connect_uri_with(&uri, "one", patient())
            .await
            .unwrap();
        assert!(monitor.version().await.unwrap().to_string().contains('.'));
        let error = LibvirtRpc::connect_uri_with(&uri, "none", patient())
            .await
            .unwrap_err();
        assert!(error.is_not_found(), "{error}");
        // Read-only.
        let error = Libvirt::connect_with(&uri, patient().readonly(true))
            .await
            .unwrap()
            .monitor("one")
            .version()
            .await
            .unwrap_err();
        assert!(error.is_denied(), "{error}");
    }
}
