//! The domains of a hypervisor and its version, by a virsh of its own for each question. Imports error, libvirt's domains,
//! `process` and `failure`.

use std::sync::Arc;

use uuid::Uuid;

use super::failure;
use super::process::{Launcher, Output};
use crate::connection::{Deadline, sleep_until};
use crate::error::{Error, Phase};
use crate::objects::Domain;
use crate::qmp::Version;

/// Printed behind what is asked for, where that went well.
const END: &[u8] = b"end of list";

/// All domains, active or not.
pub(super) async fn domains(launcher: &Launcher, limit: Deadline) -> Result<Vec<Domain>, Error> {
    let said = ask(launcher, "list --all --uuid --id --name", "list", limit).await?;
    let lines = said.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| parse_domain(line).ok_or_else(|| unreadable("list of domains", line)))
        .collect()
}

/// The hypervisor by its name, its version, and the version of libvirt.
pub(super) async fn versions(
    launcher: &Launcher,
    limit: Deadline,
) -> Result<(String, Version, Version), Error> {
    let said = ask(launcher, "version --daemon", "version", limit).await?;
    parse_versions(&said).ok_or_else(|| unreadable("version", &said))
}

fn unreadable(what: &'static str, text: &[u8]) -> Error {
    let excerpt = text[..text.len().min(200)].escape_ascii();
    Error::json(what, format_args!("not in the form of virsh: {excerpt}"))
}

/// What a virsh prints to one command. It is the program's one argument, which virsh reads as a line of its own.
async fn ask(
    launcher: &Launcher,
    question: &str,
    command: &'static str,
    limit: Deadline,
) -> Result<Vec<u8>, Error> {
    let end = String::from_utf8_lossy(END);
    let started = launcher.one_command(&[&format!("{question}; echo '{end}'")], None)?;
    let output = tokio::select! {
        output = started.output() => output,
        () = sleep_until(limit) => return Err(Error::Timeout {
            phase: Phase::Reply,
            after: limit.map(|(_, after)| after).unwrap_or_default(),
            maybe_executed: false,
        }),
    };
    let Output { stdout, stderr } = output.map_err(|error| Error::Connect {
        target: launcher.uri.clone(),
        source: Arc::new(error),
    })?;
    match stdout.trim_ascii_end().strip_suffix(END) {
        Some(said) => Ok(said.to_vec()),
        None => Err(failure::of_connecting(&stderr, &launcher.uri, command)),
    }
}

/// `UUID ID NAME` with one blank between, and `-` for the id of a domain that is not active. A name has what libvirt lets it
/// have: anything but a line end.
fn parse_domain(line: &[u8]) -> Option<Domain> {
    let line = std::str::from_utf8(line).ok()?;
    let (uuid, rest) = line.split_once(' ')?;
    let (id, name) = rest.split_once(' ')?;
    Some(Domain {
        name: name.to_owned(),
        uuid: Uuid::try_parse(uuid).ok()?,
        id: match id {
            "-" => None,
            id => Some(id.parse().ok()?),
        },
    })
}

fn parse_versions(said: &[u8]) -> Option<(String, Version, Version)> {
    let said = std::str::from_utf8(said).ok()?;
    let after = |what: &str| said.lines().find_map(|line| line.strip_prefix(what));
    let (hypervisor, version) = after("Running hypervisor: ")?.rsplit_once(' ')?;
    let libvirt = after("Running against daemon: ").or_else(|| after("Using library: libvirt "))?;
    Some((
        hypervisor.to_owned(),
        parse_version(version)?,
        parse_version(libvirt)?,
    ))
}

fn parse_version(text: &str) -> Option<Version> {
    let mut numbers = text.trim().split('.').map(|number| number.parse().ok());
    let version = Version::new(numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_by_their_lines() {
        let uuid = "ac83b254-d742-42e1-ac84-cfb1d015566f";
        for (line, id, name) in [
            ("1 test", Some(1), "test"),
            ("- off", None, "off"),
            (
                "- odd  na'me; $(x) \u{e9}\ttab ",
                None,
                "odd  na'me; $(x) \u{e9}\ttab ",
            ),
            ("12 - 7", Some(12), "- 7"),
        ] {
            let domain = parse_domain(format!("{uuid} {line}").as_bytes()).unwrap();
            assert_eq!((domain.id, domain.name.as_str()), (id, name));
            assert_eq!(domain.uuid.to_string(), uuid);
        }
        for line in [
            "",
            "x",
            "1 2 3",
            &format!("{uuid} x y"),
            &format!("{uuid} 1"),
        ] {
            assert!(parse_domain(line.as_bytes()).is_none(), "{line}");
        }
    }

    #[test]
    fn versions_by_their_lines() {
        let said = "Compiled against library: libvirt 9.0.0\nUsing library: libvirt 9.1.0\nUsing API: QEMU 9.0.0\n\
                    Running hypervisor: QEMU 7.2.22\nRunning against daemon: 9.2.3\n";
        let expected = (
            "QEMU".to_owned(),
            Version::new(7, 2, 22),
            Version::new(9, 2, 3),
        );
        assert_eq!(parse_versions(said.as_bytes()), Some(expected));
        assert_eq!(parse_versions(b"Running hypervisor: QEMU\n"), None);
        assert_eq!(parse_version("9.0"), None);
        assert_eq!(parse_version("9.0.0.1"), None);
    }
}
