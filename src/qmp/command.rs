//! Commands: `Command` builds one, `RawCommand` checks one that comes as text and puts another id into it. Imports
//! `json`, `lex`, the limit in `mod`, and the problems of `schema` for its error.

use std::borrow::Cow;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use serde::Serialize;

use super::MAX_MESSAGE;
use super::json::{self, Field, JsonError};
use super::lex;
use super::schema::SchemaProblems;

/// JSON tokens that QEMU takes in one command (`MAX_TOKEN_COUNT`).
const MAX_TOKENS: usize = 2 << 20;
/// Those of the transport's id, a string: name, colon, value and comma.
const ID_TOKENS: usize = 4;

/// A QMP command with its arguments.
///
/// ```text
/// Command::new("device_del").arg("id", "blk0")
/// Command::new("blockdev-add").args(options).arg("node-name", "disk1")
/// ```
///
/// An argument given twice counts once, with the last value; it keeps its first place. An argument that cannot be
/// written as JSON is reported when the command is used. A float that is not finite is written as `null`, as
/// everywhere in serde_json. `Debug` shows the names of the arguments and never their values, which may be secret.
#[derive(Clone)]
pub struct Command {
    name: String,
    oob: bool,
    /// Each name with its value as JSON text.
    arguments: Vec<(String, String)>,
    /// The first argument that could not be taken.
    failure: Option<CommandError>,
    files: Vec<Arc<OwnedFd>>,
    timeout: Option<Option<Duration>>,
}

impl Command {
    /// The command called `name` in QMP, such as `query-status`, without arguments.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            oob: false,
            arguments: Vec::new(),
            failure: None,
            files: Vec::new(),
            timeout: None,
        }
    }

    /// Adds one argument.
    pub fn arg<T: Serialize>(mut self, key: impl Into<String>, value: T) -> Self {
        let key = key.into();
        match serde_json::to_string(&value) {
            Ok(text) => self.set(key, text),
            Err(source) => {
                let command = self.name.clone();
                self.fail(CommandError::Argument {
                    command,
                    argument: key,
                    source: Arc::new(source),
                });
            }
        }
        self
    }

    /// Adds all members of a struct, map or other value that serializes as a JSON object. `None` and `()` add nothing.
    pub fn args(mut self, arguments: impl Serialize) -> Self {
        let text = match serde_json::to_string(&arguments) {
            Ok(text) => text,
            Err(source) => {
                let command = self.name.clone();
                self.fail(CommandError::Arguments {
                    command,
                    source: Arc::new(source),
                });
                return self;
            }
        };
        if text == "null" {
            return self;
        }
        let checked = json::object(text.as_bytes(), |member| {
            self.set(
                member.name().into_owned(),
                text[member.value.clone()].to_owned(),
            );
        });
        if let Err(error) = checked {
            let command = self.name.clone();
            self.fail(CommandError::NotArguments {
                command,
                reason: error.reason,
            });
        }
        self
    }

    /// Makes it an out-of-band command, `exec-oob` on the wire. Only a monitor that has negotiated `oob` takes it, and
    /// only for a few commands; libvirt does neither.
    pub fn oob(mut self) -> Self {
        self.oob = true;
        self
    }

    /// Sends a file descriptor along, for `getfd` and `add-fd`: `.file(File::open(path)?)`. QEMU gets a copy.
    pub fn file(mut self, file: impl Into<OwnedFd>) -> Self {
        self.files.push(Arc::new(file.into()));
        self
    }

    /// How long the call may take, instead of what is configured. `None` waits for ever.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// The command's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptors that go with it.
    pub fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.files.iter().map(|file| file.as_fd()).collect()
    }

    /// What [`timeout`](Self::timeout) was set to; `Some(None)` is no deadline at all.
    pub fn own_timeout(&self) -> Option<Option<Duration>> {
        self.timeout
    }

    /// Whether it is an out-of-band command.
    pub fn is_oob(&self) -> bool {
        self.oob
    }

    /// The command as one line of compact JSON, without an `id` and without a newline.
    ///
    /// # Errors
    /// The first failure of [`arg`](Self::arg) or [`args`](Self::args): [`CommandError::Argument`],
    /// [`CommandError::Arguments`] or [`CommandError::NotArguments`].
    pub fn to_json(&self) -> Result<Vec<u8>, CommandError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut out = Vec::with_capacity(64);
        out.put_slice(if self.oob {
            br#"{"exec-oob":"#
        } else {
            br#"{"execute":"#
        });
        lex::write_string(&mut out, &self.name);
        let mut before: &[u8] = br#","arguments":{"#;
        for (name, value) in &self.arguments {
            out.put_slice(before);
            lex::write_string(&mut out, name);
            out.put_u8(b':');
            out.put_slice(value.as_bytes());
            before = b",";
        }
        out.put_slice(if self.arguments.is_empty() {
            b"}"
        } else {
            b"}}"
        });
        Ok(out)
    }

    fn set(&mut self, key: String, value: String) {
        match self.arguments.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.arguments.push((key, value)),
        }
    }

    fn fail(&mut self, failure: CommandError) {
        self.failure.get_or_insert(failure);
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self
            .arguments
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        f.debug_struct("Command")
            .field("name", &self.name)
            .field("oob", &self.oob)
            .field("arguments", &names)
            .field("failure", &self.failure)
            .field("files", &self.files.len())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Why a command cannot be sent. Nothing has been.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// An argument could not be written as JSON.
    #[error("argument `{argument}` of {command} cannot be written as JSON")]
    Argument {
        /// The command's name.
        command: String,
        /// The argument's name.
        argument: String,
        /// What its `Serialize` reported.
        source: Arc<serde_json::Error>,
    },
    /// The value with all arguments could not be written as JSON.
    #[error("arguments of {command} cannot be written as JSON")]
    Arguments {
        /// The command's name.
        command: String,
        /// What its `Serialize` reported.
        source: Arc<serde_json::Error>,
    },
    /// The value with all arguments is no JSON object.
    #[error("arguments of {command} are not a JSON object: {reason}")]
    NotArguments {
        /// The command's name.
        command: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The text is longer than a server takes.
    #[error("command of {length} bytes is longer than {limit}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The greatest length in bytes.
        limit: usize,
    },
    /// The command has more JSON tokens than QEMU takes. It would answer the rest of them with an error each.
    #[error("command has {tokens} JSON tokens, more than {limit}")]
    TooManyTokens {
        /// How many it has, as sent.
        tokens: usize,
        /// The greatest number.
        limit: usize,
    },
    /// The text is not UTF-8.
    #[error("command is not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// Offset in bytes of the first byte that is not.
        offset: usize,
    },
    /// The text is not exactly one JSON object.
    #[error("command is not a JSON object: {reason} at byte {offset}")]
    NotAnObject {
        /// Offset in bytes of what is wrong.
        offset: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The object has neither an `execute` nor an `exec-oob` member.
    #[error("command has no member `execute`")]
    NoName,
    /// The object has both an `execute` and an `exec-oob` member.
    #[error("command has both `execute` and `exec-oob`")]
    TwoNames,
    /// The command's name is no string.
    #[error("member `{member}` of the command is not a string")]
    NameNotString {
        /// The member that should be.
        member: &'static str,
    },
    /// The object has a member more than once, which no server understands.
    #[error("command has more than one member `{member}`")]
    Repeated {
        /// The member.
        member: &'static str,
    },
    /// A [`Guard`](crate::Guard) does not let it pass.
    #[error("command {command} is not allowed")]
    NotAllowed {
        /// The command's name.
        command: String,
    },
    /// QEMU has no such action of `transaction`.
    #[error("QEMU has no transaction action `{action}`, only {}", .known.join(", "))]
    UnknownAction {
        /// The action's name.
        action: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// QEMU would refuse it, by its own schema.
    #[error(transparent)]
    Schema(SchemaProblems),
}

impl From<SchemaProblems> for CommandError {
    fn from(problems: SchemaProblems) -> Self {
        Self::Schema(problems)
    }
}

impl From<JsonError> for CommandError {
    fn from(JsonError { offset, reason }: JsonError) -> Self {
        if reason == json::NOT_UTF8 {
            Self::NotUtf8 { offset }
        } else {
            Self::NotAnObject { offset, reason }
        }
    }
}

/// A command in the words of its user, checked: one JSON object that names one command and has at most one id.
pub(crate) struct RawCommand<'a> {
    /// The object, without blanks around it.
    text: &'a [u8],
    /// Whether there are blanks in it that can go.
    spaced: bool,
    /// The command's name as JSON text, a string.
    name: &'a [u8],
    oob: bool,
    /// Offsets in `text`.
    id: Option<Field>,
}

impl<'a> RawCommand<'a> {
    /// Checks `text`. What the arguments are is between the user and the server.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, CommandError> {
        const NAMES: [&str; 4] = ["execute", "exec-oob", "id", "arguments"];
        if text.len() > MAX_MESSAGE {
            return Err(CommandError::TooLong {
                length: text.len(),
                limit: MAX_MESSAGE,
            });
        }
        // Offsets in what the user gave, not in the trimmed text: an error must point at the right place.
        let (fields, outline) = json::fields(text, NAMES)?;
        for (field, member) in fields.iter().zip(NAMES) {
            if field.as_ref().is_some_and(|field| field.repeated) {
                return Err(CommandError::Repeated { member });
            }
        }
        let [execute, exec_oob, id, _] = fields;
        let oob = exec_oob.is_some();
        let (name, member) = match (execute, exec_oob) {
            (Some(name), None) => (name, "execute"),
            (None, Some(name)) => (name, "exec-oob"),
            (Some(_), Some(_)) => return Err(CommandError::TwoNames),
            (None, None) => return Err(CommandError::NoName),
        };
        let name = &text[name.value];
        if !name.starts_with(b"\"") {
            return Err(CommandError::NameNotString { member });
        }
        let begin = outline.span.start;
        let id = id.map(|id| Field {
            value: id.value.start - begin..id.value.end - begin,
            cut: id.cut.start - begin..id.cut.end - begin,
            ..id
        });
        let text = &text[outline.span];
        check_tokens(text, id.as_ref())?;
        Ok(Self {
            text,
            spaced: outline.spaced,
            name,
            oob,
            id,
        })
    }

    /// The command's name.
    pub(crate) fn name(&self) -> Cow<'a, str> {
        json::string(self.name).unwrap_or_default()
    }

    /// Whether it is to be executed out of band.
    pub(crate) fn is_oob(&self) -> bool {
        self.oob
    }

    /// The user's own id as JSON text, whatever it is.
    pub(crate) fn user_id(&self) -> Option<&'a [u8]> {
        self.id.as_ref().map(|id| &self.text[id.value.clone()])
    }

    /// The object without its id, else as it was given. libvirt sets an id of its own and refuses another.
    pub(crate) fn without_id(&self) -> Cow<'a, [u8]> {
        match &self.id {
            None => Cow::Borrowed(self.text),
            Some(id) => Cow::Owned([&self.text[..id.cut.start], &self.text[id.cut.end..]].concat()),
        }
    }

    /// Appends the object to `out` with `id` as its id, and without any blanks, since QEMU reads its input slowly.
    pub(crate) fn with_id(&self, id: &str, out: &mut impl BufMut) {
        out.put_slice(br#"{"id":"#);
        lex::write_string(out, id);
        out.put_u8(b',');
        // The command's name is left in any case, so there is a member to follow the comma.
        let cut = self.id.as_ref().map_or(1..1, |id| id.cut.clone());
        for part in [&self.text[1..cut.start], &self.text[cut.end..]] {
            if self.spaced {
                lex::write_compact(out, part);
            } else {
                out.put_slice(part);
            }
        }
    }
}

/// Checks that a command has no more tokens than QEMU takes, once the transport's id is in the place of its own.
fn check_tokens(text: &[u8], id: Option<&Field>) -> Result<(), CommandError> {
    // No token is shorter than a byte, so nearly every command needs no counting.
    if text.len() + ID_TOKENS <= MAX_TOKENS {
        return Ok(());
    }
    let own = id.map_or(0, |id| lex::tokens(&text[id.cut.clone()]));
    let tokens = lex::tokens(text) - own + ID_TOKENS;
    if tokens > MAX_TOKENS {
        return Err(CommandError::TooManyTokens {
            tokens,
            limit: MAX_TOKENS,
        });
    }
    Ok(())
}

impl fmt::Debug for RawCommand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawCommand")
            .field("name", &self.name())
            .field("oob", &self.oob)
            .field("length", &self.text.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn text(command: &Command) -> String {
        String::from_utf8(command.to_json().unwrap()).unwrap()
    }

    #[test]
    fn commands_as_json() {
        assert_eq!(
            text(&Command::new("query-status")),
            r#"{"execute":"query-status"}"#
        );
        let command = Command::new("device_del").arg("id", "blk\"0");
        assert_eq!(command.name(), "device_del");
        assert_eq!(
            text(&command),
            r#"{"execute":"device_del","arguments":{"id":"blk\"0"}}"#
        );
        assert_eq!(text(&Command::new("yank").oob()), r#"{"exec-oob":"yank"}"#);
        assert_eq!(
            text(&Command::new("a\n\u{1}\"\u{e9}")),
            "{\"execute\":\"a\\n\\u0001\\\"\u{e9}\"}"
        );
    }

    #[test]
    fn integers_are_never_floats() {
        let command = Command::new("x")
            .arg("u", u64::MAX)
            .arg("i", i64::MIN)
            .arg("f", 0.5);
        assert_eq!(
            text(&command),
            r#"{"execute":"x","arguments":{"u":18446744073709551615,"i":-9223372036854775808,"f":0.5}}"#
        );
    }

    #[test]
    fn args_add_up_and_the_last_wins() {
        #[derive(Serialize)]
        struct Options<'a> {
            driver: &'a str,
            #[serde(rename = "read-only")]
            read_only: bool,
        }
        let command = Command::new("blockdev-add")
            .arg("driver", "raw")
            .args(Options {
                driver: "qcow2",
                read_only: true,
            })
            .args(())
            .args(None::<u8>)
            .args(json!({"file": {"driver": "null-co"}}))
            .arg("read-only", false);
        assert_eq!(
            text(&command),
            r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","read-only":false,"file":{"driver":"null-co"}}}"#
        );
    }

    #[test]
    fn failures_are_remembered_and_the_first_is_told() {
        struct Fails;
        impl Serialize for Fails {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("cannot"))
            }
        }
        let error = Command::new("x")
            .arg("a", Fails)
            .arg("b", 1)
            .args(Fails)
            .to_json()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "argument `a` of x cannot be written as JSON"
        );
        assert_eq!(
            std::error::Error::source(&error).unwrap().to_string(),
            "cannot"
        );
        let error = Command::new("x").args(Fails).to_json().unwrap_err();
        assert_eq!(
            error.to_string(),
            "arguments of x cannot be written as JSON"
        );
        let error = Command::new("x").args([1]).to_json().unwrap_err();
        assert_eq!(
            error.to_string(),
            "arguments of x are not a JSON object: expected an object"
        );
    }

    #[test]
    fn debug_shows_no_values() {
        let command = Command::new("set_password")
            .arg("protocol", "vnc")
            .arg("password", "hunter2");
        let shown = format!("{command:?}");
        assert!(
            shown.contains("set_password") && shown.contains("password"),
            "{shown}"
        );
        assert!(
            !shown.contains("hunter2") && !shown.contains("vnc"),
            "{shown}"
        );
        let json = command.to_json().unwrap();
        let shown = format!("{:?}", RawCommand::parse(&json).unwrap());
        assert!(
            shown.contains("set_password") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    fn with_id(text: &str, id: &str) -> String {
        let mut out = Vec::new();
        RawCommand::parse(text.as_bytes())
            .unwrap()
            .with_id(id, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn raw_command_with_and_without_id() {
        for (text, user_id, without, with) in [
            (
                r#"{"execute":"stop"}"#,
                None,
                r#"{"execute":"stop"}"#,
                r#"{"id":"t-1","execute":"stop"}"#,
            ),
            (
                " {\"execute\": \"a b\", \"id\": 7}\n",
                Some("7"),
                r#"{"execute": "a b"}"#,
                r#"{"id":"t-1","execute":"a b"}"#,
            ),
            (
                r#"{"\u0069d":[1, "id"],"execute":"x","arguments":{"id":"in"}}"#,
                Some(r#"[1, "id"]"#),
                r#"{"execute":"x","arguments":{"id":"in"}}"#,
                r#"{"id":"t-1","execute":"x","arguments":{"id":"in"}}"#,
            ),
            (
                r#"{"exec-oob":"yank","id":null,"arguments":{}}"#,
                Some("null"),
                r#"{"exec-oob":"yank","arguments":{}}"#,
                r#"{"id":"t-1","exec-oob":"yank","arguments":{}}"#,
            ),
        ] {
            let command = RawCommand::parse(text.as_bytes()).unwrap();
            assert_eq!(command.user_id(), user_id.map(str::as_bytes));
            assert_eq!(command.without_id(), without.as_bytes());
            assert_eq!(with_id(text, "t-1"), with);
            assert_eq!(command.is_oob(), text.contains("oob"));
        }
        let escaped = RawCommand::parse(br#"{"execute":"query\u002dname"}"#).unwrap();
        assert_eq!(escaped.name(), "query-name");
        assert_eq!(
            with_id(r#"{"execute":"x"}"#, "a\"b"),
            r#"{"id":"a\"b","execute":"x"}"#
        );
    }

    #[test]
    fn pretty_printed_commands_become_one_line() {
        let text = "{\r\n    \"execute\": \"human-monitor-command\",\r\n    \"arguments\": {\r\n\t\"command-line\": \"info  \\\" status\"\r\n    },\r\n    \"id\": 1\r\n}\r\n";
        assert_eq!(
            with_id(text, "1"),
            r#"{"id":"1","execute":"human-monitor-command","arguments":{"command-line":"info  \" status"}}"#
        );
    }

    #[test]
    fn bad_raw_commands_are_told_apart() {
        for (text, message) in [
            ("", "command is not a JSON object: unexpected end at byte 0"),
            (
                "query-status",
                "command is not a JSON object: expected an object at byte 0",
            ),
            (
                "[1]",
                "command is not a JSON object: expected an object at byte 0",
            ),
            (
                "null",
                "command is not a JSON object: expected an object at byte 0",
            ),
            ("{}", "command has no member `execute`"),
            (r#"{"id":1}"#, "command has no member `execute`"),
            (
                r#"{"execute":"a"}{"execute":"b"}"#,
                "command is not a JSON object: text after the object at byte 15",
            ),
            (
                r#"{"execute":"a",}"#,
                "command is not a JSON object: expected a member name in double quotes at byte 15",
            ),
            (
                r#"{"execute":"a","exec-oob":"b"}"#,
                "command has both `execute` and `exec-oob`",
            ),
            (
                r#"{"execute":1}"#,
                "member `execute` of the command is not a string",
            ),
            (
                r#"{"exec-oob":null}"#,
                "member `exec-oob` of the command is not a string",
            ),
            (
                r#"{"id":1,"execute":"a","\u0069d":1}"#,
                "command has more than one member `id`",
            ),
            (
                r#"{"execute":"a","execute":"b"}"#,
                "command has more than one member `execute`",
            ),
            (
                r#"{"execute":"a","arguments":{},"arguments":{}}"#,
                "command has more than one member `arguments`",
            ),
        ] {
            assert_eq!(
                RawCommand::parse(text.as_bytes()).unwrap_err().to_string(),
                message,
                "{text}"
            );
        }
        let error = RawCommand::parse(b"{\"execute\":\"\xff\"}").unwrap_err();
        assert_eq!(error.to_string(), "command is not UTF-8 at byte 12");
        let long = vec![b' '; MAX_MESSAGE + 1];
        assert_eq!(
            RawCommand::parse(&long).unwrap_err().to_string(),
            "command of 67108865 bytes is longer than 67108864"
        );
    }

    #[test]
    fn tokens_are_limited_as_in_qemu() {
        // Around k times `[]` there are 10 tokens and k - 1 commas, and our id comes with 4.
        let command = |k: usize, rest: &str| {
            let list = vec!["[]"; k].join(",");
            format!(r#"{{"execute":"x","arguments":[{list}{rest}]}}"#)
        };
        let k = 699_045;
        assert_eq!(3 * k + 13 + 4, 2_097_152);
        RawCommand::parse(command(k, ",1,1").as_bytes()).unwrap();
        let error = RawCommand::parse(command(k + 1, ",1").as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "command has 2097153 JSON tokens, more than 2097152"
        );
        // The user's own id is not sent.
        let list = "[],".repeat(k);
        let text = format!(r#"{{"execute":"x","id":[{list}[]]}}"#);
        RawCommand::parse(text.as_bytes()).unwrap();
    }

    #[test]
    fn deep_ids_are_taken_up_to_qemus_limit() {
        let command = |levels: usize| {
            format!(
                r#"{{"execute":"x","id":{}{}}}"#,
                "[".repeat(levels),
                "]".repeat(levels)
            )
        };
        for levels in [200, 1023] {
            let text = command(levels);
            let raw = RawCommand::parse(text.as_bytes()).unwrap();
            assert_eq!(raw.user_id().map(<[u8]>::len), Some(2 * levels));
        }
        let error = RawCommand::parse(command(1024).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("levels of nesting"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn ids_come_and_go(
            place in 0_usize..3,
            id in prop::option::of(prop::sample::select(vec!["1", "null", "\"x\"", "{ \"id\" : [ ] }", "-0.5"])),
            gap in "[ \n\t\r]{0,2}",
            name in any::<String>(),
        ) {
            let mut members = vec![
                format!("\"execute\"{gap}:{gap}{}", Value::from(name.as_str())),
                format!("\"arguments\"{gap}:{gap}{{{gap}\"id\":\" {{\"}}"),
            ];
            if let Some(id) = id {
                members.insert(place, format!("\"id\":{gap}{id}{gap}"));
            }
            let text = format!("{gap}{{{gap}{}{gap}}}{gap}", members.join(&format!("{gap},{gap}")));
            let command = RawCommand::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(command.name(), name.as_str());
            prop_assert_eq!(command.user_id(), id.map(str::as_bytes));

            let mut expected: Value = serde_json::from_str(&text).unwrap();
            expected.as_object_mut().unwrap().remove("id");
            prop_assert_eq!(&serde_json::from_slice::<Value>(&command.without_id()).unwrap(), &expected);
            let mut out = Vec::new();
            command.with_id("t-1", &mut out);
            expected["id"] = "t-1".into();
            prop_assert_eq!(&serde_json::from_slice::<Value>(&out).unwrap(), &expected);
            prop_assert_eq!(out.len(), serde_json::to_vec(&expected).unwrap().len());
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(command) = RawCommand::parse(&text) {
                let _ = command.without_id();
            }
        }
    }
}
