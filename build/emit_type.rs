//! Model to Rust text: typedefs, enums, structs and unions, with their `Pack` and `Unpack`.

use std::fmt::Write as _;

use super::ast::Scalar;
use super::emit::{doc, doc_inside};
use super::layout;
use super::model::{
    Arm, Base, Declared, Discriminant, EnumValue, Field, Model, Shape, Type, TypeBody, TypeId,
    Union,
};
use super::names;

/// How types are named from where the text goes.
pub(crate) struct Types<'a> {
    pub(crate) model: &'a Model<'a>,
    /// The module that the text belongs to.
    pub(crate) module: usize,
    /// Leads to that module.
    pub(crate) home: &'a str,
    /// Leads to the module of modules.
    pub(crate) path: &'a str,
}

/// A value in the three ways that an expression may want it: a place, by value, by reference.
struct Operand<'a> {
    place: &'a str,
    value: &'a str,
    reference: &'a str,
}

/// `v`, a reference.
const V: Operand<'static> = Operand {
    place: "v",
    value: "*v",
    reference: "v",
};

impl Types<'_> {
    fn get(&self, id: TypeId) -> Option<&Type> {
        self.model.types.get(id)
    }

    /// `NonnullDomain` or `super::remote::NonnullDomain`, with `name` as the last part.
    fn qualified(&self, ty: &Type, name: &str) -> String {
        match self.model.modules.get(ty.module) {
            Some(module) if ty.module != self.module => {
                format!("{}{}::{name}", self.path, module.name)
            }
            _ => format!("{}{name}", self.home),
        }
    }

    /// The Rust type of one item.
    pub(crate) fn base(&self, base: Base) -> String {
        let name = match base {
            Base::Scalar(Scalar::Int) => "i32",
            Base::Scalar(Scalar::UnsignedInt) => "u32",
            Base::Scalar(Scalar::Hyper) => "i64",
            Base::Scalar(Scalar::UnsignedHyper) => "u64",
            Base::Scalar(Scalar::Float) => "f32",
            Base::Scalar(Scalar::Double) => "f64",
            Base::Scalar(Scalar::Bool) => "bool",
            Base::Scalar(Scalar::Char | Scalar::UnsignedChar) | Base::Opaque => "u8",
            Base::Scalar(Scalar::Short) => "i16",
            Base::Scalar(Scalar::UnsignedShort) => "u16",
            Base::String => "ByteString",
            Base::Type(id) => {
                return self
                    .get(id)
                    .map_or(String::new(), |ty| self.qualified(ty, &ty.rust));
            }
        };
        name.to_owned()
    }

    fn declared(&self, declared: &Declared) -> String {
        let base = self.base(declared.base);
        match (declared.base, declared.shape) {
            (Base::String, _) => base,
            (Base::Opaque, Shape::Variable(_)) => "Bytes".to_owned(),
            (_, Shape::Plain) => base,
            (_, Shape::Fixed(length)) => format!("[{base}; {length}]"),
            (_, Shape::Variable(_)) => format!("Vec<{base}>"),
            (_, Shape::Optional) => format!("Option<{base}>"),
        }
    }

    /// An expression that packs `operand` to `w`.
    fn pack(&self, declared: &Declared, operand: &Operand<'_>) -> String {
        let Operand {
            place, reference, ..
        } = operand;
        match (declared.base, declared.shape) {
            (Base::String, Shape::Variable(max)) => format!("w.string({reference}, {max})"),
            (Base::Opaque, Shape::Variable(max)) => format!("w.opaque({reference}, {max})"),
            (Base::Opaque, _) => format!("w.opaque_fixed({reference})"),
            (base, Shape::Plain) if layout::has_codec(&self.model.types, base) => {
                format!("{place}.pack(w)")
            }
            (base, Shape::Plain) => self.pack_item(base, operand),
            (base, Shape::Fixed(_)) => {
                format!("codec::pack_array({reference}, w, {})", self.packer(base))
            }
            (base, Shape::Variable(max)) => format!(
                "codec::pack_items({reference}, {max}, w, {})",
                self.packer(base)
            ),
            (base, Shape::Optional) => {
                format!("codec::pack_option({reference}, w, {})", self.packer(base))
            }
        }
    }

    /// An expression that packs one item.
    fn pack_item(&self, base: Base, operand: &Operand<'_>) -> String {
        let Operand {
            place,
            value,
            reference,
        } = operand;
        match (base, word_method(base)) {
            (_, Some("present")) => format!("{place}.pack(w)"),
            (_, Some(method)) => format!("w.{method}({value})"),
            (Base::Type(id), None) => match self.get(id) {
                Some(ty) => format!("{}({reference}, w)", self.function("pack", ty)),
                None => String::new(),
            },
            (_, None) => String::new(),
        }
    }

    /// A function that packs one item.
    fn packer(&self, base: Base) -> String {
        match (base, word_method(base)) {
            (_, Some("present")) => "Pack::pack".to_owned(),
            (_, Some(_)) => format!("|v, w| {}", self.pack_item(base, &V)),
            (Base::Type(id), None) => match self.get(id) {
                Some(ty) if !ty.layout.codec => self.function("pack", ty),
                _ => "Pack::pack".to_owned(),
            },
            (_, None) => "Pack::pack".to_owned(),
        }
    }

    /// A function that unpacks one item.
    fn unpacker(&self, base: Base) -> String {
        match (base, word_method(base)) {
            (_, Some(method)) => format!("Reader::{method}"),
            (Base::Type(id), None) => match self.get(id) {
                Some(ty) if !ty.layout.codec => self.function("unpack", ty),
                _ => "Unpack::unpack".to_owned(),
            },
            (_, None) => "Unpack::unpack".to_owned(),
        }
    }

    /// A function that unpacks all of it.
    fn unpack(&self, declared: &Declared) -> String {
        match (declared.base, declared.shape) {
            (base, Shape::Plain) => self.unpacker(base),
            (Base::Opaque, Shape::Fixed(_)) => "Reader::opaque_fixed".to_owned(),
            _ => format!("|r| {}", self.unpack_call(declared)),
        }
    }

    /// An expression that unpacks all of it from `r`.
    fn unpack_call(&self, declared: &Declared) -> String {
        match (declared.base, declared.shape) {
            (Base::String, Shape::Variable(max)) => format!("r.string({max})"),
            (Base::Opaque, Shape::Variable(max)) => format!("r.opaque({max})"),
            (Base::Opaque, _) => "r.opaque_fixed()".to_owned(),
            (base, Shape::Plain) => format!("{}(r)", self.unpacker(base)),
            (base, Shape::Fixed(_)) => format!("codec::unpack_array(r, {})", self.unpacker(base)),
            (base, Shape::Variable(max)) => {
                let least = layout::least_of_base(&self.model.types, base);
                format!(
                    "codec::unpack_items(r, {max}, {least}, {})",
                    self.unpacker(base)
                )
            }
            (base, Shape::Optional) => format!("codec::unpack_option(r, {})", self.unpacker(base)),
        }
    }

    /// The function that packs or unpacks a typedef.
    fn function(&self, verb: &str, ty: &Type) -> String {
        self.qualified(ty, &format!("{verb}_{}", names::snake(&ty.rust)))
    }
}

/// The method of Reader and Writer for the scalars that xdr-codec does not read as libvirt does.
fn word_method(base: Base) -> Option<&'static str> {
    match base {
        Base::Scalar(Scalar::Bool) => Some("present"),
        Base::Scalar(Scalar::Char) => Some("char"),
        Base::Scalar(Scalar::UnsignedChar) => Some("uchar"),
        Base::Scalar(Scalar::Short) => Some("short"),
        Base::Scalar(Scalar::UnsignedShort) => Some("ushort"),
        _ => None,
    }
}

/// One type of the module that `types` names without a path.
pub(crate) fn emit(out: &mut String, types: &Types<'_>, id: TypeId) {
    let Some(ty) = types.get(id) else { return };
    match &ty.body {
        TypeBody::Typedef(declared) => emit_typedef(out, types, ty, declared),
        TypeBody::Enum(values) => emit_enum(out, ty, values),
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

fn emit_enum(out: &mut String, ty: &Type, values: &[EnumValue]) {
    let Type { origin, rust, .. } = ty;
    doc(
        out,
        4,
        origin,
        &format!(
            "XDR `enum {}`, `{}`. Values it does not list are kept.",
            origin.wire, origin.place
        ),
    );
    let _ = writeln!(
        out,
        "    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]"
    );
    let _ = writeln!(out, "    pub struct {rust}(pub i32);\n\n    impl {rust} {{");
    for value in values {
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
        "        /// The wire name; `None` for a value that the definition does not list.\n",
    );
    out.push_str(
        "        pub const fn name(self) -> Option<&'static str> {\n            match self.0 {\n",
    );
    for value in values {
        let _ = writeln!(
            out,
            "                {} => Some(\"{}\"),",
            value.value, value.origin.wire
        );
    }
    out.push_str("                _ => None,\n            }\n        }\n    }\n");
    emit_impls(
        out,
        rust,
        "            self.0.pack(w)\n",
        "            Unpack::unpack(r).map(|(value, n)| (Self(value), n))\n",
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
    let _ = writeln!(out, "    {}\n    pub struct {rust} {{", derive(ty));
    let mut pack = String::from("            let mut n = 0;\n");
    let mut unpack = String::from("            let mut n = 0;\n            let value = Self {\n");
    for field in fields {
        let Field {
            rust,
            declared,
            origin,
        } = field;
        doc_inside(
            out,
            8,
            origin,
            &format!("XDR `{}`, `{}`.", declared.text, origin.place),
        );
        let _ = writeln!(out, "        pub {rust}: {},", types.declared(declared));

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
    pack.push_str("            Ok(n)\n");
    unpack.push_str("            };\n            Ok((value, n))\n");
    emit_impls(out, rust, &pack, &unpack);
}

fn derive(ty: &Type) -> &'static str {
    if ty.layout.float {
        "#[derive(Clone, Debug, PartialEq)]"
    } else {
        "#[derive(Clone, Debug, PartialEq, Eq)]"
    }
}

fn emit_impls(out: &mut String, rust: &str, pack: &str, unpack: &str) {
    let _ = write!(
        out,
        "
    impl Pack<Writer> for {rust} {{
        fn pack(&self, w: &mut Writer) -> Result<usize> {{
{pack}        }}
    }}

    impl Unpack<Reader> for {rust} {{
        fn unpack(r: &mut Reader) -> Result<(Self, usize)> {{
{unpack}        }}
    }}
"
    );
}

fn emit_union(out: &mut String, types: &Types<'_>, ty: &Type, union: &Union) {
    let Type { origin, rust, .. } = ty;
    let switch = Switch::new(types, ty, union);
    doc(
        out,
        4,
        origin,
        &format!("XDR `union {}`, `{}`.", origin.wire, origin.place),
    );
    out.push_str("    #[allow(clippy::enum_variant_names, clippy::large_enum_variant, reason = \"the wire decides\")]\n");
    let _ = writeln!(out, "    {}\n    pub enum {rust} {{", derive(ty));
    let mut pack = String::from("            match self {\n");
    let mut unpack = String::new();
    let _ = writeln!(
        unpack,
        "            let (d, n) = r.field({}, {})?;",
        switch.path, switch.unpacker
    );
    let _ = writeln!(unpack, "            match {} {{", switch.number("d"));
    for variant in &union.variants {
        let (value, label) = (variant.value, &variant.label);
        let Arm { origin, declared } = &variant.arm;
        let case = if *label == value.to_string() {
            format!("case {value}")
        } else {
            format!("`case {label}` ({value})")
        };
        let text = declared.as_ref().map_or("void", |declared| &declared.text);
        doc_inside(
            out,
            8,
            origin,
            &format!("XDR `{text}`, {case}, `{}`.", origin.place),
        );
        let name = &variant.rust;
        let sent = format!("{}.pack(w)", switch.literal(value));
        match declared {
            None => {
                let _ = writeln!(out, "        {name},");
                let _ = writeln!(pack, "                Self::{name} => {sent},");
                let _ = writeln!(unpack, "                {value} => Ok((Self::{name}, n)),");
            }
            Some(declared) => {
                let path = format!("\"{}\", \"{}\"", ty.origin.wire, origin.wire);
                let _ = writeln!(out, "        {name}({}),", types.declared(declared));
                let write = types.pack(declared, &V);
                let _ = writeln!(
                    pack,
                    "                Self::{name}(v) => Ok({sent}? + w.field({path}, |w| {write})?),"
                );
                let read = types.unpack(declared);
                let _ = writeln!(
                    unpack,
                    "                {value} => r.field({path}, {read}).map(|(v, m)| (Self::{name}(v), n + m)),"
                );
            }
        }
    }
    match &union.default {
        Some(arm) => {
            let names: Vec<String> = union
                .variants
                .iter()
                .map(|variant| variant.value.to_string())
                .collect();
            emit_default(out, &mut pack, &mut unpack, types, ty, &switch, arm, &names);
        }
        None => {
            let _ = writeln!(
                unpack,
                "                other => r.field({}, |r| Err(r.invalid_arm(i64::from(other)))),",
                switch.path
            );
        }
    }
    out.push_str("    }\n");
    pack.push_str("            }\n");
    unpack.push_str("            }\n");
    emit_impls(out, rust, &pack, &unpack);
}

/// How the discriminant of a union is spelled.
struct Switch {
    discriminant: Discriminant,
    /// Type and field for `field`.
    path: String,
    rust: String,
    unpacker: String,
}

impl Switch {
    fn new(types: &Types<'_>, ty: &Type, union: &Union) -> Self {
        let base = match union.discriminant {
            Discriminant::Int => Base::Scalar(Scalar::Int),
            Discriminant::UnsignedInt => Base::Scalar(Scalar::UnsignedInt),
            Discriminant::Bool => Base::Scalar(Scalar::Bool),
            Discriminant::Enum(id) => Base::Type(id),
        };
        let rust = types.base(base);
        // No field says which type is wanted, so the function does.
        let unpacker = match union.discriminant {
            Discriminant::Bool => types.unpacker(base),
            _ => format!("{rust}::unpack"),
        };
        let path = format!("\"{}\", \"{}\"", ty.origin.wire, union.discriminant_name);
        Self {
            discriminant: union.discriminant,
            path,
            rust,
            unpacker,
        }
    }

    /// The number of a discriminant.
    fn number(&self, discriminant: &str) -> String {
        match self.discriminant {
            Discriminant::Int | Discriminant::UnsignedInt => discriminant.to_owned(),
            Discriminant::Bool => format!("u8::from({discriminant})"),
            Discriminant::Enum(_) => format!("{discriminant}.0"),
        }
    }

    /// A number as it is packed.
    fn literal(&self, value: i64) -> String {
        let suffix = if self.discriminant == Discriminant::UnsignedInt {
            "u32"
        } else {
            "i32"
        };
        if value < 0 {
            format!("({value}_{suffix})")
        } else {
            format!("{value}_{suffix}")
        }
    }
}

/// The default arm keeps the discriminant that chose it.
#[allow(clippy::too_many_arguments, reason = "three texts grow side by side")]
fn emit_default(
    out: &mut String,
    pack: &mut String,
    unpack: &mut String,
    types: &Types<'_>,
    ty: &Type,
    switch: &Switch,
    arm: &Arm,
    cases: &[String],
) {
    let Arm { origin, declared } = arm;
    let text = declared.as_ref().map_or("void", |declared| &declared.text);
    doc_inside(
        out,
        8,
        origin,
        &format!("XDR `{text}`, `default`, `{}`.", origin.place),
    );
    let _ = writeln!(out, "        Default {{");
    let _ = writeln!(
        out,
        "            /// Any value without a case of its own; packing one that has a case fails."
    );
    let _ = writeln!(out, "            discriminant: {},", switch.rust);
    if !cases.is_empty() {
        let number = match switch.discriminant {
            Discriminant::Enum(_) => "discriminant.0",
            _ => "*discriminant",
        };
        let signed = match switch.discriminant {
            Discriminant::UnsignedInt => "discriminant.cast_signed()",
            _ => number,
        };
        let _ = writeln!(
            pack,
            "                Self::Default {{ discriminant, .. }} if matches!({number}, {}) => {{
                    Err(xdr_codec::Error::invalidcase({signed}))
                }}",
            cases.join(" | ")
        );
    }
    let path = format!("\"{}\", \"{}\"", ty.origin.wire, origin.wire);
    match declared {
        None => {
            let _ = writeln!(
                pack,
                "                Self::Default {{ discriminant }} => discriminant.pack(w),"
            );
            let _ = writeln!(
                unpack,
                "                _ => Ok((Self::Default {{ discriminant: d }}, n)),"
            );
        }
        Some(declared) => {
            let _ = writeln!(out, "            /// XDR `{}`.", origin.wire);
            let _ = writeln!(out, "            value: {},", types.declared(declared));
            let operand = Operand {
                place: "value",
                value: "*value",
                reference: "value",
            };
            let _ = writeln!(
                pack,
                "                Self::Default {{ discriminant, value }} => {{
                    Ok(discriminant.pack(w)? + w.field({path}, |w| {})?)
                }}",
                types.pack(declared, &operand)
            );
            let _ = writeln!(
                unpack,
                "                _ => {{
                    let default = |(value, m)| (Self::Default {{ discriminant: d, value }}, n + m);
                    r.field({path}, {}).map(default)
                }}",
                types.unpack(declared)
            );
        }
    }
    out.push_str("        },\n");
}
