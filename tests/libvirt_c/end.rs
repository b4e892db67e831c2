//! The end of a connection: by its user, by the daemon, in silence; and who learns of it.

use std::time::Instant;

use futures_util::StreamExt;
use libvirt_qmp::{Phase, RunOptions};

use super::*;

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_killed_daemon_ends_every_waiter_with_one_cause() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let monitor = Arc::new(monitor(&lab, "one"));
    let mut streams = [
        monitor.events().await.unwrap(),
        monitor.events().await.unwrap(),
    ];
    lab.pause_qemu("one");
    let begun = stuck(&monitor).await;
    let waiting = spawn(&monitor, STATUS);
    tokio::task::yield_now().await;
    lab.kill_daemon();
    let begun = within(SOON, begun).await.unwrap().unwrap_err();
    assert!(begun.maybe_executed(), "{begun:?}");
    let waiting = within(SOON, waiting).await.unwrap().unwrap_err();
    assert!(!waiting.maybe_executed(), "{waiting:?}");
    let mut causes = vec![cause(begun), cause(waiting)];
    for stream in &mut streams {
        causes.push(cause(
            within(SOON, stream.next()).await.unwrap().unwrap_err(),
        ));
        assert!(stream.next().await.is_none());
    }
    // Later calls fail at once, with the same.
    causes.push(cause(monitor.run(STATUS).await.unwrap_err()));
    causes.push(cause(monitor.events().await.unwrap_err()));
    assert!(matches!(*causes[0], EndCause::PeerClosed), "{causes:?}");
    assert!(
        causes.iter().all(|cause| Arc::ptr_eq(cause, &causes[0])),
        "{causes:?}"
    );
    lab.resume_qemu("one");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_killed_daemon_is_noticed_without_a_call() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    let mut events = monitor.events().await.unwrap();
    lab.kill_daemon();
    let error = within(SOON, events.next()).await.unwrap().unwrap_err();
    assert!(matches!(*cause(error), EndCause::PeerClosed));
    let error = monitor.run(STATUS).await.unwrap_err();
    assert!(
        error.is_disconnected() && !error.maybe_executed(),
        "{error:?}"
    );
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_silent_daemon_is_found_out_by_keepalive() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let config = Config::new().keepalive(Some((Duration::from_millis(100), 2)));
    let monitor = with_config(&lab, "one", config);
    let mut events = monitor.events().await.unwrap();
    lab.pause_daemon();
    let call = within(PATIENCE, monitor.run(STATUS)).await.unwrap_err();
    assert!(call.maybe_executed(), "{call:?}");
    let stream = within(PATIENCE, events.next()).await.unwrap().unwrap_err();
    for error in [call, stream] {
        match *cause(error) {
            // libvirt counts in whole seconds.
            EndCause::KeepaliveTimeout { pings: 2, silence } => assert_eq!(silence.as_secs(), 3),
            ref other => panic!("{other:?}"),
        }
    }
    lab.resume_daemon();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn connecting_to_a_silent_daemon_ends_at_its_deadline() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    lab.pause_daemon();
    let config = Config::new().connect_timeout(Some(Duration::from_millis(300)));
    let monitor = with_config(&lab, "one", config);
    for _ in 0..2 {
        match within(SOON, monitor.connect()).await.unwrap_err() {
            Error::Timeout {
                phase: Phase::Open,
                maybe_executed: false,
                ..
            } => {}
            other => panic!("{other:?}"),
        }
    }
    within(SOON, monitor.disconnect()).await.unwrap();
    lab.resume_daemon();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn disconnecting_does_not_wait_for_a_stuck_guest() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let monitor = Arc::new(monitor(&lab, "one"));
    let mut events = monitor.events().await.unwrap();
    lab.pause_qemu("one");
    let options = RunOptions::new().timeout(Duration::from_millis(200));
    let error = monitor.run_with(STATUS, options).await.unwrap_err();
    assert!(error.is_timeout() && error.maybe_executed(), "{error:?}");
    let waiting = spawn(&monitor, STATUS);
    tokio::task::yield_now().await;
    let started = Instant::now();
    monitor.disconnect().await.unwrap();
    assert!(started.elapsed() < SOON);
    assert!(events.next().await.is_none());
    let error = within(SOON, waiting).await.unwrap().unwrap_err();
    assert!(error.is_closed() && !error.maybe_executed(), "{error:?}");
    assert!(matches!(monitor.run(STATUS).await, Err(Error::Closed)));
    lab.resume_qemu("one");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn disconnecting_before_and_while_connecting_is_final_too() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let unused = monitor(&lab, "one");
    unused.disconnect().await.unwrap();
    assert!(matches!(unused.connect().await, Err(Error::Closed)));

    let monitor = Arc::new(monitor(&lab, "one"));
    lab.pause_daemon();
    let connecting = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.connect().await }
    });
    while !format!("{monitor:?}").contains("connecting") {
        tokio::task::yield_now().await;
    }
    within(SOON, monitor.disconnect()).await.unwrap();
    let error = within(SOON, connecting).await.unwrap().unwrap_err();
    assert!(error.is_closed(), "{error:?}");
    lab.resume_daemon();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_loop_that_runs_cannot_be_left_to_the_program() {
    let _beside = beside_others().await;
    LibvirtC::new("test:///default", "test")
        .connect()
        .await
        .unwrap();
    assert!(LibvirtC::use_existing_loop().unwrap_err().is_unsupported());
}
