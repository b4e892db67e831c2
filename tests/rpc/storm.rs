//! Events faster than they are taken: nothing waits for a slow reader, and what is lost is counted.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use futures_util::StreamExt;
use libvirt_qmp::protocol::qemu::procedure::ConnectDomainMonitorEventDeregister;
use libvirt_qmp::{Error, EventStream, Monitor};

use super::support::mock::{
    DOMAIN, MockDaemon, bytes_of, domain, event, monitor, monitor_on, quiet, session, settle,
};
use super::{STATUS, item, run};

/// Sends `count` events of `callback_id`, numbered from `first` in their data.
async fn storm(daemon: &mut MockDaemon, callback_id: i32, first: usize, count: usize) {
    let domain = domain(DOMAIN);
    let mut bytes = BytesMut::new();
    for number in first..first + count {
        let data = number.to_string();
        bytes.put(bytes_of(event(callback_id, &domain, "N", Some(&data))));
        if bytes.len() > 60_000 {
            daemon.raw(&bytes.split()).await;
        }
    }
    daemon.raw(&bytes).await;
}

/// Takes what waits in `events`: how many events were lost, and the numbers of those that came, which must rise, with a
/// gap only where one was reported.
async fn take(events: &mut EventStream, last: usize) -> (usize, usize) {
    let (mut lost, mut received, mut next) = (0, 0, 0);
    loop {
        match item(events).await.expect("the stream goes on") {
            Ok(event) => {
                let number: usize = event.data.unwrap().get().parse().unwrap();
                assert_eq!(number, next, "after {lost} lost");
                received += 1;
                next += 1;
                if number == last {
                    return (lost, received);
                }
            }
            Err(Error::EventsLost(number)) => {
                assert!(number > 0);
                lost += usize::try_from(number).unwrap();
                next += usize::try_from(number).unwrap();
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_subscriber_holds_nobody_up_and_learns_what_it_missed() {
    const SENT: usize = 100_000;
    for queue in [1, 7, 1024] {
        let (monitor, mut daemon) = monitor(quiet().event_queue(queue)).await;
        let monitor = Arc::new(monitor);
        let (stalled, ()) = tokio::join!(monitor.events(), daemon.register(1));
        let mut stalled = stalled.unwrap();
        for part in 0..4 {
            let running = run(&monitor, STATUS);
            let call = daemon.command().await;
            storm(&mut daemon, 1, part * SENT / 4, SENT / 4).await;
            daemon.answer(&call, r#"{"return":{}}"#).await;
            running.await.unwrap().unwrap();
        }
        let (lost, received) = take(&mut stalled, SENT - 1).await;
        assert_eq!(lost + received, SENT);
        assert_eq!(received, queue, "the newest are kept, and no more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_keeps_up_misses_nothing_beside_one_that_does_not() {
    const SENT: usize = 10_000;
    let (monitor, mut daemon) = monitor(quiet().event_queue(256)).await;
    let (stalled, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let mut stalled = stalled.unwrap();
    let mut reading = monitor.events().await.unwrap();
    let reading = tokio::spawn(async move { take(&mut reading, SENT - 1).await });
    storm(&mut daemon, 1, 0, SENT).await;
    assert_eq!(reading.await.unwrap(), (0, SENT));
    let (lost, received) = take(&mut stalled, SENT - 1).await;
    assert_eq!((lost, received), (SENT - 256, 256));
}

#[tokio::test(start_paused = true)]
async fn gaps_are_reported_where_they_are() {
    let (monitor, mut daemon) = monitor(quiet().event_queue(4)).await;
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let mut events = events.unwrap();
    let mut sent = 0;
    let mut found = Vec::new();
    // Each burst and what is taken after it.
    for (burst, taken) in [(6, 3), (2, 1), (9, 4)] {
        storm(&mut daemon, 1, sent, burst).await;
        sent += burst;
        settle().await;
        for _ in 0..taken {
            found.push(match item(&mut events).await.unwrap() {
                Ok(event) => event.data.unwrap().get().to_owned(),
                Err(Error::EventsLost(number)) => format!("lost {number}"),
                Err(other) => panic!("{other:?}"),
            });
        }
    }
    // Numbers 0 and 1 went, 2 to 5 were fetched at once; 6 to 12 went while they waited.
    let expected = ["lost 2", "2", "3", "4", "5", "lost 7", "13", "14"];
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn unsubscribing_during_a_storm_is_heard() {
    let (monitor, mut daemon) = monitor(quiet().event_queue(16)).await;
    let monitor = Arc::new(monitor);
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(1));
    storm(&mut daemon, 1, 0, 5_000).await;
    drop(events.unwrap());
    storm(&mut daemon, 1, 5_000, 5_000).await;
    let call = daemon.expect::<ConnectDomainMonitorEventDeregister>().await;
    // What was queued before the deregistration still comes.
    storm(&mut daemon, 1, 10_000, 5_000).await;
    daemon
        .reply::<ConnectDomainMonitorEventDeregister>(&call, &())
        .await;
    storm(&mut daemon, 1, 15_000, 100).await;
    let running = run(&monitor, STATUS);
    let call = daemon.command().await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    running.await.unwrap().unwrap();
    let (events, ()) = tokio::join!(monitor.events(), daemon.register(2));
    events.unwrap();
}

#[tokio::test(start_paused = true)]
async fn subscribing_and_unsubscribing_over_and_over_in_a_storm_leaves_nothing_behind() {
    let (libvirt, mut daemon) = session(quiet().event_queue(16)).await;
    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    for round in 0..100 {
        let subscribing = tokio::spawn({
            let monitor = monitor.clone();
            async move { monitor.events().await.unwrap().next().await.unwrap() }
        });
        let call = daemon.registration().await;
        storm(&mut daemon, round, 0, 50).await;
        daemon.registered(&call, round).await;
        let first = subscribing.await.unwrap();
        assert!(matches!(first, Err(Error::EventsLost(34))), "{first:?}");
        storm(&mut daemon, round, 50, 50).await;
        daemon.deregister(round).await;
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn events_that_nobody_will_ever_want_are_not_kept_for_ever() {
    // While a registration waits for its reply its events are held: a bounded number, and the rest is reported.
    const SENT: usize = 20_000;
    let (monitor, mut daemon) = monitor(quiet().event_queue(SENT)).await;
    let monitor = Arc::new(monitor);
    let subscribing = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.events().await }
    });
    let call = daemon.registration().await;
    storm(&mut daemon, 1, 0, SENT).await;
    daemon.registered(&call, 1).await;
    let mut events = subscribing.await.unwrap().unwrap();
    let (lost, received) = take(&mut events, SENT - 1).await;
    assert_eq!(lost + received, SENT);
    assert!(received < SENT / 2, "{received} were held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_subscribers_on_real_threads_all_get_everything() {
    const SENT: usize = 2_000;
    let (monitor, mut daemon) = monitor(quiet().event_queue(SENT)).await;
    let (first, ()) = tokio::join!(monitor.events(), daemon.register(1));
    let mut streams = vec![first.unwrap()];
    for _ in 0..7 {
        streams.push(monitor.events().await.unwrap());
    }
    let reading: Vec<_> = streams
        .into_iter()
        .map(|mut events| tokio::spawn(async move { take(&mut events, SENT - 1).await }))
        .collect();
    storm(&mut daemon, 1, 0, SENT).await;
    let mut results = HashMap::new();
    for reading in reading {
        *results.entry(reading.await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(results, HashMap::from([((0, SENT), 8)]));
}
