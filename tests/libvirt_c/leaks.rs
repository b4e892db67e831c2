//! What is left behind: no file, no thread, no callback and no reference to a connection, however it ended. Each of these
//! tests runs alone, for it counts what the whole process has.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};
use std::fs;
use std::sync::{Mutex, Once};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use super::support::conformance;
use super::support::process::poll_until;
use super::*;

/// What the driver says when libvirt has taken a connection back.
static CLOSED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Closed;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Closed {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "libvirt_qmp::libvirt_c"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        CLOSED.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What the process has, and what the driver has said since.
struct Before {
    files: BTreeSet<String>,
}

impl Before {
    /// Counts, after libvirt has been used once: what it keeps for good is its own.
    async fn new() -> Before {
        static SUBSCRIBED: Once = Once::new();
        SUBSCRIBED.call_once(|| tracing::subscriber::set_global_default(Closed).unwrap());
        let warm = LibvirtC::new("test:///default", "test");
        warm.connect().await.unwrap();
        warm.disconnect().await.unwrap();
        settled();
        CLOSED.lock().unwrap().clear();
        Before { files: files() }
    }

    /// Waits until all is as it was, and checks that libvirt took so many connections back for good.
    #[track_caller]
    fn is_as_now(&self, connections: usize) {
        let closed = || CLOSED.lock().unwrap().len();
        // A thread that has just been started has no name yet, so that no thread of a name is not enough.
        let all = poll_until(PATIENCE, || (closed() >= connections).then_some(()));
        assert!(all.is_some(), "{} of {connections} were closed", closed());
        settled();
        let left = poll_until(PATIENCE, || files().is_subset(&self.files).then_some(()));
        assert!(
            left.is_some(),
            "left open: {:#?}",
            files().difference(&self.files)
        );
        let closed = std::mem::take(&mut *CLOSED.lock().unwrap());
        assert_eq!(closed.len(), connections, "{closed:#?}");
        for line in closed {
            assert!(
                line.ends_with(" references_left=0 callbacks_left=0"),
                "{line}"
            );
        }
    }
}

/// The open files of the process.
fn files() -> BTreeSet<String> {
    let described = |fd: fs::DirEntry| {
        let target = fs::read_link(fd.path()).ok()?;
        Some(format!("{:?} {}", fd.file_name(), target.display()))
    };
    // The directory that is being read is gone by now.
    let files = fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(described);
    files.filter(|file| !file.contains("/fd")).collect()
}

/// The driver's threads, by name.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.starts_with("libvirt-"))
        .collect()
}

/// Waits until none of the driver's threads is left.
#[track_caller]
fn settled() {
    let ended = poll_until(PATIENCE, || threads().is_empty().then_some(()));
    assert!(ended.is_some(), "{:?}", threads());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn connecting_and_disconnecting_over_and_over_leaves_nothing() {
    let _alone = alone().await;
    let lab = Lab::start();
    lab.guest("one");
    let before = Before::new().await;
    for _ in 0..20 {
        let monitor = monitor(&lab, "one");
        let events = monitor.events().await.unwrap();
        monitor.run(STATUS).await.unwrap();
        monitor.disconnect().await.unwrap();
        drop(events);
    }
    before.is_as_now(20);
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_is_dropped_takes_all_with_it() {
    let _alone = alone().await;
    let lab = Lab::start();
    lab.guest("one");
    let before = Before::new().await;
    let used = monitor(&lab, "one");
    let mut events = used.events().await.unwrap();
    conformance::run(&used, br#"{"execute":"stop"}"#).await;
    assert_eq!(
        conformance::next_of(&mut events, &["STOP"]).await.name,
        "STOP"
    );
    drop(used);
    assert!(!threads().is_empty());
    drop(events);
    before.is_as_now(1);
    // And dropped in the middle of connecting, and of subscribing.
    let connecting = monitor(&lab, "one");
    let _ = tokio::time::timeout(Duration::ZERO, connecting.connect()).await;
    drop(connecting);
    before.is_as_now(1);
    let subscribing = monitor(&lab, "one");
    subscribing.connect().await.unwrap();
    let _ = tokio::time::timeout(Duration::ZERO, subscribing.events()).await;
    drop(subscribing);
    before.is_as_now(1);
    // A connection that fails.
    let failing = LibvirtC::new("qemu+unix:///session?socket=/nonexistent/socket", "one");
    failing.connect().await.unwrap_err();
    settled();
    drop(failing);
    before.is_as_now(0);
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_killed_daemon_leaves_nothing_even_while_the_monitor_is_kept() {
    let _alone = alone().await;
    let lab = Lab::start();
    lab.guest("one");
    let before = Before::new().await;
    let monitor = Arc::new(monitor(&lab, "one"));
    let events = monitor.events().await.unwrap();
    lab.pause_qemu("one");
    let stuck = stuck(&monitor).await;
    lab.kill_daemon();
    within(SOON, stuck).await.unwrap().unwrap_err();
    before.is_as_now(1);
    drop(events);
    lab.resume_qemu("one");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_stuck_call_keeps_its_connection_until_it_is_answered() {
    let _alone = alone().await;
    let lab = Lab::start();
    lab.guest("one");
    let before = Before::new().await;
    let monitor = Arc::new(monitor(&lab, "one"));
    let events = monitor.events().await.unwrap();
    lab.pause_qemu("one");
    let stuck = stuck(&monitor).await;
    within(SOON, monitor.disconnect()).await.unwrap();
    let error = within(SOON, stuck).await.unwrap().unwrap_err();
    assert!(error.is_closed() && error.maybe_executed(), "{error:?}");
    drop((monitor, events));
    assert!(
        threads()
            .iter()
            .any(|name| name.starts_with("libvirt-command")),
        "{:?}",
        threads()
    );
    lab.resume_qemu("one");
    before.is_as_now(1);
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn an_opening_that_nobody_waits_for_is_given_up() {
    let _alone = alone().await;
    let lab = Lab::start();
    lab.guest("one");
    let before = Before::new().await;
    lab.pause_daemon();
    let config = Config::new().connect_timeout(Some(Duration::from_millis(200)));
    let monitor = with_config(&lab, "one", config);
    assert!(monitor.connect().await.unwrap_err().is_timeout());
    lab.resume_daemon();
    // The monitor is still there, and its connection is not.
    before.is_as_now(1);
    assert!(monitor.connect().await.unwrap_err().is_timeout());
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_runtime_that_shuts_down_does_not_wait_for_a_stuck_call() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let (outer, inner) = (runtime(), runtime());
    let _alone = outer.block_on(alone());
    let lab = Lab::start();
    lab.guest("one");
    let before = outer.block_on(Before::new());
    let monitor = Arc::new(monitor(&lab, "one"));
    let events = inner.block_on(monitor.events()).unwrap();
    lab.pause_qemu("one");
    inner.block_on(async {
        stuck(&monitor).await;
    });
    let started = Instant::now();
    drop(inner);
    assert!(started.elapsed() < SOON);
    lab.resume_qemu("one");
    // The monitor belongs to no runtime: another one may go on with it.
    outer
        .block_on(async { within(PATIENCE, monitor.run(STATUS)).await })
        .unwrap();
    drop((monitor, events));
    before.is_as_now(1);
}
