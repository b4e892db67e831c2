//! A QMP server whose part the test speaks: it waits for the commands it names and says what it likes, byte by byte where
//! need be. Imports the crate's public API only.

use std::time::Duration;

use libvirt_qmp::{Config, Monitor, SocketMonitor};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
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
    stream: DuplexStream,
    /// What came and has not been taken.
    inbox: Vec<u8>,
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
        self.command["execute"].as_str().expect("a name")
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
        let inbox = Vec::new();
        (client, QmpPeer { stream, inbox })
    }

    /// A monitor that has done its handshake, and its peer.
    pub(crate) async fn connected(config: Config) -> (SocketMonitor, QmpPeer) {
        let (client, mut peer) = QmpPeer::new();
        let monitor = SocketMonitor::with_config(client, config);
        let (connected, ()) = tokio::join!(monitor.connect(), peer.shake_hands());
        connected.expect("the peer says what QEMU says");
        (monitor, peer)
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

    /// Reads once.
    async fn read(&mut self) -> usize {
        timeout(PATIENCE, self.stream.read_buf(&mut self.inbox))
            .await
            .expect("the client says something")
            .expect("the pipe works")
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
        let came = timeout(
            Duration::from_millis(1),
            self.stream.read_buf(&mut self.inbox),
        )
        .await;
        assert!(came.is_err() && self.inbox.is_empty(), "{came:?}");
    }
}

/// An event without data as QEMU sends it.
pub(crate) fn event(name: &str) -> String {
    format!(
        r#"{{"timestamp": {{"seconds": 1700000000, "microseconds": 250000}}, "event": "{name}"}}"#
    )
}
