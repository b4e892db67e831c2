//! Event registrations: who wants which events, and how they find their way.
//!
//! Those who want the same events of a target share one registration and the client fans out. libvirtd allows one without a
//! filter per target and connection, and refuses that one where there is any other: then it is asked for everything by a
//! filter. As it may run two calls in any order, one with a filter waits for the reply to one without. Callback ids are the
//! daemon's own, may be 0 and collide between kinds of event: the route of an event is its program, its procedure and its
//! id. A registration becomes a route in the reader, on its reply, since its events may be the very next packets; events
//! that come before that reply are held until it is there. Several registrations may fill one queue: its events are in the
//! order in which they came, whichever waited for its reply.
//!
//! A daemon that knows no callback ids sends each kind of event as a message of its own, which begins with the body: the
//! procedure alone is its route, from the moment the registration is sent.
//!
//! Where a lost connection is made again, a registration outlives it: it waits for the next one, on which it is made anew, with
//! another id. What its streams may have missed is said to them before any event that comes then.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::watch;
use tracing::{debug, trace};

use super::{Client, Shared, encode, finish};
use crate::connection::{CallOptions, Deadline, Encoded, Limits, sleep_until, timed_out};
use crate::error::{self, EndCause, Error};
use crate::inflight::{NumberHasher, Progress, Slot, Waiter};
use crate::packet::{Header, MessageStatus};
use crate::protocol::Procedure;
use crate::queue::{EventQueue, Item, Queued, Slice, Taken};
use crate::xdr::{self, DecodeError};

/// Events held at most while registrations wait for their reply, and bytes of them.
const MAX_HELD: usize = 4096;
const MAX_HELD_BYTES: usize = 64 << 20;

/// What tells an event's registration: program, procedure and callback id.
type Route = (u32, i32, i32);

/// What to register for, and how.
pub(crate) struct Registration {
    key: Key,
    register: NamedCall,
    /// In place of `register`, where the target has other registrations.
    beside: Option<NamedCall>,
    callback_id: fn(Bytes) -> Result<i32, DecodeError>,
    deregister: fn(i32) -> Result<NamedCall, Error>,
}

/// The messages in which the events of a registration come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Messages {
    /// Those of this procedure. Each begins with the callback id.
    Numbered(i32),
    /// Those of every procedure above this one, the newest that is known. Each begins with the callback id.
    Unknown { newest: i32 },
    /// Those of this procedure, without a callback id. The registration is known by the event's own id.
    Plain { procedure: i32, event_id: i32 },
}

impl Messages {
    fn has(self, procedure: i32) -> bool {
        match self {
            Messages::Numbered(ours)
            | Messages::Plain {
                procedure: ours, ..
            } => procedure == ours,
            Messages::Unknown { newest } => procedure > newest,
        }
    }
}

/// An event as it came.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    /// The procedure of its packet.
    pub(crate) procedure: i32,
    pub(crate) payload: Bytes,
    /// Counts the events of the connection.
    place: u64,
}

impl Queued for Arrived {
    fn size(&self) -> usize {
        self.payload.len()
    }

    fn comes_before(&self, other: &Self) -> bool {
        self.place < other.place
    }
}

impl Slice for Arrived {
    fn detached(&self) -> Self {
        Arrived {
            payload: self.payload.detached(),
            ..*self
        }
    }
}

/// Two registrations with the same key are one for the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    program: u32,
    messages: Messages,
    target: Box<[u8]>,
    /// Which events of the target; empty where it is all.
    filter: Box<[u8]>,
}

impl Key {
    /// The registration for all events of the same target.
    fn for_all(&self) -> Key {
        Key {
            filter: Box::default(),
            ..self.clone()
        }
    }

    fn same_target(&self, other: &Key) -> bool {
        (self.program, self.messages) == (other.program, other.messages)
            && self.target == other.target
    }

    /// The route of its events under `callback_id`, where they have one of their own.
    fn route(&self, callback_id: i32) -> Option<Route> {
        match self.messages {
            Messages::Numbered(procedure) => Some((self.program, procedure, callback_id)),
            Messages::Unknown { .. } | Messages::Plain { .. } => None,
        }
    }

    /// Whether the events of `route` are of this registration, which has `callback_id`.
    fn takes(&self, (program, procedure, id): Route, callback_id: i32) -> bool {
        program == self.program && id == callback_id && self.messages.has(procedure)
    }
}

/// A call by name.
struct NamedCall {
    name: &'static str,
    call: Encoded,
}

/// How events are registered: the procedures, and where the callback id stands in them.
pub(crate) trait EventKind {
    type Register: Procedure;
    type Deregister: Procedure;
    fn callback_id(reply: <Self::Register as Procedure>::Reply) -> i32;
    fn deregister(callback_id: i32) -> <Self::Deregister as Procedure>::Args;
}

impl Registration {
    /// A registration by `args` for those events of `target` that `filter` stands for, all where it is empty. They come as
    /// `messages`.
    pub(crate) fn new<K: EventKind>(
        messages: Messages,
        target: &[u8],
        filter: &[u8],
        args: &<K::Register as Procedure>::Args,
    ) -> Result<Self, Error> {
        Ok(Registration {
            key: Key {
                program: K::Register::PROGRAM,
                messages,
                target: target.into(),
                filter: filter.into(),
            },
            register: NamedCall::new::<K::Register>(args)?,
            beside: None,
            callback_id: |payload| Ok(K::callback_id(xdr::decode(payload)?)),
            deregister: |id| NamedCall::new::<K::Deregister>(&K::deregister(id)),
        })
    }

    /// The same, by `args` where the target has other registrations.
    pub(crate) fn beside_others<K: EventKind>(
        mut self,
        args: &<K::Register as Procedure>::Args,
    ) -> Result<Self, Error> {
        self.beside = Some(NamedCall::new::<K::Register>(args)?);
        Ok(self)
    }
}

impl NamedCall {
    fn new<P: Procedure>(args: &P::Args) -> Result<Self, Error> {
        Ok(NamedCall {
            name: P::NAME,
            call: encode::<P>(args)?,
        })
    }

    /// The same call, to be sent once more on another connection.
    fn copy(&self) -> Self {
        let Encoded {
            bytes, procedure, ..
        } = &self.call;
        NamedCall {
            name: self.name,
            call: Encoded {
                bytes: bytes.clone(),
                procedure: *procedure,
                files: None,
                ahead: false,
                announce: None,
            },
        }
    }

    /// Sends the call, to be answered to the connection task. It has no deadline: whoever waits for the outcome has one.
    fn submit(
        mut self,
        shared: &Shared,
        key: &Key,
        step: Step,
        slot: Slot,
    ) -> Result<(), Arc<EndCause>> {
        let hook = Box::new(Hook {
            key: key.clone(),
            name: self.name,
            step,
        });
        shared
            .connection
            .calls
            .submit(self.call.submit(Waiter::Hook(hook), None, slot))
    }
}

/// A reply that the connection task itself must see.
#[derive(Debug)]
pub(super) struct Hook {
    key: Key,
    name: &'static str,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Register,
    Deregister,
}

/// All registrations of one connection, or of all that follow each other.
#[derive(Default)]
pub(super) struct Subscriptions {
    registry: Mutex<Registry>,
    /// Whether a connection that is lost may be made again.
    lasting: bool,
}

#[derive(Default)]
struct Registry {
    targets: HashMap<Key, Target>,
    /// By program, procedure and callback id. Only ids of our own registrations are in it.
    routes: HashMap<Route, Arc<Fanout>, BuildHasherDefault<NumberHasher>>,
    held: Held,
    /// The connection that they are on.
    on: Weak<Shared>,
    /// Whether new ones can go there now.
    open: bool,
    registering: usize,
    /// Events that have come so far.
    arrived: u64,
    next_subscriber: u64,
    end: Option<Arc<EndCause>>,
}

/// Events of unknown ids, while a registration waits for its reply.
#[derive(Default)]
struct Held {
    events: VecDeque<(Route, Arrived)>,
    bytes: usize,
    lost: u64,
}

impl Held {
    /// Holds a copy of an event, which keeps no read buffer; the oldest go if there is no room.
    fn push(&mut self, route: Route, event: &Arrived) {
        let is_full = |held: &Held| {
            held.events.len() >= MAX_HELD || held.bytes + event.size() > MAX_HELD_BYTES
        };
        while is_full(self) {
            let Some((_, oldest)) = self.events.pop_front() else {
                break;
            };
            self.bytes -= oldest.size();
            self.lost += 1;
        }
        self.bytes += event.size();
        self.events.push_back((route, event.detached()));
    }

    /// Takes out the events of one registration, in order.
    fn take(&mut self, key: &Key, callback_id: i32) -> Vec<Arrived> {
        let (ours, others) = std::mem::take(&mut self.events)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(of, _)| key.takes(*of, callback_id));
        self.events = others;
        self.bytes = self.events.iter().map(|(_, event)| event.size()).sum();
        ours.into_iter().map(|(_, event)| event).collect()
    }
}

struct Target {
    fanout: Arc<Fanout>,
    phase: watch::Sender<Phase>,
    registration: Arc<Registration>,
    /// Whether the registration has been sent on the connection that there is.
    submitted: bool,
    /// Set while it is not registered, but was.
    lost: Option<Lost>,
}

/// How a registration was lost.
struct Lost {
    cause: Arc<EndCause>,
    /// Who had it: the subscribers below this number. Later ones have missed nothing.
    subscribers: u64,
    /// Whether they have been told.
    told: bool,
}

#[derive(Clone)]
enum Phase {
    Registering,
    Active { callback_id: i32 },
    Deregistering,
    Failed(Error),
    Gone,
}

impl Target {
    /// Whether an event of `procedure` and with `id`, if it begins with one, is of this target, and has no route of its own.
    fn takes_without_route(
        &self,
        key: &Key,
        program: u32,
        procedure: i32,
        id: Option<i32>,
    ) -> bool {
        if program != key.program || !key.messages.has(procedure) {
            return false;
        }
        match (key.messages, &*self.phase.borrow()) {
            (Messages::Plain { .. }, Phase::Registering | Phase::Active { .. }) => true,
            (Messages::Unknown { .. }, Phase::Active { callback_id }) => id == Some(*callback_id),
            _ => false,
        }
    }
}

/// The queues that each event of a target goes to.
#[derive(Default)]
struct Fanout {
    queues: Mutex<Vec<(u64, Arc<ArrivedQueue>)>>,
}

/// What a stream of events is filled from.
pub(crate) type ArrivedQueue = EventQueue<Arrived>;

impl Fanout {
    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Arc<ArrivedQueue>)>> {
        // Nothing panics under this lock.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives every queue those that were held, which may have come before what is in it.
    fn push_late(&self, events: &[Arrived]) {
        for (_, queue) in self.lock().iter() {
            queue.push_late(events.iter().cloned());
        }
    }

    fn push(&self, event: Arrived) {
        let queues = self.lock();
        if let Some(((_, last), others)) = queues.split_last() {
            for (_, queue) in others {
                queue.push_slice(event.clone());
            }
            last.push_slice(event);
        }
    }
}

/// One subscriber's end. Dropping the last one of a target deregisters it.
pub(crate) struct Subscription {
    client: Client,
    key: Key,
    subscriber: u64,
    queue: Arc<ArrivedQueue>,
    taken: Taken<Arrived>,
}

impl Subscription {
    /// The next event. Of several subscriptions that fill one queue, one alone may be asked.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Item<Arrived>> {
        self.queue.poll_next(&mut self.taken, cx)
    }

    /// The queue behind it, by which it can be ended for its reader.
    pub(crate) fn queue(&self) -> &Arc<ArrivedQueue> {
        &self.queue
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.client
            .subscriptions()
            .unsubscribe(&self.key, self.subscriber);
    }
}

/// Adds a subscriber, and registers with the daemon where it is the first. Its events go into `queue`, which may be that of
/// other subscriptions too.
pub(super) async fn subscribe(
    client: &Client,
    registration: Registration,
    queue: &Arc<ArrivedQueue>,
) -> Result<Subscription, Error> {
    let subscriptions = client.subscriptions();
    let registration = Arc::new(registration);
    let key = &registration.key;
    loop {
        let (mut phase, subscription) = {
            let mut registry = subscriptions.lock();
            if let Some(cause) = &registry.end {
                return Err(Error::disconnected(cause.clone(), false));
            }
            if let Some(phase) = registry.must_wait_for(key) {
                (phase, None)
            } else {
                if !registry.targets.contains_key(key) {
                    subscriptions.insert(&mut registry, &registration)?;
                }
                registry.join(client, key, queue)
            }
        };
        // From here on the subscription's drop cleans up, whatever becomes of this future.
        let outcome = match phase
            .wait_for(|phase| !matches!(phase, Phase::Registering | Phase::Deregistering))
            .await
        {
            Ok(phase) => phase.clone(),
            Err(_) => Phase::Gone,
        };
        match (outcome, subscription) {
            (Phase::Active { .. }, Some(subscription)) => return Ok(subscription),
            (Phase::Failed(error), Some(_)) => return Err(error),
            // What was in the way has gone: now it can be registered.
            _ => continue,
        }
    }
}

impl Registry {
    /// The registration that has to be answered before one of `key` may be sent.
    fn must_wait_for(&self, key: &Key) -> Option<watch::Receiver<Phase>> {
        if key.filter.is_empty() || self.targets.contains_key(key) {
            return None;
        }
        let target = self.targets.get(&key.for_all())?;
        let registering = matches!(*target.phase.borrow(), Phase::Registering);
        registering.then(|| target.phase.subscribe())
    }

    /// Whether the daemon knows, or may still know, other registrations for the target of `key`.
    fn has_others(&self, key: &Key) -> bool {
        self.targets
            .keys()
            .any(|other| other != key && other.same_target(key))
    }

    /// Sends the registration of a target.
    fn submit(&mut self, shared: &Shared, key: &Key, slot: Slot) -> Result<(), Arc<EndCause>> {
        let has_others = self.has_others(key);
        let Some(target) = self.targets.get_mut(key) else {
            return Ok(());
        };
        let Registration {
            register, beside, ..
        } = &*target.registration;
        let call = beside.as_ref().filter(|_| has_others).unwrap_or(register);
        call.copy().submit(shared, key, Step::Register, slot)?;
        target.submitted = true;
        self.registering += 1;
        Ok(())
    }

    /// The targets that the connection's daemon does not know of. Those that nobody wants any more are forgotten.
    fn unsubmitted(&mut self) -> Vec<Key> {
        self.targets.retain(|_, target| {
            let is_wanted = target.submitted || !target.fanout.is_empty();
            if !is_wanted {
                target.phase.send_replace(Phase::Gone);
            }
            is_wanted
        });
        let targets = self.targets.iter();
        targets
            .filter(|(_, target)| !target.submitted)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Joins an existing target, or gives only its phase where it is on its way out.
    fn join(
        &mut self,
        client: &Client,
        key: &Key,
        queue: &Arc<ArrivedQueue>,
    ) -> (watch::Receiver<Phase>, Option<Subscription>) {
        let Some(target) = self.targets.get(key) else {
            return (watch::Sender::new(Phase::Gone).subscribe(), None);
        };
        let phase = target.phase.subscribe();
        if matches!(*phase.borrow(), Phase::Deregistering) {
            return (phase, None);
        }
        let subscriber = self.next_subscriber;
        self.next_subscriber += 1;
        target.fanout.lock().push((subscriber, queue.clone()));
        let subscription = Subscription {
            client: client.clone(),
            key: key.clone(),
            subscriber,
            queue: queue.clone(),
            taken: Taken::default(),
        };
        (phase, Some(subscription))
    }
}

/// Registers on a new connection what was registered on the one before it. The daemon has answered to all that was live when
/// this returns.
pub(super) async fn register_again(shared: &Arc<Shared>, deadline: Deadline) -> Result<(), Error> {
    let options = CallOptions {
        phase: error::Phase::Subscription,
        deadline,
        limits: Limits::Connection,
    };
    let subscriptions = &shared.subscriptions;
    subscriptions.attach(shared, false);
    // Before the first event can come.
    subscriptions.lock().tell_gaps();
    let mut answers = Vec::new();
    while let Some(keys) = subscriptions.still_to_register() {
        for key in keys {
            // As many as the daemon reads at once, as all calls.
            let slot = shared.connection.slot(&options, &mut None).await?;
            let mut registry = subscriptions.lock();
            registry
                .submit(shared, &key, slot)
                .map_err(|cause| Error::disconnected(cause, false))?;
            answers.extend(registry.targets.get(&key).map(|it| it.phase.subscribe()));
        }
    }
    let answered = async {
        for mut phase in answers {
            // One that has gone was answered too.
            let _ = phase
                .wait_for(|phase| !matches!(phase, Phase::Registering))
                .await;
        }
    };
    tokio::select! {
        biased;
        cause = shared.connection.closed() => Err(Error::disconnected(cause, false)),
        () = answered => Ok(()),
        () = sleep_until(deadline) => Err(timed_out(&options, Progress::Sent)),
    }
}

impl Subscriptions {
    /// Those of connections that follow each other.
    pub(super) fn lasting() -> Self {
        Subscriptions {
            lasting: true,
            ..Subscriptions::default()
        }
    }

    /// Goes over to the connection of `shared`; where it is `open`, new registrations go there at once.
    pub(super) fn attach(&self, shared: &Arc<Shared>, open: bool) {
        let mut registry = self.lock();
        registry.on = Arc::downgrade(shared);
        registry.open = open;
    }

    /// What the connection's daemon does not know of; where that is nothing, new registrations go there at once from here on.
    fn still_to_register(&self) -> Option<Vec<Key>> {
        let mut registry = self.lock();
        let keys = registry.unsubmitted();
        registry.open = keys.is_empty();
        (!registry.open).then_some(keys)
    }

    /// Puts a target in, and sends its registration if there is a connection for that.
    fn insert(
        &self,
        registry: &mut Registry,
        registration: &Arc<Registration>,
    ) -> Result<(), Error> {
        let key = &registration.key;
        let target = Target {
            fanout: Arc::default(),
            phase: watch::Sender::new(Phase::Registering),
            registration: registration.clone(),
            submitted: false,
            lost: None,
        };
        registry.targets.insert(key.clone(), target);
        let on = registry.on.upgrade().filter(|_| registry.open);
        let submitted = on.map(|shared| registry.submit(&shared, key, Slot::default()));
        match submitted {
            // It has been lost in this moment, and the registration waits for the next one.
            Some(Err(cause)) if !self.lasting => {
                registry.targets.remove(key);
                Err(Error::disconnected(cause, false))
            }
            _ => Ok(()),
        }
    }

    /// Brings an event to its subscribers.
    pub(super) fn event(&self, header: Header, payload: Bytes) {
        let mut registry = self.lock();
        registry.arrived += 1;
        let event = Arrived {
            procedure: header.procedure,
            payload,
            place: registry.arrived,
        };
        let id = callback_id(&event.payload);
        let route = id.map(|id| (header.program, header.procedure, id));
        if let Some(fanout) = route.and_then(|route| registry.routes.get(&route)) {
            let fanout = fanout.clone();
            drop(registry);
            fanout.push(event);
            return;
        }
        let others = registry.without_route(header, id);
        if !others.is_empty() {
            drop(registry);
            others.iter().for_each(|fanout| fanout.push(event.clone()));
        } else if let Some(route) = route.filter(|_| registry.registering > 0) {
            registry.held.push(route, &event);
        } else {
            trace!(target: "libvirt_qmp::event", header = %header.numbered(), callback_id = id, "ignored: nobody asked for it");
        }
    }

    /// Takes the reply to a registration or deregistration.
    pub(super) fn replied(
        &self,
        shared: &Shared,
        hook: Hook,
        status: MessageStatus,
        payload: Bytes,
    ) {
        match hook.step {
            Step::Register => self.registered(shared, hook, status, payload),
            Step::Deregister => {
                if let Err(error) = finish(hook.name, status, payload) {
                    debug!(target: "libvirt_qmp::event", %error, "deregistering failed");
                }
                if let Some(target) = self.lock().targets.remove(&hook.key) {
                    target.phase.send_replace(Phase::Gone);
                }
            }
        }
    }

    fn registered(&self, shared: &Shared, hook: Hook, status: MessageStatus, payload: Bytes) {
        let mut registry = self.lock();
        let registry = &mut *registry;
        // It is none where all has ended.
        registry.registering = registry.registering.saturating_sub(1);
        let Some(target) = registry.targets.get_mut(&hook.key) else {
            return;
        };
        let callback_id = target.registration.callback_id;
        let id = finish(hook.name, status, payload).and_then(|payload| match hook.key.messages {
            Messages::Plain { event_id, .. } => Ok(event_id),
            Messages::Numbered(_) | Messages::Unknown { .. } => {
                callback_id(payload).map_err(|error| Error::xdr(hook.name, error))
            }
        });
        match id {
            Ok(callback_id) => {
                if let Some(route) = hook.key.route(callback_id) {
                    registry.routes.insert(route, target.fanout.clone());
                }
                target.phase.send_replace(Phase::Active { callback_id });
                let had_it = target.lost.take().map_or(0, |lost| lost.subscribers);
                for (subscriber, queue) in target.fanout.lock().iter() {
                    // Where nobody knows how many are missing, these are among them.
                    if *subscriber >= had_it {
                        queue.lose(registry.held.lost);
                    }
                }
                let held = registry.held.take(&hook.key, callback_id);
                target.fanout.push_late(&held);
                if target.fanout.is_empty() {
                    registry.deregister(shared, &hook.key, callback_id);
                }
            }
            Err(error) => {
                if let Some(target) = registry.targets.remove(&hook.key) {
                    // Those who register for the first time are told by what they wait for.
                    let had_it = target.lost.as_ref().map_or(0, |lost| lost.subscribers);
                    for (subscriber, queue) in target.fanout.lock().iter() {
                        if *subscriber < had_it {
                            queue.fail(error.clone());
                        }
                    }
                    target.phase.send_replace(Phase::Failed(error));
                }
            }
        }
        if registry.registering == 0 {
            registry.held = Held::default();
        }
    }

    fn unsubscribe(&self, key: &Key, subscriber: u64) {
        let mut registry = self.lock();
        let Some(target) = registry.targets.get(key) else {
            return;
        };
        let mut queues = target.fanout.lock();
        let before = queues.len();
        queues.retain(|(id, _)| *id != subscriber);
        let was_last = queues.is_empty() && before > 0;
        drop(queues);
        if was_last && !target.submitted {
            target.phase.send_replace(Phase::Gone);
            registry.targets.remove(key);
            return;
        }
        // While the registration waits for its reply, the reply sees that nobody is left.
        let callback_id = match *target.phase.borrow() {
            Phase::Active { callback_id } if was_last => callback_id,
            _ => return,
        };
        match registry.on.upgrade() {
            Some(shared) => registry.deregister(&shared, key, callback_id),
            // Its end will be told in a moment.
            None => drop(registry.targets.remove(key)),
        }
    }

    /// The connection of `shared` has ended with `cause`.
    pub(super) fn disconnected(&self, shared: &Shared, cause: &Arc<EndCause>) {
        if !self.lasting {
            return self.end(cause);
        }
        let mut registry = self.lock();
        // One that never came so far has nothing to lose.
        if std::ptr::eq(registry.on.as_ptr(), shared) && registry.end.is_none() {
            registry.lose(cause);
        }
    }

    /// Ends every subscription with `cause`, and every one to come.
    pub(super) fn end(&self, cause: &Arc<EndCause>) {
        let mut registry = self.lock();
        registry.end = Some(cause.clone());
        registry.routes.clear();
        registry.held = Held::default();
        for (_, target) in registry.targets.drain() {
            for (_, queue) in target.fanout.lock().iter() {
                queue.end(cause.clone());
            }
            target
                .phase
                .send_replace(Phase::Failed(Error::disconnected(cause.clone(), true)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // Nothing panics under this lock.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Says in every stream that it has lost its registration: once, however many it had.
    fn tell_gaps(&mut self) {
        let mut told = HashSet::new();
        for target in self.targets.values_mut() {
            let Some(lost) = target.lost.as_mut().filter(|lost| !lost.told) else {
                continue;
            };
            lost.told = true;
            for (subscriber, queue) in target.fanout.lock().iter() {
                if *subscriber < lost.subscribers && told.insert(Arc::as_ptr(queue)) {
                    queue.gap(&lost.cause);
                }
            }
        }
    }

    /// Where an event goes for which there is no route.
    fn without_route(&mut self, header: Header, id: Option<i32>) -> Vec<Arc<Fanout>> {
        let (program, procedure) = (header.program, header.procedure);
        let ours = self
            .targets
            .iter_mut()
            .filter(|(key, target)| target.takes_without_route(key, program, procedure, id));
        ours.map(|(_, target)| {
            // Where it comes before the reply, another loss before that is another gap.
            if let Some(lost) = &mut target.lost {
                lost.told = false;
            }
            target.fanout.clone()
        })
        .collect()
    }

    /// The connection has been lost: what was registered there waits for the next one.
    fn lose(&mut self, cause: &Arc<EndCause>) {
        self.on = Weak::new();
        self.open = false;
        self.registering = 0;
        self.routes.clear();
        self.held = Held::default();
        let subscribers = self.next_subscriber;
        for target in self.targets.values_mut() {
            target.submitted = false;
            let was_active = matches!(*target.phase.borrow(), Phase::Active { .. });
            if was_active {
                target.phase.send_replace(Phase::Registering);
                target.lost = Some(Lost {
                    cause: cause.clone(),
                    subscribers,
                    told: false,
                });
            } else if let Some(lost) = target.lost.as_mut().filter(|lost| !lost.told) {
                lost.cause = cause.clone();
            }
        }
        // The daemon has forgotten what was on its way out, and nobody is left of what nobody wants.
        self.targets.retain(|_, target| {
            let is_wanted =
                matches!(*target.phase.borrow(), Phase::Registering) && !target.fanout.is_empty();
            if !is_wanted {
                target.phase.send_replace(Phase::Gone);
            }
            is_wanted
        });
    }

    /// Sends the deregistration of a target that nobody wants any more. A new registration for it waits for the reply:
    /// the daemon would refuse it before.
    fn deregister(&mut self, shared: &Shared, key: &Key, callback_id: i32) {
        if let Some(route) = key.route(callback_id) {
            self.routes.remove(&route);
        }
        let Some(target) = self.targets.get(key) else {
            return;
        };
        target.phase.send_replace(Phase::Deregistering);
        let submitted = (target.registration.deregister)(callback_id)
            .map(|call| call.submit(shared, key, Step::Deregister, Slot::default()));
        if !matches!(submitted, Ok(Ok(()))) {
            // The connection has ended: the daemon has forgotten everything anyway.
            self.targets.remove(key);
        }
    }
}

/// What an event begins with, if it is long enough.
fn callback_id(payload: &[u8]) -> Option<i32> {
    payload.first_chunk().map(|word| i32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(payload: impl Into<Bytes>) -> Arrived {
        Arrived {
            procedure: 2,
            payload: payload.into(),
            place: 0,
        }
    }

    fn key(messages: Messages) -> Key {
        Key {
            program: 1,
            messages,
            target: Box::default(),
            filter: Box::default(),
        }
    }

    #[test]
    fn held_events_are_bounded_in_number_and_in_bytes() {
        let mut held = Held::default();
        for number in 0..MAX_HELD + 3 {
            held.push((1, 2, 3), &arrived(number.to_be_bytes().to_vec()));
        }
        assert_eq!((held.events.len(), held.lost), (MAX_HELD, 3));
        let large = arrived(vec![0; MAX_HELD_BYTES / 2]);
        (0..3).for_each(|_| held.push((1, 2, 4), &large));
        assert_eq!(held.events.len(), 2);
        assert!(held.bytes <= MAX_HELD_BYTES);
    }

    #[test]
    fn held_events_go_to_their_own_registration_in_order() {
        let mut held = Held::default();
        let (ours, other, future) = ((1, 2, 3), (1, 2, 4), (1, 9, 3));
        for (route, text) in [(ours, "a"), (other, "x"), (future, "y"), (ours, "b")] {
            held.push(route, &arrived(text));
        }
        let mut take = |messages, id| -> Vec<Bytes> {
            let events = held.take(&key(messages), id);
            events.into_iter().map(|event| event.payload).collect()
        };
        assert_eq!(take(Messages::Numbered(2), 3), ["a", "b"]);
        assert_eq!(take(Messages::Numbered(2), 4), ["x"]);
        assert!(take(Messages::Unknown { newest: 9 }, 3).is_empty());
        assert_eq!(take(Messages::Unknown { newest: 8 }, 3), ["y"]);
        assert_eq!((held.events.len(), held.bytes), (0, 0));
    }
}
