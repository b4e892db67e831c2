//! Events: when a stream begins, what is in it, and how it ends.

use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::{
    Config, EndCause, Error, EventFilter, EventOptions, EventStream, Monitor, Overflow, Phase,
    Virsh,
};
use serde_json::Value;

use crate::fake::{Fake, UUID, soon};
use crate::{STATUS, cause};

async fn next(events: &mut EventStream) -> Option<Result<libvirt_qmp::Event, Error>> {
    soon(events.next()).await
}

async fn name(events: &mut EventStream) -> String {
    next(events).await.unwrap().unwrap().name
}

#[tokio::test]
async fn a_stream_begins_when_libvirt_has_registered() {
    let fake = Fake::new(
        r#"events() {
            note events begun
            gate gate
            event EARLY
            echo '2026-01-01: info : RPC_CLIENT_MSG_RX: prog=536903815 vers=1 proc=6 type=2 status=0 serial=1' >&2
            note events registering
            registered
            gate gate
            event LATE
            gate gate
        }"#,
    );
    let monitor = fake.monitor();
    monitor.connect().await.unwrap();
    let mut subscribing = monitor.events();
    let waiting = async {
        fake.wait_for_notes("events", 1).await;
        fake.open("gate").await;
        fake.wait_for_notes("events", 2).await;
    };
    let mut events = soon(async { tokio::join!(&mut subscribing, waiting) })
        .await
        .0
        .unwrap();
    fake.open("gate").await;
    // What came before belongs to nobody, or to the first.
    let mut last = name(&mut events).await;
    if last == "EARLY" {
        last = name(&mut events).await;
    }
    assert_eq!(last, "LATE");
    monitor.disconnect().await.unwrap();
    let item = next(&mut events).await;
    assert!(item.is_none(), "{item:?}");
    fake.assert_gone();
}

#[tokio::test]
async fn without_a_registration_there_is_no_stream() {
    let silent = Fake::new("events() { gate gate; }");
    let config = Config::new().call_timeout(Some(Duration::from_millis(400)));
    let monitor = silent.monitor_with(config);
    for _ in 0..2 {
        match soon(monitor.events()).await.unwrap_err() {
            Error::Timeout {
                phase: Phase::Subscription,
                ..
            } => {}
            other => panic!("{other:?}"),
        }
    }
    soon(monitor.run(STATUS)).await.unwrap();
    let refused = Fake::new(
        r#"events() { fail "operation forbidden: read only access prevents virConnectDomainQemuMonitorEventRegister"; exit 1; }"#,
    );
    let monitor = refused.monitor();
    let error = soon(monitor.events()).await.unwrap_err();
    assert!(error.is_denied(), "{error:?}");
    drop(monitor);
    refused.assert_gone();
}

#[tokio::test]
async fn events_have_all_that_virsh_prints() {
    let fake = Fake::new(
        r#"events() {
            registered
            gate gate
            printf "event STOP at 1795242570.957257 for domain 'one': <null>\n"
            printf "event RESET at 1795242571.000007 for domain "
            gate gate
            printf "'one': {\"guest\":false,\"n\":18446744073709551615}\r\n"
            printf "event OTHER at -1.4294967295 for domain 'renamed': <null>\n"
            gate gate
        }"#,
    );
    let monitor = fake.monitor();
    let mut events = soon(monitor.events()).await.unwrap();
    fake.open("gate").await;
    let stop = next(&mut events).await.unwrap().unwrap();
    assert_eq!(
        (stop.name.as_str(), stop.timestamp.seconds),
        ("STOP", 1_795_242_570)
    );
    assert_eq!(stop.timestamp.microseconds, 957_257);
    assert!(stop.data.is_none());
    let domain = stop.domain.unwrap();
    assert_eq!((domain.name.as_str(), domain.id), ("one", None));
    assert_eq!(domain.uuid.to_string(), UUID);
    fake.open("gate").await;
    let reset = next(&mut events).await.unwrap().unwrap();
    assert_eq!(reset.timestamp.microseconds, 7);
    assert_eq!(
        reset.data.unwrap().get(),
        r#"{"guest":false,"n":18446744073709551615}"#
    );
    let other = next(&mut events).await.unwrap().unwrap();
    assert_eq!(other.timestamp, libvirt_qmp::Timestamp::UNKNOWN);
    assert_eq!(other.domain.unwrap().name, "renamed");
}

#[tokio::test]
async fn a_broken_line_is_one_item() {
    let fake = Fake::new(
        r#"events() {
            registered
            gate gate
            event A
            echo "event B at 1.0 for domain 'one': {\"a\":"
            echo garbage
            printf 'event \xff\n\n'
            head -c 17000000 /dev/zero | tr '\0' x
            echo
            event C
            gate gate
        }"#,
    );
    let monitor = fake.monitor();
    let mut events = soon(monitor.events()).await.unwrap();
    fake.open("gate").await;
    assert_eq!(name(&mut events).await, "A");
    for _ in 0..4 {
        match next(&mut events).await {
            Some(Err(Error::Decode { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(name(&mut events).await, "C");
}

#[tokio::test]
async fn a_flood_is_bounded_and_each_stream_has_its_own_bound_and_filter() {
    let fake = Fake::new(
        r#"events() {
            registered
            gate gate
            for ((n = 0; n < 3000; n++)); do event "E$((n % 3))" "{\"n\":$n}"; done
            event DONE
            gate gate
        }"#,
    );
    let monitor = fake.monitor_with(Config::new().event_queue(5000));
    let mut all = soon(monitor.events()).await.unwrap();
    let with = |filter: EventFilter| EventOptions::new(filter).queue(10);
    let mut newest = monitor.events_with(with(EventFilter::any())).await.unwrap();
    let ends = with(EventFilter::any()).overflow(Overflow::End);
    let mut ends = monitor.events_with(ends).await.unwrap();
    let mut done = monitor.events_with(with("DONE".into())).await.unwrap();
    let even = EventFilter::name("E1").when(|event| {
        event
            .data_as::<Value>()
            .is_ok_and(|data| data["n"].as_i64().is_some_and(|n| n % 2 == 0))
    });
    let mut even = monitor
        .events_with(EventOptions::new(even.or("DONE")))
        .await
        .unwrap();
    fake.open("gate").await;
    for n in 0..3000 {
        let event = next(&mut all).await.unwrap().unwrap();
        assert_eq!(event.data_as::<Value>().unwrap()["n"], n);
    }
    assert_eq!(name(&mut all).await, "DONE");
    // All that came has been handed out by now.
    match next(&mut newest).await.unwrap() {
        Err(Error::EventsLost(2991)) => {}
        other => panic!("{other:?}"),
    }
    let first = next(&mut newest).await.unwrap().unwrap();
    assert_eq!(first.data_as::<Value>().unwrap()["n"], 2991);
    for n in 0..10 {
        let event = next(&mut ends).await.unwrap().unwrap();
        assert_eq!(event.data_as::<Value>().unwrap()["n"], n);
    }
    assert!(matches!(
        next(&mut ends).await,
        Some(Err(Error::EventsLost(_)))
    ));
    assert!(next(&mut ends).await.is_none());
    assert_eq!(name(&mut done).await, "DONE");
    for n in (4..3000).step_by(6) {
        let event = next(&mut even).await.unwrap().unwrap();
        assert_eq!(event.data_as::<Value>().unwrap()["n"], n);
    }
    assert_eq!(name(&mut even).await, "DONE");
    // One process serves them all.
    assert_eq!(fake.pids().len(), 3);
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_the_last_item_and_a_new_stream_starts_anew() {
    let fake = Fake::new(
        r#"events() { registered; gate gate; event LAST; echo "events received: 1"; fail "it broke"; exit 1; }"#,
    );
    let monitor = fake.monitor();
    let mut streams = [
        soon(monitor.events()).await.unwrap(),
        soon(monitor.events()).await.unwrap(),
    ];
    fake.open("gate").await;
    for events in &mut streams {
        assert_eq!(name(events).await, "LAST");
        let error = next(events).await.unwrap().unwrap_err();
        let EndCause::Io(error) = cause(&error) else {
            panic!("{error:?}")
        };
        assert_eq!(error.to_string(), "virsh ended: it broke");
        assert!(next(events).await.is_none());
    }
    let mut again = soon(monitor.events()).await.unwrap();
    fake.open("gate").await;
    assert_eq!(name(&mut again).await, "LAST");
    assert_eq!(fake.pids().len(), 4);
}

#[tokio::test]
async fn a_lost_connection_ends_the_streams_with_the_events_before_it() {
    let fake = Fake::new(
        r#"events() {
            registered
            gate gate
            fail "Disconnected from fake:///x due to keepalive timeout"
            event LAST
            echo "events received: 1"
            exit 1
        }"#,
    );
    let monitor = fake.monitor();
    let mut events = soon(monitor.events()).await.unwrap();
    fake.open("gate").await;
    assert_eq!(name(&mut events).await, "LAST");
    let error = next(&mut events).await.unwrap().unwrap_err();
    assert!(
        matches!(cause(&error), EndCause::KeepaliveTimeout { pings: 5, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_stream_outlives_its_monitor() {
    let fake = Fake::new("");
    let monitor = fake.monitor();
    let mut events = soon(monitor.events()).await.unwrap();
    drop(monitor);
    fake.open("event").await;
    assert_eq!(name(&mut events).await, "STOP");
    drop(events);
    fake.assert_gone();
}

#[tokio::test]
async fn the_events_of_all_domains_come_by_their_names() {
    let fake = Fake::new(
        r#"events() {
            registered
            gate gate
            printf "event STOP at 5.000007 for domain 'one': <null>\n"
            printf "event RESET at 6.000000 for domain 'it': {}': {\"guest\":false}\n"
            printf "event STOP at 7.000000 for domain 'one': <null>\n"
            gate gate
        }"#,
    );
    // There is no such domain, and nobody looks for it.
    let host = Virsh::new("fake:///x", "").program(fake.program());
    let mut all = soon(host.all_monitor_events(EventOptions::default()))
        .await
        .unwrap();
    let mut resets = soon(host.all_monitor_events(EventOptions::new("RESET")))
        .await
        .unwrap();
    fake.open("gate").await;
    for (event, seconds, domain) in [
        ("STOP", 5, "one"),
        ("RESET", 6, "it': {}"),
        ("STOP", 7, "one"),
    ] {
        let item = next(&mut all).await.unwrap().unwrap();
        assert_eq!((&*item.name, item.timestamp.seconds), (event, seconds));
        let of = item.domain.unwrap();
        assert_eq!((&*of.name, of.uuid.is_nil(), of.id), (domain, true, None));
    }
    assert_eq!(name(&mut resets).await, "RESET");
    let argv = fake.notes("argv");
    assert_eq!(argv.len(), 1, "{argv:?}");
    assert!(
        argv[0].ends_with("-c fake:///x qemu-monitor-event --loop"),
        "{argv:?}"
    );
    host.disconnect().await.unwrap();
    for events in [&mut all, &mut resets] {
        let item = next(events).await;
        assert!(item.is_none(), "{item:?}");
    }
    fake.assert_gone();
    let closed = host.all_monitor_events(EventOptions::default()).await;
    assert!(matches!(closed.unwrap_err(), Error::Closed));
}

#[tokio::test]
async fn the_events_of_all_domains_and_of_one_are_two_registrations() {
    let fake = Fake::new(
        r#"events() {
            registered
            case $* in
                *--domain*) gate event; event OWN ;;
                *) gate gate; event ANY ;;
            esac
            until false; do gate gate; done
        }"#,
    );
    let monitor = fake.monitor();
    let mut own = soon(monitor.events()).await.unwrap();
    let mut all = soon(monitor.all_monitor_events(EventOptions::default()))
        .await
        .unwrap();
    fake.open("gate").await;
    fake.open("event").await;
    assert_eq!(
        (name(&mut own).await, name(&mut all).await),
        ("OWN".to_owned(), "ANY".to_owned())
    );
    drop(all);
    // The other goes on.
    assert!(
        tokio::time::timeout(Duration::ZERO, own.next())
            .await
            .is_err()
    );
    drop((own, monitor));
    fake.assert_gone();
}

#[tokio::test]
async fn nobody_to_tell_of_all_domains_is_an_error() {
    for (events, expected) in [
        (
            r#"fail "failed to connect to the hypervisor"; fail "Failed to connect socket to '/x': No such file or directory""#,
            "No such file",
        ),
        (
            r#"fail "operation forbidden: read only access prevents virConnectDomainQemuMonitorEventRegister""#,
            "read only",
        ),
    ] {
        let fake = Fake::new(&format!("events() {{ {events}; exit 1; }}"));
        let host = Virsh::new("fake:///x", "").program(fake.program());
        let error = soon(host.all_monitor_events(EventOptions::default()))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains(expected) || format!("{error:?}").contains(expected),
            "{error:?}"
        );
        assert_eq!(
            error.is_unavailable(),
            expected == "No such file",
            "{error:?}"
        );
        assert_eq!(error.is_denied(), expected == "read only", "{error:?}");
        drop(host);
        fake.assert_gone();
    }
}
