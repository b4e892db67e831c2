//! The generator: XDR text in, Rust texts out, no file touched.
//!
//! [`generate`] is a line of steps: `lex` → `parse` → `resolve` → `emit`, each in the file of that name.
//! `doc` reads doc comments and their annotations, `layout` works out sizes, `names` makes Rust names.
//! Included by `build.rs` and by `tests/generator.rs`. Imports only the standard library.

pub(crate) mod ast;
mod doc;
mod emit;
mod layout;
mod lex;
pub(crate) mod model;
mod names;
mod parse;
mod resolve;

use std::fmt;

/// A module of the generated code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module<'a> {
    /// Rust name, which is also the file stem or first directory of its sources under `xdr/`.
    pub(crate) name: &'a str,
    /// Prefixes of wire names that the module name makes redundant; the first that fits is taken off.
    pub(crate) prefixes: &'a [&'a str],
    /// Wire names of types that have a Rust type written by hand, and its path. It has `Pack` and `Unpack`.
    pub(crate) given: &'a [(&'a str, &'a str)],
    /// Its enums are those of the C API, which has several names for one number here and there.
    pub(crate) aliases: bool,
}

/// Types of the remote program that `src/objects.rs` has.
const REMOTE_OBJECTS: &[(&str, &str)] = &[
    ("remote_uuid", "uuid::Uuid"),
    ("remote_nonnull_domain", "crate::objects::Domain"),
    ("remote_nonnull_network", "crate::objects::Network"),
    ("remote_nonnull_network_port", "crate::objects::NetworkPort"),
    ("remote_nonnull_nwfilter", "crate::objects::NwFilter"),
    (
        "remote_nonnull_nwfilter_binding",
        "crate::objects::NwFilterBinding",
    ),
    ("remote_nonnull_interface", "crate::objects::Interface"),
    ("remote_nonnull_storage_pool", "crate::objects::StoragePool"),
    ("remote_nonnull_storage_vol", "crate::objects::StorageVol"),
    ("remote_nonnull_node_device", "crate::objects::NodeDevice"),
    ("remote_nonnull_secret", "crate::objects::Secret"),
    (
        "remote_nonnull_domain_checkpoint",
        "crate::objects::DomainCheckpoint",
    ),
    (
        "remote_nonnull_domain_snapshot",
        "crate::objects::DomainSnapshot",
    ),
    ("remote_typed_param", "crate::objects::TypedParam"),
    (
        "remote_typed_param_value",
        "crate::objects::TypedParamValue",
    ),
];

/// Types of the admin program that `src/objects.rs` has.
const ADMIN_OBJECTS: &[(&str, &str)] = &[
    ("admin_nonnull_server", "crate::objects::AdminServer"),
    ("admin_nonnull_client", "crate::objects::AdminClient"),
    ("admin_typed_param", "crate::objects::TypedParam"),
    ("admin_typed_param_value", "crate::objects::TypedParamValue"),
];

/// The modules of this crate.
pub(crate) const MODULES: &[Module<'static>] = &[
    Module {
        name: "rpc",
        prefixes: &["virNet", "VIR_NET_", "VIR_"],
        given: &[],
        aliases: false,
    },
    Module {
        name: "keepalive",
        prefixes: &["keepalive_", "KEEPALIVE_PROC_", "KEEPALIVE_"],
        given: &[],
        aliases: false,
    },
    Module {
        name: "remote",
        prefixes: &["remote_", "REMOTE_PROC_", "REMOTE_"],
        given: REMOTE_OBJECTS,
        aliases: false,
    },
    Module {
        name: "qemu",
        prefixes: &["qemu_", "QEMU_PROC_", "QEMU_"],
        given: &[],
        aliases: false,
    },
    Module {
        name: "lxc",
        prefixes: &["lxc_", "LXC_PROC_", "LXC_"],
        given: &[],
        aliases: false,
    },
    Module {
        name: "admin",
        prefixes: &["admin_", "ADMIN_PROC_", "ADMIN_"],
        given: ADMIN_OBJECTS,
        aliases: false,
    },
    Module {
        name: CONSTANTS,
        prefixes: &["vir", "VIR_"],
        given: &[],
        aliases: true,
    },
];

/// The module whose enums stand under everything else, for the objects of `src/objects.rs` have fields of them. It goes into a
/// file of its own, and names no other module.
pub(crate) const CONSTANTS: &str = "constants";

/// One file of definitions.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Path as it is shown in messages and in rustdoc, such as `xdr/remote/auth.x`.
    pub(crate) path: String,
    /// All of its text.
    pub(crate) text: String,
}

/// A place in the sources. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) source: usize,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// What is wrong at a place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub(crate) at: At,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(at: At, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }
}

/// A problem as the user reads it: `xdr/qemu.x:12:7: message`, always on one line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Diagnostic(String);

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the generator writes: the texts of Rust files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// The types of the module [`CONSTANTS`], for `src/constants.rs`.
    pub(crate) constants: String,
    /// Types and procedures, for `src/protocol.rs`.
    pub(crate) protocol: String,
    /// The methods of `Libvirt`.
    pub(crate) methods: String,
    /// The methods of `Admin`.
    pub(crate) admin: String,
    /// Values of every type, for a test.
    pub(crate) samples: String,
}

/// Turns the definitions into Rust.
///
/// The same input gives the same output, whatever the order of `sources`.
///
/// # Errors
/// Every problem found, in the order of the sources. A file that cannot be parsed gives its first problem,
/// and names are looked up only once all files parse.
pub(crate) fn generate(
    modules: &[Module<'_>],
    sources: &[Source],
) -> Result<Output, Vec<Diagnostic>> {
    let mut sources: Vec<&Source> = sources.iter().collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));

    translate(modules, &sources).map_err(|mut problems| {
        problems.sort();
        problems.dedup();
        problems
            .iter()
            .map(|problem| diagnostic(&sources, problem))
            .collect()
    })
}

fn translate(modules: &[Module<'_>], sources: &[&Source]) -> Result<Output, Vec<Problem>> {
    emit::emit(&resolved(modules, sources)?)
}

/// What all sources together define. They are in the order of their paths.
pub(crate) fn resolved<'a>(
    modules: &'a [Module<'a>],
    sources: &'a [&'a Source],
) -> Result<model::Model<'a>, Vec<Problem>> {
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let start = At {
            source: index,
            line: 1,
            column: 1,
        };
        let stem = module_name(&source.path);
        let Some(module) = modules.iter().position(|module| module.name == stem) else {
            problems.push(Problem::new(
                start,
                format!("no module `{stem}` in the table of build/mod.rs"),
            ));
            continue;
        };
        match lex::lex(&source.text, index).and_then(parse::parse) {
            Ok(definitions) => files.push(ast::File {
                module,
                definitions,
            }),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    resolve::resolve(modules, sources, files)
}

/// `remote` for `xdr/remote/auth.x`, `qemu` for `xdr/qemu.x`.
fn module_name(path: &str) -> &str {
    let inside = path.strip_prefix("xdr/").unwrap_or(path);
    let first = inside.split('/').next().unwrap_or(inside);
    first.strip_suffix(".x").unwrap_or(first)
}

fn diagnostic(sources: &[&Source], problem: &Problem) -> Diagnostic {
    let At { line, column, .. } = problem.at;
    Diagnostic(format!(
        "{}:{line}:{column}: {}",
        path(sources, problem.at),
        problem.message
    ))
}

fn path<'a>(sources: &[&'a Source], at: At) -> &'a str {
    sources
        .get(at.source)
        .map_or("", |source| source.path.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_is_the_first_name_under_xdr() {
        assert_eq!(module_name("xdr/qemu.x"), "qemu");
        assert_eq!(module_name("xdr/remote/auth.x"), "remote");
        assert_eq!(module_name("xdr/remote/deep/er.x"), "remote");
    }

    #[test]
    fn a_file_without_a_module_is_reported() {
        let source = Source {
            path: "xdr/lost.x".into(),
            text: String::new(),
        };
        let problems = generate(MODULES, &[source]).unwrap_err();
        assert_eq!(
            problems[0].to_string(),
            "xdr/lost.x:1:1: no module `lost` in the table of build/mod.rs"
        );
    }
}
