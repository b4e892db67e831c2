//! Commands and their replies, whatever virsh prints around them.

use std::fs::File;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use libvirt_qmp::{
    AgentTimeout, Command, CommandError, Config, EndCause, Error, Monitor, MonitorExt, Phase,
    RunOptions,
};
use serde_json::{Value, json};

use crate::fake::{Fake, soon};
use crate::{STATUS, cause};

/// Says its name and notes what it was asked.
const ECHOING: &str = r#"
monitor() { note asked "$1"; printf '{"return":%s,"id":"libvirt-7"}\n' "$1"; }
"#;

fn named(name: &str) -> Vec<u8> {
    format!(r#"{{"execute":"{name}"}}"#).into_bytes()
}

#[tokio::test]
async fn a_reply_is_found_whatever_readline_makes_of_the_input() {
    for shape in [
        // Built without readline.
        ":",
        // A narrow dumb terminal, redrawn.
        r#"printf '\r<%s\rvirsh # <%s\n' "${1: -30}" "${1: -60}""#,
        // Wrapped and coloured, with line ends in it.
        r#"printf '\e[1m%s\r\n%s\e[0m\a\r\n' "${1:0:40}" "${1:40}""#,
        // Twice, once without quotes.
        r#"printf '%s\n%s\n' "$1" "${1//\'/\"}""#,
    ] {
        let fake = Fake::new(&format!("{ECHOING} echo_line() {{ {shape}; }}"));
        let monitor = fake.monitor();
        for n in 0..3 {
            let command = format!(r#"{{"execute":"x","id":{n}}}"#);
            let reply = soon(monitor.run(command.as_bytes())).await.unwrap();
            let reply: Value = serde_json::from_slice(&reply).unwrap();
            assert_eq!(
                reply,
                json!({"return": {"execute": "x"}, "id": n}),
                "{shape}"
            );
        }
        monitor.disconnect().await.unwrap();
        fake.assert_gone();
    }
}

#[tokio::test]
async fn a_command_is_one_line_of_plain_ascii() {
    let fake = Fake::new(ECHOING);
    let monitor = fake.monitor();
    let text = "{ \"execute\" : \"caf\u{e9}\",\r\n\t\"id\": 3, \"arguments\": {\"a\": \"it's \\\"\\\\ \u{1f600}\u{7f}\"} }";
    let reply = soon(monitor.run(text.as_bytes())).await.unwrap();
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    let mut sent: Value = serde_json::from_str(text).unwrap();
    sent.as_object_mut().unwrap().remove("id");
    assert_eq!(reply, json!({"return": sent, "id": 3}));
    let asked = &fake.notes("asked")[0];
    assert!(asked.bytes().all(|byte| (b' '..0x7f).contains(&byte)));
    assert!(!asked.contains('\''), "{asked}");
}

#[tokio::test]
async fn commands_run_one_at_a_time_in_the_order_of_their_calls() {
    let fake = Fake::new(ECHOING);
    let monitor = fake.monitor();
    // Nobody has connected yet: all wait for that.
    let commands: Vec<Vec<u8>> = (0..20).map(|n| named(&format!("c{n}"))).collect();
    let calls = commands.iter().map(|command| monitor.run(command));
    for (reply, command) in soon(join_all(calls)).await.into_iter().zip(&commands) {
        let reply: Value = serde_json::from_slice(&reply.unwrap()).unwrap();
        assert_eq!(
            reply["return"],
            serde_json::from_slice::<Value>(command).unwrap()
        );
    }
    let asked: Vec<Vec<u8>> = fake
        .notes("asked")
        .into_iter()
        .map(String::into_bytes)
        .collect();
    assert_eq!(asked, commands);
    // A virsh for the look-up, and one for all commands.
    assert_eq!(fake.pids().len(), 2);
}

#[tokio::test]
async fn a_late_reply_is_never_the_next_ones() {
    let fake = Fake::new(&format!(
        r#"{ECHOING} eval "say_$(declare -f monitor)"
        monitor() {{ case $1 in *slow*) note slow x; gate gate; esac; say_monitor "$1"; }}"#
    ));
    let monitor = fake.monitor();
    let short = RunOptions::new().timeout(Duration::from_millis(300));
    monitor.connect().await.unwrap();
    match monitor.run_with(&named("slow"), short).await.unwrap_err() {
        error @ Error::Timeout {
            phase: Phase::Reply,
            ..
        } => assert!(error.maybe_executed()),
        other => panic!("{other:?}"),
    }
    fake.wait_for_notes("slow", 1).await;
    match monitor.run_with(&named("waits"), short).await.unwrap_err() {
        error @ Error::Timeout {
            phase: Phase::Queue,
            ..
        } => assert!(!error.maybe_executed()),
        other => panic!("{other:?}"),
    }
    let next = named("next");
    let (reply, ()) = soon(async { tokio::join!(monitor.run(&next), fake.open("gate")) }).await;
    let reply: Value = serde_json::from_slice(&reply.unwrap()).unwrap();
    assert_eq!(reply, json!({"return": {"execute": "next"}}));
    // What had no turn was never sent.
    let expected = [named("slow"), named("next")].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(fake.notes("asked"), expected);
    assert_eq!(fake.pids().len(), 2);
}

#[tokio::test]
async fn a_call_that_is_dropped_before_its_turn_is_never_sent() {
    let fake = Fake::new(&format!(
        r#"{ECHOING} eval "say_$(declare -f monitor)"
        monitor() {{ case $1 in *slow*) note slow x; gate gate; esac; say_monitor "$1"; }}"#
    ));
    let monitor = fake.monitor();
    let slow = named("slow");
    let calls = async {
        let (slow, ()) = tokio::join!(monitor.run(&slow), async {
            fake.wait_for_notes("slow", 1).await;
            {
                let dropped = named("dropped");
                let mut call = monitor.run(&dropped);
                let pending = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending()));
                assert!(pending.await);
            }
            fake.open("gate").await;
        });
        slow.unwrap();
        monitor.run(STATUS).await.unwrap();
    };
    soon(calls).await;
    let asked = fake.notes("asked");
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].contains("query-status"));
}

#[tokio::test]
async fn what_is_no_reply_fails_one_call() {
    let fake = Fake::new(
        r#"monitor() {
            case $1 in
                *text*) echo "all is well" ;;
                *two*) echo '{"return":{}} {"return":{}}' ;;
                *half*) printf '{"return":' ;;
                *bytes*) printf '{"return":"\xff"}\n' ;;
                *nothing*) : ;;
                *noise*) echo 'Warning: x' >&2; echo '{"return":1}' ;;
                *) echo '{"return":{}}' ;;
            esac
        }"#,
    );
    let monitor = fake.monitor();
    for name in ["text", "two", "half", "bytes", "nothing"] {
        match soon(monitor.run(&named(name))).await {
            Err(error @ Error::Decode { .. }) => assert!(error.maybe_executed()),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(
            soon(monitor.run(STATUS)).await.unwrap(),
            br#"{"return":{}}"#[..]
        );
    }
    let noise: u32 = soon(monitor.execute(Command::new("noise"))).await.unwrap();
    assert_eq!(noise, 1);
}

#[tokio::test]
async fn large_replies_come_whole_and_endless_ones_end_the_session() {
    let fake = Fake::new(
        r#"monitor() {
            case $1 in
                *large*) printf '{"return":"'; head -c 4000000 /dev/zero | tr '\0' x; echo '"}' ;;
                *) tr '\0' x </dev/zero ;;
            esac
        }"#,
    );
    let monitor = fake.monitor();
    let large: String = soon(monitor.execute(Command::new("large"))).await.unwrap();
    assert_eq!(large.len(), 4_000_000);
    let error = soon(monitor.run(&named("endless"))).await.unwrap_err();
    assert!(matches!(cause(&error), EndCause::Protocol(_)), "{error:?}");
    assert!(error.maybe_executed());
    drop(monitor);
    fake.assert_gone();
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_anything_is_started() {
    let fake = Fake::new("");
    let monitor = fake.monitor();
    let long = format!(
        r#"{{"execute":"x","arguments":{{"a":"{}"}}}}"#,
        "x".repeat(4 << 20)
    );
    match monitor.run(long.as_bytes()).await {
        Err(Error::Command(CommandError::TooLong {
            limit: 4_194_304, ..
        })) => {}
        other => panic!("{other:?}"),
    }
    // It would be short enough were it not for its quotes.
    let quotes = format!(
        r#"{{"execute":"x","arguments":{{"a":"{}"}}}}"#,
        "'".repeat(1 << 20)
    );
    assert!(matches!(
        monitor.run(quotes.as_bytes()).await,
        Err(Error::Command(_))
    ));
    let oob = monitor.run(br#"{"exec-oob":"x"}"#).await.unwrap_err();
    assert!(oob.is_unsupported());
    let file = File::open("/dev/null").unwrap();
    let two = [file.as_fd(), file.as_fd()];
    let error = monitor.run_with_files(STATUS, &two).await.unwrap_err();
    assert!(error.is_unsupported(), "{error:?}");
    let long = format!(r#"{{"execute":"{}"}}"#, "x".repeat(128 * 1024));
    match monitor.run_with_files(long.as_bytes(), &two[..1]).await {
        Err(Error::Command(CommandError::TooLong { limit: 131_071, .. })) => {}
        other => panic!("{other:?}"),
    }
    assert!(fake.pids().is_empty());
}

#[tokio::test]
async fn a_descriptor_goes_with_a_virsh_of_its_own() {
    let fake = Fake::new(
        r#"with_file() { note file "$(cat)"; note asked "$1"; echo '{"return":{},"id":"libvirt-3"}'; }"#,
    );
    let monitor = fake.monitor();
    let path = fake.program().with_file_name("content");
    std::fs::write(&path, "what is in it").unwrap();
    let file = File::open(&path).unwrap();
    let command = br#"{"execute":"getfd", "id":"mine", "arguments":{"fdname":"x"}}"#;
    let reply = soon(monitor.run_with_files(command, &[file.as_fd()]))
        .await
        .unwrap();
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(reply, json!({"return": {}, "id": "mine"}));
    assert_eq!(fake.notes("file"), ["what is in it"]);
    assert_eq!(
        fake.notes("asked"),
        [r#"{"execute":"getfd","arguments":{"fdname":"x"}}"#]
    );
    let argv = fake.notes("argv").pop().unwrap();
    assert!(argv.contains(" qemu-monitor-command --domain 00000000-0000-0000-0000-000000000011 --pass-fds 0 --cmd {"), "{argv}");
    monitor.disconnect().await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_command_with_a_descriptor_has_its_turn_and_its_deadline() {
    let fake = Fake::new(
        r#"with_file() { note asked file; gate gate; }
        monitor() { note asked line; echo '{"return":{}}'; }"#,
    );
    let monitor = fake.monitor();
    monitor.connect().await.unwrap();
    let file = File::open("/dev/null").unwrap();
    let files = [file.as_fd()];
    let options = RunOptions::new()
        .files(&files)
        .timeout(Duration::from_millis(500));
    let (with_file, plain) =
        soon(async { tokio::join!(monitor.run_with(STATUS, options), monitor.run(STATUS)) }).await;
    match with_file.unwrap_err() {
        error @ Error::Timeout {
            phase: Phase::Reply,
            ..
        } => assert!(error.maybe_executed()),
        other => panic!("{other:?}"),
    }
    plain.unwrap();
    assert_eq!(fake.notes("asked"), ["file", "line"]);
    monitor.disconnect().await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn the_agent_is_asked_by_a_virsh_of_its_own() {
    let fake = Fake::new(
        r#"agent() { note agent "$2"; case $1 in *slow*) gate gate; esac; printf '{"return":%s}\n' "$1"; }"#,
    );
    let monitor = fake.monitor();
    for (timeout, how) in [
        (AgentTimeout::Default, ""),
        (AgentTimeout::Block, " --block"),
        (AgentTimeout::NoWait, " --async"),
        (AgentTimeout::Seconds(9), " --timeout 9"),
        (AgentTimeout::Seconds(0), " --timeout 1"),
        (AgentTimeout::Seconds(u32::MAX), " --timeout 2147483647"),
    ] {
        let reply = soon(monitor.agent(br#"{"execute":"guest-ping","id":5}"#, timeout)).await;
        let reply: Value = serde_json::from_slice(&reply.unwrap()).unwrap();
        // An id is the user's own affair: it comes back, whatever the agent makes of one.
        assert_eq!(reply, json!({"return": {"execute": "guest-ping"}, "id": 5}));
        let asked = fake.notes("agent").pop().unwrap();
        assert_eq!(
            asked,
            format!("qemu-agent-command --domain 00000000-0000-0000-0000-000000000011{how}")
        );
    }
    // One that takes long does not hold up the monitor.
    let slow = br#"{"execute":"slow"}"#;
    let (agent, ()) = soon(async {
        tokio::join!(monitor.agent(slow, AgentTimeout::Block), async {
            fake.wait_for_notes("agent", 7).await;
            monitor.run(STATUS).await.unwrap();
            fake.open("gate").await;
        })
    })
    .await;
    agent.unwrap();
    assert_eq!(fake.pids().len(), 3);
    monitor.disconnect().await.unwrap();
    fake.assert_gone();
}

/// The seconds that libvirt is to wait come on top of the call's own time. The clock stands still once the agent is asked.
#[tokio::test]
async fn the_seconds_libvirt_is_given_are_on_top_of_the_calls_deadline() {
    let fake = Fake::new(r#"agent() { note agent x; gate gate; }"#);
    let minute = Duration::from_secs(60);
    let monitor = fake.monitor_with(Config::new().call_timeout(Some(minute)));
    monitor.connect().await.unwrap();
    let ping = br#"{"execute":"guest-ping"}"#;
    let asking = monitor.agent(ping, AgentTimeout::Seconds(120));
    let stop_the_clock = async {
        fake.wait_for_notes("agent", 1).await;
        tokio::time::pause();
        tokio::time::Instant::now()
    };
    let (reply, since) = tokio::join!(asking, stop_the_clock);
    let error = reply.unwrap_err();
    assert!(error.is_timeout() && error.maybe_executed(), "{error:?}");
    let waited = since.elapsed();
    assert!(waited > 2 * minute && waited < 4 * minute, "{waited:?}");
    tokio::time::resume();
    monitor.disconnect().await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn settings_become_options_of_virsh() {
    let fake = Fake::new("");
    fake.monitor().connect().await.unwrap();
    let keepalive = Some((Duration::from_millis(1500), 3));
    let config = Config::new().readonly(true).keepalive(keepalive);
    fake.monitor_with(config).connect().await.unwrap();
    let config = Config::new().keepalive(None);
    fake.monitor_with(config).connect().await.unwrap();
    let lookup = "domuuid --domain one";
    let expected = ["-q -k 5 -K 5", "-q -r -k 2 -K 3", "-q -k 0"].map(|options| {
        [
            format!("{options} -c fake:///x {lookup}"),
            format!("{options} -c fake:///x"),
        ]
    });
    assert_eq!(fake.notes("argv"), expected.concat());
}
