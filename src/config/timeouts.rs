//! How long each step of connecting and ending may take. Plain data; imports nothing of ours but `super`.

use std::time::Duration;

use super::Config;

/// The timeouts of single steps: none where it has no timeout of its own, `Some(None)` where it is lifted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timeouts {
    pub(crate) dial: Own,
    pub(crate) tls: Own,
    pub(crate) auth: Own,
    pub(crate) open: Own,
    pub(crate) lookup: Own,
    pub(crate) greeting: Own,
    pub(crate) negotiation: Own,
    pub(crate) subscribe: Own,
    pub(crate) close: Own,
}

/// A timeout of one's own, where there is one; which may be none at all.
pub(crate) type Own = Option<Option<Duration>>;

/// # Deadlines
///
/// Every wait ends. Unless a step of connecting has a timeout of its own, [`connect_timeout`](Config::connect_timeout) is for
/// all of them together. A step that has one is ended by that alone, and the time it takes does not count for the others:
/// with `auth_timeout(None)` a user may take an hour to type a password, and a daemon that is silent is found out after 15 s
/// as before. `None` waits for ever.
///
/// | What is waited for | Set by | Unless set | Named in the error as |
/// |---|---|---|---|
/// | the socket connects: unix, TCP, named pipes | [`dial_timeout`](Config::dial_timeout) | `connect_timeout` | [`Error::Connect`](crate::Error::Connect), `TimedOut` |
/// | ssh or another program leads to a daemon that answers | [`dial_timeout`](Config::dial_timeout) | `connect_timeout` | [`Phase::Dial`](crate::Phase::Dial) |
/// | TLS: the handshake, and the daemon's word that it accepts | [`tls_timeout`](Config::tls_timeout) | `connect_timeout` | [`Error::Connect`](crate::Error::Connect), `TimedOut` |
/// | authentication: what is offered, SASL, polkit, credentials | [`auth_timeout`](Config::auth_timeout) | `connect_timeout` | [`Phase::Authentication`](crate::Phase::Authentication) |
/// | the daemon opens the hypervisor, and tells its features | [`open_timeout`](Config::open_timeout) | `connect_timeout` | [`Phase::Open`](crate::Phase::Open), [`Phase::Features`](crate::Phase::Features) |
/// | the domain is looked up | [`lookup_timeout`](Config::lookup_timeout) | `connect_timeout`, anew | [`Phase::Lookup`](crate::Phase::Lookup) |
/// | QEMU connects to a [`QmpListener`](crate::QmpListener) | the argument of `accept` | | [`Phase::Accept`](crate::Phase::Accept) |
/// | QEMU greets | [`greeting_timeout`](Config::greeting_timeout) | `connect_timeout`, anew | [`Phase::Greeting`](crate::Phase::Greeting) |
/// | QEMU agrees on capabilities | [`negotiation_timeout`](Config::negotiation_timeout) | what is left of that | [`Phase::Negotiation`](crate::Phase::Negotiation) |
/// | events are subscribed to | [`subscribe_timeout`](Config::subscribe_timeout) | `call_timeout` | [`Phase::Subscription`](crate::Phase::Subscription) |
/// | a call: a free slot, sending it, its reply | [`call_timeout`](Config::call_timeout), or the call's own | 60 s | [`Phase::Queue`](crate::Phase::Queue), [`Phase::Write`](crate::Phase::Write), [`Phase::Reply`](crate::Phase::Reply) |
/// | the daemon takes leave | [`close_timeout`](Config::close_timeout) | 5 s, 1 s in `LibvirtC`, and no longer than `call_timeout` | nothing: it is closed then |
/// | a peer that was heard before is silent | [`keepalive`](Config::keepalive) | 30 s | [`EndCause::KeepaliveTimeout`](crate::EndCause::KeepaliveTimeout) |
///
/// `Virsh` and `LibvirtC` leave the way to the daemon, authentication and opening to libvirt's own client: there
/// `connect_timeout` is for these together, and of the steps `lookup`, `subscribe` and `close` alone have timeouts of their own.
impl Config {
    /// How long it may take to reach the peer: to connect its socket, or, where ssh or another program leads to it, until
    /// the daemon first answers. `None` waits for ever.
    pub fn dial_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeouts.dial = Some(timeout);
        self
    }

    /// How long TLS may take, from the first byte to the daemon's one byte that says that it accepts us. `None` waits for
    /// ever.
    pub fn tls_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeouts.tls = Some(timeout);
        self
    }

    /// How long authentication may take, with the answer to the question for credentials, which a user may have to type.
    /// `None` waits for ever.
    pub fn auth_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeouts.auth = Some(timeout);
        self
    }

    /// How long the daemon may take, once it has let us in, to open the hypervisor and to say what it can do. `None` waits for
    /// ever.
    pub fn open_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeouts.open = Some(timeout);
        self
    }

    /// How long looking the domain of a monitor up may take. `None` waits for ever.
    pub fn lookup_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeouts.lookup = Some(timeout);
        self
    }

    /// How long a QMP server may take to greet. It greets one client at a time, so `None` waits until the other one has left.
    pub fn greeting_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeouts.greeting = Some(timeout);
        self
    }

    /// How long a QMP server may take, after its greeting, to agree on capabilities. It answers nobody while a command blocks
    /// on another monitor. `None` waits for ever.
    pub fn negotiation_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeouts.negotiation = Some(timeout);
        self
    }

    /// How long libvirt may take to register for events. `None` waits for ever. On a QMP socket nobody is asked.
    pub fn subscribe_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeouts.subscribe = Some(timeout);
        self
    }

    /// How long closing waits for libvirt's word, or for virsh to end, before it is closed in any case. `None` waits for ever.
    /// On a QMP socket nobody is asked.
    pub fn close_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeouts.close = Some(timeout);
        self
    }

    /// How long connecting a socket may take that is no part of opening a session.
    pub(crate) fn dial_within(&self) -> Option<Duration> {
        self.timeouts.dial.unwrap_or(self.connect_timeout)
    }

    /// How long looking a domain up may take.
    pub(crate) fn lookup_within(&self) -> Option<Duration> {
        self.timeouts.lookup.unwrap_or(self.connect_timeout)
    }

    /// How long registering for events may take.
    pub(crate) fn subscribe_within(&self) -> Option<Duration> {
        self.timeouts.subscribe.unwrap_or(self.call_timeout)
    }

    /// How long taking leave may take: `usual` unless set, but no longer than a call.
    pub(crate) fn close_within(&self, usual: Duration) -> Option<Duration> {
        let unset = || Some(self.call_timeout.map_or(usual, |call| call.min(usual)));
        self.timeouts.close.unwrap_or_else(unset)
    }
}
