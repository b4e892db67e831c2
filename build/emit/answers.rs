//! What methods give in place of a reply of several fields in which a number is a yes or no: the same struct, with `bool`
//! there. The struct of the reply keeps what the wire has.

use std::fmt::Write as _;

use super::super::model::{Base, Declared, Field, Model, Procedure, Shape, Type, TypeBody, TypeId};
use super::expressions::Types;
use super::methods::has_method;
use super::types::{derive, emit_debug};
use super::{doc, doc_inside};

/// The structs that methods give as another, by their ids: a flag for each type of the model.
pub(super) fn needed(model: &Model<'_>) -> Vec<bool> {
    let mut needed = vec![false; model.types.len()];
    let programs = model
        .modules
        .iter()
        .filter_map(|module| module.program.as_ref());
    let methods = programs
        .flat_map(|program| &program.procedures)
        .filter(|procedure| has_method(procedure));
    let mut open: Vec<TypeId> = methods.flat_map(|method| replies(model, method)).collect();
    while let Some(id) = open.pop() {
        if let Some(needed) = needed.get_mut(id)
            && !std::mem::replace(needed, true)
        {
            open.extend(parts(model, id));
        }
    }
    needed
}

/// What the method gives: the struct of the reply, or what is in it where it has one field.
fn replies(model: &Model<'_>, method: &Procedure) -> Vec<TypeId> {
    let Some(Base::Type(id)) = method.reply else {
        return Vec::new();
    };
    match fields(model, id) {
        [_] => parts(model, id),
        _ => converted(model, method.reply).into_iter().collect(),
    }
}

fn fields<'a>(model: &'a Model<'_>, id: TypeId) -> &'a [Field] {
    match model.types.get(id).map(|ty| &ty.body) {
        Some(TypeBody::Struct(fields)) => fields,
        _ => &[],
    }
}

fn parts(model: &Model<'_>, id: TypeId) -> Vec<TypeId> {
    let bases = fields(model, id).iter().map(|field| field.declared.base);
    bases
        .filter_map(|base| converted(model, Some(base)))
        .collect()
}

fn converted(model: &Model<'_>, base: Option<Base>) -> Option<TypeId> {
    match base {
        Some(Base::Type(id)) if model.types.get(id)?.layout.yes_or_no => Some(id),
        _ => None,
    }
}

fn name(ty: &Type) -> String {
    format!("{}Answer", ty.rust.strip_suffix("Ret").unwrap_or(&ty.rust))
}

/// The Rust type that stands for one of `base` in what methods give, where it is another than in the reply.
pub(super) fn base(types: &Types<'_>, base: Base) -> Option<String> {
    let id = converted(types.model, Some(base))?;
    let ty = types.get(id)?;
    Some(types.qualified(ty, &name(ty)))
}

/// The Rust type of a field in what methods give, and the expression that makes it of `place`, the field in the reply.
pub(super) fn field(types: &Types<'_>, field: &Field, place: &str) -> (String, String) {
    if field.yes_or_no {
        return ("bool".to_owned(), format!("{place} != 0"));
    }
    let Declared { shape, .. } = field.declared;
    match (base(types, field.declared.base), shape) {
        (None, _) => (types.plain(&field.declared), place.to_owned()),
        (Some(item), Shape::Plain) => (item, format!("{place}.into()")),
        (Some(item), Shape::Fixed(length)) => (
            format!("[{item}; {length}]"),
            format!("{place}.map(Into::into)"),
        ),
        (Some(item), Shape::Variable(_)) => (
            format!("Vec<{item}>"),
            format!("{place}.into_iter().map(Into::into).collect()"),
        ),
        (Some(item), Shape::Optional) => (
            format!("Option<{item}>"),
            format!("{place}.map(Into::into)"),
        ),
    }
}

/// The struct that methods give in place of `id`, and how it is made.
pub(super) fn emit_answer(out: &mut String, types: &Types<'_>, id: TypeId) {
    let Some(ty) = types.get(id) else { return };
    let (name, reply, fields) = (name(ty), &ty.rust, fields(types.model, id));
    let line = format!(
        "What methods give for [`{reply}`]: the same, with `bool` for what is a yes or no."
    );
    doc(out, 4, &ty.origin, &line);
    let secret = fields.iter().any(|field| field.secret);
    let derive = match secret {
        true => derive(ty).replace("Debug, ", ""),
        false => derive(ty).to_owned(),
    };
    let _ = writeln!(out, "    {derive}\n    pub struct {name} {{");
    let mut values = String::new();
    for item in fields {
        let (rust, origin) = (&item.rust, &item.origin);
        let (of, value) = field(types, item, &format!("reply.{rust}"));
        let line = format!("From XDR `{}`, `{}`.", item.declared.text, origin.place);
        doc_inside(out, 8, origin, &line);
        let _ = writeln!(out, "        pub {rust}: {of},");
        let _ = writeln!(values, "                {rust}: {value},");
    }
    out.push_str("    }\n");
    if secret {
        emit_debug(out, &name, fields);
    }
    let _ = write!(
        out,
        "
    impl From<{reply}> for {name} {{
        #[inline]
        fn from(reply: {reply}) -> Self {{
            Self {{
{values}            }}
        }}
    }}
"
    );
}
