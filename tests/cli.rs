//! The `qmp` program as its user meets it: output, messages and exit codes. The daemon is a replayed recording on a unix
//! socket, a socket that says nothing, or, in the live tests, a private libvirtd.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that cannot do its work fails the test that called it"
)]

mod support;

use std::io::pipe;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use libvirt_qmp::protocol::qemu;
use libvirt_qmp::replay::{Fixture, Replay, ReplayError};
use serde_json::{Value, json};
use support::lab::Lab;
use support::process::that_name;
use support::qemu::Qemu;
use support::scratch::Scratch;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The domain of the recordings.
const GUEST: &str = "stage-lb-1";

#[tokio::test]
async fn the_demo_needs_nothing_and_shows_the_main_job() {
    let output = qmp(&["demo"])
        .env_clear()
        .current_dir("/")
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let text = stdout(&output);
    let mut lines = text.lines();
    for start in [
        "status: running",
        "QEMU ",
        "EVENT: STOP",
        "EVENT: RESUME",
        "EVENT: RESET {",
        "disconnected",
    ] {
        assert!(
            lines.any(|line| line.starts_with(start)),
            "{start:?} in this place of:\n{text}"
        );
    }
    assert!(
        lines.any(|line| line.ends_with("-- --connect qemu:///system run stage-lb-1 query-status")),
        "{text}"
    );
}

#[tokio::test]
async fn usage_errors_are_named_and_end_with_2() {
    let some = "unix:/nowhere";
    for (arguments, reason) in [
        (&[][..], "Usage: qmp"),
        (&["fly"], "'fly'"),
        (&["run"], "no domain given"),
        (
            &["run", GUEST, "stop", "now"],
            "argument `now`: expected KEY=VALUE",
        ),
        (&["events", "--count", "0", GUEST], "--count"),
        (&["--timeout", "0", "list"], "--timeout"),
        (
            &["-C", "qemu+udp://host/system", "list"],
            "URI refused: transport `udp`",
        ),
        (
            &["-C", "qemu:///system?pkipath=/x", "list"],
            "parameter `pkipath`",
        ),
        (&["-C", some, "list"], "no domains to list"),
        (
            &["-C", some, "events", GUEST],
            "no domain `stage-lb-1` to choose",
        ),
        (&["-C", some, "run", GUEST, "stop"], "argument `stop`"),
    ] {
        let output = qmp(arguments).output().await.unwrap();
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(reason),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    let output = qmp(&["list"])
        .env("LIBVIRT_DEFAULT_URI", "xen")
        .output()
        .await
        .unwrap();
    assert_eq!(
        stderr(&output),
        "qmp: URI refused: `xen` is not a libvirt URI: there is no `://` in it\n"
    );
}

#[tokio::test]
async fn a_command_that_is_no_qmp_is_refused_unsent() {
    // Everything of the recording up to the lookup is asked for, the command is not.
    let mut fixture = load("query-status");
    fixture
        .packets
        .retain(|(_, packet)| packet.header.program != qemu::PROGRAM);
    for (command, reason) in [
        ("{}", "command refused: command has no member `execute`"),
        (
            r#"{"execute":"#,
            "command refused: command is not a JSON object",
        ),
        (r#"{"exec-oob":"yank"}"#, "not supported: exec-oob"),
    ] {
        let output = play(fixture.clone(), &["run", GUEST, command]).await;
        assert_eq!(code(&output), 2, "{command}");
        assert!(
            stderr(&output).contains(reason),
            "{command}: {}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn without_a_connection_it_ends_with_3_and_names_the_socket() {
    let scratch = Scratch::new();
    let path = scratch.path("dead");
    drop(UnixListener::bind(&path).unwrap());
    for uri in [libvirt_uri(&path), format!("unix:{}", path.display())] {
        let output = qmp(&["-C", &uri, "events"])
            .args(uri.starts_with("qemu").then_some(GUEST))
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 3);
        assert_eq!(
            stderr(&output),
            format!(
                "qmp: cannot connect to {}: Connection refused (os error 111)\n",
                path.display()
            )
        );
    }
}

#[tokio::test]
async fn a_peer_that_closes_at_once_is_a_connection_error() {
    let scratch = Scratch::new();
    let path = scratch.path("sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let output = qmp(&["-C", &libvirt_uri(&path), "list"])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 3);
    assert!(
        stderr(&output).starts_with("qmp: connection ended: "),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn a_silent_peer_ends_with_4_and_says_what_was_waited_for() {
    let scratch = Scratch::new();
    let path = scratch.path("silent");
    let _listener = UnixListener::bind(&path).unwrap();
    let (libvirt, bare) = (libvirt_uri(&path), format!("unix:{}", path.display()));
    for (uri, phase) in [(libvirt, "authenticating"), (bare, "QEMU's greeting")] {
        let output = qmp(&["-C", &uri, "--timeout", "1", "run", "query-status"])
            .args(uri.starts_with("qemu").then_some("query-status"))
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 4, "{}", stderr(&output));
        assert!(stderr(&output).contains("within 1s"), "{}", stderr(&output));
        assert!(stderr(&output).contains(phase), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn run_prints_what_the_command_returns() {
    let fixture = load("query-status");
    let status = r#"{"status":"running","singlestep":false,"running":true}"#;
    for command in ["query-status", r#"{"execute":"query-status"}"#] {
        let output = play(fixture.clone(), &["run", GUEST, command]).await;
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(stdout(&output), format!("{status}\n"));
        assert_eq!(stderr(&output), "");
    }
    let output = play(fixture, &["run", "--pretty", GUEST, "query-status"]).await;
    assert_eq!(
        stdout(&output),
        "{\n  \"status\": \"running\",\n  \"singlestep\": false,\n  \"running\": true\n}\n"
    );
}

#[tokio::test]
async fn errors_of_qemu_and_of_libvirt_end_with_1() {
    let output = play(load("qmp-error"), &["run", GUEST, "no-such-command"]).await;
    assert_eq!((code(&output), stdout(&output)), (1, String::new()));
    assert_eq!(
        stderr(&output),
        "qmp: no-such-command: CommandNotFound: The command no-such-command has not been found\n"
    );
    let output = play(load("unknown-domain"), &["run", "no-such-domain", "stop"]).await;
    assert_eq!((code(&output), stdout(&output)), (1, String::new()));
    assert_eq!(
        stderr(&output),
        "qmp: libvirt: Domain not found: no domain with matching name 'no-such-domain' \
         (code 42, domain 10, REMOTE_PROC_DOMAIN_LOOKUP_BY_NAME)\n"
    );
}

#[tokio::test]
async fn list_shows_what_is_active_and_what_is_not() {
    let output = play(load("session"), &["list"]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "NAME        UUID                                  ID  STATE\n\
         stage-lb-1  5ea6e1b1-0001-4000-8000-737461676531  1   active\n\
         stage-db-1  5ea6e1b1-0002-4000-8000-737461676531  -   inactive\n"
    );
    let output = play(load("session"), &["list", "--json"]).await;
    let domains: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(
        domains,
        [
            json!({"name": GUEST, "uuid": "5ea6e1b1-0001-4000-8000-737461676531", "id": 1, "state": "active"}),
            json!({"name": "stage-db-1", "uuid": "5ea6e1b1-0002-4000-8000-737461676531", "id": null, "state": "inactive"}),
        ]
    );
}

#[tokio::test]
async fn events_are_printed_one_a_line() {
    let output = play(events_only(), &["events", "--count", "3", GUEST]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    let happened: Vec<_> = lines.iter().map(|(_, what)| *what).collect();
    assert_eq!(
        happened,
        [
            "STOP",
            "RESUME",
            r#"RESET {"guest":false,"reason":"host-qmp-system-reset"}"#
        ]
    );
    for (time, _) in lines {
        let (seconds, microseconds) = time.split_once('.').unwrap();
        assert!(
            seconds.parse::<u64>().is_ok() && microseconds.len() == 6,
            "{time}"
        );
    }

    let output = play(events_only(), &["events", "--json", "--count", "3", GUEST]).await;
    let events: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(events.len(), 3);
    for (event, name) in events.iter().zip(["STOP", "RESUME", "RESET"]) {
        assert_eq!(event["event"], name);
        assert_eq!(
            event["domain"],
            json!({"name": GUEST, "uuid": "5ea6e1b1-0001-4000-8000-737461676531", "id": 1})
        );
        assert!(
            event["timestamp"]["seconds"].is_u64() && event["timestamp"]["microseconds"].is_u64()
        );
    }
    assert_eq!(events[2]["data"]["reason"], "host-qmp-system-reset");
    assert_eq!(events[0].get("data"), None);
}

#[tokio::test]
async fn an_interrupt_ends_events_in_order() {
    let served = Served::start(events_only());
    let (mut child, mut lines) = watch(&["-C", &served.uri(), "events", GUEST]);
    assert!(line(&mut lines).await.ends_with(" STOP"));
    interrupt(&child).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    // It has deregistered and said goodbye, as the recording wants it.
    served.finish().await.unwrap();
}

#[tokio::test]
async fn a_connection_lost_ends_events_with_3() {
    let served = Served::start(events_only());
    let (child, mut lines) = watch(&["-C", &served.uri(), "events", GUEST]);
    for _ in 0..3 {
        line(&mut lines).await;
    }
    served.play.abort();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(code(&output), 3);
    assert_eq!(
        stderr(&output),
        "qmp: connection ended: closed by the peer\n"
    );
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_error() {
    for (fixture, arguments) in [
        (None, &["demo"][..]),
        (None, &["--help"]),
        (Some(load("query-status")), &["run", GUEST, "query-status"]),
        (Some(load("session")), &["list"]),
        (Some(events_only()), &["events", GUEST]),
    ] {
        let served = fixture.map(Served::start);
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut command = qmp(&[]);
        if let Some(served) = &served {
            command.args(["-C", &served.uri()]);
        }
        let output = command
            .args(arguments)
            .stdout(writer)
            .spawn()
            .unwrap()
            .wait_with_output();
        let output = output.await.unwrap();
        assert_eq!(
            (code(&output), stderr(&output)),
            (0, String::new()),
            "{arguments:?}"
        );
        if let Some(served) = served {
            served.finish().await.unwrap();
        }
    }
}

#[tokio::test]
async fn on_qemus_own_socket_no_domain_is_named() {
    let scratch = Scratch::new();
    let path = scratch.path("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(be_qemu(stream, 1, Arc::default()));
        }
    });
    let uri = format!("unix:{}", path.display());
    let output = qmp(&["-C", &uri, "run", "echo", "a.b=1", "a.c=x"])
        .output()
        .await
        .unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(stdout(&output), "{\"a\":{\"b\":1,\"c\":\"x\"}}\n");
    let output = qmp(&["-C", &uri, "events", "--count", "1"])
        .output()
        .await
        .unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(stdout(&output), "5.000007 STOP\n");
}

#[tokio::test]
async fn an_interrupt_ends_events_that_nobody_reads() {
    let scratch = Scratch::new();
    let path = scratch.path("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let sent = Arc::new(Notify::new());
    let all = sent.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        // As JSON, what waits in the event stream alone is more than a pipe holds.
        be_qemu(stream, 100_000, all).await
    });
    let uri = format!("unix:{}", path.display());
    let (mut child, mut lines) = watch(&["-C", &uri, "events", "--json"]);
    line(&mut lines).await;
    sent.notified().await;
    interrupt(&child).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
}

/// A QEMU whose commands return their arguments, and that stops so many times after the first and then tells.
async fn be_qemu(stream: UnixStream, stops: usize, sent: Arc<Notify>) -> std::io::Result<()> {
    const GREETING: &[u8] =
        br#"{"QMP":{"version":{"qemu":{"major":9,"minor":0,"micro":0},"package":""},"capabilities":[]}}"#;
    const STOP: &str = "{\"event\":\"STOP\",\"timestamp\":{\"seconds\":5,\"microseconds\":7}}\r\n";
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(GREETING).await?;
    let mut read = Vec::new();
    let mut events = STOP.repeat(stops);
    while reader.read_buf(&mut read).await? > 0 {
        // Commands end where their JSON ends.
        let Ok(command) = serde_json::from_slice::<Value>(&read) else {
            continue;
        };
        read.clear();
        let returned = command.get("arguments").cloned().unwrap_or(json!({}));
        let reply = json!({"return": returned, "id": command["id"]});
        writer.write_all(format!("{reply}\r\n").as_bytes()).await?;
        writer.write_all(events.as_bytes()).await?;
        events.clear();
        sent.notify_one();
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_list_and_run() {
    let lab = Lab::start();
    let guest = lab.guest(GUEST);
    let tcp = format!("qemu+tcp://{}/session", lab.tcp_addr());
    for uri in [lab.client_uri(), tcp] {
        let output = qmp(&["-C", &uri, "list", "--json"]).output().await.unwrap();
        let listed: Value = stdout(&output).parse().unwrap();
        assert_eq!(listed["name"], GUEST);
        assert_eq!(listed["uuid"], guest.uuid.to_string());
        assert_eq!(listed["state"], "active");
        for domain in [GUEST, &guest.uuid.to_string()] {
            let output = qmp(&["-C", &uri, "run", domain, "query-status"])
                .output()
                .await
                .unwrap();
            assert_eq!(code(&output), 0, "{}", stderr(&output));
            let status: Value = stdout(&output).parse().unwrap();
            assert_eq!(status["status"], "running");
        }
    }
    let uri = lab.client_uri();
    let arguments = ["qom-get", "path=/machine", "property=type"];
    let output = qmp(&["-C", &uri, "run", GUEST])
        .args(arguments)
        .output()
        .await
        .unwrap();
    assert!(
        stdout(&output).starts_with("\"pc"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );

    lab.pause_qemu(GUEST);
    let output = qmp(&["-C", &uri, "--timeout", "1", "run", GUEST, "stop"])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 4);
    assert!(
        stderr(&output).ends_with("qmp: the command may have been executed\n"),
        "{}",
        stderr(&output)
    );
    lab.resume_qemu(GUEST);

    lab.destroy(GUEST);
    let output = qmp(&["-C", &uri, "run", GUEST, "query-status"])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("not running"),
        "{}",
        stderr(&output)
    );
    let output = qmp(&["-C", &uri, "list"]).output().await.unwrap();
    assert!(
        stdout(&output).trim_end().ends_with("-   inactive"),
        "{}",
        stdout(&output)
    );
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_events_end_by_interrupt_and_by_a_lost_daemon() {
    let lab = Lab::start();
    lab.guest(GUEST);
    let uri = lab.client_uri();
    let (mut interrupted, mut lines) = watch(&["-C", &uri, "events", GUEST]);
    let (bereft, mut its_lines) = watch(&["-C", &uri, "events", "--json", GUEST]);
    let watching = tokio::spawn(async move {
        // The guest's firmware resets it now and then of its own.
        let text = loop {
            let text = line(&mut lines).await;
            if !text.contains(" RESET ") {
                break text;
            }
        };
        (text, line(&mut its_lines).await, lines, its_lines)
    });
    // An event before the registration is not seen, so there are events until both have seen one.
    let mut commands = ["stop", "cont"].into_iter().cycle();
    while !watching.is_finished() {
        let command = commands.next().unwrap();
        let output = qmp(&["-C", &uri, "run", GUEST, command])
            .output()
            .await
            .unwrap();
        assert_eq!(stdout(&output), "{}\n", "{}", stderr(&output));
    }
    let (text, json, _lines, _its_lines) = watching.await.unwrap();
    assert!(
        text.ends_with(" STOP") || text.ends_with(" RESUME"),
        "{text}"
    );
    let event: Value = json.parse().unwrap();
    assert_eq!(event["domain"]["name"], GUEST);
    interrupt(&interrupted).await;
    assert_eq!(interrupted.wait().await.unwrap().code(), Some(130));
    lab.kill_daemon();
    let output = bereft.wait_with_output().await.unwrap();
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(
        stderr(&output).starts_with("qmp: connection ended: "),
        "{}",
        stderr(&output)
    );
    let left: Vec<_> = that_name(lab.dir())
        .into_iter()
        .filter(|process| process.contains(env!("CARGO_BIN_EXE_qmp")))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_on_qemus_own_sockets() {
    let qemu = Qemu::start(&[]);
    let pretty = format!("unix:{}", qemu.pretty_path().display());
    for uri in [
        format!("unix:{}", qemu.unix_path().display()),
        format!("tcp:{}", qemu.tcp_addr()),
        pretty,
    ] {
        let output = qmp(&["-C", &uri, "run", "query-status"])
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 0, "{uri}: {}", stderr(&output));
        let status: Value = stdout(&output).parse().unwrap();
        assert!(status["running"].is_boolean(), "{status}");
        assert_eq!(stdout(&output).lines().count(), 1);
    }
}

/// The program, outside of this machine's settings, to be killed with the test.
fn qmp(arguments: &[&str]) -> Command {
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
fn watch(arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = qmp(arguments).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    (child, BufReader::new(stdout).lines())
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    lines.next_line().await.unwrap().expect("a line")
}

/// Ctrl-C.
async fn interrupt(child: &Child) {
    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("sh")
        .args(["-c", "kill -s INT \"$0\"", &pid])
        .status();
    assert!(sent.await.unwrap().success());
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn libvirt_uri(path: &Path) -> String {
    format!("qemu+unix:///session?socket={}", path.display())
}

fn load(name: &str) -> Fixture {
    let path = format!("{}/fixtures/{name}.fixture", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// The recorded events without the commands that caused them.
fn events_only() -> Fixture {
    const MONITOR_COMMAND: (u32, i32) = (qemu::PROGRAM, 1);
    let mut fixture = load("events");
    fixture
        .packets
        .retain(|(_, packet)| (packet.header.program, packet.header.procedure) != MONITOR_COMMAND);
    fixture
}

/// A recording that is played once on a unix socket.
struct Served {
    scratch: Scratch,
    play: JoinHandle<Result<(), ReplayError>>,
}

impl Served {
    fn start(fixture: Fixture) -> Self {
        let scratch = Scratch::new();
        let listener = UnixListener::bind(scratch.path("sock")).unwrap();
        let play = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            Replay::new(fixture).serve(stream).await
        });
        Served { scratch, play }
    }

    fn uri(&self) -> String {
        libvirt_uri(&self.scratch.path("sock"))
    }

    /// Whether the program made the recorded calls and no others.
    async fn finish(self) -> Result<(), ReplayError> {
        self.play.await.unwrap()
    }
}

/// Runs the program against a recording, all of which it must play.
async fn play(fixture: Fixture, arguments: &[&str]) -> Output {
    let served = Served::start(fixture);
    let output = qmp(&["-C", &served.uri()])
        .args(arguments)
        .output()
        .await
        .unwrap();
    if let Err(error) = served.finish().await {
        eprintln!("{}{error}", stderr(&output));
        unreachable!("the recording was not played to its end");
    }
    output
}
