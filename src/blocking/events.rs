//! A monitor's events as an iterator. Imports monitor, qmp, error, `super`.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;

use super::wait;
use crate::error::{Error, Phase};
use crate::monitor::EventStream;
use crate::qmp::Event;

/// [`EventStream`], blocking: the events of a monitor, in the order they came.
///
/// The items are those of [`EventStream`]. `next` waits for the next one, and gives `None` when the monitor was disconnected by
/// its user or QEMU said that it ends.
pub struct Events {
    /// Gone where there is nothing more to come.
    stream: Option<EventStream>,
}

impl Events {
    /// The events of a stream, which stays on the runtime that it is on.
    pub fn from_async(stream: EventStream) -> Self {
        Events {
            stream: Some(stream),
        }
    }

    /// Takes the stream out; none where it has ended.
    pub fn into_async(self) -> Option<EventStream> {
        self.stream
    }

    /// Waits for the next item, but not longer than this; zero only looks. `None` is the end, as of `next`.
    ///
    /// # Errors
    ///
    /// The item may be an error: those of [`EventStream`], [`Error::Timeout`] with [`Phase::Event`] where none came in time, and
    /// those of [`wait`]. None but the last ends the events.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Event, Error>> {
        let stream = self.stream.as_mut()?;
        let item = wait(async {
            match tokio::time::timeout(timeout, next(stream)).await {
                Ok(item) => Ok(item),
                Err(_) => Err(Error::Timeout {
                    phase: Phase::Event,
                    after: timeout,
                    maybe_executed: false,
                }),
            }
        });
        match item {
            Err(error @ Error::Timeout { .. }) => Some(Err(error)),
            item => self.took(item),
        }
    }

    /// What `next` gives where this has come; nothing can come any more after the end, or where nobody may wait.
    fn took(
        &mut self,
        item: Result<Option<Result<Event, Error>>, Error>,
    ) -> Option<Result<Event, Error>> {
        match item {
            Ok(Some(item)) => Some(item),
            Ok(None) => {
                self.stream = None;
                None
            }
            // An iterator that gave this for ever would never let a loop end.
            Err(error) => {
                self.stream = None;
                Some(Err(error))
            }
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let stream = self.stream.as_mut()?;
        let item = wait(async { Ok(next(stream).await) });
        self.took(item)
    }
}

impl std::iter::FusedIterator for Events {}

async fn next(stream: &mut EventStream) -> Option<Result<Event, Error>> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("ended", &self.stream.is_none())
            .finish()
    }
}
