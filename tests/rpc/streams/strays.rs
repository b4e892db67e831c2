//! Packets that no daemon should send, or not yet, or not here.

use super::*;

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

/// Against all rules; whoever reads must learn of the end all the same.
#[tokio::test(start_paused = true)]
async fn a_second_reply_does_not_cut_an_open_stream_off() {
    for status in [MessageStatus::OK, MessageStatus::ERROR] {
        let (libvirt, mut daemon) = session(quiet()).await;
        let (mut stream, call) = open::<Download>(&libvirt, &mut daemon, 0).await;
        let reply = packet(&call, MessageType::REPLY, status, encoded(&disk_full()));
        daemon.send(reply).await;
        daemon.send(data(&call, "x")).await;
        drop(daemon);
        let minute = std::time::Duration::from_secs(60);
        let mut next = async || tokio::time::timeout(minute, stream.recv()).await.unwrap();
        assert_eq!(next().await.unwrap(), Some(StreamItem::Data("x".into())));
        let error = next().await.unwrap_err();
        assert!(error.is_disconnected(), "{error:?}");
    }
}
