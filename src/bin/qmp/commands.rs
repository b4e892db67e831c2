//! The commands that need a peer: `run`, `events` and `list`. Imports `connect`, `failure`, `output` and `value`.

use std::future::poll_fn;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use libvirt_qmp::{Command, Domain, Error, Event, EventStream, Monitor, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};

use crate::connect::{self, Endpoint};
use crate::failure::{Exit, Failure, chain, say};
use crate::output::{Output, layout, printable};
use crate::value::Object;

/// Runs one QMP command. The words are the domain, where there is a choice, the command, and its arguments.
pub(crate) async fn run(
    endpoint: &Endpoint,
    timeout: Option<Duration>,
    words: &[String],
    pretty: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let (domain, words) = match (endpoint, words) {
        (Endpoint::Qmp(_), words) => (None, words),
        (Endpoint::Libvirt(_), [domain, words @ ..]) => (Some(domain.as_str()), words),
        (Endpoint::Libvirt(_), []) => return Err(Failure::usage("no domain given")),
    };
    let command = command(words)?;
    let connected = connect::monitor(endpoint, domain, timeout).await?;
    let reply = connected
        .monitor
        .run(&command)
        .await
        .map_err(Failure::running);
    if !reply.as_ref().is_err_and(Failure::is_timeout) {
        connected.close().await;
    }
    output.line(returned(&reply?, pretty)?).await
}

/// The command that the words make, as JSON.
fn command(words: &[String]) -> Result<Vec<u8>, Failure> {
    let Some((command, arguments)) = words.split_first() else {
        return Err(Failure::usage("no command given"));
    };
    if command.trim_start().starts_with('{') {
        return match arguments.first() {
            None => Ok(command.as_bytes().to_vec()),
            Some(word) => Err(Failure::usage(format!(
                "argument `{word}`: a command given as JSON has its arguments in it"
            ))),
        };
    }
    let arguments = Object::from_words(arguments).map_err(Failure::usage)?;
    let command = Command::new(command.as_str()).args(arguments);
    Ok(command.to_json().map_err(Error::from)?)
}

/// What a reply returns.
fn returned(reply: &[u8], pretty: bool) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, rename = "return")]
        value: &'a RawValue,
    }
    let reply: Reply<'_> =
        serde_json::from_slice(reply).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(layout(reply.value.get(), pretty))
}

/// Prints events until `count` have come, the connection ends, or the user interrupts, which is the usual end and no
/// failure.
pub(crate) async fn events(
    endpoint: &Endpoint,
    timeout: Option<Duration>,
    domain: Option<&str>,
    json: bool,
    count: Option<NonZeroU64>,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut interrupts = signal(SignalKind::interrupt())
        .map_err(|error| Failure::system("cannot wait for Ctrl-C", error))?;
    let connected = tokio::select! {
        connected = connect::monitor(endpoint, domain, timeout) => connected?,
        _ = interrupts.recv() => return Ok(()),
    };
    let result = tokio::select! {
        result = watch(&*connected.monitor, json, count, output) => result,
        _ = interrupts.recv() => Ok(()),
    };
    if !result.as_ref().is_err_and(Failure::is_timeout) {
        // A second Ctrl-C does not wait for the goodbye.
        tokio::select! {
            () = connected.close() => {}
            _ = interrupts.recv() => {}
        }
    }
    result
}

async fn watch(
    monitor: &dyn Monitor,
    json: bool,
    count: Option<NonZeroU64>,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut events = monitor.events().await?;
    let mut left = count.map(NonZeroU64::get);
    while left != Some(0) {
        match next(&mut events).await {
            None => break,
            Some(Ok(event)) => {
                output
                    .line(if json {
                        as_json(&event)?
                    } else {
                        as_text(&event)
                    })
                    .await?;
                left = left.map(|left| left - 1);
            }
            Some(Err(error)) if error.leaves_stream_open() => say(&chain(&error)),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The next item of the stream.
pub(crate) async fn next(events: &mut EventStream) -> Option<Result<Event, Error>> {
    poll_fn(|cx| Pin::new(&mut *events).poll_next(cx)).await
}

/// `SECONDS.MICROSECONDS NAME DATA`, without data where there are none.
fn as_text(event: &Event) -> String {
    let time = match event.timestamp {
        Timestamp::UNKNOWN => "-".to_owned(),
        Timestamp {
            seconds,
            microseconds,
        } => format!("{seconds}.{microseconds:06}"),
    };
    format!("{time} {}", what_happened(event))
}

/// The event's name and data.
pub(crate) fn what_happened(event: &Event) -> String {
    let name = printable(&event.name);
    match &event.data {
        Some(data) => format!("{name} {}", layout(data.get(), false)),
        None => name,
    }
}

/// The event as QMP has it, with the domain where libvirt told.
fn as_json(event: &Event) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Shown<'a> {
        event: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a RawValue>,
        timestamp: Time,
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<ShownDomain<'a>>,
    }
    #[derive(Serialize)]
    struct Time {
        seconds: i64,
        microseconds: i64,
    }
    #[derive(Serialize)]
    struct ShownDomain<'a> {
        name: &'a str,
        uuid: String,
        id: Option<i32>,
    }
    to_line(&Shown {
        event: &event.name,
        data: event.data.as_deref(),
        timestamp: Time {
            seconds: event.timestamp.seconds,
            microseconds: event.timestamp.microseconds,
        },
        domain: event.domain.as_ref().map(|domain| ShownDomain {
            name: &domain.name,
            uuid: domain.uuid.to_string(),
            id: domain.id,
        }),
    })
}

fn to_line(value: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string(value).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(layout(&json, false))
}

/// Lists the domains of a libvirtd.
pub(crate) async fn list(
    endpoint: &Endpoint,
    timeout: Option<Duration>,
    json: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let uri = match endpoint {
        Endpoint::Libvirt(uri) => uri.as_deref(),
        Endpoint::Qmp(address) => {
            return Err(Failure::usage(format!(
                "{address} is the socket of one QEMU, which has no domains to list"
            )));
        }
    };
    let session = connect::libvirt(uri, timeout).await?;
    let domains = session.domains().await.map_err(Failure::from);
    if !domains.as_ref().is_err_and(Failure::is_timeout) {
        // Whatever the daemon says to the goodbye, the list is here.
        let _ = session.close().await;
    }
    let domains = domains?;
    if !json {
        return output.line(table(&domains)).await;
    }
    for domain in &domains {
        output.line(domain_as_json(domain)?).await?;
    }
    Ok(())
}

/// libvirt's list tells whether there is a QEMU process, not whether its guest runs or is paused.
fn state(domain: &Domain) -> &'static str {
    if domain.is_running() {
        "active"
    } else {
        "inactive"
    }
}

fn domain_as_json(domain: &Domain) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Shown<'a> {
        name: &'a str,
        uuid: String,
        id: Option<i32>,
        state: &'static str,
    }
    to_line(&Shown {
        name: &domain.name,
        uuid: domain.uuid.to_string(),
        id: domain.id,
        state: state(domain),
    })
}

fn table(domains: &[Domain]) -> String {
    let row = |domain: &Domain| {
        let id = domain
            .id
            .map_or_else(|| "-".to_owned(), |id| id.to_string());
        [
            printable(&domain.name),
            domain.uuid.to_string(),
            id,
            state(domain).to_owned(),
        ]
    };
    let heading = ["NAME", "UUID", "ID", "STATE"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(heading)
        .chain(domains.iter().map(row))
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let lines = rows.iter().map(|[name, uuid, id, state]| {
        format!(
            "{name:0$}  {uuid:1$}  {id:2$}  {state}",
            widths[0], widths[1], widths[2]
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use libvirt_qmp::EventDomain;
    use uuid::Uuid;

    use super::*;

    fn words(words: &[&str]) -> Result<String, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        match command(&words) {
            Ok(json) => Ok(String::from_utf8(json).unwrap()),
            Err(Failure::Because { exit, error, .. }) => {
                assert_eq!(exit, Exit::Usage);
                Err(chain(&*error))
            }
            Err(Failure::NobodyReads) => panic!("nothing was written"),
        }
    }

    #[test]
    fn commands_are_names_with_arguments_or_json() {
        for (given, json) in [
            (&["query-status"][..], r#"{"execute":"query-status"}"#),
            (
                &["device_del", "id=blk0"],
                r#"{"execute":"device_del","arguments":{"id":"blk0"}}"#,
            ),
            (
                &["blockdev-add", "file.driver=null-co", "read-only=true"],
                r#"{"execute":"blockdev-add","arguments":{"file":{"driver":"null-co"},"read-only":true}}"#,
            ),
            (
                &[r#" { "execute": "stop" } "#],
                r#" { "execute": "stop" } "#,
            ),
        ] {
            assert_eq!(words(given).as_deref(), Ok(json));
        }
        for (given, reason) in [
            (&[][..], "no command given"),
            (&["stop", "now"], "argument `now`: expected KEY=VALUE"),
            (
                &[r#"{"execute":"stop"}"#, "a=1"],
                "argument `a=1`: a command given as JSON",
            ),
        ] {
            let error = words(given).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn only_what_a_reply_returns_is_shown() {
        let reply = br#"{"id": "x", "return": {"b": 1.50, "a": [ ]}, "more": 1}"#;
        assert_eq!(returned(reply, false).unwrap(), r#"{"b":1.50,"a":[]}"#);
        let pretty = "{\n  \"b\": 1.50,\n  \"a\": []\n}";
        assert_eq!(returned(reply, true).unwrap(), pretty);
    }

    #[test]
    fn events_are_one_line_whatever_is_in_them() {
        let data = RawValue::from_string("{\n \"node\": 9007199254740993 }".to_owned()).unwrap();
        let timestamp = Timestamp {
            seconds: 1_700_000_000,
            microseconds: 42,
        };
        let event = Event::new("A\nB", Some(data), timestamp).with_domain(Arc::new(
            EventDomain::new("vm", Uuid::from_u128(1), Some(3)),
        ));
        assert_eq!(
            as_text(&event),
            r#"1700000000.000042 A\nB {"node":9007199254740993}"#
        );
        assert_eq!(
            as_json(&event).unwrap(),
            concat!(
                r#"{"event":"A\nB","data":{"node":9007199254740993},"#,
                r#""timestamp":{"seconds":1700000000,"microseconds":42},"#,
                r#""domain":{"name":"vm","uuid":"00000000-0000-0000-0000-000000000001","id":3}}"#
            )
        );
        let bare = Event::new("STOP", None, Timestamp::UNKNOWN);
        assert_eq!(as_text(&bare), "- STOP");
        assert_eq!(
            as_json(&bare).unwrap(),
            r#"{"event":"STOP","timestamp":{"seconds":-1,"microseconds":-1}}"#
        );
    }
}
