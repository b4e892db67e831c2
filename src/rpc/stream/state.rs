//! What a stream is at: what has come and was not taken, what is to go, and how it ends. No I/O.
//!
//! The daemon's end of the data is an empty packet; the stream itself ends only when the client has said OK or ERROR and the
//! daemon has answered, or when the daemon says ERROR. Then the daemon has forgotten it.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use tracing::{debug, trace};

use super::StreamItem;
use crate::error::{Error, LibvirtError};
use crate::packet::{Header, MessageStatus, MessageType, PREFIX};
use crate::protocol::rpc::{MESSAGE_LEGACY_PAYLOAD_MAX, MessageError, StreamHole};
use crate::xdr::{self, DecodeError, DecodeFault};

/// Bytes of data in one packet at most (`VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX`), as libvirt's own client sends them.
const MOST_IN_PACKET: usize = MESSAGE_LEGACY_PAYLOAD_MAX as usize;

/// Bytes that wait to be sent at most: two full packets, so that one is there when the other has gone.
const MOST_OUTGOING: usize = 2 * MOST_IN_PACKET;

/// A packet is charged with so many bytes besides its data, since small ones cost memory too.
const PACKET_COST: usize = 128;

/// Data shorter than this is copied out of the read buffer, which it would otherwise keep in memory.
const COPIED: usize = 32 * 1024;

/// What the client has said to end the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    No,
    /// That all is well (`VIR_NET_OK`).
    Finish,
    /// That nothing more is wanted (`VIR_NET_ERROR`).
    Abort,
}

/// How far the call has come that opens the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// No reply has come.
    No,
    /// No reply has come, and nobody wants the stream any more.
    Unwanted,
    Yes,
}

#[derive(Debug)]
pub(super) struct State {
    /// Of the call that opens it, and of all its packets. The serial is known once the call leaves.
    pub(super) header: Header,
    pub(super) opened: Opened,
    name: &'static str,
    incoming: VecDeque<StreamItem>,
    /// How what comes has ended, after all that is in `incoming`.
    incoming_end: Option<Result<(), Error>>,
    outgoing: VecDeque<Packet>,
    outgoing_bytes: usize,
    /// Whether it has a turn among what is sent.
    pub(super) has_turn: bool,
    pub(super) closing: Closing,
    /// How it ended, once the daemon has let go of it.
    pub(super) closed: Option<Result<(), Error>>,
    /// How often in a row the reader found that nothing was taken.
    pub(super) untaken: u32,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) closer: Option<Waker>,
}

/// A packet that waits to be sent: its payload, after room for its head.
#[derive(Debug)]
struct Packet {
    kind: MessageType,
    status: MessageStatus,
    bytes: Vec<u8>,
}

/// What became of something that was to be sent.
pub(super) enum Taken {
    /// So many bytes are queued.
    Bytes(usize),
    /// There is no room by now.
    Full,
}

impl State {
    pub(super) fn new(header: Header, name: &'static str) -> Self {
        State {
            header,
            opened: Opened::No,
            name,
            incoming: VecDeque::new(),
            incoming_end: None,
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            has_turn: false,
            closing: Closing::No,
            closed: None,
            untaken: 0,
            reader: None,
            writer: None,
            closer: None,
        }
    }

    /// Takes a packet of the daemon. Returns the bytes that it adds to what waits.
    pub(super) fn receive(
        &mut self,
        kind: MessageType,
        status: MessageStatus,
        payload: Bytes,
    ) -> usize {
        match (kind, status) {
            // Nothing of it is wanted any more.
            (_, MessageStatus::CONTINUE) if self.is_over() => 0,
            (MessageType::STREAM, MessageStatus::CONTINUE) if payload.is_empty() => {
                self.incoming_end.get_or_insert(Ok(()));
                0
            }
            (_, MessageStatus::CONTINUE) if self.incoming_end.is_some() => {
                self.fail(Error::xdr(
                    self.name,
                    DecodeError::whole(DecodeFault::AfterEnd),
                ));
                0
            }
            (MessageType::STREAM, MessageStatus::CONTINUE) => self.push(payload),
            (MessageType::STREAM_HOLE, MessageStatus::CONTINUE) => self.push_hole(payload),
            (MessageType::STREAM, MessageStatus::OK) if self.closing != Closing::No => {
                self.close(Ok(()));
                0
            }
            (MessageType::STREAM, MessageStatus::ERROR) => {
                let error = match xdr::decode_lossy::<MessageError>(payload) {
                    Ok(error) => LibvirtError::from_wire(error, self.name).into(),
                    Err(error) => Error::xdr(self.name, error),
                };
                self.close(Err(error));
                0
            }
            (_, MessageStatus(other)) => {
                self.fail(Error::xdr(self.name, DecodeError::status(other)));
                0
            }
        }
    }

    fn is_over(&self) -> bool {
        self.closed.is_some() || self.closing != Closing::No || self.opened == Opened::Unwanted
    }

    fn push(&mut self, payload: Bytes) -> usize {
        let payload = match payload.len() {
            ..COPIED => Bytes::copy_from_slice(&payload),
            _ => payload,
        };
        let item = StreamItem::Data(payload);
        let cost = cost(&item);
        self.incoming.push_back(item);
        cost
    }

    fn push_hole(&mut self, payload: Bytes) -> usize {
        let hole = match xdr::decode::<StreamHole>(payload) {
            Ok(hole) => hole,
            Err(error) => {
                self.fail(Error::xdr(self.name, error));
                return 0;
            }
        };
        match u64::try_from(hole.length) {
            Ok(0) => 0,
            Ok(length) => {
                let item = StreamItem::Hole(length);
                let cost = cost(&item);
                self.incoming.push_back(item);
                cost
            }
            Err(_) => {
                self.fail(Error::xdr(
                    self.name,
                    DecodeError::whole(DecodeFault::BadHole(hole.length)),
                ));
                0
            }
        }
    }

    /// What has come first, and what it no longer adds to what waits.
    pub(super) fn take(&mut self) -> Option<(StreamItem, usize)> {
        self.untaken = 0;
        let item = self.incoming.pop_front()?;
        let cost = cost(&item);
        Some((item, cost))
    }

    /// How what comes has ended, where nothing is left before that.
    pub(super) fn end_of_incoming(&self) -> Option<Result<(), Error>> {
        match &self.incoming_end {
            _ if !self.incoming.is_empty() => None,
            None if self.closing != Closing::No => Some(Ok(())),
            end => end.clone(),
        }
    }

    /// Bytes that wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.incoming.iter().map(cost).sum()
    }

    /// Whether somebody waits for what the daemon is to send.
    pub(super) fn is_awaited(&self) -> bool {
        let reads = self.reader.is_some() && self.incoming.is_empty();
        self.closed.is_none() && (reads || self.closer.is_some())
    }

    /// Drops what has come and was not taken. Returns how much that was.
    pub(super) fn discard(&mut self) -> usize {
        let waiting = self.waiting();
        self.incoming.clear();
        waiting
    }

    /// Queues as much of `data` as there is room for: into the last packet, and into new ones.
    pub(super) fn queue_data(&mut self, mut data: &[u8]) -> Taken {
        let all = data.len();
        while !data.is_empty() && self.outgoing_bytes < MOST_OUTGOING {
            let room = MOST_IN_PACKET.min(MOST_OUTGOING - self.outgoing_bytes);
            let taken = match self.outgoing.back_mut() {
                Some(last) if last.is_data_with_room() => {
                    let room = room.min(PREFIX + MOST_IN_PACKET - last.bytes.len());
                    let taken = data.len().min(room);
                    last.bytes.extend_from_slice(&data[..taken]);
                    taken
                }
                _ => {
                    let taken = data.len().min(room);
                    let packet =
                        Packet::new(MessageType::STREAM, MessageStatus::CONTINUE, &data[..taken]);
                    self.outgoing.push_back(packet);
                    taken
                }
            };
            self.outgoing_bytes += taken;
            data = &data[taken..];
        }
        match all - data.len() {
            0 if all > 0 => Taken::Full,
            taken => Taken::Bytes(taken),
        }
    }

    /// Queues a hole of this length.
    pub(super) fn queue_hole(&mut self, length: i64) -> Taken {
        if self.outgoing_bytes >= MOST_OUTGOING {
            return Taken::Full;
        }
        // Length, and no flags: none are known.
        let payload = [&length.to_be_bytes()[..], &[0; 4]].concat();
        self.outgoing_bytes += payload.len();
        let packet = Packet::new(MessageType::STREAM_HOLE, MessageStatus::CONTINUE, &payload);
        self.outgoing.push_back(packet);
        Taken::Bytes(0)
    }

    /// Queues what ends the stream, behind all data.
    pub(super) fn queue_finish(&mut self) {
        self.closing = Closing::Finish;
        self.outgoing
            .push_back(Packet::new(MessageType::STREAM, MessageStatus::OK, &[]));
    }

    /// Queues what aborts the stream, in place of all that waits to be sent. Where the end has gone already, it stands.
    pub(super) fn queue_abort(&mut self) {
        let is_sent = self.closing != Closing::No && self.outgoing.is_empty();
        self.outgoing.clear();
        self.outgoing_bytes = 0;
        if !is_sent {
            self.closing = Closing::Abort;
            self.outgoing
                .push_back(Packet::new(MessageType::STREAM, MessageStatus::ERROR, &[]));
        }
    }

    /// Whether it must be given a turn now; it has one then.
    pub(super) fn takes_turn(&mut self) -> bool {
        let turn = !self.has_turn && self.has_outgoing();
        self.has_turn |= turn;
        turn
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The bytes of the packet that goes now.
    pub(super) fn next_outgoing(&mut self) -> Option<Vec<u8>> {
        let Packet {
            kind,
            status,
            mut bytes,
        } = self.outgoing.pop_front()?;
        let payload = bytes.len() - PREFIX;
        if status == MessageStatus::CONTINUE {
            self.outgoing_bytes -= payload;
        }
        let header = Header {
            kind,
            status,
            ..self.header
        };
        trace!(target: "libvirt_qmp::rpc", header = %header.numbered(), bytes = payload, "sending");
        bytes[..PREFIX].copy_from_slice(&header.prefix(payload));
        Some(bytes)
    }

    /// Ends it by a fault of the daemon, which is told that it is over.
    pub(super) fn fail(&mut self, error: Error) {
        debug!(target: "libvirt_qmp::rpc", header = %self.header, %error, "stream given up");
        if self.opened == Opened::Yes {
            self.queue_abort();
        } else {
            self.opened = Opened::Unwanted;
        }
        let outgoing = std::mem::take(&mut self.outgoing);
        self.close(Err(error));
        self.outgoing = outgoing;
    }

    /// Says how it ended: the daemon has let go of it, or the connection is gone.
    pub(super) fn close(&mut self, end: Result<(), Error>) {
        self.outgoing.clear();
        self.outgoing_bytes = 0;
        self.incoming_end.get_or_insert_with(|| end.clone());
        self.closed.get_or_insert(end);
    }
}

/// Bytes that an item is charged with while it waits.
fn cost(item: &StreamItem) -> usize {
    match item {
        StreamItem::Data(data) => data.len() + PACKET_COST,
        StreamItem::Hole(_) => PACKET_COST,
    }
}

impl Packet {
    fn new(kind: MessageType, status: MessageStatus, payload: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(PREFIX + payload.len());
        bytes.extend_from_slice(&[0; PREFIX]);
        bytes.extend_from_slice(payload);
        Packet {
            kind,
            status,
            bytes,
        }
    }

    fn is_data_with_room(&self) -> bool {
        self.kind == MessageType::STREAM
            && self.status == MessageStatus::CONTINUE
            && self.bytes.len() < PREFIX + MOST_IN_PACKET
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn open() -> State {
        let mut state = State::new(Header::call(1, 1, 2, 3), "TEST");
        state.opened = Opened::Yes;
        state
    }

    fn packet_of(state: &mut State) -> (Header, Vec<u8>) {
        let bytes = state.next_outgoing().unwrap();
        let (head, payload) = bytes.split_first_chunk::<PREFIX>().unwrap();
        assert_eq!(head[..4], u32::try_from(bytes.len()).unwrap().to_be_bytes());
        (Header::read(head), payload.to_vec())
    }

    #[test]
    fn what_is_written_is_gathered_into_full_packets_up_to_the_bound() {
        let mut state = open();
        let data = vec![1; 3 * MOST_IN_PACKET];
        assert!(matches!(state.queue_data(&[]), Taken::Bytes(0)));
        assert!(!state.has_outgoing());
        assert!(matches!(state.queue_data(&data[..10]), Taken::Bytes(10)));
        let Taken::Bytes(taken) = state.queue_data(&data) else {
            panic!("there is room");
        };
        assert_eq!(taken, MOST_OUTGOING - 10);
        assert!(matches!(state.queue_data(&data), Taken::Full));
        assert!(matches!(state.queue_hole(1), Taken::Full));
        for _ in 0..2 {
            let (header, payload) = packet_of(&mut state);
            assert_eq!(header.status, MessageStatus::CONTINUE);
            assert_eq!(payload.len(), MOST_IN_PACKET);
        }
        assert!(!state.has_outgoing());
        assert!(matches!(state.queue_hole(1), Taken::Bytes(_)));
    }

    /// Data does not go into the packet of a hole, nor past one.
    #[test]
    fn holes_stay_where_they_are() {
        let mut state = open();
        state.queue_data(b"a");
        state.queue_hole(7);
        state.queue_data(b"b");
        state.queue_finish();
        let kinds = [(); 4].map(|()| packet_of(&mut state));
        assert_eq!(kinds[0].1, b"a");
        assert_eq!(kinds[1].0.kind, MessageType::STREAM_HOLE);
        assert_eq!(kinds[1].1, [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0]);
        assert_eq!(kinds[2].1, b"b");
        assert_eq!(kinds[3].0.status, MessageStatus::OK);
        assert!(kinds.iter().all(|(header, _)| header.serial == 3));
    }

    #[test]
    fn an_abort_takes_the_place_of_what_was_not_sent() {
        let mut state = open();
        state.queue_data(b"a");
        state.queue_finish();
        state.queue_abort();
        assert_eq!(packet_of(&mut state).0.status, MessageStatus::ERROR);
        assert!(!state.has_outgoing());
        // What has gone stands.
        let mut state = open();
        state.queue_finish();
        packet_of(&mut state);
        state.queue_abort();
        assert!(!state.has_outgoing());
    }

    proptest! {
        /// Whatever comes: no panic, and what is charged is given back.
        #[test]
        fn any_packets_leave_the_charge_balanced(
            packets in vec((3..7i32, -1..4i32, vec(any::<u8>(), 0..40)), 0..20),
            closing in any::<bool>(),
        ) {
            let mut state = open();
            if closing {
                state.queue_finish();
            }
            let mut charged = 0;
            for (kind, status, payload) in packets {
                charged += state.receive(MessageType(kind), MessageStatus(status), payload.into());
            }
            prop_assert_eq!(charged, state.waiting());
            while let Some((_, cost)) = state.take() {
                charged -= cost;
            }
            prop_assert_eq!(charged, 0);
        }
    }
}
