//! A libvirtd and a QEMU for the tests of programs that use this crate (feature `testing`). May import packet, protocol, xdr,
//! qmp and error.
//!
//! [`FakeQemu`] serves QMP and [`FakeLibvirtd`] libvirt's RPC, with a [`FakeQemu`] behind each domain. They answer as the real
//! ones do, say what the test wants, and remember what they were told. Everything goes by tokio's clock, so in a test with a
//! paused clock no time passes. A recording of a real libvirtd is played by [`replay`](crate::replay) instead.
//!
//! ```toml
//! [dev-dependencies]
//! libvirt-qmp = { version = "0.1", features = ["testing"] }
//! ```
//!
//! A test of a function that resets a machine and says whether it came back:
//!
//! ```
//! use std::time::Duration;
//!
//! use futures_util::StreamExt;
//! use libvirt_qmp::testing::{FakeLibvirtd, FakeQemu, Reply};
//! use libvirt_qmp::{Command, Error, LibvirtRpc, Monitor, MonitorExt, SocketMonitor};
//! use serde_json::{Value, json};
//!
//! /// Resets the machine, and waits for the event that says so.
//! async fn reset(monitor: &dyn Monitor) -> Result<bool, Error> {
//!     let mut events = monitor.events().await?;
//!     monitor.execute::<Value>(Command::new("system_reset")).await?;
//!     let reset = async {
//!         while let Some(event) = events.next().await {
//!             if event.is_ok_and(|event| event.name == "RESET") {
//!                 return true;
//!             }
//!         }
//!         false
//!     };
//!     Ok(tokio::time::timeout(Duration::from_secs(60), reset).await.unwrap_or(false))
//! }
//!
//! # /*
//! #[tokio::test(start_paused = true)]
//! # */
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn a_reset_is_waited_for() {
//!     // On QEMU's own socket: it knows the command by itself.
//!     let qemu = FakeQemu::new();
//!     let monitor = SocketMonitor::new(qemu.connect());
//!     assert!(reset(&monitor).await.unwrap());
//!     assert_eq!(qemu.commands(), [json!({"execute": "system_reset"})]);
//!
//!     // A machine that takes the command and does nothing. The minute passes at once.
//!     qemu.on("system_reset", json!({}));
//!     assert!(!reset(&monitor).await.unwrap());
//!
//!     // One that refuses.
//!     qemu.on_error("system_reset", "GenericError", "not now");
//!     assert!(matches!(reset(&monitor).await, Err(Error::Qmp(_))));
//!
//!     // The same through libvirt, where the event is late.
//!     let late = Reply::value(json!({})).event_after("RESET", json!({"guest": false}));
//!     qemu.on("system_reset", late);
//!     let libvirtd = FakeLibvirtd::new();
//!     libvirtd.domain("vm-1", &qemu);
//!     let monitor = LibvirtRpc::new("vm-1", libvirtd.connect());
//!     assert!(reset(&monitor).await.unwrap());
//!
//!     // A domain that does not run.
//!     libvirtd.stop("vm-1");
//!     assert!(reset(&monitor).await.unwrap_err().is_not_running());
//! }
//! # a_reset_is_waited_for();
//! ```

mod commands;
mod daemon;
mod defaults;
mod libvirtd;
mod machine;
mod procedures;
mod qemu;
mod qmp_server;
mod reply;
mod request;
mod rpc_session;
mod script;
mod transport;

pub use daemon::{Call, Fault};
pub use libvirtd::FakeLibvirtd;
pub use qemu::FakeQemu;
pub use reply::Reply;
