//! Containers: open files for their first process, and their namespaces as open files.

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use libvirt_qmp::protocol::constants::{DomainCreateFlags, DomainState};
use libvirt_qmp::{Domain, Error, Libvirt, LibvirtError};

use crate::support::privileged::Privileged;
use crate::support::process::{PATIENCE, search_path};
use crate::uri;

/// A container that sees the daemon's files and runs this line of shell.
pub(super) fn container(name: &str, line: &str) -> String {
    format!(
        "<domain type='lxc'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type>exe</type><init>/bin/sh</init><initarg>-c</initarg><initarg>{line}</initarg></os>\
         <devices><filesystem type='mount'><source dir='/'/><target dir='/'/></filesystem>\
         <console type='pty'/></devices></domain>"
    )
}

async fn connect(lab: &Privileged) -> Libvirt {
    Libvirt::connect(&uri("lxc", &lab.unix_path()))
        .await
        .unwrap()
}

/// A file that reads as this text, and then ends.
fn file(text: &str) -> OwnedFd {
    let (read, mut write) = pipe().unwrap();
    write.write_all(text.as_bytes()).unwrap();
    read.into()
}

/// What is written into the other end by whoever has it, up to its end.
async fn all_of(mut read: impl Read + Send + 'static) -> String {
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        text
    });
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap()
        .unwrap()
}

async fn is_running(libvirt: &Libvirt, domain: &Domain) -> bool {
    let state = libvirt.domain_get_state(domain).await.unwrap().state;
    state == DomainState::RUNNING
}

/// A running container, what its own processes say their namespaces are, and the files that the daemon opens them as.
///
/// The daemon is told of a container's first process a moment after the start, once and while it still prepares to
/// listen: what it misses then it never learns, and only another container helps.
async fn container_with_namespaces(libvirt: &Libvirt) -> (Domain, String, Vec<OwnedFd>) {
    let line = "readlink /proc/self/ns/* >&amp;3; exec 3>&amp;-; exec sleep 1000";
    let xml = container("space", line);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (read, write) = pipe().unwrap();
        let write = OwnedFd::from(write);
        let files = [write.as_fd()];
        let domain = libvirt
            .domain_create_xml_with_files(&xml, DomainCreateFlags::NONE, &files)
            .await
            .unwrap();
        drop(write);
        let said = all_of(read).await;
        let patience = Instant::now() + Duration::from_secs(3);
        while Instant::now() < patience {
            match libvirt.domain_open_namespace(&domain).await {
                Ok(files) => return (domain, said, files),
                Err(Error::Libvirt(error)) if error.code == LibvirtError::OPERATION_INVALID => {}
                Err(other) => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        libvirt.domain_destroy(&domain).await.unwrap();
        assert!(Instant::now() < deadline, "the daemon never learns of it");
    }
}

/// The first process of a container gets the files as its descriptors 3, 4 and so on, in their order.
#[tokio::test]
#[ignore = "needs root, libvirtd and its LXC driver: run tests/run"]
async fn they_start_with_open_files() {
    let lab = Privileged::start_for_containers();
    let libvirt = connect(&lab).await;
    let line = "cat &lt;&amp;4 >&amp;5; cat &lt;&amp;3 >&amp;5; exec 5>&amp;-; exec sleep 1000";
    let flags = DomainCreateFlags::NONE;
    let defined = libvirt
        .domain_define_xml(&container("defined", line))
        .await
        .unwrap();
    for is_defined in [true, false] {
        let (read, write) = pipe().unwrap();
        let (one, two, write) = (file("one"), file("two "), OwnedFd::from(write));
        let files = [one.as_fd(), two.as_fd(), write.as_fd()];
        let domain = match is_defined {
            true => {
                libvirt
                    .domain_create_with_files(&defined, flags, &files)
                    .await
            }
            false => {
                let xml = container("undefined", line);
                libvirt
                    .domain_create_xml_with_files(&xml, flags, &files)
                    .await
            }
        };
        drop((one, two, write));
        let domain = domain.unwrap();
        assert_eq!(all_of(read).await, "two one");
        assert!(is_running(&libvirt, &domain).await);
        libvirt.domain_destroy(&domain).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs root, libvirtd and its LXC driver: run tests/run"]
async fn their_namespaces_come_as_open_files() {
    let lab = Privileged::start_for_containers();
    let libvirt = connect(&lab).await;
    let (domain, said, files) = container_with_namespaces(&libvirt).await;
    let name = |file: &OwnedFd| {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::read_link(link).unwrap().display().to_string()
    };
    let names: Vec<String> = files.iter().map(name).collect();
    for kind in ["ipc", "mnt", "pid", "uts"] {
        let found = names
            .iter()
            .position(|name| name.starts_with(&format!("{kind}:[")));
        let found = &names[found.unwrap_or_else(|| panic!("no {kind}: {names:?}"))];
        assert!(said.lines().any(|line| line == found), "{found}: {said}");
        let ours = fs::read_link(Path::new("/proc/self/ns").join(kind)).unwrap();
        assert_ne!(ours.display().to_string(), *found);
    }
    // One can enter by them: there the machine is named as the container.
    let uts = names
        .iter()
        .position(|name| name.starts_with("uts:"))
        .unwrap();
    let inside = Command::new("nsenter")
        .args(["--uts=/proc/self/fd/0", "uname", "-n"])
        .env("PATH", search_path())
        .stdin(File::from(files[uts].try_clone().unwrap()))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&inside.stdout).trim(),
        "space",
        "{inside:?}"
    );
    libvirt.domain_destroy(&domain).await.unwrap();
    let gone = libvirt.domain_open_namespace(&domain).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone:?}");
}
