//! Arguments of a QMP command as words: `KEY=VALUE`, with dots in the key for nesting. Imports nothing of ours.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// Levels that the dots of a key may make; QAPI's own types have a few.
const MAX_LEVELS: usize = 64;

/// An object, in the order of its words.
#[derive(Debug, Default)]
pub(crate) struct Object(Vec<(String, Node)>);

#[derive(Debug)]
enum Node {
    /// A value as its user wrote it, to the digit.
    Value(Box<RawValue>),
    Object(Object),
}

impl Object {
    /// Reads the words. A value that is JSON is taken as such, and anything else is a string.
    ///
    /// # Errors
    ///
    /// The word, and what is wrong with it.
    pub(crate) fn from_words(words: &[String]) -> Result<Self, String> {
        let mut object = Object::default();
        for word in words {
            object
                .add(word)
                .map_err(|reason| format!("argument `{word}`: {reason}"))?;
        }
        Ok(object)
    }

    fn add(&mut self, word: &str) -> Result<(), String> {
        let (key, value) = word.split_once('=').ok_or("expected KEY=VALUE")?;
        if key.split('.').count() > MAX_LEVELS {
            return Err(format!("more than {MAX_LEVELS} levels"));
        }
        let value = match serde_json::from_str(value) {
            Ok(json) => json,
            Err(_) => serde_json::value::to_raw_value(value).map_err(|error| error.to_string())?,
        };
        self.insert(key, value)
    }

    fn insert(&mut self, key: &str, value: Box<RawValue>) -> Result<(), String> {
        let (name, rest) = match key.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (key, None),
        };
        if name.is_empty() {
            return Err("a name is missing in the key".to_owned());
        }
        let found = self.0.iter_mut().find(|(known, _)| known == name);
        match (found, rest) {
            (None, None) => self.0.push((name.to_owned(), Node::Value(value))),
            (None, Some(rest)) => {
                let mut object = Object::default();
                object.insert(rest, value)?;
                self.0.push((name.to_owned(), Node::Object(object)));
            }
            (Some((_, Node::Object(object))), Some(rest)) => object.insert(rest, value)?,
            (Some((_, Node::Value(_))), Some(_)) => {
                return Err(format!("`{name}` has a value already, and no members"));
            }
            (Some(_), None) => return Err(format!("`{name}` is given twice")),
        }
        Ok(())
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, node) in &self.0 {
            match node {
                Node::Value(value) => map.serialize_entry(name, value)?,
                Node::Object(object) => map.serialize_entry(name, object)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<String, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let object = Object::from_words(&words)?;
        Ok(serde_json::to_string(&object).unwrap())
    }

    #[test]
    fn values_are_json_or_else_strings() {
        for (word, json) in [
            ("a=1", r#"{"a":1}"#),
            ("a=-0.50", r#"{"a":-0.50}"#),
            ("a=18446744073709551615", r#"{"a":18446744073709551615}"#),
            ("a=true", r#"{"a":true}"#),
            ("a=null", r#"{"a":null}"#),
            (r#"a={"b": [1]}"#, r#"{"a":{"b": [1]}}"#),
            (r#"a="1""#, r#"{"a":"1"}"#),
            ("a=", r#"{"a":""}"#),
            ("a=01", r#"{"a":"01"}"#),
            ("a=on", r#"{"a":"on"}"#),
            ("a=b=c", r#"{"a":"b=c"}"#),
            (r#"a=say "hi"\"#, r#"{"a":"say \"hi\"\\"}"#),
            ("a=/dev/sda.1", r#"{"a":"/dev/sda.1"}"#),
            ("a={broken", r#"{"a":"{broken"}"#),
            ("read-only=1 2", r#"{"read-only":"1 2"}"#),
        ] {
            assert_eq!(read(&[word]).as_deref(), Ok(json), "{word}");
        }
        assert_eq!(read(&[]).as_deref(), Ok("{}"));
    }

    #[test]
    fn dotted_keys_nest_in_any_order() {
        assert_eq!(
            read(&[
                "file.driver=null-co",
                "node-name=n",
                "file.size=65536",
                "file.a.b=1",
                "driver=raw",
                "file.a.c=2"
            ])
            .as_deref(),
            Ok(
                r#"{"file":{"driver":"null-co","size":65536,"a":{"b":1,"c":2}},"node-name":"n","driver":"raw"}"#
            )
        );
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let deep = format!("{}=1", ["a"; MAX_LEVELS + 1].join("."));
        for (words, reason) in [
            (&["a"][..], "expected KEY=VALUE"),
            (&["=1"], "a name is missing"),
            (&["a..b=1"], "a name is missing"),
            (&[".a=1"], "a name is missing"),
            (&["a.=1"], "a name is missing"),
            (&["a=1", "a=2"], "`a` is given twice"),
            (&["a.b=1", "a=2"], "`a` is given twice"),
            (&["a.b=1", "a.b=1"], "`b` is given twice"),
            (&["a=1", "a.b=2"], "`a` has a value already"),
            (&[deep.as_str()], "more than 64 levels"),
        ] {
            let error = read(words).unwrap_err();
            assert!(error.contains(reason), "{words:?}: {error}");
            assert!(error.contains(words[words.len() - 1]), "{error}");
        }
        assert!(read(&[&format!("{}=1", ["a"; MAX_LEVELS].join("."))]).is_ok());
    }
}
