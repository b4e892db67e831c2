//! The bounded queue between a connection task and one event stream. The task never waits for the stream: when the
//! queue is full the oldest items go, and their number is reported in their place. Imports error only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::error::EndCause;

/// Bytes that the items of one queue may have in all: as many as the longest message. One item fits in any case.
const MAX_BYTES: usize = 64 << 20;

/// Items that may wait as slices of the read buffer, each of which keeps all of that buffer in memory. Where more wait, the
/// stream is slow and they are copied out.
const MOST_SLICES: usize = 256;

/// What comes out of a queue.
#[derive(Debug)]
pub(crate) enum Item {
    Event(Bytes),
    /// So many were dropped here.
    Lost(u64),
    /// The connection ended; nothing follows.
    Ended(Arc<EndCause>),
}

/// Shared by the connection task, which pushes, and the stream, which takes.
#[derive(Debug)]
pub(crate) struct EventQueue {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    items: VecDeque<Bytes>,
    bytes: usize,
    lost: u64,
    end: Option<Arc<EndCause>>,
    waker: Option<Waker>,
}

impl EventQueue {
    /// A queue of at most `limit` items.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(EventQueue {
            limit,
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                bytes: 0,
                lost: 0,
                end: None,
                waker: None,
            }),
        })
    }

    /// Adds an item that is a slice of a read buffer: copied out where many wait, so that they do not keep theirs.
    pub(crate) fn push_slice(&self, item: Bytes) {
        let inner = self.lock();
        let item = match inner.items.len() {
            ..MOST_SLICES => item,
            _ => Bytes::copy_from_slice(&item),
        };
        self.add(inner, item);
    }

    /// Adds an item that has its bytes to itself; the oldest go if there is no room.
    pub(crate) fn push(&self, item: Bytes) {
        self.add(self.lock(), item);
    }

    fn add(&self, mut inner: MutexGuard<'_, Inner>, item: Bytes) {
        if inner.end.is_some() {
            return;
        }
        let size = item.len();
        while inner.items.len() >= self.limit || inner.bytes.saturating_add(size) > MAX_BYTES {
            let Some(oldest) = inner.items.pop_front() else {
                break;
            };
            inner.bytes -= oldest.len();
            inner.lost += 1;
        }
        inner.bytes += size;
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
    pub(crate) fn poll_next(
        &self,
        taken: &mut VecDeque<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Item> {
        if let Some(item) = taken.pop_front() {
            return Poll::Ready(Item::Event(item));
        }
        let mut inner = self.lock();
        if inner.lost > 0 {
            return Poll::Ready(Item::Lost(std::mem::take(&mut inner.lost)));
        }
        std::mem::swap(&mut inner.items, taken);
        inner.bytes = 0;
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(queue: &EventQueue, taken: &mut VecDeque<Bytes>) -> Item {
        poll_fn(|cx| queue.poll_next(taken, cx)).await
    }

    fn push_all<const N: usize>(queue: &EventQueue, items: [&'static str; N]) {
        items
            .into_iter()
            .for_each(|item| queue.push(Bytes::from(item)));
    }

    #[tokio::test]
    async fn the_oldest_go_and_their_number_comes_in_their_place() {
        let queue = EventQueue::new(2);
        let mut taken = VecDeque::new();
        push_all(&queue, ["1", "2", "3", "4", "5"]);
        assert!(matches!(next(&queue, &mut taken).await, Item::Lost(3)));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "4"));
        // What the stream has taken already comes before a later gap.
        push_all(&queue, ["6", "7", "8"]);
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "5"));
        assert!(matches!(next(&queue, &mut taken).await, Item::Lost(1)));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "7"));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "8"));
    }

    #[tokio::test]
    async fn large_items_count_by_their_size() {
        let third: &'static str = Box::leak("x".repeat(MAX_BYTES / 3).into());
        let whole: &'static str = Box::leak("y".repeat(MAX_BYTES + 1).into());
        let queue = EventQueue::new(100);
        let mut taken = VecDeque::new();
        push_all(&queue, [third; 5]);
        assert!(matches!(next(&queue, &mut taken).await, Item::Lost(2)));
        for _ in 0..3 {
            assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == third));
        }
        // What was taken does not count any more, and what is larger than all is held alone.
        push_all(&queue, [third, third, whole]);
        assert!(matches!(next(&queue, &mut taken).await, Item::Lost(2)));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == whole));
        push_all(&queue, [whole, "small"]);
        assert!(matches!(next(&queue, &mut taken).await, Item::Lost(1)));
        assert!(matches!(
            next(&queue, &mut taken).await,
            Item::Event(item) if item == "small"
        ));
    }

    #[test]
    fn a_slow_stream_keeps_few_read_buffers() {
        let buffers: Vec<_> = (0..2 * MOST_SLICES)
            .map(|_| Bytes::from(vec![b'x'; 100]))
            .collect();
        let queue = EventQueue::new(buffers.len());
        buffers
            .iter()
            .for_each(|buffer| queue.push_slice(buffer.slice(..10)));
        let kept = buffers.iter().filter(|buffer| !buffer.is_unique());
        assert_eq!(kept.count(), MOST_SLICES);
    }

    #[tokio::test]
    async fn what_is_queued_comes_before_the_end() {
        let queue = EventQueue::new(2);
        let mut taken = VecDeque::new();
        queue.push("1".into());
        queue.end(Arc::new(EndCause::PeerClosed));
        queue.push("2".into());
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "1"));
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
        queue.push("7".into());
        assert!(matches!(waiting.await.unwrap(), Item::Event(item) if item == "7"));
    }
}
