//! Bad input: bytes that no libvirt sends, and recorded sessions cut at every offset and with every bit flipped. The
//! client may fail; it may not panic, hang, or grow without bound. The table of what else a peer can do wrong, and what
//! comes of it, is in `tests/rpc/`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libvirt_qmp::packet::{
    FrameError, Header, MAX_LENGTH, MessageStatus, MessageType, PREFIX, Packet, PacketCodec,
};
use libvirt_qmp::protocol::qemu::{
    DomainMonitorCommandArgs, DomainMonitorCommandRet, DomainMonitorEventMsg,
};
use libvirt_qmp::protocol::remote::{
    AuthListRet, AuthSaslStartRet, AuthType, ConnectListAllDomainsRet, ConnectOpenArgs,
    DomainGetInfoRet,
};
use libvirt_qmp::protocol::rpc::{MessageError, MessageHeader, MessageNonnullDomain};
use libvirt_qmp::replay::Fixture;
use libvirt_qmp::{Domain, Error, xdr};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use support::script::{Outcome, Script, Then};
use tokio::runtime::Runtime;
use tokio_util::codec::{Decoder, Encoder};
use xdr_codec::{Pack, Unpack};

/// The bytes of a recording whose every bit is flipped.
const FLIPPED: usize = 4096;

/// A session takes less than this on the paused clock, whatever its peer does: each step has a deadline of seconds.
const LONGEST: Duration = Duration::from_secs(3600);

/// Peak memory may grow by this much during all sessions; the limits of the protocol would allow for far more.
#[cfg(target_os = "linux")]
const MOST_MEMORY: u64 = 64 * 1024 * 1024;

fn fixtures() -> Vec<(PathBuf, Script)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension() == Some("fixture".as_ref()))
        .map(|path| {
            let fixture: Fixture = fs::read_to_string(&path).unwrap().parse().unwrap();
            (path, Script::new(&fixture))
        })
        .collect();
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert!(!found.is_empty());
    found
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// One session against `bytes`. Fails where it does not end.
fn play(runtime: &Runtime, script: &Script, bytes: &[u8], then: Then) -> Outcome {
    runtime
        .block_on(async { tokio::time::timeout(LONGEST, script.play(bytes, then)).await })
        .unwrap_or_else(|_| panic!("the client hangs"))
}

/// The most memory that this process has ever had, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

#[test]
fn an_undamaged_recording_plays_to_its_end() {
    let runtime = runtime();
    for (path, script) in fixtures() {
        for then in [Then::Close, Then::FallSilent] {
            let outcome = play(&runtime, &script, &script.bytes, then);
            assert!(outcome.failed.is_empty(), "{path:?}: {outcome:?}");
            assert_eq!(outcome.good + outcome.refused, script.steps(), "{path:?}");
            assert_eq!(outcome.calls, script.calls(), "{path:?}");
        }
    }
    let (_, events) = fixtures()
        .into_iter()
        .find(|(path, _)| path.ends_with("events.fixture"))
        .unwrap();
    let outcome = play(&runtime, &events, &events.bytes, Then::Close);
    assert!(outcome.events >= 3, "{outcome:?}");
}

/// The offsets to cut `length` bytes at: all of them, or of a long recording the first 4 KiB, the last KiB, and some
/// between.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |cut| *cut < FLIPPED || cut + 1024 >= length || cut % 997 == 0)
}

#[test]
fn a_session_cut_anywhere_ends() {
    let runtime = runtime();
    for (path, script) in fixtures() {
        for cut in cuts(script.bytes.len()) {
            let outcome = play(&runtime, &script, &script.bytes[..cut], Then::Close);
            // The client had not heard all, so something failed, because the connection ended; the close alone does not
            // mind.
            let close_only = outcome.good + outcome.refused == script.steps();
            assert!(close_only || !outcome.failed.is_empty(), "{path:?} {cut}");
            for error in &outcome.failed {
                assert!(
                    matches!(error, Error::Disconnected { .. }),
                    "{path:?} {cut}: {error:?}"
                );
            }
        }
    }
}

/// The sessions above are cut at every offset but inside the longest packet, where they take samples. At the decoders no
/// offset is left out: a packet cut short is an error that says so.
#[test]
fn every_packet_of_every_recording_cut_at_every_offset_is_an_error() {
    for (path, script) in fixtures() {
        let (mut source, mut cut_packets) = (BytesMut::from(&script.bytes[..]), 0);
        while let Some(length) = source.first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let rest = source.split_off(length);
            let packet = source.clone();
            for cut in (1..length).rev() {
                source.truncate(cut);
                assert!(
                    matches!(
                        PacketCodec.decode_eof(&mut source),
                        Err(FrameError::CutShort { got, .. }) if got == cut
                    ),
                    "{}: {cut} of {length}",
                    path.display()
                );
            }
            check_cut_reply(packet.freeze().slice(PREFIX..));
            cut_packets += 1;
            source = rest;
        }
        assert!(cut_packets > 3, "{}", path.display());
    }
}

/// A payload that is one string, as the reply to a monitor command is, decodes whole and at no cut.
fn check_cut_reply(payload: Bytes) {
    if xdr::decode::<DomainMonitorCommandRet>(payload.clone()).is_ok() {
        let text = u32::from_be_bytes(*payload.first_chunk::<4>().unwrap()) as usize;
        for cut in cuts(4 + text) {
            xdr::decode::<DomainMonitorCommandRet>(payload.slice(..cut)).unwrap_err();
        }
    }
}

#[test]
fn a_session_that_falls_silent_anywhere_ends_at_its_deadlines() {
    let runtime = runtime();
    for (path, script) in fixtures() {
        for cut in cuts(script.bytes.len()).step_by(5) {
            let outcome = play(&runtime, &script, &script.bytes[..cut], Then::FallSilent);
            for error in &outcome.failed {
                assert!(
                    matches!(error, Error::Timeout { .. }),
                    "{path:?} {cut}: {error:?}"
                );
            }
        }
    }
}

/// How many bytes both begin with.
fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[test]
fn a_session_with_any_bit_flipped_ends() {
    let runtime = runtime();
    #[cfg(target_os = "linux")]
    let before = peak_memory();
    let (mut sessions, mut unharmed, mut disconnected, mut undecoded, mut timeouts) =
        (0, 0, 0, 0, 0);
    let fixtures = fixtures();
    for (place, (_, script)) in fixtures.iter().enumerate() {
        // What is behind the flipped bits of a long recording would only take time.
        let length = script.bytes.len().min(FLIPPED);
        let mut bytes = script.bytes[..length].to_vec();
        // The recordings begin alike: what another has had is not flipped again.
        let had = |(_, other): &(_, Script)| common(&other.bytes, &script.bytes);
        let first = fixtures[..place].iter().map(had).max().unwrap_or(0);
        for bit in first * 8..length * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let then = if bit % 2 == 0 {
                Then::Close
            } else {
                Then::FallSilent
            };
            let outcome = play(&runtime, script, &bytes, then);
            bytes[bit / 8] ^= 1 << (bit % 8);
            sessions += 1;
            unharmed += usize::from(outcome.failed.is_empty());
            for error in outcome.failed {
                match error {
                    Error::Disconnected { .. } => disconnected += 1,
                    Error::Decode { .. } => undecoded += 1,
                    Error::Timeout { .. } => timeouts += 1,
                    _ => {}
                }
            }
        }
    }
    // Each way to fail was met, and so was none.
    let met = [unharmed, disconnected, undecoded, timeouts];
    assert!(
        met.iter().all(|number| *number > sessions / 100),
        "{sessions}: {met:?}"
    );
    #[cfg(target_os = "linux")]
    {
        let grown = peak_memory() - before;
        assert!(grown < MOST_MEMORY, "memory grew by {grown} bytes");
    }
}

#[test]
fn a_long_reply_with_some_bits_flipped_ends() {
    let runtime = runtime();
    for (_, script) in fixtures() {
        let mut bytes = script.bytes.clone();
        for at in (FLIPPED..bytes.len()).step_by(9973) {
            bytes[at] ^= 0x84;
            play(&runtime, &script, &bytes, Then::Close);
            bytes[at] ^= 0x84;
        }
    }
}

/// Property tests without files for past failures: what fails here is written down as a test of its own.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    }
}

/// Reads all packets that `bytes` hold, fed in pieces of `step`; the first error ends it.
fn packets(bytes: &[u8], step: usize) -> (Vec<Packet>, Option<String>) {
    let mut source = BytesMut::new();
    let mut packets = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        source.extend_from_slice(piece);
        loop {
            match PacketCodec.decode(&mut source) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error.to_string())),
            }
        }
        assert!(source.capacity() < bytes.len() + 3 * 1024 * 1024);
    }
    match PacketCodec.decode_eof(&mut source) {
        Ok(None) => (packets, None),
        Ok(Some(_)) => panic!("a whole packet was left"),
        Err(error) => (packets, Some(error.to_string())),
    }
}

fn decodes<T: Unpack<xdr::Reader> + std::fmt::Debug>(bytes: &Bytes) {
    // What decodes is not longer than what it came from, whatever lengths stand in it.
    if let Ok(value) = xdr::decode::<T>(bytes.clone()) {
        assert!(size_of_val(&value) + format!("{value:?}").len() < 64 * bytes.len() + 4096);
    }
}

fn comes_back<T>(value: &T) -> Bytes
where
    T: Pack<xdr::Writer> + Unpack<xdr::Reader> + PartialEq + std::fmt::Debug,
{
    let mut bytes = Vec::new();
    xdr::encode(value, &mut bytes).unwrap();
    assert_eq!(bytes.len() % 4, 0);
    let bytes = Bytes::from(bytes);
    assert_eq!(&xdr::decode::<T>(bytes.clone()).unwrap(), value);
    // More behind it changes nothing, and anything less is too little.
    let longer: Vec<u8> = bytes.iter().copied().chain([0xff; 5]).collect();
    assert_eq!(&xdr::decode::<T>(longer.into()).unwrap(), value);
    // Each failure costs time: xdr-codec's errors take a backtrace where the environment asks for them.
    for cut in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
        assert!(
            xdr::decode::<T>(bytes.slice(..cut)).is_err(),
            "cut at {cut}"
        );
    }
    bytes
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}".prop_map(String::from)
}

fn domains() -> impl Strategy<Value = Domain> {
    (text(), any::<[u8; 16]>(), option::of(0..i32::MAX)).prop_map(|(name, uuid, id)| Domain {
        name,
        uuid: uuid::Uuid::from_bytes(uuid),
        id,
    })
}

prop_compose! {
    fn errors()(
        numbers in any::<[i32; 5]>(),
        message in option::of(text()),
        dom in option::of(domains()),
        texts in [option::of(text()), option::of(text()), option::of(text())],
    ) -> MessageError {
        let [code, domain, level, int1, int2] = numbers;
        let [str1, str2, str3] = texts;
        let dom = dom.map(|Domain { name, uuid, id }| MessageNonnullDomain { name, uuid: uuid.into_bytes(), id: id.unwrap_or(-1) });
        MessageError { code, domain, message, level, dom, str1, str2, str3, int1, int2, net: None }
    }
}

fn headers() -> impl Strategy<Value = Header> {
    (any::<[u32; 3]>(), any::<[i32; 3]>()).prop_map(|(unsigned, signed)| Header {
        program: unsigned[0],
        version: unsigned[1],
        procedure: signed[0],
        kind: MessageType(signed[1]),
        serial: unsigned[2],
        status: MessageStatus(signed[2]),
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes_are_packets_or_an_error(bytes in vec(any::<u8>(), 0..200), step in 1..40usize) {
        let (found, error) = packets(&bytes, step);
        let (again, same) = packets(&bytes, bytes.len());
        prop_assert_eq!(&found, &again);
        prop_assert_eq!(error.is_some(), same.is_some());
        let taken: usize = found.iter().map(|packet| PREFIX + packet.payload.len()).sum();
        prop_assert!(taken <= bytes.len());
        prop_assert_eq!(error.is_none(), taken == bytes.len());
    }

    #[test]
    fn small_lengths_are_packets_or_an_error(
        pieces in vec((0..64u32, vec(any::<u8>(), 0..60)), 0..6),
        step in 1..40usize,
    ) {
        let mut bytes = Vec::new();
        for (length, payload) in pieces {
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&payload);
        }
        let (found, _) = packets(&bytes, step);
        prop_assert!(found.iter().all(|packet| PREFIX + packet.payload.len() < 64));
    }

    #[test]
    fn lengths_outside_the_limits_are_refused(word in any::<u32>()) {
        let fits = (28..=33_554_436).contains(&word);
        let mut source = BytesMut::from(&word.to_be_bytes()[..]);
        prop_assert_eq!(PacketCodec.decode(&mut source).is_ok(), fits);
        prop_assert_eq!(MAX_LENGTH, 33_554_436);
    }

    #[test]
    fn packets_come_back(
        sent in vec((headers(), vec(any::<u8>(), 0..100)), 0..8),
        step in 1..300usize,
    ) {
        let sent: Vec<Packet> = sent
            .into_iter()
            .map(|(header, payload)| Packet { header, payload: payload.into() })
            .collect();
        let mut bytes = BytesMut::new();
        for packet in &sent {
            PacketCodec.encode(packet.clone(), &mut bytes).unwrap();
            prop_assert!(!packet.header.to_string().is_empty());
        }
        let (found, error) = packets(&bytes, step);
        prop_assert_eq!(found, sent);
        prop_assert_eq!(error, None);
    }

    #[test]
    fn random_bytes_decode_or_do_not(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        decodes::<MessageError>(&bytes);
        decodes::<MessageHeader>(&bytes);
        decodes::<DomainMonitorEventMsg>(&bytes);
        decodes::<DomainMonitorCommandArgs>(&bytes);
        decodes::<ConnectListAllDomainsRet>(&bytes);
        decodes::<ConnectOpenArgs>(&bytes);
        decodes::<AuthListRet>(&bytes);
        decodes::<AuthSaslStartRet>(&bytes);
        decodes::<DomainGetInfoRet>(&bytes);
    }

    #[test]
    fn small_words_decode_or_do_not(words in vec(0..9u32, 0..60)) {
        // Random words are lengths over every limit nearly always; these are not.
        let bytes: Bytes = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        decodes::<MessageError>(&bytes);
        decodes::<DomainMonitorEventMsg>(&bytes);
        decodes::<ConnectListAllDomainsRet>(&bytes);
        decodes::<ConnectOpenArgs>(&bytes);
        decodes::<AuthListRet>(&bytes);
        decodes::<AuthSaslStartRet>(&bytes);
    }

    #[test]
    fn errors_come_back(error in errors()) {
        comes_back(&error);
    }

    #[test]
    fn lists_of_domains_come_back(domains in vec(domains(), 0..20), ret in any::<u32>()) {
        comes_back(&ConnectListAllDomainsRet { domains, ret });
    }

    #[test]
    fn lists_of_authentications_come_back(types in vec(any::<i32>(), 0..=20)) {
        let types = types.into_iter().map(AuthType).collect();
        comes_back(&AuthListRet { types });
    }

    #[test]
    fn data_of_sasl_comes_back_a_word_for_each_byte(
        data in vec(any::<u8>(), 0..80),
        complete in any::<i32>(),
        nil in any::<i32>(),
    ) {
        let length = data.len();
        let value = AuthSaslStartRet { complete, nil, data };
        prop_assert_eq!(comes_back(&value).len(), 12 + 4 * length);
    }

    #[test]
    fn events_come_back(
        callback_id in any::<i32>(),
        dom in domains(),
        event in text(),
        seconds in any::<i64>(),
        micros in any::<u32>(),
        details in option::of(text()),
    ) {
        comes_back(&DomainMonitorEventMsg { callback_id, dom, event, seconds, micros, details });
    }
}
