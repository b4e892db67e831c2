//! Unions: labels, the names of variants, default arms.

use super::super::ast;
use super::super::model::{Arm, Base, Discriminant, Origin, TypeId, Union, Variant};
use super::super::names;
use super::symbols::{SIGNED, Symbol, UNSIGNED};
use super::{Names, Resolver};

impl Resolver<'_> {
    pub(super) fn union(&mut self, module: usize, union: ast::Union) -> Union {
        let discriminant = self.discriminant(&union.discriminant);
        let discriminant_name = union.discriminant.name.text;
        let mut variants: Vec<Variant> = Vec::new();
        let mut default: Option<Arm> = None;
        let mut seen = Names::new("arm");
        for mut arm in union.arms {
            let declared = arm.declaration.take().map(|declaration| {
                let name = declaration.name.clone();
                (name, self.declared(declaration))
            });
            let (field, declared) = declared.unzip();
            let single = arm.labels.len() == 1;
            for label in &arm.labels {
                let Some((value, label)) = self.label(discriminant, label) else {
                    continue;
                };
                if variants.iter().any(|variant| variant.value == value) {
                    self.problem(arm.at, format!("case {value} is there twice"));
                }
                let short = self.short_label(module, discriminant, &label);
                let rust = names::variant(
                    field
                        .as_ref()
                        .filter(|_| single)
                        .map_or(&short, |name| &name.text),
                );
                let origin = self.arm_origin(&arm, field.as_ref(), &label);
                seen.add(&rust, &origin, &mut self.problems);
                variants.push(Variant {
                    rust,
                    label,
                    value,
                    arm: Arm {
                        origin,
                        declared: declared.clone(),
                    },
                });
            }
            if arm.labels.is_empty() {
                let origin = self.arm_origin(&arm, field.as_ref(), "default");
                if default.is_some() {
                    self.problem(arm.at, "a union has one default arm");
                }
                if discriminant != Discriminant::Bool {
                    seen.add("Default", &origin, &mut self.problems);
                }
                default = Some(Arm { origin, declared });
            }
        }
        if discriminant == Discriminant::Bool
            && let Some(arm) = default.take()
        {
            self.bool_default(&mut variants, arm, &mut seen);
        }
        Union {
            discriminant,
            discriminant_name,
            variants,
            default,
        }
    }

    /// The default arm of a bool stands for the labels that are not there.
    fn bool_default(&mut self, variants: &mut Vec<Variant>, arm: Arm, seen: &mut Names<'_>) {
        let at = arm.origin.at;
        let before = variants.len();
        for (value, label) in [(0, "FALSE"), (1, "TRUE")] {
            if variants
                .iter()
                .take(before)
                .all(|variant| variant.value != value)
            {
                let rust = names::variant(label);
                seen.add(&rust, &arm.origin, &mut self.problems);
                variants.push(Variant {
                    rust,
                    label: label.to_owned(),
                    value,
                    arm: arm.clone(),
                });
            }
        }
        if variants.len() == before {
            self.problem(at, "no value is left for the default arm");
        }
    }

    fn discriminant(&mut self, declaration: &ast::Declaration) -> Discriminant {
        let plain = matches!(declaration.shape, ast::Shape::Plain);
        let found = match self.base(&declaration.ty) {
            Some(Base::Scalar(ast::Scalar::Int)) => Some(Discriminant::Int),
            Some(Base::Scalar(ast::Scalar::UnsignedInt)) => Some(Discriminant::UnsignedInt),
            Some(Base::Scalar(ast::Scalar::Bool)) => Some(Discriminant::Bool),
            Some(Base::Type(id)) if self.is_enum(id) => Some(Discriminant::Enum(id)),
            Some(_) => None,
            None => return Discriminant::Int,
        };
        found.filter(|_| plain).unwrap_or_else(|| {
            self.problem(
                declaration.ty.at,
                "a union switches on int, unsigned int, bool or an enum",
            );
            Discriminant::Int
        })
    }

    /// An enum has values, and the names of values say whose they are.
    pub(super) fn is_enum(&self, id: TypeId) -> bool {
        self.symbols
            .values()
            .any(|(symbol, _)| matches!(symbol, Symbol::Constant(_, Some(of)) if *of == id))
    }

    /// Value and spelling of a case label.
    fn label(&mut self, discriminant: Discriminant, label: &ast::Value) -> Option<(i64, String)> {
        let text = match label {
            ast::Value::Number(number, _) => number.to_string(),
            ast::Value::Name(name) => name.text.clone(),
        };
        let value = match discriminant {
            Discriminant::Int => self.number::<i32>(label, "a case", SIGNED).map(i64::from),
            Discriminant::UnsignedInt => {
                self.number::<u32>(label, "a case", UNSIGNED).map(i64::from)
            }
            Discriminant::Bool => {
                let value = self.number::<i64>(label, "a case", SIGNED)?;
                if !(0..=1).contains(&value) {
                    self.problem(
                        label.at(),
                        format!("a case of a bool is FALSE or TRUE, not {value}"),
                    );
                    return None;
                }
                return Some((value, if value == 0 { "FALSE" } else { "TRUE" }.to_owned()));
            }
            Discriminant::Enum(id) => {
                let symbol = self.symbols.get(&text).map(|(symbol, _)| *symbol);
                if !matches!(symbol, Some(Symbol::Constant(_, Some(of))) if of == id) {
                    self.problem(
                        label.at(),
                        format!("`{text}` is not a value of the enum that the union switches on"),
                    );
                    return None;
                }
                self.number::<i32>(label, "a case", SIGNED).map(i64::from)
            }
        };
        Some((value?, text))
    }

    /// A case label as the name of a variant: as the enum calls it, else without the prefix of the module.
    fn short_label(&self, module: usize, discriminant: Discriminant, label: &str) -> String {
        if let Some(number) = label.strip_prefix('-') {
            return format!("case_minus_{number}");
        }
        if label.starts_with(|c: char| c.is_ascii_digit()) {
            return format!("case_{label}");
        }
        match self
            .enum_names
            .get(label)
            .filter(|_| matches!(discriminant, Discriminant::Enum(_)))
        {
            Some(name) => name.clone(),
            None => self.strip(module, label).to_owned(),
        }
    }

    fn arm_origin(&self, arm: &ast::Arm, field: Option<&ast::Name>, label: &str) -> Origin {
        let wire = field.map_or(label, |name| name.text.as_str()).to_owned();
        Origin {
            wire,
            at: arm.at,
            place: self.place(arm.at),
            doc: arm.doc.lines.clone(),
        }
    }
}
