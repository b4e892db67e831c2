//! A session with a libvirt daemon: opening it, looking domains up, and what is shared by all monitors on it.
//! May import dial, credentials, rpc, reconnect, transport, config, uri, error and protocol.

mod admin;
mod calls;
mod commands;
mod connect;
mod domain;
pub mod events;
mod methods;
mod open;
mod reopen;
#[cfg(feature = "sasl")]
mod sasl;
mod streams;
mod views;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::config::Config;
use crate::connection::{CallOptions, Deadline, Limits, Steps, deadline};
use crate::error::{EndCause, Error, Phase};
use crate::objects::Domain;
use crate::protocol::constants::ConnectListAllDomainsFlags;
use crate::protocol::remote::procedure::ConnectClose;
use crate::qmp::Version;
use crate::reconnect::ConnectionState;
use crate::rpc::Client;
pub(crate) use crate::rpc::StateSender;
use crate::transport::Transport;

pub use admin::Admin;
pub use domain::DomainKey;
#[cfg(feature = "libvirt-c")]
pub(crate) use domain::hyphenated;
pub(crate) use reopen::Origin;

/// Closing never takes longer than this, whatever the peer does.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A session with libvirtd over one connection, shared by any number of monitors and event streams.
///
/// Cheap to clone. The connection closes when the last clone, monitor and event stream is gone, or by
/// [`close`](Libvirt::close).
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use libvirt_qmp::{Config, Libvirt, Monitor};
///
/// let conn = tokio::net::UnixStream::connect("/var/run/libvirt/libvirt-sock").await?;
/// let libvirt = Libvirt::open(conn, Config::new()).await?;
/// for domain in libvirt.domains().await? {
///     println!("{} {} {}", domain.name, domain.uuid, domain.is_running());
/// }
/// let status = libvirt.monitor("vm-1").run(br#"{"execute": "query-status"}"#).await?;
/// # let _ = status;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Libvirt {
    client: Client,
    config: Arc<Config>,
}

impl std::fmt::Debug for Libvirt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Libvirt")
            .field("config", &self.config)
            .field("ended", &self.client.ended())
            .finish()
    }
}

impl Libvirt {
    /// Authenticates and opens `config.uri` over `conn`, a connected stream to libvirtd: its unix socket, TCP port 16509,
    /// or anything that leads there.
    ///
    /// Must be called inside a tokio runtime, on which the connection's task then runs.
    ///
    /// With [`Config::reconnect`] see [`Libvirt::open_with`]: a stream that was handed in cannot be made again.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] names the phase that got no answer; [`Error::Auth`] where the daemon wants SASL and that fails;
    /// [`Error::AuthUnsupported`] where it wants what this client cannot do, SASL too without the feature `sasl`;
    /// [`Error::Libvirt`] where it refuses; [`Error::Disconnected`] where the peer closes, or speaks something else.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn open<T>(conn: T, config: Config) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Libvirt::open_over(Transport::new(conn), config, StateSender::opening()).await
    }

    /// As [`Libvirt::open`]; `state` is told of it.
    pub(crate) async fn open_over(
        conn: Transport,
        config: Config,
        state: StateSender,
    ) -> Result<Self, Error> {
        let steps = Steps::new(config.connect_timeout);
        Libvirt::open_by(conn, config, Origin::User, state, steps).await
    }

    /// All domains that the daemon shows, running or not (`REMOTE_PROC_CONNECT_LIST_ALL_DOMAINS`). At most 16384.
    ///
    /// # Errors
    ///
    /// [`Error::Libvirt`], [`Error::Timeout`], [`Error::Disconnected`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the answer.
    pub async fn domains(&self) -> Result<Vec<Domain>, Error> {
        self.connect_list_all_domains(ConnectListAllDomainsFlags::empty())
            .await
    }

    /// The daemon's hypervisor by name, its version, and the daemon's own (`REMOTE_PROC_CONNECT_GET_TYPE`, `…_GET_VERSION`,
    /// `…_GET_LIB_VERSION`).
    pub(crate) async fn versions(&self) -> Result<(String, Version, Version), Error> {
        let kind = self.connect_get_type().await?;
        let hypervisor = self.connect_get_version().await?;
        let library = self.connect_get_lib_version().await?;
        // major * 1000000 + minor * 1000 + release
        let version =
            |number: u64| Version::new(number / 1_000_000, number / 1000 % 1000, number % 1000);
        Ok((kind, version(hypervisor), version(library)))
    }

    /// Whether file descriptors can go along with a call: over a unix socket alone.
    pub(crate) fn passes_files(&self) -> bool {
        self.client.passes_files()
    }

    /// Closes the session: tells the daemon, and ends the connection. Calls, monitors and event streams on it fail with
    /// [`EndCause::UserClosed`]. A connection that is just being made again is given up. Repeated calls do nothing. Takes at
    /// most 5 s, even where the peer does not read, unless [`Config::close_timeout`] says otherwise.
    ///
    /// # Errors
    ///
    /// None: whatever the peer says to it, the session is closed. The result matches the other drivers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the connection open or closed; calling again finishes it.
    pub async fn close(&self) -> Result<(), Error> {
        let timeout = self.config.close_within(CLOSE_TIMEOUT);
        self.client.say_goodbye::<ConnectClose>(timeout).await;
        Ok(())
    }

    /// Waits until the connection has ended, and says why. With [`Config::reconnect`] that is its final end, not a loss.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    pub async fn closed(&self) -> Arc<EndCause> {
        self.client.closed().await
    }

    /// What the connection is doing now, and what it does from now on. To watch it does not keep the connection open.
    ///
    /// ```no_run
    /// # async fn example(libvirt: libvirt_qmp::Libvirt) {
    /// use libvirt_qmp::ConnectionState;
    ///
    /// let mut state = libvirt.state();
    /// while state.changed().await.is_ok() {
    ///     if let ConnectionState::Reconnecting { cause, failed } = &*state.borrow_and_update() {
    ///         eprintln!("lost: {cause}; {failed} tries have failed");
    ///     }
    /// }
    /// # }
    /// ```
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.client.state().subscribe()
    }

    /// How often the connection was lost and made again, or is being made again now.
    pub(crate) fn losses(&self) -> u64 {
        self.client.losses()
    }

    fn options<'a>(&self, phase: Phase, limits: Limits<'a>) -> CallOptions<'a> {
        CallOptions {
            phase,
            deadline: deadline(self.config.call_timeout),
            limits,
        }
    }

    fn options_until<'a>(&self, phase: Phase, deadline: Deadline) -> CallOptions<'a> {
        CallOptions {
            phase,
            deadline,
            limits: Limits::Connection,
        }
    }
}
