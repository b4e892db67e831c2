//! Disks: devices, media and images (`query-block`, `query-named-block-nodes`).

use serde_json::Value;

use super::wire::{names, object};

object! {
    /// A disk, drive or other block device of the guest (`query-block`).
    pub struct BlockDevice {
        /// The name of its backend; empty where it has none.
        pub device: String = "device",
        /// The id or path of the device in the guest.
        pub qdev: Option<String> = "qdev",
        /// Meaningless: always `unknown`.
        pub kind: String = "type",
        /// Whether its medium can be taken out.
        pub removable: bool = "removable",
        /// Whether the guest has locked its medium.
        pub locked: bool = "locked",
        /// Its medium, if there is one.
        pub inserted: Option<BlockMedium> = "inserted",
        /// Whether its tray is open, where it has one.
        pub tray_open: Option<bool> = "tray_open",
        /// Whether it met errors, where the device can stop the guest for one.
        pub io_status: Option<BlockIoStatus> = "io-status",
    }

    /// What is in a block device, or a node of the block graph (`query-named-block-nodes`).
    ///
    /// The limits are 0 where there is none.
    pub struct BlockMedium {
        /// The file name of its image.
        pub file: String = "file",
        /// The name of its node.
        pub node_name: Option<String> = "node-name",
        /// Whether it is read-only.
        pub ro: bool = "ro",
        /// The name of its driver, such as `qcow2`.
        pub drv: String = "drv",
        /// The file name of the image below it.
        pub backing_file: Option<String> = "backing_file",
        /// How many images are below it.
        pub backing_file_depth: i64 = "backing_file_depth",
        /// Whether QEMU may use it, which it may not after migrating away. QEMU 10.0 says it, 7.2 does not.
        pub active: Option<bool> = "active",
        /// Whether it is encrypted.
        pub encrypted: bool = "encrypted",
        /// What is done with writes of zeros.
        pub detect_zeroes: DetectZeroes = "detect_zeroes",
        /// The limit of bytes a second.
        pub bps: i64 = "bps",
        /// The limit of bytes read a second.
        pub bps_rd: i64 = "bps_rd",
        /// The limit of bytes written a second.
        pub bps_wr: i64 = "bps_wr",
        /// The limit of operations a second.
        pub iops: i64 = "iops",
        /// The limit of reads a second.
        pub iops_rd: i64 = "iops_rd",
        /// The limit of writes a second.
        pub iops_wr: i64 = "iops_wr",
        /// Its image.
        pub image: Image = "image",
        /// The limit of bytes a second in a burst.
        pub bps_max: Option<i64> = "bps_max",
        /// The limit of bytes read a second in a burst.
        pub bps_rd_max: Option<i64> = "bps_rd_max",
        /// The limit of bytes written a second in a burst.
        pub bps_wr_max: Option<i64> = "bps_wr_max",
        /// The limit of operations a second in a burst.
        pub iops_max: Option<i64> = "iops_max",
        /// The limit of reads a second in a burst.
        pub iops_rd_max: Option<i64> = "iops_rd_max",
        /// The limit of writes a second in a burst.
        pub iops_wr_max: Option<i64> = "iops_wr_max",
        /// How long a burst of `bps_max` may last, in seconds.
        pub bps_max_length: Option<i64> = "bps_max_length",
        /// How long a burst of `bps_rd_max` may last, in seconds.
        pub bps_rd_max_length: Option<i64> = "bps_rd_max_length",
        /// How long a burst of `bps_wr_max` may last, in seconds.
        pub bps_wr_max_length: Option<i64> = "bps_wr_max_length",
        /// How long a burst of `iops_max` may last, in seconds.
        pub iops_max_length: Option<i64> = "iops_max_length",
        /// How long a burst of `iops_rd_max` may last, in seconds.
        pub iops_rd_max_length: Option<i64> = "iops_rd_max_length",
        /// How long a burst of `iops_wr_max` may last, in seconds.
        pub iops_wr_max_length: Option<i64> = "iops_wr_max_length",
        /// How many bytes count as one operation.
        pub iops_size: Option<i64> = "iops_size",
        /// The group that shares the limits.
        pub group: Option<String> = "group",
        /// How it is cached.
        pub cache: CacheMode = "cache",
        /// From which offset on a write is reported (`BLOCK_WRITE_THRESHOLD`); 0 is none.
        pub write_threshold: i64 = "write_threshold",
        /// Its bitmaps of changed blocks.
        pub dirty_bitmaps: Option<Vec<DirtyBitmap>> = "dirty-bitmaps",
    }

    /// A disk image.
    pub struct Image {
        /// Its file name.
        pub filename: String = "filename",
        /// Its format, such as `qcow2`.
        pub format: String = "format",
        /// Whether it was not closed cleanly.
        pub dirty_flag: Option<bool> = "dirty-flag",
        /// The bytes it takes on the host.
        pub actual_size: Option<i64> = "actual-size",
        /// The bytes the guest sees.
        pub virtual_size: i64 = "virtual-size",
        /// The bytes of a cluster.
        pub cluster_size: Option<i64> = "cluster-size",
        /// Whether it is encrypted.
        pub encrypted: Option<bool> = "encrypted",
        /// Whether it is compressed.
        pub compressed: Option<bool> = "compressed",
        /// The image below it, as written in this one.
        pub backing_filename: Option<String> = "backing-filename",
        /// The image below it, with its whole path.
        pub full_backing_filename: Option<String> = "full-backing-filename",
        /// The format of the image below it.
        pub backing_filename_format: Option<String> = "backing-filename-format",
        /// The snapshots in it.
        pub snapshots: Option<Vec<ImageSnapshot>> = "snapshots",
        /// The image below it.
        pub backing_image: Option<Box<Image>> = "backing-image",
        /// What only its format has.
        pub format_specific: Option<FormatSpecific> = "format-specific",
    }

    /// What only one image format has.
    pub struct FormatSpecific {
        /// The format, such as `qcow2`.
        pub kind: String = "type",
        /// What it says.
        pub data: Value = "data",
    }

    /// A snapshot within an image.
    pub struct ImageSnapshot {
        /// Its id.
        pub id: String = "id",
        /// Its name.
        pub name: String = "name",
        /// The bytes of the guest's state in it; 0 where it is of the disk alone.
        pub vm_state_size: i64 = "vm-state-size",
        /// When it was made: seconds since 1970-01-01 00:00 UTC.
        pub date_sec: i64 = "date-sec",
        /// Nanoseconds of that second.
        pub date_nsec: i64 = "date-nsec",
        /// How long the guest had run then, in seconds.
        pub vm_clock_sec: i64 = "vm-clock-sec",
        /// Nanoseconds of that second.
        pub vm_clock_nsec: i64 = "vm-clock-nsec",
        /// How many instructions it had run, where they are counted.
        pub icount: Option<i64> = "icount",
    }

    /// A bitmap of changed blocks.
    pub struct DirtyBitmap {
        /// Its name; QEMU's own have none.
        pub name: Option<String> = "name",
        /// How many bytes have changed.
        pub count: i64 = "count",
        /// How many bytes one bit stands for.
        pub granularity: i64 = "granularity",
        /// Whether it takes note of writes.
        pub recording: bool = "recording",
        /// Whether a job uses it.
        pub busy: bool = "busy",
        /// Whether it is kept in the image.
        pub persistent: bool = "persistent",
        /// Whether it was not saved properly and can only be removed.
        pub inconsistent: Option<bool> = "inconsistent",
    }

    /// How a disk is cached on the host.
    pub struct CacheMode {
        /// Whether a write is reported before it is on the disk.
        pub writeback: bool = "writeback",
        /// Whether the host's cache is not used.
        pub direct: bool = "direct",
        /// Whether the guest's flushes are ignored.
        pub no_flush: bool = "no-flush",
    }
}

names! {
    /// Whether a device or a job met errors.
    pub enum BlockIoStatus {
        /// None.
        Ok = "ok",
        /// An error, and it stopped for it.
        Failed = "failed",
        /// There is no room on the host.
        Nospace = "nospace",
    }

    /// What is done with writes of zeros.
    pub enum DetectZeroes {
        /// They are written.
        Off = "off",
        /// They are written in a shorter way.
        On = "on",
        /// They are written in a shorter way that may free the blocks.
        Unmap = "unmap",
    }
}
