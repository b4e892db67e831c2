//! What can stand at the cursor of a line of QMP, by the schema: commands, arguments, values; and what is still missing.
//! Imports `given`, `place` and `live`'s kinds of names.

use libvirt_qmp::Schema;
use libvirt_qmp::schema::{Builtin, Member, ObjectType, Type, TypeKind};

use super::given::{Given, at, data_of_action, members, object_in};
use super::live::Names;
use super::place::Place;

/// Characters of a type beside the name of an argument.
const SHOWN_TYPE: usize = 24;
/// What the shell itself understands.
const OWN: [&str; 6] = ["exit", "help", "transaction(", "!events", "!fd", "!oob"];

/// Whether the cursor is in the path of `!fd`.
pub(super) fn is_file(text: &str) -> bool {
    Place::new(text).is_some_and(|place| !place.in_transaction && place.done == ["!fd"])
}

/// What can stand in the place of the text from `start` to the cursor.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) start: usize,
    pub(super) candidates: Vec<Candidate>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) text: String,
    /// What is shown of it in a list.
    pub(super) shown: String,
}

impl Candidate {
    /// One that is followed by a blank.
    fn whole(text: &str) -> Self {
        Candidate {
            text: format!("{text} "),
            shown: text.to_owned(),
        }
    }

    /// One that goes on.
    fn part(text: impl Into<String>) -> Self {
        let text = text.into();
        Candidate {
            shown: text.clone(),
            text,
        }
    }
}

/// What may stand at the end of `text`. `names` tells what there is in the running QEMU.
pub(super) fn complete(text: &str, schema: &Schema, names: &dyn Names) -> Completion {
    let Some(place) = Place::new(text) else {
        return Completion::default();
    };
    let candidates = match place.command() {
        Some(("help", [command, arguments @ ..])) if !place.in_transaction => {
            match schema
                .command(command)
                .and_then(|command| object_in(command.argument_type()))
            {
                Some(object) => {
                    return of_arguments(&place, object, &Given::new(command, arguments), names);
                }
                None => Vec::new(),
            }
        }
        Some(("help", [])) if !place.in_transaction => {
            let events = schema.events().map(|event| event.name());
            starting(place.current, commands(schema).chain(events))
        }
        Some(("!events", [])) if !place.in_transaction => {
            let events = schema.events().map(|event| event.name());
            starting(place.current, ["on", "off"].into_iter().chain(events))
        }
        Some((command, arguments)) => match arguments_of(&place, command, schema) {
            Some(object) => {
                let given = Given::new(command, arguments);
                return of_arguments(&place, object, &given, names);
            }
            None => Vec::new(),
        },
        None => of_names(&place, schema),
    };
    Completion {
        start: place.start,
        candidates,
    }
}

fn commands(schema: &Schema) -> impl Iterator<Item = &str> {
    schema.commands().map(|command| command.name())
}

/// Candidates of those names that begin with what is typed.
fn starting<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Vec<Candidate> {
    names
        .filter(|name| name.starts_with(typed))
        .map(Candidate::whole)
        .collect()
}

/// Names of commands, or of actions in a transaction.
fn of_names(place: &Place<'_>, schema: &Schema) -> Vec<Candidate> {
    if place.in_transaction {
        let actions = schema.transaction_actions();
        let names = actions.iter().flat_map(|actions| actions.values());
        return starting(place.current, names.map(|value| value.name()));
    }
    match place.done.first() {
        None => {
            let mut candidates = starting(place.current, commands(schema));
            let own = OWN
                .into_iter()
                .filter(|name| name.starts_with(place.current));
            candidates.extend(own.map(|name| match name.ends_with('(') {
                true => Candidate::part(name),
                false => Candidate::whole(name),
            }));
            // A QEMU that has a command of the same name.
            candidates.dedup_by(|one, other| one.text == other.text);
            candidates
        }
        Some(&"!oob") => {
            let oob = schema.commands().filter(|command| command.is_oob());
            starting(place.current, oob.map(|command| command.name()))
        }
        Some(&"!fd") if place.done.len() == 2 => {
            let takers = ["add-fd", "getfd"].into_iter();
            starting(
                place.current,
                takers.filter(|name| schema.command(name).is_some()),
            )
        }
        Some(_) => Vec::new(),
    }
}

/// The arguments of the command, or the data of the action.
fn arguments_of<'s>(place: &Place<'_>, name: &str, schema: &'s Schema) -> Option<ObjectType<'s>> {
    if !place.in_transaction {
        return object_in(schema.command(name)?.argument_type());
    }
    object_in(data_of_action(name, schema)?)
}

fn of_arguments(
    place: &Place<'_>,
    object: ObjectType<'_>,
    given: &Given<'_>,
    names: &dyn Names,
) -> Completion {
    let (key, value) = match place.current.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (place.current, None),
    };
    let dot = key.rfind('.').map_or(0, |dot| dot + 1);
    let (prefix, name) = key.split_at(dot);
    let Some(object) = at(object, prefix, given) else {
        return Completion::default();
    };
    let members = members(object, prefix, given);
    let Some(value) = value else {
        let mut candidates = of_keys(prefix, name, &members, given);
        if prefix.is_empty() && given.command == "device_add" {
            for property in names.device_properties(given) {
                let is_new =
                    !given.has(&property) && members.iter().all(|member| member.name() != property);
                if property.starts_with(name) && is_new {
                    candidates.push(Candidate {
                        text: format!("{property}="),
                        shown: format!("[{property}]"),
                    });
                }
            }
        }
        return Completion {
            start: place.start,
            candidates,
        };
    };
    let start = place.start + key.len() + 1;
    let member = members.iter().find(|member| member.name() == name);
    let mut values = Vec::new();
    if let Some(member) = member {
        add_values(member.ty(), &mut values);
    }
    let mut candidates = starting(value, values.iter().copied());
    if values.is_empty() || member.is_some_and(|member| may_be_text(member.ty())) {
        let live = names.values(given, name, value);
        candidates.extend(live.into_iter().filter(|name| name.starts_with(value)).map(
            // A path goes on.
            |name| match name.ends_with('/') {
                true => Candidate::part(name),
                false => Candidate::whole(&name),
            },
        ));
    }
    Completion { start, candidates }
}

/// Keys that are not there yet, required ones first.
fn of_keys(prefix: &str, typed: &str, members: &[Member<'_>], given: &Given<'_>) -> Vec<Candidate> {
    let fits = |member: &&Member<'_>| {
        let key = format!("{prefix}{}", member.name());
        let is_open = object_in(member.ty()).is_some() && given.value(&key).is_none();
        member.name().starts_with(typed) && (is_open || !given.has(&key))
    };
    let mut fitting: Vec<&Member<'_>> = members.iter().filter(fits).collect();
    fitting.sort_by_key(|member| member.is_optional());
    fitting
        .into_iter()
        .map(|member| {
            let object = matches!(member.ty().kind(), TypeKind::Object(_));
            let mark = if object { '.' } else { '=' };
            let shown = format!("{prefix}{}", argument(member));
            Candidate {
                text: format!("{prefix}{}{mark}", member.name()),
                shown: match member.is_optional() {
                    true => format!("[{shown}]"),
                    false => shown,
                },
            }
        })
        .collect()
}

/// `NAME=TYPE`, or `NAME.` for an object.
fn argument(member: &Member<'_>) -> String {
    if matches!(member.ty().kind(), TypeKind::Object(_)) {
        return format!("{}.", member.name());
    }
    let ty = match member.ty().kind() {
        TypeKind::Enum(values) => {
            let names: Vec<&str> = values.values().map(|value| value.name()).collect();
            names.join("|")
        }
        _ => member.ty().shown(0).to_string(),
    };
    let mut shown: String = ty.chars().take(SHOWN_TYPE).collect();
    if shown.len() < ty.len() {
        shown.push('…');
    }
    format!("{}={shown}", member.name())
}

/// The words that a value of this type may be.
fn add_values<'s>(ty: Type<'s>, values: &mut Vec<&'s str>) {
    match ty.kind() {
        TypeKind::Enum(all) => values.extend(all.values().map(|value| value.name())),
        TypeKind::Builtin(Builtin::Boolean) => values.extend(["true", "false"]),
        TypeKind::Alternate(types) => {
            for ty in types.types() {
                if !matches!(ty.kind(), TypeKind::Alternate(_)) {
                    add_values(ty, values);
                }
            }
        }
        _ => {}
    }
}

fn may_be_text(ty: Type<'_>) -> bool {
    let is_text = |ty: Type<'_>| matches!(ty.kind(), TypeKind::Builtin(Builtin::String));
    match ty.kind() {
        TypeKind::Alternate(types) => types.types().any(is_text),
        _ => is_text(ty),
    }
}

/// What the command still needs, to be shown behind the cursor: ` id=str`.
pub(super) fn hint(text: &str, schema: &Schema) -> Option<String> {
    let place = Place::new(text)?;
    if place.current.is_empty() {
        let (command, arguments) = place.command()?;
        let object = arguments_of(&place, command, schema)?;
        return missing(object, &Given::new(command, arguments));
    }
    // The cursor is right behind a word, which may be whole.
    let mut done = place.done.clone();
    done.push(place.current);
    let whole = Place {
        done,
        current: "",
        ..place
    };
    let (command, arguments) = whole.command()?;
    if arguments
        .last()
        .is_some_and(|last| !last.contains('=') || last.ends_with('='))
    {
        return None;
    }
    let object = arguments_of(&whole, command, schema)?;
    missing(object, &Given::new(command, arguments)).map(|hint| format!(" {hint}"))
}

fn missing(object: ObjectType<'_>, given: &Given<'_>) -> Option<String> {
    let missing: Vec<String> = members(object, "", given)
        .iter()
        .filter(|member| !member.is_optional() && !given.has(member.name()))
        .map(argument)
        .collect();
    (!missing.is_empty()).then(|| missing.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schema with what matters here: an enum, a boolean, an object, a union, an alternate, and a transaction.
    fn schema() -> Schema {
        let text = r#"[
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
            {"name": "int", "meta-type": "builtin", "json-type": "int"},
            {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
            {"name": "0", "meta-type": "object", "members": []},
            {"name": "add", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
            {"name": "attach", "meta-type": "command", "arg-type": "0", "ret-type": "0", "allow-oob": true},
            {"name": "device_add", "meta-type": "command", "arg-type": "8", "ret-type": "0"},
            {"name": "transaction", "meta-type": "command", "arg-type": "4", "ret-type": "0"},
            {"name": "ADDED", "meta-type": "event", "arg-type": "0"},
            {"name": "1", "meta-type": "object", "tag": "driver", "members": [
                {"name": "read-only", "type": "bool", "default": null},
                {"name": "driver", "type": "2"},
                {"name": "id", "type": "str"}],
             "variants": [{"case": "raw", "type": "3"}, {"case": "null", "type": "7"}]},
            {"name": "2", "meta-type": "enum", "values": ["raw", "null"],
             "members": [{"name": "raw"}, {"name": "null"}]},
            {"name": "3", "meta-type": "object", "members": [{"name": "file", "type": "9"}]},
            {"name": "7", "meta-type": "object", "members": [{"name": "size", "type": "int", "default": null}]},
            {"name": "8", "meta-type": "object", "members": [
                {"name": "driver", "type": "str"}, {"name": "place", "type": "10"}]},
            {"name": "9", "meta-type": "alternate", "members": [{"type": "1"}, {"type": "str"}]},
            {"name": "10", "meta-type": "object", "members": [{"name": "bus", "type": "str"}]},
            {"name": "4", "meta-type": "object", "members": [{"name": "actions", "type": "[5]"}]},
            {"name": "[5]", "meta-type": "array", "element-type": "5"},
            {"name": "5", "meta-type": "object", "tag": "type", "members": [{"name": "type", "type": "6"}],
             "variants": [{"case": "abort", "type": "11"}, {"case": "add-it", "type": "12"}]},
            {"name": "6", "meta-type": "enum", "values": ["abort", "add-it"],
             "members": [{"name": "abort"}, {"name": "add-it"}]},
            {"name": "11", "meta-type": "object", "members": [{"name": "data", "type": "0"}]},
            {"name": "12", "meta-type": "object", "members": [{"name": "data", "type": "8"}]}
        ]"#;
        Schema::parse(text.as_bytes()).unwrap()
    }

    /// A QEMU with one of each.
    struct One;

    impl Names for One {
        fn values(&self, _: &Given<'_>, name: &str, _: &str) -> Vec<String> {
            match name {
                "id" => vec!["disk0".to_owned()],
                "bus" => vec!["pci/".to_owned()],
                _ => Vec::new(),
            }
        }

        fn device_properties(&self, given: &Given<'_>) -> Vec<String> {
            match given.value("driver").as_deref() {
                Some("net") => vec!["driver".to_owned(), "mac".to_owned()],
                _ => Vec::new(),
            }
        }
    }

    fn texts(text: &str) -> (usize, Vec<String>) {
        let completion = complete(text, &schema(), &One);
        let texts = completion.candidates.into_iter().map(|one| one.text);
        (completion.start, texts.collect())
    }

    #[test]
    fn what_can_stand_in_a_place() {
        for (text, start, expected) in [
            ("a", 0, &["add ", "attach "][..]),
            ("  at", 2, &["attach "]),
            ("e", 0, &["exit "]),
            ("!", 0, &["!events ", "!fd ", "!oob "]),
            ("tr", 0, &["transaction ", "transaction("]),
            ("!oob ", 5, &["attach "]),
            ("!fd /tmp/x ", 11, &[]),
            ("help A", 5, &["ADDED "]),
            ("help add driver=n", 16, &["null "]),
            ("!events o", 8, &["on ", "off "]),
            // Required ones first, and what is given not again.
            ("add ", 4, &["driver=", "id=", "read-only="]),
            ("add driver=raw ", 15, &["id=", "file=", "read-only="]),
            ("add driver=null id=x ", 21, &["read-only=", "size="]),
            ("add driver='null' s", 18, &["size="]),
            ("add driver=", 11, &["raw ", "null "]),
            ("add read-only=f", 14, &["false "]),
            ("add id=d", 7, &["disk0 "]),
            // Members of objects, those included that depend on a tag.
            (
                "add driver=raw file.",
                15,
                &["file.driver=", "file.id=", "file.read-only="],
            ),
            (
                "add driver=raw file.driver=raw file.file.dr",
                31,
                &["file.file.driver="],
            ),
            (
                "add driver=raw file.driver=null file.si",
                32,
                &["file.size="],
            ),
            ("device_add p", 11, &["place."]),
            ("device_add driver=net m", 22, &["mac="]),
            ("device_add place.bus=p", 21, &["pci/"]),
            ("transaction(\na", 13, &["abort ", "add-it "]),
            ("transaction( ", 13, &["abort ", "add-it "]),
            ("transaction(\nabort\nadd-it dr", 26, &["driver="]),
            (
                "transaction(\nabort\nadd-it driver=x\n",
                35,
                &["abort ", "add-it "],
            ),
            // Nothing is known of these.
            ("none x", 5, &[]),
            ("add nothing.x", 4, &[]),
            ("attach ", 7, &[]),
        ] {
            let (at, found) = texts(text);
            assert_eq!(found, expected, "{text}");
            assert!(found.is_empty() || at == start, "{text}: {at}");
        }
        for text in ["{\"execute\": \"a", "add id='x", "add file={\"dr"] {
            assert_eq!(texts(text).1, Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn lists_show_types_and_what_may_be_left_out() {
        let completion = complete("add driver=raw ", &schema(), &One);
        let shown: Vec<_> = completion
            .candidates
            .into_iter()
            .map(|one| one.shown)
            .collect();
        assert_eq!(shown, ["id=str", "file={…} | str", "[read-only=bool]"]);
    }

    #[test]
    fn hints_tell_what_is_missing() {
        for (text, expected) in [
            ("add", Some(" driver=raw|null id=str")),
            ("add ", Some("driver=raw|null id=str")),
            ("add driver=null", Some(" id=str")),
            ("add driver=null id=x", None),
            ("add driver=raw id=x ", Some("file={…} | str")),
            ("add driver=raw id=x file.driver=null", None),
            ("add driver", None),
            ("add driver=", None),
            ("ad", None),
            ("attach ", None),
            ("transaction(\nadd-it ", Some("driver=str place.")),
            ("{\"execute\": \"add\"", None),
        ] {
            assert_eq!(hint(text, &schema()).as_deref(), expected, "{text}");
        }
    }
}
