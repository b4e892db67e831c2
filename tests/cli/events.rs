//! `events` and `wait`: what they print, and how they end.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::protocol::qemu::procedure::ConnectDomainMonitorEventRegister;
use libvirt_qmp::testing::FakeQemu;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::program::*;
use crate::support::scratch::Scratch;

#[tokio::test]
async fn events_are_printed_one_a_line() {
    let output = play(events_only(), &["events", "--count", "3", GUEST]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    let happened: Vec<_> = lines.iter().map(|(_, what)| *what).collect();
    assert_eq!(
        happened,
        [
            "STOP",
            "RESUME",
            r#"RESET {"guest":false,"reason":"host-qmp-system-reset"}"#
        ]
    );
    for (time, _) in lines {
        let (seconds, microseconds) = time.split_once('.').unwrap();
        assert!(
            seconds.parse::<u64>().is_ok() && microseconds.len() == 6,
            "{time}"
        );
    }

    let output = play(events_only(), &["events", "--json", "--count", "3", GUEST]).await;
    let events: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(events.len(), 3);
    for (event, name) in events.iter().zip(["STOP", "RESUME", "RESET"]) {
        assert_eq!(event["event"], name);
        assert_eq!(
            event["domain"],
            json!({"name": GUEST, "uuid": "5ea6e1b1-0001-4000-8000-737461676531", "id": 1})
        );
        assert!(
            event["timestamp"]["seconds"].is_u64() && event["timestamp"]["microseconds"].is_u64()
        );
    }
    assert_eq!(events[2]["data"]["reason"], "host-qmp-system-reset");
    assert_eq!(events[0].get("data"), None);
}

#[tokio::test]
async fn an_interrupt_ends_events_in_order() {
    let served = Served::start(events_only());
    let (mut child, mut lines) = watch(&["-C", &served.uri(), "events", GUEST]);
    assert!(line(&mut lines).await.ends_with(" STOP"));
    interrupt(&child).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    // It has deregistered and said goodbye, as the recording wants it.
    served.finish().await.unwrap();
}

#[tokio::test]
async fn a_connection_lost_ends_events_with_3() {
    let served = Served::start(events_only());
    let (child, mut lines) = watch(&["-C", &served.uri(), "events", GUEST]);
    for _ in 0..3 {
        line(&mut lines).await;
    }
    served.play.abort();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(code(&output), 3);
    assert_eq!(
        stderr(&output),
        "qmp: connection ended: closed by the peer\n"
    );
}

#[tokio::test]
async fn an_interrupt_ends_events_that_nobody_reads() {
    let scratch = Scratch::new();
    let path = scratch.path("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let sent = Arc::new(Notify::new());
    let all = sent.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        // As JSON, what waits in the event stream alone is more than a pipe holds.
        be_qemu(stream, 100_000, all).await
    });
    let uri = format!("unix:{}", path.display());
    let (mut child, mut lines) = watch(&["-C", &uri, "events", "--json"]);
    line(&mut lines).await;
    sent.notified().await;
    interrupt(&child).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
}

/// Lets an event happen again and again, for what comes before somebody listens is seen by nobody.
fn keep_telling(qemu: &FakeQemu, name: &'static str, data: Value) -> JoinHandle<()> {
    let qemu = qemu.clone();
    tokio::spawn(async move {
        loop {
            qemu.event(name, (!data.is_null()).then(|| data.clone()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

#[tokio::test]
async fn only_the_events_that_are_wanted_are_printed() {
    let stub = Stub::start();
    stub.qemu
        .event("STOP", None)
        .event("RTC_CHANGE", json!({"offset": 1}));
    let wanted = [
        "events",
        "-e",
        "BLOCK_*",
        "--event",
        "RT?_CHANGE",
        "--count",
        "1",
    ];
    let told = keep_telling(&stub.qemu, "RTC_CHANGE", json!({"offset": 1}));
    let output = stub.run(&wanted).await;
    told.abort();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    let text = stdout(&output);
    assert!(text.ends_with(" RTC_CHANGE {\"offset\":1}\n"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[tokio::test]
async fn without_a_domain_the_events_of_all_are_printed() {
    events_of_all_by("").await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn without_a_domain_the_events_of_all_come_by_libvirts_own_clients_too() {
    events_of_all_by("virsh+").await;
    if cfg!(feature = "libvirt-c") {
        events_of_all_by("c+").await;
    }
}

async fn events_of_all_by(driver: &str) {
    let (one, two) = (FakeQemu::new(), FakeQemu::new());
    let stub = StubDaemon::start(&[("one", &one)]);
    let uri = format!("{driver}{}", stub.uri());
    let (mut child, mut lines) = watch(&["-C", &uri, "events"]);
    let told = keep_telling(&one, "STOP", Value::Null);
    let first = line(&mut lines).await;
    assert!(
        first.starts_with("one ") && first.ends_with(" STOP"),
        "{first}"
    );
    told.abort();
    // One that was not there before.
    stub.daemon.domain("two", &two);
    two.event("POWERDOWN", None);
    loop {
        let text = line(&mut lines).await;
        if text.starts_with("two ") {
            assert!(text.ends_with(" POWERDOWN"), "{text}");
            break;
        }
    }
    send(&child, "TERM").await;
    assert_eq!(child.wait().await.unwrap().code(), Some(143));
    let calls = stub.calls();
    let count = |name: &str| calls.iter().filter(|call| call.ends_with(name)).count();
    assert_eq!(count("MONITOR_EVENT_REGISTER"), 1, "{calls:?}");
    assert_eq!(count("DOMAIN_LOOKUP_BY_NAME"), 0, "{calls:?}");
    // virsh is interrupted while nobody reads what it prints any more, and does not always come to its goodbye.
    if driver != "virsh+" {
        let ends = [
            "QEMU_PROC_CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER",
            "REMOTE_PROC_CONNECT_CLOSE",
        ];
        // Only the C library has registered for this one.
        let mut calls = calls;
        calls.retain(|call| !call.ends_with("UNREGISTER_CLOSE_CALLBACK"));
        assert!(calls.ends_with(&ends), "{calls:?}");
    }
}

/// By virsh they have no more than a name.
#[tokio::test]
async fn without_a_domain_virsh_tells_of_all() {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path(name).display().to_string();
    // It tells again and again, for what comes before somebody listens is seen by nobody.
    let virsh = format!(
        r#"#!/bin/bash
trap 'echo interrupted >{}; exit 0' INT
echo "$*" >{}
echo '2026-01-01: 1: info : RPC_CLIENT_MSG_RX: prog=536903815 vers=1 proc=4 type=1 status=0 serial=7' >&2
while
    echo "event STOP at 5.000007 for domain 'one': <null>"
    echo "event RESET at 6.000000 for domain 'two': {{\"guest\":false}}"
do sleep 0.02; done
"#,
        path("ended"),
        path("argv"),
    );
    // Written by another process, as no child of this one may have it open for writing when it is started.
    let mut made = tokio::process::Command::new("bash");
    let write = "printf %s \"$0\" >\"$1/virsh\" && chmod +x \"$1/virsh\"";
    made.args(["-c", write, &virsh]).arg(scratch.dir());
    assert!(made.status().await.unwrap().success());
    let search = std::env::var("PATH").unwrap();
    let search = format!("{}:{search}", scratch.dir().display());
    let events = |options: &[&str]| {
        let mut command = qmp(&["-C", "virsh+fake:///x", "events"]);
        command.args(options).env("PATH", &search);
        command
    };
    // It was asked to end, and the program waited for it.
    let ended = || {
        assert_eq!(scratch.text("ended"), "interrupted\n");
        std::fs::remove_file(path("ended")).unwrap();
    };
    for (options, expected) in [
        (&["-e", "STOP", "--count", "1"][..], "one 5.000007 STOP\n"),
        (
            &["-e", "RESET", "--count", "1", "--json"],
            "{\"event\":\"RESET\",\"data\":{\"guest\":false},\"timestamp\":{\"seconds\":6,\"microseconds\":0},\
             \"domain\":{\"name\":\"two\",\"uuid\":null,\"id\":null}}\n",
        ),
    ] {
        let output = within(events(options).output()).await.unwrap();
        assert_eq!((code(&output), stderr(&output)), (0, String::new()));
        assert_eq!(stdout(&output), expected);
        ended();
        let argv = scratch.text("argv");
        let expected = "-c fake:///x qemu-monitor-event --loop\n";
        assert!(argv.ends_with(expected), "{argv}");
    }
    let mut child = events(&[]).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let first = line(&mut lines).await;
    assert!(
        first.starts_with("one ") || first.starts_with("two "),
        "{first}"
    );
    send(&child, "TERM").await;
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(143));
    ended();
}

#[tokio::test]
async fn a_signal_deregisters_what_was_registered() {
    for command in [&["events", "vm"][..], &["wait", "vm", "SHUTDOWN"]] {
        for (signal, expected) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
            // A signal that comes before the answer to the registration finds nothing to deregister: the next may come later.
            let deregisters = async { while !deregisters_at(signal, command, expected).await {} };
            within(deregisters).await;
        }
    }
}

/// Whether the program deregistered its events when this signal came. It says goodbye in any case.
async fn deregisters_at(signal: &str, command: &[&str], expected: i32) -> bool {
    let stub = StubDaemon::start(&[("vm", &FakeQemu::new())]);
    let child = qmp(&["-C", &stub.uri()]).args(command).spawn().unwrap();
    within(
        stub.daemon
            .wait_for_call::<ConnectDomainMonitorEventRegister>(),
    )
    .await;
    send(&child, signal).await;
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((code(&output), stderr(&output)), (expected, String::new()));
    let calls = stub.calls();
    let count = |name: &str| calls.iter().filter(|call| call.ends_with(name)).count();
    assert_eq!(count("CONNECT_CLOSE"), 1, "{calls:?}");
    assert_eq!(count("MONITOR_EVENT_REGISTER"), 1, "{calls:?}");
    count("MONITOR_EVENT_DEREGISTER") == 1
}

#[tokio::test]
async fn wait_deregisters_at_its_end() {
    let qemu = FakeQemu::new();
    let stub = StubDaemon::start(&[("vm", &qemu)]);
    let told = keep_telling(&qemu, "POWERDOWN", Value::Null);
    let mut command = qmp(&["-C", &stub.uri(), "wait", "vm", "POWER*"]);
    let output = within(command.output()).await.unwrap();
    told.abort();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    let calls = stub.calls();
    let ends = [
        "QEMU_PROC_CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER",
        "REMOTE_PROC_CONNECT_CLOSE",
    ];
    assert!(calls.ends_with(&ends), "{calls:?}");
}

#[tokio::test]
async fn wait_ends_with_the_event_that_is_as_wanted() {
    let stub = Stub::start();
    let uri = stub.uri();
    let told = [
        keep_telling(
            &stub.qemu,
            "JOB_STATUS_CHANGE",
            json!({"id": "a", "status": "ready"}),
        ),
        keep_telling(
            &stub.qemu,
            "JOB_STATUS_CHANGE",
            json!({"id": "b", "status": "running"}),
        ),
        keep_telling(
            &stub.qemu,
            "JOB_STATUS_CHANGE",
            json!({"id": "b", "status": "ready"}),
        ),
    ];
    let wanted = ["wait", "--json", "JOB_*", "id=b", "status=ready"];
    let output = qmp(&["-C", &uri]).args(wanted).output().await.unwrap();
    for told in told {
        told.abort();
    }
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    let event: Value = stdout(&output).parse().unwrap();
    assert_eq!(event["data"], json!({"id": "b", "status": "ready"}));
}

#[tokio::test]
async fn wait_without_the_event_in_time_ends_with_4() {
    let stub = Stub::start();
    let told = keep_telling(&stub.qemu, "STOP", Value::Null);
    let output = stub.run(&["--timeout", "1", "wait", "RESUME"]).await;
    told.abort();
    assert_eq!((code(&output), stdout(&output)), (4, String::new()));
    assert_eq!(
        stderr(&output),
        "qmp: no answer within 1s while waiting for the event\n"
    );
    for (words, reason) in [
        (&["wait"][..], "no event given"),
        (
            &["wait", "STOP", "now"],
            "condition `now`: expected KEY=VALUE",
        ),
    ] {
        let output = stub.run(words).await;
        assert_eq!(code(&output), 2);
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}

/// A QEMU whose commands return their arguments, and that stops so many times after the first and then tells.
async fn be_qemu(stream: UnixStream, stops: usize, sent: Arc<Notify>) -> std::io::Result<()> {
    const GREETING: &[u8] =
        br#"{"QMP":{"version":{"qemu":{"major":9,"minor":0,"micro":0},"package":""},"capabilities":[]}}"#;
    const STOP: &str = "{\"event\":\"STOP\",\"timestamp\":{\"seconds\":5,\"microseconds\":7}}\r\n";
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(GREETING).await?;
    let mut read = Vec::new();
    let mut events = STOP.repeat(stops);
    while reader.read_buf(&mut read).await? > 0 {
        // Commands end where their JSON ends.
        let Ok(command) = serde_json::from_slice::<Value>(&read) else {
            continue;
        };
        read.clear();
        let returned = command.get("arguments").cloned().unwrap_or(json!({}));
        let reply = json!({"return": returned, "id": command["id"]});
        writer.write_all(format!("{reply}\r\n").as_bytes()).await?;
        writer.write_all(events.as_bytes()).await?;
        events.clear();
        sent.notify_one();
    }
    Ok(())
}
