//! The monitor of a domain through libvirt's own client program: what its user sees. The processes are in `process`, the one
//! that runs commands in `session`, the one that prints events in `events`. May import anything below the drivers.

mod events;
mod failure;
mod list;
mod lookup;
mod opener;
mod process;
mod session;
mod transcript;

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{duplicate, finish, finish_agent, refuse_oob};
use crate::config::Config;
use crate::connection::{CallOptions, Deadline, Limits, Steps, deadline, sleep_until, timed_out};
use crate::error::{Error, Phase};
use crate::inflight::Progress;
use crate::libvirt::DomainKey;
use crate::monitor::{
    AgentTimeout, EventOptions, EventStream, Monitor, MonitorFuture, RunOptions, SchemaCell,
};
use crate::objects::Domain;
use crate::protocol::remote::STRING_MAX;
use crate::qmp::{CommandError, EventDomain, RawCommand, Version};
use crate::queue::QueueOptions;
use events::{Entry, Source};
use lookup::LONGEST_ARGUMENT;
use opener::Opener;
use process::{Launcher, Output};
use session::{Session, grace};
use transcript::{Said, quoted_json, write_ascii};

/// What virsh is asked to do with a command of the monitor.
const MONITOR_COMMAND: &str = "qemu-monitor-command";

/// How long disconnecting waits for the processes to go.
const GONE: Duration = Duration::from_secs(5);

/// The QEMU monitor of one domain, through the program `virsh`, libvirt's own client. It reaches whatever virsh reaches:
/// `qemu+ssh://` too, with the user's keys and agent, but there is no terminal to ask for a password on.
///
/// ```no_run
/// # async fn example() -> Result<(), libvirt_qmp::Error> {
/// use libvirt_qmp::{MonitorExt, Virsh};
///
/// let monitor = Virsh::new("qemu+ssh://root@host/system", "stage-lb-1");
/// println!("QEMU {}", monitor.version().await?);
/// # Ok(()) }
/// ```
///
/// The domain is looked up once and then known by its UUID. libvirt marks a domain as tainted (`custom-monitor`) on its first
/// command.
///
/// # Processes
///
/// Connecting looks the domain up with a virsh of its own, and then starts the one that runs the commands, read from a pipe.
/// The first event stream starts one for events, the first command for the guest agent one for those, and a command
/// with a file descriptor has one for itself. No shell is involved, and no command is on a command line that others could
/// read, but one with a descriptor. The environment is inherited, less what would change what virsh says; the locale is C,
/// and the history of commands goes to a directory that is removed at the end.
///
/// All of them are ended and reaped when the monitor and its streams are gone, or by [`disconnect`](Monitor::disconnect):
/// they get up to half a second to end by themselves, or none while a command runs. If this program is killed, a virsh ends
/// when its input does, and the one for events with the next event.
///
/// # Commands
///
/// Commands run one at a time, in the order of their calls, whatever [`Config::max_in_flight`] says. A command is at most
/// 4 MiB long, as plain ASCII without blanks, and so is a reply. Each call gets 20 µs a byte on top of its deadline. After
/// a deadline has passed the virsh waits on for the late reply, which is discarded; the next command has its turn after that,
/// or fails in [`Phase::Queue`], without being sent.
///
/// One file descriptor can go with a command, of at most 128 KiB then; virsh 8.2 or later is needed.
///
/// # Events
///
/// [`events`](Monitor::events) returns when libvirt has confirmed the registration, so that no later event is missing. Events
/// and replies come on different ways: an event that a command has caused may come some milliseconds after its reply, and a
/// second stream may begin with events from just before it was asked for. The number of the domain in
/// [`EventDomain`](crate::EventDomain) is not known.
///
/// # Errors
///
/// virsh prints libvirt's message but not its code. The code is known by the words with which libvirt begins a message, so
/// [`Error::is_not_found`] and its like work; where there are none, the code is `VIR_ERR_INTERNAL_ERROR`. `domain` is always
/// that of QEMU's driver (10), and the extra texts are missing.
///
/// Connecting that failed may be tried again. A connection that was lost stays lost: virsh would connect again by itself, but
/// is ended before it does.
pub struct Virsh {
    launcher: Launcher,
    key: DomainKey,
    commands: Opener<Arc<Session>>,
    /// Commands for the guest agent may take long, and must not hold up the monitor's.
    agent: Opener<Arc<Session>>,
    events: Opener<Arc<Source>>,
    /// Those of all domains.
    all_events: Opener<Arc<Source>>,
    schema: SchemaCell,
}

fn launcher(uri: impl Into<String>, config: &Config) -> Launcher {
    Launcher {
        program: "virsh".into(),
        uri: uri.into(),
        config: config.clone(),
    }
}

impl Virsh {
    /// A monitor for `domain` (a name, or a UUID) on the hypervisor that virsh connects to by `uri`, such as
    /// `qemu:///system`. Nothing is started yet.
    pub fn new(uri: impl Into<String>, domain: impl Into<DomainKey>) -> Self {
        Virsh::with_config(uri, domain, Config::new())
    }

    /// As [`Virsh::new`], with settings. `uri` is the one given here; that of `config`, its handshake and the number of calls in
    /// flight mean nothing to virsh. Keepalive is virsh's own, in whole seconds. With [`Config::reconnect`], which virsh cannot do,
    /// nothing is started.
    pub fn with_config(
        uri: impl Into<String>,
        domain: impl Into<DomainKey>,
        config: Config,
    ) -> Self {
        Virsh {
            launcher: launcher(uri, &config),
            key: domain.into(),
            commands: Opener::new(),
            agent: Opener::new(),
            events: Opener::new(),
            all_events: Opener::new(),
            schema: SchemaCell::new(),
        }
    }

    /// Uses this program instead of the `virsh` that is found in `PATH`.
    pub fn program(mut self, program: impl AsRef<OsStr>) -> Self {
        self.launcher.program = program.as_ref().to_owned();
        self
    }

    /// Subscribes to the monitor events of all domains of the hypervisor, those included that are started or defined later: every
    /// one from this moment on, in order, by a virsh for this alone (`qemu-monitor-event` without a domain). The monitor's own
    /// domain is not looked up, and need not exist. The stream, and [`disconnect`](Monitor::disconnect), end as those of
    /// [`events`](Monitor::events) do.
    ///
    /// virsh prints whose an event is by its name alone: [`EventDomain::uuid`] is nil here, and the number is none.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), libvirt_qmp::Error> {
    /// use futures_util::StreamExt;
    /// use libvirt_qmp::{EventOptions, Virsh};
    ///
    /// let host = Virsh::new("qemu+ssh://host/system", "");
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
        self.stream(&self.all_events, None, options).await
    }

    /// All domains at `uri`, active or not, by a virsh for this alone.
    pub(crate) async fn domains(uri: &str, config: &Config) -> Result<Vec<Domain>, Error> {
        list::domains(&launcher(uri, config), deadline(config.call_timeout)).await
    }

    /// The hypervisor at `uri` by its name, its version, and that of its libvirt.
    pub(crate) async fn versions(
        uri: &str,
        config: &Config,
    ) -> Result<(String, Version, Version), Error> {
        list::versions(&launcher(uri, config), deadline(config.call_timeout)).await
    }

    /// The session for commands, opened where this is the first use.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.commands.opened()? {
            return Ok(session);
        }
        let open = || {
            let (launcher, key) = (self.launcher.clone(), self.key.clone());
            async move {
                let config = &launcher.config;
                let mut steps = Steps::new(config.connect_timeout);
                let deadline = steps.next(config.timeouts.lookup);
                let uuid = lookup::uuid_of(&launcher, &key, deadline).await?;
                Session::open(&launcher, uuid, steps.next(None)).await
            }
        };
        // Boxed, for it is rare and large, and every command's future would have room for it.
        Box::pin(self.commands.get(|_| true, open)).await
    }

    async fn agent_session(&self, session: &Session) -> Result<Arc<Session>, Error> {
        let open = || {
            let (launcher, uuid) = (self.launcher.clone(), session.domain().uuid);
            async move {
                let deadline = deadline(launcher.config.connect_timeout);
                Session::open(&launcher, uuid, deadline).await
            }
        };
        let is_usable = |session: &Arc<Session>| session.ended().is_none();
        Box::pin(self.agent.get(is_usable, open)).await
    }

    async fn run_command(&self, text: &[u8], options: RunOptions<'_>) -> Result<Bytes, Error> {
        let command = RawCommand::parse(text)?;
        refuse_oob(&command)?;
        let said = match *options.own_files() {
            [] => {
                let line = quoted(&command.without_id())?;
                let session = self.session().await?;
                let uuid = session.domain().uuid;
                let line = format!("{MONITOR_COMMAND} --domain {uuid} --cmd {line}");
                session.call(&line, self.deadline(&options, &line)).await?
            }
            [file] => self.run_with_file(&command, file, &options).await?,
            _ => {
                let what = "virsh passes one file descriptor with a command, not several";
                return Err(Error::Unsupported(what.to_owned()));
            }
        };
        finish(reply(said, MONITOR_COMMAND)?, command.user_id(), text)
    }

    /// Runs a command in a virsh of its own, which has the descriptor for its standard input: that passes on only what it was
    /// started with.
    async fn run_with_file(
        &self,
        command: &RawCommand<'_>,
        file: BorrowedFd<'_>,
        options: &RunOptions<'_>,
    ) -> Result<Said, Error> {
        let mut argument = String::new();
        write_ascii(utf8(&command.without_id())?, &mut argument);
        within(argument.len(), LONGEST_ARGUMENT)?;
        let stdin = duplicate(&[file])?.pop();
        let session = self.session().await?;
        let options = CallOptions {
            phase: Phase::Reply,
            deadline: self.deadline(options, &argument),
            limits: Limits::None,
        };
        let turn = tokio::select! {
            biased;
            cause = session.closed() => return Err(Error::disconnected(cause, false)),
            turn = session.turn().clone().acquire_owned() => turn.map_err(|_| Error::Closed)?,
            () = sleep_until(options.deadline) => return Err(timed_out(&options, Progress::Queued)),
        };
        let uuid = session.domain().uuid.to_string();
        #[rustfmt::skip]
        let arguments =
            [MONITOR_COMMAND, "--domain", &uuid, "--pass-fds", "0", "--cmd", &argument];
        let started = self.launcher.one_command(&arguments, stdin)?;
        // Dropping what waits for its output kills it.
        let output = tokio::select! {
            output = started.output() => output,
            cause = session.closed() => return Err(Error::disconnected(cause, true)),
            () = sleep_until(options.deadline) => return Err(timed_out(&options, Progress::Sent)),
        };
        drop(turn);
        let Output { stdout, stderr } = output.map_err(|error| Error::json("reply", error))?;
        if stdout.is_empty() {
            return Err(failure::of_connecting(
                &stderr,
                &self.launcher.uri,
                MONITOR_COMMAND,
            ));
        }
        Ok(Said {
            output: Some(stdout.into()),
            errors: stderr,
        })
    }

    async fn run_agent_command(&self, text: &[u8], timeout: AgentTimeout) -> Result<Bytes, Error> {
        const PROCEDURE: &str = "qemu-agent-command";
        let command = RawCommand::parse(text)?;
        refuse_oob(&command)?;
        let line = quoted(&command.without_id())?;
        let session = self.session().await?;
        if let Some(cause) = session.ended() {
            return Err(Error::disconnected(cause, false));
        }
        let uuid = session.domain().uuid;
        let how = match timeout {
            AgentTimeout::Block => " --block".to_owned(),
            AgentTimeout::Default => String::new(),
            AgentTimeout::NoWait => " --async".to_owned(),
            AgentTimeout::Seconds(seconds) => {
                let most = i32::MAX.unsigned_abs();
                format!(" --timeout {}", seconds.clamp(1, most))
            }
        };
        let line = format!("{PROCEDURE} --domain {uuid}{how} --cmd {line}");
        let agent = self.agent_session(&session).await?;
        let allowance = timeout.allowance().saturating_add(grace(&line));
        let limit = self.launcher.config.call_timeout;
        let limit = limit.map(|limit| limit.saturating_add(allowance));
        let reply = reply(agent.call(&line, deadline(limit)).await?, PROCEDURE)?;
        finish_agent(reply, command.user_id(), text)
    }

    async fn subscribe(&self, options: EventOptions) -> Result<EventStream, Error> {
        let session = self.session().await?;
        if let Some(cause) = session.ended() {
            return Err(Error::disconnected(cause, false));
        }
        let domain = Some(session.domain().clone());
        self.stream(&self.events, domain, options).await
    }

    /// A stream of what `opener` has, which is the events of `domain`, or of all.
    async fn stream(
        &self,
        opener: &Opener<Arc<Source>>,
        domain: Option<Arc<EventDomain>>,
        options: EventOptions,
    ) -> Result<EventStream, Error> {
        let open = || {
            let launcher = self.launcher.clone();
            async move {
                let deadline = deadline(launcher.config.subscribe_within());
                Source::open(&launcher, domain, deadline).await
            }
        };
        let source = opener.get(|source| !source.has_ended(), open).await?;
        let EventOptions {
            filter,
            queue,
            overflow,
            // Nothing is kept for a first stream here: every one begins now.
            from_now: _,
        } = options;
        let limit = queue.unwrap_or(self.launcher.config.event_queue);
        let queue = QueueOptions::filtered(limit, overflow, &filter, Entry::may_match);
        Ok(EventStream::new(source.subscribe(queue)).filtered(filter))
    }

    /// The deadline of a call: its own, or the configured one and what a long command needs on top.
    fn deadline(&self, options: &RunOptions<'_>, command: &str) -> Deadline {
        deadline(options.own_timeout().unwrap_or_else(|| {
            let timeout = self.launcher.config.call_timeout?;
            Some(timeout.saturating_add(grace(command)))
        }))
    }

    async fn end(&self) -> Result<(), Error> {
        let [agent, commands] = [&self.agent, &self.commands].map(|opener| async move {
            if let Some(session) = opener.close().await {
                session.close().await;
            }
        });
        let [events, all_events] = [&self.events, &self.all_events].map(|opener| async move {
            if let Some(source) = opener.close().await {
                source.close().await;
            }
        });
        let all = async { tokio::join!(agent, commands, events, all_events) };
        // What the system keeps from going, or belongs to a runtime that nobody runs, is not waited for.
        tokio::select! {
            _ = all => {}
            () = sleep_until(deadline(self.launcher.config.close_within(GONE))) => {}
        }
        Ok(())
    }
}

/// A command's text. It was checked when it was parsed, but not for the compiler.
fn utf8(text: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(text).map_err(|error| {
        CommandError::NotUtf8 {
            offset: error.valid_up_to(),
        }
        .into()
    })
}

/// A command's text as an argument on a line of virsh.
fn quoted(text: &[u8]) -> Result<String, Error> {
    let line = quoted_json(utf8(text)?);
    // Less its quotes it is what libvirt gets.
    within(line.len() - 2, STRING_MAX as usize)?;
    Ok(line)
}

fn within(length: usize, limit: usize) -> Result<(), Error> {
    match length > limit {
        true => Err(CommandError::TooLong { length, limit }.into()),
        false => Ok(()),
    }
}

/// The reply in what virsh has said, or the error.
fn reply(said: Said, procedure: &'static str) -> Result<Bytes, Error> {
    let output = said.output.unwrap_or_default();
    let output = output.slice_ref(output.trim_ascii());
    if output.is_empty() {
        return Err(failure::of_command(&said.errors, procedure));
    }
    // What follows takes it for JSON, and something that virsh has started may have printed here too.
    serde_json::from_slice::<&RawValue>(&output).map_err(|error| Error::json("reply", error))?;
    Ok(output)
}

impl Monitor for Virsh {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { self.session().await.map(|_| ()) })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(self.end())
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_command(command, RunOptions::new()))
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        Box::pin(self.subscribe(EventOptions::default()))
    }

    fn run_with<'a>(
        &'a self,
        command: &'a [u8],
        options: RunOptions<'a>,
    ) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_command(command, options))
    }

    fn events_with(&self, options: EventOptions) -> MonitorFuture<'_, EventStream> {
        Box::pin(self.subscribe(options))
    }

    fn agent<'a>(&'a self, command: &'a [u8], timeout: AgentTimeout) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_agent_command(command, timeout))
    }

    fn schema_cell(&self) -> Option<&SchemaCell> {
        Some(&self.schema)
    }
}

impl fmt::Debug for Virsh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Virsh")
            .field("launcher", &self.launcher)
            .field("domain", &self.key)
            .field("session", &self.commands.describe())
            .finish_non_exhaustive()
    }
}
