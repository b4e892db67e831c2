//! The domains of a host, through libvirtd and behind a set of sockets.

use std::time::Duration;

use libvirt_qmp::{
    Config, DomainStatus, Error, Hypervisor, Monitor, MonitorExt, Phase, QmpAddress, SocketMonitor,
};
use serde_json::Value;
use uuid::Uuid;

use super::open;
use super::support::conformance;
use super::support::lab::{Lab, uuid_of};
use super::support::qemu::Qemu;

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn domains_of_a_daemon_and_their_monitors() {
    let lab = Lab::start();
    lab.guest("one");
    lab.guest("two");
    lab.destroy("two");
    let host = Hypervisor::libvirt(open(&lab).await);
    let mut domains = host.domains().await.unwrap();
    domains.sort_by(|a, b| a.name.cmp(&b.name));
    let [one, two] = &domains[..] else {
        panic!("{domains:?}");
    };
    assert_eq!((one.name.as_str(), one.uuid), ("one", Some(uuid_of("one"))));
    assert_eq!(one.id.unwrap().to_string(), lab.virsh(&["domid", "one"]));
    assert!(one.is_active() && matches!(one.status, DomainStatus::Active));
    assert!(!two.is_active() && matches!(two.status, DomainStatus::Inactive));
    conformance::suite(&host.monitor("one")).await;
    let by_uuid = host.monitor(&uuid_of("one").to_string());
    by_uuid.connect().await.unwrap();
    assert!(
        host.monitor("two")
            .run(br#"{"execute":"stop"}"#)
            .await
            .unwrap_err()
            .is_not_running()
    );
    assert!(
        host.monitor("no such")
            .connect()
            .await
            .unwrap_err()
            .is_not_found()
    );
    let version = host.version().await.unwrap().unwrap();
    let told = lab.virsh(&["version", "--daemon"]);
    let hypervisor = format!(
        "Running hypervisor: {} {}",
        version.hypervisor, version.version
    );
    assert!(told.contains(&hypervisor), "{hypervisor}: {told}");
    let daemon = format!("Running against daemon: {}", version.libvirt);
    assert!(told.contains(&daemon), "{daemon}: {told}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn domains_by_virsh_with_names_that_mean_something_to_a_shell() {
    let lab = Lab::start();
    let host = Hypervisor::virsh(lab.client_uri());
    assert!(host.domains().await.unwrap().is_empty());
    lab.guest("one");
    let odd = "a  'b' \"c\"; $(false) `x` # \\ \u{e9} --id";
    let xml = |name: &str| {
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
        )
    };
    for (number, name) in [odd, "7", "-"].into_iter().enumerate() {
        let file = lab.dir().join(format!("odd{number}.xml"));
        std::fs::write(&file, xml(name)).unwrap();
        lab.virsh(&["define", file.to_str().unwrap()]);
    }
    let mut domains = host.domains().await.unwrap();
    domains.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(names, ["-", "7", odd, "one"]);
    for domain in &domains {
        assert_eq!(domain.is_active(), domain.name == "one", "{domain:?}");
        let uuid = domain.uuid.unwrap().to_string();
        assert_eq!(lab.virsh(&["domname", &uuid]), domain.name);
    }
    assert_eq!(domains[3].uuid, Some(uuid_of("one")));
    let monitor = host.monitor("one");
    monitor.version().await.unwrap();
    monitor.disconnect().await.unwrap();
    let error = host
        .monitor(odd)
        .run(br#"{"execute":"stop"}"#)
        .await
        .unwrap_err();
    assert!(error.is_not_running(), "{error}");
    // Whatever lies between, the host says the same of itself.
    let version = host.version().await.unwrap();
    assert!(version.is_some());
    assert_eq!(
        version,
        Hypervisor::libvirt(open(&lab).await)
            .version()
            .await
            .unwrap()
    );
    let nowhere = Hypervisor::virsh("qemu+unix:///session?socket=/nonexistent/socket");
    for error in [
        nowhere.domains().await.unwrap_err(),
        nowhere.version().await.unwrap_err(),
    ] {
        assert!(error.is_unavailable(), "{error:?}");
    }
}

#[cfg(feature = "libvirt-c")]
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn domains_through_the_c_library() {
    let lab = Lab::start();
    lab.guest("one");
    lab.guest("two");
    lab.destroy("two");
    let host = Hypervisor::c(lab.client_uri());
    let mut domains = host.domains().await.unwrap();
    domains.sort_by(|a, b| a.name.cmp(&b.name));
    let found: Vec<_> = domains
        .iter()
        .map(|domain| (domain.name.as_str(), domain.uuid, domain.is_active()))
        .collect();
    assert_eq!(
        found,
        [
            ("one", Some(uuid_of("one")), true),
            ("two", Some(uuid_of("two")), false)
        ]
    );
    let monitor = host.monitor("one");
    monitor.version().await.unwrap();
    monitor.disconnect().await.unwrap();
    assert!(
        host.monitor("no such")
            .connect()
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(host.version().await.unwrap(), None);
    let nowhere = Hypervisor::c("qemu+unix:///session?socket=/nonexistent/socket");
    nowhere.domains().await.unwrap_err();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_set_of_sockets_and_those_of_them_that_are_dead() {
    let uuid = Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
    let named = Qemu::start(&["-name", "guest=a name", "-uuid", &uuid.to_string()]);
    let paused = Qemu::start(&["-S"]);
    let (busy, silent, dead) = (Qemu::start(&[]), Qemu::start(&[]), Qemu::start(&[]));
    let client = SocketMonitor::unix(busy.unix_path()).await.unwrap();
    client.connect().await.unwrap();
    silent.pause();
    dead.kill();
    let sockets = [
        ("dead", QmpAddress::from(dead.unix_path())),
        ("named", named.unix_path().into()),
        ("silent", silent.unix_path().into()),
        ("paused", paused.tcp_addr().into()),
        ("busy", busy.unix_path().into()),
        ("missing", QmpAddress::Unix(named.dir().join("nothing"))),
    ];
    let config = Config::new().connect_timeout(Some(Duration::from_secs(2)));
    let host = Hypervisor::sockets_with_config(sockets.clone(), config);
    // Twice: a list leaves every socket as free as it was.
    for _ in 0..2 {
        let domains = host.domains().await.unwrap();
        let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
        assert_eq!(names, sockets.each_ref().map(|(name, _)| *name));
        for domain in &domains {
            match (domain.name.as_str(), &domain.status) {
                ("named", DomainStatus::RunState(state)) => {
                    assert_eq!(state, "running");
                    assert_eq!(domain.uuid, Some(uuid));
                    assert_eq!(domain.guest_name.as_deref(), Some("a name"));
                }
                ("paused", DomainStatus::RunState(state)) => {
                    assert_eq!(state, "prelaunch");
                    assert_eq!((domain.uuid, &domain.guest_name), (None, &None));
                }
                ("dead" | "missing", DomainStatus::Unreachable(error)) => {
                    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
                }
                ("silent" | "busy", DomainStatus::Unreachable(error)) => match error {
                    Error::Timeout {
                        phase: Phase::Greeting,
                        ..
                    } => {}
                    other => panic!("{other:?}"),
                },
                _ => panic!("{domain:?}"),
            }
        }
    }
    assert_eq!(host.version().await.unwrap(), None);
    client.run(br#"{"execute":"query-status"}"#).await.unwrap();
    silent.resume();
    // A monitor takes no socket before it is used, and gives it back.
    let monitor = host.monitor("named");
    let other = SocketMonitor::unix(named.unix_path()).await.unwrap();
    other.connect().await.unwrap();
    other.disconnect().await.unwrap();
    let name: Value = monitor.query("name").await.unwrap();
    assert_eq!(name["name"], "a name");
    monitor.disconnect().await.unwrap();
    assert!(monitor.connect().await.unwrap_err().is_closed());
    let silent_no_more = host.monitor("silent");
    silent_no_more.version().await.unwrap();
    for unknown in ["nobody", "dead"] {
        let error = host.monitor(unknown).connect().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
    }
    // Closed before it was ever used.
    let monitor = host.monitor("named");
    monitor.disconnect().await.unwrap();
    assert!(
        monitor
            .run(br#"{"execute":"stop"}"#)
            .await
            .unwrap_err()
            .is_closed()
    );
}
