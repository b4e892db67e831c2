//! Connecting the socket itself.

use std::time::Duration;

use libvirt_qmp::{Config, Error, Monitor, QmpAddress, SocketMonitor};
use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};
use tokio::time::Instant;

use crate::support::scratch::Scratch;

/// P30: what a QEMU that was killed leaves behind refuses.
#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_told_with_its_name() {
    let scratch = Scratch::new();
    let stale = scratch.path("stale");
    drop(UnixListener::bind(&stale).unwrap());
    for (path, kind) in [
        (stale, std::io::ErrorKind::ConnectionRefused),
        (scratch.path("missing"), std::io::ErrorKind::NotFound),
    ] {
        match SocketMonitor::unix(&path).await.unwrap_err() {
            Error::Connect { target, source } => {
                assert_eq!(target, path.display().to_string());
                assert_eq!(source.kind(), kind);
            }
            other => panic!("{other:?}"),
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    match SocketMonitor::tcp(addr).await.unwrap_err() {
        Error::Connect { target, source } => {
            assert_eq!(target, addr.to_string());
            assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        other => panic!("{other:?}"),
    }
}

/// A listener whose backlog is full, and the connections that fill it. P28: QEMU's has room for very few.
pub(crate) async fn full(path: &std::path::Path) -> (UnixListener, Vec<UnixStream>) {
    let socket = UnixSocket::new_stream().unwrap();
    socket.bind(path).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => waiting.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                return (listener, waiting);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_is_tried_again_until_the_deadline() {
    let scratch = Scratch::new();
    let path = scratch.path("full");
    let (listener, waiting) = full(&path).await;
    let started = Instant::now();
    let error = SocketMonitor::unix(&path).await.unwrap_err();
    assert!(error.is_timeout() && !error.maybe_executed());
    match &error {
        Error::Connect { target, source } => {
            assert_eq!(*target, path.display().to_string());
            assert_eq!(source.to_string(), "no connection within 15s");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(started.elapsed(), Duration::from_secs(15));

    // Room after a while.
    let make_room = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        listener.accept().await.unwrap()
    };
    let (dialled, accepted) = tokio::join!(SocketMonitor::unix(&path), make_room);
    let monitor = dialled.unwrap();
    drop((waiting, accepted));
    monitor.disconnect().await.unwrap();
}

/// A socket whose backlog is full, and pipes that nobody has open at the other end.
#[tokio::test(start_paused = true)]
async fn connecting_has_a_deadline_of_its_own() {
    const LIMIT: Duration = Duration::from_secs(7);
    let scratch = Scratch::new();
    let path = scratch.path("full");
    let _full = full(&path).await;
    let pipe = scratch.path("pipe");
    for end in ["pipe.in", "pipe.out"] {
        let made = std::process::Command::new("mkfifo")
            .arg(scratch.path(end))
            .status();
        assert!(made.unwrap().success());
    }
    let moment = Config::new().connect_timeout(Some(Duration::from_millis(1)));
    for address in [QmpAddress::from(&path), QmpAddress::Pipe(pipe)] {
        let started = Instant::now();
        let config = moment.clone().dial_timeout(Some(LIMIT));
        let error = SocketMonitor::dial(address.clone(), config).await;
        let error = error.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        assert_eq!(started.elapsed(), LIMIT);
        let config = moment.clone().dial_timeout(None);
        let dialling = tokio::spawn(SocketMonitor::dial(address, config));
        tokio::time::sleep(10 * LIMIT).await;
        assert!(!dialling.is_finished());
        dialling.abort();
    }
}
