//! QEMU monitor events of one domain, as the daemon sends them (`QEMU_PROC_DOMAIN_MONITOR_EVENT`).
//!
//! The daemon filters by name where it can be told to. Whatever it sends is filtered here once more, by the name in the
//! packet before an event takes room in a queue, and by predicates where the stream is read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use serde_json::value::RawValue;

use crate::connection::deadline;
use crate::error::Error;
use crate::libvirt::Libvirt;
use crate::libvirt::views::MonitorEvent;
use crate::objects::Domain;
use crate::protocol::Message;
use crate::protocol::qemu::procedure::{
    ConnectDomainMonitorEventDeregister, ConnectDomainMonitorEventRegister, DomainMonitorEvent,
};
use crate::protocol::qemu::{
    ConnectDomainMonitorEventDeregisterArgs, ConnectDomainMonitorEventRegisterArgs,
    ConnectDomainMonitorEventRegisterRet,
};
use crate::qmp::{Event, EventDomain, EventFilter, Timestamp};
use crate::queue::{EventQueue, Overflow, QueueOptions, Told};
use crate::rpc::{Arrived, ArrivedQueue, EventKind, Messages, Registration, Subscription};
use crate::xdr;

/// `VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX`: the event's name is a regular expression, found anywhere.
const REGISTER_REGEX: u32 = 1;
/// `VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_NOCASE`: its case does not matter.
const REGISTER_NOCASE: u32 = 2;

/// A name or pattern longer than this is matched here alone.
const LONGEST_PATTERN: usize = 4096;

/// Monitor events, of one domain by its UUID or of all.
struct QemuMonitor;

impl EventKind for QemuMonitor {
    type Register = ConnectDomainMonitorEventRegister;
    type Deregister = ConnectDomainMonitorEventDeregister;

    fn callback_id(reply: ConnectDomainMonitorEventRegisterRet) -> i32 {
        reply.callback_id
    }

    fn deregister(callback_id: i32) -> ConnectDomainMonitorEventDeregisterArgs {
        ConnectDomainMonitorEventDeregisterArgs { callback_id }
    }
}

/// Which events the daemon is asked for: a name or a pattern, or all, and the flags of it.
struct Wanted {
    event: Option<String>,
    flags: u32,
}

impl Wanted {
    /// What the daemon can be told of `filter`.
    fn of(filter: &EventFilter) -> Self {
        let (event, flags, ignore_case) = if let Some((name, ignore_case)) = filter.as_name() {
            (name.into(), 0, ignore_case)
        } else if let Some((regex, ignore_case)) = filter.as_common_regex() {
            (regex.to_owned(), REGISTER_REGEX, ignore_case)
        } else {
            return Wanted::all();
        };
        // libvirt takes strings for C strings, and an empty name for no event's.
        if event.is_empty() || event.len() > LONGEST_PATTERN || event.contains('\0') {
            return Wanted::all();
        }
        Wanted {
            event: Some(event),
            flags: flags | if ignore_case { REGISTER_NOCASE } else { 0 },
        }
    }

    fn all() -> Self {
        Wanted {
            event: None,
            flags: 0,
        }
    }

    /// Everything, in the words of a filter.
    fn all_by_pattern() -> Self {
        Wanted {
            event: Some(".*".to_owned()),
            flags: REGISTER_REGEX,
        }
    }

    /// What tells this filter from others: the flags and the pattern. Empty for all events.
    fn key(&self) -> Vec<u8> {
        match &self.event {
            Some(event) => [&self.flags.to_be_bytes()[..], event.as_ref()].concat(),
            None => Vec::new(),
        }
    }

    fn args(self, domain: Option<&Domain>) -> ConnectDomainMonitorEventRegisterArgs {
        ConnectDomainMonitorEventRegisterArgs {
            dom: domain.cloned(),
            event: self.event,
            flags: self.flags,
        }
    }

    fn registration(self, domain: Option<&Domain>) -> Result<Registration, Error> {
        let key = self.key();
        let messages = Messages::Numbered(DomainMonitorEvent::NUMBER);
        // Nothing stands for all domains.
        let target = domain.map_or(&[][..], |domain| domain.uuid.as_bytes());
        let args = self.args(domain);
        let registration = Registration::new::<QemuMonitor>(messages, target, &key, &args)?;
        match key.is_empty() {
            true => {
                registration.beside_others::<QemuMonitor>(&Wanted::all_by_pattern().args(domain))
            }
            false => Ok(registration),
        }
    }
}

impl Libvirt {
    /// Subscribes to the monitor events of `domain`, or of all, whose names `filter` may take. None of them after this is missed.
    ///
    /// A queue without a limit of its own holds as many as is configured.
    pub(crate) async fn monitor_events(
        &self,
        domain: Option<&Domain>,
        filter: &EventFilter,
        limit: Option<usize>,
        overflow: Overflow,
    ) -> Result<MonitorEvents, Error> {
        let registration = Wanted::of(filter).registration(domain)?;
        let limit = limit.unwrap_or(self.config.event_queue);
        let may_match = |filter: &EventFilter, event: &Arrived| {
            event_name(&event.payload).is_none_or(|name| filter.may_match(name))
        };
        let queue = QueueOptions::filtered(limit, overflow, filter, may_match);
        let queue = EventQueue::new(queue);
        let deadline = deadline(self.config.subscribe_within());
        let subscription = self
            .client
            .subscribe(registration, &queue, deadline)
            .await?;
        Ok(MonitorEvents {
            subscription: Some(subscription),
            last_domain: None,
        })
    }
}

/// The event's name in the payload of a packet, found without decoding the rest of it.
///
/// ```text
/// callback id i32 | domain: name string, UUID 16 bytes, id i32 | event string | …
/// ```
fn event_name(payload: &[u8]) -> Option<&str> {
    let (_, rest) = string(payload.get(4..)?)?;
    let (name, _) = string(rest.get(16 + 4..)?)?;
    std::str::from_utf8(name).ok()
}

/// An XDR string at the front of `bytes`, and what follows its padding.
pub(super) fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let padded = length.checked_next_multiple_of(4)?;
    Some((rest.get(..length)?, rest.get(padded..)?))
}

/// The monitor events of one domain, or of all. Ends after the error that says why the connection ended.
pub(crate) struct MonitorEvents {
    subscription: Option<Subscription>,
    /// The domain of the last event: it is nearly always that of the next.
    last_domain: Option<Arc<EventDomain>>,
}

impl MonitorEvents {
    /// The queue behind it, by which its monitor can end it.
    pub(crate) fn queue(&self) -> Option<Arc<ArrivedQueue>> {
        self.subscription
            .as_ref()
            .map(|subscription| subscription.queue().clone())
    }

    fn decode(&mut self, payload: Bytes) -> Result<Event, Error> {
        let message = xdr::decode::<MonitorEvent>(payload)
            .map_err(|error| Error::xdr(DomainMonitorEvent::NAME, error))?;
        let domain = self.domain(&message);
        let data = match message.details {
            Some(details) => Some(
                RawValue::from_string(details.into())
                    .map_err(|error| Error::json(DomainMonitorEvent::NAME, error))?,
            ),
            None => None,
        };
        // The wire type is unsigned; QEMU says -1 where its clock failed.
        let microseconds = if message.micros == u32::MAX {
            -1
        } else {
            i64::from(message.micros)
        };
        let timestamp = Timestamp {
            seconds: message.seconds,
            microseconds,
        };
        let mut event = Event::new(String::from(message.event), data, timestamp);
        event.domain = Some(domain);
        Ok(event)
    }

    fn domain(&mut self, event: &MonitorEvent) -> Arc<EventDomain> {
        let id = (event.domain_id >= 0).then_some(event.domain_id);
        let (uuid, name) = (event.domain_uuid, &*event.domain_name);
        match &self.last_domain {
            Some(last) if last.uuid == uuid && last.id == id && *last.name == *name => last.clone(),
            _ => {
                let domain = Arc::new(EventDomain {
                    name: name.into(),
                    uuid,
                    id,
                });
                self.last_domain.insert(domain).clone()
            }
        }
    }
}

impl Stream for MonitorEvents {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(subscription) = &mut self.subscription else {
            return Poll::Ready(None);
        };
        Poll::Ready(match ready!(subscription.poll_next(cx)).told() {
            Told::Event(event) => Some(self.decode(event.payload)),
            Told::Error(error) => Some(Err(error)),
            Told::End(last) => {
                self.subscription = None;
                last.map(Err)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::qemu::DomainMonitorEventMsg;

    fn domain(name: &'static str) -> Domain {
        Domain {
            name: name.to_owned(),
            uuid: uuid::Uuid::from_bytes([7; 16]),
            id: Some(3),
        }
    }

    #[test]
    fn the_daemon_is_told_what_it_can_filter_by() {
        let wanted = |filter: EventFilter| {
            let Wanted { event, flags } = Wanted::of(&filter);
            (event, flags)
        };
        let some = |text: &str, flags| (Some(text.to_owned()), flags);
        assert_eq!(wanted("STOP".into()), some("STOP", 0));
        assert_eq!(
            wanted(EventFilter::name("stop").ignore_case()),
            some("stop", 2)
        );
        assert_eq!(
            wanted(["STOP", "RESUME"].into()),
            some("^(STOP|RESUME)$", 1)
        );
        assert_eq!(
            wanted(EventFilter::glob("block_*").ignore_case()),
            some("^(block_.*)$", 3)
        );
        for filter in [
            EventFilter::any(),
            EventFilter::regex("STOP").unwrap(),
            "".into(),
            "STOP\0".into(),
            EventFilter::name("x".repeat(5000)),
            EventFilter::glob("x".repeat(5000)),
        ] {
            assert_eq!(wanted(filter), (None, 0));
        }
    }

    #[test]
    fn filters_are_told_apart_by_pattern_and_flags() {
        let filters = [
            EventFilter::any(),
            "STOP".into(),
            EventFilter::name("STOP").ignore_case(),
            "RESUME".into(),
            EventFilter::glob("STOP"),
            EventFilter::glob("STOP").ignore_case(),
            // Not what stands for everything.
            EventFilter::glob("*"),
        ];
        let keys: std::collections::HashSet<_> = filters
            .iter()
            .map(|filter| Wanted::of(filter).key())
            .collect();
        assert_eq!(keys.len(), filters.len());
        assert!(Wanted::all().key().is_empty());
    }

    #[test]
    fn a_name_is_found_in_its_packet_and_nothing_in_half_of_one() {
        for (dom, event) in [("", ""), ("a", "STOP"), ("abcd", "RESUME")] {
            let body = DomainMonitorEventMsg {
                callback_id: 5,
                dom: domain(dom),
                event: event.to_owned(),
                seconds: 1,
                micros: 2,
                details: None,
            };
            let mut bytes = Vec::new();
            xdr::encode(&body, &mut bytes).unwrap();
            assert_eq!(event_name(&bytes), Some(event));
            for cut in 0..bytes.len() {
                let found = event_name(&bytes[..cut]);
                assert!(found.is_none() || found == Some(event), "cut at {cut}");
            }
        }
        assert_eq!(event_name(&[0xff; 64]), None);
    }
}
