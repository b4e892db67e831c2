//! A real QEMU, on its own socket and through a real libvirtd.

use crate::pty::{CTRL_C, CTRL_D, Pty};
use crate::support::lab::Lab;
use crate::support::process::that_name;
use crate::support::qemu::Qemu;
use crate::support::scratch::Scratch;

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn live_on_qemus_own_socket() {
    let qemu = Qemu::start(&[]);
    let uri = format!("unix:{}", qemu.unix_path().display());
    let mut pty = Pty::qmp(&["-C", &uri, "shell"], qemu.dir());
    pty.wait_for("QEMU ");
    pty.wait_for_line("qmp> ");
    pty.enter("blockdev-add file.driver=null-co file.size=65536 node-name=disk0 driver=raw");
    pty.wait_for_line("qmp> ");
    // The node is there now, and its name is completed.
    pty.send("query-named-block-nodes fl");
    pty.tab_until("qmp> query-named-block-nodes flat=");
    pty.send("true\r");
    pty.wait_for(r#""node-name":"disk0""#);
    pty.wait_for_line("qmp> ");
    pty.send("blockdev-del node-name=di");
    pty.tab_until("qmp> blockdev-del node-name=disk0");
    pty.send("\x15qom-get path=/mach");
    pty.tab_until("qmp> qom-get path=/machine/ property=str");
    pty.send("\x15");
    pty.enter("transaction(");
    pty.enter("block-dirty-bitmap-add node=disk0 name=a");
    pty.enter("block-dirty-bitmap-add node=disk0 name=b");
    pty.enter(")");
    pty.wait_for_line("qmp> ");
    pty.enter("query-block-jobs");
    pty.wait_for("[]");
    pty.send("stop\r");
    pty.wait_for(" STOP");
    pty.enter("!oob query-yank");
    pty.wait_for_line("qmp> ");
    let screen = pty.screen();
    assert!(!screen.contains("error"), "{screen}");
    pty.enter("quit");
    assert_eq!(pty.end(), 0);
    assert!(pty.is_cooked());
    qemu.wait_ended();
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn live_through_libvirtd() {
    let lab = Lab::start();
    lab.guest("one");
    let uri = lab.client_uri();
    let mut pty = Pty::qmp(&["-C", &uri, "shell", "one"], lab.dir());
    pty.wait_for_line("one> ");
    pty.send("stop");
    pty.wait_for_line("one> stop");
    pty.send("\r");
    pty.wait_for(" STOP");
    pty.wait_for_line("one> ");
    pty.send("query-sta");
    pty.wait_for_line("one> query-sta");
    // From elsewhere, in the middle of a line.
    lab.virsh(&["qemu-monitor-command", "one", "--hmp", "cont"]);
    pty.wait_for(" RESUME");
    pty.wait_for_line("one> query-sta");
    pty.send("tu");
    pty.tab_until("one> query-status");
    pty.send("\r");
    pty.wait_for(r#""status":"running""#);
    pty.wait_for_line("one> ");
    lab.destroy("one");
    pty.wait_for(" SHUTDOWN");
    pty.enter("query-status");
    pty.wait_for("error: ");
    pty.wait_for_line("one> ");
    pty.send(CTRL_D);
    assert_eq!(pty.end(), 0);

    lab.guest("two");
    let mut pty = Pty::qmp(&["-C", &uri, "shell", "-H", "two"], lab.dir());
    pty.wait_for_line("two (hmp)> ");
    pty.send("info statu");
    pty.tab_until("two (hmp)> info status");
    pty.send("\r");
    pty.wait_for("VM status: running");
    pty.wait_for_line("two (hmp)> ");
    pty.send("half a li");
    pty.wait_for_line("two (hmp)> half a li");
    lab.kill_daemon();
    assert_eq!(pty.end(), 3);
    assert!(pty.is_cooked());
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn live_through_virsh() {
    live_by_another_driver("virsh+");
}

#[cfg(feature = "libvirt-c")]
#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn live_through_the_c_library() {
    live_by_another_driver("c+");
}

/// Completion from the schema and from the running QEMU, events above the line, errors, HMP, and both ways to end.
fn live_by_another_driver(driver: &str) {
    let lab = Lab::start();
    lab.guest("one");
    let uri = format!("{driver}{}", lab.client_uri());
    let mut pty = Pty::qmp(&["-C", &uri, "shell", "one"], lab.dir());
    pty.wait_for("QEMU ");
    pty.wait_for_line("one> ");
    pty.enter("blockdev-add file.driver=null-co file.size=64K node-name=disk0 driver=raw");
    pty.wait_for("{}");
    pty.wait_for_line("one> ");
    pty.send("block-dirty-bitmap-a");
    pty.tab_until("one> block-dirty-bitmap-add node=str name=str");
    pty.send("node=di");
    pty.tab_until("one> block-dirty-bitmap-add node=disk0 name=str");
    pty.send("\x15");
    pty.wait_for_line("one> ");
    pty.send("query-sta");
    pty.wait_for_line("one> query-sta");
    lab.virsh(&["suspend", "one"]);
    pty.wait_for(" STOP");
    pty.wait_for_line("one> query-sta");
    pty.send("tu");
    pty.tab_until("one> query-status");
    pty.send("\r");
    pty.wait_for(r#""status":"paused""#);
    pty.wait_for_line("one> ");
    pty.enter("blockdev-del node-name=nothing");
    pty.wait_for("error: blockdev-del: GenericError: ");
    pty.wait_for_line("one> ");
    pty.send(CTRL_D);
    assert_eq!(pty.end(), 0);
    assert!(pty.is_cooked());

    let mut pty = Pty::qmp(&["-C", &uri, "shell", "-H", "one"], lab.dir());
    pty.wait_for_line("one (hmp)> ");
    pty.enter("info status");
    pty.wait_for("VM status: paused");
    pty.wait_for_line("one (hmp)> ");
    lab.kill_daemon();
    assert_eq!(pty.end(), 3);
    assert!(pty.is_cooked());
    let left = that_name(&lab.unix_path());
    assert_eq!(left, Vec::<String>::new());
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn live_at_a_qemu_of_its_own() {
    let scratch = Scratch::new();
    // What is on the command line tells whether it is still there.
    let mark = scratch.path("mark");
    let name = format!("qmp-{}", mark.display());
    let qemu = [
        "qemu-system-x86_64",
        "-machine",
        "none",
        "-display",
        "none",
        "-S",
    ];
    let arguments = [&["wrap", "--"], &qemu[..], &["-name", &name]].concat();
    let mut pty = Pty::qmp(&arguments, &scratch.path(""));
    pty.wait_for("QEMU ");
    pty.wait_for_line("qmp> ");
    pty.send("query-nam");
    pty.tab_until("qmp> query-name");
    // There are two that begin so.
    pty.send("\t");
    pty.wait_for("query-named-block-nodes");
    pty.wait_for_line("qmp> query-name");
    pty.send("\r");
    pty.wait_for(&format!(r#"{{"name":"{name}"}}"#));
    pty.wait_for_line("qmp> ");
    pty.send("half a li");
    pty.wait_for_line("qmp> half a li");
    pty.send(CTRL_C);
    pty.wait_for_line("qmp> ");
    assert!(!that_name(&mark).is_empty(), "QEMU runs on");
    pty.send(CTRL_D);
    assert_eq!(pty.end(), 0);
    assert!(pty.is_cooked());
    assert_eq!(that_name(&mark), Vec::<String>::new());
}

/// What the README shows, which is this to the letter but for the time of the events.
#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn live_the_session_in_the_readme() {
    let lab = Lab::start();
    lab.guest("vm1");
    let uri = lab.client_uri();
    let mut pty = Pty::qmp(&["-C", &uri, "shell", "vm1"], lab.dir());
    let prompt = "vm1> ";
    let enter = |pty: &mut Pty, line: &str| {
        pty.send(line);
        pty.wait_for(&format!("{prompt}{line}"));
        pty.send("\r");
        pty.wait_for_line(prompt);
    };
    pty.wait_for_line(prompt);
    enter(
        &mut pty,
        "blockdev-add driver=raw node-name=disk0 file.driver=null-co file.size=64M",
    );
    pty.send("block-dirty-bitmap-a");
    pty.tab_until("vm1> block-dirty-bitmap-add node=str name=str");
    pty.send("\t");
    pty.wait_for("[disabled=bool]");
    pty.send("node=di");
    pty.tab_until("vm1> block-dirty-bitmap-add node=disk0 name=str");
    pty.send("name=monday");
    let bitmap = "block-dirty-bitmap-add node=disk0 name=monday";
    pty.wait_for_line(&format!("{prompt}{bitmap}"));
    pty.send("\r");
    pty.wait_for_line(prompt);
    enter(&mut pty, "block-dirty-bitmap-add node=disk0 nam=tuesday");
    enter(&mut pty, "help DEVICE_DELETED");
    pty.send("query-sta");
    pty.wait_for_line("vm1> query-sta");
    lab.virsh(&["suspend", "vm1"]);
    pty.wait_for(" STOP");
    pty.wait_for_line("vm1> query-sta");
    pty.send("tu");
    pty.tab_until("vm1> query-status");
    pty.send("\r");
    pty.wait_for("paused");
    pty.wait_for_line(prompt);
    pty.enter("transaction(");
    pty.enter("block-dirty-bitmap-disable node=disk0 name=monday");
    pty.enter("block-dirty-bitmap-add node=disk0 name=tuesday persistent=off");
    pty.enter(")");
    pty.wait_for("tuesday persistent=off\n)\n{}");
    pty.wait_for_line(prompt);
    pty.send(CTRL_D);
    assert_eq!(pty.end(), 0);

    let screen = pty.screen();
    let lines = screen
        .trim_end()
        .lines()
        .map(|line| same_time(line.trim_end()));
    let session = lines.collect::<Vec<_>>().join("\n");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    assert!(
        readme.contains(&format!("```text\n$ qmp shell vm1\n{session}\n```")),
        "not in the README:\n{session}"
    );
}

/// Puts one time in place of that of an event.
fn same_time(line: &str) -> String {
    match line.split_once(' ') {
        Some((time, rest)) if time.len() == 17 && time.contains('.') => {
            format!("1763719215.204153 {rest}")
        }
        _ => line.to_owned(),
    }
}
