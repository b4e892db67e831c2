//! The blocking crate against the stand-ins: no test here is async but where that is the point.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libvirt_qmp::blocking::{
    self, Blocking, Libvirt, LibvirtRpc, Monitor, MonitorExt, SocketMonitor,
};
use libvirt_qmp::testing::{FakeLibvirtd, FakeQemu, Reply};
use libvirt_qmp::{Command, Config, EndCause, Error, EventOptions, Phase, RunOptions};
use serde_json::{Value, json};

const STATUS: &[u8] = br#"{"execute":"query-status"}"#;

/// What a test that fails may wait for; nothing here takes it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Works with a stand-in on the runtime of the blocking crate.
fn on_the_runtime<T>(work: impl FnOnce() -> T) -> T {
    blocking::wait(async { Ok::<_, Error>(work()) }).unwrap()
}

fn machine() -> (FakeQemu, SocketMonitor) {
    let qemu = FakeQemu::new();
    let monitor = SocketMonitor::new(on_the_runtime(|| qemu.connect()));
    (qemu, monitor)
}

/// A path for a socket, which its stand-in removes.
fn socket(name: &str) -> PathBuf {
    let file = format!("lq-{}-{name}", std::process::id());
    std::env::temp_dir().join(file)
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    match result {
        Err(Error::Unsupported(reason)) => reason.contains("inside an async runtime"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_way_to_qemu_is_there_without_async() {
    let (qemu, over_pipe) = machine();
    let path = socket("qmp");
    on_the_runtime(|| qemu.listen_unix(&path)).unwrap();
    let addr = on_the_runtime(|| qemu.listen_tcp()).unwrap();
    for monitor in [
        over_pipe,
        SocketMonitor::unix(&path).unwrap(),
        SocketMonitor::tcp(addr).unwrap(),
    ] {
        monitor.connect().unwrap();
        assert!(monitor.version().unwrap().major >= 7);
        let reply: Value = serde_json::from_slice(&monitor.run(STATUS).unwrap()).unwrap();
        assert_eq!(reply["return"]["status"], "running");
        let status: Value = monitor.query("status").unwrap();
        assert_eq!(status, reply["return"]);
        assert_eq!(
            monitor.hmp("info status", None).unwrap(),
            "VM status: running\r\n"
        );
        let error = monitor
            .execute::<Value>(Command::new("no-such"))
            .unwrap_err();
        assert!(error.is_command_not_found());
        monitor.disconnect().unwrap();
        assert!(matches!(monitor.run(STATUS), Err(Error::Closed)));
    }
    assert!(
        SocketMonitor::unix(socket("none"))
            .unwrap_err()
            .is_unavailable()
    );
}

#[test]
fn every_way_through_libvirt_is_there_without_async() {
    let (libvirtd, qemu) = (FakeLibvirtd::new(), FakeQemu::new());
    libvirtd.domain("vm-1", &qemu);
    let path = socket("libvirt");
    on_the_runtime(|| libvirtd.listen_unix(&path)).unwrap();
    let addr = on_the_runtime(|| libvirtd.listen_tcp()).unwrap();
    let session = Libvirt::unix(&path, Config::new()).unwrap();
    for monitor in [
        LibvirtRpc::new("vm-1", on_the_runtime(|| libvirtd.connect())),
        LibvirtRpc::unix("vm-1", &path).unwrap(),
        LibvirtRpc::tcp(libvirtd.uuid("vm-1"), addr).unwrap(),
        session.monitor("vm-1"),
        Libvirt::tcp(addr, Config::new()).unwrap().monitor("vm-1"),
    ] {
        monitor.run(STATUS).unwrap();
    }
    assert_eq!(session.domains().unwrap()[0].name, "vm-1");
    let unknown = session.monitor("none").connect().unwrap_err();
    assert!(unknown.is_not_found());
    let waiting = session.clone();
    let cause = thread::spawn(move || waiting.closed());
    session.close().unwrap();
    let cause = cause.join().unwrap().unwrap();
    assert!(matches!(*cause, EndCause::UserClosed), "{cause:?}");
    assert!(
        LibvirtRpc::unix("vm-1", socket("none"))
            .unwrap_err()
            .is_unavailable()
    );
}

#[test]
fn monitors_are_objects_and_the_async_crate_is_within_reach() {
    let (_qemu, monitor) = machine();
    let greeting = monitor.wait(|monitor| monitor.greeting()).unwrap();
    assert_eq!(greeting.version.major, 7);
    let shared: Arc<dyn Monitor> = Arc::new(monitor);
    assert!(shared.version().is_ok());
    blocking::wait(shared.as_async().run(STATUS)).unwrap();
    // Any driver is one, also somebody else's.
    let stream = on_the_runtime(|| FakeQemu::new().connect());
    let own: Box<dyn libvirt_qmp::Monitor> = Box::new(libvirt_qmp::SocketMonitor::new(stream));
    // Its QEMU is gone already.
    let gone = Blocking::from_async(own).connect().unwrap_err();
    assert!(gone.is_disconnected(), "{gone}");
    // Errors of other kinds can be mixed in.
    let read: Result<Vec<u8>, Box<dyn std::error::Error>> =
        blocking::wait(async { Ok(std::fs::read("/nonexistent")?) });
    assert!(read.unwrap_err().is::<std::io::Error>());
}

#[test]
fn qemu_may_come_to_us_and_leave_a_descriptor() {
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = SocketMonitor::listen(addr).unwrap();
    let late = listener.accept(Duration::from_millis(1)).unwrap_err();
    assert!(late.is_timeout(), "{late}");
    assert!(
        listener
            .local_addr()
            .to_string()
            .starts_with("tcp:127.0.0.1:")
    );

    let qemu = FakeQemu::new();
    let path = socket("fd");
    on_the_runtime(|| qemu.listen_unix(&path)).unwrap();
    let conn = std::os::unix::net::UnixStream::connect(&path).unwrap();
    SocketMonitor::from_fd(conn.into())
        .unwrap()
        .connect()
        .unwrap();
    let config = Config::new().oob(false);
    SocketMonitor::unix_with_config(&path, config)
        .unwrap()
        .run(STATUS)
        .unwrap();
}

#[test]
fn events_are_an_iterator_that_ends() {
    let (qemu, monitor) = machine();
    let mut events = monitor.events().unwrap();
    let none = events.next_timeout(Duration::ZERO).unwrap().unwrap_err();
    assert!(
        matches!(
            none,
            Error::Timeout {
                phase: Phase::Event,
                ..
            }
        ),
        "{none:?}"
    );
    for command in ["stop", "cont"] {
        monitor.execute::<Value>(Command::new(command)).unwrap();
    }
    assert_eq!(events.next().unwrap().unwrap().name, "STOP");
    let resumed = events.next_timeout(Duration::ZERO).unwrap().unwrap();
    assert_eq!(resumed.name, "RESUME");
    let mut resets = monitor.events_with(EventOptions::new("RESET")).unwrap();
    qemu.event("STOP", None)
        .event("RESET", json!({"guest": true}));
    assert_eq!(resets.next().unwrap().unwrap().name, "RESET");

    // One that waits in another thread ends with its monitor, and stays so.
    let waiting = thread::spawn(move || (resets.next().is_none(), resets.next().is_none()));
    monitor.disconnect().unwrap();
    assert_eq!(waiting.join().unwrap(), (true, true));
    assert_eq!(events.by_ref().map(Result::unwrap).count(), 2);
    assert!(events.next_timeout(PATIENCE).is_none());

    let (qemu, monitor) = machine();
    let mut events = monitor.events().unwrap();
    qemu.kill();
    assert!(events.next().unwrap().unwrap_err().is_disconnected());
    assert!(events.next().is_none());
}

#[test]
fn timeouts_hold() {
    let (qemu, monitor) = machine();
    qemu.never("lost");
    let options = RunOptions::new().timeout(Duration::from_millis(20));
    let started = Instant::now();
    let error = monitor
        .run_with(br#"{"execute":"lost"}"#, options)
        .unwrap_err();
    assert!(error.is_timeout() && error.maybe_executed(), "{error}");
    assert!(started.elapsed() < PATIENCE);
    monitor.run(STATUS).unwrap();
}

#[test]
fn many_threads_use_one_monitor_at_once() {
    let (qemu, monitor) = machine();
    qemu.on_fn("echo", |arguments| Reply::value(arguments.clone()));
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..32 {
            let (monitor, answered) = (&monitor, &answered);
            scope.spawn(move || {
                for round in 0..25 {
                    let command = Command::new("echo").arg("n", [number, round]);
                    let echo: Value = monitor.execute(command).unwrap();
                    assert_eq!(echo, json!({"n": [number, round]}));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(answered.into_inner(), 800);
    assert_eq!(qemu.commands().len(), 800);
}

#[test]
fn dropping_the_last_handle_ends_the_connection() {
    let qemu = FakeQemu::new();
    let first = SocketMonitor::new(on_the_runtime(|| qemu.connect()));
    let mut events = first.events().unwrap();
    drop(first);
    // The monitor serves one client at a time, so this one is served when the first has gone.
    let second = SocketMonitor::new(on_the_runtime(|| qemu.connect()));
    // The events keep the connection.
    qemu.event("STOP", None);
    assert_eq!(events.next().unwrap().unwrap().name, "STOP");
    drop(events);
    second.connect().unwrap();
}

/// Every call of the blocking crate, in a place where it must be refused.
fn refused_everywhere(monitor: &SocketMonitor, events: &mut blocking::Events) {
    assert!(is_refused(monitor.run(STATUS)));
    assert!(is_refused(monitor.events()));
    assert!(is_refused(monitor.version()));
    assert!(is_refused(SocketMonitor::unix("/nonexistent")));
    assert!(is_refused(LibvirtRpc::tcp("vm-1", "127.0.0.1:1")));
    assert!(is_refused(events.next().unwrap()));
    assert!(events.next().is_none(), "a loop over it ends");
}

#[test]
fn inside_a_runtime_it_is_an_error() {
    let (_qemu, monitor) = machine();
    let monitor = Arc::new(monitor);
    let current = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    for runtime in [current.unwrap(), threads.unwrap()] {
        let mut events = monitor.events().unwrap();
        runtime.block_on(async {
            refused_everywhere(&monitor, &mut events);
            // The task itself goes on.
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
        let mut events = monitor.events().unwrap();
        let task = {
            let monitor = monitor.clone();
            runtime.spawn(async move { refused_everywhere(&monitor, &mut events) })
        };
        runtime.block_on(task).unwrap();
        let mut events = monitor.events().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            refused_everywhere(&monitor, &mut events)
        });

        // Where waiting is allowed it works: in a thread for it, and in one that only knows the runtime.
        let work = {
            let monitor = monitor.clone();
            runtime.spawn_blocking(move || monitor.run(STATUS))
        };
        runtime.block_on(work).unwrap().unwrap();
        let _entered = runtime.enter();
        monitor.run(STATUS).unwrap();
    }
    // On the runtime of the blocking crate too, which would wait for itself.
    let mut events = monitor.events().unwrap();
    blocking::wait(async {
        let task = tokio::spawn(async move { refused_everywhere(&monitor, &mut events) });
        task.await.unwrap();
        Ok::<_, Error>(())
    })
    .unwrap();
}

#[test]
fn a_task_that_was_refused_goes_on() {
    let (_qemu, monitor) = machine();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let sum = runtime.block_on(async {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for number in 0..500 {
                assert!(is_refused(monitor.run(STATUS)));
                sender.send(number).await.unwrap();
            }
        });
        let mut sum = 0;
        while let Some(number) = receiver.recv().await {
            sum += number;
        }
        sum
    });
    assert_eq!(sum, 499 * 250);
}
