//! A scratch directory that takes everything with it: when its owner drops it, and also when its owner is killed,
//! every process that names the directory on its command line is killed and the directory removed. Imports `process`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Waits for the end of its standard input, which comes when the owner drops the [`Scratch`] or dies, however it
/// dies. libvirtd's guests are daemons of their own, so no parent-death signal and no process group reaches them:
/// the path on their command line is what they have in common. The path is passed in the environment to keep it off
/// the command lines of this shell and of grep.
const REAPER: &str = r#"
trap '' HUP INT TERM
read -r end_of_file
tries=0
while found=$(printf '%s/' "$LAB_SCRATCH" | grep -laF -f - /proc/[0-9]*/cmdline 2>/dev/null); [ -n "$found" ]; do
    for file in $found; do
        pid=${file#/proc/}
        kill -KILL "${pid%/cmdline}" 2>/dev/null
    done
    tries=$((tries + 1))
    [ "$tries" -lt 500 ] || exit 1
    sleep 0.01
done
rm -rf "$LAB_SCRATCH"
"#;

/// The longest path of a directory under which every socket of the lab stays below the 107 bytes a unix socket
/// address can hold. The longest one is libvirtd's: `/lab-PID-N/config/libvirt/qemu/lib/domain-ID-NAME/monitor.sock`.
const LONGEST_BASE: usize = 16;

/// A fresh directory, and the process that sees to its end.
pub(crate) struct Scratch {
    dir: PathBuf,
    reaper: Child,
}

impl Scratch {
    /// Makes an empty directory of this process and starts its reaper.
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = base();
        let dir = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = base.join(format!("lab-{}-{number}", std::process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => break dir,
                // Left by an earlier process of this id.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make {}: {error}", dir.display()),
            }
        };
        let reaper = Command::new("sh")
            .args(["-c", REAPER, "lab-reaper"])
            .env("LAB_SCRATCH", &dir)
            .stdin(Stdio::piped())
            // It must not hold open the output that someone reads to its end.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal for the test run's process group, as ^C is, must leave it alive.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Scratch { dir, reaper }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The text of a file in the directory; empty where there is none.
    pub(crate) fn text(&self, name: &str) -> String {
        fs::read(self.path(name)).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        let gone = self.reaper.wait().is_ok_and(|status| status.success());
        if !gone && !std::thread::panicking() {
            panic!("the lab left something behind in {}", self.dir.display());
        }
    }
}

/// The directory for temporary files, or /tmp where that is too long for a socket address or closed to the ordinary
/// user that the daemon runs as.
fn base() -> PathBuf {
    let base = std::env::temp_dir();
    let short = base.as_os_str().len() <= LONGEST_BASE;
    let open =
        |dir: &Path| fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 1 == 1);
    let usable = short && base.is_absolute() && (!is_root() || base.ancestors().all(open));
    if usable { base } else { PathBuf::from("/tmp") }
}

/// Whether this process is the superuser's.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}
