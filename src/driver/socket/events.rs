//! The events of a QMP connection on their way from the task that reads them to the streams. Imports queue, qmp, monitor, error,
//! `session` and the drivers' `fanout`.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;

use super::super::fanout::Fanout;
use super::session::Session;
use crate::error::{EndCause, Error};
use crate::monitor::EventOptions;
use crate::qmp::{self, Event};
use crate::queue::{EventQueue, Item, QueueOptions, Taken};

/// The queues that each event goes to.
pub(super) struct Subscribers {
    /// Items that a queue holds.
    limit: usize,
    fanout: Fanout<Bytes>,
    /// Holds the events from the handshake on, for the first stream.
    first: Mutex<Option<Arc<EventQueue>>>,
}

impl Subscribers {
    pub(super) fn new(limit: usize) -> Self {
        let fanout = Fanout::default();
        let first = fanout.add(QueueOptions::new(limit));
        Subscribers {
            limit,
            fanout,
            first: Mutex::new(Some(first)),
        }
    }

    /// Gives every queue its copy of an event.
    pub(super) fn push(&self, message: &Bytes) {
        // A copy of the event alone. What was read is a slice of the read buffer, which may hold a reply of many megabytes
        // and would stay in memory for as long as the event waits.
        self.fanout.push(|| Bytes::copy_from_slice(message));
    }

    /// Ends every queue with `cause`, and those of later streams too.
    pub(super) fn end(&self, cause: &Arc<EndCause>) {
        self.fanout.end(cause);
    }

    fn add(&self) -> Arc<EventQueue> {
        let first = self.take_first();
        first.unwrap_or_else(|| self.fanout.add(QueueOptions::new(self.limit)))
    }

    /// A queue of its own bound and filter, which the events kept so far go through too where it is the first.
    fn add_with(&self, options: &EventOptions) -> Arc<EventQueue> {
        let options = self.queue_options(options);
        match self.take_first() {
            Some(first) => self.fanout.replace(&first, options),
            None => self.fanout.add(options),
        }
    }

    /// A queue that leaves the events kept so far to another stream. Where all of them came after the call that wants it,
    /// because it had to connect first, it begins with a copy of them.
    fn add_from_now(&self, options: &EventOptions, connected_before: bool) -> Arc<EventQueue> {
        let options = self.queue_options(options);
        match &*self.first() {
            Some(first) if !connected_before => self.fanout.add_copy(first, options),
            _ => self.fanout.add(options),
        }
    }

    fn take_first(&self) -> Option<Arc<EventQueue>> {
        self.first().take()
    }

    fn first(&self) -> MutexGuard<'_, Option<Arc<EventQueue>>> {
        // Nothing panics under this lock.
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue_options(&self, options: &EventOptions) -> QueueOptions<Bytes> {
        let mut queue = QueueOptions::new(options.queue.unwrap_or(self.limit));
        queue.overflow = options.overflow;
        if !options.filter.is_any() {
            let filter = options.filter.clone();
            queue.accept = Some(Arc::new(move |message: &Bytes| {
                // What has no name that can be read is not hidden: the stream says so.
                qmp::event_name(message).is_none_or(|name| filter.may_match(&name))
            }));
        }
        queue
    }

    fn remove(&self, queue: &Arc<EventQueue>) {
        self.fanout.remove(queue);
    }
}

/// The events of one stream.
pub(super) struct SocketEvents {
    /// Keeps the connection open; none once the stream has ended.
    session: Option<Arc<Session>>,
    queue: Arc<EventQueue>,
    taken: Taken,
    /// QEMU has said that it is going.
    shut_down: bool,
}

impl SocketEvents {
    pub(super) fn new(session: Arc<Session>) -> Self {
        let queue = session.subscribers().add();
        SocketEvents::over(session, queue)
    }

    /// The events that `options` let through by their name. `connected_before`: whether the connection is older than the call.
    pub(super) fn with_options(
        session: Arc<Session>,
        options: &EventOptions,
        connected_before: bool,
    ) -> Self {
        let subscribers = session.subscribers();
        let queue = match options.from_now {
            true => subscribers.add_from_now(options, connected_before),
            false => subscribers.add_with(options),
        };
        SocketEvents::over(session, queue)
    }

    fn over(session: Arc<Session>, queue: Arc<EventQueue>) -> Self {
        SocketEvents {
            session: Some(session),
            queue,
            taken: Taken::default(),
            shut_down: false,
        }
    }

    fn decode(&mut self, message: &[u8]) -> Result<Event, Error> {
        let event = Event::parse(message)?;
        match event.name.as_str() {
            "SHUTDOWN" => self.shut_down = true,
            // With `-no-shutdown` it stays, and may be started again.
            "RESET" | "RESUME" => self.shut_down = false,
            _ => {}
        }
        Ok(event)
    }

    fn end(&mut self, cause: Arc<EndCause>) -> Option<Result<Event, Error>> {
        self.leave();
        let expected = match &*cause {
            EndCause::UserClosed => true,
            EndCause::PeerClosed => self.shut_down,
            // What the system makes of the end where QEMU had not read all that was sent.
            EndCause::Io(error) => self.shut_down && is_gone(error.kind()),
            _ => false,
        };
        (!expected).then(|| Err(Error::disconnected(cause, false)))
    }

    fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            session.subscribers().remove(&self.queue);
        }
    }
}

fn is_gone(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset)
}

impl Stream for SocketEvents {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.session.is_none() {
            return Poll::Ready(None);
        }
        let item = match this.queue.poll_next(&mut this.taken, cx) {
            Poll::Ready(item) => item,
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(match item {
            Item::Event(message) => Some(this.decode(&message)),
            Item::Lost(number) => Some(Err(Error::EventsLost(number))),
            Item::Gap(cause) => Some(Err(Error::Gap { cause })),
            Item::Failed(error) => {
                this.leave();
                Some(Err(error))
            }
            Item::Ended(cause) => this.end(cause),
        })
    }
}

impl Drop for SocketEvents {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_waits_does_not_keep_the_read_buffer() {
        let buffer = Bytes::from(vec![b' '; 1 << 20]);
        let subscribers = Subscribers::new(2);
        let later = subscribers.add();
        subscribers.push(&buffer.slice(..100));
        subscribers.end(&Arc::new(EndCause::PeerClosed));
        assert!(buffer.is_unique());
        drop(later);
    }
}
