//! The error a QMP command was answered with. Imports `json`, and `raw_value` of `event`.

use std::fmt;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::event::raw_value;
use super::json;

/// Bytes of a malformed error shown as its description.
const EXCERPT: usize = 1024;

/// A command's error reply: the command was received and refused, or it failed.
///
/// Its text is `COMMAND: CLASS: DESC`, with the command and the class where they are known.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}{}{desc}", Prefix(command.as_deref()), Prefix(Some(class.as_str())))]
#[non_exhaustive]
pub struct QmpError {
    /// What kind of error it is. Nearly all are [`ErrorClass::GenericError`].
    pub class: ErrorClass,
    /// QEMU's description, for people: its wording differs from version to version.
    pub desc: String,
    /// The command that was answered, if known.
    pub command: Option<String>,
    /// The `id` of the reply as JSON, if it had one. A server answers what it could not parse without one.
    pub id: Option<Box<RawValue>>,
    /// The whole reply as it came, for members that have no field here.
    pub raw: Bytes,
}

impl QmpError {
    /// An error as a server would report it, for tests and for servers; [`raw`](Self::raw) is the reply it would have
    /// sent.
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        let desc = desc.into();
        let raw = serde_json::json!({"error": {"class": class.as_str(), "desc": desc}});
        Self {
            class,
            desc,
            command: None,
            id: None,
            raw: Bytes::from(raw.to_string()),
        }
    }

    /// The same error, said to be the answer to `command`.
    pub fn with_command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// Reads an error reply. A malformed one is still an error and is never lost: without a class it is of class
    /// `Other("")`, without a description it shows what came in its place.
    pub(crate) fn parse(raw: Bytes) -> Self {
        let mut class = None;
        let mut desc = None;
        let mut id = None;
        let mut shown = 0..raw.len();
        if let Ok(([error, id_field], _)) = json::fields(&raw, ["error", "id"]) {
            id = id_field.and_then(|field| raw_value(&raw[field.value]));
            if let Some(error) = error {
                let body = &raw[error.value.clone()];
                if let Ok(([class_field, desc_field], _)) = json::fields(body, ["class", "desc"]) {
                    class = class_field.and_then(|field| json::string(&body[field.value]));
                    desc = desc_field.and_then(|field| json::string(&body[field.value]));
                }
                shown = error.value;
            }
        }
        let class = ErrorClass::from(class.as_deref().unwrap_or_default());
        let desc = match desc {
            Some(desc) => desc.into_owned(),
            None => {
                String::from_utf8_lossy(&raw[shown.start..shown.end.min(shown.start + EXCERPT)])
                    .into_owned()
            }
        };
        Self {
            class,
            desc,
            command: None,
            id,
            raw,
        }
    }
}

/// What stands before a colon, or nothing.
struct Prefix<'a>(Option<&'a str>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None | Some("") => Ok(()),
            Some(text) => write!(f, "{text}: "),
        }
    }
}

/// The class of a QMP error, the only part of it that programs may act on.
///
/// Made from its name with `From`, so that the five names of QEMU never end up in [`Other`](Self::Other).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Any error that is none of the others.
    GenericError,
    /// The server has no such command, or not in its present state.
    CommandNotFound,
    /// The device is there but has not been activated.
    DeviceNotActive,
    /// There is no such device.
    DeviceNotFound,
    /// KVM lacks something the command needs; `KVMMissingCap` in QMP.
    KvmMissingCap,
    /// A class this crate does not know, by its name; empty if the reply had none.
    Other(String),
}

impl ErrorClass {
    /// The class's name in QMP.
    pub fn as_str(&self) -> &str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KvmMissingCap => "KVMMissingCap",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for ErrorClass {
    fn from(name: &str) -> Self {
        match name {
            "GenericError" => Self::GenericError,
            "CommandNotFound" => Self::CommandNotFound,
            "DeviceNotActive" => Self::DeviceNotActive,
            "DeviceNotFound" => Self::DeviceNotFound,
            "KVMMissingCap" => Self::KvmMissingCap,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &'static str) -> QmpError {
        let error = QmpError::parse(Bytes::from_static(text.as_bytes()));
        assert_eq!(error.raw, text);
        error
    }

    #[test]
    fn class_desc_and_id_are_kept() {
        let error = parse(
            r#"{"id": [1, "x"], "error": {"class": "DeviceNotFound", "desc": "Device 'no\"ne' not found"}}"#,
        );
        assert_eq!(error.class, ErrorClass::DeviceNotFound);
        assert_eq!(error.desc, "Device 'no\"ne' not found");
        assert_eq!(error.id.as_ref().unwrap().get(), r#"[1, "x"]"#);
        assert_eq!(
            error.to_string(),
            "DeviceNotFound: Device 'no\"ne' not found"
        );
        assert_eq!(
            error.with_command("device_del").to_string(),
            "device_del: DeviceNotFound: Device 'no\"ne' not found"
        );
    }

    #[test]
    fn an_error_without_id_is_one() {
        let error = parse(r#"{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}"#);
        assert_eq!(error.class, ErrorClass::GenericError);
        assert!(error.id.is_none());
    }

    #[test]
    fn classes_round_trip_and_unknown_ones_live() {
        for name in [
            "GenericError",
            "CommandNotFound",
            "DeviceNotActive",
            "DeviceNotFound",
            "KVMMissingCap",
        ] {
            let class = ErrorClass::from(name);
            assert!(!matches!(class, ErrorClass::Other(_)), "{name}");
            assert_eq!(class.to_string(), name);
        }
        let error = parse(r#"{"error": {"desc": "d", "class": "QuantumError", "new": {}}}"#);
        assert_eq!(error.class, ErrorClass::Other("QuantumError".into()));
        assert_eq!(error.to_string(), "QuantumError: d");
    }

    #[test]
    fn malformed_errors_are_not_lost() {
        for (text, class, desc) in [
            (r#"{"error": {"desc": "no class"}}"#, "", "no class"),
            (
                r#"{"error": {"class": "GenericError"}}"#,
                "GenericError",
                r#"{"class": "GenericError"}"#,
            ),
            (
                r#"{"error": {"class": 5, "desc": ["x"]}}"#,
                "",
                r#"{"class": 5, "desc": ["x"]}"#,
            ),
            (r#"{"error": "boom", "id": 1}"#, "", r#""boom""#),
            (r#"{"error": null}"#, "", "null"),
            (
                r#"{"error": {"class": "Gener"#,
                "",
                r#"{"error": {"class": "Gener"#,
            ),
            ("", "", ""),
        ] {
            let error = parse(text);
            assert_eq!(
                (error.class.as_str(), error.desc.as_str()),
                (class, desc),
                "{text}"
            );
            assert_eq!(
                error.to_string(),
                format!(
                    "{}{desc}",
                    if class.is_empty() {
                        ""
                    } else {
                        "GenericError: "
                    }
                )
            );
        }
        let long = format!(r#"{{"error": "{}"}}"#, "\u{e9}".repeat(5000));
        let error = QmpError::parse(Bytes::from(long));
        assert!(error.desc.len() <= EXCERPT + 3 && error.raw.len() > 10_000);
    }

    #[test]
    fn made_errors_read_back() {
        let error = QmpError::new(ErrorClass::KvmMissingCap, "say \"please\"");
        let read = QmpError::parse(error.raw.clone());
        assert_eq!((read.class, read.desc), (error.class, error.desc));
    }

    #[test]
    fn deep_id_is_kept() {
        let id = format!("{}{}", "[".repeat(1023), "]".repeat(1023));
        let text = format!(r#"{{"id":{id},"error":{{"class":"GenericError","desc":""}}}}"#);
        assert_eq!(QmpError::parse(Bytes::from(text)).id.unwrap().get(), id);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let error = QmpError::parse(Bytes::from(text.clone()));
            prop_assert_eq!(error.raw, text);
        }
    }
}
