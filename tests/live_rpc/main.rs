//! What the driver over libvirt's RPC does with options, against a real libvirtd and QEMU: filters that the daemon keeps,
//! the guest agent, file descriptors, and lists of domains.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod files;
mod filters;
mod hypervisor;

use libvirt_qmp::{Config, Libvirt};
use support::lab::Lab;
use tokio::net::UnixStream;

fn config(lab: &Lab) -> Config {
    Config::new().uri(lab.uri())
}

async fn open(lab: &Lab) -> Libvirt {
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    Libvirt::open(conn, config(lab)).await.unwrap()
}
