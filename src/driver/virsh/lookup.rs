//! Which domain is meant: its UUID, by a virsh of its own. Imports error, libvirt's keys, `process` and `failure`.
//!
//! virsh takes a name that is a number for a domain's id first, and a name may look like a UUID. So the name is looked up
//! once, exactly, and every command names the domain by its UUID. The name goes as an argument of the program: nothing in
//! it means anything to a shell, to readline or to virsh's parser.

use std::sync::Arc;

use uuid::Uuid;

use super::failure;
use super::process::{Launcher, Output};
use crate::connection::{CallOptions, Deadline, Limits, sleep_until, timed_out};
use crate::error::{Error, Phase};
use crate::inflight::Progress;
use crate::libvirt::DomainKey;

/// The system takes no longer argument (`MAX_ARG_STRLEN`, less the byte that ends it).
pub(super) const LONGEST_ARGUMENT: usize = 128 * 1024 - 1;

/// What `virsh list --uuid --name` prints before a name: the UUID and a blank.
const BEFORE_NAME: usize = 37;

/// The UUID of the domain that is meant.
pub(super) async fn uuid_of(
    launcher: &Launcher,
    key: &DomainKey,
    deadline: Deadline,
) -> Result<Uuid, Error> {
    let find = async {
        let name = match key {
            DomainKey::Uuid(uuid) => return by_uuid(launcher, *uuid).await,
            DomainKey::Name(name) => name,
        };
        // No domain has such a name, and virsh or the system would say something else about it.
        if name.is_empty() || name.contains('\0') || name.len() > LONGEST_ARGUMENT {
            let shown: String = name.chars().take(100).collect();
            return Err(failure::no_domain(&shown));
        }
        if let Some(uuid) = hyphenated(name) {
            match by_uuid(launcher, uuid).await {
                Err(error) if error.is_not_found() => {}
                found_or_failed => return found_or_failed,
            }
        }
        match is_number(name) {
            true => by_list(launcher, name).await,
            false => by_name(launcher, name).await,
        }
    };
    tokio::select! {
        found = find => found,
        () = sleep_until(deadline) => Err(timed_out(
            &CallOptions { phase: Phase::Open, deadline, limits: Limits::None },
            Progress::Queued,
        )),
    }
}

async fn by_uuid(launcher: &Launcher, uuid: Uuid) -> Result<Uuid, Error> {
    let text = uuid.to_string();
    ask(launcher, &["domname", "--domain", &text], "domname").await?;
    Ok(uuid)
}

async fn by_name(launcher: &Launcher, name: &str) -> Result<Uuid, Error> {
    let said = ask(launcher, &["domuuid", "--domain", name], "domuuid").await?;
    parse_uuid(said.trim_ascii())
}

/// The only way to find a domain by a name that virsh takes for an id.
async fn by_list(launcher: &Launcher, name: &str) -> Result<Uuid, Error> {
    let said = ask(launcher, &["list", "--all", "--uuid", "--name"], "list").await;
    let said = match said {
        // There are no domains at all.
        Err(Error::Decode { .. }) => Vec::new(),
        other => other?,
    };
    match in_list(&said, name) {
        Some(uuid) => parse_uuid(uuid),
        None => Err(failure::no_domain(name)),
    }
}

/// The UUID before this name; names are padded with blanks.
fn in_list<'a>(list: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let name = name.trim_end_matches(' ').as_bytes();
    list.split(|byte| *byte == b'\n').find_map(|line| {
        let (uuid, listed) = line.split_at_checked(BEFORE_NAME)?;
        let end = listed.iter().rposition(|byte| *byte != b' ')? + 1;
        (&listed[..end] == name).then_some(uuid.trim_ascii())
    })
}

fn parse_uuid(text: &[u8]) -> Result<Uuid, Error> {
    Uuid::try_parse_ascii(text).map_err(|error| Error::json("UUID of the domain", error))
}

/// What a virsh prints to one command, or why it prints nothing.
async fn ask(
    launcher: &Launcher,
    arguments: &[&str],
    command: &'static str,
) -> Result<Vec<u8>, Error> {
    let started = launcher.one_command(arguments, None)?;
    let Output { stdout, stderr } = started.output().await.map_err(|error| Error::Connect {
        target: launcher.uri.clone(),
        source: Arc::new(error),
    })?;
    if stdout.trim_ascii().is_empty() {
        return Err(failure::of_connecting(&stderr, &launcher.uri, command));
    }
    Ok(stdout)
}

/// The UUID that `name` spells, in the one form that libvirt prints.
fn hyphenated(name: &str) -> Option<Uuid> {
    (name.len() == 36)
        .then(|| Uuid::try_parse(name).ok())
        .flatten()
}

/// Whether C's `strtol` would read the whole name as a number.
fn is_number(name: &str) -> bool {
    let name = name.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    let digits = name.strip_prefix(['+', '-']).unwrap_or(name);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_virsh_takes_for_ids() {
        for name in ["5", "007", " 5", "\t+5", "-1"] {
            assert!(is_number(name), "{name:?}");
        }
        for name in ["", "5a", "5 ", "one", "+", "0x5", "\u{665}"] {
            assert!(!is_number(name), "{name:?}");
        }
    }

    #[test]
    fn a_name_is_found_in_a_padded_list() {
        let list = b"eae60cd8-7e44-431b-87f9-7e473717966c 57                             \n\
                     00000000-0000-0000-0000-000000000005 5                              \n\
                     00000000-0000-0000-0000-000000000006 a longer one than its column is wide\n\nx\n";
        let uuid = |name| in_list(list, name).map(|uuid| parse_uuid(uuid).unwrap());
        assert_eq!(uuid("5"), Some(Uuid::from_u128(5)));
        assert_eq!(uuid("7"), None);
        assert_eq!(
            uuid("a longer one than its column is wide"),
            Some(Uuid::from_u128(6))
        );
    }
}
