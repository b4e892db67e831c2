//! Events: which come, in what order, with what in them, to whom, and how registrations begin and end.

use futures_util::StreamExt;
use futures_util::future::join_all;
use libvirt_qmp::{Command, EventFilter, EventOptions, EventStream, MonitorExt, Overflow};
use serde_json::Value;

use super::support::conformance::next_of;
use super::*;

const STOP_AND_GO: [&str; 2] = ["STOP", "RESUME"];

async fn execute(monitor: &LibvirtC, command: &str) {
    let _: Value = monitor.execute(Command::new(command)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn calls_and_their_events_keep_their_order_and_name_the_domain() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    let guest = lab.guest("one");
    let monitor = monitor(&lab, "one");
    let mut events = monitor.events().await.unwrap();
    // All of them wait at once.
    join_all((0..20).map(|number| execute(&monitor, ["stop", "cont"][number % 2]))).await;
    let id: i32 = lab.virsh(&["domid", "one"]).parse().unwrap();
    for number in 0..20 {
        let event = next_of(&mut events, &STOP_AND_GO).await;
        assert_eq!(event.name, STOP_AND_GO[number % 2]);
        // QEMU gives them no data, and libvirt NULL for it.
        assert!(event.data.is_none(), "{event:?}");
        let domain = event.domain.unwrap();
        assert_eq!(
            (domain.name.as_str(), domain.uuid, domain.id),
            ("one", guest.uuid, Some(id))
        );
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn each_monitor_has_the_events_of_its_own_domain() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    lab.guest("two");
    let (one, two) = (monitor(&lab, "one"), monitor(&lab, "two"));
    let mut events = [one.events().await.unwrap(), two.events().await.unwrap()];
    execute(&one, "stop").await;
    execute(&two, "system_reset").await;
    execute(&one, "cont").await;
    let names = ["STOP", "RESUME", "RESET"];
    for (stream, domain, expected) in [(0, "one", &STOP_AND_GO[..]), (1, "two", &["RESET"])] {
        for name in expected {
            let event = next_of(&mut events[stream], &names).await;
            let from = event.domain.unwrap();
            assert_eq!((event.name.as_str(), from.name.as_str()), (*name, domain));
        }
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn each_stream_has_its_own_filter_and_bound() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    let options = [
        EventOptions::new("RESUME"),
        EventOptions::new(EventFilter::any().when(|event| event.name == "RESUME")),
        EventOptions::new(EventFilter::regex("^(STOP|RESUME)$").unwrap()).queue(1),
        EventOptions::new(EventFilter::glob("STO*"))
            .queue(1)
            .overflow(Overflow::End),
    ];
    let mut streams = Vec::new();
    for options in options {
        streams.push(monitor.events_with(options).await.unwrap());
    }
    let mut all = monitor.events().await.unwrap();
    for command in ["stop", "cont", "stop", "cont"] {
        execute(&monitor, command).await;
    }
    // By then all of them have been given to every stream, for they share one registration.
    for number in 0..4 {
        assert_eq!(
            next_of(&mut all, &STOP_AND_GO).await.name,
            STOP_AND_GO[number % 2]
        );
    }
    for stream in &mut streams[..2] {
        for _ in 0..2 {
            assert_eq!(stream.next().await.unwrap().unwrap().name, "RESUME");
        }
    }
    assert!(matches!(
        streams[2].next().await,
        Some(Err(Error::EventsLost(3)))
    ));
    assert_eq!(streams[2].next().await.unwrap().unwrap().name, "RESUME");
    assert_eq!(streams[3].next().await.unwrap().unwrap().name, "STOP");
    assert!(matches!(
        streams[3].next().await,
        Some(Err(Error::EventsLost(1)))
    ));
    assert!(streams[3].next().await.is_none());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn subscribing_over_and_over_while_events_come() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let monitor = Arc::new(monitor(&lab, "one"));
    monitor.connect().await.unwrap();
    // Registrations then end while libvirt is calling them.
    let busy = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            for number in 0..100 {
                execute(&monitor, ["stop", "cont"][number % 2]).await;
            }
        }
    });
    for _ in 0..50 {
        let first = monitor.events().await.unwrap();
        let second = monitor.events().await.unwrap();
        drop(first);
        drop(second);
    }
    busy.await.unwrap();
    let mut events = monitor.events().await.unwrap();
    execute(&monitor, "stop").await;
    assert_eq!(next_of(&mut events, &STOP_AND_GO).await.name, "STOP");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_stream_outlives_its_domains_end_and_its_monitor() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    let mut events = monitor.events().await.unwrap();
    let stopped = |events: EventStream| async {
        let mut events = events;
        let event = next_of(&mut events, &["STOP"]).await;
        (event, events)
    };
    lab.destroy("one");
    let error = monitor.run(STATUS).await.unwrap_err();
    assert!(error.is_not_running(), "{error}");
    lab.virsh(&["start", "one"]);
    execute(&monitor, "stop").await;
    events = stopped(events).await.1;
    // The stream keeps the connection.
    drop(monitor);
    lab.virsh(&["resume", "one"]);
    lab.virsh(&["suspend", "one"]);
    stopped(events).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_events_of_all_domains_come_beside_those_of_one() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    let one = lab.guest("one");
    let monitor = monitor(&lab, "one");
    let options = || EventOptions::new(STOP_AND_GO);
    let mut own = monitor.events_with(options()).await.unwrap();
    let mut all = monitor.all_monitor_events(options()).await.unwrap();
    let mut resets = monitor
        .all_monitor_events(EventOptions::new("RESET"))
        .await
        .unwrap();
    // One that was not there before.
    let two = lab.guest("two");
    for (guest, command, event) in [
        (&two, "suspend", "STOP"),
        (&one, "suspend", "STOP"),
        (&two, "resume", "RESUME"),
    ] {
        let uuid = guest.uuid.to_string();
        lab.virsh(&[command, &uuid]);
        loop {
            let came = next_of(&mut all, &STOP_AND_GO).await;
            let of = came.domain.unwrap();
            if (&*came.name, of.uuid) == (event, guest.uuid) {
                assert!(of.id.is_some());
                break;
            }
            // Starting a guest lets it run.
            assert_eq!((&*came.name, of.uuid), ("RESUME", two.uuid));
        }
    }
    lab.virsh(&["reset", "two"]);
    let reset = next_of(&mut resets, &["RESET"]).await;
    assert_eq!(reset.domain.unwrap().name, "two");
    // Each event came once, and the domain's own stream has its own alone.
    let came = next_of(&mut own, &STOP_AND_GO).await;
    assert_eq!((&*came.name, came.domain.unwrap().uuid), ("STOP", one.uuid));
    drop((all, resets));
    lab.virsh(&["resume", "one"]);
    assert_eq!(next_of(&mut own, &STOP_AND_GO).await.name, "RESUME");
    // One that has no domain, and outlives its monitor.
    drop(own);
    monitor.disconnect().await.unwrap();
    let host = LibvirtC::new(lab.client_uri(), "");
    let mut all = host.all_monitor_events(options()).await.unwrap();
    drop(host);
    lab.virsh(&["suspend", "two"]);
    let came = next_of(&mut all, &STOP_AND_GO).await;
    assert_eq!((&*came.name, came.domain.unwrap().uuid), ("STOP", two.uuid));
    lab.kill_daemon();
    let end = within(SOON, all.next()).await.unwrap().unwrap_err();
    assert!(end.is_disconnected(), "{end:?}");
    assert!(all.next().await.is_none());
}
