//! `qmp wrap`: a QEMU of one's own, for as long as its commands take.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{DomainExt, Monitor, QmpListener, SocketMonitor};
use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::batch::Batch;
use super::run::{How, lines};
use crate::connect::{Settings, config};
use crate::failure::{Exit, Failure, chain, say};
use crate::interrupt::Interrupts;
use crate::output::Output;

/// How long QEMU may take to connect to us, unless `--timeout` says otherwise.
const START: Duration = Duration::from_secs(15);
/// How long QEMU may take to end when it is told to, before it is killed.
const END: Duration = Duration::from_secs(5);

const USAGE: &str = "qmp wrap [OPTIONS] -- PROGRAM [ARGUMENT]...
       qmp wrap [OPTIONS] -c LINE... -- PROGRAM [ARGUMENT]...
       qmp wrap [OPTIONS] -- PROGRAM [ARGUMENT]... < SCRIPT";

const HELP: &str = "\
Starts QEMU with one more monitor, `-qmp`, on a socket in a directory that is nobody
else's, runs the lines as `qmp run` does, or at a terminal those that are typed as
`qmp shell` does, and ends QEMU: it is told to quit, killed if it does not within
5 seconds, and ends with this program however that does. What QEMU prints goes to
standard error; its standard input is empty. There is nothing to connect to, so
`--connect` is refused.";

#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    batch: Batch,
    /// QEMU and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub(crate) program: Vec<OsString>,
}

/// What becomes QEMU: see [`become_qemu`].
#[derive(clap::Args)]
pub(crate) struct ChildArgs {
    parent: i32,
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    args.batch.check()?;
    with_qemu(settings, &args.program, async |monitor, interrupts| {
        let work = lines(&**monitor, &args.batch, args.how, output);
        interrupts.end(work).await
    })
    .await
}

impl Args {
    /// Whether there is a user to type commands, and none are given.
    pub(crate) fn are_for_a_user(&self) -> bool {
        self.batch.commands.is_empty() && io::stdin().is_terminal() && io::stdout().is_terminal()
    }
}

/// Starts QEMU, does `work` with its monitor, and ends it, however the work ends. A signal in the meantime kills it.
pub(crate) async fn with_qemu<T>(
    settings: &Settings,
    program: &[OsString],
    work: impl AsyncFnOnce(&Arc<dyn Monitor>, &mut Interrupts) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut interrupts = Interrupts::new()?;
    let mut qemu = Qemu::start(settings, program).await?;
    let connected = interrupts.end(qemu.connect(settings)).await;
    let (result, monitor) = match connected {
        Err(failure) => (Err(failure), None),
        Ok(monitor) => (work(&monitor, &mut interrupts).await, Some(monitor)),
    };
    let status = tokio::select! {
        status = qemu.end(monitor.as_deref()) => status,
        _ = interrupts.next() => qemu.kill().await,
    };
    match (&result, status) {
        // Why the connection ended says less than how QEMU did.
        (Err(failure), Some(status)) if failure.is_final() && !status.success() => {
            say(&format!("QEMU ended with {status}"));
        }
        _ => {}
    }
    result
}

/// A QEMU that is ours. Dropped, it is killed.
struct Qemu {
    child: Child,
    listener: QmpListener,
    /// Removed in the end, with the socket in it.
    _directory: TempDir,
}

impl Qemu {
    async fn start(settings: &Settings, program: &[OsString]) -> Result<Self, Failure> {
        let cannot = |error| Failure::system("cannot make a directory for QEMU's monitor", error);
        let mut place = tempfile::Builder::new();
        place
            .prefix("qmp-")
            .permissions(Permissions::from_mode(0o700));
        let directory = match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(runtime) => place.tempdir_in(runtime).or_else(|_| place.tempdir()),
            None => place.tempdir(),
        };
        let directory = directory.map_err(cannot)?;
        let config = config(settings.limit());
        let listener =
            SocketMonitor::listen_with_config(directory.path().join("qmp"), config).await?;
        let shown = program.first().map(|name| name.to_string_lossy());
        let shown = format!("cannot start {}", shown.unwrap_or_default());
        let child = command(program, &listener)
            .and_then(|mut command| command.spawn())
            .map_err(|error| Failure::system(&shown, error))?;
        Ok(Qemu {
            child,
            listener,
            _directory: directory,
        })
    }

    /// Waits until QEMU has connected, or has ended without that.
    async fn connect(&mut self, settings: &Settings) -> Result<Arc<dyn Monitor>, Failure> {
        let limit = settings.limit().unwrap_or(START);
        let monitor = tokio::select! {
            biased;
            monitor = self.listener.accept(limit) => monitor.map_err(Failure::connecting)?,
            status = self.child.wait() => {
                let status = status.map_err(|error| Failure::system("cannot wait for QEMU", error))?;
                let text = format!("QEMU ended before it had a monitor, with {status}");
                return Err(Failure::new(Exit::Failed, text));
            }
        };
        monitor.connect().await.map_err(Failure::connecting)?;
        Ok(Arc::new(monitor))
    }

    /// Has QEMU quit, kills it where it does not, and waits for it.
    async fn end(&mut self, monitor: Option<&dyn Monitor>) -> Option<ExitStatus> {
        let politely = async {
            if let Some(monitor) = monitor {
                // QEMU may go without an answer, and may have gone before.
                let _ = monitor.quit().await;
                let _ = monitor.disconnect().await;
                let _ = self.child.wait().await;
            }
        };
        let _ = tokio::time::timeout(END, politely).await;
        self.kill().await
    }

    /// Kills QEMU where it still lives, and waits for it.
    async fn kill(&mut self) -> Option<ExitStatus> {
        // It has a process group, with what it started. Of one that has ended already this gives the status alone.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id.and_then(Pid::from_raw) {
            let _ = kill_process_group(id, Signal::KILL);
        }
        match self.child.wait().await {
            Ok(status) => Some(status),
            Err(error) => {
                say(&chain(&error));
                None
            }
        }
    }
}

/// What starts QEMU: this program, which becomes it, so that it does not outlive us.
fn command(program: &[OsString], listener: &QmpListener) -> io::Result<Command> {
    let this = std::env::current_exe()?;
    let own_id = rustix::process::getpid().as_raw_pid();
    let printed = io::stderr().as_fd().try_clone_to_owned()?;
    let mut command = Command::new(this);
    command
        .args([CHILD, &own_id.to_string(), "--"])
        .args(program)
        .args(["-qmp", &listener.local_addr().to_string()])
        .stdin(Stdio::null())
        .stdout(printed)
        // Ctrl-C is for us: QEMU is told by its monitor.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

/// The hidden command of [`become_qemu`].
pub(crate) const CHILD: &str = "become-child-of";

/// Becomes QEMU, which the system ends when the one that started it ends, by whatever. Returns where it cannot.
pub(crate) fn become_qemu(args: &ChildArgs) -> Failure {
    let Some((program, arguments)) = args.program.split_first() else {
        return Failure::usage("no program given");
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return Failure::system("cannot be bound to another process", error.into());
    }
    // It may have ended before that.
    if getppid().map(Pid::as_raw_pid) != Some(args.parent) {
        return Failure::system("cannot start", io::ErrorKind::BrokenPipe.into());
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    Failure::system(
        &format!("cannot start {}", program.to_string_lossy()),
        error,
    )
}
