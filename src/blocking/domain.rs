//! The blocking counterparts of `DomainExt` and of `Hypervisor`. Imports domain, hypervisor, types, error, `super`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::{Blocking, Libvirt, Monitor, wait};
use crate::config::Config;
use crate::domain::{Commit, DomainExt as _, Mirror, Snapshot};
use crate::driver::QmpAddress;
use crate::error::Error;
use crate::hypervisor::{self, HypervisorDomain, HypervisorVersion};
use crate::monitor;
use crate::types::{BlockDevice, BlockJob, BlockStats, Cpu, Job, PciBus, Status};

/// [`crate::Hypervisor`], blocking.
pub type Hypervisor = Blocking<hypervisor::Hypervisor>;

/// [`crate::DomainExt`], blocking: what every [`Monitor`] can tell and do about its guest.
///
/// # Errors
///
/// Those of the method of the same name, in every method, and those of [`wait`](super::wait()).
pub trait DomainExt: Monitor {
    /// Whether the guest runs, and in which state it is (`query-status`).
    fn status(&self) -> Result<Status, Error> {
        wait(self.as_async().status())
    }

    /// The guest's name, if it was given one (`query-name`).
    fn name(&self) -> Result<Option<String>, Error> {
        wait(self.as_async().name())
    }

    /// The guest's UUID (`query-uuid`); all zeros where it was given none.
    fn uuid(&self) -> Result<Uuid, Error> {
        wait(self.as_async().uuid())
    }

    /// The names of the commands that this QEMU has (`query-commands`), sorted.
    fn supported_commands(&self) -> Result<Vec<String>, Error> {
        wait(self.as_async().supported_commands())
    }

    /// The names of the events that this QEMU has (`query-qmp-schema`), sorted.
    fn supported_events(&self) -> Result<Vec<String>, Error> {
        wait(self.as_async().supported_events())
    }

    /// Presses the guest's power button (`system_powerdown`).
    fn powerdown(&self) -> Result<(), Error> {
        wait(self.as_async().powerdown())
    }

    /// Resets the guest (`system_reset`).
    fn reset(&self) -> Result<(), Error> {
        wait(self.as_async().reset())
    }

    /// Stops the guest's CPUs (`stop`).
    fn stop(&self) -> Result<(), Error> {
        wait(self.as_async().stop())
    }

    /// Lets the guest's CPUs run again (`cont`).
    fn cont(&self) -> Result<(), Error> {
        wait(self.as_async().cont())
    }

    /// Ends QEMU (`quit`): see [`crate::DomainExt::quit`].
    fn quit(&self) -> Result<(), Error> {
        wait(self.as_async().quit())
    }

    /// The guest's block devices with what is in them (`query-block`).
    fn block_devices(&self) -> Result<Vec<BlockDevice>, Error> {
        wait(self.as_async().block_devices())
    }

    /// Counters of the guest's block devices (`query-blockstats`).
    fn block_stats(&self) -> Result<Vec<BlockStats>, Error> {
        wait(self.as_async().block_stats())
    }

    /// The block jobs that run, or have ended and not been dismissed (`query-block-jobs`).
    fn block_jobs(&self) -> Result<Vec<BlockJob>, Error> {
        wait(self.as_async().block_jobs())
    }

    /// The jobs that run, or have ended and not been dismissed, of all kinds (`query-jobs`).
    fn jobs(&self) -> Result<Vec<Job>, Error> {
        wait(self.as_async().jobs())
    }

    /// The guest's PCI buses and what is on them (`query-pci`).
    fn pci(&self) -> Result<Vec<PciBus>, Error> {
        wait(self.as_async().pci())
    }

    /// The guest's virtual CPUs (`query-cpus-fast`).
    fn cpus(&self) -> Result<Vec<Cpu>, Error> {
        wait(self.as_async().cpus())
    }

    /// Has QEMU write a picture of the guest's screen into a file of its own host (`screendump`).
    fn screendump(&self, filename: impl AsRef<Path>) -> Result<(), Error> {
        wait(self.as_async().screendump(filename))
    }

    /// As [`screendump`](DomainExt::screendump), into a file that is open for writing here.
    fn screendump_to(&self, file: impl Into<OwnedFd>) -> Result<(), Error> {
        wait(self.as_async().screendump_to(file))
    }

    /// Starts a mirror and waits until it is ready: see [`crate::DomainExt::mirror`].
    fn mirror(&self, mirror: Mirror, timeout: impl Into<Option<Duration>>) -> Result<(), Error> {
        wait(self.as_async().mirror(mirror, timeout))
    }

    /// Ends a mirror that is ready without moving the guest: see [`crate::DomainExt::end_mirror`].
    fn end_mirror(&self, job: &str, timeout: impl Into<Option<Duration>>) -> Result<(), Error> {
        wait(self.as_async().end_mirror(job, timeout))
    }

    /// Commits images into their backing file and waits until that is done: see [`crate::DomainExt::commit`].
    fn commit(&self, commit: Commit, timeout: impl Into<Option<Duration>>) -> Result<(), Error> {
        wait(self.as_async().commit(commit, timeout))
    }

    /// Completes a block job that is ready, and waits until it has: see [`crate::DomainExt::complete_job`].
    fn complete_job(&self, job: &str, timeout: impl Into<Option<Duration>>) -> Result<(), Error> {
        wait(self.as_async().complete_job(job, timeout))
    }

    /// Cancels a block job, and waits until it has ended: see [`crate::DomainExt::cancel_job`].
    fn cancel_job(&self, job: &str, timeout: impl Into<Option<Duration>>) -> Result<(), Error> {
        wait(self.as_async().cancel_job(job, timeout))
    }

    /// Takes a snapshot of a block device (`blockdev-snapshot-sync`).
    fn snapshot(&self, snapshot: Snapshot) -> Result<(), Error> {
        wait(self.as_async().snapshot(snapshot))
    }
}

impl<M: Monitor + ?Sized> DomainExt for M {}

impl Hypervisor {
    /// The domains of a session with libvirtd. Their monitors share it.
    pub fn libvirt(libvirt: Libvirt) -> Self {
        Blocking(hypervisor::Hypervisor::libvirt(libvirt.into_async()))
    }

    /// The domains at `uri`, through libvirt's C library (feature `libvirt-c`): see [`crate::Hypervisor::c`].
    #[cfg(feature = "libvirt-c")]
    pub fn c(uri: impl Into<String>) -> Self {
        Blocking(hypervisor::Hypervisor::c(uri))
    }

    /// As [`c`](Hypervisor::c), with settings.
    #[cfg(feature = "libvirt-c")]
    pub fn c_with_config(uri: impl Into<String>, config: Config) -> Self {
        Blocking(hypervisor::Hypervisor::c_with_config(uri, config))
    }

    /// The domains at `uri`, through the program `virsh`: see [`crate::Hypervisor::virsh`].
    pub fn virsh(uri: impl Into<String>) -> Self {
        Blocking(hypervisor::Hypervisor::virsh(uri))
    }

    /// As [`virsh`](Hypervisor::virsh), with settings.
    pub fn virsh_with_config(uri: impl Into<String>, config: Config) -> Self {
        Blocking(hypervisor::Hypervisor::virsh_with_config(uri, config))
    }

    /// The QEMU processes behind these QMP sockets: see [`crate::Hypervisor::sockets`].
    pub fn sockets<N: Into<String>, A: Into<QmpAddress>>(
        sockets: impl IntoIterator<Item = (N, A)>,
    ) -> Self {
        Blocking(hypervisor::Hypervisor::sockets(sockets))
    }

    /// As [`sockets`](Hypervisor::sockets), with settings.
    pub fn sockets_with_config<N: Into<String>, A: Into<QmpAddress>>(
        sockets: impl IntoIterator<Item = (N, A)>,
        config: Config,
    ) -> Self {
        let sockets = hypervisor::Hypervisor::sockets_with_config(sockets, config);
        Blocking(sockets)
    }

    /// All domains, active or not: see [`crate::Hypervisor::domains`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Hypervisor::domains`] and of [`wait`](super::wait()).
    pub fn domains(&self) -> Result<Vec<HypervisorDomain>, Error> {
        wait(self.get_ref().domains())
    }

    /// The monitor of a domain: see [`crate::Hypervisor::monitor`].
    pub fn monitor(&self, name: &str) -> Blocking<Box<dyn monitor::Monitor>> {
        Blocking(self.get_ref().monitor(name))
    }

    /// What the host runs, where it can be asked: see [`crate::Hypervisor::version`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Hypervisor::version`] and of [`wait`](super::wait()).
    pub fn version(&self) -> Result<Option<HypervisorVersion>, Error> {
        wait(self.get_ref().version())
    }
}
