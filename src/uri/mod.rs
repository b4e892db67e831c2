//! libvirt's connection URIs: what they say, which daemon they mean, and where a user's defaults stand. Plain data and files,
//! no connections; imports credentials alone.
//!
//! `parse` reads a URI, `place` finds the daemon's socket, `conf` and `auth_conf` read libvirt's configuration files.

#[cfg(feature = "sasl")]
mod auth_conf;
mod conf;
mod parse;
mod place;

use std::fmt;
use std::path::PathBuf;

pub use place::User;

/// A libvirt connection URI: `DRIVER[+TRANSPORT]://[USER@][HOST][:PORT]/PATH[?PARAMETERS]`.
///
/// Made with [`parse`](str::parse), by the rules of libvirt's own client. A parameter that would have no effect is an error
/// that names it: the user meant something by it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uri {
    /// The hypervisor driver, such as `qemu` or `test`; `remote` lets the daemon choose. Empty where no URI was given: then it
    /// is looked for which daemon is there, too.
    pub driver: String,
    /// How the daemon is reached. Without one in the URI: TLS where a host is named, else a unix socket.
    pub transport: Transport,
    /// Who logs in, with ssh.
    pub user: Option<String>,
    /// The host's name or address; an IPv6 address without its brackets. [`Transport::Tcp`] and [`Transport::Tls`] have one:
    /// `localhost` where the URI names none.
    pub host: Option<String>,
    /// Its port, where it is not the usual one.
    pub port: Option<u16>,
    /// What the driver opens, such as `/system`; empty or with a slash before it.
    pub path: String,
    /// The query's parameters.
    pub parameters: Parameters,
}

/// How a daemon is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// A unix socket on this machine.
    Unix,
    /// Plain TCP, port 16509: neither secret nor safe from others on the way.
    Tcp,
    /// TLS on TCP, port 16514.
    Tls,
    /// The program `ssh`. The transports `libssh` and `libssh2` of libvirt are taken for the same.
    Ssh,
    /// A program of the user's, whose standard input and output lead to the daemon.
    Ext,
}

/// The parameters of a [`Uri`] that its client acts on. Names are libvirt's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameters {
    /// `name`: what the daemon opens, instead of what the URI says.
    pub name: Option<String>,
    /// `socket`: path of the daemon's unix socket; on the host behind, with ssh. `@NAME` is an abstract one.
    pub socket: Option<PathBuf>,
    /// `mode`: which daemon to talk to.
    pub mode: Option<Mode>,
    /// `command`: the program to run, for ssh and ext.
    pub command: Option<PathBuf>,
    /// `netcat`: the program on the host behind that leads to the socket, with ssh.
    pub netcat: Option<String>,
    /// `proxy`: what runs on the host behind, with ssh.
    pub proxy: Option<Proxy>,
    /// `keyfile`: private key for ssh.
    pub keyfile: Option<PathBuf>,
    /// `known_hosts`: file with the keys of hosts, for ssh.
    pub known_hosts: Option<PathBuf>,
    /// `known_hosts_verify`: what to do about a host that is not in it.
    pub known_hosts_verify: Option<HostVerify>,
    /// `sshauth`: ways to log in, in the order to try.
    pub sshauth: Option<Vec<SshAuth>>,
    /// `no_tty`: never ask on the terminal, with ssh.
    pub no_tty: bool,
    /// `no_verify`: do not check whom we talk to: the certificate of TLS, the host's key of ssh.
    pub no_verify: bool,
    /// `no_sanity`: do not check our own certificates first, with TLS.
    pub no_sanity: bool,
    /// `pkipath`: directory of certificates and key, with TLS.
    pub pkipath: Option<PathBuf>,
    /// `auth`: the only authentication to use: `sasl`, `sasl.MECHANISM` or `polkit`.
    pub auth: Option<Auth>,
    /// `authfile`: file with user names and passwords, in the form of libvirt's `auth.conf`.
    pub authfile: Option<PathBuf>,
}

/// Which daemon is meant, where there may be several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// The driver's own daemon where it runs, else libvirtd.
    #[default]
    Auto,
    /// The driver's own daemon, such as virtqemud.
    Direct,
    /// libvirtd, or virtproxyd in its place.
    Legacy,
}

/// What runs on the host behind ssh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Proxy {
    /// `virt-ssh-helper` where it is installed, else netcat.
    #[default]
    Auto,
    /// netcat.
    Netcat,
    /// `virt-ssh-helper`.
    Native,
}

/// What ssh does about a host whose key it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostVerify {
    /// Asks on the terminal, or refuses where there is none.
    Normal,
    /// Takes it and keeps it; refuses where it has changed.
    Auto,
    /// Takes it, whatever it is.
    Ignore,
}

/// A way to log in by ssh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SshAuth {
    /// A private key in a file.
    Privkey,
    /// A private key of the agent.
    Agent,
    /// A password.
    Password,
    /// Questions and answers.
    KeyboardInteractive,
}

/// The only authentication to use with the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Auth {
    /// SASL, with this mechanism if one is named.
    Sasl(Option<String>),
    /// polkit.
    Polkit,
}

/// Why a text is no URI that this client can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// It is not of the form of a URI.
    #[error("`{uri}` is not a libvirt URI: {reason}")]
    Syntax {
        /// The text.
        uri: String,
        /// What is wrong.
        reason: String,
    },
    /// A transport that does not exist.
    #[error("transport `{transport}` is not known: it is unix, tcp, tls, ssh or ext")]
    Transport {
        /// The transport.
        transport: String,
    },
    /// A parameter that this client does not act on, or not with this transport.
    #[error("parameter `{parameter}`: {reason}")]
    Parameter {
        /// The parameter.
        parameter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration file cannot be read.
    #[error("{}: {reason}", .file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Uri {
    /// The text that the daemon opens: the URI without what only its client needs; for `remote` the empty one, by which the
    /// daemon chooses.
    pub fn name(&self) -> String {
        match &self.parameters.name {
            Some(name) => name.clone(),
            None if matches!(&*self.driver, "" | "remote") => String::new(),
            None => format!("{}://{}", self.driver, self.path),
        }
    }

    /// The port: the URI's, or that of its transport. ssh knows its own.
    pub fn port_or_default(&self) -> Option<u16> {
        self.port.or(match self.transport {
            Transport::Tcp => Some(16509),
            Transport::Tls => Some(16514),
            Transport::Unix | Transport::Ssh | Transport::Ext => None,
        })
    }
}

impl Transport {
    /// Its name in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Unix => "unix",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ssh => "ssh",
            Transport::Ext => "ext",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `DRIVER+TRANSPORT://USER@HOST:PORT/PATH`, without the parameters.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = match &*self.driver {
            "" => "remote",
            driver => driver,
        };
        write!(f, "{driver}+{}://", self.transport)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.as_deref() {
            Some(host) if host.contains(':') => write!(f, "[{host}]")?,
            Some(host) => f.write_str(host)?,
            None => {}
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uri")
            .field("uri", &self.to_string())
            .field("parameters", &self.parameters)
            .finish()
    }
}
