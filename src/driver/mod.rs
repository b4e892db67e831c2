//! The ways to be a [`Monitor`](crate::Monitor): through libvirtd, and on QEMU's own socket. May import anything below.

mod libvirt_rpc;
mod socket;

use std::fmt;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;

use crate::error::Error;
use crate::qmp::{QmpError, RawCommand};

pub use libvirt_rpc::LibvirtRpc;
pub use socket::SocketMonitor;

/// Any stream that a monitor can be reached by.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream, and the session that is made of it once.
struct Link<S> {
    session: OnceCell<S>,
    state: Mutex<LinkState>,
}

enum LinkState {
    Unused(Box<dyn Stream>),
    /// Being opened, or open, or given up while it was being opened.
    Used,
    Failed(Error),
    Closed,
}

impl<S> Link<S> {
    fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Link {
            session: OnceCell::new(),
            state: Mutex::new(LinkState::Unused(Box::new(stream))),
        }
    }

    /// The session; opened by `open` where this is the first call. A stream can be tried once: its failure stays.
    async fn session<F>(&self, open: impl FnOnce(Box<dyn Stream>) -> F) -> Result<&S, Error>
    where
        F: Future<Output = Result<S, Error>>,
    {
        self.check_open()?;
        self.session
            .get_or_try_init(|| async {
                let stream = self.take_stream()?;
                let session = open(stream)
                    .await
                    .inspect_err(|error| self.set(LinkState::Failed(error.clone())))?;
                // Disconnected meanwhile: the session goes, and with it its connection.
                self.check_open()?;
                Ok(session)
            })
            .await
    }

    fn check_open(&self) -> Result<(), Error> {
        match &*self.lock() {
            LinkState::Closed => Err(Error::Closed),
            LinkState::Failed(error) => Err(error.clone()),
            LinkState::Unused(_) | LinkState::Used => Ok(()),
        }
    }

    fn take_stream(&self) -> Result<Box<dyn Stream>, Error> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, LinkState::Used) {
            LinkState::Unused(stream) => Ok(stream),
            // The future that was opening it has been dropped, and the stream with it.
            LinkState::Used => Err(Error::Closed),
            other => {
                *state = other;
                Err(Error::Closed)
            }
        }
    }

    /// Closes for good; a stream that was never used is dropped. Returns the session if there is one.
    fn close(&self) -> Option<&S> {
        self.set(LinkState::Closed);
        self.session.get()
    }

    fn set(&self, new: LinkState) {
        *self.lock() = new;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LinkState> {
        // Nothing panics under this lock.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<S> fmt::Debug for Link<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.lock() {
            LinkState::Unused(_) => "not connected",
            LinkState::Used if self.session.initialized() => "connected",
            LinkState::Used => "connecting",
            LinkState::Failed(_) => "failed",
            LinkState::Closed => "closed",
        })
    }
}

/// Out-of-band commands need a capability that is not negotiated here, and that libvirt does not negotiate either.
fn refuse_oob(command: &RawCommand<'_>) -> Result<(), Error> {
    if command.is_oob() {
        let what = "exec-oob: the capability `oob` is not enabled on this monitor";
        return Err(Error::Unsupported(what.to_owned()));
    }
    Ok(())
}

/// The reply as its user should see it: with their own id or none, or as the error it is.
fn finish(reply: Bytes, command: &RawCommand<'_>) -> Result<Bytes, Error> {
    let reply = crate::qmp::restore_id(reply, command.user_id())
        .map_err(|error| Error::json("reply", error))?;
    if crate::qmp::is_error(&reply).map_err(|error| Error::json("reply", error))? {
        return Err(QmpError::parse(reply).with_command(command.name()).into());
    }
    Ok(reply)
}
