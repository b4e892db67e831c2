//! Commands for the guest and its QEMU at large: state, power, CPUs, objects, descriptors, keys, screen.

use serde_json::Value;

use super::Nothing;
use super::macros::commands;
use crate::qmp::Version;
use crate::types::wire::{names, object};
use crate::types::{
    Balloon, Chardev, CommandName, Cpu, FdSet, GuestName, GuestUuid, IoThread, Kvm, PciBus, Status,
};

commands! {
    /// Asks whether the guest runs (`query-status`).
    pub struct QueryStatus("query-status") -> Status {} {}

    /// Asks for QEMU's version (`query-version`).
    pub struct QueryVersion("query-version") -> Version {} {}

    /// Asks for the guest's name (`query-name`).
    pub struct QueryName("query-name") -> GuestName {} {}

    /// Asks for the guest's UUID (`query-uuid`).
    pub struct QueryUuid("query-uuid") -> GuestUuid {} {}

    /// Asks whether KVM is used (`query-kvm`).
    pub struct QueryKvm("query-kvm") -> Kvm {} {}

    /// Asks for the virtual CPUs, without disturbing them (`query-cpus-fast`).
    pub struct QueryCpusFast("query-cpus-fast") -> Vec<Cpu> {} {}

    /// Asks for the PCI buses (`query-pci`).
    pub struct QueryPci("query-pci") -> Vec<PciBus> {} {}

    /// Asks for the character devices (`query-chardev`).
    pub struct QueryChardev("query-chardev") -> Vec<Chardev> {} {}

    /// Asks for the threads for input and output (`query-iothreads`).
    pub struct QueryIothreads("query-iothreads") -> Vec<IoThread> {} {}

    /// Asks for the names of all commands (`query-commands`).
    pub struct QueryCommands("query-commands") -> Vec<CommandName> {} {}

    /// Stops the guest's CPUs (`stop`).
    pub struct Stop("stop") -> Nothing {} {}

    /// Lets the guest's CPUs go on (`cont`).
    pub struct Cont("cont") -> Nothing {} {}

    /// Ends QEMU, and the guest with it at once (`quit`). The reply may not come: the connection ends.
    pub struct Quit("quit") -> Nothing {} {}

    /// Presses the guest's power button (`system_powerdown`). What follows is up to the guest.
    pub struct SystemPowerdown("system_powerdown") -> Nothing {} {}

    /// Resets the guest (`system_reset`).
    pub struct SystemReset("system_reset") -> Nothing {} {}

    /// Wakes a guest that is asleep (`system_wakeup`).
    pub struct SystemWakeup("system_wakeup") -> Nothing {} {}

    /// Asks the guest to give memory back, or gives it some (`balloon`).
    pub struct BalloonSet("balloon") -> Nothing {
        /// The memory that the guest is to keep, in bytes.
        value: i64 = "value",
    } {}

    /// Asks how much memory the balloon leaves the guest (`query-balloon`). Without a balloon it is an error.
    pub struct QueryBalloon("query-balloon") -> Balloon {} {}

    /// Writes what the guest's screen shows to a file of the host (`screendump`).
    pub struct Screendump("screendump") -> Nothing {
        /// The file.
        filename: String = "filename",
    } {
        /// The id of the display device; else the first.
        device: String = "device",
        /// The number of its screen, from 0; only with `device`.
        head: i64 = "head",
        /// The format; else PPM.
        format: ScreenFormat = "format",
    }

    /// Presses keys together and lets them go (`send-key`).
    pub struct SendKey("send-key") -> Nothing {
        /// The keys, in the order in which they are pressed.
        keys: Vec<KeyCode> = "keys",
    } {
        /// For how many milliseconds they are held; else 100.
        hold_time: i64 = "hold-time",
    }

    /// Runs a line of the human monitor (`human-monitor-command`) and returns its text. A line that it does not know is no
    /// error: the text says so.
    pub struct HumanMonitorCommand("human-monitor-command") -> String {
        /// The line.
        command_line: String = "command-line",
    } {
        /// The number of the virtual CPU it is about.
        cpu_index: i64 = "cpu-index",
    }

    /// Reads a property of an object (`qom-get`).
    pub struct QomGet("qom-get") -> Value {
        /// The object's path, such as `/machine`.
        path: String = "path",
        /// The property's name.
        property: String = "property",
    } {}

    /// Sets a property of an object (`qom-set`).
    pub struct QomSet("qom-set") -> Nothing {
        /// The object's path.
        path: String = "path",
        /// The property's name.
        property: String = "property",
        /// Its new value.
        value: Value = "value",
    } {}

    /// Asks for the properties of an object (`qom-list`).
    pub struct QomList("qom-list") -> Vec<QomProperty> {
        /// The object's path.
        path: String = "path",
    } {}

    /// Adds a file descriptor to a set (`add-fd`). The descriptor goes with the command:
    /// [`Command::file`](crate::Command::file).
    pub struct AddFd("add-fd") -> AddedFd {} {
        /// The number of the set; else a new one.
        fdset_id: i64 = "fdset-id",
        /// A text to know it by.
        opaque: String = "opaque",
    }

    /// Removes one or all file descriptors of a set (`remove-fd`).
    pub struct RemoveFd("remove-fd") -> Nothing {
        /// The number of the set.
        fdset_id: i64 = "fdset-id",
    } {
        /// QEMU's number of the descriptor; else all.
        fd: i64 = "fd",
    }

    /// Asks for the sets of file descriptors (`query-fdsets`).
    pub struct QueryFdsets("query-fdsets") -> Vec<FdSet> {} {}

    /// Gives QEMU a file descriptor and a name for it (`getfd`). The descriptor goes with the command:
    /// [`Command::file`](crate::Command::file).
    pub struct Getfd("getfd") -> Nothing {
        /// The name, which must not begin with a digit.
        fdname: String = "fdname",
    } {}

    /// Closes a file descriptor by its name (`closefd`).
    pub struct Closefd("closefd") -> Nothing {
        /// The name.
        fdname: String = "fdname",
    } {}

    /// Sets the password of a remote display (`set_password`).
    pub struct SetPassword("set_password") -> Nothing {
        /// The kind of display.
        protocol: DisplayProtocol = "protocol",
        /// The password.
        password: String = "password",
    } {
        /// What becomes of who is connected.
        connected: PasswordAction = "connected",
        /// VNC: the id of the display; else the first.
        display: String = "display",
    }
}

object! {
    /// A descriptor that was added to a set (`add-fd`).
    pub struct AddedFd {
        /// The number of the set: `/dev/fdset/NUMBER` opens it.
        pub fdset_id: i64 = "fdset-id",
        /// QEMU's own number for the descriptor.
        pub fd: i64 = "fd",
    }

    /// A property of an object (`qom-list`).
    pub struct QomProperty {
        /// Its name.
        pub name: String = "name",
        /// Its type, such as `bool`, `child<iothread>` or `link<device>`.
        pub kind: String = "type",
        /// What it is for.
        pub description: Option<String> = "description",
        /// Its default.
        pub default_value: Option<Value> = "default-value",
    }

    /// A key of the keyboard, for [`SendKey`].
    pub struct KeyCode {
        /// `qcode` for a name, `number` for a scan code.
        pub kind: String = "type",
        /// The name or the number.
        pub data: Value = "data",
    }
}

impl KeyCode {
    /// A key by its name, such as `ctrl`, `alt`, `f2`, `a` or `ret`.
    pub fn name(name: impl Into<String>) -> Self {
        KeyCode {
            kind: "qcode".to_owned(),
            data: Value::String(name.into()),
            ..KeyCode::default()
        }
    }

    /// A key by its scan code.
    pub fn number(number: i64) -> Self {
        KeyCode {
            kind: "number".to_owned(),
            data: number.into(),
            ..KeyCode::default()
        }
    }
}

names! {
    /// The format of a screen dump.
    pub enum ScreenFormat {
        /// Portable pixmap.
        Ppm = "ppm",
        /// PNG.
        Png = "png",
    }

    /// A kind of remote display.
    pub enum DisplayProtocol {
        /// VNC.
        Vnc = "vnc",
        /// SPICE.
        Spice = "spice",
    }

    /// What becomes of connected clients when a password is set.
    pub enum PasswordAction {
        /// They stay.
        Keep = "keep",
        /// The command fails if there are any.
        Fail = "fail",
        /// They are disconnected.
        Disconnect = "disconnect",
    }
}
