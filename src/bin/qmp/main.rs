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
mod shell;
mod typed;
mod value;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use commands::{
    agent, demo, events, generate, hmp, jobs, list, record, replay, run, schema, screendump, wait,
    wrap,
};
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
  virsh+URI                           any of virsh's URIs, or none, by the program virsh
  c+URI                               the same by libvirt's C library, where this program has it
  unix:PATH                           QEMU's own QMP socket
  tcp:HOST:PORT                       the same on TCP
  pipe:PATH                           the same on the named pipes PATH.in and PATH.out
  replay:FILE                         a recorded session (`qmp record`)

Exit codes:
  0  done
  1  an error: of QEMU or libvirt, of a job, of a file
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
    /// Print the events of a domain or of all, one a line, until interrupted (Ctrl-C)
    Events(events::Args),
    /// List the domains, active or not
    List(list::Args),
    /// Type QMP commands, with completion, history and events
    Shell(shell::Args),
    /// Run lines of the human monitor and print their text
    Hmp(hmp::Args),
    /// Wait for an event of a domain and print it
    Wait(wait::Args),
    /// Run a command of the guest agent and print what it returns
    Agent(agent::Args),
    /// Show the progress of the jobs of a domain until they have done their work
    Jobs(jobs::Args),
    /// Save a picture of the guest's screen as a PNG
    Screendump(screendump::Args),
    /// Show what QEMU says of its commands and events
    Schema(schema::Args),
    /// Start a QEMU, run commands on its monitor, and end it
    Wrap(wrap::Args),
    /// Record a session with a libvirtd into a file
    Record(record::Args),
    /// Serve a recorded session on a unix socket
    Replay(replay::Args),
    /// Print the completions of this program for a shell
    Completions(generate::CompletionsArgs),
    /// Print the manual page of this program
    Man(generate::ManArgs),
    #[command(hide = true, name = wrap::CHILD)]
    BecomeChild(wrap::ChildArgs),
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
    match &command {
        Command::Demo => settings.without("demo", false)?,
        Command::Wrap(_) => settings.without("wrap", true)?,
        Command::Replay(_) => settings.without("replay", false)?,
        Command::Completions(_) => settings.without("completions", false)?,
        Command::Man(_) => settings.without("man", false)?,
        _ => {}
    }
    match command {
        Command::Demo => demo::demo(output).await,
        Command::Run(args) => run::run(&settings, args, output).await,
        Command::Events(args) => events::run(&settings, args, output).await,
        Command::List(args) => list::run(&settings, args, output).await,
        Command::Shell(args) => shell::run(&settings, args).await,
        Command::Hmp(args) => hmp::run(&settings, args, output).await,
        Command::Wait(args) => wait::run(&settings, args, output).await,
        Command::Agent(args) => agent::run(&settings, args, output).await,
        Command::Jobs(args) => jobs::run(&settings, args, output).await,
        Command::Screendump(args) => screendump::run(&settings, args, output).await,
        Command::Schema(args) => schema::run(&settings, args, output).await,
        Command::Wrap(args) if args.are_for_a_user() => shell::wrapped(&settings, args).await,
        Command::Wrap(args) => wrap::run(&settings, args, output).await,
        Command::Record(args) => record::run(&settings, args, output).await,
        Command::Replay(args) => replay::run(args, output).await,
        Command::Completions(args) => {
            generate::completions(Arguments::command(), args, output).await
        }
        Command::Man(args) => generate::man(Arguments::command(), args, output).await,
        Command::BecomeChild(args) => Err(wrap::become_qemu(&args)),
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
