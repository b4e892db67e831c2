//! The text form of captured packets.
//!
//! ```text
//! # REMOTE_PROC_AUTH_LIST VIR_NET_CALL serial 0 VIR_NET_OK
//! > 0000001c 20008086 00000001 00000042 00000000 00000000 00000000
//! # REMOTE_PROC_AUTH_LIST VIR_NET_REPLY serial 0 VIR_NET_OK
//! < 00000024 20008086 00000001 00000042 00000001 00000000 00000000
//!   00000001 00000000                                                        # ........
//! ```
//!
//! `>` goes to the server, `<` comes from it. A line that starts with neither continues the packet. `#` starts a comment.

use std::fmt::{self, Write};
use std::str::FromStr;

use bytes::{BufMut, BytesMut};
use tokio_util::codec::Decoder;

use crate::packet::{Packet, PacketCodec};

/// Payload bytes on one line.
const LINE: usize = 32;

/// Packets up to this size also show their text; of a larger one it would double a large file.
const SHOW_TEXT: usize = 8 * 1024;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// Captured packets in the order they went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fixture {
    /// What the fixture is, line by line: what was run, against which versions.
    pub notes: Vec<String>,
    /// The packets.
    pub packets: Vec<(Direction, Packet)>,
}

/// A fixture text that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fixture line {line}: {reason}")]
pub struct FixtureError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

impl Fixture {
    /// The packets that went to the client, in order.
    pub fn to_client(&self) -> impl Iterator<Item = &Packet> {
        self.packets
            .iter()
            .filter(|(direction, _)| *direction == Direction::ToClient)
            .map(|(_, packet)| packet)
    }
}

impl fmt::Display for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("# Packets of libvirt's RPC: \"<\" from the server, \">\" to it; see fixtures/README.md.\n")?;
        for note in &self.notes {
            writeln!(f, "#: {note}")?;
        }
        for (direction, packet) in &self.packets {
            writeln!(f, "\n# {}", packet.header)?;
            let sign = match direction {
                Direction::ToServer => '>',
                Direction::ToClient => '<',
            };
            writeln!(
                f,
                "{sign} {}",
                Hex(&packet.header.prefix(packet.payload.len()))
            )?;
            write_payload(f, &packet.payload)?;
        }
        Ok(())
    }
}

/// The payload as lines of hexadecimal words, with its text where it is not too long.
fn write_payload(f: &mut impl Write, payload: &[u8]) -> fmt::Result {
    const WIDTH: usize = LINE * 2 + LINE / 4;
    for line in payload.chunks(LINE) {
        let hex = Hex(line).to_string();
        if payload.len() <= SHOW_TEXT {
            let text: String = line
                .iter()
                .map(|byte| {
                    if byte.is_ascii_graphic() {
                        char::from(*byte)
                    } else {
                        '.'
                    }
                })
                .collect();
            writeln!(f, "  {hex:WIDTH$}# {text}")?;
        } else {
            writeln!(f, "  {hex}")?;
        }
    }
    Ok(())
}

/// Bytes as words of four.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if index > 0 && index % 4 == 0 {
                f.write_char(' ')?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A packet as an error message shows it: its header, and the start of its payload.
pub(super) struct Shown<'a>(pub(super) &'a Packet);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 512;
        let payload = &self.0.payload;
        writeln!(f, "{}, {} bytes of payload", self.0.header, payload.len())?;
        write_payload(f, &payload[..payload.len().min(MOST)])?;
        if payload.len() > MOST {
            writeln!(f, "  and {} bytes more", payload.len() - MOST)?;
        }
        Ok(())
    }
}

impl FromStr for Fixture {
    type Err = FixtureError;

    fn from_str(text: &str) -> Result<Self, FixtureError> {
        let mut fixture = Fixture::default();
        // The packet under way: its direction, its bytes so far, and where it starts.
        let mut open: Option<(Direction, BytesMut, usize)> = None;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if let Some(note) = line.strip_prefix("#: ") {
                fixture.notes.push(note.to_owned());
            }
            let content = line.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            let direction = match content.as_bytes().first() {
                Some(b'>') => Some(Direction::ToServer),
                Some(b'<') => Some(Direction::ToClient),
                _ => None,
            };
            if let Some(direction) = direction {
                fixture.close(open.take())?;
                open = Some((direction, BytesMut::new(), number));
            }
            match &mut open {
                Some((_, bytes, _)) => read_hex(content.trim_start_matches(['<', '>']), bytes)
                    .map_err(|reason| FixtureError {
                        line: number,
                        reason,
                    })?,
                None => {
                    return Err(FixtureError {
                        line: number,
                        reason: "no packet has begun".to_owned(),
                    });
                }
            }
        }
        fixture.close(open)?;
        Ok(fixture)
    }
}

impl Fixture {
    /// Adds the packet that `open` holds, which must be exactly one.
    fn close(&mut self, open: Option<(Direction, BytesMut, usize)>) -> Result<(), FixtureError> {
        let Some((direction, mut bytes, line)) = open else {
            return Ok(());
        };
        match PacketCodec.decode(&mut bytes) {
            Ok(Some(packet)) if bytes.is_empty() => {
                self.packets.push((direction, packet));
                Ok(())
            }
            Ok(_) => {
                let reason = "the length word does not match the bytes given".to_owned();
                Err(FixtureError { line, reason })
            }
            Err(error) => Err(FixtureError {
                line,
                reason: error.to_string(),
            }),
        }
    }
}

fn read_hex(text: &str, out: &mut BytesMut) -> Result<(), String> {
    let mut high = None;
    for char in text.chars().filter(|char| !char.is_whitespace()) {
        let digit = char.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let digit = digit.ok_or_else(|| format!("{char:?} is not a hexadecimal digit"))?;
        match high.take() {
            None => high = Some(digit),
            Some(high) => out.put_u8(high << 4 | digit),
        }
    }
    match high {
        Some(_) => Err("half a byte at the end of the line".to_owned()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::packet::Header;

    fn sample() -> Fixture {
        let payload = Bytes::from((0..100u8).collect::<Vec<_>>());
        Fixture {
            notes: vec!["a note # with a hash".to_owned()],
            packets: vec![
                (
                    Direction::ToServer,
                    Packet {
                        header: Header::call(1, 1, 7, 3),
                        payload,
                    },
                ),
                (
                    Direction::ToClient,
                    Packet {
                        header: Header::keepalive(1),
                        payload: Bytes::new(),
                    },
                ),
            ],
        }
    }

    #[test]
    fn text_and_back() {
        let text = sample().to_string();
        assert_eq!(text.parse::<Fixture>().unwrap(), sample(), "{text}");
    }

    #[test]
    fn headers_stand_above_their_packets() {
        let text = sample().to_string();
        assert!(
            text.contains(
                "# KEEPALIVE_PROC_PING VIR_NET_MESSAGE serial 0 VIR_NET_OK\n< 0000001c 6b656570"
            ),
            "{text}"
        );
    }

    #[test]
    fn bad_text_is_reported_with_its_line() {
        for (text, line, reason) in [
            ("00", 1, "no packet"),
            ("# ok\n\n> 0000001x", 3, "'x' is not a hexadecimal digit"),
            ("> 000", 1, "half a byte"),
            ("> 0000001c", 1, "does not match"),
            ("> 00000003", 1, "length 3"),
        ] {
            let error = text.parse::<Fixture>().unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }
}
