//! File descriptors with commands: how they travel, and what comes of those that a reply brings. Over real sockets, so
//! the clock is real too.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::packet::{Header, MessageStatus, MessageType, Packet};
use libvirt_qmp::protocol::Procedure;
use libvirt_qmp::protocol::qemu::DomainMonitorCommandWithFilesArgs;
use libvirt_qmp::protocol::qemu::procedure::DomainMonitorCommandWithFiles;
use libvirt_qmp::{
    Command, EndCause, Error, LibvirtError, LibvirtRpc, Monitor, MonitorExt, RunOptions, xdr,
};

use super::support::mock::{
    DOMAIN, MockDaemon, answer, domain, encoded, monitor, quiet, reply_to, unix_pair,
};
use super::{STATUS, run};

const GETFD: &str = r#"{"execute":"getfd","arguments":{"fdname":"a"},"id":7}"#;

/// A connected monitor over a unix socket, and its daemon.
async fn connected() -> (Arc<LibvirtRpc>, MockDaemon) {
    let (conn, mut daemon) = unix_pair();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, quiet());
    let serve = async {
        daemon.handshake().await;
        daemon.lookup(DOMAIN).await;
    };
    let (connected, ()) = tokio::join!(monitor.connect(), serve);
    connected.unwrap();
    (Arc::new(monitor), daemon)
}

/// A file that reads as this text.
fn file(text: &str) -> OwnedFd {
    let (read, mut write) = pipe().unwrap();
    write.write_all(text.as_bytes()).unwrap();
    read.into()
}

fn text(file: OwnedFd) -> String {
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}

/// The call with files that comes next, and its files.
async fn call_with_files(
    daemon: &mut MockDaemon,
) -> (Header, DomainMonitorCommandWithFilesArgs, Vec<OwnedFd>) {
    let Packet { header, payload } = daemon.packet().await.unwrap();
    assert_eq!(header.kind, MessageType::CALL_WITH_FDS);
    assert_eq!(
        (header.program, header.procedure),
        (
            DomainMonitorCommandWithFiles::PROGRAM,
            DomainMonitorCommandWithFiles::NUMBER
        )
    );
    // The count of files stands before the arguments and is in the packet's length; their bytes are not.
    assert_eq!(payload[..4], [0, 0, 0, 1]);
    let args = xdr::decode(payload.slice(4..)).unwrap();
    let files = daemon.files(1).await;
    (header, args, files)
}

/// The reply to a call, with this many files announced in it.
fn reply_with_files(call: &Header, count: u32, json: &str) -> Packet {
    let header = Header {
        kind: MessageType::REPLY_WITH_FDS,
        ..reply_to(call)
    };
    let payload = [&count.to_be_bytes()[..], &answer(json)].concat().into();
    Packet { header, payload }
}

async fn answer_plainly(daemon: &mut MockDaemon, call: &Header, json: &str) {
    // libvirt answers with a plain reply where it returns no files.
    daemon
        .reply_raw(call, MessageStatus::OK, answer(json))
        .await;
}

#[tokio::test]
async fn a_file_goes_with_its_command_on_a_byte_after_it() {
    let (monitor, mut daemon) = connected().await;
    let running = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            let file = file("hello");
            let files = [file.as_fd()];
            monitor.run_with_files(GETFD.as_bytes(), &files).await
        }
    });
    let (header, args, mut files) = call_with_files(&mut daemon).await;
    assert_eq!((args.dom, args.flags.0), (domain(DOMAIN), 0));
    assert_eq!(
        args.cmd,
        r#"{"execute":"getfd","arguments":{"fdname":"a"}}"#
    );
    assert_eq!(text(files.remove(0)), "hello");
    answer_plainly(&mut daemon, &header, r#"{"return":{},"id":"libvirt-3"}"#).await;
    assert_eq!(running.await.unwrap().unwrap(), r#"{"return":{},"id":7}"#);
    // A command without one goes as ever, right behind.
    let status = run(&monitor, STATUS);
    let call = daemon.command().await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    status.await.unwrap().unwrap();
}

#[tokio::test]
async fn commands_with_and_without_files_share_the_monitors_turn() {
    let (monitor, mut daemon) = connected().await;
    let commands: Vec<_> = (0..6)
        .map(|number| {
            let monitor = monitor.clone();
            tokio::spawn(async move {
                let mut command = Command::new("getfd").arg("fdname", number);
                if number % 2 == 0 {
                    command = command.file(file(&format!("text {number}")));
                }
                monitor.execute::<u32>(command).await
            })
        })
        .collect();
    for number in 0..6 {
        let wanted = format!(r#""fdname":{number}"#);
        let reply = format!(r#"{{"return":{number}}}"#);
        if number % 2 == 0 {
            let (header, args, mut files) = call_with_files(&mut daemon).await;
            assert!(args.cmd.contains(&wanted), "{}", args.cmd);
            assert_eq!(text(files.remove(0)), format!("text {number}"));
            answer_plainly(&mut daemon, &header, &reply).await;
        } else {
            let call = daemon.command().await;
            assert!(call.args.cmd.contains(&wanted), "{}", call.args.cmd);
            daemon.answer(&call, &reply).await;
        }
    }
    for (number, command) in (0u32..).zip(commands) {
        assert_eq!(command.await.unwrap().unwrap(), number);
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_anything_is() {
    let (over_pipe, mut pipe_daemon) = monitor(quiet()).await;
    let (over_unix, mut unix_daemon) = connected().await;
    let one = file("");
    let other = file("");
    let (one, other) = (one.as_fd(), other.as_fd());
    for (monitor, files) in [(&over_pipe, &[one][..]), (&*over_unix, &[one, other][..])] {
        let error = monitor
            .run_with_files(GETFD.as_bytes(), files)
            .await
            .unwrap_err();
        assert!(
            error.is_unsupported() && !error.maybe_executed(),
            "{error:?}"
        );
    }
    let refused = over_unix.run_with_files(b"getfd", &[one]).await;
    assert!(matches!(refused, Err(Error::Command(_))), "{refused:?}");
    assert!(pipe_daemon.sent_by_now().await.is_empty());
    assert!(unix_daemon.sent_by_now().await.is_empty());
    // Not even a connection is made for it.
    let (conn, mut daemon) = super::support::mock::pair();
    let unconnected = LibvirtRpc::with_config(DOMAIN, conn, quiet());
    let refused = unconnected.run_with_files(GETFD.as_bytes(), &[one]).await;
    assert!(refused.unwrap_err().is_unsupported());
    assert!(daemon.sent_by_now().await.is_empty());
}

#[tokio::test]
async fn a_daemon_that_does_not_know_the_call_makes_it_unsupported() {
    let (monitor, mut daemon) = connected().await;
    let file = file("");
    let files = [file.as_fd()];
    let serve = async {
        let (header, ..) = call_with_files(&mut daemon).await;
        let error = libvirt_qmp::protocol::rpc::MessageError {
            domain: 7,
            ..super::support::mock::error(LibvirtError::RPC, "unknown procedure: 7")
        };
        daemon
            .reply_raw(&header, MessageStatus::ERROR, encoded(&error))
            .await;
    };
    let (result, ()) = tokio::join!(monitor.run_with_files(GETFD.as_bytes(), &files), serve);
    assert!(result.unwrap_err().is_unsupported());
}

#[tokio::test]
async fn a_deadline_of_its_own_holds_for_a_command_with_files_too() {
    let (monitor, mut daemon) = connected().await;
    let file = file("");
    let files = [file.as_fd()];
    let options = RunOptions::new()
        .files(&files)
        .timeout(Duration::from_millis(100));
    let (result, (header, ..)) = tokio::join!(
        monitor.run_with(GETFD.as_bytes(), options),
        call_with_files(&mut daemon)
    );
    let error = result.unwrap_err();
    assert!(error.is_timeout() && error.maybe_executed(), "{error:?}");
    answer_plainly(&mut daemon, &header, r#"{"return":{}}"#).await;
    let status = run(&monitor, STATUS);
    let call = daemon.command().await;
    daemon.answer(&call, r#"{"return":{}}"#).await;
    status.await.unwrap().unwrap();
}

#[tokio::test]
async fn files_that_a_reply_brings_are_closed_and_the_packets_after_them_are_read() {
    let (monitor, mut daemon) = connected().await;
    // Each file is a pipe's reading end: writing fails once nobody has it open any more.
    let mut ends = Vec::new();
    for count in [0, 1, 3, 32] {
        let running = tokio::spawn({
            let monitor = monitor.clone();
            async move {
                let command = Command::new("getfd").file(file(""));
                monitor.execute::<serde_json::Value>(command).await
            }
        });
        let (header, ..) = call_with_files(&mut daemon).await;
        let reply = reply_with_files(&header, count, r#"{"return":{}}"#);
        daemon.send(reply).await;
        for _ in 0..count {
            let (read, write) = pipe().unwrap();
            daemon.send_file(&read.into()).await;
            ends.push(write);
        }
        running.await.unwrap().unwrap();
    }
    // Also with the reply to another call, and where the next packet follows at once.
    let running = run(&monitor, STATUS);
    let call = daemon.command().await;
    daemon
        .send(reply_with_files(&call.header, 1, r#"{"return":1}"#))
        .await;
    let (read, write) = pipe().unwrap();
    daemon.send_file(&read.into()).await;
    ends.push(write);
    daemon.ping().await;
    running.await.unwrap().unwrap();
    let pong = daemon.packet().await.unwrap();
    assert_eq!(pong.header, Header::keepalive(2));
    for mut end in ends {
        let error = end.write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn a_count_of_files_that_libvirt_never_sends_ends_the_connection() {
    for (count, asked) in [(33, true), (u32::MAX, true), (1, false)] {
        let (monitor, mut daemon) = connected().await;
        if asked {
            let file = file("");
            let files = [file.as_fd()];
            let serve = async {
                let (header, ..) = call_with_files(&mut daemon).await;
                answer_plainly(&mut daemon, &header, r#"{"return":{}}"#).await;
            };
            let (result, ()) =
                tokio::join!(monitor.run_with_files(GETFD.as_bytes(), &files), serve);
            result.unwrap();
        }
        let running = run(&monitor, STATUS);
        let call = daemon.command().await;
        let reply = reply_with_files(&call.header, count, r#"{"return":{}}"#);
        daemon.send(reply).await;
        match running.await.unwrap().unwrap_err() {
            Error::Disconnected { cause, .. } => {
                assert!(matches!(*cause, EndCause::Protocol(_)), "{cause}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_file_of_a_call_that_was_given_up_is_closed() {
    let (monitor, mut daemon) = connected().await;
    let stuck = run(&monitor, STATUS);
    let call = daemon.command().await;
    let (read, mut write) = pipe().unwrap();
    let waiting = tokio::spawn({
        let monitor = monitor.clone();
        let read = OwnedFd::from(read);
        async move {
            let files = [read.as_fd()];
            monitor.run_with_files(GETFD.as_bytes(), &files).await
        }
    });
    super::support::mock::settle().await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    daemon.answer(&call, r#"{"return":{}}"#).await;
    stuck.await.unwrap().unwrap();
    assert!(daemon.sent_by_now().await.is_empty());
    let error = write.write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}
