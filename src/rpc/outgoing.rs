//! Calls by description: arguments go straight into the packet, one after the other, without a struct that holds them.
//! Imports what calls are made of.

use std::os::fd::{BorrowedFd, OwnedFd};

use xdr_codec::{Pack, Result as XdrResult};

use super::seal;
use crate::connection::Encoded;
use crate::error::Error;
use crate::inflight::{Files, Ride};
use crate::packet::{MessageType, PREFIX};
use crate::protocol::Procedure;
use crate::transport;
use crate::xdr::Writer;

/// What a procedure is, as data.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) number: i32,
    pub(crate) name: &'static str,
    /// Wire name of its arguments, for what is said of a field that does not fit.
    pub(super) args: &'static str,
}

impl Spec {
    pub(crate) const fn of<P: Procedure>(args: &'static str) -> Self {
        Spec {
            program: P::PROGRAM,
            version: P::VERSION,
            number: P::NUMBER,
            name: P::NAME,
            args,
        }
    }
}

/// A call whose arguments are being written. The first that does not fit is what `finish` returns.
pub(crate) struct Outgoing {
    spec: &'static Spec,
    writer: Writer,
    failed: Option<xdr_codec::Error>,
    files: Option<Vec<OwnedFd>>,
}

impl Outgoing {
    /// A call without file descriptors.
    pub(crate) fn new(spec: &'static Spec) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; PREFIX]);
        Outgoing {
            spec,
            writer: Writer::new(bytes),
            failed: None,
            files: None,
        }
    }

    /// A call with copies of these descriptors, whose number stands before the arguments.
    pub(crate) fn with_files(spec: &'static Spec, files: &[BorrowedFd<'_>]) -> Result<Self, Error> {
        let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
        let copies = transport::duplicate(files).map_err(Error::files)?;
        let mut outgoing = Outgoing::new(spec);
        outgoing.files = Some(copies);
        outgoing.write(|w| count.pack(w));
        Ok(outgoing)
    }

    pub(crate) fn spec(&self) -> &'static Spec {
        self.spec
    }

    /// Anything that has an encoding of its own.
    pub(crate) fn put<T: Pack<Writer>>(&mut self, field: &'static str, value: &T) {
        self.field(field, |w| value.pack(w));
    }

    /// `T x<max>`.
    pub(crate) fn items<T: Pack<Writer>>(&mut self, field: &'static str, items: &[T], max: usize) {
        self.field(field, |w| {
            let mut size = w.count(items.len(), max)?;
            for item in items {
                size += item.pack(w)?;
            }
            Ok(size)
        });
    }

    /// `string x<max>`.
    pub(crate) fn text(&mut self, field: &'static str, text: &str, max: usize) {
        self.field(field, |w| w.string(text, max));
    }

    /// A string of at most `max` bytes, or none.
    pub(crate) fn optional_text(&mut self, field: &'static str, text: Option<&str>, max: usize) {
        self.field(field, |w| match text {
            Some(text) => Ok(1_u32.pack(w)? + w.string(text, max)?),
            None => 0_u32.pack(w),
        });
    }

    /// At most `most` strings of at most `max` bytes.
    pub(crate) fn texts(&mut self, field: &'static str, texts: &[&str], most: usize, max: usize) {
        self.field(field, |w| {
            let mut size = w.count(texts.len(), most)?;
            for text in texts {
                size += w.string(text, max)?;
            }
            Ok(size)
        });
    }

    /// `opaque x<max>`.
    pub(crate) fn bytes(&mut self, field: &'static str, bytes: &[u8], max: usize) {
        self.field(field, |w| w.opaque(bytes, max));
    }

    fn field(&mut self, field: &'static str, write: impl FnOnce(&mut Writer) -> XdrResult<usize>) {
        let args = self.spec.args;
        self.write(|w| w.field(args, field, write));
    }

    fn write(&mut self, write: impl FnOnce(&mut Writer) -> XdrResult<usize>) {
        if self.failed.is_none() {
            self.failed = write(&mut self.writer).err();
        }
    }

    /// The call, but for its serial.
    pub(crate) fn finish(self) -> Result<Encoded, Error> {
        let spec = self.spec;
        if let Some(error) = self.failed {
            let (_, source) = self.writer.into_error(error);
            return Err(Error::Encode {
                procedure: spec.name,
                source,
            });
        }
        let kind = match self.files {
            Some(_) => MessageType::CALL_WITH_FDS,
            None => MessageType::CALL,
        };
        let mut call = seal(spec, kind, self.writer.into_inner())?;
        call.files = self.files.map(|files| Files::new(files, Ride::After));
        Ok(call)
    }
}
