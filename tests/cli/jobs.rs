//! `jobs`: bars on a terminal, lines elsewhere.

use libvirt_qmp::testing::Reply;
use serde_json::{Value, json};

use crate::program::*;
use crate::pty::Pty;
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
    let mut terminal = Pty::qmp(&["-C", &watched, "jobs"], &scratch.path(""));
    terminal.wait_for("move0 mirror [");
    terminal.wait_for(" % ");
    let begun = percentages(&terminal.raw());
    assert!(begun[0] < 10, "{begun:?}: {}", terminal.raw());
    run(&["block-job-set-speed", "device=move0", "speed=0"]).await;
    terminal.wait_for("ready");
    assert_eq!(terminal.end(), 0);
    let text = terminal.raw();
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
