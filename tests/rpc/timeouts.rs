//! Every wait has a deadline that names what was waited for, and that can be lifted.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::protocol::remote::AuthType;
use libvirt_qmp::protocol::remote::procedure::{
    AuthList, AuthPolkit, ConnectListAllDomains, ConnectOpen, ConnectRegisterCloseCallback,
    ConnectSupportsFeature, DomainLookupByName,
};
use libvirt_qmp::{Command, Config, Error, LibvirtRpc, Monitor, MonitorExt, Phase, RunOptions};
use tokio::time::Instant;

use super::support::mock::{
    DOMAIN, MockDaemon, monitor, monitor_on, pair, quiet, session, session_with_pipe,
};
use super::{STATUS, run};

/// A deadline that is none of the defaults.
pub(super) const LIMIT: Duration = Duration::from_secs(7);

/// How far the daemon plays before it falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    AuthList,
    Polkit,
    Keepalive,
    Open,
    CloseFeature,
    CloseCallback,
    Lookup,
}

/// Plays up to the call that is not answered.
pub(super) async fn lead_up(daemon: &mut MockDaemon, until: Until) {
    match until {
        Until::AuthList => return,
        Until::Polkit => return daemon.auth(&[AuthType::POLKIT]).await,
        Until::Lookup => return drop(daemon.handshake().await),
        _ => daemon.auth(&[]).await,
    }
    if until == Until::Keepalive {
        return;
    }
    daemon.feature(10, false).await;
    if until == Until::Open {
        return;
    }
    let open = daemon.expect::<ConnectOpen>().await;
    daemon.reply::<ConnectOpen>(&open, &()).await;
    if until == Until::CloseCallback {
        daemon.feature(15, true).await;
    }
}

/// Plays up to that call, and takes it.
pub(super) async fn play(daemon: &mut MockDaemon, until: Until) {
    lead_up(daemon, until).await;
    match until {
        Until::AuthList => {
            daemon.expect::<AuthList>().await;
        }
        Until::Polkit => {
            daemon.expect::<AuthPolkit>().await;
        }
        Until::Keepalive | Until::CloseFeature => {
            daemon.expect::<ConnectSupportsFeature>().await;
        }
        Until::Open => {
            daemon.expect::<ConnectOpen>().await;
        }
        Until::CloseCallback => {
            daemon.expect::<ConnectRegisterCloseCallback>().await;
        }
        Until::Lookup => {
            daemon.expect::<DomainLookupByName>().await;
        }
    }
}

/// Asserts that `error` is the timeout of `phase` after [`LIMIT`], no earlier and hardly later.
pub(super) fn is_timeout(error: &Error, phase: Phase, since: Instant) {
    let Error::Timeout {
        phase: is, after, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((*is, *after), (phase, LIMIT));
    assert!(error.is_timeout());
    let elapsed = since.elapsed();
    assert!(
        elapsed >= LIMIT && elapsed < LIMIT + Duration::from_millis(100),
        "{elapsed:?}"
    );
}

pub(super) const STEPS: [(Until, Phase); 7] = [
    (Until::AuthList, Phase::Authentication),
    (Until::Polkit, Phase::Authentication),
    (Until::Keepalive, Phase::Features),
    (Until::Open, Phase::Open),
    (Until::CloseFeature, Phase::Features),
    (Until::CloseCallback, Phase::Features),
    (Until::Lookup, Phase::Lookup),
];

#[tokio::test(start_paused = true)]
async fn each_step_of_connecting_is_named_when_the_peer_falls_silent_in_it() {
    for (until, phase) in STEPS {
        let (conn, mut daemon) = pair();
        // Keepalive stays on: it must not come before the deadline.
        let config = Config::new().connect_timeout(Some(LIMIT));
        let monitor = LibvirtRpc::with_config(DOMAIN, conn, config);
        let since = Instant::now();
        let (connected, ()) = tokio::join!(monitor.connect(), play(&mut daemon, until));
        is_timeout(&connected.unwrap_err(), phase, since);
        if until != Until::Lookup {
            // A connection that could not be opened is given up.
            daemon.expect_eof().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_has_one_deadline_for_all_its_steps() {
    let (conn, mut daemon) = pair();
    let config = quiet().connect_timeout(Some(LIMIT));
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, config);
    let since = Instant::now();
    let serve = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        daemon.auth(&[]).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let open = daemon.expect::<ConnectOpen>().await;
        daemon.reply::<ConnectOpen>(&open, &()).await;
        daemon.expect::<ConnectSupportsFeature>().await;
    };
    let (connected, ()) = tokio::join!(monitor.connect(), serve);
    is_timeout(&connected.unwrap_err(), Phase::Features, since);
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_connecting_waits() {
    for (until, _) in STEPS {
        let (conn, mut daemon) = pair();
        let config = Config::new()
            .connect_timeout(None)
            .keepalive(Some((Duration::from_secs(1_000_000_000), 1)));
        let monitor = Arc::new(LibvirtRpc::with_config(DOMAIN, conn, config));
        let connecting = tokio::spawn({
            let monitor = monitor.clone();
            async move { monitor.connect().await }
        });
        play(&mut daemon, until).await;
        tokio::time::sleep(Duration::from_secs(100_000_000)).await;
        assert!(!connecting.is_finished(), "{until:?}");
        connecting.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_reply() {
    let (monitor, mut daemon) = monitor(quiet().call_timeout(Some(LIMIT))).await;
    let since = Instant::now();
    let (result, call) = tokio::join!(monitor.run(STATUS.as_bytes()), daemon.command());
    let error = result.unwrap_err();
    is_timeout(&error, Phase::Reply, since);
    assert!(error.maybe_executed());
    // The connection lives, and the late reply goes to nobody.
    daemon.answer(&call, r#"{"return":"late"}"#).await;
    let serve = async {
        let call = daemon.command().await;
        daemon.answer(&call, r#"{"return":"new"}"#).await;
    };
    let (result, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), serve);
    assert_eq!(result.unwrap(), r#"{"return":"new"}"#);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_domains_without_a_reply() {
    let (libvirt, mut daemon) = session(quiet().call_timeout(Some(LIMIT))).await;
    let since = Instant::now();
    let (result, _) = tokio::join!(libvirt.domains(), daemon.expect::<ConnectListAllDomains>());
    is_timeout(&result.unwrap_err(), Phase::Reply, since);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_without_a_reply() {
    let (monitor, mut daemon) = monitor(quiet().call_timeout(Some(LIMIT))).await;
    let since = Instant::now();
    let (result, call) = tokio::join!(monitor.events(), daemon.registration());
    is_timeout(&result.unwrap_err(), Phase::Subscription, since);
    // Where the registration comes about after all, it is taken back.
    daemon.registered(&call, 5).await;
    daemon.deregister(5).await;
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(6));
    events.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_no_slot() {
    let config = quiet().max_in_flight(1).call_timeout(Some(LIMIT));
    let (libvirt, mut daemon) = session(config).await;
    let one = Arc::new(monitor_on(&libvirt, &mut daemon, "one").await);
    let two = Arc::new(monitor_on(&libvirt, &mut daemon, "two").await);
    let stuck = run(&one, STATUS);
    daemon.command().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let since = Instant::now();
    // One waits for its monitor, the other for the connection.
    let waiting = [run(&one, STATUS), run(&two, STATUS)];
    for waiting in waiting {
        let error = waiting.await.unwrap().unwrap_err();
        is_timeout(&error, Phase::Queue, since);
        assert!(!error.maybe_executed(), "nothing was sent");
    }
    assert!(stuck.await.unwrap().unwrap_err().maybe_executed());
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read() {
    let config = quiet().max_in_flight(usize::MAX).call_timeout(Some(LIMIT));
    let (libvirt, mut daemon) = session_with_pipe(config, 64).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let since = Instant::now();
    let writing = run(&monitor, STATUS);
    super::support::mock::settle().await;
    let behind = run(&monitor, r#"{"execute":"stop"}"#);
    let error = writing.await.unwrap().unwrap_err();
    is_timeout(&error, Phase::Write, since);
    assert!(error.maybe_executed(), "part of it may have arrived");
    let error = behind.await.unwrap().unwrap_err();
    is_timeout(&error, Phase::Queue, since);
    assert!(!error.maybe_executed());
    // When it reads again it finds the call that was on its way, whole, and no other.
    let late = daemon.command().await;
    assert!(late.args.cmd.contains("query-status"));
    assert!(daemon.sent_by_now().await.is_empty());
    let next = run(&monitor, r#"{"execute":"cont"}"#);
    let call = daemon.command().await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    next.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn deadlines_of_many_calls_each_come_at_their_time() {
    let config = quiet().call_timeout(Some(LIMIT)).max_in_flight(usize::MAX);
    let (monitor, mut daemon) = monitor(config).await;
    let monitor = Arc::new(monitor);
    let mut running = Vec::new();
    for number in 0..50 {
        let since = Instant::now();
        running.push((since, run(&monitor, STATUS)));
        let call = daemon.command().await;
        if number % 2 == 0 {
            daemon.answer(&call, r#"{"return":{}}"#).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The first has not ended yet; each that got no answer ends when its own time has come.
    for (number, (since, running)) in running.into_iter().enumerate() {
        let result = running.await.unwrap();
        if number % 2 == 0 {
            result.unwrap();
        } else {
            is_timeout(&result.unwrap_err(), Phase::Reply, since);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_a_call_waits() {
    let long = Duration::from_secs(100_000_000);
    // A deadline past the end of time is none.
    for timeout in [None, Some(Duration::MAX)] {
        let (monitor, mut daemon) = monitor(quiet().call_timeout(timeout)).await;
        let monitor = Arc::new(monitor);
        let running = run(&monitor, STATUS);
        let call = daemon.command().await;
        let queued = run(&monitor, STATUS);
        tokio::time::sleep(long).await;
        assert!(!running.is_finished() && !queued.is_finished());
        daemon.answer(&call, r#"{"return":1}"#).await;
        assert_eq!(running.await.unwrap().unwrap(), r#"{"return":1}"#);
        let call = daemon.command().await;
        daemon.answer(&call, r#"{"return":2}"#).await;
        assert_eq!(queued.await.unwrap().unwrap(), r#"{"return":2}"#);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_no_time_sends_nothing_twice() {
    let config = quiet().call_timeout(Some(Duration::ZERO));
    let (libvirt, mut daemon) = session(config).await;
    let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    for _ in 0..3 {
        let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
    }
    assert!(daemon.sent_by_now().await.len() <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_calls_own_deadline_takes_the_place_of_the_configured_one() {
    let long = Duration::from_secs(100_000);
    for configured in [None, Some(Duration::from_secs(1)), Some(long)] {
        let (monitor, mut daemon) = monitor(quiet().call_timeout(configured)).await;
        let monitor = Arc::new(monitor);
        let since = Instant::now();
        let options = RunOptions::new().timeout(LIMIT);
        let (result, call) = tokio::join!(
            monitor.run_with(STATUS.as_bytes(), options),
            daemon.command()
        );
        let error = result.unwrap_err();
        is_timeout(&error, Phase::Reply, since);
        assert!(error.maybe_executed());
        // Until the late reply the monitor's turn is taken: what waits for it was never sent.
        let since = Instant::now();
        let error = monitor
            .run_with(STATUS.as_bytes(), options)
            .await
            .unwrap_err();
        is_timeout(&error, Phase::Queue, since);
        assert!(!error.maybe_executed());
        daemon.answer(&call, r#"{"return":"late"}"#).await;
        // A command may have its own deadline too, and lift it.
        let command = Command::new("query-status").timeout(None);
        let running = tokio::spawn({
            let monitor = monitor.clone();
            async move { monitor.execute::<u32>(command).await }
        });
        let call = daemon.command().await;
        tokio::time::sleep(long * 2).await;
        assert!(!running.is_finished());
        daemon.answer(&call, r#"{"return":7}"#).await;
        assert_eq!(running.await.unwrap().unwrap(), 7);
    }
}
