//! The laboratory's own tests: what the live tests rely on is what is checked here. See tests/README.md.
#![allow(
    clippy::expect_used,
    reason = "a helper that cannot do its work fails the test that called it"
)]

mod support;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::lab::{Lab, available, uuid_of};
use support::process::{PATIENCE, poll_until, that_name, with_free_port};
use support::qemu::Qemu;
use support::scratch::Scratch;

#[test]
fn a_scratch_directory_takes_the_processes_that_name_it_along() {
    let scratch = Scratch::new();
    let dir = scratch.dir().to_owned();
    // The neighbour's name begins with this one's.
    let neighbour = PathBuf::from(format!("{}0", dir.display()));
    let mut named = tail(&dir.join("file"));
    let mut other = tail(&neighbour.join("file"));
    // A process has no command line yet in the moment that it begins.
    let begun = poll_until(PATIENCE, || {
        (that_name(&dir.join("file")).len() == 1).then_some(())
    });
    assert_eq!(begun, Some(()));
    drop(scratch);
    assert!(!dir.exists());
    assert_eq!(named.wait().expect("a child").signal(), Some(9));
    assert_eq!(other.try_wait().expect("a child"), None);
    other.kill().expect("a child");
    other.wait().expect("a child");
}

#[test]
fn a_uuid_is_fixed_by_the_name() {
    assert_eq!(uuid_of("one"), uuid_of("one"));
    assert_ne!(uuid_of("one"), uuid_of("two"));
    assert_eq!(uuid_of("one").get_version_num(), 4);
}

#[test]
fn a_port_that_was_taken_in_the_meantime_is_tried_again_elsewhere() {
    let tried = RefCell::new(Vec::new());
    let started = with_free_port("it", |addr| {
        let first = tried.borrow().is_empty();
        tried.borrow_mut().push(addr);
        if first {
            Err("bind: Address already in use".to_owned())
        } else {
            Ok(addr)
        }
    });
    assert_eq!(tried.borrow().len(), 2);
    assert_eq!(tried.borrow().last(), Some(&started));
}

#[test]
#[should_panic(expected = "it did not start: no such file")]
fn what_fails_for_another_reason_is_not_tried_again() {
    with_free_port("it", |_| Err::<(), _>("no such file".to_owned()));
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_daemon_listens_on_both_sockets_and_runs_a_guest() {
    assert_eq!(available(), Ok(()));
    let lab = Lab::start();
    UnixStream::connect(lab.unix_path()).expect("the unix socket accepts");
    TcpStream::connect(lab.tcp_addr()).expect("the TCP socket accepts");
    assert_eq!(lab.virsh(&["uri"]), lab.client_uri());
    let guest = lab.guest("one");
    assert_eq!(lab.virsh(&["domstate", "one"]), "running");
    assert_eq!(lab.virsh(&["domuuid", "one"]), guest.uuid.to_string());
    lab.destroy("one");
    assert_eq!(lab.virsh(&["domstate", "one"]), "shut off");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn two_labs_side_by_side_do_not_see_each_other() {
    let (first, second) = (Lab::start(), Lab::start());
    first.guest("one");
    second.guest("two");
    assert_eq!(first.virsh(&["list", "--all", "--name"]).trim(), "one");
    assert_eq!(second.virsh(&["list", "--all", "--name"]).trim(), "two");
    let dir = first.dir().to_owned();
    drop(first);
    assert_nothing_left(&dir);
    assert_eq!(second.virsh(&["domstate", "two"]), "running");
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_guest_outlives_its_daemon_and_the_next_one_finds_it() {
    let lab = Lab::start();
    lab.guest("one");
    let (daemon, qemu) = (lab.daemon_pid(), lab.qemu_pid("one"));
    lab.kill_daemon();
    UnixStream::connect(lab.unix_path()).expect_err("nobody listens");
    TcpStream::connect(lab.tcp_addr()).expect_err("nobody listens");
    lab.restart_daemon();
    assert_ne!(lab.daemon_pid(), daemon);
    assert_eq!(lab.virsh(&["domstate", "one"]), "running");
    assert_eq!(lab.qemu_pid("one"), qemu);
    TcpStream::connect(lab.tcp_addr()).expect("the TCP socket accepts again");
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn dropping_a_lab_leaves_nothing_behind_whatever_state_it_is_in() {
    let killed = Lab::start();
    killed.guest("one");
    killed.kill_daemon();
    let paused = Lab::start();
    paused.guest("one");
    paused.pause_qemu("one");
    paused.pause_daemon();
    for lab in [killed, paused] {
        let dir = lab.dir().to_owned();
        assert!(!that_name(&dir).is_empty());
        drop(lab);
        assert_nothing_left(&dir);
    }
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_paused_guest_answers_again_when_it_goes_on() {
    let lab = Lab::start();
    lab.guest("one");
    let ask = || {
        Command::new("timeout")
            .args([
                "1",
                "virsh",
                "-q",
                "-c",
                &lab.client_uri(),
                "qemu-monitor-command",
                "one",
            ])
            .arg(r#"{"execute":"query-status"}"#)
            .stderr(Stdio::null())
            .output()
            .expect("timeout starts")
    };
    assert!(ask().status.success());
    lab.pause_qemu("one");
    assert_eq!(
        ask().status.code(),
        Some(124),
        "timeout's code for a command that it ended"
    );
    lab.resume_qemu("one");
    assert!(
        lab.virsh(&[
            "qemu-monitor-command",
            "one",
            r#"{"execute":"query-status"}"#
        ])
        .contains("running")
    );
    lab.kill_qemu("one");
    let crashed = poll_until(PATIENCE, || {
        (lab.virsh(&["domstate", "one"]) == "shut off").then_some(())
    });
    assert_eq!(crashed, Some(()));
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_killed_test_run_leaves_nothing_behind() {
    let mut run = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "a_test_run_to_be_killed",
        ])
        .env("LAB_TO_BE_KILLED", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let lines = BufReader::new(run.stdout.take().expect("a pipe")).lines();
    let dirs: Vec<PathBuf> = lines
        .map_while(Result::ok)
        .filter_map(|line| Some(PathBuf::from(line.split_once("scratch: ")?.1)))
        .take(2)
        .collect();
    assert_eq!(dirs.len(), 2);
    assert!(
        dirs.iter().all(|dir| !that_name(dir).is_empty()),
        "something runs in {dirs:?}"
    );
    run.kill().expect("a child");
    run.wait().expect("a child");
    for dir in dirs {
        let gone = poll_until(PATIENCE, || (!dir.exists()).then_some(()));
        assert_eq!(gone, Some(()), "{} is still there", dir.display());
        assert_nothing_left(&dir);
    }
}

/// The other half of the test above, which runs it in a process of its own. By itself it does nothing.
#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_test_run_to_be_killed() {
    if std::env::var_os("LAB_TO_BE_KILLED").is_none() {
        return;
    }
    let lab = Lab::start();
    lab.guest("one");
    let qemu = Qemu::start(&[]);
    println!(
        "\nscratch: {}\nscratch: {}",
        lab.dir().display(),
        qemu.dir().display()
    );
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("a pipe that stays open");
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_bare_qemu_greets_on_all_three_sockets() {
    let qemu = Qemu::start(&["-name", "bare"]);
    let unix = greeting(UnixStream::connect(qemu.unix_path()).expect("it listens"));
    let tcp = greeting(TcpStream::connect(qemu.tcp_addr()).expect("it listens"));
    let pretty = greeting(UnixStream::connect(qemu.pretty_path()).expect("it listens"));
    for line in [&unix, &tcp] {
        assert!(
            line.starts_with(r#"{"QMP": {"#) && line.ends_with("\r\n"),
            "{line:?}"
        );
    }
    assert_eq!(pretty, "{\r\n", "the first line of several");
    let dir = qemu.dir().to_owned();
    qemu.pause();
    drop(qemu);
    assert_nothing_left(&dir);
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_bare_qemu_can_be_stopped_continued_and_ended() {
    let qemu = Qemu::start(&[]);
    let mut monitor = UnixStream::connect(qemu.unix_path()).expect("it listens");
    monitor
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a socket option");
    let mut answers = BufReader::new(monitor.try_clone().expect("a second handle"));
    let mut line = String::new();
    answers.read_line(&mut line).expect("a greeting");
    qemu.pause();
    monitor
        .write_all(br#"{"execute":"qmp_capabilities"}"#)
        .expect("it takes bytes");
    answers
        .read_line(&mut line)
        .expect_err("a stopped process does not answer");
    qemu.resume();
    monitor
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket option");
    line.clear();
    answers.read_line(&mut line).expect("an answer");
    assert_eq!(line, "{\"return\": {}}\r\n");
    monitor
        .write_all(br#"{"execute":"quit"}"#)
        .expect("it takes bytes");
    qemu.wait_ended();
    UnixStream::connect(qemu.unix_path()).expect_err("nobody listens");
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
#[should_panic(expected = "no-such-option")]
fn a_bare_qemu_that_does_not_start_says_why() {
    Qemu::start(&["-no-such-option"]);
}

/// The first line from a monitor.
fn greeting(stream: impl Read) -> String {
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .expect("a greeting");
    line
}

/// A process with `path` on its command line that lives as long as this one.
fn tail(path: &Path) -> std::process::Child {
    Command::new("tail")
        .arg("-f")
        .arg(format!("--pid={}", std::process::id()))
        .args([Path::new("/dev/null"), path])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("tail starts")
}

fn assert_nothing_left(dir: &Path) {
    // The program that removes the directory names it, and ends a moment after it is gone.
    let nobody = poll_until(PATIENCE, || that_name(dir).is_empty().then_some(()));
    assert_eq!(nobody, Some(()), "{:?}", that_name(dir));
    assert!(!dir.exists(), "{} is still there", dir.display());
}
