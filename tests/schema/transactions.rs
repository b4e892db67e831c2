//! Transactions of a running QEMU: all or none.

use futures_util::StreamExt;
use libvirt_qmp::{
    Command, CommandError, Error, ErrorClass, EventStream, Monitor, MonitorExt, SocketMonitor,
    Transaction,
};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::process::PATIENCE;
use crate::support::qemu::Qemu;

/// A QEMU with the nodes `a`, `b`, `c` and `d`, of 64 KiB each, and nothing on them.
async fn with_nodes() -> (Qemu, SocketMonitor) {
    let qemu = Qemu::start(&[]);
    let monitor = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    for node in ["a", "b", "c", "d"] {
        let add = Command::new("blockdev-add")
            .arg("driver", "null-co")
            .arg("node-name", node)
            .arg("size", 65536);
        monitor.execute::<IgnoredAny>(add).await.unwrap();
    }
    (qemu, monitor)
}

/// The bitmaps of node `a`, each with whether it records.
async fn bitmaps(monitor: &SocketMonitor) -> Vec<(String, bool)> {
    let nodes: Vec<Value> = monitor.query("named-block-nodes").await.unwrap();
    let node = nodes.iter().find(|node| node["node-name"] == "a").unwrap();
    let bitmaps = node["dirty-bitmaps"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut bitmaps: Vec<_> = bitmaps
        .iter()
        .map(|bitmap| {
            let name = bitmap["name"].as_str().unwrap().to_owned();
            (name, bitmap["recording"].as_bool().unwrap())
        })
        .collect();
    bitmaps.sort();
    bitmaps
}

fn bitmap(name: &str) -> Value {
    json!({"node": "a", "name": name})
}

fn refusal(result: Result<(), Error>) -> String {
    match result {
        Err(Error::Qmp(error)) => {
            assert_eq!(error.class, ErrorClass::GenericError);
            assert_eq!(error.command.as_deref(), Some("transaction"));
            error.desc
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn all_actions_are_done_or_none() {
    let (_qemu, monitor) = with_nodes().await;
    let both = Transaction::new()
        .action("block-dirty-bitmap-add", bitmap("one"))
        .action(
            "block-dirty-bitmap-add",
            json!({"node": "a", "name": "two", "disabled": true}),
        );
    monitor.transaction(both).await.unwrap();
    let before = [("one".to_owned(), true), ("two".to_owned(), false)];
    assert_eq!(bitmaps(&monitor).await, before);

    let aborted = Transaction::new()
        .action("block-dirty-bitmap-add", bitmap("three"))
        .action("block-dirty-bitmap-disable", bitmap("one"))
        .action("abort", ());
    assert_eq!(
        refusal(monitor.transaction(aborted).await),
        "Transaction aborted using Abort action"
    );
    assert_eq!(bitmaps(&monitor).await, before);

    // The second one fails: not for want of a bitmap to enable, since QEMU 7.2 does not survive that.
    let half = Transaction::new()
        .action("block-dirty-bitmap-enable", bitmap("two"))
        .action("block-dirty-bitmap-add", bitmap("one"));
    let desc = refusal(monitor.transaction(half).await);
    assert!(desc.contains("already exists"), "{desc}");
    assert_eq!(bitmaps(&monitor).await, before);

    monitor.transaction(Transaction::new()).await.unwrap();
}

/// The names of go-qmp's list are years old: it refuses this one, which is as good as any.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_this_qemu_has_is_sent_and_nothing_else() {
    let (_qemu, monitor) = with_nodes().await;
    let add = Transaction::new()
        .action(
            "block-dirty-bitmap-add",
            json!({"node": "a", "name": "one", "disabled": true}),
        )
        .action("block-dirty-bitmap-enable", bitmap("one"));
    monitor.transaction(add).await.unwrap();
    assert_eq!(bitmaps(&monitor).await, [("one".to_owned(), true)]);

    let old = Transaction::new().action("x-block-dirty-bitmap-enable", bitmap("one"));
    match monitor.transaction(old.clone()).await {
        Err(Error::Command(CommandError::UnknownAction { action, known })) => {
            assert_eq!(action, "x-block-dirty-bitmap-enable");
            assert!(
                known.iter().any(|name| name == "block-dirty-bitmap-enable"),
                "{known:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    // With the check off it is QEMU that refuses.
    let desc = refusal(monitor.transaction(old.unchecked()).await);
    assert!(desc.contains("x-block-dirty-bitmap-enable"), "{desc}");
}

fn backup(job: &str, from: &str, to: &str) -> Value {
    json!({"job-id": job, "device": from, "target": to, "sync": "full"})
}

/// The next of these events that there are so many of.
async fn finished(events: &mut EventStream, jobs: usize) -> Vec<(String, String)> {
    let mut finished = Vec::new();
    while finished.len() < jobs {
        let event = timeout(PATIENCE, events.next())
            .await
            .expect("an event soon");
        let event = event.expect("no end of the stream").unwrap();
        if matches!(&*event.name, "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED") {
            let data: Value = event.data_as().unwrap();
            finished.push((event.name, data["device"].as_str().unwrap().to_owned()));
        }
    }
    finished.sort();
    finished
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_group_ends_together() {
    let (_qemu, monitor) = with_nodes().await;
    let mut events = monitor.events().await.unwrap();
    let group = Transaction::new()
        .action("blockdev-backup", backup("job-1", "a", "c"))
        .action("blockdev-backup", backup("job-2", "b", "d"))
        .property("completion-mode", "grouped");
    monitor.transaction(group).await.unwrap();
    let completed = |job: &str| ("BLOCK_JOB_COMPLETED".to_owned(), job.to_owned());
    assert_eq!(
        finished(&mut events, 2).await,
        [completed("job-1"), completed("job-2")]
    );

    // One that QEMU cannot hold back until others end. Alone, since QEMU 7.2 hangs where a backup is to be undone for it.
    let alone = Transaction::new()
        .action("block-dirty-bitmap-add", bitmap("one"))
        .property("completion-mode", "grouped");
    let desc = refusal(monitor.transaction(alone).await);
    assert!(desc.contains("completion-mode"), "{desc}");
    let jobs: Vec<Value> = monitor.query("block-jobs").await.unwrap();
    assert!(jobs.is_empty(), "{jobs:?}");
    assert!(bitmaps(&monitor).await.is_empty());

    let unknown = Transaction::new().property("completion-mode", "whenever");
    let problems = monitor.schema().await.unwrap();
    let problems = problems.check(&unknown.to_command().unwrap()).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "argument `properties.completion-mode` cannot be `whenever`, only 'individual' | 'grouped'"
    );
}
