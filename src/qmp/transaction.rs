//! Several block operations as one: all or none. Imports `command` and `schema`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Command, CommandError, Schema};

/// A `transaction`: actions of which QEMU does all or none.
///
/// ```no_run
/// # async fn example(monitor: &dyn libvirt_qmp::Monitor) -> Result<(), libvirt_qmp::Error> {
/// use libvirt_qmp::{MonitorExt, Transaction};
/// use serde_json::json;
///
/// let transaction = Transaction::new()
///     .action("block-dirty-bitmap-add", json!({"node": "disk0", "name": "monday"}))
///     .action("block-dirty-bitmap-disable", json!({"node": "disk0", "name": "sunday"}));
/// monitor.transaction(transaction).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Transaction {
    actions: Vec<Action>,
    /// Each with its value as JSON.
    properties: Vec<(String, Box<RawValue>)>,
    /// The first part that could not be taken.
    failure: Option<CommandError>,
    timeout: Option<Option<Duration>>,
    unchecked: bool,
}

#[derive(Clone, Serialize)]
struct Action {
    #[serde(rename = "type")]
    name: String,
    data: Box<RawValue>,
}

impl Transaction {
    /// A transaction without actions, which QEMU accepts too.
    pub fn new() -> Self {
        Transaction::default()
    }

    /// Adds an action: `block-dirty-bitmap-add`, `blockdev-snapshot`, whatever this QEMU has. Its data are those of the
    /// command with this name, for most of them; `()` is for an action without any, such as `abort`.
    pub fn action(mut self, name: impl Into<String>, data: impl Serialize) -> Self {
        let place = format!("actions[{}].data", self.actions.len());
        let data = match serde_json::to_string(&data) {
            Ok(null) if null == "null" => Ok("{}".to_owned()),
            data => data,
        };
        if let Some(data) = self.taken(place, data) {
            let name = name.into();
            self.actions.push(Action { name, data });
        }
        self
    }

    /// Sets a property of the transaction: `completion-mode` is `individual` or `grouped`. The last value counts.
    pub fn property(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        let name = name.into();
        let value = serde_json::to_string(&value);
        if let Some(value) = self.taken(format!("properties.{name}"), value) {
            self.properties.retain(|(other, _)| *other != name);
            self.properties.push((name, value));
        }
        self
    }

    /// Sends whatever the actions are called, without a look into QEMU's schema.
    pub fn unchecked(mut self) -> Self {
        self.unchecked = true;
        self
    }

    /// How long the call may take, instead of what is configured. `None` waits for ever.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// Whether [`unchecked`](Self::unchecked) was said.
    pub fn is_unchecked(&self) -> bool {
        self.unchecked
    }

    /// The command that it is.
    ///
    /// # Errors
    ///
    /// [`CommandError::Argument`] for the first part that could not be written as JSON.
    pub fn to_command(&self) -> Result<Command, CommandError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut command = Command::new("transaction").arg("actions", &self.actions);
        if !self.properties.is_empty() {
            let properties: BTreeMap<_, _> = self
                .properties
                .iter()
                .map(|(name, value)| (name, value))
                .collect();
            command = command.arg("properties", properties);
        }
        Ok(match self.timeout {
            Some(timeout) => command.timeout(timeout),
            None => command,
        })
    }

    /// Checks the names of the actions. A schema that does not tell them is none to check by.
    ///
    /// # Errors
    ///
    /// [`CommandError::UnknownAction`] for the first one that QEMU does not have.
    pub fn check_actions(&self, schema: &Schema) -> Result<(), CommandError> {
        let Some(known) = schema.transaction_actions() else {
            return Ok(());
        };
        match self
            .actions
            .iter()
            .find(|action| known.value(&action.name).is_none())
        {
            None => Ok(()),
            Some(action) => Err(CommandError::UnknownAction {
                action: action.name.clone(),
                known: known
                    .values()
                    .map(|value| value.name().to_owned())
                    .collect(),
            }),
        }
    }

    /// The JSON of a part, or its failure kept.
    fn taken(&mut self, place: String, json: serde_json::Result<String>) -> Option<Box<RawValue>> {
        match json.and_then(RawValue::from_string) {
            Ok(value) => Some(value),
            Err(source) => {
                self.failure.get_or_insert(CommandError::Argument {
                    command: "transaction".to_owned(),
                    argument: place,
                    source: Arc::new(source),
                });
                None
            }
        }
    }
}

/// Names, never values, which may be secret.
impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actions: Vec<_> = self.actions.iter().map(|action| &action.name).collect();
        let properties: Vec<_> = self.properties.iter().map(|(name, _)| name).collect();
        f.debug_struct("Transaction")
            .field("actions", &actions)
            .field("properties", &properties)
            .field("failure", &self.failure)
            .field("timeout", &self.timeout)
            .field("unchecked", &self.unchecked)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn json_of(transaction: &Transaction) -> Value {
        let command = transaction.to_command().unwrap();
        serde_json::from_slice(&command.to_json().unwrap()).unwrap()
    }

    #[test]
    fn actions_and_properties_as_json() {
        let empty = Transaction::new();
        assert_eq!(
            json_of(&empty),
            json!({"execute": "transaction", "arguments": {"actions": []}})
        );
        let transaction = Transaction::new()
            .action("abort", ())
            .action("x", None::<u8>)
            .action("y", json!({"n": u64::MAX}))
            .property("completion-mode", "individual")
            .property("completion-mode", "grouped")
            .property("nothing", ());
        assert_eq!(
            json_of(&transaction)["arguments"],
            json!({
                "actions": [
                    {"type": "abort", "data": {}},
                    {"type": "x", "data": {}},
                    {"type": "y", "data": {"n": u64::MAX}},
                ],
                "properties": {"completion-mode": "grouped", "nothing": null},
            })
        );
    }

    #[test]
    fn the_call_takes_the_timeout_along() {
        let second = Duration::from_secs(1);
        let command = Transaction::new().timeout(second).to_command().unwrap();
        assert_eq!(command.own_timeout(), Some(Some(second)));
        let command = Transaction::new().to_command().unwrap();
        assert_eq!(command.own_timeout(), None);
    }

    #[test]
    fn what_is_no_json_is_told_by_its_place() {
        struct Fails;
        impl Serialize for Fails {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("cannot"))
            }
        }
        let transaction = Transaction::new()
            .action("abort", ())
            .action("x", Fails)
            .property("p", Fails);
        assert_eq!(
            transaction.to_command().unwrap_err().to_string(),
            "argument `actions[1].data` of transaction cannot be written as JSON"
        );
    }

    #[test]
    fn debug_shows_no_values() {
        let transaction = Transaction::new().action("x", json!({"secret": "hunter2"}));
        let shown = format!("{transaction:?}");
        assert!(
            shown.contains("\"x\"") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
