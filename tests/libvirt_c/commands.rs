//! Commands: that they behave as on every driver, how they fail, what they carry, and how long they take.

use std::fs::{self, File};
use std::os::fd::AsFd;

use futures_util::future::join_all;
use libvirt_qmp::{AgentTimeout, Command, LibvirtError, MonitorExt, Phase, RunOptions};
use serde_json::{Value, json};
use uuid::Uuid;

use super::support::conformance;
use super::*;

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_suite_passes_by_name_and_by_uuid() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    let guest = lab.guest("stage-lb-1");
    conformance::suite(&monitor(&lab, "stage-lb-1")).await;
    let by_uuid: Box<dyn Monitor> = Box::new(LibvirtC::new(lab.client_uri(), guest.uuid));
    conformance::suite(&by_uuid).await;
    conformance::suite(&monitor(&lab, &guest.uuid.to_string())).await;
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_domain_that_does_not_exist_is_not_found_until_it_does() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    let late = monitor(&lab, "late");
    match late.connect().await.unwrap_err() {
        Error::Libvirt(error) => {
            // VIR_FROM_QEMU, VIR_ERR_ERROR.
            assert_eq!((error.code, error.domain, error.level), (42, 10, 2));
            assert_eq!(error.procedure, "virDomainLookupByName");
            let message = error.message.unwrap();
            assert!(message.contains("late"), "{message}");
            // The format of the message, and what was put into it.
            assert_eq!(
                message,
                error.str1.unwrap().replace("%s", &error.str2.unwrap())
            );
            assert_eq!((error.str3, error.int1, error.int2), (None, -1, -1));
        }
        other => panic!("{other:?}"),
    }
    let unknown = LibvirtC::new(lab.client_uri(), Uuid::from_u128(7));
    for error in [
        unknown.run(STATUS).await.unwrap_err(),
        unknown.events().await.unwrap_err(),
        monitor(&lab, &Uuid::from_u128(7).to_string())
            .connect()
            .await
            .unwrap_err(),
    ] {
        assert!(error.is_not_found() && !error.maybe_executed(), "{error}");
    }
    lab.guest("late");
    late.connect().await.unwrap();
    late.run(STATUS).await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_libvirt_refuses_comes_as_its_own_error() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let readonly = with_config(&lab, "one", Config::new().readonly(true));
    readonly.connect().await.unwrap();
    for error in [
        readonly.run(STATUS).await.unwrap_err(),
        readonly.events().await.unwrap_err(),
        readonly
            .agent(STATUS, AgentTimeout::Default)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(
            error.libvirt_code(),
            Some(LibvirtError::OPERATION_DENIED),
            "{error}"
        );
        assert!(error.is_denied() && !error.maybe_executed());
    }
    let monitor = monitor(&lab, "one");
    monitor.connect().await.unwrap();
    let error = monitor
        .agent(STATUS, AgentTimeout::Seconds(1))
        .await
        .unwrap_err();
    // VIR_ERR_ARGUMENT_UNSUPPORTED: there is no agent.
    assert_eq!(error.libvirt_code(), Some(74), "{error}");
    let error = monitor
        .agent(br#"{"exec-oob":"x"}"#, AgentTimeout::Default)
        .await
        .unwrap_err();
    assert!(error.is_unsupported(), "{error}");
    lab.destroy("one");
    let error = monitor.run(STATUS).await.unwrap_err();
    assert!(error.is_not_running() && !error.maybe_executed(), "{error}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_hypervisor_without_qemu_has_no_monitor() {
    let _beside = beside_others().await;
    let monitor = LibvirtC::new("test:///default", "test");
    monitor.connect().await.unwrap();
    for error in [
        monitor.run(STATUS).await.unwrap_err(),
        monitor.events().await.unwrap_err(),
        monitor
            .agent(STATUS, AgentTimeout::Default)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(
            error.libvirt_code(),
            Some(LibvirtError::NO_SUPPORT),
            "{error}"
        );
        assert!(error.is_unsupported());
    }
    monitor.disconnect().await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_connection_that_fails_says_why_and_stays_so() {
    let _beside = beside_others().await;
    let nobody = LibvirtC::new("qemu+unix:///session?socket=/nonexistent/socket", "one");
    let error = nobody.connect().await.unwrap_err();
    assert!(
        error.is_unavailable() && !error.maybe_executed(),
        "{error:?}"
    );
    let Error::Connect { target, source } = &error else {
        panic!("{error:?}");
    };
    assert!(target.contains("/nonexistent/socket"), "{target}");
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
    let libvirt = source
        .get_ref()
        .unwrap()
        .downcast_ref::<LibvirtError>()
        .unwrap();
    assert_eq!((libvirt.code, libvirt.procedure), (38, "virConnectOpen"));
    let again = nobody.run(STATUS).await.unwrap_err();
    assert_eq!(format!("{again:?}"), format!("{error:?}"));

    // The daemon has this driver, but not such a part of it.
    let lab = Lab::start();
    let nonsense = lab.client_uri().replace("session", "nonsense");
    let error = LibvirtC::new(nonsense, "one").connect().await.unwrap_err();
    assert!(matches!(error, Error::Libvirt(_)), "{error:?}");
    let error = LibvirtC::new("test:///default", "te\0st")
        .connect()
        .await
        .unwrap_err();
    assert!(error.is_unsupported(), "{error}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_file_goes_with_a_command() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    let path = lab.dir().join("passed");
    let file = File::create(&path).unwrap();
    let add = br#"{"execute":"add-fd","arguments":{"fdset-id":7,"opaque":"ours"},"id":1}"#;
    let reply = monitor.run_with_files(add, &[file.as_fd()]).await.unwrap();
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(
        (&reply["return"]["fdset-id"], &reply["id"]),
        (&json!(7), &json!(1))
    );
    let files = fs::read_dir(format!("/proc/{}/fd", lab.qemu_pid("one"))).unwrap();
    let theirs = files
        .flatten()
        .filter(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == path));
    assert_eq!(theirs.count(), 1);
    // The caller's own is still open.
    file.set_len(17).unwrap();

    // QEMU says itself that no file came with it, and what it is asked for is its error.
    let error = monitor.run(add).await.unwrap_err();
    assert!(matches!(error, Error::Qmp(_)), "{error:?}");
    let two = [file.as_fd(), file.as_fd()];
    let error = monitor.run_with_files(add, &two).await.unwrap_err();
    assert!(error.is_unsupported() && !error.maybe_executed(), "{error}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn commands_and_replies_of_any_size_up_to_the_limit() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let monitor = monitor(&lab, "one");
    let schema = monitor
        .run(br#"{"execute":"query-qmp-schema"}"#)
        .await
        .unwrap();
    assert!(schema.len() > 150_000);
    // 300 KB that come back in the error's text. QEMU reads its socket byte by byte, so not more.
    let long = "x".repeat(300_000);
    let command = Command::new(long.as_str()).to_json().unwrap();
    match monitor.run(&command).await.unwrap_err() {
        Error::Qmp(error) => assert!(error.desc.contains(&long)),
        other => panic!("{other:?}"),
    }
    let over = Command::new("x".repeat(4 << 20)).to_json().unwrap();
    let error = monitor.run(&over).await.unwrap_err();
    assert!(matches!(error, Error::Command(_)), "{error:?}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_deadline_says_whether_the_command_was_begun() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let config = Config::new().call_timeout(Some(Duration::from_millis(300)));
    let monitor = with_config(&lab, "one", config);
    monitor.connect().await.unwrap();
    lab.pause_qemu("one");
    for (expected, begun) in [(Phase::Reply, true), (Phase::Queue, false)] {
        match monitor.run(STATUS).await.unwrap_err() {
            Error::Timeout {
                phase,
                after,
                maybe_executed,
            } => {
                assert_eq!((phase, maybe_executed), (expected, begun));
                assert_eq!(after, Duration::from_millis(300));
            }
            other => panic!("{other:?}"),
        }
    }
    // Events need no turn of the monitor's.
    let events = within(SOON, monitor.events()).await.unwrap();
    lab.resume_qemu("one");
    // A call's own deadline counts instead, here none; the late reply is nobody's.
    let options = RunOptions::new().timeout(None);
    let command = br#"{"execute":"query-name","id":"mine"}"#;
    let reply = within(PATIENCE, monitor.run_with(command, options))
        .await
        .unwrap();
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(reply["id"], "mine");
    assert!(reply["return"].get("running").is_none(), "{reply}");
    drop(events);
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_dropped_call_is_not_sent_where_it_waited_and_spoils_nothing() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    let monitor = Arc::new(monitor(&lab, "one"));
    // Connecting goes on without those who asked for it.
    for _ in 0..3 {
        let _ = tokio::time::timeout(Duration::ZERO, monitor.connect()).await;
        let _ = tokio::time::timeout(Duration::ZERO, monitor.events()).await;
    }
    monitor.connect().await.unwrap();
    lab.pause_qemu("one");
    let first = stuck(&monitor).await;
    let second = spawn(&monitor, br#"{"execute":"stop"}"#);
    tokio::task::yield_now().await;
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    lab.resume_qemu("one");
    within(PATIENCE, first).await.unwrap().unwrap();
    let status: Value = monitor.query("status").await.unwrap();
    assert_eq!(status["status"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn many_monitors_and_tasks_at_once() {
    let _beside = beside_others().await;
    let lab = Lab::start();
    lab.guest("one");
    lab.guest("two");
    let guests = ["one", "two"];
    let monitors: Vec<_> = (0..8)
        .map(|number| Arc::new(monitor(&lab, guests[number % 2])))
        .collect();
    let tasks = (0..32).map(|task: usize| {
        let monitor = monitors[task % 8].clone();
        tokio::spawn(async move {
            for number in 0..10 {
                let id = task * 1000 + number;
                let command = format!(r#"{{"execute":"query-name","id":{id}}}"#);
                let reply = conformance::run(&*monitor, command.as_bytes()).await;
                assert_eq!(reply["id"], id);
                assert_eq!(reply["return"]["name"], guests[task % 2]);
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
}
