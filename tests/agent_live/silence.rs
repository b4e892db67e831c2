//! An agent that does not answer: stopped, killed, or in libvirt's bad books.

use std::time::Instant;

use libvirt_qmp::{LibvirtError, Monitor, Phase};
use tokio::task::JoinHandle;

use super::*;

/// More than anything takes that does not wait, on a loaded machine.
const SOON: Duration = Duration::from_secs(20);

async fn is_gone(booted: &mut Booted) {
    let gone = booted.agent_event(PATIENCE).await;
    assert_eq!(gone, (State::DISCONNECTED, Reason::CHANNEL));
}

async fn is_back(booted: &mut Booted) {
    let back = booted.agent_event(PATIENCE).await;
    assert_eq!(back, (State::CONNECTED, Reason::CHANNEL));
    booted.expect_answer().await;
}

/// Asserts that libvirt says that the agent does not answer, and gives how long it took to say so.
async fn silence(booted: &Booted, timeout: AgentTimeout) -> Duration {
    let since = Instant::now();
    let error = booted.ask(PING, timeout).await.unwrap_err();
    assert!(error.is_agent_unresponsive(), "{timeout:?}: {error:?}");
    // libvirt's answer, and so not the end of our own patience.
    assert!(matches!(error, Error::Libvirt(_)), "{error:?}");
    assert!(error.maybe_executed());
    since.elapsed()
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn an_agent_that_stops_and_goes_on() {
    let booted = Booted::new().await;
    let second = Duration::from_secs(1);
    // libvirt asks whether there is an answer, and there hardly is one yet. The command may be run for all that.
    for _ in 0..3 {
        may_be_silent(booted.ask(PING, AgentTimeout::NoWait).await);
        booted.expect_answer().await;
    }
    booted.guest.stop_agent();
    // libvirt has just heard of it and sends the command at once, which then has as long as was said.
    let took = silence(&booted, AgentTimeout::Seconds(1)).await;
    assert!(took >= second && took < SOON, "{took:?}");
    // From now on libvirt synchronizes first, which has time of its own: 5 s, or what is set for the domain.
    booted.default_timeout(1).await;
    for timeout in [AgentTimeout::Default, AgentTimeout::Seconds(20)] {
        let took = silence(&booted, timeout).await;
        assert!(took >= second && took < SOON, "{timeout:?}: {took:?}");
    }
    // Meanwhile everything else works.
    let monitor = booted.libvirt.monitor(GUEST);
    monitor.run(br#"{"execute":"query-status"}"#).await.unwrap();

    booted.default_timeout(AGENT_SECONDS).await;
    booted.guest.resume_agent();
    booted.expect_answer().await;
    let answer = booted.ask(PING, AgentTimeout::Default).await.unwrap();
    assert_eq!(answer, r#"{"return":{}}"#);

    // libvirt waits for ever, and we do not.
    booted.guest.stop_agent();
    let patient = booted.libvirt.with_call_timeout(Some(second));
    let asked = patient.domain_agent_command(&booted.domain, PING, AgentTimeout::Block);
    match asked.await.unwrap_err() {
        Error::Timeout {
            phase: Phase::Reply,
            after,
            maybe_executed: true,
        } => assert_eq!(after, second),
        other => panic!("{other:?}"),
    }
    booted.guest.resume_agent();
    // The late answer is nobody's.
    let sync = r#"{"execute":"guest-sync","arguments":{"id":9}}"#;
    assert_eq!(booted.ask(sync, AGENT).await.unwrap(), r#"{"return":9}"#);
}

/// Has the agent run a command that it is at until [`go_on`], and gives the task that waits for its answer.
fn begin(booted: &Booted, timeout: AgentTimeout) -> JoinHandle<Result<String, Error>> {
    booted.guest.shell("mkfifo /run/begun /run/go");
    let (libvirt, domain) = (booted.libvirt.clone(), booted.domain.clone());
    // The agent waits for the end of what sets the password.
    let command = r#"{"execute":"guest-set-user-password","arguments":{"username":"root","password":"","crypted":false}}"#;
    let asking = async move {
        libvirt
            .domain_agent_command(&domain, command, timeout)
            .await
    };
    let asking = tokio::spawn(asking);
    booted.guest.shell("cat /run/begun");
    asking
}

/// Lets what [`begin`] has begun come to its end.
fn go_on(booted: &Booted) {
    booted.guest.shell("echo >/run/go; rm /run/begun /run/go");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_command_that_takes_longer_than_was_said() {
    let booted = Booted::new().await;
    booted.expect_answer().await;
    let since = Instant::now();
    let asking = begin(&booted, AgentTimeout::Seconds(1));
    let error = asking.await.unwrap().unwrap_err();
    assert!(since.elapsed() >= Duration::from_secs(1));
    assert!(
        error.is_agent_unresponsive() && error.maybe_executed(),
        "{error:?}"
    );
    go_on(&booted);
    // Its late answer is nobody's.
    booted.expect_answer().await;

    let asking = begin(&booted, AgentTimeout::Block);
    go_on(&booted);
    assert_eq!(asking.await.unwrap().unwrap(), r#"{"return":{}}"#);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn an_agent_that_dies_and_is_started_again() {
    let mut booted = Booted::new().await;
    booted.expect_answer().await;
    booted.guest.kill_agent();
    is_gone(&mut booted).await;
    // There is nobody to wait for.
    for timeout in [
        AgentTimeout::Block,
        AgentTimeout::Default,
        AgentTimeout::NoWait,
        AgentTimeout::Seconds(60),
    ] {
        let took = silence(&booted, timeout).await;
        assert!(took < SOON, "{timeout:?}: {took:?}");
    }
    booted.guest.start_agent();
    is_back(&mut booted).await;

    // It dies in the middle of a command.
    let asking = begin(&booted, AgentTimeout::Block);
    booted.guest.kill_agent();
    let error = asking.await.unwrap().unwrap_err();
    assert!(
        error.is_agent_unresponsive() && error.maybe_executed(),
        "{error:?}"
    );
    is_gone(&mut booted).await;
    booted.guest.start_agent();
    is_back(&mut booted).await;
}

/// The byte 0xFF before the answer to this command, which libvirt never sends itself, is no JSON to it. It quotes that byte, and
/// has nothing to do with this agent until it connects again.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn an_answer_that_libvirt_does_not_understand() {
    let mut booted = Booted::new().await;
    let delimited = r#"{"execute":"guest-sync-delimited","arguments":{"id":7}}"#;
    let error = booted.ask(delimited, AGENT).await.unwrap_err();
    let Error::Libvirt(said) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(said.code, LibvirtError::INTERNAL_ERROR);
    let message = said.message.as_deref().unwrap();
    assert!(message.contains("\u{fffd}{\"return\": 7}"), "{message}");
    assert!(error.maybe_executed(), "{error:?}");
    silence(&booted, AGENT).await;
    booted.guest.kill_agent();
    is_gone(&mut booted).await;
    booted.guest.start_agent();
    is_back(&mut booted).await;
}
