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
    self, Blocking, Callbacks, DomainExt, Hypervisor, Libvirt, LibvirtRpc, Monitor, MonitorExt,
    SocketMonitor, Virsh, WaitExt,
};
use libvirt_qmp::protocol::remote::procedure::ConnectOpen;
use libvirt_qmp::testing::{FakeLibvirtd, FakeQemu, Reply};
use libvirt_qmp::{
    After, Backoff, Command, Config, ConnectionState, EndCause, Error, EventFilter, EventOptions,
    Mirror, Phase, RunOptions, Transaction, Wait,
};
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
fn a_session_comes_back_without_async() {
    let libvirtd = FakeLibvirtd::new();
    let path = socket("lasting");
    on_the_runtime(|| libvirtd.listen_unix(&path)).unwrap();
    let addr = on_the_runtime(|| libvirtd.listen_tcp()).unwrap();
    let config = || Config::new().reconnect(Backoff::new());
    let ways: [&dyn Fn() -> Result<Libvirt, Error>; 2] =
        [&|| Libvirt::unix(&path, config()), &|| {
            Libvirt::tcp(addr, config())
        }];
    for connect in ways {
        let session = connect().unwrap();
        let monitor = session.monitor("none");
        assert!(matches!(session.state(), ConnectionState::Connected));
        assert!(matches!(monitor.state(), ConnectionState::Connected));
        libvirtd.clear_calls().close();
        let opened = libvirtd.wait_for_call::<ConnectOpen>();
        let again = blocking::wait(async {
            Ok::<_, Error>(tokio::time::timeout(PATIENCE, opened).await.is_ok())
        });
        assert!(again.unwrap());
        assert!(session.domains().unwrap().is_empty());
        let mut state = session.get_ref().state();
        let is_connected = |state: &ConnectionState| matches!(state, ConnectionState::Connected);
        let connected = blocking::wait(async {
            let connected = tokio::time::timeout(PATIENCE, state.wait_for(is_connected)).await;
            Ok::<_, Error>(connected.is_ok())
        });
        assert!(connected.unwrap());
        session.close().unwrap();
        let cause = monitor.closed().unwrap();
        assert!(matches!(*cause, EndCause::UserClosed), "{cause:?}");
        assert!(matches!(session.state(), ConnectionState::Closed { .. }));
    }
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
    let options = RunOptions::new().timeout(Duration::from_millis(500));
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

#[test]
fn waits_and_the_history_are_there_without_async() {
    let (qemu, monitor) = machine();
    let history = monitor.history(16).unwrap();
    let (value, how) = monitor
        .run_and_wait(Command::new("stop"), Wait::stop(), PATIENCE)
        .unwrap();
    assert_eq!(
        (value.get(), how.event().unwrap().name.as_str()),
        ("{}", "STOP")
    );
    // It is so already: the question says it.
    assert!(
        monitor
            .wait_for(Wait::stop(), PATIENCE)
            .unwrap()
            .is_already()
    );
    let late = monitor
        .wait_for("RESET", Duration::from_millis(1))
        .unwrap_err();
    assert!(late.is_timeout(), "{late}");

    let found = history.get_events("STOP", After::Any, PATIENCE).unwrap();
    assert_eq!(found.events.len(), 1);
    let mark = history.mark();
    qemu.event("RESUME", None);
    let resumed = history
        .wait_for("RESUME", After::Seq(mark), PATIENCE)
        .unwrap();
    assert_eq!(resumed.seq, mark + 1);
    let both = history.find_events(EventFilter::any(), After::Any);
    assert_eq!(both.events.len(), 2);
    history.clear();
    let mut cursor = 0;
    assert!(history.pull(&mut cursor).events.is_empty());

    let (tell, told) = std::sync::mpsc::channel();
    let handler = monitor
        .on_event("RESET", move |item| tell.send(item.unwrap().name).unwrap())
        .unwrap();
    qemu.event("POWERDOWN", None).event("RESET", None);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "RESET");
    drop(handler);
    // The callback, and what it holds, goes with its handle.
    assert!(told.recv_timeout(PATIENCE).is_err());
}

#[test]
fn callbacks_may_block_where_nothing_is_async() {
    let (_qemu, monitor) = machine();
    let callbacks = Callbacks::new(monitor).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let say = tell.clone();
    let handler = callbacks
        .on_event("STOP", move |_, item| say.send(item.unwrap().name).unwrap())
        .unwrap();
    callbacks.command(Command::new("stop"), move |callbacks, reply| {
        // A thread of its own: it may wait.
        let shared = blocking::wait(async { Ok::<_, Error>(reply.unwrap().get().to_owned()) });
        callbacks.command(Command::new("no-such"), move |_, reply| {
            assert!(reply.unwrap_err().is_command_not_found());
            tell.send(shared.unwrap()).unwrap();
        });
    });
    callbacks.wait_idle().unwrap();
    let mut said: Vec<String> = told.try_iter().collect();
    said.sort();
    assert_eq!(said, ["STOP", "{}"]);
    assert_eq!(callbacks.panics(), 0);
    drop(handler);
}

#[test]
fn the_helpers_for_a_guest_are_there_without_async() {
    let (qemu, monitor) = machine();
    qemu.name("vm-1");
    assert_eq!(monitor.name().unwrap().as_deref(), Some("vm-1"));
    assert!(monitor.status().unwrap().running);
    assert!(monitor.uuid().unwrap().is_nil());
    assert!(
        monitor
            .supported_commands()
            .unwrap()
            .contains(&"stop".to_owned())
    );
    assert_eq!(monitor.cpus().unwrap().len(), 1);
    assert!(monitor.block_devices().unwrap().is_empty());
    assert!(monitor.block_stats().unwrap().is_empty());
    assert!(monitor.block_jobs().unwrap().is_empty());
    assert!(monitor.jobs().unwrap().is_empty());
    assert!(monitor.pci().unwrap().is_empty());
    for call in [
        SocketMonitor::powerdown,
        SocketMonitor::reset,
        SocketMonitor::stop,
        SocketMonitor::cont,
    ] {
        call(&monitor).unwrap();
    }
    let done = |job: &str| {
        let data = json!({"device": job, "type": "mirror", "len": 1, "offset": 1, "speed": 0});
        (data.clone(), data)
    };
    let (ready, completed) = done("m");
    qemu.on(
        "drive-mirror",
        Reply::value(json!({})).event_after("BLOCK_JOB_READY", ready),
    );
    qemu.on(
        "block-job-complete",
        Reply::value(json!({})).event_after("BLOCK_JOB_COMPLETED", completed),
    );
    let mirror = Mirror::to_file("m", "disk0", "/images/copy");
    monitor.mirror(mirror, PATIENCE).unwrap();
    monitor.complete_job("m", PATIENCE).unwrap();
    monitor.screendump("/nonexistent").unwrap_err();

    qemu.on("query-qmp-schema", json!([]));
    assert!(monitor.supported_events().unwrap().is_empty());
    let unknown = Command::new("stop");
    assert!(monitor.schema().unwrap().check(&unknown).is_err());
    let abort = Transaction::new().action("abort", json!({}));
    // This QEMU has none: it is what says so.
    let refused = monitor.transaction(abort).unwrap_err();
    assert!(refused.is_command_not_found(), "{refused}");
    monitor.quit().unwrap();
}

#[cfg(feature = "typed")]
#[test]
fn typed_commands_are_there_without_async() {
    use libvirt_qmp::blocking::TypedExt;
    use libvirt_qmp::typed::{DeviceDel, QueryStatus};

    let (_qemu, monitor) = machine();
    assert!(monitor.call(QueryStatus::new()).unwrap().running);
    let error = monitor.call(DeviceDel::new("net0")).unwrap_err();
    assert!(error.is_device_not_found(), "{error}");
}

#[test]
fn hypervisors_are_there_without_async() {
    let (libvirtd, qemu) = (FakeLibvirtd::new(), FakeQemu::new());
    libvirtd.domain("vm-1", &qemu);
    let conn = on_the_runtime(|| libvirtd.connect());
    let libvirt = Libvirt::open(conn, Config::new()).unwrap();
    let host = Hypervisor::libvirt(libvirt);
    assert_eq!(host.domains().unwrap()[0].name, "vm-1");
    assert!(host.version().unwrap().is_some());
    assert!(host.monitor("vm-1").status().unwrap().running);

    let path = socket("host");
    on_the_runtime(|| qemu.listen_unix(&path)).unwrap();
    let host = Hypervisor::sockets([("one", path)]);
    let domains = host.domains().unwrap();
    assert!(domains[0].is_active(), "{domains:?}");
    assert!(host.monitor("one").version().is_ok());
    assert!(host.monitor("two").connect().unwrap_err().is_unavailable());

    // A program that is not there: the driver is, and says so.
    let virsh = Virsh::new("test:///default", "vm-1").program("/nonexistent/virsh");
    let error = virsh.connect().unwrap_err();
    assert!(error.to_string().contains("/nonexistent/virsh"), "{error}");
}
