//! The waits that every monitor has. Imports monitor, qmp, error and its neighbours.

use std::time::Duration;

use serde_json::value::RawValue;

use super::condition::Wait;
use super::handler::EventHandler;
use super::history::History;
use super::waiter::{Deadline, Waiter, discard_stale, run_and_listen, subscribe};
use crate::error::{Error, Phase};
use crate::monitor::{EventOptions, Monitor};
use crate::qmp::{Command, Event, EventFilter};

/// How a condition came to be met.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Waited {
    /// By this event.
    Event(Event),
    /// It was met when asked about. When it came to be so, and by which event, is not known.
    Already,
}

impl Waited {
    /// The event, where it was one.
    pub fn event(&self) -> Option<&Event> {
        match self {
            Waited::Event(event) => Some(event),
            Waited::Already => None,
        }
    }

    /// The event, where it was one.
    pub fn into_event(self) -> Option<Event> {
        match self {
            Waited::Event(event) => Some(event),
            Waited::Already => None,
        }
    }

    /// Whether it was met before, so that there is no event.
    pub fn is_already(&self) -> bool {
        matches!(self, Waited::Already)
    }
}

impl From<Option<Event>> for Waited {
    fn from(event: Option<Event>) -> Self {
        event.map_or(Waited::Already, Waited::Event)
    }
}

/// Waiting, on every [`Monitor`].
///
/// A timeout is a [`Duration`], or `None` for none. It holds for the whole of a call, connecting and subscribing included.
pub trait WaitExt: Monitor {
    /// Waits for a condition, from this moment on.
    ///
    /// An event that came before the call does not count. Where the condition has a question (most of [`Wait`]'s by name), it
    /// is asked once the events are listened to, so what is so already is not waited for. What is to be caused by a command
    /// is waited for with [`run_and_wait`](WaitExt::run_and_wait), and what happened since some moment is in a
    /// [`History`].
    ///
    /// ```no_run
    /// # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), libvirt_qmp::Error> {
    /// use std::time::Duration;
    /// use libvirt_qmp::{Wait, WaitExt};
    ///
    /// monitor.wait_for(Wait::job_status("backup0", "concluded"), Duration::from_secs(600)).await?;
    /// monitor.wait_for("GUEST_PANICKED", None).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] where QEMU says that it will not come; [`Error::Timeout`] in the phase
    /// [`Event`](crate::Phase::Event), or [`Subscription`](crate::Phase::Subscription) where it came to no more;
    /// [`Error::EventsLost`] where events came faster than they were judged and it may have been among them, and [`Error::Gap`]
    /// where the connection was lost meanwhile and made again: both only where the question, if there is one, says that it is not
    /// so; the reason of the connection's end; those of [`Monitor::events`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future unsubscribes.
    fn wait_for(
        &self,
        wait: impl Into<Wait>,
        timeout: impl Into<Option<Duration>>,
    ) -> impl Future<Output = Result<Waited, Error>> + Send {
        let (wait, deadline) = (wait.into(), Deadline::new(timeout.into()));
        async move {
            let events = subscribe(self, wait.filter.clone());
            let events = deadline.keep(Phase::Subscription, false, events).await?;
            let mut waiter = Waiter::new(wait, events);
            let ask = waiter.asks(false);
            let settled = waiter.settle(Some(self), ask, deadline);
            let met = deadline.keep(Phase::Event, false, settled).await?;
            Ok(met.into())
        }
    }

    /// Runs a command and waits for a condition; returns the command's return value, and how the condition was met.
    ///
    /// The events are listened to before the command is sent, for QEMU sends those of a command ahead of its reply. What was
    /// there before does not count. A question, where the condition has one, is asked once the command has been answered.
    ///
    /// ```no_run
    /// # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), libvirt_qmp::Error> {
    /// use std::time::Duration;
    /// use libvirt_qmp::{Command, Wait, WaitExt};
    ///
    /// let unplug = Command::new("device_del").arg("id", "net0");
    /// monitor.run_and_wait(unplug, Wait::device_deleted("net0"), Duration::from_secs(30)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::run`] as soon as the command fails, whatever the events say; then those of
    /// [`wait_for`](WaitExt::wait_for). A timeout before the reply is one of the phase [`Reply`](crate::Phase::Reply). After
    /// it, a timeout counts as [`maybe_executed`](Error::maybe_executed): the command has been.
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`]; dropping the future unsubscribes.
    fn run_and_wait(
        &self,
        command: Command,
        wait: impl Into<Wait>,
        timeout: impl Into<Option<Duration>>,
    ) -> impl Future<Output = Result<(Box<RawValue>, Waited), Error>> + Send {
        let (wait, deadline) = (wait.into(), Deadline::new(timeout.into()));
        async move {
            command.to_json()?;
            let events = subscribe(self, wait.filter.clone());
            let events = deadline.keep(Phase::Subscription, false, events).await?;
            let mut waiter = Waiter::new(wait, events);
            discard_stale(self, waiter.events()).await?;
            let running = run_and_listen(self, &command, &mut waiter);
            let (value, settled) = deadline.keep(Phase::Reply, true, running).await?;
            let ask = waiter.asks(true);
            let met = deadline.keep(Phase::Event, true, async {
                match settled {
                    Some(settled) => waiter
                        .conclude(settled, Some(self), deadline)
                        .await
                        .map(Some),
                    None => waiter.settle(Some(self), ask, deadline).await,
                }
            });
            Ok((value, met.await?.into()))
        }
    }

    /// Records the events from now on, the last `capacity` of them (at least 1; [`History::CAPACITY`] is a good number), so
    /// that they can be looked for later.
    ///
    /// A task of its own takes the events; it ends with the last clone of the history, or with the events. It keeps the
    /// connection open. On QEMU's own socket the first to subscribe also gets the events since the handshake.
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::events`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future unsubscribes.
    fn history(&self, capacity: usize) -> impl Future<Output = Result<History, Error>> + Send {
        async move {
            let options = EventOptions::new(EventFilter::any());
            let events = self.events_with(options).await?;
            Ok(History::start(events, capacity))
        }
    }

    /// Calls `callback` with each event that `filter` takes, in order, until what is returned is dropped: those that come from
    /// now on ([`EventOptions::from_now`]).
    ///
    /// It gets the items of an [`EventStream`](crate::EventStream): events, and errors where some were lost or the connection
    /// ended. It runs in a task of the runtime, so it should not block; [`Callbacks`](crate::Callbacks) are for those that
    /// do. A panic of it is caught and reported to the log, and it is called again for the next event; one of a
    /// predicate of `filter` is reported too, and ends the calls.
    ///
    /// ```no_run
    /// # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), libvirt_qmp::Error> {
    /// use libvirt_qmp::{EventFilter, WaitExt};
    ///
    /// let _listening = monitor
    ///     .on_event(EventFilter::glob("BLOCK_JOB_*"), |item| match item {
    ///         Ok(event) => println!("{}", event.name),
    ///         Err(error) => eprintln!("{error}"),
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::events`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future unsubscribes.
    fn on_event(
        &self,
        filter: impl Into<EventFilter>,
        callback: impl FnMut(Result<Event, Error>) + Send + 'static,
    ) -> impl Future<Output = Result<EventHandler, Error>> + Send {
        let options = EventOptions::new(filter).from_now();
        async move {
            let events = self.events_with(options).await?;
            Ok(EventHandler::start(events, callback))
        }
    }
}

impl<M: Monitor + ?Sized> WaitExt for M {}
