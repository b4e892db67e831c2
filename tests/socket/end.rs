//! The end of a connection, from either side, and what its callers and readers are told; and callers that go away.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::{Config, EndCause, Error, Monitor, SocketMonitor};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::Instant;

use crate::support::qmp_peer::QmpPeer;
use crate::{STATUS, cause, names, numbered, run};

/// D6: qmp-rs left the readers of events waiting for ever. Everybody is told, with one cause, and what was sent and not
/// answered may have run.
#[tokio::test(start_paused = true)]
async fn everybody_is_told_of_the_end() {
    let config = Config::new().max_in_flight(3);
    let (monitor, mut peer) = QmpPeer::connected(config).await;
    let monitor = Arc::new(monitor);
    let mut streams = [
        monitor.events().await.unwrap(),
        monitor.events().await.unwrap(),
    ];
    let sent: Vec<_> = (0..3).map(|n| run(&monitor, numbered(n))).collect();
    for _ in 0..3 {
        peer.receive().await;
    }
    let waiting: Vec<_> = (3..6).map(|n| run(&monitor, numbered(n))).collect();
    peer.event("LAST").await;
    peer.expect_silence().await;
    drop(peer);
    for (calls, maybe_executed) in [(sent, true), (waiting, false)] {
        for call in calls {
            let error = call.await.unwrap().unwrap_err();
            assert!(matches!(cause(&error), EndCause::PeerClosed));
            assert_eq!(error.maybe_executed(), maybe_executed);
            assert!(error.is_disconnected());
        }
    }
    for events in &mut streams {
        assert_eq!(names(events, 1).await, ["LAST"]);
        let error = events.next().await.unwrap().unwrap_err();
        assert!(matches!(cause(&error), EndCause::PeerClosed));
        assert!(events.next().await.is_none());
    }
    // Later calls hear the same at once; a later stream too.
    let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    assert!(matches!(cause(&error), EndCause::PeerClosed));
    assert!(!error.maybe_executed());
    let mut late = monitor.events().await.unwrap();
    let error = late.next().await.unwrap().unwrap_err();
    assert!(matches!(cause(&error), EndCause::PeerClosed));
}

/// P30: SHUTDOWN, then the end, is how QEMU goes; no error for the reader of events.
#[tokio::test(start_paused = true)]
async fn the_end_after_shutdown_is_a_clean_one() {
    for (said, clean) in [
        (&["SHUTDOWN"][..], true),
        (&["STOP", "SHUTDOWN", "STOP"], true),
        (&["STOP"], false),
        // With `-no-shutdown` it stayed, was started again, and crashed later.
        (&["SHUTDOWN", "RESET", "RESUME"], false),
        (&["SHUTDOWN", "RESUME", "SHUTDOWN"], true),
    ] {
        let (monitor, mut peer) = QmpPeer::connected(Config::new()).await;
        let mut events = monitor.events().await.unwrap();
        for name in said {
            peer.event(name).await;
        }
        drop(peer);
        assert_eq!(names(&mut events, said.len()).await, said);
        match events.next().await {
            None => assert!(clean, "{said:?}"),
            Some(Err(error)) => {
                assert!(!clean, "{said:?}");
                assert!(matches!(cause(&error), EndCause::PeerClosed));
                assert!(events.next().await.is_none());
            }
            Some(Ok(event)) => panic!("{event:?}"),
        }
    }
}

/// P30: QEMU may go without answering the `quit` that it obeys. That is no success, and no certain failure either.
#[tokio::test(start_paused = true)]
async fn quit_without_a_reply_may_have_been_executed() {
    let (monitor, mut peer) = QmpPeer::connected(Config::new()).await;
    let monitor = Arc::new(monitor);
    let mut events = monitor.events().await.unwrap();
    let call = run(&monitor, r#"{"execute":"quit"}"#);
    peer.expect("quit").await;
    peer.event("SHUTDOWN").await;
    drop(peer);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(cause(&error), EndCause::PeerClosed));
    assert!(error.maybe_executed());
    assert_eq!(names(&mut events, 1).await, ["SHUTDOWN"]);
    assert!(events.next().await.is_none());
}

/// A pipe whose end reads as an error of the system, as a socket's does where the peer left input unread.
struct Resets(DuplexStream, io::ErrorKind);

impl AsyncRead for Resets {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.0).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() == before => {
                Poll::Ready(Err(this.1.into()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for Resets {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

/// P30: ECONNRESET in place of the end.
#[tokio::test(start_paused = true)]
async fn a_reset_is_an_error_unless_it_comes_after_shutdown() {
    use io::ErrorKind::{ConnectionReset, TimedOut};
    for (kind, shutdown, clean) in [
        (ConnectionReset, false, false),
        (ConnectionReset, true, true),
        (TimedOut, true, false),
    ] {
        let (client, mut peer) = QmpPeer::new();
        let monitor = Arc::new(SocketMonitor::new(Resets(client, kind)));
        let call = run(&monitor, STATUS);
        peer.shake_hands().await;
        peer.receive().await;
        if shutdown {
            peer.event("SHUTDOWN").await;
        }
        drop(peer);
        let error = call.await.unwrap().unwrap_err();
        assert!(error.maybe_executed());
        match cause(&error) {
            EndCause::Io(error) => assert_eq!(error.kind(), kind),
            other => panic!("{other:?}"),
        }
        let mut events = monitor.events().await.unwrap();
        if shutdown {
            assert_eq!(names(&mut events, 1).await, ["SHUTDOWN"]);
        }
        assert_eq!(events.next().await.is_none(), clean);
    }
}

/// D6: QEMU serves one client, so a socket that stays open locks everybody out. Not even commands that wait for their
/// reply keep it open, once their callers are gone.
#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_closes_the_socket_at_once() {
    let (monitor, mut peer) = QmpPeer::connected(Config::new()).await;
    let monitor = Arc::new(monitor);
    let call = run(&monitor, STATUS);
    peer.receive().await;
    call.abort();
    let _ = call.await;
    let started = Instant::now();
    drop(monitor);
    peer.expect_end().await;
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// Neither does a peer that does not read.
#[tokio::test(start_paused = true)]
async fn disconnecting_does_not_wait_for_a_peer_that_does_not_read() {
    let (client, mut peer) = QmpPeer::with_pipe(256);
    let monitor = Arc::new(SocketMonitor::new(client));
    let call = run(&monitor, format!(r#"{{"execute":"{}"}}"#, "x".repeat(1000)));
    peer.shake_hands().await;
    let mut events = monitor.events().await.unwrap();
    let started = Instant::now();
    monitor.disconnect().await.unwrap();
    monitor.disconnect().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(cause(&error), EndCause::UserClosed));
    assert!(events.next().await.is_none());
    for error in [
        monitor.run(STATUS.as_bytes()).await.unwrap_err(),
        monitor.connect().await.unwrap_err(),
        monitor.events().await.unwrap_err(),
        monitor.greeting().await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Closed), "{error:?}");
    }
}

/// A call may be dropped wherever it is. Then the next one finds the connection in order: qapi-rs aborted the process,
/// qmp-rs left half a command on the wire.
#[tokio::test(start_paused = true)]
async fn a_call_may_be_dropped_at_any_point() {
    // Such a narrow pipe that a command takes many writes.
    let mut most = 0;
    for polls in 0..200 {
        let (client, mut peer) = QmpPeer::with_pipe(32);
        let monitor = Arc::new(SocketMonitor::new(client));
        let server = tokio::spawn(async move {
            peer.shake_hands().await;
            loop {
                let command = peer.receive().await;
                peer.event("NOISE").await;
                peer.reply(&command, &command.command["arguments"]["n"].to_string())
                    .await;
                if command.name() == "last" {
                    return peer;
                }
            }
        });
        // In a task, so that it takes turns with the connection's and the peer's.
        let caller = monitor.clone();
        let polled = tokio::spawn(async move {
            let command = numbered(1);
            let mut call = caller.run(command.as_bytes());
            let mut polled = 0;
            poll_fn(|cx| {
                if polled == polls || call.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                polled += 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            polled
        });
        most = most.max(polled.await.unwrap());
        let reply = monitor
            .run(br#"{"execute":"last","arguments":{"n":"end"}}"#)
            .await;
        assert_eq!(reply.unwrap(), r#"{"return": "end"}"#, "{polls} polls");
        drop(server.await.unwrap());
    }
    assert!((20..200).contains(&most), "{most} polls to the end");
}

/// A runtime that shuts down takes the task along; whoever waits elsewhere is told.
#[test]
fn a_runtime_that_shuts_down_is_a_cause_too() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let (monitor, _peer) = first.block_on(QmpPeer::connected(Config::new()));
    let monitor = Arc::new(monitor);
    let mut events = first.block_on(monitor.events()).unwrap();
    let call = second.spawn({
        let monitor = monitor.clone();
        async move { monitor.run(STATUS.as_bytes()).await }
    });
    // The call is submitted, and then nobody drives the connection any more.
    second.block_on(tokio::task::yield_now());
    drop(first);
    let error = second.block_on(call).unwrap().unwrap_err();
    assert!(matches!(cause(&error), EndCause::RuntimeGone), "{error:?}");
    let error = second.block_on(events.next()).unwrap().unwrap_err();
    assert!(matches!(cause(&error), EndCause::RuntimeGone));
    let error = second.block_on(monitor.run(STATUS.as_bytes())).unwrap_err();
    assert!(matches!(cause(&error), EndCause::RuntimeGone));

    // The same before the task has run for the first time.
    let first = runtime();
    let (client, _peer) = QmpPeer::new();
    let monitor = Arc::new(SocketMonitor::new(client));
    {
        let _inside = first.enter();
        let mut connecting = monitor.connect();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(connecting.as_mut().poll(&mut cx).is_pending());
    }
    drop(first);
    let error = second.block_on(monitor.connect()).unwrap_err();
    assert!(matches!(cause(&error), EndCause::RuntimeGone), "{error:?}");
}
