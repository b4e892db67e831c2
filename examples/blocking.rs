//! One machine without async: its status, then its events until it ends.
//!
//! `cargo run --example blocking -- SOCKET`, with a QEMU that has `-qmp unix:SOCKET,server=on,wait=off`;
//! or `cargo run --example blocking -- LIBVIRT_SOCKET DOMAIN`, through libvirtd.

use std::time::Duration;

use libvirt_qmp::Error;
use libvirt_qmp::blocking::{LibvirtRpc, Monitor, MonitorExt, SocketMonitor};
use serde_json::Value;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().ok_or("usage: blocking SOCKET [DOMAIN]")?;
    let monitor: Box<dyn Monitor> = match arguments.next() {
        None => Box::new(SocketMonitor::unix(socket)?),
        Some(domain) => Box::new(LibvirtRpc::unix(domain, socket)?),
    };
    println!("QEMU {}", monitor.version()?);
    let status: Value = monitor.query("status")?;
    println!("{status}");

    let mut events = monitor.events()?;
    while let Some(event) = events.next_timeout(Duration::from_secs(60)) {
        match event {
            Ok(event) => println!("EVENT {}", event.name),
            Err(Error::Timeout { .. }) => println!("nothing for a minute"),
            // The events go on after these two.
            Err(error) if error.leaves_stream_open() => eprintln!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    monitor.disconnect()?;
    Ok(())
}
