//! What every driver must answer alike: one suite, run over each of them, live and replayed.
//!
//! It wants a running guest whose monitor it alone uses. Its steps and their order are fixed, since a recording of it is
//! replayed: see `fixtures/conformance.fixture`.

use futures_util::{StreamExt, future::join_all};
use libvirt_qmp::{
    Command, CommandError, Error, ErrorClass, Event, EventStream, Monitor, MonitorExt, QmpError,
};
use serde_json::{Value, json};

use super::process::PATIENCE;

/// Runs the whole suite; the monitor is disconnected at the end.
pub(crate) async fn suite(monitor: &dyn Monitor) {
    monitor.connect().await.unwrap();
    monitor.connect().await.unwrap();
    replies_are_whole_and_bear_the_users_id(monitor).await;
    errors_keep_class_desc_and_reply(monitor).await;
    values_decode(monitor).await;
    bad_commands_are_refused(monitor).await;
    callers_get_their_own_replies(monitor).await;
    let events = events_come_in_order_to_every_stream(monitor).await;
    disconnecting_is_final(monitor, events).await;
}

async fn replies_are_whole_and_bear_the_users_id(monitor: &dyn Monitor) {
    let reply = run(monitor, br#"{ "execute": "query-status" }"#).await;
    assert_eq!(reply["return"]["status"], "running");
    assert_eq!(
        reply.as_object().unwrap().len(),
        1,
        "no id that was not asked for: {reply}"
    );

    let deep = format!("{}7{}", "[".repeat(200), "]".repeat(200));
    let ids = [
        r#""mine""#,
        "17",
        "18446744073709551615",
        "null",
        r#"{"a":[true]}"#,
        &deep,
    ];
    for id in ids {
        let command = format!(r#"{{"execute":"query-status","id":{id}}}"#);
        let reply = monitor.run(command.as_bytes()).await.unwrap();
        let text = std::str::from_utf8(&reply).unwrap();
        assert!(text.contains(id), "{id}: {text}");
        assert!(text.contains(r#""running""#), "{id}: {text}");
    }
}

async fn errors_keep_class_desc_and_reply(monitor: &dyn Monitor) {
    let error = failed(monitor, br#"{"execute":"no-such-command","id":5}"#).await;
    assert_eq!(error.class, ErrorClass::CommandNotFound);
    assert!(error.desc.contains("no-such-command"), "{error}");
    assert_eq!(error.command.as_deref(), Some("no-such-command"));
    let raw: Value = serde_json::from_slice(&error.raw).unwrap();
    assert_eq!(
        (&raw["id"], &raw["error"]["class"]),
        (&json!(5), &json!("CommandNotFound"))
    );

    let absent = Command::new("device_del").arg("id", "no-such-device");
    match monitor.execute::<Value>(absent).await {
        Err(Error::Qmp(error)) => assert_eq!(error.class, ErrorClass::DeviceNotFound),
        other => panic!("{other:?}"),
    }
    let error = failed(
        monitor,
        br#"{"execute":"query-status","arguments":{"x":1}}"#,
    )
    .await;
    assert_eq!(error.class, ErrorClass::GenericError);
}

async fn values_decode(monitor: &dyn Monitor) {
    #[derive(serde::Deserialize)]
    struct Status {
        running: bool,
    }
    assert!(
        monitor
            .execute::<Status>(Command::new("query-status"))
            .await
            .unwrap()
            .running
    );
    match monitor
        .execute::<Vec<u8>>(Command::new("query-status"))
        .await
    {
        Err(error @ Error::Decode { .. }) => assert!(error.maybe_executed()),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        monitor.hmp("info status", None).await.unwrap(),
        "VM status: running\r\n"
    );
    let unknown = monitor.hmp("no-such-line", None).await.unwrap();
    assert!(unknown.contains("unknown command"), "{unknown}");
    assert!(monitor.version().await.unwrap().major >= 7);
}

async fn bad_commands_are_refused(monitor: &dyn Monitor) {
    for text in [
        "",
        "query-status",
        "[]",
        "{}",
        "null",
        r#"{"execute":1}"#,
        r#"{"execute":"x"} {}"#,
    ] {
        match monitor.run(text.as_bytes()).await {
            Err(error @ Error::Command(_)) => assert!(!error.maybe_executed()),
            other => panic!("{text}: {other:?}"),
        }
    }
    match monitor.run(b"{\"execute\":\"\xff\"}").await {
        Err(Error::Command(CommandError::NotUtf8 { offset: 12 })) => {}
        other => panic!("{other:?}"),
    }
    // A driver can or cannot: QEMU itself never has to refuse it.
    match monitor.run(br#"{"exec-oob":"query-yank"}"#).await {
        Ok(reply) => {
            let reply: Value = serde_json::from_slice(&reply).unwrap();
            assert!(reply["return"].is_array(), "{reply}");
        }
        Err(error) => assert!(error.is_unsupported(), "{error}"),
    }
}

async fn callers_get_their_own_replies(monitor: &dyn Monitor) {
    let calls = (0..20).map(|id| async move {
        let command = format!(r#"{{"execute":"query-name","id":{id}}}"#);
        run(monitor, command.as_bytes()).await["id"].clone()
    });
    let ids = join_all(calls).await;
    assert_eq!(ids, (0..20).map(Value::from).collect::<Vec<_>>());
}

/// Returns a stream that is still open.
async fn events_come_in_order_to_every_stream(monitor: &dyn Monitor) -> EventStream {
    let mut first = monitor.events().await.unwrap();
    let mut second = monitor.events().await.unwrap();
    for command in ["stop", "cont", "system_reset"] {
        monitor
            .execute::<Value>(Command::new(command))
            .await
            .unwrap();
    }
    for stream in [&mut first, &mut second] {
        for name in ["STOP", "RESUME", "RESET"] {
            let event = next_of(stream, &["STOP", "RESUME", "RESET"]).await;
            assert_eq!(event.name, name);
            assert!(event.timestamp.seconds > 1_500_000_000, "{event:?}");
            assert!(
                (0..1_000_000).contains(&event.timestamp.microseconds),
                "{event:?}"
            );
            if name == "RESET" {
                let data: Value = event.data_as().unwrap();
                assert_eq!(data["guest"], json!(false));
            } else {
                assert!(event.data.is_none(), "{event:?}");
            }
        }
    }
    // One stream's end is nothing to the other.
    drop(first);
    monitor
        .execute::<Value>(Command::new("stop"))
        .await
        .unwrap();
    assert_eq!(next_of(&mut second, &["STOP"]).await.name, "STOP");
    // And when the last is gone, the next starts anew.
    drop(second);
    let mut third = monitor.events().await.unwrap();
    monitor
        .execute::<Value>(Command::new("cont"))
        .await
        .unwrap();
    assert_eq!(
        next_of(&mut third, &["STOP", "RESUME"]).await.name,
        "RESUME"
    );
    third
}

async fn disconnecting_is_final(monitor: &dyn Monitor, mut events: EventStream) {
    monitor.disconnect().await.unwrap();
    monitor.disconnect().await.unwrap();
    let end = tokio::time::timeout(PATIENCE, async {
        while let Some(event) = events.next().await {
            event.unwrap();
        }
    });
    end.await.expect("the stream ends");
    for error in [
        monitor
            .run(br#"{"execute":"query-status"}"#)
            .await
            .unwrap_err(),
        monitor.connect().await.unwrap_err(),
        monitor.events().await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Closed), "{error:?}");
        assert!(error.is_disconnected() && !error.maybe_executed());
    }
}

/// Runs a command and parses the whole reply.
pub(crate) async fn run(monitor: &dyn Monitor, command: &[u8]) -> Value {
    serde_json::from_slice(&monitor.run(command).await.unwrap()).unwrap()
}

async fn failed(monitor: &dyn Monitor, command: &[u8]) -> QmpError {
    match monitor.run(command).await {
        Err(Error::Qmp(error)) => *error,
        other => panic!("{other:?}"),
    }
}

/// The next event of one of these names. A reset by the guest itself is passed over: its firmware may do that at any time
/// after one that was asked for.
pub(crate) async fn next_of(events: &mut EventStream, names: &[&str]) -> Event {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let event = events.next().await.expect("the stream goes on").unwrap();
            let by_guest = event
                .data_as::<Value>()
                .is_ok_and(|data| data["guest"] == json!(true));
            if names.contains(&event.name.as_str()) && !by_guest {
                return event;
            }
        }
    });
    found
        .await
        .unwrap_or_else(|_| panic!("none of {names:?} came"))
}
