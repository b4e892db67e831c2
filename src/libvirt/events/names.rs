//! The enums of libvirt's C API that events carry. Imports protocol.

pub use crate::protocol::constants::{
    ConnectDomainEventAgentLifecycleReason, ConnectDomainEventAgentLifecycleState,
    ConnectDomainEventBlockJobStatus, ConnectDomainEventChannelLifecycleReason,
    ConnectDomainEventChannelLifecycleState, ConnectDomainEventDiskChangeReason,
    DomainBlockJobType, DomainEventCrashedDetailType, DomainEventDefinedDetailType,
    DomainEventGraphicsAddressType, DomainEventGraphicsPhase, DomainEventId,
    DomainEventIoErrorAction, DomainEventPmSuspendedDetailType, DomainEventResumedDetailType,
    DomainEventShutdownDetailType, DomainEventStartedDetailType, DomainEventStoppedDetailType,
    DomainEventSuspendedDetailType, DomainEventTrayChangeReason, DomainEventType,
    DomainEventUndefinedDetailType, DomainEventWatchdogAction, DomainMemoryFailureActionType,
    DomainMemoryFailureFlags, DomainMemoryFailureRecipientType, DomainMetadataType, NetworkEventId,
    NetworkEventLifecycleType, NetworkMetadataType, NodeDeviceEventId,
    NodeDeviceEventLifecycleType, SecretEventId, SecretEventLifecycleType, SecretUsageType,
    StoragePoolEventId, StoragePoolEventLifecycleType,
};
