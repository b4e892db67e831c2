//! Every way a call can fail, as plain data. May import uri, xdr, packet and qmp.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::packet::FrameError;
use crate::protocol::rpc;
use crate::qmp::schema::SchemaProblems;
use crate::qmp::{CommandError, ErrorClass, Event, EventError, FilterError, QmpError};
use crate::uri::UriError;
use crate::xdr::{DecodeError, EncodeError};

/// Why a call, a connection or an event stream failed.
///
/// Cheap to clone: a failure that ends a connection reaches every waiter as the same cause. Questions about it are asked
/// with the `is_…` methods, which go by code and class, never by text.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// QEMU answered `{"error": …}`.
    #[error(transparent)]
    Qmp(Box<QmpError>),
    /// libvirt answered with an error.
    #[error(transparent)]
    Libvirt(Box<LibvirtError>),
    /// The command was refused here; nothing was sent.
    #[error("command refused")]
    Command(#[source] CommandError),
    /// The pattern of an event filter is none; nothing was sent.
    #[error("event filter refused")]
    Filter(#[source] FilterError),
    /// The arguments do not fit their wire type; nothing was sent.
    #[error("arguments of {procedure} do not fit")]
    Encode {
        /// Wire name of the procedure.
        procedure: &'static str,
        /// What is over which limit.
        source: EncodeError,
    },
    /// A reply or an event came that cannot be decoded. The connection lives; a call has been executed.
    #[error("{what} cannot be decoded")]
    Decode {
        /// Wire name of the procedure, or what it was a reply to.
        what: &'static str,
        /// What is wrong, and in which field.
        source: DecodeFailure,
    },
    /// A deadline passed.
    #[error("no answer within {after:?} while {phase}{}", hint(.phase))]
    Timeout {
        /// What was waited for.
        phase: Phase,
        /// How long.
        after: Duration,
        /// Whether the peer may have executed the call all the same.
        maybe_executed: bool,
    },
    /// The connection ended. Every call, monitor and event stream on it fails with the same cause.
    #[error("connection ended")]
    Disconnected {
        /// Why.
        #[source]
        cause: Arc<EndCause>,
        /// Whether the peer may have executed the call: it was sent, and no reply came.
        maybe_executed: bool,
    },
    /// The monitor was disconnected by its user.
    #[error("monitor is disconnected")]
    Closed,
    /// A connection could not be made.
    #[error("cannot connect to {target}")]
    Connect {
        /// Path or address.
        target: String,
        /// What the system said; of kind [`TimedOut`](io::ErrorKind::TimedOut) where it was the deadline that passed.
        source: Arc<io::Error>,
    },
    /// The URI is none, or asks for what cannot be.
    #[error("URI refused")]
    Uri(#[source] UriError),
    /// No TLS connection: the two sides do not trust each other, or one of the files for it is not right.
    #[error("no TLS with {target}")]
    Tls {
        /// Host and port.
        target: String,
        /// What is wrong.
        source: TlsFailure,
    },
    /// Nobody can connect here.
    #[error("cannot listen on {target}")]
    Listen {
        /// Path or address.
        target: String,
        /// What the system said, or that somebody else listens there.
        source: Arc<io::Error>,
    },
    /// The system would not pass a file descriptor on; nothing was sent.
    #[error("file descriptors cannot be passed on")]
    Files {
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Authentication by SASL failed. Trying again with the same settings will not help.
    #[error("authentication failed")]
    Auth(#[source] Box<AuthFailure>),
    /// The daemon wants an authentication that this client cannot do.
    #[error("the daemon offers only authentication that is not supported{}: {}", without_sasl(.offered), .offered.join(", "))]
    AuthUnsupported {
        /// What it offers, by name, such as `sasl`.
        offered: Vec<String>,
    },
    /// This driver or this peer cannot do what was asked.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// What was waited for will not come: QEMU said that it failed.
    #[error("{what} failed: {reason}")]
    Failed {
        /// What was waited for, such as `block job mirror0`.
        what: String,
        /// What QEMU said.
        reason: String,
        /// The event that said so; none where it was asked for.
        event: Option<Box<Event>>,
    },
    /// So many events were dropped at this place in the stream, because they came faster than they were taken. The
    /// stream goes on.
    #[error("{0} events were lost: they came faster than they were taken")]
    EventsLost(u64),
    /// The connection was lost and made again at this place in the stream: events may be missing here, and nobody knows how
    /// many. The stream goes on.
    #[error("the connection was lost and made again: events may be missing")]
    Gap {
        /// How it was lost.
        #[source]
        cause: Arc<EndCause>,
    },
}

/// Why authentication by SASL failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthFailure {
    /// The daemon refused: the password is wrong, the user is not known, or may not log in so. It does not say which.
    #[error("the daemon refused {} by {mechanism}", named(.user))]
    Refused {
        /// Who wanted to log in; none with a mechanism that names nobody.
        user: Option<String>,
        /// The mechanism.
        mechanism: String,
        /// What libvirt said.
        #[source]
        error: Box<LibvirtError>,
    },
    /// The mechanism that the URI asks for is not offered.
    #[error("{wanted} is asked for, and the daemon offers {}", listed(.offered))]
    NotOffered {
        /// What parameter `auth` asks for.
        wanted: String,
        /// What the daemon offers.
        offered: Vec<String>,
    },
    /// Nothing of what the daemon offers can be used.
    #[error("the daemon offers {}; {reason}", listed(.offered))]
    NoMechanism {
        /// What the daemon offers.
        offered: Vec<String>,
        /// Why none fits.
        reason: String,
    },
    /// PLAIN would send the password so that others could read it.
    /// [`Config::allow_plain_in_clear`](crate::Config) allows that.
    #[error("PLAIN would send the password in the clear, and the daemon offers {}", listed(.offered))]
    PlainInClear {
        /// What the daemon offers.
        offered: Vec<String>,
    },
    /// There is no user name and password for this daemon.
    #[error("there is no user name and password: {reason}")]
    NoCredentials {
        /// Where none was found.
        reason: String,
    },
    /// The user name or password cannot be used with the mechanism; for `GSSAPI`, there is no ticket that can.
    #[error("{} cannot be used with {mechanism}: {reason}", proof(.mechanism))]
    Credentials {
        /// The mechanism.
        mechanism: String,
        /// Why not.
        reason: String,
    },
    /// The daemon did not keep to the mechanism, or did not prove that it knows the user: it may be an impostor.
    #[error("the daemon did not keep to {mechanism}: {reason}")]
    Exchange {
        /// The mechanism.
        mechanism: String,
        /// What was wrong.
        reason: String,
    },
}

fn named(user: &Option<String>) -> String {
    match user {
        Some(user) => format!("user `{user}`"),
        None => "us".to_owned(),
    }
}

/// What a mechanism needs of the user.
fn proof(mechanism: &str) -> &'static str {
    match mechanism {
        "GSSAPI" => "a ticket of Kerberos",
        _ => "the user name or password",
    }
}

fn listed(offered: &[String]) -> String {
    match offered {
        [] => "no mechanism".to_owned(),
        offered => offered.join(", "),
    }
}

/// Says what would help, where it is known.
fn without_sasl(offered: &[String]) -> &'static str {
    match !cfg!(feature = "sasl") && offered.iter().any(|name| name == "sasl") {
        true => " (this program was built without the feature `sasl`)",
        false => "",
    }
}

/// Why there is no TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFailure {
    /// A file with a certificate or key is missing, or not right.
    #[error("{}: {reason}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it, such as that it is missing, expired, or does not belong to the other one.
        reason: String,
    },
    /// The daemon's certificate is not trusted: it is not of our CA, not valid now, revoked, or not for this name.
    #[error("the daemon's certificate is not trusted: {reason}")]
    Untrusted {
        /// Why not.
        reason: String,
    },
    /// The daemon does not accept our certificate, or that there is none.
    #[error("{}", rejected(.certificate))]
    Rejected {
        /// Our certificate; none where none was found.
        certificate: Option<PathBuf>,
    },
    /// What the peer does is not TLS as libvirt speaks it.
    #[error("{reason}")]
    Handshake {
        /// What was wrong.
        reason: String,
    },
}

fn rejected(certificate: &Option<PathBuf>) -> String {
    match certificate {
        Some(file) => format!(
            "the daemon rejected the client certificate {}",
            file.display()
        ),
        None => "the daemon wants a client certificate, and none was found".to_owned(),
    }
}

/// What did not decode: XDR under it, or JSON.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeFailure {
    /// Not the XDR type it should be.
    #[error(transparent)]
    Xdr(#[from] DecodeError),
    /// Not the JSON it should be, or not of the type the caller asked for.
    #[error("{0}")]
    Json(Arc<str>),
}

/// What was waited for when a deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Connecting the socket.
    Dial,
    /// Waiting for QEMU to connect.
    Accept,
    /// Waiting for the handshake with QEMU, which others have begun or which has a longer deadline of its own.
    Handshake,
    /// Waiting for QEMU's greeting.
    Greeting,
    /// Negotiating capabilities with QEMU.
    Negotiation,
    /// Authenticating with libvirtd.
    Authentication,
    /// Asking libvirtd for its features.
    Features,
    /// Opening the hypervisor connection.
    Open,
    /// Looking the domain up.
    Lookup,
    /// Synchronizing with the guest agent.
    Sync,
    /// Registering for events.
    Subscription,
    /// Waiting for a free slot among the calls in flight; nothing was sent.
    Queue,
    /// Sending: the peer does not read.
    Write,
    /// Waiting for the reply.
    Reply,
    /// Waiting for an event.
    Event,
    /// Waiting for the consumer of a stream to take what has come, while others wait behind it.
    Consumer,
    /// Waiting for a lost connection to be made again; nothing was sent.
    Reconnect,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Dial => "connecting the socket",
            Phase::Accept => "waiting for QEMU to connect",
            Phase::Handshake => "waiting for the handshake with QEMU",
            Phase::Greeting => "waiting for QEMU's greeting",
            Phase::Negotiation => "negotiating capabilities with QEMU",
            Phase::Authentication => "authenticating",
            Phase::Features => "asking for features",
            Phase::Open => "opening the hypervisor connection",
            Phase::Lookup => "looking the domain up",
            Phase::Sync => "synchronizing with the guest agent",
            Phase::Subscription => "registering for events",
            Phase::Queue => "waiting for a free slot among the calls in flight",
            Phase::Write => "sending",
            Phase::Reply => "waiting for the reply",
            Phase::Event => "waiting for the event",
            Phase::Consumer => "waiting for the data of the stream to be taken",
            Phase::Reconnect => "waiting for the connection to be made again",
        })
    }
}

/// What usually lies behind a peer that is silent in this phase.
fn hint(phase: &Phase) -> &'static str {
    match phase {
        Phase::Greeting => " (QEMU serves one client per monitor: is another one connected?)",
        Phase::Sync => " (is it running, and is another client connected to it?)",
        Phase::Negotiation => " (QEMU answers no monitor while a command blocks on another)",
        _ => "",
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndCause {
    /// The peer closed it.
    #[error("closed by the peer")]
    PeerClosed,
    /// The user closed it, or dropped its last handle.
    #[error("closed by its user")]
    UserClosed,
    /// Reading or writing failed.
    #[error("input or output failed")]
    Io(#[source] Arc<io::Error>),
    /// The peer does not speak libvirt's RPC, or broke its rules.
    #[error(transparent)]
    Frame(FrameError),
    /// The peer broke the protocol in a way that makes what follows useless, or speaks another one.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// The peer answered none of so many pings.
    #[error("no sign of the peer for {silence:?}, {pings} pings unanswered")]
    KeepaliveTimeout {
        /// Pings that went unanswered.
        pings: u32,
        /// How long nothing came.
        silence: Duration,
    },
    /// The daemon lost its own connection to the hypervisor (`REMOTE_PROC_CONNECT_EVENT_CONNECTION_CLOSED`).
    #[error(
        "the daemon's connection to the hypervisor was closed (virConnectCloseReason {reason})"
    )]
    HypervisorClosed {
        /// `virConnectCloseReason`: 0 error, 1 end of file, 2 keepalive, 3 client.
        reason: i32,
    },
    /// The connection was lost, and could not be made again as [`Config::reconnect`](crate::Config::reconnect) says.
    #[error("lost ({lost}), and not made again in {tries} tries")]
    GaveUp {
        /// How it was lost.
        lost: Arc<EndCause>,
        /// How often it was tried.
        tries: u32,
        /// How the last try failed.
        #[source]
        last: Box<Error>,
    },
    /// The task that owns the socket was cancelled, as happens when its runtime shuts down.
    #[error("the runtime of the connection was shut down")]
    RuntimeGone,
}

/// An error of libvirt, as it came (`virNetMessageError`). What is not UTF-8 in its texts is U+FFFD: libvirt quotes what others
/// said in them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LibvirtError {
    /// `virErrorNumber`, such as 42 for `VIR_ERR_NO_DOMAIN`. Unknown codes stay numbers.
    pub code: i32,
    /// `virErrorDomain`: the part of libvirt it came from.
    pub domain: i32,
    /// `virErrorLevel`: 2 is an error.
    pub level: i32,
    /// The whole text.
    pub message: Option<String>,
    /// Extra text 1, usually the format of the message.
    pub str1: Option<String>,
    /// Extra text 2, usually the detail.
    pub str2: Option<String>,
    /// Extra text 3.
    pub str3: Option<String>,
    /// Extra number 1; `errno` where code is 38 (`VIR_ERR_SYSTEM_ERROR`).
    pub int1: i32,
    /// Extra number 2.
    pub int2: i32,
    /// The domain it is about, where one is named.
    pub about_domain: Option<ErrorObject>,
    /// The network it is about, where one is named.
    pub about_network: Option<ErrorObject>,
    /// Wire name of the procedure that failed, or the name of the function of libvirt's C library.
    pub procedure: &'static str,
}

/// What a libvirt error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorObject {
    /// Name of the object.
    pub name: String,
    /// UUID of the object.
    pub uuid: Uuid,
    /// Id of a running domain; -1 for one that does not run. Networks have none.
    pub id: Option<i32>,
}

impl fmt::Display for LibvirtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.message.as_deref().unwrap_or("unknown error");
        write!(
            f,
            "libvirt: {message} (code {}, domain {}, {})",
            self.code, self.domain, self.procedure
        )
    }
}

impl std::error::Error for LibvirtError {}

impl LibvirtError {
    /// `VIR_ERR_INTERNAL_ERROR`.
    pub const INTERNAL_ERROR: i32 = 1;
    /// `VIR_ERR_NO_SUPPORT`.
    pub const NO_SUPPORT: i32 = 3;
    /// `VIR_ERR_OPERATION_DENIED`: the connection is read-only.
    pub const OPERATION_DENIED: i32 = 29;
    /// `VIR_ERR_SYSTEM_ERROR`; `int1` is the `errno`.
    pub const SYSTEM_ERROR: i32 = 38;
    /// `VIR_ERR_RPC`.
    pub const RPC: i32 = 39;
    /// `VIR_ERR_NO_DOMAIN`.
    pub const NO_DOMAIN: i32 = 42;
    /// `VIR_ERR_AUTH_FAILED`.
    pub const AUTH_FAILED: i32 = 45;
    /// `VIR_ERR_OPERATION_INVALID`: the domain is not running, for one.
    pub const OPERATION_INVALID: i32 = 55;
    /// `VIR_ERR_OPERATION_TIMEOUT`: the domain is busy, for one.
    pub const OPERATION_TIMEOUT: i32 = 68;
    /// `VIR_ERR_ARGUMENT_UNSUPPORTED`: the domain has no guest agent, for one.
    pub const ARGUMENT_UNSUPPORTED: i32 = 74;
    /// `VIR_ERR_AUTH_CANCELLED`.
    pub const AUTH_CANCELLED: i32 = 79;
    /// `VIR_ERR_AGENT_UNRESPONSIVE`: the guest agent is not connected, or did not answer.
    pub const AGENT_UNRESPONSIVE: i32 = 86;
    /// `VIR_ERR_ACCESS_DENIED`: access control refused it.
    pub const ACCESS_DENIED: i32 = 88;
    /// `VIR_ERR_AUTH_UNAVAILABLE`.
    pub const AUTH_UNAVAILABLE: i32 = 94;
    /// `VIR_ERR_AGENT_UNSYNCED`: the guest agent answers something else than what it was asked.
    pub const AGENT_UNSYNCED: i32 = 97;
    /// `VIR_ERR_AGENT_COMMAND_TIMEOUT`: the guest agent did not answer the command in time. Older libvirt says
    /// [`AGENT_UNRESPONSIVE`](Self::AGENT_UNRESPONSIVE).
    pub const AGENT_COMMAND_TIMEOUT: i32 = 112;
    /// `VIR_ERR_AGENT_COMMAND_FAILED`: the guest agent answered with an error. Older libvirt says
    /// [`INTERNAL_ERROR`](Self::INTERNAL_ERROR).
    pub const AGENT_COMMAND_FAILED: i32 = 113;

    /// `VIR_FROM_NONE`.
    const FROM_NONE: i32 = 0;
    /// `VIR_FROM_QEMU`.
    const FROM_QEMU: i32 = 10;
    /// `VIR_FROM_REMOTE`.
    const FROM_REMOTE: i32 = 13;
    /// `VIR_FROM_RPC`.
    const FROM_RPC: i32 = 7;

    pub(crate) fn from_wire(wire: rpc::MessageError, procedure: &'static str) -> Self {
        let mut error = LibvirtError {
            code: wire.code,
            domain: wire.domain,
            level: wire.level,
            message: wire.message,
            str1: wire.str1,
            str2: wire.str2,
            str3: wire.str3,
            int1: wire.int1,
            int2: wire.int2,
            about_domain: wire.dom.map(|dom| ErrorObject {
                name: dom.name,
                uuid: Uuid::from_bytes(dom.uuid),
                id: Some(dom.id),
            }),
            about_network: wire.net.map(|net| ErrorObject {
                name: net.name,
                uuid: Uuid::from_bytes(net.uuid),
                id: None,
            }),
            procedure,
        };
        if error.is_unknown_procedure() {
            error.code = LibvirtError::NO_SUPPORT;
        }
        error
    }

    /// A daemon that lacks a procedure answers `VIR_ERR_RPC` with this one text; libvirt's own client turns exactly
    /// that into `VIR_ERR_NO_SUPPORT`, and so does this one. There is no code to go by.
    fn is_unknown_procedure(&self) -> bool {
        self.code == LibvirtError::RPC
            && matches!(
                self.domain,
                LibvirtError::FROM_RPC | LibvirtError::FROM_REMOTE
            )
            && self
                .message
                .as_deref()
                .is_some_and(|message| message.starts_with("unknown procedure"))
    }
}

impl Error {
    pub(crate) fn xdr(what: &'static str, error: DecodeError) -> Self {
        Error::Decode {
            what,
            source: DecodeFailure::Xdr(error),
        }
    }

    pub(crate) fn json(what: &'static str, error: impl fmt::Display) -> Self {
        Error::Decode {
            what,
            source: DecodeFailure::Json(error.to_string().into()),
        }
    }

    pub(crate) fn files(error: io::Error) -> Self {
        Error::Files {
            source: Arc::new(error),
        }
    }

    pub(crate) fn disconnected(cause: Arc<EndCause>, maybe_executed: bool) -> Self {
        Error::Disconnected {
            cause,
            maybe_executed,
        }
    }

    /// A deadline passed, here, in the system while connecting, or in libvirt (`VIR_ERR_OPERATION_TIMEOUT`,
    /// `VIR_ERR_AGENT_COMMAND_TIMEOUT`).
    pub fn is_timeout(&self) -> bool {
        matches!(self, Error::Timeout { .. })
            || matches!(self, Error::Connect { source, .. } if source.kind() == io::ErrorKind::TimedOut)
            || matches!(
                self.libvirt_code(),
                Some(LibvirtError::OPERATION_TIMEOUT | LibvirtError::AGENT_COMMAND_TIMEOUT)
            )
    }

    /// The connection is gone; no later call on it can succeed.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Error::Disconnected { .. } | Error::Closed)
    }

    /// The domain does not exist (`VIR_ERR_NO_DOMAIN`).
    pub fn is_not_found(&self) -> bool {
        self.libvirt_code() == Some(LibvirtError::NO_DOMAIN)
    }

    /// The domain does not run, or is otherwise not in the state for it (`VIR_ERR_OPERATION_INVALID`).
    pub fn is_not_running(&self) -> bool {
        self.libvirt_code() == Some(LibvirtError::OPERATION_INVALID)
    }

    /// The guest agent is not connected to libvirt, or does not answer it (`VIR_ERR_AGENT_UNRESPONSIVE`,
    /// `VIR_ERR_AGENT_UNSYNCED`, `VIR_ERR_AGENT_COMMAND_TIMEOUT`).
    pub fn is_agent_unresponsive(&self) -> bool {
        matches!(
            self.libvirt_code(),
            Some(
                LibvirtError::AGENT_UNRESPONSIVE
                    | LibvirtError::AGENT_UNSYNCED
                    | LibvirtError::AGENT_COMMAND_TIMEOUT
            )
        )
    }

    /// Whether an event stream goes on after this item: events were lost, cannot be decoded, or may be missing.
    pub fn leaves_stream_open(&self) -> bool {
        matches!(
            self,
            Error::EventsLost(_) | Error::Decode { .. } | Error::Gap { .. }
        )
    }

    /// The daemon did not let us in, whoever is to blame: what it refused (`VIR_ERR_AUTH_FAILED`, `VIR_ERR_AUTH_CANCELLED`,
    /// `VIR_ERR_AUTH_UNAVAILABLE`), an authentication that cannot be done, or missing credentials. Connecting again with the
    /// same settings will not help.
    pub fn is_auth_failed(&self) -> bool {
        matches!(self, Error::Auth(_) | Error::AuthUnsupported { .. })
            || matches!(
                self.libvirt_code(),
                Some(
                    LibvirtError::AUTH_FAILED
                        | LibvirtError::AUTH_CANCELLED
                        | LibvirtError::AUTH_UNAVAILABLE
                )
            )
    }

    /// The connection is read-only, or access control refused the call.
    pub fn is_denied(&self) -> bool {
        matches!(
            self.libvirt_code(),
            Some(
                LibvirtError::OPERATION_DENIED
                    | LibvirtError::ACCESS_DENIED
                    | LibvirtError::AUTH_FAILED
            )
        )
    }

    /// The monitor was disconnected by its user.
    pub fn is_closed(&self) -> bool {
        match self {
            Error::Closed => true,
            Error::Disconnected { cause, .. } => matches!(**cause, EndCause::UserClosed),
            _ => false,
        }
    }

    /// Nobody is there to connect to, or nobody answers: the socket does not exist or refuses, the peer was silent until
    /// a deadline of connecting, or nobody connected to a listener.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Error::Connect { .. } => true,
            Error::Timeout { phase, .. } => matches!(
                phase,
                Phase::Dial
                    | Phase::Accept
                    | Phase::Handshake
                    | Phase::Greeting
                    | Phase::Negotiation
                    | Phase::Authentication
                    | Phase::Features
                    | Phase::Open
                    | Phase::Sync
            ),
            _ => false,
        }
    }

    /// The class of QEMU's error, where it is one: the part of it that programs may act on.
    pub fn class(&self) -> Option<&ErrorClass> {
        match self {
            Error::Qmp(error) => Some(&error.class),
            _ => None,
        }
    }

    /// The device does not exist (class `DeviceNotFound`).
    pub fn is_device_not_found(&self) -> bool {
        self.class() == Some(&ErrorClass::DeviceNotFound)
    }

    /// The device is there and does not work, as a balloon that was never set up (class `DeviceNotActive`).
    pub fn is_device_not_active(&self) -> bool {
        self.class() == Some(&ErrorClass::DeviceNotActive)
    }

    /// KVM cannot do what the command needs (class `KVMMissingCap`).
    pub fn is_kvm_missing_cap(&self) -> bool {
        self.class() == Some(&ErrorClass::KvmMissingCap)
    }

    /// What was waited for has failed.
    pub fn is_failed(&self) -> bool {
        matches!(self, Error::Failed { .. })
    }

    /// QEMU does not know the command (class `CommandNotFound`).
    pub fn is_command_not_found(&self) -> bool {
        self.class() == Some(&ErrorClass::CommandNotFound)
    }

    /// Neither this driver nor the peer can do it.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Error::Unsupported(_))
            || self.libvirt_code() == Some(LibvirtError::NO_SUPPORT)
    }

    /// Whether the call may have been executed although it failed: true where it was sent and no reply came, and where
    /// the reply could not be decoded. Nothing is ever sent again by itself.
    pub fn maybe_executed(&self) -> bool {
        match self {
            Error::Timeout { maybe_executed, .. } | Error::Disconnected { maybe_executed, .. } => {
                *maybe_executed
            }
            Error::Decode { .. } => true,
            // QEMU went away while libvirt waited for its answer. Which of the two libvirt says depends on what it
            // notices first, the reset of the monitor's socket or its end.
            Error::Libvirt(error) => match error.code {
                LibvirtError::SYSTEM_ERROR => true,
                // The first is also what older libvirt says of an answer that did not come in time.
                LibvirtError::AGENT_UNRESPONSIVE | LibvirtError::AGENT_COMMAND_TIMEOUT => true,
                // Of no part of libvirt, where it cannot make sense of an answer.
                LibvirtError::INTERNAL_ERROR => {
                    [LibvirtError::FROM_NONE, LibvirtError::FROM_QEMU].contains(&error.domain)
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// The `virErrorNumber` of a libvirt error.
    pub fn libvirt_code(&self) -> Option<i32> {
        match self {
            Error::Libvirt(error) => Some(error.code),
            Error::Auth(failure) => match &**failure {
                AuthFailure::Refused { error, .. } => Some(error.code),
                _ => None,
            },
            _ => None,
        }
    }
}

impl From<AuthFailure> for Error {
    fn from(failure: AuthFailure) -> Self {
        Error::Auth(Box::new(failure))
    }
}

impl From<QmpError> for Error {
    fn from(error: QmpError) -> Self {
        Error::Qmp(Box::new(error))
    }
}

impl From<LibvirtError> for Error {
    fn from(error: LibvirtError) -> Self {
        Error::Libvirt(Box::new(error))
    }
}

impl From<CommandError> for Error {
    fn from(error: CommandError) -> Self {
        Error::Command(error)
    }
}

impl From<SchemaProblems> for Error {
    fn from(problems: SchemaProblems) -> Self {
        Error::Command(problems.into())
    }
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        Error::Filter(error)
    }
}

impl From<UriError> for Error {
    fn from(error: UriError) -> Self {
        Error::Uri(error)
    }
}

impl From<EventError> for Error {
    fn from(error: EventError) -> Self {
        Error::json("event", error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::EventFilter;

    /// P20: the five classes, and those to come.
    #[test]
    fn what_qemu_says_is_told_by_its_class() {
        let told = |class: &str| {
            let error = Error::from(QmpError::new(ErrorClass::from(class), "no"));
            assert_eq!(error.class().map(ErrorClass::as_str), Some(class));
            [
                error.is_command_not_found(),
                error.is_device_not_active(),
                error.is_device_not_found(),
                error.is_kvm_missing_cap(),
            ]
        };
        assert_eq!(told("GenericError"), [false; 4]);
        assert_eq!(told("CommandNotFound"), [true, false, false, false]);
        assert_eq!(told("DeviceNotActive"), [false, true, false, false]);
        assert_eq!(told("DeviceNotFound"), [false, false, true, false]);
        assert_eq!(told("KVMMissingCap"), [false, false, false, true]);
        assert_eq!(told("OfTomorrow"), [false; 4]);
        assert!(Error::Closed.class().is_none());
    }

    fn of_libvirt(code: i32, domain: i32) -> Error {
        Error::from(LibvirtError {
            code,
            domain,
            level: 2,
            message: None,
            str1: None,
            str2: None,
            str3: None,
            int1: -1,
            int2: -1,
            about_domain: None,
            about_network: None,
            procedure: "QEMU_PROC_DOMAIN_AGENT_COMMAND",
        })
    }

    #[test]
    fn an_answer_that_libvirt_does_not_understand_is_one() {
        for (domain, maybe_executed) in [
            (LibvirtError::FROM_NONE, true),
            (LibvirtError::FROM_QEMU, true),
            (LibvirtError::FROM_RPC, false),
        ] {
            let error = of_libvirt(LibvirtError::INTERNAL_ERROR, domain);
            assert_eq!(error.maybe_executed(), maybe_executed, "{domain}");
        }
    }

    #[test]
    fn a_bad_pattern_is_an_error_like_others() {
        let filter = || -> Result<EventFilter, Error> { Ok(EventFilter::regex("(")?) };
        let error = filter().unwrap_err();
        assert!(matches!(error, Error::Filter(_)), "{error:?}");
        assert!(!error.maybe_executed());
    }

    #[test]
    fn whoever_is_silent_while_connecting_is_unavailable() {
        let silent = |phase| Error::Timeout {
            phase,
            after: Duration::ZERO,
            maybe_executed: false,
        };
        for phase in [
            Phase::Dial,
            Phase::Accept,
            Phase::Handshake,
            Phase::Greeting,
            Phase::Negotiation,
            Phase::Authentication,
            Phase::Features,
            Phase::Open,
            Phase::Sync,
        ] {
            assert!(silent(phase).is_unavailable(), "{phase}");
        }
        for phase in [
            Phase::Lookup,
            Phase::Subscription,
            Phase::Queue,
            Phase::Write,
            Phase::Reply,
            Phase::Event,
        ] {
            assert!(!silent(phase).is_unavailable(), "{phase}");
        }
    }

    #[test]
    fn what_libvirt_says_of_the_guest_agent_is_told_by_its_code() {
        for (code, unresponsive, timeout, maybe_executed) in [
            (LibvirtError::AGENT_UNRESPONSIVE, true, false, true),
            (LibvirtError::AGENT_UNSYNCED, true, false, false),
            (LibvirtError::AGENT_COMMAND_TIMEOUT, true, true, true),
            (LibvirtError::AGENT_COMMAND_FAILED, false, false, false),
            (LibvirtError::ARGUMENT_UNSUPPORTED, false, false, false),
        ] {
            let error = of_libvirt(code, LibvirtError::FROM_QEMU);
            assert_eq!(error.is_agent_unresponsive(), unresponsive, "{code}");
            assert_eq!(error.is_timeout(), timeout, "{code}");
            assert_eq!(error.maybe_executed(), maybe_executed, "{code}");
        }
    }
}
