//! Out-of-band commands, with QEMU's main loop blocked: it writes guest memory to a named pipe that nobody reads.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{Command, Config, Error, ErrorClass, Monitor, MonitorExt, Phase, RunOptions};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::qemu::Qemu;
use crate::{SOON, STATUS, class, over, run};

const OUT_OF_BAND: &str = r#"{"exec-oob":"query-yank","id":[1]}"#;

/// A command that blocks QEMU until [`unblock`], and the pipe.
fn blocking(qemu: &Qemu) -> (String, PathBuf) {
    let fifo = qemu.dir().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let command = Command::new("pmemsave")
        .arg("val", 0)
        .arg("size", 4096)
        .arg("filename", fifo.to_str().unwrap());
    (String::from_utf8(command.to_json().unwrap()).unwrap(), fifo)
}

/// Reads what QEMU has to write.
fn unblock(fifo: PathBuf) -> JoinHandle<usize> {
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        std::fs::File::open(fifo)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap()
    })
}

/// P13, P15: eight commands in flight, the first of which blocks, and QEMU still reads and answers what is out of band.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn it_is_answered_while_eight_commands_are_blocked() {
    let qemu = Qemu::start(&[]);
    let config = Config::new().max_in_flight(100);
    let monitor = Arc::new(over(&qemu.unix_path(), config).await);
    monitor.connect().await.unwrap();
    let (first, fifo) = blocking(&qemu);
    let mut commands = vec![first];
    commands.resize(8, r#"{"execute":"query-name"}"#.to_owned());
    let calls: Vec<_> = commands
        .into_iter()
        .map(|command| {
            let monitor = monitor.clone();
            tokio::spawn(async move { run(&monitor, command).await })
        })
        .collect();
    tokio::task::yield_now().await;
    // All eight places are taken: a ninth waits here.
    let options = RunOptions::new().timeout(Duration::from_millis(100));
    let ninth = monitor.run_with(STATUS.as_bytes(), options).await;
    assert!(
        matches!(
            ninth,
            Err(Error::Timeout {
                phase: Phase::Queue,
                ..
            })
        ),
        "{ninth:?}"
    );
    for _ in 0..50 {
        let reply = run(&monitor, OUT_OF_BAND).await.unwrap();
        assert!(reply.starts_with(r#"{"return": [{"#), "{reply}");
        assert!(reply.ends_with(r#"], "id": [1]}"#), "{reply}");
    }
    assert!(calls.iter().all(|call| !call.is_finished()));

    // Another monitor gets its greeting, and no answer.
    let config = Config::new().connect_timeout(Some(Duration::from_secs(5)));
    let error = over(&qemu.pretty_path(), config)
        .await
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Negotiation,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("blocks on another"), "{error}");

    assert_eq!(unblock(fifo).await.unwrap(), 4096);
    for call in calls {
        let reply = timeout(SOON, call).await.unwrap().unwrap().unwrap();
        assert_eq!(reply, r#"{"return": {}}"#);
    }
    // The last one to leave was answered to nobody, and the next client has its own answers (P12).
    let next = over(&qemu.pretty_path(), Config::new()).await;
    run(&next, STATUS).await.unwrap();
}

/// P19: what QEMU says to it; and without the capability nothing is sent.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn it_is_refused_by_qemu_or_here() {
    let qemu = Qemu::start(&[]);
    let monitor = over(&qemu.unix_path(), Config::new()).await;
    assert!(monitor.greeting().await.unwrap().offers("oob"));
    let list: Vec<Value> = monitor
        .execute(Command::new("query-yank").oob())
        .await
        .unwrap();
    // The sockets of QEMU's monitors can be yanked.
    assert!(!list.is_empty());
    let error = run(&monitor, r#"{"exec-oob":"query-status"}"#).await;
    match error.unwrap_err() {
        Error::Qmp(error) => assert!(error.desc.contains("does not support OOB"), "{error:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        class(run(&monitor, r#"{"exec-oob":"none"}"#).await),
        ErrorClass::CommandNotFound
    );
    drop(monitor);

    let declined = over(&qemu.unix_path(), Config::new().oob(false)).await;
    run(&declined, STATUS).await.unwrap();
    let error = run(&declined, OUT_OF_BAND).await.unwrap_err();
    assert!(error.is_unsupported(), "{error:?}");
    run(&declined, STATUS).await.unwrap();
}
