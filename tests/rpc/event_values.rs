//! What each event says: every message of the protocol, in both its forms, as the value that it becomes.

use libvirt_qmp::events::*;
use libvirt_qmp::packet::Packet;
use libvirt_qmp::protocol::remote::procedure::*;
use libvirt_qmp::protocol::remote::*;
use libvirt_qmp::{Domain, TypedParam};

use super::object_events::{item, message, next, register_all, register_all_plain};
use super::support::mock::{domain, quiet, session};

/// The domain of every event here.
fn dom() -> Domain {
    domain("vm-1")
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn params() -> Vec<TypedParam> {
    vec![
        TypedParam::new("cputune.shares", 2048_u64),
        TypedParam::new("name", "text"),
        TypedParam::new("half", 0.5_f64),
    ]
}

/// The packet of a message, with a callback id and without, and the value of both.
macro_rules! both {
    ($callback_id:ident, $with:ident($with_msg:ident), $plain:ident($plain_msg:ident) { $($field:ident: $value:expr),* $(,)? }, $expected:expr) => {{
        let msg = || $plain_msg { dom: dom(), $($field: $value),* };
        let callback_id = $callback_id;
        let with = message::<$with>(&$with_msg { callback_id, msg: msg() });
        (with, message::<$plain>(&msg()), $expected)
    }};
}

/// The same where the first form has a reason too.
macro_rules! with_reason {
    ($callback_id:ident, $with:ident($with_msg:ident), $plain:ident($plain_msg:ident), $variant:ident) => {{
        let callback_id = $callback_id;
        let body = $with_msg {
            callback_id,
            reason: 0,
            msg: $plain_msg { dom: dom() },
        };
        let expected = DomainEvent::$variant {
            domain: dom(),
            reason: 0,
        };
        let plain = message::<$plain>(&$plain_msg { dom: dom() });
        (message::<$with>(&body), plain, expected)
    }};
}

/// The kinds of event that there are in both forms, in the order of their numbers. `id` gives each its callback id.
fn old_kinds(id: impl Fn(i32) -> i32) -> Vec<(Packet, Packet, DomainEvent)> {
    let ids: Vec<i32> = (0..16).map(id).collect();
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ids[..] else {
        panic!("sixteen");
    };
    let address = |family, node: &str, service: &str| DomainEventGraphicsAddress {
        family: DomainEventGraphicsAddressType(family),
        node: text(node),
        service: text(service),
    };
    vec![
        both!(
            a,
            DomainEventCallbackLifecycle(DomainEventCallbackLifecycleMsg),
            DomainEventLifecycle(DomainEventLifecycleMsg) { event: DomainEventType::SUSPENDED, detail: 2 },
            DomainEvent::Lifecycle {
                domain: dom(),
                change: DomainLifecycle::Suspended(DomainEventSuspendedDetailType::IOERROR),
            }
        ),
        both!(
            b,
            DomainEventCallbackReboot(DomainEventCallbackRebootMsg),
            DomainEventReboot(DomainEventRebootMsg) {},
            DomainEvent::Reboot { domain: dom() }
        ),
        both!(
            c,
            DomainEventCallbackRtcChange(DomainEventCallbackRtcChangeMsg),
            DomainEventRtcChange(DomainEventRtcChangeMsg) { offset: -3_600_000_000_000 },
            DomainEvent::RtcChange {
                domain: dom(),
                offset: -3_600_000_000_000,
            }
        ),
        both!(
            d,
            DomainEventCallbackWatchdog(DomainEventCallbackWatchdogMsg),
            DomainEventWatchdog(DomainEventWatchdogMsg) { action: DomainEventWatchdogAction(6) },
            DomainEvent::Watchdog {
                domain: dom(),
                action: DomainEventWatchdogAction::INJECTNMI,
            }
        ),
        both!(
            e,
            DomainEventCallbackIoError(DomainEventCallbackIoErrorMsg),
            DomainEventIoError(DomainEventIoErrorMsg) {
                src_path: text("/disk"),
                dev_alias: text("virtio-disk0"),
                action: DomainEventIoErrorAction(1),
            },
            DomainEvent::IoError {
                domain: dom(),
                src_path: text("/disk"),
                dev_alias: text("virtio-disk0"),
                action: DomainEventIoErrorAction::PAUSE,
            }
        ),
        both!(
            f,
            DomainEventCallbackGraphics(DomainEventCallbackGraphicsMsg),
            DomainEventGraphics(DomainEventGraphicsMsg) {
                phase: DomainEventGraphicsPhase(1),
                local: address(0, "127.0.0.1", "5900"),
                remote: address(1, "::1", "41000"),
                auth_scheme: text("sasl"),
                subject: vec![DomainEventGraphicsIdentity {
                    r#type: text("saslUsername"),
                    name: text("fred"),
                }],
            },
            graphics()
        ),
        both!(
            g,
            DomainEventCallbackIoErrorReason(DomainEventCallbackIoErrorReasonMsg),
            DomainEventIoErrorReason(DomainEventIoErrorReasonMsg) {
                src_path: text("/disk"),
                dev_alias: text("virtio-disk0"),
                action: DomainEventIoErrorAction(2),
                reason: text("enospc"),
            },
            DomainEvent::IoErrorReason {
                domain: dom(),
                src_path: text("/disk"),
                dev_alias: text("virtio-disk0"),
                action: DomainEventIoErrorAction::REPORT,
                reason: text("enospc"),
            }
        ),
        both!(
            h,
            DomainEventCallbackControlError(DomainEventCallbackControlErrorMsg),
            DomainEventControlError(DomainEventControlErrorMsg) {},
            DomainEvent::ControlError { domain: dom() }
        ),
        both!(
            i,
            DomainEventCallbackBlockJob(DomainEventCallbackBlockJobMsg),
            DomainEventBlockJob(DomainEventBlockJobMsg) { path: text("/disk"), r#type: DomainBlockJobType(2), status: ConnectDomainEventBlockJobStatus(3) },
            DomainEvent::BlockJob {
                domain: dom(),
                path: text("/disk"),
                job: DomainBlockJobType::COPY,
                status: ConnectDomainEventBlockJobStatus::READY,
            }
        ),
        both!(
            j,
            DomainEventCallbackDiskChange(DomainEventCallbackDiskChangeMsg),
            DomainEventDiskChange(DomainEventDiskChangeMsg) {
                old_src_path: Some(text("/old")),
                new_src_path: None,
                dev_alias: text("ide0-0-0"),
                reason: ConnectDomainEventDiskChangeReason(1),
            },
            DomainEvent::DiskChange {
                domain: dom(),
                old_src_path: Some(text("/old")),
                new_src_path: None,
                dev_alias: text("ide0-0-0"),
                reason: ConnectDomainEventDiskChangeReason::DROP_MISSING_ON_START,
            }
        ),
        both!(
            k,
            DomainEventCallbackTrayChange(DomainEventCallbackTrayChangeMsg),
            DomainEventTrayChange(DomainEventTrayChangeMsg) { dev_alias: text("ide0-0-0"), reason: DomainEventTrayChangeReason(1) },
            DomainEvent::TrayChange {
                domain: dom(),
                dev_alias: text("ide0-0-0"),
                reason: DomainEventTrayChangeReason::CLOSE,
            }
        ),
        with_reason!(
            l,
            DomainEventCallbackPmwakeup(DomainEventCallbackPmwakeupMsg),
            DomainEventPmwakeup(DomainEventPmwakeupMsg),
            PmWakeup
        ),
        with_reason!(
            m,
            DomainEventCallbackPmsuspend(DomainEventCallbackPmsuspendMsg),
            DomainEventPmsuspend(DomainEventPmsuspendMsg),
            PmSuspend
        ),
        both!(
            n,
            DomainEventCallbackBalloonChange(DomainEventCallbackBalloonChangeMsg),
            DomainEventBalloonChange(DomainEventBalloonChangeMsg) { actual: u64::MAX },
            DomainEvent::BalloonChange {
                domain: dom(),
                actual: u64::MAX,
            }
        ),
        with_reason!(
            o,
            DomainEventCallbackPmsuspendDisk(DomainEventCallbackPmsuspendDiskMsg),
            DomainEventPmsuspendDisk(DomainEventPmsuspendDiskMsg),
            PmSuspendDisk
        ),
        both!(
            p,
            DomainEventCallbackDeviceRemoved(DomainEventCallbackDeviceRemovedMsg),
            DomainEventDeviceRemoved(DomainEventDeviceRemovedMsg) { dev_alias: text("net0") },
            DomainEvent::DeviceRemoved {
                domain: dom(),
                dev_alias: text("net0"),
            }
        ),
    ]
}

fn graphics() -> DomainEvent {
    let address = |family, node, service| DomainEventGraphicsAddress {
        family,
        node: text(node),
        service: text(service),
    };
    DomainEvent::Graphics {
        domain: dom(),
        phase: DomainEventGraphicsPhase::INITIALIZE,
        local: address(DomainEventGraphicsAddressType::IPV4, "127.0.0.1", "5900"),
        remote: address(DomainEventGraphicsAddressType::IPV6, "::1", "41000"),
        auth_scheme: text("sasl"),
        subject: vec![DomainEventGraphicsIdentity {
            r#type: text("saslUsername"),
            name: text("fred"),
        }],
    }
}

/// The kinds that there are with a callback id only, in the order of their numbers.
#[rustfmt::skip]
fn new_kinds(id: impl Fn(i32) -> i32) -> Vec<(Packet, DomainEvent)> {
    let ids: Vec<i32> = (16..30).map(id).collect();
    macro_rules! kinds {
        ($($message:ident($body:ident) { $($field:ident: $value:expr),* } => $variant:ident { $($name:ident: $becomes:expr),* };)*) => {{
            let mut ids = ids.iter();
            vec![$({
                let callback_id = *ids.next().unwrap();
                let body = $body { callback_id, dom: dom(), $($field: $value),* };
                let event = DomainEvent::$variant { domain: dom(), $($name: $becomes),* };
                (message::<$message>(&body), event)
            }),*]
        }};
    }
    kinds! {
        DomainEventBlockJob2(DomainEventBlockJob2Msg) { dst: text("vda"), r#type: DomainBlockJobType(4), status: ConnectDomainEventBlockJobStatus(0) } =>
            BlockJob2 { dst: text("vda"), job: DomainBlockJobType::ACTIVE_COMMIT, status: ConnectDomainEventBlockJobStatus::COMPLETED };
        DomainEventCallbackTunable(DomainEventCallbackTunableMsg) { params: params() } =>
            Tunable { params: params() };
        DomainEventCallbackAgentLifecycle(DomainEventCallbackAgentLifecycleMsg) { state: ConnectDomainEventAgentLifecycleState(1), reason: ConnectDomainEventAgentLifecycleReason(2) } =>
            AgentLifecycle { state: ConnectDomainEventAgentLifecycleState::CONNECTED, reason: ConnectDomainEventAgentLifecycleReason::CHANNEL };
        DomainEventCallbackDeviceAdded(DomainEventCallbackDeviceAddedMsg) { dev_alias: text("net1") } =>
            DeviceAdded { dev_alias: text("net1") };
        DomainEventCallbackMigrationIteration(DomainEventCallbackMigrationIterationMsg) { iteration: 7 } =>
            MigrationIteration { iteration: 7 };
        DomainEventCallbackJobCompleted(DomainEventCallbackJobCompletedMsg) { params: params() } =>
            JobCompleted { params: params() };
        DomainEventCallbackDeviceRemovalFailed(DomainEventCallbackDeviceRemovalFailedMsg) { dev_alias: text("net2") } =>
            DeviceRemovalFailed { dev_alias: text("net2") };
        DomainEventCallbackMetadataChange(DomainEventCallbackMetadataChangeMsg) { r#type: DomainMetadataType(2), nsuri: Some(text("urn:x")) } =>
            MetadataChange { metadata: DomainMetadataType::ELEMENT, nsuri: Some(text("urn:x")) };
        DomainEventBlockThreshold(DomainEventBlockThresholdMsg) { dev: text("vda[1]"), path: None, threshold: 5, excess: 6 } =>
            BlockThreshold { dev: text("vda[1]"), path: None, threshold: 5, excess: 6 };
        DomainEventMemoryFailure(DomainEventMemoryFailureMsg) { recipient: DomainMemoryFailureRecipientType(1), action: DomainMemoryFailureActionType(3), flags: DomainMemoryFailureFlags(3) } =>
            MemoryFailure { recipient: DomainMemoryFailureRecipientType::GUEST, action: DomainMemoryFailureActionType::RESET, flags: DomainMemoryFailureFlags(3) };
        DomainEventMemoryDeviceSizeChange(DomainEventMemoryDeviceSizeChangeMsg) { alias: text("virtiomem0"), size: 4096 } =>
            MemoryDeviceSizeChange { alias: text("virtiomem0"), size: 4096 };
        DomainEventNicMacChange(DomainEventNicMacChangeMsg) { alias: text("net0"), old_mac: text("52:54:00:00:00:01"), new_mac: text("52:54:00:00:00:02") } =>
            NicMacChange { alias: text("net0"), old_mac: text("52:54:00:00:00:01"), new_mac: text("52:54:00:00:00:02") };
        DomainEventVcpuRemoved(DomainEventVcpuRemovedMsg) { vcpuid: 3 } =>
            VcpuRemoved { vcpu_id: 3 };
        DomainEventCallbackChannelLifecycle(DomainEventCallbackChannelLifecycleMsg) { channel_name: text("org.x.0"), state: ConnectDomainEventAgentLifecycleState(2), reason: ConnectDomainEventAgentLifecycleReason(1) } =>
            ChannelLifecycle { channel_name: text("org.x.0"), state: ConnectDomainEventAgentLifecycleState::DISCONNECTED, reason: ConnectDomainEventAgentLifecycleReason::DOMAIN_STARTED };
    }
}

#[tokio::test(start_paused = true)]
async fn every_event_of_a_domain_is_the_value_that_it_says() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = register_all(&libvirt, &mut daemon, |event_id| 100 + event_id).await;
    let old = old_kinds(|event_id| 100 + event_id);
    let old = old
        .into_iter()
        .map(|(packet, _, expected)| (packet, expected));
    let all: Vec<_> = old.chain(new_kinds(|event_id| 100 + event_id)).collect();
    assert_eq!(all.len(), 30);
    for (packet, expected) in all {
        // One that is cut short anywhere is an error, and the next is as it was.
        for cut in 4..packet.payload.len() {
            let mut packet = packet.clone();
            packet.payload.truncate(cut);
            daemon.send(packet).await;
            let cut = item(&mut events).await.unwrap();
            assert!(cut.is_err(), "{cut:?}");
        }
        daemon.send(packet).await;
        let event = next(&mut events).await;
        assert_eq!(event, expected);
        assert_eq!(event.domain(), Some(&dom()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_daemons_events_are_the_same_values() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = register_all_plain(&libvirt, &mut daemon).await;
    for (_, packet, expected) in old_kinds(|_| 0) {
        daemon.send(packet).await;
        assert_eq!(next(&mut events).await, expected);
    }
}
