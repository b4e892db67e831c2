//! How a stand-in is reached: a pipe in the process, a unix socket, a TCP port; and the tasks that serve, which end with
//! their owner. Imports nothing of ours.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, Interest, ReadHalf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Bytes that fit into a pipe in the process, in each direction.
const PIPE: usize = 64 * 1024;

/// Bytes of one read.
const READ: usize = 16 * 1024;

/// Descriptors that one read can bring; the kernel closes what is over.
const MOST_FILES: usize = 32;

/// How long a listener rests that the system gives no connection, because the process has too many files open for one.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// A connection from a client.
#[derive(Debug)]
pub(super) enum Conn {
    Memory(DuplexStream),
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// The half that reads.
pub(super) enum Reader {
    Memory(ReadHalf<DuplexStream>),
    Unix(unix::OwnedReadHalf),
    Tcp(tcp::OwnedReadHalf),
}

/// The half that writes.
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// What is queued for a connection.
#[derive(Debug)]
pub(super) enum Out {
    Bytes(Bytes),
    /// Closes the connection behind what was queued before.
    Close,
}

/// Writes what is queued, until the queue says that it is over or the client does not take it.
pub(super) async fn write(mut writer: Writer, mut queued: mpsc::UnboundedReceiver<Out>) {
    while let Some(Out::Bytes(bytes)) = queued.recv().await {
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

impl Conn {
    /// A pipe: the client's end, and the one to serve.
    pub(super) fn pipe() -> (DuplexStream, Conn) {
        let (client, server) = tokio::io::duplex(PIPE);
        (client, Conn::Memory(server))
    }

    pub(super) fn split(self) -> (Reader, Writer) {
        match self {
            Conn::Memory(stream) => {
                let (read, write) = tokio::io::split(stream);
                (Reader::Memory(read), Box::new(write))
            }
            Conn::Unix(stream) => {
                let (read, write) = stream.into_split();
                (Reader::Unix(read), Box::new(write))
            }
            Conn::Tcp(stream) => {
                let _ = stream.set_nodelay(true);
                let (read, write) = stream.into_split();
                (Reader::Tcp(read), Box::new(write))
            }
        }
    }
}

impl Reader {
    /// Reads once, and takes the descriptors that came with the bytes. 0 is the end.
    pub(super) async fn read(
        &mut self,
        buffer: &mut BytesMut,
        files: &mut Vec<OwnedFd>,
    ) -> io::Result<usize> {
        match self {
            Reader::Memory(read) => read.read_buf(buffer).await,
            Reader::Tcp(read) => read.read_buf(buffer).await,
            Reader::Unix(read) => {
                let stream: &UnixStream = read.as_ref();
                stream
                    .async_io(Interest::READABLE, || receive(stream, buffer, files))
                    .await
            }
        }
    }
}

fn receive(
    stream: &UnixStream,
    buffer: &mut BytesMut,
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    const FLAGS: RecvFlags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    const FLAGS: RecvFlags = RecvFlags::empty();

    let mut bytes = [0; READ];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(stream, &mut into, &mut control, FLAGS)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    buffer.extend_from_slice(&bytes[..received.bytes]);
    Ok(received.bytes)
}

/// A socket that clients connect to.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    pub(super) fn unix(path: &Path) -> io::Result<(Listener, SocketFile)> {
        let listener = UnixListener::bind(path)?;
        Ok((Listener::Unix(listener), SocketFile(path.to_owned())))
    }

    /// On a free port of the loopback address.
    pub(super) fn tcp() -> io::Result<(Listener, SocketAddr)> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        Ok((Listener::Tcp(TcpListener::from_std(listener)?), addr))
    }

    async fn accept(&self) -> io::Result<Conn> {
        Ok(match self {
            Listener::Unix(listener) => Conn::Unix(listener.accept().await?.0),
            Listener::Tcp(listener) => Conn::Tcp(listener.accept().await?.0),
        })
    }

    /// Serves every client in a task of its own until `end`, and those that are there then until they leave. The tasks end
    /// with the future.
    pub(super) async fn serve<F>(self, serve: impl Fn(Conn) -> F, end: impl Future<Output = ()>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut clients = JoinSet::new();
        let mut end = pin!(end);
        loop {
            tokio::select! {
                conn = self.accept() => match conn {
                    Ok(conn) => drop(clients.spawn(serve(conn))),
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                },
                Some(_) = clients.join_next() => {}
                () = &mut end => break,
            }
        }
        drop(self);
        while clients.join_next().await.is_some() {}
    }
}

/// The file of a unix socket, removed with it.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Tasks and socket files that end with their owner.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<(JoinSet<()>, Vec<SocketFile>)>);

impl Tasks {
    /// Must be called inside a tokio runtime.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (tasks, _) = &mut *self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    pub(super) fn keep(&self, file: SocketFile) {
        self.lock().1.push(file);
    }

    fn lock(&self) -> MutexGuard<'_, (JoinSet<()>, Vec<SocketFile>)> {
        // Outside a runtime `spawn` panics before it changes anything.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
