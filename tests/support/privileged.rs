//! A private libvirtd of the system's kind: run as root, with a socket that only reads, with polkit or containers where a
//! test wants them. It lives in namespaces of its own, so that it finds /etc, /var and /run as this module makes them and
//! the machine's own stay as they are. Imports `lab`, `process` and `scratch`.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::lab::asks_and_answers;
use super::process::{PATIENCE, find_program, poll_until, search_path};
use super::qemu::PROGRAM as QEMU;
use super::scratch::{Scratch, is_root};

/// An ordinary user of the daemon's world, who need not be one of this machine.
pub(crate) const ANNE: User = User {
    name: "lab-anne",
    id: 64_001,
};
/// Another one.
pub(crate) const BEN: User = User {
    name: "lab-ben",
    id: 64_002,
};
/// A third one.
pub(crate) const CARL: User = User {
    name: "lab-carl",
    id: 64_003,
};
/// The superuser.
pub(crate) const ROOT: User = User {
    name: "root",
    id: 0,
};

/// Where Debian keeps polkit's daemon.
const POLKITD: &str = "/usr/lib/polkit-1/polkitd";
/// Where Debian keeps the parent of a container's first process, without which libvirtd has no driver for containers.
const LIBVIRT_LXC: &str = "/usr/lib/libvirt/libvirt_lxc";

/// Set where a test is to play its other part; it says which.
pub(crate) const PART: &str = "LIBVIRT_QMP_TEST_PART";

/// Stands outside the namespaces. It makes a cgroup of the lab's own in each hierarchy, has [`ENTER`] run, and removes
/// the cgroups when that has ended, which is when the owner of the lab drops it or dies: see [`HOLD`]. No command line but
/// that of [`INIT`] and of what that starts names the scratch directory, whose reaper would kill these shells before their
/// work is done.
const KEEPER: &str = r#"
umask 022
if [ "$LAB_CONTAINERS" = yes ]; then
    # `PLACE:OPTIONS` of each hierarchy of version 1, or `PLACE:` of that of version 2 where it is the only one: libvirt
    # cannot run containers with both.
    LAB_CGROUPS=$(awk '
        $2 !~ /^\/sys\/fs\/cgroup/ { next }
        $3 == "cgroup" && $4 !~ /name=/ { first = first " " $2 ":" $4 }
        $3 == "cgroup2" { second = $2 ":" }
        END { print first ? first : second }' /proc/mounts)
    [ -n "$LAB_CGROUPS" ] || { echo 'no cgroups are mounted in /sys/fs/cgroup'; exit 1; }
    export LAB_CGROUPS
fi
lab=${LAB_SCRATCH##*/}
for hierarchy in $LAB_CGROUPS; do
    root=${hierarchy%%:*}
    # A process is in the inner one, since a cgroup of version 2 has either processes or others in it.
    for group in "$root/$lab" "$root/$lab/daemon"; do
        mkdir "$group" || exit 1
        case $hierarchy in *:*cpuset*)
            cat "$root/cpuset.cpus" >"$group/cpuset.cpus" && cat "$root/cpuset.mems" >"$group/cpuset.mems" || exit 1
        esac
    done
done
sh -c "$LAB_ENTER"
status=$?
for hierarchy in $LAB_CGROUPS; do
    find "${hierarchy%%:*}/$lab" -depth -type d -exec rmdir {} \; || status=1
done
exit $status
"#;

/// Enters the cgroups, then the namespaces, which makes the former the roots of what is seen in the latter.
const ENTER: &str = r#"
for hierarchy in $LAB_CGROUPS; do
    echo $$ >"${hierarchy%%:*}/${LAB_SCRATCH##*/}/cgroup.procs" || exit 1
done
exec unshare --mount --propagation private --pid --net ${LAB_CGROUPS:+--cgroup} sh -c "$LAB_HOLD"
"#;

/// Starts the first process of the namespaces. Kills it at the end of standard input, and so whatever is in there: the
/// system ends all processes of a namespace with its first, and drops the mounts with the last.
const HOLD: &str = r#"
for hierarchy in $LAB_CGROUPS; do
    group=${hierarchy%%:*}/${LAB_SCRATCH##*/}
    echo $$ >"$group/daemon/cgroup.procs" || exit 1
    [ -e "$group/cgroup.subtree_control" ] || continue
    # In version 2 a cgroup controls nothing unless the one around it says so.
    read -r controllers <"$group/cgroup.controllers"
    for controller in $controllers; do
        echo "+$controller" >"$group/cgroup.subtree_control" || exit 1
    done
done
sh -c "$LAB_INIT" lab-init "$LAB_SCRATCH" </dev/null &
echo $! >"$LAB_SCRATCH/init.pid"
read -r end_of_file
kill -KILL $!
wait
"#;

/// The first process of the namespaces, and with that the one which reaps orphans such as guests. It puts the scratch
/// directory's etc, var and run over the machine's, and shows only the lab's own network and cgroups.
const INIT: &str = r#"
set -e
mount -t proc proc /proc
# What is only covered stays in the list of mounts, where libvirt looks for cgroups.
umount -R /sys
mount -t sysfs sysfs /sys
case $LAB_CGROUPS in *:?*) mount -t tmpfs cgroups /sys/fs/cgroup ;; esac
for hierarchy in $LAB_CGROUPS; do
    place=${hierarchy%%:*} options=${hierarchy#*:}
    if [ -n "$options" ]; then
        mkdir -p "$place"
        mount -t cgroup -o "$options" cgroup "$place"
    else
        mount -t cgroup2 cgroup2 "$place"
    fi
done
[ "$LAB_POLKIT" != yes ] || mount --bind "$1/polkit" /usr/share/polkit-1
for place in etc var run; do mount --bind "$1/$place" "/$place"; done
# It forks when it listens.
[ "$LAB_POLKIT" != yes ] || dbus-daemon --config-file="$1/etc/bus.conf" --fork
libvirtd -f "$1/etc/libvirt/libvirtd.conf" -p "$1/run/libvirtd.pid"
exit $?
"#;

/// Somebody to be in the daemon's world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// The name there.
    pub(crate) name: &'static str,
    /// The id of the user, and of the group of the same name.
    pub(crate) id: u32,
}

/// What a daemon is to have.
#[derive(Clone, Copy, Default)]
struct Setup {
    /// polkit decides who may change things, by these rules in JavaScript.
    rules: Option<&'static str>,
    containers: bool,
}

/// A running private system daemon. Dropping it kills the daemon, its guests and containers and whatever else runs in its
/// namespaces, and removes every file; so does the end of the test process, however it ends.
pub(crate) struct Privileged {
    keeper: Child,
    init: u32,
    scratch: Scratch,
}

impl Privileged {
    /// Starts a daemon that lets root change things and everybody read, and waits until it answers calls.
    ///
    /// # Panics
    /// When the tests do not run as root, when a program is missing, or when the daemon does not come up, with its log.
    pub(crate) fn start() -> Privileged {
        Privileged::start_as(Setup::default())
    }

    /// [`Privileged::start`] where everybody may ask to change things and polkit decides, by these rules in JavaScript.
    pub(crate) fn start_with_polkit(rules: &'static str) -> Privileged {
        Privileged::start_as(Setup {
            rules: Some(rules),
            ..Setup::default()
        })
    }

    /// [`Privileged::start`] with cgroups, which containers need.
    pub(crate) fn start_for_containers() -> Privileged {
        Privileged::start_as(Setup {
            containers: true,
            ..Setup::default()
        })
    }

    fn start_as(setup: Setup) -> Privileged {
        assert!(
            is_root(),
            "the live tests of a privileged libvirtd need root: run tests/run as root"
        );
        if let Err(missing) = available(setup) {
            panic!("the live tests need {missing}: run tests/run");
        }
        let scratch = Scratch::new();
        lay_out(&scratch, setup);
        let yes_or_no = |yes| if yes { "yes" } else { "no" };
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "lab-keeper"])
            .env_clear()
            .env("PATH", search_path())
            .env("LC_ALL", "C")
            .env("HOME", "/")
            .env("LAB_SCRATCH", scratch.dir())
            .env("LAB_POLKIT", yes_or_no(setup.rules.is_some()))
            .env("LAB_CONTAINERS", yes_or_no(setup.containers))
            .env("LAB_ENTER", ENTER)
            .env("LAB_HOLD", HOLD)
            .env("LAB_INIT", INIT)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(File::create(scratch.path("stdout")).expect("a file for standard output"))
            .stderr(File::create(scratch.path("stderr")).expect("a file for standard error"))
            // A signal for the test run's process group, as ^C is, must leave it alive.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let mut privileged = Privileged {
            keeper,
            init: 0,
            scratch,
        };
        privileged.wait_until_it_answers();
        privileged
    }

    fn wait_until_it_answers(&mut self) {
        let answered = poll_until(PATIENCE, || {
            self.init = self.scratch.text("init.pid").trim().parse().unwrap_or(0);
            let known = self.init != 0;
            if self
                .keeper
                .try_wait()
                .expect("the state of a child")
                .is_some()
                || known && !Path::new(&format!("/proc/{}/exe", self.init)).exists()
            {
                return Some(false);
            }
            (known && asks_and_answers(&self.unix_path())).then_some(true)
        });
        // Its log is printed as the lab is dropped.
        assert_eq!(answered, Some(true), "a privileged libvirtd did not start");
    }

    /// The daemon's unix socket, seen from outside of its world.
    pub(crate) fn unix_path(&self) -> PathBuf {
        self.scratch.path("run/libvirt/libvirt-sock")
    }

    /// The socket that allows no changes, seen from outside.
    pub(crate) fn readonly_path(&self) -> PathBuf {
        self.scratch.path("run/libvirt/libvirt-sock-ro")
    }

    /// The scratch directory: free for a test's own files, of the same name inside and outside, and gone with the lab.
    pub(crate) fn dir(&self) -> &Path {
        self.scratch.dir()
    }

    /// Writes a file of the scratch directory that everybody can read.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        write(&self.scratch, name, text);
        self.scratch.path(name)
    }

    /// Runs the test of this name of this test program once more, as `user` and in the daemon's world, where its sockets
    /// are where those of the system's daemon always are. [`part`] then gives `part`. Waits for its end.
    ///
    /// # Panics
    /// When it fails, with what it printed, or when it ran no test.
    pub(crate) fn again(&self, user: User, test: &str, part: &str) {
        // The user may not be let into the directory of the program, and it may be hidden by the lab's own /var: an open
        // file needs neither.
        let program = File::open("/proc/self/exe").expect("this program");
        let output = Command::new("timeout")
            .args(["-k", "1", &PATIENCE.as_secs().to_string(), "nsenter"])
            .arg(format!("--target={}", self.init))
            .args(["--mount", "--pid", "--net", "setpriv"])
            .arg(format!("--reuid={}", user.id))
            .arg(format!("--regid={}", user.id))
            .args(["--clear-groups", "/proc/self/fd/0", test])
            .args(["--exact", "--include-ignored", "--nocapture"])
            .arg("--test-threads=1")
            .env_clear()
            .env("PATH", search_path())
            .env("LC_ALL", "C")
            .env("HOME", "/")
            .env(PART, part)
            .current_dir("/")
            .stdin(program)
            .output()
            .expect("timeout starts");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && printed.contains("1 passed"),
            "{test} as {}: {}\n{printed}\n{}",
            user.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The daemon's log: warnings and errors.
    pub(crate) fn log(&self) -> String {
        ["stdout", "stderr", "libvirtd.log"]
            .map(|name| self.scratch.text(name))
            .concat()
    }

    /// The id that a first process of the daemon's world has outside of it.
    pub(crate) fn init(&self) -> u32 {
        self.init
    }
}

impl Drop for Privileged {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "what a privileged libvirtd said, of a test that failed:\n{}",
                self.log()
            );
        }
        drop(self.keeper.stdin.take());
        // Then nothing runs in there any more, and the scratch directory can be removed, which is dropped after this.
        let status = self.keeper.wait();
        let clean = status.as_ref().is_ok_and(|status| status.success());
        if !clean && !std::thread::panicking() {
            panic!(
                "the keeper of a privileged libvirtd: {status:?}\n{}",
                self.log()
            );
        }
    }
}

/// The part that this process is to play, if it is not the test itself: what was given to [`Privileged::again`].
pub(crate) fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// Runs virsh in this process's own world and as its user. Gives its output when it succeeds.
///
/// # Errors
/// The lines of its standard error when it fails.
pub(crate) fn virsh(arguments: &[&str]) -> Result<String, String> {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new("timeout")
        .args(["-k", "1", &PATIENCE.as_secs().to_string(), "virsh", "-q"])
        .args(arguments)
        .env("LC_ALL", "C")
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output()
        .expect("timeout starts");
    let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match status.success() {
        true => Ok(text(&stdout)),
        false => Err(text(&stderr)),
    }
}

/// Says which programs are missing.
///
/// # Errors
/// Their names, with blanks between.
fn available(setup: Setup) -> Result<(), String> {
    let mut wanted = vec![
        "libvirtd", "virsh", QEMU, "unshare", "nsenter", "setpriv", "mount",
    ];
    if setup.rules.is_some() {
        wanted.extend(["dbus-daemon", POLKITD]);
    }
    if setup.containers {
        wanted.push(LIBVIRT_LXC);
    }
    wanted.retain(|name| find_program(name).is_none());
    match wanted.is_empty() {
        true => Ok(()),
        false => Err(wanted.join(" ")),
    }
}

/// Makes what the daemon finds in /etc, /var and /run.
fn lay_out(scratch: &Scratch, setup: Setup) {
    // Ordinary users must come through, whatever this process's umask is.
    open_to_all(scratch.dir());
    for dir in [
        "run",
        "var/lib",
        "var/log",
        "var/cache",
        "var/tmp",
        "etc/libvirt",
    ] {
        make_dir(scratch, dir);
    }
    symlink("/run", scratch.path("var/run")).expect("a link in the scratch directory");
    let users = [ANNE, BEN, CARL];
    let (mut passwd, mut group) = (read("/etc/passwd"), read("/etc/group"));
    // libvirtd does not start where the user is missing that it was built to run guests as, even if it is configured for
    // another.
    let built_in = ("libvirt-qemu", 64_000);
    for (name, id) in users
        .map(|user| (user.name, user.id))
        .into_iter()
        .chain([built_in])
    {
        passwd += &format!("{name}:x:{id}:{id}::/:/bin/false\n");
        group += &format!("{name}:x:{id}:\n");
    }
    write(scratch, "etc/passwd", &passwd);
    write(scratch, "etc/group", &group);
    write(
        scratch,
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\n",
    );
    // Where it is missing, libraries are looked for in the usual places.
    if let Ok(bytes) = fs::read("/etc/ld.so.cache") {
        fs::write(scratch.path("etc/ld.so.cache"), bytes).expect("a file in the scratch directory");
        open_to_all(&scratch.path("etc/ld.so.cache"));
    }
    // Guests run as root with nothing else between them and the machine, as what confines them needs more of it than
    // these namespaces have.
    write(
        scratch,
        "etc/libvirt/qemu.conf",
        "user = \"root\"\ngroup = \"root\"\nstdio_handler = \"file\"\nsecurity_driver = \"none\"\n\
         namespaces = []\ncgroup_controllers = []\nremember_owner = 0\n",
    );
    // Where nobody is asked, the socket itself is root's.
    let (auth, mode) = match setup.rules {
        Some(_) => ("polkit", "0777"),
        None => ("none", "0700"),
    };
    write(
        scratch,
        "etc/libvirt/libvirtd.conf",
        &format!(
            "auth_unix_ro = \"none\"\nunix_sock_ro_perms = \"0777\"\nauth_unix_rw = \"{auth}\"\n\
             unix_sock_rw_perms = \"{mode}\"\nlisten_tls = 0\nlog_outputs = \"3:file:{}\"\n",
            scratch.path("libvirtd.log").display()
        ),
    );
    if let Some(rules) = setup.rules {
        lay_out_polkit(scratch, rules);
    }
}

/// Makes the configuration of a bus that starts polkit's daemon when it is asked something, and that of polkit.
fn lay_out_polkit(scratch: &Scratch, rules: &str) {
    for dir in [
        "run/dbus",
        "etc/services",
        "etc/polkit-1/rules.d",
        "polkit/actions",
        "polkit/rules.d",
        "var/lib/polkit-1",
    ] {
        make_dir(scratch, dir);
    }
    write(
        scratch,
        "etc/bus.conf",
        "<busconfig>\n<listen>unix:path=/run/dbus/system_bus_socket</listen>\n<auth>EXTERNAL</auth>\n\
         <servicedir>/etc/services</servicedir>\n<policy context='default'><allow user='*'/><allow own='*'/>\
         <allow send_destination='*'/><allow receive_sender='*'/></policy>\n</busconfig>\n",
    );
    write(
        scratch,
        "etc/services/org.freedesktop.PolicyKit1.service",
        &format!("[D-BUS Service]\nName=org.freedesktop.PolicyKit1\nExec={POLKITD} --no-debug\n"),
    );
    let action = |name: &str, default: &str| {
        let default = ["any", "inactive", "active"]
            .map(|who| format!("<allow_{who}>{default}</allow_{who}>"))
            .concat();
        format!(
            "<action id='org.libvirt.unix.{name}'><description>{name}</description><message>{name}</message>\
             <defaults>{default}</defaults></action>\n"
        )
    };
    let actions = [action("monitor", "yes"), action("manage", "no")].concat();
    write(
        scratch,
        "polkit/actions/lab.policy",
        &format!("<policyconfig>\n{actions}</policyconfig>\n"),
    );
    write(scratch, "etc/polkit-1/rules.d/lab.rules", rules);
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn write(scratch: &Scratch, name: &str, text: &str) {
    let path = scratch.path(name);
    fs::write(&path, text).expect("a file in the scratch directory");
    open_to_all(&path);
}

/// Makes a directory with all above it, each open to every user.
fn make_dir(scratch: &Scratch, name: &str) {
    let mut path = scratch.dir().to_owned();
    for part in Path::new(name) {
        path.push(part);
        if !path.is_dir() {
            fs::create_dir(&path).expect("a directory in the scratch directory");
            open_to_all(&path);
        }
    }
}

/// Lets everybody read and enter.
fn open_to_all(path: &Path) {
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a file of ours");
}
