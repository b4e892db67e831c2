//! HMP mode.

use serde_json::json;

use crate::pty::{CTRL_D, UP};
use crate::{Shell, qemu};

const HELP: &str = "announce_self [interfaces] [id] -- Trigger announcements\r\nc|cont  -- resume emulation\r\ninfo [subcommand] -- show\r\n";
const INFO: &str = "info block [-n] -- show block devices\r\ninfo blockstats  -- show statistics\r\ninfo version  -- show the version\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_for_the_human_monitor() {
    let qemu = qemu().await;
    qemu.on_hmp(
        "info status",
        "VM status: running\r\n\x1b[31mred\r\n\tindented\r\n",
    );
    let mut shell = Shell::start_on(qemu, &["-H"]);
    shell.pty.wait_for_line("qmp (hmp)> ");
    shell.pty.enter("info status");
    shell
        .pty
        .wait_for("VM status: running\n\\u{1b}[31mred\n        indented");
    // Blanks are nothing.
    shell.pty.enter("   ");
    shell.pty.enter("frobnicate");
    shell.pty.wait_for("unknown command: 'frobnicate'");
    shell.pty.wait_for_line("qmp (hmp)> ");
    shell.pty.send(UP);
    shell.pty.wait_for_line("qmp (hmp)> frobnicate");
    shell.pty.send("\x15");
    shell.pty.send(CTRL_D);
    assert_eq!(shell.pty.end(), 0);
    let history = std::fs::read_to_string(shell.scratch.path("state/qmp/hmp-history")).unwrap();
    assert!(
        history.contains("info status") && history.contains("frobnicate"),
        "{history}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_is_chosen_by_the_shell_and_checked_by_qemu() {
    let qemu = qemu().await;
    qemu.on_fn("human-monitor-command", |arguments| {
        use libvirt_qmp::testing::Reply;
        match arguments["cpu-index"].as_u64() {
            Some(7..) => Reply::error("GenericError", "Invalid CPU index"),
            _ => Reply::value(arguments["command-line"].as_str().unwrap_or("")),
        }
    });
    let mut shell = Shell::start_on(qemu, &["-H"]);
    shell.pty.enter("cpu 3");
    shell.pty.wait_for_line("qmp (hmp, cpu 3)> ");
    shell.pty.enter("info registers");
    shell.pty.wait_for_line("qmp (hmp, cpu 3)> ");
    shell
        .wait_for_command(|command| {
            command["arguments"] == json!({"command-line": "info registers", "cpu-index": 3})
        })
        .await;
    shell.pty.enter("cpu 9");
    shell
        .pty
        .wait_for("error: human-monitor-command: GenericError: Invalid CPU index");
    shell.pty.wait_for_line("qmp (hmp, cpu 3)> ");
    shell.pty.enter("cpu");
    shell.pty.wait_for_line("qmp (hmp)> ");
    let lines: Vec<_> = shell
        .qemu
        .commands()
        .into_iter()
        .map(|command| command["arguments"]["command-line"].clone())
        .collect();
    assert!(
        lines
            .iter()
            .all(|line| line != "cpu 3" && line != "cpu 9" && line != "cpu"),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_completed_out_of_help() {
    let qemu = qemu().await;
    qemu.on_hmp("help", HELP).on_hmp("info", INFO);
    let mut shell = Shell::start_on(qemu, &["-H"]);
    shell.pty.wait_for_line("qmp (hmp)> ");
    shell.pty.send("ann");
    shell.pty.tab_until("qmp (hmp)> announce_self");
    shell.pty.send("\x15info ver");
    shell.pty.tab_until("qmp (hmp)> info version");
    shell.pty.send("\x15info bl\t");
    shell.pty.wait_for("blockstats");
    shell.pty.wait_for_line("qmp (hmp)> info block");
}
