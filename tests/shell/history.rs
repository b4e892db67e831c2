//! Lines that were typed before, in this shell and in an earlier one, and what is never kept of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::pty::{CTRL_D, UP};
use crate::{Shell, qemu};

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_back_in_this_shell_and_in_the_next() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.enter("query-name");
    shell.pty.wait_for("{");
    shell.pty.enter("query-status");
    shell.pty.wait_for(r#""status":"running""#);
    shell.pty.wait_for_line("qmp> ");
    shell.pty.send(UP);
    shell.pty.wait_for_line("qmp> query-status");
    shell.pty.send(UP);
    shell.pty.wait_for_line("qmp> query-name");
    shell.pty.send("\x15");
    shell.pty.wait_for_line("qmp> ");
    shell.pty.send(CTRL_D);
    assert_eq!(shell.pty.end(), 0);

    let file = shell.scratch.path("state/qmp/history");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let directory = file.parent().unwrap();
    assert_eq!(
        fs::metadata(directory).unwrap().permissions().mode() & 0o777,
        0o700
    );

    shell.again(&[]);
    shell.pty.send(UP);
    shell.pty.wait_for_line("qmp> query-status");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_kept() {
    let qemu = qemu().await;
    for command in ["set_password", "object-add", "change-vnc-password"] {
        qemu.on(command, json!({}));
    }
    let mut shell = Shell::start_on(qemu, &[]);
    for line in [
        "set_password protocol=vnc password=hunter2",
        "object-add qom-type=secret id=s data=hunter2",
        "{\"execute\": \"set_password\", \"arguments\": {\"protocol\": \"vnc\", \"password\": \"hunter2\"}}",
        "change-vnc-password password='hunter2 hunter2'",
        "object-add qom-type=secret id=s data='hunter2",
        " query-name",
        "query-status",
    ] {
        shell.pty.wait_for_line("qmp> ");
        shell.pty.enter(line);
    }
    shell.pty.wait_for(r#""status":"running""#);
    // They were sent all the same.
    shell
        .wait_for_command(|command| command["arguments"]["data"] == "hunter2")
        .await;
    shell.pty.send(UP);
    shell.pty.wait_for_line("qmp> query-status");
    shell.pty.send(UP);
    shell
        .pty
        .wait_for_line("qmp> change-vnc-password password=");
    shell.pty.send("\x15");
    shell.pty.send(CTRL_D);
    assert_eq!(shell.pty.end(), 0);
    let text = fs::read_to_string(shell.scratch.path("state/qmp/history")).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(
        !text.contains("query-name"),
        "a line that begins with a blank: {text}"
    );
    assert!(
        text.contains("object-add qom-type=secret id=s data="),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_cannot_be_kept_is_no_reason_to_stop() {
    let scratch = crate::Scratch::new();
    fs::write(scratch.path("state"), "in the way").unwrap();
    let qemu = qemu().await;
    let uri = crate::listen(&qemu, &scratch);
    let mut pty = crate::Pty::qmp(&["-C", &uri, "shell"], &scratch.path(""));
    pty.wait_for("no history is kept");
    pty.enter("query-status");
    pty.wait_for(r#""status":"running""#);
    pty.send(UP);
    pty.wait_for_line("qmp> query-status");
}
