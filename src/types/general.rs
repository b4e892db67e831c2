//! The guest and its QEMU at large: state, name, CPUs, character devices, descriptors.

use super::wire::{names, object};

object! {
    /// Whether the guest runs (`query-status`).
    pub struct Status {
        /// Whether its virtual CPUs run.
        pub running: bool = "running",
        /// Whether translated code runs one instruction at a time. QEMU 7.2 says it, 10.0 does not.
        pub singlestep: Option<bool> = "singlestep",
        /// The state, and with it why the guest does not run.
        pub status: RunState = "status",
    }

    /// The guest's name (`query-name`).
    pub struct GuestName {
        /// What was given with `-name`, if anything.
        pub name: Option<String> = "name",
    }

    /// The guest's UUID (`query-uuid`).
    pub struct GuestUuid {
        /// The UUID as text; all zeros where none was given.
        pub uuid: String = "UUID",
    }

    /// Whether KVM is used (`query-kvm`).
    pub struct Kvm {
        /// Whether it runs this guest.
        pub enabled: bool = "enabled",
        /// Whether this QEMU was built with it.
        pub present: bool = "present",
    }

    /// How much memory the balloon leaves the guest (`query-balloon`).
    pub struct Balloon {
        /// The guest's memory in bytes, without what the balloon holds.
        pub actual: i64 = "actual",
    }

    /// A thread of its own for devices' input and output (`query-iothreads`).
    pub struct IoThread {
        /// Its id, as given with `-object iothread`.
        pub id: String = "id",
        /// The host's id of the thread.
        pub thread_id: i64 = "thread-id",
        /// The longest it polls, in nanoseconds; 0 where it does not.
        pub poll_max_ns: i64 = "poll-max-ns",
        /// The factor that lengthens polling.
        pub poll_grow: i64 = "poll-grow",
        /// The divisor that shortens polling.
        pub poll_shrink: i64 = "poll-shrink",
        /// The most requests in one batch; 0 leaves it to QEMU.
        pub aio_max_batch: i64 = "aio-max-batch",
    }

    /// One command of this QEMU (`query-commands`).
    pub struct CommandName {
        /// Its name, such as `query-status`.
        pub name: String = "name",
    }

    /// One virtual CPU (`query-cpus-fast`).
    pub struct Cpu {
        /// Its number, from 0.
        pub cpu_index: i64 = "cpu-index",
        /// Its path in the tree of objects.
        pub qom_path: String = "qom-path",
        /// The host's id of its thread.
        pub thread_id: i64 = "thread-id",
        /// Where it is plugged in, where the machine says.
        pub props: Option<CpuTopology> = "props",
        /// The architecture that QEMU emulates, such as `x86_64`.
        pub target: String = "target",
        /// On s390x: what the CPU does, such as `operating`.
        pub cpu_state: Option<String> = "cpu-state",
        /// On s390x: whether it has a host CPU for itself.
        pub dedicated: Option<bool> = "dedicated",
        /// On s390x: its share of a host CPU, such as `medium`.
        pub entitlement: Option<String> = "entitlement",
    }

    /// Where a virtual CPU is plugged in. Each machine has some of these.
    pub struct CpuTopology {
        /// NUMA node.
        pub node_id: Option<i64> = "node-id",
        /// Drawer, on s390x.
        pub drawer_id: Option<i64> = "drawer-id",
        /// Book, on s390x.
        pub book_id: Option<i64> = "book-id",
        /// Socket.
        pub socket_id: Option<i64> = "socket-id",
        /// Die in the socket.
        pub die_id: Option<i64> = "die-id",
        /// Cluster in the die.
        pub cluster_id: Option<i64> = "cluster-id",
        /// Module in the cluster.
        pub module_id: Option<i64> = "module-id",
        /// Core.
        pub core_id: Option<i64> = "core-id",
        /// Thread in the core.
        pub thread_id: Option<i64> = "thread-id",
    }

    /// A character device (`query-chardev`).
    pub struct Chardev {
        /// Its id.
        pub label: String = "label",
        /// What it is connected to, for people: its wording differs from version to version.
        pub filename: String = "filename",
        /// Whether the device in the guest has it open.
        pub frontend_open: bool = "frontend-open",
    }

    /// A set of file descriptors that QEMU was given (`query-fdsets`).
    pub struct FdSet {
        /// Its number: `/dev/fdset/NUMBER` opens it.
        pub fdset_id: i64 = "fdset-id",
        /// The descriptors in it.
        pub fds: Vec<FdSetEntry> = "fds",
    }

    /// One file descriptor of a set.
    pub struct FdSetEntry {
        /// QEMU's own number for it.
        pub fd: i64 = "fd",
        /// The text it was added with.
        pub opaque: Option<String> = "opaque",
    }
}

names! {
    /// What state the guest is in, as a whole.
    pub enum RunState {
        /// Stopped by a debugger.
        Debug = "debug",
        /// Waiting for an incoming migration.
        Inmigrate = "inmigrate",
        /// Stopped: QEMU cannot go on.
        InternalError = "internal-error",
        /// Stopped: a disk reported an error.
        IoError = "io-error",
        /// Stopped by `stop`.
        Paused = "paused",
        /// Stopped after it has migrated away.
        Postmigrate = "postmigrate",
        /// Not started yet (`-S`).
        Prelaunch = "prelaunch",
        /// Stopped for the last part of a migration.
        FinishMigrate = "finish-migrate",
        /// Stopped while a snapshot is loaded.
        RestoreVm = "restore-vm",
        /// Running.
        Running = "running",
        /// Stopped while a snapshot is saved.
        SaveVm = "save-vm",
        /// Shut down, with QEMU still there (`-no-shutdown`).
        Shutdown = "shutdown",
        /// Asleep (ACPI S3).
        Suspended = "suspended",
        /// Stopped by its watchdog.
        Watchdog = "watchdog",
        /// The guest's system has reported a panic.
        GuestPanicked = "guest-panicked",
        /// Stopped for a COLO checkpoint.
        Colo = "colo",
    }
}
