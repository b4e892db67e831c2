//! Waits against a real QEMU, on its own socket and through libvirtd.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{
    After, Callbacks, Command, Config, EndCause, Error, EventFilter, History, LibvirtRpc, Monitor,
    MonitorExt, Phase, SocketMonitor, Tray, Wait, WaitExt,
};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::support::lab::Lab;
use super::support::process::PATIENCE;
use super::support::qemu::Qemu;
use super::{cause, failure, timed_out};

/// Long enough for what would come to have come, where nothing is to come.
const SHORT: Duration = Duration::from_millis(300);

async fn connected(qemu: &Qemu) -> SocketMonitor {
    SocketMonitor::unix(qemu.unix_path()).await.unwrap()
}

/// Runs a command and waits; the name of the event.
async fn ran(monitor: &dyn Monitor, command: Command, wait: impl Into<Wait>) -> String {
    let what = format!("{command:?}");
    let ran = monitor.run_and_wait(command, wait, PATIENCE).await;
    let (_, waited) = ran.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let event = waited.into_event();
    event.unwrap_or_else(|| panic!("{what}: already")).name
}

async fn already(monitor: &dyn Monitor, wait: Wait) {
    let what = format!("{wait:?}");
    let waited = monitor.wait_for(wait, PATIENCE).await.expect(&what);
    assert!(waited.is_already(), "{what}: {waited:?}");
}

async fn failed(monitor: &dyn Monitor, command: Command, wait: Wait) -> (String, Option<String>) {
    let error = monitor.run_and_wait(command, wait, PATIENCE).await;
    failure(error.unwrap_err())
}

async fn run(monitor: &dyn Monitor, command: Command) -> Value {
    monitor.execute(command).await.unwrap()
}

/// Of the run state, through any driver. P21: each event precedes the reply.
async fn run_states(monitor: &dyn Monitor) {
    already(monitor, Wait::resume()).await;
    for _ in 0..10 {
        assert_eq!(
            ran(monitor, Command::new("stop"), Wait::stop()).await,
            "STOP"
        );
        assert_eq!(
            ran(monitor, Command::new("cont"), Wait::resume()).await,
            "RESUME"
        );
        assert_eq!(
            ran(monitor, Command::new("system_reset"), Wait::reset()).await,
            "RESET"
        );
    }
    let powerdown = ran(monitor, Command::new("system_powerdown"), Wait::powerdown()).await;
    assert_eq!(powerdown, "POWERDOWN");
    ran(monitor, Command::new("stop"), "STOP").await;
    already(monitor, Wait::stop()).await;
    // A guest that is stopped does not stop again, and nobody waits for that.
    let stop = monitor
        .run_and_wait(Command::new("stop"), Wait::stop(), PATIENCE)
        .await;
    assert!(stop.unwrap().1.is_already());
    let error = monitor
        .run_and_wait(Command::new("stop"), "STOP", SHORT)
        .await
        .unwrap_err();
    assert_eq!(timed_out(error), (Phase::Event, true));
    let error = monitor
        .run_and_wait(Command::new("no-such"), Wait::stop(), PATIENCE)
        .await;
    assert!(error.unwrap_err().is_command_not_found());
    ran(monitor, Command::new("cont"), "RESUME").await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn run_states_on_qemus_own_socket() {
    let qemu = Qemu::start(&[]);
    let monitor = connected(&qemu).await;
    // What is kept since the handshake is older than any wait.
    run(&monitor, Command::new("stop")).await;
    run(&monitor, Command::new("cont")).await;
    let error = monitor.wait_for("STOP", SHORT).await.unwrap_err();
    assert_eq!(timed_out(error), (Phase::Event, false));
    run_states(&monitor).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn run_states_and_history_through_libvirtd() {
    let lab = Lab::start();
    lab.guest("wait-1");
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let monitor = LibvirtRpc::with_config("wait-1", conn, Config::new().uri(lab.uri()));
    let history = monitor.history(History::CAPACITY).await.unwrap();
    run_states(&monitor).await;
    let entry = history
        .wait_for("POWERDOWN", After::Any, PATIENCE)
        .await
        .unwrap();
    assert!(entry.event.domain.is_some());
    let resets = history.find_events("RESET", After::Any);
    assert_eq!((resets.events.len(), resets.missed), (10, 0));

    let waiting = tokio::spawn({
        let history = history.clone();
        async move { history.wait_for("NEVER", After::Any, PATIENCE).await }
    });
    lab.kill_daemon();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_disconnected(), "{error:?}");
}

/// A mirror between two devices without data, and one onto a device whose first write fails.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn block_jobs() {
    let qemu = Qemu::start(&[
        "-blockdev",
        "null-co,node-name=source,size=1048576,read-zeroes=off",
        "-blockdev",
        "null-co,node-name=target,size=1048576",
        "-blockdev",
        r#"{"driver":"blkdebug","node-name":"broken","image":{"driver":"null-co","size":1048576},"inject-error":[{"event":"none","iotype":"write","errno":28}]}"#,
    ]);
    let monitor = connected(&qemu).await;
    let mirror = |job: &str, target: &str| {
        Command::new("blockdev-mirror")
            .arg("job-id", job)
            .arg("device", "source")
            .arg("target", target)
            .arg("sync", "full")
    };
    let of = |command: &str, job: &str| Command::new(command).arg("device", job);
    let history = monitor.history(History::CAPACITY).await.unwrap();

    assert_eq!(
        ran(&monitor, mirror("a", "target"), Wait::block_job_ready("a")).await,
        "BLOCK_JOB_READY"
    );
    already(&monitor, Wait::block_job_ready("a")).await;
    already(&monitor, Wait::job_status("a", "ready")).await;
    let complete = of("block-job-complete", "a");
    assert_eq!(
        ran(&monitor, complete, Wait::block_job_completed("a")).await,
        "BLOCK_JOB_COMPLETED"
    );
    // Dismissed by itself.
    history
        .wait_for(Wait::job_status("a", "null"), After::Any, PATIENCE)
        .await
        .unwrap();
    already(&monitor, Wait::job_status("a", "null")).await;
    already(&monitor, Wait::job_status("a", "concluded")).await;
    let error = monitor
        .wait_for(Wait::job_status("a", "ready"), PATIENCE)
        .await
        .unwrap_err();
    assert!(failure(error).0.starts_with("there is no such job"));
    // All of its life is in the history.
    let found = history.find_events("JOB_STATUS_CHANGE", After::Any);
    let statuses: Vec<Value> = found
        .events
        .iter()
        .map(|entry| entry.event.data_as().unwrap())
        .collect();
    let statuses: Vec<&str> = statuses
        .iter()
        .map(|data| data["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses[..3], ["created", "running", "ready"]);
    assert_eq!(statuses[statuses.len() - 2..], ["concluded", "null"]);

    // By the status of the job, ready to concluded.
    let status = |status: &str| Wait::job_status("b", status);
    ran(&monitor, mirror("b", "target"), status("ready")).await;
    ran(
        &monitor,
        Command::new("job-complete").arg("id", "b"),
        status("concluded"),
    )
    .await;

    // Cancelled: by force, and a wait for its completion fails.
    ran(
        &monitor,
        mirror("c", "target").arg("speed", 1),
        Wait::job_status("c", "running"),
    )
    .await;
    let cancel = of("block-job-cancel", "c");
    assert_eq!(
        ran(&monitor, cancel, Wait::block_job_cancelled("c")).await,
        "BLOCK_JOB_CANCELLED"
    );
    history
        .wait_for(Wait::job_status("c", "null"), After::Any, PATIENCE)
        .await
        .unwrap();
    ran(
        &monitor,
        mirror("d", "target").arg("speed", 1),
        Wait::job_status("d", "running"),
    )
    .await;
    let (reason, event) = failed(
        &monitor,
        of("block-job-cancel", "d"),
        Wait::block_job_completed("d"),
    )
    .await;
    assert_eq!(
        (reason.as_str(), event.as_deref()),
        ("it was cancelled", Some("BLOCK_JOB_CANCELLED"))
    );
    history
        .wait_for(Wait::job_status("d", "null"), After::Any, PATIENCE)
        .await
        .unwrap();

    // ENOSPC, as QEMU says it. `report` is what a mirror does with an error unless told otherwise.
    for (job, wait) in [
        ("e", Wait::job_status("e", "ready")),
        ("f", Wait::block_job_ready("f")),
        ("g", Wait::block_job_completed("g")),
    ] {
        let (reason, event) = failed(&monitor, mirror(job, "broken"), wait).await;
        assert_eq!(reason, "No space left on device", "{event:?}");
        history
            .wait_for(Wait::job_status(job, "null"), After::Any, PATIENCE)
            .await
            .unwrap();
    }
    let error = ran(&monitor, mirror("h", "broken"), Wait::block_job_error("h")).await;
    assert_eq!(error, "BLOCK_JOB_ERROR");
    history
        .wait_for(Wait::job_status("h", "null"), After::Any, PATIENCE)
        .await
        .unwrap();

    // One that waits to be finalized and dismissed.
    let manual = mirror("i", "target")
        .arg("auto-finalize", false)
        .arg("auto-dismiss", false);
    ran(&monitor, manual, Wait::block_job_ready("i")).await;
    let complete = of("block-job-complete", "i");
    assert_eq!(
        ran(&monitor, complete, Wait::block_job_pending("i")).await,
        "BLOCK_JOB_PENDING"
    );
    already(&monitor, Wait::block_job_pending("i")).await;
    let finalize = Command::new("job-finalize").arg("id", "i");
    ran(&monitor, finalize, Wait::job_status("i", "concluded")).await;
    already(&monitor, Wait::block_job_completed("i")).await;
    let dismiss = Command::new("job-dismiss").arg("id", "i");
    ran(&monitor, dismiss, Wait::job_status("i", "null")).await;
}

/// Creating an image is no block job: only its status tells of it, and `query-jobs` why it failed.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_job_that_is_no_block_job() {
    let qemu = Qemu::start(&[]);
    let monitor = connected(&qemu).await;
    let create = |job: &str, file: &str| {
        let file = qemu.dir().join(file).display().to_string();
        let options = json!({"driver": "file", "filename": file, "size": 65536});
        Command::new("blockdev-create")
            .arg("job-id", job)
            .arg("options", options)
    };
    let dismiss = |job: &str| Command::new("job-dismiss").arg("id", job);
    ran(
        &monitor,
        create("one", "image"),
        Wait::job_status("one", "concluded"),
    )
    .await;
    assert!(qemu.dir().join("image").is_file());
    already(&monitor, Wait::job_status("one", "concluded")).await;
    ran(&monitor, dismiss("one"), Wait::job_status("one", "null")).await;

    let wait = Wait::job_status("two", "ready");
    let (reason, event) = failed(&monitor, create("two", "none/image"), wait).await;
    assert!(reason.contains("No such file or directory"), "{reason}");
    assert_eq!(event.as_deref(), Some("JOB_STATUS_CHANGE"));
    let error = monitor
        .wait_for(Wait::job_status("two", "ready"), PATIENCE)
        .await
        .unwrap_err();
    let (reason, event) = failure(error);
    assert!(
        reason.contains("No such file or directory") && event.is_none(),
        "{reason}"
    );
    ran(&monitor, dismiss("two"), Wait::job_status("two", "null")).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn devices_that_are_unplugged() {
    let qemu = Qemu::start(&["-device", "virtio-serial-pci,id=bus"]);
    let monitor = connected(&qemu).await;
    let add = |driver: &str, id: &str| {
        Command::new("device_add")
            .arg("driver", driver)
            .arg("id", id)
    };
    let unplug = |id: &str| Command::new("device_del").arg("id", id);

    // One that no guest has to agree to.
    run(
        &monitor,
        add("virtserialport", "port")
            .arg("bus", "bus.0")
            .arg("name", "x"),
    )
    .await;
    let error = monitor
        .wait_for(Wait::device_deleted("port"), SHORT)
        .await
        .unwrap_err();
    assert_eq!(timed_out(error), (Phase::Event, false));
    assert_eq!(
        ran(&monitor, unplug("port"), Wait::device_deleted("port")).await,
        "DEVICE_DELETED"
    );
    already(&monitor, Wait::device_deleted("port")).await;
    already(&monitor, Wait::device_deleted("/machine/peripheral/port")).await;
    let gone = monitor
        .run_and_wait(unplug("port"), Wait::device_deleted("port"), PATIENCE)
        .await;
    assert!(gone.unwrap_err().is_device_not_found());

    // One that a guest has to give up: here is none, so it goes with the next reset.
    for by in ["serial", "/machine/peripheral/serial"] {
        run(&monitor, add("pci-serial", "serial")).await;
        let error = monitor
            .run_and_wait(unplug("serial"), Wait::device_deleted(by), SHORT)
            .await;
        assert_eq!(timed_out(error.unwrap_err()), (Phase::Event, true));
        let reset = Command::new("system_reset");
        assert_eq!(
            ran(&monitor, reset, Wait::device_deleted(by)).await,
            "DEVICE_DELETED"
        );
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn trays() {
    let qemu = Qemu::start(&[
        "-drive",
        "if=none,id=backend,media=cdrom,read-only=on,file=null-co://,format=raw",
        "-device",
        "ide-cd,id=named,drive=backend",
        "-device",
        "ide-cd,id=bare",
    ]);
    let monitor = connected(&qemu).await;
    let tray = |verb: &str, id: &str| Command::new(format!("blockdev-{verb}-tray")).arg("id", id);
    for by in ["named", "backend"] {
        already(&monitor, Wait::tray(by, Tray::Closed)).await;
        for (verb, wait) in [
            ("open", Tray::Open),
            ("close", Tray::Closed),
            ("open", Tray::Any),
            ("close", Tray::Any),
        ] {
            let event = ran(&monitor, tray(verb, "named"), Wait::tray(by, wait)).await;
            assert_eq!(event, "DEVICE_TRAY_MOVED");
        }
    }
    let eject = Command::new("eject").arg("id", "bare");
    ran(&monitor, eject, Wait::tray("bare", Tray::Open)).await;
    already(&monitor, Wait::tray("bare", Tray::Open)).await;
    // It is open, and ejecting it again moves nothing.
    let eject = Command::new("eject").arg("id", "bare");
    let again = monitor
        .run_and_wait(eject, Wait::tray("bare", Tray::Open), PATIENCE)
        .await;
    assert!(again.unwrap().1.is_already());
    let error = monitor
        .wait_for(Wait::tray("named", Tray::Open), SHORT)
        .await
        .unwrap_err();
    assert_eq!(timed_out(error), (Phase::Event, false));
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn migrations() {
    let qemu = Qemu::start(&[]);
    let monitor = connected(&qemu).await;
    let events = json!([{"capability": "events", "state": true}]);
    run(
        &monitor,
        Command::new("migrate-set-capabilities").arg("capabilities", events),
    )
    .await;
    let migrate = |uri: &str| Command::new("migrate").arg("uri", uri);
    let (reason, _) = failed(
        &monitor,
        migrate("exec:exit 1"),
        Wait::migration("completed"),
    )
    .await;
    assert!(!reason.is_empty());
    let to_nowhere = || migrate("exec:cat >/dev/null");
    assert_eq!(
        ran(&monitor, to_nowhere(), Wait::migration("completed")).await,
        "MIGRATION"
    );
    already(&monitor, Wait::migration("completed")).await;
    already(&monitor, Wait::stop()).await;
    let error = monitor
        .wait_for(Wait::migration("active"), PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(failure(error), ("it has completed".to_owned(), None));
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_end_of_qemu() {
    let qemu = Qemu::start(&[]);
    let monitor = Arc::new(connected(&qemu).await);
    let history = monitor.history(10).await.unwrap();
    let waiting = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.wait_for("NEVER", PATIENCE).await }
    });
    // P30: the event comes before the end; the reply may not.
    let ended = monitor
        .run_and_wait(Command::new("quit"), Wait::shutdown(), PATIENCE)
        .await;
    match ended {
        Ok((_, waited)) => assert_eq!(waited.event().unwrap().name, "SHUTDOWN"),
        Err(error) => assert!(error.is_disconnected(), "{error:?}"),
    }
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(cause(&error), EndCause::PeerClosed | EndCause::Io(_)),
        "{error:?}"
    );
    history
        .wait_for(Wait::shutdown(), After::Any, PATIENCE)
        .await
        .unwrap();
    let error = history
        .wait_for("NEVER", After::Any, PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(cause(&error), EndCause::PeerClosed), "{error:?}");

    let qemu = Qemu::start(&[]);
    let monitor = connected(&qemu).await;
    let history = monitor.history(10).await.unwrap();
    qemu.kill();
    let error = history
        .wait_for("NEVER", After::Any, PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(cause(&error), EndCause::PeerClosed | EndCause::Io(_)),
        "{error:?}"
    );

    let qemu = Qemu::start(&[]);
    let monitor = connected(&qemu).await;
    let history = monitor.history(10).await.unwrap();
    let handler = monitor.on_event(EventFilter::any(), |_| {}).await.unwrap();
    let (waited, ()) = tokio::join!(history.wait_for("NEVER", After::Any, PATIENCE), async {
        monitor.disconnect().await.unwrap();
    });
    assert!(matches!(waited.unwrap_err(), Error::Closed));
    drop(handler);
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn callbacks_stop_and_go() {
    let qemu = Qemu::start(&[]);
    let monitor = Arc::new(connected(&qemu).await);
    let callbacks = Callbacks::new(monitor.clone());
    let history = monitor.history(History::CAPACITY).await.unwrap();
    let resume = callbacks.on_event("STOP", |callbacks, item| {
        item.unwrap();
        callbacks.command(Command::new("cont"), |_, reply| assert!(reply.is_ok()));
    });
    resume.await.unwrap().detach();
    for _ in 0..5 {
        callbacks.command(Command::new("stop"), |_, reply| assert!(reply.is_ok()));
        tokio::time::timeout(PATIENCE, callbacks.wait_idle())
            .await
            .unwrap();
        let status: Value = monitor.query("status").await.unwrap();
        assert_eq!(status["running"], true);
    }
    assert_eq!(callbacks.panics(), 0);
    assert_eq!(
        history
            .find_events(["STOP", "RESUME"], After::Any)
            .events
            .len(),
        10
    );
}
