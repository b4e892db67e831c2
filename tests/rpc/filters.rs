//! Event streams with a filter and a bound of their own: what the daemon is told, what takes room, and who gets what.

use std::sync::Arc;

use futures_util::StreamExt;
use libvirt_qmp::{Error, EventFilter, EventOptions, EventStream, LibvirtRpc, Monitor, Overflow};
use tokio::task::JoinHandle;

use super::item;
use super::support::mock::{
    DOMAIN, MockDaemon, domain, encoded, event, monitor, monitor_on, poll_once, quiet, session,
    settle,
};

fn subscribe(
    monitor: &Arc<LibvirtRpc>,
    options: EventOptions,
) -> JoinHandle<Result<EventStream, Error>> {
    let monitor = monitor.clone();
    tokio::spawn(async move { monitor.events_with(options).await })
}

/// A monitor and a stream of what these options say, under `callback_id`.
async fn subscribed(
    options: EventOptions,
    callback_id: i32,
) -> (Arc<LibvirtRpc>, MockDaemon, EventStream) {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let (events, ()) = tokio::join!(monitor.events_with(options), daemon.register(callback_id));
    (Arc::new(monitor), daemon, events.unwrap())
}

/// What waits in `events` by now: names, and `LOST n` where some are missing.
async fn waiting(events: &mut EventStream) -> Vec<String> {
    settle().await;
    let mut found = Vec::new();
    while let std::task::Poll::Ready(Some(item)) = poll_once(std::pin::pin!(events.next())).await {
        found.push(match item {
            Ok(event) => event.name,
            Err(Error::EventsLost(number)) => format!("LOST {number}"),
            Err(error) => panic!("{error:?}"),
        });
    }
    found
}

#[tokio::test(start_paused = true)]
async fn the_daemon_is_told_of_the_filter_where_it_can_be() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    for (filter, expected, flags) in [
        (EventFilter::any(), None, 0),
        ("STOP".into(), Some("STOP"), 0),
        (EventFilter::name("stop").ignore_case(), Some("stop"), 2),
        (["STOP", "RESUME"].into(), Some("^(STOP|RESUME)$"), 1),
        (EventFilter::glob("BLOCK_*"), Some("^(BLOCK_.*)$"), 1),
        (
            EventFilter::glob("block_*").or("stop").ignore_case(),
            Some("^(block_.*|stop)$"),
            3,
        ),
        (EventFilter::name("STOP").when(|_| true), Some("STOP"), 0),
        // Dialects of regular expressions differ, and there is none for what is not wanted.
        (EventFilter::regex("^STOP").unwrap(), None, 0),
        (EventFilter::name("STOP").not(), None, 0),
    ] {
        let subscribing = subscribe(&monitor, EventOptions::new(filter));
        let call = daemon.registration().await;
        assert_eq!(call.args.dom, Some(domain(DOMAIN)));
        assert_eq!(call.args.event.as_deref(), expected);
        assert_eq!(call.args.flags.0, flags);
        daemon.registered(&call, 3).await;
        drop(subscribing.await.unwrap().unwrap());
        daemon.deregister(3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn equal_filters_share_a_registration_and_different_ones_do_not_mix() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let again = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let other = Arc::new(monitor_on(&libvirt, &mut daemon, "vm-2").await);
    let wanted: [(&Arc<LibvirtRpc>, EventFilter); 6] = [
        (&monitor, EventFilter::any()),
        (&monitor, "STOP".into()),
        (&again, "STOP".into()),
        (&monitor, EventFilter::name("STOP").ignore_case()),
        (&monitor, EventFilter::glob("STOP")),
        (&other, "STOP".into()),
    ];
    let mut streams = Vec::new();
    let mut next_id = 20;
    for (number, (monitor, filter)) in wanted.into_iter().enumerate() {
        let subscribing = subscribe(monitor, EventOptions::new(filter));
        settle().await;
        // The third joins the second's.
        if number != 2 {
            daemon.register(next_id).await;
            next_id += 1;
        }
        streams.push(subscribing.await.unwrap().unwrap());
    }
    assert!(daemon.sent_by_now().await.is_empty());
    // The daemon sends each registration its own copy.
    daemon.event(20, "RESUME", None).await;
    for id in 20..24 {
        daemon.event(id, "STOP", None).await;
    }
    daemon
        .send(event(24, &domain("vm-2"), "STOP", Some(r#"{"of":2}"#)))
        .await;
    assert_eq!(waiting(&mut streams[0]).await, ["RESUME", "STOP"]);
    for stream in &mut streams[1..] {
        assert_eq!(waiting(stream).await, ["STOP"]);
    }
    // Of two that share, the last takes the registration along.
    drop(streams.remove(1));
    assert!(daemon.sent_by_now().await.is_empty());
    drop(streams.remove(1));
    daemon.deregister(21).await;
    drop(streams.remove(0));
    daemon.deregister(20).await;
}

#[tokio::test(start_paused = true)]
async fn all_events_are_asked_for_by_a_pattern_where_the_domain_has_filtered_streams() {
    // libvirtd refuses a registration without a name for a target that has any other.
    let (monitor, mut daemon, stops) = subscribed(EventOptions::new("STOP"), 3).await;
    let subscribing = subscribe(&monitor, EventOptions::default());
    let call = daemon.registration().await;
    assert_eq!(call.args.event.as_deref(), Some(".*"));
    assert_eq!(call.args.flags.0, 1);
    daemon.registered(&call, 4).await;
    let mut all = subscribing.await.unwrap().unwrap();
    // Another one shares it, whatever words it was asked for by.
    let mut again = monitor.events().await.unwrap();
    daemon.event(4, "RESUME", None).await;
    assert_eq!(waiting(&mut all).await, ["RESUME"]);
    assert_eq!(waiting(&mut again).await, ["RESUME"]);
    drop((all, again));
    daemon.deregister(4).await;
    // While a filtered one is being taken back it may still be in the way.
    drop(stops);
    let subscribing = subscribe(&monitor, EventOptions::default());
    daemon.deregister(3).await;
    let call = daemon.registration().await;
    assert_eq!(call.args.event.as_deref(), Some(".*"));
    daemon.registered(&call, 5).await;
    drop(subscribing.await.unwrap().unwrap());
    daemon.deregister(5).await;
    // With nothing else there, it is asked for plainly again.
    let subscribing = subscribe(&monitor, EventOptions::default());
    let call = daemon.registration().await;
    assert_eq!((call.args.event.as_deref(), call.args.flags.0), (None, 0));
    daemon.registered(&call, 6).await;
    subscribing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_filtered_registration_waits_for_the_reply_to_one_for_all() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let other = Arc::new(monitor_on(&libvirt, &mut daemon, "vm-2").await);
    let all = subscribe(&monitor, EventOptions::default());
    let call = daemon.registration().await;
    // The daemon might run it first, and then refuse the other.
    let stops = subscribe(&monitor, EventOptions::new("STOP"));
    let given_up = subscribe(&monitor, EventOptions::new("RESUME"));
    let others = subscribe(&other, EventOptions::new("STOP"));
    let call_of_other = daemon.registration().await;
    assert_eq!(call_of_other.args.dom, Some(domain("vm-2")));
    daemon.registered(&call_of_other, 9).await;
    others.await.unwrap().unwrap();
    daemon.deregister(9).await;
    given_up.abort();
    assert!(daemon.sent_by_now().await.is_empty());
    // Whatever becomes of it, the filtered one is sent then, and has its own outcome.
    daemon.error(&call, 38, "no luck").await;
    assert_eq!(all.await.unwrap().unwrap_err().libvirt_code(), Some(38));
    let call = daemon.registration().await;
    assert_eq!(call.args.event.as_deref(), Some("STOP"));
    daemon.registered(&call, 5).await;
    let mut stops = stops.await.unwrap().unwrap();
    daemon.event(5, "STOP", None).await;
    assert_eq!(waiting(&mut stops).await, ["STOP"]);
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_daemon_sends_beyond_the_filter_takes_no_room() {
    // One that the daemon cannot be told, one that it can, and one that is left to a predicate in part.
    for filter in [
        EventFilter::regex("^STOP$").unwrap(),
        "STOP".into(),
        EventFilter::regex("S")
            .unwrap()
            .when(|event| event.name == "STOP"),
    ] {
        let options = EventOptions::new(filter).queue(2);
        let (_monitor, mut daemon, mut events) = subscribed(options, 3).await;
        daemon.event(3, "STOP", None).await;
        for _ in 0..100 {
            daemon.event(3, "RTC", Some("{}")).await;
        }
        daemon.event(3, "STOP", None).await;
        assert_eq!(waiting(&mut events).await, ["STOP", "STOP"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_predicate_is_asked_by_the_stream_and_only_about_its_names() {
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let filter = EventFilter::glob("S*").when({
        let asked = asked.clone();
        move |event| {
            asked.lock().unwrap().push(event.name.clone());
            event.data.is_some()
        }
    });
    let (_monitor, mut daemon, mut events) = subscribed(EventOptions::new(filter), 3).await;
    daemon.event(3, "RESUME", Some("{}")).await;
    daemon.event(3, "STOP", None).await;
    daemon.event(3, "SHUTDOWN", Some("{}")).await;
    settle().await;
    assert!(asked.lock().unwrap().is_empty(), "not by the connection");
    assert_eq!(waiting(&mut events).await, ["SHUTDOWN"]);
    assert_eq!(*asked.lock().unwrap(), ["STOP", "SHUTDOWN"]);
}

#[tokio::test(start_paused = true)]
async fn each_stream_has_its_own_bound_and_says_what_it_lost() {
    let (monitor, mut daemon) = monitor(quiet().event_queue(4)).await;
    let monitor = Arc::new(monitor);
    let options = [
        EventOptions::default(),
        EventOptions::default().queue(2),
        EventOptions::default()
            .queue(2)
            .overflow(Overflow::DropNewest),
        EventOptions::default().queue(2).overflow(Overflow::End),
    ];
    let mut streams = Vec::new();
    for (number, options) in options.into_iter().enumerate() {
        let subscribing = subscribe(&monitor, options);
        if number == 0 {
            daemon.register(3).await;
        }
        streams.push(subscribing.await.unwrap().unwrap());
    }
    for name in ["1", "2", "3", "4", "5"] {
        daemon.event(3, name, None).await;
    }
    assert_eq!(
        waiting(&mut streams[0]).await,
        ["LOST 1", "2", "3", "4", "5"]
    );
    assert_eq!(waiting(&mut streams[1]).await, ["LOST 3", "4", "5"]);
    assert_eq!(waiting(&mut streams[2]).await, ["1", "2", "LOST 3"]);
    assert_eq!(waiting(&mut streams[3]).await, ["1", "2", "LOST 1"]);
    daemon.event(3, "6", None).await;
    for stream in &mut streams[..3] {
        assert_eq!(waiting(stream).await, ["6"]);
    }
    assert!(item(&mut streams[3]).await.is_none(), "it has ended");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_decode_is_an_error_in_a_filtered_stream_too() {
    let (_monitor, mut daemon, mut events) = subscribed(EventOptions::new("STOP"), 3).await;
    let mut broken = event(3, &domain(DOMAIN), "STOP", None);
    broken.payload = encoded(&3i32);
    daemon.send(broken).await;
    assert!(matches!(
        item(&mut events).await,
        Some(Err(Error::Decode { .. }))
    ));
    daemon.event(3, "STOP", None).await;
    assert_eq!(waiting(&mut events).await, ["STOP"]);
}

#[tokio::test(start_paused = true)]
async fn disconnecting_ends_a_filtered_stream() {
    let (monitor, mut daemon, mut events) = subscribed(EventOptions::new("STOP"), 3).await;
    daemon.event(3, "STOP", None).await;
    settle().await;
    let (ended, ()) = tokio::join!(monitor.disconnect(), daemon.close());
    ended.unwrap();
    assert_eq!(waiting(&mut events).await, ["STOP"]);
    assert!(item(&mut events).await.is_none());
}
