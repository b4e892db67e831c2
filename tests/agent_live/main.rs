//! The guest agent through a real libvirtd, in a real guest: its commands by every way that goes through libvirt, what comes
//! where it does not answer, and the procedures of libvirt that ask it. virsh is the witness.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod ends;
mod procedures;
mod silence;

use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::events::{DomainEvent, DomainEventFilter, DomainEvents};
use libvirt_qmp::protocol::constants::{
    ConnectDomainEventAgentLifecycleReason as Reason,
    ConnectDomainEventAgentLifecycleState as State, DomainEventId,
};
use libvirt_qmp::{AgentTimeout, Config, Domain, Error, Libvirt};
use support::lab::Lab;
use support::linux_guest::LinuxGuest;
use support::process::PATIENCE;
use tokio::net::UnixStream;

const GUEST: &str = "tiny";

const PING: &str = r#"{"execute":"guest-ping"}"#;

/// How long a guest may take to start its agent. It does so in three seconds on an idle machine.
const BOOT: Duration = Duration::from_secs(120);

/// How long the agent may take to answer, in libvirt's hands: more than it takes on a loaded machine.
const AGENT: AgentTimeout = AgentTimeout::Seconds(AGENT_SECONDS);
const AGENT_SECONDS: u32 = 60;

/// A guest whose agent libvirt talks to.
struct Booted {
    // Before the lab: what it said is in the lab's directory.
    guest: LinuxGuest,
    lab: Lab,
    libvirt: Libvirt,
    domain: Domain,
    /// What happens to the domain and its agent from now on.
    events: DomainEvents,
}

impl Booted {
    /// Starts a guest and waits until libvirt says that its agent is there.
    async fn new() -> Booted {
        let lab = Lab::start();
        let libvirt = open(&lab).await;
        let ids = [
            DomainEventId::LIFECYCLE,
            DomainEventId::REBOOT,
            DomainEventId::AGENT_LIFECYCLE,
        ];
        let filter = DomainEventFilter::all().only(ids);
        let events = libvirt.domain_events(filter).await.unwrap();
        let guest = LinuxGuest::start(&lab, GUEST);
        let domain = libvirt.domain_lookup_by_name(GUEST).await.unwrap();
        let mut booted = Booted {
            guest,
            lab,
            libvirt,
            domain,
            events,
        };
        let started = booted.agent_event(PATIENCE).await;
        assert_eq!(started, (State::DISCONNECTED, Reason::DOMAIN_STARTED));
        let opened = booted.agent_event(BOOT).await;
        assert_eq!(opened, (State::CONNECTED, Reason::CHANNEL));
        booted.default_timeout(AGENT_SECONDS).await;
        booted
    }

    /// Sets what [`AgentTimeout::Default`] is for this domain, and how long libvirt synchronizes with its agent.
    async fn default_timeout(&self, seconds: u32) {
        let seconds = seconds.try_into().unwrap();
        let set = self
            .libvirt
            .domain_agent_set_response_timeout(&self.domain, seconds);
        set.await.unwrap();
    }

    /// The next event of the domain.
    async fn event(&mut self, patience: Duration) -> DomainEvent {
        let next = tokio::time::timeout(patience, self.events.next()).await;
        let event = next.expect("libvirt says something").unwrap().unwrap();
        assert_eq!(event.domain().unwrap().uuid, self.guest.guest.uuid);
        event
    }

    /// The next event of the agent. Those of the domain are passed over.
    async fn agent_event(&mut self, patience: Duration) -> (State, Reason) {
        loop {
            if let DomainEvent::AgentLifecycle { state, reason, .. } = self.event(patience).await {
                return (state, reason);
            }
        }
    }

    /// Runs a command of the agent on the session.
    async fn ask(&self, command: &str, timeout: AgentTimeout) -> Result<String, Error> {
        let asked = self
            .libvirt
            .domain_agent_command(&self.domain, command, timeout);
        asked.await
    }

    /// Asserts that the agent answers.
    async fn expect_answer(&self) {
        let answer = self.ask(PING, AGENT).await.unwrap();
        assert_eq!(answer, r#"{"return":{}}"#);
    }
}

async fn open(lab: &Lab) -> Libvirt {
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    Libvirt::open(conn, Config::new().uri(lab.uri()))
        .await
        .unwrap()
}

/// What comes of [`PING`] where libvirt does not wait: mostly that the agent does not answer, but it may have by the time that
/// libvirt looks.
fn may_be_silent(answer: Result<impl AsRef<[u8]>, Error>) {
    match answer {
        Ok(answer) => assert_eq!(answer.as_ref(), br#"{"return":{}}"#),
        Err(error) => assert!(
            error.is_agent_unresponsive() && error.maybe_executed(),
            "{error:?}"
        ),
    }
}
