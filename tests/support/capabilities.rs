//! What a driver can do, found out by trying. The table in README is made of it. Imports `conformance` and `process`.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::{
    AgentTimeout, Command, DomainExt, Error, EventFilter, EventOptions, Monitor, MonitorExt,
    Overflow, RunOptions, Transaction, Wait, WaitExt,
};
use serde_json::{Value, json};

use super::conformance::next_of;
use super::process::PATIENCE;

/// A capability's name in the table, and whether the driver has it.
pub(crate) type Finding = (&'static str, bool);

/// Tries everything on a monitor that nobody has used yet, of a running guest. `second` makes another one for the same guest,
/// which gives up connecting soon.
pub(crate) async fn probe(
    monitor: &dyn Monitor,
    second: impl AsyncFnOnce() -> Result<(), Error>,
) -> Vec<Finding> {
    monitor.connect().await.unwrap();
    vec![
        ("events since the handshake", keeps_events(monitor).await),
        (
            "event filters, a bound for each stream",
            filters(monitor).await,
        ),
        ("waiting without a race, history", waits(monitor).await),
        ("schema, transactions", knows_the_schema(monitor).await),
        ("human monitor, domain helpers", helps(monitor).await),
        ("a deadline for each call", keeps_deadlines(monitor).await),
        (
            "a file descriptor with a command",
            passes_files(monitor).await,
        ),
        ("out-of-band commands", runs_out_of_band(monitor).await),
        ("guest agent", reaches_the_agent(monitor).await),
        ("several clients at once", second().await.is_ok()),
    ]
}

/// `done`, unless the driver says clearly that it cannot.
fn can<T>(outcome: Result<T, Error>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(error) if error.is_unsupported() => {
            assert!(!error.maybe_executed(), "{error}");
            false
        }
        Err(error) => panic!("{error:?}"),
    }
}

async fn done(monitor: &dyn Monitor, command: Command) {
    let _: Value = monitor.execute(command).await.unwrap();
}

/// Whether the first stream has what came before it.
async fn keeps_events(monitor: &dyn Monitor) -> bool {
    monitor.stop().await.unwrap();
    monitor.cont().await.unwrap();
    let mut events = monitor.events().await.unwrap();
    monitor.reset().await.unwrap();
    let first = next_of(&mut events, &["STOP", "RESET"]).await;
    first.name == "STOP"
}

async fn filters(monitor: &dyn Monitor) -> bool {
    let names = EventFilter::glob("RES*").and(EventFilter::name("RESET").not());
    let resumed = EventOptions::new(names).queue(1).overflow(Overflow::End);
    let mut resumed = monitor.events_with(resumed).await.unwrap();
    let stopped = EventFilter::regex("^stop$").unwrap().ignore_case();
    let mut stopped = monitor
        .events_with(EventOptions::new(stopped))
        .await
        .unwrap();
    monitor.stop().await.unwrap();
    monitor.reset().await.unwrap();
    monitor.cont().await.unwrap();
    for (events, name) in [(&mut resumed, "RESUME"), (&mut stopped, "STOP")] {
        let event = tokio::time::timeout(PATIENCE, events.next()).await;
        assert_eq!(event.unwrap().unwrap().unwrap().name, name);
    }
    // The bound is the stream's own: of three, one fits.
    for _ in 0..3 {
        monitor.stop().await.unwrap();
        monitor.cont().await.unwrap();
    }
    let mut third = monitor.events().await.unwrap();
    monitor.reset().await.unwrap();
    next_of(&mut third, &["RESET"]).await;
    let rest: Vec<_> = tokio::time::timeout(PATIENCE, resumed.collect())
        .await
        .unwrap();
    assert!(
        matches!(rest[..], [Ok(_), Err(Error::EventsLost(1))]),
        "{rest:?}"
    );
    true
}

async fn waits(monitor: &dyn Monitor) -> bool {
    let history = monitor.history(16).await.unwrap();
    let mark = history.mark();
    let stop = Command::new("stop");
    monitor
        .run_and_wait(stop, Wait::stop(), PATIENCE)
        .await
        .unwrap();
    assert!(
        monitor
            .wait_for(Wait::stop(), PATIENCE)
            .await
            .unwrap()
            .is_already()
    );
    let cont = Command::new("cont");
    let (_, resumed) = monitor
        .run_and_wait(cont, "RESUME", PATIENCE)
        .await
        .unwrap();
    assert_eq!(resumed.event().unwrap().name, "RESUME");
    let after = libvirt_qmp::After::Seq(mark);
    let stopped = history.get_events("STOP", after, PATIENCE).await.unwrap();
    assert_eq!(stopped.events.len(), 1);
    true
}

async fn knows_the_schema(monitor: &dyn Monitor) -> bool {
    let schema = monitor.schema().await.unwrap();
    assert!(schema.command("device_add").is_some());
    let wrong = Command::new("query-status").arg("x", 1);
    assert!(schema.check(&wrong).is_err());
    monitor.transaction(Transaction::new()).await.unwrap();
    let unknown = Transaction::new().action("no-such-action", json!({}));
    let refused = monitor.transaction(unknown).await.unwrap_err();
    assert!(matches!(refused, Error::Command(_)), "{refused:?}");
    true
}

async fn helps(monitor: &dyn Monitor) -> bool {
    assert!(monitor.status().await.unwrap().running);
    assert!(!monitor.cpus().await.unwrap().is_empty());
    assert!(monitor.jobs().await.unwrap().is_empty());
    let text = monitor.hmp("info status", None).await.unwrap();
    assert_eq!(text, "VM status: running\r\n");
    true
}

/// A deadline that has passed before anything could be sent.
async fn keeps_deadlines(monitor: &dyn Monitor) -> bool {
    let now = RunOptions::new().timeout(Duration::ZERO);
    let late = monitor
        .run_with(br#"{"execute":"query-status"}"#, now)
        .await;
    assert!(late.unwrap_err().is_timeout());
    // And the next call is none the worse for it.
    let long = RunOptions::new().timeout(None);
    let reply = monitor
        .run_with(br#"{"execute":"query-name","id":1}"#, long)
        .await;
    let reply: Value = serde_json::from_slice(&reply.unwrap()).unwrap();
    assert_eq!(reply["id"], 1);
    true
}

async fn passes_files(monitor: &dyn Monitor) -> bool {
    let file = File::open("/dev/null").unwrap();
    let passed = monitor
        .run_with_files(
            br#"{"execute":"getfd","arguments":{"fdname":"probe"}}"#,
            &[file.as_fd()],
        )
        .await;
    if can(passed) {
        done(monitor, Command::new("closefd").arg("fdname", "probe")).await;
        return true;
    }
    false
}

async fn runs_out_of_band(monitor: &dyn Monitor) -> bool {
    can(monitor
        .execute::<Value>(Command::new("query-yank").oob())
        .await)
}

/// The guests of the tests have no agent, so reaching it ends with libvirt's word for that.
async fn reaches_the_agent(monitor: &dyn Monitor) -> bool {
    match monitor
        .agent(br#"{"execute":"guest-ping"}"#, AgentTimeout::Default)
        .await
    {
        Err(Error::Libvirt(_)) => true,
        outcome => can(outcome),
    }
}

/// The table as README has it.
pub(crate) fn table(drivers: &[(&str, Vec<Finding>)]) -> String {
    let mut lines = vec![String::from("|"), String::from("|---|")];
    for (driver, _) in drivers {
        lines[0] += &format!(" | `{driver}`");
        lines[1] += "---|";
    }
    lines[0] += " |";
    for (row, (capability, _)) in drivers[0].1.iter().enumerate() {
        let mut line = format!("| {capability} |");
        for (_, findings) in drivers {
            assert_eq!(findings[row].0, *capability);
            line += match findings[row].1 {
                true => " yes |",
                false => " no |",
            };
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}
