//! The hot part of the protocol without copies: commands and events of QEMU's monitor, and commands of the guest agent.
//!
//! The generated types own their texts. These borrow what is sent, and give what came as slices of the packet; the tests
//! hold them to say the same as the generated ones. May import objects, protocol and xdr.

use bytes::Bytes;
use bytestring::ByteString;
use uuid::Uuid;
use xdr_codec::{Pack, Result, Unpack};

use crate::objects::Domain;
use crate::protocol::remote::STRING_MAX;
use crate::xdr::{Reader, Writer};

/// `VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT`: the command is QMP.
const MONITOR_COMMAND_QMP: u32 = 0;

/// `virDomainQemuAgentCommand` knows no flags.
const AGENT_COMMAND_FLAGS: u32 = 0;

const MAX: usize = STRING_MAX as usize;

/// The fields of `qemu_domain_monitor_command_args`, borrowed: a command is copied once, into its packet.
pub(super) struct MonitorCommand<'a> {
    pub(super) domain: &'a Domain,
    pub(super) command: &'a str,
}

impl Pack<Writer> for MonitorCommand<'_> {
    fn pack(&self, out: &mut Writer) -> Result<usize> {
        Ok(self.domain.pack(out)?
            + out.string(self.command, MAX)?
            + MONITOR_COMMAND_QMP.pack(out)?)
    }
}

/// The fields of `qemu_domain_agent_command_args`, borrowed.
pub(super) struct AgentCommand<'a> {
    pub(super) domain: &'a Domain,
    pub(super) command: &'a str,
    pub(super) timeout: i32,
}

impl Pack<Writer> for AgentCommand<'_> {
    fn pack(&self, out: &mut Writer) -> Result<usize> {
        Ok(self.domain.pack(out)?
            + out.string(self.command, MAX)?
            + self.timeout.pack(out)?
            + AGENT_COMMAND_FLAGS.pack(out)?)
    }
}

/// `qemu_domain_monitor_command_ret`, and the one `…_with_files`: a slice of the packet, checked to be UTF-8.
pub(super) struct MonitorReply(pub(super) Bytes);

impl Unpack<Reader> for MonitorReply {
    fn unpack(r: &mut Reader) -> Result<(Self, usize)> {
        let (text, size) = r.field("qemu_domain_monitor_command_ret", "result", |r| {
            r.string(MAX)
        })?;
        Ok((MonitorReply(text.into_bytes()), size))
    }
}

/// `qemu_domain_agent_command_ret`.
pub(super) struct AgentReply(pub(super) Option<Bytes>);

impl Unpack<Reader> for AgentReply {
    fn unpack(r: &mut Reader) -> Result<(Self, usize)> {
        let (text, size) = r.field("qemu_domain_agent_command_ret", "result", optional)?;
        Ok((AgentReply(text.map(ByteString::into_bytes)), size))
    }
}

/// `qemu_domain_monitor_event_msg` without the number of its registration.
pub(super) struct MonitorEvent {
    pub(super) domain_name: ByteString,
    pub(super) domain_uuid: Uuid,
    pub(super) domain_id: i32,
    pub(super) event: ByteString,
    pub(super) seconds: i64,
    pub(super) micros: u32,
    pub(super) details: Option<ByteString>,
}

impl Unpack<Reader> for MonitorEvent {
    fn unpack(r: &mut Reader) -> Result<(Self, usize)> {
        const TYPE: &str = "qemu_domain_monitor_event_msg";
        let before = r.remaining();
        r.field(TYPE, "callbackID", i32::unpack)?;
        let (domain_name, domain_uuid, domain_id) = r.field(TYPE, "dom", domain)?;
        let (event, _) = r.field(TYPE, "event", |r| r.string(MAX))?;
        let (seconds, _) = r.field(TYPE, "seconds", i64::unpack)?;
        let (micros, _) = r.field(TYPE, "micros", u32::unpack)?;
        let (details, _) = r.field(TYPE, "details", optional)?;
        let event = MonitorEvent {
            domain_name,
            domain_uuid,
            domain_id,
            event,
            seconds,
            micros,
            details,
        };
        Ok((event, before - r.remaining()))
    }
}

fn domain(r: &mut Reader) -> Result<(ByteString, Uuid, i32)> {
    const TYPE: &str = "remote_nonnull_domain";
    let (name, _) = r.field(TYPE, "name", |r| r.string(MAX))?;
    let (uuid, _) = r.field(TYPE, "uuid", Uuid::unpack)?;
    let (id, _) = r.field(TYPE, "id", i32::unpack)?;
    Ok((name, uuid, id))
}

fn optional(r: &mut Reader) -> Result<(Option<ByteString>, usize)> {
    match r.present()? {
        (false, word) => Ok((None, word)),
        (true, word) => r.string(MAX).map(|(text, size)| (Some(text), word + size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::qemu::{
        DomainAgentCommandArgs, DomainAgentCommandRet, DomainMonitorCommandArgs,
        DomainMonitorCommandRet, DomainMonitorEventMsg,
    };
    use crate::xdr;

    const COMMAND: &str = r#"{"execute":"query-status"}"#;

    fn a_domain() -> Domain {
        Domain {
            name: "stage-lb-1".into(),
            uuid: Uuid::from_bytes([7; 16]),
            id: Some(3),
        }
    }

    fn encoded(value: &impl Pack<Writer>) -> Vec<u8> {
        let mut bytes = Vec::new();
        xdr::encode(value, &mut bytes).unwrap();
        bytes
    }

    /// What two types make of every prefix of a packet: a value or none, and of the first the error too.
    fn fail_alike<A: Unpack<Reader>, B: Unpack<Reader>>(bytes: &[u8]) {
        for end in 0..bytes.len() {
            let cut = Bytes::copy_from_slice(&bytes[..end]);
            let one = xdr::decode::<A>(cut.clone()).err().map(|e| e.to_string());
            let other = xdr::decode::<B>(cut).err().map(|e| e.to_string());
            assert_eq!(one, other, "{end} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn a_borrowed_command_is_encoded_as_the_generated_type_is() {
        let domain = a_domain();
        let args = DomainMonitorCommandArgs {
            dom: domain.clone(),
            cmd: COMMAND.into(),
            flags: Default::default(),
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
            flags: Default::default(),
        };
        let view = AgentCommand {
            domain: &domain,
            command: COMMAND,
            timeout: -2,
        };
        assert_eq!(encoded(&view), encoded(&args));
    }

    #[test]
    fn a_reply_is_read_as_the_generated_type_is() {
        let ret = DomainMonitorCommandRet {
            result: r#"{"return":{}}"#.into(),
        };
        let bytes = encoded(&ret);
        let view: MonitorReply = xdr::decode(bytes.clone().into()).unwrap();
        assert_eq!(view.0, ret.result);
        fail_alike::<MonitorReply, DomainMonitorCommandRet>(&bytes);
        for result in [None, Some("{}".to_owned())] {
            let ret = DomainAgentCommandRet { result };
            let bytes = encoded(&ret);
            let view: AgentReply = xdr::decode(bytes.clone().into()).unwrap();
            assert_eq!(view.0.as_deref(), ret.result.as_deref().map(str::as_bytes));
            fail_alike::<AgentReply, DomainAgentCommandRet>(&bytes);
        }
    }

    #[test]
    fn an_event_is_read_as_the_generated_type_is() {
        for (id, details) in [(Some(3), Some("{}".to_owned())), (None, None)] {
            let body = DomainMonitorEventMsg {
                callback_id: 5,
                dom: Domain { id, ..a_domain() },
                event: "STOP".into(),
                seconds: -1,
                micros: u32::MAX,
                details,
            };
            let bytes = encoded(&body);
            let view: MonitorEvent = xdr::decode(bytes.clone().into()).unwrap();
            assert_eq!(*view.domain_name, *body.dom.name);
            assert_eq!(view.domain_uuid, body.dom.uuid);
            assert_eq!(view.domain_id, body.dom.id.unwrap_or(-1));
            assert_eq!(*view.event, *body.event);
            assert_eq!((view.seconds, view.micros), (body.seconds, body.micros));
            assert_eq!(view.details.as_deref(), body.details.as_deref());
            fail_alike::<MonitorEvent, DomainMonitorEventMsg>(&bytes);
        }
    }
}
