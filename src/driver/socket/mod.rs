//! The monitor on QEMU's own QMP socket: what its user sees. One connection is in `session`, what goes on from one to the next
//! in `line` and `outlet`, an event stream in `events`, the ways to QEMU in `dial` and `listen`. May import anything below
//! the drivers.

mod address;
mod dial;
mod events;
mod line;
mod listen;
mod outlet;
mod session;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::ToSocketAddrs;
use tokio::process::Child;
use tokio::sync::watch;

use super::{Link, duplicate, finish, refuse_oob};
use crate::config::{Config, Handshake};
use crate::connection::{Deadline, deadline, sleep_until};
use crate::dial::ChildStream;
use crate::error::{EndCause, Error, Phase};
use crate::inflight::{Files, Ride};
use crate::monitor::{EventOptions, EventStream, Monitor, MonitorFuture, RunOptions, SchemaCell};
use crate::qmp::{Greeting, RawCommand};
use crate::reconnect::{ConnectionState, refuse};
use crate::transport::Transport;
use dial::Way;
use events::SocketEvents;
use line::{Kept, Line};
use outlet::Outlet;
use session::{Ids, Session, call_deadline, call_options, silent};

pub use address::{QmpAddress, QmpAddressError};
pub use listen::QmpListener;

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
/// [`Error::Timeout`] in [`Phase::Greeting`] says so. So the socket is closed as soon as the last handle is gone: the
/// monitor and its event streams.
///
/// Commands run in the order of their calls, and QEMU answers them one by one; up to [`Config::max_in_flight`], but at most
/// 8, are sent ahead. Commands are at most 64 MiB long, and so are replies unless [`Config::max_message`] says otherwise.
/// QEMU reads a command at about 0.4 MB/s, so each call gets 100 µs a byte on top of [`Config::call_timeout`]; one with a
/// timeout of its own gets exactly that.
///
/// Once begun, connecting goes on by itself: dropping the future that began it does no harm, and others wait for the same
/// outcome.
///
/// # Ways to QEMU
///
/// | QEMU is started with | here |
/// |---|---|
/// | `-qmp unix:PATH,server=on,wait=off` | [`unix`](SocketMonitor::unix) |
/// | `-qmp tcp:HOST:PORT,server=on,wait=off` | [`tcp`](SocketMonitor::tcp) |
/// | `-qmp unix:PATH`, `-qmp tcp:HOST:PORT`, also with `reconnect=1` | [`listen`](SocketMonitor::listen), before it is started |
/// | `-qmp stdio`, as a child of this program | [`stdio`](SocketMonitor::stdio) |
/// | `-qmp pipe:PATH` | [`dial`](SocketMonitor::dial) |
/// | `-chardev socket,id=q,fd=0 -mon chardev=q,mode=control` | [`from_fd`](SocketMonitor::from_fd), or `new` with a socket pair |
/// | anything else that leads to a QMP server | [`new`](SocketMonitor::new) |
///
/// # Out-of-band commands
///
/// Where QEMU offers the capability `oob` and [`Config::oob`] does not decline it, it is negotiated, and a command made by
/// [`Command::oob`](crate::Command::oob), or one with `exec-oob`, goes ahead of those that wait: it is answered while 8
/// others block. Where `oob` is not negotiated such a command is [`Error::Unsupported`].
///
/// # File descriptors
///
/// On a unix socket a command may bring one descriptor, for `getfd` or `add-fd`. QEMU has one place for what arrives, so the
/// command waits until nothing else is in flight, and what comes later waits for its reply; out-of-band commands do not. QEMU
/// keeps the first descriptor of a message only, so more than one is [`Error::Unsupported`], as is any on another kind
/// of stream. Nothing is sent then.
///
/// # Handshake
///
/// With [`Handshake::GreetingOnly`] the user runs `qmp_capabilities`; if that enables `oob`, out-of-band commands
/// pass from then on. With [`Handshake::None`] commands are sent at once, and [`greeting`](SocketMonitor::greeting) is
/// [`Error::Unsupported`]. Commands carry ids in any case.
///
/// # Events
///
/// Events are kept from the moment that connecting begins, and the first event stream starts with them; later streams
/// start with what comes after they were made. One that is [`from_now`](EventOptions::from_now), as those of the waits and
/// callbacks in [`WaitExt`](crate::WaitExt) are, is not that first stream and leaves what is kept to it. Each queue, the
/// one for the first stream included, holds at most
/// [`Config::event_queue`] events and 64 MiB of text, or as many as its own [`EventOptions`] say. When it is full the
/// oldest go, and the stream says how many. A filter keeps what it does not take by name out of the queue; of a first stream
/// with a filter the events kept so far go through it too.
///
/// A stream ends by itself where QEMU closes the connection after its event `SHUTDOWN`; any other end is an error, the last
/// item of the stream.
///
/// # Reconnecting
///
/// With [`Config::reconnect`] a monitor made by [`unix`](SocketMonitor::unix_with_config),
/// [`tcp`](SocketMonitor::tcp_with_config), [`dial`](SocketMonitor::dial) or [`open_with`](SocketMonitor::open_with)
/// connects again after a loss, with greeting and capabilities. The rules are those of [`Config::reconnect`], and:
///
/// - Every QEMU that answers at the same place is taken, also one that was started anew: a guest that ends is a loss like any
///   other, even after `SHUTDOWN`. [`Backoff::give_up_after`](crate::Backoff::give_up_after) says how long nobody need be there.
///   The streams then end with an error that says so ([`EndCause::GaveUp`]).
/// - The first connection is tried once: [`connect`](Monitor::connect) fails as it does otherwise, and the failure stays.
/// - No greeting, because another client has the socket, is a try that failed, after [`Config::greeting_timeout`].
/// - An event stream can be made at any time, and waits for nothing. The events kept for the first one have the
///   [`Error::Gap`] among them.
/// - A name is looked up again by `dial`; `tcp` keeps the addresses that it found.
/// - With [`Handshake::GreetingOnly`] the user negotiates again after each gap, and before that QEMU refuses commands. With
///   [`Handshake::None`] a socket that is connected is all that is asked for.
///
/// Over a stream, a child or a descriptor that was handed in, and named pipes, it is [`Error::Unsupported`], with
/// [`new`](SocketMonitor::with_config) on first use. A [`QmpListener`] refuses it too: QEMU connects again by itself, with
/// `reconnect=1`, and each [`accept`](QmpListener::accept) gives a new monitor.
pub struct SocketMonitor {
    link: Link<Arc<Line>>,
    kept: Kept,
    /// How to connect again, until the first connection is made; none where nobody can.
    way: Mutex<Option<Way>>,
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
        SocketMonitor::over(Transport::new(conn), config, None)
    }

    /// `way` is how to connect again, where that is known.
    fn over(stream: Transport, config: Config, way: Option<Way>) -> Self {
        SocketMonitor {
            link: Link::over(stream),
            kept: Kept {
                ids: Arc::new(Ids::new()),
                outlet: Arc::new(Outlet::new(config.event_queue)),
                schema: Arc::new(SchemaCell::new()),
                config,
            },
            way: Mutex::new(way),
        }
    }

    async fn by(way: Way, config: Config, deadline: Deadline) -> Result<Self, Error> {
        let stream = way.connect(deadline).await?;
        Ok(SocketMonitor::over(stream, config, Some(way)))
    }

    /// Connects to the unix socket at `path` (`-qmp unix:PATH,server=on`). The handshake follows on first use.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason, or where the socket's backlog stays full for the default
    /// [`Config::connect_timeout`]: see [`Error::is_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn unix(path: impl AsRef<Path>) -> Result<Self, Error> {
        SocketMonitor::unix_with_config(path, Config::new()).await
    }

    /// As [`SocketMonitor::unix`], with settings. Connecting the socket, and then the handshake, each have
    /// [`Config::connect_timeout`].
    ///
    /// # Errors
    ///
    /// Those of [`SocketMonitor::unix`].
    ///
    /// # Cancel safety
    ///
    /// That of [`SocketMonitor::unix`].
    pub async fn unix_with_config(path: impl AsRef<Path>, config: Config) -> Result<Self, Error> {
        SocketMonitor::dial(path.as_ref(), config).await
    }

    /// Connects to `addr` (`-qmp tcp:HOST:PORT,server=on`). The handshake follows on first use.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason, or where nobody answers for the default
    /// [`Config::connect_timeout`]: see [`Error::is_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn tcp(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self, Error> {
        SocketMonitor::tcp_with_config(addr, Config::new()).await
    }

    /// As [`SocketMonitor::tcp`], with settings. Connecting the socket, and then the handshake, each have
    /// [`Config::connect_timeout`].
    ///
    /// # Errors
    ///
    /// Those of [`SocketMonitor::tcp`].
    ///
    /// # Cancel safety
    ///
    /// That of [`SocketMonitor::tcp`].
    pub async fn tcp_with_config(
        addr: impl ToSocketAddrs + fmt::Debug,
        config: Config,
    ) -> Result<Self, Error> {
        let deadline = deadline(config.dial_within());
        let way = Way::resolved(format!("{addr:?}"), addr, deadline).await?;
        SocketMonitor::by(way, config, deadline).await
    }

    /// Connects to `address`, of any kind. The handshake follows on first use.
    ///
    /// For [`QmpAddress::Pipe`] the pipes `PATH.in` and `PATH.out` must exist (`mkfifo`); QEMU may open them later, within
    /// [`Config::dial_timeout`]. It greets once, when it starts, and the first to read gets that: whoever comes later
    /// wants [`Handshake::None`].
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason, or where it takes longer than [`Config::dial_timeout`]: see
    /// [`Error::is_timeout`]. [`Error::Unsupported`] for a pipe with [`Config::reconnect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was opened.
    pub async fn dial(address: impl Into<QmpAddress>, config: Config) -> Result<Self, Error> {
        let address = address.into();
        if matches!(address, QmpAddress::Pipe(_)) {
            refuse(
                &config,
                "a monitor on named pipes, where QEMU greets but once,",
            )?;
        }
        let deadline = deadline(config.dial_within());
        SocketMonitor::by(Way::Address(address), config, deadline).await
    }

    /// Connects by `connect`, which leads to QEMU in a way of its own, such as TLS. The handshake follows on first use. With
    /// [`Config::reconnect`] it is called again for each try to make a lost connection again.
    ///
    /// What it fails with is [`Error::Connect`], and is tried again. It must not block.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), libvirt_qmp::Error> {
    /// use libvirt_qmp::{Backoff, Config, SocketMonitor};
    /// use tokio::net::UnixStream;
    ///
    /// let config = Config::new().reconnect(Backoff::new());
    /// let monitor = SocketMonitor::open_with(|| UnixStream::connect("/run/my/tunnel"), config).await?;
    /// # let _ = monitor;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] where `connect` fails, of kind [`TimedOut`](std::io::ErrorKind::TimedOut) where it takes longer than
    /// [`Config::dial_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops that of `connect`.
    pub async fn open_with<F, A, T>(connect: F, config: Config) -> Result<Self, Error>
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let way = Way::Function(Box::new(move || {
            let connecting = connect();
            Box::pin(async { Ok(Transport::new(connecting.await?)) })
        }));
        let deadline = deadline(config.dial_within());
        SocketMonitor::by(way, config, deadline).await
    }

    /// Binds `address`, for a QEMU that connects to it: a path, a socket address (port 0 lets the system choose), or any
    /// [`QmpAddress`] but that of a pipe.
    ///
    /// The file of a unix socket is made with the permissions that the process's umask leaves: whoever can write to it can pass for QEMU. A
    /// socket that is there already is replaced where nobody listens on it any more.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] with the system's reason, and where somebody listens at the path or a file is there that is no
    /// socket; [`Error::Unsupported`] for a pipe, and with [`Config::reconnect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future binds nothing.
    pub async fn listen(address: impl Into<QmpAddress>) -> Result<QmpListener, Error> {
        SocketMonitor::listen_with_config(address, Config::new()).await
    }

    /// As [`SocketMonitor::listen`], with settings for the monitors that come of it.
    ///
    /// # Errors
    ///
    /// Those of [`SocketMonitor::listen`].
    ///
    /// # Cancel safety
    ///
    /// That of [`SocketMonitor::listen`].
    pub async fn listen_with_config(
        address: impl Into<QmpAddress>,
        config: Config,
    ) -> Result<QmpListener, Error> {
        QmpListener::bind(address.into(), config).await
    }

    /// A monitor over the standard input and output of `child`, a QEMU with `-qmp stdio` whose standard input and output are
    /// both piped. The handshake follows on first use.
    ///
    /// The child is the monitor's from now on. When the connection ends, by [`disconnect`](Monitor::disconnect) or because
    /// the last handle is gone, it is killed (SIGKILL) and reaped. Where it has closed its output itself, as after `quit`, it
    /// has 30 s to end before that. What it says on a piped standard error is passed over, unless that was taken before. To
    /// keep the child, take its `stdin` and `stdout` and use [`SocketMonitor::new`] with `tokio::io::join(stdout, stdin)`:
    /// QEMU does not end because its input does.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] where one of the two is not piped; [`Error::Unsupported`] with [`Config::reconnect`]. The child is
    /// killed then.
    pub fn stdio(child: Child) -> Result<Self, Error> {
        SocketMonitor::stdio_with_config(child, Config::new())
    }

    /// As [`SocketMonitor::stdio`], with settings.
    ///
    /// # Errors
    ///
    /// Those of [`SocketMonitor::stdio`].
    pub fn stdio_with_config(child: Child, config: Config) -> Result<Self, Error> {
        let stream = ChildStream::new(child)?;
        refuse(&config, "a monitor on a child's standard input and output")?;
        Ok(SocketMonitor::with_config(stream, config))
    }

    /// A monitor over `fd`, a connected unix or TCP socket: inherited, or one end of a pair whose other end QEMU has
    /// (`-chardev socket,fd=N`). The handshake follows on first use.
    ///
    /// The socket is set to non-blocking, for all who have a descriptor of it.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] where it is no such socket; [`Error::Unsupported`] with [`Config::reconnect`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O enabled, as all sockets of tokio.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        SocketMonitor::from_fd_with_config(fd, Config::new())
    }

    /// As [`SocketMonitor::from_fd`], with settings.
    ///
    /// # Errors
    ///
    /// Those of [`SocketMonitor::from_fd`].
    ///
    /// # Panics
    ///
    /// As [`SocketMonitor::from_fd`].
    pub fn from_fd_with_config(fd: OwnedFd, config: Config) -> Result<Self, Error> {
        refuse(&config, "a monitor over a descriptor")?;
        Ok(SocketMonitor::over(dial::from_fd(fd)?, config, None))
    }

    /// What the QEMU said first that is there now: its version and the capabilities it offers. Connects where nobody has, and
    /// waits while a lost connection is made again, as long as a call does.
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::connect`]; [`Error::Unsupported`] with [`Handshake::None`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does no harm.
    pub async fn greeting(&self) -> Result<Greeting, Error> {
        if self.kept.config.handshake == Handshake::None {
            let what = "a greeting: this monitor was told that there is none";
            return Err(Error::Unsupported(what.to_owned()));
        }
        // Every other handshake begins with one.
        let session = self.session().await?;
        session.greeting().cloned().ok_or(Error::Closed)
    }

    /// What the monitor is doing now, and from now on. It says [`Connected`](ConnectionState::Connected) once commands can
    /// be sent, and [`Closed`](ConnectionState::Closed) when everybody has been told of the end. Connecting begins with the
    /// first use, not by this.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.kept.outlet.state.subscribe()
    }

    /// Waits until the monitor is over, and says why: for ever where nobody uses it or ends it. A connection that is lost
    /// and made again ([`Config::reconnect`]) is not over. Where the handshake failed, the cause is
    /// [`EndCause::UserClosed`] unless the peer ended it: the error of [`connect`](Monitor::connect) says more.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    pub async fn closed(&self) -> Arc<EndCause> {
        self.kept.outlet.closed().await
    }

    /// The line, opened where this is the first use.
    async fn line(&self) -> Result<&Arc<Line>, Error> {
        self.link
            .session(|stream| {
                let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
                Line::open(stream, self.kept.clone(), way.take())
            })
            .await
    }

    /// The line, connected within `own` where the call has such a deadline.
    async fn line_within(&self, own: Option<Deadline>) -> Result<&Arc<Line>, Error> {
        let own = own.flatten();
        tokio::select! {
            biased;
            line = self.line() => line,
            () = sleep_until(own) => Err(silent(Phase::Handshake, own)),
        }
    }

    /// The present session, waited for as long as a call may take where it is made again.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        let line = self.line().await?;
        line.session(deadline(self.kept.config.call_timeout)).await
    }

    async fn run_command(&self, text: &[u8], options: RunOptions<'_>) -> Result<Bytes, Error> {
        let own = options.timeout.map(deadline);
        let command = RawCommand::parse(text)?;
        self.check(&command, &options)?;
        let user_id = command.user_id();
        let mut call = self.kept.ids.encode(&command)?;
        if !options.files.is_empty() {
            let files = duplicate(options.files)?;
            let ride = Ride::First;
            call.files = Some(Files::new(files, ride));
        }
        let line = match self.link.opened() {
            Some(_) => self.line().await?,
            // Boxed, for it is rare, and every command's future would have room for it.
            None => Box::pin(self.line_within(own)).await?,
        };
        let deadline = own.unwrap_or_else(|| call_deadline(&call, self.kept.config.call_timeout));
        let call_options = call_options(&call, deadline);
        let (session, slot) = line.admit(&call_options).await?;
        if call.ahead && !session.oob() {
            refuse_oob(&command)?;
        }
        let reply = session.call(slot, call, &call_options).await?;
        let reply = finish(reply, user_id, text)?;
        session.has_run(text);
        Ok(reply)
    }

    /// Refuses what cannot be sent, before there is a connection.
    fn check(&self, command: &RawCommand<'_>, options: &RunOptions<'_>) -> Result<(), Error> {
        if !self.kept.config.oob {
            refuse_oob(command)?;
        }
        let what = match options.files.len() {
            0 => return Ok(()),
            _ if !self.link.passes_files() => "file descriptors on a stream that is no unix socket",
            _ if command.is_oob() => "file descriptors with an out-of-band command",
            1 => return Ok(()),
            _ => "more than one file descriptor: QEMU keeps the first that comes with a command",
        };
        Err(Error::Unsupported(what.to_owned()))
    }

    async fn subscribe(&self) -> Result<EventStream, Error> {
        let line = self.line().await?;
        Ok(EventStream::new(SocketEvents::new(line.clone())))
    }

    async fn subscribe_with(&self, options: EventOptions) -> Result<EventStream, Error> {
        let connected_before = self.link.opened().is_some();
        let line = self.line().await?.clone();
        let events = SocketEvents::with_options(line, &options, connected_before);
        // The queue knows names only; predicates are asked here.
        Ok(EventStream::new(events).filtered(options.filter))
    }

    async fn end(&self) -> Result<(), Error> {
        self.kept.outlet.leave();
        match self.link.close() {
            Some(line) => line.close().await,
            None => self.kept.outlet.end(&Arc::new(EndCause::UserClosed)),
        }
        Ok(())
    }
}

impl Drop for SocketMonitor {
    fn drop(&mut self) {
        self.kept.outlet.leave();
    }
}

impl Monitor for SocketMonitor {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { self.session().await.map(drop) })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(self.end())
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_command(command, RunOptions::new()))
    }

    fn run_with<'a>(
        &'a self,
        command: &'a [u8],
        options: RunOptions<'a>,
    ) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_command(command, options))
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        Box::pin(self.subscribe())
    }

    fn events_with(&self, options: EventOptions) -> MonitorFuture<'_, EventStream> {
        Box::pin(self.subscribe_with(options))
    }

    fn schema_cell(&self) -> Option<&SchemaCell> {
        Some(&self.kept.schema)
    }
}

impl fmt::Debug for SocketMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketMonitor")
            .field("link", &self.link)
            .finish()
    }
}
