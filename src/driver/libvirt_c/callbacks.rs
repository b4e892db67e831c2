//! What libvirt may call back, found by a number, which is all that libvirt is given for its `opaque`: neither a late call
//! nor a repeated call of a free function can reach memory that is gone. Imports qmp, for plain data.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::qmp::EventDomain;

/// What a callback leads to. It is called on the thread of libvirt's event loop, so it must neither wait nor take long.
pub(super) enum Callback {
    /// The loop has done what waited for it.
    Pending(Box<dyn Fn() + Send + Sync>),
    /// A connection was lost, with the `virConnectCloseReason`.
    Close(Box<dyn Fn(i32) + Send + Sync>),
    /// A monitor event came.
    Event(Box<dyn Fn(RawEvent) + Send + Sync>),
}

/// A monitor event as libvirt says it.
pub(super) struct RawEvent {
    pub(super) domain: EventDomain,
    pub(super) name: String,
    pub(super) seconds: i64,
    pub(super) micros: u32,
    pub(super) details: Option<Bytes>,
}

type Callbacks = HashMap<usize, Arc<Callback>>;

fn callbacks() -> MutexGuard<'static, Callbacks> {
    static CALLBACKS: LazyLock<Mutex<Callbacks>> = LazyLock::new(Mutex::default);
    // Nothing panics under this lock.
    CALLBACKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers a callback, and gives its number, which is not 0.
pub(super) fn add(callback: Callback) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    callbacks().insert(number, Arc::new(callback));
    number
}

/// The callback of this number, if there still is one. The lock is not held while it is called.
pub(super) fn find(number: usize) -> Option<Arc<Callback>> {
    callbacks().get(&number).cloned()
}

/// Forgets a callback; does nothing where that was done before.
pub(super) fn remove(number: usize) -> Option<Arc<Callback>> {
    callbacks().remove(&number)
}

/// How many of connections there are in the process.
pub(super) fn of_connections() -> usize {
    let all = callbacks();
    let pending = |callback: &&Arc<Callback>| matches!(***callback, Callback::Pending(_));
    all.len() - all.values().filter(pending).count()
}

/// Runs what a callback does. A panic must not unwind into C.
pub(super) fn guarded(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}
