//! What a user can set about a connection. Plain data; imports credentials alone. The timeouts of single steps are in `timeouts`.

mod timeouts;

use std::time::Duration;

#[cfg(feature = "sasl")]
use crate::credentials::{Credentials, CredentialsRequest, CredentialsSource};
use timeouts::Timeouts;

/// Settings of a connection, made by chained setters.
///
/// ```
/// use std::time::Duration;
/// use libvirt_qmp::Config;
///
/// let config = Config::new().uri("qemu:///session").call_timeout(Some(Duration::from_secs(5)));
/// # let _ = config;
/// ```
///
/// [`SocketMonitor`](crate::SocketMonitor) speaks to QEMU itself: `uri` and `readonly` mean nothing to it, the rest
/// applies.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) uri: String,
    pub(crate) readonly: bool,
    pub(crate) max_in_flight: usize,
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) timeouts: Timeouts,
    pub(crate) event_queue: usize,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) handshake: Handshake,
    pub(crate) oob: bool,
    #[cfg(feature = "sasl")]
    pub(crate) credentials: Option<CredentialsSource>,
    #[cfg(feature = "sasl")]
    pub(crate) plain_in_clear: bool,
    pub(crate) max_message: usize,
    pub(crate) reconnect: Option<Backoff>,
}

/// What is expected of a QMP server before the first command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Handshake {
    /// A greeting, then capabilities are negotiated: QEMU, and QEMU's storage daemon.
    #[default]
    Full,
    /// A greeting only; the user negotiates, or wants to see how QEMU answers before that.
    GreetingOnly,
    /// Nothing: what is behind the stream has been greeted before, or never greets, as the guest agent.
    None,
}

/// How a silent peer is found out: after `interval` without a packet from it a ping is sent, and after `count` pings
/// without an answer the connection ends. A dead peer is thus noticed after `interval * (count + 1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) interval: Duration,
    pub(crate) count: u32,
}

/// How a lost connection is made again: see [`Config::reconnect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
    pub(crate) give_up_after: Option<Duration>,
}

impl Backoff {
    /// 100 ms before the first try, twice as long after each that fails, up to 30 s; never gives up. Of each delay a random part
    /// of up to a half is left out, so that many clients of one daemon do not come back at once.
    pub fn new() -> Self {
        Backoff {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            give_up_after: None,
        }
    }

    /// How long to wait before the first try; at least 1 ms.
    pub fn first(mut self, delay: Duration) -> Self {
        self.first = delay.max(Duration::from_millis(1));
        self
    }

    /// The longest that is waited between two tries; at least 1 ms.
    pub fn longest(mut self, delay: Duration) -> Self {
        self.longest = delay.max(Duration::from_millis(1));
        self
    }

    /// How long to try, counted from each loss; `None` tries for ever. A try that is under way then is given up.
    pub fn give_up_after(mut self, time: Option<Duration>) -> Self {
        self.give_up_after = time;
        self
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::new()
    }
}

impl Config {
    /// `qemu:///system`, read-write, 4 calls in flight and one per monitor, calls end after 60 s, connecting after 15 s,
    /// 4096 events wait per stream, keepalive every 5 s with 5 tries.
    pub fn new() -> Self {
        Config {
            uri: "qemu:///system".to_owned(),
            readonly: false,
            max_in_flight: 4,
            call_timeout: Some(Duration::from_secs(60)),
            connect_timeout: Some(Duration::from_secs(15)),
            timeouts: Timeouts::default(),
            event_queue: 4096,
            keepalive: Some(Keepalive {
                interval: Duration::from_secs(5),
                count: 5,
            }),
            handshake: Handshake::Full,
            oob: true,
            #[cfg(feature = "sasl")]
            credentials: None,
            #[cfg(feature = "sasl")]
            plain_in_clear: false,
            max_message: 64 << 20,
            reconnect: None,
        }
    }

    /// What the daemon opens: `qemu:///system` or `qemu:///session`, without transport and host, for those are how the
    /// stream was made: a URI with either is refused. The empty string lets the daemon choose. Not used where a URI says where to
    /// connect: see [`Libvirt::connect_with`](crate::Libvirt::connect_with).
    pub fn uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = uri.into();
        self
    }

    /// Opens read-only (`VIR_CONNECT_RO`). libvirt then refuses monitor commands and monitor events with
    /// `VIR_ERR_OPERATION_DENIED`; listing and lookups work.
    pub fn readonly(mut self, readonly: bool) -> Self {
        self.readonly = readonly;
        self
    }

    /// How many calls may be unanswered at once on the connection; at least 1.
    ///
    /// libvirtd stops reading a client that has `max_client_requests` (5) calls outstanding, and closes it when that
    /// lasts. So the default is 4, and each monitor has one command in flight, which also keeps a monitor's commands
    /// in the order of their calls: libvirt itself runs them in any order. `usize::MAX` lifts both limits; any limit
    /// over 4 gives up keepalive, since a daemon that does not read cannot answer it.
    ///
    /// On [`SocketMonitor`](crate::SocketMonitor) QEMU runs commands in order, and the limit is this one but at most 8.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls.max(1);
        self
    }

    /// How long a call may take, from the call until its reply, waiting for a free slot included. `None` waits for ever.
    ///
    /// libvirt itself waits up to 30 s for a busy domain and then fails with a telling error, so less than that hides
    /// the reason. A call that ran into this limit may have been executed; its late reply is discarded.
    pub fn call_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long connecting may take: the way to the daemon, where it begins with a URI, and authentication and opening together,
    /// and then looking the domain up; for a QMP socket connecting it, and then the greeting and the negotiation of capabilities
    /// together. `None` waits for ever. A step with a timeout of its own has that instead: see [Deadlines](Config#deadlines).
    pub fn connect_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How many events may wait in one event stream; at least 1, and no more than 64 MiB of them in any case. When more
    /// come, the oldest are dropped and the stream says how many: [`Error::EventsLost`](crate::Error::EventsLost).
    pub fn event_queue(mut self, events: usize) -> Self {
        self.event_queue = events.max(1);
        self
    }

    /// What [`SocketMonitor`](crate::SocketMonitor) expects before the first command; [`Handshake::Full`] unless set.
    pub fn handshake(mut self, handshake: Handshake) -> Self {
        self.handshake = handshake;
        self
    }

    /// Whether [`SocketMonitor`](crate::SocketMonitor) enables out-of-band commands (`exec-oob`) where QEMU offers them; it
    /// does unless told otherwise.
    pub fn oob(mut self, oob: bool) -> Self {
        self.oob = oob;
        self
    }

    /// How many bytes one message of QEMU, or of the guest agent, may have on a socket of its own: 64 MiB unless set, and at least
    /// 4 KiB. A longer one ends the connection to QEMU; of the agent it fails its command. What comes through libvirt has
    /// libvirt's own limits.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes.max(4 << 10);
        self
    }

    /// When to ask a silent libvirtd whether it is there: after `interval` (at least 10 ms) without a packet from it,
    /// up to `count` times; then the connection ends with [`EndCause::KeepaliveTimeout`](crate::EndCause). `None` never
    /// asks. Its own questions are always answered.
    pub fn keepalive(mut self, interval_and_count: Option<(Duration, u32)>) -> Self {
        self.keepalive = interval_and_count.map(|(interval, count)| Keepalive {
            interval: interval.max(Duration::from_millis(10)),
            count,
        });
        self
    }

    /// Makes a lost connection again, as `backoff` says. Without this a connection that is lost has ended.
    ///
    /// It takes a connection that knows its way: one by URI ([`Libvirt::connect_with`](crate::Libvirt::connect_with),
    /// [`LibvirtRpc::connect_uri_with`](crate::LibvirtRpc::connect_uri_with)) or address
    /// ([`SocketMonitor`](crate::SocketMonitor#reconnecting), which has some rules of its own, and `unix` and `tcp` of
    /// [`blocking::Libvirt`](crate::blocking::Libvirt)), or with a function that connects
    /// ([`Libvirt::open_with`](crate::Libvirt::open_with), [`SocketMonitor::open_with`](crate::SocketMonitor::open_with)). Over
    /// a stream that was handed in it is refused ([`Error::Unsupported`](crate::Error)). These rules are fixed:
    ///
    /// - The first connecting is tried once, and its error is returned.
    /// - Every end of the connection is a loss but the end of its runtime and the user's own: closing, disconnecting, dropping the
    ///   last handle. These end the trying too, at once, at whatever point.
    /// - A try is made after the delay and has [the time for connecting](Config#deadlines). It is the whole way: connecting,
    ///   authenticating, opening, registering every live event stream again. Where any of it fails, the next try follows after
    ///   the next delay. The delays begin anew only where the connection lived longer than the next of them: a peer that
    ///   accepts and closes at once is not asked all the time.
    /// - What the next try cannot mend ends it at once: authentication that failed (a wrong password, missing credentials), a
    ///   URI or parameter that is not understood or not supported, a certificate that is not trusted, or a certificate file that is
    ///   missing or not right. Whoever waits then gets [`EndCause::GaveUp`](crate::EndCause), as when
    ///   [`Backoff::give_up_after`] is over. A daemon that rejects the client's certificate cannot be told from one that is going
    ///   down, and is tried again.
    /// - No command is ever sent again. Those in flight fail at the loss with [`Error::Disconnected`](crate::Error), and
    ///   `maybe_executed` says whether they had been sent. Those made meanwhile wait for the connection within their own timeout
    ///   ([`Phase::Reconnect`](crate::Phase)), as do those that still waited for their turn at the loss, and new event streams.
    ///   Streams of data, such as a volume's content, end with the connection that they are on.
    /// - Each event stream goes on. Where the connection was lost it has one [`Error::Gap`](crate::Error), before the first
    ///   event of the new connection: what came meanwhile is missing. One that the peer does not want to serve any more ends with
    ///   the peer's error.
    /// - A domain stays the one that was found first, by its UUID. What was known of its QEMU is asked anew, for it may have been
    ///   started again meanwhile.
    ///
    /// The drivers `LibvirtC` and [`Virsh`](crate::Virsh) cannot do it, and refuse it, as do [`Admin`](crate::Admin) and
    /// [`GuestAgent`](crate::GuestAgent).
    pub fn reconnect(mut self, backoff: Backoff) -> Self {
        self.reconnect = Some(backoff);
        self
    }

    /// Who the user is to a daemon that wants SASL. Without this, libvirt's `auth.conf` is asked, where a URI says which host
    /// is meant: the file that `LIBVIRT_AUTH_FILE` names, else the URI's parameter `authfile`, else
    /// `libvirt/auth.conf` in the user's configuration directory, else `/etc/libvirt/auth.conf`.
    ///
    /// With the feature `gssapi`, users of Kerberos need none of this: their ticket is used (mechanism GSSAPI) where the daemon offers
    /// that, after the credentials that are set here or are in `auth.conf`, and before anybody is
    /// [asked](Config::ask_credentials). Where there is no ticket for the daemon, what comes next is tried. Parameter
    /// `auth=sasl.GSSAPI` of the URI asks for it and nothing else; of these credentials it takes the user to
    /// [act as](Credentials::authorize_as), and neither name nor password.
    ///
    /// - Over plain TCP, where libvirtd demands it, all that follows is encrypted. Over TLS, ssh and unix sockets nothing is encrypted
    ///   twice.
    /// - The ticket is one for the service `libvirt` on the host that the URI names, on `localhost` where there is no URI or none in
    ///   it. It comes from the user's credential cache (`KRB5CCNAME`), and is never delegated to the daemon.
    /// - Kerberos' servers are asked on a thread of its own, within [`Config::auth_timeout`]. Where they are silent that thread lives on
    ///   for as long as `krb5.conf` has it, and holds nobody up.
    ///
    /// The drivers `LibvirtC` and [`Virsh`](crate::Virsh) leave authentication to libvirt's own client.
    #[cfg(feature = "sasl")]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(CredentialsSource::Value(credentials));
        self
    }

    /// As [`Config::credentials`], asked for when a daemon wants them: never before, not where a ticket of Kerberos does, and once for each connection that is
    /// made. The answer is waited for within [`Config::auth_timeout`], which a user who is to type needs longer; none
    /// means that there are none. `ask` must not block: see `tokio::task::spawn_blocking`.
    ///
    /// ```
    /// use libvirt_qmp::{Config, Credentials};
    ///
    /// let config = Config::new().auth_timeout(None).ask_credentials(|request| async move {
    ///     println!("{} wants a password", request.host.as_deref().unwrap_or("the daemon"));
    ///     Some(Credentials::new("fred", "what the user typed"))
    /// });
    /// # let _ = config;
    /// ```
    #[cfg(feature = "sasl")]
    pub fn ask_credentials<F, A>(mut self, ask: F) -> Self
    where
        F: Fn(CredentialsRequest) -> A + Send + Sync + 'static,
        A: Future<Output = Option<Credentials>> + Send + 'static,
    {
        self.credentials = Some(CredentialsSource::ask(ask));
        self
    }

    /// Whether the password may be sent as it is (mechanism PLAIN) where others could read it on the way: over TCP, through a
    /// program, over a stream of one's own that is no unix socket, and where nobody checks who the peer is (`no_verify`). It may not
    /// unless told otherwise; over unix sockets, TLS and ssh it always may.
    #[cfg(feature = "sasl")]
    pub fn allow_plain_in_clear(mut self, allow: bool) -> Self {
        self.plain_in_clear = allow;
        self
    }

    /// The keepalive to use. With more calls in flight than libvirtd reads it must stay off: see `max_in_flight`.
    pub(crate) fn effective_keepalive(&self) -> Option<Keepalive> {
        self.keepalive.filter(|_| self.max_in_flight <= 4)
    }
}

impl Default for Config {
    fn default() -> Self {
        Config::new()
    }
}
