//! Greeting and negotiation: what may come between, what may come instead, and nothing at all.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{
    Config, EndCause, Error, ErrorClass, Handshake, Monitor, Phase, SocketMonitor, Version,
};
use tokio::time::Instant;

use crate::support::qmp_peer::{GREETING, QmpPeer, event};
use crate::{STATUS, cause, names, run};

/// The outcome of connecting to a peer that says this and then nothing.
async fn connect_to(said: &str) -> (Result<(), Error>, QmpPeer) {
    let (client, mut peer) = QmpPeer::new();
    let monitor = SocketMonitor::new(client);
    peer.send_bytes(said.as_bytes()).await;
    (monitor.connect().await, peer)
}

/// P10.
#[tokio::test(start_paused = true)]
async fn greeting_then_capabilities_then_commands() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = Arc::new(SocketMonitor::new(client));
    // Nothing happens before it is used.
    peer.expect_silence().await;
    let status = run(&monitor, STATUS);
    peer.expect_silence().await;
    peer.send(GREETING).await;
    let capabilities = peer.expect("qmp_capabilities").await;
    assert_eq!(
        capabilities.command,
        serde_json::json!({
            "execute": "qmp_capabilities",
            "arguments": {"enable": ["oob"]},
            "id": capabilities.command["id"],
        })
    );
    // No command before the capabilities are agreed on: QEMU would refuse it (P11).
    peer.expect_silence().await;
    peer.reply(&capabilities, "{}").await;
    let command = peer.expect("query-status").await;
    peer.reply(&command, "7").await;
    assert_eq!(status.await.unwrap().unwrap(), r#"{"return": 7}"#);
    let greeting = monitor.greeting().await.unwrap();
    assert!(greeting.offers("oob"));
    assert!(greeting.version >= Version::new(7, 2, 22));
}

/// P10, P31: what a later QEMU adds is no reason to fail.
#[tokio::test(start_paused = true)]
async fn unknown_capabilities_and_members_are_tolerated() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = SocketMonitor::new(client);
    let dialogue = async {
        peer.send(
            r#"{"new": 1, "QMP": {"capabilities": ["oob", "telepathy", {"x": 1}], "more": [],
            "version": {"package": "", "qemu": {"major": 99, "minor": 0, "micro": 0, "nano": 1}, "x": 0}}}"#,
        )
        .await;
        let command = peer.expect("qmp_capabilities").await;
        assert_eq!(
            command.command["arguments"],
            serde_json::json!({"enable": ["oob"]})
        );
        peer.send(&format!(
            r#"{{"new": null, "return": {{"x": 1}}, "id": {}}}"#,
            command.id()
        ))
        .await;
    };
    let (connected, ()) = tokio::join!(monitor.connect(), dialogue);
    connected.unwrap();
    let greeting = monitor.greeting().await.unwrap();
    assert_eq!(greeting.version, Version::new(99, 0, 0));
    assert!(greeting.offers("telepathy"));
}

/// Events at every place of the handshake are no trouble and are not lost: go-qemu took one for the capabilities reply,
/// qemu.qmp and qmp-rs failed to connect.
#[tokio::test(start_paused = true)]
async fn events_may_come_at_any_point_and_are_kept() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = SocketMonitor::new(client);
    let dialogue = async {
        peer.event("A").await;
        peer.send(GREETING).await;
        peer.event("B").await;
        let command = peer.expect("qmp_capabilities").await;
        peer.event("C").await;
        peer.event("D").await;
        peer.reply(&command, "{}").await;
        peer.event("E").await;
    };
    let (connected, ()) = tokio::join!(monitor.connect(), dialogue);
    connected.unwrap();
    let mut events = monitor.events().await.unwrap();
    assert_eq!(names(&mut events, 5).await, ["A", "B", "C", "D", "E"]);
}

/// P12, D3: QEMU still delivers the answers to the commands of the client before, with that client's ids or without any.
#[tokio::test(start_paused = true)]
async fn answers_to_an_earlier_client_are_passed_over() {
    for stale in [
        r#"{"return": {}, "id": "z"}"#,
        r#"{"return": {}}"#,
        r#"{"return": {}, "id": 1}"#,
        r#"{"return": {}, "id": "q0123456789abcdef-1000000000"}"#,
        r#"{"id": "z", "error": {"class": "GenericError", "desc": "too late"}}"#,
        r#"{"error": {"class": "GenericError", "desc": "too late"}}"#,
    ] {
        for place in 0..3 {
            let (client, mut peer) = QmpPeer::new();
            let monitor = SocketMonitor::new(client);
            let dialogue = async {
                if place == 0 {
                    peer.send(stale).await;
                }
                peer.send(GREETING).await;
                if place == 1 {
                    peer.send(stale).await;
                }
                let command = peer.expect("qmp_capabilities").await;
                if place == 2 {
                    peer.send(stale).await;
                }
                peer.expect_silence().await;
                peer.reply(&command, "{}").await;
                let command = peer.expect("query-status").await;
                peer.reply(&command, "1").await;
            };
            let (reply, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), dialogue);
            assert_eq!(reply.unwrap(), r#"{"return": 1}"#, "{place} {stale}");
        }
    }
}

/// P11: and what QEMU says to it reaches the caller with its class.
#[tokio::test(start_paused = true)]
async fn refused_capabilities_end_the_connection() {
    for class in ["CommandNotFound", "GenericError", "Whatever"] {
        let (client, mut peer) = QmpPeer::new();
        let monitor = SocketMonitor::new(client);
        let dialogue = async {
            peer.send(GREETING).await;
            let command = peer.expect("qmp_capabilities").await;
            peer.refuse(&command, class, "no").await;
            peer.expect_end().await;
        };
        let (connected, ()) = tokio::join!(monitor.connect(), dialogue);
        // The failure stays: there is only this one connection.
        for error in [
            connected.unwrap_err(),
            monitor.run(STATUS.as_bytes()).await.unwrap_err(),
        ] {
            assert_eq!(
                error.is_command_not_found(),
                class == "CommandNotFound",
                "{error}"
            );
            match error {
                Error::Qmp(error) => {
                    assert_eq!(error.class, ErrorClass::from(class));
                    assert_eq!(error.command.as_deref(), Some("qmp_capabilities"));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_qmp_server_is_told_at_once() {
    let started = Instant::now();
    for (said, told) in [
        (
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "expected a JSON object from the QMP server, got \"HTTP/1.1 400 Bad Request",
        ),
        (
            "QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ",
            "got \"QEMU 7.2.22 monitor",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "got \"SSH-2.0"),
        ("\x16\x03\x01\x02", "got \"\\x16\\x03\\x01"),
        ("[1]", "got \"[1]\""),
        (r#"{"QMP": {}}"#, "not a greeting of QEMU: missing field"),
        (r#"{"QMP": 1}"#, "not a greeting of QEMU: invalid type"),
        (r#"{"x" 1}"#, "broken JSON: expected ':' at byte 5"),
    ] {
        let (connected, mut peer) = connect_to(said).await;
        let error = connected.unwrap_err();
        assert!(!error.maybe_executed());
        match cause(&error) {
            EndCause::Protocol(text) => assert!(text.contains(told), "{text}"),
            other => panic!("{other:?}"),
        }
        peer.expect_end().await;
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_end_before_and_within_the_greeting() {
    let half = &GREETING[..30];
    for (said, told) in [
        ("", "closed by the peer"),
        (
            half,
            "protocol violation: stream ended 30 bytes into a message",
        ),
        (GREETING, "closed by the peer"),
    ] {
        let (client, mut peer) = QmpPeer::new();
        let monitor = SocketMonitor::new(client);
        peer.send_bytes(said.as_bytes()).await;
        drop(peer);
        let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
        assert_eq!(cause(&error).to_string(), told);
        // The command itself was not sent.
        assert!(!error.maybe_executed());
    }
}

/// P28: a second client is accepted by the system but not by QEMU.
#[tokio::test(start_paused = true)]
async fn no_greeting_times_out_and_says_what_may_be_the_reason() {
    for said in ["", "\r\n", &event("STOP"), &GREETING[..40]] {
        let started = Instant::now();
        let (connected, mut peer) = connect_to(said).await;
        let error = connected.unwrap_err();
        assert_eq!(started.elapsed(), Duration::from_secs(15));
        assert!(matches!(
            error,
            Error::Timeout { phase: Phase::Greeting, after, maybe_executed: false } if after == Duration::from_secs(15)
        ));
        assert_eq!(
            error.to_string(),
            "no answer within 15s while waiting for QEMU's greeting \
             (QEMU serves one client per monitor: is another one connected?)"
        );
        peer.expect_end().await;
    }
}

/// P13: QEMU greets but does not answer while a command of another monitor blocks.
#[tokio::test(start_paused = true)]
async fn no_reply_to_capabilities_times_out_and_says_what_may_be_the_reason() {
    let (client, mut peer) = QmpPeer::new();
    let config = Config::new().connect_timeout(Some(Duration::from_secs(3)));
    let monitor = SocketMonitor::with_config(client, config);
    let started = Instant::now();
    peer.send(GREETING).await;
    let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    // Of what the caller asked for nothing was sent.
    assert!(matches!(
        error,
        Error::Timeout {
            phase: Phase::Negotiation,
            maybe_executed: false,
            ..
        }
    ));
    assert!(error.is_timeout());
    let text = error.to_string();
    assert!(text.contains("blocks on another"), "{text}");
    peer.expect("qmp_capabilities").await;
    peer.expect_end().await;
}

/// The deadline is for the handshake as a whole, and a peer that does not read is found out too.
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_times_out() {
    let (client, mut peer) = QmpPeer::with_pipe(16);
    let monitor = Arc::new(SocketMonitor::new(client));
    let started = Instant::now();
    let connecting = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.connect().await }
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    peer.send(GREETING).await;
    let error = connecting.await.unwrap().unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(15));
    assert!(matches!(
        error,
        Error::Timeout {
            phase: Phase::Negotiation,
            ..
        }
    ));
}

/// The greeting and the capabilities each have a deadline of their own, where one is set, and no other then.
#[tokio::test(start_paused = true)]
async fn each_step_ends_at_its_own_deadline() {
    const LIMIT: Duration = Duration::from_secs(7);
    const MOMENT: Option<Duration> = Some(Duration::from_millis(1));
    let base = || Config::new().connect_timeout(MOMENT);
    for greets in [false, true] {
        // Where it does not read, the command for the capabilities does not fit.
        for pipe in [16, 4096] {
            let phase = match greets {
                false => Phase::Greeting,
                true => Phase::Negotiation,
            };
            for limit in [Some(LIMIT), None] {
                let (client, mut peer) = QmpPeer::with_pipe(pipe);
                let config = match greets {
                    false => base().negotiation_timeout(MOMENT).greeting_timeout(limit),
                    true => base().greeting_timeout(None).negotiation_timeout(limit),
                };
                let monitor = Arc::new(SocketMonitor::with_config(client, config));
                let connecting = tokio::spawn({
                    let monitor = monitor.clone();
                    async move { monitor.connect().await }
                });
                if greets {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    peer.send(GREETING).await;
                }
                let started = Instant::now();
                if limit.is_none() {
                    tokio::time::sleep(Duration::from_secs(100_000_000)).await;
                    assert!(!connecting.is_finished(), "{phase}");
                    connecting.abort();
                    continue;
                }
                let error = connecting.await.unwrap().unwrap_err();
                assert!(
                    matches!(error, Error::Timeout { phase: is, after: LIMIT, .. } if is == phase),
                    "{error:?}"
                );
                let late = started.elapsed().saturating_sub(LIMIT);
                assert!(started.elapsed() >= LIMIT && late < Duration::from_secs(1));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_it_waits() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = SocketMonitor::with_config(client, Config::new().connect_timeout(None));
    let dialogue = async {
        tokio::time::sleep(Duration::from_secs(1_000_000)).await;
        peer.shake_hands().await;
    };
    let (connected, ()) = tokio::join!(monitor.connect(), dialogue);
    connected.unwrap();
}

/// A caller that goes away does not take the connection from the others, at whatever point it goes.
#[tokio::test(start_paused = true)]
async fn connecting_goes_on_when_the_caller_that_began_it_is_gone() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = Arc::new(SocketMonitor::new(client));
    let first = run(&monitor, STATUS);
    peer.expect_silence().await;
    first.abort();
    let second = run(&monitor, STATUS);
    peer.send(GREETING).await;
    let command = peer.expect("qmp_capabilities").await;
    second.abort();
    let third = run(&monitor, STATUS);
    peer.reply(&command, "{}").await;
    let command = peer.expect("query-status").await;
    peer.reply(&command, "3").await;
    assert_eq!(third.await.unwrap().unwrap(), r#"{"return": 3}"#);
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_one_handshake_and_its_outcome() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = Arc::new(SocketMonitor::new(client));
    let calls: Vec<_> = (0..20).map(|_| run(&monitor, STATUS)).collect();
    peer.expect_silence().await;
    drop(peer);
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(cause(&error), EndCause::PeerClosed));
    }
}

#[tokio::test(start_paused = true)]
async fn disconnecting_ends_a_handshake_at_once() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = Arc::new(SocketMonitor::new(client));
    let call = run(&monitor, STATUS);
    peer.expect_silence().await;
    let started = Instant::now();
    monitor.disconnect().await.unwrap();
    assert!(matches!(call.await.unwrap(), Err(Error::Closed)));
    assert!(matches!(monitor.connect().await, Err(Error::Closed)));
    peer.expect_end().await;
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// D6: a handle that goes closes the socket, whether it was used or not.
#[tokio::test(start_paused = true)]
async fn a_monitor_dropped_before_or_during_the_handshake_closes_the_socket() {
    let (client, mut peer) = QmpPeer::new();
    drop(SocketMonitor::new(client));
    peer.expect_end().await;

    let (client, mut peer) = QmpPeer::new();
    let monitor = Arc::new(SocketMonitor::new(client));
    let call = run(&monitor, STATUS);
    peer.send(GREETING).await;
    peer.expect("qmp_capabilities").await;
    call.abort();
    let _ = call.await;
    drop(monitor);
    peer.expect_end().await;
}

/// The greeting is for the user, and so is what follows it (P11).
#[tokio::test(start_paused = true)]
async fn with_a_greeting_only_the_user_negotiates() {
    let (client, mut peer) = QmpPeer::new();
    let config = Config::new().handshake(Handshake::GreetingOnly);
    let monitor = Arc::new(SocketMonitor::with_config(client, config));
    let early = run(&monitor, STATUS);
    peer.expect_silence().await;
    peer.send(GREETING).await;
    let command = peer.expect("query-status").await;
    peer.refuse(
        &command,
        "CommandNotFound",
        "Expecting capabilities negotiation",
    )
    .await;
    assert!(early.await.unwrap().unwrap_err().is_command_not_found());
    assert!(monitor.greeting().await.unwrap().offers("oob"));

    // What QEMU could not read is the user's to know at once.
    let broken = run(&monitor, r#"{"execute":"qmp_capabilities","a":1,"a":1}"#);
    peer.receive().await;
    peer.send(r#"{"error": {"class": "GenericError", "desc": "duplicate key"}}"#)
        .await;
    assert!(matches!(broken.await.unwrap(), Err(Error::Qmp(_))));

    let negotiate = run(&monitor, r#"{"execute":"qmp_capabilities","id":1}"#);
    let command = peer.expect("qmp_capabilities").await;
    peer.reply(&command, "{}").await;
    assert_eq!(
        negotiate.await.unwrap().unwrap(),
        r#"{"return": {}, "id": 1}"#
    );

    // No greeting is still no connection.
    let (client, mut peer) = QmpPeer::new();
    let config = Config::new().handshake(Handshake::GreetingOnly);
    let monitor = SocketMonitor::with_config(client, config);
    let error = monitor.connect().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Greeting,
                ..
            }
        ),
        "{error:?}"
    );
    peer.expect_end().await;
}

/// What never greets, as the guest agent, is spoken to at once; ids are used all the same.
#[tokio::test(start_paused = true)]
async fn without_a_handshake_commands_go_at_once() {
    let (client, mut peer) = QmpPeer::new();
    let config = Config::new().handshake(Handshake::None);
    let monitor = Arc::new(SocketMonitor::with_config(client, config));
    let started = Instant::now();
    monitor.connect().await.unwrap();
    let error = monitor.greeting().await.unwrap_err();
    assert!(error.is_unsupported(), "{error:?}");
    peer.expect_silence().await;
    let mut events = monitor.events().await.unwrap();
    let calls = [run(&monitor, STATUS), run(&monitor, STATUS)];
    let first = peer.receive().await;
    let second = peer.receive().await;
    assert_ne!(first.id(), second.id());
    peer.event("STOP").await;
    // A greeting that comes after all is passed over.
    peer.send(GREETING).await;
    peer.reply(&second, "2").await;
    peer.send(r#"{"error": {"class": "GenericError", "desc": "x"}}"#)
        .await;
    let [one, two] = calls;
    assert!(matches!(one.await.unwrap(), Err(Error::Qmp(_))));
    assert_eq!(two.await.unwrap().unwrap(), r#"{"return": 2}"#);
    assert_eq!(names(&mut events, 1).await, ["STOP"]);
    assert!(started.elapsed() < Duration::from_secs(1));
}
