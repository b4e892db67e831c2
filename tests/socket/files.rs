//! File descriptors that go with commands. Each is the reading end of a pipe, so its writing end tells whether anybody has it
//! still: writing fails as soon as nobody does.

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libvirt_qmp::{Command, Config, Error, Monitor, MonitorExt, Phase, RunOptions, SocketMonitor};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::qmp_peer::QmpPeer;
use crate::{STATUS, number, numbered, run};

/// A descriptor, and who knows whether it is still open anywhere.
struct Witness(PipeWriter);

impl Witness {
    fn new() -> (OwnedFd, Witness) {
        let (file, writer) = std::io::pipe().unwrap();
        (file.into(), Witness(writer))
    }

    /// Tells what is read from the descriptor, then its end.
    fn says(mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Nobody has the descriptor any more.
    fn is_closed(&mut self) -> bool {
        self.0.write_all(b"x").is_err()
    }
}

fn text(file: OwnedFd) -> String {
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}

async fn connected(config: Config) -> (Arc<SocketMonitor>, QmpPeer) {
    let (monitor, peer) = QmpPeer::connected_on_socket(config).await;
    (Arc::new(monitor), peer)
}

/// Runs a command with a descriptor that is closed here as soon as the call is under way.
fn run_with_file(
    monitor: &Arc<SocketMonitor>,
    command: impl Into<String>,
    file: OwnedFd,
    timeout: Option<Duration>,
) -> JoinHandle<Result<Bytes, Error>> {
    let (monitor, command) = (monitor.clone(), command.into());
    tokio::spawn(async move {
        let mut call = Box::pin(async {
            let files = [file.as_fd()];
            let options = RunOptions::new().files(&files);
            let options = match timeout {
                Some(timeout) => options.timeout(timeout),
                None => options,
            };
            monitor.run_with(command.as_bytes(), options).await
        });
        (&mut call).await
    })
}

#[tokio::test(start_paused = true)]
async fn it_arrives_with_the_first_byte_of_its_command() {
    let (monitor, mut peer) = connected(Config::new()).await;
    for length in [0, 100, 10_000] {
        let before = peer.bytes_came();
        let (file, witness) = Witness::new();
        let pad = "x".repeat(length);
        let command = Command::new("getfd").arg("fdname", pad).file(file);
        let call = tokio::spawn({
            let monitor = monitor.clone();
            async move { monitor.execute::<Value>(command).await }
        });
        let command = peer.expect("getfd").await;
        // A read ends where the next message with descriptors begins: this one began with the command.
        assert_eq!(peer.files_came_after(), [before]);
        peer.reply(&command, "7").await;
        assert_eq!(call.await.unwrap().unwrap(), 7);
        witness.says("hello");
        let [file] = peer.take_files().try_into().unwrap();
        assert_eq!(text(file), "hello");
    }
}

/// P17: QEMU would give the descriptor to another command, so it is alone among those in flight.
#[tokio::test(start_paused = true)]
async fn its_command_runs_alone() {
    for max_in_flight in [1, 3, 8, usize::MAX] {
        let (monitor, mut peer) = connected(Config::new().max_in_flight(max_in_flight)).await;
        let before: Vec<_> = (0..3).map(|n| run(&monitor, numbered(n))).collect();
        tokio::task::yield_now().await;
        let (file, mut witness) = Witness::new();
        let with_file = run_with_file(&monitor, numbered(3), file, None);
        tokio::task::yield_now().await;
        let after: Vec<_> = (4..7).map(|n| run(&monitor, numbered(n))).collect();

        for n in 0..3 {
            let command = peer.receive().await;
            assert_eq!(number(&command), n);
            peer.reply(&command, "{}").await;
        }
        let command = peer.receive().await;
        assert_eq!(number(&command), 3);
        assert_eq!(peer.take_files().len(), 1);
        // Nothing follows, but what goes out of band.
        peer.expect_silence().await;
        let out_of_band = run(&monitor, r#"{"exec-oob":"query-yank"}"#);
        let oob_command = peer.expect("query-yank").await;
        peer.reply(&oob_command, "[]").await;
        out_of_band.await.unwrap().unwrap();
        peer.expect_silence().await;
        peer.reply(&command, "{}").await;
        with_file.await.unwrap().unwrap();
        assert!(witness.is_closed());

        for n in 4..7 {
            let command = peer.receive().await;
            assert_eq!(number(&command), n);
            peer.reply(&command, "{}").await;
        }
        for call in before.into_iter().chain(after) {
            call.await.unwrap().unwrap();
        }
        assert!(peer.take_files().is_empty());
    }
}

/// P17: two at once each get their own; to a client that sent both QEMU gave the second file twice.
#[tokio::test(start_paused = true)]
async fn many_at_once_each_bring_their_own() {
    let (monitor, mut peer) = connected(Config::new().max_in_flight(8)).await;
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let (file, witness) = Witness::new();
            witness.says(&n.to_string());
            run_with_file(&monitor, numbered(n), file, None)
        })
        .collect();
    for _ in 0..20 {
        let command = peer.receive().await;
        let [file] = peer.take_files().try_into().unwrap();
        assert_eq!(text(file), number(&command).to_string());
        peer.reply(&command, "{}").await;
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

/// Only the first of a message would be used, and only a unix socket passes any.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_passed_is_refused_before_anything_is_sent() {
    let (file, _witness) = Witness::new();
    let one = [file.as_fd()];
    let two = [file.as_fd(), file.as_fd()];
    let yank = r#"{"exec-oob":"yank"}"#;

    let (client, mut pipe) = QmpPeer::new();
    let over_a_pipe = SocketMonitor::new(client);
    let (client, mut socket) = QmpPeer::on_socket();
    let over_a_socket = SocketMonitor::new(client);
    for (monitor, command, files, told) in [
        (&over_a_pipe, STATUS, &one[..], "no unix socket"),
        (&over_a_pipe, STATUS, &two[..], "no unix socket"),
        (&over_a_socket, STATUS, &two[..], "more than one"),
        (&over_a_socket, yank, &one[..], "out-of-band"),
    ] {
        let options = RunOptions::new().files(files);
        let error = monitor
            .run_with(command.as_bytes(), options)
            .await
            .unwrap_err();
        assert!(error.is_unsupported() && !error.maybe_executed());
        assert!(error.to_string().contains(told), "{error}");
    }
    pipe.expect_silence().await;
    socket.expect_silence().await;

    let stream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let over_tcp = SocketMonitor::tcp(stream.local_addr().unwrap())
        .await
        .unwrap();
    let error = over_tcp
        .run_with_files(STATUS.as_bytes(), &one)
        .await
        .unwrap_err();
    assert!(error.is_unsupported(), "{error:?}");
}

/// Whatever becomes of the call, its copy of the descriptor is closed here.
#[tokio::test(start_paused = true)]
async fn no_descriptor_stays_behind() {
    const SOON: Option<Duration> = Some(Duration::from_secs(1));

    // Dropped, or timed out, while it waits for its turn.
    let (monitor, mut peer) = connected(Config::new()).await;
    let blocking = run(&monitor, STATUS);
    let blocked = peer.receive().await;
    let (file, mut witness) = Witness::new();
    let call = run_with_file(&monitor, numbered(0), file, None);
    peer.expect_silence().await;
    assert!(!witness.is_closed());
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert!(witness.is_closed());
    let (file, mut witness) = Witness::new();
    let call = run_with_file(&monitor, numbered(1), file, SOON);
    assert!(matches!(
        call.await.unwrap(),
        Err(Error::Timeout {
            phase: Phase::Queue,
            maybe_executed: false,
            ..
        })
    ));
    assert!(witness.is_closed());
    peer.reply(&blocked, "{}").await;
    blocking.await.unwrap().unwrap();
    peer.expect_silence().await;
    assert!(peer.take_files().is_empty());

    // Given up after it was sent: QEMU has its copy, and nothing follows before it has answered.
    let (file, mut witness) = Witness::new();
    let call = run_with_file(&monitor, numbered(2), file, SOON);
    let late = peer.receive().await;
    assert!(matches!(
        call.await.unwrap(),
        Err(Error::Timeout {
            phase: Phase::Reply,
            maybe_executed: true,
            ..
        })
    ));
    assert!(!witness.is_closed());
    drop(peer.take_files());
    assert!(witness.is_closed());
    let next = run(&monitor, numbered(3));
    peer.expect_silence().await;
    peer.reply(&late, "{}").await;
    let command = peer.receive().await;
    peer.reply(&command, "{}").await;
    next.await.unwrap().unwrap();

    // Queued when the connection ends, and in flight then.
    let (one, mut in_flight) = Witness::new();
    let (other, mut queued) = Witness::new();
    let first = run_with_file(&monitor, numbered(4), one, None);
    peer.receive().await;
    let second = run_with_file(&monitor, numbered(5), other, None);
    peer.expect_silence().await;
    drop(peer);
    for (call, executed) in [(first, true), (second, false)] {
        let error = call.await.unwrap().unwrap_err();
        assert!(error.is_disconnected());
        assert_eq!(error.maybe_executed(), executed);
    }
    assert!(in_flight.is_closed() && queued.is_closed());
    let (file, mut witness) = Witness::new();
    let call = run_with_file(&monitor, numbered(6), file, None);
    assert!(call.await.unwrap().unwrap_err().is_disconnected());
    assert!(witness.is_closed());
}

/// What a peer sends along is closed: QEMU never does.
#[tokio::test(start_paused = true)]
async fn descriptors_from_the_peer_are_not_kept() {
    let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    let (file, mut witness) = Witness::new();
    send_with(&server, b"{\"event\": \"A\"}", &file);
    drop(file);
    client.set_nonblocking(true).unwrap();
    server.set_nonblocking(true).unwrap();
    let monitor = SocketMonitor::new(tokio::net::UnixStream::from_std(client).unwrap());
    let server = tokio::net::UnixStream::from_std(server).unwrap();
    QmpPeer::from_socket(server).connect(&monitor).await;
    assert!(witness.is_closed());
}

fn send_with(socket: &std::os::unix::net::UnixStream, bytes: &[u8], file: &OwnedFd) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let parts = [std::io::IoSlice::new(bytes)];
    sendmsg(socket, &parts, &mut control, SendFlags::empty()).unwrap();
}
