//! What libvirt asks the agent by itself, as methods. virsh, asked the same, is the witness.

use std::collections::{BTreeMap, BTreeSet};

use libvirt_qmp::protocol::constants::{
    DomainAuthorizedSshKeysSetFlags, DomainGetHostnameFlags, DomainGuestInfoTypes,
    DomainInterfaceAddressesSource, DomainSetTimeFlags, DomainSetUserPasswordFlags,
    DomainVcpuFlags, IpAddrType,
};
use libvirt_qmp::{TypedParam, TypedParamValue};

use super::support::linux_guest::{DISK, HOSTNAME};
use super::*;

/// Parameters as virsh prints them.
fn printed(params: &[TypedParam]) -> BTreeMap<String, String> {
    let value = |value: &TypedParamValue| match value {
        TypedParamValue::Int(number) => number.to_string(),
        TypedParamValue::UInt(number) => number.to_string(),
        TypedParamValue::LLong(number) => number.to_string(),
        TypedParamValue::ULLong(number) => number.to_string(),
        TypedParamValue::Double(number) => number.to_string(),
        TypedParamValue::Boolean(true) => "yes".to_owned(),
        TypedParamValue::Boolean(false) => "no".to_owned(),
        TypedParamValue::String(text) => text.clone(),
    };
    params
        .iter()
        .map(|param| (param.field.clone(), value(&param.value)))
        .collect()
}

/// What virsh printed as `name : value`.
fn read(printed: &str) -> BTreeMap<String, String> {
    let pairs = printed.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// The words of each line of a table.
fn rows(table: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    table
        .lines()
        .map(words)
        .filter(|row: &Vec<String>| !row.is_empty())
        .collect()
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_libvirt_asks_the_agent_by_itself() {
    let booted = Booted::new().await;
    says_of_itself(&booted).await;
    is_frozen(&booted).await;
    is_set(&booted).await;
}

/// What the guest says of itself.
async fn says_of_itself(booted: &Booted) {
    let Booted {
        libvirt,
        domain,
        lab,
        ..
    } = booted;

    let info = libvirt.domain_get_guest_info(domain, DomainGuestInfoTypes::default());
    let info = printed(&info.await.unwrap());
    assert_eq!(info, read(&lab.virsh(&["guestinfo", GUEST])));
    for (name, value) in [
        ("os.id", "tiny"),
        ("os.pretty-name", "Tiny Guest 1"),
        ("hostname", HOSTNAME),
        ("fs.0.mountpoint", DISK),
        ("fs.0.disk.0.alias", "vda"),
        ("if.0.addr.0.addr", "127.0.0.1"),
        ("timezone.offset", "0"),
    ] {
        assert_eq!(info.get(name).map(String::as_str), Some(value), "{name}");
    }
    // Only what was asked for.
    let types = DomainGuestInfoTypes::OS | DomainGuestInfoTypes::HOSTNAME;
    let some = libvirt.domain_get_guest_info(domain, types).await.unwrap();
    let names = |prefix: &str| some.iter().any(|param| param.field.starts_with(prefix));
    assert!(names("os.") && names("hostname") && !names("fs.") && !names("if."));

    let flags = DomainGetHostnameFlags::AGENT;
    let hostname = libvirt.domain_get_hostname(domain, flags).await.unwrap();
    assert_eq!(hostname, HOSTNAME);
    let theirs = lab.virsh(&["domhostname", GUEST, "--source", "agent"]);
    assert_eq!(theirs, hostname);

    let systems = libvirt.domain_get_fsinfo(domain).await.unwrap();
    let ours: Vec<Vec<String>> = systems
        .info
        .iter()
        .map(|system| {
            let aliases = system.dev_aliases.join(",");
            vec![
                system.mountpoint.clone(),
                system.name.clone(),
                system.fstype.clone(),
                aliases,
            ]
        })
        .collect();
    assert_eq!(ours, rows(&lab.virsh(&["domfsinfo", GUEST])));
    assert_eq!(ours, [[DISK, "vda", "ext2", "vda"]]);

    let source = DomainInterfaceAddressesSource::AGENT;
    let interfaces = libvirt
        .domain_interface_addresses(domain, source)
        .await
        .unwrap();
    let mut ours = Vec::new();
    for interface in &interfaces {
        for address in &interface.addrs {
            let kind = match address.r#type {
                IpAddrType::IPV4 => "ipv4",
                IpAddrType::IPV6 => "ipv6",
                other => panic!("{other:?}"),
            };
            ours.push(vec![
                interface.name.clone(),
                interface.hwaddr.clone().unwrap(),
                kind.to_owned(),
                format!("{}/{}", address.addr, address.prefix),
            ]);
        }
    }
    let theirs = lab.virsh(&["domifaddr", GUEST, "--source", "agent", "--full"]);
    assert_eq!(ours, rows(&theirs));
    assert_eq!(ours[0][3], "127.0.0.1/8");

    let vcpus = libvirt.domain_get_guest_vcpus(domain).await.unwrap();
    assert_eq!(printed(&vcpus), read(&lab.virsh(&["guestvcpus", GUEST])));
    assert_eq!(printed(&vcpus)["online"], "0");
    let flags = DomainVcpuFlags::LIVE | DomainVcpuFlags::GUEST;
    let count = libvirt.domain_get_vcpus_flags(domain, flags).await.unwrap();
    assert_eq!(count, 1);
    let theirs = lab.virsh(&["vcpucount", GUEST, "--live", "--guest"]);
    assert_eq!(theirs, "1");
}

/// What is set in the guest.
async fn is_set(booted: &Booted) {
    let Booted {
        libvirt,
        domain,
        lab,
        guest,
        ..
    } = booted;

    let witness = || {
        let said = read(&lab.virsh(&["domtime", GUEST]));
        said["Time"].parse::<i64>().unwrap()
    };
    let before = witness();
    let time = libvirt.domain_get_time(domain).await.unwrap();
    let after = witness();
    assert!(
        (before..=after).contains(&time.seconds),
        "{before} {time:?} {after}"
    );
    assert!(time.nseconds < 1_000_000_000);
    let then = 1_000_000_000;
    let flags = DomainSetTimeFlags::default();
    libvirt
        .domain_set_time(domain, then, 0, flags)
        .await
        .unwrap();
    let now = witness();
    assert!((then..then + 600).contains(&now), "{now}");

    for (flags, option) in [
        (DomainSetUserPasswordFlags::default(), ""),
        (DomainSetUserPasswordFlags::DOMAIN_PASSWORD_ENCRYPTED, "-e"),
    ] {
        let (user, password) = (Some("root"), Some("s\u{e9}cret: 1"));
        let set = libvirt.domain_set_user_password(domain, user, password, flags);
        set.await.unwrap();
        let told = guest.shell("cat /run/passwords");
        assert_eq!(told, format!("{option}\nroot:s\u{e9}cret: 1\n"));
    }

    let keys = ["ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"];
    for (key, flags) in [
        (keys[0], DomainAuthorizedSshKeysSetFlags::default()),
        (keys[1], DomainAuthorizedSshKeysSetFlags::APPEND),
    ] {
        let keys = [key];
        let set = libvirt.domain_authorized_ssh_keys_set(domain, "root", &keys, flags);
        set.await.unwrap();
    }
    let ours = libvirt
        .domain_authorized_ssh_keys_get(domain, "root")
        .await
        .unwrap();
    let theirs = lab.virsh(&["get-user-sshkeys", GUEST, "root"]);
    // Without the headings, virsh has no end of line either.
    assert_eq!(theirs, ours.concat());
    // The agent puts the new ones first.
    assert_eq!(
        BTreeSet::from_iter(ours.iter().map(String::as_str)),
        BTreeSet::from(keys)
    );
    // What the agent refuses comes as libvirt's error.
    let missing = libvirt
        .domain_authorized_ssh_keys_get(domain, "nobody-here")
        .await;
    let error = missing.unwrap_err();
    assert!(!error.is_agent_unresponsive(), "{error:?}");
    assert!(error.to_string().contains("nobody-here"), "{error}");
}

/// File systems that are frozen and thawed.
async fn is_frozen(booted: &Booted) {
    let Booted {
        libvirt,
        domain,
        guest,
        ..
    } = booted;
    let status = async || {
        let asked = r#"{"execute":"guest-fsfreeze-status"}"#;
        booted.ask(asked, AGENT).await.unwrap()
    };
    assert_eq!(status().await, r#"{"return":"thawed"}"#);
    for mountpoints in [&[][..], &[DISK]] {
        let frozen = libvirt.domain_fsfreeze(domain, mountpoints).await.unwrap();
        assert_eq!(frozen, 1);
        assert_eq!(status().await, r#"{"return":"frozen"}"#);
        // Who writes waits, which is state D.
        guest.shell(
            "rm -f /run/written; (echo x >/disk/file; echo >/run/written) & \
             until read -r pid name state rest </proc/$!/stat && [ $state = D ]; do usleep 10000; done; \
             [ ! -e /run/written ]",
        );
        // libvirt thaws all that is frozen.
        let thawed = libvirt.domain_fsthaw(domain, &[]).await.unwrap();
        assert_eq!(thawed, 1);
        assert_eq!(status().await, r#"{"return":"thawed"}"#);
        guest.shell("until [ -e /run/written ]; do usleep 10000; done");
    }
}
