//! A bounded history of a monitor's events. Imports monitor, queue, qmp, error, `condition` and `waiter`.
//!
//! One task takes the events of one stream and puts them into a ring. Looking at the ring and registering for what follows
//! is one step under one lock, so nothing is missed between. What comes is given to each who waits in a queue of its own, by
//! the name of the event alone; predicates are asked by those who wait, so no code of the user runs under the lock or in the
//! task, and a burst that overruns the ring takes nothing from them.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use tokio::task::AbortHandle;
use tracing::debug;

use super::condition::Wait;
use super::waiter::{Deadline, Occurrence, Waiter, next};
use crate::error::{EndCause, Error, Phase};
use crate::monitor::{EventStream, Monitor};
use crate::qmp::{Event, EventFilter};
use crate::queue::{EventQueue, Item, QueueOptions, Queued, Taken};

/// Bytes that the events of one history may have in all. One event fits in any case.
const MAX_BYTES: usize = 64 << 20;

/// Events recorded before other tasks get their turn, where they come without a pause.
const EVENTS_PER_TURN: u32 = 64;

/// The last events of a monitor, each with a number; made by [`WaitExt::history`](crate::WaitExt::history).
///
/// Clones share one history. The events are recorded until the last of them is dropped, or there are no more.
///
/// ```no_run
/// # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), libvirt_qmp::Error> {
/// use std::time::Duration;
/// use libvirt_qmp::{After, History, Wait, WaitExt};
///
/// let history = monitor.history(History::CAPACITY).await?;
/// let before = history.mark();
/// // Whatever happens here, and however long it takes:
/// monitor.run(br#"{"execute":"eject","arguments":{"id":"cd0"}}"#).await?;
/// let moved = Wait::tray("cd0", libvirt_qmp::Tray::Open);
/// history.wait_for(moved, After::Seq(before), Duration::from_secs(5)).await?;
/// let all = history.find_events("DEVICE_TRAY_MOVED", After::Any);
/// println!("the tray has moved {} times", all.events.len());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct History {
    shared: Arc<Shared>,
    /// Ends the task with the last clone.
    _feed: Arc<Feed>,
}

/// One event of a [`History`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// Its number, which is one more than that of the event before it, from 1 on. Events that were lost on the way here have
    /// numbers too.
    pub seq: u64,
    /// When it came here, by this host's monotonic clock. That of QEMU's host is in the event.
    pub at: Instant,
    /// The event.
    pub event: Arc<Event>,
}

/// Which events of a [`History`] are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum After {
    /// All that are still there.
    Any,
    /// Those that came after the one with this number: what [`History::mark`] gave, or an entry's own.
    Seq(u64),
    /// Those of this second or later, by the clock of QEMU's host: seconds since 1970. Both are compared as they are, so
    /// a clock that was set back in between counts, and an event without a time (-1) is before all others.
    UnixSecs(i64),
}

/// What was found in a [`History`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The events, in the order they came.
    pub events: Vec<HistoryEntry>,
    /// With [`After::Seq`]: how many events of any name came after that one and are not there any more, so that some that
    /// were looked for may be missing. Those that were taken away by [`History::clear`] are not counted. A connection that was
    /// lost and made again ([`Error::Gap`]) counts as one, for nobody knows how many came meanwhile.
    pub missed: u64,
    /// The number of the last event that was looked at, for [`After::Seq`] the next time.
    pub mark: u64,
}

impl After {
    fn takes(self, entry: &HistoryEntry) -> bool {
        match self {
            After::Any => true,
            After::Seq(seq) => entry.seq > seq,
            After::UnixSecs(seconds) => entry.event.timestamp.seconds >= seconds,
        }
    }
}

impl Occurrence for HistoryEntry {
    fn event(&self) -> &Event {
        &self.event
    }
}

/// What goes to those who wait.
#[derive(Clone)]
enum Live {
    Entry(HistoryEntry),
    Lost(u64),
}

impl Queued for Live {
    fn size(&self) -> usize {
        match self {
            Live::Entry(entry) => entry.event.size(),
            Live::Lost(_) => 0,
        }
    }
}

struct Shared {
    capacity: usize,
    ring: Mutex<Ring>,
}

struct Ring {
    entries: VecDeque<HistoryEntry>,
    bytes: usize,
    /// Of the last event, lost or not.
    last_seq: u64,
    /// What `last_seq` was when the ring was cleared.
    cleared: u64,
    waiting: Vec<Arc<EventQueue<Live>>>,
    /// Why nothing comes any more.
    end: Option<Error>,
}

struct Feed(AbortHandle);

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl History {
    /// How many events are recorded usually.
    pub const CAPACITY: usize = 1024;

    pub(super) fn start(events: EventStream, capacity: usize) -> Self {
        let shared = Arc::new(Shared {
            capacity: capacity.max(1),
            ring: Mutex::new(Ring {
                entries: VecDeque::new(),
                bytes: 0,
                last_seq: 0,
                cleared: 0,
                waiting: Vec::new(),
                end: None,
            }),
        });
        let task = tokio::spawn(feed(Ending::new(shared.clone()), events));
        History {
            shared,
            _feed: Arc::new(Feed(task.abort_handle())),
        }
    }

    /// The number of the last event that came, 0 where none has: for [`After::Seq`], to look at what comes after this moment.
    pub fn mark(&self) -> u64 {
        self.shared.lock().last_seq
    }

    /// The events of the history that `filter` takes. Waits for nothing.
    pub fn find_events(&self, filter: impl Into<EventFilter>, after: After) -> Found {
        let filter = filter.into();
        let mut found = self.shared.lock().find(after, Some(&filter));
        found.events.retain(|entry| filter.matches(&entry.event));
        found
    }

    /// All events that came since `cursor`, which moves on: the next time only what follows is taken. Waits for nothing.
    /// Begin with 0, or with a [`mark`](History::mark).
    pub fn pull(&self, cursor: &mut u64) -> Found {
        let found = self.shared.lock().find(After::Seq(*cursor), None);
        *cursor = found.mark;
        found
    }

    /// The events of the history that `filter` takes, as [`find_events`](History::find_events); where there is none, the
    /// first that comes.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] in the phase [`Event`](Phase::Event); [`Error::EventsLost`] where nothing was found and something
    /// may have been missed, since it is not in the history any more or never came this far; [`Error::Gap`] where that happens
    /// while it waits, since the connection was lost; the reason why no events come any more.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does no harm: nothing is taken out of the history.
    pub async fn get_events(
        &self,
        filter: impl Into<EventFilter>,
        after: After,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Found, Error> {
        let deadline = Deadline::new(timeout.into());
        let (mut replay, mut found) = self.replay(filter.into(), after);
        found
            .events
            .retain(|entry| replay.filter.matches(&entry.event));
        if !found.events.is_empty() {
            return Ok(found);
        }
        if found.missed > 0 {
            return Err(Error::EventsLost(found.missed));
        }
        let first = async { next(&mut replay).await.unwrap_or(Err(Error::Closed)) };
        let entry = deadline.keep(Phase::Event, false, first).await?;
        Ok(Found {
            mark: entry.seq,
            events: vec![entry],
            missed: 0,
        })
    }

    /// Waits for a condition: the events of the history count that `after` lets through, then those that come. Returns the
    /// one that met it.
    ///
    /// Nothing is asked: what happened before the history began, or has left it, is not known here.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] where QEMU says that it will not come; otherwise those of [`get_events`](History::get_events).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does no harm: nothing is taken out of the history.
    pub async fn wait_for(
        &self,
        wait: impl Into<Wait>,
        after: After,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<HistoryEntry, Error> {
        let (wait, deadline) = (wait.into(), Deadline::new(timeout.into()));
        let (mut replay, found) = self.replay(wait.filter.clone(), after);
        replay.held = found.events.into();
        replay.missed = found.missed;
        let mut waiter = Waiter::new(wait, replay);
        let settled = waiter.settle(None::<&dyn Monitor>, false, deadline);
        let met = deadline.keep(Phase::Event, false, settled).await?;
        // Only a question is met by nothing, and there was none.
        met.ok_or(Error::Closed)
    }

    /// Forgets the events recorded so far. Their numbers are not used again, and nobody is told that they are missing.
    pub fn clear(&self) {
        let mut ring = self.shared.lock();
        ring.cleared = ring.last_seq;
        ring.bytes = 0;
        let forgotten = std::mem::take(&mut ring.entries);
        drop(ring);
        drop(forgotten);
    }

    /// How many events are in the history.
    pub fn len(&self) -> usize {
        self.shared.lock().entries.len()
    }

    /// Whether no event is in the history.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Registers for what comes, and finds what is there, in one step.
    fn replay(&self, filter: EventFilter, after: After) -> (Replay, Found) {
        let wanted = filter.clone();
        let queue = EventQueue::new(QueueOptions {
            accept: Some(Arc::new(move |item: &Live| match item {
                Live::Entry(entry) => wanted.may_match(&entry.event.name),
                Live::Lost(_) => true,
            })),
            ..QueueOptions::new(self.shared.capacity.max(History::CAPACITY))
        });
        let mut ring = self.shared.lock();
        let found = ring.find(after, Some(&filter));
        match ring.end {
            Some(_) => end_queue(&queue),
            None => ring.waiting.push(queue.clone()),
        }
        drop(ring);
        let replay = Replay {
            shared: self.shared.clone(),
            filter,
            after,
            held: VecDeque::new(),
            missed: 0,
            queue,
            taken: Taken::default(),
        };
        (replay, found)
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.shared.lock();
        f.debug_struct("History")
            .field("capacity", &self.shared.capacity)
            .field("len", &ring.entries.len())
            .field("last_seq", &ring.last_seq)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Nothing panics under this lock: of a filter, only what it says of names is asked.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, event: Event) {
        let size = event.size();
        let mut ring = self.lock();
        ring.last_seq += 1;
        let entry = HistoryEntry {
            seq: ring.last_seq,
            at: tokio::time::Instant::now().into_std(),
            event: Arc::new(event),
        };
        ring.make_room(self.capacity, size);
        ring.bytes = ring.bytes.saturating_add(size);
        ring.entries.push_back(entry.clone());
        ring.tell(&Live::Entry(entry));
    }

    fn lose(&self, number: u64) {
        let mut ring = self.lock();
        ring.last_seq = ring.last_seq.saturating_add(number);
        ring.tell(&Live::Lost(number));
    }

    /// Nobody knows how many are missing: for the numbers it is one.
    fn gap(&self, cause: &Arc<EndCause>) {
        let mut ring = self.lock();
        ring.last_seq = ring.last_seq.saturating_add(1);
        ring.waiting.iter().for_each(|queue| queue.gap(cause));
    }

    fn end(&self, error: Error) {
        let mut ring = self.lock();
        ring.end.get_or_insert(error);
        let waiting = std::mem::take(&mut ring.waiting);
        drop(ring);
        waiting.iter().for_each(end_queue);
    }
}

/// The queue says only that there is no more. Why is in the ring.
fn end_queue(queue: &Arc<EventQueue<Live>>) {
    queue.end(Arc::new(EndCause::UserClosed));
}

impl Ring {
    fn make_room(&mut self, capacity: usize, size: usize) {
        while self.entries.len() >= capacity || self.bytes.saturating_add(size) > MAX_BYTES {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(oldest.event.size());
        }
    }

    fn tell(&self, item: &Live) {
        self.waiting
            .iter()
            .for_each(|queue| queue.push(item.clone()));
    }

    /// The entries whose names `filter` can take. What its predicates say is for the caller to ask, without the lock.
    fn find(&self, after: After, filter: Option<&EventFilter>) -> Found {
        let looked_at = self.entries.iter().filter(|entry| after.takes(entry));
        let wanted = looked_at
            .clone()
            .filter(|entry| filter.is_none_or(|it| it.may_match(&entry.event.name)));
        let missed = match after {
            After::Seq(seq) => {
                let came = self.last_seq.saturating_sub(seq.max(self.cleared));
                came.saturating_sub(looked_at.clone().count() as u64)
            }
            After::Any | After::UnixSecs(_) => 0,
        };
        Found {
            events: wanted.cloned().collect(),
            missed,
            mark: self.last_seq,
        }
    }
}

/// Says why the events ended, however the task does.
struct Ending {
    shared: Arc<Shared>,
    error: Option<Error>,
}

impl Ending {
    fn new(shared: Arc<Shared>) -> Self {
        Ending {
            shared,
            error: None,
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let gone = || Error::disconnected(Arc::new(EndCause::RuntimeGone), false);
        self.shared.end(self.error.take().unwrap_or_else(gone));
    }
}

/// Records what comes. Where the task is cancelled, by the end of its runtime or by the last [`History`], `ending` says so.
async fn feed(mut ending: Ending, mut events: EventStream) {
    let mut turn = 0;
    let mut shut_down = false;
    ending.error = Some(loop {
        match next(&mut events).await {
            Some(Ok(event)) => {
                match event.name.as_str() {
                    "SHUTDOWN" => shut_down = true,
                    "RESET" | "RESUME" => shut_down = false,
                    _ => {}
                }
                ending.shared.record(event);
            }
            Some(Err(Error::EventsLost(number))) => ending.shared.lose(number),
            Some(Err(Error::Gap { cause })) => {
                shut_down = false;
                ending.shared.gap(&cause);
            }
            Some(Err(error)) if error.leaves_stream_open() => {
                debug!(%error, "an event is missing in the history");
                ending.shared.lose(1);
            }
            Some(Err(error)) => break error,
            // QEMU left after it had said so; or else the user did.
            None if shut_down => break Error::disconnected(Arc::new(EndCause::PeerClosed), false),
            None => break Error::Closed,
        }
        turn += 1;
        if turn == EVENTS_PER_TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    });
}

/// What is in the history, then what comes.
struct Replay {
    shared: Arc<Shared>,
    filter: EventFilter,
    after: After,
    held: VecDeque<HistoryEntry>,
    missed: u64,
    queue: Arc<EventQueue<Live>>,
    taken: Taken<Live>,
}

impl Stream for Replay {
    type Item = Result<HistoryEntry, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.missed > 0 {
            let missed = std::mem::take(&mut this.missed);
            return Poll::Ready(Some(Err(Error::EventsLost(missed))));
        }
        while let Some(entry) = this.held.pop_front() {
            if this.filter.matches(&entry.event) {
                return Poll::Ready(Some(Ok(entry)));
            }
        }
        loop {
            let item = match this.queue.poll_next(&mut this.taken, cx) {
                Poll::Ready(item) => item,
                Poll::Pending => return Poll::Pending,
            };
            return Poll::Ready(Some(match item {
                Item::Event(Live::Entry(entry)) => {
                    if !this.after.takes(&entry) || !this.filter.matches(&entry.event) {
                        continue;
                    }
                    Ok(entry)
                }
                Item::Event(Live::Lost(number)) | Item::Lost(number) => {
                    Err(Error::EventsLost(number))
                }
                Item::Gap(cause) => Err(Error::Gap { cause }),
                Item::Failed(error) => Err(error),
                Item::Ended(_) => Err(this.shared.lock().end.clone().unwrap_or(Error::Closed)),
            }));
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let mut ring = self.shared.lock();
        ring.waiting
            .retain(|queue| !Arc::ptr_eq(queue, &self.queue));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::Timestamp;

    fn entry(seq: u64, seconds: i64) -> HistoryEntry {
        let timestamp = Timestamp {
            seconds,
            microseconds: 0,
        };
        HistoryEntry {
            seq,
            at: Instant::now(),
            event: Arc::new(Event::new("E", None, timestamp)),
        }
    }

    #[test]
    fn what_is_after_something() {
        assert!(After::Any.takes(&entry(1, -1)));
        assert!(After::Seq(1).takes(&entry(2, 0)) && !After::Seq(1).takes(&entry(1, 0)));
        // A whole second, its beginning included.
        assert!(After::UnixSecs(5).takes(&entry(1, 5)) && !After::UnixSecs(5).takes(&entry(9, 4)));
        assert!(!After::UnixSecs(0).takes(&entry(1, -1)));
    }

    #[test]
    fn large_events_leave_less_room() {
        let shared = Shared {
            capacity: 100,
            ring: Mutex::new(Ring {
                entries: VecDeque::new(),
                bytes: 0,
                last_seq: 0,
                cleared: 0,
                waiting: Vec::new(),
                end: None,
            }),
        };
        let large = |bytes: usize| {
            let text = format!("\"{}\"", "x".repeat(bytes));
            let data = serde_json::value::RawValue::from_string(text).unwrap();
            Event::new("E", Some(data), Timestamp::UNKNOWN)
        };
        let seqs = |shared: &Shared| -> Vec<u64> {
            let ring = shared.lock();
            let held: usize = ring.entries.iter().map(|entry| entry.event.size()).sum();
            assert_eq!(ring.bytes, held);
            ring.entries.iter().map(|entry| entry.seq).collect()
        };
        (0..4).for_each(|_| shared.record(large(MAX_BYTES / 3)));
        assert_eq!(seqs(&shared), [3, 4]);
        shared.record(large(MAX_BYTES));
        assert_eq!(seqs(&shared), [5]);
        shared.record(large(1));
        assert_eq!(seqs(&shared), [6]);
        assert_eq!(shared.lock().find(After::Seq(0), None).missed, 5);
    }
}
