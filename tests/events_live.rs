//! libvirt's own events from a real libvirtd: of domains, networks, storage pools and node devices of its test driver, and of
//! secrets and a guest of QEMU. What virsh says of the same events is the witness.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that cannot do its work fails the test that called it"
)]

mod support;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use libvirt_qmp::events::*;
use libvirt_qmp::{Config, Error, Libvirt, LibvirtError, TypedParamValue};
use support::lab::Lab;
use support::mock::poll_once;
use support::process::{PATIENCE, poll_until, search_path};
use tokio::net::UnixStream;

const TEST: &str = "test:///default";

async fn open(lab: &Lab, uri: &str) -> Libvirt {
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    Libvirt::open(conn, Config::new().uri(uri)).await.unwrap()
}

async fn next<T, S: Stream<Item = Result<T, Error>> + Unpin>(events: &mut S) -> T {
    let next = tokio::time::timeout(PATIENCE, events.next()).await;
    next.expect("the daemon says something").unwrap().unwrap()
}

/// Asserts that no event of before the daemon's next answer is left in `events`.
async fn is_all<T: std::fmt::Debug, S: Stream<Item = T> + Unpin>(
    libvirt: &Libvirt,
    events: &mut S,
) {
    libvirt.domains().await.unwrap();
    let more = poll_once(pin!(events.next())).await;
    assert!(more.is_pending(), "{more:?}");
}

/// The first event that is not of before the subscription: the daemon sends what it has not sent yet to those who have come
/// since.
async fn after_late(
    events: &mut DomainEvents,
    is_late: impl Fn(&DomainEvent) -> bool,
) -> DomainEvent {
    loop {
        let event = next(events).await;
        if !is_late(&event) {
            return event;
        }
    }
}

/// A domain, and what happened to it in virsh's words.
fn words(event: &DomainEvent) -> String {
    let DomainEvent::Lifecycle { domain, change, .. } = event else {
        panic!("{event:?}");
    };
    use DomainLifecycle::*;
    let change = match *change {
        Defined(DomainEventDefinedDetailType::ADDED) => "Defined Added",
        Defined(DomainEventDefinedDetailType::UPDATED) => "Defined Updated",
        Undefined(DomainEventUndefinedDetailType::REMOVED) => "Undefined Removed",
        Started(DomainEventStartedDetailType::BOOTED) => "Started Booted",
        Suspended(DomainEventSuspendedDetailType::PAUSED) => "Suspended Paused",
        Resumed(DomainEventResumedDetailType::UNPAUSED) => "Resumed Unpaused",
        Stopped(DomainEventStoppedDetailType::SHUTDOWN) => "Stopped Shutdown",
        Stopped(DomainEventStoppedDetailType::DESTROYED) => "Stopped Destroyed",
        Stopped(DomainEventStoppedDetailType::CRASHED) => "Stopped Crashed",
        Stopped(DomainEventStoppedDetailType::FAILED) => "Stopped Failed",
        Shutdown(DomainEventShutdownDetailType::FINISHED) => "Shutdown Finished",
        Shutdown(DomainEventShutdownDetailType::GUEST) => "Shutdown Finished after guest request",
        Shutdown(DomainEventShutdownDetailType::HOST) => "Shutdown Finished after host request",
        other => panic!("{other:?}"),
    };
    format!("{}: {change}", domain.name)
}

/// The name of an event in virsh's words, and its domain's.
fn kind(event: &DomainEvent) -> (&'static str, String) {
    let name = match event {
        DomainEvent::Lifecycle { .. } => "lifecycle",
        DomainEvent::Reboot { .. } => "reboot",
        DomainEvent::TrayChange { .. } => "tray-change",
        DomainEvent::BlockJob { .. } => "block-job",
        DomainEvent::BlockJob2 { .. } => "block-job-2",
        DomainEvent::Tunable { .. } => "tunable",
        DomainEvent::DeviceAdded { .. } => "device-added",
        DomainEvent::DeviceRemoved { .. } => "device-removed",
        DomainEvent::JobCompleted { .. } => "job-completed",
        DomainEvent::MetadataChange { .. } => "metadata-change",
        DomainEvent::BalloonChange { .. } => "balloon-change",
        DomainEvent::RtcChange { .. } => "rtc-change",
        other => panic!("{other:?}"),
    };
    (name, event.domain().unwrap().name.clone())
}

/// `virsh event --all` on the same daemon, which tells what it sees.
struct Witness {
    child: Child,
    lines: Receiver<String>,
}

impl Witness {
    fn start(lab: &Lab, uri: &str) -> Witness {
        let mut child = Command::new("stdbuf")
            .args(["-oL", "virsh", "-q", "-c", uri])
            .args(["event", "--all", "--loop"])
            .env("LC_ALL", "C")
            .env("PATH", search_path())
            .env("XDG_CACHE_HOME", lab.dir().join("witness"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = channel();
        // Ends with virsh, which ends with this.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.starts_with("event '") && sender.send(line).is_err() {
                    break;
                }
            }
        });
        Witness {
            child,
            lines: receiver,
        }
    }

    /// Lets `something` happen until the witness has seen it: it says nowhere that it has registered.
    fn wait_until_it_sees(&self, mut something: impl FnMut()) {
        let seen = poll_until(PATIENCE, || {
            something();
            self.lines.recv_timeout(Duration::from_millis(100)).ok()
        });
        assert!(seen.is_some(), "virsh sees nothing");
    }

    /// The next event: its name, its domain, and what virsh says of it.
    fn next(&self) -> (String, String, String) {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .expect("virsh sees an event");
        let (name, rest) = line
            .strip_prefix("event '")
            .unwrap()
            .split_once('\'')
            .unwrap();
        let rest = rest.strip_prefix(" for domain '").unwrap();
        let (domain, what) = rest.split_once('\'').unwrap();
        let what = what.trim_start_matches(':').trim();
        (name.to_owned(), domain.to_owned(), what.to_owned())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_life_of_a_domain_of_the_test_driver_is_seen_as_virsh_sees_it() {
    let lab = Lab::start();
    let virsh = |command: &[&str]| lab.virsh_of(TEST, command);
    let libvirt = open(&lab, TEST).await;
    let witness = Witness::start(&lab, &lab.client_uri_of(TEST));
    witness.wait_until_it_sees(|| {
        virsh(&["suspend", "test"]);
        virsh(&["resume", "test"]);
    });
    let test = libvirt.domains().await.unwrap().remove(0);
    assert_eq!(test.name, "test");
    let only = [DomainEventId::LIFECYCLE];
    let mut all = libvirt
        .domain_events(DomainEventFilter::all().only(only))
        .await
        .unwrap();
    let mut of_test = libvirt
        .domain_events(DomainEventFilter::of(&test).only(only))
        .await
        .unwrap();

    let xml = lab.dir().join("second.xml");
    let described = virsh(&["dumpxml", "test"]);
    let described = described
        .replace("<name>test</name>", "<name>second</name>")
        .replace(
            &test.uuid.to_string(),
            "8f6f1b52-8ae5-4c3b-8b8e-3a2f8c1f0a11",
        );
    fs::write(&xml, described).unwrap();
    virsh(&["define", &xml.display().to_string()]);
    for command in ["start", "suspend", "resume", "destroy", "undefine"] {
        virsh(&[command, "second"]);
    }
    for command in ["suspend", "resume", "destroy", "start"] {
        virsh(&[command, "test"]);
    }

    let expected = [
        "second: Defined Added",
        "second: Started Booted",
        "second: Suspended Paused",
        "second: Resumed Unpaused",
        "second: Stopped Destroyed",
        "second: Undefined Removed",
        "test: Suspended Paused",
        "test: Resumed Unpaused",
        "test: Stopped Destroyed",
        "test: Started Booted",
    ];
    let is_late = |event: &DomainEvent| event.domain().unwrap().name == "test";
    let first = after_late(&mut all, is_late).await;
    assert_eq!(words(&first), expected[0]);
    for expected in &expected[1..] {
        assert_eq!(words(&next(&mut all).await), *expected);
    }
    let mut ours = Vec::new();
    while ours.last().is_none_or(|last| last != expected[9]) {
        let event = next(&mut of_test).await;
        assert_eq!(event.domain().unwrap().uuid, test.uuid);
        ours.push(words(&event));
    }
    assert!(
        ours.ends_with(
            &expected[6..]
                .iter()
                .map(|&words| words.to_owned())
                .collect::<Vec<_>>()
        ),
        "{ours:?}"
    );
    is_all(&libvirt, &mut all).await;
    is_all(&libvirt, &mut of_test).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != expected[9]) || seen.len() < expected.len() {
        let (name, domain, what) = witness.next();
        assert_eq!(name, "lifecycle");
        // What it took to know that virsh has registered comes first.
        if domain == "second" || !seen.is_empty() {
            seen.push(format!("{domain}: {what}"));
        }
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn networks_pools_and_devices_of_the_test_driver_tell_their_lives() {
    let lab = Lab::start();
    let virsh = |command: &[&str]| lab.virsh_of(TEST, command);
    let libvirt = open(&lab, TEST).await;

    // A daemon of 9.0 knows no kind of event of networks but this.
    let mut networks = libvirt
        .network_events(NetworkEventFilter::all())
        .await
        .unwrap();
    for command in ["net-destroy", "net-start", "net-destroy", "net-undefine"] {
        virsh(&[command, "default"]);
    }
    use NetworkEventLifecycleType as Net;
    for expected in [Net::STOPPED, Net::STARTED, Net::STOPPED, Net::UNDEFINED] {
        match next(&mut networks).await {
            NetworkEvent::Lifecycle { network, event, .. } => {
                assert_eq!((&*network.name, event), ("default", expected));
            }
            other => panic!("{other:?}"),
        }
    }
    is_all(&libvirt, &mut networks).await;

    let mut pools = libvirt
        .storage_pool_events(StoragePoolEventFilter::all())
        .await
        .unwrap();
    virsh(&["pool-define-as", "p2", "dir", "--target", "/nowhere"]);
    for command in [
        "pool-start",
        "pool-refresh",
        "pool-destroy",
        "pool-undefine",
    ] {
        virsh(&[command, "p2"]);
    }
    use StoragePoolEventLifecycleType as Pool;
    let refresh = None;
    for expected in [
        Some(Pool::DEFINED),
        Some(Pool::STARTED),
        refresh,
        Some(Pool::STOPPED),
        Some(Pool::UNDEFINED),
    ] {
        let (pool, event) = match next(&mut pools).await {
            StoragePoolEvent::Lifecycle { pool, event, .. } => (pool, Some(event)),
            StoragePoolEvent::Refresh { pool } => (pool, None),
            other => panic!("{other:?}"),
        };
        assert_eq!((&*pool.name, event), ("p2", expected));
    }
    is_all(&libvirt, &mut pools).await;

    let mut devices = libvirt
        .node_device_events(NodeDeviceEventFilter::all())
        .await
        .unwrap();
    let xml = lab.dir().join("device.xml");
    let described = "<device><parent>scsi_host1</parent><capability type='scsi_host'><capability type='fc_host'>\
                     <wwnn>2000000034563457</wwnn><wwpn>1000000034563457</wwpn></capability></capability></device>";
    fs::write(&xml, described).unwrap();
    virsh(&["nodedev-create", &xml.display().to_string()]);
    virsh(&["nodedev-destroy", "scsi_host12"]);
    use NodeDeviceEventLifecycleType as Device;
    for expected in [Device::CREATED, Device::DELETED] {
        match next(&mut devices).await {
            NodeDeviceEvent::Lifecycle { device, event, .. } => {
                assert_eq!((&*device.name, event), ("scsi_host12", expected));
            }
            other => panic!("{other:?}"),
        }
    }
    is_all(&libvirt, &mut devices).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn secrets_tell_their_lives() {
    let lab = Lab::start();
    let libvirt = open(&lab, lab.uri()).await;
    let mut secrets = libvirt
        .secret_events(SecretEventFilter::all())
        .await
        .unwrap();
    let (xml, value) = (lab.dir().join("secret.xml"), lab.dir().join("value"));
    let uuid = "5b1c1a6e-9f0e-4a27-9d7c-0c1a54b1c0de";
    let described = format!(
        "<secret><uuid>{uuid}</uuid><usage type='ceph'><name>client.test</name></usage></secret>"
    );
    fs::write(&xml, described).unwrap();
    fs::write(&value, "hush").unwrap();
    lab.virsh(&["secret-define", &xml.display().to_string()]);
    let file = value.display().to_string();
    lab.virsh(&["secret-set-value", uuid, "--file", &file, "--plain"]);
    lab.virsh(&["secret-undefine", uuid]);
    let changed = None;
    for expected in [
        Some(SecretEventLifecycleType::DEFINED),
        changed,
        Some(SecretEventLifecycleType::UNDEFINED),
    ] {
        let (secret, event) = match next(&mut secrets).await {
            SecretEvent::Lifecycle { secret, event, .. } => (secret, Some(event)),
            SecretEvent::ValueChanged { secret } => (secret, None),
            other => panic!("{other:?}"),
        };
        assert_eq!(event, expected);
        assert_eq!(secret.uuid.to_string(), uuid);
        assert_eq!(secret.usage_type, SecretUsageType::CEPH);
        assert_eq!(secret.usage_id, "client.test");
    }
    is_all(&libvirt, &mut secrets).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn every_event_of_a_guest_is_seen_as_virsh_sees_it() {
    let lab = Lab::start();
    let libvirt = open(&lab, lab.uri()).await;
    let witness = Witness::start(&lab, &lab.client_uri());
    let disk = lab.dir().join("disk.img");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    // QEMU may run as another user.
    fs::set_permissions(&disk, Permissions::from_mode(0o666)).unwrap();
    let guest = lab.guest("one");
    witness.wait_until_it_sees(|| {
        lab.virsh(&["suspend", "one"]);
        lab.virsh(&["resume", "one"]);
    });
    let mut events = libvirt
        .domain_events(DomainEventFilter::all())
        .await
        .unwrap();

    let mark = lab.guest("mark");
    lab.virsh(&["desc", "one", "--live", "--title", "another title"]);
    lab.virsh(&[
        "attach-disk",
        "one",
        &disk.display().to_string(),
        "vdb",
        "--live",
    ]);
    lab.virsh(&[
        "blkdeviotune",
        "one",
        "vdb",
        "--total-iops-sec",
        "100",
        "--live",
    ]);
    lab.virsh(&["reset", "one"]);
    // The guest says itself that it was reset: what comes of it may be later than the next command.
    let is_late = |event: &DomainEvent| event.domain().unwrap().name == guest.name;
    let mut ours = vec![after_late(&mut events, is_late).await];
    while !matches!(ours.last(), Some(DomainEvent::Reboot { .. })) {
        ours.push(next(&mut events).await);
    }
    lab.virsh(&["suspend", "one"]);
    lab.virsh(&["resume", "one"]);
    lab.virsh(&["destroy", "one"]);
    lab.virsh(&["undefine", "one"]);
    let undefined = DomainLifecycle::Undefined(DomainEventUndefinedDetailType::REMOVED);
    let is_end = |event: &DomainEvent| matches!(event, DomainEvent::Lifecycle { change, .. } if *change == undefined);
    while !ours.last().is_some_and(is_end) {
        ours.push(next(&mut events).await);
    }
    is_all(&libvirt, &mut events).await;

    let mut seen = Vec::new();
    loop {
        let (name, domain, what) = witness.next();
        if domain == mark.name || !seen.is_empty() {
            let is_last = what == "Undefined Removed";
            seen.push((name, domain));
            if is_last {
                break;
            }
        }
    }
    let kinds: Vec<_> = ours.iter().map(kind).collect();
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(name, domain)| (*name, &**domain))
        .collect();
    let seen: Vec<_> = seen
        .iter()
        .map(|(name, domain)| (&**name, &**domain))
        .collect();
    assert_eq!(kinds, seen);
    // And what they say. QEMU may say that it was told to end, or be gone before.
    let lifecycle = ours
        .iter()
        .filter(|event| matches!(event, DomainEvent::Lifecycle { .. }))
        .map(words);
    let lifecycle: Vec<_> = lifecycle
        .filter(|words| words != "one: Shutdown Finished after host request")
        .collect();
    assert_eq!(
        lifecycle,
        [
            "mark: Defined Added",
            "mark: Resumed Unpaused",
            "mark: Started Booted",
            "one: Suspended Paused",
            "one: Resumed Unpaused",
            "one: Stopped Destroyed",
            "one: Undefined Removed",
        ]
    );
    let find = |name| ours.iter().find(|event| kind(event).0 == name).unwrap();
    match find("metadata-change") {
        DomainEvent::MetadataChange {
            domain,
            metadata,
            nsuri,
        } => {
            assert_eq!(domain.uuid, guest.uuid);
            assert_eq!((*metadata, nsuri), (DomainMetadataType::TITLE, &None));
        }
        other => panic!("{other:?}"),
    }
    match find("device-added") {
        DomainEvent::DeviceAdded { dev_alias, .. } => assert_eq!(dev_alias, "virtio-disk1"),
        other => panic!("{other:?}"),
    }
    match find("tunable") {
        DomainEvent::Tunable { params, .. } => {
            let limit = params
                .iter()
                .find(|param| &*param.field == "blkdeviotune.total_iops_sec");
            assert_eq!(limit.unwrap().value, TypedParamValue::ULLong(100));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn streams_come_and_go_and_the_daemon_keeps_nothing() {
    let lab = Lab::start();
    let libvirt = open(&lab, TEST).await;
    // The daemon refuses a second registration of a kind: each of these is the first again.
    for _ in 0..20 {
        let all = libvirt
            .domain_events(DomainEventFilter::all())
            .await
            .unwrap();
        let same = libvirt
            .domain_events(DomainEventFilter::all())
            .await
            .unwrap();
        drop((all, same));
    }
    let mut giving_up = Box::pin(libvirt.domain_events(DomainEventFilter::all()));
    for _ in 0..5 {
        let _ = poll_once(giving_up.as_mut()).await;
        libvirt.domains().await.unwrap();
    }
    drop(giving_up);
    let mut events = libvirt
        .domain_events(DomainEventFilter::all().only([DomainEventId::LIFECYCLE]))
        .await
        .unwrap();
    lab.virsh_of(TEST, &["suspend", "test"]);
    assert_eq!(words(&next(&mut events).await), "test: Suspended Paused");
    is_all(&libvirt, &mut events).await;
    // A kind that this daemon does not know.
    let error = libvirt
        .domain_events(DomainEventFilter::all().only([DomainEventId(77)]))
        .await
        .unwrap_err();
    assert_eq!(
        error.libvirt_code(),
        Some(LibvirtError::INTERNAL_ERROR),
        "{error:?}"
    );
}
