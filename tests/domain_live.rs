//! The helpers of `DomainExt`, on a QEMU of the test's own with a disk and a screen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs::{self, File};
use std::path::PathBuf;

use libvirt_qmp::types::{JobStatus, RunState};
use libvirt_qmp::{
    Command, Commit, DomainExt, Error, Mirror, Monitor, MonitorExt, Snapshot, SocketMonitor,
    WaitExt,
};
use serde_json::{Value, json};

use support::process::PATIENCE;
use support::qemu::Qemu;

const DISK: u64 = 16 << 20;
const UUID: &str = "9f2c3e7a-5b0d-4c55-9d0e-0a1b2c3d4e5f";

/// A guest without a disk.
async fn guest(extra: &[&str]) -> (Qemu, SocketMonitor) {
    let qemu = Qemu::start(&[&["-name", "helpers", "-uuid", UUID], extra].concat());
    let monitor = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    (qemu, monitor)
}

/// A guest that has not been started, with the disk `hd0` on the node `base`, a raw image that begins with `DISK`.
async fn guest_with_disk() -> (Qemu, SocketMonitor) {
    let (qemu, monitor) = guest(&["-S"]).await;
    let image = file(&qemu, "disk.raw");
    let mut bytes = vec![0; usize::try_from(DISK).unwrap()];
    bytes[..4].copy_from_slice(b"DISK");
    fs::write(&image, bytes).unwrap();
    let node = json!({
        "driver": "raw",
        "node-name": "base",
        "file": {"driver": "file", "filename": image},
    });
    let disk = json!({"driver": "virtio-blk-pci", "id": "hd0", "drive": "base"});
    for command in [
        Command::new("blockdev-add").args(node),
        Command::new("device_add").args(disk),
    ] {
        let _: Value = monitor.execute(command).await.unwrap();
    }
    (qemu, monitor)
}

fn file(qemu: &Qemu, name: &str) -> PathBuf {
    qemu.dir().join(name)
}

/// The file that the guest's disk is on.
async fn image(monitor: &SocketMonitor) -> String {
    let devices = monitor.block_devices().await.unwrap();
    let disk = devices
        .iter()
        .find(|device| {
            device
                .qdev
                .as_deref()
                .is_some_and(|path| path.contains("/hd0"))
        })
        .expect("the disk is listed");
    disk.inserted
        .as_ref()
        .expect("it has a medium")
        .file
        .clone()
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_a_guest_is() {
    let (_qemu, monitor) = guest_with_disk().await;
    let status = monitor.status().await.unwrap();
    assert!(!status.running);
    assert_eq!(status.status, RunState::Prelaunch);
    assert_eq!(monitor.name().await.unwrap().as_deref(), Some("helpers"));
    assert_eq!(monitor.uuid().await.unwrap().to_string(), UUID);
    let commands = monitor.supported_commands().await.unwrap();
    assert!(commands.is_sorted());
    for known in ["device_add", "query-status", "blockdev-add"] {
        assert!(commands.iter().any(|name| name == known), "{known}");
    }
    let events = monitor.supported_events().await.unwrap();
    assert!(events.is_sorted());
    for known in ["STOP", "BLOCK_JOB_READY", "DEVICE_DELETED"] {
        assert!(events.iter().any(|name| name == known), "{known}");
    }
    assert!(!events.iter().any(|name| name == "query-status"));

    let cpus = monitor.cpus().await.unwrap();
    assert_eq!(cpus.len(), 1);
    assert!(cpus[0].thread_id > 0);
    let buses = monitor.pci().await.unwrap();
    // The host bridge of machine `pc`, Intel 82441FX.
    let bridge = &buses[0].devices[0];
    assert_eq!((bridge.id.vendor, bridge.id.device), (0x8086, 0x1237));
    let devices = monitor.block_devices().await.unwrap();
    let disk = devices
        .iter()
        .find_map(|device| device.inserted.as_ref())
        .unwrap();
    assert_eq!(disk.node_name.as_deref(), Some("base"));
    assert_eq!(disk.image.virtual_size, i64::try_from(DISK).unwrap());
    let stats = monitor.block_stats().await.unwrap();
    assert!(stats.iter().any(|stats| stats.stats.wr_bytes == 0));
    assert!(monitor.jobs().await.unwrap().is_empty());
    assert!(monitor.block_jobs().await.unwrap().is_empty());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_a_guest_is_told() {
    let (qemu, monitor) = guest(&["-no-shutdown"]).await;
    let history = monitor.history(100).await.unwrap();
    let mut mark = history.mark();
    monitor.stop().await.unwrap();
    assert_eq!(monitor.status().await.unwrap().status, RunState::Paused);
    monitor.cont().await.unwrap();
    assert!(monitor.status().await.unwrap().running);
    monitor.reset().await.unwrap();
    monitor.powerdown().await.unwrap();
    for name in ["STOP", "RESUME", "RESET", "POWERDOWN"] {
        let after = libvirt_qmp::After::Seq(mark);
        let found = history.get_events(name, after, PATIENCE).await.unwrap();
        mark = found.events[0].seq;
    }
    monitor.quit().await.unwrap();
    qemu.wait_ended();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_picture_of_the_screen() {
    let (qemu, monitor) = guest(&["-device", "VGA"]).await;
    let named = file(&qemu, "named.ppm");
    monitor.screendump(&named).await.unwrap();
    let open = file(&qemu, "open.ppm");
    monitor
        .screendump_to(File::create(&open).unwrap())
        .await
        .unwrap();
    for path in [named, open] {
        let picture = fs::read(path).unwrap();
        let header = String::from_utf8_lossy(&picture[..15]).into_owned();
        let mut words = header.split_ascii_whitespace();
        assert_eq!(words.next(), Some("P6"), "{header}");
        let mut number = || -> usize { words.next().unwrap().parse().unwrap() };
        let (width, height) = (number(), number());
        // Three bytes a pixel after a header of three lines.
        assert!(picture.len() > width * height * 3, "{header}");
    }
    let sets: Value = monitor.query("fdsets").await.unwrap();
    assert_eq!(sets, json!([]), "the descriptor is given back");
    // Nor does it stay where QEMU refuses: it has no second screen.
    let nowhere = monitor
        .screendump_to(File::open(file(&qemu, "open.ppm")).unwrap())
        .await;
    assert!(matches!(nowhere, Err(Error::Qmp(_))), "{nowhere:?}");
    let sets: Value = monitor.query("fdsets").await.unwrap();
    assert_eq!(sets, json!([]));
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_snapshot_is_taken_and_committed() {
    let (qemu, monitor) = guest_with_disk().await;
    let overlay = file(&qemu, "overlay.qcow2");
    let snapshot = Snapshot::of_node("base", &overlay).arg("snapshot-node-name", "overlay");
    monitor.snapshot(snapshot).await.unwrap();
    assert_eq!(image(&monitor).await, overlay.display().to_string());
    assert!(
        fs::read(&overlay).unwrap().starts_with(b"QFI\xfb"),
        "a qcow2"
    );

    monitor
        .commit(Commit::new("commit0", "overlay"), PATIENCE)
        .await
        .unwrap();
    assert_ne!(image(&monitor).await, overlay.display().to_string());
    assert!(monitor.jobs().await.unwrap().is_empty());

    // One that is not what the guest writes to completes by itself.
    for name in ["first", "second"] {
        let path = file(&qemu, name);
        let below = if name == "first" { "base" } else { "first" };
        let snapshot = Snapshot::of_node(below, &path).arg("snapshot-node-name", name);
        monitor.snapshot(snapshot).await.unwrap();
    }
    let lower = Commit::new("commit1", "second").arg("top-node", "first");
    monitor.commit(lower, PATIENCE).await.unwrap();
    assert_eq!(
        image(&monitor).await,
        file(&qemu, "second").display().to_string()
    );

    let unknown = Commit::new("commit2", "no-such-node");
    let error = monitor.commit(unknown, PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::Qmp(_)), "{error:?}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_mirror_is_ended_cancelled_and_completed() {
    let (qemu, monitor) = guest_with_disk().await;
    let source = image(&monitor).await;
    let mirror = |job: &str| Mirror::to_file(job, "base", file(&qemu, job)).arg("format", "raw");
    monitor.mirror(mirror("ended"), PATIENCE).await.unwrap();
    let jobs = monitor.jobs().await.unwrap();
    assert_eq!(
        (jobs[0].id.as_str(), &jobs[0].status),
        ("ended", &JobStatus::Ready)
    );
    assert!(monitor.block_jobs().await.unwrap()[0].ready);
    monitor.end_mirror("ended", PATIENCE).await.unwrap();
    let copy = fs::read(file(&qemu, "ended")).unwrap();
    assert_eq!((copy.len() as u64, &copy[..4]), (DISK, &b"DISK"[..]));
    assert_eq!(image(&monitor).await, source);

    monitor.mirror(mirror("cancelled"), PATIENCE).await.unwrap();
    monitor.cancel_job("cancelled", PATIENCE).await.unwrap();
    assert!(monitor.jobs().await.unwrap().is_empty());
    assert_eq!(image(&monitor).await, source);

    monitor.mirror(mirror("completed"), PATIENCE).await.unwrap();
    monitor.complete_job("completed", PATIENCE).await.unwrap();
    assert_eq!(
        image(&monitor).await,
        file(&qemu, "completed").display().to_string()
    );

    for error in [
        monitor
            .complete_job("no-such-job", PATIENCE)
            .await
            .unwrap_err(),
        monitor
            .cancel_job("no-such-job", PATIENCE)
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::Qmp(_)), "{error:?}");
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_job_that_fails_says_why() {
    let (_qemu, monitor) = guest_with_disk().await;
    // A target on which every write fails with EIO.
    let target = Command::new("blockdev-add").args(json!({
        "node-name": "broken",
        "driver": "blkdebug",
        "inject-error": [{"event": "none", "iotype": "write", "errno": 5}],
        "image": {"driver": "null-co", "size": DISK},
    }));
    let _: Value = monitor.execute(target).await.unwrap();
    let mirror = Mirror::to_node("failing", "base", "broken");
    match monitor.mirror(mirror, PATIENCE).await {
        Err(Error::Failed { reason, event, .. }) => {
            assert!(reason.contains("Input/output error"), "{reason}");
            assert!(event.is_some());
        }
        other => panic!("{other:?}"),
    }
    // The monitor is as good as before.
    monitor.connect().await.unwrap();
    assert!(monitor.jobs().await.unwrap().is_empty());
}
