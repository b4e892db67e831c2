//! Typedefs, enums and structs, with their `Pack` and `Unpack`.

use std::fmt::Write as _;

use super::super::model::{Declared, Enum, Field, Type, TypeBody, TypeId};
use super::expressions::{Operand, Types, V};
use super::unions::emit_union;
use super::{doc, doc_inside};

/// One type of the module that `types` names without a path.
pub(super) fn emit_type(out: &mut String, types: &Types<'_>, id: TypeId) {
    let Some(ty) = types.get(id).filter(|ty| ty.given.is_none()) else {
        return;
    };
    match &ty.body {
        TypeBody::Typedef(declared) => emit_typedef(out, types, ty, declared),
        TypeBody::Enum(item) => emit_enum(out, ty, item),
        TypeBody::Struct(fields) => emit_struct(out, types, ty, fields),
        TypeBody::Union(union) => emit_union(out, types, ty, union),
    }
}

fn emit_typedef(out: &mut String, types: &Types<'_>, ty: &Type, declared: &Declared) {
    let Type {
        origin,
        rust,
        layout,
        ..
    } = ty;
    doc(
        out,
        4,
        origin,
        &format!("XDR `typedef {}`, `{}`.", declared.text, origin.place),
    );
    let _ = writeln!(out, "    pub type {rust} = {};", types.declared(declared));
    if layout.used && !layout.codec {
        let _ = write!(
            out,
            "
    pub(super) fn {}(v: &{rust}, w: &mut Writer) -> Result<usize> {{
        {}
    }}

    pub(super) fn {}(r: &mut Reader) -> Result<({rust}, usize)> {{
        {}
    }}
",
            types.function("pack", ty),
            types.pack(declared, &V),
            types.function("unpack", ty),
            types.unpack_call(declared),
        );
    }
}

fn emit_enum(out: &mut String, ty: &Type, item: &Enum) {
    let Type { origin, rust, .. } = ty;
    let (kept, number, given) = match item.flags {
        true => ("Bits", "u32", "wire_flags"),
        false => ("Values", "i32", "wire_enum"),
    };
    let line = format!(
        "XDR `enum {}`, `{}`. {kept} it does not list are kept.",
        origin.wire, origin.place
    );
    doc(out, 4, origin, &line);
    let _ = writeln!(
        out,
        "    #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]"
    );
    let _ = writeln!(out, "    pub struct {rust}(pub {number});\n");
    let _ = writeln!(out, "    impl {rust} {{");
    for value in &item.values {
        doc_inside(
            out,
            8,
            &value.origin,
            &format!("XDR `{}`, `{}`.", value.origin.wire, value.origin.place),
        );
        let _ = writeln!(
            out,
            "        pub const {}: Self = Self({});\n",
            value.rust, value.value
        );
    }
    out.push_str(
        "        /// Numbers and wire names, in the order of the definition.\n        pub const NAMES: &[(",
    );
    let _ = writeln!(out, "{number}, &str)] = &[");
    for value in &item.values {
        let _ = writeln!(
            out,
            "            ({}, \"{}\"),",
            value.value, value.origin.wire
        );
    }
    let _ = write!(
        out,
        "        ];\n    }}\n\n    crate::xdr::{given}!({rust});\n"
    );
}

fn emit_struct(out: &mut String, types: &Types<'_>, ty: &Type, fields: &[Field]) {
    let Type { origin, rust, .. } = ty;
    doc(
        out,
        4,
        origin,
        &format!("XDR `struct {}`, `{}`.", origin.wire, origin.place),
    );
    let secret = fields.iter().any(|field| field.secret);
    let derive = if secret {
        derive(ty).replace("Debug, ", "")
    } else {
        derive(ty).to_owned()
    };
    let _ = writeln!(out, "    {derive}\n    pub struct {rust} {{");
    let mut pack = String::from("            let mut n = 0;\n");
    let mut unpack = String::from("            let mut n = 0;\n            let value = Self {\n");
    for field in fields {
        let Field {
            rust,
            declared,
            origin,
            ..
        } = field;
        let mut line = format!("XDR `{}`, `{}`.", declared.text, origin.place);
        if field.yes_or_no {
            line.push_str(" 0 is no, any other number yes.");
        }
        doc_inside(out, 8, origin, &line);
        let _ = writeln!(out, "        pub {rust}: {},", types.plain(declared));

        let path = format!("\"{}\", \"{}\"", ty.origin.wire, origin.wire);
        let (place, reference) = (format!("self.{rust}"), format!("&self.{rust}"));
        let operand = Operand {
            place: &place,
            value: &place,
            reference: &reference,
        };
        let _ = writeln!(
            pack,
            "            n += w.field({path}, |w| {})?;",
            types.pack(declared, &operand)
        );
        let read = types.unpack(declared);
        let _ = writeln!(
            unpack,
            "                {rust}: codec::take(&mut n, r.field({path}, {read})?),"
        );
    }
    out.push_str("    }\n");
    if secret {
        emit_debug(out, rust, fields);
    }
    pack.push_str("            Ok(n)\n");
    unpack.push_str("            };\n            Ok((value, n))\n");
    emit_impls(out, rust, &pack, &unpack);
}

/// `Debug` without what is secret.
pub(super) fn emit_debug(out: &mut String, rust: &str, fields: &[Field]) {
    let _ = write!(
        out,
        "
    impl std::fmt::Debug for {rust} {{
        #[inline]
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{
            f.debug_struct(\"{rust}\")
"
    );
    for field in fields {
        let name = field.rust.trim_start_matches("r#");
        let _ = match field.secret {
            true => writeln!(out, "                .field(\"{name}\", &\"secret\")"),
            false => writeln!(
                out,
                "                .field(\"{name}\", &self.{})",
                field.rust
            ),
        };
    }
    out.push_str("                .finish()\n        }\n    }\n");
}

/// `Eq` where no float stands in the way.
pub(super) fn derive(ty: &Type) -> &'static str {
    if ty.layout.float {
        "#[derive(Clone, Debug, PartialEq)]"
    } else {
        "#[derive(Clone, Debug, PartialEq, Eq)]"
    }
}

/// The bodies of the two functions as an implementation each.
pub(super) fn emit_impls(out: &mut String, rust: &str, pack: &str, unpack: &str) {
    let _ = write!(
        out,
        "
    impl Pack<Writer> for {rust} {{
        #[inline]
        fn pack(&self, w: &mut Writer) -> Result<usize> {{
{pack}        }}
    }}

    impl Unpack<Reader> for {rust} {{
        #[inline]
        fn unpack(r: &mut Reader) -> Result<(Self, usize)> {{
{unpack}        }}
    }}
"
    );
}
