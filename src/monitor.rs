//! The trait that every driver implements, and what is built on it alone. May import qmp and error.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::qmp::{self, Command, Event, Version};

/// What a [`Monitor`]'s methods return: a boxed future, so that the trait can be used as an object.
pub type MonitorFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A QEMU monitor, however it is reached.
///
/// Every method takes `&self`: any number of tasks may use one monitor at once. Where nobody has called
/// [`connect`](Monitor::connect), the first command or subscription connects.
///
/// A driver of your own, or a stand-in for tests, implements the four methods; [`MonitorExt`] comes with them.
pub trait Monitor: Send + Sync {
    /// Makes the monitor ready: handshake, or opening the session and looking the domain up. Repeated calls do nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] names the phase that got no answer. A domain that does not exist fails here with
    /// [`Error::Libvirt`] (see [`Error::is_not_found`]), and may be tried again; a connection that failed stays failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting: connecting goes on, within its own deadline, for the next who asks.
    fn connect(&self) -> MonitorFuture<'_, ()>;

    /// Disconnects. Event streams end, and what is called afterwards fails with [`Error::Closed`]. Commands in flight fail
    /// with the connection; where others share it, it stays, and they are answered. Repeated calls do nothing. Never waits long, even where the peer is silent.
    ///
    /// # Errors
    ///
    /// None of the drivers here; a driver of another kind may have some.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the connection open; calling again finishes it.
    fn disconnect(&self) -> MonitorFuture<'_, ()>;

    /// Runs one command, given as JSON, and returns the whole reply object as QEMU said it.
    ///
    /// `command` is one object with `execute` (or `exec-oob`), `arguments` if it has any, and an `id` of any kind if the
    /// caller wants one: the reply then carries the same `id`, and none otherwise. What the wire needs of its own to match
    /// replies is taken off again.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] where the command is refused before anything is sent; [`Error::Qmp`] where QEMU answers with an
    /// error, raw reply included; [`Error::Libvirt`], [`Error::Timeout`], [`Error::Disconnected`] where there was no
    /// answer: [`Error::maybe_executed`] says what is known then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before the command was sent sends nothing. After that the command runs, and its reply is
    /// discarded.
    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes>;

    /// Subscribes to the monitor's events: every one from this moment on, in order.
    ///
    /// Any number of streams may exist; each has its own queue. A stream keeps the connection open.
    ///
    /// # Errors
    ///
    /// [`Error::Libvirt`], [`Error::Timeout`], [`Error::Disconnected`], [`Error::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or the stream, unsubscribes.
    fn events(&self) -> MonitorFuture<'_, EventStream>;
}

/// Events of a monitor, in the order they came.
///
/// The items are events and errors. [`Error::EventsLost`] says how many events are missing at that place because they were
/// not taken fast enough, and [`Error::Decode`] stands for one event that could not be decoded; the stream goes on after
/// both. Any other error is the reason the connection ended, and the last item. A stream whose monitor was disconnected by
/// its user just ends.
pub struct EventStream {
    inner: Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>>,
}

impl EventStream {
    /// Wraps the events of a driver.
    pub fn new(events: impl Stream<Item = Result<Event, Error>> + Send + 'static) -> Self {
        EventStream {
            inner: Box::pin(events),
        }
    }
}

impl Stream for EventStream {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventStream")
    }
}

/// What every [`Monitor`] can do beyond raw commands.
pub trait MonitorExt: Monitor {
    /// Runs a command and decodes what it returns.
    ///
    /// ```no_run
    /// # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), libvirt_qmp::Error> {
    /// use libvirt_qmp::{Command, MonitorExt};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Status { status: String, running: bool }
    ///
    /// let status: Status = monitor.execute(Command::new("query-status")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::run`], and [`Error::Decode`] where the value is not a `T`; the command has run then.
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn execute<T: DeserializeOwned>(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        async move {
            let reply = self.run(&command.to_json()?).await?;
            qmp::return_value(&reply).map_err(|error| Error::json("return value", error))
        }
    }

    /// Runs a line of the human monitor (`human-monitor-command`) and returns its text as it came, line ends (CR LF)
    /// included.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](MonitorExt::execute). A line that the human monitor does not know is no error: the text says so.
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn hmp(&self, line: &str) -> impl Future<Output = Result<String, Error>> + Send {
        self.execute(Command::new("human-monitor-command").arg("command-line", line))
    }

    /// The version of QEMU (`query-version`).
    ///
    /// # Errors
    ///
    /// Those of [`execute`](MonitorExt::execute).
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn version(&self) -> impl Future<Output = Result<Version, Error>> + Send {
        self.execute(Command::new("query-version"))
    }
}

impl<M: Monitor + ?Sized> MonitorExt for M {}

impl<M: Monitor + ?Sized> Monitor for Box<M> {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        (**self).connect()
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        (**self).disconnect()
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        (**self).run(command)
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        (**self).events()
    }
}

impl<M: Monitor + ?Sized> Monitor for std::sync::Arc<M> {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        (**self).connect()
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        (**self).disconnect()
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        (**self).run(command)
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        (**self).events()
    }
}
