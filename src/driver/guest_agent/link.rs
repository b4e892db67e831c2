//! One command at a time over the stream to a guest agent. Imports `sync`, transport, qmp and error.
//!
//! Every future here can be dropped at any point: the link is out of step then, and is synchronized before the next command.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::codec::Decoder;
use tracing::{debug, trace};

use super::sync::{Search, question};
use crate::error::EndCause;
use crate::qmp::{FrameDecoder, is_error, return_value};
use crate::transport::{ReadHalf, Transport, WriteHalf};

/// Room made for one read.
const READ_ROOM: usize = 16 * 1024;

pub(super) struct Link {
    read: ReadHalf,
    write: WriteHalf,
    /// What came and has not been taken.
    buffer: BytesMut,
    decoder: FrameDecoder,
    /// Whether the next object to come is the answer to the next command.
    in_step: bool,
    /// Bytes that one message may have.
    max_message: usize,
}

pub(super) enum Failure {
    Ended(EndCause),
    /// What came is no JSON object, or is too large for one.
    Garbage(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Ended(EndCause::Io(Arc::new(error)))
    }
}

impl Link {
    pub(super) fn new(stream: Transport, max_message: usize) -> Self {
        let (read, write) = stream.split();
        Link {
            read,
            write,
            buffer: BytesMut::new(),
            decoder: FrameDecoder::new(max_message),
            max_message,
            in_step: false,
        }
    }

    /// Whether what comes next answers what is sent next. Not where the agent has said more than it was asked for.
    pub(super) fn is_synced(&self) -> bool {
        self.in_step && self.buffer.iter().all(u8::is_ascii_whitespace)
    }

    /// Finds the place in the stream after everything that the agent had to say before.
    pub(super) async fn synchronize(&mut self) -> Result<(), Failure> {
        self.in_step = false;
        self.decoder = FrameDecoder::new(self.max_message);
        let question = question();
        trace!(target: "libvirt_qmp::agent", id = question.id, "synchronizing");
        // 0xFF is in no JSON: it ends the half of a command that a client before us may have left.
        let asking = [b"\xff", &question.text[..]].concat();
        let Link {
            read,
            write,
            buffer,
            ..
        } = self;
        // Both at once: an agent that has much to say first does not read.
        let ask = async {
            write.write_all(&asking).await?;
            write.flush().await?;
            Ok(())
        };
        let listen = async {
            let mut search = Search::new(question.id);
            loop {
                match search.look(buffer) {
                    Ok(true) => return Ok(search.passed_over()),
                    Ok(false) => fill(read, buffer).await?,
                    Err(error) => {
                        return Err(Failure::Ended(EndCause::Protocol(error.to_string())));
                    }
                }
            }
        };
        let ((), passed_over) = tokio::try_join!(ask, listen)?;
        debug!(target: "libvirt_qmp::agent", passed_over, "synchronized");
        self.in_step = true;
        Ok(())
    }

    /// Sends a command.
    pub(super) async fn send(&mut self, call: &[u8]) -> Result<(), Failure> {
        // Until the reply has come whole.
        self.in_step = false;
        trace!(target: "libvirt_qmp::agent", bytes = call.len(), "sending");
        self.write.write_all(call).await?;
        self.write.flush().await?;
        Ok(())
    }

    /// The reply to the command that was sent.
    pub(super) async fn reply(&mut self) -> Result<Bytes, Failure> {
        let reply = self.object().await?;
        self.in_step = true;
        Ok(reply)
    }

    /// What the agent says before it answers the question of `id`, where that is an error.
    pub(super) async fn error_before(&mut self, id: i64) -> Result<Option<Bytes>, Failure> {
        let mut error = None;
        loop {
            let object = self.object().await?;
            if return_value::<i64>(&object).is_ok_and(|value| value == id) {
                self.in_step = true;
                return Ok(error);
            }
            if error.is_none() && is_error(&object).unwrap_or(true) {
                error = Some(object);
            }
        }
    }

    async fn object(&mut self) -> Result<Bytes, Failure> {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(object)) => {
                    trace!(target: "libvirt_qmp::agent", bytes = object.len(), "received");
                    return Ok(object);
                }
                Ok(None) => fill(&mut self.read, &mut self.buffer).await?,
                Err(error) => return Err(Failure::Garbage(error.to_string())),
            }
        }
    }
}

/// Reads once.
async fn fill(read: &mut ReadHalf, buffer: &mut BytesMut) -> Result<(), Failure> {
    if buffer.capacity() == buffer.len() {
        buffer.reserve(READ_ROOM);
    }
    match read.read_buf(buffer).await? {
        0 => Err(Failure::Ended(EndCause::PeerClosed)),
        _ => Ok(()),
    }
}
