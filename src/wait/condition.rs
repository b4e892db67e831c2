//! What can be waited for: a `Wait` looks at events, and may ask one question besides. Imports qmp and error.
//!
//! `named` makes those for what happens in QEMU, `waiter` does the waiting.

use std::fmt;

use serde_json::value::RawValue;

use crate::error::Error;
use crate::qmp::{Command, Event, EventFilter};

/// A condition that events decide, to be waited for with [`WaitExt`](crate::WaitExt) or a [`History`](crate::History).
///
/// A filter, or the name of an event, is one: it is met by the first event that is taken. Of what happens in QEMU there are
/// others by name, such as [`Wait::device_deleted`] and [`Wait::job_status`]. They know the events that say that it has failed
/// too, and most can ask QEMU whether it is so already: a wait for what has happened before is over at once then.
///
/// ```
/// use libvirt_qmp::{Command, Event, EventFilter, Wait};
/// use serde_json::value::RawValue;
///
/// // By its name, or by any filter.
/// let reset: Wait = "RESET".into();
/// let any_job = Wait::event(EventFilter::glob("BLOCK_JOB_*"));
///
/// // One's own: an event that meets it, one that makes it fail, and a question whether it is so already.
/// let linked = Wait::event("NIC_RX_FILTER_CHANGED")
///     .fails_on("SHUTDOWN", |_| "the guest is going".to_owned())
///     .or_already(Command::new("query-name"), |name: &RawValue| name.get().contains("ready"));
/// # let _ = (reset, any_job, linked);
/// ```
pub struct Wait {
    /// What it is about, for the text of [`Error::Failed`].
    pub(super) what: String,
    /// The events that `judge` is to see: no others may reach it.
    pub(super) filter: EventFilter,
    pub(super) judge: Judge,
    pub(super) question: Option<Question>,
}

/// What an event says about a condition.
pub(super) type Judge = Box<dyn FnMut(&Event) -> Verdict + Send>;

/// The value a question was answered with.
pub(super) type Answer = Result<Box<RawValue>, Error>;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Neither met nor failed.
    Open,
    Met,
    /// It will not come, for this reason.
    Failed(String),
    /// It will not come. The question gives the reason, or else it is this.
    FailedAsk(String),
}

/// What can be asked besides the events.
pub(super) struct Question {
    pub(super) command: Command,
    /// Whether it is so already. An answer that leaves it open is no error, whatever it is.
    pub(super) judge: Box<dyn FnMut(&Answer) -> Verdict + Send>,
    /// Why it has failed.
    pub(super) why: Box<dyn FnMut(&Answer) -> Option<String> + Send>,
    /// Whether it is asked too when a command has been run whose events nobody can have missed.
    pub(super) after_command: bool,
}

impl Question {
    pub(super) fn new(
        command: &str,
        judge: impl FnMut(&Answer) -> Verdict + Send + 'static,
    ) -> Self {
        Question {
            command: Command::new(command),
            judge: Box::new(judge),
            why: Box::new(|_| None),
            after_command: true,
        }
    }

    pub(super) fn why(
        mut self,
        why: impl FnMut(&Answer) -> Option<String> + Send + 'static,
    ) -> Self {
        self.why = Box::new(why);
        self
    }
}

impl Wait {
    /// The first event that `filter` takes.
    pub fn event(filter: impl Into<EventFilter>) -> Self {
        let filter = filter.into();
        Wait {
            what: "the wait".to_owned(),
            filter,
            judge: Box::new(|_| Verdict::Met),
            question: None,
        }
    }

    /// The same, over with [`Error::Failed`] when an event comes that `filter` takes. `reason` makes the text of it.
    pub fn fails_on(
        mut self,
        filter: impl Into<EventFilter>,
        mut reason: impl FnMut(&Event) -> String + Send + 'static,
    ) -> Self {
        let filter = filter.into();
        let mut judge = self.judge;
        self.filter = self.filter.or(filter.clone());
        self.judge = Box::new(move |event| match filter.matches(event) {
            true => Verdict::Failed(reason(event)),
            false => judge(event),
        });
        self
    }

    /// The same, met too where `query`, asked once the events are being listened to, returns a value of which `is_so` says
    /// yes. It should ask for nothing but information. An error for an answer counts as no.
    pub fn or_already(
        mut self,
        query: Command,
        mut is_so: impl FnMut(&RawValue) -> bool + Send + 'static,
    ) -> Self {
        self.question = Some(Question {
            command: query,
            judge: Box::new(move |answer| match answer {
                Ok(value) if is_so(value) => Verdict::Met,
                _ => Verdict::Open,
            }),
            why: Box::new(|_| None),
            after_command: true,
        });
        self
    }

    /// The same, called `what` in the text of [`Error::Failed`].
    pub fn called(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    /// The events it looks at, for programs that do the waiting themselves.
    pub fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// The failure for `reason`, which `event` told.
    pub(super) fn failed(&self, reason: String, event: Option<&Event>) -> Error {
        Error::Failed {
            what: self.what.clone(),
            reason,
            event: event.map(|event| Box::new(event.clone())),
        }
    }
}

impl From<EventFilter> for Wait {
    fn from(filter: EventFilter) -> Self {
        Wait::event(filter)
    }
}

impl From<&str> for Wait {
    fn from(name: &str) -> Self {
        Wait::event(name)
    }
}

impl From<String> for Wait {
    fn from(name: String) -> Self {
        Wait::event(name)
    }
}

impl<const N: usize> From<[&str; N]> for Wait {
    fn from(names: [&str; N]) -> Self {
        Wait::event(names)
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait")
            .field("what", &self.what)
            .field("filter", &self.filter)
            .field("question", &self.question.as_ref().map(|q| &q.command))
            .finish_non_exhaustive()
    }
}
