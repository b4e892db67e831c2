//! File descriptors with calls and replies of any procedure: which arrive, which are refused, and that none is left
//! behind, whatever goes wrong. One test in a program of its own, since it counts all that the process has open.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libvirt_qmp::packet::{Header, MessageStatus, MessageType, Packet};
use libvirt_qmp::protocol::{Procedure, remote};
use libvirt_qmp::xdr::DecodeFault;
use libvirt_qmp::{DecodeFailure, EndCause, Error, Libvirt};
use support::fds::open_now;
use support::mock::{
    MockDaemon, PATIENCE, bytes_of, encoded, error, pair, quiet, reply_to, settle, unix_pair,
};
use tokio::task::JoinHandle;

/// A procedure with descriptors either way, as the number of those it takes and brings is not the client's to know.
struct WithFiles;

impl Procedure for WithFiles {
    const PROGRAM: u32 = remote::PROGRAM;
    const VERSION: u32 = remote::VERSION;
    const NUMBER: i32 = 343;
    const NAME: &'static str = "REMOTE_PROC_DOMAIN_OPEN_GRAPHICS_FD";
    type Args = u32;
    type Reply = u32;
}

type Outcome = Result<(u32, Vec<OwnedFd>), Error>;

async fn connected() -> (Libvirt, MockDaemon) {
    let (conn, mut daemon) = unix_pair();
    let (libvirt, _) = tokio::join!(Libvirt::open(conn, quiet()), daemon.handshake());
    (libvirt.unwrap(), daemon)
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

fn files(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|number| file(&number.to_string())).collect()
}

fn borrowed(files: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    files.iter().map(AsFd::as_fd).collect()
}

/// Makes a call with so many descriptors in a task of its own.
fn calling(libvirt: &Libvirt, count: usize) -> JoinHandle<Outcome> {
    let libvirt = libvirt.clone();
    tokio::spawn(async move {
        let files = files(count);
        libvirt
            .call_with_files::<WithFiles>(&7, &borrowed(&files))
            .await
    })
}

/// The next call, which brings so many descriptors.
async fn call(daemon: &mut MockDaemon, count: usize) -> (Header, Vec<OwnedFd>) {
    let Packet { header, payload } = daemon.packet().await.unwrap();
    assert_eq!(header.procedure, WithFiles::NUMBER);
    if count == 0 {
        assert_eq!(
            (header.kind, &payload[..]),
            (MessageType::CALL, &[0, 0, 0, 7][..])
        );
        return (header, Vec::new());
    }
    assert_eq!(header.kind, MessageType::CALL_WITH_FDS);
    assert_eq!(payload[..4], u32::try_from(count).unwrap().to_be_bytes());
    assert_eq!(payload[4..], [0, 0, 0, 7]);
    let files = daemon.files(count).await;
    (header, files)
}

/// A reply that announces so many descriptors.
fn reply(call: &Header, announced: u32, status: MessageStatus) -> Packet {
    let body = match status {
        MessageStatus::OK => encoded(&9u32),
        _ => encoded(&error(1, "no")),
    };
    let header = Header {
        kind: MessageType::REPLY_WITH_FDS,
        status,
        ..reply_to(call)
    };
    let payload = [&announced.to_be_bytes()[..], &body].concat().into();
    Packet { header, payload }
}

async fn send_files(daemon: &mut MockDaemon, count: usize) {
    for file in files(count) {
        daemon.send_file(&file).await;
    }
}

/// A plain call is answered: both sides agree on where packets begin.
async fn expect_usable(libvirt: &Libvirt, daemon: &mut MockDaemon) {
    let plain = calling(libvirt, 0);
    let (header, _) = call(daemon, 0).await;
    daemon
        .reply_raw(&header, MessageStatus::OK, encoded(&3u32))
        .await;
    let (answer, files) = plain.await.unwrap().unwrap();
    assert_eq!((answer, files.len()), (3, 0));
}

async fn they_arrive_both_ways_in_order() {
    let (libvirt, mut daemon) = connected().await;
    for count in [1, 2, 32] {
        let running = calling(&libvirt, count);
        let (header, came) = call(&mut daemon, count).await;
        for (number, file) in came.into_iter().enumerate() {
            assert_eq!(text(file), number.to_string());
        }
        daemon
            .send(reply(
                &header,
                u32::try_from(count).unwrap(),
                MessageStatus::OK,
            ))
            .await;
        // What comes right behind does not disturb them.
        send_files(&mut daemon, count).await;
        daemon.ping().await;
        let (answer, came) = running.await.unwrap().unwrap();
        assert_eq!((answer, came.len()), (9, count));
        for (number, file) in came.into_iter().enumerate() {
            assert_eq!(text(file), number.to_string());
        }
        daemon.packet().await.unwrap();
    }
    expect_usable(&libvirt, &mut daemon).await;
}

async fn replies_that_cross_each_bring_their_own() {
    let (libvirt, mut daemon) = connected().await;
    let (one, two) = (calling(&libvirt, 0), calling(&libvirt, 0));
    let (first, _) = call(&mut daemon, 0).await;
    let (second, _) = call(&mut daemon, 0).await;
    // All in the socket before any of it is read.
    daemon.send(reply(&second, 1, MessageStatus::OK)).await;
    daemon.send_file(&file("second")).await;
    daemon.send(reply(&first, 2, MessageStatus::OK)).await;
    daemon.send_file(&file("first")).await;
    daemon.send_file(&file("first again")).await;
    let (_, of_one) = one.await.unwrap().unwrap();
    let (_, of_two) = two.await.unwrap().unwrap();
    let texts = |files: Vec<OwnedFd>| files.into_iter().map(text).collect::<Vec<_>>();
    assert_eq!(texts(of_one), ["first", "first again"]);
    assert_eq!(texts(of_two), ["second"]);
}

async fn they_wait_for_their_bytes() {
    let (libvirt, mut daemon) = connected().await;
    let running = calling(&libvirt, 0);
    let (header, _) = call(&mut daemon, 0).await;
    let packet = bytes_of(reply(&header, 2, MessageStatus::OK));
    let (head, rest) = packet.split_at(30);
    daemon.raw(head).await;
    settle().await;
    daemon.raw(rest).await;
    daemon.send_file(&file("one")).await;
    settle().await;
    assert!(!running.is_finished());
    daemon.send_file(&file("two")).await;
    let (_, files) = running.await.unwrap().unwrap();
    assert_eq!(
        files.into_iter().map(text).collect::<Vec<_>>(),
        ["one", "two"]
    );
}

async fn nobody_takes_them() {
    let (libvirt, mut daemon) = connected().await;
    // The reply is an error, the caller has gone, and the caller has not taken its result.
    let refused = calling(&libvirt, 0);
    let (header, _) = call(&mut daemon, 0).await;
    daemon.send(reply(&header, 3, MessageStatus::ERROR)).await;
    send_files(&mut daemon, 3).await;
    assert!(matches!(refused.await.unwrap(), Err(Error::Libvirt(_))));
    let gone = calling(&libvirt, 2);
    let (header, _) = call(&mut daemon, 2).await;
    gone.abort();
    assert!(gone.await.is_err());
    daemon.send(reply(&header, 3, MessageStatus::OK)).await;
    send_files(&mut daemon, 3).await;
    expect_usable(&libvirt, &mut daemon).await;
    let unread = calling(&libvirt, 0);
    let (header, _) = call(&mut daemon, 0).await;
    daemon.send(reply(&header, 3, MessageStatus::OK)).await;
    send_files(&mut daemon, 3).await;
    expect_usable(&libvirt, &mut daemon).await;
    drop(unread.await);
    // They come with packets that bring none, and a plain call's reply brings some.
    for _ in 0..5 {
        send_files_on(
            &mut daemon,
            &bytes_of(Packet {
                header: Header::keepalive(1),
                payload: Vec::new().into(),
            }),
        )
        .await;
        daemon.packet().await.unwrap();
    }
    let domains = {
        let libvirt = libvirt.clone();
        tokio::spawn(async move { libvirt.domains().await })
    };
    let list = daemon.packet().await.unwrap().header;
    let header = Header {
        kind: MessageType::REPLY_WITH_FDS,
        ..reply_to(&list)
    };
    let payload = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0].to_vec().into();
    daemon.send(Packet { header, payload }).await;
    send_files(&mut daemon, 2).await;
    assert!(domains.await.unwrap().unwrap().is_empty());
    expect_usable(&libvirt, &mut daemon).await;
}

/// Sends bytes with a descriptor on the first of them.
async fn send_files_on(daemon: &mut MockDaemon, bytes: &[u8]) {
    daemon.raw_with_file(bytes, &file("stray")).await;
}

async fn others_come_than_were_announced() {
    let (libvirt, mut daemon) = connected().await;
    for (announced, with, without) in [(2, 1, 1), (1, 0, 1), (3, 0, 3)] {
        let running = calling(&libvirt, 0);
        let (header, _) = call(&mut daemon, 0).await;
        daemon
            .send(reply(&header, announced, MessageStatus::OK))
            .await;
        send_files(&mut daemon, with).await;
        daemon.raw(&vec![0; without]).await;
        let failed = running.await.unwrap().unwrap_err();
        let fault = match &failed {
            Error::Decode {
                source: DecodeFailure::Xdr(error),
                ..
            } => &error.fault,
            other => panic!("{other:?}"),
        };
        let expected = DecodeFault::Files {
            announced: usize::try_from(announced).unwrap(),
            came: with,
        };
        assert_eq!(*fault, expected);
        assert!(failed.maybe_executed());
        expect_usable(&libvirt, &mut daemon).await;
    }
}

async fn the_connection_ends_before_they_are_there() {
    for count in [0, 1] {
        let (libvirt, mut daemon) = connected().await;
        let running = calling(&libvirt, 4);
        let (header, came) = call(&mut daemon, 4).await;
        drop(came);
        daemon.send(reply(&header, 2, MessageStatus::OK)).await;
        send_files(&mut daemon, count).await;
        settle().await;
        drop(daemon);
        match running.await.unwrap().unwrap_err() {
            Error::Disconnected {
                cause,
                maybe_executed: true,
            } => {
                assert!(
                    matches!(*cause, EndCause::Frame(_) | EndCause::Io(_)),
                    "{cause}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    // While they wait to be sent.
    let (libvirt, mut daemon) = connected().await;
    let stuck: Vec<_> = (0..4).map(|_| calling(&libvirt, 3)).collect();
    let queued: Vec<_> = (0..4).map(|_| calling(&libvirt, 3)).collect();
    for _ in 0..4 {
        call(&mut daemon, 3).await;
    }
    settle().await;
    drop(daemon);
    for running in stuck.into_iter().chain(queued) {
        assert!(running.await.unwrap().unwrap_err().is_disconnected());
    }
}

async fn more_than_libvirt_allows_is_refused() {
    let (libvirt, mut daemon) = connected().await;
    let refused = calling(&libvirt, 33).await.unwrap().unwrap_err();
    assert!(
        refused.is_unsupported() && !refused.maybe_executed(),
        "{refused:?}"
    );
    expect_usable(&libvirt, &mut daemon).await;
    // What the daemon announces is held to it too.
    let running = calling(&libvirt, 1);
    let (header, _) = call(&mut daemon, 1).await;
    daemon.send(reply(&header, 33, MessageStatus::OK)).await;
    assert!(running.await.unwrap().unwrap_err().is_disconnected());
}

async fn nothing_is_sent_where_none_can_pass() {
    let (conn, mut daemon) = pair();
    let (libvirt, _) = tokio::join!(Libvirt::open(conn, quiet()), daemon.handshake());
    let libvirt = libvirt.unwrap();
    for count in [0, 1] {
        let refused = calling(&libvirt, count).await.unwrap().unwrap_err();
        assert!(
            refused.is_unsupported() && !refused.maybe_executed(),
            "{refused:?}"
        );
    }
    assert!(daemon.sent_by_now().await.is_empty());
}

async fn a_call_is_given_up_before_it_is_sent() {
    let (libvirt, mut daemon) = connected().await;
    let stuck: Vec<_> = (0..4).map(|_| calling(&libvirt, 0)).collect();
    settle().await;
    let waiting = calling(&libvirt, 5);
    settle().await;
    waiting.abort();
    assert!(waiting.await.is_err());
    for _ in 0..4 {
        let (header, _) = call(&mut daemon, 0).await;
        daemon.send(reply(&header, 0, MessageStatus::OK)).await;
    }
    for running in stuck {
        running.await.unwrap().unwrap();
    }
    expect_usable(&libvirt, &mut daemon).await;
}

/// Runs one of them, and fails if a descriptor is left behind.
async fn check(name: &str, scenario: impl Future<Output = ()>) {
    let before = open_now();
    scenario.await;
    let closed = async {
        while open_now() != before {
            tokio::task::yield_now().await;
        }
    };
    let closed = tokio::time::timeout(PATIENCE, closed).await;
    assert!(
        closed.is_ok(),
        "{name}: {before} before, {} after",
        open_now()
    );
}

#[tokio::test]
async fn descriptors_arrive_or_are_closed_whatever_happens() {
    // What the runtime opens, it opens with the first socket.
    let (libvirt, daemon) = connected().await;
    drop(daemon);
    libvirt.closed().await;
    macro_rules! check_all {
        ($($scenario:ident)*) => { $(check(stringify!($scenario), $scenario()).await;)* };
    }
    check_all! {
        they_arrive_both_ways_in_order
        replies_that_cross_each_bring_their_own
        they_wait_for_their_bytes
        nobody_takes_them
        others_come_than_were_announced
        the_connection_ends_before_they_are_there
        more_than_libvirt_allows_is_refused
        nothing_is_sent_where_none_can_pass
        a_call_is_given_up_before_it_is_sent
    }
}
