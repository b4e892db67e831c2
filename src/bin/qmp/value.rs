//! Arguments of a QMP command as words: `KEY=VALUE`, with dots in the key for nesting. `KEY:=JSON` and `KEY=str:TEXT` say what the
//! value is; where they do not, the schema does, and where there is none, what is JSON is taken as such. Imports `typed`.

use libvirt_qmp::schema::CommandInfo;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::typed;

/// Levels that the dots of a key may make; QAPI's own types have a few.
const MAX_LEVELS: usize = 64;
/// Bytes of a file that is a value.
const MAX_FILE: u64 = 64 << 20;

/// An object, in the order of its words.
#[derive(Debug, Default)]
pub(crate) struct Object(pub(crate) Vec<(String, Node)>);

/// What stands behind a key.
#[derive(Debug)]
pub(crate) enum Node {
    /// A value as its user wrote it, whose type is to be found.
    Plain(String),
    /// JSON, to the digit.
    Json(Box<RawValue>),
    Object(Object),
}

impl Object {
    /// Reads the words. Values that are files (`KEY=@FILE`) are read too.
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

    /// The same object with a type for each plain value, by what `command` takes.
    pub(crate) fn typed(self, command: CommandInfo<'_>) -> Self {
        typed::object(self, command.argument_type())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, word: &str) -> Result<(), String> {
        let (key, value) = word.split_once('=').ok_or("expected KEY=VALUE")?;
        let (key, is_json) = match key.strip_suffix(':') {
            Some(key) => (key, true),
            None => (key, false),
        };
        if key.split('.').count() > MAX_LEVELS {
            return Err(format!("more than {MAX_LEVELS} levels"));
        }
        let from_file = value.strip_prefix('@').map(read_file).transpose()?;
        let node = match (is_json, from_file) {
            (true, Some(text)) => json(text.trim())?,
            (true, None) => json(value)?,
            (false, Some(text)) => string(&text)?,
            (false, None) => match value.strip_prefix("str:") {
                Some(text) => string(text)?,
                None => Node::Plain(value.to_owned()),
            },
        };
        self.insert(key, node)
    }

    fn insert(&mut self, key: &str, value: Node) -> Result<(), String> {
        let (name, rest) = match key.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (key, None),
        };
        if name.is_empty() {
            return Err("a name is missing in the key".to_owned());
        }
        let found = self.0.iter_mut().find(|(known, _)| known == name);
        match (found, rest) {
            (None, None) => self.0.push((name.to_owned(), value)),
            (None, Some(rest)) => {
                let mut object = Object::default();
                object.insert(rest, value)?;
                self.0.push((name.to_owned(), Node::Object(object)));
            }
            (Some((_, Node::Object(object))), Some(rest)) => object.insert(rest, value)?,
            (Some(_), Some(_)) => {
                return Err(format!("`{name}` has a value already, and no members"));
            }
            (Some(_), None) => return Err(format!("`{name}` is given twice")),
        }
        Ok(())
    }
}

fn read_file(name: &str) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot read {name}: {error}");
    let file = std::fs::File::open(name).map_err(cannot)?;
    let mut text = String::new();
    let mut limited = std::io::Read::take(file, MAX_FILE + 1);
    std::io::Read::read_to_string(&mut limited, &mut text).map_err(cannot)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(format!("{name} is over {MAX_FILE} bytes long")),
        false => Ok(text),
    }
}

fn json(text: &str) -> Result<Node, String> {
    serde_json::from_str(text)
        .map(Node::Json)
        .map_err(|error| format!("no JSON: {error}"))
}

/// `text` as a string of JSON.
pub(crate) fn string(text: &str) -> Result<Node, String> {
    serde_json::value::to_raw_value(text)
        .map(Node::Json)
        .map_err(|error| error.to_string())
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, node) in &self.0 {
            map.serialize_entry(name, node)?;
        }
        map.end()
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // Nobody knows better: what is JSON is taken as such, and anything else is a string.
            Node::Plain(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(json) => json.serialize(serializer),
                Err(_) => text.serialize(serializer),
            },
            Node::Json(json) => json.serialize(serializer),
            Node::Object(object) => object.serialize(serializer),
        }
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
    fn a_value_may_be_said_to_be_json_or_a_string() {
        for (word, json) in [
            ("a:=1", r#"{"a":1}"#),
            ("a:=1.0", r#"{"a":1.0}"#),
            (r#"a.b:="1""#, r#"{"a":{"b":"1"}}"#),
            ("a=str:1", r#"{"a":"1"}"#),
            ("a=str:true", r#"{"a":"true"}"#),
            ("a=str:", r#"{"a":""}"#),
            ("a=str:@x", r#"{"a":"@x"}"#),
            ("a=str:str:", r#"{"a":"str:"}"#),
            ("a=string", r#"{"a":"string"}"#),
        ] {
            assert_eq!(read(&[word]).as_deref(), Ok(json), "{word}");
        }
        let error = read(&["a:=x"]).unwrap_err();
        assert!(error.contains("argument `a:=x`: no JSON"), "{error}");
    }

    #[test]
    fn a_value_may_be_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("v");
        std::fs::write(&file, "[1,\n2]\n").unwrap();
        let file = file.display();
        assert_eq!(
            read(&[&format!("a=@{file}")]).as_deref(),
            Ok(r#"{"a":"[1,\n2]\n"}"#)
        );
        assert_eq!(
            read(&[&format!("a:=@{file}")]).as_deref(),
            Ok("{\"a\":[1,\n2]}")
        );
        let error = read(&[&format!("a=@{file}-not")]).unwrap_err();
        assert!(
            error.contains("cannot read") && error.contains("No such file"),
            "{error}"
        );
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
            (&[":=1"], "a name is missing"),
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
