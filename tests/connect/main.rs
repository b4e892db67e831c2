//! Connecting by URI: which one is needed, each transport, what goes wrong on the way, and what is left behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod by_uri;
mod child;
mod deadlines;
#[cfg(feature = "gssapi")]
mod gssapi;
#[cfg(feature = "sasl")]
mod sasl;
mod ssh;
#[cfg(feature = "tls")]
mod tls;
mod uris;
#[cfg(not(feature = "sasl"))]
mod without_sasl;
#[cfg(not(feature = "tls"))]
mod without_tls;

use std::error::Error as _;
use std::time::Duration;

use libvirt_qmp::{Config, Error};
use support::mock::{self, MockDaemon};
use tokio::io::{AsyncRead, AsyncWrite};

/// Long enough for a machine under load.
fn patient() -> Config {
    Config::new().connect_timeout(Some(Duration::from_secs(60)))
}

/// The error and its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A daemon whose part the test speaks, at the other end of an accepted stream.
fn daemon_on<T>(mut accepted: T) -> MockDaemon
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut stream, daemon) = mock::pair();
    tokio::spawn(async move {
        let _ = tokio::io::copy_bidirectional(&mut accepted, &mut stream).await;
    });
    daemon
}
