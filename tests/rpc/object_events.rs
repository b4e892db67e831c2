//! Events of libvirt's own objects: how they are registered for with daemons new and old, shared, kept apart and read.

use std::fmt::Debug;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use libvirt_qmp::events::*;
use libvirt_qmp::packet::{Header, MessageType, Packet};
use libvirt_qmp::protocol::Message;
use libvirt_qmp::protocol::remote as wire;
use libvirt_qmp::protocol::remote::procedure::*;
use libvirt_qmp::xdr::Writer;
use libvirt_qmp::{Error, Libvirt, Network, NodeDevice, Overflow, Secret, StoragePool};
use tokio::task::JoinHandle;
use uuid::Uuid;
use xdr_codec::Pack;

use super::reconnect::{lasting, session_with};
use super::support::mock::{
    self, MockDaemon, PATIENCE, bytes_of, domain, encoded, monitor_on, quiet, session, settle,
};

type Register = ConnectDomainEventCallbackRegisterAny;
type Deregister = ConnectDomainEventCallbackDeregisterAny;
type RegisterPlain = ConnectDomainEventRegisterAny;
type DeregisterPlain = ConnectDomainEventDeregisterAny;

const CALLBACK_IDS: i32 = 14;

/// The message `M` with this body.
pub(super) fn message<M: Message>(body: &impl Pack<Writer>) -> Packet {
    message_of(M::NUMBER, encoded(body))
}

/// A message of the remote program with this number, whatever it carries.
fn message_of(procedure: i32, payload: Bytes) -> Packet {
    let header = Header {
        kind: MessageType::MESSAGE,
        ..Header::call(wire::PROGRAM, 1, procedure, 1)
    };
    Packet { header, payload }
}

fn lifecycle(name: &str, event: i32, detail: i32) -> wire::DomainEventLifecycleMsg {
    wire::DomainEventLifecycleMsg {
        dom: domain(name),
        event: DomainEventType(event),
        detail,
    }
}

/// A lifecycle event of the domain `name` under `callback_id`.
fn changed(callback_id: i32, name: &str, event: i32, detail: i32) -> Packet {
    let msg = lifecycle(name, event, detail);
    message::<DomainEventCallbackLifecycle>(&wire::DomainEventCallbackLifecycleMsg {
        callback_id,
        msg,
    })
}

fn rebooted(callback_id: i32, name: &str) -> Packet {
    let msg = wire::DomainEventRebootMsg { dom: domain(name) };
    message::<DomainEventCallbackReboot>(&wire::DomainEventCallbackRebootMsg { callback_id, msg })
}

fn only<const N: usize>(ids: [DomainEventId; N]) -> DomainEventFilter {
    DomainEventFilter::all().only(ids)
}

fn subscribe(
    libvirt: &Libvirt,
    filter: DomainEventFilter,
) -> JoinHandle<Result<DomainEvents, Error>> {
    let libvirt = libvirt.clone();
    tokio::spawn(async move { libvirt.domain_events(filter).await })
}

/// Expects a registration for `event` of all domains or of the one called `dom`, and grants it.
async fn register(daemon: &mut MockDaemon, event: DomainEventId, dom: Option<&str>, id: i32) {
    let call = daemon.expect::<Register>().await;
    assert_eq!(call.args.event_id, event);
    assert_eq!(call.args.dom, dom.map(domain));
    let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: id };
    daemon.reply::<Register>(&call, &reply).await;
}

async fn deregister(daemon: &mut MockDaemon, id: i32) {
    let call = daemon.expect::<Deregister>().await;
    assert_eq!(call.args.callback_id, id);
    daemon.reply::<Deregister>(&call, &()).await;
}

/// A stream of lifecycle events of all domains, registered as `id`.
async fn lifecycle_stream(libvirt: &Libvirt, daemon: &mut MockDaemon, id: i32) -> DomainEvents {
    let subscribing = subscribe(libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, true).await;
    register(daemon, DomainEventId::LIFECYCLE, None, id).await;
    subscribing.await.unwrap().unwrap()
}

/// A stream of all events, each kind registered under the id that `id` gives.
pub(super) async fn register_all(
    libvirt: &Libvirt,
    daemon: &mut MockDaemon,
    id: impl Fn(i32) -> i32,
) -> DomainEvents {
    let subscribing = subscribe(libvirt, DomainEventFilter::all());
    daemon.feature(CALLBACK_IDS, true).await;
    for event in 0..30 {
        register(daemon, DomainEventId(event), None, id(event)).await;
    }
    subscribing.await.unwrap().unwrap()
}

/// The same from a daemon without callback ids.
pub(super) async fn register_all_plain(libvirt: &Libvirt, daemon: &mut MockDaemon) -> DomainEvents {
    let subscribing = subscribe(libvirt, DomainEventFilter::all());
    daemon.feature(CALLBACK_IDS, false).await;
    for event in 0..16 {
        let call = daemon.expect::<RegisterPlain>().await;
        assert_eq!(call.args.event_id, DomainEventId(event));
        daemon.reply::<RegisterPlain>(&call, &()).await;
    }
    subscribing.await.unwrap().unwrap()
}

pub(super) async fn item<S: Stream + Unpin>(events: &mut S) -> Option<S::Item> {
    let next = tokio::time::timeout(PATIENCE, events.next()).await;
    next.expect("the stream says something")
}

pub(super) async fn next<T, S: Stream<Item = Result<T, Error>> + Unpin>(events: &mut S) -> T {
    item(events).await.expect("the stream goes on").unwrap()
}

/// Asserts that nothing waits in `events`.
async fn is_idle<T: Debug, S: Stream<Item = T> + Unpin>(events: &mut S) {
    settle().await;
    let waits = mock::poll_once(std::pin::pin!(events.next())).await;
    assert!(waits.is_pending(), "{waits:?}");
}

fn change(event: &DomainEvent) -> (&str, DomainLifecycle) {
    match event {
        DomainEvent::Lifecycle { domain, change, .. } => (&domain.name, *change),
        other => panic!("{other:?}"),
    }
}

fn stopped(detail: i32) -> DomainLifecycle {
    DomainLifecycle::Stopped(DomainEventStoppedDetailType(detail))
}

#[tokio::test(start_paused = true)]
async fn events_of_domains_are_registered_by_kind_and_end_with_the_stream() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let ids = [DomainEventId::REBOOT, DomainEventId::LIFECYCLE];
    // Asked for twice, registered once.
    let filter = DomainEventFilter::all().only(ids.into_iter().chain(ids));
    let subscribing = subscribe(&libvirt, filter);
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId::REBOOT, None, 0).await;
    settle().await;
    assert!(!subscribing.is_finished());
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 7).await;
    let mut events = subscribing.await.unwrap().unwrap();
    daemon.send(changed(7, "a", 5, 1)).await;
    daemon.send(rebooted(0, "b")).await;
    // Nobody's: another id, and another kind's.
    daemon.send(changed(0, "x", 5, 1)).await;
    daemon.send(rebooted(7, "x")).await;
    daemon.send(changed(7, "c", 2, 0)).await;
    let event = next(&mut events).await;
    assert_eq!(change(&event), ("a", stopped(1)));
    assert_eq!(event.domain(), Some(&domain("a")));
    assert_eq!(
        next(&mut events).await,
        DomainEvent::Reboot {
            domain: domain("b")
        }
    );
    let booted = DomainLifecycle::Started(DomainEventStartedDetailType::BOOTED);
    assert_eq!(change(&next(&mut events).await), ("c", booted));
    is_idle(&mut events).await;
    drop(events);
    deregister(&mut daemon, 0).await;
    deregister(&mut daemon, 7).await;
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_events_are_those_that_the_daemon_knows() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(&libvirt, DomainEventFilter::all());
    daemon.feature(CALLBACK_IDS, true).await;
    // libvirt 9.0 knows those up to 26.
    for event in 0..=29 {
        let call = daemon.expect::<Register>().await;
        assert_eq!(call.args.event_id, DomainEventId(event));
        if event > 26 {
            daemon.error(&call, 1, "unsupported event ID").await;
        } else {
            let reply = wire::ConnectDomainEventCallbackRegisterAnyRet {
                callback_id: 100 + event,
            };
            daemon.reply::<Register>(&call, &reply).await;
        }
    }
    let mut events = subscribing.await.unwrap().unwrap();
    // What was refused is nothing to the stream.
    is_idle(&mut events).await;
    daemon.send(changed(100, "a", 5, 0)).await;
    assert_eq!(change(&next(&mut events).await).0, "a");
    drop(events);
    for event in 0..=26 {
        deregister(&mut daemon, 100 + event).await;
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_refused_takes_the_others_back() {
    let (libvirt, mut daemon) = session(quiet()).await;
    // One that every daemon knows, among all of them; and one that was asked for, whatever it is.
    for (filter, granted, code) in [
        (DomainEventFilter::all(), 3, 1),
        (DomainEventFilter::all(), 20, 29),
        (
            only([DomainEventId::LIFECYCLE, DomainEventId::NIC_MAC_CHANGE]),
            1,
            1,
        ),
    ] {
        let subscribing = subscribe(&libvirt, filter);
        daemon.feature(CALLBACK_IDS, true).await;
        for id in 0..granted {
            let call = daemon.expect::<Register>().await;
            let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: id };
            daemon.reply::<Register>(&call, &reply).await;
        }
        let call = daemon.expect::<Register>().await;
        daemon.error(&call, code, "no").await;
        let error = subscribing.await.unwrap().unwrap_err();
        assert_eq!(error.libvirt_code(), Some(code));
        for id in 0..granted {
            deregister(&mut daemon, id).await;
        }
        assert!(daemon.sent_by_now().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_of_nothing_is_refused() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let nothing = NetworkEventFilter::all().only([]);
    let error = libvirt.network_events(nothing).await.unwrap_err();
    assert!(error.is_unsupported(), "{error}");
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_domain_and_all_domains_are_registrations_of_their_own() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut all = lifecycle_stream(&libvirt, &mut daemon, 1).await;
    let mut streams = Vec::new();
    for (id, name) in [(2, "one"), (3, "two")] {
        let filter = DomainEventFilter::of(&domain(name)).only([DomainEventId::LIFECYCLE]);
        let subscribing = subscribe(&libvirt, filter);
        daemon.feature(CALLBACK_IDS, true).await;
        register(&mut daemon, DomainEventId::LIFECYCLE, Some(name), id).await;
        streams.push(subscribing.await.unwrap().unwrap());
    }
    // The daemon sends an event once for each registration that it is of.
    for id in [1, 3] {
        daemon.send(changed(id, "two", 5, 0)).await;
    }
    assert_eq!(change(&next(&mut all).await), ("two", stopped(0)));
    assert_eq!(change(&next(&mut streams[1]).await), ("two", stopped(0)));
    is_idle(&mut all).await;
    is_idle(&mut streams[0]).await;
    drop(all);
    deregister(&mut daemon, 1).await;
    streams.reverse();
    drop(streams);
    deregister(&mut daemon, 3).await;
    deregister(&mut daemon, 2).await;
}

#[tokio::test(start_paused = true)]
async fn streams_share_a_registration_and_the_last_takes_it_back() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let ids = [DomainEventId::LIFECYCLE, DomainEventId::REBOOT];
    let both = subscribe(&libvirt, only(ids));
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 1).await;
    register(&mut daemon, DomainEventId::REBOOT, None, 2).await;
    let mut both = both.await.unwrap().unwrap();
    let one = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, true).await;
    let mut one = one.await.unwrap().unwrap();
    daemon.send(changed(1, "a", 5, 0)).await;
    daemon.send(rebooted(2, "a")).await;
    assert_eq!(change(&next(&mut both).await), ("a", stopped(0)));
    assert!(matches!(next(&mut both).await, DomainEvent::Reboot { .. }));
    assert_eq!(change(&next(&mut one).await), ("a", stopped(0)));
    is_idle(&mut one).await;
    drop(both);
    deregister(&mut daemon, 2).await;
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.send(changed(1, "b", 5, 0)).await;
    assert_eq!(change(&next(&mut one).await), ("b", stopped(0)));
    drop(one);
    deregister(&mut daemon, 1).await;
}

#[tokio::test(start_paused = true)]
async fn events_keep_their_order_whichever_registration_waits_for_its_reply() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(
        &libvirt,
        only([DomainEventId::LIFECYCLE, DomainEventId::REBOOT]),
    );
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 1).await;
    let call = daemon.expect::<Register>().await;
    // The second registration is alive before its reply.
    daemon.send(changed(1, "a", 2, 0)).await;
    daemon.send(rebooted(2, "b")).await;
    daemon.send(changed(1, "c", 5, 0)).await;
    daemon.send(rebooted(2, "d")).await;
    daemon.send(rebooted(3, "not ours")).await;
    let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: 2 };
    daemon.reply::<Register>(&call, &reply).await;
    daemon.send(changed(1, "e", 2, 0)).await;
    let mut events = subscribing.await.unwrap().unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        let event = next(&mut events).await;
        assert_eq!(event.domain().unwrap().name, name);
    }
    is_idle(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_in_the_same_bytes_as_the_reply_is_not_missed() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, true).await;
    let call = daemon.expect::<Register>().await;
    let mut bytes = bytes_of(changed(4, "a", 2, 0)).to_vec();
    bytes.extend(bytes_of(Packet {
        header: mock::reply_to(&call.header),
        payload: encoded(&4i32),
    }));
    bytes.extend(bytes_of(changed(4, "b", 2, 0)));
    daemon.raw(&bytes).await;
    let mut events = subscribing.await.unwrap().unwrap();
    assert_eq!(change(&next(&mut events).await).0, "a");
    assert_eq!(change(&next(&mut events).await).0, "b");
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_waiting_takes_back_what_was_registered() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let ids = [
        DomainEventId::LIFECYCLE,
        DomainEventId::REBOOT,
        DomainEventId::TUNABLE,
    ];
    let subscribing = subscribe(&libvirt, only(ids));
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 1).await;
    let call = daemon.expect::<Register>().await;
    subscribing.abort();
    deregister(&mut daemon, 1).await;
    // The daemon may have registered this one: it is taken back once its id is known.
    assert!(daemon.sent_by_now().await.is_empty());
    let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: 2 };
    daemon.reply::<Register>(&call, &reply).await;
    deregister(&mut daemon, 2).await;
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_does_not_decode_is_an_error_in_its_place() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    let whole = changed(3, "a", 2, 0);
    for cut in [4, 7, 12, whole.payload.len() - 1] {
        let payload = whole.payload.slice(..cut);
        daemon
            .send(message_of(DomainEventCallbackLifecycle::NUMBER, payload))
            .await;
    }
    // Too short even for an id: nobody's.
    daemon
        .send(message_of(
            DomainEventCallbackLifecycle::NUMBER,
            Bytes::from_static(b"\0\0"),
        ))
        .await;
    daemon.send(whole).await;
    for _ in 0..4 {
        match item(&mut events).await.unwrap().unwrap_err() {
            Error::Decode { what, .. } => {
                assert_eq!(what, "REMOTE_PROC_DOMAIN_EVENT_CALLBACK_LIFECYCLE");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(change(&next(&mut events).await).0, "a");
    is_idle(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn numbers_that_libvirt_adds_are_kept() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    daemon.send(changed(3, "a", 5, 99)).await;
    daemon.send(changed(3, "a", 42, -7)).await;
    assert_eq!(change(&next(&mut events).await).1, stopped(99));
    let other = DomainLifecycle::Other {
        event: 42,
        detail: -7,
    };
    assert_eq!(change(&next(&mut events).await).1, other);
}

#[tokio::test(start_paused = true)]
async fn a_slow_stream_says_how_many_it_lost_and_others_lose_nothing() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut whole = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    let filters = [
        only([DomainEventId::LIFECYCLE]).queue(2),
        only([DomainEventId::LIFECYCLE])
            .queue(2)
            .overflow(Overflow::End),
    ];
    let mut slow = Vec::new();
    for filter in filters {
        let subscribing = subscribe(&libvirt, filter);
        daemon.feature(CALLBACK_IDS, true).await;
        slow.push(subscribing.await.unwrap().unwrap());
    }
    for detail in 0..5 {
        daemon.send(changed(3, "a", 5, detail)).await;
    }
    for detail in 0..5 {
        assert_eq!(change(&next(&mut whole).await).1, stopped(detail));
    }
    let lost = |item: Option<Result<DomainEvent, Error>>| match item {
        Some(Err(Error::EventsLost(number))) => number,
        other => panic!("{other:?}"),
    };
    assert_eq!(lost(item(&mut slow[0]).await), 3);
    assert_eq!(change(&next(&mut slow[0]).await).1, stopped(3));
    assert_eq!(change(&next(&mut slow[0]).await).1, stopped(4));
    is_idle(&mut slow[0]).await;
    assert_eq!(change(&next(&mut slow[1]).await).1, stopped(0));
    assert_eq!(change(&next(&mut slow[1]).await).1, stopped(1));
    assert_eq!(lost(item(&mut slow[1]).await), 1);
    assert!(item(&mut slow[1]).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_is_the_last_item() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    daemon.send(changed(3, "a", 5, 0)).await;
    drop(daemon);
    assert_eq!(change(&next(&mut events).await).0, "a");
    let error = item(&mut events).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error:?}");
    assert!(item(&mut events).await.is_none());
    drop(libvirt);

    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    let (_, ()) = tokio::join!(libvirt.close(), daemon.close());
    assert!(item(&mut events).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_same_id_in_every_family_is_five_registrations() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut domains = lifecycle_stream(&libvirt, &mut daemon, 16).await;

    macro_rules! stream {
        ($method:ident, $filter:ident, $id:expr, $register:ident, $ret:ident, $object:ident) => {{
            let filter = $filter::all().only([$id]);
            let grant = async {
                let call = daemon.expect::<$register>().await;
                assert_eq!(call.args.event_id, $id);
                assert!(call.args.$object.is_none());
                let reply = wire::$ret { callback_id: 16 };
                daemon.reply::<$register>(&call, &reply).await;
            };
            tokio::join!(libvirt.$method(filter), grant).0.unwrap()
        }};
    }
    let mut networks = stream!(
        network_events,
        NetworkEventFilter,
        NetworkEventId::LIFECYCLE,
        ConnectNetworkEventRegisterAny,
        ConnectNetworkEventRegisterAnyRet,
        net
    );
    let mut pools = stream!(
        storage_pool_events,
        StoragePoolEventFilter,
        StoragePoolEventId::REFRESH,
        ConnectStoragePoolEventRegisterAny,
        ConnectStoragePoolEventRegisterAnyRet,
        pool
    );
    let mut devices = stream!(
        node_device_events,
        NodeDeviceEventFilter,
        NodeDeviceEventId::UPDATE,
        ConnectNodeDeviceEventRegisterAny,
        ConnectNodeDeviceEventRegisterAnyRet,
        dev
    );
    let mut secrets = stream!(
        secret_events,
        SecretEventFilter,
        SecretEventId::VALUE_CHANGED,
        ConnectSecretEventRegisterAny,
        ConnectSecretEventRegisterAnyRet,
        secret
    );
    // Monitor events number with those of domains, but are another program.
    let monitor = monitor_on(&libvirt, &mut daemon, "vm-1").await;
    let (monitor_events, ()) =
        tokio::join!(libvirt_qmp::Monitor::events(&monitor), daemon.register(16));
    let mut monitor_events = monitor_events.unwrap();

    daemon.event(16, "STOP", None).await;
    daemon.send(changed(16, "a", 5, 0)).await;
    let net = Network {
        name: "default".into(),
        uuid: Uuid::from_bytes([1; 16]),
    };
    daemon
        .send(message::<NetworkEventLifecycle>(
            &wire::NetworkEventLifecycleMsg {
                callback_id: 16,
                net,
                event: NetworkEventLifecycleType::STARTED,
                detail: 0,
            },
        ))
        .await;
    let pool = StoragePool {
        name: "images".into(),
        uuid: Uuid::from_bytes([2; 16]),
    };
    daemon
        .send(message::<StoragePoolEventRefresh>(
            &wire::StoragePoolEventRefreshMsg {
                callback_id: 16,
                pool,
            },
        ))
        .await;
    let dev = NodeDevice {
        name: "pci_0000_00_02_0".into(),
    };
    daemon
        .send(message::<NodeDeviceEventUpdate>(
            &wire::NodeDeviceEventUpdateMsg {
                callback_id: 16,
                dev,
            },
        ))
        .await;
    let secret = Secret {
        uuid: Uuid::from_bytes([3; 16]),
        usage_type: 2,
        usage_id: "ceph".into(),
    };
    daemon
        .send(message::<SecretEventValueChanged>(
            &wire::SecretEventValueChangedMsg {
                callback_id: 16,
                secret,
            },
        ))
        .await;

    assert_eq!(
        item(&mut monitor_events).await.unwrap().unwrap().name,
        "STOP"
    );
    assert_eq!(change(&next(&mut domains).await), ("a", stopped(0)));
    match next(&mut networks).await {
        NetworkEvent::Lifecycle { network, event, .. } => {
            assert_eq!(network.name, "default");
            assert_eq!(network.uuid.into_bytes(), [1; 16]);
            assert_eq!(event, NetworkEventLifecycleType::STARTED);
        }
        other => panic!("{other:?}"),
    }
    match next(&mut pools).await {
        StoragePoolEvent::Refresh { pool } => assert_eq!(pool.name, "images"),
        other => panic!("{other:?}"),
    }
    match next(&mut devices).await {
        NodeDeviceEvent::Update { device } => assert_eq!(device.name, "pci_0000_00_02_0"),
        other => panic!("{other:?}"),
    }
    match next(&mut secrets).await {
        SecretEvent::ValueChanged { secret } => {
            assert_eq!(secret.usage_type, SecretUsageType::CEPH.0);
            assert_eq!(secret.usage_id, "ceph");
        }
        other => panic!("{other:?}"),
    }
    is_idle(&mut domains).await;
    is_idle(&mut networks).await;
    is_idle(&mut pools).await;
    is_idle(&mut devices).await;
    is_idle(&mut secrets).await;

    drop(networks);
    let call = daemon.expect::<ConnectNetworkEventDeregisterAny>().await;
    assert_eq!(call.args.callback_id, 16);
    daemon
        .reply::<ConnectNetworkEventDeregisterAny>(&call, &())
        .await;
    drop(pools);
    let call = daemon
        .expect::<ConnectStoragePoolEventDeregisterAny>()
        .await;
    assert_eq!(call.args.callback_id, 16);
    drop(devices);
    let call = daemon.expect::<ConnectNodeDeviceEventDeregisterAny>().await;
    assert_eq!(call.args.callback_id, 16);
    drop(secrets);
    let call = daemon.expect::<ConnectSecretEventDeregisterAny>().await;
    assert_eq!(call.args.callback_id, 16);
    // The others go on.
    daemon.send(changed(16, "b", 5, 0)).await;
    assert_eq!(change(&next(&mut domains).await).0, "b");
}

#[tokio::test(start_paused = true)]
async fn an_old_daemon_is_asked_in_the_old_way() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(
        &libvirt,
        only([DomainEventId::LIFECYCLE, DomainEventId::PMWAKEUP]),
    );
    daemon.feature(CALLBACK_IDS, false).await;
    for event in [0, 11] {
        let call = daemon.expect::<RegisterPlain>().await;
        assert_eq!(call.args.event_id, DomainEventId(event));
        // There is no telling an event of the registration from its reply: it may be first.
        daemon
            .send(message::<DomainEventPmwakeup>(
                &wire::DomainEventPmwakeupMsg { dom: domain("w") },
            ))
            .await;
        daemon.reply::<RegisterPlain>(&call, &()).await;
    }
    let mut events = subscribing.await.unwrap().unwrap();
    daemon
        .send(message::<DomainEventLifecycle>(&lifecycle("a", 5, 1)))
        .await;
    let wakeup = DomainEvent::PmWakeup {
        domain: domain("w"),
        reason: 0,
    };
    assert_eq!(next(&mut events).await, wakeup);
    assert_eq!(change(&next(&mut events).await), ("a", stopped(1)));
    is_idle(&mut events).await;
    // Shared as elsewhere.
    let second = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, false).await;
    let second = second.await.unwrap().unwrap();
    drop(events);
    let call = daemon.expect::<DeregisterPlain>().await;
    assert_eq!(call.args.event_id, DomainEventId::PMWAKEUP);
    daemon.reply::<DeregisterPlain>(&call, &()).await;
    drop(second);
    let call = daemon.expect::<DeregisterPlain>().await;
    assert_eq!(call.args.event_id, DomainEventId::LIFECYCLE);
    daemon.reply::<DeregisterPlain>(&call, &()).await;
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_events_of_an_old_daemon_are_the_sixteen_that_it_can_have() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let _events = register_all_plain(&libvirt, &mut daemon).await;
    for id in [DomainEventId::TUNABLE, DomainEventId(77)] {
        let subscribing = subscribe(&libvirt, only([id]));
        daemon.feature(CALLBACK_IDS, false).await;
        let error = subscribing.await.unwrap().unwrap_err();
        assert!(error.is_unsupported(), "{error}");
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_domain_of_an_old_daemon_is_picked_out_here() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut streams = Vec::new();
    for (place, name) in ["one", "two"].into_iter().enumerate() {
        let filter = DomainEventFilter::of(&domain(name)).only([DomainEventId::LIFECYCLE]);
        let subscribing = subscribe(&libvirt, filter);
        daemon.feature(CALLBACK_IDS, false).await;
        // For the daemon both are all domains.
        if place == 0 {
            let call = daemon.expect::<RegisterPlain>().await;
            daemon.reply::<RegisterPlain>(&call, &()).await;
        }
        streams.push(subscribing.await.unwrap().unwrap());
    }
    for name in ["two", "one", "three"] {
        daemon
            .send(message::<DomainEventLifecycle>(&lifecycle(name, 5, 0)))
            .await;
    }
    let cut = encoded(&lifecycle("one", 5, 0)).slice(..6);
    daemon
        .send(message_of(DomainEventLifecycle::NUMBER, cut))
        .await;
    for (events, name) in streams.iter_mut().zip(["one", "two"]) {
        assert_eq!(change(&next(events).await).0, name);
        let error = item(events).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{error:?}");
        is_idle(events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_of_an_unknown_kind_comes_as_it_is() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut known = lifecycle_stream(&libvirt, &mut daemon, 5).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId(77)]));
    daemon.feature(CALLBACK_IDS, true).await;
    let call = daemon.expect::<Register>().await;
    assert_eq!(call.args.event_id, DomainEventId(77));
    let body = |id: i32, text: &str| {
        let mut bytes = encoded(&id).to_vec();
        bytes.extend_from_slice(text.as_bytes());
        Bytes::from(bytes)
    };
    // It may be there before the reply, as any other.
    daemon.send(message_of(9001, body(6, "early"))).await;
    let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: 6 };
    daemon.reply::<Register>(&call, &reply).await;
    let mut events = subscribing.await.unwrap().unwrap();
    daemon.send(message_of(9001, body(6, "late"))).await;
    // Not of this registration: another id, a known message, another program.
    daemon.send(message_of(9001, body(5, "other"))).await;
    daemon.send(rebooted(6, "x")).await;
    let mut other = message_of(9001, body(6, "other"));
    other.header.program = 0x2000_8087;
    daemon.send(other).await;
    for text in ["early", "late"] {
        match next(&mut events).await {
            DomainEvent::Other(event) => {
                assert_eq!((event.program, event.procedure), (wire::PROGRAM, 9001));
                assert_eq!(event.payload, body(6, text));
            }
            other => panic!("{other:?}"),
        }
    }
    is_idle(&mut events).await;
    is_idle(&mut known).await;
    drop(events);
    deregister(&mut daemon, 6).await;
}

#[tokio::test(start_paused = true)]
async fn unknown_kinds_of_two_families_are_registered_by_themselves() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let domains = subscribe(&libvirt, only([DomainEventId(77)]));
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId(77), None, 1).await;
    let mut domains = domains.await.unwrap().unwrap();
    let filter = NetworkEventFilter::all().only([NetworkEventId(77)]);
    let grant = async {
        let call = daemon.expect::<ConnectNetworkEventRegisterAny>().await;
        let reply = wire::ConnectNetworkEventRegisterAnyRet { callback_id: 2 };
        daemon
            .reply::<ConnectNetworkEventRegisterAny>(&call, &reply)
            .await;
    };
    let (networks, ()) = tokio::join!(libvirt.network_events(filter), grant);
    let mut networks = networks.unwrap();
    daemon.send(message_of(9001, encoded(&1i32))).await;
    daemon.send(message_of(9002, encoded(&2i32))).await;
    match (next(&mut domains).await, next(&mut networks).await) {
        (DomainEvent::Other(domain), NetworkEvent::Other(network)) => {
            assert_eq!((domain.procedure, network.procedure), (9001, 9002));
        }
        other => panic!("{other:?}"),
    }
    is_idle(&mut domains).await;
    is_idle(&mut networks).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_subscribes_during_a_deregistration_is_registered_anew() {
    let (libvirt, mut daemon) = session(quiet()).await;
    drop(lifecycle_stream(&libvirt, &mut daemon, 1).await);
    let call = daemon.expect::<Deregister>().await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, true).await;
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.send(changed(1, "old", 5, 0)).await;
    daemon.reply::<Deregister>(&call, &()).await;
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 2).await;
    daemon.send(changed(1, "old", 5, 0)).await;
    daemon.send(changed(2, "new", 5, 0)).await;
    let mut events = subscribing.await.unwrap().unwrap();
    assert_eq!(change(&next(&mut events).await).0, "new");
}

#[tokio::test(start_paused = true)]
async fn a_stream_keeps_the_session_open() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 1).await;
    drop(libvirt);
    daemon.send(changed(1, "a", 5, 0)).await;
    assert_eq!(change(&next(&mut events).await).0, "a");
    // The last handle: the end of the connection takes everything back.
    drop(events);
    daemon.expect_cut().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_answer_a_registration_is_not_waited_for() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, true).await;
    let call = daemon.expect::<Register>().await;
    let error = subscribing.await.unwrap().unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    // It is taken back once the daemon says that it is there.
    let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: 1 };
    daemon.reply::<Register>(&call, &reply).await;
    deregister(&mut daemon, 1).await;
}

/// Answers registrations, in whatever order they come: each kind under the id that `id` gives.
async fn register_again<const N: usize>(
    daemon: &mut MockDaemon,
    id: impl Fn(DomainEventId) -> i32,
) -> [DomainEventId; N] {
    let mut seen = [DomainEventId::LIFECYCLE; N];
    for seen in &mut seen {
        let call = daemon.expect::<Register>().await;
        *seen = call.args.event_id;
        let callback_id = id(*seen);
        let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id };
        daemon.reply::<Register>(&call, &reply).await;
    }
    seen.sort_by_key(|id| id.0);
    seen
}

/// Takes the gaps that come next, one at least, and the event after them.
async fn after_gap(events: &mut DomainEvents) -> DomainEvent {
    let first = item(events).await.unwrap().unwrap_err();
    assert!(matches!(first, Error::Gap { .. }), "{first:?}");
    loop {
        match item(events).await.unwrap() {
            Err(Error::Gap { .. }) => {}
            event => return event.unwrap(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_several_kinds_is_registered_again_after_a_loss() {
    let ids = [DomainEventId::LIFECYCLE, DomainEventId::REBOOT];
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let subscribing = subscribe(&libvirt, only(ids));
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, ids[0], None, 1).await;
    register(&mut daemon, ids[1], None, 2).await;
    let mut events = subscribing.await.unwrap().unwrap();
    daemon.send(changed(1, "before", 5, 0)).await;
    drop(daemon);
    let mut daemon = host.reopened().await;
    // The ids of the new connection are those of the old one, the other way round.
    assert_eq!(register_again(&mut daemon, |id| 2 - id.0).await, ids);
    daemon.send(changed(2, "after", 5, 0)).await;
    daemon.send(rebooted(1, "after")).await;
    assert_eq!(change(&next(&mut events).await).0, "before");
    assert_eq!(change(&after_gap(&mut events).await).0, "after");
    let event = next(&mut events).await;
    assert!(matches!(event, DomainEvent::Reboot { .. }), "{event:?}");
    is_idle(&mut events).await;
    drop(events);
    for _ in ids {
        let call = daemon.expect::<Deregister>().await;
        daemon.reply::<Deregister>(&call, &()).await;
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_old_daemon_is_asked_again_in_the_old_way_after_a_loss() {
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, false).await;
    let call = daemon.expect::<RegisterPlain>().await;
    daemon.reply::<RegisterPlain>(&call, &()).await;
    let mut events = subscribing.await.unwrap().unwrap();
    drop(daemon);
    let mut daemon = host.reopened().await;
    let call = daemon.expect::<RegisterPlain>().await;
    let event = message::<DomainEventLifecycle>(&lifecycle("early", 5, 0));
    daemon.send(event).await;
    daemon.reply::<RegisterPlain>(&call, &()).await;
    assert_eq!(change(&after_gap(&mut events).await).0, "early");
    is_idle(&mut events).await;
}

/// It sends events from the moment of the registration: what comes after them may be missing too.
#[tokio::test(start_paused = true)]
async fn an_old_daemon_that_is_lost_before_it_answers_has_its_own_gap() {
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, false).await;
    let call = daemon.expect::<RegisterPlain>().await;
    daemon.reply::<RegisterPlain>(&call, &()).await;
    let mut events = subscribing.await.unwrap().unwrap();
    for name in ["first", "second"] {
        drop(daemon);
        daemon = host.reopened().await;
        daemon.expect::<RegisterPlain>().await;
        let event = message::<DomainEventLifecycle>(&lifecycle(name, 5, 0));
        daemon.send(event).await;
        assert_eq!(change(&after_gap(&mut events).await).0, name);
        is_idle(&mut events).await;
    }
}

/// What every stream may be used for: any task, any thread.
#[test]
fn streams_may_be_sent() {
    fn sent<T: Send + Sync + Unpin + Debug>() {}
    sent::<DomainEvents>();
    sent::<NetworkEvents>();
    sent::<StoragePoolEvents>();
    sent::<NodeDeviceEvents>();
    sent::<SecretEvents>();
    sent::<DomainEventFilter>();
}
