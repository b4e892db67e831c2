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
            .split_once(':')
            .filter(|(_, rest)| rest.starts_with('/'))
            .ok_or_else(|| syntax("there is no `://` in it".to_owned()))?;
        // With one slash there is no authority, as with three.
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        if rest.contains('#') {
            return Err(syntax("it has a fragment (`#`)".to_owned()));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        for part in [path, query] {
            only_of_a_uri(part).map_err(&syntax)?;
        }
        let (driver, transport) = match scheme.split_once('+') {
            Some((driver, transport)) => (driver, Some(read_transport(transport)?)),
            None => (scheme, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if !driver.starts_with(|c: char| c.is_ascii_alphabetic()) || !driver.chars().all(plain) {
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
        let host = match (transport, host) {
            (Transport::Unix, Some(host)) => {
                return Err(syntax(format!(
                    "transport unix takes no host, and here is `{host}`"
                )));
            }
            (Transport::Tcp | Transport::Tls, None) => Some("localhost".to_owned()),
            (_, host) => host,
        };
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

/// What may stand in a path or a query as it is; libvirt refuses a URI with anything else in it.
fn only_of_a_uri(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?%".contains(c);
    match text.chars().find(|&c| !plain(c)) {
        None => percent_decoded(text).map(drop),
        Some(wrong) => {
            let mut bytes = [0; 4];
            let bytes = wrong.encode_utf8(&mut bytes).bytes();
            let encoded: String = bytes.map(|byte| format!("%{byte:02X}")).collect();
            Err(format!("{wrong:?} is written {encoded} in a URI"))
        }
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
            // The `%` before a zone need not be encoded.
            (percent_decoded(host).unwrap_or(host.to_owned()), port)
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address stands in brackets: [::1]".to_owned());
            }
            Some((host, port)) => (named(host)?, Some(port)),
            None => (named(text)?, None),
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
    let host = (!host.is_empty()).then_some(host);
    Ok((user, host, port))
}

/// A host by its name: in a URI that is ASCII, with other letters encoded.
fn named(host: &str) -> Result<String, String> {
    match host.chars().find(|c| !c.is_ascii()) {
        Some(wrong) => Err(format!("{wrong:?} in the host `{host}` is not encoded")),
        None => percent_decoded(host),
    }
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
        let mut rest = query;
        while !rest.is_empty() {
            // A semicolon separates where no ampersand follows any more, as libvirt has it.
            let end = rest.find('&').or_else(|| rest.find(';'));
            let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = after.get(1..).unwrap_or_default();
            if part.is_empty() {
                continue;
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = percent_decoded(name)
                .map_err(|reason| parameter(name, reason))?
                .to_ascii_lowercase();
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
        parameters.check_proxy()?;
        Ok(parameters)
    }

    /// The helper finds the socket itself, and so would leave these two without effect.
    pub(super) fn check_proxy(&self) -> Result<(), UriError> {
        if self.proxy != Some(Proxy::Native) {
            return Ok(());
        }
        let reason = "contradicts `proxy=native`";
        match self {
            Parameters {
                netcat: Some(_), ..
            } => Err(parameter("netcat", reason)),
            Parameters {
                socket: Some(_), ..
            } => Err(parameter("socket", reason)),
            _ => Ok(()),
        }
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
        let lower = value.to_ascii_lowercase();
        match lower.split_once('.').unwrap_or((&lower, "")) {
            ("polkit", "") if !value.contains('.') => Ok(Auth::Polkit),
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

    // Which host and port a URI means, what runs for it, and which are refused: `src/dial/mod.rs` holds that to the table
    // in `fixtures/uris.txt`.

    fn parse(text: &str) -> Uri {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn as_it_is_shown() {
        for (text, shown) in [
            (
                "qemu://u@[::1]:5/system?no_verify=1",
                "qemu+tls://u@[::1]:5/system",
            ),
            ("qemu+TCP://h", "qemu+tcp://h"),
            ("qemu:/session", "qemu+unix:///session"),
        ] {
            assert_eq!(parse(text).to_string(), shown);
        }
    }

    #[test]
    fn parameters() {
        let ssh = parse(
            "qemu+ssh://h/system?Socket=/a%20b&COMMAND=/usr/bin/ssh&netcat=nc.openbsd&proxy=netcat&\
             keyfile=/k&no_tty=1&no_verify=-1&known_hosts=/h&known_hosts_verify=auto&\
             sshauth=agent,PRIVKEY&auth=SASL.scram-sha-256&mode=legacy&&auth%66ile=/auth.conf;",
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
}
