//! A gigabyte through a storage pool of a real libvirtd, each way, in memory that does not grow. It is a program of its
//! own because it measures its memory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libvirt_qmp::{Config, Libvirt, StreamItem};
use support::lab::Lab;
use support::storage::{MIB, Pattern, Pool, download, upload};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

const GIB: usize = 1 << 30;

/// More than this process may grow by while a gigabyte passes.
const MOST_GROWTH: usize = 32 * MIB;

/// The most memory that this process has ever had, in bytes.
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Makes calls one after the other until told to stop. Says how many that were, and how long the slowest took.
async fn keep_calling(libvirt: &Libvirt, stop: &AtomicBool, count: &AtomicU32) -> Duration {
    let mut slowest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        libvirt.domains().await.unwrap();
        slowest = slowest.max(began.elapsed());
        count.fetch_add(1, Ordering::Relaxed);
    }
    slowest
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_gigabyte_goes_up_and_comes_down_while_calls_are_answered() {
    let lab = Lab::start();
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let config = Config::new().uri(lab.uri());
    let libvirt = Libvirt::open(conn, config).await.unwrap();
    let pool = Pool::new(&lab);
    let volume = pool.volume(&lab, &libvirt, "large", GIB).await;
    let pattern = Pattern::new();
    let before = peak_memory();
    let (stop, count) = (AtomicBool::new(false), AtomicU32::new(0));
    let transfers = async {
        let began = Instant::now();
        let mut stream = upload(&libvirt, &volume, GIB, 0).await;
        let mut place = 0;
        while place < GIB {
            let part = pattern.at(place, GIB - place);
            stream.write_all(part).await.unwrap();
            place += part.len();
        }
        stream.finish().await.unwrap();
        let up = (began.elapsed(), count.swap(0, Ordering::Relaxed));
        assert_eq!(fs::metadata(pool.path("large")).unwrap().len(), GIB as u64);

        let began = Instant::now();
        let mut stream = download(&libvirt, &volume, 0).await;
        let mut place = 0;
        while let Some(item) = stream.recv().await.unwrap() {
            let StreamItem::Data(data) = item else {
                panic!("a hole without asking for any");
            };
            assert!(
                pattern.matches(place, &data),
                "not what was sent, at {place}"
            );
            place += data.len();
        }
        assert_eq!(place, GIB);
        stream.finish().await.unwrap();
        let down = (began.elapsed(), count.load(Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        (up, down)
    };
    let ((up, down), slowest) = tokio::join!(transfers, keep_calling(&libvirt, &stop, &count));
    let growth = peak_memory() - before;
    println!(
        "up {:?} with {} calls, down {:?} with {} calls, slowest call {slowest:?}, grown by {growth} bytes",
        up.0, up.1, down.0, down.1
    );
    assert!(growth < MOST_GROWTH, "grown by {growth} bytes");
    assert!(up.1 > 10 && down.1 > 10, "{up:?} {down:?}");
}
