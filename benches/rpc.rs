//! How fast calls and events pass through a libvirt session, beside the floor of the same exchange.
//!
//! The server is a thread of this process. Run it pinned to one CPU, as `benches/run` does: otherwise the time that an idle
//! core takes to wake up is all that is seen. The client runs on tokio's current_thread runtime, and for information some
//! cases also run on a multi-thread runtime with one worker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that goes wrong stops at once"
)]

#[path = "support/floor.rs"]
mod floor;
#[path = "support/server.rs"]
mod server;
#[path = "support/table.rs"]
mod table;
#[path = "support/wire.rs"]
mod wire;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use futures_util::StreamExt;
use libvirt_qmp::protocol::remote::ConnectListAllDomainsRet;
use libvirt_qmp::protocol::{Procedure, remote};
use libvirt_qmp::{Config, Libvirt, LibvirtRpc, Monitor, StreamItem, xdr};
use tokio::runtime::{Builder, Runtime};

use floor::Floor;
use server::{DOMAINS, LARGE_REPLY, PACKET_DATA, Special, VOLUME_PACKETS};
use table::{FLOOR, Row, Unit};
use wire::DOMAIN;

const QUERY_STATUS: &str = r#"{"execute":"query-status"}"#;

const CALLERS: u32 = 64;
const MONITORS: u32 = 1000;

/// Calls of each caller in one iteration, so that starting the callers does not count.
const ROUNDS: u32 = 100;
const MONITOR_ROUNDS: u32 = 10;

/// Events in one iteration, all within the queue, so that a lost one would be a fault.
const EVENTS: u32 = 20_000;

/// Bytes of the volume that is downloaded.
const VOLUME: u32 = VOLUME_PACKETS * PACKET_DATA;

const ROWS: &[Row] = &[
    Row {
        title: "sequential call",
        ..SEQUENTIAL
    },
    Row {
        title: "sequential call, multi-thread",
        function: "multi-thread",
        ..SEQUENTIAL
    },
    Row {
        title: "64 concurrent callers",
        ..CONCURRENT
    },
    Row {
        title: "64 concurrent callers, multi-thread",
        function: "multi-thread",
        ..CONCURRENT
    },
    Row {
        title: "events without data",
        ..PLAIN_EVENTS
    },
    Row {
        title: "events with data",
        group: "events-with-data",
        ..PLAIN_EVENTS
    },
    Row {
        title: "187 KB reply",
        group: "large-reply",
        ..SEQUENTIAL
    },
    Row {
        title: "list of 10,000 domains: call",
        group: "list-domains",
        ..SEQUENTIAL
    },
    Row {
        title: "list of 10,000 domains: decode alone",
        group: "list-domains",
        function: "decode",
        ..SEQUENTIAL
    },
    Row {
        title: "1,000 monitors on one socket",
        ..MANY_MONITORS
    },
    Row {
        title: "1,000 monitors on one socket, 4 calls in flight",
        function: "limited",
        ..MANY_MONITORS
    },
    Row {
        title: "download of a volume",
        group: "download",
        function: "client",
        elements: VOLUME,
        unit: Unit::Bytes,
    },
];

const SEQUENTIAL: Row = Row {
    title: "",
    group: "sequential",
    function: "client",
    elements: 1,
    unit: Unit::Time,
};
const CONCURRENT: Row = Row {
    title: "",
    group: "concurrent",
    function: "client",
    elements: CALLERS * ROUNDS,
    unit: Unit::Rate,
};
const PLAIN_EVENTS: Row = Row {
    title: "",
    group: "events",
    function: "client",
    elements: EVENTS,
    unit: Unit::Rate,
};
const MANY_MONITORS: Row = Row {
    title: "",
    group: "monitors",
    function: "client",
    elements: MONITORS * MONITOR_ROUNDS,
    unit: Unit::Rate,
};

fn main() {
    let start = SystemTime::now();
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    sequential(&mut criterion);
    concurrent(&mut criterion);
    events(&mut criterion, "events", false);
    events(&mut criterion, "events-with-data", true);
    large_reply(&mut criterion);
    list_domains(&mut criterion);
    monitors(&mut criterion);
    download(&mut criterion);
    criterion.final_summary();
    table::print(ROWS, start);
}

fn sequential(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sequential");
    exchange(&mut group, &floor::monitor_command(QUERY_STATUS), 1);
    for (name, runtime) in [
        ("client", current_thread()),
        ("multi-thread", multi_thread()),
    ] {
        let monitor = runtime.block_on(monitor(Config::new()));
        calls(&mut group, name, &runtime, &monitor, QUERY_STATUS);
    }
    group.finish();
}

fn concurrent(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("concurrent");
    group.throughput(Throughput::Elements(u64::from(CALLERS * ROUNDS)));
    let calls = floor::monitor_command(QUERY_STATUS).repeat(CALLERS as usize);
    group.bench_function(FLOOR, |bencher| {
        let mut floor = Floor::connect();
        bencher.iter(|| (0..ROUNDS).for_each(|_| floor.exchange(&calls, CALLERS as usize)));
    });
    for (name, runtime) in [
        ("client", current_thread()),
        ("multi-thread", multi_thread()),
    ] {
        let monitor = runtime.block_on(monitor(unlimited()));
        let callers = vec![monitor; CALLERS as usize];
        all_call(&mut group, name, &runtime, &callers, ROUNDS);
    }
    group.finish();
}

fn events(criterion: &mut Criterion, name: &str, data: bool) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(u64::from(EVENTS)));
    let flood = Special::Flood {
        count: EVENTS as usize,
        data,
    }
    .command();
    group.bench_function(FLOOR, |bencher| {
        let mut floor = Floor::connect();
        floor.exchange(&floor::register(), 1);
        let call = floor::monitor_command(&flood);
        bencher.iter(|| floor.exchange(&call, 1 + EVENTS as usize));
    });
    let runtime = current_thread();
    let (monitor, mut events) = runtime.block_on(async {
        let monitor = monitor(Config::new().event_queue(EVENTS as usize)).await;
        let events = monitor.events().await.unwrap();
        (monitor, events)
    });
    group.bench_function("client", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                monitor.run(flood.as_bytes()).await.unwrap();
                for _ in 0..EVENTS {
                    // A loss would be an error in the place of the events that are missing.
                    let event = events
                        .next()
                        .await
                        .expect("the stream goes on")
                        .expect("no event is lost");
                    assert_eq!(event.data.is_some(), data);
                }
            });
        });
    });
    group.finish();
}

fn large_reply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("large-reply");
    group.throughput(Throughput::Bytes(LARGE_REPLY as u64));
    let command = Special::Large.command();
    exchange(&mut group, &floor::monitor_command(&command), 1);
    let runtime = current_thread();
    let monitor = runtime.block_on(monitor(Config::new()));
    calls(&mut group, "client", &runtime, &monitor, &command);
    group.finish();
}

fn list_domains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("list-domains");
    group.throughput(Throughput::Elements(u64::from(DOMAINS)));
    exchange(&mut group, &floor::list_domains(), 1);
    let runtime = current_thread();
    let session = runtime.block_on(open(Config::new()));
    group.bench_function("client", |bencher| {
        bencher.iter(|| {
            let domains = runtime.block_on(session.domains()).unwrap();
            assert_eq!(domains.len(), DOMAINS as usize);
            domains
        });
    });
    let payload = Bytes::from(Floor::connect().reply(&floor::list_domains()));
    group.bench_function("decode", |bencher| {
        bencher
            .iter(|| xdr::decode::<ConnectListAllDomainsRet>(black_box(payload.clone())).unwrap());
    });
    group.finish();
}

fn monitors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("monitors");
    group.throughput(Throughput::Elements(u64::from(MONITORS * MONITOR_ROUNDS)));
    let calls = floor::monitor_command(QUERY_STATUS).repeat(MONITORS as usize);
    group.bench_function(FLOOR, |bencher| {
        let mut floor = Floor::connect();
        bencher
            .iter(|| (0..MONITOR_ROUNDS).for_each(|_| floor.exchange(&calls, MONITORS as usize)));
    });
    for (name, config) in [("client", unlimited()), ("limited", Config::new())] {
        let runtime = current_thread();
        let monitors: Vec<_> = runtime.block_on(async {
            let session = open(config).await;
            let mut monitors = Vec::new();
            for number in 0..MONITORS {
                let monitor = session.monitor(format!("stage-lb-{number}"));
                monitor.connect().await.unwrap();
                monitors.push(Arc::new(monitor));
            }
            monitors
        });
        all_call(&mut group, name, &runtime, &monitors, MONITOR_ROUNDS);
    }
    group.finish();
}

/// `REMOTE_PROC_STORAGE_VOL_DOWNLOAD`, as much of its arguments as the server here looks at.
struct Download;

impl Procedure for Download {
    const PROGRAM: u32 = remote::PROGRAM;
    const VERSION: u32 = remote::VERSION;
    const NUMBER: i32 = 209;
    const NAME: &'static str = "REMOTE_PROC_STORAGE_VOL_DOWNLOAD";
    type Args = u32;
    type Reply = ();
}

fn download(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("download");
    group.throughput(Throughput::Bytes(u64::from(VOLUME)));
    let (call, end) = floor::download();
    group.bench_function(FLOOR, |bencher| {
        let mut floor = Floor::connect();
        bencher.iter(|| {
            // The reply, the data, and the end of it.
            floor.exchange(&call, 1 + VOLUME_PACKETS as usize + 1);
            floor.exchange(&end, 1);
        });
    });
    let runtime = current_thread();
    let session = runtime.block_on(open(Config::new()));
    group.bench_function("client", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let ((), mut stream) = session.open_stream::<Download>(&0).await.unwrap();
                let mut came = 0;
                while let Some(item) = stream.recv().await.unwrap() {
                    let StreamItem::Data(data) = item else {
                        panic!("a hole");
                    };
                    came += black_box(data).len();
                }
                assert_eq!(came, VOLUME as usize);
                stream.finish().await.unwrap();
            });
        });
    });
    group.finish();
}

/// The floor of one exchange: `call` written, so many replies framed.
fn exchange(group: &mut BenchmarkGroup<'_, WallTime>, call: &[u8], replies: usize) {
    group.bench_function(FLOOR, |bencher| {
        let mut floor = Floor::connect();
        bencher.iter(|| floor.exchange(call, replies));
    });
}

/// One caller, each call after the reply to the one before.
fn calls(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    runtime: &Runtime,
    monitor: &Arc<LibvirtRpc>,
    command: &str,
) {
    let command: Arc<str> = command.into();
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let (monitor, command) = (monitor.clone(), command.clone());
            // A task, not the runtime's main future: on a multi-thread runtime that one runs outside the workers.
            let caller = runtime.spawn(async move {
                let start = Instant::now();
                for _ in 0..iterations {
                    black_box(monitor.run(command.as_bytes()).await.unwrap());
                }
                start.elapsed()
            });
            runtime.block_on(caller).unwrap()
        });
    });
}

/// All callers at once, a task each, each making so many calls, one after another.
fn all_call(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    runtime: &Runtime,
    callers: &[Arc<LibvirtRpc>],
    rounds: u32,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let tasks: Vec<_> = callers
                .iter()
                .cloned()
                .map(|monitor| {
                    runtime.spawn(async move {
                        for _ in 0..rounds {
                            black_box(monitor.run(QUERY_STATUS.as_bytes()).await.unwrap());
                        }
                    })
                })
                .collect();
            runtime.block_on(async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
        });
    });
}

async fn monitor(config: Config) -> Arc<LibvirtRpc> {
    let monitor = open(config).await.monitor(DOMAIN);
    monitor.connect().await.unwrap();
    Arc::new(monitor)
}

async fn open(config: Config) -> Libvirt {
    let stream = floor::connect();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    Libvirt::open(stream, config).await.unwrap()
}

/// Without a limit on the calls in flight, on the connection and on each monitor.
fn unlimited() -> Config {
    Config::new().max_in_flight(usize::MAX)
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
