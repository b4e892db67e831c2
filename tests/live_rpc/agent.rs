//! The guest agent through libvirtd. No guest of the lab runs one, so what can be seen is how libvirt says so.

use std::time::{Duration, Instant};

use libvirt_qmp::{AgentTimeout, LibvirtError, Monitor};

use super::open;
use super::support::lab::{Lab, uuid_of};

const PING: &[u8] = br#"{"execute":"guest-ping","id":1}"#;

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_guest_without_an_agent_and_one_whose_agent_does_not_run() {
    let lab = Lab::start();
    lab.guest("without");
    let socket = lab.dir().join("agent");
    let channel = format!(
        "<channel type='unix'><source mode='bind' path='{}'/>\
         <target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
        socket.display()
    );
    lab.guest_with("silent", uuid_of("silent"), &channel);
    let libvirt = open(&lab).await;
    let without = libvirt.monitor("without");
    let silent = libvirt.monitor("silent");
    for timeout in [
        AgentTimeout::Block,
        AgentTimeout::Default,
        AgentTimeout::NoWait,
        AgentTimeout::Seconds(1),
    ] {
        let started = Instant::now();
        let error = without.agent(PING, timeout).await.unwrap_err();
        assert_eq!(
            error.libvirt_code(),
            Some(LibvirtError::ARGUMENT_UNSUPPORTED),
            "{error}"
        );
        assert!(!error.is_agent_unresponsive() && !error.maybe_executed());
        let error = silent.agent(PING, timeout).await.unwrap_err();
        assert_eq!(
            error.libvirt_code(),
            Some(LibvirtError::AGENT_UNRESPONSIVE),
            "{error}"
        );
        assert!(error.is_agent_unresponsive());
        // libvirt knows that nobody is at the other end, and waits for nobody.
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    // The monitor of such a guest works.
    silent.run(br#"{"execute":"query-status"}"#).await.unwrap();
    lab.destroy("silent");
    let error = silent.agent(PING, AgentTimeout::Default).await.unwrap_err();
    assert!(error.is_not_running(), "{error}");
}
