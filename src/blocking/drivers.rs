//! How the blocking drivers are made, and what a session with libvirtd can do. Imports driver, libvirt, dial, connection, config,
//! error, reconnect, `super`.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::ToSocketAddrs;

#[cfg(feature = "libvirt-c")]
use super::LibvirtC;
use super::{Blocking, Libvirt, LibvirtRpc, SocketMonitor, Virsh, wait};
use crate::config::Config;
use crate::connection::{Steps, deadline};
use crate::dial::{resolved, tcp, unix};
use crate::driver;
use crate::error::{EndCause, Error};
use crate::libvirt::{self, DomainKey, Origin, StateSender};
use crate::objects::Domain;
use crate::reconnect::ConnectionState;

impl LibvirtRpc {
    /// The monitor of `domain` (a name, or a UUID) through the libvirtd that listens on the unix socket at `path`, which is
    /// connected; the session follows on first use.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason, or after the default [`Config::connect_timeout`]: see
    /// [`Error::is_timeout`]; those of [`wait`].
    pub fn unix(domain: impl Into<DomainKey>, path: impl AsRef<Path>) -> Result<Self, Error> {
        let (config, path) = (Config::new(), path.as_ref());
        let conn = wait(unix(path, deadline(config.dial_within())))?;
        Ok(Blocking(driver::LibvirtRpc::over_stream(
            domain, conn, config,
        )))
    }

    /// As [`unix`](LibvirtRpc::unix), over TCP: `("192.168.1.5", 16509)`.
    ///
    /// # Errors
    ///
    /// Those of [`unix`](LibvirtRpc::unix).
    pub fn tcp(
        domain: impl Into<DomainKey>,
        addr: impl ToSocketAddrs + fmt::Debug,
    ) -> Result<Self, Error> {
        let (config, target) = (Config::new(), format!("{addr:?}"));
        let conn = wait(tcp(target, addr, deadline(config.dial_within())))?;
        Ok(Blocking(driver::LibvirtRpc::over_stream(
            domain, conn, config,
        )))
    }

    /// The monitor of `domain` over a connected stream of tokio's: see [`crate::LibvirtRpc::new`].
    pub fn new<T>(domain: impl Into<DomainKey>, conn: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        LibvirtRpc::with_config(domain, conn, Config::new())
    }

    /// As [`new`](LibvirtRpc::new), with settings.
    pub fn with_config<T>(domain: impl Into<DomainKey>, conn: T, config: Config) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Blocking(driver::LibvirtRpc::with_config(domain, conn, config))
    }

    /// What the connection is doing now: see [`crate::LibvirtRpc::state`], whose receiver says what comes later.
    pub fn state(&self) -> ConnectionState {
        self.0.state().borrow().clone()
    }

    /// Waits until the connection has ended, and says why: see [`crate::LibvirtRpc::closed`].
    ///
    /// # Errors
    ///
    /// Those of [`wait`] alone.
    pub fn closed(&self) -> Result<Arc<EndCause>, Error> {
        wait(async { Ok(self.0.closed().await) })
    }
}

impl Virsh {
    /// The monitor of `domain` at `uri`, such as `qemu+ssh://host/system`, through the program `virsh`: see
    /// [`crate::Virsh::new`].
    pub fn new(uri: impl Into<String>, domain: impl Into<DomainKey>) -> Self {
        Blocking(driver::Virsh::new(uri, domain))
    }

    /// As [`new`](Virsh::new), with settings.
    pub fn with_config(
        uri: impl Into<String>,
        domain: impl Into<DomainKey>,
        config: Config,
    ) -> Self {
        Blocking(driver::Virsh::with_config(uri, domain, config))
    }

    /// Uses another program than `virsh`: see [`crate::Virsh::program`].
    pub fn program(self, program: impl AsRef<OsStr>) -> Self {
        Blocking(self.0.program(program))
    }
}

#[cfg(feature = "libvirt-c")]
impl LibvirtC {
    /// The monitor of `domain` at `uri`, through libvirt's C library: see [`crate::LibvirtC::new`].
    pub fn new(uri: impl Into<String>, domain: impl Into<DomainKey>) -> Self {
        Blocking(driver::LibvirtC::new(uri, domain))
    }

    /// As [`new`](LibvirtC::new), with settings.
    pub fn with_config(
        uri: impl Into<String>,
        domain: impl Into<DomainKey>,
        config: Config,
    ) -> Self {
        Blocking(driver::LibvirtC::with_config(uri, domain, config))
    }
}

impl SocketMonitor {
    /// Connects to the unix socket at `path` (`-qmp unix:PATH,server=on`). The handshake follows on first use.
    ///
    /// # Errors
    ///
    /// Those of [`crate::SocketMonitor::unix`] and of [`wait`].
    pub fn unix(path: impl AsRef<Path>) -> Result<Self, Error> {
        wait(driver::SocketMonitor::unix(path)).map(Blocking)
    }

    /// Connects to `addr` (`-qmp tcp:HOST:PORT,server=on`). The handshake follows on first use.
    ///
    /// # Errors
    ///
    /// Those of [`crate::SocketMonitor::tcp`] and of [`wait`].
    pub fn tcp(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self, Error> {
        wait(driver::SocketMonitor::tcp(addr)).map(Blocking)
    }

    /// A monitor over a connected stream of tokio's: see [`crate::SocketMonitor::new`].
    pub fn new<T>(conn: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Blocking(driver::SocketMonitor::new(conn))
    }

    /// As [`new`](SocketMonitor::new), with settings.
    pub fn with_config<T>(conn: T, config: Config) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Blocking(driver::SocketMonitor::with_config(conn, config))
    }

    /// What the monitor is doing now: see [`crate::SocketMonitor::state`], whose receiver says what comes later.
    pub fn state(&self) -> ConnectionState {
        self.0.state().borrow().clone()
    }

    /// Waits until the monitor is over, and says why: see [`crate::SocketMonitor::closed`].
    ///
    /// # Errors
    ///
    /// Those of [`wait`] alone.
    pub fn closed(&self) -> Result<Arc<EndCause>, Error> {
        wait(async { Ok(self.0.closed().await) })
    }
}

impl Libvirt {
    /// Connects to the libvirtd that listens on the unix socket at `path`, and opens a session there. With
    /// [`Config::reconnect`] a lost connection is made again, by the same path.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason, or where it takes longer than [`Config::dial_timeout`]: see
    /// [`Error::is_timeout`]; those of [`crate::Libvirt::open`] and of [`wait`].
    pub fn unix(path: impl AsRef<Path>, config: Config) -> Result<Self, Error> {
        wait(async {
            let mut steps = Steps::new(config.connect_timeout);
            let origin = Origin::Unix(path.as_ref().to_owned());
            let (conn, state) = (origin.connect(&config, &mut steps), StateSender::opening());
            libvirt::Libvirt::open_by(conn.await?, config, origin, state, steps).await
        })
        .map(Blocking)
    }

    /// As [`unix`](Libvirt::unix), over TCP: `("192.168.1.5", 16509)`. A name is looked up once.
    ///
    /// # Errors
    ///
    /// Those of [`unix`](Libvirt::unix).
    pub fn tcp(addr: impl ToSocketAddrs + fmt::Debug, config: Config) -> Result<Self, Error> {
        wait(async {
            let mut steps = Steps::new(config.connect_timeout);
            let (target, deadline) = (format!("{addr:?}"), steps.next(config.timeouts.dial));
            let addresses = resolved(&target, addr, deadline).await?;
            let conn = tcp(target.clone(), addresses.as_slice(), deadline).await?;
            let (origin, state) = (Origin::Addresses(target, addresses), StateSender::opening());
            libvirt::Libvirt::open_by(conn, config, origin, state, steps).await
        })
        .map(Blocking)
    }

    /// Opens a session over a connected stream of tokio's: see [`crate::Libvirt::open`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Libvirt::open`] and of [`wait`].
    pub fn open<T>(conn: T, config: Config) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        wait(libvirt::Libvirt::open(conn, config)).map(Blocking)
    }

    /// All domains that the daemon shows, running or not: see [`crate::Libvirt::domains`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Libvirt::domains`] and of [`wait`].
    pub fn domains(&self) -> Result<Vec<Domain>, Error> {
        wait(self.0.domains())
    }

    /// The monitor of `domain` (a name, or a UUID) on this session: see [`crate::Libvirt::monitor`].
    pub fn monitor(&self, domain: impl Into<DomainKey>) -> LibvirtRpc {
        Blocking(self.0.monitor(domain))
    }

    /// Closes the session: see [`crate::Libvirt::close`]. Takes at most 5 s.
    ///
    /// # Errors
    ///
    /// Those of [`wait`] alone.
    pub fn close(&self) -> Result<(), Error> {
        wait(self.0.close())
    }

    /// What the connection is doing now: see [`crate::Libvirt::state`], whose receiver says what comes later.
    pub fn state(&self) -> ConnectionState {
        self.0.state().borrow().clone()
    }

    /// Waits until the connection has ended, and says why: see [`crate::Libvirt::closed`].
    ///
    /// # Errors
    ///
    /// Those of [`wait`] alone.
    pub fn closed(&self) -> Result<Arc<EndCause>, Error> {
        wait(async { Ok(self.0.closed().await) })
    }
}
