//! What the events of domains, networks, storage pools, node devices and secrets have in common: an object, kinds of event
//! by number, a way to register for one kind, and messages by procedure. Imports rpc, error, protocol and xdr.

use bytes::Bytes;

use crate::error::Error;
use crate::protocol::Message;
use crate::protocol::remote::PROGRAM;
use crate::rpc::{Arrived, Messages, Registration};
use crate::xdr;

/// The newest procedure of the remote program that this crate knows. Events of later ones are [`OtherEvent`].
pub(super) const NEWEST_PROCEDURE: i32 = 456;

/// The events of domains.
#[derive(Clone, Copy, Debug)]
pub enum Domains {}

/// The events of virtual networks.
#[derive(Clone, Copy, Debug)]
pub enum Networks {}

/// The events of storage pools.
#[derive(Clone, Copy, Debug)]
pub enum StoragePools {}

/// The events of node devices.
#[derive(Clone, Copy, Debug)]
pub enum NodeDevices {}

/// The events of secrets.
#[derive(Clone, Copy, Debug)]
pub enum Secrets {}

/// An event of a kind that this crate does not know, as it came. It can only come where its kind was asked for by number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherEvent {
    /// The program of its message.
    pub program: u32,
    /// The number of its message among the procedures of that program.
    pub procedure: i32,
    /// What the message carries, as XDR. It begins with the callback id, 4 bytes.
    pub payload: Bytes,
}

/// A kind of objects that libvirt sends events of: [`Domains`], [`Networks`], [`StoragePools`], [`NodeDevices`] or
/// [`Secrets`]. There are no others.
pub trait EventFamily: Sized + 'static {
    /// An object of the family.
    type Object;
    /// A kind of event.
    type Id: Copy;
    /// An event.
    type Event: From<OtherEvent>;

    #[doc(hidden)]
    const PARTS: Parts<Self>;
}

/// How the events of a family are asked for and understood.
pub struct Parts<F: EventFamily> {
    pub(super) kinds: &'static [Kind<F::Event>],
    pub(super) number: fn(F::Id) -> i32,
    /// What tells an object from the others of its family.
    pub(super) identity: fn(&F::Object) -> Vec<u8>,
    pub(super) register: fn(&Wanted<'_, F>) -> Result<Registration, Error>,
}

/// Events of one kind, of one object or of all.
pub(super) struct Wanted<'a, F: EventFamily> {
    pub(super) messages: Messages,
    pub(super) event_id: i32,
    pub(super) object: Option<&'a F::Object>,
    /// What the kind and the object are for the registry.
    pub(super) target: Vec<u8>,
}

impl<'a, F: EventFamily> Wanted<'a, F> {
    /// Events of the kind `event_id`. Where `plain` says so, they come without callback ids, and of all objects.
    pub(super) fn new(
        event_id: i32,
        object: Option<&'a F::Object>,
        plain: bool,
    ) -> Result<Self, Error> {
        let object = object.filter(|_| !plain);
        // Unknown kinds of two families come in the same messages: the family is told by its first kind.
        let family = F::PARTS.kinds.first().map(|kind| kind.message.procedure);
        let mut target = family.unwrap_or_default().to_be_bytes().to_vec();
        target.extend(event_id.to_be_bytes());
        if let Some(object) = object {
            target.push(1);
            target.extend((F::PARTS.identity)(object));
        }
        Ok(Wanted {
            messages: messages::<F>(event_id, plain).ok_or_else(|| not_plain(event_id))?,
            event_id,
            object,
            target,
        })
    }

    pub(super) fn registration(&self) -> Result<Registration, Error> {
        (F::PARTS.register)(self)
    }
}

fn not_plain(event_id: i32) -> Error {
    Error::Unsupported(format!(
        "events of kind {event_id}: this daemon knows no callback ids for events"
    ))
}

/// A kind of event: its number where it is registered, its messages, and what they say.
pub(super) struct Kind<E> {
    pub(super) event_id: i32,
    message: Body<E>,
    /// The message of a daemon without callback ids.
    plain: Option<Body<E>>,
}

struct Body<E> {
    procedure: i32,
    decode: fn(Bytes) -> Result<E, Error>,
}

/// A message's body as the event that it is.
pub(super) trait IntoEvent<E> {
    fn into_event(self) -> E;
}

impl<E> Body<E> {
    const fn of<M: Message>() -> Self
    where
        M::Body: IntoEvent<E>,
    {
        Body {
            procedure: M::NUMBER,
            decode: |payload| {
                let body = xdr::decode::<M::Body>(payload);
                let body = body.map_err(|error| Error::xdr(M::NAME, error))?;
                Ok(body.into_event())
            },
        }
    }
}

impl<E> Kind<E> {
    /// A kind that comes as `M`.
    pub(super) const fn new<M: Message>(event_id: i32) -> Self
    where
        M::Body: IntoEvent<E>,
    {
        Kind {
            event_id,
            message: Body::of::<M>(),
            plain: None,
        }
    }

    /// A kind that comes as `M`, and as `P` from a daemon without callback ids.
    pub(super) const fn or_plain<M: Message, P: Message>(event_id: i32) -> Self
    where
        M::Body: IntoEvent<E>,
        P::Body: IntoEvent<E>,
    {
        Kind {
            event_id,
            message: Body::of::<M>(),
            plain: Some(Body::of::<P>()),
        }
    }

    /// Whether it comes from a daemon without callback ids too.
    pub(super) fn has_plain(&self) -> bool {
        self.plain.is_some()
    }

    /// Whether there are daemons with callback ids that do not know it: those know the kinds of before, and the first of each
    /// family.
    pub(super) fn may_be_missing(&self) -> bool {
        self.event_id > 0 && !self.has_plain()
    }
}

/// The messages in which events of the kind `event_id` come; none where they cannot come `plain`.
fn messages<F: EventFamily>(event_id: i32, plain: bool) -> Option<Messages> {
    let kind = F::PARTS.kinds.iter().find(|kind| kind.event_id == event_id);
    match (kind, plain) {
        (Some(kind), false) => Some(Messages::Numbered(kind.message.procedure)),
        (None, false) => Some(Messages::Unknown {
            newest: NEWEST_PROCEDURE,
        }),
        (kind, true) => kind?.plain.as_ref().map(|body| Messages::Plain {
            procedure: body.procedure,
            event_id,
        }),
    }
}

/// What an event says.
pub(super) fn decode<F: EventFamily>(event: Arrived) -> Result<F::Event, Error> {
    let bodies = F::PARTS
        .kinds
        .iter()
        .flat_map(|kind| std::iter::once(&kind.message).chain(&kind.plain));
    match bodies
        .into_iter()
        .find(|body| body.procedure == event.procedure)
    {
        Some(body) => (body.decode)(event.payload),
        None => Ok(OtherEvent {
            program: PROGRAM,
            procedure: event.procedure,
            payload: event.payload,
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::super::*;
    use super::*;

    /// Every message that a server sends in the remote program, and the newest procedure of it, as the definitions have them.
    fn defined() -> (BTreeMap<i32, String>, i32) {
        let (mut events, mut newest) = (BTreeMap::new(), 0);
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("xdr/remote");
        for file in fs::read_dir(directory).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            let procedures = text.split("program REMOTE_PROGRAM").skip(1);
            for item in procedures.flat_map(|program| program.split(';')) {
                let Some((_, name)) = item.rsplit_once("REMOTE_PROC_") else {
                    continue;
                };
                let (name, rest) = name.split_once('(').unwrap();
                let (_, number) = rest.rsplit_once('=').unwrap();
                let number = number.trim().parse().unwrap();
                newest = newest.max(number);
                if item.contains("@event") {
                    events.insert(number, name.to_owned());
                }
            }
        }
        (events, newest)
    }

    /// The messages of a family: their numbers, their names, and the number of their event.
    fn messages_of<F: EventFamily>() -> Vec<(i32, &'static str, i32)> {
        let bodies = F::PARTS.kinds.iter().flat_map(|kind| {
            let bodies = std::iter::once(&kind.message).chain(&kind.plain);
            bodies.map(|body| (body, kind.event_id))
        });
        bodies
            .map(|(body, event_id)| match (body.decode)(Bytes::new()) {
                Err(Error::Decode { what, .. }) => (body.procedure, what, event_id),
                _ => panic!("{} decodes from nothing", body.procedure),
            })
            .collect()
    }

    #[test]
    fn every_message_that_a_server_sends_is_an_event_here() {
        let (mut defined, newest) = defined();
        assert_eq!(newest, NEWEST_PROCEDURE);
        // 53 of libvirt 11.3 and two of 12.4.
        assert_eq!(defined.len(), 55);
        // The end of the connection is the session's.
        assert_eq!(
            defined.remove(&362).as_deref(),
            Some("CONNECT_EVENT_CONNECTION_CLOSED")
        );
        let families = [
            messages_of::<Domains>(),
            messages_of::<Networks>(),
            messages_of::<StoragePools>(),
            messages_of::<NodeDevices>(),
            messages_of::<Secrets>(),
        ];
        for (procedure, name, _) in families.into_iter().flatten() {
            let expected = defined.remove(&procedure);
            assert_eq!(name.strip_prefix("REMOTE_PROC_"), expected.as_deref());
        }
        assert!(defined.is_empty(), "no event: {defined:?}");
    }

    #[test]
    fn each_kind_of_event_comes_in_the_messages_that_are_called_so() {
        fn check<F: EventFamily>(family: &str, name: impl Fn(i32) -> Option<&'static str>) {
            for (_, message, event_id) in messages_of::<F>() {
                let event = name(event_id).unwrap();
                let event = event
                    .strip_prefix(&format!("VIR_{family}_EVENT_ID_"))
                    .unwrap();
                let message = message.replace("CALLBACK_", "");
                assert_eq!(message, format!("REMOTE_PROC_{family}_EVENT_{event}"));
            }
        }
        check::<Domains>("DOMAIN", |id| match DomainEventId(id) {
            DomainEventId::VCPU_REMOVED => Some("VIR_DOMAIN_EVENT_ID_VCPU_REMOVED"),
            DomainEventId::CHANNEL_LIFECYCLE => Some("VIR_DOMAIN_EVENT_ID_CHANNEL_LIFECYCLE"),
            id => id.name(),
        });
        check::<Networks>("NETWORK", |id| NetworkEventId(id).name());
        check::<StoragePools>("STORAGE_POOL", |id| StoragePoolEventId(id).name());
        check::<NodeDevices>("NODE_DEVICE", |id| NodeDeviceEventId(id).name());
        check::<Secrets>("SECRET", |id| SecretEventId(id).name());
        // All that are known have a kind, and those of before callback ids come without one too.
        for (place, kind) in Domains::PARTS.kinds.iter().enumerate() {
            assert_eq!(usize::try_from(kind.event_id), Ok(place));
            assert_eq!(kind.has_plain(), place < 16);
        }
        assert_eq!(Domains::PARTS.kinds.len(), 30);
    }
}
