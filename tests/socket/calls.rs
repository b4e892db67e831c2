//! Commands and their replies: who gets which, ids, limits on what is in flight, deadlines.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{
    Command, Config, Error, ErrorClass, Monitor, MonitorExt, Phase, RunOptions, SocketMonitor,
};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::qmp_peer::{GREETING, QmpPeer, Received};
use crate::{STATUS, names, number, numbered, run};

async fn connected() -> (Arc<SocketMonitor>, QmpPeer) {
    let config = Config::new().max_in_flight(8);
    let (monitor, peer) = QmpPeer::connected(config).await;
    (Arc::new(monitor), peer)
}

async fn receive(peer: &mut QmpPeer, count: usize) -> Vec<Received> {
    let mut commands = Vec::new();
    for _ in 0..count {
        commands.push(peer.receive().await);
    }
    commands
}

/// P14, P15: commands leave in the order of the calls, and replies find their callers in any order.
#[tokio::test(start_paused = true)]
async fn concurrent_callers_get_their_own_replies() {
    let (monitor, mut peer) = connected().await;
    let calls: Vec<_> = (0..8).map(|n| run(&monitor, numbered(n))).collect();
    let mut commands = receive(&mut peer, 8).await;
    assert_eq!(
        commands.iter().map(number).collect::<Vec<_>>(),
        (0..8).collect::<Vec<_>>()
    );
    commands.sort_by_key(|command| (number(command) * 5) % 8);
    for command in &commands {
        let n = number(command);
        if n % 2 == 0 {
            peer.reply(command, &format!("{n}")).await;
        } else {
            peer.refuse(command, "GenericError", &format!("{n}")).await;
        }
    }
    for (n, call) in calls.into_iter().enumerate() {
        match call.await.unwrap() {
            Ok(reply) => assert_eq!(reply, format!(r#"{{"return": {n}}}"#)),
            Err(Error::Qmp(error)) => assert_eq!(error.desc, n.to_string()),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// P14: no id twice on a connection, nor on two of them.
#[tokio::test(start_paused = true)]
async fn ids_are_unique() {
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let (client, mut peer) = QmpPeer::new();
        let monitor = SocketMonitor::new(client);
        let dialogue = async {
            peer.send(GREETING).await;
            for _ in 0..100 {
                let command = peer.receive().await;
                assert!(command.command["id"].is_string());
                assert!(ids.insert(command.id()), "{} again", command.id());
                peer.reply(&command, "{}").await;
            }
        };
        let calls = async {
            for _ in 0..99 {
                monitor.run(STATUS.as_bytes()).await.unwrap();
            }
        };
        tokio::join!(calls, dialogue);
    }
    assert_eq!(ids.len(), 300);
}

/// P3: QEMU reads slowly, so blanks are left out; and P2: no line end, which `quit` would leave unread.
#[tokio::test(start_paused = true)]
async fn commands_are_sent_compact_and_otherwise_as_given() {
    let (monitor, mut peer) = connected().await;
    let _call = run(
        &monitor,
        " {\r\n \"execute\" : \"x y\",\n\t\"arguments\": { \"a\" : [ 1.50, -0, 1e40, 18446744073709551616 ], \"\\u0061\": \"\u{e9}\\u0000\\ud83d\\ude00\" } } \n",
    );
    let command = peer.receive().await;
    assert_eq!(
        command.text,
        format!(
            r#"{{"id":{},"execute":"x y","arguments":{{"a":[1.50,-0,1e40,18446744073709551616],"\u0061":"{}\u0000\ud83d\ude00"}}}}"#,
            command.id(),
            '\u{e9}'
        )
    );
    peer.expect_silence().await;
}

/// D1: go-qemu failed calls with a numeric id after they ran. The reply has the user's id as the user wrote it, be it
/// what it may, while the wire has ours; and a reply without one where the user gave none.
#[tokio::test(start_paused = true)]
async fn the_users_own_id_comes_back_exactly() {
    let (monitor, mut peer) = connected().await;
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for id in [
        "1",
        "0.10000000000000001",
        "18446744073709551615",
        "-9223372036854775808",
        "123456789012345678901234567890",
        "null",
        "true",
        r#""x""#,
        r#""\u0000 \"quoted\" \\ \ud83d\ude00 é""#,
        r#"{ "b" : 1, "a" : {"id": [ ]} }"#,
        nested.as_str(),
    ] {
        let call = run(&monitor, format!(r#"{{"id": {id} ,"execute":"a"}}"#));
        let command = peer.expect("a").await;
        assert!(command.command["id"].as_str().unwrap().starts_with('q'));
        peer.reply(&command, r#"{"id": 5}"#).await;
        assert_eq!(
            call.await.unwrap().unwrap(),
            format!(r#"{{"return": {{"id": 5}}, "id": {id}}}"#)
        );

        let call = run(&monitor, format!(r#"{{"execute":"b","id":{id}}}"#));
        let command = peer.expect("b").await;
        peer.refuse(&command, "GenericError", "no").await;
        match call.await.unwrap() {
            Err(Error::Qmp(error)) => assert_eq!(error.id.unwrap().get(), id),
            other => panic!("{other:?}"),
        }
    }
    let call = run(&monitor, STATUS);
    let command = peer.receive().await;
    // QEMU does not keep members in any order (P7).
    peer.send(&format!(r#"{{"id": {}, "return": {{}}}}"#, command.id()))
        .await;
    assert_eq!(call.await.unwrap().unwrap(), r#"{"return": {}}"#);
}

/// P20: classes known and unknown, and everything else the error held.
#[tokio::test(start_paused = true)]
async fn errors_keep_class_text_and_reply() {
    let (monitor, mut peer) = connected().await;
    for class in [
        "GenericError",
        "CommandNotFound",
        "DeviceNotActive",
        "DeviceNotFound",
        "KVMMissingCap",
        "Quantum",
    ] {
        let call = run(&monitor, STATUS);
        let command = peer.receive().await;
        peer.send(&format!(
            r#"{{"id": {}, "error": {{"class": "{class}", "desc": "because", "more": [1]}}}}"#,
            command.id()
        ))
        .await;
        match call.await.unwrap().unwrap_err() {
            Error::Qmp(error) => {
                assert_eq!(error.class.as_str(), class);
                assert_eq!(
                    matches!(error.class, ErrorClass::Other(_)),
                    class == "Quantum"
                );
                assert_eq!(error.desc, "because");
                assert_eq!(error.command.as_deref(), Some("query-status"));
                assert_eq!(
                    error.raw,
                    format!(
                        r#"{{"error": {{"class": "{class}", "desc": "because", "more": [1]}}}}"#
                    )
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// P15, `QMP_REQ_QUEUE_LEN_MAX`: with more than eight QEMU stops reading.
#[tokio::test(start_paused = true)]
async fn at_most_eight_are_in_flight_whatever_is_configured() {
    for (configured, limit) in [
        (1, 1),
        (3, 3),
        (8, 8),
        (9, 8),
        (1_000_000, 8),
        (usize::MAX, 8),
    ] {
        let config = Config::new().max_in_flight(configured);
        let (monitor, mut peer) = QmpPeer::connected(config).await;
        let monitor = Arc::new(monitor);
        let calls: Vec<_> = (0..12).map(|n| run(&monitor, numbered(n))).collect();
        let mut commands = receive(&mut peer, limit).await;
        for next in limit..12 {
            peer.expect_silence().await;
            // Each reply lets one more in, in the order of the calls.
            peer.reply(&commands.remove(0), "{}").await;
            let command = peer.receive().await;
            assert_eq!(usize::try_from(number(&command)).unwrap(), next);
            commands.push(command);
        }
        for command in &commands {
            peer.reply(command, "{}").await;
        }
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
}

/// P8, D6: QEMU names no command where it could not read it. qmp-rs let the caller wait, qemu.qmp closed the session.
#[tokio::test(start_paused = true)]
async fn an_error_without_id_fails_the_oldest_command_and_the_session_lives() {
    let (monitor, mut peer) = connected().await;
    let stray =
        r#"{"error": {"class": "GenericError", "desc": "JSON parse error, duplicate key"}}"#;
    let first = run(
        &monitor,
        r#"{"execute":"first","arguments":{"a":1,"a":1},"id":9}"#,
    );
    let first_command = peer.expect("first").await;
    let second = run(&monitor, r#"{"execute":"second"}"#);
    let second_command = peer.expect("second").await;
    peer.send(stray).await;
    match first.await.unwrap().unwrap_err() {
        Error::Qmp(error) => {
            assert_eq!(error.desc, "JSON parse error, duplicate key");
            assert_eq!(error.command.as_deref(), Some("first"));
            assert!(error.id.is_none());
            assert_eq!(error.raw, stray);
        }
        other => panic!("{other:?}"),
    }
    assert!(!second.is_finished());
    // What comes for the first after all is nobody's.
    peer.reply(&first_command, "1").await;
    peer.reply(&second_command, "2").await;
    assert_eq!(second.await.unwrap().unwrap(), r#"{"return": 2}"#);

    // With nobody waiting it is ignored.
    for _ in 0..3 {
        peer.send(stray).await;
    }
    peer.expect_silence().await;
    let third = run(&monitor, STATUS);
    let command = peer.receive().await;
    peer.reply(&command, "3").await;
    assert_eq!(third.await.unwrap().unwrap(), r#"{"return": 3}"#);
}

/// P4: what is nested too deep QEMU answers with an error for each level. Nothing like that is sent from here, but whoever
/// shares the stream may.
#[tokio::test(start_paused = true)]
async fn a_cascade_of_errors_without_id_costs_one_command() {
    let (monitor, mut peer) = connected().await;
    let first = run(&monitor, STATUS);
    let late = peer.receive().await;
    for n in 0..1026 {
        peer.send(&format!(
            r#"{{"error": {{"class": "GenericError", "desc": "error {n}"}}}}"#
        ))
        .await;
    }
    match first.await.unwrap().unwrap_err() {
        Error::Qmp(error) => assert_eq!(error.desc, "error 0"),
        other => panic!("{other:?}"),
    }
    peer.reply(&late, "1").await;
    peer.expect_silence().await;
    let second = run(&monitor, STATUS);
    let command = peer.receive().await;
    peer.reply(&command, "2").await;
    assert_eq!(second.await.unwrap().unwrap(), r#"{"return": 2}"#);
}

/// The command that was given up is still the oldest for QEMU: its error is not the next one's.
#[tokio::test(start_paused = true)]
async fn an_error_without_id_may_belong_to_a_command_that_was_given_up() {
    let (monitor, mut peer) = connected().await;
    let first = run(&monitor, numbered(1));
    peer.receive().await;
    first.abort();
    let second = run(&monitor, numbered(2));
    let command = peer.receive().await;
    peer.send(r#"{"error": {"class": "GenericError", "desc": "of the first"}}"#)
        .await;
    peer.expect_silence().await;
    assert!(!second.is_finished());
    peer.reply(&command, "2").await;
    assert_eq!(second.await.unwrap().unwrap(), r#"{"return": 2}"#);
}

/// What makes no sense is passed over: unknown kinds, answers to nothing, ids of nobody, a second greeting.
#[tokio::test(start_paused = true)]
async fn messages_for_nobody_are_ignored() {
    let (monitor, mut peer) = connected().await;
    let call = run(&monitor, STATUS);
    let command = peer.receive().await;
    let ours = command.command["id"].as_str().unwrap();
    let (prefix, last) = ours.split_at(ours.len() - 1);
    assert_eq!(last, "1");
    for message in [
        "{}".to_owned(),
        r#"{"telepathy": {}}"#.to_owned(),
        r#"{"return": {}}"#.to_owned(),
        r#"{"return": {}, "id": null}"#.to_owned(),
        r#"{"return": {}, "id": 1}"#.to_owned(),
        // Answered already, and not asked yet.
        format!(r#"{{"return": {{}}, "id": "{prefix}0"}}"#),
        format!(r#"{{"return": {{}}, "id": "{prefix}2"}}"#),
        format!(r#"{{"return": {{}}, "id": ["{ours}"]}}"#),
        format!(r#"{{"id": "{ours} ", "error": {{"class": "X", "desc": ""}}}}"#),
        GREETING.to_owned(),
        r#"{"QMP": 1}"#.to_owned(),
    ] {
        peer.send(&message).await;
        peer.expect_silence().await;
        assert!(!call.is_finished(), "{message}");
    }
    peer.reply(&command, "1").await;
    assert_eq!(call.await.unwrap().unwrap(), r#"{"return": 1}"#);
}

/// qapi-rs ended the connection, or the whole process, after a call that was given up.
#[tokio::test(start_paused = true)]
async fn after_a_timeout_the_late_reply_is_discarded_and_the_connection_serves_on() {
    let (monitor, mut peer) = connected().await;
    let started = Instant::now();
    let call = run(&monitor, numbered(1));
    let late = peer.receive().await;
    let error = call.await.unwrap().unwrap_err();
    let grace = Duration::from_micros(100) * u32::try_from(late.text.len()).unwrap();
    let after = Duration::from_secs(60) + grace;
    assert!(started.elapsed() - after < Duration::from_millis(2));
    assert!(
        matches!(error, Error::Timeout { phase: Phase::Reply, after: told, maybe_executed: true } if told == after),
        "{error:?}"
    );
    let call = run(&monitor, numbered(2));
    let command = peer.receive().await;
    peer.reply(&late, r#""late""#).await;
    peer.refuse(&late, "GenericError", "late").await;
    peer.expect_silence().await;
    assert!(!call.is_finished());
    peer.reply(&command, "2").await;
    assert_eq!(call.await.unwrap().unwrap(), r#"{"return": 2}"#);
}

/// A call's own deadline is kept to the instant, whatever is configured and however long the command is.
#[tokio::test(start_paused = true)]
async fn a_call_may_have_a_deadline_of_its_own() {
    const OWN: Duration = Duration::from_secs(2);
    let (monitor, mut peer) = connected().await;
    let long = format!(r#"{{"execute":"{}"}}"#, "x".repeat(10_000));
    let started = Instant::now();
    let options = RunOptions::new().timeout(OWN);
    let error = monitor
        .run_with(long.as_bytes(), options)
        .await
        .unwrap_err();
    assert_eq!(started.elapsed(), OWN);
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Reply,
                after: OWN,
                maybe_executed: true
            }
        ),
        "{error:?}"
    );
    peer.receive().await;

    // Longer than configured, and none at all.
    for own in [Some(Duration::from_secs(1_000_000)), None] {
        let monitor = monitor.clone();
        let call = tokio::spawn(async move {
            let options = RunOptions::new().timeout(own);
            monitor.run_with(STATUS.as_bytes(), options).await
        });
        let command = peer.receive().await;
        tokio::time::sleep(Duration::from_secs(999_999)).await;
        peer.reply(&command, "1").await;
        assert_eq!(call.await.unwrap().unwrap(), r#"{"return": 1}"#);
    }

    // It covers waiting for a free slot too.
    let busy: Vec<_> = (0..8).map(|n| run(&monitor, numbered(n))).collect();
    // The first that was given up has not been answered.
    receive(&mut peer, 7).await;
    let error = monitor
        .run_with(STATUS.as_bytes(), RunOptions::new().timeout(OWN))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Queue,
                after: OWN,
                maybe_executed: false
            }
        ),
        "{error:?}"
    );
    peer.expect_silence().await;
    drop(busy);
}

/// A call that gives up while others connect takes the connection from nobody.
#[tokio::test(start_paused = true)]
async fn a_deadline_of_its_own_covers_connecting() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = SocketMonitor::new(client);
    let options = RunOptions::new().timeout(Duration::from_secs(2));
    let started = Instant::now();
    let error = monitor
        .run_with(STATUS.as_bytes(), options)
        .await
        .unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Handshake,
                maybe_executed: false,
                ..
            }
        ),
        "{error:?}"
    );
    let dialogue = async {
        peer.shake_hands().await;
        let command = peer.receive().await;
        peer.reply(&command, "2").await;
    };
    let (reply, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), dialogue);
    assert_eq!(reply.unwrap(), r#"{"return": 2}"#);
}

/// P3: at QEMU's pace of 2.4 µs a byte, a megabyte takes longer than a short deadline.
#[tokio::test(start_paused = true)]
async fn a_long_command_has_more_time() {
    let config = Config::new().call_timeout(Some(Duration::from_secs(1)));
    let (monitor, _peer) = QmpPeer::connected(config).await;
    let text = "x".repeat(1_000_000);
    let started = Instant::now();
    let command = Command::new("ringbuf-write").arg("data", text);
    let error = monitor.execute::<Value>(command).await.unwrap_err();
    assert!(error.is_timeout());
    let elapsed = started.elapsed().as_millis();
    assert!((101_000..101_010).contains(&elapsed), "{elapsed}");
}

/// A slot belongs to the command, not to its caller: what was given up still occupies QEMU.
#[tokio::test(start_paused = true)]
async fn commands_that_were_given_up_keep_their_slots_until_answered() {
    let config = Config::new()
        .max_in_flight(2)
        .call_timeout(Some(Duration::from_secs(5)));
    let (monitor, mut peer) = QmpPeer::connected(config).await;
    let monitor = Arc::new(monitor);
    let stuck = [run(&monitor, numbered(1)), run(&monitor, numbered(2))];
    let commands = receive(&mut peer, 2).await;
    for call in stuck {
        assert!(call.await.unwrap().unwrap_err().is_timeout());
    }
    let error = run(&monitor, numbered(3)).await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Queue,
                maybe_executed: false,
                ..
            }
        ),
        "{error:?}"
    );
    peer.expect_silence().await;
    peer.reply(&commands[1], "{}").await;
    let call = run(&monitor, numbered(4));
    let command = peer.receive().await;
    assert_eq!(number(&command), 4);
    peer.reply(&command, "4").await;
    call.await.unwrap().unwrap();
}

/// P16: QEMU stops reading while it is busy. Writing then waits, but reading goes on.
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_a_timeout_while_sending_and_reading_goes_on() {
    let (client, mut peer) = QmpPeer::with_pipe(1024);
    let config = Config::new().call_timeout(Some(Duration::from_secs(5)));
    let monitor = Arc::new(SocketMonitor::with_config(client, config));
    let (mut events, ()) = tokio::join!(async { monitor.events().await.unwrap() }, async {
        peer.shake_hands().await
    });
    let long = format!(
        r#"{{"execute":"x","arguments":{{"a":"{}"}}}}"#,
        "x".repeat(5000)
    );
    let call = run(&monitor, long.as_str());
    // More than fits into the pipe, so it must be read all the while.
    for _ in 0..100 {
        peer.event("STOP").await;
    }
    assert_eq!(names(&mut events, 100).await, ["STOP"; 100]);
    let behind = run(&monitor, STATUS);
    let error = call.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Write,
                maybe_executed: true,
                ..
            }
        ),
        "{error:?}"
    );
    let error = behind.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Queue,
                maybe_executed: false,
                ..
            }
        ),
        "{error:?}"
    );
    // It reads again: the first command comes whole, the second was never sent, and the connection serves on.
    let command = peer.receive().await;
    assert_eq!(command.command["arguments"]["a"], "x".repeat(5000));
    peer.reply(&command, "{}").await;
    let call = run(&monitor, r#"{"execute":"cont"}"#);
    let command = peer.expect("cont").await;
    peer.reply(&command, "{}").await;
    call.await.unwrap().unwrap();
}

/// Bad commands never reach the wire: they would come back without an id, or lock the connection.
#[tokio::test(start_paused = true)]
async fn what_is_no_command_is_refused_before_anything_is_sent() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = SocketMonitor::new(client);
    let deep = format!(
        r#"{{"execute":"x","arguments":{}{}}}"#,
        "[".repeat(1024),
        "]".repeat(1024)
    );
    let tokens = format!(
        r#"{{"execute":"x","arguments":[{}1]}}"#,
        "1,".repeat(1 << 20)
    );
    let long = format!(r#"{{"execute":"{}"}}"#, "x".repeat(64 << 20));
    // Within the limit as the user gave it, but not with our id.
    let just = format!(r#"{{"execute":"{}"}}"#, "x".repeat((64 << 20) - 14));
    assert_eq!(just.len(), 64 << 20);
    for command in [
        "",
        "query-status",
        "null",
        "[]",
        "{}",
        r#"{"execute":"a"}{"execute":"b"}"#,
        r#"{"execute":"a","id":1,"id":2}"#,
        r#"{"execute":"a","arguments":{"x":"\ud800"}}"#,
        r#"{"execute":"a","arguments":{"x":NaN}}"#,
        r#"{"execute":"a","arguments":{"x":01}}"#,
        r#"{"execute":"a","arguments":{"x":1,}}"#,
        "{\"execute\":\"a\",\"arguments\":{\"x\":\"\t\"}}",
        "{'execute':'a'}",
        &deep,
        &tokens,
        &long,
        &just,
    ] {
        let error = monitor.run(command.as_bytes()).await.unwrap_err();
        assert!(matches!(error, Error::Command(_)), "{error:?}");
        assert!(!error.maybe_executed());
    }
    let error = monitor.run(b"{\"execute\":\"\xff\"}").await.unwrap_err();
    assert!(matches!(error, Error::Command(_)), "{error:?}");
    // P9: what makes QEMU's parser start anew, dropping what it has.
    for control in [0x00, 0x01, 0x1b, 0xff] {
        for place in [0, 3, 14] {
            let mut command = br#"{"execute":"a"}"#.to_vec();
            command.insert(place, control);
            let error = monitor.run(&command).await.unwrap_err();
            assert!(matches!(error, Error::Command(_)), "{error:?}");
        }
    }
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn typed_calls_decode_what_is_returned() {
    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct Status {
        status: String,
        running: bool,
        // Gone in QEMU 9 (P31).
        singlestep: Option<bool>,
    }
    let (monitor, mut peer) = connected().await;
    let ask = || {
        let monitor = monitor.clone();
        tokio::spawn(async move {
            monitor
                .execute::<Status>(Command::new("query-status"))
                .await
        })
    };
    let call = ask();
    let command = peer.receive().await;
    peer.reply(
        &command,
        r#"{"status": "running", "running": true, "new": 1}"#,
    )
    .await;
    let status = call.await.unwrap().unwrap();
    assert_eq!(
        status,
        Status {
            status: "running".into(),
            running: true,
            singlestep: None
        }
    );

    let call = ask();
    let command = peer.receive().await;
    peer.reply(&command, r#"{"status": 5}"#).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error:?}");
    assert!(error.maybe_executed());
}
