//! A file descriptor with a command, through libvirtd to QEMU.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use libvirt_qmp::{Command, Error, Libvirt, LibvirtRpc, Monitor, MonitorExt};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use super::support::fds::open_now;
use super::support::lab::Lab;
use super::{config, open};

/// A regular file of the lab's scratch directory with this text, opened for reading.
fn file(lab: &Lab, name: &str, text: &str) -> File {
    let path = lab.dir().join(name);
    File::create(&path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    File::open(path).unwrap()
}

fn getfd(name: &str, file: &File) -> Command {
    Command::new("getfd")
        .arg("fdname", name)
        .file(file.try_clone().unwrap())
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_file_given_through_libvirtd_is_the_one_that_qemu_uses() {
    let lab = Lab::start();
    lab.guest("one");
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let own = LibvirtRpc::with_config("one", conn, config(&lab));
    let shared = open(&lab).await.monitor("one");
    for (number, monitor) in [&own, &shared].into_iter().enumerate() {
        // 512 bytes a sector: QEMU sees the size of the file it was given.
        let sectors = 3 + number;
        let disk = file(&lab, "disk", &"x".repeat(512 * sectors));
        let set: Value = monitor
            .execute(
                Command::new("add-fd")
                    .arg("fdset-id", number)
                    .arg("opaque", "of the test")
                    .file(disk),
            )
            .await
            .unwrap();
        assert_eq!(set["fdset-id"], number);
        let node = format!("node{number}");
        let add = Command::new("blockdev-add")
            .arg("driver", "file")
            .arg("node-name", &node)
            .arg("read-only", true)
            .arg("filename", format!("/dev/fdset/{number}"));
        let _: Value = monitor.execute(add).await.unwrap();
        let nodes: Vec<Value> = monitor.query("named-block-nodes").await.unwrap();
        let found = nodes.iter().find(|found| found["node-name"] == *node);
        assert_eq!(found.unwrap()["image"]["virtual-size"], 512 * sectors);
        let delete = Command::new("blockdev-del").arg("node-name", &node);
        let _: Value = monitor.execute(delete).await.unwrap();
        // Named ones last until they are closed by name.
        let _: Value = monitor
            .execute(getfd("named", &file(&lab, "named", "")))
            .await
            .unwrap();
        let close = || Command::new("closefd").arg("fdname", "named");
        let _: Value = monitor.execute(close()).await.unwrap();
        let gone = monitor.execute::<Value>(close()).await.unwrap_err();
        assert!(matches!(gone, Error::Qmp(_)), "{gone:?}");
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn where_a_file_cannot_go_nothing_is_sent() {
    let lab = Lab::start();
    lab.guest("one");
    let file = file(&lab, "any", "");
    let conn = TcpStream::connect(lab.tcp_addr()).await.unwrap();
    let over_tcp = Libvirt::open(conn, config(&lab))
        .await
        .unwrap()
        .monitor("one");
    let error = over_tcp
        .execute::<Value>(getfd("a", &file))
        .await
        .unwrap_err();
    assert!(error.is_unsupported() && !error.maybe_executed(), "{error}");
    let over_unix = open(&lab).await.monitor("one");
    let two = getfd("a", &file).file(file.try_clone().unwrap());
    let error = over_unix.execute::<Value>(two).await.unwrap_err();
    assert!(error.is_unsupported() && !error.maybe_executed(), "{error}");
    // Both connections are as good as before.
    for monitor in [&over_tcp, &over_unix] {
        monitor.run(br#"{"execute":"query-status"}"#).await.unwrap();
    }
    // libvirt's own refusals cost the connection nothing either.
    let files = [file.as_fd()];
    let unknown = over_unix
        .run_with_files(br#"{"execute":"no-such-command"}"#, &files)
        .await;
    assert!(unknown.unwrap_err().is_command_not_found());
    over_unix.execute::<Value>(getfd("a", &file)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn two_hundred_files_leave_no_descriptor_behind() {
    let lab = Lab::start();
    lab.guest("one");
    let monitor = open(&lab).await.monitor("one");
    let file = file(&lab, "any", "");
    monitor.execute::<Value>(getfd("a", &file)).await.unwrap();
    let of_qemu = || {
        let fds = format!("/proc/{}/fd", lab.qemu_pid("one"));
        std::fs::read_dir(fds).unwrap().count()
    };
    let before = (open_now(), of_qemu());
    for _ in 0..200 {
        // The same name: QEMU closes the one that it had.
        monitor.execute::<Value>(getfd("a", &file)).await.unwrap();
    }
    let after = (open_now(), of_qemu());
    // Other tests of this process come and go meanwhile, but not by the hundred.
    assert!(after.0 < before.0 + 100, "{before:?} {after:?}");
    assert_eq!(after.1, before.1);
}
