//! A transaction out of the words of its lines. Imports `line` and `given`.

use libvirt_qmp::schema::Type;
use libvirt_qmp::{CommandError, Error, Schema, Transaction};

use super::given::data_of_action;
use super::line::Actions;
use crate::failure::Failure;
use crate::typed;
use crate::value::Object;

/// The command that it is, checked by the schema.
///
/// # Errors
///
/// What is wrong with its words, and what QEMU would refuse.
pub(super) fn to_json(actions: &Actions, schema: &Schema) -> Result<Vec<u8>, Failure> {
    let mut transaction = Transaction::new();
    for words in &actions.actions {
        if let Some((name, arguments)) = words.split_first() {
            let data = object(arguments, data_of_action(name, schema))?;
            transaction = transaction.action(name.as_str(), data);
        }
    }
    let mut command = {
        let checked = transaction.check_actions(schema);
        checked
            .and_then(|()| transaction.to_command())
            .map_err(Error::from)?
    };
    if !actions.properties.is_empty() {
        let properties = schema
            .command("transaction")
            .and_then(|command| command.argument("properties"));
        let properties = object(&actions.properties, properties.map(|member| member.ty()))?;
        command = command.arg("properties", properties);
    }
    let text = command.to_json().map_err(Error::from)?;
    schema
        .check_json(&text)
        .map_err(|problems| Error::from(CommandError::from(problems)))?;
    Ok(text)
}

/// An object by its words, with the types that the schema has for them.
fn object(words: &[String], ty: Option<Type<'_>>) -> Result<Object, Failure> {
    let object = Object::from_words(words).map_err(Failure::usage)?;
    Ok(match ty {
        Some(ty) => typed::object(object, ty),
        None => object,
    })
}
