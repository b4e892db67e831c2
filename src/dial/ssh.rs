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
    if let Some(keyfile) = &parameters.keyfile {
        arguments.extend([OsString::from("-i"), keyfile.clone().into_os_string()]);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn words(uri: &str, readonly: bool) -> Vec<String> {
        let uri: Uri = uri.parse().unwrap();
        let command = command(&uri, &User::default(), readonly).unwrap();
        [command.program]
            .into_iter()
            .chain(command.arguments)
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    /// What a shell makes of the last word: the script that `sh -c` gets.
    fn script(uri: &str, readonly: bool) -> String {
        let last = words(uri, readonly).pop().unwrap();
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("set -- {last}; printf %s \"$3\""))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn options_of_ssh() {
        let plain = words("qemu+ssh://host/system", false);
        assert_eq!(plain[..6], ["ssh", "-T", "-e", "none", "--", "host"]);
        assert_eq!(plain.len(), 7);
        assert!(plain[6].starts_with("sh -c '"));
        let all = words(
            "qemu+ssh://root@[::1]:2222/system?command=/opt/ssh&keyfile=/k%20y&no_tty=1&no_verify=1&\
             known_hosts=/kh&sshauth=privkey,password",
            false,
        );
        let expected = [
            "/opt/ssh",
            "-p",
            "2222",
            "-l",
            "root",
            "-T",
            "-e",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "PreferredAuthentications=publickey,password",
            "-o",
            "IdentityAgent=none",
            "-i",
            "/k y",
            "-o",
            "UserKnownHostsFile=/kh",
            "--",
            "::1",
        ];
        assert_eq!(all[..all.len() - 1], expected);
        let auto = words(
            "qemu+ssh://h/system?known_hosts_verify=auto&sshauth=agent",
            false,
        );
        assert!(auto.contains(&"StrictHostKeyChecking=accept-new".to_owned()));
        assert!(!auto.contains(&"IdentityAgent=none".to_owned()));
        assert!(words("qemu+ssh:///system", false).contains(&"localhost".to_owned()));
    }

    #[test]
    fn the_helper_or_netcat_as_libvirt_chooses() {
        let auto = script("qemu+ssh://h/system", true);
        assert!(
            auto.contains("exec virt-ssh-helper -r 'qemu:///system'"),
            "{auto}"
        );
        assert!(
            auto.contains("'nc' -U '/var/run/libvirt/libvirt-sock-ro'"),
            "{auto}"
        );
        let native = script("qemu+ssh://h/system?proxy=native", false);
        assert_eq!(native, "exec virt-ssh-helper 'qemu:///system'");
        assert_eq!(
            script("qemu+ssh://h/session", false),
            "exec virt-ssh-helper 'qemu:///session'"
        );
        for uri in [
            "qemu+ssh://h/system?proxy=netcat&socket=/s",
            "qemu+ssh://h/system?socket=/s",
            "qemu+ssh://h/session?socket=/s",
        ] {
            let netcat = script(uri, false);
            assert!(netcat.contains("exec 'nc' -q0 -U '/s'"), "{netcat}");
            assert!(!netcat.contains(HELPER), "{netcat}");
        }
        let other = script("qemu+ssh://h/system?netcat=/opt/my%20nc", false);
        assert!(
            other.contains("'/opt/my nc' -U '/var/run/libvirt/libvirt-sock'"),
            "{other}"
        );
    }

    #[test]
    fn no_word_of_the_user_is_taken_for_shell() {
        let name = "qemu+ssh://h/system?proxy=native&name=a'b%3b%20$(touch%20x)%20%22";
        assert_eq!(
            script(name, false),
            r#"exec virt-ssh-helper 'a'\''b; $(touch x) "'"#
        );
        let uri: Uri = "qemu+ssh://h/session?proxy=netcat".parse().unwrap();
        let error = command(&uri, &User::default(), false).unwrap_err();
        assert!(error.to_string().contains("`socket`"), "{error}");
    }
}
