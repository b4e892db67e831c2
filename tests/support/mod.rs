//! What the integration tests share. A test file says `mod support;` and so compiles its own copy, of which it
//! uses a part. Imports only std, tokio's and the crate's dependencies; never the crate's private modules.
#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that cannot do its work fails the test that called it"
)]

pub(crate) mod capabilities;
pub(crate) mod conformance;
pub(crate) mod fds;
pub(crate) mod guest_agent;
pub(crate) mod kdc;
pub(crate) mod lab;
pub(crate) mod linux_guest;
pub(crate) mod mock;
pub(crate) mod pki;
pub(crate) mod privileged;
pub(crate) mod process;
pub(crate) mod qemu;
pub(crate) mod qmp_peer;
pub(crate) mod scratch;
pub(crate) mod script;
pub(crate) mod sshd;
pub(crate) mod storage;
