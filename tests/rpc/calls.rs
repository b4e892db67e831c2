//! Calls on the wire: their serials, their order, what is refused before it is sent, and how replies find them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use libvirt_qmp::packet::{Header, MessageType, Packet};
use libvirt_qmp::protocol::remote::procedure::{
    AuthList, ConnectListAllDomains, ConnectOpen, ConnectSupportsFeature, DomainLookupByName,
};
use libvirt_qmp::protocol::remote::{
    AuthListRet, ConnectListAllDomainsRet, ConnectSupportsFeatureRet,
};
use libvirt_qmp::{CommandError, Config, Error, Libvirt, Monitor};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::support::mock::{self, DOMAIN, event, monitor, monitor_on, pair, quiet, session};
use super::{STATUS, run};

#[tokio::test(start_paused = true)]
async fn serials_count_from_zero_over_all_programs() {
    let (conn, mut daemon) = pair();
    let opening = tokio::spawn(Libvirt::open(conn, Config::new()));
    let auth = daemon.expect::<AuthList>().await;
    assert_eq!(auth.header.serial, 0);
    let reply = AuthListRet { types: Vec::new() };
    daemon.reply::<AuthList>(&auth, &reply).await;
    daemon.feature(10, true).await;
    let open = daemon.expect::<ConnectOpen>().await;
    assert_eq!(open.header.serial, 2);
    daemon.reply::<ConnectOpen>(&open, &()).await;
    daemon.feature(15, false).await;
    let libvirt = opening.await.unwrap().unwrap();

    let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, DOMAIN).await);
    let running = run(&monitor, STATUS);
    let command = daemon.command().await;
    assert_eq!(command.header.serial, 5);
    daemon.answer(&command, r#"{"return":{}}"#).await;
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn replies_find_their_calls_in_any_order() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut running = Vec::new();
    let mut calls = Vec::new();
    for number in 0..4 {
        let name = format!("vm-{number}");
        let monitor = Arc::new(monitor_on(&libvirt, &mut daemon, &name).await);
        running.push(run(&monitor, STATUS));
        let call = daemon.command().await;
        assert_eq!(call.args.dom.name, *name);
        calls.push(call);
    }
    for number in [2, 0, 3, 1] {
        let answer = format!(r#"{{"return":{number}}}"#);
        daemon.answer(&calls[number], &answer).await;
    }
    for (number, running) in running.into_iter().enumerate() {
        let reply = running.await.unwrap().unwrap();
        assert_eq!(reply, format!(r#"{{"return":{number}}}"#));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_with_the_serial_of_a_call_in_flight_is_not_its_reply() {
    let (conn, mut daemon) = pair();
    let opening = tokio::spawn(Libvirt::open(conn, Config::new()));
    daemon.auth(&[]).await;
    let feature = daemon.expect::<ConnectSupportsFeature>().await;
    assert_eq!(feature.header.serial, 1);
    let event = event(0, &mock::domain(DOMAIN), "STOP", None);
    assert_eq!(event.header.serial, 1);
    daemon.send(event).await;
    // The same procedure too, but a message all the same.
    let header = Header {
        kind: MessageType::MESSAGE,
        ..feature.header
    };
    let payload = mock::encoded(&0i32);
    daemon.send(Packet { header, payload }).await;
    assert!(daemon.sent_by_now().await.is_empty());
    let reply = ConnectSupportsFeatureRet { supported: 1 };
    daemon
        .reply::<ConnectSupportsFeature>(&feature, &reply)
        .await;
    let open = daemon.expect::<ConnectOpen>().await;
    daemon.reply::<ConnectOpen>(&open, &()).await;
    daemon.feature(15, false).await;
    opening.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_carries_the_domain_and_the_command() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let running = run(&monitor, r#" { "execute": "stop", "id": [1] } "#);
    let call = daemon.command().await;
    assert_eq!(call.args.dom, mock::domain(DOMAIN));
    assert_eq!(call.args.flags, 0);
    let sent: serde_json::Value = serde_json::from_str(&call.args.cmd).unwrap();
    assert_eq!(sent, serde_json::json!({"execute": "stop"}));
    daemon
        .answer(&call, r#"{"return":{},"id":"libvirt-9"}"#)
        .await;
    let reply = running.await.unwrap().unwrap();
    let reply: serde_json::Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(reply, serde_json::json!({"return": {}, "id": [1]}));
}

#[tokio::test(start_paused = true)]
async fn the_users_id_comes_back_and_no_other() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let deep = format!("{}7{}", "[".repeat(200), "]".repeat(200));
    let ids = [
        "7",
        "-1.50e3",
        "18446744073709551616",
        r#""a \"quoted\" id""#,
        "null",
        "true",
        r#"{"id":{"id":1}}"#,
        &deep,
    ];
    for id in ids {
        let command = format!(r#"{{"execute":"stop","id":{id}}}"#);
        let serve = async {
            let call = daemon.command().await;
            assert!(!call.args.cmd.contains(r#""id""#), "{}", call.args.cmd);
            let answer = r#"{"return": {"id": 3}, "id": "libvirt-12"}"#;
            daemon.answer(&call, answer).await;
        };
        let (reply, ()) = tokio::join!(monitor.run(command.as_bytes()), serve);
        let reply = String::from_utf8(reply.unwrap().into()).unwrap();
        assert!(
            reply.contains(&format!(r#""id":{id}"#)) || reply.contains(&format!(r#""id": {id}"#)),
            "{reply}"
        );
        assert!(reply.contains(r#"{"id": 3}"#), "{reply}");
        assert!(!reply.contains("libvirt-12"), "{reply}");
    }
    let serve = async {
        let call = daemon.command().await;
        daemon
            .answer(&call, r#"{"return": {}, "id": "libvirt-13"}"#)
            .await;
    };
    let (reply, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), serve);
    let reply: serde_json::Value = serde_json::from_slice(&reply.unwrap()).unwrap();
    assert_eq!(reply, serde_json::json!({"return": {}}));
}

#[tokio::test(start_paused = true)]
async fn a_refused_command_sends_nothing_and_harms_nothing() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    // Shorter than the limit of any QMP text, and over what a libvirt string holds.
    let long = format!(r#"{{"execute":"x","arguments":"{}"}}"#, "y".repeat(4 << 20));
    type Is = fn(&Error) -> bool;
    let cases: [(&str, Is); 9] = [
        ("", |error| {
            matches!(error, Error::Command(CommandError::NotAnObject { .. }))
        }),
        ("[1]", |error| {
            matches!(error, Error::Command(CommandError::NotAnObject { .. }))
        }),
        (r#"{"execute":"stop"} {}"#, |error| {
            matches!(error, Error::Command(CommandError::NotAnObject { .. }))
        }),
        (r#"{"execute":"stop""#, |error| {
            matches!(error, Error::Command(CommandError::NotAnObject { .. }))
        }),
        (r#"{"arguments":{}}"#, |error| {
            matches!(error, Error::Command(CommandError::NoName))
        }),
        (r#"{"execute":7}"#, |error| {
            matches!(error, Error::Command(CommandError::NameNotString { .. }))
        }),
        (r#"{"execute":"a","execute":"b"}"#, |error| {
            matches!(error, Error::Command(CommandError::Repeated { .. }))
        }),
        (r#"{"exec-oob":"migrate-pause"}"#, |error| {
            matches!(error, Error::Unsupported(_))
        }),
        (&long, |error| {
            matches!(
                error,
                Error::Command(CommandError::TooLong {
                    limit: 4_194_304,
                    ..
                })
            )
        }),
    ];
    for (command, expected) in cases {
        let error = monitor.run(command.as_bytes()).await.unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert!(!error.maybe_executed());
    }
    assert!(matches!(
        monitor.run(b"{\"execute\":\"\xff\"}").await,
        Err(Error::Command(CommandError::NotUtf8 { .. }))
    ));
    assert!(daemon.sent_by_now().await.is_empty());
    let serve = async {
        let call = daemon.command().await;
        daemon.answer(&call, r#"{"return":{}}"#).await;
    };
    tokio::join!(monitor.run(STATUS.as_bytes()), serve)
        .0
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_command_of_exactly_the_limit_is_sent() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let frame = r#"{"execute":"x","arguments":""}"#.len();
    let text = "y".repeat(4_194_304 - frame);
    let command = format!(r#"{{"execute":"x","arguments":"{text}"}}"#);
    let serve = async {
        let call = daemon.command().await;
        assert_eq!(call.args.cmd.len(), 4_194_304);
        daemon.answer(&call, r#"{"return":{}}"#).await;
    };
    tokio::join!(monitor.run(command.as_bytes()), serve)
        .0
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_argument_over_its_limit_fails_its_own_call_only() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let error = libvirt
        .monitor("n".repeat(5 << 20))
        .connect()
        .await
        .unwrap_err();
    match &error {
        Error::Encode { procedure, source } => {
            assert_eq!(*procedure, "REMOTE_PROC_DOMAIN_LOOKUP_BY_NAME");
            let text = source.to_string();
            assert!(
                text.contains("5242880") && text.contains("4194304"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(!error.maybe_executed());
    assert!(daemon.sent_by_now().await.is_empty());
    monitor_on(&libvirt, &mut daemon, DOMAIN).await;
}

#[tokio::test(start_paused = true)]
async fn domains_are_listed_running_or_not() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let serve = async {
        let call = daemon.expect::<ConnectListAllDomains>().await;
        assert_eq!((call.args.need_results, call.args.flags), (1, 0));
        let mut off = mock::domain("off");
        off.id = None;
        let reply = ConnectListAllDomainsRet {
            domains: vec![mock::domain("on"), off],
            ret: 2,
        };
        daemon.reply::<ConnectListAllDomains>(&call, &reply).await;
    };
    let (domains, ()) = tokio::join!(libvirt.domains(), serve);
    let domains: Vec<_> = domains
        .unwrap()
        .into_iter()
        .map(|domain| (domain.name.clone(), domain.id, domain.is_running()))
        .collect();
    assert_eq!(
        domains,
        [
            ("on".to_owned(), Some(7), true),
            ("off".to_owned(), None, false)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn replies_of_a_megabyte_and_of_no_byte_arrive_whole() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    for size in [1 << 20, 0, 3 << 20] {
        let answer = format!(r#"{{"return":"{}"}}"#, "z".repeat(size));
        let serve = async {
            let call = daemon.command().await;
            daemon.answer(&call, &answer).await;
        };
        let (reply, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), serve);
        assert_eq!(reply.unwrap(), answer);
    }
}

#[tokio::test(start_paused = true)]
async fn replies_survive_any_cut_of_the_byte_stream() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let serve = async {
        let call = daemon.command().await;
        let header = mock::reply_to(&call.header);
        let payload = mock::answer(r#"{"return":{}}"#);
        let packet = mock::bytes_of(Packet { header, payload });
        daemon.ping().await;
        for byte in packet.chunks(1) {
            daemon.raw(byte).await;
            mock::settle().await;
        }
    };
    let (reply, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), serve);
    assert_eq!(reply.unwrap(), r#"{"return":{}}"#);
}

/// Counts the writes that reach a stream.
struct CountsWrites {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for CountsWrites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CountsWrites {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_together_leave_in_one_write() {
    let (stream, mut daemon) = pair();
    let writes = Arc::new(AtomicUsize::new(0));
    let conn = CountsWrites {
        stream,
        writes: writes.clone(),
    };
    let config = Config::new().max_in_flight(usize::MAX);
    let (libvirt, _) = tokio::join!(Libvirt::open(conn, config), daemon.handshake());
    let monitor = Arc::new(monitor_on(&libvirt.unwrap(), &mut daemon, DOMAIN).await);
    let before = writes.load(Ordering::Relaxed);
    let running: Vec<_> = (0..20).map(|_| run(&monitor, STATUS)).collect();
    for _ in 0..20 {
        let call = daemon.command().await;
        daemon.answer(&call, r#"{"return":{}}"#).await;
    }
    for running in running {
        running.await.unwrap().unwrap();
    }
    assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_name_may_be_tried_again() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitor = libvirt.monitor(DOMAIN);
    let refuse = async {
        let call = daemon.expect::<DomainLookupByName>().await;
        daemon.error(&call, 42, "Domain not found").await;
    };
    let (result, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), refuse);
    assert!(result.unwrap_err().is_not_found());
    let serve = async {
        daemon.lookup(DOMAIN).await;
        let call = daemon.command().await;
        daemon.answer(&call, r#"{"return":1}"#).await;
    };
    let (result, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), serve);
    assert_eq!(result.unwrap(), r#"{"return":1}"#);
}
