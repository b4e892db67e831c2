//! How the way to a daemon is gone once more after a loss. Imports dial, rpc, uri and what a session is made of.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::Libvirt;
use crate::config::Config;
use crate::connection::Steps;
use crate::dial::{by_function, dial_again, tcp, unix};
use crate::error::{EndCause, Error};
use crate::reconnect::ConnectionState;
use crate::rpc::{Client, Reopen, StateSender};
use crate::transport::Transport;
use crate::uri::Uri;

/// Where the stream of a session comes from.
pub(crate) enum Origin {
    /// From the user: there is only this one.
    User,
    Uri(Box<Uri>),
    Unix(PathBuf),
    /// What a name meant once, and how errors call it.
    Addresses(String, Vec<SocketAddr>),
    Function(Connect),
}

pub(crate) type Connect =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Transport>> + Send>> + Send + Sync>;

impl Origin {
    fn uri(&self) -> Option<&Uri> {
        match self {
            Origin::Uri(uri) => Some(uri),
            Origin::User | Origin::Unix(_) | Origin::Addresses(..) | Origin::Function(_) => None,
        }
    }

    /// Connects in the first of `steps`.
    pub(crate) async fn connect(
        &self,
        config: &Config,
        steps: &mut Steps,
    ) -> Result<Transport, Error> {
        match self {
            Origin::Uri(uri) => dial_again(uri, config, steps).await,
            Origin::Unix(path) => unix(path, steps.next(config.timeouts.dial)).await,
            Origin::Addresses(target, addresses) => {
                let deadline = steps.next(config.timeouts.dial);
                tcp(target.clone(), addresses.as_slice(), deadline).await
            }
            Origin::Function(connect) => {
                by_function(connect(), steps.next(config.timeouts.dial)).await
            }
            Origin::User => Err(Error::Closed),
        }
    }
}

impl Libvirt {
    /// Connects by `connect`, and authenticates and opens `config.uri` over the stream that it gives. With
    /// [`Config::reconnect`] it is called again for each try to make a lost connection again.
    ///
    /// What it fails with is [`Error::Connect`], and is tried again. It must not block.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), libvirt_qmp::Error> {
    /// use libvirt_qmp::{Backoff, Config, Libvirt};
    /// use tokio::net::UnixStream;
    ///
    /// let config = Config::new().reconnect(Backoff::new());
    /// let libvirt = Libvirt::open_with(|| UnixStream::connect("/run/my/tunnel"), config).await?;
    /// # let _ = libvirt;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] where `connect` fails, of kind [`TimedOut`](io::ErrorKind::TimedOut) where it takes longer than
    /// [`Config::dial_timeout`]; those of [`Libvirt::open`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was connected.
    pub async fn open_with<F, A, T>(connect: F, config: Config) -> Result<Self, Error>
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connect: Connect = Box::new(move || {
            let connecting = connect();
            Box::pin(async { Ok(Transport::new(connecting.await?)) })
        });
        let mut steps = Steps::new(config.connect_timeout);
        let conn = by_function(connect(), steps.next(config.timeouts.dial)).await?;
        let (origin, state) = (Origin::Function(connect), StateSender::opening());
        Libvirt::open_by(conn, config, origin, state, steps).await
    }

    /// As [`Libvirt::open`], in the next of `steps`, where `conn` comes from `origin`.
    pub(crate) async fn open_by(
        conn: Transport,
        config: Config,
        origin: Origin,
        state: StateSender,
        steps: Steps,
    ) -> Result<Self, Error> {
        if matches!(origin, Origin::User) && config.reconnect.is_some() {
            let cause = Arc::new(EndCause::UserClosed);
            state.send_replace(ConnectionState::Closed { cause });
            let what =
                "Config::reconnect over a stream that was handed in: it cannot be made again";
            return Err(Error::Unsupported(what.to_owned()));
        }
        let (config, origin) = (Arc::new(config), Arc::new(origin));
        let client = Client::start(conn, &config, state, reopen(&config, &origin));
        let libvirt = Libvirt { client, config };
        libvirt.start_session(origin.uri(), steps).await?;
        libvirt.client.opened()?;
        Ok(libvirt)
    }
}

/// Goes the way of the first session once more.
fn reopen(config: &Arc<Config>, origin: &Arc<Origin>) -> Reopen {
    let (config, origin) = (config.clone(), origin.clone());
    Box::new(move |restart| {
        let (config, origin) = (config.clone(), origin.clone());
        Box::pin(async move {
            let mut steps = Steps::new(config.connect_timeout);
            let conn = origin.connect(&config, &mut steps).await?;
            let client = restart.start(conn, &config);
            let libvirt = Libvirt { client, config };
            let steps = libvirt.start_session(origin.uri(), steps).await?;
            Ok((libvirt.client, steps))
        })
    })
}
