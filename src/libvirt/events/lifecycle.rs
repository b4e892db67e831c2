//! What a lifecycle event says of a domain: the event, and the detail that depends on it. Imports the enums alone.

use super::{
    DomainEventCrashedDetailType, DomainEventDefinedDetailType, DomainEventPmSuspendedDetailType,
    DomainEventResumedDetailType, DomainEventShutdownDetailType, DomainEventStartedDetailType,
    DomainEventStoppedDetailType, DomainEventSuspendedDetailType, DomainEventType,
    DomainEventUndefinedDetailType,
};

/// What happened to a domain (`virDomainEventType`), and how or why. Details that libvirt adds are kept as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DomainLifecycle {
    /// Its configuration is new, or another (`VIR_DOMAIN_EVENT_DEFINED`).
    Defined(DomainEventDefinedDetailType),
    /// Its configuration has gone (`VIR_DOMAIN_EVENT_UNDEFINED`).
    Undefined(DomainEventUndefinedDetailType),
    /// It is active (`VIR_DOMAIN_EVENT_STARTED`).
    Started(DomainEventStartedDetailType),
    /// Its CPUs stand still (`VIR_DOMAIN_EVENT_SUSPENDED`).
    Suspended(DomainEventSuspendedDetailType),
    /// Its CPUs run again (`VIR_DOMAIN_EVENT_RESUMED`).
    Resumed(DomainEventResumedDetailType),
    /// It is not active any more (`VIR_DOMAIN_EVENT_STOPPED`).
    Stopped(DomainEventStoppedDetailType),
    /// The guest has shut down, and QEMU is about to end (`VIR_DOMAIN_EVENT_SHUTDOWN`).
    Shutdown(DomainEventShutdownDetailType),
    /// The guest has suspended itself (`VIR_DOMAIN_EVENT_PMSUSPENDED`).
    PmSuspended(DomainEventPmSuspendedDetailType),
    /// The guest has crashed (`VIR_DOMAIN_EVENT_CRASHED`).
    Crashed(DomainEventCrashedDetailType),
    /// What a newer libvirt knows.
    Other {
        /// The number of the event.
        event: i32,
        /// The number of its detail.
        detail: i32,
    },
}

impl DomainLifecycle {
    pub(super) fn new(event: DomainEventType, detail: i32) -> Self {
        use DomainLifecycle::*;
        match event {
            DomainEventType::DEFINED => Defined(DomainEventDefinedDetailType(detail)),
            DomainEventType::UNDEFINED => Undefined(DomainEventUndefinedDetailType(detail)),
            DomainEventType::STARTED => Started(DomainEventStartedDetailType(detail)),
            DomainEventType::SUSPENDED => Suspended(DomainEventSuspendedDetailType(detail)),
            DomainEventType::RESUMED => Resumed(DomainEventResumedDetailType(detail)),
            DomainEventType::STOPPED => Stopped(DomainEventStoppedDetailType(detail)),
            DomainEventType::SHUTDOWN => Shutdown(DomainEventShutdownDetailType(detail)),
            DomainEventType::PMSUSPENDED => PmSuspended(DomainEventPmSuspendedDetailType(detail)),
            DomainEventType::CRASHED => Crashed(DomainEventCrashedDetailType(detail)),
            _ => Other {
                event: event.0,
                detail,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libvirt_adds_keeps_its_numbers() {
        let stopped = DomainLifecycle::new(DomainEventType::STOPPED, 1);
        assert_eq!(
            stopped,
            DomainLifecycle::Stopped(DomainEventStoppedDetailType::DESTROYED)
        );
        assert_eq!(
            DomainLifecycle::new(DomainEventType::DEFINED, 77),
            DomainLifecycle::Defined(DomainEventDefinedDetailType(77))
        );
        let other = DomainLifecycle::Other {
            event: 9,
            detail: -1,
        };
        assert_eq!(DomainLifecycle::new(DomainEventType(9), -1), other);
        // The nine that there are have a variant.
        for event in 0..9 {
            let known = DomainLifecycle::new(DomainEventType(event), 0);
            assert!(!matches!(known, DomainLifecycle::Other { .. }), "{event}");
        }
    }
}
