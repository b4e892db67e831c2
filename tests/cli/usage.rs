//! Usage, and peers that are not there or not what they should be: messages and exit codes.

use std::io::pipe;

use libvirt_qmp::protocol::qemu;
use tokio::net::UnixListener;

use crate::program::*;
use crate::support::scratch::Scratch;

#[tokio::test]
async fn usage_errors_are_named_and_end_with_2() {
    let some = "unix:/nowhere";
    for (arguments, reason) in [
        (&[][..], "Usage: qmp"),
        (&["fly"], "'fly'"),
        (&["run"], "no domain given"),
        (
            &["run", GUEST, "stop", "now"],
            "argument `now`: expected KEY=VALUE",
        ),
        (&["events", "--count", "0", GUEST], "--count"),
        (&["--timeout", "0", "list"], "--timeout"),
        (
            &["-C", "qemu+udp://host/system", "list"],
            "URI refused: transport `udp`",
        ),
        (
            &["-C", "qemu:///system?pkipath=/x", "list"],
            "parameter `pkipath`",
        ),
        (&["-C", some, "list"], "no domains to list"),
        (
            &["-C", some, "wrap", "-c", "stop", "--", "false"],
            "`--connect` has no effect on `qmp wrap`",
        ),
        (&["-C", some, "demo"], "`--connect` has no effect"),
        (
            &["--timeout", "1", "man"],
            "`--timeout` has no effect on `qmp man`",
        ),
        (&["-C", some, "completions", "zsh"], "`--connect` has no"),
        (
            &["-C", some, "replay", "x", "--listen", "y"],
            "`--connect` has no effect on `qmp replay`",
        ),
        (
            &["-C", some, "events", GUEST],
            "no domain `stage-lb-1` to choose",
        ),
        (&["-C", some, "run", GUEST, "stop"], "argument `stop`"),
    ] {
        let output = qmp(arguments).output().await.unwrap();
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(reason),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    let output = qmp(&["list"])
        .env("LIBVIRT_DEFAULT_URI", "xen")
        .output()
        .await
        .unwrap();
    assert_eq!(
        stderr(&output),
        "qmp: URI refused: `xen` is not a libvirt URI: there is no `://` in it\n"
    );
}

#[tokio::test]
async fn a_command_that_is_no_qmp_is_refused_unsent() {
    // Everything of the recording up to the lookup is asked for, the command is not.
    let mut fixture = load("query-status");
    fixture
        .packets
        .retain(|(_, packet)| packet.header.program != qemu::PROGRAM);
    for (command, reason) in [
        ("{}", "command refused: command has no member `execute`"),
        (
            r#"{"execute":"#,
            "command refused: command is not a JSON object",
        ),
        (r#"{"exec-oob":"yank"}"#, "not supported: exec-oob"),
    ] {
        let output = play(fixture.clone(), &["run", GUEST, command]).await;
        assert_eq!(code(&output), 2, "{command}");
        assert!(
            stderr(&output).contains(reason),
            "{command}: {}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn without_a_connection_it_ends_with_3_and_names_the_socket() {
    let scratch = Scratch::new();
    let path = scratch.path("dead");
    drop(UnixListener::bind(&path).unwrap());
    for uri in [libvirt_uri(&path), format!("unix:{}", path.display())] {
        let output = qmp(&["-C", &uri, "events"])
            .args(uri.starts_with("qemu").then_some(GUEST))
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 3);
        assert_eq!(
            stderr(&output),
            format!(
                "qmp: cannot connect to {}: Connection refused (os error 111)\n",
                path.display()
            )
        );
    }
}

#[tokio::test]
async fn a_peer_that_closes_at_once_is_a_connection_error() {
    let scratch = Scratch::new();
    let path = scratch.path("sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let output = qmp(&["-C", &libvirt_uri(&path), "list"])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 3);
    assert!(
        stderr(&output).starts_with("qmp: connection ended: "),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn a_silent_peer_ends_with_4_and_says_what_was_waited_for() {
    let scratch = Scratch::new();
    let path = scratch.path("silent");
    let _listener = UnixListener::bind(&path).unwrap();
    let (libvirt, bare) = (libvirt_uri(&path), format!("unix:{}", path.display()));
    for (uri, phase) in [(libvirt, "authenticating"), (bare, "QEMU's greeting")] {
        let output = qmp(&["-C", &uri, "--timeout", "1", "run", "query-status"])
            .args(uri.starts_with("qemu").then_some("query-status"))
            .output()
            .await
            .unwrap();
        assert_eq!(code(&output), 4, "{}", stderr(&output));
        assert!(stderr(&output).contains("within 1s"), "{}", stderr(&output));
        assert!(stderr(&output).contains(phase), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_error() {
    for (fixture, arguments) in [
        (None, &["demo"][..]),
        (None, &["--help"]),
        (Some(load("query-status")), &["run", GUEST, "query-status"]),
        (Some(load("session")), &["list"]),
        (Some(events_only()), &["events", GUEST]),
    ] {
        let served = fixture.map(Served::start);
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut command = qmp(&[]);
        if let Some(served) = &served {
            command.args(["-C", &served.uri()]);
        }
        let output = command
            .args(arguments)
            .stdout(writer)
            .spawn()
            .unwrap()
            .wait_with_output();
        let output = output.await.unwrap();
        assert_eq!(
            (code(&output), stderr(&output)),
            (0, String::new()),
            "{arguments:?}"
        );
        if let Some(served) = served {
            served.finish().await.unwrap();
        }
    }
}
