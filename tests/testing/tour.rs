//! The example `monitor_tour`, over QEMU's own socket and through libvirtd, on the stand-ins.

use std::sync::Arc;

use libvirt_qmp::testing::{FakeLibvirtd, FakeQemu};
use libvirt_qmp::{LibvirtRpc, Monitor, SocketMonitor};
use serde_json::json;

use crate::support::scratch::Scratch;

#[path = "../../examples/monitor_tour.rs"]
#[allow(dead_code, reason = "the example's own `main` is not called here")]
mod monitor_tour;

/// A machine that knows the commands of the tour.
fn machine() -> FakeQemu {
    let qemu = FakeQemu::new();
    let schema = json!([
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
        {"name": "0", "meta-type": "object", "members": []},
        {"name": "1", "meta-type": "object", "members": [{"name": "id", "type": "str"}]},
        {"name": "device_del", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
    ]);
    qemu.on("query-qmp-schema", schema)
        .on("transaction", json!({}))
        .allow_oob("query-yank");
    qemu
}

/// What is the same on every driver.
fn lines(out_of_band: &str) -> [String; 16] {
    [
        "QEMU 7.2",
        "status: \"running\"",
        "human monitor: VM status: running",
        "CPUs: 1",
        "block devices: 0",
        "would be refused: ",
        "device_del: DeviceNotFound: Device 'blk0' not found",
        "CommandNotFound Some(\"no-such\")",
        out_of_band,
        "a transaction of nothing",
        "a file was passed",
        "stopped: STOP",
        "still stopped: true",
        "1 of 2 events",
        "called back: {\"cont\":true} {\"stop\":true}",
        "closed: true",
    ]
    .map(str::to_owned)
}

async fn shows(monitor: impl Monitor + 'static, out_of_band: &str) {
    let seen = monitor_tour::tour(Arc::new(monitor)).await.unwrap();
    let wanted = lines(out_of_band);
    assert_eq!(seen.len(), wanted.len(), "{seen:#?}");
    for (seen, wanted) in seen.iter().zip(&wanted) {
        // What is wrong with a command is said at length.
        assert!(seen.starts_with(wanted), "{seen} is not {wanted}");
    }
}

#[tokio::test]
async fn the_tour_shows_the_same_on_every_driver() {
    let scratch = Scratch::new();
    let (qemu, path) = (machine(), scratch.path("qmp"));
    qemu.capabilities(["oob"]).listen_unix(&path).unwrap();
    let monitor = SocketMonitor::unix(&path).await.unwrap();
    shows(monitor, "out of band: []").await;

    let (libvirtd, path) = (FakeLibvirtd::new(), scratch.path("libvirt"));
    libvirtd.domain("vm-1", machine());
    libvirtd.listen_unix(&path).unwrap();
    let conn = tokio::net::UnixStream::connect(&path).await.unwrap();
    let monitor = LibvirtRpc::new("vm-1", conn);
    shows(monitor, "not supported: exec-oob").await;
}
