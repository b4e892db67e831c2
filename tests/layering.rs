//! Imports go down only: each module of src/ may name those that [`LAYERS`] lists for it, and nothing else of the crate.
//! Documentation and unit tests may name anything.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and what it may import, bottom first. A layer lists only what stands above it in this table.
const LAYERS: &[(&str, &[&str])] = &[
    ("guide", &[]),
    ("credentials", &[]),
    ("uri", &["credentials"]),
    ("xdr", &[]),
    ("qmp", &[]),
    ("types", &[]),
    ("config", &["credentials"]),
    ("transport", &[]),
    ("objects", &["xdr"]),
    // What is generated into it names objects too.
    ("protocol", &["xdr"]),
    ("packet", &["protocol"]),
    ("error", &["uri", "xdr", "packet", "protocol", "qmp"]),
    ("queue", &["error", "qmp"]),
    ("inflight", &["error"]),
    ("connection", &["error", "inflight", "transport"]),
    ("reconnect", &["config", "connection", "error"]),
    (
        "dial",
        &["uri", "config", "error", "transport", "connection"],
    ),
    ("monitor", &["error", "qmp", "queue"]),
    ("guard", &["error", "qmp", "monitor"]),
    ("wait", &["error", "qmp", "queue", "monitor"]),
    ("domain", &["types", "error", "qmp", "monitor", "wait"]),
    ("typed", &["types", "qmp", "error", "monitor"]),
    (
        "rpc",
        &[
            "xdr",
            "protocol",
            "packet",
            "config",
            "error",
            "reconnect",
            "queue",
            "inflight",
            "connection",
            "transport",
        ],
    ),
    (
        "libvirt",
        &[
            "objects",
            "credentials",
            "uri",
            "dial",
            "xdr",
            "qmp",
            "protocol",
            "config",
            "error",
            "reconnect",
            "queue",
            "connection",
            "transport",
            "rpc",
        ],
    ),
    ("replay", &["xdr", "protocol", "packet"]),
    (
        "testing",
        &["objects", "xdr", "qmp", "protocol", "packet", "error"],
    ),
    (
        "driver",
        &[
            "objects",
            "uri",
            "dial",
            "xdr",
            "qmp",
            "config",
            "protocol",
            "packet",
            "error",
            "reconnect",
            "queue",
            "reconnect",
            "inflight",
            "connection",
            "transport",
            "monitor",
            "rpc",
            "libvirt",
        ],
    ),
    (
        "hypervisor",
        &[
            "objects", "qmp", "config", "error", "monitor", "libvirt", "driver",
        ],
    ),
    (
        "blocking",
        &[
            "objects",
            "qmp",
            "types",
            "typed",
            "config",
            "error",
            "reconnect",
            "connection",
            "dial",
            "monitor",
            "wait",
            "domain",
            "libvirt",
            "driver",
            "hypervisor",
        ],
    ),
];

#[test]
fn imports_go_down_only() {
    let mut upward = Vec::new();
    for (module, file, code) in sources() {
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            panic!("{} belongs to no layer", file.display());
        };
        for import in imports(&file, &code) {
            if import != module && !allowed.contains(&import.as_str()) {
                upward.push(format!("{} names {import}", file.display()));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn the_table_is_in_order_and_says_no_more_than_is_so() {
    let used: Vec<(String, String)> = sources()
        .flat_map(|(module, file, code)| {
            imports(&file, &code)
                .into_iter()
                .map(move |import| (module.clone(), import))
        })
        .collect();
    for (place, (module, allowed)) in LAYERS.iter().enumerate() {
        for import in *allowed {
            let below = LAYERS[..place].iter().any(|(name, _)| name == import);
            assert!(below, "{module} may import {import}, which is not below it");
            // The drivers, at the top, may use anything.
            let is_used = used.iter().any(|(from, to)| from == module && to == import);
            assert!(
                is_used || *module == "driver",
                "{module} does not use {import}"
            );
        }
    }
}

#[test]
fn an_upward_import_is_found() {
    for (code, expected) in [
        ("use crate::driver::Link;", "driver"),
        ("fn f() -> crate::Error {}", "Error"),
        ("use crate::{error, driver};", "{"),
        ("use super::super::rpc;", "the root"),
        ("fn f() { super::super::x() } // crate::xdr", "the root"),
    ] {
        assert_eq!(
            imports(Path::new("libvirt/open.rs"), code),
            [expected],
            "{code}"
        );
    }
    assert_eq!(
        imports(Path::new("error.rs"), "use super::Libvirt;"),
        ["the root"]
    );
    assert!(imports(Path::new("libvirt/open.rs"), "use super::Libvirt;").is_empty());
    assert!(imports(Path::new("error.rs"), "/// See [`crate::Libvirt`].").is_empty());
}

/// The fence around a C library is one file; everything else is checked by the compiler.
#[test]
fn unsafe_code_is_in_one_file() {
    let has_unsafe = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        let code = text.lines().filter_map(|line| line.split("//").next());
        code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
            .any(|word| word == "unsafe")
    };
    let found: Vec<_> = files().into_iter().filter(has_unsafe).collect();
    assert_eq!(found, [root().join("driver/libvirt_c/ffi.rs")]);
}

/// Each source file of the library but its root: its module, its path under src/, and its text up to its unit tests.
fn sources() -> impl Iterator<Item = (String, PathBuf, String)> {
    let is_code = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "rs");
    files().into_iter().filter(is_code).filter_map(|path| {
        let file = path.strip_prefix(root()).unwrap().to_owned();
        let module = file
            .iter()
            .next()?
            .to_str()?
            .trim_end_matches(".rs")
            .to_owned();
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next()?.to_owned();
        (module != "lib" && module != "bin").then_some((module, file, code))
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Each file under src/.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

/// What the code of `file` names of the crate by `crate::`, and the root where it gets there by `super::`.
fn imports(file: &Path, code: &str) -> Vec<String> {
    let depth = file.components().count() - usize::from(file.ends_with("mod.rs"));
    let to_root = "super::".repeat(depth);
    let mut imports = Vec::new();
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or_default();
        for after in line.split("crate::").skip(1) {
            let end = after.find(|c: char| !c.is_alphanumeric() && c != '_');
            let name = &after[..end.unwrap_or(after.len()).max(1)];
            imports.push(name.to_owned());
        }
        if line.contains(&to_root) {
            imports.push("the root".to_owned());
        }
    }
    imports
}
