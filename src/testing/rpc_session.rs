//! One connection to a stand-in for libvirtd: its packets, its calls, its event registrations. Imports protocol, packet, xdr,
//! qmp, `daemon`, `procedures` and `transport`.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, Bytes, BytesMut};
use regex_lite::{Regex, RegexBuilder};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::codec::{Decoder, Encoder};
use uuid::Uuid;
use xdr_codec::Pack;

use super::daemon::{Call, Daemon, FROM_QEMU, FROM_RPC, Failure, FaultKind, failure};
use super::machine::lock;
use super::procedures::{self, Answer};
use super::transport::{Conn, Out, Reader, write};
use crate::error::LibvirtError;
use crate::objects::Domain;
use crate::packet::{Header, MessageStatus, MessageType, Packet, PacketCodec};
use crate::protocol::keepalive::procedure::{Ping, Pong};
use crate::protocol::qemu::DomainMonitorEventMsg;
use crate::protocol::qemu::procedure::DomainMonitorEvent;
use crate::protocol::rpc::MESSAGE_NUM_FDS_MAX;
use crate::protocol::{Message, keepalive};
use crate::qmp::Event;
use crate::xdr::{self, Writer};

pub(super) struct Session {
    pub(super) daemon: Arc<Daemon>,
    out: mpsc::UnboundedSender<Out>,
    state: Mutex<State>,
}

/// What a connection is after its opening.
#[derive(Default)]
pub(super) struct State {
    /// The URI, once it is open.
    pub(super) uri: Option<String>,
    pub(super) readonly: bool,
    pub(super) registrations: Vec<Registration>,
}

/// Who wants which events.
pub(super) struct Registration {
    pub(super) id: i32,
    /// One domain, or all.
    pub(super) domain: Option<Uuid>,
    /// Some events, or all.
    pub(super) names: Option<Names>,
}

/// Which names of events are meant.
pub(super) enum Names {
    Exactly(String),
    IgnoringCase(String),
    Regex(Regex),
}

impl Names {
    /// A name, or a regular expression that need not match from end to end.
    pub(super) fn new(text: String, regex: bool, ignore_case: bool) -> Option<Self> {
        Some(match (regex, ignore_case) {
            (false, false) => Names::Exactly(text),
            (false, true) => Names::IgnoringCase(text),
            (true, _) => {
                let mut builder = RegexBuilder::new(&text);
                Names::Regex(builder.case_insensitive(ignore_case).build().ok()?)
            }
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Names::Exactly(text) => text == name,
            Names::IgnoringCase(text) => text.eq_ignore_ascii_case(name),
            Names::Regex(regex) => regex.is_match(name),
        }
    }
}

/// Descriptors that may have come and not been used: those of a few calls.
const MOST_FILES: usize = 4 * MESSAGE_NUM_FDS_MAX as usize;

/// Serves a client until either side ends it.
pub(super) async fn serve(daemon: Arc<Daemon>, conn: Conn) {
    let (reader, writer) = conn.split();
    let (out, queued) = mpsc::unbounded_channel();
    let session = Arc::new(Session {
        daemon,
        out,
        state: Mutex::default(),
    });
    let limit = session.daemon.attend(&session);
    // libvirtd too drops the replies it owes to a client that has closed its half.
    tokio::select! {
        () = session.read(reader, limit) => {}
        () = write(writer, queued) => {}
    }
}

impl Session {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Reads packets until the client ends, or sends what libvirtd hangs up on.
    async fn read(self: &Arc<Self>, reader: Reader, limit: Arc<Semaphore>) {
        let mut packets = Packets {
            reader,
            buffer: BytesMut::new(),
            files: Vec::new(),
        };
        let mut calls = JoinSet::new();
        loop {
            // Nothing is read, not even a ping, while too many calls are unanswered.
            let Ok(free) = limit.clone().acquire_owned().await else {
                return;
            };
            let Some((packet, files)) = packets.next().await else {
                return;
            };
            let Packet { header, payload } = packet;
            if header.program == keepalive::PROGRAM {
                if header.procedure == Ping::NUMBER {
                    self.send_raw(Bytes::copy_from_slice(
                        &Header::keepalive(Pong::NUMBER).prefix(0),
                    ));
                }
            } else if matches!(header.kind, MessageType::CALL | MessageType::CALL_WITH_FDS) {
                let session = self.clone();
                calls.spawn(async move {
                    let answered = session.call(header, payload, files).await;
                    if !answered {
                        // It keeps its place among the unanswered ones.
                        free.forget();
                    }
                });
            }
            // libvirtd passes over anything else.
            while calls.try_join_next().is_some() {}
        }
    }

    /// Executes a call. Says whether it was answered.
    async fn call(&self, header: Header, payload: Bytes, files: Vec<OwnedFd>) -> bool {
        let fault = self.daemon.admit(Call {
            header,
            payload: payload.clone(),
        });
        match fault.map(|fault| fault.0) {
            None => {}
            Some(FaultKind::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(FaultKind::Error { code, message }) => {
                self.fail(&header, &failure(FROM_QEMU, code, message));
                return true;
            }
            Some(FaultKind::Silence) => return false,
            Some(FaultKind::Disconnect) => {
                self.close();
                return true;
            }
            Some(FaultKind::Reply(payload)) => {
                self.reply(&header, MessageStatus::OK, payload);
                return true;
            }
        }
        match procedures::answer(self, &header, payload, files).await {
            Ok(Answer::Reply(payload)) => self.reply(&header, MessageStatus::OK, payload),
            Ok(Answer::Command {
                payload,
                machine,
                after,
            }) => {
                self.reply(&header, MessageStatus::OK, payload);
                machine.finish(after, false);
            }
            Ok(Answer::Closing) => {
                self.reply(&header, MessageStatus::OK, Bytes::new());
                self.close();
            }
            Ok(Answer::Never) => return false,
            Err(error) => self.fail(&header, &error),
        }
        true
    }

    fn reply(&self, call: &Header, status: MessageStatus, payload: Bytes) {
        let header = Header {
            kind: MessageType::REPLY,
            status,
            ..*call
        };
        self.send(Packet { header, payload });
    }

    fn fail(&self, call: &Header, error: &Failure) {
        // The text is the test's, and may be longer than an error can carry.
        let payload = encode(&**error).or_else(|short| encode(&*short));
        self.reply(call, MessageStatus::ERROR, payload.unwrap_or_default());
    }

    fn send(&self, packet: Packet) {
        let mut bytes = BytesMut::new();
        // No payload that is made here is longer than a packet.
        if PacketCodec.encode(packet, &mut bytes).is_ok() {
            self.send_raw(bytes.freeze());
        }
    }

    /// Sends bytes, unless the daemon is silent.
    pub(super) fn send_raw(&self, bytes: Bytes) {
        if !self.daemon.state().silent {
            // Nobody takes it where the connection has ended.
            let _ = self.out.send(Out::Bytes(bytes));
        }
    }

    pub(super) fn ping(&self) {
        let ping = Header::keepalive(Ping::NUMBER).prefix(0);
        self.send_raw(Bytes::copy_from_slice(&ping));
    }

    pub(super) fn close(&self) {
        let _ = self.out.send(Out::Close);
    }

    /// Sends an event once for each registration that wants it.
    pub(super) fn tell(&self, domain: &Domain, event: &Event) {
        let uuid = domain.uuid;
        let mut bodies = Vec::new();
        for wanted in &self.state().registrations {
            if wanted.domain.is_none_or(|one| one == uuid)
                && wanted
                    .names
                    .as_ref()
                    .is_none_or(|names| names.matches(&event.name))
            {
                bodies.push(event_body(wanted.id, domain, event));
            }
        }
        for payload in bodies.iter().filter_map(|body| encode(body).ok()) {
            // libvirt puts serial 1 on every event.
            let header = Header {
                kind: MessageType::MESSAGE,
                ..Header::call(
                    DomainMonitorEvent::PROGRAM,
                    DomainMonitorEvent::VERSION,
                    DomainMonitorEvent::NUMBER,
                    1,
                )
            };
            self.send(Packet { header, payload });
        }
    }
}

fn event_body(id: i32, domain: &Domain, event: &Event) -> DomainMonitorEventMsg {
    DomainMonitorEventMsg {
        callback_id: id,
        dom: domain.clone(),
        event: event.name.clone(),
        seconds: event.timestamp.seconds,
        // The wire type is unsigned; where QEMU gave no time its -1 goes as that.
        micros: u32::try_from(event.timestamp.microseconds).unwrap_or(u32::MAX),
        details: event.data.as_ref().map(|data| data.get().into()),
    }
}

/// A value as XDR; where it does not fit, the error that libvirtd sends in its place.
pub(super) fn encode<T: Pack<Writer>>(value: &T) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    match xdr::encode(value, &mut bytes) {
        Ok(()) => Ok(bytes.into()),
        Err(_) => {
            let text = "Unable to encode message payload";
            Err(failure(FROM_RPC, LibvirtError::RPC, text))
        }
    }
}

/// Packets and the descriptors that follow them.
struct Packets {
    reader: Reader,
    buffer: BytesMut,
    files: Vec<OwnedFd>,
}

impl Packets {
    /// The next packet; none at the end, and where libvirtd would hang up.
    async fn next(&mut self) -> Option<(Packet, Vec<OwnedFd>)> {
        let mut packet = loop {
            match PacketCodec.decode(&mut self.buffer) {
                Ok(Some(packet)) => break packet,
                Ok(None) => self.read().await?,
                Err(_) => return None,
            }
        };
        if packet.header.kind != MessageType::CALL_WITH_FDS {
            // What came with it belongs to no call.
            return Some((packet, Vec::new()));
        }
        let count = packet.payload.try_get_u32().ok()?;
        if count > MESSAGE_NUM_FDS_MAX {
            return None;
        }
        let count = usize::try_from(count).ok()?;
        // Each rides on a byte of its own behind the packet.
        while self.buffer.len() < count {
            self.read().await?;
        }
        self.buffer.advance(count);
        if self.files.len() < count {
            return None;
        }
        Some((packet, self.files.drain(..count).collect()))
    }

    async fn read(&mut self) -> Option<()> {
        match self.reader.read(&mut self.buffer, &mut self.files).await {
            Ok(0) | Err(_) => None,
            // Those that belong to no call pile up: nobody sends so many.
            Ok(_) if self.files.len() > MOST_FILES => None,
            Ok(_) => Some(()),
        }
    }
}
