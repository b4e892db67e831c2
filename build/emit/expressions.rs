//! How a declaration is spelled in Rust: its type, and the expressions that pack and unpack it.

use super::super::ast::Scalar;
use super::super::model::{Base, Declared, Model, Shape, Type, TypeBody, TypeId};
use super::super::{layout, names};

/// How types are named from where the text goes.
pub(super) struct Types<'a> {
    pub(super) model: &'a Model<'a>,
    /// The module that the text belongs to.
    pub(super) module: usize,
    /// Leads to that module.
    pub(super) home: &'a str,
    /// Leads to the module of modules.
    pub(super) path: &'a str,
}

/// A value in the three ways that an expression may want it: a place, by value, by reference.
pub(super) struct Operand<'a> {
    pub(super) place: &'a str,
    pub(super) value: &'a str,
    pub(super) reference: &'a str,
}

/// `v`, a reference.
pub(super) const V: Operand<'static> = Operand {
    place: "v",
    value: "*v",
    reference: "v",
};

impl Types<'_> {
    pub(super) fn get(&self, id: TypeId) -> Option<&Type> {
        self.model.types.get(id)
    }

    /// The Rust type of one item, through the names that a typedef gives it: `String`, not `NonnullString`.
    fn plain_base(&self, base: Base, depth: usize) -> String {
        if let Base::Type(id) = base
            && let Some(ty) = self.get(id)
            && ty.given.is_none()
            && let TypeBody::Typedef(declared) = &ty.body
            && depth > 0
        {
            return self.plain_to(declared, depth - 1);
        }
        self.base(base)
    }

    /// The Rust type of a declaration, through typedefs. A long chain of them is not followed to its end.
    pub(super) fn plain(&self, declared: &Declared) -> String {
        self.plain_to(declared, 4)
    }

    fn plain_to(&self, declared: &Declared, depth: usize) -> String {
        shaped(declared, self.plain_base(declared.base, depth))
    }

    /// `NonnullDomain` or `super::remote::NonnullDomain`, with `name` as the last part.
    pub(super) fn qualified(&self, ty: &Type, name: &str) -> String {
        match self.model.modules.get(ty.module) {
            Some(module) if ty.module != self.module => {
                format!("{}{}::{name}", self.path, module.name)
            }
            _ => format!("{}{name}", self.home),
        }
    }

    /// The Rust type of one item.
    pub(super) fn base(&self, base: Base) -> String {
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
            Base::String => "String",
            Base::Type(id) | Base::Wide(id) => {
                let Some(ty) = self.get(id) else {
                    return String::new();
                };
                return match &ty.given {
                    Some(path) => path.clone(),
                    None => self.qualified(ty, &ty.rust),
                };
            }
        };
        name.to_owned()
    }

    pub(super) fn declared(&self, declared: &Declared) -> String {
        shaped(declared, self.base(declared.base))
    }

    /// An expression that packs `operand` to `w`.
    pub(super) fn pack(&self, declared: &Declared, operand: &Operand<'_>) -> String {
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
            (Base::Wide(_), None) => format!("u64::from({place}.0).pack(w)"),
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
    pub(super) fn unpacker(&self, base: Base) -> String {
        match (base, word_method(base)) {
            (_, Some(method)) => format!("Reader::{method}"),
            (Base::Wide(_), None) => {
                format!("|r| r.wide().map(|(v, n)| ({}(v), n))", self.base(base))
            }
            (Base::Type(id), None) => match self.get(id) {
                Some(ty) if !ty.layout.codec => self.function("unpack", ty),
                _ => "Unpack::unpack".to_owned(),
            },
            (_, None) => "Unpack::unpack".to_owned(),
        }
    }

    /// A function that unpacks all of it.
    pub(super) fn unpack(&self, declared: &Declared) -> String {
        match (declared.base, declared.shape) {
            (base, Shape::Plain) => self.unpacker(base),
            (Base::Opaque, Shape::Fixed(_)) => "Reader::opaque_fixed".to_owned(),
            _ => format!("|r| {}", self.unpack_call(declared)),
        }
    }

    /// An expression that unpacks all of it from `r`.
    pub(super) fn unpack_call(&self, declared: &Declared) -> String {
        match (declared.base, declared.shape) {
            (Base::String, Shape::Variable(max)) => format!("r.text({max})"),
            (Base::Opaque, Shape::Variable(max)) => format!("r.bytes({max})"),
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
    pub(super) fn function(&self, verb: &str, ty: &Type) -> String {
        self.qualified(ty, &format!("{verb}_{}", names::snake(&ty.rust)))
    }
}

/// The Rust type of so much of `base`.
fn shaped(declared: &Declared, base: String) -> String {
    match (declared.base, declared.shape) {
        (Base::String, _) | (_, Shape::Plain) => base,
        (_, Shape::Fixed(length)) => format!("[{base}; {length}]"),
        (_, Shape::Variable(_)) => format!("Vec<{base}>"),
        (_, Shape::Optional) => format!("Option<{base}>"),
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
