//! The machine that a stand-in for QEMU pretends to run: its script, its state, who is told its events, and how one command
//! after another is executed. Imports qmp, `script`, `request`, `defaults`.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};

use super::reply::{Outcome, Reply, Told};
use super::request::{Request, event_text, on_the_wire};
use super::script::Script;
use super::transport::Out;
use crate::qmp::{Event, Timestamp};

/// The descriptor that came last on a connection and that no command has taken: QEMU has one place for it.
pub(super) type FilePlace = Mutex<Option<OwnedFd>>;

/// Who is told each event; says whether it wants more.
type Listener = Box<dyn Fn(&Event) -> bool + Send>;

pub(super) struct Machine {
    /// The commands of QMP.
    pub(super) script: Script,
    /// The commands of the guest agent.
    pub(super) agent: Script,
    state: Mutex<State>,
    clients: Mutex<Clients>,
    /// QEMU runs one command at a time, whichever monitor it came from.
    dispatcher: tokio::sync::Mutex<()>,
    /// Whether QEMU has ended.
    ended: watch::Sender<bool>,
    /// Wakes those who wait for a client.
    connected: watch::Sender<()>,
}

/// What commands read and change.
pub(super) struct State {
    pub(super) version: (u64, u64, u64),
    pub(super) package: String,
    pub(super) capabilities: Vec<String>,
    pub(super) name: Option<String>,
    /// `running` or `paused`, or what the test says.
    pub(super) status: String,
    pub(super) hmp: Vec<(String, String)>,
    pub(super) oob: BTreeSet<String>,
    /// The `qmp_capabilities` that came.
    pub(super) negotiations: Vec<Value>,
    pub(super) agent_connected: bool,
    pub(super) pretty: bool,
    /// The names of the descriptors that `getfd` took.
    pub(super) named_files: BTreeSet<String>,
    pub(super) next_fdset: u64,
    /// The descriptors that commands took, for the test.
    pub(super) files: Vec<OwnedFd>,
}

#[derive(Default)]
struct Clients {
    next: u64,
    monitors: Vec<Client>,
    listeners: Vec<Listener>,
}

/// A client of one of the monitors.
struct Client {
    number: u64,
    out: mpsc::UnboundedSender<Out>,
    abort: Arc<Notify>,
    /// Whether it has negotiated capabilities: events go to it.
    negotiated: bool,
}

/// What a command came to. Its events have been sent but for those that follow the reply.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) after: Vec<Told>,
    pub(super) ends: bool,
}

impl Machine {
    pub(super) fn new() -> Self {
        let oob = ["migrate-pause", "migrate-recover", "query-yank", "yank"];
        Machine {
            script: Script::new(),
            agent: Script::new(),
            state: Mutex::new(State {
                version: (7, 2, 22),
                package: String::new(),
                capabilities: vec!["oob".to_owned()],
                name: None,
                status: "running".to_owned(),
                hmp: Vec::new(),
                oob: oob.map(str::to_owned).into(),
                negotiations: Vec::new(),
                agent_connected: true,
                pretty: false,
                named_files: BTreeSet::new(),
                next_fdset: 0,
                files: Vec::new(),
            }),
            clients: Mutex::default(),
            dispatcher: tokio::sync::Mutex::new(()),
            ended: watch::Sender::new(false),
            connected: watch::Sender::new(()),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn note_negotiation(&self, command: Value) {
        self.state().negotiations.push(command);
    }

    /// Executes a command when its turn comes, and sends the events that come before its reply.
    pub(super) async fn execute(&self, request: &Request, files: &FilePlace) -> Done {
        let _turn = match request.oob {
            true => None,
            false => Some(self.dispatcher.lock().await),
        };
        self.script.wait_for_turn(&request.name).await;
        let scripted = self.script.answer(&request.name, &request.arguments);
        let reply = match scripted {
            Some(reply) => {
                self.take_file(request, &reply, files);
                reply
            }
            None => self.default_reply(request, files),
        };
        self.play(reply).await
    }

    /// Waits as long as the reply says, and sends the events before it.
    async fn play(&self, reply: Reply) -> Done {
        if !reply.delay.is_zero() {
            tokio::time::sleep(reply.delay).await;
        }
        self.tell_all(reply.before);
        Done {
            outcome: reply.outcome,
            after: reply.after,
            ends: reply.ends,
        }
    }

    /// What has to be done once the reply is on its way.
    pub(super) fn finish(&self, after: Vec<Told>, ends: bool) {
        self.tell_all(after);
        if ends {
            self.end();
        }
    }

    /// Runs a command of the guest agent.
    pub(super) async fn execute_agent(&self, request: &Request) -> Outcome {
        self.agent.wait_for_turn(&request.name).await;
        let reply = match self.agent.answer(&request.name, &request.arguments) {
            Some(reply) => reply,
            None => super::defaults::agent_reply(request),
        };
        self.play(reply).await.outcome
    }

    fn tell_all(&self, events: Vec<Told>) {
        for (name, data) in events {
            self.tell(&event(name, data.as_ref()));
        }
    }

    /// Sends an event to every client that has negotiated, and to every listener.
    pub(super) fn tell(&self, event: &Event) {
        let pretty = self.state().pretty;
        let mut clients = lock(&self.clients);
        let mut text = None;
        for client in clients.monitors.iter().filter(|client| client.negotiated) {
            let text = text
                .get_or_insert_with(|| Bytes::from(on_the_wire(event_text(event), pretty)))
                .clone();
            // One that has gone needs no event.
            let _ = client.out.send(Out::Bytes(text));
        }
        clients.listeners.retain(|listener| listener(event));
    }

    /// Calls `listener` with each event from now on, until it says no. It must not use the machine.
    pub(super) fn listen(&self, listener: impl Fn(&Event) -> bool + Send + 'static) {
        lock(&self.clients).listeners.push(Box::new(listener));
    }

    /// Adds a client, until what is returned goes.
    pub(super) fn add_client(
        self: &Arc<Self>,
        out: mpsc::UnboundedSender<Out>,
    ) -> (ClientEntry, Arc<Notify>) {
        let mut clients = lock(&self.clients);
        let number = clients.next;
        clients.next += 1;
        let abort = Arc::new(Notify::new());
        clients.monitors.push(Client {
            number,
            out,
            abort: abort.clone(),
            negotiated: false,
        });
        let machine = self.clone();
        (ClientEntry { machine, number }, abort)
    }

    /// Waits until a client has negotiated capabilities.
    pub(super) async fn wait_for_client(&self) {
        let mut connected = self.connected.subscribe();
        let negotiated = || {
            lock(&self.clients)
                .monitors
                .iter()
                .any(|one| one.negotiated)
        };
        while !negotiated() {
            if connected.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sends bytes to every client.
    pub(super) fn send_raw(&self, bytes: &Bytes) {
        for client in &lock(&self.clients).monitors {
            let _ = client.out.send(Out::Bytes(bytes.clone()));
        }
    }

    /// Ends every connection behind what is queued on it.
    pub(super) fn close_clients(&self) {
        for client in &lock(&self.clients).monitors {
            let _ = client.out.send(Out::Close);
        }
    }

    /// Ends every connection at once, inside a message maybe.
    pub(super) fn abort_clients(&self) {
        for client in &lock(&self.clients).monitors {
            client.abort.notify_one();
        }
    }

    /// Ends QEMU: its connections, and whoever wants a new one.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        self.close_clients();
    }

    /// Starts a QEMU that has ended anew.
    pub(super) fn begin(&self) {
        "running".clone_into(&mut self.state().status);
        self.ended.send_replace(false);
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until QEMU has ended.
    pub(super) async fn wait_for_end(&self) {
        // An error would say that the machine is gone, and `self` is here.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

/// A client's place among those of a machine.
pub(super) struct ClientEntry {
    machine: Arc<Machine>,
    number: u64,
}

impl ClientEntry {
    /// From now on the client gets events.
    pub(super) fn negotiated(&self) {
        let mut clients = lock(&self.machine.clients);
        for client in &mut clients.monitors {
            client.negotiated |= client.number == self.number;
        }
        self.machine.connected.send_replace(());
    }
}

impl Drop for ClientEntry {
    fn drop(&mut self) {
        let mut clients = lock(&self.machine.clients);
        clients.monitors.retain(|one| one.number != self.number);
    }
}

/// An event of this moment.
pub(super) fn event(name: String, data: Option<&Value>) -> Event {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let timestamp = now.map_or(Timestamp::UNKNOWN, |now| Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(-1),
        microseconds: i64::from(now.subsec_micros()),
    });
    // A value is always JSON.
    let data = data.and_then(|data| serde_json::value::to_raw_value(data).ok());
    Event::new(name, data, timestamp)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing of the user's runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
