//! What happens to the domains, networks and storage pools of a host, as libvirt tells it.
//!
//! `cargo run --example watch -- [URI]`; Ctrl-C ends it.

use futures_util::stream::select;
use futures_util::{Stream, StreamExt};
use libvirt_qmp::events::{
    DomainEventFilter, NetworkEventFilter, ObjectEvents, StoragePoolEventFilter,
};
use libvirt_qmp::{Config, Error, Libvirt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let libvirt = match std::env::args().nth(1) {
        Some(uri) => Libvirt::connect(&uri).await?,
        None => Libvirt::connect_default(Config::new()).await?,
    };
    let domains = libvirt.domain_events(DomainEventFilter::all()).await?;
    let mut events = told(domains).boxed();
    // A driver that has no networks or storage refuses: then there are none to tell of.
    if let Ok(networks) = libvirt.network_events(NetworkEventFilter::all()).await {
        events = select(events, told(networks)).boxed();
    }
    if let Ok(pools) = libvirt
        .storage_pool_events(StoragePoolEventFilter::all())
        .await
    {
        events = select(events, told(pools)).boxed();
    }
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = tokio::signal::ctrl_c() => break,
        };
        match event {
            Some(Ok(event)) => println!("{event}"),
            // The stream goes on after these two.
            Some(Err(error @ (Error::EventsLost(_) | Error::Decode { .. }))) => {
                eprintln!("{error}");
            }
            Some(Err(error)) => return Err(error.into()),
            None => break,
        }
    }
    libvirt.close().await?;
    Ok(())
}

/// The events of one family as text.
fn told<F>(events: ObjectEvents<F>) -> impl Stream<Item = Result<String, Error>>
where
    F: libvirt_qmp::events::EventFamily<Event: std::fmt::Debug>,
{
    events.map(|event| event.map(|event| format!("{event:?}")))
}
