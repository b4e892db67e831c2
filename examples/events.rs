//! The events of all active domains, over one connection.
//!
//! `cargo run --example events -- [SOCKET]`; Ctrl-C ends it.

use futures_util::StreamExt;
use futures_util::stream::select_all;
use libvirt_qmp::{Config, Libvirt, Monitor};
use tokio::net::UnixStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::args().nth(1);
    let socket = socket.as_deref().unwrap_or("/var/run/libvirt/libvirt-sock");
    let libvirt = Libvirt::open(UnixStream::connect(socket).await?, Config::new()).await?;

    let mut streams = Vec::new();
    for domain in libvirt.domains().await? {
        if domain.is_running() {
            println!("watching {}", domain.name);
            streams.push(libvirt.monitor(&domain).events().await?);
        }
    }
    let mut events = select_all(streams);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = tokio::signal::ctrl_c() => break,
        };
        match event {
            Some(Ok(event)) => {
                let domain = event
                    .domain
                    .as_ref()
                    .map_or("?", |domain| domain.name.as_str());
                println!("{domain}: {}", event.name);
            }
            Some(Err(error)) if error.leaves_stream_open() => eprintln!("{error}"),
            Some(Err(error)) => return Err(error.into()),
            None => break,
        }
    }
    libvirt.close().await?;
    Ok(())
}
