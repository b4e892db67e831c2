//! The monitor on QEMU's own socket, against a real QEMU. The rows P1 to P31 are facts about QEMU that each test relies on.
//! Here are commands, events and ends; the modules have out-of-band commands, descriptors, strays and the ways to QEMU.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod files;
mod oob;
mod reconnect;
mod strays;
mod ways;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use libvirt_qmp::{
    Command, Config, EndCause, Error, ErrorClass, EventStream, Monitor, MonitorExt, Phase,
    SocketMonitor,
};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use support::qemu::Qemu;

/// More than anything here takes.
const SOON: Duration = Duration::from_secs(60);

const STATUS: &str = r#"{"execute":"query-status"}"#;

async fn over(path: &Path, config: Config) -> SocketMonitor {
    SocketMonitor::with_config(UnixStream::connect(path).await.unwrap(), config)
}

/// Runs a command given as text.
async fn run(monitor: &SocketMonitor, command: impl AsRef<str>) -> Result<String, Error> {
    let reply = timeout(SOON, monitor.run(command.as_ref().as_bytes()))
        .await
        .expect("an answer soon")?;
    Ok(String::from_utf8(reply.to_vec()).unwrap())
}

/// The name of the next event.
async fn next(events: &mut EventStream) -> String {
    timeout(SOON, events.next())
        .await
        .expect("an event soon")
        .expect("no end of the stream")
        .expect("no error")
        .name
}

/// Why the connection ended.
fn cause_of(error: &Error) -> &EndCause {
    match error {
        Error::Disconnected { cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}

fn class(result: Result<String, Error>) -> ErrorClass {
    match result.unwrap_err() {
        Error::Qmp(error) => error.class,
        other => panic!("{other:?}"),
    }
}

/// The same over each of the three sockets: commands, a reply of over 200 KB, errors, events.
async fn serves(monitor: SocketMonitor) {
    // P10.
    let greeting = monitor.greeting().await.unwrap();
    let version = monitor.version().await.unwrap();
    assert_eq!(greeting.version, version);
    assert!(version.major >= 5, "{version}");

    // P31: not every version has every member.
    let status: Value = monitor.execute(Command::new("query-status")).await.unwrap();
    assert_eq!(status["status"], "running");

    // P25: 207,009 bytes in QEMU 7.2, nearly three times as many when pretty-printed.
    let schema: Vec<Value> = monitor
        .execute(Command::new("query-qmp-schema"))
        .await
        .unwrap();
    assert!(schema.len() > 900, "{}", schema.len());
    assert!(schema.iter().any(|entry| entry["name"] == "query-status"));

    // P20.
    assert_eq!(
        class(run(&monitor, r#"{"execute":"no-such-command"}"#).await),
        ErrorClass::CommandNotFound
    );
    assert_eq!(
        class(
            run(
                &monitor,
                r#"{"execute":"device_del","arguments":{"id":"none"}}"#
            )
            .await
        ),
        ErrorClass::DeviceNotFound
    );
    assert_eq!(
        class(run(&monitor, r#"{"execute":"query-balloon"}"#).await),
        ErrorClass::DeviceNotActive
    );
    assert_eq!(
        class(run(&monitor, r#"{"execute":"stop","arguments":{"x":1}}"#).await),
        ErrorClass::GenericError
    );
    // P11: the handshake is over.
    assert_eq!(
        class(run(&monitor, r#"{"execute":"qmp_capabilities"}"#).await),
        ErrorClass::CommandNotFound
    );

    // P21: the event comes first, then the reply; so it is there when the reply is, for the first stream at least.
    run(&monitor, r#"{"execute":"stop"}"#).await.unwrap();
    let mut events = monitor.events().await.unwrap();
    assert_eq!(next(&mut events).await, "STOP");
    run(&monitor, r#"{"execute":"cont"}"#).await.unwrap();
    run(&monitor, r#"{"execute":"system_reset"}"#)
        .await
        .unwrap();
    assert_eq!(next(&mut events).await, "RESUME");
    assert_eq!(next(&mut events).await, "RESET");

    // P26, P27.
    let text = monitor.hmp("info version", None).await.unwrap();
    assert!(
        text.starts_with(&format!("{}.{}.", version.major, version.minor))
            && text.ends_with("\r\n"),
        "{text:?}"
    );
    let text = monitor.hmp("nonsense", None).await.unwrap();
    assert!(text.starts_with("unknown command: "), "{text:?}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn over_a_unix_socket() {
    let qemu = Qemu::start(&[]);
    serves(SocketMonitor::unix(qemu.unix_path()).await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn over_tcp() {
    let qemu = Qemu::start(&[]);
    serves(SocketMonitor::tcp(qemu.tcp_addr()).await.unwrap()).await;
}

/// P1, row 39 of what other clients cannot do.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn over_a_socket_that_pretty_prints() {
    let qemu = Qemu::start(&[]);
    serves(SocketMonitor::unix(qemu.pretty_path()).await.unwrap()).await;
}

/// P5, P6, P14: whatever id the user gives comes back as given, at any depth QEMU takes, on success and on error.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn ids_of_the_user_come_back() {
    let qemu = Qemu::start(&[]);
    let monitor = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for id in [
        "18446744073709551615",
        "-9223372036854775808",
        // Neither would survive QEMU's own echo: it makes a double of the one and sorts the members of the other.
        "123456789012345678901234567890",
        r#"{ "b": 1, "a": 0.1 }"#,
        "null",
        r#""\u0000\ud83d\ude00 é \"x\"""#,
        &nested(200),
        &nested(1023),
    ] {
        let reply = run(&monitor, format!(r#"{{"execute":"query-name","id":{id}}}"#))
            .await
            .unwrap();
        assert_eq!(reply, format!(r#"{{"return": {{}}, "id": {id}}}"#));
        match run(&monitor, format!(r#"{{"id":{id},"execute":"none"}}"#)).await {
            Err(Error::Qmp(error)) => assert_eq!(error.id.unwrap().get(), id),
            other => panic!("{other:?}"),
        }
    }
}

/// P1, P2, P8: text of any kind goes to QEMU and comes back. The label of a character device is echoed.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn text_and_numbers_survive() {
    let qemu = Qemu::start(&["-chardev", "ringbuf,id=ring,size=4096"]);
    let monitor = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    for text in [
        "plain",
        "\u{1f600} surrogate pair",
        "\u{e9}\u{4e2d}\u{2028}\u{7f}",
        "quote \" backslash \\ slash / tab \t line \r\n",
        "\u{1}\u{1f}",
    ] {
        let write = Command::new("ringbuf-write")
            .arg("device", "ring")
            .arg("data", text);
        monitor.execute::<Value>(write).await.unwrap();
        let read = Command::new("ringbuf-read")
            .arg("device", "ring")
            .arg("size", 4096);
        assert_eq!(monitor.execute::<String>(read).await.unwrap(), text);
    }
    // A string may hold U+0000.
    let nul = Command::new("human-monitor-command").arg("command-line", "info name\0x");
    monitor.execute::<String>(nul).await.unwrap();
    // An error's text has what was asked for.
    match run(
        &monitor,
        r#"{"execute":"qom-get","arguments":{"path":"/é\ud83d\ude00","property":"x"}}"#,
    )
    .await
    {
        Err(Error::Qmp(error)) => assert!(error.desc.contains("/é\u{1f600}"), "{}", error.desc),
        other => panic!("{other:?}"),
    }
    // P6: numbers are sent as they are given; QEMU tells an integer from what only looks like one.
    for size in ["1.0", r#""1""#, "9223372036854775808"] {
        let read = format!(
            r#"{{"execute":"ringbuf-read","arguments":{{"device":"ring","size":{size}}}}}"#
        );
        match run(&monitor, read).await {
            Err(Error::Qmp(error)) => assert!(error.desc.contains("integer"), "{size}: {error}"),
            other => panic!("{size}: {other:?}"),
        }
    }
    // P6: integers stay integers, up to the last.
    let set = |value: u64| {
        Command::new("object-add")
            .arg("qom-type", "throttle-group")
            .arg("id", format!("t{value}"))
            .arg("limits", json!({"iops-total": value}))
    };
    monitor.execute::<Value>(set(4)).await.unwrap();
    match monitor.execute::<Value>(set(u64::MAX)).await.unwrap_err() {
        // Refused for its value, hence read as the number it is.
        Error::Qmp(error) => assert_eq!(error.class, ErrorClass::GenericError),
        other => panic!("{other:?}"),
    }
}

/// P4, P7, P8: what QEMU would answer without an id, or with a thousand errors, is not sent; what only it can refuse
/// reaches the caller, and the connection lives.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn bad_json_does_no_harm() {
    let qemu = Qemu::start(&[]);
    let monitor = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    let deep = format!(
        r#"{{"execute":"query-name","arguments":{}{}}}"#,
        "[".repeat(1024),
        "]".repeat(1024)
    );
    for bad in [
        r#"{"execute":"query-name","arguments":{"x":"\ud800"}}"#,
        "{\"execute\":\"query-name\",\"arguments\":{\"x\":\"\t\"}}",
        r#"{"execute":"query-name","arguments":{"x":NaN}}"#,
        r#"{"execute":"query-name","arguments":{"x":%p}}"#,
        r#"{"execute":"query-name",}"#,
        "{'execute':'query-name'}",
        "1",
        &deep,
    ] {
        assert!(
            matches!(run(&monitor, bad).await, Err(Error::Command(_))),
            "{bad}"
        );
    }
    // Well-formed for RFC 8259, and yet QEMU answers it without an id.
    let repeated = r#"{"execute":"query-name","arguments":{"a":1,"a":1},"id":5}"#;
    match run(&monitor, repeated).await {
        Err(Error::Qmp(error)) => {
            assert_eq!(error.class, ErrorClass::GenericError);
            assert!(error.id.is_none(), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    // P14, P19.
    let unknown = r#"{"execute":"query-name","unknown":1}"#;
    assert_eq!(
        class(run(&monitor, unknown).await),
        ErrorClass::GenericError
    );
    let not_out_of_band = r#"{"exec-oob":"query-name"}"#;
    assert_eq!(
        class(run(&monitor, not_out_of_band).await),
        ErrorClass::GenericError
    );
    assert_eq!(
        run(&monitor, r#"{"execute":"query-name"}"#).await.unwrap(),
        r#"{"return": {}}"#
    );
}

/// P8, P15: of several commands ahead of each other, the one QEMU could not read is the one that fails.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn an_error_without_id_reaches_the_command_that_caused_it() {
    let qemu = Qemu::start(&[]);
    let monitor = over(&qemu.unix_path(), Config::new().max_in_flight(8)).await;
    for bad in 0..8 {
        let calls = (0..8).map(|n| {
            let arguments = if n == bad { r#"{"a":1,"a":1}"# } else { "{}" };
            run(
                &monitor,
                format!(r#"{{"execute":"query-name","arguments":{arguments}}}"#),
            )
        });
        let outcomes = futures_util::future::join_all(calls).await;
        for (n, outcome) in outcomes.into_iter().enumerate() {
            assert_eq!(outcome.is_err(), n == bad, "{n} of {bad}: {outcome:?}");
        }
    }
}

/// P28: one client at a time. The second is told so, and served once the first has left.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_second_client_waits_for_the_first_to_leave() {
    let qemu = Qemu::start(&[]);
    let first = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    first.connect().await.unwrap();
    let config = Config::new().connect_timeout(Some(Duration::from_millis(300)));
    let second = over(&qemu.unix_path(), config).await;
    let error = second.connect().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Greeting,
                ..
            }
        ),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("is another one connected?"), "{text}");
    drop(second);

    let third = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    let (status, ()) = tokio::join!(run(&third, STATUS), async {
        tokio::task::yield_now().await;
        drop(first);
    });
    status.unwrap();
}

/// P28: the backlog has room for few, and then connecting is refused for a moment.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn more_clients_than_the_backlog_holds_get_their_turn() {
    let qemu = Qemu::start(&[]);
    let path = qemu.unix_path();
    let mut waiting = Vec::new();
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => waiting.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(waiting.len() < 100, "the backlog is never full");
    }
    let dialling = tokio::spawn({
        let path = path.clone();
        async move { SocketMonitor::unix(path).await }
    });
    tokio::task::yield_now().await;
    drop(waiting);
    let monitor = timeout(SOON, dialling).await.unwrap().unwrap().unwrap();
    run(&monitor, STATUS).await.unwrap();
}

/// P12, P13: a command that outlived its client is answered to the next one.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_client_that_follows_another_gets_its_own_answers() {
    let qemu = Qemu::start(&[]);
    for _ in 0..20 {
        let config = Config::new().max_in_flight(8);
        let first = over(&qemu.unix_path(), config).await;
        first.connect().await.unwrap();
        let calls: Vec<_> = (0..8)
            .map(|_| first.run(br#"{"execute":"query-qmp-schema"}"#))
            .collect();
        // Sent, and not waited for.
        let _ = timeout(
            Duration::from_micros(500),
            futures_util::future::join_all(calls),
        )
        .await;
        drop(first);
        let second = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
        let reply = run(&second, r#"{"execute":"query-name","id":1}"#).await;
        assert_eq!(reply.unwrap(), r#"{"return": {}, "id": 1}"#);
    }
}

/// A QEMU that is stopped accepts and says nothing: each phase has its deadline and its name.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_stopped_qemu_times_out_in_every_phase() {
    const SHORT: Duration = Duration::from_secs(1);
    let qemu = Qemu::start(&[]);
    let config = Config::new()
        .connect_timeout(Some(SHORT))
        .call_timeout(Some(SHORT))
        .max_in_flight(8);
    let monitor = over(&qemu.unix_path(), config.clone()).await;
    let mut events = monitor.events().await.unwrap();
    qemu.pause();

    let started = Instant::now();
    let refused = over(&qemu.pretty_path(), config.clone()).await;
    let phase = |error: Error| match error {
        Error::Timeout {
            phase,
            maybe_executed,
            ..
        } => (phase, maybe_executed),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        phase(refused.connect().await.unwrap_err()),
        (Phase::Greeting, false)
    );
    let tcp = SocketMonitor::with_config(
        TcpStream::connect(qemu.tcp_addr()).await.unwrap(),
        config.clone(),
    );
    assert_eq!(
        phase(tcp.connect().await.unwrap_err()),
        (Phase::Greeting, false)
    );
    assert_eq!(
        phase(run(&monitor, STATUS).await.unwrap_err()),
        (Phase::Reply, true)
    );
    // P16: more than the socket takes.
    let long = format!(
        r#"{{"execute":"query-name","arguments":{{"a":"{}"}}}}"#,
        "x".repeat(40_000)
    );
    let calls = futures_util::future::join_all((0..7).map(|_| run(&monitor, &long))).await;
    for outcome in calls {
        assert_eq!(phase(outcome.unwrap_err()), (Phase::Write, true));
    }
    // Eight are with QEMU now.
    assert_eq!(
        phase(run(&monitor, STATUS).await.unwrap_err()),
        (Phase::Queue, false)
    );
    // 4 s of it are the grace for the long commands.
    assert!(started.elapsed() < Duration::from_secs(30));

    // It comes back: the late replies are discarded, and all is in order.
    qemu.resume();
    let call_again = async {
        loop {
            match run(&monitor, r#"{"execute":"stop"}"#).await {
                Ok(reply) => break reply,
                Err(error) => assert!(error.is_timeout(), "{error:?}"),
            }
        }
    };
    let reply = timeout(SOON, call_again).await.unwrap();
    assert_eq!(reply, r#"{"return": {}}"#);
    assert_eq!(next(&mut events).await, "STOP");
}

/// A QEMU that is killed: everybody who waits is told at once, with the same cause.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_killed_qemu_ends_every_call_at_once() {
    let qemu = Qemu::start(&[]);
    let config = Config::new().max_in_flight(3);
    let monitor = Arc::new(over(&qemu.unix_path(), config).await);
    let mut events = monitor.events().await.unwrap();
    qemu.pause();
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let monitor = monitor.clone();
            tokio::spawn(async move { run(&monitor, STATUS).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let started = Instant::now();
    qemu.kill();
    let mut executed = 0;
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        executed += usize::from(error.maybe_executed());
        assert!(gone(&error), "{error:?}");
    }
    assert_eq!(executed, 3);
    let error = timeout(SOON, events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(gone(&error), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(1));

    // P30: the socket file stays, and nobody listens on it.
    match SocketMonitor::unix(qemu.unix_path()).await.unwrap_err() {
        Error::Connect { source, .. } => {
            assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        other => panic!("{other:?}"),
    }
}

/// The end, or a reset where QEMU had not read everything.
fn gone(error: &Error) -> bool {
    match error {
        Error::Disconnected { cause, .. } => match &**cause {
            EndCause::PeerClosed => true,
            EndCause::Io(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            _ => false,
        },
        _ => false,
    }
}

/// P2, P30: the reply, SHUTDOWN, and a clean end: no line end of ours is left unread that would make a reset of it.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn quit_is_a_clean_end() {
    for _ in 0..5 {
        let qemu = Qemu::start(&[]);
        let monitor = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
        let mut events = monitor.events().await.unwrap();
        let reply = run(&monitor, r#"{"execute":"quit","id":"bye"}"#).await;
        assert_eq!(reply.unwrap(), r#"{"return": {}, "id": "bye"}"#);
        let event = timeout(SOON, events.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(event.name, "SHUTDOWN");
        let data: Value = event.data_as().unwrap();
        assert_eq!(data["reason"], "host-qmp-quit");
        assert!(timeout(SOON, events.next()).await.unwrap().is_none());
        let error = run(&monitor, STATUS).await.unwrap_err();
        assert!(
            matches!(&error, Error::Disconnected { cause, maybe_executed: false } if matches!(**cause, EndCause::PeerClosed)),
            "{error:?}"
        );
        qemu.wait_ended();
    }
}

/// Dropping the last handle lets the next client in; a socket kept open would lock it out.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn clients_in_turn() {
    let qemu = Qemu::start(&[]);
    for n in 0..50 {
        let config = Config::new().connect_timeout(Some(Duration::from_secs(5)));
        let monitor = over(&qemu.unix_path(), config).await;
        let reply = run(&monitor, format!(r#"{{"execute":"query-name","id":{n}}}"#)).await;
        assert_eq!(reply.unwrap(), format!(r#"{{"return": {{}}, "id": {n}}}"#));
    }
}

/// P14, P15: many callers on many threads, each with their own id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_thousand_commands_from_fifty_tasks() {
    let qemu = Qemu::start(&[]);
    let config = Config::new().max_in_flight(8);
    let monitor = Arc::new(over(&qemu.unix_path(), config).await);
    let tasks: Vec<_> = (0..50)
        .map(|task| {
            let monitor = monitor.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    let id = format!("[{task}, {n}]");
                    let name = if n % 2 == 0 { "query-name" } else { "none" };
                    let command = format!(r#"{{"execute":"{name}","id":{id}}}"#);
                    match run(&monitor, command).await {
                        Ok(reply) => {
                            assert_eq!(reply, format!(r#"{{"return": {{}}, "id": {id}}}"#));
                        }
                        Err(Error::Qmp(error)) => assert_eq!(error.id.unwrap().get(), id),
                        Err(other) => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// P3: QEMU reads a megabyte in about 2.5 s. The deadline grows with the command.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_megabyte_command_is_given_its_time() {
    let qemu = Qemu::start(&["-chardev", "ringbuf,id=ring,size=1048576"]);
    let config = Config::new().call_timeout(Some(Duration::from_millis(500)));
    let monitor = over(&qemu.unix_path(), config).await;
    let text = "0123456789abcdef".repeat(1 << 16);
    let write = Command::new("ringbuf-write")
        .arg("device", "ring")
        .arg("data", &text);
    monitor.execute::<Value>(write).await.unwrap();
    let read = Command::new("ringbuf-read")
        .arg("device", "ring")
        .arg("size", 1 << 20)
        .timeout(SOON);
    let back: String = monitor.execute(read).await.unwrap();
    assert!(back == text, "{} bytes came back", back.len());
}

/// P24: events go on while nobody reads them, and none is lost up to the limit of the queue.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn events_wait_for_their_reader() {
    let qemu = Qemu::start(&[]);
    let monitor = over(&qemu.unix_path(), Config::new().event_queue(300)).await;
    for _ in 0..100 {
        run(&monitor, r#"{"execute":"stop"}"#).await.unwrap();
        run(&monitor, r#"{"execute":"cont"}"#).await.unwrap();
    }
    let mut events = monitor.events().await.unwrap();
    for _ in 0..100 {
        assert_eq!(next(&mut events).await, "STOP");
        assert_eq!(next(&mut events).await, "RESUME");
    }
    for _ in 0..200 {
        run(&monitor, r#"{"execute":"stop"}"#).await.unwrap();
        run(&monitor, r#"{"execute":"cont"}"#).await.unwrap();
    }
    let lost = timeout(SOON, events.next()).await.unwrap().unwrap();
    assert!(matches!(lost, Err(Error::EventsLost(100))), "{lost:?}");
    assert_eq!(next(&mut events).await, "STOP");
}
