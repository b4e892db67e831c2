//! Declarations: a type, a name, and what stands around the name.

use super::super::Problem;
use super::super::ast::{Declaration, Scalar, Shape, TypeKind, TypeName};
use super::super::doc::Doc;
use super::super::lex::{Kind, Token};
use super::Parser;

impl Parser {
    pub(super) fn declaration(&mut self, doc: Doc) -> Result<Declaration, Problem> {
        let first = self.next;
        let ty = self.type_name()?;
        let optional = self.eat_mark('*');
        let name = self.name("a name")?;
        let shape = if optional {
            Shape::Optional
        } else if self.eat_mark('[') {
            let length = self.value()?;
            self.mark(']')?;
            Shape::Fixed(length)
        } else if self.eat_mark('<') {
            let limit = if self.is_mark('>') {
                None
            } else {
                Some(self.value()?)
            };
            self.mark('>')?;
            Shape::Variable(limit)
        } else {
            Shape::Plain
        };
        let fits = match ty.kind {
            TypeKind::String => matches!(shape, Shape::Variable(_)),
            TypeKind::Opaque => matches!(shape, Shape::Fixed(_) | Shape::Variable(_)),
            TypeKind::Scalar(_) | TypeKind::Named(_) => true,
        };
        if !fits {
            let text = &name.text;
            let message = match ty.kind {
                TypeKind::String => {
                    format!("a string is written `string {text}<MAX>` or `string {text}<>`")
                }
                _ => format!(
                    "opaque data is written `opaque {text}[LENGTH]`, `opaque {text}<MAX>` or `opaque {text}<>`"
                ),
            };
            return Err(Problem::new(name.at, message));
        }
        let text = spell(self.tokens.get(first..self.next).unwrap_or_default());
        Ok(Declaration {
            doc,
            notes: Default::default(),
            name,
            ty,
            shape,
            text,
        })
    }

    pub(super) fn type_name(&mut self) -> Result<TypeName, Problem> {
        let at = self.at();
        let Kind::Word(word) = self.kind() else {
            return self.unexpected("a type");
        };
        let word = word.clone();
        let kind = match word.as_str() {
            "int" => TypeKind::Scalar(Scalar::Int),
            "hyper" => TypeKind::Scalar(Scalar::Hyper),
            "float" => TypeKind::Scalar(Scalar::Float),
            "double" => TypeKind::Scalar(Scalar::Double),
            "bool" => TypeKind::Scalar(Scalar::Bool),
            "char" => TypeKind::Scalar(Scalar::Char),
            "short" => TypeKind::Scalar(Scalar::Short),
            "string" => TypeKind::String,
            "opaque" => TypeKind::Opaque,
            "unsigned" => {
                self.advance();
                return Ok(TypeName {
                    kind: TypeKind::Scalar(self.unsigned()),
                    at,
                });
            }
            "quadruple" => {
                return Err(Problem::new(
                    at,
                    "quadruple is not supported: Rust has no type for it",
                ));
            }
            "void" => {
                return Err(Problem::new(
                    at,
                    "void stands only for an arm, an argument or a reply",
                ));
            }
            "enum" | "struct" | "union" => {
                let message = format!(
                    "a type is used by its name alone: define the {word} on its own, then drop `{word}`"
                );
                return Err(Problem::new(at, message));
            }
            _ => TypeKind::Named(self.name("a type")?.text),
        };
        if !matches!(kind, TypeKind::Named(_)) {
            self.advance();
        }
        Ok(TypeName { kind, at })
    }

    /// What follows `unsigned`, which may also stand alone.
    fn unsigned(&mut self) -> Scalar {
        let scalar = match self.kind() {
            Kind::Word(word) => match word.as_str() {
                "int" => Scalar::UnsignedInt,
                "hyper" => Scalar::UnsignedHyper,
                "char" => Scalar::UnsignedChar,
                "short" => Scalar::UnsignedShort,
                _ => return Scalar::UnsignedInt,
            },
            _ => return Scalar::UnsignedInt,
        };
        self.advance();
        scalar
    }
}

/// Tokens as text again, spaced as usual in XDR.
fn spell(tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens {
        match &token.kind {
            Kind::Mark(mark) => {
                if *mark == '*' {
                    text.push(' ');
                }
                text.push(*mark);
            }
            Kind::Word(_) | Kind::Number(_) => {
                if text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
                    text.push(' ');
                }
                match &token.kind {
                    Kind::Word(word) => text.push_str(word),
                    Kind::Number(number) => text.push_str(&number.to_string()),
                    _ => {}
                }
            }
            Kind::Doc(_) | Kind::End => {}
        }
    }
    text
}
