//! Connecting to a QMP server: what `dial` does, named pipes, and descriptors that were inherited. Imports dial, transport,
//! connection, error and `address`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream};

use super::address::QmpAddress;
use crate::connection::Deadline;
use crate::dial::{failed, over_tcp, resolved, retried, tcp, unix, within};
use crate::error::Error;
use crate::transport::Transport;

/// A way to QEMU that can be gone more than once.
pub(super) enum Way {
    Address(QmpAddress),
    /// What a name meant once, and how errors call it.
    Addresses(String, Vec<SocketAddr>),
    /// What the user knows.
    Function(Connect),
}

/// A function of the user's that connects.
pub(super) type Connect = Box<dyn Fn() -> Connecting + Send + Sync>;

pub(super) type Connecting = Pin<Box<dyn Future<Output = io::Result<Transport>> + Send>>;

impl Way {
    /// What `addr` means now, found by `deadline`.
    pub(super) async fn resolved(
        target: String,
        addr: impl ToSocketAddrs,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let addresses = resolved(&target, addr, deadline).await?;
        Ok(Way::Addresses(target, addresses))
    }

    /// Connects by `deadline`.
    pub(super) async fn connect(&self, deadline: Deadline) -> Result<Transport, Error> {
        match self {
            Way::Address(QmpAddress::Unix(path)) => unix(path, deadline).await,
            Way::Address(address @ QmpAddress::Tcp { host, port }) => {
                tcp(address.target(), (host.as_str(), *port), deadline).await
            }
            Way::Address(QmpAddress::Pipe(path)) => pipes(path, deadline).await,
            Way::Addresses(target, addresses) => {
                tcp(target.clone(), addresses.as_slice(), deadline).await
            }
            Way::Function(connect) => within(deadline, connect())
                .await
                .map_err(|error| failed("QEMU by a function".to_owned(), error)),
        }
    }
}

/// Opens the pipes `PATH.in`, which QEMU reads, and `PATH.out`, which it writes. The one to write to cannot be opened before
/// QEMU has it open, and is tried until then.
pub(super) async fn pipes(path: &Path, deadline: Deadline) -> Result<Transport, Error> {
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
    let (read, write) = retried(target, deadline, nobody_reads, open).await?;
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
    socket(fd).map_err(|error| failed(target, error))
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
