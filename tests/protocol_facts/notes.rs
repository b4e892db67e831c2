//! Annotations of fields, held to what they speak of.

use std::collections::HashMap;

use super::super::generator::model::{Base, Field, Model, Shape, TypeBody};
use super::definitions;
use super::render::with_model;

fn fields<'a>(model: &'a Model<'_>, message: &Option<Base>) -> &'a [Field] {
    let Some(Base::Type(id)) = message else {
        return &[];
    };
    match &model.types[*id].body {
        TypeBody::Struct(fields) => fields,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_are_bits() {
    with_model(&definitions(), |model| {
        for ty in &model.types {
            let TypeBody::Enum(item) = &ty.body else {
                continue;
            };
            for value in item.values.iter().filter(|_| item.flags) {
                let bits = value.value.count_ones();
                assert!(bits <= 1, "{}: {bits} bits", value.origin.wire);
            }
        }
    });
}

/// `@flags` names an enum of bits, and `@enum` one of values.
#[test]
fn annotations_name_the_kind_of_enum_they_say() {
    let definitions = definitions();
    with_model(&definitions, |model| {
        let mut kinds = HashMap::new();
        for ty in &model.types {
            if let TypeBody::Enum(item) = &ty.body {
                kinds.insert(ty.origin.wire.as_str(), item.flags);
            }
        }
        let mut seen = [0, 0];
        for source in &definitions {
            for line in source.text.lines() {
                let note = line.trim_start_matches([' ', '*', '/']);
                let flags = note.strip_prefix("@flags ").map(|name| (name, true));
                let of = note.strip_prefix("@enum ").map(|name| (name, false));
                if let Some((name, flags)) = flags.or(of) {
                    assert_eq!(kinds.get(name), Some(&flags), "{}: {line}", source.path);
                    seen[usize::from(flags)] += 1;
                }
            }
        }
        let [values, bits] = seen;
        assert!(values > 60 && bits > 130, "{values} and {bits}");
    });
}

/// What a method asks for at most is what its reply can hold: less would cut lists short, more is refused.
#[test]
fn fixed_sizes_are_the_limits_of_the_replies() {
    with_model(&definitions(), |model| {
        let mut sizes = 0;
        let programs = model
            .modules
            .iter()
            .filter_map(|module| module.program.as_ref());
        for procedure in programs.flat_map(|program| &program.procedures) {
            for field in fields(model, &procedure.argument) {
                let name = field.origin.wire.as_str();
                if !(name.starts_with("max") || name == "nparams") {
                    continue;
                }
                let Some(size) = field.value else { continue };
                let mut reply = fields(model, &procedure.reply).iter();
                let holds = |field: &Field| match field.declared.shape {
                    Shape::Variable(limit) => i64::from(limit) == size,
                    _ => false,
                };
                assert!(reply.any(holds), "{}: {name}", procedure.origin.wire);
                sizes += 1;
            }
        }
        assert!(sizes > 25, "{sizes}");
    });
}

/// Servers leave strings out of typed parameters unless they are told that strings are welcome.
#[test]
fn strings_in_replies_are_asked_for() {
    const STRING_OKAY: Option<i64> = Some(4);
    with_model(&definitions(), |model| {
        let is = |base: Base, name: &str| match base {
            Base::Type(id) => model.types[id].origin.wire == name,
            _ => false,
        };
        let mut asked = 0;
        let programs = model
            .modules
            .iter()
            .filter_map(|module| module.program.as_ref());
        for procedure in programs.flat_map(|program| &program.procedures) {
            let reply = fields(model, &procedure.reply);
            let typed = |field: &Field| is(field.declared.base, "remote_typed_param");
            if !reply.iter().any(typed) {
                continue;
            }
            for flags in fields(model, &procedure.argument) {
                let sent = if is(flags.declared.base, "virTypedParameterFlags") {
                    flags.value
                } else if is(flags.declared.base, "virDomainModificationImpact") {
                    flags.adds
                } else {
                    continue;
                };
                assert_eq!(sent, STRING_OKAY, "{}", procedure.origin.wire);
                asked += 1;
            }
        }
        assert_eq!(asked, 12);
    });
}
