//! What a schema looks like from outside: small copies of a reference and a place in the tables of `super`. A type leads
//! to other types by name alone, so that types that contain themselves are no trouble.

use std::fmt;

use super::{
    CommandDef, EventDef, Kind, MemberDef, Span, Tables, TypeId, ValueDef, VariantDef, piece,
};

/// A command of the schema. Its `Display` is one line: `device_del { id: str } -> {}`.
#[derive(Clone, Copy)]
pub struct CommandInfo<'a> {
    pub(super) tables: &'a Tables,
    pub(super) def: &'a CommandDef,
}

impl<'a> CommandInfo<'a> {
    /// Its name.
    pub fn name(self) -> &'a str {
        self.tables.text(self.def.name)
    }

    /// The type of its `arguments`; an object without members where it takes none.
    pub fn argument_type(self) -> Type<'a> {
        self.tables.ty(self.def.arguments)
    }

    /// The arguments that it takes in every case. Where there are further ones that depend on one of these, as with
    /// `blockdev-add`, that one is [`ObjectType::tag`] of the [`argument_type`](Self::argument_type).
    pub fn arguments(self) -> impl Iterator<Item = Member<'a>> {
        let object = match self.argument_type().kind() {
            TypeKind::Object(object) => Some(object),
            _ => None,
        };
        object.into_iter().flat_map(ObjectType::members)
    }

    /// The one of [`arguments`](Self::arguments) with this name.
    pub fn argument(self, name: &str) -> Option<Member<'a>> {
        self.arguments().find(|member| member.name() == name)
    }

    /// Whether it takes arguments that the schema does not name: `device_add` takes any property of the device.
    pub fn is_free_form(self) -> bool {
        self.def.free_form
    }

    /// The type of what it returns; an object without members where that is nothing.
    pub fn return_type(self) -> Type<'a> {
        self.tables.ty(self.def.returns)
    }

    /// Whether it may be executed out of band (`allow-oob`).
    pub fn is_oob(self) -> bool {
        self.def.oob
    }

    /// What is special about it.
    pub fn features(self) -> Features<'a> {
        self.tables.features(self.def.features)
    }
}

/// An event of the schema. Its `Display` is one line: `DEVICE_DELETED { device?: str, path: str }`.
#[derive(Clone, Copy)]
pub struct EventInfo<'a> {
    pub(super) tables: &'a Tables,
    pub(super) def: &'a EventDef,
}

impl<'a> EventInfo<'a> {
    /// Its name.
    pub fn name(self) -> &'a str {
        self.tables.text(self.def.name)
    }

    /// The type of its `data`; an object without members where it has none.
    pub fn data_type(self) -> Type<'a> {
        self.tables.ty(self.def.data)
    }

    /// The members of its `data`.
    pub fn data(self) -> impl Iterator<Item = Member<'a>> {
        let object = match self.data_type().kind() {
            TypeKind::Object(object) => Some(object),
            _ => None,
        };
        object.into_iter().flat_map(ObjectType::members)
    }

    /// What is special about it.
    pub fn features(self) -> Features<'a> {
        self.tables.features(self.def.features)
    }
}

/// A type of the schema. Its `Display` is [`shown(1)`](Type::shown).
#[derive(Clone, Copy)]
pub struct Type<'a> {
    pub(super) tables: &'a Tables,
    pub(super) id: TypeId,
}

impl<'a> Type<'a> {
    /// Its name in this schema. Names of types that are not built in mean nothing outside of it.
    pub fn name(self) -> &'a str {
        let def = self.tables.types.get(self.id as usize);
        def.map_or("", |def| self.tables.text(def.name))
    }

    /// What it is.
    pub fn kind(self) -> TypeKind<'a> {
        let tables = self.tables;
        let Some(def) = tables.types.get(self.id as usize) else {
            return TypeKind::Unknown;
        };
        match def.kind {
            Kind::Unknown => TypeKind::Unknown,
            Kind::Builtin(builtin) => TypeKind::Builtin(builtin),
            Kind::Enum { values } => TypeKind::Enum(EnumType { tables, values }),
            Kind::Array { element } => TypeKind::Array(tables.ty(element)),
            Kind::Object {
                members,
                variants,
                tag,
            } => TypeKind::Object(ObjectType {
                tables,
                members,
                variants,
                tag,
            }),
            Kind::Alternate { branches } => TypeKind::Alternate(AlternateType { tables, branches }),
        }
    }

    /// What is special about it.
    pub fn features(self) -> Features<'a> {
        let def = self.tables.types.get(self.id as usize);
        let span = def.map_or_else(Span::default, |def| def.features);
        self.tables.features(span)
    }
}

/// The same type of the same schema.
impl PartialEq for Type<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.tables, other.tables) && self.id == other.id
    }
}

impl Eq for Type<'_> {}

/// The kinds of types (`SchemaMetaType`, without commands and events).
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum TypeKind<'a> {
    /// A type of JSON itself.
    Builtin(Builtin),
    /// One of some strings.
    Enum(EnumType<'a>),
    /// Any number of values of one type.
    Array(Type<'a>),
    /// Members with names.
    Object(ObjectType<'a>),
    /// A value of one of several types, told apart by what it is in JSON.
    Alternate(AlternateType<'a>),
    /// The schema does not say, or in a way that is not understood. Every value fits.
    Unknown,
}

/// The built-in types (`JSONType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Builtin {
    /// `string`.
    String,
    /// `number`: any number.
    Number,
    /// `int`: a number written without a point or an exponent.
    Int,
    /// `boolean`.
    Boolean,
    /// `null`.
    Null,
    /// `object`: any object.
    Object,
    /// `array`: any array.
    Array,
    /// `value`: anything.
    Value,
}

impl Builtin {
    pub(super) fn from_json_type(name: &str) -> Option<Builtin> {
        Some(match name {
            "string" => Builtin::String,
            "number" => Builtin::Number,
            "int" => Builtin::Int,
            "boolean" => Builtin::Boolean,
            "null" => Builtin::Null,
            "object" => Builtin::Object,
            "array" => Builtin::Array,
            "value" => Builtin::Value,
            _ => return None,
        })
    }

    /// Its name in QEMU's schema language, as [`Type::name`] has it: `str`, `int`, `number`, `bool`, `null`, `any`, and
    /// `object` and `array`, which no known schema uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Builtin::String => "str",
            Builtin::Number => "number",
            Builtin::Int => "int",
            Builtin::Boolean => "bool",
            Builtin::Null => "null",
            Builtin::Object => "object",
            Builtin::Array => "array",
            Builtin::Value => "any",
        }
    }
}

/// The values of an enum.
#[derive(Clone, Copy)]
pub struct EnumType<'a> {
    tables: &'a Tables,
    values: Span,
}

impl<'a> EnumType<'a> {
    /// Its values, in QEMU's order.
    pub fn values(self) -> impl ExactSizeIterator<Item = EnumValue<'a>> {
        let tables = self.tables;
        let values = piece(&tables.values, self.values).iter();
        values.map(move |def| EnumValue { tables, def })
    }

    /// The value of this name.
    pub fn value(self, name: &str) -> Option<EnumValue<'a>> {
        self.values().find(|value| value.name() == name)
    }
}

/// One value of an enum.
#[derive(Clone, Copy)]
pub struct EnumValue<'a> {
    tables: &'a Tables,
    def: &'a ValueDef,
}

impl<'a> EnumValue<'a> {
    /// The string.
    pub fn name(self) -> &'a str {
        self.tables.text(self.def.name)
    }

    /// What is special about it.
    pub fn features(self) -> Features<'a> {
        self.tables.features(self.def.features)
    }
}

/// The members of an object, and those that depend on the value of one of them.
#[derive(Clone, Copy)]
pub struct ObjectType<'a> {
    tables: &'a Tables,
    members: Span,
    variants: Span,
    tag: Option<u32>,
}

impl<'a> ObjectType<'a> {
    /// The members that it has in every case, in QEMU's order.
    pub fn members(self) -> impl ExactSizeIterator<Item = Member<'a>> {
        let tables = self.tables;
        let members = piece(&tables.members, self.members).iter();
        members.map(move |def| Member { tables, def })
    }

    /// The one of [`members`](Self::members) with this name.
    pub fn member(self, name: &str) -> Option<Member<'a>> {
        self.members().find(|member| member.name() == name)
    }

    /// The member whose value decides on further members. An object with [`variants`](Self::variants) but without a tag is
    /// one whose schema was not understood: it may have any member.
    pub fn tag(self) -> Option<Member<'a>> {
        let tables = self.tables;
        let def = tables.members.get(self.tag? as usize)?;
        Some(Member { tables, def })
    }

    /// The further members for each value of the [`tag`](Self::tag).
    pub fn variants(self) -> impl ExactSizeIterator<Item = Variant<'a>> {
        let tables = self.tables;
        let variants = piece(&tables.variants, self.variants).iter();
        variants.map(move |def| Variant { tables, def })
    }

    /// The one of [`variants`](Self::variants) for this value of the tag. A value without one has no further members.
    pub fn variant(self, case: &str) -> Option<Variant<'a>> {
        self.variants().find(|variant| variant.case() == case)
    }
}

/// A member of an object, such as an argument of a command.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    tables: &'a Tables,
    def: &'a MemberDef,
}

impl<'a> Member<'a> {
    /// Its name.
    pub fn name(self) -> &'a str {
        self.tables.text(self.def.name)
    }

    /// Its type.
    pub fn ty(self) -> Type<'a> {
        self.tables.ty(self.def.ty)
    }

    /// Whether it may be left out. What that means is not in the schema.
    pub fn is_optional(self) -> bool {
        self.def.optional
    }

    /// What is special about it.
    pub fn features(self) -> Features<'a> {
        self.tables.features(self.def.features)
    }
}

/// The further members of an object for one value of its tag.
#[derive(Clone, Copy)]
pub struct Variant<'a> {
    tables: &'a Tables,
    def: &'a VariantDef,
}

impl<'a> Variant<'a> {
    /// The value of the tag.
    pub fn case(self) -> &'a str {
        self.tables.text(self.def.case)
    }

    /// An object type with the further members; it may have a tag of its own.
    pub fn ty(self) -> Type<'a> {
        self.tables.ty(self.def.ty)
    }
}

/// The types of which a value may be one.
#[derive(Clone, Copy)]
pub struct AlternateType<'a> {
    tables: &'a Tables,
    branches: Span,
}

impl<'a> AlternateType<'a> {
    /// The types, in QEMU's order.
    pub fn types(self) -> impl ExactSizeIterator<Item = Type<'a>> {
        let tables = self.tables;
        let branches = piece(&tables.branches, self.branches).iter();
        branches.map(move |id| tables.ty(*id))
    }
}

/// What is special about a command, an event, a member or a value: words such as `deprecated`, some of which are made for
/// programs that want to know whether this QEMU can do something.
#[derive(Clone, Copy)]
pub struct Features<'a> {
    tables: &'a Tables,
    names: Span,
}

impl<'a> Features<'a> {
    /// All of them.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a str> {
        let tables = self.tables;
        let names = piece(&tables.features, self.names).iter();
        names.map(move |name| tables.text(*name))
    }

    /// Whether this one is among them.
    pub fn contains(self, name: &str) -> bool {
        self.iter().any(|feature| feature == name)
    }

    /// Whether a later QEMU will not have it (`deprecated`).
    pub fn is_deprecated(self) -> bool {
        self.contains("deprecated")
    }

    /// Whether a later QEMU may have changed it (`unstable`).
    pub fn is_unstable(self) -> bool {
        self.contains("unstable")
    }
}

impl fmt::Debug for Features<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Tables {
    fn ty(&self, id: TypeId) -> Type<'_> {
        Type { tables: self, id }
    }

    fn features(&self, names: Span) -> Features<'_> {
        Features {
            tables: self,
            names,
        }
    }
}
