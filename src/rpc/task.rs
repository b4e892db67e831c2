//! The connection task: reader, writer, keepalive and the watch over deadlines, four plain loops in one task.
//!
//! - The task alone touches the socket. The first loop to end gives the cause for everybody.
//! - Packets go by their type first: events carry serial 1 and keepalive packets 0, so a serial alone says nothing.
//! - The reader waits for nobody: replies go to one-shot channels, events to bounded queues.
//! - Unknown programs, events and types are passed over. A reply to a call that never was ends the connection, since
//!   the two sides no longer agree on what was asked.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Buf;
use futures_core::Stream;
use tokio_util::codec::FramedRead;
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
use crate::transport::{ReadHalf, Transport};

/// After so many packets the reader lets others run, for a peer that floods would starve the other loops of its task.
const PACKETS_PER_TURN: u32 = 256;

/// An event counts as so many packets: on a runtime of one thread the event streams could not otherwise keep up with a
/// full read buffer.
const EVENT_WEIGHT: u32 = 4;

/// Runs the connection until it ends.
pub(super) async fn run(io: Transport, shared: Arc<Shared>, keepalive: Option<Keepalive>) {
    let shared = &*shared;
    let heard = AtomicBool::new(false);
    let (read, write) = io.split();
    shared
        .connection
        .drive(
            read_packets(read, shared, &heard),
            write,
            keep_alive(keepalive, shared, &heard),
            |cause| shared.subscriptions.end(cause),
        )
        .await;
}

async fn read_packets(read: ReadHalf, shared: &Shared, heard: &AtomicBool) -> EndCause {
    let mut packets = FramedRead::new(read, PacketCodec);
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
                let taken =
                    without_descriptors(packet).and_then(|packet| take_reply(shared, packet));
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
/// No call here has descriptors in its reply. Each would ride on a byte that no length counts, so nothing after it
/// could be read.
fn without_descriptors(mut packet: Packet) -> Result<Packet, EndCause> {
    match packet.payload.first_chunk::<4>() {
        Some([0, 0, 0, 0]) => {
            packet.payload.advance(4);
            Ok(packet)
        }
        _ => Err(EndCause::Protocol(format!(
            "{} brings file descriptors, or no count of them",
            packet.header
        ))),
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
                silence: interval.saturating_mul(count + 1),
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
