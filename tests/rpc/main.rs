//! The RPC client against a mock daemon: one module for each part of its behaviour. Everything goes through the public
//! API. The clock is paused: a deadline passes as soon as nobody has anything left to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod calls;
mod cancel;
mod close;
mod connect;
mod deadlines;
mod end;
mod event_values;
mod events;
mod files;
mod filters;
mod hypervisor;
mod keepalive;
mod limits;
mod methods;
mod object_events;
mod reconnect;
mod replies;
#[cfg(feature = "sasl")]
mod sasl;
mod storm;
mod stream_window;
mod streams;
mod timeouts;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use libvirt_qmp::{Error, Event, EventStream, LibvirtRpc, Monitor};
use support::mock::PATIENCE;
use tokio::task::JoinHandle;

const STATUS: &str = r#"{"execute":"query-status"}"#;

/// Runs `command` in a task of its own.
fn run(monitor: &Arc<LibvirtRpc>, command: impl Into<String>) -> JoinHandle<Result<Bytes, Error>> {
    let (monitor, command) = (monitor.clone(), command.into());
    tokio::spawn(async move { monitor.run(command.as_bytes()).await })
}

/// The next item of a stream, which must not keep the test waiting.
async fn item(events: &mut EventStream) -> Option<Result<Event, Error>> {
    let next = tokio::time::timeout(PATIENCE, events.next()).await;
    next.expect("the stream says something")
}
