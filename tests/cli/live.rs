//! The program against a private libvirtd and QEMU.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::program::*;
use crate::support::lab::Lab;
use crate::support::process::that_name;
use crate::support::qemu::Qemu;
use crate::support::scratch::is_root;

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_list_and_run() {
    let lab = Lab::start();
    let guest = lab.guest(GUEST);
    let tcp = format!("qemu+tcp://{}/session", lab.tcp_addr());
    for uri in [lab.client_uri(), tcp] {
        let output = qmp(&["-C", &uri, "list", "--json"]).output().await.unwrap();
        let listed: Value = stdout(&output).parse().unwrap();
        assert_eq!(listed["name"], GUEST);
        assert_eq!(listed["uuid"], guest.uuid.to_string());
        assert_eq!(listed["state"], "active");
        for domain in [GUEST, &guest.uuid.to_string()] {
            let output = qmp(&["-C", &uri, "run", domain, "query-status"])
                .output()
                .await
                .unwrap();
            assert_eq!(code(&output), 0, "{}", stderr(&output));
            let status: Value = stdout(&output).parse().unwrap();
            assert_eq!(status["status"], "running");
        }
    }
    let uri = lab.client_uri();
    let arguments = ["qom-get", "path=/machine", "property=type"];
    let output = qmp(&["-C", &uri, "run", GUEST])
        .args(arguments)
        .output()
        .await
        .unwrap();
    assert!(
        stdout(&output).starts_with("\"pc"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );

    lab.pause_qemu(GUEST);
    let output = qmp(&["-C", &uri, "--timeout", "1", "run", GUEST, "stop"])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 4);
    assert!(
        stderr(&output).ends_with("qmp: the command may have been executed\n"),
        "{}",
        stderr(&output)
    );
    lab.resume_qemu(GUEST);

    lab.destroy(GUEST);
    let output = qmp(&["-C", &uri, "run", GUEST, "query-status"])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("not running"),
        "{}",
        stderr(&output)
    );
    let output = qmp(&["-C", &uri, "list"]).output().await.unwrap();
    assert!(
        stdout(&output).trim_end().ends_with("-   inactive"),
        "{}",
        stdout(&output)
    );
}

/// The program as the user whose daemon the lab's is: root has no session.
fn as_its_user(lab: &Lab, arguments: &[&str]) -> Command {
    if !is_root() {
        return qmp(arguments);
    }
    // Where it was built that user may not look. Copied by another process, for no program can be run while a child of this
    // one, just forked for another test, has it open for writing.
    let program = lab.dir().join("qmp");
    let copied = std::process::Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_qmp"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A session daemon is where its user's runtime directory is, and `libvirt.conf` in the directory of settings: no socket
/// is named.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_session_is_found_where_libvirt_looks() {
    let lab = Lab::start();
    lab.guest(GUEST);
    let settings = lab.dir().join("settings");
    std::fs::create_dir_all(settings.join("libvirt")).unwrap();
    let conf = "uri_aliases = [ \"mine=qemu:///session\" ]\nuri_default = \"mine\"\n";
    std::fs::write(settings.join("libvirt/libvirt.conf"), conf).unwrap();
    let nothing = lab.dir().join("nothing");
    let runtime = lab.dir().join("run");
    let run = async |arguments: &[&str], default, settings: &Path, runtime: &Path| {
        as_its_user(&lab, arguments)
            .env("LIBVIRT_DEFAULT_URI", default)
            .env("XDG_CONFIG_HOME", settings)
            .env("XDG_RUNTIME_DIR", runtime)
            .output()
            .await
            .unwrap()
    };
    let named: &[&str] = &["-C", "qemu:///session", "list", "--json"];
    let alias: &[&str] = &["-C", "mine", "list", "--json"];
    let default: &[&str] = &["list", "--json"];
    for (arguments, default, settings) in [
        (named, "qemu:///nothing", &nothing),
        (alias, "qemu:///nothing", &settings),
        (default, "qemu:///session", &nothing),
        (default, "", &settings),
    ] {
        let output = run(arguments, default, settings, &runtime).await;
        let error = stderr(&output);
        assert_eq!(code(&output), 0, "{arguments:?} {default}: {error}");
        let listed: Value = stdout(&output).parse().unwrap();
        assert_eq!(listed["name"], GUEST, "{arguments:?} {default}");
    }
    let output = run(named, "", &nothing, &nothing).await;
    let looked_for = nothing.join("libvirt/libvirt-sock").display().to_string();
    assert!(
        code(&output) != 0 && stderr(&output).contains(&looked_for),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_events_end_by_interrupt_and_by_a_lost_daemon() {
    let lab = Lab::start();
    lab.guest(GUEST);
    let uri = lab.client_uri();
    let (mut interrupted, mut lines) = watch(&["-C", &uri, "events", GUEST]);
    let (bereft, mut its_lines) = watch(&["-C", &uri, "events", "--json", GUEST]);
    let watching = tokio::spawn(async move {
        // The guest's firmware resets it now and then of its own.
        let text = loop {
            let text = line(&mut lines).await;
            if !text.contains(" RESET ") {
                break text;
            }
        };
        (text, line(&mut its_lines).await, lines, its_lines)
    });
    // An event before the registration is not seen, so there are events until both have seen one.
    let mut commands = ["stop", "cont"].into_iter().cycle();
    while !watching.is_finished() {
        let command = commands.next().unwrap();
        let output = qmp(&["-C", &uri, "run", GUEST, command])
            .output()
            .await
            .unwrap();
        assert_eq!(stdout(&output), "{}\n", "{}", stderr(&output));
    }
    let (text, json, _lines, _its_lines) = watching.await.unwrap();
    assert!(
        text.ends_with(" STOP") || text.ends_with(" RESUME"),
        "{text}"
    );
    let event: Value = json.parse().unwrap();
    assert_eq!(event["domain"]["name"], GUEST);
    interrupt(&interrupted).await;
    assert_eq!(interrupted.wait().await.unwrap().code(), Some(130));
    lab.kill_daemon();
    let output = bereft.wait_with_output().await.unwrap();
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(
        stderr(&output).starts_with("qmp: connection ended: "),
        "{}",
        stderr(&output)
    );
    let left: Vec<_> = that_name(lab.dir())
        .into_iter()
        .filter(|process| process.contains(env!("CARGO_BIN_EXE_qmp")))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

/// Runs a command, which succeeds.
async fn run(uri: &str, words: &[&str]) -> String {
    let mut command = qmp(&["-C", uri, "run"]);
    let output = within(command.args(words).output()).await.unwrap();
    assert_eq!(code(&output), 0, "{words:?}: {}", stderr(&output));
    stdout(&output)
}

/// What happens to a guest by these commands at `uri`, of which the first is `system_powerdown`, as `events` with these
/// arguments prints it, up to the event `last`. What its firmware does is left out.
async fn told_of(
    arguments: &[&str],
    uri: &str,
    domain: &[&str],
    commands: &[&str],
    last: &str,
) -> (Child, Vec<Value>) {
    let (child, mut lines) = watch(arguments);
    let command = async |name: &str| {
        let words: Vec<&str> = domain.iter().copied().chain([name]).collect();
        run(uri, &words).await;
    };
    // An event before the registration is seen by nobody, so there are events until one is seen.
    let seen = tokio::spawn(async move {
        line(&mut lines).await;
        lines
    });
    while !seen.is_finished() {
        command("stop").await;
        command("cont").await;
    }
    let mut lines = seen.await.unwrap();
    for name in commands {
        command(name).await;
    }
    let mut events: Vec<Value> = Vec::new();
    while events.last().is_none_or(|event| event["event"] != last) {
        let event: Value = line(&mut lines).await.parse().unwrap();
        let is_of_firmware = event["event"] == "RESET" && event["data"]["guest"] == true;
        // It is the first that is not from before.
        let has_begun = !events.is_empty() || event["event"] == "POWERDOWN";
        if has_begun && !is_of_firmware {
            events.push(event);
        }
    }
    (child, events)
}

/// The names of the events, in their order.
fn names(events: &[Value]) -> Vec<&str> {
    let names = events.iter().map(|event| event["event"].as_str().unwrap());
    names.collect()
}

const COMMANDS: [&str; 5] = ["system_powerdown", "system_reset", "stop", "cont", "quit"];
const LIFE: [&str; 5] = ["POWERDOWN", "RESET", "STOP", "RESUME", "SHUTDOWN"];

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_events_tell_a_guests_life() {
    let qemu = Qemu::start(&[]);
    let watched = format!("unix:{}", qemu.unix_path().display());
    let asked = format!("tcp:{}", qemu.tcp_addr());
    let arguments = ["-C", &watched, "events", "--json"];
    let (child, events) = told_of(&arguments, &asked, &[], &COMMANDS, "SHUTDOWN").await;
    assert_eq!(names(&events), LIFE);
    assert_eq!(events[1]["data"]["reason"], "host-qmp-system-reset");
    assert_eq!(events[4]["data"]["reason"], "host-qmp-quit");
    // With QEMU the stream ends, and all is well.
    let output = within(child.wait_with_output()).await.unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_events_of_all_domains_name_theirs() {
    let lab = Lab::start();
    lab.guest(GUEST);
    lab.guest("other");
    let uri = lab.client_uri();
    let wanted = LIFE.iter().flat_map(|name| ["-e", name]);
    let arguments: Vec<&str> = ["-C", &uri, "events", "--json"]
        .into_iter()
        .chain(wanted)
        .collect();
    // libvirt passes the last one on only where it reads it before it finds that QEMU has gone.
    let commands = &COMMANDS[..4];
    let (child, events) = told_of(&arguments, &uri, &[GUEST], commands, "RESUME").await;
    assert_eq!(names(&events), LIFE[..4]);
    for event in &events {
        assert_eq!(event["domain"]["name"], GUEST);
    }
    // The daemon is still there, and other domains may tell of more.
    send(&child, "TERM").await;
    let output = within(child.wait_with_output()).await.unwrap();
    assert_eq!((code(&output), stderr(&output)), (143, String::new()));
    assert_eq!(run(&uri, &["other", "stop"]).await, "{}\n");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_by_every_driver() {
    let lab = Lab::start();
    lab.guest(GUEST);
    let mut drivers = vec![lab.client_uri(), format!("virsh+{}", lab.client_uri())];
    if cfg!(feature = "libvirt-c") {
        drivers.push(format!("c+{}", lab.client_uri()));
    }
    for uri in &drivers {
        let mut command = qmp(&["-C", uri, "list", "--json"]);
        let output = within(command.output()).await.unwrap();
        let listed: Value = stdout(&output).parse().unwrap();
        assert_eq!(listed["name"], GUEST, "{uri}");
        assert_eq!(
            run(
                uri,
                &[GUEST, "qom-get", "path=/machine", "property=rtc-time"]
            )
            .await
            .lines()
            .count(),
            1
        );
        for (words, expected) in [
            (&["run", GUEST, "no-such-command"][..], 1),
            (&["run", "no-such-domain", "stop"], 1),
            (&["run", GUEST, "system_reset", "now=1"], 2),
        ] {
            let output = within(qmp(&["-C", uri]).args(words).output())
                .await
                .unwrap();
            assert_eq!(
                code(&output),
                expected,
                "{uri} {words:?}: {}",
                stderr(&output)
            );
            assert!(stderr(&output).starts_with("qmp: "), "{}", stderr(&output));
        }
        let mut command = qmp(&["-C", uri, "hmp", GUEST, "info", "version"]);
        let output = within(command.output()).await.unwrap();
        assert!(
            stdout(&output).starts_with(|c: char| c.is_ascii_digit()),
            "{uri}"
        );
        let picture = lab.dir().join("screen.png");
        let mut command = qmp(&["-C", uri, "screendump", GUEST, picture.to_str().unwrap()]);
        // The guest has no screen, and that is what QEMU says.
        let output = within(command.output()).await.unwrap();
        assert_eq!(code(&output), 1, "{uri}: {}", stderr(&output));
        assert!(!picture.exists());
    }
    lab.kill_daemon();
    for uri in &drivers {
        let output = within(qmp(&["-C", uri, "list"]).output()).await.unwrap();
        assert_eq!(code(&output), 3, "{uri}: {}", stderr(&output));
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_on_qemus_own_sockets() {
    let qemu = Qemu::start(&[]);
    let pretty = format!("unix:{}", qemu.pretty_path().display());
    for uri in [
        format!("unix:{}", qemu.unix_path().display()),
        format!("tcp:{}", qemu.tcp_addr()),
        pretty,
    ] {
        let output = qmp(&["-C", &uri, "run", "query-status"])
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 0, "{uri}: {}", stderr(&output));
        let status: Value = stdout(&output).parse().unwrap();
        assert!(status["running"].is_boolean(), "{status}");
        assert_eq!(stdout(&output).lines().count(), 1);
    }
}
