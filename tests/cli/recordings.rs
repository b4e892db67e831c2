//! `demo`, `record` and `replay`.

use libvirt_qmp::testing::FakeQemu;

use crate::program::*;
use crate::support::scratch::Scratch;

#[tokio::test]
async fn the_demo_needs_nothing_and_shows_the_main_job() {
    let output = qmp(&["demo"])
        .env_clear()
        .current_dir("/")
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let text = stdout(&output);
    let mut lines = text.lines();
    for start in [
        "status: running",
        "QEMU ",
        "EVENT: STOP",
        "EVENT: RESUME",
        "EVENT: RESET {",
        "disconnected",
    ] {
        assert!(
            lines.any(|line| line.starts_with(start)),
            "{start:?} in this place of:\n{text}"
        );
    }
    assert!(
        lines.any(|line| line.ends_with("-- --connect qemu:///system run stage-lb-1 query-status")),
        "{text}"
    );
}

#[tokio::test]
async fn what_was_recorded_is_played() {
    let qemu = FakeQemu::new();
    let stub = StubDaemon::start(&[("vm", &qemu)]);
    let scratch = Scratch::new();
    let file = scratch.path("session").display().to_string();
    let commands = [
        "-c",
        "query-status",
        "-c",
        "set_password protocol=vnc password=hunter2",
    ];
    let output = qmp(&["-C", &stub.uri(), "record", "-k", &file, "vm"])
        .args(commands)
        .output()
        .await
        .unwrap();
    // The stand-in knows no such command, and that is recorded too.
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let recorded = stdout(&output);
    assert!(recorded.contains("running"), "{recorded}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        !text.contains("hunter2") && text.contains("CONNECT_CLOSE"),
        "{text}"
    );

    let commands = [
        "-c",
        "query-status",
        "-c",
        "set_password protocol=vnc password=*******",
    ];
    let played = format!("replay:{file}");
    let output = qmp(&["-C", &played, "run", "-k", "vm"])
        .args(commands)
        .output()
        .await
        .unwrap();
    assert_eq!(
        (code(&output), stdout(&output)),
        (1, recorded.clone()),
        "{}",
        stderr(&output)
    );

    let socket = scratch.path("sock").display().to_string();
    let (mut server, mut lines) = watch(&["replay", "--once", "--listen", &socket, &file]);
    let uri = line(&mut lines).await;
    assert_eq!(uri, format!("qemu+unix:///system?socket={socket}"));
    let output = qmp(&["-C", &uri, "run", "-k", "vm"])
        .args(commands)
        .output()
        .await
        .unwrap();
    assert_eq!(
        (code(&output), stdout(&output)),
        (1, recorded),
        "{}",
        stderr(&output)
    );
    assert_eq!(server.wait().await.unwrap().code(), Some(0));
    assert!(!scratch.path("sock").exists());
}

#[tokio::test]
async fn events_are_recorded_too() {
    let qemu = FakeQemu::new();
    let stub = StubDaemon::start(&[("vm", &qemu)]);
    let scratch = Scratch::new();
    let file = scratch.path("session").display().to_string();
    let arguments = [
        "record", "--events", "2", "-c", "stop", "-c", "cont", &file, "vm",
    ];
    let output = qmp(&["-C", &stub.uri()])
        .args(arguments)
        .output()
        .await
        .unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["{}", "{}"]);
    assert!(
        lines[2].ends_with(" STOP") && lines[3].ends_with(" RESUME"),
        "{text}"
    );
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        text.matches("# QEMU_PROC_DOMAIN_MONITOR_EVENT ").count(),
        2,
        "{text}"
    );
}

#[tokio::test]
async fn a_client_that_does_something_else_is_told() {
    let scratch = Scratch::new();
    let socket = scratch.path("sock").display().to_string();
    let file = format!(
        "{}/fixtures/query-status.fixture",
        env!("CARGO_MANIFEST_DIR")
    );
    let (server, mut lines) = watch(&["replay", "--listen", &socket, &file]);
    let uri = line(&mut lines).await;
    let played = format!("replay:{file}");
    for uri in [&uri, &played] {
        let output = qmp(&["-C", uri, "run", GUEST, "stop"])
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 3, "{}", stderr(&output));
    }
    // It goes on with the next client, until it is ended.
    let output = qmp(&["-C", &uri, "run", GUEST, "query-status"])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    interrupt(&server).await;
    let output = server.wait_with_output().await.unwrap();
    assert_eq!(code(&output), 130);
    assert!(
        stderr(&output).starts_with("qmp: unexpected packet"),
        "{}",
        stderr(&output)
    );
    assert!(!scratch.path("sock").exists());
}

#[tokio::test]
async fn a_socket_that_somebody_has_is_left_alone() {
    let stub = Stub::start();
    let socket = stub.scratch.path("qmp").display().to_string();
    let file = format!(
        "{}/fixtures/query-status.fixture",
        env!("CARGO_MANIFEST_DIR")
    );
    let output = qmp(&["replay", "--listen", &socket, &file])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("Address already in use"),
        "{}",
        stderr(&output)
    );
    assert_eq!(code(&stub.run(&["run", "query-status"]).await), 0);
}

#[tokio::test]
async fn what_is_no_recording_is_told() {
    let scratch = Scratch::new();
    let file = scratch.path("no");
    std::fs::write(&file, "> 12\n").unwrap();
    for (name, reason) in [
        (file.display().to_string(), "fixture line 1"),
        (
            scratch.path("nothing").display().to_string(),
            "No such file",
        ),
    ] {
        let output = qmp(&["-C", &format!("replay:{name}"), "list"])
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 1);
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
    let output = qmp(&[
        "-C",
        "qemu+ssh://host/system",
        "record",
        "-c",
        "stop",
        "file",
        "vm",
    ])
    .output()
    .await
    .unwrap();
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("by ssh cannot be recorded"),
        "{}",
        stderr(&output)
    );
}
