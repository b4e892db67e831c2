//! Keepalive: pings answered, a silent peer found out, and nothing of it where the daemon would not read it.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::packet::Packet;
use libvirt_qmp::protocol::remote::procedure::ConnectOpen;
use libvirt_qmp::{Config, EndCause, Error, Libvirt, Monitor};
use tokio::time::Instant;

use super::support::mock::{
    DOMAIN, MockDaemon, bytes_of, monitor, monitor_on, pair, pair_with_pipe, quiet, session, settle,
};
use super::{STATUS, run};

const PING: [u8; 28] = *b"\0\0\0\x1ckeep\0\0\0\x01\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\0";
const PONG: [u8; 28] = *b"\0\0\0\x1ckeep\0\0\0\x01\0\0\0\x02\0\0\0\x02\0\0\0\0\0\0\0\0";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn next(daemon: &mut MockDaemon) -> Packet {
    daemon.packet().await.expect("the client is there")
}

#[tokio::test(start_paused = true)]
async fn each_ping_is_answered_at_once() {
    // At any time, whatever was configured or negotiated, even before the first reply.
    let (conn, mut daemon) = pair();
    let opening = tokio::spawn(Libvirt::open(conn, quiet()));
    daemon.raw(&PING).await;
    let mut sent = daemon.sent_by_now().await;
    sent.retain(|packet| packet.header.program == 0x6b65_6570);
    assert_eq!(sent.len(), 1);
    assert_eq!(bytes_of(sent.remove(0))[..], PONG);
    opening.abort();

    let (_libvirt, mut daemon) = session(quiet().max_in_flight(usize::MAX)).await;
    let before = Instant::now();
    for _ in 0..3 {
        daemon.raw(&PING).await;
        daemon.raw(&PING).await;
        assert_eq!(bytes_of(next(&mut daemon).await)[..], PONG);
        assert_eq!(bytes_of(next(&mut daemon).await)[..], PONG);
    }
    assert_eq!(Instant::now(), before);
}

#[tokio::test(start_paused = true)]
async fn a_pong_goes_before_queued_calls() {
    let (conn, mut daemon) = pair_with_pipe(64);
    let config = quiet().max_in_flight(usize::MAX);
    let (libvirt, _) = tokio::join!(Libvirt::open(conn, config), daemon.handshake());
    let monitor = Arc::new(monitor_on(&libvirt.unwrap(), &mut daemon, DOMAIN).await);
    let running: Vec<_> = (0..3).map(|_| run(&monitor, STATUS)).collect();
    settle().await;
    let more = run(&monitor, STATUS);
    settle().await;
    daemon.ping().await;
    settle().await;
    // The calls that were drained together are being written; the pong is next, the call that waits comes after it.
    for _ in 0..3 {
        daemon.command().await;
    }
    assert_eq!(bytes_of(next(&mut daemon).await)[..], PONG);
    daemon.command().await;
    drop((running, more));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_and_then_given_up() {
    let config = Config::new()
        .keepalive(Some((secs(5), 3)))
        .call_timeout(None);
    let (libvirt, mut daemon) = session(config).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let running = [run(&monitor, STATUS), run(&monitor, STATUS)];
    daemon.command().await;
    let silent_since = Instant::now();
    let mut at = Vec::new();
    for _ in 0..3 {
        assert_eq!(bytes_of(next(&mut daemon).await)[..], PING);
        at.push(silent_since.elapsed().as_secs());
    }
    daemon.expect_eof().await;
    at.push(silent_since.elapsed().as_secs());
    // A ping each interval; which of the intervals the last packet fell into is the clock's business.
    assert!(at[0] >= 5 && at[0] <= 10, "{at:?}");
    assert_eq!([at[1] - at[0], at[2] - at[1], at[3] - at[2]], [5, 5, 5]);
    let mut causes = Vec::new();
    for running in running {
        match running.await.unwrap().unwrap_err() {
            Error::Disconnected { cause, .. } => causes.push(cause),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        matches!(*causes[0], EndCause::KeepaliveTimeout { pings: 3, silence } if silence == secs(20)),
        "{:?}",
        causes[0]
    );
    assert!(Arc::ptr_eq(&causes[0], &causes[1]));
}

#[tokio::test(start_paused = true)]
async fn any_packet_is_a_sign_of_the_peer() {
    let config = Config::new()
        .keepalive(Some((secs(5), 1)))
        .call_timeout(None);
    let (libvirt, mut daemon) = session(config).await;
    for round in 0..20 {
        assert_eq!(bytes_of(next(&mut daemon).await)[..], PING);
        match round % 3 {
            0 => daemon.pong().await,
            1 => daemon.event(0, "STOP", None).await,
            _ => {
                daemon.raw(&PING).await;
                assert_eq!(bytes_of(next(&mut daemon).await)[..], PONG);
            }
        }
    }
    assert_eq!(bytes_of(next(&mut daemon).await)[..], PING);
    daemon.expect_eof().await;
    assert!(matches!(
        *libvirt.closed().await,
        EndCause::KeepaliveTimeout { pings: 1, .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn no_count_means_no_patience() {
    let (libvirt, mut daemon) = session(Config::new().keepalive(Some((secs(5), 0)))).await;
    let since = Instant::now();
    daemon.expect_eof().await;
    assert!(since.elapsed() <= secs(10));
    assert!(matches!(
        *libvirt.closed().await,
        EndCause::KeepaliveTimeout { pings: 0, silence } if silence == secs(5)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_read_is_not_held_to_it() {
    let longer = secs(3600);
    for config in [
        Config::new().max_in_flight(5),
        Config::new().max_in_flight(usize::MAX),
        Config::new().keepalive(None),
    ] {
        let (monitor, mut daemon) = monitor(config.call_timeout(Some(longer))).await;
        let monitor = Arc::new(monitor);
        let running = run(&monitor, STATUS);
        let call = daemon.command().await;
        tokio::time::advance(secs(1800)).await;
        assert!(daemon.sent_by_now().await.is_empty());
        daemon.answer(&call, r#"{"return":{}}"#).await;
        running.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_knows_no_keepalive_is_not_pinged() {
    let (conn, mut daemon) = pair();
    let config = Config::new().call_timeout(Some(secs(3600)));
    let opening = tokio::spawn(Libvirt::open(conn, config));
    daemon.auth(&[]).await;
    daemon.feature(10, false).await;
    let open = daemon.expect::<ConnectOpen>().await;
    daemon.reply::<ConnectOpen>(&open, &()).await;
    daemon.feature(15, false).await;
    let libvirt = opening.await.unwrap().unwrap();
    let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let serve = async {
        let call = daemon.command().await;
        tokio::time::sleep(secs(1800)).await;
        daemon.answer(&call, r#"{"return":{}}"#).await;
    };
    tokio::join!(monitor.run(STATUS.as_bytes()), serve)
        .0
        .unwrap();
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn pings_faster_than_they_can_be_answered_do_not_pile_up() {
    const PINGS: usize = 100_000;
    let (conn, mut daemon) = pair_with_pipe(1024);
    let (libvirt, _) = tokio::join!(Libvirt::open(conn, quiet()), daemon.handshake());
    // The daemon reads nothing meanwhile.
    for _ in 0..PINGS {
        daemon.raw(&PING).await;
    }
    let mut pongs = 0;
    loop {
        let sent = daemon.sent_by_now().await;
        if sent.is_empty() {
            break;
        }
        pongs += sent.len();
    }
    assert!(pongs > 0);
    assert!(pongs < PINGS / 10, "{pongs} answers were kept");
    daemon.ping().await;
    assert_eq!(bytes_of(next(&mut daemon).await)[..], PONG);
    drop(libvirt);
}
