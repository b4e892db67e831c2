//! `jobs`: bars on a terminal, lines elsewhere.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use libvirt_qmp::testing::Reply;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};

use crate::program::*;
use crate::support::process::{PATIENCE, Process};
use crate::support::qemu::Qemu;
use crate::support::scratch::Scratch;

const MIB: usize = 1 << 20;

fn job(status: &str, current: u64) -> Value {
    json!({
        "id": "mirror0", "type": "mirror", "status": status, "current-progress": current, "total-progress": 100,
    })
}

#[tokio::test]
async fn a_job_is_told_of_when_it_has_done_its_work() {
    let stub = Stub::start();
    let ready =
        json!({"device": "mirror0", "len": 100, "offset": 100, "speed": 0, "type": "mirror"});
    let first = Reply::value(json!([job("running", 10)])).event_after("BLOCK_JOB_READY", ready);
    stub.qemu.once("query-jobs", first);
    stub.qemu.on("query-jobs", json!([job("ready", 100)]));
    let output = stub.run(&["jobs"]).await;
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(stdout(&output), "mirror0 mirror ready 100/100\n");
    let output = stub.run(&["jobs", "--json"]).await;
    let told: Value = stdout(&output).parse().unwrap();
    assert_eq!(
        told,
        json!({"id": "mirror0", "type": "mirror", "status": "ready", "current": 100, "total": 100})
    );
}

#[tokio::test]
async fn how_a_job_ended_is_told_by_its_event() {
    for (event, error, expected, text) in [
        (
            "BLOCK_JOB_COMPLETED",
            None,
            0,
            "mirror0 mirror completed 100/100\n",
        ),
        (
            "BLOCK_JOB_COMPLETED",
            Some("no space"),
            1,
            "mirror0 mirror completed 10/100\n",
        ),
        (
            "BLOCK_JOB_CANCELLED",
            None,
            1,
            "mirror0 mirror cancelled 10/100\n",
        ),
    ] {
        let stub = Stub::start();
        let mut data =
            json!({"device": "mirror0", "len": 100, "offset": 10, "speed": 0, "type": "mirror"});
        if let Some(error) = error {
            data["error"] = json!(error);
        }
        let first = Reply::value(json!([job("running", 10)])).event_after(event, data);
        stub.qemu.once("query-jobs", first);
        // It is gone by the time that QEMU is asked again.
        stub.qemu.on("query-jobs", json!([]));
        let output = stub.run(&["jobs"]).await;
        assert_eq!(code(&output), expected, "{}", stderr(&output));
        assert_eq!(stdout(&output), text);
        match (error, expected) {
            (_, 0) => assert_eq!(stderr(&output), ""),
            (Some(error), _) => assert_eq!(
                stderr(&output),
                format!("qmp: job mirror0 failed: {error}\n")
            ),
            (None, _) => assert_eq!(stderr(&output), "qmp: job mirror0 was cancelled\n"),
        }
    }
}

#[tokio::test]
async fn without_jobs_there_is_nothing_to_say() {
    let stub = Stub::start();
    stub.qemu.on("query-jobs", json!([]));
    let output = stub.run(&["jobs"]).await;
    assert_eq!(
        (code(&output), stdout(&output), stderr(&output)),
        (0, String::new(), String::new())
    );
    // A QEMU that is too old for `query-jobs` has block jobs.
    let stub = Stub::start();
    stub.qemu
        .on_error("query-jobs", "CommandNotFound", "no such command")
        .on("query-block-jobs", json!([]));
    assert_eq!(code(&stub.run(&["jobs"]).await), 0);
    // To follow them is to wait for some.
    let child = qmp(&["-C", &stub.uri(), "jobs", "--follow"])
        .spawn()
        .unwrap();
    stub.qemu.clear_commands();
    within(stub.qemu.wait_for_command("query-block-jobs")).await;
    interrupt(&child).await;
    assert_eq!(
        child.wait_with_output().await.unwrap().status.code(),
        Some(130)
    );
}

/// The program on a terminal of its own, and what it writes there.
struct Terminal {
    process: Process,
    written: Receiver<Vec<u8>>,
    text: String,
}

impl Terminal {
    fn start(arguments: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || {
            let mut options = File::options();
            OwnedFd::from(
                options
                    .read(true)
                    .write(true)
                    .open(name.to_str().unwrap())
                    .unwrap(),
            )
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_qmp"));
        command
            .args(arguments)
            .env("TERM", "xterm")
            .env_remove("NO_COLOR");
        command.stdin(open()).stdout(open()).stderr(open());
        let process = Process::new(&mut command);
        drop(command);
        let (writer, written) = channel();
        let mut reader = File::from(master);
        // Ends with the program, whose end of the terminal is the only one.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                let _ = writer.send(buffer[..read].to_vec());
            }
        });
        Terminal {
            process,
            written,
            text: String::new(),
        }
    }

    /// Reads until the text is there.
    fn read_until(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            let Ok(bytes) = self.written.recv_timeout(PATIENCE) else {
                panic!("no {wanted:?} in:\n{}", self.text);
            };
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    /// Reads to the end of the program.
    fn read_to_end(mut self) -> String {
        while let Ok(bytes) = self.written.recv_timeout(PATIENCE) {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        assert!(
            crate::support::process::poll_until(PATIENCE, || self
                .process
                .has_ended()
                .then_some(()))
            .is_some()
        );
        self.text
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_the_bar_of_a_mirror_goes_from_0_to_100_percent() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.path("source.img"), scratch.path("target.img"));
    // Written, not sparse: QEMU would skip what is a hole.
    std::fs::write(&source, vec![7; 256 * MIB]).unwrap();
    let drive = format!("file={},format=raw,if=none,id=disk0", source.display());
    let qemu = Qemu::start(&["-drive", &drive]);
    let (watched, asked) = (
        format!("tcp:{}", qemu.tcp_addr()),
        format!("unix:{}", qemu.unix_path().display()),
    );
    let run = async |words: &[&str]| {
        let output = qmp(&["-C", &asked, "run"])
            .args(words)
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 0, "{words:?}: {}", stderr(&output));
    };
    let target = format!("target={}", target.display());
    // As slow as can be, until the bar is there.
    let mirror = [
        "drive-mirror",
        "job-id=move0",
        "device=disk0",
        "sync=full",
        "format=raw",
        "speed=1",
        &target,
    ];
    run(&mirror).await;
    let mut terminal = Terminal::start(&["-C", &watched, "jobs"]);
    let mut terminal = tokio::task::spawn_blocking(move || {
        terminal.read_until("move0 mirror [");
        terminal.read_until(" % ");
        terminal
    })
    .await
    .unwrap();
    let begun = percentages(&terminal.text);
    assert!(begun[0] < 10, "{begun:?}: {}", terminal.text);
    run(&["block-job-set-speed", "device=move0", "speed=0"]).await;
    let text = tokio::task::spawn_blocking(move || {
        terminal.read_until("ready");
        terminal.read_to_end()
    })
    .await
    .unwrap();
    let seen = percentages(&text);
    assert_eq!(seen.last(), Some(&100), "{text}");
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(text.contains("256.00 MiB/256.00 MiB"), "{text}");
}

/// The numbers before ` %`.
fn percentages(text: &str) -> Vec<u32> {
    let before = text.split(" % ").collect::<Vec<_>>();
    let (_, before) = before.split_last().unwrap();
    let numbers = before.iter().filter_map(|text| text.rsplit(' ').next());
    numbers.filter_map(|number| number.parse().ok()).collect()
}
