//! `qmp wait`: until an event comes.

use libvirt_qmp::{Event, EventFilter, Wait, WaitExt};
use serde_json::Value;

use crate::connect::{Settings, with_monitor};
use crate::event::{as_json, as_text};
use crate::failure::Failure;
use crate::output::Output;

const USAGE: &str = "qmp [-C URI] wait [OPTIONS] DOMAIN EVENT [KEY=VALUE]...
       qmp -C unix:PATH wait [OPTIONS] EVENT [KEY=VALUE]...";

const HELP: &str = "\
EVENT is the name of an event, in which `*` and `?` stand for others. Of its data each
KEY must be there with that VALUE, JSON or else a string; dots in a KEY lead inside:
status=ready, info.guest=true. What came before does not count. `--timeout` is how
long to wait; without it, for ever. No event in time ends with exit code 4.";

#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = HELP)]
pub(crate) struct Args {
    /// Print the event as a JSON object
    #[arg(long)]
    json: bool,
    /// The domain by name or UUID, the event, and what its data are; no domain on QEMU's own socket
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
    let (name, conditions) = words
        .split_first()
        .ok_or_else(|| Failure::usage("no event given"))?;
    let conditions = conditions
        .iter()
        .map(|word| Condition::parse(word))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::usage)?;
    let filter = EventFilter::glob(name).when(move |event| is_met(event, &conditions));
    with_monitor(settings, domain, async |monitor| {
        let waited = monitor.wait_for(Wait::event(filter), settings.limit());
        let Some(event) = waited.await?.into_event() else {
            return Ok(());
        };
        let text = match args.json {
            true => as_json(&event)?,
            false => as_text(&event),
        };
        output.line(text).await
    })
    .await
}

/// What a member of an event's data has to be.
struct Condition {
    path: Vec<String>,
    /// As JSON, where the text is some.
    json: Option<Value>,
    text: String,
}

impl Condition {
    fn parse(word: &str) -> Result<Self, String> {
        let (key, text) = word
            .split_once('=')
            .ok_or_else(|| format!("condition `{word}`: expected KEY=VALUE"))?;
        Ok(Condition {
            path: key.split('.').map(str::to_owned).collect(),
            json: serde_json::from_str(text).ok(),
            text: text.to_owned(),
        })
    }

    fn is_met(&self, data: &Value) -> bool {
        let mut path = self.path.iter();
        let value = path.try_fold(data, |value, name| value.get(name));
        value.is_some_and(|value| {
            Some(value) == self.json.as_ref() || value.as_str() == Some(&self.text)
        })
    }
}

fn is_met(event: &Event, conditions: &[Condition]) -> bool {
    if conditions.is_empty() {
        return true;
    }
    let data: Value = event.data_as().unwrap_or_default();
    conditions.iter().all(|condition| condition.is_met(&data))
}

#[cfg(test)]
mod tests {
    use libvirt_qmp::Timestamp;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn every_condition_has_to_be_met() {
        let data = r#"{"id":"7","n":7,"on":true,"in":{"side":"x"}}"#;
        let data = RawValue::from_string(data.to_owned()).unwrap();
        let event = Event::new("E", Some(data), Timestamp::UNKNOWN);
        for (words, met) in [
            (&[][..], true),
            (&["id=7"], true),
            (&["n=7"], true),
            (&["n=07"], false),
            (&["on=true", "in.side=x"], true),
            (&["on=true", "in.side=y"], false),
            (&["in.side.deeper=x"], false),
            (&["not=there"], false),
            (&["in={\"side\":\"x\"}"], true),
        ] {
            let conditions: Vec<_> = words
                .iter()
                .map(|word| Condition::parse(word).unwrap())
                .collect();
            assert_eq!(is_met(&event, &conditions), met, "{words:?}");
        }
        assert!(Condition::parse("id").is_err());
        let bare = Event::new("E", None, Timestamp::UNKNOWN);
        assert!(!is_met(&bare, &[Condition::parse("id=7").unwrap()]));
    }
}
