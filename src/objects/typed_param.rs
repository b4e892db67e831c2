//! Typed parameters: named values, with which libvirt says what has no field of its own. Imports xdr only.

use xdr_codec::{Pack, Result, Unpack};

use super::STRING_MAX;
use crate::xdr::{Reader, Writer};

/// A named value (`remote_typed_param`, `admin_typed_param`). What names there are says libvirt's documentation of the call.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedParam {
    /// Its name, such as `vcpu_quota`; libvirt takes at most 79 bytes.
    pub field: String,
    /// Its value.
    pub value: TypedParamValue,
}

/// The value of a [`TypedParam`], of the type in which it was sent.
#[derive(Clone, Debug, PartialEq)]
pub enum TypedParamValue {
    /// `VIR_TYPED_PARAM_INT`.
    Int(i32),
    /// `VIR_TYPED_PARAM_UINT`.
    UInt(u32),
    /// `VIR_TYPED_PARAM_LLONG`.
    LLong(i64),
    /// `VIR_TYPED_PARAM_ULLONG`.
    ULLong(u64),
    /// `VIR_TYPED_PARAM_DOUBLE`.
    Double(f64),
    /// `VIR_TYPED_PARAM_BOOLEAN`.
    Boolean(bool),
    /// `VIR_TYPED_PARAM_STRING`.
    String(String),
}

impl TypedParam {
    /// A parameter by name and value.
    ///
    /// ```
    /// use libvirt_qmp::{TypedParam, TypedParamValue};
    ///
    /// let param = TypedParam::new("vcpu_quota", 25_000_i64);
    /// assert_eq!(param.value, TypedParamValue::LLong(25_000));
    /// ```
    pub fn new(field: impl Into<String>, value: impl Into<TypedParamValue>) -> Self {
        TypedParam {
            field: field.into(),
            value: value.into(),
        }
    }
}

impl TypedParamValue {
    /// The number, of whatever type of integer it is; none where it is something else, or below zero.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            TypedParamValue::Int(value) => u64::try_from(*value).ok(),
            TypedParamValue::UInt(value) => Some(u64::from(*value)),
            TypedParamValue::LLong(value) => u64::try_from(*value).ok(),
            TypedParamValue::ULLong(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, of whatever type of integer it is; none where it is something else, or too large.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            TypedParamValue::Int(value) => Some(i64::from(*value)),
            TypedParamValue::UInt(value) => Some(i64::from(*value)),
            TypedParamValue::LLong(value) => Some(*value),
            TypedParamValue::ULLong(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The text, where it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            TypedParamValue::String(value) => Some(value),
            _ => None,
        }
    }

    /// The truth value, where it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            TypedParamValue::Boolean(value) => Some(*value),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($ty:ty => $variant:ident),* $(,)?) => {$(
        impl From<$ty> for TypedParamValue {
            fn from(value: $ty) -> Self {
                TypedParamValue::$variant(value.into())
            }
        }
    )*};
}

from! {
    i32 => Int,
    u32 => UInt,
    i64 => LLong,
    u64 => ULLong,
    f64 => Double,
    bool => Boolean,
    String => String,
    &str => String,
}

impl Pack<Writer> for TypedParam {
    fn pack(&self, w: &mut Writer) -> Result<usize> {
        let name = w.field("remote_typed_param", "field", |w| {
            w.string(&self.field, STRING_MAX)
        })?;
        Ok(name + w.field("remote_typed_param", "value", |w| self.value.pack(w))?)
    }
}

impl Unpack<Reader> for TypedParam {
    fn unpack(r: &mut Reader) -> Result<(Self, usize)> {
        let (field, name) = r.field("remote_typed_param", "field", |r| r.text(STRING_MAX))?;
        let (value, size) = r.field("remote_typed_param", "value", TypedParamValue::unpack)?;
        Ok((TypedParam { field, value }, name + size))
    }
}

impl Pack<Writer> for TypedParamValue {
    fn pack(&self, w: &mut Writer) -> Result<usize> {
        let (kind, size) = match self {
            TypedParamValue::Int(value) => (1.pack(w)?, value.pack(w)?),
            TypedParamValue::UInt(value) => (2.pack(w)?, value.pack(w)?),
            TypedParamValue::LLong(value) => (3.pack(w)?, value.pack(w)?),
            TypedParamValue::ULLong(value) => (4.pack(w)?, value.pack(w)?),
            TypedParamValue::Double(value) => (5.pack(w)?, value.pack(w)?),
            TypedParamValue::Boolean(value) => (6.pack(w)?, i32::from(*value).pack(w)?),
            TypedParamValue::String(value) => (7.pack(w)?, w.string(value, STRING_MAX)?),
        };
        Ok(kind + size)
    }
}

impl Unpack<Reader> for TypedParamValue {
    fn unpack(r: &mut Reader) -> Result<(Self, usize)> {
        let (kind, before) = i32::unpack(r)?;
        let (value, size) = match kind {
            1 => sized(Unpack::unpack(r)?, TypedParamValue::Int),
            2 => sized(Unpack::unpack(r)?, TypedParamValue::UInt),
            3 => sized(Unpack::unpack(r)?, TypedParamValue::LLong),
            4 => sized(Unpack::unpack(r)?, TypedParamValue::ULLong),
            5 => sized(Unpack::unpack(r)?, TypedParamValue::Double),
            6 => sized(r.present()?, TypedParamValue::Boolean),
            7 => sized(r.text(STRING_MAX)?, TypedParamValue::String),
            other => return Err(r.invalid_arm(i64::from(other))),
        };
        Ok((value, before + size))
    }
}

fn sized<T>((value, size): (T, usize), of: fn(T) -> TypedParamValue) -> (TypedParamValue, usize) {
    (of(value), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::{decode, encode};

    #[test]
    fn each_type_keeps_its_number_and_its_value() {
        for (value, wire) in [
            (TypedParamValue::Int(-2), &b"\0\0\0\x01\xff\xff\xff\xfe"[..]),
            (TypedParamValue::UInt(2), b"\0\0\0\x02\0\0\0\x02"),
            (
                TypedParamValue::LLong(-1),
                b"\0\0\0\x03\xff\xff\xff\xff\xff\xff\xff\xff",
            ),
            (
                TypedParamValue::ULLong(1 << 32),
                b"\0\0\0\x04\0\0\0\x01\0\0\0\0",
            ),
            (
                TypedParamValue::Double(-2.0),
                b"\0\0\0\x05\xc0\0\0\0\0\0\0\0",
            ),
            (TypedParamValue::Boolean(true), b"\0\0\0\x06\0\0\0\x01"),
            (
                TypedParamValue::String("ab".into()),
                b"\0\0\0\x07\0\0\0\x02ab\0\0",
            ),
        ] {
            let mut bytes = Vec::new();
            encode(&value, &mut bytes).unwrap();
            assert_eq!(bytes, wire);
            assert_eq!(decode::<TypedParamValue>(bytes.into()).unwrap(), value);
        }
        assert!(decode::<TypedParamValue>((&b"\0\0\0\x08\0\0\0\0"[..]).into()).is_err());
    }
}
