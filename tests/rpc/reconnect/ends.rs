//! What gives up, what ends it, and who refuses to begin with it.

#[cfg(feature = "libvirt-c")]
use libvirt_qmp::LibvirtC;
use libvirt_qmp::{Admin, Virsh};

use super::*;

#[tokio::test(start_paused = true)]
async fn what_the_next_try_cannot_mend_ends_it_at_once() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 1).await;
    let mut state = libvirt.state();
    drop(daemon);
    lost(&libvirt).await;
    let waiting = run(&monitor, STATUS);
    let mut daemon = host.daemon().await;
    daemon.auth(&[AuthType::POLKIT]).await;
    let call = daemon.expect::<AuthPolkit>().await;
    daemon.error(&call, 45, "authentication failed").await;
    daemon.expect_eof().await;

    let cause = libvirt.closed().await;
    let EndCause::GaveUp {
        lost,
        tries: 1,
        last,
    } = &*cause
    else {
        panic!("{cause:?}");
    };
    assert!(matches!(**lost, EndCause::PeerClosed));
    assert!(last.is_auth_failed());
    let ConnectionState::Closed { cause: told } = until(&mut state, is_closed).await else {
        panic!();
    };
    // Everybody gets the same one.
    let (of_call, maybe_executed) = ended(&waiting.await.unwrap().unwrap_err());
    assert!(!maybe_executed);
    let of_stream = ended(&item(&mut events).await.unwrap().unwrap_err()).0;
    assert!(item(&mut events).await.is_none());
    let of_later_call = ended(&monitor.run(STATUS.as_bytes()).await.unwrap_err()).0;
    let of_later_stream = ended(&monitor.events().await.err().unwrap()).0;
    for other in [told, of_call, of_stream, of_later_call, of_later_stream] {
        assert!(Arc::ptr_eq(&cause, &other));
    }
    assert_eq!(host.tries(), 2);
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_in_time_whatever_a_try_is_doing() {
    for answers in [Answers::Refused, Answers::Silent, Answers::Connected] {
        let backoff = Backoff::new().give_up_after(Some(Duration::from_secs(20)));
        let (libvirt, mut host, daemon) = session_with(quiet().reconnect(backoff)).await;
        host.answer(answers);
        drop(daemon);
        lost(&libvirt).await;
        let start = Instant::now();
        let cause = libvirt.closed().await;
        assert!(matches!(*cause, EndCause::GaveUp { .. }), "{cause:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(20));
        // What was tried last is closed too.
        while let Ok(mut daemon) = host.daemons.try_recv() {
            daemon.expect_cut().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_users_end_ends_the_trying_at_once() {
    #[derive(Clone, Copy, Debug)]
    enum How {
        Close,
        Drop,
    }
    for how in [How::Close, How::Drop] {
        for answers in [Answers::Refused, Answers::Silent, Answers::Connected] {
            let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
            let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
            let events = subscribe_as(&monitor, &mut daemon, 1).await;
            let mut state = libvirt.state();
            host.answer(answers);
            drop(daemon);
            lost(&libvirt).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let start = Instant::now();
            match how {
                How::Close => {
                    let waiting = run(&monitor, STATUS);
                    settle().await;
                    libvirt.close().await.unwrap();
                    let error = waiting.await.unwrap().unwrap_err();
                    assert!(error.is_closed() && !error.maybe_executed(), "{error:?}");
                    let mut events = events;
                    assert!(item(&mut events).await.is_none());
                    assert!(matches!(*libvirt.closed().await, EndCause::UserClosed));
                    libvirt.close().await.unwrap();
                }
                How::Drop => drop((libvirt, monitor, events)),
            }
            until(&mut state, is_closed).await;
            assert_eq!(start.elapsed(), Duration::ZERO, "{how:?}");
            settle().await;
            let tries = host.tries();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            assert_eq!(host.tries(), tries);
            while let Ok(mut daemon) = host.daemons.try_recv() {
                daemon.expect_cut().await;
            }
            // Nothing but this test runs any more.
            assert_eq!(
                tokio::runtime::Handle::current()
                    .metrics()
                    .num_alive_tasks(),
                0
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_a_connection_that_was_made_again_tells_the_daemon() {
    let (monitor, libvirt, mut host, daemon) = lasting_monitor().await;
    drop(daemon);
    let daemon = host.reopened().await;
    let mut state = libvirt.state();
    until(&mut state, is_connected).await;
    let (closed, ()) = tokio::join!(libvirt.close(), daemon.close());
    closed.unwrap();
    assert!(is_closed(&state.borrow()));
    assert!(
        monitor
            .run(STATUS.as_bytes())
            .await
            .unwrap_err()
            .is_closed()
    );
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.tries(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_loss_while_the_user_closes_is_not_mended() {
    let (_monitor, libvirt, host, mut daemon) = lasting_monitor().await;
    let closing = tokio::spawn(async move { libvirt.close().await });
    daemon
        .expect::<libvirt_qmp::protocol::remote::procedure::ConnectClose>()
        .await;
    drop(daemon);
    closing.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.tries(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_the_setting_a_loss_is_the_end() {
    let (libvirt, host, daemon) = session_with(quiet()).await;
    let mut state = libvirt.state();
    assert!(is_connected(&state.borrow_and_update()));
    drop(daemon);
    assert!(matches!(*libvirt.closed().await, EndCause::PeerClosed));
    assert!(is_closed(&state.borrow()));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.tries(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_handed_in_cannot_be_made_again() {
    let (conn, mut daemon) = pair();
    let error = Libvirt::open(conn, lasting()).await.unwrap_err();
    assert!(
        error.is_unsupported() && error.to_string().contains("reconnect"),
        "{error}"
    );
    daemon.expect_eof().await;
    let (conn, mut daemon) = pair();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, lasting());
    assert!(matches!(
        *monitor.state().borrow(),
        ConnectionState::Opening
    ));
    let error = monitor.connect().await.unwrap_err();
    assert!(
        error.is_unsupported() && error.to_string().contains("reconnect"),
        "{error}"
    );
    monitor.closed().await;
    daemon.expect_eof().await;
}

#[tokio::test(start_paused = true)]
async fn who_watches_keeps_nothing_open() {
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let mut state = libvirt.state();
    drop(libvirt);
    daemon.expect_eof().await;
    let ConnectionState::Closed { cause } = until(&mut state, is_closed).await else {
        panic!();
    };
    assert!(matches!(*cause, EndCause::UserClosed));
    assert!(host.daemons.try_recv().is_err());
}

#[test]
fn the_end_of_the_runtime_is_the_end() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    for while_lost in [false, true] {
        let first = runtime();
        let (libvirt, mut events) = first.block_on(async {
            let (libvirt, host, mut daemon) = session_with(lasting()).await;
            let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
            let events = subscribe_as(&monitor, &mut daemon, 1).await;
            if while_lost {
                host.answer(Answers::Silent);
                drop(daemon);
                lost(&libvirt).await;
            } else {
                tokio::spawn(daemon.serve());
            }
            (libvirt, events)
        });
        drop(first);
        runtime().block_on(async {
            let error = item(&mut events).await.unwrap().unwrap_err();
            assert!(matches!(*ended(&error).0, EndCause::RuntimeGone));
            assert!(matches!(*libvirt.closed().await, EndCause::RuntimeGone));
            assert!(is_closed(&libvirt.state().borrow()));
            assert!(libvirt.domains().await.is_err());
            libvirt.close().await.unwrap();
        });
    }
}

#[tokio::test]
async fn who_cannot_make_a_connection_again_refuses_to() {
    fn assert_refused<T>(who: &str, result: Result<T, Error>) {
        let Err(error) = result else {
            panic!("{who} takes it");
        };
        assert!(error.is_unsupported(), "{who}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("Config::reconnect"), "{who}: {text}");
    }
    // Refused before anything is started: neither the programs nor the library need be there.
    let virsh = Virsh::with_config("qemu:///session", "one", lasting()).program("/no/such/virsh");
    assert_refused("virsh, connecting", virsh.connect().await);
    assert_refused("virsh, running", virsh.run(STATUS.as_bytes()).await);
    assert_refused("virsh, events", virsh.events().await);
    #[cfg(feature = "libvirt-c")]
    {
        let library = LibvirtC::with_config("qemu:///session", "one", lasting());
        assert_refused("the library, connecting", library.connect().await);
        assert_refused("the library, running", library.run(STATUS.as_bytes()).await);
        assert_refused("the library, events", library.events().await);
    }
    let (conn, mut daemon) = pair();
    assert_refused("the admin socket", Admin::open(conn, lasting()).await);
    daemon.expect_eof().await;
}
