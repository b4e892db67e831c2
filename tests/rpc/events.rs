//! Event subscriptions: how they are registered and shared, and which events reach them.

use std::sync::Arc;

use futures_util::StreamExt;
use libvirt_qmp::packet::{Header, MessageStatus, MessageType, Packet};
use libvirt_qmp::protocol::qemu::procedure::ConnectDomainMonitorEventDeregister;
use libvirt_qmp::{Error, Event, EventStream, LibvirtRpc, Monitor};
use tokio::task::JoinHandle;

use super::support::mock::{
    self, DOMAIN, MockDaemon, bytes_of, domain, encoded, error, event, monitor, monitor_on, quiet,
    session, settle,
};
use super::{STATUS, item, run};

fn subscribe(monitor: &Arc<LibvirtRpc>) -> JoinHandle<Result<EventStream, Error>> {
    let monitor = monitor.clone();
    tokio::spawn(async move { monitor.events().await })
}

/// A monitor and a stream of its events under `callback_id`.
async fn subscribed(callback_id: i32) -> (Arc<LibvirtRpc>, MockDaemon, EventStream) {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(callback_id));
    (Arc::new(monitor), daemon, events.unwrap())
}

async fn next(events: &mut EventStream) -> Event {
    item(events).await.expect("the stream goes on").unwrap()
}

/// Asserts that nothing waits in `events`.
async fn is_idle(events: &mut EventStream) {
    settle().await;
    assert!(
        mock::poll_once(std::pin::pin!(events.next()))
            .await
            .is_pending()
    );
}

#[tokio::test(start_paused = true)]
async fn a_subscription_asks_for_all_events_of_its_domain() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let subscribing = subscribe(&monitor);
    let call = daemon.registration().await;
    assert_eq!(call.args.dom, Some(domain(DOMAIN)));
    assert_eq!(call.args.event, None);
    assert_eq!(call.args.flags.0, 0);
    settle().await;
    assert!(!subscribing.is_finished());
    daemon.registered(&call, 16).await;
    drop(subscribing.await.unwrap().unwrap());
    daemon.deregister(16).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_comes_as_the_daemon_says_it() {
    // 0 is a callback id like any other, and so is a negative one.
    for id in [0, 16, i32::MAX, -1] {
        let (_monitor, mut daemon, mut events) = subscribed(id).await;
        let data = r#"{"actual": 9007199254740993, "x": 1.10}"#;
        daemon.event(id, "BALLOON_CHANGE", Some(data)).await;
        daemon.event(id, "FROM_THE_FUTURE", None).await;
        let event = next(&mut events).await;
        assert_eq!(event.name, "BALLOON_CHANGE");
        assert_eq!(event.data.as_ref().unwrap().get(), data);
        assert_eq!(event.timestamp.seconds, 1_700_000_000);
        assert_eq!(event.timestamp.microseconds, 250_000);
        let from = event.domain.as_ref().unwrap();
        assert_eq!((&*from.name, from.id), (DOMAIN, Some(7)));
        assert_eq!(from.uuid, domain(DOMAIN).uuid);
        let event = next(&mut events).await;
        assert_eq!(event.name, "FROM_THE_FUTURE");
        assert!(event.data.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_qemu_may_have_failed_and_the_domain_may_be_gone() {
    let (_monitor, mut daemon, mut events) = subscribed(0).await;
    let mut gone = domain(DOMAIN);
    gone.id = None;
    let body = libvirt_qmp::protocol::qemu::DomainMonitorEventMsg {
        callback_id: 0,
        dom: gone,
        event: "SHUTDOWN".into(),
        seconds: -1,
        micros: u32::MAX,
        details: None,
    };
    let mut packet = event(0, &domain(DOMAIN), "SHUTDOWN", None);
    packet.payload = encoded(&body);
    daemon.send(packet).await;
    let event = next(&mut events).await;
    assert_eq!(
        (event.timestamp.seconds, event.timestamp.microseconds),
        (-1, -1)
    );
    assert_eq!(event.domain.as_ref().unwrap().id, None);
}

#[tokio::test(start_paused = true)]
async fn events_before_the_reply_to_their_registration_are_delivered_in_order() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let subscribing = subscribe(&Arc::new(monitor));
    let call = daemon.registration().await;
    for name in ["A", "B", "C"] {
        daemon.event(4, name, None).await;
        // Of another id: not ours.
        daemon.event(5, "OTHER", None).await;
    }
    settle().await;
    daemon.registered(&call, 4).await;
    daemon.event(4, "D", None).await;
    let mut events = subscribing.await.unwrap().unwrap();
    for name in ["A", "B", "C", "D"] {
        assert_eq!(next(&mut events).await.name, name);
    }
    is_idle(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_in_the_same_bytes_as_the_reply_is_not_missed() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let subscribing = subscribe(&Arc::new(monitor));
    let call = daemon.registration().await;
    let reply = Packet {
        header: mock::reply_to(&call.header),
        payload: encoded(&4i32),
    };
    let mut bytes = bytes_of(reply).to_vec();
    for name in ["A", "B"] {
        bytes.extend_from_slice(&bytes_of(event(4, &domain(DOMAIN), name, None)));
    }
    daemon.raw(&bytes).await;
    let mut events = subscribing.await.unwrap().unwrap();
    assert_eq!(next(&mut events).await.name, "A");
    assert_eq!(next(&mut events).await.name, "B");
}

#[tokio::test(start_paused = true)]
async fn events_of_an_unknown_id_or_family_are_passed_over() {
    let (_monitor, mut daemon, mut events) = subscribed(3).await;
    daemon.event(4, "UNKNOWN_ID", None).await;
    // The same id, but of domain events: families number on their own.
    let mut other = event(3, &domain(DOMAIN), "OTHER_FAMILY", None);
    other.header.program = 0x2000_8086;
    other.header.procedure = 318;
    daemon.send(other).await;
    let mut other = event(3, &domain(DOMAIN), "OTHER_PROCEDURE", None);
    other.header.procedure = 99;
    daemon.send(other).await;
    let mut failed = event(3, &domain(DOMAIN), "NOT_OK", None);
    failed.header.status = MessageStatus::ERROR;
    daemon.send(failed).await;
    daemon.event(3, "OURS", None).await;
    assert_eq!(next(&mut events).await.name, "OURS");
    is_idle(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_does_not_decode_is_an_error_in_its_place() {
    let (_monitor, mut daemon, mut events) = subscribed(3).await;
    let header = event(3, &domain(DOMAIN), "X", None).header;
    for payload in [&b"\0\0\0\x03"[..], b"\0\0\0\x03\0\0\0\x02\xff\xfe\0\0"] {
        let payload = payload.to_vec().into();
        daemon.send(Packet { header, payload }).await;
    }
    daemon.event(3, "DATA", Some("{not json")).await;
    // Too short even for an id: nobody's.
    daemon
        .send(Packet {
            header,
            payload: b"\0\0".to_vec().into(),
        })
        .await;
    daemon.event(3, "GOOD", None).await;
    for _ in 0..3 {
        match item(&mut events).await.unwrap().unwrap_err() {
            Error::Decode { what, .. } => assert_eq!(what, "QEMU_PROC_DOMAIN_MONITOR_EVENT"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(next(&mut events).await.name, "GOOD");
}

#[tokio::test(start_paused = true)]
async fn subscribers_to_one_domain_share_one_registration() {
    let (libvirt, mut daemon) = session(quiet()).await;
    // Two monitors of one domain are one target for the daemon as well.
    let first = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let second = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let subscribing = [subscribe(&first), subscribe(&first), subscribe(&second)];
    daemon.register(9).await;
    let mut streams = Vec::new();
    for subscribing in subscribing {
        streams.push(subscribing.await.unwrap().unwrap());
    }
    streams.push(first.events().await.unwrap());
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.event(9, "STOP", None).await;
    for events in &mut streams {
        assert_eq!(next(events).await.name, "STOP");
    }
    while streams.len() > 1 {
        streams.remove(0);
        assert!(daemon.sent_by_now().await.is_empty());
        daemon.event(9, "RESUME", None).await;
        for events in &mut streams {
            assert_eq!(next(events).await.name, "RESUME");
        }
    }
    drop(streams);
    daemon.deregister(9).await;
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_domain_has_its_own_registration() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut streams = Vec::new();
    for id in 0..3 {
        let name = format!("vm-{id}");
        let monitor = monitor_on(&libvirt, &mut daemon, &name).await;
        let (events, ()) = tokio::join!(monitor.events(), daemon.register(id));
        streams.push(events.unwrap());
    }
    for id in [2, 0, 1] {
        let from = domain(&format!("vm-{id}"));
        daemon.send(event(id, &from, "STOP", None)).await;
    }
    for (id, events) in streams.iter_mut().enumerate() {
        let event = next(events).await;
        assert_eq!(*event.domain.unwrap().name, *format!("vm-{id}"));
        is_idle(events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_subscribes_during_a_deregistration_is_registered_anew() {
    let (monitor, mut daemon, events) = subscribed(1).await;
    drop(events);
    let call = daemon.expect::<ConnectDomainMonitorEventDeregister>().await;
    let subscribing = [subscribe(&monitor), subscribe(&monitor)];
    // The daemon would refuse a second registration before the first is gone.
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.event(1, "OLD", None).await;
    daemon
        .reply::<ConnectDomainMonitorEventDeregister>(&call, &())
        .await;
    daemon.register(2).await;
    daemon.event(1, "OLD", None).await;
    daemon.event(2, "NEW", None).await;
    let mut streams = Vec::new();
    for subscribing in subscribing {
        let mut events = subscribing.await.unwrap().unwrap();
        assert_eq!(next(&mut events).await.name, "NEW");
        streams.push(events);
    }
    assert!(daemon.sent_by_now().await.is_empty());
    drop(streams);
    daemon.deregister(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_that_fails_frees_the_domain_all_the_same() {
    let (monitor, mut daemon, events) = subscribed(1).await;
    drop(events);
    let call = daemon.expect::<ConnectDomainMonitorEventDeregister>().await;
    daemon.error(&call, 1, "callback id not found").await;
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(2));
    events.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_registration_is_everybodys_error_and_may_be_tried_again() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let subscribing = [subscribe(&monitor), subscribe(&monitor)];
    let call = daemon.registration().await;
    daemon.error_as(&call, &error(29, "read only access")).await;
    for subscribing in subscribing {
        let error = subscribing.await.unwrap().unwrap_err();
        assert_eq!(error.libvirt_code(), Some(29));
        assert!(error.is_denied());
    }
    assert!(daemon.sent_by_now().await.is_empty());
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    drop(events.unwrap());
    daemon.deregister(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_to_a_registration_that_does_not_decode_is_its_error() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let subscribing = subscribe(&Arc::new(monitor));
    let call = daemon.registration().await;
    daemon
        .reply_raw(&call.header, MessageStatus::OK, b"\0".to_vec().into())
        .await;
    match subscribing.await.unwrap().unwrap_err() {
        Error::Decode { source, .. } => {
            assert!(source.to_string().contains("callbackID"), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_waiting_for_the_registration_is_taken_back() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let subscribing = subscribe(&monitor);
    let call = daemon.registration().await;
    subscribing.abort();
    settle().await;
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.event(8, "STOP", None).await;
    daemon.registered(&call, 8).await;
    daemon.deregister(8).await;
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_one_gave_up_serves_the_next() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let given_up = subscribe(&monitor);
    let call = daemon.registration().await;
    given_up.abort();
    settle().await;
    let subscribing = subscribe(&monitor);
    settle().await;
    daemon.registered(&call, 8).await;
    daemon.event(8, "STOP", None).await;
    let mut events = subscribing.await.unwrap().unwrap();
    assert_eq!(next(&mut events).await.name, "STOP");
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_inside_the_event_loop_may_call_the_monitor() {
    let (monitor, mut daemon, mut events) = subscribed(1).await;
    let looping = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            let mut replies = 0;
            while let Some(Ok(event)) = item(&mut events).await {
                if event.name == "SHUTDOWN" {
                    break;
                }
                monitor.run(STATUS.as_bytes()).await.unwrap();
                replies += 1;
            }
            replies
        }
    });
    for _ in 0..3 {
        daemon.event(1, "STOP", None).await;
        let call = daemon.command().await;
        // QEMU says what the command did before it answers.
        daemon.event(1, "RESUME", None).await;
        daemon.answer(&call, r#"{"return":{}}"#).await;
        let call = daemon.command().await;
        daemon.answer(&call, r#"{"return":{}}"#).await;
    }
    daemon.event(1, "SHUTDOWN", None).await;
    assert_eq!(looping.await.unwrap(), 6);
    daemon.deregister(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_its_monitor() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = monitor_on(&libvirt, &mut daemon, DOMAIN).await;
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let mut events = events.unwrap();
    drop(monitor);
    daemon.event(1, "STOP", None).await;
    assert_eq!(next(&mut events).await.name, "STOP");
    drop(events);
    daemon.deregister(1).await;
    drop(libvirt);
    daemon.expect_eof().await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_stream_can_be_dropped_and_others_go_on() {
    let (monitor, mut daemon, mut events) = subscribed(1).await;
    let mut other = monitor.events().await.unwrap();
    is_idle(&mut events).await;
    drop(events);
    daemon.event(1, "STOP", None).await;
    assert_eq!(next(&mut other).await.name, "STOP");
    // Serial and status of an event mean nothing to calls: one under way is not disturbed.
    let running = run(&monitor, STATUS);
    let call = daemon.command().await;
    let header = Header {
        kind: MessageType::MESSAGE,
        ..call.header
    };
    let payload = encoded(&1i32);
    daemon.send(Packet { header, payload }).await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    running.await.unwrap().unwrap();
}
