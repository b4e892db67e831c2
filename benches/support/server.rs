//! A stand-in for libvirtd that costs as little as possible: every reply is built beforehand, and the replies to all calls
//! of one read leave in one write. Blocking, one thread a connection, over any stream. Imports `wire`.
//!
//! Beside what a session needs it knows three monitor commands of its own, see [`Special`].

use std::io::{Read, Write};
use std::sync::LazyLock;

use crate::wire::{
    self, CALL, CONTINUE, KEEPALIVE, MESSAGE, PREFIX, QEMU, REMOTE, REPLY, SERIAL, STREAM,
    put_domain, put_string, put_word, word,
};

/// What the list of domains holds.
pub(crate) const DOMAINS: u32 = 10_000;

/// The length of the text of the large reply.
pub(crate) const LARGE_REPLY: usize = 187_000;

/// The content of the volume that can be downloaded: so many packets, each as large as libvirtd makes them.
pub(crate) const VOLUME_PACKETS: u32 = 256;
pub(crate) const PACKET_DATA: u32 = 262_120;

/// Bytes of events that leave in one write, at most.
const FLOOD_BLOCK: usize = 64 * 1024;

/// Bytes of calls that are read at once, at most.
const READ: usize = 256 * 1024;

/// What every special command starts with.
const SPECIAL: &[u8] = br#"{"execute":"bench-"#;

const STATUS_REPLY: &str =
    r#"{"return":{"status":"running","singlestep":false,"running":true},"id":"libvirt-7"}"#;

const EVENT_DATA: &str = concat!(
    r#"{"device":"drive-virtio-disk0","len":10737418240,"offset":10737418240,"speed":0,"type":"mirror","#,
    r#""qom-path":"/machine/peripheral/virtio-disk0/virtio-backend"}"#
);

static STATUS: LazyLock<Vec<u8>> = LazyLock::new(|| monitor_reply(STATUS_REPLY));
static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| monitor_reply(&large_text()));
static LIST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut payload = Vec::new();
    put_word(&mut payload, DOMAINS);
    for number in 0..DOMAINS {
        put_domain(&mut payload, &format!("stage-lb-{number}"), number);
    }
    put_word(&mut payload, DOMAINS);
    wire::packet(REMOTE, 273, REPLY, 0, &payload)
});

/// The monitor commands that only this server knows.
pub(crate) enum Special {
    /// A reply of `LARGE_REPLY` bytes.
    Large,
    /// So many events for the registration made last, with data or without, right behind the reply.
    Flood { count: usize, data: bool },
}

impl Special {
    /// The command, as QMP.
    pub(crate) fn command(&self) -> String {
        match self {
            Special::Large => r#"{"execute":"bench-large"}"#.to_owned(),
            Special::Flood { count, data: false } => {
                format!(r#"{{"execute":"bench-flood-plain-{count}"}}"#)
            }
            Special::Flood { count, data: true } => {
                format!(r#"{{"execute":"bench-flood-data-{count}"}}"#)
            }
        }
    }

    /// What the text after `SPECIAL` asks for.
    fn parse(rest: &[u8]) -> Self {
        let rest = std::str::from_utf8(rest)
            .unwrap()
            .trim_end_matches(['"', '}']);
        let flood = |count: &str, data| Special::Flood {
            count: count.parse().unwrap(),
            data,
        };
        match (
            rest.strip_prefix("flood-plain-"),
            rest.strip_prefix("flood-data-"),
        ) {
            (Some(count), _) => flood(count, false),
            (_, Some(count)) => flood(count, true),
            _ => Special::Large,
        }
    }
}

/// Serves one connection until its peer closes it.
pub(crate) fn serve(mut stream: impl Read + Write) {
    let mut session = Session {
        registrations: 0,
        next: Next::Read,
    };
    let mut input = vec![0; READ];
    let mut filled = 0;
    let mut out = Vec::with_capacity(READ);
    loop {
        match stream.read(&mut input[filled..]) {
            Ok(0) | Err(_) => return,
            Ok(read) => filled += read,
        }
        let mut start = 0;
        while let Some(length) = wire::complete(&input[start..filled]) {
            session.answer(&input[start..start + length], &mut out);
            start += length;
        }
        assert!(
            start > 0 || filled < READ,
            "a call of more than {READ} bytes"
        );
        input.copy_within(start..filled, 0);
        filled -= start;
        if stream.write_all(&out).is_err() {
            return;
        }
        out.clear();
        match std::mem::replace(&mut session.next, Next::Read) {
            Next::Read => {}
            Next::Close => return,
            Next::Download { serial } => {
                if download(&mut stream, serial).is_err() {
                    return;
                }
            }
            Next::Flood { count, data } => {
                if session.flood(&mut stream, count, data).is_err() {
                    return;
                }
            }
        }
    }
}

struct Session {
    /// How many event registrations there were; each gets an id of its own.
    registrations: u32,
    next: Next,
}

/// What follows the replies of a read.
enum Next {
    Read,
    Flood {
        count: usize,
        data: bool,
    },
    /// The content of the volume, on the stream with this serial.
    Download {
        serial: u32,
    },
    Close,
}

impl Session {
    fn answer(&mut self, call: &[u8], out: &mut Vec<u8>) {
        let (program, procedure, kind) = (word(call, 4), word(call, 12), word(call, 16));
        let reply = match (program, kind, procedure) {
            // QEMU_PROC_DOMAIN_MONITOR_COMMAND
            (QEMU, CALL, 1) => {
                let (_, name_end) = wire::string(call, PREFIX);
                let (command, _) = wire::string(call, name_end + 20);
                return self.monitor_command(command, call, out);
            }
            // KEEPALIVE_PROC_PING, answered by KEEPALIVE_PROC_PONG.
            (KEEPALIVE, MESSAGE, 1) => {
                return out.extend_from_slice(&wire::packet(KEEPALIVE, 2, MESSAGE, 0, &[]));
            }
            (KEEPALIVE, MESSAGE, _) => return,
            // QEMU_PROC_CONNECT_DOMAIN_MONITOR_EVENT_REGISTER
            (QEMU, CALL, 4) => {
                self.registrations += 1;
                words(&[self.callback_id()])
            }
            // QEMU_PROC_CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER
            (QEMU, CALL, 5) => Vec::new(),
            // REMOTE_PROC_AUTH_LIST: one type, REMOTE_AUTH_NONE.
            (REMOTE, CALL, 66) => words(&[1, 0]),
            // REMOTE_PROC_CONNECT_SUPPORTS_FEATURE
            (REMOTE, CALL, 60) => words(&[1]),
            // REMOTE_PROC_CONNECT_OPEN, …_REGISTER_CLOSE_CALLBACK, …_UNREGISTER_CLOSE_CALLBACK
            (REMOTE, CALL, 1 | 360 | 361) => Vec::new(),
            // REMOTE_PROC_STORAGE_VOL_DOWNLOAD
            (REMOTE, CALL, 209) => {
                self.next = Next::Download {
                    serial: word(call, SERIAL.start),
                };
                Vec::new()
            }
            // The end of a download, which is confirmed.
            (REMOTE, STREAM, 209) => return out.extend_from_slice(call),
            // REMOTE_PROC_CONNECT_CLOSE
            (REMOTE, CALL, 2) => {
                self.next = Next::Close;
                Vec::new()
            }
            // REMOTE_PROC_DOMAIN_LOOKUP_BY_NAME
            (REMOTE, CALL, 23) => {
                let (name, _) = wire::string(call, PREFIX);
                let mut payload = Vec::new();
                put_domain(&mut payload, std::str::from_utf8(name).unwrap(), 7);
                payload
            }
            // REMOTE_PROC_CONNECT_LIST_ALL_DOMAINS
            (REMOTE, CALL, 273) => return put_reply(out, &LIST, call),
            _ => panic!("no answer to program {program:#x} procedure {procedure} type {kind}"),
        };
        put_reply(
            out,
            &wire::packet(program, procedure, REPLY, 0, &reply),
            call,
        );
    }

    fn monitor_command(&mut self, command: &[u8], call: &[u8], out: &mut Vec<u8>) {
        let Some(special) = command.strip_prefix(SPECIAL) else {
            return put_reply(out, &STATUS, call);
        };
        match Special::parse(special) {
            Special::Large => put_reply(out, &LARGE, call),
            Special::Flood { count, data } => {
                self.next = Next::Flood { count, data };
                put_reply(out, &STATUS, call);
            }
        }
    }

    /// As libvirtd does it, ids do not start at 0.
    fn callback_id(&self) -> u32 {
        15 + self.registrations
    }

    fn flood(&self, stream: &mut impl Write, count: usize, data: bool) -> std::io::Result<()> {
        let event = event(self.callback_id(), data);
        let per_block = (FLOOD_BLOCK / event.len()).min(count);
        let block = event.repeat(per_block);
        let mut left = count;
        while left > 0 {
            let now = left.min(per_block);
            stream.write_all(&block[..now * event.len()])?;
            left -= now;
        }
        Ok(())
    }
}

/// The packets of a download, and the empty one that ends it.
fn download(stream: &mut impl Write, serial: u32) -> std::io::Result<()> {
    let packet = |payload: &[u8]| {
        let mut packet = wire::packet(REMOTE, 209, STREAM, serial, payload);
        packet[wire::STATUS].copy_from_slice(&CONTINUE.to_be_bytes());
        packet
    };
    let data = packet(&vec![0x5a; PACKET_DATA as usize]);
    for _ in 0..VOLUME_PACKETS {
        stream.write_all(&data)?;
    }
    stream.write_all(&packet(&[]))
}

/// `QEMU_PROC_DOMAIN_MONITOR_EVENT`.
fn event(callback_id: u32, data: bool) -> Vec<u8> {
    let mut payload = words(&[callback_id]);
    put_domain(&mut payload, wire::DOMAIN, 7);
    put_string(
        &mut payload,
        if data {
            "BLOCK_JOB_COMPLETED"
        } else {
            "RESUME"
        },
    );
    payload.extend_from_slice(&1_700_000_000_i64.to_be_bytes());
    put_word(&mut payload, 123_456);
    put_word(&mut payload, u32::from(data));
    if data {
        put_string(&mut payload, EVENT_DATA);
    }
    // libvirtd's events carry serial 1.
    wire::packet(QEMU, 6, MESSAGE, 1, &payload)
}

fn put_reply(out: &mut Vec<u8>, reply: &[u8], call: &[u8]) {
    let start = out.len();
    out.extend_from_slice(reply);
    out[start..][SERIAL].copy_from_slice(&call[SERIAL]);
}

fn monitor_reply(text: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    put_string(&mut payload, text);
    wire::packet(QEMU, 1, REPLY, 0, &payload)
}

/// A reply in the manner of `query-qmp-schema`.
fn large_text() -> String {
    let end = r#"{"name":"STOP","meta-type":"event","arg-type":"0"}],"id":"libvirt-7"}"#;
    let mut text = String::from(r#"{"return":["#);
    for number in 0.. {
        let entry = format!(
            r#"{{"name":"{number}","ret-type":"17","meta-type":"command","arg-type":"{}"}},"#,
            number + 1
        );
        if text.len() + entry.len() + end.len() > LARGE_REPLY {
            break;
        }
        text.push_str(&entry);
    }
    text.push_str(end);
    text
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}
