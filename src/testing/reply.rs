//! What a stand-in answers to one command: a value, an error, or something worse, with the events around it. Imports qmp.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::qmp::ErrorClass;

/// How a stand-in answers a command, made by a constructor and chained setters.
///
/// Any [`Value`] is a reply too: `json!({})` is a success without a result.
///
/// ```
/// use libvirt_qmp::testing::Reply;
/// use serde_json::json;
///
/// // As QEMU does it: the event comes before the reply of the command that causes it.
/// let reply = Reply::value(json!({})).event("STOP", None);
/// # let _ = reply;
/// ```
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) outcome: Outcome,
    pub(super) delay: Duration,
    pub(super) before: Vec<Told>,
    pub(super) after: Vec<Told>,
    /// Whether QEMU ends with it.
    pub(super) ends: bool,
}

/// An event that has no time yet: its name and its data.
pub(super) type Told = (String, Option<Value>);

/// What comes in the place of the reply.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Value(Value),
    Error { class: ErrorClass, desc: String },
    Never,
    Raw(Bytes),
    Close,
}

impl Reply {
    fn new(outcome: Outcome) -> Self {
        Reply {
            outcome,
            delay: Duration::ZERO,
            before: Vec::new(),
            after: Vec::new(),
            ends: false,
        }
    }

    /// Success, with `value` as the reply's `return`.
    pub fn value(value: impl Into<Value>) -> Self {
        Reply::new(Outcome::Value(value.into()))
    }

    /// An error of QMP, by its class, such as `"DeviceNotFound"`, and its text.
    pub fn error(class: impl Into<ErrorClass>, desc: impl Into<String>) -> Self {
        Reply::new(Outcome::Error {
            class: class.into(),
            desc: desc.into(),
        })
    }

    /// No reply at all. The commands behind it are answered.
    pub fn never() -> Self {
        Reply::new(Outcome::Never)
    }

    /// Exactly these bytes in the place of the reply, for what no QEMU sends. Through libvirt they are the text of the
    /// reply where they are UTF-8, else an error of libvirt.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Reply::new(Outcome::Raw(bytes.into()))
    }

    /// The connection ends instead of a reply. Through libvirt that is its error 38, as where QEMU dies.
    pub fn close() -> Self {
        Reply::new(Outcome::Close)
    }

    /// Waits so long before the events and the reply, on tokio's clock. The commands behind it wait too, as in QEMU.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sends an event before the reply; further ones follow in the order of the calls.
    pub fn event(mut self, name: impl Into<String>, data: impl Into<Option<Value>>) -> Self {
        self.before.push((name.into(), data.into()));
        self
    }

    /// Sends an event after the reply; further ones follow in the order of the calls.
    pub fn event_after(mut self, name: impl Into<String>, data: impl Into<Option<Value>>) -> Self {
        self.after.push((name.into(), data.into()));
        self
    }

    /// Ends QEMU with the reply.
    pub(super) fn ending(mut self) -> Self {
        self.ends = true;
        self
    }
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Reply::value(value)
    }
}
