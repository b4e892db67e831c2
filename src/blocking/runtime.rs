//! The one runtime behind all blocking calls, and how a thread waits for a future on it. Imports error.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::{Builder, Handle};
use tokio::task::coop::consume_budget;

use crate::error::Error;

/// More than the steps a tokio task may take before it has to yield (128).
const MORE_THAN_A_BUDGET: usize = 1024;

/// The started runtime, and the process that it is in.
struct Background {
    handle: Handle,
    process: u32,
}

/// Waits for a future of this crate, or any other, on the thread that calls. Its timers and sockets are those of this module's
/// runtime.
///
/// The future's output is a `Result` whose error can hold an [`Error`]: this crate's own type, or `Box<dyn Error>`.
///
/// ```no_run
/// # use libvirt_qmp::{Config, Libvirt, blocking};
/// let libvirt = blocking::wait(async {
///     let conn = tokio::net::UnixStream::connect("/var/run/libvirt/libvirt-sock").await?;
///     Ok::<_, Box<dyn std::error::Error>>(Libvirt::open(conn, Config::new()).await?)
/// })?;
/// # let _ = libvirt;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Those of the future; [`Error::Unsupported`] inside a tokio task, in a child made by `fork`, and where the system gives no
/// thread. The future has not been polled then.
pub fn wait<T, E>(future: impl Future<Output = Result<T, E>>) -> Result<T, E>
where
    E: From<Error>,
{
    if is_in_task() {
        return Err(unsupported(
            "a blocking call inside an async runtime: use the async crate there, or spawn_blocking",
        )
        .into());
    }
    let handle = background()?;
    drive(handle, future)
}

/// Polls the future on this thread, which sleeps in between. Unlike `Handle::block_on` it panics nowhere.
fn drive<F: Future>(handle: &Handle, future: F) -> F::Output {
    let _runtime = handle.enter();
    let unpark = Arc::new(Unpark {
        thread: thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(unpark.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        while !unpark.woken.swap(false, Ordering::AcqRel) {
            thread::park();
        }
    }
}

struct Unpark {
    thread: Thread,
    /// What the polled code blocks on, such as a channel of std, parks this thread too and takes the token of an `unpark`
    /// that was meant for us. This stays.
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// The runtime, started where this is the first call.
fn background() -> Result<&'static Handle, Error> {
    static BACKGROUND: OnceLock<Result<Background, String>> = OnceLock::new();
    match BACKGROUND.get_or_init(start) {
        Ok(background) if background.process == std::process::id() => Ok(&background.handle),
        Ok(_) => Err(unsupported(
            "a blocking call in a child made by fork: its runtime is the parent's",
        )),
        Err(reason) => Err(unsupported(reason)),
    }
}

fn start() -> Result<Background, String> {
    let reason = |error: std::io::Error| format!("no runtime for blocking calls: {error}");
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(reason)?;
    let handle = runtime.handle().clone();
    let (started, is_started) = mpsc::sync_channel::<()>(0);
    thread::Builder::new()
        .name("libvirt-qmp".to_owned())
        .spawn(move || {
            drop(started);
            runtime.block_on(std::future::pending::<()>());
        })
        .map_err(reason)?;
    // The end of the channel says that the thread runs.
    let _ = is_started.recv();
    let process = std::process::id();
    Ok(Background { handle, process })
}

/// Whether this is a tokio task, or the future that a runtime blocks on. A thread for blocking work, or one that has only
/// entered a runtime, is none.
///
/// Tokio does not tell them apart by itself, but tasks have a budget of steps, and nothing else has. One that is found out so
/// has to yield at its next step, which does it no harm.
fn is_in_task() -> bool {
    if Handle::try_current().is_err() {
        return false;
    }
    let mut context = Context::from_waker(Waker::noop());
    (0..MORE_THAN_A_BUDGET).any(|_| pin!(consume_budget()).poll(&mut context).is_pending())
}

fn unsupported(reason: &str) -> Error {
    Error::Unsupported(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wake_up_is_not_lost_to_what_the_future_blocks_on() {
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let mut polled = false;
            let future = poll_fn(|cx| {
                if std::mem::replace(&mut polled, true) {
                    return Poll::Ready(Ok::<_, Error>(()));
                }
                cx.waker().wake_by_ref();
                // As a channel of std does that has to wait.
                thread::park_timeout(Duration::from_secs(1));
                Poll::Pending
            });
            let _ = done.send(wait(future));
        });
        let waited = is_done.recv_timeout(Duration::from_secs(60));
        assert!(matches!(waited, Ok(Ok(()))), "{waited:?}");
    }
}
