//! Filters of events that libvirtd itself keeps: what comes over the wire, and that each stream gets exactly its own.

use futures_util::StreamExt;
use libvirt_qmp::packet::MessageType;
use libvirt_qmp::protocol::qemu::DomainMonitorEventMsg;
use libvirt_qmp::protocol::qemu::procedure::{
    ConnectDomainMonitorEventRegister, DomainMonitorEvent,
};
use libvirt_qmp::protocol::{Message, Procedure};
use libvirt_qmp::replay::{Direction, Recording, record};
use libvirt_qmp::{EventFilter, EventOptions, EventStream, Libvirt, Monitor, xdr};
use tokio::net::UnixStream;

use super::config;
use super::support::conformance::run;
use super::support::lab::Lab;
use super::support::process::PATIENCE;

/// A session whose packets are kept.
async fn recorded(lab: &Lab) -> (Libvirt, Recording) {
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let (conn, recording) = record(conn);
    let libvirt = Libvirt::open(conn, config(lab)).await.unwrap();
    (libvirt, recording)
}

/// The monitor events that came over the wire: callback id and name of each.
fn on_the_wire(recording: &Recording) -> Vec<(i32, String)> {
    let packets = recording.fixture().packets;
    packets
        .into_iter()
        .filter(|(way, packet)| {
            *way == Direction::ToClient
                && packet.header.kind == MessageType::MESSAGE
                && (packet.header.program, packet.header.procedure)
                    == (DomainMonitorEvent::PROGRAM, DomainMonitorEvent::NUMBER)
        })
        .map(|(_, packet)| {
            let event = xdr::decode::<DomainMonitorEventMsg>(packet.payload).unwrap();
            (event.callback_id, event.event)
        })
        .collect()
}

/// How many registrations were asked for.
fn registrations(recording: &Recording) -> usize {
    let id = (
        ConnectDomainMonitorEventRegister::PROGRAM,
        ConnectDomainMonitorEventRegister::NUMBER,
    );
    let packets = recording.fixture().packets;
    let is_one = |way: Direction, header: libvirt_qmp::packet::Header| {
        way == Direction::ToServer && (header.program, header.procedure) == id
    };
    packets
        .iter()
        .filter(|(way, packet)| is_one(*way, packet.header))
        .count()
}

/// The names of the next events, up to the `count`th one called `last`.
async fn names_until(events: &mut EventStream, last: &str, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    let all = async {
        while names.iter().filter(|name| *name == last).count() < count {
            names.push(events.next().await.unwrap().unwrap().name);
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    names
}

/// Makes the guest stop and go on twice, and stop: three STOP with two RESUME between them.
async fn stop_and_go(monitor: &dyn Monitor) {
    for command in ["stop", "cont", "stop", "cont", "stop"] {
        let command = format!(r#"{{"execute":"{command}"}}"#);
        run(monitor, command.as_bytes()).await;
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn with_a_filter_for_one_name_no_other_event_comes_over_the_wire() {
    let lab = Lab::start();
    lab.guest("one");
    for (filter, server_side) in [
        (EventFilter::name("STOP"), true),
        (EventFilter::name("stop").ignore_case(), true),
        (EventFilter::glob("ST?P"), true),
        (EventFilter::names(["STOP", "NEVER"]), true),
        (EventFilter::glob("sto*").ignore_case(), true),
        // This one is kept here alone, which shows that the rest would have come.
        (EventFilter::regex("^STOP$").unwrap(), false),
    ] {
        let (libvirt, recording) = recorded(&lab).await;
        let monitor = libvirt.monitor("one");
        let shown = format!("{filter:?}");
        let mut events = monitor
            .events_with(EventOptions::new(filter))
            .await
            .unwrap();
        stop_and_go(&monitor).await;
        // The stream is in order, and a RESUME would be between two of these.
        let names = names_until(&mut events, "STOP", 3).await;
        assert_eq!(names, ["STOP"; 3], "{shown}");
        let wire = on_the_wire(&recording);
        let others = wire.iter().filter(|(_, name)| name != "STOP").count();
        assert_eq!(others == 0, server_side, "{shown}: {wire:?}");
        run(&monitor, br#"{"execute":"cont"}"#).await;
        libvirt.close().await.unwrap();
    }
    // The daemon minds case where it is not told otherwise, also in a name.
    let (libvirt, recording) = recorded(&lab).await;
    let monitor = libvirt.monitor("one");
    let mut lower = monitor
        .events_with(EventOptions::new("stop"))
        .await
        .unwrap();
    let mut stops = monitor
        .events_with(EventOptions::new("STOP"))
        .await
        .unwrap();
    stop_and_go(&monitor).await;
    names_until(&mut stops, "STOP", 3).await;
    assert_eq!(on_the_wire(&recording).len(), 3);
    libvirt.close().await.unwrap();
    assert!(lower.next().await.is_none());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn filtered_and_unfiltered_streams_of_one_connection_each_get_exactly_their_own() {
    let lab = Lab::start();
    lab.guest("one");
    // The daemon may mind in which order they are registered.
    for unfiltered_first in [true, false] {
        let (libvirt, recording) = recorded(&lab).await;
        let monitor = libvirt.monitor("one");
        let filters = [
            EventFilter::name("STOP"),
            EventFilter::name("RESUME"),
            EventFilter::names(["STOP", "RESUME"]),
            // The same as the first: no registration of its own.
            EventFilter::name("STOP").when(|event| event.domain.is_some()),
        ];
        let subscribe = |filter| monitor.events_with(EventOptions::new(filter));
        let mut all = None;
        if unfiltered_first {
            all = Some(subscribe(EventFilter::any()).await.unwrap());
        }
        let mut streams = Vec::new();
        for filter in filters {
            streams.push(subscribe(filter).await.unwrap());
        }
        let mut all = match all {
            Some(all) => all,
            None => subscribe(EventFilter::any()).await.unwrap(),
        };
        assert_eq!(registrations(&recording), 4);
        stop_and_go(&monitor).await;
        let both = ["STOP", "RESUME", "STOP", "RESUME", "STOP"];
        assert_eq!(names_until(&mut all, "STOP", 3).await, both);
        assert_eq!(names_until(&mut streams[0], "STOP", 3).await, ["STOP"; 3]);
        assert_eq!(
            names_until(&mut streams[1], "RESUME", 2).await,
            ["RESUME"; 2]
        );
        assert_eq!(names_until(&mut streams[2], "STOP", 3).await, both);
        assert_eq!(names_until(&mut streams[3], "STOP", 3).await, ["STOP"; 3]);
        // Each registration has its copy: all, STOP, RESUME, both.
        assert_eq!(on_the_wire(&recording).len(), 5 + 3 + 2 + 5);
        // One gone, the others stay.
        drop(all);
        drop(streams.remove(0));
        run(&monitor, br#"{"execute":"cont"}"#).await;
        run(&monitor, br#"{"execute":"stop"}"#).await;
        assert_eq!(names_until(&mut streams[0], "RESUME", 1).await, ["RESUME"]);
        assert_eq!(names_until(&mut streams[2], "STOP", 1).await, ["STOP"]);
        run(&monitor, br#"{"execute":"cont"}"#).await;
        libvirt.close().await.unwrap();
    }
}
