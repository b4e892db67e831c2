//! Bounded input for `xdr_codec::Unpack`. Knows how many bytes remain, fails at the end of input instead of reading
//! nothing for ever, and hands out strings and opaque data as slices of the packet. Imports its own errors only.

use std::io;
use std::ops::Range;

use super::{DecodeError, DecodeFault, FieldPath, padding};
use bytes::Bytes;
use bytestring::ByteString;

/// Reads XDR items from a packet. The `usize` beside each result counts wire bytes, padding included.
#[derive(Debug)]
pub struct Reader {
    bytes: Bytes,
    position: usize,
    fault: Option<DecodeFault>,
    path: FieldPath,
    lossy: bool,
}

impl Reader {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Reader {
            bytes,
            position: 0,
            fault: None,
            path: FieldPath::default(),
            lossy: false,
        }
    }

    /// A reader that puts U+FFFD where a string is not UTF-8, in place of failing.
    pub(crate) fn lossy(bytes: Bytes) -> Self {
        Reader {
            lossy: true,
            ..Reader::new(bytes)
        }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// `string<max>`: a slice of the packet, checked to be UTF-8.
    ///
    /// # Errors
    ///
    /// Over `max` bytes, cut short, or not UTF-8.
    #[inline]
    pub fn string(&mut self, max: usize) -> xdr_codec::Result<(ByteString, usize)> {
        let (bytes, read) = self.opaque(max)?;
        if self.lossy {
            return Ok((String::from_utf8_lossy(&bytes).into_owned().into(), read));
        }
        match ByteString::try_from(bytes) {
            Ok(string) => Ok((string, read)),
            Err(error) => Err(self.fail(DecodeFault::NotUtf8 {
                valid_up_to: error.valid_up_to(),
            })),
        }
    }

    /// `string<max>`, copied out of the packet.
    ///
    /// # Errors
    ///
    /// Those of [`Reader::string`].
    #[inline]
    pub fn text(&mut self, max: usize) -> xdr_codec::Result<(String, usize)> {
        let (range, read) = self.opaque_range(max)?;
        let bytes = &self.bytes[range];
        match str::from_utf8(bytes) {
            Ok(text) => Ok((text.to_owned(), read)),
            Err(_) if self.lossy => Ok((String::from_utf8_lossy(bytes).into_owned(), read)),
            Err(error) => Err(self.fail(DecodeFault::NotUtf8 {
                valid_up_to: error.valid_up_to(),
            })),
        }
    }

    /// `opaque<max>`, copied out of the packet.
    ///
    /// # Errors
    ///
    /// Those of [`Reader::opaque`].
    pub fn bytes(&mut self, max: usize) -> xdr_codec::Result<(Vec<u8>, usize)> {
        let (range, read) = self.opaque_range(max)?;
        Ok((self.bytes[range].to_vec(), read))
    }

    /// `unsigned hyper` that holds no more than 32 bits: flags that were given room to grow.
    ///
    /// # Errors
    ///
    /// Cut short, or over 32 bits.
    pub fn wide(&mut self) -> xdr_codec::Result<(u32, usize)> {
        let [high, low] = [self.word()?, self.word()?];
        if high != 0 {
            return Err(self.fail(DecodeFault::Codec(format!(
                "flags {:#x} do not fit 32 bits",
                u64::from(high) << 32 | u64::from(low)
            ))));
        }
        Ok((low, 8))
    }

    /// `opaque<max>`: a slice of the packet.
    ///
    /// # Errors
    ///
    /// Over `max` bytes, or cut short.
    #[inline]
    pub fn opaque(&mut self, max: usize) -> xdr_codec::Result<(Bytes, usize)> {
        let (range, read) = self.opaque_range(max)?;
        Ok((self.bytes.slice(range), read))
    }

    /// `opaque[N]`.
    ///
    /// # Errors
    ///
    /// Cut short.
    #[inline]
    pub fn opaque_fixed<const N: usize>(&mut self) -> xdr_codec::Result<([u8; N], usize)> {
        let array = self.take::<N>()?;
        Ok((array, self.skip_padding(N)?))
    }

    /// The length word of an array: at most `max` items, each of at least `min_item` bytes on the wire.
    ///
    /// # Errors
    ///
    /// More than `max` items, or more than the bytes that remain can hold.
    #[inline]
    pub fn count(&mut self, max: usize, min_item: usize) -> xdr_codec::Result<(usize, usize)> {
        let length = self.word()? as usize;
        if length > max {
            return Err(self.fail(DecodeFault::TooLong { length, limit: max }));
        }
        let needed = length.saturating_mul(min_item);
        if needed > self.remaining() {
            return Err(self.cut_short(needed));
        }
        Ok((length, 4))
    }

    /// The word before an optional value, and a `bool`: anything but zero is true, as libvirt's decoder has it.
    ///
    /// # Errors
    ///
    /// Cut short.
    #[inline]
    pub fn present(&mut self) -> xdr_codec::Result<(bool, usize)> {
        Ok((self.word()? != 0, 4))
    }

    /// A C `char`: one word each, of which the low byte counts.
    ///
    /// # Errors
    ///
    /// Cut short.
    pub fn char(&mut self) -> xdr_codec::Result<(u8, usize)> {
        let [_, _, _, low] = self.take::<4>()?;
        Ok((low, 4))
    }

    /// A C `unsigned char`: one word each, of which the low byte counts.
    ///
    /// # Errors
    ///
    /// Cut short.
    pub fn uchar(&mut self) -> xdr_codec::Result<(u8, usize)> {
        self.char()
    }

    /// A C `short`: one word each, of which the low half counts.
    ///
    /// # Errors
    ///
    /// Cut short.
    pub fn short(&mut self) -> xdr_codec::Result<(i16, usize)> {
        let [_, _, high, low] = self.take::<4>()?;
        Ok((i16::from_be_bytes([high, low]), 4))
    }

    /// A C `unsigned short`: one word each, of which the low half counts.
    ///
    /// # Errors
    ///
    /// Cut short.
    pub fn ushort(&mut self) -> xdr_codec::Result<(u16, usize)> {
        let [_, _, high, low] = self.take::<4>()?;
        Ok((u16::from_be_bytes([high, low]), 4))
    }

    /// Notes that a union's discriminant selects no arm, and gives the error to return.
    pub fn invalid_arm(&mut self, value: i64) -> xdr_codec::Error {
        self.fail(DecodeFault::UnknownArm(value))
    }

    /// Runs `read` for one field; a failure inside it carries the field's name.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    #[inline]
    pub fn field<R>(
        &mut self,
        type_name: &'static str,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> xdr_codec::Result<R>,
    ) -> xdr_codec::Result<R> {
        let result = read(self);
        if result.is_err() {
            self.path.push_outer(type_name, field);
        }
        result
    }

    /// The error to report after `error` came out of an `unpack`.
    pub(super) fn into_error(self, error: xdr_codec::Error) -> DecodeError {
        let fault = self
            .fault
            .unwrap_or_else(|| DecodeFault::Codec(error.to_string()));
        DecodeError {
            path: self.path,
            fault,
        }
    }

    #[inline]
    fn word(&mut self) -> xdr_codec::Result<u32> {
        Ok(u32::from_be_bytes(self.take::<4>()?))
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> xdr_codec::Result<[u8; N]> {
        match self.bytes[self.position..].first_chunk::<N>() {
            Some(chunk) => {
                self.position += N;
                Ok(*chunk)
            }
            None => Err(self.cut_short(N)),
        }
    }

    #[inline]
    fn advance(&mut self, length: usize) -> xdr_codec::Result<()> {
        if length > self.remaining() {
            return Err(self.cut_short(length));
        }
        self.position += length;
        Ok(())
    }

    /// Where the bytes of an `opaque<max>` lie, which is read to its end.
    #[inline]
    fn opaque_range(&mut self, max: usize) -> xdr_codec::Result<(Range<usize>, usize)> {
        let (length, word) = self.count(max, 1)?;
        let start = self.position;
        self.advance(length)?;
        Ok((start..start + length, word + self.skip_padding(length)?))
    }

    /// Skips the padding after `length` bytes and returns the bytes that both took.
    #[inline]
    fn skip_padding(&mut self, length: usize) -> xdr_codec::Result<usize> {
        self.advance(padding(length))?;
        Ok(length + padding(length))
    }

    #[cold]
    fn cut_short(&mut self, needed: usize) -> xdr_codec::Error {
        let left = self.remaining();
        self.fail(DecodeFault::CutShort { needed, left })
    }

    /// Notes the fault; the error type of xdr-codec itself cannot carry it.
    #[cold]
    fn fail(&mut self, fault: DecodeFault) -> xdr_codec::Error {
        self.fault = Some(fault);
        io::Error::from(io::ErrorKind::InvalidData).into()
    }
}

/// The way xdr-codec's own scalar codecs read.
impl io::Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min(self.remaining());
        if length == 0 && !out.is_empty() {
            self.fault = Some(DecodeFault::CutShort {
                needed: out.len(),
                left: 0,
            });
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out[..length].copy_from_slice(&self.bytes[self.position..self.position + length]);
        self.position += length;
        Ok(length)
    }

    #[inline]
    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        let left = self.remaining();
        if out.len() > left {
            self.fault = Some(DecodeFault::CutShort {
                needed: out.len(),
                left,
            });
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.copy_from_slice(&self.bytes[self.position..self.position + out.len()]);
        self.position += out.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use xdr_codec::Unpack;

    use super::*;

    fn reader(bytes: &'static [u8]) -> Reader {
        Reader::new(Bytes::from_static(bytes))
    }

    fn fault<T>(
        mut reader: Reader,
        read: impl FnOnce(&mut Reader) -> xdr_codec::Result<T>,
    ) -> DecodeFault {
        match read(&mut reader) {
            Ok(_) => panic!("decoded"),
            Err(error) => reader.into_error(error).fault,
        }
    }

    // The three helpers of xdr-codec that trust a peer, as regression tests.

    #[test]
    fn fixed_opaque_at_end_of_input_fails_instead_of_looping() {
        let found = fault(reader(&[1, 2]), |r| r.opaque_fixed::<16>());
        assert_eq!(
            found,
            DecodeFault::CutShort {
                needed: 16,
                left: 2
            }
        );
        let mut empty = reader(&[]);
        assert_eq!(
            empty.read(&mut [0; 4]).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_huge_length_is_refused_before_anything_is_allocated() {
        let huge = &[0xff, 0xff, 0xff, 0xff];
        assert_eq!(
            fault(reader(huge), |r| r.count(usize::MAX, 8)),
            DecodeFault::CutShort {
                needed: 0xffff_ffff * 8,
                left: 0
            }
        );
        assert_eq!(
            fault(reader(huge), |r| r.opaque(1 << 22)),
            DecodeFault::TooLong {
                length: 0xffff_ffff,
                limit: 1 << 22
            }
        );
    }

    #[test]
    fn opaque_cut_short_is_an_error() {
        let found = fault(reader(&[0, 0, 0, 8, 1, 2, 3, 4]), |r| r.opaque(8));
        assert_eq!(found, DecodeFault::CutShort { needed: 8, left: 4 });
    }

    #[test]
    fn padding_must_be_there_but_may_hold_anything() {
        let (text, read) = reader(&[0, 0, 0, 2, b'h', b'i', 7, 9]).string(4).unwrap();
        assert_eq!((&*text, read), ("hi", 8));
        let found = fault(reader(&[0, 0, 0, 2, b'h', b'i', 0]), |r| r.string(4));
        assert_eq!(found, DecodeFault::CutShort { needed: 2, left: 1 });
    }

    #[test]
    fn strings_are_checked() {
        let found = fault(reader(&[0, 0, 0, 4, b'o', b'k', 0xff, b'x']), |r| {
            r.string(4)
        });
        assert_eq!(found, DecodeFault::NotUtf8 { valid_up_to: 2 });
    }

    #[test]
    fn a_lossy_reader_keeps_of_a_string_what_is_text() {
        let read = |bytes: &'static [u8]| {
            let mut reader = Reader::lossy(Bytes::from_static(bytes));
            reader
                .string(4)
                .map(|(text, read)| (text.to_string(), read))
        };
        for (bytes, text) in [
            (&b"\0\0\0\x04ok\xffx"[..], "ok\u{fffd}x"),
            // A character that was cut in two.
            (b"\0\0\0\x03ok\xc3\0", "ok\u{fffd}"),
            (b"\0\0\0\x02ok\0\0", "ok"),
        ] {
            assert_eq!(read(bytes).unwrap(), (text.to_owned(), 8));
        }
        for bytes in [&b"\0\0\0\x05hello\0\0\0"[..], b"\0\0\0\x04abc"] {
            assert!(read(bytes).is_err());
        }
    }

    #[test]
    fn small_c_types_take_a_word_each() {
        let mut words = reader(&[
            0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 200, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0xff, 0xff,
        ]);
        assert_eq!(words.char().unwrap(), (0xfe, 4));
        assert_eq!(words.uchar().unwrap(), (200, 4));
        assert_eq!(words.short().unwrap(), (-2, 4));
        assert_eq!(words.ushort().unwrap(), (0xffff, 4));
        assert_eq!(words.remaining(), 0);
    }

    #[test]
    fn any_word_but_zero_is_present() {
        let mut words = reader(&[0, 0, 0, 0, 0, 0, 0, 2]);
        assert!(!words.present().unwrap().0);
        assert!(words.present().unwrap().0);
    }

    #[test]
    fn failures_name_the_path_outermost_first() {
        let mut words = reader(&[0, 0]);
        let error = words
            .field("outer", "dom", |r| r.field("inner", "id", u32::unpack))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(
            words.into_error(error).to_string(),
            "outer.dom > inner.id: 4 bytes wanted, 2 left"
        );
    }
}
