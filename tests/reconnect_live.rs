//! Connections that survive their daemon: a real libvirtd is killed and started again under load, and stopped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::{
    Backoff, Config, ConnectionState, EndCause, Error, EventOptions, EventStream, Libvirt,
    LibvirtRpc, Monitor, Phase,
};
use support::lab::Lab;
use support::process::PATIENCE;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How often the daemon is killed.
const ROUNDS: usize = 10;

const QUERY_STATUS: &[u8] = br#"{"execute":"query-status"}"#;
const STOP: &[u8] = br#"{"execute":"stop"}"#;
const CONT: &[u8] = br#"{"execute":"cont"}"#;

/// One at a time: they count what this process has open.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn config() -> Config {
    let backoff = Backoff::new()
        .first(Duration::from_millis(20))
        .longest(Duration::from_millis(500));
    Config::new().reconnect(backoff)
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Waits until the state has been so, and then until it is `Connected`.
async fn connected(state: &mut watch::Receiver<ConnectionState>) {
    let is = |state: &ConnectionState| matches!(state, ConnectionState::Connected);
    in_time("connected again", state.wait_for(is))
        .await
        .unwrap();
}

async fn lost(state: &mut watch::Receiver<ConnectionState>) -> Arc<EndCause> {
    let is = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { .. });
    let state = in_time("noticed as lost", state.wait_for(is))
        .await
        .unwrap();
    match &*state {
        ConnectionState::Reconnecting { cause, .. } => cause.clone(),
        other => panic!("{other:?}"),
    }
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until nothing but the test itself runs.
async fn no_tasks() {
    let metrics = tokio::runtime::Handle::current().metrics();
    while metrics.num_alive_tasks() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a stream has said so far.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Said>>);

#[derive(Clone, Debug, Default)]
struct Said {
    gaps: usize,
    /// Events called STOP since the last gap.
    stops: usize,
    /// What it must not say.
    others: Vec<String>,
    ended: bool,
}

impl Seen {
    fn watch(
        name: &'static str,
        mut events: EventStream,
        tasks: &mut JoinSet<()>,
    ) -> (&'static str, Self) {
        let seen = Seen::default();
        let all = seen.clone();
        tasks.spawn(async move {
            while let Some(item) = events.next().await {
                let mut said = all.0.lock().unwrap();
                match item {
                    Ok(event) if event.name == "STOP" => said.stops += 1,
                    Ok(_) => {}
                    Err(Error::Gap { .. }) => {
                        said.gaps += 1;
                        said.stops = 0;
                    }
                    Err(error) => said.others.push(format!("{error:?}")),
                }
            }
            all.0.lock().unwrap().ended = true;
        });
        (name, seen)
    }

    fn said(&self) -> Said {
        self.0.lock().unwrap().clone()
    }
}

/// Asks until the session is closed. Counts the answers, and the calls that a loss has failed.
async fn ask(monitor: Arc<LibvirtRpc>, command: [&'static [u8]; 2], count: Arc<[AtomicUsize; 3]>) {
    for text in command.into_iter().cycle() {
        let outcome = timeout(PATIENCE, monitor.run(text)).await;
        let what = match outcome.expect("no call hangs") {
            Ok(_) => 0,
            Err(error) if error.is_closed() => return,
            Err(Error::Disconnected { maybe_executed, .. }) => 1 + usize::from(maybe_executed),
            Err(error) => panic!("{error:?}"),
        };
        count[what].fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn libvirtd_is_killed_ten_times_under_load() {
    let _turn = TURN.lock().await;
    let lab = Arc::new(Lab::start());
    let guests = ["one", "two"].map(|name| lab.guest(name));
    let uri = lab.client_uri();
    // What a first connection opens in this process stays open.
    Libvirt::connect(&uri).await.unwrap().close().await.unwrap();
    in_time("the first one is gone", no_tasks()).await;
    let files = open_files();

    let shared = Libvirt::connect_with(&uri, config()).await.unwrap();
    let one = Arc::new(shared.monitor("one"));
    let two = Arc::new(shared.monitor("two"));
    let own = LibvirtRpc::connect_uri_with(&uri, guests[0].uuid, config()).await;
    let own = Arc::new(own.unwrap());
    let mut states = [shared.state(), own.state()];

    let mut tasks = JoinSet::new();
    let stop = || EventOptions::new("STOP");
    let streams = [
        Seen::watch("one", one.events().await.unwrap(), &mut tasks),
        Seen::watch("one beside", one.events().await.unwrap(), &mut tasks),
        Seen::watch(
            "one STOP",
            one.events_with(stop()).await.unwrap(),
            &mut tasks,
        ),
        Seen::watch("two", two.events().await.unwrap(), &mut tasks),
        Seen::watch("own", own.events().await.unwrap(), &mut tasks),
        Seen::watch(
            "own STOP",
            own.events_with(stop()).await.unwrap(),
            &mut tasks,
        ),
    ];
    let counts: Arc<[AtomicUsize; 3]> = Arc::default();
    for monitor in [&one, &two, &own] {
        for _ in 0..3 {
            tasks.spawn(ask(monitor.clone(), [QUERY_STATUS; 2], counts.clone()));
        }
    }
    // Events all the time.
    tasks.spawn(ask(two.clone(), [STOP, CONT], counts.clone()));

    for round in 1..=ROUNDS {
        let answered = counts[0].load(Ordering::Relaxed);
        in_time("calls are answered", async {
            while counts[0].load(Ordering::Relaxed) < answered + 50 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let restarting = tokio::task::spawn_blocking({
            let lab = lab.clone();
            move || lab.restart_daemon()
        });
        for state in &mut states {
            lost(state).await;
        }
        restarting.await.unwrap();
        for state in &mut states {
            connected(state).await;
        }
        // Each stream is alive: it shows what happens now, after one gap for each loss.
        for monitor in [&one, &two] {
            for text in [STOP, CONT] {
                in_time("a command", monitor.run(text)).await.unwrap();
            }
        }
        for (name, stream) in &streams {
            let shown = async {
                while stream.said().stops == 0 || stream.said().gaps < round {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            if timeout(PATIENCE, shown).await.is_err() {
                panic!("round {round}: {name}: {:?}", stream.said());
            }
            let said = stream.said();
            assert_eq!(said.gaps, round, "{name}: {said:?}");
            assert!(said.others.is_empty(), "{name}: {said:?}");
        }
    }

    in_time("closing", async {
        shared.close().await.unwrap();
        own.disconnect().await.unwrap();
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    })
    .await;
    for (name, stream) in &streams {
        let said = stream.said();
        assert!(said.ended && said.others.is_empty(), "{name}: {said:?}");
    }
    let [answered, unsent, in_flight] = [0, 1, 2].map(|what| counts[what].load(Ordering::Relaxed));
    println!("{answered} calls answered, {in_flight} lost in flight, {unsent} not sent");
    // There is always one of each connection in flight.
    assert!(in_flight >= ROUNDS, "{in_flight} in flight");
    drop((streams, states, one, two, own, shared));
    in_time("all tasks are gone", no_tasks()).await;
    assert_eq!(open_files(), files);
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_daemon_that_is_stopped_is_noticed_and_found_again() {
    let _turn = TURN.lock().await;
    let lab = Lab::start();
    lab.guest("one");
    let config = config()
        .keepalive(Some((Duration::from_millis(300), 3)))
        .connect_timeout(Some(Duration::from_secs(1)));
    let libvirt = Libvirt::connect_with(&lab.client_uri(), config)
        .await
        .unwrap();
    let monitor = Arc::new(libvirt.monitor("one"));
    let mut events = monitor.events().await.unwrap();
    let mut state = libvirt.state();

    lab.pause_daemon();
    let in_flight = in_time("a call", monitor.run(QUERY_STATUS)).await;
    match in_flight.unwrap_err() {
        Error::Disconnected {
            cause,
            maybe_executed: true,
        } => assert!(matches!(
            *cause,
            EndCause::KeepaliveTimeout { pings: 3, .. }
        )),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        *lost(&mut state).await,
        EndCause::KeepaliveTimeout { .. }
    ));
    // The socket accepts, and nobody answers: each try ends by itself.
    let is = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { failed, .. } if *failed >= 2);
    in_time("two tries", state.wait_for(is)).await.unwrap();
    let options = libvirt_qmp::RunOptions::new().timeout(Duration::from_millis(50));
    let error = monitor.run_with(QUERY_STATUS, options).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Reconnect,
                maybe_executed: false,
                ..
            }
        ),
        "{error:?}"
    );

    lab.resume_daemon();
    connected(&mut state).await;
    in_time("a command", monitor.run(STOP)).await.unwrap();
    let mut gaps = 0;
    loop {
        match in_time("an event", events.next()).await.unwrap() {
            Ok(event) if event.name == "STOP" => break,
            Ok(_) => {}
            Err(Error::Gap { cause }) => {
                assert!(matches!(*cause, EndCause::KeepaliveTimeout { .. }));
                gaps += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(gaps, 1);
    libvirt.close().await.unwrap();
    assert!(in_time("the end", events.next()).await.is_none());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_guest_that_went_away_with_the_daemon_is_told_of() {
    let _turn = TURN.lock().await;
    let lab = Arc::new(Lab::start());
    lab.guest("one");
    let monitor = LibvirtRpc::connect_uri_with(&lab.client_uri(), "one", config()).await;
    let monitor = monitor.unwrap();
    let mut events = monitor.events().await.unwrap();
    let mut state = monitor.state();
    lab.kill_daemon();
    lab.kill_qemu("one");
    lost(&mut state).await;
    let restarted = tokio::task::spawn_blocking({
        let lab = lab.clone();
        move || lab.restart_daemon()
    });
    restarted.await.unwrap();
    connected(&mut state).await;
    // The stream goes on, for the domain may be started again, and then it is the same one.
    let gap = in_time("the gap", events.next()).await.unwrap();
    assert!(matches!(gap, Err(Error::Gap { .. })), "{gap:?}");
    let error = in_time("a command", monitor.run(QUERY_STATUS)).await;
    assert!(error.unwrap_err().is_not_running());
    lab.virsh(&["start", "one"]);
    in_time("a command", monitor.run(STOP)).await.unwrap();
    loop {
        let item = in_time("an event", events.next()).await.unwrap();
        if item.unwrap().name == "STOP" {
            break;
        }
    }
    monitor.disconnect().await.unwrap();
}
