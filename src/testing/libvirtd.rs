//! The stand-in for libvirtd as its user sees it. Imports protocol, `daemon`, `qemu`, `rpc_session` and `transport`.

use std::borrow::Borrow;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::io::DuplexStream;
use uuid::Uuid;

use super::daemon::{Call, Daemon, FakeDomain, Fault, uuid_of};
use super::qemu::FakeQemu;
use super::rpc_session::{Session, serve};
use super::transport::{Conn, Listener, Tasks};
use crate::protocol::Procedure;
use crate::protocol::remote::AuthType;

/// A libvirtd to test against: it speaks libvirt's RPC as the daemon does, with a [`FakeQemu`] behind each domain.
///
/// It authenticates nobody, opens `qemu:///…`, looks domains up, lists them, brings commands to their QEMU (with the ids that
/// libvirt gives them) and to their guest agent, passes one descriptor on, keeps event registrations as libvirt does, filters
/// by name, regular expression and case included, answers pings, and stops reading a client that has 5 calls outstanding.
/// Errors have libvirt's own numbers: 42 for an unknown domain, 55 for one that does not run, 68 for a busy one, 29 on a
/// read-only connection, 39 for a procedure it does not know. virsh and libvirt's C library can talk to it.
///
/// Clones are handles of the same daemon. When the last is gone, its connections, tasks and sockets end, and its domains with
/// them where the test holds no handle of their QEMU.
#[derive(Clone)]
pub struct FakeLibvirtd {
    inner: Arc<Inner>,
}

struct Inner {
    daemon: Arc<Daemon>,
    tasks: Tasks,
}

impl Default for FakeLibvirtd {
    fn default() -> Self {
        FakeLibvirtd::new()
    }
}

impl FakeLibvirtd {
    /// A daemon without domains.
    pub fn new() -> Self {
        FakeLibvirtd {
            inner: Arc::new(Inner {
                daemon: Daemon::new(),
                tasks: Tasks::default(),
            }),
        }
    }

    /// Adds a running domain with this QEMU behind it; one of the same name goes. Its UUID follows from its name.
    pub fn domain(&self, name: impl Into<String>, qemu: impl Borrow<FakeQemu>) -> &Self {
        self.daemon().add_domain(name.into(), qemu.borrow().clone());
        self
    }

    /// The UUID of the domain that is called this, now or later.
    pub fn uuid(&self, name: &str) -> Uuid {
        uuid_of(name)
    }

    /// Forgets a domain: commands for it fail with 42 from now on.
    pub fn remove(&self, name: &str) -> &Self {
        let mut state = self.daemon().state();
        state.domains.retain(|domain| domain.name != name);
        drop(state);
        self
    }

    /// Stops a domain, without a word to its QEMU's clients: commands for it fail with 55. Nothing happens to one that does
    /// not exist.
    pub fn stop(&self, name: &str) -> &Self {
        if let Ok(domain) = self.daemon().state().by_name(name) {
            domain.id = None;
        }
        self
    }

    /// Starts a domain with a new id, also one whose QEMU had ended. Event registrations for it go on. Nothing happens to one
    /// that does not exist.
    pub fn start(&self, name: &str) -> &Self {
        let mut state = self.daemon().state();
        let id = state.new_id();
        if let Ok(domain) = state.by_name(name) {
            domain.machine().begin();
            domain.id = Some(id);
        }
        drop(state);
        self
    }

    /// Says whether a domain is busy with another job: monitor commands for it fail then with 68, at once, where libvirtd
    /// waits 30 s for the job first.
    pub fn busy(&self, name: &str, busy: bool) -> &Self {
        if let Ok(domain) = self.daemon().state().by_name(name) {
            domain.busy = busy;
        }
        self
    }

    /// Says which authentications it offers; [`AuthType::NONE`] unless told otherwise. It grants polkit, and refuses SASL.
    pub fn auth(&self, types: impl IntoIterator<Item = AuthType>) -> &Self {
        self.daemon().state().auth = types.into_iter().collect();
        self
    }

    /// Says how many calls of a client may be unanswered before it is not read any more (`max_client_requests`); 5 unless told
    /// otherwise, at least 1.
    pub fn request_limit(&self, calls: usize) -> &Self {
        self.daemon().state().request_limit = calls.max(1);
        self
    }

    /// Makes something go wrong with every call of `P` from now on.
    ///
    /// ```
    /// use libvirt_qmp::LibvirtError;
    /// use libvirt_qmp::protocol::remote::procedure::DomainLookupByName;
    /// use libvirt_qmp::testing::{FakeLibvirtd, Fault};
    ///
    /// let libvirtd = FakeLibvirtd::new();
    /// libvirtd.fault::<DomainLookupByName>(Fault::error(LibvirtError::ACCESS_DENIED, "access denied"));
    /// ```
    pub fn fault<P: Procedure>(&self, fault: Fault) -> &Self {
        self.daemon().state().fault::<P>(fault);
        self
    }

    /// Makes something go wrong with the next call of `P`; several are used in their order, before that of
    /// [`fault`](FakeLibvirtd::fault).
    pub fn fault_once<P: Procedure>(&self, fault: Fault) -> &Self {
        self.daemon().state().fault_once::<P>(fault);
        self
    }

    /// Ends all that goes wrong with `P`.
    pub fn heal<P: Procedure>(&self) -> &Self {
        self.daemon().state().heal::<P>();
        self
    }

    /// Falls silent, or speaks again. While it is silent nothing leaves it, pongs included: what it has to say is lost.
    pub fn silent(&self, silent: bool) -> &Self {
        self.daemon().state().silent = silent;
        self
    }

    /// Sends a keepalive ping to every client.
    pub fn ping(&self) -> &Self {
        self.each_session(Session::ping)
    }

    /// Sends bytes to every client, whatever they are.
    pub fn send_raw(&self, bytes: impl Into<Bytes>) -> &Self {
        let bytes = bytes.into();
        self.each_session(|session| session.send_raw(bytes.clone()))
    }

    /// Ends every connection, behind what is queued on it. New clients are served.
    pub fn close(&self) -> &Self {
        self.each_session(Session::close)
    }

    /// The calls that came, oldest first, over all connections. Keepalive is not among them.
    pub fn calls(&self) -> Vec<Call> {
        self.daemon().calls()
    }

    /// Forgets the calls that came, so that a long test does not gather them.
    pub fn clear_calls(&self) -> &Self {
        self.daemon().state().calls.clear();
        self
    }

    /// Waits for a call of `P` and returns it. Each call is returned once; one that came before counts. Waits for ever: put
    /// `tokio::time::timeout` around it where a failing test should end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes no call.
    pub async fn wait_for_call<P: Procedure>(&self) -> Call {
        self.daemon().wait_for_call::<P>().await
    }

    /// A client's end of a pipe to it, for [`LibvirtRpc::new`](crate::LibvirtRpc::new) or
    /// [`Libvirt::open`](crate::Libvirt::open). Must be called inside a tokio runtime. No descriptors can be passed through it.
    pub fn connect(&self) -> DuplexStream {
        let (client, conn) = Conn::pipe();
        self.inner.tasks.spawn(serve(self.daemon().clone(), conn));
        client
    }

    /// Listens on a unix socket. Must be called inside a tokio runtime. The file is removed with the stand-in.
    ///
    /// virsh finds it by `-c qemu+unix:///system?socket=PATH`.
    ///
    /// # Errors
    ///
    /// The system's, for one where the file is there already.
    pub fn listen_unix(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let (listener, file) = Listener::unix(path.as_ref())?;
        self.inner.tasks.keep(file);
        self.listen(listener);
        Ok(())
    }

    /// Listens on a free TCP port of the loopback address, which is returned. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn listen_tcp(&self) -> io::Result<SocketAddr> {
        let (listener, addr) = Listener::tcp()?;
        self.listen(listener);
        Ok(addr)
    }

    fn listen(&self, listener: Listener) {
        let daemon = self.daemon().clone();
        let each = move |conn| serve(daemon.clone(), conn);
        let never = std::future::pending();
        self.inner.tasks.spawn(listener.serve(each, never));
    }

    fn each_session(&self, what: impl Fn(&Session)) -> &Self {
        let sessions = self.daemon().state().sessions.clone();
        for session in sessions.iter().filter_map(Weak::upgrade) {
            what(&session);
        }
        self
    }

    fn daemon(&self) -> &Arc<Daemon> {
        &self.inner.daemon
    }
}

impl fmt::Debug for FakeLibvirtd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.daemon().state();
        let domains: Vec<(&str, bool)> = state
            .domains
            .iter()
            .map(|domain: &FakeDomain| (domain.name.as_str(), domain.is_running()))
            .collect();
        f.debug_struct("FakeLibvirtd")
            .field("domains", &domains)
            .finish()
    }
}
