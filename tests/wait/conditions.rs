//! `wait_for`, `run_and_wait` and `on_event` on a monitor.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libvirt_qmp::{
    Command, CommandError, EndCause, Error, ErrorClass, Event, EventFilter, Monitor, Phase, Tray,
    Wait, WaitExt, Waited,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::stand_in::{Answer, StandIn, event, peer_closed, refused};
use super::{LATER, cause, failure, timed_out};

/// Waits in a task of its own; returns once it listens.
async fn waiting(
    monitor: &StandIn,
    wait: impl Into<Wait>,
    subscribers: usize,
) -> JoinHandle<Result<Waited, Error>> {
    let (wait, own) = (wait.into(), monitor.clone());
    let task = tokio::spawn(async move { own.wait_for(wait, LATER).await });
    monitor.subscribers(subscribers).await;
    task
}

fn number(event: &Event) -> i64 {
    let data: Value = event.data_as().unwrap();
    data["n"].as_i64().unwrap()
}

fn numbered(name: &'static str, wanted: i64) -> EventFilter {
    EventFilter::name(name).when(move |event| number(event) == wanted)
}

/// The condition in which go-qmp spins and forgets its deadline: another event of the same kind in the same second.
#[tokio::test(start_paused = true)]
async fn another_event_of_the_same_second_comes_first() {
    let monitor = StandIn::new();
    let task = waiting(&monitor, Wait::device_deleted("blk0"), 1).await;
    let deleted = |id: &str| json!({"device": id, "path": format!("/machine/peripheral/{id}")});
    monitor.emit("DEVICE_DELETED", deleted("blk1"));
    monitor.emit(
        "DEVICE_DELETED",
        json!({"path": "/machine/peripheral/blk0/x"}),
    );
    monitor.emit("DEVICE_DELETED", deleted("blk0"));
    let met = task.await.unwrap().unwrap().into_event().unwrap();
    assert_eq!(met.data_as::<Value>().unwrap(), deleted("blk0"));
    monitor.subscribers(0).await;
}

#[tokio::test(start_paused = true)]
async fn the_wanted_event_is_the_last_of_a_burst() {
    let monitor = StandIn::new();
    for _ in 0..20 {
        let task = waiting(&monitor, numbered("RTC_CHANGE", 3), 1).await;
        (0..4).for_each(|n| monitor.emit("RTC_CHANGE", json!({"n": n})));
        assert_eq!(number(task.await.unwrap().unwrap().event().unwrap()), 3);
        monitor.subscribers(0).await;
    }
    // More than are judged in one turn.
    let task = waiting(&monitor, numbered("RTC_CHANGE", 999), 1).await;
    (0..1000).for_each(|n| monitor.emit("RTC_CHANGE", json!({"n": n})));
    assert_eq!(number(task.await.unwrap().unwrap().event().unwrap()), 999);
}

#[tokio::test(start_paused = true)]
async fn the_hosts_clock_does_not_matter() {
    let monitor = StandIn::new();
    let task = waiting(&monitor, numbered("RTC_CHANGE", 2), 1).await;
    monitor.emit_at(1_700_000_100, "RTC_CHANGE", json!({"n": 1}));
    monitor.emit_at(-1, "RTC_CHANGE", json!({"n": 2}));
    assert_eq!(number(task.await.unwrap().unwrap().event().unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn any_event_will_do_where_that_is_said() {
    let monitor = StandIn::new();
    let task = waiting(&monitor, EventFilter::any(), 1).await;
    monitor.emit("SOMETHING_NEW", json!({}));
    assert_eq!(
        task.await.unwrap().unwrap().event().unwrap().name,
        "SOMETHING_NEW"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_whatever_comes() {
    let monitor = StandIn::new();
    let noise = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            loop {
                sleep(Duration::from_millis(1)).await;
                monitor.emit("DEVICE_DELETED", json!({"device": "blk1", "path": "/x"}));
            }
        }
    });
    let started = Instant::now();
    let limit = Duration::from_millis(250);
    let error = monitor
        .wait_for(EventFilter::name("DEVICE_DELETED").when(|_| false), limit)
        .await;
    assert_eq!(started.elapsed(), limit);
    assert_eq!(timed_out(error.unwrap_err()), (Phase::Event, false));
    noise.abort();
    for limit in [Duration::ZERO, Duration::from_millis(1)] {
        let started = Instant::now();
        timed_out(monitor.wait_for("STOP", limit).await.unwrap_err());
        assert_eq!(started.elapsed(), limit);
    }
    monitor.subscribers(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_names_what_was_waited_for() {
    let limit = Duration::from_secs(1);
    let stop = || Command::new("stop");
    let started = Instant::now();
    let deaf = StandIn::without_events();
    let error = deaf.wait_for("STOP", limit).await.unwrap_err();
    assert_eq!(timed_out(error), (Phase::Subscription, false));
    let error = deaf.run_and_wait(stop(), "STOP", limit).await.unwrap_err();
    assert_eq!(timed_out(error), (Phase::Subscription, false));
    assert!(deaf.commands().is_empty());

    let dumb = StandIn::with(|_, _, _| Answer::Never);
    let error = dumb.run_and_wait(stop(), "STOP", limit).await.unwrap_err();
    assert_eq!(timed_out(error), (Phase::Reply, true));

    let slow = StandIn::new();
    let error = slow.run_and_wait(stop(), "STOP", limit).await.unwrap_err();
    assert_eq!(timed_out(error), (Phase::Event, true));
    assert_eq!(started.elapsed(), 4 * limit);
}

#[tokio::test(start_paused = true)]
async fn no_deadline_is_no_deadline() {
    let monitor = StandIn::new();
    for limit in [None, Some(Duration::MAX)] {
        let own = monitor.clone();
        let task = tokio::spawn(async move { own.wait_for("STOP", limit).await });
        sleep(Duration::from_secs(1 << 24)).await;
        assert!(!task.is_finished());
        monitor.emit("STOP", json!({}));
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn many_wait_for_one_event_and_each_for_its_own() {
    let monitor = StandIn::new();
    let first = waiting(&monitor, "STOP", 1).await;
    let second = waiting(&monitor, "STOP", 2).await;
    monitor.emit("STOP", json!({}));
    for task in [first, second] {
        assert_eq!(task.await.unwrap().unwrap().event().unwrap().name, "STOP");
    }
    monitor.subscribers(0).await;
    let mut tasks = Vec::new();
    for n in 0..20 {
        tasks.push(waiting(&monitor, numbered("RTC_CHANGE", n as i64), n + 1).await);
    }
    (0..20)
        .rev()
        .for_each(|n| monitor.emit("RTC_CHANGE", json!({"n": n})));
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(
            number(task.await.unwrap().unwrap().event().unwrap()),
            n as i64
        );
    }
    monitor.subscribers(0).await;
}

/// QEMU's own socket keeps the events that nobody has taken yet for the first who subscribes.
#[tokio::test(start_paused = true)]
async fn what_came_before_does_not_count() {
    let monitor = StandIn::with(|monitor, name, _| {
        monitor.emit("STOP", json!({"n": 2, "after": name}));
        json!({}).into()
    });
    let old = || Ok(event("STOP"));
    monitor.hold(old());
    monitor.hold(Err(Error::EventsLost(7)));
    let error = monitor.wait_for("STOP", Duration::from_secs(1)).await;
    timed_out(error.unwrap_err());
    monitor.hold(old());
    monitor.hold(Err(Error::EventsLost(7)));
    let (_, waited) = monitor
        .run_and_wait(Command::new("stop"), "STOP", LATER)
        .await
        .unwrap();
    assert_eq!(number(waited.event().unwrap()), 2);
    // What comes while a wait subscribes does count, but nothing that is older than a command is caused by it.
    let slow = StandIn::slow_to_subscribe(|monitor, _, _| {
        monitor.emit("STOP", json!({"n": 2}));
        json!({}).into()
    });
    slow.hold(old());
    slow.wait_for("STOP", LATER).await.unwrap();
    slow.hold(old());
    let (_, waited) = slow
        .run_and_wait(Command::new("stop"), "STOP", LATER)
        .await
        .unwrap();
    assert_eq!(number(waited.event().unwrap()), 2);
    // But the end of the connection does.
    monitor.hold(old());
    monitor.hold(Err(peer_closed()));
    let error = monitor
        .run_and_wait(Command::new("cont"), "STOP", LATER)
        .await;
    assert!(matches!(cause(&error.unwrap_err()), EndCause::PeerClosed));
    assert_eq!(monitor.commands(), ["stop"]);
}

/// P21: the event comes first, then the reply.
#[tokio::test(start_paused = true)]
async fn the_event_of_a_command_may_precede_its_reply() {
    let monitor = StandIn::with(|monitor, _, arguments| {
        monitor.emit("STOP", json!({}));
        assert_eq!(*arguments, json!({"x": 1}));
        json!({"done": 1}).into()
    });
    let command = Command::new("stop").arg("x", 1);
    let (value, waited) = monitor.run_and_wait(command, "STOP", LATER).await.unwrap();
    assert_eq!(value.get(), r#"{"done":1}"#);
    assert_eq!(waited.event().unwrap().name, "STOP");
    monitor.subscribers(0).await;

    // And it may come long after.
    let monitor = StandIn::new();
    let later = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            sleep(LATER / 2).await;
            monitor.emit("STOP", json!({}));
        }
    });
    let object: &dyn Monitor = &monitor;
    let (_, waited) = object
        .run_and_wait(Command::new("stop"), Wait::event("STOP"), LATER)
        .await
        .unwrap();
    assert!(!waited.is_already());
    later.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_command_that_fails_ends_the_wait() {
    let monitor = StandIn::with(|monitor, _, _| {
        monitor.emit("STOP", json!({}));
        refused(ErrorClass::CommandNotFound)
    });
    let started = Instant::now();
    let error = monitor
        .run_and_wait(Command::new("x"), "STOP", LATER)
        .await
        .unwrap_err();
    assert!(error.is_command_not_found(), "{error:?}");
    // Also where the wait has failed before.
    let wait = Wait::event("RESET").fails_on("STOP", |_| "stopped".to_owned());
    let error = monitor
        .run_and_wait(Command::new("x"), wait, LATER)
        .await
        .unwrap_err();
    assert!(error.is_command_not_found(), "{error:?}");
    assert_eq!(started.elapsed(), Duration::ZERO);
    monitor.subscribers(0).await;

    // One that cannot be sent is not.
    let bad = Command::new("x").args(7);
    let error = monitor
        .run_and_wait(bad.clone(), "STOP", LATER)
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Command(CommandError::NotArguments { .. })),
        "{error:?}"
    );
    let wait = Wait::event("STOP").or_already(bad, |_| true);
    let error = monitor.wait_for(wait, LATER).await.unwrap_err();
    assert!(
        matches!(error, Error::Command(CommandError::NotArguments { .. })),
        "{error:?}"
    );
    assert_eq!(monitor.commands().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_reaches_every_wait() {
    let (never, told) = oneshot::channel();
    let told = Mutex::new(Some(told));
    let monitor = StandIn::with(move |_, name, _| match name {
        "slow" => Answer::When(told.lock().unwrap().take().unwrap()),
        "query-jobs" => json!([{"id": "a", "status": "running"}]).into(),
        _ => json!({}).into(),
    });
    let mut tasks = vec![
        waiting(&monitor, "STOP", 1).await,
        waiting(&monitor, Wait::job_status("a", "ready"), 2).await,
    ];
    // One that has its reply, and one that has not.
    for (name, streams) in [("fast", 3), ("slow", 4)] {
        let own = monitor.clone();
        tasks.push(tokio::spawn(async move {
            let (_, waited) = own.run_and_wait(Command::new(name), "STOP", LATER).await?;
            Ok(waited)
        }));
        monitor.subscribers(streams).await;
    }
    monitor.end(peer_closed());
    drop(never);
    for task in tasks {
        let error = task.await.unwrap().unwrap_err();
        assert!(matches!(cause(&error), EndCause::PeerClosed));
    }
    monitor.subscribers(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_just_ends_is_explained() {
    // The user disconnected.
    let monitor = StandIn::new();
    let task = waiting(&monitor, "STOP", 1).await;
    monitor.close(Error::Closed);
    monitor.end_streams();
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
    // QEMU left, as it had said.
    let monitor = StandIn::new();
    let task = waiting(&monitor, "STOP", 1).await;
    monitor.close(peer_closed());
    monitor.end_streams();
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(cause(&error), EndCause::PeerClosed), "{error:?}");
    // Nobody knows.
    let monitor = StandIn::new();
    let task = waiting(&monitor, "STOP", 1).await;
    monitor.end_streams();
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn lost_events_are_an_error_unless_it_is_known_to_be_met() {
    let monitor = StandIn::with(|_, name, _| match name {
        "query-status" => json!({"running": true, "status": "running"}).into(),
        _ => json!([{"id": "a", "status": "running"}]).into(),
    });
    let lost = |task: JoinHandle<Result<Waited, Error>>| async {
        match task.await.unwrap().unwrap_err() {
            Error::EventsLost(number) => number,
            other => panic!("{other:?}"),
        }
    };
    let task = waiting(&monitor, "STOP", 1).await;
    monitor.fail(Error::EventsLost(3));
    monitor.fail(Error::EventsLost(4));
    assert_eq!(lost(task).await, 7);
    // What comes right after it can still be what is waited for.
    let task = waiting(&monitor, "STOP", 1).await;
    monitor.fail(Error::EventsLost(3));
    monitor.emit("RESET", json!({}));
    monitor.emit("STOP", json!({}));
    assert!(task.await.unwrap().is_ok());
    // There is somebody to ask.
    let task = waiting(
        &monitor,
        Wait::event("RESUME").or_already(Command::new("query-status"), {
            let asked = AtomicUsize::new(0);
            move |_| asked.fetch_add(1, Ordering::Relaxed) == 1
        }),
        1,
    )
    .await;
    monitor.fail(Error::EventsLost(3));
    assert!(task.await.unwrap().unwrap().is_already());
    let task = waiting(&monitor, Wait::job_status("a", "ready"), 1).await;
    monitor.fail(Error::EventsLost(3));
    assert_eq!(lost(task).await, 3);
    monitor.subscribers(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_an_error_unless_it_is_known_to_be_met() {
    let monitor = StandIn::with(|_, _, _| json!({"running": false, "status": "paused"}).into());
    let gap = || Error::Gap {
        cause: Arc::new(EndCause::PeerClosed),
    };
    // Nobody knows how many were missed, whatever else was.
    for errors in [
        vec![gap()],
        vec![Error::EventsLost(3), gap()],
        vec![gap(), Error::EventsLost(3)],
    ] {
        let task = waiting(&monitor, "RESUME", 1).await;
        for error in errors {
            monitor.fail(error);
        }
        let error = task.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Gap { .. }), "{error:?}");
    }
    // What comes after it counts.
    let task = waiting(&monitor, "STOP", 1).await;
    monitor.fail(gap());
    monitor.emit("STOP", json!({}));
    assert!(task.await.unwrap().is_ok());
    // There is somebody to ask.
    let wait = Wait::event("STOP").or_already(Command::new("query-status"), {
        let asked = AtomicUsize::new(0);
        move |_| asked.fetch_add(1, Ordering::Relaxed) == 1
    });
    let task = waiting(&monitor, wait, 1).await;
    monitor.fail(gap());
    assert!(task.await.unwrap().unwrap().is_already());
    monitor.subscribers(0).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_so_already_is_not_waited_for() {
    let monitor = StandIn::with(|_, name, arguments| {
        match name {
        "query-jobs" => json!([{"id": "a", "status": "ready"}, {"id": "b", "status": "concluded", "error": "No space"}]).into(),
        "query-status" => json!({"running": false, "status": "paused"}).into(),
        "query-block" => json!([{"device": "", "qdev": "cd0", "tray_open": true}]).into(),
        "query-block-jobs" => json!([{"device": "j", "status": "ready", "ready": true}]).into(),
        "query-migrate" => json!({"status": "completed"}).into(),
        "qom-list" => {
            assert_eq!(*arguments, json!({"path": "/machine/peripheral/gone"}));
            refused(ErrorClass::DeviceNotFound)
        }
        other => panic!("{other}"),
    }
    });
    for wait in [
        Wait::job_status("a", "ready"),
        Wait::job_status("none", "concluded"),
        Wait::stop(),
        Wait::tray("cd0", Tray::Open),
        Wait::block_job_ready("j"),
        Wait::migration("completed"),
        Wait::device_deleted("gone"),
    ] {
        let what = format!("{wait:?}");
        let waited = monitor.wait_for(wait, LATER).await.expect(&what);
        assert!(
            waited.is_already() && waited.into_event().is_none(),
            "{what}"
        );
    }
    let error = monitor
        .wait_for(Wait::job_status("b", "ready"), LATER)
        .await
        .unwrap_err();
    assert!(error.is_failed());
    assert_eq!(failure(error), ("No space".to_owned(), None));
    // Also after a command that had nothing to do.
    let (_, waited) = monitor
        .run_and_wait(Command::new("query-status"), Wait::stop(), LATER)
        .await
        .unwrap();
    assert!(waited.is_already());
    // An event is needed where nothing else says that all is released.
    let before = monitor.commands().len();
    let gone = Wait::device_deleted("gone");
    let error = monitor
        .run_and_wait(Command::new("query-status"), gone, LATER)
        .await;
    assert_eq!(timed_out(error.unwrap_err()), (Phase::Event, true));
    assert_eq!(monitor.commands().len(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_does_not_wait_for_an_answer() {
    let monitor = StandIn::with(|_, _, _| Answer::Never);
    let task = waiting(&monitor, Wait::stop(), 1).await;
    monitor.emit("STOP", json!({}));
    assert!(!task.await.unwrap().unwrap().is_already());
    // And an answer that is an error decides nothing.
    let monitor = StandIn::with(|_, _, _| refused(ErrorClass::CommandNotFound));
    let task = waiting(&monitor, Wait::job_status("a", "ready"), 1).await;
    monitor.job("a", "ready");
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_tells_why() {
    // One of another kind than block jobs says it only when asked.
    let (tell, told) = oneshot::channel();
    let told = Mutex::new(Some(told));
    let monitor = StandIn::with(move |monitor, name, _| match name {
        "query-jobs" => Answer::When(told.lock().unwrap().take().unwrap()),
        _ => {
            for status in ["created", "running", "aborting", "concluded"] {
                monitor.job("c", status);
            }
            json!({}).into()
        }
    });
    tell.send(Ok(
        json!([{"id": "c", "status": "concluded", "error": "No such directory"}]),
    ))
    .unwrap();
    let create = Command::new("blockdev-create");
    let error = monitor
        .run_and_wait(create, Wait::job_status("c", "pending"), LATER)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "waiting for job c to be pending failed: No such directory"
    );
    assert_eq!(failure(error).1.as_deref(), Some("JOB_STATUS_CHANGE"));
    assert_eq!(monitor.commands(), ["blockdev-create", "query-jobs"]);

    // Nobody answers: it has failed all the same, and by the deadline.
    let monitor = StandIn::with(|_, _, _| Answer::Never);
    let task = waiting(&monitor, Wait::job_status("c", "pending"), 1).await;
    let started = Instant::now();
    monitor.job("c", "concluded");
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(failure(error).0, "it is concluded already");
    assert_eq!(started.elapsed(), LATER);

    // The events of a block job are enough.
    let monitor = StandIn::with(|monitor, _, _| {
        monitor.job("m", "running");
        monitor.emit(
            "BLOCK_JOB_COMPLETED",
            json!({"type": "mirror", "device": "m", "error": "No space"}),
        );
        monitor.job("m", "concluded");
        monitor.job("m", "null");
        json!({}).into()
    });
    for wait in [
        Wait::job_status("m", "ready"),
        Wait::block_job_completed("m"),
        Wait::block_job_ready("m"),
    ] {
        let error = monitor
            .run_and_wait(Command::new("x"), wait, LATER)
            .await
            .unwrap_err();
        assert_eq!(failure(error).0, "No space");
    }
    assert_eq!(monitor.commands(), ["x", "x", "x"]);
}

#[tokio::test(start_paused = true)]
async fn an_unplug_that_the_guest_refuses_fails() {
    let monitor = StandIn::with(|_, _, _| json!([]).into());
    let task = waiting(&monitor, Wait::device_deleted("net0"), 1).await;
    let about = |id: &str| json!({"device": id, "path": format!("/machine/peripheral/{id}")});
    monitor.emit("DEVICE_UNPLUG_GUEST_ERROR", about("net1"));
    monitor.emit("DEVICE_UNPLUG_GUEST_ERROR", about("net0"));
    let error = task.await.unwrap().unwrap_err();
    assert!(
        error.is_failed()
            && error
                .to_string()
                .starts_with("removing device net0 failed: ")
    );
    assert_eq!(
        failure(error).1.as_deref(),
        Some("DEVICE_UNPLUG_GUEST_ERROR")
    );
}

#[tokio::test(start_paused = true)]
async fn a_migration_that_fails_tells_why() {
    let monitor = StandIn::with(|monitor, name, _| match name {
        "query-migrate" => json!({"status": "failed", "error-desc": "No route"}).into(),
        _ => {
            monitor.emit("MIGRATION", json!({"status": "setup"}));
            monitor.emit("MIGRATION", json!({"status": "failed"}));
            json!({}).into()
        }
    });
    let error = monitor
        .run_and_wait(Command::new("migrate"), Wait::migration("completed"), LATER)
        .await;
    assert_eq!(
        failure(error.unwrap_err()),
        ("No route".to_owned(), Some("MIGRATION".to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_predicate_that_panics_harms_only_who_gave_it() {
    let monitor = StandIn::new();
    let bad = waiting(&monitor, EventFilter::any().when(|_| panic!("mine")), 1).await;
    let good = waiting(&monitor, "STOP", 2).await;
    monitor.emit("STOP", json!({}));
    assert!(bad.await.unwrap_err().is_panic());
    good.await.unwrap().unwrap();
    monitor.subscribers(0).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_a_wait_unsubscribes() {
    let monitor = StandIn::new();
    let task = waiting(&monitor, "STOP", 1).await;
    task.abort();
    monitor.subscribers(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_callback_is_called_until_its_handle_goes() {
    let monitor = StandIn::new();
    let (sender, mut called) = mpsc::unbounded_channel();
    let handler = monitor
        .on_event(["STOP", "RESUME"], move |item| {
            let name = item.map_or_else(|error| error.to_string(), |event| event.name);
            sender.send(name).unwrap();
        })
        .await
        .unwrap();
    for name in ["STOP", "RESET", "RESUME"] {
        monitor.emit(name, json!({}));
    }
    monitor.fail(Error::EventsLost(2));
    for expected in ["STOP", "RESUME", &Error::EventsLost(2).to_string()] {
        assert_eq!(called.recv().await.unwrap(), expected);
    }
    assert!(!handler.is_finished());
    drop(handler);
    monitor.subscribers(0).await;
    // The callback is gone too.
    assert!(called.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_is_called_again() {
    let monitor = StandIn::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = monitor
        .on_event(EventFilter::any(), {
            let calls = calls.clone();
            move |_| {
                if calls.fetch_add(1, Ordering::SeqCst) == 0 {
                    panic!("the first time");
                }
            }
        })
        .await
        .unwrap();
    handler.detach();
    let never = EventFilter::any().when(|_| panic!("a predicate"));
    let never = monitor.on_event(never, |_| unreachable!()).await.unwrap();
    monitor.emit("STOP", json!({}));
    monitor.subscribers(1).await;
    assert!(never.is_finished());
    monitor.end(peer_closed());
    monitor.subscribers(0).await;
    // The event, and the reason of the end.
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
