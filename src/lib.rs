#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "libvirt-c"), forbid(unsafe_code))]

pub mod packet;
pub mod protocol;
pub mod replay;
pub mod xdr;

mod config;
mod connection;
mod dial;
mod driver;
mod error;
mod inflight;
mod libvirt;
mod monitor;
mod qmp;
mod queue;
mod rpc;
mod transport;
mod uri;

pub use config::{Config, Handshake};
pub use driver::{GuestAgent, LibvirtRpc, QmpAddress, QmpAddressError, QmpListener, SocketMonitor};
pub use error::{DecodeFailure, EndCause, Error, ErrorObject, LibvirtError, Phase, TlsFailure};
pub use libvirt::{Domain, DomainKey, Libvirt};
pub use monitor::{
    AgentTimeout, EventOptions, EventStream, Monitor, MonitorExt, MonitorFuture, RunOptions,
    SchemaCell,
};
pub use qmp::{
    Command, CommandError, ErrorClass, Event, EventDomain, EventError, EventFilter, FilterError,
    Greeting, QmpError, Schema, Timestamp, Transaction, Version, schema,
};
pub use queue::Overflow;
pub use uri::{Auth, HostVerify, Mode, Parameters, Proxy, SshAuth, Transport, Uri, UriError, User};
