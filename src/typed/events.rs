//! Events with typed data: [`TypedEvent`].

use serde_json::Value;
use serde_json::value::RawValue;

use super::event_data::*;
use crate::qmp::Event;
use crate::types::wire::Wire;

/// Declares [`TypedEvent`]: each event with its data, if it has any, and its name in QMP.
macro_rules! events {
    ($(
        $(#[$meta:meta])*
        $variant:ident $(($data:ty))? = $name:literal,
    )*) => {
        /// What an event says, with typed data.
        ///
        /// Made by [`Event::typed`] or `from`. Time and domain stay with the [`Event`].
        #[derive(Debug, Clone)]
        #[non_exhaustive]
        pub enum TypedEvent {
            $($(#[$meta])* $variant $(($data))?,)*
            /// An event that this crate does not know, or whose data are not what they should be: nothing is lost.
            Other {
                /// Its name in QMP.
                name: String,
                /// Its data as JSON text, as sent.
                data: Option<Box<RawValue>>,
            },
        }

        impl TypedEvent {
            /// The names in QMP of all variants but [`Other`](Self::Other).
            pub const KNOWN: &'static [&'static str] = &[$($name),*];

            /// The event's name in QMP, such as `BLOCK_JOB_READY`.
            pub fn name(&self) -> &str {
                match self {
                    $(events!(@pattern $variant $($data)?) => $name,)*
                    Self::Other { name, .. } => name,
                }
            }

            /// The data of the event `name`, if it is known and they are what they should be.
            fn known(name: &str, data: Value) -> Option<Self> {
                Some(match name {
                    $($name => events!(@make data $variant $($data)?),)*
                    _ => return None,
                })
            }

            /// The kind of each event's data, as the tests compare them with QEMU's schema.
            #[cfg(test)]
            pub(super) fn kinds() -> Vec<(&'static str, Option<crate::types::wire::Kind>)> {
                vec![$(($name, events!(@kind $($data)?)),)*]
            }
        }
    };
    (@pattern $variant:ident) => { Self::$variant };
    (@pattern $variant:ident $data:ty) => { Self::$variant(_) };
    (@make $value:ident $variant:ident) => { Self::$variant };
    (@make $value:ident $variant:ident $data:ty) => { Self::$variant(read::<$data>($value)?) };
    (@kind) => { None };
    (@kind $data:ty) => { Some(<$data>::default().kind()) };
}

events! {
    /// The guest's CPUs have stopped.
    Stop = "STOP",
    /// The guest's CPUs go on.
    Resume = "RESUME",
    /// The guest has shut down, or QEMU ends.
    Shutdown(ShutdownInfo) = "SHUTDOWN",
    /// The guest was reset.
    Reset(ShutdownInfo) = "RESET",
    /// The guest's power button was pressed.
    Powerdown = "POWERDOWN",
    /// The guest has gone to sleep (ACPI S3).
    Suspend = "SUSPEND",
    /// The guest has gone to sleep on disk (ACPI S4).
    SuspendDisk = "SUSPEND_DISK",
    /// The guest has woken up.
    Wakeup = "WAKEUP",
    /// The guest's watchdog has run out.
    Watchdog(WatchdogInfo) = "WATCHDOG",
    /// The guest's system has panicked.
    GuestPanicked(GuestPanicked) = "GUEST_PANICKED",
    /// The guest's system has panicked and loaded a kernel for the crash.
    GuestCrashloaded(GuestPanicked) = "GUEST_CRASHLOADED",
    /// The guest has set its clock.
    RtcChange(RtcChange) = "RTC_CHANGE",
    /// The balloon has changed.
    BalloonChange(crate::types::Balloon) = "BALLOON_CHANGE",
    /// A device is gone.
    DeviceDeleted(DeviceDeleted) = "DEVICE_DELETED",
    /// The guest refuses to let go of a device.
    DeviceUnplugGuestError(DeviceDeleted) = "DEVICE_UNPLUG_GUEST_ERROR",
    /// A drive's tray has opened or closed.
    DeviceTrayMoved(DeviceTrayMoved) = "DEVICE_TRAY_MOVED",
    /// A disk has reported an error.
    BlockIoError(BlockIoError) = "BLOCK_IO_ERROR",
    /// An image is damaged.
    BlockImageCorrupted(BlockImageCorrupted) = "BLOCK_IMAGE_CORRUPTED",
    /// A job of the block layer has ended, well or badly.
    BlockJobCompleted(BlockJobEnded) = "BLOCK_JOB_COMPLETED",
    /// A job of the block layer was cancelled.
    BlockJobCancelled(BlockJobEnded) = "BLOCK_JOB_CANCELLED",
    /// A job of the block layer waits to be completed.
    BlockJobReady(BlockJobEnded) = "BLOCK_JOB_READY",
    /// A job of the block layer has met an error.
    BlockJobError(BlockJobError) = "BLOCK_JOB_ERROR",
    /// A job of the block layer waits to be finalized.
    BlockJobPending(BlockJobPending) = "BLOCK_JOB_PENDING",
    /// A write went beyond the offset that was set for it.
    BlockWriteThreshold(BlockWriteThreshold) = "BLOCK_WRITE_THRESHOLD",
    /// An export of a disk is gone.
    BlockExportDeleted(BlockExportDeleted) = "BLOCK_EXPORT_DELETED",
    /// A background job is in another state.
    JobStatusChange(JobStatusChange) = "JOB_STATUS_CHANGE",
    /// A migration is in another state. Sent where the capability `events` is on.
    Migration(MigrationChange) = "MIGRATION",
    /// A migration has begun another pass over the memory. Sent where the capability `events` is on.
    MigrationPass(MigrationPass) = "MIGRATION_PASS",
    /// A dump of the guest's memory has ended.
    DumpCompleted(DumpCompleted) = "DUMP_COMPLETED",
    /// The guest has changed what a network device receives.
    NicRxFilterChanged(NicRxFilterChanged) = "NIC_RX_FILTER_CHANGED",
    /// A VNC client has connected.
    VncConnected(VncConnection) = "VNC_CONNECTED",
    /// A VNC client has authenticated.
    VncInitialized(VncConnection) = "VNC_INITIALIZED",
    /// A VNC client has gone.
    VncDisconnected(VncConnection) = "VNC_DISCONNECTED",
    /// A SPICE client has connected.
    SpiceConnected(SpiceConnection) = "SPICE_CONNECTED",
    /// A SPICE client has authenticated.
    SpiceInitialized(SpiceConnection) = "SPICE_INITIALIZED",
    /// A SPICE client has gone.
    SpiceDisconnected(SpiceConnection) = "SPICE_DISCONNECTED",
    /// A SPICE client has moved to where the guest migrates.
    SpiceMigrateCompleted = "SPICE_MIGRATE_COMPLETED",
    /// The guest has opened or closed a serial port of virtio, such as that of its agent.
    VserportChange(VserportChange) = "VSERPORT_CHANGE",
    /// The guest reports on a device that was plugged.
    AcpiDeviceOst(AcpiDeviceOst) = "ACPI_DEVICE_OST",
    /// The images of a quorum differ, and too few agree.
    QuorumFailure(QuorumFailure) = "QUORUM_FAILURE",
    /// An image of a quorum differs or has failed.
    QuorumReportBad(QuorumReportBad) = "QUORUM_REPORT_BAD",
    /// A memory device has another size.
    MemoryDeviceSizeChange(MemoryDeviceSizeChange) = "MEMORY_DEVICE_SIZE_CHANGE",
    /// The host's memory has failed.
    MemoryFailure(MemoryFailure) = "MEMORY_FAILURE",
}

fn read<T: Wire + Default>(data: Value) -> Option<T> {
    let mut read = T::default();
    read.read(data).ok()?;
    Some(read)
}

impl From<&Event> for TypedEvent {
    fn from(event: &Event) -> Self {
        let known = event
            .data_as()
            .ok()
            .and_then(|data| TypedEvent::known(&event.name, data));
        known.unwrap_or_else(|| TypedEvent::Other {
            name: event.name.clone(),
            data: event.data.clone(),
        })
    }
}

impl Event {
    /// What the event says, with typed data. What is not known, or does not decode, is [`TypedEvent::Other`], with its
    /// data as they came.
    pub fn typed(&self) -> TypedEvent {
        TypedEvent::from(self)
    }
}
