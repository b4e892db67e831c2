//! Server mode: the socket is there first, and QEMU, played by the test, connects to it.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use libvirt_qmp::{Config, Error, Monitor, Phase, QmpAddress, SocketMonitor};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::time::Instant;

use crate::support::qmp_peer::QmpPeer;
use crate::support::scratch::Scratch;

const SOON: Duration = Duration::from_secs(20);

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

/// Why nobody can listen there.
async fn refused(path: &Path) -> std::sync::Arc<std::io::Error> {
    match SocketMonitor::listen(path).await.unwrap_err() {
        Error::Listen { target, source } => {
            assert_eq!(target, path.display().to_string());
            source
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn each_that_connects_is_a_monitor_of_its_own() {
    let scratch = Scratch::new();
    let path = scratch.path("listen");
    let listener = SocketMonitor::listen(&path).await.unwrap();
    assert_eq!(listener.local_addr(), &QmpAddress::from(&path));
    for _ in 0..5 {
        // It may have connected long before it is asked for.
        let qemu = UnixStream::connect(&path).await.unwrap();
        let monitor = listener.accept(Duration::ZERO).await.unwrap();
        let mut peer = QmpPeer::from_socket(qemu);
        peer.connect(&monitor).await;
        assert!(monitor.greeting().await.unwrap().offers("oob"));
        drop(monitor);
        peer.expect_end().await;
    }
    // And one that is accepted outlives the listener.
    let qemu = UnixStream::connect(&path).await.unwrap();
    let monitor = listener.accept(None).await.unwrap();
    drop(listener);
    assert!(!path.exists());
    QmpPeer::from_socket(qemu).connect(&monitor).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_coming_is_a_timeout_and_the_listener_stays() {
    let scratch = Scratch::new();
    let path = scratch.path("listen");
    let listener = SocketMonitor::listen(&path).await.unwrap();
    let started = Instant::now();
    for _ in 0..2 {
        let error = listener.accept(SOON).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Timeout {
                    phase: Phase::Accept,
                    after: SOON,
                    maybe_executed: false
                }
            ),
            "{error:?}"
        );
        assert_eq!(
            error.to_string(),
            "no answer within 20s while waiting for QEMU to connect"
        );
    }
    assert_eq!(started.elapsed(), 2 * SOON);
    let (accepted, connected) = tokio::join!(listener.accept(SOON), UnixStream::connect(&path));
    accepted.unwrap();
    connected.unwrap();
}

/// A monitor that comes of it has the listener's settings.
#[tokio::test(start_paused = true)]
async fn on_tcp_the_system_may_choose_the_port() {
    let addr: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = Config::new().connect_timeout(Some(Duration::from_secs(7)));
    let listener = SocketMonitor::listen_with_config(addr, config)
        .await
        .unwrap();
    let QmpAddress::Tcp { host, port } = listener.local_addr().clone() else {
        panic!("{listener:?}");
    };
    assert_eq!(host, "127.0.0.1");
    assert_ne!(port, 0);
    assert_eq!(
        listener.local_addr().to_string(),
        format!("tcp:127.0.0.1:{port}")
    );
    let mut qemu = TcpStream::connect((host.as_str(), port)).await.unwrap();
    let monitor = listener.accept(SOON).await.unwrap();
    let error = monitor.connect().await.unwrap_err();
    assert!(
        matches!(error, Error::Timeout { phase: Phase::Greeting, after, .. } if after == Duration::from_secs(7)),
        "{error:?}"
    );
    assert_eq!(qemu.read(&mut [0]).await.unwrap(), 0);

    // The port is taken now.
    let taken = listener.local_addr().clone();
    match SocketMonitor::listen(taken).await.unwrap_err() {
        Error::Listen { target, source } => {
            assert_eq!(target, format!("127.0.0.1:{port}"));
            assert_eq!(source.kind(), ErrorKind::AddrInUse);
        }
        other => panic!("{other:?}"),
    }
}

/// A shell that replaced QEMU's own socket left it without its monitor for good.
#[tokio::test]
async fn a_socket_that_somebody_listens_on_is_never_replaced() {
    let scratch = Scratch::new();
    let path = scratch.path("qemu");
    let qemu = UnixListener::bind(&path).unwrap();
    let error = refused(&path).await;
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(error.to_string(), "somebody else listens there");
    // It is the same one, and still found.
    let (accepted, connected) = tokio::join!(qemu.accept(), UnixStream::connect(&path));
    accepted.unwrap();
    connected.unwrap();
    // So is one whose backlog is full.
    let busy = scratch.path("busy");
    let (_qemu, _waiting) = super::dial::full(&busy).await;
    assert_eq!(refused(&busy).await.kind(), ErrorKind::AddrInUse);
    assert!(is_socket(&busy));
    // And another listener of ours.
    let ours = scratch.path("ours");
    let _listener = SocketMonitor::listen(&ours).await.unwrap();
    assert_eq!(refused(&ours).await.kind(), ErrorKind::AddrInUse);
}

/// P30: a QEMU or a listener that was killed leaves its file.
#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_replaced() {
    let scratch = Scratch::new();
    let path = scratch.path("stale");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(is_socket(&path));
    let listener = SocketMonitor::listen(&path).await.unwrap();
    let (accepted, connected) = tokio::join!(listener.accept(SOON), UnixStream::connect(&path));
    accepted.unwrap();
    connected.unwrap();
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_never_replaced() {
    let scratch = Scratch::new();
    let file = scratch.path("file");
    std::fs::write(&file, "precious").unwrap();
    let link = scratch.path("link");
    let stale = scratch.path("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    std::os::unix::fs::symlink(&stale, &link).unwrap();
    for path in [&file, &link, &scratch.dir().to_owned()] {
        let error = refused(path).await;
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("no socket"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(is_socket(&stale) && link.is_symlink());
    // Nor is a directory made.
    let missing = scratch.path("missing/listen");
    assert_eq!(refused(&missing).await.kind(), ErrorKind::NotFound);
}

/// Whoever has put a socket of their own in its place keeps it.
#[tokio::test]
async fn dropping_it_removes_its_own_file_only() {
    let scratch = Scratch::new();
    let path = scratch.path("listen");
    let listener = SocketMonitor::listen(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(is_socket(&path));
    UnixStream::connect(&path).await.unwrap();
    // One whose file is gone has nothing to remove.
    let listener = SocketMonitor::listen(scratch.path("gone")).await.unwrap();
    std::fs::remove_file(scratch.path("gone")).unwrap();
    drop(listener);
}

#[tokio::test]
async fn nobody_listens_on_a_pipe() {
    let address: QmpAddress = "pipe:/run/q".parse().unwrap();
    let error = SocketMonitor::listen(address).await.unwrap_err();
    assert!(error.is_unsupported(), "{error:?}");
}
