//! What a monitor and a connection take of memory: growth of the resident set, divided by their number.
//!
//! Every figure is measured in a process of its own, which holds only the client; the server is in this one. What the
//! kernel keeps for a socket is not in it. Like criterion's benchmarks it measures only under `cargo bench`; otherwise it
//! runs each case once with few items.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that goes wrong stops at once"
)]

#[path = "support/server.rs"]
mod server;
#[path = "support/wire.rs"]
mod wire;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use libvirt_qmp::{Config, EventStream, Libvirt, LibvirtRpc, Monitor};
use tokio::net::UnixStream;

use server::Special;

const QUERY_STATUS: &str = r#"{"execute":"query-status"}"#;

/// The first argument of a process that measures; a case, a number and the server's path follow.
const MEASURE: &str = "--measure";

const CASES: &[(&str, &str, u32)] = &[
    ("monitor", "memory of a monitor", 1000),
    (
        "subscribed",
        "memory of a monitor with an event stream",
        1000,
    ),
    ("connection", "memory of a connection with its monitor", 100),
    ("used", "the same after a 187 KB reply on each", 100),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [MEASURE, case, number, path] => {
            measure_case(case, number.parse().unwrap(), Path::new(path))
        }
        _ => run_cases(arguments.iter().any(|argument| argument == "--bench")),
    }
}

fn run_cases(in_full: bool) {
    let socket = Socket::listen();
    for (case, title, number) in CASES {
        let number = if in_full { *number } else { 2 };
        let child = Command::new(std::env::current_exe().unwrap())
            .args([MEASURE, case, &number.to_string()])
            .arg(&socket.path)
            .output()
            .unwrap();
        assert!(
            child.status.success(),
            "{case}: {}",
            String::from_utf8_lossy(&child.stderr)
        );
        let bytes = String::from_utf8(child.stdout).unwrap();
        if in_full {
            println!("{title:<46} {:>12} B", bytes.trim());
        }
    }
}

fn measure_case(case: &str, number: u32, path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let bytes = runtime.block_on(async {
        match case {
            "monitor" => monitors(number, path, false).await,
            "subscribed" => monitors(number, path, true).await,
            "connection" => connections(number, path, QUERY_STATUS).await,
            "used" => connections(number, path, &Special::Large.command()).await,
            other => panic!("no case {other}"),
        }
    });
    println!("{bytes}");
}

/// Bytes a monitor on a shared session, each used once.
async fn monitors(number: u32, path: &Path, subscribed: bool) -> u64 {
    let stream = UnixStream::connect(path).await.unwrap();
    let session = Libvirt::open(stream, Config::new()).await.unwrap();
    let mut kept = vec![shared(&session, 0, subscribed).await];
    kept.reserve_exact(number as usize);
    let before = resident();
    for item in 1..=number {
        kept.push(shared(&session, item, subscribed).await);
    }
    grown(before, number)
}

async fn shared(
    session: &Libvirt,
    item: u32,
    subscribed: bool,
) -> (LibvirtRpc, Option<EventStream>) {
    let monitor = session.monitor(format!("stage-lb-{item}"));
    monitor.run(QUERY_STATUS.as_bytes()).await.unwrap();
    let events = if subscribed {
        Some(monitor.events().await.unwrap())
    } else {
        None
    };
    (monitor, events)
}

/// Bytes a connection with one monitor, which has run `command`.
async fn connections(number: u32, path: &Path, command: &str) -> u64 {
    let mut kept = vec![own(path, command).await];
    kept.reserve_exact(number as usize);
    let before = resident();
    for _ in 0..number {
        kept.push(own(path, command).await);
    }
    grown(before, number)
}

async fn own(path: &Path, command: &str) -> LibvirtRpc {
    let monitor = LibvirtRpc::new(wire::DOMAIN, UnixStream::connect(path).await.unwrap());
    monitor.run(command.as_bytes()).await.unwrap();
    monitor
}

fn grown(before: u64, number: u32) -> u64 {
    resident().saturating_sub(before) / u64::from(number)
}

/// `VmRSS` of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// The server's socket; its file goes with it.
struct Socket {
    path: PathBuf,
}

impl Socket {
    fn listen() -> Self {
        let path = std::env::temp_dir().join(format!("libvirt-qmp-memory-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || server::serve(stream));
            }
        });
        Socket { path }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Nothing is left to do about a file that cannot be removed.
        let _ = std::fs::remove_file(&self.path);
    }
}
