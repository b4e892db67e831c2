//! Unions: enums whose variants are the arms, with their `Pack` and `Unpack`.

use std::fmt::Write as _;

use super::super::ast::Scalar;
use super::super::model::{Arm, Base, Declared, Discriminant, Type, Union, Variant};
use super::expressions::{Operand, Types, V};
use super::types::{derive, emit_impls};
use super::{doc, doc_inside};

pub(super) fn emit_union(out: &mut String, types: &Types<'_>, ty: &Type, union: &Union) {
    let Type { origin, rust, .. } = ty;
    let switch = Switch::new(types, ty, union);
    let mut text = Text {
        types,
        wire: &origin.wire,
        switch: &switch,
        variants: String::new(),
        pack: String::new(),
        unpack: String::new(),
    };
    for variant in &union.variants {
        text.variant(variant);
    }
    match &union.default {
        Some(arm) => text.default(arm, &union.variants),
        None => text.no_default(),
    }
    let Text {
        variants,
        pack,
        unpack,
        ..
    } = text;

    doc(
        out,
        4,
        origin,
        &format!("XDR `union {}`, `{}`.", origin.wire, origin.place),
    );
    out.push_str("    #[allow(clippy::enum_variant_names, clippy::large_enum_variant, reason = \"the wire decides\")]\n");
    let _ = write!(
        out,
        "    {}\n    pub enum {rust} {{\n{variants}    }}\n",
        derive(ty)
    );
    let pack = format!("            match self {{\n{pack}            }}\n");
    let unpack = format!(
        "            let (d, n) = r.field({}, {})?;\n            match {} {{\n{unpack}            }}\n",
        switch.path,
        switch.unpacker,
        switch.number("d"),
    );
    emit_impls(out, rust, &pack, &unpack);
}

/// How the discriminant is spelled.
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

/// The three texts that grow with each arm.
struct Text<'a> {
    types: &'a Types<'a>,
    /// Wire name of the union.
    wire: &'a str,
    switch: &'a Switch,
    variants: String,
    pack: String,
    unpack: String,
}

impl Text<'_> {
    fn variant(&mut self, variant: &Variant) {
        let Variant {
            rust,
            label,
            value,
            arm,
        } = variant;
        let case = if *label == value.to_string() {
            format!("case {value}")
        } else {
            format!("`case {label}` ({value})")
        };
        self.document(arm, &case);
        let sent = format!("{}.pack(w)", self.switch.literal(*value));
        let Some(declared) = &arm.declared else {
            let _ = writeln!(self.variants, "        {rust},");
            let _ = writeln!(self.pack, "                Self::{rust} => {sent},");
            let _ = writeln!(
                self.unpack,
                "                {value} => Ok((Self::{rust}, n)),"
            );
            return;
        };
        let (ty, write, read) = self.spell(arm, declared, &V);
        let _ = writeln!(self.variants, "        {rust}({ty}),");
        let _ = writeln!(
            self.pack,
            "                Self::{rust}(v) => Ok({sent}? + {write}?),"
        );
        let _ = writeln!(
            self.unpack,
            "                {value} => {read}.map(|(v, m)| (Self::{rust}(v), n + m)),"
        );
    }

    /// The default arm keeps the discriminant that chose it.
    fn default(&mut self, arm: &Arm, variants: &[Variant]) {
        self.document(arm, "`default`");
        let _ = write!(
            self.variants,
            "        Default {{
            /// Any value without a case of its own; packing one that has a case fails.
            discriminant: {},
",
            self.switch.rust
        );
        self.guard(variants);
        match &arm.declared {
            None => {
                self.pack.push_str(
                    "                Self::Default { discriminant } => discriminant.pack(w),\n",
                );
                self.unpack
                    .push_str("                _ => Ok((Self::Default { discriminant: d }, n)),\n");
            }
            Some(declared) => {
                let value = Operand {
                    place: "value",
                    value: "*value",
                    reference: "value",
                };
                let (ty, write, read) = self.spell(arm, declared, &value);
                let _ = write!(
                    self.variants,
                    "            /// XDR `{}`.\n            value: {ty},\n",
                    arm.origin.wire
                );
                let _ = writeln!(
                    self.pack,
                    "                Self::Default {{ discriminant, value }} => Ok(discriminant.pack(w)? + {write}?),"
                );
                let _ = write!(
                    self.unpack,
                    "                _ => {{
                    let default = |(value, m)| (Self::Default {{ discriminant: d, value }}, n + m);
                    {read}.map(default)
                }}
"
                );
            }
        }
        self.variants.push_str("        },\n");
    }

    /// Refuses to pack a default arm that would be read as another.
    fn guard(&mut self, variants: &[Variant]) {
        if variants.is_empty() {
            return;
        }
        let cases: Vec<String> = variants
            .iter()
            .map(|variant| variant.value.to_string())
            .collect();
        let (number, signed) = match self.switch.discriminant {
            Discriminant::Enum(_) => ("discriminant.0", "discriminant.0"),
            Discriminant::UnsignedInt => ("*discriminant", "discriminant.cast_signed()"),
            Discriminant::Int | Discriminant::Bool => ("*discriminant", "*discriminant"),
        };
        let _ = write!(
            self.pack,
            "                Self::Default {{ discriminant, .. }} if matches!({number}, {}) => {{
                    Err(xdr_codec::Error::invalidcase({signed}))
                }}
",
            cases.join(" | ")
        );
    }

    fn no_default(&mut self) {
        let path = &self.switch.path;
        let _ = writeln!(
            self.unpack,
            "                other => r.field({path}, |r| Err(r.invalid_arm(i64::from(other)))),"
        );
    }

    fn document(&mut self, arm: &Arm, case: &str) {
        let text = arm
            .declared
            .as_ref()
            .map_or("void", |declared| &declared.text);
        let line = format!("XDR `{text}`, {case}, `{}`.", arm.origin.place);
        doc_inside(&mut self.variants, 8, &arm.origin, &line);
    }

    /// Type of what an arm carries, and the expressions that pack and unpack it.
    fn spell(
        &self,
        arm: &Arm,
        declared: &Declared,
        operand: &Operand<'_>,
    ) -> (String, String, String) {
        let path = format!("\"{}\", \"{}\"", self.wire, arm.origin.wire);
        let pack = format!(
            "w.field({path}, |w| {})",
            self.types.pack(declared, operand)
        );
        let unpack = format!("r.field({path}, {})", self.types.unpack(declared));
        (self.types.plain(declared), pack, unpack)
    }
}
