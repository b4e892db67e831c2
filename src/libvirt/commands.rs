//! Commands of QEMU's monitor, with and without file descriptors, and of the guest agent
//! (`QEMU_PROC_DOMAIN_MONITOR_COMMAND`, `…_WITH_FILES`, `QEMU_PROC_DOMAIN_AGENT_COMMAND`).
//! A command is encoded first, so that what does not fit is refused before anything waits.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use xdr_codec::Pack;

use super::Libvirt;
use crate::connection::{CallOptions, Encoded, Limits, deadline};
use crate::error::{Error, Phase};
use crate::protocol::Procedure;
use crate::protocol::qemu::procedure::{
    DomainAgentCommand, DomainMonitorCommand, DomainMonitorCommandWithFiles,
};
use crate::protocol::remote::{NonnullDomain, STRING_MAX};
use crate::rpc;
use crate::xdr::Writer;

/// `VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT`: the command is QMP.
const MONITOR_COMMAND_QMP: u32 = 0;

/// `virDomainQemuAgentCommand` knows no flags.
const AGENT_COMMAND_FLAGS: u32 = 0;

impl Libvirt {
    /// Encodes one QMP command of `domain`, for `run_monitor_command`.
    pub(crate) fn encode_monitor_command(
        domain: &NonnullDomain,
        command: &str,
    ) -> Result<Encoded, Error> {
        rpc::encode::<DomainMonitorCommand>(&MonitorCommand { domain, command })
    }

    /// Runs an encoded QMP command and returns libvirt's answer. `turn` lets one command of a monitor run at a time.
    pub(crate) async fn run_monitor_command(
        &self,
        command: Encoded,
        turn: &Arc<Semaphore>,
        timeout: Option<Duration>,
    ) -> Result<Bytes, Error> {
        let options = in_turn(turn, timeout);
        let reply = self
            .client
            .send::<DomainMonitorCommand>(command, &options)
            .await?;
        Ok(reply.result.into_bytes())
    }

    /// As `encode_monitor_command`, with file descriptors, for `run_monitor_command_with_files`.
    pub(crate) fn encode_monitor_command_with_files(
        domain: &NonnullDomain,
        command: &str,
        files: Vec<OwnedFd>,
    ) -> Result<Encoded, Error> {
        let args = MonitorCommand { domain, command };
        rpc::encode_with_files::<DomainMonitorCommandWithFiles>(&args, files)
    }

    /// As `run_monitor_command`, for a command that was encoded with file descriptors.
    pub(crate) async fn run_monitor_command_with_files(
        &self,
        command: Encoded,
        turn: &Arc<Semaphore>,
        timeout: Option<Duration>,
    ) -> Result<Bytes, Error> {
        let options = in_turn(turn, timeout);
        let reply = self
            .client
            .send::<DomainMonitorCommandWithFiles>(command, &options)
            .await?;
        Ok(reply.result.into_bytes())
    }

    /// Encodes one command of the guest agent of `domain`, for `run_agent_command`. libvirt waits for it as `timeout` says.
    pub(crate) fn encode_agent_command(
        domain: &NonnullDomain,
        command: &str,
        timeout: i32,
    ) -> Result<Encoded, Error> {
        rpc::encode::<DomainAgentCommand>(&AgentCommand {
            domain,
            command,
            timeout,
        })
    }

    /// Runs an encoded command of the guest agent and returns its answer. `turn` lets one of them run at a time.
    pub(crate) async fn run_agent_command(
        &self,
        command: Encoded,
        turn: &Arc<Semaphore>,
        timeout: Option<Duration>,
    ) -> Result<Bytes, Error> {
        let options = in_turn(turn, timeout);
        let reply = self
            .client
            .send::<DomainAgentCommand>(command, &options)
            .await?;
        match reply.result {
            Some(result) => Ok(result.into_bytes()),
            None => Err(Error::json(DomainAgentCommand::NAME, "no answer in it")),
        }
    }

    /// How long a call may take where it does not say.
    pub(crate) fn call_timeout(&self) -> Option<Duration> {
        self.config.call_timeout
    }
}

fn in_turn(turn: &Arc<Semaphore>, timeout: Option<Duration>) -> CallOptions<'_> {
    CallOptions {
        phase: Phase::Reply,
        deadline: deadline(timeout),
        limits: Limits::Monitor(turn),
    }
}

/// The fields of `qemu_domain_monitor_command_args`, borrowed: a command is copied once, into its packet.
struct MonitorCommand<'a> {
    domain: &'a NonnullDomain,
    command: &'a str,
}

impl Pack<Writer> for MonitorCommand<'_> {
    fn pack(&self, out: &mut Writer) -> xdr_codec::Result<usize> {
        Ok(self.domain.pack(out)?
            + out.string(self.command, STRING_MAX as usize)?
            + MONITOR_COMMAND_QMP.pack(out)?)
    }
}

/// The fields of `qemu_domain_agent_command_args`, borrowed.
struct AgentCommand<'a> {
    domain: &'a NonnullDomain,
    command: &'a str,
    timeout: i32,
}

impl Pack<Writer> for AgentCommand<'_> {
    fn pack(&self, out: &mut Writer) -> xdr_codec::Result<usize> {
        Ok(self.domain.pack(out)?
            + out.string(self.command, STRING_MAX as usize)?
            + self.timeout.pack(out)?
            + AGENT_COMMAND_FLAGS.pack(out)?)
    }
}

#[cfg(test)]
mod tests {
    use bytestring::ByteString;

    use super::*;
    use crate::protocol::qemu::{DomainAgentCommandArgs, DomainMonitorCommandArgs};
    use crate::xdr;

    const COMMAND: &str = r#"{"execute":"query-status"}"#;

    fn domain() -> NonnullDomain {
        NonnullDomain {
            name: ByteString::from_static("stage-lb-1"),
            uuid: [7; 16],
            id: 3,
        }
    }

    fn encoded(value: &impl Pack<Writer>) -> Vec<u8> {
        let mut bytes = Vec::new();
        xdr::encode(value, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_borrowed_command_is_encoded_as_the_generated_type_is() {
        let domain = domain();
        let args = DomainMonitorCommandArgs {
            dom: domain.clone(),
            cmd: COMMAND.into(),
            flags: MONITOR_COMMAND_QMP,
        };
        let view = MonitorCommand {
            domain: &domain,
            command: COMMAND,
        };
        assert_eq!(encoded(&view), encoded(&args));
        let args = DomainAgentCommandArgs {
            dom: domain.clone(),
            cmd: COMMAND.into(),
            timeout: -2,
            flags: 0,
        };
        let view = AgentCommand {
            domain: &domain,
            command: COMMAND,
            timeout: -2,
        };
        assert_eq!(encoded(&view), encoded(&args));
    }
}
