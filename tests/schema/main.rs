//! What QEMU says of itself in `query-qmp-schema`: read from a recording and from running QEMUs, kept by a monitor, and used
//! to check commands and transactions before they are sent. Everything goes through the public API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod kept;
mod live;
mod recorded;
mod transactions;

use libvirt_qmp::Schema;
use serde_json::{Value, json};

/// A schema of three commands, one of them `transaction`, as QEMU would give it.
fn small() -> Value {
    json!([
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
        {"name": "0", "meta-type": "object", "members": []},
        {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "query-qmp-schema", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "transaction", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
        {"name": "1", "meta-type": "object", "members": [{"name": "actions", "type": "[2]"}]},
        {"name": "[2]", "meta-type": "array", "element-type": "2"},
        {"name": "2", "meta-type": "object", "tag": "type", "members": [{"name": "type", "type": "3"}],
         "variants": [{"case": "abort", "type": "4"}, {"case": "block-dirty-bitmap-enable", "type": "4"}]},
        {"name": "3", "meta-type": "enum", "values": ["abort", "block-dirty-bitmap-enable"],
         "members": [{"name": "abort"}, {"name": "block-dirty-bitmap-enable"}]},
        {"name": "4", "meta-type": "object", "members": [{"name": "data", "type": "0"}]}
    ])
}

/// The problems of a command, as text; empty where there are none.
fn problems(schema: &Schema, command: &str) -> String {
    match schema.check_json(command.as_bytes()) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    }
}
