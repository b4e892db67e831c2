//! A lost connection is made again: what becomes of calls, events and the state meanwhile, and what ends the trying. The peers are
//! in memory and the clock is paused.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::{
    Backoff, Config, ConnectionState, EndCause, Error, EventFilter, EventOptions, EventStream,
    GuestAgent, Handshake, Monitor, MonitorExt, Phase, QmpAddress, RunOptions, SocketMonitor,
};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::qmp_peer::{GREETING, QmpPeer};
use crate::support::scratch::Scratch;
use crate::{STATUS, names, run};

/// Where the monitor connects: each peer of the test's is there for one connection, and waits for it.
struct Door {
    open: mpsc::UnboundedSender<io::Result<DuplexStream>>,
}

impl Door {
    /// A door, and what a monitor connects by. A try waits until the test lets it in.
    fn new() -> (Door, impl Fn() -> Entering + Send + Sync + 'static) {
        let (open, queue) = mpsc::unbounded_channel();
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        let enter = move || -> Entering {
            let queue = queue.clone();
            Box::pin(async move { queue.lock().await.recv().await.expect("the test goes on") })
        };
        (Door { open }, enter)
    }

    /// Lets the next try in.
    fn peer(&self) -> QmpPeer {
        let (client, peer) = QmpPeer::new();
        self.open.send(Ok(client)).unwrap();
        peer
    }

    /// Lets it in and does the handshake.
    async fn serve(&self) -> QmpPeer {
        let mut peer = self.peer();
        peer.shake_hands().await;
        peer
    }

    /// Refuses the next try.
    fn refuse(&self) {
        let error = io::ErrorKind::ConnectionRefused.into();
        self.open.send(Err(error)).unwrap();
    }
}

type Entering = std::pin::Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>>;

/// A monitor that reconnects, connected, and its first peer.
async fn connected(config: Config) -> (Arc<SocketMonitor>, Door, QmpPeer) {
    let (door, enter) = Door::new();
    let mut peer = door.peer();
    let monitor = SocketMonitor::open_with(enter, config).await.unwrap();
    peer.connect(&monitor).await;
    (Arc::new(monitor), door, peer)
}

fn again() -> Config {
    Config::new().reconnect(Backoff::new())
}

async fn is_connected(monitor: &SocketMonitor) {
    let connected = |state: &ConnectionState| matches!(state, ConnectionState::Connected);
    monitor.state().wait_for(connected).await.unwrap();
}

async fn is_reconnecting(monitor: &SocketMonitor, tries: u32) {
    let waiting = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { failed, .. } if *failed == tries);
    monitor.state().wait_for(waiting).await.unwrap();
}

async fn is_gap(events: &mut EventStream) {
    match events.next().await.unwrap() {
        Err(error @ Error::Gap { .. }) => assert!(error.leaves_stream_open()),
        other => panic!("{other:?}"),
    }
}

/// The state says what is so, and `Connected` only when commands can be sent.
#[tokio::test(start_paused = true)]
async fn the_state_goes_with_the_connection() {
    let (door, enter) = Door::new();
    let mut peer = door.peer();
    let monitor = Arc::new(SocketMonitor::open_with(enter, again()).await.unwrap());
    let state = monitor.state();
    assert!(matches!(*state.borrow(), ConnectionState::Opening));
    let status = run(&monitor, STATUS);
    peer.send(GREETING).await;
    let command = peer.expect("qmp_capabilities").await;
    assert!(matches!(*state.borrow(), ConnectionState::Opening));
    peer.reply(&command, "{}").await;
    let command = peer.expect("query-status").await;
    assert!(matches!(*state.borrow(), ConnectionState::Connected));
    peer.reply(&command, "1").await;
    status.await.unwrap().unwrap();

    drop(peer);
    is_reconnecting(&monitor, 0).await;
    door.refuse();
    is_reconnecting(&monitor, 1).await;
    let mut peer = door.peer();
    peer.send(GREETING).await;
    let command = peer.expect("qmp_capabilities").await;
    // Out-of-band commands are negotiated anew.
    assert_eq!(command.command["arguments"]["enable"][0], "oob");
    assert!(matches!(
        *state.borrow(),
        ConnectionState::Reconnecting { failed: 1, .. }
    ));
    peer.reply(&command, "{}").await;
    is_connected(&monitor).await;
    monitor.disconnect().await.unwrap();
    assert!(matches!(
        &*state.borrow(),
        ConnectionState::Closed { cause } if matches!(**cause, EndCause::UserClosed)
    ));
    assert!(matches!(*monitor.closed().await, EndCause::UserClosed));
    peer.expect_end().await;
}

/// Without the setting the states are said too.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_made_again_is_over() {
    let (monitor, peer) = QmpPeer::connected(Config::new()).await;
    let state = monitor.state();
    assert!(matches!(*state.borrow(), ConnectionState::Connected));
    drop(peer);
    assert!(matches!(*monitor.closed().await, EndCause::PeerClosed));
    assert!(matches!(
        &*state.borrow(),
        ConnectionState::Closed { cause } if matches!(**cause, EndCause::PeerClosed)
    ));
    // One that nobody uses is over when it is gone.
    let (client, _peer) = QmpPeer::new();
    let monitor = SocketMonitor::new(client);
    let mut state = monitor.state();
    drop(monitor);
    let closed = |state: &ConnectionState| matches!(state, ConnectionState::Closed { .. });
    state.wait_for(closed).await.unwrap();
}

/// What was sent may have run, and is not sent again. What waited for it to end was never sent, and waits on.
#[tokio::test(start_paused = true)]
async fn calls_in_flight_fail_and_none_is_sent_again() {
    let config = again().max_in_flight(1);
    let (monitor, door, mut peer) = connected(config).await;
    let sent = run(&monitor, r#"{"execute":"stop"}"#);
    peer.expect("stop").await;
    let waiting = run(&monitor, r#"{"execute":"cont"}"#);
    peer.expect_silence().await;
    drop(peer);
    let error = sent.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error:?}");
    assert!(error.maybe_executed());
    let mut peer = door.serve().await;
    let command = peer.expect("cont").await;
    peer.reply(&command, "{}").await;
    waiting.await.unwrap().unwrap();
    peer.expect_silence().await;
    let status = run(&monitor, STATUS);
    let command = peer.expect("query-status").await;
    peer.reply(&command, "1").await;
    status.await.unwrap().unwrap();
}

/// In the order they came, until the connection is there or their own time is over.
#[tokio::test(start_paused = true)]
async fn calls_made_meanwhile_wait_within_their_time() {
    let (monitor, door, peer) = connected(again().call_timeout(Some(Duration::from_secs(9)))).await;
    drop(peer);
    is_reconnecting(&monitor, 0).await;
    let started = Instant::now();
    let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Reconnect,
                maybe_executed: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(started.elapsed() >= Duration::from_secs(9));
    let own = RunOptions::new().timeout(Duration::from_secs(3));
    let started = Instant::now();
    let error = monitor.run_with(STATUS.as_bytes(), own).await.unwrap_err();
    assert!(matches!(
        error,
        Error::Timeout {
            phase: Phase::Reconnect,
            ..
        }
    ));
    assert_eq!(started.elapsed(), Duration::from_secs(3));

    let calls: Vec<_> = (0..5).map(|n| run(&monitor, crate::numbered(n))).collect();
    let connecting = monitor.connect();
    let greeting = monitor.greeting();
    let serve = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut peer = door.serve().await;
        for n in 0..5 {
            let command = peer.receive().await;
            assert_eq!(crate::number(&command), n);
            peer.reply(&command, &n.to_string()).await;
        }
        peer
    };
    let (connected, greeting, _peer) = tokio::join!(connecting, greeting, serve);
    connected.unwrap();
    assert_eq!(greeting.unwrap().version.major, 7);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn every_event_stream_has_the_gap_in_its_place_and_goes_on() {
    let (monitor, door, mut peer) = connected(again()).await;
    peer.event("KEPT").await;
    let only = EventOptions::new(EventFilter::name("NEW"));
    let mut filtered = monitor.events_with(only.from_now()).await.unwrap();
    peer.event("OLD").await;
    peer.expect_silence().await;
    drop(peer);
    is_reconnecting(&monitor, 0).await;
    // Made meanwhile, and it waits for nothing.
    let from_now = EventOptions::default().from_now();
    let mut meanwhile = monitor.events_with(from_now).await.unwrap();
    let mut peer = door.peer();
    peer.send(GREETING).await;
    let command = peer.expect("qmp_capabilities").await;
    // Before the reply even: the gap comes before it.
    peer.event("NEW").await;
    peer.reply(&command, "{}").await;
    is_connected(&monitor).await;
    peer.event("LATER").await;
    // The first stream, with what was kept.
    let mut first = monitor.events().await.unwrap();
    assert_eq!(names(&mut first, 2).await, ["KEPT", "OLD"]);
    is_gap(&mut first).await;
    assert_eq!(names(&mut first, 2).await, ["NEW", "LATER"]);
    is_gap(&mut filtered).await;
    assert_eq!(names(&mut filtered, 1).await, ["NEW"]);
    is_gap(&mut meanwhile).await;
    assert_eq!(names(&mut meanwhile, 2).await, ["NEW", "LATER"]);
}

/// It is there before anybody learns of the connection, though there is no event to tell of it.
#[tokio::test(start_paused = true)]
async fn the_gap_comes_without_an_event_and_once_for_many_tries() {
    for handshake in [Handshake::Full, Handshake::GreetingOnly, Handshake::None] {
        let (door, enter) = Door::new();
        let mut peer = door.peer();
        let config = again().handshake(handshake);
        let monitor = SocketMonitor::open_with(enter, config).await.unwrap();
        let shake = async |peer: &mut QmpPeer| match handshake {
            Handshake::Full => peer.shake_hands().await,
            Handshake::GreetingOnly => peer.send(GREETING).await,
            _ => {}
        };
        let (connected, ()) = tokio::join!(monitor.connect(), shake(&mut peer));
        connected.unwrap();
        let mut events = monitor.events().await.unwrap();
        for _ in 0..3 {
            drop(peer);
            is_reconnecting(&monitor, 0).await;
            door.refuse();
            // It goes half-way.
            if handshake != Handshake::None {
                drop(door.peer());
                is_reconnecting(&monitor, 2).await;
            }
            let nothing = events.next();
            let mut nothing = pin!(tokio::time::timeout(Duration::from_millis(1), nothing));
            nothing.as_mut().await.unwrap_err();
            peer = door.peer();
            shake(&mut peer).await;
            is_connected(&monitor).await;
            is_gap(&mut events).await;
        }
        peer.event("NEXT").await;
        assert_eq!(names(&mut events, 1).await, ["NEXT"]);
    }
}

/// P12: QEMU answers the commands of the connection before on the present one.
#[tokio::test(start_paused = true)]
async fn ids_are_never_used_again() {
    let (monitor, door, mut peer) = connected(again()).await;
    let mut ids = std::collections::HashSet::new();
    let mut last = String::new();
    for round in 0..5 {
        let call = run(&monitor, r#"{"execute":"query-status","id":7}"#);
        let command = peer.expect("query-status").await;
        assert!(ids.insert(command.id()), "{}", command.id());
        if round == 3 {
            // A handshake that comes to nothing uses one too.
            drop(peer);
            assert!(call.await.unwrap().unwrap_err().maybe_executed());
            let mut silent = door.peer();
            silent.send(GREETING).await;
            let negotiation = silent.expect("qmp_capabilities").await;
            assert!(ids.insert(negotiation.id()));
            last = negotiation.id();
            silent.expect_end().await;
        } else {
            last = command.id();
            drop(peer);
            call.await.unwrap().unwrap_err();
        }
        peer = door.peer();
        peer.send(GREETING).await;
        let command = peer.expect("qmp_capabilities").await;
        assert!(ids.insert(command.id()), "{}", command.id());
        peer.send(&format!(r#"{{"return": "stale", "id": {last}}}"#))
            .await;
        peer.expect_silence().await;
        assert!(!matches!(
            *monitor.state().borrow(),
            ConnectionState::Connected
        ));
        peer.reply(&command, "{}").await;
        is_connected(&monitor).await;
    }
    let call = run(&monitor, r#"{"execute":"query-status","id":7}"#);
    let command = peer.expect("query-status").await;
    peer.send(&format!(r#"{{"return": "stale", "id": {last}}}"#))
        .await;
    peer.reply(&command, "1").await;
    // The user's own id is the user's.
    assert_eq!(call.await.unwrap().unwrap(), r#"{"return": 1, "id": 7}"#);
}

/// Another QEMU may be there now.
#[tokio::test(start_paused = true)]
async fn what_was_known_of_qemu_is_asked_anew() {
    let (monitor, door, mut peer) = connected(again()).await;
    let asked = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.schema().await }
    });
    let schema = r#"[{"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
                     {"name": "0", "meta-type": "object", "members": []}]"#;
    let command = peer.expect("query-qmp-schema").await;
    peer.reply(&command, schema).await;
    asked.await.unwrap().unwrap();
    assert!(monitor.schema_cell().unwrap().get().is_some());
    assert_eq!(monitor.greeting().await.unwrap().version.major, 7);
    drop(peer);
    is_reconnecting(&monitor, 0).await;
    assert!(monitor.schema_cell().unwrap().get().is_none());
    let mut peer = door.peer();
    peer.send(&GREETING.replace(r#""major": 7"#, r#""major": 8"#))
        .await;
    let command = peer.expect("qmp_capabilities").await;
    peer.reply(&command, "{}").await;
    is_connected(&monitor).await;
    assert_eq!(monitor.greeting().await.unwrap().version.major, 8);
}

/// P28: the system lets a second client in, and QEMU does not greet it.
#[tokio::test(start_paused = true)]
async fn another_client_at_the_socket_is_waited_out() {
    let (monitor, door, peer) = connected(again()).await;
    drop(peer);
    is_reconnecting(&monitor, 0).await;
    for tries in 0..3 {
        let mut silent = door.peer();
        is_reconnecting(&monitor, tries + 1).await;
        silent.expect_end().await;
    }
    let _peer = door.serve().await;
    is_connected(&monitor).await;
}

/// A peer that breaks the protocol is lost like one that closes.
#[tokio::test(start_paused = true)]
async fn nonsense_is_a_loss_too() {
    let (monitor, door, mut peer) = connected(again()).await;
    let mut events = monitor.events().await.unwrap();
    peer.send("nonsense").await;
    let _peer = door.serve().await;
    is_connected(&monitor).await;
    match events.next().await.unwrap() {
        Err(Error::Gap { cause }) => assert!(matches!(*cause, EndCause::Protocol(_)), "{cause}"),
        other => panic!("{other:?}"),
    }
}

/// A guest that ends is a loss like any other; who is not there for long enough is given up.
#[tokio::test(start_paused = true)]
async fn giving_up_ends_everything_with_the_reason() {
    let backoff = Backoff::new().give_up_after(Some(Duration::from_secs(60)));
    let (monitor, door, mut peer) = connected(Config::new().reconnect(backoff)).await;
    let mut events = monitor.events().await.unwrap();
    peer.event("SHUTDOWN").await;
    drop(peer);
    let _peer = door.serve().await;
    assert_eq!(names(&mut events, 1).await, ["SHUTDOWN"]);
    is_gap(&mut events).await;
    drop(_peer);
    is_reconnecting(&monitor, 0).await;
    let started = Instant::now();
    door.refuse();
    let waiting = run(&monitor, STATUS);
    let gave_up = monitor.closed().await;
    assert_eq!(started.elapsed(), Duration::from_secs(60));
    match &*gave_up {
        EndCause::GaveUp { lost, last, .. } => {
            assert!(matches!(**lost, EndCause::PeerClosed), "{lost}");
            assert!(matches!(**last, Error::Connect { .. }), "{last}");
        }
        other => panic!("{other:?}"),
    }
    let later = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    for error in [waiting.await.unwrap().unwrap_err(), later] {
        assert!(!error.maybe_executed());
        assert!(matches!(crate::cause(&error), EndCause::GaveUp { .. }));
    }
    match events.next().await.unwrap() {
        Err(error) => assert!(matches!(crate::cause(&error), EndCause::GaveUp { .. })),
        other => panic!("{other:?}"),
    }
    assert!(events.next().await.is_none());
    monitor.disconnect().await.unwrap();
}

/// At whatever point of a try, and nothing is left that could try once more.
#[tokio::test(start_paused = true)]
async fn disconnecting_or_dropping_ends_the_trying_at_once() {
    for drops in [false, true] {
        for point in 0..3 {
            let (monitor, door, peer) = connected(again()).await;
            let mut events = monitor.events().await.unwrap();
            let mut state = monitor.state();
            drop(peer);
            is_reconnecting(&monitor, 0).await;
            let mut trying = (point > 0).then(|| door.peer());
            if let Some(peer) = trying.as_mut().filter(|_| point == 2) {
                peer.send(GREETING).await;
                peer.expect("qmp_capabilities").await;
            }
            let started = Instant::now();
            if drops {
                drop(events);
                drop(monitor);
            } else {
                let waiting = run(&monitor, STATUS);
                tokio::task::yield_now().await;
                monitor.disconnect().await.unwrap();
                assert!(waiting.await.unwrap().unwrap_err().is_disconnected());
                assert!(events.next().await.is_none());
                assert!(matches!(
                    monitor.run(STATUS.as_bytes()).await.unwrap_err(),
                    Error::Closed
                ));
                drop((monitor, events));
            }
            let closed = |state: &ConnectionState| matches!(state, ConnectionState::Closed { .. });
            state.wait_for(closed).await.unwrap();
            assert_eq!(started.elapsed(), Duration::ZERO);
            if let Some(mut peer) = trying.filter(|_| point == 2) {
                peer.expect_end().await;
            }
            // The function that connects is gone, and whoever held it.
            tokio::time::timeout(Duration::from_secs(1), door.open.closed())
                .await
                .unwrap();
            let tasks = tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks();
            assert_eq!(tasks, 0, "{drops} {point}");
        }
    }
}

/// An event stream alone keeps it, as it does the connection.
#[tokio::test(start_paused = true)]
async fn a_stream_keeps_a_connection_that_is_made_again() {
    let (monitor, door, peer) = connected(again()).await;
    let mut events = monitor.events().await.unwrap();
    drop(monitor);
    drop(peer);
    let mut peer = door.serve().await;
    is_gap(&mut events).await;
    peer.event("NEXT").await;
    assert_eq!(names(&mut events, 1).await, ["NEXT"]);
    drop(events);
    peer.expect_end().await;
}

/// The first connection is tried once.
#[tokio::test(start_paused = true)]
async fn the_first_failure_stays() {
    let (door, enter) = Door::new();
    door.refuse();
    let error = SocketMonitor::open_with(enter, again()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    let (door, enter) = Door::new();
    let peer = door.peer();
    let monitor = SocketMonitor::open_with(enter, again()).await.unwrap();
    drop(peer);
    for _ in 0..2 {
        let error = monitor.connect().await.unwrap_err();
        assert!(matches!(crate::cause(&error), EndCause::PeerClosed));
    }
    assert!(matches!(*monitor.closed().await, EndCause::PeerClosed));
}

/// Who watches a monitor learns what ended its first handshake: its user, or the runtime.
#[test]
fn the_end_of_the_runtime_while_connecting_is_the_cause() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    for by_user in [false, true] {
        for config in [Config::new(), again()] {
            let first = runtime();
            let (monitor, mut peer) = first.block_on(async {
                let (door, enter) = Door::new();
                let mut peer = door.peer();
                let monitor = SocketMonitor::open_with(enter, config).await.unwrap();
                let monitor = Arc::new(monitor);
                run(&monitor, STATUS);
                peer.send(GREETING).await;
                peer.expect("qmp_capabilities").await;
                (monitor, peer)
            });
            let mut state = monitor.state();
            assert!(matches!(*state.borrow(), ConnectionState::Opening));
            if by_user {
                first.block_on(async {
                    monitor.disconnect().await.unwrap();
                    peer.expect_end().await;
                });
            }
            drop(first);
            runtime().block_on(async {
                let closed =
                    |state: &ConnectionState| matches!(state, ConnectionState::Closed { .. });
                state.wait_for(closed).await.unwrap();
                let cause = monitor.closed().await;
                let expected = match by_user {
                    true => matches!(*cause, EndCause::UserClosed),
                    false => matches!(*cause, EndCause::RuntimeGone),
                };
                assert!(expected, "{by_user}: {cause:?}");
            });
        }
    }
}

/// A monitor that is dropped in the handshake was ended by its user.
#[tokio::test]
async fn a_monitor_that_is_dropped_while_connecting_was_closed_by_its_user() {
    let (door, enter) = Door::new();
    let mut peer = door.peer();
    let monitor = Arc::new(SocketMonitor::open_with(enter, again()).await.unwrap());
    let mut state = monitor.state();
    let call = run(&monitor, STATUS);
    peer.send(GREETING).await;
    peer.expect("qmp_capabilities").await;
    call.abort();
    let _ = call.await;
    drop(monitor);
    let closed = |state: &ConnectionState| matches!(state, ConnectionState::Closed { .. });
    let ConnectionState::Closed { cause } = state.wait_for(closed).await.unwrap().clone() else {
        unreachable!()
    };
    assert!(matches!(*cause, EndCause::UserClosed), "{cause:?}");
}

/// A peer that lets everybody in and closes at once is not asked all the time.
#[tokio::test(start_paused = true)]
async fn one_that_closes_at_once_is_asked_less_and_less() {
    let (monitor, door, peer) = connected(again()).await;
    let started = Instant::now();
    drop(peer);
    for _ in 0..12 {
        drop(door.serve().await);
    }
    assert!(started.elapsed() > Duration::from_secs(60));
    drop(monitor);
}

#[tokio::test]
async fn where_nobody_can_connect_again_it_is_refused() {
    let (client, _peer) = QmpPeer::new();
    let over_a_stream = SocketMonitor::with_config(client, again());
    let (client, _other) = tokio::net::UnixStream::pair().unwrap();
    let fd = client.into_std().unwrap().into();
    let child = tokio::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (client, _agent) = tokio::io::duplex(64);
    let agent = GuestAgent::with_config(client, again());
    let scratch = Scratch::new();
    let pipe = QmpAddress::Pipe(scratch.path("pipe"));
    for (what, error) in [
        ("a stream", over_a_stream.connect().await.unwrap_err()),
        (
            "a descriptor",
            SocketMonitor::from_fd_with_config(fd, again()).unwrap_err(),
        ),
        (
            "a child",
            SocketMonitor::stdio_with_config(child, again()).unwrap_err(),
        ),
        (
            "named pipes",
            SocketMonitor::dial(pipe, again()).await.unwrap_err(),
        ),
        (
            "a listener",
            SocketMonitor::listen_with_config(scratch.path("sock"), again())
                .await
                .unwrap_err(),
        ),
        ("the guest agent", agent.ping().await.unwrap_err()),
    ] {
        assert!(error.is_unsupported(), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.to_string().contains("Config::reconnect"), "{error}");
    }
    assert!(matches!(
        *over_a_stream.closed().await,
        EndCause::UserClosed
    ));
}
