//! Something that is opened when it is first wanted, once for all who want it. Imports connection and error.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::connection::spawn;
use crate::error::{EndCause, Error};

/// What is opened on demand, in a task of its own: a caller who gives up waiting spoils it for nobody. Unlike a connected
/// stream it can be tried again after a failure.
pub(super) struct Opener<S> {
    state: Arc<Mutex<State<S>>>,
}

enum State<S> {
    Idle,
    Opening(Opening<S>),
    Open(S),
    Closed,
}

struct Opening<S> {
    /// Set once, before `done` wakes those who wait, in the order they came.
    outcome: Arc<OnceLock<Result<S, Error>>>,
    done: Arc<Notify>,
    /// None for the moment in which the task is started.
    task: Option<AbortHandle>,
}

impl<S> Clone for Opening<S> {
    fn clone(&self) -> Self {
        Opening {
            outcome: self.outcome.clone(),
            done: self.done.clone(),
            task: self.task.clone(),
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Opener<S> {
    pub(super) fn new() -> Self {
        Opener {
            state: Arc::new(Mutex::new(State::Idle)),
        }
    }

    /// What is open, if anything is.
    pub(super) fn opened(&self) -> Result<Option<S>, Error> {
        match &*lock(&self.state) {
            State::Open(opened) => Ok(Some(opened.clone())),
            State::Closed => Err(Error::Closed),
            State::Idle | State::Opening(_) => Ok(None),
        }
    }

    /// What is open; opened by `open` where nothing is, or nothing that `is_usable`.
    pub(super) async fn get<F>(
        &self,
        is_usable: impl FnOnce(&S) -> bool,
        open: impl FnOnce() -> F,
    ) -> Result<S, Error>
    where
        F: Future<Output = Result<S, Error>> + Send + 'static,
    {
        let (opening, is_first) = {
            let mut state = lock(&self.state);
            match &*state {
                State::Closed => return Err(Error::Closed),
                State::Open(opened) if is_usable(opened) => return Ok(opened.clone()),
                State::Opening(opening) => (opening.clone(), false),
                State::Open(_) | State::Idle => {
                    let opening = Opening::new();
                    let before = std::mem::replace(&mut *state, State::Opening(opening.clone()));
                    drop(state);
                    drop(before);
                    (opening, true)
                }
            }
        };
        if is_first {
            self.start(&opening, open());
        }
        let done = opening.done.notified();
        if opening.outcome.get().is_none() {
            done.await;
        }
        if matches!(&*lock(&self.state), State::Closed) {
            return Err(Error::Closed);
        }
        match opening.outcome.get() {
            Some(outcome) => outcome.clone(),
            None => Err(Error::Closed),
        }
    }

    /// Starts the task that opens. Not under the lock: a runtime that shuts down drops the task at once.
    fn start(
        &self,
        opening: &Opening<S>,
        open: impl Future<Output = Result<S, Error>> + Send + 'static,
    ) {
        let finish = {
            let (opening, state) = (opening.clone(), self.state.clone());
            move |outcome: Result<S, Error>| {
                let mut state = lock(&state);
                if opening.is_in(&state) {
                    *state = match &outcome {
                        Ok(opened) => State::Open(opened.clone()),
                        Err(_) => State::Idle,
                    };
                }
                drop(state);
                // Already set where the task has come to its end.
                let _ = opening.outcome.set(outcome);
                opening.done.notify_waiters();
            }
        };
        let at_end = {
            let finish = finish.clone();
            move || {
                let cause = Arc::new(EndCause::RuntimeGone);
                finish(Err(Error::disconnected(cause, false)));
            }
        };
        let task = spawn(async move { finish(open.await) }, at_end).abort_handle();
        let mut state = lock(&self.state);
        match &mut *state {
            State::Opening(current) if Arc::ptr_eq(&current.outcome, &opening.outcome) => {
                current.task = Some(task);
            }
            // Closed in this moment; or done, and then there is nothing to abort.
            _ => task.abort(),
        }
    }

    /// Closes for good, and returns what was open. What is being opened is gone on return.
    pub(super) async fn close(&self) -> Option<S> {
        let before = std::mem::replace(&mut *lock(&self.state), State::Closed);
        let opening = match before {
            State::Open(opened) => return Some(opened),
            State::Opening(opening) => opening,
            State::Idle | State::Closed => return None,
        };
        opening.abort();
        let done = opening.done.notified();
        if opening.outcome.get().is_none() {
            done.await;
        }
        // It was done in this moment.
        opening.outcome.get()?.clone().ok()
    }
}

impl<S> Opening<S> {
    fn new() -> Self {
        Opening {
            outcome: Arc::default(),
            done: Arc::default(),
            task: None,
        }
    }

    /// Whether this is what `state` waits for.
    fn is_in(&self, state: &State<S>) -> bool {
        matches!(state, State::Opening(other) if Arc::ptr_eq(&other.outcome, &self.outcome))
    }

    fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl<S> Opener<S> {
    /// How far it is, for `Debug`.
    pub(super) fn describe(&self) -> &'static str {
        match &*lock(&self.state) {
            State::Idle => "not connected",
            State::Opening(_) => "connecting",
            State::Open(_) => "connected",
            State::Closed => "closed",
        }
    }
}

impl<S> Drop for Opener<S> {
    fn drop(&mut self) {
        if let State::Opening(opening) = &*lock(&self.state) {
            opening.abort();
        }
    }
}

fn lock<S>(state: &Mutex<State<S>>) -> MutexGuard<'_, State<S>> {
    // Nothing panics under this lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn all_who_wait_get_what_is_opened_once() {
        let opener = Opener::<u32>::new();
        let opened = AtomicU32::new(0);
        let get = || {
            opener.get(
                |_| true,
                || {
                    opened.fetch_add(1, Ordering::Relaxed);
                    std::future::ready(Ok(7))
                },
            )
        };
        let (a, b, c) = tokio::join!(get(), get(), get());
        assert_eq!((a.unwrap(), b.unwrap(), c.unwrap()), (7, 7, 7));
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        assert_eq!(opener.opened().unwrap(), Some(7));
    }

    #[tokio::test]
    async fn a_failure_is_for_those_who_waited_and_is_not_kept() {
        let opener = Opener::<u32>::new();
        let failed = opener.get(
            |_| true,
            || async { Err(Error::Unsupported("x".to_owned())) },
        );
        assert!(failed.await.unwrap_err().is_unsupported());
        assert_eq!(opener.get(|_| true, || async { Ok(1) }).await.unwrap(), 1);
        // What cannot be used any more is opened anew.
        assert_eq!(opener.get(|_| false, || async { Ok(2) }).await.unwrap(), 2);
        assert_eq!(opener.get(|_| true, || async { Ok(3) }).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn giving_up_leaves_it_to_the_next() {
        let opener = Opener::<u32>::new();
        let (sender, receiver) = tokio::sync::oneshot::channel::<u32>();
        {
            let first = opener.get(
                |_| true,
                || async move { receiver.await.map_err(|_| Error::Closed) },
            );
            tokio::select! {
                biased;
                _ = first => unreachable!("nothing was sent"),
                () = std::future::ready(()) => {}
            }
        }
        sender.send(5).unwrap();
        let second = opener.get(|_| true, || async { Ok(6) });
        assert_eq!(second.await.unwrap(), 5);
    }

    #[tokio::test]
    async fn closing_is_final_also_for_those_who_wait() {
        let opener = Opener::<u32>::new();
        let waiting = opener.get(|_| true, pending);
        let (waited, was_open) = tokio::join!(waiting, opener.close());
        assert_eq!(was_open, None);
        assert!(waited.unwrap_err().is_closed());
        let later = opener.get(|_| true, || async { Ok(1) });
        assert!(later.await.unwrap_err().is_closed());
        assert!(opener.opened().unwrap_err().is_closed());
    }
}
