//! A monitor that is held to rules: which commands may pass, one at a time, and never the same one twice. Imports monitor, qmp
//! and error.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use crate::error::{EndCause, Error, Phase};
use crate::monitor::{
    AgentTimeout, EventOptions, EventStream, Monitor, MonitorFuture, RunOptions, SchemaCell,
};
use crate::qmp::{CommandError, RawCommand};

/// Keys that are remembered at the same time.
const MOST_KEYS: usize = 1024;

/// Bytes of commands and replies that are remembered; after that no new key is taken until some are forgotten.
const MOST_BYTES: usize = 64 << 20;

/// A [`Monitor`] around another one, for programs that must not be able to do everything, or not twice.
///
/// ```no_run
/// # async fn example(monitor: libvirt_qmp::SocketMonitor) -> Result<(), libvirt_qmp::Error> {
/// use std::time::Duration;
/// use libvirt_qmp::{Guard, Monitor};
///
/// let monitor = Guard::new(monitor).allow(["query-*", "system_reset"]).exclusive();
/// assert!(monitor.run(br#"{"execute":"quit"}"#).await.is_err());
/// // However often this is called within the minute, the guest is reset once.
/// let reset = br#"{"execute":"system_reset"}"#;
/// monitor.run_once("reset for ticket 17", Duration::from_secs(60), reset).await?;
/// # Ok(()) }
/// ```
///
/// What helpers such as [`WaitExt`](crate::WaitExt) ask QEMU are commands like all others: they must be allowed too. Nothing
/// here ever runs a command again by itself.
pub struct Guard<M> {
    inner: Arc<M>,
    /// None where everything may pass.
    allowed: Option<Vec<String>>,
    turn: Option<Semaphore>,
    answered: Arc<Mutex<Answered>>,
}

/// What was run under which key.
#[derive(Default)]
struct Answered {
    entries: HashMap<String, Entry>,
    bytes: usize,
}

struct Entry {
    command: Vec<u8>,
    answer: watch::Receiver<Option<Result<Bytes, Error>>>,
    /// Bytes that it was counted with.
    bytes: usize,
    /// When it is forgotten; none while there is no answer.
    until: Option<Instant>,
}

impl<M: Monitor> Guard<M> {
    /// Around `monitor`, with no rule yet.
    pub fn new(monitor: M) -> Self {
        Guard {
            inner: Arc::new(monitor),
            allowed: None,
            turn: None,
            answered: Arc::default(),
        }
    }

    /// Lets only these commands pass, of QEMU and of the guest agent, and those of earlier calls of this: by their name, or by
    /// its beginning (`query-*`). Any other is [`CommandError::NotAllowed`], and nothing is sent.
    ///
    /// It goes by the name alone. With `human-monitor-command` everything passes that the human monitor can do, and with
    /// `transaction` each of its actions.
    pub fn allow<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let allowed = self.allowed.get_or_insert_default();
        allowed.extend(names.into_iter().map(Into::into));
        self
    }

    /// Runs one command at a time, in the order of the calls, also where the monitor could send some ahead. Those that wait
    /// do so within their own timeout, where they have one ([`RunOptions::timeout`]). Out-of-band commands wait for nothing.
    /// One whose caller has gone may still run while the next does.
    pub fn exclusive(mut self) -> Self {
        self.turn.get_or_insert_with(|| Semaphore::new(1));
        self
    }

    /// The monitor itself, without the rules.
    pub fn get_ref(&self) -> &M {
        &self.inner
    }

    fn check(&self, name: &str) -> Result<(), Error> {
        let is_named = |rule: &String| match rule.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == rule,
        };
        match &self.allowed {
            Some(allowed) if !allowed.iter().any(is_named) => Err(CommandError::NotAllowed {
                command: name.to_owned(),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// The right to run a command, and what is left of its timeout.
    async fn turn<'a>(
        &'a self,
        command: &RawCommand<'_>,
        options: RunOptions<'a>,
    ) -> Result<(Option<SemaphorePermit<'a>>, RunOptions<'a>), Error> {
        let turn = match &self.turn {
            Some(turn) if !command.is_oob() => turn.acquire(),
            _ => return Ok((None, options)),
        };
        // It is never closed.
        let closed = |_| Error::Closed;
        let Some(Some(after)) = options.own_timeout() else {
            return Ok((Some(turn.await.map_err(closed)?), options));
        };
        let start = Instant::now();
        match tokio::time::timeout(after, turn).await {
            Ok(permit) => {
                let left = after.saturating_sub(start.elapsed());
                Ok((Some(permit.map_err(closed)?), options.timeout(left)))
            }
            Err(_) => Err(Error::Timeout {
                phase: Phase::Queue,
                after,
                maybe_executed: false,
            }),
        }
    }

    async fn run_command(&self, text: &[u8], options: RunOptions<'_>) -> Result<Bytes, Error> {
        let command = RawCommand::parse(text)?;
        self.check(&command.name())?;
        let (_turn, options) = self.turn(&command, options).await?;
        self.inner.run_with(text, options).await
    }
}

impl<M: Monitor + 'static> Guard<M> {
    /// Runs a command as [`Monitor::run`], unless one was run under the same `key`: then its outcome is given, for `ttl` after it
    /// came, and while it has not, waited for. What failed and was certainly not executed is forgotten at once; an error of
    /// QEMU's is an outcome, and so is a failure of which nobody knows ([`Error::maybe_executed`]).
    ///
    /// It does not wait for the turn of [`exclusive`](Guard::exclusive).
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::run`]; [`Error::Unsupported`] where the key stands for another command, or where too much is
    /// remembered (1024 keys, 64 MiB).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting: the command runs, once, in a task of its own.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, which that task needs.
    pub async fn run_once(&self, key: &str, ttl: Duration, command: &[u8]) -> Result<Bytes, Error> {
        self.check(&RawCommand::parse(command)?.name())?;
        let mut answer = self.answer(key, ttl, command)?;
        let answered = answer.wait_for(Option::is_some).await;
        match answered.map(|answer| answer.clone()) {
            Ok(Some(outcome)) => outcome,
            // The runtime has dropped the task.
            _ => Err(Error::disconnected(Arc::new(EndCause::RuntimeGone), true)),
        }
    }

    fn answer(
        &self,
        key: &str,
        ttl: Duration,
        command: &[u8],
    ) -> Result<watch::Receiver<Option<Result<Bytes, Error>>>, Error> {
        let mut answered = lock(&self.answered);
        answered.forget_old();
        if let Some(entry) = answered.entries.get(key) {
            if entry.command != command {
                let what = format!("another command under the key `{key}`");
                return Err(Error::Unsupported(what));
            }
            return Ok(entry.answer.clone());
        }
        if answered.entries.len() >= MOST_KEYS || answered.bytes >= MOST_BYTES {
            let what = "more commands that are remembered: too many are";
            return Err(Error::Unsupported(what.to_owned()));
        }
        let (sender, answer) = watch::channel(None);
        let entry = Entry {
            command: command.to_vec(),
            answer: answer.clone(),
            bytes: 0,
            until: None,
        };
        answered.entries.insert(key.to_owned(), entry);
        answered.count(key, key.len() + command.len());
        drop(answered);
        let (inner, remembered) = (self.inner.clone(), self.answered.clone());
        let (key, command) = (key.to_owned(), command.to_vec());
        tokio::spawn(async move {
            let outcome = inner.run(&command).await;
            lock(&remembered).keep(&key, ttl, &outcome);
            sender.send_replace(Some(outcome));
        });
        Ok(answer)
    }
}

impl Answered {
    fn count(&mut self, key: &str, bytes: usize) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.bytes += bytes;
            self.bytes += bytes;
        }
    }

    fn keep(&mut self, key: &str, ttl: Duration, outcome: &Result<Bytes, Error>) {
        let unsent = |error: &Error| !error.maybe_executed() && !matches!(error, Error::Qmp(_));
        match outcome {
            Err(error) if unsent(error) => self.forget(key),
            Ok(reply) => self.count(key, reply.len()),
            Err(Error::Qmp(error)) => self.count(key, error.raw.len()),
            Err(_) => {}
        }
        if let Some(entry) = self.entries.get_mut(key) {
            let now = Instant::now();
            // Where that is out of reach, a century is as good.
            let century = Duration::from_secs(100 * 365 * 86400);
            entry.until = Some(now.checked_add(ttl).unwrap_or(now + century));
        }
    }

    fn forget_old(&mut self) {
        let now = Instant::now();
        let mut freed = 0;
        self.entries.retain(|_, entry| {
            // One whose task was dropped with its runtime will have no answer.
            let is_lost = entry.answer.borrow().is_none() && entry.answer.has_changed().is_err();
            let keep = !is_lost && entry.until.is_none_or(|until| until > now);
            freed += if keep { 0 } else { entry.bytes };
            keep
        });
        self.bytes -= freed;
    }

    fn forget(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }
}

fn lock(answered: &Mutex<Answered>) -> MutexGuard<'_, Answered> {
    // Nothing panics under this lock.
    answered.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Monitor> Monitor for Guard<M> {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        self.inner.connect()
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        self.inner.disconnect()
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
        self.inner.events()
    }

    fn events_with(&self, options: EventOptions) -> MonitorFuture<'_, EventStream> {
        self.inner.events_with(options)
    }

    fn agent<'a>(&'a self, command: &'a [u8], timeout: AgentTimeout) -> MonitorFuture<'a, Bytes> {
        Box::pin(async move {
            self.check(&RawCommand::parse(command)?.name())?;
            self.inner.agent(command, timeout).await
        })
    }

    fn schema_cell(&self) -> Option<&SchemaCell> {
        self.inner.schema_cell()
    }
}

impl<M: fmt::Debug> fmt::Debug for Guard<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("monitor", &self.inner)
            .field("allowed", &self.allowed)
            .field("exclusive", &self.turn.is_some())
            .finish()
    }
}
