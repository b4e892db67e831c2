//! Streams of a real libvirtd: volumes of a storage pool up and down, and what guests show and say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod guests;
mod volumes;

use libvirt_qmp::{Config, Libvirt};
use support::lab::Lab;
use tokio::net::UnixStream;

async fn open(lab: &Lab) -> Libvirt {
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let config = Config::new().uri(lab.uri());
    Libvirt::open(conn, config).await.unwrap()
}
