//! Connecting: unix and TCP sockets, named pipes, and descriptors that were inherited. Imports transport, connection, error
//! and `address`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream};

use super::address::QmpAddress;
use crate::connection::{deadline, sleep_until};
use crate::error::Error;
use crate::transport::Transport;

/// How long to wait before what cannot be connected now is tried again.
const DIAL_AGAIN: Duration = Duration::from_millis(20);

/// Connects to `address` within `timeout`.
pub(super) async fn connect(
    address: &QmpAddress,
    timeout: Option<Duration>,
) -> Result<Transport, Error> {
    let target = address.target();
    match address {
        QmpAddress::Unix(path) => unix(path, timeout).await,
        QmpAddress::Tcp { host, port } => tcp(target, (host.as_str(), *port), timeout).await,
        QmpAddress::Pipe(path) => pipes(path, timeout).await,
    }
}

/// Connects to a unix socket. One whose backlog is full refuses at once, and is tried again.
pub(in crate::driver) async fn unix(
    path: &Path,
    timeout: Option<Duration>,
) -> Result<Transport, Error> {
    let busy = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    let connect = || UnixStream::connect(path);
    let target = path.display().to_string();
    let stream = dial(target, timeout, busy, connect).await?;
    Ok(Transport::new(stream))
}

pub(in crate::driver) async fn tcp(
    target: String,
    addr: impl ToSocketAddrs,
    timeout: Option<Duration>,
) -> Result<Transport, Error> {
    let connect = || TcpStream::connect(&addr);
    let stream = dial(target, timeout, |_| false, connect).await?;
    Ok(over_tcp(stream))
}

pub(super) fn over_tcp(stream: TcpStream) -> Transport {
    // A small command must not wait for the acknowledgement of the one before it.
    let _ = stream.set_nodelay(true);
    Transport::new(stream)
}

/// Opens the pipes `PATH.in`, which QEMU reads, and `PATH.out`, which it writes. The one to write to cannot be opened before
/// QEMU has it open, and is tried until then.
pub(super) async fn pipes(path: &Path, timeout: Option<Duration>) -> Result<Transport, Error> {
    // ENXIO has no kind of its own in std.
    let nobody_reads = |error: &io::Error| {
        rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::NXIO)
    };
    let open = || async {
        // Where QEMU has the first one open, it has the other open soon; one that nobody has open yet has not ended.
        let write = pipe::OpenOptions::new().open_sender(with_suffix(path, ".in"))?;
        let read = pipe::OpenOptions::new().open_receiver(with_suffix(path, ".out"))?;
        Ok((read, write))
    };
    let target = path.display().to_string();
    let (read, write) = dial(target, timeout, nobody_reads, open).await?;
    Ok(Transport::new(tokio::io::join(read, write)))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Takes over a descriptor that is a connected stream socket.
pub(super) fn from_fd(fd: OwnedFd) -> Result<Transport, Error> {
    let target = format!("file descriptor {}", fd.as_raw_fd());
    socket(fd).map_err(|error| Error::Connect {
        target,
        source: Arc::new(error),
    })
}

fn socket(fd: OwnedFd) -> io::Result<Transport> {
    let not_this = |reason| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    if sockopt::socket_type(&fd)? != SocketType::STREAM {
        return not_this("it is a socket, but no stream");
    }
    if sockopt::socket_acceptconn(&fd)? {
        return not_this("it is a socket that listens");
    }
    match sockopt::socket_domain(&fd)? {
        AddressFamily::UNIX => {
            let stream = std::os::unix::net::UnixStream::from(fd);
            // Fails where it is not connected.
            stream.peer_addr()?;
            stream.set_nonblocking(true)?;
            Ok(Transport::new(UnixStream::from_std(stream)?))
        }
        AddressFamily::INET | AddressFamily::INET6 => {
            let stream = std::net::TcpStream::from(fd);
            stream.peer_addr()?;
            stream.set_nonblocking(true)?;
            Ok(over_tcp(TcpStream::from_std(stream)?))
        }
        _ => not_this("it is a socket, but neither a unix nor a TCP one"),
    }
}

/// Connects within `timeout`; what fails by an error that is `passing` is tried again until then.
async fn dial<T, F>(
    target: String,
    timeout: Option<Duration>,
    passing: impl Fn(&io::Error) -> bool,
    connect: impl Fn() -> F,
) -> Result<T, Error>
where
    F: Future<Output = io::Result<T>>,
{
    let deadline = deadline(timeout);
    let attempts = async {
        loop {
            match connect().await {
                Err(error) if passing(&error) => tokio::time::sleep(DIAL_AGAIN).await,
                result => return result,
            }
        }
    };
    let result = tokio::select! {
        result = attempts => result,
        () = sleep_until(deadline) => {
            let after = timeout.unwrap_or_default();
            let text = format!("no connection within {after:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    };
    result.map_err(|error| Error::Connect {
        target,
        source: Arc::new(error),
    })
}
