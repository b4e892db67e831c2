//! A session on a daemon's admin socket: its servers, their clients and their logs. May import what a session is made of.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::CLOSE_TIMEOUT;
use super::calls::decode;
use crate::config::Config;
use crate::connection::{CallOptions, Limits, Steps, deadline};
use crate::dial;
use crate::error::{EndCause, Error, Phase};
use crate::protocol::Procedure;
use crate::protocol::admin::ConnectOpenArgs;
use crate::protocol::admin::procedure::{ConnectClose, ConnectOpen};
use crate::reconnect::refuse;
use crate::rpc::{self, Client, Outgoing, Spec, StateSender};
use crate::transport::Transport;
use crate::uri::{Uri, User};

include!(concat!(env!("OUT_DIR"), "/admin.rs"));

/// A session with the daemon itself, on its admin socket: what its servers and their clients are, and how it logs.
///
/// Only the daemon's own user may open it. Cheap to clone; the connection closes when the last clone is gone, or by
/// [`close`](Admin::close). Each procedure of the admin program has a method, as those of [`Libvirt`](crate::Libvirt) have.
///
/// ```no_run
/// # async fn example() -> Result<(), libvirt_qmp::Error> {
/// use libvirt_qmp::Admin;
///
/// let admin = Admin::connect("libvirtd:///system").await?;
/// for server in admin.connect_list_servers().await? {
///     println!("{}: {:?}", server.name, admin.server_get_client_limits(&server).await?);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Admin {
    client: Client,
    config: Arc<Config>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("config", &self.config)
            .field("ended", &self.client.ended())
            .finish()
    }
}

/// # The session
impl Admin {
    /// Connects to the admin socket of a daemon on this machine: `libvirtd:///system`, `virtqemud:///session`, or with
    /// `?socket=PATH` whatever is there. Settings are the default ones.
    ///
    /// # Errors
    ///
    /// Those of [`Admin::connect_with`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was connected.
    pub async fn connect(uri: &str) -> Result<Self, Error> {
        Admin::connect_with(uri, Config::new()).await
    }

    /// As [`Admin::connect`], with settings, of which `uri` and `readonly` mean nothing here.
    ///
    /// # Errors
    ///
    /// [`Error::Uri`] where the URI is not understood, [`Error::Connect`] where nobody answers at the socket, and those of
    /// [`Admin::open`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was connected.
    pub async fn connect_with(uri: &str, config: Config) -> Result<Self, Error> {
        let mut steps = Steps::new(config.connect_timeout);
        let uri: Uri = uri.parse()?;
        let socket = uri.admin_socket(&User::current())?;
        let stream = dial::unix(&socket, steps.next(config.timeouts.dial)).await?;
        Admin::open_by(stream, config, steps).await
    }

    /// Opens a session over `conn`, a connected stream to an admin socket.
    ///
    /// Must be called inside a tokio runtime, on which the connection's task then runs.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::Libvirt`] where the daemon refuses, [`Error::Disconnected`] where the peer closes, or
    /// speaks something else.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn open<T>(conn: T, config: Config) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let steps = Steps::new(config.connect_timeout);
        Admin::open_by(Transport::new(conn), config, steps).await
    }

    async fn open_by(conn: Transport, config: Config, mut steps: Steps) -> Result<Self, Error> {
        refuse(&config, "a session on an admin socket")?;
        let admin = Admin {
            client: Client::start_once(conn, &config, StateSender::opening()),
            config: Arc::new(config),
        };
        let options = CallOptions {
            phase: Phase::Open,
            deadline: steps.next(admin.config.timeouts.open),
            limits: Limits::Connection,
        };
        let args = ConnectOpenArgs {
            flags: Default::default(),
        };
        admin.client.call::<ConnectOpen>(&args, options).await?;
        Ok(admin)
    }

    /// The same session, with another limit for how long each call may take, in place of [`Config::call_timeout`].
    pub fn with_call_timeout(&self, timeout: Option<Duration>) -> Admin {
        let config = Config::clone(&self.config).call_timeout(timeout);
        Admin {
            config: Arc::new(config),
            ..self.clone()
        }
    }

    /// Calls `P`, a procedure of [`protocol::admin`](crate::protocol::admin), with the generated struct of its arguments.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`], [`Error::Libvirt`], [`Error::Timeout`], [`Error::Disconnected`], [`Error::Decode`].
    ///
    /// # Cancel safety
    ///
    /// A call that was sent runs on, and its reply is discarded.
    pub async fn call<P: Procedure>(&self, args: &P::Args) -> Result<P::Reply, Error> {
        let call = rpc::encode::<P>(args)?;
        self.client.send::<P>(call, &self.options()).await
    }

    /// Closes the session: tells the daemon, and ends the connection. Calls on it fail with [`EndCause::UserClosed`].
    /// Repeated calls do nothing. Takes at most 5 s, even where the peer does not read, unless [`Config::close_timeout`] says
    /// otherwise.
    ///
    /// # Errors
    ///
    /// None, as with [`Libvirt::close`](crate::Libvirt::close).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the connection open or closed; calling again finishes it.
    pub async fn close(&self) -> Result<(), Error> {
        let timeout = self.config.close_within(CLOSE_TIMEOUT);
        self.client.say_goodbye::<ConnectClose>(timeout).await;
        Ok(())
    }

    /// Waits until the connection has ended, and says why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    pub async fn closed(&self) -> Arc<EndCause> {
        self.client.closed().await
    }

    /// Sends a call and gives the payload of its good reply.
    async fn exchange(&self, outgoing: Outgoing) -> Result<Bytes, Error> {
        let name = outgoing.spec().name;
        let call = outgoing.finish()?;
        self.client.send_raw(call, name, &self.options()).await
    }

    fn options(&self) -> CallOptions<'static> {
        CallOptions {
            phase: Phase::Reply,
            deadline: deadline(self.config.call_timeout),
            limits: Limits::Connection,
        }
    }
}
