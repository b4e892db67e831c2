//! Standard output: whole lines, and JSON on one line or several. Imports `failure`.
//!
//! Writing goes through tokio's threads for blocking work, so that a reader that has stopped keeps neither the connection
//! nor Ctrl-C waiting.

use std::fmt::Write;
use std::io;

use serde::Serialize;
use tokio::io::{AsyncWriteExt, Stdout};

use crate::failure::{Exit, Failure};

pub(crate) struct Output(Stdout);

impl Output {
    pub(crate) fn new() -> Self {
        Output(tokio::io::stdout())
    }

    /// Writes `text` as one or more whole lines, and waits until it is written.
    pub(crate) async fn line(&mut self, text: impl Into<String>) -> Result<(), Failure> {
        let mut text = text.into();
        text.push('\n');
        self.bytes(text.into_bytes()).await
    }

    /// Writes what is no text, and waits until it is written.
    pub(crate) async fn bytes(&mut self, bytes: Vec<u8>) -> Result<(), Failure> {
        let written = async {
            self.0.write_all(&bytes).await?;
            self.0.flush().await
        };
        written.await.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::NobodyReads,
            _ => Failure::system("cannot write to standard output", error),
        })
    }
}

/// `value` as one line of JSON.
pub(crate) fn to_line(value: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string(value).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(layout(&json, false))
}

/// `text` on one line and without control characters: what a peer sent must not control the terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

/// A JSON text on one line, or over several with an indent of two. Only the blanks change, and control characters in
/// strings, which are escaped: order and digits stay as they came.
pub(crate) fn layout(json: &str, pretty: bool) -> String {
    let mut out = String::with_capacity(json.len());
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let new_line = |out: &mut String, depth| {
        if pretty {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        }
    };
    for char in json.chars() {
        if in_string {
            in_string = escaped || char != '"';
            escaped = !escaped && char == '\\';
            if char.is_control() {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            } else {
                out.push(char);
            }
            continue;
        }
        if char.is_ascii_whitespace() {
            continue;
        }
        let first = out.ends_with(['{', '[']);
        if matches!(char, '}' | ']') {
            depth = depth.saturating_sub(1);
            if !first {
                new_line(&mut out, depth);
            }
        } else if first {
            new_line(&mut out, depth);
        }
        out.push(char);
        match char {
            '{' | '[' => depth += 1,
            ',' => new_line(&mut out, depth),
            ':' if pretty => out.push(' '),
            '"' => in_string = true,
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(
            printable("a\r\n\u{1b}[2J\u{9b}é"),
            "a\\r\\n\\u{1b}[2J\\u{9b}é"
        );
    }

    #[test]
    fn json_changes_in_its_blanks_only() {
        let text = "{ \"b\" : [ 1.10 , 18446744073709551616, {} ,[ ]],\r\n\"a\":\"x , \\\" { y\\\\\",\"c\":{\"d\":null}}";
        assert_eq!(
            layout(text, false),
            r#"{"b":[1.10,18446744073709551616,{},[]],"a":"x , \" { y\\","c":{"d":null}}"#
        );
        let pretty = r#"{
  "b": [
    1.10,
    18446744073709551616,
    {},
    []
  ],
  "a": "x , \" { y\\",
  "c": {
    "d": null
  }
}"#;
        assert_eq!(layout(text, true), pretty);
        assert_eq!(layout(&layout(text, true), false), layout(text, false));
        assert_eq!(layout(" 5 ", true), "5");
        assert_eq!(layout(" {\n} ", true), "{}");
    }

    #[test]
    fn json_does_not_control_the_terminal() {
        let shown = layout("\"\u{9b}2J\u{7f}\"", false);
        assert_eq!(shown, r#""\u009b2J\u007f""#);
        assert_eq!(
            serde_json::from_str::<String>(&shown).unwrap(),
            "\u{9b}2J\u{7f}"
        );
    }
}
