//! What the generator writes, compiled and run: fixtures/generator/*.rs over the crate's own Reader and Writer.
//! Expected bytes follow from RFC 4506, and for `char` and `short` from rpcgen, which sends a word for each.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "src/xdr and the fixtures offer more than is used here"
)]

#[path = "../src/xdr/mod.rs"]
mod xdr;

/// The place where generated text expects to be.
mod protocol {
    use crate::xdr::{Reader, Writer};
    use xdr_codec::{Pack, Unpack};

    pub trait Procedure {
        const PROGRAM: u32;
        const VERSION: u32;
        const NUMBER: i32;
        const NAME: &'static str;
        type Args: Pack<Writer>;
        type Reply: Unpack<Reader>;
    }

    pub trait Message {
        const PROGRAM: u32;
        const VERSION: u32;
        const NUMBER: i32;
        const NAME: &'static str;
        type Body: Unpack<Reader>;
    }

    include!("../fixtures/generator/everything.rs");

    pub mod merged {
        include!("../fixtures/generator/merged.rs");
    }
}

use std::fmt::Debug;

use bytes::Bytes;
use protocol::demo::{self, ByBool, ByColour, ByInt, ByUnsigned, Colour, Point};
use protocol::{Message, Procedure};
use xdr::{Reader, Writer};
use xdr_codec::{Pack, Unpack};

/// Words, big endian, one after the other.
fn words(words: &[i64]) -> Vec<u8> {
    let low = |word: &i64| word.to_be_bytes().into_iter().skip(4);
    words.iter().flat_map(low).collect()
}

fn pack<T: Pack<Writer>>(value: &T) -> xdr_codec::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new());
    let size = value.pack(&mut writer)?;
    let bytes = writer.into_inner();
    assert_eq!(size, bytes.len(), "the size that pack returned");
    Ok(bytes)
}

fn unpack<T: Unpack<Reader>>(bytes: &[u8]) -> xdr_codec::Result<T> {
    let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
    let (value, size) = T::unpack(&mut reader)?;
    assert_eq!(
        size,
        bytes.len() - reader.remaining(),
        "the size that unpack returned"
    );
    Ok(value)
}

/// `value` is `bytes` both ways, and every shorter prefix is refused.
fn same<T: Pack<Writer> + Unpack<Reader> + PartialEq + Debug>(value: &T, bytes: &[u8]) {
    assert_eq!(pack(value).unwrap(), bytes, "{value:?}");
    assert_eq!(unpack::<T>(bytes).unwrap(), *value);
    for end in 0..bytes.len() {
        assert!(
            unpack::<T>(&bytes[..end]).is_err(),
            "{value:?} from {end} of {} bytes",
            bytes.len()
        );
    }
}

#[test]
fn scalars() {
    let scalars = demo::Scalars {
        a: -2,
        b: u32::MAX,
        c: 3,
        d: -4,
        e: 5 << 32,
        f: true,
        g: 0x41,
        h: 0xff,
        i: -6,
        j: 0xfffe,
        k: Colour(99),
        l: false,
        m: 7,
    };
    let expected = [
        -2,
        0xffff_ffff,
        3,
        -1,
        -4,
        5,
        0,
        1,
        0x41,
        0xff,
        -6,
        0xfffe,
        99,
        0,
        7,
    ];
    same(&scalars, &words(&expected));
    assert_eq!(
        (Colour::GREEN.name(), Colour(99).name()),
        (Some("DEMO_COLOUR_GREEN"), None)
    );
    same(
        &demo::Floats {
            narrow: 1.0,
            wide: -2.0,
        },
        &words(&[0x3f80_0000, 0xc000_0000, 0]),
    );
}

/// Numbers that are of an enum, or flags, are as wide on the wire as they were.
#[test]
fn marked_fields() {
    let mut marked = demo::Marked {
        colour: Colour::GREEN,
        rights: demo::Rights::READ | demo::Rights::ALL,
        wide: demo::Rights::WRITE | demo::Rights(0x40),
        colours: vec![Colour::NONE],
        password: b"abc".to_vec(),
        limit: 7,
    };
    let mut bytes = words(&[7, 0x8000_0001, 0, 0x42, 1, -1, 3]);
    bytes.extend_from_slice(b"abc\0");
    bytes.extend(words(&[7]));
    same(&marked, &bytes);
    let shown = format!("{marked:?}");
    assert!(
        shown.contains("Rights(DEMO_RIGHTS_WRITE | 0x40)") && !shown.contains("97"),
        "{shown}"
    );
    // Bits that the flags have no room for are not dropped.
    bytes[8..12].copy_from_slice(&[0, 0, 0, 1]);
    assert!(unpack::<demo::Marked>(&bytes).is_err());
    marked.rights = demo::Rights::default();
    assert!(marked.rights.is_empty());
}

/// What methods give in place of a reply with numbers that are a yes or no, which keeps them.
#[test]
fn answers_have_bool_for_a_yes_or_no() {
    let lamp = |lit| demo::Lamp {
        lit,
        key: "k".into(),
    };
    let reply = demo::Lamps {
        first: lamp(1),
        pair: [lamp(0), lamp(-1)],
        more: vec![lamp(0), lamp(2)],
        spare: Some(lamp(i32::MIN)),
        count: 5,
    };
    let key = 0x6b00_0000;
    let lamps = [1, 1, key, 0, 1, key, -1, 1, key, 2, 0, 1, key, 2, 1, key];
    let rest = [1, i64::from(i32::MIN), 1, key, 5];
    same(&reply, &words(&[&lamps[..], &rest].concat()));
    let answer = demo::LampsAnswer::from(reply.clone());
    assert!(answer.first.lit && !answer.pair[0].lit && answer.pair[1].lit);
    let more: Vec<bool> = answer.more.iter().map(|lamp| lamp.lit).collect();
    assert_eq!(more, [false, true]);
    assert!(answer.spare.is_some_and(|lamp| lamp.lit && lamp.key == "k"));
    assert_eq!(answer.count, 5);
    let none = demo::Lamps {
        more: Vec::new(),
        spare: None,
        ..reply
    };
    let answer = demo::LampsAnswer::from(none);
    assert!(answer.more.is_empty() && answer.spare.is_none());
    let shown = format!("{answer:?}");
    assert!(
        shown.contains("lit: true") && !shown.contains("\"k\""),
        "{shown}"
    );
}

/// As libvirt's decoder has it.
#[test]
fn any_other_number_is_true() {
    let mut bytes = words(&[0; 15]);
    bytes[28..32].copy_from_slice(&[0, 1, 0, 0]);
    assert!(unpack::<demo::Scalars>(&bytes).unwrap().f);
}

fn shapes() -> (demo::Shapes, Vec<u8>) {
    let shapes = demo::Shapes {
        name: "abc".into(),
        any: "".into(),
        id: *b"12345",
        bytes: b"1234".to_vec(),
        rest: b"x".to_vec(),
        chars: [1, 2, 3],
        bounded: vec![4],
        numbers: [5, -5],
        points: vec![Point { x: 1, y: 2 }],
        unlimited: vec![-1],
        texts: vec!["t".into()],
        maybe: Some(Point { x: 3, y: 4 }),
        perhaps: Some(true),
        uuids: vec![[0x11; 16]],
        label: [9; 7],
        story: "s".into(),
        hint: None,
        blob: Vec::new(),
        place: Point { x: 5, y: 6 },
    };
    let text = |text: &[u8; 4]| i64::from(u32::from_be_bytes(*text));
    let expected: [&[i64]; 19] = [
        &[3, text(b"abc\0")],
        &[0],
        &[text(b"1234"), text(b"5\0\0\0")],
        &[4, text(b"1234")],
        &[1, text(b"x\0\0\0")],
        &[1, 2, 3],
        &[1, 4],
        &[5, -5],
        &[1, 1, 2],
        &[1, -1],
        &[1, 1, text(b"t\0\0\0")],
        &[1, 3, 4],
        &[1, 1],
        &[1, 0x1111_1111, 0x1111_1111, 0x1111_1111, 0x1111_1111],
        &[9; 7],
        &[1, text(b"s\0\0\0")],
        &[0],
        &[0],
        &[5, 6],
    ];
    (shapes, words(&expected.concat()))
}

#[test]
fn every_shape() {
    let (shapes, bytes) = shapes();
    same(&shapes, &bytes);
}

#[test]
fn limits_hold_both_ways() {
    let (shapes, bytes) = shapes();
    let over = [
        demo::Shapes {
            name: "123456789".into(),
            ..shapes.clone()
        },
        demo::Shapes {
            bytes: vec![0; 256],
            ..shapes.clone()
        },
        demo::Shapes {
            bounded: vec![0; 5],
            ..shapes.clone()
        },
        demo::Shapes {
            texts: vec!["12345678901".into()],
            ..shapes.clone()
        },
        demo::Shapes {
            uuids: vec![[0; 16]; 3],
            ..shapes.clone()
        },
    ];
    for shapes in over {
        assert!(pack(&shapes).is_err(), "{shapes:?}");
    }
    // The name may have 8 bytes, and no array more items than there are bytes.
    for count in [9, 0xffff_ffff] {
        let bytes = [&words(&[count]), &bytes[4..]].concat();
        assert!(unpack::<demo::Shapes>(&bytes).is_err());
    }
}

#[test]
fn unions() {
    same(&ByInt::Number(5), &words(&[1, 5]));
    same(&ByInt::Text("a".into()), &words(&[-3, 1, 0x6100_0000]));
    same(&ByInt::Case3(7), &words(&[3, 0, 7]));
    same(&ByInt::Case4, &words(&[4]));
    assert!(unpack::<ByInt>(&words(&[5, 0])).is_err());

    same(&ByColour::None, &words(&[-1]));
    same(&ByColour::Shades(vec![1, 2]), &words(&[0, 2, 1, 2]));
    let other = |number| ByColour::Default {
        discriminant: Colour(number),
        value: -2.0,
    };
    same(&other(8), &words(&[8, 0xc000_0000, 0]));
    assert!(
        pack(&other(-1)).is_err(),
        "the default arm cannot stand for another"
    );

    same(&ByUnsigned::Last(3), &words(&[0xffff_ffff, 3]));
    same(&ByUnsigned::Default { discriminant: 0 }, &words(&[0]));
    same(&ByBool::At(None), &words(&[1, 0]));
    same(
        &ByBool::At(Some(Point { x: 1, y: 2 })),
        &words(&[1, 1, 1, 2]),
    );
    same(&ByBool::False, &words(&[0]));
}

#[test]
fn procedures_know_what_they_are() {
    fn call<P: Procedure>() -> (u32, u32, i32, &'static str) {
        (P::PROGRAM, P::VERSION, P::NUMBER, P::NAME)
    }
    fn message<M: Message>() -> (u32, u32, i32, &'static str) {
        (M::PROGRAM, M::VERSION, M::NUMBER, M::NAME)
    }
    assert_eq!(
        call::<demo::procedure::Shape>(),
        (0x2000_1234, 2, 3, "DEMO_PROC_SHAPE")
    );
    assert_eq!(
        message::<demo::procedure::Happened>(),
        (0x2000_1234, 2, -4, "DEMO_PROC_HAPPENED")
    );
    let name = |number| protocol::procedure_name(demo::PROGRAM, number);
    assert_eq!(
        [name(-4), name(3), name(4)],
        [Some("DEMO_PROC_HAPPENED"), Some("DEMO_PROC_SHAPE"), None]
    );
    assert_eq!(protocol::procedure_name(1, 3), None);
    assert_eq!(protocol::program_name(demo::PROGRAM), Some("DEMO_PROGRAM"));
    assert_eq!(protocol::program_name(1), None);
}

#[test]
fn modules_use_each_other() {
    use protocol::merged::{demo, other};
    let record = other::Record {
        texts: ["a".into(), "b".into()],
    };
    let value = demo::A {
        text: "t".into(),
        b: demo::B {
            records: vec![record],
        },
        kind: other::Kind::ONLY,
    };
    let expected = [1, 0x7400_0000, 1, 1, 0x6100_0000, 1, 0x6200_0000, 1];
    same(&value, &words(&expected));
    assert_eq!(
        protocol::merged::procedure_name(77, 1),
        Some("DEMO_PROC_SET_B")
    );
}
