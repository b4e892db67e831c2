//! What a line of the shell is: something for the shell itself, a transaction, or a command as everywhere in this program.
//! Imports `line` of the program.

use crate::line::split;

/// A line, or several that belong together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Blanks, or a comment.
    Nothing,
    /// `exit`.
    Leave,
    /// `help`, or `help NAME [KEY=VALUE]...`.
    Help(Vec<String>),
    /// `!events on|off|GLOB`.
    Events(Shown),
    /// A command in words or JSON, and a file whose descriptor goes along.
    Command { text: String, file: Option<String> },
    /// `transaction(`, actions, `)`.
    Transaction(Actions),
}

/// Which events are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    All,
    None,
    Like(String),
}

/// The parts of a transaction as words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Actions {
    pub(super) properties: Vec<String>,
    /// Each with its name first.
    pub(super) actions: Vec<Vec<String>>,
}

/// Reads a line, which may be several where [`is_complete`] wants them.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn parse(text: &str) -> Result<Line, String> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(Line::Nothing);
    }
    if let Some(rest) = after_transaction(text) {
        return transaction(rest).map(Line::Transaction);
    }
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match first {
        "exit" if rest.is_empty() => Ok(Line::Leave),
        "help" => split(rest).map(Line::Help),
        "!events" => match &split(rest)?[..] {
            [which] if which == "on" => Ok(Line::Events(Shown::All)),
            [which] if which == "off" => Ok(Line::Events(Shown::None)),
            [glob] => Ok(Line::Events(Shown::Like(glob.clone()))),
            _ => Err("expected `!events on`, `!events off` or `!events GLOB`".to_owned()),
        },
        "!fd" => with_file(rest),
        _ => Ok(command(text, None)),
    }
}

fn command(text: &str, file: Option<String>) -> Line {
    Line::Command {
        text: text.to_owned(),
        file,
    }
}

/// `PATH COMMAND ...`, or `N COMMAND ...` with the number of an inherited descriptor.
fn with_file(rest: &str) -> Result<Line, String> {
    let missing = || "expected `!fd PATH COMMAND [KEY=VALUE]...`".to_owned();
    let word = words(rest).into_iter().next().ok_or_else(missing)?;
    let after = rest[word.end..].trim();
    if after.is_empty() {
        return Err(missing());
    }
    let file = split(&rest[word.start..word.end])?.concat();
    match file.parse::<u32>() {
        Ok(_) => Ok(command(&format!("!fd {file} {after}"), None)),
        Err(_) => Ok(command(after, Some(file))),
    }
}

/// What follows `transaction(`, with or without a blank before the parenthesis.
pub(super) fn after_transaction(text: &str) -> Option<&str> {
    let rest = text.trim_start().strip_prefix("transaction")?;
    rest.trim_start_matches([' ', '\t']).strip_prefix('(')
}

/// The actions, one a line, up to `)`. What stands behind `transaction(` itself are properties, or an action where it is
/// no `KEY=VALUE`.
fn transaction(rest: &str) -> Result<Actions, String> {
    if !is_closed(rest) {
        return Err("the transaction has no `)`".to_owned());
    }
    let inside = rest.trim_end().trim_end_matches(')');
    let mut transaction = Actions::default();
    for (is_first, statement) in statements(inside) {
        let words = split(statement)?;
        match words.first() {
            Some(first) if is_first && first.contains('=') => transaction.properties = words,
            Some(_) => transaction.actions.push(words),
            None => {}
        }
    }
    Ok(transaction)
}

/// The lines that are not blank, and whether each is the first of all; a line ends where no quote and no bracket is open.
fn statements(text: &str) -> Vec<(bool, &str)> {
    let mut statements: Vec<(bool, usize, usize)> = Vec::new();
    let mut end_of_last = 0;
    for word in words(text) {
        let is_new_line = text[end_of_last..word.start].contains('\n');
        end_of_last = word.end;
        match statements.last_mut() {
            Some((_, _, end)) if !is_new_line => *end = word.end,
            last => {
                let is_first = last.is_none() && !is_new_line;
                statements.push((is_first, word.start, word.end));
            }
        }
    }
    statements
        .into_iter()
        .map(|(is_first, start, end)| (is_first, &text[start..end]))
        .collect()
}

/// A word's place in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) start: usize,
    pub(super) end: usize,
    /// The quote or bracket that is still open at the end of the text.
    pub(super) open: Option<char>,
}

/// The words of `text` as they are written, quotes included: what stands between blanks, where these are in no quotes and
/// no JSON. A bracket begins JSON at the start of a word or of a value; elsewhere it is a character as any other.
pub(super) fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some(&(start, first)) = chars.peek() {
        if first.is_whitespace() {
            chars.next();
            continue;
        }
        let mut nesting = Nesting::default();
        let mut before = '=';
        let mut end = text.len();
        for (at, char) in chars.by_ref() {
            if nesting.open().is_none() && char.is_whitespace() {
                end = at;
                break;
            }
            nesting.take(char, before == '=');
            before = char;
        }
        let open = nesting.open();
        words.push(Word { start, end, open });
    }
    words
}

/// Which quotes and brackets are open.
#[derive(Default)]
struct Nesting {
    /// The brackets, innermost last.
    brackets: Vec<char>,
    quote: Option<char>,
    escaped: bool,
}

impl Nesting {
    fn open(&self) -> Option<char> {
        self.quote.or(self.brackets.last().copied())
    }

    /// Takes the next character. Outside of others a bracket opens only where a value starts.
    fn take(&mut self, char: char, starts_value: bool) {
        if let Some(quote) = self.quote {
            if self.escaped {
                self.escaped = false;
            } else if char == '\\' && quote == '"' {
                self.escaped = true;
            } else if char == quote {
                self.quote = None;
            }
            return;
        }
        let in_json = !self.brackets.is_empty();
        match (char, self.brackets.last()) {
            ('"', _) => self.quote = Some(char),
            ('\'', None) => self.quote = Some(char),
            ('{' | '[', _) if starts_value || in_json => self.brackets.push(char),
            ('}', Some('{')) | (']', Some('[')) => {
                self.brackets.pop();
            }
            // Nothing that follows could make JSON of it.
            ('}' | ']', _) => self.brackets.clear(),
            _ => {}
        }
    }
}

/// Whether nothing is missing at the end: JSON has all of its brackets, and a transaction its `)`. A quote that is open
/// outside of JSON is a mistake, which more lines would only hide.
pub(super) fn is_complete(text: &str) -> bool {
    if let Some(rest) = after_transaction(text) {
        return is_closed(rest);
    }
    let Some(last) = words(text).pop() else {
        return true;
    };
    match last.open {
        None => true,
        Some('"' | '\'') => !text[last.start..].starts_with('{'),
        Some(_) => false,
    }
}

/// Whether what follows `transaction(` ends with a `)` outside of quotes and brackets.
fn is_closed(rest: &str) -> bool {
    let last = words(rest).pop();
    last.is_some_and(|word| word.open.is_none() && rest[..word.end].ends_with(')'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(line: &str) -> (String, Option<String>) {
        match parse(line) {
            Ok(Line::Command { text, file }) => (text, file),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn words_end_at_blanks_outside_of_quotes_and_json() {
        for (text, expected) in [
            ("", &[][..]),
            (" \t ", &[]),
            ("stop", &["stop"]),
            (" a  b=1 ", &["a", "b=1"]),
            (r#"a b="x y" c='d e'"#, &["a", r#"b="x y""#, "c='d e'"]),
            (r#"a b="say \"x y\"" c"#, &["a", r#"b="say \"x y\"""#, "c"]),
            (
                r#"a b={"c": [1, 2], "d": "} ]"} e=1"#,
                &["a", r#"b={"c": [1, 2], "d": "} ]"}"#, "e=1"],
            ),
            // A bracket inside of a word is one of its characters.
            ("a c=x[1 d", &["a", "c=x[1", "d"]),
            ("a b=} c", &["a", "b=}", "c"]),
            ("a\nb", &["a", "b"]),
            ("é='ü ö' x", &["é='ü ö'", "x"]),
        ] {
            let found: Vec<&str> = words(text)
                .iter()
                .map(|word| &text[word.start..word.end])
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn lines_are_told_apart() {
        for (text, line) in [
            ("", Line::Nothing),
            ("   \t", Line::Nothing),
            ("# stop", Line::Nothing),
            ("exit", Line::Leave),
            ("help", Line::Help(Vec::new())),
            ("help stop", Line::Help(vec!["stop".to_owned()])),
            ("!events on", Line::Events(Shown::All)),
            ("!events off", Line::Events(Shown::None)),
            (
                "!events BLOCK_*",
                Line::Events(Shown::Like("BLOCK_*".to_owned())),
            ),
        ] {
            assert_eq!(parse(text), Ok(line), "{text}");
        }
        for (line, text, file) in [
            (
                "device_add driver=virtio-net id='a b'",
                "device_add driver=virtio-net id='a b'",
                None,
            ),
            (" {\"execute\": \"stop\"} ", "{\"execute\": \"stop\"}", None),
            (
                "!oob migrate-recover uri=x",
                "!oob migrate-recover uri=x",
                None,
            ),
            (
                "!fd '/tmp/a file' getfd fdname=x",
                "getfd fdname=x",
                Some("/tmp/a file"),
            ),
            ("!fd /tmp/a !oob x", "!oob x", Some("/tmp/a")),
            ("!fd  7 getfd fdname=x", "!fd 7 getfd fdname=x", None),
            // QEMU's own.
            ("quit", "quit", None),
            ("transaction actions=[]", "transaction actions=[]", None),
        ] {
            assert_eq!(
                text_of(line),
                (text.to_owned(), file.map(str::to_owned)),
                "{line}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for (text, reason) in [
            ("help 'x", "not closed"),
            ("!events", "!events on"),
            ("!events a b", "!events on"),
            ("!fd", "!fd PATH COMMAND"),
            ("!fd x", "!fd PATH COMMAND"),
            ("transaction( abort", "no `)`"),
            ("transaction( a b='x )", "no `)`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_transaction_has_an_action_a_line() {
        for (text, properties, actions) in [
            ("transaction()", &[][..], &[][..]),
            ("transaction( abort )", &[], &[&["abort"][..]]),
            (
                "transaction(\nblock-dirty-bitmap-add node=d name=a\n  abort\n)",
                &[],
                &[&["block-dirty-bitmap-add", "node=d", "name=a"], &["abort"]],
            ),
            (
                "transaction (completion-mode=grouped\nabort)",
                &["completion-mode=grouped"],
                &[&["abort"]],
            ),
            ("transaction(\na=b\n)", &[], &[&["a=b"]]),
            (
                "transaction(\na b={\"c\":\n1}\n\n)",
                &[],
                &[&["a", "b={\"c\":\n1}"]],
            ),
            ("transaction(\na b=')'\n)", &[], &[&["a", "b=str:)"]]),
        ] {
            let Ok(Line::Transaction(transaction)) = parse(text) else {
                panic!("{text}: {:?}", parse(text));
            };
            assert_eq!(transaction.properties, properties, "{text}");
            assert_eq!(transaction.actions, actions, "{text}");
            assert!(is_complete(text), "{text}");
        }
    }

    #[test]
    fn a_line_goes_on_until_its_brackets_are_closed() {
        for text in [
            "{",
            "{\"execute\":",
            "{\"a\": \"}",
            "a b={",
            "a b=[1,",
            "transaction(",
            "transaction(\nabort",
            "transaction( a b=')'",
        ] {
            assert!(!is_complete(text), "{text}");
        }
        for text in [
            "",
            "stop",
            "{}",
            "{\"a\":\n1}",
            "a b='x",
            "a b=\"",
            "{]",
            "}",
            "a b={}",
            "x y)",
            "{\"a\": [}\n",
            "transaction",
        ] {
            assert!(is_complete(text), "{text}");
        }
    }
}
