//! The way to QEMU while a monitor is in use: one session, or with `Config::reconnect` one after another. Imports connection,
//! inflight, reconnect, monitor, transport, config, error, `dial`, `session` and `outlet`.
//!
//! A task of its own watches over the session where the way is known. When that ends, it connects again. It alone says then
//! what the monitor is doing, and ends the event streams when it ends itself.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::dial::Way;
use super::outlet::{Outlet, Subscribers};
use super::session::{Ids, Opening, Remains, Session, silent};
use crate::config::{Backoff, Config};
use crate::connection::{CallOptions, Deadline, Steps, sleep_until, spawn};
use crate::error::{EndCause, Error, Phase};
use crate::inflight::Slot;
use crate::monitor::SchemaCell;
use crate::reconnect::{Retries, refuse};
use crate::transport::Transport;

/// What a monitor keeps from one connection to the next.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) config: Config,
    pub(super) ids: Arc<Ids>,
    pub(super) outlet: Arc<Outlet>,
    /// Of the QEMU that is there now.
    pub(super) schema: Arc<SchemaCell>,
}

/// Keeps the connection open. Dropping it closes the socket, and ends the trying where it was lost.
pub(super) struct Line {
    shared: Arc<Shared>,
    /// The task that connects again; none where nobody does.
    keeper: Option<AbortHandle>,
}

struct Shared {
    kept: Kept,
    present: Mutex<Present>,
    /// Wakes those who wait for `present` to change, in the order they came.
    changed: Notify,
    /// Why it is over, once that is certain.
    cause: OnceLock<Arc<EndCause>>,
}

enum Present {
    Session(Arc<Session>),
    /// It was lost, and is being made again.
    Lost,
    Over(Arc<EndCause>),
}

impl Line {
    /// Opens the first session over `io`. The next ones go the same `way`, where it is known and they are wanted.
    pub(super) async fn open(
        io: Transport,
        kept: Kept,
        way: Option<Way>,
    ) -> Result<Arc<Self>, Error> {
        let unopened = Unopened(Some(&kept.outlet));
        let first = Line::first(io, &kept, way).await;
        unopened.opened_or_failed();
        let (session, again) = first.inspect_err(|error| match error {
            Error::Disconnected { cause, .. } => kept.outlet.end(cause),
            _ => kept.outlet.end(&Arc::new(EndCause::UserClosed)),
        })?;
        let remains = session.remains();
        let shared = Arc::new(Shared {
            kept,
            present: Mutex::new(Present::Session(session)),
            changed: Notify::new(),
            cause: OnceLock::new(),
        });
        shared.kept.outlet.connected();
        let keeper = again.map(|(backoff, way)| shared.clone().start(backoff, way, remains));
        Ok(Arc::new(Line { shared, keeper }))
    }

    /// The first session, and how to go on after a loss where that is wanted.
    async fn first(
        io: Transport,
        kept: &Kept,
        way: Option<Way>,
    ) -> Result<(Arc<Session>, Option<(Backoff, Way)>), Error> {
        let again = kept.config.reconnect.clone().zip(way);
        if again.is_none() {
            refuse(&kept.config, "a monitor over a stream that was handed in")?;
        }
        let steps = Steps::new(kept.config.connect_timeout);
        let session = Session::open(io, kept.opening(None, steps)).await?;
        Ok((session, again))
    }

    /// The present session; where it was lost, the next one, waited for until `deadline`.
    pub(super) async fn session(&self, deadline: Deadline) -> Result<Arc<Session>, Error> {
        match self.ready() {
            Some(ready) => ready,
            // Boxed, for it is rare, and every command's future would have room for it.
            None => Box::pin(self.next_session(deadline)).await,
        }
    }

    /// The present session, or the next one, and the right to have a command in flight there.
    pub(super) async fn admit(
        &self,
        options: &CallOptions<'_>,
    ) -> Result<(Arc<Session>, Slot), Error> {
        loop {
            let session = self.session(options.deadline).await?;
            match session.slot(options).await {
                Ok(slot) => return Ok((session, slot)),
                // It was lost while this waited for others to end: nothing was sent.
                Err(Error::Disconnected { .. }) if self.keeper.is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn next_session(&self, deadline: Deadline) -> Result<Arc<Session>, Error> {
        loop {
            // Made before the question is asked, it misses no answer.
            let changed = self.shared.changed.notified();
            if let Some(ready) = self.ready() {
                return ready;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(deadline) => return Err(silent(Phase::Reconnect, deadline)),
            }
        }
    }

    /// The present session, or why there will be none; nothing where it is being made again.
    fn ready(&self) -> Option<Result<Arc<Session>, Error>> {
        match &*self.shared.lock() {
            // Whoever makes it again may not know yet that it has ended.
            Present::Session(session) if self.keeper.is_some() && session.ended().is_some() => None,
            Present::Session(session) => Some(Ok(session.clone())),
            Present::Lost => None,
            Present::Over(cause) => Some(Err(Error::disconnected(cause.clone(), false))),
        }
    }

    pub(super) fn subscribers(&self) -> &Subscribers {
        &self.shared.kept.outlet.subscribers
    }

    /// Ends it for everybody, and waits until everybody has been told.
    pub(super) async fn close(&self) {
        if let Some(session) = self.stop() {
            session.close().await;
        }
        if self.keeper.is_some() {
            self.shared.kept.outlet.closed().await;
        }
    }

    /// Ends the trying. Gives the session where there is one, which is open as long as that is not dropped.
    fn stop(&self) -> Option<Arc<Session>> {
        let Some(keeper) = &self.keeper else {
            return match &*self.shared.lock() {
                Present::Session(session) => Some(session.clone()),
                _ => None,
            };
        };
        let cause = self
            .shared
            .cause
            .get_or_init(|| EndCause::UserClosed.into());
        let before = self.shared.set(Present::Over(cause.clone()));
        keeper.abort();
        match before {
            Present::Session(session) => Some(session),
            _ => None,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends the outlet of a monitor whose first session is not waited for any more: its user has gone, or else the runtime.
struct Unopened<'a>(Option<&'a Arc<Outlet>>);

impl Unopened<'_> {
    fn opened_or_failed(mut self) {
        self.0 = None;
    }
}

impl Drop for Unopened<'_> {
    fn drop(&mut self) {
        if let Some(outlet) = self.0 {
            let cause = match outlet.has_left() {
                true => EndCause::UserClosed,
                false => EndCause::RuntimeGone,
            };
            outlet.end(&Arc::new(cause));
        }
    }
}

impl Kept {
    fn opening(&self, replaces: Option<Arc<EndCause>>, steps: Steps) -> Opening<'_> {
        Opening {
            config: &self.config,
            ids: &self.ids,
            outlet: &self.outlet,
            replaces,
            steps,
        }
    }
}

impl Shared {
    /// Starts the task that connects again whenever the session ends of which these are the remains.
    fn start(self: Arc<Self>, backoff: Backoff, way: Way, remains: Remains) -> AbortHandle {
        let shared = self.clone();
        let keep = async move {
            let cause = shared.keep(backoff, &way, remains).await;
            let _ = shared.cause.set(cause);
        };
        let at_end = move || {
            // Not set where the runtime drops the task.
            let cause = self.cause.get_or_init(|| EndCause::RuntimeGone.into());
            self.set(Present::Over(cause.clone()));
            self.kept.outlet.end(cause);
        };
        spawn(keep, at_end).abort_handle()
    }

    /// Connects again whenever the connection is lost, until that is given up. Says why it is over.
    async fn keep(&self, backoff: Backoff, way: &Way, mut remains: Remains) -> Arc<EndCause> {
        let mut retries = Retries::new(backoff);
        loop {
            let lost = remains.closed().await;
            if matches!(*lost, EndCause::UserClosed | EndCause::RuntimeGone) {
                return lost;
            }
            self.set(Present::Lost);
            remains.pass_serials_on();
            // It may be another QEMU that comes.
            self.kept.schema.forget();
            let connect = || self.connect(way, &lost);
            let state = &self.kept.outlet.state;
            match retries.try_again(&lost, state, connect).await {
                Ok(session) => {
                    remains = session.remains();
                    // It may have been over before this.
                    if let Present::Lost = self.set(Present::Session(session)) {
                        self.kept.outlet.connected();
                    }
                }
                Err(gave_up) => return Arc::new(gave_up),
            }
        }
    }

    async fn connect(&self, way: &Way, lost: &Arc<EndCause>) -> Result<Arc<Session>, Error> {
        let config = &self.kept.config;
        let mut steps = Steps::new(config.connect_timeout);
        let io = way.connect(steps.next(config.timeouts.dial)).await?;
        Session::open(io, self.kept.opening(Some(lost.clone()), steps)).await
    }

    /// Sets what is so now, unless it is over, and gives what was before.
    fn set(&self, new: Present) -> Present {
        let mut present = self.lock();
        let before = match &*present {
            Present::Over(_) => new,
            _ => std::mem::replace(&mut *present, new),
        };
        drop(present);
        self.changed.notify_waiters();
        before
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        // Nothing panics under this lock.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
