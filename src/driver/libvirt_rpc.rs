//! The monitor of a domain through libvirtd, over libvirt's own RPC.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OnceCell, Semaphore, watch};

use super::libvirt_agent::run_agent;
use super::{Link, duplicate, finish, refuse_oob};
use crate::config::Config;
use crate::connection::{Encoded, Limits, Steps};
use crate::dial::dial;
use crate::error::{EndCause, Error};
use crate::libvirt::{DomainKey, Libvirt, Origin, StateSender};
use crate::monitor::{
    AgentTimeout, EventOptions, EventStream, Monitor, MonitorFuture, RunOptions, SchemaCell,
};
use crate::objects::Domain;
use crate::protocol::remote::STRING_MAX;
use crate::qmp::{CommandError, RawCommand};
use crate::reconnect::ConnectionState;
use crate::rpc::ArrivedQueue;
use crate::transport::{NO_FILES, Transport};

/// Descriptors that libvirt's QEMU driver takes with a command.
const MOST_FILES: usize = 1;

/// The QEMU monitor of one domain, through libvirtd.
///
/// Made by URI with [`LibvirtRpc::connect_uri`], over a stream of one's own by [`LibvirtRpc::new`], or on a shared session by
/// [`Libvirt::monitor`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use futures_util::StreamExt;
/// use libvirt_qmp::{LibvirtRpc, Monitor};
///
/// let conn = tokio::net::UnixStream::connect("/var/run/libvirt/libvirt-sock").await?;
/// let monitor = LibvirtRpc::new("stage-lb-1", conn);
/// monitor.connect().await?;
/// let raw: bytes::Bytes = monitor.run(br#"{ "execute": "query-status" }"#).await?;
/// let mut events = monitor.events().await?;
/// while let Some(event) = events.next().await {
///     println!("EVENT: {}", event?.name);
/// }
/// monitor.disconnect().await?;
/// # Ok(()) }
/// ```
///
/// The domain is looked up once and then known by its UUID. A command is at most 4 MiB long, and so is a reply
/// (`REMOTE_STRING_MAX`). Commands run one at a time in the order of their calls, unless
/// [`Config::max_in_flight`] is lifted. libvirt marks a domain as tainted (`custom-monitor`) on its first command.
///
/// One file descriptor can go with a command, where the stream is a tokio [`UnixStream`](tokio::net::UnixStream) itself; a
/// daemon before libvirt 8.2 says that it does not know the procedure ([`Error::is_unsupported`]). Commands of the guest
/// agent run one at a time too, beside those of the monitor; its errors come as [`Error::Libvirt`], for libvirt hands on
/// only their text. Filters by name are kept by libvirtd where they are names or globs of letters, digits, `_` and `-`.
pub struct LibvirtRpc {
    session: Session,
    key: DomainKey,
    domain: OnceCell<Domain>,
    /// Lets one command run at a time.
    turn: Arc<Semaphore>,
    /// The same for commands of the guest agent, which libvirt runs beside those of the monitor.
    agent_turn: Arc<Semaphore>,
    disconnected: AtomicBool,
    /// The event streams that `disconnect` ends.
    streams: Mutex<Vec<Weak<ArrivedQueue>>>,
    schema: SchemaCell,
    /// How often the connection had been lost when the schema was asked for.
    schema_from: AtomicU64,
}

enum Session {
    /// This monitor's own connection.
    Own(Link<Libvirt>, Box<Own>),
    Shared(Libvirt),
}

struct Own {
    config: Config,
    state: StateSender,
}

impl LibvirtRpc {
    /// A monitor for `domain` (a name, or a UUID) over `conn`, a connected stream to libvirtd. Nothing is sent yet.
    ///
    /// Call `set_nodelay(true)` on a TCP stream before: a small call must not wait for the acknowledgement of the one before
    /// it.
    pub fn new<T>(domain: impl Into<DomainKey>, conn: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        LibvirtRpc::with_config(domain, conn, Config::new())
    }

    /// As [`LibvirtRpc::new`], with settings. With [`Config::reconnect`] it cannot be connected, for the stream cannot be made
    /// again: see [`LibvirtRpc::connect_uri_with`] and [`Libvirt::open_with`].
    pub fn with_config<T>(domain: impl Into<DomainKey>, conn: T, config: Config) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        LibvirtRpc::over_stream(domain, Transport::new(conn), config)
    }

    /// As [`LibvirtRpc::with_config`].
    pub(crate) fn over_stream(
        domain: impl Into<DomainKey>,
        conn: Transport,
        config: Config,
    ) -> Self {
        let own = Own {
            config,
            state: StateSender::opening(),
        };
        let session = Session::Own(Link::over(conn), Box::new(own));
        LibvirtRpc::over(session, domain.into())
    }

    /// A monitor for `domain` (a name, or a UUID) over a connection of its own to the daemon that `uri` names, connected: the
    /// session is open and the domain is found. Settings are the default ones.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), libvirt_qmp::Error> {
    /// use libvirt_qmp::{LibvirtRpc, MonitorExt};
    ///
    /// let monitor = LibvirtRpc::connect_uri("qemu:///system", "stage-lb-1").await?;
    /// println!("QEMU {}", monitor.version().await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Libvirt::connect_with`]; [`Error::is_not_found`] where there is no such domain.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was connected.
    pub async fn connect_uri(uri: &str, domain: impl Into<DomainKey>) -> Result<Self, Error> {
        LibvirtRpc::connect_uri_with(uri, domain, Config::new()).await
    }

    /// As [`LibvirtRpc::connect_uri`], with settings. [`Config::uri`] is not used. With [`Config::reconnect`] the connection
    /// survives its losses: see there.
    ///
    /// # Errors
    ///
    /// Those of [`LibvirtRpc::connect_uri`].
    ///
    /// # Cancel safety
    ///
    /// That of [`LibvirtRpc::connect_uri`].
    pub async fn connect_uri_with(
        uri: &str,
        domain: impl Into<DomainKey>,
        mut config: Config,
    ) -> Result<Self, Error> {
        let mut steps = Steps::new(config.connect_timeout);
        let (uri, stream) = dial(Some(uri), &config, &mut steps).await?;
        config.uri = uri.name();
        let (link, state) = (Link::over(stream), StateSender::opening());
        let own = Own {
            config: config.clone(),
            state: state.clone(),
        };
        let origin = Origin::Uri(Box::new(uri));
        link.session(|stream| Libvirt::open_by(stream, config, origin, state, steps))
            .await?;
        let monitor = LibvirtRpc::over(Session::Own(link, Box::new(own)), domain.into());
        monitor.make_ready().await?;
        Ok(monitor)
    }

    fn over(session: Session, key: DomainKey) -> Self {
        LibvirtRpc {
            session,
            key,
            domain: OnceCell::new(),
            turn: Arc::new(Semaphore::new(1)),
            agent_turn: Arc::new(Semaphore::new(1)),
            disconnected: AtomicBool::new(false),
            streams: Mutex::default(),
            schema: SchemaCell::new(),
            schema_from: AtomicU64::new(0),
        }
    }

    /// What the connection is doing now, and what it does from now on: this monitor's own, or that of the session it is on. To
    /// watch it does not keep the connection open.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        match &self.session {
            Session::Own(_, own) => own.state.subscribe(),
            Session::Shared(libvirt) => libvirt.state(),
        }
    }

    /// Waits until the connection has ended, and says why: this monitor's own, or that of the session it is on, which outlives
    /// the monitor. With [`Config::reconnect`] that is its final end, not a loss. One that could not be opened was closed by its
    /// user.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    pub async fn closed(&self) -> Arc<EndCause> {
        let mut state = self.state();
        let is_closed = |state: &ConnectionState| matches!(state, ConnectionState::Closed { .. });
        match state.wait_for(is_closed).await.as_deref() {
            Ok(ConnectionState::Closed { cause }) => cause.clone(),
            // The sender lives in `self`.
            _ => Arc::new(EndCause::RuntimeGone),
        }
    }

    /// The session, where it is open.
    fn opened(&self) -> Option<&Libvirt> {
        match &self.session {
            Session::Own(link, _) => link.opened(),
            Session::Shared(libvirt) => Some(libvirt),
        }
    }

    /// The session and the domain, where both are known.
    fn ready_now(&self) -> Result<Option<(&Libvirt, &Domain)>, Error> {
        if self.disconnected.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        Ok(self.opened().zip(self.domain.get()))
    }

    /// The session and the domain, made ready where this is the first use.
    async fn make_ready(&self) -> Result<(&Libvirt, &Domain), Error> {
        if let Some(ready) = self.ready_now()? {
            return Ok(ready);
        }
        let libvirt = match &self.session {
            Session::Own(link, own) => {
                link.session(|stream| {
                    Libvirt::open_over(stream, own.config.clone(), own.state.clone())
                })
                .await?
            }
            Session::Shared(libvirt) => libvirt,
        };
        let domain = self
            .domain
            .get_or_try_init(|| libvirt.lookup(&self.key))
            .await?;
        Ok((libvirt, domain))
    }

    /// As `make_ready`, for `text`, which is refused before anything is sent where it cannot be.
    async fn make_ready_for(&self, text: &[u8]) -> Result<(&Libvirt, &Domain), Error> {
        if self.ready_now()?.is_none() {
            checked_text(&RawCommand::parse(text)?)?;
            // Boxed, for it is rare and large, and every command's future would have room for it.
            Box::pin(self.make_ready()).await?;
        }
        self.ready_now()?.ok_or(Error::Closed)
    }

    /// `timeout` is the call's own, where it has one.
    async fn run_command(
        &self,
        text: &[u8],
        timeout: Option<Option<Duration>>,
    ) -> Result<Bytes, Error> {
        let (libvirt, domain) = self.make_ready_for(text).await?;
        let (call, user_id) = encode(text, |text| Libvirt::encode_monitor_command(domain, text))?;
        let timeout = timeout.unwrap_or(libvirt.call_timeout());
        let reply = libvirt
            .run_monitor_command(call, &self.turn, timeout)
            .await?;
        finish(reply, user_id, text)
    }

    async fn run_with_files(&self, text: &[u8], options: RunOptions<'_>) -> Result<Bytes, Error> {
        let passes_files = match (&self.session, self.opened()) {
            (Session::Own(link, _), None) => link.passes_files(),
            (_, libvirt) => libvirt.is_some_and(Libvirt::passes_files),
        };
        let why_not = match options.files.len() {
            _ if !passes_files => NO_FILES,
            ..=MOST_FILES => "",
            _ => "libvirt passes one file descriptor with a command",
        };
        if !why_not.is_empty() {
            return Err(Error::Unsupported(why_not.to_owned()));
        }
        let files = duplicate(options.files)?;
        let (libvirt, domain) = self.make_ready_for(text).await?;
        let (call, user_id) = encode(text, |text| {
            Libvirt::encode_monitor_command_with_files(domain, text, files)
        })?;
        let timeout = options.timeout.unwrap_or(libvirt.call_timeout());
        let reply = libvirt
            .run_monitor_command(call, &self.turn, timeout)
            .await?;
        finish(reply, user_id, text)
    }

    async fn run_agent(&self, text: &[u8], timeout: AgentTimeout) -> Result<Bytes, Error> {
        let (libvirt, domain) = self.make_ready_for(text).await?;
        let limits = Limits::Monitor(&self.agent_turn);
        run_agent(libvirt, domain, text, timeout, limits).await
    }

    async fn subscribe(&self, options: EventOptions) -> Result<EventStream, Error> {
        let EventOptions {
            filter,
            queue,
            overflow,
            // Nothing is kept for a first stream here: every one begins now.
            from_now: _,
        } = options;
        let (libvirt, domain) = self.make_ready().await?;
        let events = libvirt
            .monitor_events(Some(domain), &filter, queue, overflow)
            .await?;
        if let Some(queue) = events.queue() {
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            // Disconnected while this waited: nobody would end the stream any more.
            if self.disconnected.load(Ordering::Acquire) {
                return Err(Error::Closed);
            }
            streams.retain(|stream| stream.strong_count() > 0);
            streams.push(Arc::downgrade(&queue));
        }
        Ok(EventStream::new(events).filtered(filter))
    }

    async fn end(&self) -> Result<(), Error> {
        self.disconnected.store(true, Ordering::Release);
        let cause = Arc::new(EndCause::UserClosed);
        for stream in
            std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner))
        {
            if let Some(queue) = stream.upgrade() {
                queue.end(cause.clone());
            }
        }
        match &self.session {
            Session::Own(link, own) => match link.close() {
                Some(libvirt) => libvirt.close().await,
                None => {
                    own.state.send_replace(ConnectionState::Closed { cause });
                    Ok(())
                }
            },
            // Others use the session; this monitor only stops.
            Session::Shared(_) => Ok(()),
        }
    }
}

/// Checks a command and encodes it. Gives the user's id too, which libvirt would refuse.
pub(super) fn encode(
    text: &[u8],
    encode: impl FnOnce(&str) -> Result<Encoded, Error>,
) -> Result<(Encoded, Option<&[u8]>), Error> {
    let command = RawCommand::parse(text)?;
    let text = checked_text(&command)?;
    // It was checked when it was parsed, but not for the compiler.
    let text = std::str::from_utf8(&text).map_err(|error| CommandError::NotUtf8 {
        offset: error.valid_up_to(),
    })?;
    Ok((encode(text)?, command.user_id()))
}

/// The command without its id, as libvirt takes it. Refuses what cannot be sent, whoever the domain is.
fn checked_text<'a>(command: &RawCommand<'a>) -> Result<Cow<'a, [u8]>, Error> {
    refuse_oob(command)?;
    let text = command.without_id();
    let (length, limit) = (text.len(), STRING_MAX as usize);
    if length > limit {
        return Err(CommandError::TooLong { length, limit }.into());
    }
    Ok(text)
}

impl Libvirt {
    /// The monitor of `domain` (a name, or a UUID) on this session. Nothing is sent yet: the domain is looked up by
    /// [`connect`](Monitor::connect), or on first use.
    ///
    /// [`disconnect`](Monitor::disconnect) ends this monitor and its event streams; the session stays.
    pub fn monitor(&self, domain: impl Into<DomainKey>) -> LibvirtRpc {
        LibvirtRpc::over(Session::Shared(self.clone()), domain.into())
    }

    /// Subscribes to the monitor events of all domains, those included that are started or defined later: every one from this
    /// moment on, in order. [`Event::domain`](crate::Event) says whose it is. The daemon is asked once
    /// (`QEMU_PROC_CONNECT_DOMAIN_MONITOR_EVENT_REGISTER` without a domain).
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::events`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or the stream, unsubscribes.
    pub async fn all_monitor_events(&self, options: EventOptions) -> Result<EventStream, Error> {
        let EventOptions {
            filter,
            queue,
            overflow,
            // Nothing is kept for a first stream here.
            from_now: _,
        } = options;
        let events = self.monitor_events(None, &filter, queue, overflow).await?;
        Ok(EventStream::new(events).filtered(filter))
    }
}

impl Monitor for LibvirtRpc {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { self.make_ready().await.map(|_| ()) })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(self.end())
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_command(command, None))
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        Box::pin(self.subscribe(EventOptions::default()))
    }

    fn run_with<'a>(
        &'a self,
        command: &'a [u8],
        options: RunOptions<'a>,
    ) -> MonitorFuture<'a, Bytes> {
        if !options.files.is_empty() {
            return Box::pin(self.run_with_files(command, options));
        }
        Box::pin(self.run_command(command, options.timeout))
    }

    fn events_with(&self, options: EventOptions) -> MonitorFuture<'_, EventStream> {
        Box::pin(self.subscribe(options))
    }

    fn agent<'a>(&'a self, command: &'a [u8], timeout: AgentTimeout) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_agent(command, timeout))
    }

    fn schema_cell(&self) -> Option<&SchemaCell> {
        let losses = self.opened().map_or(0, Libvirt::losses);
        if self.schema_from.swap(losses, Ordering::AcqRel) != losses {
            // The domain may have been started anew meanwhile, with another QEMU.
            self.schema.forget();
        }
        Some(&self.schema)
    }
}

impl fmt::Debug for LibvirtRpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("LibvirtRpc");
        debug.field("domain", &self.key);
        match &self.session {
            Session::Own(link, _) => debug.field("session", link),
            Session::Shared(libvirt) => debug.field("session", libvirt),
        };
        debug.finish()
    }
}
