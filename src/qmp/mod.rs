//! QMP, the QEMU Machine Protocol, as texts and plain data: commands, replies, errors, events, the greeting, and how
//! messages are told apart in a stream of bytes. No I/O, nothing of libvirt, and it imports nothing else of ours.
//!
//! What comes from a server stays as it came: unknown events, error classes, capabilities and members are kept or
//! passed over, never an error, and values are handed on as raw JSON so that no number loses a digit.

mod command;
mod error;
mod event;
mod filter;
mod frame;
mod json;
mod lex;
mod reply;
pub mod schema;
mod transaction;
mod version;

use serde::Deserialize;
use serde::de::Error as _;

pub use command::{Command, CommandError};
pub use error::{ErrorClass, QmpError};
pub use event::{Event, EventDomain, EventError, Timestamp};
pub use filter::{EventFilter, FilterError};
pub use schema::Schema;
pub use transaction::Transaction;
pub use version::{Greeting, Version};

pub(crate) use command::RawCommand;
pub(crate) use frame::{FrameDecoder, FrameError};
pub(crate) use reply::{
    Kind, Message, event_name, is_error, restore_id, return_text, return_value, set_id,
};

/// Bytes of one message, in either direction, unless set otherwise: 64 MiB, what QEMU's own parser takes.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// Containers that a text to be decoded may have open at once. serde_json by itself gives up at 128, and the chain of an
/// image's backing files has a level for each. Decoding recurses: twice as many overflow the stack of a thread (2 MiB) in a
/// program that was not optimised. What is deeper is there as text, up to QEMU's own [`lex::MAX_DEPTH`].
const MAX_DECODE_DEPTH: usize = 512;

/// Decodes one JSON text, nested up to [`MAX_DECODE_DEPTH`] levels.
pub(crate) fn from_json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, serde_json::Error> {
    if !lex::within_depth(text, MAX_DECODE_DEPTH) {
        return Err(serde_json::Error::custom("more than 512 levels of nesting"));
    }
    let mut parser = serde_json::Deserializer::from_slice(text);
    parser.disable_recursion_limit();
    let value = T::deserialize(&mut parser)?;
    parser.end()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn nested(levels: usize) -> Vec<u8> {
        [b"[".repeat(levels), b"]".repeat(levels)].concat()
    }

    #[test]
    fn depth_is_capped_where_the_stack_still_holds() {
        for levels in [127, 128, 200, 511, 512] {
            let text = nested(levels);
            let value: serde_json::Value = from_json(&text).unwrap();
            assert_eq!(serde_json::to_vec(&value).unwrap(), text);
        }
        for levels in [513, 1024, 100_000] {
            let error = from_json::<serde_json::Value>(&nested(levels)).unwrap_err();
            assert!(error.to_string().contains("nesting"), "{error}");
        }
    }

    /// The stack of a test is that of any thread, 2 MiB, and objects take more of it than arrays.
    #[test]
    fn the_deepest_objects_are_decoded_and_dropped() {
        let text = [
            br#"{"a":"#.repeat(MAX_DECODE_DEPTH),
            b"1".to_vec(),
            b"}".repeat(MAX_DECODE_DEPTH),
        ]
        .concat();
        let value: serde_json::Value = from_json(&text).unwrap();
        assert_eq!(serde_json::to_vec(&value).unwrap(), text);

        #[derive(serde::Deserialize)]
        struct Level {
            a: Option<Box<Level>>,
        }
        let chain = String::from_utf8(text).unwrap().replace('1', "null");
        let mut level: Option<Box<Level>> = Some(from_json(chain.as_bytes()).unwrap());
        let mut levels = 0;
        while let Some(next) = level {
            levels += 1;
            level = next.a;
        }
        assert_eq!(levels, MAX_DECODE_DEPTH);
    }

    #[test]
    fn brackets_in_strings_and_side_by_side_do_not_count() {
        let text = format!("[\"{}\\\"[\", {}1]", "[".repeat(5000), "[],".repeat(5000));
        let value: serde_json::Value = from_json(text.as_bytes()).unwrap();
        assert_eq!(value.as_array().map(Vec::len), Some(5002));
    }

    #[test]
    fn unbalanced_nesting_is_an_error_not_an_overflow() {
        from_json::<serde_json::Value>(&b"[".repeat(1 << 20)).unwrap_err();
        from_json::<serde_json::Value>(&b"]".repeat(1 << 20)).unwrap_err();
        from_json::<serde_json::Value>(&[b"]]]".repeat(1000), b"[".repeat(1 << 20)].concat())
            .unwrap_err();
    }

    #[test]
    fn raw_values_keep_every_digit() {
        let raw: Box<RawValue> = from_json(b" 18446744073709551615.10000000000000001 ").unwrap();
        assert_eq!(raw.get(), "18446744073709551615.10000000000000001");
        assert_eq!(from_json::<u64>(b"18446744073709551615").unwrap(), u64::MAX);
        assert_eq!(from_json::<i64>(b"-9223372036854775808").unwrap(), i64::MIN);
    }

    #[test]
    fn text_after_the_value_is_refused() {
        from_json::<u64>(b"1 2").unwrap_err();
    }
}
