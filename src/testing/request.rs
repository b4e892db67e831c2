//! One command as a QMP server takes it apart, with QEMU's own complaints about what is wrong with it; and the texts of what
//! it says. Imports qmp and `reply`.

use serde_json::{Map, Value, json};

use super::reply::Outcome;
use crate::qmp::{ErrorClass, Event, from_json};

/// A command that came.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) name: String,
    /// An object; an empty one where there were none.
    pub(super) arguments: Value,
    pub(super) id: Option<Value>,
    pub(super) oob: bool,
    /// The whole command but for its id.
    pub(super) command: Value,
}

/// Why a text is no command.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) id: Option<Value>,
    pub(super) desc: String,
}

impl Refusal {
    fn new(id: Option<Value>, desc: impl Into<String>) -> Self {
        Refusal {
            id,
            desc: desc.into(),
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        error(ErrorClass::GenericError, &self.desc)
    }
}

impl Request {
    /// Takes a text for a command. `oob` says whether the capability is enabled, without which the member is unknown.
    pub(super) fn parse(text: &[u8], oob: bool) -> Result<Self, Refusal> {
        let value: Value = from_json(text)
            .map_err(|error| Refusal::new(None, format!("JSON parse error, {error}")))?;
        let Value::Object(mut members) = value else {
            return Err(Refusal::new(None, "QMP input must be a JSON object"));
        };
        let id = members.remove("id");
        let refuse = |desc: String| Refusal::new(id.clone(), desc);
        let mut name = None;
        for (member, value) in &members {
            match member.as_str() {
                "execute" | "exec-oob" if member == "execute" || oob => {
                    let Value::String(text) = value else {
                        return Err(refuse(format!(
                            "QMP input member '{member}' must be a string"
                        )));
                    };
                    if name.is_some() {
                        return Err(refuse(
                            "QMP input member 'exec-oob' clashes with 'execute'".to_owned(),
                        ));
                    }
                    name = Some((text.clone(), member == "exec-oob"));
                }
                "arguments" if value.is_object() => {}
                "arguments" => {
                    return Err(refuse(
                        "QMP input member 'arguments' must be an object".to_owned(),
                    ));
                }
                _ => return Err(refuse(format!("QMP input member '{member}' is unexpected"))),
            }
        }
        let Some((name, oob)) = name else {
            return Err(refuse("QMP input lacks member 'execute'".to_owned()));
        };
        let arguments = members
            .get("arguments")
            .cloned()
            .unwrap_or_else(|| Value::Object(Map::new()));
        Ok(Request {
            name,
            arguments,
            id,
            oob,
            command: Value::Object(members),
        })
    }

    /// A command without arguments that must be one: the first of them is what QEMU complains about.
    pub(super) fn first_argument(&self) -> Option<&str> {
        let arguments = self.arguments.as_object()?;
        arguments.keys().next().map(String::as_str)
    }
}

pub(super) fn error(class: ErrorClass, desc: impl Into<String>) -> Outcome {
    Outcome::Error {
        class,
        desc: desc.into(),
    }
}

/// The text of a reply, with `gap` behind each colon and comma: QEMU has blanks there, libvirt has none. `None` where there is
/// none to send: `Never`, `Close`, and `Raw`, which has its own bytes.
pub(super) fn reply_text(outcome: &Outcome, id: Option<&Value>, gap: &str) -> Option<String> {
    let id = id.map(|id| format!("\"id\":{gap}{id}"));
    Some(match outcome {
        Outcome::Value(value) => {
            let id = id.map(|id| format!(",{gap}{id}")).unwrap_or_default();
            format!("{{\"return\":{gap}{value}{id}}}")
        }
        Outcome::Error { class, desc } => {
            let error = json!({"class": class.as_str(), "desc": desc});
            let id = id.map(|id| format!("{id},{gap}")).unwrap_or_default();
            format!("{{{id}\"error\":{gap}{error}}}")
        }
        Outcome::Never | Outcome::Raw(_) | Outcome::Close => return None,
    })
}

/// The text of an event.
pub(super) fn event_text(event: &Event) -> String {
    let data = event
        .data
        .as_ref()
        .map(|data| format!(", \"data\": {}", data.get()))
        .unwrap_or_default();
    format!(
        "{{\"timestamp\": {{\"seconds\": {}, \"microseconds\": {}}}, \"event\": {}{data}}}",
        event.timestamp.seconds,
        event.timestamp.microseconds,
        Value::from(event.name.as_str()),
    )
}

/// A text as QEMU puts it on the wire: in ASCII, ended by a line end, and spread over lines where the monitor is so set.
pub(super) fn on_the_wire(text: String, pretty: bool) -> Vec<u8> {
    let text = match pretty.then(|| from_json::<Value>(text.as_bytes())) {
        Some(Ok(value)) => format!("{value:#}").replace('\n', "\r\n"),
        _ => text,
    };
    let mut wire = Vec::with_capacity(text.len() + 2);
    for char in text.chars() {
        if char.is_ascii() {
            let mut byte = [0];
            wire.extend_from_slice(char.encode_utf8(&mut byte).as_bytes());
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                wire.extend_from_slice(format!("\\u{unit:04X}").as_bytes());
            }
        }
    }
    wire.extend_from_slice(b"\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        Request::parse(text.as_bytes(), false).unwrap_err().desc
    }

    #[test]
    fn complaints_are_qemus() {
        for (text, desc) in [
            ("[]", "QMP input must be a JSON object"),
            ("{}", "QMP input lacks member 'execute'"),
            (
                r#"{"execute":1}"#,
                "QMP input member 'execute' must be a string",
            ),
            (
                r#"{"execute":"x","arguments":[]}"#,
                "QMP input member 'arguments' must be an object",
            ),
            (
                r#"{"execute":"x","more":1}"#,
                "QMP input member 'more' is unexpected",
            ),
            (
                r#"{"exec-oob":"x"}"#,
                "QMP input member 'exec-oob' is unexpected",
            ),
        ] {
            assert_eq!(complaint(text), desc);
        }
        assert!(complaint("{").starts_with("JSON parse error"));
        let both = Request::parse(br#"{"execute":"x","exec-oob":"x","id":7}"#, true).unwrap_err();
        assert_eq!(
            both.desc,
            "QMP input member 'exec-oob' clashes with 'execute'"
        );
        assert_eq!(both.id, Some(json!(7)));
    }

    #[test]
    fn the_id_comes_apart_from_the_command() {
        let text = br#"{"exec-oob":"x","id":null,"arguments":{"a":18446744073709551615}}"#;
        let request = Request::parse(text, true).unwrap();
        assert_eq!(request.id, Some(Value::Null));
        assert!(request.oob);
        assert_eq!(
            request.command,
            json!({"exec-oob": "x", "arguments": {"a": u64::MAX}})
        );
    }

    #[test]
    fn what_goes_out_is_ascii_and_ends_a_line() {
        let wire = on_the_wire("{\"a\":\"ü\u{1F600}\"}".to_owned(), false);
        assert_eq!(wire, b"{\"a\":\"\\u00FC\\uD83D\\uDE00\"}\r\n");
        let wire = on_the_wire("{\"a\":[1]}".to_owned(), true);
        assert_eq!(wire, b"{\r\n  \"a\": [\r\n    1\r\n  ]\r\n}\r\n");
    }
}
