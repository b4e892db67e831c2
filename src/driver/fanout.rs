//! One source of events, many streams of them. Imports queue and error.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::EndCause;
use crate::queue::{EventQueue, Item, QueueOptions, Queued, Taken};

/// The queues that each event of a source goes to.
pub(super) struct Fanout<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    queues: Vec<Arc<EventQueue<T>>>,
    /// Why nothing comes any more.
    end: Option<Arc<EndCause>>,
}

impl<T> Default for Fanout<T> {
    fn default() -> Self {
        Fanout {
            inner: Mutex::new(Inner {
                queues: Vec::new(),
                end: None,
            }),
        }
    }
}

impl<T: Queued + Clone> Fanout<T> {
    /// Gives every queue its copy of what `item` makes; it is not asked where there are no queues.
    pub(super) fn push(&self, item: impl FnOnce() -> T) {
        let inner = self.lock();
        if let Some((last, others)) = inner.queues.split_last() {
            let item = item();
            others.iter().for_each(|queue| queue.push(item.clone()));
            last.push(item);
        }
    }

    /// A new queue; one that has ended where the source has.
    pub(super) fn add(&self, options: QueueOptions<T>) -> Arc<EventQueue<T>> {
        let queue = EventQueue::new(options);
        let mut inner = self.lock();
        match &inner.end {
            Some(cause) => queue.end(cause.clone()),
            None => inner.queues.push(queue.clone()),
        }
        queue
    }

    /// A new queue in the place of `old`, which nobody has taken anything from: it begins with what waits there, as far as its
    /// own options let it in, and misses nothing in between.
    pub(super) fn replace(
        &self,
        old: &Arc<EventQueue<T>>,
        options: QueueOptions<T>,
    ) -> Arc<EventQueue<T>> {
        let queue = EventQueue::new(options);
        let mut inner = self.lock();
        let (mut taken, mut nobody) = (Taken::default(), Context::from_waker(Waker::noop()));
        let is_open = loop {
            match old.poll_next(&mut taken, &mut nobody) {
                Poll::Ready(Item::Event(item)) => queue.push(item),
                Poll::Ready(Item::Lost(number)) => queue.lose(number),
                Poll::Ready(Item::Gap(cause)) => queue.gap(&cause),
                Poll::Ready(Item::Failed(error)) => {
                    queue.fail(error);
                    break false;
                }
                Poll::Ready(Item::Ended(cause)) => {
                    queue.end(cause);
                    break false;
                }
                Poll::Pending => break true,
            }
        };
        if is_open {
            inner.queues.push(queue.clone());
        }
        inner.queues.retain(|other| !Arc::ptr_eq(other, old));
        queue
    }

    /// A new queue beside `old`, which nobody has taken anything from: it begins with a copy of what waits there, as far as its
    /// own options let it in.
    pub(super) fn add_copy(
        &self,
        old: &Arc<EventQueue<T>>,
        options: QueueOptions<T>,
    ) -> Arc<EventQueue<T>> {
        let queue = EventQueue::new(options);
        let mut inner = self.lock();
        old.copy_to(&queue);
        if inner.end.is_none() {
            inner.queues.push(queue.clone());
        }
        queue
    }

    /// Takes a queue out, and says whether it was the last one.
    pub(super) fn remove(&self, queue: &Arc<EventQueue<T>>) -> bool {
        let mut inner = self.lock();
        let before = inner.queues.len();
        inner.queues.retain(|other| !Arc::ptr_eq(other, queue));
        before > 0 && inner.queues.is_empty()
    }

    /// Tells every queue that its source was lost by `cause` and is there again.
    pub(super) fn gap(&self, cause: &Arc<EndCause>) {
        for queue in &self.lock().queues {
            queue.gap(cause);
        }
    }

    /// Ends every queue with `cause`, and those of later streams too.
    pub(super) fn end(&self, cause: &Arc<EndCause>) {
        let mut inner = self.lock();
        inner.end.get_or_insert_with(|| cause.clone());
        for queue in inner.queues.drain(..) {
            queue.end(cause.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Nothing panics under this lock: a filter by name runs no code of the user.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
