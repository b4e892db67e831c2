//! A monitor that is held to rules: what may pass, one at a time, and never the same twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libvirt_qmp::{
    AgentTimeout, Command, CommandError, Error, ErrorClass, Guard, Monitor, MonitorExt, Phase,
    RunOptions,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::stand_in::{Answer, StandIn, peer_closed, refused};
use super::{LATER, timed_out};

const RESET: &[u8] = br#"{"execute":"system_reset"}"#;

const MINUTE: Duration = Duration::from_secs(60);

fn is_refused<T: std::fmt::Debug>(result: Result<T, Error>, name: &str) {
    match result {
        Err(Error::Command(CommandError::NotAllowed { command })) => assert_eq!(command, name),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_allowed_passes() {
    let monitor = StandIn::new();
    let guard = Guard::new(monitor.clone())
        .allow(["query-*"])
        .allow(["stop"]);
    guard.query::<Value>("status").await.unwrap();
    guard.execute::<Value>(Command::new("stop")).await.unwrap();
    is_refused(guard.run(RESET).await, "system_reset");
    is_refused(guard.run(br#"{"exec-oob":"yank"}"#).await, "yank");
    is_refused(guard.run(br#"{"execute":"stop*"}"#).await, "stop*");
    is_refused(guard.run(br#"{"execute":"stopx"}"#).await, "stopx");
    // Its name is what QEMU would read.
    is_refused(guard.run(br#"{"execute":"\u0071uit"}"#).await, "quit");
    is_refused(guard.hmp("quit", None).await, "human-monitor-command");
    is_refused(guard.run_once("k", MINUTE, RESET).await, "system_reset");
    let agent = guard.agent(br#"{"execute":"guest-exec"}"#, AgentTimeout::Default);
    is_refused(agent.await, "guest-exec");
    assert_eq!(monitor.commands(), ["query-status", "stop"]);
    // Without a rule, everything.
    Guard::new(monitor).run(RESET).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_command_runs_at_a_time() {
    let (tell, told) = oneshot::channel();
    let told = std::sync::Mutex::new(Some(told));
    let monitor = StandIn::with(move |_, name, _| match name {
        "slow" => Answer::When(told.lock().unwrap().take().unwrap()),
        _ => json!({}).into(),
    });
    let guard = Arc::new(Guard::new(monitor.clone()).exclusive());
    let run = |name: &str| {
        let (guard, command) = (guard.clone(), Command::new(name));
        tokio::spawn(async move { guard.execute::<Value>(command).await })
    };
    let slow = run("slow");
    tokio::task::yield_now().await;
    let next = run("next");
    tokio::task::yield_now().await;
    let own = RunOptions::new().timeout(MINUTE);
    let late = guard.run_with(RESET, own).await.unwrap_err();
    assert_eq!(timed_out(late), (Phase::Queue, false));
    // What is out of band does not wait.
    guard.run(br#"{"exec-oob":"yank"}"#).await.unwrap();
    assert_eq!(monitor.commands(), ["slow", "yank"]);
    tell.send(Ok(json!({}))).unwrap();
    slow.await.unwrap().unwrap();
    next.await.unwrap().unwrap();
    assert_eq!(monitor.commands(), ["slow", "yank", "next"]);
    // Without the rule both are begun.
    let guard = Guard::new(StandIn::with(|_, _, _| Answer::Never));
    let both = async { tokio::join!(guard.run(RESET), guard.run(RESET)) };
    assert!(tokio::time::timeout(MINUTE, both).await.is_err());
    assert_eq!(guard.get_ref().commands().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_has_a_key_runs_once_until_it_is_forgotten() {
    let count = Arc::new(AtomicUsize::new(0));
    let monitor = StandIn::with({
        let count = count.clone();
        move |_, _, _| json!(count.fetch_add(1, Ordering::Relaxed)).into()
    });
    let guard = Arc::new(Guard::new(monitor));
    let once = |key: &'static str| {
        let guard = guard.clone();
        tokio::spawn(async move { guard.run_once(key, MINUTE, RESET).await })
    };
    let all = futures_util::future::join_all((0..8).map(|_| once("a"))).await;
    for reply in all {
        assert_eq!(reply.unwrap().unwrap(), r#"{"return":0}"#);
    }
    assert_eq!(once("b").await.unwrap().unwrap(), r#"{"return":1}"#);
    let other = guard.run_once("a", MINUTE, br#"{"execute":"stop"}"#).await;
    assert!(other.unwrap_err().is_unsupported());
    tokio::time::sleep(MINUTE - Duration::from_millis(1)).await;
    assert_eq!(once("a").await.unwrap().unwrap(), r#"{"return":0}"#);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(once("a").await.unwrap().unwrap(), r#"{"return":2}"#);
}

/// Of a command that may have been executed nobody knows whether it was: it is not sent again.
#[tokio::test(start_paused = true)]
async fn a_failure_is_an_outcome_unless_nothing_was_executed() {
    let unknown = || {
        Answer::Error(Error::Timeout {
            phase: Phase::Reply,
            after: MINUTE,
            maybe_executed: true,
        })
    };
    for (answer, times) in [
        (
            Box::new(unknown) as Box<dyn Fn() -> Answer + Send + Sync>,
            1,
        ),
        (Box::new(|| refused(ErrorClass::GenericError)), 1),
        (Box::new(|| Answer::Error(peer_closed())), 2),
    ] {
        let guard = Guard::new(StandIn::with(move |_, _, _| answer()));
        for _ in 0..2 {
            guard.run_once("k", MINUTE, RESET).await.unwrap_err();
        }
        assert_eq!(guard.get_ref().commands().len(), times);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_leaves_the_command_and_its_key() {
    let guard = Guard::new(StandIn::with(|_, _, _| Answer::Never));
    for _ in 0..3 {
        let once = guard.run_once("k", MINUTE, RESET);
        assert!(tokio::time::timeout(LATER, once).await.is_err());
    }
    assert_eq!(guard.get_ref().commands().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_remembered_than_there_is_room_for() {
    let guard = Guard::new(StandIn::new());
    for n in 0..1024 {
        let key = format!("k{n}");
        guard.run_once(&key, MINUTE, RESET).await.unwrap();
    }
    let full = guard.run_once("one more", MINUTE, RESET).await.unwrap_err();
    assert!(full.is_unsupported() && !full.maybe_executed(), "{full}");
    tokio::time::sleep(MINUTE).await;
    guard.run_once("one more", MINUTE, RESET).await.unwrap();

    let long = StandIn::with(|_, _, _| json!("x".repeat(40 << 20)).into());
    let guard = Guard::new(long);
    guard.run_once("a", MINUTE, RESET).await.unwrap();
    guard.run_once("b", MINUTE, RESET).await.unwrap();
    let full = guard.run_once("c", MINUTE, RESET).await.unwrap_err();
    assert!(full.is_unsupported(), "{full}");
}
