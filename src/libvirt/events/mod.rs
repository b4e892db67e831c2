//! libvirt's own events as typed values: of domains, networks, storage pools, node devices and secrets.
//!
//! [`Libvirt::domain_events`](crate::Libvirt::domain_events) and the four methods like it give streams of them. The events of
//! QEMU's monitor are [`Monitor::events`](crate::Monitor::events).
//!
//! Names are libvirt's: [`DomainEventId::LIFECYCLE`] is `VIR_DOMAIN_EVENT_ID_LIFECYCLE`. Numbers that libvirt adds to its enums are
//! kept as they are.

// `family` says what the five kinds of objects have in common, `domain`, `lifecycle` and `objects` what each event says,
// `domain_wire` how the wire says those of domains, `filter` what a user asks for, and `stream` how it is registered and read.
// `monitor` has QEMU's monitor events of one domain. May import rpc, queue, error, objects, protocol and xdr.

mod domain;
mod domain_wire;
mod family;
mod filter;
mod lifecycle;
mod monitor;
mod names;
mod objects;
mod stream;

pub use domain::DomainEvent;
pub use family::{Domains, EventFamily, Networks, NodeDevices, OtherEvent, Secrets, StoragePools};
pub use filter::{
    DomainEventFilter, NetworkEventFilter, NodeDeviceEventFilter, ObjectEventFilter,
    SecretEventFilter, StoragePoolEventFilter,
};
pub use lifecycle::DomainLifecycle;
pub use names::*;
pub use objects::{NetworkEvent, NodeDeviceEvent, SecretEvent, StoragePoolEvent};
pub use stream::{
    DomainEvents, NetworkEvents, NodeDeviceEvents, ObjectEvents, SecretEvents, StoragePoolEvents,
};
