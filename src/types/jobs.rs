//! Background jobs, of the block layer and in general (`query-block-jobs`, `query-jobs`).

use super::block::BlockIoStatus;
use super::wire::{names, object};

object! {
    /// A background job (`query-jobs`).
    pub struct Job {
        /// Its id.
        pub id: String = "id",
        /// What it does.
        pub kind: JobType = "type",
        /// How far it is in its life.
        pub status: JobStatus = "status",
        /// How much is done, in a unit of the job's own.
        pub current_progress: i64 = "current-progress",
        /// How much there is to do, as now known: it may still grow.
        pub total_progress: i64 = "total-progress",
        /// Why it failed, if it has.
        pub error: Option<String> = "error",
    }

    /// A job of the block layer (`query-block-jobs`).
    pub struct BlockJob {
        /// What it does.
        pub kind: JobType = "type",
        /// Its id, which is the device's name where no other was given.
        pub device: String = "device",
        /// How much there is to do, in bytes: it may still grow.
        pub len: i64 = "len",
        /// How much is done, in bytes.
        pub offset: i64 = "offset",
        /// Whether it is at work right now.
        pub busy: bool = "busy",
        /// Whether its user has paused it.
        pub paused: bool = "paused",
        /// The limit of its speed in bytes a second; 0 is none.
        pub speed: i64 = "speed",
        /// Whether it met errors.
        pub io_status: BlockIoStatus = "io-status",
        /// Whether it waits to be completed.
        pub ready: bool = "ready",
        /// How far it is in its life.
        pub status: JobStatus = "status",
        /// Whether it finalizes by itself.
        pub auto_finalize: bool = "auto-finalize",
        /// Whether it goes away by itself when it has ended.
        pub auto_dismiss: bool = "auto-dismiss",
        /// Why it failed, if it has.
        pub error: Option<String> = "error",
        /// For a mirror: whether the target gets each write with the source. QEMU 10.0 says it, 7.2 does not.
        pub actively_synced: Option<bool> = "actively-synced",
    }
}

names! {
    /// What a job does.
    pub enum JobType {
        /// Merges an image into the one below it.
        Commit = "commit",
        /// Copies what is below an image into it.
        Stream = "stream",
        /// Copies a disk and goes on copying what changes.
        Mirror = "mirror",
        /// Copies a disk as it was when the job began.
        Backup = "backup",
        /// Creates an image.
        Create = "create",
        /// Changes the options of an image.
        Amend = "amend",
        /// Loads a snapshot of the whole guest.
        SnapshotLoad = "snapshot-load",
        /// Saves a snapshot of the whole guest.
        SnapshotSave = "snapshot-save",
        /// Deletes a snapshot of the whole guest.
        SnapshotDelete = "snapshot-delete",
    }

    /// How far a job is in its life.
    pub enum JobStatus {
        /// An error in QEMU: no job has this.
        Undefined = "undefined",
        /// It exists and has not begun.
        Created = "created",
        /// It is at work.
        Running = "running",
        /// It was running and is paused.
        Paused = "paused",
        /// It has done its work and waits to be completed.
        Ready = "ready",
        /// It was ready and is paused.
        Standby = "standby",
        /// It waits for the other jobs of its transaction.
        Waiting = "waiting",
        /// It waits to be finalized.
        Pending = "pending",
        /// It was cancelled or has failed, and cleans up.
        Aborting = "aborting",
        /// It has ended and waits to be dismissed.
        Concluded = "concluded",
        /// It is gone.
        Null = "null",
    }
}
