//! `qmp events`: events as they come.

use std::num::NonZeroU64;

use libvirt_qmp::{EventFilter, EventOptions, EventStream};

use crate::connect::{Settings, with_monitor};
use crate::event::{as_json, as_text, next};
use crate::failure::{Failure, chain, say};
use crate::output::Output;

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
    /// Name or UUID; to be left out on QEMU's own socket
    domain: Option<String>,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let filter = any_of(&args.events);
    with_monitor(settings, args.domain.as_deref(), async |monitor| {
        let events = monitor.events_with(EventOptions::new(filter)).await?;
        watch(events, &args, output).await
    })
    .await
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
                let text = match args.json {
                    true => as_json(&event)?,
                    false => as_text(&event),
                };
                output.line(text).await?;
                left = left.map(|left| left - 1);
            }
            // The stream goes on after these two.
            Some(Err(error)) if error.leaves_stream_open() => say(&chain(&error)),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(())
}
