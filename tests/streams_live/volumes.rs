//! Volumes of a storage pool: by the traits of I/O, with holes, aborted, and with errors.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use libvirt_qmp::protocol::remote::StorageVolDownloadArgs;
use libvirt_qmp::protocol::remote::procedure::StorageVolDownload;
use libvirt_qmp::{Error, LibvirtError, StreamItem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::open;
use super::support::lab::Lab;
use super::support::storage::{MIB, Pattern, Pool, SPARSE, download, upload};

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_file_is_copied_by_the_io_traits() {
    let lab = Lab::start();
    let libvirt = open(&lab).await;
    let pool = Pool::new(&lab);
    let size = 3 * MIB + 17;
    let volume = pool.volume(&lab, &libvirt, "small", size).await;
    let pattern = Pattern::new();
    let content: Vec<u8> = (0..size).map(|place| pattern.at(place, 1)[0]).collect();
    let mut stream = upload(&libvirt, &volume, 0, 0).await;
    let copied = tokio::io::copy(&mut &content[..], &mut stream)
        .await
        .unwrap();
    assert_eq!(copied, size as u64);
    stream.shutdown().await.unwrap();
    assert!(fs::read(pool.path("small")).unwrap() == content);
    let mut stream = download(&libvirt, &volume, 0).await;
    let mut came = Vec::new();
    stream.read_to_end(&mut came).await.unwrap();
    assert!(came == content);
    stream.shutdown().await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn holes_stay_holes_both_ways() {
    let lab = Lab::start();
    let libvirt = open(&lab).await;
    let pool = Pool::new(&lab);
    let size = 64 * MIB;
    let volume = pool.volume(&lab, &libvirt, "sparse", size).await;
    let pattern = Pattern::new();
    // Data in the first megabyte and in the last, and nothing between.
    let mut stream = upload(&libvirt, &volume, 0, SPARSE).await;
    for place in [0, MIB / 2] {
        stream.write_all(pattern.at(place, MIB / 2)).await.unwrap();
    }
    stream.send_hole(62 << 20).await.unwrap();
    for place in [63 * MIB, 63 * MIB + MIB / 2] {
        stream.write_all(pattern.at(place, MIB / 2)).await.unwrap();
    }
    stream.finish().await.unwrap();
    let file = fs::metadata(pool.path("sparse")).unwrap();
    assert_eq!(file.len(), size as u64);
    let allocated = file.blocks() * 512;
    assert!(allocated < 8 << 20, "{allocated} bytes allocated");

    let mut stream = download(&libvirt, &volume, SPARSE).await;
    let (mut place, mut holes) = (0, 0);
    while let Some(item) = stream.recv().await.unwrap() {
        match item {
            StreamItem::Data(data) => {
                let expected = |at: usize| match at / MIB {
                    0 | 63 => pattern.at(at, 1)[0],
                    _ => 0,
                };
                let same = data
                    .iter()
                    .enumerate()
                    .all(|(at, byte)| *byte == expected(place + at));
                assert!(same, "not what was sent, at {place}");
                place += data.len();
            }
            StreamItem::Hole(length) => {
                holes += length;
                place += usize::try_from(length).unwrap();
            }
        }
    }
    assert_eq!(place, size);
    assert!(holes > 50 << 20, "{holes} bytes of holes");
    stream.finish().await.unwrap();

    // Read as a file, it is zeros.
    let mut stream = download(&libvirt, &volume, SPARSE).await;
    let mut came = Vec::new();
    stream.read_to_end(&mut came).await.unwrap();
    assert!(came == fs::read(pool.path("sparse")).unwrap());
    stream.finish().await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_is_aborted_half_way_leaves_volume_and_connection_usable() {
    let lab = Lab::start();
    let libvirt = open(&lab).await;
    let pool = Pool::new(&lab);
    let size = 64 * MIB;
    let volume = pool.volume(&lab, &libvirt, "half", size).await;
    let pattern = Pattern::new();
    for round in 0..6 {
        let mut stream = upload(&libvirt, &volume, 0, 0).await;
        for place in (0..size / 2).step_by(MIB / 2) {
            stream.write_all(pattern.at(place, MIB / 2)).await.unwrap();
        }
        match round % 2 {
            0 => stream.abort().await.unwrap(),
            _ => drop(stream),
        }
        let mut stream = download(&libvirt, &volume, 0).await;
        stream.recv().await.unwrap().unwrap();
        match round % 2 {
            0 => stream.abort().await.unwrap(),
            _ => drop(stream),
        }
        libvirt.domains().await.unwrap();
    }
    // Then all of it.
    let mut stream = upload(&libvirt, &volume, 0, 0).await;
    for place in (0..size).step_by(MIB / 2) {
        stream.write_all(pattern.at(place, MIB / 2)).await.unwrap();
    }
    stream.finish().await.unwrap();
    let content = fs::read(pool.path("half")).unwrap();
    assert_eq!(content.len(), size);
    assert!(pattern.matches(0, &content));
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn more_than_was_announced_fails_the_upload_and_not_the_connection() {
    let lab = Lab::start();
    let libvirt = open(&lab).await;
    let pool = Pool::new(&lab);
    let volume = pool.volume(&lab, &libvirt, "full", 4 * MIB).await;
    let mut stream = upload(&libvirt, &volume, MIB, 0).await;
    let data = vec![7; MIB];
    // The error comes to a later write, where there is one.
    let written = async {
        for _ in 0..100 {
            stream.write_all(&data).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let failed = written.await.unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::StorageFull, "{failed:?}");
    let error = stream.finish().await.unwrap_err();
    let full = |error: &LibvirtError| error.code == LibvirtError::SYSTEM_ERROR && error.int1 == 28;
    assert!(
        matches!(&error, Error::Libvirt(error) if full(error)),
        "{error:?}"
    );
    drop(stream);
    // To the end, where there is none.
    let mut stream = upload(&libvirt, &volume, MIB, 0).await;
    stream.write_all(&data).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let error = stream.finish().await.unwrap_err();
    assert!(
        matches!(&error, Error::Libvirt(error) if full(error)),
        "{error:?}"
    );
    libvirt.domains().await.unwrap();
    let mut stream = download(&libvirt, &volume, 0).await;
    stream.recv().await.unwrap().unwrap();
    // Nothing is refused by halves: a volume that is not there opens no stream.
    lab.virsh(&["vol-delete", "full", "--pool", "pool"]);
    let args = StorageVolDownloadArgs {
        vol: volume.vol.clone(),
        offset: 0,
        length: 0,
        flags: Default::default(),
    };
    let refused = libvirt
        .open_stream::<StorageVolDownload>(&args)
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Libvirt(_)), "{refused:?}");
}

/// The daemon pings every 2 s and closes a connection that it has not heard from for 8 s.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_download_that_is_left_alone_outlives_the_daemons_patience() {
    let lab = Lab::start_with(|| {
        "listen_tls = 0\nkeepalive_interval = 2\nkeepalive_count = 3\n".to_owned()
    });
    let libvirt = open(&lab).await;
    let pool = Pool::new(&lab);
    let size = 64 * MIB;
    let volume = pool.volume(&lab, &libvirt, "slow", size).await;
    let mut stream = download(&libvirt, &volume, 0).await;
    // There is no event to wait for: that nothing happens is what this is about.
    tokio::time::sleep(Duration::from_secs(14)).await;
    let mut came = Vec::new();
    stream.read_to_end(&mut came).await.unwrap();
    assert_eq!(came.len(), size);
    stream.finish().await.unwrap();
    libvirt.domains().await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_daemon_that_dies_ends_its_streams() {
    let lab = Lab::start();
    let libvirt = open(&lab).await;
    let pool = Pool::new(&lab);
    let volume = pool.volume(&lab, &libvirt, "cut", 64 * MIB).await;
    let mut stream = download(&libvirt, &volume, 0).await;
    stream.recv().await.unwrap().unwrap();
    lab.kill_daemon();
    let error = loop {
        match stream.recv().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cut download ends well"),
            Err(error) => break error,
        }
    };
    assert!(error.is_disconnected(), "{error:?}");
}
