//! The trait that every driver implements, and what is built on it alone. May import qmp, error and queue.
//!
//! `options` holds what a call or a stream can be told, `ext` the methods that come with every monitor, `schema` the place
//! where a monitor keeps its QEMU's schema.

mod ext;
mod options;
mod schema;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;

use crate::error::{Error, Phase};
use crate::qmp::{Event, EventFilter};

pub use ext::MonitorExt;
pub use options::{AgentTimeout, EventOptions, RunOptions};
pub use schema::SchemaCell;

/// What a [`Monitor`]'s methods return: a boxed future, so that the trait can be used as an object.
pub type MonitorFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A QEMU monitor, however it is reached.
///
/// Every method takes `&self`: any number of tasks may use one monitor at once. Where nobody has called
/// [`connect`](Monitor::connect), the first command or subscription connects.
///
/// A driver of your own, or a stand-in for tests, implements the first four methods; the others and [`MonitorExt`] come with
/// them. What a driver cannot do is [`Error::Unsupported`], before anything is sent.
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
    /// with the connection; where others share it, it stays, and they are answered. Repeated calls do nothing. Never waits
    /// long, even where the peer is silent.
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

    /// As [`run`](Monitor::run), with a deadline of its own or with file descriptors.
    ///
    /// Where a driver has nothing better, the deadline is kept by dropping the call: the command may run on.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Monitor::run), and [`Error::Unsupported`] where the driver cannot pass the descriptors.
    ///
    /// # Cancel safety
    ///
    /// That of [`run`](Monitor::run).
    fn run_with<'a>(
        &'a self,
        command: &'a [u8],
        options: RunOptions<'a>,
    ) -> MonitorFuture<'a, Bytes> {
        Box::pin(async move {
            if !options.files.is_empty() {
                return Err(Error::Unsupported(
                    "this driver passes no file descriptors".to_owned(),
                ));
            }
            let Some(Some(after)) = options.timeout else {
                return self.run(command).await;
            };
            match tokio::time::timeout(after, self.run(command)).await {
                Ok(reply) => reply,
                Err(_) => Err(Error::Timeout {
                    phase: Phase::Reply,
                    after,
                    maybe_executed: true,
                }),
            }
        })
    }

    /// As [`events`](Monitor::events), filtered, and with a bound of its own.
    ///
    /// The drivers here filter by name before an event takes room in the stream's queue, so what is not wanted never pushes
    /// out what is; through libvirt the daemon itself is told where it can be. A driver that implements only
    /// [`events`](Monitor::events) keeps its own bound.
    ///
    /// # Errors
    ///
    /// Those of [`events`](Monitor::events).
    ///
    /// # Cancel safety
    ///
    /// That of [`events`](Monitor::events).
    fn events_with(&self, options: EventOptions) -> MonitorFuture<'_, EventStream> {
        Box::pin(async move { Ok(self.events().await?.filtered(options.filter)) })
    }

    /// Runs a command of the guest agent, given as JSON, through what manages the domain, and returns its whole reply.
    ///
    /// Where QEMU's own socket is used there is nobody to ask: the agent has a socket of its own then.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the driver cannot; [`Error::Libvirt`] where the domain has no agent, where it does not
    /// answer ([`Error::is_agent_unresponsive`]), and where it answers with an error, of which libvirt hands on the text
    /// alone; [`Error::Qmp`] where the whole of that error comes.
    ///
    /// # Cancel safety
    ///
    /// That of [`run`](Monitor::run).
    fn agent<'a>(&'a self, command: &'a [u8], timeout: AgentTimeout) -> MonitorFuture<'a, Bytes> {
        let _ = (command, timeout);
        Box::pin(std::future::ready(Err(Error::Unsupported(
            "this driver does not reach the guest agent".to_owned(),
        ))))
    }

    /// Where the driver keeps QEMU's schema for [`MonitorExt::schema`]. One that has no place for it, as by default, asks
    /// QEMU anew for every call of that.
    fn schema_cell(&self) -> Option<&SchemaCell> {
        None
    }
}

/// Events of a monitor, in the order they came.
///
/// The items are events and errors. [`Error::EventsLost`] says how many events are missing at that place because they were
/// not taken fast enough, [`Error::Decode`] stands for one event that could not be decoded, and [`Error::Gap`] for what came
/// while a lost connection was made again ([`Config::reconnect`](crate::Config::reconnect)); the stream goes on after these
/// ([`Error::leaves_stream_open`]). Any other error is the reason the connection ended, and the last item. A stream whose
/// monitor was disconnected by its user just ends.
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

    /// The same stream without the events that `filter` does not take. Items that are errors stay.
    pub fn filtered(self, filter: EventFilter) -> Self {
        if filter.is_any() {
            return self;
        }
        EventStream::new(Filtered {
            inner: self,
            filter,
        })
    }
}

struct Filtered {
    inner: EventStream,
    filter: EventFilter,
}

impl Stream for Filtered {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let item = Pin::new(&mut this.inner).poll_next(cx);
            match &item {
                Poll::Ready(Some(Ok(event))) if !this.filter.matches(event) => {}
                _ => return item,
            }
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

/// A pointer to a monitor is a monitor.
macro_rules! forward {
    ($($pointer:ty),*) => {
        $(
        impl<M: Monitor + ?Sized> Monitor for $pointer {
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

            fn run_with<'a>(
                &'a self,
                command: &'a [u8],
                options: RunOptions<'a>,
            ) -> MonitorFuture<'a, Bytes> {
                (**self).run_with(command, options)
            }

            fn events_with(&self, options: EventOptions) -> MonitorFuture<'_, EventStream> {
                (**self).events_with(options)
            }

            fn agent<'a>(&'a self, command: &'a [u8], timeout: AgentTimeout) -> MonitorFuture<'a, Bytes> {
                (**self).agent(command, timeout)
            }

            fn schema_cell(&self) -> Option<&SchemaCell> {
                (**self).schema_cell()
            }
        }
        )*
    };
}

forward!(Box<M>, std::sync::Arc<M>, &M);
