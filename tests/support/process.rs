//! Processes seen from outside: finding programs, waiting for a state, signals, and who names a path on its command
//! line. Reads /proc, so it is for Linux. Imports only std.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long anything in the lab may take before the test fails. Far above what it does take, so that a loaded machine
/// does not matter.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `poll` until it gives something. `None` when `limit` has passed.
pub(crate) fn poll_until<T>(limit: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = poll() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The search path of the lab: an ordinary user's leaves out the directories that hold libvirtd.
pub(crate) fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// Where a program is.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A TCP address of this machine on which nobody listens now. Someone may before it is used: see [`with_free_port`].
pub(crate) fn free_addr() -> SocketAddr {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port of the loopback address");
    listener.local_addr().expect("the address of a listener")
}

/// Starts something that listens on a TCP port of the loopback address, once more with another port where the first
/// was taken in the meantime.
///
/// # Panics
/// When `start` fails for any other reason, with what it said.
pub(crate) fn with_free_port<T>(what: &str, start: impl Fn(SocketAddr) -> Result<T, String>) -> T {
    let mut tries = 0;
    loop {
        tries += 1;
        match start(free_addr()) {
            Ok(started) => return started,
            Err(error) if tries < 5 && error.contains("Address already in use") => {}
            Err(error) => panic!("{what} did not start: {error}"),
        }
    }
}

/// A child process that ends with its owner.
pub(crate) struct Process(Mutex<Child>);

impl Process {
    /// Starts the command.
    ///
    /// # Panics
    /// When it cannot be started.
    pub(crate) fn new(command: &mut Command) -> Process {
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process(Mutex::new(child))
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.with(|child| child.id())
    }

    /// Whether it has ended and been reaped.
    pub(crate) fn has_ended(&self) -> bool {
        self.with(|child| child.try_wait().expect("the state of a child").is_some())
    }

    /// Kills it (SIGKILL) and reaps it. Does nothing to one that has ended.
    pub(crate) fn kill(&self) {
        self.with(|child| {
            child.kill().expect("one's own child can be killed");
            child.wait().expect("the state of a child");
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Child) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends `signal` (`STOP`, `CONT`, `KILL`) to a process and waits for its effect.
///
/// # Panics
/// When there is no such process or it does not react.
pub(crate) fn signal(pid: u32, signal: &str) {
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid.to_string()])
        .output()
        .expect("sh starts");
    assert!(
        sent.status.success(),
        "SIG{signal} for {pid}: {}",
        String::from_utf8_lossy(&sent.stderr)
    );
    let done = poll_until(PATIENCE, || {
        let states = thread_states(pid);
        match signal {
            "STOP" => !states.is_empty() && states.iter().all(|state| *state == 'T'),
            "CONT" => states.iter().all(|state| *state != 'T'),
            _ => states.iter().all(|state| matches!(*state, 'Z' | 'X')),
        }
        .then_some(())
    });
    assert!(
        done.is_some(),
        "process {pid} did not react to SIG{signal}: {:?}",
        thread_states(pid)
    );
}

/// The state letter of each thread of a process, as proc(5) has it. Empty when there is no such process.
fn thread_states(pid: u32) -> Vec<char> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let state = |stat: String| {
        stat.rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next())
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        .filter_map(state)
        .collect()
}

/// The processes that name `dir` or something in it on their command line, as `PID: COMMAND LINE`.
pub(crate) fn that_name(dir: &Path) -> Vec<String> {
    let wanted = dir.display().to_string();
    let described = |process: fs::DirEntry| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let command_line = fs::read(process.path().join("cmdline")).ok()?;
        let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
        command_line
            .contains(&wanted)
            .then(|| format!("{pid}: {command_line}"))
    };
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(described)
        .collect()
}
