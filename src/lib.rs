#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "libvirt-c"), forbid(unsafe_code))]

pub mod blocking;
pub mod guide;
pub mod packet;
pub mod protocol;
pub mod replay;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "typed")]
pub mod typed;
pub mod types;
pub mod xdr;

mod config;
mod connection;
#[cfg(feature = "sasl")]
mod credentials;
mod dial;
mod domain;
mod driver;
mod error;
mod guard;
mod hypervisor;
mod inflight;
mod libvirt;
mod monitor;
mod objects;
mod qmp;
mod queue;
mod reconnect;
mod rpc;
mod transport;
mod uri;
mod wait;

pub use config::{Backoff, Config, Handshake};
#[cfg(feature = "sasl")]
pub use credentials::{Credentials, CredentialsRequest};
pub use domain::{Commit, DomainExt, Mirror, Snapshot};
#[cfg(feature = "libvirt-c")]
pub use driver::LibvirtC;
pub use driver::{
    GuestAgent, LibvirtRpc, QmpAddress, QmpAddressError, QmpListener, SocketMonitor, Virsh,
};
pub use error::{
    AuthFailure, DecodeFailure, EndCause, Error, ErrorObject, LibvirtError, Phase, TlsFailure,
};
pub use guard::Guard;
pub use hypervisor::{DomainStatus, Hypervisor, HypervisorDomain, HypervisorVersion};
pub use libvirt::{Admin, DomainKey, Libvirt, events};
pub use monitor::{
    AgentTimeout, EventOptions, EventStream, Monitor, MonitorExt, MonitorFuture, RunOptions,
    SchemaCell,
};
pub use objects::{
    AdminClient, AdminServer, Domain, DomainCheckpoint, DomainSnapshot, Interface, Network,
    NetworkPort, NodeDevice, NwFilter, NwFilterBinding, Secret, StoragePool, StorageVol,
    TypedParam, TypedParamValue,
};
pub use qmp::{
    Command, CommandError, ErrorClass, Event, EventDomain, EventError, EventFilter, FilterError,
    Greeting, QmpError, Schema, Timestamp, Transaction, Version, schema,
};
pub use queue::Overflow;
pub use reconnect::ConnectionState;
pub use rpc::{Stream, StreamItem};
pub use uri::{Auth, HostVerify, Mode, Parameters, Proxy, SshAuth, Transport, Uri, UriError, User};
pub use wait::{
    After, CallbackOptions, Callbacks, EventHandler, Found, History, HistoryEntry, Tray, Wait,
    WaitExt, Waited,
};
