//! What somebody else puts on the stream to a real QEMU. QEMU answers it without an id; the monitor's own commands go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libvirt_qmp::{Monitor, SocketMonitor};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Mutex;

use crate::support::qemu::Qemu;
use crate::{STATUS, next, run};

/// A way to QEMU that others can write to as well.
struct Shared {
    to_qemu: Arc<Mutex<OwnedWriteHalf>>,
    /// Errors without an id that QEMU has said.
    errors: Arc<AtomicUsize>,
}

impl Shared {
    async fn connect(qemu: &Qemu) -> (SocketMonitor, Shared) {
        let stream = UnixStream::connect(qemu.unix_path()).await.unwrap();
        let (from_qemu, to_qemu) = stream.into_split();
        let (client, proxy) = tokio::io::duplex(1 << 16);
        let (mut from_client, mut to_client) = tokio::io::split(proxy);
        let shared = Shared {
            to_qemu: Arc::new(Mutex::new(to_qemu)),
            errors: Arc::default(),
        };
        let to_qemu = shared.to_qemu.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                to_qemu.lock().await.write_all(&buffer[..read]).await?;
            }
            Ok::<_, std::io::Error>(())
        });
        let errors = shared.errors.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(from_qemu);
            let mut line = Vec::new();
            while let Ok(1..) = lines.read_until(b'\n', &mut line).await {
                if line.starts_with(br#"{"error""#) {
                    errors.fetch_add(1, Ordering::Relaxed);
                }
                to_client.write_all(&line).await?;
                line.clear();
            }
            Ok::<_, std::io::Error>(())
        });
        (SocketMonitor::new(client), shared)
    }

    async fn put(&self, bytes: &[u8]) {
        self.to_qemu.lock().await.write_all(bytes).await.unwrap();
    }

    fn errors(&self) -> usize {
        self.errors.swap(0, Ordering::Relaxed)
    }
}

/// P4, P8, P9, P14: each stray text is answered with so many errors, or at least so many where QEMU may say more than one.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn they_cost_no_command_and_no_session() {
    let qemu = Qemu::start(&[]);
    let (monitor, shared) = Shared::connect(&qemu).await;
    let mut events = monitor.events().await.unwrap();
    let nested = |levels| [b"[".repeat(levels), b"]".repeat(levels)].concat();
    // P9: the parser begins anew.
    let resync: [&[u8]; 4] = [b"\x01", b"\x1b", b"\x00", b"\xff"];
    // P14: no objects, and one without a command.
    let no_command: [&[u8]; 4] = [b"null ", b"[] ", b"1 ", b"{} "];
    let exactly_one = resync.into_iter().chain(no_command);
    let strays = exactly_one.map(|bytes| (bytes.to_vec(), 1..=1)).chain([
        // P4: one error for the text, and one for each bracket that is left over.
        (nested(1025), 1026..=1026),
        // P8.
        (br#"{"execute":"\ud800"} "#.to_vec(), 1..=9),
        (b"{\"execute\":\"\xc3\"} ".to_vec(), 1..=9),
        (b"{\"execute\":\"\t\"} ".to_vec(), 1..=9),
        (br#"{"execute":NaN} "#.to_vec(), 1..=9),
        (br#"{"execute":01} "#.to_vec(), 1..=9),
        (br#"{"execute":"stop",} "#.to_vec(), 1..=9),
        (br#"{"execute":%p} "#.to_vec(), 1..=9),
        // P7.
        (br#"{"execute":"stop","execute":"stop"} "#.to_vec(), 1..=9),
    ]);
    let turns = ["stop", "cont"].iter().zip(["STOP", "RESUME"]).cycle();
    for ((stray, wanted), (command, event)) in strays.zip(turns) {
        let shown = String::from_utf8_lossy(&stray[..stray.len().min(40)]).into_owned();
        shared.put(&stray).await;
        // The monitor has read all that QEMU said of it when this command's event is there.
        let command = format!(r#"{{"execute":"{command}"}}"#);
        shared.put(command.as_bytes()).await;
        assert_eq!(next(&mut events).await, event, "{shown}");
        let errors = shared.errors();
        assert!(wanted.contains(&errors), "{shown}: {errors} errors");
        run(&monitor, STATUS).await.unwrap();
    }
    monitor.disconnect().await.unwrap();
}
