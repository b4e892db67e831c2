//! `qmp shell`: a monitor to type at. Takes part of the program's modules as the commands do.
//!
//! Bottom first: `secret` knows what must not be kept, `line` and `hmp` read lines, `complete` and `help` go by the schema, `live`
//! asks the running QEMU, `history`, `screen` and `log` are where lines and answers go, `editor` is the thread that reads
//! lines, and `session` runs them.

mod complete;
mod editor;
mod help;
mod history;
mod hmp;
mod line;
mod live;
mod log;
mod screen;
mod secret;
mod session;
mod terminal;
mod transaction;

use std::io::{IsTerminal, stdin, stdout};
use std::path::PathBuf;
use std::sync::Arc;

use libvirt_qmp::{Handshake, SocketMonitor};

use crate::commands::batch::{Batch, Line};
use crate::connect::{self, Connected, Endpoint, Settings};
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::output::Output;
use log::Log;
use screen::Screen;
use session::{Next, Session};

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
    let name = domain.unwrap_or("qmp").to_owned();
    let asks = !args.how.no_negotiation && !matches!(endpoint, Endpoint::Replay(_));
    with(
        Arc::new(connected),
        name,
        asks,
        &args.how,
        &args.batch,
        &mut interrupts,
    )
    .await
}

/// The shell on a monitor, which it closes at its end. `name` is what the prompt shows; with `asks` QEMU is asked for what
/// completion and hints need.
pub(crate) async fn with(
    connected: Arc<Connected>,
    name: String,
    asks: bool,
    how: &How,
    batch: &Batch,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let log = how.log.as_deref().map(Log::open).transpose()?;
    let is_typed = batch.commands.is_empty() && stdin().is_terminal() && stdout().is_terminal();
    let result = match is_typed {
        true => terminal::run(&connected, name, asks, how, log, interrupts).await,
        false => interrupts.end(script(&connected, how, log, batch)).await,
    };
    if !result.as_ref().is_err_and(Failure::is_timeout) {
        tokio::select! {
            () = connected.close() => {}
            _ = interrupts.next() => {}
        }
    }
    result
}

/// Runs lines that nobody types.
async fn script(
    connected: &Connected,
    how: &How,
    log: Option<Log>,
    batch: &Batch,
) -> Result<(), Failure> {
    let screen = Screen::Script(Output::new());
    let mut session = Session::new(&*connected.monitor, how, screen, log);
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
