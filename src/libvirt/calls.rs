//! Calling any procedure: by description for the generated methods, by its type, or by its numbers alone. May import rpc,
//! connection, error, protocol and xdr.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xdr_codec::Unpack;

use super::Libvirt;
use crate::config::Config;
use crate::connection::Limits;
use crate::error::{Error, Phase};
use crate::protocol::Procedure;
use crate::rpc::{self, Outgoing, Spec, Stream};
use crate::xdr::{self, Reader};

/// # Any procedure
///
/// Each procedure of libvirt has a method here, named as the procedure is: `REMOTE_PROC_DOMAIN_GET_INFO` is
/// [`domain_get_info`](Libvirt::domain_get_info). Arguments are plain values; a reply of one field is that value, of several
/// the generated struct of [`protocol`](crate::protocol). A number that says yes or no is a `bool`: 0 is no, and any other
/// yes, as libvirt's C clients read it; of a struct with such numbers, methods give the one whose name ends in `Answer`, while
/// [`call`](Libvirt::call) gives the numbers themselves. Flags and enums are in
/// [`protocol::constants`](crate::protocol::constants), and keep bits and values that they have no name for.
///
/// All of them fail alike. [`Error::Encode`] says which argument is over the limit of its definition; nothing was sent then.
/// [`Error::Libvirt`] is the daemon's refusal, [`Error::is_unsupported`] among them where daemon or driver does not have the
/// procedure. [`Error::Timeout`] comes after [`Config::call_timeout`], [`Error::Disconnected`] at the end of the connection, and
/// [`Error::Decode`] for a reply that is not as defined.
///
/// Dropping the future of a call that waits sends nothing. Where it was sent, the daemon goes on with it, and its reply is
/// discarded.
///
/// What has no method: authentication, opening and closing, the features that are agreed on then
/// (`REMOTE_PROC_CONNECT_SUPPORTS_FEATURE`), `REMOTE_PROC_CONNECT_SET_IDENTITY`, the callback of a closed connection, and registering
/// for events. They are the session's own: a second opening, or a registration that nobody knows of, would break it.
impl Libvirt {
    /// The same session, with another limit for how long each call may take, in place of [`Config::call_timeout`]. For
    /// what takes its time: migrations, or saving a domain.
    ///
    /// ```no_run
    /// # async fn example(libvirt: libvirt_qmp::Libvirt) -> Result<(), libvirt_qmp::Error> {
    /// let vm = libvirt.domain_lookup_by_name("vm-1").await?;
    /// libvirt.with_call_timeout(None).domain_save(&vm, "/var/tmp/vm-1.save").await?;
    /// # Ok(()) }
    /// ```
    pub fn with_call_timeout(&self, timeout: Option<Duration>) -> Libvirt {
        let config = Config::clone(&self.config).call_timeout(timeout);
        Libvirt {
            config: Arc::new(config),
            ..self.clone()
        }
    }

    /// Calls `P` with the generated struct of its arguments, for what has no method, or where the whole reply is wanted.
    ///
    /// ```no_run
    /// # async fn example(libvirt: libvirt_qmp::Libvirt) -> Result<(), libvirt_qmp::Error> {
    /// use libvirt_qmp::protocol::remote::procedure::ConnectGetHostname;
    ///
    /// println!("{}", libvirt.call::<ConnectGetHostname>(&()).await?.hostname);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the methods.
    ///
    /// # Cancel safety
    ///
    /// As with the methods: a call that was sent runs on, and its reply is discarded.
    pub async fn call<P: Procedure>(&self, args: &P::Args) -> Result<P::Reply, Error> {
        let mut call = rpc::encode::<P>(args)?;
        let options = self.options(Phase::Reply, Limits::Connection);
        self.client.send::<P>(&mut call, &options).await
    }

    /// Calls a procedure by its numbers, which `xdr/` need not have, with encoded arguments, and returns the encoded reply.
    ///
    /// A call that opens a stream, or brings file descriptors, is not for this. The procedures of the session itself break it
    /// from here too.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`] where `payload` is longer than a packet may be; the rest as with the methods.
    ///
    /// # Cancel safety
    ///
    /// As with the methods: a call that was sent runs on, and its reply is discarded.
    pub async fn call_raw(
        &self,
        program: u32,
        version: u32,
        procedure: i32,
        payload: &[u8],
    ) -> Result<Bytes, Error> {
        let name = crate::protocol::procedure_name(program, procedure).unwrap_or("a raw call");
        let mut call = rpc::encode_raw(program, version, procedure, name, payload)?;
        let options = self.options(Phase::Reply, Limits::Connection);
        self.client.send_raw(&mut call, name, &options).await
    }

    /// Sends a call and gives the payload of its good reply.
    pub(super) async fn exchange(&self, outgoing: Outgoing) -> Result<Bytes, Error> {
        let name = outgoing.spec().name;
        let mut call = outgoing.finish()?;
        let options = self.options(Phase::Reply, Limits::Connection);
        self.client.send_raw(&mut call, name, &options).await
    }

    /// As `exchange`, for a call that opens a stream.
    pub(super) async fn exchange_for_stream(
        &self,
        outgoing: Outgoing,
    ) -> Result<(Bytes, Stream), Error> {
        let name = outgoing.spec().name;
        let mut call = outgoing.finish()?;
        let options = self.options(Phase::Reply, Limits::Connection);
        self.client.open_stream(&mut call, name, &options).await
    }

    /// As `exchange`, for a call whose reply brings descriptors.
    pub(super) async fn exchange_for_files(
        &self,
        outgoing: Outgoing,
    ) -> Result<(Bytes, Vec<OwnedFd>), Error> {
        let name = outgoing.spec().name;
        let mut call = outgoing.finish()?;
        let options = self.options(Phase::Reply, Limits::Connection);
        self.client.send_for_files(&mut call, name, &options).await
    }
}

/// The reply to a call, read as what its definition says.
pub(super) fn decode<T: Unpack<Reader>>(spec: &Spec, payload: Bytes) -> Result<T, Error> {
    xdr::decode(payload).map_err(|error| Error::xdr(spec.name, error))
}
