//! The bounded queue between a connection task and one event stream. The task never waits for the stream: when the
//! queue is full something is dropped, and its number is reported in its place. Imports error and qmp.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::error::{EndCause, Error};
use crate::qmp::{Event, EventFilter};

/// Bytes that the items of one queue may have in all: as many as the longest message. One item fits in any case.
const MAX_BYTES: usize = 64 << 20;

/// Items that may wait as slices of the read buffer, each of which keeps all of that buffer in memory. Where more wait, the
/// stream is slow and they are copied out.
const MOST_SLICES: usize = 256;

/// What happens to events when a stream's queue is full, because they come faster than they are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest that wait are dropped, and the stream says how many, where they were.
    #[default]
    DropOldest,
    /// Those that come are dropped until the stream has taken all that wait; then it says how many.
    DropNewest,
    /// The stream ends: after the events that wait, its last item says that at least one was lost. For those who cannot go on
    /// with a gap.
    End,
}

/// How a queue is bounded, and what goes into it.
pub(crate) struct QueueOptions<T> {
    /// Items that may wait.
    pub(crate) limit: usize,
    pub(crate) overflow: Overflow,
    /// Whether an item is wanted at all; all are where there is none. Called by the connection task.
    pub(crate) accept: Option<Accept<T>>,
}

pub(crate) type Accept<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

impl<T> QueueOptions<T> {
    /// A queue that takes everything, and drops the oldest of more than `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        QueueOptions {
            limit,
            overflow: Overflow::DropOldest,
            accept: None,
        }
    }

    /// A queue as the stream wants it, in which what `filter` does not take by name has no place. `may_match` asks it about
    /// an item; for one whose name cannot be read it says yes, for that is an error in the stream.
    pub(crate) fn filtered(
        limit: usize,
        overflow: Overflow,
        filter: &EventFilter,
        may_match: fn(&EventFilter, &T) -> bool,
    ) -> Self
    where
        T: 'static,
    {
        let filter = (!filter.is_any()).then(|| filter.clone());
        QueueOptions {
            limit,
            overflow,
            accept: filter
                .map(|filter| -> Accept<T> { Arc::new(move |item| may_match(&filter, item)) }),
        }
    }
}

impl<T> Clone for QueueOptions<T> {
    fn clone(&self) -> Self {
        QueueOptions {
            limit: self.limit,
            overflow: self.overflow,
            accept: self.accept.clone(),
        }
    }
}

/// What can wait in a queue.
pub(crate) trait Queued {
    /// Bytes that it takes, about.
    fn size(&self) -> usize;

    /// Whether it belongs before `other`. See [`EventQueue::push_late`].
    fn comes_before(&self, _other: &Self) -> bool {
        false
    }
}

/// What can wait as a slice of a read buffer.
pub(crate) trait Slice: Queued {
    /// The same with its bytes to itself.
    fn detached(&self) -> Self;
}

impl Queued for Bytes {
    fn size(&self) -> usize {
        self.len()
    }
}

impl Slice for Bytes {
    fn detached(&self) -> Self {
        Bytes::copy_from_slice(self)
    }
}

impl Queued for Event {
    fn size(&self) -> usize {
        let data = self.data.as_ref().map_or(0, |data| data.get().len());
        std::mem::size_of::<Event>() + self.name.len() + data
    }
}

/// What comes out of a queue.
#[derive(Debug)]
pub(crate) enum Item<T = Bytes> {
    Event(T),
    /// So many were dropped here.
    Lost(u64),
    /// The connection was lost here, and made again: nobody knows what is missing. Losses with nothing between them that is still
    /// there are one.
    Gap(Arc<EndCause>),
    /// The connection ended; nothing follows.
    Ended(Arc<EndCause>),
    /// Nothing follows, for this reason of the stream's own.
    Failed(Error),
}

/// An item as the reader of a stream is told it.
pub(crate) enum Told<T> {
    Event(T),
    /// The stream goes on after this.
    Error(Error),
    /// Nothing follows, for this reason; for none where the user ended the connection.
    End(Option<Error>),
}

impl<T> Item<T> {
    pub(crate) fn told(self) -> Told<T> {
        match self {
            Item::Event(event) => Told::Event(event),
            Item::Lost(number) => Told::Error(Error::EventsLost(number)),
            Item::Gap(cause) => Told::Error(Error::Gap { cause }),
            Item::Failed(error) => Told::End(Some(error)),
            Item::Ended(cause) if matches!(*cause, EndCause::UserClosed) => Told::End(None),
            Item::Ended(cause) => Told::End(Some(Error::disconnected(cause, false))),
        }
    }
}

/// Shared by the connection task, which pushes, and the stream, which takes.
pub(crate) struct EventQueue<T = Bytes> {
    options: QueueOptions<T>,
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    /// Begins with an event, if there is anything; no two gaps are neighbours.
    items: VecDeque<Waiting<T>>,
    /// How many of `items` are gaps: they take no room.
    gaps: usize,
    bytes: usize,
    /// Dropped before the first of `items`.
    lost: u64,
    /// After those, before the first of `items`.
    gap: Option<Arc<EndCause>>,
    /// What comes after the last of `items`; nothing is added before it is taken.
    after: After,
    end: Option<End>,
    waker: Option<Waker>,
}

#[derive(Clone)]
enum End {
    Connection(Arc<EndCause>),
    Own(Box<Error>),
}

enum Waiting<T> {
    Event(T),
    Gap(Arc<EndCause>),
}

/// The end of what waits, where events were dropped there. A gap among them comes after them all.
#[derive(Default)]
struct After {
    lost: u64,
    gap: Option<Arc<EndCause>>,
}

/// The stream's own end of a queue: what one lock has fetched.
pub(crate) struct Taken<T = Bytes> {
    items: VecDeque<Waiting<T>>,
    after: After,
}

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Taken {
            items: VecDeque::new(),
            after: After::default(),
        }
    }
}

impl<T> Taken<T> {
    fn next(&mut self) -> Option<Item<T>> {
        match self.items.pop_front() {
            Some(Waiting::Event(item)) => return Some(Item::Event(item)),
            Some(Waiting::Gap(cause)) => return Some(Item::Gap(cause)),
            None => {}
        }
        if self.after.lost > 0 {
            return Some(Item::Lost(std::mem::take(&mut self.after.lost)));
        }
        self.after.gap.take().map(Item::Gap)
    }
}

impl<T: Slice> EventQueue<T> {
    /// Adds an item that is a slice of a read buffer: copied out where many wait, so that they do not keep theirs.
    pub(crate) fn push_slice(&self, item: T) {
        if !self.accepts(&item) {
            return;
        }
        let inner = self.lock();
        let item = match inner.items.len() {
            ..MOST_SLICES => item,
            _ => item.detached(),
        };
        self.add(inner, item);
    }
}

impl<T: Queued> EventQueue<T> {
    /// An empty queue.
    pub(crate) fn new(options: QueueOptions<T>) -> Arc<Self> {
        Arc::new(EventQueue {
            options,
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                gaps: 0,
                bytes: 0,
                lost: 0,
                gap: None,
                after: After::default(),
                end: None,
                waker: None,
            }),
        })
    }

    /// Adds an item that has its bytes to itself.
    pub(crate) fn push(&self, item: T) {
        if self.accepts(&item) {
            self.add(self.lock(), item);
        }
    }

    fn accepts(&self, item: &T) -> bool {
        self.options
            .accept
            .as_ref()
            .is_none_or(|accept| accept(item))
    }

    /// Adds items of which some may belong before those that wait, in their own order. All at once, for each would have to
    /// pass what waits by itself.
    pub(crate) fn push_late(&self, items: impl Iterator<Item = T>) {
        let items: Vec<T> = items.filter(|item| self.accepts(item)).collect();
        if items.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for item in items {
            self.take_in(&mut inner, item);
        }
        inner.put_in_order();
        wake(inner);
    }

    fn add(&self, mut inner: MutexGuard<'_, Inner<T>>, item: T) {
        if self.take_in(&mut inner, item) {
            wake(inner);
        }
    }

    /// Adds an item at the end, and says whether it is in.
    fn take_in(&self, inner: &mut Inner<T>, item: T) -> bool {
        if inner.end.is_some() {
            return false;
        }
        let size = item.size();
        if inner.is_full(size, self.options.limit) || inner.after.lost > 0 {
            match self.options.overflow {
                Overflow::DropOldest => inner.make_room(size, self.options.limit),
                Overflow::DropNewest => {
                    inner.after.lost += 1;
                    return false;
                }
                Overflow::End => {
                    inner.after.lost += 1;
                    inner.end = Some(End::Connection(Arc::new(EndCause::UserClosed)));
                    return false;
                }
            }
        }
        inner.bytes = inner.bytes.saturating_add(size);
        inner.items.push_back(Waiting::Event(item));
        true
    }

    /// Gives `other` a copy of all that waits, the end included. Nothing is taken.
    pub(crate) fn copy_to(&self, other: &EventQueue<T>)
    where
        T: Clone,
    {
        let inner = self.lock();
        if inner.lost > 0 {
            other.lose(inner.lost);
        }
        if let Some(cause) = &inner.gap {
            other.gap(cause);
        }
        for item in &inner.items {
            match item {
                Waiting::Event(item) => other.push(item.clone()),
                Waiting::Gap(cause) => other.gap(cause),
            }
        }
        if inner.after.lost > 0 {
            other.lose(inner.after.lost);
        }
        if let Some(cause) = &inner.after.gap {
            other.gap(cause);
        }
        if let Some(end) = &inner.end {
            other.end_with(end.clone());
        }
    }

    /// Reports `number` events as lost that never came this far.
    pub(crate) fn lose(&self, number: u64) {
        if number > 0 {
            self.lock().lost += number;
        }
    }

    /// Says after what is queued that the connection was lost by `cause` and made again: events may be missing there.
    pub(crate) fn gap(&self, cause: &Arc<EndCause>) {
        let mut inner = self.lock();
        if inner.end.is_some() {
            return;
        }
        if inner.after.lost > 0 {
            inner.after.gap.get_or_insert_with(|| cause.clone());
        } else if inner.items.is_empty() {
            inner.gap.get_or_insert_with(|| cause.clone());
        } else if !matches!(inner.items.back(), Some(Waiting::Gap(_))) {
            inner.items.push_back(Waiting::Gap(cause.clone()));
            inner.gaps += 1;
        }
        wake(inner);
    }

    /// Nothing follows what is queued but the cause.
    pub(crate) fn end(&self, cause: Arc<EndCause>) {
        self.end_with(End::Connection(cause));
    }

    /// Nothing follows what is queued but this error, though the connection lives.
    pub(crate) fn fail(&self, error: Error) {
        self.end_with(End::Own(Box::new(error)));
    }

    fn end_with(&self, end: End) {
        let mut inner = self.lock();
        inner.end.get_or_insert(end);
        wake(inner);
    }

    /// The next item. `taken` is the stream's own end of the queue: one lock fetches all that waits.
    pub(crate) fn poll_next(&self, taken: &mut Taken<T>, cx: &mut Context<'_>) -> Poll<Item<T>> {
        if let Some(item) = taken.next() {
            return Poll::Ready(item);
        }
        let mut inner = self.lock();
        if inner.lost > 0 {
            return Poll::Ready(Item::Lost(std::mem::take(&mut inner.lost)));
        }
        if let Some(cause) = inner.gap.take() {
            return Poll::Ready(Item::Gap(cause));
        }
        std::mem::swap(&mut inner.items, &mut taken.items);
        taken.after = std::mem::take(&mut inner.after);
        inner.bytes = 0;
        inner.gaps = 0;
        if let Some(item) = taken.next() {
            return Poll::Ready(item);
        }
        match &inner.end {
            Some(End::Connection(cause)) => return Poll::Ready(Item::Ended(cause.clone())),
            Some(End::Own(error)) => return Poll::Ready(Item::Failed((**error).clone())),
            None => {}
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

impl<T: Queued> Inner<T> {
    fn is_full(&self, size: usize, limit: usize) -> bool {
        let too_many = self.items.len() - self.gaps >= limit;
        too_many || (!self.items.is_empty() && self.bytes.saturating_add(size) > MAX_BYTES)
    }

    /// Moves each item to where it belongs: never before a gap, which parts two connections. Two orders that follow each other are
    /// merged by this, which takes no longer than to walk along them.
    fn put_in_order(&mut self) {
        let is_gap = |item: &Waiting<T>| matches!(item, Waiting::Gap(_));
        let after_gap = self.items.iter().rposition(is_gap).map_or(0, |gap| gap + 1);
        let items = &mut self.items.make_contiguous()[after_gap..];
        items.sort_by(|one, other| match (one, other) {
            (Waiting::Event(one), Waiting::Event(other)) if one.comes_before(other) => {
                Ordering::Less
            }
            (Waiting::Event(one), Waiting::Event(other)) if other.comes_before(one) => {
                Ordering::Greater
            }
            _ => Ordering::Equal,
        });
    }

    fn make_room(&mut self, size: usize, limit: usize) {
        while self.is_full(size, limit) {
            let Some(Waiting::Event(oldest)) = self.items.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(oldest.size());
            self.lost += 1;
            // A gap stays, after all that were dropped around it.
            if let Some(Waiting::Gap(_)) = self.items.front()
                && let Some(Waiting::Gap(cause)) = self.items.pop_front()
            {
                self.gaps -= 1;
                self.gap.get_or_insert(cause);
            }
        }
    }
}

fn wake<T>(mut inner: MutexGuard<'_, Inner<T>>) {
    let waker = inner.waker.take();
    drop(inner);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl<T> fmt::Debug for EventQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventQueue")
            .field("limit", &self.options.limit)
            .field("overflow", &self.options.overflow)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn queue(limit: usize) -> Arc<EventQueue> {
        EventQueue::new(QueueOptions::new(limit))
    }

    async fn next(queue: &EventQueue, taken: &mut Taken) -> Item {
        poll_fn(|cx| queue.poll_next(taken, cx)).await
    }

    fn push_all<const N: usize>(queue: &EventQueue, items: [&'static str; N]) {
        items
            .into_iter()
            .for_each(|item| queue.push(Bytes::from(item)));
    }

    #[tokio::test]
    async fn the_oldest_go_and_their_number_comes_in_their_place() {
        let queue = queue(2);
        let mut taken = Taken::default();
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
        let queue = queue(100);
        let mut taken = Taken::default();
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
        let queue = queue(buffers.len());
        buffers
            .iter()
            .for_each(|buffer| queue.push_slice(buffer.slice(..10)));
        let kept = buffers.iter().filter(|buffer| !buffer.is_unique());
        assert_eq!(kept.count(), MOST_SLICES);
    }

    #[tokio::test]
    async fn what_is_queued_comes_before_the_end() {
        let queue = queue(2);
        let mut taken = Taken::default();
        queue.push("1".into());
        queue.end(Arc::new(EndCause::PeerClosed));
        queue.push("2".into());
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "1"));
        assert!(matches!(next(&queue, &mut taken).await, Item::Ended(_)));
    }

    #[tokio::test]
    async fn a_waiting_stream_is_woken() {
        let queue = queue(2);
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { next(&queue, &mut Taken::default()).await }
        });
        tokio::task::yield_now().await;
        queue.push("7".into());
        assert!(matches!(waiting.await.unwrap(), Item::Event(item) if item == "7"));
    }

    #[tokio::test]
    async fn the_newest_go_where_that_is_asked_for_until_the_rest_is_taken() {
        let queue = EventQueue::new(QueueOptions {
            overflow: Overflow::DropNewest,
            ..QueueOptions::new(2)
        });
        let mut taken = Taken::default();
        push_all(&queue, ["1", "2", "3", "4"]);
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "1"));
        // There is room again, and what comes now comes after the gap.
        push_all(&queue, ["5"]);
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "2"));
        assert!(matches!(next(&queue, &mut taken).await, Item::Lost(2)));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "5"));
    }

    #[tokio::test]
    async fn a_stream_that_cannot_have_gaps_ends_with_one() {
        let queue = EventQueue::new(QueueOptions {
            overflow: Overflow::End,
            ..QueueOptions::new(2)
        });
        let mut taken = Taken::default();
        push_all(&queue, ["1", "2", "3", "4"]);
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "1"));
        assert!(matches!(next(&queue, &mut taken).await, Item::Event(item) if item == "2"));
        assert!(matches!(next(&queue, &mut taken).await, Item::Lost(1)));
        push_all(&queue, ["5"]);
        assert!(matches!(next(&queue, &mut taken).await, Item::Ended(_)));
    }

    fn lost_by(reason: &str) -> Arc<EndCause> {
        Arc::new(EndCause::Protocol(reason.to_owned()))
    }

    /// What waits in `queue`, in words.
    async fn all(queue: &EventQueue) -> Vec<String> {
        let mut taken = Taken::default();
        queue.end(Arc::new(EndCause::PeerClosed));
        let mut all = Vec::new();
        loop {
            all.push(match next(queue, &mut taken).await {
                Item::Event(item) => String::from_utf8(item.to_vec()).unwrap(),
                Item::Lost(number) => format!("{number} lost"),
                Item::Gap(cause) => cause.to_string().replace("protocol violation: ", "gap "),
                Item::Failed(error) => {
                    all.push(error.to_string());
                    return all;
                }
                Item::Ended(_) => return all,
            });
        }
    }

    #[tokio::test]
    async fn a_gap_comes_between_the_events_it_was_between() {
        let queue = queue(3);
        queue.gap(&lost_by("a"));
        push_all(&queue, ["1", "2"]);
        queue.gap(&lost_by("b"));
        // Nothing came between: for the stream they are one.
        queue.gap(&lost_by("c"));
        push_all(&queue, ["3"]);
        queue.gap(&lost_by("d"));
        let copy = self::queue(3);
        queue.copy_to(&copy);
        for queue in [queue, copy] {
            assert_eq!(
                all(&queue).await,
                ["gap a", "1", "2", "gap b", "3", "gap d"]
            );
        }
    }

    #[tokio::test]
    async fn a_gap_takes_no_room_and_is_never_dropped() {
        let queue = queue(2);
        push_all(&queue, ["1"]);
        queue.gap(&lost_by("a"));
        push_all(&queue, ["2"]);
        queue.gap(&lost_by("b"));
        push_all(&queue, ["3"]);
        queue.gap(&lost_by("c"));
        let copy = self::queue(2);
        queue.copy_to(&copy);
        for queue in [queue, copy] {
            push_all(&queue, ["4", "5", "6"]);
            queue.gap(&lost_by("d"));
            assert_eq!(all(&queue).await, ["4 lost", "gap a", "5", "6", "gap d"]);
        }
    }

    #[tokio::test]
    async fn gaps_do_not_pile_up_without_a_reader() {
        let queue = queue(2);
        for _ in 0..1000 {
            push_all(&queue, ["1"]);
            queue.gap(&lost_by("a"));
        }
        assert_eq!(queue.lock().items.len(), 4);
        assert_eq!(queue.lock().gaps, 2);
        assert_eq!(
            all(&queue).await,
            ["998 lost", "gap a", "1", "gap a", "1", "gap a"]
        );
    }

    #[tokio::test]
    async fn a_gap_where_the_newest_go_comes_after_them() {
        let queue = EventQueue::new(QueueOptions {
            overflow: Overflow::DropNewest,
            ..QueueOptions::new(1)
        });
        push_all(&queue, ["1", "2"]);
        queue.gap(&lost_by("a"));
        push_all(&queue, ["3"]);
        queue.gap(&lost_by("b"));
        assert_eq!(all(&queue).await, ["1", "2 lost", "gap a"]);
    }

    #[tokio::test]
    async fn there_is_no_gap_after_the_end_and_one_wakes_the_stream() {
        let queue = EventQueue::new(QueueOptions {
            overflow: Overflow::End,
            ..QueueOptions::new(1)
        });
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { next(&queue, &mut Taken::default()).await }
        });
        tokio::task::yield_now().await;
        queue.gap(&lost_by("a"));
        assert!(matches!(waiting.await.unwrap(), Item::Gap(_)));
        push_all(&queue, ["1", "2"]);
        queue.gap(&lost_by("b"));
        assert_eq!(all(&queue).await, ["1", "1 lost"]);
    }

    #[tokio::test]
    async fn a_stream_can_end_by_itself() {
        let queue = queue(2);
        push_all(&queue, ["1"]);
        queue.fail(Error::Unsupported("this".to_owned()));
        push_all(&queue, ["2"]);
        let copy = self::queue(2);
        queue.copy_to(&copy);
        for queue in [queue, copy] {
            assert_eq!(all(&queue).await, ["1", "not supported: this"]);
        }
    }

    #[test]
    fn a_gap_costs_the_events_no_memory() {
        use std::mem::size_of;
        assert_eq!(size_of::<Waiting<Bytes>>(), size_of::<Bytes>());
        assert_eq!(size_of::<Waiting<Event>>(), size_of::<Event>());
    }

    #[tokio::test]
    async fn a_late_item_goes_where_it_belongs() {
        #[derive(Debug, PartialEq)]
        struct Place(u32);

        impl Queued for Place {
            fn size(&self) -> usize {
                4
            }

            fn comes_before(&self, other: &Self) -> bool {
                self.0 < other.0
            }
        }

        let queue = EventQueue::new(QueueOptions::new(3));
        let mut taken = Taken::default();
        [2, 5]
            .into_iter()
            .for_each(|place| queue.push(Place(place)));
        queue.push_late([3, 4].into_iter().map(Place));
        // What another connection brings stays behind the gap.
        queue.gap(&lost_by("a"));
        queue.push(Place(7));
        queue.push_late([1].into_iter().map(Place));
        queue.end(Arc::new(EndCause::PeerClosed));
        let mut items = Vec::new();
        let mut gap_after = None;
        loop {
            match poll_fn(|cx| queue.poll_next(&mut taken, cx)).await {
                Item::Event(Place(place)) => items.push(place),
                Item::Lost(number) => assert_eq!(number, 3),
                Item::Gap(_) => gap_after = Some(items.len()),
                Item::Failed(_) | Item::Ended(_) => break,
            }
        }
        assert_eq!((items, gap_after), (vec![5, 1, 7], Some(1)));
    }

    /// A peer chooses how many come late, and behind how many.
    #[test]
    fn late_items_are_put_in_order_by_one_walk() {
        use std::cell::Cell;

        thread_local!(static ASKED: Cell<usize> = const { Cell::new(0) });
        struct Place(usize);

        impl Queued for Place {
            fn size(&self) -> usize {
                4
            }

            fn comes_before(&self, other: &Self) -> bool {
                ASKED.set(ASKED.get() + 1);
                self.0 < other.0
            }
        }

        let (early, late) = (100_000, 4_000);
        let queue = EventQueue::new(QueueOptions::new(early + late));
        (late..late + early).for_each(|place| queue.push(Place(place)));
        assert_eq!(ASKED.get(), 0);
        queue.push_late((0..late).map(Place));
        assert!(ASKED.get() < 4 * (early + late), "{}", ASKED.get());
        let inner = queue.lock();
        let places = inner.items.iter().map(|item| match item {
            Waiting::Event(Place(place)) => *place,
            Waiting::Gap(_) => usize::MAX,
        });
        assert!(places.eq(0..early + late));
    }

    #[tokio::test]
    async fn what_is_not_wanted_takes_no_room() {
        let queue = EventQueue::new(QueueOptions {
            accept: Some(Arc::new(|item: &Bytes| item.starts_with(b"a"))),
            ..QueueOptions::new(2)
        });
        let mut taken = Taken::default();
        push_all(&queue, ["a1", "b", "b", "b", "a2", "b"]);
        queue.push_slice("b".into());
        for expected in ["a1", "a2"] {
            assert!(
                matches!(next(&queue, &mut taken).await, Item::Event(item) if item == expected)
            );
        }
        queue.end(Arc::new(EndCause::PeerClosed));
        assert!(matches!(next(&queue, &mut taken).await, Item::Ended(_)));
    }
}
