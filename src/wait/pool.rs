//! Threads for callbacks, which may block. Imports `handler`.
//!
//! They are threads of their own and not tokio's: a runtime that shuts down waits for its blocking tasks, and one callback
//! that never returns must not hang it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A number of threads at most, started when there is work for them. They end when the pool is closed, each after the job it
/// is at.
pub(super) struct Pool {
    limit: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    closed: bool,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Pool {
            limit: limit.max(1),
            state: Mutex::default(),
            work: Condvar::new(),
        })
    }

    /// Has a thread do `job`, after those given before. A closed pool drops it.
    pub(super) fn run(self: &Arc<Self>, job: Job) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return drop(job);
        }
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            self.work.notify_one();
        } else if state.threads < self.limit {
            state.threads += 1;
            drop(state);
            self.start();
        }
    }

    /// Drops the jobs that wait, and lets the threads end.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.work.notify_all();
        drop(jobs);
    }

    fn start(self: &Arc<Self>) {
        let pool = self.clone();
        let started = thread::Builder::new()
            .name("qmp-callback".to_owned())
            .spawn(move || pool.work());
        let Err(error) = started else {
            return;
        };
        tracing::error!(%error, "cannot start a thread for callbacks");
        let mut state = self.lock();
        state.threads -= 1;
        if state.threads > 0 {
            return;
        }
        // There is nobody else to do it.
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        jobs.into_iter().for_each(do_job);
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                state.threads -= 1;
                return;
            }
            let Some(job) = state.jobs.pop_front() else {
                state.idle += 1;
                state = self.wait(state);
                state.idle -= 1;
                continue;
            };
            drop(state);
            do_job(job);
            state = self.lock();
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.work
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job catches the panics of callbacks. What else panics, such as the end of what a callback owns, must not end the thread.
fn do_job(job: Job) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
        super::handler::report(&*panic);
    }
}
