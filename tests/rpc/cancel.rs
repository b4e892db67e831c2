//! Cancelling is dropping: at whatever point a future is dropped, the connection stays usable.

use std::pin::pin;
use std::sync::Arc;

use libvirt_qmp::packet::Header;
use libvirt_qmp::protocol::qemu::procedure::{
    ConnectDomainMonitorEventDeregister, ConnectDomainMonitorEventRegister, DomainMonitorCommand,
};
use libvirt_qmp::protocol::remote::procedure::{AuthList, ConnectClose};
use libvirt_qmp::{Libvirt, LibvirtRpc, Monitor};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use super::support::mock::{
    DOMAIN, count, monitor, monitor_on, pair, pair_with_pipe, poll_once, quiet, session,
    session_with_pipe, settle,
};
use super::{STATUS, run};

/// Pipes that let a packet through at once, and a few bytes at a time.
const PIPES: [usize; 2] = [64 * 1024, 24];

/// More than any future here needs.
const MANY: usize = 10_000;

/// Polls `future` `times` times, with a turn for every other task after each, then drops it. Says whether it ended.
async fn poll_and_drop(future: impl Future, times: usize) -> bool {
    let mut future = pin!(future);
    for _ in 0..times {
        if poll_once(future.as_mut()).await.is_ready() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

/// A connection to a daemon that answers everything.
fn served(pipe: usize) -> (DuplexStream, JoinHandle<Vec<Header>>) {
    let (conn, daemon) = pair_with_pipe(pipe);
    (conn, tokio::spawn(daemon.serve()))
}

#[tokio::test(start_paused = true)]
async fn a_call_can_be_dropped_at_every_await_point() {
    for pipe in PIPES {
        let mut finished = false;
        for polls in 0..MANY {
            let (conn, serving) = served(pipe);
            let config = quiet().max_in_flight(1);
            let libvirt = Libvirt::open(conn, config).await.unwrap();
            let monitor = libvirt.monitor(DOMAIN);
            monitor.connect().await.unwrap();
            finished = poll_and_drop(monitor.run(STATUS.as_bytes()), polls).await;
            for _ in 0..3 {
                monitor.run(STATUS.as_bytes()).await.unwrap();
            }
            drop((monitor, libvirt));
            let calls = serving.await.unwrap();
            let commands = count::<DomainMonitorCommand>(&calls);
            assert!(
                commands == 4 || commands == 3 && !finished,
                "{polls}: {commands}"
            );
            if finished {
                break;
            }
        }
        assert!(finished);
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_call_on_a_session_can_be_dropped_at_every_await_point() {
    let mut finished = false;
    for polls in 0..MANY {
        let (conn, serving) = served(24);
        let libvirt = Libvirt::open(conn, quiet().max_in_flight(1)).await.unwrap();
        let monitor = libvirt.monitor(DOMAIN);
        finished = poll_and_drop(monitor.run(STATUS.as_bytes()), polls).await;
        monitor.run(STATUS.as_bytes()).await.unwrap();
        drop((monitor, libvirt));
        serving.await.unwrap();
        if finished {
            break;
        }
    }
    assert!(finished);
}

#[tokio::test(start_paused = true)]
async fn subscribing_can_be_dropped_at_every_await_point() {
    for pipe in PIPES {
        let mut finished = false;
        for polls in 0..MANY {
            let (conn, serving) = served(pipe);
            let libvirt = Libvirt::open(conn, quiet().max_in_flight(1)).await.unwrap();
            let monitor = libvirt.monitor(DOMAIN);
            monitor.connect().await.unwrap();
            finished = poll_and_drop(monitor.events(), polls).await;
            monitor.run(STATUS.as_bytes()).await.unwrap();
            drop(monitor.events().await.unwrap());
            monitor.run(STATUS.as_bytes()).await.unwrap();
            libvirt.close().await.unwrap();
            let calls = serving.await.unwrap();
            let registered = count::<ConnectDomainMonitorEventRegister>(&calls);
            // Whatever was registered is deregistered.
            assert_eq!(
                registered,
                count::<ConnectDomainMonitorEventDeregister>(&calls),
                "{polls}"
            );
            assert!(registered == 1 || registered == 2, "{polls}: {registered}");
            if finished {
                break;
            }
        }
        assert!(finished);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_can_be_dropped_at_every_await_point_and_finished_later() {
    for pipe in PIPES {
        let mut finished = false;
        for polls in 0..MANY {
            let (conn, serving) = served(pipe);
            let libvirt = Libvirt::open(conn, quiet()).await.unwrap();
            finished = poll_and_drop(libvirt.close(), polls).await;
            libvirt.close().await.unwrap();
            let calls = serving.await.unwrap();
            assert!(count::<ConnectClose>(&calls) >= 1, "{polls}");
            if finished {
                break;
            }
        }
        assert!(finished);
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_can_be_dropped_at_every_await_point_and_goes_on_for_the_next() {
    let mut finished = false;
    for polls in 0..MANY {
        let (conn, serving) = served(24);
        let monitor = LibvirtRpc::with_config(DOMAIN, conn, quiet());
        finished = poll_and_drop(monitor.connect(), polls).await;
        monitor.run(STATUS.as_bytes()).await.unwrap();
        drop(monitor);
        let calls = serving.await.unwrap();
        assert_eq!(count::<AuthList>(&calls), 1);
        assert_eq!(count::<DomainMonitorCommand>(&calls), 1);
        if finished {
            break;
        }
    }
    assert!(finished);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_monitor_that_is_connecting_closes_its_connection() {
    let (conn, mut daemon) = pair();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, quiet());
    assert!(!poll_and_drop(monitor.connect(), 1).await);
    daemon.expect::<AuthList>().await;
    drop(monitor);
    daemon.expect_eof().await;
}

#[tokio::test(start_paused = true)]
async fn opening_can_be_dropped_at_every_await_point_and_closes_the_connection() {
    let mut finished = false;
    for polls in 0..MANY {
        let (conn, serving) = served(24);
        finished = poll_and_drop(Libvirt::open(conn, quiet()), polls).await;
        serving.await.unwrap();
        if finished {
            break;
        }
    }
    assert!(finished);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_waits_for_a_slot_is_never_sent() {
    let (libvirt, mut daemon) = session(quiet().max_in_flight(1)).await;
    let first = Arc::new(monitor_on(&libvirt, &mut daemon, "a").await);
    let second = Arc::new(monitor_on(&libvirt, &mut daemon, "b").await);
    let stuck = run(&first, STATUS);
    let call = daemon.command().await;
    // One waits for its monitor's turn, one for a slot of the connection.
    let dropped = [
        run(&first, r#"{"execute":"dropped"}"#),
        run(&second, r#"{"execute":"dropped"}"#),
    ];
    let last = run(&second, r#"{"execute":"last"}"#);
    settle().await;
    dropped.iter().for_each(JoinHandle::abort);
    settle().await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    stuck.await.unwrap().unwrap();
    let call = daemon.command().await;
    assert!(call.args.cmd.contains("last"), "{}", call.args.cmd);
    daemon.answer(&call, r#"{"return":{}}"#).await;
    last.await.unwrap().unwrap();
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_the_peer_does_not_read_is_never_sent() {
    let (libvirt, mut daemon) = session_with_pipe(quiet().max_in_flight(usize::MAX), 64).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let running = run(&monitor, STATUS);
    settle().await;
    // The pipe holds less than one call: the first is being written, the others are queued.
    let dropped = run(&monitor, r#"{"execute":"dropped"}"#);
    let last = run(&monitor, r#"{"execute":"last"}"#);
    settle().await;
    dropped.abort();
    for (running, expected) in [(running, "query-status"), (last, "last")] {
        let call = daemon.command().await;
        assert!(call.args.cmd.contains(expected), "{}", call.args.cmd);
        daemon.answer(&call, r#"{"return":{}}"#).await;
        running.await.unwrap().unwrap();
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_keeps_its_slot_until_its_late_reply() {
    let (libvirt, mut daemon) = session(quiet().max_in_flight(1)).await;
    let first = Arc::new(monitor_on(&libvirt, &mut daemon, "a").await);
    let second = Arc::new(monitor_on(&libvirt, &mut daemon, "b").await);
    let abandoned = run(&first, STATUS);
    let call = daemon.command().await;
    abandoned.abort();
    let next = [run(&first, STATUS), run(&second, STATUS)];
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.answer(&call, r#"{"return":"late"}"#).await;
    for _ in &next {
        let call = daemon.command().await;
        assert!(daemon.sent_by_now().await.is_empty());
        daemon.answer(&call, r#"{"return":"new"}"#).await;
    }
    for running in next {
        assert_eq!(running.await.unwrap().unwrap(), r#"{"return":"new"}"#);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ran_into_its_deadline_keeps_its_slot_too() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let (error, call) = tokio::join!(monitor.run(STATUS.as_bytes()), daemon.command());
    assert!(error.unwrap_err().maybe_executed());
    let next = run(&monitor, STATUS);
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.answer(&call, r#"{"return":"late"}"#).await;
    let call = daemon.command().await;
    daemon.answer(&call, r#"{"return":"new"}"#).await;
    assert_eq!(next.await.unwrap().unwrap(), r#"{"return":"new"}"#);
}

#[tokio::test(start_paused = true)]
async fn dropping_one_of_those_who_wait_for_the_connection_leaves_it_to_the_others() {
    let (conn, mut daemon) = pair();
    let monitor = Arc::new(LibvirtRpc::with_config(DOMAIN, conn, quiet()));
    let first = run(&monitor, STATUS);
    let second = run(&monitor, STATUS);
    settle().await;
    second.abort();
    daemon.handshake().await;
    daemon.lookup(DOMAIN).await;
    let call = daemon.command().await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    first.await.unwrap().unwrap();
    assert!(daemon.sent_by_now().await.is_empty());
}
