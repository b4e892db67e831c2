//! How connections end by themselves: everybody learns of it once, and of the same cause.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::packet::{Header, MessageType, Packet};
use libvirt_qmp::protocol::Message;
use libvirt_qmp::protocol::remote::procedure::ConnectEventConnectionClosed;
use libvirt_qmp::{EndCause, Error, Libvirt, LibvirtRpc, Monitor};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};

use super::support::mock::{
    DOMAIN, MockDaemon, encoded, monitor, monitor_on, pair, quiet, session, settle,
};
use super::{STATUS, item, run};

pub(crate) fn cause_of(error: Error) -> (Arc<EndCause>, bool) {
    match error {
        Error::Disconnected {
            cause,
            maybe_executed,
        } => (cause, maybe_executed),
        other => panic!("{other:?}"),
    }
}

/// `REMOTE_PROC_CONNECT_EVENT_CONNECTION_CLOSED` with this body.
fn connection_closed(body: &[u8]) -> Packet {
    type Closed = ConnectEventConnectionClosed;
    Packet {
        header: Header {
            kind: MessageType::MESSAGE,
            ..Header::call(Closed::PROGRAM, Closed::VERSION, Closed::NUMBER, 1)
        },
        payload: body.to_vec().into(),
    }
}

/// Ends a connection by `end` while calls are sent, queued and waiting for a slot and events are subscribed to, asserts
/// that all see the same cause, and returns it.
async fn all_see_one_cause(end: impl AsyncFnOnce(MockDaemon)) -> Arc<EndCause> {
    let (libvirt, mut daemon) = session(quiet().max_in_flight(2)).await;
    let one = Arc::new(monitor_on(&libvirt, &mut daemon, "one").await);
    let two = Arc::new(monitor_on(&libvirt, &mut daemon, "two").await);
    let three = Arc::new(monitor_on(&libvirt, &mut daemon, "three").await);
    let (first, ()) = tokio::join!(one.events(), daemon.register(1));
    let second = one.events().await;
    let (third, ()) = tokio::join!(two.events(), daemon.register(2));
    let sent = [run(&one, STATUS), run(&two, STATUS)];
    daemon.command().await;
    daemon.command().await;
    // One waits for its monitor, one for the connection.
    let queued = [run(&one, STATUS), run(&three, STATUS)];
    let subscribing = tokio::spawn({
        let three = three.clone();
        async move { three.events().await.map(drop) }
    });
    daemon.registration().await;
    let waiting = tokio::spawn({
        let libvirt = libvirt.clone();
        async move { libvirt.closed().await }
    });
    settle().await;

    end(daemon).await;

    let cause = waiting.await.unwrap();
    for (running, was_sent) in sent
        .into_iter()
        .map(|r| (r, true))
        .chain(queued.into_iter().map(|r| (r, false)))
    {
        let (its, maybe_executed) = cause_of(running.await.unwrap().unwrap_err());
        assert!(Arc::ptr_eq(&its, &cause), "{its:?}");
        assert_eq!(maybe_executed, was_sent);
    }
    let (its, _) = cause_of(subscribing.await.unwrap().unwrap_err());
    assert!(Arc::ptr_eq(&its, &cause), "{its:?}");
    for stream in [first, second, third] {
        let mut stream = stream.unwrap();
        let (its, maybe_executed) = cause_of(item(&mut stream).await.unwrap().unwrap_err());
        assert!(Arc::ptr_eq(&its, &cause), "{its:?}");
        assert!(!maybe_executed);
        assert!(item(&mut stream).await.is_none());
    }
    // Whoever comes later learns it too, at once.
    for error in [
        one.run(STATUS.as_bytes()).await.unwrap_err(),
        one.events().await.unwrap_err(),
        libvirt.monitor("later").connect().await.unwrap_err(),
        libvirt.domains().await.unwrap_err(),
    ] {
        assert!(error.is_disconnected());
        let (its, maybe_executed) = cause_of(error);
        assert!(Arc::ptr_eq(&its, &cause), "{its:?}");
        assert!(!maybe_executed);
    }
    // Closing what has ended is no error, and takes no time.
    let since = Instant::now();
    libvirt.close().await.unwrap();
    assert_eq!(since.elapsed(), Duration::ZERO);
    cause
}

#[tokio::test(start_paused = true)]
async fn the_peer_closes() {
    let cause = all_see_one_cause(async |daemon| drop(daemon)).await;
    assert!(matches!(*cause, EndCause::PeerClosed), "{cause:?}");
}

#[tokio::test(start_paused = true)]
async fn the_peer_closes_inside_a_packet() {
    let cause =
        all_see_one_cause(async |mut daemon: MockDaemon| daemon.raw(&[0, 0, 1]).await).await;
    assert!(matches!(*cause, EndCause::Frame(_)), "{cause:?}");
    assert!(cause.to_string().contains("3 of 4 bytes"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn the_daemon_loses_its_hypervisor() {
    for reason in [0, 3, 99] {
        let packet = connection_closed(&encoded(&reason));
        let cause = all_see_one_cause(async |mut daemon: MockDaemon| {
            daemon.send(packet).await;
            daemon.expect_eof().await;
        })
        .await;
        assert!(
            matches!(*cause, EndCause::HypervisorClosed { reason: is } if is == reason),
            "{cause:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_daemon_loses_its_hypervisor_and_does_not_say_why() {
    let (libvirt, mut daemon) = session(quiet()).await;
    daemon.send(connection_closed(&[0, 0])).await;
    daemon.expect_eof().await;
    assert!(matches!(*libvirt.closed().await, EndCause::Protocol(_)));
}

#[test]
fn a_call_ends_when_the_runtime_of_its_connection_shuts_down() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (theirs, ours) = (runtime(), runtime());
    let (monitor, mut daemon, events) = theirs.block_on(async {
        let (monitor, mut daemon) = monitor(quiet()).await;
        let (events, ()) = tokio::join!(monitor.events(), daemon.register(0));
        (Arc::new(monitor), daemon, events.unwrap())
    });
    let running = ours.spawn({
        let monitor = monitor.clone();
        async move { monitor.run(STATUS.as_bytes()).await }
    });
    ours.block_on(daemon.command());
    drop(theirs);
    ours.block_on(async {
        let patience = Duration::from_secs(20);
        let result = timeout(patience, running).await.expect("it ends").unwrap();
        let (cause, maybe_executed) = cause_of(result.unwrap_err());
        assert!(matches!(*cause, EndCause::RuntimeGone), "{cause:?}");
        assert!(maybe_executed);
        let mut events = events;
        let end = timeout(patience, events.next()).await.expect("it ends");
        let (its, _) = cause_of(end.unwrap().unwrap_err());
        assert!(Arc::ptr_eq(&its, &cause));
        let late = timeout(patience, monitor.run(STATUS.as_bytes())).await;
        let (its, maybe_executed) = cause_of(late.expect("it ends").unwrap_err());
        assert!(Arc::ptr_eq(&its, &cause));
        assert!(!maybe_executed);
        timeout(patience, monitor.disconnect())
            .await
            .expect("it ends")
            .unwrap();
    });
}

#[test]
fn connecting_ends_when_the_runtime_it_began_on_shuts_down() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (theirs, ours) = (runtime(), runtime());
    let (conn, mut daemon) = pair();
    let config = quiet().connect_timeout(None);
    let monitor = Arc::new(LibvirtRpc::with_config(DOMAIN, conn, config));
    let first = theirs.spawn({
        let monitor = monitor.clone();
        async move { monitor.connect().await }
    });
    ours.block_on(daemon.packet());
    let second = ours.spawn({
        let monitor = monitor.clone();
        async move { monitor.connect().await }
    });
    drop(theirs);
    ours.block_on(async {
        assert!(first.await.unwrap_err().is_cancelled());
        let patience = Duration::from_secs(20);
        let result = timeout(patience, second).await.expect("it ends").unwrap();
        let (cause, _) = cause_of(result.unwrap_err());
        assert!(matches!(*cause, EndCause::RuntimeGone), "{cause:?}");
    });
}

/// A stream whose writes fail, or else its reads.
struct Breaks<T> {
    stream: T,
    writes: bool,
}

impl<T: AsyncRead + Unpin> AsyncRead for Breaks<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.writes {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Breaks<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.writes {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_socket_is_the_cause() {
    for (writes, kind) in [
        (false, io::ErrorKind::ConnectionReset),
        (true, io::ErrorKind::BrokenPipe),
    ] {
        let (stream, _daemon) = pair();
        let error = Libvirt::open(Breaks { stream, writes }, quiet())
            .await
            .unwrap_err();
        match &*cause_of(error).0 {
            EndCause::Io(error) => assert_eq!(error.kind(), kind),
            other => panic!("{other:?}"),
        }
    }
}

/// A peer that sends packets of an unknown type for ever, faster than they are read.
struct Floods {
    packet: Vec<u8>,
    at: usize,
}

impl AsyncRead for Floods {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while buffer.remaining() > 0 {
            let rest = &self.packet[self.at..];
            let some = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..some]);
            self.at = (self.at + some) % self.packet.len();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Floods {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_peer_that_floods_keeps_nobody_from_giving_up() {
    let (report, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for kind in [MessageType(9), MessageType::STREAM, MessageType::MESSAGE] {
            let header = Header {
                kind,
                ..Header::call(1, 1, 1, 0)
            };
            let packet = header.prefix(0).to_vec();
            let config = quiet().connect_timeout(Some(Duration::from_millis(20)));
            let error = runtime
                .block_on(Libvirt::open(Floods { packet, at: 0 }, config))
                .unwrap_err();
            report.send(error.is_timeout()).unwrap();
        }
    });
    for _ in 0..3 {
        assert!(
            ended
                .recv_timeout(Duration::from_secs(20))
                .expect("the deadline is kept")
        );
    }
}
