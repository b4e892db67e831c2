//! `guest-sync-delimited`: the question with a number that nobody else uses, and the search for its answer in whatever else
//! comes. No I/O; imports qmp.
//!
//! ```text
//! to the agent    0xFF {"execute":"guest-sync-delimited","arguments":{"id":N}}
//! from the agent  … 0xFF {"return": N}
//! ```
//! What comes before that answer may be anything: replies to others, halves of them, other answers of this kind, an error
//! about our 0xFF. No JSON has that byte in it.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::{Buf, BytesMut};
use memchr::memchr;
use tokio_util::codec::Decoder;

use crate::qmp::{FrameDecoder, MAX_MESSAGE, return_value};

/// The byte before the answer (`QGA_SENTINEL_BYTE`).
const SENTINEL: u8 = 0xFF;

/// No answer of this kind is longer.
const LONGEST_ANSWER: usize = 1024;

/// Bytes passed over at most: a late reply of the greatest length, and as much again.
const MOST_PASSED_OVER: usize = 2 * MAX_MESSAGE;

/// Asks the agent to say a number.
pub(super) struct Question {
    pub(super) id: i64,
    pub(super) text: Vec<u8>,
}

/// A question that nobody has asked before.
pub(super) fn question() -> Question {
    // The keys of std's hasher are random. 52 bits are exact for whatever the other side is written in.
    let random = RandomState::new().build_hasher().finish() >> 12;
    let id = i64::try_from(random).unwrap_or_default();
    let text = format!(r#"{{"execute":"guest-sync-delimited","arguments":{{"id":{id}}}}}"#);
    Question {
        id,
        text: format!("{text}\n").into_bytes(),
    }
}

/// The peer never stops, and never answers.
#[derive(Debug, thiserror::Error)]
#[error("no answer to guest-sync-delimited in {MOST_PASSED_OVER} bytes")]
pub(super) struct NoAnswer;

/// The search for the answer.
pub(super) struct Search {
    id: i64,
    /// Whether a sentinel has just been passed.
    marked: bool,
    passed_over: usize,
}

impl Search {
    pub(super) fn new(id: i64) -> Self {
        Search {
            id,
            marked: false,
            passed_over: 0,
        }
    }

    /// Bytes passed over so far, the answer included.
    pub(super) fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Looks at what has come, takes it out of `buffer` up to the end of the answer, and says whether that was there.
    /// Where it was not, at most the start of an answer is left.
    pub(super) fn look(&mut self, buffer: &mut BytesMut) -> Result<bool, NoAnswer> {
        loop {
            if !self.marked {
                match memchr(SENTINEL, buffer) {
                    Some(at) => self.pass_over(buffer, at + 1)?,
                    None => {
                        self.pass_over(buffer, buffer.len())?;
                        return Ok(false);
                    }
                }
                self.marked = true;
            }
            let is_blank = |byte: &&u8| byte.is_ascii_whitespace();
            let blanks = buffer.iter().take_while(is_blank).count();
            self.pass_over(buffer, blanks)?;
            let next_mark = memchr(SENTINEL, buffer);
            let end = next_mark.unwrap_or(buffer.len());
            let mut text = BytesMut::from(&buffer[..end.min(LONGEST_ANSWER + 1)]);
            let before = text.len();
            match FrameDecoder::new(LONGEST_ANSWER).decode(&mut text) {
                Ok(Some(object)) => {
                    self.pass_over(buffer, before - text.len())?;
                    self.marked = false;
                    if return_value::<i64>(&object).is_ok_and(|value| value == self.id) {
                        return Ok(true);
                    }
                }
                // More of it may come.
                Ok(None) if next_mark.is_none() => return Ok(false),
                Ok(None) | Err(_) => self.marked = false,
            }
        }
    }

    fn pass_over(&mut self, buffer: &mut BytesMut, bytes: usize) -> Result<(), NoAnswer> {
        buffer.advance(bytes);
        self.passed_over = self.passed_over.saturating_add(bytes);
        match self.passed_over > MOST_PASSED_OVER {
            true => Err(NoAnswer),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: i64 = 4_242_424_242;
    const ANSWER: &[u8] = b"\xff{\"return\": 4242424242}";

    /// What is left of `chunks` after the answer; none where there is no answer in them.
    fn search<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
        let mut search = Search::new(ID);
        let mut buffer = BytesMut::new();
        let mut found = false;
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            if !found {
                found = search.look(&mut buffer).unwrap();
                assert!(found || buffer.len() <= LONGEST_ANSWER, "{buffer:?}");
            }
        }
        found.then(|| buffer.to_vec())
    }

    #[test]
    fn the_answer_is_found_behind_anything() {
        for before in [
            &b""[..],
            b"{\"return\": 4242424242}\n",
            b"\xff{\"return\": 77}\n",
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"stray '\\uFFFD'\"}}\n",
            b"half of a reply: \"abc\\",
            b"{\"return\": [[[[[[",
            b"\xff",
            b"\xff\xff\xff",
            b"\xff{",
            b"\xff{\"return\": \"",
            b"\xff  \n",
            b"\xff}",
            b"\xff[1]",
            b"\xff{\"return\": \"4242424242\"}",
            b"\xff{\"return\": 4242424242.5}",
            b"\xff{\"error\": {}}",
            b"\x00\x01\x1b\xfe",
        ] {
            let stream = [before, ANSWER, b"\n{\"next\""].concat();
            let shown = before.escape_ascii();
            let left = search([&stream[..]]);
            assert_eq!(left.as_deref(), Some(&b"\n{\"next\""[..]), "{shown}");
            let left = search(stream.chunks(1));
            assert_eq!(left.as_deref(), Some(&b"\n{\"next\""[..]), "{shown}");
            assert_eq!(search([before]), None, "{shown}");
        }
    }

    #[test]
    fn an_answer_without_its_mark_is_none_and_so_is_one_that_is_too_long() {
        assert_eq!(search([&ANSWER[1..]]), None);
        let long = format!(
            "\u{20}{{\"return\": 4242424242, \"x\": \"{}\"}}",
            "x".repeat(2000)
        );
        let long = [b"\xff", long.as_bytes()].concat();
        assert_eq!(search([&long[..]]), None);
        assert_eq!(search(long.chunks(7)), None);
        assert!(search([&long[..], ANSWER]).is_some());
    }

    #[test]
    fn garbage_without_end_ends_the_search() {
        for chunk in [
            vec![b'x'; 1 << 20],
            vec![SENTINEL; 1 << 20],
            vec![b' '; 1 << 20],
            b"\xff{\"return\": 1}".repeat(1 << 16),
        ] {
            let left = 4 << 20;
            let mut search = Search {
                passed_over: MOST_PASSED_OVER - left,
                ..Search::new(ID)
            };
            let mut buffer = BytesMut::from(&b"\xff"[..]);
            let fed = (0..=2 * left / chunk.len()).take_while(|_| {
                buffer.extend_from_slice(&chunk);
                search.look(&mut buffer).is_ok()
            });
            let fed = fed.count() * chunk.len();
            assert!(fed <= left && fed > left - (2 << 20), "{fed}");
        }
    }

    #[test]
    fn numbers_differ() {
        let ids: std::collections::HashSet<i64> = (0..100).map(|_| question().id).collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.iter().all(|id| (0..1 << 52).contains(id)));
    }

    proptest! {
        #[test]
        fn any_bytes_before_the_answer_cut_anywhere(
            before in prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(b"\xff{}\" \\1".to_vec())], 0..60),
            size in 1usize..20,
        ) {
            let stream = [&before[..], ANSWER].concat();
            prop_assert_eq!(search(stream.chunks(size)), Some(Vec::new()));
        }
    }
}
