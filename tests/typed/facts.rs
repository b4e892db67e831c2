//! Holds the table of facts to a real QEMU.
//!
//! With `LIBVIRT_QMP_RECORD=1` the live test writes the column of the QEMU it runs with. For another version give its
//! answer to `query-qmp-schema`, the array alone: `LIBVIRT_QMP_SCHEMA=10.0=FILE`.

use std::fs;
use std::path::{Path, PathBuf};

use libvirt_qmp::typed::{QueryVersion, TypedEvent, TypedExt};
use libvirt_qmp::{MonitorExt, SocketMonitor};
use serde_json::{Value, json};

use crate::support::qemu::Qemu;
use crate::table::{self, VERSIONS};

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qmp-facts.txt")
}

/// A version and its schema.
async fn schema() -> (String, Vec<Value>) {
    if let Some(given) = std::env::var_os("LIBVIRT_QMP_SCHEMA") {
        let given = given.into_string().unwrap();
        let (version, file) = given.split_once('=').expect("VERSION=FILE");
        let text = fs::read_to_string(file).unwrap();
        return (version.to_owned(), serde_json::from_str(&text).unwrap());
    }
    let qemu = Qemu::start(&[]);
    let monitor = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    let version = monitor.call(QueryVersion::new()).await.unwrap();
    let schema = monitor.query("qmp-schema").await.unwrap();
    (format!("{}.{}", version.major, version.minor), schema)
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_table_says_what_qemu_says() {
    let (version, schema) = schema().await;
    let column = VERSIONS.iter().position(|known| *known == version);
    let column = column.unwrap_or_else(|| panic!("the table has no column for QEMU {version}"));
    let text = fs::read_to_string(path()).unwrap();
    let mut table = table::parse(&text);
    table::refresh(&mut table, column, &schema);
    let expected = table::render(&table);
    if std::env::var_os("LIBVIRT_QMP_RECORD").is_some() {
        fs::write(path(), expected).unwrap();
    } else if let Some((is, should)) = text.lines().zip(expected.lines()).find(|(a, b)| a != b) {
        panic!("the table says\n{is}\nand QEMU {version} says\n{should}");
    } else {
        assert_eq!(text, expected);
    }
}

#[test]
fn the_table_has_every_event_that_is_typed() {
    let table = table::parse(&fs::read_to_string(path()).unwrap());
    let events: Vec<&str> = table
        .keys()
        .filter_map(|name| name.strip_prefix("event "))
        .collect();
    let mut known = TypedEvent::KNOWN.to_vec();
    known.sort_unstable();
    assert_eq!(events, known);
}

#[test]
fn a_union_is_flattened_and_a_change_is_seen() {
    let member = |name: &str, kind: &str| json!({"name": name, "type": kind});
    let schema = |last: &str| {
        vec![
            json!({"name": "x", "meta-type": "command", "arg-type": "1", "ret-type": "str"}),
            json!({"name": "1", "meta-type": "object", "tag": "kind",
                "members": [member("kind", "2"), {"name": "more", "type": "[1]", "default": null}],
                "variants": [{"case": "a", "type": "3"}, {"case": "b", "type": "4"}]}),
            json!({"name": "2", "meta-type": "enum", "members": [{"name": "a"}, {"name": "b"}]}),
            json!({"name": "[1]", "meta-type": "array", "element-type": "1"}),
            json!({"name": "3", "meta-type": "object", "members": [member("n", "int"), member("m", "int")]}),
            json!({"name": "4", "meta-type": "object", "members": [member("m", last)]}),
            json!({"name": "int", "meta-type": "builtin"}),
            json!({"name": "str", "meta-type": "builtin"}),
        ]
    };
    let mut table = table::parse("command x - -\nevent GONE - -\n");
    table::refresh(&mut table, 0, &schema("int"));
    table::refresh(&mut table, 1, &schema("str"));
    let text = table::render(&table);
    let words: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        words,
        [
            "# QEMU 7.2 10.0",
            "",
            "command x + +",
            "in object object",
            "kind enum enum",
            "=a + +",
            "=b + +",
            "m int any",
            "more array? array?",
            "[] object object",
            "n int? int?",
            "out str str",
            "",
            "event GONE - -",
        ]
    );
    assert_eq!(table::parse(&text), table);
}
