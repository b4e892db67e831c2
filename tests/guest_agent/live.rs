//! Against a real `qemu-ga`, which runs on this machine: nothing here asks it to change anything.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libvirt_qmp::{Command, Error, ErrorClass, GuestAgent, Phase, RunOptions};
use serde_json::Value;

use super::support::guest_agent::Agent;
use super::support::process::PATIENCE;

async fn connect(agent: &Agent) -> GuestAgent {
    GuestAgent::unix(agent.unix_path()).await.unwrap()
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn commands_and_errors_of_a_real_agent() {
    let process = Agent::start();
    let agent = connect(&process).await;
    agent.ping().await.unwrap();
    let info: Value = agent.execute(Command::new("guest-info")).await.unwrap();
    let commands = info["supported_commands"].as_array().unwrap();
    let unanswered: Vec<&str> = commands
        .iter()
        .filter(|command| command["success-response"] == false)
        .map(|command| command["name"].as_str().unwrap())
        .collect();
    assert!(unanswered.contains(&"guest-shutdown"), "{unanswered:?}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let theirs: i64 = agent.execute(Command::new("guest-get-time")).await.unwrap();
    let theirs = Duration::from_nanos(theirs.unsigned_abs());
    assert!(
        theirs >= now && theirs < now + PATIENCE,
        "{now:?} {theirs:?}"
    );
    let reply = agent
        .run(br#"{ "execute": "guest-ping", "id": [7] }"#)
        .await;
    assert_eq!(reply.unwrap(), r#"{"return": {}, "id": [7]}"#);
    for command in ["guest-no-such-command", "query-status"] {
        match agent
            .execute::<Value>(Command::new(command))
            .await
            .unwrap_err()
        {
            Error::Qmp(error) => {
                assert_eq!(error.class, ErrorClass::CommandNotFound);
                assert_eq!(error.command.as_deref(), Some(command));
            }
            other => panic!("{other:?}"),
        }
    }
    let unknown = Command::new("guest-file-close").arg("handle", 77);
    assert!(matches!(
        agent.execute::<Value>(unknown).await.unwrap_err(),
        Error::Qmp(error) if error.class == ErrorClass::GenericError
    ));
    // As a command without reply: these have one, of either kind.
    let options = RunOptions::new();
    agent
        .run_without_reply(br#"{"execute":"guest-ping"}"#, options)
        .await
        .unwrap();
    let refused = agent
        .run_without_reply(br#"{"execute":"guest-no-such-command"}"#, options)
        .await;
    assert!(refused.unwrap_err().is_command_not_found());
    agent.ping().await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_an_earlier_client_left_disturbs_nobody() {
    let process = Agent::start();
    // What is sent, and how many lines the agent says to it: it ends by itself where those are not read.
    for (left, lines) in [
        // Half a command, which the agent keeps when its client goes.
        (&b"{\"execute\": \"guest-get-ti"[..], 0),
        (
            b"{\"execute\": \"guest-ping\", \"arguments\": {\"a\": [[[\"\\",
            0,
        ),
        (b"{\"execute\": \"guest-get-time\"}{\"execute\": ", 1),
        (
            b"{\"execute\": \"guest-sync-delimited\", \"arguments\": {\"id\": 7}}{",
            1,
        ),
    ] {
        let mut earlier = UnixStream::connect(process.unix_path()).unwrap();
        earlier.set_read_timeout(Some(PATIENCE)).unwrap();
        earlier.write_all(left).unwrap();
        for _ in 0..lines {
            let mut byte = [0];
            while byte != *b"\n" {
                earlier.read_exact(&mut byte).unwrap();
            }
        }
        // The agent serves one client after the other: this one waits for its turn.
        let agent = Arc::new(connect(&process).await);
        let pinged = tokio::spawn({
            let agent = agent.clone();
            async move { agent.ping().await }
        });
        drop(earlier);
        pinged.await.unwrap().unwrap();
        let reply = agent.run(br#"{"execute":"guest-ping"}"#).await.unwrap();
        assert_eq!(reply, r#"{"return": {}}"#, "{}", left.escape_ascii());
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_reply_of_megabytes_comes_whole() {
    let process = Agent::start();
    let agent = connect(&process).await;
    // 1.3 MB of digits, more in base64.
    let exec = Command::new("guest-exec")
        .arg("path", "seq")
        .arg("arg", ["1", "200000"])
        .arg("capture-output", true);
    let started: Value = agent.execute(exec).await.unwrap();
    let status = || Command::new("guest-exec-status").arg("pid", &started["pid"]);
    let ended = async {
        loop {
            let status: Value = agent.execute(status()).await.unwrap();
            if status["exited"] == true {
                return status;
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    let length: usize = (1..=200_000u32)
        .map(|number| number.to_string().len() + 1)
        .sum();
    let data = ended["out-data"].as_str().unwrap();
    assert_eq!(data.len(), length.div_ceil(3) * 4);
    // A file, with what is not yet read of it left behind by a command that is given up.
    let path = process.path("file");
    std::fs::write(&path, "x".repeat(3 << 20)).unwrap();
    let open = Command::new("guest-file-open").arg("path", path.to_str().unwrap());
    let handle: u64 = agent.execute(open).await.unwrap();
    let read = || {
        Command::new("guest-file-read")
            .arg("handle", handle)
            .arg("count", 1 << 20)
    };
    let first: Value = agent.execute(read()).await.unwrap();
    assert_eq!(first["count"], 1 << 20);
    let given_up = agent.execute::<Value>(read().timeout(Duration::ZERO)).await;
    assert!(given_up.unwrap_err().is_timeout());
    agent.ping().await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn an_agent_that_stops_and_goes_on() {
    let process = Agent::start();
    let agent = connect(&process).await;
    agent.ping().await.unwrap();
    process.pause();
    let short = Duration::from_millis(200);
    let error = agent
        .execute::<i64>(Command::new("guest-get-time").timeout(short))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        Error::Timeout {
            phase: Phase::Reply,
            maybe_executed: true,
            ..
        }
    ));
    let error = agent
        .execute::<i64>(Command::new("guest-get-time").timeout(short))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        Error::Timeout {
            phase: Phase::Sync,
            maybe_executed: false,
            ..
        }
    ));
    process.resume();
    // The late reply, a number, is not taken for this one's, nor is the late answer of the synchronization.
    let info: Value = agent.execute(Command::new("guest-info")).await.unwrap();
    assert!(info["version"].is_string());
    let time: i64 = agent.execute(Command::new("guest-get-time")).await.unwrap();
    assert!(time > 0);
    // Where the agent dies the next command learns it, and the same is said ever after.
    process.kill();
    for _ in 0..2 {
        let error = agent.ping().await.unwrap_err();
        assert!(error.is_disconnected(), "{error}");
    }
    let gone = GuestAgent::unix(process.unix_path()).await.unwrap_err();
    assert!(gone.is_unavailable(), "{gone}");
}
