//! Lines that nobody types: from `-c`, or on standard input that is no terminal.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::{FakeQemu, Scratch, listen, qemu};

fn run(qemu: &FakeQemu, options: &[&str], script: &str) -> Output {
    let scratch = Scratch::new();
    let uri = listen(qemu, &scratch);
    let mut child = Command::new(env!("CARGO_BIN_EXE_qmp"))
        .args(["-C", &uri, "shell"])
        .args(options)
        .env("XDG_STATE_HOME", scratch.path("state"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it read everything.
    let _ = child.stdin.take().unwrap().write_all(script.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(
        !scratch.path("state").exists(),
        "a script leaves no history"
    );
    output
}

fn shown(output: &Output) -> (Option<i32>, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_is_run_line_by_line() {
    let qemu = qemu().await;
    qemu.on("transaction", json!({}));
    let output = run(
        &qemu,
        &[],
        "# a remark\n\nstop\n{\"execute\":\n \"query-status\"}\ntransaction(\nabort\n)\n   \nquery-kvm",
    );
    let (code, stdout, stderr) = shown(&output);
    assert_eq!((code, stderr), (Some(0), ""));
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[..1], ["{}"]);
    assert!(lines[1].contains(r#""status":"paused""#), "{stdout}");
    assert_eq!(lines[2], "{}");
    assert_eq!(lines.len(), 4, "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_error_ends_a_script_and_is_its_exit_code() {
    let qemu = qemu().await;
    for (script, code, text) in [
        (
            "query-status\ndevice_del id=x\nstop\n",
            1,
            "qmp: line 2: device_del: DeviceNotFound",
        ),
        (
            "query-status\ndevice_del\nstop\n",
            1,
            "qmp: line 2: device_del: ",
        ),
        ("device_del name=x\nstop\n", 2, "qmp: line 1: "),
        (
            "set_link name='x\nstop\n",
            2,
            "qmp: line 1: a ' is not closed",
        ),
        ("{\"execute\":\n", 2, "has no end"),
        ("transaction(\nabort\n", 2, "has no end"),
        ("\n# nothing\n", 2, "no command given"),
    ] {
        let output = run(&qemu, &[], script);
        let (found, _, stderr) = shown(&output);
        assert_eq!(found, Some(code), "{script}: {stderr}");
        assert!(stderr.contains(text), "{script}: {stderr}");
    }
    assert!(
        qemu.commands()
            .iter()
            .all(|command| command["execute"] != "stop")
    );
    let output = run(&qemu, &["-k"], "device_del id=x\nstop\n");
    assert_eq!(shown(&output).0, Some(1));
    assert!(
        qemu.commands()
            .iter()
            .any(|command| command["execute"] == "stop")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_can_be_given_and_hmp_too() {
    let qemu = qemu().await;
    qemu.on_hmp("info status", "VM status: running\r\n");
    let output = run(&qemu, &["-c", "stop", "-c", "cont"], "");
    assert_eq!(shown(&output), (Some(0), "{}\n{}\n", ""));
    let output = run(&qemu, &["-H", "-c", "info status", "-c", "  "], "");
    assert_eq!(shown(&output), (Some(0), "VM status: running\n", ""));
    let output = run(&qemu, &["-v", "-p", "-c", "stop"], "");
    assert_eq!(
        shown(&output),
        (Some(0), "{\n  \"execute\": \"stop\"\n}\n{}\n", "")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_and_quit_end_a_script() {
    for last in ["exit", "quit"] {
        let qemu = qemu().await;
        let output = run(&qemu, &[], &format!("query-name\n{last}\nstop\n"));
        let (code, stdout, stderr) = shown(&output);
        assert_eq!((code, stderr), (Some(0), ""), "{last}");
        assert!(stdout.starts_with("{"), "{stdout}");
        assert!(
            qemu.commands()
                .iter()
                .all(|command| command["execute"] != "stop")
        );
        assert_eq!(qemu.has_ended(), last == "quit");
    }
}
