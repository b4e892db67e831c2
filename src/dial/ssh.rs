//! The command that leads to a daemon through ssh, as libvirt's own client builds it. Plain data; imports uri.

use std::ffi::OsString;
use std::path::Path;

use crate::uri::{HostVerify, Proxy, SshAuth, Uri, UriError, User};

/// The helper that comes with libvirt: it finds the daemon's socket on its own host.
const HELPER: &str = "virt-ssh-helper";

/// A program and its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
}

/// The command for `uri`, whose transport is ssh. No shell of this machine is involved.
///
/// # Errors
///
/// Where netcat is to be used and nothing says where the socket is.
pub(super) fn command(uri: &Uri, user: &User, readonly: bool) -> Result<Command, UriError> {
    let parameters = &uri.parameters;
    let program = match &parameters.command {
        Some(program) => program.clone().into_os_string(),
        None => OsString::from("ssh"),
    };
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    if let Some(port) = uri.port {
        add(&["-p", &port.to_string()]);
    }
    if let Some(name) = &uri.user {
        add(&["-l", name]);
    }
    if let Some(keyfile) = &parameters.keyfile {
        arguments.extend([OsString::from("-i"), keyfile.clone().into_os_string()]);
    }
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    add(&["-T", "-e", "none"]);
    if parameters.no_tty {
        add(&["-o", "BatchMode=yes"]);
    }
    let verify = match parameters.no_verify {
        true => Some(HostVerify::Ignore),
        false => parameters.known_hosts_verify,
    };
    match verify {
        Some(HostVerify::Ignore) => add(&["-o", "StrictHostKeyChecking=no"]),
        Some(HostVerify::Auto) => add(&["-o", "StrictHostKeyChecking=accept-new"]),
        Some(HostVerify::Normal) | None => {}
    }
    if let Some(ways) = &parameters.sshauth {
        add(&["-o", &authentications(ways)]);
        if !ways.contains(&SshAuth::Agent) {
            add(&["-o", "IdentityAgent=none"]);
        }
    }
    if let Some(file) = &parameters.known_hosts {
        let mut option = OsString::from("UserKnownHostsFile=");
        option.push(file);
        arguments.extend([OsString::from("-o"), option]);
    }
    let host = uri.host.as_deref().unwrap_or("localhost");
    arguments.extend([OsString::from("--"), OsString::from(host)]);
    // ssh hands the rest to the user's login shell there, whatever that is.
    let script = remote_script(uri, user, readonly)?;
    arguments.push(OsString::from(format!("sh -c {}", quoted(&script))));
    Ok(Command { program, arguments })
}

/// ssh's names of ways to log in. A key is one way for it, whether the agent or a file holds it.
fn authentications(ways: &[SshAuth]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for way in ways {
        let name = match way {
            SshAuth::Agent | SshAuth::Privkey => "publickey",
            SshAuth::Password => "password",
            SshAuth::KeyboardInteractive => "keyboard-interactive",
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    format!("PreferredAuthentications={}", names.join(","))
}

/// What the host behind is to run.
fn remote_script(uri: &Uri, user: &User, readonly: bool) -> Result<String, UriError> {
    let parameters = &uri.parameters;
    let proxy = match parameters.proxy {
        Some(Proxy::Native) => Proxy::Native,
        Some(Proxy::Netcat) => Proxy::Netcat,
        _ if parameters.netcat.is_some() || parameters.socket.is_some() => Proxy::Netcat,
        // Only the helper knows where the sockets of the user there are.
        _ if uri.is_session(user) => Proxy::Native,
        _ => Proxy::Auto,
    };
    let native = || {
        let flag = match readonly {
            true => " -r",
            false => "",
        };
        format!("{HELPER}{flag} {}", quoted(&uri.name()))
    };
    let netcat = || {
        let netcat = quoted(parameters.netcat.as_deref().unwrap_or("nc"));
        let socket = quoted_path(&remote_socket(uri, user, readonly)?);
        Ok(format!(
            "if {netcat} -q 2>&1 | grep 'requires an argument' >/dev/null; \
             then exec {netcat} -q0 -U {socket}; else exec {netcat} -U {socket}; fi"
        ))
    };
    Ok(match proxy {
        Proxy::Native => format!("exec {}", native()),
        Proxy::Netcat => netcat()?,
        Proxy::Auto => format!(
            "if command -v {HELPER} >/dev/null 2>&1; then exec {}; fi; {}",
            native(),
            netcat()?
        ),
    })
}

/// The daemon's socket on the host behind: libvirtd's, for which daemons run there cannot be seen from here.
fn remote_socket(uri: &Uri, user: &User, readonly: bool) -> Result<std::path::PathBuf, UriError> {
    if let Some(socket) = &uri.parameters.socket {
        return Ok(socket.clone());
    }
    if uri.is_session(user) {
        return Err(UriError::Parameter {
            parameter: "socket".to_owned(),
            reason: "is needed: netcat cannot find the sockets of a user on another host"
                .to_owned(),
        });
    }
    let name = match readonly {
        true => "libvirt-sock-ro",
        false => "libvirt-sock",
    };
    Ok(Path::new("/var/run/libvirt").join(name))
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}
