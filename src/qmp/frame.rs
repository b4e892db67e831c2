//! Framing: a stream of bytes becomes one `Bytes` per JSON object, found by nesting and strings and never by lines,
//! since a monitor may be set to pretty-print. Imports `lex` and the limit in `mod`.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

use super::MAX_MESSAGE;
use super::lex::{MAX_DEPTH, Walk, Walker};

/// Room made in the buffer for the next read.
const READ_ROOM: usize = 16 << 10;
/// Less room than this and more is made. It is well below `READ_ROOM`: messages still in use keep the old buffer
/// alive, and making room then costs a new one, which should not happen for each small message.
const LOW_ROOM: usize = 4 << 10;
/// The buffer of a message longer than this is given away with it. Otherwise the buffer would stay that large, and what
/// is read into its rest would keep all of it in memory.
const LARGE: usize = 1 << 20;
/// Bytes of unexpected input quoted in an error.
const EXCERPT: usize = 48;

/// Why a stream cannot be read any further. All of them are final: the place where the next message starts is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("expected a JSON object from the QMP server, got \"{excerpt}\"")]
    Garbage {
        /// The start of what came, escaped to printable ASCII.
        excerpt: String,
    },
    #[error("message longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("message nested deeper than {limit} levels")]
    TooDeep { limit: usize },
    #[error("stream ended {length} bytes into a message")]
    Eof { length: usize },
    #[error("reading failed")]
    Io(#[from] io::Error),
}

/// Splits a stream into JSON objects. What stands in an object is not checked beyond strings and nesting.
///
/// Between objects any amount of blanks is skipped, and bytes 0xFF, which the guest agent sends to mark a new start.
#[derive(Debug)]
pub(crate) struct FrameDecoder {
    max: usize,
    walker: Walker,
    /// Bytes at the front of the buffer the walker has seen; they belong to the message under way.
    seen: usize,
    #[cfg(test)]
    looked_at: usize,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new(MAX_MESSAGE)
    }
}

impl FrameDecoder {
    /// A decoder for messages of up to `max` bytes each.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            walker: Walker::default(),
            seen: 0,
            #[cfg(test)]
            looked_at: 0,
        }
    }
}

/// Drops what may stand between messages and checks that a message follows.
fn skip_to_object(src: &mut BytesMut) -> Result<(), FrameError> {
    let skip = src
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0xFF))
        .unwrap_or(src.len());
    src.advance(skip);
    match src.first() {
        None | Some(b'{') => Ok(()),
        Some(_) => Err(FrameError::Garbage {
            excerpt: src[..src.len().min(EXCERPT)].escape_ascii().to_string(),
        }),
    }
}

/// Makes room to read more. A buffer that must grow doubles, as a `Vec` does.
fn make_room(src: &mut BytesMut) {
    if src.capacity() - src.len() < LOW_ROOM {
        src.reserve(READ_ROOM);
    }
}

impl Decoder for FrameDecoder {
    type Item = Bytes;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        if !self.walker.is_open() {
            skip_to_object(src)?;
        }
        // One byte beyond the limit is enough to know, however much has been read.
        let end = src.len().min(self.max.saturating_add(1));
        #[cfg(test)]
        let from = self.seen;
        let step = self.walker.walk(&src[..end], &mut self.seen);
        #[cfg(test)]
        {
            self.looked_at += self.seen - from;
        }
        if step == Walk::TooDeep {
            return Err(FrameError::TooDeep { limit: MAX_DEPTH });
        }
        if self.seen > self.max {
            return Err(FrameError::TooLong { limit: self.max });
        }
        if step == Walk::Closed {
            let message = src.split_to(std::mem::take(&mut self.seen));
            if message.len() > LARGE {
                *src = BytesMut::from(&src[..]);
            }
            return Ok(Some(message.freeze()));
        }
        make_room(src);
        Ok(None)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        match self.decode(src)? {
            Some(message) => Ok(Some(message)),
            None if src.is_empty() => Ok(None),
            None => Err(FrameError::Eof { length: src.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `chunks` one by one and gives what came out, up to the end of the stream.
    fn decode_all<'a>(
        decoder: &mut FrameDecoder,
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<Bytes>, FrameError> {
        let mut buffer = BytesMut::new();
        let mut messages = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(message) = decoder.decode(&mut buffer)? {
                messages.push(message);
            }
        }
        while let Some(message) = decoder.decode_eof(&mut buffer)? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn decode(stream: &[u8]) -> Result<Vec<Bytes>, FrameError> {
        decode_all(&mut FrameDecoder::default(), [stream])
    }

    const EVENT: &str = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#;
    const REPLY: &str = r#"{"return": {"a": "}\"]\\"}, "id": "x\\"}"#;

    #[test]
    fn any_separator_between_objects_or_none() {
        for separator in ["\r\n", "\n", "", " \t\r\n\n"] {
            let stream = [EVENT, REPLY, EVENT, ""].join(separator);
            assert_eq!(
                decode(stream.as_bytes()).unwrap(),
                [EVENT, REPLY, EVENT],
                "{separator:?}"
            );
        }
    }

    #[test]
    fn pretty_printed_objects_stay_whole() {
        let pretty = "{\r\n    \"return\": {\r\n        \"status\": \"running\"\r\n    },\r\n    \"id\": 1\r\n}";
        let stream = format!("{pretty}\r\n{pretty}\r\n");
        assert_eq!(decode(stream.as_bytes()).unwrap(), [pretty, pretty]);
    }

    #[test]
    fn agent_sentinel_is_skipped_between_objects() {
        let mut stream = vec![0xFF];
        stream.extend_from_slice(b"{\"return\": 7}\n\xFF\xFF{}");
        assert_eq!(decode(&stream).unwrap(), [&b"{\"return\": 7}"[..], b"{}"]);
    }

    #[test]
    fn anything_else_between_objects_is_garbage() {
        for (stream, shown) in [
            (
                &b"HTTP/1.1 400 Bad Request\r\n"[..],
                "HTTP/1.1 400 Bad Request\\r\\n",
            ),
            (b"{}\n]", "]"),
            (b"{},{}", ",{}"),
            (b"[]", "[]"),
            (b"\x16\x03\x01", "\\x16\\x03\\x01"),
        ] {
            match decode(stream) {
                Err(FrameError::Garbage { excerpt }) => assert_eq!(excerpt, shown),
                other => panic!("{other:?}"),
            }
        }
        let Err(FrameError::Garbage { excerpt }) = decode(&[b'x'; 5000]) else {
            panic!()
        };
        assert_eq!(excerpt, "x".repeat(EXCERPT));
    }

    #[test]
    fn end_of_stream_between_and_within_messages() {
        assert!(decode(b"").unwrap().is_empty());
        assert_eq!(decode(b"{} \r\n\xFF").unwrap().len(), 1);
        for (stream, left) in [
            ("{}{", 1),
            ("{\"a\": \"}", 8),
            ("{\"a\\", 4),
            ("{\"a\": {}", 8),
        ] {
            match decode(stream.as_bytes()) {
                Err(FrameError::Eof { length }) => assert_eq!(length, left),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn limit_is_exact_and_noticed_before_the_message_ends() {
        let message = format!("{{\"a\":\"{}\"}}", "x".repeat(100));
        let exact = message.len();
        let stream = format!("{message}\r\n{message}");
        let messages = decode_all(&mut FrameDecoder::new(exact), [stream.as_bytes()]).unwrap();
        assert_eq!(messages.len(), 2);
        let short = decode_all(&mut FrameDecoder::new(exact - 1), [message.as_bytes()]);
        assert!(matches!(short, Err(FrameError::TooLong { limit }) if limit == exact - 1));

        let mut decoder = FrameDecoder::new(1000);
        let mut buffer = BytesMut::from(&b"  {\""[..]);
        let mut sent = 2;
        let error = loop {
            match decoder.decode(&mut buffer) {
                Ok(None) => buffer.extend_from_slice(b"y"),
                Ok(Some(_)) => panic!(),
                Err(error) => break error,
            }
            sent += 1;
        };
        assert!(matches!(error, FrameError::TooLong { limit: 1000 }));
        assert_eq!(sent, 1001);
        // It stays an error.
        assert!(decoder.decode(&mut buffer).is_err());
        // A zero or greatest limit is only that.
        assert!(matches!(
            decode_all(&mut FrameDecoder::new(0), [&b"{}"[..]]),
            Err(FrameError::TooLong { limit: 0 })
        ));
        assert_eq!(
            decode_all(&mut FrameDecoder::new(usize::MAX), [&b"{}"[..]]).unwrap(),
            ["{}"]
        );
    }

    #[test]
    fn depth_is_capped() {
        let nested =
            |levels: usize| format!("{{\"id\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(decode(nested(1023).as_bytes()).unwrap().len(), 1);
        assert!(matches!(
            decode(nested(1024).as_bytes()),
            Err(FrameError::TooDeep { limit: 1024 })
        ));
    }

    #[test]
    fn byte_by_byte_looks_at_each_byte_once() {
        let body = "\\\"{[,".repeat(20_000);
        let stream = format!(" {{\"return\": \"{body}\", \"id\": [1, {{}}]}}\r\n{REPLY}");
        let mut decoder = FrameDecoder::default();
        let messages = decode_all(&mut decoder, stream.as_bytes().chunks(1)).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(
            decoder.looked_at,
            messages.iter().map(Bytes::len).sum::<usize>()
        );
    }

    #[test]
    fn messages_share_the_read_buffer() {
        let mut buffer = BytesMut::from(&b"{\"a\":1}{\"b\":2}"[..]);
        let start = buffer.as_ptr();
        let mut decoder = FrameDecoder::default();
        let first = decoder.decode(&mut buffer).unwrap().unwrap();
        let second = decoder.decode(&mut buffer).unwrap().unwrap();
        assert_eq!(first.as_ptr(), start);
        assert_eq!(second.as_ptr(), start.wrapping_add(first.len()));
    }

    #[test]
    fn there_is_always_room_for_a_large_read() {
        let mut decoder = FrameDecoder::new(1 << 20);
        let mut buffer = BytesMut::new();
        assert!(decoder.decode(&mut buffer).unwrap().is_none());
        assert!(buffer.capacity() >= READ_ROOM);
        buffer.extend_from_slice(b"{\"a\":\"");
        let mut grown = 0;
        let mut capacity = buffer.capacity();
        while buffer.len() < 1 << 20 {
            assert!(decoder.decode(&mut buffer).unwrap().is_none());
            let room = buffer.capacity() - buffer.len();
            assert!(room >= LOW_ROOM, "{room}");
            grown += usize::from(buffer.capacity() != capacity);
            capacity = buffer.capacity();
            let read = room.min((1 << 20) - buffer.len());
            buffer.resize(buffer.len() + read, b'x');
        }
        assert!(grown <= 10, "grew {grown} times");
    }

    #[test]
    fn small_messages_kept_alive_do_not_cost_a_buffer_each() {
        let mut decoder = FrameDecoder::default();
        let mut buffer = BytesMut::new();
        let mut kept = Vec::new();
        assert!(decoder.decode(&mut buffer).unwrap().is_none());
        for _ in 0..1000 {
            buffer.extend_from_slice(EVENT.as_bytes());
            kept.extend(decoder.decode(&mut buffer).unwrap());
            assert!(decoder.decode(&mut buffer).unwrap().is_none());
        }
        assert!(kept.iter().all(|message| message == EVENT));
        let buffers = 1 + kept
            .windows(2)
            .filter(|pair| pair[1].as_ptr() != pair[0].as_ptr().wrapping_add(EVENT.len()))
            .count();
        // 66 KB in all, at least 12 KiB to a buffer.
        assert!(buffers <= 6, "{buffers} buffers");
    }

    #[test]
    fn a_large_message_takes_its_buffer_along() {
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(LARGE));
        let mut buffer = BytesMut::from(format!("{large}\r\n{EVENT}").as_bytes());
        let mut decoder = FrameDecoder::default();
        let message = decoder.decode(&mut buffer).unwrap().unwrap();
        assert_eq!(message, large);
        assert!(buffer.capacity() < READ_ROOM, "{}", buffer.capacity());
        // Nobody else holds it, so that an id can be changed in place.
        assert!(message.is_unique());
        assert_eq!(decoder.decode(&mut buffer).unwrap().unwrap(), EVENT);
    }

    #[test]
    fn io_errors_pass_through() {
        let error = FrameError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(
            matches!(error, FrameError::Io(cause) if cause.kind() == io::ErrorKind::ConnectionReset)
        );
    }

    fn message() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()),
            "[\"\\\\{}\\[\\]a:,\u{e9} ]{0,12}".prop_map(|s| serde_json::to_string(&s).unwrap()),
        ];
        let value = leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[{}]", items.join(" ,\r\n"))),
                prop::collection::vec(inner, 0..4).prop_map(|items| {
                    let members: Vec<_> =
                        items.iter().map(|v| format!("\"k\\\"}}\": {v}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        });
        value.prop_map(|value| format!("{{\"return\":{value}\n}}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn splits_do_not_matter(
            messages in prop::collection::vec((message(), "[ \t\r\n]{0,3}"), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let stream: String = messages.iter().map(|(message, gap)| format!("{message}{gap}")).collect();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            places.extend([0, stream.len()]);
            places.sort_unstable();
            let chunks = places.windows(2).map(|pair| &stream.as_bytes()[pair[0]..pair[1]]);
            let got = decode_all(&mut FrameDecoder::default(), chunks).unwrap();
            let sent: Vec<&str> = messages.iter().map(|(message, _)| message.as_str()).collect();
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn arbitrary_bytes_never_panic(stream in prop::collection::vec(any::<u8>(), 0..200), max in 0_usize..100) {
            let _ = decode_all(&mut FrameDecoder::new(max), stream.chunks(7));
            let mut object = b"{".to_vec();
            object.extend_from_slice(&stream);
            if let Ok(messages) = decode_all(&mut FrameDecoder::new(max), object.chunks(3)) {
                prop_assert!(messages.iter().all(|message| message.len() <= max));
            }
        }
    }
}
