//! What resolve makes of all files together: every name looked up, every number known. Input of `emit`.

use super::At;
use super::ast::Scalar;

/// The whole protocol.
#[derive(Debug)]
pub(crate) struct Model<'a> {
    /// Names of the modules, in the order of the table.
    pub(crate) modules: Vec<ModuleModel<'a>>,
    /// What each source is about, from the comment at its top.
    pub(crate) titles: Vec<String>,
    /// All types of all modules. A [`TypeId`] points in here.
    pub(crate) types: Vec<Type>,
}

#[derive(Debug)]
pub(crate) struct ModuleModel<'a> {
    pub(crate) name: &'a str,
    pub(crate) prefixes: &'a [&'a str],
    /// Paths of its sources.
    pub(crate) sources: Vec<&'a str>,
    pub(crate) items: Vec<Item>,
    pub(crate) program: Option<Program>,
}

/// What a module holds, in the order of the sources.
#[derive(Debug)]
pub(crate) enum Item {
    Const(Const),
    Type(TypeId),
}

pub(crate) type TypeId = usize;

/// Where the name of an item comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) wire: String,
    pub(crate) at: At,
    /// `xdr/qemu.x:12`.
    pub(crate) place: String,
    /// Lines of the doc comment.
    pub(crate) doc: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Const {
    pub(crate) origin: Origin,
    pub(crate) rust: String,
    pub(crate) value: i64,
}

#[derive(Debug)]
pub(crate) struct Type {
    pub(crate) origin: Origin,
    pub(crate) rust: String,
    pub(crate) module: usize,
    /// Path of the Rust type that stands for it, where that is written by hand.
    pub(crate) given: Option<String>,
    pub(crate) body: TypeBody,
    pub(crate) layout: Layout,
}

/// What follows from the body of a type and of the types in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout {
    /// Fewest bytes it takes on the wire, at most `u32::MAX`.
    pub(crate) least: u64,
    /// Holds a float somewhere, so it is not `Eq`.
    pub(crate) float: bool,
    /// Its Rust type has `Pack` and `Unpack`; the others are packed by functions of their own.
    pub(crate) codec: bool,
    /// A struct with a number that is a yes or no, in it or in a struct that it holds: methods give another in its place.
    pub(crate) yes_or_no: bool,
    /// Some struct or union uses it, itself or through other typedefs.
    pub(crate) used: bool,
}

#[derive(Debug)]
pub(crate) enum TypeBody {
    Typedef(Declared),
    Enum(Enum),
    Struct(Vec<Field>),
    Union(Union),
}

/// A type and how much of it.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) base: Base,
    pub(crate) shape: Shape,
    /// The declaration in XDR.
    pub(crate) text: String,
    pub(crate) at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Scalar(Scalar),
    String,
    Opaque,
    Type(TypeId),
    /// An enum whose number takes two words.
    Wide(TypeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    Fixed(u32),
    /// At most so many; `u32::MAX` where no limit is given.
    Variable(u32),
    Optional,
}

#[derive(Debug)]
pub(crate) struct Enum {
    /// Its values are bits, without a sign.
    pub(crate) flags: bool,
    pub(crate) values: Vec<EnumValue>,
}

#[derive(Debug)]
pub(crate) struct EnumValue {
    pub(crate) origin: Origin,
    pub(crate) rust: String,
    pub(crate) value: i64,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) origin: Origin,
    pub(crate) rust: String,
    pub(crate) declared: Declared,
    /// What a method always sends.
    pub(crate) value: Option<i64>,
    /// Bits that a method adds to what it is given.
    pub(crate) adds: Option<i64>,
    pub(crate) secret: bool,
    /// An `int` that methods take or give as a `bool`.
    pub(crate) yes_or_no: bool,
}

#[derive(Debug)]
pub(crate) struct Union {
    pub(crate) discriminant: Discriminant,
    /// Its wire name.
    pub(crate) discriminant_name: String,
    pub(crate) variants: Vec<Variant>,
    pub(crate) default: Option<Arm>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discriminant {
    Int,
    UnsignedInt,
    Bool,
    Enum(TypeId),
}

/// One case of a union.
#[derive(Debug)]
pub(crate) struct Variant {
    pub(crate) rust: String,
    /// `VIR_TYPED_PARAM_INT`, or the number.
    pub(crate) label: String,
    pub(crate) value: i64,
    pub(crate) arm: Arm,
}

#[derive(Clone, Debug)]
pub(crate) struct Arm {
    /// The wire name is that of the field; the label or `default` for a void arm.
    pub(crate) origin: Origin,
    pub(crate) declared: Option<Declared>,
}

#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) origin: Origin,
    pub(crate) number: u32,
    pub(crate) version_origin: Origin,
    pub(crate) version: u32,
    /// By number.
    pub(crate) procedures: Vec<Procedure>,
}

#[derive(Debug)]
pub(crate) struct Procedure {
    pub(crate) origin: Origin,
    pub(crate) rust: String,
    /// The same as the name of a method.
    pub(crate) method: String,
    pub(crate) number: i32,
    pub(crate) event: bool,
    /// Opens a stream.
    pub(crate) stream: bool,
    /// Descriptors may go along with the call.
    pub(crate) fds_in: bool,
    /// Descriptors may come with the reply.
    pub(crate) fds_out: bool,
    /// Facts from the annotations, as one sentence each.
    pub(crate) facts: Vec<String>,
    /// What the call or the event carries; nothing for `void`.
    pub(crate) argument: Option<Base>,
    pub(crate) reply: Option<Base>,
}
