//! A real QEMU, on its own socket and through a real libvirtd.

use crate::pty::{CTRL_D, Pty};
use crate::support::lab::Lab;
use crate::support::qemu::Qemu;

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
    pty.send("query-named-block-nodes fl\ttr\t\r");
    pty.wait_for(r#""node-name":"disk0""#);
    pty.wait_for_line("qmp> ");
    pty.send("blockdev-del no\tdi\t");
    pty.wait_for_line("qmp> blockdev-del node-name=disk0");
    pty.send("\x15qom-get path=/mach\tperi\t");
    pty.wait_for("peripheral-anon");
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
    pty.send("tu\t\r");
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
    pty.send("info statu\t");
    pty.wait_for_line("two (hmp)> info status");
    pty.send("\r");
    pty.wait_for("VM status: running");
    pty.wait_for_line("two (hmp)> ");
    pty.send("half a li");
    pty.wait_for_line("two (hmp)> half a li");
    lab.kill_daemon();
    assert_eq!(pty.end(), 3);
    assert!(pty.is_cooked());
}
