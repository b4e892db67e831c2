//! The types held against the table of facts in `fixtures/qmp-facts.txt`: names, kinds, what may be missing, the values of
//! enums. What holds the table to QEMU is `tests/typed/facts.rs`. Imports types.

#[path = "../../tests/typed/table.rs"]
#[expect(dead_code, reason = "only the live test writes the table")]
mod table;

use std::collections::BTreeSet;

use super::*;
use crate::types::wire::{Kind, KindOf, Wire as _};
use table::{ABSENT, Node, Table};

/// Members of unions that the table leaves out, because there are so many variants.
const LEFT_OUT: [(&str, &str); 1] = [("command chardev-add", "data")];
/// Members of a type that serves several commands or events: an `Option`, because not all of these have it.
const SHARED: [(&str, &str); 19] = [
    ("event BLOCK_JOB_CANCELLED", "error"),
    ("event BLOCK_JOB_READY", "error"),
    ("event VNC_CONNECTED", "x509_dname"),
    ("event VNC_CONNECTED", "sasl_username"),
    ("event SPICE_CONNECTED", "auth"),
    ("event SPICE_CONNECTED", "connection-id"),
    ("event SPICE_CONNECTED", "channel-type"),
    ("event SPICE_CONNECTED", "channel-id"),
    ("event SPICE_CONNECTED", "tls"),
    ("event SPICE_DISCONNECTED", "auth"),
    ("event SPICE_DISCONNECTED", "connection-id"),
    ("event SPICE_DISCONNECTED", "channel-type"),
    ("event SPICE_DISCONNECTED", "channel-id"),
    ("event SPICE_DISCONNECTED", "tls"),
    ("event SPICE_INITIALIZED", "connection-id"),
    ("event SPICE_INITIALIZED", "channel-type"),
    ("event SPICE_INITIALIZED", "channel-id"),
    ("event SPICE_INITIALIZED", "tls"),
    // The memory's counter, in the disks' type of 7.2.
    ("command query-migrate", "skipped"),
];

fn facts() -> Table {
    table::parse(include_str!("../../fixtures/qmp-facts.txt"))
}

#[test]
fn commands_agree_with_the_facts() {
    let table = facts();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    macro_rules! check {
        ($($command:ident,)*) => {$(
            let what = format!("command {}", $command::NAME);
            let node = &table[&what];
            check_kind(&what, $command::kind(), &node.children["in"], &mut problems);
            seen.insert(what);
        )*};
    }
    check! {
            AddFd,
            BalloonSet,
            BlockCommit,
            BlockDirtyBitmapAdd,
            BlockDirtyBitmapClear,
            BlockDirtyBitmapDisable,
            BlockDirtyBitmapEnable,
            BlockDirtyBitmapRemove,
            BlockJobCancel,
            BlockJobComplete,
            BlockJobDismiss,
            BlockJobFinalize,
            BlockJobPause,
            BlockJobResume,
            BlockJobSetSpeed,
            BlockResize,
            BlockSetWriteThreshold,
            BlockStream,
            BlockdevBackup,
            BlockdevChangeMedium,
            BlockdevCloseTray,
            BlockdevCreate,
            BlockdevDel,
            BlockdevInsertMedium,
            BlockdevMirror,
            BlockdevOpenTray,
            BlockdevRemoveMedium,
            BlockdevSnapshot,
            BlockdevSnapshotSync,
            ChardevAdd,
            ChardevRemove,
            Closefd,
            Cont,
            DeviceAdd,
            DeviceDel,
            DriveBackup,
            DriveMirror,
            Eject,
            Getfd,
            HumanMonitorCommand,
            JobCancel,
            JobComplete,
            JobDismiss,
            JobFinalize,
            JobPause,
            JobResume,
            Migrate,
            MigrateCancel,
            MigrateContinue,
            MigrateIncoming,
            MigrateSetCapabilities,
            MigrateSetParameters,
            NbdServerAdd,
            NbdServerRemove,
            NbdServerStart,
            NbdServerStop,
            NetdevAdd,
            NetdevDel,
            ObjectAdd,
            ObjectDel,
            QomGet,
            QomList,
            QomSet,
            QueryBalloon,
            QueryBlock,
            QueryBlockJobs,
            QueryBlockstats,
            QueryChardev,
            QueryCommands,
            QueryCpusFast,
            QueryFdsets,
            QueryIothreads,
            QueryJobs,
            QueryKvm,
            QueryMigrate,
            QueryMigrateCapabilities,
            QueryName,
            QueryNamedBlockNodes,
            QueryPci,
            QueryStatus,
            QueryUuid,
            QueryVersion,
            Quit,
            RemoveFd,
            Screendump,
            SendKey,
            SetLink,
            SetPassword,
            Stop,
            SystemPowerdown,
            SystemReset,
            SystemWakeup,
    }
    let what = "command blockdev-add";
    let kind = BlockdevOptions::default().kind();
    check_kind(what, kind, &table[what].children["in"], &mut problems);
    seen.insert(what.to_owned());
    assert!(problems.is_empty(), "{problems:#?}");
    let missing: Vec<&String> = table
        .keys()
        .filter(|what| what.starts_with("command ") && !seen.contains(*what))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn what_commands_return_agrees_with_the_facts() {
    let table = facts();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::from(["command query-version".to_owned()]);
    macro_rules! check {
        ($($command:ident,)*) => {$(
            let what = format!("command {}", $command::NAME);
            let kind = <$command as QmpCommand>::Return::default().kind();
            check_kind(&what, kind, &table[&what].children["out"], &mut problems);
            seen.insert(what);
        )*};
    }
    check! {
        AddFd, ChardevAdd, HumanMonitorCommand, QomGet, QomList, QueryBalloon, QueryBlock, QueryBlockJobs,
        QueryBlockstats, QueryChardev, QueryCommands, QueryCpusFast, QueryFdsets, QueryIothreads, QueryJobs, QueryKvm,
        QueryMigrate, QueryMigrateCapabilities, QueryName, QueryNamedBlockNodes, QueryPci, QueryStatus, QueryUuid,
    }
    // The others return nothing.
    for (what, node) in table
        .iter()
        .filter(|(what, _)| what.starts_with("command "))
    {
        if !seen.contains(what) && !node.children["out"].children.is_empty() {
            problems.push(format!("{what}: returns something"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn events_agree_with_the_facts() {
    let table = facts();
    let mut problems = Vec::new();
    for (name, kind) in TypedEvent::kinds() {
        let what = format!("event {name}");
        let node = &table[&what].children["in"];
        check_kind(
            &what,
            kind.unwrap_or(Kind::Object(Vec::new())),
            node,
            &mut problems,
        );
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn a_difference_is_found() {
    let table = table::parse(
        "command x + +\n  in object object\n    a int int?\n    b - enum\n      =x - +\n    c str str\n    d array array\n      [] int int\n",
    );
    fn member(kind: fn() -> Kind) -> Box<dyn FnOnce() -> Kind> {
        Box::new(kind)
    }
    let mut problems = Vec::new();
    let mut check = |members| {
        let kind = Kind::Object(members);
        check_kind("x", kind, &table["command x"].children["in"], &mut problems);
        std::mem::take(&mut problems)
    };
    let good = || {
        vec![
            ("a", member(|| Option::<i64>::None.kind())),
            (
                "b",
                member(|| Kind::Optional(Box::new(Kind::Names(&["x"])))),
            ),
            ("c", member(|| String::new().kind())),
            ("d", member(|| Vec::<i64>::new().kind())),
        ]
    };
    assert_eq!(check(good()), [""; 0]);
    type Case = (usize, fn() -> Kind, &'static str);
    let cases: [Case; 5] = [
        (0, || 0_i64.kind(), "x.a: required, and may be missing"),
        (0, || Some(false).kind(), "x.a: bool, not int"),
        (
            1,
            || Kind::Optional(Box::new(Kind::Names(&["x", "y"]))),
            "x.b: the values differ",
        ),
        (
            2,
            || Some(String::new()).kind(),
            "x.c: an Option, and always there",
        ),
        (3, || Vec::<bool>::new().kind(), "x.d[]: bool, not int"),
    ];
    for (place, kind, problem) in cases {
        let mut members = good();
        members[place].1 = member(kind);
        assert_eq!(check(members), [problem]);
    }
    let mut fewer = good();
    fewer.pop();
    assert_eq!(check(fewer), ["x.d: has no member"]);
    let mut more = good();
    more.push(("e", member(|| 0_i64.kind())));
    assert_eq!(check(more), ["x.e: is in neither version"]);
}

/// Compares what a type is with what the schema says, and all below it.
fn check_kind(what: &str, kind: Kind, node: &Node, problems: &mut Vec<String>) {
    let kinds: BTreeSet<&str> = node
        .kinds
        .iter()
        .map(|kind| kind.trim_end_matches('?'))
        .filter(|kind| *kind != ABSENT)
        .collect();
    let said = match kinds.into_iter().collect::<Vec<_>>()[..] {
        [kind] => kind,
        // One version names the values, and the other just calls it a string.
        ["enum", "str"] => "enum",
        _ => "different in each version",
    };
    let mut differs = |is: &str| problems.push(format!("{what}: {is}, not {said}"));
    match kind {
        Kind::Optional(kind) => check_kind(what, *kind, node, problems),
        Kind::Scalar("any") => {}
        Kind::Scalar("str") if said == "enum" => {}
        Kind::Scalar(kind) if kind == said => {}
        Kind::Scalar(kind) => differs(kind),
        Kind::Names(_) if said != "enum" => differs("enum"),
        Kind::Names(values) => {
            let values: BTreeSet<String> = values.iter().map(|value| format!("={value}")).collect();
            if !values.iter().eq(node.children.keys()) {
                problems.push(format!("{what}: the values differ"));
            }
        }
        Kind::Array(_) if said != "array" => differs("array"),
        Kind::Array(element) => {
            check_kind(
                &format!("{what}[]"),
                *element,
                &node.children["[]"],
                problems,
            );
        }
        Kind::Object(_) if said != "object" => differs("object"),
        // A type within itself: the table has it once.
        Kind::Object(members) if node.children.is_empty() && is_nested(what) => drop(members),
        Kind::Object(members) => check_members(what, members, node, problems),
    }
}

fn check_members(what: &str, members: Vec<KindOf>, node: &Node, problems: &mut Vec<String>) {
    let root = what.split(['.', '[']).next().unwrap_or_default();
    let mut left: BTreeSet<&str> = node.children.keys().map(String::as_str).collect();
    for (name, kind) in members {
        let what = format!("{what}.{name}");
        left.remove(name);
        let Some(child) = node.children.get(name) else {
            if !SHARED.contains(&(root, name)) && !LEFT_OUT.contains(&(root, name)) {
                problems.push(format!("{what}: is in neither version"));
            }
            continue;
        };
        let kind = kind();
        // Where the whole object is not in a version, that says nothing of its members.
        let may_be_missing = (0..child.kinds.len())
            .filter(|&version| node.kinds[version] != ABSENT)
            .any(|version| child.kinds[version] == ABSENT || child.kinds[version].ends_with('?'));
        match (matches!(kind, Kind::Optional(_)), may_be_missing) {
            (false, true) => problems.push(format!("{what}: required, and may be missing")),
            (true, false) if SHARED.contains(&(root, name)) => {}
            (true, false) => problems.push(format!("{what}: an Option, and always there")),
            _ => {}
        }
        check_kind(&what, kind, child, problems);
    }
    // What is unstable is left to `extra` and `other`.
    for name in left.into_iter().filter(|name| !name.starts_with("x-")) {
        problems.push(format!("{what}.{name}: has no member"));
    }
}

/// Whether this is a member rather than a command or an event.
fn is_nested(what: &str) -> bool {
    what.contains('.')
}
