//! Registered again on the connection that takes the place of a lost one, with one gap.

use super::*;

/// Answers registrations, in whatever order they come: each kind under the id that `id` gives.
async fn register_again<const N: usize>(
    daemon: &mut MockDaemon,
    id: impl Fn(DomainEventId) -> i32,
) -> [DomainEventId; N] {
    let mut seen = [DomainEventId::LIFECYCLE; N];
    for seen in &mut seen {
        let call = daemon.expect::<Register>().await;
        *seen = call.args.event_id;
        let callback_id = id(*seen);
        let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id };
        daemon.reply::<Register>(&call, &reply).await;
    }
    seen.sort_by_key(|id| id.0);
    seen
}

/// Takes the one gap that must come next, and the event after it.
async fn after_gap(events: &mut DomainEvents) -> DomainEvent {
    let gap = item(events).await.unwrap().unwrap_err();
    assert!(matches!(gap, Error::Gap { .. }), "{gap:?}");
    next(events).await
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_all_kinds_has_one_gap_for_each_loss() {
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let mut events = register_all(&libvirt, &mut daemon, |event| event).await;
    for _ in 0..3 {
        drop(daemon);
        daemon = host.reopened().await;
        // Two kinds bring events while others still wait to be registered, in whatever order that happens.
        let mut sent = Vec::new();
        for _ in 0..30 {
            let [event] = register_again(&mut daemon, |id| id.0).await;
            match event {
                DomainEventId::LIFECYCLE => daemon.send(changed(event.0, "early", 5, 0)).await,
                DomainEventId::REBOOT => daemon.send(rebooted(event.0, "early")).await,
                _ => continue,
            }
            sent.push(event);
        }
        let mut came = Vec::new();
        for event in [after_gap(&mut events).await, next(&mut events).await] {
            came.push(match event {
                DomainEvent::Lifecycle { .. } => DomainEventId::LIFECYCLE,
                DomainEvent::Reboot { .. } => DomainEventId::REBOOT,
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(came, sent);
        is_idle(&mut events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_several_kinds_is_registered_again_after_a_loss() {
    let ids = [DomainEventId::LIFECYCLE, DomainEventId::REBOOT];
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let subscribing = subscribe(&libvirt, only(ids));
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, ids[0], None, 1).await;
    register(&mut daemon, ids[1], None, 2).await;
    let mut events = subscribing.await.unwrap().unwrap();
    daemon.send(changed(1, "before", 5, 0)).await;
    drop(daemon);
    let mut daemon = host.reopened().await;
    // The ids of the new connection are those of the old one, the other way round.
    assert_eq!(register_again(&mut daemon, |id| 2 - id.0).await, ids);
    daemon.send(changed(2, "after", 5, 0)).await;
    daemon.send(rebooted(1, "after")).await;
    assert_eq!(change(&next(&mut events).await).0, "before");
    assert_eq!(change(&after_gap(&mut events).await).0, "after");
    let event = next(&mut events).await;
    assert!(matches!(event, DomainEvent::Reboot { .. }), "{event:?}");
    is_idle(&mut events).await;
    drop(events);
    for _ in ids {
        let call = daemon.expect::<Deregister>().await;
        daemon.reply::<Deregister>(&call, &()).await;
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_old_daemon_is_asked_again_in_the_old_way_after_a_loss() {
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, false).await;
    let call = daemon.expect::<RegisterPlain>().await;
    daemon.reply::<RegisterPlain>(&call, &()).await;
    let mut events = subscribing.await.unwrap().unwrap();
    drop(daemon);
    let mut daemon = host.reopened().await;
    let call = daemon.expect::<RegisterPlain>().await;
    let event = message::<DomainEventLifecycle>(&lifecycle("early", 5, 0));
    daemon.send(event).await;
    daemon.reply::<RegisterPlain>(&call, &()).await;
    assert_eq!(change(&after_gap(&mut events).await).0, "early");
    is_idle(&mut events).await;
}

/// It sends events from the moment of the registration: what comes after them may be missing too.
#[tokio::test(start_paused = true)]
async fn an_old_daemon_that_is_lost_before_it_answers_has_its_own_gap() {
    let (libvirt, mut host, mut daemon) = session_with(lasting()).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, false).await;
    let call = daemon.expect::<RegisterPlain>().await;
    daemon.reply::<RegisterPlain>(&call, &()).await;
    let mut events = subscribing.await.unwrap().unwrap();
    for name in ["first", "second"] {
        drop(daemon);
        daemon = host.reopened().await;
        daemon.expect::<RegisterPlain>().await;
        let event = message::<DomainEventLifecycle>(&lifecycle(name, 5, 0));
        daemon.send(event).await;
        assert_eq!(change(&after_gap(&mut events).await).0, name);
        is_idle(&mut events).await;
    }
}
