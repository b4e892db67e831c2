//! Registrations: one for each kind and object, shared, and taken back.

use super::*;

#[tokio::test(start_paused = true)]
async fn events_of_domains_are_registered_by_kind_and_end_with_the_stream() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let ids = [DomainEventId::REBOOT, DomainEventId::LIFECYCLE];
    // Asked for twice, registered once.
    let filter = DomainEventFilter::all().only(ids.into_iter().chain(ids));
    let subscribing = subscribe(&libvirt, filter);
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId::REBOOT, None, 0).await;
    settle().await;
    assert!(!subscribing.is_finished());
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 7).await;
    let mut events = subscribing.await.unwrap().unwrap();
    daemon.send(changed(7, "a", 5, 1)).await;
    daemon.send(rebooted(0, "b")).await;
    // Nobody's: another id, and another kind's.
    daemon.send(changed(0, "x", 5, 1)).await;
    daemon.send(rebooted(7, "x")).await;
    daemon.send(changed(7, "c", 2, 0)).await;
    let event = next(&mut events).await;
    assert_eq!(change(&event), ("a", stopped(1)));
    assert_eq!(event.domain(), Some(&domain("a")));
    assert_eq!(
        next(&mut events).await,
        DomainEvent::Reboot {
            domain: domain("b")
        }
    );
    let booted = DomainLifecycle::Started(DomainEventStartedDetailType::BOOTED);
    assert_eq!(change(&next(&mut events).await), ("c", booted));
    is_idle(&mut events).await;
    drop(events);
    deregister(&mut daemon, 0).await;
    deregister(&mut daemon, 7).await;
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_events_are_those_that_the_daemon_knows() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(&libvirt, DomainEventFilter::all());
    daemon.feature(CALLBACK_IDS, true).await;
    // libvirt 9.0 knows those up to 26.
    for event in 0..=29 {
        let call = daemon.expect::<Register>().await;
        assert_eq!(call.args.event_id, DomainEventId(event));
        if event > 26 {
            daemon.error(&call, 1, "unsupported event ID").await;
        } else {
            let reply = wire::ConnectDomainEventCallbackRegisterAnyRet {
                callback_id: 100 + event,
            };
            daemon.reply::<Register>(&call, &reply).await;
        }
    }
    let mut events = subscribing.await.unwrap().unwrap();
    // What was refused is nothing to the stream.
    is_idle(&mut events).await;
    daemon.send(changed(100, "a", 5, 0)).await;
    assert_eq!(change(&next(&mut events).await).0, "a");
    drop(events);
    for event in 0..=26 {
        deregister(&mut daemon, 100 + event).await;
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_refused_takes_the_others_back() {
    let (libvirt, mut daemon) = session(quiet()).await;
    // One that every daemon knows, among all of them; and one that was asked for, whatever it is.
    for (filter, granted, code) in [
        (DomainEventFilter::all(), 3, 1),
        (DomainEventFilter::all(), 20, 29),
        (
            only([DomainEventId::LIFECYCLE, DomainEventId::NIC_MAC_CHANGE]),
            1,
            1,
        ),
    ] {
        let subscribing = subscribe(&libvirt, filter);
        daemon.feature(CALLBACK_IDS, true).await;
        for id in 0..granted {
            let call = daemon.expect::<Register>().await;
            let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: id };
            daemon.reply::<Register>(&call, &reply).await;
        }
        let call = daemon.expect::<Register>().await;
        daemon.error(&call, code, "no").await;
        let error = subscribing.await.unwrap().unwrap_err();
        assert_eq!(error.libvirt_code(), Some(code));
        for id in 0..granted {
            deregister(&mut daemon, id).await;
        }
        assert!(daemon.sent_by_now().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_of_nothing_is_refused() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let nothing = NetworkEventFilter::all().only([]);
    let error = libvirt.network_events(nothing).await.unwrap_err();
    assert!(error.is_unsupported(), "{error}");
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_domain_and_all_domains_are_registrations_of_their_own() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut all = lifecycle_stream(&libvirt, &mut daemon, 1).await;
    let mut streams = Vec::new();
    for (id, name) in [(2, "one"), (3, "two")] {
        let filter = DomainEventFilter::of(&domain(name)).only([DomainEventId::LIFECYCLE]);
        let subscribing = subscribe(&libvirt, filter);
        daemon.feature(CALLBACK_IDS, true).await;
        register(&mut daemon, DomainEventId::LIFECYCLE, Some(name), id).await;
        streams.push(subscribing.await.unwrap().unwrap());
    }
    // The daemon sends an event once for each registration that it is of.
    for id in [1, 3] {
        daemon.send(changed(id, "two", 5, 0)).await;
    }
    assert_eq!(change(&next(&mut all).await), ("two", stopped(0)));
    assert_eq!(change(&next(&mut streams[1]).await), ("two", stopped(0)));
    is_idle(&mut all).await;
    is_idle(&mut streams[0]).await;
    drop(all);
    deregister(&mut daemon, 1).await;
    streams.reverse();
    drop(streams);
    deregister(&mut daemon, 3).await;
    deregister(&mut daemon, 2).await;
}

#[tokio::test(start_paused = true)]
async fn streams_share_a_registration_and_the_last_takes_it_back() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let ids = [DomainEventId::LIFECYCLE, DomainEventId::REBOOT];
    let both = subscribe(&libvirt, only(ids));
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 1).await;
    register(&mut daemon, DomainEventId::REBOOT, None, 2).await;
    let mut both = both.await.unwrap().unwrap();
    let one = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, true).await;
    let mut one = one.await.unwrap().unwrap();
    daemon.send(changed(1, "a", 5, 0)).await;
    daemon.send(rebooted(2, "a")).await;
    assert_eq!(change(&next(&mut both).await), ("a", stopped(0)));
    assert!(matches!(next(&mut both).await, DomainEvent::Reboot { .. }));
    assert_eq!(change(&next(&mut one).await), ("a", stopped(0)));
    is_idle(&mut one).await;
    drop(both);
    deregister(&mut daemon, 2).await;
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.send(changed(1, "b", 5, 0)).await;
    assert_eq!(change(&next(&mut one).await), ("b", stopped(0)));
    drop(one);
    deregister(&mut daemon, 1).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_waiting_takes_back_what_was_registered() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let ids = [
        DomainEventId::LIFECYCLE,
        DomainEventId::REBOOT,
        DomainEventId::TUNABLE,
    ];
    let subscribing = subscribe(&libvirt, only(ids));
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 1).await;
    let call = daemon.expect::<Register>().await;
    subscribing.abort();
    deregister(&mut daemon, 1).await;
    // The daemon may have registered this one: it is taken back once its id is known.
    assert!(daemon.sent_by_now().await.is_empty());
    let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: 2 };
    daemon.reply::<Register>(&call, &reply).await;
    deregister(&mut daemon, 2).await;
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn whoever_subscribes_during_a_deregistration_is_registered_anew() {
    let (libvirt, mut daemon) = session(quiet()).await;
    drop(lifecycle_stream(&libvirt, &mut daemon, 1).await);
    let call = daemon.expect::<Deregister>().await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, true).await;
    assert!(daemon.sent_by_now().await.is_empty());
    daemon.send(changed(1, "old", 5, 0)).await;
    daemon.reply::<Deregister>(&call, &()).await;
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 2).await;
    daemon.send(changed(1, "old", 5, 0)).await;
    daemon.send(changed(2, "new", 5, 0)).await;
    let mut events = subscribing.await.unwrap().unwrap();
    assert_eq!(change(&next(&mut events).await).0, "new");
}

#[tokio::test(start_paused = true)]
async fn a_stream_keeps_the_session_open() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 1).await;
    drop(libvirt);
    daemon.send(changed(1, "a", 5, 0)).await;
    assert_eq!(change(&next(&mut events).await).0, "a");
    // The last handle: the end of the connection takes everything back.
    drop(events);
    daemon.expect_cut().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_answer_a_registration_is_not_waited_for() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, true).await;
    let call = daemon.expect::<Register>().await;
    let error = subscribing.await.unwrap().unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    // It is taken back once the daemon says that it is there.
    let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: 1 };
    daemon.reply::<Register>(&call, &reply).await;
    deregister(&mut daemon, 1).await;
}
