//! `qmp shell`: a monitor to type at. Takes part of the program's modules as the commands do.
//!
//! Bottom first: `secret` knows what must not be kept, `line` and `hmp` read lines, `place` knows where in one the cursor is, `given`
//! what its command takes, `complete` and `help` go by the schema, `live` asks the running QEMU, `history`, `screen` and `log` are where lines and answers go, `editor` is the thread that reads
//! lines, and `session` runs them.

mod complete;
mod editor;
mod given;
mod help;
mod history;
mod hmp;
mod line;
mod live;
mod log;
mod place;
mod screen;
mod secret;
mod session;
mod terminal;
mod transaction;

use std::io::{IsTerminal, stdin, stdout};
use std::path::PathBuf;
use std::sync::Arc;

use libvirt_qmp::{Handshake, Monitor, SocketMonitor};

use crate::commands::batch::{Batch, Line};
use crate::commands::wrap;
use crate::connect::{self, Connected, Endpoint, Settings};
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::output::Output;
use log::Log;
use screen::Screen;
use session::{Next, Session};

/// What the prompt shows where there is no domain.
const NAME: &str = "qmp";

const USAGE: &str = "qmp [-C URI] shell [OPTIONS] DOMAIN [-c LINE]...
       qmp [-C URI] shell [OPTIONS] DOMAIN < SCRIPT
       qmp -C unix:PATH shell [OPTIONS]";

#[derive(clap::Args)]
#[command(override_usage = USAGE)]
pub(crate) struct Args {
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    batch: Batch,
    /// Name or UUID; to be left out on QEMU's own socket
    domain: Option<String>,
}

/// How the shell behaves.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct How {
    /// Lines are for QEMU's human monitor
    #[arg(short = 'H', long)]
    hmp: bool,
    /// Print the JSON over several lines
    #[arg(short, long)]
    pretty: bool,
    /// Print each command as it is sent
    #[arg(short, long)]
    verbose: bool,
    /// Do not negotiate capabilities, as is done on QEMU's own socket: QEMU takes `qmp_capabilities` alone then
    #[arg(short = 'N', long)]
    no_negotiation: bool,
    /// Add what is sent and what comes to FILE, as lines of JSON without passwords
    #[arg(short, long, value_name = "FILE")]
    log: Option<PathBuf>,
}

pub(crate) async fn run(settings: &Settings, args: Args) -> Result<(), Failure> {
    let endpoint = settings.endpoint()?;
    let domain = args.domain.as_deref();
    let mut interrupts = Interrupts::new()?;
    let connected = match (args.how.no_negotiation, &endpoint) {
        (false, _) => {
            let connecting = connect::monitor(&endpoint, domain, settings.limit());
            interrupts.end(connecting).await?
        }
        (true, Endpoint::Qmp(address)) if domain.is_none() => {
            let config = connect::config(settings.limit()).handshake(Handshake::GreetingOnly);
            let connecting = async {
                let dialled = SocketMonitor::dial(address.clone(), config).await;
                dialled.map_err(Failure::connecting)
            };
            Connected::alone(interrupts.end(connecting).await?)
        }
        (true, _) => {
            return Err(Failure::usage(
                "-N is for QEMU's own socket: libvirt has negotiated long ago",
            ));
        }
    };
    let how = &args.how;
    let log = how.log.as_deref().map(Log::open).transpose()?;
    let is_typed =
        args.batch.commands.is_empty() && stdin().is_terminal() && stdout().is_terminal();
    let result = if is_typed {
        let place = Place {
            monitor: &connected.monitor,
            name: domain.unwrap_or(NAME),
            // A recording has no answers to what only the shell asks.
            asks: !how.no_negotiation && !matches!(endpoint, Endpoint::Replay(_)),
        };
        terminal::run(place, how, log, &mut interrupts).await
    } else {
        let script = script(&*connected.monitor, how, log, &args.batch);
        interrupts.end(script).await
    };
    if !result.as_ref().is_err_and(Failure::is_timeout) {
        tokio::select! {
            () = connected.close() => {}
            _ = interrupts.next() => {}
        }
    }
    result
}

/// The shell of a QEMU that it starts, and ends with it.
pub(crate) async fn wrapped(settings: &Settings, args: wrap::Args) -> Result<(), Failure> {
    let how = How {
        pretty: args.how.pretty,
        ..How::default()
    };
    wrap::with_qemu(settings, &args.program, async |monitor, interrupts| {
        let place = Place {
            monitor,
            name: NAME,
            asks: true,
        };
        terminal::run(place, &how, None, interrupts).await
    })
    .await
}

/// What is typed at.
struct Place<'a> {
    monitor: &'a Arc<dyn Monitor>,
    /// What the prompt shows.
    name: &'a str,
    /// Whether QEMU is asked for what completion and hints need.
    asks: bool,
}

/// Runs lines that nobody types.
async fn script(
    monitor: &dyn Monitor,
    how: &How,
    log: Option<Log>,
    batch: &Batch,
) -> Result<(), Failure> {
    let screen = Screen::Script(Output::new());
    let mut session = Session::new(monitor, how, screen, log);
    // A command may take several lines.
    let mut text = String::new();
    let each = async |line: &str| {
        text.push_str(line);
        if !session.is_complete(&text) {
            text.push('\n');
            return Ok(Line::Blank);
        }
        let whole = std::mem::take(&mut text);
        match session.perform(&whole).await? {
            Next::Nothing => Ok(Line::Blank),
            Next::More => Ok(Line::Command),
            Next::Leave => Ok(Line::Last),
        }
    };
    let result = batch.run(each).await;
    match text.trim() {
        "" => result,
        open => Err(Failure::usage(format!("`{open}` has no end"))),
    }
}
