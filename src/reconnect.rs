//! Making a lost connection again: what is tried, when, and what gives up at once; and what a connection is doing now.
//! May import config, connection and error.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{Backoff, Config};
use crate::connection::{Deadline, deadline, sleep_until};
use crate::error::{EndCause, Error, TlsFailure};

/// What a connection is doing now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// It has not been opened yet: nobody has used it, or it is being opened for the first time.
    Opening,
    /// It is open. After a loss every live subscription has been registered again.
    Connected,
    /// It was lost, and is being made again. Calls wait.
    Reconnecting {
        /// How it was lost.
        cause: Arc<EndCause>,
        /// How many tries have failed so far.
        failed: u32,
    },
    /// It is over.
    Closed {
        /// Why.
        cause: Arc<EndCause>,
    },
}

/// Refuses settings by which `who` should make a lost connection again, for it cannot.
pub(crate) fn refuse(config: &Config, who: &str) -> Result<(), Error> {
    match config.reconnect {
        Some(_) => Err(Error::Unsupported(format!(
            "Config::reconnect: {who} does not make a lost connection again"
        ))),
        None => Ok(()),
    }
}

/// The tries of one connection, over all its losses.
pub(crate) struct Retries {
    backoff: Backoff,
    /// The delay before the next try.
    next: Duration,
    /// When the connection was made.
    made: Instant,
}

impl Retries {
    /// For a connection that was made now.
    pub(crate) fn new(backoff: Backoff) -> Self {
        Retries {
            next: backoff.first.min(backoff.longest),
            made: Instant::now(),
            backoff,
        }
    }

    /// Tries `connect` until it succeeds, it fails in a way that the next try cannot mend, or the time for it is over.
    ///
    /// A connection that did not live as long as the next delay was no success: the delays go on where they were, so a peer
    /// that lets everybody in and closes at once is not asked all the time.
    ///
    /// The state says `Reconnecting` meanwhile. It is for the caller to say what comes after.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the try that is under way.
    pub(crate) async fn try_again<T, F>(
        &mut self,
        lost: &Arc<EndCause>,
        state: &watch::Sender<ConnectionState>,
        mut connect: impl FnMut() -> F,
    ) -> Result<T, EndCause>
    where
        F: Future<Output = Result<T, Error>>,
    {
        if self.made.elapsed() >= self.next {
            self.next = self.backoff.first.min(self.backoff.longest);
        }
        let end = deadline(self.backoff.give_up_after);
        let mut failed = 0;
        let mut last = Error::disconnected(lost.clone(), false);
        let gave_up = |tries, last| EndCause::GaveUp {
            lost: lost.clone(),
            tries,
            last: Box::new(last),
        };
        loop {
            state.send_replace(ConnectionState::Reconnecting {
                cause: lost.clone(),
                failed,
            });
            if !sleep_before(shortened(self.next), end).await {
                return Err(gave_up(failed, last));
            }
            self.next = self.next.saturating_mul(2).min(self.backoff.longest);
            let tried = tokio::select! {
                tried = connect() => tried,
                () = sleep_until(end) => return Err(gave_up(failed.saturating_add(1), last)),
            };
            failed = failed.saturating_add(1);
            match tried {
                Ok(made) => {
                    self.made = Instant::now();
                    return Ok(made);
                }
                Err(error) if is_final(&error) => return Err(gave_up(failed, error)),
                Err(error) => last = error,
            }
        }
    }
}

/// Whether the next try will fail like this one: the settings are wrong, not the network or the peer's moment.
fn is_final(error: &Error) -> bool {
    match error {
        // A daemon that rejects our certificate just closes, and so does one that is going down.
        Error::Tls { source, .. } => {
            matches!(
                source,
                TlsFailure::File { .. } | TlsFailure::Untrusted { .. }
            )
        }
        Error::Uri(_) | Error::Unsupported(_) | Error::Closed => true,
        _ => error.is_auth_failed(),
    }
}

/// The delay without a random part of up to a half.
fn shortened(delay: Duration) -> Duration {
    // The standard library's only source of randomness: each state has keys of its own.
    let random = RandomState::new().hash_one(0_u8) >> 32;
    let part = delay / 2;
    delay - part.mul_f64(random as f64 / f64::from(u32::MAX))
}

/// Sleeps for `delay`, and says whether the end came first.
async fn sleep_before(delay: Duration, end: Deadline) -> bool {
    tokio::select! {
        biased;
        () = sleep_until(end) => false,
        () = sleep_until(deadline(Some(delay))) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::io;

    use super::*;

    fn lost() -> Arc<EndCause> {
        Arc::new(EndCause::PeerClosed)
    }

    fn refused() -> Error {
        Error::Connect {
            target: "somewhere".to_owned(),
            source: Arc::new(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    fn no_tls(source: TlsFailure) -> Error {
        Error::Tls {
            target: "somewhere".to_owned(),
            source,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tries_come_at_growing_distances_until_one_succeeds() {
        let (state, watch) = watch::channel(ConnectionState::Connected);
        let start = Instant::now();
        let mut at = Vec::new();
        let backoff = Backoff::new().longest(Duration::from_secs(1));
        let lost = lost();
        let mut retries = Retries::new(backoff);
        let made = retries.try_again(&lost, &state, || {
            at.push(start.elapsed());
            ready(if at.len() == 8 {
                Ok(at.len())
            } else {
                Err(refused())
            })
        });
        assert_eq!(made.await.unwrap(), 8);
        assert!(matches!(
            *watch.borrow(),
            ConnectionState::Reconnecting { failed: 7, .. }
        ));
        let mut before = Duration::ZERO;
        for (at, most) in at
            .into_iter()
            .zip([100, 200, 400, 800, 1000, 1000, 1000, 1000])
        {
            let (waited, most) = (at - before, Duration::from_millis(most));
            // The timer rounds up to its next millisecond.
            assert!(
                waited <= most + Duration::from_millis(1),
                "{waited:?} of {most:?}"
            );
            assert!(waited >= most / 2, "{waited:?} of {most:?}");
            before = at;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_mended_gives_up_at_once() {
        let (state, _watch) = watch::channel(ConnectionState::Connected);
        for error in [
            Error::AuthUnsupported {
                offered: vec!["sasl".to_owned()],
            },
            Error::Unsupported("this".to_owned()),
            no_tls(TlsFailure::Untrusted {
                reason: "expired".to_owned(),
            }),
        ] {
            let mut tries = 0;
            let made: Result<(), _> = Retries::new(Backoff::new())
                .try_again(&lost(), &state, || {
                    tries += 1;
                    ready(Err(error.clone()))
                })
                .await;
            let Err(EndCause::GaveUp { tries: 1, last, .. }) = made else {
                panic!("{made:?}");
            };
            assert_eq!(last.to_string(), error.to_string());
            assert_eq!(tries, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_it_ends_also_a_try_that_hangs() {
        let (state, _watch) = watch::channel(ConnectionState::Connected);
        let start = Instant::now();
        let backoff = Backoff::new().give_up_after(Some(Duration::from_secs(5)));
        let made: Result<(), _> = Retries::new(backoff.clone())
            .try_again(&lost(), &state, std::future::pending)
            .await;
        assert!(matches!(made, Err(EndCause::GaveUp { tries: 1, .. })));
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        // Where a delay goes past it, no try is made.
        let backoff = backoff
            .first(Duration::from_secs(60))
            .longest(Duration::from_secs(60));
        let made: Result<(), _> = Retries::new(backoff)
            .try_again(&lost(), &state, || ready(Err(refused())))
            .await;
        assert!(matches!(made, Err(EndCause::GaveUp { tries: 0, .. })));
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_for_it_is_too_long() {
        let (state, _watch) = watch::channel(ConnectionState::Connected);
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
        for time in [longest, Duration::MAX] {
            let backoff = Backoff::new().give_up_after(Some(time));
            let made = Retries::new(backoff.clone())
                .try_again(&lost(), &state, || ready(Ok(())))
                .await;
            assert!(made.is_ok());
            let mut retries = Retries::new(backoff.first(time).longest(time));
            let lost = lost();
            let trying = retries.try_again(&lost, &state, || ready(Ok(())));
            let day = Duration::from_secs(86_400);
            assert!(tokio::time::timeout(day, trying).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_the_moment_is_tried_again() {
        let (state, _watch) = watch::channel(ConnectionState::Connected);
        let mut errors = vec![
            refused(),
            Error::disconnected(lost(), false),
            no_tls(TlsFailure::Rejected { certificate: None }),
            no_tls(TlsFailure::Handshake {
                reason: "the peer closed during the handshake".to_owned(),
            }),
        ];
        let all = errors.len();
        let mut tries = 0;
        let made = Retries::new(Backoff::new())
            .try_again(&lost(), &state, || {
                tries += 1;
                ready(errors.pop().map_or(Ok(()), Err))
            })
            .await;
        assert!(made.is_ok());
        assert_eq!(tries, all + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_connection_that_lived_begins_the_delays_anew() {
        let (state, _watch) = watch::channel(ConnectionState::Connected);
        let backoff = Backoff::new().longest(Duration::from_secs(1));
        let mut retries = Retries::new(backoff);
        for (lived, most) in [
            (0, 100),
            (0, 200),
            (0, 400),
            (799, 800),
            (1000, 100),
            (0, 200),
        ] {
            tokio::time::sleep(Duration::from_millis(lived)).await;
            let start = Instant::now();
            let lost = lost();
            let made = retries.try_again(&lost, &state, || ready(Ok(())));
            made.await.unwrap();
            let (waited, most) = (start.elapsed(), Duration::from_millis(most));
            assert!(
                waited >= most / 2 && waited <= most + Duration::from_millis(1),
                "{waited:?} of {most:?}"
            );
        }
    }
}
