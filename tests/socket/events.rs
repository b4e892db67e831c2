//! Event streams: what they hold, in which order, and what becomes of a slow reader.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use libvirt_qmp::{
    Callbacks, Command, Config, Error, EventFilter, EventOptions, Monitor, Overflow, Phase,
    SocketMonitor, Timestamp, WaitExt,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::process::PATIENCE;
use crate::support::qmp_peer::{GREETING, QmpPeer, event};
use crate::{STATUS, names, run};

async fn connected(config: Config) -> (Arc<SocketMonitor>, QmpPeer) {
    let (monitor, peer) = QmpPeer::connected(config).await;
    (Arc::new(monitor), peer)
}

/// The monitor has read all that was said when it has the answer to this.
async fn catch_up(monitor: &Arc<SocketMonitor>, peer: &mut QmpPeer) {
    let call = run(monitor, STATUS);
    let command = peer.receive().await;
    peer.reply(&command, "{}").await;
    call.await.unwrap().unwrap();
}

/// P21: a command's events come before its reply, so who subscribes after the reply must not miss them. That is for the
/// first stream; a later one starts with what comes after it was made.
#[tokio::test(start_paused = true)]
async fn the_first_stream_starts_with_what_came_before_it() {
    let (monitor, mut peer) = connected(Config::new()).await;
    peer.event("A").await;
    peer.event("B").await;
    catch_up(&monitor, &mut peer).await;
    let mut first = monitor.events().await.unwrap();
    let mut second = monitor.events().await.unwrap();
    peer.event("C").await;
    assert_eq!(names(&mut first, 3).await, ["A", "B", "C"]);
    assert_eq!(names(&mut second, 1).await, ["C"]);
    drop(first);
    let mut third = monitor.events().await.unwrap();
    peer.event("D").await;
    assert_eq!(names(&mut second, 1).await, ["D"]);
    assert_eq!(names(&mut third, 1).await, ["D"]);
    assert!(third.next().now_or_never().is_none());
}

/// P22, P23, D5: qapi-rs ended the connection at an event it did not know, or at a time of -1; order is that of arrival.
#[tokio::test(start_paused = true)]
async fn events_come_as_they_are_known_or_not() {
    let (monitor, mut peer) = connected(Config::new()).await;
    let mut events = monitor.events().await.unwrap();
    for said in [
        r#"{"timestamp": {"seconds": 9, "microseconds": 999999}, "event": "TELEPATHY", "data": {"n": 18446744073709551615}}"#,
        r#"{"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}}"#,
        r#"{"data": {"return": 1, "id": "z", "error": {}}, "event": "STOP", "new": []}"#,
    ] {
        peer.send(said).await;
    }
    let first = events.next().await.unwrap().unwrap();
    assert_eq!(first.name, "TELEPATHY");
    assert_eq!(first.data.unwrap().get(), r#"{"n": 18446744073709551615}"#);
    assert_eq!(
        first.timestamp,
        Timestamp {
            seconds: 9,
            microseconds: 999_999
        }
    );
    assert!(first.domain.is_none());
    let second = events.next().await.unwrap().unwrap();
    assert_eq!(second.timestamp, Timestamp::UNKNOWN);
    assert!(second.data.is_none());
    let third = events.next().await.unwrap().unwrap();
    assert_eq!(
        third.data.unwrap().get(),
        r#"{"return": 1, "id": "z", "error": {}}"#
    );
    catch_up(&monitor, &mut peer).await;
}

/// One event that makes no sense costs that event and nothing else.
#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_decoded_takes_its_place_and_the_stream_goes_on() {
    let (monitor, mut peer) = connected(Config::new()).await;
    let mut events = monitor.events().await.unwrap();
    for said in [
        &event("A"),
        r#"{"event": 5}"#,
        r#"{"event": null, "timestamp": {"seconds": 1, "microseconds": 2}}"#,
        &event("C"),
    ] {
        peer.send(said).await;
    }
    assert_eq!(names(&mut events, 1).await, ["A"]);
    for _ in 0..2 {
        let error = events.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{error:?}");
    }
    assert_eq!(names(&mut events, 1).await, ["C"]);
    catch_up(&monitor, &mut peer).await;
}

/// D1: in go-qemu a reader of events that stopped blocked every reply. Here what it misses is counted, to the event.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_blocks_nobody_and_is_told_its_losses() {
    let (monitor, mut peer) = connected(Config::new().event_queue(10)).await;
    let mut slow = monitor.events().await.unwrap();
    let mut quick = monitor.events().await.unwrap();
    let mut seen = 0;
    for round in 0..100 {
        for n in 0..10 {
            peer.event(&format!("E{}", round * 10 + n)).await;
        }
        // Replies come through all the while.
        catch_up(&monitor, &mut peer).await;
        for name in names(&mut quick, 10).await {
            assert_eq!(name, format!("E{seen}"));
            seen += 1;
        }
    }
    match slow.next().await.unwrap() {
        Err(Error::EventsLost(lost)) => assert_eq!(lost, 990),
        other => panic!("{other:?}"),
    }
    let last: Vec<_> = (990..1000).map(|n| format!("E{n}")).collect();
    assert_eq!(names(&mut slow, 10).await, last);
    assert!(slow.next().now_or_never().is_none());
}

/// The events kept for a first stream that never comes are bounded too, in number and in bytes.
#[tokio::test(start_paused = true)]
async fn what_is_kept_for_the_first_stream_is_bounded() {
    let (monitor, mut peer) = connected(Config::new().event_queue(3)).await;
    for n in 0..20 {
        peer.event(&format!("E{n}")).await;
    }
    catch_up(&monitor, &mut peer).await;
    let mut events = monitor.events().await.unwrap();
    assert!(matches!(
        events.next().await,
        Some(Err(Error::EventsLost(17)))
    ));
    assert_eq!(names(&mut events, 3).await, ["E17", "E18", "E19"]);

    let (monitor, mut peer) = connected(Config::new()).await;
    let large = "x".repeat(20 << 20);
    for n in 0..5 {
        peer.send(&format!(
            r#"{{"event": "L{n}", "data": {{"x": "{large}"}}}}"#
        ))
        .await;
    }
    catch_up(&monitor, &mut peer).await;
    let mut events = monitor.events().await.unwrap();
    // Three times 20 MiB fit into 64 MiB.
    assert!(matches!(
        events.next().await,
        Some(Err(Error::EventsLost(2)))
    ));
    assert_eq!(names(&mut events, 3).await, ["L2", "L3", "L4"]);
}

/// A stream that is dropped takes nothing from the others, in the middle of a flood.
#[tokio::test(start_paused = true)]
async fn streams_come_and_go_during_a_flood() {
    let (monitor, mut peer) = connected(Config::new().event_queue(100_000)).await;
    let mut all = monitor.events().await.unwrap();
    let flood = async {
        for n in 0..10_000 {
            peer.event(&format!("E{n}")).await;
        }
    };
    let mut rounds = 0;
    let churn = async {
        loop {
            let mut stream = monitor.events().await.unwrap();
            let name = names(&mut stream, 1).await.remove(0);
            assert!(name.starts_with('E'));
            rounds += 1;
        }
    };
    tokio::select! {
        () = flood => {}
        () = churn => {}
    }
    assert!(rounds > 50, "{rounds}");
    let expected: Vec<_> = (0..10_000).map(|n| format!("E{n}")).collect();
    assert_eq!(names(&mut all, 10_000).await, expected);
    catch_up(&monitor, &mut peer).await;
}

/// A reader of events may use the monitor.
#[tokio::test(start_paused = true)]
async fn a_command_may_be_run_from_within_the_event_loop() {
    let (monitor, mut peer) = connected(Config::new()).await;
    let mut events = monitor.events().await.unwrap();
    let client = async {
        for _ in 0..10 {
            let event = events.next().await.unwrap().unwrap();
            let command = format!(r#"{{"execute":"on-{}"}}"#, event.name);
            monitor.run(command.as_bytes()).await.unwrap();
        }
    };
    let server = async {
        for n in 0..10 {
            peer.event(&format!("E{n}")).await;
            let command = peer.expect(&format!("on-E{n}")).await;
            peer.reply(&command, "{}").await;
        }
    };
    tokio::join!(client, server);
}

/// A stream keeps the connection open; the last handle to go closes it.
#[tokio::test(start_paused = true)]
async fn a_stream_keeps_the_connection_open() {
    let (monitor, mut peer) = connected(Config::new()).await;
    let mut events = monitor.events().await.unwrap();
    drop(monitor);
    peer.event("A").await;
    assert_eq!(names(&mut events, 1).await, ["A"]);
    peer.expect_silence().await;
    drop(events);
    peer.expect_end().await;
}

/// A stream that always has more to read, and never lets anybody else run of its own accord.
struct Flood {
    message: &'static [u8],
    /// Its end tells that the stream was closed.
    _open: oneshot::Sender<()>,
}

impl AsyncRead for Flood {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while buffer.remaining() >= self.message.len() {
            buffer.put_slice(self.message);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An endless flood of messages of any kind keeps no deadline from passing and no connection from being closed.
#[test]
fn a_flood_lets_others_run() {
    for said in [
        &br#"{"event": "STOP"}"#[..],
        br#"{"return": {}, "id": "z"}"#,
        br#"{"error": {"class": "X", "desc": ""}}"#,
        b"{}",
    ] {
        // Two threads, so that a task that never rests is found out, and not waited for.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let outcome = runtime.block_on(async {
            let config = Config::new().connect_timeout(Some(Duration::from_millis(20)));
            let (_open, closed) = oneshot::channel();
            let flood = Flood {
                message: said,
                _open,
            };
            let monitor = SocketMonitor::with_config(flood, config);
            timeout(Duration::from_secs(20), async {
                let outcome = monitor.connect().await;
                closed.await.unwrap_err();
                outcome
            })
            .await
        });
        runtime.shutdown_background();
        let error = outcome.expect("the end of the connection").unwrap_err();
        assert!(
            matches!(
                error,
                Error::Timeout {
                    phase: Phase::Greeting,
                    ..
                }
            ),
            "{error:?}"
        );
    }
}

/// What is not wanted takes no room, so it pushes nothing out.
#[tokio::test(start_paused = true)]
async fn a_filter_by_name_keeps_the_rest_out_of_the_queue() {
    let (monitor, mut peer) = connected(Config::new().event_queue(3)).await;
    // The first stream has what was kept; these have their own bounds.
    let _first = monitor.events().await.unwrap();
    let filter = EventFilter::name("A").or(EventFilter::glob("B_*"));
    let options = EventOptions::new(filter).queue(4);
    let mut wanted = monitor.events_with(options).await.unwrap();
    for n in 0..100 {
        peer.event("NOISE").await;
        match n {
            10 => peer.event("A").await,
            50 => peer.event("B_1").await,
            90 => peer.event("B_2").await,
            _ => {}
        }
    }
    // One that has no name is not hidden by a filter of names.
    peer.send(r#"{"event": 5}"#).await;
    catch_up(&monitor, &mut peer).await;
    assert_eq!(names(&mut wanted, 3).await, ["A", "B_1", "B_2"]);
    let error = wanted.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error:?}");
    assert!(wanted.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_predicate_sees_the_event_itself() {
    let (monitor, mut peer) = connected(Config::new()).await;
    let mine = EventFilter::name("JOB").when(|event| {
        event
            .data
            .as_ref()
            .is_some_and(|data| data.get().contains("mine"))
    });
    let mut events = monitor.events_with(EventOptions::new(mine)).await.unwrap();
    for (name, id) in [("JOB", "yours"), ("OTHER", "mine"), ("JOB", "mine")] {
        peer.send(&format!(
            r#"{{"event": "{name}", "data": {{"id": "{id}"}}, "timestamp": {{"seconds": 1, "microseconds": 2}}}}"#
        ))
        .await;
    }
    let event = events.next().await.unwrap().unwrap();
    assert_eq!(event.data.unwrap().get(), r#"{"id": "mine"}"#);
    catch_up(&monitor, &mut peer).await;
    assert!(events.next().now_or_never().is_none());
}

/// P21: the first stream starts with what came before it, also where it has a filter and a bound of its own.
#[tokio::test(start_paused = true)]
async fn a_first_stream_with_options_starts_with_what_came_before_it() {
    let (monitor, mut peer) = connected(Config::new()).await;
    for name in ["A", "X", "B", "X", "C"] {
        peer.event(name).await;
    }
    catch_up(&monitor, &mut peer).await;
    let options = EventOptions::new(EventFilter::any().and(EventFilter::name("X").not())).queue(2);
    let mut first = monitor.events_with(options).await.unwrap();
    assert!(matches!(
        first.next().await,
        Some(Err(Error::EventsLost(1)))
    ));
    peer.event("X").await;
    peer.event("D").await;
    assert_eq!(names(&mut first, 3).await, ["B", "C", "D"]);
    // The next one does not.
    let mut second = monitor.events().await.unwrap();
    peer.event("E").await;
    assert_eq!(names(&mut second, 1).await, ["E"]);

    // After the end they are still there, and then the end.
    let (monitor, mut peer) = connected(Config::new()).await;
    peer.event("A").await;
    peer.event("SHUTDOWN").await;
    catch_up(&monitor, &mut peer).await;
    drop(peer);
    let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    assert!(error.is_disconnected());
    let options = EventOptions::new(["SHUTDOWN"]);
    let mut events = monitor.events_with(options).await.unwrap();
    assert_eq!(names(&mut events, 1).await, ["SHUTDOWN"]);
    assert!(events.next().await.is_none());
}

/// A wait takes nothing from the first stream: neither what was kept nor what it waited for itself.
#[tokio::test(start_paused = true)]
async fn a_wait_leaves_what_is_kept_to_the_first_stream() {
    let (monitor, mut peer) = connected(Config::new()).await;
    peer.event("A").await;
    peer.event("WANTED").await;
    catch_up(&monitor, &mut peer).await;

    let wait = |monitor: &Arc<SocketMonitor>| {
        let monitor = monitor.clone();
        tokio::spawn(async move { monitor.wait_for("WANTED", PATIENCE).await })
    };
    let waiting = wait(&monitor);
    // The wait has subscribed: what was there did not end it.
    catch_up(&monitor, &mut peer).await;
    assert!(!waiting.is_finished());
    peer.event("WANTED").await;
    waiting.await.unwrap().unwrap();

    let running = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            let stop = Command::new("stop");
            monitor.run_and_wait(stop, "STOP", PATIENCE).await
        }
    });
    let command = peer.expect("stop").await;
    peer.event("STOP").await;
    peer.reply(&command, "{}").await;
    running.await.unwrap().unwrap();

    // Nor does a callback.
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let say = tell.clone();
    let handler = monitor
        .on_event("WANTED", move |item| say.send(item.unwrap().name).unwrap())
        .await
        .unwrap();
    let callbacks = Callbacks::new(monitor.clone());
    let registering = callbacks.on_event("WANTED", move |_, item| {
        tell.send(item.unwrap().name).unwrap();
    });
    let other_handler = registering.await.unwrap();
    peer.event("WANTED").await;
    for _ in 0..2 {
        assert_eq!(told.recv().await.unwrap(), "WANTED");
    }
    drop((handler, other_handler));
    // Each was called once.
    assert!(told.recv().await.is_none());

    let mut first = monitor.events().await.unwrap();
    let kept = names(&mut first, 5).await;
    assert_eq!(kept, ["A", "WANTED", "WANTED", "STOP", "WANTED"]);
    // It was the first, so this one is none.
    let mut second = monitor.events().await.unwrap();
    assert!(second.next().now_or_never().is_none());
}

/// A stream from now on that has to connect first misses nothing of the connection, and takes nothing from the first stream.
#[tokio::test(start_paused = true)]
async fn a_stream_from_now_on_has_all_of_the_connection_that_it_makes() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = Arc::new(SocketMonitor::new(client));
    let subscribing = tokio::spawn({
        let monitor = monitor.clone();
        let options = EventOptions::new(["B", "C"]).from_now();
        async move { monitor.events_with(options).await.unwrap() }
    });
    peer.send(GREETING).await;
    let command = peer.expect("qmp_capabilities").await;
    peer.event("A").await;
    peer.event("B").await;
    peer.reply(&command, "{}").await;
    peer.event("C").await;
    let mut from_now = subscribing.await.unwrap();
    assert_eq!(names(&mut from_now, 2).await, ["B", "C"]);
    let mut first = monitor.events().await.unwrap();
    assert_eq!(names(&mut first, 3).await, ["A", "B", "C"]);

    // The next one finds the connection there.
    let options = EventOptions::new(EventFilter::any()).from_now();
    assert!(options.is_from_now());
    let mut later = monitor.events_with(options).await.unwrap();
    assert!(later.next().now_or_never().is_none());
    peer.event("D").await;
    assert_eq!(names(&mut later, 1).await, ["D"]);

    // After the end there is the end.
    drop(peer);
    let options = EventOptions::new(EventFilter::any()).from_now();
    let mut last = monitor.events_with(options).await.unwrap();
    assert!(last.next().await.unwrap().unwrap_err().is_disconnected());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_does_what_its_stream_was_told() {
    let (monitor, mut peer) = connected(Config::new()).await;
    let _first = monitor.events().await.unwrap();
    let stream = |overflow| {
        let options = EventOptions::new(EventFilter::any()).queue(2);
        monitor.events_with(options.overflow(overflow))
    };
    let mut oldest = stream(Overflow::DropOldest).await.unwrap();
    let mut newest = stream(Overflow::DropNewest).await.unwrap();
    let mut end = stream(Overflow::End).await.unwrap();
    for name in ["A", "B", "C", "D"] {
        peer.event(name).await;
    }
    catch_up(&monitor, &mut peer).await;
    assert!(matches!(
        oldest.next().await,
        Some(Err(Error::EventsLost(2)))
    ));
    assert_eq!(names(&mut oldest, 2).await, ["C", "D"]);
    assert_eq!(names(&mut newest, 2).await, ["A", "B"]);
    assert!(matches!(
        newest.next().await,
        Some(Err(Error::EventsLost(2)))
    ));
    assert_eq!(names(&mut end, 2).await, ["A", "B"]);
    assert!(matches!(end.next().await, Some(Err(Error::EventsLost(_)))));
    assert!(end.next().await.is_none());
    // The connection is none the worse for it.
    peer.event("E").await;
    assert_eq!(names(&mut newest, 1).await, ["E"]);
    catch_up(&monitor, &mut peer).await;
}

/// Between what is kept and what comes nothing is lost and nothing doubled, wherever the first stream is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_stream_has_no_seam() {
    for round in 0..20 {
        let (monitor, mut peer) = connected(Config::new()).await;
        let flood = tokio::spawn(async move {
            for n in 0..500 {
                peer.event(&format!("E{n}")).await;
            }
            peer
        });
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        let options = EventOptions::new(EventFilter::glob("E*"));
        let mut events = monitor.events_with(options).await.unwrap();
        let expected: Vec<_> = (0..500).map(|n| format!("E{n}")).collect();
        assert_eq!(names(&mut events, 500).await, expected);
        flood.await.unwrap();
    }
}
