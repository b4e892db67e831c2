//! What a stand-in for libvirtd answers to each procedure. Imports protocol, xdr, error, `daemon`, `commands` and
//! `rpc_session`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use xdr_codec::Unpack;

use super::commands::{agent_command, monitor_command};
use super::daemon::{FROM_NONE, FROM_QEMU, FROM_RPC, Failure, FakeDomain, failure, is};
use super::machine::Machine;
use super::reply::Told;
use super::rpc_session::{Names, Registration, Session, encode};
use crate::error::LibvirtError;
use crate::objects::Domain;
use crate::packet::Header;
use crate::protocol::constants::{
    ConnectDomainQemuMonitorEventRegisterFlags as RegisterFlags, DomainState, DrvFeature,
};
use crate::protocol::qemu::procedure::{
    ConnectDomainMonitorEventDeregister, ConnectDomainMonitorEventRegister, DomainAgentCommand,
    DomainAttach, DomainMonitorCommand, DomainMonitorCommandWithFiles,
};
use crate::protocol::qemu::{
    ConnectDomainMonitorEventRegisterArgs, ConnectDomainMonitorEventRegisterRet,
    DomainMonitorCommandArgs,
};
use crate::protocol::remote::procedure::{
    AuthList, AuthPolkit, AuthSaslInit, ConnectClose, ConnectGetHostname, ConnectGetLibVersion,
    ConnectGetType, ConnectGetUri, ConnectGetVersion, ConnectListAllDomains, ConnectOpen,
    ConnectRegisterCloseCallback, ConnectSupportsFeature, ConnectUnregisterCloseCallback,
    DomainGetInfo, DomainGetState, DomainLookupById, DomainLookupByName, DomainLookupByUuid,
};
use crate::protocol::remote::{
    AuthListRet, AuthPolkitRet, ConnectGetHostnameRet, ConnectGetLibVersionRet, ConnectGetTypeRet,
    ConnectGetUriRet, ConnectGetVersionRet, ConnectListAllDomainsArgs, ConnectListAllDomainsRet,
    ConnectOpenArgs, ConnectSupportsFeatureRet, DomainGetInfoRet, DomainGetStateRet,
    DomainLookupByIdRet, DomainLookupByNameRet, DomainLookupByUuidRet,
};
use crate::protocol::{self, Procedure, qemu, remote};
use crate::xdr::{self, Reader};

/// `VIR_ERR_NO_CONNECT`.
const NO_CONNECT: i32 = 5;
/// `VIR_ERR_INVALID_ARG`.
pub(super) const INVALID_ARG: i32 = 8;

/// `VIR_CONNECT_RO`.
const OPEN_READONLY: u32 = 1;
/// What may be asked for before the opening.
const FEATURES_BEFORE_OPENING: [DrvFeature; 2] =
    [DrvFeature::FD_PASSING, DrvFeature::PROGRAM_KEEPALIVE];
/// What a QEMU driver answers with 1, as far as the numbers of `virDrvFeature` go.
const FEATURES: [i32; 13] = [3, 4, 6, 7, 9, 11, 12, 13, 14, 15, 16, 8, 10];
/// `VIR_CONNECT_LIST_DOMAINS_ACTIVE` and `VIR_CONNECT_LIST_DOMAINS_INACTIVE`.
const LIST_ACTIVE_INACTIVE: [u32; 2] = [1, 2];
/// libvirt 9.0.0.
const LIBVIRT_VERSION: u64 = 9_000_000;

/// What becomes of a call.
pub(super) enum Answer {
    Reply(Bytes),
    /// A command's reply, and the events that follow it.
    Command {
        payload: Bytes,
        machine: Arc<Machine>,
        after: Vec<Told>,
    },
    /// An empty reply, and the end of the connection.
    Closing,
    Never,
}

pub(super) type Answered = Result<Answer, Failure>;

/// Answers a call.
pub(super) async fn answer(
    session: &Session,
    header: &Header,
    payload: Bytes,
    files: Vec<OwnedFd>,
) -> Answered {
    if is::<DomainMonitorCommand>(header) {
        let args = args::<DomainMonitorCommand>(payload)?;
        // Descriptors that come with this one are dropped.
        return monitor_command(session, args, Vec::new()).await;
    }
    if is::<DomainMonitorCommandWithFiles>(header) {
        let with = args::<DomainMonitorCommandWithFiles>(payload)?;
        let args = DomainMonitorCommandArgs {
            dom: with.dom,
            cmd: with.cmd,
            flags: with.flags,
        };
        return monitor_command(session, args, files).await;
    }
    if is::<DomainAgentCommand>(header) {
        return agent_command(session, args::<DomainAgentCommand>(payload)?).await;
    }
    if header.version == 1 && header.program == remote::PROGRAM {
        return about_connection(session, header, payload);
    }
    if header.version == 1 && header.program == qemu::PROGRAM {
        return about_events(session, header, payload);
    }
    let (program, version) = (header.program, header.version);
    Err(rpc_error(format!(
        "Cannot find program {program} version {version}"
    )))
}

/// The remote program: the connection itself, then what needs it open.
fn about_connection(session: &Session, header: &Header, payload: Bytes) -> Answered {
    if is::<AuthList>(header) {
        let types = session.daemon.state().auth.clone();
        return reply::<AuthList>(&AuthListRet { types });
    }
    if is::<AuthPolkit>(header) {
        return reply::<AuthPolkit>(&AuthPolkitRet { complete: 1 });
    }
    if is::<AuthSaslInit>(header) {
        let text = "authentication failed: authentication failed";
        return Err(failure(FROM_RPC, LibvirtError::AUTH_FAILED, text));
    }
    if is::<ConnectOpen>(header) {
        return open(session, args::<ConnectOpen>(payload)?);
    }
    if is::<ConnectClose>(header) {
        return Ok(Answer::Closing);
    }
    if is::<ConnectSupportsFeature>(header) {
        let feature = args::<ConnectSupportsFeature>(payload)?.feature;
        if !FEATURES_BEFORE_OPENING.contains(&feature) {
            uri_of(session)?;
        }
        let supported = FEATURES.contains(&feature.0).into();
        return reply::<ConnectSupportsFeature>(&ConnectSupportsFeatureRet { supported });
    }
    if protocol::procedure_name(header.program, header.procedure).is_none() {
        return Err(unknown_procedure(header));
    }
    let uri = uri_of(session)?;
    about_host(session, header, &uri).unwrap_or_else(|| about_domains(session, header, payload))
}

fn open(session: &Session, args: ConnectOpenArgs) -> Answered {
    let mut state = session.state();
    if state.uri.take().is_some() {
        // A second opening closes what the first has opened.
        return Err(internal(FROM_RPC, "connection already open"));
    }
    let Some(name) = args.name else {
        return Err(internal(FROM_RPC, "connection not open"));
    };
    if !name.is_empty() && !name.starts_with("qemu:///") {
        let text = format!("no connection driver available for {name}");
        return Err(failure(FROM_NONE, NO_CONNECT, text));
    }
    state.uri = Some(match &*name {
        "" => "qemu:///system".to_owned(),
        name => name.to_owned(),
    });
    state.readonly = args.flags & OPEN_READONLY != 0;
    Ok(Answer::Reply(Bytes::new()))
}

/// What is asked of the host. `None` where it is something else.
fn about_host(session: &Session, header: &Header, uri: &str) -> Option<Answered> {
    let text = |text: &str| text.to_owned();
    Some(if is::<ConnectGetType>(header) {
        let r#type = text("QEMU");
        reply::<ConnectGetType>(&ConnectGetTypeRet { r#type })
    } else if is::<ConnectGetUri>(header) {
        reply::<ConnectGetUri>(&ConnectGetUriRet { uri: text(uri) })
    } else if is::<ConnectGetHostname>(header) {
        let hostname = text("localhost");
        reply::<ConnectGetHostname>(&ConnectGetHostnameRet { hostname })
    } else if is::<ConnectGetLibVersion>(header) {
        let lib_ver = LIBVIRT_VERSION;
        reply::<ConnectGetLibVersion>(&ConnectGetLibVersionRet { lib_ver })
    } else if is::<ConnectGetVersion>(header) {
        let state = session.daemon.state();
        let first = state.domains.first();
        let (major, minor, micro) = first.map_or((7, 2, 22), |one| one.machine().state().version);
        let hv_ver = major * 1_000_000 + minor * 1_000 + micro;
        reply::<ConnectGetVersion>(&ConnectGetVersionRet { hv_ver })
    } else if is::<ConnectRegisterCloseCallback>(header)
        || is::<ConnectUnregisterCloseCallback>(header)
    {
        Ok(Answer::Reply(Bytes::new()))
    } else {
        return None;
    })
}

fn about_domains(session: &Session, header: &Header, payload: Bytes) -> Answered {
    let mut state = session.daemon.state();
    if is::<DomainLookupByName>(header) {
        let name = args::<DomainLookupByName>(payload)?.name;
        let dom = state.by_name(&name)?.wire();
        reply::<DomainLookupByName>(&DomainLookupByNameRet { dom })
    } else if is::<DomainLookupByUuid>(header) {
        let uuid = args::<DomainLookupByUuid>(payload)?.uuid;
        let dom = state.by_uuid(uuid)?.wire();
        reply::<DomainLookupByUuid>(&DomainLookupByUuidRet { dom })
    } else if is::<DomainLookupById>(header) {
        let id = args::<DomainLookupById>(payload)?.id;
        let mut running = state.domains.iter().map(FakeDomain::wire);
        let dom = running.find(|dom| dom.id == Some(id));
        let dom = dom.ok_or_else(|| {
            let text = format!("Domain not found: no domain with matching id {id}");
            failure(FROM_QEMU, LibvirtError::NO_DOMAIN, text)
        })?;
        reply::<DomainLookupById>(&DomainLookupByIdRet { dom })
    } else if is::<ConnectListAllDomains>(header) {
        let all = state.domains.iter().map(FakeDomain::wire).collect();
        list(all, &args::<ConnectListAllDomains>(payload)?)
    } else if is::<DomainGetState>(header) {
        let uuid = args::<DomainGetState>(payload)?.dom.uuid;
        let state = state_of(state.by_uuid(uuid)?);
        // The reason is the one that means nothing in every state.
        reply::<DomainGetState>(&DomainGetStateRet { state, reason: 0 })
    } else if is::<DomainGetInfo>(header) {
        let uuid = args::<DomainGetInfo>(payload)?.dom.uuid;
        let state = state_of(state.by_uuid(uuid)?);
        reply::<DomainGetInfo>(&DomainGetInfoRet {
            state,
            max_mem: 32 * 1024,
            memory: 32 * 1024,
            nr_virt_cpu: 1,
            cpu_time: 1_000_000_000,
        })
    } else {
        Err(unknown_procedure(header))
    }
}

/// `virDomainState`.
fn state_of(domain: &FakeDomain) -> DomainState {
    if !domain.is_running() {
        return DomainState::SHUTOFF;
    }
    match domain.machine().state().status.as_str() {
        "running" => DomainState::RUNNING,
        _ => DomainState::PAUSED,
    }
}

fn list(all: Vec<Domain>, args: &ConnectListAllDomainsArgs) -> Answered {
    let [active, inactive] = LIST_ACTIVE_INACTIVE.map(|flag| args.flags.0 & flag != 0);
    let wanted = |dom: &Domain| active == inactive || active == dom.is_running();
    let mut domains: Vec<_> = all.into_iter().filter(wanted).collect();
    let ret = u32::try_from(domains.len()).unwrap_or(u32::MAX);
    if args.need_results == 0 {
        domains.clear();
    }
    reply::<ConnectListAllDomains>(&ConnectListAllDomainsRet { domains, ret })
}

/// The qemu program, but for its commands.
fn about_events(session: &Session, header: &Header, payload: Bytes) -> Answered {
    if is::<ConnectDomainMonitorEventRegister>(header) {
        check_writable(session, "virConnectDomainQemuMonitorEventRegister")?;
        register(session, args::<ConnectDomainMonitorEventRegister>(payload)?)
    } else if is::<ConnectDomainMonitorEventDeregister>(header) {
        uri_of(session)?;
        let id = args::<ConnectDomainMonitorEventDeregister>(payload)?.callback_id;
        let registrations = &mut session.state().registrations;
        let Some(place) = registrations.iter().position(|one| one.id == id) else {
            let text = format!("domain monitor event callback {id} not registered");
            return Err(internal(FROM_RPC, &text));
        };
        registrations.remove(place);
        Ok(Answer::Reply(Bytes::new()))
    } else if is::<DomainAttach>(header) {
        let text = "this function is not supported by the connection driver: virDomainQemuAttach";
        Err(failure(FROM_NONE, LibvirtError::NO_SUPPORT, text))
    } else {
        Err(unknown_procedure(header))
    }
}

fn register(session: &Session, args: ConnectDomainMonitorEventRegisterArgs) -> Answered {
    let function = "qemuConnectDomainQemuMonitorEventRegister";
    let known = [RegisterFlags::REGEX, RegisterFlags::NOCASE];
    check_flags(args.flags.0, 3, function)?;
    let [regex, ignore_case] = known.map(|flag| args.flags.contains(flag));
    let names = match args.event {
        None => None,
        Some(event) => {
            let names = Names::new(event.to_string(), regex, ignore_case);
            let text = || format!("invalid argument: failed to compile regex '{event}'");
            Some(names.ok_or_else(|| failure(FROM_NONE, INVALID_ARG, text()))?)
        }
    };
    let domain = args.dom.map(|dom| dom.uuid);
    let id = session.daemon.state().new_callback();
    let registrations = &mut session.state().registrations;
    let is_tracked = |one: &Registration| one.names.is_none() && one.domain == domain;
    if names.is_none() && registrations.iter().any(is_tracked) {
        let text = "invalid argument: event callback already tracked";
        return Err(failure(FROM_NONE, INVALID_ARG, text));
    }
    registrations.push(Registration { id, domain, names });
    let callback_id = id;
    reply::<ConnectDomainMonitorEventRegister>(&ConnectDomainMonitorEventRegisterRet {
        callback_id,
    })
}

pub(super) fn args<P: Procedure>(payload: Bytes) -> Result<P::Args, Failure>
where
    P::Args: Unpack<Reader>,
{
    xdr::decode(payload).map_err(|_| rpc_error("Unable to decode message payload"))
}

pub(super) fn reply<P: Procedure>(reply: &P::Reply) -> Answered
where
    P::Reply: xdr_codec::Pack<xdr::Writer>,
{
    encode(reply).map(Answer::Reply)
}

/// The URI of a connection that has been opened.
fn uri_of(session: &Session) -> Result<String, Failure> {
    let uri = session.state().uri.clone();
    uri.ok_or_else(|| internal(FROM_RPC, "hypervisor connection not open"))
}

pub(super) fn check_writable(session: &Session, function: &str) -> Result<(), Failure> {
    uri_of(session)?;
    if session.state().readonly {
        let text = format!("operation forbidden: read only access prevents {function}");
        return Err(failure(FROM_NONE, LibvirtError::OPERATION_DENIED, text));
    }
    Ok(())
}

pub(super) fn check_flags(flags: u32, known: u32, function: &str) -> Result<(), Failure> {
    match flags & !known {
        0 => Ok(()),
        unknown => {
            let text = format!(
                "invalid argument: unsupported flags ({unknown:#x}) in function {function}"
            );
            Err(failure(FROM_NONE, INVALID_ARG, text))
        }
    }
}

pub(super) fn internal(domain: i32, text: &str) -> Failure {
    failure(
        domain,
        LibvirtError::INTERNAL_ERROR,
        format!("internal error: {text}"),
    )
}

fn rpc_error(text: impl Into<String>) -> Failure {
    failure(FROM_RPC, LibvirtError::RPC, text)
}

fn unknown_procedure(header: &Header) -> Failure {
    rpc_error(format!("unknown procedure: {}", header.procedure))
}
