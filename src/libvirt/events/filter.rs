//! What a user asks for: one object or all of a family, which kinds of event, and how many may wait. Imports queue.

use std::fmt;

use super::family::{Domains, EventFamily, Networks, NodeDevices, Secrets, StoragePools};
use crate::queue::Overflow;

/// Which events of domains a stream has.
pub type DomainEventFilter = ObjectEventFilter<Domains>;
/// Which events of networks a stream has.
pub type NetworkEventFilter = ObjectEventFilter<Networks>;
/// Which events of storage pools a stream has.
pub type StoragePoolEventFilter = ObjectEventFilter<StoragePools>;
/// Which events of node devices a stream has.
pub type NodeDeviceEventFilter = ObjectEventFilter<NodeDevices>;
/// Which events of secrets a stream has.
pub type SecretEventFilter = ObjectEventFilter<Secrets>;

/// Which events of a kind of objects a stream has, and how many may wait in it; made by chained setters.
///
/// ```
/// use libvirt_qmp::Overflow;
/// use libvirt_qmp::events::{DomainEventFilter, DomainEventId, NetworkEventFilter};
///
/// let lifecycle = DomainEventFilter::all().only([DomainEventId::LIFECYCLE, DomainEventId::REBOOT]);
/// let networks = NetworkEventFilter::all().queue(100).overflow(Overflow::End);
/// # let _ = (lifecycle, networks);
/// ```
pub struct ObjectEventFilter<F: EventFamily> {
    pub(super) object: Option<F::Object>,
    /// All that the daemon knows where there are none.
    pub(super) ids: Option<Vec<F::Id>>,
    pub(super) queue: Option<usize>,
    pub(super) overflow: Overflow,
}

impl<F: EventFamily> ObjectEventFilter<F> {
    /// Every kind of event that this crate and the daemon know, of every object, also of those to come. As many may wait
    /// as is configured, and the oldest are dropped when there are more.
    ///
    /// Some come twice, in an older and a newer form, such as [`DomainEvent::BlockJob`](super::DomainEvent::BlockJob):
    /// [`only`](Self::only) chooses.
    pub fn all() -> Self {
        ObjectEventFilter {
            object: None,
            ids: None,
            queue: None,
            overflow: Overflow::default(),
        }
    }

    /// The same of one object alone.
    pub fn of(object: &F::Object) -> Self
    where
        F::Object: Clone,
    {
        ObjectEventFilter {
            object: Some(object.clone()),
            ..ObjectEventFilter::all()
        }
    }

    /// These kinds of event alone. One that the daemon does not know makes the subscription fail. One that this crate does
    /// not know comes as it is, in an [`OtherEvent`](super::OtherEvent).
    pub fn only(mut self, ids: impl IntoIterator<Item = F::Id>) -> Self {
        self.ids = Some(ids.into_iter().collect());
        self
    }

    /// How many events may wait, instead of [`Config::event_queue`](crate::Config::event_queue); at least 1.
    pub fn queue(mut self, events: usize) -> Self {
        self.queue = Some(events.max(1));
        self
    }

    /// What happens when more come.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }
}

impl<F: EventFamily> Clone for ObjectEventFilter<F>
where
    F::Object: Clone,
{
    fn clone(&self) -> Self {
        ObjectEventFilter {
            object: self.object.clone(),
            ids: self.ids.clone(),
            queue: self.queue,
            overflow: self.overflow,
        }
    }
}

impl<F: EventFamily> fmt::Debug for ObjectEventFilter<F>
where
    F::Object: fmt::Debug,
    F::Id: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectEventFilter")
            .field("object", &self.object)
            .field("ids", &self.ids)
            .field("queue", &self.queue)
            .field("overflow", &self.overflow)
            .finish()
    }
}
