//! What virsh says when something fails, as errors. Imports error.
//!
//! virsh prints the text of an error and not its code. In the locale C that text begins with libvirt's own words for the
//! code, which are the same wherever the error comes from, and the code is known by them. Errors of the system have no such
//! words; nor have many that virsh makes itself.

use std::sync::Arc;

use crate::config::Config;
use crate::error::{EndCause, Error, LibvirtError};

/// libvirt's words for an error code, up to the colon, and the `virErrorNumber` that they stand for.
const WORDS: [(&str, i32); 27] = [
    ("internal error", LibvirtError::INTERNAL_ERROR),
    ("out of memory", 2),
    (
        "this function is not supported by the connection driver",
        LibvirtError::NO_SUPPORT,
    ),
    ("unknown host", 4),
    ("no connection driver available", 5),
    ("invalid argument", 8),
    ("operation failed", 9),
    ("library call failed", 26),
    ("operation forbidden", LibvirtError::OPERATION_DENIED),
    ("RPC error", LibvirtError::RPC),
    // What it was called for: the packet would be larger than libvirt allows.
    ("Unable to encode message payload", LibvirtError::RPC),
    ("Domain not found", LibvirtError::NO_DOMAIN),
    // virsh's own words for it, which it says in place of libvirt's.
    ("failed to get domain", LibvirtError::NO_DOMAIN),
    ("authentication failed", LibvirtError::AUTH_FAILED),
    (
        "Requested operation is not valid",
        LibvirtError::OPERATION_INVALID,
    ),
    ("unsupported configuration", 67),
    (
        "Timed out during operation",
        LibvirtError::OPERATION_TIMEOUT,
    ),
    ("argument unsupported", 74),
    ("operation aborted", 78),
    ("authentication cancelled", LibvirtError::AUTH_CANCELLED),
    ("Operation not supported", 84),
    (
        "Guest agent is not responding",
        LibvirtError::AGENT_UNRESPONSIVE,
    ),
    (
        "guest agent replied with wrong id to guest-sync command",
        LibvirtError::AGENT_UNSYNCED,
    ),
    (
        "guest agent command timed out",
        LibvirtError::AGENT_COMMAND_TIMEOUT,
    ),
    (
        "guest agent command failed",
        LibvirtError::AGENT_COMMAND_FAILED,
    ),
    ("resource busy", 87),
    ("access denied", LibvirtError::ACCESS_DENIED),
];

/// `VIR_FROM_QEMU`: what runs the commands of a monitor, and fails where none of the words above is said.
const FROM_QEMU: i32 = 10;

/// `VIR_ERR_ERROR`.
const LEVEL_ERROR: i32 = 2;

/// What virsh says first where it has no connection.
const NO_CONNECTION: &str = "failed to connect to the hypervisor";

/// What virsh says when it notices that it has lost its connection, before the URI.
const LOST: &str = "Disconnected from ";

/// How an error begins that says that virsh has lost its connection, or tries to have another.
const LOSSES: [&str; 7] = [
    "End of file while reading data",
    "Cannot recv data",
    "Cannot write data",
    "client socket is closed",
    "internal error: client socket is closed",
    "Failed to reconnect to the hypervisor",
    "Reconnected to the hypervisor",
];

/// The errors that virsh has printed, in their order. A text may go on over several lines.
fn messages(stderr: &[u8]) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for line in String::from_utf8_lossy(stderr).lines() {
        let line = line.trim_end_matches('\r');
        match (line.strip_prefix("error: "), messages.last_mut()) {
            (Some(message), _) => messages.push(message.to_owned()),
            (None, Some(last)) if !line.is_empty() => {
                last.push('\n');
                last.push_str(line);
            }
            // A warning of something that virsh has started.
            (None, _) => {}
        }
    }
    messages
}

/// The error of a command that has given no reply. `procedure` is what virsh was asked to do.
pub(super) fn of_command(stderr: &[u8], procedure: &'static str) -> Error {
    let messages = messages(stderr);
    let own = |message: &&String| {
        message.starts_with("unknown command") || message.contains("doesn't support option")
    };
    if let Some(message) = messages.iter().find(own) {
        return Error::Unsupported(format!("this virsh cannot do it: {message}"));
    }
    if messages.is_empty() {
        return Error::json("reply", "virsh said nothing");
    }
    libvirt(&messages, procedure).into()
}

/// The error of a virsh that has ended although it should have connected to `uri` and done something.
pub(super) fn of_connecting(stderr: &[u8], uri: &str, procedure: &'static str) -> Error {
    let messages = messages(stderr);
    let never = messages.is_empty() || messages.iter().any(|text| text == NO_CONNECTION);
    // virsh says of a look-up that the connection was lost under only that it has found nothing.
    let lost = is_loss(stderr) || messages.iter().any(|text| text.starts_with(LOST));
    if !never && !lost {
        return of_command(stderr, procedure);
    }
    let reasons: Vec<String> = messages
        .into_iter()
        .filter(|text| text != NO_CONNECTION)
        .collect();
    let error = libvirt(&reasons, procedure);
    match error.code {
        code if lost || matches!(code, LibvirtError::INTERNAL_ERROR | LibvirtError::RPC) => {
            let reason = match reasons.is_empty() {
                true => "virsh ended and said nothing".to_owned(),
                false => reasons.join(": "),
            };
            Error::Connect {
                target: uri.to_owned(),
                source: Arc::new(std::io::Error::other(reason)),
            }
        }
        _ => error.into(),
    }
}

/// That the domain does not exist, where virsh need not be asked.
pub(super) fn no_domain(name: &str) -> Error {
    let message = format!("Domain not found: no domain can have the name {name:?}");
    libvirt(&[message], "domuuid").into()
}

/// The first of `messages` that has a known code counts, and the text is all of them.
fn libvirt(messages: &[String], procedure: &'static str) -> LibvirtError {
    let code = messages.iter().find_map(|message| code(message));
    LibvirtError {
        // What is unknown may have happened at any time, so it counts as what the QEMU driver says when QEMU goes away.
        code: code.unwrap_or(LibvirtError::INTERNAL_ERROR),
        domain: FROM_QEMU,
        level: LEVEL_ERROR,
        message: Some(messages.join(": ")),
        str1: None,
        str2: None,
        str3: None,
        int1: -1,
        int2: -1,
        about_domain: None,
        about_network: None,
        procedure,
    }
}

fn code(message: &str) -> Option<i32> {
    let begins = |words: &str| {
        message
            .strip_prefix(words)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', ' ']))
    };
    WORDS
        .iter()
        .find(|(words, _)| begins(words))
        .map(|(_, code)| *code)
}

/// Whether a command has failed because virsh had lost its connection.
pub(super) fn is_loss(stderr: &[u8]) -> bool {
    messages(stderr)
        .iter()
        .any(|message| LOSSES.iter().any(|loss| message.starts_with(loss)))
}

/// Why the connection has ended, where a line of standard error says that it has.
pub(super) fn loss(line: &[u8], config: &Config) -> Option<EndCause> {
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("error: ")?.strip_prefix(LOST)?.trim_end();
    Some(match config.keepalive {
        Some(keepalive) if rest.ends_with("due to keepalive timeout") => {
            EndCause::KeepaliveTimeout {
                pings: keepalive.count,
                silence: keepalive
                    .interval
                    .saturating_mul(keepalive.count.saturating_add(1)),
            }
        }
        _ if rest.ends_with("due to I/O error") => {
            EndCause::Io(Arc::new(std::io::ErrorKind::ConnectionReset.into()))
        }
        _ => EndCause::PeerClosed,
    })
}

/// Why a virsh has ended that should not have.
pub(super) fn of_end(stderr: &[u8], config: &Config) -> EndCause {
    if let Some(cause) = stderr
        .split(|byte| *byte == b'\n')
        .find_map(|line| loss(line, config))
    {
        return cause;
    }
    if is_loss(stderr) {
        return EndCause::PeerClosed;
    }
    let text = match messages(stderr) {
        none if none.is_empty() => "virsh ended by itself".to_owned(),
        messages => format!("virsh ended: {}", messages.join(": ")),
    };
    EndCause::Io(Arc::new(std::io::Error::other(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(stderr: &str) -> Error {
        of_command(stderr.as_bytes(), "qemu-monitor-command")
    }

    #[test]
    fn libvirts_words_tell_the_code() {
        for (stderr, code) in [
            ("error: failed to get domain 'none'\n", 42),
            (
                "error: Domain not found: no domain with matching uuid\n",
                42,
            ),
            (
                "error: Requested operation is not valid: domain is not running\n",
                55,
            ),
            (
                "error: operation forbidden: read only access prevents virDomainQemuMonitorCommand\n",
                29,
            ),
            (
                "error: Timed out during operation: cannot acquire state change lock\n",
                68,
            ),
            (
                "error: this function is not supported by the connection driver: virDomainQemuMonitorCommand\n",
                3,
            ),
            (
                "error: argument unsupported: QEMU guest agent is not configured\n",
                74,
            ),
            (
                "error: Guest agent is not responding: QEMU guest agent is not connected\n",
                86,
            ),
            (
                "error: guest agent replied with wrong id to guest-sync command: got 2, expected 1\n",
                97,
            ),
            (
                "error: guest agent command timed out: Guest agent disappeared while executing command\n",
                112,
            ),
            (
                "error: guest agent command failed: unable to execute QEMU agent command 'guest-nothing'\n",
                113,
            ),
            ("error: no connection driver available for bogus:///\n", 5),
            ("error: Unable to encode message payload\n", 39),
            (
                "error: internal error: Unable to append command 'id' string\n",
                1,
            ),
            // None of the words.
            (
                "error: Unable to read from monitor: Connection reset by peer\n",
                1,
            ),
            ("error: internal errors abound\n", 1),
        ] {
            assert_eq!(command(stderr).libvirt_code(), Some(code), "{stderr}");
        }
        assert!(command("error: failed to get domain 'x'\n").is_not_found());
        assert!(!command("error: failed to get domain 'x'\n").maybe_executed());
        // QEMU may have been at it when it went away.
        assert!(
            command("error: Unable to read from monitor: Connection reset by peer\n")
                .maybe_executed()
        );
        assert!(command("error: internal error: End of file from qemu monitor\n").maybe_executed());
        assert!(command("").maybe_executed());
    }

    #[test]
    fn the_whole_text_is_kept() {
        let Error::Libvirt(error) =
            command("Warning: x\nerror: operation failed: a\nb\n\nerror: c\n")
        else {
            unreachable!()
        };
        assert_eq!(error.message.as_deref(), Some("operation failed: a\nb: c"));
        assert_eq!(error.code, 9);
    }

    #[test]
    fn what_this_virsh_lacks_is_unsupported() {
        assert!(command("error: unknown command: 'qemu-monitor-command'\n").is_unsupported());
        assert!(
            command("error: command 'qemu-monitor-command' doesn't support option --pass-fds\n")
                .is_unsupported()
        );
    }

    #[test]
    fn connecting_fails_with_the_reason() {
        let connecting = |stderr: &str| of_connecting(stderr.as_bytes(), "qemu:///x", "domuuid");
        let error = connecting(
            "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/nope': No such file or directory\n",
        );
        let Error::Connect { target, source } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(target, "qemu:///x");
        assert_eq!(
            source.to_string(),
            "Failed to connect socket to '/nope': No such file or directory"
        );
        assert!(error.is_unavailable());
        let denied =
            "error: failed to connect to the hypervisor\nerror: authentication failed: no\n";
        assert!(connecting(denied).is_denied());
        assert!(connecting("").is_unavailable());
        assert!(connecting("error: failed to get domain 'x'\n").is_not_found());
        for lost in [
            "error: Disconnected from qemu:///x due to end of file\nerror: failed to get domain 'x'\n",
            "error: failed to get domain 'x'\nerror: End of file while reading data: Input/output error\n",
        ] {
            let error = connecting(lost);
            assert!(error.is_unavailable() && !error.is_not_found(), "{error:?}");
        }
    }

    #[test]
    fn losses_are_known() {
        let config = Config::new();
        let line =
            |reason: &str| format!("error: Disconnected from qemu:///system due to {reason}\n");
        assert!(matches!(
            loss(line("end of file").as_bytes(), &config),
            Some(EndCause::PeerClosed)
        ));
        assert!(matches!(
            loss(line("keepalive timeout").as_bytes(), &config),
            Some(EndCause::KeepaliveTimeout { pings: 5, silence }) if silence.as_secs() == 30
        ));
        assert!(matches!(
            loss(line("I/O error").as_bytes(), &config),
            Some(EndCause::Io(_))
        ));
        assert!(loss(b"error: Requested operation is not valid", &config).is_none());
        assert!(is_loss(
            b"error: End of file while reading data: Input/output error\n"
        ));
        assert!(!is_loss(
            b"error: internal error: End of file from qemu monitor\n"
        ));
        let cause = of_end(b"error: a\nerror: b\n", &config);
        let EndCause::Io(error) = cause else {
            panic!("{cause:?}")
        };
        assert_eq!(error.to_string(), "virsh ended: a: b");
    }
}
