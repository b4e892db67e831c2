//! QEMU monitor events of one domain, as the daemon sends them (`QEMU_PROC_DOMAIN_MONITOR_EVENT`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Libvirt;
use crate::connection::deadline;
use crate::error::{EndCause, Error};
use crate::protocol::Message;
use crate::protocol::qemu::procedure::{
    ConnectDomainMonitorEventDeregister, ConnectDomainMonitorEventRegister, DomainMonitorEvent,
};
use crate::protocol::qemu::{
    ConnectDomainMonitorEventDeregisterArgs, ConnectDomainMonitorEventRegisterArgs,
    ConnectDomainMonitorEventRegisterRet, DomainMonitorEventMsg,
};
use crate::protocol::remote::NonnullDomain;
use crate::qmp::{Event, EventDomain, Timestamp};
use crate::queue::{EventQueue, Item, QueueOptions};
use crate::rpc::{EventKind, Registration, Subscription};
use crate::xdr;

/// Monitor events, registered without an event name: the daemon allows one such registration per domain and connection.
struct QemuMonitor;

impl EventKind for QemuMonitor {
    type Message = DomainMonitorEvent;
    type Register = ConnectDomainMonitorEventRegister;
    type Deregister = ConnectDomainMonitorEventDeregister;

    fn callback_id(reply: ConnectDomainMonitorEventRegisterRet) -> i32 {
        reply.callback_id
    }

    fn deregister(callback_id: i32) -> ConnectDomainMonitorEventDeregisterArgs {
        ConnectDomainMonitorEventDeregisterArgs { callback_id }
    }
}

impl Libvirt {
    /// Subscribes to all monitor events of `domain`. No event after this is missed.
    pub(crate) async fn monitor_events(
        &self,
        domain: &NonnullDomain,
    ) -> Result<MonitorEvents, Error> {
        let args = ConnectDomainMonitorEventRegisterArgs {
            dom: Some(domain.clone()),
            event: None,
            flags: 0,
        };
        let registration = Registration::new::<QemuMonitor>(&domain.uuid, &args)?;
        let deadline = deadline(self.config.call_timeout);
        let subscription = self
            .client
            .subscribe(
                registration,
                QueueOptions::new(self.config.event_queue),
                deadline,
            )
            .await?;
        Ok(MonitorEvents {
            subscription: Some(subscription),
            last_domain: None,
        })
    }
}

/// The monitor events of one domain. Ends after the error that says why the connection ended.
pub(crate) struct MonitorEvents {
    subscription: Option<Subscription>,
    /// The domain of the last event: it is nearly always that of the next.
    last_domain: Option<Arc<EventDomain>>,
}

impl MonitorEvents {
    /// The queue behind it, by which its monitor can end it.
    pub(crate) fn queue(&self) -> Option<Arc<EventQueue>> {
        self.subscription
            .as_ref()
            .map(|subscription| subscription.queue().clone())
    }

    fn decode(&mut self, payload: Bytes) -> Result<Event, Error> {
        let message = xdr::decode::<DomainMonitorEventMsg>(payload)
            .map_err(|error| Error::xdr(DomainMonitorEvent::NAME, error))?;
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
        event.domain = Some(self.domain(message.dom));
        Ok(event)
    }

    fn domain(&mut self, wire: NonnullDomain) -> Arc<EventDomain> {
        let id = (wire.id >= 0).then_some(wire.id);
        let uuid = Uuid::from_bytes(wire.uuid);
        match &self.last_domain {
            Some(last) if last.uuid == uuid && last.id == id && *last.name == *wire.name => {
                last.clone()
            }
            _ => {
                let domain = Arc::new(EventDomain {
                    name: wire.name.into(),
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
        let item = match subscription.poll_next(cx) {
            Poll::Ready(item) => item,
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(match item {
            Item::Event(payload) => Some(self.decode(payload)),
            Item::Lost(number) => Some(Err(Error::EventsLost(number))),
            Item::Ended(cause) => {
                self.subscription = None;
                match *cause {
                    EndCause::UserClosed => None,
                    _ => Some(Err(Error::disconnected(cause, false))),
                }
            }
        })
    }
}
