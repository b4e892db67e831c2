//! Failures: of connecting, of libvirt, and of virsh itself.

use std::time::Duration;

use libvirt_qmp::{Config, EndCause, Error, LibvirtError, Monitor, Phase, Virsh};
use uuid::Uuid;

use crate::fake::{Fake, UUID, soon};
use crate::{STATUS, cause};

#[tokio::test]
async fn a_missing_program_is_named() {
    let monitor = Virsh::new("qemu:///system", "one").program("/no/such/virsh");
    for error in [
        monitor.connect().await.unwrap_err(),
        monitor.run(STATUS).await.unwrap_err(),
        monitor.events().await.unwrap_err(),
    ] {
        assert!(error.is_unsupported() && !error.maybe_executed());
        assert!(error.to_string().contains("/no/such/virsh"), "{error}");
    }
    // There, but no program.
    let error = Virsh::new("qemu:///system", "one")
        .program("/dev/null")
        .connect()
        .await;
    match error.unwrap_err() {
        Error::Connect { target, .. } => assert_eq!(target, "/dev/null"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connection_that_fails_says_why_and_may_be_tried_again() {
    let fake = Fake::new(
        r#"if [ ! -e "$dir/up" ]; then
            fail "failed to connect to the hypervisor"
            fail "Failed to connect socket to '/nope': No such file or directory"
            exit 1
        fi"#,
    );
    let monitor = fake.monitor();
    let error = soon(monitor.run(STATUS)).await.unwrap_err();
    assert!(
        error.is_unavailable() && !error.maybe_executed(),
        "{error:?}"
    );
    let Error::Connect { target, source } = error else {
        panic!("{error:?}")
    };
    assert_eq!(target, "fake:///x");
    assert_eq!(
        source.to_string(),
        "Failed to connect socket to '/nope': No such file or directory"
    );
    std::fs::write(fake.program().with_file_name("up"), "").unwrap();
    soon(monitor.run(STATUS)).await.unwrap();
}

#[tokio::test]
async fn an_interactive_virsh_that_fails_to_connect_says_why() {
    let fake = Fake::new(
        r#"begin() {
            fail "failed to connect to the hypervisor"
            fail "authentication failed: access denied by policy"
            exit 1
        }"#,
    );
    let error = soon(fake.monitor().connect()).await.unwrap_err();
    assert!(error.is_denied(), "{error:?}");
    assert_eq!(error.libvirt_code(), Some(LibvirtError::AUTH_FAILED));
    fake.assert_gone();
}

#[tokio::test]
async fn an_unknown_domain_is_not_found_and_may_be_tried_again() {
    let fake = Fake::new("");
    for name in [
        "two",
        "--help",
        "",
        "a\0b",
        "'; echo \"",
        &"x".repeat(200_000),
    ] {
        let monitor = Virsh::new("fake:///x", name).program(fake.program());
        for _ in 0..2 {
            let error = soon(monitor.connect()).await.unwrap_err();
            assert!(error.is_not_found(), "{error:?}");
        }
    }
    let monitor = Virsh::new("fake:///x", Uuid::from_u128(7)).program(fake.program());
    assert!(soon(monitor.connect()).await.unwrap_err().is_not_found());
    let monitor = Virsh::new("fake:///x", UUID).program(fake.program());
    soon(monitor.run(STATUS)).await.unwrap();
    drop(monitor);
    fake.assert_gone();
}

#[tokio::test]
async fn a_domain_is_not_missing_because_the_daemon_is() {
    for lookup in ["domuuid", "domname"] {
        let fake = Fake::new(&format!(
            r#"{lookup}() {{
                fail "Disconnected from fake:///x due to end of file"
                fail "failed to get domain 'one'"
                return 1
            }}"#
        ));
        let error = soon(fake.monitor().connect()).await.unwrap_err();
        assert!(error.is_unavailable() && !error.is_not_found(), "{error:?}");
    }
}

#[tokio::test]
async fn a_name_that_is_a_number_is_never_taken_for_an_id() {
    let fake = Fake::new(
        r#"list() {
            printf '%-36s %-30s\n' 00000000-0000-0000-0000-000000000017 17
            printf '%-36s %-30s\n\n' 00000000-0000-0000-0000-000000000011 7
        }"#,
    );
    let monitor = Virsh::new("fake:///x", "7").program(fake.program());
    soon(monitor.run(STATUS)).await.unwrap();
    assert!(
        !fake
            .notes("argv")
            .iter()
            .any(|argv| argv.contains("domuuid"))
    );
    let error = Virsh::new("fake:///x", "1")
        .program(fake.program())
        .connect()
        .await;
    assert!(error.unwrap_err().is_not_found());
}

#[tokio::test]
async fn errors_of_libvirt_have_their_codes() {
    let fake = Fake::new(
        r#"monitor() {
            case $1 in
                *stopped*) fail "Requested operation is not valid: domain is not running" ;;
                *readonly*) fail "operation forbidden: read only access prevents virDomainQemuMonitorCommand" ;;
                *busy*) fail "Timed out during operation: cannot acquire state change lock" ;;
                *gone*) fail "failed to get domain 'x'" ;;
                *lines*) fail "operation failed: a"; echo b >&2 ;;
                *system*) fail "Unable to read from monitor: Connection reset by peer" ;;
                *) echo '{"return":{}}' ;;
            esac
        }"#,
    );
    let monitor = fake.monitor();
    let run = |name: &str| {
        let (monitor, command) = (&monitor, format!(r#"{{"execute":"{name}"}}"#));
        async move { soon(monitor.run(command.as_bytes())).await.unwrap_err() }
    };
    assert!(run("stopped").await.is_not_running());
    assert!(run("readonly").await.is_denied());
    assert!(run("busy").await.is_timeout());
    assert!(run("gone").await.is_not_found());
    assert!(run("system").await.maybe_executed());
    let Error::Libvirt(error) = run("lines").await else {
        panic!()
    };
    assert_eq!(error.message.as_deref(), Some("operation failed: a\nb"));
    assert_eq!((error.code, error.procedure), (9, "qemu-monitor-command"));
    // An error is of one command only.
    soon(monitor.run(STATUS)).await.unwrap();
}

#[tokio::test]
async fn what_an_old_virsh_lacks_is_unsupported() {
    // It refuses the whole line, so that not even the marks in it come.
    let fake = Fake::new(
        r#"echo_line() { case $1 in *qemu-monitor*) fail "unknown command: 'qemu-monitor-command'"; line= ;; esac; }"#,
    );
    let monitor = fake.monitor();
    for _ in 0..2 {
        let error = soon(monitor.run(STATUS)).await.unwrap_err();
        assert!(error.is_unsupported(), "{error:?}");
    }
}

#[tokio::test]
async fn a_virsh_that_dies_ends_the_session_for_all() {
    let fake = Fake::new(
        r#"monitor() { note asked x; printf '{"return":'; gate gate; fail "it hurts"; exit 3; }"#,
    );
    let monitor = fake.monitor();
    let mut events = soon(monitor.events()).await.unwrap();
    let (first, second, ()) = soon(async {
        tokio::join!(monitor.run(STATUS), monitor.run(STATUS), async {
            fake.wait_for_notes("asked", 1).await;
            fake.open("gate").await;
        })
    })
    .await;
    let (first, second) = (first.unwrap_err(), second.unwrap_err());
    let EndCause::Io(error) = cause(&first) else {
        panic!("{first:?}")
    };
    assert_eq!(error.to_string(), "virsh ended: it hurts");
    // Sent, and not sent.
    assert!(first.maybe_executed() && !second.maybe_executed());
    assert!(second.is_disconnected());
    for error in [
        monitor.run(STATUS).await.unwrap_err(),
        monitor.events().await.unwrap_err(),
    ] {
        assert!(matches!(cause(&error), EndCause::Io(_)));
        assert!(!error.maybe_executed());
    }
    // The stream has a virsh of its own.
    fake.open("event").await;
    let event = soon(futures_util::StreamExt::next(&mut events)).await;
    assert_eq!(event.unwrap().unwrap().name, "STOP");
    monitor.disconnect().await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_lost_connection_ends_the_session_before_virsh_connects_again() {
    let lost = "Disconnected from fake:///x due to end of file";
    for says in [
        // Also where it comes in another order, or not at all.
        format!("fail '{lost}'; fail 'End of file while reading data: Input/output error'"),
        "fail 'End of file while reading data: Input/output error'".to_owned(),
        "fail 'internal error: client socket is closed'".to_owned(),
        format!("fail '{lost}'; gate gate"),
    ] {
        let fake = Fake::new(&format!("monitor() {{ note asked x; {says}; }}"));
        let monitor = fake.monitor();
        let error = soon(monitor.run(STATUS)).await.unwrap_err();
        assert!(
            matches!(cause(&error), EndCause::PeerClosed),
            "{says}: {error:?}"
        );
        assert!(error.maybe_executed());
        assert!(monitor.run(STATUS).await.unwrap_err().is_disconnected());
        assert_eq!(fake.notes("asked").len(), 1);
        drop(monitor);
        fake.assert_gone();
    }
}

#[tokio::test]
async fn a_silent_virsh_is_given_up_in_time() {
    for silent in [
        "domuuid() { gate gate; }",
        "begin() { gate gate; }",
        "domname() { gate gate; }",
    ] {
        let fake = Fake::new(silent);
        let after = Duration::from_millis(400);
        let monitor = fake.monitor_with(Config::new().connect_timeout(Some(after)));
        match soon(monitor.run(STATUS)).await.unwrap_err() {
            error @ Error::Timeout {
                phase: Phase::Open, ..
            } => {
                assert!(error.is_unavailable() && !error.maybe_executed());
            }
            other => panic!("{other:?}"),
        }
        // Nothing is left, though the monitor lives.
        fake.assert_gone();
    }
}
