//! How a connection ends: everybody learns of it once and of the same cause, and closing never hangs.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::packet::{Header, MessageType, Packet};
use libvirt_qmp::protocol::Message;
use libvirt_qmp::protocol::remote::procedure::{ConnectClose, ConnectEventConnectionClosed};
use libvirt_qmp::{EndCause, Error, EventStream, Libvirt, LibvirtRpc, Monitor};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};

use super::support::mock::{
    DOMAIN, MockDaemon, encoded, monitor, monitor_on, pair, quiet, session, session_with_pipe,
    settle,
};
use super::{STATUS, run};

fn cause_of(error: Error) -> (Arc<EndCause>, bool) {
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
        let (its, maybe_executed) = cause_of(stream.next().await.unwrap().unwrap_err());
        assert!(Arc::ptr_eq(&its, &cause), "{its:?}");
        assert!(!maybe_executed);
        assert!(stream.next().await.is_none());
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

#[tokio::test(start_paused = true)]
async fn the_user_closes() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let running = run(&monitor, STATUS);
    daemon.command().await;
    // libvirtd closes the socket right behind its reply: that is no other cause.
    tokio::join!(libvirt.close(), daemon.close()).0.unwrap();
    let cause = libvirt.closed().await;
    assert!(matches!(*cause, EndCause::UserClosed), "{cause:?}");
    let (its, maybe_executed) = cause_of(running.await.unwrap().unwrap_err());
    assert!(Arc::ptr_eq(&its, &cause));
    assert!(maybe_executed);
    assert!(
        events.unwrap().next().await.is_none(),
        "the stream just ends"
    );
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_answers_the_close_as_well() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let serve = async {
        daemon.expect::<ConnectClose>().await;
        drop(daemon);
    };
    tokio::join!(libvirt.close(), serve).0.unwrap();
    assert!(matches!(*libvirt.closed().await, EndCause::UserClosed));
    assert!(events.unwrap().next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn closing_from_many_tasks_closes_once() {
    let (libvirt, daemon) = session(quiet()).await;
    let serving = tokio::spawn(daemon.serve());
    let closing: Vec<_> = (0..5)
        .map(|_| {
            let libvirt = libvirt.clone();
            tokio::spawn(async move { libvirt.close().await })
        })
        .collect();
    for closing in closing {
        closing.await.unwrap().unwrap();
    }
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_peer_that_is_silent() {
    for call_timeout in [Some(Duration::from_secs(60)), None] {
        let (libvirt, mut daemon) = session(quiet().call_timeout(call_timeout)).await;
        let since = Instant::now();
        libvirt.close().await.unwrap();
        assert!(since.elapsed() <= Duration::from_secs(5));
        daemon.expect::<ConnectClose>().await;
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_peer_that_does_not_read() {
    let config = quiet().call_timeout(None).max_in_flight(usize::MAX);
    let (libvirt, mut daemon) = session_with_pipe(config, 64).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let running: Vec<_> = (0..10).map(|_| run(&monitor, STATUS)).collect();
    settle().await;
    let since = Instant::now();
    libvirt.close().await.unwrap();
    assert!(since.elapsed() <= Duration::from_secs(5));
    for running in running {
        let (cause, _) = cause_of(running.await.unwrap().unwrap_err());
        assert!(matches!(*cause, EndCause::UserClosed), "{cause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn disconnecting_a_monitor_of_its_own_closes_the_session() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(0));
    let mut events = events.unwrap();
    daemon.event(0, "STOP", None).await;
    settle().await;
    let running = run(&monitor, STATUS);
    daemon.command().await;
    tokio::join!(monitor.disconnect(), daemon.close())
        .0
        .unwrap();
    let error = running.await.unwrap().unwrap_err();
    assert!(
        error.is_disconnected() && error.maybe_executed(),
        "{error:?}"
    );
    // What came before is still to be had.
    assert_eq!(events.next().await.unwrap().unwrap().name, "STOP");
    assert!(events.next().await.is_none());
    monitor.disconnect().await.unwrap();
    assert!(matches!(monitor.events().await, Err(Error::Closed)));
    assert!(matches!(
        monitor.run(STATUS.as_bytes()).await,
        Err(Error::Closed)
    ));
}

#[tokio::test(start_paused = true)]
async fn disconnecting_a_monitor_of_a_shared_session_ends_its_streams_only() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let one = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let same = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let (mine, ()) = tokio::join!(one.events(), daemon.register(0));
    let mut mine = mine.unwrap();
    let mut others: EventStream = same.events().await.unwrap();
    one.disconnect().await.unwrap();
    assert!(mine.next().await.is_none());
    daemon.event(0, "STOP", None).await;
    assert_eq!(others.next().await.unwrap().unwrap().name, "STOP");
    drop(mine);
    assert!(daemon.sent_by_now().await.is_empty());
    drop(others);
    daemon.deregister(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_under_way_when_its_monitor_is_disconnected_does_not_come_about() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let subscribing = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.events().await }
    });
    let call = daemon.registration().await;
    monitor.disconnect().await.unwrap();
    daemon.registered(&call, 3).await;
    assert!(matches!(subscribing.await.unwrap(), Err(Error::Closed)));
    daemon.deregister(3).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_connection() {
    let soon = Duration::from_millis(100);
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let mut events = events.unwrap();
    let clone = libvirt.clone();
    drop((libvirt, monitor));
    assert!(daemon.sent_by_now().await.is_empty());
    drop(clone);
    // The stream still wants its events.
    daemon.event(1, "STOP", None).await;
    assert_eq!(events.next().await.unwrap().unwrap().name, "STOP");
    let since = Instant::now();
    drop(events);
    loop {
        match timeout(soon, daemon.packet()).await {
            Ok(None) => break,
            // The deregistration may or may not get out.
            Ok(Some(_)) => {}
            Err(_) => panic!("the connection is still open"),
        }
    }
    assert!(since.elapsed() < soon);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_connection_of_a_peer_that_does_not_read() {
    let (libvirt, mut daemon) = session_with_pipe(quiet().max_in_flight(usize::MAX), 64).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let running: Vec<_> = (0..10).map(|_| run(&monitor, STATUS)).collect();
    settle().await;
    running.iter().for_each(tokio::task::JoinHandle::abort);
    drop((libvirt, monitor));
    settle().await;
    daemon.expect_cut().await;
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
