//! `qmp replay`: a recorded session, served on a unix socket.

use std::path::{Path, PathBuf};

use libvirt_qmp::replay::Replay;
use tokio::net::UnixListener;

use crate::connect::{opened_uri, read_fixture};
use crate::failure::{Exit, Failure, chain, say};
use crate::interrupt::Interrupts;
use crate::output::Output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A recording, made by `qmp record` or by the library
    file: PathBuf,
    /// Where to make the socket
    #[arg(long, value_name = "PATH")]
    listen: PathBuf,
    /// End after the first client; a client that does something else than the recorded one is an error then
    #[arg(long)]
    once: bool,
}

pub(crate) async fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    let fixture = read_fixture(&args.file)?;
    let uri = opened_uri(&fixture);
    let replay = Replay::new(fixture);
    let shown = args.listen.display().to_string();
    let listener = UnixListener::bind(&args.listen)
        .map_err(|error| Failure::system(&format!("cannot listen on {shown}"), error))?;
    let _file = SocketFile(&args.listen);
    let serve = async {
        output.line(client_uri(&uri, &shown)).await?;
        loop {
            let (stream, _) = listener
                .accept()
                .await
                .map_err(|error| Failure::system(&format!("cannot listen on {shown}"), error))?;
            match replay.serve(stream).await {
                Ok(()) if args.once => return Ok(()),
                Err(error) if args.once => return Err(Failure::new(Exit::Failed, error)),
                Ok(()) => {}
                Err(error) => say(&chain(&error)),
            }
        }
    };
    interrupts.end(serve).await
}

/// The URI by which a client connects to the socket and opens what was recorded.
fn client_uri(opened: &str, socket: &str) -> String {
    let (driver, path) = opened.split_once("://").unwrap_or(("qemu", "/session"));
    let driver = if driver.is_empty() { "qemu" } else { driver };
    format!("{driver}+unix://{path}?socket={socket}")
}

/// The file of a socket, removed when it goes.
struct SocketFile<'a>(&'a Path);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        // What cannot be removed stays, and nobody listens on it.
        let _ = std::fs::remove_file(self.0);
    }
}
