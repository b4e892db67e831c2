//! What is said to the agent, in which order, and what is taken for an answer.

use std::io::pipe;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libvirt_qmp::{Command, Config, EndCause, Error, ErrorClass, GuestAgent, Phase, RunOptions};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::support::guest_agent::AgentPeer;

const LIMIT: Duration = Duration::from_secs(7);
const PING: &[u8] = br#"{"execute":"guest-ping"}"#;

fn run(agent: &Arc<GuestAgent>, command: &'static str) -> JoinHandle<Result<Bytes, Error>> {
    let agent = agent.clone();
    tokio::spawn(async move { agent.run(command.as_bytes()).await })
}

fn pair() -> (Arc<GuestAgent>, AgentPeer) {
    let (agent, peer) = AgentPeer::with_config(Config::new().call_timeout(Some(LIMIT)));
    (Arc::new(agent), peer)
}

/// An agent that has been pinged once, so that it is in step.
async fn in_step() -> (Arc<GuestAgent>, AgentPeer) {
    let (agent, mut peer) = pair();
    let serve = async {
        let id = peer.sync().await;
        peer.synced(id).await;
        assert_eq!(peer.command().await["execute"], "guest-ping");
        peer.send(b"{\"return\": {}}\n").await;
    };
    let (pinged, ()) = tokio::join!(agent.ping(), serve);
    pinged.unwrap();
    (agent, peer)
}

fn is_timeout(error: &Error, expected: Phase, executed: bool) {
    match error {
        Error::Timeout {
            phase,
            after,
            maybe_executed,
        } => assert_eq!(
            (*phase, *after, *maybe_executed),
            (expected, LIMIT, executed)
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_command_comes_after_a_synchronization_and_later_ones_do_not() {
    let (agent, mut peer) = in_step().await;
    for number in 0..3 {
        let running = run(&agent, r#"{"execute": "guest-info"}"#);
        assert_eq!(peer.command().await["execute"], "guest-info");
        let reply = format!("{{\"return\": {number}}}");
        peer.send(reply.as_bytes()).await;
        assert_eq!(running.await.unwrap().unwrap(), reply);
    }
    // Nothing happens by itself, and the last handle closes the stream.
    peer.expect_silence().await;
    drop(agent);
    peer.expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_agent_had_to_say_to_others_is_passed_over() {
    for stale in [
        &b""[..],
        b"{\"return\": {}}\n",
        b"lf of a reply\", \"x\": [1]}}\n{\"return\": 1}",
        b"{\"return\": {\"half\": \"",
        b"\xff{\"return\": 4}\n",
        b"\xff",
        b"\xff\xff{\"return",
        b"login: \x1b[1;31m\xfe\x00",
    ] {
        let (agent, mut peer) = pair();
        peer.send(stale).await;
        let running = run(&agent, r#"{"execute":"guest-ping"}"#);
        let id = peer.sync().await;
        peer.send(stale).await;
        peer.synced(id).await;
        peer.command().await;
        peer.send(b"{\"return\": \"mine\"}\n").await;
        let shown = stale.escape_ascii();
        assert_eq!(
            running.await.unwrap().unwrap(),
            r#"{"return": "mine"}"#,
            "{shown}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_may_come_one_by_one() {
    let (agent, mut peer) = pair();
    let running = run(&agent, r#"{"execute":"guest-ping"}"#);
    let id = peer.sync().await;
    let answer = format!("{{\"return\": 7}}\n\u{20}{{\"return\": {id}}}\n");
    let mut bytes = answer.into_bytes();
    bytes[14] = 0xFF;
    for byte in bytes {
        peer.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    peer.command().await;
    for byte in b"  \n{\"return\"\n: [ \"}\\\"\" ] }\n" {
        peer.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(
        running.await.unwrap().unwrap(),
        "{\"return\"\n: [ \"}\\\"\" ] }"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_its_0xff_is_no_answer() {
    let (agent, mut peer) = pair();
    let running = run(&agent, r#"{"execute":"guest-ping"}"#);
    let id = peer.sync().await;
    peer.send(format!("{{\"return\": {id}}}\n").as_bytes())
        .await;
    let error = running.await.unwrap().unwrap_err();
    is_timeout(&error, Phase::Sync, false);
    assert!(error.is_unavailable());
    // Nothing of the command was sent, and the next one tries again.
    let running = run(&agent, r#"{"execute":"guest-info"}"#);
    let next = peer.sync().await;
    assert_ne!(next, id);
    // The late answer to the first question is none to the second.
    peer.answer_sync(id).await;
    peer.synced(next).await;
    assert_eq!(peer.command().await["execute"], "guest-info");
    peer.send(b"{\"return\": 2}").await;
    assert_eq!(running.await.unwrap().unwrap(), r#"{"return": 2}"#);
}

#[tokio::test(start_paused = true)]
async fn garbage_without_end_is_not_read_for_ever() {
    // Without a deadline.
    let (agent, mut peer) = AgentPeer::with_config(Config::new().call_timeout(None));
    let (result, ()) = tokio::join!(agent.ping(), async {
        peer.sync().await;
        peer.send_for_ever(&[b'x'; 60_000]).await;
    });
    match result.unwrap_err() {
        Error::Disconnected {
            cause,
            maybe_executed: false,
        } => assert!(matches!(*cause, EndCause::Protocol(_)), "{cause}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_is_never_taken_for_anothers() {
    let (agent, mut peer) = in_step().await;
    let since = Instant::now();
    let late = run(&agent, r#"{"execute":"guest-get-time"}"#);
    peer.command().await;
    is_timeout(&late.await.unwrap().unwrap_err(), Phase::Reply, true);
    assert_eq!(since.elapsed().as_secs(), LIMIT.as_secs());
    let running = run(&agent, r#"{"execute":"guest-info"}"#);
    let id = peer.sync().await;
    peer.send(b"{\"return\": \"late\"}\n").await;
    peer.synced(id).await;
    peer.command().await;
    peer.send(b"{\"return\": \"right\"}\n").await;
    assert_eq!(running.await.unwrap().unwrap(), r#"{"return": "right"}"#);
    // The same where the caller lost patience, in the middle of a reply.
    let dropped = run(&agent, r#"{"execute":"guest-get-time"}"#);
    peer.command().await;
    peer.send(b"{\"return\": \"ha").await;
    tokio::task::yield_now().await;
    dropped.abort();
    let running = run(&agent, r#"{"execute":"guest-info"}"#);
    let id = peer.sync().await;
    peer.send(b"lf\"}\n").await;
    peer.synced(id).await;
    peer.command().await;
    peer.send(b"{\"return\": \"whole\"}\n").await;
    assert_eq!(running.await.unwrap().unwrap(), r#"{"return": "whole"}"#);
    // And where it says more than it was asked for.
    let running = run(&agent, r#"{"execute":"guest-info"}"#);
    peer.command().await;
    peer.send(b"{\"return\": 1}\n{\"return\": 2}\n").await;
    assert_eq!(running.await.unwrap().unwrap(), r#"{"return": 1}"#);
    let running = run(&agent, r#"{"execute":"guest-info"}"#);
    let id = peer.sync().await;
    peer.synced(id).await;
    peer.command().await;
    peer.send(b"{\"return\": 3}\n").await;
    assert_eq!(running.await.unwrap().unwrap(), r#"{"return": 3}"#);
}

#[tokio::test(start_paused = true)]
async fn commands_go_one_at_a_time_in_the_order_of_their_calls() {
    let (agent, mut peer) = in_step().await;
    let first = run(&agent, r#"{"execute":"first"}"#);
    assert_eq!(peer.command().await["execute"], "first");
    let second = run(&agent, r#"{"execute":"second"}"#);
    tokio::task::yield_now().await;
    let third = run(&agent, r#"{"execute":"third"}"#);
    tokio::task::yield_now().await;
    let given_up = run(&agent, r#"{"execute":"never"}"#);
    tokio::task::yield_now().await;
    given_up.abort();
    peer.expect_silence().await;
    for (running, next) in [
        (first, Some("second")),
        (second, Some("third")),
        (third, None),
    ] {
        peer.send(b"{\"return\": {}}\n").await;
        running.await.unwrap().unwrap();
        match next {
            Some(next) => assert_eq!(peer.command().await["execute"], next),
            None => peer.expect_silence().await,
        }
    }
    // What waits behind a silent one is never sent once its time is over.
    let stuck = run(&agent, r#"{"execute":"stuck"}"#);
    peer.command().await;
    let options = RunOptions::new().timeout(LIMIT / 2);
    match agent.run_with(PING, options).await.unwrap_err() {
        Error::Timeout {
            phase: Phase::Queue,
            maybe_executed: false,
            ..
        } => {}
        other => panic!("{other:?}"),
    }
    assert!(stuck.await.unwrap().unwrap_err().is_timeout());
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn ids_stay_here_and_errors_are_those_of_qmp() {
    let (agent, mut peer) = in_step().await;
    let running = run(
        &agent,
        r#"{"execute":"guest-nope","id":{"a":1},"arguments":{}}"#,
    );
    let command = peer.command().await;
    assert!(command.get("id").is_none(), "{command}");
    peer.send(br#"{"error": {"class": "CommandNotFound", "desc": "no"}}"#)
        .await;
    match running.await.unwrap().unwrap_err() {
        Error::Qmp(error) => {
            assert_eq!(error.class, ErrorClass::CommandNotFound);
            assert_eq!(error.command.as_deref(), Some("guest-nope"));
            assert_eq!(error.id.unwrap().get(), r#"{"a":1}"#);
        }
        other => panic!("{other:?}"),
    }
    let running = run(&agent, r#"{"execute":"guest-ping","id":{"a":1}}"#);
    peer.command().await;
    peer.send(b"{\"return\": {}}").await;
    assert_eq!(
        running.await.unwrap().unwrap(),
        r#"{"return": {}, "id": {"a":1}}"#
    );
    // Refused before anything is sent.
    let (read, _write) = pipe().unwrap();
    let files = [read.as_fd()];
    let refused = agent.run_with(PING, RunOptions::new().files(&files)).await;
    assert!(refused.unwrap_err().is_unsupported());
    let refused = agent.run(br#"{"exec-oob":"guest-ping"}"#).await;
    assert!(refused.unwrap_err().is_unsupported());
    let refused = agent.run(b"guest-ping").await;
    assert!(matches!(refused, Err(Error::Command(_))));
    peer.expect_silence().await;
    // A value of another type.
    let (result, ()) = tokio::join!(agent.execute::<u32>(Command::new("guest-ping")), async {
        peer.command().await;
        peer.send(b"{\"return\": \"text\"}").await;
    });
    assert!(matches!(result, Err(Error::Decode { .. })), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_longer_than_was_set_fails_its_command() {
    let config = Config::new().max_message(8 << 10);
    let (agent, mut peer) = AgentPeer::with_config(config);
    let agent = Arc::new(agent);
    for (length, comes) in [(8000, true), (8 << 10, false), (8000, true)] {
        let running = run(&agent, r#"{"execute":"guest-info"}"#);
        // In step but for the first time, and after what failed.
        if length == 8000 {
            let id = peer.sync().await;
            peer.synced(id).await;
        }
        peer.command().await;
        let reply = format!(r#"{{"return": "{}"}}"#, "x".repeat(length));
        peer.send(reply.as_bytes()).await;
        let answer = running.await.unwrap();
        assert_eq!(answer.is_ok(), comes, "{length}");
        if let Err(error) = answer {
            assert!(matches!(error, Error::Decode { .. }), "{error:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_reply_fails_its_command_and_the_next_one_synchronizes() {
    let (agent, mut peer) = in_step().await;
    for garbage in [&b"Kernel panic - not syncing\n"[..], b"[1]", b"\x00"] {
        let running = run(&agent, r#"{"execute":"guest-info"}"#);
        peer.command().await;
        peer.send(garbage).await;
        let error = running.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{error:?}");
        assert!(error.maybe_executed());
        let running = run(&agent, r#"{"execute":"guest-info"}"#);
        let id = peer.sync().await;
        peer.synced(id).await;
        peer.command().await;
        peer.send(b"{\"return\": 1}").await;
        running.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn commands_that_are_not_answered() {
    let shutdown = br#"{"execute":"guest-shutdown"}"#;
    let options = RunOptions::new;
    // It goes on: the next question is answered, and nothing was said against the command.
    let (agent, mut peer) = in_step().await;
    let (done, ()) = tokio::join!(agent.run_without_reply(shutdown, options()), async {
        assert_eq!(peer.command().await["execute"], "guest-shutdown");
        let id = peer.question().await;
        peer.answer_sync(id).await;
    });
    done.unwrap();
    // It says why not.
    let (done, ()) = tokio::join!(agent.run_without_reply(shutdown, options()), async {
        peer.command().await;
        let id = peer.question().await;
        peer.send(br#"{"error": {"class": "GenericError", "desc": "no"}}"#)
            .await;
        peer.answer_sync(id).await;
    });
    match done.unwrap_err() {
        Error::Qmp(error) => assert_eq!(error.command.as_deref(), Some("guest-shutdown")),
        other => panic!("{other:?}"),
    }
    // A command that is answered after all disturbs nobody, and the link is in step.
    let (done, ()) = tokio::join!(agent.run_without_reply(PING, options()), async {
        peer.command().await;
        let id = peer.question().await;
        peer.send(b"{\"return\": {}}").await;
        peer.answer_sync(id).await;
    });
    done.unwrap();
    let (pinged, ()) = tokio::join!(agent.ping(), async {
        assert_eq!(peer.command().await["execute"], "guest-ping");
        peer.send(b"{\"return\": {}}").await;
    });
    pinged.unwrap();
    // A suspended guest says nothing.
    let silent = agent
        .run_without_reply(shutdown, options().timeout(LIMIT))
        .await;
    is_timeout(&silent.unwrap_err(), Phase::Reply, true);
    // One that shuts down ends the connection.
    let (agent, mut peer) = in_step().await;
    let (done, ()) = tokio::join!(agent.run_without_reply(shutdown, options()), async {
        peer.command().await;
        peer.question().await;
        drop(peer);
    });
    done.unwrap();
    assert!(agent.ping().await.unwrap_err().is_disconnected());
    // But not before the command was sent.
    let (agent, peer) = pair();
    drop(peer);
    let error = agent
        .run_without_reply(shutdown, options())
        .await
        .unwrap_err();
    assert!(
        error.is_disconnected() && !error.maybe_executed(),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_is_the_same_for_all_that_follow() {
    let (agent, mut peer) = in_step().await;
    let running = run(&agent, r#"{"execute":"guest-info"}"#);
    peer.command().await;
    let waiting = run(&agent, r#"{"execute":"guest-info"}"#);
    tokio::task::yield_now().await;
    peer.send(b"{\"return\": {\"cut").await;
    drop(peer);
    let error = running.await.unwrap().unwrap_err();
    assert!(
        error.is_disconnected() && error.maybe_executed(),
        "{error:?}"
    );
    for error in [
        waiting.await.unwrap().unwrap_err(),
        agent.run(PING).await.unwrap_err(),
    ] {
        assert!(!error.maybe_executed());
        match error {
            Error::Disconnected { cause, .. } => {
                assert!(matches!(*cause, EndCause::PeerClosed), "{cause}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_ends_what_runs_and_what_waits() {
    let (agent, mut peer) = in_step().await;
    let running = run(&agent, r#"{"execute":"guest-info"}"#);
    peer.command().await;
    let waiting = run(&agent, r#"{"execute":"guest-info"}"#);
    tokio::task::yield_now().await;
    agent.close().await;
    let error = running.await.unwrap().unwrap_err();
    assert!(error.is_closed() && error.maybe_executed(), "{error:?}");
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_closed() && !error.maybe_executed(), "{error:?}");
    assert!(agent.run(PING).await.unwrap_err().is_closed());
    agent.close().await;
    peer.expect_end().await;
}
