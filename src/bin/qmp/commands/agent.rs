//! `qmp agent`: commands of the guest agent.

use bytes::Bytes;
use libvirt_qmp::{AgentTimeout, Error, GuestAgent, QmpAddress, RunOptions};

use super::run::returned;
use crate::connect::{Endpoint, Settings, with_monitor};
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::line::Request;
use crate::output::Output;

const USAGE: &str = "qmp [-C URI] agent [OPTIONS] DOMAIN COMMAND [KEY=VALUE]...
       qmp -C unix:PATH agent [OPTIONS] COMMAND [KEY=VALUE]...";

const HELP: &str = "\
Through libvirt the agent is the domain's. An address of a socket, unix:PATH or
tcp:HOST:PORT, is that of the agent itself, not of QEMU. Values are JSON or else
strings, for the agent has no schema; the rest is as in `qmp run`.";

#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = HELP)]
pub(crate) struct Args {
    /// Print the JSON over several lines
    #[arg(long)]
    pretty: bool,
    /// Seconds that libvirt waits for the agent [default: 5, or what the domain says]
    #[arg(long, value_name = "SECONDS")]
    agent_timeout: Option<u32>,
    /// The domain by name or UUID, the command and its arguments; no domain on the agent's own socket
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let endpoint = settings.endpoint()?;
    let (domain, words) = endpoint.domain_of(&args.words)?;
    let request = Request::from_words(words).map_err(Failure::usage)?;
    let command = request.to_json().map_err(Error::from)?;
    let reply = match &endpoint {
        Endpoint::Qmp(address) => {
            let mut interrupts = Interrupts::new()?;
            let asked = ask(address, &command, settings);
            interrupts.end(asked).await?
        }
        _ => {
            let timeout = match args.agent_timeout {
                None => AgentTimeout::Default,
                Some(0) => AgentTimeout::NoWait,
                Some(seconds) => AgentTimeout::Seconds(seconds),
            };
            with_monitor(settings, domain, async |monitor| {
                let reply = monitor.agent(&command, timeout).await;
                reply.map_err(Failure::running)
            })
            .await?
        }
    };
    let print = async { output.line(returned(&reply, args.pretty)?).await };
    Interrupts::new()?.end(print).await
}

/// Asks the agent at its own socket.
async fn ask(address: &QmpAddress, command: &[u8], settings: &Settings) -> Result<Bytes, Failure> {
    let agent = match address {
        QmpAddress::Unix(path) => GuestAgent::unix(path).await,
        QmpAddress::Tcp { host, port } => GuestAgent::tcp((host.as_str(), *port)).await,
        other => return Err(Failure::usage(format!("{other} is no socket of an agent"))),
    };
    let agent = agent.map_err(Failure::connecting)?;
    let options = match settings.limit() {
        Some(limit) => RunOptions::new().timeout(limit),
        None => RunOptions::new(),
    };
    let reply = agent.run_with(command, options).await;
    agent.close().await;
    reply.map_err(Failure::running)
}
