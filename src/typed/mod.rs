//! Commands as structs, each with its arguments and the type of what it returns, and events with typed data. Feature
//! `typed`. May import types, qmp, error and monitor.
//!
//! A command is made by `new` with what it cannot do without, and by one setter for each argument that may be left out.
//! [`TypedExt::call`] runs it:
//!
//! ```no_run
//! # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), libvirt_qmp::Error> {
//! use libvirt_qmp::typed::{BlockdevMirror, MirrorSync, QueryStatus, TypedExt};
//!
//! if monitor.call(QueryStatus::new()).await?.running {
//!     monitor.call(BlockdevMirror::new("disk0", "target0", MirrorSync::Full).job_id("mirror0").speed(50 << 20)).await?;
//! }
//! # Ok(()) }
//! ```
//!
//! Every command is also a [`Command`] by `into()`, for what a [`Command`] can be told besides its arguments:
//!
//! ```no_run
//! # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), Box<dyn std::error::Error>> {
//! use libvirt_qmp::typed::{AddFd, AddedFd};
//! use libvirt_qmp::{Command, MonitorExt};
//!
//! let command = Command::from(AddFd::new().opaque("disk image")).file(std::fs::File::open("disk.img")?);
//! let added: AddedFd = monitor.execute(command).await?;
//! # Ok(()) }
//! ```
//!
//! The arguments have QMP's names in snake_case, so QEMU's documentation applies. They are those of QEMU 7.2 and 10.0,
//! but for the unstable ones (`x-…`). An argument that is not here goes in with `extra`; a command that is not here is a
//! [`Command`], or a [`QmpCommand`] of your own:
//!
//! ```
//! use libvirt_qmp::typed::{Nothing, QmpCommand};
//!
//! #[derive(serde::Serialize)]
//! struct InjectNmi {}
//!
//! impl QmpCommand for InjectNmi {
//!     const NAME: &'static str = "inject-nmi";
//!     type Return = Nothing;
//! }
//! ```

mod block;
mod devices;
mod event_data;
mod events;
mod images;
mod jobs;
mod machine;
mod macros;
mod migration;

#[cfg(test)]
mod facts;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::Error;
use crate::monitor::{Monitor, MonitorExt};
use crate::qmp::Command;

pub use block::{
    BlockDirtyBitmapAdd, BlockDirtyBitmapClear, BlockDirtyBitmapDisable, BlockDirtyBitmapEnable,
    BlockDirtyBitmapRemove, BlockResize, BlockSetWriteThreshold, BlockdevAdd, BlockdevCache,
    BlockdevDel, BlockdevOptions, BlockdevSnapshot, BlockdevSnapshotSync, Discard, NewImageMode,
    QueryBlock, QueryBlockstats, QueryNamedBlockNodes,
};
pub use devices::{
    BlockdevChangeMedium, BlockdevCloseTray, BlockdevInsertMedium, BlockdevOpenTray,
    BlockdevRemoveMedium, ChardevAdd, ChardevAdded, ChardevBackend, ChardevRemove, DeviceAdd,
    DeviceDel, Eject, NetdevAdd, NetdevDel, ObjectAdd, ObjectDel, ReadOnlyMode, SetLink,
};
pub use event_data::{
    AcpiDeviceOst, AcpiOstInfo, BlockErrorAction, BlockExportDeleted, BlockImageCorrupted,
    BlockIoError, BlockJobEnded, BlockJobError, BlockJobPending, BlockWriteThreshold,
    DeviceDeleted, DeviceTrayMoved, DumpCompleted, DumpProgress, DumpStatus, GuestPanicInfo,
    GuestPanicked, IoOperation, JobStatusChange, MemoryDeviceSizeChange, MemoryFailure,
    MemoryFailureFlags, MigrationChange, MigrationPass, NicRxFilterChanged, PanicAction,
    QuorumFailure, QuorumOperation, QuorumReportBad, RtcChange, ShutdownCause, ShutdownInfo,
    SpiceClient, SpiceConnection, SpiceServer, VncClient, VncConnection, VncServer, VserportChange,
    WatchdogAction, WatchdogInfo,
};
pub use events::TypedEvent;
pub use images::{
    BitmapMode, BlockCommit, BlockStream, BlockdevBackup, BlockdevCreate, BlockdevMirror, CopyMode,
    DriveBackup, DriveMirror, MirrorSync, OnBlockError,
};
pub use jobs::{
    BlockJobCancel, BlockJobComplete, BlockJobDismiss, BlockJobFinalize, BlockJobPause,
    BlockJobResume, BlockJobSetSpeed, JobCancel, JobComplete, JobDismiss, JobFinalize, JobPause,
    JobResume, QueryBlockJobs, QueryJobs,
};
pub use machine::{
    AddFd, AddedFd, BalloonSet, Closefd, Cont, DisplayProtocol, Getfd, HumanMonitorCommand,
    KeyCode, PasswordAction, QomGet, QomList, QomProperty, QomSet, QueryBalloon, QueryChardev,
    QueryCommands, QueryCpusFast, QueryFdsets, QueryIothreads, QueryKvm, QueryName, QueryPci,
    QueryStatus, QueryUuid, QueryVersion, Quit, RemoveFd, ScreenFormat, Screendump, SendKey,
    SetPassword, Stop, SystemPowerdown, SystemReset, SystemWakeup,
};
pub use migration::{
    Migrate, MigrateCancel, MigrateContinue, MigrateIncoming, MigrateSetCapabilities,
    MigrateSetParameters, MigrationCapability, MigrationChannel, NbdServerAdd, NbdServerAddress,
    NbdServerRemove, NbdServerStart, NbdServerStop, QueryMigrate, QueryMigrateCapabilities,
};

/// A command: its arguments, serialized as a JSON object, its name and what it returns.
pub trait QmpCommand: Serialize {
    /// Its name in QMP, such as `query-status`.
    const NAME: &'static str;
    /// What it returns.
    type Return: DeserializeOwned;
}

impl<C: QmpCommand> From<C> for Command {
    fn from(command: C) -> Self {
        Command::new(C::NAME).args(command)
    }
}

/// Runs commands that are structs, on any [`Monitor`].
pub trait TypedExt: Monitor {
    /// Runs a command and decodes what it returns.
    ///
    /// # Errors
    ///
    /// Those of [`MonitorExt::execute`]: among others [`Error::Qmp`] where QEMU answers with an error, and
    /// [`Error::Decode`] where it returns something else than [`QmpCommand::Return`]; the command has run then.
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn call<C: QmpCommand>(
        &self,
        command: C,
    ) -> impl Future<Output = Result<C::Return, Error>> + Send {
        self.execute(command.into())
    }
}

impl<M: Monitor + ?Sized> TypedExt for M {}

/// What a command returns that has nothing to say. Whatever comes in its place is passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Nothing;

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Nothing)
    }
}
