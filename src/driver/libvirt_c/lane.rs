//! A thread of its own for calls that block: one after the other, with deadlines for those who wait, whom the thread outlives.
//! Imports connection and error, and the end of a connection.
//!
//! tokio's own threads for blocking work would not do: a runtime that shuts down waits for them, and libvirt may wait for ever.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use tokio::sync::{Semaphore, oneshot};

use super::end::End;
use super::event_loop::cannot_start;
use crate::connection::{Deadline, leaves_no_time, sleep_until};
use crate::error::{EndCause, Error, Phase};

/// A thread that owns an `S` and does what it is given, in order.
pub(super) struct Lane<S> {
    jobs: Jobs<S>,
    /// Lets one call at a time in, so that no more than one waits for a thread that is stuck.
    turn: Arc<Semaphore>,
    end: Arc<End>,
}

/// Where the thread is given work.
pub(super) struct Jobs<S>(mpsc::Sender<Job<S>>);

enum Job<S> {
    Run(Box<dyn FnOnce(&mut S) + Send>),
    Stop,
}

/// What a call is waited for, and how long.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    pub(super) phase: Phase,
    pub(super) deadline: Deadline,
}

impl<S: Send + 'static> Lane<S> {
    /// Starts the thread. `make` gets the way to give it work from within.
    pub(super) fn start(
        name: &str,
        end: Arc<End>,
        make: impl FnOnce(Jobs<S>) -> S,
    ) -> Result<Self, Error> {
        let (sender, receiver) = mpsc::channel();
        let jobs = Jobs(sender);
        let mut state = make(jobs.clone());
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Ok(Job::Run(job)) = receiver.recv() {
                    job(&mut state);
                }
                // What waits for nobody goes before the state does, which may take its time.
                drop(receiver);
            })
            .map_err(|error| cannot_start(name, error))?;
        Ok(Lane {
            jobs,
            turn: Arc::new(Semaphore::new(1)),
            end,
        })
    }

    /// The way to give the thread work without waiting for it.
    pub(super) fn jobs(&self) -> &Jobs<S> {
        &self.jobs
    }

    /// Has the thread do `work`, in the order of the calls, and waits for the result.
    ///
    /// Dropping the future before it is begun prevents it; after that the result is dropped, by the thread.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        wait: Wait,
        work: impl FnOnce(&mut S) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if leaves_no_time(wait.deadline) {
            return Err(wait.timed_out(false));
        }
        let turn = tokio::select! {
            biased;
            cause = self.end.wait() => return Err(Error::disconnected(cause, false)),
            turn = self.turn.clone().acquire_owned() => turn.map_err(|_| Error::Closed)?,
            () = sleep_until(wait.deadline) => return Err(wait.timed_out(false)),
        };
        let (sender, mut result) = oneshot::channel();
        self.jobs.post(move |state| {
            if sender.is_closed() {
                return;
            }
            let result = work(state);
            drop(turn);
            let _ = sender.send(result);
        });
        tokio::select! {
            biased;
            result = &mut result => match result {
                Ok(result) => self.said(result),
                // The thread was stopped before it came to this.
                Err(_) => Err(Error::disconnected(self.end.cause_or(EndCause::UserClosed), false)),
            },
            cause = self.end.wait() => Err(Error::disconnected(cause, true)),
            () = sleep_until(wait.deadline) => Err(wait.timed_out(true)),
        }
    }

    /// What libvirt says of a call whose connection was lost is less than why it was.
    fn said<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match (result, self.end.cause()) {
            (Err(Error::Libvirt(_)), Some(cause)) => Err(Error::disconnected(cause, true)),
            (result, _) => result,
        }
    }
}

impl<S> Drop for Lane<S> {
    fn drop(&mut self) {
        self.jobs.stop();
    }
}

impl<S> Jobs<S> {
    /// Has the thread do `work` when it comes to it; where it has ended, nobody does.
    pub(super) fn post(&self, work: impl FnOnce(&mut S) + Send + 'static) {
        let _ = self.0.send(Job::Run(Box::new(work)));
    }

    /// Ends the thread after what it was given before.
    pub(super) fn stop(&self) {
        let _ = self.0.send(Job::Stop);
    }
}

impl<S> Clone for Jobs<S> {
    fn clone(&self) -> Self {
        Jobs(self.0.clone())
    }
}

impl Wait {
    fn timed_out(self, begun: bool) -> Error {
        let phase = match self.phase {
            Phase::Reply if !begun => Phase::Queue,
            phase => phase,
        };
        Error::Timeout {
            phase,
            after: self.deadline.map(|(_, after)| after).unwrap_or_default(),
            maybe_executed: begun,
        }
    }
}
