//! Registrations of events after a loss, and the gaps in the streams.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_live_is_registered_again_before_it_is_said_to_be_connected() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 16).await;
    daemon.event(16, "A", None).await;
    assert_eq!(event(&mut events).await.name, "A");
    let mut state = libvirt.state();
    assert!(is_connected(&state.borrow_and_update()));
    drop(daemon);
    let ConnectionState::Reconnecting { cause, failed: 0 } = until(&mut state, is_lost).await
    else {
        panic!("{state:?}");
    };
    assert!(matches!(*cause, EndCause::PeerClosed));

    let mut daemon = host.reopened().await;
    let call = daemon.registration().await;
    assert_eq!(call.args.dom, Some(domain(DOMAIN)));
    assert_eq!((call.args.event.as_ref(), call.args.flags.0), (None, 0));
    settle().await;
    assert!(is_lost(&state.borrow()));
    assert!(matches!(*gap(&mut events).await, EndCause::PeerClosed));
    is_idle(&mut events).await;
    // Another id, as a daemon gives it.
    daemon.registered(&call, 5).await;
    until(&mut state, is_connected).await;
    daemon.event(16, "OLD", None).await;
    daemon.event(5, "B", None).await;
    assert_eq!(event(&mut events).await.name, "B");
    is_idle(&mut events).await;

    // The domain is not looked up again.
    let running = run(&monitor, STATUS);
    let call = daemon.command().await;
    assert_eq!(call.args.dom, domain(DOMAIN));
    daemon.answer(&call, RUNNING).await;
    answered(running).await;
    drop(events);
    daemon.deregister(5).await;
}

#[tokio::test(start_paused = true)]
async fn events_of_the_new_connection_come_after_the_gap() {
    let (monitor, _libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 16).await;
    daemon.event(16, "A", None).await;
    drop(daemon);
    let mut daemon = host.reopened().await;
    let call = daemon.registration().await;
    // The new id is that of the old one by chance, and its events are here before the reply.
    daemon.event(16, "B", None).await;
    daemon.event(17, "C", None).await;
    daemon.registered(&call, 16).await;
    daemon.event(16, "D", None).await;
    assert_eq!(event(&mut events).await.name, "A");
    gap(&mut events).await;
    assert_eq!(event(&mut events).await.name, "B");
    assert_eq!(event(&mut events).await.name, "D");
    is_idle(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn every_loss_has_its_gap_in_every_stream() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let other = monitor_on(&libvirt, &mut daemon, "vm-2").await;
    let mut streams = [
        subscribe_as(&monitor, &mut daemon, 1).await,
        // Shares the registration.
        monitor.events().await.unwrap(),
    ];
    let mut of_other = subscribe_as(&other, &mut daemon, 2).await;
    for round in 0..10 {
        drop(daemon);
        daemon = host.reopened().await;
        let mut ids = Vec::new();
        for id in [100 + round, 200 + round] {
            let call = daemon.registration().await;
            let dom = call.args.dom.clone().unwrap();
            daemon.registered(&call, id).await;
            ids.push((dom, id));
        }
        until(&mut libvirt.state(), is_connected).await;
        for (dom, id) in &ids {
            daemon.send(mock::event(*id, dom, "E", None)).await;
        }
        for events in streams.iter_mut().chain([&mut of_other]) {
            gap(events).await;
            event(events).await;
            is_idle(events).await;
        }
    }
    assert_eq!(host.tries(), 11);
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_by_all_is_told_to_a_reader_that_comes_late() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut events = subscribe_as(&monitor, &mut daemon, 1).await;
    for _ in 0..3 {
        drop(daemon);
        daemon = host.reopened().await;
        daemon.register(1).await;
        until(&mut libvirt.state(), is_connected).await;
    }
    daemon.event(1, "A", None).await;
    // Nothing was between them, so they are one.
    gap(&mut events).await;
    assert_eq!(event(&mut events).await.name, "A");
}

#[tokio::test(start_paused = true)]
async fn registrations_go_by_what_the_daemon_takes_beside_each_other() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let all = subscribe_as(&monitor, &mut daemon, 1).await;
    let (stop, ()) = tokio::join!(
        monitor.events_with(libvirt_qmp::EventOptions::new("STOP")),
        daemon.register(2)
    );
    drop(daemon);
    let mut daemon = host.reopened().await;
    let mut asked = Vec::new();
    for id in [7, 8] {
        let call = daemon.registration().await;
        daemon.registered(&call, id).await;
        asked.push((call.args.event, call.args.flags.0));
    }
    asked.sort();
    // A registration without a filter would be refused beside another one.
    let expected = [(Some(".*".to_owned()), 1), (Some("STOP".to_owned()), 0)];
    assert_eq!(asked, expected);
    until(&mut libvirt.state(), is_connected).await;
    drop((all, stop));
}

#[tokio::test(start_paused = true)]
async fn no_more_is_registered_at_once_than_the_daemon_reads() {
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let mut streams = Vec::new();
    for number in 0..9 {
        let monitor = monitor_on(&libvirt, &mut daemon, &format!("vm-{number}")).await;
        streams.push(subscribe_as(&monitor, &mut daemon, number).await);
    }
    drop(daemon);
    let mut daemon = host.reopened().await;
    let mut left = 9;
    while left > 0 {
        let calls = daemon.sent_by_now().await;
        assert!(calls.len() <= 4, "{}", calls.len());
        for packet in calls {
            let call = mock::call::<ConnectDomainMonitorEventRegister>(&packet);
            daemon.registered(&call, left).await;
            left -= 1;
        }
    }
    until(&mut libvirt.state(), is_connected).await;
    for events in &mut streams {
        gap(events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn registering_meanwhile_waits_and_has_no_gap() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut before = subscribe_as(&monitor, &mut daemon, 1).await;
    drop(daemon);
    lost(&libvirt).await;
    // One joins what is registered again, one is new, and one is given up.
    let joining = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.events().await }
    });
    let new = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            monitor
                .events_with(libvirt_qmp::EventOptions::new("STOP"))
                .await
        }
    });
    let given_up = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            monitor
                .events_with(libvirt_qmp::EventOptions::new("RESUME"))
                .await
        }
    });
    settle().await;
    given_up.abort();
    let mut daemon = host.reopened().await;
    for id in [3, 4] {
        let call = daemon.registration().await;
        assert_ne!(call.args.event.as_deref(), Some("RESUME"));
        let id = if call.args.event.as_deref() == Some("STOP") {
            4
        } else {
            id.min(3)
        };
        daemon.registered(&call, id).await;
    }
    let (mut joined, mut new) = (joining.await.unwrap().unwrap(), new.await.unwrap().unwrap());
    daemon.event(3, "A", None).await;
    daemon.event(4, "STOP", None).await;
    gap(&mut before).await;
    assert_eq!(event(&mut before).await.name, "A");
    assert_eq!(event(&mut joined).await.name, "A");
    assert_eq!(event(&mut new).await.name, "STOP");
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_dropped_meanwhile_is_not_registered_again() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let dropped = subscribe_as(&monitor, &mut daemon, 1).await;
    let (mut kept, ()) = tokio::join!(
        async {
            monitor
                .events_with(libvirt_qmp::EventOptions::new("STOP"))
                .await
                .unwrap()
        },
        daemon.register(2)
    );
    drop(daemon);
    lost(&libvirt).await;
    drop(dropped);
    let mut daemon = host.reopened().await;
    let call = daemon.registration().await;
    assert_eq!(call.args.event.as_deref(), Some("STOP"));
    daemon.registered(&call, 2).await;
    gap(&mut kept).await;
    until(&mut libvirt.state(), is_connected).await;
    assert!(daemon.sent_by_now().await.is_empty());
    // One that was being deregistered at the loss can be registered anew.
    drop(kept);
    daemon.sent_by_now().await;
    drop(daemon);
    let again = tokio::spawn(async move {
        monitor
            .events_with(libvirt_qmp::EventOptions::new("STOP"))
            .await
    });
    let mut daemon = host.reopened().await;
    daemon.register(9).await;
    let mut again = again.await.unwrap().unwrap();
    daemon.event(9, "STOP", None).await;
    assert_eq!(event(&mut again).await.name, "STOP");
}

#[tokio::test(start_paused = true)]
async fn a_refused_registration_ends_its_streams_and_no_others() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let mut refused = subscribe_as(&monitor, &mut daemon, 1).await;
    let (stop, ()) = tokio::join!(
        monitor.events_with(libvirt_qmp::EventOptions::new("STOP")),
        daemon.register(2)
    );
    let mut kept = stop.unwrap();
    drop(daemon);
    let mut daemon = host.reopened().await;
    for _ in 0..2 {
        let call = daemon.registration().await;
        match call.args.event.as_deref() {
            Some("STOP") => daemon.registered(&call, 2).await,
            _ => daemon.error(&call, 88, "access denied").await,
        }
    }
    until(&mut libvirt.state(), is_connected).await;
    gap(&mut refused).await;
    let error = item(&mut refused).await.unwrap().unwrap_err();
    assert!(
        error.is_denied() && !error.leaves_stream_open(),
        "{error:?}"
    );
    assert!(item(&mut refused).await.is_none());
    gap(&mut kept).await;
    daemon.event(2, "STOP", None).await;
    assert_eq!(event(&mut kept).await.name, "STOP");
    // It can be tried again by hand.
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(3));
    let mut events = events.unwrap();
    daemon.event(3, "A", None).await;
    assert_eq!(event(&mut events).await.name, "A");
}

#[tokio::test(start_paused = true)]
async fn a_loss_while_registering_is_waited_out() {
    let (monitor, _libvirt, mut host, mut daemon) = lasting_monitor().await;
    let subscribing = tokio::spawn(async move { monitor.events().await });
    daemon.registration().await;
    drop(daemon);
    let mut daemon = host.reopened().await;
    daemon.register(4).await;
    let mut events = subscribing.await.unwrap().unwrap();
    daemon.event(4, "A", None).await;
    // There was nothing to miss before it was registered.
    assert_eq!(event(&mut events).await.name, "A");
}

#[tokio::test(start_paused = true)]
async fn a_loss_in_the_middle_of_registering_again_begins_anew() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let other = monitor_on(&libvirt, &mut daemon, "vm-2").await;
    let mut first = subscribe_as(&monitor, &mut daemon, 1).await;
    let mut second = subscribe_as(&other, &mut daemon, 2).await;
    let mut state = libvirt.state();
    drop(daemon);
    // One is answered, the other is not.
    let mut daemon = host.reopened().await;
    let answered = daemon.registration().await;
    daemon.registered(&answered, 9).await;
    daemon.registration().await;
    daemon
        .send(mock::event(
            9,
            &answered.args.dom.clone().unwrap(),
            "BETWEEN",
            None,
        ))
        .await;
    settle().await;
    assert!(is_lost(&state.borrow_and_update()));
    drop(daemon);
    let mut daemon = host.reopened().await;
    for id in [3, 4] {
        let call = daemon.registration().await;
        let dom = call.args.dom.clone().unwrap();
        daemon.registered(&call, id).await;
        // Of the connection before.
        daemon.send(mock::event(9, &dom, "STALE", None)).await;
        daemon.send(mock::event(id, &dom, "A", None)).await;
    }
    let (twice, once) = match answered.args.dom == Some(domain(DOMAIN)) {
        true => (&mut first, &mut second),
        false => (&mut second, &mut first),
    };
    gap(twice).await;
    assert_eq!(event(twice).await.name, "BETWEEN");
    for events in [twice, once] {
        gap(events).await;
        assert_eq!(event(events).await.name, "A");
        is_idle(events).await;
    }
    until(&mut state, is_connected).await;
}
