//! Programs made of callbacks: for events and for the replies of commands, on threads of their own. Imports monitor, qmp,
//! error, `pool`, `handler` and `waiter`.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::handler::{EventHandler, report};
use super::pool::Pool;
use super::waiter::{next_or_panic, returned, run};
use crate::error::Error;
use crate::monitor::{EventOptions, EventStream, Monitor};
use crate::qmp::{Command, Event, EventFilter};

/// How [`Callbacks`] are called; made by chained setters.
#[derive(Clone)]
pub struct CallbackOptions {
    workers: usize,
    on_panic: Option<PanicHandler>,
}

type PanicHandler = Arc<dyn Fn(&str) + Send + Sync>;

impl CallbackOptions {
    /// 4 threads, and panics only go to the log.
    pub fn new() -> Self {
        CallbackOptions {
            workers: 4,
            on_panic: None,
        }
    }

    /// How many callbacks may run at the same time, each on a thread of its own; at least 1. A thread is started when there
    /// is work for it.
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = threads.max(1);
        self
    }

    /// Calls `handler` with what a callback said when it panicked, on the thread where it did.
    pub fn on_panic(mut self, handler: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_panic = Some(Arc::new(handler));
        self
    }
}

impl Default for CallbackOptions {
    fn default() -> Self {
        CallbackOptions::new()
    }
}

impl fmt::Debug for CallbackOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackOptions")
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// A monitor for programs made of callbacks.
///
/// Callbacks run on threads of their own and may block. Those for one registration of events come one after another, in
/// the order of the events; others run beside them. Each gets the `Callbacks` it belongs to, to give more commands with.
///
/// A callback that panics harms no other: the panic is caught, counted ([`panics`](Callbacks::panics)), and goes to the log
/// and to [`CallbackOptions::on_panic`]. It is called again for the next event; a predicate of a filter that panics ends the
/// calls of its own callback.
///
/// Dropping it ends all: events are unsubscribed, commands that were not sent are not, and callbacks that wait are dropped.
/// One that runs is not interrupted, and its thread ends with it. Neither the drop nor the end of the runtime waits for it.
///
/// ```no_run
/// # async fn example(monitor: libvirt_qmp::SocketMonitor) -> Result<(), libvirt_qmp::Error> {
/// use std::sync::Arc;
/// use libvirt_qmp::{Callbacks, Command};
///
/// let callbacks = Callbacks::new(Arc::new(monitor));
/// let resume = callbacks.on_event("STOP", |callbacks, item| {
///     if item.is_ok() {
///         callbacks.command(Command::new("cont"), |_, reply| println!("{reply:?}"));
///     }
/// });
/// resume.await?.detach();
/// callbacks.command(Command::new("stop"), |_, _| {});
/// callbacks.wait_idle().await;
/// # Ok(()) }
/// ```
pub struct Callbacks {
    shared: Arc<Shared>,
    /// Whether this is the one whose drop ends all, not the one a callback gets.
    owner: bool,
}

struct Shared {
    monitor: Arc<dyn Monitor>,
    runtime: Handle,
    pool: Arc<Pool>,
    on_panic: Option<PanicHandler>,
    panics: AtomicU64,
    activity: watch::Sender<Activity>,
    live: Mutex<Live>,
}

#[derive(Clone, Copy, Default)]
struct Activity {
    /// Commands in flight, and callbacks that run or wait for it.
    busy: usize,
    /// How many there ever were.
    begun: u64,
}

#[derive(Default)]
struct Live {
    tasks: JoinSet<()>,
    /// To ask each task of events whether it has nothing more to do.
    handlers: Vec<mpsc::UnboundedSender<oneshot::Sender<()>>>,
    closed: bool,
}

/// Something that goes on, as long as it lives.
struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.activity.send_modify(|activity| activity.busy -= 1);
    }
}

type EventCallback = Box<dyn FnMut(&Callbacks, Result<Event, Error>) + Send>;

impl Callbacks {
    /// For a monitor, with the usual options.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, which the commands and events need.
    pub fn new(monitor: Arc<dyn Monitor>) -> Self {
        Callbacks::with_options(monitor, CallbackOptions::new())
    }

    /// As [`Callbacks::new`], with options.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, which the commands and events need.
    pub fn with_options(monitor: Arc<dyn Monitor>, options: CallbackOptions) -> Self {
        Callbacks {
            shared: Arc::new(Shared {
                monitor,
                runtime: Handle::current(),
                pool: Pool::new(options.workers),
                on_panic: options.on_panic,
                panics: AtomicU64::new(0),
                activity: watch::Sender::new(Activity::default()),
                live: Mutex::default(),
            }),
            owner: true,
        }
    }

    /// Calls `callback` with each event that `filter` takes and that comes from now on ([`EventOptions::from_now`]), until what
    /// is returned is dropped; see [`EventHandler::detach`].
    ///
    /// It gets the items of an [`EventStream`]: events, and errors where some were lost, as where callbacks are too slow,
    /// or where the connection ended.
    ///
    /// # Errors
    ///
    /// Those of [`Monitor::events`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future unsubscribes.
    pub async fn on_event(
        &self,
        filter: impl Into<EventFilter>,
        callback: impl FnMut(&Callbacks, Result<Event, Error>) + Send + 'static,
    ) -> Result<EventHandler, Error> {
        let options = EventOptions::new(filter).from_now();
        let events = self.shared.monitor.events_with(options).await?;
        let (ask, asked) = mpsc::unbounded_channel();
        let task = handle(self.shared.clone(), events, Box::new(callback), asked);
        let mut live = self.shared.lock();
        if live.closed {
            return Err(Error::Closed);
        }
        live.handlers.retain(|handler| !handler.is_closed());
        live.handlers.push(ask);
        Ok(EventHandler::new(live.spawn(task, &self.shared.runtime)))
    }

    /// Runs a command and calls `callback` with what it returns. Commands are begun in the order of the calls.
    ///
    /// The errors that `callback` gets are those of [`Monitor::run`].
    pub fn command(
        &self,
        command: Command,
        callback: impl FnOnce(&Callbacks, Result<Box<RawValue>, Error>) + Send + 'static,
    ) {
        // Where a callback that runs outlives its owner.
        if self.shared.lock().closed {
            return;
        }
        let shared = self.shared.clone();
        let busy = shared.busy();
        let mut call: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let result = match run(&*shared.monitor, &command).await {
                Ok(reply) => returned(&reply),
                Err(error) => Err(error),
            };
            shared.pool.clone().run(Box::new(move || {
                busy.0.guarded(|callbacks| callback(callbacks, result));
            }));
        });
        // Begun here: a task of its own might be begun after that of the next command.
        let _entered = self.shared.runtime.enter();
        let begun = call.as_mut();
        if begun
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
        {
            let mut live = self.shared.lock();
            if !live.closed {
                live.spawn(call, &self.shared.runtime);
            }
        }
    }

    /// How often callbacks, or predicates of their filters, have panicked.
    pub fn panics(&self) -> u64 {
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// Waits until no command is in flight and no callback runs or waits for its turn, including those for events that have
    /// come before, and those that callbacks begin meanwhile.
    ///
    /// What no callback may do is to wait for it: it would wait for itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does no harm.
    pub async fn wait_idle(&self) {
        let mut activity = self.shared.activity.subscribe();
        loop {
            // The sender lives in `self`, so this cannot fail.
            let _ = activity.wait_for(|activity| activity.busy == 0).await;
            let begun = activity.borrow().begun;
            let handlers = self.shared.lock().handlers.clone();
            for handler in handlers {
                let (answer, answered) = oneshot::channel();
                // One that has ended has nothing to do.
                if handler.send(answer).is_ok() {
                    let _ = answered.await;
                }
            }
            let now = *activity.borrow();
            if now.busy == 0 && now.begun == begun {
                return;
            }
        }
    }
}

/// Takes events and has them handled, one at a time.
async fn handle(
    shared: Arc<Shared>,
    mut events: EventStream,
    mut callback: EventCallback,
    mut asked: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
) {
    loop {
        tokio::select! {
            // A question is answered only when no event is there.
            biased;
            item = next_or_panic(&mut events) => {
                let item = match item {
                    Ok(Some(item)) => item,
                    Ok(None) => return,
                    Err(panic) => {
                        // Whoever hears of it may block.
                        let busy = shared.busy();
                        return shared.pool.run(Box::new(move || busy.0.count(&*panic)));
                    }
                };
                let (done, returned) = oneshot::channel();
                let busy = shared.busy();
                shared.pool.run(Box::new(move || {
                    busy.0.guarded(|callbacks| callback(callbacks, item));
                    // Given back before it counts as done.
                    let _ = done.send(callback);
                    drop(busy);
                }));
                match returned.await {
                    Ok(given_back) => callback = given_back,
                    Err(_) => return,
                }
            }
            Some(answer) = asked.recv() => {
                let _ = answer.send(());
            }
        }
    }
}

impl Shared {
    fn busy(self: &Arc<Self>) -> Busy {
        self.activity.send_modify(|activity| {
            activity.busy += 1;
            activity.begun += 1;
        });
        Busy(self.clone())
    }

    /// Calls a callback; its panic ends here.
    fn guarded(self: &Arc<Self>, callback: impl FnOnce(&Callbacks)) {
        let callbacks = Callbacks {
            shared: self.clone(),
            owner: false,
        };
        // Its state is its own: what a panic leaves of it, only the callback sees.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(&callbacks))) {
            self.count(&*panic);
        }
    }

    fn count(&self, panic: &(dyn Any + Send)) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        let text = report(panic);
        if let Some(on_panic) = &self.on_panic
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| on_panic(text)))
        {
            report(&*panic);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        // Nothing panics under this lock.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn spawn(
        &mut self,
        task: impl Future<Output = ()> + Send + 'static,
        runtime: &Handle,
    ) -> AbortHandle {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn_on(task, runtime)
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        if !self.owner {
            return;
        }
        let mut live = self.shared.lock();
        live.closed = true;
        live.handlers.clear();
        let tasks = std::mem::take(&mut live.tasks);
        drop(live);
        // They are aborted by that.
        drop(tasks);
        self.shared.pool.close();
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks")
            .field("busy", &self.shared.activity.borrow().busy)
            .field("panics", &self.panics())
            .finish_non_exhaustive()
    }
}
