//! Processes and files: what is started, with what around it, and that nothing of it is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use futures_util::future::join_all;
use libvirt_qmp::{Error, Monitor, Virsh};

use crate::STATUS;
use crate::fake::{Fake, soon};

/// Notes when it is at a command, and does not finish it.
const STUCK: &str = r#"monitor() { note asked x; gate gate; }"#;

/// Ignores all that asks it to end.
const STUBBORN: &str = r#"
begin() { trap '' INT TERM HUP PIPE; trap 'while :; do gate gate; done' EXIT; }
events() { trap '' INT TERM HUP PIPE; registered; while :; do gate gate; done; }
"#;

/// Connected, and subscribed.
async fn ready(fake: &Fake) -> (Virsh, libvirt_qmp::EventStream) {
    let monitor = fake.monitor();
    soon(monitor.run(STATUS)).await.unwrap();
    let events = soon(monitor.events()).await.unwrap();
    (monitor, events)
}

#[tokio::test]
async fn disconnecting_leaves_nothing() {
    for functions in [
        "",
        "events() { trap '' INT; registered; while :; do gate gate; done; }",
    ] {
        let fake = Fake::new(functions);
        let (monitor, events) = ready(&fake).await;
        soon(monitor.disconnect()).await.unwrap();
        // Already: nobody has to look after them any more.
        for pid in fake.pids() {
            assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
        }
        fake.assert_gone();
        assert!(matches!(monitor.run(STATUS).await, Err(Error::Closed)));
        drop(events);
    }
}

#[tokio::test]
async fn what_does_not_end_by_itself_is_killed() {
    let fake = Fake::new(STUBBORN);
    let (monitor, events) = ready(&fake).await;
    drop(events);
    soon(monitor.disconnect()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn dropping_leaves_nothing() {
    let fake = Fake::new("");
    drop(ready(&fake).await);
    fake.assert_gone();
}

#[tokio::test]
async fn a_command_that_hangs_holds_nothing_up() {
    let fake = Fake::new(STUCK);
    let monitor = std::sync::Arc::new(fake.monitor());
    let call = tokio::spawn({
        let monitor = monitor.clone();
        async move { monitor.run(STATUS).await }
    });
    fake.wait_for_notes("asked", 1).await;
    soon(monitor.disconnect()).await.unwrap();
    let error = soon(call).await.unwrap().unwrap_err();
    assert!(error.is_closed() && error.maybe_executed(), "{error:?}");
    fake.assert_gone();
}

#[test]
fn dropping_outside_of_a_runtime_that_does_nothing_leaves_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let fake = Fake::new("");
    let held = runtime.block_on(ready(&fake));
    drop(held);
    fake.assert_gone();
    drop(runtime);
}

#[test]
fn the_end_of_the_runtime_leaves_nothing() {
    for functions in ["", STUCK] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let fake = Fake::new(functions);
        let (monitor, events) = runtime.block_on(async {
            let monitor = std::sync::Arc::new(fake.monitor());
            let events = soon(monitor.events()).await.unwrap();
            let call = tokio::spawn({
                let monitor = monitor.clone();
                async move { monitor.run(STATUS).await }
            });
            match functions.is_empty() {
                true => drop(soon(call).await.unwrap().unwrap()),
                false => drop(fake.wait_for_notes("asked", 1).await),
            }
            (monitor, events)
        });
        runtime.shutdown_background();
        fake.assert_gone();
        drop((monitor, events));
    }
}

#[tokio::test]
async fn a_panic_of_the_user_leaves_nothing() {
    let fake = std::sync::Arc::new(Fake::new(""));
    let task = tokio::spawn({
        let fake = fake.clone();
        async move {
            let _held = ready(&fake).await;
            std::panic::resume_unwind(Box::new("meant"));
        }
    });
    assert!(task.await.unwrap_err().is_panic());
    fake.assert_gone();
}

#[tokio::test]
async fn giving_up_while_connecting_leaves_it_to_the_next_and_disconnecting_ends_it() {
    let fake = Fake::new(
        "domuuid() { note looking x; gate gate; echo 00000000-0000-0000-0000-000000000011; }",
    );
    let monitor = fake.monitor();
    {
        let mut connecting = monitor.connect();
        tokio::select! {
            _ = &mut connecting => panic!("nobody has answered"),
            _ = fake.wait_for_notes("looking", 1) => {}
        }
    }
    let (connected, ()) = soon(async { tokio::join!(monitor.connect(), fake.open("gate")) }).await;
    connected.unwrap();
    assert_eq!(fake.notes("looking").len(), 1);
    monitor.disconnect().await.unwrap();
    let other = fake.monitor();
    let (connected, ()) = soon(async {
        tokio::join!(other.connect(), async {
            fake.wait_for_notes("looking", 2).await;
            other.disconnect().await.unwrap();
        })
    })
    .await;
    assert!(matches!(connected, Err(Error::Closed)));
    fake.assert_gone();
}

#[tokio::test]
async fn what_virsh_has_started_ends_with_it() {
    let fake = Fake::new(r#"begin() { sleep 1000 & note pids "$!"; disown; }"#);
    let (monitor, _events) = ready(&fake).await;
    // The look-up, the session, its child, the events.
    assert_eq!(fake.pids().len(), 4);
    soon(monitor.disconnect()).await.unwrap();
    // The child's own zombie is for whoever adopts it.
    let states = || {
        fake.pids().into_iter().filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let state = stat.rsplit_once(") ")?.1.chars().next()?;
            (state != 'Z').then_some(pid)
        })
    };
    let gone = crate::support::process::poll_until(crate::support::process::PATIENCE, || {
        states().next().is_none().then_some(())
    });
    assert!(gone.is_some(), "{:?}", states().collect::<Vec<_>>());
}

#[tokio::test]
async fn many_monitors_at_once() {
    let fake = Fake::new("");
    let monitors: Vec<Virsh> = (0..12).map(|_| fake.monitor()).collect();
    let use_each = monitors.iter().map(|monitor| async move {
        let events = monitor.events().await.unwrap();
        monitor.run(STATUS).await.unwrap();
        events
    });
    let streams = soon(join_all(use_each)).await;
    assert_eq!(fake.pids().len(), 36);
    soon(join_all(
        monitors.iter().map(|monitor| monitor.disconnect()),
    ))
    .await;
    drop(streams);
    fake.assert_gone();
}

#[tokio::test]
async fn the_surroundings_are_private_and_plain() {
    let fake = Fake::new(
        r#"note "env" "$(env | grep -E '^(LC_|LANG|TERM|VIRSH_|LIBVIRT_|XDG_CACHE|INPUTRC|HOME|COLUMNS)' | sort | tr '\n' ' ')"
        begin() { note mode "$(stat -c '%a %u' "$XDG_CACHE_HOME") $(id -u)"; note inputrc "$(cat "$INPUTRC")"; }"#,
    );
    let (monitor, _events) = ready(&fake).await;
    let home = std::env::var("HOME").unwrap_or_default();
    let environment = fake.notes("env");
    assert_eq!(environment.len(), 3);
    for line in &environment {
        assert!(
            line.contains(&format!("HOME={home} ")) || home.is_empty(),
            "{line}"
        );
        assert!(
            line.contains("LC_ALL=C ") && line.contains("TERM=dumb "),
            "{line}"
        );
        for unwanted in [
            "LANG=",
            "LANGUAGE=",
            "LIBVIRT_DEBUG=",
            "VIRSH_DEBUG=",
            "COLUMNS=",
        ] {
            assert!(!line.contains(unwanted), "{line}");
        }
    }
    let session = &environment[1];
    for setting in [
        "VIRSH_HISTSIZE=0 ",
        "LIBVIRT_AUTOSTART=0 ",
        "INPUTRC=",
        "XDG_CACHE_HOME=",
    ] {
        assert!(session.contains(setting), "{session}");
        // What others have may be used by a daemon that they start.
        assert!(setting == "XDG_CACHE_HOME=" || !environment[0].contains(setting));
    }
    let mode = fake.notes("mode").remove(0);
    let mode: Vec<&str> = mode.split(' ').collect();
    assert_eq!((mode[0], mode[1]), ("700", mode[2]));
    assert_eq!(fake.notes("inputrc"), ["set disable-completion on"]);
    let dir = fake.notes("cache").remove(1);
    let permissions = fs::metadata(&dir).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o700);
    monitor.disconnect().await.unwrap();
    assert!(!fs::exists(&dir).unwrap());
}
