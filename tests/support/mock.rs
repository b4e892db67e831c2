//! A libvirt daemon whose part the test speaks: it waits for the calls it names and says what it likes. Packets and
//! bodies go through the crate's own codec and wire types. Imports the crate's public API only.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libvirt_qmp::packet::{Header, MessageStatus, MessageType, Packet, PacketCodec};
use libvirt_qmp::protocol::constants::DrvFeature;
use libvirt_qmp::protocol::keepalive::procedure::{Ping, Pong};
use libvirt_qmp::protocol::qemu::procedure::{
    ConnectDomainMonitorEventDeregister, ConnectDomainMonitorEventRegister, DomainAgentCommand,
    DomainMonitorCommand, DomainMonitorEvent,
};
use libvirt_qmp::protocol::qemu::{
    ConnectDomainMonitorEventRegisterRet, DomainAgentCommandArgs, DomainAgentCommandRet,
    DomainMonitorCommandArgs, DomainMonitorCommandRet, DomainMonitorEventMsg,
};
use libvirt_qmp::protocol::remote::procedure::{
    AuthList, ConnectClose, ConnectOpen, ConnectRegisterCloseCallback, ConnectSupportsFeature,
    DomainLookupByName,
};
use libvirt_qmp::protocol::remote::{
    AuthListRet, AuthType, ConnectOpenArgs, ConnectSupportsFeatureRet, DomainLookupByNameArgs,
    DomainLookupByNameRet,
};
use libvirt_qmp::protocol::rpc::MessageError;
use libvirt_qmp::protocol::{Message, Procedure};
use libvirt_qmp::xdr::{self, Reader, Writer};
use libvirt_qmp::{Config, Domain, Libvirt, LibvirtRpc, Monitor};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio_util::codec::{Decoder, Encoder};
use uuid::Uuid;
use xdr_codec::{Pack, Unpack};

use super::fds;

/// How long the daemon waits for the client before it fails the test. On a paused clock that is no time at all; it is
/// longer than every default deadline of the client.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The pipe between client and daemon, unless a test wants another.
const PIPE: usize = 256 * 1024;

/// The name that [`MockDaemon::lookup`] answers to in the helpers here.
pub(crate) const DOMAIN: &str = "vm-1";

/// The daemon's end of a connection.
pub(crate) struct MockDaemon {
    stream: Stream,
    inbox: BytesMut,
    /// File descriptors that have come, over a unix socket.
    files: VecDeque<OwnedFd>,
}

enum Stream {
    Pipe(DuplexStream),
    Unix(UnixStream),
}

/// A call that has come.
#[derive(Debug)]
pub(crate) struct Call<A> {
    pub(crate) header: Header,
    pub(crate) args: A,
}

/// What the client did to open its session.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) asked_keepalive: bool,
    pub(crate) open: ConnectOpenArgs,
}

/// A client's stream and the daemon at its other end.
pub(crate) fn pair() -> (DuplexStream, MockDaemon) {
    pair_with_pipe(PIPE)
}

/// The same with room for `pipe` bytes in each direction.
pub(crate) fn pair_with_pipe(pipe: usize) -> (DuplexStream, MockDaemon) {
    let (client, stream) = tokio::io::duplex(pipe);
    (client, MockDaemon::over(Stream::Pipe(stream)))
}

/// The same over a unix socket, which carries file descriptors too.
pub(crate) fn unix_pair() -> (UnixStream, MockDaemon) {
    let (client, stream) = UnixStream::pair().expect("a socket pair");
    (client, MockDaemon::over(Stream::Unix(stream)))
}

/// Settings for a test that wants no keepalive packets in its dialogue.
pub(crate) fn quiet() -> Config {
    Config::new().keepalive(None)
}

/// An open session and its daemon.
pub(crate) async fn session(config: Config) -> (Libvirt, MockDaemon) {
    session_with_pipe(config, PIPE).await
}

/// The same with room for `pipe` bytes in each direction.
pub(crate) async fn session_with_pipe(config: Config, pipe: usize) -> (Libvirt, MockDaemon) {
    let (conn, mut daemon) = pair_with_pipe(pipe);
    let (libvirt, _) = tokio::join!(Libvirt::open(conn, config), daemon.handshake());
    (libvirt.expect("the session opens"), daemon)
}

/// A connected monitor of [`DOMAIN`] with a connection of its own, and its daemon.
pub(crate) async fn monitor(config: Config) -> (LibvirtRpc, MockDaemon) {
    let (conn, mut daemon) = pair();
    let monitor = LibvirtRpc::with_config(DOMAIN, conn, config);
    let serve = async {
        daemon.handshake().await;
        daemon.lookup(DOMAIN).await;
    };
    let (connected, ()) = tokio::join!(monitor.connect(), serve);
    connected.expect("the monitor connects");
    (monitor, daemon)
}

/// A connected monitor of the domain `name` on a session.
pub(crate) async fn monitor_on(
    libvirt: &Libvirt,
    daemon: &mut MockDaemon,
    name: &str,
) -> LibvirtRpc {
    let monitor = libvirt.monitor(name);
    let (connected, _) = tokio::join!(monitor.connect(), daemon.lookup(name));
    connected.expect("the domain is found");
    monitor
}

/// The domain called `name`, running, with a UUID that follows from its name.
pub(crate) fn domain(name: &str) -> Domain {
    let mut uuid = [0x5a; 16];
    for (place, byte) in uuid.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    Domain {
        name: name.to_owned(),
        uuid: Uuid::from_bytes(uuid),
        id: Some(7),
    }
}

/// An error as libvirt fills it in, to be changed.
pub(crate) fn error(code: i32, message: &str) -> MessageError {
    MessageError {
        code,
        domain: 10,
        message: Some(message.to_owned()),
        level: 2,
        dom: None,
        str1: Some("%s".to_owned()),
        str2: Some(message.to_owned()),
        str3: None,
        int1: -1,
        int2: -1,
        net: None,
    }
}

/// A value as XDR.
pub(crate) fn encoded<T: Pack<Writer>>(value: &T) -> Bytes {
    let mut bytes = Vec::new();
    xdr::encode(value, &mut bytes).expect("the value fits its type");
    bytes.into()
}

/// What libvirt answers to a monitor command, as XDR.
pub(crate) fn answer(json: &str) -> Bytes {
    let result = json.to_owned();
    encoded(&DomainMonitorCommandRet { result })
}

/// The bytes of a packet.
pub(crate) fn bytes_of(packet: Packet) -> Bytes {
    let mut bytes = BytesMut::new();
    PacketCodec
        .encode(packet, &mut bytes)
        .expect("the packet is within the limit");
    bytes.freeze()
}

/// The header of the reply to a call.
pub(crate) fn reply_to(call: &Header) -> Header {
    Header {
        kind: MessageType::REPLY,
        ..*call
    }
}

/// An event message of `domain`.
pub(crate) fn event(callback_id: i32, domain: &Domain, name: &str, data: Option<&str>) -> Packet {
    let body = DomainMonitorEventMsg {
        callback_id,
        dom: domain.clone(),
        event: name.to_owned(),
        seconds: 1_700_000_000,
        micros: 250_000,
        details: data.map(str::to_owned),
    };
    Packet {
        // libvirt puts serial 1 on every event.
        header: Header {
            kind: MessageType::MESSAGE,
            ..Header::call(
                DomainMonitorEvent::PROGRAM,
                DomainMonitorEvent::VERSION,
                DomainMonitorEvent::NUMBER,
                1,
            )
        },
        payload: encoded(&body),
    }
}

impl MockDaemon {
    fn over(stream: Stream) -> Self {
        MockDaemon {
            stream,
            inbox: BytesMut::new(),
            files: VecDeque::new(),
        }
    }

    async fn read(&mut self) -> std::io::Result<usize> {
        match &mut self.stream {
            Stream::Pipe(stream) => stream.read_buf(&mut self.inbox).await,
            Stream::Unix(stream) => fds::receive(stream, &mut self.inbox, &mut self.files).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Pipe(stream) => stream.write_all(bytes).await,
            Stream::Unix(stream) => stream.write_all(bytes).await,
        }
    }

    /// The file descriptors that follow a call, each on a byte of its own, and how many came in all.
    pub(crate) async fn files(&mut self, count: usize) -> Vec<OwnedFd> {
        while self.inbox.len() < count {
            let read = tokio::time::timeout(PATIENCE, self.read()).await;
            let read = read.expect("the client goes on").expect("the socket works");
            assert_ne!(read, 0, "the client is there");
        }
        assert_eq!(self.inbox.split_to(count), vec![0; count]);
        assert_eq!(self.files.len(), count);
        self.files.drain(..).collect()
    }

    /// Sends a file descriptor on a byte of its own.
    pub(crate) async fn send_file(&mut self, file: &OwnedFd) {
        match &self.stream {
            Stream::Pipe(_) => panic!("a pipe in memory carries no descriptors"),
            Stream::Unix(stream) => fds::send(stream, file).await.expect("the client is there"),
        }
    }

    /// Sends bytes with a file descriptor on the first of them, as libvirt does not.
    pub(crate) async fn raw_with_file(&mut self, bytes: &[u8], file: &OwnedFd) {
        match &self.stream {
            Stream::Pipe(_) => panic!("a pipe in memory carries no descriptors"),
            Stream::Unix(stream) => fds::send_on(stream, bytes, file)
                .await
                .expect("the client is there"),
        }
    }

    /// The next packet, of any kind; none where the client has closed.
    pub(crate) async fn packet(&mut self) -> Option<Packet> {
        let next = async {
            loop {
                let found = PacketCodec.decode(&mut self.inbox);
                if let Some(packet) = found.expect("the client sends packets") {
                    return Some(packet);
                }
                match self.read().await {
                    Ok(0) | Err(_) => {
                        assert!(self.inbox.is_empty(), "the client left inside a packet");
                        return None;
                    }
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .expect("the client sends something")
    }

    /// The next packet, which must be a call of `P`.
    pub(crate) async fn expect<P: Procedure>(&mut self) -> Call<P::Args>
    where
        P::Args: Unpack<Reader>,
    {
        match self.packet().await {
            Some(packet) => call::<P>(&packet),
            None => panic!("{} expected, but the client has closed", P::NAME),
        }
    }

    /// Waits for the client to close, and fails if it says anything before.
    pub(crate) async fn expect_eof(&mut self) {
        if let Some(packet) = self.packet().await {
            panic!("end of connection expected, got {}", packet.header);
        }
    }

    /// Waits for the client to close, wherever in its packets.
    pub(crate) async fn expect_cut(&mut self) {
        let closed = async { while matches!(self.read().await, Ok(read) if read > 0) {} };
        tokio::time::timeout(PATIENCE, closed)
            .await
            .expect("the client closes");
    }

    /// What the client has sent by now, without waiting for more than what is under way.
    pub(crate) async fn sent_by_now(&mut self) -> Vec<Packet> {
        settle().await;
        let mut packets = Vec::new();
        loop {
            while let Some(packet) = PacketCodec
                .decode(&mut self.inbox)
                .expect("the client sends packets")
            {
                packets.push(packet);
            }
            let read = std::pin::pin!(self.read());
            match poll_once(read).await {
                Poll::Ready(Ok(read)) if read > 0 => settle().await,
                _ => return packets,
            }
        }
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        self.raw(&bytes_of(packet)).await;
    }

    /// Sends bytes, whatever they are.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        let written = tokio::time::timeout(PATIENCE, self.write(bytes)).await;
        written
            .expect("the client reads")
            .expect("the client is there");
    }

    /// Answers a call of `P`.
    pub(crate) async fn reply<P: Procedure>(&mut self, call: &Call<P::Args>, reply: &P::Reply)
    where
        P::Reply: Pack<Writer>,
    {
        self.reply_raw(&call.header, MessageStatus::OK, encoded(reply))
            .await;
    }

    /// Answers a call with `payload`, whatever it is.
    pub(crate) async fn reply_raw(&mut self, call: &Header, status: MessageStatus, payload: Bytes) {
        let header = Header {
            status,
            ..reply_to(call)
        };
        self.send(Packet { header, payload }).await;
    }

    /// Answers a call with an error.
    pub(crate) async fn error<A>(&mut self, call: &Call<A>, code: i32, message: &str) {
        self.error_as(call, &error(code, message)).await;
    }

    /// Answers a call with exactly this error.
    pub(crate) async fn error_as<A>(&mut self, call: &Call<A>, error: &MessageError) {
        self.reply_raw(&call.header, MessageStatus::ERROR, encoded(error))
            .await;
    }

    /// Waits for a monitor command.
    pub(crate) async fn command(&mut self) -> Call<DomainMonitorCommandArgs> {
        self.expect::<DomainMonitorCommand>().await
    }

    /// Answers a monitor command with what QEMU says.
    pub(crate) async fn answer(&mut self, call: &Call<DomainMonitorCommandArgs>, json: &str) {
        self.reply_raw(&call.header, MessageStatus::OK, answer(json))
            .await;
    }

    /// Waits for a command of the guest agent.
    pub(crate) async fn agent_command(&mut self) -> Call<DomainAgentCommandArgs> {
        self.expect::<DomainAgentCommand>().await
    }

    /// Answers a command of the guest agent with what it says, or with nothing.
    pub(crate) async fn agent_answer(
        &mut self,
        call: &Call<DomainAgentCommandArgs>,
        json: Option<&str>,
    ) {
        let result = json.map(str::to_owned);
        self.reply::<DomainAgentCommand>(call, &DomainAgentCommandRet { result })
            .await;
    }

    /// Waits for a registration for monitor events.
    pub(crate) async fn registration(
        &mut self,
    ) -> Call<<ConnectDomainMonitorEventRegister as Procedure>::Args> {
        self.expect::<ConnectDomainMonitorEventRegister>().await
    }

    /// Grants a registration.
    pub(crate) async fn registered(
        &mut self,
        call: &Call<<ConnectDomainMonitorEventRegister as Procedure>::Args>,
        callback_id: i32,
    ) {
        let reply = ConnectDomainMonitorEventRegisterRet { callback_id };
        self.reply::<ConnectDomainMonitorEventRegister>(call, &reply)
            .await;
    }

    /// Waits for a registration and grants it.
    pub(crate) async fn register(&mut self, callback_id: i32) {
        let call = self.registration().await;
        self.registered(&call, callback_id).await;
    }

    /// Waits for the deregistration of `callback_id` and confirms it.
    pub(crate) async fn deregister(&mut self, callback_id: i32) {
        let call = self.expect::<ConnectDomainMonitorEventDeregister>().await;
        assert_eq!(call.args.callback_id, callback_id);
        self.reply::<ConnectDomainMonitorEventDeregister>(&call, &())
            .await;
    }

    /// Sends an event of [`DOMAIN`].
    pub(crate) async fn event(&mut self, callback_id: i32, name: &str, data: Option<&str>) {
        self.send(event(callback_id, &domain(DOMAIN), name, data))
            .await;
    }

    pub(crate) async fn ping(&mut self) {
        self.raw(&Header::keepalive(Ping::NUMBER).prefix(0)).await;
    }

    pub(crate) async fn pong(&mut self) {
        self.raw(&Header::keepalive(Pong::NUMBER).prefix(0)).await;
    }

    /// Answers `REMOTE_PROC_CONNECT_SUPPORTS_FEATURE`, which must ask for `feature`.
    pub(crate) async fn feature(&mut self, feature: i32, supported: bool) {
        let call = self.expect::<ConnectSupportsFeature>().await;
        assert_eq!(call.args.feature.0, feature);
        let reply = ConnectSupportsFeatureRet {
            supported: supported.into(),
        };
        self.reply::<ConnectSupportsFeature>(&call, &reply).await;
    }

    /// Offers these authentications.
    pub(crate) async fn auth(&mut self, types: &[AuthType]) {
        let call = self.expect::<AuthList>().await;
        let types = types.to_vec();
        self.reply::<AuthList>(&call, &AuthListRet { types }).await;
    }

    /// Plays the opening of a session from the authentication list to the close callback, and grants everything.
    pub(crate) async fn handshake(&mut self) -> Opening {
        self.auth(&[AuthType::NONE]).await;
        self.open().await
    }

    /// The same after authentication.
    pub(crate) async fn open(&mut self) -> Opening {
        let mut next = self.packet().await.expect("the client goes on");
        let asked_keepalive =
            (next.header.program, next.header.procedure) == id::<ConnectSupportsFeature>();
        if asked_keepalive {
            let call = call::<ConnectSupportsFeature>(&next);
            assert_eq!(call.args.feature, DrvFeature::PROGRAM_KEEPALIVE);
            let reply = ConnectSupportsFeatureRet { supported: 1 };
            self.reply::<ConnectSupportsFeature>(&call, &reply).await;
            next = self.packet().await.expect("the client goes on");
        }
        let open = call::<ConnectOpen>(&next);
        self.reply::<ConnectOpen>(&open, &()).await;
        self.feature(15, true).await;
        let callback = self.expect::<ConnectRegisterCloseCallback>().await;
        self.reply::<ConnectRegisterCloseCallback>(&callback, &())
            .await;
        Opening {
            asked_keepalive,
            open: open.args,
        }
    }

    /// Answers the lookup of the domain `name` by its name.
    pub(crate) async fn lookup(&mut self, name: &str) {
        let call = self.expect::<DomainLookupByName>().await;
        assert_eq!(call.args.name, name);
        let reply = DomainLookupByNameRet { dom: domain(name) };
        self.reply::<DomainLookupByName>(&call, &reply).await;
    }

    /// Answers whatever a client asks for, well, until it leaves or closes its session. Returns the calls as they came.
    pub(crate) async fn serve(mut self) -> Vec<Header> {
        let mut calls = Vec::new();
        while let Some(Packet { header, payload }) = self.packet().await {
            if header.kind != MessageType::CALL {
                continue;
            }
            calls.push(header);
            let one = encoded(&1i32);
            let reply = match (header.program, header.procedure) {
                is if is == id::<AuthList>() => encoded(&AuthListRet { types: Vec::new() }),
                is if is == id::<ConnectSupportsFeature>() => one,
                is if is == id::<ConnectDomainMonitorEventRegister>() => one,
                is if is == id::<DomainLookupByName>() => {
                    let args = xdr::decode::<DomainLookupByNameArgs>(payload);
                    let name = args.expect("the arguments decode").name;
                    let dom = domain(&name);
                    encoded(&DomainLookupByNameRet { dom })
                }
                is if is == id::<DomainMonitorCommand>() => answer(r#"{"return":{}}"#),
                _ => Bytes::new(),
            };
            let packet = Packet {
                header: reply_to(&header),
                payload: reply,
            };
            // A client that has gone needs no reply.
            let _ = self.write(&bytes_of(packet)).await;
            if (header.program, header.procedure) == id::<ConnectClose>() {
                break;
            }
        }
        calls
    }

    /// Waits for `REMOTE_PROC_CONNECT_CLOSE`, confirms it and closes the connection, as libvirtd does.
    pub(crate) async fn close(mut self) {
        let call = self.expect::<ConnectClose>().await;
        self.reply::<ConnectClose>(&call, &()).await;
    }
}

/// Program and procedure of `P`.
pub(crate) fn id<P: Procedure>() -> (u32, i32) {
    (P::PROGRAM, P::NUMBER)
}

/// How many of `calls` are of `P`.
pub(crate) fn count<P: Procedure>(calls: &[Header]) -> usize {
    let is = |call: &&Header| (call.program, call.procedure) == id::<P>();
    calls.iter().filter(is).count()
}

/// Takes a packet for a call of `P`, which it must be.
pub(crate) fn call<P: Procedure>(packet: &Packet) -> Call<P::Args>
where
    P::Args: Unpack<Reader>,
{
    let Packet { header, payload } = packet;
    let expected = Header::call(P::PROGRAM, P::VERSION, P::NUMBER, header.serial);
    assert_eq!(*header, expected, "{} expected, got {header}", P::NAME);
    let args = xdr::decode(payload.clone()).expect("the arguments decode");
    Call {
        header: *header,
        args,
    }
}

/// Polls `future` once.
pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Lets every task run until all wait, on a runtime of one thread.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}
