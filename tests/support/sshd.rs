//! A private sshd on the loopback interface, which lets this user in with one key. Imports `process` and `scratch`.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::{PATIENCE, Process, find_program, poll_until, search_path, with_free_port};
use super::scratch::{Scratch, is_root};

/// A running sshd. Dropping it ends it, with its connections.
pub(crate) struct Sshd {
    _daemon: Process,
    addr: SocketAddr,
    scratch: Scratch,
}

impl Sshd {
    /// Starts it and waits until it accepts. What it runs finds programs in `bin` of the scratch directory first.
    ///
    /// # Panics
    /// Where a program is missing, or it does not start.
    pub(crate) fn start() -> Sshd {
        Sshd::start_with(&format!(":{}", search_path()))
    }

    /// [`Sshd::start`] on a host that has a shell and grep, and else only the scripts of the test.
    pub(crate) fn start_bare() -> Sshd {
        let sshd = Sshd::start_with("");
        for name in ["sh", "grep"] {
            symlink(program(name), sshd.dir().join("bin").join(name)).expect("a new name");
        }
        sshd
    }

    fn start_with(path: &str) -> Sshd {
        for program in ["sshd", "ssh", "ssh-keygen", "nc"] {
            assert!(
                find_program(program).is_some(),
                "the live tests need {program}: run tests/run"
            );
        }
        with_free_port("sshd", |addr| Sshd::start_on(addr, path))
    }

    fn start_on(addr: SocketAddr, path: &str) -> Result<Sshd, String> {
        let scratch = Scratch::new();
        for key in ["host", "user", "stranger"] {
            let mut keygen = Command::new(program("ssh-keygen"));
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(scratch.path(key));
            assert!(keygen.status().expect("ssh-keygen starts").success());
        }
        fs::create_dir(scratch.path("bin")).expect("a new directory");
        if is_root() {
            // sshd as root locks its unprivileged part in there.
            fs::create_dir_all("/run/sshd").expect("root may");
        }
        let config = format!(
            "ListenAddress {addr}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             SetEnv PATH={}{path} LC_ALL=C\n",
            scratch.path("host").display(),
            scratch.path("user.pub").display(),
            scratch.path("bin").display(),
        );
        fs::write(scratch.path("sshd_config"), config).expect("a file in the scratch directory");
        let log = File::create(scratch.path("log")).expect("a file in the scratch directory");
        let mut command = Command::new(program("sshd"));
        command
            .args(["-D", "-e", "-f"])
            .arg(scratch.path("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let daemon = Process::new(&mut command);
        let up = poll_until(PATIENCE, || {
            if daemon.has_ended() {
                return Some(false);
            }
            TcpStream::connect(addr).is_ok().then_some(true)
        });
        match up {
            Some(true) => Ok(Sshd {
                _daemon: daemon,
                addr,
                scratch,
            }),
            _ => Err(scratch.text("log")),
        }
    }

    /// Puts a shell script on the search path of what runs behind ssh. Gives its path.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let file = self.scratch.path("bin").join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("a file in the scratch directory");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("one's own file");
        file
    }

    /// The URI of `qemu:///session` behind this sshd, for whoever has the key; more parameters begin with `&`.
    pub(crate) fn uri(&self, key: &str, parameters: &str) -> String {
        format!(
            "qemu+ssh://127.0.0.1:{}/session?keyfile={}&known_hosts={}&no_tty=1&sshauth=privkey{parameters}",
            self.addr.port(),
            self.scratch.path(key).display(),
            self.scratch.path("known_hosts").display()
        )
    }

    /// The scratch directory, which each ssh that leads here names on its command line.
    pub(crate) fn dir(&self) -> &Path {
        self.scratch.dir()
    }

    pub(crate) fn log(&self) -> String {
        self.scratch.text("log")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("sshd's log, of a test that failed:\n{}", self.log());
        }
    }
}

/// sshd wants to be started by its whole path.
fn program(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| panic!("{name} was there before"))
}
