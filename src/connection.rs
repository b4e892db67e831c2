//! What every connection has, whatever it speaks: calls with limits and deadlines, the loops of its task that write them
//! and watch over them, and the notice of its end. May import inflight, transport and error.

mod steps;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, trace};

use crate::error::{EndCause, Error, Phase};
use crate::inflight::{
    Announce, Calls, Failure, Files, Progress, Ride, Slot, Stamp, Submission, Waiter, WithFiles,
};
use crate::transport::{SendError, WriteHalf};

pub(crate) use steps::Steps;

/// A write buffer larger than this is given back after use.
const KEEP_BUFFER: usize = 1024 * 1024;

/// More than what tokio's timer counts in.
const TICK: Duration = Duration::from_secs(1);

/// A moment by which something must be done, and the duration it was made of.
pub(crate) type Deadline = Option<(Instant, Duration)>;

/// The deadline that is `timeout` from now.
pub(crate) fn deadline(timeout: Option<Duration>) -> Deadline {
    // A timeout past the end of time is none. tokio rounds up to its next tick, and that must not be past it either.
    let at = |timeout| {
        let at = Instant::now().checked_add(timeout)?;
        at.checked_add(TICK).map(|_| at)
    };
    timeout.and_then(|timeout| Some((at(timeout)?, timeout)))
}

/// Whether a call is to be answered by the moment it is made. It is not sent then: a quick peer could still answer it, before
/// any timer says that it was late.
pub(crate) fn leaves_no_time(deadline: Deadline) -> bool {
    deadline.is_some_and(|(_, timeout)| timeout.is_zero())
}

/// How a call is limited in number and time.
#[derive(Clone, Copy)]
pub(crate) struct CallOptions<'a> {
    /// What is waited for, to be named when the deadline passes.
    pub(crate) phase: Phase,
    pub(crate) deadline: Deadline,
    pub(crate) limits: Limits<'a>,
}

/// Which limits a call waits for.
#[derive(Clone, Copy)]
pub(crate) enum Limits<'a> {
    /// None: what ends things never waits behind what is stuck.
    None,
    /// The connection's.
    Connection,
    /// The connection's, and all of it: nothing else that counts is in flight before the reply.
    Whole,
    /// The monitor's own, then the connection's. The two lift together.
    Monitor(&'a Arc<Semaphore>),
}

/// An encoded call.
pub(crate) struct Encoded {
    /// Complete but for the serial.
    pub(crate) bytes: Vec<u8>,
    /// Program and procedure, to check the reply against.
    pub(crate) procedure: (u32, i32),
    /// Descriptors that go with it, where the stream passes any.
    pub(crate) files: Option<Box<Files>>,
    /// Whether it goes ahead of the calls that are queued.
    pub(crate) ahead: bool,
    /// Who is told its serial before it leaves.
    pub(crate) announce: Option<Arc<dyn Announce>>,
}

/// The calls of a connection whose replies are `R`, some of which (`H`) are the task's own.
pub(crate) struct Connection<R, H> {
    pub(crate) calls: Calls<R, H>,
    /// The calls that may be in flight; none where there is no limit.
    limit: Option<Arc<Semaphore>>,
    /// How many that are.
    all: u32,
    /// Whether the user is closing it: the end is theirs then, however it comes about.
    leaving: AtomicBool,
    /// Set once, when the connection has ended and everybody has been told.
    ended: watch::Sender<Option<Arc<EndCause>>>,
}

impl<R, H> Connection<R, H> {
    /// `stamp` puts a serial into a call.
    pub(crate) fn new(max_in_flight: usize, stamp: Stamp) -> Self {
        Connection::starting_at(max_in_flight, 0, stamp)
    }

    /// Whose first call has this serial.
    pub(crate) fn starting_at(max_in_flight: usize, serial: u32, stamp: Stamp) -> Self {
        let all = u32::try_from(max_in_flight.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let limit = (max_in_flight != usize::MAX).then(|| Arc::new(Semaphore::new(all as usize)));
        Connection {
            calls: Calls::new(serial, stamp),
            limit,
            all,
            leaving: AtomicBool::new(false),
            ended: watch::Sender::new(None),
        }
    }

    /// Sends a call and waits for its reply.
    ///
    /// Dropping the future before the call was sent sends nothing; after that the reply is discarded, and the call's slot
    /// stays taken until the reply comes.
    pub(crate) async fn send(
        &self,
        call: &mut Encoded,
        options: &CallOptions<'_>,
    ) -> Result<R, Error> {
        let mut turn = None;
        let slot = match self.slot_at_once(options, &mut turn) {
            Some(slot) => slot,
            None => Box::pin(self.wait_for_slot(options, &mut turn)).await?,
        };
        let reply = self.submit(slot, call, options)?;
        answered(reply.await, options)
    }

    /// As `send`, in a slot that the call has already.
    pub(crate) async fn send_in(
        &self,
        slot: Slot,
        call: &mut Encoded,
        options: &CallOptions<'_>,
    ) -> Result<R, Error> {
        let reply = self.submit(slot, call, options)?;
        answered(reply.await, options)
    }

    /// Queues a call, which is answered through what is returned.
    fn submit(
        &self,
        slot: Slot,
        call: &mut Encoded,
        options: &CallOptions<'_>,
    ) -> Result<oneshot::Receiver<Result<R, Failure>>, Error> {
        let (sender, reply) = oneshot::channel();
        let submission = call.submit(
            Waiter::Caller(sender),
            options.deadline.map(|(at, _)| at),
            slot,
        );
        self.calls
            .submit(submission)
            .map_err(|cause| Error::disconnected(cause, false))?;
        Ok(reply)
    }

    /// The right to have a call in flight, where it need not be waited for. What came of it stays in `turn` otherwise.
    fn slot_at_once(
        &self,
        options: &CallOptions<'_>,
        turn: &mut Option<OwnedSemaphorePermit>,
    ) -> Option<Slot> {
        if leaves_no_time(options.deadline) {
            return None;
        }
        let (monitor, connection, calls) = self.limits(options);
        if let (Some(monitor), None) = (monitor, &turn) {
            *turn = Some(monitor.clone().try_acquire_owned().ok()?);
        }
        let connection = match connection {
            Some(connection) => Some(connection.clone().try_acquire_many_owned(calls).ok()?),
            None => None,
        };
        Some(Slot {
            connection,
            monitor: turn.take(),
        })
    }

    /// Whose turn a call waits for, and whose slots, and how many of them.
    fn limits<'a>(
        &'a self,
        options: &CallOptions<'a>,
    ) -> (Option<&'a Arc<Semaphore>>, Option<&'a Arc<Semaphore>>, u32) {
        let limit = self.limit.as_ref();
        match options.limits {
            Limits::None => (None, None, 1),
            Limits::Connection => (None, limit, 1),
            Limits::Whole => (None, limit, self.all),
            Limits::Monitor(own) => (limit.map(|_| own), limit, 1),
        }
    }

    /// Waits for the right to have a call in flight. `turn` is the turn at the monitor, where it has come already; it is left there
    /// where this fails.
    pub(crate) async fn slot(
        &self,
        options: &CallOptions<'_>,
        turn: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Slot, Error> {
        match self.slot_at_once(options, turn) {
            Some(slot) => Ok(slot),
            // Boxed, so that a call that need not wait has no room for it.
            None => Box::pin(self.wait_for_slot(options, turn)).await,
        }
    }

    async fn wait_for_slot(
        &self,
        options: &CallOptions<'_>,
        turn: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Slot, Error> {
        if leaves_no_time(options.deadline) {
            return Err(timed_out(options, Progress::Queued));
        }
        let (monitor, connection, calls) = self.limits(options);
        if let (Some(monitor), None) = (monitor, &turn) {
            *turn = Some(self.wait_for_permit(monitor, 1, options).await?);
        }
        let connection = match connection {
            Some(connection) => Some(self.wait_for_permit(connection, calls, options).await?),
            None => None,
        };
        Ok(Slot {
            connection,
            monitor: turn.take(),
        })
    }

    /// Those who wait are served in their order: what wants many is not passed by those who want one.
    async fn wait_for_permit(
        &self,
        limit: &Arc<Semaphore>,
        calls: u32,
        options: &CallOptions<'_>,
    ) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(permit) = limit.clone().try_acquire_many_owned(calls) {
            return Ok(permit);
        }
        let permit = tokio::select! {
            permit = limit.clone().acquire_many_owned(calls) => permit.map_err(|_| Error::Closed),
            cause = self.closed() => Err(Error::disconnected(cause, false)),
            () = sleep_until(options.deadline) => Err(timed_out(options, Progress::Queued)),
        };
        // What was in flight at the end gives its slots back.
        match self.ended() {
            Some(cause) => Err(Error::disconnected(cause, false)),
            None => permit,
        }
    }

    /// Says that the user is closing the connection, and that the peer may end it now.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Asks the task to end. Does not wait.
    pub(crate) fn close(&self) {
        self.calls.closing.notify_one();
    }

    async fn close_asked(&self) -> EndCause {
        self.calls.closing.notified().await;
        EndCause::UserClosed
    }

    /// Waits until the connection has ended and everybody on it has been told.
    pub(crate) async fn closed(&self) -> Arc<EndCause> {
        let mut ended = self.ended.subscribe();
        let cause = match ended.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone(),
            Err(_) => None,
        };
        cause.unwrap_or_else(|| Arc::new(EndCause::RuntimeGone))
    }

    /// Why the connection ended, if it has.
    pub(crate) fn ended(&self) -> Option<Arc<EndCause>> {
        self.calls.ended()
    }

    /// Runs the connection until the first of its loops ends: reading, writing, and what else the protocol needs, such as
    /// keepalive. Then it is finished.
    pub(crate) async fn drive(
        &self,
        read_loop: impl Future<Output = EndCause>,
        write: WriteHalf,
        other_loop: impl Future<Output = EndCause>,
        tell: impl Fn(&Arc<EndCause>),
    ) {
        let cause = tokio::select! {
            biased;
            cause = read_loop => cause,
            cause = self.write_calls(write) => cause,
            cause = self.close_asked() => cause,
            cause = other_loop => cause,
            never = self.watch_deadlines() => match never {},
        };
        // The socket is closed by now: its halves went with their loops.
        let leaving = self.leaving.load(Ordering::Acquire);
        self.finish(if leaving { EndCause::UserClosed } else { cause }, tell);
    }

    /// Stores the cause, lets `tell` end the event streams, and announces the end; once.
    pub(crate) fn finish(&self, cause: EndCause, tell: impl Fn(&Arc<EndCause>)) {
        if self.ended().is_some() {
            return;
        }
        let cause = self.calls.end(cause);
        debug!(target: "libvirt_qmp::connection", %cause, "connection ended");
        tell(&cause);
        self.ended.send_replace(Some(cause));
    }

    /// The loop that writes calls as they are queued, all that wait in one write.
    async fn write_calls(&self, mut write: WriteHalf) -> EndCause {
        let mut out = Vec::new();
        loop {
            let with_files = self.calls.next_batch(&mut out);
            if out.is_empty() {
                self.calls.work.notified().await;
                // Their calls then leave in the same write. A runtime with several threads would run this task right after
                // the first one that woke it.
                let_others_run().await;
                continue;
            }
            trace!(target: "libvirt_qmp::connection", bytes = out.len(), "sending");
            let written = match with_files {
                None => async { write.write_all(&out).await.and(write.flush().await) }.await,
                // Boxed, for it is rare, and the task would have room for it all the time.
                Some(with) => Box::pin(self.write_with_files(&mut write, &out, with)).await,
            };
            if let Err(error) = written {
                return EndCause::Io(Arc::new(error));
            }
            if out.capacity() > KEEP_BUFFER {
                out = Vec::new();
            }
            out.clear();
        }
    }

    /// Writes one call and its descriptors, which are closed here then: the peer has its own.
    async fn write_with_files(
        &self,
        write: &mut WriteHalf,
        call: &[u8],
        WithFiles { files, serial }: WithFiles,
    ) -> io::Result<()> {
        let Files { files, ride } = *files;
        match ride {
            Ride::First => match write.send_with_files(call, &files).await {
                Err(SendError::Refused(error)) => {
                    debug!(target: "libvirt_qmp::connection", %error, "descriptors refused by the system");
                    self.calls.unsent(serial, error);
                }
                Err(SendError::Failed(error)) => return Err(error),
                Ok(()) => {}
            },
            Ride::After => {
                write.write_all(call).await?;
                for file in files {
                    match write.send_with_files(&[0], &[file]).await {
                        // The peer waits for it now, and takes what follows for it.
                        Err(SendError::Refused(error) | SendError::Failed(error)) => {
                            return Err(error);
                        }
                        Ok(()) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// The loop that fails calls whose deadline has passed.
    async fn watch_deadlines(&self) -> Infallible {
        loop {
            match self.calls.expire(Instant::now()) {
                Some(next) => tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = self.calls.rearm.notified() => {}
                },
                None => self.calls.rearm.notified().await,
            }
        }
    }
}

/// Spawns `task`, and runs `at_end` when it is over, also where a runtime that shuts down drops it half-way, or before it
/// ever ran.
pub(crate) fn spawn(
    task: impl Future<Output = ()> + Send + 'static,
    at_end: impl FnMut() + Send + 'static,
) -> JoinHandle<()> {
    let at_end = OnDrop(at_end);
    tokio::spawn(async move {
        let _at_end = at_end;
        task.await;
    })
}

/// Runs its function when dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Encoded {
    /// The call as it goes into the table, taken out of this, which is nothing then. Calls pass through many futures on their way
    /// here, each of which would have room for one if they were given away by value.
    pub(crate) fn submit<R, H>(
        &mut self,
        waiter: Waiter<R, H>,
        deadline: Option<Instant>,
        slot: Slot,
    ) -> Submission<R, H> {
        Submission {
            bytes: mem::take(&mut self.bytes),
            waiter,
            deadline,
            slot,
            procedure: self.procedure,
            files: self.files.take(),
            ahead: self.ahead,
            announce: self.announce.take(),
        }
    }
}

/// Lets other tasks that are ready run first, and the other loops of this one. Unlike `tokio::task::yield_now` it does not
/// ask the system for events on the way.
pub(crate) async fn let_others_run() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What came of a call.
fn answered<R>(
    reply: Result<Result<R, Failure>, oneshot::error::RecvError>,
    options: &CallOptions<'_>,
) -> Result<R, Error> {
    match reply {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(Failure::Timeout(progress))) => Err(timed_out(options, progress)),
        Ok(Err(Failure::Ended { cause, sent })) => Err(Error::disconnected(cause, sent)),
        Ok(Err(Failure::Files(source))) => Err(Error::Files { source }),
        // The table answers every call before it lets go of it.
        Err(_) => Err(Error::disconnected(Arc::new(EndCause::RuntimeGone), true)),
    }
}

/// The error of a call whose deadline has passed.
pub(crate) fn timed_out(options: &CallOptions<'_>, progress: Progress) -> Error {
    let phase = match (options.phase, progress) {
        // While connecting it is the step that tells, not how far its packet had come.
        (Phase::Reply, Progress::Queued) => Phase::Queue,
        (Phase::Reply, Progress::Writing) => Phase::Write,
        (phase, _) => phase,
    };
    let after = options.deadline.map(|(_, after)| after).unwrap_or_default();
    Error::Timeout {
        phase,
        after,
        maybe_executed: progress != Progress::Queued,
    }
}

/// Waits for the deadline; for ever where there is none.
pub(crate) async fn sleep_until(deadline: Deadline) {
    match deadline {
        Some((at, _)) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn no_timeout_is_too_long() {
        let mut timeouts = vec![
            Duration::MAX,
            Duration::MAX / 2,
            Duration::from_secs(u64::MAX),
        ];
        timeouts.extend((0..64).map(|bits| Duration::from_secs(u64::MAX >> bits)));
        timeouts.extend((0..64).map(|bits| Duration::from_secs(1 << bits)));
        // The longest that there is no end of time before.
        let mut longest = Duration::ZERO;
        for nanos in (0..96).rev().map(|bits| 1_u128 << bits) {
            let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            let more = u64::try_from(seconds).ok().and_then(|seconds| {
                longest.checked_add(Duration::new(seconds, u32::try_from(rest).unwrap()))
            });
            longest = more
                .filter(|more| Instant::now().checked_add(*more).is_some())
                .unwrap_or(longest);
        }
        timeouts.extend((0..4).map(|place| longest - Duration::from_millis(500) * place));
        timeouts.push(longest - Duration::from_micros(300));
        for timeout in timeouts {
            let mut sleep = Box::pin(sleep_until(deadline(Some(timeout))));
            let polled = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending(), "{timeout:?}");
        }
    }
}
