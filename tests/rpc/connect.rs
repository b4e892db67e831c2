//! How a session is opened, and how its domain is found.

use std::sync::Arc;

use libvirt_qmp::protocol::remote::procedure::{
    AuthList, AuthPolkit, ConnectOpen, ConnectRegisterCloseCallback, ConnectSupportsFeature,
    DomainLookupByName, DomainLookupByUuid,
};
use libvirt_qmp::protocol::remote::{AuthPolkitRet, AuthType, DomainLookupByUuidRet};
use libvirt_qmp::{Config, EndCause, Error, Libvirt, LibvirtRpc, Monitor};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::support::mock::{
    self, DOMAIN, MockDaemon, domain, monitor, monitor_on, pair, quiet, session, settle,
};
use super::{STATUS, run};

fn opening(config: Config) -> (JoinHandle<Result<Libvirt, Error>>, MockDaemon) {
    let (conn, daemon) = pair();
    (tokio::spawn(Libvirt::open(conn, config)), daemon)
}

#[tokio::test(start_paused = true)]
async fn a_session_opens_step_by_step() {
    let (opening, mut daemon) = opening(Config::new());
    let call = daemon.expect::<AuthList>().await;
    let none = daemon.sent_by_now().await;
    assert!(none.is_empty());
    let types = vec![AuthType::NONE];
    let reply = libvirt_qmp::protocol::remote::AuthListRet { types };
    daemon.reply::<AuthList>(&call, &reply).await;
    daemon.feature(10, true).await;
    let open = daemon.expect::<ConnectOpen>().await;
    assert_eq!(open.args.name.as_deref(), Some("qemu:///system"));
    assert_eq!(open.args.flags, 0);
    // A call right behind this one may run first and fail.
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.reply::<ConnectOpen>(&open, &()).await;
    daemon.feature(15, true).await;
    let callback = daemon.expect::<ConnectRegisterCloseCallback>().await;
    assert!(!opening.is_finished());
    daemon
        .reply::<ConnectRegisterCloseCallback>(&callback, &())
        .await;
    opening.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_the_close_callback_none_is_registered() {
    let (opening, mut daemon) = opening(quiet());
    daemon.auth(&[AuthType::NONE]).await;
    let open = daemon.expect::<ConnectOpen>().await;
    daemon.reply::<ConnectOpen>(&open, &()).await;
    daemon.feature(15, false).await;
    let _libvirt = opening.await.unwrap().unwrap();
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn keepalive_is_asked_for_only_where_the_daemon_goes_on_reading() {
    let some = Config::new;
    for (config, asked) in [
        (some(), true),
        (some().max_in_flight(1), true),
        (some().max_in_flight(4), true),
        (some().max_in_flight(5), false),
        (some().max_in_flight(usize::MAX), false),
        (some().keepalive(None), false),
    ] {
        let (opening, mut daemon) = opening(config);
        assert_eq!(daemon.handshake().await.asked_keepalive, asked);
        opening.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn uri_and_read_only_reach_the_daemon() {
    let config = quiet().uri("qemu:///session").readonly(true);
    let (opening, mut daemon) = opening(config);
    let open = daemon.handshake().await.open;
    assert_eq!(open.name.as_deref(), Some("qemu:///session"));
    assert_eq!(open.flags, 1);
    opening.await.unwrap().unwrap();
    // The empty name lets the daemon choose; no name at all would be something else.
    let (opening, mut daemon) = self::opening(quiet().uri(""));
    assert_eq!(daemon.handshake().await.open.name.as_deref(), Some(""));
    opening.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_wants_what_cannot_be_done_is_refused_by_name() {
    let cases: &[(&[AuthType], &[&str])] = &[
        (&[AuthType(9)], &["9"]),
        (&[AuthType(9), AuthType(-1)], &["9", "-1"]),
        #[cfg(not(feature = "sasl"))]
        (&[AuthType::SASL], &["sasl"]),
    ];
    for &(offered, expected) in cases {
        let (opening, mut daemon) = opening(Config::new());
        daemon.auth(offered).await;
        match opening.await.unwrap().unwrap_err() {
            Error::AuthUnsupported { offered } => assert_eq!(offered, expected),
            other => panic!("{other:?}"),
        }
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn polkit_is_asked_where_it_is_offered() {
    for offered in [&[AuthType::POLKIT][..], &[AuthType::SASL, AuthType::POLKIT]] {
        let (opening, mut daemon) = opening(quiet());
        daemon.auth(offered).await;
        let call = daemon.expect::<AuthPolkit>().await;
        assert!(daemon.sent_by_now().await.is_empty());
        let reply = AuthPolkitRet { complete: 1 };
        daemon.reply::<AuthPolkit>(&call, &reply).await;
        daemon.expect::<ConnectOpen>().await;
        drop(opening);
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_polkit_is_the_error() {
    // Failed, cancelled by the user, and no agent to ask them.
    for (code, denied) in [(45, true), (79, false), (94, false)] {
        let (opening, mut daemon) = opening(quiet());
        daemon.auth(&[AuthType::POLKIT]).await;
        let call = daemon.expect::<AuthPolkit>().await;
        daemon.error(&call, code, "authentication failed").await;
        let error = opening.await.unwrap().unwrap_err();
        assert!(error.is_auth_failed());
        assert_eq!(error.is_denied(), denied);
        assert_eq!(error.libvirt_code(), Some(code));
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_authentication_list_means_no_authentication() {
    // Any one of them will do, and so will none.
    for offered in [&[][..], &[AuthType::SASL, AuthType::NONE]] {
        let (opening, mut daemon) = opening(quiet());
        daemon.auth(offered).await;
        daemon.expect::<ConnectOpen>().await;
        drop(opening);
    }
    let (opening, mut daemon) = opening(quiet());
    let call = daemon.expect::<AuthList>().await;
    let mut unknown = mock::error(39, "unknown procedure: 66");
    unknown.domain = 7;
    daemon.error_as(&call, &unknown).await;
    daemon.expect::<ConnectOpen>().await;
    drop(opening);
}

#[tokio::test(start_paused = true)]
async fn a_refused_opening_is_the_error_and_stays_it() {
    let (conn, mut daemon) = pair();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, quiet());
    let serve = async {
        daemon.auth(&[]).await;
        let open = daemon.expect::<ConnectOpen>().await;
        daemon.error(&open, 38, "Failed to connect socket").await;
        daemon.expect_eof().await;
    };
    let (connected, ()) = tokio::join!(monitor.connect(), serve);
    assert_eq!(connected.unwrap_err().libvirt_code(), Some(38));
    let again = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    assert_eq!(again.libvirt_code(), Some(38));
}

#[tokio::test(start_paused = true)]
async fn connecting_at_once_from_many_tasks_connects_once() {
    let (conn, mut daemon) = pair();
    let monitor = Arc::new(LibvirtRpc::with_config(DOMAIN, conn, quiet()));
    let connecting: Vec<_> = (0..5)
        .map(|_| {
            let monitor = monitor.clone();
            tokio::spawn(async move { monitor.connect().await })
        })
        .collect();
    daemon.handshake().await;
    daemon.lookup(DOMAIN).await;
    for connecting in connecting {
        connecting.await.unwrap().unwrap();
    }
    monitor.connect().await.unwrap();
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_domain_is_looked_up_once_and_then_known_by_its_uuid() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = Arc::new(libvirt.monitor(DOMAIN));
    assert!(daemon.sent_by_now().await.is_empty(), "nothing is sent yet");
    for first in [true, false, false] {
        let running = run(&monitor, STATUS);
        if first {
            daemon.lookup(DOMAIN).await;
        }
        let call = daemon.command().await;
        assert_eq!(call.args.dom.uuid, domain(DOMAIN).uuid);
        daemon.answer(&call, r#"{"return":{}}"#).await;
        running.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_uuid_is_looked_up_as_one() {
    let uuid = domain(DOMAIN).uuid;
    let (libvirt, mut daemon) = session(quiet()).await;
    for monitor in [libvirt.monitor(uuid), libvirt.monitor(uuid.to_string())] {
        let serve = async {
            let call = daemon.expect::<DomainLookupByUuid>().await;
            assert_eq!(call.args.uuid, uuid);
            let dom = domain(DOMAIN);
            let reply = DomainLookupByUuidRet { dom };
            daemon.reply::<DomainLookupByUuid>(&call, &reply).await;
        };
        tokio::join!(monitor.connect(), serve).0.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_in_the_form_of_a_uuid_is_found_too() {
    let name = "c7a5fdbd-edaf-9455-926a-d65c16db1809";
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = libvirt.monitor(name);
    let serve = async {
        let call = daemon.expect::<DomainLookupByUuid>().await;
        daemon.error(&call, 42, "Domain not found").await;
        daemon.lookup(name).await;
    };
    tokio::join!(monitor.connect(), serve).0.unwrap();
    // Another error is no reason to go on.
    let monitor = libvirt.monitor(name);
    let serve = async {
        let call = daemon.expect::<DomainLookupByUuid>().await;
        daemon.error(&call, 88, "access denied").await;
    };
    let (result, ()) = tokio::join!(monitor.connect(), serve);
    assert!(result.unwrap_err().is_denied());
    // A UUID given as one is no name.
    let monitor = libvirt.monitor(Uuid::parse_str(name).unwrap());
    let serve = async {
        let call = daemon.expect::<DomainLookupByUuid>().await;
        daemon.error(&call, 42, "Domain not found").await;
    };
    let (result, ()) = tokio::join!(monitor.connect(), serve);
    assert!(result.unwrap_err().is_not_found());
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_lookup_may_be_tried_again() {
    let (conn, mut daemon) = pair();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, quiet());
    let serve = async {
        daemon.handshake().await;
        let call = daemon.expect::<DomainLookupByName>().await;
        daemon.error(&call, 42, "Domain not found").await;
    };
    let (result, ()) = tokio::join!(monitor.connect(), serve);
    assert!(result.unwrap_err().is_not_found());
    let (result, ()) = tokio::join!(monitor.connect(), daemon.lookup(DOMAIN));
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn disconnecting_an_unused_monitor_closes_its_stream() {
    let (conn, mut daemon) = pair();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, quiet());
    monitor.disconnect().await.unwrap();
    daemon.expect_eof().await;
    assert!(matches!(monitor.connect().await, Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn disconnecting_ends_a_connecting_that_gets_no_answer() {
    let config = quiet().connect_timeout(None).call_timeout(None);
    let (conn, mut daemon) = pair();
    let monitor = Arc::new(LibvirtRpc::with_config(DOMAIN, conn, config));
    let running = run(&monitor, STATUS);
    daemon.expect::<AuthList>().await;
    monitor.disconnect().await.unwrap();
    assert!(matches!(running.await.unwrap(), Err(Error::Closed)));
    daemon.expect_eof().await;
    assert!(matches!(monitor.connect().await, Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_monitor_of_a_shared_session_can_go_without_it() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let one = monitor_on(&libvirt, &mut daemon, "one").await;
    let two = Arc::new(monitor_on(&libvirt, &mut daemon, "two").await);
    one.disconnect().await.unwrap();
    assert!(matches!(
        one.run(STATUS.as_bytes()).await,
        Err(Error::Closed)
    ));
    assert!(matches!(one.connect().await, Err(Error::Closed)));
    assert!(
        one.events()
            .await
            .is_err_and(|error| matches!(error, Error::Closed))
    );
    drop(one);
    let running = run(&two, STATUS);
    let call = daemon.command().await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_libvirt_is_named() {
    for (bytes, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "HTTP"),
        (&[0x15, 3, 3, 0, 2, 2, 10], "TLS"),
        (b"{\"QMP\": {\"version\": {}}}\r\n", "QMP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (&[0, 0, 0, 27], "below the 28 bytes"),
        (&[0, 0, 0, 0], "below the 28 bytes"),
        (&[2, 0, 0, 5], "over the limit of 33554436"),
        (&[255, 255, 255, 255], "over the limit of 33554436"),
    ] {
        let (opening, mut daemon) = opening(Config::new());
        daemon.expect::<AuthList>().await;
        daemon.raw(bytes).await;
        match opening.await.unwrap().unwrap_err() {
            Error::Disconnected { cause, .. } => {
                assert!(matches!(*cause, EndCause::Frame(_)), "{cause:?}");
                assert!(cause.to_string().contains(expected), "{cause}");
            }
            other => panic!("{other:?}"),
        }
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_at_once_is_told_from_a_refusal() {
    let (opening, daemon) = opening(Config::new());
    drop(daemon);
    match opening.await.unwrap().unwrap_err() {
        Error::Disconnected { cause, .. } => {
            assert!(
                matches!(*cause, EndCause::PeerClosed | EndCause::Io(_)),
                "{cause:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn opening_on_a_runtime_that_has_shut_down_fails() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let gone = runtime.handle().clone();
    drop(runtime);
    let here = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (conn, _daemon) = pair();
    let opened = {
        let _guard = gone.enter();
        let mut opening = Box::pin(Libvirt::open(conn, quiet()));
        // The first poll starts the task, on the runtime that is entered.
        let started = opening
            .as_mut()
            .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        match started {
            std::task::Poll::Ready(opened) => opened,
            std::task::Poll::Pending => here.block_on(async move {
                tokio::time::timeout(std::time::Duration::from_secs(5), opening)
                    .await
                    .expect("it ends")
            }),
        }
    };
    match opened.unwrap_err() {
        Error::Disconnected { cause, .. } => {
            assert!(matches!(*cause, EndCause::RuntimeGone), "{cause:?}")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn debug_output_says_where_a_monitor_stands() {
    let (conn, mut daemon) = pair();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, quiet());
    assert!(format!("{monitor:?}").contains("not connected"));
    let serve = async {
        daemon.handshake().await;
        daemon.lookup(DOMAIN).await;
    };
    tokio::join!(monitor.connect(), serve).0.unwrap();
    let text = format!("{monitor:?}");
    assert!(
        text.contains(DOMAIN) && text.contains("connected"),
        "{text}"
    );
    let (monitor, daemon) = self::monitor(quiet()).await;
    tokio::join!(monitor.disconnect(), daemon.close())
        .0
        .unwrap();
    assert!(format!("{monitor:?}").contains("closed"));
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_feature_that_cannot_be_asked_for_is_the_error() {
    let (opening, mut daemon) = opening(Config::new());
    daemon.auth(&[]).await;
    let call = daemon.expect::<ConnectSupportsFeature>().await;
    daemon.error(&call, 39, "authentication required").await;
    let error = opening.await.unwrap().unwrap_err();
    assert_eq!(error.libvirt_code(), Some(39));
}
