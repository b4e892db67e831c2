//! Waiting for events: conditions, the history and callbacks, over a stand-in monitor whose part the test plays, and live. One
//! module for each. The clock is paused where nothing runs on threads: a deadline passes as soon as nobody has anything to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod callbacks;
mod conditions;
mod guard;
mod history;
mod live;
mod stand_in;

use std::time::Duration;

use libvirt_qmp::{EndCause, Error, Phase};

/// A deadline that is not the point of the test.
const LATER: Duration = Duration::from_secs(1000);

/// The cause of a connection's end.
fn cause(error: &Error) -> &EndCause {
    match error {
        Error::Disconnected { cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}

/// The phase of a timeout, and whether the command may have been executed.
fn timed_out(error: Error) -> (Phase, bool) {
    match error {
        Error::Timeout {
            phase,
            maybe_executed,
            ..
        } => (phase, maybe_executed),
        other => panic!("{other:?}"),
    }
}

/// What QEMU said of a failure, and the name of the event that said so.
fn failure(error: Error) -> (String, Option<String>) {
    match error {
        Error::Failed { reason, event, .. } => (reason, event.map(|event| event.name)),
        other => panic!("{other:?}"),
    }
}
