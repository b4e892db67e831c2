//! The ways to be a [`Monitor`](crate::Monitor): through libvirtd, by its own protocol, virsh or its C library, and on QEMU's
//! own socket; and the guest agent on its own. May import anything below.

mod fanout;
mod guest_agent;
mod libvirt_agent;
#[cfg(feature = "libvirt-c")]
pub(crate) mod libvirt_c;
mod libvirt_rpc;
mod socket;
mod virsh;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::connection::spawn;
use crate::error::{EndCause, Error};
use crate::qmp::{self, QmpError, RawCommand};
use crate::transport::{self, Transport};

pub use guest_agent::GuestAgent;
#[cfg(feature = "libvirt-c")]
pub use libvirt_c::LibvirtC;
pub use libvirt_rpc::LibvirtRpc;
pub use socket::{QmpAddress, QmpAddressError, QmpListener, SocketMonitor};
pub use virsh::Virsh;

/// A stream, and the session that is made of it once.
///
/// The session is opened in a task of its own, so that a caller who gives up waiting for it spoils it for nobody.
struct Link<S> {
    /// The session, or why there is none. Set once.
    session: Arc<OnceLock<Result<S, Error>>>,
    state: Arc<Mutex<LinkState>>,
    /// Wakes those who wait for `session`, in the order they came: what they want it for must be in that order too.
    done: Arc<Notify>,
    /// Whether the stream carries file descriptors.
    passes_files: bool,
}

enum LinkState {
    Unused(Transport),
    /// Being opened by a task, or open, or failed.
    Used(AbortHandle),
    Closed,
}

impl<S: Clone + Send + Sync + 'static> Link<S> {
    fn over(stream: Transport) -> Self {
        Link {
            passes_files: stream.passes_files(),
            session: Arc::new(OnceLock::new()),
            state: Arc::new(Mutex::new(LinkState::Unused(stream))),
            done: Arc::default(),
        }
    }

    /// Whether the stream carries file descriptors.
    fn passes_files(&self) -> bool {
        self.passes_files
    }

    /// The session, where it is open.
    fn opened(&self) -> Option<&S> {
        self.session.get().and_then(|session| session.as_ref().ok())
    }

    /// The session; opened by `open` where this is the first call. A stream can be tried once: its failure stays.
    async fn session<F>(&self, open: impl FnOnce(Transport) -> F) -> Result<&S, Error>
    where
        F: Future<Output = Result<S, Error>> + Send + 'static,
    {
        // Made before the question is asked, it misses no answer.
        let done = self.done.notified();
        if self.session.get().is_none() && self.start(open) {
            done.await;
        }
        if matches!(*self.lock(), LinkState::Closed) {
            return Err(Error::Closed);
        }
        match self.session.get() {
            Some(Ok(session)) => Ok(session),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::Closed),
        }
    }

    /// Starts the opening where nobody has, and says whether there is one to wait for.
    fn start<F>(&self, open: impl FnOnce(Transport) -> F) -> bool
    where
        F: Future<Output = Result<S, Error>> + Send + 'static,
    {
        let mut state = self.lock();
        match &*state {
            LinkState::Unused(_) => {}
            LinkState::Used(_) => return self.session.get().is_none(),
            LinkState::Closed => return false,
        }
        let LinkState::Unused(stream) = std::mem::replace(&mut *state, LinkState::Closed) else {
            return false;
        };
        let opening = open(stream);
        let (session, link) = (self.session.clone(), self.state.clone());
        let at_end = {
            let (session, done) = (session.clone(), self.done.clone());
            move || {
                // Already set, unless the runtime dropped the task.
                let cause = Arc::new(EndCause::RuntimeGone);
                let _ = session.set(Err(Error::disconnected(cause, false)));
                done.notify_waiters();
            }
        };
        let open = async move {
            let opened = opening.await;
            // Where it was closed meanwhile, the session goes, and with it its connection. Whoever closes it finds it set
            // or prevents that: both hold the lock.
            let state = lock(&link);
            if !matches!(*state, LinkState::Closed) {
                let _ = session.set(opened);
            }
        };
        let task = spawn(open, at_end);
        *state = LinkState::Used(task.abort_handle());
        true
    }

    /// Closes for good; a stream that is not in use yet is dropped. Returns the session if there is one.
    fn close(&self) -> Option<&S> {
        if let LinkState::Used(opening) = std::mem::replace(&mut *self.lock(), LinkState::Closed) {
            opening.abort();
        }
        self.done.notify_waiters();
        self.opened()
    }
}

impl<S> Link<S> {
    fn lock(&self) -> MutexGuard<'_, LinkState> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<LinkState>) -> MutexGuard<'_, LinkState> {
    // Nothing panics under this lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> Drop for Link<S> {
    fn drop(&mut self) {
        if let LinkState::Used(opening) = &*self.lock() {
            opening.abort();
        }
    }
}

impl<S> fmt::Debug for Link<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&*self.lock(), self.session.get()) {
            (LinkState::Closed, _) => "closed",
            (LinkState::Unused(_), _) => "not connected",
            (LinkState::Used(_), None) => "connecting",
            (LinkState::Used(_), Some(Ok(_))) => "connected",
            (LinkState::Used(_), Some(Err(_))) => "failed",
        })
    }
}

/// Refuses an out-of-band command. It needs a capability that is not negotiated; libvirt never negotiates it.
fn refuse_oob(command: &RawCommand<'_>) -> Result<(), Error> {
    if command.is_oob() {
        let what = "exec-oob: the capability `oob` is not enabled on this monitor";
        return Err(Error::Unsupported(what.to_owned()));
    }
    Ok(())
}

/// Copies of the descriptors that go with a call: the caller's may be closed before it leaves.
fn duplicate(files: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>, Error> {
    transport::duplicate(files).map_err(Error::files)
}

/// As `finish`, for a reply of the guest agent, which was not told the user's id.
fn finish_agent(reply: Bytes, user_id: Option<&[u8]>, command: &[u8]) -> Result<Bytes, Error> {
    let reply = qmp::set_id(reply, user_id).map_err(|error| Error::json("reply", error))?;
    finish(reply, user_id, command)
}

/// The reply to `command` as its user should see it: with their own id or none, or as the error it is.
fn finish(reply: Bytes, user_id: Option<&[u8]>, command: &[u8]) -> Result<Bytes, Error> {
    let reply = qmp::restore_id(reply, user_id).map_err(|error| Error::json("reply", error))?;
    if qmp::is_error(&reply).map_err(|error| Error::json("reply", error))? {
        let error = QmpError::parse(reply);
        return Err(match RawCommand::parse(command) {
            Ok(command) => error.with_command(command.name()).into(),
            Err(_) => error.into(),
        });
    }
    Ok(reply)
}
