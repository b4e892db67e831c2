//! `qmp`, the command line: arguments, and which command they mean. Uses the library's public API only.
//!
//! `connect` knows where to connect, `commands` and `demo` do the work, `value` reads arguments of QMP commands, `output`
//! writes, and `failure` knows the exit codes.

mod commands;
mod connect;
mod demo;
mod failure;
mod output;
mod value;

use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use connect::Endpoint;
use failure::Failure;
use output::Output;

const CONNECT_HELP: &str = "\
URI forms:
  qemu:///system                      virtqemud or libvirtd of this machine
  qemu:///session                     the user's own
  qemu+unix:///system?socket=PATH     the same on another socket
  qemu+ssh://[USER@]HOST/system       on another machine, by ssh
  qemu+tcp://HOST[:PORT]/system       libvirtd on TCP, port 16509
  qemu+tls://HOST[:PORT]/system       with TLS, where this program has it
  NAME                                an alias of libvirt.conf
  unix:PATH                           QEMU's own QMP socket
  tcp:HOST:PORT                       the same on TCP

Exit codes:
  0  done, or interrupted while watching events
  1  QEMU or libvirt answered with an error
  2  usage
  3  no connection, or it was lost
  4  no answer in time";

const RUN_USAGE: &str = "qmp [--connect URI] run [--pretty] DOMAIN COMMAND [KEY=VALUE]...
       qmp --connect unix:PATH run [--pretty] COMMAND [KEY=VALUE]...";

const RUN_HELP: &str = "\
COMMAND is the name of a QMP command, or a whole command as a JSON object.
A VALUE that is JSON is taken as such, anything else is a string; a string that
would be JSON is quoted: id='\"1\"'. Dots in a KEY nest: file.driver=raw is
{\"file\": {\"driver\": \"raw\"}}.";

const EVENTS_USAGE: &str = "qmp [--connect URI] events [--json] [--count N] DOMAIN
       qmp --connect unix:PATH events [--json] [--count N]";

/// QMP, the QEMU Machine Protocol, through libvirtd or on QEMU's own socket.
#[derive(Parser)]
#[command(name = "qmp", version, after_help = CONNECT_HELP)]
struct Arguments {
    /// Where to connect [default: $LIBVIRT_DEFAULT_URI, else uri_default of libvirt.conf, else this machine]
    #[arg(short = 'c', long, global = true, value_name = "URI")]
    connect: Option<String>,
    /// Seconds that connecting may take, and each call [default: 15, and 60]
    #[arg(long, global = true, value_name = "SECONDS")]
    timeout: Option<NonZeroU64>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play a recorded session with a libvirtd to the client; needs nothing
    Demo,
    /// Run a QMP command and print what it returns, as one line of JSON
    #[command(override_usage = RUN_USAGE, after_help = RUN_HELP)]
    Run {
        /// Print the JSON over several lines
        #[arg(long)]
        pretty: bool,
        /// The domain by name or UUID, the command and its arguments; no domain on QEMU's own socket
        #[arg(required = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Print the events of a domain, one a line, until interrupted (Ctrl-C)
    #[command(override_usage = EVENTS_USAGE)]
    Events {
        /// Print each event as a JSON object
        #[arg(long)]
        json: bool,
        /// End after so many events
        #[arg(long, value_name = "N")]
        count: Option<NonZeroU64>,
        /// Name or UUID; to be left out on QEMU's own socket
        domain: Option<String>,
    },
    /// List the domains, active or not
    List {
        /// Print each domain as a JSON object, one a line
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::system("cannot start", error).report(),
    };
    let result = runtime.block_on(perform(arguments));
    // A write to a pipe that nobody empties may be under way, and must not keep this process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn perform(arguments: Arguments) -> Result<(), Failure> {
    let mut output = Output::new();
    let timeout = arguments
        .timeout
        .map(|seconds| Duration::from_secs(seconds.get()));
    let endpoint = || Endpoint::choose(arguments.connect.as_deref());
    match &arguments.command {
        Command::Demo => demo::demo(&mut output).await,
        Command::Run { pretty, words } => {
            commands::run(&endpoint()?, timeout, words, *pretty, &mut output).await
        }
        Command::Events {
            json,
            count,
            domain,
        } => {
            let domain = domain.as_deref();
            commands::events(&endpoint()?, timeout, domain, *json, *count, &mut output).await
        }
        Command::List { json } => commands::list(&endpoint()?, timeout, *json, &mut output).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_defined() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
