//! The streams of a connection: how their packets find them, and how much of what came may wait.
//!
//! libvirt's RPC has no flow control of its own: the daemon sends as fast as the socket takes it. So what waits for its
//! consumers is counted over all streams of the connection. Over [`WINDOW`] the reader pauses, and the daemon with it,
//! unless somebody waits for what is still to come: a call for its reply, or the consumer of another stream. Over
//! [`MOST_WAITING`] it pauses all the same. Then, if somebody waits and a consumer has taken nothing for [`PATIENCE`], that
//! consumer's stream is given up, so that one that was forgotten does not stop all others for ever.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::debug;

use super::state::{Opened, State};
use crate::error::{EndCause, Error, Phase};
use crate::inflight::{Announce, Outgoing, OutgoingPacket};
use crate::packet::{MessageStatus, Packet};

/// Bytes that may wait to be taken before the reader pauses.
const WINDOW: usize = 1 << 20;

/// Bytes that may wait while somebody waits for what comes after them. A packet more may come on top.
const MOST_WAITING: usize = 16 << 20;

/// How often a paused reader looks up.
pub(super) const LOOK_UP: Duration = Duration::from_secs(5);

/// A consumer that takes nothing while others wait loses its stream after so many looks.
const LOOKS: u32 = 6;

/// The time that makes.
const PATIENCE: Duration = Duration::from_secs(30);

/// All streams of one connection, by the serial of the call that opened each.
#[derive(Debug, Default)]
pub(in crate::rpc) struct Streams {
    routes: Mutex<HashMap<u32, Arc<Core>>>,
    /// Bytes that wait to be taken, over all streams.
    waiting: AtomicUsize,
    /// Whether the reader has paused.
    paused: AtomicBool,
    /// Wakes the paused reader: something was taken, or somebody waits.
    resume: Notify,
}

/// One stream, between its handle and the connection task.
#[derive(Debug)]
pub(super) struct Core {
    state: Mutex<State>,
    streams: Arc<Streams>,
}

impl Streams {
    /// Brings a packet to its stream. Those of streams that are over, or never were, are passed over: the daemon's last
    /// answer may cross our own. Returns a stream that has something to send now.
    pub(in crate::rpc) fn receive(&self, packet: Packet) -> Option<Arc<dyn Outgoing>> {
        let Packet { header, payload } = packet;
        let core = self.lock().get(&header.serial).cloned();
        let Some(core) = core.filter(|core| core.is_of(header.program, header.procedure)) else {
            debug!(target: "libvirt_qmp::rpc", header = %header.numbered(), "ignored: no such stream");
            return None;
        };
        let (over, turn) = {
            let mut state = core.lock();
            let added = state.receive(header.kind, header.status, payload);
            self.waiting.fetch_add(added, Ordering::SeqCst);
            // Before the reply to the call its serial is still looked for.
            let over = state.closed.is_some() && state.opened != Opened::Unwanted;
            (over, state.takes_turn())
        };
        if over {
            self.lock().remove(&header.serial);
        }
        core.wake();
        turn.then_some(core as Arc<dyn Outgoing>)
    }

    /// Takes note of the reply to a call, which may have been one that opens a stream. Returns a stream that is to be
    /// aborted at once, since nobody wants it any more.
    pub(in crate::rpc) fn replied(
        &self,
        serial: u32,
        status: MessageStatus,
    ) -> Option<Arc<dyn Outgoing>> {
        let mut routes = self.lock();
        let core = routes.get(&serial)?;
        let mut state = core.lock();
        // Another reply to a call that was answered says nothing of the stream.
        if state.opened == Opened::Yes {
            return None;
        }
        if status != MessageStatus::OK {
            drop(state);
            routes.remove(&serial);
            return None;
        }
        let unwanted = state.opened == Opened::Unwanted;
        state.opened = Opened::Yes;
        if !unwanted {
            return None;
        }
        state.queue_abort();
        let turn = state.takes_turn();
        drop(state);
        let core = routes.remove(&serial)?;
        turn.then_some(core as Arc<dyn Outgoing>)
    }

    /// Whether the reader must pause. `nobody_waits` is asked where it depends on that, and sees to it that the reader is
    /// woken otherwise.
    pub(in crate::rpc) fn must_pause(&self, nobody_waits: impl FnOnce() -> bool) -> bool {
        if self.waiting() <= WINDOW {
            return false;
        }
        // From here on whoever takes something or begins to wait wakes the reader.
        self.paused.store(true, Ordering::SeqCst);
        let waiting = self.waiting();
        let pause =
            waiting > WINDOW && (waiting > MOST_WAITING || (nobody_waits() && !self.is_awaited()));
        self.paused.store(pause, Ordering::SeqCst);
        pause
    }

    pub(in crate::rpc) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Waits until the paused reader should look again.
    pub(in crate::rpc) async fn resumed(&self) {
        self.resume.notified().await;
    }

    /// Looks up from a pause: gives up the stream whose consumer has taken nothing for too long, where others wait.
    pub(in crate::rpc) fn look_up(&self, calls_wait: bool) -> Option<Arc<dyn Outgoing>> {
        let awaited = calls_wait || self.is_awaited();
        let stuck = self
            .lock()
            .values()
            .filter_map(|core| {
                let mut state = core.lock();
                let waiting = state.waiting();
                state.untaken = if waiting == 0 { 0 } else { state.untaken + 1 };
                (state.untaken >= LOOKS).then(|| (waiting, core.clone()))
            })
            .max_by_key(|(waiting, _)| *waiting);
        let (_, core) = stuck.filter(|_| awaited)?;
        let (serial, freed, turn) = {
            let mut state = core.lock();
            state.fail(Error::Timeout {
                phase: Phase::Consumer,
                after: PATIENCE,
                maybe_executed: true,
            });
            (state.header.serial, state.discard(), state.takes_turn())
        };
        self.lock().remove(&serial);
        self.taken(freed);
        core.wake();
        turn.then_some(core as Arc<dyn Outgoing>)
    }

    /// Ends every stream with `cause`.
    pub(in crate::rpc) fn end(&self, cause: &Arc<EndCause>) {
        let cores: Vec<_> = self.lock().drain().map(|(_, core)| core).collect();
        for core in cores {
            core.lock()
                .close(Err(Error::disconnected(cause.clone(), true)));
            core.wake();
        }
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether the consumer of a stream waits for what is still to come.
    fn is_awaited(&self) -> bool {
        self.lock().values().any(|core| core.lock().is_awaited())
    }

    /// So many bytes no longer wait.
    pub(super) fn taken(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::SeqCst);
        self.look_again();
    }

    /// Wakes the reader where it has paused: there may be room, or somebody waits.
    pub(super) fn look_again(&self) {
        if self.paused.load(Ordering::SeqCst) {
            self.resume.notify_one();
        }
    }

    pub(super) fn forget(&self, serial: u32) {
        self.lock().remove(&serial);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Core>>> {
        // Nothing panics under this lock.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    pub(super) fn new(state: State, streams: Arc<Streams>) -> Arc<Self> {
        Arc::new(Core {
            state: Mutex::new(state),
            streams,
        })
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; if something did, the state is still whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_of(&self, program: u32, procedure: i32) -> bool {
        let header = self.lock().header;
        (header.program, header.procedure) == (program, procedure)
    }

    /// Wakes everybody for whom there may be something new.
    fn wake(&self) {
        let wakers: [Option<Waker>; 3] = {
            let mut state = self.lock();
            let over = state.closed.is_some();
            [
                state.reader.take(),
                if over { state.writer.take() } else { None },
                if over { state.closer.take() } else { None },
            ]
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// The stream that a call opens, until its serial is known.
#[derive(Debug)]
pub(super) struct Opening(pub(super) Arc<Core>);

impl Announce for Opening {
    fn announce(&self, serial: u32) -> bool {
        let core = &self.0;
        let mut routes = core.streams.lock();
        if routes.contains_key(&serial) {
            return false;
        }
        core.lock().header.serial = serial;
        routes.insert(serial, core.clone());
        true
    }
}

impl Outgoing for Core {
    fn next_packet(&self) -> Option<OutgoingPacket> {
        let mut state = self.lock();
        let Some(bytes) = state.next_outgoing() else {
            state.has_turn = false;
            return None;
        };
        let more = state.has_outgoing();
        state.has_turn = more;
        Some(OutgoingPacket {
            bytes,
            more,
            waker: state.writer.take(),
        })
    }
}
