//! `qmp shell` as its user meets it, in a pseudo-terminal and in scripts. The QEMU is the stand-in that the crate gives to its
//! users' tests, with the schema of a real one; in the live tests it is a real one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/pty.rs"]
mod pty;

mod completion;
mod editing;
mod ends;
mod history;
mod hmp;
mod lines;
mod live;
mod scripts;

use std::path::PathBuf;

use libvirt_qmp::replay::{Fixture, Replay};
use libvirt_qmp::testing::{FakeLibvirtd, FakeQemu};
use libvirt_qmp::{Config, LibvirtRpc, MonitorExt};
use serde_json::{Value, json};
use support::scratch::Scratch;
use tokio::sync::OnceCell;

use pty::Pty;

/// The shell on the socket of a stand-in.
struct Shell {
    pty: Pty,
    qemu: FakeQemu,
    scratch: Scratch,
}

impl Shell {
    /// Starts it, and waits for its prompt.
    async fn start(options: &[&str]) -> Self {
        Shell::start_on(qemu().await, options)
    }

    fn start_on(qemu: FakeQemu, options: &[&str]) -> Self {
        let scratch = Scratch::new();
        let uri = listen(&qemu, &scratch);
        let arguments = [&["-C", &uri, "shell"], options].concat();
        let pty = Pty::qmp(&arguments, scratch.path("").as_path());
        pty.wait_for("> ");
        Shell { pty, qemu, scratch }
    }

    /// Another shell with the same files, once this one has ended.
    fn again(&mut self, options: &[&str]) {
        let uri = format!("unix:{}", self.scratch.path("qmp").display());
        let arguments = [&["-C", &uri, "shell"], options].concat();
        self.pty = Pty::qmp(&arguments, self.scratch.path("").as_path());
        self.pty.wait_for("> ");
    }

    /// The last command that QEMU got.
    fn last_command(&self) -> Value {
        self.qemu.commands().pop().unwrap_or_default()
    }

    /// Waits until QEMU got such a command.
    async fn wait_for_command(&self, is_it: impl Fn(&Value) -> bool) {
        let found = async {
            while !self.qemu.commands().iter().any(&is_it) {
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(std::time::Duration::from_secs(60), found).await;
        assert!(found.is_ok(), "{:?}", self.qemu.commands());
    }
}

/// A stand-in that knows the schema of QEMU 7.2.
async fn qemu() -> FakeQemu {
    let qemu = FakeQemu::new();
    qemu.on("query-qmp-schema", schema().await.clone());
    qemu
}

fn listen(qemu: &FakeQemu, scratch: &Scratch) -> String {
    let path = scratch.path("qmp");
    qemu.listen_unix(&path).unwrap();
    format!("unix:{}", path.display())
}

/// A stand-in for libvirtd with the domain `guest`.
fn libvirtd(qemu: &FakeQemu, scratch: &Scratch) -> (FakeLibvirtd, String) {
    let libvirtd = FakeLibvirtd::new();
    libvirtd.domain("guest", qemu);
    let path = scratch.path("libvirt");
    libvirtd.listen_unix(&path).unwrap();
    let uri = format!("qemu+unix:///session?socket={}", path.display());
    (libvirtd, uri)
}

/// The schema of QEMU 7.2.22, from the recording.
async fn schema() -> &'static Value {
    static SCHEMA: OnceCell<Value> = OnceCell::const_new();
    SCHEMA
        .get_or_init(|| async {
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
            let path = path.join("fixtures/query-qmp-schema.fixture");
            let fixture: Fixture = std::fs::read_to_string(path).unwrap().parse().unwrap();
            let (conn, _) = Replay::new(fixture).connect();
            let config = Config::new().uri("qemu:///session");
            let monitor = LibvirtRpc::with_config("stage-lb-1", conn, config);
            monitor.query("qmp-schema").await.unwrap_or(json!(null))
        })
        .await
}
