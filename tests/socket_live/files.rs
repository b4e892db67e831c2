//! File descriptors that go to QEMU: what it does with them is seen in /proc, and in what it reads and writes there.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use libvirt_qmp::{Command, Config, Error, Monitor, MonitorExt, RunOptions, SocketMonitor};
use serde_json::{Value, json};

use crate::support::qemu::Qemu;
use crate::{over, run};

/// A file of so many bytes in QEMU's own directory.
fn file(qemu: &Qemu, name: &str, size: u64) -> PathBuf {
    let path = qemu.dir().join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// The file that QEMU has in each of its sets of descriptors.
async fn fdsets(qemu: &Qemu, monitor: &SocketMonitor) -> HashMap<u64, PathBuf> {
    let sets: Vec<Value> = monitor.query("fdsets").await.unwrap();
    sets.iter()
        .map(|set| {
            let fds = set["fds"].as_array().unwrap();
            assert_eq!(fds.len(), 1, "{set}");
            let link = format!("/proc/{}/fd/{}", qemu.pid(), fds[0]["fd"]);
            (
                set["fdset-id"].as_u64().unwrap(),
                fs::read_link(link).unwrap(),
            )
        })
        .collect()
}

/// P17: thirty at once, among other commands, each with its own file; sent ahead of each other QEMU would mix them up.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn each_command_brings_its_own_file() {
    let qemu = Qemu::start(&[]);
    for oob in [true, false] {
        let config = Config::new().max_in_flight(8).oob(oob);
        let monitor = Arc::new(over(&qemu.unix_path(), config).await);
        let first_id: u64 = if oob { 100 } else { 200 };
        let files: HashMap<u64, PathBuf> = (first_id..first_id + 30)
            .map(|id| (id, file(&qemu, &format!("file-{id}"), 1)))
            .collect();
        let calls: Vec<_> = files
            .clone()
            .into_iter()
            .map(|(id, path)| {
                let monitor = monitor.clone();
                tokio::spawn(async move {
                    let add = Command::new("add-fd")
                        .arg("fdset-id", id)
                        .file(File::open(path).unwrap());
                    let added: Value = monitor.execute(add).await.unwrap();
                    assert_eq!(added["fdset-id"], id);
                    run(&monitor, r#"{"execute":"query-name"}"#).await.unwrap();
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        let mut sets = fdsets(&qemu, &monitor).await;
        sets.retain(|id, _| *id >= first_id);
        assert_eq!(sets, files);
    }
}

/// QEMU reads a disk through a descriptor it was given, and writes guest memory to another; the second one is named, and
/// outlives the client that sent it (P18).
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn qemu_reads_and_writes_what_it_was_given() {
    const SIZE: u64 = 7 * 512 * 1024;
    let qemu = Qemu::start(&[]);
    let monitor = over(&qemu.unix_path(), Config::new()).await;
    let disk = File::open(file(&qemu, "disk", SIZE)).unwrap();
    let added: Value = monitor
        .execute(Command::new("add-fd").arg("opaque", "disk").file(disk))
        .await
        .unwrap();
    let add = Command::new("blockdev-add")
        .arg("driver", "file")
        .arg("node-name", "disk")
        .arg("read-only", true)
        .arg("filename", format!("/dev/fdset/{}", added["fdset-id"]));
    monitor.execute::<Value>(add).await.unwrap();
    let nodes: Vec<Value> = monitor.query("named-block-nodes").await.unwrap();
    assert_eq!(nodes[0]["image"]["virtual-size"], SIZE);

    let path = file(&qemu, "dump", 0);
    let dump = File::options().write(true).open(&path).unwrap();
    let getfd = Command::new("getfd").arg("fdname", "dump").file(dump);
    monitor.execute::<Value>(getfd).await.unwrap();
    drop(monitor);
    let monitor = over(&qemu.unix_path(), Config::new()).await;
    let dump = Command::new("dump-guest-memory")
        .arg("paging", false)
        .arg("protocol", "fd:dump")
        .arg("begin", 0)
        .arg("length", 4096);
    monitor.execute::<Value>(dump).await.unwrap();
    let mut magic = [0; 4];
    File::open(path).unwrap().read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"\x7fELF");
}

/// QEMU's errors, and a command that takes no descriptor: it is QEMU that closes it then, and the next one gets its own.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_descriptor_that_is_not_used_goes_to_nobody_else() {
    let qemu = Qemu::start(&[]);
    let monitor = over(&qemu.unix_path(), Config::new()).await;
    let (unused, used) = (file(&qemu, "unused", 1), file(&qemu, "used", 1));
    // QEMU keeps it, until another one comes.
    let unused = File::open(unused).unwrap();
    let files = [unused.as_fd()];
    monitor
        .run_with_files(br#"{"execute":"query-name"}"#, &files)
        .await
        .unwrap();
    let add = Command::new("add-fd")
        .arg("fdset-id", 1)
        .file(File::open(&used).unwrap());
    monitor.execute::<Value>(add).await.unwrap();
    assert_eq!(
        fdsets(&qemu, &monitor).await,
        HashMap::from([(1, used.clone())])
    );
    // Without one, it says so.
    let none = run(&monitor, r#"{"execute":"add-fd"}"#).await.unwrap_err();
    assert!(matches!(none, Error::Qmp(_)), "{none:?}");
    let wrong = Command::new("add-fd")
        .arg("fdset-id", json!("x"))
        .file(File::open(&used).unwrap());
    let wrong = monitor.execute::<Value>(wrong).await.unwrap_err();
    assert!(matches!(wrong, Error::Qmp(_)), "{wrong:?}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn tcp_passes_none() {
    let qemu = Qemu::start(&[]);
    let monitor = SocketMonitor::tcp(qemu.tcp_addr()).await.unwrap();
    let null = File::open("/dev/null").unwrap();
    let files = [null.as_fd()];
    let options = RunOptions::new().files(&files);
    let error = monitor
        .run_with(br#"{"execute":"add-fd"}"#, options)
        .await
        .unwrap_err();
    assert!(error.is_unsupported(), "{error:?}");
    run(&monitor, r#"{"execute":"query-name"}"#).await.unwrap();
}
