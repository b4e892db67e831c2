//! `FakeQemu`: it answers as QEMU does, says what the test wants, and tells what it was told.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::testing::{FakeQemu, Reply};
use libvirt_qmp::{
    Command, Config, EndCause, Error, Event, Monitor, MonitorExt, Phase, SocketMonitor, Timestamp,
    Version,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::raw::{RawQmp, send_with_file, soon};
use crate::support::conformance;
use crate::support::scratch::Scratch;

const STATUS: &[u8] = br#"{"execute":"query-status"}"#;

fn monitor(qemu: &FakeQemu) -> Arc<SocketMonitor> {
    Arc::new(SocketMonitor::new(qemu.connect()))
}

fn run(
    monitor: &Arc<SocketMonitor>,
    command: &'static str,
) -> JoinHandle<Result<bytes::Bytes, Error>> {
    let monitor = monitor.clone();
    tokio::spawn(async move {
        let command = Command::new(command).to_json()?;
        monitor.run(&command).await
    })
}

async fn execute(monitor: &impl Monitor, command: &str) -> Result<Value, Error> {
    monitor.execute(Command::new(command)).await
}

/// The suite's monitor, which has no out-of-band commands.
async fn suite<T>(stream: T)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let config = Config::new().oob(false);
    conformance::suite(&SocketMonitor::with_config(stream, config)).await;
}

#[tokio::test]
async fn the_suite_passes_over_pipe_unix_tcp_and_in_pretty_print() {
    let scratch = Scratch::new();
    let qemu = FakeQemu::new();
    suite(qemu.connect()).await;
    qemu.listen_unix(scratch.path("qmp")).unwrap();
    suite(UnixStream::connect(scratch.path("qmp")).await.unwrap()).await;
    let addr = qemu.listen_tcp().unwrap();
    suite(TcpStream::connect(addr).await.unwrap()).await;
    qemu.pretty(true);
    suite(qemu.connect()).await;
}

#[tokio::test(start_paused = true)]
async fn a_program_finds_a_running_machine() {
    let qemu = FakeQemu::new();
    let version = Version::new(10, 0, 2);
    qemu.version(&version).name("vm-1");
    let monitor = monitor(&qemu);
    assert_eq!(monitor.greeting().await.unwrap().version, version);
    assert_eq!(monitor.version().await.unwrap(), version);
    let name: Value = monitor.query("name").await.unwrap();
    assert_eq!(name, json!({"name": "vm-1"}));
    let commands: Vec<Value> = monitor.query("commands").await.unwrap();
    assert!(commands.contains(&json!({"name": "query-block"})));
    assert!(!commands.contains(&json!({"name": "blockdev-add"})));
    qemu.on("blockdev-add", json!({}));
    let commands: Vec<Value> = monitor.query("commands").await.unwrap();
    assert!(commands.contains(&json!({"name": "blockdev-add"})));
    qemu.on_hmp("info cpus", "* CPU #0: thread_id=1\r\n");
    let text = monitor.hmp("info cpus", 0).await.unwrap();
    assert_eq!(text, "* CPU #0: thread_id=1\r\n");
    assert!(monitor.hmp("info cpus", 7).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_script_says_what_is_answered() {
    let qemu = FakeQemu::new();
    let monitor = monitor(&qemu);
    qemu.on("query-status", json!({"status": "paused"}))
        .on_error("device_del", "DeviceNotFound", "no blk0")
        .on_fn("add", |arguments| {
            match (arguments["a"].as_i64(), arguments["b"].as_i64()) {
                (Some(a), Some(b)) => Reply::value(a + b),
                _ => Reply::error("GenericError", "two numbers"),
            }
        })
        .once("query-status", json!({"status": "inmigrate"}))
        .once("query-status", Reply::error("Odd", "once"));
    let status = || execute(&monitor, "query-status");
    assert_eq!(status().await.unwrap()["status"], "inmigrate");
    match status().await {
        Err(Error::Qmp(error)) => assert_eq!((error.class.as_str(), &*error.desc), ("Odd", "once")),
        other => panic!("{other:?}"),
    }
    assert_eq!(status().await.unwrap()["status"], "paused");
    assert_eq!(status().await.unwrap()["status"], "paused");
    let error = execute(&monitor, "device_del").await.unwrap_err();
    assert!(error.is_device_not_found());
    let sum = Command::new("add").arg("a", 2).arg("b", 3);
    assert_eq!(monitor.execute::<i64>(sum).await.unwrap(), 5);
    assert!(matches!(execute(&monitor, "add").await, Err(Error::Qmp(_))));
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_can_be_asserted() {
    let qemu = FakeQemu::new();
    let monitor = monitor(&qemu);
    let command = Command::new("device_del").arg("id", "blk0");
    assert!(monitor.execute::<Value>(command).await.is_err());
    monitor
        .run(br#"{"execute":"query-status","id":"mine"}"#)
        .await
        .unwrap();
    let del = json!({"execute": "device_del", "arguments": {"id": "blk0"}});
    let status = json!({"execute": "query-status"});
    assert_eq!(qemu.commands(), [del, status.clone()]);
    assert_eq!(
        qemu.negotiations().len(),
        1,
        "what belongs to the handshake stands apart"
    );
    assert_eq!(qemu.wait_for_command("query-status").await, status);

    // Each is waited for once.
    let second = tokio::spawn({
        let qemu = qemu.clone();
        async move { qemu.wait_for_command("query-status").await }
    });
    qemu.never("query-status");
    let asked = run(&monitor, "query-status");
    assert_eq!(soon(second).await.unwrap(), status);
    asked.abort();
    qemu.clear_commands();
    assert!(qemu.commands().is_empty());
}

#[tokio::test(start_paused = true)]
async fn delays_are_on_the_test_clock() {
    let qemu = FakeQemu::new();
    qemu.delay("query-status", Duration::from_secs(59));
    let monitor = monitor(&qemu);
    let started = tokio::time::Instant::now();
    execute(&monitor, "query-status").await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 59);
    // The default deadline of a call is a minute.
    let late = Reply::value(json!({})).delay(Duration::from_secs(61));
    qemu.on("slow", late);
    let error = execute(&monitor, "slow").await.unwrap_err();
    assert!(error.is_timeout() && error.maybe_executed());
    // The late reply is nobody's.
    qemu.delay("query-status", Duration::ZERO);
    assert_eq!(
        execute(&monitor, "query-status").await.unwrap()["status"],
        "running"
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_never_answered_leaves_the_others_alone() {
    let qemu = FakeQemu::new();
    qemu.never("lost");
    let monitor = monitor(&qemu);
    let lost = run(&monitor, "lost");
    qemu.wait_for_command("lost").await;
    execute(&monitor, "query-status").await.unwrap();
    assert!(lost.await.unwrap().unwrap_err().is_timeout());
}

#[tokio::test(start_paused = true)]
async fn a_held_command_blocks_all_others_as_in_qemu() {
    let scratch = Scratch::new();
    let qemu = FakeQemu::new();
    qemu.listen_unix(scratch.path("qmp")).unwrap();
    qemu.hold("migrate").on("migrate", json!({}));
    let first = monitor(&qemu);
    let held = run(&first, "migrate");
    qemu.wait_for_command("migrate").await;
    let behind = run(&first, "query-status");
    qemu.wait_for_command("query-status").await;

    // Another monitor greets, and does not even negotiate.
    let stream = UnixStream::connect(scratch.path("qmp")).await.unwrap();
    let second = SocketMonitor::with_config(stream, Config::new());
    match second.connect().await {
        Err(Error::Timeout { phase, .. }) => assert_eq!(phase, Phase::Negotiation),
        other => panic!("{other:?}"),
    }
    assert!(!held.is_finished() && !behind.is_finished());
    qemu.release("migrate");
    soon(held).await.unwrap().unwrap();
    soon(behind).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_client_waits_for_the_first_to_leave() {
    let qemu = FakeQemu::new();
    let first = monitor(&qemu);
    first.connect().await.unwrap();
    match monitor(&qemu).connect().await {
        Err(Error::Timeout { phase, .. }) => assert_eq!(phase, Phase::Greeting),
        other => panic!("{other:?}"),
    }
    first.disconnect().await.unwrap();
    monitor(&qemu).connect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn events_come_before_the_reply_and_to_those_who_negotiated() {
    let qemu = FakeQemu::new();
    let reply = Reply::value(json!({}))
        .event("ONE", json!({"n": 1}))
        .event("TWO", None)
        .event_after("THREE", None);
    qemu.on("go", reply);
    let (greeting, mut client) = RawQmp::greeted(qemu.connect()).await;
    assert_eq!(greeting["QMP"]["capabilities"], json!(["oob"]));
    qemu.event("LOST", None);
    client.ask(r#"{"execute":"qmp_capabilities"}"#).await;
    soon(qemu.wait_for_client()).await;
    client.say(r#"{"execute":"go","id":1}"#).await;
    let mut came = Vec::new();
    for _ in 0..4 {
        came.push(client.next().await.unwrap());
    }
    assert_eq!(came[0]["event"], "ONE");
    assert_eq!(came[0]["data"], json!({"n": 1}));
    assert_eq!(came[1]["event"], "TWO");
    assert_eq!(came[1].get("data"), None);
    assert_eq!(came[2], json!({"return": {}, "id": 1}));
    assert_eq!(came[3]["event"], "THREE");
    let past = Event::new("PAST", None, Timestamp::UNKNOWN);
    qemu.emit(&past);
    let past = client.next().await.unwrap();
    assert_eq!(
        past["timestamp"],
        json!({"seconds": -1, "microseconds": -1})
    );
}

#[tokio::test(start_paused = true)]
async fn states_change_with_their_events() {
    let qemu = FakeQemu::new();
    let monitor = monitor(&qemu);
    let mut events = monitor.events().await.unwrap();
    // The second `stop` changes nothing.
    for command in ["stop", "stop", "cont", "system_powerdown"] {
        execute(&monitor, command).await.unwrap();
    }
    for name in ["STOP", "RESUME", "POWERDOWN"] {
        assert_eq!(soon(events.next()).await.unwrap().unwrap().name, name);
    }
    qemu.status("inmigrate");
    let status = execute(&monitor, "query-status").await.unwrap();
    assert_eq!(
        (&status["status"], &status["running"]),
        (&json!("inmigrate"), &json!(false))
    );
}

#[tokio::test(start_paused = true)]
async fn quit_ends_it_after_its_event_and_its_reply() {
    let qemu = FakeQemu::new();
    let client = RawQmp::negotiated(qemu.connect(), &[]).await;
    let mut client = client;
    let event = client.ask(r#"{"execute":"quit"}"#).await;
    assert_eq!(event["event"], "SHUTDOWN");
    assert_eq!(event["data"]["reason"], "host-qmp-quit");
    assert_eq!(client.next().await.unwrap(), json!({"return": {}}));
    assert_eq!(client.next().await, None);
    assert!(qemu.has_ended());
    // Nobody is served any more.
    let error = monitor(&qemu).connect().await.unwrap_err();
    assert!(error.is_disconnected(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn connections_end_as_the_test_says() {
    let qemu = FakeQemu::new();
    let ended = |error: Error| match error {
        Error::Disconnected { cause, .. } => cause,
        other => panic!("{other:?}"),
    };
    for end in [FakeQemu::close, FakeQemu::abort, FakeQemu::kill] {
        let monitor = monitor(&qemu);
        monitor.connect().await.unwrap();
        let mut events = monitor.events().await.unwrap();
        end(&qemu);
        let cause = ended(soon(events.next()).await.unwrap().unwrap_err());
        assert!(matches!(*cause, EndCause::PeerClosed), "{cause:?}");
    }

    let qemu = FakeQemu::new();
    qemu.on("die", Reply::close());
    let cause = ended(execute(&monitor(&qemu), "die").await.unwrap_err());
    assert!(matches!(*cause, EndCause::PeerClosed), "{cause:?}");
    // Bytes that are no message, in the place of a reply and at any time.
    qemu.on("odd", Reply::raw("HTTP/1.1 400"));
    let cause = ended(execute(&monitor(&qemu), "odd").await.unwrap_err());
    assert!(matches!(*cause, EndCause::Protocol(_)), "{cause:?}");
    let monitor = monitor(&qemu);
    let mut events = monitor.events().await.unwrap();
    qemu.send_raw(r#"{"event": "HALF"#).close();
    let cause = ended(soon(events.next()).await.unwrap().unwrap_err());
    assert!(cause.to_string().contains("15 bytes"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn bad_input_is_answered_as_qemu_does_and_nothing_ends() {
    let qemu = FakeQemu::new();
    let (_, mut client) = RawQmp::greeted(qemu.connect()).await;
    let class = |value: Value| value["error"]["class"].as_str().map(str::to_owned);
    let early = client.ask(r#"{"execute":"query-status","id":1}"#).await;
    assert_eq!(early["id"], 1);
    assert_eq!(class(early).unwrap(), "CommandNotFound");
    let unknown = r#"{"execute":"qmp_capabilities","arguments":{"enable":["x"]}}"#;
    assert_eq!(class(client.ask(unknown).await).unwrap(), "GenericError");
    let negotiate = r#"{"execute":"qmp_capabilities"}"#;
    assert_eq!(client.ask(negotiate).await, json!({"return": {}}));
    assert_eq!(
        class(client.ask(negotiate).await).unwrap(),
        "CommandNotFound"
    );
    for bad in [
        "[]\n",
        "{}",
        "{\"execute\":1}",
        "{'execute':'x',}",
        "\u{1b}\n",
        "{\"execute\":\"\t\"}",
    ] {
        let answer = client.ask(bad).await;
        assert_eq!(answer.get("id"), None, "{bad}");
        assert_eq!(class(answer).unwrap(), "GenericError", "{bad}");
    }
    for id in ["18446744073709551615", "null", r#"{"a":[{}]}"#] {
        let answer = client
            .ask(&format!(r#"{{"execute":"query-kvm","id":{id}}}"#))
            .await;
        assert_eq!(answer["id"].to_string(), id);
    }
    // No separator, and any cut.
    client.say(r#"{"execute":"query-kvm"}{"exec"#).await;
    assert!(client.next().await.unwrap().get("return").is_some());
    assert!(
        client
            .ask(r#"ute":"query-kvm"}"#)
            .await
            .get("return")
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn commands_out_of_band_overtake_the_others_where_negotiated() {
    let qemu = FakeQemu::new();
    qemu.hold("slow").on("slow", json!({}));
    let mut client = RawQmp::negotiated(qemu.connect(), &["oob"]).await;
    // One runs and seven wait: QEMU still reads.
    for id in 0..8 {
        let name = if id == 0 { "slow" } else { "query-kvm" };
        client
            .say(format!(r#"{{"execute":"{name}","id":{id}}}"#))
            .await;
    }
    let answer = client.ask(r#"{"exec-oob":"query-yank","id":"o"}"#).await;
    assert_eq!(answer, json!({"return": [], "id": "o"}));
    let answer = client.ask(r#"{"exec-oob":"query-kvm","id":"o"}"#).await;
    assert_eq!(
        answer["error"]["desc"],
        "The command query-kvm does not support OOB"
    );
    qemu.allow_oob("query-kvm");
    let answer = client.ask(r#"{"exec-oob":"query-kvm","id":"o"}"#).await;
    assert!(answer.get("return").is_some());
    // With one more it stops reading, and what is behind that one waits.
    client.say(r#"{"execute":"query-kvm","id":8}"#).await;
    client.say(r#"{"exec-oob":"query-yank","id":"o"}"#).await;
    qemu.release("slow");
    let mut order = Vec::new();
    for _ in 0..10 {
        order.push(client.next().await.unwrap()["id"].clone());
    }
    assert_eq!(order[0], json!(0), "{order:?}");
    let in_band: Vec<_> = order.iter().filter_map(Value::as_u64).collect();
    assert_eq!(in_band, (0..9).collect::<Vec<_>>());
    drop(client);

    let mut plain = RawQmp::negotiated(qemu.connect(), &[]).await;
    let answer = plain.ask(r#"{"exec-oob":"query-yank","id":"o"}"#).await;
    assert_eq!(
        answer["error"]["desc"],
        "QMP input member 'exec-oob' is unexpected"
    );
}

#[tokio::test]
async fn descriptors_go_to_the_command_that_takes_them() {
    let scratch = Scratch::new();
    let qemu = FakeQemu::new();
    qemu.listen_unix(scratch.path("qmp")).unwrap();
    let stream = UnixStream::connect(scratch.path("qmp")).await.unwrap();
    let mut client = RawQmp::negotiated(stream, &[]).await;
    let getfd = r#"{"execute":"getfd","arguments":{"fdname":"one"}}"#;
    let missing = client.ask(getfd).await;
    assert_eq!(
        missing["error"]["desc"],
        "No file descriptor supplied via SCM_RIGHTS"
    );

    let (mut read, mut write) = std::io::pipe().unwrap();
    // Sent with an unrelated command, and replaced by the one that comes after it.
    let unrelated = br#"{"execute":"query-kvm"}"#;
    send_with_file(&client.stream, unrelated, read.as_fd());
    client.next().await.unwrap();
    send_with_file(&client.stream, getfd.as_bytes(), write.as_fd());
    assert_eq!(client.next().await.unwrap(), json!({"return": {}}));
    let mut files = qemu.files();
    assert_eq!(files.len(), 1);
    let mut got = std::fs::File::from(files.remove(0));
    got.write_all(b"through").unwrap();
    write.write_all(b" both").unwrap();
    drop((got, write));
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through both");
    assert!(qemu.files().is_empty());

    let (read, _write) = std::io::pipe().unwrap();
    send_with_file(
        &client.stream,
        br#"{"execute":"add-fd","arguments":{"fdset-id":7}}"#,
        read.as_fd(),
    );
    let added = client.next().await.unwrap();
    assert_eq!(added["return"]["fdset-id"], 7);
    let close = r#"{"execute":"closefd","arguments":{"fdname":"one"}}"#;
    assert_eq!(client.ask(close).await, json!({"return": {}}));
    assert!(client.ask(close).await.get("error").is_some());
}

#[tokio::test]
async fn nothing_is_left_of_one_that_was_dropped() {
    let scratch = Scratch::new();
    let path = scratch.path("qmp");
    let qemu = FakeQemu::new();
    qemu.listen_unix(&path).unwrap();
    let addr = qemu.listen_tcp().unwrap();
    let connected = [
        SocketMonitor::new(qemu.connect()),
        SocketMonitor::new(UnixStream::connect(&path).await.unwrap()),
        SocketMonitor::new(TcpStream::connect(addr).await.unwrap()),
    ];
    for monitor in &connected {
        monitor.run(STATUS).await.unwrap();
    }
    let handle = qemu.clone();
    drop(qemu);
    connected[0].run(STATUS).await.unwrap();
    handle.hold("query-status");
    drop(handle);
    assert!(!path.exists());
    for monitor in &connected {
        let error = soon(monitor.run(STATUS)).await.unwrap_err();
        assert!(error.is_disconnected(), "{error}");
    }
    soon(async { while TcpStream::connect(addr).await.is_ok() {} }).await;
}
