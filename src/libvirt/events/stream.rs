//! Streams of events: how one is registered, a registration for each kind of event, and how it is read. All registrations of
//! a stream fill one queue, so that its events keep their order. Imports rpc, queue and the kinds of events.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tracing::debug;

use super::family::{
    self, Domains, EventFamily, Networks, NodeDevices, Secrets, StoragePools, Wanted,
};
use super::filter::{
    DomainEventFilter, NetworkEventFilter, NodeDeviceEventFilter, ObjectEventFilter,
    SecretEventFilter, StoragePoolEventFilter,
};
use super::monitor::string;
use crate::connection::{Deadline, deadline};
use crate::error::{Error, LibvirtError, Phase};
use crate::libvirt::Libvirt;
use crate::protocol::constants::DrvFeature;
use crate::queue::{EventQueue, QueueOptions, Told};
use crate::rpc::{Arrived, Subscription};

/// The events of domains.
pub type DomainEvents = ObjectEvents<Domains>;
/// The events of networks.
pub type NetworkEvents = ObjectEvents<Networks>;
/// The events of storage pools.
pub type StoragePoolEvents = ObjectEvents<StoragePools>;
/// The events of node devices.
pub type NodeDeviceEvents = ObjectEvents<NodeDevices>;
/// The events of secrets.
pub type SecretEvents = ObjectEvents<Secrets>;

/// A stream of libvirt's events, from the moment its subscription was made, in the order in which they came.
///
/// It has a bounded queue of its own: where events come faster than they are taken, [`Error::EventsLost`] says at that place
/// how many went. An event that cannot be decoded is [`Error::Decode`] in its place, and [`Error::Gap`] stands where a
/// connection was lost and made again; the stream goes on after these. Where the connection ends, the last item says why.
///
/// Where the connection is made again after a loss ([`Config::reconnect`](crate::Config::reconnect)), every kind of event is
/// registered again, and one [`Error::Gap`] comes before the first event of the new connection, however many kinds they are.
///
/// Streams share what the daemon has registered: a connection may have one registration for each kind of event and
/// object. Dropping the last stream of one deregisters it.
#[must_use = "events come only where the stream is read"]
pub struct ObjectEvents<F: EventFamily> {
    /// All fill one queue, which is read through the first. None where the connection has ended.
    subscriptions: Vec<Subscription>,
    family: PhantomData<fn() -> F>,
}

impl<F: EventFamily> Stream for ObjectEvents<F> {
    type Item = Result<F::Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(subscription) = self.subscriptions.first_mut() else {
            return Poll::Ready(None);
        };
        Poll::Ready(match ready!(subscription.poll_next(cx)).told() {
            Told::Event(event) => Some(family::decode::<F>(event)),
            Told::Error(error) => Some(Err(error)),
            Told::End(last) => {
                self.subscriptions.clear();
                last.map(Err)
            }
        })
    }
}

impl<F: EventFamily> fmt::Debug for ObjectEvents<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectEvents")
            .field("registrations", &self.subscriptions.len())
            .finish_non_exhaustive()
    }
}

/// # Events
///
/// Each method subscribes to the events that its filter asks for, and returns their stream once the daemon has registered
/// for all of them. No event after that is missed. The registrations, one for each kind of event, are made one after the
/// other, within [`Config::subscribe_timeout`](crate::Config::subscribe_timeout) in all.
///
/// ```no_run
/// # async fn example(libvirt: libvirt_qmp::Libvirt) -> Result<(), libvirt_qmp::Error> {
/// use futures_util::StreamExt;
/// use libvirt_qmp::events::{DomainEvent, DomainEventFilter, DomainEventId, DomainLifecycle};
///
/// let filter = DomainEventFilter::all().only([DomainEventId::LIFECYCLE]);
/// let mut events = libvirt.domain_events(filter).await?;
/// while let Some(event) = events.next().await {
///     match event? {
///         DomainEvent::Lifecycle { domain, change: DomainLifecycle::Stopped(how) } => {
///             println!("{} has stopped: {how:?}", domain.name);
///         }
///         other => println!("{other:?}"),
///     }
/// }
/// # Ok(()) }
/// ```
///
/// Errors of all of them: [`Error::Libvirt`] where the daemon refuses, such as for a kind of event that it does not know,
/// or a connection for reading alone to a driver that allows no such thing; [`Error::Unsupported`] for a filter that asks for
/// nothing, or for a kind of event that this daemon cannot be asked for; [`Error::Timeout`], [`Error::Disconnected`].
///
/// Dropping a future takes back what it has registered; so does dropping the stream.
impl Libvirt {
    /// The events of domains (`REMOTE_PROC_CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY`; from a libvirt before 1.2.1
    /// `REMOTE_PROC_CONNECT_DOMAIN_EVENT_REGISTER_ANY`).
    ///
    /// # Errors
    ///
    /// As above.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes back what it has registered.
    pub async fn domain_events(&self, filter: DomainEventFilter) -> Result<DomainEvents, Error> {
        let deadline = deadline(self.config.subscribe_within());
        let options = self.options_until(Phase::Subscription, deadline);
        // Registrations have callback ids then, and may be of one domain.
        let feature = DrvFeature::REMOTE_EVENT_CALLBACK;
        let numbered = self.supports(feature, options).await?;
        self.subscribe_to(filter, !numbered, deadline).await
    }

    /// The events of virtual networks (`REMOTE_PROC_CONNECT_NETWORK_EVENT_REGISTER_ANY`).
    ///
    /// # Errors
    ///
    /// As above.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes back what it has registered.
    pub async fn network_events(&self, filter: NetworkEventFilter) -> Result<NetworkEvents, Error> {
        let deadline = deadline(self.config.subscribe_within());
        self.subscribe_to(filter, false, deadline).await
    }

    /// The events of storage pools (`REMOTE_PROC_CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY`).
    ///
    /// # Errors
    ///
    /// As above.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes back what it has registered.
    pub async fn storage_pool_events(
        &self,
        filter: StoragePoolEventFilter,
    ) -> Result<StoragePoolEvents, Error> {
        let deadline = deadline(self.config.subscribe_within());
        self.subscribe_to(filter, false, deadline).await
    }

    /// The events of the host's devices (`REMOTE_PROC_CONNECT_NODE_DEVICE_EVENT_REGISTER_ANY`).
    ///
    /// # Errors
    ///
    /// As above.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes back what it has registered.
    pub async fn node_device_events(
        &self,
        filter: NodeDeviceEventFilter,
    ) -> Result<NodeDeviceEvents, Error> {
        let deadline = deadline(self.config.subscribe_within());
        self.subscribe_to(filter, false, deadline).await
    }

    /// The events of secrets (`REMOTE_PROC_CONNECT_SECRET_EVENT_REGISTER_ANY`).
    ///
    /// # Errors
    ///
    /// As above.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes back what it has registered.
    pub async fn secret_events(&self, filter: SecretEventFilter) -> Result<SecretEvents, Error> {
        let deadline = deadline(self.config.subscribe_within());
        self.subscribe_to(filter, false, deadline).await
    }

    /// Registers for what `filter` asks for; where `plain` says so, with a daemon that knows no callback ids.
    async fn subscribe_to<F: EventFamily>(
        &self,
        filter: ObjectEventFilter<F>,
        plain: bool,
        deadline: Deadline,
    ) -> Result<ObjectEvents<F>, Error> {
        let object = filter.object.as_ref();
        let mut options = QueueOptions::new(filter.queue.unwrap_or(self.config.event_queue));
        options.overflow = filter.overflow;
        if let Some(object) = object.filter(|_| plain) {
            // Such a daemon sends the events of all domains. What has no UUID stays, to be an error in the stream.
            let uuid = (F::PARTS.identity)(object);
            options.accept = Some(Arc::new(move |event: &Arrived| {
                plain_uuid(&event.payload).is_none_or(|of| of == uuid)
            }));
        }
        let queue = EventQueue::new(options);
        let mut subscriptions = Vec::new();
        for (event_id, may_be_missing) in wanted_ids(&filter, plain) {
            let registration = Wanted::<F>::new(event_id, object, plain)?.registration()?;
            match self.client.subscribe(registration, &queue, deadline).await {
                Ok(subscription) => subscriptions.push(subscription),
                Err(error) if may_be_missing && is_unknown(&error) => {
                    debug!(target: "libvirt_qmp::event", event_id, %error, "the daemon does not know this kind of event");
                }
                Err(error) => return Err(error),
            }
        }
        match subscriptions.is_empty() {
            true => Err(Error::Unsupported(
                "a stream of no kind of event".to_owned(),
            )),
            false => Ok(ObjectEvents {
                subscriptions,
                family: PhantomData,
            }),
        }
    }
}

/// The kinds of event to register for, each once, and whether a daemon may do without it.
fn wanted_ids<F: EventFamily>(filter: &ObjectEventFilter<F>, plain: bool) -> Vec<(i32, bool)> {
    let Some(ids) = &filter.ids else {
        let kinds = F::PARTS.kinds.iter();
        return kinds
            .filter(|kind| !plain || kind.has_plain())
            .map(|kind| (kind.event_id, kind.may_be_missing()))
            .collect();
    };
    let mut wanted = Vec::new();
    for id in ids.iter().map(|id| ((F::PARTS.number)(*id), false)) {
        if !wanted.contains(&id) {
            wanted.push(id);
        }
    }
    wanted
}

/// Whether the daemon, or its driver, knows no such kind of event.
fn is_unknown(error: &Error) -> bool {
    matches!(
        error.libvirt_code(),
        Some(LibvirtError::INTERNAL_ERROR | LibvirtError::NO_SUPPORT)
    )
}

/// The UUID in a body that begins with its domain.
fn plain_uuid(payload: &[u8]) -> Option<&[u8]> {
    let (_, rest) = string(payload)?;
    rest.get(..16)
}
