//! A private libvirtd and its guests. Nothing is shared with the machine's own libvirt: a session daemon with every
//! directory under one scratch directory. Imports `process`, `scratch` and the name of QEMU's program.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::process::{
    PATIENCE, Process, find_program, poll_until, search_path, signal, with_free_port,
};
use super::qemu::PROGRAM as QEMU;
use super::scratch::{Scratch, is_root};

/// The user and group the daemon runs as when the tests run as root: libvirtd as root is the system's daemon, with
/// sockets and state of its own in /var. This is Debian's `nobody`, but any id would do.
const ORDINARY_USER: u32 = 65534;

/// What libvirtd found out about QEMU, by file name: asking takes it over a second in an empty cache, so the daemons of
/// one test process share the answer. libvirtd checks that it still fits the binaries.
static CAPABILITIES: Mutex<Vec<(OsString, Vec<u8>)>> = Mutex::new(Vec::new());

/// The user whom a daemon with SASL knows, and their password.
pub(crate) const SASL_USER: (&str, &str) = ("fred", "correct horse=battery, sta\u{df}le");

/// Where libvirtd keeps them.
const CAPABILITIES_DIR: &str = "cache/libvirt/qemu/cache/capabilities";

/// A running private libvirtd that listens on a unix socket and on TCP, both without authentication. Dropping it kills
/// the daemon and its guests and removes every file; so does the end of the test process, however it ends.
pub(crate) struct Lab {
    daemon: Mutex<Process>,
    tcp: SocketAddr,
    scratch: Scratch,
}

/// A running guest of a [`Lab`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    /// Its name in libvirt.
    pub(crate) name: String,
    /// Its UUID, the same in every run.
    pub(crate) uuid: Uuid,
}

/// Says which programs that the live tests start are missing.
///
/// # Errors
/// Their names, with blanks between.
pub(crate) fn available() -> Result<(), String> {
    let missing: Vec<&str> = ["libvirtd", "virsh", QEMU]
        .into_iter()
        .filter(|name| find_program(name).is_none())
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(missing.join(" "))
    }
}

impl Lab {
    /// Starts a daemon without guests and waits until it answers calls.
    ///
    /// # Panics
    /// When a program is missing or the daemon does not come up, with its log.
    pub(crate) fn start() -> Lab {
        Lab::start_with(|| "listen_tls = 0\n".to_owned())
    }

    /// [`Lab::start`] with these lines in libvirtd.conf, which say whether it listens for TLS. Asked for again where a port
    /// was taken.
    pub(crate) fn start_with(settings: impl Fn() -> String) -> Lab {
        if let Err(missing) = available() {
            panic!("the live tests need {missing}: run tests/run");
        }
        with_free_port("libvirtd", |tcp| Lab::start_on(tcp, None, &settings()))
    }

    /// [`Lab::start_with`] where the daemon wants SASL on its unix socket and on TCP, by one of these mechanisms, of the one
    /// user [`SASL_USER`].
    pub(crate) fn start_with_sasl(mechanisms: &str, settings: impl Fn() -> String) -> Lab {
        Lab::start_with_kerberos(mechanisms, &[], settings)
    }

    /// [`Lab::start_with_sasl`] with copies of these files for the daemon's part of Kerberos: `krb5.conf` and `krb5.keytab`.
    pub(crate) fn start_with_kerberos(
        mechanisms: &str,
        files: &[(&str, &Path)],
        settings: impl Fn() -> String,
    ) -> Lab {
        assert!(
            find_program("saslpasswd2").is_some(),
            "the live tests need saslpasswd2: run tests/run"
        );
        with_free_port("libvirtd", |tcp| {
            let sasl = Sasl { mechanisms, files };
            Lab::start_on(tcp, Some(sasl), &settings())
        })
    }

    fn start_on(tcp: SocketAddr, sasl: Option<Sasl<'_>>, settings: &str) -> Result<Lab, String> {
        let scratch = Scratch::new();
        lay_out(&scratch, tcp.port(), sasl, settings);
        let daemon = start_daemon(&scratch)?;
        Ok(Lab {
            daemon: Mutex::new(daemon),
            tcp,
            scratch,
        })
    }

    /// The daemon's unix socket.
    pub(crate) fn unix_path(&self) -> PathBuf {
        unix_path(&self.scratch)
    }

    /// The socket on which the daemon itself is administered.
    pub(crate) fn admin_path(&self) -> PathBuf {
        self.scratch.path("run/libvirt/libvirt-admin-sock")
    }

    /// The daemon's TCP address, on the loopback interface.
    pub(crate) fn tcp_addr(&self) -> SocketAddr {
        self.tcp
    }

    /// The URI to open inside the daemon, once connected to one of its sockets.
    pub(crate) fn uri(&self) -> &'static str {
        "qemu:///session"
    }

    /// The URI with which libvirt's own clients, virsh and the C library, reach this daemon.
    pub(crate) fn client_uri(&self) -> String {
        self.client_uri_of(self.uri())
    }

    /// The same for another of the daemon's drivers, such as `test:///default`.
    pub(crate) fn client_uri_of(&self, uri: &str) -> String {
        let socket = self.unix_path();
        let uri = uri.replacen("://", "+unix://", 1);
        format!("{uri}?socket={}", socket.display())
    }

    /// The scratch directory: free for a test's own files, and gone with the lab.
    pub(crate) fn dir(&self) -> &Path {
        self.scratch.dir()
    }

    /// Runs one virsh command against this daemon. Gives its standard output without the blanks at its end.
    ///
    /// # Panics
    /// When it fails, or after half a minute, with its standard error.
    pub(crate) fn virsh(&self, command: &[&str]) -> String {
        self.virsh_of(self.uri(), command)
    }

    /// [`Lab::virsh`] with what another driver of the daemon has, such as `test:///default`.
    pub(crate) fn virsh_of(&self, uri: &str, command: &[&str]) -> String {
        // A stopped daemon or guest would keep virsh waiting for ever.
        let output = Command::new("timeout")
            .args([
                "-k",
                "1",
                &PATIENCE.as_secs().to_string(),
                "virsh",
                "-q",
                "-c",
                &self.client_uri_of(uri),
            ])
            .args(command)
            .env("LC_ALL", "C")
            .env("PATH", search_path())
            .env("XDG_CACHE_HOME", self.scratch.path("virsh"))
            .stdin(Stdio::null())
            .output()
            .expect("timeout starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "virsh {command:?}: {} {stderr}",
            output.status
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// Defines and starts a guest: 32 MiB, one translated CPU (no KVM), no disk and no devices. It runs on return,
    /// and its firmware looks for something to boot for as long as it is left alone.
    ///
    /// # Panics
    /// When libvirt does not start it.
    pub(crate) fn guest(&self, name: &str) -> Guest {
        self.guest_with_uuid(name, uuid_of(name))
    }

    /// [`Lab::guest`] with this UUID.
    pub(crate) fn guest_with_uuid(&self, name: &str, uuid: Uuid) -> Guest {
        self.guest_with(name, uuid, "")
    }

    /// [`Lab::guest`] with this UUID and these devices, in libvirt's XML, besides its own.
    pub(crate) fn guest_with(&self, name: &str, uuid: Uuid, devices: &str) -> Guest {
        let xml = guest_xml(name, uuid, devices);
        let file = self.scratch.path(&format!("{name}.xml"));
        fs::write(&file, xml).expect("a file in the scratch directory");
        self.virsh(&["define", &file.display().to_string()]);
        self.virsh(&["start", name]);
        self.keep_capabilities();
        Guest {
            name: name.to_owned(),
            uuid,
        }
    }

    /// Ends a guest at once. It stays defined, shut off.
    ///
    /// # Panics
    /// When it does not run.
    pub(crate) fn destroy(&self, name: &str) {
        self.virsh(&["destroy", name]);
    }

    /// Kills the daemon (SIGKILL): clients see the end of their connections, new ones are refused, guests run on.
    pub(crate) fn kill_daemon(&self) {
        self.daemon().kill();
    }

    /// Kills the daemon and starts another with the same sockets, which takes over the guests that run.
    ///
    /// # Panics
    /// When the new one does not come up.
    pub(crate) fn restart_daemon(&self) {
        let mut daemon = self.daemon();
        daemon.kill();
        *daemon = start_daemon(&self.scratch)
            .unwrap_or_else(|error| panic!("libvirtd did not come back: {error}"));
    }

    /// Gives the user of a daemon with SASL this password, for those who authenticate from now on.
    ///
    /// # Panics
    /// When it cannot be set.
    pub(crate) fn set_sasl_password(&self, password: &str) {
        set_sasl_password(&self.scratch, password);
    }

    /// Stops the daemon's process (SIGSTOP): its sockets accept, and nothing answers.
    pub(crate) fn pause_daemon(&self) {
        signal(self.daemon_pid(), "STOP");
    }

    /// Lets the daemon's process go on (SIGCONT).
    pub(crate) fn resume_daemon(&self) {
        signal(self.daemon_pid(), "CONT");
    }

    /// Stops a guest's process (SIGSTOP): libvirt believes that it runs, and its monitor never answers.
    pub(crate) fn pause_qemu(&self, name: &str) {
        signal(self.qemu_pid(name), "STOP");
    }

    /// Lets a guest's process go on (SIGCONT).
    pub(crate) fn resume_qemu(&self, name: &str) {
        signal(self.qemu_pid(name), "CONT");
    }

    /// Kills a guest's process (SIGKILL), as a crash of QEMU would end it.
    pub(crate) fn kill_qemu(&self, name: &str) {
        signal(self.qemu_pid(name), "KILL");
    }

    /// The id of the daemon's process.
    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon().pid()
    }

    /// The id of a running guest's process.
    ///
    /// # Panics
    /// When libvirt knows of none.
    pub(crate) fn qemu_pid(&self, name: &str) -> u32 {
        let file = format!("run/libvirt/qemu/run/{name}.pid");
        self.scratch
            .text(&file)
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{name} does not run"))
    }

    /// The daemon's log: warnings and errors.
    pub(crate) fn log(&self) -> String {
        self.scratch.text("libvirtd.log")
    }

    fn daemon(&self) -> MutexGuard<'_, Process> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the daemon has found out about QEMU, which it does before it starts a guest, for the labs to come.
    pub(crate) fn keep_capabilities(&self) {
        let mut kept = capabilities();
        if kept.is_empty() {
            let files = fs::read_dir(self.scratch.path(CAPABILITIES_DIR))
                .into_iter()
                .flatten()
                .flatten();
            kept.extend(
                files.filter_map(|file| Some((file.file_name(), fs::read(file.path()).ok()?))),
            );
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("libvirtd's log, of a test that failed:\n{}", self.log());
        }
        // The scratch directory is dropped after this and takes the guests with it.
        self.kill_daemon();
    }
}

/// A UUID for a guest of this name, always the same: 128 bits of FNV-1a with the marks of a random UUID.
pub(crate) fn uuid_of(name: &str) -> Uuid {
    let offset = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let prime = 0x0000_0000_0100_0000_0000_0000_0000_013b_u128;
    let hash = name.bytes().fold(offset, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(prime)
    });
    uuid::Builder::from_random_bytes(hash.to_be_bytes()).into_uuid()
}

/// libvirt's XML of such a guest as [`Lab::guest_with`] defines.
///
/// # Panics
/// When the name would need quoting, or there is no QEMU.
pub(crate) fn guest_xml(name: &str, uuid: Uuid, devices: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    assert!(name.bytes().all(plain), "{name:?} would need quoting");
    let qemu = find_program(QEMU).expect("checked when the lab started");
    // libvirt has no screen beside the one that is none.
    let no_screen = match devices.contains("<video>") {
        true => "",
        false => "<video><model type='none'/></video>",
    };
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
         <devices><emulator>{}</emulator><controller type='usb' model='none'/><memballoon model='none'/>\
         {no_screen}{devices}</devices><seclabel type='none'/></domain>",
        qemu.display()
    )
}

fn unix_path(scratch: &Scratch) -> PathBuf {
    scratch.path("run/libvirt/libvirt-sock")
}

fn capabilities() -> MutexGuard<'static, Vec<(OsString, Vec<u8>)>> {
    CAPABILITIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a daemon with SASL has.
#[derive(Clone, Copy)]
struct Sasl<'a> {
    mechanisms: &'a str,
    /// Files of Kerberos, by the name the daemon knows them by.
    files: &'a [(&'a str, &'a Path)],
}

/// Makes the directories and configuration files of a daemon that listens on this port.
fn lay_out(scratch: &Scratch, port: u16, sasl: Option<Sasl<'_>>, settings: &str) {
    let auth = if sasl.is_some() { "sasl" } else { "none" };
    for dir in ["run", "config/libvirt", "data", "home", CAPABILITIES_DIR] {
        fs::create_dir_all(scratch.path(dir)).expect("a directory in the scratch directory");
    }
    let log = scratch.path("libvirtd.log");
    let files = [
        // The other way to keep a guest's output, the daemon virtlogd, is waited for 40 s and then missed.
        (
            "config/libvirt/qemu.conf",
            "stdio_handler = \"file\"\n".to_owned(),
        ),
        (
            "libvirtd.conf",
            format!(
                "auth_unix_rw = \"{auth}\"\n{settings}listen_tcp = 1\n\
                 listen_addr = \"127.0.0.1\"\ntcp_port = \"{port}\"\nauth_tcp = \"{auth}\"\n\
                 log_outputs = \"3:file:{}\"\n",
                log.display()
            ),
        ),
    ];
    for (name, text) in files {
        fs::write(scratch.path(name), text).expect("a file in the scratch directory");
    }
    if let Some(sasl) = sasl {
        add_sasl_user(scratch, sasl.mechanisms);
        for (name, from) in sasl.files {
            fs::copy(from, scratch.path("sasl").join(name)).expect("a file to be copied");
        }
    }
    for (name, bytes) in &*capabilities() {
        fs::write(scratch.path(CAPABILITIES_DIR).join(name), bytes)
            .expect("a file in the scratch directory");
    }
    if is_root() {
        give_away(scratch.dir());
    }
}

/// Writes Cyrus SASL's configuration of libvirtd, and its database with one user in this machine's own realm.
fn add_sasl_user(scratch: &Scratch, mechanisms: &str) {
    let conf = format!(
        "mech_list: {mechanisms}\nsasldb_path: {}\n",
        sasl_database(scratch).display()
    );
    fs::create_dir(scratch.path("sasl")).expect("a directory in the scratch directory");
    fs::write(scratch.path("sasl/libvirt.conf"), conf).expect("a file in the scratch directory");
    set_sasl_password(scratch, SASL_USER.1);
}

fn sasl_database(scratch: &Scratch) -> PathBuf {
    scratch.path("sasl/passwd.db")
}

/// Gives the user this password, and the database to whom the daemon runs as.
fn set_sasl_password(scratch: &Scratch, password: &str) {
    let mut child = Command::new("saslpasswd2")
        .args(["-p", "-c", "-a", "libvirt", "-f"])
        .arg(sasl_database(scratch))
        .arg(SASL_USER.0)
        .env("PATH", search_path())
        .env("SASL_CONF_PATH", scratch.path("sasl"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("checked when the lab started");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(password.as_bytes())
        .expect("it reads the password");
    drop(stdin);
    let status = child.wait().expect("a child of ours");
    assert!(status.success(), "saslpasswd2: {status}");
    if is_root() {
        give_away(&scratch.path("sasl"));
    }
}

/// Gives a directory and all in it to the ordinary user.
fn give_away(path: &Path) {
    chown(path, Some(ORDINARY_USER), Some(ORDINARY_USER)).expect("root may give files away");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a directory of ours").flatten() {
            give_away(&entry.path());
        }
    }
}

/// Starts libvirtd in a laid out directory and waits until it answers a call.
///
/// # Errors
/// Its log and what it printed, when it ended or did not answer in time.
fn start_daemon(scratch: &Scratch) -> Result<Process, String> {
    let mut command = Command::new(find_program("libvirtd").expect("checked when the lab started"));
    command
        .arg("-f")
        .arg(scratch.path("libvirtd.conf"))
        .arg("-l")
        .arg("-p")
        .arg(scratch.path("run/pid"))
        .env_clear()
        .env("PATH", search_path())
        .env("LC_ALL", "C")
        .env("HOME", scratch.path("home"))
        .env("XDG_RUNTIME_DIR", scratch.path("run"))
        .env("XDG_CONFIG_HOME", scratch.path("config"))
        .env("XDG_CACHE_HOME", scratch.path("cache"))
        .env("XDG_DATA_HOME", scratch.path("data"))
        .env("SASL_CONF_PATH", scratch.path("sasl"))
        .env("KRB5_CONFIG", scratch.path("sasl/krb5.conf"))
        .env("KRB5_KTNAME", scratch.path("sasl/krb5.keytab"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(scratch.path("stderr")).expect("a file for standard error"));
    if is_root() {
        command.uid(ORDINARY_USER).gid(ORDINARY_USER);
    }
    let daemon = Process::new(&mut command);
    let answered = poll_until(PATIENCE, || {
        if daemon.has_ended() {
            return Some(false);
        }
        asks_and_answers(&unix_path(scratch)).then_some(true)
    });
    if answered == Some(true) {
        return Ok(daemon);
    }
    Err(format!(
        "{}{}",
        scratch.text("libvirtd.log"),
        scratch.text("stderr")
    ))
}

/// Whether the daemon behind a socket answers REMOTE_PROC_AUTH_LIST, the first call of any client. That it accepts
/// says less: it listens on the unix socket before it has taken the TCP port, and serves neither before both are there.
pub(crate) fn asks_and_answers(socket: &Path) -> bool {
    // Length, program, version, procedure 66, type CALL, serial, status.
    let call: [u32; 7] = [28, 0x2000_8086, 1, 66, 0, 0, 0];
    let packet: Vec<u8> = call.into_iter().flat_map(u32::to_be_bytes).collect();
    let answer = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&packet)?;
        stream.read_exact(&mut [0; 28])?;
        Ok(true)
    };
    answer().unwrap_or(false)
}
