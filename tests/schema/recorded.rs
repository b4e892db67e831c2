//! The schema of QEMU 7.2.22 as libvirt gave it, from the recording.

use std::path::Path;
use std::time::Instant;

use libvirt_qmp::replay::{Fixture, Replay};
use libvirt_qmp::schema::{Builtin, CommandInfo, Member, ObjectType, Type, TypeKind};
use libvirt_qmp::{Command, Config, LibvirtRpc, MonitorExt, Schema};
use proptest::prelude::*;
use serde_json::json;
use serde_json::value::RawValue;

use crate::problems;

/// A monitor of the recorded session, in which one command is asked.
fn monitor() -> LibvirtRpc {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/query-qmp-schema.fixture");
    let fixture: Fixture = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let (conn, _) = Replay::new(fixture).connect();
    LibvirtRpc::with_config("stage-lb-1", conn, Config::new().uri("qemu:///session"))
}

async fn schema() -> Schema {
    monitor().schema().await.unwrap()
}

fn object(ty: Type<'_>) -> ObjectType<'_> {
    match ty.kind() {
        TypeKind::Object(object) => object,
        other => panic!("{other:?}"),
    }
}

fn argument<'a>(schema: &'a Schema, command: &str, name: &str) -> Member<'a> {
    schema.command(command).unwrap().argument(name).unwrap()
}

fn required(command: CommandInfo<'_>) -> Vec<&str> {
    let required = command.arguments().filter(|member| !member.is_optional());
    required.map(Member::name).collect()
}

#[tokio::test]
async fn everything_in_it_is_there() {
    let schema = schema().await;
    let count =
        |wanted: fn(&TypeKind<'_>) -> bool| schema.types().filter(|ty| wanted(&ty.kind())).count();
    assert_eq!(schema.commands().len(), 216);
    assert_eq!(schema.events().len(), 52);
    assert_eq!(count(|kind| matches!(kind, TypeKind::Object(_))), 553);
    assert_eq!(count(|kind| matches!(kind, TypeKind::Enum(_))), 132);
    assert_eq!(count(|kind| matches!(kind, TypeKind::Array(_))), 86);
    assert_eq!(count(|kind| matches!(kind, TypeKind::Alternate(_))), 6);
    assert_eq!(count(|kind| matches!(kind, TypeKind::Builtin(_))), 6);
    assert_eq!(count(|kind| matches!(kind, TypeKind::Unknown)), 0);
    assert_eq!(schema.unread(), 0);
    for command in schema.commands() {
        assert!(
            matches!(command.argument_type().kind(), TypeKind::Object(_)),
            "{command}"
        );
        assert!(
            !matches!(command.return_type().kind(), TypeKind::Unknown),
            "{command}"
        );
    }
}

#[tokio::test]
async fn commands_are_as_qemu_documents_them() {
    let schema = schema().await;
    let line = |name: &str| schema.command(name).unwrap().to_string();
    assert_eq!(line("stop"), "stop {} -> {}");
    assert_eq!(line("device_del"), "device_del { id: str } -> {}");
    assert_eq!(
        line("block_resize"),
        "block_resize { device?: str, node-name?: str, size: int } -> {}"
    );
    assert_eq!(
        line("human-monitor-command"),
        "human-monitor-command { command-line: str, cpu-index?: int } -> str (savevm-monitor-nodes)"
    );
    assert_eq!(
        line("screendump"),
        "screendump { filename: str, device?: str, head?: int, format?: 'ppm' | 'png' } -> {}"
    );
    assert_eq!(
        line("query-version"),
        "query-version {} -> { qemu: {…}, package: str }"
    );
    let status = schema.command("query-status").unwrap().return_type();
    let members: Vec<_> = object(status).members().map(Member::name).collect();
    assert_eq!(members, ["running", "singlestep", "status"]);
    assert!(matches!(
        object(status).member("running").unwrap().ty().kind(),
        TypeKind::Builtin(Builtin::Boolean)
    ));

    // 4 of them out of band, one that takes anything, 3 that return something else than an object or an array.
    let named = |wanted: fn(&CommandInfo<'_>) -> bool| -> Vec<_> {
        schema
            .commands()
            .filter(wanted)
            .map(CommandInfo::name)
            .collect()
    };
    assert_eq!(
        named(|command| command.is_oob()),
        ["migrate-pause", "migrate-recover", "query-yank", "yank"]
    );
    assert_eq!(named(|command| command.is_free_form()), ["device_add"]);
    assert_eq!(
        named(|command| matches!(command.return_type().kind(), TypeKind::Builtin(_))),
        ["human-monitor-command", "qom-get", "ringbuf-read"]
    );
    assert_eq!(
        named(|command| command.features().is_deprecated()),
        ["drive-backup", "nbd-server-add", "nbd-server-remove"]
    );
    assert_eq!(named(|command| command.features().is_unstable()).len(), 21);
    assert!(
        argument(&schema, "block_set_io_throttle", "device")
            .features()
            .is_deprecated()
    );
    assert!(
        !argument(&schema, "block_set_io_throttle", "id")
            .features()
            .is_deprecated()
    );
}

#[tokio::test]
async fn events_are_as_qemu_documents_them() {
    let schema = schema().await;
    let line = |name: &str| schema.event(name).unwrap().to_string();
    assert_eq!(line("STOP"), "STOP {}");
    assert_eq!(
        line("DEVICE_DELETED"),
        "DEVICE_DELETED { device?: str, path: str }"
    );
    assert!(
        line("JOB_STATUS_CHANGE").starts_with(
            "JOB_STATUS_CHANGE { id: str, status: 'undefined' | 'created' | 'running' | "
        ),
        "{}",
        line("JOB_STATUS_CHANGE")
    );
    let shutdown: Vec<_> = schema
        .event("SHUTDOWN")
        .unwrap()
        .data()
        .map(Member::name)
        .collect();
    assert_eq!(shutdown, ["guest", "reason"]);
    assert!(
        schema
            .event("MEM_UNPLUG_ERROR")
            .unwrap()
            .features()
            .is_deprecated()
    );
}

#[tokio::test]
async fn unions_alternates_and_recursion() {
    let schema = schema().await;
    let add = schema.command("blockdev-add").unwrap();
    assert_eq!(required(add), ["driver"]);
    let options = object(add.argument_type());
    assert_eq!(options.tag().unwrap().name(), "driver");
    let raw = object(options.variant("raw").unwrap().ty());
    let TypeKind::Alternate(file) = raw.member("file").unwrap().ty().kind() else {
        panic!("{raw:?}");
    };
    // A node of its own, or the name of one that is there.
    let [definition, reference] = file.types().collect::<Vec<_>>()[..] else {
        panic!("{file:?}");
    };
    assert!(definition == add.argument_type());
    assert_eq!(reference.name(), "str");
    let TypeKind::Enum(drivers) = options.tag().unwrap().ty().kind() else {
        panic!("{options:?}");
    };
    assert!(drivers.value("qcow2").is_some() && drivers.value("qcow3").is_none());
    // However far one goes.
    let shown = add.argument_type().shown(usize::MAX).to_string();
    assert!(
        shown.starts_with("{ driver: ") && shown.len() < 100_000,
        "{}",
        shown.len()
    );

    let actions = schema.transaction_actions().unwrap();
    let actions: Vec<_> = actions.values().map(|value| value.name()).collect();
    assert_eq!(
        actions,
        [
            "abort",
            "block-dirty-bitmap-add",
            "block-dirty-bitmap-remove",
            "block-dirty-bitmap-clear",
            "block-dirty-bitmap-enable",
            "block-dirty-bitmap-disable",
            "block-dirty-bitmap-merge",
            "blockdev-backup",
            "blockdev-snapshot",
            "blockdev-snapshot-internal-sync",
            "blockdev-snapshot-sync",
            "drive-backup",
        ]
    );
}

#[tokio::test]
async fn commands_are_checked_with_suggestions_and_warnings() {
    let schema = schema().await;
    for (command, expected) in [
        (
            r#"{"execute":"query-statu"}"#,
            "no command `query-statu` (did you mean `query-status` or `query-stats`?)",
        ),
        (
            r#"{"execute":"device_del","arguments":{"name":"x"}}"#,
            "argument `id` (str) is missing; no argument `name`",
        ),
        (
            r#"{"execute":"transaction","arguments":{"actions":[{"type":"block-dirty-bitmap-add","data":{"node":1,"name":"x"}}]}}"#,
            "argument `actions[0].data.node` is an integer, not str",
        ),
    ] {
        assert_eq!(problems(&schema, command), expected);
    }
    let mistyped = problems(
        &schema,
        r#"{"execute":"blockdev-add","arguments":{"driver":"qcow22"}}"#,
    );
    assert!(
        mistyped.ends_with(" more (did you mean `qcow2` or `qcow`?)"),
        "{mistyped}"
    );

    let command = Command::new("transaction").arg(
        "actions",
        json!([{"type": "drive-backup", "data": {"device": "d", "target": "t", "sync": "none"}}]),
    );
    let warnings = schema.check(&command).unwrap();
    let shown: Vec<_> = warnings.iter().map(|warning| warning.to_string()).collect();
    assert_eq!(
        shown,
        ["value `drive-backup` of argument `actions[0].type` is deprecated"]
    );
}

/// The value of the recorded reply.
fn value() -> &'static str {
    static VALUE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    VALUE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let value: Box<RawValue> = runtime
            .block_on(async { monitor().execute(Command::new("query-qmp-schema")).await })
            .unwrap();
        value.get().to_owned()
    })
}

/// How long reading takes, for whoever asks: `cargo test --release --test schema -- --nocapture reading`.
#[test]
fn reading_is_quick() {
    let value = value();
    let rounds = 20;
    let started = Instant::now();
    for _ in 0..rounds {
        assert_eq!(
            Schema::parse(value.as_bytes()).unwrap().commands().len(),
            216
        );
    }
    let took = started.elapsed() / rounds;
    println!("{} bytes in {took:?}", value.len());
    // In a debug build on a busy machine it is some 30 ms.
    assert!(took.as_secs() < 5, "{took:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_damaged_schema_is_refused_or_of_some_use(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end in any::<prop::sample::Index>(),
        cut: bool,
    ) {
        let mut text = value().as_bytes().to_vec();
        for (place, byte) in places {
            let place = place.index(text.len());
            text[place] = byte;
        }
        if cut {
            text.truncate(end.index(text.len()));
        }
        match Schema::parse(&text) {
            Ok(schema) => {
                prop_assert!(!cut && schema.commands().len() > 200);
                let _ = problems(&schema, r#"{"execute":"blockdev-add","arguments":{"driver":"raw","file":{}}}"#);
                for ty in schema.types() {
                    let _ = ty.to_string();
                }
            }
            Err(error) => prop_assert!(!error.reason.is_empty()),
        }
    }
}
