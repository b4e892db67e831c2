//! The data of the events in `events`.

use crate::types::wire::{names, object};
use crate::types::{JobStatus, JobType, MigrationStatus};

object! {
    /// Why the guest has shut down (`SHUTDOWN`) or was reset (`RESET`).
    pub struct ShutdownInfo {
        /// Whether the guest asked for it.
        pub guest: bool = "guest",
        /// Why.
        pub reason: ShutdownCause = "reason",
    }

    /// What the guest's watchdog does (`WATCHDOG`).
    pub struct WatchdogInfo {
        /// What happens to the guest.
        pub action: WatchdogAction = "action",
    }

    /// A panic of the guest's system (`GUEST_PANICKED`, `GUEST_CRASHLOADED`).
    pub struct GuestPanicked {
        /// What happens to the guest.
        pub action: PanicAction = "action",
        /// What the guest told.
        pub info: Option<GuestPanicInfo> = "info",
    }

    /// What a guest told of its panic. Which members there are goes by `kind`.
    pub struct GuestPanicInfo {
        /// `hyper-v` or `s390`.
        pub kind: String = "type",
        /// `hyper-v`: the first number, the code of the bug check in Windows.
        pub arg1: Option<u64> = "arg1",
        /// `hyper-v`: the second number.
        pub arg2: Option<u64> = "arg2",
        /// `hyper-v`: the third number.
        pub arg3: Option<u64> = "arg3",
        /// `hyper-v`: the fourth number.
        pub arg4: Option<u64> = "arg4",
        /// `hyper-v`: the fifth number.
        pub arg5: Option<u64> = "arg5",
        /// `s390`: the number of the CPU.
        pub core: Option<i64> = "core",
        /// `s390`: the mask of its PSW.
        pub psw_mask: Option<u64> = "psw-mask",
        /// `s390`: the address of its PSW.
        pub psw_addr: Option<u64> = "psw-addr",
        /// `s390`: why, such as `disabled-wait`.
        pub reason: Option<String> = "reason",
    }

    /// The guest has set its clock (`RTC_CHANGE`).
    pub struct RtcChange {
        /// How many seconds it is from the host's clock.
        pub offset: i64 = "offset",
        /// The path of the clock in the tree of objects.
        pub qom_path: String = "qom-path",
    }

    /// A device that is gone (`DEVICE_DELETED`), or that the guest does not let go of (`DEVICE_UNPLUG_GUEST_ERROR`).
    pub struct DeviceDeleted {
        /// Its id, if it has one.
        pub device: Option<String> = "device",
        /// Its path in the tree of objects.
        pub path: String = "path",
    }

    /// A drive whose tray has moved (`DEVICE_TRAY_MOVED`).
    pub struct DeviceTrayMoved {
        /// The name of its backend; empty where it has none.
        pub device: String = "device",
        /// The id or path of the device in the guest.
        pub id: String = "id",
        /// Whether the tray is open now.
        pub tray_open: bool = "tray-open",
    }

    /// An error of a disk (`BLOCK_IO_ERROR`).
    pub struct BlockIoError {
        /// The path of the device in the tree of objects. QEMU 10.0 says it, 7.2 does not.
        pub qom_path: Option<String> = "qom-path",
        /// The name of the backend; empty where it has none.
        pub device: String = "device",
        /// The name of the node.
        pub node_name: Option<String> = "node-name",
        /// What failed.
        pub operation: IoOperation = "operation",
        /// What QEMU does about it.
        pub action: BlockErrorAction = "action",
        /// Whether there was no room on the host.
        pub nospace: Option<bool> = "nospace",
        /// The error, for people.
        pub reason: String = "reason",
    }

    /// An image that is damaged (`BLOCK_IMAGE_CORRUPTED`).
    pub struct BlockImageCorrupted {
        /// The name of the device; empty where it has none.
        pub device: String = "device",
        /// The name of the node.
        pub node_name: Option<String> = "node-name",
        /// What is wrong, for people.
        pub msg: String = "msg",
        /// Where, in bytes from the start.
        pub offset: Option<i64> = "offset",
        /// How many bytes.
        pub size: Option<i64> = "size",
        /// Whether the image cannot be used any more.
        pub fatal: bool = "fatal",
    }

    /// A job of the block layer that has ended (`BLOCK_JOB_COMPLETED`, `BLOCK_JOB_CANCELLED`) or is ready
    /// (`BLOCK_JOB_READY`).
    pub struct BlockJobEnded {
        /// What it does.
        pub kind: JobType = "type",
        /// Its id, which is the device's name where no other was given.
        pub device: String = "device",
        /// How much there was to do, in bytes.
        pub len: i64 = "len",
        /// How much was done, in bytes.
        pub offset: i64 = "offset",
        /// The limit of its speed in bytes a second; 0 is none.
        pub speed: i64 = "speed",
        /// `BLOCK_JOB_COMPLETED`: why it failed, if it has.
        pub error: Option<String> = "error",
    }

    /// An error that a job of the block layer has met (`BLOCK_JOB_ERROR`).
    pub struct BlockJobError {
        /// The job's id.
        pub device: String = "device",
        /// What failed.
        pub operation: IoOperation = "operation",
        /// What the job does about it.
        pub action: BlockErrorAction = "action",
    }

    /// A job of the block layer that waits to be finalized (`BLOCK_JOB_PENDING`).
    pub struct BlockJobPending {
        /// What it does.
        pub kind: JobType = "type",
        /// Its id.
        pub id: String = "id",
    }

    /// A write beyond the offset that was set for it (`BLOCK_WRITE_THRESHOLD`).
    pub struct BlockWriteThreshold {
        /// The name of the node.
        pub node_name: String = "node-name",
        /// How many bytes it went beyond.
        pub amount_exceeded: i64 = "amount-exceeded",
        /// The offset, which is not watched any more.
        pub write_threshold: i64 = "write-threshold",
    }

    /// An export that is gone (`BLOCK_EXPORT_DELETED`).
    pub struct BlockExportDeleted {
        /// Its id.
        pub id: String = "id",
    }

    /// A background job in another state (`JOB_STATUS_CHANGE`).
    pub struct JobStatusChange {
        /// Its id.
        pub id: String = "id",
        /// Its state.
        pub status: JobStatus = "status",
    }

    /// A migration in another state (`MIGRATION`).
    pub struct MigrationChange {
        /// Its state.
        pub status: MigrationStatus = "status",
    }

    /// Another pass of a migration over the memory (`MIGRATION_PASS`).
    pub struct MigrationPass {
        /// Its number, from 1.
        pub pass: i64 = "pass",
    }

    /// A dump that has ended (`DUMP_COMPLETED`).
    pub struct DumpCompleted {
        /// What was done.
        pub result: DumpProgress = "result",
        /// Why it failed, if it has.
        pub error: Option<String> = "error",
    }

    /// How far a dump is.
    pub struct DumpProgress {
        /// Its state.
        pub status: DumpStatus = "status",
        /// The bytes written.
        pub completed: i64 = "completed",
        /// The bytes there are.
        pub total: i64 = "total",
    }

    /// A network device that receives other things (`NIC_RX_FILTER_CHANGED`).
    pub struct NicRxFilterChanged {
        /// Its id, if it has one.
        pub name: Option<String> = "name",
        /// Its path in the tree of objects.
        pub path: String = "path",
    }

    /// Both ends of a VNC client's connection (`VNC_CONNECTED`, `VNC_INITIALIZED`, `VNC_DISCONNECTED`).
    pub struct VncConnection {
        /// QEMU's end.
        pub server: VncServer = "server",
        /// The client's end.
        pub client: VncClient = "client",
    }

    /// QEMU's end of a VNC client's connection.
    pub struct VncServer {
        /// Its address.
        pub host: String = "host",
        /// Its port.
        pub service: String = "service",
        /// The kind of address, such as `ipv4`.
        pub family: String = "family",
        /// Whether it is a WebSocket.
        pub websocket: bool = "websocket",
        /// How clients authenticate.
        pub auth: Option<String> = "auth",
    }

    /// A VNC client.
    pub struct VncClient {
        /// Its address.
        pub host: String = "host",
        /// Its port.
        pub service: String = "service",
        /// The kind of address, such as `ipv4`.
        pub family: String = "family",
        /// Whether it is a WebSocket.
        pub websocket: bool = "websocket",
        /// The name in its certificate, where it has shown one; not with `VNC_CONNECTED`.
        pub x509_dname: Option<String> = "x509_dname",
        /// Its user's name, where SASL is used; not with `VNC_CONNECTED`.
        pub sasl_username: Option<String> = "sasl_username",
    }

    /// Both ends of a SPICE client's connection (`SPICE_CONNECTED`, `SPICE_INITIALIZED`, `SPICE_DISCONNECTED`).
    pub struct SpiceConnection {
        /// QEMU's end.
        pub server: SpiceServer = "server",
        /// The client's end.
        pub client: SpiceClient = "client",
    }

    /// QEMU's end of a SPICE client's connection.
    pub struct SpiceServer {
        /// Its address.
        pub host: String = "host",
        /// Its port.
        pub port: String = "port",
        /// The kind of address, such as `ipv4`.
        pub family: String = "family",
        /// How clients authenticate; with `SPICE_INITIALIZED`.
        pub auth: Option<String> = "auth",
    }

    /// A SPICE client. The numbers of its channel are there with `SPICE_INITIALIZED`.
    pub struct SpiceClient {
        /// Its address.
        pub host: String = "host",
        /// Its port.
        pub port: String = "port",
        /// The kind of address, such as `ipv4`.
        pub family: String = "family",
        /// The number of its connection: the same for all its channels.
        pub connection_id: Option<i64> = "connection-id",
        /// The kind of channel, as SPICE numbers it.
        pub channel_type: Option<i64> = "channel-type",
        /// The number of the channel among those of its kind.
        pub channel_id: Option<i64> = "channel-id",
        /// Whether it uses TLS.
        pub tls: Option<bool> = "tls",
    }

    /// A serial port of virtio (`VSERPORT_CHANGE`).
    pub struct VserportChange {
        /// The id of the device.
        pub id: String = "id",
        /// Whether the guest has it open.
        pub open: bool = "open",
    }

    /// A guest's report on a device that was plugged (`ACPI_DEVICE_OST`).
    pub struct AcpiDeviceOst {
        /// The report.
        pub info: AcpiOstInfo = "info",
    }

    /// What a guest reports by ACPI's `_OST`.
    pub struct AcpiOstInfo {
        /// The id of the device, if it has one.
        pub device: Option<String> = "device",
        /// The number of the slot.
        pub slot: String = "slot",
        /// The kind of slot, such as `DIMM` or `CPU`.
        pub slot_type: String = "slot-type",
        /// What is reported on, as ACPI numbers it.
        pub source: i64 = "source",
        /// The report, as ACPI numbers it.
        pub status: i64 = "status",
    }

    /// Images of a quorum of which too few agree (`QUORUM_FAILURE`).
    pub struct QuorumFailure {
        /// The name of the quorum's node or device.
        pub reference: String = "reference",
        /// The first sector.
        pub sector_num: i64 = "sector-num",
        /// How many sectors.
        pub sectors_count: i64 = "sectors-count",
    }

    /// An image of a quorum that differs or has failed (`QUORUM_REPORT_BAD`).
    pub struct QuorumReportBad {
        /// What was done.
        pub kind: QuorumOperation = "type",
        /// The error, if there was one; else it differs.
        pub error: Option<String> = "error",
        /// The name of the image's node.
        pub node_name: String = "node-name",
        /// The first sector.
        pub sector_num: i64 = "sector-num",
        /// How many sectors.
        pub sectors_count: i64 = "sectors-count",
    }

    /// A memory device with another size (`MEMORY_DEVICE_SIZE_CHANGE`).
    pub struct MemoryDeviceSizeChange {
        /// Its id, if it has one.
        pub id: Option<String> = "id",
        /// The size in bytes.
        pub size: i64 = "size",
        /// Its path in the tree of objects.
        pub qom_path: String = "qom-path",
    }

    /// Memory of the host that has failed (`MEMORY_FAILURE`).
    pub struct MemoryFailure {
        /// Whose memory it was: `hypervisor` or `guest`.
        pub recipient: String = "recipient",
        /// What QEMU does about it: `ignore`, `inject`, `fatal` or `reset`.
        pub action: String = "action",
        /// More on it.
        pub flags: MemoryFailureFlags = "flags",
    }

    /// More on memory that has failed.
    pub struct MemoryFailureFlags {
        /// Whether something must be done at once.
        pub action_required: bool = "action-required",
        /// Whether it happened while another failure was dealt with.
        pub recursive: bool = "recursive",
    }
}

names! {
    /// Why a guest shuts down or is reset.
    pub enum ShutdownCause {
        /// No reason was given.
        None = "none",
        /// An error of the host.
        HostError = "host-error",
        /// The command `quit`.
        HostQmpQuit = "host-qmp-quit",
        /// The command `system_reset`.
        HostQmpSystemReset = "host-qmp-system-reset",
        /// A signal, such as SIGTERM.
        HostSignal = "host-signal",
        /// The window was closed.
        HostUi = "host-ui",
        /// The guest has shut down.
        GuestShutdown = "guest-shutdown",
        /// The guest has asked for a reset.
        GuestReset = "guest-reset",
        /// The guest has panicked.
        GuestPanic = "guest-panic",
        /// A part of the machine was reset.
        SubsystemReset = "subsystem-reset",
        /// A snapshot is loaded.
        SnapshotLoad = "snapshot-load",
    }

    /// What happens when a watchdog runs out.
    pub enum WatchdogAction {
        /// The guest is reset.
        Reset = "reset",
        /// The guest is asked to shut down.
        Shutdown = "shutdown",
        /// QEMU ends.
        Poweroff = "poweroff",
        /// The guest is stopped.
        Pause = "pause",
        /// QEMU writes a line.
        Debug = "debug",
        /// Nothing.
        None = "none",
        /// The guest gets a non-maskable interrupt.
        InjectNmi = "inject-nmi",
    }

    /// What happens when a guest's system panics.
    pub enum PanicAction {
        /// The guest is stopped.
        Pause = "pause",
        /// QEMU ends.
        Poweroff = "poweroff",
        /// The guest runs on.
        Run = "run",
    }

    /// What was done with a disk.
    pub enum IoOperation {
        /// It was read.
        Read = "read",
        /// It was written.
        Write = "write",
    }

    /// What is done about an error of a disk.
    pub enum BlockErrorAction {
        /// Nothing.
        Ignore = "ignore",
        /// It is passed on, to the guest or the job's end.
        Report = "report",
        /// The guest or the job stops.
        Stop = "stop",
    }

    /// What was done with a quorum.
    pub enum QuorumOperation {
        /// It was read.
        Read = "read",
        /// It was written.
        Write = "write",
        /// It was flushed.
        Flush = "flush",
    }

    /// The state of a dump.
    pub enum DumpStatus {
        /// There has been none.
        None = "none",
        /// It is being written.
        Active = "active",
        /// It is done.
        Completed = "completed",
        /// It has failed.
        Failed = "failed",
    }
}
