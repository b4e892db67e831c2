//! The types of the wire that events carry: enums of libvirt's C interface, and the ends of a display's connection. Imports
//! protocol.

pub use crate::protocol::constants::{
    ConnectDomainEventAgentLifecycleReason, ConnectDomainEventAgentLifecycleState,
    ConnectDomainEventBlockJobStatus, ConnectDomainEventDiskChangeReason, DomainBlockJobType,
    DomainEventCrashedDetailType, DomainEventDefinedDetailType, DomainEventGraphicsAddressType,
    DomainEventGraphicsPhase, DomainEventId, DomainEventIoErrorAction,
    DomainEventPmSuspendedDetailType, DomainEventResumedDetailType, DomainEventShutdownDetailType,
    DomainEventStartedDetailType, DomainEventStoppedDetailType, DomainEventSuspendedDetailType,
    DomainEventTrayChangeReason, DomainEventType, DomainEventUndefinedDetailType,
    DomainEventWatchdogAction, DomainMemoryFailureActionType, DomainMemoryFailureFlags,
    DomainMemoryFailureRecipientType, DomainMetadataType, NetworkEventId,
    NetworkEventLifecycleType, NetworkMetadataType, NodeDeviceEventId,
    NodeDeviceEventLifecycleType, SecretEventId, SecretEventLifecycleType, SecretUsageType,
    StoragePoolEventId, StoragePoolEventLifecycleType,
};

pub use crate::protocol::remote::{DomainEventGraphicsAddress, DomainEventGraphicsIdentity};

/// Kinds of event that are newer than the definitions of the others.
impl DomainEventId {
    /// `VIR_DOMAIN_EVENT_ID_VCPU_REMOVED`. Since libvirt 12.4.0.
    pub const VCPU_REMOVED: Self = Self(28);

    /// `VIR_DOMAIN_EVENT_ID_CHANNEL_LIFECYCLE`. Since libvirt 12.4.0.
    pub const CHANNEL_LIFECYCLE: Self = Self(29);
}
