//! The calls of one connection: those queued to be sent and those waiting for their reply. No I/O.
//! May import error.
//!
//! Callers put encoded calls in; the connection task takes them out in batches, gives each its serial, and brings the
//! replies. One lock covers everything, so that an entry is in the table before its bytes leave, and the cause of an end is
//! stored before anybody is woken.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::error::EndCause;

/// Bytes taken for one write before the rest waits for the next.
const BATCH: usize = 256 * 1024;

/// A call longer than this that leaves first is written from where it is, not copied into the write buffer.
const LARGE: usize = 16 * 1024;

/// Abandoned entries are looked for when this many have gathered, and again at twice what was left.
const FIRST_PURGE: usize = 1024;

/// Urgent bytes, such as answers to pings, wait in this number at most.
const MOST_URGENT: usize = 64;

/// Puts the serial into the encoded call, once it is known.
pub(crate) type Stamp = fn(bytes: &mut [u8], serial: u32);

/// The right to have a call in flight. It rests in the table, not with the caller: an abandoned call still occupies the
/// peer until its reply comes.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) monitor: Option<OwnedSemaphorePermit>,
    pub(crate) connection: Option<OwnedSemaphorePermit>,
}

impl Slot {
    fn is_held(&self) -> bool {
        self.monitor.is_some() || self.connection.is_some()
    }
}

/// Who wants the reply.
#[derive(Debug)]
pub(crate) enum Waiter<R, H> {
    /// A caller that may have gone meanwhile.
    Caller(oneshot::Sender<Result<R, Failure>>),
    /// The connection task itself, which must see the reply.
    Hook(H),
}

impl<R, H> Waiter<R, H> {
    fn is_gone(&self) -> bool {
        matches!(self, Waiter::Caller(sender) if sender.is_closed())
    }
}

/// Why there is no reply.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The deadline passed.
    Timeout(Progress),
    /// The connection ended.
    Ended { cause: Arc<EndCause>, sent: bool },
    /// The system would not pass its descriptors. Nothing was sent.
    Files(Arc<io::Error>),
}

/// How far a call had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Queued,
    Writing,
    Sent,
}

/// Whoever must know the serial of a call before its bytes leave, since what answers it is more than a reply.
pub(crate) trait Announce: fmt::Debug + Send + Sync {
    /// Takes the serial, or refuses it as one that is still in use.
    fn announce(&self, serial: u32) -> bool;
}

/// What has packets of its own to send, one after the other: each waits its turn among the calls.
pub(crate) trait Outgoing: fmt::Debug + Send + Sync {
    /// The packet that goes now; none where it was taken back meanwhile.
    fn next_packet(&self) -> Option<OutgoingPacket>;
}

/// A packet that no reply answers.
#[derive(Debug)]
pub(crate) struct OutgoingPacket {
    pub(crate) bytes: Vec<u8>,
    /// Whether there is another one, which then waits for its turn.
    pub(crate) more: bool,
    /// Who waited for this one to go.
    pub(crate) waker: Option<Waker>,
}

/// A call on its way in.
#[derive(Debug)]
pub(crate) struct Submission<R, H> {
    /// The encoded call, complete but for its serial.
    pub(crate) bytes: Vec<u8>,
    pub(crate) waiter: Waiter<R, H>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) slot: Slot,
    /// Program and procedure, to check the reply against.
    pub(crate) procedure: (u32, i32),
    /// Descriptors that go with it. Boxed, for hardly any call has some.
    pub(crate) files: Option<Box<Files>>,
    /// Whether it goes ahead of the calls that are queued.
    pub(crate) ahead: bool,
    /// Who is told its serial before it leaves. Hardly any call has one.
    pub(crate) announce: Option<Arc<dyn Announce>>,
}

/// Descriptors that go with a call.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) files: Vec<OwnedFd>,
    pub(crate) ride: Ride,
}

impl Files {
    pub(crate) fn new(files: Vec<OwnedFd>, ride: Ride) -> Box<Self> {
        Box::new(Files { files, ride })
    }
}

/// What the descriptors of a call ride on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ride {
    /// All on the first byte of the call (QMP).
    First,
    /// Each on a byte of its own after the call, which no length counts (libvirt's RPC).
    After,
}

/// The descriptors of the call that a batch is.
#[derive(Debug)]
pub(crate) struct WithFiles {
    pub(crate) files: Box<Files>,
    pub(crate) serial: u32,
}

/// A call that was sent.
#[derive(Debug)]
struct Sent<R, H> {
    waiter: Waiter<R, H>,
    deadline: Option<Instant>,
    slot: Slot,
    procedure: (u32, i32),
    /// Number of the batch it left in.
    batch: u64,
}

enum Queued<R, H> {
    Call(Submission<R, H>),
    /// Bytes that no reply answers.
    Plain(Vec<u8>),
    /// The turn of what has packets of its own.
    Turn(Arc<dyn Outgoing>),
}

impl<R, H> Queued<R, H> {
    fn is_ahead(&self) -> bool {
        match self {
            Queued::Call(call) => call.ahead,
            Queued::Plain(_) => true,
            Queued::Turn(_) => false,
        }
    }

    fn has_files(&self) -> bool {
        matches!(self, Queued::Call(call) if call.files.is_some())
    }
}

/// What a reply's serial says.
#[derive(Debug)]
pub(crate) enum Found<R, H> {
    /// The waiter of this reply, to be given it.
    Waiter(Waiter<R, H>),
    /// Nobody waits: the call was abandoned.
    Abandoned,
    /// The call was of another procedure.
    OtherProcedure { sent: (u32, i32) },
    /// No call ever had this serial.
    NeverOurs,
}

pub(crate) struct Calls<R, H> {
    state: Mutex<State<R, H>>,
    /// Wakes the writer: something is queued.
    pub(crate) work: Notify,
    /// Wakes the connection task to end: the user closed the connection.
    pub(crate) closing: Notify,
    /// Wakes the watch over deadlines: an earlier one came in.
    pub(crate) rearm: Notify,
    /// Wakes a reader that has paused: a call waits for its reply now.
    pub(crate) resume: Notify,
}

struct State<R, H> {
    /// Puts its serial into a call.
    stamp: Stamp,
    queue: VecDeque<Queued<R, H>>,
    table: HashMap<u32, Sent<R, H>, BuildHasherDefault<NumberHasher>>,
    next_serial: u32,
    /// Whether serials have started again at 0, after which any may have been ours.
    wrapped: bool,
    batch: u64,
    written: u64,
    /// When the watch over deadlines looks next.
    armed: Option<Instant>,
    purge_at: usize,
    /// Whether the reader has paused.
    paused: bool,
    end: Option<Arc<EndCause>>,
}

impl<R, H> Calls<R, H> {
    /// None yet; the first has this serial. `stamp` puts a serial into a call.
    pub(crate) fn new(serial: u32, stamp: Stamp) -> Self {
        Calls {
            state: Mutex::new(State {
                stamp,
                queue: VecDeque::new(),
                table: HashMap::default(),
                next_serial: serial,
                wrapped: false,
                batch: 0,
                written: 0,
                armed: None,
                purge_at: FIRST_PURGE,
                paused: false,
                end: None,
            }),
            work: Notify::new(),
            closing: Notify::new(),
            rearm: Notify::new(),
            resume: Notify::new(),
        }
    }

    /// Queues a call.
    ///
    /// # Errors
    ///
    /// The cause, where the connection has ended.
    pub(crate) fn submit(&self, call: Submission<R, H>) -> Result<(), Arc<EndCause>> {
        let mut state = self.lock();
        if let Some(cause) = &state.end {
            return Err(cause.clone());
        }
        state.purge();
        let rearm = match (call.deadline, state.armed) {
            (Some(deadline), Some(armed)) => deadline < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if rearm {
            state.armed = call.deadline;
        }
        let wake = state.queue.is_empty();
        let resume = std::mem::take(&mut state.paused);
        if call.ahead {
            let first = state.queue.iter().position(|queued| !queued.is_ahead());
            let place = first.unwrap_or(state.queue.len());
            state.queue.insert(place, Queued::Call(call));
        } else {
            state.queue.push_back(Queued::Call(call));
        }
        drop(state);
        if rearm {
            self.rearm.notify_one();
        }
        if wake {
            self.work.notify_one();
        }
        if resume {
            self.resume.notify_one();
        }
        Ok(())
    }

    /// Queues a turn for `outgoing`, which has a packet to send and no turn yet.
    pub(crate) fn submit_turn(&self, outgoing: Arc<dyn Outgoing>) {
        let mut state = self.lock();
        if state.end.is_none() {
            let wake = state.queue.is_empty();
            state.queue.push_back(Queued::Turn(outgoing));
            drop(state);
            if wake {
                self.work.notify_one();
            }
        }
    }

    /// Whether no call waits for a reply. The next one that comes in wakes [`resume`](Calls::resume) then.
    pub(crate) fn pause(&self) -> bool {
        let mut state = self.lock();
        let is_call = |queued: &Queued<R, H>| matches!(queued, Queued::Call(_));
        state.paused = state.table.is_empty() && !state.queue.iter().any(is_call);
        state.paused
    }

    /// Queues bytes that no reply answers, ahead of everything else. Where [`MOST_URGENT`] wait already, these are left
    /// out: a peer that pings and does not read must not make them pile up, and has enough to read as it is.
    pub(crate) fn submit_urgent(&self, bytes: Vec<u8>) {
        let mut state = self.lock();
        let is_urgent = |queued: &&Queued<R, H>| matches!(queued, Queued::Plain(_));
        let waiting = state.queue.iter().take_while(is_urgent).count();
        if state.end.is_none() && waiting < MOST_URGENT {
            state.queue.push_front(Queued::Plain(bytes));
            drop(state);
            self.work.notify_one();
        }
    }

    /// Moves what is queued into the empty buffer `out`, for one write, and into the table. The batch before it has been
    /// written by now. A call with descriptors is a batch by itself.
    pub(crate) fn next_batch(&self, out: &mut Vec<u8>) -> Option<WithFiles> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.written = state.batch;
        let mut with_files = None;
        let mut wakers = Vec::new();
        while with_files.is_none() && out.len() < BATCH {
            if !out.is_empty() && state.queue.front().is_some_and(Queued::has_files) {
                break;
            }
            let Some(queued) = state.queue.pop_front() else {
                break;
            };
            let bytes = match queued {
                Queued::Plain(bytes) => bytes,
                Queued::Turn(outgoing) => {
                    let Some(packet) = outgoing.next_packet() else {
                        continue;
                    };
                    wakers.extend(packet.waker);
                    if packet.more {
                        state.queue.push_back(Queued::Turn(outgoing));
                    }
                    packet.bytes
                }
                Queued::Call(mut call) => {
                    let files = call.files.take();
                    let Some((serial, bytes)) = state.admit(call) else {
                        continue;
                    };
                    with_files = files.map(|files| WithFiles { files, serial });
                    bytes
                }
            };
            if out.is_empty() && bytes.len() > LARGE {
                *out = bytes;
            } else {
                out.extend_from_slice(&bytes);
            }
        }
        state.batch += 1;
        drop(guard);
        wakers.into_iter().for_each(Waker::wake);
        with_files
    }

    /// Fails a call that could not be sent after all, since the system would not pass its descriptors.
    pub(crate) fn unsent(&self, serial: u32, error: io::Error) {
        let entry = self.lock().table.remove(&serial);
        if let Some(Waiter::Caller(sender)) = entry.map(|entry| entry.waiter) {
            // A caller that has gone needs no answer.
            let _ = sender.send(Err(Failure::Files(Arc::new(error))));
        }
    }

    /// The serial of the next call, after all that had one.
    pub(crate) fn next_serial(&self) -> u32 {
        self.lock().next_serial
    }

    /// Takes the call that a reply answers out of the table.
    pub(crate) fn complete(&self, serial: u32, procedure: (u32, i32)) -> Found<R, H> {
        let mut state = self.lock();
        let was_ours = state.wrapped || serial < state.next_serial;
        match state.table.entry(serial) {
            Entry::Occupied(call) if call.get().procedure != procedure => Found::OtherProcedure {
                sent: call.get().procedure,
            },
            Entry::Occupied(call) => match call.remove().waiter {
                waiter if !waiter.is_gone() => Found::Waiter(waiter),
                _ => Found::Abandoned,
            },
            Entry::Vacant(_) if was_ours => Found::Abandoned,
            Entry::Vacant(_) => Found::NeverOurs,
        }
    }

    /// Takes the call that was sent first out of the table.
    pub(crate) fn complete_oldest(&self) -> Option<Waiter<R, H>> {
        let mut state = self.lock();
        // Serials start again at 0 one day: the oldest is the one that is farthest behind.
        let next = state.next_serial;
        let age = |serial: &u32| next.wrapping_sub(*serial);
        let serial = state.table.keys().copied().max_by_key(age)?;
        state.table.remove(&serial).map(|entry| entry.waiter)
    }

    /// Fails every call whose deadline has passed, and returns when to look again.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut expired = Vec::new();
        let mut state = self.lock();
        let State {
            queue,
            table,
            written,
            ..
        } = &mut *state;
        let mut next: Option<Instant> = None;
        let mut is_over = |deadline: Option<Instant>| match deadline {
            Some(deadline) if deadline <= now => true,
            Some(deadline) => {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
                false
            }
            None => false,
        };
        let mut kept = VecDeque::with_capacity(queue.len());
        for queued in queue.drain(..) {
            match queued {
                Queued::Call(call) if is_over(call.deadline) => {
                    expired.push((call.waiter, Progress::Queued))
                }
                other => kept.push_back(other),
            }
        }
        *queue = kept;
        let over: Vec<u32> = table
            .iter()
            .filter(|(_, entry)| is_over(entry.deadline))
            .map(|(serial, _)| *serial)
            .collect();
        for serial in over {
            let Some(mut entry) = table.remove(&serial) else {
                continue;
            };
            let progress = if entry.batch >= *written {
                Progress::Writing
            } else {
                Progress::Sent
            };
            if entry.slot.is_held() {
                // The peer is still at it: the slot stays taken until the late reply.
                let (nobody, _) = oneshot::channel();
                let waiter = std::mem::replace(&mut entry.waiter, Waiter::Caller(nobody));
                entry.deadline = None;
                table.insert(serial, entry);
                expired.push((waiter, progress));
            } else {
                expired.push((entry.waiter, progress));
            }
        }
        state.armed = next;
        drop(state);
        for (waiter, progress) in expired {
            if let Waiter::Caller(sender) = waiter {
                // A caller that has gone needs no answer.
                let _ = sender.send(Err(Failure::Timeout(progress)));
            }
        }
        next
    }

    /// Ends everything with `cause`, unless an earlier cause stands. Returns the cause that stands.
    pub(crate) fn end(&self, cause: EndCause) -> Arc<EndCause> {
        let mut state = self.lock();
        let cause = state.end.get_or_insert_with(|| Arc::new(cause)).clone();
        let queue = std::mem::take(&mut state.queue);
        let table = std::mem::take(&mut state.table);
        drop(state);
        let unsent = queue.into_iter().filter_map(|queued| match queued {
            Queued::Call(call) => Some((call.waiter, false)),
            Queued::Plain(_) | Queued::Turn(_) => None,
        });
        let sent = table.into_values().map(|entry| (entry.waiter, true));
        for (waiter, sent) in unsent.chain(sent) {
            if let Waiter::Caller(sender) = waiter {
                // A caller that has gone needs no answer.
                let _ = sender.send(Err(Failure::Ended {
                    cause: cause.clone(),
                    sent,
                }));
            }
        }
        cause
    }

    /// Why the connection ended, if it has.
    pub(crate) fn ended(&self) -> Option<Arc<EndCause>> {
        self.lock().end.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State<R, H>> {
        // Nothing panics under this lock; if something did, the state is still whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R, H> State<R, H> {
    /// Gives a call its serial and its place in the table. A call whose caller has gone is never sent.
    fn admit(&mut self, mut call: Submission<R, H>) -> Option<(u32, Vec<u8>)> {
        if call.waiter.is_gone() {
            return None;
        }
        let announced = |serial| match &call.announce {
            Some(announce) => announce.announce(serial),
            None => true,
        };
        while self.table.contains_key(&self.next_serial) || !announced(self.next_serial) {
            self.advance_serial();
        }
        let serial = self.next_serial;
        self.advance_serial();
        (self.stamp)(&mut call.bytes, serial);
        let Submission {
            bytes,
            waiter,
            deadline,
            slot,
            procedure,
            ..
        } = call;
        self.table.insert(
            serial,
            Sent {
                waiter,
                deadline,
                slot,
                procedure,
                batch: self.batch,
            },
        );
        Some((serial, bytes))
    }

    fn advance_serial(&mut self) {
        self.next_serial = self.next_serial.wrapping_add(1);
        self.wrapped |= self.next_serial == 0;
    }

    /// Forgets what callers abandoned, so that a peer that never answers cannot make it pile up. What holds a slot is
    /// bounded by the slots and stays.
    fn purge(&mut self) {
        if self.queue.len() + self.table.len() < self.purge_at {
            return;
        }
        self.queue
            .retain(|queued| !matches!(queued, Queued::Call(call) if call.waiter.is_gone()));
        self.table
            .retain(|_, entry| !entry.waiter.is_gone() || entry.slot.is_held());
        self.purge_at = FIRST_PURGE.max(2 * (self.queue.len() + self.table.len()));
    }
}

/// Hashes small numbers that no peer chooses freely, such as our own serials: one multiplication each spreads them over
/// the bits that a table looks at.
#[derive(Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(23) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_i32(&mut self, number: i32) {
        self.write_u32(number.cast_unsigned());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type TestCalls = Calls<&'static str, ()>;
    type Reply = oneshot::Receiver<Result<&'static str, Failure>>;

    fn calls() -> TestCalls {
        Calls::new(0, |bytes, serial| {
            bytes.copy_from_slice(&serial.to_be_bytes())
        })
    }

    fn call(deadline: Option<Instant>) -> (Submission<&'static str, ()>, Reply) {
        let (sender, receiver) = oneshot::channel();
        let call = Submission {
            bytes: vec![0; 4],
            waiter: Waiter::Caller(sender),
            deadline,
            slot: Slot::default(),
            procedure: (1, 2),
            files: None,
            ahead: false,
            announce: None,
        };
        (call, receiver)
    }

    fn submit_with_file(calls: &TestCalls) -> Reply {
        let (mut call, reply) = call(None);
        let (file, _) = std::io::pipe().unwrap();
        call.files = Some(Files::new(vec![file.into()], Ride::First));
        calls.submit(call).unwrap();
        reply
    }

    fn submit(calls: &TestCalls) -> Reply {
        let (call, reply) = call(None);
        calls.submit(call).unwrap();
        reply
    }

    fn batch(calls: &TestCalls) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(calls.next_batch(&mut out).is_none());
        out
    }

    fn answer(calls: &TestCalls, serial: u32) {
        match calls.complete(serial, (1, 2)) {
            Found::Waiter(Waiter::Caller(sender)) => sender.send(Ok("reply")).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn queued_calls_leave_together_and_replies_find_them() {
        let calls = calls();
        let (first, second) = (submit(&calls), submit(&calls));
        assert_eq!(batch(&calls), [0, 0, 0, 0, 0, 0, 0, 1]);
        answer(&calls, 1);
        answer(&calls, 0);
        assert_eq!(first.await.unwrap().unwrap(), "reply");
        assert_eq!(second.await.unwrap().unwrap(), "reply");
    }

    #[test]
    fn a_call_dropped_while_queued_is_never_sent() {
        let calls = calls();
        drop(submit(&calls));
        assert!(batch(&calls).is_empty());
    }

    /// A stream as far as it goes here: so many packets of one byte.
    #[derive(Debug)]
    struct Packets(Mutex<Vec<u8>>);

    impl Outgoing for Packets {
        fn next_packet(&self) -> Option<OutgoingPacket> {
            let mut left = self.0.lock().unwrap();
            let byte = left.pop()?;
            Some(OutgoingPacket {
                bytes: vec![byte],
                more: !left.is_empty(),
                waker: None,
            })
        }
    }

    #[test]
    fn those_with_many_packets_take_turns_with_calls_and_each_other() {
        let calls = calls();
        for packets in [vec![0xa2, 0xa1, 0xa0], vec![0xb1, 0xb0], vec![]] {
            calls.submit_turn(Arc::new(Packets(Mutex::new(packets))));
        }
        let _reply = submit(&calls);
        assert_eq!(batch(&calls), [0xa0, 0xb0, 0, 0, 0, 0, 0xa1, 0xb1, 0xa2]);
    }

    #[derive(Debug, Default)]
    struct Taken(Mutex<Vec<u32>>);

    impl Announce for Taken {
        fn announce(&self, serial: u32) -> bool {
            self.0.lock().unwrap().push(serial);
            serial > 1
        }
    }

    #[test]
    fn a_serial_that_is_refused_is_passed_over() {
        let calls = calls();
        let taken = Arc::new(Taken::default());
        let (mut announced, _reply) = call(None);
        announced.announce = Some(taken.clone());
        calls.submit(announced).unwrap();
        assert_eq!(batch(&calls), [0, 0, 0, 2]);
        assert_eq!(*taken.0.lock().unwrap(), [0, 1, 2]);
        // One that nobody waits for is not even announced.
        let (mut dropped, reply) = call(None);
        dropped.announce = Some(taken.clone());
        calls.submit(dropped).unwrap();
        drop(reply);
        assert!(batch(&calls).is_empty());
        assert_eq!(taken.0.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_call_wakes_a_reader_that_paused_while_there_was_none() {
        let calls = calls();
        assert!(calls.pause());
        let _reply = submit(&calls);
        calls.resume.notified().await;
        assert!(!calls.pause());
        batch(&calls);
        assert!(!calls.pause());
        answer(&calls, 0);
        assert!(calls.pause());
    }

    #[test]
    fn late_replies_are_told_from_foreign_ones() {
        let calls = calls();
        let reply = submit(&calls);
        batch(&calls);
        drop(reply);
        assert!(matches!(calls.complete(0, (1, 2)), Found::Abandoned));
        assert!(matches!(calls.complete(0, (1, 2)), Found::Abandoned));
        assert!(matches!(calls.complete(1, (1, 2)), Found::NeverOurs));
    }

    #[test]
    fn a_reply_of_another_procedure_is_not_taken() {
        let calls = calls();
        let _reply = submit(&calls);
        batch(&calls);
        assert!(matches!(
            calls.complete(0, (1, 3)),
            Found::OtherProcedure { sent: (1, 2) }
        ));
    }

    #[test]
    fn a_serial_in_use_is_passed_over_after_wrapping() {
        let calls = calls();
        let _old = submit(&calls);
        batch(&calls);
        calls.lock().next_serial = u32::MAX;
        let _new = [submit(&calls), submit(&calls)];
        assert_eq!(batch(&calls), [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1]);
        assert!(matches!(calls.complete(77, (1, 2)), Found::Abandoned));
    }

    #[test]
    fn the_oldest_call_is_the_one_sent_first_also_after_wrapping() {
        let calls = calls();
        calls.lock().next_serial = u32::MAX - 1;
        let mut replies: Vec<_> = (0..4).map(|_| submit(&calls)).collect();
        batch(&calls);
        for reply in &mut replies {
            match calls.complete_oldest() {
                Some(Waiter::Caller(sender)) => sender.send(Ok("error")).unwrap(),
                other => panic!("{other:?}"),
            }
            assert_eq!(reply.try_recv().unwrap().unwrap(), "error");
        }
        assert!(calls.complete_oldest().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_say_how_far_the_call_had_come() {
        let calls = calls();
        let now = Instant::now();
        let deadline = Some(now + Duration::from_secs(1));
        let mut replies = Vec::new();
        for step in 0..3 {
            let (call, reply) = call(deadline);
            calls.submit(call).unwrap();
            replies.push(reply);
            if step < 2 {
                batch(&calls);
            }
        }
        assert_eq!(calls.expire(now), deadline);
        assert_eq!(calls.expire(now + Duration::from_secs(1)), None);
        for (reply, expected) in
            replies
                .into_iter()
                .zip([Progress::Sent, Progress::Writing, Progress::Queued])
        {
            match reply.await.unwrap() {
                Err(Failure::Timeout(progress)) => assert_eq!(progress, expected),
                other => panic!("{other:?}"),
            }
        }
        assert!(batch(&calls).is_empty());
        assert!(matches!(calls.complete(0, (1, 2)), Found::Abandoned));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_call_keeps_its_slot_until_the_late_reply() {
        let calls = calls();
        let limit = Arc::new(tokio::sync::Semaphore::new(1));
        let (mut call, _reply) = call(Some(Instant::now()));
        call.slot.connection = limit.clone().try_acquire_owned().ok();
        calls.submit(call).unwrap();
        batch(&calls);
        calls.expire(Instant::now());
        assert_eq!(limit.available_permits(), 0);
        assert!(matches!(calls.complete(0, (1, 2)), Found::Abandoned));
        assert_eq!(limit.available_permits(), 1);
    }

    #[tokio::test]
    async fn an_end_reaches_everybody_with_one_cause_and_says_what_was_sent() {
        let calls = calls();
        let sent = submit(&calls);
        batch(&calls);
        let queued = submit(&calls);
        calls.end(EndCause::PeerClosed);
        calls.end(EndCause::UserClosed);
        for (reply, was_sent) in [(sent, true), (queued, false)] {
            match reply.await.unwrap() {
                Err(Failure::Ended { cause, sent }) => {
                    assert!(matches!(*cause, EndCause::PeerClosed));
                    assert_eq!(sent, was_sent);
                }
                other => panic!("{other:?}"),
            }
        }
        let (late, _reply) = call(None);
        assert!(matches!(
            *calls.submit(late).unwrap_err(),
            EndCause::PeerClosed
        ));
    }

    #[test]
    fn abandoned_calls_do_not_pile_up() {
        let calls = calls();
        for _ in 0..10 * FIRST_PURGE {
            drop(submit(&calls));
        }
        assert!(calls.lock().queue.len() <= FIRST_PURGE);
        for _ in 0..10 * FIRST_PURGE {
            let reply = submit(&calls);
            batch(&calls);
            drop(reply);
        }
        assert!(calls.lock().table.len() <= FIRST_PURGE);
    }

    #[test]
    fn urgent_bytes_go_first() {
        let calls = calls();
        let _reply = submit(&calls);
        calls.submit_urgent(b"pong".to_vec());
        assert_eq!(batch(&calls), b"pong\0\0\0\0");
    }

    #[test]
    fn a_call_with_descriptors_leaves_alone_and_in_its_turn() {
        let calls = calls();
        let _replies = [
            submit(&calls),
            submit_with_file(&calls),
            submit_with_file(&calls),
            submit(&calls),
        ];
        assert_eq!(batch(&calls), [0, 0, 0, 0]);
        for serial in 1..3 {
            let mut out = Vec::new();
            let with = calls.next_batch(&mut out).unwrap();
            assert_eq!(out, [0, 0, 0, serial]);
            assert_eq!(with.serial, u32::from(serial));
            assert_eq!(with.files.files.len(), 1);
        }
        assert_eq!(batch(&calls), [0, 0, 0, 3]);
    }

    #[tokio::test]
    async fn descriptors_that_the_system_refuses_fail_their_call_alone() {
        let calls = calls();
        let refused = submit_with_file(&calls);
        let good = submit(&calls);
        let with = calls.next_batch(&mut Vec::new()).unwrap();
        calls.unsent(with.serial, io::ErrorKind::InvalidInput.into());
        batch(&calls);
        answer(&calls, 1);
        assert!(matches!(refused.await.unwrap(), Err(Failure::Files(_))));
        assert_eq!(good.await.unwrap().unwrap(), "reply");
    }

    #[test]
    fn calls_that_go_ahead_keep_their_order() {
        let calls = TestCalls::new(0, |_, _| ());
        let numbered = |number: u8, ahead: bool| {
            let (mut call, reply) = call(None);
            call.bytes = vec![number];
            call.ahead = ahead;
            calls.submit(call).unwrap();
            reply
        };
        let _replies = [
            numbered(3, false),
            numbered(1, true),
            numbered(4, false),
            numbered(2, true),
        ];
        calls.submit_urgent(vec![0]);
        assert_eq!(batch(&calls), [0, 1, 2, 3, 4]);
    }
}
