//! Bounded output for `xdr_codec::Pack`: a growing buffer that checks limits. Imports its own errors only.

use std::io;

use xdr_codec::Pack;

use super::{EncodeError, EncodeFault, FieldPath, padding};

/// Appends XDR items to a buffer. Each method returns the bytes written, padding included.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    fault: Option<EncodeFault>,
    path: FieldPath,
}

impl Writer {
    /// A writer that appends to `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Writer {
            bytes,
            fault: None,
            path: FieldPath::default(),
        }
    }

    /// The buffer with all that was written.
    pub fn into_inner(self) -> Vec<u8> {
        self.bytes
    }

    /// `string<max>`.
    ///
    /// # Errors
    ///
    /// Over `max` bytes.
    pub fn string(&mut self, value: &str, max: usize) -> xdr_codec::Result<usize> {
        self.opaque(value.as_bytes(), max)
    }

    /// `opaque<max>`.
    ///
    /// # Errors
    ///
    /// Over `max` bytes.
    pub fn opaque(&mut self, value: &[u8], max: usize) -> xdr_codec::Result<usize> {
        Ok(self.count(value.len(), max)? + self.opaque_fixed(value)?)
    }

    /// `opaque[N]`.
    ///
    /// # Errors
    ///
    /// None; the result matches the other methods.
    pub fn opaque_fixed(&mut self, value: &[u8]) -> xdr_codec::Result<usize> {
        let pad = padding(value.len());
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(&[0; 3][..pad]);
        Ok(value.len() + pad)
    }

    /// The length word of an array of `length` items.
    ///
    /// # Errors
    ///
    /// Over `max` items, or over what a 32-bit word can hold.
    pub fn count(&mut self, length: usize, max: usize) -> xdr_codec::Result<usize> {
        match u32::try_from(length) {
            Ok(word) if length <= max => word.pack(self),
            _ => {
                let limit = max.min(u32::MAX as usize);
                self.fault = Some(EncodeFault::TooLong { length, limit });
                Err(io::Error::from(io::ErrorKind::InvalidInput).into())
            }
        }
    }

    /// A C `char`: a word, sign-extended as a C compiler on x86 does it.
    ///
    /// # Errors
    ///
    /// None; the result matches the other methods.
    pub fn char(&mut self, value: u8) -> xdr_codec::Result<usize> {
        i32::from(value.cast_signed()).pack(self)
    }

    /// A C `unsigned char`: a word.
    ///
    /// # Errors
    ///
    /// None; the result matches the other methods.
    pub fn uchar(&mut self, value: u8) -> xdr_codec::Result<usize> {
        u32::from(value).pack(self)
    }

    /// A C `short`: a word, sign-extended.
    ///
    /// # Errors
    ///
    /// None; the result matches the other methods.
    pub fn short(&mut self, value: i16) -> xdr_codec::Result<usize> {
        i32::from(value).pack(self)
    }

    /// A C `unsigned short`: a word.
    ///
    /// # Errors
    ///
    /// None; the result matches the other methods.
    pub fn ushort(&mut self, value: u16) -> xdr_codec::Result<usize> {
        u32::from(value).pack(self)
    }

    /// Runs `write` for one field; a failure inside it carries the field's name.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    #[inline]
    pub fn field<R>(
        &mut self,
        type_name: &'static str,
        field: &'static str,
        write: impl FnOnce(&mut Self) -> xdr_codec::Result<R>,
    ) -> xdr_codec::Result<R> {
        let result = write(self);
        if result.is_err() {
            self.path.push_outer(type_name, field);
        }
        result
    }

    /// The buffer, and the error to report after `error` came out of a `pack`.
    pub(crate) fn into_error(self, error: xdr_codec::Error) -> (Vec<u8>, EncodeError) {
        let fault = self
            .fault
            .unwrap_or_else(|| EncodeFault::Codec(error.to_string()));
        (
            self.bytes,
            EncodeError {
                path: self.path,
                fault,
            },
        )
    }
}

/// The way xdr-codec's own scalar codecs write.
impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Writer) -> xdr_codec::Result<usize>) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        let count = write(&mut writer).unwrap();
        let bytes = writer.into_inner();
        assert_eq!(count, bytes.len());
        bytes
    }

    #[test]
    fn strings_are_padded_with_zeros() {
        assert_eq!(written(|w| w.string("hello", 5)), b"\0\0\0\x05hello\0\0\0");
        assert_eq!(written(|w| w.string("", 0)), b"\0\0\0\0");
    }

    #[test]
    fn small_c_types_take_a_word_each() {
        assert_eq!(written(|w| w.char(0xfe)), [0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(written(|w| w.uchar(0xfe)), [0, 0, 0, 0xfe]);
        assert_eq!(written(|w| w.short(-2)), [0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(written(|w| w.ushort(0xfffe)), [0, 0, 0xff, 0xfe]);
    }

    #[test]
    fn over_long_values_write_nothing() {
        let mut writer = Writer::new(Vec::new());
        assert!(writer.opaque(&[0; 9], 8).is_err());
        assert!(writer.into_inner().is_empty());
    }
}
