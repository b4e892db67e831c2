//! The real virsh, and so libvirt's own C library, against `FakeLibvirtd`.

use std::process::Stdio;

use libvirt_qmp::protocol::qemu::procedure::ConnectDomainMonitorEventRegister;
use libvirt_qmp::testing::{FakeLibvirtd, FakeQemu};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::raw::soon;
use crate::support::process::find_program;
use crate::support::scratch::Scratch;

struct Stand {
    scratch: Scratch,
    libvirtd: FakeLibvirtd,
    qemu: FakeQemu,
}

impl Stand {
    fn new() -> Stand {
        let (scratch, libvirtd, qemu) = (Scratch::new(), FakeLibvirtd::new(), FakeQemu::new());
        libvirtd.domain("vm-1", &qemu);
        libvirtd.listen_unix(scratch.path("sock")).unwrap();
        Stand {
            scratch,
            libvirtd,
            qemu,
        }
    }

    /// virsh with a home of its own.
    fn virsh(&self, arguments: &[&str]) -> Command {
        let program = find_program("virsh").expect("the live tests need virsh: run tests/run");
        let socket = self.scratch.path("sock");
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        let mut virsh = Command::new(program);
        virsh
            .args(["-q", "-c", &uri])
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("HOME", self.scratch.dir())
            .env("LIBVIRT_AUTOSTART", "0")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Ok(debug) = std::env::var("LIBVIRT_DEBUG") {
            virsh.env("LIBVIRT_DEBUG", debug);
        }
        virsh
    }

    /// Runs virsh, and gives its output and its errors.
    async fn run(&self, arguments: &[&str]) -> (String, String) {
        let done = soon(self.virsh(arguments).output()).await.unwrap();
        let [out, err] = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
        (out.trim_end().to_owned(), err.trim_end().to_owned())
    }

    async fn command(&self, json: &str) -> (String, String) {
        let command = ["qemu-monitor-command", "--domain", "vm-1", "--cmd", json];
        self.run(&command).await
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn virsh_lists_domains_and_runs_commands() {
    let stand = Stand::new();
    let (listed, errors) = stand.run(&["list", "--all", "--name"]).await;
    assert_eq!((listed.trim(), &*errors), ("vm-1", ""));
    let (listed, _) = stand.run(&["list"]).await;
    let fields: Vec<_> = listed.split_whitespace().collect();
    assert_eq!(fields, ["1", "vm-1", "running"]);
    let (uuid, _) = stand.run(&["domuuid", "vm-1"]).await;
    assert_eq!(uuid, stand.libvirtd.uuid("vm-1").to_string());
    let (uri, _) = stand.run(&["uri"]).await;
    assert!(uri.starts_with("qemu"), "{uri}");

    let (reply, errors) = stand.command(r#"{"execute":"query-status"}"#).await;
    assert_eq!(errors, "");
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(reply["return"]["status"], "running");
    assert_eq!(reply["id"], "libvirt-1");
    let (refused, errors) = stand.command(r#"{"execute":"no-such"}"#).await;
    assert_eq!(errors, "");
    assert!(refused.contains("CommandNotFound"), "{refused}");
    let human = [
        "qemu-monitor-command",
        "--domain",
        "vm-1",
        "--hmp",
        "info status",
    ];
    assert_eq!(stand.run(&human).await.0, "VM status: running");
    assert_eq!(
        stand.qemu.commands()[..2],
        [
            json!({"execute": "query-status"}),
            json!({"execute": "no-such"})
        ]
    );

    stand.qemu.on_agent("guest-get-time", json!(7));
    let agent = [
        "qemu-agent-command",
        "vm-1",
        r#"{"execute":"guest-get-time"}"#,
    ];
    assert_eq!(
        stand.run(&agent).await,
        (r#"{"return":7}"#.to_owned(), String::new())
    );
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn virsh_shows_libvirts_errors() {
    let stand = Stand::new();
    let unknown = [
        "qemu-monitor-command",
        "--domain",
        "none",
        "--cmd",
        r#"{"execute":"stop"}"#,
    ];
    let (_, error) = stand.run(&unknown).await;
    assert!(error.contains("failed to get domain 'none'"), "{error}");
    stand.libvirtd.busy("vm-1", true);
    let (_, error) = stand.command(r#"{"execute":"stop"}"#).await;
    assert!(
        error.contains("cannot acquire state change lock"),
        "{error}"
    );
    stand.libvirtd.busy("vm-1", false).stop("vm-1");
    let (_, error) = stand.command(r#"{"execute":"stop"}"#).await;
    assert!(error.contains("domain is not running"), "{error}");
    stand.libvirtd.start("vm-1");
    let (_, error) = stand.command(r#"{"execute":"quit"}"#).await;
    assert!(error.contains("Connection reset by peer"), "{error}");
    stand.libvirtd.start("vm-1");
    let readonly = ["-r", "qemu-monitor-command", "vm-1", "query-status"];
    let (_, error) = stand.run(&readonly).await;
    assert!(error.contains("read only access"), "{error}");
    // What it has not got is what an older daemon has not got.
    let (_, error) = stand.run(&["net-list"]).await;
    assert!(error.contains("unknown procedure"), "{error}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn virsh_gets_the_events_it_asked_for() {
    let stand = Stand::new();
    let watch = [
        "qemu-monitor-event",
        "--domain",
        "vm-1",
        "--event",
        "stop|resume",
        "--regex",
        "--no-case",
        "--loop",
    ];
    let mut virsh = stand.virsh(&watch);
    // It complains there at its end.
    virsh.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut virsh = virsh.spawn().unwrap();
    let mut lines = BufReader::new(virsh.stdout.take().unwrap()).lines();
    let registration = stand
        .libvirtd
        .wait_for_call::<ConnectDomainMonitorEventRegister>();
    let registration = soon(registration).await;
    assert_eq!(
        registration
            .args::<ConnectDomainMonitorEventRegister>()
            .unwrap()
            .flags
            .0,
        3
    );
    // A command is answered behind it: the registration is made.
    stand.command(r#"{"execute":"stop"}"#).await;
    stand.qemu.event("RTC_CHANGE", json!({"offset": 7}));
    stand.command(r#"{"execute":"cont"}"#).await;
    for name in ["STOP", "RESUME"] {
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        assert!(line.starts_with(&format!("event {name} at ")), "{line}");
        assert!(line.contains("for domain 'vm-1': <null>"), "{line}");
    }
    // The daemon goes, and virsh with it.
    let Stand { libvirtd, .. } = stand;
    drop(libvirtd);
    soon(virsh.wait()).await.unwrap();
}
