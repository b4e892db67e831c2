//! The fixtures: each is the recording of one scenario below, run against a real libvirtd, and each is replayed here to the
//! same scenario.
//!
//! The live test runs every scenario anew and compares what the client sends with the recording; with
//! `LIBVIRT_QMP_RECORD=1` it writes the recordings instead.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that cannot do its work fails the test that called it"
)]

mod support;

use std::path::PathBuf;
use std::pin::Pin;

use libvirt_qmp::protocol::keepalive;
use libvirt_qmp::replay::{Direction, Fixture, Replay, record};
use libvirt_qmp::{
    Config, DomainKey, Error, Libvirt, LibvirtError, LibvirtRpc, Monitor, MonitorExt,
};
use support::conformance::{self, next_of, run};
use support::lab::Lab;
use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

/// The guest of all recordings.
const GUEST: &str = "stage-lb-1";
const GUEST_UUID: Uuid = Uuid::from_u128(0x5ea6_e1b1_0001_4000_8000_7374_6167_6531);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Conn = Box<dyn Stream>;
type Running = Pin<Box<dyn Future<Output = ()>>>;

/// Name of the fixture, what it shows, and what a client does.
type Scenario = (&'static str, &'static str, fn(Conn) -> Running);

const SCENARIOS: &[Scenario] = &[
    ("session", "session start, list of domains, close", |conn| {
        Box::pin(session(conn))
    }),
    ("lookup", "lookups by name and by UUID", |conn| {
        Box::pin(lookup(conn))
    }),
    ("query-status", "one command and its reply", |conn| {
        Box::pin(query_status(conn))
    }),
    (
        "unknown-domain",
        "lookup of a domain that does not exist",
        |conn| Box::pin(unknown_domain(conn)),
    ),
    (
        "qmp-error",
        "a QMP error, which is a successful reply to libvirt",
        |conn| Box::pin(qmp_error(conn)),
    ),
    (
        "events",
        "event registration, then stop, cont and system_reset",
        |conn| Box::pin(events(conn)),
    ),
    (
        "read-only",
        "a read-only session: commands and events are refused",
        |conn| Box::pin(read_only(conn)),
    ),
    ("query-qmp-schema", "a reply of 186 KB", |conn| {
        Box::pin(query_qmp_schema(conn))
    }),
    (
        "conformance",
        "the suite that every driver passes",
        |conn| Box::pin(conformance(conn)),
    ),
    ("demo", "what `qmp demo` does", |conn| Box::pin(demo(conn))),
];

/// The defaults, on a daemon that runs as an ordinary user.
fn config() -> Config {
    Config::new().uri("qemu:///session")
}

fn monitor(conn: Conn) -> LibvirtRpc {
    LibvirtRpc::with_config(GUEST, conn, config())
}

async fn session(conn: Conn) {
    let libvirt = Libvirt::open(conn, config()).await.unwrap();
    let domains = libvirt.domains().await.unwrap();
    let found: Vec<_> = domains
        .iter()
        .map(|d| (d.name.as_str(), d.uuid, d.is_running()))
        .collect();
    assert!(found.contains(&(GUEST, GUEST_UUID, true)), "{found:?}");
    assert!(
        found
            .iter()
            .any(|(name, _, running)| *name == "stage-db-1" && !running),
        "{found:?}"
    );
    libvirt.close().await.unwrap();
}

async fn lookup(conn: Conn) {
    let libvirt = Libvirt::open(conn, config()).await.unwrap();
    for key in [
        DomainKey::from(GUEST),
        DomainKey::from(GUEST_UUID),
        DomainKey::from(GUEST_UUID.to_string()),
    ] {
        libvirt.monitor(key).connect().await.unwrap();
    }
    libvirt.close().await.unwrap();
}

async fn query_status(conn: Conn) {
    let monitor = monitor(conn);
    let reply = monitor.run(br#"{"execute":"query-status"}"#).await.unwrap();
    assert_eq!(
        &reply[..],
        br#"{"return":{"status":"running","singlestep":false,"running":true}}"#
    );
    monitor.disconnect().await.unwrap();
}

async fn unknown_domain(conn: Conn) {
    let monitor = LibvirtRpc::with_config("no-such-domain", conn, config());
    let error = monitor.connect().await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(error.libvirt_code(), Some(LibvirtError::NO_DOMAIN));
    match error {
        Error::Libvirt(error) => {
            assert_eq!(
                (error.domain, error.level, error.int1, error.int2),
                (10, 2, -1, -1)
            );
            assert!(error.message.unwrap().contains("no-such-domain"));
            assert!(error.str1.unwrap().contains("%s"));
            assert!(error.str2.unwrap().contains("no-such-domain"));
            assert_eq!(error.str3, None);
        }
        other => panic!("{other:?}"),
    }
    monitor.disconnect().await.unwrap();
}

async fn qmp_error(conn: Conn) {
    let monitor = monitor(conn);
    let error = monitor
        .run(br#"{"execute":"no-such-command"}"#)
        .await
        .unwrap_err();
    assert!(error.is_command_not_found(), "{error}");
    monitor.disconnect().await.unwrap();
}

async fn events(conn: Conn) {
    let monitor = monitor(conn);
    let mut events = monitor.events().await.unwrap();
    for (command, name) in [
        ("stop", "STOP"),
        ("cont", "RESUME"),
        ("system_reset", "RESET"),
    ] {
        run(&monitor, format!(r#"{{"execute":"{command}"}}"#).as_bytes()).await;
        let event = next_of(&mut events, &["STOP", "RESUME", "RESET"]).await;
        assert_eq!(event.name, name);
        let domain = event.domain.unwrap();
        assert_eq!(
            (domain.name.as_str(), domain.uuid, domain.id),
            (GUEST, GUEST_UUID, Some(1))
        );
    }
    drop(events);
    monitor.disconnect().await.unwrap();
}

async fn read_only(conn: Conn) {
    let libvirt = Libvirt::open(conn, config().readonly(true)).await.unwrap();
    assert!(!libvirt.domains().await.unwrap().is_empty());
    let monitor = libvirt.monitor(GUEST);
    for error in [
        monitor
            .run(br#"{"execute":"query-status"}"#)
            .await
            .unwrap_err(),
        monitor.events().await.unwrap_err(),
    ] {
        assert!(error.is_denied(), "{error}");
        assert_eq!(error.libvirt_code(), Some(LibvirtError::OPERATION_DENIED));
        assert!(!error.maybe_executed());
    }
    libvirt.close().await.unwrap();
}

async fn query_qmp_schema(conn: Conn) {
    let monitor = monitor(conn);
    let reply = run(&monitor, br#"{"execute":"query-qmp-schema"}"#).await;
    let entries = reply["return"].as_array().unwrap();
    let command = |name| {
        entries
            .iter()
            .any(|entry| entry["meta-type"] == "command" && entry["name"] == name)
    };
    assert!(command("query-status") && command("device_add") && !command("no-such-command"));
    monitor.disconnect().await.unwrap();
}

async fn conformance(conn: Conn) {
    conformance::suite(&monitor(conn)).await;
}

/// Keep in step with `src/bin/qmp/demo.rs`.
async fn demo(conn: Conn) {
    let monitor = monitor(conn);
    monitor.connect().await.unwrap();
    run(&monitor, br#"{"execute":"query-status"}"#).await;
    monitor.version().await.unwrap();
    let mut events = monitor.events().await.unwrap();
    for command in ["stop", "cont", "system_reset"] {
        run(&monitor, format!(r#"{{"execute":"{command}"}}"#).as_bytes()).await;
    }
    for _ in 0..3 {
        next_of(&mut events, &["STOP", "RESUME", "RESET"]).await;
    }
    monitor.disconnect().await.unwrap();
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(format!("{name}.fixture"))
}

fn load(name: &str) -> Fixture {
    let text = std::fs::read_to_string(path(name)).unwrap();
    text.parse()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

async fn replay(name: &str, scenario: fn(Conn) -> Running) {
    let (conn, served) = Replay::new(load(name)).connect();
    scenario(Box::new(conn)).await;
    if let Err(error) = served.await.unwrap() {
        panic!("{name}: {error}");
    }
}

#[tokio::test]
async fn every_fixture_replays_to_its_scenario() {
    for (name, _, scenario) in SCENARIOS {
        replay(name, *scenario).await;
    }
}

#[tokio::test]
async fn a_fixture_plays_on_a_socket_too() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let conn = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        Replay::new(load("query-status")).serve(stream).await
    });
    query_status(Box::new(conn)).await;
    served.await.unwrap().unwrap();
}

#[test]
fn every_fixture_has_a_scenario() {
    let files = std::fs::read_dir(path("x").parent().unwrap()).unwrap();
    for file in files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension() == Some("fixture".as_ref()))
    {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(SCENARIOS.iter().any(|(known, ..)| *known == name), "{name}");
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_scenarios_run_live_as_they_were_recorded() {
    let rewrite = std::env::var_os("LIBVIRT_QMP_RECORD").is_some();
    let lab = Lab::start();
    lab.guest_with_uuid(GUEST, GUEST_UUID);
    define_stopped_domain(&lab);
    let versions = lab.virsh(&["version", "--daemon"]);
    for (name, what, scenario) in SCENARIOS {
        let conn = tokio::net::UnixStream::connect(lab.unix_path())
            .await
            .unwrap();
        let (conn, recording) = record(conn);
        scenario(Box::new(conn)).await;
        if rewrite {
            let mut fixture = recording.fixture();
            fixture.notes = vec![(*what).to_owned()];
            fixture.notes.extend(
                versions
                    .lines()
                    .filter(|line| line.starts_with("Running"))
                    .map(str::to_owned),
            );
            std::fs::write(path(name), fixture.to_string()).unwrap();
        } else {
            assert_eq!(calls(&recording.fixture()), calls(&load(name)), "{name}");
        }
    }
}

/// What the client sent, as far as it is the same in every run: what and in which order, not callback ids, nor keepalive
/// packets, which come by the clock.
fn calls(fixture: &Fixture) -> Vec<(u32, i32, usize)> {
    let to_server = fixture.packets.iter().filter(|(direction, packet)| {
        *direction == Direction::ToServer && packet.header.program != keepalive::PROGRAM
    });
    to_server
        .map(|(_, packet)| {
            (
                packet.header.program,
                packet.header.procedure,
                packet.payload.len(),
            )
        })
        .collect()
}

/// A second domain, which does not run.
fn define_stopped_domain(lab: &Lab) {
    let file = lab.dir().join("stopped.xml");
    let xml = "<domain type='qemu'><name>stage-db-1</name><uuid>5ea6e1b1-0002-4000-8000-737461676531</uuid>\
               <memory unit='MiB'>32</memory><os><type machine='pc'>hvm</type></os></domain>";
    std::fs::write(&file, xml).unwrap();
    lab.virsh(&["define", file.to_str().unwrap()]);
}
