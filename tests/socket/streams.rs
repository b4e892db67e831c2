//! The ways to QEMU that are no socket of its own: a child's standard input and output, named pipes, inherited descriptors.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use libvirt_qmp::{Config, EndCause, Error, Monitor, MonitorExt, Phase, QmpAddress, SocketMonitor};
use tokio::net::{UnixStream, unix::pipe};
use tokio::process::{Child, Command};

use crate::support::process::{PATIENCE, poll_until};
use crate::support::qmp_peer::{GREETING, QmpPeer};
use crate::support::scratch::Scratch;
use crate::{STATUS, cause};

/// A child that runs this script of the shell.
fn child(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Waits until no process has this id: it has ended, and was reaped.
fn expect_gone(pid: u32) {
    let proc = std::path::PathBuf::from(format!("/proc/{pid}"));
    let gone = poll_until(PATIENCE, || (!proc.exists()).then_some(()));
    assert!(gone.is_some(), "{pid} is still there");
}

/// As [`expect_gone`], while the runtime goes on: the connection may have to end yet.
async fn expect_gone_soon(pid: u32) {
    tokio::task::spawn_blocking(move || expect_gone(pid))
        .await
        .unwrap();
}

/// Greets, and answers the first commands with what `sed` makes of their ids.
fn talks() -> String {
    // Commands come without line ends, so each is read up to its last brace.
    format!(
        r#"echo '{GREETING}'
        while :; do
            command=; depth=0
            while IFS= read -r -n 1 c; do
                command="$command$c"
                case $c in "{{") depth=$((depth + 1));; "}}") depth=$((depth - 1));; esac
                [ $depth = 0 ] && break
            done
            [ -z "$command" ] && exit
            id=${{command#*\"id\":\"}}; id=${{id%%\"*}}
            echo "{{\"return\": {{}}, \"id\": \"$id\"}}"
            case $command in *quit*) exec >&-; sleep 0.2; echo ended > "$1"; exit;; esac
        done"#
    )
}

/// A child that speaks QMP, and writes `ended` to a file where it ends by `quit`.
fn talking_child(scratch: &Scratch) -> Child {
    Command::new("bash")
        .args(["-c", &talks(), "child"])
        .arg(scratch.path("ended"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_child_is_spoken_to_and_ends_with_its_monitor() {
    let scratch = Scratch::new();
    for disconnects in [true, false] {
        let child = talking_child(&scratch);
        let pid = child.id().unwrap();
        let monitor = SocketMonitor::stdio(child).unwrap();
        assert_eq!(monitor.greeting().await.unwrap().version.major, 7);
        monitor.run(STATUS.as_bytes()).await.unwrap();
        let events = monitor.events().await.unwrap();
        if disconnects {
            monitor.disconnect().await.unwrap();
        } else {
            // A stream keeps the connection, and so the child.
            drop(monitor);
            assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
            drop(events);
        }
        expect_gone_soon(pid).await;
    }
    assert!(!scratch.path("ended").exists());
}

/// It has time to end in order after it has closed its output.
#[tokio::test]
async fn a_child_that_ends_by_itself_is_not_killed() {
    let scratch = Scratch::new();
    let child = talking_child(&scratch);
    let pid = child.id().unwrap();
    let monitor = SocketMonitor::stdio(child).unwrap();
    let mut events = monitor.events().await.unwrap();
    monitor.run(br#"{"execute":"quit"}"#).await.unwrap();
    let end = futures_util::StreamExt::next(&mut events).await;
    assert!(matches!(end, Some(Err(Error::Disconnected { .. }))));
    drop((monitor, events));
    expect_gone_soon(pid).await;
    assert_eq!(scratch.text("ended"), "ended\n");
}

/// Whether it was ever used, whether it reads, and whether there is a runtime left.
#[test]
fn a_child_is_left_behind_in_no_case() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (unused, deaf, orphan) = runtime().block_on(async {
        let unused = child("exec sleep 1000");
        let pids = (unused.id().unwrap(), child("exit").id());
        drop(SocketMonitor::stdio(unused).unwrap());

        let deaf = child("trap '' TERM HUP INT PIPE; exec sleep 1000");
        let deaf_pid = deaf.id().unwrap();
        let config = Config::new().connect_timeout(Some(Duration::from_millis(50)));
        let monitor = SocketMonitor::stdio_with_config(deaf, config).unwrap();
        let error = monitor.connect().await.unwrap_err();
        assert!(matches!(
            error,
            Error::Timeout {
                phase: Phase::Greeting,
                ..
            }
        ));

        let orphan = child("exec sleep 1000");
        let orphan_pid = orphan.id().unwrap();
        let monitor = SocketMonitor::stdio(orphan).unwrap();
        // Being connected by a task of the runtime that goes now.
        let _ = tokio::time::timeout(Duration::from_millis(1), monitor.connect()).await;
        std::mem::forget(monitor);
        (pids.0, deaf_pid, orphan_pid)
    });
    for pid in [unused, deaf, orphan] {
        expect_gone(pid);
    }
}

/// And the program that does not exist, or ends at once, is an end like another.
#[tokio::test]
async fn a_child_that_says_nothing_and_ends() {
    let monitor = SocketMonitor::stdio(child("exit 1")).unwrap();
    let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    assert!(matches!(
        cause(&error),
        EndCause::PeerClosed | EndCause::Io(_)
    ));
    assert!(!error.maybe_executed());
}

#[tokio::test]
async fn a_child_without_pipes_is_refused_and_ended() {
    let child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id().unwrap();
    match SocketMonitor::stdio(child).unwrap_err() {
        Error::Connect { target, source } => {
            assert_eq!(target, format!("child process {pid}"));
            assert!(source.to_string().contains("not both piped"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    expect_gone_soon(pid).await;
}

/// The ends of the pipes that QEMU has: `-chardev pipe` opens both for reading and writing.
fn open_pipes(base: &std::path::Path) -> (pipe::Receiver, pipe::Sender) {
    let mut options = pipe::OpenOptions::new();
    let options = options.read_write(true);
    let path = |end: &str| format!("{}.{end}", base.display());
    (
        options.open_receiver(path("in")).unwrap(),
        options.open_sender(path("out")).unwrap(),
    )
}

fn make_pipes(scratch: &Scratch) -> std::path::PathBuf {
    for name in ["qmp.in", "qmp.out"] {
        let made = std::process::Command::new("mkfifo")
            .arg(scratch.path(name))
            .status();
        assert!(made.unwrap().success());
    }
    scratch.path("qmp")
}

#[tokio::test(start_paused = true)]
async fn named_pipes_wait_for_qemu_until_the_deadline() {
    let scratch = Scratch::new();
    let base = make_pipes(&scratch);
    let address = QmpAddress::Pipe(base.clone());
    let started = tokio::time::Instant::now();
    let error = SocketMonitor::dial(address.clone(), Config::new())
        .await
        .unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert!(error.to_string().contains("qmp"), "{error}");
    assert_eq!(started.elapsed(), Duration::from_secs(15));

    let late = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        open_pipes(&base)
    };
    let (dialled, (mut input, output)) =
        tokio::join!(SocketMonitor::dial(address, Config::new()), late);
    let monitor = dialled.unwrap();
    let answering = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut output = output;
        // Nothing is the end before QEMU has said its first word.
        tokio::time::sleep(Duration::from_secs(1)).await;
        output.write_all(GREETING.as_bytes()).await.unwrap();
        let mut command = [0; 4096];
        let length = input.read(&mut command).await.unwrap();
        let command: serde_json::Value = serde_json::from_slice(&command[..length]).unwrap();
        let reply = format!(r#"{{"return": {{}}, "id": {}}}"#, command["id"]);
        output.write_all(reply.as_bytes()).await.unwrap();
    };
    let (connected, ()) = tokio::join!(monitor.connect(), answering);
    connected.unwrap();
    // The writing end has gone with `answering`.
    let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    assert!(error.is_disconnected(), "{error:?}");
}

#[tokio::test]
async fn what_is_no_pair_of_pipes_is_told() {
    let scratch = Scratch::new();
    let address = QmpAddress::Pipe(scratch.path("none"));
    match SocketMonitor::dial(address, Config::new())
        .await
        .unwrap_err()
    {
        Error::Connect { target, source } => {
            assert_eq!(target, scratch.path("none").display().to_string());
            assert_eq!(source.kind(), ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
    std::fs::write(scratch.path("file.in"), "").unwrap();
    std::fs::write(scratch.path("file.out"), "").unwrap();
    let address = QmpAddress::Pipe(scratch.path("file"));
    let error = SocketMonitor::dial(address, Config::new())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(!error.is_timeout());
}

#[tokio::test]
async fn a_socket_given_as_a_descriptor() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let monitor = SocketMonitor::from_fd(OwnedFd::from(ours)).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut peer = QmpPeer::from_socket(UnixStream::from_std(theirs).unwrap());
    peer.connect(&monitor).await;
    // It is a unix socket like another, and passes descriptors.
    let (file, _writer) = std::io::pipe().unwrap();
    let command = libvirt_qmp::Command::new("getfd").file(file);
    let answer = async {
        let command = peer.expect("getfd").await;
        peer.reply(&command, "{}").await;
        peer.take_files().len()
    };
    let (reply, files) = tokio::join!(monitor.execute::<serde_json::Value>(command), answer);
    reply.unwrap();
    assert_eq!(files, 1);

    // TCP too.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let monitor = SocketMonitor::from_fd(connected.into()).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut accepted, b"HTTP").unwrap();
    let error = monitor.connect().await.unwrap_err();
    assert!(matches!(cause(&error), EndCause::Protocol(_)));
}

#[tokio::test]
async fn descriptors_that_are_no_connected_stream_are_refused() {
    let (pipe, _writer) = std::io::pipe().unwrap();
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for (fd, told) in [
        (OwnedFd::from(pipe), "socket"),
        (file.into(), "socket"),
        (listening.into(), "it is a socket that listens"),
        (datagrams.into(), "it is a socket, but no stream"),
    ] {
        match SocketMonitor::from_fd(fd).unwrap_err() {
            Error::Connect { target, source } => {
                assert!(target.starts_with("file descriptor "), "{target}");
                assert!(source.to_string().contains(told), "{source}");
            }
            other => panic!("{other:?}"),
        }
    }
}
