//! Model to Rust text: the file, its modules, their programs. `types` and `unions` write the types, with what
//! `expressions` spells out; `answers` those that only methods give.
//!
//! The text is data around calls: reading, writing and limits are in `crate::xdr`, the traits of procedures in
//! `crate::protocol`, whose part the output is.

mod answers;
mod expressions;
mod helpers;
mod methods;
mod samples;
mod types;
mod unions;

use std::fmt::Write as _;

use self::expressions::Types;
use self::helpers::HELPERS;
use self::methods::emit_methods;
use self::samples::emit_samples;
use super::model::{Base, Const, Item, Model, ModuleModel, Origin, Procedure, Program};
use super::{CONSTANTS, Output, Problem};

/// The texts of all files.
pub(crate) fn emit(model: &Model<'_>) -> Result<Output, Vec<Problem>> {
    Ok(Output {
        constants: emit_constants(model),
        protocol: emit_protocol(model),
        methods: emit_methods(model, "Libvirt", &["remote", "qemu", "lxc"])?,
        admin: emit_methods(model, "Admin", &["admin"])?,
        samples: emit_samples(model),
    })
}

/// What every file begins with.
const HEAD: &str = "// Written by build/ from the definitions in xdr/. Change those.\n";

/// The text of `protocol.rs`.
fn emit_protocol(model: &Model<'_>) -> String {
    let modules: Vec<&ModuleModel<'_>> = model
        .modules
        .iter()
        .filter(|module| !module.sources.is_empty() && module.name != CONSTANTS)
        .collect();
    let mut out = HEAD.to_owned();
    let answers = answers::needed(model);
    for module in &modules {
        emit_module(&mut out, module, body(model, module, &answers));
    }
    emit_names(&mut out, &modules);
    emit_helpers(&mut out);
    out
}

/// The text of `constants.rs`.
fn emit_constants(model: &Model<'_>) -> String {
    let modules = model.modules.iter();
    let bodies = modules
        .filter(|module| module.name == CONSTANTS)
        .map(|module| body(model, module, &[]));
    HEAD.to_owned() + &bodies.collect::<String>()
}

/// What is in a module.
fn body(model: &Model<'_>, module: &ModuleModel<'_>, answers: &[bool]) -> String {
    let mut body = String::new();
    let index = model
        .modules
        .iter()
        .position(|other| other.name == module.name)
        .unwrap_or(0);
    let types = Types {
        model,
        module: index,
        home: "",
        path: "super::",
    };
    if let Some(program) = &module.program {
        emit_program(&mut body, program);
    }
    for item in &module.items {
        match item {
            Item::Const(item) => emit_const(&mut body, item),
            Item::Type(id) => {
                types::emit_type(&mut body, &types, *id);
                if answers.get(*id) == Some(&true) {
                    answers::emit_answer(&mut body, &types, *id);
                }
            }
        }
    }
    if let Some(program) = &module.program {
        let types = Types {
            model,
            module: index,
            home: "super::",
            path: "super::super::",
        };
        emit_procedures(&mut body, &types, program);
    }

    body
}

fn emit_module(out: &mut String, module: &ModuleModel<'_>, mut body: String) {
    let title = match &module.program {
        Some(program) => format!(
            "`{}`: {:#x} version {}.",
            program.origin.wire, program.number, program.version
        ),
        None => "Types and constants without a program.".to_owned(),
    };
    let sources: Vec<String> = module
        .sources
        .iter()
        .map(|path| format!("`{path}`"))
        .collect();
    let _ = write!(
        out,
        "\n/// {title}\n///\n/// From {}.\npub mod {} {{\n",
        sources.join(", "),
        module.name
    );
    let uses = imports(&body, 4);
    out.push_str(&uses);
    if uses.is_empty() {
        // The blank line between items must not open the module.
        body = body.trim_start_matches('\n').to_owned();
    }
    out.push_str(&body);
    out.push_str("}\n");
}

/// The `use` lines that `body` needs.
fn imports(body: &str, indent: usize) -> String {
    let code = || {
        body.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
    };
    let words =
        || code().flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
    let has = |word: &str| words().any(|found| found == word);
    let mut uses = String::new();
    for (path, names) in [
        ("xdr_codec", &["Pack", "Result", "Unpack"][..]),
        ("super", &["codec"]),
        ("crate::xdr", &["Reader", "Writer"]),
    ] {
        let used: Vec<&str> = names.iter().copied().filter(|name| has(name)).collect();
        let _ = match used.as_slice() {
            [] => Ok(()),
            [one] => writeln!(uses, "{:indent$}use {path}::{one};", ""),
            more => writeln!(uses, "{:indent$}use {path}::{{{}}};", "", more.join(", ")),
        };
    }
    uses
}

fn emit_const(out: &mut String, item: &Const) {
    let Const {
        origin,
        rust,
        value,
    } = item;
    let ty = if u32::try_from(*value).is_ok() {
        "u32"
    } else if i32::try_from(*value).is_ok() {
        "i32"
    } else {
        "i64"
    };
    doc(
        out,
        4,
        origin,
        &format!("XDR `{}`, `{}`.", origin.wire, origin.place),
    );
    let _ = writeln!(out, "    pub const {rust}: {ty} = {value};");
}

fn emit_program(out: &mut String, program: &Program) {
    for (origin, rust, value) in [
        (&program.origin, "PROGRAM", format!("{:#x}", program.number)),
        (
            &program.version_origin,
            "VERSION",
            program.version.to_string(),
        ),
    ] {
        doc(
            out,
            4,
            origin,
            &format!("XDR `{}`, `{}`.", origin.wire, origin.place),
        );
        let _ = writeln!(out, "    pub const {rust}: u32 = {value};");
    }
}

fn emit_procedures(out: &mut String, types: &Types<'_>, program: &Program) {
    out.push_str("\n    /// The procedures of the program: those that can be called, and the messages that only come.\n");
    out.push_str("    pub mod procedure {\n");
    out.push_str("        /// Wire names by number.\n");
    out.push_str("        pub(in super::super) const NAMES: &[(i32, &str)] = &[\n");
    for procedure in &program.procedures {
        let _ = writeln!(
            out,
            "            ({}, \"{}\"),",
            procedure.number, procedure.origin.wire
        );
    }
    out.push_str("        ];\n");
    for procedure in &program.procedures {
        emit_procedure(out, types, procedure);
    }
    out.push_str("    }\n");
}

fn emit_procedure(out: &mut String, types: &Types<'_>, procedure: &Procedure) {
    let Procedure {
        origin,
        rust,
        number,
        facts,
        ..
    } = procedure;
    let name = &origin.wire;
    let mut line = format!("XDR `{name}` = {number}, `{}`.", origin.place);
    for fact in facts {
        line.push(' ');
        line.push_str(fact);
    }
    doc(out, 8, origin, &line);
    let message = |base: &Option<Base>| base.map_or("()".to_owned(), |base| types.base(base));
    let argument = message(&procedure.argument);
    let (kind, bodies) = if procedure.event {
        ("Message", format!("            type Body = {argument};\n"))
    } else {
        let reply = message(&procedure.reply);
        (
            "Procedure",
            format!("            type Args = {argument};\n            type Reply = {reply};\n"),
        )
    };
    let _ = write!(
        out,
        "        #[derive(Clone, Copy, Debug)]
        pub struct {rust};

        impl crate::protocol::{kind} for {rust} {{
            const PROGRAM: u32 = super::PROGRAM;
            const VERSION: u32 = super::VERSION;
            const NUMBER: i32 = {number};
            const NAME: &'static str = \"{name}\";
{bodies}        }}
"
    );
}

/// The functions that name numbers.
fn emit_names(out: &mut String, modules: &[&ModuleModel<'_>]) {
    let programs = || {
        modules
            .iter()
            .filter_map(|module| Some((module.name, module.program.as_ref()?)))
    };
    out.push_str(
        "
/// Wire name of a procedure or message, such as `REMOTE_PROC_CONNECT_OPEN`; `None` for a number that `xdr/` does
/// not have.
pub fn procedure_name(program: u32, number: i32) -> Option<&'static str> {
    let names: &[(i32, &str)] = match program {
",
    );
    for (module, _) in programs() {
        let _ = writeln!(
            out,
            "        {module}::PROGRAM => {module}::procedure::NAMES,"
        );
    }
    out.push_str(
        "        _ => return None,
    };
    let index = names.binary_search_by_key(&number, |(number, _)| *number).ok()?;
    names.get(index).map(|(_, name)| *name)
}

/// Wire name of a program, such as `REMOTE_PROGRAM`; `None` for a number that `xdr/` does not have.
pub fn program_name(program: u32) -> Option<&'static str> {
    match program {
",
    );
    for (module, program) in programs() {
        let _ = writeln!(
            out,
            "        {module}::PROGRAM => Some(\"{}\"),",
            program.origin.wire
        );
    }
    out.push_str("        _ => None,\n    }\n}\n");
}

fn emit_helpers(out: &mut String) {
    let helpers: Vec<&str> = HELPERS
        .iter()
        .filter(|(name, _)| out.contains(&format!("codec::{name}(")))
        .map(|(_, text)| *text)
        .collect();
    if !helpers.is_empty() {
        let body = helpers.join("\n");
        let uses = imports(&body.replace("true.pack(", "Pack "), 4);
        let _ = write!(
            out,
            "\n/// What the modules share.\nmod codec {{\n{uses}\n{body}}}\n"
        );
    }
}

/// A blank line, the doc comment of the source, and a line that says where the item comes from.
fn doc(out: &mut String, indent: usize, origin: &Origin, last: &str) {
    out.push('\n');
    doc_inside(out, indent, origin, last);
}

/// [`doc`] without the blank line.
fn doc_inside(out: &mut String, indent: usize, origin: &Origin, last: &str) {
    for line in &origin.doc {
        let _ = writeln!(out, "{:indent$}{}", "", format!("/// {line}").trim_end());
    }
    if !origin.doc.is_empty() {
        let _ = writeln!(out, "{:indent$}///", "");
    }
    let _ = writeln!(out, "{:indent$}/// {last}", "");
}
