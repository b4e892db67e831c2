//! The time for connecting, of which each step has its share. Imports `super`.

use std::time::Duration;

use tokio::time::Instant;

use super::{Deadline, deadline};

/// The time for the steps of connecting, one after another. Those with no timeout of their own share one deadline, which stands
/// still during the others.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    shared: Deadline,
    /// When the present step began, where it has a timeout of its own.
    apart_since: Option<Instant>,
}

impl Steps {
    /// The steps that have `shared` together, from now on.
    pub(crate) fn new(shared: Option<Duration>) -> Self {
        Steps {
            shared: deadline(shared),
            apart_since: None,
        }
    }

    /// The deadline of the step that begins now, of which `own` is the timeout where it has one. The one before is over.
    pub(crate) fn next(&mut self, own: Option<Option<Duration>>) -> Deadline {
        if let Some(since) = self.apart_since.take() {
            self.shared = self.shared.and_then(|(at, length)| {
                // Past the end of time there is none.
                let at = at.checked_add(since.elapsed())?;
                Some((at, length))
            });
        }
        match own {
            Some(timeout) => {
                self.apart_since = Some(Instant::now());
                deadline(timeout)
            }
            None => self.shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(deadline: Deadline) -> Option<u64> {
        deadline.map(|(at, _)| (at - Instant::now()).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn steps_share_what_is_left_and_those_apart_take_nothing_from_it() {
        let seconds = Duration::from_secs;
        let mut steps = Steps::new(Some(seconds(10)));
        assert_eq!(left(steps.next(None)), Some(10));
        tokio::time::advance(seconds(3)).await;
        assert_eq!(left(steps.next(None)), Some(7));
        assert_eq!(left(steps.next(Some(None))), None);
        tokio::time::advance(seconds(3600)).await;
        assert_eq!(left(steps.next(Some(Some(seconds(20))))), Some(20));
        tokio::time::advance(seconds(20)).await;
        let next = steps.next(None);
        assert_eq!(left(next), Some(7));
        // What was given is what is told.
        assert_eq!(next.map(|(_, length)| length), Some(seconds(10)));
        tokio::time::advance(seconds(7)).await;
        assert_eq!(left(steps.next(None)), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn no_deadline_stays_none() {
        let mut steps = Steps::new(None);
        assert_eq!(steps.next(None), None);
        assert!(steps.next(Some(Some(Duration::from_secs(1)))).is_some());
        assert_eq!(steps.next(None), None);
    }
}
