//! What TAB lists and fills in, and what is hinted at.

use libvirt_qmp::testing::Reply;
use serde_json::json;

use crate::pty::Pty;
use crate::{Scratch, Shell, libvirtd, qemu};

/// Types, and waits for what becomes of the line.
fn becomes(pty: &mut Pty, keys: &str, line: &str) {
    pty.send("\x15");
    pty.wait_for_line("qmp> ");
    let line = format!("qmp> {line}");
    match keys.strip_suffix('\t') {
        Some(keys) => {
            pty.send(keys);
            pty.tab_until(&line);
        }
        None => {
            pty.send(keys);
            pty.wait_for_line(&line);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_arguments_and_values_come_from_the_schema() {
    let mut shell = Shell::start(&[]).await;
    let pty = &mut shell.pty;
    pty.wait_for_line("qmp> ");
    becomes(pty, "query-stat\t", "query-stat");
    pty.wait_for("query-stats-schemas");
    becomes(pty, "query-statu\t", "query-status");
    // Required ones come first.
    becomes(
        pty,
        "block-dirty-bitmap-add \t",
        "block-dirty-bitmap-add node=str name=str",
    );
    pty.wait_until("the arguments", |screen| {
        let places = [
            "node=str",
            "name=str",
            "[granularity=int]",
            "[persistent=bool]",
        ];
        let list = screen.lines().rfind(|line| line.starts_with("node=str"));
        let list = list.unwrap_or_default();
        let at: Vec<_> = places.iter().filter_map(|place| list.find(place)).collect();
        at.len() == places.len() && at.is_sorted()
    });
    becomes(
        pty,
        "block-dirty-bitmap-add no\t",
        "block-dirty-bitmap-add node=",
    );
    becomes(
        pty,
        "block-dirty-bitmap-add node=x name=y pers\ttr\t",
        "block-dirty-bitmap-add node=x name=y persistent=true",
    );
    // Values of an enum, and the members that one of them brings.
    becomes(
        pty,
        "blockdev-add driver=null-\t",
        "blockdev-add driver=null-",
    );
    pty.wait_for("null-aio");
    becomes(
        pty,
        "blockdev-add driver=null-co late\t",
        "blockdev-add driver=null-co latency-ns=",
    );
    becomes(
        pty,
        "blockdev-add driver=raw late\t",
        "blockdev-add driver=raw late",
    );
    // Members of objects.
    becomes(
        pty,
        "blockdev-add driver=raw fi\t",
        "blockdev-add driver=raw file=",
    );
    becomes(
        pty,
        "blockdev-add driver=raw file.driver=null-co file.si\t",
        "blockdev-add driver=raw file.driver=null-co file.size=",
    );
    becomes(pty, "!oob mig\t", "!oob migrate-");
    becomes(pty, "help DEVICE_DEL\t", "help DEVICE_DELETED");
    becomes(pty, "!events RESU\t", "!events RESUME");
    becomes(pty, "trans\t", "transaction actions=[{…}]");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_come_from_the_running_qemu() {
    let qemu = qemu().await;
    qemu.on(
        "query-named-block-nodes",
        json!([{"node-name": "disk-first"}, {"node-name": "disk-second"}]),
    );
    qemu.on(
        "query-block",
        json!([{"device": "drive0", "qdev": "/machine/peripheral/blk0"}]),
    );
    qemu.on_fn("qom-list", |arguments| {
        Reply::value(match arguments["path"].as_str() {
            Some("/machine/peripheral") => json!([
                {"name": "type", "type": "string"},
                {"name": "net-one", "type": "child<virtio-net-pci>"},
            ]),
            Some("/machine") => json!([
                {"name": "graphics", "type": "bool"},
                {"name": "peripheral", "type": "child<container>"},
            ]),
            _ => json!([{"name": "machine", "type": "child<pc>"}, {"name": "objects", "type": "child<container>"}]),
        })
    });
    qemu.on("query-jobs", json!([{"id": "job-a"}]));
    qemu.on(
        "qom-list-types",
        json!([{"name": "virtio-net-pci"}, {"name": "e1000"}]),
    );
    qemu.on(
        "device-list-properties",
        json!([{"name": "netdev"}, {"name": "mac"}]),
    );
    let mut shell = Shell::start_on(qemu, &[]);
    let pty = &mut shell.pty;
    pty.wait_for_line("qmp> ");
    becomes(
        pty,
        "blockdev-del node-name=disk-s\t",
        "blockdev-del node-name=disk-second",
    );
    becomes(pty, "device_del id=n\t", "device_del id=net-one");
    becomes(pty, "job-dismiss id=j\t", "job-dismiss id=job-a");
    becomes(
        pty,
        "qom-get path=/machine/per\t",
        "qom-get path=/machine/peripheral/ property=str",
    );
    becomes(
        pty,
        "qom-get path=/machine property=g\t",
        "qom-get path=/machine property=graphics",
    );
    becomes(
        pty,
        "device_add driver=vir\t",
        "device_add driver=virtio-net-pci",
    );
    becomes(
        pty,
        "device_add driver=virtio-net-pci netd\t",
        "device_add driver=virtio-net-pci netdev=",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_that_does_not_answer_keeps_nobody_waiting() {
    let qemu = qemu().await;
    qemu.never("query-named-block-nodes");
    let mut shell = Shell::start_on(qemu, &[]);
    let pty = &mut shell.pty;
    pty.wait_for_line("qmp> ");
    pty.send("blockdev-del node-name=d\tisk\r");
    pty.wait_for("error: blockdev-del: CommandNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_hinted_at() {
    let mut shell = Shell::start(&[]).await;
    let pty = &mut shell.pty;
    // The schema comes in its own time.
    becomes(pty, "query-vers\t", "query-version");
    becomes(pty, "device_del ", "device_del id=str");
    // It is dim.
    pty.wait_for_raw("\x1b[2mid=str\x1b[0m");
    pty.wait_for_column(16);
    // A hint is no part of the line.
    pty.send("\r");
    pty.wait_for("Parameter 'id' is missing");
    becomes(pty, "qom-get path=/a ", "qom-get path=/a property=str");
    becomes(
        pty,
        "qom-get path=/a property=b ",
        "qom-get path=/a property=b",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_of_a_transaction_are_completed() {
    let mut shell = Shell::start(&[]).await;
    let pty = &mut shell.pty;
    pty.wait_for_line("qmp> ");
    pty.enter("transaction(");
    pty.send("block-dirty-bitmap-a");
    pty.tab_until("block-dirty-bitmap-add node=str name=str");
    pty.send("no");
    pty.tab_until("block-dirty-bitmap-add node=");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_completed() {
    let mut shell = Shell::start(&[]).await;
    let path = shell.scratch.path("some-long-name");
    std::fs::write(&path, "").unwrap();
    let start = shell.scratch.path("some-l");
    let pty = &mut shell.pty;
    pty.wait_for_line("qmp> ");
    pty.send(&format!("!fd {}", start.display()));
    pty.tab_until(&format!("qmp> !fd {}", path.display()));
    pty.send(" getf");
    pty.tab_until(&format!("qmp> !fd {} getfd fdname=str", path.display()));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_same_through_libvirt() {
    let qemu = qemu().await;
    qemu.on("query-named-block-nodes", json!([{"node-name": "disk0"}]));
    let scratch = Scratch::new();
    let (_libvirtd, uri) = libvirtd(&qemu, &scratch);
    let mut pty = Pty::qmp(&["-C", &uri, "shell", "guest"], &scratch.path(""));
    pty.wait_for_line("guest> ");
    pty.send("blockdev-del no");
    pty.tab_until("guest> blockdev-del node-name=");
    pty.send("d");
    pty.tab_until("guest> blockdev-del node-name=disk0");
    qemu.event("STOP", None);
    pty.wait_for(" STOP");
    pty.wait_for_line("guest> blockdev-del node-name=disk0");
    pty.send("\x15query-status\r");
    pty.wait_for(r#""status":"running""#);
    pty.wait_for_line("guest> ");
    pty.send(crate::pty::CTRL_D);
    assert_eq!(pty.end(), 0);
}
