//! Events, as they are taken and shown. Imports `failure` and `output`.

use std::future::poll_fn;
use std::pin::Pin;

use futures_core::Stream;
use libvirt_qmp::{Error, Event, EventStream, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::output::{layout, printable, to_line};

/// The next item of the stream.
pub(crate) async fn next(events: &mut EventStream) -> Option<Result<Event, Error>> {
    poll_fn(|cx| Pin::new(&mut *events).poll_next(cx)).await
}

/// `SECONDS.MICROSECONDS NAME DATA`, without data where there are none.
pub(crate) fn as_text(event: &Event) -> String {
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
pub(crate) fn as_json(event: &Event) -> Result<String, Failure> {
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
        uuid: Option<String>,
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
            uuid: (!domain.uuid.is_nil()).then(|| domain.uuid.to_string()),
            id: domain.id,
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use libvirt_qmp::EventDomain;
    use uuid::Uuid;

    use super::*;

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
