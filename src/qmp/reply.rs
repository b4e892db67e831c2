//! What a server sends, told apart by its top-level members, and the change of a reply's id from the transport's to
//! the user's. Imports `json` and `from_json` of `mod`.
//!
//! A reply of 200 KB is common and 64 MiB is allowed, so whatever can be known from its first or last bytes is not
//! looked for in between. The shapes that servers write are
//!
//! ```text
//! libvirt  {"return":...,"id":"libvirt-12"}     {"id":"libvirt-12","error":...}
//! QEMU     {"return": ..., "id": "..."}         {"id": "...", "error": ...}
//! ```
//!
//! and anything else is scanned. The short ways rely on the text being one JSON object, which the framing and the
//! server vouch for; were it none, the answers would be of no use either, but nothing worse.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::from_json;
use super::json::{self, JsonError};

/// Bytes of an id that the short ways look at. Those we make ourselves are well below.
const SHORT_ID: usize = 128;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Greeting,
    Return,
    Error,
    Event,
    /// None of the others; nothing that QMP knows today.
    Unknown,
}

impl Kind {
    /// The members that decide, in the order of `KINDS`.
    const MEMBERS: [&'static str; 4] = ["return", "error", "event", "QMP"];
    const KINDS: [Self; 4] = [Self::Return, Self::Error, Self::Event, Self::Greeting];
}

/// One message from a server.
#[derive(Debug, Clone)]
pub(crate) struct Message<'a> {
    kind: Kind,
    id: Option<&'a [u8]>,
}

impl<'a> Message<'a> {
    /// Tells what `text` is. If it has several of the members that decide, the first counts.
    ///
    /// # Errors
    /// If it had to be scanned and is not one JSON object.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, JsonError> {
        if let Some(kind) = kind_by_head(text) {
            return Ok(Self {
                kind,
                id: find_id(text)?.map(|id| &text[id.value]),
            });
        }
        let [a, b, c, d] = Kind::MEMBERS;
        let ([a, b, c, d, id], _) = json::fields(text, [a, b, c, d, "id"])?;
        let first = [a, b, c, d]
            .into_iter()
            .zip(Kind::KINDS)
            .filter_map(|(field, kind)| Some((field?.index, kind)))
            .min_by_key(|(index, _)| *index);
        Ok(Self {
            kind: first.map_or(Kind::Unknown, |(_, kind)| kind),
            id: id.map(|id| &text[id.value]),
        })
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The id as JSON text.
    pub(crate) fn id(&self) -> Option<&'a [u8]> {
        self.id
    }

    /// The number in an id of the form `PREFIX` + decimal number, as `RawCommand::with_id` was given it. Any other id is
    /// somebody else's: QEMU also delivers late replies to the client that was connected before.
    pub(crate) fn id_number(&self, prefix: &str) -> Option<u64> {
        let id = json::string(self.id?)?;
        let digits = id.strip_prefix(prefix)?;
        let canonical = digits.bytes().all(|byte| byte.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'));
        if canonical { digits.parse().ok() } else { None }
    }
}

/// Whether a reply is an error, without a scan in the usual cases.
///
/// # Errors
/// If it had to be scanned and is not one JSON object.
pub(crate) fn is_error(text: &[u8]) -> Result<bool, JsonError> {
    match kind_by_head(text) {
        Some(kind) => Ok(kind == Kind::Error),
        None => Ok(Message::parse(text)?.kind == Kind::Error),
    }
}

/// The name of the event that `text` is; `None` where it is none, or has no name that can be read.
pub(crate) fn event_name(text: &[u8]) -> Option<Cow<'_, str>> {
    let ([event], _) = json::fields(text, ["event"]).ok()?;
    json::string(&text[event?.value])
}

#[derive(Deserialize)]
struct Reply<T> {
    #[serde(rename = "return")]
    value: T,
}

/// Decodes the value of a reply's `return` member.
///
/// # Errors
/// serde_json's, if it has none or one that is no `T`.
pub(crate) fn return_value<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    Ok(from_json::<Reply<T>>(text)?.value)
}

/// The value of a reply's `return` member as text, however deep it is nested.
///
/// # Errors
/// serde_json's, if it has none or is no JSON.
pub(crate) fn return_text(text: &[u8]) -> Result<Box<RawValue>, serde_json::Error> {
    // Raw text is skipped over without recursion, so there is no limit to keep.
    let mut parser = serde_json::Deserializer::from_slice(text);
    parser.disable_recursion_limit();
    let reply = Reply::<Box<RawValue>>::deserialize(&mut parser)?;
    parser.end()?;
    Ok(reply.value)
}

/// Gives the reply as its user should see it: with the user's own id in place of the transport's, or without an id if
/// the user gave none. All else stays byte for byte the same. A reply without an id is left alone: it answers
/// something the server could not parse.
///
/// If nobody else holds the reply's buffer it is changed in place.
///
/// # Errors
/// If it had to be scanned and is not one JSON object.
pub(crate) fn restore_id(reply: Bytes, user_id: Option<&[u8]>) -> Result<Bytes, JsonError> {
    let Some(id) = find_id(&reply)? else {
        return Ok(reply);
    };
    Ok(match user_id {
        Some(user_id) => splice(reply, id.value, user_id),
        None => splice(reply, id.cut, b""),
    })
}

/// As `restore_id`, where the transport has no ids: the user's own is put into a reply that has none.
///
/// # Errors
/// If it had to be scanned and is not one JSON object.
pub(crate) fn set_id(reply: Bytes, user_id: Option<&[u8]>) -> Result<Bytes, JsonError> {
    let Some(user_id) = user_id else {
        return restore_id(reply, None);
    };
    if find_id(&reply)?.is_some() {
        return restore_id(reply, Some(user_id));
    }
    // It has been scanned: it is an object, and the last byte that is no blank closes it.
    let end = reply.trim_ascii_end().len().saturating_sub(1);
    let body = reply[..end].trim_ascii_end();
    let comma: &[u8] = if body.ends_with(b"{") { b"" } else { b", " };
    let parts = [body, comma, b"\"id\": ", user_id, &reply[end..]];
    Ok(Bytes::from(parts.concat()))
}

/// Replaces `range` of `text`.
fn splice(text: Bytes, range: Range<usize>, with: &[u8]) -> Bytes {
    let text = if with.len() <= range.len() {
        match text.try_into_mut() {
            Ok(mut text) => {
                let end = range.start + with.len();
                text[range.start..end].copy_from_slice(with);
                let length = text.len() - (range.end - end);
                text.copy_within(range.end.., end);
                text.truncate(length);
                return text.freeze();
            }
            Err(shared) => shared,
        }
    } else {
        text
    };
    Bytes::from([&text[..range.start], with, &text[range.end..]].concat())
}

/// Where the top-level id is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Id {
    /// Its value.
    value: Range<usize>,
    /// What to take out so that the rest is an object without it.
    cut: Range<usize>,
}

fn find_id(text: &[u8]) -> Result<Option<Id>, JsonError> {
    if let Some(id) = id_by_tail(text).or_else(|| id_by_head(text)) {
        return Ok(Some(id));
    }
    let ([id], _) = json::fields(text, ["id"])?;
    Ok(id.map(|id| Id {
        value: id.value,
        cut: id.cut,
    }))
}

/// Finds `,"id":"..."}` at the end, where the id has neither quotes nor backslashes in it.
///
/// That this cannot be fooled by what stands in a string, in any valid JSON object: its last byte is the brace that
/// closes it. The quote before that brace ends a value, so it is the end of a string, not part of one. The next quote to
/// the left has no backslash before it, since a colon or a blank is there, so it is not an escaped one, and it must be
/// the quote that opens this string. The colon before it therefore is outside of strings, and this string is the value
/// of a member whose name ends at the quote before the colon. That name in turn is `id`, and opens at a quote that
/// comes after a comma or a blank and hence is no escaped one either. As the brace closes the outermost object, the
/// member is one of its own.
fn id_by_tail(text: &[u8]) -> Option<Id> {
    let rest = text.trim_ascii_end().strip_suffix(b"}")?.trim_ascii_end();
    let end = rest.len();
    let rest = rest.strip_suffix(b"\"")?;
    let length = rest
        .iter()
        .rev()
        .take(SHORT_ID)
        .position(|byte| matches!(byte, b'"' | b'\\'))?;
    let (rest, body) = rest.split_at(rest.len() - length);
    let rest = rest.strip_suffix(b"\"")?;
    debug_assert_eq!(rest.len() + body.len() + 2, end);
    let start = rest.len();
    let rest = rest.trim_ascii_end().strip_suffix(b":")?;
    let rest = rest.trim_ascii_end().strip_suffix(b"\"id\"")?;
    let rest = rest.trim_ascii_end().strip_suffix(b",")?;
    Some(Id {
        value: start..end,
        cut: rest.trim_ascii_end().len()..end,
    })
}

/// Finds `{"id":"...",` at the start, where the id has neither quotes nor backslashes in it. There is nothing before
/// it that could make it anything else.
fn id_by_head(text: &[u8]) -> Option<Id> {
    let rest = text.trim_ascii_start().strip_prefix(b"{")?;
    let open = text.len() - rest.len();
    let rest = rest.trim_ascii_start().strip_prefix(b"\"id\"")?;
    let rest = rest
        .trim_ascii_start()
        .strip_prefix(b":")?
        .trim_ascii_start();
    let start = text.len() - rest.len();
    let rest = rest.strip_prefix(b"\"")?;
    let length = rest
        .iter()
        .take(SHORT_ID)
        .position(|byte| matches!(byte, b'"' | b'\\'))?;
    let rest = rest[length..].strip_prefix(b"\"")?;
    let end = text.len() - rest.len();
    let rest = rest
        .trim_ascii_start()
        .strip_prefix(b",")?
        .trim_ascii_start();
    Some(Id {
        value: start..end,
        cut: open..text.len() - rest.len(),
    })
}

/// Tells a message by its first member, or by the second if the first is a short id.
fn kind_by_head(text: &[u8]) -> Option<Kind> {
    let rest = match id_by_head(text) {
        Some(id) => &text[id.cut.end..],
        None => text
            .trim_ascii_start()
            .strip_prefix(b"{")?
            .trim_ascii_start(),
    };
    let rest = rest.strip_prefix(b"\"")?;
    let place = Kind::MEMBERS.iter().position(|name| {
        rest.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"\""))
    })?;
    Some(Kind::KINDS[place])
}

#[cfg(test)]
mod tests {
    use super::super::RawCommand;
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn message(text: &str) -> (Kind, Option<&str>) {
        let message = Message::parse(text.as_bytes()).unwrap();
        (
            message.kind(),
            message.id().map(|id| std::str::from_utf8(id).unwrap()),
        )
    }

    fn restore(reply: &str, user_id: Option<&str>) -> String {
        let restored = restore_id(
            Bytes::copy_from_slice(reply.as_bytes()),
            user_id.map(str::as_bytes),
        )
        .unwrap();
        // In place or by copy, the result is the same.
        let shared = Bytes::copy_from_slice(reply.as_bytes());
        let copied = restore_id(shared.clone(), user_id.map(str::as_bytes)).unwrap();
        assert_eq!(shared, reply);
        assert_eq!(copied, restored);
        String::from_utf8(restored.to_vec()).unwrap()
    }

    #[test]
    fn an_id_is_put_into_a_reply_without_one() {
        let set = |reply: &str, id: Option<&str>| {
            let reply = Bytes::copy_from_slice(reply.as_bytes());
            let reply = set_id(reply, id.map(str::as_bytes)).unwrap();
            String::from_utf8(reply.to_vec()).unwrap()
        };
        for (reply, with, without) in [
            (
                r#"{"return": {}}"#,
                r#"{"return": {}, "id": [1]}"#,
                r#"{"return": {}}"#,
            ),
            (" { } \n", " {\"id\": [1]} \n", " { } \n"),
            (
                r#"{"return": {"id": 2} }"#,
                r#"{"return": {"id": 2}, "id": [1]}"#,
                r#"{"return": {"id": 2} }"#,
            ),
            (
                r#"{"return": 7, "id": "x"}"#,
                r#"{"return": 7, "id": [1]}"#,
                r#"{"return": 7}"#,
            ),
        ] {
            assert_eq!(set(reply, Some("[1]")), with);
            assert_eq!(set(reply, None), without);
        }
        assert!(set_id(Bytes::from_static(b"[]"), Some(b"1")).is_err());
        assert!(set_id(Bytes::from_static(b""), Some(b"1")).is_err());
    }

    #[test]
    fn kinds_in_any_order_of_members() {
        for (text, kind, id) in [
            (
                r#"{"QMP": {"version": {}, "capabilities": []}}"#,
                Kind::Greeting,
                None,
            ),
            (
                r#"{"return": {}, "id": "a-1"}"#,
                Kind::Return,
                Some(r#""a-1""#),
            ),
            (
                r#"{"return":[],"id":"libvirt-12"}"#,
                Kind::Return,
                Some(r#""libvirt-12""#),
            ),
            (r#"{"return": {}}"#, Kind::Return, None),
            (
                r#"{"id": {"return": 1}, "return": {}}"#,
                Kind::Return,
                Some(r#"{"return": 1}"#),
            ),
            (
                r#"{"id": "a-1", "error": {"class": "X", "desc": ""}}"#,
                Kind::Error,
                Some(r#""a-1""#),
            ),
            (r#"{"error": {"class": "X"}}"#, Kind::Error, None),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#,
                Kind::Event,
                None,
            ),
            (
                r#"{"event":"STOP","data":{"id":"x","return":{},"error":{}}}"#,
                Kind::Event,
                None,
            ),
            (
                r#"{"data":{"event":"x"},"event":"STOP"}"#,
                Kind::Event,
                None,
            ),
            (r#"{"new":{"return":1},"id":2}"#, Kind::Unknown, Some("2")),
            (r#"{"returns":1}"#, Kind::Unknown, None),
            (r#"{"\u0072eturn":1}"#, Kind::Return, None),
            (r#"{"id":"x"}"#, Kind::Unknown, Some(r#""x""#)),
            ("{}", Kind::Unknown, None),
            // Of several the first counts, short way or not.
            (r#"{"error":{},"return":{}}"#, Kind::Error, None),
            (r#"{"new":0,"error":{},"return":{}}"#, Kind::Error, None),
            (r#"{"new":0,"return":{},"error":{}}"#, Kind::Return, None),
        ] {
            assert_eq!(message(text), (kind, id), "{text}");
            assert_eq!(
                is_error(text.as_bytes()).unwrap(),
                kind == Kind::Error,
                "{text}"
            );
        }
        for text in ["", "[]", "null", "{\"a\":", r#"{"a":1,"return"}"#] {
            Message::parse(text.as_bytes()).unwrap_err();
            is_error(text.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn a_pretty_printed_reply_is_one_like_others() {
        let text = "{\r\n    \"return\": {\r\n    },\r\n    \"id\": \"a-7\"\r\n}";
        let message = Message::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (message.kind(), message.id_number("a-")),
            (Kind::Return, Some(7))
        );
        assert_eq!(restore(text, None), "{\r\n    \"return\": {\r\n    }\r\n}");
        assert_eq!(restore(text, Some("[7]")), text.replace("\"a-7\"", "[7]"));
    }

    #[test]
    fn only_our_own_ids_have_numbers() {
        for (id, number) in [
            (r#""q7f-0""#, Some(0)),
            (r#""q7f-18446744073709551615""#, Some(u64::MAX)),
            (r#""q7\u0066-5""#, Some(5)),
            (r#""q7f-18446744073709551616""#, None),
            (r#""q7f-""#, None),
            (r#""q7f-01""#, None),
            (r#""q7f-+1""#, None),
            (r#""q7f-1 ""#, None),
            (r#""other-1""#, None),
            (r#""z""#, None),
            ("1", None),
            ("null", None),
            ("{\"q7f-\":1}", None),
        ] {
            for text in [
                format!("{{\"return\": {{}}, \"id\": {id}}}"),
                format!("{{\"id\":{id},\"error\":{{}}}}"),
            ] {
                assert_eq!(
                    Message::parse(text.as_bytes()).unwrap().id_number("q7f-"),
                    number,
                    "{text}"
                );
            }
        }
        assert_eq!(
            Message::parse(b"{\"return\":{}}").unwrap().id_number(""),
            None
        );
    }

    #[test]
    fn ids_are_restored_or_removed() {
        for (reply, none, some) in [
            (
                r#"{"return":{},"id":"libvirt-12"}"#,
                r#"{"return":{}}"#,
                r#"{"return":{},"id":[ 1 ]}"#,
            ),
            (
                r#"{"id":"libvirt-12","error":{"class":"X","desc":""}}"#,
                r#"{"error":{"class":"X","desc":""}}"#,
                r#"{"id":[ 1 ],"error":{"class":"X","desc":""}}"#,
            ),
            (
                "{\"return\": {}, \"id\": \"q-1\"}\r\n",
                "{\"return\": {}}\r\n",
                "{\"return\": {}, \"id\": [ 1 ]}\r\n",
            ),
            (
                r#"{"id": "q-1", "error": {}}"#,
                r#"{"error": {}}"#,
                r#"{"id": [ 1 ], "error": {}}"#,
            ),
            (
                r#"{"a":1,"id":"q-1","return":2}"#,
                r#"{"a":1,"return":2}"#,
                r#"{"a":1,"id":[ 1 ],"return":2}"#,
            ),
            (
                r#"{"return":1,"\u0069d":2}"#,
                r#"{"return":1}"#,
                r#"{"return":1,"\u0069d":[ 1 ]}"#,
            ),
            (r#"{"id":"q-1"}"#, "{}", r#"{"id":[ 1 ]}"#),
            // Without an id there is none to restore.
            (
                r#"{"error":{"id":"q-1"}}"#,
                r#"{"error":{"id":"q-1"}}"#,
                r#"{"error":{"id":"q-1"}}"#,
            ),
        ] {
            assert_eq!(restore(reply, None), none);
            assert_eq!(restore(reply, Some("[ 1 ]")), some);
            let long = format!("\"{}\"", "x".repeat(100));
            assert_eq!(restore(reply, Some(&long)), some.replace("[ 1 ]", &long));
        }
    }

    #[test]
    fn names_of_events() {
        for (text, name) in [
            (
                r#"{"timestamp": {"event": "NO"}, "event": "STOP"}"#,
                Some("STOP"),
            ),
            ("{\r\n    \"event\": \"A\\u0042\"\r\n}", Some("AB")),
            (r#"{"event": 5}"#, None),
            (r#"{"data": {"event": "STOP"}}"#, None),
            (r#"{"event": "STOP""#, None),
        ] {
            assert_eq!(event_name(text.as_bytes()).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn texts_in_strings_do_not_pass_for_an_id() {
        for text in [
            r#"{"return":",\"id\":\"libvirt-1"}"#,
            r#"{"return":"\\\",\"id\":\"libvirt-1"}"#,
            r#"{"return":"x , \"id\" : \"libvirt-1"}"#,
            r#"{"return":{"a":1,"id":"libvirt-1"}}"#,
            r#"{"return":[",",{"a":1,"id":"libvirt-1"}]}"#,
            r#"{"return":{"a\",\"id":"libvirt-1"}}"#,
            r#"{"a\",\"id":"libvirt-1"}"#,
            r#"{"return":1,"\"id":"libvirt-1"}"#,
            r#"{"return":1,"\\id":"libvirt-1"}"#,
            r#"{"return":1,"xid":"libvirt-1"}"#,
        ] {
            let Value::Object(map) = serde_json::from_str(text).unwrap() else {
                panic!()
            };
            assert!(!map.contains_key("id"));
            assert_eq!(find_id(text.as_bytes()).unwrap(), None, "{text}");
            assert_eq!(restore(text, None), text);
        }
        // Ids the short ways do not understand are found by scanning.
        for id in [
            r#""a\"b""#,
            r#""a\\""#,
            r#""\\\"","#,
            "3",
            "[\"x\"]",
            "{\"id\":\"libvirt-1\"}",
        ] {
            let id = id.trim_end_matches(',');
            assert_eq!(
                restore(&format!(r#"{{"return":",\"id\":","id":{id}}}"#), None),
                r#"{"return":",\"id\":"}"#
            );
            assert_eq!(
                restore(&format!(r#"{{"id":{id},"return":","}}"#), None),
                r#"{"return":","}"#
            );
        }
        let long = format!("\"{}\"", "x".repeat(5000));
        assert_eq!(
            restore(&format!(r#"{{"return":1,"id":{long}}}"#), None),
            r#"{"return":1}"#
        );
    }

    #[test]
    fn the_short_ways_do_not_look_in_between() {
        // Not valid, so a scan would have told.
        let reply = r#"{"return":?!,"id":"libvirt-3"}"#;
        assert!(!is_error(reply.as_bytes()).unwrap());
        let message = Message::parse(reply.as_bytes()).unwrap();
        assert_eq!(
            (message.kind(), message.id_number("libvirt-")),
            (Kind::Return, Some(3))
        );
        assert_eq!(restore(reply, None), r#"{"return":?!}"#);
        let error = r#"{"id": "libvirt-3", "error": ?!}"#;
        assert!(is_error(error.as_bytes()).unwrap());
        assert_eq!(restore(error, Some("3")), r#"{"id": 3, "error": ?!}"#);
    }

    #[test]
    fn large_unshared_replies_are_changed_in_place() {
        let reply = Bytes::from(format!(
            r#"{{"return":"{}","id":"libvirt-12"}}"#,
            "x".repeat(200_000)
        ));
        let start = reply.as_ptr();
        let restored = restore_id(reply, Some(b"\"me\"")).unwrap();
        assert_eq!(restored.as_ptr(), start);
        assert!(restored.ends_with(b"x\",\"id\":\"me\"}"));
        let restored = restore_id(restored, None).unwrap();
        assert_eq!(restored.as_ptr(), start);
        assert!(restored.ends_with(b"xx\"}"));
    }

    #[test]
    fn return_values() {
        let text = br#"{"return": {"n": 18446744073709551615, "new": 1}, "id": "x"}"#;
        #[derive(Debug, Deserialize)]
        struct Numbered {
            n: u64,
        }
        assert_eq!(return_value::<Numbered>(text).unwrap().n, u64::MAX);
        let raw: Box<RawValue> = return_value(text).unwrap();
        assert_eq!(raw.get(), r#"{"n": 18446744073709551615, "new": 1}"#);
        return_value::<Numbered>(br#"{"error": {}}"#).unwrap_err();
        // 10.2 dropped a member that older servers send.
        #[derive(Deserialize)]
        struct Status {
            running: bool,
            singlestep: Option<bool>,
        }
        let new: Status =
            return_value(br#"{"return":{"running":true,"status":"running"}}"#).unwrap();
        let old: Status =
            return_value(br#"{"return":{"singlestep":false,"running":true}}"#).unwrap();
        assert!(
            new.running && new.singlestep.is_none() && old.running && old.singlestep == Some(false)
        );
    }

    #[test]
    fn deep_ids_round_trip() {
        for levels in [200, 1023] {
            let id = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let reply = format!("{{\"return\": {{}}, \"id\": {id}}}");
            assert_eq!(message(&reply), (Kind::Return, Some(id.as_str())));
            assert_eq!(
                restore("{\"return\": {}, \"id\": \"q-1\"}", Some(&id)),
                reply
            );
        }
    }

    fn any_id() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>().prop_map(|id| Value::from(id).to_string()),
            any::<i64>().prop_map(|id| id.to_string()),
            prop::sample::select(vec![
                "null",
                "{\"id\":\"x\"}",
                "[ ]",
                "\"\\u0069\\\"\"",
                "1.0e5"
            ])
            .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn users_see_their_own_id_back(
            id in prop::option::of(any_id()),
            value in "[\"\\\\{}:, idx]{0,20}",
            spaced: bool,
            error: bool,
            number: u64,
        ) {
            let (comma, colon) = if spaced { (", ", ": ") } else { (",", ":") };
            let command = match &id {
                Some(id) => format!("{{\"execute\":\"x\",\"id\":{id}}}"),
                None => "{\"execute\":\"x\"}".to_owned(),
            };
            let command = RawCommand::parse(command.as_bytes()).unwrap();
            let mut sent = Vec::new();
            command.with_id(&format!("q-{number}"), &mut sent);

            // The server echoes what it got, and writes what the client expects.
            let echoed = serde_json::from_slice::<Value>(&sent).unwrap()["id"].to_string();
            let value = Value::from(value).to_string();
            let write = |id: Option<&str>| match (id, error) {
                (None, true) => format!("{{\"error\"{colon}{value}}}"),
                (None, false) => format!("{{\"return\"{colon}{value}}}"),
                (Some(id), true) => format!("{{\"id\"{colon}{id}{comma}\"error\"{colon}{value}}}"),
                (Some(id), false) => format!("{{\"return\"{colon}{value}{comma}\"id\"{colon}{id}}}"),
            };
            let reply = write(Some(&echoed));
            let message = Message::parse(reply.as_bytes()).unwrap();
            prop_assert_eq!(message.id_number("q-"), Some(number));
            prop_assert_eq!(message.kind() == Kind::Error, error);
            prop_assert_eq!(is_error(reply.as_bytes()).unwrap(), error);
            let restored = restore_id(Bytes::from(reply), command.user_id()).unwrap();
            let expected = write(id.as_deref());
            prop_assert_eq!(restored, expected.as_bytes());
        }

        #[test]
        fn short_ways_and_scan_agree(
            members in prop::collection::vec(
                (prop::sample::select(vec!["return", "error", "x\\\"", "a\\\\", "idx", "event"]), "[\"\\\\{}:, id]{0,9}"),
                0..4,
            ),
            place in any::<prop::sample::Index>(),
            id in any_id(),
            gap in "[ \n]{0,1}",
        ) {
            let mut members: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("\"{name}\"{gap}:{gap}{}", Value::from(value.as_str())))
                .collect();
            members.insert(place.index(members.len() + 1), format!("\"id\"{gap}:{gap}{id}"));
            let text = format!("{{{gap}{}{gap}}}", members.join(&format!("{gap},{gap}")));
            let ([scanned], _) = json::fields(text.as_bytes(), ["id"]).unwrap();
            let scanned = scanned.unwrap();
            let found = find_id(text.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(&text[found.value], id.as_str());
            prop_assert_eq!(found.cut, scanned.cut);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            text in prop::collection::vec(prop::sample::select(b"{}[]\"\\:, \nidreturn\xff\x00".to_vec()), 0..40),
        ) {
            for text in [text.clone(), [b"{\"return\":1", &text[..], b",\"id\":\"q-1\"}"].concat()] {
                let _ = Message::parse(&text).map(|message| message.id_number("q-"));
                let _ = is_error(&text);
                let _ = restore_id(Bytes::from(text.clone()), None);
                let _ = restore_id(Bytes::from(text.clone()), Some(b"\"user\""));
                let _ = return_value::<Value>(&text);
            }
        }
    }
}
