//! The real virsh against a private libvirtd and QEMU.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use libvirt_qmp::{
    AgentTimeout, Command, Config, EndCause, Error, EventOptions, EventStream, LibvirtError,
    Monitor, MonitorExt, Phase, RunOptions, Virsh,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fake::soon;
use crate::support::conformance::{self, next_of};
use crate::support::lab::{Lab, uuid_of};
use crate::support::process::{PATIENCE, find_program, poll_until, that_name};
use crate::{STATUS, cause};

fn monitor(lab: &Lab, domain: &str) -> Virsh {
    Virsh::new(lab.client_uri(), domain)
}

/// The processes of virsh on this lab that are left, their parents' or not.
fn virshes(lab: &Lab) -> Vec<String> {
    let mut found = that_name(&lab.unix_path());
    found.retain(|process| process.contains("virsh -q"));
    found
}

fn assert_gone(lab: &Lab) {
    let gone = poll_until(PATIENCE, || virshes(lab).is_empty().then_some(()));
    assert!(gone.is_some(), "left: {:?}", virshes(lab));
}

/// Waits until a command is at a QEMU that does not answer: another has no turn for half a second.
async fn wait_until_stuck(monitor: &Virsh) {
    let short = RunOptions::new().timeout(Duration::from_millis(500));
    match monitor.run_with(STATUS, short).await.unwrap_err() {
        error @ Error::Timeout {
            phase: Phase::Queue,
            ..
        } => assert!(!error.maybe_executed()),
        other => panic!("{other:?}"),
    }
}

async fn name(events: &mut EventStream) -> String {
    soon(events.next()).await.unwrap().unwrap().name
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_suite_passes() {
    let lab = Lab::start();
    lab.guest("stage-lb-1");
    let monitor = monitor(&lab, "stage-lb-1");
    conformance::suite(&monitor).await;
    assert!(virshes(&lab).is_empty(), "{:?}", virshes(&lab));
}

/// Defines and starts a guest of any name.
fn guest(lab: &Lab, name: &str, uuid: Uuid) {
    let escaped: String = name
        .chars()
        .map(|c| format!("&#{};", u32::from(c)))
        .collect();
    let qemu = find_program("qemu-system-x86_64").unwrap();
    let xml = format!(
        "<domain type='qemu'><name>{escaped}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
         <devices><emulator>{}</emulator><controller type='usb' model='none'/><memballoon model='none'/>\
         <video><model type='none'/></video></devices><seclabel type='none'/></domain>",
        qemu.display()
    );
    let file = lab.dir().join(format!("{uuid}.xml"));
    fs::write(&file, xml).unwrap();
    lab.virsh(&["define", &file.display().to_string()]);
    lab.virsh(&["start", &uuid.to_string()]);
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_domain_may_have_any_name() {
    let lab = Lab::start();
    let uuid = |n: usize| Uuid::from_u128(0x1000 + n as u128);
    let names = [
        // The id of the one after it.
        "2",
        "--help",
        "it's \"q\"; echo `id` $HOME \\",
        "a': <null>",
        "caf\u{e9} \u{1f600}",
        "5f3759df-0000-4000-8000-0123456789ab",
    ];
    for (n, name) in names.into_iter().enumerate() {
        guest(&lab, name, uuid(n));
    }
    for (n, name) in names.into_iter().enumerate() {
        let monitor = monitor(&lab, name);
        let mut events = soon(monitor.events()).await.unwrap();
        let own: Value = soon(monitor.query("uuid")).await.unwrap();
        assert_eq!(own["UUID"], uuid(n).to_string(), "{name}");
        soon(monitor.execute::<Value>(Command::new("stop")))
            .await
            .unwrap();
        let domain = next_of(&mut events, &["STOP"]).await.domain.unwrap();
        assert_eq!((domain.name.as_str(), domain.uuid), (name, uuid(n)));
        monitor.disconnect().await.unwrap();
    }
    // By UUID, whatever they are called.
    let by_uuid = Virsh::new(lab.client_uri(), uuid(2));
    soon(by_uuid.run(STATUS)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn errors_of_libvirt_come_at_the_call_that_caused_them() {
    let lab = Lab::start();
    lab.guest("one");
    let unknown = monitor(&lab, "none");
    for _ in 0..2 {
        assert!(soon(unknown.connect()).await.unwrap_err().is_not_found());
    }
    let unknown = Virsh::new(lab.client_uri(), Uuid::from_u128(7));
    assert!(soon(unknown.run(STATUS)).await.unwrap_err().is_not_found());

    let config = Config::new().readonly(true);
    let readonly = Virsh::with_config(lab.client_uri(), "one", config);
    soon(readonly.connect()).await.unwrap();
    for error in [
        soon(readonly.run(STATUS)).await.unwrap_err(),
        soon(readonly.events()).await.unwrap_err(),
    ] {
        assert!(error.is_denied() && !error.maybe_executed(), "{error:?}");
        assert_eq!(error.libvirt_code(), Some(LibvirtError::OPERATION_DENIED));
    }

    let monitor = monitor(&lab, "one");
    soon(monitor.run(STATUS)).await.unwrap();
    let ping = br#"{"execute":"guest-ping"}"#;
    for timeout in [
        AgentTimeout::Default,
        AgentTimeout::NoWait,
        AgentTimeout::Seconds(2),
    ] {
        let error = soon(monitor.agent(ping, timeout)).await.unwrap_err();
        // VIR_ERR_ARGUMENT_UNSUPPORTED: there is none.
        assert_eq!(error.libvirt_code(), Some(74), "{error:?}");
    }
    lab.destroy("one");
    let error = soon(monitor.run(STATUS)).await.unwrap_err();
    assert!(
        error.is_not_running() && !error.maybe_executed(),
        "{error:?}"
    );
    lab.virsh(&["undefine", "one"]);
    let error = soon(monitor.run(STATUS)).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    // The session has survived all of it.
    lab.guest("one");
    soon(monitor.run(STATUS)).await.unwrap();

    let nowhere = format!("qemu+unix:///session?socket={}/none", lab.dir().display());
    let error = soon(Virsh::new(nowhere, "one").connect())
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("/none"), "{error}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn long_and_odd_commands_arrive_as_they_are() {
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    // QEMU repeats the name of a command that it does not know.
    let odd = "it's \"; \\ \t\u{e9}\u{1f600}%\u{7f}`$(id)`!!^a#";
    for name in [odd.to_owned(), "x".repeat(1 << 20)] {
        let command = Command::new(name.clone());
        let run = monitor.execute::<Value>(command);
        match tokio::time::timeout(4 * PATIENCE, run).await.unwrap() {
            Err(Error::Qmp(error)) => assert!(error.desc.contains(&name)),
            other => panic!("{other:?}"),
        }
    }
    // A reply of a few hundred kilobytes.
    let schema: Vec<Value> = soon(monitor.query("qmp-schema")).await.unwrap();
    assert!(schema.len() > 500);
    soon(monitor.run(STATUS)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_descriptor_reaches_qemu() {
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    let path = lab.dir().join("passed");
    fs::write(&path, "x").unwrap();
    let file = File::open(&path).unwrap();
    let command = Command::new("add-fd").arg("fdset-id", 7).file(file);
    let added: Value = soon(monitor.execute(command)).await.unwrap();
    let fd = added["fd"].as_u64().unwrap();
    let link = fs::read_link(format!("/proc/{}/fd/{fd}", lab.qemu_pid("one"))).unwrap();
    assert_eq!(link, path);
    let named = Command::new("getfd")
        .arg("fdname", "x")
        .file(File::open(&path).unwrap());
    soon(monitor.execute::<Value>(named)).await.unwrap();
    soon(monitor.execute::<Value>(Command::new("closefd").arg("fdname", "x")))
        .await
        .unwrap();
    // Without one the command fails in QEMU.
    let none = Command::new("getfd").arg("fdname", "y");
    assert!(matches!(
        soon(monitor.execute::<Value>(none)).await,
        Err(Error::Qmp(_))
    ));
    let file = File::open(&path).unwrap();
    let two = [file.as_fd(), file.as_fd()];
    assert!(
        monitor
            .run_with_files(STATUS, &two)
            .await
            .unwrap_err()
            .is_unsupported()
    );
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn no_event_after_subscribing_is_missed() {
    let lab = Lab::start();
    lab.guest("one");
    // The first event right after the registration, each time with a new process.
    for _ in 0..5 {
        let monitor = monitor(&lab, "one");
        monitor.connect().await.unwrap();
        let mut events =
            soon(monitor.events_with(libvirt_qmp::EventOptions::new(["STOP", "RESUME"])))
                .await
                .unwrap();
        lab.virsh(&["suspend", "one"]);
        lab.virsh(&["resume", "one"]);
        assert_eq!(name(&mut events).await, "STOP");
        assert_eq!(name(&mut events).await, "RESUME");
        monitor.disconnect().await.unwrap();
        assert!(soon(events.next()).await.is_none());
    }
    // A guest that is started anew is the same domain.
    let monitor = monitor(&lab, "one");
    let mut events = soon(monitor.events()).await.unwrap();
    lab.destroy("one");
    assert_eq!(next_of(&mut events, &["SHUTDOWN"]).await.name, "SHUTDOWN");
    lab.virsh(&["start", "one"]);
    let resumed = next_of(&mut events, &["RESUME"]).await;
    assert_eq!(resumed.domain.unwrap().uuid, uuid_of("one"));
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_daemon_that_dies_ends_everything_with_the_cause() {
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    let mut events = soon(monitor.events()).await.unwrap();
    soon(monitor.run(STATUS)).await.unwrap();
    lab.pause_qemu("one");
    let (in_flight, waiting, ()) = soon(async {
        tokio::join!(monitor.run(STATUS), monitor.run(STATUS), async {
            wait_until_stuck(&monitor).await;
            lab.kill_daemon();
        })
    })
    .await;
    let (in_flight, waiting) = (in_flight.unwrap_err(), waiting.unwrap_err());
    assert!(
        matches!(cause(&in_flight), EndCause::PeerClosed),
        "{in_flight:?}"
    );
    assert!(in_flight.maybe_executed() && !waiting.maybe_executed());
    assert!(waiting.is_disconnected());
    loop {
        match soon(events.next()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                assert!(matches!(cause(&error), EndCause::PeerClosed), "{error:?}");
                break;
            }
            None => panic!("ended without the cause"),
        }
    }
    assert!(soon(events.next()).await.is_none());
    // It does not come back by itself.
    lab.resume_qemu("one");
    lab.restart_daemon();
    assert!(monitor.run(STATUS).await.unwrap_err().is_disconnected());
    assert!(monitor.events().await.unwrap_err().is_disconnected());
    assert_gone(&lab);
    soon(Virsh::new(lab.client_uri(), "one").run(STATUS))
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn history_is_written_nowhere_and_arguments_say_nothing() {
    let lab = Lab::start();
    let guest = lab.guest("one");
    let home = lab.dir().join("home-of-virsh");
    fs::create_dir(&home).unwrap();
    let virsh = find_program("virsh").unwrap();
    // A home of its own, with what a user may have there.
    fs::write(home.join(".inputrc"), "set editing-mode vi\n\"e\": \"x\"\n").unwrap();
    let program = script(
        &lab,
        &format!(
            "printf '%s\\n' \"$*\" >>{0}/argv\nunset XDG_CONFIG_HOME\n[ \"${{XDG_CACHE_HOME#/tmp/libvirt-qmp}}\" != \"$XDG_CACHE_HOME\" ] || unset XDG_CACHE_HOME\n\
             HOME={0}/home-of-virsh exec {1} \"$@\"",
            lab.dir().display(),
            virsh.display()
        ),
    );
    let monitor = monitor(&lab, "one").program(program);
    let _events = soon(monitor.events()).await.unwrap();
    let secret = Command::new("query-status").arg("password", "s3cret");
    soon(monitor.execute::<Value>(secret)).await.unwrap_err();
    soon(monitor.run(STATUS)).await.unwrap();
    soon(monitor.agent(br#"{"execute":"s3cret"}"#, AgentTimeout::NoWait))
        .await
        .unwrap_err();
    monitor.disconnect().await.unwrap();
    let files: Vec<PathBuf> = files_in(&home);
    assert_eq!(files, [home.join(".inputrc")]);
    let connect = format!("-q -k 5 -K 5 -c {}", lab.client_uri());
    let argv = fs::read_to_string(lab.dir().join("argv")).unwrap();
    let uuid = guest.uuid;
    let expected = [
        format!("{connect} domuuid --domain one"),
        connect.clone(),
        format!("{connect} qemu-monitor-event --domain {uuid} --loop"),
        connect,
    ];
    assert_eq!(argv.lines().collect::<Vec<_>>(), expected);
}

/// A program of these lines of sh, written by another process so that no child of another test holds it open.
fn script(lab: &Lab, lines: &str) -> PathBuf {
    let path = lab.dir().join("program");
    let text = lab.dir().join("program-text");
    fs::write(&text, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    let copied = Program::new("cp").args([&text, &path]).status().unwrap();
    assert!(copied.success());
    path
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(files_in(&path)),
            path => files.push(path),
        }
    }
    files
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_guest_that_dies_in_a_command_fails_that_command() {
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    let mut events = soon(monitor.events()).await.unwrap();
    soon(monitor.run(STATUS)).await.unwrap();
    lab.pause_qemu("one");
    let (in_flight, ()) = soon(async {
        tokio::join!(monitor.run(STATUS), async {
            wait_until_stuck(&monitor).await;
            lab.kill_qemu("one");
        })
    })
    .await;
    match in_flight.unwrap_err() {
        error @ Error::Libvirt(_) => assert!(error.maybe_executed(), "{error:?}"),
        other => panic!("{other:?}"),
    }
    let error = soon(monitor.run(STATUS)).await.unwrap_err();
    assert!(error.is_not_running(), "{error:?}");
    lab.virsh(&["start", "one"]);
    soon(monitor.run(STATUS)).await.unwrap();
    assert_eq!(next_of(&mut events, &["RESUME"]).await.name, "RESUME");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_stopped_qemu_costs_a_timeout_and_no_reply_is_mistaken() {
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    soon(monitor.run(STATUS)).await.unwrap();
    lab.pause_qemu("one");
    let short = RunOptions::new().timeout(Duration::from_millis(500));
    for phase in [Phase::Reply, Phase::Queue] {
        match monitor
            .run_with(br#"{"execute":"query-name"}"#, short)
            .await
            .unwrap_err()
        {
            Error::Timeout {
                phase: found,
                maybe_executed,
                ..
            } => {
                assert_eq!((found, maybe_executed), (phase, phase == Phase::Reply));
            }
            other => panic!("{other:?}"),
        }
    }
    lab.resume_qemu("one");
    let reply = conformance::run(&monitor, br#"{"execute":"query-status","id":9}"#).await;
    assert_eq!(
        (&reply["id"], &reply["return"]["status"]),
        (&json!(9), &json!("running"))
    );
    // A monitor that goes while QEMU is stopped is gone at once all the same.
    lab.pause_qemu("one");
    let error = monitor.run_with(STATUS, short).await.unwrap_err();
    assert!(error.is_timeout());
    soon(monitor.disconnect()).await.unwrap();
    assert!(virshes(&lab).is_empty());
    lab.resume_qemu("one");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_stopped_daemon_is_given_up_in_time() {
    let lab = Lab::start();
    lab.guest("one");
    let connected = monitor(&lab, "one");
    let events = soon(connected.events()).await.unwrap();
    lab.pause_daemon();
    let config = Config::new().connect_timeout(Some(Duration::from_millis(500)));
    let late = Virsh::with_config(lab.client_uri(), "one", config);
    let error = soon(late.connect()).await.unwrap_err();
    assert!(error.is_timeout() && error.is_unavailable(), "{error:?}");
    let short = RunOptions::new().timeout(Duration::from_millis(500));
    assert!(
        connected
            .run_with(STATUS, short)
            .await
            .unwrap_err()
            .is_timeout()
    );
    drop((connected, events, late));
    assert_gone(&lab);
    lab.resume_daemon();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn many_monitors_at_once() {
    let lab = Lab::start();
    lab.guest("one");
    lab.guest("two");
    let monitors: Vec<Virsh> = (0..8)
        .map(|n| monitor(&lab, ["one", "two"][n % 2]))
        .collect();
    let streams = join_all(monitors.iter().enumerate().map(|(n, monitor)| async move {
        let events = monitor.events().await.unwrap();
        for _ in 0..5 {
            let uuid: Value = monitor.query("uuid").await.unwrap();
            assert_eq!(uuid["UUID"], uuid_of(["one", "two"][n % 2]).to_string());
        }
        events
    }));
    let mut streams = tokio::time::timeout(2 * PATIENCE, streams).await.unwrap();
    lab.virsh(&["suspend", "one"]);
    lab.virsh(&["suspend", "two"]);
    for events in &mut streams {
        assert_eq!(next_of(events, &["STOP"]).await.name, "STOP");
    }
    drop((monitors, streams));
    assert_gone(&lab);
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_events_of_all_domains_come_beside_those_of_one() {
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    let options = || EventOptions::new(["STOP", "RESUME"]);
    let mut own = soon(monitor.events_with(options())).await.unwrap();
    let mut all = soon(monitor.all_monitor_events(options())).await.unwrap();
    // One that was not there before.
    lab.guest("two");
    for (domain, command, event) in [
        ("two", "suspend", "STOP"),
        ("one", "suspend", "STOP"),
        ("two", "resume", "RESUME"),
    ] {
        lab.virsh(&[command, domain]);
        loop {
            let came = soon(all.next()).await.unwrap().unwrap();
            let of = came.domain.clone().unwrap();
            assert_eq!((of.uuid.is_nil(), of.id), (true, None));
            if (&*came.name, &*of.name) == (event, domain) {
                break;
            }
            // Starting a guest lets it run.
            assert_eq!((&*came.name, &*of.name), ("RESUME", "two"));
        }
    }
    let came = next_of(&mut own, &["STOP", "RESUME"]).await;
    assert_eq!(
        (&*came.name, came.domain.unwrap().uuid),
        ("STOP", uuid_of("one"))
    );
    drop(all);
    lab.virsh(&["resume", "one"]);
    assert_eq!(name(&mut own).await, "RESUME");
    soon(monitor.disconnect()).await.unwrap();
    assert_gone(&lab);
}
