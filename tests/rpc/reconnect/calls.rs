//! Calls that a loss meets, and those that are made before the next connection.

use libvirt_qmp::StreamItem;
use libvirt_qmp::protocol::remote::ConnectListAllDomainsRet;
use libvirt_qmp::protocol::remote::procedure::ConnectListAllDomains;

use super::*;
use crate::streams::{Download, data, opening};

#[tokio::test(start_paused = true)]
async fn calls_in_flight_fail_and_are_not_made_again() {
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let in_flight = run(&monitor, r#"{"execute":"system_reset"}"#);
    daemon.command().await;
    let mut waiting = Vec::new();
    for number in 0..5 {
        waiting.push(run(&monitor, format!(r#"{{"execute":"c{number}"}}"#)));
        settle().await;
    }
    drop(daemon);
    let (cause, maybe_executed) = ended(&in_flight.await.unwrap().unwrap_err());
    assert!(matches!(*cause, EndCause::PeerClosed));
    assert!(maybe_executed);
    // Those that still waited for their turn were never sent: they wait on, in their order.
    let mut daemon = host.reopened().await;
    for number in 0..5 {
        let call = daemon.command().await;
        assert_eq!(call.args.cmd, format!(r#"{{"execute":"c{number}"}}"#));
        daemon.answer(&call, RUNNING).await;
    }
    for call in waiting {
        answered(call).await;
    }
    assert!(daemon.sent_by_now().await.is_empty());
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_others_to_end_are_made_on_the_next_connection() {
    let (libvirt, mut host, mut daemon) = session_with(lasting().max_in_flight(2)).await;
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let libvirt = libvirt.clone();
            tokio::spawn(async move { libvirt.domains().await })
        })
        .collect();
    for _ in 0..2 {
        daemon.expect::<ConnectListAllDomains>().await;
    }
    settle().await;
    drop(daemon);
    let mut daemon = host.reopened().await;
    for _ in 0..4 {
        let call = daemon.expect::<ConnectListAllDomains>().await;
        let (domains, ret) = (Vec::new(), 0);
        let reply = ConnectListAllDomainsRet { domains, ret };
        daemon.reply::<ConnectListAllDomains>(&call, &reply).await;
    }
    let mut in_flight = 0;
    for call in calls {
        if let Err(error) = call.await.unwrap() {
            assert!(ended(&error).1, "{error:?}");
            in_flight += 1;
        }
    }
    assert_eq!(in_flight, 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_to_be_opened_is_opened_on_the_next_connection() {
    let (libvirt, mut host, mut daemon) = session_with(lasting().max_in_flight(1)).await;
    let busy = libvirt.clone();
    let in_flight = tokio::spawn(async move { busy.domains().await });
    daemon.expect::<ConnectListAllDomains>().await;
    let opening = opening::<Download>(&libvirt, 0);
    settle().await;
    drop(daemon);
    assert!(ended(&in_flight.await.unwrap().unwrap_err()).1);
    let mut daemon = host.reopened().await;
    let call = daemon.expect::<Download>().await;
    daemon.reply::<Download>(&call, &()).await;
    let mut stream = opening.await.unwrap().unwrap();
    daemon.send(data(&call.header, "x")).await;
    let item = stream.recv().await.unwrap();
    assert_eq!(item, Some(StreamItem::Data("x".into())));
}

#[tokio::test(start_paused = true)]
async fn what_was_queued_for_writing_is_known_not_to_have_run() {
    let (mut host, connect) = Host::new();
    // A pipe that takes less than one call.
    let connect = move || {
        let connecting = connect();
        async move {
            let (inner, mut far) = (connecting.await?, tokio::io::duplex(64));
            let near = std::mem::replace(&mut far.0, tokio::io::duplex(1).0);
            let mut far = far.1;
            tokio::spawn(async move {
                let mut inner = inner;
                let _ =
                    tokio::io::copy_bidirectional_with_sizes(&mut far, &mut inner, 64, 64).await;
            });
            Ok::<_, io::Error>(near)
        }
    };
    let opening = Libvirt::open_with(connect, lasting());
    let (libvirt, mut daemon) = tokio::join!(opening, host.reopened());
    let libvirt = libvirt.unwrap();
    let mut monitors = Vec::new();
    for name in ["vm-1", "vm-2"] {
        monitors.push(Arc::new(monitor_on(&libvirt, &mut daemon, name).await));
    }
    // Nobody reads any more: the first call hangs half-way, and the second is behind it.
    let large = format!(
        r#"{{"execute":"x","arguments":{{"s":"{}"}}}}"#,
        "s".repeat(1 << 20)
    );
    let writing = run(&monitors[0], large);
    settle().await;
    let queued = run(&monitors[1], STATUS);
    settle().await;
    drop(daemon);
    assert!(ended(&writing.await.unwrap().unwrap_err()).1);
    assert!(!ended(&queued.await.unwrap().unwrap_err()).1);
}

#[tokio::test(start_paused = true)]
async fn calls_made_meanwhile_wait_for_the_connection() {
    let (monitor, libvirt, mut host, daemon) = lasting_monitor().await;
    host.answer(Answers::Refused);
    drop(daemon);
    lost(&libvirt).await;
    let (waiting, domains) = (run(&monitor, STATUS), libvirt.clone());
    let domains = tokio::spawn(async move { domains.domains().await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!waiting.is_finished() && !domains.is_finished());
    let failed = match &*libvirt.state().borrow() {
        ConnectionState::Reconnecting { failed, .. } => *failed,
        other => panic!("{other:?}"),
    };
    assert!(failed > 3, "{failed}");
    host.answer(Answers::Connected);
    let mut daemon = host.reopened().await;
    // Each is sent once.
    let mut calls = Vec::new();
    while calls.len() < 2 {
        calls.extend(daemon.sent_by_now().await);
    }
    assert_eq!(calls.len(), 2);
    for call in calls {
        let payload = match call.header.program == libvirt_qmp::protocol::qemu::PROGRAM {
            true => mock::answer(RUNNING),
            false => bytes::Bytes::from_static(&[0; 8]),
        };
        daemon
            .reply_raw(
                &call.header,
                libvirt_qmp::packet::MessageStatus::OK,
                payload,
            )
            .await;
    }
    answered(waiting).await;
    assert!(domains.await.unwrap().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_connection_is_within_the_calls_own_deadline() {
    let (monitor, libvirt, host, daemon) = lasting_monitor().await;
    host.answer(Answers::Silent);
    drop(daemon);
    lost(&libvirt).await;
    let start = Instant::now();
    // The second waits for its turn behind the first.
    let calls = [run(&monitor, STATUS), run(&monitor, STATUS)];
    let events = monitor.events().await;
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        let Error::Timeout {
            phase: Phase::Reconnect,
            maybe_executed: false,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
    }
    let error = events.err().unwrap();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Reconnect,
                maybe_executed: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(start.elapsed(), Duration::from_secs(60));
    libvirt.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_schema_is_asked_for_anew_after_a_loss() {
    async fn serve(daemon: &mut MockDaemon, name: &str) {
        let call = daemon.command().await;
        assert!(call.args.cmd.contains("query-qmp-schema"));
        let schema = format!(
            r#"{{"return":[{{"name":"{name}","meta-type":"command","arg-type":"0","ret-type":"0"}},{{"name":"0","meta-type":"object","members":[]}}]}}"#
        );
        daemon.answer(&call, &schema).await;
    }
    let (monitor, libvirt, mut host, mut daemon) = lasting_monitor().await;
    let (schema, ()) = tokio::join!(monitor.schema(), serve(&mut daemon, "old"));
    assert!(schema.unwrap().command("old").is_some());
    assert!(monitor.schema().await.unwrap().command("old").is_some());
    drop(daemon);
    let mut daemon = host.reopened().await;
    until(&mut libvirt.state(), is_connected).await;
    let (schema, ()) = tokio::join!(monitor.schema(), serve(&mut daemon, "new"));
    assert!(schema.unwrap().command("new").is_some());
    assert!(monitor.schema().await.unwrap().command("new").is_some());
}
