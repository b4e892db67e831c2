//! `qmp schema`: what QEMU says of its commands and events.

use std::fmt::Write;

use libvirt_qmp::schema::{CommandInfo, EventInfo, Features, Type, TypeKind};
use libvirt_qmp::{MonitorExt, Schema};

use crate::connect::{Settings, with_monitor};
use crate::failure::{Exit, Failure};
use crate::output::{Output, printable};

const USAGE: &str = "qmp [-C URI] schema [OPTIONS] DOMAIN [NAME]
       qmp -C unix:PATH schema [OPTIONS] [NAME]";

const HELP: &str = "\
NAME is a command or an event. Without one all of them are listed, a line each. An
argument with a question mark may be left out; {…} is an object and [T] an array.";

#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = HELP)]
pub(crate) struct Args {
    /// Print QEMU's own answer to query-qmp-schema, as one line of JSON
    #[arg(long)]
    json: bool,
    /// The domain by name or UUID, and the name; no domain on QEMU's own socket
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let endpoint = settings.endpoint()?;
    let (domain, words) = endpoint.domain_of(&args.words)?;
    let name = match (words, args.json) {
        ([], _) => None,
        ([name], false) => Some(name.as_str()),
        ([_], true) => return Err(Failure::usage("`--json` is for the whole schema")),
        ([_, word, ..], _) => return Err(Failure::usage(format!("`{word}` is one name too many"))),
    };
    with_monitor(settings, domain, async |monitor| {
        if args.json {
            let reply = monitor.run(br#"{"execute":"query-qmp-schema"}"#).await?;
            return output.line(super::run::returned(&reply, false)?).await;
        }
        let schema = monitor.schema().await?;
        let text = match name {
            None => everything(&schema),
            Some(name) => one(&schema, name)?,
        };
        output.line(text).await
    })
    .await
}

fn everything(schema: &Schema) -> String {
    let commands = schema.commands().map(|command| command.to_string());
    let events = schema.events().map(|event| event.to_string());
    let mut lines: Vec<String> = commands
        .chain(events)
        .map(|line| printable(&line))
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn one(schema: &Schema, name: &str) -> Result<String, Failure> {
    if let Some(command) = schema.command(name) {
        return Ok(of_command(command));
    }
    if let Some(event) = schema.event(name) {
        return Ok(of_event(event));
    }
    let unknown = libvirt_qmp::Command::new(name);
    let similar = match schema.check(&unknown) {
        Err(problems) => problems.to_string(),
        Ok(_) => format!("no command `{name}`"),
    };
    let text = format!("{similar}; nor is there such an event");
    Err(Failure::new(Exit::Failed, text))
}

fn of_command(command: CommandInfo<'_>) -> String {
    let mut text = format!("command {}", command.name());
    notes(
        &mut text,
        command.is_oob().then_some("oob"),
        command.features(),
    );
    members(&mut text, "arguments", command.argument_type());
    if command.is_free_form() {
        text.push_str("\n  … (any others)");
    }
    let returned = command.return_type();
    match returned.kind() {
        TypeKind::Object(object) if object.members().len() > 0 => {
            members(&mut text, "returns", returned);
        }
        _ => put(&mut text, format_args!("\nreturns: {}", returned.shown(2))),
    }
    lines(&text)
}

fn of_event(event: EventInfo<'_>) -> String {
    let mut text = format!("event {}", event.name());
    notes(&mut text, None, event.features());
    members(&mut text, "data", event.data_type());
    lines(&text)
}

/// The members of an object, one a line, and what each value of its tag adds.
fn members(text: &mut String, heading: &str, ty: Type<'_>) {
    let TypeKind::Object(object) = ty.kind() else {
        return put(text, format_args!("\n{heading}: {}", ty.shown(2)));
    };
    if object.members().len() == 0 {
        return put(text, format_args!("\n{heading}: none"));
    }
    put(text, format_args!("\n{heading}:"));
    for member in object.members() {
        put(text, format_args!("\n  {member}"));
        notes(text, None, member.features());
    }
    let Some(tag) = object.tag() else { return };
    for variant in object.variants() {
        let (tag, case) = (tag.name(), variant.case());
        put(
            text,
            format_args!("\n  with {tag}={case}: {}", variant.ty().shown(1)),
        );
    }
}

fn notes(text: &mut String, first: Option<&str>, features: Features<'_>) {
    let notes: Vec<&str> = first.into_iter().chain(features.iter()).collect();
    if !notes.is_empty() {
        put(text, format_args!(" ({})", notes.join(", ")));
    }
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(what);
}

/// The lines of a text without anything that controls a terminal.
fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
