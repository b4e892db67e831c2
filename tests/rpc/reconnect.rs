//! Connections that are made again after a loss (`Config::reconnect`), one rule after the other.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use libvirt_qmp::protocol::qemu::procedure::ConnectDomainMonitorEventRegister;
use libvirt_qmp::protocol::remote::procedure::{AuthPolkit, ConnectListAllDomains};
use libvirt_qmp::protocol::remote::{AuthType, ConnectListAllDomainsRet};
use libvirt_qmp::{
    Backoff, Config, ConnectionState, EndCause, Error, Event, EventStream, Libvirt, LibvirtRpc,
    Monitor, MonitorExt, Phase, StreamItem,
};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::streams::{Download, data, opening};
use super::support::mock::{self, DOMAIN, MockDaemon, domain, monitor_on, pair, quiet, settle};
use super::{STATUS, item, run};

const RUNNING: &str = r#"{"return":{"running":true}}"#;

/// A host on which a client finds a daemon, or not.
pub(super) struct Host {
    /// The daemons' ends of the connections, as they are made.
    daemons: mpsc::UnboundedReceiver<MockDaemon>,
    answers: Arc<Mutex<Answers>>,
    tries: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Answers {
    Connected,
    Refused,
    /// Nothing at all.
    Silent,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>>;

impl Host {
    /// The host, and how a client connects to it.
    fn new() -> (Self, impl Fn() -> Connecting + Send + Sync + 'static) {
        let (sender, daemons) = mpsc::unbounded_channel();
        let host = Host {
            daemons,
            answers: Arc::new(Mutex::new(Answers::Connected)),
            tries: Arc::default(),
        };
        let (answers, tries) = (host.answers.clone(), host.tries.clone());
        let connect = move || -> Connecting {
            tries.fetch_add(1, Ordering::Relaxed);
            let (answers, sender) = (*answers.lock().unwrap(), sender.clone());
            Box::pin(async move {
                match answers {
                    Answers::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
                    Answers::Silent => std::future::pending().await,
                    Answers::Connected => {
                        let (client, daemon) = pair();
                        sender.send(daemon).unwrap();
                        Ok(client)
                    }
                }
            })
        };
        (host, connect)
    }

    fn answer(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    fn tries(&self) -> usize {
        self.tries.load(Ordering::Relaxed)
    }

    /// The daemon's end of the next connection.
    async fn daemon(&mut self) -> MockDaemon {
        let next = tokio::time::timeout(mock::PATIENCE, self.daemons.recv()).await;
        next.expect("the client connects").unwrap()
    }

    /// The next connection, with the session opened.
    pub(super) async fn reopened(&mut self) -> MockDaemon {
        let mut daemon = self.daemon().await;
        daemon.handshake().await;
        daemon
    }
}

pub(super) fn lasting() -> Config {
    quiet().reconnect(Backoff::new())
}

/// A session on a host, with the daemon of its first connection.
pub(super) async fn session_with(config: Config) -> (Libvirt, Host, MockDaemon) {
    let (mut host, connect) = Host::new();
    let (libvirt, daemon) = tokio::join!(Libvirt::open_with(connect, config), host.reopened());
    (libvirt.unwrap(), host, daemon)
}

/// The same with a monitor of [`DOMAIN`].
async fn lasting_monitor() -> (Arc<LibvirtRpc>, Libvirt, Host, MockDaemon) {
    let (libvirt, host, mut daemon) = session_with(lasting()).await;
    let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    (Arc::new(monitor), libvirt, host, daemon)
}

async fn subscribe_as(
    monitor: &LibvirtRpc,
    daemon: &mut MockDaemon,
    callback_id: i32,
) -> EventStream {
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(callback_id));
    events.unwrap()
}

async fn event(events: &mut EventStream) -> Event {
    item(events).await.expect("the stream goes on").unwrap()
}

/// Takes the gap that must come next.
async fn gap(events: &mut EventStream) -> Arc<EndCause> {
    match item(events).await {
        Some(Err(error @ Error::Gap { .. })) => {
            assert!(error.leaves_stream_open() && !error.is_disconnected());
            let Error::Gap { cause } = error else {
                unreachable!()
            };
            cause
        }
        other => panic!("{other:?}"),
    }
}

async fn is_idle(events: &mut EventStream) {
    settle().await;
    let next = futures_util::StreamExt::next(events);
    assert!(mock::poll_once(pin!(next)).await.is_pending());
}

async fn until(
    state: &mut watch::Receiver<ConnectionState>,
    is: impl FnMut(&ConnectionState) -> bool,
) -> ConnectionState {
    let wait = tokio::time::timeout(mock::PATIENCE, state.wait_for(is)).await;
    wait.expect("the state is reached").unwrap().clone()
}

fn is_connected(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Connected)
}

fn is_lost(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Reconnecting { .. })
}

fn is_closed(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Closed { .. })
}

/// Waits until the client knows that its connection is lost.
pub(super) async fn lost(libvirt: &Libvirt) {
    until(&mut libvirt.state(), is_lost).await;
}

/// The cause of the end that `error` is, and whether the call may have been executed.
fn ended(error: &Error) -> (Arc<EndCause>, bool) {
    match error {
        Error::Disconnected {
            cause,
            maybe_executed,
        } => (cause.clone(), *maybe_executed),
        other => panic!("{other:?}"),
    }
}

async fn answered(result: JoinHandle<Result<bytes::Bytes, Error>>) {
    let reply = result.await.unwrap().unwrap();
    assert_eq!(reply, RUNNING.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn what_was_live_is_registered_again_before_it_is_said_to_be_connected() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 16).await;
    daemon.event(16, "A", None).await;
    assert_eq!(event(&mut events).await.name, "A");
    let mut state = libvirt.state();
    assert!(is_connected(&state.borrow_and_update()));
    drop(daemon);
    let ConnectionState::Reconnecting { cause, failed: 0 } = until(&mut state, is_lost).await
    else {
        panic!("{state:?}");
    };
    assert!(matches!(*cause, EndCause::PeerClosed));

    let mut daemon = host.reopened().await;
    let call = daemon.registration().await;
    assert_eq!(call.args.dom, Some(domain(DOMAIN)));
    assert_eq!((call.args.event.as_ref(), call.args.flags), (None, 0));
    settle().await;
    assert!(is_lost(&state.borrow()));
    assert!(matches!(*gap(&mut events).await, EndCause::PeerClosed));
    is_idle(&mut events).await;
    // Another id, as a daemon gives it.
    daemon.registered(&call, 5).await;
    until(&mut state, is_connected).await;
    daemon.event(16, "OLD", None).await;
    daemon.event(5, "B", None).await;
    assert_eq!(event(&mut events).await.name, "B");
    is_idle(&mut events).await;

    // The domain is not looked up again.
    let running = run(&monitor, STATUS);
    let call = daemon.command().await;
    assert_eq!(call.args.dom, domain(DOMAIN));
    daemon.answer(&call, RUNNING).await;
    answered(running).await;
    drop(events);
    daemon.deregister(5).await;
}

#[tokio::test(start_paused = true)]
async fn events_of_the_new_connection_come_after_the_gap() {
    let (monitor, _libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 16).await;
    daemon.event(16, "A", None).await;
    drop(daemon);
    let mut daemon = host.reopened().await;
    let call = daemon.registration().await;
    // The new id is that of the old one by chance, and its events are here before the reply.
    daemon.event(16, "B", None).await;
    daemon.event(17, "C", None).await;
    daemon.registered(&call, 16).await;
    daemon.event(16, "D", None).await;
    assert_eq!(event(&mut events).await.name, "A");
    gap(&mut events).await;
    assert_eq!(event(&mut events).await.name, "B");
    assert_eq!(event(&mut events).await.name, "D");
    is_idle(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn every_loss_has_its_gap_in_every_stream() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let other = monitor_on(&libvirt, &mut daemon, "vm-2").await;
    let mut streams = [
        subscribe_as(&monitor, &mut daemon, 1).await,
        // Shares the registration.
        monitor.events().await.unwrap(),
    ];
    let mut of_other = subscribe_as(&other, &mut daemon, 2).await;
    for round in 0..10 {
        drop(daemon);
        daemon = host.reopened().await;
        let mut ids = Vec::new();
        for id in [100 + round, 200 + round] {
            let call = daemon.registration().await;
            let dom = call.args.dom.clone().unwrap();
            daemon.registered(&call, id).await;
            ids.push((dom, id));
        }
        until(&mut libvirt.state(), is_connected).await;
        for (dom, id) in &ids {
            daemon.send(mock::event(*id, dom, "E", None)).await;
        }
        for events in streams.iter_mut().chain([&mut of_other]) {
            gap(events).await;
            event(events).await;
            is_idle(events).await;
        }
    }
    assert_eq!(host.tries(), 11);
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_by_all_is_told_to_a_reader_that_comes_late() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 1).await;
    for _ in 0..3 {
        drop(daemon);
        daemon = host.reopened().await;
        daemon.register(1).await;
        until(&mut libvirt.state(), is_connected).await;
    }
    daemon.event(1, "A", None).await;
    // Nothing was between them, so they are one.
    gap(&mut events).await;
    assert_eq!(event(&mut events).await.name, "A");
}

#[tokio::test(start_paused = true)]
async fn registrations_go_by_what_the_daemon_takes_beside_each_other() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let all = subscribe_as(&monitor, &mut daemon, 1).await;
    let (stop, ()) = tokio::join!(
        monitor.events_with(libvirt_qmp::EventOptions::new("STOP")),
        daemon.register(2)
    );
    drop(daemon);
    let mut daemon = host.reopened().await;
    let mut asked = Vec::new();
    for id in [7, 8] {
        let call = daemon.registration().await;
        daemon.registered(&call, id).await;
        asked.push((call.args.event, call.args.flags));
    }
    asked.sort();
    // A registration without a filter would be refused beside another one.
    let expected = [(Some(".*".to_owned()), 1), (Some("STOP".to_owned()), 0)];
    assert_eq!(asked, expected);
    until(&mut libvirt.state(), is_connected).await;
    drop((all, stop));
}

#[tokio::test(start_paused = true)]
async fn no_more_is_registered_at_once_than_the_daemon_reads() {
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let mut streams = Vec::new();
    for number in 0..9 {
        let monitor = monitor_on(&libvirt, &mut daemon, &format!("vm-{number}")).await;
        streams.push(subscribe_as(&monitor, &mut daemon, number).await);
    }
    drop(daemon);
    let mut daemon = host.reopened().await;
    let mut left = 9;
    while left > 0 {
        let calls = daemon.sent_by_now().await;
        assert!(calls.len() <= 4, "{}", calls.len());
        for packet in calls {
            let call = mock::call::<ConnectDomainMonitorEventRegister>(&packet);
            daemon.registered(&call, left).await;
            left -= 1;
        }
    }
    until(&mut libvirt.state(), is_connected).await;
    for events in &mut streams {
        gap(events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_fail_and_are_not_made_again() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let in_flight = run(&monitor, r#"{"execute":"system_reset"}"#);
    daemon.command().await;
    let mut waiting = Vec::new();
    for number in 0..5 {
        waiting.push(run(&monitor, format!(r#"{{"execute":"c{number}"}}"#)));
        settle().await;
    }
    drop(daemon);
    let (cause, maybe_executed) = ended(&in_flight.await.unwrap().unwrap_err());
    assert!(matches!(*cause, EndCause::PeerClosed));
    assert!(maybe_executed);
    // Those that still waited for their turn were never sent: they wait on, in their order.
    let mut daemon = host.reopened().await;
    for number in 0..5 {
        let call = daemon.command().await;
        assert_eq!(call.args.cmd, format!(r#"{{"execute":"c{number}"}}"#));
        daemon.answer(&call, RUNNING).await;
    }
    for call in waiting {
        answered(call).await;
    }
    assert!(daemon.sent_by_now().await.is_empty());
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_others_to_end_are_made_on_the_next_connection() {
    let (libvirt, mut host, mut daemon) = session_with(lasting().max_in_flight(2)).await;
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let libvirt = libvirt.clone();
            tokio::spawn(async move { libvirt.domains().await })
        })
        .collect();
    for _ in 0..2 {
        daemon.expect::<ConnectListAllDomains>().await;
    }
    settle().await;
    drop(daemon);
    let mut daemon = host.reopened().await;
    for _ in 0..4 {
        let call = daemon.expect::<ConnectListAllDomains>().await;
        let (domains, ret) = (Vec::new(), 0);
        let reply = ConnectListAllDomainsRet { domains, ret };
        daemon.reply::<ConnectListAllDomains>(&call, &reply).await;
    }
    let mut in_flight = 0;
    for call in calls {
        if let Err(error) = call.await.unwrap() {
            assert!(ended(&error).1, "{error:?}");
            in_flight += 1;
        }
    }
    assert_eq!(in_flight, 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_to_be_opened_is_opened_on_the_next_connection() {
    let (libvirt, mut host, mut daemon) = session_with(lasting().max_in_flight(1)).await;
    let busy = libvirt.clone();
    let in_flight = tokio::spawn(async move { busy.domains().await });
    daemon.expect::<ConnectListAllDomains>().await;
    let opening = opening::<Download>(&libvirt, 0);
    settle().await;
    drop(daemon);
    assert!(ended(&in_flight.await.unwrap().unwrap_err()).1);
    let mut daemon = host.reopened().await;
    let call = daemon.expect::<Download>().await;
    daemon.reply::<Download>(&call, &()).await;
    let mut stream = opening.await.unwrap().unwrap();
    daemon.send(data(&call.header, "x")).await;
    let item = stream.recv().await.unwrap();
    assert_eq!(item, Some(StreamItem::Data("x".into())));
}

/// Nobody polls the opening while its last reply comes and the connection ends.
#[tokio::test(start_paused = true)]
async fn a_session_that_is_lost_as_it_opens_is_not_given_out() {
    for config in [lasting(), quiet()] {
        let (mut host, connect) = Host::new();
        let mut opening = pin!(Libvirt::open_with(connect, config));
        let serving = tokio::spawn(async move { drop(host.reopened().await) });
        let opened = loop {
            if let Poll::Ready(opened) = mock::poll_once(opening.as_mut()).await {
                break opened;
            }
            settle().await;
        };
        assert!(serving.is_finished());
        let (cause, maybe_executed) = ended(&opened.expect_err("it has ended"));
        assert!(matches!(*cause, EndCause::PeerClosed) && !maybe_executed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_queued_for_writing_is_known_not_to_have_run() {
    let (mut host, connect) = Host::new();
    // A pipe that takes less than one call.
    let connect = move || {
        let connecting = connect();
        async move {
            let (inner, mut far) = (connecting.await?, tokio::io::duplex(64));
            let near = std::mem::replace(&mut far.0, tokio::io::duplex(1).0);
            let mut far = far.1;
            tokio::spawn(async move {
                let mut inner = inner;
                let _ =
                    tokio::io::copy_bidirectional_with_sizes(&mut far, &mut inner, 64, 64).await;
            });
            Ok::<_, io::Error>(near)
        }
    };
    let opening = Libvirt::open_with(connect, lasting());
    let (libvirt, mut daemon) = tokio::join!(opening, host.reopened());
    let libvirt = libvirt.unwrap();
    let mut monitors = Vec::new();
    for name in ["vm-1", "vm-2"] {
        monitors.push(Arc::new(monitor_on(&libvirt, &mut daemon, name).await));
    }
    // Nobody reads any more: the first call hangs half-way, and the second is behind it.
    let large = format!(
        r#"{{"execute":"x","arguments":{{"s":"{}"}}}}"#,
        "s".repeat(1 << 20)
    );
    let writing = run(&monitors[0], large);
    settle().await;
    let queued = run(&monitors[1], STATUS);
    settle().await;
    drop(daemon);
    assert!(ended(&writing.await.unwrap().unwrap_err()).1);
    assert!(!ended(&queued.await.unwrap().unwrap_err()).1);
}

#[tokio::test(start_paused = true)]
async fn calls_made_meanwhile_wait_for_the_connection() {
    let (monitor, libvirt, mut host, daemon) = lasting_monitor().await;
    host.answer(Answers::Refused);
    drop(daemon);
    lost(&libvirt).await;
    let (waiting, domains) = (run(&monitor, STATUS), libvirt.clone());
    let domains = tokio::spawn(async move { domains.domains().await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!waiting.is_finished() && !domains.is_finished());
    let failed = match &*libvirt.state().borrow() {
        ConnectionState::Reconnecting { failed, .. } => *failed,
        other => panic!("{other:?}"),
    };
    assert!(failed > 3, "{failed}");
    host.answer(Answers::Connected);
    let mut daemon = host.reopened().await;
    // Each is sent once.
    let mut calls = Vec::new();
    while calls.len() < 2 {
        calls.extend(daemon.sent_by_now().await);
    }
    assert_eq!(calls.len(), 2);
    for call in calls {
        let payload = match call.header.program == libvirt_qmp::protocol::qemu::PROGRAM {
            true => mock::answer(RUNNING),
            false => bytes::Bytes::from_static(&[0; 8]),
        };
        daemon
            .reply_raw(
                &call.header,
                libvirt_qmp::packet::MessageStatus::OK,
                payload,
            )
            .await;
    }
    answered(waiting).await;
    assert!(domains.await.unwrap().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_connection_is_within_the_calls_own_deadline() {
    let (monitor, libvirt, host, daemon) = lasting_monitor().await;
    host.answer(Answers::Silent);
    drop(daemon);
    lost(&libvirt).await;
    let start = Instant::now();
    // The second waits for its turn behind the first.
    let calls = [run(&monitor, STATUS), run(&monitor, STATUS)];
    let events = monitor.events().await;
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        let Error::Timeout {
            phase: Phase::Reconnect,
            maybe_executed: false,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
    }
    let error = events.err().unwrap();
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
    assert_eq!(start.elapsed(), Duration::from_secs(60));
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn registering_meanwhile_waits_and_has_no_gap() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut before = subscribe_as(&monitor, &mut daemon, 1).await;
    drop(daemon);
    lost(&libvirt).await;
    // One joins what is registered again, one is new, and one is given up.
    let joining = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.events().await }
    });
    let new = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            monitor
                .events_with(libvirt_qmp::EventOptions::new("STOP"))
                .await
        }
    });
    let given_up = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            monitor
                .events_with(libvirt_qmp::EventOptions::new("RESUME"))
                .await
        }
    });
    settle().await;
    given_up.abort();
    let mut daemon = host.reopened().await;
    for id in [3, 4] {
        let call = daemon.registration().await;
        assert_ne!(call.args.event.as_deref(), Some("RESUME"));
        let id = if call.args.event.as_deref() == Some("STOP") {
            4
        } else {
            id.min(3)
        };
        daemon.registered(&call, id).await;
    }
    let (mut joined, mut new) = (joining.await.unwrap().unwrap(), new.await.unwrap().unwrap());
    daemon.event(3, "A", None).await;
    daemon.event(4, "STOP", None).await;
    gap(&mut before).await;
    assert_eq!(event(&mut before).await.name, "A");
    assert_eq!(event(&mut joined).await.name, "A");
    assert_eq!(event(&mut new).await.name, "STOP");
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_dropped_meanwhile_is_not_registered_again() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let dropped = subscribe_as(&monitor, &mut daemon, 1).await;
    let (mut kept, ()) = tokio::join!(
        async {
            monitor
                .events_with(libvirt_qmp::EventOptions::new("STOP"))
                .await
                .unwrap()
        },
        daemon.register(2)
    );
    drop(daemon);
    lost(&libvirt).await;
    drop(dropped);
    let mut daemon = host.reopened().await;
    let call = daemon.registration().await;
    assert_eq!(call.args.event.as_deref(), Some("STOP"));
    daemon.registered(&call, 2).await;
    gap(&mut kept).await;
    until(&mut libvirt.state(), is_connected).await;
    assert!(daemon.sent_by_now().await.is_empty());
    // One that was being deregistered at the loss can be registered anew.
    drop(kept);
    daemon.sent_by_now().await;
    drop(daemon);
    let again = tokio::spawn(async move {
        monitor
            .events_with(libvirt_qmp::EventOptions::new("STOP"))
            .await
    });
    let mut daemon = host.reopened().await;
    daemon.register(9).await;
    let mut again = again.await.unwrap().unwrap();
    daemon.event(9, "STOP", None).await;
    assert_eq!(event(&mut again).await.name, "STOP");
}

#[tokio::test(start_paused = true)]
async fn a_refused_registration_ends_its_streams_and_no_others() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut refused = subscribe_as(&monitor, &mut daemon, 1).await;
    let (stop, ()) = tokio::join!(
        monitor.events_with(libvirt_qmp::EventOptions::new("STOP")),
        daemon.register(2)
    );
    let mut kept = stop.unwrap();
    drop(daemon);
    let mut daemon = host.reopened().await;
    for _ in 0..2 {
        let call = daemon.registration().await;
        match call.args.event.as_deref() {
            Some("STOP") => daemon.registered(&call, 2).await,
            _ => daemon.error(&call, 88, "access denied").await,
        }
    }
    until(&mut libvirt.state(), is_connected).await;
    gap(&mut refused).await;
    let error = item(&mut refused).await.unwrap().unwrap_err();
    assert!(
        error.is_denied() && !error.leaves_stream_open(),
        "{error:?}"
    );
    assert!(item(&mut refused).await.is_none());
    gap(&mut kept).await;
    daemon.event(2, "STOP", None).await;
    assert_eq!(event(&mut kept).await.name, "STOP");
    // It can be tried again by hand.
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(3));
    let mut events = events.unwrap();
    daemon.event(3, "A", None).await;
    assert_eq!(event(&mut events).await.name, "A");
}

#[tokio::test(start_paused = true)]
async fn a_loss_while_registering_is_waited_out() {
    let (monitor, _libvirt, mut host, mut daemon) = lasting_monitor().await;
    let subscribing = tokio::spawn(async move { monitor.events().await });
    daemon.registration().await;
    drop(daemon);
    let mut daemon = host.reopened().await;
    daemon.register(4).await;
    let mut events = subscribing.await.unwrap().unwrap();
    daemon.event(4, "A", None).await;
    // There was nothing to miss before it was registered.
    assert_eq!(event(&mut events).await.name, "A");
}

#[tokio::test(start_paused = true)]
async fn a_loss_in_the_middle_of_registering_again_begins_anew() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let other = monitor_on(&libvirt, &mut daemon, "vm-2").await;
    let mut first = subscribe_as(&monitor, &mut daemon, 1).await;
    let mut second = subscribe_as(&other, &mut daemon, 2).await;
    let mut state = libvirt.state();
    drop(daemon);
    // One is answered, the other is not.
    let mut daemon = host.reopened().await;
    let answered = daemon.registration().await;
    daemon.registered(&answered, 9).await;
    daemon.registration().await;
    daemon
        .send(mock::event(
            9,
            &answered.args.dom.clone().unwrap(),
            "BETWEEN",
            None,
        ))
        .await;
    settle().await;
    assert!(is_lost(&state.borrow_and_update()));
    drop(daemon);
    let mut daemon = host.reopened().await;
    for id in [3, 4] {
        let call = daemon.registration().await;
        let dom = call.args.dom.clone().unwrap();
        daemon.registered(&call, id).await;
        // Of the connection before.
        daemon.send(mock::event(9, &dom, "STALE", None)).await;
        daemon.send(mock::event(id, &dom, "A", None)).await;
    }
    let (twice, once) = match answered.args.dom == Some(domain(DOMAIN)) {
        true => (&mut first, &mut second),
        false => (&mut second, &mut first),
    };
    gap(twice).await;
    assert_eq!(event(twice).await.name, "BETWEEN");
    for events in [twice, once] {
        gap(events).await;
        assert_eq!(event(events).await.name, "A");
        is_idle(events).await;
    }
    until(&mut state, is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_while_opening_is_tried_again() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 1).await;
    drop(daemon);
    // Gone before anything; in the middle; silent; refusing to open; speaking nonsense.
    drop(host.daemon().await);
    let mut half = host.daemon().await;
    half.auth(&[AuthType::NONE]).await;
    drop(half);
    let start = Instant::now();
    let mut silent = host.daemon().await;
    silent.auth(&[AuthType::NONE]).await;
    silent.packet().await;
    silent.expect_eof().await;
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(15) && waited < Duration::from_secs(17),
        "{waited:?}"
    );
    let mut refusing = host.daemon().await;
    refusing.auth(&[AuthType::NONE]).await;
    let open = refusing
        .expect::<libvirt_qmp::protocol::remote::procedure::ConnectOpen>()
        .await;
    refusing.error(&open, 38, "not yet").await;
    refusing.expect_eof().await;
    host.daemon()
        .await
        .raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await;
    assert!(matches!(
        *libvirt.state().borrow(),
        ConnectionState::Reconnecting { failed: 4, .. }
    ));
    let mut daemon = host.reopened().await;
    daemon.register(2).await;
    gap(&mut events).await;
    is_idle(&mut events).await;
    until(&mut libvirt.state(), is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn keepalive_is_negotiated_again_and_its_end_is_a_loss() {
    let config = Config::new().reconnect(Backoff::new());
    let (mut host, connect) = Host::new();
    let opening = Libvirt::open_with(connect, config);
    let (libvirt, mut daemon) = tokio::join!(opening, host.daemon().then_open());
    let libvirt = libvirt.unwrap();
    for _ in 0..3 {
        let start = Instant::now();
        // It answers nothing any more.
        let mut pings = 0;
        while daemon.packet().await.is_some() {
            pings += 1;
        }
        assert_eq!(pings, 5);
        // Six intervals of silence, found out at the end of the next.
        assert_eq!(start.elapsed(), Duration::from_secs(35));
        daemon = host.daemon().then_open().await;
        until(&mut libvirt.state(), is_connected).await;
    }
}

/// A daemon that must be asked for keepalive.
trait ThenOpen: Future<Output = MockDaemon> + Sized {
    async fn then_open(self) -> MockDaemon {
        let mut daemon = self.await;
        let opening = daemon.handshake().await;
        assert!(opening.asked_keepalive);
        daemon
    }
}

impl<F: Future<Output = MockDaemon>> ThenOpen for F {}

#[tokio::test(start_paused = true)]
async fn a_hypervisor_that_the_daemon_lost_is_a_loss() {
    use libvirt_qmp::protocol::Message;
    use libvirt_qmp::protocol::remote::procedure::ConnectEventConnectionClosed;
    let (_monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let header = libvirt_qmp::packet::Header {
        kind: libvirt_qmp::packet::MessageType::MESSAGE,
        ..libvirt_qmp::packet::Header::call(
            ConnectEventConnectionClosed::PROGRAM,
            1,
            ConnectEventConnectionClosed::NUMBER,
            1,
        )
    };
    let payload = mock::encoded(&1i32);
    daemon
        .send(libvirt_qmp::packet::Packet { header, payload })
        .await;
    let mut state = libvirt.state();
    let lost = until(&mut state, is_lost).await;
    assert!(
        matches!(&lost, ConnectionState::Reconnecting { cause, .. } if matches!(**cause, EndCause::HypervisorClosed { reason: 1 })),
        "{lost:?}"
    );
    daemon.expect_eof().await;
    let _daemon = host.reopened().await;
    until(&mut state, is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_next_try_cannot_mend_ends_it_at_once() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 1).await;
    let mut state = libvirt.state();
    drop(daemon);
    lost(&libvirt).await;
    let waiting = run(&monitor, STATUS);
    let mut daemon = host.daemon().await;
    daemon.auth(&[AuthType::POLKIT]).await;
    let call = daemon.expect::<AuthPolkit>().await;
    daemon.error(&call, 45, "authentication failed").await;
    daemon.expect_eof().await;

    let cause = libvirt.closed().await;
    let EndCause::GaveUp {
        lost,
        tries: 1,
        last,
    } = &*cause
    else {
        panic!("{cause:?}");
    };
    assert!(matches!(**lost, EndCause::PeerClosed));
    assert!(last.is_auth_failed());
    let ConnectionState::Closed { cause: told } = until(&mut state, is_closed).await else {
        panic!();
    };
    // Everybody gets the same one.
    let (of_call, maybe_executed) = ended(&waiting.await.unwrap().unwrap_err());
    assert!(!maybe_executed);
    let of_stream = ended(&item(&mut events).await.unwrap().unwrap_err()).0;
    assert!(item(&mut events).await.is_none());
    let of_later_call = ended(&monitor.run(STATUS.as_bytes()).await.unwrap_err()).0;
    let of_later_stream = ended(&monitor.events().await.err().unwrap()).0;
    for other in [told, of_call, of_stream, of_later_call, of_later_stream] {
        assert!(Arc::ptr_eq(&cause, &other));
    }
    assert_eq!(host.tries(), 2);
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_in_time_whatever_a_try_is_doing() {
    for answers in [Answers::Refused, Answers::Silent, Answers::Connected] {
        let backoff = Backoff::new().give_up_after(Some(Duration::from_secs(20)));
        let (libvirt, mut host, daemon) = session_with(quiet().reconnect(backoff)).await;
        host.answer(answers);
        drop(daemon);
        lost(&libvirt).await;
        let start = Instant::now();
        let cause = libvirt.closed().await;
        assert!(matches!(*cause, EndCause::GaveUp { .. }), "{cause:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(20));
        // What was tried last is closed too.
        while let Ok(mut daemon) = host.daemons.try_recv() {
            daemon.expect_cut().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_users_end_ends_the_trying_at_once() {
    #[derive(Clone, Copy, Debug)]
    enum How {
        Close,
        Drop,
    }
    for how in [How::Close, How::Drop] {
        for answers in [Answers::Refused, Answers::Silent, Answers::Connected] {
            let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
            let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
            let events = subscribe_as(&monitor, &mut daemon, 1).await;
            let mut state = libvirt.state();
            host.answer(answers);
            drop(daemon);
            lost(&libvirt).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let start = Instant::now();
            match how {
                How::Close => {
                    let waiting = run(&monitor, STATUS);
                    settle().await;
                    libvirt.close().await.unwrap();
                    let error = waiting.await.unwrap().unwrap_err();
                    assert!(error.is_closed() && !error.maybe_executed(), "{error:?}");
                    let mut events = events;
                    assert!(item(&mut events).await.is_none());
                    assert!(matches!(*libvirt.closed().await, EndCause::UserClosed));
                    libvirt.close().await.unwrap();
                }
                How::Drop => drop((libvirt, monitor, events)),
            }
            until(&mut state, is_closed).await;
            assert_eq!(start.elapsed(), Duration::ZERO, "{how:?}");
            settle().await;
            let tries = host.tries();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            assert_eq!(host.tries(), tries);
            while let Ok(mut daemon) = host.daemons.try_recv() {
                daemon.expect_cut().await;
            }
            // Nothing but this test runs any more.
            assert_eq!(
                tokio::runtime::Handle::current()
                    .metrics()
                    .num_alive_tasks(),
                0
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_a_connection_that_was_made_again_tells_the_daemon() {
    let (monitor, libvirt, mut host, daemon) = lasting_monitor().await;
    drop(daemon);
    let daemon = host.reopened().await;
    let mut state = libvirt.state();
    until(&mut state, is_connected).await;
    let (closed, ()) = tokio::join!(libvirt.close(), daemon.close());
    closed.unwrap();
    assert!(is_closed(&state.borrow()));
    assert!(
        monitor
            .run(STATUS.as_bytes())
            .await
            .unwrap_err()
            .is_closed()
    );
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.tries(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_loss_while_the_user_closes_is_not_mended() {
    let (_monitor, libvirt, host, mut daemon) = lasting_monitor().await;
    let closing = tokio::spawn(async move { libvirt.close().await });
    daemon
        .expect::<libvirt_qmp::protocol::remote::procedure::ConnectClose>()
        .await;
    drop(daemon);
    closing.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.tries(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_closes_at_once_is_not_asked_all_the_time() {
    let (libvirt, mut host, daemon) = session_with(lasting()).await;
    drop(daemon);
    let daemons = async {
        loop {
            drop(host.reopened().await);
        }
    };
    let hour = tokio::time::timeout(Duration::from_secs(3600), daemons).await;
    assert!(hour.is_err());
    // 30 s at most between two, and half of it at least.
    let tries = host.tries();
    assert!((120..300).contains(&tries), "{tries}");
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_connecting_is_tried_once() {
    let (host, connect) = Host::new();
    host.answer(Answers::Refused);
    let error = Libvirt::open_with(connect, lasting()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert_eq!(host.tries(), 1);

    let (mut host, connect) = Host::new();
    let opening = tokio::spawn(Libvirt::open_with(connect, lasting()));
    drop(host.daemon().await);
    let (cause, _) = ended(&opening.await.unwrap().unwrap_err());
    assert!(matches!(*cause, EndCause::PeerClosed));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.tries(), 1);

    let (host, connect) = Host::new();
    host.answer(Answers::Silent);
    let start = Instant::now();
    let error = Libvirt::open_with(connect, lasting()).await.unwrap_err();
    assert!(error.is_timeout() && error.is_unavailable(), "{error:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn without_the_setting_a_loss_is_the_end() {
    let (libvirt, host, daemon) = session_with(quiet()).await;
    let mut state = libvirt.state();
    assert!(is_connected(&state.borrow_and_update()));
    drop(daemon);
    assert!(matches!(*libvirt.closed().await, EndCause::PeerClosed));
    assert!(is_closed(&state.borrow()));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.tries(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_handed_in_cannot_be_made_again() {
    let (conn, mut daemon) = pair();
    let error = Libvirt::open(conn, lasting()).await.unwrap_err();
    assert!(
        error.is_unsupported() && error.to_string().contains("reconnect"),
        "{error}"
    );
    daemon.expect_eof().await;
    let (conn, mut daemon) = pair();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, lasting());
    assert!(matches!(
        *monitor.state().borrow(),
        ConnectionState::Opening
    ));
    let error = monitor.connect().await.unwrap_err();
    assert!(
        error.is_unsupported() && error.to_string().contains("reconnect"),
        "{error}"
    );
    monitor.closed().await;
    daemon.expect_eof().await;
}

#[tokio::test(start_paused = true)]
async fn a_monitor_of_its_own_says_what_its_connection_does() {
    let (monitor, mut daemon) = mock::monitor(quiet()).await;
    let mut state = monitor.state();
    assert!(is_connected(&state.borrow_and_update()));
    daemon.raw(b"\0\0\0\0").await;
    let ConnectionState::Closed { cause } = until(&mut state, is_closed).await else {
        panic!();
    };
    assert!(matches!(*cause, EndCause::Frame(_)));
    assert!(Arc::ptr_eq(&cause, &monitor.closed().await));
    // One that is closed before its first use never opens.
    let (conn, _daemon) = pair();
    let monitor = LibvirtRpc::new(DOMAIN, conn);
    monitor.disconnect().await.unwrap();
    assert!(matches!(*monitor.closed().await, EndCause::UserClosed));
}

#[tokio::test(start_paused = true)]
async fn the_schema_is_asked_for_anew_after_a_loss() {
    async fn serve(daemon: &mut MockDaemon, name: &str) {
        let call = daemon.command().await;
        assert!(call.args.cmd.contains("query-qmp-schema"));
        let schema = format!(
            r#"{{"return":[{{"name":"{name}","meta-type":"command","arg-type":"0","ret-type":"0"}},{{"name":"0","meta-type":"object","members":[]}}]}}"#
        );
        daemon.answer(&call, &schema).await;
    }
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let (schema, ()) = tokio::join!(monitor.schema(), serve(&mut daemon, "old"));
    assert!(schema.unwrap().command("old").is_some());
    assert!(monitor.schema().await.unwrap().command("old").is_some());
    drop(daemon);
    let mut daemon = host.reopened().await;
    until(&mut libvirt.state(), is_connected).await;
    let (schema, ()) = tokio::join!(monitor.schema(), serve(&mut daemon, "new"));
    assert!(schema.unwrap().command("new").is_some());
    assert!(monitor.schema().await.unwrap().command("new").is_some());
}

#[tokio::test(start_paused = true)]
async fn who_watches_keeps_nothing_open() {
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let mut state = libvirt.state();
    drop(libvirt);
    daemon.expect_eof().await;
    let ConnectionState::Closed { cause } = until(&mut state, is_closed).await else {
        panic!();
    };
    assert!(matches!(*cause, EndCause::UserClosed));
    assert!(host.daemons.try_recv().is_err());
}

#[test]
fn the_end_of_the_runtime_is_the_end() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    for while_lost in [false, true] {
        let first = runtime();
        let (libvirt, mut events) = first.block_on(async {
            let (libvirt, host, mut daemon) = session_with(lasting()).await;
            let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
            let events = subscribe_as(&monitor, &mut daemon, 1).await;
            if while_lost {
                host.answer(Answers::Silent);
                drop(daemon);
                lost(&libvirt).await;
            } else {
                tokio::spawn(daemon.serve());
            }
            (libvirt, events)
        });
        drop(first);
        runtime().block_on(async {
            let error = item(&mut events).await.unwrap().unwrap_err();
            assert!(matches!(*ended(&error).0, EndCause::RuntimeGone));
            assert!(matches!(*libvirt.closed().await, EndCause::RuntimeGone));
            assert!(is_closed(&libvirt.state().borrow()));
            assert!(libvirt.domains().await.is_err());
            libvirt.close().await.unwrap();
        });
    }
}
