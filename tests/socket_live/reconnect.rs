//! QEMU ends and is started anew on the same socket, many times, under load: nothing hangs, every gap is told, and every stream
//! is alive again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::{
    Backoff, Config, ConnectionState, EndCause, Error, EventStream, Monitor, MonitorExt,
    SocketMonitor,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::{SOON, STATUS, run};
use crate::support::process::Process;
use crate::support::qemu::command;
use crate::support::scratch::Scratch;

const ROUNDS: usize = 8;
const CALLERS: usize = 6;

fn start(scratch: &Scratch, socket: &Path) -> Process {
    let option = format!("unix:{},server=on,wait=off", socket.display());
    Process::new(command(scratch).args(["-qmp", &option]))
}

/// The first connection is tried once, so it is made when QEMU listens.
async fn first(socket: &Path, config: Config) -> SocketMonitor {
    let connecting = async {
        loop {
            match SocketMonitor::unix_with_config(socket, config.clone()).await {
                Ok(monitor) => return monitor,
                Err(error) => assert!(error.is_unavailable(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let monitor = timeout(SOON, connecting).await.expect("QEMU listens");
    monitor.connect().await.unwrap();
    monitor
}

/// What a stream says: the names of events, and `gap`.
fn told(mut events: EventStream) -> UnboundedReceiver<String> {
    let (tell, told) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(item) = events.next().await {
            let word = match item {
                Ok(event) => event.name,
                Err(Error::Gap { .. }) => "gap".to_owned(),
                Err(error) => format!("{error:?}"),
            };
            if tell.send(word).is_err() {
                return;
            }
        }
    });
    told
}

/// Takes what is told until this, and says how many gaps were on the way.
async fn until(told: &mut UnboundedReceiver<String>, wanted: &str) -> usize {
    let mut gaps = 0;
    loop {
        let next = timeout(SOON, told.recv()).await.expect(wanted);
        let next = next.expect("the stream goes on");
        assert!(!next.contains(' '), "{next}");
        gaps += usize::from(next == "gap");
        if next == wanted {
            return gaps;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn qemu_ends_and_comes_back_under_load() {
    let scratch = Scratch::new();
    let socket = scratch.path("qmp");
    let mut qemu = start(&scratch, &socket);
    let backoff = Backoff::new().longest(Duration::from_millis(500));
    let config = Config::new()
        .reconnect(backoff)
        .call_timeout(Some(SOON))
        .greeting_timeout(Some(SOON));
    let monitor = Arc::new(first(&socket, config).await);
    let mut streams = [
        told(monitor.events().await.unwrap()),
        told(monitor.events().await.unwrap()),
    ];

    let (ends, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (monitor, ends, answered) = (monitor.clone(), ends.clone(), answered.clone());
            tokio::spawn(async move {
                let mut lost = 0;
                while !ends.load(Ordering::Relaxed) {
                    match monitor.run(STATUS.as_bytes()).await {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error @ Error::Disconnected { .. }) => {
                            let gone = matches!(
                                super::cause_of(&error),
                                EndCause::PeerClosed | EndCause::Io(_)
                            );
                            assert!(gone, "{error:?}");
                            lost += 1;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
                lost
            })
        })
        .collect();

    let mut state = monitor.state();
    for round in 0..ROUNDS {
        if round % 4 == 3 {
            // By itself: the reply is not certain to come.
            let _ = run(&monitor, r#"{"execute":"quit"}"#).await;
        } else {
            qemu.kill();
        }
        // Sometimes it is back before anybody has noticed.
        if round % 2 == 0 {
            let lost =
                |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { .. });
            timeout(SOON, state.wait_for(lost)).await.unwrap().unwrap();
        }
        drop(qemu);
        qemu = start(&scratch, &socket);
        for told in &mut streams {
            assert_eq!(until(told, "gap").await, 1);
        }
        let before = answered.load(Ordering::Relaxed);
        run(&monitor, r#"{"execute":"stop"}"#).await.unwrap();
        for told in &mut streams {
            assert_eq!(until(told, "STOP").await, 0, "round {round}");
        }
        run(&monitor, r#"{"execute":"cont"}"#).await.unwrap();
        let greeting = monitor.greeting().await.unwrap();
        assert_eq!(greeting.version, monitor.version().await.unwrap());
        let more = async {
            while answered.load(Ordering::Relaxed) < before + 20 {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, more).await.expect("calls are answered");
    }

    ends.store(true, Ordering::Relaxed);
    let mut lost = 0;
    for caller in callers {
        lost += timeout(SOON, caller).await.expect("no call hangs").unwrap();
    }
    assert!(
        (1..=2 * CALLERS * ROUNDS).contains(&lost),
        "{lost} calls were lost"
    );
    monitor.disconnect().await.unwrap();
    assert!(matches!(*monitor.closed().await, EndCause::UserClosed));
    for told in &mut streams {
        while let Some(word) = timeout(SOON, told.recv()).await.unwrap() {
            assert_ne!(word, "gap");
        }
    }
}

/// QEMU serves one client: whoever came between is waited for.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn another_client_that_came_between_is_waited_for() {
    let scratch = Scratch::new();
    let socket = scratch.path("qmp");
    let qemu = start(&scratch, &socket);
    let config = Config::new()
        .reconnect(Backoff::new().longest(Duration::from_millis(100)))
        .greeting_timeout(Some(Duration::from_millis(200)));
    let monitor = first(&socket, config).await;
    let mut events = told(monitor.events().await.unwrap());
    qemu.kill();
    let mut state = monitor.state();
    let lost = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { .. });
    timeout(SOON, state.wait_for(lost)).await.unwrap().unwrap();
    std::fs::remove_file(&socket).unwrap();
    drop(qemu);
    // Started on another path, which gets its name when the other client is there.
    let elsewhere = scratch.path("elsewhere");
    let _qemu = start(&scratch, &elsewhere);
    let other = first(&elsewhere, Config::new()).await;
    std::fs::hard_link(&elsewhere, &socket).unwrap();
    let tried = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { cause: _, failed } if *failed > 3);
    timeout(SOON, state.wait_for(tried)).await.unwrap().unwrap();
    other.run(STATUS.as_bytes()).await.unwrap();
    other.disconnect().await.unwrap();
    assert_eq!(until(&mut events, "gap").await, 1);
    run(&monitor, STATUS).await.unwrap();
}
