//! The state of a live migration (`query-migrate`).

use super::wire::{names, object};

object! {
    /// A live migration, incoming or outgoing (`query-migrate`). Before the first there is nothing in it.
    pub struct Migration {
        /// How far it is.
        pub status: Option<MigrationStatus> = "status",
        /// What was done for the guest's memory.
        pub ram: Option<MigrationRam> = "ram",
        /// What was done for its disks. QEMU 7.2 says it, 10.0 does not.
        pub disk: Option<MigrationRam> = "disk",
        /// What was done for VFIO devices.
        pub vfio: Option<MigrationVfio> = "vfio",
        /// The cache of XBZRLE, where that is on.
        pub xbzrle_cache: Option<XbzrleCache> = "xbzrle-cache",
        /// How long it takes so far, or took, in milliseconds.
        pub total_time: Option<i64> = "total-time",
        /// How long the guest is expected to stand still, in milliseconds; while it is active.
        pub expected_downtime: Option<i64> = "expected-downtime",
        /// How long the guest stood still, in milliseconds; once it has ended.
        pub downtime: Option<i64> = "downtime",
        /// How long its setup took, in milliseconds.
        pub setup_time: Option<i64> = "setup-time",
        /// By how many percent the guest's CPUs are slowed down, if they are.
        pub cpu_throttle_percentage: Option<i64> = "cpu-throttle-percentage",
        /// Why it failed, for people.
        pub error_desc: Option<String> = "error-desc",
        /// Why the guest cannot migrate now, for people.
        pub blocked_reasons: Option<Vec<String>> = "blocked-reasons",
        /// For how long all virtual CPUs together waited for memory in postcopy, in milliseconds.
        pub postcopy_blocktime: Option<i64> = "postcopy-blocktime",
        /// The same for each virtual CPU.
        pub postcopy_vcpu_blocktime: Option<Vec<i64>> = "postcopy-vcpu-blocktime",
        /// What compression did. QEMU 7.2 says it, 10.0 does not.
        pub compression: Option<MigrationCompression> = "compression",
        /// Where an incoming migration listens.
        pub socket_address: Option<Vec<SocketAddress>> = "socket-address",
        /// The longest a virtual CPU was held up per round for the limit of dirty pages, in microseconds. QEMU 10.0 says it, 7.2 does not.
        pub dirty_limit_throttle_time_per_round: Option<i64> = "dirty-limit-throttle-time-per-round",
        /// How long a ring of dirty pages is expected to take to fill, in microseconds. QEMU 10.0 says it, 7.2 does not.
        pub dirty_limit_ring_full_time: Option<i64> = "dirty-limit-ring-full-time",
    }

    /// What a migration has sent of the guest's memory.
    pub struct MigrationRam {
        /// Bytes sent.
        pub transferred: i64 = "transferred",
        /// Bytes still to send.
        pub remaining: i64 = "remaining",
        /// Bytes there are.
        pub total: i64 = "total",
        /// Pages that are all zeros.
        pub duplicate: i64 = "duplicate",
        /// Pages skipped. QEMU 7.2 says it, 10.0 does not.
        pub skipped: Option<i64> = "skipped",
        /// Pages sent whole.
        pub normal: i64 = "normal",
        /// Bytes of the pages sent whole.
        pub normal_bytes: i64 = "normal-bytes",
        /// Pages the guest dirties in a second.
        pub dirty_pages_rate: i64 = "dirty-pages-rate",
        /// Megabits sent in a second.
        pub mbps: f64 = "mbps",
        /// How often the dirty pages were looked up.
        pub dirty_sync_count: i64 = "dirty-sync-count",
        /// Pages the target asked for in postcopy.
        pub postcopy_requests: i64 = "postcopy-requests",
        /// Bytes in a page.
        pub page_size: i64 = "page-size",
        /// Bytes sent over several connections at once.
        pub multifd_bytes: i64 = "multifd-bytes",
        /// Pages sent in a second.
        pub pages_per_second: i64 = "pages-per-second",
        /// Bytes sent while the guest ran.
        pub precopy_bytes: i64 = "precopy-bytes",
        /// Bytes sent while the guest stood still.
        pub downtime_bytes: i64 = "downtime-bytes",
        /// Bytes sent in postcopy.
        pub postcopy_bytes: i64 = "postcopy-bytes",
        /// Looks at the dirty pages whose pages the system copied although asked not to.
        pub dirty_sync_missed_zero_copy: i64 = "dirty-sync-missed-zero-copy",
    }

    /// What a migration has sent of VFIO devices.
    pub struct MigrationVfio {
        /// Bytes sent.
        pub transferred: i64 = "transferred",
    }

    /// The cache with which a migration sends differences of pages.
    pub struct XbzrleCache {
        /// Its size in bytes.
        pub cache_size: i64 = "cache-size",
        /// Bytes sent as differences.
        pub bytes: i64 = "bytes",
        /// Pages sent as differences.
        pub pages: i64 = "pages",
        /// Pages that were not in it.
        pub cache_miss: i64 = "cache-miss",
        /// Their share.
        pub cache_miss_rate: f64 = "cache-miss-rate",
        /// How much smaller the differences are.
        pub encoding_rate: f64 = "encoding-rate",
        /// Pages whose difference was too large.
        pub overflow: i64 = "overflow",
    }

    /// How well pages were compressed.
    pub struct MigrationCompression {
        /// Pages compressed and sent.
        pub pages: i64 = "pages",
        /// How often no thread was free.
        pub busy: i64 = "busy",
        /// The share of that.
        pub busy_rate: f64 = "busy-rate",
        /// Bytes after compression.
        pub compressed_size: i64 = "compressed-size",
        /// How much smaller that is.
        pub compression_rate: f64 = "compression-rate",
    }

    /// The address of a socket. Which members there are goes by `kind`.
    pub struct SocketAddress {
        /// What kind of address it is.
        pub kind: SocketAddressType = "type",
        /// `inet`: name or address of the host.
        pub host: Option<String> = "host",
        /// `inet` and `vsock`: the port, a text even where it is a number.
        pub port: Option<String> = "port",
        /// `inet`: whether host and port are numbers, not to be looked up.
        pub numeric: Option<bool> = "numeric",
        /// `inet`: the last port to try.
        pub to: Option<i64> = "to",
        /// `inet`: whether IPv4 is used.
        pub ipv4: Option<bool> = "ipv4",
        /// `inet`: whether IPv6 is used.
        pub ipv6: Option<bool> = "ipv6",
        /// `inet`: whether TCP keepalive is on.
        pub keep_alive: Option<bool> = "keep-alive",
        /// `inet`: whether multipath TCP is on.
        pub mptcp: Option<bool> = "mptcp",
        /// `unix`: the path of the socket.
        pub path: Option<String> = "path",
        /// `unix`: whether the path is a name in Linux's abstract namespace.
        pub r#abstract: Option<bool> = "abstract",
        /// `unix`: whether an abstract name is not padded with zeros.
        pub tight: Option<bool> = "tight",
        /// `vsock`: the number of the machine.
        pub cid: Option<String> = "cid",
        /// `fd`: number or name of the descriptor.
        pub str: Option<String> = "str",
    }
}

impl SocketAddress {
    /// The address of a TCP socket.
    pub fn inet(host: impl Into<String>, port: u16) -> Self {
        SocketAddress {
            kind: SocketAddressType::Inet,
            host: Some(host.into()),
            port: Some(port.to_string()),
            ..SocketAddress::default()
        }
    }

    /// The address of a unix socket.
    pub fn unix(path: impl Into<String>) -> Self {
        SocketAddress {
            kind: SocketAddressType::Unix,
            path: Some(path.into()),
            ..SocketAddress::default()
        }
    }

    /// A socket that QEMU has already: the name it was given with `getfd`, or its number.
    pub fn fd(name: impl Into<String>) -> Self {
        SocketAddress {
            kind: SocketAddressType::Fd,
            str: Some(name.into()),
            ..SocketAddress::default()
        }
    }
}

names! {
    /// What kind of socket address it is.
    pub enum SocketAddressType {
        /// TCP.
        Inet = "inet",
        /// A unix socket.
        Unix = "unix",
        /// A socket between a host and its virtual machines.
        Vsock = "vsock",
        /// A descriptor that QEMU has.
        Fd = "fd",
    }

    /// How far a migration is.
    pub enum MigrationStatus {
        /// There has been none.
        None = "none",
        /// It is being set up.
        Setup = "setup",
        /// It is being cancelled.
        Cancelling = "cancelling",
        /// It was cancelled.
        Cancelled = "cancelled",
        /// It copies while the guest runs on the source.
        Active = "active",
        /// It copies while the guest runs on the target.
        PostcopyActive = "postcopy-active",
        /// Postcopy was interrupted and can be recovered.
        PostcopyPaused = "postcopy-paused",
        /// Recovery of postcopy is being set up. QEMU 10.0 has it, 7.2 does not.
        PostcopyRecoverSetup = "postcopy-recover-setup",
        /// Postcopy is being recovered.
        PostcopyRecover = "postcopy-recover",
        /// It is done.
        Completed = "completed",
        /// It has failed.
        Failed = "failed",
        /// The guest is replicated (COLO).
        Colo = "colo",
        /// It waits for `migrate-continue` before the devices are copied.
        PreSwitchover = "pre-switchover",
        /// It copies the devices.
        Device = "device",
        /// It waits for devices to be unplugged.
        WaitUnplug = "wait-unplug",
    }
}
