//! The blocking counterparts of what else leads to QEMU's own sockets: listening, a child's standard streams, a descriptor, and
//! the guest agent's socket. Imports driver, monitor, qmp, config, error, `super`.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::ToSocketAddrs;
use tokio::process::Child;

use super::{Blocking, GuestAgent, QmpListener, SocketMonitor, wait};
use crate::config::Config;
use crate::driver::{self, QmpAddress};
use crate::error::Error;
use crate::monitor::RunOptions;
use crate::qmp::Command;

impl SocketMonitor {
    /// As [`unix`](SocketMonitor::unix), with settings.
    ///
    /// # Errors
    ///
    /// Those of [`crate::SocketMonitor::unix_with_config`] and of [`wait`].
    pub fn unix_with_config(path: impl AsRef<Path>, config: Config) -> Result<Self, Error> {
        wait(driver::SocketMonitor::unix_with_config(path, config)).map(Blocking)
    }

    /// As [`tcp`](SocketMonitor::tcp), with settings.
    ///
    /// # Errors
    ///
    /// Those of [`crate::SocketMonitor::tcp_with_config`] and of [`wait`].
    pub fn tcp_with_config(
        addr: impl ToSocketAddrs + fmt::Debug,
        config: Config,
    ) -> Result<Self, Error> {
        wait(driver::SocketMonitor::tcp_with_config(addr, config)).map(Blocking)
    }

    /// Connects to any address that QEMU's command line can name: see [`crate::SocketMonitor::dial`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::SocketMonitor::dial`] and of [`wait`].
    pub fn dial(address: impl Into<QmpAddress>, config: Config) -> Result<Self, Error> {
        wait(driver::SocketMonitor::dial(address, config)).map(Blocking)
    }

    /// Binds `address`, for a QEMU that connects to it: see [`crate::SocketMonitor::listen`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::SocketMonitor::listen`] and of [`wait`].
    pub fn listen(address: impl Into<QmpAddress>) -> Result<QmpListener, Error> {
        wait(driver::SocketMonitor::listen(address)).map(Blocking)
    }

    /// As [`listen`](SocketMonitor::listen), with settings for the monitors that come of it.
    ///
    /// # Errors
    ///
    /// Those of [`listen`](SocketMonitor::listen).
    pub fn listen_with_config(
        address: impl Into<QmpAddress>,
        config: Config,
    ) -> Result<QmpListener, Error> {
        wait(driver::SocketMonitor::listen_with_config(address, config)).map(Blocking)
    }

    /// A monitor over the standard input and output of a QEMU with `-qmp stdio`: see [`crate::SocketMonitor::stdio`].
    ///
    /// The child is one of tokio's, which is started inside its runtime: `wait(async { … command.spawn() … })`.
    ///
    /// # Errors
    ///
    /// Those of [`crate::SocketMonitor::stdio`] and of [`wait`].
    pub fn stdio(child: Child) -> Result<Self, Error> {
        SocketMonitor::stdio_with_config(child, Config::new())
    }

    /// As [`stdio`](SocketMonitor::stdio), with settings.
    ///
    /// # Errors
    ///
    /// Those of [`stdio`](SocketMonitor::stdio).
    pub fn stdio_with_config(child: Child, config: Config) -> Result<Self, Error> {
        wait(async { driver::SocketMonitor::stdio_with_config(child, config) }).map(Blocking)
    }

    /// A monitor over `fd`, a connected unix or TCP socket: see [`crate::SocketMonitor::from_fd`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::SocketMonitor::from_fd`] and of [`wait`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        SocketMonitor::from_fd_with_config(fd, Config::new())
    }

    /// As [`from_fd`](SocketMonitor::from_fd), with settings.
    ///
    /// # Errors
    ///
    /// Those of [`from_fd`](SocketMonitor::from_fd).
    pub fn from_fd_with_config(fd: OwnedFd, config: Config) -> Result<Self, Error> {
        wait(async { driver::SocketMonitor::from_fd_with_config(fd, config) }).map(Blocking)
    }
}

impl QmpListener {
    /// Where it listens: see [`crate::QmpListener::local_addr`].
    pub fn local_addr(&self) -> &QmpAddress {
        self.0.local_addr()
    }

    /// Waits for QEMU to connect; `None` is for ever: see [`crate::QmpListener::accept`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::QmpListener::accept`] and of [`wait`].
    pub fn accept(&self, timeout: impl Into<Option<Duration>>) -> Result<SocketMonitor, Error> {
        wait(self.0.accept(timeout)).map(Blocking)
    }
}

impl GuestAgent {
    /// Connects to the unix socket at `path`: see [`crate::GuestAgent::unix`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::GuestAgent::unix`] and of [`wait`].
    pub fn unix(path: impl AsRef<Path>) -> Result<Self, Error> {
        wait(driver::GuestAgent::unix(path)).map(Blocking)
    }

    /// Connects to `addr`: see [`crate::GuestAgent::tcp`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::GuestAgent::tcp`] and of [`wait`].
    pub fn tcp(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self, Error> {
        wait(driver::GuestAgent::tcp(addr)).map(Blocking)
    }

    /// An agent over a connected stream of tokio's: see [`crate::GuestAgent::new`].
    pub fn new<T>(conn: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Blocking(driver::GuestAgent::new(conn))
    }

    /// As [`new`](GuestAgent::new), with settings.
    pub fn with_config<T>(conn: T, config: Config) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Blocking(driver::GuestAgent::with_config(conn, config))
    }

    /// Runs one command, given as JSON, and returns the whole reply: see [`crate::GuestAgent::run`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::GuestAgent::run`] and of [`wait`].
    pub fn run(&self, command: &[u8]) -> Result<Bytes, Error> {
        wait(self.0.run(command))
    }

    /// As [`run`](GuestAgent::run), with a deadline of its own: see [`crate::GuestAgent::run_with`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::GuestAgent::run_with`] and of [`wait`].
    pub fn run_with(&self, command: &[u8], options: RunOptions<'_>) -> Result<Bytes, Error> {
        wait(self.0.run_with(command, options))
    }

    /// Runs a command that is not answered where it succeeds: see [`crate::GuestAgent::run_without_reply`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::GuestAgent::run_without_reply`] and of [`wait`].
    pub fn run_without_reply(&self, command: &[u8], options: RunOptions<'_>) -> Result<(), Error> {
        wait(self.0.run_without_reply(command, options))
    }

    /// Runs a command and decodes what it returns: see [`crate::GuestAgent::execute`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::GuestAgent::execute`] and of [`wait`].
    pub fn execute<T: DeserializeOwned>(&self, command: Command) -> Result<T, Error> {
        wait(self.0.execute(command))
    }

    /// Asks whether the agent is there (`guest-ping`).
    ///
    /// # Errors
    ///
    /// Those of [`crate::GuestAgent::ping`] and of [`wait`].
    pub fn ping(&self) -> Result<(), Error> {
        wait(self.0.ping())
    }

    /// Closes the connection: see [`crate::GuestAgent::close`].
    ///
    /// # Errors
    ///
    /// Those of [`wait`] alone.
    pub fn close(&self) -> Result<(), Error> {
        wait(async {
            self.0.close().await;
            Ok(())
        })
    }
}
