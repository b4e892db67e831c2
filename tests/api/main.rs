//! The whole protocol against a real libvirtd: what its procedures say is what virsh prints for the same question, with the
//! driver `test:///default` and with QEMU's. Live.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod host;
mod qemu;
mod test_driver;

use std::collections::BTreeSet;

use libvirt_qmp::{Config, Libvirt};
use support::lab::Lab;
use tokio::net::UnixStream;

/// A session with one driver of a lab's daemon, and virsh beside it.
struct Peer<'a> {
    lab: &'a Lab,
    uri: &'static str,
    libvirt: Libvirt,
    /// Procedures that were called.
    asked: BTreeSet<&'static str>,
}

impl<'a> Peer<'a> {
    async fn open(lab: &'a Lab, uri: &'static str) -> Self {
        let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
        let libvirt = Libvirt::open(conn, Config::new().uri(uri)).await.unwrap();
        Peer {
            lab,
            uri,
            libvirt,
            asked: BTreeSet::new(),
        }
    }

    /// What virsh prints, words apart by one blank and lines by one line end.
    fn virsh(&self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let text = self.lab.virsh_of(self.uri, &words);
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// What virsh prints as it stands, such as XML.
    fn virsh_text(&self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        self.lab.virsh_of(self.uri, &words)
    }

    /// What virsh prints behind `name` and a colon.
    fn virsh_field(&self, command: &str, name: &str) -> String {
        let text = self.virsh(command);
        let found = text.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            (field.trim() == name).then(|| value.trim().to_owned())
        });
        found.unwrap_or_else(|| panic!("no {name} in {command}:\n{text}"))
    }

    /// The first words of what virsh lists, in order.
    fn virsh_names(&self, command: &str) -> Vec<String> {
        let text = self.virsh(command);
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| line.split(' ').next().map(str::to_owned))
            .collect();
        names.sort();
        names
    }
}

/// Calls a method of the session, and notes that it was called.
macro_rules! ask {
    ($peer:expr, $method:ident $(, $argument:expr)*) => {{
        $peer.asked.insert(stringify!($method));
        match $peer.libvirt.$method($($argument),*).await {
            Ok(answer) => answer,
            Err(error) => panic!("{}: {error}", stringify!($method)),
        }
    }};
}
pub(crate) use ask;

/// Names in order.
fn sorted<T>(items: &[T], name: impl Fn(&T) -> String) -> Vec<String> {
    let mut names: Vec<String> = items.iter().map(name).collect();
    names.sort();
    names
}

/// `yes` and `no`, as virsh has it.
fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_procedures_say_is_what_virsh_prints() {
    let lab = Lab::start();
    let mut test = Peer::open(&lab, "test:///default").await;
    host::asked_of_the_test_driver(&mut test).await;
    test_driver::domains(&mut test).await;
    test_driver::snapshots(&mut test).await;
    test_driver::networks(&mut test).await;
    test_driver::storage(&mut test).await;
    test_driver::interfaces(&mut test).await;
    let mut qemu = Peer::open(&lab, lab.uri()).await;
    host::asked_of_qemu(&mut qemu).await;
    qemu::domains(&mut qemu).await;
    qemu::networks(&mut qemu).await;
    qemu::storage(&mut qemu).await;
    qemu::secrets(&mut qemu).await;
    qemu::devices(&mut qemu).await;

    let asked: BTreeSet<_> = test.asked.union(&qemu.asked).copied().collect();
    assert!(asked.len() >= 120, "{} procedures: {asked:?}", asked.len());
    for group in [
        "domain_",
        "network_",
        "storage_pool_",
        "storage_vol_",
        "secret_",
        "node_device_",
        "node_get_",
        "interface_",
        "connect_",
    ] {
        let of_group = asked.iter().filter(|name| name.starts_with(group)).count();
        assert!(of_group >= 4, "{of_group} of {group}");
    }
    test.libvirt.close().await.unwrap();
    qemu.libvirt.close().await.unwrap();
}
