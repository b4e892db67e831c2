#![doc = include_str!("../README.md")]

pub mod packet;
pub mod protocol;
pub mod replay;
pub mod xdr;

mod config;
mod connection;
mod driver;
mod error;
mod inflight;
mod libvirt;
mod monitor;
mod qmp;
mod queue;
mod rpc;

pub use config::Config;
pub use driver::{LibvirtRpc, SocketMonitor};
pub use error::{DecodeFailure, EndCause, Error, ErrorObject, LibvirtError, Phase};
pub use libvirt::{Domain, DomainKey, Libvirt};
pub use monitor::{EventStream, Monitor, MonitorExt, MonitorFuture};
pub use qmp::{
    Command, CommandError, ErrorClass, Event, EventDomain, EventError, Greeting, QmpError,
    Timestamp, Version,
};
