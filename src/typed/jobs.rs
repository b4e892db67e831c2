//! Commands for background jobs.

use super::Nothing;
use super::macros::commands;
use crate::types::{BlockJob, Job};

commands! {
    /// Asks for the background jobs (`query-jobs`).
    pub struct QueryJobs("query-jobs") -> Vec<Job> {} {}

    /// Asks for the jobs of the block layer (`query-block-jobs`).
    pub struct QueryBlockJobs("query-block-jobs") -> Vec<BlockJob> {} {}

    /// Cancels a job (`job-cancel`).
    pub struct JobCancel("job-cancel") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Completes a job that is ready (`job-complete`).
    pub struct JobComplete("job-complete") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Pauses a job (`job-pause`).
    pub struct JobPause("job-pause") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Lets a paused job go on (`job-resume`).
    pub struct JobResume("job-resume") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Removes a job that has ended (`job-dismiss`).
    pub struct JobDismiss("job-dismiss") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Finalizes a job that is pending (`job-finalize`).
    pub struct JobFinalize("job-finalize") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Cancels a job of the block layer (`block-job-cancel`). A mirror that is ready completes without switching over.
    pub struct BlockJobCancel("block-job-cancel") -> Nothing {
        /// Its id.
        device: String = "device",
    } {
        /// Whether even a mirror that is ready is cancelled.
        force: bool = "force",
    }

    /// Completes a job of the block layer that is ready (`block-job-complete`).
    pub struct BlockJobComplete("block-job-complete") -> Nothing {
        /// Its id.
        device: String = "device",
    } {}

    /// Pauses a job of the block layer (`block-job-pause`).
    pub struct BlockJobPause("block-job-pause") -> Nothing {
        /// Its id.
        device: String = "device",
    } {}

    /// Lets a paused job of the block layer go on (`block-job-resume`).
    pub struct BlockJobResume("block-job-resume") -> Nothing {
        /// Its id.
        device: String = "device",
    } {}

    /// Limits the speed of a job of the block layer (`block-job-set-speed`).
    pub struct BlockJobSetSpeed("block-job-set-speed") -> Nothing {
        /// Its id.
        device: String = "device",
        /// The limit in bytes a second; 0 is none.
        speed: i64 = "speed",
    } {}

    /// Removes a job of the block layer that has ended (`block-job-dismiss`).
    pub struct BlockJobDismiss("block-job-dismiss") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Finalizes a job of the block layer that is pending (`block-job-finalize`).
    pub struct BlockJobFinalize("block-job-finalize") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}
}
