//! The recorder: a stream that also keeps the packets that go through it.
//!
//! What is known to be secret does not get into the recording: the exchange of SASL is left blank, and the values of
//! password arguments in monitor commands are replaced by asterisks of the same length.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::Decoder;
use xdr_codec::{Pack, Unpack};

use super::{Direction, Fixture};
use crate::packet::{Packet, PacketCodec};
use crate::protocol::Procedure;
use crate::protocol::qemu::procedure::{
    DomainAgentCommand, DomainMonitorCommand, DomainMonitorCommandWithFiles,
};
use crate::protocol::qemu::{DomainAgentCommandArgs, DomainMonitorCommandArgs};
use crate::protocol::remote::procedure::{AuthSaslStart, AuthSaslStep};
use crate::xdr::{self, Reader, Writer};

/// Members of a command whose values are secret.
const SECRET_MEMBERS: [&[u8]; 5] = [b"password", b"passwd", b"secret", b"key", b"data"];

/// Wraps `stream` so that the packets going through it are recorded. Use the first in place of the stream.
///
/// The recording lives in memory; take it with [`Recording::fixture`].
pub fn record<T>(stream: T) -> (Recorded<T>, Recording) {
    let shared = Arc::new(Mutex::new(State::default()));
    (
        Recorded {
            stream,
            shared: shared.clone(),
        },
        Recording { shared },
    )
}

/// A stream whose packets are recorded.
#[derive(Debug)]
pub struct Recorded<T> {
    stream: T,
    shared: Arc<Mutex<State>>,
}

/// What has been recorded of a stream, also after the stream is gone.
#[derive(Clone, Debug)]
pub struct Recording {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    fixture: Fixture,
    to_server: BytesMut,
    to_client: BytesMut,
}

impl Recording {
    /// The packets so far. A packet under way is not among them, nor is what follows bytes that are no packet.
    pub fn fixture(&self) -> Fixture {
        lock(&self.shared).fixture.clone()
    }
}

impl State {
    fn take(&mut self, direction: Direction, bytes: &[u8]) {
        let buffer = match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        };
        buffer.extend_from_slice(bytes);
        while let Ok(Some(packet)) = PacketCodec.decode(buffer) {
            self.fixture
                .packets
                .push((direction, without_secrets(packet)));
        }
    }
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing panics under this lock.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn without_secrets(mut packet: Packet) -> Packet {
    let (program, procedure) = (packet.header.program, packet.header.procedure);
    packet.payload = match (program, procedure) {
        (AuthSaslStart::PROGRAM, AuthSaslStart::NUMBER | AuthSaslStep::NUMBER) => {
            Bytes::from(vec![0; packet.payload.len()])
        }
        (
            DomainMonitorCommand::PROGRAM,
            DomainMonitorCommand::NUMBER | DomainMonitorCommandWithFiles::NUMBER,
        ) => without_passwords(packet.payload, |args: &mut DomainMonitorCommandArgs| {
            &mut args.cmd
        }),
        (DomainAgentCommand::PROGRAM, DomainAgentCommand::NUMBER) => {
            without_passwords(packet.payload, |args: &mut DomainAgentCommandArgs| {
                &mut args.cmd
            })
        }
        _ => packet.payload,
    };
    packet
}

/// The arguments of a command with the passwords in it masked. What does not decode is left as it is.
fn without_passwords<A>(payload: Bytes, command: impl Fn(&mut A) -> &mut String) -> Bytes
where
    A: Unpack<Reader> + Pack<Writer>,
{
    let Ok(mut args) = xdr::decode::<A>(payload.clone()) else {
        return payload;
    };
    let mut text = command(&mut args).as_bytes().to_vec();
    if !mask_secrets(&mut text) {
        return payload;
    }
    let Ok(masked) = String::from_utf8(text) else {
        return payload;
    };
    *command(&mut args) = masked;
    let mut encoded = Vec::with_capacity(payload.len());
    match xdr::encode(&args, &mut encoded) {
        Ok(()) => encoded.into(),
        Err(_) => payload,
    }
}

/// Replaces the string values of secret members by asterisks, and says whether there were any.
/// `data`, `key` and `secret` are secret only where an object of that kind is made.
fn mask_secrets(text: &mut [u8]) -> bool {
    let holds_secret = text.windows(8).any(|window| window == b"\"secret\"");
    let mut masked = false;
    let mut position = 0;
    while let Some((member, after)) = next_string(text, position) {
        position = after;
        let name = &text[member.clone()];
        let secret = SECRET_MEMBERS.contains(&name)
            && (holds_secret || matches!(name, b"password" | b"passwd"));
        let colon = text[after..]
            .iter()
            .position(|byte| !byte.is_ascii_whitespace())
            .map(|skip| after + skip);
        let Some(colon) = colon.filter(|colon| secret && text[*colon] == b':') else {
            continue;
        };
        let value_starts = text[colon + 1..]
            .iter()
            .position(|byte| !byte.is_ascii_whitespace());
        if value_starts.is_none_or(|skip| text[colon + 1 + skip] != b'"') {
            continue;
        }
        if let Some((value, end)) = next_string(text, colon + 1) {
            text[value].fill(b'*');
            masked = true;
            position = end;
        }
    }
    masked
}

/// The inside of the next JSON string at or after `from`, and the position behind it.
fn next_string(text: &[u8], from: usize) -> Option<(std::ops::Range<usize>, usize)> {
    let start = from + text[from..].iter().position(|byte| *byte == b'"')? + 1;
    let mut position = start;
    loop {
        match text.get(position)? {
            b'\\' => position += 2,
            b'"' => return Some((start..position, position + 1)),
            _ => position += 1,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Recorded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        lock(&self.shared).take(Direction::ToClient, &buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Recorded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        lock(&self.shared).take(Direction::ToServer, &bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::packet::Header;

    #[tokio::test]
    async fn packets_are_recorded_both_ways_and_pass_unchanged() {
        let (client, mut server) = tokio::io::duplex(1024);
        let (mut client, recording) = record(client);
        let ping = Header::keepalive(1).prefix(0);
        let pong = Header::keepalive(2).prefix(0);
        client.write_all(&ping[..10]).await.unwrap();
        client.write_all(&ping[10..]).await.unwrap();
        let mut seen = [0; 28];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, ping);
        server.write_all(&pong).await.unwrap();
        client.read_exact(&mut seen).await.unwrap();
        let packets = recording.fixture().packets;
        let found: Vec<_> = packets
            .iter()
            .map(|(direction, packet)| (*direction, packet.header))
            .collect();
        assert_eq!(
            found,
            [
                (Direction::ToServer, Header::keepalive(1)),
                (Direction::ToClient, Header::keepalive(2))
            ]
        );
    }

    #[test]
    fn passwords_are_masked_and_nothing_else() {
        for (text, expected) in [
            (
                r#"{"execute":"set_password","arguments":{"protocol":"vnc","password": "h\"unter2"}}"#,
                r#"{"execute":"set_password","arguments":{"protocol":"vnc","password": "*********"}}"#,
            ),
            (
                r#"{"execute":"object-add","arguments":{"qom-type":"secret","id":"s","data":"top"}}"#,
                r#"{"execute":"object-add","arguments":{"qom-type":"secret","id":"s","data":"***"}}"#,
            ),
            (
                r#"{"execute":"ringbuf-write","arguments":{"data":"hello"}}"#,
                "",
            ),
            (r#"{"execute":"query-status"}"#, ""),
            (r#"{"password":17,"x":"password"}"#, ""),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            let masked = mask_secrets(&mut bytes);
            assert_eq!(masked, !expected.is_empty(), "{text}");
            let expected = if masked { expected } else { text };
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        }
    }

    #[test]
    fn passwords_for_the_guest_agent_are_masked() {
        let args = |command: &'static str| {
            let args = DomainAgentCommandArgs {
                dom: crate::objects::Domain {
                    name: "vm-1".into(),
                    uuid: uuid::Uuid::from_bytes([7; 16]),
                    id: Some(1),
                },
                cmd: command.into(),
                timeout: -1,
                flags: 0,
            };
            let mut payload = Vec::new();
            xdr::encode(&args, &mut payload).unwrap();
            Bytes::from(payload)
        };
        let packet = without_secrets(Packet {
            header: Header::call(
                DomainAgentCommand::PROGRAM,
                1,
                DomainAgentCommand::NUMBER,
                4,
            ),
            payload: args(r#"{"arguments":{"password":"c2VjcmV0"}}"#),
        });
        assert_eq!(
            packet.payload,
            args(r#"{"arguments":{"password":"********"}}"#)
        );
    }

    #[test]
    fn sasl_is_left_blank() {
        let header = Header::call(AuthSaslStart::PROGRAM, 1, AuthSaslStart::NUMBER, 4);
        let packet = without_secrets(Packet {
            header,
            payload: Bytes::from_static(b"PLAIN\0user\0password"),
        });
        assert_eq!(packet.header, header);
        assert_eq!(packet.payload, vec![0; 19]);
    }
}
