//! The socket that only reads: which it is, who may use it, what it refuses and in which words.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use libvirt_qmp::events::{DomainEvent, DomainEventFilter, DomainEventId, DomainLifecycle};
use libvirt_qmp::protocol::constants::{DomainState, DomainXmlFlags};
use libvirt_qmp::{Config, Error, Libvirt, LibvirtError, LibvirtRpc, Monitor, Uri, User};

use crate::support::lab::{guest_xml, uuid_of};
use crate::support::privileged::{ANNE, Privileged, ROOT, part, virsh};
use crate::support::process::PATIENCE;
use crate::uri;

const SYSTEM: &str = "qemu:///system";
const STATUS: &str = r#"{"execute":"query-status"}"#;

/// The domain that the socket's users find, and the file of its definition.
async fn running_guest(lab: &Privileged) -> (Libvirt, PathBuf) {
    let xml = guest_xml("one", uuid_of("one"), "");
    let libvirt = Libvirt::connect(&uri("qemu", &lab.unix_path()))
        .await
        .unwrap();
    let domain = libvirt.domain_define_xml(&xml).await.unwrap();
    libvirt.domain_create(&domain).await.unwrap();
    (libvirt, lab.write("one.xml", &xml))
}

async fn readonly(uri: &str) -> Libvirt {
    let config = Config::new().readonly(true);
    Libvirt::connect_with(uri, config).await.unwrap()
}

/// What virsh says of the same, last and without its own word for an error.
fn words_of_virsh(uri: &str, command: &[&str]) -> String {
    let said = virsh(&[&["-r", "-c", uri], command].concat()).unwrap_err();
    let last = said.lines().last().unwrap();
    last.strip_prefix("error: ").unwrap().to_owned()
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(what: Result<T, Error>, words: &str) {
    let error = what.unwrap_err();
    assert!(error.is_denied() && !error.is_auth_failed(), "{error:?}");
    let Error::Libvirt(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.code, LibvirtError::OPERATION_DENIED);
    assert_eq!(error.message.as_deref(), Some(words));
}

/// That `libvirt` reads and changes nothing, as `virsh -r` on `uri` does. `xml` is the file that defined the domain.
async fn assert_reads_only(libvirt: &Libvirt, uri: &str, xml: &Path) {
    let domains = libvirt.domains().await.unwrap();
    let names: Vec<_> = domains.iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(names, ["one"]);
    let one = &domains[0];
    let state = libvirt.domain_get_state(one).await.unwrap();
    assert_eq!(
        (state.state, one.uuid),
        (DomainState::RUNNING, uuid_of("one"))
    );
    let described = libvirt
        .domain_get_xml_desc(one, DomainXmlFlags::default())
        .await
        .unwrap();
    let by_virsh = virsh(&["-r", "-c", uri, "dumpxml", "one"]).unwrap();
    assert_eq!(described.trim_end(), by_virsh);

    let words = |command: &[&str]| words_of_virsh(uri, command);
    let secret = DomainXmlFlags::SECURE;
    assert_refused(
        libvirt.domain_get_xml_desc(one, secret).await,
        &words(&["dumpxml", "one", "--security-info"]),
    );
    assert_refused(
        libvirt.domain_destroy(one).await,
        &words(&["destroy", "one"]),
    );
    assert_refused(
        libvirt.domain_suspend(one).await,
        &words(&["suspend", "one"]),
    );
    assert_refused(
        libvirt.domain_undefine_flags(one, Default::default()).await,
        &words(&["undefine", "one"]),
    );
    let definition = fs::read_to_string(xml).unwrap();
    assert_refused(
        libvirt.domain_define_xml(&definition).await,
        &words(&["define", xml.to_str().unwrap()]),
    );

    let monitor = libvirt.monitor("one");
    assert_refused(
        monitor.run(STATUS.as_bytes()).await,
        &words(&["qemu-monitor-command", "one", STATUS]),
    );
    assert_refused(
        monitor.events().await.map(drop),
        &words(&["qemu-monitor-event", "one", "--timeout", "1"]),
    );
    // A refusal is no more than that.
    assert_eq!(
        libvirt.domain_get_state(one).await.unwrap().state,
        DomainState::RUNNING
    );
}

#[tokio::test]
#[ignore = "needs root, libvirtd and QEMU: run tests/run"]
async fn it_is_the_one_of_the_uri_rules_and_open_to_everybody() {
    if let Some(xml) = part() {
        return in_the_world(Path::new(&xml)).await;
    }
    let lab = Privileged::start();
    let (libvirt, xml) = running_guest(&lab).await;
    for user in [ROOT, ANNE] {
        lab.again(
            user,
            "as_root::readonly::it_is_the_one_of_the_uri_rules_and_open_to_everybody",
            xml.to_str().unwrap(),
        );
    }
    let answer = libvirt.monitor("one").run(STATUS.as_bytes()).await.unwrap();
    assert!(answer.windows(9).any(|text| text == b"\"running\""));
}

/// As a user of a machine with this daemon.
async fn in_the_world(xml: &Path) {
    let user = User::current();
    let uri: Uri = SYSTEM.parse().unwrap();
    let mut sockets = uri.sockets(&user, true).unwrap();
    sockets.retain(|socket| socket.exists());
    assert_eq!(sockets, [PathBuf::from("/var/run/libvirt/libvirt-sock-ro")]);
    assert_reads_only(&readonly(SYSTEM).await, SYSTEM, xml).await;

    // The other one is root's.
    let other = Libvirt::connect(SYSTEM).await;
    let by_virsh = virsh(&["-c", SYSTEM, "list", "--name"]);
    match (user.is_root, other) {
        (true, Ok(libvirt)) => {
            assert_eq!(by_virsh.as_deref(), Ok("one"));
            libvirt.monitor("one").run(STATUS.as_bytes()).await.unwrap();
        }
        (false, Err(Error::Connect { target, source })) => {
            assert_eq!(source.kind(), ErrorKind::PermissionDenied, "{target}");
            let by_virsh = by_virsh.unwrap_err();
            let said = "'/var/run/libvirt/libvirt-sock': Permission denied";
            assert!(by_virsh.ends_with(said), "{by_virsh}");
        }
        (_, other) => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs root, libvirtd and QEMU: run tests/run"]
async fn it_changes_nothing_for_those_who_did_not_say_that_they_only_read() {
    let lab = Privileged::start();
    let (libvirt, xml) = running_guest(&lab).await;
    let uri = uri("qemu", &lab.readonly_path());
    assert_reads_only(&readonly(&uri).await, &uri, &xml).await;
    assert_reads_only(&Libvirt::connect(&uri).await.unwrap(), &uri, &xml).await;
    // A monitor connects, as it reads what domain it is of.
    let monitor = LibvirtRpc::connect_uri(&uri, "one").await.unwrap();
    let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    assert!(error.is_denied() && !error.maybe_executed(), "{error:?}");

    // libvirt tells it of what others change. What comes first may be of before the subscription.
    let reader = readonly(&uri).await;
    let all = DomainEventFilter::all().only([DomainEventId::LIFECYCLE]);
    let mut events = reader.domain_events(all).await.unwrap();
    let one = &libvirt.domains().await.unwrap()[0];
    libvirt.domain_suspend(one).await.unwrap();
    let suspended = async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            if let DomainEvent::Lifecycle { domain, change, .. } = event
                && matches!(change, DomainLifecycle::Suspended(_))
            {
                return domain.name;
            }
        }
    };
    let suspended = tokio::time::timeout(PATIENCE, suspended).await;
    assert_eq!(suspended.unwrap(), "one");
}
