//! A private KDC of Kerberos on the loopback interface, with a realm, users and tickets of its own. Imports `process` and
//! `scratch`.
//!
//! Kerberos' library finds it by `KRB5_CONFIG`, and the user's tickets by `KRB5CCNAME`. A process cannot safely change those while it
//! runs, so a test that is a client itself runs in a process of its own: see [`in_realm`].

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::process::{PATIENCE, Process, find_program, poll_until, search_path, with_free_port};
use super::scratch::Scratch;

/// The realm. Its hosts are `localhost`.
pub(crate) const REALM: &str = "LAB.TEST";

/// Another realm that clients know the name of, and that has no KDC.
const OTHER_REALM: &str = "NOWHERE.TEST";

/// Set in the process that is a client: the directory of the KDC.
const DIRECTORY: &str = "LIBVIRT_QMP_TEST_REALM";

/// A running KDC. Dropping it ends it.
pub(crate) struct Kdc {
    _daemon: Process,
    dir: PathBuf,
}

/// Runs `test`, which is the one of this name in this test program, in a process that has a realm of its own, a user `fred` in it,
/// and no ticket yet.
///
/// # Panics
/// Where that process fails.
pub(crate) fn in_realm(name: &str, test: impl FnOnce(Kdc)) {
    if let Some(dir) = std::env::var_os(DIRECTORY) {
        return test(Kdc::start(Path::new(&dir)));
    }
    for program in ["krb5kdc", "kdb5_util", "kadmin.local", "kinit", "klist"] {
        assert!(
            find_program(program).is_some(),
            "the live tests need {program}: run tests/run"
        );
    }
    let scratch = Scratch::new();
    let program = std::env::current_exe().expect("this program has a name");
    let output = Command::new(program)
        .args([name, "--exact", "--include-ignored", "--nocapture"])
        .env(DIRECTORY, scratch.dir())
        .env("KRB5_CONFIG", scratch.path("krb5.conf"))
        .env("KRB5_KDC_PROFILE", scratch.path("kdc.conf"))
        .env("KRB5CCNAME", cache_in(scratch.dir()))
        // It would get tickets by itself.
        .env_remove("KRB5_CLIENT_KTNAME")
        .stdin(Stdio::null())
        .output()
        .expect("this program starts once more");
    let said = String::from_utf8_lossy(&output.stdout);
    let ran = said.contains("test result: ok. 1 passed");
    assert!(
        output.status.success() && ran,
        "{}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn cache_in(dir: &Path) -> String {
    format!("FILE:{}", dir.join("tickets").display())
}

impl Kdc {
    fn start(dir: &Path) -> Kdc {
        with_free_port("krb5kdc", |addr| Kdc::start_on(addr, dir))
    }

    fn start_on(addr: SocketAddr, dir: &Path) -> Result<Kdc, String> {
        let file = |name: &str| dir.join(name).display().to_string();
        let kdc = format!(
            "[kdcdefaults]\nkdc_listen = \"\"\nkdc_tcp_listen = {addr}\n\
             [realms]\n{REALM} = {{\ndatabase_name = {}\nkey_stash_file = {}\nacl_file = {}\nmax_life = 1h\n}}\n\
             [logging]\nkdc = FILE:{}\n",
            file("principals"),
            file("stash"),
            file("acl"),
            file("kdc.log"),
        );
        fs::write(dir.join("krb5.conf"), config(addr)).expect("a file in the scratch directory");
        fs::write(dir.join("kdc.conf"), kdc).expect("a file in the scratch directory");
        if !dir.join("principals").exists() {
            run("kdb5_util", &["create", "-s", "-P", "master", "-r", REALM]);
        }
        let mut command = Command::new(program("krb5kdc"));
        command
            // It stays in the foreground, and the name of its file says to whom it belongs.
            .args(["-n", "-P"])
            .arg(dir.join("kdc.pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let daemon = Process::new(&mut command);
        let up = poll_until(PATIENCE, || {
            if daemon.has_ended() {
                return Some(false);
            }
            TcpStream::connect(addr).is_ok().then_some(true)
        });
        if up != Some(true) {
            let log = fs::read_to_string(dir.join("kdc.log")).unwrap_or_default();
            return Err(log);
        }
        let kdc = Kdc {
            _daemon: daemon,
            dir: dir.to_owned(),
        };
        kdc.add("fred");
        Ok(kdc)
    }

    /// Adds a principal of this name, and its key to the file [`Kdc::keys`] of that name.
    pub(crate) fn add(&self, principal: &str) -> PathBuf {
        let keys = self.keys(principal);
        run(
            "kadmin.local",
            &["-q", &format!("addprinc -randkey {principal}")],
        );
        let export = format!("ktadd -k {} {principal}", keys.display());
        run("kadmin.local", &["-q", &export]);
        assert!(keys.exists(), "no key for {principal}");
        keys
    }

    /// Removes a principal.
    pub(crate) fn remove(&self, principal: &str) {
        let removal = format!("delprinc -force {principal}");
        run("kadmin.local", &["-q", &removal]);
    }

    fn keys(&self, principal: &str) -> PathBuf {
        self.dir
            .join(format!("{}.keytab", principal.replace('/', "-")))
    }

    /// Where Kerberos' library finds this realm.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("krb5.conf")
    }

    /// Gets this user, who was added, a ticket that is good for so many seconds.
    pub(crate) fn log_in(&self, user: &str, seconds: u32) {
        let keys = self.keys(user).display().to_string();
        let life = format!("{seconds}s");
        run("kinit", &["-k", "-t", &keys, "-l", &life, user]);
    }

    /// Waits until the ticket is no good any more.
    pub(crate) fn wait_for_expiry(&self) {
        let expired = poll_until(PATIENCE, || {
            let found = command("klist", &["-s"]).status().expect("klist starts");
            (!found.success()).then_some(())
        });
        assert!(expired.is_some(), "the ticket does not expire");
    }

    /// Throws the user's tickets away.
    pub(crate) fn log_out(&self) {
        fs::remove_file(self.dir.join("tickets")).expect("there are some");
    }

    /// The services that there are tickets for.
    pub(crate) fn tickets(&self) -> String {
        run("klist", &["-f"])
    }

    /// Has clients look for the KDC at this address from now on.
    pub(crate) fn move_to(&self, addr: SocketAddr) {
        fs::write(self.config(), config(addr)).expect("a file in the scratch directory");
    }

    /// How often a ticket was asked for that somebody else can use in the user's name.
    pub(crate) fn forwarded(&self) -> usize {
        let log = fs::read_to_string(self.dir.join("kdc.log")).expect("the KDC's log");
        let is_forwarded = |line: &&str| line.contains("TGS_REQ") && line.contains(" for krbtgt/");
        log.lines().filter(is_forwarded).count()
    }
}

/// What clients and services are told of the realm with a KDC at this address.
fn config(addr: SocketAddr) -> String {
    // Names of hosts are taken as they are, since this machine's may be anything; the service goes by the one name that it has a
    // key for.
    format!(
        "[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\ndns_lookup_realm = false\n\
         dns_canonicalize_hostname = false\nrdns = false\nudp_preference_limit = 1\nforwardable = true\n\
         ignore_acceptor_hostname = true\ndefault_rcache_name = none:\n\
         [realms]\n{REALM} = {{\nkdc = {addr}\n}}\n{OTHER_REALM} = {{\nkdc = 127.0.0.1:1\n}}\n\
         [domain_realm]\nlocalhost = {REALM}\nnowhere.test = {OTHER_REALM}\n"
    )
}

fn program(name: &str) -> PathBuf {
    find_program(name).expect("checked before")
}

fn command(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program(name));
    command
        .args(arguments)
        .env("PATH", search_path())
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

/// Runs a program of Kerberos to its end, and gives what it said.
fn run(name: &str, arguments: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command(name, arguments).output().expect("it starts");
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    assert!(
        status.success(),
        "{name} {arguments:?}: {status}\n{stdout}\n{}",
        String::from_utf8_lossy(&stderr)
    );
    stdout
}
