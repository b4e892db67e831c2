//! What can be wrong with encoded data, and where in it. Imports nothing of ours.

use std::fmt;

/// The way from the outermost type to the field that failed, as wire names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(Vec<(&'static str, &'static str)>);

impl FieldPath {
    /// The path as pairs of type and field, outermost first.
    pub fn steps(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.0.iter().rev().copied()
    }

    /// Adds the next step out: errors travel from the inside.
    pub(super) fn push_outer(&mut self, type_name: &'static str, field: &'static str) {
        self.0.push((type_name, field));
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (type_name, field)) in self.steps().enumerate() {
            let separator = if index == 0 { "" } else { " > " };
            write!(f, "{separator}{type_name}.{field}")?;
        }
        if !self.0.is_empty() {
            f.write_str(": ")?;
        }
        Ok(())
    }
}

/// A value that could not be decoded. The call or event it came with fails; the connection lives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{fault}")]
#[non_exhaustive]
pub struct DecodeError {
    /// Where, as wire names.
    pub path: FieldPath,
    /// What is wrong there.
    pub fault: DecodeFault,
}

/// What is wrong with the encoded data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeFault {
    /// The data ends before the value does.
    #[error("{needed} bytes wanted, {left} left")]
    CutShort {
        /// Bytes that the next item takes at least.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A string, opaque or array is longer than its definition allows.
    #[error("length {length} is over the limit of {limit}")]
    TooLong {
        /// The length on the wire.
        length: usize,
        /// The limit in the .x file.
        limit: usize,
    },
    /// A string is not UTF-8.
    #[error("string is not UTF-8 after {valid_up_to} bytes")]
    NotUtf8 {
        /// Bytes that are valid.
        valid_up_to: usize,
    },
    /// A union's discriminant selects no arm.
    #[error("no union arm for {0}")]
    UnknownArm(i64),
    /// A reply with a status that no reply has, or a packet of a stream with one that has no meaning there.
    #[error("unexpected status {0}")]
    UnknownStatus(i32),
    /// Data of a stream after its end.
    #[error("data after the end of the stream")]
    AfterEnd,
    /// A hole in a stream that is of no length.
    #[error("hole of {0} bytes")]
    BadHole(i64),
    /// Other file descriptors came than were announced. What came is closed.
    #[error("{came} file descriptors came instead of {announced}")]
    Files {
        /// What the reply said.
        announced: usize,
        /// What the system gave us; less where this process may not open more.
        came: usize,
    },
    /// The codec refused it for a reason of its own.
    #[error("{0}")]
    Codec(String),
}

/// A value that its wire type cannot carry. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{fault}")]
#[non_exhaustive]
pub struct EncodeError {
    /// Where, as wire names.
    pub path: FieldPath,
    /// What is wrong there.
    pub fault: EncodeFault,
}

/// What is wrong with a value to encode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeFault {
    /// A string, opaque or array, or the packet as a whole, is longer than it may be.
    #[error("length {length} is over the limit of {limit}")]
    TooLong {
        /// Bytes, or items of an array.
        length: usize,
        /// The limit in the .x file, or of a packet.
        limit: usize,
    },
    /// The codec refused it for a reason of its own.
    #[error("{0}")]
    Codec(String),
}

impl EncodeError {
    /// For a value that is over a limit as a whole rather than in one of its fields.
    pub(crate) fn whole(length: usize, limit: usize) -> Self {
        EncodeError {
            path: FieldPath::default(),
            fault: EncodeFault::TooLong { length, limit },
        }
    }
}

impl DecodeError {
    /// For a reply whose header says neither ok nor error.
    pub(crate) fn status(status: i32) -> Self {
        DecodeError::whole(DecodeFault::UnknownStatus(status))
    }

    /// For a fault of a packet as a whole rather than of one of its fields.
    pub(crate) fn whole(fault: DecodeFault) -> Self {
        DecodeError {
            path: FieldPath::default(),
            fault,
        }
    }
}
