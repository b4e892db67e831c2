//! libvirt's event loop: one thread for the whole process, which runs while there are connections. Imports error and `ffi`.
//!
//! libvirt's registration of an event loop is for good, but nobody has to run it: with the last connection the thread ends, and
//! the next connection starts it again.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::ffi::Api;
use crate::error::Error;

/// How long the thread waits where a turn of the loop failed, so as not to spin.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// The name of the thread.
const NAME: &str = "libvirt-events";

static LOOP: Mutex<Loop> = Mutex::new(Loop {
    owner: Owner::Nobody,
    users: 0,
    thread: 0,
    running: false,
});

struct Loop {
    owner: Owner,
    /// Connections that are open, being opened or being closed.
    users: usize,
    /// The number of the thread that runs the loop, or last did.
    thread: u64,
    running: bool,
}

/// Who runs libvirt's event loop in this process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// It has not been decided.
    Nobody,
    /// This module.
    Us,
    /// The program, which registered a loop with libvirt by itself.
    Program,
}

fn lock() -> MutexGuard<'static, Loop> {
    // Nothing panics under this lock.
    LOOP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves the event loop to the program.
///
/// # Errors
/// [`Error::Unsupported`] where this module has begun to run one.
pub(super) fn use_existing() -> Result<(), Error> {
    let mut state = lock();
    if state.owner == Owner::Us {
        let what =
            "libvirt's event loop was registered by this crate before, and cannot be replaced";
        return Err(Error::Unsupported(what.to_owned()));
    }
    state.owner = Owner::Program;
    Ok(())
}

/// Keeps the loop running for one connection: from before it is opened until after it was closed.
pub(super) struct LoopUser(());

impl LoopUser {
    /// Registers the loop, which must come before any connection is opened, and starts its thread, where that is needed.
    pub(super) fn enter(api: &'static Api) -> Result<Self, Error> {
        let mut state = lock();
        if state.owner == Owner::Nobody {
            api.register_default_loop()?;
            api.silence();
            state.owner = Owner::Us;
        }
        if state.owner == Owner::Us && !state.running {
            let number = state.thread.wrapping_add(1);
            thread::Builder::new()
                .name(NAME.to_owned())
                .spawn(move || run(api, number))
                .map_err(|error| cannot_start(NAME, error))?;
            (state.thread, state.running) = (number, true);
        }
        state.users += 1;
        Ok(LoopUser(()))
    }
}

impl Drop for LoopUser {
    fn drop(&mut self) {
        let idle = {
            let mut state = lock();
            state.users -= 1;
            state.users == 0 && state.running
        };
        if let (true, Ok(api)) = (idle, Api::get()) {
            // Where it cannot be told to end, the thread sleeps until there is something to do.
            let _ = api.after_pending(end_if_idle);
        }
    }
}

/// Ends the thread after its present turn, unless there are connections again. Runs on the thread.
fn end_if_idle() {
    let mut state = lock();
    if state.users == 0 {
        state.running = false;
    }
}

/// The thread.
fn run(api: &Api, number: u64) {
    let mine = || {
        let state = lock();
        state.running && state.thread == number
    };
    while mine() {
        if api.run_default_loop().is_err() {
            thread::sleep(AFTER_FAILURE);
        }
    }
}

/// The error of a thread that the system did not give.
pub(super) fn cannot_start(thread: &str, error: io::Error) -> Error {
    Error::Connect {
        target: format!("libvirt: thread {thread}"),
        source: Arc::new(error),
    }
}
