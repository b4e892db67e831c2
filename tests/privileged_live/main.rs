//! What only a libvirtd of the system's kind has: a socket that only reads, polkit, containers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

/// By this name `tests/run` leaves these tests out where nobody is root, or root may not have namespaces.
mod as_root {
    mod containers;
    mod disks;
    mod lab;
    mod polkit;
    mod readonly;
}

/// The URI by which a client outside of the lab's world reaches one of the drivers, with the socket for changes or with
/// the one for reading alone.
fn uri(driver: &str, socket: &std::path::Path) -> String {
    format!("{driver}+unix:///system?socket={}", socket.display())
}
