//! What the parser makes of a file: definitions as they are written, names not looked up yet.

use super::At;
use super::doc::{Doc, FieldNotes};

/// One parsed source.
#[derive(Debug)]
pub(crate) struct File {
    /// Index of its module in the table.
    pub(crate) module: usize,
    pub(crate) definitions: Vec<Definition>,
}

/// An identifier and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) at: At,
}

/// A number, or the name of one.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Number(i64, At),
    Name(Name),
}

impl Value {
    pub(crate) fn at(&self) -> At {
        match self {
            Value::Number(_, at) => *at,
            Value::Name(name) => name.at,
        }
    }
}

/// A top-level item of the language.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) doc: Doc,
    pub(crate) name: Name,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Const(Value),
    Typedef(Declaration),
    Enum(Enum),
    Struct(Vec<Declaration>),
    Union(Union),
    Program(Program),
}

#[derive(Debug)]
pub(crate) struct Enum {
    /// Its values are bits.
    pub(crate) flags: bool,
    pub(crate) values: Vec<EnumValue>,
}

/// A type and a name, as in a struct field.
#[derive(Debug)]
pub(crate) struct Declaration {
    pub(crate) doc: Doc,
    /// Of a field of a struct; empty elsewhere.
    pub(crate) notes: FieldNotes,
    pub(crate) name: Name,
    pub(crate) ty: TypeName,
    pub(crate) shape: Shape,
    /// The declaration as XDR, for rustdoc: `remote_nonnull_domain domains<REMOTE_DOMAIN_LIST_MAX>`.
    pub(crate) text: String,
}

#[derive(Clone, Debug)]
pub(crate) struct TypeName {
    pub(crate) kind: TypeKind,
    pub(crate) at: At,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TypeKind {
    Scalar(Scalar),
    String,
    Opaque,
    Named(String),
}

/// The types of one or two words on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    Int,
    UnsignedInt,
    Hyper,
    UnsignedHyper,
    Float,
    Double,
    Bool,
    Char,
    UnsignedChar,
    Short,
    UnsignedShort,
}

/// What stands around the name of a declaration.
#[derive(Debug)]
pub(crate) enum Shape {
    Plain,
    Fixed(Value),
    Variable(Option<Value>),
    Optional,
}

#[derive(Debug)]
pub(crate) struct EnumValue {
    pub(crate) doc: Doc,
    pub(crate) name: Name,
    pub(crate) value: Option<Value>,
}

#[derive(Debug)]
pub(crate) struct Union {
    pub(crate) discriminant: Declaration,
    pub(crate) arms: Vec<Arm>,
}

#[derive(Debug)]
pub(crate) struct Arm {
    pub(crate) doc: Doc,
    /// Where the arm starts.
    pub(crate) at: At,
    /// Case labels; none for the default arm.
    pub(crate) labels: Vec<Value>,
    /// What it carries; nothing for `void`.
    pub(crate) declaration: Option<Declaration>,
}

#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) version_name: Name,
    pub(crate) version: Value,
    pub(crate) number: Value,
    pub(crate) procedures: Vec<Procedure>,
}

#[derive(Debug)]
pub(crate) struct Procedure {
    pub(crate) doc: Doc,
    pub(crate) name: Name,
    pub(crate) number: Value,
    /// Nothing for `void`.
    pub(crate) argument: Option<TypeName>,
    /// Nothing for `void`.
    pub(crate) reply: Option<TypeName>,
}
