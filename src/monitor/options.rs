//! What a single call or a single event stream can be told. Imports qmp and queue.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::qmp::EventFilter;
use crate::queue::Overflow;

/// How one command is to be run, made by chained setters.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions<'a> {
    /// The call's own deadline: `Some(None)` is none at all, `None` leaves it to the configuration.
    pub(crate) timeout: Option<Option<Duration>>,
    pub(crate) files: &'a [BorrowedFd<'a>],
}

impl<'a> RunOptions<'a> {
    /// As configured, without descriptors.
    pub fn new() -> Self {
        RunOptions::default()
    }

    /// How long the call may take, instead of [`Config::call_timeout`](crate::Config::call_timeout). `None` waits for ever.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// Descriptors to send along. They are copied on the way: the caller's stay open.
    pub fn files(mut self, files: &'a [BorrowedFd<'a>]) -> Self {
        self.files = files;
        self
    }

    /// What [`timeout`](RunOptions::timeout) was set to: `Some(None)` is no deadline at all, and `None` means that it was not
    /// set. For drivers of your own.
    pub fn own_timeout(&self) -> Option<Option<Duration>> {
        self.timeout
    }

    /// What [`files`](RunOptions::files) was set to. For drivers of your own.
    pub fn own_files(&self) -> &'a [BorrowedFd<'a>] {
        self.files
    }
}

/// Which events a stream has, and how many may wait in it; made by chained setters.
///
/// ```
/// use libvirt_qmp::{EventFilter, EventOptions, Overflow};
///
/// let options = EventOptions::new(EventFilter::glob("BLOCK_*")).queue(100).overflow(Overflow::End);
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct EventOptions {
    pub(crate) filter: EventFilter,
    pub(crate) queue: Option<usize>,
    pub(crate) overflow: Overflow,
    pub(crate) from_now: bool,
}

impl EventOptions {
    /// The events that `filter` takes, bounded as configured, the oldest dropped when there are more.
    pub fn new(filter: impl Into<EventFilter>) -> Self {
        EventOptions {
            filter: filter.into(),
            ..EventOptions::default()
        }
    }

    /// How many events may wait, instead of [`Config::event_queue`](crate::Config::event_queue); at least 1.
    pub fn queue(mut self, events: usize) -> Self {
        self.queue = Some(events.max(1));
        self
    }

    /// What happens when more come.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// The stream begins with what comes after the call, and takes no part in what
    /// [`SocketMonitor`](crate::SocketMonitor) keeps for its first stream: that stays for another. Where the call
    /// has to connect first, it begins with what comes on that connection. Other drivers keep nothing: every stream of theirs
    /// begins so.
    pub fn from_now(mut self) -> Self {
        self.from_now = true;
        self
    }

    /// The filter. For drivers of your own.
    pub fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// Whether it is [`from_now`](EventOptions::from_now). For drivers of your own that keep events for their first stream.
    pub fn is_from_now(&self) -> bool {
        self.from_now
    }
}

/// How long libvirt waits for the guest agent (`virDomainQemuAgentCommandTimeoutValues`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AgentTimeout {
    /// As long as it takes (`VIR_DOMAIN_QEMU_AGENT_COMMAND_BLOCK`, -2). The call's own deadline still holds.
    Block,
    /// libvirt's default, 5 s unless the domain says otherwise (`VIR_DOMAIN_QEMU_AGENT_COMMAND_DEFAULT`, -1).
    #[default]
    Default,
    /// Not at all (`VIR_DOMAIN_QEMU_AGENT_COMMAND_NOWAIT`, 0). An agent is hardly ever that quick: expect
    /// [`Error::is_agent_unresponsive`](crate::Error::is_agent_unresponsive), of a command that may have been run.
    NoWait,
    /// So many seconds, at least 1, on top of the call's own deadline. Where libvirt has to synchronize with the agent first,
    /// because there is no earlier answer or none came the last time, it gives that the time of `Default`.
    Seconds(u32),
}

impl AgentTimeout {
    /// The value libvirt takes.
    pub(crate) fn to_wire(self) -> i32 {
        match self {
            AgentTimeout::Block => -2,
            AgentTimeout::Default => -1,
            AgentTimeout::NoWait => 0,
            AgentTimeout::Seconds(seconds) => i32::try_from(seconds.max(1)).unwrap_or(i32::MAX),
        }
    }

    /// What a call's deadline grows by, so that it does not pass before libvirt's own.
    pub(crate) fn allowance(self) -> Duration {
        match self {
            AgentTimeout::Seconds(seconds) => Duration::from_secs(seconds.into()),
            AgentTimeout::Block | AgentTimeout::Default | AgentTimeout::NoWait => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_timeouts_have_libvirts_numbers() {
        for (timeout, wire, allowance) in [
            (AgentTimeout::Block, -2, 0),
            (AgentTimeout::Default, -1, 0),
            (AgentTimeout::NoWait, 0, 0),
            // 0 would mean not to wait.
            (AgentTimeout::Seconds(0), 1, 0),
            (AgentTimeout::Seconds(60), 60, 60),
            (AgentTimeout::Seconds(u32::MAX), i32::MAX, u32::MAX),
        ] {
            assert_eq!(timeout.to_wire(), wire);
            assert_eq!(timeout.allowance(), Duration::from_secs(allowance.into()));
        }
    }
}
