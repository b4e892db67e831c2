//! The wire types and procedures that build.rs generates from the definitions in `xdr/`. What stands for
//! libvirt's objects is in `objects`. Imports constants, objects and xdr.
//!
//! One module per program or set of types, under libvirt's own names: `remote_domain_get_info_ret`
//! is [`remote::DomainGetInfoRet`], `QEMU_PROC_DOMAIN_MONITOR_COMMAND` is
//! [`qemu::procedure::DomainMonitorCommand`]. Each item names its wire name and its place in `xdr/`.

use std::borrow::Cow;

use xdr_codec::{Pack, Unpack};

use crate::xdr::{Reader, Writer};

/// Enums of libvirt's C interface that values on the wire are of, from `xdr/constants/`.
///
/// Each is a struct around its number, so that what is newer than the definitions is kept as it came.
pub mod constants {
    pub use crate::constants::*;
}

/// A procedure that a client can call.
pub trait Procedure {
    /// Number of the program it belongs to.
    const PROGRAM: u32;
    /// Version of that program.
    const VERSION: u32;
    /// Number of the procedure.
    const NUMBER: i32;
    /// Wire name, such as `REMOTE_PROC_CONNECT_OPEN`.
    const NAME: &'static str;
    /// What the call carries.
    type Args: Pack<Writer>;
    /// What the reply carries.
    type Reply: Unpack<Reader>;
}

/// A message that only the server sends. It cannot be called.
pub trait Message {
    /// Number of the program it belongs to.
    const PROGRAM: u32;
    /// Version of that program.
    const VERSION: u32;
    /// Number of the message among the program's procedures.
    const NUMBER: i32;
    /// Wire name, such as `QEMU_PROC_DOMAIN_MONITOR_EVENT`.
    const NAME: &'static str;
    /// What the message carries.
    type Body: Unpack<Reader>;
}

/// The text in an array of C's `char`: what is before the first NUL, or all. For the few texts that libvirt sends so, such as
/// [`NodeGetInfoRet::model`](remote::NodeGetInfoRet::model). Bytes that are not UTF-8 become U+FFFD.
///
/// ```
/// assert_eq!(libvirt_qmp::protocol::c_text(b"x86_64\0\0"), "x86_64");
/// ```
pub fn c_text(chars: &[u8]) -> Cow<'_, str> {
    let end = chars.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(chars.get(..end.unwrap_or(chars.len())).unwrap_or(chars))
}

include!(concat!(env!("OUT_DIR"), "/protocol.rs"));

#[cfg(test)]
mod tests {
    use super::c_text;

    #[test]
    fn text_of_c_ends_at_its_first_nul() {
        for (chars, text) in [
            (&b""[..], ""),
            (b"\0", ""),
            (b"none", "none"),
            (b"x86_64\0\0", "x86_64"),
            (b"a\0b\0", "a"),
            (b"\xffz\0", "\u{fffd}z"),
        ] {
            assert_eq!(c_text(chars), text);
        }
    }
}
