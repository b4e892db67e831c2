//! What all connections of a stand-in for libvirtd share: its domains, who is registered for their events, the faults to
//! commit, and the calls that came. Imports protocol, packet, xdr, qmp, error and `qemu`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use uuid::{Builder, Uuid};
use xdr_codec::Unpack;

use super::machine::Machine;
use super::qemu::FakeQemu;
use super::rpc_session::Session;
use crate::error::LibvirtError;
use crate::objects::Domain;
use crate::packet::Header;
use crate::protocol::remote::AuthType;
use crate::protocol::rpc::MessageError;
use crate::protocol::{self, Procedure};
use crate::qmp::Event;
use crate::xdr::{self, Reader};

/// `VIR_FROM_NONE`.
pub(super) const FROM_NONE: i32 = 0;
/// `VIR_FROM_RPC`.
pub(super) const FROM_RPC: i32 = 7;
/// `VIR_FROM_QEMU`.
pub(super) const FROM_QEMU: i32 = 10;

/// What goes wrong with a call, instead of its answer or before it.
///
/// ```
/// use libvirt_qmp::LibvirtError;
/// use libvirt_qmp::testing::Fault;
///
/// let fault = Fault::error(LibvirtError::OPERATION_TIMEOUT, "cannot acquire state change lock");
/// # let _ = fault;
/// ```
#[derive(Clone, Debug)]
pub struct Fault(pub(super) FaultKind);

#[derive(Clone, Debug)]
pub(super) enum FaultKind {
    Error { code: i32, message: String },
    Delay(Duration),
    Silence,
    Disconnect,
    Reply(Bytes),
}

impl Fault {
    /// The call fails with an error of libvirt: a `virErrorNumber`, such as those of [`LibvirtError`], and its text.
    pub fn error(code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        Fault(FaultKind::Error { code, message })
    }

    /// The call is executed so much later, on tokio's clock. Other calls overtake it.
    pub fn delay(delay: Duration) -> Self {
        Fault(FaultKind::Delay(delay))
    }

    /// The call is never answered.
    pub fn silence() -> Self {
        Fault(FaultKind::Silence)
    }

    /// The connection ends instead of a reply.
    pub fn disconnect() -> Self {
        Fault(FaultKind::Disconnect)
    }

    /// The reply carries these bytes, whatever they are.
    pub fn reply(payload: impl Into<Bytes>) -> Self {
        Fault(FaultKind::Reply(payload.into()))
    }
}

/// A call that came.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// Its header.
    pub header: Header,
    /// Its arguments, not decoded. The count of descriptors that some calls have is not part of it.
    pub payload: Bytes,
}

impl Call {
    /// The wire name of its procedure, such as `REMOTE_PROC_CONNECT_OPEN`; nothing where this crate does not know it.
    pub fn name(&self) -> Option<&'static str> {
        protocol::procedure_name(self.header.program, self.header.procedure)
    }

    /// Its arguments, where it is a call of `P` and they decode.
    pub fn args<P: Procedure>(&self) -> Option<P::Args>
    where
        P::Args: Unpack<Reader>,
    {
        is::<P>(&self.header)
            .then(|| xdr::decode(self.payload.clone()).ok())
            .flatten()
    }
}

/// Whether a header is one of `P`.
pub(super) fn is<P: Procedure>(header: &Header) -> bool {
    (header.program, header.procedure) == (P::PROGRAM, P::NUMBER)
}

/// A domain of the stand-in.
#[derive(Clone)]
pub(super) struct FakeDomain {
    pub(super) name: String,
    pub(super) uuid: Uuid,
    pub(super) qemu: FakeQemu,
    /// While it runs.
    pub(super) id: Option<i32>,
    pub(super) busy: bool,
    /// Tells it from another of its name.
    serial: u64,
    /// The number of libvirt's next command on its monitor.
    next_command: u64,
}

impl FakeDomain {
    pub(super) fn machine(&self) -> &Arc<Machine> {
        self.qemu.machine()
    }

    pub(super) fn is_running(&self) -> bool {
        self.id.is_some() && !self.machine().has_ended()
    }

    pub(super) fn wire(&self) -> Domain {
        Domain {
            name: self.name.clone(),
            uuid: self.uuid,
            id: self.id.filter(|_| self.is_running()),
        }
    }
}

pub(super) struct Daemon {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

pub(super) struct State {
    pub(super) domains: Vec<FakeDomain>,
    pub(super) auth: Vec<AuthType>,
    pub(super) silent: bool,
    pub(super) request_limit: usize,
    pub(super) sessions: Vec<Weak<Session>>,
    /// By program and procedure.
    lasting: HashMap<(u32, i32), Fault>,
    once: HashMap<(u32, i32), VecDeque<Fault>>,
    next_domain: u64,
    next_id: i32,
    next_callback: i32,
    /// The calls that came, and whether somebody has waited for each and got it.
    pub(super) calls: Vec<(Call, bool)>,
}

impl Daemon {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Daemon {
            state: Mutex::new(State {
                domains: Vec::new(),
                auth: vec![AuthType::NONE],
                silent: false,
                // libvirtd's `max_client_requests`.
                request_limit: 5,
                sessions: Vec::new(),
                lasting: HashMap::new(),
                once: HashMap::new(),
                next_domain: 0,
                next_id: 1,
                // libvirtd's first ones are taken by itself, and nobody may rely on a number.
                next_callback: 16,
                calls: Vec::new(),
            }),
            changed: watch::Sender::new(()),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a domain, or puts another QEMU behind the one of this name.
    pub(super) fn add_domain(self: &Arc<Self>, name: String, qemu: FakeQemu) {
        let mut state = self.state();
        let serial = state.next_domain;
        state.next_domain += 1;
        let id = Some(state.new_id());
        state.domains.retain(|domain| domain.name != name);
        let machine = qemu.machine().clone();
        state.domains.push(FakeDomain {
            uuid: uuid_of(&name),
            name,
            qemu,
            id,
            busy: false,
            serial,
            next_command: 1,
        });
        // An event is told under the machine's lock, and asks for this one.
        drop(state);
        let daemon = Arc::downgrade(self);
        machine.listen(move |event| {
            let daemon = daemon.upgrade();
            daemon.is_some_and(|daemon| daemon.tell(serial, event))
        });
    }

    /// Brings an event of a domain to the connections. Says whether there still is this domain.
    fn tell(&self, serial: u64, event: &Event) -> bool {
        let (domain, sessions) = {
            let mut state = self.state();
            state.sessions.retain(|session| session.strong_count() > 0);
            let mut domains = state.domains.iter();
            let Some(domain) = domains.find(|domain| domain.serial == serial) else {
                return false;
            };
            (domain.wire(), state.sessions.clone())
        };
        for session in sessions.iter().filter_map(Weak::upgrade) {
            session.tell(&domain, event);
        }
        true
    }

    /// Adds a connection. Gives the places of its unanswered calls.
    pub(super) fn attend(&self, session: &Arc<Session>) -> Arc<Semaphore> {
        let mut state = self.state();
        state.sessions.retain(|session| session.strong_count() > 0);
        state.sessions.push(Arc::downgrade(session));
        let places = state.request_limit.min(Semaphore::MAX_PERMITS);
        Arc::new(Semaphore::new(places))
    }

    /// Notes a call, and says what is to go wrong with it.
    pub(super) fn admit(&self, call: Call) -> Option<Fault> {
        let key = (call.header.program, call.header.procedure);
        let mut state = self.state();
        state.calls.push((call, false));
        let once = state.once.get_mut(&key).and_then(VecDeque::pop_front);
        let fault = once.or_else(|| state.lasting.get(&key).cloned());
        drop(state);
        self.changed.send_replace(());
        fault
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        let state = self.state();
        state.calls.iter().map(|(call, _)| call.clone()).collect()
    }

    /// The next call of `P` that no earlier wait has returned; waits until there is one.
    pub(super) async fn wait_for_call<P: Procedure>(&self) -> Call {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let mut state = self.state();
                let mut calls = state.calls.iter_mut();
                if let Some((call, seen)) =
                    calls.find(|(call, seen)| !seen && is::<P>(&call.header))
                {
                    *seen = true;
                    return call.clone();
                }
            }
            if changed.changed().await.is_err() {
                // The sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl State {
    pub(super) fn fault<P: Procedure>(&mut self, fault: Fault) {
        self.lasting.insert((P::PROGRAM, P::NUMBER), fault);
    }

    pub(super) fn fault_once<P: Procedure>(&mut self, fault: Fault) {
        let faults = self.once.entry((P::PROGRAM, P::NUMBER)).or_default();
        faults.push_back(fault);
    }

    pub(super) fn heal<P: Procedure>(&mut self) {
        self.lasting.remove(&(P::PROGRAM, P::NUMBER));
        self.once.remove(&(P::PROGRAM, P::NUMBER));
    }

    pub(super) fn by_uuid(&mut self, uuid: Uuid) -> Result<&mut FakeDomain, Failure> {
        let mut domains = self.domains.iter_mut();
        domains
            .find(|domain| domain.uuid == uuid)
            .ok_or_else(|| no_domain(format!("no domain with matching uuid '{uuid}'")))
    }

    pub(super) fn by_name(&mut self, name: &str) -> Result<&mut FakeDomain, Failure> {
        let mut domains = self.domains.iter_mut();
        domains
            .find(|domain| domain.name == name)
            .ok_or_else(|| no_domain(format!("no domain with matching name '{name}'")))
    }

    /// The id of a domain that starts.
    pub(super) fn new_id(&mut self) -> i32 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1).max(1);
        id
    }

    pub(super) fn new_callback(&mut self) -> i32 {
        let id = self.next_callback;
        self.next_callback = id.wrapping_add(1).max(0);
        id
    }
}

impl FakeDomain {
    /// The id that libvirt gives its next command on this monitor.
    pub(super) fn new_command(&mut self) -> String {
        let number = self.next_command;
        self.next_command += 1;
        format!("libvirt-{number}")
    }
}

/// An error of libvirt.
pub(super) type Failure = Box<MessageError>;

/// An error as libvirt fills it in.
pub(super) fn failure(domain: i32, code: i32, message: impl Into<String>) -> Failure {
    let message = message.into();
    Box::new(MessageError {
        code,
        domain,
        message: Some(message.clone()),
        level: 2,
        dom: None,
        str1: Some("%s".to_owned()),
        str2: Some(message),
        str3: None,
        int1: -1,
        int2: -1,
        net: None,
    })
}

fn no_domain(detail: String) -> Failure {
    failure(
        FROM_QEMU,
        LibvirtError::NO_DOMAIN,
        format!("Domain not found: {detail}"),
    )
}

/// A UUID that follows from a name: the same in every run. FNV-1a, and the bits of an RFC 9562 custom UUID.
pub(super) fn uuid_of(name: &str) -> Uuid {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in name.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
    }
    Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
}
