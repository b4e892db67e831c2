//! The bounded input and output under the generated wire types (RFC 4506).
//!
//! xdr-codec gives the `Pack` and `Unpack` traits and the scalar codecs. Its helpers for strings, opaque data and
//! arrays trust the peer's lengths, so those go through [`Reader`] and [`Writer`] here, which check every length
//! against its limit and against the bytes that remain before anything is allocated. Imports nothing of ours.

mod error;
pub(crate) mod newtypes;
mod reader;
mod writer;

pub use error::{DecodeError, DecodeFault, EncodeError, EncodeFault, FieldPath};
pub(crate) use newtypes::{wire_enum, wire_flags};
pub use reader::Reader;
pub use writer::Writer;

use bytes::Bytes;
use xdr_codec::{Pack, Unpack};

/// Decodes one value from the start of `bytes`.
///
/// Bytes after the value are tolerated, and so are padding bytes other than zero: libvirt ignores both on either side,
/// and that is how its protocol grows.
///
/// # Errors
///
/// [`DecodeError`] names what is wrong and in which field. Nothing is allocated for a length the input cannot hold.
pub fn decode<T: Unpack<Reader>>(bytes: Bytes) -> Result<T, DecodeError> {
    decode_from(Reader::new(bytes))
}

/// As [`decode`], but what is not UTF-8 in a string becomes U+FFFD.
///
/// # Errors
///
/// The others of [`decode`].
pub(crate) fn decode_lossy<T: Unpack<Reader>>(bytes: Bytes) -> Result<T, DecodeError> {
    decode_from(Reader::lossy(bytes))
}

fn decode_from<T: Unpack<Reader>>(mut reader: Reader) -> Result<T, DecodeError> {
    match T::unpack(&mut reader) {
        Ok((value, _)) => Ok(value),
        Err(error) => Err(reader.into_error(error)),
    }
}

/// Encodes `value` behind what `out` already holds.
///
/// # Errors
///
/// [`EncodeError`] for a string, opaque or array over the limit of its definition; `out` is then as it was before.
pub fn encode<T: Pack<Writer> + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    let mut writer = Writer::new(std::mem::take(out));
    let packed = value.pack(&mut writer);
    match packed {
        Ok(_) => {
            *out = writer.into_inner();
            Ok(())
        }
        Err(error) => {
            let (mut bytes, error) = writer.into_error(error);
            bytes.truncate(start);
            *out = bytes;
            Err(error)
        }
    }
}

/// Bytes of zero padding after `len` bytes of opaque data: XDR items are multiples of four.
pub(crate) const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_up_to_four() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }

    #[test]
    fn encode_puts_the_buffer_back_after_a_failure() {
        struct TooLong;
        impl Pack<Writer> for TooLong {
            fn pack(&self, out: &mut Writer) -> xdr_codec::Result<usize> {
                out.field("too_long", "name", |out| {
                    7u32.pack(out)?;
                    out.string("abcdef", 5)
                })
            }
        }
        let mut out = b"before".to_vec();
        let error = encode(&TooLong, &mut out).unwrap_err();
        assert_eq!(out, b"before");
        assert_eq!(
            error.to_string(),
            "too_long.name: length 6 is over the limit of 5"
        );
    }
}
