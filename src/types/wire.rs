//! How the structs and enums of `types` and `typed` are read from JSON and written as JSON, and the two macros that
//! declare them: `object!` and `names!`. Imports nothing of ours.
//!
//! Not serde's derive: for some hundred structs that keep unknown members it takes ten times as long to compile, and again
//! in each program that uses them. Here a struct is a list of names with references to its members, and the work
//! is done by functions that exist once.

use std::fmt;

use serde_json::{Map, Number, Value};

/// Something that is read from one JSON value and written as one.
pub(crate) trait Wire: fmt::Debug {
    /// Becomes what `value` says.
    fn read(&mut self, value: Value) -> Result<(), Fault>;

    /// What it is as JSON; `None` where the member is to be left out.
    fn write(&self) -> Option<Value>;

    /// Whether the member may be missing.
    fn may_be_absent(&self) -> bool {
        false
    }

    /// Whether `null` is a value like others. Elsewhere it means that a member is missing.
    fn may_be_null(&self) -> bool {
        false
    }

    /// What the schema would call it.
    #[cfg(all(test, feature = "typed"))]
    fn kind(&self) -> Kind;
}

/// A struct or an enum in the eyes of the tests that compare it with QEMU's schema.
#[cfg(all(test, feature = "typed"))]
pub(crate) enum Kind {
    Scalar(&'static str),
    Names(&'static [&'static str]),
    Optional(Box<Kind>),
    Array(Box<Kind>),
    Object(Vec<KindOf>),
}

/// A member's name with the way to its kind: a type may contain itself.
#[cfg(all(test, feature = "typed"))]
pub(crate) type KindOf = (&'static str, Box<dyn FnOnce() -> Kind>);

/// Why a JSON value is not what it should be.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Names and places from the outside in, such as `inserted.image.snapshots[2]`.
    path: String,
    reason: &'static str,
}

impl Fault {
    fn new(reason: &'static str) -> Self {
        Fault {
            path: String::new(),
            reason,
        }
    }

    fn within(mut self, outer: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path.insert_str(0, dot);
        self.path.insert_str(0, outer);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(self.reason)
        } else {
            write!(f, "member `{}`: {}", self.path, self.reason)
        }
    }
}

/// Reads an object: each of `members` takes its value, and `other` what is left.
pub(crate) fn read_object(
    members: &mut [(&'static str, &mut dyn Wire)],
    other: &mut Map<String, Value>,
    value: Value,
) -> Result<(), Fault> {
    let Value::Object(mut map) = value else {
        return Err(Fault::new("expected an object"));
    };
    for (name, member) in members {
        match map.remove(*name) {
            Some(value) => member.read(value).map_err(|fault| fault.within(name))?,
            None if member.may_be_absent() => {}
            None => return Err(Fault::new("is missing").within(name)),
        }
    }
    *other = map;
    Ok(())
}

/// Writes an object. A member wins over one of the same name in `other`.
pub(crate) fn write_object(
    members: &[(&'static str, &dyn Wire)],
    other: &Map<String, Value>,
) -> Option<Value> {
    let mut map = other.clone();
    for (name, member) in members {
        if let Some(value) = member.write() {
            map.insert((*name).to_owned(), value);
        }
    }
    Some(Value::Object(map))
}

macro_rules! scalar {
    ($($type:ty, $kind:literal, $pattern:pat => $read:expr, $expected:literal, $value:ident => $write:expr;)*) => {$(
        impl Wire for $type {
            fn read(&mut self, value: Value) -> Result<(), Fault> {
                let read = match value {
                    $pattern => $read,
                    _ => None,
                };
                *self = read.ok_or(Fault::new($expected))?;
                Ok(())
            }

            fn write(&self) -> Option<Value> {
                let $value = self;
                Some($write)
            }

            #[cfg(all(test, feature = "typed"))]
            fn kind(&self) -> Kind {
                Kind::Scalar($kind)
            }
        }
    )*};
}

scalar! {
    bool, "bool", Value::Bool(value) => Some(value), "expected a boolean", value => Value::Bool(*value);
    i64, "int", Value::Number(value) => value.as_i64(), "expected an integer of 64 bits", value => Value::from(*value);
    u64, "int", Value::Number(value) => value.as_u64(), "expected an unsigned integer of 64 bits",
        value => Value::from(*value);
    f64, "number", Value::Number(value) => value.as_f64(), "expected a number", value => number(*value);
    String, "str", Value::String(value) => Some(value), "expected a string", value => Value::from(value.as_str());
    Map<String, Value>, "any", Value::Object(value) => Some(value), "expected an object",
        value => Value::Object(value.clone());
}

impl Wire for Value {
    fn read(&mut self, value: Value) -> Result<(), Fault> {
        *self = value;
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(self.clone())
    }

    fn may_be_null(&self) -> bool {
        true
    }

    #[cfg(all(test, feature = "typed"))]
    fn kind(&self) -> Kind {
        Kind::Scalar("any")
    }
}

/// A floating point number as QEMU prints it: without a point where it is whole.
fn number(value: f64) -> Value {
    /// Up to here every whole number is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = value.fract() == 0.0 && value.abs() <= EXACT;
    if whole && !(value == 0.0 && value.is_sign_negative()) {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

impl<T: Wire + Default> Wire for Option<T> {
    fn read(&mut self, value: Value) -> Result<(), Fault> {
        let mut read = T::default();
        *self = if value.is_null() && !read.may_be_null() {
            None
        } else {
            read.read(value)?;
            Some(read)
        };
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        self.as_ref()?.write()
    }

    fn may_be_absent(&self) -> bool {
        true
    }

    #[cfg(all(test, feature = "typed"))]
    fn kind(&self) -> Kind {
        Kind::Optional(Box::new(T::default().kind()))
    }
}

impl<T: Wire + Default> Wire for Vec<T> {
    fn read(&mut self, value: Value) -> Result<(), Fault> {
        let Value::Array(values) = value else {
            return Err(Fault::new("expected an array"));
        };
        self.clear();
        for (place, value) in values.into_iter().enumerate() {
            let mut element = T::default();
            element
                .read(value)
                .map_err(|fault| fault.within(&format!("[{place}]")))?;
            self.push(element);
        }
        Ok(())
    }

    fn write(&self) -> Option<Value> {
        Some(self.iter().filter_map(Wire::write).collect())
    }

    #[cfg(all(test, feature = "typed"))]
    fn kind(&self) -> Kind {
        Kind::Array(Box::new(T::default().kind()))
    }
}

impl<T: Wire> Wire for Box<T> {
    fn read(&mut self, value: Value) -> Result<(), Fault> {
        (**self).read(value)
    }

    fn write(&self) -> Option<Value> {
        (**self).write()
    }

    #[cfg(all(test, feature = "typed"))]
    fn kind(&self) -> Kind {
        (**self).kind()
    }
}

/// Gives a type that is [`Wire`] and `Default` serde's two traits.
macro_rules! serde_by_wire {
    ($name:ident) => {
        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::types::wire::Wire::write(self).serialize(serializer)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                let value = ::serde_json::Value::deserialize(deserializer)?;
                let mut read = Self::default();
                $crate::types::wire::Wire::read(&mut read, value)
                    .map_err(::serde::de::Error::custom)?;
                Ok(read)
            }
        }
    };
}

/// Makes a struct [`Wire`], its members given as `member = "name"`.
macro_rules! wire_object {
    ($name:ident { $($field:ident: $type:ty = $wire:literal),* }) => {
        impl $crate::types::wire::Wire for $name {
            fn read(&mut self, value: ::serde_json::Value) -> Result<(), $crate::types::wire::Fault> {
                $crate::types::wire::read_object(
                    &mut [$(($wire, &mut self.$field)),*],
                    &mut self.other,
                    value,
                )
            }

            fn write(&self) -> Option<::serde_json::Value> {
                $crate::types::wire::write_object(&[$(($wire, &self.$field)),*], &self.other)
            }

            #[cfg(all(test, feature = "typed"))]
            fn kind(&self) -> $crate::types::wire::Kind {
                $crate::types::wire::Kind::Object(vec![
                    $(($wire, Box::new(|| $crate::types::wire::Wire::kind(&<$type>::default())))),*
                ])
            }
        }
        $crate::types::wire::serde_by_wire!($name);
    };
}

/// Declares structs that are JSON objects: each member with its type and its name in QMP. An `Option` may be missing.
/// What has no member here is in `other`, and is written again.
macro_rules! object {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty = $wire:literal,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
            /// Members that this crate does not know, as QEMU sent them.
            pub other: ::serde_json::Map<String, ::serde_json::Value>,
        }

        $crate::types::wire::wire_object!($name { $($field: $type = $wire),* });
    )*};
}

/// Declares enums that are JSON strings. A string that is none of theirs is `Other`, and is written again.
macro_rules! names {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $wire:literal,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
            /// One that this crate does not know, by its name.
            Other(String),
        }

        impl $name {
            /// The names in QMP of all variants but [`Other`](Self::Other).
            pub const KNOWN: &'static [&'static str] = &[$($wire),*];

            /// The name in QMP.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $wire,)*
                    Self::Other(name) => name,
                }
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                match name {
                    $($wire => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = ::std::convert::Infallible;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Ok(Self::from(name))
            }
        }

        /// [`Other`](Self::Other) with an empty name.
        impl Default for $name {
            fn default() -> Self {
                Self::Other(String::new())
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::types::wire::Wire for $name {
            fn read(&mut self, value: ::serde_json::Value) -> Result<(), $crate::types::wire::Fault> {
                let mut name = String::new();
                name.read(value)?;
                *self = Self::from(name.as_str());
                Ok(())
            }

            fn write(&self) -> Option<::serde_json::Value> {
                Some(::serde_json::Value::from(self.as_str()))
            }

            #[cfg(all(test, feature = "typed"))]
            fn kind(&self) -> $crate::types::wire::Kind {
                $crate::types::wire::Kind::Names(Self::KNOWN)
            }
        }
        $crate::types::wire::serde_by_wire!($name);
    )*};
}

pub(crate) use {names, object, serde_by_wire, wire_object};

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macros declare public types")]
mod tests {
    use serde_json::json;

    use super::*;

    object! {
        /// For the tests.
        pub struct Inner {
            /// A number.
            pub n: i64 = "n-1",
        }

        /// For the tests.
        pub struct Outer {
            /// Each of them.
            pub list: Vec<Inner> = "list",
            /// May be missing.
            pub maybe: Option<Inner> = "maybe",
            /// A floating point number.
            pub rate: f64 = "rate",
            /// An unsigned number.
            pub bits: u64 = "bits",
            /// A name.
            pub name: Colour = "name",
        }
    }

    names! {
        /// For the tests.
        pub enum Colour {
            /// Red.
            Red = "red",
        }
    }

    fn sample() -> Value {
        json!({"list": [{"n-1": 1}, {"n-1": i64::MIN, "x": [null]}], "rate": 0.5, "bits": u64::MAX, "name": "red",
            "new": {"deep": [1]}})
    }

    #[test]
    fn what_came_is_what_is_written() {
        let outer: Outer = serde_json::from_value(sample()).unwrap();
        assert_eq!(outer.list[1].n, i64::MIN);
        assert_eq!((outer.bits, outer.rate), (u64::MAX, 0.5));
        assert_eq!(outer.name, Colour::Red);
        assert_eq!(outer.other["new"], json!({"deep": [1]}));
        assert_eq!(serde_json::to_value(&outer).unwrap(), sample());
        let mut with = sample();
        with["maybe"] = json!({"n-1": 2});
        with["name"] = json!("infrared");
        let outer: Outer = serde_json::from_value(with.clone()).unwrap();
        assert_eq!(outer.name, Colour::Other("infrared".to_owned()));
        assert_eq!(serde_json::to_value(outer).unwrap(), with);
    }

    #[test]
    fn numbers_are_exact_and_whole_ones_have_no_point() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0.0"),
            (-3.0, "-3"),
            (0.1, "0.1"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (1e300, "1e+300"),
            (f64::NAN, "null"),
        ] {
            assert_eq!(super::number(number).to_string(), text);
        }
    }

    #[test]
    fn an_error_says_where() {
        for (pointer, value, error) in [
            (
                "/list/1/n-1",
                json!(1.0),
                "member `list[1].n-1`: expected an integer of 64 bits",
            ),
            (
                "/list/0/n-1",
                json!(u64::MAX),
                "member `list[0].n-1`: expected an integer of 64 bits",
            ),
            ("/list/0", json!([]), "member `list[0]`: expected an object"),
            ("/list", json!({}), "member `list`: expected an array"),
            ("/list/0", json!({}), "member `list[0].n-1`: is missing"),
            (
                "/bits",
                json!(-1),
                "member `bits`: expected an unsigned integer of 64 bits",
            ),
            ("/rate", json!("1"), "member `rate`: expected a number"),
            ("/name", json!(null), "member `name`: expected a string"),
            ("", json!(3), "expected an object"),
        ] {
            let mut damaged = sample();
            *damaged.pointer_mut(pointer).unwrap() = value;
            let found = serde_json::from_value::<Outer>(damaged).unwrap_err();
            assert_eq!(found.to_string(), error);
        }
    }

    #[test]
    fn a_member_wins_over_another_of_its_name() {
        let mut inner = Inner {
            n: 1,
            ..Inner::default()
        };
        inner.other.insert("n-1".to_owned(), json!("other"));
        assert_eq!(serde_json::to_value(inner).unwrap(), json!({"n-1": 1}));
    }

    #[test]
    fn names_go_both_ways() {
        assert_eq!("red".parse::<Colour>().unwrap(), Colour::Red);
        assert_eq!(Colour::from("blue").to_string(), "blue");
        assert_eq!(Colour::KNOWN, ["red"]);
        assert_eq!(Colour::default().as_str(), "");
    }
}
