//! Commands that plug devices and their backends, and move media.

use serde_json::{Map, Value};

use super::Nothing;
use super::macros::commands;
use crate::types::wire::{names, object};

commands! {
    /// Plugs a device in (`device_add`). What the driver takes goes in with `extra`:
    /// `DeviceAdd::new("virtio-blk-pci").id("vdb").extra("drive", "disk1")`.
    pub struct DeviceAdd("device_add") -> Nothing {
        /// Its driver, such as `virtio-blk-pci`.
        driver: String = "driver",
    } {
        /// The bus it goes on; else one that fits.
        bus: String = "bus",
        /// Its id.
        id: String = "id",
    }

    /// Asks to unplug a device (`device_del`). It is gone with the event `DEVICE_DELETED`, when the guest has let go.
    pub struct DeviceDel("device_del") -> Nothing {
        /// Its id, or its path in the tree of objects.
        id: String = "id",
    } {}

    /// Adds a network backend (`netdev_add`). What its type takes goes in with `extra`:
    /// `NetdevAdd::new("tap", "net0").extra("ifname", "tap0")`.
    pub struct NetdevAdd("netdev_add") -> Nothing {
        /// Its type, such as `tap` or `user`.
        kind: String = "type",
        /// Its id.
        id: String = "id",
    } {}

    /// Removes a network backend (`netdev_del`).
    pub struct NetdevDel("netdev_del") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Adds an object, such as an I/O thread, memory or a secret (`object-add`). What its type takes goes in with `extra`:
    /// `ObjectAdd::new("memory-backend-ram", "mem1").extra("size", 1 << 30)`.
    pub struct ObjectAdd("object-add") -> Nothing {
        /// Its type.
        qom_type: String = "qom-type",
        /// Its id.
        id: String = "id",
    } {}

    /// Removes an object (`object-del`).
    pub struct ObjectDel("object-del") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Adds a character device (`chardev-add`).
    pub struct ChardevAdd("chardev-add") -> ChardevAdded {
        /// Its id.
        id: String = "id",
        /// What it is connected to.
        backend: ChardevBackend = "backend",
    } {}

    /// Removes a character device (`chardev-remove`).
    pub struct ChardevRemove("chardev-remove") -> Nothing {
        /// Its id.
        id: String = "id",
    } {}

    /// Connects or disconnects the cable of a network device (`set_link`).
    pub struct SetLink("set_link") -> Nothing {
        /// The id of the device or of its backend.
        name: String = "name",
        /// Whether it is connected.
        up: bool = "up",
    } {}

    /// Takes the medium out of a drive (`eject`). Name the drive with `id`.
    pub struct Eject("eject") -> Nothing {} {
        /// The name of the backend. Deprecated: `id`.
        device: String = "device",
        /// The id or path of the device in the guest.
        id: String = "id",
        /// Whether to do it even if the guest has locked the medium.
        force: bool = "force",
    }

    /// Opens the tray of a drive (`blockdev-open-tray`). Name the drive with `id`.
    pub struct BlockdevOpenTray("blockdev-open-tray") -> Nothing {} {
        /// The name of the backend. Deprecated: `id`.
        device: String = "device",
        /// The id or path of the device in the guest.
        id: String = "id",
        /// Whether to do it even if the guest has locked the medium.
        force: bool = "force",
    }

    /// Closes the tray of a drive (`blockdev-close-tray`). Name the drive with `id`.
    pub struct BlockdevCloseTray("blockdev-close-tray") -> Nothing {} {
        /// The name of the backend. Deprecated: `id`.
        device: String = "device",
        /// The id or path of the device in the guest.
        id: String = "id",
    }

    /// Puts a medium into a drive whose tray is open (`blockdev-insert-medium`).
    pub struct BlockdevInsertMedium("blockdev-insert-medium") -> Nothing {
        /// The id or path of the device in the guest.
        id: String = "id",
        /// The node that is the medium.
        node_name: String = "node-name",
    } {}

    /// Takes the medium out of a drive whose tray is open (`blockdev-remove-medium`).
    pub struct BlockdevRemoveMedium("blockdev-remove-medium") -> Nothing {
        /// The id or path of the device in the guest.
        id: String = "id",
    } {}

    /// Changes the medium in a drive for a file (`blockdev-change-medium`): opens the tray, takes one out, puts the
    /// other in and closes. Name the drive with `id`.
    pub struct BlockdevChangeMedium("blockdev-change-medium") -> Nothing {
        /// The file.
        filename: String = "filename",
    } {
        /// The name of the backend. Deprecated: `id`.
        device: String = "device",
        /// The id or path of the device in the guest.
        id: String = "id",
        /// The format of the file; else QEMU guesses.
        format: String = "format",
        /// Whether to do it even if the guest has locked the medium.
        force: bool = "force",
        /// Whether the new medium can be written to; else as the old one.
        read_only_mode: ReadOnlyMode = "read-only-mode",
    }
}

object! {
    /// What a character device is connected to, for [`ChardevAdd`].
    pub struct ChardevBackend {
        /// Its type, such as `socket`, `file`, `pty` or `null`.
        pub kind: String = "type",
        /// What the type takes.
        pub data: Map<String, Value> = "data",
    }

    /// What `chardev-add` returns.
    pub struct ChardevAdded {
        /// For a `pty`: the path of its other end.
        pub pty: Option<String> = "pty",
    }
}

impl ChardevBackend {
    /// A backend of the type `kind`.
    pub fn new(kind: impl Into<String>) -> Self {
        ChardevBackend {
            kind: kind.into(),
            ..ChardevBackend::default()
        }
    }

    /// Adds something that its type takes.
    pub fn option(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.data.insert(name.into(), value.into());
        self
    }

    /// Nothing: what is written is gone.
    pub fn null() -> Self {
        ChardevBackend::new("null")
    }

    /// A new pseudo terminal, whose path the command returns.
    pub fn pty() -> Self {
        ChardevBackend::new("pty")
    }

    /// A file that takes what the guest writes.
    pub fn file(path: impl Into<String>) -> Self {
        ChardevBackend::new("file").option("out", path.into())
    }

    /// A unix socket: one that QEMU listens on without waiting for a client, or one it connects to.
    pub fn unix_socket(path: impl Into<String>, server: bool) -> Self {
        let address = serde_json::json!({"type": "unix", "data": {"path": path.into()}});
        let backend = ChardevBackend::new("socket")
            .option("addr", address)
            .option("server", server);
        if server {
            backend.option("wait", false)
        } else {
            backend
        }
    }
}

names! {
    /// Whether a new medium can be written to.
    pub enum ReadOnlyMode {
        /// If the old one could.
        Retain = "retain",
        /// No.
        ReadOnly = "read-only",
        /// Yes; it is an error if that cannot be.
        ReadWrite = "read-write",
    }
}
