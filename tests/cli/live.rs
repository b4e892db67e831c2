//! The program against a private libvirtd and QEMU.

use serde_json::Value;

use crate::program::*;
use crate::support::lab::Lab;
use crate::support::process::that_name;
use crate::support::qemu::Qemu;

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
