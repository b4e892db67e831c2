//! The driver on libvirt's C library, against a real libvirtd and QEMU: one module for each part of its behaviour.
//!
//! Files and threads are counted for the whole process, so tests that count run alone: see [`alone`] and [`beside_others`].
#![cfg(feature = "libvirt-c")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod child;
mod commands;
mod end;
mod events;
mod leaks;
mod memory;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libvirt_qmp::{Config, EndCause, Error, LibvirtC, Monitor, Phase, RunOptions};
use support::lab::Lab;
use support::process::PATIENCE;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::JoinHandle;

const STATUS: &[u8] = br#"{"execute":"query-status"}"#;

/// More than what should take no time does on a loaded machine, and less than any deadline that is not meant.
const SOON: Duration = Duration::from_secs(10);

static TESTS: RwLock<()> = RwLock::const_new(());

/// Held by a test that counts what the process has.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    TESTS.write().await
}

/// Held by every other test.
async fn beside_others() -> RwLockReadGuard<'static, ()> {
    TESTS.read().await
}

fn monitor(lab: &Lab, domain: &str) -> LibvirtC {
    LibvirtC::new(lab.client_uri(), domain)
}

fn with_config(lab: &Lab, domain: &str, config: Config) -> LibvirtC {
    LibvirtC::with_config(lab.client_uri(), domain, config)
}

/// Runs a command in a task of its own.
fn spawn(monitor: &Arc<LibvirtC>, command: &'static [u8]) -> JoinHandle<Result<Bytes, Error>> {
    let monitor = monitor.clone();
    tokio::spawn(async move { monitor.run(command).await })
}

/// Fails the test if `what` takes longer than `limit`.
async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(limit, what).await;
    result.unwrap_or_else(|_| panic!("not done after {limit:?}"))
}

/// Runs a command that is not answered, on a guest that is paused, and waits until it is with libvirt: the next one then
/// waits for its turn.
async fn stuck(monitor: &Arc<LibvirtC>) -> JoinHandle<Result<Bytes, Error>> {
    let call = spawn(monitor, STATUS);
    // It comes before those that look.
    tokio::task::yield_now().await;
    let options = RunOptions::new().timeout(Duration::from_millis(100));
    within(PATIENCE, async {
        while !matches!(
            monitor.run_with(STATUS, options).await,
            Err(Error::Timeout {
                phase: Phase::Queue,
                ..
            })
        ) {}
    })
    .await;
    call
}

fn cause(error: Error) -> Arc<EndCause> {
    match error {
        Error::Disconnected { cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}
