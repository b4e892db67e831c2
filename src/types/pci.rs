//! The guest's PCI buses (`query-pci`).

use super::wire::object;

object! {
    /// A PCI bus without a parent (`query-pci`).
    pub struct PciBus {
        /// Its number.
        pub bus: i64 = "bus",
        /// The functions on it.
        pub devices: Vec<PciDevice> = "devices",
    }

    /// One function of a PCI device.
    pub struct PciDevice {
        /// The number of its bus.
        pub bus: i64 = "bus",
        /// Its slot, 0 to 31.
        pub slot: i64 = "slot",
        /// Its function, 0 to 7.
        pub function: i64 = "function",
        /// What kind of device it is.
        pub class_info: PciClass = "class_info",
        /// Who made it.
        pub id: PciId = "id",
        /// The interrupt line the guest has given it.
        pub irq: Option<i64> = "irq",
        /// The interrupt pin: 0 none, 1 to 4 for A to D.
        pub irq_pin: i64 = "irq_pin",
        /// The id it was added with; empty where it has none.
        pub qdev_id: String = "qdev_id",
        /// What is behind it, where it is a bridge.
        pub pci_bridge: Option<Box<PciBridge>> = "pci_bridge",
        /// Its memory and ports.
        pub regions: Vec<PciRegion> = "regions",
    }

    /// A device's PCI class.
    pub struct PciClass {
        /// Its name, such as `Ethernet controller`.
        pub desc: Option<String> = "desc",
        /// Base class and subclass in one number, such as 0x0200.
        pub class: i64 = "class",
    }

    /// A device's PCI ids.
    pub struct PciId {
        /// Of the device.
        pub device: i64 = "device",
        /// Of its vendor.
        pub vendor: i64 = "vendor",
        /// Of the subsystem.
        pub subsystem: Option<i64> = "subsystem",
        /// Of the subsystem's vendor.
        pub subsystem_vendor: Option<i64> = "subsystem-vendor",
    }

    /// A base address register of a PCI device.
    pub struct PciRegion {
        /// Its number, from 0.
        pub bar: i64 = "bar",
        /// `io` or `memory`.
        pub kind: String = "type",
        /// Where the guest has mapped it; -1 where it has not.
        pub address: i64 = "address",
        /// Its length in bytes.
        pub size: i64 = "size",
        /// For memory: whether it may be prefetched.
        pub prefetch: Option<bool> = "prefetch",
        /// For memory: whether its address has 64 bits.
        pub mem_type_64: Option<bool> = "mem_type_64",
    }

    /// What is behind a PCI bridge.
    pub struct PciBridge {
        /// The bus numbers and addresses it passes on.
        pub bus: PciBridgeBus = "bus",
        /// The functions on its secondary bus.
        pub devices: Option<Vec<PciDevice>> = "devices",
    }

    /// Which buses and addresses are behind a PCI bridge.
    pub struct PciBridgeBus {
        /// The bus the bridge is on.
        pub number: i64 = "number",
        /// The bus behind it.
        pub secondary: i64 = "secondary",
        /// The highest bus behind it.
        pub subordinate: i64 = "subordinate",
        /// Ports it passes on.
        pub io_range: PciRange = "io_range",
        /// Memory it passes on.
        pub memory_range: PciRange = "memory_range",
        /// Prefetchable memory it passes on.
        pub prefetchable_range: PciRange = "prefetchable_range",
    }

    /// A range of addresses, both ends included.
    pub struct PciRange {
        /// The first address.
        pub base: i64 = "base",
        /// The last address; less than the first where the range is empty.
        pub limit: i64 = "limit",
    }
}
