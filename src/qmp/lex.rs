//! JSON below its grammar: where strings end, how deep brackets nest, which blanks may go. Nothing here checks whether a
//! text is JSON; it is made for texts that were checked, or will be. Imports nothing of ours.

use bytes::BufMut;

/// Containers that may be open at once, the outermost object included. It is QEMU's own input limit, and so the
/// deepest value QEMU can be made to echo.
pub(crate) const MAX_DEPTH: usize = 1024;

/// Whether no more than `limit` containers are ever open at once. As far as `text` is valid JSON the answer is
/// exact; a parser that stops at the first error never gets beyond that point.
pub(crate) fn within_depth(text: &[u8], limit: usize) -> bool {
    if text.len() <= limit {
        return true;
    }
    let mut walker = Walker {
        limit,
        ..Walker::default()
    };
    let mut pos = 0;
    loop {
        match walker.walk(text, &mut pos) {
            Walk::Closed => {}
            Walk::More => return true,
            Walk::TooDeep => return false,
        }
    }
}

/// Follows strings and brackets and checks nothing else; can stop at any byte and go on later.
#[derive(Debug)]
pub(crate) struct Walker {
    depth: usize,
    /// Containers that may be open at once.
    limit: usize,
    inside: Inside,
}

impl Default for Walker {
    fn default() -> Self {
        Walker {
            depth: 0,
            limit: MAX_DEPTH,
            inside: Inside::Structure,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Inside {
    Structure,
    String,
    /// After a backslash. Only the next byte matters: the digits of a `\u` need no care.
    Escape,
}

/// Where a [`Walker`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk {
    /// After the bracket that closes the outermost container.
    Closed,
    /// At the end of the bytes given.
    More,
    /// After the bracket that opens one container too many.
    TooDeep,
}

impl Walker {
    /// Whether a container is open.
    pub(crate) fn is_open(&self) -> bool {
        self.depth > 0
    }

    /// Goes on at `*pos` and leaves there the place it stopped at.
    pub(crate) fn walk(&mut self, bytes: &[u8], pos: &mut usize) -> Walk {
        let mut at = *pos;
        let result = loop {
            match self.inside {
                Inside::Structure => {
                    let Some(&byte) = bytes.get(at) else {
                        break Walk::More;
                    };
                    at += 1;
                    match byte {
                        b'"' => self.inside = Inside::String,
                        b'{' | b'[' => {
                            self.depth += 1;
                            if self.depth > self.limit {
                                break Walk::TooDeep;
                            }
                        }
                        b'}' | b']' => {
                            self.depth = self.depth.saturating_sub(1);
                            if self.depth == 0 {
                                break Walk::Closed;
                            }
                        }
                        _ => {}
                    }
                }
                Inside::String => {
                    at = string_stop(bytes, at);
                    match bytes.get(at) {
                        None => break Walk::More,
                        Some(b'"') => self.inside = Inside::Structure,
                        Some(b'\\') => self.inside = Inside::Escape,
                        Some(_) => {}
                    }
                    at += 1;
                }
                Inside::Escape => {
                    if at == bytes.len() {
                        break Walk::More;
                    }
                    at += 1;
                    self.inside = Inside::String;
                }
            }
        };
        *pos = at;
        result
    }
}

/// Where in the body of a string the next quote, backslash or control character stands, from `pos` on; the end of
/// `text` if there is none.
///
/// Most strings of QMP are shorter than the set-up of a vectorised search, so it looks at eight bytes at a time in one
/// machine word. What goes on for long, such as base64, is passed over in blocks.
#[inline]
pub(crate) fn string_stop(text: &[u8], mut pos: usize) -> usize {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGHS: u64 = ONES << 7;
    let long = pos + LONG_STRING;
    while let Some(chunk) = text.get(pos..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        // `x - ONES & !x & HIGHS` marks the zero bytes of x. Borrows make false marks only above a true one, and only
        // the lowest mark is used.
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5C);
        let marks = ((word.wrapping_sub(ONES * 0x20) & !word)
            | (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash))
            & HIGHS;
        if marks != 0 {
            return pos + (marks.trailing_zeros() / 8) as usize;
        }
        pos += 8;
        if pos == long {
            pos = skip_plain_blocks(text, pos);
        }
    }
    while let Some(&byte) = text.get(pos) {
        if is_string_stop(byte) {
            break;
        }
        pos += 1;
    }
    pos
}

/// Bytes of a string after which it is worth going on in blocks; whole words.
const LONG_STRING: usize = 64;

fn is_string_stop(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Passes over blocks that a string goes through unbroken.
#[inline(never)]
fn skip_plain_blocks(text: &[u8], mut pos: usize) -> usize {
    while let Some(block) = text.get(pos..).and_then(|rest| rest.first_chunk::<64>()) {
        // No early end, so that it compiles to vector instructions.
        if block
            .iter()
            .fold(false, |stop, byte| stop | is_string_stop(*byte))
        {
            break;
        }
        pos += block.len();
    }
    pos
}

/// How many tokens `text` has, a piece of a checked JSON text that starts and ends outside of strings.
pub(crate) fn tokens(text: &[u8]) -> usize {
    let mut count = 0;
    let mut pos = 0;
    while let Some(&byte) = text.get(pos) {
        pos += 1;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'{' | b'}' | b'[' | b']' | b':' | b',' => {}
            b'"' => pos = string_end(text, pos - 1),
            // A number or a word.
            _ => {
                while let Some(b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.') =
                    text.get(pos)
                {
                    pos += 1;
                }
            }
        }
        count += 1;
    }
    count
}

/// Writes `text` as a JSON string.
pub(crate) fn write_string(out: &mut impl BufMut, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut rest = text.as_bytes();
    out.put_u8(b'"');
    loop {
        let plain = string_stop(rest, 0);
        out.put_slice(&rest[..plain]);
        let Some(&byte) = rest.get(plain) else { break };
        match byte {
            b'"' | b'\\' => out.put_slice(&[b'\\', byte]),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            _ => {
                out.put_slice(b"\\u00");
                out.put_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        rest = &rest[plain + 1..];
    }
    out.put_u8(b'"');
}

/// Writes `text`, a piece of a checked JSON text that starts and ends outside of strings, without the blanks between
/// its tokens.
pub(crate) fn write_compact(out: &mut impl BufMut, text: &[u8]) {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let mut rest = text;
    while !rest.is_empty() {
        let structure = rest
            .iter()
            .position(|byte| *byte == b'"' || blank(byte))
            .unwrap_or(rest.len());
        let mut end = structure;
        if rest.get(end) == Some(&b'"') {
            end = string_end(rest, end);
        }
        out.put_slice(&rest[..end]);
        rest = &rest[end..];
        rest = &rest[rest
            .iter()
            .position(|byte| !blank(byte))
            .unwrap_or(rest.len())..];
    }
}

/// The end of the string whose opening quote stands at `open`; the end of `text` if it has none.
pub(crate) fn string_end(text: &[u8], open: usize) -> usize {
    let mut pos = open + 1;
    loop {
        pos = string_stop(text, pos);
        match text.get(pos) {
            None => return text.len(),
            Some(b'"') => return pos + 1,
            Some(b'\\') => pos = (pos + 2).min(text.len()),
            Some(_) => pos += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_are_counted_as_qemu_does() {
        for (text, count) in [
            ("", 0),
            (" \r\n\t", 0),
            ("{}", 2),
            (r#"{"execute":"stop"}"#, 5),
            (r#"{ "a,:[]" : [ 1 , -2.5e+3 , true, null ] }"#, 13),
            (r#"["\"", "\\", "\u0041]"]"#, 7),
            ("[[],[],[]]", 10),
            (r#"["open \"#, 2),
        ] {
            assert_eq!(tokens(text.as_bytes()), count, "{text}");
        }
    }

    #[test]
    fn compacting_leaves_strings_alone() {
        let mut out = Vec::new();
        write_compact(&mut out, b" { \"a b\" : [ 1 ,\r\n\t\" \\\" \" , {} ] } ");
        assert_eq!(out, b"{\"a b\":[1,\" \\\" \",{}]}");
    }

    #[test]
    fn string_ends_are_found_at_any_place() {
        let long = "y\u{e9}\u{7f}z".repeat(60);
        for length in (0..long.len()).step_by(5) {
            let plain = &long[..length];
            for stop in ["\"", "\\", "\n", "\0", "\u{1f}"] {
                let text = format!("{plain}{stop}{stop}{long}");
                for from in [0, 1, 7, 64, 200]
                    .into_iter()
                    .filter(|from| *from <= length)
                {
                    assert_eq!(
                        string_stop(text.as_bytes(), from),
                        length,
                        "{text:?} from {from}"
                    );
                }
            }
            assert_eq!(string_stop(plain.as_bytes(), 0), length);
        }
    }

    #[test]
    fn walks_stop_after_each_container_and_at_the_end() {
        let text = b"{\"a\\\"}\":[{}]} [1]{\"";
        let mut walker = Walker::default();
        let mut pos = 0;
        let mut stops = Vec::new();
        while walker.walk(text, &mut pos) == Walk::Closed {
            stops.push(pos);
            assert!(!walker.is_open());
        }
        assert_eq!(stops, [13, 17]);
        assert!(walker.is_open() && pos == text.len());
        // It goes on where it stopped, in the string.
        assert_eq!(walker.walk(b"}[{", &mut 0), Walk::More);
        assert_eq!(walker.walk(b"\\", &mut 0), Walk::More);
        assert_eq!(walker.walk(b"\"\":1}", &mut 0), Walk::Closed);
    }

    proptest! {
        #[test]
        fn written_strings_read_back(text: String) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn compacting_undoes_pretty_printing(members in prop::collection::vec((any::<String>(), any::<f32>()), 0..6)) {
            let mut compact = Vec::new();
            write_compact(&mut compact, serde_json::to_string_pretty(&members).unwrap().as_bytes());
            prop_assert_eq!(compact, serde_json::to_vec(&members).unwrap());
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = within_depth(&text.repeat(20), MAX_DEPTH);
            write_compact(&mut Vec::new(), &text);
            let _ = string_stop(&text, text.len() / 2);
        }
    }
}
