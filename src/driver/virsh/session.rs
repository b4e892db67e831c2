//! One interactive virsh: its task, and the calls made through it. Imports connection, inflight, error, `process`,
//! `transcript` and `failure`.
//!
//! A call is a command line between marks; the next is written when everything has come that virsh has to say to the one
//! before, whether its caller still waits for that or not. So a late reply is never taken for another.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tracing::{debug, trace};
use uuid::Uuid;

use super::failure;
use super::process::{Launcher, Process, Started, last_words};
use super::transcript::{Line, Lines, Marks, Said, Transcript, stamp};
use crate::config::Config;
use crate::connection::{CallOptions, Connection, Deadline, Limits, spawn};
use crate::error::{EndCause, Error, Phase};
use crate::inflight::{Found, Waiter};
use crate::qmp::EventDomain;
use crate::transport::{ReadHalf, Transport};

/// QEMU reads a command byte by byte, and so does readline: a call's deadline grows with its size.
const PER_BYTE: Duration = Duration::from_micros(20);

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// What one line on standard error may have.
const LONGEST_ERROR: usize = 1 << 20;

/// An interactive virsh that is connected. Dropping it ends the process.
pub(super) struct Session {
    shared: Arc<Shared>,
    process: Process,
    domain: Arc<EventDomain>,
    /// Lets one command of a monitor run at a time, also those that have a process of their own.
    turn: Arc<Semaphore>,
}

/// What the handle and the task share.
struct Shared {
    connection: Connection<Said, Infallible>,
    marks: Marks,
    /// What virsh said on standard error last, for when connecting fails.
    last_words: Mutex<Vec<u8>>,
}

impl Shared {
    fn keep(&self, last_words: Vec<u8>) {
        let kept = self.last_words.lock();
        *kept.unwrap_or_else(PoisonError::into_inner) = last_words;
    }
}

impl Session {
    /// Starts virsh and asks it for the name of the domain, by which it is known to be connected.
    pub(super) async fn open(
        launcher: &Launcher,
        uuid: Uuid,
        deadline: Deadline,
    ) -> Result<Arc<Self>, Error> {
        let Started {
            stdin: Some(stdin),
            stdout,
            stderr,
            process,
        } = launcher.interactive()?
        else {
            return Err(Error::json("virsh", "no standard input"));
        };
        let shared = Arc::new(Shared {
            connection: Connection::new(1, stamp),
            marks: Marks::new(),
            last_words: Mutex::default(),
        });
        let task = run(
            Pipes { stdin, stdout },
            stderr,
            shared.clone(),
            launcher.config.clone(),
        );
        spawn(task, {
            let (shared, process) = (shared.clone(), process.clone());
            move || {
                shared.connection.finish(EndCause::RuntimeGone, |_| {});
                process.end(false);
            }
        });
        let mut session = Session {
            shared,
            process,
            domain: Arc::new(EventDomain::new("", uuid, None)),
            turn: Arc::new(Semaphore::new(1)),
        };
        let name = session.name(uuid, launcher, deadline).await?;
        session.domain = Arc::new(EventDomain::new(name, uuid, None));
        Ok(Arc::new(session))
    }

    async fn name(
        &self,
        uuid: Uuid,
        launcher: &Launcher,
        deadline: Deadline,
    ) -> Result<String, Error> {
        let command = format!("domname --domain {uuid}");
        let said = match self.send(&command, Phase::Open, deadline).await {
            Err(Error::Disconnected { .. }) => {
                let last_words = self.shared.last_words.lock();
                let last_words = last_words.unwrap_or_else(PoisonError::into_inner);
                return Err(failure::of_connecting(
                    &last_words,
                    &launcher.uri,
                    "domname",
                ));
            }
            Err(Error::Timeout { phase, after, .. }) => {
                return Err(Error::Timeout {
                    phase,
                    after,
                    maybe_executed: false,
                });
            }
            other => other?,
        };
        match said.output {
            Some(name) if !name.is_empty() => {
                let name = name.strip_suffix(b"\n").unwrap_or(&name);
                Ok(String::from_utf8_lossy(name).into_owned())
            }
            _ => Err(failure::of_command(&said.errors, "domname")),
        }
    }

    /// The domain that it was opened for.
    pub(super) fn domain(&self) -> &Arc<EventDomain> {
        &self.domain
    }

    pub(super) fn turn(&self) -> &Arc<Semaphore> {
        &self.turn
    }

    /// Runs one command line of virsh and waits for all that it says to it.
    pub(super) async fn call(&self, command: &str, deadline: Deadline) -> Result<Said, Error> {
        self.send(command, Phase::Reply, deadline).await
    }

    async fn send(&self, command: &str, phase: Phase, deadline: Deadline) -> Result<Said, Error> {
        let options = CallOptions {
            phase,
            deadline,
            limits: Limits::Monitor(&self.turn),
        };
        let mut call = self.shared.marks.encode(command);
        self.shared.connection.send(&mut call, &options).await
    }

    /// Why it has ended, if it has.
    pub(super) fn ended(&self) -> Option<Arc<EndCause>> {
        self.shared.connection.ended()
    }

    /// Waits until it has ended, and says why.
    pub(super) async fn closed(&self) -> Arc<EndCause> {
        self.shared.connection.closed().await
    }

    /// Ends it, and waits until its process is gone.
    pub(super) async fn close(&self) {
        self.leave();
        self.shared.connection.closed().await;
        self.process.gone().await;
    }

    /// Starts its end. A virsh that is at a command does not see the end of its input, so it is killed.
    fn leave(&self) {
        self.shared.connection.leave();
        self.process.end(self.turn.available_permits() == 0);
        self.shared.connection.close();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The time that a command of this length needs on top.
pub(super) fn grace(command: &str) -> Duration {
    PER_BYTE.saturating_mul(u32::try_from(command.len()).unwrap_or(u32::MAX))
}

async fn run(pipes: Pipes, stderr: pipe::Receiver, shared: Arc<Shared>, config: Config) {
    let shared = &*shared;
    let (stdout, stdin) = Transport::new(pipes).split();
    let read_loop = listen(stdout, stderr, shared, &config);
    shared
        .connection
        .drive(read_loop, stdin, pending(), |_| {})
        .await;
}

/// The loop that reads what virsh says and brings each answer to whom it is for.
async fn listen(
    mut stdout: ReadHalf,
    mut stderr: pipe::Receiver,
    shared: &Shared,
    config: &Config,
) -> EndCause {
    let mut transcript = Transcript::new(shared.marks.clone());
    let mut lines = Lines::new(LONGEST_ERROR);
    let mut stderr_open = true;
    let (mut out, mut err) = (vec![0; READ], vec![0; READ / 16]);
    loop {
        tokio::select! {
            read = stdout.read(&mut out) => match read {
                Ok(0) => break,
                Ok(length) => {
                    if transcript.output(&out[..length]).is_err() {
                        return EndCause::Protocol("virsh printed too much".to_owned());
                    }
                }
                Err(error) => return EndCause::Io(Arc::new(error)),
            },
            read = stderr.read(&mut err), if stderr_open => match read {
                Ok(0) | Err(_) => stderr_open = false,
                Ok(length) => {
                    if let Some(cause) = complain(&mut transcript, &mut lines, &err[..length], config) {
                        shared.keep(transcript.complaints().to_vec());
                        return cause;
                    }
                }
            },
        }
        while let Some((serial, said)) = transcript.next_said() {
            if said.output.as_ref().is_none_or(|output| output.is_empty())
                && failure::is_loss(&said.errors)
            {
                shared.keep(said.errors);
                return EndCause::PeerClosed;
            }
            answer(shared, serial, said);
        }
    }
    let mut rest = transcript.complaints().to_vec();
    rest.extend_from_slice(lines.rest());
    last_words(&mut stderr, &mut rest).await;
    let cause = failure::of_end(&rest, config);
    shared.keep(rest);
    cause
}

/// Takes what came on standard error; says so where virsh has lost its connection.
fn complain(
    transcript: &mut Transcript,
    lines: &mut Lines,
    bytes: &[u8],
    config: &Config,
) -> Option<EndCause> {
    let mut lost = None;
    lines.push(bytes, |line| {
        if let Line::Whole(line) = line {
            lost = lost.take().or_else(|| failure::loss(&line, config));
            transcript.error_line(&line);
        }
    });
    lost
}

fn answer(shared: &Shared, serial: u32, said: Said) {
    let bytes = said.output.as_ref().map(|output| output.len());
    trace!(target: "libvirt_qmp::virsh", serial, bytes, "received");
    match shared.connection.calls.complete(serial, (0, 0)) {
        // A caller that went away in this moment needs no answer.
        Found::Waiter(Waiter::Caller(sender)) => drop(sender.send(Ok(said))),
        Found::Waiter(Waiter::Hook(never)) => match never {},
        _ => debug!(target: "libvirt_qmp::virsh", serial, "late reply discarded"),
    }
}

/// Standard input and output of a virsh as one stream.
struct Pipes {
    stdin: pipe::Sender,
    stdout: pipe::Receiver,
}

impl AsyncRead for Pipes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stdin).poll_write(cx, bytes) {
            // It has gone. Why, it says on the other pipes, whose end comes now.
            Poll::Ready(Err(_)) => Poll::Pending,
            other => other,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}
