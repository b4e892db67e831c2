//! The monitor on a QMP socket against a peer whose part the test speaks: one module for each part of its behaviour.
//! Everything goes through the public API. The clock is paused: a deadline passes as soon as nobody has anything left to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod any_input;
mod calls;
mod dial;
mod end;
mod events;
mod files;
mod framing;
mod handshake;
mod listen;
mod oob;
mod reconnect;
mod streams;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use libvirt_qmp::{EndCause, Error, EventStream, Monitor, SocketMonitor};
use tokio::task::JoinHandle;

use support::qmp_peer::Received;

const STATUS: &str = r#"{"execute":"query-status"}"#;

/// Runs `command` in a task of its own.
fn run(
    monitor: &Arc<SocketMonitor>,
    command: impl Into<String>,
) -> JoinHandle<Result<Bytes, Error>> {
    let (monitor, command) = (monitor.clone(), command.into());
    tokio::spawn(async move { monitor.run(command.as_bytes()).await })
}

/// A command with a number in it, to tell it by.
fn numbered(n: i64) -> String {
    format!(r#"{{"execute":"x","arguments":{{"n":{n}}}}}"#)
}

/// The number in a command of [`numbered`].
fn number(command: &Received) -> i64 {
    command.command["arguments"]["n"].as_i64().unwrap()
}

/// The names of the next events.
async fn names(events: &mut EventStream, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(events.next().await.unwrap().unwrap().name);
    }
    names
}

/// The cause of a connection's end.
fn cause(error: &Error) -> &EndCause {
    match error {
        Error::Disconnected { cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}
