//! The RPC client: a handle that many callers share, and the one task that owns the socket.
//! May import connection, reconnect, transport, inflight, queue, error, config, packet, protocol and xdr.
//!
//! A call is encoded by its caller, queued, given its serial by the task when it leaves, and answered by the task when its
//! reply comes. See `task` for the rules of the task, `subscriptions` for events, `stream` for streams, and `lasting` for
//! connections that are made again after a loss.

mod lasting;
mod outgoing;
mod stream;
mod subscriptions;
mod task;

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tracing::trace;
use xdr_codec::{Pack, Unpack};

use crate::config::Config;
use crate::connection::{
    CallOptions, Connection, Deadline, Encoded, Limits, deadline, sleep_until, spawn, timed_out,
};
use crate::error::{EndCause, Error, LibvirtError, Phase};
use crate::inflight::{Files, Progress, Ride, Slot};
use crate::packet::{Header, MAX_LENGTH, MessageStatus, MessageType, PREFIX};
use crate::protocol::keepalive::procedure::Pong;
use crate::protocol::{Message, Procedure, rpc};
use crate::reconnect::ConnectionState;
#[cfg(feature = "gssapi")]
use crate::transport::{Layer, LayerSlot};
use crate::transport::{NO_FILES, Transport};
use crate::xdr::{self, Reader, Writer};

pub(crate) use lasting::Reopen;
use lasting::{Lasting, LastingHandle};
pub(crate) use outgoing::{Outgoing, Spec};
use stream::Streams;
pub use stream::{Stream, StreamItem};
pub(crate) use subscriptions::{
    Arrived, ArrivedQueue, EventKind, Messages, Registration, Subscription,
};
use subscriptions::{Hook, Subscriptions};

/// A reply.
struct Reply {
    /// Whether it is an error.
    status: MessageStatus,
    payload: Bytes,
    /// The descriptors that came with it, which are closed where nobody takes them.
    files: Vec<OwnedFd>,
    /// How many it announced.
    announced: usize,
}

/// Descriptors that go with one packet at most (`VIR_NET_MESSAGE_NUM_FDS_MAX`).
const MOST_FILES: usize = rpc::MESSAGE_NUM_FDS_MAX as usize;

/// What the handles and the task of one connection share.
struct Shared {
    // Boxed, for few calls have one, and each would have room for it.
    connection: Connection<Reply, Box<Hook>>,
    /// Those of all connections that follow each other.
    subscriptions: Arc<Subscriptions>,
    state: StateSender,
    streams: Arc<Streams>,
    /// Lets keepalive begin, once the daemon has agreed to it.
    keepalive: Notify,
    /// Whether it has, so that it pings us too.
    keepalive_agreed: AtomicBool,
    /// Whether the stream carries file descriptors.
    passes_files: bool,
    /// Whether a call had descriptors, after which replies may bring some.
    files_wanted: Arc<AtomicBool>,
    #[cfg(feature = "gssapi")]
    layer: LayerSlot,
}

impl Shared {
    /// Starts the connection task over `io`.
    fn start(
        io: Transport,
        config: &Config,
        subscriptions: Arc<Subscriptions>,
        state: StateSender,
    ) -> Arc<Self> {
        let connection = Connection::new(config.max_in_flight, stamp);
        let passes_files = io.passes_files();
        let (read, write) = io.split();
        let shared = Arc::new(Shared {
            connection,
            subscriptions,
            state,
            streams: Arc::default(),
            keepalive: Notify::new(),
            keepalive_agreed: AtomicBool::new(false),
            passes_files,
            files_wanted: read.files_wanted(),
            #[cfg(feature = "gssapi")]
            layer: read.layer(),
        });
        let run = task::run(read, write, shared.clone(), config.effective_keepalive());
        spawn(run, {
            let shared = shared.clone();
            move || shared.end(EndCause::RuntimeGone)
        });
        shared
    }

    /// Ends everything with `cause`, unless it has ended before.
    fn end(&self, cause: EndCause) {
        self.connection.finish(cause, |cause| self.tell(cause));
    }

    /// Tells events, streams and the user why the connection has ended.
    fn tell(&self, cause: &Arc<EndCause>) {
        self.subscriptions.disconnected(self, cause);
        self.streams.end(cause);
        let cause = cause.clone();
        self.state.send_replace(ConnectionState::Closed { cause });
    }

    /// Shows a daemon that pings us that we live, although we do not read its pings now.
    fn show_life(&self) {
        if self.keepalive_agreed.load(Ordering::Relaxed) {
            let pong = Header::keepalive(Pong::NUMBER).prefix(0);
            self.connection.calls.submit_urgent(pong.to_vec());
        }
    }

    async fn send_in(
        &self,
        slot: Slot,
        call: &mut Encoded,
        options: &CallOptions<'_>,
    ) -> Result<Reply, Error> {
        self.prepare(call)?;
        self.connection.send_in(slot, call, options).await
    }

    /// Refuses descriptors that cannot pass, and sees to it that those of the reply are kept.
    fn prepare(&self, call: &Encoded) -> Result<(), Error> {
        if let Some(with) = &call.files {
            self.check_files(with.files.len())?;
            self.files_wanted.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn check_files(&self, count: usize) -> Result<(), Error> {
        if !self.passes_files {
            return Err(Error::Unsupported(NO_FILES.to_owned()));
        }
        if count > MOST_FILES {
            let reason = format!("{count} file descriptors with one call: {MOST_FILES} at most");
            return Err(Error::Unsupported(reason));
        }
        Ok(())
    }
}

/// Where the user sees what the connection is doing.
#[derive(Clone)]
pub(crate) struct StateSender(Arc<watch::Sender<ConnectionState>>);

impl StateSender {
    /// For a connection that is to be opened.
    pub(crate) fn opening() -> Self {
        StateSender(Arc::new(watch::Sender::new(ConnectionState::Opening)))
    }
}

impl Deref for StateSender {
    type Target = watch::Sender<ConnectionState>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A handle of a connection. Cheap to clone; when the last one goes, the task ends and the socket closes.
#[derive(Clone)]
pub(crate) struct Client {
    way: Way,
}

#[derive(Clone)]
enum Way {
    /// One connection.
    Once(Arc<Handle>),
    /// One that is made again after a loss.
    Lasting(Arc<LastingHandle>),
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.connection.close();
    }
}

impl Client {
    /// Starts the connection task over `io`. Must run inside a tokio runtime.
    ///
    /// Where the settings say that a lost connection is made again, that is by `reopen`, once this one has been
    /// [`opened`](Client::opened).
    pub(crate) fn start(
        io: Transport,
        config: &Config,
        state: StateSender,
        reopen: Reopen,
    ) -> Self {
        match config.reconnect.clone() {
            Some(backoff) => lasting::start(io, config, state, backoff, reopen),
            None => Client::start_once(io, config, state),
        }
    }

    /// As `start`, for a connection that is not made again whatever the settings say.
    pub(crate) fn start_once(io: Transport, config: &Config, state: StateSender) -> Self {
        let shared = Shared::start(io, config, Arc::default(), state);
        shared.subscriptions.attach(&shared, true);
        Client {
            way: Way::Once(Arc::new(Handle { shared })),
        }
    }

    /// Says that the session is open, unless it has ended in this moment.
    pub(crate) fn opened(&self) -> Result<(), Error> {
        let mut ended = None;
        self.state().send_if_modified(|state| match state {
            ConnectionState::Closed { cause } => {
                ended = Some(cause.clone());
                false
            }
            state => {
                *state = ConnectionState::Connected;
                true
            }
        });
        ended.map_or(Ok(()), |cause| Err(Error::disconnected(cause, false)))
    }

    /// Where the user sees what the connection is doing.
    pub(crate) fn state(&self) -> &StateSender {
        match &self.way {
            Way::Once(handle) => &handle.shared.state,
            Way::Lasting(handle) => &handle.0.state,
        }
    }

    /// How often the connection was lost and is, or has been, made again.
    pub(crate) fn losses(&self) -> u64 {
        match &self.way {
            Way::Once(_) => 0,
            Way::Lasting(handle) => handle.0.losses(),
        }
    }

    /// Calls `P` and decodes its reply.
    ///
    /// Cancel safety: dropping the future before the call was sent sends nothing; after that the reply is discarded, and the
    /// call's slot stays taken until the reply comes.
    pub(crate) async fn call<P: Procedure>(
        &self,
        args: &P::Args,
        options: CallOptions<'_>,
    ) -> Result<P::Reply, Error> {
        self.send::<P>(&mut encode::<P>(args)?, &options).await
    }

    /// As `call`, with a call that was encoded before: the future then has no room for the arguments.
    pub(crate) async fn send<P: Procedure>(
        &self,
        call: &mut Encoded,
        options: &CallOptions<'_>,
    ) -> Result<P::Reply, Error> {
        self.send_for(call, P::NAME, options).await
    }

    /// As `send`, where the reply is read as `R`: what the procedure of this name has, or a view of it.
    pub(crate) async fn send_for<R: Unpack<Reader>>(
        &self,
        call: &mut Encoded,
        name: &'static str,
        options: &CallOptions<'_>,
    ) -> Result<R, Error> {
        let payload = self.send_raw(call, name, options).await?;
        xdr::decode(payload).map_err(|error| Error::xdr(name, error))
    }

    /// Sends a call of any procedure, which is called `name`. Returns the payload of a good reply.
    pub(crate) async fn send_raw(
        &self,
        call: &mut Encoded,
        name: &'static str,
        options: &CallOptions<'_>,
    ) -> Result<Bytes, Error> {
        let reply = self.reply(call, name, options).await?;
        finish(name, reply.status, reply.payload)
    }

    /// As `send_raw`, with the file descriptors that the reply brings.
    pub(crate) async fn send_for_files(
        &self,
        call: &mut Encoded,
        name: &'static str,
        options: &CallOptions<'_>,
    ) -> Result<(Bytes, Vec<OwnedFd>), Error> {
        // Also where none go with the call: it is what has the connection keep those of the reply.
        call.files
            .get_or_insert_with(|| Files::new(Vec::new(), Ride::After));
        let reply = self.reply(call, name, options).await?;
        let payload = finish(name, reply.status, reply.payload)?;
        match (reply.announced, reply.files.len()) {
            (announced, came) if announced != came => {
                let fault = xdr::DecodeFault::Files { announced, came };
                Err(Error::xdr(name, xdr::DecodeError::whole(fault)))
            }
            _ => Ok((payload, reply.files)),
        }
    }

    async fn reply(
        &self,
        call: &mut Encoded,
        name: &'static str,
        options: &CallOptions<'_>,
    ) -> Result<Reply, Error> {
        trace_call(name);
        match &self.way {
            Way::Once(handle) => {
                handle.shared.prepare(call)?;
                handle.shared.connection.send(call, options).await
            }
            // Boxed, so that calls of other connections have no room for it.
            Way::Lasting(handle) => {
                let send = async {
                    let (shared, slot) = handle.0.admit(options).await?;
                    shared.send_in(slot, call, options).await
                };
                Box::pin(send).await
            }
        }
    }

    /// The connection that there is now, or the next one, and the right to have a call in flight there.
    async fn admit(&self, options: &CallOptions<'_>) -> Result<(Arc<Shared>, Slot), Error> {
        match &self.way {
            Way::Once(handle) => {
                let slot = handle.shared.connection.slot(options, &mut None).await?;
                Ok((handle.shared.clone(), slot))
            }
            Way::Lasting(handle) => handle.0.admit(options).await,
        }
    }

    /// Whether descriptors can pass, this many of them with a call and any with its reply.
    pub(crate) fn check_files(&self, count: usize) -> Result<(), Error> {
        self.made()
            .map_or(Ok(()), |shared| shared.check_files(count))
    }

    /// Registers for the events of `registration`, or joins those who have. The events go into `queue`.
    pub(crate) async fn subscribe(
        &self,
        registration: Registration,
        queue: &Arc<ArrivedQueue>,
        deadline: Deadline,
    ) -> Result<Subscription, Error> {
        let options = CallOptions {
            phase: Phase::Subscription,
            deadline,
            limits: Limits::None,
        };
        tokio::select! {
            subscription = subscriptions::subscribe(self, registration, queue) => subscription,
            () = sleep_until(deadline) => Err(match self.lasting() {
                Some(lasting) if lasting.is_lost() => lasting.too_late(&options),
                _ => timed_out(&options, Progress::Sent),
            }),
        }
    }

    /// Whether file descriptors can go along with a call.
    pub(crate) fn passes_files(&self) -> bool {
        // Where it has ended, that is what the call will say.
        self.made().is_none_or(|shared| shared.passes_files)
    }

    /// Has everything after the next reply go through a security layer, both ways. Nothing else may be in flight then.
    #[cfg(feature = "gssapi")]
    pub(crate) fn secure_after_reply(&self, layer: Layer) {
        if let Some(shared) = self.made() {
            shared.layer.arm(layer);
        }
    }

    /// Begins to ping a silent peer, as configured. The peer has agreed to it.
    pub(crate) fn start_keepalive(&self) {
        if let Some(shared) = self.made() {
            shared.keepalive_agreed.store(true, Ordering::Relaxed);
            shared.keepalive.notify_one();
        }
    }

    /// Says that the user is closing the connection: however it ends now, the cause is `UserClosed`. Says whether there is
    /// anybody to be told.
    fn leave(&self) -> bool {
        match &self.way {
            Way::Once(handle) => {
                handle.shared.connection.leave();
                true
            }
            Way::Lasting(handle) => {
                handle.0.leave();
                !handle.0.is_lost()
            }
        }
    }

    /// Ends the connection: every waiter fails with `UserClosed`, and the socket closes. Does not wait.
    fn close(&self) {
        match &self.way {
            Way::Once(handle) => handle.shared.connection.close(),
            Way::Lasting(handle) => handle.0.close(),
        }
    }

    /// Tells the daemon by `P` that the session ends, for which it has `timeout`; then ends the connection, and waits until
    /// the socket is closed. Whoever still waits fails with `UserClosed`.
    pub(crate) async fn say_goodbye<P: Procedure<Args = ()>>(&self, timeout: Option<Duration>) {
        if self.ended().is_some() {
            return;
        }
        let options = CallOptions {
            phase: Phase::Reply,
            deadline: deadline(timeout),
            limits: Limits::None,
        };
        if self.leave() {
            // The daemon closes right after its answer, and over a helper process not even that may arrive: the end of
            // the connection is an answer too.
            let _ = self.call::<P>(&(), options).await;
        }
        self.close();
        self.closed().await;
    }

    /// Waits until the connection has ended for good and the socket is closed.
    pub(crate) async fn closed(&self) -> Arc<EndCause> {
        match &self.way {
            Way::Once(handle) => handle.shared.connection.closed().await,
            Way::Lasting(handle) => handle.0.closed().await,
        }
    }

    /// Why the connection ended, if it has for good.
    pub(crate) fn ended(&self) -> Option<Arc<EndCause>> {
        match &self.way {
            Way::Once(handle) => handle.shared.connection.ended(),
            Way::Lasting(handle) => handle.0.ended(),
        }
    }

    fn lasting(&self) -> Option<&Lasting> {
        match &self.way {
            Way::Once(_) => None,
            Way::Lasting(handle) => Some(&handle.0),
        }
    }

    /// The connection that was made last; none where it has ended for good.
    fn made(&self) -> Option<Arc<Shared>> {
        match &self.way {
            Way::Once(handle) => Some(handle.shared.clone()),
            Way::Lasting(handle) => handle.0.made(),
        }
    }

    fn subscriptions(&self) -> &Subscriptions {
        match &self.way {
            Way::Once(handle) => &handle.shared.subscriptions,
            Way::Lasting(handle) => &handle.0.subscriptions,
        }
    }
}

/// A whole call packet but for its serial.
///
/// `args` is `P::Args`, or a view of the same fields that borrows them.
pub(crate) fn encode<P: Procedure>(args: &impl Pack<Writer>) -> Result<Encoded, Error> {
    encode_as::<P>(MessageType::CALL, &[], args)
}

/// As `encode`, with file descriptors: their number stands before the arguments, and each goes along with a byte after
/// the packet (`VIR_NET_CALL_WITH_FDS`).
pub(crate) fn encode_with_files<P: Procedure>(
    args: &impl Pack<Writer>,
    files: Vec<OwnedFd>,
) -> Result<Encoded, Error> {
    let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
    let mut call = encode_as::<P>(MessageType::CALL_WITH_FDS, &count.to_be_bytes(), args)?;
    call.files = Some(Files::new(files, Ride::After));
    Ok(call)
}

/// A call of this type, with `before` in front of its arguments.
fn encode_as<P: Procedure>(
    kind: MessageType,
    before: &[u8],
    args: &impl Pack<Writer>,
) -> Result<Encoded, Error> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&[0; PREFIX]);
    bytes.extend_from_slice(before);
    xdr::encode(args, &mut bytes).map_err(|source| Error::Encode {
        procedure: P::NAME,
        source,
    })?;
    seal(&Spec::of::<P>(""), kind, bytes)
}

/// A packet of this type out of its payload, which stands behind the room for its prefix.
fn seal(spec: &Spec, kind: MessageType, mut bytes: Vec<u8>) -> Result<Encoded, Error> {
    let payload = bytes.len() - PREFIX;
    if bytes.len() > MAX_LENGTH {
        let over = xdr::EncodeError::whole(payload, MAX_LENGTH - PREFIX);
        return Err(Error::Encode {
            procedure: spec.name,
            source: over,
        });
    }
    let header = Header {
        kind,
        ..Header::call(spec.program, spec.version, spec.number, 0)
    };
    bytes[..PREFIX].copy_from_slice(&header.prefix(payload));
    Ok(Encoded {
        bytes,
        procedure: (spec.program, spec.number),
        files: None,
        ahead: false,
        announce: None,
    })
}

/// A call with these bytes for arguments, of a procedure that the definitions in `xdr/` need not have.
pub(crate) fn encode_raw(
    program: u32,
    version: u32,
    number: i32,
    name: &'static str,
    payload: &[u8],
) -> Result<Encoded, Error> {
    let spec = Spec {
        program,
        version,
        number,
        name,
        args: "",
    };
    let mut bytes = Vec::with_capacity(PREFIX + payload.len());
    bytes.extend_from_slice(&[0; PREFIX]);
    bytes.extend_from_slice(payload);
    seal(&spec, MessageType::CALL, bytes)
}

/// Says which procedure is called, for what is traced of its packets has only its number.
fn trace_call(name: &'static str) {
    trace!(target: "libvirt_qmp::rpc", procedure = name, "calling");
}

/// Puts the serial into an encoded call: the sixth word. The call leaves now, so this is where it is traced.
fn stamp(bytes: &mut [u8], serial: u32) {
    if let Some(word) = bytes.get_mut(20..24) {
        word.copy_from_slice(&serial.to_be_bytes());
    }
    if let Some(prefix) = bytes.first_chunk() {
        trace!(target: "libvirt_qmp::rpc", header = %Header::read(prefix).numbered(), bytes = bytes.len() - PREFIX, "sending");
    }
}

/// The payload of a good reply, or the error that the reply is.
fn finish(name: &'static str, status: MessageStatus, payload: Bytes) -> Result<Bytes, Error> {
    match status {
        MessageStatus::OK => Ok(payload),
        MessageStatus::ERROR => {
            // What the guest agent says that is no JSON is quoted in the message, and libvirt may cut one short anywhere.
            let error = xdr::decode_lossy::<rpc::MessageError>(payload)
                .map_err(|error| Error::xdr(name, error))?;
            Err(LibvirtError::from_wire(error, name).into())
        }
        MessageStatus(other) => Err(Error::xdr(name, xdr::DecodeError::status(other))),
    }
}
