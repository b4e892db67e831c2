//! The program as a child process, and peers for it: recordings that are played once.

use std::path::Path;
use std::process::{Output, Stdio};

use libvirt_qmp::protocol::qemu;
use libvirt_qmp::replay::{Fixture, Replay, ReplayError};
use libvirt_qmp::testing::{FakeLibvirtd, FakeQemu};
use libvirt_qmp::{Config, LibvirtRpc, Monitor};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::support::process::PATIENCE;
use crate::support::scratch::Scratch;

/// The domain of the recordings.
pub(crate) const GUEST: &str = "stage-lb-1";

/// The program, outside of this machine's settings, to be killed with the test.
pub(crate) fn qmp(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qmp"));
    command
        .args(arguments)
        .env_remove("LIBVIRT_DEFAULT_URI")
        .env_remove("QMP_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Starts the program, and gives it with the lines of its standard output.
pub(crate) fn watch(arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = qmp(arguments).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    (child, BufReader::new(stdout).lines())
}

pub(crate) async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    within(lines.next_line()).await.unwrap().expect("a line")
}

/// What has to come soon, on a machine that has much else to do too.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    let came = tokio::time::timeout(PATIENCE, work).await;
    came.expect("it should have come by now")
}

/// Ctrl-C.
pub(crate) async fn interrupt(child: &Child) {
    send(child, "INT").await;
}

/// Sends a signal.
pub(crate) async fn send(child: &Child, signal: &str) {
    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid])
        .status();
    assert!(sent.await.unwrap().success());
}

/// Runs the program with this on its standard input.
pub(crate) async fn with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = qmp(arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that has ended does not read any more.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    within(child.wait_with_output()).await.unwrap()
}

/// A stand-in QEMU on a unix socket.
pub(crate) struct Stub {
    pub(crate) qemu: FakeQemu,
    pub(crate) scratch: Scratch,
}

impl Stub {
    pub(crate) fn start() -> Self {
        let (qemu, scratch) = (FakeQemu::new(), Scratch::new());
        qemu.listen_unix(scratch.path("qmp")).unwrap();
        Stub { qemu, scratch }
    }

    /// One that knows the recorded schema of a real QEMU.
    pub(crate) async fn with_schema() -> Self {
        let stub = Stub::start();
        let (conn, _) = Replay::new(load("query-qmp-schema")).connect();
        let config = Config::new().uri("qemu:///session");
        let recorded = LibvirtRpc::with_config(GUEST, conn, config);
        let reply = recorded.run(br#"{"execute":"query-qmp-schema"}"#).await;
        let mut reply: Value = serde_json::from_slice(&reply.unwrap()).unwrap();
        stub.qemu.on("query-qmp-schema", reply["return"].take());
        stub
    }

    pub(crate) fn uri(&self) -> String {
        format!("unix:{}", self.scratch.path("qmp").display())
    }

    /// Runs the program on it.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = qmp(&["-C", &self.uri()]);
        within(command.args(arguments).output()).await.unwrap()
    }

    /// Runs the program on it with this on its standard input.
    pub(crate) async fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let uri = self.uri();
        let arguments: Vec<&str> = ["-C", &uri].iter().chain(arguments).copied().collect();
        with_input(&arguments, input).await
    }

    /// The arguments of the last of these commands that came.
    pub(crate) fn arguments_of(&self, command: &str) -> Value {
        let commands = self.qemu.commands();
        let mut of_it = commands.iter().rev();
        let found = of_it.find(|sent| sent["execute"] == command);
        found.map_or(Value::Null, |sent| sent["arguments"].clone())
    }
}

/// A stand-in libvirtd on a unix socket, with these domains.
pub(crate) struct StubDaemon {
    pub(crate) daemon: FakeLibvirtd,
    scratch: Scratch,
}

impl StubDaemon {
    pub(crate) fn start(domains: &[(&str, &FakeQemu)]) -> Self {
        let (daemon, scratch) = (FakeLibvirtd::new(), Scratch::new());
        for (name, qemu) in domains {
            daemon.domain(*name, *qemu);
        }
        daemon.listen_unix(scratch.path("sock")).unwrap();
        StubDaemon { daemon, scratch }
    }

    pub(crate) fn uri(&self) -> String {
        format!(
            "qemu+unix:///system?socket={}",
            self.scratch.path("sock").display()
        )
    }

    /// The names of the calls that came, in order.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        let calls = self.daemon.calls();
        calls.iter().filter_map(|call| call.name()).collect()
    }
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn libvirt_uri(path: &Path) -> String {
    format!("qemu+unix:///session?socket={}", path.display())
}

pub(crate) fn load(name: &str) -> Fixture {
    let path = format!("{}/fixtures/{name}.fixture", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// The recorded events without the commands that caused them.
pub(crate) fn events_only() -> Fixture {
    const MONITOR_COMMAND: (u32, i32) = (qemu::PROGRAM, 1);
    let mut fixture = load("events");
    fixture
        .packets
        .retain(|(_, packet)| (packet.header.program, packet.header.procedure) != MONITOR_COMMAND);
    fixture
}

/// A recording that is played once on a unix socket.
pub(crate) struct Served {
    scratch: Scratch,
    pub(crate) play: JoinHandle<Result<(), ReplayError>>,
}

impl Served {
    pub(crate) fn start(fixture: Fixture) -> Self {
        let scratch = Scratch::new();
        let listener = UnixListener::bind(scratch.path("sock")).unwrap();
        let play = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            Replay::new(fixture).serve(stream).await
        });
        Served { scratch, play }
    }

    pub(crate) fn uri(&self) -> String {
        libvirt_uri(&self.scratch.path("sock"))
    }

    /// Whether the program made the recorded calls and no others.
    pub(crate) async fn finish(self) -> Result<(), ReplayError> {
        self.play.await.unwrap()
    }
}

/// Runs the program against a recording, all of which it must play.
pub(crate) async fn play(fixture: Fixture, arguments: &[&str]) -> Output {
    let served = Served::start(fixture);
    let mut command = qmp(&["-C", &served.uri()]);
    let output = within(command.args(arguments).output()).await.unwrap();
    if let Err(error) = served.finish().await {
        eprintln!("{}{error}", stderr(&output));
        unreachable!("the recording was not played to its end");
    }
    output
}
