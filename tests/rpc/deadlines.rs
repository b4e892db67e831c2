//! Each step has a deadline of its own, where the user wants one: set, it alone ends the step; lifted, nothing does.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::protocol::admin;
use libvirt_qmp::protocol::remote::procedure::ConnectClose;
use libvirt_qmp::{Admin, Config, Libvirt, LibvirtRpc, Monitor, Phase};
use tokio::time::Instant;

use super::support::mock::{
    DOMAIN, monitor_on, pair, pair_with_pipe, quiet, session, session_with_pipe,
};
use super::timeouts::{LIMIT, STEPS, Until, is_timeout, lead_up, play};

/// Less than any call has bytes, so that one that is not read is never written to its end.
const NARROW: usize = 16;

const LONG: Duration = Duration::from_secs(100_000_000);

/// Sets the timeout of the step in which the peer falls silent.
fn own(until: Until, config: Config, timeout: Option<Duration>) -> Config {
    match until {
        Until::AuthList | Until::Polkit => config.auth_timeout(timeout),
        Until::Lookup => config.lookup_timeout(timeout),
        Until::Keepalive | Until::Open | Until::CloseFeature | Until::CloseCallback => {
            config.open_timeout(timeout)
        }
    }
}

/// All that connecting waits for, set so.
fn all(timeout: Option<Duration>) -> Config {
    let config = Config::new().keepalive(Some((LONG * 10, 1)));
    config.connect_timeout(timeout).call_timeout(timeout)
}

#[tokio::test(start_paused = true)]
async fn a_step_of_connecting_ends_at_its_own_deadline() {
    for (until, phase) in STEPS {
        for other in [None, Some(Duration::from_millis(1)), Some(LONG)] {
            for reads in [true, false] {
                let (conn, mut daemon) = pair_with_pipe(if reads { 4096 } else { NARROW });
                let config = own(until, all(other), Some(LIMIT));
                let monitor = Arc::new(LibvirtRpc::with_config(DOMAIN, conn, config));
                let connecting = tokio::spawn({
                    let monitor = monitor.clone();
                    async move { monitor.connect().await }
                });
                match reads {
                    true => play(&mut daemon, until).await,
                    false => lead_up(&mut daemon, until).await,
                }
                let since = Instant::now();
                let error = connecting.await.unwrap().unwrap_err();
                is_timeout(&error, phase, since);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_deadline_is_lifted_waits_and_the_others_have_what_they_had() {
    for (until, _) in STEPS {
        for reads in [true, false] {
            let (conn, mut daemon) = pair_with_pipe(if reads { 4096 } else { NARROW });
            let config = own(until, all(Some(LIMIT)), None);
            let monitor = Arc::new(LibvirtRpc::with_config(DOMAIN, conn, config));
            let connecting = tokio::spawn({
                let monitor = monitor.clone();
                async move { monitor.connect().await }
            });
            match reads {
                true => play(&mut daemon, until).await,
                false => lead_up(&mut daemon, until).await,
            }
            tokio::time::sleep(LONG).await;
            assert!(!connecting.is_finished(), "{until:?}");
            connecting.abort();
        }
    }
    // The hour that the user takes does not count for what comes after.
    let (conn, mut daemon) = pair();
    let config = all(Some(LIMIT)).auth_timeout(None);
    let opening = tokio::spawn(Libvirt::open(conn, config));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    daemon.auth(&[]).await;
    let since = Instant::now();
    let error = opening.await.unwrap().unwrap_err();
    is_timeout(&error, Phase::Features, since);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_has_a_deadline_of_its_own() {
    for reads in [true, false] {
        for (timeout, call) in [(Some(LIMIT), None), (None, Some(LIMIT))] {
            let config = quiet().max_in_flight(usize::MAX).call_timeout(call);
            let config = config.subscribe_timeout(timeout);
            let (libvirt, mut daemon) = session_with_pipe(config, NARROW).await;
            let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
            let since = Instant::now();
            let subscribing = tokio::spawn({
                let monitor = monitor.clone();
                async move { monitor.events().await.map(drop) }
            });
            if reads {
                daemon.registration().await;
            }
            if timeout.is_none() {
                tokio::time::sleep(LONG).await;
                assert!(!subscribing.is_finished());
                subscribing.abort();
                continue;
            }
            let error = subscribing.await.unwrap().unwrap_err();
            is_timeout(&error, Phase::Subscription, since);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_has_a_deadline_of_its_own() {
    for reads in [true, false] {
        let pipe = if reads { 4096 } else { NARROW };
        let config = quiet().close_timeout(Some(LIMIT));
        let (libvirt, _daemon) = session_with_pipe(config, pipe).await;
        let since = Instant::now();
        libvirt.close().await.unwrap();
        let elapsed = since.elapsed();
        assert!(elapsed >= LIMIT && elapsed < LIMIT + Duration::from_millis(100));
    }
    // Lifted, it waits for the daemon's word.
    let (libvirt, mut daemon) = session(quiet().close_timeout(None)).await;
    let closing = tokio::spawn(async move { libvirt.close().await });
    let call = daemon.expect::<ConnectClose>().await;
    tokio::time::sleep(LONG).await;
    assert!(!closing.is_finished());
    daemon.reply::<ConnectClose>(&call, &()).await;
    closing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_on_an_admin_socket_has_the_deadlines_of_any_other() {
    for reads in [true, false] {
        // 32 bytes are asked: the length, the header and the flags.
        let (conn, mut daemon) = pair_with_pipe(if reads { 4096 } else { NARROW });
        let config = all(None).open_timeout(Some(LIMIT));
        let opening = tokio::spawn(Admin::open(conn, config));
        if reads {
            daemon.expect::<admin::procedure::ConnectOpen>().await;
        }
        let since = Instant::now();
        let error = opening.await.unwrap().unwrap_err();
        is_timeout(&error, Phase::Open, since);
    }
    let (conn, mut daemon) = pair();
    let config = all(Some(LIMIT)).open_timeout(None);
    let opening = tokio::spawn(Admin::open(conn, config.close_timeout(Some(LIMIT / 2))));
    let call = daemon.expect::<admin::procedure::ConnectOpen>().await;
    tokio::time::sleep(LONG).await;
    assert!(!opening.is_finished());
    daemon
        .reply::<admin::procedure::ConnectOpen>(&call, &())
        .await;
    let admin = opening.await.unwrap().unwrap();
    let since = Instant::now();
    admin.close().await.unwrap();
    let elapsed = since.elapsed();
    assert!(elapsed >= LIMIT / 2 && elapsed < LIMIT / 2 + Duration::from_millis(100));
    daemon.expect::<admin::procedure::ConnectClose>().await;
}
