//! Connections that are made again after a loss.
//!
//! One task keeps such a connection. At a loss it has the next one opened, registers every live subscription there, and only
//! then hands it to the callers. Each connection has everything of its own but the subscriptions, so nothing of one can reach
//! the next. Callers wait outside: nothing of theirs is handed to a connection that is not open, and nothing is sent twice.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

use super::subscriptions::Subscriptions;
use super::{Client, Handle, Shared, StateSender, Way, subscriptions};
use crate::config::{Backoff, Config};
use crate::connection::{
    CallOptions, Limits, Steps, leaves_no_time, sleep_until, spawn, timed_out,
};
use crate::error::{EndCause, Error, Phase};
use crate::inflight::{Progress, Slot};
use crate::reconnect::{ConnectionState, Retries};
use crate::transport::Transport;

/// Connects and opens a session anew.
pub(crate) type Reopen = Box<dyn Fn(Restart) -> Reopening + Send + Sync>;

/// The connection, and what is left of the time for it.
pub(crate) type Reopening = Pin<Box<dyn Future<Output = Result<(Client, Steps), Error>> + Send>>;

/// What a connection that takes the place of another one is started with.
pub(crate) struct Restart {
    subscriptions: Arc<Subscriptions>,
}

impl Restart {
    /// As [`Client::start`].
    pub(crate) fn start(&self, io: Transport, config: &Config) -> Client {
        let shared = Shared::start(
            io,
            config,
            self.subscriptions.clone(),
            StateSender::opening(),
        );
        Client {
            way: Way::Once(Arc::new(Handle { shared })),
        }
    }
}

/// A connection that is made again.
pub(super) struct Lasting {
    link: watch::Sender<Link>,
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) state: StateSender,
    /// Wakes the task to end: the user closed the connection.
    closing: Notify,
    /// Whether the user is closing it: the next loss is the end then.
    leaving: AtomicBool,
    /// How often it was lost.
    losses: AtomicU64,
    /// Whether calls are limited in number, and so a monitor's are.
    limited: bool,
}

enum Link {
    /// The last connection that was made; it may have been lost.
    Made(Arc<Handle>),
    Ended(Arc<EndCause>),
}

impl Link {
    /// Whether there is nothing to wait for.
    fn is_decided(&self) -> bool {
        match self {
            Link::Made(handle) => handle.shared.connection.ended().is_none(),
            Link::Ended(_) => true,
        }
    }
}

/// What callers hold: when the last one goes, the connection is closed.
pub(super) struct LastingHandle(pub(super) Arc<Lasting>);

impl Drop for LastingHandle {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Starts a connection over `io`, and the task that keeps it once it has been opened.
pub(super) fn start(
    io: Transport,
    config: &Config,
    state: StateSender,
    backoff: Backoff,
    reopen: Reopen,
) -> Client {
    let subscriptions = Arc::new(Subscriptions::lasting());
    let shared = Shared::start(io, config, subscriptions.clone(), StateSender::opening());
    subscriptions.attach(&shared, true);
    let lasting = Arc::new(Lasting {
        link: watch::Sender::new(Link::Made(Arc::new(Handle { shared }))),
        subscriptions,
        state,
        closing: Notify::new(),
        leaving: AtomicBool::new(false),
        losses: AtomicU64::new(0),
        limited: config.max_in_flight != usize::MAX,
    });
    let retries = Retries::new(backoff);
    let keep = keep(lasting.clone(), retries, reopen, config.timeouts.subscribe);
    spawn(keep, {
        let lasting = lasting.clone();
        move || lasting.end(Arc::new(EndCause::RuntimeGone))
    });
    Client {
        way: Way::Lasting(Arc::new(LastingHandle(lasting))),
    }
}

/// Keeps the connection until its end.
async fn keep(
    lasting: Arc<Lasting>,
    mut retries: Retries,
    reopen: Reopen,
    subscribe: Option<Option<Duration>>,
) {
    let cause = loop {
        let cause = lasting.loss().await;
        if lasting.is_over(&cause) {
            break cause;
        }
        lasting.losses.fetch_add(1, Ordering::Release);
        let connect = || lasting.connect_again(&reopen, subscribe);
        let again = tokio::select! {
            biased;
            () = lasting.closing.notified() => break Arc::new(EndCause::UserClosed),
            again = retries.try_again(&cause, &lasting.state, connect) => again,
        };
        match again {
            Ok(handle) => {
                lasting.link.send_replace(Link::Made(handle));
                lasting.state.send_replace(ConnectionState::Connected);
            }
            Err(cause) => break Arc::new(cause),
        }
    };
    lasting.end(cause);
}

impl Lasting {
    /// Waits until the connection has ended, and ends it where the user wants that.
    async fn loss(&self) -> Arc<EndCause> {
        let made = match &*self.link.borrow() {
            Link::Made(handle) => handle.clone(),
            Link::Ended(cause) => return cause.clone(),
        };
        let connection = &made.shared.connection;
        tokio::select! {
            cause = connection.closed() => cause,
            () = self.closing.notified() => {
                connection.close();
                connection.closed().await;
                Arc::new(EndCause::UserClosed)
            }
        }
    }

    /// Whether what has ended by `cause` is not made again. Where it was being opened, nobody can say now that it was.
    fn is_over(&self, cause: &Arc<EndCause>) -> bool {
        let was_opening = self.state.send_if_modified(|state| {
            let is_opening = matches!(state, ConnectionState::Opening);
            if is_opening {
                let cause = cause.clone();
                *state = ConnectionState::Closed { cause };
            }
            is_opening
        });
        let is_meant = matches!(**cause, EndCause::UserClosed | EndCause::RuntimeGone);
        was_opening || is_meant || self.leaving.load(Ordering::Acquire)
    }

    /// Opens the next connection, on which every live subscription is registered then.
    async fn connect_again(
        &self,
        reopen: &Reopen,
        subscribe: Option<Option<Duration>>,
    ) -> Result<Arc<Handle>, Error> {
        let restart = Restart {
            subscriptions: self.subscriptions.clone(),
        };
        let (client, mut steps) = reopen(restart).await?;
        let handle = match client.way {
            Way::Once(handle) => handle,
            Way::Lasting(_) => return Err(Error::Closed),
        };
        let connection = &handle.shared.connection;
        match subscriptions::register_again(&handle.shared, steps.next(subscribe)).await {
            Ok(()) => Ok(handle),
            Err(error) => {
                // Nothing of it may come in between when the next one registers.
                connection.close();
                connection.closed().await;
                Err(error)
            }
        }
    }

    fn end(&self, cause: Arc<EndCause>) {
        if self.ended().is_some() {
            return;
        }
        self.subscriptions.end(&cause);
        let closed = ConnectionState::Closed {
            cause: cause.clone(),
        };
        self.state.send_replace(closed);
        self.link.send_replace(Link::Ended(cause));
    }

    /// Waits for a connection, and for the right to have a call in flight there.
    pub(super) async fn admit(
        &self,
        options: &CallOptions<'_>,
    ) -> Result<(Arc<Shared>, Slot), Error> {
        if leaves_no_time(options.deadline) {
            return Err(timed_out(options, Progress::Queued));
        }
        let mut turn = self.turn(options).await?;
        loop {
            let shared = self.connected(options).await?;
            match shared.connection.slot(options, &mut turn).await {
                Ok(slot) => return Ok((shared, slot)),
                // It was lost while this waited for a slot: nothing was sent.
                Err(Error::Disconnected { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The connection, or the next one where it is lost now.
    async fn connected(&self, options: &CallOptions<'_>) -> Result<Arc<Shared>, Error> {
        match self.now()? {
            Some(shared) => Ok(shared),
            None => Box::pin(self.wait(options)).await,
        }
    }

    /// The turn at the monitor. It is waited for through losses, so that commands that wait stay in their order.
    async fn turn(&self, options: &CallOptions<'_>) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let Limits::Monitor(turn) = options.limits else {
            return Ok(None);
        };
        if !self.limited {
            return Ok(None);
        }
        if let Ok(permit) = turn.clone().try_acquire_owned() {
            return Ok(Some(permit));
        }
        let wait = async {
            tokio::select! {
                permit = turn.clone().acquire_owned() => permit.map_err(|_| Error::Closed),
                () = sleep_until(options.deadline) => Err(self.too_late(options)),
            }
        };
        Box::pin(wait).await.map(Some)
    }

    /// The connection, unless it is lost now.
    fn now(&self) -> Result<Option<Arc<Shared>>, Error> {
        match &*self.link.borrow() {
            link @ Link::Made(handle) => Ok(link.is_decided().then(|| handle.shared.clone())),
            Link::Ended(cause) => Err(Error::disconnected(cause.clone(), false)),
        }
    }

    /// The next connection.
    async fn wait(&self, options: &CallOptions<'_>) -> Result<Arc<Shared>, Error> {
        let mut link = self.link.subscribe();
        loop {
            tokio::select! {
                decided = link.wait_for(Link::is_decided) => {
                    // The sender is ours.
                    decided.map_err(|_| Error::Closed)?;
                }
                () = sleep_until(options.deadline) => return Err(self.too_late(options)),
            }
            if let Some(shared) = self.now()? {
                return Ok(shared);
            }
        }
    }

    /// The error of what was not sent in time.
    pub(super) fn too_late(&self, options: &CallOptions<'_>) -> Error {
        let mut options = *options;
        if self.is_lost() {
            options.phase = Phase::Reconnect;
        }
        timed_out(&options, Progress::Queued)
    }

    /// Whether there is no connection now, but may be one later.
    pub(super) fn is_lost(&self) -> bool {
        !self.link.borrow().is_decided()
    }

    /// The last connection that was made, where it has not ended for good.
    pub(super) fn made(&self) -> Option<Arc<Shared>> {
        match &*self.link.borrow() {
            Link::Made(handle) => Some(handle.shared.clone()),
            Link::Ended(_) => None,
        }
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        if let Some(shared) = self.made() {
            shared.connection.leave();
        }
    }

    pub(super) fn close(&self) {
        self.closing.notify_one();
    }

    /// Waits until it has ended for good.
    pub(super) async fn closed(&self) -> Arc<EndCause> {
        let mut link = self.link.subscribe();
        let ended = link.wait_for(|link| matches!(link, Link::Ended(_))).await;
        match ended.as_deref() {
            Ok(Link::Ended(cause)) => cause.clone(),
            _ => Arc::new(EndCause::RuntimeGone),
        }
    }

    pub(super) fn ended(&self) -> Option<Arc<EndCause>> {
        match &*self.link.borrow() {
            Link::Made(_) => None,
            Link::Ended(cause) => Some(cause.clone()),
        }
    }

    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }
}
