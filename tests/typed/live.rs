//! The typed commands and events against a real QEMU.

use std::fs::File;
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::typed::*;
use libvirt_qmp::types::*;
use libvirt_qmp::{Command, Error, EventStream, Monitor, MonitorExt, SocketMonitor};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::qemu::Qemu;

/// More than anything here takes.
const SOON: Duration = Duration::from_secs(60);

async fn open(qemu: &Qemu) -> SocketMonitor {
    SocketMonitor::unix(qemu.unix_path()).await.unwrap()
}

/// The first event that `wanted` takes.
async fn until<T>(events: &mut EventStream, wanted: impl Fn(TypedEvent) -> Option<T>) -> T {
    let found = async {
        loop {
            let event = events.next().await.expect("no end").expect("no error");
            if let Some(found) = wanted(event.typed()) {
                return found;
            }
        }
    };
    timeout(SOON, found).await.expect("the event soon")
}

/// Waits until a job is in this state.
async fn job_is(events: &mut EventStream, id: &str, status: JobStatus) {
    until(events, |event| match event {
        TypedEvent::JobStatusChange(job) if job.id == id && job.status == status => Some(()),
        _ => None,
    })
    .await;
}

/// Waits until a migration is in this state.
async fn migration_is(events: &mut EventStream, status: MigrationStatus) {
    until(events, |event| match event {
        TypedEvent::Migration(change) if change.status == status => Some(()),
        _ => None,
    })
    .await;
}

/// Calls a query that returns the same each time, and sees that nothing of it is lost.
async fn query<C: QmpCommand>(monitor: &SocketMonitor, command: C) -> C::Return
where
    C::Return: Serialize,
{
    let raw: Value = monitor.execute(Command::new(C::NAME)).await.unwrap();
    let typed = monitor.call(command).await.unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), raw, "{}", C::NAME);
    typed
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn queries() {
    // It is not started: its firmware would set the PCI bridges up between two questions.
    let qemu = Qemu::start(&[
        "-S",
        "-name",
        "typed",
        "-uuid",
        "c0ffee00-0000-4000-8000-000000000001",
        "-smp",
        "2",
        "-object",
        "iothread,id=io0",
        "-device",
        "pci-bridge,chassis_nr=1,id=bridge0",
        "-device",
        "virtio-balloon-pci",
        "-blockdev",
        "null-co,node-name=null0,size=1048576",
        "-device",
        "virtio-blk-pci,drive=null0,id=vd0",
    ]);
    let monitor = open(&qemu).await;
    let status = query(&monitor, QueryStatus::new()).await;
    assert!(!status.running && status.status == RunState::Prelaunch);
    assert!(monitor.call(QueryVersion::new()).await.unwrap().major >= 7);
    assert_eq!(
        query(&monitor, QueryName::new()).await.name.as_deref(),
        Some("typed")
    );
    let uuid = query(&monitor, QueryUuid::new()).await.uuid;
    assert_eq!(uuid, "c0ffee00-0000-4000-8000-000000000001");
    assert!(!query(&monitor, QueryKvm::new()).await.enabled);
    let cpus = query(&monitor, QueryCpusFast::new()).await;
    assert_eq!((cpus[1].cpu_index, cpus[1].target.as_str()), (1, "x86_64"));
    assert!(cpus[0].props.as_ref().unwrap().core_id.is_some());
    let pci = query(&monitor, QueryPci::new()).await;
    let functions = &pci[0].devices;
    let bridge = functions.iter().find(|it| it.qdev_id == "bridge0").unwrap();
    assert!(bridge.pci_bridge.is_some());
    let disk = functions.iter().find(|it| it.qdev_id == "vd0").unwrap();
    assert!(disk.regions.iter().any(|region| region.kind == "memory"));
    assert_eq!(disk.id.vendor, 0x1af4);
    let chardevs = query(&monitor, QueryChardev::new()).await;
    assert!(chardevs.iter().any(|it| it.label == "lab-ready"));
    assert_eq!(query(&monitor, QueryIothreads::new()).await[0].id, "io0");
    let commands = query(&monitor, QueryCommands::new()).await;
    assert!(commands.iter().any(|it| it.name == "query-commands"));
    assert_eq!(query(&monitor, QueryBalloon::new()).await.actual, 32 << 20);
    assert_eq!(query(&monitor, QueryFdsets::new()).await, []);
    assert_eq!(query(&monitor, QueryJobs::new()).await, []);
    assert_eq!(query(&monitor, QueryBlockJobs::new()).await, []);
    assert_eq!(query(&monitor, QueryMigrate::new()).await.status, None);
    let capabilities = query(&monitor, QueryMigrateCapabilities::new()).await;
    assert!(capabilities.iter().any(|it| it.capability == "events"));
    let devices = query(&monitor, QueryBlock::new()).await;
    let medium = devices[0].inserted.as_ref().unwrap();
    assert_eq!(medium.node_name.as_deref(), Some("null0"));
    assert_eq!(medium.image.virtual_size, 1 << 20);
    let nodes = query(&monitor, QueryNamedBlockNodes::new()).await;
    assert_eq!(
        (nodes[0].drv.as_str(), nodes[0].cache.writeback),
        ("null-co", true)
    );
    let stats = monitor
        .call(QueryBlockstats::new().query_nodes(true))
        .await
        .unwrap();
    assert_eq!(stats[0].node_name.as_deref(), Some("null0"));
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn machine() {
    let qemu = Qemu::start(&["-vga", "std", "-device", "virtio-balloon-pci"]);
    let monitor = open(&qemu).await;
    let mut events = monitor.events().await.unwrap();

    monitor.call(Stop::new()).await.unwrap();
    until(&mut events, |event| {
        matches!(event, TypedEvent::Stop).then_some(())
    })
    .await;
    assert_eq!(
        monitor.call(QueryStatus::new()).await.unwrap().status,
        RunState::Paused
    );
    monitor.call(Cont::new()).await.unwrap();
    until(&mut events, |event| {
        matches!(event, TypedEvent::Resume).then_some(())
    })
    .await;
    monitor.call(SystemPowerdown::new()).await.unwrap();
    until(&mut events, |event| {
        matches!(event, TypedEvent::Powerdown).then_some(())
    })
    .await;
    monitor.call(SystemReset::new()).await.unwrap();
    let reset = until(&mut events, |event| match event {
        TypedEvent::Reset(reset) => Some(reset),
        _ => None,
    });
    assert_eq!(reset.await.reason, ShutdownCause::HostQmpSystemReset);
    // Nothing is asleep.
    let error = monitor.call(SystemWakeup::new()).await.unwrap_err();
    assert!(matches!(error, Error::Qmp(_)), "{error:?}");

    monitor.call(BalloonSet::new(24 << 20)).await.unwrap();
    monitor
        .call(SendKey::new([KeyCode::name("ctrl"), KeyCode::number(0x1c)]))
        .await
        .unwrap();
    let picture = qemu.dir().join("screen.png");
    let shot = Screendump::new(picture.display().to_string()).format(ScreenFormat::Png);
    monitor.call(shot).await.unwrap();
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    let text = monitor
        .call(HumanMonitorCommand::new("info status").cpu_index(0))
        .await;
    assert_eq!(text.unwrap(), "VM status: running\r\n");

    let iothread = ObjectAdd::new("iothread", "io1").extra("poll-max-ns", 0);
    monitor.call(iothread).await.unwrap();
    let path = "/objects/io1";
    let properties = monitor.call(QomList::new(path)).await.unwrap();
    assert!(
        properties
            .iter()
            .any(|it| it.name == "poll-grow" && it.kind == "int")
    );
    monitor
        .call(QomSet::new(path, "poll-grow", 3))
        .await
        .unwrap();
    assert_eq!(
        monitor.call(QomGet::new(path, "poll-grow")).await.unwrap(),
        3
    );
    monitor.call(ObjectDel::new("io1")).await.unwrap();

    // There is no VNC display.
    let password = SetPassword::new(DisplayProtocol::Vnc, "x").connected(PasswordAction::Keep);
    let error = monitor.call(password).await.unwrap_err();
    assert!(matches!(error, Error::Qmp(_)), "{error:?}");

    // The reply may not come.
    let _ = monitor.call(Quit::new()).await;
    let shutdown = until(&mut events, |event| match event {
        TypedEvent::Shutdown(shutdown) => Some(shutdown),
        _ => None,
    });
    assert_eq!(shutdown.await.reason, ShutdownCause::HostQmpQuit);
    qemu.wait_ended();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn descriptors() {
    let qemu = Qemu::start(&[]);
    let monitor = open(&qemu).await;
    let command = Command::from(AddFd::new().opaque("null")).file(File::open("/dev/null").unwrap());
    let added: AddedFd = monitor.execute(command).await.unwrap();
    let sets = monitor.call(QueryFdsets::new()).await.unwrap();
    assert_eq!(
        (sets[0].fdset_id, sets[0].fds[0].fd),
        (added.fdset_id, added.fd)
    );
    assert_eq!(sets[0].fds[0].opaque.as_deref(), Some("null"));
    monitor
        .call(RemoveFd::new(added.fdset_id).fd(added.fd))
        .await
        .unwrap();
    let command = Command::from(Getfd::new("null")).file(File::open("/dev/null").unwrap());
    let _: Nothing = monitor.execute(command).await.unwrap();
    monitor.call(Closefd::new("null")).await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn devices_and_media() {
    // It is not started: QEMU may say nothing of a device that a reset takes away before the firmware has seen it.
    let qemu = Qemu::start(&["-S", "-device", "ide-cd,id=cd0"]);
    let monitor = open(&qemu).await;
    let mut events = monitor.events().await.unwrap();

    monitor
        .call(ChardevAdd::new("c0", ChardevBackend::null()))
        .await
        .unwrap();
    let pty = monitor
        .call(ChardevAdd::new("c1", ChardevBackend::pty()))
        .await
        .unwrap()
        .pty;
    assert!(pty.unwrap().starts_with("/dev/"));
    let log = qemu.dir().join("log").display().to_string();
    monitor
        .call(ChardevAdd::new("c2", ChardevBackend::file(log)))
        .await
        .unwrap();
    let socket = qemu.dir().join("c3").display().to_string();
    monitor
        .call(ChardevAdd::new(
            "c3",
            ChardevBackend::unix_socket(socket, true),
        ))
        .await
        .unwrap();
    for id in ["c0", "c1", "c2", "c3"] {
        monitor.call(ChardevRemove::new(id)).await.unwrap();
    }

    monitor
        .call(NetdevAdd::new("hubport", "net0").extra("hubid", 1))
        .await
        .unwrap();
    let nic = DeviceAdd::new("virtio-net-pci")
        .id("nic0")
        .extra("netdev", "net0");
    monitor.call(nic).await.unwrap();
    monitor.call(SetLink::new("nic0", false)).await.unwrap();
    monitor.call(DeviceDel::new("nic0")).await.unwrap();
    // Without a guest's system nobody lets go of the device: the reset does.
    monitor.call(SystemReset::new()).await.unwrap();
    // It also closes the tray, so it must be over. Either of the two comes first.
    let (mut gone, mut is_over) = (None, false);
    while gone.is_none() || !is_over {
        let of_both = |event| match event {
            TypedEvent::DeviceDeleted(gone) if gone.device.is_some() => Some(Some(gone)),
            TypedEvent::Reset(_) => Some(None),
            _ => None,
        };
        match until(&mut events, of_both).await {
            None => is_over = true,
            deleted => gone = deleted,
        }
    }
    let gone = gone.unwrap();
    assert_eq!(gone.device.as_deref(), Some("nic0"));
    assert_eq!(gone.path, "/machine/peripheral/nic0");
    monitor.call(NetdevDel::new("net0")).await.unwrap();

    let tray = |event| match event {
        TypedEvent::DeviceTrayMoved(moved) => Some((moved.id, moved.tray_open)),
        _ => None,
    };
    monitor
        .call(BlockdevOpenTray::new().id("cd0").force(true))
        .await
        .unwrap();
    assert!(until(&mut events, tray).await.1);
    let disc = BlockdevOptions::null_co(2048)
        .node_name("disc0")
        .read_only(true);
    monitor.call(BlockdevAdd::new(disc)).await.unwrap();
    monitor
        .call(BlockdevInsertMedium::new("cd0", "disc0"))
        .await
        .unwrap();
    monitor
        .call(BlockdevCloseTray::new().id("cd0"))
        .await
        .unwrap();
    assert!(!until(&mut events, tray).await.1);
    let drive = &monitor.call(QueryBlock::new()).await.unwrap()[0];
    assert_eq!((drive.removable, drive.tray_open), (true, Some(false)));
    assert_eq!(
        drive.inserted.as_ref().unwrap().node_name.as_deref(),
        Some("disc0")
    );
    monitor
        .call(BlockdevOpenTray::new().id("cd0").force(true))
        .await
        .unwrap();
    monitor
        .call(BlockdevRemoveMedium::new("cd0"))
        .await
        .unwrap();
    monitor.call(BlockdevDel::new("disc0")).await.unwrap();
    let image = qemu.dir().join("disc.iso");
    std::fs::write(&image, [0; 4096]).unwrap();
    let change = BlockdevChangeMedium::new(image.display().to_string())
        .id("cd0")
        .format("raw")
        .read_only_mode(ReadOnlyMode::ReadOnly);
    monitor.call(change).await.unwrap();
    monitor
        .call(Eject::new().id("cd0").force(true))
        .await
        .unwrap();
    assert_eq!(
        monitor.call(QueryBlock::new()).await.unwrap()[0].inserted,
        None
    );
}

/// Creates an image and adds it as the node `name`.
async fn disk(monitor: &SocketMonitor, events: &mut EventStream, qemu: &Qemu, name: &str) {
    let path = qemu.dir().join(name).display().to_string();
    let create = async |events: &mut EventStream, options: Value| {
        monitor
            .call(BlockdevCreate::new("create", options))
            .await
            .unwrap();
        job_is(events, "create", JobStatus::Concluded).await;
        let jobs = monitor.call(QueryJobs::new()).await.unwrap();
        assert_eq!(
            (jobs[0].kind.clone(), jobs[0].error.clone()),
            (JobType::Create, None)
        );
        monitor.call(JobDismiss::new("create")).await.unwrap();
    };
    create(
        events,
        json!({"driver": "file", "filename": path, "size": 0}),
    )
    .await;
    let file = BlockdevOptions::file(path);
    monitor
        .call(BlockdevAdd::new(file.node_name("bare")))
        .await
        .unwrap();
    create(
        events,
        json!({"driver": "qcow2", "file": "bare", "size": 1 << 20}),
    )
    .await;
    monitor.call(BlockdevDel::new("bare")).await.unwrap();
    let file = BlockdevOptions::file(qemu.dir().join(name).display().to_string());
    let disk = BlockdevOptions::qcow2(file)
        .node_name(name)
        .discard(Discard::Unmap);
    monitor.call(BlockdevAdd::new(disk)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn block_jobs() {
    let qemu = Qemu::start(&[]);
    let monitor = open(&qemu).await;
    let mut events = monitor.events().await.unwrap();
    let events = &mut events;
    for name in ["disk0", "copy0"] {
        disk(&monitor, events, &qemu, name).await;
    }

    let bitmap = BlockDirtyBitmapAdd::new("disk0", "b0")
        .granularity(65536)
        .persistent(true);
    monitor.call(bitmap).await.unwrap();
    monitor
        .call(BlockDirtyBitmapDisable::new("disk0", "b0"))
        .await
        .unwrap();
    let nodes = monitor
        .call(QueryNamedBlockNodes::new().flat(true))
        .await
        .unwrap();
    let node = nodes
        .iter()
        .find(|node| node.node_name.as_deref() == Some("disk0"))
        .unwrap();
    assert_eq!(node.image.format_specific.as_ref().unwrap().kind, "qcow2");
    let bitmaps = node.dirty_bitmaps.as_ref().unwrap();
    assert_eq!(
        (bitmaps[0].granularity, bitmaps[0].recording),
        (65536, false)
    );
    monitor
        .call(BlockDirtyBitmapEnable::new("disk0", "b0"))
        .await
        .unwrap();
    monitor
        .call(BlockDirtyBitmapClear::new("disk0", "b0"))
        .await
        .unwrap();
    monitor
        .call(BlockDirtyBitmapRemove::new("disk0", "b0"))
        .await
        .unwrap();
    monitor
        .call(BlockResize::new(2 << 20).node_name("disk0"))
        .await
        .unwrap();
    monitor
        .call(BlockResize::new(2 << 20).node_name("copy0"))
        .await
        .unwrap();
    monitor
        .call(BlockSetWriteThreshold::new("disk0", 1 << 20))
        .await
        .unwrap();

    // A mirror, driven by hand.
    let mirror = BlockdevMirror::new("disk0", "copy0", MirrorSync::Full)
        .job_id("mirror0")
        .speed(1 << 20)
        .auto_dismiss(false)
        .on_target_error(OnBlockError::Report);
    monitor.call(mirror).await.unwrap();
    monitor.call(BlockJobPause::new("mirror0")).await.unwrap();
    let jobs = monitor.call(QueryBlockJobs::new()).await.unwrap();
    assert_eq!(
        (jobs[0].kind.clone(), jobs[0].paused),
        (JobType::Mirror, true)
    );
    assert_eq!((jobs[0].speed, jobs[0].auto_dismiss), (1 << 20, false));
    monitor
        .call(BlockJobSetSpeed::new("mirror0", 0))
        .await
        .unwrap();
    monitor.call(BlockJobResume::new("mirror0")).await.unwrap();
    let ready = until(events, |event| match event {
        TypedEvent::BlockJobReady(ready) => Some(ready),
        _ => None,
    });
    assert_eq!(ready.await.device, "mirror0");
    monitor
        .call(BlockJobComplete::new("mirror0"))
        .await
        .unwrap();
    let done = until(events, |event| match event {
        TypedEvent::BlockJobCompleted(done) => Some(done),
        _ => None,
    });
    let done = done.await;
    assert_eq!((done.kind, done.error), (JobType::Mirror, None));
    monitor.call(BlockJobDismiss::new("mirror0")).await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn snapshots_and_other_jobs() {
    let qemu = Qemu::start(&[]);
    let monitor = open(&qemu).await;
    let mut events = monitor.events().await.unwrap();
    let events = &mut events;
    for name in ["disk0", "copy0", "copy1"] {
        disk(&monitor, events, &qemu, name).await;
    }
    monitor
        .call(
            DeviceAdd::new("virtio-blk-pci")
                .id("vd0")
                .extra("drive", "disk0"),
        )
        .await
        .unwrap();

    let overlay = qemu.dir().join("overlay").display().to_string();
    let snapshot = BlockdevSnapshotSync::new(overlay)
        .node_name("disk0")
        .snapshot_node_name("overlay0")
        .mode(NewImageMode::AbsolutePaths);
    monitor.call(snapshot).await.unwrap();
    let drive = &monitor.call(QueryBlock::new()).await.unwrap()[0];
    let image = &drive.inserted.as_ref().unwrap().image;
    assert_eq!(image.backing_image.as_ref().unwrap().format, "qcow2");
    let stats = monitor.call(QueryBlockstats::new()).await.unwrap();
    assert!(stats[0].backing.is_some() && stats[0].parent.is_some());

    let stream = BlockStream::new("overlay0")
        .job_id("stream0")
        .auto_finalize(false);
    monitor.call(stream).await.unwrap();
    let pending = until(events, |event| match event {
        TypedEvent::BlockJobPending(pending) => Some(pending),
        _ => None,
    });
    assert_eq!(pending.await.id, "stream0");
    monitor
        .call(BlockJobFinalize::new("stream0"))
        .await
        .unwrap();
    job_is(events, "stream0", JobStatus::Null).await;

    let backup = BlockdevBackup::new("overlay0", "copy0", MirrorSync::Full)
        .job_id("backup0")
        .auto_finalize(false)
        .auto_dismiss(false);
    monitor.call(backup).await.unwrap();
    job_is(events, "backup0", JobStatus::Pending).await;
    monitor.call(JobFinalize::new("backup0")).await.unwrap();
    job_is(events, "backup0", JobStatus::Concluded).await;
    monitor.call(JobDismiss::new("backup0")).await.unwrap();

    // The other way to pause, cancel and complete.
    let mirror = BlockdevMirror::new("overlay0", "copy1", MirrorSync::Full).job_id("mirror1");
    monitor.call(mirror.speed(1)).await.unwrap();
    monitor.call(JobPause::new("mirror1")).await.unwrap();
    monitor.call(JobResume::new("mirror1")).await.unwrap();
    monitor.call(JobCancel::new("mirror1")).await.unwrap();
    job_is(events, "mirror1", JobStatus::Null).await;
    let target = qemu.dir().join("drive").display().to_string();
    let mirror = DriveMirror::new("overlay0", target, MirrorSync::Top).job_id("mirror2");
    monitor.call(mirror.format("qcow2")).await.unwrap();
    job_is(events, "mirror2", JobStatus::Ready).await;
    monitor
        .call(BlockJobCancel::new("mirror2").force(true))
        .await
        .unwrap();
    let cancelled = until(events, |event| match event {
        TypedEvent::BlockJobCancelled(cancelled) => Some(cancelled),
        _ => None,
    });
    assert_eq!(cancelled.await.device, "mirror2");
    job_is(events, "mirror2", JobStatus::Null).await;
    let target = qemu.dir().join("backup").display().to_string();
    let backup = DriveBackup::new("overlay0", target, "full")
        .job_id("backup1")
        .format("raw");
    monitor.call(backup).await.unwrap();
    job_is(events, "backup1", JobStatus::Null).await;

    // A new overlay, and back into the one below.
    disk(&monitor, events, &qemu, "overlay1").await;
    monitor
        .call(BlockdevSnapshot::new("overlay0", "overlay1"))
        .await
        .unwrap();
    let commit = BlockCommit::new("overlay1")
        .job_id("commit0")
        .base_node("overlay0");
    monitor.call(commit).await.unwrap();
    job_is(events, "commit0", JobStatus::Ready).await;
    monitor.call(JobComplete::new("commit0")).await.unwrap();
    job_is(events, "commit0", JobStatus::Null).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn migration_and_nbd() {
    let source = Qemu::start(&["-blockdev", "null-co,node-name=null0,size=1048576"]);
    let target = Qemu::start(&["-incoming", "defer"]);
    let (from, to) = (open(&source).await, open(&target).await);
    let mut events = from.events().await.unwrap();
    let events = &mut events;
    let mut arrivals = to.events().await.unwrap();
    let arrivals = &mut arrivals;
    let on = |name: &str| MigrationCapability::new(name, true);

    let sockets = [source.dir().join("nbd"), target.dir().join("migrate")];
    let [nbd, uri] = sockets.map(|path| path.display().to_string());
    from.call(NbdServerStart::new(NbdServerAddress::unix(nbd)).max_connections(1))
        .await
        .unwrap();
    from.call(NbdServerAdd::new("null0").name("e0").writable(false))
        .await
        .unwrap();
    from.call(NbdServerRemove::new("e0").mode("hard"))
        .await
        .unwrap();
    let gone = until(events, |event| match event {
        TypedEvent::BlockExportDeleted(gone) => Some(gone.id),
        _ => None,
    });
    assert_eq!(gone.await, "e0");
    from.call(NbdServerStop::new()).await.unwrap();

    let uri = format!("unix:{uri}");
    to.call(MigrateSetCapabilities::new([on("events")]))
        .await
        .unwrap();
    to.call(MigrateIncoming::new().uri(uri.as_str()))
        .await
        .unwrap();
    let capabilities = [on("events"), on("pause-before-switchover")];
    from.call(MigrateSetCapabilities::new(capabilities))
        .await
        .unwrap();
    let parameters = MigrateSetParameters::new()
        .max_bandwidth(1 << 30)
        .downtime_limit(2000);
    from.call(parameters).await.unwrap();
    from.call(Migrate::new().uri(uri.as_str())).await.unwrap();
    migration_is(events, MigrationStatus::PreSwitchover).await;
    let state = from.call(QueryMigrate::new()).await.unwrap();
    assert_eq!(state.status, Some(MigrationStatus::PreSwitchover));
    assert!(state.ram.unwrap().total >= 32 << 20);
    from.call(MigrateContinue::new(MigrationStatus::PreSwitchover))
        .await
        .unwrap();
    migration_is(events, MigrationStatus::Completed).await;
    let state = from.call(QueryMigrate::new()).await.unwrap();
    assert!(state.downtime.is_some() && state.total_time.is_some());
    let status = from.call(QueryStatus::new()).await.unwrap().status;
    assert!(
        matches!(status, RunState::FinishMigrate | RunState::Postmigrate),
        "{status}"
    );
    migration_is(arrivals, MigrationStatus::Completed).await;
    // There is nothing left to cancel, and that is no error.
    from.call(MigrateCancel::new()).await.unwrap();
}
