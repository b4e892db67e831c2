//! A QMP server whose part the test speaks: it waits for the commands it names and says what it likes, byte by byte where
//! need be. Imports the crate's public API only.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use libvirt_qmp::{Config, Monitor, SocketMonitor};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long the peer waits for the client before it fails the test. On a paused clock that is no time at all; it is
/// longer than every default deadline of the client.
const PATIENCE: Duration = Duration::from_secs(600);

/// The pipe between client and peer, unless a test wants another.
const PIPE: usize = 64 * 1024;

/// What QEMU 7.2 says first.
pub(crate) const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18"}, "capabilities": ["oob"]}}"#;

/// The server's end of a connection.
pub(crate) struct QmpPeer {
    stream: Stream,
    /// What came and has not been taken.
    inbox: Vec<u8>,
    /// Descriptors that came with it, and how many bytes of all that ever came were before the read that brought each.
    files: Vec<(usize, OwnedFd)>,
    /// Bytes that ever came.
    came: usize,
}

enum Stream {
    Pipe(DuplexStream),
    Socket(UnixStream),
}

impl Stream {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Pipe(pipe) => pipe.write_all(bytes).await,
            Stream::Socket(socket) => socket.write_all(bytes).await,
        }
    }

    async fn read(&mut self, inbox: &mut Vec<u8>, files: &mut Vec<OwnedFd>) -> io::Result<usize> {
        match self {
            Stream::Pipe(pipe) => pipe.read_buf(inbox).await,
            Stream::Socket(socket) => {
                let receive = || receive(socket, inbox, files);
                socket.async_io(Interest::READABLE, receive).await
            }
        }
    }
}

/// Reads once, as QEMU does it: with room for descriptors.
fn receive(
    socket: &UnixStream,
    inbox: &mut Vec<u8>,
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut bytes)];
    let length = recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            files.extend(came);
        }
    }
    inbox.extend_from_slice(&bytes[..length]);
    Ok(length)
}

/// A command that has come.
#[derive(Debug)]
pub(crate) struct Received {
    /// The whole text.
    pub(crate) text: String,
    /// The whole object.
    pub(crate) command: Value,
}

impl Received {
    /// The command's name.
    pub(crate) fn name(&self) -> &str {
        let name = self.command.get("execute").or(self.command.get("exec-oob"));
        name.and_then(Value::as_str).expect("a name")
    }

    /// The id as JSON text.
    pub(crate) fn id(&self) -> String {
        self.command["id"].to_string()
    }
}

impl QmpPeer {
    /// A peer, and the client's end of its connection.
    pub(crate) fn new() -> (DuplexStream, QmpPeer) {
        QmpPeer::with_pipe(PIPE)
    }

    /// As [`QmpPeer::new`], where so many bytes fit between the two, in each direction.
    pub(crate) fn with_pipe(size: usize) -> (DuplexStream, QmpPeer) {
        let (client, stream) = tokio::io::duplex(size);
        (client, QmpPeer::over(Stream::Pipe(stream)))
    }

    /// As [`QmpPeer::new`], over a pair of unix sockets.
    pub(crate) fn on_socket() -> (UnixStream, QmpPeer) {
        let (client, stream) = UnixStream::pair().expect("a pair of sockets");
        (client, QmpPeer::from_socket(stream))
    }

    /// The peer at the other end of this socket.
    pub(crate) fn from_socket(stream: UnixStream) -> QmpPeer {
        QmpPeer::over(Stream::Socket(stream))
    }

    fn over(stream: Stream) -> QmpPeer {
        QmpPeer {
            stream,
            inbox: Vec::new(),
            files: Vec::new(),
            came: 0,
        }
    }

    /// The descriptors that came and were not taken, in their order.
    pub(crate) fn take_files(&mut self) -> Vec<OwnedFd> {
        self.files.drain(..).map(|(_, file)| file).collect()
    }

    /// How many bytes had come before each of the descriptors.
    pub(crate) fn files_came_after(&self) -> Vec<usize> {
        self.files.iter().map(|(before, _)| *before).collect()
    }

    /// Bytes that have come in all.
    pub(crate) fn bytes_came(&self) -> usize {
        self.came
    }

    /// A monitor that has done its handshake, and its peer.
    pub(crate) async fn connected(config: Config) -> (SocketMonitor, QmpPeer) {
        let (client, mut peer) = QmpPeer::new();
        let monitor = SocketMonitor::with_config(client, config);
        peer.connect(&monitor).await;
        (monitor, peer)
    }

    /// As [`QmpPeer::connected`], over a pair of unix sockets.
    pub(crate) async fn connected_on_socket(config: Config) -> (SocketMonitor, QmpPeer) {
        let (client, mut peer) = QmpPeer::on_socket();
        let monitor = SocketMonitor::with_config(client, config);
        peer.connect(&monitor).await;
        (monitor, peer)
    }

    /// Does the handshake with its monitor.
    pub(crate) async fn connect(&mut self, monitor: &SocketMonitor) {
        let (connected, ()) = tokio::join!(monitor.connect(), self.shake_hands());
        connected.expect("the peer says what QEMU says");
    }

    /// Greets and accepts the capabilities.
    pub(crate) async fn shake_hands(&mut self) {
        self.send(GREETING).await;
        let command = self.expect("qmp_capabilities").await;
        self.reply(&command, "{}").await;
    }

    /// Says this, and a line end after it.
    pub(crate) async fn send(&mut self, text: &str) {
        self.send_bytes(format!("{text}\r\n").as_bytes()).await;
    }

    /// Says just these bytes.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("the client is there");
    }

    /// Says just these bytes, to a client that may have gone.
    ///
    /// # Errors
    /// Where it has.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("the client reads")
    }

    /// The next command, which must be this one.
    pub(crate) async fn expect(&mut self, name: &str) -> Received {
        let received = self.receive().await;
        assert_eq!(received.name(), name);
        received
    }

    /// The next command.
    pub(crate) async fn receive(&mut self) -> Received {
        loop {
            if let Some(received) = self.take() {
                return received;
            }
            assert_ne!(self.read().await, 0, "the client is there");
        }
    }

    /// The command at the front of what came, if it is complete.
    fn take(&mut self) -> Option<Received> {
        let mut texts = serde_json::Deserializer::from_slice(&self.inbox).into_iter::<&RawValue>();
        let text = match texts.next()? {
            Ok(text) => text.get().to_owned(),
            Err(error) if error.is_eof() => return None,
            Err(error) => panic!(
                "the client sent {:?}: {error}",
                self.inbox.escape_ascii().to_string()
            ),
        };
        let end = texts.byte_offset();
        self.inbox.drain(..end);
        let command = serde_json::from_str(&text).expect("checked while it was read");
        Some(Received { text, command })
    }

    /// Reads once, whatever comes.
    pub(crate) async fn read_some(&mut self) {
        assert_ne!(self.read().await, 0, "the client is there");
    }

    /// Reads once.
    async fn read(&mut self) -> usize {
        timeout(PATIENCE, self.read_once())
            .await
            .expect("the client says something")
            .expect("the pipe works")
    }

    async fn read_once(&mut self) -> io::Result<usize> {
        let mut files = Vec::new();
        let length = self.stream.read(&mut self.inbox, &mut files).await?;
        let before = self.came;
        self.files
            .extend(files.into_iter().map(|file| (before, file)));
        self.came += length;
        Ok(length)
    }

    /// Answers with success.
    pub(crate) async fn reply(&mut self, command: &Received, value: &str) {
        let id = command.id();
        self.send(&format!(r#"{{"return": {value}, "id": {id}}}"#))
            .await;
    }

    /// Answers with an error.
    pub(crate) async fn refuse(&mut self, command: &Received, class: &str, desc: &str) {
        let id = command.id();
        self.send(&format!(
            r#"{{"id": {id}, "error": {{"class": "{class}", "desc": "{desc}"}}}}"#
        ))
        .await;
    }

    /// Tells of an event without data.
    pub(crate) async fn event(&mut self, name: &str) {
        self.send(&event(name)).await;
    }

    /// Reads to the end of what the client says, which must be nothing but the end.
    pub(crate) async fn expect_end(&mut self) {
        let read = self.read().await;
        let came = self.inbox.escape_ascii().to_string();
        assert!(read == 0 && self.inbox.is_empty(), "came: {came}");
    }

    /// Fails if the client says anything before nobody has anything left to do. For a paused clock.
    pub(crate) async fn expect_silence(&mut self) {
        let came = timeout(Duration::from_millis(1), self.read_once()).await;
        assert!(came.is_err() && self.inbox.is_empty(), "{came:?}");
    }
}

/// An event without data as QEMU sends it.
pub(crate) fn event(name: &str) -> String {
    format!(
        r#"{{"timestamp": {{"seconds": 1700000000, "microseconds": 250000}}, "event": "{name}"}}"#
    )
}
