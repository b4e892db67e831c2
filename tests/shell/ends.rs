//! How a shell ends and what ends in it: Ctrl-C, Ctrl-D, `exit`, `quit`, signals, and a QEMU that goes. The terminal is left as
//! it was.

use std::process::Command;

use crate::pty::{CTRL_C, CTRL_D};
use crate::{Shell, qemu};

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_clears_the_line_and_ctrl_d_leaves() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.wait_for_line("qmp> ");
    shell.pty.send("half a li");
    shell.pty.wait_for_line("qmp> half a li");
    shell.pty.send(CTRL_C);
    shell.pty.wait_for_line("qmp> ");
    shell.pty.enter("exit");
    assert_eq!(shell.pty.end(), 0);
    assert!(shell.pty.is_cooked());
    shell.again(&[]);
    assert!(!shell.pty.is_cooked());
    // Not at the end of the line, where it deletes.
    shell.pty.send("xy\x1b[D\x1b[D");
    shell.pty.send(CTRL_D);
    shell.pty.wait_for_line("qmp> y");
    shell.pty.send("\x0b");
    shell.pty.send(CTRL_D);
    assert_eq!(shell.pty.end(), 0);
    assert!(shell.pty.is_cooked());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_gives_up_on_a_command_but_sends_it_once() {
    let qemu = qemu().await;
    qemu.hold("stop");
    let mut shell = Shell::start_on(qemu, &[]);
    shell.pty.wait_for_line("qmp> ");
    shell.pty.enter("stop");
    shell
        .wait_for_command(|command| command["execute"] == "stop")
        .await;
    shell.pty.send(CTRL_C);
    shell
        .pty
        .wait_for("not waited for any more: the command may still run");
    shell.pty.wait_for_line("qmp> ");
    shell.qemu.release("stop");
    shell.pty.wait_for(" STOP");
    shell.pty.enter("query-status");
    shell.pty.wait_for(r#""status":"paused""#);
    let commands = shell.qemu.commands();
    let stops = commands
        .iter()
        .filter(|command| command["execute"] == "stop");
    assert_eq!(stops.count(), 1);
    shell.pty.send(CTRL_D);
    assert_eq!(shell.pty.end(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_d_while_a_command_runs_leaves_after_it() {
    let qemu = qemu().await;
    qemu.hold("stop");
    let mut shell = Shell::start_on(qemu, &[]);
    shell.pty.wait_for_line("qmp> ");
    shell.pty.enter("stop");
    shell
        .wait_for_command(|command| command["execute"] == "stop")
        .await;
    shell.pty.send("query-version\r");
    shell.pty.send(CTRL_D);
    shell.qemu.release("stop");
    assert_eq!(shell.pty.end(), 0);
    assert!(shell.pty.is_cooked());
    let last = shell.qemu.commands().pop().unwrap();
    assert_eq!(last["execute"], "query-version");
}

#[tokio::test(flavor = "multi_thread")]
async fn quit_ends_qemu_and_the_shell() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.enter("quit");
    assert_eq!(shell.pty.end(), 0);
    assert!(shell.qemu.has_ended());
    assert!(shell.pty.is_cooked());
    let screen = shell.pty.screen();
    assert!(
        !screen.contains("error") && !screen.contains("panic"),
        "{screen}"
    );

    let mut shell = Shell::start(&["-H"]).await;
    shell.pty.enter("quit");
    assert_eq!(shell.pty.end(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_that_goes_ends_the_shell_in_the_middle_of_a_line() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.wait_for_line("qmp> ");
    shell.pty.send("half a li");
    shell.pty.wait_for_line("qmp> half a li");
    shell.qemu.kill();
    assert_eq!(shell.pty.end(), 3);
    assert!(shell.pty.is_cooked());
    let screen = shell.pty.screen();
    assert!(screen.contains("qmp: connection ended: "), "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_leaves_the_terminal_as_it_was() {
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let mut shell = Shell::start(&[]).await;
        shell.pty.wait_for_line("qmp> ");
        shell.pty.send("half a li");
        shell.pty.wait_for_line("qmp> half a li");
        let id = shell.pty.id().to_string();
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", signal, &id])
            .status();
        assert!(sent.unwrap().success());
        assert_eq!(shell.pty.end(), code);
        assert!(shell.pty.is_cooked());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_can_do_nothing_will_do() {
    let scratch = crate::Scratch::new();
    let qemu = qemu().await;
    let uri = crate::listen(&qemu, &scratch);
    let mut pty = crate::Pty::qmp_on("dumb", &["-C", &uri, "shell"], &scratch.path(""));
    pty.wait_for("qmp> ");
    pty.enter("query-status");
    pty.wait_for(r#""status":"running""#);
    qemu.event("STOP", None);
    pty.wait_for(" STOP");
    pty.send(CTRL_D);
    assert_eq!(pty.end(), 0);
    assert!(!pty.raw().contains('\x1b'), "{:?}", pty.raw());
}
