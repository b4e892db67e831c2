//! What is a loss, and what is tried after one.

use std::task::Poll;

use super::*;

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_while_opening_is_tried_again() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 1).await;
    drop(daemon);
    // Gone before anything; in the middle; silent; refusing to open; speaking nonsense.
    drop(host.daemon().await);
    let mut half = host.daemon().await;
    half.auth(&[AuthType::NONE]).await;
    drop(half);
    let start = Instant::now();
    let mut silent = host.daemon().await;
    silent.auth(&[AuthType::NONE]).await;
    silent.packet().await;
    silent.expect_eof().await;
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(15) && waited < Duration::from_secs(17),
        "{waited:?}"
    );
    let mut refusing = host.daemon().await;
    refusing.auth(&[AuthType::NONE]).await;
    let open = refusing
        .expect::<libvirt_qmp::protocol::remote::procedure::ConnectOpen>()
        .await;
    refusing.error(&open, 38, "not yet").await;
    refusing.expect_eof().await;
    host.daemon()
        .await
        .raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await;
    assert!(matches!(
        *libvirt.state().borrow(),
        ConnectionState::Reconnecting { failed: 4, .. }
    ));
    let mut daemon = host.reopened().await;
    daemon.register(2).await;
    gap(&mut events).await;
    is_idle(&mut events).await;
    until(&mut libvirt.state(), is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn keepalive_is_negotiated_again_and_its_end_is_a_loss() {
    let config = Config::new().reconnect(Backoff::new());
    let (mut host, connect) = Host::new();
    let opening = Libvirt::open_with(connect, config);
    let (libvirt, mut daemon) = tokio::join!(opening, host.daemon().then_open());
    let libvirt = libvirt.unwrap();
    for _ in 0..3 {
        let start = Instant::now();
        // It answers nothing any more.
        let mut pings = 0;
        while daemon.packet().await.is_some() {
            pings += 1;
        }
        assert_eq!(pings, 5);
        // Six intervals of silence, found out at the end of the next.
        assert_eq!(start.elapsed(), Duration::from_secs(35));
        daemon = host.daemon().then_open().await;
        until(&mut libvirt.state(), is_connected).await;
    }
}

/// A daemon that must be asked for keepalive.
trait ThenOpen: Future<Output = MockDaemon> + Sized {
    async fn then_open(self) -> MockDaemon {
        let mut daemon = self.await;
        let opening = daemon.handshake().await;
        assert!(opening.asked_keepalive);
        daemon
    }
}

impl<F: Future<Output = MockDaemon>> ThenOpen for F {}

#[tokio::test(start_paused = true)]
async fn a_hypervisor_that_the_daemon_lost_is_a_loss() {
    use libvirt_qmp::protocol::Message;
    use libvirt_qmp::protocol::remote::procedure::ConnectEventConnectionClosed;
    let (_monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let header = libvirt_qmp::packet::Header {
        kind: libvirt_qmp::packet::MessageType::MESSAGE,
        ..libvirt_qmp::packet::Header::call(
            ConnectEventConnectionClosed::PROGRAM,
            1,
            ConnectEventConnectionClosed::NUMBER,
            1,
        )
    };
    let payload = mock::encoded(&1i32);
    daemon
        .send(libvirt_qmp::packet::Packet { header, payload })
        .await;
    let mut state = libvirt.state();
    let lost = until(&mut state, is_lost).await;
    assert!(
        matches!(&lost, ConnectionState::Reconnecting { cause, .. } if matches!(**cause, EndCause::HypervisorClosed { reason: 1 })),
        "{lost:?}"
    );
    daemon.expect_eof().await;
    let _daemon = host.reopened().await;
    until(&mut state, is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_closes_at_once_is_not_asked_all_the_time() {
    let (libvirt, mut host, daemon) = session_with(lasting()).await;
    drop(daemon);
    let daemons = async {
        loop {
            drop(host.reopened().await);
        }
    };
    let hour = tokio::time::timeout(Duration::from_secs(3600), daemons).await;
    assert!(hour.is_err());
    // 30 s at most between two, and half of it at least.
    let tries = host.tries();
    assert!((120..300).contains(&tries), "{tries}");
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_connecting_is_tried_once() {
    let (host, connect) = Host::new();
    host.answer(Answers::Refused);
    let error = Libvirt::open_with(connect, lasting()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert_eq!(host.tries(), 1);

    let (mut host, connect) = Host::new();
    let opening = tokio::spawn(Libvirt::open_with(connect, lasting()));
    drop(host.daemon().await);
    let (cause, _) = ended(&opening.await.unwrap().unwrap_err());
    assert!(matches!(*cause, EndCause::PeerClosed));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.tries(), 1);

    let (host, connect) = Host::new();
    host.answer(Answers::Silent);
    let start = Instant::now();
    let error = Libvirt::open_with(connect, lasting()).await.unwrap_err();
    assert!(error.is_timeout() && error.is_unavailable(), "{error:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn a_monitor_of_its_own_says_what_its_connection_does() {
    let (monitor, mut daemon) = mock::monitor(quiet()).await;
    let mut state = monitor.state();
    assert!(is_connected(&state.borrow_and_update()));
    daemon.raw(b"\0\0\0\0").await;
    let ConnectionState::Closed { cause } = until(&mut state, is_closed).await else {
        panic!();
    };
    assert!(matches!(*cause, EndCause::Frame(_)));
    assert!(Arc::ptr_eq(&cause, &monitor.closed().await));
    // One that is closed before its first use never opens.
    let (conn, _daemon) = pair();
    let monitor = LibvirtRpc::new(DOMAIN, conn);
    monitor.disconnect().await.unwrap();
    assert!(matches!(*monitor.closed().await, EndCause::UserClosed));
}

/// Nobody polls the opening while its last reply comes and the connection ends.
#[tokio::test(start_paused = true)]
async fn a_session_that_is_lost_as_it_opens_is_not_given_out() {
    for config in [lasting(), quiet()] {
        let (mut host, connect) = Host::new();
        let mut opening = pin!(Libvirt::open_with(connect, config));
        let serving = tokio::spawn(async move { drop(host.reopened().await) });
        let opened = loop {
            if let Poll::Ready(opened) = mock::poll_once(opening.as_mut()).await {
                break opened;
            }
            settle().await;
        };
        assert!(serving.is_finished());
        let (cause, maybe_executed) = ended(&opened.expect_err("it has ended"));
        assert!(matches!(*cause, EndCause::PeerClosed) && !maybe_executed);
    }
}
