//! Callbacks for events, called in a task of the runtime. Imports monitor, qmp, error and `waiter`.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::task::AbortHandle;

use super::waiter::next;
use crate::error::Error;
use crate::monitor::EventStream;
use crate::qmp::Event;

/// Keeps a callback for events registered: dropping it unsubscribes.
///
/// A call of it that goes on at that moment is finished; none follows.
#[must_use = "dropping it unsubscribes at once"]
pub struct EventHandler {
    /// None once detached.
    task: Option<AbortHandle>,
}

impl EventHandler {
    pub(super) fn start(
        mut events: EventStream,
        mut callback: impl FnMut(Result<Event, Error>) + Send + 'static,
    ) -> Self {
        let task = tokio::spawn(async move {
            while let Some(item) = next(&mut events).await {
                // Its state is its own: what a panic leaves of it, only the callback sees.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(item))) {
                    report(&*panic);
                }
            }
        });
        EventHandler::new(task.abort_handle())
    }

    pub(super) fn new(task: AbortHandle) -> Self {
        EventHandler { task: Some(task) }
    }

    /// Whether no call will follow: the events have ended.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(AbortHandle::is_finished)
    }

    /// Leaves the callback registered for as long as there are events, or as the [`Callbacks`](crate::Callbacks) live.
    pub fn detach(mut self) {
        self.task = None;
    }
}

/// Says that a callback panicked; returns what it said.
pub(super) fn report(panic: &(dyn Any + Send)) -> &str {
    let text = match panic.downcast_ref::<&str>() {
        Some(text) => text,
        None => panic
            .downcast_ref::<String>()
            .map_or("no message", String::as_str),
    };
    tracing::error!(panic = text, "a callback panicked");
    text
}

impl Drop for EventHandler {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl fmt::Debug for EventHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventHandler")
    }
}
