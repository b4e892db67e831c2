//! Commands that start a job of the block layer: copying, committing, streaming and creating images.

use serde_json::Value;

use super::Nothing;
use super::block::NewImageMode;
use super::macros::commands;
use crate::types::wire::names;

commands! {
    /// Starts copying a disk to another node, and goes on copying what changes (`blockdev-mirror`).
    pub struct BlockdevMirror("blockdev-mirror") -> Nothing {
        /// The name of the device or the node.
        device: String = "device",
        /// The name of the target's node.
        target: String = "target",
        /// What is copied.
        sync: MirrorSync = "sync",
    } {
        /// The id of the job; else the device's name.
        job_id: String = "job-id",
        /// The node that the target takes the place of in the end.
        replaces: String = "replaces",
        /// The limit in bytes a second.
        speed: i64 = "speed",
        /// How many bytes are kept account of together: a power of two from 512 to 64 MiB.
        granularity: i64 = "granularity",
        /// How many bytes may be on their way at once.
        buf_size: i64 = "buf-size",
        /// What happens when reading fails.
        on_source_error: OnBlockError = "on-source-error",
        /// What happens when writing fails.
        on_target_error: OnBlockError = "on-target-error",
        /// The name of the node that the job puts above the source.
        filter_node_name: String = "filter-node-name",
        /// When the guest's writes reach the target.
        copy_mode: CopyMode = "copy-mode",
        /// Whether it finalizes by itself.
        auto_finalize: bool = "auto-finalize",
        /// Whether it goes away by itself when it has ended.
        auto_dismiss: bool = "auto-dismiss",
    }

    /// Starts copying a disk to a file, and goes on copying what changes (`drive-mirror`).
    pub struct DriveMirror("drive-mirror") -> Nothing {
        /// The name of the device or the node.
        device: String = "device",
        /// The file.
        target: String = "target",
        /// What is copied.
        sync: MirrorSync = "sync",
    } {
        /// The id of the job; else the device's name.
        job_id: String = "job-id",
        /// The format of the file; else that of the source.
        format: String = "format",
        /// The name of the target's node.
        node_name: String = "node-name",
        /// The node that the target takes the place of in the end.
        replaces: String = "replaces",
        /// Whether the file is made.
        mode: NewImageMode = "mode",
        /// The limit in bytes a second.
        speed: i64 = "speed",
        /// How many bytes are kept account of together: a power of two from 512 to 64 MiB.
        granularity: i64 = "granularity",
        /// How many bytes may be on their way at once.
        buf_size: i64 = "buf-size",
        /// What happens when reading fails.
        on_source_error: OnBlockError = "on-source-error",
        /// What happens when writing fails.
        on_target_error: OnBlockError = "on-target-error",
        /// Whether blocks that are not in use are discarded in the target.
        unmap: bool = "unmap",
        /// When the guest's writes reach the target.
        copy_mode: CopyMode = "copy-mode",
        /// Whether it finalizes by itself.
        auto_finalize: bool = "auto-finalize",
        /// Whether it goes away by itself when it has ended.
        auto_dismiss: bool = "auto-dismiss",
    }

    /// Starts copying a disk to another node as it is now (`blockdev-backup`).
    pub struct BlockdevBackup("blockdev-backup") -> Nothing {
        /// The name of the device or the node.
        device: String = "device",
        /// The name of the target's node.
        target: String = "target",
        /// What is copied.
        sync: MirrorSync = "sync",
    } {
        /// The id of the job; else the device's name.
        job_id: String = "job-id",
        /// The limit in bytes a second.
        speed: i64 = "speed",
        /// The bitmap that says what is copied.
        bitmap: String = "bitmap",
        /// What becomes of the bitmap.
        bitmap_mode: BitmapMode = "bitmap-mode",
        /// Whether the target is compressed.
        compress: bool = "compress",
        /// What happens when reading fails.
        on_source_error: OnBlockError = "on-source-error",
        /// What happens when writing fails.
        on_target_error: OnBlockError = "on-target-error",
        /// Whether it finalizes by itself.
        auto_finalize: bool = "auto-finalize",
        /// Whether it goes away by itself when it has ended.
        auto_dismiss: bool = "auto-dismiss",
        /// The name of the node that the job puts above the source.
        filter_node_name: String = "filter-node-name",
        /// Whether what was copied is discarded in the source. QEMU 10.0 takes it, 7.2 does not.
        discard_source: bool = "discard-source",
    }

    /// Starts copying a disk to a file as it is now (`drive-backup`). Deprecated: [`BlockdevBackup`].
    pub struct DriveBackup("drive-backup") -> Nothing {
        /// The name of the device or the node.
        device: String = "device",
        /// The file.
        target: String = "target",
        /// What is copied.
        sync: MirrorSync = "sync",
    } {
        /// The id of the job; else the device's name.
        job_id: String = "job-id",
        /// The format of the file; else that of the source.
        format: String = "format",
        /// Whether the file is made.
        mode: NewImageMode = "mode",
        /// The limit in bytes a second.
        speed: i64 = "speed",
        /// The bitmap that says what is copied.
        bitmap: String = "bitmap",
        /// What becomes of the bitmap.
        bitmap_mode: BitmapMode = "bitmap-mode",
        /// Whether the target is compressed.
        compress: bool = "compress",
        /// What happens when reading fails.
        on_source_error: OnBlockError = "on-source-error",
        /// What happens when writing fails.
        on_target_error: OnBlockError = "on-target-error",
        /// Whether it finalizes by itself.
        auto_finalize: bool = "auto-finalize",
        /// Whether it goes away by itself when it has ended.
        auto_dismiss: bool = "auto-dismiss",
        /// The name of the node that the job puts above the source.
        filter_node_name: String = "filter-node-name",
        /// Whether what was copied is discarded in the source. QEMU 10.0 takes it, 7.2 does not.
        discard_source: bool = "discard-source",
    }

    /// Starts writing an image back into one below it (`block-commit`).
    pub struct BlockCommit("block-commit") -> Nothing {
        /// The name of the device or the node.
        device: String = "device",
    } {
        /// The id of the job; else the device's name.
        job_id: String = "job-id",
        /// The node that is written to; else the lowest.
        base_node: String = "base-node",
        /// The file that is written to. Deprecated: `base_node`.
        base: String = "base",
        /// The highest node that is written back; else the active one.
        top_node: String = "top-node",
        /// The highest file that is written back. Deprecated: `top_node`.
        top: String = "top",
        /// What the image above `top` names as the image below it afterwards.
        backing_file: String = "backing-file",
        /// Whether that image names its format without the protocol. QEMU 10.0 takes it, 7.2 does not.
        backing_mask_protocol: bool = "backing-mask-protocol",
        /// The limit in bytes a second.
        speed: i64 = "speed",
        /// What happens when reading or writing fails.
        on_error: OnBlockError = "on-error",
        /// The name of the node that the job puts above `top`.
        filter_node_name: String = "filter-node-name",
        /// Whether it finalizes by itself.
        auto_finalize: bool = "auto-finalize",
        /// Whether it goes away by itself when it has ended.
        auto_dismiss: bool = "auto-dismiss",
    }

    /// Starts copying what is below an image into it (`block-stream`).
    pub struct BlockStream("block-stream") -> Nothing {
        /// The name of the device or the node.
        device: String = "device",
    } {
        /// The id of the job; else the device's name.
        job_id: String = "job-id",
        /// The file that stays below the image; else none.
        base: String = "base",
        /// The node that stays below the image.
        base_node: String = "base-node",
        /// What the image names as the image below it afterwards.
        backing_file: String = "backing-file",
        /// Whether that image names its format without the protocol. QEMU 10.0 takes it, 7.2 does not.
        backing_mask_protocol: bool = "backing-mask-protocol",
        /// The lowest node that is copied.
        bottom: String = "bottom",
        /// The limit in bytes a second.
        speed: i64 = "speed",
        /// What happens when reading or writing fails.
        on_error: OnBlockError = "on-error",
        /// The name of the node that the job puts above the image.
        filter_node_name: String = "filter-node-name",
        /// Whether it finalizes by itself.
        auto_finalize: bool = "auto-finalize",
        /// Whether it goes away by itself when it has ended.
        auto_dismiss: bool = "auto-dismiss",
    }

    /// Starts creating an image (`blockdev-create`). The job stays until it is dismissed.
    pub struct BlockdevCreate("blockdev-create") -> Nothing {
        /// The id of the job.
        job_id: String = "job-id",
        /// What is created: an object with `driver`, such as `file` or `qcow2`, and what it takes, such as `filename` and
        /// `size`.
        options: Value = "options",
    } {}
}

names! {
    /// What of a disk is copied.
    pub enum MirrorSync {
        /// What is in the image itself, and not in those below it.
        Top = "top",
        /// Everything.
        Full = "full",
        /// Only what changes from now on.
        None = "none",
        /// What a bitmap says; backup only.
        Incremental = "incremental",
        /// What a bitmap says, which is treated as `bitmap_mode` says.
        Bitmap = "bitmap",
    }

    /// What a job does when reading or writing fails.
    pub enum OnBlockError {
        /// It fails.
        Report = "report",
        /// It goes on.
        Ignore = "ignore",
        /// It stops where there is no room, and fails otherwise.
        Enospc = "enospc",
        /// It stops.
        Stop = "stop",
        /// What the device does in such a case.
        Auto = "auto",
    }

    /// When the guest's writes reach the target of a mirror.
    pub enum CopyMode {
        /// Some time after.
        Background = "background",
        /// Before they are reported as done.
        WriteBlocking = "write-blocking",
    }

    /// What becomes of a backup's bitmap.
    pub enum BitmapMode {
        /// It is cleared of what was copied if the job succeeds.
        OnSuccess = "on-success",
        /// It stays as it is.
        Never = "never",
        /// It is cleared of what was copied, even if the job fails.
        Always = "always",
    }
}
