//! The table of URIs held to the real virsh: its log says which socket, host and port it connects to, and programs of the
//! test's own write down with which words it starts them. Nothing it could reach answers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::table::{Case, Hosts, Means, cases, script, written};
use crate::support::pki::Pki;
use crate::support::process::{find_program, search_path};
use crate::support::scratch::{Scratch, is_root};

#[path = "../support/uris.rs"]
pub(super) mod table;

/// What virsh runs in: a home, a directory of sockets, certificates, programs, and a host behind them.
struct World {
    scratch: Scratch,
    hosts: Hosts,
    /// Paths in the table, and what stands for them here.
    paths: Vec<(&'static str, String)>,
}

/// What virsh did.
#[derive(Debug)]
struct Did {
    succeeded: bool,
    /// Without a way where it refused the URI.
    means: Means,
    /// The sockets that it thought of, in order.
    thought_of: Vec<String>,
    log: String,
}

impl World {
    fn new() -> World {
        for program in ["virsh", "setpriv", "unshare", "timeout"] {
            assert!(
                find_program(program).is_some(),
                "the live tests need {program}: run tests/run"
            );
        }
        let (scratch, pki) = (Scratch::new(), Pki::new());
        let made = |name: &str| {
            let dir = scratch.path(name);
            fs::create_dir_all(&dir).unwrap();
            dir
        };
        pki.issue("client", "ca", 3650, "DNS:client");
        for dir in ["pki", "home/.pki/libvirt"] {
            for (name, from) in [
                ("cacert.pem", "ca.pem"),
                ("clientcert.pem", "client.pem"),
                ("clientkey.pem", "client.key"),
            ] {
                fs::copy(pki.path(from), made(dir).join(name)).unwrap();
            }
        }
        made("run/libvirt");
        // Whoever virsh runs as leaves its words there.
        fs::set_permissions(made("out"), PermissionsExt::from_mode(0o777)).unwrap();
        let words = scratch.path("out/words").display().to_string();
        let show = format!("for word in \"$0\" \"$@\"; do printf '%s\\0' \"$word\"; done >{words}");
        for name in ["bin/ssh", "opt/ssh", "bin/my-tunnel"] {
            let program = scratch.path(name);
            made(program.parent().unwrap().to_str().unwrap());
            script(&program, &show);
        }
        let paths = [
            ("/run/user/1000", "run"),
            ("/etc/my-pki", "pki"),
            ("/usr/bin/my-tunnel", "bin/my-tunnel"),
            ("/opt/ssh", "opt/ssh"),
        ];
        World {
            hosts: Hosts::new(&made("hosts")),
            paths: paths
                .map(|(there, here)| (there, scratch.path(here).display().to_string()))
                .to_vec(),
            scratch,
        }
    }

    fn here(&self, text: &str) -> String {
        let paths = self.paths.iter();
        paths.fold(text.to_owned(), |text, (there, here)| {
            text.replace(there, here)
        })
    }

    fn there(&self, text: &str) -> String {
        let ssh = self.scratch.path("bin/ssh").display().to_string();
        let paths = self.paths.iter();
        paths.fold(text.replace(&ssh, "ssh"), |text, (there, here)| {
            text.replace(here, there)
        })
    }

    /// Has virsh connect, while these sockets seem to be there.
    fn virsh(&self, case: &Case, sockets: &[PathBuf]) -> Did {
        let run = self.scratch.path("run/libvirt");
        fs::remove_dir_all(&run).unwrap();
        fs::create_dir(&run).unwrap();
        for socket in sockets {
            fs::write(socket, "").unwrap();
        }
        let words = self.scratch.path("out/words");
        if words.exists() {
            fs::remove_file(&words).unwrap();
        }
        let somebody_else: &[&str] = match (case.root, is_root()) {
            (false, true) => &[
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
            ],
            (true, false) => &["unshare", "--map-root-user"],
            _ => &[],
        };
        let readonly: &[&str] = if case.readonly { &["-r"] } else { &[] };
        let uri = self.here(&case.uri);
        let mut line = somebody_else.to_vec();
        line.extend(["timeout", "60", "virsh"]);
        line.extend(readonly);
        line.extend(["-c", &uri, "uri"]);
        let path = format!("{}:{}", self.scratch.path("bin").display(), search_path());
        let output = Command::new(find_program(line[0]).unwrap())
            .args(&line[1..])
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.scratch.path("home"))
            .env("XDG_RUNTIME_DIR", self.scratch.path("run"))
            .env("LIBVIRT_AUTOSTART", "0")
            .env("LIBVIRT_DEBUG", "1")
            .env("LIBVIRT_LOG_OUTPUTS", "1:stderr")
            .env("LC_ALL", "C")
            // No host of the network around is meant.
            .env("LOCALDOMAIN", "invalid")
            .env("RES_OPTIONS", "timeout:1 attempts:1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let words = fs::read_to_string(words).ok();
        let mut means = Means {
            opens: between(&log, "doRemoteOpen:", "proceeding with name = ", "\n")
                .map(|name| written_name(&self.there(name))),
            ..Means::default()
        };
        let succeeded = output.status.success();
        means.way = match words {
            Some(words) => {
                let mut words: Vec<String> = words
                    .split_terminator('\0')
                    .map(|word| self.there(word))
                    .collect();
                if words.len() > 1 {
                    let [behind, or] = self.hosts.run(&self.here(&words.pop().unwrap()));
                    (means.behind, means.or) = (Some(self.there(&behind)), Some(self.there(&or)));
                }
                Some(format!("run {}", written(words)))
            }
            None => self.connected(&log),
        };
        if means.way.is_none() && succeeded {
            means.way = Some("itself".to_owned());
            means.opens = between(&log, "virConnectOpen", ": name=", ", auth=").map(str::to_owned);
        }
        let thought_of = log.lines().filter_map(|line| {
            between(line, "remoteGetUNIXSocketHelper:", "sockname=", " for ").map(str::to_owned)
        });
        Did {
            succeeded,
            means,
            thought_of: thought_of.collect(),
            log,
        }
    }

    /// The socket, or the transport with its host and port, that the log says it connected to.
    fn connected(&self, log: &str) -> Option<String> {
        let path = between(
            log,
            "virNetSocketNewConnectUNIX:",
            "path=",
            " spawnDaemonPath=",
        );
        if let Some(path) = path {
            return Some(format!("unix {}", written([path])));
        }
        let function = "virNetSocketNewConnectTCP:";
        let unresolved = between(log, function, "Unable to resolve address '", "': ");
        let (host, port) = match unresolved {
            Some(unresolved) => unresolved.split_once("' service '")?,
            None => between(log, function, "unable to connect to server at '", "': ")?
                .rsplit_once(':')?,
        };
        let pki = between(log, "virNetTLSContextLocateCredentials:", "pkipath=", " ");
        let pki = pki
            .filter(|pki| *pki != "(null)")
            .map(|pki| self.there(pki));
        let transport = match between(log, "doRemoteOpen:", "Connecting with transport ", "\n")? {
            "0" => "tls",
            "3" => "libssh2",
            "5" => "tcp",
            "6" => "libssh",
            other => panic!("transport {other}"),
        };
        let words = [transport, host, port].into_iter().chain(pki.as_deref());
        Some(written(words))
    }

    fn check(&self, case: &Case) {
        let place = case.place();
        let instead = &case.virsh.means;
        let expected =
            |ours: &Option<String>, instead: &Option<String>| instead.clone().or(ours.clone());
        let way = expected(&case.means.way, &instead.way);
        let Some(way) = way else {
            let did = self.virsh(case, &[]);
            assert_eq!(
                did.means.way.is_some(),
                case.virsh.accepts,
                "{place}: {did:#?}"
            );
            assert!(!did.succeeded, "{place}: {did:#?}");
            return;
        };
        let expected = |did: &Did, way: String| {
            let expected = Means {
                opens: expected(&case.means.opens, &instead.opens).or(did.means.opens.clone()),
                way: Some(way),
                // One that does not run a program leaves nothing behind.
                behind: did
                    .means
                    .behind
                    .as_ref()
                    .and(expected(&case.means.behind, &instead.behind)),
                or: did
                    .means
                    .or
                    .as_ref()
                    .and(expected(&case.means.or, &instead.or)),
            };
            assert_eq!(did.means, expected, "{place}: {}", did.log);
        };
        let Some(sockets) = way.strip_prefix("unix ") else {
            expected(&self.virsh(case, &[]), way);
            return;
        };
        let sockets: Vec<PathBuf> = sockets
            .split(' ')
            .map(|socket| PathBuf::from(self.here(&socket.replace('␣', " "))))
            .collect();
        let own = sockets[0].starts_with(self.scratch.dir());
        // Only of those that are the test's own can be said which are there.
        let first_there = match own {
            true => 0..sockets.len() + 1,
            false => 0..1,
        };
        for first in first_there {
            let there = if own { &sockets[first..] } else { &[] };
            let did = self.virsh(case, there);
            let found = sockets.iter().find(|socket| socket.exists());
            let meant: &Path = found.or(sockets.last()).unwrap();
            expected(&did, format!("unix {}", written([meant.to_str().unwrap()])));
            if !case.uri.contains("socket=") && !case.uri.is_empty() {
                let thought_of: Vec<_> = did.thought_of.iter().map(PathBuf::from).collect();
                let known: Vec<_> = thought_of
                    .iter()
                    .filter(|path| sockets.contains(path))
                    .collect();
                assert_eq!(
                    known,
                    sockets.iter().collect::<Vec<_>>(),
                    "{place}: {}",
                    did.log
                );
            }
        }
    }
}

/// The text between two others, after the name of a function, in the first line that has all of them; the last may end it.
fn between<'a>(log: &'a str, function: &str, before: &str, after: &str) -> Option<&'a str> {
    log.split_inclusive('\n').find_map(|line| {
        let (_, rest) = line.split_once(function)?.1.split_once(before)?;
        rest.split_once(after).map(|(text, _)| text)
    })
}

/// The table has what is opened as one word, and nothing for the empty one.
fn written_name(name: &str) -> String {
    match name {
        "" => String::new(),
        name => written([name]),
    }
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn virsh_means_the_same_or_the_table_says_why() {
    let world = World::new();
    let cases = cases();
    assert!(!cases.is_empty());
    let failed: Vec<&Case> = cases
        .iter()
        .filter(|case| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check(case))).is_err()
        })
        .collect();
    let places: Vec<String> = failed.iter().map(|case| case.place()).collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {places:#?}",
        failed.len(),
        cases.len()
    );
}
