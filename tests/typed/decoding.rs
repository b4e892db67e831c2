//! What the types read and write: all that the table of facts allows, what is new, and what is wrong.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use libvirt_qmp::typed::*;
use libvirt_qmp::types::*;
use libvirt_qmp::{
    Command, Error, Event, EventStream, Monitor, MonitorFuture, RunOptions, Timestamp, Version,
};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::table::{self, ABSENT, Node, Table};

/// Some of them for each type and version. They are made from the table, so what failed needs no file to be found again.
fn cases(number: u32) -> ProptestConfig {
    ProptestConfig {
        cases: number,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn facts() -> Table {
    table::parse(include_str!("../../fixtures/qmp-facts.txt"))
}

/// Reads a value and writes it again.
type Way = fn(Value) -> Result<Value, serde_json::Error>;

fn way<C: QmpCommand>() -> (&'static str, Way)
where
    C::Return: Serialize,
{
    (C::NAME, |value| {
        serde_json::to_value(serde_json::from_value::<C::Return>(value)?)
    })
}

/// The commands that return something, but for `query-version`, which has its own tests.
fn returning() -> Vec<(&'static str, Way)> {
    vec![
        way::<AddFd>(),
        way::<ChardevAdd>(),
        way::<HumanMonitorCommand>(),
        way::<QomGet>(),
        way::<QomList>(),
        way::<QueryBalloon>(),
        way::<QueryBlock>(),
        way::<QueryBlockJobs>(),
        way::<QueryBlockstats>(),
        way::<QueryChardev>(),
        way::<QueryCommands>(),
        way::<QueryCpusFast>(),
        way::<QueryFdsets>(),
        way::<QueryIothreads>(),
        way::<QueryJobs>(),
        way::<QueryKvm>(),
        way::<QueryMigrate>(),
        way::<QueryMigrateCapabilities>(),
        way::<QueryName>(),
        way::<QueryNamedBlockNodes>(),
        way::<QueryPci>(),
        way::<QueryStatus>(),
        way::<QueryUuid>(),
    ]
}

/// Members that are bits or sizes rather than numbers to reckon with.
const UNSIGNED: [&str; 7] = [
    "arg1", "arg2", "arg3", "arg4", "arg5", "psw-mask", "psw-addr",
];

/// Values as a QEMU of this version may send them, and now and then something newer.
fn value(node: &Node, version: usize) -> BoxedStrategy<Value> {
    let children = node
        .children
        .iter()
        .filter(move |(_, child)| child.kinds[version] != ABSENT);
    match node.kinds[version].trim_end_matches('?') {
        "bool" => any::<bool>().prop_map(Value::from).boxed(),
        "int" => any::<i64>().prop_map(Value::from).boxed(),
        "number" => prop_oneof![
            any::<i32>().prop_map(|n| json!(f64::from(n) + 0.5)),
            any::<i32>().prop_map(Value::from)
        ]
        .boxed(),
        "str" => ".{0,9}".prop_map(Value::from).boxed(),
        "enum" => {
            let mut values: Vec<String> = children
                .map(|(name, _)| name.trim_start_matches('=').to_owned())
                .collect();
            values.push("not-yet".to_owned());
            prop::sample::select(values).prop_map(Value::from).boxed()
        }
        "array" => prop::collection::vec(value(&node.children["[]"], version), 0..3)
            .prop_map(Value::from)
            .boxed(),
        "object" => {
            let members: Vec<_> = children
                .filter(|(_, child)| !(child.is_cut(version)))
                .map(|(name, child)| {
                    let there = child.kinds[version].ends_with('?');
                    let there = if there {
                        any::<bool>().boxed()
                    } else {
                        Just(true).boxed()
                    };
                    let name = name.clone();
                    let value = match name.as_str() {
                        unsigned if UNSIGNED.contains(&unsigned) => {
                            any::<u64>().prop_map(Value::from).boxed()
                        }
                        _ => value(child, version),
                    };
                    (there, value)
                        .prop_map(move |(there, value)| there.then(|| (name.clone(), value)))
                        .boxed()
                })
                .collect();
            let new =
                prop::option::weighted(0.2, Just(("not-yet".to_owned(), json!([{"a": null}]))));
            (members, new)
                .prop_map(|(members, new)| {
                    members
                        .into_iter()
                        .flatten()
                        .chain(new)
                        .collect::<Map<_, _>>()
                })
                .prop_map(Value::Object)
                .boxed()
        }
        _ => prop::sample::select(vec![json!(null), json!(3), json!({"any": [""]})]).boxed(),
    }
}

impl Node {
    /// Whether it is a type within itself, which the table has without its members.
    fn is_cut(&self, version: usize) -> bool {
        let kind = |node: &Node| node.kinds[version].trim_end_matches('?').to_owned();
        match kind(self).as_str() {
            "object" => self.children.is_empty(),
            "array" => self.children["[]"].is_cut(version),
            _ => false,
        }
    }
}

/// A value, and the whole of it again with each part replaced by what does not belong there.
fn damaged(whole: &Value) -> Vec<Value> {
    fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
        out.push(at.to_owned());
        match value {
            Value::Object(members) => members
                .iter()
                .for_each(|(name, value)| pointers(value, &format!("{at}/{name}"), out)),
            Value::Array(values) => values
                .iter()
                .enumerate()
                .for_each(|(place, value)| pointers(value, &format!("{at}/{place}"), out)),
            _ => {}
        }
    }
    let mut places = Vec::new();
    pointers(whole, "", &mut places);
    let wrong = [
        json!(null),
        json!(true),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!("1"),
        json!([[]]),
        json!({"a": 1}),
    ];
    places
        .iter()
        .flat_map(|place| {
            wrong.iter().map(move |wrong| {
                let mut whole = whole.clone();
                *whole.pointer_mut(place).unwrap() = wrong.clone();
                whole
            })
        })
        .collect()
}

/// The same without the members that are `null`: for a member that may be missing they mean the same. And with floats for
/// numbers that only they may be.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(values) => values.iter().map(without_nulls).collect(),
        Value::Number(number) if !number.is_i64() => json!(number.as_f64()),
        other => other.clone(),
    }
}

#[test]
fn every_return_value_that_the_schema_allows_is_read_and_written_again() {
    let table = facts();
    for (name, way) in returning() {
        let out = &table[&format!("command {name}")].children["out"];
        for version in 0..table::VERSIONS.len() {
            proptest!(cases(60), |(sent in value(out, version))| {
                prop_assert_eq!(way(sent.clone()).unwrap(), sent);
            });
        }
    }
}

#[test]
fn a_damaged_return_value_is_an_error_or_kept_as_it_is() {
    let table = facts();
    for (name, way) in returning() {
        let out = &table[&format!("command {name}")].children["out"];
        proptest!(cases(3), |(sent in value(out, 1))| {
            for damaged in damaged(&sent) {
                if let Ok(written) = way(damaged.clone()) {
                    prop_assert_eq!(without_nulls(&written), without_nulls(&damaged));
                }
            }
        });
    }
}

#[test]
fn every_cut_of_a_return_value_is_an_error() {
    let text = r#"[{"device":"d","type":"unknown","removable":true,"locked":false,"tray_open":false,"io-status":"ok"}]"#;
    serde_json::from_str::<Vec<BlockDevice>>(text).unwrap();
    for end in 0..text.len() {
        serde_json::from_str::<Vec<BlockDevice>>(&text[..end]).unwrap_err();
    }
}

fn event(name: &str, data: Option<&Value>) -> Event {
    let data = data.map(|data| RawValue::from_string(data.to_string()).unwrap());
    Event::new(name, data, Timestamp::UNKNOWN)
}

#[test]
fn every_event_that_the_schema_allows_is_typed() {
    let table = facts();
    for name in TypedEvent::KNOWN {
        let data = &table[&format!("event {name}")].children["in"];
        for version in 0..table::VERSIONS.len() {
            proptest!(cases(20), |(data in value(data, version))| {
                let event = event(name, Some(&data));
                let typed = event.typed();
                prop_assert_eq!(typed.name(), *name);
                prop_assert!(!matches!(typed, TypedEvent::Other { .. }), "{:?}", event);
                // Nothing that is damaged is lost.
                for damaged in damaged(&data) {
                    let damaged = self::event(name, Some(&damaged));
                    let typed = damaged.typed();
                    prop_assert_eq!(typed.name(), *name);
                    if let TypedEvent::Other { data, .. } = typed {
                        prop_assert_eq!(data.unwrap().to_string(), damaged.data.unwrap().to_string());
                    }
                }
            });
        }
    }
}

/// The peers' defects: an event's member that never fills, and an unknown event or time that ends the connection.
#[test]
fn an_event_is_never_lost() {
    let text = r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "BLOCK_JOB_ERROR",
        "data": {"device": "job0", "operation": "write", "action": "stop"}}"#;
    let TypedEvent::BlockJobError(error) = Event::parse(text.as_bytes()).unwrap().typed() else {
        panic!("not typed");
    };
    assert_eq!(error.action, BlockErrorAction::Stop);
    assert_eq!(error.operation, IoOperation::Write);
    assert_eq!(error.device, "job0");

    let text =
        r#"{"event": "NOT_YET", "data": {"n": 18446744073709551616, "x": 1.10}, "timestamp": 3}"#;
    let TypedEvent::Other { name, data } = Event::parse(text.as_bytes()).unwrap().typed() else {
        panic!("typed");
    };
    assert_eq!(name, "NOT_YET");
    assert_eq!(
        data.unwrap().get(),
        r#"{"n": 18446744073709551616, "x": 1.10}"#
    );

    let TypedEvent::Other { name, data: None } = event("SHUTDOWN", None).typed() else {
        panic!("SHUTDOWN without its data");
    };
    assert_eq!(name, "SHUTDOWN");
    assert!(matches!(event("STOP", None).typed(), TypedEvent::Stop));

    let data = json!({"action": "levitate", "info": {"type": "hyper-v", "arg1": u64::MAX, "arg2": 0, "arg3": 0,
        "arg4": 0, "arg5": 0}});
    let TypedEvent::GuestPanicked(panic) = event("GUEST_PANICKED", Some(&data)).typed() else {
        panic!("not typed");
    };
    assert_eq!(panic.action, PanicAction::Other("levitate".to_owned()));
    assert_eq!(panic.info.unwrap().arg1, Some(u64::MAX));
}

#[test]
fn an_event_with_data_nested_too_deep_is_kept() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let data = RawValue::from_string(deep.clone()).unwrap();
    let TypedEvent::Other { data, .. } =
        Event::new("RESET", Some(data), Timestamp::UNKNOWN).typed()
    else {
        panic!("typed");
    };
    assert_eq!(data.unwrap().get(), deep);
}

/// A monitor that answers every command with the same text and keeps what it was sent.
struct Canned {
    reply: String,
    sent: Mutex<Vec<Sent>>,
}

/// A command and its own deadline.
type Sent = (String, Option<Option<Duration>>);

impl Canned {
    fn new(value: &str) -> Self {
        Canned {
            reply: format!(r#"{{"return": {value}}}"#),
            sent: Mutex::default(),
        }
    }
}

impl Monitor for Canned {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        self.run_with(command, RunOptions::new())
    }

    fn run_with<'a>(
        &'a self,
        command: &'a [u8],
        options: RunOptions<'a>,
    ) -> MonitorFuture<'a, Bytes> {
        let text = String::from_utf8(command.to_vec()).unwrap();
        self.sent
            .lock()
            .unwrap()
            .push((text, options.own_timeout()));
        Box::pin(async { Ok(Bytes::from(self.reply.clone())) })
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        Box::pin(async { Err(Error::Closed) })
    }
}

#[tokio::test]
async fn a_call_sends_the_command_and_reads_what_it_returns() {
    let monitor = Canned::new(r#"{"running": true, "status": "running", "singlestep": false}"#);
    let status = monitor.call(QueryStatus::new()).await.unwrap();
    assert!(
        status.running && status.singlestep == Some(false) && status.status == RunState::Running
    );
    // QEMU 10.0 says less.
    let newer = Canned::new(r#"{"running": false, "status": "suspended"}"#);
    assert_eq!(
        newer.call(QueryStatus::new()).await.unwrap().singlestep,
        None
    );

    // Every monitor, also behind a reference.
    let dynamic: &dyn Monitor = &monitor;
    let command = DeviceAdd::new("virtio-blk-pci")
        .id("vdb")
        .extra("drive", "disk1");
    assert_eq!(dynamic.call(command).await.unwrap(), Nothing);
    let command = Command::from(Stop::new())
        .oob()
        .timeout(Duration::from_secs(3));
    assert!(command.is_oob());
    use libvirt_qmp::MonitorExt;
    let _: Nothing = monitor.execute(command).await.unwrap();
    let sent = monitor.sent.lock().unwrap().clone();
    assert_eq!(
        sent,
        [
            (r#"{"execute":"query-status"}"#.to_owned(), None),
            (
                r#"{"execute":"device_add","arguments":{"drive":"disk1","driver":"virtio-blk-pci","id":"vdb"}}"#
                    .to_owned(),
                None
            ),
            (r#"{"exec-oob":"stop"}"#.to_owned(), Some(Some(Duration::from_secs(3)))),
        ]
    );

    let error = Canned::new(r#"{"running": 1, "status": "running"}"#)
        .call(QueryStatus::new())
        .await
        .unwrap_err();
    let Error::Decode { source, .. } = error else {
        panic!("{error:?}");
    };
    assert!(
        source
            .to_string()
            .contains("member `running`: expected a boolean"),
        "{source}"
    );
    let version: Version = Canned::new(r#"{"qemu":{"major":9,"minor":1,"micro":0},"package":""}"#)
        .call(QueryVersion::new())
        .await
        .unwrap();
    assert_eq!(version, Version::new(9, 1, 0));
}

/// A chain of five hundred images, on the stack of a thread of tokio's.
#[test]
fn a_long_chain_is_read_and_written() {
    const LEVELS: usize = 500;
    let counters =
        facts()["command query-blockstats"].children["out"].children["[]"].children["stats"]
            .children
            .iter()
            .filter(|(_, node)| !node.kinds[0].ends_with('?') && node.kinds[0] != ABSENT)
            .map(|(name, node)| match node.kinds[0].as_str() {
                "bool" => (name.clone(), json!(true)),
                "array" => (name.clone(), json!([])),
                _ => (name.clone(), json!(1)),
            })
            .collect::<Map<_, _>>();
    let stats = format!(r#"{{"stats":{}"#, Value::Object(counters));
    let chain = vec![stats; LEVELS].join(r#","backing":"#);
    let text = format!("[{chain}{}]", "}".repeat(LEVELS));
    let thread = std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            let all = runtime
                .block_on(Canned::new(&text).call(QueryBlockstats::new().query_nodes(true)))
                .unwrap();
            let mut levels = 0;
            let mut next = all.first();
            while let Some(stats) = next {
                levels += 1;
                next = stats.backing.as_deref();
            }
            assert_eq!(levels, LEVELS);
            assert_eq!(all.clone(), all);
            assert_eq!(serde_json::to_string(&all).unwrap().len(), text.len());
        });
    thread.unwrap().join().unwrap();
}

fn arguments(command: impl Serialize) -> Value {
    serde_json::to_value(command).unwrap()
}

#[test]
fn arguments_are_what_qemu_wants() {
    assert_eq!(arguments(Stop::new()), json!({}));
    let mirror = BlockdevMirror::new("d", "t", MirrorSync::Full)
        .job_id("j")
        .speed(7)
        .copy_mode(CopyMode::WriteBlocking)
        .auto_dismiss(false);
    assert_eq!(
        arguments(mirror),
        json!({"device": "d", "target": "t", "sync": "full", "job-id": "j", "speed": 7,
            "copy-mode": "write-blocking", "auto-dismiss": false})
    );
    // A name that this crate does not know goes through.
    assert_eq!(
        arguments(BlockdevMirror::new("d", "t", "sideways"))["sync"],
        "sideways"
    );
    assert_eq!(
        arguments(SendKey::new([KeyCode::name("ctrl"), KeyCode::number(0x1d)]).hold_time(1)),
        json!({"keys": [{"type": "qcode", "data": "ctrl"}, {"type": "number", "data": 29}], "hold-time": 1})
    );
    assert_eq!(
        arguments(ChardevAdd::new(
            "c",
            ChardevBackend::unix_socket("/s", true)
        )),
        json!({"id": "c", "backend": {"type": "socket", "data": {
            "addr": {"type": "unix", "data": {"path": "/s"}}, "server": true, "wait": false}}})
    );
    assert_eq!(
        arguments(NbdServerStart::new(NbdServerAddress::inet("::1", 10809)).max_connections(2)),
        json!({"addr": {"type": "inet", "data": {"host": "::1", "port": "10809"}}, "max-connections": 2})
    );
    assert_eq!(
        arguments(MigrateSetCapabilities::new([MigrationCapability::new(
            "events", true
        )])),
        json!({"capabilities": [{"capability": "events", "state": true}]})
    );
    // `null` resets a setting, and is sent.
    assert_eq!(
        arguments(
            MigrateSetParameters::new()
                .tls_creds(Value::Null)
                .max_bandwidth(i64::MAX)
        ),
        json!({"tls-creds": null, "max-bandwidth": i64::MAX})
    );
    let server = SocketAddress::inet("host", 10809);
    let node = BlockdevOptions::raw(BlockdevOptions::nbd(server, "e"))
        .node_name("n")
        .cache(BlockdevCache::new(true, false))
        .discard(Discard::Unmap);
    assert_eq!(
        arguments(BlockdevAdd::new(node)),
        json!({"driver": "raw", "node-name": "n", "discard": "unmap", "cache": {"direct": true, "no-flush": false},
            "file": {"driver": "nbd", "export": "e", "server": {"type": "inet", "host": "host", "port": "10809"}}})
    );
    assert_eq!(
        arguments(BlockdevAdd::new(BlockdevOptions::null_co(u64::MAX))),
        json!({"driver": "null-co", "size": u64::MAX})
    );
    // A member wins, however it is set.
    assert_eq!(
        arguments(JobCancel::new("a").extra("id", "b")),
        json!({"id": "a"})
    );
}

#[test]
fn what_may_be_secret_is_not_shown() {
    let command = SetPassword::new(DisplayProtocol::Vnc, "hunter2").connected(PasswordAction::Keep);
    assert_eq!(
        format!("{command:?}"),
        "SetPassword { connected: _, password: _, protocol: _ }"
    );
    let object = ObjectAdd::new("secret", "s0").extra("data", "hunter2");
    assert!(!format!("{object:?}").contains("hunter2"));
    let command = Command::from(object);
    assert!(!format!("{command:?}").contains("hunter2"));
}

/// A decoder for any type that can be read.
fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

#[test]
fn numbers_are_exact() {
    let balloon: Balloon = read(r#"{"actual": 9223372036854775807}"#);
    assert_eq!(balloon.actual, i64::MAX);
    serde_json::from_str::<Balloon>(r#"{"actual": 9223372036854775808}"#).unwrap_err();
    serde_json::from_str::<Balloon>(r#"{"actual": 1.0}"#).unwrap_err();
    let region: PciRegion = read(r#"{"bar": 0, "type": "memory", "address": -1, "size": 4096}"#);
    assert_eq!(region.address, -1);
    let xbzrle: XbzrleCache = read(
        r#"{"cache-size": 1, "bytes": 0, "pages": 0, "cache-miss": 0, "cache-miss-rate": 0.10000000000000001,
            "encoding-rate": 0, "overflow": 0}"#,
    );
    assert_eq!((xbzrle.cache_miss_rate, xbzrle.encoding_rate), (0.1, 0.0));
}
