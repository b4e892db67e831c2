//! Out-of-band commands: when they may be used, and that they wait for nothing.

use std::sync::Arc;

use libvirt_qmp::{Command, Config, Error, Handshake, Monitor, MonitorExt, SocketMonitor};
use serde_json::{Value, json};

use crate::support::qmp_peer::{GREETING, QmpPeer};
use crate::{number, numbered, run};

const YANK: &str = r#"{"exec-oob":"yank","id":"mine"}"#;

/// A monitor whose peer has greeted with these capabilities, and the arguments of its negotiation.
async fn greeted(config: Config, offers: &str) -> (Arc<SocketMonitor>, QmpPeer, Value) {
    let (client, mut peer) = QmpPeer::new();
    let monitor = Arc::new(SocketMonitor::with_config(client, config));
    let greeting = GREETING.replace(r#"["oob"]"#, offers);
    let dialogue = async {
        peer.send(&greeting).await;
        let command = peer.expect("qmp_capabilities").await;
        peer.reply(&command, "{}").await;
        command.command["arguments"].clone()
    };
    let (connected, arguments) = tokio::join!(monitor.connect(), dialogue);
    connected.unwrap();
    (monitor, peer, arguments)
}

/// D5: qapi-rs never saw that it is offered.
#[tokio::test(start_paused = true)]
async fn it_is_enabled_where_it_is_offered_and_not_declined() {
    let enabled = json!({"enable": ["oob"]});
    for (config, offers, arguments) in [
        (Config::new(), r#"["oob"]"#, &enabled),
        (Config::new(), r#"["new", "oob", {"x": 1}]"#, &enabled),
        (Config::new(), "[]", &Value::Null),
        (Config::new(), r#"["OOB"]"#, &Value::Null),
        (Config::new().oob(false), r#"["oob"]"#, &Value::Null),
    ] {
        let (monitor, mut peer, negotiated) = greeted(config, offers).await;
        assert_eq!(negotiated, *arguments, "{offers}");
        let call = run(&monitor, YANK);
        if arguments.is_null() {
            // P19: QEMU would only call the member unexpected.
            let error = call.await.unwrap().unwrap_err();
            assert!(
                error.is_unsupported() && !error.maybe_executed(),
                "{error:?}"
            );
            peer.expect_silence().await;
        } else {
            let command = peer.expect("yank").await;
            assert!(command.command.get("execute").is_none());
            peer.reply(&command, "1").await;
            assert_eq!(
                call.await.unwrap().unwrap(),
                r#"{"return": 1, "id": "mine"}"#
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn declined_it_is_refused_without_connecting() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = SocketMonitor::with_config(client, Config::new().oob(false));
    let command = Command::new("yank").oob();
    let error = monitor.execute::<Value>(command).await.unwrap_err();
    assert!(error.is_unsupported(), "{error:?}");
    peer.expect_silence().await;
}

/// P15: with eight in flight and more waiting, an out-of-band command is sent at once, and does not take a place.
#[tokio::test(start_paused = true)]
async fn it_passes_when_eight_are_in_flight() {
    let config = Config::new().max_in_flight(100);
    let (monitor, mut peer, _) = greeted(config, r#"["oob"]"#).await;
    let calls: Vec<_> = (0..11).map(|n| run(&monitor, numbered(n))).collect();
    let mut commands = Vec::new();
    for _ in 0..8 {
        commands.push(peer.receive().await);
    }
    peer.expect_silence().await;
    for round in 0..20 {
        let call = run(&monitor, YANK);
        let command = peer.expect("yank").await;
        peer.expect_silence().await;
        match round % 2 {
            0 => {
                peer.reply(&command, "1").await;
                call.await.unwrap().unwrap();
            }
            _ => {
                peer.refuse(&command, "GenericError", "no").await;
                assert!(matches!(call.await.unwrap(), Err(Error::Qmp(_))));
            }
        }
    }
    for n in 8..11 {
        peer.reply(&commands.remove(0), "{}").await;
        let command = peer.receive().await;
        assert_eq!(number(&command), n);
        commands.push(command);
    }
    for command in &commands {
        peer.reply(command, "{}").await;
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

/// What waits to be written while QEMU reads slowly is passed too; several keep their order.
#[tokio::test(start_paused = true)]
async fn it_goes_ahead_of_what_is_not_written_yet() {
    let (client, mut peer) = QmpPeer::with_pipe(1024);
    let config = Config::new().max_in_flight(8);
    let monitor = Arc::new(SocketMonitor::with_config(client, config));
    peer.connect(&monitor).await;
    let long = format!(
        r#"{{"execute":"long","arguments":{{"x":"{}"}}}}"#,
        "x".repeat(100_000)
    );
    let first = run(&monitor, long);
    // Its first bytes have come, so it is being written.
    peer.read_some().await;
    let mut calls = vec![first];
    calls.extend((0..3).map(|n| run(&monitor, numbered(n))));
    for name in ["a", "b"] {
        calls.push(run(&monitor, format!(r#"{{"exec-oob":"{name}"}}"#)));
    }
    tokio::task::yield_now().await;
    let mut came = Vec::new();
    for _ in 0..calls.len() {
        let command = peer.receive().await;
        came.push(command.name().to_owned());
        peer.reply(&command, "{}").await;
    }
    assert_eq!(came, ["long", "a", "b", "x", "x", "x"]);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

/// The answers come in any order: an out-of-band one before those that were sent earlier.
#[tokio::test(start_paused = true)]
async fn an_error_without_id_is_the_oldest_commands_also_among_these() {
    let (monitor, mut peer, _) = greeted(Config::new(), r#"["oob"]"#).await;
    let in_band = run(&monitor, numbered(1));
    let first = peer.receive().await;
    let out_of_band = run(&monitor, YANK);
    let second = peer.receive().await;
    peer.reply(&second, "2").await;
    out_of_band.await.unwrap().unwrap();
    peer.send(r#"{"error": {"class": "GenericError", "desc": "x"}}"#)
        .await;
    assert!(matches!(in_band.await.unwrap(), Err(Error::Qmp(_))));
    peer.reply(&first, "1").await;
    peer.expect_silence().await;
}

/// With a handshake of their own, users may enable it too.
#[tokio::test(start_paused = true)]
async fn the_users_own_negotiation_counts() {
    let negotiation = r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#;
    for handshake in [Handshake::GreetingOnly, Handshake::None] {
        let (client, mut peer) = QmpPeer::new();
        let config = Config::new().handshake(handshake);
        let monitor = Arc::new(SocketMonitor::with_config(client, config));
        peer.send(GREETING).await;
        for succeeds in [false, true] {
            let error = monitor.run(YANK.as_bytes()).await.unwrap_err();
            assert!(error.is_unsupported(), "{error:?}");
            let call = run(&monitor, negotiation);
            let command = peer.expect("qmp_capabilities").await;
            if succeeds {
                peer.reply(&command, "{}").await;
            } else {
                peer.refuse(&command, "GenericError", "no").await;
            }
            assert_eq!(call.await.unwrap().is_ok(), succeeds);
        }
        let call = run(&monitor, YANK);
        let command = peer.expect("yank").await;
        peer.reply(&command, "1").await;
        call.await.unwrap().unwrap();
    }
}
