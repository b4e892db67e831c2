//! A security layer of SASL: from some moment on all bytes go in packets that a mechanism has wrapped. Imports nothing of ours.
//!
//! ```text
//! length u32, big endian | token
//! ```
//! What crosses the moment is refused: bytes that an intruder sent in the clear before it would be taken for protected ones.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of the length.
const PREFIX: usize = 4;

/// Bytes wrapped at once at most, however much the peer would take.
const MOST_PLAIN: usize = 64 * 1024;

/// Bytes read from the stream at once at most.
const READ_AT_ONCE: usize = 64 * 1024;

/// A buffer larger than this is given back when it is empty.
const KEEP_BUFFER: usize = 8 * 1024;

/// What a mechanism does with the bytes. Neither side blocks.
pub(crate) trait Cipher: Send {
    /// Puts one token with `plain` in it behind what `token` holds.
    fn wrap(&mut self, plain: &[u8], token: &mut Vec<u8>) -> io::Result<()>;

    /// Puts what one token holds behind what `plain` holds.
    fn unwrap(&mut self, token: &[u8], plain: &mut Vec<u8>) -> io::Result<()>;
}

/// What two sides have agreed on.
pub(crate) struct Layer {
    pub(crate) cipher: Box<dyn Cipher>,
    /// The longest token that the peer takes.
    pub(crate) longest_sent: usize,
    /// The longest token that the peer may send.
    pub(crate) longest_received: usize,
    /// By how much a token is longer than what it holds, at most. Less than `longest_sent`.
    pub(crate) overhead: usize,
}

type SharedCipher = Arc<Mutex<Box<dyn Cipher>>>;

/// Where the two halves of a stream find the layer, once it has begun.
#[derive(Clone, Default)]
pub(crate) struct LayerSlot(Arc<Slot>);

#[derive(Default)]
struct Slot {
    state: AtomicU8,
    opening: Mutex<Option<Opening>>,
    sealing: Mutex<Option<Sealing>>,
}

/// States of a slot.
const ARMED: u8 = 1;
const BEGUN: u8 = 2;

impl LayerSlot {
    /// Leaves the layer here, to begin with [`begin`](LayerSlot::begin).
    pub(crate) fn arm(&self, layer: Layer) {
        let cipher: SharedCipher = Arc::new(Mutex::new(layer.cipher));
        let most = layer.longest_sent.saturating_sub(layer.overhead);
        let sealing = Sealing {
            cipher: cipher.clone(),
            most: most.clamp(1, MOST_PLAIN),
            longest: layer.longest_sent,
            packet: Vec::new(),
            written: 0,
        };
        let opening = Opening {
            cipher,
            longest: layer.longest_received,
            raw: Vec::new(),
            plain: Vec::new(),
            taken: 0,
        };
        put(&self.0.sealing, sealing);
        put(&self.0.opening, opening);
        self.0.state.store(ARMED, Ordering::Release);
    }

    /// Whether there is one that has not begun.
    pub(crate) fn is_armed(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == ARMED
    }

    /// Has every byte that is read or written after this go through it. `unread` is what was read already and not looked at.
    ///
    /// # Errors
    ///
    /// Where that is something: it came in the clear.
    pub(crate) fn begin(&self, unread: &[u8]) -> io::Result<()> {
        if !unread.is_empty() {
            let count = unread.len();
            return Err(invalid(format!(
                "{count} bytes came before the security layer began"
            )));
        }
        self.0.state.store(BEGUN, Ordering::Release);
        Ok(())
    }

    /// The half for reading, once; none before it has begun.
    pub(super) fn opening(&self) -> Option<Opening> {
        self.taken(&self.0.opening)
    }

    /// The half for writing, once; none before it has begun.
    pub(super) fn sealing(&self) -> Option<Sealing> {
        self.taken(&self.0.sealing)
    }

    fn taken<T>(&self, half: &Mutex<Option<T>>) -> Option<T> {
        match self.0.state.load(Ordering::Acquire) {
            BEGUN => half.lock().unwrap_or_else(PoisonError::into_inner).take(),
            _ => None,
        }
    }
}

fn put<T>(place: &Mutex<Option<T>>, value: T) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// What comes, unwrapped.
pub(super) struct Opening {
    cipher: SharedCipher,
    longest: usize,
    /// What came and is still wrapped; less than a packet, between two calls.
    raw: Vec<u8>,
    /// What was unwrapped, of which `taken` bytes have been read.
    plain: Vec<u8>,
    taken: usize,
}

impl Opening {
    /// As [`AsyncRead::poll_read`], from `stream`, which is at the start of a packet at first. A stream that ends inside one is
    /// an error.
    pub(super) fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        stream: &mut R,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.taken < self.plain.len() {
                let rest = self.plain.get(self.taken..).unwrap_or_default();
                let part = rest.get(..buf.remaining()).unwrap_or(rest);
                buf.put_slice(part);
                self.taken += part.len();
                return Poll::Ready(Ok(()));
            }
            self.plain.clear();
            self.taken = 0;
            give_back(&mut self.plain);
            let wanted = self.unwrap_all()?;
            if !self.plain.is_empty() {
                continue;
            }
            if ready!(self.poll_fill(stream, cx, wanted))? == 0 {
                return Poll::Ready(match self.raw.len() {
                    0 => Ok(()),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
        }
    }

    /// Unwraps all packets that are there. Gives how many bytes of the next one are missing, as far as that is known.
    fn unwrap_all(&mut self) -> io::Result<usize> {
        let mut rest = self.raw.as_slice();
        let missing = loop {
            let Some((length, token)) = rest.split_first_chunk::<PREFIX>() else {
                break PREFIX - rest.len();
            };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length > self.longest {
                return Err(invalid(format!(
                    "a packet of {length} bytes in the security layer, where {} are the most",
                    self.longest
                )));
            }
            let Some((token, after)) = token.split_at_checked(length) else {
                break length - token.len();
            };
            let mut cipher = self.cipher.lock().unwrap_or_else(PoisonError::into_inner);
            cipher.unwrap(token, &mut self.plain)?;
            rest = after;
        };
        let used = self.raw.len() - rest.len();
        self.raw.drain(..used);
        give_back(&mut self.raw);
        Ok(missing)
    }

    /// Reads once, `wanted` bytes or what is there besides. Gives how many came.
    fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        stream: &mut R,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        let before = self.raw.len();
        let room = wanted.clamp(KEEP_BUFFER, READ_AT_ONCE);
        self.raw.resize(before + room, 0);
        let mut part = ReadBuf::new(self.raw.get_mut(before..).unwrap_or_default());
        let read = Pin::new(stream).poll_read(cx, &mut part);
        let came = part.filled().len();
        self.raw.truncate(before + came);
        read.map_ok(|()| came)
    }
}

/// What goes, wrapped.
pub(super) struct Sealing {
    cipher: SharedCipher,
    /// Bytes to wrap at once.
    most: usize,
    longest: usize,
    /// A packet, of which `written` bytes have gone.
    packet: Vec<u8>,
    written: usize,
}

impl Sealing {
    /// As [`AsyncWrite::poll_write`], to `stream`. What it takes of `bytes` may wait here, and nothing more is taken before that
    /// has gone.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(stream, cx))?;
        let part = bytes.get(..self.most).unwrap_or(bytes);
        if part.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.packet.extend_from_slice(&[0; PREFIX]);
        let wrapped = {
            let mut cipher = self.cipher.lock().unwrap_or_else(PoisonError::into_inner);
            cipher.wrap(part, &mut self.packet)
        };
        let length = self.packet.len().saturating_sub(PREFIX);
        match u32::try_from(length)
            .ok()
            .filter(|_| length <= self.longest)
        {
            Some(word) if wrapped.is_ok() => {
                if let Some(prefix) = self.packet.first_chunk_mut() {
                    *prefix = word.to_be_bytes();
                }
            }
            _ => {
                self.packet.clear();
                wrapped?;
                return Poll::Ready(Err(invalid(format!(
                    "a packet of {length} bytes, where the peer takes {} at most",
                    self.longest
                ))));
            }
        }
        // It is taken, whether or not it goes now.
        match self.poll_drain(stream, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(part.len())),
        }
    }

    /// As [`AsyncWrite::poll_flush`].
    pub(super) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(stream, cx))?;
        Pin::new(stream).poll_flush(cx)
    }

    /// Writes what waits.
    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self
            .packet
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            match ready!(Pin::new(&mut *stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.packet.clear();
        self.written = 0;
        give_back(&mut self.packet);
        Poll::Ready(Ok(()))
    }
}

/// Frees an empty buffer that has grown large.
fn give_back(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEEP_BUFFER {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::transport::{ReadHalf, Transport, WriteHalf};

    /// Bytes that [`Fake`] adds.
    const ADDED: usize = 3;

    /// Turns the bits over, and counts the tokens of each direction in front.
    #[derive(Default)]
    struct Fake {
        wrapped: u8,
        unwrapped: u8,
        /// Bytes it adds besides.
        more: usize,
    }

    impl Cipher for Fake {
        fn wrap(&mut self, plain: &[u8], token: &mut Vec<u8>) -> io::Result<()> {
            token.extend_from_slice(&[b'T', b'K', self.wrapped]);
            token.extend(plain.iter().map(|byte| !byte));
            token.extend(std::iter::repeat_n(0, self.more));
            self.wrapped = self.wrapped.wrapping_add(1);
            Ok(())
        }

        fn unwrap(&mut self, token: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
            let marks = [b'T', b'K', self.unwrapped];
            let Some(text) = token.strip_prefix(&marks) else {
                return Err(io::Error::other(format!("no token: {token:?}")));
            };
            plain.extend(text.iter().map(|byte| !byte));
            self.unwrapped = self.unwrapped.wrapping_add(1);
            Ok(())
        }
    }

    fn layer(longest_sent: usize, longest_received: usize) -> Layer {
        Layer {
            cipher: Box::new(Fake::default()),
            longest_sent,
            longest_received,
            overhead: ADDED,
        }
    }

    /// The halves of one end of a stream, after the layer has begun there, and the other end.
    fn secured(layer: Layer, room: usize) -> (ReadHalf, WriteHalf, DuplexStream) {
        let (one, other) = duplex(room);
        let (read, write) = Transport::new(one).split();
        read.layer().arm(layer);
        read.layer().begin(&[]).unwrap();
        (read, write, other)
    }

    /// The packets of these texts, as the other side's first ones.
    fn packets(texts: &[&[u8]]) -> Vec<u8> {
        let mut fake = Fake::default();
        let mut bytes = Vec::new();
        for text in texts {
            let mut token = Vec::new();
            fake.wrap(text, &mut token).unwrap();
            bytes.extend_from_slice(&u32::try_from(token.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&token);
        }
        bytes
    }

    fn long(length: u32) -> Vec<u8> {
        (0..length)
            .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
            .collect()
    }

    #[tokio::test]
    async fn before_it_begins_the_bytes_are_in_the_clear() {
        let (one, mut other) = duplex(64);
        let (mut read, mut write) = Transport::new(one).split();
        let slot = read.layer();
        assert!(!slot.is_armed());
        slot.arm(layer(100, 100));
        assert!(slot.is_armed());
        write.write_all(b"call").await.unwrap();
        let mut four = [0; 4];
        other.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"call");
        other.write_all(b"done").await.unwrap();
        read.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"done");

        slot.begin(&[]).unwrap();
        assert!(!slot.is_armed());
        write.write_all(b"call").await.unwrap();
        write.flush().await.unwrap();
        let expected = packets(&[b"call"]);
        let mut came = vec![0; expected.len()];
        other.read_exact(&mut came).await.unwrap();
        assert_eq!(came, expected);
        other.write_all(&packets(&[b"more"])).await.unwrap();
        read.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"more");
    }

    #[tokio::test]
    async fn what_was_read_in_the_clear_is_never_taken_for_protected() {
        let (one, _other) = duplex(64);
        let (read, _write) = Transport::new(one).split();
        let slot = read.layer();
        slot.arm(layer(100, 100));
        let error = slot.begin(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(slot.opening().is_none() && slot.sealing().is_none());
    }

    #[tokio::test]
    async fn packets_are_found_wherever_the_stream_is_cut() {
        let bytes = packets(&[b"", b"one", b"", b"and two", &long(300)]);
        let plain = [b"oneand two".as_slice(), &long(300)].concat();
        for cut in 0..=bytes.len() {
            let (mut read, _write, mut other) = secured(layer(100, 400), 4096);
            let (before, after) = bytes.split_at(cut);
            other.write_all(before).await.unwrap();
            let reading = async {
                let mut came = Vec::new();
                read.read_to_end(&mut came).await.unwrap();
                came
            };
            let writing = async {
                // The reader has taken what there is by then.
                tokio::task::yield_now().await;
                other.write_all(after).await.unwrap();
                drop(other);
            };
            let (came, ()) = tokio::join!(reading, writing);
            assert_eq!(came, plain, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_reader_takes_as_little_as_it_likes() {
        for room in [1, 7] {
            let (mut read, _write, mut other) = secured(layer(100, 400), room);
            let bytes = packets(&[b"one", &long(300)]);
            let writing = async {
                other.write_all(&bytes).await.unwrap();
                drop(other);
            };
            let reading = async {
                let mut came = Vec::new();
                let mut byte = [0; 2];
                loop {
                    match read.read(&mut byte).await.unwrap() {
                        0 => return came,
                        count => came.extend_from_slice(&byte[..count]),
                    }
                }
            };
            let ((), came) = tokio::join!(writing, reading);
            assert_eq!(came, [b"one".as_slice(), &long(300)].concat());
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_packet_is_an_error() {
        let bytes = packets(&[b"whole", b"cut"]);
        let whole = packets(&[b"whole"]).len();
        for end in 0..bytes.len() {
            let (mut read, _write, mut other) = secured(layer(100, 100), 4096);
            other.write_all(&bytes[..end]).await.unwrap();
            drop(other);
            let mut came = Vec::new();
            let result = read.read_to_end(&mut came).await;
            assert_eq!(came, if end < whole { &b""[..] } else { b"whole" });
            match end == 0 || end == whole {
                true => assert!(result.is_ok(), "{end}"),
                false => {
                    assert_eq!(
                        result.unwrap_err().kind(),
                        io::ErrorKind::UnexpectedEof,
                        "{end}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn an_absurd_length_is_refused_before_anything_is_waited_for() {
        for length in [101, 0x0001_0000, 0x7fff_ffff, u32::MAX] {
            let (mut read, _write, mut other) = secured(layer(100, 100), 64);
            other.write_all(&length.to_be_bytes()).await.unwrap();
            let error = read.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(&length.to_string()), "{error}");
        }
        // The longest that may be.
        let (mut read, _write, mut other) = secured(layer(100, 100), 4096);
        let most = long(97);
        other.write_all(&packets(&[&most])).await.unwrap();
        let mut came = vec![0; most.len()];
        read.read_exact(&mut came).await.unwrap();
        assert_eq!(came, most);
    }

    #[tokio::test]
    async fn what_cannot_be_unwrapped_is_an_error() {
        for token in [&b""[..], b"TK", b"TK\x01out of order", b"garbage"] {
            let (mut read, _write, mut other) = secured(layer(100, 100), 4096);
            let mut bytes = u32::try_from(token.len()).unwrap().to_be_bytes().to_vec();
            bytes.extend_from_slice(token);
            other.write_all(&bytes).await.unwrap();
            let error = read.read(&mut [0; 8]).await.unwrap_err();
            assert!(error.to_string().contains("no token"), "{error}");
        }
    }

    /// All tokens of a byte stream.
    fn tokens(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<PREFIX>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
            let (token, rest) = rest.split_at(length);
            found.push(token);
            bytes = rest;
        }
        assert!(bytes.is_empty(), "{} bytes too many", bytes.len());
        found
    }

    #[tokio::test]
    async fn what_is_long_goes_in_packets_that_the_peer_takes() {
        let text = long(300_000);
        for (longest, count) in [(1000, 301), (100_000, 5), (usize::MAX, 5)] {
            for room in [11, 1 << 20] {
                let (_read, mut write, mut other) = secured(layer(longest, 100), room);
                let writing = async {
                    write.write_all(&text).await.unwrap();
                    write.shutdown().await.unwrap();
                    drop((write, _read));
                };
                let mut came = Vec::new();
                let reading = async { other.read_to_end(&mut came).await.unwrap() };
                tokio::join!(writing, reading);
                let found = tokens(&came);
                assert_eq!(found.len(), count);
                assert!(found.iter().all(|token| token.len() <= longest));
                let mut fake = Fake::default();
                let mut plain = Vec::new();
                for token in found {
                    fake.unwrap(token, &mut plain).unwrap();
                }
                assert!(plain == text);
            }
        }
    }

    /// Each time it is asked it takes a packet at most, and only while the one before has gone.
    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_the_writer_up() {
        let (_read, mut write, mut other) = secured(layer(1000, 100), 16);
        let text = long(5000);
        let mut taken = 0;
        let waiting = std::future::poll_fn(|cx| match Pin::new(&mut write).poll_write(cx, &text) {
            Poll::Ready(result) => {
                taken += result.unwrap();
                Poll::Ready(false)
            }
            Poll::Pending => Poll::Ready(true),
        });
        assert!(!waiting.await);
        assert_eq!(taken, 1000 - ADDED);
        let waits = std::future::poll_fn(|cx| {
            let write = Pin::new(&mut write).poll_write(cx, &text);
            Poll::Ready(write.is_pending())
        });
        assert!(waits.await);
        // A flush that is dropped half-way loses nothing.
        let flushed = std::future::poll_fn(|cx| {
            let flush = Pin::new(&mut write).poll_flush(cx);
            Poll::Ready(flush.is_ready())
        });
        assert!(!flushed.await);
        let mut came = vec![0; PREFIX + 1000];
        let (read, flushed) = tokio::join!(other.read_exact(&mut came), write.flush());
        read.unwrap();
        flushed.unwrap();
        assert_eq!(tokens(&came).len(), 1);
    }

    #[tokio::test]
    async fn a_packet_that_the_peer_would_not_take_is_not_sent() {
        let more = Layer {
            cipher: Box::new(Fake {
                more: 1,
                ..Fake::default()
            }),
            ..layer(100, 100)
        };
        let (read, mut write, mut other) = secured(more, 4096);
        let error = write.write_all(&long(200)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop((read, write));
        let mut came = Vec::new();
        other.read_to_end(&mut came).await.unwrap();
        assert!(came.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_a_peer_sends_panics(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            lengths in prop::collection::vec(0..120_u32, 0..8),
        ) {
            // Half of it has the form of packets.
            let mut bytes = Vec::new();
            for (part, length) in parts.iter().zip(lengths.iter().chain(std::iter::repeat(&3))) {
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(part);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut read, _write, mut other) = secured(layer(100, 100), 4096);
                other.write_all(&bytes).await.unwrap();
                drop(other);
                let mut came = Vec::new();
                let result = read.read_to_end(&mut came).await;
                prop_assert!(came.len() <= bytes.len());
                prop_assert!(result.is_err() || came.is_empty() || bytes.len() > ADDED + PREFIX);
                Ok(())
            })?;
        }
    }
}
