//! The monitor by virsh: against a script that stands in for virsh and does what the real one will not do on demand, and live
//! against virsh, libvirtd and QEMU. Everything goes through the public API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod errors;
mod events;
mod fake;
mod live;
mod processes;

use libvirt_qmp::{EndCause, Error};

const STATUS: &[u8] = br#"{"execute":"query-status"}"#;

/// The cause of a connection's end.
fn cause(error: &Error) -> &EndCause {
    match error {
        Error::Disconnected { cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}
