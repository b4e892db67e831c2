//! Events while a line is typed, other sizes, and what is typed ahead.

use serde_json::json;

use crate::pty::CTRL_D;
use crate::{Shell, qemu};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_and_its_reply_is_shown() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.wait_for("QEMU 7.2");
    shell.pty.enter("query-status");
    shell.pty.wait_for(r#""status":"running""#);
    shell.pty.wait_for_line("qmp> ");
    shell.pty.enter("device_del id=nothing");
    shell.pty.wait_for("error: device_del: DeviceNotFound");
    shell.pty.wait_for_line("qmp> ");
    shell.pty.send(CTRL_D);
    assert_eq!(shell.pty.end(), 0);
    assert!(shell.pty.is_cooked());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_above_the_line_that_is_typed() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.wait_for_line("qmp> ");
    // The cursor is in the middle of the line.
    shell.pty.send("query-staXtus\x1b[D\x1b[D\x1b[D");
    shell.pty.wait_for_line("qmp> query-staXtus");
    shell.pty.wait_for_column(15);
    for number in 0..20 {
        shell.qemu.event(
            "VSERPORT_CHANGE",
            json!({"id": format!("port{number}"), "open": true}),
        );
    }
    shell.pty.wait_for("port19");
    shell.pty.wait_for_line("qmp> query-staXtus");
    shell.pty.wait_for_column(15);
    let screen = shell.pty.screen();
    let events = screen
        .lines()
        .filter(|line| line.contains("VSERPORT_CHANGE {"));
    assert_eq!(events.count(), 20, "{screen}");
    assert_eq!(screen.matches("query-sta").count(), 1, "{screen}");
    shell.pty.send("\x7f\r");
    shell.pty.wait_for(r#""status":"running""#);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_leave_a_line_alone_that_is_wider_than_the_terminal() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.wait_for_line("qmp> ");
    let value = "é".repeat(150);
    shell.pty.send(&format!("qom-get path=/{value} property=x"));
    shell.pty.wait_for("property=x");
    shell.qemu.event("STOP", None);
    shell.pty.wait_for(" STOP");
    shell.pty.send("\r");
    shell.pty.wait_for("error: ");
    let screen = shell.pty.screen();
    assert_eq!(screen.matches("qmp> qom-get").count(), 1, "{screen}");
    let typed: String = screen.chars().filter(|char| *char == 'é').collect();
    assert_eq!(typed, value, "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_may_change_its_size() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.wait_for_line("qmp> ");
    let line =
        "query-status    # with a remark that is longer than the terminal is wide from now on";
    shell.pty.send(line);
    shell.pty.wait_for_line(&format!("qmp> {line}"));
    shell.pty.resize(20, 30);
    // What it is drawn anew for.
    shell.pty.send("!");
    let whole = format!("qmp> {line}!");
    shell.pty.wait_until("the whole line", |screen| {
        let shown: String = screen.lines().collect();
        shown.contains(&whole)
    });
    shell.pty.resize(40, 120);
    shell.pty.send("\x15query-name\r");
    shell.pty.wait_for("{");
    shell.pty.wait_for_line("qmp> ");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_ahead_is_not_lost() {
    let qemu = qemu().await;
    qemu.hold("stop");
    let mut shell = Shell::start_on(qemu, &[]);
    shell.pty.wait_for_line("qmp> ");
    shell.pty.enter("stop");
    while !shell
        .qemu
        .commands()
        .iter()
        .any(|command| command["execute"] == "stop")
    {
        tokio::task::yield_now().await;
    }
    shell.pty.send("query-status\rquery-version\r");
    shell.qemu.release("stop");
    shell.pty.wait_for(r#""status":"paused""#);
    shell.pty.wait_for(r#""micro""#);
    shell.pty.wait_for_line("qmp> ");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_can_be_chosen() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.enter("!events off");
    shell.pty.enter("stop");
    shell.pty.wait_for("{}");
    shell.pty.enter("!events RES*");
    shell.pty.enter("cont");
    shell.pty.wait_for(" RESUME");
    shell.pty.enter("stop");
    shell.pty.enter("cont");
    // What came before it has been looked at.
    shell.pty.wait_until("two events", |screen| {
        screen.matches(" RESUME").count() == 2
    });
    shell.pty.enter("!events on");
    shell.pty.enter("system_reset");
    shell.pty.wait_for(" RESET");
    let screen = shell.pty.screen();
    assert!(!screen.contains(" STOP"), "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_typed_at_as_a_guest_is() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/events.fixture");
    let scratch = crate::Scratch::new();
    let uri = format!("replay:{fixture}");
    let mut pty = crate::Pty::qmp(&["-C", &uri, "shell", "stage-lb-1"], &scratch.path(""));
    pty.wait_for_line("stage-lb-1> ");
    for (command, event) in [
        ("stop", " STOP"),
        ("cont", " RESUME"),
        ("system_reset", " RESET {"),
    ] {
        pty.enter(command);
        pty.wait_for(event);
        pty.wait_for_line("stage-lb-1> ");
    }
    pty.send(CTRL_D);
    assert_eq!(pty.end(), 0);
    assert!(!pty.screen().contains("error"), "{}", pty.screen());
}
