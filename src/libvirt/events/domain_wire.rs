//! The events of domains on the wire: how they are registered for, in which messages they come, and what those say.
//! Imports rpc and protocol.

use super::family::{IntoEvent, Kind, Parts, Wanted};
use super::*;
use crate::error::Error;
use crate::objects::Domain;
use crate::protocol::remote as wire;
use crate::protocol::remote::procedure::*;
use crate::rpc::{EventKind, Messages, Registration};

impl EventFamily for Domains {
    type Object = Domain;
    type Id = DomainEventId;
    type Event = DomainEvent;

    const PARTS: Parts<Self> = Parts {
        kinds: KINDS,
        number: |id| id.0,
        identity: |domain| domain.uuid.as_bytes().to_vec(),
        register,
    };
}

/// Every kind of event that there is. Those up to 15 also come from a daemon without callback ids.
const KINDS: &[Kind<DomainEvent>] = &[
    Kind::or_plain::<DomainEventCallbackLifecycle, DomainEventLifecycle>(
        DomainEventId::LIFECYCLE.0,
    ),
    Kind::or_plain::<DomainEventCallbackReboot, DomainEventReboot>(DomainEventId::REBOOT.0),
    Kind::or_plain::<DomainEventCallbackRtcChange, DomainEventRtcChange>(
        DomainEventId::RTC_CHANGE.0,
    ),
    Kind::or_plain::<DomainEventCallbackWatchdog, DomainEventWatchdog>(DomainEventId::WATCHDOG.0),
    Kind::or_plain::<DomainEventCallbackIoError, DomainEventIoError>(DomainEventId::IO_ERROR.0),
    Kind::or_plain::<DomainEventCallbackGraphics, DomainEventGraphics>(DomainEventId::GRAPHICS.0),
    Kind::or_plain::<DomainEventCallbackIoErrorReason, DomainEventIoErrorReason>(
        DomainEventId::IO_ERROR_REASON.0,
    ),
    Kind::or_plain::<DomainEventCallbackControlError, DomainEventControlError>(
        DomainEventId::CONTROL_ERROR.0,
    ),
    Kind::or_plain::<DomainEventCallbackBlockJob, DomainEventBlockJob>(DomainEventId::BLOCK_JOB.0),
    Kind::or_plain::<DomainEventCallbackDiskChange, DomainEventDiskChange>(
        DomainEventId::DISK_CHANGE.0,
    ),
    Kind::or_plain::<DomainEventCallbackTrayChange, DomainEventTrayChange>(
        DomainEventId::TRAY_CHANGE.0,
    ),
    Kind::or_plain::<DomainEventCallbackPmwakeup, DomainEventPmwakeup>(DomainEventId::PMWAKEUP.0),
    Kind::or_plain::<DomainEventCallbackPmsuspend, DomainEventPmsuspend>(
        DomainEventId::PMSUSPEND.0,
    ),
    Kind::or_plain::<DomainEventCallbackBalloonChange, DomainEventBalloonChange>(
        DomainEventId::BALLOON_CHANGE.0,
    ),
    Kind::or_plain::<DomainEventCallbackPmsuspendDisk, DomainEventPmsuspendDisk>(
        DomainEventId::PMSUSPEND_DISK.0,
    ),
    Kind::or_plain::<DomainEventCallbackDeviceRemoved, DomainEventDeviceRemoved>(
        DomainEventId::DEVICE_REMOVED.0,
    ),
    Kind::new::<DomainEventBlockJob2>(DomainEventId::BLOCK_JOB_2.0),
    Kind::new::<DomainEventCallbackTunable>(DomainEventId::TUNABLE.0),
    Kind::new::<DomainEventCallbackAgentLifecycle>(DomainEventId::AGENT_LIFECYCLE.0),
    Kind::new::<DomainEventCallbackDeviceAdded>(DomainEventId::DEVICE_ADDED.0),
    Kind::new::<DomainEventCallbackMigrationIteration>(DomainEventId::MIGRATION_ITERATION.0),
    Kind::new::<DomainEventCallbackJobCompleted>(DomainEventId::JOB_COMPLETED.0),
    Kind::new::<DomainEventCallbackDeviceRemovalFailed>(DomainEventId::DEVICE_REMOVAL_FAILED.0),
    Kind::new::<DomainEventCallbackMetadataChange>(DomainEventId::METADATA_CHANGE.0),
    Kind::new::<DomainEventBlockThreshold>(DomainEventId::BLOCK_THRESHOLD.0),
    Kind::new::<DomainEventMemoryFailure>(DomainEventId::MEMORY_FAILURE.0),
    Kind::new::<DomainEventMemoryDeviceSizeChange>(DomainEventId::MEMORY_DEVICE_SIZE_CHANGE.0),
    Kind::new::<DomainEventNicMacChange>(DomainEventId::NIC_MAC_CHANGE.0),
    Kind::new::<DomainEventVcpuRemoved>(DomainEventId::VCPU_REMOVED.0),
    Kind::new::<DomainEventCallbackChannelLifecycle>(DomainEventId::CHANNEL_LIFECYCLE.0),
];

/// Registration by callback id, of one domain or all.
struct Numbered;

impl EventKind for Numbered {
    type Register = ConnectDomainEventCallbackRegisterAny;
    type Deregister = ConnectDomainEventCallbackDeregisterAny;

    fn callback_id(reply: wire::ConnectDomainEventCallbackRegisterAnyRet) -> i32 {
        reply.callback_id
    }

    fn deregister(callback_id: i32) -> wire::ConnectDomainEventCallbackDeregisterAnyArgs {
        wire::ConnectDomainEventCallbackDeregisterAnyArgs { callback_id }
    }
}

/// Registration for a kind of event of all domains, with a daemon that knows no callback ids.
struct Plain;

impl EventKind for Plain {
    type Register = ConnectDomainEventRegisterAny;
    type Deregister = ConnectDomainEventDeregisterAny;

    fn callback_id((): ()) -> i32 {
        0
    }

    fn deregister(event_id: i32) -> wire::ConnectDomainEventDeregisterAnyArgs {
        wire::ConnectDomainEventDeregisterAnyArgs {
            event_id: DomainEventId(event_id),
        }
    }
}

fn register(wanted: &Wanted<'_, Domains>) -> Result<Registration, Error> {
    let event_id = DomainEventId(wanted.event_id);
    if let Messages::Plain { .. } = wanted.messages {
        let args = wire::ConnectDomainEventRegisterAnyArgs { event_id };
        return Registration::new::<Plain>(wanted.messages, &wanted.target, &[], &args);
    }
    let dom = wanted.object.cloned();
    let args = wire::ConnectDomainEventCallbackRegisterAnyArgs { event_id, dom };
    Registration::new::<Numbered>(wanted.messages, &wanted.target, &[], &args)
}

/// Bodies that a callback id goes before.
macro_rules! with_callback_id {
    ($($message:ident),* $(,)?) => {
        $(impl IntoEvent<DomainEvent> for wire::$message {
            fn into_event(self) -> DomainEvent {
                self.msg.into_event()
            }
        })*
    };
}

with_callback_id!(
    DomainEventCallbackLifecycleMsg,
    DomainEventCallbackRebootMsg,
    DomainEventCallbackRtcChangeMsg,
    DomainEventCallbackWatchdogMsg,
    DomainEventCallbackIoErrorMsg,
    DomainEventCallbackGraphicsMsg,
    DomainEventCallbackIoErrorReasonMsg,
    DomainEventCallbackControlErrorMsg,
    DomainEventCallbackBlockJobMsg,
    DomainEventCallbackDiskChangeMsg,
    DomainEventCallbackTrayChangeMsg,
    DomainEventCallbackBalloonChangeMsg,
    DomainEventCallbackDeviceRemovedMsg,
);

/// What each body says.
macro_rules! bodies {
    ($($message:ident => |$body:ident| $event:expr;)*) => {
        $(impl IntoEvent<DomainEvent> for wire::$message {
            fn into_event(self) -> DomainEvent {
                use DomainEvent::*;
                let $body = self;
                $event
            }
        })*
    };
}

bodies! {
    DomainEventLifecycleMsg => |body| Lifecycle {
        domain: body.dom,
        change: DomainLifecycle::new(body.event, body.detail),
    };
    DomainEventRebootMsg => |body| Reboot { domain: body.dom };
    DomainEventRtcChangeMsg => |body| RtcChange { domain: body.dom, offset: body.offset };
    DomainEventWatchdogMsg => |body| Watchdog {
        domain: body.dom,
        action: body.action,
    };
    DomainEventIoErrorMsg => |body| IoError {
        domain: body.dom,
        src_path: body.src_path,
        dev_alias: body.dev_alias,
        action: body.action,
    };
    DomainEventGraphicsMsg => |body| Graphics {
        domain: body.dom,
        phase: body.phase,
        local: body.local,
        remote: body.remote,
        auth_scheme: body.auth_scheme,
        subject: body.subject,
    };
    DomainEventIoErrorReasonMsg => |body| IoErrorReason {
        domain: body.dom,
        src_path: body.src_path,
        dev_alias: body.dev_alias,
        action: body.action,
        reason: body.reason,
    };
    DomainEventControlErrorMsg => |body| ControlError { domain: body.dom };
    DomainEventBlockJobMsg => |body| BlockJob {
        domain: body.dom,
        path: body.path,
        job: body.r#type,
        status: body.status,
    };
    DomainEventDiskChangeMsg => |body| DiskChange {
        domain: body.dom,
        old_src_path: body.old_src_path,
        new_src_path: body.new_src_path,
        dev_alias: body.dev_alias,
        reason: body.reason,
    };
    DomainEventTrayChangeMsg => |body| TrayChange {
        domain: body.dom,
        dev_alias: body.dev_alias,
        reason: body.reason,
    };
    DomainEventPmwakeupMsg => |body| PmWakeup { domain: body.dom, reason: 0 };
    DomainEventCallbackPmwakeupMsg => |body| PmWakeup {
        domain: body.msg.dom,
        reason: body.reason,
    };
    DomainEventPmsuspendMsg => |body| PmSuspend { domain: body.dom, reason: 0 };
    DomainEventCallbackPmsuspendMsg => |body| PmSuspend {
        domain: body.msg.dom,
        reason: body.reason,
    };
    DomainEventBalloonChangeMsg => |body| BalloonChange {
        domain: body.dom,
        actual: body.actual,
    };
    DomainEventPmsuspendDiskMsg => |body| PmSuspendDisk { domain: body.dom, reason: 0 };
    DomainEventCallbackPmsuspendDiskMsg => |body| PmSuspendDisk {
        domain: body.msg.dom,
        reason: body.reason,
    };
    DomainEventDeviceRemovedMsg => |body| DeviceRemoved {
        domain: body.dom,
        dev_alias: body.dev_alias,
    };
    DomainEventBlockJob2Msg => |body| BlockJob2 {
        domain: body.dom,
        dst: body.dst,
        job: body.r#type,
        status: body.status,
    };
    DomainEventCallbackTunableMsg => |body| Tunable {
        domain: body.dom,
        params: body.params,
    };
    DomainEventCallbackAgentLifecycleMsg => |body| AgentLifecycle {
        domain: body.dom,
        state: body.state,
        reason: body.reason,
    };
    DomainEventCallbackDeviceAddedMsg => |body| DeviceAdded {
        domain: body.dom,
        dev_alias: body.dev_alias,
    };
    DomainEventCallbackMigrationIterationMsg => |body| MigrationIteration {
        domain: body.dom,
        iteration: body.iteration,
    };
    DomainEventCallbackJobCompletedMsg => |body| JobCompleted {
        domain: body.dom,
        params: body.params,
    };
    DomainEventCallbackDeviceRemovalFailedMsg => |body| DeviceRemovalFailed {
        domain: body.dom,
        dev_alias: body.dev_alias,
    };
    DomainEventCallbackMetadataChangeMsg => |body| MetadataChange {
        domain: body.dom,
        metadata: body.r#type,
        nsuri: body.nsuri,
    };
    DomainEventBlockThresholdMsg => |body| BlockThreshold {
        domain: body.dom,
        dev: body.dev,
        path: body.path,
        threshold: body.threshold,
        excess: body.excess,
    };
    DomainEventMemoryFailureMsg => |body| MemoryFailure {
        domain: body.dom,
        recipient: body.recipient,
        action: body.action,
        flags: body.flags,
    };
    DomainEventMemoryDeviceSizeChangeMsg => |body| MemoryDeviceSizeChange {
        domain: body.dom,
        alias: body.alias,
        size: body.size,
    };
    DomainEventNicMacChangeMsg => |body| NicMacChange {
        domain: body.dom,
        alias: body.alias,
        old_mac: body.old_mac,
        new_mac: body.new_mac,
    };
    DomainEventVcpuRemovedMsg => |body| VcpuRemoved {
        domain: body.dom,
        vcpu_id: body.vcpuid,
    };
    DomainEventCallbackChannelLifecycleMsg => |body| ChannelLifecycle {
        domain: body.dom,
        channel_name: body.channel_name,
        state: body.state,
        reason: body.reason,
    };
}
