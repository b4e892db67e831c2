//! A command as a line of a script or of the shell: `COMMAND KEY=VALUE…`, a whole command in JSON, and what may stand before either.
//! Imports `value`.

use std::borrow::Cow;
use std::os::fd::OwnedFd;

use libvirt_qmp::{Command, CommandError, schema::CommandInfo};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::value::Object;

/// A QMP command as its user wrote it.
#[derive(Debug)]
pub(crate) struct Request {
    body: Body,
    oob: bool,
    /// Descriptors that go with it.
    pub(crate) files: Vec<OwnedFd>,
}

#[derive(Debug)]
enum Body {
    Words { name: String, arguments: Object },
    Json(Vec<u8>),
}

impl Request {
    /// The command that a line holds; none where it is empty or a comment (`#`).
    ///
    /// # Errors
    ///
    /// What is wrong with the line.
    pub(crate) fn from_line(line: &str) -> Result<Option<Self>, String> {
        let mut rest = line.trim();
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(None);
        }
        let (mut oob, mut files) = (false, Vec::new());
        while let Some(mark) = rest.strip_prefix('!') {
            let (mark, after) = mark.split_once(char::is_whitespace).unwrap_or((mark, ""));
            rest = after.trim_start();
            match mark {
                "oob" => oob = true,
                "fd" => {
                    let (number, after) =
                        rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                    files.push(inherited(number)?);
                    rest = after.trim_start();
                }
                _ => return Err(format!("`!{mark}` is neither `!oob` nor `!fd`")),
            }
        }
        let mut request = match rest.starts_with('{') {
            true => Request::from_words(&[rest.to_owned()])?,
            false => Request::from_words(&split(rest)?)?,
        };
        request.oob = oob;
        request.files = files;
        Ok(Some(request))
    }

    /// The command that these words make: its name and its arguments, or one word that is JSON.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(crate) fn from_words(words: &[String]) -> Result<Self, String> {
        let Some((command, arguments)) = words.split_first() else {
            return Err("no command given".to_owned());
        };
        let body = match (command.trim_start().starts_with('{'), arguments.first()) {
            (true, None) => Body::Json(command.as_bytes().to_vec()),
            (true, Some(word)) => {
                return Err(format!(
                    "argument `{word}`: a command given as JSON has its arguments in it"
                ));
            }
            (false, _) => Body::Words {
                name: command.clone(),
                arguments: Object::from_words(arguments)?,
            },
        };
        Ok(Request {
            body,
            oob: false,
            files: Vec::new(),
        })
    }

    /// The command's name; none where it is in JSON that has none.
    pub(crate) fn name(&self) -> Option<Cow<'_, str>> {
        #[derive(serde::Deserialize)]
        struct Named<'a> {
            #[serde(borrow, alias = "exec-oob")]
            execute: Cow<'a, str>,
        }
        match &self.body {
            Body::Words { name, .. } => Some(Cow::Borrowed(name)),
            Body::Json(text) => serde_json::from_slice(text)
                .ok()
                .map(|Named { execute }| execute),
        }
    }

    /// Whether there are values in it whose types the schema knows better.
    pub(crate) fn wants_types(&self) -> bool {
        matches!(&self.body, Body::Words { arguments, .. } if !arguments.is_empty())
    }

    /// The same with a type for each of its values, by what `command` takes.
    pub(crate) fn typed(mut self, command: CommandInfo<'_>) -> Self {
        if let Body::Words { arguments, .. } = &mut self.body {
            *arguments = std::mem::take(arguments).typed(command);
        }
        self
    }

    /// The command as JSON.
    ///
    /// # Errors
    ///
    /// Where it is none.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, CommandError> {
        match &self.body {
            Body::Json(text) if !self.oob => Ok(text.clone()),
            Body::Json(text) => Ok(as_oob(text)),
            Body::Words { name, arguments } => {
                let command = Command::new(name.as_str()).args(arguments);
                match self.oob {
                    true => command.oob().to_json(),
                    false => command.to_json(),
                }
            }
        }
    }
}

/// A command in JSON with `exec-oob` for its `execute`. What is no object stays as it is, for the library to refuse.
fn as_oob(text: &[u8]) -> Vec<u8> {
    type Members<'a> = std::collections::BTreeMap<String, &'a serde_json::value::RawValue>;
    let Ok(mut members) = serde_json::from_slice::<Members<'_>>(text) else {
        return text.to_vec();
    };
    if let Some(name) = members.remove("execute") {
        members.insert("exec-oob".to_owned(), name);
    }
    serde_json::to_vec(&members).unwrap_or_else(|_| text.to_vec())
}

/// A copy of the descriptor that this program was started with under `number`.
fn inherited(number: &str) -> Result<OwnedFd, String> {
    let file = number
        .parse()
        .map_err(|_| format!("`!fd` wants the number of a descriptor, and `{number}` is none"))?;
    pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|this| pidfd_getfd(this, file, PidfdGetfdFlags::empty()))
        .map_err(|error| format!("descriptor {number}: {}", std::io::Error::from(error)))
}

/// The words of a line, as a shell would have given them: what is quoted, by `'` or `"`, has its blanks, and as a value it is a
/// string. A value that begins with a bracket reaches to the bracket that closes it.
///
/// # Errors
///
/// A quote or a bracket that is not closed.
pub(crate) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = word(rest)?;
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

/// The first word of `text`, which does not begin with a blank, and what follows it.
fn word(text: &str) -> Result<(String, &str), String> {
    let mut word = String::new();
    // Where in `word` its value begins, once there has been a `=`.
    let mut value = None;
    let mut is_quoted = false;
    let mut rest = text;
    while let Some(char) = rest.chars().next().filter(|char| !char.is_whitespace()) {
        let begins_value = value == Some(word.len()) && !is_quoted;
        match char {
            '{' | '[' if begins_value => {
                let end = closing(rest)?;
                word.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            // JSON keeps its quotes.
            '"' if begins_value && word.ends_with(":=") => {
                let end = quoted(rest, &mut String::new())?;
                word.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            '"' | '\'' => {
                let end = quoted(rest, &mut word)?;
                is_quoted |= value.is_some();
                rest = &rest[end..];
            }
            char => {
                word.push(char);
                if char == '=' {
                    value.get_or_insert(word.len());
                }
                rest = &rest[char.len_utf8()..];
            }
        }
    }
    if let (Some(value), true) = (value, is_quoted) {
        word.insert_str(value, "str:");
    }
    Ok((word, rest))
}

/// Appends what stands in the quotes that `text` begins with, and says how long it is with them. In double quotes `\` makes the
/// next character an ordinary one, or a control character as in JSON.
fn quoted(text: &str, word: &mut String) -> Result<usize, String> {
    let mut chars = text.char_indices();
    let quote = chars.next().map_or('"', |(_, quote)| quote);
    while let Some((at, char)) = chars.next() {
        match char {
            char if char == quote => return Ok(at + char.len_utf8()),
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => word.push('\n'),
                Some((_, 't')) => word.push('\t'),
                Some((_, 'r')) => word.push('\r'),
                Some((_, char)) => word.push(char),
                None => break,
            },
            char => word.push(char),
        }
    }
    Err(format!("a {quote} is not closed"))
}

/// How long the JSON is whose bracket `text` begins with.
fn closing(text: &str) -> Result<usize, String> {
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    for (at, char) in text.char_indices() {
        if in_string {
            in_string = escaped || char != '"';
            escaped = !escaped && char == '\\';
            continue;
        }
        match char {
            '"' => in_string = true,
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(at + char.len_utf8());
        }
    }
    Err("a bracket is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(line: &str) -> String {
        let request = Request::from_line(line).unwrap().expect("a command");
        String::from_utf8(request.to_json().unwrap()).unwrap()
    }

    #[test]
    fn lines_are_split_as_a_shell_would() {
        for (line, words) in [
            ("a", &["a"][..]),
            ("  a\tb  ", &["a", "b"]),
            (
                r#"x command-line="info status""#,
                &["x", "command-line=str:info status"],
            ),
            ("x a='1'", &["x", "a=str:1"]),
            (r"x a='\n'", &["x", r"a=str:\n"]),
            (r#"x a="\"q\" \\ \n""#, &["x", "a=str:\"q\" \\ \n"]),
            (r#"x a=b"c d"e"#, &["x", "a=str:bc de"]),
            (r#"x a="""#, &["x", "a=str:"]),
            (
                r#"x a={"b": [1, "}"]} c=2"#,
                &["x", r#"a={"b": [1, "}"]}"#, "c=2"],
            ),
            (
                r#"x a:="b c" d:=[1, 2]"#,
                &["x", r#"a:="b c""#, "d:=[1, 2]"],
            ),
            (r#"x a='{"b": 1}'"#, &["x", r#"a=str:{"b": 1}"#]),
            (r#""x y" 'z'"#, &["x y", "z"]),
            ("x a=b=c", &["x", "a=b=c"]),
            ("", &[]),
        ] {
            let split = split(line).unwrap();
            assert_eq!(split, words, "{line}");
        }
        for (line, reason) in [
            ("x a='b", "a ' is not closed"),
            (r#"x a="b\"#, "a \" is not closed"),
            ("x a={[}", "a bracket is not closed"),
            (r#"x a={"}"#, "a bracket is not closed"),
        ] {
            assert_eq!(split(line), Err(reason.to_owned()), "{line}");
        }
    }

    #[test]
    fn a_line_is_a_command_in_words_or_in_json() {
        for (line, text) in [
            ("query-status", r#"{"execute":"query-status"}"#),
            (
                "device_del id=str:1",
                r#"{"execute":"device_del","arguments":{"id":"1"}}"#,
            ),
            (
                "blockdev-add file.driver=null-co file.size=65536 driver=raw",
                r#"{"execute":"blockdev-add","arguments":{"file":{"driver":"null-co","size":65536},"driver":"raw"}}"#,
            ),
            (
                r#" {"execute": "stop", "id": 7} "#,
                r#"{"execute": "stop", "id": 7}"#,
            ),
            ("!oob yank", r#"{"exec-oob":"yank"}"#),
            (
                r#"!oob {"execute": "yank", "id": 1}"#,
                r#"{"exec-oob":"yank","id":1}"#,
            ),
        ] {
            assert_eq!(json(line), text, "{line}");
        }
        for line in ["", "  \t ", "# stop", "  # stop"] {
            assert!(Request::from_line(line).unwrap().is_none(), "{line}");
        }
        for (line, reason) in [
            ("stop now", "argument `now`: expected KEY=VALUE"),
            ("!sudo stop", "neither `!oob` nor `!fd`"),
            ("!fd x stop", "`x` is none"),
            ("!fd 987654 stop", "descriptor 987654: Bad file descriptor"),
            ("!oob", "no command given"),
        ] {
            let error = Request::from_line(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn a_descriptor_goes_along_as_a_copy() {
        let request = Request::from_line("!fd 1 getfd fdname=out")
            .unwrap()
            .unwrap();
        assert_eq!(request.files.len(), 1);
        assert_eq!(
            json("!fd 1 getfd fdname=out"),
            r#"{"execute":"getfd","arguments":{"fdname":"out"}}"#
        );
    }

    #[test]
    fn words_given_to_the_program_are_a_command_too() {
        let words = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            Request::from_words(&words).map(|request| request.to_json().unwrap())
        };
        assert_eq!(
            words(&["device_del", "id=blk0"]).unwrap(),
            br#"{"execute":"device_del","arguments":{"id":"blk0"}}"#
        );
        assert_eq!(
            words(&[r#" { "execute": "stop" } "#]).unwrap(),
            br#" { "execute": "stop" } "#
        );
        for (given, reason) in [
            (&[][..], "no command given"),
            (&["stop", "now"], "argument `now`: expected KEY=VALUE"),
            (
                &[r#"{"execute":"stop"}"#, "a=1"],
                "argument `a=1`: a command given as JSON",
            ),
        ] {
            let error = words(given).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
