//! `FakeLibvirtd`: it answers as the daemon does, its errors are libvirt's, and what goes wrong goes as the test says.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use libvirt_qmp::packet::{Header, MessageType, Packet};
use libvirt_qmp::protocol::constants::{
    ConnectDomainQemuMonitorEventRegisterFlags, ConnectListAllDomainsFlags,
    DomainQemuMonitorCommandFlags, DomainState, DrvFeature,
};
use libvirt_qmp::protocol::keepalive;
use libvirt_qmp::protocol::qemu::procedure::{
    ConnectDomainMonitorEventDeregister, ConnectDomainMonitorEventRegister, DomainAgentCommand,
    DomainMonitorCommand, DomainMonitorCommandWithFiles,
};
use libvirt_qmp::protocol::qemu::{
    ConnectDomainMonitorEventDeregisterArgs, ConnectDomainMonitorEventRegisterArgs,
    DomainAgentCommandArgs, DomainMonitorCommandArgs, DomainMonitorCommandRet,
    DomainMonitorCommandWithFilesArgs, DomainMonitorEventMsg,
};
use libvirt_qmp::protocol::remote::procedure::{
    AuthList, ConnectGetLibVersion, ConnectGetType, ConnectGetUri, ConnectListAllDomains,
    ConnectOpen, ConnectSupportsFeature, DomainGetState, DomainLookupById, DomainLookupByName,
};
use libvirt_qmp::protocol::remote::{
    AuthType, ConnectListAllDomainsArgs, ConnectOpenArgs, ConnectSupportsFeatureArgs,
    DomainGetStateArgs, DomainLookupByIdArgs,
};
use libvirt_qmp::testing::{FakeLibvirtd, FakeQemu, Fault, Reply};
use libvirt_qmp::{
    Command, Config, Domain, EndCause, Error, Libvirt, LibvirtError, LibvirtRpc, Monitor,
    MonitorExt, Phase, xdr,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpStream, UnixStream};

use crate::raw::{RawRpc, encoded, send_with_file, soon};
use crate::support::conformance;
use crate::support::scratch::Scratch;

const STATUS: &[u8] = br#"{"execute":"query-status"}"#;

fn one() -> (FakeLibvirtd, FakeQemu) {
    let (libvirtd, qemu) = (FakeLibvirtd::new(), FakeQemu::new());
    libvirtd.domain("vm-1", &qemu);
    (libvirtd, qemu)
}

fn monitor(libvirtd: &FakeLibvirtd) -> LibvirtRpc {
    LibvirtRpc::new("vm-1", libvirtd.connect())
}

fn code(error: &Error) -> i32 {
    error
        .libvirt_code()
        .unwrap_or_else(|| panic!("{error:?} is not libvirt's"))
}

/// A client that has opened its session.
async fn raw(libvirtd: &FakeLibvirtd) -> RawRpc<DuplexStream> {
    let mut client = RawRpc::new(libvirtd.connect());
    open(&mut client, 0).await;
    client
}

async fn open<S>(client: &mut RawRpc<S>, flags: u32)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    client.call::<AuthList>(&()).await.unwrap();
    let name = Some("qemu:///system".to_owned());
    client
        .call::<ConnectOpen>(&ConnectOpenArgs { name, flags })
        .await
        .unwrap();
}

fn domain(libvirtd: &FakeLibvirtd, name: &str) -> Domain {
    Domain {
        name: name.to_owned(),
        uuid: libvirtd.uuid(name),
        // libvirt goes by the UUID alone.
        id: None,
    }
}

#[tokio::test]
async fn the_suite_passes_over_pipe_unix_tcp_and_a_shared_session() {
    let scratch = Scratch::new();
    let (libvirtd, _qemu) = one();
    conformance::suite(&monitor(&libvirtd)).await;
    let path = scratch.path("libvirt-sock");
    libvirtd.listen_unix(&path).unwrap();
    let unix = UnixStream::connect(&path).await.unwrap();
    conformance::suite(&LibvirtRpc::new("vm-1", unix)).await;
    let tcp = TcpStream::connect(libvirtd.listen_tcp().unwrap()).await;
    conformance::suite(&LibvirtRpc::new("vm-1", tcp.unwrap())).await;
    let libvirt = Libvirt::open(libvirtd.connect(), Config::new())
        .await
        .unwrap();
    let monitor: Box<dyn Monitor> = Box::new(libvirt.monitor(libvirtd.uuid("vm-1")));
    conformance::suite(&monitor).await;
}

#[tokio::test(start_paused = true)]
async fn domains_are_found_and_listed() {
    let libvirtd = FakeLibvirtd::new();
    libvirtd
        .domain("vm-1", FakeQemu::new())
        .domain("vm-2", FakeQemu::new())
        .stop("vm-2");
    let libvirt = Libvirt::open(libvirtd.connect(), Config::new())
        .await
        .unwrap();
    let domains = libvirt.domains().await.unwrap();
    let listed: Vec<_> = domains
        .iter()
        .map(|domain| (domain.name.as_str(), domain.uuid, domain.is_running()))
        .collect();
    assert_eq!(
        listed,
        [
            ("vm-1", libvirtd.uuid("vm-1"), true),
            ("vm-2", libvirtd.uuid("vm-2"), false)
        ]
    );
    let mut client = raw(&libvirtd).await;
    for (flags, names) in [(1, "vm-1"), (2, "vm-2")] {
        let args = ConnectListAllDomainsArgs {
            need_results: 1,
            flags: ConnectListAllDomainsFlags(flags),
        };
        let listed = client.call::<ConnectListAllDomains>(&args).await.unwrap();
        assert_eq!((listed.ret, &*listed.domains[0].name), (1, names));
    }
    let state = |name| DomainGetStateArgs {
        dom: domain(&libvirtd, name),
        flags: Default::default(),
    };
    for (name, expected) in [("vm-1", 1), ("vm-2", 5)] {
        let found = client.call::<DomainGetState>(&state(name)).await.unwrap();
        assert_eq!(found.state, DomainState(expected));
    }
    let by_id = DomainLookupByIdArgs { id: 1 };
    let found = client.call::<DomainLookupById>(&by_id).await.unwrap();
    assert_eq!(found.dom.name, "vm-1");
    let by_id = DomainLookupByIdArgs { id: 99 };
    let error = client.call::<DomainLookupById>(&by_id).await.unwrap_err();
    assert_eq!(error.code, LibvirtError::NO_DOMAIN);
}

#[tokio::test(start_paused = true)]
async fn commands_reach_qemu_and_bear_libvirts_ids() {
    let (libvirtd, qemu) = one();
    qemu.on_hmp("info cpus", "one\r\n");
    let mut client = raw(&libvirtd).await;
    let mut command = async |text: &str, flags| {
        let args = DomainMonitorCommandArgs {
            dom: domain(&libvirtd, "vm-1"),
            cmd: text.to_owned(),
            flags: DomainQemuMonitorCommandFlags(flags),
        };
        let answer = client.call::<DomainMonitorCommand>(&args).await;
        answer.map(|reply| reply.result)
    };
    assert_eq!(
        command(r#"{"execute":"query-name"}"#, 0).await.unwrap(),
        r#"{"return":{},"id":"libvirt-1"}"#
    );
    let unknown = command(r#"{"execute":"x"}"#, 0).await.unwrap();
    assert!(unknown.starts_with(r#"{"id":"libvirt-2","error":{"class":"CommandNotFound","#));
    assert_eq!(command("info cpus", 1).await.unwrap(), "one\r\n");
    // An id is libvirt's own affair; what is no object does not get far; and no other flag is known.
    for (text, flags, code) in [
        (r#"{"execute":"query-name","id":1}"#, 0, 1),
        ("query-name", 0, 1),
        (r#"{"execute":"query-name"}"#, 4, 8),
    ] {
        assert_eq!(command(text, flags).await.unwrap_err().code, code, "{text}");
    }
    assert_eq!(
        qemu.commands(),
        [
            json!({"execute": "query-name"}),
            json!({"execute": "x"}),
            json!({"execute": "human-monitor-command", "arguments": {"command-line": "info cpus"}}),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn errors_are_libvirts_own() {
    let (libvirtd, qemu) = one();
    let libvirt = Libvirt::open(libvirtd.connect(), Config::new())
        .await
        .unwrap();
    let unknown = libvirt.monitor("none").run(STATUS).await.unwrap_err();
    assert!(unknown.is_not_found(), "{unknown}");
    let monitor = libvirt.monitor("vm-1");
    libvirtd.busy("vm-1", true);
    let busy = monitor.run(STATUS).await.unwrap_err();
    assert_eq!(code(&busy), LibvirtError::OPERATION_TIMEOUT);
    libvirtd.busy("vm-1", false).stop("vm-1");
    let stopped = monitor.run(STATUS).await.unwrap_err();
    assert!(stopped.is_not_running() && !stopped.maybe_executed());
    libvirtd.start("vm-1");
    monitor.run(STATUS).await.unwrap();

    // QEMU ends while libvirt waits for it, and then does not run.
    let quit = monitor.run(br#"{"execute":"quit"}"#).await.unwrap_err();
    assert_eq!(code(&quit), LibvirtError::SYSTEM_ERROR);
    assert!(quit.maybe_executed());
    assert!(monitor.run(STATUS).await.unwrap_err().is_not_running());
    assert!(qemu.has_ended());
    libvirtd.start("vm-1");
    monitor.run(STATUS).await.unwrap();
    qemu.clear_commands().hold("query-status");
    let (killed, ()) = tokio::join!(monitor.run(STATUS), async {
        qemu.wait_for_command("query-status").await;
        qemu.kill();
    });
    assert_eq!(code(&killed.unwrap_err()), LibvirtError::SYSTEM_ERROR);

    libvirtd.remove("vm-1");
    assert!(monitor.run(STATUS).await.unwrap_err().is_not_found());

    let config = Config::new().readonly(true);
    let readonly = Libvirt::open(libvirtd.connect(), config).await.unwrap();
    libvirtd.domain("vm-1", FakeQemu::new());
    let monitor = readonly.monitor("vm-1");
    assert!(monitor.run(STATUS).await.unwrap_err().is_denied());
    assert!(monitor.events().await.unwrap_err().is_denied());
    assert_eq!(readonly.domains().await.unwrap().len(), 1);

    let elsewhere = Config::new().uri("test:///default");
    let refused = Libvirt::open(libvirtd.connect(), elsewhere).await;
    assert_eq!(code(&refused.unwrap_err()), 5);
}

#[tokio::test(start_paused = true)]
async fn what_the_daemon_does_not_know_it_says_so() {
    let (libvirtd, _qemu) = one();
    let mut client = RawRpc::new(libvirtd.connect());
    let closed = client.call::<ConnectGetUri>(&()).await.unwrap_err();
    assert_eq!(closed.code, LibvirtError::INTERNAL_ERROR);
    // Two features may be asked for before the opening.
    let feature = |number| ConnectSupportsFeatureArgs {
        feature: DrvFeature(number),
    };
    let keepalive = client.call::<ConnectSupportsFeature>(&feature(10)).await;
    assert_eq!(keepalive.unwrap().supported, 1);
    assert!(
        client
            .call::<ConnectSupportsFeature>(&feature(14))
            .await
            .is_err()
    );
    open(&mut client, 0).await;
    let unknown = client.call::<ConnectSupportsFeature>(&feature(999)).await;
    assert_eq!(unknown.unwrap().supported, 0);
    assert_eq!(
        client.call::<ConnectGetUri>(&()).await.unwrap().uri,
        "qemu:///system"
    );
    assert_eq!(
        client.call::<ConnectGetType>(&()).await.unwrap().r#type,
        "QEMU"
    );
    client.call::<ConnectGetLibVersion>(&()).await.unwrap();
    for (program, procedure, text) in [
        (0x2000_8086, 9999, "unknown procedure: 9999"),
        // One that exists, and that this daemon has not got.
        (0x2000_8086, 316, "unknown procedure: 316"),
        (0x2000_8087, 77, "unknown procedure: 77"),
        (0x1234, 1, "Cannot find program 4660 version 1"),
    ] {
        let header = Header::call(program, 1, procedure, 500);
        let payload = bytes::Bytes::new();
        client.packet(Packet { header, payload }).await;
        let error = client.reply::<()>(500).await.unwrap_err();
        assert_eq!((error.code, error.domain), (39, 7));
        assert_eq!(error.message.unwrap(), text);
    }
    let header = Header::call(0x2000_8086, 1, 23, 501);
    let payload = bytes::Bytes::from_static(b"\0\0");
    client.packet(Packet { header, payload }).await;
    let error = client.reply::<()>(501).await.unwrap_err();
    assert_eq!(error.message.unwrap(), "Unable to decode message payload");
}

#[tokio::test(start_paused = true)]
async fn registrations_filter_as_libvirt_does() {
    let (libvirtd, first) = one();
    let second = FakeQemu::new();
    libvirtd.domain("vm-2", &second);
    let mut client = raw(&libvirtd).await;
    let args =
        |dom: Option<&str>, event: Option<&str>, flags| ConnectDomainMonitorEventRegisterArgs {
            dom: dom.map(|name| domain(&libvirtd, name)),
            event: event.map(str::to_owned),
            flags: ConnectDomainQemuMonitorEventRegisterFlags(flags),
        };
    let mut ids = Vec::new();
    for wanted in [
        args(Some("vm-1"), None, 0),
        args(None, Some("STOP"), 0),
        args(None, Some("stop"), 2),
        args(None, Some("OP"), 1),
        args(Some("vm-2"), Some("^(stop|x)$"), 3),
        // Of a domain that there is not, and a name that nothing has.
        args(Some("none"), None, 0),
        args(None, Some(""), 0),
    ] {
        let reply = client
            .call::<ConnectDomainMonitorEventRegister>(&wanted)
            .await;
        ids.push(reply.unwrap().callback_id);
    }
    for refused in [
        args(Some("vm-1"), None, 0),
        args(None, Some("("), 1),
        args(None, None, 4),
    ] {
        let reply = client
            .call::<ConnectDomainMonitorEventRegister>(&refused)
            .await;
        assert_eq!(reply.unwrap_err().code, 8, "{refused:?}");
    }
    first
        .event("STOP", None)
        .event("RTC_CHANGE", json!({"offset": 1}));
    second.event("STOP", None).event("stop", None);
    let mut came = Vec::new();
    for _ in 0..10 {
        let packet = client.next().await.unwrap();
        assert_eq!(packet.header.serial, 1, "libvirt's events bear this serial");
        let event: DomainMonitorEventMsg = xdr::decode(packet.payload).unwrap();
        let place = ids.iter().position(|id| *id == event.callback_id).unwrap();
        came.push((place, event.dom.name.to_string(), event.event.to_string()));
        if &*event.event == "RTC_CHANGE" {
            assert_eq!(event.details.as_deref(), Some(r#"{"offset":1}"#));
        }
    }
    let expected = [
        (0, "vm-1", "STOP"),
        (1, "vm-1", "STOP"),
        (2, "vm-1", "STOP"),
        (3, "vm-1", "STOP"),
        (0, "vm-1", "RTC_CHANGE"),
        (1, "vm-2", "STOP"),
        (2, "vm-2", "STOP"),
        (3, "vm-2", "STOP"),
        (4, "vm-2", "STOP"),
        (2, "vm-2", "stop"),
    ]
    .map(|(place, domain, event)| (place, domain.to_owned(), event.to_owned()));
    assert_eq!(came, expected);

    // None comes after the end of its registration: the next packet is the reply to the last of these.
    for callback_id in ids.clone() {
        let args = ConnectDomainMonitorEventDeregisterArgs { callback_id };
        client
            .call::<ConnectDomainMonitorEventDeregister>(&args)
            .await
            .unwrap();
    }
    client.others.clear();
    first.event("STOP", None);
    let args = ConnectDomainMonitorEventDeregisterArgs {
        callback_id: ids[0],
    };
    let unknown = client
        .call::<ConnectDomainMonitorEventDeregister>(&args)
        .await;
    assert_eq!(unknown.unwrap_err().code, 1);
    assert!(client.others.iter().all(|packet| {
        let event: Result<DomainMonitorEventMsg, _> = xdr::decode(packet.payload.clone());
        event.is_ok_and(|event| event.event == "stop")
    }));
}

#[tokio::test(start_paused = true)]
async fn the_guest_agent_has_a_script_of_its_own() {
    let (libvirtd, qemu) = one();
    let mut client = raw(&libvirtd).await;
    let mut agent = async |cmd: &str, timeout| {
        let args = DomainAgentCommandArgs {
            dom: domain(&libvirtd, "vm-1"),
            cmd: cmd.to_owned(),
            timeout,
            flags: Default::default(),
        };
        let answer = client.call::<DomainAgentCommand>(&args).await;
        answer.map(|reply| reply.result.unwrap())
    };
    let ping = r#"{"execute":"guest-ping"}"#;
    assert_eq!(agent(ping, -1).await.unwrap_err().code, 74);
    qemu.on_agent("guest-get-time", json!(7))
        .on_agent("guest-exec", Reply::error("GenericError", "no"))
        .on_agent("guest-file-open", Reply::never());
    assert_eq!(agent(ping, -1).await.unwrap(), r#"{"return":{}}"#);
    let time = r#"{"execute":"guest-get-time"}"#;
    assert_eq!(agent(time, 0).await.unwrap(), r#"{"return":7}"#);
    let error = agent(r#"{"execute":"guest-exec"}"#, -2).await.unwrap_err();
    assert!(error.message.unwrap().ends_with("'guest-exec': no"));
    let started = tokio::time::Instant::now();
    let open = r#"{"execute":"guest-file-open"}"#;
    assert_eq!(agent(open, 20).await.unwrap_err().code, 86);
    assert_eq!(started.elapsed().as_secs(), 20);
    assert_eq!(agent(ping, -3).await.unwrap_err().code, 8);
    qemu.agent_connected(false);
    assert_eq!(agent(ping, -1).await.unwrap_err().code, 86);
    assert_eq!(
        qemu.agent_commands()[1],
        json!({"execute": "guest-get-time"})
    );
    assert!(qemu.commands().is_empty());
}

#[tokio::test(start_paused = true)]
async fn faults_are_for_one_procedure() {
    let (libvirtd, _qemu) = one();
    let denied = Fault::error(LibvirtError::ACCESS_DENIED, "no");
    libvirtd.fault::<DomainLookupByName>(denied);
    let libvirt = Libvirt::open(libvirtd.connect(), Config::new())
        .await
        .unwrap();
    let monitor = libvirt.monitor("vm-1");
    for _ in 0..2 {
        assert!(monitor.connect().await.unwrap_err().is_denied());
    }
    libvirtd.heal::<DomainLookupByName>();
    monitor.connect().await.unwrap();

    let late = Fault::delay(Duration::from_secs(30));
    libvirtd.fault_once::<DomainMonitorCommand>(late);
    let started = tokio::time::Instant::now();
    monitor.run(STATUS).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 30);
    monitor.run(STATUS).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 30);

    let text = DomainMonitorCommandRet {
        result: r#"{"return":"odd"}"#.to_owned(),
    };
    libvirtd.fault_once::<DomainMonitorCommand>(Fault::reply(encoded(&text)));
    libvirtd.fault_once::<DomainMonitorCommand>(Fault::silence());
    let odd: String = monitor.execute(Command::new("x")).await.unwrap();
    assert_eq!(odd, "odd");
    let error = monitor.run(STATUS).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");

    libvirtd.fault_once::<DomainMonitorCommand>(Fault::disconnect());
    // One was never answered, so the monitor's turn is taken for ever: another one is used.
    let other = libvirt.monitor("vm-1");
    match other.run(STATUS).await {
        Err(Error::Disconnected { cause, .. }) => {
            assert!(matches!(*cause, EndCause::PeerClosed), "{cause:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_calls_can_be_asserted() {
    let (libvirtd, _qemu) = one();
    let monitor = monitor(&libvirtd);
    monitor.run(STATUS).await.unwrap();
    let calls = libvirtd.calls();
    let names: Vec<_> = calls.iter().filter_map(|call| call.name()).collect();
    assert_eq!(
        names,
        [
            "REMOTE_PROC_AUTH_LIST",
            "REMOTE_PROC_CONNECT_SUPPORTS_FEATURE",
            "REMOTE_PROC_CONNECT_OPEN",
            "REMOTE_PROC_CONNECT_SUPPORTS_FEATURE",
            "REMOTE_PROC_CONNECT_REGISTER_CLOSE_CALLBACK",
            "REMOTE_PROC_DOMAIN_LOOKUP_BY_NAME",
            "QEMU_PROC_DOMAIN_MONITOR_COMMAND",
        ]
    );
    let lookup = calls[5].args::<DomainLookupByName>().unwrap();
    assert_eq!(lookup.name, "vm-1");
    assert!(calls[5].args::<ConnectOpen>().is_none());
    let open = soon(libvirtd.wait_for_call::<ConnectOpen>()).await;
    let open = open.args::<ConnectOpen>().unwrap();
    assert_eq!(open.name.as_deref(), Some("qemu:///system"));
    libvirtd.clear_calls();
    monitor.run(STATUS).await.unwrap();
    assert_eq!(libvirtd.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn keepalive_is_answered_until_the_daemon_falls_silent() {
    let (libvirtd, qemu) = one();
    let mut client = raw(&libvirtd).await;
    let ping = Packet {
        header: Header::keepalive(1),
        payload: bytes::Bytes::new(),
    };
    client.packet(ping.clone()).await;
    let pong = client.next().await.unwrap();
    assert_eq!(pong.header, Header::keepalive(2));
    libvirtd.ping();
    assert_eq!(client.next().await.unwrap().header, ping.header);
    assert_eq!(ping.header.program, keepalive::PROGRAM);

    let config = Config::new().keepalive(Some((Duration::from_secs(1), 2)));
    let monitor = LibvirtRpc::with_config("vm-1", libvirtd.connect(), config);
    let mut events = monitor.events().await.unwrap();
    // An hour of answers.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    qemu.event("STOP", None);
    assert_eq!(soon(events.next()).await.unwrap().unwrap().name, "STOP");
    libvirtd.silent(true);
    match soon(events.next()).await {
        Some(Err(Error::Disconnected { cause, .. })) => {
            assert!(matches!(
                *cause,
                EndCause::KeepaliveTimeout { pings: 2, .. }
            ));
        }
        other => panic!("{other:?}"),
    }
    libvirtd.silent(false);
    let again = Libvirt::open(libvirtd.connect(), Config::new()).await;
    again.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_with_too_many_calls_is_not_read() {
    let (libvirtd, qemu) = one();
    qemu.never("lost");
    let mut client = raw(&libvirtd).await;
    let command = |name: &str| DomainMonitorCommandArgs {
        dom: domain(&libvirtd, "vm-1"),
        cmd: format!(r#"{{"execute":"{name}"}}"#),
        flags: Default::default(),
    };
    for _ in 0..4 {
        client.send::<DomainMonitorCommand>(&command("lost")).await;
    }
    client
        .call::<DomainMonitorCommand>(&command("query-name"))
        .await
        .unwrap();
    client.send::<DomainMonitorCommand>(&command("lost")).await;
    for _ in 0..5 {
        soon(qemu.wait_for_command("lost")).await;
    }
    // The sixth stays where it is, and so does a ping.
    client.send::<DomainMonitorCommand>(&command("lost")).await;
    let ping = Packet {
        header: Header::keepalive(1),
        payload: bytes::Bytes::new(),
    };
    client.packet(ping).await;
    let silence = tokio::time::timeout(Duration::from_secs(30), client.next());
    assert!(silence.await.is_err());
    assert_eq!(qemu.commands().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn authentication_is_offered_as_the_test_says() {
    let (libvirtd, _qemu) = one();
    libvirtd.auth([AuthType::SASL]);
    let refused = monitor(&libvirtd).connect().await.unwrap_err();
    assert!(refused.is_auth_failed(), "{refused:?}");
    libvirtd.auth([AuthType::POLKIT]);
    monitor(&libvirtd).connect().await.unwrap();
    libvirtd.fault::<AuthList>(Fault::silence());
    match monitor(&libvirtd).connect().await {
        Err(Error::Timeout { phase, .. }) => assert_eq!(phase, Phase::Authentication),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_one_domain_reach_every_session() {
    let (libvirtd, qemu) = one();
    let monitors: Vec<_> = (0..3).map(|_| monitor(&libvirtd)).collect();
    let mut streams = join_all(monitors.iter().map(Monitor::events)).await;
    let told = Reply::value(json!({})).event("HAPPENED", json!({"n": 1}));
    qemu.on("happen", told);
    let command = Command::new("happen");
    monitors[0].execute::<Value>(command).await.unwrap();
    for stream in &mut streams {
        let event = soon(stream.as_mut().unwrap().next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(event.name, "HAPPENED");
        let domain = event.domain.clone().unwrap();
        assert_eq!(
            (&*domain.name, domain.uuid),
            ("vm-1", libvirtd.uuid("vm-1"))
        );
        assert_eq!(event.data_as::<Value>().unwrap(), json!({"n": 1}));
    }
}

#[tokio::test]
async fn one_descriptor_goes_on_to_qemu() {
    let scratch = Scratch::new();
    let (libvirtd, qemu) = one();
    let path = scratch.path("libvirt-sock");
    libvirtd.listen_unix(&path).unwrap();
    let mut client = RawRpc::new(UnixStream::connect(&path).await.unwrap());
    open(&mut client, 0).await;
    let args = DomainMonitorCommandWithFilesArgs {
        dom: domain(&libvirtd, "vm-1"),
        cmd: r#"{"execute":"getfd","arguments":{"fdname":"one"}}"#.to_owned(),
        flags: Default::default(),
    };
    let (mut read, write) = std::io::pipe().unwrap();
    for files in [1, 2] {
        let bytes = client.with_files::<DomainMonitorCommandWithFiles>(&args, files);
        client.stream.write_all(&bytes).await.unwrap();
        for _ in 0..files {
            send_with_file(&client.stream, b"\0", write.as_fd());
        }
        let packet = client.next().await.unwrap();
        assert_eq!(packet.header.kind, MessageType::REPLY);
        assert_eq!(packet.header.status.0, i32::from(files > 1));
    }
    drop(write);
    let mut files = qemu.files();
    assert_eq!(files.len(), 1);
    std::fs::File::from(files.remove(0))
        .write_all(b"through")
        .unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
}

#[tokio::test]
async fn descriptors_of_no_call_are_not_gathered_for_ever() {
    let scratch = Scratch::new();
    let (libvirtd, _qemu) = one();
    let path = scratch.path("libvirt-sock");
    libvirtd.listen_unix(&path).unwrap();
    let mut client = RawRpc::new(UnixStream::connect(&path).await.unwrap());
    let file = std::fs::File::open("/dev/null").unwrap();
    let ping = Header::keepalive(1).prefix(0);
    // One more than four calls can bring.
    for _ in 0..129 {
        send_with_file(&client.stream, &ping, file.as_fd());
        tokio::task::yield_now().await;
    }
    // It hangs up, after what it had to say.
    while soon(client.next()).await.is_some() {}
}

#[tokio::test]
async fn nothing_is_left_of_one_that_was_dropped() {
    let scratch = Scratch::new();
    let path = scratch.path("libvirt-sock");
    let (libvirtd, qemu) = one();
    libvirtd.listen_unix(&path).unwrap();
    let addr = libvirtd.listen_tcp().unwrap();
    let connected = [
        LibvirtRpc::new("vm-1", libvirtd.connect()),
        LibvirtRpc::new("vm-1", UnixStream::connect(&path).await.unwrap()),
        LibvirtRpc::new("vm-1", TcpStream::connect(addr).await.unwrap()),
    ];
    for monitor in &connected {
        monitor.run(STATUS).await.unwrap();
    }
    drop(libvirtd);
    assert!(!path.exists());
    for monitor in &connected {
        let error = soon(monitor.run(STATUS)).await.unwrap_err();
        assert!(error.is_disconnected(), "{error}");
    }
    soon(async { while TcpStream::connect(addr).await.is_ok() {} }).await;
    // The QEMU is the test's own.
    assert!(!qemu.has_ended());
}
