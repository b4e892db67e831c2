//! One domain: its status, its version, and what it answers to a line of the human monitor.
//!
//! `cargo run --example query -- DOMAIN [SOCKET]`

use libvirt_qmp::{Command, LibvirtRpc, Monitor, MonitorExt};
use serde::Deserialize;
use tokio::net::UnixStream;

/// The part of the answer that is of interest; the rest is passed over.
#[derive(Deserialize)]
struct Status {
    status: String,
    running: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let domain = arguments.next().ok_or("usage: query DOMAIN [SOCKET]")?;
    let socket = arguments.next();
    let socket = socket.as_deref().unwrap_or("/var/run/libvirt/libvirt-sock");

    let monitor = LibvirtRpc::new(domain, UnixStream::connect(socket).await?);
    let status: Status = monitor.execute(Command::new("query-status")).await?;
    println!("{} (running: {})", status.status, status.running);
    println!("QEMU {}", monitor.version().await?);
    print!("{}", monitor.hmp("info cpus", None).await?);

    // An argument of any type that serde serializes.
    let command = Command::new("qom-get")
        .arg("path", "/machine")
        .arg("property", "type");
    let machine: String = monitor.execute(command).await?;
    println!("machine {machine}");

    match monitor.run(br#"{"execute":"no-such-command"}"#).await {
        Err(error) if error.is_command_not_found() => println!("as expected: {error}"),
        other => println!("not as expected: {other:?}"),
    }
    monitor.disconnect().await?;
    Ok(())
}
