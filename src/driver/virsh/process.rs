//! The processes of a virsh monitor: how each is started, and how it is ended and reaped whatever becomes of the runtime.
//! Imports config and error.
//!
//! The standard library's processes, not tokio's: a child of tokio that is dropped stays a zombie until a runtime happens to
//! look after it, which is never where there is none any more.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tracing::debug;

use crate::config::Config;
use crate::error::Error;
use crate::reconnect;

/// How long a process may take to end when it has been asked to, before it is killed.
const GRACE: Duration = Duration::from_millis(500);

/// How long standard error is waited for once standard output has ended: something that virsh started may hold it open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a process may say in all. libvirt's own limit for a reply is a quarter of it.
const MOST_OUTPUT: u64 = 16 << 20;

/// What makes virsh or libvirt say more than it is asked for, in another language, or in another width.
const UNWANTED: [&str; 11] = [
    "LANG",
    "LANGUAGE",
    "COLUMNS",
    "LINES",
    "VIRSH_DEBUG",
    "VIRSH_LOG_FILE",
    "LIBVIRT_DEBUG",
    "LIBVIRT_LOG_FILTERS",
    "LIBVIRT_LOG_OUTPUTS",
    "INPUTRC",
    "VIRSH_HISTSIZE",
];

/// Lets a line with a TAB in it stay what it is; and whatever the user has set for readline does not count.
const INPUTRC: &str = "set disable-completion on\n";

/// How virsh is started for one monitor.
#[derive(Clone)]
pub(super) struct Launcher {
    pub(super) program: OsString,
    pub(super) uri: String,
    pub(super) config: Config,
}

impl Launcher {
    /// One virsh that reads commands, a line each, until its input ends.
    pub(super) fn interactive(&self) -> Result<Started, Error> {
        let dir = PrivateDir::new().map_err(|error| self.failed(error))?;
        let inputrc = dir.0.join("inputrc");
        fs::write(&inputrc, INPUTRC).map_err(|error| self.failed(error))?;
        let mut command = self.command();
        // At its end it writes its history, empty or not, to the cache directory. A session daemon started by it would have
        // that directory for its own, so it starts none: the look-up before has, where one was needed.
        command
            .env("VIRSH_HISTSIZE", "0")
            .env("XDG_CACHE_HOME", &dir.0)
            .env("INPUTRC", inputrc)
            .env("LIBVIRT_AUTOSTART", "0");
        let ending = Ending {
            dir: Some(dir),
            interrupt: false,
        };
        self.start(command, Stdio::piped(), ending)
    }

    /// A virsh for one command, with `stdin` for its standard input.
    pub(super) fn one_command(
        &self,
        arguments: &[&str],
        stdin: Option<OwnedFd>,
    ) -> Result<Started, Error> {
        let mut command = self.command();
        command.args(arguments);
        let ending = Ending {
            dir: None,
            interrupt: false,
        };
        self.start(command, stdin.map_or_else(Stdio::null, Stdio::from), ending)
    }

    /// A virsh that runs one command until it is interrupted, and logs its calls on standard error.
    pub(super) fn lasting(&self, arguments: &[&str]) -> Result<Started, Error> {
        let mut command = self.command();
        command
            .args(arguments)
            .env("LIBVIRT_LOG_FILTERS", "2:rpc.netclient")
            .env("LIBVIRT_LOG_OUTPUTS", "2:stderr");
        let ending = Ending {
            dir: None,
            interrupt: true,
        };
        self.start(command, Stdio::null(), ending)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-q");
        if self.config.readonly {
            command.arg("-r");
        }
        match self.config.keepalive {
            Some(keepalive) => {
                // virsh takes both for an `int`, and refuses what is none.
                let most = i32::MAX.unsigned_abs();
                let seconds = keepalive.interval.as_millis().div_ceil(1000);
                let seconds = seconds.min(most.into());
                command.args(["-k", &seconds.to_string()]);
                command.args(["-K", &keepalive.count.min(most).to_string()]);
            }
            None => drop(command.args(["-k", "0"])),
        }
        command.args(["-c", &self.uri]);
        for name in UNWANTED {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").env("TERM", "dumb");
        // A ^C is for the user's program, which decides itself what becomes of its monitors. And what virsh starts, such as
        // ssh, can be ended along with it.
        command.process_group(0);
        command
    }

    fn start(&self, mut command: Command, stdin: Stdio, ending: Ending) -> Result<Started, Error> {
        reconnect::refuse(&self.config, "virsh")?;
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.failed(error))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let process = Process::new(child, ending);
        debug!(target: "libvirt_qmp::virsh", pid = process.pid, "virsh started");
        let (stdin, Some(stdout), Some(stderr)) = pipes else {
            return Err(self.failed(io::ErrorKind::BrokenPipe.into()));
        };
        let to_reader = |fd: OwnedFd| pipe::Receiver::from_owned_fd(fd);
        let opened = || -> io::Result<Started> {
            Ok(Started {
                stdin: stdin
                    .map(|stdin| pipe::Sender::from_owned_fd(stdin.into()))
                    .transpose()?,
                stdout: to_reader(stdout.into())?,
                stderr: to_reader(stderr.into())?,
                process,
            })
        };
        opened().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Error {
        let program = self.program.to_string_lossy().into_owned();
        match error.kind() {
            io::ErrorKind::NotFound => {
                Error::Unsupported(format!("there is no program `{program}` to start"))
            }
            _ => Error::Connect {
                target: program,
                source: Arc::new(error),
            },
        }
    }
}

/// A virsh that has been started, and this end of its pipes.
pub(super) struct Started {
    /// None where it was given something else.
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    pub(super) process: Process,
}

/// What a process has said.
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Started {
    /// All that it says until it ends. Dropping the future kills it.
    pub(super) async fn output(self) -> io::Result<Output> {
        let Started {
            stdout,
            mut stderr,
            process,
            ..
        } = self;
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let mut stdout = stdout.take(MOST_OUTPUT);
        tokio::select! {
            result = stdout.read_to_end(&mut said) => drop(result?),
            // What it says there alone is of no use, and its end says nothing.
            never = drain(&mut stderr, &mut complained) => match never {},
        }
        last_words(&mut stderr, &mut complained).await;
        process.end(false);
        Ok(Output {
            stdout: said,
            stderr: complained,
        })
    }
}

/// Reads to the end, and then waits for ever.
async fn drain(from: &mut (impl AsyncRead + Unpin), to: &mut Vec<u8>) -> std::convert::Infallible {
    let _ = from.take(MOST_OUTPUT).read_to_end(to).await;
    std::future::pending().await
}

/// Reads what is left of the standard error of a process whose standard output has ended.
pub(super) async fn last_words(stderr: &mut (impl AsyncRead + Unpin), to: &mut Vec<u8>) {
    let mut rest = stderr.take(MOST_OUTPUT);
    let _ = tokio::time::timeout(LAST_WORDS, rest.read_to_end(to)).await;
}

/// What ends with a process.
struct Ending {
    dir: Option<PrivateDir>,
    /// Whether it ends on SIGINT; another one ends when its standard input does.
    interrupt: bool,
}

/// A process that is ended and reaped when the last of its handles goes.
#[derive(Clone)]
pub(super) struct Process {
    handle: Arc<Handle>,
    pid: u32,
}

struct Handle {
    /// None once it is being ended.
    running: Mutex<Option<Running>>,
    /// Its sender goes when everything is gone.
    gone: watch::Receiver<()>,
}

impl Process {
    fn new(child: Child, Ending { dir, interrupt }: Ending) -> Self {
        let (alive, gone) = watch::channel(());
        let pid = child.id();
        let running = Running {
            child,
            interrupt,
            _dir: dir,
            _alive: alive,
        };
        Process {
            handle: Arc::new(Handle {
                running: Mutex::new(Some(running)),
                gone,
            }),
            pid,
        }
    }

    /// Ends it without waiting: at once by SIGKILL, or by asking and, where it has not gone half a second later, by SIGKILL
    /// too. The first call counts.
    pub(super) fn end(&self, at_once: bool) {
        self.handle.end(at_once);
    }

    /// Waits until it is reaped, after [`end`](Process::end).
    pub(super) async fn gone(&self) {
        let mut gone = self.handle.gone.clone();
        while gone.changed().await.is_ok() {}
    }
}

impl Handle {
    fn end(&self, at_once: bool) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(running) = running else { return };
        // Even SIGKILL takes its time, and whoever drops a monitor may be on a runtime, whose thread must not wait. Where
        // no thread can be had, the closure is dropped, which ends the process as surely.
        if at_once {
            running.kill();
        } else if running.interrupt && !running.has_ended() {
            let _ = kill_process(running.pid(), Signal::INT);
        }
        let _ = thread::Builder::new()
            .name("virsh-end".to_owned())
            .spawn(move || running.wait_for(GRACE));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end(true);
    }
}

/// A process that has not been reaped. Its fields go in this order, once it has.
struct Running {
    child: Child,
    interrupt: bool,
    _dir: Option<PrivateDir>,
    _alive: watch::Sender<()>,
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it has ended. It stays unreaped, so that its id is nobody else's.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid()), options), Ok(None))
    }

    fn wait_for(self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        while !self.has_ended() && Instant::now() < until {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Kills it and what it has started.
    fn kill(&self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let status = self.child.wait();
        debug!(target: "libvirt_qmp::virsh", pid = self.child.id(), ?status, "virsh ended");
    }
}

/// A fresh directory that only its owner may enter, and that goes with everything in it.
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn new() -> io::Result<Self> {
        let base = std::env::temp_dir();
        loop {
            // The keys of std's hasher are random.
            let random = RandomState::new().build_hasher().finish();
            let dir = base.join(format!("libvirt-qmp-{}-{random:016x}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => return Ok(PrivateDir(dir)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    // Not `NotFound`, which would be taken for the program's.
                    let text = format!("cannot make {}: {error}", dir.display());
                    return Err(io::Error::other(text));
                }
            }
        }
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let program: &OsStr = &self.program;
        f.debug_struct("Launcher")
            .field("program", &program)
            .field("uri", &self.uri)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_is_what_virsh_takes() {
        let launcher = |keepalive| Launcher {
            program: "virsh".into(),
            uri: "test:///default".to_owned(),
            config: Config::new().keepalive(keepalive),
        };
        for (keepalive, expected) in [
            (None, &["-k", "0"][..]),
            (Some((Duration::from_millis(1), 0)), &["-k", "1", "-K", "0"]),
            (
                Some((Duration::from_millis(2001), 7)),
                &["-k", "3", "-K", "7"],
            ),
            (
                Some((Duration::MAX, u32::MAX)),
                &["-k", "2147483647", "-K", "2147483647"],
            ),
        ] {
            let command = launcher(keepalive).command();
            let arguments: Vec<_> = command.get_args().collect();
            assert_eq!(arguments[1..arguments.len() - 2], *expected);
        }
    }
}
