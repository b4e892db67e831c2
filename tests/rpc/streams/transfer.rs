//! Data both ways: its order, its packets and its holes.

use libvirt_qmp::TypedParam;
use libvirt_qmp::protocol::remote::DomainMigratePrepareTunnel3ParamsRet;
use libvirt_qmp::protocol::remote::procedure::DomainMigratePrepareTunnel3Params;

use super::*;

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
