//! The events of networks, storage pools, node devices and secrets: what each says, and how the wire says it. Imports rpc
//! and protocol.

use super::family::{
    IntoEvent, Kind, Networks, NodeDevices, OtherEvent, Parts, Secrets, StoragePools,
};
use super::*;
use crate::objects::{Network, NodeDevice, Secret, StoragePool};
use crate::protocol::remote as wire;
use crate::protocol::remote::procedure::*;
use crate::rpc::{EventKind, Registration};

/// An event of a virtual network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkEvent {
    /// Its configuration or its state has changed (`VIR_NETWORK_EVENT_ID_LIFECYCLE`).
    Lifecycle {
        /// The network.
        network: Network,
        /// What happened.
        event: NetworkEventLifecycleType,
        /// libvirt gives none: 0.
        detail: i32,
    },
    /// Its metadata have changed (`VIR_NETWORK_EVENT_ID_METADATA_CHANGE`). Since libvirt 9.8.0.
    MetadataChange {
        /// The network.
        network: Network,
        /// Which of them.
        metadata: NetworkMetadataType,
        /// The XML namespace of the element that has.
        nsuri: Option<String>,
    },
    /// What this crate does not know.
    Other(OtherEvent),
}

/// An event of a storage pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoragePoolEvent {
    /// Its configuration or its state has changed (`VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE`).
    Lifecycle {
        /// The pool.
        pool: StoragePool,
        /// What happened.
        event: StoragePoolEventLifecycleType,
        /// libvirt gives none: 0.
        detail: i32,
    },
    /// libvirt has looked at what is in it (`VIR_STORAGE_POOL_EVENT_ID_REFRESH`).
    Refresh {
        /// The pool.
        pool: StoragePool,
    },
    /// What this crate does not know.
    Other(OtherEvent),
}

/// An event of a device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeDeviceEvent {
    /// It has come or gone, or its configuration has (`VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE`).
    Lifecycle {
        /// The device.
        device: NodeDevice,
        /// What happened.
        event: NodeDeviceEventLifecycleType,
        /// libvirt gives none: 0.
        detail: i32,
    },
    /// What is known of it has changed (`VIR_NODE_DEVICE_EVENT_ID_UPDATE`).
    Update {
        /// The device.
        device: NodeDevice,
    },
    /// What this crate does not know.
    Other(OtherEvent),
}

/// An event of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretEvent {
    /// It has come or gone (`VIR_SECRET_EVENT_ID_LIFECYCLE`).
    Lifecycle {
        /// The secret.
        secret: Secret,
        /// What happened.
        event: SecretEventLifecycleType,
        /// libvirt gives none: 0.
        detail: i32,
    },
    /// It has another value (`VIR_SECRET_EVENT_ID_VALUE_CHANGED`).
    ValueChanged {
        /// The secret.
        secret: Secret,
    },
    /// What this crate does not know.
    Other(OtherEvent),
}

impl NetworkEvent {
    /// The network it is about; none of an event that this crate does not know.
    pub fn network(&self) -> Option<&Network> {
        match self {
            NetworkEvent::Lifecycle { network, .. }
            | NetworkEvent::MetadataChange { network, .. } => Some(network),
            NetworkEvent::Other(_) => None,
        }
    }
}

impl From<OtherEvent> for NetworkEvent {
    fn from(other: OtherEvent) -> Self {
        NetworkEvent::Other(other)
    }
}

impl EventFamily for Networks {
    type Object = Network;
    type Id = NetworkEventId;
    type Event = NetworkEvent;

    const PARTS: Parts<Self> = Parts {
        kinds: &[
            Kind::new::<NetworkEventLifecycle>(NetworkEventId::LIFECYCLE.0),
            Kind::new::<NetworkEventCallbackMetadataChange>(NetworkEventId::METADATA_CHANGE.0),
        ],
        number: |id| id.0,
        identity: |object| object.uuid.as_bytes().to_vec(),
        register: |wanted| {
            let args = wire::ConnectNetworkEventRegisterAnyArgs {
                event_id: NetworkEventId(wanted.event_id),
                net: wanted.object.cloned(),
            };
            Registration::new::<NetworkEvents>(wanted.messages, &wanted.target, &[], &args)
        },
    };
}

struct NetworkEvents;

impl EventKind for NetworkEvents {
    type Register = ConnectNetworkEventRegisterAny;
    type Deregister = ConnectNetworkEventDeregisterAny;

    fn callback_id(reply: wire::ConnectNetworkEventRegisterAnyRet) -> i32 {
        reply.callback_id
    }

    fn deregister(callback_id: i32) -> wire::ConnectNetworkEventDeregisterAnyArgs {
        wire::ConnectNetworkEventDeregisterAnyArgs { callback_id }
    }
}

impl IntoEvent<NetworkEvent> for wire::NetworkEventLifecycleMsg {
    fn into_event(self) -> NetworkEvent {
        NetworkEvent::Lifecycle {
            network: self.net,
            event: self.event,
            detail: self.detail,
        }
    }
}

impl IntoEvent<NetworkEvent> for wire::NetworkEventCallbackMetadataChangeMsg {
    fn into_event(self) -> NetworkEvent {
        NetworkEvent::MetadataChange {
            network: self.net,
            metadata: self.r#type,
            nsuri: self.nsuri,
        }
    }
}

impl StoragePoolEvent {
    /// The pool it is about; none of an event that this crate does not know.
    pub fn pool(&self) -> Option<&StoragePool> {
        match self {
            StoragePoolEvent::Lifecycle { pool, .. } | StoragePoolEvent::Refresh { pool, .. } => {
                Some(pool)
            }
            StoragePoolEvent::Other(_) => None,
        }
    }
}

impl From<OtherEvent> for StoragePoolEvent {
    fn from(other: OtherEvent) -> Self {
        StoragePoolEvent::Other(other)
    }
}

impl EventFamily for StoragePools {
    type Object = StoragePool;
    type Id = StoragePoolEventId;
    type Event = StoragePoolEvent;

    const PARTS: Parts<Self> = Parts {
        kinds: &[
            Kind::new::<StoragePoolEventLifecycle>(StoragePoolEventId::LIFECYCLE.0),
            Kind::new::<StoragePoolEventRefresh>(StoragePoolEventId::REFRESH.0),
        ],
        number: |id| id.0,
        identity: |object| object.uuid.as_bytes().to_vec(),
        register: |wanted| {
            let args = wire::ConnectStoragePoolEventRegisterAnyArgs {
                event_id: StoragePoolEventId(wanted.event_id),
                pool: wanted.object.cloned(),
            };
            Registration::new::<StoragePoolEvents>(wanted.messages, &wanted.target, &[], &args)
        },
    };
}

struct StoragePoolEvents;

impl EventKind for StoragePoolEvents {
    type Register = ConnectStoragePoolEventRegisterAny;
    type Deregister = ConnectStoragePoolEventDeregisterAny;

    fn callback_id(reply: wire::ConnectStoragePoolEventRegisterAnyRet) -> i32 {
        reply.callback_id
    }

    fn deregister(callback_id: i32) -> wire::ConnectStoragePoolEventDeregisterAnyArgs {
        wire::ConnectStoragePoolEventDeregisterAnyArgs { callback_id }
    }
}

impl IntoEvent<StoragePoolEvent> for wire::StoragePoolEventLifecycleMsg {
    fn into_event(self) -> StoragePoolEvent {
        StoragePoolEvent::Lifecycle {
            pool: self.pool,
            event: self.event,
            detail: self.detail,
        }
    }
}

impl IntoEvent<StoragePoolEvent> for wire::StoragePoolEventRefreshMsg {
    fn into_event(self) -> StoragePoolEvent {
        StoragePoolEvent::Refresh { pool: self.pool }
    }
}

impl NodeDeviceEvent {
    /// The device it is about; none of an event that this crate does not know.
    pub fn device(&self) -> Option<&NodeDevice> {
        match self {
            NodeDeviceEvent::Lifecycle { device, .. } | NodeDeviceEvent::Update { device, .. } => {
                Some(device)
            }
            NodeDeviceEvent::Other(_) => None,
        }
    }
}

impl From<OtherEvent> for NodeDeviceEvent {
    fn from(other: OtherEvent) -> Self {
        NodeDeviceEvent::Other(other)
    }
}

impl EventFamily for NodeDevices {
    type Object = NodeDevice;
    type Id = NodeDeviceEventId;
    type Event = NodeDeviceEvent;

    const PARTS: Parts<Self> = Parts {
        kinds: &[
            Kind::new::<NodeDeviceEventLifecycle>(NodeDeviceEventId::LIFECYCLE.0),
            Kind::new::<NodeDeviceEventUpdate>(NodeDeviceEventId::UPDATE.0),
        ],
        number: |id| id.0,
        identity: |object| object.name.clone().into_bytes(),
        register: |wanted| {
            let args = wire::ConnectNodeDeviceEventRegisterAnyArgs {
                event_id: NodeDeviceEventId(wanted.event_id),
                dev: wanted.object.cloned(),
            };
            Registration::new::<NodeDeviceEvents>(wanted.messages, &wanted.target, &[], &args)
        },
    };
}

struct NodeDeviceEvents;

impl EventKind for NodeDeviceEvents {
    type Register = ConnectNodeDeviceEventRegisterAny;
    type Deregister = ConnectNodeDeviceEventDeregisterAny;

    fn callback_id(reply: wire::ConnectNodeDeviceEventRegisterAnyRet) -> i32 {
        reply.callback_id
    }

    fn deregister(callback_id: i32) -> wire::ConnectNodeDeviceEventDeregisterAnyArgs {
        wire::ConnectNodeDeviceEventDeregisterAnyArgs { callback_id }
    }
}

impl IntoEvent<NodeDeviceEvent> for wire::NodeDeviceEventLifecycleMsg {
    fn into_event(self) -> NodeDeviceEvent {
        NodeDeviceEvent::Lifecycle {
            device: self.dev,
            event: self.event,
            detail: self.detail,
        }
    }
}

impl IntoEvent<NodeDeviceEvent> for wire::NodeDeviceEventUpdateMsg {
    fn into_event(self) -> NodeDeviceEvent {
        NodeDeviceEvent::Update { device: self.dev }
    }
}

impl SecretEvent {
    /// The secret it is about; none of an event that this crate does not know.
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            SecretEvent::Lifecycle { secret, .. } | SecretEvent::ValueChanged { secret, .. } => {
                Some(secret)
            }
            SecretEvent::Other(_) => None,
        }
    }
}

impl From<OtherEvent> for SecretEvent {
    fn from(other: OtherEvent) -> Self {
        SecretEvent::Other(other)
    }
}

impl EventFamily for Secrets {
    type Object = Secret;
    type Id = SecretEventId;
    type Event = SecretEvent;

    const PARTS: Parts<Self> = Parts {
        kinds: &[
            Kind::new::<SecretEventLifecycle>(SecretEventId::LIFECYCLE.0),
            Kind::new::<SecretEventValueChanged>(SecretEventId::VALUE_CHANGED.0),
        ],
        number: |id| id.0,
        identity: |object| object.uuid.as_bytes().to_vec(),
        register: |wanted| {
            let args = wire::ConnectSecretEventRegisterAnyArgs {
                event_id: SecretEventId(wanted.event_id),
                secret: wanted.object.cloned(),
            };
            Registration::new::<SecretEvents>(wanted.messages, &wanted.target, &[], &args)
        },
    };
}

struct SecretEvents;

impl EventKind for SecretEvents {
    type Register = ConnectSecretEventRegisterAny;
    type Deregister = ConnectSecretEventDeregisterAny;

    fn callback_id(reply: wire::ConnectSecretEventRegisterAnyRet) -> i32 {
        reply.callback_id
    }

    fn deregister(callback_id: i32) -> wire::ConnectSecretEventDeregisterAnyArgs {
        wire::ConnectSecretEventDeregisterAnyArgs { callback_id }
    }
}

impl IntoEvent<SecretEvent> for wire::SecretEventLifecycleMsg {
    fn into_event(self) -> SecretEvent {
        SecretEvent::Lifecycle {
            secret: self.secret,
            event: self.event,
            detail: self.detail,
        }
    }
}

impl IntoEvent<SecretEvent> for wire::SecretEventValueChangedMsg {
    fn into_event(self) -> SecretEvent {
        SecretEvent::ValueChanged {
            secret: self.secret,
        }
    }
}
