//! A server that plays a fixture: it answers the recorded calls with the recorded packets, in their order.

use std::collections::HashMap;
use std::fmt;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_util::codec::{Decoder, Encoder};

use super::fixture::Shown;
use super::{Direction, Fixture};
use crate::packet::{FrameError, Header, MessageType, Packet, PacketCodec};
use crate::protocol::keepalive::procedure::{Ping, Pong};
use crate::protocol::{Message, keepalive};

/// Size of the in-process pipe.
const PIPE: usize = 64 * 1024;

/// Plays a [`Fixture`] as a server.
///
/// The client must make the recorded calls in the recorded order; serials are its own, and are put into the replies.
/// Keepalive pings are answered whenever they come and are not part of the play.
#[derive(Clone, Debug)]
pub struct Replay {
    fixture: Fixture,
}

/// How a replay failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The client sent something else than the recorded client did.
    #[error("unexpected packet {}from the client:\n{}expected:\n{}", Position(*.position), Shown(.got), Expected(.expected))]
    Unexpected {
        /// Which packet of the fixture was next, from 1.
        position: usize,
        /// What the recorded client sent here; nothing where the recording is over.
        expected: Option<Box<Packet>>,
        /// What came.
        got: Box<Packet>,
    },
    /// The client left before the recording was over.
    #[error("the client left; {left} recorded packets were not played, the next is:\n{}", Shown(.next))]
    Incomplete {
        /// Packets left.
        left: usize,
        /// The first of them.
        next: Box<Packet>,
    },
    /// Reading or writing failed, or the client sent no packets.
    #[error("replay connection failed")]
    Frame(#[from] FrameError),
}

struct Position(usize);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at packet {} of the fixture ", self.0)
    }
}

struct Expected<'a>(&'a Option<Box<Packet>>);

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(packet) => Shown(packet).fmt(f),
            None => f.write_str("nothing more"),
        }
    }
}

impl Replay {
    /// A server for `fixture`.
    pub fn new(fixture: Fixture) -> Self {
        Replay { fixture }
    }

    /// Plays in-process: gives the client's end of a pipe, and the task that plays at the other end. Must be called inside
    /// a tokio runtime.
    pub fn connect(self) -> (DuplexStream, JoinHandle<Result<(), ReplayError>>) {
        let (client, server) = tokio::io::duplex(PIPE);
        (
            client,
            tokio::spawn(async move { self.serve(server).await }),
        )
    }

    /// Plays once on `stream`, such as one accepted from a listening socket, until the client leaves.
    ///
    /// # Errors
    ///
    /// [`ReplayError::Unexpected`] shows both packets; [`ReplayError::Incomplete`] where the client left early;
    /// [`ReplayError::Frame`]. The connection is closed then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn serve<T>(&self, stream: T) -> Result<(), ReplayError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut client = Client {
            stream,
            buffer: BytesMut::new(),
        };
        let mut serials = HashMap::new();
        let played: Vec<_> = self
            .fixture
            .packets
            .iter()
            .filter(|(_, packet)| !is_keepalive(packet))
            .collect();
        for (index, (direction, recorded)) in played.iter().enumerate() {
            match direction {
                Direction::ToClient => {
                    let mut packet = recorded.clone();
                    if packet.header.kind != MessageType::MESSAGE {
                        packet.header.serial = serials
                            .get(&packet.header.serial)
                            .copied()
                            .unwrap_or_default();
                    }
                    client.send(packet).await?;
                }
                Direction::ToServer => match client.next().await? {
                    Some(got) if is_same(&got, recorded) => {
                        serials.insert(recorded.header.serial, got.header.serial);
                    }
                    Some(got) => {
                        let expected = Some(Box::new(recorded.clone()));
                        return Err(ReplayError::Unexpected {
                            position: index + 1,
                            expected,
                            got: Box::new(got),
                        });
                    }
                    None => {
                        let left = played.len() - index;
                        return Err(ReplayError::Incomplete {
                            left,
                            next: Box::new(recorded.clone()),
                        });
                    }
                },
            }
        }
        match client.next().await? {
            None => Ok(()),
            Some(got) => {
                let position = played.len() + 1;
                Err(ReplayError::Unexpected {
                    position,
                    expected: None,
                    got: Box::new(got),
                })
            }
        }
    }
}

fn is_keepalive(packet: &Packet) -> bool {
    packet.header.program == keepalive::PROGRAM
}

/// Whether the client sent what was recorded, but for the serial.
fn is_same(got: &Packet, recorded: &Packet) -> bool {
    let header = Header {
        serial: recorded.header.serial,
        ..got.header
    };
    header == recorded.header && got.payload == recorded.payload
}

struct Client<T> {
    stream: T,
    buffer: BytesMut,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    /// The next packet but for keepalive, whose pings are answered; none at the end of the connection.
    async fn next(&mut self) -> Result<Option<Packet>, FrameError> {
        loop {
            while let Some(packet) = PacketCodec.decode(&mut self.buffer)? {
                if !is_keepalive(&packet) {
                    return Ok(Some(packet));
                }
                if packet.header.procedure == Ping::NUMBER {
                    self.send(Packet {
                        header: Header::keepalive(Pong::NUMBER),
                        payload: Default::default(),
                    })
                    .await?;
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return PacketCodec.decode_eof(&mut self.buffer);
            }
        }
    }

    async fn send(&mut self, packet: Packet) -> Result<(), FrameError> {
        let mut bytes = BytesMut::new();
        PacketCodec.encode(packet, &mut bytes)?;
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn call(serial: u32, payload: &'static [u8]) -> Packet {
        Packet {
            header: Header::call(1, 1, 5, serial),
            payload: Bytes::from_static(payload),
        }
    }

    fn reply(serial: u32) -> Packet {
        let mut packet = call(serial, b"done");
        packet.header.kind = MessageType::REPLY;
        packet
    }

    fn fixture() -> Fixture {
        let mut fixture = Fixture::default();
        fixture
            .packets
            .push((Direction::ToServer, call(3, b"ask ")));
        fixture.packets.push((Direction::ToClient, reply(3)));
        fixture
    }

    async fn play(sent: &[Packet]) -> (Vec<Packet>, Result<(), ReplayError>) {
        let (stream, served) = Replay::new(fixture()).connect();
        let mut client = Client {
            stream,
            buffer: BytesMut::new(),
        };
        for packet in sent {
            client.send(packet.clone()).await.unwrap();
        }
        let _ = client.stream.shutdown().await;
        let mut received = Vec::new();
        while let Ok(Some(packet)) = client.next().await {
            received.push(packet);
        }
        (received, served.await.unwrap())
    }

    #[tokio::test]
    async fn replies_bear_the_clients_own_serial() {
        let (received, served) = play(&[call(77, b"ask ")]).await;
        assert_eq!(received, [reply(77)]);
        served.unwrap();
    }

    #[tokio::test]
    async fn an_unexpected_call_shows_both_packets() {
        let (_, served) = play(&[call(1, b"tell")]).await;
        let text = served.unwrap_err().to_string();
        assert!(text.contains("tell") && text.contains("ask."), "{text}");
        let (_, served) = play(&[call(1, b"ask "), call(2, b"more")]).await;
        let text = served.unwrap_err().to_string();
        assert!(
            text.contains("more") && text.contains("nothing more"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn leaving_early_is_an_error() {
        let (_, served) = play(&[]).await;
        assert!(matches!(
            served,
            Err(ReplayError::Incomplete { left: 2, .. })
        ));
    }
}
