//! The monitor of a domain through libvirtd, over libvirt's own RPC.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OnceCell, Semaphore};

use super::{Link, finish, refuse_oob};
use crate::config::Config;
use crate::connection::Encoded;
use crate::error::{EndCause, Error};
use crate::libvirt::{DomainKey, Libvirt};
use crate::monitor::{EventStream, Monitor, MonitorFuture, SchemaCell};
use crate::protocol::remote::{NonnullDomain, STRING_MAX};
use crate::qmp::{CommandError, RawCommand};
use crate::queue::EventQueue;

/// The QEMU monitor of one domain, through libvirtd.
///
/// Made over a stream of its own by [`LibvirtRpc::new`], or on a shared session by [`Libvirt::monitor`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use futures_util::StreamExt;
/// use libvirt_qmp::{LibvirtRpc, Monitor};
///
/// let conn = tokio::net::UnixStream::connect("/var/run/libvirt/libvirt-sock").await?;
/// let monitor = LibvirtRpc::new("stage-lb-1", conn);
/// monitor.connect().await?;
/// let raw: bytes::Bytes = monitor.run(br#"{ "execute": "query-status" }"#).await?;
/// let mut events = monitor.events().await?;
/// while let Some(event) = events.next().await {
///     println!("EVENT: {}", event?.name);
/// }
/// monitor.disconnect().await?;
/// # Ok(()) }
/// ```
///
/// The domain is looked up once and then known by its UUID. A command is at most 4 MiB long, and so is a reply
/// (`REMOTE_STRING_MAX`). Commands run one at a time in the order of their calls, unless
/// [`Config::max_in_flight`] is lifted. libvirt marks a domain as tainted (`custom-monitor`) on its first command.
pub struct LibvirtRpc {
    session: Session,
    key: DomainKey,
    domain: OnceCell<NonnullDomain>,
    /// Lets one command run at a time.
    turn: Arc<Semaphore>,
    disconnected: AtomicBool,
    /// The event streams that `disconnect` ends.
    streams: Mutex<Vec<Weak<EventQueue>>>,
    schema: SchemaCell,
}

enum Session {
    /// This monitor's own connection.
    Own(Link<Libvirt>, Box<Config>),
    Shared(Libvirt),
}

impl LibvirtRpc {
    /// A monitor for `domain` (a name, or a UUID) over `conn`, a connected stream to libvirtd. Nothing is sent yet.
    ///
    /// Call `set_nodelay(true)` on a TCP stream before: a small call must not wait for the acknowledgement of the one before
    /// it.
    pub fn new<T>(domain: impl Into<DomainKey>, conn: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        LibvirtRpc::with_config(domain, conn, Config::new())
    }

    /// As [`LibvirtRpc::new`], with settings.
    pub fn with_config<T>(domain: impl Into<DomainKey>, conn: T, config: Config) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        LibvirtRpc::over(
            Session::Own(Link::new(conn), Box::new(config)),
            domain.into(),
        )
    }

    fn over(session: Session, key: DomainKey) -> Self {
        LibvirtRpc {
            session,
            key,
            domain: OnceCell::new(),
            turn: Arc::new(Semaphore::new(1)),
            disconnected: AtomicBool::new(false),
            streams: Mutex::default(),
            schema: SchemaCell::new(),
        }
    }

    /// The session and the domain, where both are known.
    fn ready_now(&self) -> Result<Option<(&Libvirt, &NonnullDomain)>, Error> {
        if self.disconnected.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let libvirt = match &self.session {
            Session::Own(link, _) => link.opened(),
            Session::Shared(libvirt) => Some(libvirt),
        };
        Ok(libvirt.zip(self.domain.get()))
    }

    /// The session and the domain, made ready where this is the first use.
    async fn make_ready(&self) -> Result<(&Libvirt, &NonnullDomain), Error> {
        if let Some(ready) = self.ready_now()? {
            return Ok(ready);
        }
        let libvirt = match &self.session {
            Session::Own(link, config) => {
                link.session(|stream| Libvirt::open(stream, (**config).clone()))
                    .await?
            }
            Session::Shared(libvirt) => libvirt,
        };
        let domain = self
            .domain
            .get_or_try_init(|| libvirt.lookup(&self.key))
            .await?;
        Ok((libvirt, domain))
    }

    async fn run_command(&self, text: &[u8]) -> Result<Bytes, Error> {
        if self.ready_now()?.is_none() {
            // What cannot be sent is refused before anything is.
            checked_text(&RawCommand::parse(text)?)?;
            // Boxed, for it is rare and large, and every command's future would have room for it.
            Box::pin(self.make_ready()).await?;
        }
        let Some((libvirt, domain)) = self.ready_now()? else {
            return Err(Error::Closed);
        };
        let (call, user_id) = encode(text, domain)?;
        let reply = libvirt.run_monitor_command(call, &self.turn).await?;
        finish(reply, user_id, text)
    }

    async fn subscribe(&self) -> Result<EventStream, Error> {
        let (libvirt, domain) = self.make_ready().await?;
        let events = libvirt.monitor_events(domain).await?;
        if let Some(queue) = events.queue() {
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            // Disconnected while this waited: nobody would end the stream any more.
            if self.disconnected.load(Ordering::Acquire) {
                return Err(Error::Closed);
            }
            streams.retain(|stream| stream.strong_count() > 0);
            streams.push(Arc::downgrade(&queue));
        }
        Ok(EventStream::new(events))
    }

    async fn end(&self) -> Result<(), Error> {
        self.disconnected.store(true, Ordering::Release);
        let cause = Arc::new(EndCause::UserClosed);
        for stream in
            std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner))
        {
            if let Some(queue) = stream.upgrade() {
                queue.end(cause.clone());
            }
        }
        match &self.session {
            Session::Own(link, _) => match link.close() {
                Some(libvirt) => libvirt.close().await,
                None => Ok(()),
            },
            // Others use the session; this monitor only stops.
            Session::Shared(_) => Ok(()),
        }
    }
}

/// Checks a command and encodes it for `domain`. Gives the user's id too, which libvirt would refuse.
fn encode<'a>(
    text: &'a [u8],
    domain: &NonnullDomain,
) -> Result<(Encoded, Option<&'a [u8]>), Error> {
    let command = RawCommand::parse(text)?;
    let text = checked_text(&command)?;
    // It was checked when it was parsed, but not for the compiler.
    let text = std::str::from_utf8(&text).map_err(|error| CommandError::NotUtf8 {
        offset: error.valid_up_to(),
    })?;
    let call = Libvirt::encode_monitor_command(domain, text)?;
    Ok((call, command.user_id()))
}

/// The command without its id, as libvirt takes it. Refuses what cannot be sent, whoever the domain is.
fn checked_text<'a>(command: &RawCommand<'a>) -> Result<Cow<'a, [u8]>, Error> {
    refuse_oob(command)?;
    let text = command.without_id();
    let (length, limit) = (text.len(), STRING_MAX as usize);
    if length > limit {
        return Err(CommandError::TooLong { length, limit }.into());
    }
    Ok(text)
}

impl Libvirt {
    /// The monitor of `domain` (a name, or a UUID) on this session. Nothing is sent yet: the domain is looked up by
    /// [`connect`](Monitor::connect), or on first use.
    ///
    /// [`disconnect`](Monitor::disconnect) ends this monitor and its event streams; the session stays.
    pub fn monitor(&self, domain: impl Into<DomainKey>) -> LibvirtRpc {
        LibvirtRpc::over(Session::Shared(self.clone()), domain.into())
    }
}

impl Monitor for LibvirtRpc {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { self.make_ready().await.map(|_| ()) })
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

impl fmt::Debug for LibvirtRpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("LibvirtRpc");
        debug.field("domain", &self.key);
        match &self.session {
            Session::Own(link, _) => debug.field("session", link),
            Session::Shared(libvirt) => debug.field("session", libvirt),
        };
        debug.finish()
    }
}
