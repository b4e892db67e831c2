//! What libvirt has: domains, networks, storage and the rest, as the wire names them, and typed parameters. Plain data with
//! the wire's layout. Imports constants and xdr.
//!
//! They stand in the generated types where the definitions in `xdr/` have `remote_nonnull_domain` and its like. Most
//! procedures find an object by its UUID alone; the rest of its fields is what the daemon said when it was looked up.

mod typed_param;

use uuid::Uuid;
use xdr_codec::{Pack, Result, Unpack};

use crate::constants::{ClientTransport, SecretUsageType};
use crate::xdr::{Reader, Writer};

pub use typed_param::{TypedParam, TypedParamValue};

/// `REMOTE_STRING_MAX` and `ADMIN_STRING_MAX`.
const STRING_MAX: usize = 4 << 20;

/// A domain: one guest, running or not (`remote_nonnull_domain`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Domain {
    /// Its name; unique on the host, but another domain may bear it later.
    pub name: String,
    /// What identifies it.
    pub uuid: Uuid,
    /// Its id while it is active, never negative; a new one each time it starts.
    pub id: Option<i32>,
}

impl Domain {
    /// Whether the domain is active: its QEMU process exists, running or paused.
    pub fn is_running(&self) -> bool {
        self.id.is_some()
    }
}

/// How a type of one field lies on the wire.
trait Field: Sized {
    fn put(&self, w: &mut Writer) -> Result<usize>;
    fn take(r: &mut Reader) -> Result<(Self, usize)>;
}

impl Field for String {
    fn put(&self, w: &mut Writer) -> Result<usize> {
        w.string(self, STRING_MAX)
    }

    fn take(r: &mut Reader) -> Result<(Self, usize)> {
        r.text(STRING_MAX)
    }
}

/// The id of a domain: -1 for one that is not active.
impl Field for Option<i32> {
    fn put(&self, w: &mut Writer) -> Result<usize> {
        self.unwrap_or(-1).pack(w)
    }

    fn take(r: &mut Reader) -> Result<(Self, usize)> {
        let (id, size) = i32::unpack(r)?;
        Ok(((id >= 0).then_some(id), size))
    }
}

macro_rules! fields {
    ($($ty:ty),*) => {$(
        impl Field for $ty {
            fn put(&self, w: &mut Writer) -> Result<usize> {
                self.pack(w)
            }

            fn take(r: &mut Reader) -> Result<(Self, usize)> {
                Unpack::unpack(r)
            }
        }
    )*};
}

fields!(
    u64,
    i64,
    Uuid,
    SecretUsageType,
    ClientTransport,
    Domain,
    Network,
    AdminServer
);

/// In the order in which it is written.
impl Pack<Writer> for Uuid {
    fn pack(&self, w: &mut Writer) -> Result<usize> {
        w.opaque_fixed(self.as_bytes())
    }
}

impl Unpack<Reader> for Uuid {
    fn unpack(r: &mut Reader) -> Result<(Self, usize)> {
        let (bytes, size) = r.opaque_fixed()?;
        Ok((Uuid::from_bytes(bytes), size))
    }
}

/// The layout of an object: its fields, each with its name on the wire, in the order of the wire.
macro_rules! layout {
    ($name:ident = $wire:literal { $($field:ident: $wire_field:literal),* $(,)? }) => {
        impl Pack<Writer> for $name {
            fn pack(&self, w: &mut Writer) -> Result<usize> {
                let mut size = 0;
                $(size += w.field($wire, $wire_field, |w| self.$field.put(w))?;)*
                Ok(size)
            }
        }

        impl Unpack<Reader> for $name {
            fn unpack(r: &mut Reader) -> Result<(Self, usize)> {
                let mut size = 0;
                $(
                    let ($field, taken) = r.field($wire, $wire_field, Field::take)?;
                    size += taken;
                )*
                Ok(($name { $($field),* }, size))
            }
        }
    };
}

/// As [`layout`], with the type itself.
macro_rules! object {
    (
        $(#[$doc:meta])*
        $name:ident = $wire:literal {
            $($(#[$field_doc:meta])* $field:ident: $ty:ty = $wire_field:literal),* $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty),*
        }

        layout!($name = $wire { $($field: $wire_field),* });
    };
}

layout!(Domain = "remote_nonnull_domain" { name: "name", uuid: "uuid", id: "id" });

object! {
    /// A virtual network (`remote_nonnull_network`).
    Network = "remote_nonnull_network" {
        /// Its name, unique on the host.
        name: String = "name",
        /// What identifies it.
        uuid: Uuid = "uuid",
    }
}

object! {
    /// A port of a virtual network, where an interface of a guest is plugged in (`remote_nonnull_network_port`).
    NetworkPort = "remote_nonnull_network_port" {
        /// The network.
        network: Network = "net",
        /// What identifies the port.
        uuid: Uuid = "uuid",
    }
}

object! {
    /// A network filter: rules for the traffic of guests (`remote_nonnull_nwfilter`).
    NwFilter = "remote_nonnull_nwfilter" {
        /// Its name, unique on the host.
        name: String = "name",
        /// What identifies it.
        uuid: Uuid = "uuid",
    }
}

object! {
    /// A network filter at work on a port (`remote_nonnull_nwfilter_binding`).
    NwFilterBinding = "remote_nonnull_nwfilter_binding" {
        /// The host's interface that is filtered, which identifies the binding.
        port_dev: String = "portdev",
        /// Name of the filter.
        filter_name: String = "filtername",
    }
}

object! {
    /// A network interface of the host (`remote_nonnull_interface`).
    Interface = "remote_nonnull_interface" {
        /// Its name, such as `eth0`.
        name: String = "name",
        /// Its hardware address.
        mac: String = "mac",
    }
}

object! {
    /// A storage pool (`remote_nonnull_storage_pool`).
    StoragePool = "remote_nonnull_storage_pool" {
        /// Its name, unique on the host.
        name: String = "name",
        /// What identifies it.
        uuid: Uuid = "uuid",
    }
}

object! {
    /// A volume of a storage pool (`remote_nonnull_storage_vol`).
    StorageVol = "remote_nonnull_storage_vol" {
        /// Name of the pool.
        pool: String = "pool",
        /// Its name, unique in the pool.
        name: String = "name",
        /// What identifies it; for a file, its path.
        key: String = "key",
    }
}

object! {
    /// A device of the host (`remote_nonnull_node_device`).
    NodeDevice = "remote_nonnull_node_device" {
        /// Its name, such as `pci_0000_00_1f_2`.
        name: String = "name",
    }
}

object! {
    /// A secret that libvirt keeps; its value is asked for by itself (`remote_nonnull_secret`).
    Secret = "remote_nonnull_secret" {
        /// What identifies it.
        uuid: Uuid = "uuid",
        /// What it is for.
        usage_type: SecretUsageType = "usageType",
        /// What it is for in particular, such as the path of a volume.
        usage_id: String = "usageID",
    }
}

object! {
    /// A checkpoint of a domain's disks (`remote_nonnull_domain_checkpoint`).
    DomainCheckpoint = "remote_nonnull_domain_checkpoint" {
        /// Its name, unique in the domain.
        name: String = "name",
        /// The domain.
        domain: Domain = "dom",
    }
}

object! {
    /// A snapshot of a domain (`remote_nonnull_domain_snapshot`).
    DomainSnapshot = "remote_nonnull_domain_snapshot" {
        /// Its name, unique in the domain.
        name: String = "name",
        /// The domain.
        domain: Domain = "dom",
    }
}

object! {
    /// A server inside a libvirt daemon, such as `libvirtd` or `admin` (`admin_nonnull_server`).
    AdminServer = "admin_nonnull_server" {
        /// Its name.
        name: String = "name",
    }
}

object! {
    /// A client of a server of a libvirt daemon (`admin_nonnull_client`).
    AdminClient = "admin_nonnull_client" {
        /// The server.
        server: AdminServer = "srv",
        /// Its number, which identifies it.
        id: u64 = "id",
        /// When it connected, seconds since 1970.
        timestamp: i64 = "timestamp",
        /// How it is connected.
        transport: ClientTransport = "transport",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::{decode, encode};

    fn encoded(value: &impl Pack<Writer>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(value, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_domain_lies_on_the_wire_as_libvirt_has_it() {
        let uuid = Uuid::from_bytes(*b"0123456789abcdef");
        let mut domain = Domain {
            name: "vm-1".into(),
            uuid,
            id: Some(7),
        };
        let running = b"\0\0\0\x04vm-10123456789abcdef\0\0\0\x07";
        assert_eq!(encoded(&domain), running);
        assert_eq!(decode::<Domain>(running[..].into()).unwrap(), domain);
        domain.id = None;
        let stopped = b"\0\0\0\x04vm-10123456789abcdef\xff\xff\xff\xff";
        assert_eq!(encoded(&domain), stopped);
        assert_eq!(decode::<Domain>(stopped[..].into()).unwrap(), domain);
    }

    #[test]
    fn an_object_in_another_keeps_its_order_and_names_what_is_wrong() {
        let secret = Secret {
            uuid: Uuid::nil(),
            usage_type: SecretUsageType::CEPH,
            usage_id: "x".repeat(STRING_MAX + 1),
        };
        let error = encode(&secret, &mut Vec::new()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("remote_nonnull_secret.usageID: "),
            "{error}"
        );
        let vol = StorageVol {
            pool: "p".into(),
            name: "n".into(),
            key: "k".into(),
        };
        assert_eq!(
            encoded(&vol),
            b"\0\0\0\x01p\0\0\0\0\0\0\x01n\0\0\0\0\0\0\x01k\0\0\0"
        );
    }
}
