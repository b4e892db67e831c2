//! The guest agent on its own socket: against a peer in memory on a paused clock, and against a real `qemu-ga`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod dialogue;
mod live;
