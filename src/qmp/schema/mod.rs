//! What a QEMU understands, as it says itself in its answer to `query-qmp-schema`: commands, arguments, types, events.
//! Pure data. The tables are here, made by `read`, seen through `view`, shown as text by `show`; `check` holds a command
//! against them. Imports `json`, `lex` and `command` of qmp.

mod check;
mod problem;
mod read;
mod show;
mod similar;
mod tape;
mod view;

use std::fmt;
use std::sync::Arc;

use super::Command;

pub use problem::{Caution, SchemaProblem, SchemaProblems, SchemaWarning};
pub use read::SchemaError;
pub use show::Shown;
pub use view::{
    AlternateType, Builtin, CommandInfo, EnumType, EnumValue, EventInfo, Features, Member,
    ObjectType, Type, TypeKind, Variant,
};

/// The commands, events and types of one QEMU, read from its answer to `query-qmp-schema`.
///
/// ```
/// use libvirt_qmp::{Command, Schema};
///
/// let schema = Schema::parse(br#"[
///     {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
///     {"name": "device_del", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
///     {"name": "0", "meta-type": "object", "members": []},
///     {"name": "1", "meta-type": "object", "members": [{"name": "id", "type": "str"}]},
///     {"name": "str", "meta-type": "builtin", "json-type": "string"}
/// ]"#)?;
/// let device_del = schema.command("device_del").expect("it is there");
/// assert_eq!(device_del.to_string(), "device_del { id: str } -> {}");
/// assert!(schema.check(&Command::new("device_del").arg("id", "blk0")).is_ok());
/// let problems = schema.check(&Command::new("device_del").arg("di", "blk0")).unwrap_err();
/// assert_eq!(
///     problems.to_string(),
///     "argument `id` (str) is missing; no argument `di` (did you mean `id`?)",
/// );
/// # Ok::<(), libvirt_qmp::schema::SchemaError>(())
/// ```
///
/// Names of commands, events, members and enum values are QEMU's interface. Names of types are not, but for the built-in
/// ones: they are numbers that change from build to build.
///
/// Cheap to clone: clones share one table.
#[derive(Clone)]
pub struct Schema {
    tables: Arc<Tables>,
}

impl Schema {
    /// Reads the value that `query-qmp-schema` returns, an array, as JSON.
    ///
    /// What cannot be understood is passed over and counted by [`unread`](Schema::unread). A type that is missing or of an
    /// unknown kind is [`TypeKind::Unknown`], which every value fits. Of entries with the same name the first counts.
    ///
    /// # Errors
    ///
    /// Where the text is no JSON array of objects, is longer than 4 MiB, or is nested over 1024 levels deep. QEMU's own
    /// answer has a quarter of a megabyte.
    pub fn parse(json: &[u8]) -> Result<Schema, SchemaError> {
        read::value(json).map(Schema::new)
    }

    /// As [`parse`](Schema::parse), of a whole reply.
    pub(crate) fn from_reply(reply: &[u8]) -> Result<Schema, SchemaError> {
        read::reply(reply).map(Schema::new)
    }

    fn new(tables: Tables) -> Schema {
        Schema {
            tables: Arc::new(tables),
        }
    }

    /// All commands, by name.
    pub fn commands(&self) -> impl ExactSizeIterator<Item = CommandInfo<'_>> {
        let tables = &*self.tables;
        let commands = tables.commands.iter();
        commands.map(move |def| CommandInfo { tables, def })
    }

    /// The command of this name.
    pub fn command(&self, name: &str) -> Option<CommandInfo<'_>> {
        let tables = &*self.tables;
        let found = tables
            .commands
            .binary_search_by(|def| tables.text(def.name).cmp(name));
        let def = tables.commands.get(found.ok()?)?;
        Some(CommandInfo { tables, def })
    }

    /// All events, by name.
    pub fn events(&self) -> impl ExactSizeIterator<Item = EventInfo<'_>> {
        let tables = &*self.tables;
        tables
            .events
            .iter()
            .map(move |def| EventInfo { tables, def })
    }

    /// The event of this name.
    pub fn event(&self, name: &str) -> Option<EventInfo<'_>> {
        let tables = &*self.tables;
        let found = tables
            .events
            .binary_search_by(|def| tables.text(def.name).cmp(name));
        let def = tables.events.get(found.ok()?)?;
        Some(EventInfo { tables, def })
    }

    /// All types, in QEMU's order.
    pub fn types(&self) -> impl Iterator<Item = Type<'_>> {
        let tables = &*self.tables;
        // The first is `UNKNOWN`.
        (1..index(tables.types.len())).map(move |id| Type { tables, id })
    }

    /// How many entries could not be understood as a whole: of an unknown kind, of a shape they should not have, or with a
    /// name that was there before.
    pub fn unread(&self) -> usize {
        self.tables.unread
    }

    /// The names that an action of `transaction` may have, where the schema tells: those of the enum that tells the
    /// elements of its argument `actions` apart.
    pub fn transaction_actions(&self) -> Option<EnumType<'_>> {
        let actions = self.command("transaction")?.argument("actions")?;
        let TypeKind::Array(action) = actions.ty().kind() else {
            return None;
        };
        let TypeKind::Object(action) = action.kind() else {
            return None;
        };
        match action.tag()?.ty().kind() {
            TypeKind::Enum(names) => Some(names),
            _ => None,
        }
    }

    /// Says what QEMU would refuse about a command before it is sent, or else what it warns of: use of what is deprecated
    /// or unstable.
    ///
    /// QEMU knows more than its schema says, so a command that passes may still be refused:
    ///
    /// - The widths of integers are not in the schema. Any integer that fits 64 bits passes, signed or not.
    /// - `device_add` takes the properties of the device, which the schema does not have. Of its arguments only the absence
    ///   of a required one is a problem.
    /// - Whether a device, a node or a file exists, whether the monitor has negotiated `oob`, and the like, is not looked at.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, up to 16 problems.
    pub fn check(&self, command: &Command) -> Result<Vec<SchemaWarning>, SchemaProblems> {
        match command.to_json() {
            Ok(json) => self.check_json(&json),
            Err(error) => Err(SchemaProblem::Malformed(error).into()),
        }
    }

    /// As [`check`](Schema::check), for a command given as JSON, such as [`Monitor::run`](crate::Monitor::run) takes.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Schema::check); a text that is no command is [`SchemaProblem::Malformed`].
    pub fn check_json(&self, command: &[u8]) -> Result<Vec<SchemaWarning>, SchemaProblems> {
        check::check(self, command)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("commands", &self.tables.commands.len())
            .field("events", &self.tables.events.len())
            .field("types", &(self.tables.types.len() - 1))
            .field("unread", &self.tables.unread)
            .finish()
    }
}

/// The commands to which QEMU passes every argument on unlooked at (`'gen': false` in its sources), so that the schema
/// names only some of them. Nothing in the schema tells them apart, hence their names: `device_add` in every version, the
/// others in old ones, where their argument is a plain object; now it is a union and complete.
fn is_free_form(command: &str, has_variants: bool) -> bool {
    match command {
        "device_add" => true,
        "netdev_add" | "object-add" => !has_variants,
        _ => false,
    }
}

/// Everything, in a few flat lists. A [`Span`] is a piece of one of them.
struct Tables {
    /// All names, one after the other.
    text: String,
    types: Vec<TypeDef>,
    members: Vec<MemberDef>,
    values: Vec<ValueDef>,
    variants: Vec<VariantDef>,
    /// The types of alternates.
    branches: Vec<TypeId>,
    features: Vec<Span>,
    /// By name.
    commands: Vec<CommandDef>,
    /// By name.
    events: Vec<EventDef>,
    unread: usize,
}

/// Index in [`Tables::types`].
type TypeId = u32;

/// The type of which nothing is known: the first of the list.
const UNKNOWN: TypeId = 0;

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

struct TypeDef {
    name: Span,
    kind: Kind,
    features: Span,
}

enum Kind {
    Unknown,
    Builtin(Builtin),
    Enum {
        values: Span,
    },
    Array {
        element: TypeId,
    },
    Object {
        members: Span,
        variants: Span,
        /// Index in [`Tables::members`].
        tag: Option<u32>,
    },
    Alternate {
        branches: Span,
    },
}

struct MemberDef {
    name: Span,
    ty: TypeId,
    optional: bool,
    features: Span,
}

struct ValueDef {
    name: Span,
    features: Span,
}

struct VariantDef {
    case: Span,
    ty: TypeId,
}

struct CommandDef {
    name: Span,
    arguments: TypeId,
    returns: TypeId,
    oob: bool,
    free_form: bool,
    features: Span,
}

struct EventDef {
    name: Span,
    data: TypeId,
    features: Span,
}

impl Tables {
    fn text(&self, span: Span) -> &str {
        self.text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }
}

/// A piece of a list.
fn piece<T>(list: &[T], span: Span) -> &[T] {
    list.get(span.start as usize..span.end as usize)
        .unwrap_or_default()
}

/// A length or an index as it is kept. No text is as long as to make a larger one.
fn index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schema made up for the tests, with every kind of entry, in the shapes that QEMU 7.2 writes.
    pub(super) const SAMPLE: &str = r##"[
{"name": "str", "meta-type": "builtin", "json-type": "string"},
{"name": "int", "meta-type": "builtin", "json-type": "int"},
{"name": "number", "meta-type": "builtin", "json-type": "number"},
{"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
{"name": "null", "meta-type": "builtin", "json-type": "null"},
{"name": "any", "meta-type": "builtin", "json-type": "value"},
{"name": "0", "meta-type": "object", "members": []},
{"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
{"name": "hush", "meta-type": "command", "arg-type": "0", "ret-type": "0", "allow-oob": true},
{"name": "device_add", "meta-type": "command", "arg-type": "1", "ret-type": "0", "features": ["json-cli"]},
{"name": "1", "meta-type": "object", "members": [
    {"name": "driver", "type": "str"}, {"name": "bus", "default": null, "type": "str"}]},
{"name": "scalars", "meta-type": "command", "arg-type": "2", "ret-type": "int"},
{"name": "2", "meta-type": "object", "members": [
    {"name": "s", "default": null, "type": "str"}, {"name": "i", "default": null, "type": "int"},
    {"name": "n", "default": null, "type": "number"}, {"name": "b", "default": null, "type": "bool"},
    {"name": "a", "default": null, "type": "any"}, {"name": "z", "default": null, "type": "null"}]},
{"name": "node-add", "meta-type": "command", "arg-type": "3", "ret-type": "0", "features": ["unstable"]},
{"name": "3", "meta-type": "object", "tag": "driver", "members": [
    {"name": "driver", "type": "4"}, {"name": "name", "default": null, "type": "str", "features": ["deprecated"]}],
  "variants": [{"case": "file", "type": "5"}, {"case": "raw", "type": "6"}, {"case": "none", "type": "0"}]},
{"name": "4", "meta-type": "enum", "values": ["file", "raw", "none", "bare"], "members": [
    {"name": "file"}, {"name": "raw"}, {"name": "none", "features": ["deprecated"]}, {"name": "bare"}]},
{"name": "5", "meta-type": "object", "tag": "lock", "members": [
    {"name": "path", "type": "str"}, {"name": "lock", "default": null, "type": "7"}],
  "variants": [{"case": "on", "type": "8"}]},
{"name": "6", "meta-type": "object", "members": [{"name": "below", "type": "9"}]},
{"name": "7", "meta-type": "enum", "values": ["on", "off"]},
{"name": "8", "meta-type": "object", "members": [{"name": "lock-time", "type": "int"}]},
{"name": "9", "meta-type": "alternate", "members": [{"type": "3"}, {"type": "str"}, {"type": "null"}]},
{"name": "nodes-set", "meta-type": "command", "arg-type": "10", "ret-type": "[3]"},
{"name": "10", "meta-type": "object", "members": [
    {"name": "nodes", "type": "[3]"}, {"name": "sizes", "default": null, "type": "11"}]},
{"name": "[3]", "meta-type": "array", "element-type": "3"},
{"name": "[int]", "meta-type": "array", "element-type": "int"},
{"name": "11", "meta-type": "alternate", "members": [{"type": "int"}, {"type": "7"}, {"type": "[int]"}]},
{"name": "NODE_GONE", "meta-type": "event", "arg-type": "12", "features": ["deprecated"]},
{"name": "12", "meta-type": "object", "members": [{"name": "name", "type": "str"}]},
{"name": "STOP", "meta-type": "event", "arg-type": "0"}
]"##;

    pub(super) fn sample() -> Schema {
        let schema = Schema::parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(schema.unread(), 0);
        schema
    }

    #[test]
    fn commands_and_events_are_found_by_name() {
        let schema = sample();
        let commands: Vec<_> = schema.commands().map(CommandInfo::name).collect();
        assert_eq!(
            commands,
            [
                "device_add",
                "hush",
                "node-add",
                "nodes-set",
                "scalars",
                "stop"
            ]
        );
        for name in commands {
            assert_eq!(schema.command(name).unwrap().name(), name);
        }
        let events: Vec<_> = schema.events().map(EventInfo::name).collect();
        assert_eq!(events, ["NODE_GONE", "STOP"]);
        for name in ["", "sto", "stopp", "STOP", "0", "str", "zzz"] {
            assert!(schema.command(name).is_none(), "{name}");
        }
        assert_eq!(schema.event("STOP").unwrap().data().count(), 0);
        let gone = schema.event("NODE_GONE").unwrap();
        assert!(gone.features().is_deprecated());
        assert_eq!(gone.data().map(Member::name).collect::<Vec<_>>(), ["name"]);
        assert!(schema.event("stop").is_none());
    }

    #[test]
    fn types_lead_to_each_other() {
        let schema = sample();
        let add = schema.command("node-add").unwrap();
        assert!(add.features().is_unstable() && !add.is_oob() && !add.is_free_form());
        assert!(schema.command("hush").unwrap().is_oob());
        assert!(schema.command("device_add").unwrap().is_free_form());
        let TypeKind::Object(options) = add.argument_type().kind() else {
            panic!("{:?}", add.argument_type());
        };
        assert_eq!(options.tag().unwrap().name(), "driver");
        assert!(add.argument("name").unwrap().features().is_deprecated());
        assert!(!add.argument("driver").unwrap().is_optional());
        let TypeKind::Enum(drivers) = options.tag().unwrap().ty().kind() else {
            panic!("{:?}", options.tag());
        };
        let names: Vec<_> = drivers.values().map(EnumValue::name).collect();
        assert_eq!(names, ["file", "raw", "none", "bare"]);
        assert!(drivers.value("none").unwrap().features().is_deprecated());
        // Round and round: the type of `below` is the one it is in, among others.
        let TypeKind::Object(raw) = options.variant("raw").unwrap().ty().kind() else {
            panic!("{options:?}");
        };
        let TypeKind::Alternate(below) = raw.member("below").unwrap().ty().kind() else {
            panic!("{raw:?}");
        };
        assert!(below.types().next().unwrap() == add.argument_type());
        // An enum of an old QEMU has its values as strings.
        let TypeKind::Enum(lock) = schema.types().find(|ty| ty.name() == "7").unwrap().kind()
        else {
            panic!("{schema:?}");
        };
        assert_eq!(
            lock.values().map(EnumValue::name).collect::<Vec<_>>(),
            ["on", "off"]
        );
    }

    #[test]
    fn clones_share_and_debug_is_short() {
        let schema = sample();
        let clone = schema.clone();
        assert!(Arc::ptr_eq(&schema.tables, &clone.tables));
        assert_eq!(
            format!("{schema:?}"),
            "Schema { commands: 6, events: 2, types: 21, unread: 0 }"
        );
    }

    #[test]
    fn actions_are_told_only_where_the_schema_does() {
        assert!(sample().transaction_actions().is_none());
        for arguments in [r#""str""#, r#""0""#, r#""missing""#] {
            let text = SAMPLE.replace(
                r#"{"name": "stop", "meta-type": "command", "arg-type": "0""#,
                &format!(
                    r#"{{"name": "transaction", "meta-type": "command", "arg-type": {arguments}"#
                ),
            );
            let schema = Schema::parse(text.as_bytes()).unwrap();
            assert!(schema.command("transaction").is_some());
            assert!(schema.transaction_actions().is_none(), "{arguments}");
        }
    }
}
