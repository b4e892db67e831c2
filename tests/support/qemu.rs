//! A bare QEMU with QMP on three sockets, for the drivers that need no libvirt. Imports `process` and `scratch`.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::{PATIENCE, Process, find_program, poll_until, signal, with_free_port};
use super::scratch::Scratch;

/// The program.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// What every QEMU here is.
const MACHINE: &str = "-display none -nodefaults -no-user-config -machine pc -accel tcg -m 32";

/// A QEMU of the same kind without any monitor, to be started by the test. Where it outlives the test process it is killed,
/// as all that name the scratch directory.
///
/// # Panics
/// When the program is missing.
pub(crate) fn command(scratch: &Scratch) -> Command {
    let Some(program) = find_program(PROGRAM) else {
        panic!("the live tests need {PROGRAM}: run tests/run");
    };
    let mut command = Command::new(program);
    command
        .args(MACHINE.split(' '))
        .arg("-pidfile")
        .arg(scratch.path("pid"));
    command
}

/// A running QEMU: machine `pc`, 32 MiB, no disk, translated code (no KVM), with a QMP monitor on a unix socket, one
/// on TCP, and one that prints over several lines (`pretty=on`) on another unix socket. Nobody has connected to any of
/// the three. Dropping it kills and reaps the process.
pub(crate) struct Qemu {
    // Before `scratch`: fields drop in this order, and the child is to be reaped by its parent.
    process: Process,
    tcp: SocketAddr,
    scratch: Scratch,
}

impl Qemu {
    /// Starts QEMU with these arguments after its own, and waits until all three monitors answer.
    ///
    /// # Panics
    /// When the program is missing or ends, with what it wrote to standard error.
    pub(crate) fn start(extra_args: &[&str]) -> Qemu {
        let Some(program) = find_program(PROGRAM) else {
            panic!("the live tests need {PROGRAM}: run tests/run");
        };
        with_free_port("QEMU", |tcp| Qemu::start_on(&program, tcp, extra_args))
    }

    fn start_on(program: &Path, tcp: SocketAddr, extra_args: &[&str]) -> Result<Qemu, String> {
        let scratch = Scratch::new();
        let listen =
            |name: &str| format!("path={},server=on,wait=off", scratch.path(name).display());
        let process = Process::new(
            Command::new(program)
                .args(MACHINE.split(' '))
                .args([
                    "-qmp",
                    &format!("unix:{},server=on,wait=off", scratch.path("qmp").display()),
                ])
                .args(["-qmp", &format!("tcp:{tcp},server=on,wait=off")])
                .args([
                    "-chardev",
                    &format!("socket,id=lab-pretty,{}", listen("pretty")),
                ])
                .args(["-mon", "chardev=lab-pretty,mode=control,pretty=on"])
                // For this file alone, so that a test is the first client of each of the others.
                .args([
                    "-chardev",
                    &format!("socket,id=lab-ready,{}", listen("ready")),
                ])
                .args(["-mon", "chardev=lab-ready,mode=control"])
                .args(extra_args)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(scratch.path("stderr")).expect("a file for standard error")),
        );
        // QEMU opens every monitor before it serves one, so a greeting on the last says that all listen.
        let greeted = poll_until(PATIENCE, || {
            if process.has_ended() {
                return Some(false);
            }
            let mut ready = UnixStream::connect(scratch.path("ready")).ok()?;
            ready.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            (ready.read(&mut [0; 1]).ok()? == 1).then_some(true)
        });
        if greeted == Some(true) {
            Ok(Qemu {
                process,
                tcp,
                scratch,
            })
        } else {
            Err(scratch.text("stderr"))
        }
    }

    /// The unix socket of the first monitor.
    pub(crate) fn unix_path(&self) -> PathBuf {
        self.scratch.path("qmp")
    }

    /// The TCP address of the second monitor.
    pub(crate) fn tcp_addr(&self) -> SocketAddr {
        self.tcp
    }

    /// The unix socket of the monitor with `pretty=on`.
    pub(crate) fn pretty_path(&self) -> PathBuf {
        self.scratch.path("pretty")
    }

    /// The scratch directory: free for a test's own files, and gone with the `Qemu`.
    pub(crate) fn dir(&self) -> &Path {
        self.scratch.dir()
    }

    /// What QEMU wrote to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.scratch.text("stderr")
    }

    /// The id of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Stops the process (SIGSTOP): its sockets accept, and nothing answers.
    pub(crate) fn pause(&self) {
        signal(self.pid(), "STOP");
    }

    /// Lets the process go on (SIGCONT).
    pub(crate) fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    /// Kills the process (SIGKILL) and reaps it. The socket files stay.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Waits until the process has ended by itself, as after `quit`.
    ///
    /// # Panics
    /// When it has not after half a minute.
    pub(crate) fn wait_ended(&self) {
        let ended = poll_until(PATIENCE, || self.process.has_ended().then_some(()));
        assert!(ended.is_some(), "QEMU still runs");
    }
}
