//! The part with `unsafe` under valgrind's memcheck, and in programs with an event loop of their own.

use std::fs::File;
use std::os::fd::AsFd;

use libvirt_qmp::{Command, EventOptions, MonitorExt};
use serde_json::Value;

use super::child;
use super::support::conformance::next_of;
use super::*;

/// What valgrind ends with where it has found something.
const FOUND: i32 = 99;

const VALGRIND: [&str; 14] = [
    // What hangs must not keep the tests.
    "timeout",
    "-k",
    "5",
    "600",
    "valgrind",
    "--tool=memcheck",
    "--fair-sched=try",
    "--leak-check=full",
    "--show-leak-kinds=definite",
    "--errors-for-leak-kinds=definite",
    "--error-exitcode=99",
    "--num-callers=30",
    "--child-silent-after-fork=yes",
    "--quiet",
];

/// What goes through the fence: connections, commands, a file, errors, events, and all their ends.
async fn use_it(uri: &str) {
    // Under valgrind on a loaded machine everything takes its time.
    let config = Config::new().connect_timeout(None).call_timeout(None);
    for _ in 0..3 {
        let monitor = LibvirtC::with_config(uri, "one", config.clone());
        let mut events = monitor.events().await.unwrap();
        let all = monitor.all_monitor_events(EventOptions::default());
        let mut all = all.await.unwrap();
        for (command, event) in [
            ("stop", "STOP"),
            ("cont", "RESUME"),
            ("system_reset", "RESET"),
        ] {
            let _: Value = monitor.execute(Command::new(command)).await.unwrap();
            next_of(&mut events, &[event]).await;
            next_of(&mut all, &[event]).await;
        }
        let null = File::open("/dev/null").unwrap();
        let add = br#"{"execute":"add-fd"}"#;
        monitor.run_with_files(add, &[null.as_fd()]).await.unwrap();
        monitor
            .run(br#"{"execute":"no-such-command"}"#)
            .await
            .unwrap_err();
        let agent = monitor.agent(br#"{"execute":"guest-ping"}"#, Default::default());
        agent.await.unwrap_err();
        drop((events, all));
        let late = monitor.events().await.unwrap();
        monitor.disconnect().await.unwrap();
        drop(late);
        let by_drop = LibvirtC::with_config(uri, "one", config.clone());
        let _: Value = by_drop.query("status").await.unwrap();
    }
    let nobody = LibvirtC::with_config(uri, "nobody", config.clone());
    let nobody = nobody.connect().await;
    assert!(nobody.unwrap_err().is_not_found());
    let no_monitor = LibvirtC::with_config("test:///default", "test", config.clone());
    assert!(no_monitor.events().await.unwrap_err().is_unsupported());
    let no_socket = "qemu+unix:///session?socket=/nonexistent/socket";
    let no_socket = LibvirtC::with_config(no_socket, "one", config);
    assert!(no_socket.connect().await.unwrap_err().is_unavailable());
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn memory_is_used_rightly_and_given_back() {
    const NAME: &str = "memory::memory_is_used_rightly_and_given_back";
    match child::part().as_deref() {
        None => {}
        // That valgrind would say so.
        Some("leak") => return std::mem::forget(std::hint::black_box(Box::new([7_u8; 1000]))),
        Some(uri) => return use_it(uri).await,
    }
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    for (part, expected) in [(lab.client_uri().as_str(), 0), ("leak", FOUND)] {
        let run = child::again(&VALGRIND, NAME, part).output();
        let run = run.expect("valgrind starts: run tests/run");
        let said = String::from_utf8_lossy(&run.stderr);
        let printed = String::from_utf8_lossy(&run.stdout);
        assert_eq!(run.status.code(), Some(expected), "{printed}\n{said}");
        assert!(printed.contains("1 passed"), "{printed}\n{said}");
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_program_with_an_event_loop_of_its_own_keeps_it() {
    const NAME: &str = "memory::a_program_with_an_event_loop_of_its_own_keeps_it";
    if let Some(uri) = child::part() {
        // This program has none, which shows that nobody else made one: what needs it fails, and the rest works.
        LibvirtC::use_existing_loop().unwrap();
        LibvirtC::use_existing_loop().unwrap();
        let error = LibvirtC::new(uri.as_str(), "one")
            .connect()
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Libvirt(_)), "{error:?}");
        let monitor = LibvirtC::with_config(uri, "one", Config::new().keepalive(None));
        monitor.run(STATUS).await.unwrap();
        let error = monitor.events().await.unwrap_err();
        assert!(matches!(error, Error::Libvirt(_)), "{error:?}");
        let names = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        assert!(
            !names
                .into_iter()
                .any(|name| name.starts_with("libvirt-events"))
        );
        return monitor.disconnect().await.unwrap();
    }
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let run = child::again(&[], NAME, &lab.client_uri()).output().unwrap();
    let printed = String::from_utf8_lossy(&run.stdout);
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success() && printed.contains("1 passed"),
        "{printed}\n{said}"
    );
}
