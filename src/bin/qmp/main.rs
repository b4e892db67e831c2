//! `qmp`, the command line: arguments, and which command they mean. Uses the library's public API only.
//!
//! Bottom first: `failure` knows the exit codes, `interrupt` the signals, `output` writes, `connect` knows where to connect, `value`,
//! `typed` and `line` read QMP commands, `event` takes and shows events, and each file of `commands` is a command.

mod commands;
mod connect;
mod event;
mod failure;
mod interrupt;
mod line;
mod output;
mod typed;
mod value;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{demo, events, list, run};
use connect::Settings;
use failure::Failure;
use output::Output;

const AFTER_HELP: &str = "\
URI forms:
  qemu:///system                      virtqemud or libvirtd of this machine
  qemu:///session                     the user's own
  qemu+unix:///system?socket=PATH     the same on another socket
  qemu+ssh://[USER@]HOST/system       on another machine, by ssh
  qemu+tcp://HOST[:PORT]/system       libvirtd on TCP, port 16509
  qemu+tls://HOST[:PORT]/system       with TLS, where this program has it
  NAME                                an alias of libvirt.conf
  virsh+URI                           any of virsh's URIs, by the program virsh
  c+URI                               any of libvirt's, by its C library, where this program has it
  unix:PATH                           QEMU's own QMP socket
  tcp:HOST:PORT                       the same on TCP
  pipe:PATH                           the same on the named pipes PATH.in and PATH.out
  replay:FILE                         a recorded session (`qmp record`)

Exit codes:
  0  done
  1  QEMU or libvirt answered with an error
  2  usage
  3  no connection, or it was lost
  4  no answer in time
  128 and the number of a signal that ended it: 130 after Ctrl-C";

/// QMP, the QEMU Machine Protocol, through libvirtd or on QEMU's own socket.
#[derive(Parser)]
#[command(name = "qmp", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play a recorded session with a libvirtd to the client; needs nothing
    Demo,
    /// Run QMP commands and print what they return, each as one line of JSON
    Run(run::Args),
    /// Print the events of a domain, one a line, until interrupted (Ctrl-C)
    Events(events::Args),
    /// List the domains, active or not
    List(list::Args),
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

async fn perform(Arguments { settings, command }: Arguments) -> Result<(), Failure> {
    let output = &mut Output::new();
    match command {
        Command::Demo => demo::demo(output).await,
        Command::Run(args) => run::run(&settings, args, output).await,
        Command::Events(args) => events::run(&settings, args, output).await,
        Command::List(args) => list::run(&settings, args, output).await,
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
