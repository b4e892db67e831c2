//! Connections that are made again after a loss (`Config::reconnect`), one rule after the other.

mod calls;
mod ends;
mod losses;
mod registering;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libvirt_qmp::protocol::qemu::procedure::ConnectDomainMonitorEventRegister;
use libvirt_qmp::protocol::remote::AuthType;
use libvirt_qmp::protocol::remote::procedure::AuthPolkit;
use libvirt_qmp::{
    Backoff, Config, ConnectionState, EndCause, Error, Event, EventStream, Libvirt, LibvirtRpc,
    Monitor, MonitorExt, Phase,
};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::support::mock::{self, DOMAIN, MockDaemon, domain, monitor_on, pair, quiet, settle};
use super::{STATUS, item, run};

const RUNNING: &str = r#"{"return":{"running":true}}"#;

/// A host on which a client finds a daemon, or not.
pub(super) struct Host {
    /// The daemons' ends of the connections, as they are made.
    daemons: mpsc::UnboundedReceiver<MockDaemon>,
    answers: Arc<Mutex<Answers>>,
    tries: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Answers {
    Connected,
    Refused,
    /// Nothing at all.
    Silent,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>>;

impl Host {
    /// The host, and how a client connects to it.
    fn new() -> (Self, impl Fn() -> Connecting + Send + Sync + 'static) {
        let (sender, daemons) = mpsc::unbounded_channel();
        let host = Host {
            daemons,
            answers: Arc::new(Mutex::new(Answers::Connected)),
            tries: Arc::default(),
        };
        let (answers, tries) = (host.answers.clone(), host.tries.clone());
        let connect = move || -> Connecting {
            tries.fetch_add(1, Ordering::Relaxed);
            let (answers, sender) = (*answers.lock().unwrap(), sender.clone());
            Box::pin(async move {
                match answers {
                    Answers::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
                    Answers::Silent => std::future::pending().await,
                    Answers::Connected => {
                        let (client, daemon) = pair();
                        sender.send(daemon).unwrap();
                        Ok(client)
                    }
                }
            })
        };
        (host, connect)
    }

    fn answer(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    fn tries(&self) -> usize {
        self.tries.load(Ordering::Relaxed)
    }

    /// The daemon's end of the next connection.
    async fn daemon(&mut self) -> MockDaemon {
        let next = tokio::time::timeout(mock::PATIENCE, self.daemons.recv()).await;
        next.expect("the client connects").unwrap()
    }

    /// The next connection, with the session opened.
    pub(super) async fn reopened(&mut self) -> MockDaemon {
        let mut daemon = self.daemon().await;
        daemon.handshake().await;
        daemon
    }
}

pub(super) fn lasting() -> Config {
    quiet().reconnect(Backoff::new())
}

/// A session on a host, with the daemon of its first connection.
pub(super) async fn session_with(config: Config) -> (Libvirt, Host, MockDaemon) {
    let (mut host, connect) = Host::new();
    let (libvirt, daemon) = tokio::join!(Libvirt::open_with(connect, config), host.reopened());
    (libvirt.unwrap(), host, daemon)
}

/// The same with a monitor of [`DOMAIN`].
async fn lasting_monitor() -> (Arc<LibvirtRpc>, Libvirt, Host, MockDaemon) {
    let (libvirt, host, mut daemon) = session_with(lasting()).await;
    let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    (Arc::new(monitor), libvirt, host, daemon)
}

async fn subscribe_as(
    monitor: &LibvirtRpc,
    daemon: &mut MockDaemon,
    callback_id: i32,
) -> EventStream {
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(callback_id));
    events.unwrap()
}

async fn event(events: &mut EventStream) -> Event {
    item(events).await.expect("the stream goes on").unwrap()
}

/// Takes the gap that must come next.
async fn gap(events: &mut EventStream) -> Arc<EndCause> {
    match item(events).await {
        Some(Err(error @ Error::Gap { .. })) => {
            assert!(error.leaves_stream_open() && !error.is_disconnected());
            let Error::Gap { cause } = error else {
                unreachable!()
            };
            cause
        }
        other => panic!("{other:?}"),
    }
}

async fn is_idle(events: &mut EventStream) {
    settle().await;
    let next = futures_util::StreamExt::next(events);
    assert!(mock::poll_once(pin!(next)).await.is_pending());
}

async fn until(
    state: &mut watch::Receiver<ConnectionState>,
    is: impl FnMut(&ConnectionState) -> bool,
) -> ConnectionState {
    let wait = tokio::time::timeout(mock::PATIENCE, state.wait_for(is)).await;
    wait.expect("the state is reached").unwrap().clone()
}

fn is_connected(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Connected)
}

fn is_lost(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Reconnecting { .. })
}

fn is_closed(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Closed { .. })
}

/// Waits until the client knows that its connection is lost.
pub(super) async fn lost(libvirt: &Libvirt) {
    until(&mut libvirt.state(), is_lost).await;
}

/// The cause of the end that `error` is, and whether the call may have been executed.
fn ended(error: &Error) -> (Arc<EndCause>, bool) {
    match error {
        Error::Disconnected {
            cause,
            maybe_executed,
        } => (cause.clone(), *maybe_executed),
        other => panic!("{other:?}"),
    }
}

async fn answered(result: JoinHandle<Result<bytes::Bytes, Error>>) {
    let reply = result.await.unwrap().unwrap();
    assert_eq!(reply, RUNNING.as_bytes());
}
