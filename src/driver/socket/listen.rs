//! Server mode: QEMU connects to us. Imports connection, error, config, `address` and the monitor in `mod`.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::SocketMonitor;
use super::address::QmpAddress;
use super::session::silent;
use crate::config::Config;
use crate::connection::{deadline, sleep_until};
use crate::dial::over_tcp;
use crate::error::{Error, Phase};
use crate::reconnect::refuse;
use crate::transport::Transport;

/// How often binding is tried where the file in its way keeps changing.
const BIND_TRIES: u32 = 5;

/// A bound socket on which QEMU is expected: `-qmp unix:PATH` or `-qmp tcp:HOST:PORT`, without `server=on`.
///
/// Made by [`SocketMonitor::listen`]. The socket is bound before QEMU is launched, so QEMU always finds it. It may connect
/// many times: with `reconnect=1` (in QEMU 10.2 `reconnect-ms=1000`) it comes back whenever a monitor is dropped, and each
/// time [`accept`](QmpListener::accept) gives a new one.
///
/// Dropping the listener closes it, and removes the file of a unix socket, unless somebody else's is there by then. Monitors
/// that were accepted live on.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::path::Path;
/// use std::time::Duration;
/// use libvirt_qmp::{MonitorExt, SocketMonitor};
///
/// let listener = SocketMonitor::listen(Path::new("/run/vm-1.qmp")).await?;
/// let qemu = tokio::process::Command::new("qemu-system-x86_64")
///     .args(["-qmp", &listener.local_addr().to_string()])
///     .spawn()?;
/// let monitor = listener.accept(Duration::from_secs(10)).await?;
/// println!("QEMU {} runs as {:?}", monitor.version().await?, qemu.id());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct QmpListener {
    socket: Listening,
    address: QmpAddress,
    config: Config,
}

#[derive(Debug)]
enum Listening {
    // The file goes before the socket is closed, so that nobody finds it without a listener.
    Unix {
        _file: SocketFile,
        socket: UnixListener,
    },
    Tcp(TcpListener),
}

impl QmpListener {
    pub(super) async fn bind(address: QmpAddress, config: Config) -> Result<Self, Error> {
        refuse(
            &config,
            "a listener, to which QEMU connects again by itself,",
        )?;
        let target = address.target();
        let bound = match address {
            QmpAddress::Unix(path) => bind_unix(&path).await,
            QmpAddress::Tcp { host, port } => bind_tcp(&host, port).await,
            QmpAddress::Pipe(_) => {
                let what = "listening on a named pipe: QEMU opens it from its own side";
                return Err(Error::Unsupported(what.to_owned()));
            }
        };
        let (socket, address) = bound.map_err(|error| failed(target, error))?;
        Ok(QmpListener {
            socket,
            address,
            config,
        })
    }

    /// Where it listens, as QEMU's command line takes it; the port that the system chose, where it was to choose one.
    pub fn local_addr(&self) -> &QmpAddress {
        &self.address
    }

    /// Waits for QEMU to connect. The handshake follows on first use of the monitor, within [`Config::connect_timeout`].
    ///
    /// `timeout` is how long to wait; `None` is for ever.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] in [`Phase::Accept`] where nobody came; [`Error::Listen`] where the system refuses. Both leave the
    /// listener as it was.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no connection: the next call gets it.
    pub async fn accept(
        &self,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<SocketMonitor, Error> {
        let deadline = deadline(timeout.into());
        let stream = tokio::select! {
            // What has come is taken, however late it is asked for.
            biased;
            accepted = self.next() => accepted.map_err(|error| failed(self.address.target(), error))?,
            () = sleep_until(deadline) => return Err(silent(Phase::Accept, deadline)),
        };
        Ok(SocketMonitor::over(stream, self.config.clone(), None))
    }

    async fn next(&self) -> io::Result<Transport> {
        loop {
            let accepted = match &self.socket {
                Listening::Unix { socket, .. } => {
                    socket.accept().await.map(|(it, _)| Transport::new(it))
                }
                Listening::Tcp(socket) => socket.accept().await.map(|(it, _)| over_tcp(it)),
            };
            match accepted {
                // It left before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                accepted => return accepted,
            }
        }
    }
}

fn failed(target: String, error: io::Error) -> Error {
    Error::Listen {
        target,
        source: Arc::new(error),
    }
}

async fn bind_tcp(host: &str, port: u16) -> io::Result<(Listening, QmpAddress)> {
    let socket = TcpListener::bind((host, port)).await?;
    let address = socket.local_addr()?.into();
    Ok((Listening::Tcp(socket), address))
}

/// Binds a unix socket. A file that somebody listens on is never replaced, nor one that is no socket; a socket that nobody
/// listens on any more is.
async fn bind_unix(path: &Path) -> io::Result<(Listening, QmpAddress)> {
    let address = QmpAddress::Unix(path.to_owned());
    // The file is removed in the end, wherever the program's directory is by then.
    let path = std::path::absolute(path)?;
    let mut tries = 0;
    loop {
        match UnixListener::bind(&path) {
            Ok(socket) => {
                let _file = SocketFile::at(path)?;
                return Ok((Listening::Unix { _file, socket }, address));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => {
                tries += 1;
                remove_stale(&path).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes the socket at `path`, where nobody listens on it.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let refuse = |kind, reason: &str| Err(io::Error::new(kind, reason));
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        let reason = "a file is there that is no socket";
        return refuse(io::ErrorKind::AlreadyExists, reason);
    }
    let found = Identity::of(&metadata);
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A full backlog is somebody's too.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
        Ok(_) | Err(_) => {
            return refuse(io::ErrorKind::AddrInUse, "somebody else listens there");
        }
    }
    SocketFile {
        path: path.to_owned(),
        identity: found,
    }
    .remove()
}

/// Which file a path led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// The file of a socket, removed when it goes.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

impl SocketFile {
    fn at(path: PathBuf) -> io::Result<Self> {
        let identity = Identity::of(&fs::symlink_metadata(&path)?);
        Ok(SocketFile { path, identity })
    }

    /// Removes the file, unless it is another one by now.
    fn remove(&self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(now) if Identity::of(&now) == self.identity => fs::remove_file(&self.path),
            _ => Ok(()),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // What cannot be removed stays, and is no obstacle: nobody listens on it.
        let _ = self.remove();
    }
}
