//! Where a daemon's socket is, and where a user's defaults are. Imports `super` and `conf`.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::conf::Conf;
use super::{Mode, Parameters, Proxy, Transport, Uri, UriError};

/// Sockets of the system's daemons.
const SYSTEM_DIRECTORY: &str = "/var/run/libvirt";
/// Configuration of root's clients.
const SYSTEM_CONFIG: &str = "/etc/libvirt";

/// Drivers that have a daemon of their own, `virtDRIVERd`.
const OWN_DAEMON: [&str; 13] = [
    "qemu",
    "xen",
    "lxc",
    "vbox",
    "bhyve",
    "ch",
    "vz",
    "network",
    "storage",
    "nodedev",
    "nwfilter",
    "secret",
    "interface",
];
/// Those that are asked, in this order, where the daemon is to choose.
const PROBED: [&str; 6] = ["xen", "qemu", "lxc", "vbox", "bhyve", "vz"];
const PROBED_IN_SESSION: [&str; 2] = ["qemu", "vbox"];

/// Who a client runs for, as far as its defaults depend on it: the environment and the effective user.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct User {
    /// Whether it is root.
    pub is_root: bool,
    /// `LIBVIRT_DEFAULT_URI`, where it is not empty.
    pub default_uri: Option<String>,
    /// `LIBVIRT_AUTH_FILE`, where it is not empty.
    pub auth_file: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, else the cache directory.
    pub runtime_dir: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`, else `.config` in the home directory.
    pub config_dir: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
}

impl User {
    /// The user of this process.
    pub fn current() -> Self {
        let set = |name| {
            let value: OsString = std::env::var_os(name)?;
            (!value.is_empty()).then_some(value)
        };
        let dir = |name| set(name).map(PathBuf::from);
        let home = dir("HOME");
        let in_home = |name| home.as_ref().map(|home| home.join(name));
        User {
            // The owner of /proc/self is the effective user.
            is_root: std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0),
            default_uri: set("LIBVIRT_DEFAULT_URI").map(|uri| uri.to_string_lossy().into_owned()),
            auth_file: dir("LIBVIRT_AUTH_FILE"),
            runtime_dir: dir("XDG_RUNTIME_DIR")
                .or_else(|| dir("XDG_CACHE_HOME"))
                .or_else(|| in_home(".cache")),
            config_dir: dir("XDG_CONFIG_HOME").or_else(|| in_home(".config")),
            home,
        }
    }

    /// The directory of libvirt's configuration for this user's clients.
    fn config(&self) -> Option<PathBuf> {
        match self.is_root {
            true => Some(PathBuf::from(SYSTEM_CONFIG)),
            false => self.config_dir.as_ref().map(|dir| dir.join("libvirt")),
        }
    }
}

impl Uri {
    /// The URI that a user means by `text`: itself, or what it is an alias of in `libvirt.conf`. Without a text it is
    /// `LIBVIRT_DEFAULT_URI`, else `uri_default` of `libvirt.conf`, else a daemon on this machine, which chooses the driver.
    ///
    /// `remote_mode` and `remote_proxy` of the file stand in for the parameters `mode` and `proxy`. The file is
    /// `/etc/libvirt/libvirt.conf` for root and `libvirt/libvirt.conf` in the user's configuration directory for others; it
    /// need not exist.
    ///
    /// # Errors
    ///
    /// [`UriError`], of the URI or of the file.
    pub fn resolve(text: Option<&str>, user: &User) -> Result<Self, UriError> {
        let file = user.config().map(|dir| dir.join("libvirt.conf"));
        let conf = match &file {
            Some(file) => read_conf(file)?,
            None => Conf::default(),
        };
        let wrong = |key: &str, reason: String| UriError::Config {
            file: file.clone().unwrap_or_default(),
            reason: format!("`{key}`: {reason}"),
        };
        let text = text.filter(|text| !text.is_empty());
        let text = text
            .or(user.default_uri.as_deref())
            .or(conf.uri_default.as_deref().filter(|uri| !uri.is_empty()));
        let mut uri = match text {
            Some(text) => conf.alias(text).unwrap_or(text).parse()?,
            None => Uri::of_this_machine(user),
        };
        let parameters = &mut uri.parameters;
        match (&conf.remote_mode, uri.transport) {
            (Some(mode), Transport::Unix) if parameters.mode.is_none() => {
                let mode = Mode::read(mode).map_err(|reason| wrong("remote_mode", reason))?;
                parameters.mode = Some(mode);
            }
            _ => {}
        }
        match (&conf.remote_proxy, uri.transport) {
            (Some(proxy), Transport::Ssh) if parameters.proxy.is_none() => {
                let proxy = Proxy::read(proxy).map_err(|reason| wrong("remote_proxy", reason))?;
                parameters.proxy = Some(proxy);
                parameters.check_proxy()?;
            }
            _ => {}
        }
        if conf.tls_priority.is_some() && uri.transport == Transport::Tls {
            let reason = "is a setting of GnuTLS, which is not used here".to_owned();
            return Err(wrong("tls_priority", reason));
        }
        Ok(uri)
    }

    fn of_this_machine(user: &User) -> Self {
        let path = match user.is_root {
            true => "/system",
            false => "/session",
        };
        Uri {
            driver: String::new(),
            transport: Transport::Unix,
            user: None,
            host: None,
            port: None,
            path: path.to_owned(),
            parameters: Parameters::default(),
        }
    }

    /// Whether a daemon of the user's own is meant, not the system's: for the path `/session`, and for the test driver. Root has
    /// none.
    pub fn is_session(&self, user: &User) -> bool {
        (self.path == "/session" || self.driver == "test") && !user.is_root
    }

    /// The unix sockets at which the daemon may be, in libvirt's own order: the first that exists is meant, or the last where
    /// none does. `readonly` asks for the socket that allows no changes; a user's own daemon has no such one.
    ///
    /// # Errors
    ///
    /// [`UriError::Parameter`] where nothing says where the user's sockets are, or the driver has no daemon of its own.
    pub fn sockets(&self, user: &User, readonly: bool) -> Result<Vec<PathBuf>, UriError> {
        if let Some(socket) = &self.parameters.socket {
            return Ok(vec![socket.clone()]);
        }
        let session = self.is_session(user);
        let directory = match (session, &user.runtime_dir) {
            (false, _) => PathBuf::from(SYSTEM_DIRECTORY),
            (true, Some(runtime)) => runtime.join("libvirt"),
            (true, None) => {
                let reason = "is needed: neither XDG_RUNTIME_DIR nor HOME is set";
                return Err(parameter("socket", reason));
            }
        };
        let suffix = match readonly && !session {
            true => "sock-ro",
            false => "sock",
        };
        let legacy = directory.join(format!("libvirt-{suffix}"));
        let direct = self.daemons(session).into_iter();
        let direct = direct.map(|driver| directory.join(format!("virt{driver}d-{suffix}")));
        Ok(match self.parameters.mode.unwrap_or_default() {
            Mode::Legacy => vec![legacy],
            Mode::Auto => direct.chain([legacy]).collect(),
            Mode::Direct => {
                let direct: Vec<_> = direct.collect();
                if direct.is_empty() {
                    let reason = format!("driver `{}` has no daemon of its own", self.driver);
                    return Err(parameter("mode", &reason));
                }
                direct
            }
        })
    }

    /// The unix socket on which a daemon can be administered: `libvirtd:///system`, `virtqemud:///session`, or whatever
    /// parameter `socket` names. The daemon stands where a driver does in other URIs.
    ///
    /// # Errors
    ///
    /// [`UriError::Syntax`] for another path, [`UriError::Parameter`] where nothing says where the user's sockets are.
    pub fn admin_socket(&self, user: &User) -> Result<PathBuf, UriError> {
        if let Some(socket) = &self.parameters.socket {
            return Ok(socket.clone());
        }
        let directory = match (self.path.as_str(), &user.runtime_dir) {
            ("/system", _) => PathBuf::from(SYSTEM_DIRECTORY),
            ("/session", Some(runtime)) => runtime.join("libvirt"),
            ("/session", None) => {
                let reason = "is needed: neither XDG_RUNTIME_DIR nor HOME is set";
                return Err(parameter("socket", reason));
            }
            _ => {
                return Err(UriError::Syntax {
                    uri: self.to_string(),
                    reason: "a daemon is administered as /system or /session".to_owned(),
                });
            }
        };
        let daemon = match self.driver.as_str() {
            "libvirtd" => "libvirt",
            daemon => daemon,
        };
        Ok(directory.join(format!("{daemon}-admin-sock")))
    }

    /// The drivers whose own daemons may be meant.
    fn daemons(&self, session: bool) -> Vec<&str> {
        match self.driver.as_str() {
            "" if session => PROBED_IN_SESSION.to_vec(),
            "" => PROBED.to_vec(),
            driver if OWN_DAEMON.contains(&driver) => vec![driver],
            _ => Vec::new(),
        }
    }
}

fn parameter(name: &str, reason: &str) -> UriError {
    UriError::Parameter {
        parameter: name.to_owned(),
        reason: reason.to_owned(),
    }
}

fn read_conf(file: &Path) -> Result<Conf, UriError> {
    let wrong = |reason: String| UriError::Config {
        file: file.to_owned(),
        reason,
    };
    match std::fs::read_to_string(file) {
        Ok(text) => Conf::parse(&text).map_err(wrong),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Conf::default()),
        Err(error) => Err(wrong(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn someone() -> User {
        User {
            runtime_dir: Some("/run/user/1000".into()),
            ..User::default()
        }
    }

    // Which sockets a URI means: `src/dial/mod.rs` holds that to the table in `fixtures/uris.txt`.

    #[test]
    fn root_without_a_uri_looks_for_every_daemon() {
        let root = User {
            is_root: true,
            ..User::default()
        };
        let uri = Uri::of_this_machine(&root);
        let names = [
            "virtxend",
            "virtqemud",
            "virtlxcd",
            "virtvboxd",
            "virtbhyved",
            "virtvzd",
            "libvirt",
        ];
        let expected: Vec<_> = names
            .iter()
            .map(|name| PathBuf::from(format!("/var/run/libvirt/{name}-sock")))
            .collect();
        assert_eq!(uri.sockets(&root, false).unwrap(), expected);
    }

    #[test]
    fn sockets_to_administer_a_daemon_by() {
        let user = User {
            runtime_dir: Some("/run/user/7".into()),
            ..someone()
        };
        let socket = |uri: &str| {
            let uri: Uri = uri.parse().unwrap();
            uri.admin_socket(&user)
                .map(|path| path.display().to_string())
        };
        for (uri, path) in [
            ("libvirtd:///system", "/var/run/libvirt/libvirt-admin-sock"),
            (
                "virtqemud:///system",
                "/var/run/libvirt/virtqemud-admin-sock",
            ),
            (
                "libvirtd:///session",
                "/run/user/7/libvirt/libvirt-admin-sock",
            ),
            ("libvirtd:///system?socket=/a/b", "/a/b"),
        ] {
            assert_eq!(socket(uri).unwrap(), path);
        }
        assert!(socket("libvirtd:///default").is_err());
    }

    #[test]
    fn where_no_socket_can_be() {
        let session: Uri = "qemu:///session".parse().unwrap();
        let error = session.sockets(&User::default(), false).unwrap_err();
        assert!(error.to_string().contains("XDG_RUNTIME_DIR"), "{error}");
    }

    /// A configuration directory that goes with the test.
    struct Config(PathBuf);

    impl Config {
        fn new(name: &str, text: &str) -> (Self, User) {
            let dir =
                std::env::temp_dir().join(format!("libvirt-qmp-{name}-{}", std::process::id()));
            std::fs::create_dir_all(dir.join("libvirt")).unwrap();
            std::fs::write(dir.join("libvirt/libvirt.conf"), text).unwrap();
            let user = User {
                config_dir: Some(dir.clone()),
                ..someone()
            };
            (Config(dir), user)
        }
    }

    impl Drop for Config {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn defaults_come_from_the_environment_then_the_file() {
        let text = "uri_default = \"there\"\nuri_aliases = [\"there=qemu+ssh://h/system\", \"bad=x\"]\n\
                    remote_mode = \"legacy\"\nremote_proxy = \"netcat\"\n";
        let (_config, mut user) = Config::new("defaults", text);
        let resolve = |text, user: &User| Uri::resolve(text, user).map(|uri| uri.to_string());
        assert_eq!(resolve(None, &user).unwrap(), "qemu+ssh://h/system");
        assert_eq!(resolve(Some(""), &user).unwrap(), "qemu+ssh://h/system");
        assert_eq!(resolve(Some("test:///x"), &user).unwrap(), "test+unix:///x");
        assert_eq!(
            resolve(Some("there"), &user).unwrap(),
            "qemu+ssh://h/system"
        );
        resolve(Some("bad"), &user).unwrap_err();
        resolve(Some("nowhere"), &user).unwrap_err();
        user.default_uri = Some("qemu:///session".to_owned());
        let uri = Uri::resolve(None, &user).unwrap();
        assert_eq!(uri.parameters.mode, Some(Mode::Legacy));
        assert_eq!(uri.parameters.proxy, None);
        let uri = Uri::resolve(Some("there"), &user).unwrap();
        assert_eq!(
            (uri.parameters.mode, uri.parameters.proxy),
            (None, Some(Proxy::Netcat))
        );
        let uri = Uri::resolve(Some("qemu:///session?mode=auto"), &user).unwrap();
        assert_eq!(uri.parameters.mode, Some(Mode::Auto));
    }

    #[test]
    fn a_default_proxy_leaves_no_parameter_without_effect() {
        let (_config, user) = Config::new("proxy", "remote_proxy = \"native\"\n");
        for parameter in ["netcat", "socket"] {
            let uri = format!("qemu+ssh://h/system?{parameter}=/x");
            let error = Uri::resolve(Some(&uri), &user).unwrap_err().to_string();
            assert!(error.contains(parameter), "{error}");
            let overridden = format!("{uri}&proxy=netcat");
            Uri::resolve(Some(&overridden), &user).unwrap();
        }
    }

    #[test]
    fn without_any_default_it_is_this_machine() {
        let uri = Uri::resolve(None, &someone()).unwrap();
        assert_eq!((uri.name().as_str(), uri.path.as_str()), ("", "/session"));
        assert_eq!(uri.transport, Transport::Unix);
    }

    #[test]
    fn a_broken_file_is_named() {
        let (config, user) = Config::new(
            "broken",
            "remote_mode = \"new\"\ntls_priority = \"NORMAL\"\n",
        );
        let error = Uri::resolve(Some("qemu:///session"), &user).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("libvirt.conf: `remote_mode`: `new`"),
            "{error}"
        );
        let error = Uri::resolve(Some("qemu://host/system"), &user).unwrap_err();
        assert!(error.to_string().contains("`tls_priority`"), "{error}");
        std::fs::write(config.0.join("libvirt/libvirt.conf"), "uri_default").unwrap();
        let error = Uri::resolve(None, &user).unwrap_err();
        assert!(
            error.to_string().contains("libvirt.conf: line 1"),
            "{error}"
        );
    }
}
