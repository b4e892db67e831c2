//! The monitor on QEMU's own QMP socket: what its user sees, and how the socket is connected. The connection itself is in
//! `session`, its events in `events`. May import anything below the drivers.

mod events;
mod session;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream};

use super::{Link, finish, refuse_oob};
use crate::config::Config;
use crate::connection::{deadline, sleep_until};
use crate::error::{Error, Phase};
use crate::monitor::{EventStream, Monitor, MonitorFuture, SchemaCell};
use crate::qmp::{Greeting, RawCommand};
use session::{Ids, Session, silent};

/// How long to wait before a socket whose backlog was full is tried again.
const DIAL_AGAIN: Duration = Duration::from_millis(20);

/// QEMU's monitor on its own QMP socket, or any stream that speaks QMP.
///
/// ```no_run
/// # async fn example() -> Result<(), libvirt_qmp::Error> {
/// use libvirt_qmp::{MonitorExt, SocketMonitor};
///
/// let monitor = SocketMonitor::unix("/run/vm-1.qmp").await?;
/// println!("QEMU {}", monitor.version().await?);
/// # Ok(()) }
/// ```
///
/// QEMU serves one client per socket: a second one gets no greeting until the first is gone, and
/// [`Error::Timeout`] in [`Phase::Greeting`] says so. So the socket is closed as soon as the last handle is gone: the
/// monitor and its event streams.
///
/// Commands run in the order of their calls, and QEMU answers them one by one; up to [`Config::max_in_flight`], but at most
/// 8, are sent ahead. Messages are at most 64 MiB long, in both directions. QEMU reads a command at about 0.4 MB/s, so
/// each call gets 20 µs a byte on top of [`Config::call_timeout`].
///
/// Once begun, connecting goes on by itself: dropping the future that began it does no harm, and others wait for the same
/// outcome.
///
/// # Events
///
/// Events are kept from the moment that connecting begins, and the first event stream starts with them; later streams
/// start with what comes after they were made. Each queue, the one for the first stream included, holds at most
/// [`Config::event_queue`] events and 64 MiB of text. When it is full the oldest go, and the stream says how many.
///
/// A stream ends by itself where QEMU closes the connection after its event `SHUTDOWN`; any other end is an error, the last
/// item of the stream.
pub struct SocketMonitor {
    link: Link<Arc<Session>>,
    config: Config,
    ids: Arc<Ids>,
    schema: SchemaCell,
}

impl SocketMonitor {
    /// A monitor over `conn`, a connected stream to QEMU. Nothing is read or sent yet.
    pub fn new<T>(conn: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        SocketMonitor::with_config(conn, Config::new())
    }

    /// As [`SocketMonitor::new`], with settings.
    pub fn with_config<T>(conn: T, config: Config) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        SocketMonitor {
            link: Link::new(conn),
            config,
            ids: Arc::new(Ids::new()),
            schema: SchemaCell::new(),
        }
    }

    /// Connects to the unix socket at `path` (`-qmp unix:PATH,server=on`). The handshake follows on first use.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason; [`Error::Timeout`] where the socket's backlog stays full for the
    /// default [`Config::connect_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn unix(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let config = Config::new();
        let stream = dial(path.display().to_string(), config.connect_timeout, || {
            UnixStream::connect(path)
        })
        .await?;
        Ok(SocketMonitor::with_config(stream, config))
    }

    /// Connects to `addr` (`-qmp tcp:HOST:PORT,server=on`). The handshake follows on first use.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] with the system's reason; [`Error::Timeout`] after the default [`Config::connect_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn tcp(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self, Error> {
        let config = Config::new();
        let stream = dial(format!("{addr:?}"), config.connect_timeout, || {
            TcpStream::connect(&addr)
        })
        .await?;
        // A small command must not wait for the acknowledgement of the one before it.
        let _ = stream.set_nodelay(true);
        Ok(SocketMonitor::with_config(stream, config))
    }

    /// What QEMU said first: its version and the capabilities it offers. Connects where nobody has.
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does no harm.
    pub async fn greeting(&self) -> Result<&Greeting, Error> {
        Ok(self.session().await?.greeting())
    }

    async fn session(&self) -> Result<&Arc<Session>, Error> {
        self.link
            .session(|stream| Session::open(stream, self.config.clone(), self.ids.clone()))
            .await
    }

    async fn run_command(&self, text: &[u8]) -> Result<Bytes, Error> {
        let command = RawCommand::parse(text)?;
        refuse_oob(&command)?;
        let user_id = command.user_id();
        let call = self.ids.encode(&command)?;
        let session = self.session().await?;
        let reply = session.call(call, self.config.call_timeout).await?;
        finish(reply, user_id, text)
    }

    async fn subscribe(&self) -> Result<EventStream, Error> {
        let session = self.session().await?;
        Ok(EventStream::new(session.subscribe()))
    }

    async fn end(&self) -> Result<(), Error> {
        if let Some(session) = self.link.close() {
            session.close().await;
        }
        Ok(())
    }
}

impl Monitor for SocketMonitor {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { self.session().await.map(|_| ()) })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(self.end())
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.run_command(command))
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        Box::pin(self.subscribe())
    }

    fn schema_cell(&self) -> Option<&SchemaCell> {
        Some(&self.schema)
    }
}

impl fmt::Debug for SocketMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketMonitor")
            .field("link", &self.link)
            .finish()
    }
}

/// Connects within `timeout`; a full backlog, which refuses at once on a unix socket, is tried again until then.
async fn dial<T, F>(
    target: String,
    timeout: Option<Duration>,
    connect: impl Fn() -> F,
) -> Result<T, Error>
where
    F: Future<Output = io::Result<T>>,
{
    let deadline = deadline(timeout);
    let attempts = async {
        loop {
            match connect().await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(DIAL_AGAIN).await
                }
                Err(error) => {
                    return Err(Error::Connect {
                        target,
                        source: Arc::new(error),
                    });
                }
                Ok(stream) => return Ok(stream),
            }
        }
    };
    tokio::select! {
        result = attempts => result,
        () = sleep_until(deadline) => Err(silent(Phase::Dial, deadline)),
    }
}
