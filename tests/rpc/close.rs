//! How the user ends a connection: by closing, by disconnecting a monitor, by dropping the last handle. None of it hangs.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::protocol::remote::procedure::ConnectClose;
use libvirt_qmp::{EndCause, Error, EventStream, Monitor};
use tokio::time::{Instant, timeout};

use super::end::cause_of;
use super::support::mock::{
    DOMAIN, monitor, monitor_on, quiet, session, session_with_pipe, settle,
};
use super::{STATUS, item, run};
#[tokio::test(start_paused = true)]
async fn the_user_closes() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let running = run(&monitor, STATUS);
    daemon.command().await;
    // libvirtd closes the socket right behind its reply: that is no other cause.
    tokio::join!(libvirt.close(), daemon.close()).0.unwrap();
    let cause = libvirt.closed().await;
    assert!(matches!(*cause, EndCause::UserClosed), "{cause:?}");
    let (its, maybe_executed) = cause_of(running.await.unwrap().unwrap_err());
    assert!(Arc::ptr_eq(&its, &cause));
    assert!(maybe_executed);
    assert!(
        item(&mut events.unwrap()).await.is_none(),
        "the stream just ends"
    );
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_answers_the_close_as_well() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let serve = async {
        daemon.expect::<ConnectClose>().await;
        drop(daemon);
    };
    tokio::join!(libvirt.close(), serve).0.unwrap();
    assert!(matches!(*libvirt.closed().await, EndCause::UserClosed));
    assert!(item(&mut events.unwrap()).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn closing_from_many_tasks_closes_once() {
    let (libvirt, daemon) = session(quiet()).await;
    let serving = tokio::spawn(daemon.serve());
    let closing: Vec<_> = (0..5)
        .map(|_| {
            let libvirt = libvirt.clone();
            tokio::spawn(async move { libvirt.close().await })
        })
        .collect();
    for closing in closing {
        closing.await.unwrap().unwrap();
    }
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_peer_that_is_silent() {
    for call_timeout in [Some(Duration::from_secs(60)), None] {
        let (libvirt, mut daemon) = session(quiet().call_timeout(call_timeout)).await;
        let since = Instant::now();
        libvirt.close().await.unwrap();
        assert!(since.elapsed() <= Duration::from_secs(5));
        daemon.expect::<ConnectClose>().await;
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_peer_that_does_not_read() {
    let config = quiet().call_timeout(None).max_in_flight(usize::MAX);
    let (libvirt, mut daemon) = session_with_pipe(config, 64).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let running: Vec<_> = (0..10).map(|_| run(&monitor, STATUS)).collect();
    settle().await;
    let since = Instant::now();
    libvirt.close().await.unwrap();
    assert!(since.elapsed() <= Duration::from_secs(5));
    for running in running {
        let (cause, _) = cause_of(running.await.unwrap().unwrap_err());
        assert!(matches!(*cause, EndCause::UserClosed), "{cause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn disconnecting_a_monitor_of_its_own_closes_the_session() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(0));
    let mut events = events.unwrap();
    daemon.event(0, "STOP", None).await;
    settle().await;
    let running = run(&monitor, STATUS);
    daemon.command().await;
    tokio::join!(monitor.disconnect(), daemon.close())
        .0
        .unwrap();
    let error = running.await.unwrap().unwrap_err();
    assert!(
        error.is_disconnected() && error.maybe_executed(),
        "{error:?}"
    );
    // What came before is still to be had.
    assert_eq!(item(&mut events).await.unwrap().unwrap().name, "STOP");
    assert!(item(&mut events).await.is_none());
    monitor.disconnect().await.unwrap();
    assert!(matches!(monitor.events().await, Err(Error::Closed)));
    assert!(matches!(
        monitor.run(STATUS.as_bytes()).await,
        Err(Error::Closed)
    ));
}

#[tokio::test(start_paused = true)]
async fn disconnecting_a_monitor_of_a_shared_session_ends_its_streams_only() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let one = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let same = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let (mine, ()) = tokio::join!(one.events(), daemon.register(0));
    let mut mine = mine.unwrap();
    let mut others: EventStream = same.events().await.unwrap();
    one.disconnect().await.unwrap();
    assert!(item(&mut mine).await.is_none());
    daemon.event(0, "STOP", None).await;
    assert_eq!(item(&mut others).await.unwrap().unwrap().name, "STOP");
    drop(mine);
    assert!(daemon.sent_by_now().await.is_empty());
    drop(others);
    daemon.deregister(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_under_way_when_its_monitor_is_disconnected_does_not_come_about() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let subscribing = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.events().await }
    });
    let call = daemon.registration().await;
    monitor.disconnect().await.unwrap();
    daemon.registered(&call, 3).await;
    assert!(matches!(subscribing.await.unwrap(), Err(Error::Closed)));
    daemon.deregister(3).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_connection() {
    let soon = Duration::from_millis(100);
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let mut events = events.unwrap();
    let clone = libvirt.clone();
    drop((libvirt, monitor));
    assert!(daemon.sent_by_now().await.is_empty());
    drop(clone);
    // The stream still wants its events.
    daemon.event(1, "STOP", None).await;
    assert_eq!(item(&mut events).await.unwrap().unwrap().name, "STOP");
    let since = Instant::now();
    drop(events);
    loop {
        match timeout(soon, daemon.packet()).await {
            Ok(None) => break,
            // The deregistration may or may not get out.
            Ok(Some(_)) => {}
            Err(_) => panic!("the connection is still open"),
        }
    }
    assert!(since.elapsed() < soon);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_connection_of_a_peer_that_does_not_read() {
    let (libvirt, mut daemon) = session_with_pipe(quiet().max_in_flight(usize::MAX), 64).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let running: Vec<_> = (0..10).map(|_| run(&monitor, STATUS)).collect();
    settle().await;
    running.iter().for_each(tokio::task::JoinHandle::abort);
    drop((libvirt, monitor));
    settle().await;
    daemon.expect_cut().await;
}
