//! Why a connection has ended, for tasks and threads that wait for it. Imports error.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::EndCause;

/// The end of a connection: nothing yet, then one cause for ever.
#[derive(Default)]
pub(super) struct End {
    cause: Mutex<Option<Arc<EndCause>>>,
    tasks: Notify,
    threads: Condvar,
}

impl End {
    /// Sets the cause where there is none, tells everybody, and gives the one that holds.
    pub(super) fn set(&self, cause: EndCause) -> Arc<EndCause> {
        let cause = self.lock().get_or_insert_with(|| Arc::new(cause)).clone();
        self.tasks.notify_waiters();
        self.threads.notify_all();
        cause
    }

    /// The cause, if it has ended.
    pub(super) fn cause(&self) -> Option<Arc<EndCause>> {
        self.lock().clone()
    }

    /// The cause, or this one where it has not ended.
    pub(super) fn cause_or(&self, other: EndCause) -> Arc<EndCause> {
        self.cause().unwrap_or_else(|| Arc::new(other))
    }

    /// Waits for the end.
    pub(super) async fn wait(&self) -> Arc<EndCause> {
        loop {
            // Made before the question is asked, it misses no answer.
            let told = self.tasks.notified();
            if let Some(cause) = self.cause() {
                return cause;
            }
            told.await;
        }
    }

    /// Waits for the end on a thread that may block, and no longer than `limit`.
    pub(super) fn wait_blocking(&self, limit: Duration) {
        let waited = self
            .threads
            .wait_timeout_while(self.lock(), limit, |cause| cause.is_none());
        drop(waited);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<EndCause>>> {
        // Nothing panics under this lock.
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
