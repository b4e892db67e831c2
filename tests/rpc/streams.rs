//! Streams: opening, reading to the end, writing, finishing, aborting, and what a daemon may do wrong with them.

use std::io::ErrorKind;

use bytes::Bytes;
use libvirt_qmp::packet::{Header, MessageStatus, MessageType, Packet};
use libvirt_qmp::protocol::remote::DomainMigratePrepareTunnel3ParamsRet;
use libvirt_qmp::protocol::remote::procedure::DomainMigratePrepareTunnel3Params;
use libvirt_qmp::protocol::rpc::MessageError;
use libvirt_qmp::protocol::{Procedure, remote};
use libvirt_qmp::{EndCause, Error, Libvirt, LibvirtError, Phase, Stream, StreamItem, TypedParam};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::support::mock::{
    MockDaemon, encoded, error, poll_once, quiet, reply_to, session, settle,
};

/// The most that libvirt puts into one packet.
pub(super) const FULL: usize = 262_120;

/// `VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM`, and the same for downloads.
pub(super) const SPARSE: u32 = 1;

/// A procedure that opens a stream, with nothing but flags for arguments: they are the last of them in truth too.
macro_rules! stream_procedure {
    ($name:ident, $number:literal, $wire:literal) => {
        pub(super) struct $name;

        impl Procedure for $name {
            const PROGRAM: u32 = remote::PROGRAM;
            const VERSION: u32 = remote::VERSION;
            const NUMBER: i32 = $number;
            const NAME: &'static str = $wire;
            type Args = u32;
            type Reply = ();
        }
    };
}

stream_procedure!(Upload, 208, "REMOTE_PROC_STORAGE_VOL_UPLOAD");
stream_procedure!(Download, 209, "REMOTE_PROC_STORAGE_VOL_DOWNLOAD");
stream_procedure!(Console, 201, "REMOTE_PROC_DOMAIN_OPEN_CONSOLE");

/// Opens a stream by a task of its own.
pub(super) fn opening<P: Procedure<Args = u32, Reply = ()>>(
    libvirt: &Libvirt,
    flags: u32,
) -> JoinHandle<Result<Stream, Error>> {
    let libvirt = libvirt.clone();
    tokio::spawn(async move {
        let (_, stream) = libvirt.open_stream::<P>(&flags).await?;
        Ok(stream)
    })
}

/// An open stream, and the header of its call.
pub(super) async fn open<P: Procedure<Args = u32, Reply = ()>>(
    libvirt: &Libvirt,
    daemon: &mut MockDaemon,
    flags: u32,
) -> (Stream, Header) {
    let opening = opening::<P>(libvirt, flags);
    let call = daemon.expect::<P>().await;
    assert_eq!(call.args, flags);
    daemon.reply::<P>(&call, &()).await;
    (opening.await.unwrap().unwrap(), call.header)
}

/// A packet of the stream that `call` opened.
pub(super) fn packet(
    call: &Header,
    kind: MessageType,
    status: MessageStatus,
    payload: impl Into<Bytes>,
) -> Packet {
    let header = Header {
        kind,
        status,
        ..*call
    };
    Packet {
        header,
        payload: payload.into(),
    }
}

pub(super) fn data(call: &Header, payload: impl Into<Bytes>) -> Packet {
    packet(call, MessageType::STREAM, MessageStatus::CONTINUE, payload)
}

/// The end of the data.
pub(super) fn end(call: &Header) -> Packet {
    data(call, Bytes::new())
}

/// The daemon's confirmation, and the client's word that all is well.
pub(super) fn ok(call: &Header) -> Packet {
    packet(call, MessageType::STREAM, MessageStatus::OK, Bytes::new())
}

/// The client's word that nothing more is wanted.
pub(super) fn abort(call: &Header) -> Packet {
    packet(
        call,
        MessageType::STREAM,
        MessageStatus::ERROR,
        Bytes::new(),
    )
}

fn failure(call: &Header, error: &MessageError) -> Packet {
    packet(
        call,
        MessageType::STREAM,
        MessageStatus::ERROR,
        encoded(error),
    )
}

/// The error of a full disk, as libvirt says it.
fn disk_full() -> MessageError {
    MessageError {
        int1: 28,
        ..error(
            LibvirtError::SYSTEM_ERROR,
            "cannot write to stream: No space left on device",
        )
    }
}

fn hole(call: &Header, length: i64) -> Packet {
    let payload = [&length.to_be_bytes()[..], &[0; 4]].concat();
    packet(
        call,
        MessageType::STREAM_HOLE,
        MessageStatus::CONTINUE,
        payload,
    )
}

fn item(text: &'static str) -> Option<StreamItem> {
    Some(StreamItem::Data(Bytes::from_static(text.as_bytes())))
}

/// The connection is as good as before: a call is answered, and nothing else has been sent.
pub(super) async fn expect_usable(libvirt: &Libvirt, daemon: &mut MockDaemon) {
    let libvirt = libvirt.clone();
    let calling = tokio::spawn(async move { libvirt.domains().await.unwrap() });
    let call = daemon
        .expect::<remote::procedure::ConnectListAllDomains>()
        .await;
    let reply = remote::ConnectListAllDomainsRet {
        domains: Vec::new(),
        ret: 0,
    };
    daemon
        .reply::<remote::procedure::ConnectListAllDomains>(&call, &reply)
        .await;
    assert!(calling.await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_download_is_read_to_its_end_and_finished() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    daemon.send(data(&call, "one ")).await;
    daemon.send(data(&call, vec![b'x'; 2 * FULL])).await;
    daemon.send(data(&call, "three")).await;
    daemon.send(end(&call)).await;
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, format!("one {}three", "x".repeat(2 * FULL)));
    assert_eq!(stream.recv().await.unwrap(), None);
    assert!(daemon.sent_by_now().await.is_empty());
    let daemon_side = async {
        assert_eq!(daemon.packet().await.unwrap(), ok(&call));
        daemon.send(ok(&call)).await;
    };
    let (finished, ()) = tokio::join!(stream.finish(), daemon_side);
    finished.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(stream.recv().await.unwrap(), None);
    let error = stream.write(b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    drop(stream);
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn data_may_come_before_the_reply_that_opens_the_stream() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let opening = opening::<Download>(&libvirt, 0);
    let call = daemon.expect::<Download>().await;
    daemon.send(data(&call.header, "early")).await;
    daemon.send(end(&call.header)).await;
    daemon.reply::<Download>(&call, &()).await;
    let mut stream = opening.await.unwrap().unwrap();
    assert_eq!(stream.recv().await.unwrap(), item("early"));
    assert_eq!(stream.recv().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_refused_is_none() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let opening = opening::<Download>(&libvirt, 0);
    let call = daemon.expect::<Download>().await;
    daemon.send(data(&call.header, "early")).await;
    daemon.error(&call, 50, "Storage volume not found").await;
    let refused = opening.await.unwrap().unwrap_err();
    assert_eq!(refused.libvirt_code(), Some(50));
    daemon.send(data(&call.header, "late")).await;
    expect_usable(&libvirt, &mut daemon).await;
}

/// The reply that opens it has something to say too, and the data follow on the same serial.
#[tokio::test(start_paused = true)]
async fn a_tunnel_of_migration_takes_data_after_its_reply() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let opening = tokio::spawn({
        let libvirt = libvirt.clone();
        async move {
            let params = [TypedParam::new("bandwidth", 9_u64)];
            libvirt
                .domain_migrate_prepare_tunnel3_params(&params, b"from", Default::default())
                .await
        }
    });
    let call = daemon.expect::<DomainMigratePrepareTunnel3Params>().await;
    assert_eq!(call.args.cookie_in, b"from");
    let reply = DomainMigratePrepareTunnel3ParamsRet {
        cookie_out: b"back".to_vec(),
    };
    daemon
        .reply::<DomainMigratePrepareTunnel3Params>(&call, &reply)
        .await;
    let (cookie, mut stream) = opening.await.unwrap().unwrap();
    assert_eq!(cookie, b"back");
    let writing = tokio::spawn(async move {
        stream.write_all(b"memory").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    for expected in [data(&call.header, &b"memory"[..]), ok(&call.header)] {
        assert_eq!(daemon.packet().await.unwrap(), expected);
    }
    daemon.send(ok(&call.header)).await;
    writing.await.unwrap();
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_written_leaves_in_full_packets_and_in_order() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Upload>(&libvirt, &mut daemon, 0).await;
    let all: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let expected = all.clone();
    let writing = tokio::spawn(async move {
        // No bytes are no packet: an empty one would end the stream.
        assert_eq!(stream.write(b"").await.unwrap(), 0);
        for piece in all.chunks(7000) {
            stream.write_all(piece).await.unwrap();
        }
        stream.flush().await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let (mut came, mut packets) = (Vec::new(), 0);
    loop {
        let Packet { header, payload } = daemon.packet().await.unwrap();
        if header.status == MessageStatus::OK {
            assert_eq!(Packet { header, payload }, ok(&call));
            break;
        }
        assert_eq!(header, data(&call, "").header);
        assert!((1..=FULL).contains(&payload.len()), "{}", payload.len());
        came.extend_from_slice(&payload);
        packets += 1;
    }
    assert!(came == expected);
    // What waits is gathered: the pipe is slower than the writer.
    assert!(packets < 100, "{packets} packets");
    assert!(!writing.is_finished());
    daemon.send(ok(&call)).await;
    writing.await.unwrap();
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn the_errors_of_the_last_writes_show_up_at_the_end() {
    let (libvirt, mut daemon) = session(quiet()).await;
    for shutdown in [false, true] {
        let (mut stream, call) = open::<Upload>(&libvirt, &mut daemon, 0).await;
        stream
            .write_all(b"more than there is room for")
            .await
            .unwrap();
        let ending = tokio::spawn(async move {
            let ended = match shutdown {
                false => stream.finish().await.map_err(std::io::Error::other),
                true => stream.shutdown().await,
            };
            (stream, ended)
        });
        assert_eq!(
            daemon.packet().await.unwrap().header.status,
            MessageStatus::CONTINUE
        );
        assert_eq!(daemon.packet().await.unwrap(), ok(&call));
        daemon.send(failure(&call, &disk_full())).await;
        // The answer to our own end crosses it.
        daemon.send(ok(&call)).await;
        let (mut stream, ended) = ending.await.unwrap();
        let failed = ended.unwrap_err();
        if shutdown {
            assert_eq!(failed.kind(), ErrorKind::StorageFull);
        }
        let inner = failed.get_ref().unwrap().downcast_ref::<Error>().unwrap();
        assert!(
            matches!(inner, Error::Libvirt(error) if error.int1 == 28),
            "{inner:?}"
        );
        assert_eq!(stream.finish().await.unwrap_err().libvirt_code(), Some(38));
        drop(stream);
        expect_usable(&libvirt, &mut daemon).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_middle_reaches_reader_writer_and_finish() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Console>(&libvirt, &mut daemon, 0).await;
    daemon.send(data(&call, "before")).await;
    daemon.send(failure(&call, &disk_full())).await;
    settle().await;
    assert_eq!(stream.recv().await.unwrap(), item("before"));
    for _ in 0..2 {
        let error = stream.recv().await.unwrap_err();
        assert_eq!(error.libvirt_code(), Some(LibvirtError::SYSTEM_ERROR));
    }
    let mut buffer = [0; 4];
    let read = stream.read(&mut buffer).await.unwrap_err();
    let written = stream.write(b"x").await.unwrap_err();
    let flushed = stream.flush().await.unwrap_err();
    for failed in [read, written, flushed] {
        assert_eq!(failed.kind(), ErrorKind::StorageFull);
    }
    assert_eq!(stream.finish().await.unwrap_err().libvirt_code(), Some(38));
    // The daemon has forgotten the stream: there is nothing to abort.
    drop(stream);
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_wakes_those_who_wait() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (stream, call) = open::<Console>(&libvirt, &mut daemon, 0).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let reading = tokio::spawn(async move { read.read_u8().await.unwrap_err() });
    let writing = tokio::spawn(async move {
        let big = vec![0; 16 * FULL];
        write.write_all(&big).await.unwrap_err()
    });
    settle().await;
    assert!(!reading.is_finished() && !writing.is_finished());
    daemon.send(failure(&call, &disk_full())).await;
    assert_eq!(reading.await.unwrap().kind(), ErrorKind::StorageFull);
    assert_eq!(writing.await.unwrap().kind(), ErrorKind::StorageFull);
}

#[tokio::test(start_paused = true)]
async fn a_console_is_read_and_written_at_once() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (stream, call) = open::<Console>(&libvirt, &mut daemon, 0).await;
    let (mut read, mut write) = tokio::io::split(stream);
    for round in 0..10 {
        write
            .write_all(format!("in {round}").as_bytes())
            .await
            .unwrap();
        assert_eq!(
            daemon.packet().await.unwrap(),
            data(&call, format!("in {round}"))
        );
        daemon.send(data(&call, format!("out{round}"))).await;
        let mut came = [0; 4];
        read.read_exact(&mut came).await.unwrap();
        assert_eq!(came, format!("out{round}").as_bytes());
    }
    drop((read, write));
    assert_eq!(daemon.packet().await.unwrap(), abort(&call));
}

#[tokio::test(start_paused = true)]
async fn aborting_waits_until_the_daemon_has_let_go() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let aborting = tokio::spawn(stream.abort());
    assert_eq!(daemon.packet().await.unwrap(), abort(&call));
    // What is under way comes first, and is nobody's.
    daemon.send(data(&call, vec![0; FULL])).await;
    settle().await;
    assert!(!aborting.is_finished());
    daemon.send(ok(&call)).await;
    aborting.await.unwrap().unwrap();
    // An error in place of the confirmation is the daemon's own end of it.
    let (stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let aborting = tokio::spawn(stream.abort());
    assert_eq!(daemon.packet().await.unwrap(), abort(&call));
    daemon.send(failure(&call, &disk_full())).await;
    daemon.send(ok(&call)).await;
    aborting.await.unwrap().unwrap();
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_is_aborted_and_what_waits_is_not_sent() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Upload>(&libvirt, &mut daemon, 0).await;
    let big = vec![7; 64 * FULL];
    let mut written = 0;
    while let std::task::Poll::Ready(count) =
        poll_once(std::pin::pin!(stream.write(&big[written..]))).await
    {
        written += count.unwrap();
    }
    drop(stream);
    let mut came = 0;
    loop {
        let packet = daemon.packet().await.unwrap();
        if packet == abort(&call) {
            break;
        }
        assert_eq!(packet.header, data(&call, "").header);
        came += packet.payload.len();
    }
    assert!(came < written, "{came} of {written}");
    daemon.send(data(&call, "late")).await;
    daemon.send(ok(&call)).await;
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_is_dropped_leaves_no_stream_open() {
    let (libvirt, mut daemon) = session(quiet()).await;
    // Before it was sent: nothing is.
    let mut dropped = Box::pin(libvirt.open_stream::<Download>(&0));
    assert!(poll_once(dropped.as_mut()).await.is_pending());
    drop(dropped);
    assert!(daemon.sent_by_now().await.is_empty());
    // After that, and the daemon opens it.
    for refused in [false, true] {
        let opening = opening::<Download>(&libvirt, 0);
        let call = daemon.expect::<Download>().await;
        opening.abort();
        assert!(opening.await.unwrap_err().is_cancelled());
        daemon.send(data(&call.header, "early")).await;
        if refused {
            daemon.error(&call, 50, "no storage volume").await;
        } else {
            daemon.reply::<Download>(&call, &()).await;
            assert_eq!(daemon.packet().await.unwrap(), abort(&call.header));
            daemon.send(ok(&call.header)).await;
        }
        expect_usable(&libvirt, &mut daemon).await;
    }
    // Where its deadline passed it is the same.
    let (libvirt, mut daemon) = session(quiet()).await;
    let opening = opening::<Download>(&libvirt, 0);
    let call = daemon.expect::<Download>().await;
    assert!(opening.await.unwrap().unwrap_err().is_timeout());
    daemon.reply::<Download>(&call, &()).await;
    assert_eq!(daemon.packet().await.unwrap(), abort(&call.header));
}

#[tokio::test(start_paused = true)]
async fn holes_are_told_and_read_as_zeros() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, SPARSE).await;
    for packet in [
        data(&call, "a"),
        hole(&call, 5),
        hole(&call, 0),
        data(&call, "b"),
        hole(&call, 300_000),
        data(&call, "c"),
        hole(&call, i64::MAX),
    ] {
        daemon.send(packet).await;
    }
    assert_eq!(stream.recv().await.unwrap(), item("a"));
    assert_eq!(stream.recv().await.unwrap(), Some(StreamItem::Hole(5)));
    let mut read = vec![1; 300_000];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read[0], b'b');
    assert!(read[1..].iter().all(|byte| *byte == 0));
    // What reading has left of it.
    assert_eq!(stream.recv().await.unwrap(), Some(StreamItem::Hole(1)));
    assert_eq!(stream.recv().await.unwrap(), item("c"));
    let endless = i64::MAX.cast_unsigned();
    assert_eq!(
        stream.recv().await.unwrap(),
        Some(StreamItem::Hole(endless))
    );
}

#[tokio::test(start_paused = true)]
async fn holes_go_in_sparse_uploads_alone() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Upload>(&libvirt, &mut daemon, SPARSE).await;
    stream.write_all(b"a").await.unwrap();
    stream.send_hole(1 << 40).await.unwrap();
    stream.send_hole(0).await.unwrap();
    stream.write_all(b"b").await.unwrap();
    for packet in [data(&call, "a"), hole(&call, 1 << 40), data(&call, "b")] {
        assert_eq!(daemon.packet().await.unwrap(), packet);
    }
    let refused = stream.send_hole(1 << 63).await.unwrap_err();
    assert!(refused.is_unsupported(), "{refused:?}");
    drop(stream);
    assert_eq!(daemon.packet().await.unwrap(), abort(&call));
    for (mut stream, call) in [
        open::<Upload>(&libvirt, &mut daemon, 0).await,
        open::<Console>(&libvirt, &mut daemon, SPARSE).await,
    ] {
        let refused = stream.send_hole(1).await.unwrap_err();
        assert!(
            refused.is_unsupported() && !refused.maybe_executed(),
            "{refused:?}"
        );
        drop(stream);
        assert_eq!(daemon.packet().await.unwrap(), abort(&call));
    }
}

#[tokio::test(start_paused = true)]
async fn packets_of_no_open_stream_are_passed_over() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    for serial in [call.serial + 1, call.serial + 1000, u32::MAX, 0] {
        let never = Header { serial, ..call };
        for packet in [
            data(&never, "x"),
            end(&never),
            ok(&never),
            abort(&never),
            hole(&never, 9),
        ] {
            daemon.send(packet).await;
        }
    }
    // The serial of one that is open, with another procedure or program.
    let procedure = Header {
        procedure: 208,
        ..call
    };
    let program = Header { program: 7, ..call };
    for other in [procedure, program] {
        daemon.send(data(&other, "y")).await;
        daemon.send(failure(&other, &disk_full())).await;
    }
    daemon.send(data(&call, "ours")).await;
    assert_eq!(stream.recv().await.unwrap(), item("ours"));
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn what_no_stream_may_bring_ends_it_and_not_the_connection() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let cut_short = encoded(&disk_full()).slice(..9);
    type Bad = Box<dyn Fn(&Header) -> Vec<Packet>>;
    let stream_of = MessageType::STREAM;
    let cases: Vec<(bool, Bad)> = vec![
        // The daemon's own end of it, which cannot be decoded.
        (
            true,
            Box::new(move |call| {
                vec![packet(
                    call,
                    stream_of,
                    MessageStatus::ERROR,
                    cut_short.clone(),
                )]
            }),
        ),
        (false, Box::new(|call| vec![ok(call)])),
        (
            false,
            Box::new(move |call| vec![packet(call, stream_of, MessageStatus(7), "x")]),
        ),
        (false, Box::new(|call| vec![end(call), data(call, "x")])),
        (false, Box::new(|call| vec![end(call), hole(call, 1)])),
        (false, Box::new(|call| vec![hole(call, -1)])),
        (
            false,
            Box::new(|call| {
                vec![packet(
                    call,
                    MessageType::STREAM_HOLE,
                    MessageStatus::CONTINUE,
                    "short",
                )]
            }),
        ),
        (
            false,
            Box::new(|call| {
                vec![packet(
                    call,
                    MessageType::STREAM_HOLE,
                    MessageStatus::OK,
                    "",
                )]
            }),
        ),
    ];
    for (number, (is_over, bad)) in cases.into_iter().enumerate() {
        let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, SPARSE).await;
        for packet in bad(&call) {
            daemon.send(packet).await;
        }
        if !is_over {
            assert_eq!(
                daemon.packet().await.unwrap(),
                abort(&call),
                "case {number}"
            );
            daemon.send(ok(&call)).await;
        }
        let error = stream.finish().await.unwrap_err();
        assert!(
            matches!(error, Error::Decode { .. }),
            "case {number}: {error:?}"
        );
        drop(stream);
        expect_usable(&libvirt, &mut daemon).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_before_the_reply_aborts_the_stream_after_it() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let opening = opening::<Download>(&libvirt, 0);
    let call = daemon.expect::<Download>().await;
    daemon.send(hole(&call.header, -1)).await;
    daemon.reply::<Download>(&call, &()).await;
    assert_eq!(daemon.packet().await.unwrap(), abort(&call.header));
    let mut stream = opening.await.unwrap().unwrap();
    let error = stream.recv().await.unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error:?}");
    drop(stream);
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_end_of_data_is_one() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    daemon.send(end(&call)).await;
    daemon.send(end(&call)).await;
    assert_eq!(stream.recv().await.unwrap(), None);
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_not_confirmed_times_out_and_can_be_asked_for_again() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Upload>(&libvirt, &mut daemon, 0).await;
    for _ in 0..2 {
        let error = stream.finish().await.unwrap_err();
        let reply = matches!(
            error,
            Error::Timeout {
                phase: Phase::Reply,
                maybe_executed: true,
                ..
            }
        );
        assert!(reply, "{error:?}");
    }
    daemon.send(ok(&call)).await;
    stream.finish().await.unwrap();
    assert_eq!(daemon.sent_by_now().await, [ok(&call)]);
}

#[tokio::test(start_paused = true)]
async fn finishing_before_the_end_drops_what_comes() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    daemon.send(data(&call, "unread")).await;
    let finishing = tokio::spawn(async move {
        stream.finish().await.unwrap();
        stream.recv().await.unwrap()
    });
    assert_eq!(daemon.packet().await.unwrap(), ok(&call));
    daemon.send(data(&call, vec![0; FULL])).await;
    daemon.send(ok(&call)).await;
    assert_eq!(finishing.await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_is_the_end_of_its_streams() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Console>(&libvirt, &mut daemon, 0).await;
    let (mut finished, _) = open::<Upload>(&libvirt, &mut daemon, 0).await;
    let finishing = tokio::spawn(async move { finished.finish().await.unwrap_err() });
    settle().await;
    daemon.send(data(&call, "last words")).await;
    drop(daemon);
    let error = finishing.await.unwrap();
    assert!(
        error.is_disconnected() && error.maybe_executed(),
        "{error:?}"
    );
    assert_eq!(stream.recv().await.unwrap(), item("last words"));
    let error = stream.recv().await.unwrap_err();
    assert!(
        matches!(&error, Error::Disconnected { cause, .. }
        if matches!(**cause, EndCause::PeerClosed | EndCause::Io(_))),
        "{error:?}"
    );
    let write = stream.write(b"x").await.unwrap_err();
    assert_eq!(write.kind(), ErrorKind::ConnectionAborted);
    assert!(stream.abort().await.unwrap_err().is_disconnected());
}

#[tokio::test(start_paused = true)]
async fn a_stream_keeps_its_connection_open_and_close_ends_it() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Console>(&libvirt, &mut daemon, 0).await;
    drop(libvirt);
    daemon.send(data(&call, "still here")).await;
    assert_eq!(stream.recv().await.unwrap(), item("still here"));
    drop(stream);
    // The end of the connection says as much as an abort before it does.
    daemon.expect_cut().await;
    let _ = call;

    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, _) = open::<Console>(&libvirt, &mut daemon, 0).await;
    let (closed, ()) = tokio::join!(libvirt.close(), daemon.close());
    closed.unwrap();
    assert!(stream.recv().await.unwrap_err().is_disconnected());
}

#[tokio::test(start_paused = true)]
async fn open_streams_take_no_place_among_the_calls_in_flight() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(open::<Console>(&libvirt, &mut daemon, 0).await);
    }
    expect_usable(&libvirt, &mut daemon).await;
    for (stream, call) in streams {
        drop(stream);
        assert_eq!(daemon.packet().await.unwrap(), abort(&call));
    }
}

/// The reply to an opening call is like any other.
#[tokio::test(start_paused = true)]
async fn a_reply_of_another_procedure_to_an_opening_ends_the_connection() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let opening = opening::<Download>(&libvirt, 0);
    let call = daemon.expect::<Download>().await;
    let other = Header {
        procedure: 208,
        ..reply_to(&call.header)
    };
    daemon
        .send(Packet {
            header: other,
            payload: Bytes::new(),
        })
        .await;
    assert!(opening.await.unwrap().unwrap_err().is_disconnected());
}
