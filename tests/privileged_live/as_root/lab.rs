//! The lab itself: nothing of it is left, and nothing of the machine's is touched.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libvirt_qmp::Libvirt;
use libvirt_qmp::protocol::constants::DomainCreateFlags;

use super::containers::container;
use crate::support::lab::{guest_xml, uuid_of};
use crate::support::privileged::{ANNE, PART, Privileged, ROOT, part, virsh};
use crate::support::process::{PATIENCE, poll_until, that_name};
use crate::uri;

/// What a lab could leave behind on the machine: mounts and cgroups that name it, and processes that do.
fn left_of(dir: &Path) -> Vec<String> {
    let name = dir.file_name().unwrap().to_str().unwrap();
    let mut found = that_name(dir);
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(name))
            .map(str::to_owned),
    );
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    let hierarchies = hierarchies.flatten().map(|entry| entry.path());
    found.extend(
        [PathBuf::from("/sys/fs/cgroup")]
            .into_iter()
            .chain(hierarchies)
            .map(|hierarchy| hierarchy.join(name))
            .filter(|group| group.exists())
            .map(|group| group.display().to_string()),
    );
    found.extend(dir.exists().then(|| dir.display().to_string()));
    found
}

/// The processes in the world of a lab, as the directories that they have outside: containers share its network.
fn processes_of(lab: &Privileged) -> Vec<PathBuf> {
    let network = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let wanted = network(Path::new(&format!("/proc/{}", lab.init())));
    assert!(wanted.is_some() && wanted != network(Path::new("/proc/self")));
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.map(|entry| entry.path());
    processes
        .filter(|process| network(process) == wanted)
        .collect()
}

/// A lab with a guest and a container that run.
async fn inhabited() -> Privileged {
    let lab = Privileged::start_for_containers();
    let guest = guest_xml("one", uuid_of("one"), "");
    // The container names the lab on its command line.
    let line = format!("sleep 1000; : {}", lab.dir().display());
    for (driver, xml) in [("qemu", guest), ("lxc", container("two", &line))] {
        let uri = uri(driver, &lab.unix_path());
        let libvirt = Libvirt::connect(&uri).await.unwrap();
        libvirt
            .domain_create_xml(&xml, DomainCreateFlags::NONE)
            .await
            .unwrap();
    }
    let commands = || -> Vec<String> {
        let command = |process: &PathBuf| fs::read_to_string(process.join("cmdline")).ok();
        processes_of(&lab).iter().filter_map(command).collect()
    };
    // A container's first process is its own a moment after libvirt calls it running.
    for program in ["libvirtd", "qemu-system", "libvirt_lxc", "sleep 1000"] {
        let runs = |command: &String| command.contains(program);
        let runs = poll_until(PATIENCE, || commands().iter().any(runs).then_some(()));
        assert!(runs.is_some(), "no {program}: {:?}", commands());
    }
    lab
}

#[test]
#[ignore = "needs root, libvirtd and QEMU: run tests/run"]
fn it_has_a_world_of_its_own() {
    if part().is_some() {
        let listed = virsh(&["-r", "-c", "qemu:///system", "list"]);
        assert_eq!(listed, Ok(String::new()));
        return;
    }
    let lab = Privileged::start();
    for user in [ROOT, ANNE] {
        lab.again(user, "as_root::lab::it_has_a_world_of_its_own", "look");
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(lab.dir().to_str().unwrap()), "{mounts}");
}

#[tokio::test]
#[ignore = "needs root, libvirtd and its LXC driver: run tests/run"]
async fn it_leaves_nothing() {
    for panics in [false, true] {
        let lab = inhabited().await;
        let (dir, processes) = (lab.dir().to_owned(), processes_of(&lab));
        let ended = std::thread::spawn(move || {
            let _lab = lab;
            assert!(!panics, "a test that fails");
        });
        assert_eq!(ended.join().is_err(), panics);
        assert!(left_of(&dir).is_empty(), "{:?}", left_of(&dir));
        for process in processes {
            assert!(!process.exists(), "{} is left", process.display());
        }
    }
}

#[tokio::test]
#[ignore = "needs root, libvirtd and its LXC driver: run tests/run"]
async fn a_killed_test_run_leaves_nothing() {
    const NAME: &str = "as_root::lab::a_killed_test_run_leaves_nothing";
    if part().is_some() {
        let lab = inhabited().await;
        println!("\nscratch: {}", lab.dir().display());
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let mut run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", NAME])
        .env(PART, "be killed")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(run.stdout.take().unwrap()).lines();
    let dir = lines
        .map_while(Result::ok)
        .find_map(|line| Some(PathBuf::from(line.split_once("scratch: ")?.1)));
    let dir = dir.expect("the other run says where its lab is");
    assert!(left_of(&dir).len() > 3, "{:?}", left_of(&dir));
    run.kill().unwrap();
    run.wait().unwrap();
    let nothing = poll_until(PATIENCE, || left_of(&dir).is_empty().then_some(()));
    assert!(nothing.is_some(), "{:?}", left_of(&dir));
}
