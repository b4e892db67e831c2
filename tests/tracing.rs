//! What the crate says through `tracing`: what each packet was, under the documented targets, and never what was in it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that cannot do its work fails the test that called it"
)]

#[cfg(feature = "sasl")]
mod support;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use libvirt_qmp::replay::{Fixture, Replay};
use libvirt_qmp::{Config, LibvirtRpc, Monitor, SocketMonitor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

/// Keeps every line that the crate says.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("libvirt_qmp")
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().target().to_owned());
        event.record(&mut line);
        write!(line.0, " {}", event.metadata().level()).unwrap();
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Lines {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    #[track_caller]
    fn assert_said(&self, target: &str, what: &str) {
        let said = |line: &String| line.starts_with(target) && line.contains(what);
        assert!(
            self.all().iter().any(said),
            "{target}: {what}: {:#?}",
            self.all()
        );
    }
}

#[tokio::test]
async fn packets_are_named_both_ways_and_their_contents_are_not_shown() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let text = include_str!("../fixtures/events.fixture");
    let (conn, served) = Replay::new(text.parse::<Fixture>().unwrap()).connect();
    let config = Config::new().uri("qemu:///session");
    let monitor = LibvirtRpc::with_config("stage-lb-1", conn, config);
    let events = monitor.events().await.unwrap();
    for command in ["stop", "cont", "system_reset"] {
        let command = format!(r#"{{"execute":"{command}"}}"#);
        monitor.run(command.as_bytes()).await.unwrap();
    }
    drop(events);
    monitor.disconnect().await.unwrap();
    served.await.unwrap().unwrap();

    let rpc = "libvirt_qmp::rpc";
    for what in [
        r#"calling procedure="REMOTE_PROC_AUTH_LIST""#,
        "sending header=REMOTE_PROGRAM procedure 66 VIR_NET_CALL serial 0 VIR_NET_OK bytes=0",
        "received header=REMOTE_PROGRAM procedure 66 VIR_NET_REPLY serial 0 VIR_NET_OK bytes=8",
        r#"calling procedure="QEMU_PROC_DOMAIN_MONITOR_COMMAND""#,
        "sending header=QEMU_PROGRAM procedure 1 VIR_NET_CALL",
        "received header=QEMU_PROGRAM procedure 6 VIR_NET_MESSAGE serial 1",
    ] {
        lines.assert_said(rpc, what);
    }
    lines.assert_said(
        "libvirt_qmp::connection",
        "connection ended cause=closed by its user",
    );
    for content in ["system_reset", "guest", "stage-lb-1"] {
        assert!(
            !lines.all().iter().any(|line| line.contains(content)),
            "{content}"
        );
    }
}

#[tokio::test]
async fn secrets_are_neither_traced_nor_in_debug_output() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (conn, mut qemu) = tokio::io::duplex(4096);
    tokio::spawn(async move {
        let greeting = br#"{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":22},"package":""},"capabilities":[]}}"#;
        qemu.write_all(greeting).await.unwrap();
        let mut buffer = vec![0; 4096];
        for _ in 0..2 {
            let length = qemu.read(&mut buffer).await.unwrap();
            let command: serde_json::Value = serde_json::from_slice(&buffer[..length]).unwrap();
            let reply = format!(
                r#"{{"return":{{"echo":"hunter2"}},"id":{}}}"#,
                command["id"]
            );
            qemu.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    let monitor = SocketMonitor::new(conn);
    let command = libvirt_qmp::Command::new("set_password")
        .arg("protocol", "vnc")
        .arg("password", "hunter2");
    monitor.run(&command.to_json().unwrap()).await.unwrap();
    lines.assert_said("libvirt_qmp::qmp", "sending serial=1");
    lines.assert_said("libvirt_qmp::qmp", "received kind=Return");
    let shown = format!("{:?} {command:?} {monitor:?}", lines.all());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("set_password"), "{shown}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn who_checks_no_certificate_is_warned() {
    use libvirt_qmp::{Error, Libvirt};

    let lines = Lines::default();
    // Certificates are read on a thread for that.
    tracing::subscriber::set_global_default(lines.clone()).unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = |more: &str| {
        let addr = nobody.local_addr().unwrap();
        format!("qemu+tls://{addr}/system?pkipath=/no/such/directory{more}")
    };
    let (careful, careless) = (uri(""), uri("&no_verify=1"));
    drop(nobody);
    let warnings = || {
        let mut lines = lines.all();
        lines.retain(|line| line.contains("no_verify: "));
        lines
    };
    let error = Libvirt::connect(&careful).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(warnings().is_empty(), "{:#?}", warnings());
    // It takes no certificate of anybody's, and gets as far as the port.
    let error = Libvirt::connect(&careless).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    let warnings = warnings();
    let [warning] = &warnings[..] else {
        panic!("{warnings:#?}");
    };
    for what in [
        "libvirt_qmp::connection",
        careless.split('?').next().unwrap(),
        "its certificate is not checked",
        "WARN",
    ] {
        assert!(warning.contains(what), "{what}: {warning}");
    }
}

#[cfg(feature = "sasl")]
#[tokio::test]
async fn the_password_of_a_session_is_neither_traced_nor_recorded_nor_shown() {
    use libvirt_qmp::protocol::remote::procedure::{AuthSaslInit, AuthSaslStart, ConnectClose};
    use libvirt_qmp::protocol::remote::{AuthSaslInitRet, AuthSaslStartRet, AuthType};
    use libvirt_qmp::replay::record;
    use libvirt_qmp::{Credentials, Libvirt};

    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (conn, mut daemon) = support::mock::pair();
    let (conn, recording) = record(conn);
    let config = Config::new()
        .keepalive(None)
        .credentials(Credentials::new("fred", "hunter2"))
        .allow_plain_in_clear(true);
    let shown_config = format!("{config:?}");
    let serve = async {
        daemon.auth(&[AuthType::SASL]).await;
        let init = daemon.expect::<AuthSaslInit>().await;
        let mechlist = "PLAIN".to_owned();
        let reply = AuthSaslInitRet { mechlist };
        daemon.reply::<AuthSaslInit>(&init, &reply).await;
        let start = daemon.expect::<AuthSaslStart>().await;
        assert_eq!(start.args.data, b"\0fred\0hunter2");
        let reply = AuthSaslStartRet {
            complete: 1,
            nil: 1,
            data: Vec::new(),
        };
        daemon.reply::<AuthSaslStart>(&start, &reply).await;
        daemon.open().await;
        daemon
    };
    let (libvirt, mut daemon) = tokio::join!(Libvirt::open(conn, config), serve);
    let libvirt = libvirt.unwrap();
    let shown = format!("{shown_config} {libvirt:?} {:?}", lines.all());
    let close = async {
        let call = daemon.expect::<ConnectClose>().await;
        daemon.reply::<ConnectClose>(&call, &()).await;
    };
    let (closed, ()) = tokio::join!(libvirt.close(), close);
    closed.unwrap();

    lines.assert_said("libvirt_qmp::rpc", "authenticating mechanism=\"PLAIN\"");
    lines.assert_said(
        "libvirt_qmp::rpc",
        r#"calling procedure="REMOTE_PROC_AUTH_SASL_START""#,
    );
    assert!(
        shown.contains("fred") && !shown.contains("hunter2"),
        "{shown}"
    );
    let recorded = recording.fixture();
    let secret: Vec<u8> = b"hunter2".iter().flat_map(|c| [0, 0, 0, *c]).collect();
    for (_, packet) in &recorded.packets {
        let bytes = &packet.payload[..];
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    assert!(recorded.packets.len() > 6);
}
