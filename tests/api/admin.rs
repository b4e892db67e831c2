//! The admin program against a daemon's admin socket, with virt-admin beside it.

use std::process::{Command, Stdio};

use libvirt_qmp::protocol::constants::ClientTransport;
use libvirt_qmp::{Admin, Config, EndCause, TypedParam};
use tokio::net::UnixStream;

use crate::Lab;
use crate::support::scratch::is_root;

/// A command that runs as the daemon's own user, the only one that may administer it.
fn as_daemon(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
    command
}

fn uri(lab: &Lab) -> String {
    let socket = lab.admin_path();
    format!("libvirtd:///session?socket={}", socket.display())
}

/// What virt-admin prints, words apart by one blank.
fn virt_admin(lab: &Lab, command: &[&str]) -> String {
    let output = as_daemon("virt-admin")
        .args(["-q", "-c", &uri(lab)])
        .args(command)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn number(params: &[TypedParam], name: &str) -> u64 {
    let param = params.iter().find(|param| param.field == name);
    param.and_then(|param| param.value.as_u64()).unwrap()
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_daemon_says_what_virt_admin_prints() {
    let lab = Lab::start();
    let mut relay = tokio::process::Command::from(as_daemon("nc.openbsd"));
    let mut relay = relay
        .arg("-U")
        .arg(lab.admin_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let conn = tokio::io::join(relay.stdout.take().unwrap(), relay.stdin.take().unwrap());
    let admin = Admin::open(conn, Config::new()).await.unwrap();
    let direct = Admin::connect(&uri(&lab)).await;
    assert_eq!(direct.is_ok(), !is_root(), "{direct:?}");
    let servers = admin.connect_list_servers().await.unwrap();
    let names: Vec<_> = servers.iter().map(|server| &*server.name).collect();
    let printed = virt_admin(&lab, &["srv-list"]);
    for name in &names {
        assert!(printed.contains(name), "{name} in {printed}");
    }
    assert_eq!(printed.lines().count(), names.len());

    let server = admin.connect_lookup_server("libvirtd").await.unwrap();
    let pool = admin
        .server_get_threadpool_parameters(&server)
        .await
        .unwrap();
    let printed = virt_admin(&lab, &["srv-threadpool-info", "libvirtd"]);
    for name in ["minWorkers", "maxWorkers", "prioWorkers"] {
        let line = format!("{name} : {}", number(&pool, name));
        assert!(printed.contains(&line), "{line} in {printed}");
    }
    let most = number(&pool, "maxWorkers") + 1;
    let params = [TypedParam::new("maxWorkers", u32::try_from(most).unwrap())];
    admin
        .server_set_threadpool_parameters(&server, &params)
        .await
        .unwrap();
    let printed = virt_admin(&lab, &["srv-threadpool-info", "libvirtd"]);
    assert!(
        printed.contains(&format!("maxWorkers : {most}")),
        "{printed}"
    );
    let limits = admin.server_get_client_limits(&server).await.unwrap();
    let printed = virt_admin(&lab, &["srv-clients-info", "libvirtd"]);
    let line = format!("nclients_max : {}", number(&limits, "nclients_max"));
    assert!(printed.contains(&line), "{line} in {printed}");

    // A client of the other server, which is then thrown out.
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let config = Config::new().uri(lab.uri());
    let libvirt = libvirt_qmp::Libvirt::open(conn, config).await.unwrap();
    let clients = admin.server_list_clients(&server).await.unwrap();
    assert_eq!(clients.len(), 1);
    assert_eq!(clients[0].server, server);
    assert_eq!(clients[0].transport, ClientTransport::UNIX);
    let client = admin
        .server_lookup_client(&server, clients[0].id)
        .await
        .unwrap();
    assert_eq!(client.id, clients[0].id);
    let info = admin.client_get_info(&client).await.unwrap();
    assert_eq!(
        number(&info, "unix_process_id"),
        u64::from(std::process::id())
    );
    admin.client_close(&client).await.unwrap();
    libvirt.closed().await;

    let outputs = admin.connect_get_logging_outputs().await.unwrap();
    assert_eq!(outputs.noutputs, 1);
    assert!(outputs.outputs.ends_with("libvirtd.log"), "{outputs:?}");
    admin
        .connect_set_logging_filters(Some("1:qemu"))
        .await
        .unwrap();
    let filters = admin.connect_get_logging_filters().await.unwrap();
    assert_eq!(
        filters.filters.unwrap().trim(),
        virt_admin(&lab, &["daemon-log-filters"])
    );
    assert!(admin.connect_get_lib_version().await.unwrap() >= 9_000_000);

    // There is no such server.
    let error = admin.connect_lookup_server("nobody").await.unwrap_err();
    assert!(error.libvirt_code().is_some(), "{error}");
    admin.close().await.unwrap();
    assert!(matches!(*admin.closed().await, EndCause::UserClosed));
}
