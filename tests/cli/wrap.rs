//! `wrap`: QEMU lives as long as the program, and no longer, whatever ends that.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::program::*;
use crate::support::process::{PATIENCE, poll_until, that_name};
use crate::support::qemu;
use crate::support::scratch::Scratch;

/// `wrap` with these arguments before the program, which names the scratch directory on its command line; sockets are in it too.
fn wrap(scratch: &Scratch, arguments: &[&str], program: &[&str]) -> Command {
    let mut command = qmp(&["wrap"]);
    command
        .args(arguments)
        .arg("--")
        .args(program)
        .env("XDG_RUNTIME_DIR", scratch.path(""));
    command
}

/// A program that is no QEMU: it says that it runs, and never connects.
fn idle(scratch: &Scratch) -> [String; 3] {
    let started = scratch.path("started").display().to_string();
    let script = format!("touch {started}; exec tail -f {started}");
    ["sh".to_owned(), "-c".to_owned(), script]
}

/// Waits until nothing is left: no process that names the directory, and no socket in it.
async fn nothing_is_left(scratch: &Scratch) {
    let directory = scratch.path("").to_owned();
    let left = tokio::task::spawn_blocking(move || {
        let left = || that_name(&directory);
        poll_until(PATIENCE, || left().is_empty().then_some(())).map_or_else(left, |()| Vec::new())
    });
    assert_eq!(left.await.unwrap(), Vec::<String>::new());
    assert_eq!(sockets(&scratch.path("")), Vec::<String>::new());
}

fn sockets(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("qmp-")).collect()
}

async fn has_started(scratch: &Scratch) {
    let file = scratch.path("started");
    let started = tokio::task::spawn_blocking(move || {
        poll_until(PATIENCE, || file.exists().then_some(())).is_some()
    });
    assert!(started.await.unwrap());
}

#[tokio::test]
async fn a_program_that_cannot_be_started_or_ends_is_told() {
    let scratch = Scratch::new();
    for (program, reason) in [
        (
            &["/nowhere/qemu"][..],
            "cannot start /nowhere/qemu: No such file",
        ),
        (
            &["sh", "-c", "exit 7"],
            "QEMU ended before it had a monitor, with exit status: 7",
        ),
        (
            &["true"],
            "QEMU ended before it had a monitor, with exit status: 0",
        ),
    ] {
        let output = wrap(&scratch, &["-c", "stop"], program)
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 1, "{program:?}");
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
        nothing_is_left(&scratch).await;
    }
    let output = wrap(&scratch, &["-c", "stop"], &[]).output().await.unwrap();
    assert_eq!(code(&output), 2);
}

#[tokio::test]
async fn a_program_that_never_connects_is_given_up() {
    let scratch = Scratch::new();
    let idle = idle(&scratch);
    let idle: Vec<&str> = idle.iter().map(String::as_str).collect();
    let output = wrap(&scratch, &["--timeout", "1", "-c", "stop"], &idle).output();
    let output = output.await.unwrap();
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("waiting for QEMU to connect"),
        "{}",
        stderr(&output)
    );
    nothing_is_left(&scratch).await;
}

#[tokio::test]
async fn a_signal_leaves_no_child() {
    // The last one ends the program without a word; the system sees to the child.
    for (signal, expected) in [
        ("INT", Some(130)),
        ("TERM", Some(143)),
        ("HUP", Some(129)),
        ("KILL", None),
    ] {
        let scratch = Scratch::new();
        let idle = idle(&scratch);
        let idle: Vec<&str> = idle.iter().map(String::as_str).collect();
        let mut child = wrap(&scratch, &["-c", "stop"], &idle)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        has_started(&scratch).await;
        send(&child, signal).await;
        assert_eq!(child.wait().await.unwrap().code(), expected, "{signal}");
        match expected {
            Some(_) => nothing_is_left(&scratch).await,
            None => {
                let left = scratch.path("").to_owned();
                let gone = tokio::task::spawn_blocking(move || {
                    poll_until(PATIENCE, || that_name(&left).is_empty().then_some(())).is_some()
                });
                assert!(gone.await.unwrap(), "{:?}", that_name(&scratch.path("")));
            }
        }
    }
}

/// A small QEMU, which names the scratch directory.
fn small_qemu(scratch: &Scratch) -> Vec<String> {
    let command = qemu::command(scratch);
    let program = [command.get_program()].into_iter();
    let words = program.chain(command.get_args());
    words
        .map(|word| word.to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_commands_run_and_qemu_ends_with_them() {
    let scratch = Scratch::new();
    let qemu = small_qemu(&scratch);
    let qemu: Vec<&str> = qemu.iter().map(String::as_str).collect();
    let lines = ["-c", "query-version", "-c", "nonsense", "-c", "stop"];
    let output = wrap(&scratch, &lines, &qemu).output().await.unwrap();
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(
        stdout(&output).starts_with(r#"{"qemu":{"#),
        "{}",
        stdout(&output)
    );
    assert!(
        stderr(&output).contains("CommandNotFound"),
        "{}",
        stderr(&output)
    );
    nothing_is_left(&scratch).await;

    // The end of the input is the end of it all.
    let mut child = wrap(&scratch, &[], &qemu)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"query-status\n")
        .await
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert!(stdout(&output).contains("running"), "{}", stdout(&output));
    nothing_is_left(&scratch).await;

    let output = wrap(&scratch, &["-c", "quit"], &qemu)
        .output()
        .await
        .unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    nothing_is_left(&scratch).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_a_signal_ends_qemu_too() {
    for (signal, expected) in [("INT", 130), ("TERM", 143)] {
        let scratch = Scratch::new();
        let qemu = small_qemu(&scratch);
        let qemu: Vec<&str> = qemu.iter().map(String::as_str).collect();
        let mut child = wrap(&scratch, &[], &qemu)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, b"query-status\n")
            .await
            .unwrap();
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(
            child.stdout.take().unwrap(),
        ));
        line(&mut lines).await;
        send(&child, signal).await;
        assert_eq!(child.wait().await.unwrap().code(), Some(expected));
        nothing_is_left(&scratch).await;
        drop(stdin);
    }
}
