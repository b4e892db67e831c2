//! One client of a stand-in's QMP monitor: greeting, negotiation, commands in their order, commands out of band, and all that
//! is sent to it. Imports qmp, `machine`, `request` and `transport`.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::codec::Decoder;

use super::machine::{ClientEntry, Done, FilePlace, Machine, lock};
use super::reply::Outcome;
use super::request::{Request, error, on_the_wire, reply_text};
use super::transport::{Conn, Out, Reader, write};
use crate::qmp::{ErrorClass, FrameDecoder};

/// Commands that wait behind the one that runs before QEMU stops reading: with it they are `QMP_REQ_QUEUE_LEN_MAX`.
const WAITING_COMMANDS: usize = 7;

/// A monitor serves one client at a time.
#[derive(Clone, Debug)]
pub(super) struct MonitorPlace(Arc<Semaphore>);

impl MonitorPlace {
    pub(super) fn new() -> Self {
        MonitorPlace(Arc::new(Semaphore::new(1)))
    }
}

struct Session {
    machine: Arc<Machine>,
    entry: ClientEntry,
    out: mpsc::UnboundedSender<Out>,
    files: FilePlace,
    negotiated: AtomicBool,
    oob: AtomicBool,
}

/// Serves a client when the monitor is free, until either side ends it.
pub(super) async fn serve(machine: Arc<Machine>, place: MonitorPlace, conn: Conn) {
    let Ok(turn) = place.0.acquire_owned().await else {
        return;
    };
    if machine.has_ended() {
        return;
    }
    let (reader, writer) = conn.split();
    let (out, queued) = mpsc::unbounded_channel();
    let (entry, abort) = machine.add_client(out.clone());
    let session = Arc::new(Session {
        machine,
        entry,
        out,
        files: Mutex::new(None),
        negotiated: AtomicBool::new(false),
        oob: AtomicBool::new(false),
    });
    session.greet();
    let (commands, waiting) = mpsc::channel(WAITING_COMMANDS);
    let serve = async {
        tokio::join!(session.read(reader, commands, turn), session.work(waiting));
        // The client has left, or closed its half: what it is still owed is written.
        let _ = session.out.send(Out::Close);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serve => {}
        () = write(writer, queued) => {}
        () = abort.notified() => {}
    }
}

impl Session {
    fn greet(&self) {
        let state = self.machine.state();
        let greeting = json!({"QMP": {
            "version": state.version_object(),
            "capabilities": state.capabilities,
        }});
        drop(state);
        self.say(greeting.to_string());
    }

    fn say(&self, text: String) {
        let pretty = self.machine.state().pretty;
        self.send(on_the_wire(text, pretty).into());
    }

    fn send(&self, bytes: Bytes) {
        // Nobody takes it where the connection has ended.
        let _ = self.out.send(Out::Bytes(bytes));
    }

    /// Reads commands until the client ends. The monitor is free for the next one then.
    async fn read(
        self: &Arc<Self>,
        mut reader: Reader,
        commands: mpsc::Sender<Request>,
        _turn: OwnedSemaphorePermit,
    ) {
        let mut buffer = BytesMut::new();
        let mut files = Vec::new();
        let mut decoder = FrameDecoder::default();
        let mut out_of_band = JoinSet::new();
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(text)) => {
                    let Some(request) = self.admit(&text) else {
                        continue;
                    };
                    if request.oob {
                        let session = self.clone();
                        out_of_band.spawn(async move { session.answer(request).await });
                        while out_of_band.try_join_next().is_some() {}
                    } else if commands.send(request).await.is_err() {
                        return;
                    }
                }
                Ok(None) => match reader.read(&mut buffer, &mut files).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => self.place_files(&mut files),
                },
                Err(problem) => {
                    self.refuse(None, format!("JSON parse error, {problem}"));
                    let line = buffer.iter().position(|byte| *byte == b'\n');
                    let _ = buffer.split_to(line.map_or(buffer.len(), |end| end + 1));
                    decoder = FrameDecoder::default();
                }
            }
        }
    }

    /// QEMU keeps the first descriptor of the message that came last.
    fn place_files(&self, files: &mut Vec<OwnedFd>) {
        if let Some(first) = files.drain(..).next() {
            *lock(&self.files) = Some(first);
        }
    }

    /// Takes a text for a command. What is none, and what may not be executed now, is answered at once.
    fn admit(&self, text: &[u8]) -> Option<Request> {
        let request = match Request::parse(text, self.oob.load(Ordering::Relaxed)) {
            Ok(request) => request,
            Err(refusal) => {
                self.reply(&refusal.outcome(), refusal.id.as_ref());
                return None;
            }
        };
        if request.name == "qmp_capabilities" {
            self.machine.note_negotiation(request.command.clone());
        } else {
            let (name, command) = (request.name.clone(), request.command.clone());
            self.machine.script.record(name, command);
        }
        if request.oob && !self.machine.state().oob.contains(&request.name) {
            let desc = format!("The command {} does not support OOB", request.name);
            self.refuse(request.id.as_ref(), desc);
            return None;
        }
        Some(request)
    }

    /// Executes commands one after another.
    async fn work(&self, mut commands: mpsc::Receiver<Request>) {
        while let Some(request) = commands.recv().await {
            self.answer(request).await;
        }
    }

    async fn answer(&self, request: Request) {
        if request.name == "qmp_capabilities" {
            return self.negotiate(&request).await;
        }
        if !self.negotiated.load(Ordering::Relaxed) {
            let desc = "Expecting capabilities negotiation with 'qmp_capabilities'";
            let refusal = error(ErrorClass::CommandNotFound, desc);
            return self.reply(&refusal, request.id.as_ref());
        }
        let Done {
            outcome,
            after,
            ends,
        } = self.machine.execute(&request, &self.files).await;
        self.reply(&outcome, request.id.as_ref());
        self.machine.finish(after, ends);
    }

    /// QEMU's one dispatcher does this too: it waits behind a command that blocks on another monitor.
    async fn negotiate(&self, request: &Request) {
        let Done { outcome, .. } = self.machine.execute(request, &self.files).await;
        let scripted = !matches!(&outcome, Outcome::Value(_));
        let outcome = match self.wanted(&request.arguments) {
            _ if scripted => outcome,
            Err(desc) => error(ErrorClass::GenericError, desc),
            Ok(_) if self.negotiated.load(Ordering::Relaxed) => error(
                ErrorClass::CommandNotFound,
                "Capabilities negotiation is already complete, command ignored",
            ),
            Ok(oob) => {
                self.oob.store(oob, Ordering::Relaxed);
                self.negotiated.store(true, Ordering::Relaxed);
                self.entry.negotiated();
                outcome
            }
        };
        self.reply(&outcome, request.id.as_ref());
    }

    /// Whether the capability `oob` is asked for; what is asked for and not offered is an error.
    fn wanted(&self, arguments: &Value) -> Result<bool, String> {
        let mut oob = false;
        let wanted = arguments.get("enable").and_then(Value::as_array);
        for capability in wanted.into_iter().flatten() {
            let offered = |name: &str| {
                let state = self.machine.state();
                state.capabilities.iter().any(|one| one == name)
            };
            match capability.as_str() {
                Some(name) if offered(name) => oob |= name == "oob",
                Some(name) => return Err(format!("Capability '{name}' not available")),
                None => return Err("Invalid parameter type for 'enable[0]'".to_owned()),
            }
        }
        Ok(oob)
    }

    fn refuse(&self, id: Option<&Value>, desc: String) {
        self.reply(&error(ErrorClass::GenericError, desc), id);
    }

    fn reply(&self, outcome: &Outcome, id: Option<&Value>) {
        match outcome {
            Outcome::Raw(bytes) => self.send(bytes.clone()),
            Outcome::Close => drop(self.out.send(Out::Close)),
            _ => {
                if let Some(text) = reply_text(outcome, id, " ") {
                    self.say(text);
                }
            }
        }
    }
}
