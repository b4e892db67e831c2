//! Calls that bring more than a reply: a stream, or file descriptors. For any procedure by its type.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::Libvirt;
use crate::connection::Limits;
use crate::error::{Error, Phase};
use crate::protocol::Procedure;
use crate::rpc::{self, Stream};
use crate::transport;
use crate::xdr;

impl Libvirt {
    /// Calls `P`, which opens a stream, such as `REMOTE_PROC_STORAGE_VOL_DOWNLOAD`. Returns its reply and the stream.
    ///
    /// What the stream then carries does not count as a call in flight here, however long it lasts. It lives as long as
    /// the connection, and keeps that open.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`], [`Error::Libvirt`], [`Error::Timeout`], [`Error::Disconnected`], [`Error::Decode`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before the call was sent sends nothing; after that the stream is aborted as soon as the daemon
    /// has opened it.
    pub async fn open_stream<P: Procedure>(
        &self,
        args: &P::Args,
    ) -> Result<(P::Reply, Stream), Error> {
        let mut call = rpc::encode::<P>(args)?;
        let options = self.options(Phase::Reply, Limits::Connection);
        let (payload, stream) = self
            .client
            .open_stream(&mut call, P::NAME, &options)
            .await?;
        let reply = xdr::decode(payload).map_err(|error| Error::xdr(P::NAME, error))?;
        Ok((reply, stream))
    }

    /// Calls `P` with file descriptors, at most 32, and returns those that its reply brings, such as
    /// `REMOTE_PROC_DOMAIN_OPEN_GRAPHICS_FD`. Which ones a procedure takes and brings is libvirt's to say; what it does not
    /// take it closes. Descriptors pass over a unix socket alone.
    ///
    /// `files` are duplicated and stay open here. What comes is close-on-exec, and belongs to the caller.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the connection is no unix socket or `files` are too many, and [`Error::Files`] where the
    /// system will not duplicate them; nothing was sent. [`Error::Decode`] also where the reply announced other
    /// descriptors than came, as happens to a process that may not open more. [`Error::Encode`], [`Error::Libvirt`],
    /// [`Error::Timeout`], [`Error::Disconnected`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before the call was sent sends nothing; after that the reply is discarded, and descriptors that
    /// it brings are closed.
    pub async fn call_with_files<P: Procedure>(
        &self,
        args: &P::Args,
        files: &[BorrowedFd<'_>],
    ) -> Result<(P::Reply, Vec<OwnedFd>), Error> {
        self.client.check_files(files.len())?;
        let mut call = match files {
            [] => rpc::encode::<P>(args)?,
            _ => {
                let files = transport::duplicate(files).map_err(Error::files)?;
                rpc::encode_with_files::<P>(args, files)?
            }
        };
        let options = self.options(Phase::Reply, Limits::Connection);
        let (payload, files) = self
            .client
            .send_for_files(&mut call, P::NAME, &options)
            .await?;
        let reply = xdr::decode(payload).map_err(|error| Error::xdr(P::NAME, error))?;
        Ok((reply, files))
    }
}
