//! The connection task: reader, writer, keepalive and the watch over deadlines, four plain loops in one task.
//!
//! - The task alone touches the socket. The first loop to end gives the cause for everybody.
//! - Packets go by their type first: events carry serial 1 and keepalive packets 0, so a serial alone says nothing.
//! - The reader waits for nobody: replies go to one-shot channels, events to bounded queues.
//! - Unknown programs, events and types are passed over. A reply to a call that never was ends the connection, since
//!   the two sides no longer agree on what was asked.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use futures_core::Stream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::codec::{Decoder, FramedRead};
use tracing::{debug, trace};

use super::{Shared, xdr};
use crate::config::Keepalive;
use crate::connection::let_others_run;
use crate::error::EndCause;
use crate::inflight::{Found, Waiter};
use crate::packet::{FrameError, Header, MessageStatus, MessageType, Packet, PacketCodec};
use crate::protocol::keepalive::procedure::{Ping, Pong};
use crate::protocol::remote::procedure::ConnectEventConnectionClosed;
use crate::protocol::{Message, keepalive};
use crate::transport::{ReadHalf, WriteHalf};

/// After so many packets the reader lets others run, for a peer that floods would starve the other loops of its task.
const PACKETS_PER_TURN: u32 = 256;

/// An event counts as so many packets: on a runtime of one thread the event streams could not otherwise keep up with a
/// full read buffer.
const EVENT_WEIGHT: u32 = 4;

/// Descriptors that a packet may bring (`VIR_NET_MESSAGE_NUM_FDS_MAX`).
const MOST_FILES: usize = 32;

/// Runs the connection until it ends.
pub(super) async fn run(
    read: ReadHalf,
    write: WriteHalf,
    shared: Arc<Shared>,
    keepalive: Option<Keepalive>,
) {
    let shared = &*shared;
    let heard = AtomicBool::new(false);
    let packets = Packets {
        files_wanted: shared.files_wanted.clone(),
        skip: 0,
    };
    let packets = FramedRead::new(WithoutFiles(read), packets);
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
    mut packets: FramedRead<WithoutFiles, Packets>,
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
        trace!(target: "libvirt_qmp::rpc", header = %packet.header, bytes = packet.payload.len(), "received");
        heard.store(true, Ordering::Relaxed);
        match packet.header.kind {
            MessageType::REPLY => {
                if let Err(cause) = take_reply(shared, packet) {
                    return cause;
                }
            }
            MessageType::REPLY_WITH_FDS => {
                let may_bring = shared.files_wanted.load(Ordering::Relaxed);
                let taken =
                    without_count(packet, may_bring).and_then(|packet| take_reply(shared, packet));
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
            _ => {
                debug!(target: "libvirt_qmp::rpc", header = %packet.header, "ignored: no such stream, or an unknown type")
            }
        }
        turn += 1;
        if turn >= PACKETS_PER_TURN {
            turn = 0;
            let_others_run().await;
        }
    }
}

fn take_reply(shared: &Shared, packet: Packet) -> Result<(), EndCause> {
    let Packet { header, payload } = packet;
    match shared
        .connection
        .calls
        .complete(header.serial, (header.program, header.procedure))
    {
        Found::Waiter(Waiter::Caller(sender)) => {
            // A caller that went away in this moment needs no answer.
            let _ = sender.send(Ok((header.status, payload)));
            Ok(())
        }
        Found::Waiter(Waiter::Hook(hook)) => {
            shared
                .subscriptions
                .replied(shared, hook, header.status, payload);
            Ok(())
        }
        Found::Abandoned => {
            debug!(target: "libvirt_qmp::rpc", %header, "late reply discarded");
            Ok(())
        }
        Found::OtherProcedure {
            sent: (program, procedure),
        } => Err(EndCause::Protocol(format!(
            "{header} answers a call of program {program:#010x} procedure {procedure}"
        ))),
        Found::NeverOurs => Err(EndCause::Protocol(format!(
            "{header} answers no call that was made"
        ))),
    }
}

/// A reply without the count of descriptors that stands before its payload (`virNetMessageEncodeNumFDs`).
///
/// Where no call had descriptors none may come: the stream was not read so that their bytes could be told.
fn without_count(mut packet: Packet, may_bring: bool) -> Result<Packet, EndCause> {
    match file_count(&packet) {
        Some(count) if count == 0 || may_bring => {
            packet.payload.advance(4);
            Ok(packet)
        }
        _ => Err(EndCause::Protocol(format!(
            "{} brings file descriptors, or no count of them",
            packet.header
        ))),
    }
}

/// The count of descriptors of a packet that may have some; none where it is missing or over libvirt's limit.
fn file_count(packet: &Packet) -> Option<usize> {
    let word = packet.payload.first_chunk::<4>()?;
    let count = usize::try_from(u32::from_be_bytes(*word)).ok()?;
    (count <= MOST_FILES).then_some(count)
}

/// What comes, without the descriptors that come with it: no call here wants any in its reply, so they are closed at once.
struct WithoutFiles(ReadHalf);

impl AsyncRead for WithoutFiles {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(cx, buf);
        self.0.files().clear();
        read
    }
}

/// Finds packets in a stream in which descriptors may come too, each with a byte after its packet that no length counts.
/// Those bytes are dropped.
struct Packets {
    files_wanted: Arc<AtomicBool>,
    /// Bytes of descriptors that are still to come.
    skip: usize,
}

impl Packets {
    fn next(
        &mut self,
        source: &mut BytesMut,
        decode: fn(&mut PacketCodec, &mut BytesMut) -> Result<Option<Packet>, FrameError>,
    ) -> Result<Option<Packet>, FrameError> {
        let here = self.skip.min(source.len());
        source.advance(here);
        self.skip -= here;
        let packet = decode(&mut PacketCodec, source)?;
        if let Some(packet) = &packet
            && packet.header.kind == MessageType::REPLY_WITH_FDS
            && self.files_wanted.load(Ordering::Relaxed)
        {
            self.skip = file_count(packet).unwrap_or(0);
        }
        Ok(packet)
    }
}

impl Decoder for Packets {
    type Item = Packet;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
        self.next(source, PacketCodec::decode)
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
        self.next(source, PacketCodec::decode_eof)
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
                    reason: body.reason,
                }),
                Err(error) => Err(EndCause::Protocol(format!("{header}: {error}"))),
            };
        }
        _ if header.status != MessageStatus::OK => {
            debug!(target: "libvirt_qmp::event", %header, "ignored: not ok");
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
        if heard.swap(false, Ordering::Relaxed) {
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
