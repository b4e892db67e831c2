//! The monitor on QEMU's own QMP socket.
//!
//! One task owns the socket. Every command carries an id made of a prefix that no earlier client had and a number, and
//! replies are matched by it: QEMU still answers the commands of an earlier client to the present one. Events may come at any
//! time, before the greeting even.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream};
use tokio::sync::oneshot;
use tokio_util::codec::FramedRead;
use tracing::{debug, trace};

use super::{Link, finish, refuse_oob};
use crate::config::Config;
use crate::connection::{
    CallOptions, Connection, Deadline, Encoded, Limits, OnDrop, deadline, sleep_until, timed_out,
};
use crate::error::{EndCause, Error, Phase};
use crate::inflight::{Found, Progress, Waiter};
use crate::monitor::{EventStream, Monitor, MonitorFuture};
use crate::qmp::{
    CommandError, Event, FrameDecoder, FrameError, Greeting, Kind, MAX_MESSAGE, Message, RawCommand,
};
use crate::queue::{EventQueue, Item};

/// QEMU queues so many commands before it stops reading (`QMP_REQ_QUEUE_LEN_MAX`).
const MAX_IN_FLIGHT: usize = 8;

/// QEMU reads a command byte by byte, at about 2.4 µs each: a call's deadline grows with its size.
const PER_BYTE: Duration = Duration::from_micros(5);

/// How long to wait before a socket whose backlog was full is tried again.
const DIAL_AGAIN: Duration = Duration::from_millis(20);

/// After so many events the reader lets the event streams run.
const EVENTS_PER_TURN: u32 = 64;

/// QEMU's monitor on its own QMP socket, or any stream that speaks QMP.
///
/// ```no_run
/// # async fn example() -> Result<(), libvirt_qmp::Error> {
/// use libvirt_qmp::{MonitorExt, SocketMonitor};
///
/// let monitor = SocketMonitor::unix("/run/vm-1.qmp").await?;
/// println!("QEMU {}", monitor.version().await?);
/// # Ok(()) }
/// ```
///
/// QEMU serves one client per socket: a second one gets no greeting until the first is gone, and
/// [`Error::Timeout`] in [`Phase::Greeting`] says so. Commands run in the order of their calls. Messages are at most 64 MiB
/// long. Events are kept from the handshake on: the first event stream starts with them.
pub struct SocketMonitor {
    link: Link<Arc<Session>>,
    config: Config,
}

impl SocketMonitor {
    /// A monitor over `conn`, a connected stream to QEMU. Nothing is read or sent yet.
    pub fn new<T>(conn: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        SocketMonitor::with_config(conn, Config::new())
    }

    /// As [`SocketMonitor::new`], with settings.
    pub fn with_config<T>(conn: T, config: Config) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        SocketMonitor {
            link: Link::new(conn),
            config,
        }
    }

    /// Connects to the unix socket at `path` (`-qmp unix:PATH,server=on`). The handshake follows on first use.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason; [`Error::Timeout`] where the socket's backlog stays full for the
    /// default [`Config::connect_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn unix(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let config = Config::new();
        let stream = dial(path.display().to_string(), config.connect_timeout, || {
            UnixStream::connect(path)
        })
        .await?;
        Ok(SocketMonitor::with_config(stream, config))
    }

    /// Connects to `addr` (`-qmp tcp:HOST:PORT,server=on`). The handshake follows on first use.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason; [`Error::Timeout`] after the default [`Config::connect_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn tcp(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self, Error> {
        let config = Config::new();
        let stream = dial(format!("{addr:?}"), config.connect_timeout, || {
            TcpStream::connect(&addr)
        })
        .await?;
        // A small command must not wait for the acknowledgement of the one before it.
        let _ = stream.set_nodelay(true);
        Ok(SocketMonitor::with_config(stream, config))
    }

    /// What QEMU said first: its version and the capabilities it offers. Connects where nobody has.
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::connect`].
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::connect`].
    pub async fn greeting(&self) -> Result<&Greeting, Error> {
        Ok(&self.session().await?.greeting)
    }

    async fn session(&self) -> Result<&Arc<Session>, Error> {
        self.link
            .session(|stream| Session::open(stream, self.config.clone()))
            .await
    }

    async fn run_command(&self, command: &[u8]) -> Result<Bytes, Error> {
        let text = command;
        let command = RawCommand::parse(text)?;
        refuse_oob(&command)?;
        let session = self.session().await?;
        let encoded = session.shared().encode(&command)?;
        let grace = PER_BYTE.saturating_mul(u32::try_from(encoded.bytes.len()).unwrap_or(u32::MAX));
        let timeout = self
            .config
            .call_timeout
            .map(|timeout| timeout.saturating_add(grace));
        let options = CallOptions {
            phase: Phase::Reply,
            deadline: deadline(timeout),
            limits: Limits::Connection,
        };
        let reply = session.shared().connection.send(encoded, &options).await?;
        finish(reply, command.user_id(), text)
    }

    async fn subscribe(&self) -> Result<EventStream, Error> {
        let session = self.session().await?;
        Ok(EventStream::new(session.subscribe(self.config.event_queue)))
    }

    async fn end(&self) -> Result<(), Error> {
        if let Some(session) = self.link.close() {
            session.shared().connection.close();
            session.shared().connection.closed().await;
        }
        Ok(())
    }
}

impl Monitor for SocketMonitor {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { self.session().await.map(|_| ()) })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(self.end())
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_command(command))
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        Box::pin(self.subscribe())
    }
}

impl fmt::Debug for SocketMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketMonitor")
            .field("link", &self.link)
            .finish()
    }
}

/// Connects within `timeout`; a full backlog, which refuses at once on a unix socket, is tried again until then.
async fn dial<T, F>(
    target: String,
    timeout: Option<Duration>,
    connect: impl Fn() -> F,
) -> Result<T, Error>
where
    F: Future<Output = io::Result<T>>,
{
    let deadline = deadline(timeout);
    let attempts = async {
        loop {
            match connect().await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(DIAL_AGAIN).await
                }
                Err(error) => {
                    return Err(Error::Connect {
                        target,
                        source: Arc::new(error),
                    });
                }
                Ok(stream) => return Ok(stream),
            }
        }
    };
    tokio::select! {
        result = attempts => result,
        () = sleep_until(deadline) => Err(silent(Phase::Dial, deadline)),
    }
}

/// The error of a phase of connecting that got no answer.
fn silent(phase: Phase, deadline: Deadline) -> Error {
    timed_out(
        &CallOptions {
            phase,
            deadline,
            limits: Limits::None,
        },
        Progress::Queued,
    )
}

/// A connection after its handshake. Dropping it ends the task and closes the socket.
struct Session {
    closer: Closer,
    greeting: Greeting,
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
    /// Begins the id of every command.
    id_prefix: String,
    subscribers: Mutex<Subscribers>,
}

struct Subscribers {
    queues: Vec<Arc<EventQueue<Bytes>>>,
    /// Holds the events from the handshake on, for the first stream.
    first: Option<Arc<EventQueue<Bytes>>>,
    end: Option<Arc<EndCause>>,
}

impl Session {
    /// Starts the task over `io` and does the handshake: greeting, then capabilities.
    async fn open<T>(io: T, config: Config) -> Result<Arc<Self>, Error>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let first = EventQueue::new(config.event_queue);
        let subscribers = Subscribers {
            queues: vec![first.clone()],
            first: Some(first),
            end: None,
        };
        let shared = Arc::new(Shared {
            connection: Connection::new(config.max_in_flight.min(MAX_IN_FLIGHT)),
            id_prefix: random_prefix(),
            subscribers: Mutex::new(subscribers),
        });
        let (greeted, greeting) = oneshot::channel();
        let gone = OnDrop({
            let shared = shared.clone();
            move || {
                shared
                    .connection
                    .finish(EndCause::RuntimeGone, |cause| shared.end(cause))
            }
        });
        let run = run(io, shared.clone(), greeted);
        tokio::spawn(async move {
            let _gone = gone;
            run.await;
        });
        let closer = Closer(shared);
        let connection = &closer.0.connection;

        let deadline = deadline(config.connect_timeout);
        let greeting = tokio::select! {
            Ok(greeting) = greeting => greeting,
            cause = connection.closed() => return Err(Error::disconnected(cause, false)),
            () = sleep_until(deadline) => return Err(silent(Phase::Greeting, deadline)),
        };
        let Greeting {
            version,
            capabilities,
        } = &greeting;
        debug!(target: "libvirt_qmp::qmp", %version, ?capabilities, "greeted");
        let command = RawCommand::parse(CAPABILITIES)?;
        let options = CallOptions {
            phase: Phase::Negotiation,
            deadline,
            limits: Limits::None,
        };
        let reply = connection
            .send(closer.0.encode(&command)?, &options)
            .await?;
        finish(reply, None, CAPABILITIES)?;
        Ok(Arc::new(Session { closer, greeting }))
    }

    fn shared(&self) -> &Shared {
        &self.closer.0
    }

    fn subscribe(self: &Arc<Self>, limit: usize) -> SocketEvents {
        let mut subscribers = self.shared().subscribers();
        let queue = subscribers.first.take().unwrap_or_else(|| {
            let queue = EventQueue::new(limit);
            match &subscribers.end {
                Some(cause) => queue.end(cause.clone()),
                None => subscribers.queues.push(queue.clone()),
            }
            queue
        });
        SocketEvents {
            session: Some(self.clone()),
            queue,
            taken: VecDeque::new(),
            shut_down: false,
        }
    }
}

impl Shared {
    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        // Nothing panics under this lock.
        self.subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The command with our id, first in the object so that its number is always in the same place.
    fn encode(&self, command: &RawCommand<'_>) -> Result<Encoded, Error> {
        let mut bytes = Vec::with_capacity(128);
        command.with_id(&format!("{}{FIRST_NUMBER}", self.id_prefix), &mut bytes);
        if bytes.len() > MAX_MESSAGE {
            return Err(CommandError::TooLong {
                length: bytes.len(),
                limit: MAX_MESSAGE,
            }
            .into());
        }
        Ok(Encoded {
            bytes,
            stamp,
            procedure: (0, 0),
        })
    }

    fn event(&self, message: Bytes) {
        let subscribers = self.subscribers();
        for queue in &subscribers.queues {
            queue.push(message.clone());
        }
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

    fn end(&self, cause: &Arc<EndCause>) {
        let mut subscribers = self.subscribers();
        subscribers.end = Some(cause.clone());
        for queue in subscribers.queues.drain(..) {
            queue.end(cause.clone());
        }
    }
}

fn answer(waiter: Waiter<Bytes, Infallible>, message: Bytes) {
    match waiter {
        // A caller that went away in this moment needs no answer.
        Waiter::Caller(sender) => drop(sender.send(Ok(message))),
        Waiter::Hook(never) => match never {},
    }
}

const CAPABILITIES: &[u8] = br#"{"execute":"qmp_capabilities"}"#;

/// Numbers in ids start here, so that all of them have ten digits and a command can be encoded before its number is known.
const FIRST_NUMBER: u64 = 1_000_000_000;
const DIGITS: usize = 10;

/// Where the number stands in an encoded command: `{"id":"` and the prefix come before it.
const NUMBER_START: usize = br#"{"id":""#.len() + "q0123456789abcdef-".len();

fn stamp(bytes: &mut [u8], serial: u32) {
    let mut number = FIRST_NUMBER + u64::from(serial);
    if let Some(digits) = bytes.get_mut(NUMBER_START..NUMBER_START + DIGITS) {
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789"[(number % 10) as usize];
            number /= 10;
        }
    }
}

fn serial_of(number: u64) -> Option<u32> {
    u32::try_from(number.checked_sub(FIRST_NUMBER)?).ok()
}

/// A prefix that no other client of the socket has: the keys of std's hasher are random.
fn random_prefix() -> String {
    format!("q{:016x}-", RandomState::new().build_hasher().finish())
}

async fn run<T>(io: T, shared: Arc<Shared>, greeted: oneshot::Sender<Greeting>)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let shared = &*shared;
    let (read, write) = tokio::io::split(io);
    let read_loop = read_messages(read, shared, greeted);
    shared
        .connection
        .drive(read_loop, write, std::future::pending(), |cause| {
            shared.end(cause)
        })
        .await;
}

async fn read_messages<T: AsyncRead>(
    read: ReadHalf<T>,
    shared: &Shared,
    greeted: oneshot::Sender<Greeting>,
) -> EndCause {
    let mut messages = FramedRead::new(read, FrameDecoder::new(MAX_MESSAGE));
    let mut greeted = Some(greeted);
    let mut events = 0;
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
                shared.event(bytes);
                events += 1;
                if events >= EVENTS_PER_TURN {
                    events = 0;
                    tokio::task::yield_now().await;
                }
            }
            Kind::Error if message.id().is_none() => shared.error_without_id(bytes),
            Kind::Return | Kind::Error => {
                let serial = message.id_number(&shared.id_prefix).and_then(serial_of);
                shared.reply(bytes, serial);
            }
            Kind::Greeting => {
                let greeting = match Greeting::parse(&bytes) {
                    Ok(greeting) => greeting,
                    Err(error) => {
                        return EndCause::Protocol(format!("not a greeting of QEMU: {error}"));
                    }
                };
                if let Some(greeted) = greeted.take() {
                    // Nobody waits for it where connecting was given up.
                    let _ = greeted.send(greeting);
                }
            }
            Kind::Unknown => {
                debug!(target: "libvirt_qmp::qmp", "ignored: a message of unknown kind")
            }
        }
    }
}

/// The events of one stream.
struct SocketEvents {
    session: Option<Arc<Session>>,
    queue: Arc<EventQueue<Bytes>>,
    taken: VecDeque<Bytes>,
    /// QEMU has said that it is going.
    shut_down: bool,
}

impl Stream for SocketEvents {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.session.is_none() {
            return Poll::Ready(None);
        }
        let item = match this.queue.poll_next(&mut this.taken, cx) {
            Poll::Ready(item) => item,
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(match item {
            Item::Event(message) => {
                let event = Event::parse(&message).map_err(Error::from);
                this.shut_down |= event.as_ref().is_ok_and(|event| event.name == "SHUTDOWN");
                Some(event)
            }
            Item::Lost(number) => Some(Err(Error::EventsLost(number))),
            Item::Ended(cause) => {
                this.leave();
                match *cause {
                    EndCause::UserClosed => None,
                    // QEMU said that it was going, and went.
                    EndCause::PeerClosed if this.shut_down => None,
                    _ => Some(Err(Error::disconnected(cause, false))),
                }
            }
        })
    }
}

impl SocketEvents {
    fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            session
                .shared()
                .subscribers()
                .queues
                .retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        }
    }
}

impl Drop for SocketEvents {
    fn drop(&mut self) {
        self.leave();
    }
}
