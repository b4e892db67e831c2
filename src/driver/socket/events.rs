//! The events of a QMP connection on their way from the task that reads them to the streams. Imports queue, qmp, error and
//! `session`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;

use super::session::Session;
use crate::error::{EndCause, Error};
use crate::qmp::Event;
use crate::queue::{EventQueue, Item};

/// The queues that each event goes to.
pub(super) struct Subscribers {
    /// Items that each queue holds.
    limit: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    queues: Vec<Arc<EventQueue<Bytes>>>,
    /// Holds the events from the handshake on, for the first stream; it is among `queues` too.
    first: Option<Arc<EventQueue<Bytes>>>,
    end: Option<Arc<EndCause>>,
}

impl Subscribers {
    pub(super) fn new(limit: usize) -> Self {
        let first = EventQueue::new(limit);
        Subscribers {
            limit,
            inner: Mutex::new(Inner {
                queues: vec![first.clone()],
                first: Some(first),
                end: None,
            }),
        }
    }

    /// Gives every queue its copy of an event.
    pub(super) fn push(&self, message: &Bytes) {
        let inner = self.lock();
        if inner.queues.is_empty() {
            return;
        }
        // A copy of the event alone. What was read is a slice of the read buffer, which may hold a reply of many megabytes
        // and would stay in memory for as long as the event waits.
        let message = Bytes::copy_from_slice(message);
        for queue in &inner.queues {
            queue.push(message.clone());
        }
    }

    /// Ends every queue with `cause`, and those of later streams too.
    pub(super) fn end(&self, cause: &Arc<EndCause>) {
        let mut inner = self.lock();
        inner.end = Some(cause.clone());
        for queue in inner.queues.drain(..) {
            queue.end(cause.clone());
        }
    }

    fn add(&self) -> Arc<EventQueue<Bytes>> {
        let mut inner = self.lock();
        if let Some(first) = inner.first.take() {
            return first;
        }
        let queue = EventQueue::new(self.limit);
        match &inner.end {
            Some(cause) => queue.end(cause.clone()),
            None => inner.queues.push(queue.clone()),
        }
        queue
    }

    fn remove(&self, queue: &Arc<EventQueue<Bytes>>) {
        self.lock()
            .queues
            .retain(|other| !Arc::ptr_eq(other, queue));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of one stream.
pub(super) struct SocketEvents {
    /// Keeps the connection open; none once the stream has ended.
    session: Option<Arc<Session>>,
    queue: Arc<EventQueue<Bytes>>,
    taken: VecDeque<Bytes>,
    /// QEMU has said that it is going.
    shut_down: bool,
}

impl SocketEvents {
    pub(super) fn new(session: Arc<Session>) -> Self {
        SocketEvents {
            queue: session.subscribers().add(),
            session: Some(session),
            taken: VecDeque::new(),
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
