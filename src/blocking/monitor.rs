//! The blocking counterparts of the traits `Monitor` and `MonitorExt`. Imports monitor, qmp, error, `super`.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{Blocking, Events, wait};
use crate::error::Error;
use crate::monitor::{self, AgentTimeout, EventOptions, MonitorExt as _, RunOptions};
use crate::qmp::{Command, Schema, Transaction, Version};
#[cfg(feature = "typed")]
use crate::typed::{QmpCommand, TypedExt as _};

/// [`crate::Monitor`], blocking: a QEMU monitor, however it is reached. It can be used as an object.
///
/// All methods wait for those of [`as_async`](Monitor::as_async), and have their errors and those of [`wait`].
pub trait Monitor: Send + Sync {
    /// The async monitor behind this one: `wait(monitor.as_async().…)` reaches whatever the async crate has for monitors.
    fn as_async(&self) -> &dyn monitor::Monitor;

    /// Makes the monitor ready: see [`crate::Monitor::connect`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Monitor::connect`] and of [`wait`].
    fn connect(&self) -> Result<(), Error> {
        wait(self.as_async().connect())
    }

    /// Disconnects: see [`crate::Monitor::disconnect`]. Never waits long.
    ///
    /// # Errors
    ///
    /// Those of [`crate::Monitor::disconnect`] and of [`wait`].
    fn disconnect(&self) -> Result<(), Error> {
        wait(self.as_async().disconnect())
    }

    /// Runs one command, given as JSON, and returns the whole reply object: see [`crate::Monitor::run`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Monitor::run`] and of [`wait`].
    fn run(&self, command: &[u8]) -> Result<Bytes, Error> {
        wait(self.as_async().run(command))
    }

    /// As [`run`](Monitor::run), with a deadline of its own or with file descriptors: see [`crate::Monitor::run_with`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Monitor::run_with`] and of [`wait`].
    fn run_with<'a>(&'a self, command: &'a [u8], options: RunOptions<'a>) -> Result<Bytes, Error> {
        wait(self.as_async().run_with(command, options))
    }

    /// Subscribes to the monitor's events: see [`crate::Monitor::events`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Monitor::events`] and of [`wait`].
    fn events(&self) -> Result<Events, Error> {
        wait(self.as_async().events()).map(Events::from_async)
    }

    /// As [`events`](Monitor::events), filtered, and with a bound of its own: see [`crate::Monitor::events_with`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Monitor::events_with`] and of [`wait`].
    fn events_with(&self, options: EventOptions) -> Result<Events, Error> {
        wait(self.as_async().events_with(options)).map(Events::from_async)
    }

    /// Runs a command of the guest agent: see [`crate::Monitor::agent`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Monitor::agent`] and of [`wait`].
    fn agent(&self, command: &[u8], timeout: AgentTimeout) -> Result<Bytes, Error> {
        wait(self.as_async().agent(command, timeout))
    }
}

impl<M: monitor::Monitor> Monitor for Blocking<M> {
    fn as_async(&self) -> &dyn monitor::Monitor {
        self.get_ref()
    }
}

impl<M: Monitor + ?Sized> Monitor for Box<M> {
    fn as_async(&self) -> &dyn monitor::Monitor {
        (**self).as_async()
    }
}

impl<M: Monitor + ?Sized> Monitor for Arc<M> {
    fn as_async(&self) -> &dyn monitor::Monitor {
        (**self).as_async()
    }
}

impl<M: Monitor + ?Sized> Monitor for &M {
    fn as_async(&self) -> &dyn monitor::Monitor {
        (**self).as_async()
    }
}

/// [`crate::MonitorExt`], blocking: what every [`Monitor`] can do beyond raw commands.
pub trait MonitorExt: Monitor {
    /// Runs a command and decodes what it returns.
    ///
    /// # Errors
    ///
    /// Those of [`crate::MonitorExt::execute`] and of [`wait`].
    fn execute<T: DeserializeOwned>(&self, command: Command) -> Result<T, Error> {
        wait(self.as_async().execute(command))
    }

    /// Runs the command `query-NAME` without arguments and decodes what it returns: `query("status")`.
    ///
    /// # Errors
    ///
    /// Those of [`crate::MonitorExt::query`] and of [`wait`].
    fn query<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        wait(self.as_async().query(name))
    }

    /// As [`Monitor::run`], with file descriptors that QEMU gets copies of: see [`crate::MonitorExt::run_with_files`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::MonitorExt::run_with_files`] and of [`wait`].
    fn run_with_files<'a>(
        &'a self,
        command: &'a [u8],
        files: &'a [BorrowedFd<'a>],
    ) -> Result<Bytes, Error> {
        self.run_with(command, RunOptions::new().files(files))
    }

    /// Runs a line of the human monitor: see [`crate::MonitorExt::hmp`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::MonitorExt::hmp`] and of [`wait`].
    fn hmp(&self, line: &str, cpu: impl Into<Option<u32>>) -> Result<String, Error> {
        wait(self.as_async().hmp(line, cpu))
    }

    /// The version of QEMU (`query-version`).
    ///
    /// # Errors
    ///
    /// Those of [`crate::MonitorExt::version`] and of [`wait`].
    fn version(&self) -> Result<Version, Error> {
        wait(self.as_async().version())
    }

    /// What QEMU's commands, arguments and events are (`query-qmp-schema`), asked for once: see
    /// [`crate::MonitorExt::schema`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::MonitorExt::schema`] and of [`wait`].
    fn schema(&self) -> Result<Schema, Error> {
        wait(self.as_async().schema())
    }

    /// Runs a `transaction`: see [`crate::MonitorExt::transaction`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::MonitorExt::transaction`] and of [`wait`].
    fn transaction(&self, transaction: Transaction) -> Result<(), Error> {
        wait(self.as_async().transaction(transaction))
    }
}

impl<M: Monitor + ?Sized> MonitorExt for M {}

/// [`crate::typed::TypedExt`], blocking: commands that are structs.
#[cfg(feature = "typed")]
pub trait TypedExt: Monitor {
    /// Runs a command and decodes what it returns.
    ///
    /// # Errors
    ///
    /// Those of [`crate::typed::TypedExt::call`] and of [`wait`].
    fn call<C: QmpCommand>(&self, command: C) -> Result<C::Return, Error> {
        wait(self.as_async().call(command))
    }
}

#[cfg(feature = "typed")]
impl<M: Monitor + ?Sized> TypedExt for M {}
