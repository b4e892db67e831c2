//! The commands that a stand-in for libvirtd brings to a domain: to its QEMU, and to its guest agent. Imports protocol, error,
//! qmp, `daemon`, `machine`, `request`, `rpc_session` and `procedures`.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::daemon::{FROM_NONE, FROM_QEMU, Failure, failure};
use super::machine::Machine;
use super::procedures::{
    Answer, Answered, INVALID_ARG, check_flags, check_writable, internal, reply,
};
use super::reply::{Outcome, Told};
use super::request::{Request, error, reply_text};
use super::rpc_session::{Session, encode};
use crate::error::LibvirtError;
use crate::protocol::qemu::procedure::DomainAgentCommand;
use crate::protocol::qemu::{
    DomainAgentCommandArgs, DomainAgentCommandRet, DomainMonitorCommandArgs,
    DomainMonitorCommandRet,
};
use crate::qmp::{ErrorClass, from_json};

/// `VIR_ERR_ARGUMENT_UNSUPPORTED`.
const ARGUMENT_UNSUPPORTED: i32 = 74;
/// `VIR_ERR_AGENT_UNRESPONSIVE`.
const AGENT_UNRESPONSIVE: i32 = 86;
/// `ECONNRESET` of Linux.
const CONNECTION_RESET: i32 = 104;
/// `VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP`.
const COMMAND_HMP: u32 = 1;
/// How long libvirt waits for the guest agent unless told otherwise.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Brings a command to a domain's QEMU.
pub(super) async fn monitor_command(
    session: &Session,
    args: DomainMonitorCommandArgs,
    mut files: Vec<OwnedFd>,
) -> Answered {
    check_writable(session, "virDomainQemuMonitorCommand")?;
    check_flags(
        args.flags,
        COMMAND_HMP,
        "qemuDomainQemuMonitorCommandWithFiles",
    )?;
    if files.len() > 1 {
        let text = "invalid argument: at most 1 fd can be passed to QEMU";
        return Err(failure(FROM_NONE, INVALID_ARG, text));
    }
    let (machine, id) = ready_domain(session, args.dom.uuid, true)?;
    let human = args.flags & COMMAND_HMP != 0;
    let outcome = match parse(&args.cmd, human)? {
        Err(refused) => refused,
        Ok(request) => {
            let (name, command) = (request.name.clone(), request.command.clone());
            machine.script.record(name, command);
            let place = Mutex::new(files.pop());
            let done = tokio::select! {
                biased;
                done = machine.execute(&request, &place) => done,
                () = machine.wait_for_end() => return Err(gone()),
            };
            if done.ends {
                machine.finish(done.after, true);
                return Err(gone());
            }
            return result(done.outcome, &id, human, machine, done.after);
        }
    };
    result(outcome, &id, human, machine, Vec::new())
}

/// A command as libvirt passes it on: what QEMU says to one that is none, where it is that far.
fn parse(text: &str, human: bool) -> Result<Result<Request, Outcome>, Failure> {
    let built;
    let text = if human {
        let arguments = json!({ "command-line": text });
        built = json!({"execute": "human-monitor-command", "arguments": arguments}).to_string();
        &built
    } else {
        text
    };
    match from_json::<Value>(text.as_bytes()) {
        Ok(Value::Object(members)) if members.contains_key("id") => {
            Err(internal(FROM_QEMU, "Unable to append command 'id' string"))
        }
        Ok(Value::Object(_)) => Ok(match Request::parse(text.as_bytes(), false) {
            // libvirt has negotiated long ago.
            Ok(request) if request.name == "qmp_capabilities" => Err(error(
                ErrorClass::CommandNotFound,
                "Capabilities negotiation is already complete, command ignored",
            )),
            Ok(request) => Ok(request),
            Err(refusal) => Err(refusal.outcome()),
        }),
        _ => Err(internal(FROM_NONE, "cannot parse json: not an object")),
    }
}

/// What libvirt makes of what QEMU said.
fn result(
    outcome: Outcome,
    id: &str,
    human: bool,
    machine: Arc<Machine>,
    after: Vec<Told>,
) -> Answered {
    let id = Value::from(id);
    let text = match outcome {
        Outcome::Value(Value::String(text)) if human => text,
        Outcome::Error { desc, .. } if human => {
            let text = format!("unable to execute QEMU command 'human-monitor-command': {desc}");
            return Err(internal(FROM_QEMU, &text));
        }
        Outcome::Never => return Ok(Answer::Never),
        Outcome::Close => return Err(gone()),
        Outcome::Raw(bytes) => String::from_utf8(bytes.into())
            .map_err(|_| internal(FROM_QEMU, "cannot parse json: not UTF-8"))?,
        outcome => reply_text(&outcome, Some(&id), "").unwrap_or_default(),
    };
    let payload = encode(&DomainMonitorCommandRet { result: text })?;
    Ok(Answer::Command {
        payload,
        machine,
        after,
    })
}

/// Brings a command to a domain's guest agent.
pub(super) async fn agent_command(session: &Session, args: DomainAgentCommandArgs) -> Answered {
    check_writable(session, "virDomainQemuAgentCommand")?;
    check_flags(args.flags, 0, "qemuDomainQemuAgentCommand")?;
    let (machine, _) = ready_domain(session, args.dom.uuid, false)?;
    if machine.agent.is_empty() {
        let text = "argument unsupported: QEMU guest agent is not configured";
        return Err(failure(FROM_QEMU, ARGUMENT_UNSUPPORTED, text));
    }
    if !machine.state().agent_connected {
        return Err(agent_silent("QEMU guest agent is not connected"));
    }
    let request = match parse(&args.cmd, false)? {
        Ok(request) => request,
        Err(_) => return Err(internal(FROM_QEMU, "no command of the guest agent")),
    };
    let name = request.name.clone();
    machine.agent.record(name.clone(), request.command.clone());
    let answered = async {
        match machine.execute_agent(&request).await {
            Outcome::Never => std::future::pending().await,
            outcome => outcome,
        }
    };
    let limit = agent_timeout(args.timeout)?;
    let outcome = match limit {
        None => answered.await,
        Some(limit) => match tokio::time::timeout(limit, answered).await {
            Ok(outcome) => outcome,
            Err(_) => return Err(agent_silent("Guest agent not available for now")),
        },
    };
    match outcome {
        Outcome::Error { desc, .. } => {
            let text = format!("unable to execute QEMU agent command '{name}': {desc}");
            Err(internal(FROM_QEMU, &text))
        }
        Outcome::Close => Err(agent_silent("QEMU guest agent disconnected")),
        outcome => {
            let result = reply_text(&outcome, None, "");
            reply::<DomainAgentCommand>(&DomainAgentCommandRet { result })
        }
    }
}

/// How long libvirt waits for the agent: `None` is for ever.
fn agent_timeout(seconds: i32) -> Result<Option<Duration>, Failure> {
    match seconds {
        -2 => Ok(None),
        -1 => Ok(Some(AGENT_TIMEOUT)),
        _ => match u64::try_from(seconds) {
            Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
            Err(_) => {
                let text = "invalid argument: guest agent timeout is less than the minimum '-2'";
                Err(failure(FROM_QEMU, INVALID_ARG, text))
            }
        },
    }
}

/// The machine of a domain that can take a command, and the id that libvirt gives it.
fn ready_domain(
    session: &Session,
    uuid: Uuid,
    monitor: bool,
) -> Result<(Arc<Machine>, String), Failure> {
    let mut state = session.daemon.state();
    let domain = state.by_uuid(uuid)?;
    if !domain.is_running() {
        let text = "Requested operation is not valid: domain is not running";
        return Err(failure(FROM_QEMU, LibvirtError::OPERATION_INVALID, text));
    }
    if domain.busy && monitor {
        let text = "Timed out during operation: cannot acquire state change lock \
                    (held by monitor=remoteDispatchDomainSuspend)";
        return Err(failure(FROM_QEMU, LibvirtError::OPERATION_TIMEOUT, text));
    }
    let id = if monitor {
        domain.new_command()
    } else {
        String::new()
    };
    Ok((domain.machine().clone(), id))
}

fn agent_silent(detail: &str) -> Failure {
    let text = format!("Guest agent is not responding: {detail}");
    failure(FROM_QEMU, AGENT_UNRESPONSIVE, text)
}

/// QEMU ended while libvirt waited for it.
fn gone() -> Failure {
    let text = "Unable to read from monitor: Connection reset by peer";
    let mut error = failure(FROM_QEMU, LibvirtError::SYSTEM_ERROR, text);
    error.int1 = CONNECTION_RESET;
    error
}
