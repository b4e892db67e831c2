//! What `help` says: of the shell itself, and of a command or an event by the schema. Imports `given`.

use std::fmt::Write;

use libvirt_qmp::Schema;
use libvirt_qmp::schema::{CommandInfo, EventInfo, Features, Member, TypeKind};

use super::given::{Given, members, object_in};

pub(super) const QMP: &str = "\
COMMAND [KEY=VALUE]...   run a QMP command; file.driver=raw is {\"file\": {\"driver\": \"raw\"}}
{\"execute\": ...}         the same as JSON, over as many lines as it takes
transaction(             actions, one a line as a command would be, up to a line with )
!oob COMMAND ...         run it out of band
!fd PATH COMMAND ...     pass an open file along (getfd, add-fd)
!events on|off|GLOB      which events are shown
help NAME [KEY=VALUE]... what a command takes and returns, or what an event tells
exit, Ctrl-D             leave; `quit` is QEMU's own and ends it
TAB completes commands, arguments, values, and names of what is in the guest.
A line that begins with a blank is not kept in the history, and neither are passwords.";

/// What the schema says of a command, with arguments that decide on others, or of an event.
///
/// # Errors
///
/// That there is neither.
pub(super) fn of(words: &[String], schema: &Schema) -> Result<String, String> {
    let Some((name, arguments)) = words.split_first() else {
        return Ok(QMP.to_owned());
    };
    if let Some(command) = schema.command(name) {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        return Ok(of_command(command, &Given::new(name, &arguments)));
    }
    match schema.event(name) {
        Some(event) => Ok(of_event(event)),
        None => Err(format!("no command and no event `{name}`")),
    }
}

fn of_command(command: CommandInfo<'_>, given: &Given<'_>) -> String {
    let mut text = command.name().to_owned();
    let mut marks = marks(command.features());
    if command.is_oob() {
        marks.insert(0, "oob");
    }
    add_marks(&mut text, &marks);
    if let Some(object) = object_in(command.argument_type()) {
        let members = members(object, "", given);
        for member in &members {
            add_member(&mut text, member);
        }
        let open = object.tag().filter(|tag| given.value(tag.name()).is_none());
        if let Some(tag) = open {
            let (name, command) = (tag.name(), command.name());
            let _ = write!(text, "\n  ... more by `{name}`: help {command} {name}=");
        }
        if command.is_free_form() {
            text.push_str("\n  ... and others that the schema does not name");
        }
        if members.is_empty() && !command.is_free_form() {
            text.push_str("\n  no arguments");
        }
    }
    let returns = match command.return_type().kind() {
        TypeKind::Object(object) if object.members().len() == 0 => "nothing".to_owned(),
        _ => command.return_type().shown(2).to_string(),
    };
    let _ = write!(text, "\n  returns {returns}");
    text
}

fn of_event(event: EventInfo<'_>) -> String {
    let mut text = event.name().to_owned();
    add_marks(&mut text, &marks(event.features()));
    for member in event.data() {
        add_member(&mut text, &member);
    }
    if event.data().next().is_none() {
        text.push_str("\n  no data");
    }
    text
}

/// `  NAME?: TYPE`, with the values of an enum in full.
fn add_member(text: &mut String, member: &Member<'_>) {
    let mark = if member.is_optional() { "?" } else { "" };
    // Writing to a string does not fail.
    let _ = write!(text, "\n  {}{mark}: {}", member.name(), member.ty());
    add_marks(text, &marks(member.features()));
}

fn marks(features: Features<'_>) -> Vec<&str> {
    features.iter().collect()
}

fn add_marks(text: &mut String, marks: &[&str]) {
    if !marks.is_empty() {
        let _ = write!(text, " ({})", marks.join(", "));
    }
}
