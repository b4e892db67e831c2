//! The monitor of a domain through libvirt's own C library, which is opened at run time. May import anything below the
//! drivers.
//!
//! `ffi` is the fence around the library; `event_loop` runs its event loop, `lane` its calls, each on threads of their own, and
//! `callbacks` is what it calls; `connection` is one of its connections, `events` what comes by it, `end` why it ended.

mod callbacks;
pub(crate) mod connection;
mod end;
mod event_loop;
mod events;
mod ffi;
mod lane;

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::{duplicate, finish, finish_agent, refuse_oob};
use crate::config::Config;
use crate::connection::deadline;
use crate::error::{Error, Phase};
use crate::libvirt::DomainKey;
use crate::monitor::{
    AgentTimeout, EventOptions, EventStream, Monitor, MonitorFuture, RunOptions, SchemaCell,
};
use crate::objects::Domain;
use crate::protocol::remote::STRING_MAX;
use crate::qmp::{CommandError, EventFilter, RawCommand};
use crate::queue::QueueOptions;
use connection::{Connection, DomainRef, Of, c_string};
use events::{Arrival, Events};
use lane::{Lane, Wait};

/// The QEMU monitor of one domain, through libvirt's C library (feature `libvirt-c`).
///
/// ```no_run
/// # async fn example() -> Result<(), libvirt_qmp::Error> {
/// use libvirt_qmp::{LibvirtC, MonitorExt};
///
/// let monitor = LibvirtC::new("qemu:///system", "stage-lb-1");
/// println!("QEMU {}", monitor.version().await?);
/// # Ok(()) }
/// ```
///
/// It reaches whatever the library reaches: every transport, authentication without questions, and a daemon that the library
/// starts itself. `libvirt.so.0` and `libvirt-qemu.so.0` are opened by the first monitor that connects, not linked with; where
/// they are missing, that is [`Error::Unsupported`]. Nothing ever asks on the terminal: a connection whose authentication needs
/// an answer fails, and ssh is told `no_tty=1` unless the URI says otherwise.
///
/// Each monitor has a connection of its own, and a second one for the events of all domains, where those are asked for: a
/// connection of libvirt's that has registered for one domain is told of no other. Its domain is looked up once. Commands run one at a time, in the order of their
/// calls, whatever [`Config::max_in_flight`] says; a command and a reply are at most 4 MiB long. One file descriptor can go with
/// a command, where libvirt is 8.2 or later. libvirt marks a domain as tainted (`custom-monitor`) on its first command.
///
/// # Threads
///
/// The library's calls block, so each connection has two threads for them, and a third once the guest agent is asked. They
/// belong to no runtime, and a runtime that shuts down does not wait for them. libvirt has no way to give up a call: one that is
/// stuck, as in a QEMU that does not answer, keeps its thread and the connection until it is answered or the daemon goes, also
/// after a timeout or [`disconnect`](Monitor::disconnect), which wait for it no longer than they say.
///
/// Events come by libvirt's event loop, on one more thread, which runs while there are connections. libvirt has one event loop for
/// the whole process. It is registered with the first connection, and so is a function that keeps libvirt from
/// printing its errors; for programs that use libvirt by themselves too there is [`LibvirtC::use_existing_loop`].
pub struct LibvirtC {
    uri: String,
    key: DomainKey,
    config: Config,
    state: Mutex<State>,
    /// The connection for the events of all domains.
    all: Mutex<State>,
    /// The thread for monitor commands, once the domain is known.
    commands: OnceCell<Lane<Arc<DomainRef>>>,
    /// The thread for commands of the guest agent, once there was one.
    agent: OnceCell<Lane<Arc<DomainRef>>>,
    schema: SchemaCell,
}

enum State {
    Unused,
    /// Open, or being opened, or failed.
    Used(Arc<Connection>),
    Closed,
}

impl LibvirtC {
    /// A monitor for `domain` (a name, or a UUID) at `uri`, such as `qemu:///system` or `qemu+ssh://host/system`. Nothing is
    /// opened yet.
    pub fn new(uri: impl Into<String>, domain: impl Into<DomainKey>) -> Self {
        LibvirtC::with_config(uri, domain, Config::new())
    }

    /// As [`LibvirtC::new`], with settings. [`Config::uri`] means nothing here, and [`Config::keepalive`] is rounded up to whole
    /// seconds. With [`Config::reconnect`], which libvirt's library cannot do, nothing is opened.
    pub fn with_config(
        uri: impl Into<String>,
        domain: impl Into<DomainKey>,
        config: Config,
    ) -> Self {
        LibvirtC {
            uri: uri.into(),
            key: domain.into(),
            config,
            state: Mutex::new(State::Unused),
            all: Mutex::new(State::Unused),
            commands: OnceCell::new(),
            agent: OnceCell::new(),
            schema: SchemaCell::new(),
        }
    }

    /// Says, for all of the process, that the program has registered an event loop with libvirt by itself
    /// (`virEventRegisterImpl` or `virEventRegisterDefaultImpl`), and runs it: events and keepalive are then its to drive. The
    /// program's error function stays too.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] after the first connection was begun: libvirt takes one event loop, and keeps it.
    pub fn use_existing_loop() -> Result<(), Error> {
        event_loop::use_existing()
    }

    /// Subscribes to the monitor events of all domains of the hypervisor, those included that are started or defined later: every
    /// one from this moment on, in order. [`Event::domain`](crate::Event) says whose it is. The monitor's own domain is not looked
    /// up, and need not exist. libvirt is asked once (`virConnectDomainQemuMonitorEventRegister` without a domain), on a connection
    /// for this alone, which [`disconnect`](Monitor::disconnect) closes too.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), libvirt_qmp::Error> {
    /// use futures_util::StreamExt;
    /// use libvirt_qmp::{EventOptions, LibvirtC};
    ///
    /// let host = LibvirtC::new("qemu:///system", "");
    /// let mut events = host.all_monitor_events(EventOptions::default()).await?;
    /// while let Some(event) = events.next().await {
    ///     let event = event?;
    ///     if let Some(domain) = &event.domain {
    ///         println!("{} {}", domain.name, event.name);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::events`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or the stream, unsubscribes.
    pub async fn all_monitor_events(&self, options: EventOptions) -> Result<EventStream, Error> {
        self.subscribe(Of::All, options).await
    }

    /// All domains at `uri`, active or not, over a connection for this alone.
    pub(crate) async fn domains(uri: &str, config: &Config) -> Result<Vec<Domain>, Error> {
        let connection = Connection::open(uri, config)?;
        let domains = connection.domains().await;
        connection.close().await;
        domains
    }

    /// A connection, open.
    async fn connection(&self, of: Of) -> Result<Arc<Connection>, Error> {
        let connection = self.start(of)?;
        connection.opened().await?;
        Ok(connection)
    }

    /// A connection, begun where this is the first use.
    fn start(&self, of: Of) -> Result<Arc<Connection>, Error> {
        let mut state = self.lock(of);
        match &*state {
            State::Unused => {
                let connection = Arc::new(Connection::open(&self.uri, &self.config)?);
                *state = State::Used(connection.clone());
                Ok(connection)
            }
            State::Used(connection) => Ok(connection.clone()),
            State::Closed => Err(Error::Closed),
        }
    }

    /// The connection and the thread for monitor commands, made ready where this is the first use.
    async fn make_ready(&self) -> Result<(Arc<Connection>, &Lane<Arc<DomainRef>>), Error> {
        let connection = self.connection(Of::Domain).await?;
        let lookup = || connection.lookup(self.key.clone());
        let commands = self.commands.get_or_try_init(lookup).await?;
        Ok((connection, commands))
    }

    async fn run_command(
        &self,
        text: &[u8],
        timeout: Option<Duration>,
        file: Option<OwnedFd>,
    ) -> Result<Bytes, Error> {
        let command = RawCommand::parse(text)?;
        refuse_oob(&command)?;
        let sent = checked_text(&command.without_id())?;
        let (_, commands) = self.make_ready().await?;
        let wait = Wait {
            phase: Phase::Reply,
            deadline: deadline(timeout),
        };
        let run = move |domain: &mut Arc<DomainRef>| {
            let Some(file) = file else {
                return domain.call(|dom| dom.monitor_command(&sent));
            };
            let reply = domain.call(|dom| dom.monitor_command_with_file(&sent, file.as_fd()))?;
            reply.ok_or_else(|| {
                let what = "this libvirt passes no file descriptors: it is older than 8.2";
                Error::Unsupported(what.to_owned())
            })
        };
        let reply = commands.call(wait, run).await?;
        finish(reply, command.user_id(), text)
    }

    async fn run_agent(&self, text: &[u8], timeout: AgentTimeout) -> Result<Bytes, Error> {
        let command = RawCommand::parse(text)?;
        refuse_oob(&command)?;
        let sent = checked_text(&command.without_id())?;
        let (connection, _) = self.make_ready().await?;
        let agent = self.agent.get_or_try_init(|| connection.agent()).await?;
        let limit = self.config.call_timeout;
        let limit = limit.map(|limit| limit.saturating_add(timeout.allowance()));
        let wait = Wait {
            phase: Phase::Reply,
            deadline: deadline(limit),
        };
        let run = move |domain: &mut Arc<DomainRef>| {
            domain.call(|dom| dom.agent_command(&sent, timeout.to_wire()))
        };
        let reply = agent.call(wait, run).await?;
        finish_agent(reply, command.user_id(), text)
    }

    async fn subscribe(&self, of: Of, options: EventOptions) -> Result<EventStream, Error> {
        let EventOptions {
            filter,
            queue,
            overflow,
            // Nothing is kept for a first stream here: every one begins now.
            from_now: _,
        } = options;
        let connection = match of {
            Of::Domain => self.make_ready().await?.0,
            Of::All => self.connection(Of::All).await?,
        };
        let limit = queue.unwrap_or(self.config.event_queue);
        // One that could not be decoded is for everybody.
        let may_match = |filter: &EventFilter, arrival: &Arrival| {
            arrival
                .as_ref()
                .map_or(true, |event| filter.may_match(&event.name))
        };
        let queue = QueueOptions::filtered(limit, overflow, &filter, may_match);
        let subscription = connection.subscribe(of, queue).await?;
        Ok(EventStream::new(Events::new(subscription, connection)).filtered(filter))
    }

    async fn end(&self) -> Result<(), Error> {
        let [domain, all] = [Of::Domain, Of::All].map(|of| async move {
            let state = std::mem::replace(&mut *self.lock(of), State::Closed);
            if let State::Used(connection) = state {
                connection.close().await;
            }
        });
        tokio::join!(domain, all);
        Ok(())
    }

    fn lock(&self, of: Of) -> MutexGuard<'_, State> {
        let state = match of {
            Of::Domain => &self.state,
            Of::All => &self.all,
        };
        // Nothing panics under this lock.
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command for C. Refuses what cannot be sent, whoever the domain is.
fn checked_text(text: &[u8]) -> Result<CString, Error> {
    let (length, limit) = (text.len(), STRING_MAX as usize);
    if length > limit {
        return Err(CommandError::TooLong { length, limit }.into());
    }
    // It was checked when it was parsed, but not for the compiler.
    let text = std::str::from_utf8(text).map_err(|error| CommandError::NotUtf8 {
        offset: error.valid_up_to(),
    })?;
    c_string("command", text)
}

/// A copy of the descriptor to pass: the caller's need not outlive the call's future, and the call itself may.
fn copied_file(options: &RunOptions<'_>) -> Result<Option<OwnedFd>, Error> {
    match options.files {
        [] => Ok(None),
        [_] => Ok(duplicate(options.files)?.pop()),
        _ => {
            let what = "libvirt passes one file descriptor with a command, not more";
            Err(Error::Unsupported(what.to_owned()))
        }
    }
}

impl Monitor for LibvirtC {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { self.make_ready().await.map(|_| ()) })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(self.end())
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        self.run_with(command, RunOptions::new())
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        self.events_with(EventOptions::default())
    }

    fn run_with<'a>(
        &'a self,
        command: &'a [u8],
        options: RunOptions<'a>,
    ) -> MonitorFuture<'a, Bytes> {
        Box::pin(async move {
            let file = copied_file(&options)?;
            let timeout = options.timeout.unwrap_or(self.config.call_timeout);
            self.run_command(command, timeout, file).await
        })
    }

    fn events_with(&self, options: EventOptions) -> MonitorFuture<'_, EventStream> {
        Box::pin(self.subscribe(Of::Domain, options))
    }

    fn agent<'a>(&'a self, command: &'a [u8], timeout: AgentTimeout) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_agent(command, timeout))
    }

    fn schema_cell(&self) -> Option<&SchemaCell> {
        Some(&self.schema)
    }
}

impl fmt::Debug for LibvirtC {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.lock(Of::Domain) {
            State::Unused => "not connected",
            State::Used(_) => "connected or connecting",
            State::Closed => "closed",
        };
        f.debug_struct("LibvirtC")
            .field("domain", &self.key)
            .field("connection", &state)
            .finish_non_exhaustive()
    }
}
