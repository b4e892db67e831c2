//! How much of a stream may wait, on either side, and what goes on meanwhile: a daemon that floods, consumers that do not
//! take, a daemon that does not read.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use libvirt_qmp::packet::{Header, MessageStatus, Packet};
use libvirt_qmp::protocol::Message;
use libvirt_qmp::protocol::keepalive::procedure::Pong;
use libvirt_qmp::protocol::remote::procedure::ConnectListAllDomains;
use libvirt_qmp::{Config, Error, Libvirt, Phase, Stream, StreamItem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::streams::{Console, Download, FULL, Upload, abort, data, end, expect_usable, ok, open};
use super::support::mock::{MockDaemon, bytes_of, id, poll_once, quiet, session, settle};

/// What may wait before the reader pauses, and while somebody waits for what comes after it.
const WINDOW: usize = 1 << 20;
const MOST_WAITING: usize = 16 << 20;

/// What is between a daemon of a test and the window: the pipe, the read buffer, and the packets on either side.
const BETWEEN: usize = 2 << 20;

/// Sends data packets until the client takes no more. Returns what it has taken, and the task that still sends one.
async fn flood(
    mut daemon: MockDaemon,
    call: Header,
    size: usize,
) -> (usize, JoinHandle<MockDaemon>) {
    let mut sent = 0;
    loop {
        let packet = data(&call, vec![0x5a; size]);
        let mut sending = tokio::spawn(async move {
            daemon.send(packet).await;
            daemon
        });
        settle().await;
        match poll_once(pin!(&mut sending)).await {
            Poll::Ready(done) => daemon = done.unwrap(),
            Poll::Pending => return (sent, sending),
        }
        sent += size;
        assert!(sent < 2 * MOST_WAITING, "the client takes it all");
    }
}

/// Takes data until nothing is there.
async fn drain(stream: &mut Stream) -> usize {
    let mut taken = 0;
    loop {
        settle().await;
        match poll_once(pin!(stream.recv())).await {
            Poll::Ready(Ok(Some(StreamItem::Data(data)))) => taken += data.len(),
            Poll::Ready(other) => panic!("{other:?}"),
            Poll::Pending => return taken,
        }
    }
}

fn calling(libvirt: &Libvirt) -> JoinHandle<Result<Vec<libvirt_qmp::Domain>, Error>> {
    let libvirt = libvirt.clone();
    tokio::spawn(async move { libvirt.domains().await })
}

/// An empty answer to a list of domains.
fn list_reply(call: &Header) -> Packet {
    let header = super::support::mock::reply_to(call);
    Packet {
        header,
        payload: vec![0; 8].into(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_is_bounded_whatever_its_packets() {
    for size in [FULL, 4000, 100] {
        let (libvirt, mut daemon) = session(quiet()).await;
        let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
        let (sent, sending) = flood(daemon, call, size).await;
        assert!(sent < WINDOW + BETWEEN, "{sent} bytes in packets of {size}");
        // Taking it is what lets the rest come.
        let taken = drain(&mut stream).await;
        assert_eq!(taken, sent + size);
        let mut daemon = sending.await.unwrap();
        daemon.send(end(&call)).await;
        assert_eq!(stream.recv().await.unwrap(), None);
        expect_usable(&libvirt, &mut daemon).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_for_all_streams_together() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(open::<Download>(&libvirt, &mut daemon, 0).await);
    }
    for (_, call) in &streams {
        for _ in 0..8 {
            let bytes = bytes_of(data(call, vec![0; WINDOW / 64]));
            daemon.raw(&bytes).await;
        }
    }
    let (first, call) = streams.swap_remove(0);
    let (sent, sending) = flood(daemon, call, FULL).await;
    assert!(sent < BETWEEN, "{sent}");
    // Those that are dropped make room.
    drop(streams);
    let mut daemon = sending.await.unwrap();
    for _ in 0..7 {
        assert_eq!(
            daemon.packet().await.unwrap().header.status,
            MessageStatus::ERROR
        );
    }
    drop(first);
    assert_eq!(daemon.packet().await.unwrap(), abort(&call));
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_past_what_nobody_has_taken() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let (sent, sending) = flood(daemon, call, FULL).await;
    // By the same task that should take the data: it waits for the reply first.
    let began = Instant::now();
    let waiting = calling(&libvirt);
    let mut daemon = sending.await.unwrap();
    let list = daemon.expect::<ConnectListAllDomains>().await.header;
    daemon.send(data(&call, vec![1; 8 << 20])).await;
    daemon.send(list_reply(&list)).await;
    waiting.await.unwrap().unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(drain(&mut stream).await, sent + FULL + (8 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_stream_is_given_up_when_a_call_waits_behind_it() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let waiting = calling(&libvirt);
    let list = daemon.expect::<ConnectListAllDomains>().await.header;
    let (sent, sending) = flood(daemon, call, FULL).await;
    let bound = MOST_WAITING - FULL..MOST_WAITING + BETWEEN;
    assert!(bound.contains(&sent), "{sent}");
    let began = Instant::now();
    let mut daemon = sending.await.unwrap();
    daemon.send(list_reply(&list)).await;
    waiting.await.unwrap().unwrap();
    let held_up = began.elapsed();
    assert!((30..=35).contains(&held_up.as_secs()), "{held_up:?}");
    let error = stream.recv().await.unwrap_err();
    let consumer = matches!(
        error,
        Error::Timeout {
            phase: Phase::Consumer,
            maybe_executed: true,
            ..
        }
    );
    assert!(consumer, "{error:?}");
    assert_eq!(daemon.packet().await.unwrap(), abort(&call));
    daemon.send(ok(&call)).await;
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_stream_is_given_up_when_another_is_waited_for() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut forgotten, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let (mut read, read_call) = open::<Console>(&libvirt, &mut daemon, 0).await;
    let reading = tokio::spawn(async move { read.read_u8().await.unwrap() });
    settle().await;
    let (sent, sending) = flood(daemon, call, FULL).await;
    assert!(sent >= MOST_WAITING - FULL, "{sent}");
    let mut daemon = sending.await.unwrap();
    daemon.send(data(&read_call, "x")).await;
    assert_eq!(reading.await.unwrap(), b'x');
    assert!(forgotten.recv().await.unwrap_err().is_timeout());
}

/// Each look wakes the paused reader, which must not begin to count anew by it.
#[tokio::test(start_paused = true)]
async fn a_forgotten_stream_is_given_up_also_where_the_other_is_looked_at_often() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut forgotten, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let (mut read, read_call) = open::<Console>(&libvirt, &mut daemon, 0).await;
    let reading = tokio::spawn(async move {
        let look = Duration::from_secs(1);
        loop {
            if let Ok(byte) = tokio::time::timeout(look, read.read_u8()).await {
                return byte.unwrap();
            }
        }
    });
    settle().await;
    let (sent, sending) = flood(daemon, call, FULL).await;
    assert!(sent >= MOST_WAITING - FULL, "{sent}");
    let sent = tokio::time::timeout(Duration::from_secs(40), sending).await;
    let mut daemon = sent.expect("the reader goes on").unwrap();
    daemon.send(data(&read_call, "x")).await;
    assert_eq!(reading.await.unwrap(), b'x');
    assert!(forgotten.recv().await.unwrap_err().is_timeout());
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_keeps_its_stream_while_a_call_waits() {
    let (libvirt, mut daemon) = session(Config::new().keepalive(None).call_timeout(None)).await;
    let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let waiting = calling(&libvirt);
    let list = daemon.expect::<ConnectListAllDomains>().await.header;
    let (_, sending) = flood(daemon, call, FULL).await;
    let serving = tokio::spawn(async move {
        let mut daemon = sending.await.unwrap();
        for _ in 0..40 {
            daemon.send(data(&call, vec![0; FULL])).await;
        }
        daemon.send(list_reply(&list)).await;
        daemon
    });
    while !waiting.is_finished() {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let item = stream.recv().await.unwrap();
        assert!(matches!(item, Some(StreamItem::Data(_))));
    }
    waiting.await.unwrap().unwrap();
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_stops_may_take_its_time_where_nobody_waits() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let (sent, sending) = flood(daemon, call, FULL).await;
    // Less than the patience of the daemon that sends, which is the test's.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(drain(&mut stream).await, sent + FULL);
    expect_usable(&libvirt, &mut sending.await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_held_up_connection_is_kept_alive() {
    let config = Config::new().keepalive(Some((Duration::from_secs(5), 2)));
    let (libvirt, mut daemon) = session(config).await;
    let (stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let (_, sending) = flood(daemon, call, FULL).await;
    // Long past the 15 s of our own keepalive; the daemon, which gives up after 30 s, hears from us.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(!sending.is_finished());
    drop(stream);
    let mut daemon = sending.await.unwrap();
    let mut pongs = 0;
    loop {
        let packet = daemon.packet().await.unwrap();
        if packet == abort(&call) {
            break;
        }
        assert_eq!(packet.header, Header::keepalive(Pong::NUMBER));
        pongs += 1;
    }
    assert!((18..=20).contains(&pongs), "{pongs}");
    expect_usable(&libvirt, &mut daemon).await;
}

#[tokio::test(start_paused = true)]
async fn deadlines_and_close_hold_while_the_reader_is_held_up() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (_stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let config = Duration::from_secs(60);
    let waiting = calling(&libvirt);
    daemon.expect::<ConnectListAllDomains>().await;
    let (_, sending) = flood(daemon, call, FULL).await;
    let began = Instant::now();
    assert!(waiting.await.unwrap().unwrap_err().is_timeout());
    assert!(began.elapsed() <= config);
    let daemon = sending.await.unwrap();
    let (_, sending) = {
        let (stream, call) = {
            let mut daemon = daemon;
            assert_eq!(daemon.packet().await.unwrap(), abort(&call));
            let opened = open::<Download>(&libvirt, &mut daemon, 0).await;
            (opened.0, (opened.1, daemon))
        };
        let flooded = flood(call.1, call.0, FULL).await;
        std::mem::forget(stream);
        flooded
    };
    let began = Instant::now();
    libvirt.close().await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(5));
    sending.abort();
}

#[tokio::test(start_paused = true)]
async fn what_the_daemon_does_not_read_is_not_taken_from_the_writer() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Upload>(&libvirt, &mut daemon, 0).await;
    let all: Vec<u8> = (0..2_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut written = 0;
    loop {
        settle().await;
        match poll_once(pin!(stream.write(&all[written..]))).await {
            Poll::Ready(count) => written += count.unwrap(),
            Poll::Pending => break,
        }
    }
    assert!(written < BETWEEN, "{written}");
    assert!(poll_once(pin!(stream.flush())).await.is_pending());
    // A call behind it waits for no more than that.
    let expected = all.clone();
    let writing = tokio::spawn(async move {
        stream.write_all(&all[written..]).await.unwrap();
        stream.flush().await.unwrap();
        stream
    });
    let waiting = calling(&libvirt);
    let (mut came, mut before_call) = (Vec::new(), None);
    while came.len() < expected.len() {
        let Packet { header, payload } = daemon.packet().await.unwrap();
        if (header.program, header.procedure) == id::<ConnectListAllDomains>() {
            before_call = Some(came.len());
            daemon.send(list_reply(&header)).await;
            continue;
        }
        came.extend_from_slice(&payload);
    }
    assert!(came == expected);
    assert!(before_call.unwrap() < BETWEEN, "{before_call:?}");
    waiting.await.unwrap().unwrap();
    drop(writing.await.unwrap());
    assert_eq!(daemon.packet().await.unwrap(), abort(&call));
}

/// A copy from one stream to another on the same connection, by one task.
#[tokio::test(start_paused = true)]
async fn a_stream_can_be_copied_into_another_of_the_same_connection() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut from, from_call) = open::<Download>(&libvirt, &mut daemon, 0).await;
    let (mut to, to_call) = open::<Upload>(&libvirt, &mut daemon, 0).await;
    let copying = tokio::spawn(async move {
        let copied = tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.shutdown().await.unwrap();
        from.finish().await.unwrap();
        copied
    });
    // Each time as much as may wait, before any of it is read again.
    let round = 4 * FULL;
    let mut came = 0;
    for number in 1..=8 {
        for _ in 0..4 {
            daemon.send(data(&from_call, vec![number; FULL])).await;
        }
        settle().await;
        while came < usize::from(number) * round {
            let packet = daemon.packet().await.unwrap();
            assert_eq!(packet.header, data(&to_call, "").header);
            assert!(packet.payload.iter().all(|byte| *byte == number));
            came += packet.payload.len();
        }
    }
    daemon.send(end(&from_call)).await;
    assert_eq!(daemon.packet().await.unwrap(), ok(&to_call));
    daemon.send(ok(&to_call)).await;
    assert_eq!(daemon.packet().await.unwrap(), ok(&from_call));
    daemon.send(ok(&from_call)).await;
    assert_eq!(copying.await.unwrap(), came as u64);
}
