//! Programs that lead to the daemon: what they say comes with the end, and none is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use libvirt_qmp::{EndCause, Error, Libvirt};

use super::{chain, patient};
use crate::support::lab::Lab;
use crate::support::process::{PATIENCE, poll_until, that_name};
use crate::support::scratch::Scratch;

/// A shell script, and the URI that runs it.
pub(super) fn script(scratch: &Scratch, name: &str, text: &str) -> String {
    let file = scratch.path(name);
    fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    format!("qemu+ext:///system?command={}", file.display())
}

fn nobody_names(scratch: &Scratch) {
    let gone = poll_until(PATIENCE, || {
        that_name(scratch.dir()).is_empty().then_some(())
    });
    assert!(gone.is_some(), "{:?}", that_name(scratch.dir()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_said_is_in_the_error() {
    let scratch = Scratch::new();
    let uri = script(&scratch, "fails", "echo 'no way there' >&2; exit 7");
    let text = chain(&Libvirt::connect(&uri).await.unwrap_err());
    assert!(
        text.contains("fails ended (exit status: 7): no way there"),
        "{text}"
    );
    let uri = format!(
        "qemu+ext:///system?command={}",
        scratch.path("missing").display()
    );
    match Libvirt::connect(&uri).await.unwrap_err() {
        Error::Connect { target, source } => {
            assert_eq!(target, "qemu+ext:///system");
            assert!(source.to_string().contains("missing: "), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_instead_of_the_protocol_is_told() {
    let scratch = Scratch::new();
    let uri = script(
        &scratch,
        "garbage",
        "echo 'Welcome to this host!'; cat >/dev/null",
    );
    match Libvirt::connect(&uri).await.unwrap_err() {
        Error::Disconnected { cause, .. } => {
            assert!(matches!(*cause, EndCause::Frame(_)), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    nobody_names(&scratch);
}

/// It keeps its input and its output open, and ends for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_one_is_ended_at_the_deadline_and_where_the_future_is_dropped() {
    let scratch = Scratch::new();
    let uri = script(
        &scratch,
        "silent",
        "trap '' HUP INT TERM PIPE; while true; do sleep 1 >/dev/null; done",
    );
    let config = patient().connect_timeout(Some(Duration::from_millis(300)));
    let error = Libvirt::connect_with(&uri, config).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    nobody_names(&scratch);
    let dropped = tokio::time::timeout(Duration::from_millis(300), Libvirt::connect(&uri));
    dropped.await.unwrap_err();
    nobody_names(&scratch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_program_leads_to_the_daemon() {
    let lab = Lab::start();
    let scratch = Scratch::new();
    let text = format!("exec nc -U {}", lab.unix_path().display());
    let uri = script(&scratch, "tunnel", &text).replace("/system", "/session");
    let libvirt = Libvirt::connect_with(&uri, patient()).await.unwrap();
    assert!(libvirt.domains().await.unwrap().is_empty());
    lab.kill_daemon();
    let cause = libvirt.closed().await;
    assert!(
        matches!(*cause, EndCause::PeerClosed | EndCause::Io(_)),
        "{cause}"
    );
}
