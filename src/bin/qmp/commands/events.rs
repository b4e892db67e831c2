//! `qmp events`: events as they come.

use std::num::NonZeroU64;

#[cfg(feature = "libvirt-c")]
use libvirt_qmp::LibvirtC;
use libvirt_qmp::{Error, EventFilter, EventOptions, EventStream, Monitor, Virsh};

use crate::connect::{Endpoint, Session, Settings, config, session, with_monitor};
use crate::event::{as_json, as_text, next};
use crate::failure::{Failure, chain, say};
use crate::interrupt::Interrupts;
use crate::output::{Output, printable};

const USAGE: &str = "qmp [-C URI] events [OPTIONS] [DOMAIN]
       qmp -C unix:PATH events [OPTIONS]";

#[derive(clap::Args)]
#[command(override_usage = USAGE)]
pub(crate) struct Args {
    /// Print each event as a JSON object
    #[arg(long)]
    json: bool,
    /// Only events of this name, in which `*` and `?` stand for others; may be given several times
    #[arg(short, long = "event", value_name = "GLOB")]
    events: Vec<String>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<NonZeroU64>,
    /// Name or UUID; without one all domains of the host, or the QEMU whose own socket it is
    domain: Option<String>,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let options = EventOptions::new(any_of(&args.events));
    let endpoint = settings.endpoint()?;
    if args.domain.is_none() && endpoint.has_domains() {
        return of_all(&endpoint, settings, options, &args, output).await;
    }
    with_monitor(settings, args.domain.as_deref(), async |monitor| {
        let events = monitor.events_with(options).await?;
        watch(events, &args, output).await
    })
    .await
}

/// Prints the events of all domains of a host.
async fn of_all(
    endpoint: &Endpoint,
    settings: &Settings,
    options: EventOptions,
    args: &Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    let connecting = Host::connect(endpoint, settings);
    let host = interrupts.end(connecting).await?;
    let print = async {
        let events = host.events(options).await?;
        watch(events, args, output).await
    };
    let result = interrupts.end(print).await;
    if !result.as_ref().is_err_and(Failure::is_timeout) {
        tokio::select! {
            () = host.close() => {}
            _ = interrupts.next() => {}
        }
    }
    result
}

/// What has the events of all domains. The drivers but the first connect when they are asked for them.
enum Host {
    Session(Session),
    Virsh(Virsh),
    #[cfg(feature = "libvirt-c")]
    C(LibvirtC),
}

impl Host {
    async fn connect(endpoint: &Endpoint, settings: &Settings) -> Result<Self, Failure> {
        let limit = settings.limit();
        // The monitor of no domain.
        let none = "";
        Ok(match endpoint {
            Endpoint::Virsh(uri) => Host::Virsh(Virsh::with_config(uri, none, config(limit))),
            #[cfg(feature = "libvirt-c")]
            Endpoint::C(uri) => Host::C(LibvirtC::with_config(uri, none, config(limit))),
            _ => Host::Session(session(endpoint, limit).await?),
        })
    }

    async fn events(&self, options: EventOptions) -> Result<EventStream, Error> {
        match self {
            Host::Session(session) => session.libvirt.all_monitor_events(options).await,
            Host::Virsh(virsh) => virsh.all_monitor_events(options).await,
            #[cfg(feature = "libvirt-c")]
            Host::C(library) => library.all_monitor_events(options).await,
        }
    }

    /// Says goodbye, within the library's limit of 5 s. What the answer is does not matter any more.
    async fn close(&self) {
        match self {
            Host::Session(session) => session.close().await,
            Host::Virsh(virsh) => drop(virsh.disconnect().await),
            #[cfg(feature = "libvirt-c")]
            Host::C(library) => drop(library.disconnect().await),
        }
    }
}

/// Events with one of these names; all where there are none.
pub(crate) fn any_of(globs: &[String]) -> EventFilter {
    let globs = globs.iter().map(EventFilter::glob);
    globs.reduce(EventFilter::or).unwrap_or_default()
}

/// Prints events until as many have come as are wanted, or the connection ends.
async fn watch(mut events: EventStream, args: &Args, output: &mut Output) -> Result<(), Failure> {
    let mut left = args.count.map(NonZeroU64::get);
    while left != Some(0) {
        match next(&mut events).await {
            None => break,
            Some(Ok(event)) => {
                let text = match (args.json, &event.domain) {
                    (true, _) => as_json(&event)?,
                    (false, Some(domain)) if args.domain.is_none() => {
                        format!("{} {}", printable(&domain.name), as_text(&event))
                    }
                    (false, _) => as_text(&event),
                };
                output.line(text).await?;
                left = left.map(|left| left - 1);
            }
            Some(Err(error)) if error.leaves_stream_open() => say(&chain(&error)),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(())
}
