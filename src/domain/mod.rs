//! What programs ask of a guest most, on any monitor: its state, its devices, its block jobs, a picture of its screen. May
//! import wait, monitor, types, qmp and error.
//!
//! `block` holds what block jobs are started with.

mod block;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::error::Error;
use crate::monitor::{Monitor, MonitorExt};
use crate::qmp::Command;
use crate::types::{
    BlockDevice, BlockJob, BlockStats, CommandName, Cpu, GuestName, GuestUuid, Job, PciBus, Status,
};
use crate::wait::{Wait, WaitExt};

pub use block::{Commit, Mirror, Snapshot};

/// What every [`Monitor`] can tell and do about its guest.
///
/// Through libvirt, prefer what only asks: libvirt does not follow what is changed behind its back.
///
/// # Errors
///
/// Those of [`MonitorExt::execute`], in every method; those that wait have those of [`WaitExt::run_and_wait`] too, among
/// them [`Error::Failed`] with QEMU's text where a job fails.
///
/// # Cancel safety
///
/// That of [`Monitor::run`]. A job that was started goes on when the future is dropped that waits for it.
pub trait DomainExt: Monitor {
    /// Whether the guest runs, and in which state it is (`query-status`).
    fn status(&self) -> impl Future<Output = Result<Status, Error>> + Send {
        self.query("status")
    }

    /// The guest's name, if it was given one (`query-name`).
    fn name(&self) -> impl Future<Output = Result<Option<String>, Error>> + Send {
        async {
            let name: GuestName = self.query("name").await?;
            Ok(name.name)
        }
    }

    /// The guest's UUID (`query-uuid`); all zeros where it was given none.
    fn uuid(&self) -> impl Future<Output = Result<Uuid, Error>> + Send {
        async {
            let uuid: GuestUuid = self.query("uuid").await?;
            Uuid::parse_str(&uuid.uuid).map_err(|error| Error::json("query-uuid", error))
        }
    }

    /// The names of the commands that this QEMU has (`query-commands`), sorted.
    fn supported_commands(&self) -> impl Future<Output = Result<Vec<String>, Error>> + Send {
        async {
            let commands: Vec<CommandName> = self.query("commands").await?;
            let mut names: Vec<String> = commands.into_iter().map(|command| command.name).collect();
            names.sort_unstable();
            Ok(names)
        }
    }

    /// The names of the events that this QEMU has (`query-qmp-schema`), sorted.
    fn supported_events(&self) -> impl Future<Output = Result<Vec<String>, Error>> + Send {
        async {
            let schema = self.schema().await?;
            let mut names: Vec<String> = schema
                .events()
                .map(|event| event.name().to_owned())
                .collect();
            names.sort_unstable();
            Ok(names)
        }
    }

    /// Presses the guest's power button (`system_powerdown`). What comes of it is up to the guest; see [`Wait::shutdown`].
    fn powerdown(&self) -> impl Future<Output = Result<(), Error>> + Send {
        done(self, Command::new("system_powerdown"))
    }

    /// Resets the guest (`system_reset`).
    fn reset(&self) -> impl Future<Output = Result<(), Error>> + Send {
        done(self, Command::new("system_reset"))
    }

    /// Stops the guest's CPUs (`stop`).
    fn stop(&self) -> impl Future<Output = Result<(), Error>> + Send {
        done(self, Command::new("stop"))
    }

    /// Lets the guest's CPUs run again (`cont`).
    fn cont(&self) -> impl Future<Output = Result<(), Error>> + Send {
        done(self, Command::new("cont"))
    }

    /// Ends QEMU (`quit`), as a power failure would. QEMU may go without an answer: that is
    /// [`Error::Disconnected`](Error::Disconnected) then, with [`Error::maybe_executed`].
    fn quit(&self) -> impl Future<Output = Result<(), Error>> + Send {
        done(self, Command::new("quit"))
    }

    /// The guest's block devices with what is in them (`query-block`).
    fn block_devices(&self) -> impl Future<Output = Result<Vec<BlockDevice>, Error>> + Send {
        self.query("block")
    }

    /// Counters of the guest's block devices (`query-blockstats`).
    fn block_stats(&self) -> impl Future<Output = Result<Vec<BlockStats>, Error>> + Send {
        self.query("blockstats")
    }

    /// The block jobs that run, or have ended and not been dismissed (`query-block-jobs`).
    fn block_jobs(&self) -> impl Future<Output = Result<Vec<BlockJob>, Error>> + Send {
        self.query("block-jobs")
    }

    /// The jobs that run, or have ended and not been dismissed, of all kinds (`query-jobs`).
    fn jobs(&self) -> impl Future<Output = Result<Vec<Job>, Error>> + Send {
        self.query("jobs")
    }

    /// The guest's PCI buses and what is on them (`query-pci`).
    fn pci(&self) -> impl Future<Output = Result<Vec<PciBus>, Error>> + Send {
        self.query("pci")
    }

    /// The guest's virtual CPUs (`query-cpus-fast`).
    fn cpus(&self) -> impl Future<Output = Result<Vec<Cpu>, Error>> + Send {
        self.query("cpus-fast")
    }

    /// Has QEMU write a picture of the guest's screen, a PPM, into a file of its own host (`screendump`). The file is replaced,
    /// and complete when this returns.
    fn screendump(
        &self,
        filename: impl AsRef<Path>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let command = Command::new("screendump").arg("filename", filename.as_ref());
        async move { done(self, command).await }
    }

    /// As [`screendump`](DomainExt::screendump), into a file that is open for writing here (`add-fd`, and `remove-fd`
    /// afterwards): for where QEMU may not open files, or its host's are out of reach. The driver must be one that passes
    /// descriptors, else it is [`Error::Unsupported`].
    fn screendump_to(
        &self,
        file: impl Into<OwnedFd>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let add = Command::new("add-fd").file(file);
        async move {
            #[derive(Deserialize)]
            #[serde(rename_all = "kebab-case")]
            struct Added {
                fdset_id: i64,
            }
            let Added { fdset_id } = self.execute(add).await?;
            let filename = format!("/dev/fdset/{fdset_id}");
            let written = self.screendump(filename).await;
            let removed = done(self, Command::new("remove-fd").arg("fdset-id", fdset_id)).await;
            written.and(removed)
        }
    }

    /// Starts a mirror and waits until it is ready: all is copied, and what the guest writes goes to both. Then
    /// [`complete_job`](DomainExt::complete_job) moves the guest to the copy, [`end_mirror`](DomainExt::end_mirror) leaves
    /// the copy as it is, and [`cancel_job`](DomainExt::cancel_job) gives it up.
    fn mirror(
        &self,
        mirror: Mirror,
        timeout: impl Into<Option<Duration>>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let timeout = timeout.into();
        async move {
            let ready = Wait::block_job_ready(&mirror.job);
            run_until(self, mirror.command, ready, timeout).await
        }
    }

    /// Ends a mirror that is ready without moving the guest, and waits until its copy is complete (`block-job-cancel`).
    fn end_mirror(
        &self,
        job: &str,
        timeout: impl Into<Option<Duration>>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let timeout = timeout.into();
        async move {
            let cancel = Command::new("block-job-cancel").arg("device", job);
            let completed = Wait::block_job_completed(job);
            run_until(self, cancel, completed, timeout).await
        }
    }

    /// Commits images into their backing file and waits until that is done (`block-commit`). Where the image is the one that
    /// the guest writes to, the job becomes ready first, and is completed then.
    fn commit(
        &self,
        commit: Commit,
        timeout: impl Into<Option<Duration>>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let timeout = timeout.into();
        async move {
            let until = timeout.map(|timeout| (tokio::time::Instant::now(), timeout));
            let settled = Wait::block_job_ready_or_completed(&commit.job);
            let (_, how) = self.run_and_wait(commit.command, settled, timeout).await?;
            if how
                .event()
                .is_some_and(|event| event.name != "BLOCK_JOB_READY")
            {
                return Ok(());
            }
            let left = until.map(|(start, timeout)| timeout.saturating_sub(start.elapsed()));
            self.complete_job(&commit.job, left).await
        }
    }

    /// Completes a block job that is ready, and waits until it has (`block-job-complete`): a mirror moves the guest to its
    /// copy.
    fn complete_job(
        &self,
        job: &str,
        timeout: impl Into<Option<Duration>>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let timeout = timeout.into();
        async move {
            let complete = Command::new("block-job-complete").arg("device", job);
            let completed = Wait::block_job_completed(job);
            run_until(self, complete, completed, timeout).await
        }
    }

    /// Cancels a block job, whatever state it is in, and waits until it has ended (`block-job-cancel` with `force`). One that
    /// completes before it is cancelled is [`Error::Failed`].
    fn cancel_job(
        &self,
        job: &str,
        timeout: impl Into<Option<Duration>>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let timeout = timeout.into();
        async move {
            let cancel = Command::new("block-job-cancel")
                .arg("device", job)
                .arg("force", true);
            let cancelled = Wait::block_job_cancelled(job);
            run_until(self, cancel, cancelled, timeout).await
        }
    }

    /// Takes a snapshot of a block device: what it holds stays as it is, and what the guest writes from now on goes to a new
    /// image (`blockdev-snapshot-sync`).
    fn snapshot(&self, snapshot: Snapshot) -> impl Future<Output = Result<(), Error>> + Send {
        async move { done(self, snapshot.command).await }
    }
}

impl<M: Monitor + ?Sized> DomainExt for M {}

/// Runs a command whose return value says nothing.
async fn done<M: Monitor + ?Sized>(monitor: &M, command: Command) -> Result<(), Error> {
    let _: Value = monitor.execute(command).await?;
    Ok(())
}

/// Runs a command whose return value says nothing, and waits for what comes of it.
async fn run_until<M: Monitor + ?Sized>(
    monitor: &M,
    command: Command,
    wait: Wait,
    timeout: Option<Duration>,
) -> Result<(), Error> {
    monitor.run_and_wait(command, wait, timeout).await?;
    Ok(())
}
