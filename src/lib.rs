#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "libvirt-c"), forbid(unsafe_code))]

pub mod packet;
pub mod protocol;
pub mod replay;
pub mod xdr;

mod config;
mod connection;
mod driver;
mod error;
mod hypervisor;
mod inflight;
mod libvirt;
mod monitor;
mod qmp;
mod queue;
mod rpc;
mod transport;

pub use config::{Config, Handshake};
#[cfg(feature = "libvirt-c")]
pub use driver::LibvirtC;
pub use driver::{
    GuestAgent, LibvirtRpc, QmpAddress, QmpAddressError, QmpListener, SocketMonitor, Virsh,
};
pub use error::{DecodeFailure, EndCause, Error, ErrorObject, LibvirtError, Phase};
pub use hypervisor::{DomainStatus, Hypervisor, HypervisorDomain, HypervisorVersion};
pub use libvirt::{Domain, DomainKey, Libvirt};
pub use monitor::{
    AgentTimeout, EventOptions, EventStream, Monitor, MonitorExt, MonitorFuture, RunOptions,
};
pub use qmp::{
    Command, CommandError, ErrorClass, Event, EventDomain, EventError, EventFilter, FilterError,
    Greeting, QmpError, Timestamp, Version,
};
pub use queue::Overflow;
