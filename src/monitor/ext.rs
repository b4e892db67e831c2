//! The methods that every monitor has, beyond those of the trait. Imports `super`, `schema`, qmp and error.

use std::os::fd::BorrowedFd;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::schema::schema_of;
use super::{Monitor, MonitorFuture, RunOptions};
use crate::error::Error;
use crate::qmp::{self, Command, Schema, Transaction, Version};

/// What every [`Monitor`] can do beyond raw commands.
pub trait MonitorExt: Monitor {
    /// Runs a command and decodes what it returns, nested up to 512 levels. What is deeper is there as text, by
    /// [`Monitor::run`].
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

    /// What QEMU's commands, arguments and events are (`query-qmp-schema`). A monitor asks once and keeps the answer, in its
    /// [`schema_cell`](Monitor::schema_cell); of several first callers one asks and the others wait. After a failure the
    /// next call asks again.
    ///
    /// ```no_run
    /// # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), libvirt_qmp::Error> {
    /// use libvirt_qmp::{Command, MonitorExt};
    ///
    /// let command = Command::new("device_del").arg("id", "blk0");
    /// for warning in monitor.schema().await?.check(&command)? {
    ///     eprintln!("{warning}");
    /// }
    /// monitor.execute::<serde::de::IgnoredAny>(command).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::run`], and [`Error::Decode`] where the answer is no schema.
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`]. Where others wait for the same answer, the next of them asks.
    fn schema(&self) -> impl Future<Output = Result<Schema, Error>> + Send {
        schema_of(self)
    }

    /// Runs a `transaction`: QEMU does all of its actions or none. Their names are looked up in the [`schema`](Self::schema)
    /// before anything of it is sent, unless it is [`unchecked`](Transaction::unchecked).
    ///
    /// # Errors
    ///
    /// [`Error::Command`] with [`UnknownAction`](crate::CommandError::UnknownAction) where QEMU has no such action; those of
    /// [`schema`](Self::schema) and of [`execute`](Self::execute). After [`Error::Qmp`] nothing has changed.
    ///
    /// # Cancel safety
    ///
    /// That of [`Monitor::run`].
    fn transaction(
        &self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        async move {
            let command = transaction.to_command()?;
            if !transaction.is_unchecked() {
                transaction.check_actions(&self.schema().await?)?;
            }
            self.execute::<IgnoredAny>(command).await.map(|_| ())
        }
    }
}

impl<M: Monitor + ?Sized> MonitorExt for M {}
