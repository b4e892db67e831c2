//! A guest agent as a plain process of this machine, on a unix socket, and one in memory whose part the test speaks. Imports
//! `process` and `scratch`, and the crate's public API.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use libvirt_qmp::{Config, GuestAgent};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::process::{PATIENCE, Process, find_program, poll_until, signal};
use super::scratch::Scratch;

/// The program.
pub(crate) const PROGRAM: &str = "qemu-ga";

/// How long the peer in memory waits for the client before it fails the test. On a paused clock that is no time at all; it is
/// longer than every default deadline of the client.
const PEER_PATIENCE: Duration = Duration::from_secs(600);

/// A running `qemu-ga`, which serves one client after the other. It ends where a client leaves without having read all that
/// was said to it. It acts on this machine: a test must ask it for nothing that
/// changes it, and never for a shutdown. Dropping it kills and reaps the process.
pub(crate) struct Agent {
    // Before `scratch`: fields drop in this order, and the child is to be reaped by its parent.
    process: Process,
    scratch: Scratch,
}

impl Agent {
    /// Starts the agent and waits until it listens.
    ///
    /// # Panics
    /// When the program is missing or ends, with what it wrote to standard error.
    pub(crate) fn start() -> Agent {
        let Some(program) = find_program(PROGRAM) else {
            panic!("the live tests need {PROGRAM}: run tests/run");
        };
        let scratch = Scratch::new();
        let process = Process::new(
            Command::new(program)
                .args(["-m", "unix-listen", "-p"])
                .arg(scratch.path("agent"))
                .arg("-t")
                .arg(scratch.dir())
                .arg("-f")
                .arg(scratch.path("pid"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(scratch.path("stderr")).expect("a file for standard error")),
        );
        let listens = poll_until(PATIENCE, || {
            if process.has_ended() {
                return Some(false);
            }
            UnixStream::connect(scratch.path("agent"))
                .is_ok()
                .then_some(true)
        });
        assert_eq!(listens, Some(true), "{}", scratch.text("stderr"));
        Agent { process, scratch }
    }

    /// Its socket.
    pub(crate) fn unix_path(&self) -> PathBuf {
        self.scratch.path("agent")
    }

    /// The scratch directory: free for a test's own files, and gone with the agent.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// Stops the process (SIGSTOP): its socket accepts, and nothing answers.
    pub(crate) fn pause(&self) {
        signal(self.process.pid(), "STOP");
    }

    /// Lets the process go on (SIGCONT).
    pub(crate) fn resume(&self) {
        signal(self.process.pid(), "CONT");
    }

    /// Kills the process (SIGKILL) and reaps it.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }
}

/// The agent's end of a connection in memory.
pub(crate) struct AgentPeer {
    stream: DuplexStream,
    /// What came and has not been taken.
    inbox: Vec<u8>,
}

impl AgentPeer {
    /// A client with these settings, and its peer.
    pub(crate) fn with_config(config: Config) -> (GuestAgent, AgentPeer) {
        let (client, stream) = tokio::io::duplex(64 * 1024);
        let inbox = Vec::new();
        let agent = GuestAgent::with_config(client, config);
        (agent, AgentPeer { stream, inbox })
    }

    /// The number of the synchronization that comes next, 0xFF and all.
    pub(crate) async fn sync(&mut self) -> i64 {
        while self.inbox.is_empty() {
            assert_ne!(self.read().await, 0, "the client is there");
        }
        assert_eq!(self.inbox.remove(0), 0xFF);
        self.question().await
    }

    /// The number of the synchronization that comes next, without a 0xFF before it.
    pub(crate) async fn question(&mut self) -> i64 {
        let command = self.command().await;
        assert_eq!(command["execute"], "guest-sync-delimited");
        command["arguments"]["id"].as_i64().expect("a number")
    }

    /// Answers a synchronization as an agent does that has met the 0xFF before it.
    pub(crate) async fn synced(&mut self, id: i64) {
        let error = r#"{"error": {"class": "GenericError", "desc": "JSON parse error, stray"}}"#;
        self.send(format!("{error}\n").as_bytes()).await;
        self.answer_sync(id).await;
    }

    /// Answers a synchronization.
    pub(crate) async fn answer_sync(&mut self, id: i64) {
        let answer = format!("{{\"return\": {id}}}\n");
        self.send(&[b"\xff", answer.as_bytes()].concat()).await;
    }

    /// The next command, in a line.
    pub(crate) async fn command(&mut self) -> Value {
        loop {
            if let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.inbox.drain(..=end).collect();
                return serde_json::from_slice(&line).expect("the client sends JSON");
            }
            assert_ne!(self.read().await, 0, "the client is there");
        }
    }

    /// Says just these bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(PEER_PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("the client reads")
            .expect("the client is there");
    }

    /// Says these bytes over and over, until the client has gone.
    pub(crate) async fn send_for_ever(&mut self, bytes: &[u8]) {
        while self.stream.write_all(bytes).await.is_ok() {}
    }

    /// Waits for the client to close, and fails if it says anything before.
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

    async fn read(&mut self) -> usize {
        timeout(PEER_PATIENCE, self.stream.read_buf(&mut self.inbox))
            .await
            .expect("the client says something")
            .expect("the pipe works")
    }
}
