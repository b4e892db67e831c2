//! What enums and sets of flags have in common: a number each, with names for some of its values. Imports nothing of ours.
//!
//! The generator writes the type, its constants and `NAMES`; the macros here add the rest, so that it is written once.

/// An enum of the protocol: any `i32`, of which `NAMES` has the known ones.
macro_rules! wire_enum {
    ($name:ident) => {
        impl $name {
            /// The wire name; `None` for a value that the definition does not list.
            #[inline]
            pub fn name(self) -> Option<&'static str> {
                let known = Self::NAMES.iter().find(|(value, _)| *value == self.0);
                known.map(|(_, name)| *name)
            }
        }

        /// The wire name, or the number where there is none.
        impl std::fmt::Debug for $name {
            #[inline]
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::xdr::newtypes::debug_enum(f, stringify!($name), self.0, self.name())
            }
        }

        impl xdr_codec::Pack<$crate::xdr::Writer> for $name {
            #[inline]
            fn pack(&self, w: &mut $crate::xdr::Writer) -> xdr_codec::Result<usize> {
                self.0.pack(w)
            }
        }

        impl xdr_codec::Unpack<$crate::xdr::Reader> for $name {
            #[inline]
            fn unpack(r: &mut $crate::xdr::Reader) -> xdr_codec::Result<(Self, usize)> {
                xdr_codec::Unpack::unpack(r).map(|(value, n)| (Self(value), n))
            }
        }
    };
}

/// A set of flags: the bits of a `u32`, of which `NAMES` has the known ones.
macro_rules! wire_flags {
    ($name:ident) => {
        impl $name {
            /// No flag.
            #[inline]
            pub const fn empty() -> Self {
                Self(0)
            }

            /// Whether no bit is set.
            #[inline]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Whether all bits of `flags` are set.
            #[inline]
            pub const fn contains(self, flags: Self) -> bool {
                self.0 & flags.0 == flags.0
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;

            #[inline]
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl std::ops::BitOrAssign for $name {
            #[inline]
            fn bitor_assign(&mut self, other: Self) {
                self.0 |= other.0;
            }
        }

        impl std::ops::BitAnd for $name {
            type Output = Self;

            #[inline]
            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }

        impl std::ops::Not for $name {
            type Output = Self;

            #[inline]
            fn not(self) -> Self {
                Self(!self.0)
            }
        }

        /// The wire names of the bits that are set, and the number of the others.
        impl std::fmt::Debug for $name {
            #[inline]
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::xdr::newtypes::debug_flags(f, stringify!($name), self.0, Self::NAMES)
            }
        }

        impl xdr_codec::Pack<$crate::xdr::Writer> for $name {
            #[inline]
            fn pack(&self, w: &mut $crate::xdr::Writer) -> xdr_codec::Result<usize> {
                self.0.pack(w)
            }
        }

        impl xdr_codec::Unpack<$crate::xdr::Reader> for $name {
            #[inline]
            fn unpack(r: &mut $crate::xdr::Reader) -> xdr_codec::Result<(Self, usize)> {
                xdr_codec::Unpack::unpack(r).map(|(value, n)| (Self(value), n))
            }
        }
    };
}

pub(crate) use {wire_enum, wire_flags};

use std::fmt;

/// `MessageStatus(VIR_NET_ERROR)`, or `MessageStatus(9)`.
pub(crate) fn debug_enum(
    f: &mut fmt::Formatter<'_>,
    type_name: &str,
    value: i32,
    name: Option<&str>,
) -> fmt::Result {
    match name {
        Some(name) => write!(f, "{type_name}({name})"),
        None => write!(f, "{type_name}({value})"),
    }
}

/// `DomainModificationImpact(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | 0x40)`. A name of several bits stands for
/// them where no other does.
pub(crate) fn debug_flags(
    f: &mut fmt::Formatter<'_>,
    type_name: &str,
    bits: u32,
    names: &[(u32, &str)],
) -> fmt::Result {
    write!(f, "{type_name}(")?;
    let mut rest = bits;
    let mut separator = "";
    for (value, name) in names {
        if *value != 0 && bits & value == *value && rest & value != 0 {
            write!(f, "{separator}{name}")?;
            rest &= !value;
            separator = " | ";
        }
    }
    if rest != 0 || bits == 0 {
        let nothing = names.iter().find(|(value, _)| *value == bits);
        match nothing {
            Some((_, name)) if bits == 0 => write!(f, "{separator}{name}")?,
            _ => write!(f, "{separator}{rest:#x}")?,
        }
    }
    f.write_str(")")
}

#[cfg(test)]
#[allow(unreachable_pub, reason = "generated types are public")]
mod tests {
    #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
    struct Colour(i32);

    impl Colour {
        const RED: Self = Self(1);
        const NAMES: &[(i32, &str)] = &[(1, "RED")];
    }

    wire_enum!(Colour);

    #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
    struct Rights(u32);

    impl Rights {
        const READ: Self = Self(1);
        const WRITE: Self = Self(2);
        const NAMES: &[(u32, &str)] =
            &[(0, "NONE"), (1, "READ"), (2, "WRITE"), (0x8000_0000, "ALL")];
    }

    wire_flags!(Rights);

    #[test]
    fn enums_show_their_names_and_keep_what_they_do_not_know() {
        assert_eq!(format!("{:?}", Colour::RED), "Colour(RED)");
        assert_eq!(format!("{:?}", Colour(9)), "Colour(9)");
        assert_eq!((Colour::RED.name(), Colour(9).name()), (Some("RED"), None));
    }

    #[test]
    fn flags_show_their_names_and_keep_what_they_do_not_know() {
        let mut both = Rights::READ | Rights::WRITE;
        assert!(both.contains(Rights::READ) && !Rights::READ.contains(both));
        assert_eq!(format!("{both:?}"), "Rights(READ | WRITE)");
        both |= Rights(0x40);
        assert_eq!(format!("{both:?}"), "Rights(READ | WRITE | 0x40)");
        assert_eq!(both & !Rights::WRITE, Rights(0x41));
        assert_eq!(format!("{:?}", Rights(0x8000_0000)), "Rights(ALL)");
        assert_eq!(format!("{:?}", Rights::empty()), "Rights(NONE)");
        assert!(Rights::default().is_empty());
    }
}
