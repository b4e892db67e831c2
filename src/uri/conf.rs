//! libvirt's client configuration, `libvirt.conf`: `KEY = VALUE` a line, where a value is a text in quotes, a whole number or a
//! list in brackets; `#` begins a comment. Imports nothing of ours.

use std::iter::Peekable;
use std::str::Chars;

/// What a client takes from the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conf {
    /// `uri_default`: the URI where none is given.
    pub(super) uri_default: Option<String>,
    /// `uri_aliases`: short names and what they stand for.
    pub(super) uri_aliases: Vec<(String, String)>,
    /// `remote_mode`: the default of the parameter `mode`.
    pub(super) remote_mode: Option<String>,
    /// `remote_proxy`: the default of the parameter `proxy`.
    pub(super) remote_proxy: Option<String>,
    /// `tls_priority`: ciphers, in the words of GnuTLS.
    pub(super) tls_priority: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Number,
    List(Vec<Value>),
}

impl Conf {
    /// Reads the text of the file. Keys that are not known are passed over, as libvirt does.
    ///
    /// # Errors
    ///
    /// What is wrong, with the line's number.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut conf = Conf::default();
        let mut parser = Parser {
            rest: text.chars().peekable(),
            line: 1,
        };
        while let Some((key, value, line)) = parser.entry()? {
            let place = |reason: String| format!("line {line}: {reason}");
            match key.as_str() {
                "uri_default" => conf.uri_default = Some(value.text(&key).map_err(place)?),
                "remote_mode" => conf.remote_mode = Some(value.text(&key).map_err(place)?),
                "remote_proxy" => conf.remote_proxy = Some(value.text(&key).map_err(place)?),
                "tls_priority" => conf.tls_priority = Some(value.text(&key).map_err(place)?),
                "uri_aliases" => conf.uri_aliases = value.aliases().map_err(place)?,
                _ => {}
            }
        }
        Ok(conf)
    }

    /// What `name` stands for, if it is an alias.
    pub(super) fn alias(&self, name: &str) -> Option<&str> {
        let found = self.uri_aliases.iter().find(|(alias, _)| alias == name);
        found.map(|(_, uri)| uri.as_str())
    }
}

impl Value {
    fn text(self, key: &str) -> Result<String, String> {
        match self {
            Value::Text(text) => Ok(text),
            _ => Err(format!("the value of `{key}` is not a text in quotes")),
        }
    }

    /// A list of texts `NAME=URI`.
    fn aliases(self) -> Result<Vec<(String, String)>, String> {
        let Value::List(values) = self else {
            return Err("the value of `uri_aliases` is not a list in brackets".to_owned());
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let alias = |value: Value| {
            let text = value.text("uri_aliases")?;
            match text.split_once('=') {
                Some((name, uri)) if !name.is_empty() && name.chars().all(plain) => {
                    Ok((name.to_owned(), uri.to_owned()))
                }
                _ => Err(format!("`{text}` is not NAME=URI")),
            }
        };
        values.into_iter().map(alias).collect()
    }
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
}

impl Parser<'_> {
    /// The next key and value, and the line of the key.
    fn entry(&mut self) -> Result<Option<(String, Value, usize)>, String> {
        self.skip(true);
        if self.rest.peek().is_none() {
            return Ok(None);
        }
        let line = self.line;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let key = self.take_while(plain);
        if key.is_empty() {
            return Err(self.wrong("expected a key"));
        }
        self.skip(false);
        if self.next() != Some('=') {
            return Err(self.wrong(&format!("expected `=` after `{key}`")));
        }
        self.skip(false);
        let value = self.value(0)?;
        self.skip(false);
        match self.rest.peek() {
            None | Some('\n') => Ok(Some((key, value, line))),
            Some(_) => Err(self.wrong(&format!("more than a value for `{key}`"))),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        match self.rest.peek() {
            Some('"' | '\'') => self.text().map(Value::Text),
            Some('[') if depth == 0 => self.list(),
            Some(c) if c.is_ascii_digit() || *c == '-' => {
                self.next();
                self.take_while(|c| c.is_ascii_digit());
                Ok(Value::Number)
            }
            _ => Err(self.wrong("expected a text in quotes, a whole number or a list in brackets")),
        }
    }

    /// A text in single or double quotes on one line, or between two rows of three double quotes on several.
    fn text(&mut self) -> Result<String, String> {
        let quote = self.next();
        let mut text = self.take_while(|c| Some(c) != quote && c != '\n');
        // Not passed over before: the error is about this line.
        if self.rest.next_if(|&c| Some(c) == quote).is_none() {
            return Err(self.wrong("a text without its second quote"));
        }
        if !text.is_empty() || quote != Some('"') || self.rest.peek() != Some(&'"') {
            return Ok(text);
        }
        self.next();
        loop {
            match self.next() {
                Some(c) => text.push(c),
                None => return Err(self.wrong("a text without its second three quotes")),
            }
            if let Some(whole) = text.strip_suffix("\"\"\"") {
                return Ok(whole.to_owned());
            }
        }
    }

    fn list(&mut self) -> Result<Value, String> {
        self.next();
        let mut values = Vec::new();
        loop {
            self.skip(true);
            if self.rest.peek() == Some(&']') {
                break;
            }
            values.push(self.value(1)?);
            self.skip(true);
            match self.rest.peek() {
                Some(',') => self.next(),
                Some(']') => break,
                _ => return Err(self.wrong("expected `,` or `]` in the list")),
            };
        }
        self.next();
        Ok(Value::List(values))
    }

    /// Passes over blanks and comments, and over line ends too where they mean nothing.
    fn skip(&mut self, lines: bool) {
        while let Some(&c) = self.rest.peek() {
            match c {
                '#' => drop(self.take_while(|c| c != '\n')),
                '\n' if !lines => return,
                c if c.is_whitespace() => drop(self.next()),
                _ => return,
            }
        }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut text = String::new();
        while let Some(c) = self.rest.next_if(|&c| wanted(c)) {
            text.push(c);
        }
        text
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        if c == Some('\n') {
            self.line += 1;
        }
        c
    }

    fn wrong(&self, what: &str) -> String {
        format!("line {}: {what}", self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libvirt_reads_is_read() {
        let text = r#"
# a comment, with "quotes" = 1
uri_default = "qemu:///system"  # and behind
uri_aliases = [
  "hail=qemu+ssh://root@hail.cloud.example.com/system",   # one
  'sleet=qemu:///x?a=b',
]
remote_mode='legacy'
remote_proxy = """native"""
other = 5
negative = -1
list = []
"#;
        let conf = Conf::parse(text).unwrap();
        assert_eq!(conf.uri_default.as_deref(), Some("qemu:///system"));
        assert_eq!(
            conf.alias("hail"),
            Some("qemu+ssh://root@hail.cloud.example.com/system")
        );
        assert_eq!(conf.alias("sleet"), Some("qemu:///x?a=b"));
        assert_eq!(conf.alias("hai"), None);
        assert_eq!(conf.remote_mode.as_deref(), Some("legacy"));
        assert_eq!(conf.remote_proxy.as_deref(), Some("native"));
        assert_eq!(conf.tls_priority, None);
        assert_eq!(Conf::parse("").unwrap(), Conf::default());
        assert_eq!(Conf::parse("# only\n\n").unwrap(), Conf::default());
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, expected) in [
            ("\nuri_default", "line 2: expected `=`"),
            ("uri_default = 5", "line 1: the value of `uri_default`"),
            ("uri_default = \"a", "line 1: a text without"),
            ("uri_default = \"a\nb\"", "line 1: a text without"),
            ("uri_default = \"\"\"a\n\n", "line 3: a text without"),
            ("uri_default = \"a\" \"b\"", "line 1: more than a value"),
            ("uri_default = abc", "line 1: expected a text"),
            ("= 5", "line 1: expected a key"),
            (
                "a = 1\nuri_aliases = \"x=y\"",
                "line 2: the value of `uri_aliases`",
            ),
            ("uri_aliases = [\"x\"]", "line 1: `x` is not NAME=URI"),
            ("uri_aliases = [\"a b=y\"]", "line 1: `a b=y` is not"),
            ("uri_aliases = [\"a=y\"", "line 1: expected `,` or `]`"),
            ("uri_aliases = [[]]", "line 1: expected a text"),
            ("uri_aliases = [1]", "line 1: the value of `uri_aliases`"),
        ] {
            let error = Conf::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
