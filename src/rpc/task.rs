//! The connection task: reader, writer, keepalive and the watch over deadlines, four plain loops in one task.
//!
//! - The task alone touches the socket. The first loop to end gives the cause for everybody.
//! - Packets go by their type first: events carry serial 1 and keepalive packets 0, so a serial alone says nothing.
//! - The reader waits for nobody but the consumers of streams, which have no other bound: replies go to one-shot
//!   channels, events to bounded queues.
//! - Unknown programs, events and types are passed over. A reply to a call that never was ends the connection, since
//!   the two sides no longer agree on what was asked.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use futures_core::Stream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::codec::{Decoder, FramedRead};
use tracing::{debug, trace};

use super::{MOST_FILES, Reply, Shared, xdr};
use crate::config::Keepalive;
use crate::connection::let_others_run;
use crate::error::EndCause;
use crate::inflight::{Found, Waiter};
use crate::packet::{
    FrameError, Header, MessageStatus, MessageType, NumberOf, PREFIX, Packet, PacketCodec,
};
use crate::protocol::keepalive::procedure::{Ping, Pong};
use crate::protocol::remote::procedure::ConnectEventConnectionClosed;
use crate::protocol::{Message, keepalive};
#[cfg(feature = "gssapi")]
use crate::transport::LayerSlot;
use crate::transport::{ReadHalf, WriteHalf};

/// After so many packets the reader lets others run, for a peer that floods would starve the other loops of its task.
const PACKETS_PER_TURN: u32 = 256;

/// An event counts as so many packets: on a runtime of one thread the event streams could not otherwise keep up with a
/// full read buffer.
const EVENT_WEIGHT: u32 = 4;

/// Runs the connection until it ends.
pub(super) async fn run(
    read: ReadHalf,
    write: WriteHalf,
    shared: Arc<Shared>,
    keepalive: Option<Keepalive>,
) {
    let shared = &*shared;
    let heard = AtomicBool::new(false);
    let packets = Packets::new(shared.files_wanted.clone());
    #[cfg(feature = "gssapi")]
    let packets = Packets {
        layer: read.layer(),
        ..packets
    };
    let read = WithFiles {
        read,
        expects_files: packets.expects_files.clone(),
    };
    let packets = FramedRead::new(read, packets);
    shared
        .connection
        .drive(
            read_packets(packets, shared, &heard),
            write,
            keep_alive(keepalive, shared, &heard),
            |cause| shared.tell(cause),
        )
        .await;
}

async fn read_packets(
    mut packets: FramedRead<WithFiles, Packets>,
    shared: &Shared,
    heard: &AtomicBool,
) -> EndCause {
    let mut turn = 0;
    loop {
        let packet = match poll_fn(|cx| Pin::new(&mut packets).poll_next(cx)).await {
            Some(Ok(packet)) => packet,
            Some(Err(FrameError::Io(error))) => return EndCause::Io(error),
            Some(Err(error)) => return EndCause::Frame(error),
            None => return EndCause::PeerClosed,
        };
        trace!(target: "libvirt_qmp::rpc", header = %packet.header.numbered(), bytes = packet.payload.len(), "received");
        heard.store(true, Ordering::Relaxed);
        match packet.header.kind {
            MessageType::REPLY => {
                if let Err(cause) = take_reply(shared, packet, Files::default()) {
                    return cause;
                }
            }
            MessageType::REPLY_WITH_FDS => {
                let may_bring = shared.files_wanted.load(Ordering::Relaxed);
                let files = packets.get_mut().read.files();
                let taken = with_files(packet, files, may_bring)
                    .and_then(|(packet, files)| take_reply(shared, packet, files));
                if let Err(cause) = taken {
                    return cause;
                }
            }
            MessageType::MESSAGE => {
                turn += EVENT_WEIGHT - 1;
                if let Err(cause) = take_message(shared, packet) {
                    return cause;
                }
            }
            MessageType::STREAM | MessageType::STREAM_HOLE => {
                if let Some(outgoing) = shared.streams.receive(packet) {
                    shared.connection.calls.submit_turn(outgoing);
                }
                shared.wait_for_consumers().await;
            }
            _ => {
                debug!(target: "libvirt_qmp::rpc", header = %packet.header.numbered(), "ignored: unknown type")
            }
        }
        turn += 1;
        if turn >= PACKETS_PER_TURN {
            turn = 0;
            let_others_run().await;
        }
    }
}

fn take_reply(shared: &Shared, packet: Packet, files: Files) -> Result<(), EndCause> {
    let Packet { header, payload } = packet;
    let found = shared
        .connection
        .calls
        .complete(header.serial, (header.program, header.procedure));
    if matches!(found, Found::Waiter(_) | Found::Abandoned) {
        shared.stream_replied(header);
    }
    match found {
        Found::Waiter(Waiter::Caller(sender)) => {
            // A caller that went away in this moment needs no answer.
            let _ = sender.send(Ok(Reply {
                status: header.status,
                payload,
                files: files.files,
                announced: files.announced,
            }));
            Ok(())
        }
        Found::Waiter(Waiter::Hook(hook)) => {
            shared
                .subscriptions
                .replied(shared, *hook, header.status, payload);
            Ok(())
        }
        Found::Abandoned => {
            debug!(target: "libvirt_qmp::rpc", header = %header.numbered(), "late reply discarded");
            Ok(())
        }
        Found::OtherProcedure {
            sent: (program, procedure),
        } => Err(EndCause::Protocol(format!(
            "{} answers a call of {}",
            header.numbered(),
            NumberOf(program, procedure)
        ))),
        Found::NeverOurs => Err(EndCause::Protocol(format!(
            "{} answers no call that was made",
            header.numbered()
        ))),
    }
}

/// The reply in a packet that may bring descriptors (`virNetMessageEncodeNumFDs`): their count stands before its payload,
/// and `files` are those that came with the bytes after it.
///
/// Where no call could bring any none may come: the stream was not read so that their bytes could be told.
fn with_files(
    mut packet: Packet,
    files: &mut VecDeque<OwnedFd>,
    may_bring: bool,
) -> Result<(Packet, Files), EndCause> {
    match file_count(&packet) {
        Some(count) if count == 0 || may_bring => {
            packet.payload.advance(4);
            let files = match count {
                0 => Vec::new(),
                _ => files.drain(..).collect(),
            };
            let files = Files {
                files,
                announced: count,
            };
            Ok((packet, files))
        }
        _ => Err(EndCause::Protocol(format!(
            "{} brings file descriptors, or no count of them",
            packet.header.numbered()
        ))),
    }
}

/// The descriptors of a reply.
#[derive(Default)]
struct Files {
    files: Vec<OwnedFd>,
    announced: usize,
}

/// The count of descriptors of a packet that may have some; none where it is missing or over libvirt's limit.
fn file_count(packet: &Packet) -> Option<usize> {
    let word = packet.payload.first_chunk::<4>()?;
    let count = usize::try_from(u32::from_be_bytes(*word)).ok()?;
    (count <= MOST_FILES).then_some(count)
}

/// What comes, with the descriptors of the packet that is being read. Others, which come with bytes that are to bring none,
/// are closed.
struct WithFiles {
    read: ReadHalf,
    expects_files: Arc<AtomicBool>,
}

impl AsyncRead for WithFiles {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.expects_files.load(Ordering::Relaxed) {
            self.read.files().clear();
        }
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

/// Finds packets in a stream in which descriptors may come too, each with a byte after its packet that no length counts.
/// A packet is complete when those bytes are there, and with them the descriptors.
struct Packets {
    files_wanted: Arc<AtomicBool>,
    /// Says to the stream that `before_files` is there.
    expects_files: Arc<AtomicBool>,
    /// A packet whose descriptors are still to come, and how many.
    before_files: Option<(Packet, usize)>,
    #[cfg(feature = "gssapi")]
    layer: LayerSlot,
}

impl Packets {
    fn new(files_wanted: Arc<AtomicBool>) -> Self {
        Packets {
            files_wanted,
            expects_files: Arc::default(),
            before_files: None,
            #[cfg(feature = "gssapi")]
            layer: LayerSlot::default(),
        }
    }

    fn next(
        &mut self,
        source: &mut BytesMut,
        decode: fn(&mut PacketCodec, &mut BytesMut) -> Result<Option<Packet>, FrameError>,
    ) -> Result<Option<Packet>, FrameError> {
        if self.before_files.is_some() {
            return Ok(self.with_files(source));
        }
        let packet = decode(&mut PacketCodec, source)?;
        #[cfg(feature = "gssapi")]
        if let Some(packet) = &packet
            && self.layer.is_armed()
            && packet.header.kind == MessageType::REPLY
            && packet.header.status == MessageStatus::OK
        {
            // It is the last that comes in the clear, and the daemon says nothing more before it is asked.
            self.layer.begin(source)?;
        }
        match packet {
            Some(packet) if packet.header.kind == MessageType::REPLY_WITH_FDS => {
                let wanted = self.files_wanted.load(Ordering::Relaxed);
                // What has no good count ends the connection anyway.
                let count = file_count(&packet).filter(|_| wanted).unwrap_or(0);
                self.before_files = Some((packet, count));
                Ok(self.with_files(source))
            }
            packet => Ok(packet),
        }
    }

    /// The packet whose descriptors were still to come, if they are there.
    fn with_files(&mut self, source: &mut BytesMut) -> Option<Packet> {
        let is_complete = |(_, count): &mut (Packet, usize)| source.len() >= *count;
        let complete = self.before_files.take_if(is_complete);
        self.expects_files
            .store(self.before_files.is_some(), Ordering::Relaxed);
        let (packet, count) = complete?;
        source.advance(count);
        Some(packet)
    }
}

impl Decoder for Packets {
    type Item = Packet;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
        self.next(source, PacketCodec::decode)
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
        let packet = self.next(source, PacketCodec::decode_eof)?;
        match &self.before_files {
            Some((packet, count)) => {
                let length = PREFIX + packet.payload.len();
                Err(FrameError::CutShort {
                    got: length + source.len(),
                    length: length + count,
                })
            }
            None => Ok(packet),
        }
    }
}

fn take_message(shared: &Shared, packet: Packet) -> Result<(), EndCause> {
    let Packet { header, payload } = packet;
    match (header.program, header.procedure) {
        (keepalive::PROGRAM, Ping::NUMBER) => {
            trace!(target: "libvirt_qmp::rpc", "pong");
            let pong = Header::keepalive(Pong::NUMBER).prefix(0);
            shared.connection.calls.submit_urgent(pong.to_vec());
        }
        // That it was heard is all it is for.
        (keepalive::PROGRAM, _) => {}
        (ConnectEventConnectionClosed::PROGRAM, ConnectEventConnectionClosed::NUMBER) => {
            return match xdr::decode::<<ConnectEventConnectionClosed as Message>::Body>(payload) {
                Ok(body) => Err(EndCause::HypervisorClosed {
                    reason: body.reason.0,
                }),
                Err(error) => Err(EndCause::Protocol(format!(
                    "{}: {error}",
                    header.numbered()
                ))),
            };
        }
        _ if header.status != MessageStatus::OK => {
            debug!(target: "libvirt_qmp::event", header = %header.numbered(), "ignored: not ok");
        }
        _ => shared.subscriptions.event(header, payload),
    }
    Ok(())
}

/// Pings a silent peer, once it has agreed to that, as libvirt does it: after `interval` without a packet, at most `count` times in a row.
async fn keep_alive(keepalive: Option<Keepalive>, shared: &Shared, heard: &AtomicBool) -> EndCause {
    let Some(Keepalive { interval, count }) = keepalive else {
        return std::future::pending().await;
    };
    shared.keepalive.notified().await;
    let mut pings = 0;
    loop {
        tokio::time::sleep(interval).await;
        // Who does not listen hears nobody.
        if heard.swap(false, Ordering::Relaxed) || shared.streams.is_paused() {
            pings = 0;
            continue;
        }
        if pings == count {
            return EndCause::KeepaliveTimeout {
                pings,
                silence: interval.saturating_mul(count.saturating_add(1)),
            };
        }
        pings += 1;
        trace!(target: "libvirt_qmp::rpc", pings, "ping");
        shared
            .connection
            .calls
            .submit_urgent(Header::keepalive(Ping::NUMBER).prefix(0).to_vec());
    }
}
