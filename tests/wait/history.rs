//! The history of a monitor's events.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{
    After, EndCause, Error, EventFilter, Found, History, HistoryEntry, Phase, Wait, WaitExt,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::stand_in::{StandIn, event, peer_closed};
use super::{LATER, cause, failure, timed_out};

async fn recorded(capacity: usize) -> (StandIn, History) {
    let monitor = StandIn::new();
    let history = monitor.history(capacity).await.unwrap();
    (monitor, history)
}

/// The clock is paused, so this ends when nobody has anything left to do.
async fn all_is_quiet() {
    sleep(Duration::from_millis(1)).await;
}

fn numbers(found: &Found) -> Vec<i64> {
    found.events.iter().map(number).collect()
}

fn number(entry: &HistoryEntry) -> i64 {
    let data: Value = entry.event.data_as().unwrap();
    data["n"].as_i64().unwrap_or(-1)
}

/// Events of this name with numbers.
async fn emit(monitor: &StandIn, name: &str, numbers: impl IntoIterator<Item = i64>) {
    for n in numbers {
        monitor.emit(name, json!({"n": n}));
    }
    all_is_quiet().await;
}

fn getting(
    history: &History,
    filter: impl Into<EventFilter>,
    after: After,
) -> JoinHandle<Result<Found, Error>> {
    let (history, filter) = (history.clone(), filter.into());
    tokio::spawn(async move { history.get_events(filter, after, LATER).await })
}

fn lost(error: Error) -> u64 {
    match error {
        Error::EventsLost(number) => number,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_found_by_name_and_by_what_they_came_after() {
    let (monitor, history) = recorded(100).await;
    assert_eq!((history.mark(), history.len()), (0, 0));
    let started = Instant::now().into_std();
    emit(&monitor, "A", [1]).await;
    emit(&monitor, "B", [2]).await;
    let mark = history.mark();
    sleep(Duration::from_secs(3)).await;
    emit(&monitor, "A", [3, 4]).await;
    let find = |filter: EventFilter, after| numbers(&history.find_events(filter, after));
    assert_eq!(find("A".into(), After::Any), [1, 3, 4]);
    assert_eq!(find("A".into(), After::Seq(mark)), [3, 4]);
    assert_eq!(find(EventFilter::any(), After::Seq(mark - 1)), [2, 3, 4]);
    assert_eq!(
        find(EventFilter::glob("?").when(|it| it.name == "B"), After::Any),
        [2]
    );
    assert!(find("C".into(), After::Any).is_empty());
    let all = history.find_events(EventFilter::any(), After::Any);
    assert_eq!(
        all.events.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    assert_eq!((all.mark, all.missed, history.len()), (4, 0, 4));
    // When they came, by the clock here.
    let arrived = |at: usize| all.events[at].at.duration_since(started);
    assert_eq!(arrived(0), Duration::ZERO);
    assert!(arrived(2) >= Duration::from_secs(3) && arrived(2) == arrived(3));
}

/// go-qmp's meaning: whole seconds, the given one included. QEMU's host may set its clock back, and QEMU delays some events
/// (P23), so the times are in no order.
#[tokio::test(start_paused = true)]
async fn events_are_found_by_the_hosts_time_in_any_order() {
    let (monitor, history) = recorded(100).await;
    for (n, seconds) in [100, 103, 50, 101, -1, 102].into_iter().enumerate() {
        monitor.emit_at(seconds, "A", json!({"n": n}));
    }
    all_is_quiet().await;
    let find = |seconds| numbers(&history.find_events("A", After::UnixSecs(seconds)));
    assert_eq!(find(101), [1, 3, 5]);
    assert_eq!(find(100), [0, 1, 3, 5]);
    assert!(find(104).is_empty());
    assert_eq!(find(-1), [0, 1, 2, 3, 4, 5]);
    // What comes while one waits counts in the same way.
    let waiting = getting(&history, "A", After::UnixSecs(104));
    all_is_quiet().await;
    monitor.emit_at(90, "A", json!({"n": 6}));
    monitor.emit_at(104, "A", json!({"n": 7}));
    assert_eq!(numbers(&waiting.await.unwrap().unwrap()), [7]);
}

#[tokio::test(start_paused = true)]
async fn getting_gives_all_that_is_there_or_the_first_that_comes() {
    let (monitor, history) = recorded(100).await;
    emit(&monitor, "A", [1, 2, 3]).await;
    let found = history.get_events("A", After::Any, LATER).await.unwrap();
    assert_eq!(numbers(&found), [1, 2, 3]);
    let found = history.get_events("A", After::Seq(1), LATER).await.unwrap();
    assert_eq!((numbers(&found), found.mark), (vec![2, 3], 3));
    let waiting = getting(&history, EventFilter::any(), After::Seq(found.mark));
    all_is_quiet().await;
    assert!(!waiting.is_finished());
    emit(&monitor, "B", [4, 5]).await;
    let found = waiting.await.unwrap().unwrap();
    assert_eq!((numbers(&found), found.mark), (vec![4], 4));
    // Nothing is missed between two calls.
    let found = history
        .get_events("B", After::Seq(found.mark), LATER)
        .await
        .unwrap();
    assert_eq!(numbers(&found), [5]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_to_the_millisecond() {
    let (monitor, history) = recorded(100).await;
    emit(&monitor, "A", [1]).await;
    let noise = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            loop {
                sleep(Duration::from_millis(3)).await;
                monitor.emit("A", json!({"n": 0}));
            }
        }
    });
    let filter = EventFilter::name("A").when(|_| false);
    let limit = Duration::from_millis(500);
    let started = Instant::now();
    let error = history
        .get_events(filter.clone(), After::Any, limit)
        .await
        .unwrap_err();
    assert_eq!(timed_out(error), (Phase::Event, false));
    let error = history
        .wait_for(filter, After::Any, limit)
        .await
        .unwrap_err();
    assert_eq!(timed_out(error), (Phase::Event, false));
    assert_eq!(started.elapsed(), 2 * limit);
    noise.abort();
}

#[tokio::test(start_paused = true)]
async fn waits_take_the_history_and_then_what_comes() {
    let (monitor, history) = recorded(100).await;
    let mark = history.mark();
    monitor.job("a", "created");
    monitor.job("a", "running");
    all_is_quiet().await;
    let entry = history
        .wait_for(Wait::job_status("a", "running"), After::Seq(mark), LATER)
        .await;
    assert_eq!(entry.unwrap().seq, 2);
    let waiting = tokio::spawn({
        let history = history.clone();
        async move {
            history
                .wait_for(Wait::job_status("a", "ready"), After::Seq(mark), LATER)
                .await
        }
    });
    all_is_quiet().await;
    monitor.job("b", "ready");
    monitor.job("a", "ready");
    assert_eq!(waiting.await.unwrap().unwrap().seq, 4);
    monitor.emit(
        "BLOCK_JOB_COMPLETED",
        json!({"device": "a", "error": "No space"}),
    );
    monitor.job("a", "concluded");
    all_is_quiet().await;
    // It was ready before that.
    let ready = || Wait::job_status("a", "ready");
    assert_eq!(
        history
            .wait_for(ready(), After::Seq(mark), LATER)
            .await
            .unwrap()
            .seq,
        4
    );
    let error = history
        .wait_for(ready(), After::Seq(4), LATER)
        .await
        .unwrap_err();
    assert_eq!(
        failure(error),
        ("No space".to_owned(), Some("JOB_STATUS_CHANGE".to_owned()))
    );
    // Nothing was asked.
    assert!(monitor.commands().is_empty());
}

#[tokio::test(start_paused = true)]
async fn many_wait_for_one_event_and_each_for_its_own() {
    let (monitor, history) = recorded(4).await;
    let both = [
        getting(&history, "A", After::Any),
        getting(&history, EventFilter::any(), After::Any),
    ];
    let each: Vec<_> = (0..20)
        .map(|n| {
            let mine = move |event: &libvirt_qmp::Event| {
                event.data_as::<Value>().is_ok_and(|data| data["n"] == n)
            };
            getting(&history, EventFilter::name("B").when(mine), After::Any)
        })
        .collect();
    all_is_quiet().await;
    emit(&monitor, "A", [7]).await;
    for task in both {
        assert_eq!(numbers(&task.await.unwrap().unwrap()), [7]);
    }
    emit(&monitor, "B", (0..20).rev()).await;
    for (n, task) in each.into_iter().enumerate() {
        assert_eq!(numbers(&task.await.unwrap().unwrap()), [n as i64]);
    }
}

/// Where go-qmp loses all of them: those that wait have what they wait for, however small the ring is.
#[tokio::test(start_paused = true)]
async fn a_burst_that_overruns_the_ring_takes_nothing_from_those_who_wait() {
    let (monitor, history) = recorded(1).await;
    let waiting = getting(&history, "WANTED", After::Any);
    all_is_quiet().await;
    (0..5000).for_each(|n| monitor.emit("NOISE", json!({"n": n})));
    monitor.emit("WANTED", json!({"n": 1}));
    (0..5000).for_each(|n| monitor.emit("NOISE", json!({"n": n})));
    assert_eq!(waiting.await.unwrap().unwrap().events[0].seq, 5001);
    all_is_quiet().await;
    assert_eq!((history.len(), history.mark()), (1, 10_001));
}

#[tokio::test(start_paused = true)]
async fn an_overrun_since_the_mark_is_told() {
    let (monitor, history) = recorded(3).await;
    emit(&monitor, "A", [1]).await;
    let mark = history.mark();
    emit(&monitor, "A", 2..=9).await;
    let found = history.find_events("A", After::Seq(mark));
    assert_eq!((numbers(&found), found.missed), (vec![7, 8, 9], 5));
    let found = history
        .get_events("A", After::Seq(mark), LATER)
        .await
        .unwrap();
    assert_eq!((numbers(&found), found.missed), (vec![7, 8, 9], 5));
    // What is not there may be among them: no waiting in vain.
    let started = Instant::now();
    let error = history
        .get_events("B", After::Seq(mark), LATER)
        .await
        .unwrap_err();
    assert_eq!(lost(error), 5);
    let error = history
        .wait_for("B", After::Seq(mark), LATER)
        .await
        .unwrap_err();
    assert_eq!(lost(error), 5);
    assert_eq!(started.elapsed(), Duration::ZERO);
    // It is there all the same.
    let last =
        EventFilter::any().when(|event| event.data_as::<Value>().is_ok_and(|data| data["n"] == 9));
    assert_eq!(
        history
            .wait_for(last, After::Seq(mark), LATER)
            .await
            .unwrap()
            .seq,
        9
    );
    assert_eq!(history.find_events("A", After::Seq(found.mark)).missed, 0);
    assert_eq!(history.find_events("A", After::Any).missed, 0);
    // A mark that was never given.
    let found = history.find_events("A", After::Seq(u64::MAX));
    assert!(found.events.is_empty() && found.missed == 0);
}

#[tokio::test(start_paused = true)]
async fn events_that_never_came_are_told() {
    let (monitor, history) = recorded(100).await;
    let mark = history.mark();
    let waiting = [
        getting(&history, "B", After::Any),
        getting(&history, "B", After::Seq(mark)),
    ];
    let other = tokio::spawn({
        let history = history.clone();
        async move { history.wait_for("B", After::Any, LATER).await.map(|_| ()) }
    });
    all_is_quiet().await;
    emit(&monitor, "A", [1]).await;
    monitor.fail(Error::EventsLost(5));
    emit(&monitor, "A", [2]).await;
    for task in waiting {
        assert_eq!(lost(task.await.unwrap().unwrap_err()), 5);
    }
    assert_eq!(lost(other.await.unwrap().unwrap_err()), 5);
    let found = history.find_events("A", After::Seq(mark));
    assert_eq!(
        (numbers(&found), found.missed, found.mark),
        (vec![1, 2], 5, 7)
    );
    assert_eq!(history.find_events("A", After::Seq(6)).missed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_told_to_those_who_wait_and_counts_as_one_afterwards() {
    let (monitor, history) = recorded(100).await;
    let mark = history.mark();
    let waiting = getting(&history, "B", After::Any);
    all_is_quiet().await;
    emit(&monitor, "A", [1]).await;
    monitor.fail(Error::Gap {
        cause: Arc::new(EndCause::PeerClosed),
    });
    emit(&monitor, "A", [2]).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Gap { .. }), "{error:?}");
    let found = history.find_events("A", After::Seq(mark));
    assert_eq!(
        (numbers(&found), found.missed, found.mark),
        (vec![1, 2], 1, 3)
    );
    let none = history.get_events("B", After::Seq(mark), LATER).await;
    assert_eq!(lost(none.unwrap_err()), 1);
}

#[tokio::test(start_paused = true)]
async fn pulling_takes_what_came_since() {
    let (monitor, history) = recorded(3).await;
    let mut cursor = 0;
    assert!(history.pull(&mut cursor).events.is_empty());
    emit(&monitor, "A", [1, 2]).await;
    assert_eq!(numbers(&history.pull(&mut cursor)), [1, 2]);
    assert!(history.pull(&mut cursor).events.is_empty());
    emit(&monitor, "B", 3..=7).await;
    let found = history.pull(&mut cursor);
    assert_eq!(
        (numbers(&found), found.missed, cursor),
        (vec![5, 6, 7], 2, 7)
    );
    let found = history.pull(&mut cursor);
    assert!(found.events.is_empty() && found.missed == 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_cleared_is_neither_found_nor_missed() {
    let (monitor, history) = recorded(3).await;
    emit(&monitor, "A", [1, 2]).await;
    history.clear();
    assert!(history.is_empty());
    let found = history.find_events("A", After::Seq(0));
    assert!(found.events.is_empty() && found.missed == 0);
    let waiting = getting(&history, "A", After::Seq(0));
    emit(&monitor, "A", [3]).await;
    assert_eq!(waiting.await.unwrap().unwrap().events[0].seq, 3);
    emit(&monitor, "A", 4..=7).await;
    assert_eq!(history.find_events("A", After::Seq(1)).missed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_predicate_that_panics_harms_only_who_gave_it() {
    let (monitor, history) = recorded(100).await;
    let bad = || EventFilter::any().when(|_| panic!("mine"));
    let waiting = getting(&history, bad(), After::Any);
    let waiting_too = tokio::spawn({
        let history = history.clone();
        async move { history.wait_for(bad(), After::Any, LATER).await }
    });
    let good = getting(&history, "A", After::Any);
    all_is_quiet().await;
    emit(&monitor, "A", [1]).await;
    assert!(waiting.await.unwrap_err().is_panic());
    assert!(waiting_too.await.unwrap_err().is_panic());
    assert_eq!(numbers(&good.await.unwrap().unwrap()), [1]);
    let finding = tokio::spawn({
        let history = history.clone();
        async move { history.find_events(bad(), After::Any) }
    });
    assert!(finding.await.unwrap_err().is_panic());
    assert!(
        getting(&history, bad(), After::Any)
            .await
            .unwrap_err()
            .is_panic()
    );
    // A predicate may use the history.
    let inner = history.clone();
    let found = history.find_events(
        EventFilter::any().when(move |_| inner.mark() == 1),
        After::Any,
    );
    assert_eq!(numbers(&found), [1]);
    emit(&monitor, "A", [2]).await;
    assert_eq!(numbers(&history.find_events("A", After::Any)), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn the_end_reaches_all_who_wait_and_will() {
    let (monitor, history) = recorded(100).await;
    let waiting = getting(&history, "B", After::Any);
    all_is_quiet().await;
    emit(&monitor, "A", [1]).await;
    monitor.end(peer_closed());
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(cause(&error), EndCause::PeerClosed));
    let started = Instant::now();
    let error = history
        .get_events("B", After::Any, LATER)
        .await
        .unwrap_err();
    assert!(matches!(cause(&error), EndCause::PeerClosed));
    let error = history.wait_for("B", After::Any, LATER).await.unwrap_err();
    assert!(matches!(cause(&error), EndCause::PeerClosed));
    assert_eq!(started.elapsed(), Duration::ZERO);
    // What came before is there.
    let found = history.get_events("A", After::Any, LATER).await.unwrap();
    assert_eq!(numbers(&found), [1]);
    assert!(history.wait_for("A", After::Any, LATER).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_just_ends_is_explained_by_its_events() {
    for (before, is_closed) in [
        (vec![], true),
        (vec!["SHUTDOWN"], false),
        (vec!["SHUTDOWN", "RESET"], true),
    ] {
        let (monitor, history) = recorded(100).await;
        before.iter().for_each(|name| monitor.emit(name, json!({})));
        monitor.end_streams();
        let error = history
            .get_events("B", After::Any, LATER)
            .await
            .unwrap_err();
        assert_eq!(
            matches!(error, Error::Closed),
            is_closed,
            "{before:?} {error:?}"
        );
        assert!(error.is_disconnected());
    }
}

/// On QEMU's own socket the first who subscribes also gets the events since the handshake; a history takes them.
#[tokio::test(start_paused = true)]
async fn what_was_kept_for_the_first_stream_is_history() {
    let monitor = StandIn::new();
    monitor.hold(Ok(event("STOP")));
    let history = monitor.history(10).await.unwrap();
    let found = history.get_events("STOP", After::Any, LATER).await.unwrap();
    assert_eq!(found.events.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_clone_unsubscribes() {
    let (monitor, history) = recorded(0).await;
    monitor.subscribers(1).await;
    let clone = history.clone();
    drop(history);
    emit(&monitor, "A", [1, 2]).await;
    // There is always room for one.
    assert_eq!(numbers(&clone.find_events("A", After::Any)), [2]);
    monitor.subscribers(1).await;
    drop(clone);
    monitor.subscribers(0).await;
}

#[test]
fn the_end_of_the_runtime_reaches_those_who_wait_elsewhere() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let feeding = runtime();
    let (_monitor, history) = feeding.block_on(recorded(10));
    drop(feeding);
    let error = runtime()
        .block_on(history.get_events("A", After::Any, LATER))
        .unwrap_err();
    assert!(matches!(cause(&error), EndCause::RuntimeGone));
}
