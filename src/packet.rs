//! Packets of libvirt's RPC: their header, and the codec that finds them in a byte stream.
//! May import xdr and protocol.
//!
//! ```text
//! length u32 | program u32 | version u32 | procedure i32 | type i32 | serial u32 | status i32 | payload
//! ```
//! All big endian. The length counts itself, the header (`virNetMessageHeader`) and the payload.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::protocol::rpc::{MESSAGE_HEADER_MAX, MESSAGE_LEN_MAX, MESSAGE_MAX};
use crate::protocol::{self, keepalive};

pub use crate::protocol::rpc::{MessageStatus, MessageType};

/// Bytes before the payload: the length word and the header.
pub const PREFIX: usize = (MESSAGE_LEN_MAX + MESSAGE_HEADER_MAX) as usize;

/// The largest length word that libvirt sends or accepts (`VIR_NET_MESSAGE_MAX` and the length word itself).
pub const MAX_LENGTH: usize = (MESSAGE_MAX + MESSAGE_LEN_MAX) as usize;

/// Size of the read buffer, so that one system call brings many small packets.
const READ_AHEAD: usize = 64 * 1024;

/// A read is not started with less room than this.
const LEAST_ROOM: usize = 8 * 1024;

/// The buffer of a packet longer than this goes with it. Otherwise it would stay that large, and what is read into its
/// rest would keep all of it in memory.
const LARGE: usize = 1024 * 1024;

/// Room made at once for a packet whose length says it is large. More comes as its bytes do.
const RESERVE_STEP: usize = 1024 * 1024;

/// `virNetMessageHeader`: what a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Program number (`prog`).
    pub program: u32,
    /// Program version (`vers`); 1 for every program so far.
    pub version: u32,
    /// Procedure number within the program (`proc`).
    pub procedure: i32,
    /// Call, reply, message… (`type`).
    pub kind: MessageType,
    /// Chosen by the caller and echoed in the reply; 1 on events, 0 on keepalive packets.
    pub serial: u32,
    /// Ok, error or continue.
    pub status: MessageStatus,
}

impl Header {
    /// A call of procedure `procedure`.
    pub fn call(program: u32, version: u32, procedure: i32, serial: u32) -> Self {
        Header {
            program,
            version,
            procedure,
            kind: MessageType::CALL,
            serial,
            status: MessageStatus::OK,
        }
    }

    /// A keepalive packet: `KEEPALIVE_PROC_PING` or `KEEPALIVE_PROC_PONG`.
    pub fn keepalive(procedure: i32) -> Self {
        Header {
            program: keepalive::PROGRAM,
            version: keepalive::VERSION,
            procedure,
            kind: MessageType::MESSAGE,
            serial: 0,
            status: MessageStatus::OK,
        }
    }

    /// The length word and the header of a packet with `payload` bytes after them.
    ///
    /// The caller keeps `payload` within [`MAX_LENGTH`].
    pub fn prefix(&self, payload: usize) -> [u8; PREFIX] {
        let mut prefix = [0; PREFIX];
        let words = [
            u32::try_from(PREFIX + payload).unwrap_or(u32::MAX),
            self.program,
            self.version,
            self.procedure.cast_unsigned(),
            self.kind.0.cast_unsigned(),
            self.serial,
            self.status.0.cast_unsigned(),
        ];
        for (chunk, word) in prefix.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        prefix
    }

    /// `QEMU_PROGRAM procedure 1 VIR_NET_CALL serial 7 VIR_NET_OK`: what the client itself says of a packet. With the names
    /// of procedures, those of all would be in every program, for the few that it calls.
    pub(crate) fn numbered(&self) -> Numbered<'_> {
        Numbered(self)
    }

    /// Reads a header behind its length word.
    pub(crate) fn read(prefix: &[u8; PREFIX]) -> Self {
        let word = |index: usize| {
            let at = index * 4;
            u32::from_be_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
        };
        Header {
            program: word(1),
            version: word(2),
            procedure: word(3).cast_signed(),
            kind: MessageType(word(4).cast_signed()),
            serial: word(5),
            status: MessageStatus(word(6).cast_signed()),
        }
    }
}

/// `QEMU_PROC_DOMAIN_MONITOR_COMMAND VIR_NET_CALL serial 7 VIR_NET_OK`, numbers where a name is not known.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match protocol::procedure_name(self.program, self.procedure) {
            Some(name) => write!(f, "{name}{}", Rest(self)),
            None => self.numbered().fmt(f),
        }
    }
}

/// A header with the procedure's number; see [`Header::numbered`].
pub(crate) struct Numbered<'a>(&'a Header);

impl fmt::Display for Numbered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let procedure = NumberOf(self.0.program, self.0.procedure);
        write!(f, "{procedure}{}", Rest(self.0))
    }
}

/// A procedure by its program and its number.
pub(crate) struct NumberOf(pub(crate) u32, pub(crate) i32);

impl fmt::Display for NumberOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NumberOf(program, procedure) = self;
        match protocol::program_name(*program) {
            Some(name) => write!(f, "{name} procedure {procedure}"),
            None => write!(f, "program {program:#010x} procedure {procedure}"),
        }
    }
}

/// What stands behind the procedure.
struct Rest<'a>(&'a Header);

impl fmt::Display for Rest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind.name() {
            Some(name) => write!(f, " {name}")?,
            None => write!(f, " type {}", self.0.kind.0)?,
        }
        write!(f, " serial {}", self.0.serial)?;
        match self.0.status.name() {
            Some(name) => write!(f, " {name}"),
            None => write!(f, " status {}", self.0.status.0),
        }
    }
}

/// One packet: its header and its payload, a slice of the read buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it is.
    pub header: Header,
    /// What it carries, not decoded.
    pub payload: Bytes,
}

/// A byte stream that is not libvirt's RPC, or has ended. Nothing after it can be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A length word below the smallest packet.
    #[error("packet length {length} is below the {PREFIX} bytes of a header{}", likely(.guess))]
    TooShort {
        /// The length word.
        length: u32,
        /// What the peer speaks by the look of it.
        guess: Option<&'static str>,
    },
    /// A length word above [`MAX_LENGTH`].
    #[error("packet length {length} is over the limit of {MAX_LENGTH}{}", likely(.guess))]
    TooLong {
        /// The length word.
        length: u32,
        /// What the peer speaks by the look of it.
        guess: Option<&'static str>,
    },
    /// The peer closed the connection inside a packet.
    #[error("connection closed inside a packet, after {got} of {length} bytes")]
    CutShort {
        /// Bytes of the packet that came.
        got: usize,
        /// Bytes it was to have; 4 where not even the length word was whole.
        length: usize,
    },
    /// Reading failed.
    #[error("reading failed")]
    Io(#[source] Arc<io::Error>),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        FrameError::Io(Arc::new(error))
    }
}

fn likely(guess: &Option<&'static str>) -> String {
    guess.map(|guess| format!(": {guess}")).unwrap_or_default()
}

/// What a peer speaks whose first bytes make no length word.
fn guess(first: [u8; 4]) -> Option<&'static str> {
    match &first {
        b"HTTP" | b"GET " | b"POST" => Some("the peer speaks HTTP"),
        [0x14..=0x17, 3, ..] => Some("the peer speaks TLS"),
        b"SSH-" => Some("the peer speaks SSH"),
        [b'{', ..] => Some("the peer speaks JSON, as a QMP socket does"),
        b"RFB " => Some("the peer speaks VNC"),
        _ => None,
    }
}

/// Finds packets in a byte stream and writes them into one.
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketCodec;

impl Decoder for PacketCodec {
    type Item = Packet;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
        let Some(first) = source.first_chunk::<4>() else {
            make_room(source, 0);
            return Ok(None);
        };
        let word = u32::from_be_bytes(*first);
        let length = word as usize;
        if length < PREFIX {
            return Err(FrameError::TooShort {
                length: word,
                guess: guess(*first),
            });
        }
        if length > MAX_LENGTH {
            return Err(FrameError::TooLong {
                length: word,
                guess: guess(*first),
            });
        }
        if source.len() < length {
            make_room(source, length - source.len());
            return Ok(None);
        }
        let mut packet = source.split_to(length);
        // It is that long: the length was checked against it above.
        let Some(header) = packet.first_chunk().map(Header::read) else {
            return Ok(None);
        };
        packet.advance(PREFIX);
        if length > LARGE {
            *source = BytesMut::from(&source[..]);
        }
        Ok(Some(Packet {
            header,
            payload: packet.freeze(),
        }))
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
        if let Some(packet) = self.decode(source)? {
            return Ok(Some(packet));
        }
        if source.is_empty() {
            return Ok(None);
        }
        let length = source
            .first_chunk::<4>()
            .map_or(4, |word| u32::from_be_bytes(*word) as usize);
        Err(FrameError::CutShort {
            got: source.len(),
            length,
        })
    }
}

/// Room for the next read, when `missing` bytes are known to come. A read buffer that nobody holds a slice of any more
/// is used again from its start.
fn make_room(source: &mut BytesMut, missing: usize) {
    let room = source.capacity() - source.len();
    if room < missing.max(LEAST_ROOM) {
        source.reserve(missing.min(RESERVE_STEP.max(source.len())).max(READ_AHEAD));
    }
}

impl Encoder<Packet> for PacketCodec {
    type Error = FrameError;

    fn encode(&mut self, packet: Packet, out: &mut BytesMut) -> Result<(), FrameError> {
        let length = PREFIX + packet.payload.len();
        if length > MAX_LENGTH {
            return Err(FrameError::TooLong {
                length: u32::try_from(length).unwrap_or(u32::MAX),
                guess: None,
            });
        }
        out.reserve(length);
        out.put_slice(&packet.header.prefix(packet.payload.len()));
        out.put_slice(&packet.payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping() -> Vec<u8> {
        Header::keepalive(1).prefix(0).to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Option<Packet>, FrameError> {
        PacketCodec.decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn a_ping_is_28_bytes() {
        assert_eq!(
            ping(),
            [
                0, 0, 0, 28, 0x6b, 0x65, 0x65, 0x70, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0,
                0, 0, 0, 0, 0
            ]
        );
        let packet = decode(&ping()).unwrap().unwrap();
        assert_eq!(packet.header, Header::keepalive(1));
        assert!(packet.payload.is_empty());
    }

    #[test]
    fn a_header_says_what_it_is() {
        assert_eq!(
            Header::keepalive(1).to_string(),
            "KEEPALIVE_PROC_PING VIR_NET_MESSAGE serial 0 VIR_NET_OK"
        );
        let odd = Header {
            program: 7,
            kind: MessageType(9),
            status: MessageStatus(4),
            ..Header::keepalive(-3)
        };
        assert_eq!(
            odd.to_string(),
            "program 0x00000007 procedure -3 type 9 serial 0 status 4"
        );
    }

    #[test]
    fn the_limits_of_the_length_word_are_exact() {
        let mut bytes = ping();
        for (length, fits) in [
            (27u32, false),
            (28, true),
            (33_554_436, true),
            (33_554_437, false),
        ] {
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            assert_eq!(decode(&bytes).is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn nothing_is_allocated_for_a_refused_length() {
        let mut bytes = BytesMut::from(&0x7fff_ffff_u32.to_be_bytes()[..]);
        let before = bytes.capacity();
        assert!(PacketCodec.decode(&mut bytes).is_err());
        assert_eq!(bytes.capacity(), before);
    }

    #[test]
    fn room_for_a_large_packet_comes_as_its_bytes_do() {
        let mut bytes = BytesMut::from(&33_554_436_u32.to_be_bytes()[..]);
        assert!(PacketCodec.decode(&mut bytes).unwrap().is_none());
        assert!(bytes.capacity() < 2 * RESERVE_STEP, "{}", bytes.capacity());
    }

    #[test]
    fn a_large_packet_takes_its_buffer_along() {
        let large = Packet {
            header: Header::call(1, 1, 1, 1),
            payload: Bytes::from(vec![0; LARGE]),
        };
        let mut source = BytesMut::new();
        PacketCodec.encode(large.clone(), &mut source).unwrap();
        source.extend_from_slice(&ping());
        assert_eq!(PacketCodec.decode(&mut source).unwrap().unwrap(), large);
        assert!(source.capacity() < READ_AHEAD, "{}", source.capacity());
        let next = PacketCodec.decode(&mut source).unwrap().unwrap();
        assert_eq!(next.header, Header::keepalive(1));
    }

    #[test]
    fn other_protocols_are_named() {
        for (bytes, name) in [
            (&b"HTTP/1.1 400 Bad Request"[..], "HTTP"),
            (&[0x15, 3, 3, 0, 2, 2, 10], "TLS"),
            (b"{\"QMP\": {}}", "QMP"),
            (b"SSH-2.0-OpenSSH", "SSH"),
        ] {
            let text = decode(bytes).unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
            assert!(text.contains("length"), "{text}");
        }
        let text = decode(&[0; 28]).unwrap_err().to_string();
        assert_eq!(text, "packet length 0 is below the 28 bytes of a header");
    }

    #[test]
    fn packets_come_out_the_same_however_they_are_cut() {
        let header = Header {
            serial: 0xffff_ffff,
            ..Header::call(1, 2, -3, 4)
        };
        let packets = [
            Packet {
                header,
                payload: Bytes::from_static(b"odd"),
            },
            Packet {
                header: Header::keepalive(2),
                payload: Bytes::new(),
            },
        ];
        let mut whole = BytesMut::new();
        for packet in &packets {
            PacketCodec.encode(packet.clone(), &mut whole).unwrap();
        }
        for cut in 0..whole.len() {
            let mut source = BytesMut::from(&whole[..cut]);
            let mut found = Vec::new();
            while let Some(packet) = PacketCodec.decode(&mut source).unwrap() {
                found.push(packet);
            }
            source.extend_from_slice(&whole[cut..]);
            while let Some(packet) = PacketCodec.decode_eof(&mut source).unwrap() {
                found.push(packet);
            }
            assert_eq!(found, packets, "cut at {cut}");
        }
    }

    #[test]
    fn end_of_stream_inside_a_packet_is_told_from_a_clean_end() {
        let mut bytes = BytesMut::from(&ping()[..20]);
        assert!(matches!(
            PacketCodec.decode_eof(&mut bytes),
            Err(FrameError::CutShort {
                got: 20,
                length: 28
            })
        ));
        assert!(
            PacketCodec
                .decode_eof(&mut BytesMut::new())
                .unwrap()
                .is_none()
        );
        assert!(matches!(
            PacketCodec.decode_eof(&mut BytesMut::from(&[0, 0][..])),
            Err(FrameError::CutShort { got: 2, length: 4 })
        ));
    }
}
