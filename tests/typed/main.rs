//! The typed layer from outside: decoding, and against a real QEMU.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod decoding;
mod facts;
mod live;
mod table;
