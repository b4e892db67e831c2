//! What a reply can say: errors of libvirt and QEMU, and things that no reply should say.

use std::sync::Arc;

use bytes::Bytes;
use libvirt_qmp::packet::{Header, MessageStatus, MessageType, Packet};
use libvirt_qmp::protocol::Procedure;
use libvirt_qmp::protocol::qemu::procedure::DomainAgentCommand;
use libvirt_qmp::protocol::remote::procedure::ConnectListAllDomains;
use libvirt_qmp::protocol::rpc::{MessageError, MessageNonnullDomain, MessageNonnullNetwork};
use libvirt_qmp::{EndCause, Error, ErrorClass, LibvirtError, LibvirtRpc, Monitor};

use super::support::mock::{
    self, DOMAIN, MockDaemon, answer, encoded, error, event, monitor, quiet, reply_to,
};
use super::{STATUS, run};

/// Runs one command, to which the daemon says `status` and `payload`.
async fn ask(
    monitor: &LibvirtRpc,
    daemon: &mut MockDaemon,
    status: MessageStatus,
    payload: Bytes,
) -> Result<Bytes, Error> {
    let serve = async {
        let call = daemon.command().await;
        daemon.reply_raw(&call.header, status, payload).await;
    };
    tokio::join!(monitor.run(STATUS.as_bytes()), serve).0
}

async fn fails_with(error: MessageError) -> LibvirtError {
    fails_with_bytes(encoded(&error)).await
}

async fn fails_with_bytes(error: Bytes) -> LibvirtError {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let result = ask(&monitor, &mut daemon, MessageStatus::ERROR, error).await;
    let Err(Error::Libvirt(error)) = result else {
        panic!("{result:?}");
    };
    // An error is no reason to end the connection.
    let result = ask(&monitor, &mut daemon, MessageStatus::OK, answer("{}")).await;
    assert_eq!(result.unwrap(), "{}");
    *error
}

#[tokio::test(start_paused = true)]
async fn an_error_of_libvirt_keeps_all_its_fields() {
    let text = |text: &str| Some(text.to_owned());
    let wire = MessageError {
        code: 38,
        domain: 10,
        message: text("Unable to read from monitor: Connection reset by peer"),
        level: 2,
        dom: Some(MessageNonnullDomain {
            name: DOMAIN.to_owned(),
            uuid: [9; 16],
            id: -1,
        }),
        str1: text("%s"),
        str2: text("Unable to read from monitor"),
        str3: text("third"),
        int1: 104,
        int2: -7,
        net: Some(MessageNonnullNetwork {
            name: "default".to_owned(),
            uuid: [8; 16],
        }),
    };
    let error = fails_with(wire).await;
    assert_eq!((error.code, error.domain, error.level), (38, 10, 2));
    assert_eq!((error.int1, error.int2), (104, -7));
    assert_eq!(
        error.message.as_deref(),
        Some("Unable to read from monitor: Connection reset by peer")
    );
    assert_eq!(error.str1.as_deref(), Some("%s"));
    assert_eq!(error.str2.as_deref(), Some("Unable to read from monitor"));
    assert_eq!(error.str3.as_deref(), Some("third"));
    assert_eq!(error.procedure, "QEMU_PROC_DOMAIN_MONITOR_COMMAND");
    let about = error.about_domain.as_ref().unwrap();
    assert_eq!(
        (&*about.name, about.uuid.as_bytes(), about.id),
        (DOMAIN, &[9; 16], Some(-1))
    );
    let about = error.about_network.as_ref().unwrap();
    assert_eq!(
        (&*about.name, about.uuid.as_bytes(), about.id),
        ("default", &[8; 16], None)
    );
    let text = error.to_string();
    assert!(
        text.contains("Connection reset by peer") && text.contains("38"),
        "{text}"
    );
    // QEMU went away while libvirt waited for its answer.
    assert!(Error::from(error).maybe_executed());
}

#[tokio::test(start_paused = true)]
async fn an_error_may_have_no_message() {
    let bare = MessageError {
        message: None,
        str1: None,
        str2: None,
        int1: 5,
        ..error(9999, "")
    };
    let error = fails_with(bare).await;
    assert_eq!((error.code, error.int1), (9999, 5));
    assert_eq!((&error.message, &error.str1), (&None, &None));
    assert!(error.to_string().contains("9999"), "{error}");
}

/// libvirt quotes what the guest's agent said, which may be anything.
#[tokio::test(start_paused = true)]
async fn an_error_whose_texts_are_not_utf_8_is_that_error() {
    let mut wire = encoded(&MessageError {
        str2: Some("?quoted".to_owned()),
        ..error(LibvirtError::INTERNAL_ERROR, "cannot parse ?{}")
    })
    .to_vec();
    let mut replaced = 0;
    for byte in wire.iter_mut().filter(|byte| **byte == b'?') {
        *byte = 0xff;
        replaced += 1;
    }
    assert_eq!(replaced, 2);
    let error = fails_with_bytes(wire.into()).await;
    assert_eq!(error.code, LibvirtError::INTERNAL_ERROR);
    assert_eq!(error.message.as_deref(), Some("cannot parse \u{fffd}{}"));
    assert_eq!(error.str2.as_deref(), Some("\u{fffd}quoted"));
}

#[tokio::test(start_paused = true)]
async fn an_error_with_code_0_is_an_error() {
    let error = fails_with(error(0, "no error")).await;
    assert_eq!(error.code, 0);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_procedure_is_one_that_is_not_supported() {
    let unknown = |code, domain, message| MessageError {
        domain,
        ..error(code, message)
    };
    // (code, domain, message) and what is made of the code.
    for (wire, expected) in [
        (unknown(39, 7, "unknown procedure: 444"), 3),
        (unknown(39, 13, "unknown procedure: 444"), 3),
        (unknown(39, 10, "unknown procedure: 444"), 39),
        (unknown(1, 7, "unknown procedure: 444"), 1),
        (unknown(39, 7, "Cannot find program 7 version 1"), 39),
    ] {
        let message = wire.message.clone();
        let error = fails_with(wire).await;
        assert_eq!(error.code, expected, "{error}");
        assert_eq!(error.message.as_deref(), message.as_deref());
        assert_eq!(Error::from(error).is_unsupported(), expected == 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_qemu_comes_with_class_text_and_reply() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let raw = r#"{"id": "libvirt-42", "error": {"class": "CommandNotFound", "desc": "The command x has not been found", "extra": 1}}"#;
    let result = ask(&monitor, &mut daemon, MessageStatus::OK, answer(raw)).await;
    let error = result.unwrap_err();
    assert!(error.is_command_not_found());
    assert!(!error.maybe_executed());
    let Error::Qmp(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.class, ErrorClass::CommandNotFound);
    assert_eq!(error.desc, "The command x has not been found");
    assert_eq!(error.command.as_deref(), Some("query-status"));
    let raw: serde_json::Value = serde_json::from_slice(&error.raw).unwrap();
    assert_eq!(raw["error"]["extra"], 1);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_error_class_keeps_its_name() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let raw = r#"{"error": {"class": "FromTheFuture", "desc": "d"}}"#;
    let result = ask(&monitor, &mut daemon, MessageStatus::OK, answer(raw)).await;
    match result {
        Err(Error::Qmp(error)) => assert_eq!(error.class.as_str(), "FromTheFuture"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_does_not_decode_fails_its_own_call_and_names_the_field() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let string = "qemu_domain_monitor_command_ret.result";
    let cases: [(MessageStatus, &'static [u8], &str); 8] = [
        (MessageStatus::OK, b"", string),
        (MessageStatus::OK, b"\0\0", string),
        (MessageStatus::OK, b"\0\0\0\x09{}", string),
        (MessageStatus::OK, b"\xff\xff\xff\xff{}\0\0", "4194304"),
        (MessageStatus::OK, b"\0\0\0\x04\"\xff\"\0", "UTF-8"),
        (
            MessageStatus::ERROR,
            b"\0\0\0\x01",
            "virNetMessageError.domain",
        ),
        (MessageStatus::CONTINUE, b"\0\0\0\x02{}\0\0", "status 2"),
        (MessageStatus(77), b"\0\0\0\x02{}\0\0", "status 77"),
    ];
    for (status, payload, expected) in cases {
        let result = ask(&monitor, &mut daemon, status, Bytes::from_static(payload)).await;
        match result.unwrap_err() {
            error @ Error::Decode { .. } => {
                assert!(error.maybe_executed());
                let Error::Decode { what, source } = error else {
                    unreachable!("matched above");
                };
                assert_eq!(what, "QEMU_PROC_DOMAIN_MONITOR_COMMAND");
                let text = source.to_string();
                assert!(text.contains(expected), "{text}");
            }
            other => panic!("{payload:?}: {other:?}"),
        }
    }
    let result = ask(&monitor, &mut daemon, MessageStatus::OK, answer("{}")).await;
    assert_eq!(result.unwrap(), "{}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_qemu_that_is_no_json_fails_its_own_call() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    for text in ["", "null", "[]", "{\"return\"", "{} {}"] {
        let result = ask(&monitor, &mut daemon, MessageStatus::OK, answer(text)).await;
        match result.unwrap_err() {
            error @ Error::Decode { .. } => assert!(error.maybe_executed()),
            other => panic!("{text}: {other:?}"),
        }
    }
    let result = ask(&monitor, &mut daemon, MessageStatus::OK, answer("{}")).await;
    assert_eq!(result.unwrap(), "{}");
}

#[tokio::test(start_paused = true)]
async fn a_list_longer_than_its_packet_is_refused() {
    let (libvirt, mut daemon) = mock::session(quiet()).await;
    for (count, expected) in [
        (16_384u32, "CutShort"),
        (16_385, "TooLong"),
        (u32::MAX, "TooLong"),
    ] {
        let serve = async {
            let call = daemon.expect::<ConnectListAllDomains>().await;
            let payload = encoded(&count);
            daemon
                .reply_raw(&call.header, MessageStatus::OK, payload)
                .await;
        };
        let (domains, ()) = tokio::join!(libvirt.domains(), serve);
        let text = format!("{:?}", domains.unwrap_err());
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("domains"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_after_the_reply_and_padding_of_any_value_are_tolerated() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    for payload in [
        &b"\0\0\0\x02{}\xff\x07"[..],
        b"\0\0\0\x02{}\0\0and more",
        b"\0\0\0\x02{}\0\0x",
    ] {
        let payload = Bytes::from_static(payload);
        let result = ask(&monitor, &mut daemon, MessageStatus::OK, payload).await;
        assert_eq!(result.unwrap(), "{}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_or_second_reply_is_passed_over() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let serve = async {
        let call = daemon.command().await;
        daemon.answer(&call, r#"{"return":1}"#).await;
        daemon.answer(&call, r#"{"return":2}"#).await;
        // Even one of another procedure: the call is over, and nobody looks at it.
        let header = Header {
            procedure: DomainAgentCommand::NUMBER,
            ..call.header
        };
        daemon
            .reply_raw(&header, MessageStatus::OK, Bytes::new())
            .await;
    };
    let (reply, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), serve);
    assert_eq!(reply.unwrap(), r#"{"return":1}"#);
    let result = ask(&monitor, &mut daemon, MessageStatus::OK, answer("{}")).await;
    assert_eq!(result.unwrap(), "{}");
}

/// What the connection ends with where a call is answered with `change` of its right reply.
async fn ends_with(change: impl FnOnce(&mut Header)) -> String {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let running = run(&monitor, STATUS);
    let call = daemon.command().await;
    let mut header = reply_to(&call.header);
    change(&mut header);
    let payload = answer("{}");
    daemon.send(Packet { header, payload }).await;
    daemon.expect_eof().await;
    match running.await.unwrap().unwrap_err() {
        Error::Disconnected {
            cause,
            maybe_executed: true,
        } => match &*cause {
            EndCause::Protocol(text) => text.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_to_a_call_that_never_was_ends_the_connection() {
    let text = ends_with(|header| header.serial += 1).await;
    assert!(text.contains("answers no call that was made"), "{text}");
    let text = ends_with(|header| header.serial = u32::MAX).await;
    assert!(text.contains("serial 4294967295"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_another_procedure_ends_the_connection() {
    let text = ends_with(|header| header.procedure = DomainAgentCommand::NUMBER).await;
    assert!(text.starts_with("QEMU_PROGRAM procedure 3 "), "{text}");
    assert!(text.ends_with(" of QEMU_PROGRAM procedure 1"), "{text}");
    // The same number in another program is another procedure.
    let text = ends_with(|header| header.program = 0x2000_8086).await;
    assert!(text.starts_with("REMOTE_PROGRAM procedure 1 "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn unknown_types_programs_and_events_are_passed_over() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let running = run(&monitor, STATUS);
    let call = daemon.command().await;
    // Each has the serial of the call in flight.
    let odd = |program, procedure, kind| Header {
        kind,
        ..Header::call(program, 1, procedure, call.header.serial)
    };
    for header in [
        odd(0x2000_8086, 9999, MessageType::MESSAGE),
        odd(0x2000_8087, 6, MessageType::MESSAGE),
        odd(0x0690_0690, 1, MessageType::MESSAGE),
        odd(0x6b65_6570, 77, MessageType::MESSAGE),
        odd(0xffff_ffff, -1, MessageType::MESSAGE),
        odd(0x2000_8087, 1, MessageType::CALL),
        odd(0x2000_8087, 1, MessageType::STREAM),
        odd(0x2000_8087, 1, MessageType::STREAM_HOLE),
        odd(0x2000_8087, 1, MessageType::CALL_WITH_FDS),
        odd(0x2000_8087, 1, MessageType(7)),
        odd(0x2000_8087, 1, MessageType(-1)),
    ] {
        for payload in [&b""[..], b"odd", b"\0\0\0\x09 and more than a word"] {
            let payload = Bytes::from_static(payload);
            daemon.send(Packet { header, payload }).await;
        }
    }
    let mut not_ok = event(0, &mock::domain(DOMAIN), "STOP", None);
    not_ok.header.status = MessageStatus::ERROR;
    daemon.send(not_ok).await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_could_carry_descriptors_is_read_behind_their_count() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let serve = async {
        let call = daemon.command().await;
        let header = Header {
            kind: MessageType::REPLY_WITH_FDS,
            ..call.header
        };
        let mut payload = vec![0; 4];
        payload.extend_from_slice(&answer(r#"{"return":{}}"#));
        let payload = payload.into();
        daemon.send(Packet { header, payload }).await;
    };
    let (reply, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), serve);
    assert_eq!(reply.unwrap(), r#"{"return":{}}"#);
}

#[tokio::test(start_paused = true)]
async fn descriptors_that_nobody_asked_for_end_the_connection() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let running = run(&monitor, STATUS);
    let call = daemon.command().await;
    let header = Header {
        kind: MessageType::REPLY_WITH_FDS,
        ..call.header
    };
    // The byte that each descriptor rides on is not counted in any length: what follows cannot be told from it.
    let payload = Bytes::from_static(b"\0\0\0\x01\0\0\0\x02{}\0\0");
    daemon.send(Packet { header, payload }).await;
    daemon.expect_eof().await;
    match running.await.unwrap().unwrap_err() {
        Error::Disconnected { cause, .. } => {
            assert!(
                matches!(&*cause, EndCause::Protocol(text) if text.contains("descriptor")),
                "{cause}"
            );
        }
        other => panic!("{other:?}"),
    }
}
