//! Clients that say just what the test wants: of QMP, of libvirt's RPC, and of descriptors. Imports the crate's public API only.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use libvirt_qmp::packet::{Header, MessageStatus, MessageType, Packet, PacketCodec};
use libvirt_qmp::protocol::Procedure;
use libvirt_qmp::protocol::rpc::MessageError;
use libvirt_qmp::xdr::{self, Reader, Writer};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::{Decoder, Encoder};
use xdr_codec::{Pack, Unpack};

/// Longer than anything here takes; on a paused clock no time at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for it, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(PATIENCE, what).await;
    result.expect("it comes within a minute")
}

/// A client of QMP.
pub(crate) struct RawQmp<S> {
    pub(crate) stream: S,
    inbox: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawQmp<S> {
    /// Reads the greeting.
    pub(crate) async fn greeted(stream: S) -> (Value, Self) {
        let inbox = Vec::new();
        let mut client = RawQmp { stream, inbox };
        (client.next().await.expect("a greeting"), client)
    }

    /// Reads the greeting and negotiates these capabilities.
    pub(crate) async fn negotiated(stream: S, capabilities: &[&str]) -> Self {
        let (_, mut client) = RawQmp::greeted(stream).await;
        let enable = Value::from(capabilities);
        let command =
            format!(r#"{{"execute":"qmp_capabilities","arguments":{{"enable":{enable}}}}}"#);
        assert!(client.ask(&command).await.get("return").is_some());
        client
    }

    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Says this, and gives the next message.
    pub(crate) async fn ask(&mut self, text: &str) -> Value {
        self.say(text).await;
        self.next().await.expect("an answer")
    }

    /// The next message; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        soon(async {
            loop {
                let mut texts =
                    serde_json::Deserializer::from_slice(&self.inbox).into_iter::<&RawValue>();
                if let Some(Ok(text)) = texts.next() {
                    let value = serde_json::from_str(text.get()).unwrap();
                    let end = texts.byte_offset();
                    self.inbox.drain(..end);
                    return Some(value);
                }
                match self.stream.read_buf(&mut self.inbox).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
    }
}

/// Sends bytes with one descriptor on them.
pub(crate) fn send_with_file(socket: impl AsFd, bytes: &[u8], file: BorrowedFd<'_>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::empty(),
    );
    assert_eq!(sent.unwrap(), bytes.len());
}

/// A client of libvirt's RPC.
pub(crate) struct RawRpc<S> {
    pub(crate) stream: S,
    inbox: BytesMut,
    serial: u32,
    /// Packets that were not what was waited for.
    pub(crate) others: Vec<Packet>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawRpc<S> {
    pub(crate) fn new(stream: S) -> Self {
        RawRpc {
            stream,
            inbox: BytesMut::new(),
            serial: 0,
            others: Vec::new(),
        }
    }

    /// Sends a call and gives its serial.
    pub(crate) async fn send<P: Procedure>(&mut self, args: &P::Args) -> u32 {
        let mut payload = Vec::new();
        xdr::encode(args, &mut payload).unwrap();
        self.serial += 1;
        let header = Header::call(P::PROGRAM, P::VERSION, P::NUMBER, self.serial);
        let payload = payload.into();
        self.packet(Packet { header, payload }).await;
        self.serial
    }

    /// The bytes of a call with so many descriptors behind it.
    pub(crate) fn with_files<P: Procedure>(&mut self, args: &P::Args, files: u32) -> BytesMut {
        let mut payload = Vec::new();
        payload.put_u32(files);
        xdr::encode(args, &mut payload).unwrap();
        self.serial += 1;
        let header = Header {
            kind: MessageType::CALL_WITH_FDS,
            ..Header::call(P::PROGRAM, P::VERSION, P::NUMBER, self.serial)
        };
        let mut bytes = BytesMut::new();
        let payload = payload.into();
        PacketCodec
            .encode(Packet { header, payload }, &mut bytes)
            .unwrap();
        bytes
    }

    pub(crate) async fn packet(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        PacketCodec.encode(packet, &mut bytes).unwrap();
        soon(self.stream.write_all(&bytes)).await.unwrap();
    }

    /// Calls a procedure.
    pub(crate) async fn call<P: Procedure>(
        &mut self,
        args: &P::Args,
    ) -> Result<P::Reply, MessageError> {
        let serial = self.send::<P>(args).await;
        self.reply(serial).await
    }

    /// The reply to a call; what comes before it goes to `others`.
    pub(crate) async fn reply<R: Unpack<Reader>>(
        &mut self,
        serial: u32,
    ) -> Result<R, MessageError> {
        loop {
            let packet = self.next().await.expect("a reply");
            let Header {
                kind, serial: of, ..
            } = packet.header;
            if kind == MessageType::REPLY && of == serial {
                return match packet.header.status {
                    MessageStatus::OK => Ok(xdr::decode(packet.payload).unwrap()),
                    _ => Err(xdr::decode(packet.payload).unwrap()),
                };
            }
            self.others.push(packet);
        }
    }

    /// The next packet; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        soon(async {
            loop {
                if let Some(packet) = PacketCodec.decode(&mut self.inbox).unwrap() {
                    return Some(packet);
                }
                match self.stream.read_buf(&mut self.inbox).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
    }
}

/// A value as XDR.
pub(crate) fn encoded<T: Pack<Writer>>(value: &T) -> Bytes {
    let mut bytes = Vec::new();
    xdr::encode(value, &mut bytes).unwrap();
    bytes.into()
}
