//! The guest agent on its own socket: what its user sees. How one command at a time goes over the stream is in `link`, how
//! its place in the stream is found in `sync`. May import anything below the drivers.

mod link;
mod sync;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::ToSocketAddrs;
use tokio::sync::{Mutex, watch};

use super::{finish_agent, refuse_oob};
use crate::config::Config;
use crate::connection::{Deadline, deadline, sleep_until};
use crate::dial::{tcp, unix};
use crate::error::{EndCause, Error, Phase};
use crate::monitor::RunOptions;
use crate::qmp::{self, Command, RawCommand};
use crate::reconnect::refuse;
use crate::transport::Transport;
use link::{Failure, Link};

/// The QEMU guest agent on a socket of its own, or any stream that leads to one: the host's end of a channel
/// (`-chardev socket` with `-device virtserialport`), or `qemu-ga -m unix-listen`.
///
/// Through libvirt the agent is reached by [`Monitor::agent`](crate::Monitor::agent).
///
/// ```no_run
/// # async fn example() -> Result<(), libvirt_qmp::Error> {
/// use libvirt_qmp::{Command, GuestAgent};
///
/// let agent = GuestAgent::unix("/run/vm-1.agent").await?;
/// agent.ping().await?;
/// let nanoseconds: i64 = agent.execute(Command::new("guest-get-time")).await?;
/// # let _ = nanoseconds;
/// # Ok(()) }
/// ```
///
/// The agent matches no replies to commands, and does not notice when another client takes its channel over. So commands go
/// one at a time, in the order of their calls, and before the first one the two synchronize (`guest-sync-delimited`): what
/// the agent still had to say to anybody else is passed over, up to 128 MiB of it. The same is done again after a command
/// whose reply was not awaited to its end, because its deadline passed or its future was dropped: a late reply is never taken
/// for another command's.
///
/// Nobody reads while no command runs, so the end of a connection is noticed by the next command. A `qemu-ga` that listens on
/// a socket by itself, without `--retry-path`, ends where a client leaves without having read a late reply.
pub struct GuestAgent {
    /// The link, or why there is none any more.
    link: Mutex<Result<Link, Arc<EndCause>>>,
    config: Config,
    closing: watch::Sender<bool>,
}

/// What a command is answered by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Reply,
    /// Nothing, unless it fails.
    Silence,
}

/// Why a command got no answer.
enum Trouble {
    Error(Error),
    Ended { cause: EndCause, sent: bool },
}

impl GuestAgent {
    /// The agent at the other end of `conn`, a connected stream. Nothing is read or sent yet.
    pub fn new<T>(conn: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        GuestAgent::with_config(conn, Config::new())
    }

    /// As [`GuestAgent::new`], with settings, of which [`Config::call_timeout`] alone means something here.
    pub fn with_config<T>(conn: T, config: Config) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        GuestAgent::over(Transport::new(conn), config)
    }

    /// Connects to the unix socket at `path`.
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
        let config = Config::new();
        let stream = unix(path.as_ref(), deadline(config.dial_within())).await?;
        Ok(GuestAgent::over(stream, config))
    }

    /// Connects to `addr`.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason, or after the default [`Config::connect_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn tcp(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self, Error> {
        let config = Config::new();
        let target = format!("{addr:?}");
        let stream = tcp(target, addr, deadline(config.dial_within())).await?;
        Ok(GuestAgent::over(stream, config))
    }

    fn over(stream: Transport, config: Config) -> Self {
        GuestAgent {
            link: Mutex::new(Ok(Link::new(stream, config.max_message))),
            config,
            closing: watch::Sender::new(false),
        }
    }

    /// Runs one command, given as JSON, and returns the whole reply object as the agent said it, but with the command's own
    /// `id`, or none.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] where the command is refused before anything is sent; [`Error::Qmp`] where the agent answers with
    /// an error; [`Error::Timeout`] names the phase, of which [`Phase::Sync`] is the first that the agent has part in;
    /// [`Error::Decode`] where what came is no reply; [`Error::Disconnected`], [`Error::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before the command was sent sends nothing of it. After that the command may run, and its reply
    /// is discarded.
    pub async fn run(&self, command: &[u8]) -> Result<Bytes, Error> {
        self.run_with(command, RunOptions::new()).await
    }

    /// As [`GuestAgent::run`], with a deadline of its own, which holds from the call to the reply.
    ///
    /// # Errors
    ///
    /// Those of [`GuestAgent::run`], and [`Error::Unsupported`] for file descriptors.
    ///
    /// # Cancel safety
    ///
    /// That of [`GuestAgent::run`].
    pub async fn run_with(&self, command: &[u8], options: RunOptions<'_>) -> Result<Bytes, Error> {
        self.exchange(command, options, Answer::Reply).await
    }

    /// Runs a command that is not answered where it succeeds: `guest-shutdown`, `guest-suspend-disk`, `guest-suspend-ram`,
    /// `guest-suspend-hybrid`; those of `guest-info` with `success-response` false.
    ///
    /// It is done when the agent answers the next thing it is asked (`guest-sync-delimited`, sent right behind), or ends the
    /// connection, as an agent does in a guest that shuts down.
    ///
    /// # Errors
    ///
    /// Those of [`GuestAgent::run_with`]. A guest that is suspended says nothing more, and one that is shut down may not
    /// either: [`Error::Timeout`] in [`Phase::Reply`] is then what success looks like, and [`Error::maybe_executed`] is
    /// true. [`RunOptions::timeout`] says how long to wait for an error.
    ///
    /// # Cancel safety
    ///
    /// That of [`GuestAgent::run`].
    pub async fn run_without_reply(
        &self,
        command: &[u8],
        options: RunOptions<'_>,
    ) -> Result<(), Error> {
        self.exchange(command, options, Answer::Silence)
            .await
            .map(|_| ())
    }

    /// Runs a command and decodes what it returns.
    ///
    /// # Errors
    ///
    /// Those of [`GuestAgent::run_with`], and [`Error::Decode`] where the value is not a `T`; the command has run then.
    ///
    /// # Cancel safety
    ///
    /// That of [`GuestAgent::run`].
    pub async fn execute<T: DeserializeOwned>(&self, command: Command) -> Result<T, Error> {
        let text = command.to_json()?;
        let files = command.files();
        let options = RunOptions {
            timeout: command.own_timeout(),
            files: &files,
        };
        let reply = self.run_with(&text, options).await?;
        qmp::return_value(&reply).map_err(|error| Error::json("return value", error))
    }

    /// Asks whether the agent is there (`guest-ping`).
    ///
    /// # Errors
    ///
    /// Those of [`GuestAgent::run`].
    ///
    /// # Cancel safety
    ///
    /// That of [`GuestAgent::run`].
    pub async fn ping(&self) -> Result<(), Error> {
        let _: IgnoredAny = self.execute(Command::new("guest-ping")).await?;
        Ok(())
    }

    /// Closes the stream. Commands in flight or later fail: [`Error::is_closed`]. Repeated calls do nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the stream open; calling again finishes it.
    pub async fn close(&self) {
        self.closing.send_replace(true);
        let mut link = self.link.lock().await;
        *link = Err(Arc::new(EndCause::UserClosed));
    }

    async fn exchange(
        &self,
        text: &[u8],
        options: RunOptions<'_>,
        answer: Answer,
    ) -> Result<Bytes, Error> {
        let command = RawCommand::parse(text)?;
        refuse_oob(&command)?;
        refuse(&self.config, "the guest agent on a socket of its own")?;
        if !options.files.is_empty() {
            let what = "the guest agent takes no file descriptors";
            return Err(Error::Unsupported(what.to_owned()));
        }
        let user_id = command.user_id();
        let mut call = command.without_id().into_owned();
        call.push(b'\n');
        let limit = deadline(options.timeout.unwrap_or(self.config.call_timeout));
        let queued = self.within(limit, Phase::Queue, async { Ok(self.link.lock().await) });
        let mut link = match queued.await {
            Ok(link) => link,
            // Nothing was sent and nothing has ended.
            Err(Trouble::Ended { .. }) => return Err(Error::Closed),
            Err(Trouble::Error(error)) => return Err(error),
        };
        if *self.closing.borrow() {
            return Err(Error::Closed);
        }
        let talked = match &mut *link {
            Ok(link) => self.talk(link, &call, limit, answer).await,
            Err(cause) => return Err(Error::disconnected(cause.clone(), false)),
        };
        let reply = match talked {
            Ok(reply) => reply,
            Err(Trouble::Error(error)) => return Err(error),
            Err(Trouble::Ended { cause, sent }) => {
                let cause = Arc::new(cause);
                // The stream closes now: nothing can be told from it any more.
                *link = Err(cause.clone());
                // The agent of a guest that shuts down does not say good-bye.
                let is_done = answer == Answer::Silence
                    && sent
                    && matches!(*cause, EndCause::PeerClosed | EndCause::Io(_));
                return match is_done {
                    true => Ok(Bytes::new()),
                    false => Err(Error::disconnected(cause, sent)),
                };
            }
        };
        drop(link);
        let Some(reply) = reply else {
            return Ok(Bytes::new());
        };
        finish_agent(reply, user_id, text)
    }

    /// Sends `call` over the link, which is synchronized before where it must be, and gives what it is answered by.
    async fn talk(
        &self,
        link: &mut Link,
        call: &[u8],
        limit: Deadline,
        answer: Answer,
    ) -> Result<Option<Bytes>, Trouble> {
        if !link.is_synced() {
            self.within(limit, Phase::Sync, link.synchronize()).await?;
        }
        match answer {
            Answer::Reply => {
                self.within(limit, Phase::Write, link.send(call)).await?;
                let reply = self.within(limit, Phase::Reply, link.reply()).await?;
                Ok(Some(reply))
            }
            Answer::Silence => {
                let question = sync::question();
                let calls = [call, &question.text].concat();
                self.within(limit, Phase::Write, link.send(&calls)).await?;
                self.within(limit, Phase::Reply, link.error_before(question.id))
                    .await
            }
        }
    }

    /// Does `work` until the deadline, or until somebody closes.
    async fn within<T>(
        &self,
        limit: Deadline,
        phase: Phase,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Trouble> {
        let sent = matches!(phase, Phase::Write | Phase::Reply);
        let mut closing = self.closing.subscribe();
        tokio::select! {
            biased;
            done = work => done.map_err(|failure| match failure {
                Failure::Ended(cause) => Trouble::Ended { cause, sent },
                Failure::Garbage(what) => Trouble::Error(Error::json("reply of the guest agent", what)),
            }),
            _ = closing.wait_for(|closing| *closing) => {
                Err(Trouble::Ended { cause: EndCause::UserClosed, sent })
            }
            () = sleep_until(limit) => Err(Trouble::Error(Error::Timeout {
                phase,
                after: limit.map(|(_, after)| after).unwrap_or_default(),
                maybe_executed: sent,
            })),
        }
    }
}

impl fmt::Debug for GuestAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.link.try_lock() {
            Ok(link) if link.is_ok() => "idle",
            Ok(_) => "ended",
            Err(_) => "busy",
        };
        f.debug_struct("GuestAgent")
            .field("link", &state)
            .finish_non_exhaustive()
    }
}
