//! As much of the wire format of libvirt's RPC as the stand-in server and the floor need, written without the crate so
//! that neither depends on what is measured. Imports std only.

/// `REMOTE_PROGRAM`.
pub(crate) const REMOTE: u32 = 0x2000_8086;
/// `QEMU_PROGRAM`.
pub(crate) const QEMU: u32 = 0x2000_8087;
/// `KEEPALIVE_PROGRAM`.
pub(crate) const KEEPALIVE: u32 = 0x6b65_6570;

/// `VIR_NET_CALL`.
pub(crate) const CALL: u32 = 0;
/// `VIR_NET_REPLY`.
pub(crate) const REPLY: u32 = 1;
/// `VIR_NET_MESSAGE`.
pub(crate) const MESSAGE: u32 = 2;
/// `VIR_NET_STREAM`.
pub(crate) const STREAM: u32 = 3;

/// `VIR_NET_CONTINUE`.
pub(crate) const CONTINUE: u32 = 2;

/// The length word and the header: seven words.
pub(crate) const PREFIX: usize = 28;
/// Where the serial stands.
pub(crate) const SERIAL: std::ops::Range<usize> = 20..24;
/// Where the status stands.
pub(crate) const STATUS: std::ops::Range<usize> = 24..28;

/// The name of the domain that is called.
pub(crate) const DOMAIN: &str = "stage-lb-1";

/// A packet: program, procedure and type as given, version 1, status OK.
pub(crate) fn packet(
    program: u32,
    procedure: u32,
    kind: u32,
    serial: u32,
    payload: &[u8],
) -> Vec<u8> {
    let length = u32::try_from(PREFIX + payload.len()).unwrap();
    let mut packet = Vec::with_capacity(PREFIX + payload.len());
    for word in [length, program, 1, procedure, kind, serial, 0] {
        put_word(&mut packet, word);
    }
    packet.extend_from_slice(payload);
    packet
}

pub(crate) fn put_word(out: &mut Vec<u8>, word: u32) {
    out.extend_from_slice(&word.to_be_bytes());
}

/// `string`: its length, its bytes, zeros up to a multiple of four.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    put_word(out, u32::try_from(text.len()).unwrap());
    out.extend_from_slice(text.as_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

/// `remote_nonnull_domain` with a UUID that depends on the name.
pub(crate) fn put_domain(out: &mut Vec<u8>, name: &str, id: u32) {
    put_string(out, name);
    for seed in [0xcbf2_9ce4_8422_2325_u64, 0x9e37_79b9_7f4a_7c15] {
        let hash = name.bytes().fold(seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        out.extend_from_slice(&hash.to_be_bytes());
    }
    put_word(out, id);
}

/// The word at `at`.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The string whose length word is at `at`, and where its padding ends.
pub(crate) fn string(bytes: &[u8], at: usize) -> (&[u8], usize) {
    let length = word(bytes, at) as usize;
    (
        &bytes[at + 4..at + 4 + length],
        at + 4 + length.next_multiple_of(4),
    )
}

/// The length of the packet that `bytes` start with, if it is there in full.
pub(crate) fn complete(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.first_chunk::<4>()?) as usize;
    assert!(length >= PREFIX, "packet length {length}");
    (length <= bytes.len()).then_some(length)
}
