//! The bounded queue between a connection task and one event stream. The task never waits for the stream: when the
//! queue is full the oldest items go, and their number is reported in their place. Imports error only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::EndCause;

/// What comes out of a queue.
#[derive(Debug)]
pub(crate) enum Item<T> {
    Event(T),
    /// So many were dropped here.
    Lost(u64),
    /// The connection ended; nothing follows.
    Ended(Arc<EndCause>),
}

/// Shared by the connection task, which pushes, and the stream, which takes.
#[derive(Debug)]
pub(crate) struct EventQueue<T> {
    limit: usize,
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    lost: u64,
    end: Option<Arc<EndCause>>,
    waker: Option<Waker>,
}

impl<T> EventQueue<T> {
    /// A queue of at most `limit` items.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(EventQueue {
            limit,
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                lost: 0,
                end: None,
                waker: None,
            }),
        })
    }

    /// Adds an item; the oldest goes if there is no room.
    pub(crate) fn push(&self, item: T) {
        let mut inner = self.lock();
        if inner.end.is_some() {
            return;
        }
        if inner.items.len() >= self.limit {
            inner.items.pop_front();
            inner.lost += 1;
        }
        inner.items.push_back(item);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Reports `number` events as lost that never came this far.
    pub(crate) fn lose(&self, number: u64) {
        self.lock().lost += number;
    }

    /// Nothing follows what is queued but the cause.
    pub(crate) fn end(&self, cause: Arc<EndCause>) {
        let mut inner = self.lock();
        inner.end.get_or_insert(cause);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next item. `taken` is the stream's own end of the queue: one lock fetches all that waits.
    pub(crate) fn poll_next(&self, taken: &mut VecDeque<T>, cx: &mut Context<'_>) -> Poll<Item<T>> {
        if let Some(item) = taken.pop_front() {
            return Poll::Ready(Item::Event(item));
        }
        let mut inner = self.lock();
        if inner.lost > 0 {
            return Poll::Ready(Item::Lost(std::mem::take(&mut inner.lost)));
        }
        std::mem::swap(&mut inner.items, taken);
        if let Some(item) = taken.pop_front() {
            return Poll::Ready(Item::Event(item));
        }
        if let Some(cause) = &inner.end {
            return Poll::Ready(Item::Ended(cause.clone()));
        }
        match &mut inner.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Nothing panics under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(queue: &EventQueue<u32>, taken: &mut VecDeque<u32>) -> Item<u32> {
        poll_fn(|cx| queue.poll_next(taken, cx)).await
    }

    #[tokio::test]
    async fn the_oldest_go_and_their_number_comes_in_their_place() {
        let queue = EventQueue::new(2);
        let mut taken = VecDeque::new();
        (1..=5).for_each(|n| queue.push(n));
        assert!(matches!(next(&queue, &mut taken).await, Item::Lost(3)));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(4)));
        // What the stream has taken already comes before a later gap.
        (6..=8).for_each(|n| queue.push(n));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(5)));
        assert!(matches!(next(&queue, &mut taken).await, Item::Lost(1)));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(7)));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(8)));
    }

    #[tokio::test]
    async fn what_is_queued_comes_before_the_end() {
        let queue = EventQueue::new(2);
        let mut taken = VecDeque::new();
        queue.push(1);
        queue.end(Arc::new(EndCause::PeerClosed));
        queue.push(2);
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(1)));
        assert!(matches!(next(&queue, &mut taken).await, Item::Ended(_)));
    }

    #[tokio::test]
    async fn a_waiting_stream_is_woken() {
        let queue = EventQueue::new(2);
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { next(&queue, &mut VecDeque::new()).await }
        });
        tokio::task::yield_now().await;
        queue.push(7);
        assert!(matches!(waiting.await.unwrap(), Item::Event(7)));
    }
}
