//! Values of every generated type, for the test that walks them all: an implementation of its trait `Sample` for each, and
//! a function that visits them. Written for `tests/every_type.rs`.

use std::fmt::Write as _;

use super::super::model::{Base, Declared, Model, Shape, Type, TypeBody, Union};
use super::HEAD;
use super::expressions::Types;

/// Leads from the test to the generated types.
const PROTOCOL: &str = "libvirt_qmp::protocol::";

/// The text of `samples.rs`.
pub(super) fn emit_samples(model: &Model<'_>) -> String {
    let types = Types {
        model,
        module: usize::MAX,
        home: "",
        path: PROTOCOL,
    };
    let mut out = HEAD.to_owned();
    let mut visits = String::new();
    for (id, ty) in model.types.iter().enumerate() {
        let name = types
            .base(Base::Type(id))
            .replace("crate::objects::", "libvirt_qmp::");
        let body = match &ty.body {
            TypeBody::Typedef(_) => continue,
            // Two definitions may have one type, and what is written by hand has its samples there.
            _ if ty.given.is_some() => continue,
            TypeBody::Enum(_) => "Self(g.value())".to_owned(),
            TypeBody::Struct(fields) => {
                let fields = fields
                    .iter()
                    .map(|field| format!("{}: {}", field.rust, sample(&types, &field.declared, 8)));
                format!("Self {{ {} }}", fields.collect::<Vec<_>>().join(", "))
            }
            TypeBody::Union(union) => arms(&types, union),
        };
        let _ = write!(
            out,
            "
impl Sample for {name} {{
    fn sample(g: &mut Source) -> Self {{
        {body}
    }}
}}
"
        );
        let _ = writeln!(
            visits,
            "    visit(&Shape::of::<{name}>(\"{}\"));",
            ty.origin.wire
        );
    }
    let _ = write!(
        out,
        "\n/// Every generated type.\nfn each(visit: &mut dyn FnMut(&Shape)) {{\n{visits}}}\n"
    );
    out
}

fn arms(types: &Types<'_>, union: &Union) -> String {
    let mut arms = String::new();
    let last = union.variants.len().saturating_sub(1);
    for (index, variant) in union.variants.iter().enumerate() {
        let pattern = match index {
            _ if index == last => "_".to_owned(),
            _ => index.to_string(),
        };
        let value = match &variant.arm.declared {
            Some(declared) => format!("({})", sample(types, declared, 8)),
            None => String::new(),
        };
        let _ = write!(arms, "{pattern} => Self::{}{value}, ", variant.rust);
    }
    format!("match g.below({}) {{ {arms}}}", union.variants.len())
}

/// An expression for a value of `declared`.
fn sample(types: &Types<'_>, declared: &Declared, depth: usize) -> String {
    let Declared { base, shape, .. } = declared;
    let one = match (base, shape) {
        (Base::String, Shape::Variable(max)) => return format!("g.text({max})"),
        (Base::Opaque, Shape::Variable(max)) => return format!("g.bytes({max})"),
        (Base::Opaque, _) => return "std::array::from_fn(|_| g.value())".to_owned(),
        (Base::Wide(_), _) => format!("{}(g.value())", types.base(*base)),
        (Base::Type(id), _) => match types.get(*id) {
            Some(Type {
                given: None,
                body: TypeBody::Typedef(inner),
                ..
            }) if depth > 0 => sample(types, inner, depth - 1),
            _ => "g.value()".to_owned(),
        },
        _ => "g.value()".to_owned(),
    };
    match shape {
        Shape::Plain => one,
        Shape::Optional => format!("g.option(|g| {one})"),
        Shape::Variable(max) => format!("g.items({max}, |g| {one})"),
        Shape::Fixed(_) => format!("std::array::from_fn(|_| {one})"),
    }
}
