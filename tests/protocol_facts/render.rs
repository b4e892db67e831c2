//! The definitions as the facts are written: one item a line, names and numbers resolved.

use super::super::generator::ast::Scalar;
use super::super::generator::model::{
    Arm, Base, Declared, Discriminant, Item, Model, ModuleModel, Procedure, Program, Shape, Type,
    TypeBody, Union,
};
use super::super::generator::{MODULES, Source, resolved};

/// What `read` makes of the definitions as the generator resolved them.
pub(super) fn with_model<T>(definitions: &[Source], read: impl FnOnce(&Model<'_>) -> T) -> T {
    let mut sources: Vec<&Source> = definitions.iter().collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    match resolved(MODULES, &sources) {
        Ok(model) => read(&model),
        Err(problems) => panic!("{problems:#?}"),
    }
}

pub(super) fn lines(definitions: &[Source]) -> Vec<String> {
    with_model(definitions, |model| {
        let modules = model.modules.iter();
        modules
            .flat_map(|module| module_lines(model, module))
            .collect()
    })
}

fn module_lines(model: &Model<'_>, module: &ModuleModel<'_>) -> Vec<String> {
    let mut lines: Vec<String> = module
        .items
        .iter()
        .flat_map(|item| std::iter::once(item_line(model, item)).chain(bool_lines(model, item)))
        .collect();
    if let Some(program) = &module.program {
        lines.push(program_line(program));
        let procedures = program.procedures.iter();
        lines.extend(procedures.map(|procedure| procedure_line(model, procedure)));
    }
    lines
        .iter()
        .map(|line| format!("{} {line}", module.name))
        .collect()
}

fn program_line(program: &Program) -> String {
    let Program {
        origin,
        number,
        version,
        ..
    } = program;
    format!("program {} {number:#010x} version {version}", origin.wire)
}

fn item_line(model: &Model<'_>, item: &Item) -> String {
    let id = match item {
        Item::Const(item) => return format!("const {} {}", item.origin.wire, item.value),
        Item::Type(id) => *id,
    };
    let Type { origin, body, .. } = &model.types[id];
    let name = &origin.wire;
    match body {
        TypeBody::Typedef(declared) => format!("typedef {}", field(model, name, declared)),
        TypeBody::Enum(item) => {
            let values = item.values.iter();
            let values = values.map(|value| format!("{} = {}", value.origin.wire, value.value));
            format!("enum {name}: {}", join(values))
        }
        TypeBody::Struct(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|item| field(model, &item.origin.wire, &item.declared));
            format!("struct {name}: {}", join(fields))
        }
        TypeBody::Union(union) => union_line(model, name, union),
    }
}

/// The numbers of a struct that are a yes or no.
fn bool_lines(model: &Model<'_>, item: &Item) -> Vec<String> {
    let Item::Type(id) = item else {
        return Vec::new();
    };
    let Type { origin, body, .. } = &model.types[*id];
    let TypeBody::Struct(fields) = body else {
        return Vec::new();
    };
    let marked = fields.iter().filter(|field| field.yes_or_no);
    let lines = marked.map(|field| format!("bool {} {}", origin.wire, field.origin.wire));
    lines.collect()
}

fn union_line(model: &Model<'_>, name: &str, union: &Union) -> String {
    let of = match union.discriminant {
        Discriminant::Int => "int",
        Discriminant::UnsignedInt => "unsigned int",
        Discriminant::Bool => "bool",
        Discriminant::Enum(id) => &model.types[id].origin.wire,
    };
    let arm = |label: &str, arm: &Arm| match &arm.declared {
        Some(declared) => format!("{label} {}", field(model, &arm.origin.wire, declared)),
        None => format!("{label} void"),
    };
    let variants = union.variants.iter();
    let variants = variants.map(|variant| arm(&variant.value.to_string(), &variant.arm));
    let default = union.default.iter().map(|default| arm("default", default));
    format!(
        "union {name} switch {of} {}: {}",
        union.discriminant_name,
        join(variants.chain(default))
    )
}

fn field(model: &Model<'_>, name: &str, declared: &Declared) -> String {
    let of = type_name(model, declared);
    match declared.shape {
        Shape::Plain => format!("{of} {name}"),
        Shape::Optional => format!("{of} *{name}"),
        Shape::Fixed(length) => format!("{of} {name}[{length}]"),
        Shape::Variable(limit) => format!("{of} {name}<{limit}>"),
    }
}

/// The type on the wire. Of a number with an annotation the generator knows the enum instead, and the declaration
/// still has what it is.
fn type_name<'a>(model: &'a Model<'_>, declared: &'a Declared) -> &'a str {
    let id = match declared.base {
        Base::Scalar(scalar) => return scalar_name(scalar),
        Base::String => return "string",
        Base::Opaque => return "opaque",
        Base::Type(id) | Base::Wide(id) => id,
    };
    let ty = &model.types[id];
    if model.modules[ty.module].name != "constants" {
        return &ty.origin.wire;
    }
    let (number, _) = declared.text.rsplit_once(' ').unwrap();
    let two_words = matches!(number, "hyper" | "unsigned hyper");
    let one_word = matches!(number, "int" | "unsigned int" | "char" | "unsigned char");
    assert!(one_word || two_words, "{}", declared.text);
    assert_eq!(
        two_words,
        matches!(declared.base, Base::Wide(_)),
        "{}",
        declared.text
    );
    number
}

fn scalar_name(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::Int => "int",
        Scalar::UnsignedInt => "unsigned int",
        Scalar::Hyper => "hyper",
        Scalar::UnsignedHyper => "unsigned hyper",
        Scalar::Float => "float",
        Scalar::Double => "double",
        Scalar::Bool => "bool",
        Scalar::Char => "char",
        Scalar::UnsignedChar => "unsigned char",
        Scalar::Short => "short",
        Scalar::UnsignedShort => "unsigned short",
    }
}

fn procedure_line(model: &Model<'_>, procedure: &Procedure) -> String {
    let message = |base: &Option<Base>| match base {
        None => "void",
        Some(Base::Type(id)) => &model.types[*id].origin.wire,
        Some(other) => panic!("{}: {other:?}", procedure.origin.wire),
    };
    let Procedure { number, origin, .. } = procedure;
    let argument = message(&procedure.argument);
    let mut line = if procedure.event {
        format!("event {number} {}({argument})", origin.wire)
    } else {
        let reply = message(&procedure.reply);
        format!("call {number} {}({argument}) -> {reply}", origin.wire)
    };
    let notes: Vec<String> = procedure.facts.iter().map(|fact| note(fact)).collect();
    let has = |start: &str| notes.iter().any(|note| note.starts_with(start));
    assert_eq!(procedure.stream, has("stream "), "{}", origin.wire);
    assert_eq!(procedure.fds_in, has("fds in "), "{}", origin.wire);
    assert_eq!(procedure.fds_out, has("fds out "), "{}", origin.wire);
    for note in notes {
        line.push_str(", ");
        line.push_str(&note);
    }
    line
}

/// The annotation that a sentence of rustdoc was made from.
fn note(fact: &str) -> String {
    match fact {
        "Opens a stream on which the server sends." => return "stream read".to_owned(),
        "Opens a stream on which the client sends." => return "stream write".to_owned(),
        "Opens a stream on which both sides send." => return "stream both".to_owned(),
        _ => {}
    }
    for (start, word) in [
        ("Descriptors with the call: ", "fds in"),
        ("Descriptors with the reply: ", "fds out"),
        ("Priority: ", "priority"),
        ("Since libvirt ", "since"),
    ] {
        if let Some(rest) = fact.strip_prefix(start) {
            let value = rest.trim_end_matches('.').replace(" to ", "..");
            return format!("{word} {value}");
        }
    }
    panic!("no annotation says {fact:?}");
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ")
}
