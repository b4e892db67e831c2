//! `qmp record`: a session with a libvirtd, as a file that `replay:FILE` and `qmp replay` play.

use std::path::{Path, PathBuf};

use libvirt_qmp::replay::{Recording, record};
use libvirt_qmp::{Config, Error, Libvirt, Monitor, Transport, Uri, User};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::batch::Batch;
use super::run::{How, lines};
use crate::connect::{Endpoint, Settings, config};
use crate::event::{as_text, next};
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupts;
use crate::output::Output;

const HELP: &str = "\
Passwords in commands are recorded as asterisks, and the exchange of SASL is left
blank; everything else is in the file as it went. Daemons on a unix socket or TCP
can be recorded.";

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    batch: Batch,
    /// Listen to events too, and end when so many have come
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    events: u64,
    /// The file to write
    file: PathBuf,
    /// The domain by name or UUID
    domain: String,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let uri = match settings.endpoint()? {
        Endpoint::Libvirt(uri) => Uri::resolve(uri.as_deref(), &User::current()),
        _ => return Err(Failure::usage("only sessions with a libvirtd are recorded")),
    };
    let uri = uri.map_err(Error::from)?;
    args.batch.check()?;
    let mut interrupts = Interrupts::new()?;
    let config = config(settings.limit()).uri(uri.name());
    let (libvirt, recording) = interrupts.end(connect(&uri, config)).await?;
    let result = interrupts.end(session(&libvirt, &args, output)).await;
    // The goodbye is part of it.
    tokio::select! {
        _ = libvirt.close() => {}
        _ = interrupts.next() => {}
    }
    write(&recording, &args.file)?;
    result
}

/// What is done while it is recorded.
async fn session(libvirt: &Libvirt, args: &Args, output: &mut Output) -> Result<(), Failure> {
    let monitor = libvirt.monitor(args.domain.as_str());
    monitor.connect().await?;
    let mut events = match args.events {
        0 => None,
        _ => Some(monitor.events().await?),
    };
    lines(&monitor, &args.batch, args.how, output).await?;
    for _ in 0..args.events {
        let Some(events) = &mut events else { break };
        let event = next(events).await.ok_or(Error::Closed)??;
        output.line(as_text(&event)).await?;
    }
    drop(events);
    monitor.disconnect().await?;
    Ok(())
}

async fn connect(uri: &Uri, config: Config) -> Result<(Libvirt, Recording), Failure> {
    match uri.transport {
        Transport::Unix => {
            let sockets = uri.sockets(&User::current(), false).map_err(Error::from)?;
            let found = sockets.iter().find(|socket| socket.exists());
            let socket = found.or(sockets.last()).cloned().unwrap_or_default();
            let stream = UnixStream::connect(&socket).await;
            open(stream, socket.display().to_string(), config).await
        }
        Transport::Tcp => {
            let host = uri.host.clone().unwrap_or_default();
            let port = uri.port_or_default().unwrap_or_default();
            let stream = TcpStream::connect((host.as_str(), port)).await;
            open(stream, format!("{host}:{port}"), config).await
        }
        other => Err(Failure::usage(format!(
            "a session by {other} cannot be recorded, only by unix or tcp"
        ))),
    }
}

async fn open<T>(
    stream: std::io::Result<T>,
    target: String,
    config: Config,
) -> Result<(Libvirt, Recording), Failure>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = stream.map_err(|error| {
        let source = std::sync::Arc::new(error);
        Failure::connecting(Error::Connect { target, source })
    })?;
    let (stream, recording) = record(stream);
    let libvirt = Libvirt::open(stream, config).await;
    Ok((libvirt.map_err(Failure::connecting)?, recording))
}

fn write(recording: &Recording, file: &Path) -> Result<(), Failure> {
    let mut fixture = recording.fixture();
    let version = env!("CARGO_PKG_VERSION");
    fixture.notes.push(format!("Recorded by qmp {version}."));
    std::fs::write(file, fixture.to_string()).map_err(|error| {
        let what = format!("cannot write {}", file.display());
        Failure::new(Exit::Failed, format!("{what}: {error}"))
    })
}
