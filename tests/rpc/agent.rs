//! Commands of the guest agent through libvirt (`QEMU_PROC_DOMAIN_AGENT_COMMAND`).

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::protocol::remote::STRING_MAX;
use libvirt_qmp::{
    AgentTimeout, CommandError, Error, ErrorClass, Libvirt, LibvirtError, Monitor, Phase,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::support::mock::{DOMAIN, domain, monitor, quiet, session, settle};
use super::{STATUS, run};

const PING: &str = r#"{"execute":"guest-ping"}"#;

/// Runs `command` of the agent in a task of its own.
fn agent(
    monitor: &Arc<libvirt_qmp::LibvirtRpc>,
    command: &'static str,
    timeout: AgentTimeout,
) -> JoinHandle<Result<bytes::Bytes, Error>> {
    let monitor = monitor.clone();
    tokio::spawn(async move { monitor.agent(command.as_bytes(), timeout).await })
}

#[tokio::test(start_paused = true)]
async fn the_agents_answer_comes_as_it_was_said() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    for (timeout, wire) in [
        (AgentTimeout::Block, -2),
        (AgentTimeout::Default, -1),
        (AgentTimeout::NoWait, 0),
        (AgentTimeout::Seconds(7), 7),
    ] {
        let running = agent(&monitor, PING, timeout);
        let call = daemon.agent_command().await;
        assert_eq!(call.args.dom, domain(DOMAIN));
        assert_eq!(call.args.cmd, PING);
        assert_eq!((call.args.timeout, call.args.flags), (wire, 0));
        let answer = r#"{"return": {"a": 1.10}}"#;
        daemon.agent_answer(&call, Some(answer)).await;
        assert_eq!(running.await.unwrap().unwrap(), answer);
    }
}

#[tokio::test(start_paused = true)]
async fn the_users_id_stays_here_and_is_in_the_answer() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    for (answer, expected) in [
        (r#"{"return": {}}"#, r#"{"return": {}, "id": [7]}"#),
        // An agent, or a libvirt, that has ids of its own.
        (r#"{"return": {}, "id": 3}"#, r#"{"return": {}, "id": [7]}"#),
    ] {
        let running = agent(
            &monitor,
            r#"{"execute":"guest-ping","id":[7]}"#,
            AgentTimeout::Default,
        );
        let call = daemon.agent_command().await;
        assert_eq!(call.args.cmd, PING);
        daemon.agent_answer(&call, Some(answer)).await;
        assert_eq!(running.await.unwrap().unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_agent_is_one_of_qmp_where_libvirt_hands_it_on() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let running = agent(&monitor, PING, AgentTimeout::Default);
    let call = daemon.agent_command().await;
    let answer = r#"{"error": {"class": "CommandNotFound", "desc": "no such thing"}}"#;
    daemon.agent_answer(&call, Some(answer)).await;
    match running.await.unwrap().unwrap_err() {
        Error::Qmp(error) => {
            assert_eq!(error.class, ErrorClass::CommandNotFound);
            assert_eq!(error.command.as_deref(), Some("guest-ping"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_libvirt_says_of_the_agent_keeps_its_code() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    for (code, unresponsive) in [
        (LibvirtError::ARGUMENT_UNSUPPORTED, false),
        (LibvirtError::AGENT_UNRESPONSIVE, true),
        (LibvirtError::AGENT_UNSYNCED, true),
        (LibvirtError::AGENT_COMMAND_TIMEOUT, true),
        (LibvirtError::AGENT_COMMAND_FAILED, false),
    ] {
        let running = agent(&monitor, PING, AgentTimeout::Default);
        let call = daemon.agent_command().await;
        daemon.error(&call, code, "the agent").await;
        let error = running.await.unwrap().unwrap_err();
        assert_eq!(error.libvirt_code(), Some(code));
        assert_eq!(error.is_agent_unresponsive(), unresponsive, "{code}");
    }
    // A reply without an answer in it is none.
    let running = agent(&monitor, PING, AgentTimeout::Default);
    let call = daemon.agent_command().await;
    daemon.agent_answer(&call, None).await;
    match running.await.unwrap().unwrap_err() {
        Error::Decode { what, .. } => assert_eq!(what, "QEMU_PROC_DOMAIN_AGENT_COMMAND"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn bad_commands_of_the_agent_are_refused_before_anything_is_sent() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let long = format!(
        r#"{{"execute":"x","arguments":{{"a":"{}"}}}}"#,
        "x".repeat(STRING_MAX as usize)
    );
    for (command, is_expected) in [
        (
            "guest-ping",
            (|error| matches!(error, Error::Command(_))) as fn(&Error) -> bool,
        ),
        (r#"{"exec-oob":"guest-ping"}"#, Error::is_unsupported),
        (&long, |error| {
            matches!(error, Error::Command(CommandError::TooLong { .. }))
        }),
    ] {
        let refused = monitor
            .agent(command.as_bytes(), AgentTimeout::Default)
            .await;
        let error = refused.unwrap_err();
        assert!(is_expected(&error), "{error:?}");
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_agent_is_asked_one_thing_at_a_time_beside_the_monitor() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let slow = agent(&monitor, PING, AgentTimeout::Block);
    let slow_call = daemon.agent_command().await;
    let next = agent(
        &monitor,
        r#"{"execute":"guest-info"}"#,
        AgentTimeout::Default,
    );
    // A guest that is slow to freeze its disks must not stop the commands of QEMU.
    let status = run(&monitor, STATUS);
    let call = daemon.command().await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    status.await.unwrap().unwrap();
    settle().await;
    assert!(daemon.sent_by_now().await.is_empty());
    daemon
        .agent_answer(&slow_call, Some(r#"{"return":1}"#))
        .await;
    assert_eq!(slow.await.unwrap().unwrap(), r#"{"return":1}"#);
    let call = daemon.agent_command().await;
    assert!(call.args.cmd.contains("guest-info"));
    daemon.agent_answer(&call, Some(r#"{"return":2}"#)).await;
    assert_eq!(next.await.unwrap().unwrap(), r#"{"return":2}"#);
}

#[tokio::test(start_paused = true)]
async fn the_seconds_libvirt_is_given_are_on_top_of_the_calls_deadline() {
    let limit = Duration::from_secs(7);
    let (monitor, mut daemon) = monitor(quiet().call_timeout(Some(limit))).await;
    let monitor = Arc::new(monitor);
    for (timeout, expected) in [
        (AgentTimeout::Block, 7),
        (AgentTimeout::Default, 7),
        (AgentTimeout::Seconds(100), 107),
    ] {
        let since = Instant::now();
        let running = agent(&monitor, PING, timeout);
        let call = daemon.agent_command().await;
        match running.await.unwrap().unwrap_err() {
            Error::Timeout {
                phase: Phase::Reply,
                after,
                maybe_executed: true,
            } => assert_eq!(after, Duration::from_secs(expected)),
            other => panic!("{other:?}"),
        }
        assert_eq!(since.elapsed().as_secs(), expected);
        daemon.agent_answer(&call, Some(r#"{"return":{}}"#)).await;
        settle().await;
    }
}

/// Runs `command` of the agent of [`DOMAIN`] on a session, in a task of its own.
fn on_session(
    libvirt: &Libvirt,
    command: &'static str,
    timeout: AgentTimeout,
) -> JoinHandle<Result<String, Error>> {
    let libvirt = libvirt.clone();
    tokio::spawn(async move {
        let dom = domain(DOMAIN);
        libvirt.domain_agent_command(&dom, command, timeout).await
    })
}

#[tokio::test(start_paused = true)]
async fn a_session_asks_the_agent_of_any_domain() {
    let (libvirt, mut daemon) = session(quiet()).await;
    for (timeout, wire) in [
        (AgentTimeout::Block, -2),
        (AgentTimeout::Default, -1),
        (AgentTimeout::NoWait, 0),
        (AgentTimeout::Seconds(7), 7),
    ] {
        let running = on_session(&libvirt, PING, timeout);
        let call = daemon.agent_command().await;
        assert_eq!(call.args.dom, domain(DOMAIN));
        assert_eq!(call.args.cmd, PING);
        assert_eq!((call.args.timeout, call.args.flags), (wire, 0));
        let answer = r#"{"return": {"a": 1.10}}"#;
        daemon.agent_answer(&call, Some(answer)).await;
        assert_eq!(running.await.unwrap().unwrap(), answer);
    }
    // Two at a time: which of them waits is for libvirt to say.
    let first = on_session(&libvirt, PING, AgentTimeout::Block);
    let first_call = daemon.agent_command().await;
    let second = on_session(&libvirt, PING, AgentTimeout::Block);
    let second_call = daemon.agent_command().await;
    for (call, answer) in [
        (second_call, r#"{"return":2}"#),
        (first_call, r#"{"return":1}"#),
    ] {
        daemon.agent_answer(&call, Some(answer)).await;
    }
    assert_eq!(first.await.unwrap().unwrap(), r#"{"return":1}"#);
    assert_eq!(second.await.unwrap().unwrap(), r#"{"return":2}"#);
}

#[tokio::test(start_paused = true)]
async fn a_session_says_how_the_agent_failed() {
    let (libvirt, mut daemon) = session(quiet()).await;
    for (code, unresponsive) in [
        (LibvirtError::ARGUMENT_UNSUPPORTED, false),
        (LibvirtError::AGENT_UNRESPONSIVE, true),
        (LibvirtError::AGENT_UNSYNCED, true),
        (LibvirtError::AGENT_COMMAND_TIMEOUT, true),
        (LibvirtError::AGENT_COMMAND_FAILED, false),
    ] {
        let running = on_session(&libvirt, PING, AgentTimeout::Default);
        let call = daemon.agent_command().await;
        daemon.error(&call, code, "the agent").await;
        let error = running.await.unwrap().unwrap_err();
        assert_eq!(error.libvirt_code(), Some(code));
        assert_eq!(error.is_agent_unresponsive(), unresponsive, "{code}");
    }
    let running = on_session(&libvirt, PING, AgentTimeout::Default);
    let call = daemon.agent_command().await;
    let answer = r#"{"error": {"class": "CommandNotFound", "desc": "no such thing"}}"#;
    daemon.agent_answer(&call, Some(answer)).await;
    assert!(matches!(running.await.unwrap(), Err(Error::Qmp(_))));

    let running = on_session(&libvirt, "guest-ping", AgentTimeout::Default);
    assert!(matches!(running.await.unwrap(), Err(Error::Command(_))));
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_seconds_of_the_agent_are_on_top_of_the_sessions_deadline() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let libvirt = libvirt.with_call_timeout(Some(Duration::from_secs(7)));
    for (timeout, expected) in [
        (AgentTimeout::Default, 7),
        (AgentTimeout::Seconds(100), 107),
    ] {
        let running = on_session(&libvirt, PING, timeout);
        let call = daemon.agent_command().await;
        match running.await.unwrap().unwrap_err() {
            Error::Timeout { after, .. } => assert_eq!(after, Duration::from_secs(expected)),
            other => panic!("{other:?}"),
        }
        daemon.agent_answer(&call, Some(r#"{"return":{}}"#)).await;
        settle().await;
    }
}
