//! Where to connect, from a URI, and connecting. What a URI asks for and this program cannot do is an error, never passed
//! over. Imports `failure`.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{Config, Error, Libvirt, Monitor, Phase, SocketMonitor};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::failure::Failure;

/// The socket of the system's libvirtd.
const SYSTEM_SOCKET: &str = "/var/run/libvirt/libvirt-sock";
/// The socket of a user's libvirtd, under the directory for such things.
const SESSION_SOCKET: &str = "libvirt/libvirt-sock";
/// libvirtd's port for plain TCP (`LIBVIRTD_TCP_PORT`).
const TCP_PORT: u16 = 16509;
/// Where nothing else is said.
const DEFAULT_URI: &str = "qemu:///system";
/// How long connecting may take where nothing else is said, as in the library.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait before a socket whose backlog was full is tried again.
const DIAL_AGAIN: Duration = Duration::from_millis(20);

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A libvirtd at this address, and the URI to open inside it.
    Libvirt(Address, &'static str),
    /// QEMU's own QMP socket.
    Qmp(Address),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(String, u16),
}

/// Who runs this program, as far as the default sockets depend on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct User {
    root: bool,
    runtime_dir: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
}

impl User {
    pub(crate) fn current() -> Self {
        let dir = |name| {
            let value: OsString = std::env::var_os(name)?;
            (!value.is_empty()).then(|| PathBuf::from(value))
        };
        User {
            // The owner of /proc/self is the effective user.
            root: std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0),
            runtime_dir: dir("XDG_RUNTIME_DIR"),
            cache_dir: dir("XDG_CACHE_HOME").or_else(|| Some(dir("HOME")?.join(".cache"))),
        }
    }

    /// The socket that `path` of a URI stands for, chosen as libvirt's own client does it: root's session is the system.
    fn socket(&self, path: &str) -> Result<PathBuf, String> {
        if path == "/system" || self.root {
            return Ok(PathBuf::from(SYSTEM_SOCKET));
        }
        let dir = self.runtime_dir.as_ref().or(self.cache_dir.as_ref());
        let dir =
            dir.ok_or("neither XDG_RUNTIME_DIR nor HOME says where the session's socket is")?;
        Ok(dir.join(SESSION_SOCKET))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => path.display().fmt(f),
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl Endpoint {
    /// The endpoint that the command line names, or else the environment, or else the default.
    pub(crate) fn choose(given: Option<&str>, user: &User) -> Result<Self, Failure> {
        let (text, origin) = match given {
            Some(text) => (text.to_owned(), "--connect"),
            None => match std::env::var_os("LIBVIRT_DEFAULT_URI") {
                Some(text) if !text.is_empty() => {
                    (text.to_string_lossy().into_owned(), "LIBVIRT_DEFAULT_URI")
                }
                _ => (DEFAULT_URI.to_owned(), "default URI"),
            },
        };
        Endpoint::parse(&text, user)
            .map_err(|reason| Failure::usage(format!("{origin} `{text}`: {reason}")))
    }

    /// Reads a URI.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or not supported.
    pub(crate) fn parse(text: &str, user: &User) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Endpoint::Qmp(Address::Unix(unix_path(path)?)));
        }
        if let Some(address) = text.strip_prefix("tcp:") {
            let (host, port) = host_and_port(address)?;
            let port = port.ok_or("no port; expected tcp:HOST:PORT")?;
            return Ok(Endpoint::Qmp(Address::Tcp(host, port)));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("neither a libvirt URI, nor unix:PATH, nor tcp:HOST:PORT")?;
        if rest.contains('#') {
            return Err("a fragment (`#`) is not supported".to_owned());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (driver, transport) = match scheme.split_once('+') {
            Some((driver, transport)) => (driver, Some(transport.to_ascii_lowercase())),
            None => (scheme, None),
        };
        if driver != "qemu" {
            return Err(format!(
                "driver `{driver}` is not supported, only `qemu` has QMP"
            ));
        }
        let uri = match path {
            "/system" => "qemu:///system",
            "/session" => "qemu:///session",
            "" if matches!(authority, "system" | "session") => {
                return Err(format!("a slash is missing: {scheme}:///{authority}"));
            }
            _ => return Err(format!("path `{path}` is neither /system nor /session")),
        };
        let address = match (transport.as_deref(), authority) {
            (None | Some("unix"), "") => match socket_parameter(query, true)? {
                Some(path) => Address::Unix(path),
                None => Address::Unix(user.socket(path)?),
            },
            (Some("unix"), host) => {
                return Err(format!(
                    "transport `unix` takes no host, and here is `{host}`"
                ));
            }
            (None, host) => {
                return Err(format!(
                    "a host without a transport means TLS, which is not supported; qemu+tcp://{host}{path} is plain TCP"
                ));
            }
            (Some("tcp"), authority) => {
                socket_parameter(query, false)?;
                let (host, port) = host_and_port(authority)?;
                Address::Tcp(host, port.unwrap_or(TCP_PORT))
            }
            (Some(other), _) => {
                return Err(format!(
                    "transport `{other}` is not supported, only `unix` and `tcp`"
                ));
            }
        };
        Ok(Endpoint::Libvirt(address, uri))
    }
}

fn unix_path(path: &str) -> Result<PathBuf, String> {
    match path.as_bytes().first() {
        None => Err("no path to a socket".to_owned()),
        Some(b'@') => Err("abstract sockets (`@`) are not supported".to_owned()),
        Some(_) => Ok(PathBuf::from(path)),
    }
}

/// The parameter `socket` of a query, the only one that is known, and only where `allowed`.
fn socket_parameter(query: &str, allowed: bool) -> Result<Option<PathBuf>, String> {
    let mut socket = None;
    for parameter in query.split(['&', ';']).filter(|text| !text.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !allowed || !name.eq_ignore_ascii_case("socket") {
            return Err(format!("parameter `{name}` is not supported"));
        }
        if socket.is_some() {
            return Err("parameter `socket` is given twice".to_owned());
        }
        socket = Some(unix_path(&percent_decoded(value)?)?);
    }
    Ok(socket)
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let wrong = || format!("`%{part}` is not a percent-encoded byte");
        let (digits, rest) = part.split_at_checked(2).ok_or_else(wrong)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| format!("`{text}` is not UTF-8"))
}

/// `HOST[:PORT]`, with the brackets of an IPv6 address taken off.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    if let Some((user, _)) = text.split_once('@') {
        return Err(format!("a user (`{user}@`) is not supported"));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("`[` without `]`")?;
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return Err(format!("`{rest}` after the host"));
            }
            (host, port)
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address stands in brackets: [::1]".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("no host".to_owned());
    }
    if let Some(wrong) = host
        .chars()
        .find(|char| char.is_whitespace() || "/[]%".contains(*char))
    {
        return Err(format!("{wrong:?} in the host `{host}`"));
    }
    let port = match port {
        None => None,
        Some(text) => match text.parse() {
            Ok(port) if port != 0 && !text.starts_with('+') => Some(port),
            _ => return Err(format!("`{text}` is not a port")),
        },
    };
    Ok((host.to_owned(), port))
}

/// A stream to either kind of peer.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A monitor, and the session it belongs to where it is libvirtd's.
pub(crate) struct Connected {
    pub(crate) monitor: Box<dyn Monitor>,
    session: Option<Libvirt>,
}

impl Connected {
    /// Says goodbye, within the library's limit of 5 s.
    pub(crate) async fn close(&self) {
        // The answer does not matter any more.
        let _ = match &self.session {
            Some(session) => session.close().await,
            None => self.monitor.disconnect().await,
        };
    }
}

/// Connects to the monitor of `domain`, which has to be given for a libvirtd, and for nothing else.
pub(crate) async fn monitor(
    endpoint: &Endpoint,
    domain: Option<&str>,
    timeout: Option<Duration>,
) -> Result<Connected, Failure> {
    match (endpoint, domain) {
        (Endpoint::Libvirt(address, uri), Some(domain)) => {
            let session = libvirt(address, uri, timeout).await?;
            let connected = Connected {
                monitor: Box::new(session.monitor(domain)),
                session: Some(session),
            };
            if let Err(error) = connected.monitor.connect().await {
                let failure = Failure::from(error);
                if !failure.is_timeout() {
                    connected.close().await;
                }
                return Err(failure);
            }
            Ok(connected)
        }
        (Endpoint::Qmp(address), None) => {
            let stream = dial(address, timeout).await?;
            let monitor = SocketMonitor::with_config(stream, config(timeout));
            monitor.connect().await.map_err(Failure::connecting)?;
            Ok(Connected {
                monitor: Box::new(monitor),
                session: None,
            })
        }
        (Endpoint::Libvirt(..), None) => Err(Failure::usage("no domain given")),
        (Endpoint::Qmp(address), Some(domain)) => Err(Failure::usage(format!(
            "{address} is the socket of one QEMU, so there is no domain `{domain}` to choose"
        ))),
    }
}

/// Opens a session with the libvirtd at `address`.
pub(crate) async fn libvirt(
    address: &Address,
    uri: &str,
    timeout: Option<Duration>,
) -> Result<Libvirt, Failure> {
    let stream = dial(address, timeout).await?;
    Libvirt::open(stream, config(timeout).uri(uri))
        .await
        .map_err(Failure::connecting)
}

fn config(timeout: Option<Duration>) -> Config {
    match timeout {
        Some(_) => Config::new().connect_timeout(timeout).call_timeout(timeout),
        None => Config::new().connect_timeout(Some(CONNECT_TIMEOUT)),
    }
}

async fn dial(address: &Address, timeout: Option<Duration>) -> Result<Box<dyn Stream>, Failure> {
    let limit = timeout.unwrap_or(CONNECT_TIMEOUT);
    let stream = async {
        Ok(match address {
            Address::Unix(path) => Box::new(dial_unix(path).await?) as Box<dyn Stream>,
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // A small command must not wait for the acknowledgement of the one before it.
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    };
    let error = match tokio::time::timeout(limit, stream).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => Error::Connect {
            target: address.to_string(),
            source: Arc::new(error),
        },
        Err(_) => Error::Timeout {
            phase: Phase::Dial,
            after: limit,
            maybe_executed: false,
        },
    };
    Err(Failure::connecting(error))
}

/// A full backlog refuses at once on a unix socket; it is tried again for as long as the caller waits.
async fn dial_unix(path: &PathBuf) -> std::io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tokio::time::sleep(DIAL_AGAIN).await;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            root: false,
            runtime_dir: Some("/run/user/1000".into()),
            cache_dir: Some("/home/u/.cache".into()),
        }
    }

    fn unix(path: &str) -> Address {
        Address::Unix(path.into())
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn what_is_supported() {
        const SYSTEM: &str = "qemu:///system";
        const SESSION: &str = "qemu:///session";
        for (text, address, uri) in [
            (
                "qemu:///system",
                unix("/var/run/libvirt/libvirt-sock"),
                SYSTEM,
            ),
            (
                "qemu+unix:///system",
                unix("/var/run/libvirt/libvirt-sock"),
                SYSTEM,
            ),
            (
                "qemu:///session",
                unix("/run/user/1000/libvirt/libvirt-sock"),
                SESSION,
            ),
            ("qemu+unix:///system?socket=/run/s", unix("/run/s"), SYSTEM),
            (
                "qemu+UNIX:///session?Socket=/a%20b%2fc+d&",
                unix("/a b/c+d"),
                SESSION,
            ),
            ("qemu:///session?socket=/run/s", unix("/run/s"), SESSION),
            ("qemu+tcp://host/system", tcp("host", 16509), SYSTEM),
            (
                "qemu+tcp://192.168.1.1:1234/session",
                tcp("192.168.1.1", 1234),
                SESSION,
            ),
            ("qemu+tcp://[::1]/system", tcp("::1", 16509), SYSTEM),
            ("qemu+tcp://[fe80::1]:1/system", tcp("fe80::1", 1), SYSTEM),
        ] {
            let endpoint = Endpoint::parse(text, &user());
            assert_eq!(endpoint, Ok(Endpoint::Libvirt(address, uri)), "{text}");
        }
        for (text, address) in [
            ("unix:/run/vm.qmp", unix("/run/vm.qmp")),
            ("unix:vm?#.qmp", unix("vm?#.qmp")),
            ("tcp:localhost:4444", tcp("localhost", 4444)),
            ("tcp:[::1]:4444", tcp("::1", 4444)),
        ] {
            assert_eq!(
                Endpoint::parse(text, &user()),
                Ok(Endpoint::Qmp(address)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_is_named() {
        for (text, reason) in [
            ("", "neither a libvirt URI"),
            ("/var/run/libvirt/libvirt-sock", "neither a libvirt URI"),
            ("qemu://system", "a slash is missing: qemu:///system"),
            (
                "qemu+unix://session",
                "a slash is missing: qemu+unix:///session",
            ),
            ("qemu:///", "path `/` is neither"),
            ("qemu:///embed", "path `/embed` is neither"),
            ("qemu:///system/", "path `/system/` is neither"),
            ("xen:///system", "driver `xen`"),
            ("test:///default", "driver `test`"),
            ("qemu+tls://host/system", "transport `tls`"),
            ("qemu+ssh://me@host/system", "transport `ssh`"),
            ("qemu+libssh2://host/system", "transport `libssh2`"),
            ("qemu+ext:///system?command=x", "transport `ext`"),
            ("qemu+:///system", "transport ``"),
            (
                "qemu://host/system",
                "means TLS, which is not supported; qemu+tcp://host/system",
            ),
            (
                "qemu+unix://host/system",
                "takes no host, and here is `host`",
            ),
            ("qemu+tcp:///system", "no host"),
            ("qemu+tcp://me@host/system", "a user (`me@`)"),
            ("qemu+tcp://host:0/system", "`0` is not a port"),
            ("qemu+tcp://host:/system", "`` is not a port"),
            ("qemu+tcp://host:+1/system", "`+1` is not a port"),
            ("qemu+tcp://host:65536/system", "`65536` is not a port"),
            ("qemu+tcp://::1/system", "stands in brackets"),
            ("qemu+tcp://[::1/system", "`[` without `]`"),
            ("qemu+tcp://[::1]x/system", "`x` after the host"),
            ("qemu+tcp://[]:1/system", "no host"),
            ("qemu+tcp://ho st/system", "' ' in the host"),
            ("qemu+tcp://host/system?socket=/run/s", "parameter `socket`"),
            ("qemu:///system?mode=direct", "parameter `mode`"),
            (
                "qemu:///system?socket=/a&no_verify=1",
                "parameter `no_verify`",
            ),
            ("qemu:///system?readonly", "parameter `readonly`"),
            ("qemu:///system?socket=/a;socket=/b", "given twice"),
            ("qemu:///system?socket=", "no path"),
            ("qemu:///system?socket=@abstract", "abstract"),
            ("qemu:///system?socket=/a%2", "`%2` is not"),
            ("qemu:///system?socket=/a%+1", "`%+1` is not"),
            ("qemu:///system?socket=/a%é", "`%é` is not"),
            ("qemu:///system?socket=%ff", "is not UTF-8"),
            ("qemu:///system#x", "a fragment"),
            ("unix:", "no path"),
            ("unix:@x", "abstract"),
            ("tcp:localhost", "no port"),
            ("tcp:4444", "no port"),
            ("tcp::4444", "no host"),
            ("tcp://localhost:4444", "'/' in the host"),
        ] {
            let error = Endpoint::parse(text, &user()).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_sessions_socket_depends_on_the_user() {
        let path = |user: &User| match Endpoint::parse("qemu:///session", user) {
            Ok(Endpoint::Libvirt(Address::Unix(path), "qemu:///session")) => Ok(path),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        let mut user = user();
        user.runtime_dir = None;
        assert_eq!(
            path(&user),
            Ok("/home/u/.cache/libvirt/libvirt-sock".into())
        );
        user.cache_dir = None;
        assert!(path(&user).unwrap_err().contains("XDG_RUNTIME_DIR"));
        user.root = true;
        assert_eq!(path(&user), Ok(SYSTEM_SOCKET.into()));
    }

    #[test]
    fn addresses_read_as_they_are_written() {
        assert_eq!(tcp("::1", 5).to_string(), "[::1]:5");
        assert_eq!(tcp("host", 5).to_string(), "host:5");
        assert_eq!(unix("/a").to_string(), "/a");
    }
}
