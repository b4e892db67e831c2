//! Makes the tables of the JSON that `query-qmp-schema` returns: first the entries as they stand, borrowed from the text,
//! then the tables, with every type's name replaced by its place. Imports `from_json` of qmp and the tables of `super`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::view::Builtin;
use super::{
    CommandDef, EventDef, Kind, MemberDef, Span, Tables, TypeDef, TypeId, UNKNOWN, ValueDef,
    VariantDef, index, is_free_form,
};
use crate::qmp::from_json;

/// Bytes of a schema. The greatest known, that of QEMU 10, has 0.25 MB, and 0.6 MB where it is pretty-printed.
const MAX_SCHEMA: usize = 4 << 20;

/// Why a text is no schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the value of query-qmp-schema: {reason}")]
#[non_exhaustive]
pub struct SchemaError {
    /// What is wrong, and where.
    pub reason: String,
}

/// Reads the value of `query-qmp-schema`.
pub(super) fn value(json: &[u8]) -> Result<Tables, SchemaError> {
    Ok(build(&parse::<Entries<'_>>(json)?))
}

/// Reads a whole reply.
pub(super) fn reply(reply: &[u8]) -> Result<Tables, SchemaError> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, rename = "return")]
        value: Entries<'a>,
    }
    Ok(build(&parse::<Reply<'_>>(reply)?.value))
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, SchemaError> {
    if json.len() > MAX_SCHEMA {
        let reason = format!("{} bytes are more than {MAX_SCHEMA}", json.len());
        return Err(SchemaError { reason });
    }
    from_json(json).map_err(|error| SchemaError {
        reason: error.to_string(),
    })
}

/// A string of the text, borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The entries that could be read.
struct Entries<'a> {
    read: Vec<Entry<'a>>,
    unread: usize,
}

/// An entry (`SchemaInfo`): what any kind of it may have.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Entry<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    meta_type: Option<Text<'a>>,
    #[serde(borrow)]
    json_type: Option<Text<'a>>,
    #[serde(borrow)]
    element_type: Option<Text<'a>>,
    #[serde(borrow)]
    arg_type: Option<Text<'a>>,
    #[serde(borrow)]
    ret_type: Option<Text<'a>>,
    #[serde(borrow)]
    tag: Option<Text<'a>>,
    #[serde(borrow)]
    members: Vec<Part<'a>>,
    /// Of an enum, the names alone: what versions before 6.2 have, and newer ones repeat.
    #[serde(borrow)]
    values: Vec<Text<'a>>,
    #[serde(borrow)]
    variants: Vec<Case<'a>>,
    #[serde(borrow)]
    features: Vec<Text<'a>>,
    allow_oob: bool,
}

/// What is left of an entry that has another shape than it should.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Stub<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    meta_type: Text<'a>,
}

/// A member of an object, a value of an enum or a branch of an alternate.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default, rename = "type")]
    ty: Option<Text<'a>>,
    #[serde(default)]
    default: Present,
    #[serde(borrow, default)]
    features: Vec<Text<'a>>,
}

#[derive(Deserialize)]
struct Case<'a> {
    #[serde(borrow)]
    case: Text<'a>,
    #[serde(borrow, rename = "type")]
    ty: Text<'a>,
}

/// Whether a member is there, whatever it is. An `Option` would take `null` for none.
#[derive(Default)]
struct Present(bool);

impl<'a> Deserialize<'a> for Present {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer)?;
        Ok(Present(true))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<'a>(PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for Each<'a> {
            type Value = Entries<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut entries = Entries {
                    read: Vec::new(),
                    unread: 0,
                };
                while let Some(text) = seq.next_element::<&RawValue>()? {
                    if !text.get().starts_with('{') {
                        return Err(A::Error::custom("an entry is not an object"));
                    }
                    entries.add(text.get());
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_seq(Each(PhantomData))
    }
}

impl<'a> Entries<'a> {
    /// Adds an entry. One that is no more than partly understood keeps its name at least.
    fn add(&mut self, text: &'a str) {
        if let Ok(entry) = from_json::<Entry<'_>>(text.as_bytes())
            && entry.is_whole()
        {
            return self.read.push(entry);
        }
        self.unread += 1;
        if let Ok(stub) = from_json::<Stub<'_>>(text.as_bytes()) {
            self.read.push(Entry {
                name: Some(stub.name),
                // A type of which nothing else is known is of no kind that is known.
                meta_type: Some(stub.meta_type)
                    .filter(|kind| kind.is("command") || kind.is("event")),
                ..Entry::default()
            });
        }
    }
}

impl Text<'_> {
    fn is(&self, text: &str) -> bool {
        self.0 == text
    }
}

impl Entry<'_> {
    /// Whether it has what its kind needs.
    fn is_whole(&self) -> bool {
        let all_named = || self.members.iter().all(|part| part.name.is_some());
        let all_typed = || self.members.iter().all(|part| part.ty.is_some());
        self.name.is_some()
            && match self.kind() {
                "command" => self.arg_type.is_some() && self.ret_type.is_some(),
                "event" => self.arg_type.is_some(),
                "object" => all_named() && all_typed(),
                "enum" => all_named(),
                "alternate" => all_typed(),
                "array" => self.element_type.is_some(),
                "builtin" => self.builtin().is_some(),
                _ => false,
            }
    }

    fn kind(&self) -> &str {
        self.meta_type.as_ref().map_or("", |kind| &kind.0)
    }

    fn builtin(&self) -> Option<Builtin> {
        Builtin::from_json_type(&self.json_type.as_ref()?.0)
    }
}

fn build(entries: &Entries<'_>) -> Tables {
    let mut builder = Builder {
        tables: Tables {
            text: String::new(),
            types: vec![TypeDef {
                name: Span::default(),
                kind: Kind::Unknown,
                features: Span::default(),
            }],
            members: Vec::new(),
            values: Vec::new(),
            variants: Vec::new(),
            branches: Vec::new(),
            features: Vec::new(),
            commands: Vec::new(),
            events: Vec::new(),
            unread: entries.unread,
        },
        types: HashMap::new(),
    };
    let (mut types, mut rest) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for entry in &entries.read {
        let name = entry.name.as_ref().map_or("", |name| &*name.0);
        // Commands and events have names of their own, types have others: a number might well be both.
        let is_type = !matches!(entry.kind(), "command" | "event");
        if !seen.insert((is_type, name)) {
            builder.tables.unread += 1;
        } else if is_type {
            types.push(entry);
            builder.types.insert(name, index(types.len()));
        } else {
            rest.push(entry);
        }
    }
    for entry in types {
        builder.add_type(entry);
    }
    for entry in rest {
        builder.add_command_or_event(entry);
    }
    builder.finish()
}

struct Builder<'a> {
    tables: Tables,
    /// The place of each type, by name.
    types: HashMap<&'a str, TypeId>,
}

impl Builder<'_> {
    fn add_type(&mut self, entry: &Entry<'_>) {
        let def = TypeDef {
            name: self.name(entry.name.as_ref()),
            kind: self.kind(entry),
            features: self.features(&entry.features),
        };
        self.tables.types.push(def);
    }

    fn kind(&mut self, entry: &Entry<'_>) -> Kind {
        match entry.kind() {
            "builtin" => entry.builtin().map_or(Kind::Unknown, Kind::Builtin),
            "enum" => Kind::Enum {
                values: self.values(entry),
            },
            "array" => Kind::Array {
                element: self.type_id(entry.element_type.as_ref()),
            },
            "object" => self.object(entry),
            "alternate" => {
                let start = self.tables.branches.len();
                for part in &entry.members {
                    let id = self.type_id(part.ty.as_ref());
                    self.tables.branches.push(id);
                }
                Kind::Alternate {
                    branches: since(start, self.tables.branches.len()),
                }
            }
            _ => Kind::Unknown,
        }
    }

    fn object(&mut self, entry: &Entry<'_>) -> Kind {
        let start = self.tables.members.len();
        let mut tag = None;
        for part in &entry.members {
            if let (Some(name), Some(wanted)) = (&part.name, &entry.tag)
                && name.0 == wanted.0
            {
                tag = Some(index(self.tables.members.len()));
            }
            let def = MemberDef {
                name: self.name(part.name.as_ref()),
                ty: self.type_id(part.ty.as_ref()),
                optional: part.default.0,
                features: self.features(&part.features),
            };
            self.tables.members.push(def);
        }
        let members = since(start, self.tables.members.len());
        let start = self.tables.variants.len();
        for case in &entry.variants {
            let def = VariantDef {
                case: self.name(Some(&case.case)),
                ty: self.type_id(Some(&case.ty)),
            };
            self.tables.variants.push(def);
        }
        Kind::Object {
            members,
            variants: since(start, self.tables.variants.len()),
            tag,
        }
    }

    fn values(&mut self, entry: &Entry<'_>) -> Span {
        let start = self.tables.values.len();
        for part in &entry.members {
            let def = ValueDef {
                name: self.name(part.name.as_ref()),
                features: self.features(&part.features),
            };
            self.tables.values.push(def);
        }
        if entry.members.is_empty() {
            for value in &entry.values {
                let def = ValueDef {
                    name: self.name(Some(value)),
                    features: Span::default(),
                };
                self.tables.values.push(def);
            }
        }
        since(start, self.tables.values.len())
    }

    fn add_command_or_event(&mut self, entry: &Entry<'_>) {
        let name = self.name(entry.name.as_ref());
        let features = self.features(&entry.features);
        let arguments = self.type_id(entry.arg_type.as_ref());
        if entry.kind() == "event" {
            self.tables.events.push(EventDef {
                name,
                data: arguments,
                features,
            });
            return;
        }
        let kind = self
            .tables
            .types
            .get(arguments as usize)
            .map(|def| &def.kind);
        let has_variants = matches!(kind, Some(Kind::Object { tag: Some(_), .. }));
        self.tables.commands.push(CommandDef {
            name,
            arguments,
            returns: self.type_id(entry.ret_type.as_ref()),
            oob: entry.allow_oob,
            free_form: is_free_form(self.tables.text(name), has_variants),
            features,
        });
    }

    fn name(&mut self, name: Option<&Text<'_>>) -> Span {
        let start = self.tables.text.len();
        self.tables.text.push_str(name.map_or("", |name| &name.0));
        since(start, self.tables.text.len())
    }

    fn features(&mut self, features: &[Text<'_>]) -> Span {
        let start = self.tables.features.len();
        for feature in features {
            let name = self.name(Some(feature));
            self.tables.features.push(name);
        }
        since(start, self.tables.features.len())
    }

    fn type_id(&self, name: Option<&Text<'_>>) -> TypeId {
        name.and_then(|name| self.types.get(&*name.0).copied())
            .unwrap_or(UNKNOWN)
    }

    fn finish(self) -> Tables {
        let mut tables = self.tables;
        let mut commands = std::mem::take(&mut tables.commands);
        commands.sort_by(|a, b| tables.text(a.name).cmp(tables.text(b.name)));
        tables.commands = commands;
        let mut events = std::mem::take(&mut tables.events);
        events.sort_by(|a, b| tables.text(a.name).cmp(tables.text(b.name)));
        tables.events = events;
        tables.shrink();
        tables
    }
}

impl Tables {
    /// Gives back what the lists have grown too large: they stay as long as their monitor.
    fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.types.shrink_to_fit();
        self.members.shrink_to_fit();
        self.values.shrink_to_fit();
        self.variants.shrink_to_fit();
        self.branches.shrink_to_fit();
        self.features.shrink_to_fit();
        self.commands.shrink_to_fit();
        self.events.shrink_to_fit();
    }
}

fn since(start: usize, end: usize) -> Span {
    Span {
        start: index(start),
        end: index(end),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::SAMPLE;
    use super::super::{Schema, TypeKind};
    use proptest::prelude::*;

    fn parse(text: &str) -> Schema {
        Schema::parse(text.as_bytes()).unwrap()
    }

    /// Goes everywhere and shows everything.
    fn walk(schema: &Schema) {
        for command in schema.commands() {
            let _ = format!("{command}{:?}", command.features());
        }
        for event in schema.events() {
            let _ = event.to_string();
        }
        for ty in schema.types() {
            let _ = format!("{}{:?}", ty.shown(100), ty.kind());
        }
        for command in [
            r#"{"execute":"node-add","arguments":{"driver":"raw","below":{"driver":"file"}}}"#,
            r#"{"execute":"nodes-set","arguments":{"nodes":[{"driver":"none"},1],"sizes":[1]}}"#,
            r#"{"exec-oob":"scalars","arguments":{"s":1,"n":2}}"#,
        ] {
            let _ = schema.check_json(command.as_bytes());
        }
        let _ = schema.transaction_actions();
    }

    #[test]
    fn what_is_no_array_of_objects_is_refused() {
        for text in [
            "", "{}", "null", "[1]", "[{}", "[{}]]", "[{},]", "[\"x\"]", "[[]]", "7",
        ] {
            let error = Schema::parse(text.as_bytes()).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("not the value of query-qmp-schema: "),
                "{error}"
            );
        }
        Schema::parse(b"[{\"name\":\"\xff\"}]").unwrap_err();
        let deep = format!("[{{\"x\":{}{}}}]", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Schema::parse(deep.as_bytes()).is_err());
        let deep = format!("[{{\"x\":{}{}}}]", "[".repeat(500), "]".repeat(500));
        assert_eq!(parse(&deep).unread(), 1);
        let long = format!("[{}]", " ".repeat(4 << 20));
        let error = Schema::parse(long.as_bytes()).unwrap_err();
        assert!(error.reason.contains("are more than 4194304"), "{error}");
        assert_eq!(parse("[]").commands().len(), 0);
    }

    #[test]
    fn a_reply_is_read_wherever_its_members_stand() {
        for reply in [
            format!(r#"{{"return":{SAMPLE},"id":"libvirt-1"}}"#),
            format!(r#"{{"id":[{{}}],"new":{{"a":[1]}},"return":{SAMPLE}}}"#),
        ] {
            assert_eq!(
                Schema::from_reply(reply.as_bytes()).unwrap().events().len(),
                2
            );
        }
        assert!(Schema::from_reply(br#"{"return":{}}"#).is_err());
        assert!(Schema::from_reply(br#"{"id":1}"#).is_err());
    }

    #[test]
    fn what_is_not_understood_is_passed_over_and_counted() {
        let schema = parse(
            r#"[
            {"name": "a", "meta-type": "command", "arg-type": "0", "ret-type": "0", "new": {"x": [1]}},
            {"name": "0", "meta-type": "object", "members": [{"name": "m", "type": "gone", "new": 1}]},
            {"name": "b", "meta-type": "command", "arg-type": "0"},
            {"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "0", "allow-oob": "yes"},
            {"name": "d", "meta-type": "quark", "members": "none"},
            {"name": "E", "meta-type": "event", "arg-type": 5},
            {"name": "f", "meta-type": "enum", "members": [{"type": "x"}]},
            {"name": "g", "meta-type": "builtin", "json-type": "imaginary"},
            {"name": 7, "meta-type": "object", "members": []},
            {"meta-type": "object", "members": []},
            {"name": "a", "meta-type": "command", "arg-type": "f", "ret-type": "f"},
            {"name": "a", "name": "b", "meta-type": "object"},
            {}
            ]"#,
        );
        assert_eq!(schema.unread(), 11);
        walk(&schema);
        assert_eq!(
            schema.command("a").unwrap().to_string(),
            "a { m: ? } -> { m: ? }"
        );
        // Of a command in a shape that is not known, anything may be an argument.
        for name in ["b", "c"] {
            assert_eq!(
                schema.command(name).unwrap().to_string(),
                format!("{name} ? -> ?")
            );
            let command = format!(r#"{{"execute":"{name}","arguments":{{"x":[1]}}}}"#);
            assert!(schema.check_json(command.as_bytes()).is_ok());
        }
        assert_eq!(schema.event("E").unwrap().to_string(), "E ?");
        for ty in schema.types().filter(|ty| ty.name() != "0") {
            assert!(matches!(ty.kind(), TypeKind::Unknown), "{ty:?}");
        }
    }

    #[test]
    fn escaped_names_are_decoded() {
        let schema = parse(
            r#"[{"\u006eame": "quer\u0079", "meta-type": "comman\u0064", "arg-type": "\u0030", "ret-type": "0"},
                {"name": "0", "meta-type": "object", "members": [{"name": "\"\u00e9", "type": "0"}]}]"#,
        );
        let command = schema.command("query").unwrap();
        assert_eq!(command.arguments().next().unwrap().name(), "\"\u{e9}");
    }

    #[test]
    fn types_that_contain_themselves_end() {
        let schema = parse(
            r#"[
            {"name": "c", "meta-type": "command", "arg-type": "1", "ret-type": "2"},
            {"name": "1", "meta-type": "object", "tag": "t", "members": [{"name": "t", "type": "1"}],
             "variants": [{"case": "x", "type": "1"}]},
            {"name": "2", "meta-type": "array", "element-type": "2"},
            {"name": "3", "meta-type": "alternate", "members": [{"type": "3"}, {"type": "3"}]},
            {"name": "4", "meta-type": "object", "members": [{"name": "a", "type": "3"}, {"name": "b", "type": "4"}]},
            {"name": "d", "meta-type": "command", "arg-type": "4", "ret-type": "3"}
            ]"#,
        );
        assert_eq!(schema.unread(), 0);
        walk(&schema);
        for command in [
            r#"{"execute":"c","arguments":{"t":"x"}}"#,
            r#"{"execute":"c","arguments":{"t":{"t":{"t":"x"}}}}"#,
            r#"{"execute":"d","arguments":{"a":1,"b":{"a":[],"b":{}}}}"#,
        ] {
            let _ = schema.check_json(command.as_bytes());
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for end in 0..SAMPLE.len() {
            assert!(Schema::parse(&SAMPLE.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn damage_is_an_error_or_a_part(
            places in prop::collection::vec((0..SAMPLE.len(), any::<u8>()), 1..6),
        ) {
            let mut text = SAMPLE.as_bytes().to_vec();
            for (place, byte) in places {
                text[place] = byte;
            }
            if let Ok(schema) = Schema::parse(&text) {
                walk(&schema);
            }
        }

        /// References and names that are swapped about make schemas of any shape, cycles among them.
        #[test]
        fn shuffled_references_end(
            swaps in prop::collection::vec((0_usize..200, 0_usize..200), 1..20),
        ) {
            let mut parts: Vec<&str> = SAMPLE.split('"').collect();
            let values: Vec<usize> = (1..parts.len())
                .filter(|n| parts[n - 1].ends_with(": "))
                .collect();
            for (a, b) in swaps {
                parts.swap(values[a % values.len()], values[b % values.len()]);
            }
            if let Ok(schema) = Schema::parse(parts.join("\"").as_bytes()) {
                walk(&schema);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Schema::parse(&text);
        }
    }
}
