//! Capture of a connection into a fixture, and a server that plays a fixture back to any client. May import anything
//! below the drivers.
//!
//! A [`Fixture`] is readable text: each packet with its direction, its decoded header as a comment, and its bytes in
//! hexadecimal. [`record`] tees any stream into one; [`Replay`] plays one, in-process or on a socket, so that a test or a demo
//! needs no daemon.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use libvirt_qmp::replay::{Fixture, Replay};
//! use libvirt_qmp::{Config, LibvirtRpc, Monitor};
//!
//! let fixture: Fixture = std::fs::read_to_string("fixtures/query-status.fixture")?.parse()?;
//! let (conn, served) = Replay::new(fixture).connect();
//! let config = Config::new().uri("qemu:///session");
//! let monitor = LibvirtRpc::with_config("stage-lb-1", conn, config);
//! let reply = monitor.run(br#"{"execute":"query-status"}"#).await?;
//! monitor.disconnect().await?;
//! served.await??;
//! # Ok(()) }
//! ```

mod fixture;
mod record;
mod server;

pub use fixture::{Direction, Fixture, FixtureError};
pub use record::{Recorded, Recording, record};
pub use server::{Replay, ReplayError};
