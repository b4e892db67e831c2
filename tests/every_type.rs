//! Every type of the protocol, from a list that the generator writes: values come back as they were, and what is cut short
//! or says lengths that it does not have is an error. Nothing panics, and nothing is allocated for a length alone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fmt::Debug;

use bytes::Bytes;
use libvirt_qmp::protocol::{Procedure, remote};
use libvirt_qmp::xdr::{self, Reader, Writer};
use libvirt_qmp::{
    AdminClient, AdminServer, Domain, DomainCheckpoint, DomainSnapshot, Interface, Network,
    NetworkPort, NodeDevice, NwFilter, NwFilterBinding, Secret, StoragePool, StorageVol,
    TypedParam, TypedParamValue,
};
use uuid::Uuid;
use xdr_codec::{Pack, Unpack};

include!(concat!(env!("OUT_DIR"), "/samples.rs"));

/// What values are made of.
struct Source {
    state: u64,
    fill: Fill,
}

/// How much is in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    /// Zeros, and nothing where nothing may be.
    Least,
    /// A few of everything, and numbers as large as they go.
    Most,
    /// Whatever comes.
    Any,
}

/// A value of a type.
trait Sample: Sized {
    fn sample(g: &mut Source) -> Self;
}

impl Source {
    fn new(fill: Fill, seed: u64) -> Self {
        Source {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            fill,
        }
    }

    /// xorshift64*, or the least or the most.
    fn number(&mut self) -> u64 {
        match self.fill {
            Fill::Least => 0,
            Fill::Most => u64::MAX,
            Fill::Any => {
                self.state ^= self.state >> 12;
                self.state ^= self.state << 25;
                self.state ^= self.state >> 27;
                self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
            }
        }
    }

    /// One of so many.
    fn below(&mut self, limit: usize) -> usize {
        let number = usize::try_from(self.number() >> 33).unwrap();
        match self.fill {
            Fill::Most => limit - 1,
            _ => number % limit,
        }
    }

    /// How many of at most `max` are in a list: few, so that lists in lists end.
    fn count(&mut self, max: u32) -> usize {
        let max = usize::try_from(max).unwrap();
        self.below(4).min(max)
    }

    fn value<T: Sample>(&mut self) -> T {
        T::sample(self)
    }

    fn text(&mut self, max: u32) -> String {
        let length = self.below(8).min(usize::try_from(max).unwrap());
        (0..length)
            .map(|_| char::from(b'a' + u8::try_from(self.below(26)).unwrap()))
            .collect()
    }

    fn bytes(&mut self, max: u32) -> Vec<u8> {
        let length = self.below(8).min(usize::try_from(max).unwrap());
        (0..length).map(|_| self.value()).collect()
    }

    fn items<T>(&mut self, max: u32, item: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.count(max)).map(|_| item(self)).collect()
    }

    fn option<T>(&mut self, value: impl Fn(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 1).then(|| value(self))
    }
}

macro_rules! numbers {
    ($($ty:ty),*) => {$(
        impl Sample for $ty {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "any number will do")]
            fn sample(g: &mut Source) -> Self {
                g.number() as $ty
            }
        }
    )*};
}

numbers!(i16, u16, i32, u32, i64, u64, u8);

impl Sample for bool {
    fn sample(g: &mut Source) -> Self {
        g.below(2) == 1
    }
}

/// Always a number: what is none is not equal to itself.
impl Sample for f64 {
    fn sample(g: &mut Source) -> Self {
        f64::from(g.value::<i32>()) / 8.0
    }
}

impl Sample for Uuid {
    fn sample(g: &mut Source) -> Self {
        Uuid::from_u64_pair(g.value(), g.value())
    }
}

/// Samples of what `src/objects.rs` has.
macro_rules! objects {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl Sample for $name {
            fn sample(g: &mut Source) -> Self {
                $name { $($field: g.value()),* }
            }
        }
    )*};
}

impl Sample for String {
    fn sample(g: &mut Source) -> Self {
        g.text(u32::MAX)
    }
}

/// The number of a domain that runs is not negative.
impl Sample for Option<i32> {
    fn sample(g: &mut Source) -> Self {
        g.option(|g| g.value::<i32>() & i32::MAX)
    }
}

objects! {
    Domain { name, uuid, id }
    Network { name, uuid }
    NetworkPort { network, uuid }
    NwFilter { name, uuid }
    NwFilterBinding { port_dev, filter_name }
    Interface { name, mac }
    StoragePool { name, uuid }
    StorageVol { pool, name, key }
    NodeDevice { name }
    Secret { uuid, usage_type, usage_id }
    DomainCheckpoint { name, domain }
    DomainSnapshot { name, domain }
    AdminServer { name }
    AdminClient { server, id, timestamp, transport }
    TypedParam { field, value }
}

impl Sample for TypedParamValue {
    fn sample(g: &mut Source) -> Self {
        match g.below(7) {
            0 => TypedParamValue::Int(g.value()),
            1 => TypedParamValue::UInt(g.value()),
            2 => TypedParamValue::LLong(g.value()),
            3 => TypedParamValue::ULLong(g.value()),
            4 => TypedParamValue::Double(g.value()),
            5 => TypedParamValue::Boolean(g.value()),
            _ => TypedParamValue::String(g.value()),
        }
    }
}

/// What can be done with a type.
struct Shape {
    name: &'static str,
    /// A value is encoded and read again. Gives its bytes.
    comes_back: fn(&mut Source) -> Vec<u8>,
    /// Whether bytes can be read.
    reads: fn(Bytes) -> bool,
}

impl Shape {
    fn of<T: Sample + Pack<Writer> + Unpack<Reader> + PartialEq + Debug>(
        name: &'static str,
    ) -> Self {
        Shape {
            name,
            comes_back: |source| {
                let value = T::sample(source);
                let mut bytes = Vec::new();
                xdr::encode(&value, &mut bytes).unwrap();
                let read: T = xdr::decode(bytes.clone().into())
                    .unwrap_or_else(|error| panic!("{value:?}: {error}"));
                assert_eq!(read, value);
                bytes
            },
            reads: |bytes| xdr::decode::<T>(bytes).is_ok(),
        }
    }
}

/// Every type: those of the generator, and those written by hand.
fn every(visit: &mut dyn FnMut(&Shape)) {
    each(visit);
    visit(&Shape::of::<Domain>("remote_nonnull_domain"));
    visit(&Shape::of::<Network>("remote_nonnull_network"));
    visit(&Shape::of::<NetworkPort>("remote_nonnull_network_port"));
    visit(&Shape::of::<NwFilter>("remote_nonnull_nwfilter"));
    visit(&Shape::of::<NwFilterBinding>(
        "remote_nonnull_nwfilter_binding",
    ));
    visit(&Shape::of::<Interface>("remote_nonnull_interface"));
    visit(&Shape::of::<StoragePool>("remote_nonnull_storage_pool"));
    visit(&Shape::of::<StorageVol>("remote_nonnull_storage_vol"));
    visit(&Shape::of::<NodeDevice>("remote_nonnull_node_device"));
    visit(&Shape::of::<Secret>("remote_nonnull_secret"));
    visit(&Shape::of::<DomainCheckpoint>(
        "remote_nonnull_domain_checkpoint",
    ));
    visit(&Shape::of::<DomainSnapshot>(
        "remote_nonnull_domain_snapshot",
    ));
    visit(&Shape::of::<AdminServer>("admin_nonnull_server"));
    visit(&Shape::of::<AdminClient>("admin_nonnull_client"));
    visit(&Shape::of::<TypedParam>("remote_typed_param"));
    visit(&Shape::of::<TypedParamValue>("remote_typed_param_value"));
}

/// The most address space that this process has ever had, in bytes: what was allocated, touched or not.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

#[test]
fn no_type_is_left_out() {
    let mut names = Vec::new();
    every(&mut |shape| names.push(shape.name));
    // Of libvirt 11.3: 701 structs of the remote program, 31 of admin, 12 of qemu, 1 of lxc, 5 of net.
    assert!(names.len() >= 745, "{}", names.len());
    for name in [
        "remote_domain_get_info_ret",
        "remote_domain_event_graphics_msg",
        "qemu_domain_monitor_event_msg",
        "lxc_domain_open_namespace_args",
        "admin_connect_get_logging_filters_ret",
        "virNetMessageError",
    ] {
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn every_value_comes_back() {
    every(&mut |shape| {
        for fill in [Fill::Least, Fill::Most] {
            (shape.comes_back)(&mut Source::new(fill, 0));
        }
        for seed in 1..=10 {
            let mut source = Source::new(Fill::Any, seed);
            let bytes = (shape.comes_back)(&mut source);
            assert_eq!(bytes.len() % 4, 0, "{}", shape.name);
        }
    });
}

#[test]
fn every_cut_is_an_error() {
    every(&mut |shape| {
        for fill in [Fill::Least, Fill::Most] {
            let bytes = Bytes::from((shape.comes_back)(&mut Source::new(fill, 0)));
            for end in 0..bytes.len() {
                let cut = bytes.slice(..end);
                assert!(
                    !(shape.reads)(cut),
                    "{} from {end} of {} bytes",
                    shape.name,
                    bytes.len()
                );
            }
        }
    });
}

/// Each word in turn says a length, a number of items or a kind that it does not have. The largest of them would take many
/// gigabytes.
#[test]
fn no_length_is_believed() {
    let before = peak_memory();
    every(&mut |shape| {
        let bytes = (shape.comes_back)(&mut Source::new(Fill::Most, 0));
        for word in (0..bytes.len()).step_by(4) {
            for lie in [5_u32, 4_194_304, u32::MAX] {
                let mut bytes = bytes.clone();
                bytes[word..word + 4].copy_from_slice(&lie.to_be_bytes());
                (shape.reads)(bytes.into());
            }
        }
    });
    let grown = peak_memory() - before;
    assert!(grown < 1 << 30, "{grown} bytes more");
}

/// A list that is longer than its definition allows is refused before anything is sent.
#[test]
fn what_is_over_a_limit_is_not_encoded() {
    let too_many = remote::ConnectListDomainsRet {
        ids: vec![0; 16_385],
    };
    let error = xdr::encode(&too_many, &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "remote_connect_list_domains_ret.ids: length 16385 is over the limit of 16384"
    );
    assert_eq!(remote::procedure::ConnectListDomains::NUMBER, 37);
}
