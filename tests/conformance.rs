//! One suite over every driver, and what each of them can do: live on a real libvirtd and QEMU, and on their stand-ins.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use libvirt_qmp::testing::{FakeLibvirtd, FakeQemu, Reply};
use libvirt_qmp::{Config, Error, LibvirtC, LibvirtRpc, Monitor, SocketMonitor, Virsh};
use serde_json::{Value, json};
use support::capabilities::{probe, table};
use support::conformance::suite;
use support::lab::Lab;
use support::qemu::Qemu;
use support::scratch::Scratch;
use tokio::net::UnixStream;

/// The table stands in README between these lines.
const BEGIN: &str = "<!-- what each driver can do: printed by tests/conformance.rs -->\n";
const END: &str = "<!-- end -->\n";

fn config(lab: &Lab) -> Config {
    Config::new().uri(lab.uri())
}

async fn rpc(lab: &Lab, domain: &str) -> LibvirtRpc {
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    LibvirtRpc::with_config(domain, conn, config(lab))
}

async fn socket(qemu: &Qemu) -> SocketMonitor {
    SocketMonitor::unix(qemu.unix_path()).await.unwrap()
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn every_driver_answers_alike() {
    let lab = Lab::start();
    let _guest = lab.guest("one");
    let qemu = Qemu::start(&[]);
    let drivers: [(&str, Box<dyn Monitor>); 4] = [
        ("LibvirtRpc", Box::new(rpc(&lab, "one").await)),
        ("SocketMonitor", Box::new(socket(&qemu).await)),
        ("Virsh", Box::new(Virsh::new(lab.client_uri(), "one"))),
        ("LibvirtC", Box::new(LibvirtC::new(lab.client_uri(), "one"))),
    ];
    for (name, monitor) in drivers {
        println!("suite over {name}");
        suite(&monitor).await;
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_each_driver_can_do_is_what_readme_says() {
    let lab = Lab::start();
    let _guest = lab.guest("one");
    let qemu = Qemu::start(&[]);
    let second = async |monitor: &dyn Monitor| {
        let outcome = monitor.connect().await;
        monitor.disconnect().await.unwrap();
        outcome
    };
    let impatient = Config::new().connect_timeout(Some(Duration::from_millis(300)));
    let uri = lab.client_uri();
    let findings = [
        (
            "LibvirtRpc",
            probe(&rpc(&lab, "one").await, async || {
                second(&rpc(&lab, "one").await).await
            })
            .await,
        ),
        (
            "SocketMonitor",
            probe(&socket(&qemu).await, async || {
                let other = SocketMonitor::unix_with_config(qemu.unix_path(), impatient).await?;
                second(&other).await
            })
            .await,
        ),
        (
            "Virsh",
            probe(&Virsh::new(&*uri, "one"), async || {
                second(&Virsh::new(&*uri, "one")).await
            })
            .await,
        ),
        (
            "LibvirtC",
            probe(&LibvirtC::new(&*uri, "one"), async || {
                second(&LibvirtC::new(&*uri, "one")).await
            })
            .await,
        ),
    ];
    let found = table(&findings);
    println!("{found}");
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once(BEGIN).expect("README has the table");
    let (said, _) = rest.split_once(END).expect("README has the table's end");
    assert_eq!(said.trim(), found.trim(), "README says otherwise");
}

/// A stand-in that also answers what only the probe asks for.
fn fake() -> FakeQemu {
    let qemu = FakeQemu::new();
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    qemu.on("query-qmp-schema", Reply::value(schema));
    qemu.on("query-cpus-fast", json!([{"cpu-index": 0, "qom-path": "/machine/unattached/device[0]", "thread-id": 1, "target": "x86_64"}]));
    qemu.on("query-jobs", json!([]));
    for command in ["transaction", "getfd", "closefd"] {
        qemu.on(command, json!({}));
    }
    qemu.on("query-yank", json!([]));
    qemu.allow_oob("query-yank");
    qemu
}

/// As much of a schema as the probe looks at.
const SCHEMA: &str = r#"[
    {"name": "device_add", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "query-status", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "transaction", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "1", "meta-type": "object", "members": [{"name": "actions", "type": "[2]"}]},
    {"name": "[2]", "meta-type": "array", "element-type": "2"},
    {"name": "2", "meta-type": "object", "members": [{"name": "type", "type": "3"}], "tag": "type", "variants": [{"case": "abort", "type": "0"}]},
    {"name": "3", "meta-type": "enum", "members": [{"name": "abort"}], "values": ["abort"]}
]"#;

/// The capabilities that a driver lacks on its stand-in, by their place in the table.
fn lacking(findings: &[support::capabilities::Finding]) -> Vec<&'static str> {
    let lacking = findings.iter().filter(|(_, has)| !has);
    lacking.map(|(capability, _)| *capability).collect()
}

async fn unavailable() -> Result<(), Error> {
    Err(Error::Closed)
}

#[tokio::test]
async fn stand_ins_answer_like_the_real_ones() {
    let scratch = Scratch::new();
    let (qemu, libvirtd) = (fake(), FakeLibvirtd::new());
    libvirtd.domain("one", fake());
    qemu.listen_unix(scratch.path("qmp")).unwrap();
    libvirtd.listen_unix(scratch.path("libvirt")).unwrap();
    let rpc = async || {
        let conn = UnixStream::connect(scratch.path("libvirt")).await.unwrap();
        LibvirtRpc::new("one", conn)
    };
    suite(&rpc().await).await;
    let findings = probe(&rpc().await, async || rpc().await.connect().await).await;
    assert_eq!(
        lacking(&findings),
        ["events since the handshake", "out-of-band commands"]
    );

    let socket = async || SocketMonitor::unix(scratch.path("qmp")).await.unwrap();
    suite(&socket().await).await;
    let findings = probe(&socket().await, unavailable).await;
    assert_eq!(
        lacking(&findings),
        ["guest agent", "several clients at once"]
    );
}

/// The real virsh and the real C library, which have come with libvirt's packages, on the stand-in of the daemon.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn virsh_and_the_c_library_take_the_stand_in_for_a_daemon() {
    let scratch = Scratch::new();
    let libvirtd = FakeLibvirtd::new();
    libvirtd.domain("one", fake());
    let path = scratch.path("libvirt");
    libvirtd.listen_unix(&path).unwrap();
    let uri = format!("qemu+unix:///system?socket={}", path.display());
    suite(&Virsh::new(&*uri, "one")).await;
    suite(&LibvirtC::new(&*uri, "one")).await;
    for findings in [
        probe(&Virsh::new(&*uri, "one"), async || {
            Virsh::new(&*uri, "one").connect().await
        })
        .await,
        probe(&LibvirtC::new(&*uri, "one"), async || {
            LibvirtC::new(&*uri, "one").connect().await
        })
        .await,
    ] {
        assert_eq!(
            lacking(&findings),
            ["events since the handshake", "out-of-band commands"]
        );
    }
}
