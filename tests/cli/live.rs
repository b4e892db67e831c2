//! The program against a private libvirtd and QEMU.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::program::*;
use crate::support::lab::{Lab, uuid_of};
use crate::support::process::{PATIENCE, poll_until, that_name};
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

/// What happens to a guest by these commands, which `command` runs, as `events` with these arguments prints it: from the first
/// event of `life` up to its last. What the firmware does is left out. Gives the rest of what is printed too: where nobody
/// reads that, the program ends.
async fn told_of(
    arguments: &[&str],
    command: impl AsyncFn(&str),
    commands: &[&str],
    life: &[&str],
) -> (Child, Lines<BufReader<ChildStdout>>, Vec<Value>) {
    let (child, mut lines) = watch(arguments);
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
    let (first, last) = (life[0], life[life.len() - 1]);
    while events.last().is_none_or(|event| event["event"] != last) {
        let event: Value = line(&mut lines).await.parse().unwrap();
        let is_of_firmware = event["event"] == "RESET" && event["data"]["guest"] == true;
        // It is the first that is not from before.
        let has_begun = !events.is_empty() || event["event"] == first;
        if has_begun && !is_of_firmware {
            events.push(event);
        }
    }
    (child, lines, events)
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
    let command = async |name: &str| drop(run(&asked, &[name]).await);
    let (child, _rest, events) = told_of(&arguments, command, &COMMANDS, &LIFE).await;
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
    // After `quit` libvirt passes SHUTDOWN on only where it reads it before it finds that QEMU has gone.
    let command = async |name: &str| drop(run(&uri, &[GUEST, name]).await);
    let (child, _rest, events) = told_of(&arguments, command, &COMMANDS[..4], &LIFE[..4]).await;
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

/// A boot sector: enables the power button, writes `!` to the serial line, and turns the machine off when the button was
/// pressed. The ports are those of the machine `pc`: ACPI's status, enable and control at 0x600, 0x602 and 0x604.
const BOOT_SECTOR: [u8; 37] = [
    0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // out 0x602, 0x100: the power button counts
    0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, // out 0x3f8, '!'
    0xfb, // sti
    0xf4, // hlt: until the timer's next interrupt
    0xba, 0x00, 0x06, 0xed, // in ax, 0x600
    0xf6, 0xc4, 0x01, 0x74, 0xf6, // back to hlt, unless the button was pressed
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, // out 0x604, 0x2000: off
    0xf4, 0xeb, 0xfd, // hlt, for ever
    0, 0, 0,
];

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_events_tell_a_guests_life_through_libvirt() {
    let lab = Lab::start();
    let (disk, serial) = (lab.dir().join("disk"), lab.dir().join("serial"));
    let mut sector = [0; 512];
    sector[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&disk, sector).unwrap();
    // QEMU is somebody else's where the tests are root's.
    std::fs::set_permissions(&disk, std::fs::Permissions::from_mode(0o666)).unwrap();
    let devices = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='hda' bus='ide'/></disk><serial type='file'><source path='{}'/></serial>",
        disk.display(),
        serial.display()
    );
    lab.guest_with(GUEST, uuid_of(GUEST), &devices);
    let has_booted = |times: usize| {
        let booted = poll_until(PATIENCE, || {
            let said = std::fs::read(&serial).unwrap_or_default();
            (said.iter().filter(|byte| **byte == b'!').count() >= times).then_some(())
        });
        assert!(booted.is_some(), "it did not boot {times} times");
    };
    has_booted(1);
    let uri = lab.client_uri();
    let arguments = ["-C", &uri, "events", "--json", GUEST];
    let command = async |name: &str| {
        run(&uri, &[GUEST, name]).await;
        if name == "system_reset" {
            has_booted(2);
        }
    };
    let commands = ["system_reset", "stop", "cont", "system_powerdown"];
    let life = ["RESET", "STOP", "RESUME", "POWERDOWN", "SHUTDOWN"];
    let (child, _rest, events) = told_of(&arguments, command, &commands, &life).await;
    assert_eq!(names(&events), life);
    assert_eq!(events[0]["data"]["reason"], "host-qmp-system-reset");
    assert_eq!(events[4]["data"]["reason"], "guest-shutdown");
    // Nobody reads what else it prints, so it may have ended by itself.
    drop(child);
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
    // Without a URI each has libvirt's default, the transport and the socket of which count.
    for driver in ["", "virsh+", "c+"] {
        if driver == "c+" && !cfg!(feature = "libvirt-c") {
            continue;
        }
        let mut command = qmp(&["list", "--json"]);
        if !driver.is_empty() {
            command.args(["-C", driver]);
        }
        command.env("LIBVIRT_DEFAULT_URI", lab.client_uri());
        let output = within(command.output()).await.unwrap();
        assert_eq!(code(&output), 0, "{driver}: {}", stderr(&output));
        assert!(stdout(&output).contains(GUEST), "{driver}");
    }
    lab.kill_daemon();
    for uri in &drivers {
        let output = within(qmp(&["-C", uri, "list"]).output()).await.unwrap();
        assert_eq!(code(&output), 3, "{uri}: {}", stderr(&output));
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_events_of_all_domains_by_every_driver() {
    let lab = Lab::start();
    lab.guest("one");
    lab.guest("two");
    let mut drivers = vec!["", "virsh+"];
    drivers.extend(cfg!(feature = "libvirt-c").then_some("c+"));
    for driver in drivers {
        let uri = format!("{driver}{}", lab.client_uri());
        let (mut child, mut lines) = watch(&["-C", &uri, "events", "-e", "STOP", "-e", "RESUME"]);
        // Until the first is printed, nobody knows that it listens.
        let first = {
            let mut first = std::pin::pin!(line(&mut lines));
            loop {
                lab.virsh(&["suspend", "one"]);
                lab.virsh(&["resume", "one"]);
                let moment = std::time::Duration::from_millis(100);
                if let Ok(first) = tokio::time::timeout(moment, &mut first).await {
                    break first;
                }
            }
        };
        assert!(first.starts_with("one "), "{driver}: {first}");
        lab.virsh(&["suspend", "two"]);
        lab.virsh(&["resume", "two"]);
        for event in ["STOP", "RESUME"] {
            let text = within(async {
                loop {
                    let text = line(&mut lines).await;
                    if !text.starts_with("one ") {
                        break text;
                    }
                }
            });
            let text = text.await;
            assert!(
                text.starts_with("two ") && text.ends_with(event),
                "{driver}: {text}"
            );
        }
        send(&child, "TERM").await;
        assert_eq!(
            within(child.wait()).await.unwrap().code(),
            Some(143),
            "{driver}"
        );
    }
    let virshes = || -> Vec<String> {
        let mut found = that_name(&lab.unix_path());
        found.retain(|process| process.contains("qemu-monitor-event"));
        found
    };
    let gone = poll_until(PATIENCE, || virshes().is_empty().then_some(()));
    assert!(gone.is_some(), "left: {:?}", virshes());
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
