//! JSON as text: a strict RFC 8259 check of one object that reports its top-level members. Nothing here builds a tree,
//! recurses or allocates, so 64 MiB from a peer cost no more than their bytes. Imports `lex`.

use std::borrow::Cow;
use std::ops::Range;

use super::lex::{MAX_DEPTH, string_stop};

/// Why a text is not the JSON object it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {offset}")]
pub(crate) struct JsonError {
    /// Offset in bytes from the start of the text.
    pub(crate) offset: usize,
    /// What is wrong there, in words that can follow "JSON:".
    pub(crate) reason: &'static str,
}

/// The reason given when the text is not UTF-8, named because callers tell it apart.
pub(crate) const NOT_UTF8: &str = "invalid UTF-8";
/// The reason given when containers are nested deeper than [`MAX_DEPTH`].
pub(crate) const TOO_DEEP: &str = "more than 1024 levels of nesting";

/// What is known of the object as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    /// From the opening to after the closing brace.
    pub(crate) span: Range<usize>,
    /// Whether blanks stand anywhere between the braces outside of strings.
    pub(crate) spaced: bool,
}

/// One top-level member; all offsets count from the start of the text.
#[derive(Debug, Clone)]
pub(crate) struct Member<'a> {
    /// The name as written, without its quotes.
    name: &'a [u8],
    /// Where the name's opening quote stands.
    pub(crate) start: usize,
    /// The value, without blanks around it.
    pub(crate) value: Range<usize>,
    /// Where the member before it ends, or the byte after the opening brace.
    pub(crate) before: usize,
}

impl<'a> Member<'a> {
    /// Whether the member is called `name`, however its name was escaped.
    #[inline]
    pub(crate) fn is(&self, name: &str) -> bool {
        // An escape is never shorter than what it stands for, so a shorter text can be neither.
        self.name == name.as_bytes() || (self.name.len() > name.len() && self.name() == name)
    }

    /// The name with its escapes decoded.
    pub(crate) fn name(&self) -> Cow<'a, str> {
        decode(self.name)
    }
}

/// Checks that `text` is one JSON object and nothing else but blanks, and calls `each` for its top-level members in
/// order. On an error `each` may already have been called for the members before it.
///
/// Stricter than the grammar of RFC 8259 in one thing: an escaped surrogate without its partner is refused. It stands
/// for no character, and QEMU answers it with an error that carries no id.
pub(crate) fn object<'a>(
    text: &'a [u8],
    mut each: impl FnMut(Member<'a>),
) -> Result<Outline, JsonError> {
    if let Err(error) = std::str::from_utf8(text) {
        return Err(JsonError {
            offset: error.valid_up_to(),
            reason: NOT_UTF8,
        });
    }
    let mut scan = Scanner {
        text,
        pos: 0,
        spaced: false,
    };
    scan.blanks();
    scan.spaced = false;
    let begin = scan.pos;
    if scan.peek() != Some(b'{') {
        return Err(scan.fail("expected an object"));
    }
    scan.pos += 1;
    let mut before = scan.pos;
    scan.blanks();
    if scan.peek() == Some(b'}') {
        scan.pos += 1;
    } else {
        loop {
            let start = scan.pos;
            let name = scan.member_name()?;
            let from = scan.pos;
            scan.value()?;
            let value = from..scan.pos;
            let end = scan.pos;
            each(Member {
                name,
                start,
                value,
                before,
            });
            before = end;
            scan.blanks();
            match scan.peek() {
                Some(b',') => scan.pos += 1,
                Some(b'}') => break scan.pos += 1,
                _ => return Err(scan.fail("expected ',' or '}'")),
            }
            scan.blanks();
        }
    }
    let outline = Outline {
        span: begin..scan.pos,
        spaced: scan.spaced,
    };
    scan.blanks();
    match scan.peek() {
        None => Ok(outline),
        Some(_) => Err(scan.fail("text after the object")),
    }
}

/// A top-level member found by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// Its value, without blanks around it.
    pub(crate) value: Range<usize>,
    /// What to take out so that the rest is an object without this member.
    pub(crate) cut: Range<usize>,
    /// Its place among all members, from 0.
    pub(crate) index: usize,
    /// Whether a later member has the same name.
    pub(crate) repeated: bool,
}

/// Like [`object`], for callers that want some members by name: gives the first of each name.
pub(crate) fn fields<const N: usize>(
    text: &[u8],
    names: [&str; N],
) -> Result<([Option<Field>; N], Outline), JsonError> {
    let mut found: [Option<Field>; N] = [const { None }; N];
    let mut index = 0;
    let mut first_wanted = None;
    let outline = object(text, |member| {
        if index == 1
            && let Some(field) = first_wanted.and_then(|n: usize| found[n].as_mut())
        {
            // The first member takes the comma after it along, the others the one before.
            field.cut.end = member.start;
        }
        if let Some(n) = names.iter().position(|name| member.is(name)) {
            match &mut found[n] {
                Some(field) => field.repeated = true,
                None => {
                    if index == 0 {
                        first_wanted = Some(n);
                    }
                    found[n] = Some(Field {
                        cut: member.before..member.value.end,
                        value: member.value,
                        index,
                        repeated: false,
                    });
                }
            }
        }
        index += 1;
    })?;
    Ok((found, outline))
}

/// The string that `value`, the text of a valid JSON value, stands for; `None` if it is no string.
pub(crate) fn string(value: &[u8]) -> Option<Cow<'_, str>> {
    let body = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    Some(decode(body))
}

/// Decodes the body of a string that was checked before. Were it not valid after all, it comes back as written.
pub(crate) fn decode(body: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', body).is_none() {
        return String::from_utf8_lossy(body);
    }
    let mut quoted = Vec::with_capacity(body.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(body);
    quoted.push(b'"');
    match serde_json::from_slice::<String>(&quoted) {
        Ok(text) => Cow::Owned(text),
        Err(_) => String::from_utf8_lossy(body),
    }
}

/// The strict scanner. `text` is UTF-8.
struct Scanner<'a> {
    text: &'a [u8],
    pos: usize,
    /// Whether a blank was met.
    spaced: bool,
}

impl<'a> Scanner<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.get(self.pos).copied()
    }

    #[cold]
    fn fail(&self, reason: &'static str) -> JsonError {
        JsonError {
            offset: self.pos,
            reason: if self.pos < self.text.len() {
                reason
            } else {
                "unexpected end"
            },
        }
    }

    #[inline]
    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.spaced = true;
            self.pos += 1;
        }
    }

    /// A member's name, its colon and the blanks after it; gives the name without its quotes.
    #[inline]
    fn member_name(&mut self) -> Result<&'a [u8], JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.fail("expected a member name in double quotes"));
        }
        let start = self.pos + 1;
        self.string()?;
        let name = self.text.get(start..self.pos - 1).unwrap_or_default();
        self.blanks();
        if self.peek() != Some(b':') {
            return Err(self.fail("expected ':'"));
        }
        self.pos += 1;
        self.blanks();
        Ok(name)
    }

    /// One value of a top-level member.
    fn value(&mut self) -> Result<(), JsonError> {
        // One bit a level, set for an object; the outermost object is level 0 and has no bit.
        let mut objects = [0_u64; MAX_DEPTH / 64];
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => self.string()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(open @ (b'{' | b'[')) => {
                    if depth + 1 == MAX_DEPTH {
                        return Err(self.fail(TOO_DEEP));
                    }
                    self.pos += 1;
                    self.blanks();
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.peek() == Some(close) {
                        self.pos += 1;
                    } else {
                        let bit = 1_u64 << (depth % 64);
                        if open == b'{' {
                            objects[depth / 64] |= bit;
                            self.member_name()?;
                        } else {
                            objects[depth / 64] &= !bit;
                        }
                        depth += 1;
                        continue;
                    }
                }
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                _ => return Err(self.fail("expected a value")),
            }
            // A value is complete: close what ends with it, up to the next value.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let top = depth - 1;
                let in_object = objects[top / 64] >> (top % 64) & 1 == 1;
                self.blanks();
                match self.peek() {
                    Some(b',') => {
                        self.pos += 1;
                        self.blanks();
                        if in_object {
                            self.member_name()?;
                        }
                        break;
                    }
                    Some(b'}') if in_object => self.pos += 1,
                    Some(b']') if !in_object => self.pos += 1,
                    _ if in_object => return Err(self.fail("expected ',' or '}'")),
                    _ => return Err(self.fail("expected ',' or ']'")),
                }
                depth = top;
            }
        }
    }

    /// A string, from its opening quote to after its closing one.
    #[inline]
    fn string(&mut self) -> Result<(), JsonError> {
        self.pos += 1;
        loop {
            self.pos = string_stop(self.text, self.pos);
            match self.peek() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.fail("control character in a string")),
            }
        }
    }

    /// An escape, from its backslash on; a surrogate pair is one escape.
    fn escape(&mut self) -> Result<(), JsonError> {
        let start = self.pos;
        self.pos += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.pos += 1,
            Some(b'u') => {
                let first = self.code_unit()?;
                let lone = JsonError {
                    offset: start,
                    reason: "surrogate without its partner",
                };
                match first {
                    0xD800..=0xDBFF => {
                        if self.text.get(self.pos..self.pos + 2) != Some(b"\\u") {
                            return Err(lone);
                        }
                        self.pos += 1;
                        if !matches!(self.code_unit()?, 0xDC00..=0xDFFF) {
                            return Err(lone);
                        }
                    }
                    0xDC00..=0xDFFF => return Err(lone),
                    _ => {}
                }
            }
            _ => return Err(self.fail("invalid escape")),
        }
        Ok(())
    }

    /// The four digits after a `u`, from the `u` on.
    fn code_unit(&mut self) -> Result<u32, JsonError> {
        self.pos += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return Err(self.fail("expected a hexadecimal digit"));
            };
            unit = unit << 4 | digit;
            self.pos += 1;
        }
        Ok(unit)
    }

    #[inline]
    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        if self.peek() == Some(b'0') {
            // What follows a leading zero is for the caller to refuse, as any text after a value.
            self.pos += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.pos += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.pos += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.pos;
        while let Some(b'0'..=b'9') = self.peek() {
            self.pos += 1;
        }
        if self.pos == start {
            return Err(self.fail("expected a digit"));
        }
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if !self
            .text
            .get(self.pos..)
            .is_some_and(|rest| rest.starts_with(word))
        {
            return Err(JsonError {
                offset: self.pos,
                reason: "expected a value",
            });
        }
        self.pos += word.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &[u8]) -> Result<Outline, JsonError> {
        object(text, |_| {})
    }

    fn members(text: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        object(text.as_bytes(), |member| {
            found.push((
                member.name().into_owned(),
                text[member.value.clone()].to_owned(),
            ));
        })
        .unwrap();
        found
    }

    #[test]
    fn members_come_in_order_with_their_values() {
        let text = " { \"a\" : [1, {\"a\": 2}] ,\r\n\t\"b\":\"}\\\"\\\\\",\"a\":-0.5e+7 } \n";
        let found = members(text);
        let found: Vec<_> = found
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("a", "[1, {\"a\": 2}]"),
                ("b", "\"}\\\"\\\\\""),
                ("a", "-0.5e+7")
            ]
        );
        let outline = check(text.as_bytes()).unwrap();
        assert_eq!(
            outline,
            Outline {
                span: 1..text.len() - 2,
                spaced: true
            }
        );
        assert_eq!(
            check(b"\n{\"a b\":\" \"} ").unwrap(),
            Outline {
                span: 1..12,
                spaced: false
            }
        );
        assert!(members("{}").is_empty() && members("{ }").is_empty());
    }

    #[test]
    fn names_are_compared_by_what_they_mean() {
        let text = br#"{"\u0069d":1,"i\u0064x":2,"\"":3}"#;
        let ([id, quote, missing], _) = fields(text, ["id", "\"", "idx2"]).unwrap();
        assert_eq!(&text[id.unwrap().value], b"1");
        assert_eq!(&text[quote.unwrap().value], b"3");
        assert!(missing.is_none());
    }

    #[test]
    fn cutting_a_field_leaves_an_object() {
        for (text, rest) in [
            (r#"{"id":1}"#, "{}"),
            (r#"{ "id" : 1 }"#, "{ }"),
            (r#"{"id":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{ "id": 1 , "a": 2 }"#, r#"{"a": 2 }"#),
            (r#"{"a":2,"id":1}"#, r#"{"a":2}"#),
            (r#"{"a":2 , "id":1 }"#, r#"{"a":2 }"#),
            (r#"{"a":2,"id":1,"b":3}"#, r#"{"a":2,"b":3}"#),
        ] {
            let ([id], _) = fields(text.as_bytes(), ["id"]).unwrap();
            let cut = id.unwrap().cut;
            assert_eq!([&text[..cut.start], &text[cut.end..]].concat(), rest);
        }
    }

    #[test]
    fn first_of_repeated_fields_is_given_and_marked() {
        let text = br#"{"id":1,"a":0,"id":2}"#;
        let ([id, a], _) = fields(text, ["id", "a"]).unwrap();
        let id = id.unwrap();
        assert!(id.repeated && id.index == 0 && !a.unwrap().repeated);
        assert_eq!(&text[id.value], b"1");
    }

    #[test]
    fn what_qemu_refuses_is_refused() {
        for (value, reason) in [
            ("'a'", "expected a value"),
            ("\"\\ud800\"", "surrogate without its partner"),
            ("\"\\udc00\"", "surrogate without its partner"),
            ("\"\\ud800\\u0041\"", "surrogate without its partner"),
            ("\"\\ud800\\n\"", "surrogate without its partner"),
            ("\"a\tb\"", "control character in a string"),
            ("\"\\x41\"", "invalid escape"),
            ("\"\\u00g0\"", "expected a hexadecimal digit"),
            ("NaN", "expected a value"),
            ("nul", "expected a value"),
            ("True", "expected a value"),
            ("truex", "expected ',' or '}'"),
            ("01", "expected ',' or '}'"),
            ("-", "expected a digit"),
            ("-a", "expected a digit"),
            ("+1", "expected a value"),
            (".5", "expected a value"),
            ("1.", "expected a digit"),
            ("1.e1", "expected a digit"),
            ("1e", "expected a digit"),
            ("0x10", "expected ',' or '}'"),
            ("[1,]", "expected a value"),
            ("[1 2]", "expected ',' or ']'"),
            ("[}", "expected a value"),
            ("[1}", "expected ',' or ']'"),
            ("{\"a\":1]", "expected ',' or '}'"),
            ("{\"a\":1,}", "expected a member name in double quotes"),
            ("{a:1}", "expected a member name in double quotes"),
            ("{\"a\"}", "expected ':'"),
            ("1/**/", "expected ',' or '}'"),
            ("%p", "expected a value"),
            ("1\u{b}", "expected ',' or '}'"),
            ("\u{feff}1", "expected a value"),
        ] {
            let text = format!("{{\"a\":{value}}}");
            let error = check(text.as_bytes()).expect_err(&text);
            assert_eq!(error.reason, reason, "{text}");
            assert!(
                error.offset >= 5 && error.offset < text.len(),
                "{text}: {error}"
            );
        }
        for (text, offset, reason) in [
            (&b""[..], 0, "unexpected end"),
            (b"  ", 2, "unexpected end"),
            (b"null", 0, "expected an object"),
            (b"[]", 0, "expected an object"),
            (b"{\"a\":1", 6, "unexpected end"),
            (b"{\"a", 3, "unexpected end"),
            (b"{\"a\\", 4, "unexpected end"),
            (b"{,}", 1, "expected a member name in double quotes"),
            (b"{\"a\":1,}", 7, "expected a member name in double quotes"),
            (b"{}{}", 2, "text after the object"),
            (b"{} \0", 3, "text after the object"),
            (b"{\"a\":\"\xff\"}", 6, NOT_UTF8),
            (b"{\"\xed\xa0\x80\":1}", 2, NOT_UTF8),
        ] {
            assert_eq!(
                check(text),
                Err(JsonError { offset, reason }),
                "{}",
                text.escape_ascii()
            );
        }
        assert_eq!(
            check(b"{]").unwrap_err().to_string(),
            "expected a member name in double quotes at byte 1"
        );
    }

    #[test]
    fn what_qemu_accepts_is_accepted() {
        for value in [
            "\"\\u0000\"",
            "\"\\ud83d\\ude00\"",
            "\"\\/\\b\\f\u{7f}\u{e9}\"",
            "-0",
            "18446744073709551615",
            "123456789012345678901234567890",
            "1e999",
            "0.10000000000000001",
            "[[],{},[{}]]",
        ] {
            check(format!("{{\"a\":{value}}}").as_bytes()).expect(value);
        }
    }

    #[test]
    fn nesting_up_to_the_cap() {
        let text = |open: &str, inner: &str, close: &str, levels: usize| {
            format!(
                "{{\"id\":{}{inner}{}}}",
                open.repeat(levels),
                close.repeat(levels)
            )
        };
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            let levels = 1023 / close.len();
            check(text(open, "1", close, levels).as_bytes()).unwrap();
            let error = check(text(open, "1", close, levels + 1).as_bytes()).unwrap_err();
            assert_eq!(error.reason, TOO_DEEP);
        }
        check(text("[", "[]", "]", 1022).as_bytes()).unwrap();
        assert_eq!(
            check(text("[", "{}", "]", 1023).as_bytes())
                .unwrap_err()
                .reason,
            TOO_DEEP
        );
        // The kinds of the open containers are kept apart at every level.
        for level in [0, 1, 63, 64, 1000] {
            let mut mixed = text("[", "1", "]", 1001).into_bytes();
            let close = mixed.len() - 2 - level;
            mixed[close] = b'}';
            assert_eq!(check(&mixed).unwrap_err().offset, close);
        }
        // An array closed where an object was open before, and the other way round.
        check(b"{\"a\":[{\"b\":[1]},[2],{\"c\":{}}],\"d\":{\"e\":[{}]}}").unwrap();
    }

    #[test]
    fn strings_of_any_length_and_alignment() {
        for length in 0..40 {
            let body = "y".repeat(length);
            let text = format!("{{\"{body}\":\"{body}\"}}");
            assert_eq!(members(&text), [(body.clone(), format!("\"{body}\""))]);
            for bad in ["\u{1f}", "\n", "\0"] {
                let text = format!("{{\"a\":\"{body}{bad}{body}\"}}");
                assert_eq!(
                    check(text.as_bytes()).unwrap_err().offset,
                    6 + length,
                    "{text:?}"
                );
            }
        }
    }

    #[test]
    fn decoding_strings() {
        assert_eq!(
            string(br#""a\u0022\n\ud83d\ude00""#).unwrap(),
            "a\"\n\u{1f600}"
        );
        assert_eq!(string(br#""""#).unwrap(), "");
        assert_eq!(string(b"1"), None);
        assert_eq!(string(b"\""), None);
    }

    /// Texts that look like JSON and often are not.
    fn soup() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"a\"",
            "\"a\":",
            "\"\\u0069d\":",
            "\"\\ud83d\\ude00\"",
            "\"\\ud800\"",
            "1",
            "-",
            "0",
            "01",
            "1.5e3",
            "1e",
            "true",
            "nul",
            "null",
            "false",
            " ",
            "\n",
            "\"",
            "\\",
            "{\"a\":1}",
            "[]",
            "{}",
            "\u{e9}",
            "[1,",
            "\"b\\\"\"",
        ]);
        prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
    }

    fn tree() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// What serde_json makes of the text: whether it is one object, or nothing if serde_json cannot tell, because it
    /// refuses numbers too large for an f64.
    fn oracle(text: &[u8]) -> Option<bool> {
        let mut parser = serde_json::Deserializer::from_slice(text);
        parser.disable_recursion_limit();
        let value = <serde_json::Value as serde::Deserialize>::deserialize(&mut parser);
        match value.and_then(|value| parser.end().map(|()| value)) {
            Ok(value) => Some(value.is_object()),
            Err(error) if error.to_string().contains("out of range") => None,
            Err(_) => Some(false),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_valid_texts(value in tree(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            prop_assert_eq!(check(text.as_bytes()).is_ok(), value.is_object());
            let object = format!("{{\"return\":{text},\"id\":1}}");
            let ([value_field, id], _) = fields(object.as_bytes(), ["return", "id"]).unwrap();
            prop_assert_eq!(&object[value_field.unwrap().value], text.as_str());
            prop_assert_eq!(&object[id.unwrap().value], "1");
        }

        #[test]
        fn agrees_with_serde_json_on_soup(text in soup()) {
            for text in [text.clone(), format!("{{{text}}}"), format!("{{\"a\":{text}}}")] {
                if let Some(valid) = oracle(text.as_bytes()) {
                    prop_assert_eq!(check(text.as_bytes()).is_ok(), valid, "{}", text);
                }
            }
        }

        #[test]
        fn agrees_with_serde_json_on_mutated_texts(
            value in tree(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..4),
        ) {
            let mut text = format!("{{\"return\":{value}}}").into_bytes();
            for (place, byte, change) in changes {
                let place = place.index(text.len());
                match change {
                    0 => text[place] = byte,
                    1 => text.insert(place, byte),
                    _ => drop(text.remove(place)),
                }
                if text.is_empty() {
                    break;
                }
            }
            if let Some(valid) = oracle(&text) {
                prop_assert_eq!(check(&text).is_ok(), valid, "{}", text.escape_ascii());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = check(&text);
            let _ = string(&text);
            let object = [b"{\"", &text[..], b"\"}"].concat();
            let _ = check(&object);
        }
    }
}
