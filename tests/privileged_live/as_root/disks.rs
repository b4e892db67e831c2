//! Open files for the disks of guests.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use libvirt_qmp::protocol::constants::DomainFdAssociateFlags;
use libvirt_qmp::{Command, Error, Libvirt, LibvirtRpc, MonitorExt};
use serde_json::Value;

use crate::support::lab::{guest_xml, uuid_of};
use crate::support::privileged::Privileged;
use crate::support::process::PATIENCE;
use crate::uri;

/// A disk of a guest, as QEMU tells of it.
struct Disk {
    /// The path of the device in QEMU's tree.
    device: String,
    /// The name that QEMU has opened.
    image: String,
    size: u64,
    writable: bool,
}

async fn disks_of(guest: &LibvirtRpc) -> Vec<Disk> {
    let disks: Vec<Value> = guest.query("block").await.unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    disks
        .iter()
        .filter(|disk| disk["inserted"].is_object())
        .map(|disk| {
            let inserted = &disk["inserted"];
            Disk {
                device: text(&disk["qdev"]),
                image: text(&inserted["image"]["filename"]),
                size: inserted["image"]["virtual-size"].as_u64().unwrap(),
                writable: inserted["ro"] == false,
            }
        })
        .collect()
}

/// A disk on a file that nobody can open by its name: the path in the XML does not exist.
fn disk(group: &str, target: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
         <source file='/nowhere/{group}.img' fdgroup='{group}'/><target dev='{target}' bus='virtio'/></disk>"
    )
}

/// An image of so many bytes without a name, open for reading and writing.
fn image(dir: &Path, size: u64) -> File {
    let path = dir.join("image");
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let file = options.open(&path).unwrap();
    file.set_len(size).unwrap();
    fs::remove_file(path).unwrap();
    file
}

#[tokio::test]
#[ignore = "needs root, libvirtd and QEMU: run tests/run"]
async fn a_guest_runs_on_files_that_it_could_not_open() {
    let lab = Privileged::start();
    let libvirt = Libvirt::connect(&uri("qemu", &lab.unix_path()))
        .await
        .unwrap();
    let devices = [disk("first", "vda"), disk("second", "vdb")].concat();
    let xml = guest_xml("one", uuid_of("one"), &devices);
    let domain = libvirt.domain_define_xml(&xml).await.unwrap();
    libvirt.domain_create(&domain).await.unwrap_err();

    let none = DomainFdAssociateFlags::default();
    let (first, second) = (image(lab.dir(), 3 << 20), image(lab.dir(), 5 << 20));
    for (group, file) in [("first", &first), ("second", &second)] {
        libvirt
            .domain_fd_associate(&domain, group, none, &[file.as_fd()])
            .await
            .unwrap();
    }
    libvirt.domain_create(&domain).await.unwrap();
    let guest = libvirt.monitor("one");
    let disks = disks_of(&guest).await;
    let sizes: Vec<u64> = disks.iter().map(|disk| disk.size).collect();
    assert_eq!(sizes, [3 << 20, 5 << 20]);
    for disk in &disks {
        assert!(disk.image.starts_with("/dev/fdset/"), "{}", disk.image);
        assert!(disk.writable);
    }
    // What goes to the disk is in the file that was passed.
    let line = format!("qemu-io -d {} \"write -P 0x5a 4096 512\"", disks[1].device);
    let write = Command::new("human-monitor-command").arg("command-line", line);
    let said: String = guest.execute(write).await.unwrap();
    let mut sector = [0; 512];
    second.read_exact_at(&mut sector, 4096).unwrap();
    assert_eq!(sector, [0x5a; 512], "{said}");
}

#[tokio::test]
#[ignore = "needs root, libvirtd and QEMU: run tests/run"]
async fn they_are_gone_with_the_connection_that_passed_them() {
    let lab = Privileged::start();
    let uri = uri("qemu", &lab.unix_path());
    let libvirt = Libvirt::connect(&uri).await.unwrap();
    let xml = guest_xml("one", uuid_of("one"), &disk("group", "vda"));
    let domain = libvirt.domain_define_xml(&xml).await.unwrap();
    let file = image(lab.dir(), 3 << 20);
    let flags = DomainFdAssociateFlags::default();
    libvirt
        .domain_fd_associate(&domain, "group", flags, &[file.as_fd()])
        .await
        .unwrap();
    libvirt.close().await.unwrap();
    let other = Libvirt::connect(&uri).await.unwrap();
    // The daemon answers before it has put away what was the connection's.
    let refused = async {
        loop {
            match other.domain_create(&domain).await {
                Ok(()) => other.domain_destroy(&domain).await.unwrap(),
                Err(error) => return error,
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    let words = "file descriptor group 'group' was not associated";
    let Error::Libvirt(refused) = refused else {
        panic!("{refused:?}")
    };
    assert!(refused.message.unwrap().contains(words));
}
