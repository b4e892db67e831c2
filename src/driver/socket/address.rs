//! Where a QMP server is, in QEMU's own notation. Imports nothing of ours.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a QMP server is, or is expected: what stands after `-qmp` on QEMU's command line, without its options.
///
/// Written as QEMU writes it, `unix:PATH`, `tcp:HOST:PORT` (an IPv6 address in brackets) or `pipe:PATH`; a comma in a path is
/// doubled, for a single one begins QEMU's options. A path or a socket address converts into one.
///
/// ```
/// use std::path::Path;
/// use libvirt_qmp::QmpAddress;
///
/// let address: QmpAddress = "tcp:[::1]:4444".parse()?;
/// assert_eq!(address, QmpAddress::tcp("::1", 4444));
/// assert_eq!(QmpAddress::from(Path::new("/run/vm-1.qmp")).to_string(), "unix:/run/vm-1.qmp");
/// # Ok::<(), libvirt_qmp::QmpAddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QmpAddress {
    /// A unix socket: `unix:PATH`.
    Unix(PathBuf),
    /// A TCP socket: `tcp:HOST:PORT`.
    Tcp {
        /// A name or an address; one of IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// Two named pipes, `PATH.in` and `PATH.out`: `pipe:PATH`.
    Pipe(PathBuf),
}

/// Why a text is no address of a QMP server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address of a QMP server: {reason}")]
#[non_exhaustive]
pub struct QmpAddressError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl QmpAddress {
    /// The TCP socket at `port` of `host`.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        QmpAddress::Tcp {
            host: host.into(),
            port,
        }
    }

    /// As errors name it.
    pub(super) fn target(&self) -> String {
        match self {
            QmpAddress::Unix(path) | QmpAddress::Pipe(path) => path.display().to_string(),
            QmpAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            QmpAddress::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

impl From<&Path> for QmpAddress {
    fn from(path: &Path) -> Self {
        QmpAddress::Unix(path.to_owned())
    }
}

impl From<PathBuf> for QmpAddress {
    fn from(path: PathBuf) -> Self {
        QmpAddress::Unix(path)
    }
}

impl From<&PathBuf> for QmpAddress {
    fn from(path: &PathBuf) -> Self {
        QmpAddress::Unix(path.clone())
    }
}

impl From<SocketAddr> for QmpAddress {
    fn from(addr: SocketAddr) -> Self {
        QmpAddress::tcp(addr.ip().to_string(), addr.port())
    }
}

impl FromStr for QmpAddress {
    type Err = QmpAddressError;

    fn from_str(text: &str) -> Result<Self, QmpAddressError> {
        let error = |reason| QmpAddressError {
            text: text.to_owned(),
            reason,
        };
        let parsed = match text.split_once(':') {
            Some(("unix", path)) => parse_path(path).map(QmpAddress::Unix),
            Some(("pipe", path)) => parse_path(path).map(QmpAddress::Pipe),
            Some(("tcp", rest)) => parse_tcp(rest),
            _ => Err("it begins with neither `unix:` nor `tcp:` nor `pipe:`"),
        };
        parsed.map_err(error)
    }
}

const OPTIONS: &str = "a comma begins options, which are for QEMU; one in a path is doubled";

fn parse_path(text: &str) -> Result<PathBuf, &'static str> {
    if text.replace(",,", "").contains(',') {
        return Err(OPTIONS);
    }
    match text {
        "" => Err("the path is empty"),
        path => Ok(path.replace(",,", ",").into()),
    }
}

fn parse_tcp(text: &str) -> Result<QmpAddress, &'static str> {
    if text.contains(',') {
        return Err(OPTIONS);
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest
            .split_once("]:")
            .ok_or("a `[` wants a `]:` and a port after it")?,
        None => text.rsplit_once(':').ok_or("there is no port")?,
    };
    if host.contains(':') && !text.starts_with('[') {
        return Err("an IPv6 address stands in brackets");
    }
    if host.is_empty() {
        return Err("there is no host");
    }
    match port.parse() {
        // `parse` would take a plus sign.
        Ok(port) if text.ends_with(|last: char| last.is_ascii_digit()) && !text.contains('+') => {
            Ok(QmpAddress::tcp(host, port))
        }
        _ => Err("the port is no number below 65536"),
    }
}

impl fmt::Display for QmpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doubled = |path: &Path| path.display().to_string().replace(',', ",,");
        match self {
            QmpAddress::Unix(path) => write!(f, "unix:{}", doubled(path)),
            QmpAddress::Pipe(path) => write!(f, "pipe:{}", doubled(path)),
            QmpAddress::Tcp { .. } => write!(f, "tcp:{}", self.target()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_qemus_notation_and_back() {
        for (text, address) in [
            ("unix:/run/a.qmp", QmpAddress::Unix("/run/a.qmp".into())),
            ("unix:b:c", QmpAddress::Unix("b:c".into())),
            ("unix:/a,,b", QmpAddress::Unix("/a,b".into())),
            ("pipe:/run/q", QmpAddress::Pipe("/run/q".into())),
            ("tcp:localhost:4444", QmpAddress::tcp("localhost", 4444)),
            ("tcp:127.0.0.1:0", QmpAddress::tcp("127.0.0.1", 0)),
            ("tcp:[::1]:65535", QmpAddress::tcp("::1", 65535)),
        ] {
            assert_eq!(text.parse().as_ref(), Ok(&address));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_told() {
        for (text, reason) in [
            ("/run/a.qmp", "begins with"),
            ("", "begins with"),
            ("stdio", "begins with"),
            ("unix:", "empty"),
            ("unix:/run/a,server=on", "comma"),
            ("tcp:localhost:4444,server=on", "comma"),
            ("tcp:localhost", "no port"),
            ("tcp::4444", "no host"),
            ("tcp:[]:4444", "no host"),
            ("tcp:::1:4444", "brackets"),
            ("tcp:[::1]", "wants"),
            ("tcp:a:65536", "number"),
            ("tcp:a:+1", "number"),
            ("tcp:a:", "number"),
            ("tcp:a:qmp", "number"),
        ] {
            let error = text.parse::<QmpAddress>().unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
            assert_eq!(error.text, text);
        }
    }

    #[test]
    fn socket_addresses_and_paths_convert() {
        let addr: SocketAddr = "[fe80::1]:7".parse().unwrap();
        assert_eq!(QmpAddress::from(addr).to_string(), "tcp:[fe80::1]:7");
        let path = Path::new("x");
        assert_eq!(QmpAddress::from(path), QmpAddress::from(path.to_path_buf()));
    }
}
