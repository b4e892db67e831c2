//! Holds a command against a schema, by the rules of QEMU's own parser of arguments (`qobject-input-visitor`): no recursion,
//! and an end after a bounded number of problems. Imports `tape`, `view`, `similar`, `problem`, and `RawCommand` of qmp.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::Schema;
use super::problem::{Caution, SchemaProblem, SchemaProblems, SchemaWarning};
use super::similar::similar;
use super::tape::{Json, NodeId, Tape, shorten};
use super::view::{
    AlternateType, Builtin, CommandInfo, EnumType, Features, Member, ObjectType, Type, TypeKind,
};
use crate::qmp::command::RawCommand;

/// Problems, and warnings, that are reported.
const MAX_REPORTED: usize = 16;
/// Types that one object's members may come from: its own, that of its tag's value, that of the tag in there, and so on.
/// QEMU 10 has up to three.
const MAX_PARTS: usize = 16;

/// The members of a command.
const MEMBERS: [&str; 4] = ["execute", "exec-oob", "arguments", "id"];

pub(super) fn check(schema: &Schema, text: &[u8]) -> Result<Vec<SchemaWarning>, SchemaProblems> {
    let command = RawCommand::parse(text).map_err(SchemaProblem::Malformed)?;
    let name = command.name();
    let Some(info) = schema.command(&name) else {
        return Err(SchemaProblem::UnknownCommand {
            command: shorten(&name),
            similar: similar(&name, schema.commands().map(CommandInfo::name)),
        }
        .into());
    };
    let tape = Tape::new(text);
    let arguments = tape.member(Tape::ROOT, "arguments");
    let mut checker = Checker {
        tape,
        root: arguments.unwrap_or(Tape::ROOT),
        problems: Vec::new(),
        warnings: Vec::new(),
        work: Vec::new(),
    };
    checker.names_are_there_once();
    // QEMU has not parsed it, and what it would have found is anybody's guess.
    if checker.problems.is_empty() {
        if command.is_oob() && !info.is_oob() {
            checker.report(SchemaProblem::NotOutOfBand {
                command: info.name().to_owned(),
            });
        }
        checker.whole(info, arguments);
    }
    match SchemaProblems::new(checker.problems) {
        Some(problems) => Err(problems),
        None => Ok(checker.warnings),
    }
}

struct Checker<'s, 't> {
    tape: Tape<'t>,
    /// The arguments, from which paths are counted.
    root: NodeId,
    problems: Vec<SchemaProblem>,
    warnings: Vec<SchemaWarning>,
    /// Values still to be looked at, each with its type; the next one last.
    work: Vec<(NodeId, Type<'s>)>,
}

/// What the value of an object's tag says about its further members.
enum Branch<'s> {
    /// There are none.
    End,
    /// They are these.
    Members(ObjectType<'s>),
    /// It cannot be known.
    Open,
}

impl<'s> Checker<'s, '_> {
    fn report(&mut self, problem: SchemaProblem) {
        if self.problems.len() < MAX_REPORTED {
            self.problems.push(problem);
        }
    }

    fn path(&self, id: NodeId) -> String {
        self.tape.path(id, self.root)
    }

    /// Two members of one name in any object, known to the schema or not, are an error of syntax to QEMU.
    fn names_are_there_once(&mut self) {
        let mut names: Vec<(Cow<'_, str>, NodeId)> = Vec::new();
        let mut repeated = Vec::new();
        for object in self.tape.objects() {
            names.clear();
            let members = self.tape.children(object);
            names.extend(members.map(|id| (self.tape.name(id), id)));
            names.sort_unstable();
            let second = names.windows(2).filter(|pair| pair[0].0 == pair[1].0);
            repeated.extend(second.map(|pair| pair[1].1));
            if repeated.len() >= MAX_REPORTED {
                break;
            }
        }
        for id in repeated.into_iter().take(MAX_REPORTED) {
            let path = self.tape.path(id, Tape::ROOT);
            self.report(SchemaProblem::Repeated { path });
        }
    }

    /// The command's own members, then its arguments.
    fn whole(&mut self, info: CommandInfo<'s>, arguments: Option<NodeId>) {
        for id in self.tape.children(Tape::ROOT).collect::<Vec<_>>() {
            let name = self.tape.name(id);
            if !MEMBERS.contains(&&*name) {
                let member = shorten(&name);
                self.report(SchemaProblem::UnknownMember { member });
            }
        }
        self.warn(None, None, info.features());
        let Some(arguments) = arguments else {
            return self.missing_all(info);
        };
        if self.tape.kind(arguments) != Json::Object {
            let expected = info.argument_type().shown(0).to_string();
            return self.wrong_type(arguments, "arguments".to_owned(), expected);
        }
        if info.is_free_form() {
            return self.free_form(info, arguments);
        }
        self.work.push((arguments, info.argument_type()));
        while self.problems.len() < MAX_REPORTED
            && let Some((id, ty)) = self.work.pop()
        {
            self.value(id, ty);
        }
    }

    /// Every argument that is required, where there are none at all.
    fn missing_all(&mut self, info: CommandInfo<'s>) {
        for member in info.arguments().filter(|member| !member.is_optional()) {
            self.missing(String::new(), member);
        }
    }

    /// QEMU makes text of whatever the arguments are, and drops `null`.
    fn free_form(&mut self, info: CommandInfo<'s>, arguments: NodeId) {
        for member in info.arguments() {
            match self.tape.member(arguments, member.name()) {
                Some(id) if self.tape.kind(id) != Json::Null => {
                    self.warn(Some(id), None, member.features());
                }
                _ if member.is_optional() => {}
                _ => self.missing(String::new(), member),
            }
        }
    }

    fn value(&mut self, id: NodeId, ty: Type<'s>) {
        let found = self.tape.kind(id);
        let fits = match ty.kind() {
            TypeKind::Unknown => true,
            TypeKind::Builtin(builtin) => fits(builtin, found),
            TypeKind::Enum(values) if found == Json::String => return self.one_of(id, values),
            TypeKind::Array(element) if found == Json::Array => {
                let start = self.work.len();
                self.work
                    .extend(self.tape.children(id).map(|id| (id, element)));
                return self.work[start..].reverse();
            }
            TypeKind::Object(object) if found == Json::Object => return self.object(id, object),
            TypeKind::Alternate(types) => return self.alternate(id, ty, types),
            _ => false,
        };
        if !fits {
            self.wrong_type(id, self.path(id), ty.shown(0).to_string());
        }
    }

    fn wrong_type(&mut self, id: NodeId, path: String, expected: String) {
        let found = self.tape.kind(id).as_str();
        self.report(SchemaProblem::WrongType {
            path,
            expected,
            found,
        });
    }

    fn one_of(&mut self, id: NodeId, values: EnumType<'s>) {
        let text = self.tape.string(id).unwrap_or_default();
        if let Some(value) = values.value(&text) {
            return self.warn(Some(id), Some(value.name()), value.features());
        }
        let names = values.values().map(|value| value.name());
        let similar = similar(&text, names);
        self.report(SchemaProblem::UnknownValue {
            path: self.path(id),
            value: shorten(&text),
            similar,
            accepted: values.some(),
        });
    }

    /// The type of an alternate is chosen by what the value is in JSON, before anything else is looked at.
    fn alternate(&mut self, id: NodeId, ty: Type<'s>, types: AlternateType<'s>) {
        let found = self.tape.kind(id);
        let chosen = types.types().find(|branch| match branch.kind() {
            // QEMU knows numbers and has at most one type for them.
            TypeKind::Builtin(Builtin::Int | Builtin::Number) => {
                matches!(found, Json::Integer | Json::Number)
            }
            TypeKind::Builtin(builtin) => fits(builtin, found),
            TypeKind::Enum(_) => found == Json::String,
            TypeKind::Array(_) => found == Json::Array,
            TypeKind::Object(_) => found == Json::Object,
            // No alternate is inside of another.
            TypeKind::Alternate(_) | TypeKind::Unknown => true,
        });
        match chosen {
            Some(branch) if matches!(branch.kind(), TypeKind::Alternate(_)) => {}
            Some(branch) => self.work.push((id, branch)),
            None => self.wrong_type(id, self.path(id), ty.shown(0).to_string()),
        }
    }

    fn object(&mut self, id: NodeId, object: ObjectType<'s>) {
        let (known, is_open) = self.members_of(id, object);
        // By name: both may be many thousands, and the schema is the peer's.
        let given: HashMap<Cow<'_, str>, NodeId> = self
            .tape
            .children(id)
            .map(|child| (self.tape.name(child), child))
            .collect();
        let start = self.work.len();
        for member in &known {
            match given.get(member.name()).copied() {
                Some(value) => {
                    self.warn(Some(value), None, member.features());
                    self.work.push((value, member.ty()));
                }
                None if member.is_optional() => {}
                None => self.missing(self.path(id), *member),
            }
        }
        self.work[start..].reverse();
        if is_open {
            return;
        }
        let names: HashSet<&str> = known.iter().map(|member| member.name()).collect();
        let mut unknown = Vec::new();
        for value in self.tape.children(id) {
            let name = self.tape.name(value);
            if !names.contains(&*name) {
                unknown.push((value, name));
                if unknown.len() == MAX_REPORTED {
                    break;
                }
            }
        }
        for (value, name) in unknown {
            let similar = similar(&name, known.iter().map(|member| member.name()));
            self.report(SchemaProblem::UnknownArgument {
                path: self.path(value),
                similar,
            });
        }
    }

    /// The members that the object `id` may have, given the values of its tags, and whether it may have others too.
    fn members_of(&self, id: NodeId, object: ObjectType<'s>) -> (Vec<Member<'s>>, bool) {
        let mut known: Vec<Member<'s>> = Vec::new();
        let mut object = object;
        for _ in 0..MAX_PARTS {
            known.extend(object.members());
            match self.branch(id, object) {
                Branch::End => return (known, false),
                Branch::Members(more) => object = more,
                Branch::Open => break,
            }
        }
        (known, true)
    }

    fn branch(&self, id: NodeId, object: ObjectType<'s>) -> Branch<'s> {
        if object.variants().len() == 0 {
            return Branch::End;
        }
        let Some(tag) = object.tag() else {
            return Branch::Open;
        };
        let Some(value) = self.tape.member(id, tag.name()) else {
            // That it is missing is enough of a problem.
            return if tag.is_optional() {
                Branch::End
            } else {
                Branch::Open
            };
        };
        let Some(case) = self.tape.string(value) else {
            return Branch::Open;
        };
        if let Some(variant) = object.variant(&case) {
            return match variant.ty().kind() {
                TypeKind::Object(more) => Branch::Members(more),
                _ => Branch::Open,
            };
        }
        match tag.ty().kind() {
            TypeKind::Enum(values) if values.value(&case).is_some() => Branch::End,
            _ => Branch::Open,
        }
    }

    fn missing(&mut self, around: String, member: Member<'s>) {
        let dot = if around.is_empty() { "" } else { "." };
        self.report(SchemaProblem::MissingArgument {
            path: format!("{around}{dot}{}", shorten(member.name())),
            expected: member.ty().shown(0).to_string(),
        });
    }

    fn warn(&mut self, argument: Option<NodeId>, value: Option<&str>, features: Features<'s>) {
        for (caution, is_so) in [
            (Caution::Deprecated, features.is_deprecated()),
            (Caution::Unstable, features.is_unstable()),
        ] {
            if is_so && self.warnings.len() < MAX_REPORTED {
                self.warnings.push(SchemaWarning {
                    argument: argument.map(|id| self.path(id)),
                    value: value.map(str::to_owned),
                    caution,
                });
            }
        }
    }
}

fn fits(builtin: Builtin, found: Json) -> bool {
    match builtin {
        Builtin::Value => true,
        Builtin::String => found == Json::String,
        Builtin::Int => found == Json::Integer,
        Builtin::Number => matches!(found, Json::Integer | Json::Number),
        Builtin::Boolean => found == Json::Boolean,
        Builtin::Null => found == Json::Null,
        Builtin::Object => found == Json::Object,
        Builtin::Array => found == Json::Array,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use crate::qmp::Command;
    use proptest::prelude::*;
    use serde_json::json;

    /// The problems of a command with these arguments, as text.
    fn problems(command: &str, arguments: &str) -> String {
        let text = format!(r#"{{"execute":"{command}","arguments":{arguments}}}"#);
        match sample().check_json(text.as_bytes()) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn arguments_of_every_kind() {
        for (command, arguments, expected) in [
            ("stop", "{}", ""),
            ("stop", r#"{"x":1}"#, "no argument `x`"),
            ("stop", "[]", "argument `arguments` is an array, not {}"),
            ("stop", "null", "argument `arguments` is null, not {}"),
            // P6: what is an integer and what is a number.
            (
                "scalars",
                r#"{"i":1,"n":1,"s":"1","b":true,"z":null,"a":[{"x":1}]}"#,
                "",
            ),
            ("scalars", r#"{"i":-9223372036854775808}"#, ""),
            ("scalars", r#"{"i":18446744073709551615}"#, ""),
            (
                "scalars",
                r#"{"i":1.0}"#,
                "argument `i` is a number that is no integer, not int",
            ),
            (
                "scalars",
                r#"{"i":1e3}"#,
                "argument `i` is a number that is no integer, not int",
            ),
            (
                "scalars",
                r#"{"i":"1"}"#,
                "argument `i` is a string, not int",
            ),
            ("scalars", r#"{"n":1.5e300}"#, ""),
            (
                "scalars",
                r#"{"n":"1"}"#,
                "argument `n` is a string, not number",
            ),
            (
                "scalars",
                r#"{"s":1}"#,
                "argument `s` is an integer, not str",
            ),
            // An optional argument is left out, not null.
            ("scalars", r#"{"s":null}"#, "argument `s` is null, not str"),
            (
                "scalars",
                r#"{"b":0}"#,
                "argument `b` is an integer, not bool",
            ),
            (
                "scalars",
                r#"{"z":false}"#,
                "argument `z` is a boolean, not null",
            ),
            ("scalars", r#"{"a":null}"#, ""),
            ("scalars", r#"{"\u0073":"x"}"#, ""),
            // The tag and what follows from it.
            ("node-add", r#"{"driver":"file","path":"/x"}"#, ""),
            (
                "node-add",
                r#"{"path":"/x","driver":"file","lock":"off"}"#,
                "",
            ),
            (
                "node-add",
                r#"{"driver":"file"}"#,
                "argument `path` (str) is missing",
            ),
            (
                "node-add",
                r#"{"driver":"none","path":"/x"}"#,
                "no argument `path`",
            ),
            (
                "node-add",
                r#"{"driver":"bare","path":"/x"}"#,
                "no argument `path`",
            ),
            ("node-add", r#"{"driver":"bare"}"#, ""),
            (
                "node-add",
                "{}",
                "argument `driver` ('file' | 'raw' | 'none' | 'bare') is missing",
            ),
            (
                "node-add",
                r#"{"driver":1,"x":1}"#,
                "argument `driver` is an integer, not 'file' | 'raw' | 'none' | 'bare'",
            ),
            (
                "node-add",
                r#"{"driver":"fiel","path":1}"#,
                "argument `driver` cannot be `fiel`, only 'file' | 'raw' | 'none' | 'bare' (did you mean `file`?)",
            ),
            // A tag in the members of a tag.
            (
                "node-add",
                r#"{"driver":"file","path":"/x","lock":"on","lock-time":1}"#,
                "",
            ),
            (
                "node-add",
                r#"{"driver":"file","path":"/x","lock":"on"}"#,
                "argument `lock-time` (int) is missing",
            ),
            (
                "node-add",
                r#"{"driver":"file","path":"/x","lock-time":1}"#,
                "no argument `lock-time`",
            ),
            // Alternates, and objects in objects.
            ("node-add", r#"{"driver":"raw","below":"b"}"#, ""),
            ("node-add", r#"{"driver":"raw","below":null}"#, ""),
            (
                "node-add",
                r#"{"driver":"raw","below":{"driver":"raw","below":{"driver":"none"}}}"#,
                "",
            ),
            (
                "node-add",
                r#"{"driver":"raw","below":1}"#,
                "argument `below` is an integer, not {…} | str | null",
            ),
            (
                "node-add",
                r#"{"driver":"raw","below":{"driver":"raw","below":{"driver":"file","pth":"x"}}}"#,
                "argument `below.below.path` (str) is missing; no argument `below.below.pth` (did you mean `path`?)",
            ),
            ("nodes-set", r#"{"nodes":[]}"#, ""),
            (
                "nodes-set",
                r#"{"nodes":{}}"#,
                "argument `nodes` is an object, not [{…}]",
            ),
            (
                "nodes-set",
                r#"{"nodes":[{"driver":"none"},[],{"driver":"raw","below":[]}],"size":1}"#,
                "no argument `size` (did you mean `sizes`?); argument `nodes[1]` is an array, not {…}; argument `nodes[2].below` is an array, not {…} | str | null",
            ),
            ("nodes-set", r#"{"nodes":[],"sizes":1}"#, ""),
            ("nodes-set", r#"{"nodes":[],"sizes":[1,2]}"#, ""),
            ("nodes-set", r#"{"nodes":[],"sizes":"on"}"#, ""),
            (
                "nodes-set",
                r#"{"nodes":[],"sizes":"onn"}"#,
                "argument `sizes` cannot be `onn`, only 'on' | 'off' (did you mean `on`?)",
            ),
            (
                "nodes-set",
                r#"{"nodes":[],"sizes":1.5}"#,
                "argument `sizes` is a number that is no integer, not int",
            ),
            (
                "nodes-set",
                r#"{"nodes":[],"sizes":[1,"2"]}"#,
                "argument `sizes[1]` is a string, not int",
            ),
            // What the schema does not tell of device_add is not looked at.
            ("device_add", r#"{"driver":"x","anything":{"a":[1.5]}}"#, ""),
            ("device_add", r#"{"driver":7,"bus":true}"#, ""),
            (
                "device_add",
                r#"{"bus":"x"}"#,
                "argument `driver` (str) is missing",
            ),
            (
                "device_add",
                r#"{"driver":null}"#,
                "argument `driver` (str) is missing",
            ),
        ] {
            assert_eq!(
                problems(command, arguments),
                expected,
                "{command} {arguments}"
            );
        }
    }

    #[test]
    fn whole_commands() {
        for (text, expected) in [
            (r#"{"execute":"stop"}"#, ""),
            (" {\n \"exec-oob\" : \"hush\", \"id\" : {\"a\":[1]} } ", ""),
            (
                r#"{"exec-oob":"stop"}"#,
                "command `stop` cannot be executed out of band",
            ),
            (
                r#"{"execute":"stpo"}"#,
                "no command `stpo` (did you mean `stop`?)",
            ),
            (r#"{"execute":"add"}"#, "no command `add`"),
            (
                r#"{"execute":"node"}"#,
                "no command `node` (did you mean `node-add` or `nodes-set`?)",
            ),
            (
                r#"{"execute":"device_add"}"#,
                "argument `driver` (str) is missing",
            ),
            (
                r#"{"execute":"nodes-set"}"#,
                "argument `nodes` ([{…}]) is missing",
            ),
            (
                r#"{"execute":"stop","argument":{}}"#,
                "no command has a member `argument`",
            ),
            (
                r#"{"execute":"stop","id":{"a":1,"b":{},"a":1}}"#,
                "member `id.a` is there more than once",
            ),
            (
                r#"{"execute":"scalars","arguments":{"a":[{"x":1,"\u0078":2}],"nope":1}}"#,
                "member `arguments.a[0].x` is there more than once",
            ),
            (
                "[]",
                "command is not a JSON object: expected an object at byte 0",
            ),
            (
                r#"{"execute":"stop","execute":"stop"}"#,
                "command has more than one member `execute`",
            ),
            ("{}", "command has no member `execute`"),
        ] {
            let shown = match sample().check_json(text.as_bytes()) {
                Ok(_) => String::new(),
                Err(problems) => problems.to_string(),
            };
            assert_eq!(shown, expected, "{text}");
        }
    }

    #[test]
    fn built_commands() {
        let schema = sample();
        let good = Command::new("node-add")
            .arg("driver", "file")
            .arg("path", "/x");
        assert!(schema.check(&good).is_ok());
        let problems = schema.check(&good.clone().oob()).unwrap_err();
        assert!(matches!(
            problems.iter().collect::<Vec<_>>()[..],
            [SchemaProblem::NotOutOfBand { command }] if command == "node-add"
        ));
        let bad = Command::new("node-add").args([1]);
        let problems = schema.check(&bad).unwrap_err();
        assert!(matches!(
            problems.iter().next(),
            Some(SchemaProblem::Malformed(_))
        ));
        let both = Command::new("nodes-set").arg(
            "nodes",
            json!([{"driver": "none"}, {"driver": "file", "path": 1.0}]),
        );
        let problems = schema.check(&both).unwrap_err();
        assert!(matches!(
            problems.into_iter().next(),
            Some(SchemaProblem::WrongType { path, expected, found: "a number that is no integer" })
                if path == "nodes[1].path" && expected == "str"
        ));
    }

    #[test]
    fn what_is_deprecated_or_unstable_is_a_warning() {
        let schema = sample();
        let command = Command::new("nodes-set").arg(
            "nodes",
            json!([{"driver": "bare"}, {"driver": "none", "name": "x"}]),
        );
        let warnings = schema.check(&command).unwrap();
        let shown: Vec<String> = warnings.iter().map(|warning| warning.to_string()).collect();
        assert_eq!(
            shown,
            [
                "argument `nodes[1].name` is deprecated",
                "value `none` of argument `nodes[1].driver` is deprecated",
            ]
        );
        let warnings = schema
            .check(&Command::new("node-add").arg("driver", "bare"))
            .unwrap();
        assert_eq!(
            warnings,
            [SchemaWarning {
                argument: None,
                value: None,
                caution: Caution::Unstable,
            }]
        );
        assert_eq!(warnings[0].to_string(), "the command is unstable");
        assert!(schema.check(&Command::new("stop")).unwrap().is_empty());
    }

    #[test]
    fn reports_are_bounded() {
        let members: Vec<String> = (0..5000).map(|n| format!(r#""x{n}":1"#)).collect();
        let problems = sample()
            .check_json(
                format!(
                    r#"{{"execute":"stop","arguments":{{{}}}}}"#,
                    members.join(",")
                )
                .as_bytes(),
            )
            .unwrap_err();
        assert_eq!(problems.iter().count(), MAX_REPORTED);
        let many = vec![r#"{"driver":"none","name":"x"}"#; 5000].join(",");
        let text = format!(r#"{{"execute":"nodes-set","arguments":{{"nodes":[{many}]}}}}"#);
        assert_eq!(
            sample().check_json(text.as_bytes()).unwrap().len(),
            MAX_REPORTED
        );
        let long = format!(r#"{{"execute":"{}"}}"#, "x".repeat(1 << 20));
        let problems = sample().check_json(long.as_bytes()).unwrap_err();
        assert!(problems.to_string().len() < 200);
    }

    /// Each of the arguments looked for among all of the others would take minutes.
    #[test]
    fn many_members_and_arguments_are_no_trouble() {
        const MANY: usize = 40_000;
        let members: Vec<_> = (0..MANY)
            .map(|n| format!(r#"{{"name":"m{n}","type":"int"}}"#))
            .collect();
        let schema = format!(
            r#"[{{"name":"int","meta-type":"builtin","json-type":"int"}},
                {{"name":"many","meta-type":"object","members":[{}]}},
                {{"name":"x","meta-type":"command","arg-type":"many","ret-type":"many"}}]"#,
            members.join(",")
        );
        let schema = Schema::parse(schema.as_bytes()).unwrap();
        let arguments: Vec<_> = (0..MANY).rev().map(|n| format!(r#""m{n}":1"#)).collect();
        let command = |last: &str| {
            let arguments = arguments.join(",");
            format!(r#"{{"execute":"x","arguments":{{{arguments}{last}}}}}"#)
        };
        let begun = std::time::Instant::now();
        assert!(check(&schema, command("").as_bytes()).is_ok());
        let problems = check(&schema, command(r#","n":1"#).as_bytes()).unwrap_err();
        assert_eq!(problems.iter().count(), 1);
        assert!(begun.elapsed() < std::time::Duration::from_secs(30));
    }

    #[test]
    fn depth_is_no_trouble() {
        let (open, close) = (r#"{"driver":"raw","below":"#, "}");
        let nested = format!("{}null{}", open.repeat(1000), close.repeat(1000));
        assert_eq!(problems("node-add", &nested), "");
        let nested = format!("{}1{}", open.repeat(1000), close.repeat(1000));
        assert!(problems("node-add", &nested).starts_with("argument `below.below."));
        let nested = format!("{}null{}", open.repeat(2000), close.repeat(2000));
        assert!(problems("node-add", &nested).contains("levels of nesting"));
    }

    fn word() -> impl Strategy<Value = String> {
        let words = [
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"driver\"",
            "\"raw\"",
            "\"file\"",
            "\"below\"",
            "\"nodes\"",
            "1",
            "1.5",
            "null",
            "\"on\"",
            "\"sizes\"",
            "\"x\"",
        ];
        prop::sample::select(words.to_vec()).prop_map(str::to_owned)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_text_is_refused_or_checked(words in prop::collection::vec(word(), 0..30)) {
            for command in ["nodes-set", "node-add", "scalars"] {
                let _ = problems(command, &words.concat());
            }
        }
    }
}
