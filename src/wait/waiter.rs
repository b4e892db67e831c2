//! The waiting itself: one condition, one source of events, and a question beside them. Imports monitor, qmp, error and
//! `condition`.
//!
//! Whoever waits judges the events, in the task that waits: code of the user runs under no lock and in nobody else's task.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::debug;

use super::condition::{Answer, Verdict, Wait};
use crate::error::{Error, Phase};
use crate::monitor::{EventOptions, EventStream, Monitor, RunOptions};
use crate::qmp::{self, Command, Event, EventFilter};

/// Events judged before other tasks get their turn, where they come without a pause.
const EVENTS_PER_TURN: u32 = 64;

/// Events thrown away before a command at most. No queue is that long.
const MOST_STALE: u32 = 1 << 20;

/// More than what tokio's timer counts in.
const TICK: Duration = Duration::from_secs(1);

/// When a wait is over, whatever it waits for.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    after: Duration,
    /// None where it never comes.
    at: Option<Instant>,
}

impl Deadline {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        // tokio rounds up to its next tick, and that must not be past the end of time either.
        let at = |after| {
            let at = Instant::now().checked_add(after)?;
            at.checked_add(TICK).map(|_| at)
        };
        Deadline {
            after: timeout.unwrap_or_default(),
            at: timeout.and_then(at),
        }
    }

    /// What `work` gives, or the timeout of this phase.
    pub(super) async fn keep<T>(
        self,
        phase: Phase,
        maybe_executed: bool,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match self.cut(work).await {
            Some(result) => result,
            None => Err(Error::Timeout {
                phase,
                after: self.after,
                maybe_executed,
            }),
        }
    }

    async fn cut<T>(self, work: impl Future<Output = T>) -> Option<T> {
        match self.at {
            Some(at) => tokio::time::timeout_at(at, work).await.ok(),
            None => Some(work.await),
        }
    }
}

/// What a source of events gives: an event, with or without something beside it.
pub(super) trait Occurrence {
    fn event(&self) -> &Event;
}

impl Occurrence for Event {
    fn event(&self) -> &Event {
        self
    }
}

/// The next item, or the panic of a predicate in the stream's filter.
pub(super) async fn next_or_panic<S: Stream + Unpin>(
    stream: &mut S,
) -> Result<Option<S::Item>, Box<dyn Any + Send>> {
    poll_fn(|cx| {
        // The stream is not used again after that.
        match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut *stream).poll_next(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

/// The next item. Dropping the future loses none.
pub(super) async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

/// The item that is there now.
fn ready_now<S: Stream + Unpin>(stream: &mut S, cx: &mut Context<'_>) -> Option<Option<S::Item>> {
    match Pin::new(stream).poll_next(cx) {
        Poll::Ready(item) => Some(item),
        Poll::Pending => None,
    }
}

/// Subscribes for a wait that begins now.
///
/// A stream can have events from before, where a driver keeps those that nobody has taken yet and does not know
/// [`EventOptions::from_now`]. Where the subscription itself had nothing to wait for, what is there at the same moment came
/// before it.
pub(super) async fn subscribe<M: Monitor + ?Sized>(
    monitor: &M,
    filter: EventFilter,
) -> Result<EventStream, Error> {
    let mut subscribing = monitor.events_with(EventOptions::new(filter).from_now());
    let mut at_once = true;
    let mut events = poll_fn(|cx| {
        let polled = subscribing.as_mut().poll(cx);
        at_once &= polled.is_ready();
        polled
    })
    .await?;
    if at_once {
        discard_stale(monitor, &mut events).await?;
    }
    Ok(events)
}

/// Throws away what has come so far.
///
/// # Errors
///
/// The end of the stream, where that has come.
pub(super) async fn discard_stale<M: Monitor + ?Sized>(
    monitor: &M,
    events: &mut EventStream,
) -> Result<(), Error> {
    let end = poll_fn(|cx| {
        for _ in 0..MOST_STALE {
            match ready_now(events, cx) {
                None => break,
                Some(Some(Ok(_))) => {}
                Some(Some(Err(error))) if error.leaves_stream_open() => {}
                Some(end) => return Poll::Ready(Some(end.and_then(Result::err))),
            }
        }
        Poll::Ready(None)
    });
    match end.await {
        None => Ok(()),
        Some(Some(error)) => Err(error),
        Some(None) => Err(silent_end(monitor).await),
    }
}

/// Somebody who waits for a condition.
pub(super) struct Waiter<S> {
    wait: Wait,
    events: S,
    /// What stands for the events that are missing, where some are.
    loss: Option<Error>,
    /// Nothing was there when the stream was last asked.
    drained: bool,
}

/// What an event, or the end of them, has decided.
pub(super) enum Settled<T> {
    Met(T),
    Failed {
        reason: String,
        /// Whether there may be a better reason to be had.
        ask: bool,
        item: T,
    },
    /// None where the stream just ended, as it does when the user disconnects.
    Ended(Option<Error>),
}

/// What came first.
enum Step<T> {
    Settled(Settled<T>),
    Answered(Answer),
    /// All that is there has been judged, and some events are missing.
    Lost(Error),
}

type Asking<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

impl<S, T> Waiter<S>
where
    S: Stream<Item = Result<T, Error>> + Unpin,
    T: Occurrence,
{
    pub(super) fn new(wait: Wait, events: S) -> Self {
        Waiter {
            wait,
            events,
            loss: None,
            drained: false,
        }
    }

    /// Whether there is something to ask; `after_command`: once a command has been run.
    pub(super) fn asks(&self, after_command: bool) -> bool {
        let question = self.wait.question.as_ref();
        question.is_some_and(|question| question.after_command || !after_command)
    }

    /// Judges what has come. That something was lost decides nothing yet: what comes after it may.
    pub(super) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<Settled<T>> {
        for _ in 0..EVENTS_PER_TURN {
            let item = ready_now(&mut self.events, cx);
            self.drained = item.is_none();
            match item {
                None => return Poll::Pending,
                Some(Some(Ok(item))) => {
                    if let Some(settled) = self.judge(item) {
                        return Poll::Ready(settled);
                    }
                }
                Some(Some(Err(error))) if error.leaves_stream_open() => self.lose(error),
                Some(Some(Err(error))) => return Poll::Ready(Settled::Ended(Some(error))),
                Some(None) => return Poll::Ready(Settled::Ended(None)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn judge(&mut self, item: T) -> Option<Settled<T>> {
        let (reason, ask) = match (self.wait.judge)(item.event()) {
            Verdict::Open => return None,
            Verdict::Met => return Some(Settled::Met(item)),
            Verdict::Failed(reason) => (reason, false),
            Verdict::FailedAsk(reason) => (reason, true),
        };
        Some(Settled::Failed { reason, ask, item })
    }

    fn lose(&mut self, error: Error) {
        self.loss = Some(match (self.loss.take(), error) {
            (Some(Error::EventsLost(before)), Error::EventsLost(more)) => {
                Error::EventsLost(before.saturating_add(more))
            }
            // Where the connection was lost, nobody knows how many.
            (Some(before), error) if !matches!(error, Error::Gap { .. }) => before,
            (_, error) => error,
        });
    }

    /// Waits until the condition is met: by the item, or, where there is none, by the answer to its question.
    ///
    /// `monitor` is who can be asked, and `ask` whether that is done at once.
    pub(super) async fn settle<M: Monitor + ?Sized>(
        &mut self,
        monitor: Option<&M>,
        ask: bool,
        deadline: Deadline,
    ) -> Result<Option<T>, Error> {
        let mut asking = monitor.filter(|_| ask).and_then(|one| self.ask(one));
        let mut asked_about_loss = None;
        loop {
            match poll_fn(|cx| self.poll_step(asking.as_mut(), cx)).await {
                Step::Settled(settled) => {
                    return self.conclude(settled, monitor, deadline).await.map(Some);
                }
                Step::Answered(answer) => {
                    asking = None;
                    if self.judge_answer(&answer)? {
                        return Ok(None);
                    }
                    if let Some(loss) = asked_about_loss.take() {
                        return Err(loss);
                    }
                }
                // What was missed may be just what is waited for. If there is nobody to say so, it cannot be waited for.
                Step::Lost(loss) => {
                    asking = monitor.and_then(|monitor| self.ask(monitor));
                    if asking.is_none() {
                        return Err(loss);
                    }
                    asked_about_loss = Some(loss);
                }
            }
        }
    }

    fn poll_step(
        &mut self,
        asking: Option<&mut Asking<'_>>,
        cx: &mut Context<'_>,
    ) -> Poll<Step<T>> {
        // The events first: an answer says less than the event that it is about.
        if let Poll::Ready(settled) = self.poll_settled(cx) {
            return Poll::Ready(Step::Settled(settled));
        }
        match (asking, self.drained) {
            (Some(asking), _) => asking.as_mut().poll(cx).map(Step::Answered),
            (None, true) => match self.loss.take() {
                Some(loss) => Poll::Ready(Step::Lost(loss)),
                None => Poll::Pending,
            },
            (None, false) => Poll::Pending,
        }
    }

    fn ask<'m, M: Monitor + ?Sized>(&self, monitor: &'m M) -> Option<Asking<'m>> {
        let command = self.wait.question.as_ref()?.command.clone();
        Some(Box::pin(async move {
            let reply = run(monitor, &command).await?;
            returned(&reply)
        }))
    }

    /// Whether the condition is met by what the question was answered with.
    fn judge_answer(&mut self, answer: &Answer) -> Result<bool, Error> {
        let verdict = self.wait.question.as_mut().map(|it| (it.judge)(answer));
        match (verdict, answer) {
            (Some(Verdict::Met), _) => return Ok(true),
            (Some(Verdict::Failed(reason) | Verdict::FailedAsk(reason)), _) => {
                return Err(self.wait.failed(reason, None));
            }
            // Nothing was asked, and nothing would ever be.
            (_, Err(Error::Command(error))) => return Err(Error::Command(error.clone())),
            // The events still come, or the end of them.
            (_, Err(error)) => debug!(what = %self.wait.what, %error, "cannot ask"),
            _ => {}
        }
        Ok(false)
    }

    /// What has been decided, as a result.
    pub(super) async fn conclude<M: Monitor + ?Sized>(
        &mut self,
        settled: Settled<T>,
        monitor: Option<&M>,
        deadline: Deadline,
    ) -> Result<T, Error> {
        match settled {
            Settled::Met(item) => Ok(item),
            Settled::Failed { reason, ask, item } => {
                let asking = monitor
                    .filter(|_| ask)
                    .and_then(|monitor| self.ask(monitor));
                let better = match asking {
                    // A deadline that passes meanwhile takes nothing from what is known.
                    Some(asking) => deadline.cut(asking).await,
                    None => None,
                };
                let question = self.wait.question.as_mut();
                let better = better.and_then(|answer| (question?.why)(&answer));
                Err(self
                    .wait
                    .failed(better.unwrap_or(reason), Some(item.event())))
            }
            Settled::Ended(Some(error)) => Err(error),
            Settled::Ended(None) => Err(match monitor {
                Some(monitor) => silent_end(monitor).await,
                None => Error::Closed,
            }),
        }
    }

    /// The stream, to be asked for what is there before a command is sent.
    pub(super) fn events(&mut self) -> &mut S {
        &mut self.events
    }
}

/// Why a stream ended that just ended: the user disconnected, or QEMU left after it had said so. A command, of which nothing
/// is sent any more, is refused for that reason.
async fn silent_end<M: Monitor + ?Sized>(monitor: &M) -> Error {
    match run(monitor, &Command::new("query-status")).await {
        Err(error) if error.is_disconnected() => error,
        _ => Error::Closed,
    }
}

/// Runs a command; its reply.
pub(super) async fn run<M: Monitor + ?Sized>(
    monitor: &M,
    command: &Command,
) -> Result<Bytes, Error> {
    let text = command.to_json()?;
    let files = command.files();
    let mut options = RunOptions::new().files(&files);
    if let Some(timeout) = command.own_timeout() {
        options = options.timeout(timeout);
    }
    monitor.run_with(&text, options).await
}

/// The value of a reply.
pub(super) fn returned(reply: &Bytes) -> Result<Box<RawValue>, Error> {
    qmp::return_text(reply).map_err(|error| Error::json("return value", error))
}

/// Runs a command and judges the events that come meanwhile: its reply, and what they have decided.
pub(super) async fn run_and_listen<M: Monitor + ?Sized>(
    monitor: &M,
    command: &Command,
    waiter: &mut Waiter<EventStream>,
) -> Result<(Box<RawValue>, Option<Settled<Event>>), Error> {
    let mut settled = None;
    let mut call = pin!(run(monitor, command));
    let reply = poll_fn(|cx| {
        if settled.is_none()
            && let Poll::Ready(outcome) = waiter.poll_settled(cx)
        {
            settled = Some(outcome);
        }
        call.as_mut().poll(cx)
    })
    .await?;
    Ok((returned(&reply)?, settled))
}
