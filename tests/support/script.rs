//! A recorded session made into a script: what its client does, and a peer in memory that says what the recorded server
//! said, damaged or cut as a test wants it. Imports the crate's public API only.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::packet::{MessageType, Packet, PacketCodec};
use libvirt_qmp::protocol::qemu::DomainMonitorCommandArgs;
use libvirt_qmp::protocol::qemu::procedure::{
    ConnectDomainMonitorEventDeregister, ConnectDomainMonitorEventRegister, DomainMonitorCommand,
};
use libvirt_qmp::protocol::remote::procedure::{
    ConnectClose, ConnectListAllDomains, ConnectOpen, DomainLookupByName, DomainLookupByUuid,
};
use libvirt_qmp::protocol::remote::{
    ConnectOpenArgs, DomainLookupByNameArgs, DomainLookupByUuidArgs,
};
use libvirt_qmp::protocol::{Procedure, keepalive};
use libvirt_qmp::replay::{Direction, Fixture};
use libvirt_qmp::{Config, DomainKey, Error, Libvirt, LibvirtRpc, Monitor, xdr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::Encoder;

use super::mock::poll_once;

/// What a client did in a recorded session, and what it was told.
pub(crate) struct Script {
    config: Config,
    steps: Vec<Step>,
    /// Everything the server said.
    pub(crate) bytes: Vec<u8>,
    /// Until which of those bytes the server may speak, by the number of calls it has got.
    gates: Vec<usize>,
    /// Program and procedure of the recorded calls.
    calls: Vec<(u32, i32)>,
}

enum Step {
    ListDomains,
    Lookup(DomainKey),
    Run(String),
    Subscribe,
    Unsubscribe,
    Close,
}

/// How one session went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Steps that gave what they were to give.
    pub(crate) good: usize,
    /// Steps that libvirt or QEMU answered with an error.
    pub(crate) refused: usize,
    /// What the others ended with.
    pub(crate) failed: Vec<Error>,
    /// Events that came.
    pub(crate) events: usize,
    /// The calls that the peer got.
    pub(crate) calls: Vec<(u32, i32)>,
}

/// What the peer does when it has said everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Close,
    FallSilent,
}

fn id<P: Procedure>() -> (u32, i32) {
    (P::PROGRAM, P::NUMBER)
}

impl Script {
    /// The script of a recorded session. Its client counts serials from 0, as every client here does.
    pub(crate) fn new(fixture: &Fixture) -> Self {
        let mut script = Script {
            config: Config::new(),
            steps: Vec::new(),
            bytes: Vec::new(),
            gates: vec![0],
            calls: Vec::new(),
        };
        let mut needed = 0;
        for (direction, packet) in &fixture.packets {
            if packet.header.program == keepalive::PROGRAM {
                continue;
            }
            match direction {
                Direction::ToServer => script.call(packet),
                Direction::ToClient => {
                    // A reply is held back until its own call has come, and what is behind it is behind it.
                    if packet.header.kind == MessageType::REPLY {
                        needed = needed.max(packet.header.serial as usize + 1);
                    }
                    let mut bytes = bytes::BytesMut::new();
                    PacketCodec.encode(packet.clone(), &mut bytes).unwrap();
                    script.bytes.extend_from_slice(&bytes);
                    script.gates.resize(script.gates.len().max(needed + 1), 0);
                    let end = script.bytes.len();
                    script.gates[needed] = end;
                }
            }
        }
        let mut open = 0;
        for gate in &mut script.gates {
            open = open.max(*gate);
            *gate = open;
        }
        // Keepalive was negotiated in the recording; the pings themselves would only make time pass.
        let never = Duration::from_secs(1_000_000_000);
        script.config = script
            .config
            .clone()
            .keepalive(Some((never, 1)))
            .call_timeout(Some(Duration::from_secs(1)));
        script
    }

    fn call(&mut self, packet: &Packet) {
        let payload = packet.payload.clone();
        let procedure = (packet.header.program, packet.header.procedure);
        self.calls.push(procedure);
        let step = match procedure {
            is if is == id::<ConnectOpen>() => {
                let args: ConnectOpenArgs = xdr::decode(payload).unwrap();
                self.config = Config::new()
                    .uri(&*args.name.unwrap())
                    .readonly(args.flags & 1 != 0);
                return;
            }
            is if is == id::<ConnectListAllDomains>() => Step::ListDomains,
            is if is == id::<DomainLookupByName>() => {
                let args: DomainLookupByNameArgs = xdr::decode(payload).unwrap();
                Step::Lookup(DomainKey::Name(args.name))
            }
            is if is == id::<DomainLookupByUuid>() => {
                let args: DomainLookupByUuidArgs = xdr::decode(payload).unwrap();
                Step::Lookup(DomainKey::Uuid(args.uuid))
            }
            is if is == id::<DomainMonitorCommand>() => {
                let args: DomainMonitorCommandArgs = xdr::decode(payload).unwrap();
                Step::Run(args.cmd)
            }
            is if is == id::<ConnectDomainMonitorEventRegister>() => Step::Subscribe,
            is if is == id::<ConnectDomainMonitorEventDeregister>() => Step::Unsubscribe,
            is if is == id::<ConnectClose>() => Step::Close,
            // What opening a session takes.
            _ => return,
        };
        self.steps.push(step);
    }

    /// How many steps there are, the opening included.
    pub(crate) fn steps(&self) -> usize {
        self.steps.len() + 1
    }

    /// The calls that were recorded.
    pub(crate) fn calls(&self) -> &[(u32, i32)] {
        &self.calls
    }

    /// Runs the client against a server that says `bytes`, in the order of the script, and then does what `then` says.
    ///
    /// # Panics
    ///
    /// Where the client keeps the connection after everything of it was dropped.
    pub(crate) async fn play(&self, bytes: &[u8], then: Then) -> Outcome {
        let gone = Arc::new(AtomicBool::new(false));
        let mut outcome = Outcome::default();
        let (sender, calls) = std::sync::mpsc::channel();
        let peer = Peer {
            bytes: bytes.to_vec(),
            gates: self.gates.clone(),
            at: 0,
            calls: 0,
            report: sender,
            then,
            reader: None,
            gone: gone.clone(),
        };
        self.run(peer, &mut outcome).await;
        for _ in 0..100 {
            if gone.load(Ordering::Relaxed) {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(gone.load(Ordering::Relaxed), "the connection was kept");
        outcome.calls = calls.try_iter().collect();
        outcome
    }

    async fn run(&self, peer: Peer, outcome: &mut Outcome) {
        let libvirt = match Libvirt::open(peer, self.config.clone()).await {
            Ok(libvirt) => libvirt,
            Err(error) => return outcome.take::<()>(Err(error)),
        };
        outcome.take(Ok(()));
        let mut monitor: Option<LibvirtRpc> = None;
        let mut events = Vec::new();
        for step in &self.steps {
            match (step, &monitor) {
                (Step::ListDomains, _) => outcome.take(libvirt.domains().await),
                (Step::Lookup(key), _) => {
                    let next = monitor.insert(libvirt.monitor(key.clone()));
                    outcome.take(next.connect().await);
                }
                (Step::Run(command), Some(monitor)) => {
                    outcome.take(monitor.run(command.as_bytes()).await);
                }
                (Step::Subscribe, Some(monitor)) => match monitor.events().await {
                    Ok(stream) => {
                        events.push(stream);
                        outcome.take(Ok(()));
                    }
                    Err(error) => outcome.take::<()>(Err(error)),
                },
                (Step::Unsubscribe, _) => {
                    for mut stream in events.drain(..) {
                        let mut left = 10_000;
                        while let Poll::Ready(Some(item)) =
                            poll_once(Pin::new(&mut stream.next())).await
                        {
                            outcome.events += usize::from(item.is_ok());
                            left -= 1;
                            assert!(left > 0, "a stream without end");
                        }
                    }
                    outcome.take(Ok(()));
                }
                (Step::Close, _) => outcome.take(libvirt.close().await),
                (Step::Run(_) | Step::Subscribe, None) => unreachable!("no domain was looked up"),
            }
        }
    }
}

impl Outcome {
    fn take<T>(&mut self, result: Result<T, Error>) {
        match result {
            Ok(_) => self.good += 1,
            Err(Error::Libvirt(_) | Error::Qmp(_)) => self.refused += 1,
            Err(error) => self.failed.push(error),
        }
    }
}

/// The server's side of a script. It looks at what the client sends only to count the calls.
struct Peer {
    bytes: Vec<u8>,
    gates: Vec<usize>,
    at: usize,
    calls: usize,
    report: std::sync::mpsc::Sender<(u32, i32)>,
    then: Then,
    reader: Option<Waker>,
    gone: Arc<AtomicBool>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let last = self.gates.len() - 1;
        let open = self.gates[self.calls.min(last)].min(self.bytes.len());
        if self.at < open {
            let end = open.min(self.at + buffer.remaining());
            buffer.put_slice(&self.bytes[self.at..end]);
            self.at = end;
            return Poll::Ready(Ok(()));
        }
        if self.at == self.bytes.len() && self.then == Then::Close {
            return Poll::Ready(Ok(()));
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // The client writes whole packets, as many as it has.
        let mut rest = bytes;
        while let Some(header) = rest.first_chunk::<28>() {
            let word = |at: usize| {
                u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            if word(16) == 0 {
                self.calls += 1;
                let _ = self.report.send((word(4), word(12).cast_signed()));
            }
            rest = &rest[word(0) as usize..];
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
