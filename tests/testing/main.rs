//! The stand-ins for users' own tests: what they promise, one module for each, and virsh against one of them. The clock is
//! paused but for what runs over sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod libvirtd;
mod qemu;
mod raw;
mod tour;
mod virsh;
