//! Commands for the block graph: nodes, snapshots, bitmaps, and questions about them.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::macros::commands;
use super::{Nothing, QmpCommand};
use crate::types::wire::{Wire, names, object};
use crate::types::{BlockDevice, BlockMedium, BlockStats, DetectZeroes, SocketAddress};

commands! {
    /// Asks for the block devices (`query-block`).
    pub struct QueryBlock("query-block") -> Vec<BlockDevice> {} {}

    /// Asks for what was read and written (`query-blockstats`).
    pub struct QueryBlockstats("query-blockstats") -> Vec<BlockStats> {} {
        /// Whether it is about the named nodes, not about the devices.
        query_nodes: bool = "query-nodes",
    }

    /// Asks for the named nodes of the block graph (`query-named-block-nodes`).
    pub struct QueryNamedBlockNodes("query-named-block-nodes") -> Vec<BlockMedium> {} {
        /// Whether to leave out the images below each.
        flat: bool = "flat",
    }

    /// Removes a node (`blockdev-del`).
    pub struct BlockdevDel("blockdev-del") -> Nothing {
        /// Its name.
        node_name: String = "node-name",
    } {}

    /// Changes the size of an image (`block_resize`). Name it with `node_name` or `device`.
    pub struct BlockResize("block_resize") -> Nothing {
        /// The new size in bytes.
        size: i64 = "size",
    } {
        /// The name of the device.
        device: String = "device",
        /// The name of the node.
        node_name: String = "node-name",
    }

    /// Makes one node the overlay of another: writes go there from now on (`blockdev-snapshot`).
    pub struct BlockdevSnapshot("blockdev-snapshot") -> Nothing {
        /// The node that is written to now.
        node: String = "node",
        /// The overlay, added without a backing image.
        overlay: String = "overlay",
    } {}

    /// Takes a snapshot: writes go to a new image file from now on (`blockdev-snapshot-sync`). Name the disk with `node_name`
    /// or `device`.
    pub struct BlockdevSnapshotSync("blockdev-snapshot-sync") -> Nothing {
        /// The new file.
        snapshot_file: String = "snapshot-file",
    } {
        /// The name of the device.
        device: String = "device",
        /// The name of the node.
        node_name: String = "node-name",
        /// The name of the new node.
        snapshot_node_name: String = "snapshot-node-name",
        /// The format of the new file; else qcow2.
        format: String = "format",
        /// Whether the file is made.
        mode: NewImageMode = "mode",
    }

    /// Adds a bitmap of changed blocks to a node (`block-dirty-bitmap-add`).
    pub struct BlockDirtyBitmapAdd("block-dirty-bitmap-add") -> Nothing {
        /// The node.
        node: String = "node",
        /// The bitmap's name.
        name: String = "name",
    } {
        /// How many bytes one bit stands for: a power of two from 512.
        granularity: i64 = "granularity",
        /// Whether it is kept in the image.
        persistent: bool = "persistent",
        /// Whether it takes no note of writes at first.
        disabled: bool = "disabled",
    }

    /// Removes a bitmap (`block-dirty-bitmap-remove`).
    pub struct BlockDirtyBitmapRemove("block-dirty-bitmap-remove") -> Nothing {
        /// The node.
        node: String = "node",
        /// The bitmap's name.
        name: String = "name",
    } {}

    /// Clears a bitmap (`block-dirty-bitmap-clear`).
    pub struct BlockDirtyBitmapClear("block-dirty-bitmap-clear") -> Nothing {
        /// The node.
        node: String = "node",
        /// The bitmap's name.
        name: String = "name",
    } {}

    /// Lets a bitmap take note of writes (`block-dirty-bitmap-enable`).
    pub struct BlockDirtyBitmapEnable("block-dirty-bitmap-enable") -> Nothing {
        /// The node.
        node: String = "node",
        /// The bitmap's name.
        name: String = "name",
    } {}

    /// Lets a bitmap take no note of writes (`block-dirty-bitmap-disable`).
    pub struct BlockDirtyBitmapDisable("block-dirty-bitmap-disable") -> Nothing {
        /// The node.
        node: String = "node",
        /// The bitmap's name.
        name: String = "name",
    } {}

    /// Asks for an event (`BLOCK_WRITE_THRESHOLD`) when a write goes beyond an offset (`block-set-write-threshold`).
    pub struct BlockSetWriteThreshold("block-set-write-threshold") -> Nothing {
        /// The node.
        node_name: String = "node-name",
        /// The offset in bytes; 0 for none.
        write_threshold: i64 = "write-threshold",
    } {}
}

object! {
    /// A node of the block graph and how it is opened.
    ///
    /// ```
    /// use libvirt_qmp::typed::{BlockdevAdd, BlockdevOptions};
    ///
    /// let file = BlockdevOptions::file("/images/disk.qcow2");
    /// let disk = BlockdevAdd::new(BlockdevOptions::qcow2(file).node_name("disk0").read_only(true));
    /// let text = r#"{"driver":"qcow2","file":{"driver":"file","filename":"/images/disk.qcow2"},
    ///     "node-name":"disk0","read-only":true}"#;
    /// assert_eq!(serde_json::to_value(disk)?, serde_json::from_str::<serde_json::Value>(text)?);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub struct BlockdevOptions {
        /// The driver, such as `qcow2`.
        pub driver: String = "driver",
        /// The name of the node.
        pub node_name: Option<String> = "node-name",
        /// What is done with discards; else they are ignored.
        pub discard: Option<Discard> = "discard",
        /// How it is cached on the host.
        pub cache: Option<BlockdevCache> = "cache",
        /// Whether QEMU may use it at once. QEMU 10.0 takes it, 7.2 does not.
        pub active: Option<bool> = "active",
        /// Whether it is read-only.
        pub read_only: Option<bool> = "read-only",
        /// Whether it becomes read-only where it cannot be written to.
        pub auto_read_only: Option<bool> = "auto-read-only",
        /// Whether others may use the image whatever they do with it; only for reading.
        pub force_share: Option<bool> = "force-share",
        /// What is done with writes of zeros.
        pub detect_zeroes: Option<DetectZeroes> = "detect-zeroes",
    }

    /// How a node is to be cached on the host.
    pub struct BlockdevCache {
        /// Whether the host's cache is not used.
        pub direct: Option<bool> = "direct",
        /// Whether flushes are ignored.
        pub no_flush: Option<bool> = "no-flush",
    }
}

impl BlockdevCache {
    /// Whether the host's cache is not used, and whether flushes are ignored.
    pub fn new(direct: bool, no_flush: bool) -> Self {
        BlockdevCache {
            direct: Some(direct),
            no_flush: Some(no_flush),
            ..BlockdevCache::default()
        }
    }
}

macro_rules! setters {
    ($($(#[$meta:meta])* $field:ident: $type:ty,)*) => {$(
        $(#[$meta])*
        pub fn $field(mut self, $field: impl Into<$type>) -> Self {
            self.$field = Some($field.into());
            self
        }
    )*};
}

impl BlockdevOptions {
    /// A node of this driver. What it takes goes in with [`option`](Self::option).
    pub fn new(driver: impl Into<String>) -> Self {
        BlockdevOptions {
            driver: driver.into(),
            ..BlockdevOptions::default()
        }
    }

    /// A file of the host.
    pub fn file(path: impl Into<String>) -> Self {
        BlockdevOptions::new("file").option("filename", path.into())
    }

    /// A qcow2 image, in `file`: the name of a node, or the options of one.
    pub fn qcow2(file: impl Into<Value>) -> Self {
        BlockdevOptions::new("qcow2").option("file", file)
    }

    /// A raw image, in `file`: the name of a node, or the options of one.
    pub fn raw(file: impl Into<Value>) -> Self {
        BlockdevOptions::new("raw").option("file", file)
    }

    /// A disk of `size` bytes that keeps nothing. What is read from it is not defined, unless `read-zeroes` is given.
    pub fn null_co(size: u64) -> Self {
        BlockdevOptions::new("null-co").option("size", size)
    }

    /// An export of an NBD server.
    pub fn nbd(server: SocketAddress, export: impl Into<String>) -> Self {
        BlockdevOptions::new("nbd")
            .option("server", server.write().unwrap_or_default())
            .option("export", export.into())
    }

    /// Adds something that the driver takes, by its name in QMP.
    pub fn option(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.other.insert(name.into(), value.into());
        self
    }

    setters! {
        /// The name of the node.
        node_name: String,
        /// What is done with discards.
        discard: Discard,
        /// How it is cached on the host.
        cache: BlockdevCache,
        /// Whether QEMU may use it at once.
        active: bool,
        /// Whether it is read-only.
        read_only: bool,
        /// Whether it becomes read-only where it cannot be written to.
        auto_read_only: bool,
        /// Whether others may use the image whatever they do with it.
        force_share: bool,
        /// What is done with writes of zeros.
        detect_zeroes: DetectZeroes,
    }
}

/// The same as JSON, to be an option of another node.
impl From<BlockdevOptions> for Value {
    fn from(options: BlockdevOptions) -> Self {
        options.write().unwrap_or_default()
    }
}

/// Adds a node to the block graph (`blockdev-add`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockdevAdd(
    /// The node.
    pub BlockdevOptions,
);

impl BlockdevAdd {
    /// The command for this node.
    pub fn new(options: BlockdevOptions) -> Self {
        BlockdevAdd(options)
    }
}

impl Serialize for BlockdevAdd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl QmpCommand for BlockdevAdd {
    const NAME: &'static str = "blockdev-add";
    type Return = Nothing;
}

names! {
    /// What is done with discards.
    pub enum Discard {
        /// They are ignored.
        Ignore = "ignore",
        /// They are passed on.
        Unmap = "unmap",
    }

    /// Whether a command makes the image file it writes to.
    pub enum NewImageMode {
        /// It is there already.
        Existing = "existing",
        /// It is made, with the absolute path of the image below it.
        AbsolutePaths = "absolute-paths",
    }
}
