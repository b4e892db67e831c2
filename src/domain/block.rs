//! What block jobs and snapshots are started with. Imports qmp.

use std::path::Path;

use serde::Serialize;

use crate::qmp::Command;

/// A copy of a block device that follows what the guest writes.
///
/// ```
/// use libvirt_qmp::Mirror;
///
/// let move_it = Mirror::to_file("move0", "disk0", "/images/new.qcow2").arg("format", "qcow2");
/// # let _ = move_it;
/// ```
#[derive(Clone, Debug)]
pub struct Mirror {
    pub(super) job: String,
    pub(super) command: Command,
}

impl Mirror {
    /// A job of the id `job` that copies all of `device`, a block device or node, into a new file of QEMU's host
    /// (`drive-mirror`). A format other than that of the source is an [`arg`](Mirror::arg).
    pub fn to_file(
        job: impl Into<String>,
        device: impl Into<String>,
        target: impl AsRef<Path>,
    ) -> Self {
        let command = Command::new("drive-mirror").arg("target", target.as_ref());
        Mirror::start(job.into(), device.into(), command)
    }

    /// A job of the id `job` that copies all of `device`, a block device or node, onto a block node that is there
    /// (`blockdev-mirror`).
    pub fn to_node(
        job: impl Into<String>,
        device: impl Into<String>,
        target: impl Into<String>,
    ) -> Self {
        let command = Command::new("blockdev-mirror").arg("target", target.into());
        Mirror::start(job.into(), device.into(), command)
    }

    fn start(job: String, device: String, command: Command) -> Self {
        let command = command
            .arg("job-id", &job)
            .arg("device", device)
            .arg("sync", "full");
        Mirror { job, command }
    }

    /// Sets another argument of the command, such as `sync`, `speed` or `mode`.
    pub fn arg<T: Serialize>(mut self, name: impl Into<String>, value: T) -> Self {
        self.command = self.command.arg(name, value);
        self
    }
}

/// Images that go into their backing file.
#[derive(Clone, Debug)]
pub struct Commit {
    pub(super) job: String,
    pub(super) command: Command,
}

impl Commit {
    /// A job of the id `job` that commits all images of `device`, a block device or node, into the base image
    /// (`block-commit`). Which images is said by [`arg`](Commit::arg) with `top-node` and `base-node`.
    pub fn new(job: impl Into<String>, device: impl Into<String>) -> Self {
        let job = job.into();
        let command = Command::new("block-commit")
            .arg("job-id", &job)
            .arg("device", device.into());
        Commit { job, command }
    }

    /// Sets another argument of the command, such as `base-node`, `top-node` or `speed`.
    pub fn arg<T: Serialize>(mut self, name: impl Into<String>, value: T) -> Self {
        self.command = self.command.arg(name, value);
        self
    }
}

/// An image that takes what the guest writes from now on.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) command: Command,
}

impl Snapshot {
    /// A snapshot of `device`, a block device; the new image is a qcow2 file of QEMU's host.
    pub fn of_device(device: impl Into<String>, file: impl AsRef<Path>) -> Self {
        Snapshot::start("device", device.into(), file.as_ref())
    }

    /// A snapshot of a block node; the new image is a qcow2 file of QEMU's host.
    pub fn of_node(node: impl Into<String>, file: impl AsRef<Path>) -> Self {
        Snapshot::start("node-name", node.into(), file.as_ref())
    }

    fn start(kind: &str, name: String, file: &Path) -> Self {
        let command = Command::new("blockdev-snapshot-sync")
            .arg(kind, name)
            .arg("snapshot-file", file)
            .arg("format", "qcow2");
        Snapshot { command }
    }

    /// Sets another argument of the command, such as `snapshot-node-name`, `format` or `mode`.
    pub fn arg<T: Serialize>(mut self, name: impl Into<String>, value: T) -> Self {
        self.command = self.command.arg(name, value);
        self
    }
}
