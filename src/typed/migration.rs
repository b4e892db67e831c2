//! Commands for migration, and for the NBD server that disks migrate over.

use serde_json::{Map, Value};

use super::Nothing;
use super::macros::commands;
use crate::types::wire::object;
use crate::types::{Migration, MigrationStatus};

commands! {
    /// Starts migrating the guest away (`migrate`). The command returns at once; [`QueryMigrate`] tells how far it is. Say
    /// where to with `uri` or `channels`.
    pub struct Migrate("migrate") -> Nothing {} {
        /// Where to, such as `tcp:host:port`, `unix:path` or `fd:name`.
        uri: String = "uri",
        /// Where to, in parts. QEMU 10.0 takes it, 7.2 does not.
        channels: Vec<MigrationChannel> = "channels",
        /// Whether disks are copied too. QEMU 7.2 takes it, 10.0 does not.
        blk: bool = "blk",
        /// Whether of disks only the highest image is copied. QEMU 7.2 takes it, 10.0 does not.
        inc: bool = "inc",
        /// Has no effect.
        detach: bool = "detach",
        /// Whether postcopy that was interrupted is resumed.
        resume: bool = "resume",
    }

    /// Waits for a guest to migrate here (`migrate-incoming`), where QEMU was started with `-incoming defer`. Say where with
    /// `uri` or `channels`.
    pub struct MigrateIncoming("migrate-incoming") -> Nothing {} {
        /// Where it comes from, such as `tcp:address:port` to listen there.
        uri: String = "uri",
        /// Where it comes from, in parts. QEMU 10.0 takes it, 7.2 does not.
        channels: Vec<MigrationChannel> = "channels",
        /// Whether QEMU ends when it fails. QEMU 10.0 takes it, 7.2 does not.
        exit_on_error: bool = "exit-on-error",
    }

    /// Cancels a migration (`migrate_cancel`).
    pub struct MigrateCancel("migrate_cancel") -> Nothing {} {}

    /// Lets a migration go on that waits before it switches over (`migrate-continue`).
    pub struct MigrateContinue("migrate-continue") -> Nothing {
        /// The state that it waits in.
        state: MigrationStatus = "state",
    } {}

    /// Asks how far a migration is (`query-migrate`).
    pub struct QueryMigrate("query-migrate") -> Migration {} {}

    /// Asks which ways of migrating are on (`query-migrate-capabilities`).
    pub struct QueryMigrateCapabilities("query-migrate-capabilities") -> Vec<MigrationCapability> {} {}

    /// Turns ways of migrating on or off (`migrate-set-capabilities`).
    pub struct MigrateSetCapabilities("migrate-set-capabilities") -> Nothing {
        /// Those to turn; the others stay as they are.
        capabilities: Vec<MigrationCapability> = "capabilities",
    } {}

    /// Sets numbers and other settings of migration (`migrate-set-parameters`). What is not given stays as it is.
    pub struct MigrateSetParameters("migrate-set-parameters") -> Nothing {} {
        /// The delay before the first announcement on the network, in milliseconds.
        announce_initial: i64 = "announce-initial",
        /// The longest delay between announcements, in milliseconds.
        announce_max: i64 = "announce-max",
        /// How many announcements there are.
        announce_rounds: i64 = "announce-rounds",
        /// By how much the delay grows, in milliseconds.
        announce_step: i64 = "announce-step",
        /// How well pages are compressed, 0 to 9. QEMU 7.2 takes it, 10.0 does not.
        compress_level: i64 = "compress-level",
        /// How many threads compress. QEMU 7.2 takes it, 10.0 does not.
        compress_threads: i64 = "compress-threads",
        /// Whether to wait for a thread that compresses. QEMU 7.2 takes it, 10.0 does not.
        compress_wait_thread: bool = "compress-wait-thread",
        /// How many threads decompress. QEMU 7.2 takes it, 10.0 does not.
        decompress_threads: i64 = "decompress-threads",
        /// From how many percent of dirtied bytes on the guest is slowed down.
        throttle_trigger_threshold: i64 = "throttle-trigger-threshold",
        /// By how many percent the guest is slowed down at first.
        cpu_throttle_initial: i64 = "cpu-throttle-initial",
        /// By how many percent more each time.
        cpu_throttle_increment: i64 = "cpu-throttle-increment",
        /// Whether the slowing down gets gentle at the end.
        cpu_throttle_tailslow: bool = "cpu-throttle-tailslow",
        /// The id of the TLS credentials; `null` for none.
        tls_creds: Value = "tls-creds",
        /// The name in the peer's certificate; `null` for that of the URI.
        tls_hostname: Value = "tls-hostname",
        /// The id of the object that decides who may migrate here; `null` for none.
        tls_authz: Value = "tls-authz",
        /// The limit in bytes a second.
        max_bandwidth: i64 = "max-bandwidth",
        /// The bytes a second to count on when switching over. QEMU 10.0 takes it, 7.2 does not.
        avail_switchover_bandwidth: i64 = "avail-switchover-bandwidth",
        /// How long the guest may stand still, in milliseconds.
        downtime_limit: i64 = "downtime-limit",
        /// Whether of disks only the highest image is copied. QEMU 7.2 takes it, 10.0 does not.
        block_incremental: bool = "block-incremental",
        /// How many connections are used at once.
        multifd_channels: i64 = "multifd-channels",
        /// The size of the cache of XBZRLE in bytes.
        xbzrle_cache_size: i64 = "xbzrle-cache-size",
        /// The limit of postcopy in the background, in bytes a second.
        max_postcopy_bandwidth: i64 = "max-postcopy-bandwidth",
        /// By how many percent the guest is slowed down at most.
        max_cpu_throttle: i64 = "max-cpu-throttle",
        /// How several connections are compressed, such as `zstd`.
        multifd_compression: String = "multifd-compression",
        /// How well zlib compresses there, 0 to 9.
        multifd_zlib_level: i64 = "multifd-zlib-level",
        /// How well QATzip compresses there, 1 to 9. QEMU 10.0 takes it, 7.2 does not.
        multifd_qatzip_level: i64 = "multifd-qatzip-level",
        /// How well zstd compresses there, 0 to 20.
        multifd_zstd_level: i64 = "multifd-zstd-level",
        /// Under which names bitmaps migrate.
        block_bitmap_mapping: Value = "block-bitmap-mapping",
        /// The limit of dirtied megabytes a second of a virtual CPU. QEMU 10.0 takes it, 7.2 does not.
        vcpu_dirty_limit: i64 = "vcpu-dirty-limit",
        /// The kind of migration, such as `normal`. QEMU 10.0 takes it, 7.2 does not.
        mode: String = "mode",
        /// Who finds pages of zeros, such as `multifd`. QEMU 10.0 takes it, 7.2 does not.
        zero_page_detection: String = "zero-page-detection",
        /// Whether a file is written past the host's cache. QEMU 10.0 takes it, 7.2 does not.
        direct_io: bool = "direct-io",
    }

    /// Starts the NBD server (`nbd-server-start`).
    pub struct NbdServerStart("nbd-server-start") -> Nothing {
        /// Where it listens.
        addr: NbdServerAddress = "addr",
    } {
        /// How many seconds a client may take for its handshake. QEMU 10.0 takes it, 7.2 does not.
        handshake_max_seconds: i64 = "handshake-max-seconds",
        /// The id of the TLS credentials.
        tls_creds: String = "tls-creds",
        /// The id of the object that decides who may connect.
        tls_authz: String = "tls-authz",
        /// How many clients there may be at once; 0 for any number.
        max_connections: i64 = "max-connections",
    }

    /// Exports a node over NBD (`nbd-server-add`). Deprecated: `block-export-add`.
    pub struct NbdServerAdd("nbd-server-add") -> Nothing {
        /// The name of the device or the node.
        device: String = "device",
    } {
        /// The name of the export; else that of the device.
        name: String = "name",
        /// A text for the clients.
        description: String = "description",
        /// Whether clients may write.
        writable: bool = "writable",
        /// The bitmap that clients may read.
        bitmap: String = "bitmap",
    }

    /// Ends an export over NBD (`nbd-server-remove`). Deprecated: `block-export-del`.
    pub struct NbdServerRemove("nbd-server-remove") -> Nothing {
        /// The name of the export.
        name: String = "name",
    } {
        /// `safe` fails while a client is connected, `hard` disconnects it; else `safe`.
        mode: String = "mode",
    }

    /// Stops the NBD server, and all exports with it (`nbd-server-stop`).
    pub struct NbdServerStop("nbd-server-stop") -> Nothing {} {}
}

object! {
    /// A way of migrating and whether it is on.
    pub struct MigrationCapability {
        /// Its name, such as `events` or `postcopy-ram`.
        pub capability: String = "capability",
        /// Whether it is on.
        pub state: bool = "state",
    }

    /// A connection of a migration.
    pub struct MigrationChannel {
        /// What it is for: `main`, or `cpr`.
        pub channel_type: String = "channel-type",
        /// Its address: an object with `transport`, such as `socket`, and what that takes.
        pub addr: Map<String, Value> = "addr",
    }

    /// Where the NBD server listens, for [`NbdServerStart`].
    pub struct NbdServerAddress {
        /// What kind of address it is: `inet`, `unix`, `vsock` or `fd`.
        pub kind: String = "type",
        /// The address.
        pub data: Map<String, Value> = "data",
    }
}

impl MigrationCapability {
    /// A way of migrating, to be turned on or off.
    pub fn new(capability: impl Into<String>, state: bool) -> Self {
        MigrationCapability {
            capability: capability.into(),
            state,
            ..MigrationCapability::default()
        }
    }
}

impl NbdServerAddress {
    /// A TCP port on this host or address.
    pub fn inet(host: impl Into<String>, port: u16) -> Self {
        let data = [("host", host.into()), ("port", port.to_string())];
        NbdServerAddress::of("inet", data)
    }

    /// A unix socket.
    pub fn unix(path: impl Into<String>) -> Self {
        NbdServerAddress::of("unix", [("path", path.into())])
    }

    fn of<const N: usize>(kind: &str, data: [(&str, String); N]) -> Self {
        NbdServerAddress {
            kind: kind.to_owned(),
            data: data
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Value::String(value)))
                .collect(),
            ..NbdServerAddress::default()
        }
    }
}
