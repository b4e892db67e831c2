//! A guest with Linux in it and a guest agent that libvirt talks to: a kernel of Debian's, and an initial file system made here
//! of busybox and this machine's own `qemu-ga`. Imports `guest_agent` for the program's name, `lab` and `process`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::guest_agent::PROGRAM as AGENT;
use super::lab::{Guest, Lab, uuid_of};
use super::process::{PATIENCE, find_program};
use super::qemu::PROGRAM as QEMU;

/// What the guest calls itself.
pub(crate) const HOSTNAME: &str = "tiny-guest";

/// Where the guest's disk is mounted, the one file system that can be frozen.
pub(crate) const DISK: &str = "/disk";

/// What the guest says of itself, in /etc/os-release.
const OS_RELEASE: &str =
    "ID=tiny\nNAME=\"Tiny Guest\"\nPRETTY_NAME=\"Tiny Guest 1\"\nVERSION_ID=1\n";

/// The bytes of the disk.
const DISK_SIZE: u64 = 4 << 20;

/// What the kernel is told. The rest of it makes it boot faster.
const CMDLINE: &str = "console=ttyS0 quiet cryptomgr.notests mitigations=off nokaslr";

/// The first process of the guest. Programs other than busybox's are the agent and those that the agent calls.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
hostname -F /etc/hostname
ifconfig lo 127.0.0.1

# Some modules need others first, and which do differs between kernels.
while set -- /modules/*.ko && [ -e "$1" ]; do
    loaded=no
    for module; do insmod "$module" 2>/dev/null && rm "$module" && loaded=yes; done
    [ $loaded = yes ] || break
done

until [ -b /dev/vda ]; do usleep 10000; done
mke2fs /dev/vda >/dev/null
mount -t ext2 /dev/vda /disk

# The device of a virtio channel, once it is there.
channel() {
    while :; do
        for found in /sys/class/virtio-ports/*; do
            read -r name <"$found/name" && [ "$name" = "$1" ] && echo "/dev/${found##*/}" && return
        done
        usleep 10000
    done 2>/dev/null
}

# What the test says here is run, and answered with the output and a line that ends it.
exec 3<>"$(channel shell)"
while read -r line <&3; do
    eval "$line" </dev/null >&3 2>&1
    printf '\036%s\n' $? >&3
done &

agent=$(channel org.qemu.guest_agent.0)
# An agent that has ended is started again as soon as somebody writes to the pipe.
mkfifo /run/again
while :; do
    sh -c 'echo $$ >/run/agent.pid; exec qemu-ga -m virtio-serial -p "$0" -t /run' "$agent"
    echo "the agent has ended: $?"
    read -r line </run/again
done
"#;

/// What the agent runs to end the guest.
const SHUTDOWN: &str = r#"#!/bin/sh
case " $* " in
    *' -r '*) exec reboot -f ;;
    *) exec poweroff -f ;;
esac
"#;

/// What the agent gives a user's new password to. It keeps what it is told, in place of a hash. Where the pipes are it says that
/// it has begun, and goes on when it is told to: the agent does nothing else until then.
const CHPASSWD: &str = r#"#!/bin/sh
{ printf '%s\n' "$*"; cat; } >/run/passwords
[ ! -p /run/begun ] || { echo >/run/begun; read -r line </run/go; }
"#;

/// The programs of busybox that the guest has.
const APPLETS: [&str; 17] = [
    "sh", "cat", "echo", "hostname", "ifconfig", "insmod", "kill", "mke2fs", "mkfifo", "mount",
    "poweroff", "printf", "reboot", "rm", "seq", "uname", "usleep",
];

/// A running guest of a [`Lab`]: 256 MiB, one translated CPU (no KVM), a small disk. It starts the agent by itself, about two
/// seconds after it was started; libvirt says when by its event of the agent.
pub(crate) struct LinuxGuest {
    /// Its name and UUID in libvirt.
    pub(crate) guest: Guest,
    shell: Mutex<BufReader<UnixStream>>,
    log: PathBuf,
}

impl LinuxGuest {
    /// Defines and starts a guest. It boots on return.
    ///
    /// # Panics
    /// When what it boots from has not been fetched, or libvirt does not start it.
    pub(crate) fn start(lab: &Lab, name: &str) -> LinuxGuest {
        let file = |what: &str| lab.dir().join(format!("{name}.{what}"));
        let [kernel, initrd, disk, log, shell] =
            ["kernel", "initrd", "disk", "log", "sh"].map(file);
        // The daemon's user may not look into the directory of the build.
        fs::copy(fetched("vmlinuz"), &kernel).expect("a file in the scratch directory");
        fs::write(&initrd, initial_files()).expect("a file in the scratch directory");
        File::create(&disk)
            .and_then(|file| {
                file.set_len(DISK_SIZE)?;
                file.set_permissions(Permissions::from_mode(0o666))
            })
            .expect("a file in the scratch directory");
        let uuid = uuid_of(name);
        let qemu = find_program(QEMU).expect("checked when the lab started");
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>\
             <cmdline>{CMDLINE}</cmdline></os><features><acpi/></features><devices><emulator>{}</emulator>\
             <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk>\
             <serial type='file'><source path='{}'/><target port='0'/></serial>\
             <channel type='unix'><source mode='bind' path='{}'/><target type='virtio' name='shell'/></channel>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
             <controller type='usb' model='none'/><memballoon model='none'/><video><model type='none'/></video>\
             </devices><seclabel type='none'/></domain>",
            kernel.display(),
            initrd.display(),
            qemu.display(),
            disk.display(),
            log.display(),
            shell.display(),
        );
        let definition = file("xml");
        fs::write(&definition, xml).expect("a file in the scratch directory");
        lab.virsh(&["define", &definition.display().to_string()]);
        lab.virsh(&["start", name]);
        lab.keep_capabilities();
        let shell = UnixStream::connect(&shell).expect("QEMU listens");
        shell
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout above zero");
        let name = name.to_owned();
        LinuxGuest {
            guest: Guest { name, uuid },
            shell: Mutex::new(BufReader::new(shell)),
            log,
        }
    }

    /// Has the guest's shell run a line, behind the agent's back, and gives what it wrote. Once the agent has been seen: the
    /// guest does not listen before.
    ///
    /// # Panics
    /// When it fails, or the guest does not answer.
    pub(crate) fn shell(&self, line: &str) -> String {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        shell
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .expect("QEMU listens");
        let mut output = String::new();
        loop {
            let start = output.len();
            let read = shell.read_line(&mut output);
            assert!(read.is_ok_and(|read| read > 0), "{line}: {output}");
            if let Some(status) = output[start..].strip_prefix('\u{1e}') {
                assert_eq!(status, "0\n", "{line}: {output}");
                output.truncate(start);
                return output;
            }
        }
    }

    /// Stops the agent (SIGSTOP): its channel stays open, and nothing answers.
    pub(crate) fn stop_agent(&self) {
        self.shell("kill -STOP $(cat /run/agent.pid)");
    }

    /// Lets a stopped agent go on (SIGCONT).
    pub(crate) fn resume_agent(&self) {
        self.shell("kill -CONT $(cat /run/agent.pid)");
    }

    /// Kills the agent (SIGKILL), which closes its channel.
    pub(crate) fn kill_agent(&self) {
        self.shell("kill -KILL $(cat /run/agent.pid)");
    }

    /// Starts the agent that was killed.
    pub(crate) fn start_agent(&self) {
        self.shell("echo >/run/again");
    }

    /// What the kernel and the first process have said.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| error.to_string(),
            |log| String::from_utf8_lossy(&log).into_owned(),
        )
    }
}

impl Drop for LinuxGuest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "what {} said, of a test that failed:\n{}",
                self.guest.name,
                self.log()
            );
        }
    }
}

/// A file of what tests/run fetches.
///
/// # Panics
/// When it has not.
fn fetched(name: &str) -> PathBuf {
    // Cargo gives this directory of its own to the tests.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("it is in the target directory");
    let file = built.join("guest-1").join(name);
    assert!(
        file.exists(),
        "the live tests need {}: run tests/run --install-only",
        file.display()
    );
    file
}

/// The guest's files, as the kernel unpacks them.
fn initial_files() -> &'static [u8] {
    static FILES: OnceLock<Vec<u8>> = OnceLock::new();
    FILES.get_or_init(|| {
        let read = |path: &Path| {
            fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let mut archive = Archive::default();
        for dir in ["dev", "proc", "sys", "run", "tmp", "root", DISK] {
            archive.directory(dir);
        }
        archive.file("init", 0o755, INIT.as_bytes());
        archive.file("sbin/shutdown", 0o755, SHUTDOWN.as_bytes());
        archive.file("bin/chpasswd", 0o755, CHPASSWD.as_bytes());
        archive.file("etc/hostname", 0o644, HOSTNAME.as_bytes());
        archive.file("etc/os-release", 0o644, OS_RELEASE.as_bytes());
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        archive.file("etc/group", 0o644, b"root:x:0:\n");
        archive.file("bin/busybox", 0o755, &read(&fetched("busybox")));
        for applet in APPLETS {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
        let modules = fs::read_dir(fetched("modules")).expect("a directory");
        for module in modules {
            let module = module.expect("an entry of a directory");
            let name = format!("modules/{}", module.file_name().display());
            archive.file(&name, 0o644, &read(&module.path()));
        }
        let Some(agent) = find_program(AGENT) else {
            panic!("the live tests need {AGENT}: run tests/run");
        };
        // The agent looks for this one in just this place.
        archive.link("sbin/hwclock", "../bin/busybox");
        archive.file("bin/qemu-ga", 0o755, &read(&agent));
        for library in libraries(&agent) {
            archive.file(&library.display().to_string(), 0o755, &read(&library));
        }
        archive.end()
    })
}

/// The shared libraries that a program is loaded with, and what loads them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = Command::new("ldd")
        .arg(program)
        .output()
        .expect("ldd starts");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    let paths: Vec<PathBuf> = paths.map(PathBuf::from).collect();
    assert!(!paths.is_empty(), "ldd {}: {listed}", program.display());
    paths
}

/// An archive of cpio's `newc` form, which the kernel takes for its first file system.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    fn directory(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        self.parents_of(path);
        self.entry(path, 0o040_755, b"");
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_start_matches('/');
        self.parents_of(path);
        self.entry(path, 0o100_000 | mode, content);
    }

    fn link(&mut self, path: &str, target: &str) {
        self.parents_of(path);
        self.entry(path, 0o120_777, target.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"");
        self.bytes
    }

    fn parents_of(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("no file of 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a short name");
        // Inode, mode, user, group, links, time, size, four numbers of devices, size of the name, no checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            write!(header, "{field:08x}").expect("a string takes all");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// To the next multiple of 4.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
