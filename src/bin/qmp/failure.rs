//! How a command of this program fails, and the exit code that tells. Imports `printable` of `output`, and `interrupt`.

use std::error::Error as StdError;
use std::io::Write;
use std::process::ExitCode;

use libvirt_qmp::Error;

use crate::interrupt::Interrupt;
use crate::output::printable;

/// The reason, by exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// QEMU or libvirt answered with an error, or the system did.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// There is no connection.
    Connection = 3,
    /// No answer came in time.
    Timeout = 4,
}

#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody reads standard output any more, which is how `qmp events vm | head` ends. Not worth a word.
    NobodyReads,
    /// A signal ended the work, as the user knows who sent it.
    Interrupted(Interrupt),
    /// Its user knows of it.
    Told(Exit),
    Because {
        exit: Exit,
        /// The line of a script that failed.
        line: Option<usize>,
        error: Box<dyn StdError + Send + Sync>,
        /// What else the user should know.
        note: Option<&'static str>,
    },
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Failure::Because {
            exit,
            line: None,
            error: error.into(),
            note: None,
        }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, text.into())
    }

    pub(crate) fn system(what: &str, error: std::io::Error) -> Self {
        Failure::new(Exit::Failed, format!("{what}: {error}"))
    }

    /// An error of opening a connection: what the peer refuses then is the connection.
    pub(crate) fn connecting(error: Error) -> Self {
        let exit = match exit(&error) {
            Exit::Failed => Exit::Connection,
            other => other,
        };
        Failure::new(exit, error)
    }

    /// An error of running a command, which may have run all the same.
    pub(crate) fn running(error: Error) -> Self {
        let note = error
            .maybe_executed()
            .then_some("the command may have been executed");
        Failure::Because {
            exit: exit(&error),
            line: None,
            error: error.into(),
            note,
        }
    }

    /// The same, with the number of the line of a script that failed.
    pub(crate) fn on_line(mut self, number: usize) -> Self {
        if let Failure::Because { line, .. } = &mut self {
            *line = Some(number);
        }
        self
    }

    /// The same, once its user was told.
    pub(crate) fn told(&self) -> Self {
        match self {
            Failure::Because { exit, .. } => Failure::Told(*exit),
            Failure::NobodyReads => Failure::NobodyReads,
            Failure::Interrupted(interrupt) => Failure::Interrupted(*interrupt),
            Failure::Told(exit) => Failure::Told(*exit),
        }
    }

    /// Whether nothing that follows can do any better.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Failure::Because { exit, .. } | Failure::Told(exit) => *exit == Exit::Connection,
            Failure::NobodyReads | Failure::Interrupted(_) => true,
        }
    }

    /// Whether the peer has stopped answering, so that saying goodbye would only take time.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(
            self,
            Failure::Because {
                exit: Exit::Timeout,
                ..
            }
        )
    }

    /// Tells standard error, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Failure::NobodyReads => ExitCode::SUCCESS,
            Failure::Interrupted(interrupt) => ExitCode::from(interrupt.exit_code()),
            Failure::Because { exit, .. } | Failure::Told(exit) => {
                self.tell();
                ExitCode::from(exit as u8)
            }
        }
    }

    /// Tells standard error what there is to tell.
    pub(crate) fn tell(&self) {
        if let Failure::Because {
            line, error, note, ..
        } = self
        {
            let place = line.map_or_else(String::new, |line| format!("line {line}: "));
            say(&format!("{place}{}", chain(&**error)));
            if let Some(note) = note {
                say(note);
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(exit(&error), error)
    }
}

/// Tells the user something on standard error.
pub(crate) fn say(text: &str) {
    let lines: Vec<String> = text.lines().map(printable).collect();
    // Where standard error is gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "qmp: {}", lines.join("\n"));
}

fn exit(error: &Error) -> Exit {
    match error {
        _ if error.is_timeout() => Exit::Timeout,
        Error::Command(_)
        | Error::Encode { .. }
        | Error::Filter(_)
        | Error::Unsupported(_)
        | Error::Uri(_) => Exit::Usage,
        Error::Disconnected { .. }
        | Error::Closed
        | Error::Connect { .. }
        | Error::Tls { .. }
        | Error::Auth(_)
        | Error::AuthUnsupported { .. } => Exit::Connection,
        _ => Exit::Failed,
    }
}

/// The error with its causes, each said once.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use libvirt_qmp::{EndCause, ErrorClass, Phase, QmpError};

    use super::*;

    #[test]
    fn the_chain_says_each_cause_once() {
        let refused = || Arc::new(io::Error::new(io::ErrorKind::ConnectionRefused, "refused"));
        let error = Error::Connect {
            target: "/run/sock".to_owned(),
            source: refused(),
        };
        assert_eq!(chain(&error), "cannot connect to /run/sock: refused");
        let error = Error::Disconnected {
            cause: Arc::new(EndCause::Io(refused())),
            maybe_executed: true,
        };
        assert_eq!(
            chain(&error),
            "connection ended: input or output failed: refused"
        );
        let error = Error::from(QmpError::new(ErrorClass::GenericError, "no").with_command("stop"));
        assert_eq!(chain(&error), "stop: GenericError: no");
        // An I/O error that wraps another one says and is what it wraps.
        let wrapped = io::Error::other(Error::Closed);
        assert_eq!(chain(&wrapped), "monitor is disconnected");
    }

    #[test]
    fn exit_codes_go_by_the_kind_of_error() {
        let timeout = Error::Timeout {
            phase: Phase::Reply,
            after: Duration::from_secs(1),
            maybe_executed: true,
        };
        let qmp = Error::from(QmpError::new(ErrorClass::GenericError, "no"));
        let unsupported = Error::Unsupported("it".to_owned());
        for (error, code) in [
            (qmp.clone(), Exit::Failed),
            (unsupported, Exit::Usage),
            (Error::Closed, Exit::Connection),
            (timeout.clone(), Exit::Timeout),
        ] {
            assert_eq!(exit(&error), code, "{error}");
        }
        let code = |failure| match failure {
            Failure::Because { exit, .. } => exit,
            other => panic!("{other:?} has a reason"),
        };
        assert_eq!(code(Failure::connecting(qmp)), Exit::Connection);
        assert_eq!(code(Failure::connecting(timeout)), Exit::Timeout);
    }
}
