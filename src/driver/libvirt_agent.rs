//! The guest agent through libvirtd: on a session for any domain, and for the monitor of one.

use bytes::Bytes;

use super::finish_agent;
use super::libvirt_rpc::encode;
use crate::connection::Limits;
use crate::error::Error;
use crate::libvirt::Libvirt;
use crate::monitor::AgentTimeout;
use crate::objects::Domain;

/// # The guest agent
impl Libvirt {
    /// Runs a command of the agent in the guest, a JSON object, and returns its answer: the object with `return` in it.
    /// libvirt waits for the agent as `timeout` says; the call's deadline grows by the seconds in it. It synchronizes with the
    /// agent by itself. Never send `guest-sync-delimited`: libvirt does not understand the byte before the answer, and has
    /// nothing to do with that agent until it connects again.
    ///
    /// `QEMU_PROC_DOMAIN_AGENT_COMMAND`, 3. Since libvirt 0.10.0.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] for what is no command, and one over 4 MiB; nothing was sent then.
    /// [`Error::is_agent_unresponsive`] where no agent answers, [`Error::Libvirt`] with
    /// [`AGENT_COMMAND_FAILED`](crate::LibvirtError::AGENT_COMMAND_FAILED) where it answers with an error, or
    /// [`Error::Qmp`] where libvirt hands that on. The rest as with the other methods.
    ///
    /// # Cancel safety
    ///
    /// As with the other methods: a command that was sent runs on, and its answer is discarded.
    pub async fn domain_agent_command(
        &self,
        dom: &Domain,
        cmd: &str,
        timeout: AgentTimeout,
    ) -> Result<String, Error> {
        let answer = run_agent(self, dom, cmd.as_bytes(), timeout, Limits::Connection).await?;
        String::from_utf8(answer.into()).map_err(|error| Error::json("reply", error))
    }
}

/// Runs one command of the agent of `domain`, behind `limits`.
pub(super) async fn run_agent(
    libvirt: &Libvirt,
    domain: &Domain,
    text: &[u8],
    timeout: AgentTimeout,
    limits: Limits<'_>,
) -> Result<Bytes, Error> {
    let (mut call, user_id) = encode(text, |text| {
        Libvirt::encode_agent_command(domain, text, timeout.to_wire())
    })?;
    let deadline = libvirt
        .call_timeout()
        .map(|limit| limit.saturating_add(timeout.allowance()));
    let reply = libvirt
        .run_agent_command(&mut call, limits, deadline)
        .await?;
    finish_agent(reply, user_id, text)
}
