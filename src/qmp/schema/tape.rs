//! A JSON text that was checked before, as a flat list of its values in the order they stand in it. Made without recursion,
//! and it keeps what a tree of values loses: repeated names, and whether a number is an integer. Imports `json` and `lex`.

use std::borrow::Cow;
use std::ops::Range;

use super::index;
use crate::qmp::{json, lex};

/// What a value is in JSON, as QEMU takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Json {
    Object,
    Array,
    String,
    /// Written without a point or an exponent, and no more than 64 bits long, signed or not. QEMU makes any other number
    /// a floating point one, and none of those is an integer to it, be it `1.0`.
    Integer,
    Number,
    Boolean,
    Null,
}

impl Json {
    /// With its article, for people.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Json::Object => "an object",
            Json::Array => "an array",
            Json::String => "a string",
            Json::Integer => "an integer",
            Json::Number => "a number that is no integer",
            Json::Boolean => "a boolean",
            Json::Null => "null",
        }
    }
}

/// Place of a value in a [`Tape`].
pub(super) type NodeId = u32;

pub(super) struct Tape<'t> {
    text: &'t [u8],
    nodes: Vec<Node>,
}

struct Node {
    kind: Json,
    parent: NodeId,
    /// The first value after it that is not inside of it.
    next: NodeId,
    /// Its name in an object, without the quotes.
    name: Option<Range<u32>>,
    value: Range<u32>,
}

impl<'t> Tape<'t> {
    /// Reads `text`, one value with or without blanks around it, known to be valid.
    pub(super) fn new(text: &'t [u8]) -> Self {
        let mut tape = Tape {
            text,
            nodes: Vec::new(),
        };
        let mut open: Vec<NodeId> = Vec::new();
        let mut name = None;
        let mut pos = 0;
        while let Some(&byte) = text.get(pos) {
            let start = pos;
            let in_object = open.last().is_some_and(|id| tape.kind(*id) == Json::Object);
            let kind = match byte {
                b'"' => {
                    pos = lex::string_end(text, start);
                    if in_object && name.is_none() {
                        name = Some(index(start + 1)..index(pos.saturating_sub(1)));
                        continue;
                    }
                    Json::String
                }
                b'{' | b'[' => {
                    pos += 1;
                    if byte == b'{' {
                        Json::Object
                    } else {
                        Json::Array
                    }
                }
                b'}' | b']' => {
                    pos += 1;
                    let end = index(tape.nodes.len());
                    if let Some(id) = open.pop()
                        && let Some(node) = tape.nodes.get_mut(id as usize)
                    {
                        node.next = end;
                        node.value.end = index(pos);
                    }
                    continue;
                }
                b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                    let word = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.');
                    pos += text[start..].iter().take_while(word).count();
                    word_kind(&text[start..pos])
                }
                // A blank, a comma or a colon.
                _ => {
                    pos += 1;
                    continue;
                }
            };
            let id = index(tape.nodes.len());
            tape.nodes.push(Node {
                kind,
                parent: open.last().copied().unwrap_or(0),
                next: id + 1,
                name: name.take(),
                value: index(start)..index(pos),
            });
            if matches!(kind, Json::Object | Json::Array) {
                open.push(id);
            }
        }
        tape
    }

    /// The outermost value.
    pub(super) const ROOT: NodeId = 0;

    pub(super) fn kind(&self, id: NodeId) -> Json {
        self.nodes
            .get(id as usize)
            .map_or(Json::Null, |node| node.kind)
    }

    /// All values that are objects.
    pub(super) fn objects(&self) -> impl Iterator<Item = NodeId> {
        let all = 0..index(self.nodes.len());
        all.filter(|id| self.kind(*id) == Json::Object)
    }

    /// The members of an object or the elements of an array.
    pub(super) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let end = self.nodes.get(id as usize).map_or(0, |node| node.next);
        let mut at = id + 1;
        std::iter::from_fn(move || {
            let child = at;
            at = self.nodes.get(child as usize)?.next;
            (child < end).then_some(child)
        })
    }

    /// The member of an object with this name.
    pub(super) fn member(&self, id: NodeId, name: &str) -> Option<NodeId> {
        self.children(id).find(|child| self.name(*child) == name)
    }

    /// The name of a member.
    pub(super) fn name(&self, id: NodeId) -> Cow<'t, str> {
        let name = self
            .nodes
            .get(id as usize)
            .and_then(|node| node.name.clone());
        name.map_or(Cow::Borrowed(""), |name| json::decode(self.piece(name)))
    }

    /// The string that a value is.
    pub(super) fn string(&self, id: NodeId) -> Option<Cow<'t, str>> {
        json::string(self.piece(self.nodes.get(id as usize)?.value.clone()))
    }

    /// Where a value is, seen from the object `root` around it: `actions[0].data.node`.
    pub(super) fn path(&self, mut id: NodeId, root: NodeId) -> String {
        let mut parts = Vec::new();
        while id != root
            && let Some(node) = self.nodes.get(id as usize)
        {
            parts.push(match &node.name {
                Some(_) => format!(".{}", shorten(&self.name(id))),
                None => {
                    let place = self.children(node.parent).take_while(|child| *child != id);
                    format!("[{}]", place.count())
                }
            });
            if id == node.parent {
                break;
            }
            id = node.parent;
        }
        parts.reverse();
        let path = parts.concat();
        path.strip_prefix('.').map(str::to_owned).unwrap_or(path)
    }

    fn piece(&self, range: Range<u32>) -> &'t [u8] {
        self.text
            .get(range.start as usize..range.end as usize)
            .unwrap_or_default()
    }
}

/// A text for people: not longer than a line of it should be.
pub(super) fn shorten(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn word_kind(word: &[u8]) -> Json {
    match word.first() {
        Some(b't' | b'f') => return Json::Boolean,
        Some(b'n') => return Json::Null,
        _ => {}
    }
    let text = std::str::from_utf8(word).unwrap_or_default();
    if text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() {
        Json::Integer
    } else {
        Json::Number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn members_elements_and_paths() {
        let text = r#" {"a": [1, {"b\"c": null, "d": "x"}, []], "": {"e": -0.5}, "a": true} "#;
        let tape = Tape::new(text.as_bytes());
        let names: Vec<_> = tape.children(Tape::ROOT).map(|id| tape.name(id)).collect();
        assert_eq!(names, ["a", "", "a"]);
        let list = tape.member(Tape::ROOT, "a").unwrap();
        let kinds: Vec<_> = tape.children(list).map(|id| tape.kind(id)).collect();
        assert_eq!(kinds, [Json::Integer, Json::Object, Json::Array]);
        let inner = tape.children(list).nth(1).unwrap();
        let quoted = tape.member(inner, "b\"c").unwrap();
        assert_eq!(tape.kind(quoted), Json::Null);
        assert_eq!(tape.path(quoted, Tape::ROOT), "a[1].b\"c");
        assert_eq!(tape.path(quoted, list), "[1].b\"c");
        let d = tape.member(inner, "d").unwrap();
        assert_eq!(tape.string(d).unwrap(), "x");
        assert_eq!(tape.string(list), None);
        let empty = tape.member(Tape::ROOT, "").unwrap();
        assert_eq!(tape.kind(tape.member(empty, "e").unwrap()), Json::Number);
        assert_eq!(tape.path(Tape::ROOT, Tape::ROOT), "");
        assert_eq!(tape.objects().count(), 3);
    }

    // P6: what QEMU takes for an integer.
    #[test]
    fn integers_and_other_numbers() {
        for (text, kind) in [
            ("0", Json::Integer),
            ("-0", Json::Integer),
            ("9223372036854775808", Json::Integer),
            ("18446744073709551615", Json::Integer),
            ("18446744073709551616", Json::Number),
            ("-9223372036854775808", Json::Integer),
            ("-9223372036854775809", Json::Number),
            ("1.0", Json::Number),
            ("1e3", Json::Number),
            ("1E400", Json::Number),
            ("true", Json::Boolean),
            ("false", Json::Boolean),
            ("null", Json::Null),
        ] {
            assert_eq!(Tape::new(text.as_bytes()).kind(Tape::ROOT), kind, "{text}");
        }
    }

    #[test]
    fn depth_and_nonsense_are_no_trouble() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let tape = Tape::new(deep.as_bytes());
        assert_eq!(tape.children(Tape::ROOT).count(), 1);
        for text in ["", "]", "}{", "\"", "{\"a", "[[", "\"\\", "{]\"x\":}"] {
            let tape = Tape::new(text.as_bytes());
            let _ = (tape.children(Tape::ROOT).count(), tape.string(Tape::ROOT));
        }
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(shorten("short"), "short");
        let long = shorten(&"\u{e9}".repeat(500));
        assert_eq!(long.chars().count(), 81);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // serde_json does not read every f64 back exactly.
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Makes the value that a node stands for.
    fn rebuilt(tape: &Tape<'_>, id: NodeId) -> Value {
        match tape.kind(id) {
            Json::Object => Value::Object(
                tape.children(id)
                    .map(|child| (tape.name(child).into_owned(), rebuilt(tape, child)))
                    .collect(),
            ),
            Json::Array => tape
                .children(id)
                .map(|child| rebuilt(tape, child))
                .collect(),
            Json::String => Value::from(tape.string(id).unwrap()),
            _ => serde_json::from_slice(tape.piece(tape.nodes[id as usize].value.clone())).unwrap(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_value_is_all_there(value in value(), pretty: bool) {
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            let tape = Tape::new(text.as_bytes());
            prop_assert_eq!(rebuilt(&tape, Tape::ROOT), value);
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let tape = Tape::new(&text);
            for id in tape.objects() {
                for child in tape.children(id) {
                    let _ = (tape.path(child, Tape::ROOT), tape.string(child));
                }
            }
        }
    }
}
