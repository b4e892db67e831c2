//! Monitor events from libvirt's callback to the streams. Imports queue, qmp, error, and the connection they come by.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use serde_json::value::RawValue;

use super::callbacks::RawEvent;
use super::connection::{Connection, Session, Shared};
use super::lane::Jobs;
use crate::error::Error;
use crate::qmp::{Event, Timestamp};
use crate::queue::{EventQueue, QueueOptions, Queued, Taken, Told};

/// What libvirt calls the events by, in errors.
const WHAT: &str = "virConnectDomainQemuMonitorEventCallback";

/// An event, or why it could not be decoded.
pub(super) type Arrival = Result<Event, Error>;

impl Queued for Arrival {
    fn size(&self) -> usize {
        match self {
            Ok(event) => event.size(),
            Err(_) => std::mem::size_of::<Arrival>(),
        }
    }
}

/// Decodes an event. Runs on the thread of libvirt's event loop.
pub(super) fn decode(raw: RawEvent) -> Arrival {
    let data = raw.details.as_ref().map(raw_value).transpose()?;
    // The type is unsigned; QEMU says -1 where its clock failed.
    let microseconds = match raw.micros {
        u32::MAX => -1,
        micros => i64::from(micros),
    };
    let timestamp = Timestamp {
        seconds: raw.seconds,
        microseconds,
    };
    Ok(Event::new(raw.name, data, timestamp).with_domain(Arc::new(raw.domain)))
}

fn raw_value(details: &Bytes) -> Result<Box<RawValue>, Error> {
    let text = std::str::from_utf8(details).map_err(|error| Error::json(WHAT, error))?;
    RawValue::from_string(text.to_owned()).map_err(|error| Error::json(WHAT, error))
}

/// One stream's place among those that get the events.
pub(super) struct Subscription {
    queue: Arc<EventQueue<Arrival>>,
    shared: Arc<Shared>,
    session: Jobs<Session>,
}

impl Subscription {
    pub(super) fn new(
        shared: Arc<Shared>,
        session: Jobs<Session>,
        options: QueueOptions<Arrival>,
    ) -> Self {
        Subscription {
            queue: shared.events.add(options),
            shared,
            session,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.events.remove(&self.queue);
        self.session.post(Session::unsubscribe);
    }
}

/// The events of one stream.
pub(super) struct Events {
    /// Its place, and the connection, which it keeps open; none once it has ended.
    source: Option<(Subscription, Arc<Connection>)>,
    taken: Taken<Arrival>,
}

impl Events {
    pub(super) fn new(subscription: Subscription, connection: Arc<Connection>) -> Self {
        Events {
            source: Some((subscription, connection)),
            taken: Taken::default(),
        }
    }
}

impl Stream for Events {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some((subscription, _)) = &this.source else {
            return Poll::Ready(None);
        };
        let item = ready!(subscription.queue.poll_next(&mut this.taken, cx));
        Poll::Ready(match item.told() {
            Told::Event(arrival) => Some(arrival),
            Told::Error(error) => Some(Err(error)),
            Told::End(last) => {
                this.source = None;
                last.map(Err)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::qmp::EventDomain;

    fn raw(seconds: i64, micros: u32, details: Option<&'static [u8]>) -> RawEvent {
        RawEvent {
            domain: EventDomain::new("one", Uuid::from_u128(7), Some(3)),
            name: "STOP".to_owned(),
            seconds,
            micros,
            details: details.map(Bytes::from_static),
        }
    }

    #[test]
    fn an_event_has_what_the_callback_said() {
        let event = decode(raw(17, 5, Some(br#"{"guest": true}"#))).unwrap();
        assert_eq!(event.name, "STOP");
        assert_eq!(event.data.unwrap().get(), r#"{"guest": true}"#);
        assert_eq!(
            (event.timestamp.seconds, event.timestamp.microseconds),
            (17, 5)
        );
        let domain = event.domain.unwrap();
        assert_eq!((domain.name.as_str(), domain.id), ("one", Some(3)));
    }

    #[test]
    fn a_clock_that_failed_and_no_details_are_said_so() {
        let event = decode(raw(-1, u32::MAX, None)).unwrap();
        assert_eq!(event.timestamp, Timestamp::UNKNOWN);
        assert!(event.data.is_none());
    }

    #[test]
    fn details_that_are_no_json_are_an_error_in_the_events_place() {
        for details in [&b"{"[..], b"\xff"] {
            let error = decode(raw(1, 1, Some(details))).unwrap_err();
            assert!(matches!(error, Error::Decode { .. }), "{error:?}");
        }
    }
}
