//! Programs made of callbacks. They run on threads, so the clock is the real one, and nothing here depends on it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;

use futures_util::FutureExt;
use libvirt_qmp::{
    CallbackOptions, Callbacks, Command, EndCause, Error, ErrorClass, EventFilter, Monitor,
};
use serde_json::json;
use tokio::time::timeout;

use super::stand_in::{Answer, StandIn, refused};
use super::support::process::{PATIENCE, poll_until};

fn callbacks(monitor: &StandIn, workers: usize) -> Callbacks {
    let options = CallbackOptions::new().workers(workers);
    Callbacks::with_options(Arc::new(monitor.clone()), options)
}

async fn idle(callbacks: &Callbacks) {
    timeout(PATIENCE, callbacks.wait_idle())
        .await
        .expect("nothing goes on");
}

/// What callbacks did, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Who else has it.
    fn holders(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

#[tokio::test]
async fn the_events_of_one_handler_come_in_order() {
    let monitor = StandIn::new();
    let callbacks = callbacks(&monitor, 4);
    let logs = [Log::default(), Log::default()];
    for log in &logs {
        let log = log.clone();
        let handler = callbacks.on_event(EventFilter::glob("N*"), move |_, item| {
            log.add(item.map_or_else(|error| error.to_string(), |event| event.name));
        });
        handler.await.unwrap().detach();
    }
    for n in 0..100 {
        monitor.emit(&format!("N{n}"), json!({}));
        monitor.emit("OTHER", json!({}));
    }
    monitor.fail(Error::EventsLost(3));
    let gap = Error::Gap {
        cause: Arc::new(EndCause::PeerClosed),
    };
    monitor.fail(gap.clone());
    // What has come before is waited for, although nobody has taken it yet.
    idle(&callbacks).await;
    let mut expected: Vec<String> = (0..100).map(|n| format!("N{n}")).collect();
    expected.push(Error::EventsLost(3).to_string());
    expected.push(gap.to_string());
    for log in logs {
        assert_eq!(log.lines(), expected);
    }
}

#[tokio::test]
async fn commands_begin_in_order_and_their_replies_come_back() {
    let monitor = StandIn::with(|_, name, _| match name {
        "bad" => refused(ErrorClass::DeviceNotFound),
        name => json!(name).into(),
    });
    let callbacks = callbacks(&monitor, 1);
    let log = Log::default();
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    for name in &names {
        let log = log.clone();
        callbacks.command(Command::new(name), move |_, reply| {
            log.add(reply.unwrap().get())
        });
    }
    let failed = log.clone();
    callbacks.command(Command::new("bad"), move |_, reply| {
        assert!(reply.unwrap_err().is_device_not_found());
        failed.add("bad");
    });
    let refused = log.clone();
    callbacks.command(Command::new("x").args(7), move |_, reply| {
        assert!(matches!(reply, Err(Error::Command(_))));
        refused.add("refused");
    });
    assert_eq!(monitor.commands().len(), 21);
    idle(&callbacks).await;
    assert_eq!(monitor.commands()[..20], names);
    // One worker takes them in order too.
    let mut expected: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    expected.extend(["bad".to_owned(), "refused".to_owned()]);
    assert_eq!(log.lines(), expected);
    assert_eq!(callbacks.panics(), 0);
}

#[tokio::test]
async fn a_callback_that_panics_harms_no_other() {
    let monitor = StandIn::new();
    let log = Log::default();
    let said = log.clone();
    let options = CallbackOptions::new().workers(1).on_panic(move |text| {
        said.add(text);
        panic!("the handler too");
    });
    let callbacks = Callbacks::with_options(Arc::new(monitor.clone()), options);
    let seen = log.clone();
    let handler = callbacks.on_event(EventFilter::any(), move |_, item| {
        let name = item.unwrap().name;
        if name == "BAD" {
            panic!("at event {name}");
        }
        seen.add(name);
    });
    let handler = handler.await.unwrap();
    monitor.emit("BAD", json!({}));
    monitor.emit("GOOD", json!({}));
    idle(&callbacks).await;
    callbacks.command(Command::new("x"), |_, _| panic!("at a reply"));
    idle(&callbacks).await;
    monitor.emit("GOOD", json!({}));
    idle(&callbacks).await;
    assert_eq!(log.lines(), ["at event BAD", "GOOD", "at a reply", "GOOD"]);
    assert_eq!(callbacks.panics(), 2);
    assert!(!handler.is_finished());
    let never = callbacks.on_event(
        EventFilter::any().when(|_| panic!("at a predicate")),
        |_, _| {},
    );
    let never = never.await.unwrap();
    monitor.emit("GOOD", json!({}));
    idle(&callbacks).await;
    monitor.emit("GOOD", json!({}));
    idle(&callbacks).await;
    assert_eq!(log.lines().last().unwrap(), "GOOD");
    assert_eq!((log.lines().len(), callbacks.panics()), (7, 3));
    assert!(never.is_finished() && !handler.is_finished());
}

#[tokio::test]
async fn idle_is_when_the_commands_of_callbacks_are_done_too() {
    let monitor = StandIn::with(|monitor, name, _| {
        monitor.emit("SEEN", json!({"command": name}));
        json!({}).into()
    });
    let callbacks = callbacks(&monitor, 2);
    let log = Log::default();
    let seen = log.clone();
    let handler = callbacks.on_event("SEEN", move |callbacks, item| {
        let data: serde_json::Value = item.unwrap().data_as().unwrap();
        let depth: usize = data["command"].as_str().unwrap()[1..].parse().unwrap();
        seen.add(format!("event {depth}"));
        if depth < 5 {
            let seen = seen.clone();
            callbacks.command(Command::new(format!("c{}", depth + 1)), move |_, _| {
                seen.add(format!("reply {}", depth + 1));
            });
        }
    });
    handler.await.unwrap().detach();
    // Idle from the start.
    idle(&callbacks).await;
    callbacks.command(Command::new("c0"), |_, _| {});
    idle(&callbacks).await;
    let mut lines = log.lines();
    lines.sort();
    let mut expected: Vec<String> = (0..=5).map(|n| format!("event {n}")).collect();
    expected.extend((1..=5).map(|n| format!("reply {n}")));
    assert_eq!(lines, expected);
}

/// Between the threads of a runtime an event may be anywhere when it is asked whether something goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn idle_misses_nothing_on_its_way() {
    let monitor = StandIn::new();
    let callbacks = callbacks(&monitor, 2);
    let count = Arc::new(AtomicUsize::new(0));
    // Each event is followed by another one, for a handler that has been asked before.
    for (name, follows) in [("C", None), ("B", Some("C")), ("A", Some("B"))] {
        let (monitor, count) = (monitor.clone(), count.clone());
        let handler = callbacks.on_event(name, move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            follows.inspect(|name| monitor.emit(name, json!({})));
        });
        handler.await.unwrap().detach();
    }
    for round in 1..=300 {
        monitor.emit("A", json!({}));
        monitor.emit("A", json!({}));
        idle(&callbacks).await;
        assert_eq!(count.load(Ordering::SeqCst), 6 * round);
    }
}

#[tokio::test]
async fn idle_waits_for_a_command_and_for_a_callback_that_blocks() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let told = Mutex::new(Some(told));
    let monitor = StandIn::with(move |_, _, _| Answer::When(told.lock().unwrap().take().unwrap()));
    let callbacks = callbacks(&monitor, 1);
    let (release, released) = mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    callbacks.command(Command::new("x"), move |_, _| {
        begin.send(()).unwrap();
        released.recv().unwrap();
    });
    assert!(callbacks.wait_idle().now_or_never().is_none());
    tell.send(Ok(json!({}))).unwrap();
    timeout(PATIENCE, begun).await.unwrap().unwrap();
    assert!(callbacks.wait_idle().now_or_never().is_none());
    release.send(()).unwrap();
    idle(&callbacks).await;
}

#[tokio::test]
async fn as_many_run_at_once_as_there_are_workers() {
    let monitor = StandIn::new();
    let three = callbacks(&monitor, 3);
    let barrier = Arc::new(Barrier::new(3));
    for _ in 0..3 {
        let barrier = barrier.clone();
        // Each goes on only when all three are there.
        three.command(Command::new("x"), move |_, _| {
            barrier.wait();
        });
    }
    idle(&three).await;

    let two = callbacks(&monitor, 2);
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    for _ in 0..50 {
        let (running, most) = (running.clone(), most.clone());
        two.command(Command::new("x"), move |_, _| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
        });
    }
    idle(&two).await;
    assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
}

#[tokio::test]
async fn dropping_a_handler_unsubscribes_it_alone() {
    let monitor = StandIn::new();
    let callbacks = callbacks(&monitor, 2);
    let (first, second) = (Log::default(), Log::default());
    let mut handlers = Vec::new();
    for log in [&first, &second] {
        let log = log.clone();
        let handler = callbacks.on_event("STOP", move |_, _| log.add("called"));
        handlers.push(handler.await.unwrap());
    }
    monitor.emit("STOP", json!({}));
    idle(&callbacks).await;
    drop(handlers.remove(0));
    monitor.subscribers(1).await;
    monitor.emit("STOP", json!({}));
    idle(&callbacks).await;
    assert_eq!((first.lines().len(), second.lines().len()), (1, 2));
    assert_eq!(first.holders(), 0);
}

#[tokio::test]
async fn dropping_it_ends_all() {
    let monitor = StandIn::with(|_, name, _| match name {
        "never" => Answer::Never,
        _ => json!({}).into(),
    });
    let object: Arc<dyn Monitor> = Arc::new(monitor.clone());
    let callbacks = Callbacks::with_options(object.clone(), CallbackOptions::new().workers(1));
    let log = Log::default();
    let (release, released) = mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let running = log.clone();
    callbacks.command(Command::new("x"), move |callbacks, _| {
        begin.send(()).unwrap();
        released.recv().unwrap();
        // Too late for anything else.
        let log = running.clone();
        callbacks.command(Command::new("late"), move |_, _| log.add("late"));
        running.add("finished");
    });
    timeout(PATIENCE, begun).await.unwrap().unwrap();
    let (waiting, hanging, event) = (log.clone(), log.clone(), log.clone());
    callbacks.command(Command::new("x"), move |_, _| waiting.add("waited"));
    callbacks.command(Command::new("never"), move |_, _| hanging.add("answered"));
    let handler = callbacks.on_event("STOP", move |_, _| event.add("event"));
    handler.await.unwrap().detach();
    monitor.emit("STOP", json!({}));
    assert_eq!(log.holders(), 4);
    drop(callbacks);
    monitor.subscribers(0).await;
    // All but the one that runs are gone.
    assert!(poll_until(PATIENCE, || (log.holders() == 1).then_some(())).is_some());
    release.send(()).unwrap();
    // And its thread with it, for that holds the monitor no more.
    assert!(poll_until(PATIENCE, || (Arc::strong_count(&object) == 1).then_some(())).is_some());
    assert_eq!(log.lines(), ["finished"]);
    assert_eq!(log.holders(), 0);
    assert_eq!(monitor.commands(), ["x", "x", "never"]);
}

#[test]
fn the_end_of_the_runtime_does_not_wait_for_a_callback() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let monitor = StandIn::new();
    let callbacks = runtime.block_on(async { callbacks(&monitor, 1) });
    callbacks.command(Command::new("x"), move |_, _| {
        begin.send(()).unwrap();
        released.recv().unwrap();
        end.send(()).unwrap();
    });
    begun.recv_timeout(PATIENCE).unwrap();
    let (done, shut_down) = mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        done.send(()).unwrap();
    });
    shut_down.recv_timeout(PATIENCE).expect("the runtime ends");
    assert!(ended.recv_timeout(Duration::ZERO).is_err());
    release.send(()).unwrap();
    ended.recv_timeout(PATIENCE).unwrap();
}
