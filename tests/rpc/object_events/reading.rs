//! What a stream gives: order, values that are new or wrong, what was lost, its end.

use super::*;

#[tokio::test(start_paused = true)]
async fn events_keep_their_order_whichever_registration_waits_for_its_reply() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(
        &libvirt,
        only([DomainEventId::LIFECYCLE, DomainEventId::REBOOT]),
    );
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId::LIFECYCLE, None, 1).await;
    let call = daemon.expect::<Register>().await;
    // The second registration is alive before its reply.
    daemon.send(changed(1, "a", 2, 0)).await;
    daemon.send(rebooted(2, "b")).await;
    daemon.send(changed(1, "c", 5, 0)).await;
    daemon.send(rebooted(2, "d")).await;
    daemon.send(rebooted(3, "not ours")).await;
    let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: 2 };
    daemon.reply::<Register>(&call, &reply).await;
    daemon.send(changed(1, "e", 2, 0)).await;
    let mut events = subscribing.await.unwrap().unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        let event = next(&mut events).await;
        assert_eq!(event.domain().unwrap().name, name);
    }
    is_idle(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_in_the_same_bytes_as_the_reply_is_not_missed() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, true).await;
    let call = daemon.expect::<Register>().await;
    let mut bytes = bytes_of(changed(4, "a", 2, 0)).to_vec();
    bytes.extend(bytes_of(Packet {
        header: mock::reply_to(&call.header),
        payload: encoded(&4i32),
    }));
    bytes.extend(bytes_of(changed(4, "b", 2, 0)));
    daemon.raw(&bytes).await;
    let mut events = subscribing.await.unwrap().unwrap();
    assert_eq!(change(&next(&mut events).await).0, "a");
    assert_eq!(change(&next(&mut events).await).0, "b");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_does_not_decode_is_an_error_in_its_place() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    let whole = changed(3, "a", 2, 0);
    for cut in [4, 7, 12, whole.payload.len() - 1] {
        let payload = whole.payload.slice(..cut);
        daemon
            .send(message_of(DomainEventCallbackLifecycle::NUMBER, payload))
            .await;
    }
    // Too short even for an id: nobody's.
    daemon
        .send(message_of(
            DomainEventCallbackLifecycle::NUMBER,
            Bytes::from_static(b"\0\0"),
        ))
        .await;
    daemon.send(whole).await;
    for _ in 0..4 {
        match item(&mut events).await.unwrap().unwrap_err() {
            Error::Decode { what, .. } => {
                assert_eq!(what, "REMOTE_PROC_DOMAIN_EVENT_CALLBACK_LIFECYCLE");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(change(&next(&mut events).await).0, "a");
    is_idle(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn numbers_that_libvirt_adds_are_kept() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    daemon.send(changed(3, "a", 5, 99)).await;
    daemon.send(changed(3, "a", 42, -7)).await;
    assert_eq!(change(&next(&mut events).await).1, stopped(99));
    let other = DomainLifecycle::Other {
        event: 42,
        detail: -7,
    };
    assert_eq!(change(&next(&mut events).await).1, other);
}

#[tokio::test(start_paused = true)]
async fn a_slow_stream_says_how_many_it_lost_and_others_lose_nothing() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut whole = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    let filters = [
        only([DomainEventId::LIFECYCLE]).queue(2),
        only([DomainEventId::LIFECYCLE])
            .queue(2)
            .overflow(Overflow::End),
    ];
    let mut slow = Vec::new();
    for filter in filters {
        let subscribing = subscribe(&libvirt, filter);
        daemon.feature(CALLBACK_IDS, true).await;
        slow.push(subscribing.await.unwrap().unwrap());
    }
    for detail in 0..5 {
        daemon.send(changed(3, "a", 5, detail)).await;
    }
    for detail in 0..5 {
        assert_eq!(change(&next(&mut whole).await).1, stopped(detail));
    }
    let lost = |item: Option<Result<DomainEvent, Error>>| match item {
        Some(Err(Error::EventsLost(number))) => number,
        other => panic!("{other:?}"),
    };
    assert_eq!(lost(item(&mut slow[0]).await), 3);
    assert_eq!(change(&next(&mut slow[0]).await).1, stopped(3));
    assert_eq!(change(&next(&mut slow[0]).await).1, stopped(4));
    is_idle(&mut slow[0]).await;
    assert_eq!(change(&next(&mut slow[1]).await).1, stopped(0));
    assert_eq!(change(&next(&mut slow[1]).await).1, stopped(1));
    assert_eq!(lost(item(&mut slow[1]).await), 1);
    assert!(item(&mut slow[1]).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_is_the_last_item() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    daemon.send(changed(3, "a", 5, 0)).await;
    drop(daemon);
    assert_eq!(change(&next(&mut events).await).0, "a");
    let error = item(&mut events).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error:?}");
    assert!(item(&mut events).await.is_none());
    drop(libvirt);

    let (libvirt, mut daemon) = session(quiet()).await;
    let mut events = lifecycle_stream(&libvirt, &mut daemon, 3).await;
    let (_, ()) = tokio::join!(libvirt.close(), daemon.close());
    assert!(item(&mut events).await.is_none());
}

/// What every stream may be used for: any task, any thread.
#[test]
fn streams_may_be_sent() {
    fn sent<T: Send + Sync + Unpin + Debug>() {}
    sent::<DomainEvents>();
    sent::<NetworkEvents>();
    sent::<StoragePoolEvents>();
    sent::<NodeDeviceEvents>();
    sent::<SecretEvents>();
    sent::<DomainEventFilter>();
}
