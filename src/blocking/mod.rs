//! The crate for programs without async: the same names, and calls that wait. The top layer: may import anything.
//!
//! ```no_run
//! use libvirt_qmp::blocking::{LibvirtRpc, Monitor, MonitorExt};
//!
//! let monitor = LibvirtRpc::unix("stage-lb-1", "/var/run/libvirt/libvirt-sock")?;
//! println!("QEMU {}", monitor.version()?);
//! for event in monitor.events()? {
//!     println!("{}", event?.name);
//! }
//! # Ok::<(), libvirt_qmp::Error>(())
//! ```
//!
//! Everything here is a thin cover over the async crate. [`Blocking`] wraps a driver, and [`wait`] waits for any future, so
//! what has no method here is one call away:
//!
//! ```no_run
//! # use libvirt_qmp::blocking::{self, Libvirt, Monitor, SocketMonitor};
//! # let monitor = SocketMonitor::unix("/run/vm-1.qmp")?;
//! let greeting = monitor.wait(|monitor| monitor.greeting())?;
//! let reply = blocking::wait(monitor.as_async().run(br#"{"execute":"query-status"}"#))?;
//! # let _ = (greeting, reply);
//! # Ok::<(), libvirt_qmp::Error>(())
//! ```
//!
//! # One runtime
//!
//! The first call starts one thread with a tokio runtime, on which all connections live. It stays for the life of the process
//! and holds no one up: a process that returns from `main` ends. Any number of threads may call at once; each waits for itself.
//! A connection ends when its last handle is dropped, as in the async crate.
//!
//! # Not inside async code
//!
//! A call that waits would stop the thread of an async runtime, and all that runs there. So a call inside a tokio task is refused
//! with [`Error::Unsupported`]; it is fine in `tokio::task::spawn_blocking`.
//!
//! # Not across fork
//!
//! A child made by `fork` without `exec` has no such thread. Once the runtime has started in the parent, calls in such a child
//! are refused with [`Error::Unsupported`], and the connections it inherited are the parent's: they must not be used there. What
//! `std::process::Command` starts is not concerned.

mod domain;
mod drivers;
mod events;
mod monitor;
mod runtime;
mod sockets;
mod waiting;

use std::fmt;

use crate::driver;
use crate::error::Error;
use crate::libvirt;

pub use domain::{DomainExt, Hypervisor};
pub use events::Events;
#[cfg(feature = "typed")]
pub use monitor::TypedExt;
pub use monitor::{Monitor, MonitorExt};
pub use runtime::wait;
pub use waiting::{Callbacks, History, WaitExt};

/// A thing of the async crate whose calls wait.
///
/// Around a [driver](crate::Monitor) it is a [`Monitor`], and [`MonitorExt`], [`WaitExt`] and [`DomainExt`]
/// come with that. Any `T` has [`wait`](Blocking::wait).
pub struct Blocking<T>(T);

/// [`crate::LibvirtRpc`], blocking.
pub type LibvirtRpc = Blocking<driver::LibvirtRpc>;

/// [`crate::SocketMonitor`], blocking.
pub type SocketMonitor = Blocking<driver::SocketMonitor>;

/// [`crate::Virsh`], blocking.
pub type Virsh = Blocking<driver::Virsh>;

/// [`crate::LibvirtC`], blocking.
#[cfg(feature = "libvirt-c")]
pub type LibvirtC = Blocking<driver::LibvirtC>;

/// [`crate::Libvirt`], blocking.
pub type Libvirt = Blocking<libvirt::Libvirt>;

/// [`crate::QmpListener`], blocking.
pub type QmpListener = Blocking<driver::QmpListener>;

/// [`crate::GuestAgent`], blocking.
pub type GuestAgent = Blocking<driver::GuestAgent>;

impl<T> Blocking<T> {
    /// Wraps a thing of the async crate. It stays on the runtime that it is on.
    pub fn from_async(inner: T) -> Self {
        Blocking(inner)
    }

    /// The thing itself.
    pub fn get_ref(&self) -> &T {
        &self.0
    }

    /// Takes the thing out. What it has connected stays on the runtime of this module.
    pub fn into_async(self) -> T {
        self.0
    }

    /// Waits for what one of its async methods gives: `monitor.wait(|monitor| monitor.greeting())`.
    ///
    /// # Errors
    ///
    /// Those of the method, and those of [`wait`](wait()).
    pub fn wait<'a, F, R, E>(&'a self, call: impl FnOnce(&'a T) -> F) -> Result<R, E>
    where
        F: Future<Output = Result<R, E>>,
        E: From<Error>,
    {
        // Made inside the future: a method may need the runtime as soon as it is called.
        wait(async move { call(&self.0).await })
    }
}

impl<T: fmt::Debug> fmt::Debug for Blocking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blocking").field(&self.0).finish()
    }
}

impl<T: Clone> Clone for Blocking<T> {
    fn clone(&self) -> Self {
        Blocking(self.0.clone())
    }
}
