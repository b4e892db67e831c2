//! Ctrl-C and its like: what a user, a terminal or a supervisor ends this program with. Imports `failure`.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// What ended the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The terminal has gone (SIGHUP).
    Hangup = 1,
    /// Ctrl-C (SIGINT).
    Keyboard = 2,
    /// Somebody wants it to end (SIGTERM).
    Terminate = 15,
}

impl Interrupt {
    /// The exit code that a shell gives a program that died of it.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self as u8
    }
}

/// The signals that end the work. From the moment this is made they do not end the program by themselves any more.
pub(crate) struct Interrupts {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::system("cannot listen for signals", error))
        };
        Ok(Interrupts {
            hangup: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next signal. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.hangup.recv() => Interrupt::Hangup,
            _ = self.interrupt.recv() => Interrupt::Keyboard,
            _ = self.terminate.recv() => Interrupt::Terminate,
        }
    }

    /// Does `work` until it is done or a signal comes, which drops it and is [`Failure::Interrupted`].
    pub(crate) async fn end<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            interrupt = self.next() => Err(Failure::Interrupted(interrupt)),
        }
    }
}
