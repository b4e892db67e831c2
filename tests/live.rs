//! The drivers against a real libvirtd and QEMU, which each test starts and stops itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that cannot do its work fails the test that called it"
)]

mod support;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use libvirt_qmp::protocol::keepalive::procedure::{Ping, Pong};
use libvirt_qmp::protocol::{Message, keepalive};
use libvirt_qmp::replay::{Direction, record};
use libvirt_qmp::{
    Command, Config, EndCause, Error, Libvirt, LibvirtError, LibvirtRpc, Monitor, MonitorExt,
    Phase, SocketMonitor,
};
use serde_json::Value;
use support::conformance::{self, next_of, run};
use support::lab::Lab;
use support::process::PATIENCE;
use support::qemu::Qemu;
use tokio::net::{TcpStream, UnixStream};
use uuid::Uuid;

const QUERY_STATUS: &[u8] = br#"{"execute":"query-status"}"#;

fn config(lab: &Lab) -> Config {
    Config::new().uri(lab.uri())
}

async fn open(lab: &Lab, config: Config) -> Libvirt {
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    Libvirt::open(conn, config).await.unwrap()
}

/// Fails the test if `what` takes longer than `limit`.
async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let result = tokio::time::timeout(limit, what).await;
    result.unwrap_or_else(|_| panic!("not done after {:?}", started.elapsed()))
}

fn cause(error: Error) -> Arc<EndCause> {
    match error {
        Error::Disconnected { cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_suite_passes_over_unix_and_tcp() {
    let lab = Lab::start();
    lab.guest("stage-lb-1");
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    conformance::suite(&LibvirtRpc::with_config("stage-lb-1", conn, config(&lab))).await;
    let conn = TcpStream::connect(lab.tcp_addr()).await.unwrap();
    conformance::suite(&LibvirtRpc::with_config("stage-lb-1", conn, config(&lab))).await;
    // And on a session that others share, also as an object.
    let libvirt = open(&lab, config(&lab)).await;
    let monitor: Box<dyn Monitor> = Box::new(libvirt.monitor("stage-lb-1"));
    conformance::suite(&monitor).await;
    assert!(!libvirt.domains().await.unwrap().is_empty());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_suite_passes_on_qemus_own_socket() {
    let qemu = Qemu::start(&[]);
    conformance::suite(&SocketMonitor::unix(qemu.unix_path()).await.unwrap()).await;
    conformance::suite(&SocketMonitor::tcp(qemu.tcp_addr()).await.unwrap()).await;
    conformance::suite(&SocketMonitor::unix(qemu.pretty_path()).await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn domains_are_listed_as_virsh_lists_them() {
    let lab = Lab::start();
    let guest = lab.guest("one");
    lab.guest("two");
    lab.destroy("two");
    let libvirt = open(&lab, config(&lab)).await;
    let domains = libvirt.domains().await.unwrap();
    let listed = lab.virsh(&["list", "--all", "--uuid"]);
    assert_eq!(domains.len(), listed.split_whitespace().count());
    for domain in &domains {
        assert_eq!(
            lab.virsh(&["domuuid", &domain.name]).trim(),
            domain.uuid.to_string()
        );
        let state = lab.virsh(&["domstate", &domain.name]);
        assert_eq!(
            domain.is_running(),
            state.trim() == "running",
            "{domain:?}: {state}"
        );
        let id = lab.virsh(&["domid", &domain.name]);
        assert_eq!(
            domain.id.map_or("-".to_owned(), |id| id.to_string()),
            id.trim()
        );
    }
    let one = domains.iter().find(|domain| domain.name == "one").unwrap();
    assert_eq!(one.uuid, guest.uuid);
    assert!(one.is_running());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_domain_is_found_by_name_and_by_uuid() {
    let lab = Lab::start();
    let guest = lab.guest("one");
    let libvirt = open(&lab, config(&lab)).await;
    libvirt.monitor("one").connect().await.unwrap();
    libvirt.monitor(guest.uuid).connect().await.unwrap();
    libvirt
        .monitor(guest.uuid.to_string())
        .connect()
        .await
        .unwrap();
    for unknown in [libvirt.monitor("none"), libvirt.monitor(Uuid::from_u128(7))] {
        let error = unknown.connect().await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
    }
    // A domain that is made later is found when it is tried again.
    let late = libvirt.monitor("late");
    assert!(late.connect().await.unwrap_err().is_not_found());
    lab.guest("late");
    late.connect().await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn errors_of_libvirt_come_at_the_call_that_caused_them() {
    let lab = Lab::start();
    lab.guest("one");
    let readonly = open(&lab, config(&lab).readonly(true)).await;
    let error = readonly.monitor("one").run(QUERY_STATUS).await.unwrap_err();
    assert_eq!(
        error.libvirt_code(),
        Some(LibvirtError::OPERATION_DENIED),
        "{error}"
    );
    let error = readonly.monitor("one").events().await.unwrap_err();
    assert_eq!(
        error.libvirt_code(),
        Some(LibvirtError::OPERATION_DENIED),
        "{error}"
    );
    assert_eq!(readonly.domains().await.unwrap().len(), 1);

    // A driver without QEMU has no monitor.
    let test = open(&lab, Config::new().uri("test:///default")).await;
    let error = test.monitor("test").run(QUERY_STATUS).await.unwrap_err();
    assert!(error.is_unsupported(), "{error}");

    // A domain that does not run.
    let libvirt = open(&lab, config(&lab)).await;
    let monitor = libvirt.monitor("one");
    monitor.connect().await.unwrap();
    lab.destroy("one");
    let error = monitor.run(QUERY_STATUS).await.unwrap_err();
    assert!(error.is_not_running() && !error.maybe_executed(), "{error}");

    // A URI that the daemon cannot open.
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let error = Libvirt::open(conn, Config::new().uri("nonsense:///"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Libvirt(_)), "{error:?}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn commands_and_replies_of_any_size_up_to_the_limit() {
    let lab = Lab::start();
    lab.guest("one");
    let libvirt = open(&lab, config(&lab)).await;
    let monitor = libvirt.monitor("one");
    let schema = monitor
        .run(br#"{"execute":"query-qmp-schema"}"#)
        .await
        .unwrap();
    assert!(schema.len() > 150_000);
    // 300 KB that come back in the error's text. QEMU reads its socket byte by byte, so not more.
    let long = "x".repeat(300_000);
    let command = Command::new(long.as_str()).to_json().unwrap();
    match monitor.run(&command).await.unwrap_err() {
        Error::Qmp(error) => assert!(error.desc.contains(&long)),
        other => panic!("{other:?}"),
    }
    let over = Command::new("x".repeat(4 << 20)).to_json().unwrap();
    let error = monitor.run(&over).await.unwrap_err();
    assert!(
        matches!(error, Error::Command(_)) && !error.maybe_executed(),
        "{error:?}"
    );
    assert!(
        error.source_text().contains("4194304"),
        "{}",
        error.source_text()
    );
}

trait SourceText {
    fn source_text(&self) -> String;
}

impl SourceText for Error {
    fn source_text(&self) -> String {
        std::error::Error::source(self)
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_guest_killed_while_a_command_runs_ends_the_command() {
    let lab = Lab::start();
    lab.guest("one");
    let libvirt = open(&lab, config(&lab)).await;
    let monitor = Arc::new(libvirt.monitor("one"));
    let mut events = monitor.events().await.unwrap();
    lab.pause_qemu("one");
    let command = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.run(QUERY_STATUS).await }
    });
    // The daemon answers others meanwhile, and by then it has the command.
    libvirt.domains().await.unwrap();
    lab.kill_qemu("one");
    let error = within(PATIENCE, command).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Libvirt(_)), "{error:?}");
    assert!(error.maybe_executed(), "{error}");
    // The session lives: soon libvirt has noticed that the domain does not run.
    within(PATIENCE, async {
        while !monitor
            .run(QUERY_STATUS)
            .await
            .unwrap_err()
            .is_not_running()
        {}
    })
    .await;
    // And the registration outlives the domain's end.
    lab.virsh(&["start", "one"]);
    run(&*monitor, br#"{"execute":"stop"}"#).await;
    assert_eq!(next_of(&mut events, &["STOP"]).await.name, "STOP");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_domain_destroyed_while_commands_run_ends_them() {
    let lab = Arc::new(Lab::start());
    lab.guest("one");
    let libvirt = open(&lab, config(&lab)).await;
    let monitor = libvirt.monitor("one");
    monitor.connect().await.unwrap();
    let destroyed = tokio::task::spawn_blocking({
        let lab = lab.clone();
        move || lab.destroy("one")
    });
    let error = within(PATIENCE, async {
        loop {
            if let Err(error) = monitor.run(QUERY_STATUS).await {
                return error;
            }
        }
    })
    .await;
    // It went away under the command, or between two.
    assert!(matches!(error, Error::Libvirt(_)), "{error:?}");
    assert!(error.maybe_executed() || error.is_not_running(), "{error}");
    destroyed.await.unwrap();
    assert!(
        monitor
            .run(QUERY_STATUS)
            .await
            .unwrap_err()
            .is_not_running()
    );
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_killed_daemon_ends_every_waiter_with_one_cause_in_under_a_second() {
    let lab = Lab::start();
    lab.guest("one");
    lab.guest("two");
    let libvirt = open(&lab, config(&lab)).await;
    let (one, two) = (
        Arc::new(libvirt.monitor("one")),
        Arc::new(libvirt.monitor("two")),
    );
    let mut streams = vec![
        one.events().await.unwrap(),
        two.events().await.unwrap(),
        one.events().await.unwrap(),
    ];
    // Commands that stay: one sent, one waiting for its turn, on each of two monitors.
    lab.pause_qemu("one");
    lab.pause_qemu("two");
    let commands: Vec<_> = [&one, &one, &two, &two]
        .map(|monitor| {
            let monitor = monitor.clone();
            tokio::spawn(async move { monitor.run(QUERY_STATUS).await })
        })
        .into();
    libvirt.domains().await.unwrap();
    lab.kill_daemon();
    let causes = within(Duration::from_secs(1), async {
        let mut causes = vec![libvirt.closed().await];
        for command in commands {
            causes.push(cause(command.await.unwrap().unwrap_err()));
        }
        for stream in &mut streams {
            causes.push(cause(stream.next().await.unwrap().unwrap_err()));
            assert!(stream.next().await.is_none());
        }
        causes
    })
    .await;
    assert_eq!(causes.len(), 8);
    assert!(
        causes.iter().all(|cause| Arc::ptr_eq(cause, &causes[0])),
        "{causes:?}"
    );
    assert!(one.run(QUERY_STATUS).await.unwrap_err().is_disconnected());
    lab.resume_qemu("one");
    lab.resume_qemu("two");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn two_monitors_and_their_events_share_a_socket() {
    let lab = Lab::start();
    lab.guest("one");
    lab.guest("two");
    let libvirt = open(&lab, config(&lab)).await;
    let (one, two) = (libvirt.monitor("one"), libvirt.monitor("two"));
    let mut events = [one.events().await.unwrap(), two.events().await.unwrap()];
    run(&one, br#"{"execute":"stop"}"#).await;
    run(&two, br#"{"execute":"system_reset"}"#).await;
    run(&one, br#"{"execute":"cont"}"#).await;
    let names = ["STOP", "RESUME", "RESET"];
    for (stream, domain, expected) in [(0, "one", &["STOP", "RESUME"][..]), (1, "two", &["RESET"])]
    {
        for name in expected {
            let event = next_of(&mut events[stream], &names).await;
            assert_eq!(
                (event.name.as_str(), event.domain.unwrap().name.as_str()),
                (*name, domain)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_thousand_commands_from_fifty_tasks() {
    let lab = Lab::start();
    lab.guest("one");
    lab.guest("two");
    let libvirt = open(&lab, config(&lab)).await;
    let monitors = [
        Arc::new(libvirt.monitor("one")),
        Arc::new(libvirt.monitor("two")),
    ];
    let tasks = (0..50).map(|task| {
        let monitor = monitors[task % 2].clone();
        tokio::spawn(async move {
            for number in 0..20 {
                let id = task * 1000 + number;
                let command = format!(r#"{{"execute":"query-name","id":{id}}}"#);
                let reply = run(&*monitor, command.as_bytes()).await;
                assert_eq!(reply["id"], id);
                assert!(reply["return"].is_object());
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn with_the_limits_lifted_every_caller_still_gets_its_own_reply() {
    let lab = Lab::start();
    lab.guest("one");
    let libvirt = open(&lab, config(&lab).max_in_flight(usize::MAX)).await;
    let monitor = libvirt.monitor("one");
    let calls = (0..64).map(|id| {
        let monitor = &monitor;
        async move {
            let command = format!(r#"{{"execute":"query-name","id":{id}}}"#);
            assert_eq!(run(monitor, command.as_bytes()).await["id"], id);
        }
    });
    join_all(calls).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_stuck_domain_delays_nobody_else_and_gives_its_slot_back() {
    let lab = Lab::start();
    lab.guest("stuck");
    lab.guest("fine");
    let config = config(&lab).call_timeout(Some(Duration::from_millis(1500)));
    let libvirt = open(&lab, config).await;
    let (stuck, fine) = (libvirt.monitor("stuck"), libvirt.monitor("fine"));
    stuck.connect().await.unwrap();
    fine.connect().await.unwrap();
    lab.pause_qemu("stuck");
    match stuck.run(QUERY_STATUS).await.unwrap_err() {
        Error::Timeout {
            phase: Phase::Reply,
            maybe_executed: true,
            ..
        } => {}
        other => panic!("{other:?}"),
    }
    // The stuck command still has the monitor's turn, so the next was never sent.
    match stuck.run(QUERY_STATUS).await.unwrap_err() {
        Error::Timeout {
            phase: Phase::Queue,
            maybe_executed: false,
            ..
        } => {}
        other => panic!("{other:?}"),
    }
    for _ in 0..20 {
        fine.run(QUERY_STATUS).await.unwrap();
    }
    lab.resume_qemu("stuck");
    // As soon as the late reply has come, the monitor works again.
    within(PATIENCE, async {
        while stuck.run(QUERY_STATUS).await.is_err() {}
    })
    .await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_stopped_daemon_is_found_out_and_closing_does_not_wait_for_it() {
    let lab = Lab::start();
    lab.guest("one");
    let config = config(&lab).keepalive(Some((Duration::from_millis(500), 3)));
    let libvirt = open(&lab, config.clone()).await;
    let other = open(
        &lab,
        config
            .call_timeout(Some(Duration::from_millis(200)))
            .keepalive(None),
    )
    .await;
    let monitor = libvirt.monitor("one");
    monitor.connect().await.unwrap();
    lab.pause_daemon();
    let error = within(Duration::from_secs(5), monitor.run(QUERY_STATUS))
        .await
        .unwrap_err();
    assert!(matches!(
        *cause(error),
        EndCause::KeepaliveTimeout { pings: 3, .. }
    ));
    within(Duration::from_secs(1), other.close()).await.unwrap();
    // It still accepts connections, and then says nothing.
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let silent = Config::new()
        .uri(lab.uri())
        .connect_timeout(Some(Duration::from_millis(200)));
    match Libvirt::open(conn, silent).await.unwrap_err() {
        Error::Timeout {
            phase: Phase::Authentication,
            ..
        } => {}
        other => panic!("{other:?}"),
    }
    lab.resume_daemon();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn an_idle_session_survives_by_answering_the_daemons_pings() {
    // The daemon pings after 5 s of silence. Our own pings come later than this test ends.
    let lab = Lab::start();
    lab.guest("one");
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let (conn, recording) = record(conn);
    let config = config(&lab).keepalive(Some((Duration::from_secs(60), 1)));
    let libvirt = Libvirt::open(conn, config).await.unwrap();
    let answered = || {
        let packets = recording.fixture().packets;
        let keepalive = packets
            .iter()
            .filter(|(_, packet)| packet.header.program == keepalive::PROGRAM);
        let found: Vec<_> = keepalive
            .map(|(way, packet)| (*way, packet.header.procedure))
            .collect();
        found.ends_with(&[
            (Direction::ToClient, Ping::NUMBER),
            (Direction::ToServer, Pong::NUMBER),
        ])
    };
    within(PATIENCE, async {
        while !answered() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    run(&libvirt.monitor("one"), QUERY_STATUS).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn subscribing_and_dropping_over_and_over_registers_once_at_a_time() {
    let lab = Lab::start();
    lab.guest("one");
    let libvirt = open(&lab, config(&lab)).await;
    let monitor = libvirt.monitor("one");
    for _ in 0..50 {
        let events = monitor.events().await.unwrap();
        drop(events);
    }
    let mut events = monitor.events().await.unwrap();
    let _: Value = monitor.execute(Command::new("stop")).await.unwrap();
    assert_eq!(next_of(&mut events, &["STOP"]).await.name, "STOP");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_last_handle_takes_the_connection_with_it() {
    let lab = Lab::start();
    lab.guest("one");
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let socket = std::fs::read_link(format!("/proc/self/fd/{}", conn.as_raw_fd())).unwrap();
    let is_open = || {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .any(|link| link == socket)
    };
    let libvirt = Libvirt::open(conn, config(&lab)).await.unwrap();
    let monitor = libvirt.monitor("one");
    let mut events = monitor.events().await.unwrap();
    drop(libvirt);
    run(&monitor, br#"{"execute":"stop"}"#).await;
    drop(monitor);
    // An event stream keeps the connection.
    assert_eq!(next_of(&mut events, &["STOP"]).await.name, "STOP");
    assert!(is_open());
    drop(events);
    within(Duration::from_secs(1), async {
        while is_open() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
