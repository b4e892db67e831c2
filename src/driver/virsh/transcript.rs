//! What is said to an interactive virsh, and which of what it says is whose answer. Text alone, no I/O. Imports connection
//! for the form of an encoded call.
//!
//! Standard output of such a virsh, whose input is a pipe, is its prompts, readline's echo of each line, which is cut and
//! redrawn as for a narrow terminal, or no echo where it is built without readline, and in between what commands print.
//! So every command stands between marks of its own, random ones:
//!
//! ```text
//! input    echo 9f3c''60d1-0000002a-b; COMMAND; echo 9f3c''60d1-0000002a-e
//!          echo 9f3c''60d1-0000002a-d
//!          9f3c''60d1-0000002a-x
//! stdout   virsh # ...9f3c''60d1-0000002a-e
//!          9f3c60d1-0000002a-bREPLY
//!          9f3c60d1-0000002a-evirsh # ...
//!          9f3c60d1-0000002a-dvirsh # ...
//! stderr   error: ...
//!          error: unknown command: '9f3c60d1-0000002a-x'
//! ```
//!
//! (marks are longer than this). They are typed with a pair of quotes inside, so no echo looks like one. The third, on a line
//! of its own, comes also where virsh refuses the whole first line. The last one is no command: what virsh says to that on
//! standard error ends what it had to say there to the command before.

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem::Finder;

use crate::connection::Encoded;

/// Hexadecimal digits of a session's random text.
const RANDOM: usize = 32;

/// What follows the random text in a mark: `-0000002a-b`.
const REST: usize = 11;

/// Bytes of a mark as typed on its line alone, with its quotes and the end of the line.
const TYPED_LINE: usize = RANDOM + 2 + REST + 1;

const ECHO: &str = "echo ";

/// What stands between two marks is at most this long; libvirt's own limit for a reply is a quarter of it.
const LONGEST_REPLY: usize = 16 << 20;

/// What virsh says on standard error to one command: more than this is cut off at its start.
const MOST_ERRORS: usize = 64 * 1024;

/// The marks of one session.
#[derive(Clone)]
pub(super) struct Marks {
    random: Arc<str>,
}

/// What a mark means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The command's output begins.
    Begin,
    /// It ends.
    End,
    /// Everything on standard output that belongs to the call has come.
    Done,
    /// The same for standard error.
    Errors,
}

impl Marks {
    pub(super) fn new() -> Self {
        // The keys of std's hasher are random.
        let random = || RandomState::new().build_hasher().finish();
        Marks {
            random: format!("{:016x}{:016x}", random(), random()).into(),
        }
    }

    /// The lines that make virsh run `command`, which is one command of its own without a line end.
    pub(super) fn encode(&self, command: &str) -> Encoded {
        let (head, tail) = self.random.split_at(RANDOM / 2);
        let mark = |kind: char| format!("{head}''{tail}-00000000-{kind}");
        let mut text = String::with_capacity(command.len() + 5 * TYPED_LINE);
        let _ = write!(
            text,
            "{ECHO}{}; {command}; {ECHO}{}\n{ECHO}{}\n{}\n",
            mark('b'),
            mark('e'),
            mark('d'),
            mark('x')
        );
        Encoded {
            bytes: text.into_bytes(),
            procedure: (0, 0),
            files: None,
            ahead: false,
            announce: None,
        }
    }

    /// The first mark in `text` from `from` on: where it begins, the call it belongs to, and its meaning. One that is cut
    /// off at the end is not there yet.
    fn find(&self, text: &[u8], from: usize) -> Option<(usize, u32, Kind)> {
        let finder = Finder::new(self.random.as_bytes());
        let mut from = from;
        loop {
            let at = from + finder.find(text.get(from..)?)?;
            let rest = text.get(at + RANDOM..at + RANDOM + REST)?;
            if let Some((serial, kind)) = parse_rest(rest) {
                return Some((at, serial, kind));
            }
            from = at + RANDOM;
        }
    }
}

/// Reads what follows the random text of a mark.
fn parse_rest(rest: &[u8]) -> Option<(u32, Kind)> {
    let rest = std::str::from_utf8(rest).ok()?;
    let (serial, kind) = rest.strip_prefix('-')?.split_once('-')?;
    let kind = match kind {
        "b" => Kind::Begin,
        "e" => Kind::End,
        "d" => Kind::Done,
        "x" => Kind::Errors,
        _ => return None,
    };
    Some((u32::from_str_radix(serial, 16).ok()?, kind))
}

/// Puts the serial into the four marks of an encoded call.
pub(super) fn stamp(bytes: &mut [u8], serial: u32) {
    let digits = format!("{serial:08x}");
    // The first is at a fixed place from the start, the others from the end; `-b` or the like and a line end follow each.
    let end_of_line = |line_end: usize| line_end.checked_sub(1 + 2 + 8);
    let x = bytes.len();
    let d = x.saturating_sub(TYPED_LINE);
    let e = d.saturating_sub(ECHO.len() + TYPED_LINE);
    let first = Some(ECHO.len() + RANDOM + 2 + 1);
    for place in [first, end_of_line(e), end_of_line(d), end_of_line(x)] {
        if let Some(place) = place.and_then(|place| bytes.get_mut(place..place + 8)) {
            place.copy_from_slice(digits.as_bytes());
        }
    }
}

/// Everything that virsh has said to one call.
#[derive(Debug)]
pub(super) struct Said {
    /// What the command has printed; none where virsh has refused the whole line.
    pub(super) output: Option<Bytes>,
    pub(super) errors: Vec<u8>,
}

/// Takes apart what an interactive virsh says.
pub(super) struct Transcript {
    marks: Marks,
    /// Standard output that is not taken apart yet.
    text: Vec<u8>,
    /// How much of it is known to have no mark in it.
    searched: usize,
    /// The call whose output is being printed.
    printing: Option<u32>,
    /// The last call whose output has ended, and its output.
    printed: Option<(u32, Bytes)>,
    /// The last call of which standard output has all.
    done: Option<(u32, Option<Bytes>)>,
    /// What came on standard error since the last call.
    complaints: Vec<u8>,
    /// The last call of which standard error has all, and what it was.
    complained: Option<(u32, Vec<u8>)>,
}

/// A command prints without end.
#[derive(Debug)]
pub(super) struct TooMuch;

impl Transcript {
    pub(super) fn new(marks: Marks) -> Self {
        Transcript {
            marks,
            text: Vec::new(),
            searched: 0,
            printing: None,
            printed: None,
            done: None,
            complaints: Vec::new(),
            complained: None,
        }
    }

    /// Takes what has come on standard output.
    pub(super) fn output(&mut self, bytes: &[u8]) -> Result<(), TooMuch> {
        self.text.extend_from_slice(bytes);
        while let Some((at, serial, kind)) = self.marks.find(&self.text, self.searched) {
            let end = at + RANDOM + REST;
            match kind {
                Kind::Begin => {
                    self.printing = Some(serial);
                    self.printed = None;
                }
                Kind::End => {
                    if self.printing.take() == Some(serial) {
                        self.printed = Some((serial, Bytes::copy_from_slice(&self.text[..at])));
                    }
                }
                Kind::Done => {
                    self.printing = None;
                    let printed = self.printed.take().filter(|(of, _)| *of == serial);
                    self.done = Some((serial, printed.map(|(_, output)| output)));
                }
                // Not said here.
                Kind::Errors => {}
            }
            self.text.drain(..end);
            self.searched = 0;
        }
        // The start of a mark may be at the end.
        self.searched = self.text.len().saturating_sub(RANDOM + REST - 1);
        if self.printing.is_none() {
            self.text.drain(..self.searched);
            self.searched = 0;
            self.text.shrink_to(LONGEST_REPLY / 16);
        }
        match self.text.len() > LONGEST_REPLY {
            true => Err(TooMuch),
            false => Ok(()),
        }
    }

    /// Takes one line that has come on standard error, without its end.
    pub(super) fn error_line(&mut self, line: &[u8]) {
        if let Some((_, serial, Kind::Errors)) = self.marks.find(line, 0) {
            self.complained = Some((serial, std::mem::take(&mut self.complaints)));
            return;
        }
        self.complaints.extend_from_slice(line);
        self.complaints.push(b'\n');
        let over = self.complaints.len().saturating_sub(MOST_ERRORS);
        self.complaints.drain(..over);
    }

    /// What has come on standard error since the last call that is complete.
    pub(super) fn complaints(&self) -> &[u8] {
        &self.complaints
    }

    /// A call of which everything has come.
    pub(super) fn next_said(&mut self) -> Option<(u32, Said)> {
        match (self.done.take(), self.complained.take()) {
            (Some((serial, output)), Some((of, errors))) if serial == of => {
                Some((serial, Said { output, errors }))
            }
            // The other mark is on its way, and replaces what is of an earlier call.
            (done, complained) => {
                self.done = done;
                self.complained = complained;
                None
            }
        }
    }
}

/// Cuts a stream into lines of bounded length.
pub(super) struct Lines {
    text: Vec<u8>,
    limit: usize,
    /// The line that goes on is too long already.
    too_long: bool,
}

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(Vec<u8>),
    /// It is longer than the limit, and gone.
    TooLong,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Self {
        Lines {
            text: Vec::new(),
            limit,
            too_long: false,
        }
    }

    /// Takes bytes, and gives each line that they complete to `take`.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(Line)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let text = std::mem::take(&mut self.text);
            take(match std::mem::take(&mut self.too_long) {
                true => Line::TooLong,
                false => Line::Whole(text),
            });
        }
        self.keep(bytes);
    }

    /// What has come of a line that has no end yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.text
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.too_long |= self.text.len() + bytes.len() > self.limit;
        match self.too_long {
            true => self.text = Vec::new(),
            false => self.text.extend_from_slice(bytes),
        }
    }
}

/// `json`, a checked JSON text, as an argument on a line of virsh: single-quoted printable ASCII without any blanks between
/// its tokens. Neither readline nor virsh's parser finds anything in it to act on.
pub(super) fn quoted_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 2);
    out.push('\'');
    write_ascii(json, &mut out);
    out.push('\'');
    out
}

/// `json`, a checked JSON text, as printable ASCII without single quotes, and without any blanks between its tokens.
pub(super) fn write_ascii(json: &str, out: &mut String) {
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        match c {
            ' ' | '\t' | '\r' | '\n' if !in_string => continue,
            '"' if !escaped => in_string = !in_string,
            // Only in strings, as JSON has it.
            '\'' | '\0'..='\u{1f}' | '\u{7f}'.. => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
                escaped = false;
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks() -> Marks {
        Marks {
            random: "0123456789abcdef0123456789abcdef".into(),
        }
    }

    fn encoded(command: &str, serial: u32) -> String {
        let mut call = marks().encode(command);
        stamp(&mut call.bytes, serial);
        String::from_utf8(call.bytes).unwrap()
    }

    /// What virsh prints for the call, by what its commands and quotes mean.
    fn played(input: &str, reply: &str, errors: &str) -> (String, String) {
        let (mut stdout, mut stderr) = ("virsh # ".to_owned(), String::new());
        for line in input.lines() {
            // The echo of readline on a dumb terminal.
            let echo = &line[line.len().saturating_sub(60)..];
            stdout.push_str(&format!("\r<{echo}\n"));
            for command in line.split("; ") {
                match command.strip_prefix("echo ") {
                    Some(word) => stdout.push_str(&word.replace("''", "")),
                    None if command.contains("-x") => {
                        let word = command.replace("''", "");
                        stderr.push_str(&format!("error: unknown command: '{word}'\n"));
                    }
                    None => {
                        stdout.push_str(reply);
                        stderr.push_str(errors);
                    }
                }
            }
            stdout.push_str("virsh # ");
        }
        (stdout, stderr)
    }

    fn feed_errors(transcript: &mut Transcript, text: &str) {
        text.lines()
            .for_each(|line| transcript.error_line(line.as_bytes()));
    }

    #[test]
    fn a_call_is_three_lines_with_its_serial_in_four_marks() {
        let mark = "0123456789abcdef''0123456789abcdef-0000002a";
        assert_eq!(
            encoded("domname --domain x", 42),
            format!("echo {mark}-b; domname --domain x; echo {mark}-e\necho {mark}-d\n{mark}-x\n")
        );
    }

    #[test]
    fn a_reply_is_found_whatever_the_echo_and_however_it_is_cut() {
        let input = encoded("qemu-monitor-command --domain x --cmd '{}'", 7);
        let reply = "{\"return\":\"virsh # \\n\"}\n";
        let (stdout, stderr) = played(&input, reply, "");
        for chunk in [1, 2, 3, 7, 44, 1000] {
            let mut transcript = Transcript::new(marks());
            feed_errors(&mut transcript, &stderr);
            for part in stdout.as_bytes().chunks(chunk) {
                assert!(transcript.done.is_some() || transcript.next_said().is_none());
                transcript.complained = transcript.complained.take().or(Some((7, Vec::new())));
                transcript.output(part).unwrap();
            }
            let (serial, said) = transcript.next_said().unwrap();
            assert_eq!(
                (serial, said.output.as_deref()),
                (7, Some(reply.as_bytes()))
            );
            assert!(transcript.text.len() < RANDOM + REST);
        }
    }

    #[test]
    fn an_answer_is_complete_with_both_outputs_and_errors_are_its_own() {
        let mut transcript = Transcript::new(marks());
        let (stdout, stderr) = played(&encoded("x", 1), "", "error: one\nerror: two\n");
        transcript.output(stdout.as_bytes()).unwrap();
        assert!(transcript.next_said().is_none());
        let (stdout_2, stderr_2) = played(&encoded("x", 2), "reply\n", "");
        feed_errors(&mut transcript, &stderr);
        let (serial, said) = transcript.next_said().unwrap();
        assert_eq!((serial, said.output.as_deref()), (1, Some(&b""[..])));
        assert_eq!(said.errors, b"error: one\nerror: two\n");
        feed_errors(&mut transcript, &stderr_2);
        transcript.output(stdout_2.as_bytes()).unwrap();
        let (serial, said) = transcript.next_said().unwrap();
        assert_eq!((serial, said.output.as_deref()), (2, Some(&b"reply\n"[..])));
        assert!(said.errors.is_empty());
    }

    #[test]
    fn a_refused_line_has_no_output() {
        let mut transcript = Transcript::new(marks());
        let mark = "0123456789abcdef0123456789abcdef-00000003";
        transcript
            .output(format!("virsh # echo\nvirsh # {mark}-dvirsh # ").as_bytes())
            .unwrap();
        feed_errors(
            &mut transcript,
            &format!("error: unknown command: 'y'\nerror: unknown command: '{mark}-x'\n"),
        );
        let (serial, said) = transcript.next_said().unwrap();
        assert_eq!((serial, said.output), (3, None));
        assert_eq!(said.errors, b"error: unknown command: 'y'\n");
    }

    #[test]
    fn output_without_end_is_bounded() {
        let mut transcript = Transcript::new(marks());
        let chunk = vec![b'x'; 1 << 20];
        // Between calls it is thrown away.
        for _ in 0..20 {
            transcript.output(&chunk).unwrap();
        }
        assert!(transcript.text.len() < 100);
        transcript
            .output(b"0123456789abcdef0123456789abcdef-00000003-b")
            .unwrap();
        let taken = (0..20)
            .take_while(|_| transcript.output(&chunk).is_ok())
            .count();
        assert_eq!(taken, 16);
        for _ in 0..1000 {
            transcript.error_line(&chunk[..1000]);
        }
        assert_eq!(transcript.complaints().len(), MOST_ERRORS);
    }

    #[test]
    fn json_becomes_one_line_of_plain_ascii() {
        for (json, line) in [
            (" {\r\n\t\"a b\" : [ 1 , 2 ] } ", r#"'{"a b":[1,2]}'"#),
            (r#"{"a":"it's \" \\"}"#, r#"'{"a":"it\u0027s \" \\"}'"#),
            (
                "{\"\u{e9}\":\"\u{1f600}\u{7f}\"}",
                r#"'{"\u00e9":"\ud83d\ude00\u007f"}'"#,
            ),
            (r#"["\\"," "]"#, r#"'["\\"," "]'"#),
        ] {
            assert_eq!(quoted_json(json), line);
        }
    }

    #[test]
    fn lines_are_bounded_and_go_on_after_one_too_long() {
        let mut lines = Lines::new(5);
        let mut taken = Vec::new();
        for part in ["ab", "c\n\n123456", "7\n", "12345\nxy"] {
            lines.push(part.as_bytes(), |line| taken.push(line));
        }
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        assert_eq!(
            taken,
            [whole("abc"), whole(""), Line::TooLong, whole("12345")]
        );
        assert_eq!(lines.rest(), b"xy");
    }

    proptest! {
        #[test]
        fn ascii_json_means_the_same(texts in prop::collection::vec(any::<String>(), 0..5)) {
            let json = serde_json::to_string_pretty(&texts).unwrap();
            let mut line = String::new();
            write_ascii(&json, &mut line);
            prop_assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'\''));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&line).unwrap(), texts);
        }

        #[test]
        fn any_output_is_survived(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..8)) {
            let mut transcript = Transcript::new(marks());
            for part in parts {
                transcript.output(&part).unwrap();
                transcript.error_line(&part);
                prop_assert!(transcript.next_said().is_none());
            }
        }
    }
}
