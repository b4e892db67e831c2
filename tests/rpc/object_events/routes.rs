//! What tells whose an event is: ids that are the same, daemons without ids, kinds that are unknown.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_same_id_in_every_family_is_five_registrations() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut domains = lifecycle_stream(&libvirt, &mut daemon, 16).await;

    macro_rules! stream {
        ($method:ident, $filter:ident, $id:expr, $register:ident, $ret:ident, $object:ident) => {{
            let filter = $filter::all().only([$id]);
            let grant = async {
                let call = daemon.expect::<$register>().await;
                assert_eq!(call.args.event_id, $id);
                assert!(call.args.$object.is_none());
                let reply = wire::$ret { callback_id: 16 };
                daemon.reply::<$register>(&call, &reply).await;
            };
            tokio::join!(libvirt.$method(filter), grant).0.unwrap()
        }};
    }
    let mut networks = stream!(
        network_events,
        NetworkEventFilter,
        NetworkEventId::LIFECYCLE,
        ConnectNetworkEventRegisterAny,
        ConnectNetworkEventRegisterAnyRet,
        net
    );
    let mut pools = stream!(
        storage_pool_events,
        StoragePoolEventFilter,
        StoragePoolEventId::REFRESH,
        ConnectStoragePoolEventRegisterAny,
        ConnectStoragePoolEventRegisterAnyRet,
        pool
    );
    let mut devices = stream!(
        node_device_events,
        NodeDeviceEventFilter,
        NodeDeviceEventId::UPDATE,
        ConnectNodeDeviceEventRegisterAny,
        ConnectNodeDeviceEventRegisterAnyRet,
        dev
    );
    let mut secrets = stream!(
        secret_events,
        SecretEventFilter,
        SecretEventId::VALUE_CHANGED,
        ConnectSecretEventRegisterAny,
        ConnectSecretEventRegisterAnyRet,
        secret
    );
    // Monitor events number with those of domains, but are another program.
    let monitor = monitor_on(&libvirt, &mut daemon, "vm-1").await;
    let (monitor_events, ()) =
        tokio::join!(libvirt_qmp::Monitor::events(&monitor), daemon.register(16));
    let mut monitor_events = monitor_events.unwrap();

    daemon.event(16, "STOP", None).await;
    daemon.send(changed(16, "a", 5, 0)).await;
    let net = Network {
        name: "default".into(),
        uuid: Uuid::from_bytes([1; 16]),
    };
    daemon
        .send(message::<NetworkEventLifecycle>(
            &wire::NetworkEventLifecycleMsg {
                callback_id: 16,
                net,
                event: NetworkEventLifecycleType::STARTED,
                detail: 0,
            },
        ))
        .await;
    let pool = StoragePool {
        name: "images".into(),
        uuid: Uuid::from_bytes([2; 16]),
    };
    daemon
        .send(message::<StoragePoolEventRefresh>(
            &wire::StoragePoolEventRefreshMsg {
                callback_id: 16,
                pool,
            },
        ))
        .await;
    let dev = NodeDevice {
        name: "pci_0000_00_02_0".into(),
    };
    daemon
        .send(message::<NodeDeviceEventUpdate>(
            &wire::NodeDeviceEventUpdateMsg {
                callback_id: 16,
                dev,
            },
        ))
        .await;
    let secret = Secret {
        uuid: Uuid::from_bytes([3; 16]),
        usage_type: SecretUsageType::CEPH,
        usage_id: "ceph".into(),
    };
    daemon
        .send(message::<SecretEventValueChanged>(
            &wire::SecretEventValueChangedMsg {
                callback_id: 16,
                secret,
            },
        ))
        .await;

    assert_eq!(
        item(&mut monitor_events).await.unwrap().unwrap().name,
        "STOP"
    );
    assert_eq!(change(&next(&mut domains).await), ("a", stopped(0)));
    match next(&mut networks).await {
        NetworkEvent::Lifecycle { network, event, .. } => {
            assert_eq!(network.name, "default");
            assert_eq!(network.uuid.into_bytes(), [1; 16]);
            assert_eq!(event, NetworkEventLifecycleType::STARTED);
        }
        other => panic!("{other:?}"),
    }
    match next(&mut pools).await {
        StoragePoolEvent::Refresh { pool } => assert_eq!(pool.name, "images"),
        other => panic!("{other:?}"),
    }
    match next(&mut devices).await {
        NodeDeviceEvent::Update { device } => assert_eq!(device.name, "pci_0000_00_02_0"),
        other => panic!("{other:?}"),
    }
    match next(&mut secrets).await {
        SecretEvent::ValueChanged { secret } => {
            assert_eq!(secret.usage_type, SecretUsageType::CEPH);
            assert_eq!(secret.usage_id, "ceph");
        }
        other => panic!("{other:?}"),
    }
    is_idle(&mut domains).await;
    is_idle(&mut networks).await;
    is_idle(&mut pools).await;
    is_idle(&mut devices).await;
    is_idle(&mut secrets).await;

    drop(networks);
    let call = daemon.expect::<ConnectNetworkEventDeregisterAny>().await;
    assert_eq!(call.args.callback_id, 16);
    daemon
        .reply::<ConnectNetworkEventDeregisterAny>(&call, &())
        .await;
    drop(pools);
    let call = daemon
        .expect::<ConnectStoragePoolEventDeregisterAny>()
        .await;
    assert_eq!(call.args.callback_id, 16);
    drop(devices);
    let call = daemon.expect::<ConnectNodeDeviceEventDeregisterAny>().await;
    assert_eq!(call.args.callback_id, 16);
    drop(secrets);
    let call = daemon.expect::<ConnectSecretEventDeregisterAny>().await;
    assert_eq!(call.args.callback_id, 16);
    // The others go on.
    daemon.send(changed(16, "b", 5, 0)).await;
    assert_eq!(change(&next(&mut domains).await).0, "b");
}

#[tokio::test(start_paused = true)]
async fn an_old_daemon_is_asked_in_the_old_way() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let subscribing = subscribe(
        &libvirt,
        only([DomainEventId::LIFECYCLE, DomainEventId::PMWAKEUP]),
    );
    daemon.feature(CALLBACK_IDS, false).await;
    for event in [0, 11] {
        let call = daemon.expect::<RegisterPlain>().await;
        assert_eq!(call.args.event_id, DomainEventId(event));
        // There is no telling an event of the registration from its reply: it may be first.
        daemon
            .send(message::<DomainEventPmwakeup>(
                &wire::DomainEventPmwakeupMsg { dom: domain("w") },
            ))
            .await;
        daemon.reply::<RegisterPlain>(&call, &()).await;
    }
    let mut events = subscribing.await.unwrap().unwrap();
    daemon
        .send(message::<DomainEventLifecycle>(&lifecycle("a", 5, 1)))
        .await;
    let wakeup = DomainEvent::PmWakeup {
        domain: domain("w"),
        reason: 0,
    };
    assert_eq!(next(&mut events).await, wakeup);
    assert_eq!(change(&next(&mut events).await), ("a", stopped(1)));
    is_idle(&mut events).await;
    // Shared as elsewhere.
    let second = subscribe(&libvirt, only([DomainEventId::LIFECYCLE]));
    daemon.feature(CALLBACK_IDS, false).await;
    let second = second.await.unwrap().unwrap();
    drop(events);
    let call = daemon.expect::<DeregisterPlain>().await;
    assert_eq!(call.args.event_id, DomainEventId::PMWAKEUP);
    daemon.reply::<DeregisterPlain>(&call, &()).await;
    drop(second);
    let call = daemon.expect::<DeregisterPlain>().await;
    assert_eq!(call.args.event_id, DomainEventId::LIFECYCLE);
    daemon.reply::<DeregisterPlain>(&call, &()).await;
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_events_of_an_old_daemon_are_the_sixteen_that_it_can_have() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let _events = register_all_plain(&libvirt, &mut daemon).await;
    for id in [DomainEventId::TUNABLE, DomainEventId(77)] {
        let subscribing = subscribe(&libvirt, only([id]));
        daemon.feature(CALLBACK_IDS, false).await;
        let error = subscribing.await.unwrap().unwrap_err();
        assert!(error.is_unsupported(), "{error}");
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_domain_of_an_old_daemon_is_picked_out_here() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut streams = Vec::new();
    for (place, name) in ["one", "two"].into_iter().enumerate() {
        let filter = DomainEventFilter::of(&domain(name)).only([DomainEventId::LIFECYCLE]);
        let subscribing = subscribe(&libvirt, filter);
        daemon.feature(CALLBACK_IDS, false).await;
        // For the daemon both are all domains.
        if place == 0 {
            let call = daemon.expect::<RegisterPlain>().await;
            daemon.reply::<RegisterPlain>(&call, &()).await;
        }
        streams.push(subscribing.await.unwrap().unwrap());
    }
    for name in ["two", "one", "three"] {
        daemon
            .send(message::<DomainEventLifecycle>(&lifecycle(name, 5, 0)))
            .await;
    }
    let cut = encoded(&lifecycle("one", 5, 0)).slice(..6);
    daemon
        .send(message_of(DomainEventLifecycle::NUMBER, cut))
        .await;
    for (events, name) in streams.iter_mut().zip(["one", "two"]) {
        assert_eq!(change(&next(events).await).0, name);
        let error = item(events).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{error:?}");
        is_idle(events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_of_an_unknown_kind_comes_as_it_is() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut known = lifecycle_stream(&libvirt, &mut daemon, 5).await;
    let subscribing = subscribe(&libvirt, only([DomainEventId(77)]));
    daemon.feature(CALLBACK_IDS, true).await;
    let call = daemon.expect::<Register>().await;
    assert_eq!(call.args.event_id, DomainEventId(77));
    let body = |id: i32, text: &str| {
        let mut bytes = encoded(&id).to_vec();
        bytes.extend_from_slice(text.as_bytes());
        Bytes::from(bytes)
    };
    // It may be there before the reply, as any other.
    daemon.send(message_of(9001, body(6, "early"))).await;
    let reply = wire::ConnectDomainEventCallbackRegisterAnyRet { callback_id: 6 };
    daemon.reply::<Register>(&call, &reply).await;
    let mut events = subscribing.await.unwrap().unwrap();
    daemon.send(message_of(9001, body(6, "late"))).await;
    // Not of this registration: another id, a known message, another program.
    daemon.send(message_of(9001, body(5, "other"))).await;
    daemon.send(rebooted(6, "x")).await;
    let mut other = message_of(9001, body(6, "other"));
    other.header.program = 0x2000_8087;
    daemon.send(other).await;
    for text in ["early", "late"] {
        match next(&mut events).await {
            DomainEvent::Other(event) => {
                assert_eq!((event.program, event.procedure), (wire::PROGRAM, 9001));
                assert_eq!(event.payload, body(6, text));
            }
            other => panic!("{other:?}"),
        }
    }
    is_idle(&mut events).await;
    is_idle(&mut known).await;
    drop(events);
    deregister(&mut daemon, 6).await;
}

#[tokio::test(start_paused = true)]
async fn unknown_kinds_of_two_families_are_registered_by_themselves() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let domains = subscribe(&libvirt, only([DomainEventId(77)]));
    daemon.feature(CALLBACK_IDS, true).await;
    register(&mut daemon, DomainEventId(77), None, 1).await;
    let mut domains = domains.await.unwrap().unwrap();
    let filter = NetworkEventFilter::all().only([NetworkEventId(77)]);
    let grant = async {
        let call = daemon.expect::<ConnectNetworkEventRegisterAny>().await;
        let reply = wire::ConnectNetworkEventRegisterAnyRet { callback_id: 2 };
        daemon
            .reply::<ConnectNetworkEventRegisterAny>(&call, &reply)
            .await;
    };
    let (networks, ()) = tokio::join!(libvirt.network_events(filter), grant);
    let mut networks = networks.unwrap();
    daemon.send(message_of(9001, encoded(&1i32))).await;
    daemon.send(message_of(9002, encoded(&2i32))).await;
    match (next(&mut domains).await, next(&mut networks).await) {
        (DomainEvent::Other(domain), NetworkEvent::Other(network)) => {
            assert_eq!((domain.procedure, network.procedure), (9001, 9002));
        }
        other => panic!("{other:?}"),
    }
    is_idle(&mut domains).await;
    is_idle(&mut networks).await;
}
