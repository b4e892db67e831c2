//! One connection to a QMP server: its task, the handshake, and whose answer each message is. Imports connection, transport,
//! inflight, qmp, config, error and `outlet`.
//!
//! One task owns the socket. Every command carries an id made of a prefix that no earlier client had and a number that no
//! earlier connection of this client had, and replies are matched by it: QEMU still answers the commands of an earlier
//! connection to the present one. Events may come at any time, before the greeting even.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::oneshot;
use tokio_util::codec::FramedRead;
use tracing::{debug, trace};

use super::super::finish;
use super::outlet::Outlet;
use crate::config::{Config, Handshake};
use crate::connection::{
    CallOptions, Connection, Deadline, Encoded, Limits, Steps, deadline, let_others_run,
    sleep_until, spawn, timed_out,
};
use crate::error::{EndCause, Error, Phase};
use crate::inflight::{Found, Progress, Slot, Waiter};
use crate::qmp::{
    CommandError, FrameDecoder, FrameError, Greeting, Kind, MAX_MESSAGE, Message, RawCommand,
};
use crate::transport::{ReadHalf, Transport};

/// QEMU queues so many commands before it stops reading (`QMP_REQ_QUEUE_LEN_MAX`).
const MAX_IN_FLIGHT: usize = 8;

/// QEMU reads a command byte by byte, at about 2.4 µs each where the machine is idle and 20 where it is
/// busy: a call's deadline grows with its size.
const PER_BYTE: Duration = Duration::from_micros(100);

/// After so many messages the reader lets the other parts of the task, and other tasks, run.
const MESSAGES_PER_TURN: u32 = 64;

const CAPABILITIES: &[u8] = br#"{"execute":"qmp_capabilities"}"#;

const CAPABILITIES_WITH_OOB: &[u8] =
    br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#;

/// The capability that makes out-of-band commands possible.
const OOB: &str = "oob";

/// A connection after its handshake. Dropping it ends the task and closes the socket.
pub(super) struct Session {
    closer: Closer,
    /// None where none was waited for.
    greeting: Option<Greeting>,
    /// Whether out-of-band commands are enabled.
    oob: AtomicBool,
}

/// Ends the task when it goes.
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.connection.close();
    }
}

/// What the handles and the task share.
struct Shared {
    connection: Connection<Bytes, Infallible>,
    ids: Arc<Ids>,
    outlet: Arc<Outlet>,
    handshake: Handshake,
    /// The serial of the first call, which negotiates capabilities where the handshake does.
    first: u32,
    /// How the connection before was lost, where this one takes its place.
    replaces: Option<Arc<EndCause>>,
    /// Whether the end of this connection is that of the monitor.
    only: bool,
    /// Bytes that one message may have.
    max_message: usize,
}

/// What to open a session with.
pub(super) struct Opening<'a> {
    pub(super) config: &'a Config,
    pub(super) ids: &'a Arc<Ids>,
    pub(super) outlet: &'a Arc<Outlet>,
    /// How the connection before was lost, where there was one.
    pub(super) replaces: Option<Arc<EndCause>>,
    /// The time for the handshake, and for what was done before.
    pub(super) steps: Steps,
}

/// What remains of a session when it has ended.
pub(super) struct Remains(Arc<Shared>);

impl Remains {
    /// Waits until it has ended and everybody on it has been told.
    pub(super) async fn closed(&self) -> Arc<EndCause> {
        self.0.connection.closed().await
    }

    /// Makes the serials of later sessions begin after those of this one.
    pub(super) fn pass_serials_on(&self) {
        let Shared {
            ids, connection, ..
        } = &*self.0;
        ids.next_serial
            .store(connection.calls.next_serial(), Ordering::Relaxed);
    }
}

impl Session {
    /// Starts the task over `io` and does the handshake, as far as it is wanted: greeting, then capabilities.
    pub(super) async fn open(io: Transport, opening: Opening<'_>) -> Result<Arc<Self>, Error> {
        let Opening { config, ids, .. } = opening;
        // Nothing is called before the handshake has succeeded but its own one command.
        let first = ids.next_serial.load(Ordering::Relaxed);
        ids.next_serial
            .store(first.wrapping_add(1), Ordering::Relaxed);
        let in_flight = config.max_in_flight.min(MAX_IN_FLIGHT);
        let shared = Arc::new(Shared {
            connection: Connection::starting_at(in_flight, first, Ids::stamp),
            ids: ids.clone(),
            outlet: opening.outlet.clone(),
            handshake: config.handshake,
            first,
            replaces: opening.replaces,
            only: config.reconnect.is_none(),
            max_message: config.max_message,
        });
        let (greeted, greeting) = oneshot::channel();
        spawn(run(io, shared.clone(), greeted), {
            let shared = shared.clone();
            move || {
                let tell = |cause: &Arc<EndCause>| shared.tell_end(cause);
                shared.connection.finish(EndCause::RuntimeGone, tell);
            }
        });
        let closer = Closer(shared);
        let (shared, mut steps) = (&closer.0, opening.steps);
        let mut oob = false;
        let greeting = match config.handshake {
            Handshake::None => None,
            Handshake::GreetingOnly => {
                let deadline = steps.next(config.timeouts.greeting);
                Some(shared.greeting(greeting, deadline).await?)
            }
            Handshake::Full => {
                let deadline = steps.next(config.timeouts.greeting);
                let greeting = shared.greeting(greeting, deadline).await?;
                oob = config.oob && greeting.offers(OOB);
                let deadline = steps.next(config.timeouts.negotiation);
                shared.negotiate(oob, deadline).await?;
                Some(greeting)
            }
        };
        Ok(Arc::new(Session {
            closer,
            greeting,
            oob: AtomicBool::new(oob),
        }))
    }

    pub(super) fn greeting(&self) -> Option<&Greeting> {
        self.greeting.as_ref()
    }

    /// Whether out-of-band commands are enabled.
    pub(super) fn oob(&self) -> bool {
        self.oob.load(Ordering::Relaxed)
    }

    /// Takes note of what the user has negotiated by `command`, which succeeded.
    pub(super) fn has_run(&self, command: &[u8]) {
        if self.closer.0.handshake != Handshake::Full && enables_oob(command) {
            self.oob.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for the right to have a command in flight.
    pub(super) async fn slot(&self, options: &CallOptions<'_>) -> Result<Slot, Error> {
        self.closer.0.connection.slot(options, &mut None).await
    }

    /// Sends a command and waits for its reply.
    pub(super) async fn call(
        &self,
        slot: Slot,
        call: &mut Encoded,
        options: &CallOptions<'_>,
    ) -> Result<Bytes, Error> {
        self.closer.0.connection.send_in(slot, call, options).await
    }

    /// Why it has ended, if it has.
    pub(super) fn ended(&self) -> Option<Arc<EndCause>> {
        self.closer.0.connection.ended()
    }

    /// What can be asked when it has ended. Does not keep it open.
    pub(super) fn remains(&self) -> Remains {
        Remains(self.closer.0.clone())
    }

    /// Ends the connection, and waits until everybody on it has been told.
    pub(super) async fn close(&self) {
        let connection = &self.closer.0.connection;
        connection.close();
        connection.closed().await;
    }
}

/// How `call` is limited, which is to be answered by `deadline`.
pub(super) fn call_options(call: &Encoded, deadline: Deadline) -> CallOptions<'static> {
    CallOptions {
        phase: Phase::Reply,
        deadline,
        limits: match call {
            // What goes out of band waits for nothing that is in it.
            Encoded { ahead: true, .. } => Limits::None,
            // QEMU has one place for a descriptor, and gives what is there to the next command that asks for one.
            Encoded { files: Some(_), .. } => Limits::Whole,
            _ => Limits::Connection,
        },
    }
}

/// The deadline of a call that begins now and has none of its own: `timeout`, and what its size adds to that.
pub(super) fn call_deadline(call: &Encoded, timeout: Option<Duration>) -> Deadline {
    let length = u32::try_from(call.bytes.len()).unwrap_or(u32::MAX);
    let grace = PER_BYTE.saturating_mul(length);
    deadline(timeout.map(|timeout| timeout.saturating_add(grace)))
}

/// The error of a phase of connecting that got no answer.
pub(super) fn silent(phase: Phase, deadline: Deadline) -> Error {
    timed_out(
        &CallOptions {
            phase,
            deadline,
            limits: Limits::None,
        },
        Progress::Queued,
    )
}

async fn run(io: Transport, shared: Arc<Shared>, greeted: oneshot::Sender<Greeting>) {
    let shared = &*shared;
    let (read, write) = io.split();
    let read_loop = read_messages(read, shared, greeted);
    let tell = |cause: &Arc<EndCause>| shared.tell_end(cause);
    shared
        .connection
        .drive(read_loop, write, pending(), tell)
        .await;
}

impl Shared {
    /// Where another connection takes the place of this one, nothing has ended.
    fn tell_end(&self, cause: &Arc<EndCause>) {
        if self.only {
            self.outlet.end(cause);
        }
    }

    /// Waits for the greeting.
    async fn greeting(
        &self,
        greeting: oneshot::Receiver<Greeting>,
        deadline: Deadline,
    ) -> Result<Greeting, Error> {
        let greeting = tokio::select! {
            biased;
            Ok(greeting) = greeting => greeting,
            cause = self.connection.closed() => return Err(Error::disconnected(cause, false)),
            () = sleep_until(deadline) => return Err(silent(Phase::Greeting, deadline)),
        };
        let Greeting {
            version,
            capabilities,
        } = &greeting;
        debug!(target: "libvirt_qmp::qmp", %version, ?capabilities, "greeted");
        Ok(greeting)
    }

    /// Negotiates capabilities: out-of-band commands, or none.
    async fn negotiate(&self, oob: bool, deadline: Deadline) -> Result<(), Error> {
        let command = if oob {
            CAPABILITIES_WITH_OOB
        } else {
            CAPABILITIES
        };
        let options = CallOptions {
            phase: Phase::Negotiation,
            deadline,
            limits: Limits::None,
        };
        let mut call = self.ids.encode(&RawCommand::parse(command)?)?;
        let reply = self.connection.send(&mut call, &options).await;
        finish(reply.map_err(not_executed)?, None, command)?;
        Ok(())
    }

    fn reply(&self, message: Bytes, serial: Option<u32>) {
        let Some(serial) = serial else {
            debug!(target: "libvirt_qmp::qmp", "ignored: a reply to somebody else's command");
            return;
        };
        match self.connection.calls.complete(serial, (0, 0)) {
            Found::Waiter(waiter) => answer(waiter, message),
            _ => debug!(target: "libvirt_qmp::qmp", serial, "late reply discarded"),
        }
    }

    /// An error that names no command is the answer to the one that QEMU has read first.
    fn error_without_id(&self, message: Bytes) {
        match self.connection.calls.complete_oldest() {
            Some(waiter) => answer(waiter, message),
            None => {
                debug!(target: "libvirt_qmp::qmp", "ignored: an error without id, and no command is waiting")
            }
        }
    }
}

/// The handshake's errors reach callers whose command was not sent.
fn not_executed(error: Error) -> Error {
    match error {
        Error::Timeout { phase, after, .. } => Error::Timeout {
            phase,
            after,
            maybe_executed: false,
        },
        Error::Disconnected { cause, .. } => Error::disconnected(cause, false),
        other => other,
    }
}

fn answer(waiter: Waiter<Bytes, Infallible>, message: Bytes) {
    match waiter {
        // A caller that went away in this moment needs no answer.
        Waiter::Caller(sender) => drop(sender.send(Ok(message))),
        Waiter::Hook(never) => match never {},
    }
}

/// The loop that reads messages and brings each to whom it is for.
async fn read_messages(
    read: ReadHalf,
    shared: &Shared,
    greeted: oneshot::Sender<Greeting>,
) -> EndCause {
    let mut messages = FramedRead::new(read, FrameDecoder::new(shared.max_message));
    let mut greeted = Some(greeted);
    let subscribers = &shared.outlet.subscribers;
    let mut negotiated = shared.handshake != Handshake::Full;
    // Told where this connection begins: before its first event, and before anybody hears that it is there.
    let mut gap = shared.replaces.as_ref();
    let mut begin = || {
        if let Some(cause) = gap.take() {
            subscribers.gap(cause);
        }
    };
    if shared.handshake == Handshake::None {
        begin();
    }
    let mut turn = 0;
    loop {
        let bytes = match poll_fn(|cx| Pin::new(&mut messages).poll_next(cx)).await {
            Some(Ok(bytes)) => bytes,
            Some(Err(FrameError::Io(error))) => return EndCause::Io(Arc::new(error)),
            Some(Err(error)) => return EndCause::Protocol(error.to_string()),
            None => return EndCause::PeerClosed,
        };
        let message = match Message::parse(&bytes) {
            Ok(message) => message,
            Err(error) => return EndCause::Protocol(format!("the peer sent broken JSON: {error}")),
        };
        let kind = message.kind();
        trace!(target: "libvirt_qmp::qmp", ?kind, bytes = bytes.len(), "received");
        match kind {
            Kind::Event => {
                begin();
                subscribers.push(&bytes);
            }
            // Before that it answers an earlier client: our one command so far is no syntax error.
            Kind::Error if message.id().is_none() && negotiated => shared.error_without_id(bytes),
            Kind::Return | Kind::Error => {
                let serial = shared.ids.serial(&message);
                if !negotiated && serial == Some(shared.first) {
                    negotiated = true;
                    if kind == Kind::Return {
                        begin();
                    }
                }
                shared.reply(bytes, serial);
            }
            Kind::Greeting => {
                if let Some(greeted) = greeted.take() {
                    match Greeting::parse(&bytes) {
                        Ok(greeting) => {
                            if shared.handshake == Handshake::GreetingOnly {
                                begin();
                            }
                            // Nobody waits for it where connecting was given up.
                            drop(greeted.send(greeting));
                        }
                        Err(error) => {
                            return EndCause::Protocol(format!("not a greeting of QEMU: {error}"));
                        }
                    }
                }
            }
            Kind::Unknown => {
                debug!(target: "libvirt_qmp::qmp", "ignored: a message of unknown kind")
            }
        }
        turn += 1;
        if turn >= MESSAGES_PER_TURN {
            turn = 0;
            let_others_run().await;
        }
    }
}

/// Whether `command` is a `qmp_capabilities` that enables out-of-band commands.
fn enables_oob(command: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Negotiation<'a> {
        execute: &'a str,
        arguments: Arguments,
    }
    #[derive(serde::Deserialize)]
    struct Arguments {
        enable: Vec<String>,
    }
    serde_json::from_slice::<Negotiation<'_>>(command).is_ok_and(|command| {
        command.execute == "qmp_capabilities" && command.arguments.enable.iter().any(|it| it == OOB)
    })
}

/// The ids of a monitor's commands: strings of a prefix that no other client of the socket has, and a number.
pub(super) struct Ids {
    prefix: String,
    /// Where the numbers of the next connection begin.
    next_serial: AtomicU32,
}

impl Ids {
    /// Numbers start here, so that all of them have ten digits and a command can be encoded before its number is known.
    const FIRST_NUMBER: u64 = 1_000_000_000;
    const DIGITS: usize = 10;
    /// Where the number stands in an encoded command: `{"id":"` and the prefix come before it.
    const NUMBER_START: usize = br#"{"id":""#.len() + "q0123456789abcdef-".len();

    pub(super) fn new() -> Self {
        // The keys of std's hasher are random.
        let random = RandomState::new().build_hasher().finish();
        Ids {
            prefix: format!("q{random:016x}-"),
            next_serial: AtomicU32::new(0),
        }
    }

    /// The command with our id, first in the object so that its number is always in the same place.
    ///
    /// # Errors
    ///
    /// Where it is longer than a server takes.
    pub(super) fn encode(&self, command: &RawCommand<'_>) -> Result<Encoded, CommandError> {
        let mut bytes = Vec::with_capacity(128);
        command.with_id(&format!("{}{}", self.prefix, Ids::FIRST_NUMBER), &mut bytes);
        if bytes.len() > MAX_MESSAGE {
            return Err(CommandError::TooLong {
                length: bytes.len(),
                limit: MAX_MESSAGE,
            });
        }
        Ok(Encoded {
            bytes,
            procedure: (0, 0),
            files: None,
            ahead: command.is_oob(),
            announce: None,
        })
    }

    fn stamp(bytes: &mut [u8], serial: u32) {
        trace!(target: "libvirt_qmp::qmp", serial, bytes = bytes.len(), "sending");
        let mut number = Ids::FIRST_NUMBER + u64::from(serial);
        let place = Ids::NUMBER_START..Ids::NUMBER_START + Ids::DIGITS;
        if let Some(digits) = bytes.get_mut(place) {
            for digit in digits.iter_mut().rev() {
                *digit = b"0123456789"[(number % 10) as usize];
                number /= 10;
            }
        }
    }

    /// The serial of the command that `message` answers, if it is one of ours.
    fn serial(&self, message: &Message<'_>) -> Option<u32> {
        let number = message.id_number(&self.prefix)?;
        u32::try_from(number.checked_sub(Ids::FIRST_NUMBER)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_comes_back_from_the_id_it_was_put_in() {
        let ids = Ids::new();
        let command = RawCommand::parse(br#"{"execute":"stop","id":7}"#).unwrap();
        for serial in [0, 1, 9, 4_000_000_000, u32::MAX] {
            let Encoded { mut bytes, .. } = ids.encode(&command).unwrap();
            let length = bytes.len();
            Ids::stamp(&mut bytes, serial);
            assert_eq!(bytes.len(), length);
            let sent: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(sent["execute"], "stop");
            let reply = format!(r#"{{"return": {{}}, "id": {}}}"#, sent["id"]);
            let message = Message::parse(reply.as_bytes()).unwrap();
            assert_eq!(ids.serial(&message), Some(serial));
            assert_eq!(Ids::new().serial(&message), None);
        }
    }

    #[test]
    fn numbers_that_no_serial_makes_are_not_ours() {
        let ids = Ids::new();
        for number in ["0", "999999999", "5294967296", "18446744073709551615"] {
            let reply = format!(r#"{{"return": {{}}, "id": "{}{number}"}}"#, ids.prefix);
            let message = Message::parse(reply.as_bytes()).unwrap();
            assert_eq!(ids.serial(&message), None, "{number}");
        }
    }

    #[test]
    fn the_users_own_negotiation_is_understood() {
        for (command, enabled) in [
            (str::from_utf8(CAPABILITIES_WITH_OOB).unwrap(), true),
            (
                r#"{ "arguments" : {"enable": ["new", "oob"]}, "id": 1, "execute": "qmp_capabilities" }"#,
                true,
            ),
            (str::from_utf8(CAPABILITIES).unwrap(), false),
            (
                r#"{"execute": "qmp_capabilities", "arguments": {"enable": []}}"#,
                false,
            ),
            (
                r#"{"execute": "x", "arguments": {"enable": ["oob"]}}"#,
                false,
            ),
            (r#"{"execute": "x"}"#, false),
        ] {
            assert_eq!(enables_oob(command.as_bytes()), enabled, "{command}");
        }
    }

    #[test]
    fn the_limit_counts_what_is_sent() {
        let ids = Ids::new();
        let command = |length: usize| {
            let text = format!(r#"{{"execute":"{}"}}"#, "x".repeat(length));
            let command = RawCommand::parse(text.as_bytes()).unwrap();
            ids.encode(&command).map(|call| call.bytes.len())
        };
        let overhead = command(0).unwrap();
        assert_eq!(command(MAX_MESSAGE - overhead).unwrap(), MAX_MESSAGE);
        assert!(matches!(
            command(MAX_MESSAGE - overhead + 1),
            Err(CommandError::TooLong { length, .. }) if length == MAX_MESSAGE + 1
        ));
    }
}
