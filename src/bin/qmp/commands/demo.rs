//! `qmp demo`: the library's client against a recorded session of a real libvirtd. Imports `failure` and `output`.

use libvirt_qmp::replay::{Fixture, Replay};
use libvirt_qmp::{Command, Config, Error, LibvirtRpc, Monitor, MonitorExt};
use serde::Deserialize;

use crate::event::{next, what_happened};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Recorded by `tests/fixtures.rs`, with the calls that `show` makes.
const SESSION: &str = include_str!("../../../../fixtures/demo.fixture");
/// The domain of the recording.
const DOMAIN: &str = "stage-lb-1";

const WHAT_NEXT: &str = "
With a libvirtd and a domain of your own:
  cargo run --features cli -- --connect qemu:///system list
  cargo run --features cli -- --connect qemu:///system run stage-lb-1 query-status
  cargo run --features cli -- --connect qemu:///system events stage-lb-1";

pub(crate) async fn demo(output: &mut Output) -> Result<(), Failure> {
    let fixture: Fixture = SESSION
        .parse()
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    output
        .line("A recorded session with a real libvirtd is played to the client.")
        .await?;
    for version in fixture
        .notes
        .iter()
        .filter(|note| note.starts_with("Running"))
    {
        output.line(version.as_str()).await?;
    }
    let (conn, served) = Replay::new(fixture).connect();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, Config::new().uri("qemu:///session"));
    let shown = show(&monitor, output).await;
    drop(monitor);
    match (shown, served.await) {
        (Err(Failure::NobodyReads), _) => return Err(Failure::NobodyReads),
        // Why the recorded daemon closed says more than that it did.
        (_, Ok(Err(error))) => return Err(Failure::new(Exit::Failed, error)),
        (shown, Err(panicked)) => shown.and(Err(Failure::new(Exit::Failed, panicked)))?,
        (shown, Ok(Ok(()))) => shown?,
    }
    output.line(WHAT_NEXT).await
}

async fn show(monitor: &LibvirtRpc, output: &mut Output) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Status {
        status: String,
    }
    monitor.connect().await?;
    output.line(format!("\nconnected to {DOMAIN}")).await?;
    let status: Status = monitor.execute(Command::new("query-status")).await?;
    output.line(format!("status: {}", status.status)).await?;
    let version = monitor.version().await?;
    output.line(format!("QEMU {version}")).await?;
    let mut events = monitor.events().await?;
    for name in ["stop", "cont", "system_reset"] {
        monitor
            .run(&Command::new(name).to_json().map_err(Error::from)?)
            .await?;
        output.line(format!("ran {name}")).await?;
    }
    for _ in 0..3 {
        let event = next(&mut events).await.ok_or(Error::Closed)??;
        output
            .line(format!("EVENT: {}", what_happened(&event)))
            .await?;
    }
    monitor.disconnect().await?;
    output.line("disconnected").await
}
