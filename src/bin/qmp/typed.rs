//! The types of values that their user wrote without quotes, by what QEMU's schema says of the argument. Imports `value`.

use libvirt_qmp::schema::{Builtin, EnumType, Member, ObjectType, Type, TypeKind};
use serde_json::value::RawValue;

use crate::value::{Node, Object, string};

/// Parts that the members of one object may come from: itself, and the branch of each tag.
const MAX_PARTS: usize = 16;

/// `object` as a value of type `ty`. What the schema does not know stays plain.
pub(crate) fn object(object: Object, ty: Type<'_>) -> Object {
    let TypeKind::Object(kind) = ty.kind() else {
        return object;
    };
    let members = members(&object, kind);
    let typed = object.0.into_iter().map(|(name, value)| {
        let member = members.iter().find(|member| member.name() == name);
        let value = match member {
            Some(member) => node(value, member.ty()),
            None => value,
        };
        (name, value)
    });
    Object(typed.collect())
}

/// The members that `given` may have, by the values of its tags.
fn members<'s>(given: &Object, mut kind: ObjectType<'s>) -> Vec<Member<'s>> {
    let mut known = Vec::new();
    for _ in 0..MAX_PARTS {
        known.extend(kind.members());
        let case = kind.tag().and_then(|tag| text_of(given, tag.name()));
        let Some(variant) = case.and_then(|case| kind.variant(&case)) else {
            break;
        };
        match variant.ty().kind() {
            TypeKind::Object(more) => kind = more,
            _ => break,
        }
    }
    known
}

/// The string that stands behind `name`.
fn text_of(given: &Object, name: &str) -> Option<String> {
    let (_, node) = given.0.iter().find(|(known, _)| known == name)?;
    match node {
        Node::Plain(text) => Some(unquoted(text).unwrap_or_else(|| text.clone())),
        Node::Json(json) => unquoted(json.get()),
        Node::Object(_) => None,
    }
}

/// What `text` says, where it is a string of JSON.
fn unquoted(text: &str) -> Option<String> {
    serde_json::from_str(text).ok()
}

fn node(value: Node, ty: Type<'_>) -> Node {
    match (value, ty.kind()) {
        (Node::Plain(text), kind) => typed(&text, kind).unwrap_or(Node::Plain(text)),
        (Node::Object(inner), TypeKind::Alternate(alternate)) => {
            let mut types = alternate.types();
            match types.find(|ty| matches!(ty.kind(), TypeKind::Object(_))) {
                Some(ty) => Node::Object(object(inner, ty)),
                None => Node::Object(inner),
            }
        }
        (Node::Object(inner), _) => Node::Object(object(inner, ty)),
        (json @ Node::Json(_), _) => json,
    }
}

/// `text` as a value of this kind; none where it can be none, which QEMU then says.
fn typed(text: &str, kind: TypeKind<'_>) -> Option<Node> {
    match kind {
        // A string of JSON is that string, so that a value can be quoted.
        TypeKind::Builtin(Builtin::String) | TypeKind::Enum(_) => {
            string(&unquoted(text).unwrap_or_else(|| text.to_owned())).ok()
        }
        TypeKind::Builtin(Builtin::Int) => integer(text),
        TypeKind::Builtin(Builtin::Boolean) => boolean(text),
        TypeKind::Alternate(alternate) => {
            let kinds: Vec<TypeKind<'_>> = alternate.types().map(Type::kind).collect();
            one_of(text, &kinds)
        }
        _ => None,
    }
}

/// `text` as a value of one of these kinds: JSON of any of them as it is, then an enum's value, then the rest.
fn one_of(text: &str, kinds: &[TypeKind<'_>]) -> Option<Node> {
    let has = |wanted: Builtin| {
        let mut kinds = kinds.iter();
        kinds.any(|kind| matches!(kind, TypeKind::Builtin(builtin) if *builtin == wanted))
    };
    let is_value = |values: &EnumType<'_>| values.value(text).is_some();
    let is_enum = kinds
        .iter()
        .any(|kind| matches!(kind, TypeKind::Enum(values) if is_value(values)));
    if is_enum {
        return string(text).ok();
    }
    if text == "null" && has(Builtin::Null) {
        return Some(Node::Plain(text.to_owned()));
    }
    if has(Builtin::Int)
        && let Some(number) = integer(text)
    {
        return Some(number);
    }
    if has(Builtin::Boolean)
        && let Some(value) = boolean(text)
    {
        return Some(value);
    }
    let is_compound = text.starts_with(['{', '[']);
    match has(Builtin::String) && !is_compound {
        true => typed(text, TypeKind::Builtin(Builtin::String)),
        false => None,
    }
}

/// A whole number, also with a suffix of QEMU's: 64K, 1M, 2G, 1T, of 1024 each.
fn integer(text: &str) -> Option<Node> {
    let digits = |text: &str| text.parse::<i128>().ok();
    let shift = match text.chars().last()?.to_ascii_uppercase() {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        'P' => 50,
        'E' => 60,
        _ => return digits(text).and_then(|number| json(number.to_string())),
    };
    let number = digits(&text[..text.len() - 1])?.checked_mul(1 << shift)?;
    json(number.to_string())
}

fn boolean(text: &str) -> Option<Node> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" => json("true".to_owned()),
        "off" | "false" | "no" => json("false".to_owned()),
        _ => None,
    }
}

fn json(text: String) -> Option<Node> {
    RawValue::from_string(text).ok().map(Node::Json)
}

#[cfg(test)]
mod tests {
    use libvirt_qmp::Schema;

    use super::*;

    /// A command of each kind of argument, as `query-qmp-schema` describes it.
    fn schema() -> Schema {
        let text = r#"[
            {"name":"c","meta-type":"command","arg-type":"1","ret-type":"0"},
            {"name":"0","meta-type":"object","members":[]},
            {"name":"str","meta-type":"builtin","json-type":"string"},
            {"name":"int","meta-type":"builtin","json-type":"int"},
            {"name":"bool","meta-type":"builtin","json-type":"boolean"},
            {"name":"null","meta-type":"builtin","json-type":"null"},
            {"name":"2","meta-type":"enum","values":["on","off","1"]},
            {"name":"3","meta-type":"alternate","members":[{"type":"str"},{"type":"4"}]},
            {"name":"4","meta-type":"object","members":[{"name":"driver","type":"5"}],
             "tag":"driver","variants":[{"case":"raw","type":"6"}]},
            {"name":"5","meta-type":"enum","values":["raw","null-co"]},
            {"name":"6","meta-type":"object","members":[{"name":"size","type":"int"},{"name":"file","type":"3"}]},
            {"name":"7","meta-type":"alternate","members":[{"type":"str"},{"type":"null"}]},
            {"name":"8","meta-type":"alternate","members":[{"type":"int"},{"type":"bool"}]},
            {"name":"1","meta-type":"object","members":[
                {"name":"id","type":"str"},{"name":"size","type":"int"},{"name":"force","type":"bool"},
                {"name":"mode","type":"2"},{"name":"file","type":"3"},{"name":"gone","type":"7"},
                {"name":"either","type":"8"},{"name":"node","type":"4"}]}
        ]"#;
        Schema::parse(text.as_bytes()).unwrap()
    }

    fn read(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let schema = schema();
        let object = Object::from_words(&words).unwrap();
        let object = object.typed(schema.command("c").unwrap());
        serde_json::to_string(&object).unwrap()
    }

    #[test]
    fn values_get_the_type_of_their_argument() {
        for (word, json) in [
            ("id=1", r#"{"id":"1"}"#),
            ("id=true", r#"{"id":"true"}"#),
            (r#"id="1""#, r#"{"id":"1"}"#),
            ("id:=1", r#"{"id":1}"#),
            ("size=65536", r#"{"size":65536}"#),
            ("size=64K", r#"{"size":65536}"#),
            ("size=-1m", r#"{"size":-1048576}"#),
            ("size=16E", r#"{"size":18446744073709551616}"#),
            ("size=K", r#"{"size":"K"}"#),
            ("size=1.0", r#"{"size":1.0}"#),
            ("force=on", r#"{"force":true}"#),
            ("force=False", r#"{"force":false}"#),
            ("force=str:on", r#"{"force":"on"}"#),
            ("force=maybe", r#"{"force":"maybe"}"#),
            ("mode=on", r#"{"mode":"on"}"#),
            ("mode=1", r#"{"mode":"1"}"#),
            ("gone=null", r#"{"gone":null}"#),
            ("gone=5", r#"{"gone":"5"}"#),
            ("either=5", r#"{"either":5}"#),
            ("either=off", r#"{"either":false}"#),
            ("more=1", r#"{"more":1}"#),
        ] {
            assert_eq!(read(&[word]), json, "{word}");
        }
    }

    #[test]
    fn dotted_keys_follow_the_branch_of_their_tag() {
        assert_eq!(
            read(&["node.size=1K", "node.driver=raw", "node.file=7"]),
            r#"{"node":{"size":1024,"driver":"raw","file":"7"}}"#
        );
        assert_eq!(
            read(&[
                "file.driver=raw",
                "file.file.driver=raw",
                "file.file.size=1M"
            ]),
            r#"{"file":{"driver":"raw","file":{"driver":"raw","size":1048576}}}"#
        );
        // Without its tag the branch is not known.
        assert_eq!(read(&["node.size=1K"]), r#"{"node":{"size":"1K"}}"#);
        assert_eq!(read(&["file=12"]), r#"{"file":"12"}"#);
        assert_eq!(
            read(&[r#"file={"driver":"raw"}"#]),
            r#"{"file":{"driver":"raw"}}"#
        );
    }
}
