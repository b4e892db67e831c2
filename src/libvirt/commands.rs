//! Commands of QEMU's monitor, with and without file descriptors, and of the guest agent
//! (`QEMU_PROC_DOMAIN_MONITOR_COMMAND`, `…_WITH_FILES`, `QEMU_PROC_DOMAIN_AGENT_COMMAND`).
//! A command is encoded first, so that what does not fit is refused before anything waits.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::Libvirt;
use super::views::{AgentCommand, AgentReply, MonitorCommand, MonitorReply};
use crate::connection::{CallOptions, Encoded, Limits, deadline};
use crate::error::{Error, Phase};
use crate::objects::Domain;
use crate::protocol::Procedure;
use crate::protocol::qemu::procedure::{
    DomainAgentCommand, DomainMonitorCommand, DomainMonitorCommandWithFiles,
};
use crate::rpc;

impl Libvirt {
    /// Encodes one QMP command of `domain`, for `run_monitor_command`.
    pub(crate) fn encode_monitor_command(domain: &Domain, command: &str) -> Result<Encoded, Error> {
        rpc::encode::<DomainMonitorCommand>(&MonitorCommand { domain, command })
    }

    /// As `encode_monitor_command`, with file descriptors.
    pub(crate) fn encode_monitor_command_with_files(
        domain: &Domain,
        command: &str,
        files: Vec<OwnedFd>,
    ) -> Result<Encoded, Error> {
        let args = MonitorCommand { domain, command };
        rpc::encode_with_files::<DomainMonitorCommandWithFiles>(&args, files)
    }

    /// Runs an encoded QMP command and returns libvirt's answer. `turn` lets one command of a monitor run at a time.
    pub(crate) async fn run_monitor_command(
        &self,
        command: Encoded,
        turn: &Arc<Semaphore>,
        timeout: Option<Duration>,
    ) -> Result<Bytes, Error> {
        let name = match command.files {
            Some(_) => DomainMonitorCommandWithFiles::NAME,
            None => DomainMonitorCommand::NAME,
        };
        let options = CallOptions {
            phase: Phase::Reply,
            deadline: deadline(timeout),
            limits: Limits::Monitor(turn),
        };
        let MonitorReply(result) = self.client.send_for(command, name, &options).await?;
        Ok(result)
    }

    /// Encodes one command of the guest agent of `domain`, for `run_agent_command`. libvirt waits for it as `timeout` says.
    pub(crate) fn encode_agent_command(
        domain: &Domain,
        command: &str,
        timeout: i32,
    ) -> Result<Encoded, Error> {
        rpc::encode::<DomainAgentCommand>(&AgentCommand {
            domain,
            command,
            timeout,
        })
    }

    /// Runs an encoded command of the guest agent and returns its answer. Of those behind one turn in `limits`, one runs at
    /// a time.
    pub(crate) async fn run_agent_command(
        &self,
        command: Encoded,
        limits: Limits<'_>,
        timeout: Option<Duration>,
    ) -> Result<Bytes, Error> {
        let options = CallOptions {
            phase: Phase::Reply,
            deadline: deadline(timeout),
            limits,
        };
        let AgentReply(result) = self
            .client
            .send_for(command, DomainAgentCommand::NAME, &options)
            .await?;
        match result {
            Some(result) => Ok(result),
            None => Err(Error::json(DomainAgentCommand::NAME, "no answer in it")),
        }
    }

    /// How long a call may take where it does not say.
    pub(crate) fn call_timeout(&self) -> Option<Duration> {
        self.config.call_timeout
    }
}
