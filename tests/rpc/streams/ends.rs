//! How a stream ends: finished, aborted, dropped, by an error, with its connection.

use super::*;

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

/// libvirt may cut a text short within a character.
#[tokio::test(start_paused = true)]
async fn an_error_whose_text_is_not_utf_8_is_that_error() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let (mut stream, call) = open::<Console>(&libvirt, &mut daemon, 0).await;
    let mut wire = encoded(&error(38, "cut?")).to_vec();
    let at = wire.iter().position(|byte| *byte == b'?');
    wire[at.unwrap()] = 0xc3;
    let (kind, status) = (MessageType::STREAM, MessageStatus::ERROR);
    daemon.send(packet(&call, kind, status, wire)).await;
    let Err(Error::Libvirt(error)) = stream.recv().await else {
        panic!("the stream goes on");
    };
    assert_eq!(error.message.as_deref(), Some("cut\u{fffd}"));
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
