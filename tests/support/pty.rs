//! The program in a pseudo-terminal, and what its user sees: a thread reads all the time what is written to the terminal
//! and keeps its screen. Tests wait for what the screen has to show, and never for a time.
//!
//! Not in `support/mod.rs`, since only the tests of the program can name it: they take this file in by its path. Imports nothing
//! of `support`.
#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use vt100::Parser;

/// How long anything may take on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const ROWS: u16 = 40;
pub(crate) const COLUMNS: u16 = 100;

pub(crate) const UP: &str = "\x1b[A";
pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_D: &str = "\x04";

pub(crate) struct Pty {
    child: Child,
    master: File,
    seen: Arc<Seen>,
}

struct Seen {
    screen: Mutex<Screen>,
    changed: Condvar,
}

struct Screen {
    parser: Parser,
    /// Everything that was written, escape sequences included.
    raw: Vec<u8>,
    ended: bool,
}

impl Pty {
    /// `qmp` with these arguments, and with `home` for its files.
    pub(crate) fn qmp(arguments: &[&str], home: &Path) -> Self {
        Pty::qmp_on("xterm", arguments, home)
    }

    /// The same on a terminal of this kind.
    pub(crate) fn qmp_on(kind: &str, arguments: &[&str], home: &Path) -> Self {
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_qmp")])
            .args(arguments)
            .env_remove("LIBVIRT_DEFAULT_URI")
            .env_remove("QMP_SOCKET")
            .env_remove("NO_COLOR")
            .env_remove("TERM_PROGRAM")
            .env_remove("TMUX")
            .env_remove("STY")
            .env("HOME", home)
            .env("XDG_STATE_HOME", home.join("state"))
            .env("TERM", kind);
        Pty::start(command)
    }

    /// A program on a terminal of its own, which `setsid --ctty` makes the controlling one.
    fn start(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, size(ROWS, COLUMNS)).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || {
            let mut options = File::options();
            OwnedFd::from(
                options
                    .read(true)
                    .write(true)
                    .open(name.to_str().unwrap())
                    .unwrap(),
            )
        };
        command.stdin(open()).stdout(open()).stderr(open());
        let child = command.spawn().expect("setsid of util-linux");
        // It holds the other end, which then ends with the program.
        drop(command);
        let seen = Arc::new(Seen {
            screen: Mutex::new(Screen {
                parser: Parser::new(some(ROWS), some(COLUMNS), 1000),
                raw: Vec::new(),
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let master = File::from(master);
        let (mut reader, its_seen) = (master.try_clone().unwrap(), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // An error is the end of a terminal that nobody has open.
                let read = reader.read(&mut buffer).unwrap_or(0);
                // A test that has failed still wants to see the rest.
                let lock = its_seen.screen.lock();
                let mut screen = lock.unwrap_or_else(PoisonError::into_inner);
                screen.parser.process(&buffer[..read]);
                screen.raw.extend_from_slice(&buffer[..read]);
                screen.ended = read == 0;
                its_seen.changed.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Pty {
            child,
            master,
            seen,
        }
    }

    /// Types.
    pub(crate) fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line.
    pub(crate) fn enter(&mut self, line: &str) {
        self.send(line);
        self.send("\r");
    }

    /// Waits until the screen has this text somewhere.
    pub(crate) fn wait_for(&self, text: &str) {
        self.wait_until(&format!("`{text}`"), |screen| screen.contains(text));
    }

    /// Waits until the line with the cursor is this one, blanks at its end aside.
    pub(crate) fn wait_for_line(&self, line: &str) {
        let what = format!("`{line}` in the line of the cursor");
        self.wait(&what, |screen| {
            let row = screen.parser.screen().cursor_position().0;
            lines(&screen.parser)[usize::from(row)].trim_end() == line.trim_end()
        });
    }

    /// Waits until this was written, escape sequences included.
    pub(crate) fn wait_for_raw(&self, text: &str) {
        self.wait(&format!("{text:?}"), |screen| {
            String::from_utf8_lossy(&screen.raw).contains(text)
        });
    }

    /// Waits until the cursor is in this column.
    pub(crate) fn wait_for_column(&self, column: u16) {
        self.wait(&format!("cursor in column {column}"), |screen| {
            screen.parser.screen().cursor_position().1 == column
        });
    }

    /// Presses TAB until the line with the cursor is this one. What QEMU is asked for may not come in time for the first:
    /// the bell rings then.
    pub(crate) fn tab_until(&mut self, line: &str) {
        let bells = |screen: &Screen| screen.raw.iter().filter(|byte| **byte == 7).count();
        let is_there = |screen: &Screen| {
            let row = screen.parser.screen().cursor_position().0;
            lines(&screen.parser)[usize::from(row)].trim_end() == line.trim_end()
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let before = bells(&self.lock());
            self.send("\t");
            self.wait(&format!("`{line}` by TAB"), |screen| {
                is_there(screen) || bells(screen) > before
            });
            if is_there(&self.lock()) {
                return;
            }
        }
        panic!("no `{line}` by TAB:\n{}", self.screen());
    }

    /// Waits until the text of the screen is as wanted.
    pub(crate) fn wait_until(&self, what: &str, is_there: impl Fn(&str) -> bool) {
        self.wait(what, |screen| is_there(&screen.parser.screen().contents()));
    }

    fn wait(&self, what: &str, is_there: impl Fn(&Screen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut screen = self.seen.screen.lock().unwrap();
        while !is_there(&screen) {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_over = screen.ended || left.is_zero();
            assert!(
                !is_over,
                "no {what} on the screen:\n{}",
                screen.parser.screen().contents()
            );
            screen = self.seen.changed.wait_timeout(screen, left).unwrap().0;
        }
    }

    /// The text of the screen.
    pub(crate) fn screen(&self) -> String {
        self.lock().parser.screen().contents()
    }

    /// Everything that was written, escape sequences included.
    pub(crate) fn raw(&self) -> String {
        String::from_utf8_lossy(&self.lock().raw).into_owned()
    }

    fn lock(&self) -> MutexGuard<'_, Screen> {
        self.seen.screen.lock().unwrap()
    }

    /// Gives the terminal another size, of which the program gets a signal.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        self.lock()
            .parser
            .screen_mut()
            .set_size(some(rows), some(columns));
        tcsetwinsize(&self.master, size(rows, columns)).unwrap();
    }

    /// Whether the terminal edits lines by itself, as it does outside of the program.
    pub(crate) fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.master).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// The process id of the program.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the program, and gives its exit code.
    pub(crate) fn end(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        let mut screen = self.seen.screen.lock().unwrap();
        while !screen.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "it does not end:\n{}",
                screen.parser.screen().contents()
            );
            screen = self.seen.changed.wait_timeout(screen, left).unwrap().0;
        }
        drop(screen);
        let status: ExitStatus = self.child.wait().unwrap();
        status.code().expect("an exit code")
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(parser: &Parser) -> Vec<String> {
    let (_, columns) = parser.screen().size();
    parser.screen().rows(0, columns.into()).collect()
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn some(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a size")
}
