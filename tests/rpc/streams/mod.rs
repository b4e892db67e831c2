//! Streams: opening, reading to the end, writing, finishing, aborting, and what a daemon may do wrong with them.

mod ends;
mod strays;
mod transfer;

use std::io::ErrorKind;

use bytes::Bytes;
use libvirt_qmp::packet::{Header, MessageStatus, MessageType, Packet};
use libvirt_qmp::protocol::rpc::MessageError;
use libvirt_qmp::protocol::{Procedure, remote};
use libvirt_qmp::{EndCause, Error, Libvirt, LibvirtError, Phase, Stream, StreamItem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::support::mock::{
    MockDaemon, encoded, error, poll_once, quiet, reply_to, session, settle,
};

/// The most that libvirt puts into one packet.
pub(super) const FULL: usize = 262_120;

/// `VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM`, and the same for downloads.
pub(super) const SPARSE: u32 = 1;

/// A procedure that opens a stream, with nothing but flags for arguments: they are the last of them in truth too.
macro_rules! stream_procedure {
    ($name:ident, $number:literal, $wire:literal) => {
        pub(super) struct $name;

        impl Procedure for $name {
            const PROGRAM: u32 = remote::PROGRAM;
            const VERSION: u32 = remote::VERSION;
            const NUMBER: i32 = $number;
            const NAME: &'static str = $wire;
            type Args = u32;
            type Reply = ();
        }
    };
}

stream_procedure!(Upload, 208, "REMOTE_PROC_STORAGE_VOL_UPLOAD");
stream_procedure!(Download, 209, "REMOTE_PROC_STORAGE_VOL_DOWNLOAD");
stream_procedure!(Console, 201, "REMOTE_PROC_DOMAIN_OPEN_CONSOLE");

/// Opens a stream by a task of its own.
pub(super) fn opening<P: Procedure<Args = u32, Reply = ()>>(
    libvirt: &Libvirt,
    flags: u32,
) -> JoinHandle<Result<Stream, Error>> {
    let libvirt = libvirt.clone();
    tokio::spawn(async move {
        let (_, stream) = libvirt.open_stream::<P>(&flags).await?;
        Ok(stream)
    })
}

/// An open stream, and the header of its call.
pub(super) async fn open<P: Procedure<Args = u32, Reply = ()>>(
    libvirt: &Libvirt,
    daemon: &mut MockDaemon,
    flags: u32,
) -> (Stream, Header) {
    let opening = opening::<P>(libvirt, flags);
    let call = daemon.expect::<P>().await;
    assert_eq!(call.args, flags);
    daemon.reply::<P>(&call, &()).await;
    (opening.await.unwrap().unwrap(), call.header)
}

/// A packet of the stream that `call` opened.
pub(super) fn packet(
    call: &Header,
    kind: MessageType,
    status: MessageStatus,
    payload: impl Into<Bytes>,
) -> Packet {
    let header = Header {
        kind,
        status,
        ..*call
    };
    Packet {
        header,
        payload: payload.into(),
    }
}

pub(super) fn data(call: &Header, payload: impl Into<Bytes>) -> Packet {
    packet(call, MessageType::STREAM, MessageStatus::CONTINUE, payload)
}

/// The end of the data.
pub(super) fn end(call: &Header) -> Packet {
    data(call, Bytes::new())
}

/// The daemon's confirmation, and the client's word that all is well.
pub(super) fn ok(call: &Header) -> Packet {
    packet(call, MessageType::STREAM, MessageStatus::OK, Bytes::new())
}

/// The client's word that nothing more is wanted.
pub(super) fn abort(call: &Header) -> Packet {
    packet(
        call,
        MessageType::STREAM,
        MessageStatus::ERROR,
        Bytes::new(),
    )
}

fn failure(call: &Header, error: &MessageError) -> Packet {
    packet(
        call,
        MessageType::STREAM,
        MessageStatus::ERROR,
        encoded(error),
    )
}

/// The error of a full disk, as libvirt says it.
fn disk_full() -> MessageError {
    MessageError {
        int1: 28,
        ..error(
            LibvirtError::SYSTEM_ERROR,
            "cannot write to stream: No space left on device",
        )
    }
}

fn hole(call: &Header, length: i64) -> Packet {
    let payload = [&length.to_be_bytes()[..], &[0; 4]].concat();
    packet(
        call,
        MessageType::STREAM_HOLE,
        MessageStatus::CONTINUE,
        payload,
    )
}

fn item(text: &'static str) -> Option<StreamItem> {
    Some(StreamItem::Data(Bytes::from_static(text.as_bytes())))
}

/// The connection is as good as before: a call is answered, and nothing else has been sent.
pub(super) async fn expect_usable(libvirt: &Libvirt, daemon: &mut MockDaemon) {
    let libvirt = libvirt.clone();
    let calling = tokio::spawn(async move { libvirt.domains().await.unwrap() });
    let call = daemon
        .expect::<remote::procedure::ConnectListAllDomains>()
        .await;
    let reply = remote::ConnectListAllDomainsRet {
        domains: Vec::new(),
        ret: 0,
    };
    daemon
        .reply::<remote::procedure::ConnectListAllDomains>(&call, &reply)
        .await;
    assert!(calling.await.unwrap().is_empty());
}
