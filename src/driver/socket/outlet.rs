//! What a monitor has whatever becomes of its connections: where the events go, and what it is doing. Imports queue, qmp,
//! monitor, reconnect, error and the drivers' `fanout`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::super::fanout::Fanout;
use crate::error::EndCause;
use crate::monitor::EventOptions;
use crate::qmp::{self, EventFilter};
use crate::queue::{EventQueue, QueueOptions};
use crate::reconnect::ConnectionState;

/// Lives from the making of a monitor until its end, over all its connections.
pub(super) struct Outlet {
    pub(super) subscribers: Subscribers,
    /// What the monitor is doing. Once closed it stays so.
    pub(super) state: watch::Sender<ConnectionState>,
    /// Whether the user wants no session any more.
    left: AtomicBool,
}

impl Outlet {
    /// For a monitor that is not connected; its event queues hold `limit` items.
    pub(super) fn new(limit: usize) -> Self {
        Outlet {
            subscribers: Subscribers::new(limit),
            state: watch::Sender::new(ConnectionState::Opening),
            left: AtomicBool::new(false),
        }
    }

    /// Takes note that the user ends the monitor: a session that is being opened is theirs to end.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Says that commands can be sent, unless it is over already.
    pub(super) fn connected(&self) {
        self.set(ConnectionState::Connected);
    }

    /// Ends every event stream, and says why it is over; once.
    pub(super) fn end(&self, cause: &Arc<EndCause>) {
        self.subscribers.end(cause);
        self.set(ConnectionState::Closed {
            cause: cause.clone(),
        });
    }

    fn set(&self, new: ConnectionState) {
        self.state.send_if_modified(|state| {
            let open = !matches!(state, ConnectionState::Closed { .. });
            if open {
                *state = new;
            }
            open
        });
    }

    /// Waits until it is over, and says why.
    pub(super) async fn closed(&self) -> Arc<EndCause> {
        let mut state = self.state.subscribe();
        let closed = |state: &ConnectionState| matches!(state, ConnectionState::Closed { .. });
        match state.wait_for(closed).await.as_deref() {
            Ok(ConnectionState::Closed { cause }) => cause.clone(),
            _ => Arc::new(EndCause::UserClosed),
        }
    }
}

impl Drop for Outlet {
    /// Nobody is left who could connect: those who watch are told.
    fn drop(&mut self) {
        self.end(&Arc::new(EndCause::UserClosed));
    }
}

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

    /// Tells every queue that the connection was lost by `cause` and made again.
    pub(super) fn gap(&self, cause: &Arc<EndCause>) {
        self.fanout.gap(cause);
    }

    /// Ends every queue with `cause`, and those of later streams too.
    fn end(&self, cause: &Arc<EndCause>) {
        self.fanout.end(cause);
    }

    pub(super) fn add(&self) -> Arc<EventQueue> {
        let first = self.take_first();
        first.unwrap_or_else(|| self.fanout.add(QueueOptions::new(self.limit)))
    }

    /// A queue of its own bound and filter, which the events kept so far go through too where it is the first.
    pub(super) fn add_with(&self, options: &EventOptions) -> Arc<EventQueue> {
        let options = self.queue_options(options);
        match self.take_first() {
            Some(first) => self.fanout.replace(&first, options),
            None => self.fanout.add(options),
        }
    }

    /// A queue that leaves the events kept so far to another stream. Where all of them came after the call that wants it,
    /// because it had to connect first, it begins with a copy of them.
    pub(super) fn add_from_now(
        &self,
        options: &EventOptions,
        connected_before: bool,
    ) -> Arc<EventQueue> {
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
        let limit = options.queue.unwrap_or(self.limit);
        let may_match = |filter: &EventFilter, message: &Bytes| {
            qmp::event_name(message).is_none_or(|name| filter.may_match(&name))
        };
        QueueOptions::filtered(limit, options.overflow, &options.filter, may_match)
    }

    pub(super) fn remove(&self, queue: &Arc<EventQueue>) {
        self.fanout.remove(queue);
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
