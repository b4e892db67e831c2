//! Events of libvirt's own objects: how they are registered for with daemons new and old, shared, kept apart and read.

mod after_loss;
mod reading;
mod registering;
mod routes;

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
