//! The events of domains: what each says. `domain_wire` has how the wire says it. Imports objects.

use super::*;
use crate::objects::{Domain, TypedParam};

/// An event of a domain. The domain is as it was when the event was sent: the id of one that has stopped is the old one or
/// none.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DomainEvent {
    /// Its configuration or its state has changed (`VIR_DOMAIN_EVENT_ID_LIFECYCLE`).
    Lifecycle {
        /// The domain.
        domain: Domain,
        /// What happened.
        change: DomainLifecycle,
    },
    /// The guest has rebooted, inside the same QEMU (`VIR_DOMAIN_EVENT_ID_REBOOT`).
    Reboot {
        /// The domain.
        domain: Domain,
    },
    /// The guest has set its clock (`VIR_DOMAIN_EVENT_ID_RTC_CHANGE`).
    RtcChange {
        /// The domain.
        domain: Domain,
        /// How far it is from UTC now, seconds.
        offset: i64,
    },
    /// The guest's watchdog has fired (`VIR_DOMAIN_EVENT_ID_WATCHDOG`).
    Watchdog {
        /// The domain.
        domain: Domain,
        /// What comes of it.
        action: DomainEventWatchdogAction,
    },
    /// A disk cannot be read or written (`VIR_DOMAIN_EVENT_ID_IO_ERROR`). Comes along with
    /// [`IoErrorReason`](Self::IoErrorReason).
    IoError {
        /// The domain.
        domain: Domain,
        /// The path on the host.
        src_path: String,
        /// The guest's disk, as an alias.
        dev_alias: String,
        /// What comes of it.
        action: DomainEventIoErrorAction,
    },
    /// A client has connected to the guest's display, or gone (`VIR_DOMAIN_EVENT_ID_GRAPHICS`).
    Graphics {
        /// The domain.
        domain: Domain,
        /// Which of it.
        phase: DomainEventGraphicsPhase,
        /// The server's end.
        local: DomainEventGraphicsAddress,
        /// The client's end.
        remote: DomainEventGraphicsAddress,
        /// How the client authenticated, such as `vnc`.
        auth_scheme: String,
        /// Who the client is.
        subject: Vec<DomainEventGraphicsIdentity>,
    },
    /// As [`IoError`](Self::IoError), with its reason (`VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON`).
    IoErrorReason {
        /// The domain.
        domain: Domain,
        /// The path on the host.
        src_path: String,
        /// The guest's disk, as an alias.
        dev_alias: String,
        /// What comes of it.
        action: DomainEventIoErrorAction,
        /// `enospc` where the storage is full; else empty.
        reason: String,
    },
    /// libvirt has lost control of the domain in part (`VIR_DOMAIN_EVENT_ID_CONTROL_ERROR`).
    ControlError {
        /// The domain.
        domain: Domain,
    },
    /// A block job has ended, or waits to be finished (`VIR_DOMAIN_EVENT_ID_BLOCK_JOB`). Comes along with
    /// [`BlockJob2`](Self::BlockJob2).
    BlockJob {
        /// The domain.
        domain: Domain,
        /// The path of the disk on the host; empty where it has none.
        path: String,
        /// Which job.
        job: DomainBlockJobType,
        /// How it stands.
        status: ConnectDomainEventBlockJobStatus,
    },
    /// The source of a removable disk has changed or is not there at the start (`VIR_DOMAIN_EVENT_ID_DISK_CHANGE`).
    DiskChange {
        /// The domain.
        domain: Domain,
        /// The path before.
        old_src_path: Option<String>,
        /// The path now.
        new_src_path: Option<String>,
        /// The guest's disk, as an alias.
        dev_alias: String,
        /// Why.
        reason: ConnectDomainEventDiskChangeReason,
    },
    /// The tray of a removable disk has moved (`VIR_DOMAIN_EVENT_ID_TRAY_CHANGE`).
    TrayChange {
        /// The domain.
        domain: Domain,
        /// The guest's disk, as an alias.
        dev_alias: String,
        /// Which way.
        reason: DomainEventTrayChangeReason,
    },
    /// The guest has woken up (`VIR_DOMAIN_EVENT_ID_PMWAKEUP`).
    PmWakeup {
        /// The domain.
        domain: Domain,
        /// libvirt gives none: 0.
        reason: i32,
    },
    /// The guest has gone to sleep in memory (`VIR_DOMAIN_EVENT_ID_PMSUSPEND`).
    PmSuspend {
        /// The domain.
        domain: Domain,
        /// libvirt gives none: 0.
        reason: i32,
    },
    /// The guest's memory balloon has another size (`VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE`).
    BalloonChange {
        /// The domain.
        domain: Domain,
        /// Memory that the guest has now, KiB.
        actual: u64,
    },
    /// The guest has gone to sleep on its disk (`VIR_DOMAIN_EVENT_ID_PMSUSPEND_DISK`).
    PmSuspendDisk {
        /// The domain.
        domain: Domain,
        /// libvirt gives none: 0.
        reason: i32,
    },
    /// The guest has let a device go (`VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED`).
    DeviceRemoved {
        /// The domain.
        domain: Domain,
        /// The device, as an alias.
        dev_alias: String,
    },
    /// As [`BlockJob`](Self::BlockJob), with the disk's name in the guest (`VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2`).
    BlockJob2 {
        /// The domain.
        domain: Domain,
        /// The disk, such as `vda`.
        dst: String,
        /// Which job.
        job: DomainBlockJobType,
        /// How it stands.
        status: ConnectDomainEventBlockJobStatus,
    },
    /// Tuning parameters have changed (`VIR_DOMAIN_EVENT_ID_TUNABLE`).
    Tunable {
        /// The domain.
        domain: Domain,
        /// The parameters that have, by names such as `cputune.vcpupin0`.
        params: Vec<TypedParam>,
    },
    /// The guest agent has connected or gone (`VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE`).
    AgentLifecycle {
        /// The domain.
        domain: Domain,
        /// Which of it.
        state: ConnectDomainEventAgentLifecycleState,
        /// Why.
        reason: ConnectDomainEventAgentLifecycleReason,
    },
    /// The guest has a device more (`VIR_DOMAIN_EVENT_ID_DEVICE_ADDED`).
    DeviceAdded {
        /// The domain.
        domain: Domain,
        /// The device, as an alias.
        dev_alias: String,
    },
    /// Migration begins to send the guest's memory once more (`VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION`).
    MigrationIteration {
        /// The domain.
        domain: Domain,
        /// Which time it is.
        iteration: i32,
    },
    /// A job, such as a migration or a backup, has ended (`VIR_DOMAIN_EVENT_ID_JOB_COMPLETED`).
    JobCompleted {
        /// The domain.
        domain: Domain,
        /// Its statistics, as those of `virDomainGetJobStats`.
        params: Vec<TypedParam>,
    },
    /// The guest would not let a device go (`VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED`).
    DeviceRemovalFailed {
        /// The domain.
        domain: Domain,
        /// The device, as an alias.
        dev_alias: String,
    },
    /// The domain's metadata have changed (`VIR_DOMAIN_EVENT_ID_METADATA_CHANGE`).
    MetadataChange {
        /// The domain.
        domain: Domain,
        /// Which of them.
        metadata: DomainMetadataType,
        /// The XML namespace of the element that has.
        nsuri: Option<String>,
    },
    /// More of a block device has been written than was asked to be told of (`VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD`).
    BlockThreshold {
        /// The domain.
        domain: Domain,
        /// The device, such as `vda` or `vda[2]`.
        dev: String,
        /// Its path on the host.
        path: Option<String>,
        /// The threshold, bytes.
        threshold: u64,
        /// Bytes by which it was exceeded.
        excess: u64,
    },
    /// The host's memory has failed under the guest (`VIR_DOMAIN_EVENT_ID_MEMORY_FAILURE`).
    MemoryFailure {
        /// The domain.
        domain: Domain,
        /// Whose memory it is.
        recipient: DomainMemoryFailureRecipientType,
        /// What comes of it.
        action: DomainMemoryFailureActionType,
        /// More about it.
        flags: DomainMemoryFailureFlags,
    },
    /// A memory device has another size (`VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE`).
    MemoryDeviceSizeChange {
        /// The domain.
        domain: Domain,
        /// The device, as an alias.
        alias: String,
        /// Its size now, KiB.
        size: u64,
    },
    /// The guest has given a network card another address (`VIR_DOMAIN_EVENT_ID_NIC_MAC_CHANGE`). Since libvirt 11.2.0.
    NicMacChange {
        /// The domain.
        domain: Domain,
        /// The card, as an alias.
        alias: String,
        /// The address before.
        old_mac: String,
        /// The address now.
        new_mac: String,
    },
    /// The guest has let a virtual CPU go (`VIR_DOMAIN_EVENT_ID_VCPU_REMOVED`). Since libvirt 12.4.0.
    VcpuRemoved {
        /// The domain.
        domain: Domain,
        /// Its number in the domain's XML.
        vcpu_id: u32,
    },
    /// Somebody in the guest has opened a virtio channel, or closed it (`VIR_DOMAIN_EVENT_ID_CHANNEL_LIFECYCLE`). Since
    /// libvirt 12.4.0.
    ChannelLifecycle {
        /// The domain.
        domain: Domain,
        /// The channel, such as `org.qemu.guest_agent.0`.
        channel_name: String,
        /// Which of it, in the numbers of the agent's event.
        state: ConnectDomainEventAgentLifecycleState,
        /// Why, in the numbers of the agent's event.
        reason: ConnectDomainEventAgentLifecycleReason,
    },
    /// What this crate does not know.
    Other(OtherEvent),
}

impl DomainEvent {
    /// The domain it is about; none of an event that this crate does not know.
    pub fn domain(&self) -> Option<&Domain> {
        use DomainEvent::*;
        match self {
            Lifecycle { domain, .. }
            | Reboot { domain, .. }
            | RtcChange { domain, .. }
            | Watchdog { domain, .. }
            | IoError { domain, .. }
            | Graphics { domain, .. }
            | IoErrorReason { domain, .. }
            | ControlError { domain, .. }
            | BlockJob { domain, .. }
            | DiskChange { domain, .. }
            | TrayChange { domain, .. }
            | PmWakeup { domain, .. }
            | PmSuspend { domain, .. }
            | BalloonChange { domain, .. }
            | PmSuspendDisk { domain, .. }
            | DeviceRemoved { domain, .. }
            | BlockJob2 { domain, .. }
            | Tunable { domain, .. }
            | AgentLifecycle { domain, .. }
            | DeviceAdded { domain, .. }
            | MigrationIteration { domain, .. }
            | JobCompleted { domain, .. }
            | DeviceRemovalFailed { domain, .. }
            | MetadataChange { domain, .. }
            | BlockThreshold { domain, .. }
            | MemoryFailure { domain, .. }
            | MemoryDeviceSizeChange { domain, .. }
            | NicMacChange { domain, .. }
            | VcpuRemoved { domain, .. }
            | ChannelLifecycle { domain, .. } => Some(domain),
            Other(_) => None,
        }
    }
}

impl From<OtherEvent> for DomainEvent {
    fn from(other: OtherEvent) -> Self {
        DomainEvent::Other(other)
    }
}
