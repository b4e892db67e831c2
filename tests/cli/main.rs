//! The `qmp` program as its user meets it: output, messages and exit codes. The peer is a replayed recording, a stand-in, a
//! socket that says nothing, or, in the live tests, a private libvirtd or QEMU. One module for each behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/pty.rs"]
mod pty;

mod events;
mod generated;
mod jobs;
mod list;
mod live;
mod program;
mod recordings;
mod run;
mod screendump;
mod usage;
mod wrap;
