//! Events: what happened, when, with which data, and in which domain. Imports `json` and `from_json` of `mod`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::from_json;
use super::json::{self, JsonError};

/// One QMP event, known to this crate or not.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// The event's QAPI name, such as `DEVICE_DELETED`.
    pub name: String,
    /// Its data as JSON text, digit for digit as sent; `None` for an event that has none.
    pub data: Option<Box<RawValue>>,
    /// When it happened, by the clock of the host that QEMU runs on. QEMU delays the events it limits in rate, so
    /// events may arrive in another order than their times tell.
    pub timestamp: Timestamp,
    /// The domain it came from, where a hypervisor daemon told.
    pub domain: Option<Arc<EventDomain>>,
}

impl Event {
    /// An event of no particular domain.
    pub fn new(name: impl Into<String>, data: Option<Box<RawValue>>, timestamp: Timestamp) -> Self {
        Self {
            name: name.into(),
            data,
            timestamp,
            domain: None,
        }
    }

    /// The same event, said to come from `domain`.
    pub fn with_domain(mut self, domain: Arc<EventDomain>) -> Self {
        self.domain = Some(domain);
        self
    }

    /// Decodes an event message, `{"event": NAME, "data": ..., "timestamp": {"seconds": S, "microseconds": U}}` with
    /// its members in any order. Further members are passed over, and a timestamp that is missing or makes no sense is
    /// [`Timestamp::UNKNOWN`]: neither makes the event less true.
    ///
    /// # Errors
    /// [`EventError::Json`] if `text` is not one JSON object nested up to 1024 levels, [`EventError::NotAnEvent`] if it
    /// has no `event` member or one that is no string.
    pub fn parse(text: &[u8]) -> Result<Self, EventError> {
        let ([event, data, timestamp], _) = json::fields(text, ["event", "data", "timestamp"])?;
        let name = event
            .and_then(|field| json::string(&text[field.value]))
            .ok_or(EventError::NotAnEvent)?;
        let data = match data {
            Some(field) => Some(raw_value(&text[field.value]).ok_or(EventError::NotAnEvent)?),
            None => None,
        };
        let timestamp = timestamp.map_or(Timestamp::UNKNOWN, |field| {
            Timestamp::parse(&text[field.value])
        });
        Ok(Self::new(name, data, timestamp))
    }

    /// Decodes the data as a `T`, nested up to 512 levels. An event without data decodes like one with `{}`, which is
    /// what QAPI means by it.
    ///
    /// # Errors
    /// serde_json's, if the data are not those of a `T`. The event itself is untouched.
    pub fn data_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        from_json(
            self.data
                .as_ref()
                .map_or("{}", |data| data.get())
                .as_bytes(),
        )
    }
}

/// A copy of `value`, a JSON value checked before.
pub(super) fn raw_value(value: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(value).ok()?;
    RawValue::from_string(text.to_owned()).ok()
}

/// Why a text could not be read as an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The text is not one JSON object.
    #[error("event is not a JSON object: {reason} at byte {offset}")]
    Json {
        /// Offset in bytes of what is wrong.
        offset: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The object does not name an event.
    #[error("object has no string member `event`")]
    NotAnEvent,
}

impl From<JsonError> for EventError {
    fn from(JsonError { offset, reason }: JsonError) -> Self {
        Self::Json { offset, reason }
    }
}

/// A time on the host's clock, counted from 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds; -1 when the host could not tell the time.
    pub seconds: i64,
    /// Microseconds of the second, 0 to 999999; -1 when the host could not tell the time.
    pub microseconds: i64,
}

impl Timestamp {
    /// What QEMU sends when the host's clock failed: -1 and -1.
    pub const UNKNOWN: Self = Self {
        seconds: -1,
        microseconds: -1,
    };

    /// The time as the standard library has it; `None` if it is unknown or out of range.
    pub fn to_system_time(self) -> Option<SystemTime> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let microseconds = u32::try_from(self.microseconds)
            .ok()
            .filter(|&part| part < 1_000_000)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, microseconds * 1000))
    }

    /// Reads `{"seconds": S, "microseconds": U}`, text of a checked JSON value.
    fn parse(value: &[u8]) -> Self {
        let Ok(([seconds, microseconds], _)) = json::fields(value, ["seconds", "microseconds"])
        else {
            return Self::UNKNOWN;
        };
        let number = |field: Option<json::Field>| -> Option<i64> {
            std::str::from_utf8(&value[field?.value]).ok()?.parse().ok()
        };
        match (number(seconds), number(microseconds)) {
            (Some(seconds), Some(microseconds)) => Self {
                seconds,
                microseconds,
            },
            _ => Self::UNKNOWN,
        }
    }
}

/// Which domain of a hypervisor an event came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct EventDomain {
    /// The domain's name, which can change.
    pub name: String,
    /// Its UUID, which cannot. Nil where it is not known: virsh prints whose an event is by its name alone.
    pub uuid: Uuid,
    /// The number it has while it runs.
    pub id: Option<i32>,
}

impl EventDomain {
    /// A domain by what identifies it.
    pub fn new(name: impl Into<String>, uuid: Uuid, id: Option<i32>) -> Self {
        Self {
            name: name.into(),
            uuid,
            id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[test]
    fn events_as_qemu_sends_them() {
        let stop = Event::parse(
            br#"{"timestamp": {"seconds": 1700000000, "microseconds": 123456}, "event": "STOP"}"#,
        )
        .unwrap();
        assert_eq!(stop.name, "STOP");
        assert!(stop.data.is_none() && stop.domain.is_none());
        assert_eq!(
            (stop.timestamp.seconds, stop.timestamp.microseconds),
            (1_700_000_000, 123_456)
        );

        let text = r#"{"timestamp": {"seconds": 1, "microseconds": 0}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}"#;
        let shutdown = Event::parse(text.as_bytes()).unwrap();
        assert_eq!(
            shutdown.data.as_ref().unwrap().get(),
            r#"{"guest": false, "reason": "host-qmp-quit"}"#
        );
        #[derive(Deserialize)]
        struct Shutdown {
            guest: bool,
            reason: String,
        }
        let data: Shutdown = shutdown.data_as().unwrap();
        assert!(!data.guest && data.reason == "host-qmp-quit");
        shutdown.data_as::<Vec<u8>>().unwrap_err();
    }

    #[test]
    fn unknown_events_order_and_members_are_no_error() {
        let event = Event::parse(
            b"{\r\n    \"data\": [1],\r\n    \"new\": {}, \"event\": \"X\\u002dY\",\r\n    \"timestamp\": {}\r\n}",
        )
        .unwrap();
        assert_eq!(event.name, "X-Y");
        assert_eq!(event.data_as::<Vec<u8>>().unwrap(), [1]);
        assert_eq!(event.timestamp, Timestamp::UNKNOWN);
    }

    #[test]
    fn a_failed_clock_is_minus_one() {
        let event =
            Event::parse(br#"{"event":"RESUME","timestamp":{"seconds":-1,"microseconds":-1}}"#)
                .unwrap();
        assert_eq!(event.timestamp, Timestamp::UNKNOWN);
        assert_eq!(event.timestamp.to_system_time(), None);
        for timestamp in [
            "null",
            "3",
            r#"{"seconds":1.5,"microseconds":0}"#,
            r#"{"seconds":1e400,"microseconds":0}"#,
        ] {
            let text = format!(r#"{{"event":"E","timestamp":{timestamp}}}"#);
            assert_eq!(
                Event::parse(text.as_bytes()).unwrap().timestamp,
                Timestamp::UNKNOWN,
                "{text}"
            );
        }
        let time = Timestamp {
            seconds: 2,
            microseconds: 500_000,
        };
        assert_eq!(
            time.to_system_time(),
            Some(SystemTime::UNIX_EPOCH + Duration::from_millis(2500))
        );
        let late = Timestamp {
            seconds: i64::MAX,
            microseconds: 1_000_000,
        };
        assert_eq!(late.to_system_time(), None);
    }

    #[test]
    fn data_are_lossless() {
        let text = r#"{"event":"E","data":{"n":18446744073709551615,"f":0.10000000000000001,"big":123456789012345678901234567890,"z":"\u0000\ud83d\ude00"}}"#;
        let event = Event::parse(text.as_bytes()).unwrap();
        assert!(text.contains(event.data.as_ref().unwrap().get()));
        assert_eq!(
            event.data.unwrap().get().len(),
            text.len() - r#"{"event":"E","data":}"#.len()
        );
        let null = Event::parse(br#"{"event":"E","data":null}"#).unwrap();
        assert_eq!(null.data.unwrap().get(), "null");
    }

    #[test]
    fn no_data_decode_as_an_empty_object() {
        #[derive(Deserialize)]
        struct Data {
            device: Option<String>,
        }
        let event = Event::new("DEVICE_DELETED", None, Timestamp::UNKNOWN);
        assert_eq!(event.data_as::<Data>().unwrap().device, None);
    }

    #[test]
    fn deep_data_decode() {
        let data = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let event = Event::parse(format!(r#"{{"event":"E","data":{data}}}"#).as_bytes()).unwrap();
        assert_eq!(event.data.as_ref().unwrap().get(), data);
        assert_eq!(
            event.data_as::<serde_json::Value>().unwrap().to_string(),
            data
        );
        assert_eq!(event.data_as::<Box<RawValue>>().unwrap().get(), data);
    }

    #[test]
    fn what_is_no_event() {
        for text in [
            "{}",
            r#"{"return":{}}"#,
            r#"{"event":1}"#,
            r#"{"event":null,"data":{}}"#,
        ] {
            assert_eq!(
                Event::parse(text.as_bytes()).unwrap_err(),
                EventError::NotAnEvent
            );
        }
        assert!(matches!(
            Event::parse(b"{\"event\":\"E\""),
            Err(EventError::Json { offset: 12, .. })
        ));
    }

    #[test]
    fn domain_is_kept() {
        let domain = Arc::new(EventDomain::new("vm", Uuid::from_u128(7), Some(3)));
        let event = Event::new("STOP", None, Timestamp::UNKNOWN).with_domain(Arc::clone(&domain));
        assert_eq!(event.clone().domain, Some(domain));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Event::parse(&text);
            let _ = Timestamp::parse(&text);
        }
    }
}
