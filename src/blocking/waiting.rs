//! The blocking counterparts of waiting for events: `WaitExt`, `History` and `Callbacks`. Imports wait, monitor, qmp, error,
//! `super`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::{Blocking, Monitor, wait};
use crate::error::Error;
use crate::monitor;
use crate::qmp::{Command, Event, EventFilter};
use crate::wait::{
    self, After, CallbackOptions, EventHandler, Found, HistoryEntry, Wait, WaitExt as _, Waited,
};

/// [`crate::History`], blocking.
pub type History = Blocking<wait::History>;

/// [`crate::Callbacks`], blocking. A callback runs on a thread of its own: blocking calls are fine there.
pub type Callbacks = Blocking<wait::Callbacks>;

/// [`crate::WaitExt`], blocking: waiting for events, on every [`Monitor`].
///
/// A timeout is a [`Duration`], or `None` for none. It holds for the whole of a call, connecting and subscribing included.
pub trait WaitExt: Monitor {
    /// Waits for a condition, from this moment on.
    ///
    /// # Errors
    ///
    /// Those of [`crate::WaitExt::wait_for`] and of [`wait`](super::wait()).
    fn wait_for(
        &self,
        condition: impl Into<Wait>,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Waited, Error> {
        wait(self.as_async().wait_for(condition, timeout))
    }

    /// Runs a command and waits for a condition that it brings about.
    ///
    /// # Errors
    ///
    /// Those of [`crate::WaitExt::run_and_wait`] and of [`wait`](super::wait()).
    fn run_and_wait(
        &self,
        command: Command,
        condition: impl Into<Wait>,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<(Box<RawValue>, Waited), Error> {
        wait(self.as_async().run_and_wait(command, condition, timeout))
    }

    /// Records the events from now on, the last `capacity` of them: see [`crate::WaitExt::history`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::WaitExt::history`] and of [`wait`](super::wait()).
    fn history(&self, capacity: usize) -> Result<History, Error> {
        wait(self.as_async().history(capacity)).map(Blocking)
    }

    /// Calls `callback` with each event that `filter` takes, in order, until what is returned is dropped.
    ///
    /// It is called on the thread that all connections of this module live on: it must not block, and a blocking call in it is
    /// refused.
    ///
    /// # Errors
    ///
    /// Those of [`crate::WaitExt::on_event`] and of [`wait`](super::wait()).
    fn on_event(
        &self,
        filter: impl Into<EventFilter>,
        callback: impl FnMut(Result<Event, Error>) + Send + 'static,
    ) -> Result<EventHandler, Error> {
        wait(self.as_async().on_event(filter, callback))
    }
}

impl<M: Monitor + ?Sized> WaitExt for M {}

impl History {
    /// The number of the last event that came: see [`crate::History::mark`].
    pub fn mark(&self) -> u64 {
        self.get_ref().mark()
    }

    /// The events of the history that `filter` takes. Waits for nothing.
    pub fn find_events(&self, filter: impl Into<EventFilter>, after: After) -> Found {
        self.get_ref().find_events(filter, after)
    }

    /// All events that came since `cursor`, which moves on. Waits for nothing.
    pub fn pull(&self, cursor: &mut u64) -> Found {
        self.get_ref().pull(cursor)
    }

    /// The events of the history that `filter` takes; where there is none, the first that comes.
    ///
    /// # Errors
    ///
    /// Those of [`crate::History::get_events`] and of [`wait`](super::wait()).
    pub fn get_events(
        &self,
        filter: impl Into<EventFilter>,
        after: After,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Found, Error> {
        wait(self.get_ref().get_events(filter, after, timeout))
    }

    /// Waits for a condition: the events of the history count that `after` lets through, then those that come.
    ///
    /// # Errors
    ///
    /// Those of [`crate::History::wait_for`] and of [`wait`](super::wait()).
    pub fn wait_for(
        &self,
        condition: impl Into<Wait>,
        after: After,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<HistoryEntry, Error> {
        wait(self.get_ref().wait_for(condition, after, timeout))
    }

    /// Forgets the events recorded so far.
    pub fn clear(&self) {
        self.get_ref().clear();
    }
}

impl Callbacks {
    /// For a monitor, with the usual options.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](super::wait()) alone.
    pub fn new<M: monitor::Monitor + 'static>(monitor: Blocking<M>) -> Result<Self, Error> {
        Callbacks::with_options(monitor, CallbackOptions::new())
    }

    /// As [`new`](Callbacks::new), with options.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Callbacks::new).
    pub fn with_options<M: monitor::Monitor + 'static>(
        monitor: Blocking<M>,
        options: CallbackOptions,
    ) -> Result<Self, Error> {
        let monitor = Arc::new(monitor.into_async());
        wait(async { Ok(Blocking(wait::Callbacks::with_options(monitor, options))) })
    }

    /// Calls `callback` with each event that `filter` takes: see [`crate::Callbacks::on_event`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Callbacks::on_event`] and of [`wait`](super::wait()).
    pub fn on_event(
        &self,
        filter: impl Into<EventFilter>,
        callback: impl FnMut(&wait::Callbacks, Result<Event, Error>) + Send + 'static,
    ) -> Result<EventHandler, Error> {
        wait(self.get_ref().on_event(filter, callback))
    }

    /// Runs a command and calls `callback` with what it returns: see [`crate::Callbacks::command`]. Waits for nothing.
    pub fn command(
        &self,
        command: Command,
        callback: impl FnOnce(&wait::Callbacks, Result<Box<RawValue>, Error>) + Send + 'static,
    ) {
        self.get_ref().command(command, callback);
    }

    /// How often callbacks, or predicates of their filters, have panicked.
    pub fn panics(&self) -> u64 {
        self.get_ref().panics()
    }

    /// Waits until no command is in flight and no callback runs or waits for its turn: see [`crate::Callbacks::wait_idle`].
    ///
    /// # Errors
    ///
    /// Those of [`wait`](super::wait()) alone.
    pub fn wait_idle(&self) -> Result<(), Error> {
        wait(async {
            self.get_ref().wait_idle().await;
            Ok(())
        })
    }
}
