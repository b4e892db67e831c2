//! `qmp run`: QMP commands, and what they return.

use std::os::fd::{AsFd, OwnedFd};

use libvirt_qmp::schema::SchemaProblem;
use libvirt_qmp::{CommandError, Error, ErrorClass, Monitor, MonitorExt, RunOptions, Schema};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::batch::{Batch, Line};
use crate::connect::{Settings, with_monitor};
use crate::failure::{Exit, Failure, say};
use crate::line::Request;
use crate::output::{Output, layout};

const USAGE: &str = "qmp [-C URI] run [OPTIONS] DOMAIN COMMAND [KEY=VALUE]...
       qmp [-C URI] run [OPTIONS] DOMAIN -c LINE...
       qmp [-C URI] run [OPTIONS] DOMAIN < SCRIPT
       qmp -C unix:PATH run [OPTIONS] [COMMAND [KEY=VALUE]...]";

const HELP: &str = "\
COMMAND is the name of a QMP command, or a whole command as a JSON object. Values
get the type that QEMU's schema has for them: id=1 is a string, size=64K a number,
force=on a truth value. KEY:=JSON says what it is by itself, KEY=str:TEXT is a
string, KEY=@FILE and KEY:=@FILE are what is in a file. Dots in a KEY nest:
file.driver=raw is {\"file\": {\"driver\": \"raw\"}}.

A LINE, of a script too, is the same in one: blanks in quotes, ' or \", belong to
the value, which is a string then. `#` begins a comment, `!oob` before a command
has it executed out of band, `!fd N` passes descriptor N of this program along.
The first command that fails ends a script.";

#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    batch: Batch,
    /// The domain by name or UUID, the command and its arguments; no domain on QEMU's own socket
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

/// How commands are run and shown.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// Print the JSON over several lines
    #[arg(long)]
    pub(crate) pretty: bool,
    /// Print whole replies, errors too, as one line of JSON each
    #[arg(long, conflicts_with = "pretty")]
    pub(crate) json: bool,
    /// Do not ask for QEMU's schema: values that are JSON are taken as such, and QEMU finds what is wrong
    #[arg(long)]
    pub(crate) unchecked: bool,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let endpoint = settings.endpoint()?;
    let (domain, words) = endpoint.domain_of(&args.words)?;
    if words.is_empty() {
        args.batch.check()?;
        return with_monitor(settings, domain, async |monitor| {
            lines(monitor, &args.batch, args.how, output).await
        })
        .await;
    }
    if !args.batch.commands.is_empty() {
        return Err(Failure::usage("a command is given and `-c` too"));
    }
    // What is wrong with it is found before anybody is asked.
    let request = Request::from_words(words).map_err(Failure::usage)?;
    with_monitor(settings, domain, async |monitor| {
        one(monitor, request, args.how, output).await
    })
    .await
}

/// Runs the commands of a batch.
pub(crate) async fn lines(
    monitor: &dyn Monitor,
    batch: &Batch,
    how: How,
    output: &mut Output,
) -> Result<(), Failure> {
    let run = async |line: &str| match Request::from_line(line).map_err(Failure::usage)? {
        None => Ok(Line::Blank),
        Some(request) => {
            let is_quit = request.name().as_deref() == Some("quit");
            one(monitor, request, how, output).await?;
            Ok(if is_quit { Line::Last } else { Line::Command })
        }
    };
    batch.run(run).await
}

/// Runs one command and prints what it returns.
pub(crate) async fn one(
    monitor: &dyn Monitor,
    request: Request,
    how: How,
    output: &mut Output,
) -> Result<(), Failure> {
    let result = reply(monitor, request, how.unchecked).await;
    if how.json {
        let text = match &result {
            Ok(reply) => Some(&reply[..]),
            Err(Error::Qmp(error)) => Some(&error.raw[..]),
            Err(_) => None,
        };
        if let Some(text) = text {
            output
                .line(layout(&String::from_utf8_lossy(text), false))
                .await?;
        }
        return result.map(|_| ()).map_err(Failure::running);
    }
    let reply = result.map_err(Failure::running)?;
    output.line(returned(&reply, how.pretty)?).await
}

/// Runs one command, its values typed and its arguments checked by the schema where it has some, and gives the whole reply.
pub(crate) async fn reply(
    monitor: &dyn Monitor,
    request: Request,
    unchecked: bool,
) -> Result<bytes::Bytes, Error> {
    let prepared = prepare(monitor, request, unchecked).await?;
    prepared.run(monitor).await
}

/// A command as it is to be sent.
pub(crate) struct Prepared {
    pub(crate) text: Vec<u8>,
    files: Vec<OwnedFd>,
    is_quit: bool,
}

/// Gives the values of a command their types and checks its arguments, by the schema, where it has some.
pub(crate) async fn prepare(
    monitor: &dyn Monitor,
    mut request: Request,
    unchecked: bool,
) -> Result<Prepared, Error> {
    let schema = match request.wants_types() && !unchecked {
        true => schema(monitor).await?,
        false => None,
    };
    let name = request.name().map(|name| name.into_owned());
    let command = schema.as_ref().zip(name.as_deref());
    let command = command.and_then(|(schema, name)| schema.command(name));
    if let Some(command) = command {
        request = request.typed(command);
    }
    let text = request.to_json()?;
    if let Some(schema) = &schema {
        check(schema, &text)?;
    }
    Ok(Prepared {
        text,
        files: request.files,
        is_quit: name.as_deref() == Some("quit"),
    })
}

impl Prepared {
    /// Sends it, and gives the whole reply.
    pub(crate) async fn run(&self, monitor: &dyn Monitor) -> Result<bytes::Bytes, Error> {
        let files: Vec<_> = self.files.iter().map(AsFd::as_fd).collect();
        let options = RunOptions::new().files(&files);
        match monitor.run_with(&self.text, options).await {
            // QEMU goes, often without a word.
            Err(error) if self.is_quit && is_gone(&error) => {
                Ok(bytes::Bytes::from_static(br#"{"return":{}}"#))
            }
            result => result,
        }
    }
}

/// QEMU's schema; none where this QEMU has none to give.
async fn schema(monitor: &dyn Monitor) -> Result<Option<Schema>, Error> {
    match monitor.schema().await {
        Ok(schema) => Ok(Some(schema)),
        Err(Error::Qmp(error)) if error.class == ErrorClass::CommandNotFound => Ok(None),
        Err(Error::Decode { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses what QEMU would refuse, and says what is deprecated. A command that is not known is left to QEMU to refuse.
fn check(schema: &Schema, text: &[u8]) -> Result<(), Error> {
    match schema.check_json(text) {
        Ok(warnings) => {
            for warning in warnings {
                say(&warning.to_string());
            }
            Ok(())
        }
        Err(problems) => {
            let is_unknown =
                |problem: &SchemaProblem| matches!(problem, SchemaProblem::UnknownCommand { .. });
            if problems.iter().any(is_unknown) {
                say(&problems.to_string());
                return Ok(());
            }
            Err(CommandError::from(problems).into())
        }
    }
}

/// Whether the connection to QEMU has ended, or libvirt's has.
fn is_gone(error: &Error) -> bool {
    !error.is_timeout() && error.maybe_executed()
}

/// What a reply returns.
pub(crate) fn returned(reply: &[u8], pretty: bool) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, rename = "return")]
        value: &'a RawValue,
    }
    let reply: Reply<'_> =
        serde_json::from_slice(reply).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(layout(reply.value.get(), pretty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_reply_returns_is_shown() {
        let reply = br#"{"id": "x", "return": {"b": 1.50, "a": [ ]}, "more": 1}"#;
        assert_eq!(returned(reply, false).unwrap(), r#"{"b":1.50,"a":[]}"#);
        let pretty = "{\n  \"b\": 1.50,\n  \"a\": []\n}";
        assert_eq!(returned(reply, true).unwrap(), pretty);
    }
}
