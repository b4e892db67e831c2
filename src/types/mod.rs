//! What QMP commands return, as plain data: structs and enums that are read from and written as JSON with serde. They
//! are there without any feature; the commands themselves have structs with feature `typed`.
//!
//! Imports nothing else of ours.
//!
//! The members have QMP's names in snake_case, so QEMU's documentation applies. They hold for QEMU 7.2 to 10.0: what one of
//! these may leave out, or does not have, is an `Option`. Nothing gets lost: members that are not known are in `other`,
//! enum values in `Other`, and both are written again. Integers are exact, and never floats.
//!
//! ```
//! use libvirt_qmp::types::{RunState, Status};
//!
//! let status: Status = serde_json::from_str(r#"{"running": true, "status": "running", "new": 1}"#)?;
//! assert_eq!(status.status, RunState::Running);
//! assert_eq!(status.other["new"], 1);
//! # Ok::<(), serde_json::Error>(())
//! ```

pub(crate) mod wire;

mod block;
mod block_stats;
mod general;
mod jobs;
mod migration;
mod pci;

pub use block::{
    BlockDevice, BlockIoStatus, BlockMedium, CacheMode, DetectZeroes, DirtyBitmap, FormatSpecific,
    Image, ImageSnapshot,
};
pub use block_stats::{
    BlockCounters, BlockIntervalStats, BlockStats, DriverStats, LatencyHistogram,
};
pub use general::{
    Balloon, Chardev, CommandName, Cpu, CpuTopology, FdSet, FdSetEntry, GuestName, GuestUuid,
    IoThread, Kvm, RunState, Status,
};
pub use jobs::{BlockJob, Job, JobStatus, JobType};
pub use migration::{
    Migration, MigrationCompression, MigrationRam, MigrationStatus, MigrationVfio, SocketAddress,
    SocketAddressType, XbzrleCache,
};
pub use pci::{PciBridge, PciBridgeBus, PciBus, PciClass, PciDevice, PciId, PciRange, PciRegion};
