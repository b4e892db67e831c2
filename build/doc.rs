//! Doc comments: the text that becomes rustdoc, and the `@` annotations.
//!
//! ```text
//! of a procedure
//! @event                    the server sends it and nobody answers; the argument is what it carries
//! @stream read|write|both   the call opens a stream on which the server (read), the client (write) or either sends
//! @fds in|out N[..M]        descriptors that ride with the call (in) or the reply (out)
//! @since VERSION            libvirt release that brought it
//! @priority high|low        pool of the server's workers that serves it
//!
//! of a field of a struct
//! @bool                     0 is no, any other number yes: a `bool` in methods
//! @enum NAME, @flags NAME   the enum of `xdr/` that the number on the wire is a value, or a set of bits, of
//! @value VALUE              what a method always sends here: a number, or the name of one
//! @adds VALUE               bits that a method adds to what it is given
//! @secret                   what no `Debug` may show
//!
//! of an enum
//! @flags                    its values are bits
//! ```

use super::ast::{Name, Value};
use super::{At, Problem};

/// A doc comment, its annotations taken out but not read yet.
#[derive(Debug, Default)]
pub(crate) struct Doc {
    pub(crate) lines: Vec<String>,
    /// Annotations without the `@`, and where each stands.
    pub(crate) notes: Vec<(String, At)>,
}

impl Doc {
    /// Adds the text of a comment whose `/**` stands at `at`.
    pub(crate) fn add(&mut self, text: &str, at: At) {
        if !self.lines.is_empty() {
            self.lines.push(String::new());
        }
        let mut column = at.column + "/**".len();
        for (index, line) in text.lines().enumerate() {
            let inner = line.trim_start();
            let inner = inner
                .strip_prefix('*')
                .filter(|_| index > 0)
                .unwrap_or(inner);
            let inner = inner.strip_prefix(' ').unwrap_or(inner).trim_end();
            if let Some(note) = inner.trim_start().strip_prefix('@') {
                column += line.chars().take_while(|&c| c != '@').count();
                let at = At {
                    line: at.line + index,
                    column,
                    ..at
                };
                self.notes.push((note.to_owned(), at));
            } else {
                self.lines.push(inner.to_owned());
            }
            column = 1;
        }
        while self.lines.last().is_some_and(String::is_empty) {
            self.lines.pop();
        }
        let blank = self.lines.iter().take_while(|line| line.is_empty()).count();
        self.lines.drain(..blank);
    }

    /// For what takes no annotation.
    pub(crate) fn no_notes(&self) -> Result<(), Problem> {
        match self.notes.first() {
            Some((note, at)) => Err(Problem::new(
                *at,
                format!("`@{note}`: annotations belong to procedures, fields and enums"),
            )),
            None => Ok(()),
        }
    }

    /// Reads the annotation of an enum: whether its values are bits.
    pub(crate) fn is_flags(&self) -> Result<bool, Problem> {
        match self.notes.as_slice() {
            [] => Ok(false),
            [(note, _)] if note == "flags" => Ok(true),
            [(note, at), ..] => Err(Problem::new(
                *at,
                format!("`@{note}`: an enum takes `@flags`, once"),
            )),
        }
    }

    /// Reads the annotations of a field.
    pub(crate) fn field_notes(&self) -> Result<FieldNotes, Problem> {
        let mut read = FieldNotes::default();
        for (note, at) in &self.notes {
            let words: Vec<&str> = note.split_whitespace().collect();
            let name = |name: &str| Name {
                text: name.to_owned(),
                at: *at,
            };
            let number = |value: &str| match value.parse() {
                Ok(number) => Value::Number(number, *at),
                Err(_) => Value::Name(name(value)),
            };
            let fresh = match words.as_slice() {
                ["enum" | "flags", of] => read.of.replace(name(of)).is_none(),
                ["value", value] => read.value.replace(number(value)).is_none(),
                ["adds", value] => read.adds.replace(number(value)).is_none(),
                ["secret"] => !std::mem::replace(&mut read.secret, true),
                ["bool"] => read.yes_or_no.replace(*at).is_none(),
                ["enum" | "flags" | "value" | "adds" | "secret" | "bool", ..] => {
                    let message = format!("`@{note}` is not readable; see xdr/README.md");
                    return Err(Problem::new(*at, message));
                }
                _ => return Err(Problem::new(*at, format!("unknown annotation `@{note}`"))),
            };
            if !fresh {
                return Err(Problem::new(*at, format!("`@{note}` is given twice")));
            }
        }
        Ok(read)
    }

    /// Reads the annotations of a procedure.
    pub(crate) fn annotations(&self) -> Result<Annotations, Problem> {
        let mut read = Annotations::default();
        for (note, at) in &self.notes {
            let words: Vec<&str> = note.split_whitespace().collect();
            let slot = match words.as_slice() {
                ["event"] => {
                    let repeated = std::mem::replace(&mut read.event, true);
                    if repeated { Slot::Repeated } else { Slot::Set }
                }
                ["stream", way @ ("read" | "write" | "both")] => {
                    set(&mut read.stream, Some((*way).to_owned()))
                }
                ["fds", "in", range] => set(&mut read.fds_in, descriptors(range)),
                ["fds", "out", range] => set(&mut read.fds_out, descriptors(range)),
                ["since", version] => set(
                    &mut read.since,
                    Some(*version).filter(|v| is_version(v)).map(str::to_owned),
                ),
                ["priority", level @ ("high" | "low")] => {
                    set(&mut read.priority, Some((*level).to_owned()))
                }
                ["event" | "stream" | "fds" | "since" | "priority", ..] => Slot::Unreadable,
                _ => return Err(Problem::new(*at, format!("unknown annotation `@{note}`"))),
            };
            match slot {
                Slot::Set => {}
                Slot::Unreadable => {
                    return Err(Problem::new(
                        *at,
                        format!("`@{note}` is not readable; see xdr/README.md"),
                    ));
                }
                Slot::Repeated => {
                    return Err(Problem::new(*at, format!("`@{note}` is given twice")));
                }
            }
        }
        Ok(read)
    }
}

/// What the annotations of a field say.
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldNotes {
    /// The enum that its number is of.
    pub(crate) of: Option<Name>,
    /// What a method always sends in it.
    pub(crate) value: Option<Value>,
    /// Bits that a method adds to it.
    pub(crate) adds: Option<Value>,
    pub(crate) secret: bool,
    /// Its number is a yes or no, says the annotation here.
    pub(crate) yes_or_no: Option<At>,
}

/// What the annotations of a procedure say.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    pub(crate) event: bool,
    pub(crate) stream: Option<String>,
    pub(crate) fds_in: Option<String>,
    pub(crate) fds_out: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) priority: Option<String>,
}

enum Slot {
    Set,
    Unreadable,
    Repeated,
}

fn set(slot: &mut Option<String>, value: Option<String>) -> Slot {
    match (value, &slot) {
        (None, _) => Slot::Unreadable,
        (Some(_), Some(_)) => Slot::Repeated,
        (value, None) => {
            *slot = value;
            Slot::Set
        }
    }
}

/// `1` or `0..32`, the upper bound included.
fn descriptors(range: &str) -> Option<String> {
    let (least, most) = range.split_once("..").unwrap_or((range, range));
    let (least, most): (u32, u32) = (least.parse().ok()?, most.parse().ok()?);
    (least <= most).then(|| {
        if least == most {
            format!("{least}")
        } else {
            format!("{least} to {most}")
        }
    })
}

fn is_version(version: &str) -> bool {
    version
        .split('.')
        .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc(text: &str) -> Doc {
        let mut doc = Doc::default();
        doc.add(
            text,
            At {
                source: 0,
                line: 10,
                column: 5,
            },
        );
        doc
    }

    #[test]
    fn stars_and_margins_go() {
        let doc = doc("\n * First line.\n *\n *   indented\n *last\n ");
        assert_eq!(doc.lines, ["First line.", "", "  indented", "last"]);
        assert_eq!(super::Doc::default().lines.len(), 0);
    }

    #[test]
    fn a_second_comment_is_a_second_paragraph() {
        let mut doc = doc(" One. ");
        doc.add(" Two. ", At::default());
        assert_eq!(doc.lines, ["One.", "", "Two."]);
    }

    #[test]
    fn annotations_are_read() {
        let doc = doc(
            " @stream read\n * Text.\n * @fds in 0..32\n * @fds out 1\n * @since 9.0.0\n * @priority high\n ",
        );
        assert_eq!(doc.lines, ["Text."]);
        let read = doc.annotations().unwrap();
        assert_eq!(read.stream.as_deref(), Some("read"));
        assert_eq!(read.fds_in.as_deref(), Some("0 to 32"));
        assert_eq!(read.fds_out.as_deref(), Some("1"));
        assert_eq!(read.since.as_deref(), Some("9.0.0"));
        assert_eq!(read.priority.as_deref(), Some("high"));
        assert!(!read.event);
        assert!(doc.no_notes().is_err());
    }

    #[test]
    fn annotations_of_fields_are_read() {
        let read = doc(" @flags F\n * @adds BIT\n * @secret")
            .field_notes()
            .unwrap();
        assert!(matches!(read.of, Some(Name { text, .. }) if text == "F"));
        assert!(matches!(read.adds, Some(Value::Name(Name { text, .. })) if text == "BIT"));
        assert!(read.secret && read.value.is_none());
        let read = doc(" @value -1").field_notes().unwrap();
        assert!(matches!(read.value, Some(Value::Number(-1, _))));
        let read = doc(" Whether.\n * @bool").field_notes().unwrap();
        assert!(read.yes_or_no.is_some());
        for (text, message) in [
            (" @adds", "`@adds` is not readable; see xdr/README.md"),
            (" @adds 1\n * @adds 2", "`@adds 2` is given twice"),
            (" @added 1", "unknown annotation `@added 1`"),
            (
                " @bool yes",
                "`@bool yes` is not readable; see xdr/README.md",
            ),
            (" @bool\n * @bool", "`@bool` is given twice"),
        ] {
            assert_eq!(doc(text).field_notes().unwrap_err().message, message);
        }
    }

    #[test]
    fn annotations_that_are_not() {
        for (text, line, column, message) in [
            (" @evnt ", 10, 9, "unknown annotation `@evnt`"),
            (
                "\n *  @stream up",
                11,
                5,
                "`@stream up` is not readable; see xdr/README.md",
            ),
            (
                " @stream",
                10,
                9,
                "`@stream` is not readable; see xdr/README.md",
            ),
            (
                " @fds in 3..2",
                10,
                9,
                "`@fds in 3..2` is not readable; see xdr/README.md",
            ),
            (
                " @fds sideways 1",
                10,
                9,
                "`@fds sideways 1` is not readable; see xdr/README.md",
            ),
            (
                " @since nine",
                10,
                9,
                "`@since nine` is not readable; see xdr/README.md",
            ),
            (" @event\n * @event", 11, 4, "`@event` is given twice"),
        ] {
            let problem = doc(text).annotations().unwrap_err();
            assert_eq!(
                (problem.at.line, problem.at.column, problem.message.as_str()),
                (line, column, message)
            );
        }
    }
}
