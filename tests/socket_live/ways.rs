//! The ways to a real QEMU: it connects to us, is our child, has pipes or one end of a socket pair; and the handshakes.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use futures_util::StreamExt;
use libvirt_qmp::{
    Command, Config, Error, ErrorClass, Handshake, Monitor, MonitorExt, QmpAddress, QmpListener,
    SocketMonitor,
};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::support::process::{PATIENCE, Process, poll_until};
use crate::support::qemu::{Qemu, command};
use crate::support::scratch::Scratch;
use crate::{SOON, STATUS, class, next, over, run};

/// P29: QEMU is launched after the socket was bound, connects, and comes back each time it is left.
async fn comes_back(scratch: &Scratch, listener: QmpListener) {
    let address = listener.local_addr();
    let _qemu = Process::new(command(scratch).args(["-qmp", &format!("{address},reconnect=1")]));
    for n in 0..3 {
        let monitor = listener.accept(PATIENCE).await.unwrap();
        // Each time with a greeting, and to be negotiated with anew.
        assert!(monitor.greeting().await.unwrap().offers("oob"));
        let reply = run(&monitor, format!(r#"{{"execute":"query-name","id":{n}}}"#)).await;
        assert_eq!(reply.unwrap(), format!(r#"{{"return": {{}}, "id": {n}}}"#));
        let list: Vec<Value> = monitor
            .execute(Command::new("query-yank").oob())
            .await
            .unwrap();
        assert!(!list.is_empty());
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn qemu_connects_to_a_unix_socket_and_comes_back() {
    let scratch = Scratch::new();
    let path = scratch.path("listen");
    // Left by one that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = SocketMonitor::listen(&path).await.unwrap();
    comes_back(&scratch, listener).await;
    assert!(!path.exists());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn qemu_connects_over_tcp_and_comes_back() {
    let scratch = Scratch::new();
    let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = SocketMonitor::listen(any_port).await.unwrap();
    comes_back(&scratch, listener).await;
}

/// The socket of a running QEMU is not taken from it.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn listening_where_qemu_listens_is_refused() {
    let qemu = Qemu::start(&[]);
    let error = SocketMonitor::listen(&qemu.unix_path()).await.unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error:?}");
    let monitor = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    run(&monitor, STATUS).await.unwrap();
}

/// Waits until no process has this id.
async fn expect_gone(pid: u32) {
    let gone = tokio::task::spawn_blocking(move || {
        let proc = Path::new("/proc").join(pid.to_string());
        poll_until(PATIENCE, || (!proc.exists()).then_some(()))
    });
    assert!(gone.await.unwrap().is_some(), "{pid} is still there");
}

fn child(scratch: &Scratch) -> tokio::process::Child {
    tokio::process::Command::from(command(scratch))
        .args(["-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// P30: QEMU does not end because its input does, so it is killed; after `quit` it ends by itself.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn qemu_as_a_child_on_its_standard_input_and_output() {
    let scratch = Scratch::new();
    let qemu = child(&scratch);
    let pid = qemu.id().unwrap();
    let monitor = SocketMonitor::stdio(qemu).unwrap();
    assert!(monitor.version().await.unwrap().major >= 5);
    run(&monitor, r#"{"execute":"stop"}"#).await.unwrap();
    let mut events = monitor.events().await.unwrap();
    assert_eq!(next(&mut events).await, "STOP");
    monitor.disconnect().await.unwrap();
    expect_gone(pid).await;

    let qemu = child(&scratch);
    let pid = qemu.id().unwrap();
    let monitor = SocketMonitor::stdio(qemu).unwrap();
    let mut events = monitor.events().await.unwrap();
    // Its reply is not certain to come.
    match run(&monitor, r#"{"execute":"quit"}"#).await {
        Ok(reply) => assert_eq!(reply, r#"{"return": {}}"#),
        Err(error) => assert!(error.is_disconnected() && error.maybe_executed()),
    }
    assert_eq!(next(&mut events).await, "SHUTDOWN");
    assert!(timeout(SOON, events.next()).await.unwrap().is_none());
    expect_gone(pid).await;
    drop(monitor);
}

/// QEMU greets once and stays negotiated: who comes later needs no handshake.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn qemu_on_a_pair_of_named_pipes() {
    let scratch = Scratch::new();
    for name in ["pipe.in", "pipe.out"] {
        let made = std::process::Command::new("mkfifo")
            .arg(scratch.path(name))
            .status();
        assert!(made.unwrap().success());
    }
    let address = QmpAddress::Pipe(scratch.path("pipe"));
    let dialling = tokio::spawn(SocketMonitor::dial(address.clone(), Config::new()));
    tokio::task::yield_now().await;
    let qemu = Process::new(command(&scratch).args(["-qmp", &address.to_string()]));
    let monitor = timeout(PATIENCE, dialling).await.unwrap().unwrap().unwrap();
    assert!(monitor.version().await.unwrap().major >= 5);
    let schema: Vec<Value> = monitor.query("qmp-schema").await.unwrap();
    assert!(schema.len() > 900);
    run(&monitor, r#"{"execute":"stop"}"#).await.unwrap();
    let mut events = monitor.events().await.unwrap();
    assert_eq!(next(&mut events).await, "STOP");
    drop((monitor, events));

    let config = Config::new().handshake(Handshake::None);
    let monitor = SocketMonitor::dial(address, config).await.unwrap();
    run(&monitor, r#"{"execute":"cont"}"#).await.unwrap();
    let mut events = monitor.events().await.unwrap();
    assert_eq!(next(&mut events).await, "RESUME");
    qemu.kill();
    let end = timeout(SOON, events.next()).await.unwrap();
    assert!(
        matches!(end, Some(Err(Error::Disconnected { .. }))),
        "{end:?}"
    );
}

/// One end of a pair of sockets is the child's standard input, the other ours: no file, and nobody else can come.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn qemu_with_one_end_of_a_pair_of_sockets() {
    let scratch = Scratch::new();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let qemu = Process::new(
        command(&scratch)
            .args(["-chardev", "socket,id=qmp,fd=0"])
            .args(["-mon", "chardev=qmp,mode=control"])
            .stdin(OwnedFd::from(theirs)),
    );
    let monitor = SocketMonitor::from_fd(ours.into()).unwrap();
    assert!(monitor.version().await.unwrap().major >= 5);
    // Descriptors pass too.
    let null = std::fs::File::open("/dev/null").unwrap();
    let getfd = Command::new("getfd").arg("fdname", "null").file(null);
    monitor.execute::<Value>(getfd).await.unwrap();
    let closefd = Command::new("closefd").arg("fdname", "null");
    monitor.execute::<Value>(closefd).await.unwrap();
    qemu.kill();
    let error = run(&monitor, STATUS).await.unwrap_err();
    assert!(error.is_disconnected(), "{error:?}");
}

/// P11: before the capabilities QEMU takes nothing else, an unknown one may be tried again, and there is no second time.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_user_may_negotiate() {
    let qemu = Qemu::start(&[]);
    let config = Config::new().handshake(Handshake::GreetingOnly);
    let monitor = over(&qemu.unix_path(), config).await;
    assert_eq!(
        class(run(&monitor, STATUS).await),
        ErrorClass::CommandNotFound
    );
    let negotiate = |what: &str| {
        format!(r#"{{"execute":"qmp_capabilities","arguments":{{"enable":[{what}]}}}}"#)
    };
    assert_eq!(
        class(run(&monitor, negotiate(r#""telepathy""#)).await),
        ErrorClass::GenericError
    );
    let yank = r#"{"exec-oob":"query-yank"}"#;
    assert!(run(&monitor, yank).await.unwrap_err().is_unsupported());
    run(&monitor, negotiate(r#""oob""#)).await.unwrap();
    run(&monitor, yank).await.unwrap();
    run(&monitor, STATUS).await.unwrap();
    assert_eq!(
        class(run(&monitor, negotiate("")).await),
        ErrorClass::CommandNotFound
    );
}

/// P9: what an earlier client left half-said is not the beginning of what the next one says.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn half_a_command_of_an_earlier_client_does_no_harm() {
    let qemu = Qemu::start(&[]);
    for half in [
        r#"{"execute":"qu"#,
        r#"{"execute":"quit","arguments":{"#,
        "[[[[",
    ] {
        let mut rude = UnixStream::connect(qemu.unix_path()).await.unwrap();
        rude.write_all(half.as_bytes()).await.unwrap();
        drop(rude);
        let monitor = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
        run(&monitor, STATUS).await.unwrap();
    }
}
