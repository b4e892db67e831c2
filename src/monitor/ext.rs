//! The methods that every monitor has, beyond those of the trait. Imports `super`, qmp and error.

use std::os::fd::BorrowedFd;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{Monitor, MonitorFuture, RunOptions};
use crate::error::Error;
use crate::qmp::{self, Command, Version};

/// What every [`Monitor`] can do beyond raw commands.
pub trait MonitorExt: Monitor {
    /// Runs a command and decodes what it returns.
    ///
    /// ```no_run
    /// # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), libvirt_qmp::Error> {
    /// use libvirt_qmp::{Command, MonitorExt};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Status { status: String, running: bool }
    ///
    /// let status: Status = monitor.execute(Command::new("query-status")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::run`], and [`Error::Decode`] where the value is not a `T`; the command has run then.
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn execute<T: DeserializeOwned>(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        async move {
            let text = command.to_json()?;
            let files = command.files();
            let options = RunOptions {
                timeout: command.own_timeout(),
                files: &files,
            };
            let reply = self.run_with(&text, options).await?;
            qmp::return_value(&reply).map_err(|error| Error::json("return value", error))
        }
    }

    /// Runs the command `query-NAME` without arguments and decodes what it returns: `query("status")`.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](MonitorExt::execute).
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn query<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        self.execute(Command::new(format!("query-{name}")))
    }

    /// As [`Monitor::run`], with file descriptors that QEMU gets copies of: for `getfd` and `add-fd`.
    ///
    /// The command waits until no other is in flight on the connection, and the next one waits for its reply, where it is
    /// QEMU's own socket: QEMU might give the descriptors to another command otherwise. Through libvirt it can be one.
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::run_with`].
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn run_with_files<'a>(
        &'a self,
        command: &'a [u8],
        files: &'a [BorrowedFd<'a>],
    ) -> MonitorFuture<'a, Bytes> {
        self.run_with(command, RunOptions::new().files(files))
    }

    /// Runs a line of the human monitor (`human-monitor-command`), for a virtual CPU or QEMU's default one, and returns its
    /// text as it came, line ends (CR LF) included: `hmp("info status", None)`, `hmp("info registers", 1)`.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](MonitorExt::execute); a virtual CPU that does not exist is [`Error::Qmp`]. A line that the human
    /// monitor does not know is no error: the text says so.
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn hmp(
        &self,
        line: &str,
        cpu: impl Into<Option<u32>>,
    ) -> impl Future<Output = Result<String, Error>> + Send {
        let command = Command::new("human-monitor-command").arg("command-line", line);
        self.execute(match cpu.into() {
            Some(cpu) => command.arg("cpu-index", cpu),
            None => command,
        })
    }

    /// The version of QEMU (`query-version`).
    ///
    /// # Errors
    ///
    /// Those of [`execute`](MonitorExt::execute).
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn version(&self) -> impl Future<Output = Result<Version, Error>> + Send {
        self.execute(Command::new("query-version"))
    }
}

impl<M: Monitor + ?Sized> MonitorExt for M {}
