//! Reading a URI. Imports `super`.

use std::path::PathBuf;
use std::str::FromStr;

use super::{Auth, HostVerify, Mode, Parameters, Proxy, SshAuth, Transport, Uri, UriError};

/// The parameters, each with the transports that it means something to.
const KNOWN: [(&str, &[Transport]); 16] = [
    ("name", ALL),
    ("auth", ALL),
    ("authfile", ALL),
    ("socket", &[Transport::Unix, Transport::Ssh]),
    ("mode", ALL),
    ("command", &[Transport::Ssh, Transport::Ext]),
    ("netcat", &[Transport::Ssh]),
    ("proxy", &[Transport::Ssh]),
    ("keyfile", &[Transport::Ssh]),
    ("known_hosts", &[Transport::Ssh]),
    ("known_hosts_verify", &[Transport::Ssh]),
    ("sshauth", &[Transport::Ssh]),
    ("no_tty", &[Transport::Ssh]),
    ("no_verify", &[Transport::Tls, Transport::Ssh]),
    ("no_sanity", &[Transport::Tls]),
    ("pkipath", &[Transport::Tls]),
];

const ALL: &[Transport] = &[
    Transport::Unix,
    Transport::Tcp,
    Transport::Tls,
    Transport::Ssh,
    Transport::Ext,
];

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let syntax = |reason: String| UriError::Syntax {
            uri: text.to_owned(),
            reason,
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| syntax("there is no `://` in it".to_owned()))?;
        if rest.contains('#') {
            return Err(syntax("it has a fragment (`#`)".to_owned()));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (driver, transport) = match scheme.split_once('+') {
            Some((driver, transport)) => (driver, Some(read_transport(transport)?)),
            None => (scheme, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if driver.is_empty() || !driver.chars().all(plain) {
            return Err(syntax(format!("`{driver}` is no driver")));
        }
        let (user, host, port) = read_authority(authority).map_err(&syntax)?;
        if path.is_empty() && port.is_none() && matches!(authority, "system" | "session") {
            let reason = format!("a slash is missing, as in {scheme}:///{authority}");
            return Err(syntax(reason));
        }
        let transport = transport.unwrap_or(match host {
            Some(_) => Transport::Tls,
            None => Transport::Unix,
        });
        match (transport, &host) {
            (Transport::Unix, Some(host)) => Err(syntax(format!(
                "transport unix takes no host, and here is `{host}`"
            ))),
            (Transport::Tcp | Transport::Tls, None) => {
                Err(syntax(format!("transport {transport} needs a host")))
            }
            _ => Ok(()),
        }?;
        let parameters = Parameters::read(query, transport)?;
        if transport == Transport::Ext && parameters.command.is_none() {
            return Err(parameter("command", "transport ext needs it"));
        }
        Ok(Uri {
            driver: driver.to_owned(),
            transport,
            user,
            host,
            port,
            path: path.to_owned(),
            parameters,
        })
    }
}

fn read_transport(text: &str) -> Result<Transport, UriError> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "unix" => Transport::Unix,
        "tcp" => Transport::Tcp,
        "tls" => Transport::Tls,
        "ssh" | "libssh" | "libssh2" => Transport::Ssh,
        "ext" => Transport::Ext,
        _ => {
            return Err(UriError::Transport {
                transport: text.to_owned(),
            });
        }
    })
}

type Authority = (Option<String>, Option<String>, Option<u16>);

/// `[USER@][HOST][:PORT]`.
fn read_authority(text: &str) -> Result<Authority, String> {
    let (user, text) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(percent_decoded(user)?), rest),
        None => (None, text),
    };
    if user.as_deref().is_some_and(str::is_empty) {
        return Err("there is no user before the `@`".to_owned());
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("`[` without `]`")?;
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return Err(format!("`{rest}` after the host"));
            }
            if host.is_empty() {
                return Err("nothing between `[` and `]`".to_owned());
            }
            (host, port)
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address stands in brackets: [::1]".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    // It may become an argument of ssh: no dash first, and nothing that is no part of a name or address.
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '%');
    if let Some(wrong) = host.chars().find(|&c| !plain(c)) {
        return Err(format!("{wrong:?} in the host `{host}`"));
    }
    if host.starts_with('-') || user.as_deref().is_some_and(|user| user.starts_with('-')) {
        return Err("neither user nor host begins with a dash".to_owned());
    }
    let port = match port {
        None => None,
        Some(text) => match text.parse() {
            Ok(port) if port != 0 && !text.starts_with('+') => Some(port),
            _ => return Err(format!("`{text}` is not a port")),
        },
    };
    if host.is_empty() && (port.is_some() || user.is_some()) {
        return Err("there is no host".to_owned());
    }
    let host = (!host.is_empty()).then(|| host.to_owned());
    Ok((user, host, port))
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let wrong = || format!("`%{part}` is not a percent-encoded byte");
        let (digits, rest) = part.split_at_checked(2).ok_or_else(wrong)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(format!("`{text}` is not UTF-8 text")),
    }
}

fn parameter(name: &str, reason: impl Into<String>) -> UriError {
    UriError::Parameter {
        parameter: name.to_owned(),
        reason: reason.into(),
    }
}

impl Parameters {
    fn read(query: &str, transport: Transport) -> Result<Self, UriError> {
        let mut parameters = Parameters::default();
        let mut seen = Vec::new();
        for part in query.split(['&', ';']).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = name.to_ascii_lowercase();
            if name == "tls_priority" {
                let reason = "is a setting of GnuTLS, which is not used here";
                return Err(parameter(&name, reason));
            }
            let Some((known, transports)) = KNOWN.iter().find(|(known, _)| *known == name) else {
                return Err(parameter(&name, "is not known"));
            };
            if !transports.contains(&transport) {
                let reason = format!("has no meaning with transport {transport}");
                return Err(parameter(known, reason));
            }
            if seen.contains(known) {
                return Err(parameter(known, "is given twice"));
            }
            seen.push(known);
            let value = percent_decoded(value).map_err(|reason| parameter(known, reason))?;
            parameters
                .set(known, value)
                .map_err(|reason| parameter(known, reason))?;
        }
        if parameters.mode == Some(Mode::Direct) && transport != Transport::Unix {
            let reason = format!("transport {transport} leads to libvirtd or virtproxyd only");
            return Err(parameter("mode", reason));
        }
        if parameters.netcat.is_some() && parameters.proxy == Some(Proxy::Native) {
            return Err(parameter("netcat", "contradicts `proxy=native`"));
        }
        Ok(parameters)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        // `name=` may be empty: the daemon chooses then.
        if value.is_empty() && name != "name" {
            return Err("has no value".to_owned());
        }
        match name {
            "name" => self.name = Some(value),
            "socket" => self.socket = Some(PathBuf::from(value)),
            "mode" => self.mode = Some(Mode::read(&value)?),
            "command" => self.command = Some(PathBuf::from(value)),
            "netcat" => self.netcat = Some(value),
            "proxy" => self.proxy = Some(Proxy::read(&value)?),
            "keyfile" => self.keyfile = Some(PathBuf::from(value)),
            "known_hosts" => self.known_hosts = Some(PathBuf::from(value)),
            "known_hosts_verify" => {
                self.known_hosts_verify = Some(match value.as_str() {
                    "normal" => HostVerify::Normal,
                    "auto" => HostVerify::Auto,
                    "ignore" => HostVerify::Ignore,
                    _ => return Err(format!("`{value}` is not normal, auto or ignore")),
                });
            }
            "sshauth" => {
                self.sshauth = Some(
                    value
                        .split(',')
                        .map(SshAuth::read)
                        .collect::<Result<_, _>>()?,
                );
            }
            "no_tty" => self.no_tty = flag(&value)?,
            "no_verify" => self.no_verify = flag(&value)?,
            "no_sanity" => self.no_sanity = flag(&value)?,
            "pkipath" => self.pkipath = Some(PathBuf::from(value)),
            "auth" => self.auth = Some(Auth::read(&value)?),
            "authfile" => self.authfile = Some(PathBuf::from(value)),
            _ => return Err("is not known".to_owned()),
        }
        Ok(())
    }
}

/// A switch: a whole number, on where it is not 0.
fn flag(value: &str) -> Result<bool, String> {
    match value.parse::<i32>() {
        Ok(number) => Ok(number != 0),
        Err(_) => Err(format!("`{value}` is not a whole number")),
    }
}

impl Mode {
    pub(super) fn read(value: &str) -> Result<Self, String> {
        Ok(match value {
            "auto" => Mode::Auto,
            "direct" => Mode::Direct,
            "legacy" => Mode::Legacy,
            _ => return Err(format!("`{value}` is not auto, direct or legacy")),
        })
    }
}

impl Proxy {
    pub(super) fn read(value: &str) -> Result<Self, String> {
        Ok(match value {
            "auto" => Proxy::Auto,
            "netcat" => Proxy::Netcat,
            "native" => Proxy::Native,
            _ => return Err(format!("`{value}` is not auto, netcat or native")),
        })
    }
}

impl SshAuth {
    fn read(value: &str) -> Result<Self, String> {
        Ok(match value.to_ascii_lowercase().as_str() {
            "privkey" => SshAuth::Privkey,
            "agent" => SshAuth::Agent,
            "password" => SshAuth::Password,
            "keyboard-interactive" => SshAuth::KeyboardInteractive,
            _ => {
                return Err(format!(
                    "`{value}` is not privkey, agent, password or keyboard-interactive"
                ));
            }
        })
    }
}

impl Auth {
    fn read(value: &str) -> Result<Self, String> {
        match value.split_once('.').unwrap_or((value, "")) {
            ("polkit", "") => Ok(Auth::Polkit),
            ("sasl", "") if !value.contains('.') => Ok(Auth::Sasl(None)),
            ("sasl", mechanism) if !mechanism.is_empty() => {
                Ok(Auth::Sasl(Some(mechanism.to_ascii_uppercase())))
            }
            _ => Err(format!("`{value}` is not sasl, sasl.MECHANISM or polkit")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Uri {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_parts_of_a_uri() {
        use Transport::{Ext, Ssh, Tcp, Tls, Unix};
        // URI, transport, user, host, port, what the daemon opens.
        for (text, transport, user, host, port, name) in [
            ("qemu:///system", Unix, None, None, None, "qemu:///system"),
            (
                "qemu+unix:///session",
                Unix,
                None,
                None,
                None,
                "qemu:///session",
            ),
            (
                "test+unix:///default",
                Unix,
                None,
                None,
                None,
                "test:///default",
            ),
            ("remote:///", Unix, None, None, None, ""),
            (
                "qemu://host/system",
                Tls,
                None,
                Some("host"),
                None,
                "qemu:///system",
            ),
            (
                "qemu+tls://host:1/system",
                Tls,
                None,
                Some("host"),
                Some(1),
                "qemu:///system",
            ),
            (
                "qemu+tcp://10.0.0.1/system",
                Tcp,
                None,
                Some("10.0.0.1"),
                None,
                "qemu:///system",
            ),
            (
                "qemu+TCP://[::1]:16510/system",
                Tcp,
                None,
                Some("::1"),
                Some(16510),
                "qemu:///system",
            ),
            (
                "qemu+tcp://[fe80::1%25eth0]/x",
                Tcp,
                None,
                Some("fe80::1%25eth0"),
                None,
                "qemu:///x",
            ),
            (
                "qemu+ssh://root@host:2222/system",
                Ssh,
                Some("root"),
                Some("host"),
                Some(2222),
                "qemu:///system",
            ),
            (
                "qemu+ssh://a%40b@host/session",
                Ssh,
                Some("a@b"),
                Some("host"),
                None,
                "qemu:///session",
            ),
            (
                "qemu+ssh:///system",
                Ssh,
                None,
                None,
                None,
                "qemu:///system",
            ),
            (
                "qemu+libssh2://host/system",
                Ssh,
                None,
                Some("host"),
                None,
                "qemu:///system",
            ),
            (
                "qemu+ext:///system?command=/bin/x",
                Ext,
                None,
                None,
                None,
                "qemu:///system",
            ),
            ("remote+tcp://host", Tcp, None, Some("host"), None, ""),
            (
                "qemu+tcp://host/system?name=qemu:///session",
                Tcp,
                None,
                Some("host"),
                None,
                "qemu:///session",
            ),
            (
                "qemu+tcp://host/system?name=",
                Tcp,
                None,
                Some("host"),
                None,
                "",
            ),
        ] {
            let uri = parse(text);
            assert_eq!(uri.transport, transport, "{text}");
            assert_eq!(uri.user.as_deref(), user, "{text}");
            assert_eq!(uri.host.as_deref(), host, "{text}");
            assert_eq!(uri.port, port, "{text}");
            assert_eq!(uri.name(), name, "{text}");
        }
        assert_eq!(parse("qemu+tcp://h/system").port_or_default(), Some(16509));
        assert_eq!(parse("qemu+tls://h/system").port_or_default(), Some(16514));
        assert_eq!(parse("qemu+ssh://h/system").port_or_default(), None);
        assert_eq!(
            parse("qemu://u@[::1]:5/system?no_verify=1").to_string(),
            "qemu+tls://u@[::1]:5/system"
        );
    }

    #[test]
    fn parameters() {
        let ssh = parse(
            "qemu+ssh://h/system?Socket=/a%20b&COMMAND=/usr/bin/ssh;netcat=nc.openbsd&proxy=netcat&\
             keyfile=/k&no_tty=1&no_verify=-1&known_hosts=/h&known_hosts_verify=auto&\
             sshauth=agent,PRIVKEY&auth=sasl.scram-sha-256&mode=legacy&authfile=/auth.conf&",
        );
        assert_eq!(
            ssh.parameters,
            Parameters {
                name: None,
                socket: Some("/a b".into()),
                mode: Some(Mode::Legacy),
                command: Some("/usr/bin/ssh".into()),
                netcat: Some("nc.openbsd".into()),
                proxy: Some(Proxy::Netcat),
                keyfile: Some("/k".into()),
                known_hosts: Some("/h".into()),
                known_hosts_verify: Some(HostVerify::Auto),
                sshauth: Some(vec![SshAuth::Agent, SshAuth::Privkey]),
                no_tty: true,
                no_verify: true,
                no_sanity: false,
                pkipath: None,
                auth: Some(Auth::Sasl(Some("SCRAM-SHA-256".into()))),
                authfile: Some("/auth.conf".into()),
            }
        );
        let tls = parse("qemu://h/system?pkipath=/p&no_verify=0&no_sanity=1&auth=polkit");
        assert_eq!(tls.parameters.pkipath, Some("/p".into()));
        assert!(!tls.parameters.no_verify && tls.parameters.no_sanity);
        assert_eq!(tls.parameters.auth, Some(Auth::Polkit));
        let unix = parse("qemu:///system?socket=@abstract&mode=direct&auth=sasl");
        assert_eq!(unix.parameters.socket, Some("@abstract".into()));
        assert_eq!(unix.parameters.mode, Some(Mode::Direct));
        assert_eq!(unix.parameters.auth, Some(Auth::Sasl(None)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "`://`"),
            ("qemu:/system", "`://`"),
            ("://h/system", "driver"),
            ("qe mu:///system", "driver"),
            ("qemu://system", "qemu:///system"),
            ("qemu+ssh://session", "qemu+ssh:///session"),
            ("qemu+udp://h/system", "`udp`"),
            ("qemu+://h/system", "``"),
            ("qemu+unix://h/system", "`h`"),
            ("qemu+tcp:///system", "host"),
            ("qemu+tls:///system", "host"),
            ("qemu+tcp://:5/system", "host"),
            ("qemu+ssh://u@/system", "host"),
            ("qemu+ssh://@h/system", "user"),
            ("qemu+tcp://::1/system", "brackets"),
            ("qemu+tcp://[::1/system", "`]`"),
            ("qemu+tcp://[]/system", "`[`"),
            ("qemu+tcp://[::1]5/system", "`5`"),
            ("qemu+tcp://h:0/system", "`0`"),
            ("qemu+tcp://h:65536/system", "`65536`"),
            ("qemu+tcp://h:/system", "``"),
            ("qemu+tcp://h:+5/system", "`+5`"),
            ("qemu+ssh://-oProxyCommand=x/system", "'='"),
            ("qemu+ssh://-x/system", "dash"),
            ("qemu+ssh://-l@h/system", "dash"),
            ("qemu+ssh://a b/system", "' '"),
            ("qemu+ssh://u%zz@h/system", "%zz"),
            ("qemu:///system#x", "fragment"),
            ("qemu:///system?foo=bar", "`foo`"),
            ("qemu:///system?tls_priority=NORMAL", "`tls_priority`"),
            ("qemu:///system?pkipath=/x", "`pkipath`"),
            ("qemu+tcp://h/system?socket=/x", "`socket`"),
            ("qemu+tls://h/system?keyfile=/x", "`keyfile`"),
            ("qemu+ssh://h/system?no_verify=yes", "`yes`"),
            ("qemu+ssh://h/system?keyfile=", "`keyfile`"),
            ("qemu+ssh://h/system?keyfile=%zz", "%zz"),
            ("qemu+ssh://h/system?keyfile=%00", "%00"),
            ("qemu+ssh://h/system?keyfile=a&keyfile=b", "twice"),
            ("qemu+ssh://h/system?mode=direct", "`mode`"),
            ("qemu+ssh://h/system?mode=new", "`new`"),
            ("qemu+ssh://h/system?proxy=x", "`x`"),
            ("qemu+ssh://h/system?proxy=native&netcat=nc", "`netcat`"),
            ("qemu+ssh://h/system?known_hosts_verify=x", "`x`"),
            ("qemu+ssh://h/system?sshauth=agent,x", "`x`"),
            ("qemu+ssh://h/system?auth=sasl.", "`sasl.`"),
            ("qemu+ssh://h/system?auth=none", "`none`"),
            ("qemu+ext:///system", "`command`"),
        ] {
            match text.parse::<Uri>() {
                Err(error) => assert!(error.to_string().contains(part), "{text}: {error}"),
                Ok(uri) => panic!("{text}: {uri:?}"),
            }
        }
    }
}
