//! The oldest Rust the crate builds with is stated once, as `rust-version` in Cargo.toml. clippy's `incompatible_msrv`
//! holds the crate's own code to it; this file holds its dependencies and the README to it. The feature `cli` needs a newer one
//! by a dependency that does not say so, and Cargo.toml and the README say it instead.
#![allow(
    clippy::expect_used,
    reason = "a helper that cannot do its work fails the test that called it"
)]

use std::collections::HashMap;
use std::process::Command;

use serde_json::Value;

/// As in Cargo.toml.
const OURS: &str = env!("CARGO_PKG_RUST_VERSION");

#[test]
fn no_dependency_needs_a_newer_rust() {
    let metadata = metadata();
    let versions: HashMap<&str, Option<&str>> = list(&metadata["packages"])
        .map(|package| (text(&package["id"]), package["rust_version"].as_str()))
        .collect();
    let nodes: HashMap<&str, &Value> = list(&metadata["resolve"]["nodes"])
        .map(|node| (text(&node["id"]), node))
        .collect();
    let root = text(&metadata["resolve"]["root"]);
    assert_eq!(versions[root], Some(OURS));

    let mut seen = vec![root];
    let mut next = 0;
    while let Some(node) = seen.get(next).map(|id| nodes[id]) {
        next += 1;
        for dependency in list(&node["deps"]).filter(|dependency| is_needed_to_build(dependency)) {
            let id = text(&dependency["pkg"]);
            if !seen.contains(&id) {
                seen.push(id);
            }
        }
    }
    assert!(
        seen.iter().any(|id| id.contains("tokio@")),
        "the walk met no dependencies: {seen:?}"
    );

    let newer = |id: &&str| versions[*id].is_some_and(|theirs| minor(theirs) > minor(OURS));
    let too_new: Vec<_> = seen
        .iter()
        .copied()
        .filter(newer)
        .map(|id| (id, versions[id]))
        .collect();
    assert_eq!(too_new, [], "they need a newer Rust than {OURS}");
}

#[test]
fn the_readme_names_no_other_rust() {
    let metadata = metadata();
    let cli = of_the_command_line(&metadata);
    let readme = readme();
    let others: Vec<&str> = readme
        .lines()
        .filter(|line| !line.contains("`cli`") || !line.contains(&format!("Rust {cli}")))
        .filter(|line| names_another_rust(line))
        .collect();
    assert_eq!(others, Vec::<&str>::new(), "Cargo.toml says {OURS}");
    for needed in [
        format!(
            "The library needs Rust {}, the feature `cli` Rust {cli}",
            major_minor()
        ),
        format!(
            "the feature `cli`, which needs Rust {cli}; the library alone needs {}",
            major_minor()
        ),
    ] {
        assert!(readme.contains(&needed), "the README has no `{needed}`");
    }
}

/// rustyline 19 uses `cfg_select!`, which is in Rust since 1.95, and its manifest names no version; 18 does without.
#[test]
fn the_command_line_needs_what_is_said_of_it() {
    let metadata = metadata();
    let cli = of_the_command_line(&metadata);
    assert_eq!(cli, "1.95");
    if cfg!(feature = "cli") {
        let mut packages = list(&metadata["packages"]);
        let rustyline = packages.find(|package| package["name"] == "rustyline");
        let rustyline = rustyline.expect("a dependency of the command line");
        let version = text(&rustyline["version"]);
        assert!(
            version.starts_with("19."),
            "{version}: which Rust does it need?"
        );
        assert_eq!(
            rustyline["rust_version"],
            Value::Null,
            "it says so itself now"
        );
    }
}

/// The Rust that the feature `cli` needs, as in Cargo.toml.
fn of_the_command_line(metadata: &Value) -> &str {
    let root = text(&metadata["resolve"]["root"]);
    let ours = list(&metadata["packages"]).find(|package| text(&package["id"]) == root);
    let ours = ours.expect("this package");
    text(&ours["metadata"]["cli"]["rust-version"])
}

/// Ours, without a third number.
fn major_minor() -> String {
    format!("1.{}", minor(OURS).expect("a version"))
}

fn readme() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md")
}

#[test]
fn another_rust_is_recognised() {
    assert!(names_another_rust("Needs Rust 1.70 or newer."));
    assert!(names_another_rust(
        "[![MSRV](https://img.shields.io/badge/MSRV-1.70.0-blue)]"
    ));
    assert!(!names_another_rust(&format!("Needs Rust {OURS}.")));
    assert!(!names_another_rust(&format!("rustc {OURS}.0, libvirt 9.0")));
    assert!(
        !names_another_rust("tokio 1.45 is not a Rust"),
        "only a number right after the name counts"
    );
}

/// Whether a line gives a version of Rust, or an MSRV, that is not ours.
fn names_another_rust(line: &str) -> bool {
    let names = ["Rust", "rustc", "MSRV", "rust-version"];
    names
        .iter()
        .flat_map(|name| {
            line.match_indices(name)
                .map(move |(at, _)| &line[at + name.len()..])
        })
        .any(|rest| {
            let number = rest.trim_start_matches([' ', '-', '=', '"', '`', ':', '*']);
            let end = number
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(number.len());
            let version = number[..end].trim_end_matches('.');
            version.starts_with("1.") && minor(version) != minor(OURS)
        })
}

/// What cargo knows of this package and all it depends on, with the features of this build, on this machine's kind.
/// Offline, since what built this test is there; more is not.
fn metadata() -> Value {
    let about = cargo(&["-vV"]);
    let host = about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("cargo -vV names the host");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let mut arguments = vec!["metadata", "--format-version=1", "--locked"];
    arguments.extend(["--filter-platform", host, "--manifest-path", manifest]);
    if cfg!(feature = "cli") {
        arguments.extend(["--features", "cli"]);
    }
    serde_json::from_str(&cargo(&arguments)).expect("cargo metadata prints JSON")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// Whether a user of the crate compiles this dependency: a normal or a build one, as against one for our tests.
fn is_needed_to_build(dependency: &Value) -> bool {
    list(&dependency["dep_kinds"]).any(|kind| kind["kind"].as_str() != Some("dev"))
}

/// The Y of 1.Y or 1.Y.Z.
fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("a list").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}
