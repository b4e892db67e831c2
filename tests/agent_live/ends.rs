//! The agent ends its guest, and starts it anew, as libvirt has it do.

use libvirt_qmp::events::DomainLifecycle;
use libvirt_qmp::protocol::constants::{
    DomainEventShutdownDetailType, DomainEventStoppedDetailType, DomainRebootFlagValues,
    DomainShutdownFlagValues,
};

use super::*;

/// The agent says nothing to its guest's end, and libvirt waits for QEMU's word. On a busy machine it may notice first that the
/// agent has gone with the guest, and says so, of a call that has done what it was to do.
fn is_begun(called: Result<(), Error>) {
    if let Err(error) = called {
        assert!(error.maybe_executed(), "{error:?}");
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_agent_reboots_its_guest_and_then_shuts_it_down() {
    let mut booted = Booted::new().await;
    let boot_id = |booted: &Booted| booted.guest.shell("cat /proc/sys/kernel/random/boot_id");
    let first = boot_id(&booted);
    let flags = DomainRebootFlagValues::GUEST_AGENT;
    is_begun(booted.libvirt.domain_reboot(&booted.domain, flags).await);
    let (mut gone, mut rebooted) = (0, false);
    loop {
        match booted.event(BOOT).await {
            DomainEvent::AgentLifecycle {
                state: State::DISCONNECTED,
                ..
            } => gone += 1,
            // The firmware resets the machine once more.
            DomainEvent::Reboot { .. } => rebooted = true,
            DomainEvent::AgentLifecycle {
                state: State::CONNECTED,
                ..
            } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((gone, rebooted), (1, true));
    booted.expect_answer().await;
    assert_ne!(boot_id(&booted), first);

    let flags = DomainShutdownFlagValues::GUEST_AGENT;
    let ended = booted.libvirt.domain_shutdown_flags(&booted.domain, flags);
    is_begun(ended.await);
    let mut changes = Vec::new();
    while changes.len() < 2 {
        if let DomainEvent::Lifecycle { change, .. } = booted.event(PATIENCE).await {
            changes.push(change);
        }
    }
    assert_eq!(
        changes,
        [
            DomainLifecycle::Shutdown(DomainEventShutdownDetailType::GUEST),
            DomainLifecycle::Stopped(DomainEventStoppedDetailType::SHUTDOWN),
        ]
    );
    assert_eq!(booted.lab.virsh(&["domstate", GUEST]), "shut off");
    let error = booted.ask(PING, AgentTimeout::Block).await.unwrap_err();
    assert!(error.is_not_running(), "{error:?}");
}
