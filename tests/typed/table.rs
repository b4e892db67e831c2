//! The table of facts in `fixtures/qmp-facts.txt`: what QEMU's own schema says of the commands and events that have types
//! here, a column for each of two versions. Read and written as text, and made from an answer to `query-qmp-schema`.
//!
//! Also part of the crate's unit tests, which compare the types with it. Imports std and serde_json.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde_json::Value;

/// The versions of the columns, `major.minor`.
pub(crate) const VERSIONS: [&str; 2] = ["7.2", "10.0"];

/// What there is not in a version.
pub(crate) const ABSENT: &str = "-";

/// Unions with more kinds of content than this are left to those who use them: a type here has only what all have.
const MOST_VARIANTS: usize = 8;
/// Enums with more values than this are strings to the types here.
const MOST_VALUES: usize = 20;

/// A member, or an array's element (`[]`), or an enum's value (`=value`), or a whole command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// For each version: `-`, or the kind with a `?` after it where the member may be missing.
    pub(crate) kinds: [String; 2],
    pub(crate) children: BTreeMap<String, Node>,
}

/// Something that is in neither version yet.
impl Default for Node {
    fn default() -> Self {
        Node {
            kinds: [ABSENT.to_owned(), ABSENT.to_owned()],
            children: BTreeMap::new(),
        }
    }
}

impl Node {
    /// Forgets one column, here and below.
    fn clear(&mut self, column: usize) {
        self.kinds[column] = ABSENT.to_owned();
        for child in self.children.values_mut() {
            child.clear(column);
        }
    }

    /// Takes one column of what is below from `facts`.
    fn fill(&mut self, column: usize, facts: Facts) {
        self.kinds[column] = facts.kind;
        for (name, facts) in facts.children {
            self.children.entry(name).or_default().fill(column, facts);
        }
    }

    /// Forgets what neither version has, below.
    fn prune(&mut self) {
        self.children
            .retain(|_, child| child.kinds != [ABSENT, ABSENT]);
        self.children.values_mut().for_each(Node::prune);
    }
}

/// The whole table: by `command NAME` and `event NAME`.
pub(crate) type Table = BTreeMap<String, Node>;

/// Reads the table: two blanks of indentation for each level.
pub(crate) fn parse(text: &str) -> Table {
    let mut root = Node::default();
    let mut path: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            continue;
        }
        let depth = (line.len() - line.trim_start().len()) / 2;
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let kinds = words.split_off(words.len() - 2);
        path.truncate(depth);
        path.push(words.join(" "));
        let mut node = &mut root;
        for name in &path {
            node = node.children.entry(name.clone()).or_default();
        }
        node.kinds = [kinds[0].to_owned(), kinds[1].to_owned()];
    }
    root.children
}

/// Writes the table as [`parse`] reads it.
pub(crate) fn render(table: &Table) -> String {
    fn node(out: &mut String, name: &str, it: &Node, depth: usize) {
        let indented = format!("{:1$}{name}", "", depth * 2);
        writeln!(out, "{indented:<36} {:<7} {}", it.kinds[0], it.kinds[1]).unwrap();
        for (name, child) in &it.children {
            node(out, name, child, depth + 1);
        }
    }
    let mut out = format!("# {:<34} {:<7} {}\n", "QEMU", VERSIONS[0], VERSIONS[1]);
    for (name, child) in table {
        out.push('\n');
        node(&mut out, name, child, 0);
    }
    out
}

/// Makes one column anew, for the commands and events that are in the table.
pub(crate) fn refresh(table: &mut Table, column: usize, schema: &[Value]) {
    let schema = Schema::new(schema);
    for (name, node) in table {
        node.clear(column);
        if let Some(facts) = schema.facts(name) {
            node.fill(column, facts);
        }
        node.prune();
    }
}

/// One column of a [`Node`].
#[derive(Default)]
struct Facts {
    kind: String,
    children: BTreeMap<String, Facts>,
}

impl Facts {
    fn leaf(kind: impl Into<String>) -> Self {
        Facts {
            kind: kind.into(),
            children: BTreeMap::new(),
        }
    }
}

struct Schema<'a> {
    entities: HashMap<&'a str, &'a Value>,
}

impl<'a> Schema<'a> {
    fn new(schema: &'a [Value]) -> Self {
        let named = |entity: &'a Value| (entity["name"].as_str().unwrap(), entity);
        Schema {
            entities: schema.iter().map(named).collect(),
        }
    }

    /// What there is to say of `command NAME` or `event NAME`, if there is such a thing.
    fn facts(&self, what: &str) -> Option<Facts> {
        let (kind, name) = what.split_once(' ').unwrap();
        let entity = self.entities.get(name)?;
        assert_eq!(entity["meta-type"], kind);
        let mut facts = Facts::leaf("+");
        for (name, member) in [("in", "arg-type"), ("out", "ret-type")] {
            if let Some(of) = entity[member].as_str() {
                facts
                    .children
                    .insert(name.to_owned(), self.of_type(of, &mut Vec::new()));
            }
        }
        Some(facts)
    }

    fn of_type(&self, name: &'a str, path: &mut Vec<&'a str>) -> Facts {
        let entity = self.entities[name];
        match entity["meta-type"].as_str().unwrap() {
            "builtin" => Facts::leaf(name),
            "enum" => {
                let mut facts = Facts::leaf("enum");
                let values = entity["members"].as_array().unwrap();
                if values.len() <= MOST_VALUES {
                    for value in values {
                        let value = format!("={}", value["name"].as_str().unwrap());
                        facts.children.insert(value, Facts::leaf("+"));
                    }
                }
                facts
            }
            "array" => {
                let element = self.of_type(entity["element-type"].as_str().unwrap(), path);
                Facts {
                    kind: "array".to_owned(),
                    children: [("[]".to_owned(), element)].into(),
                }
            }
            "object" if path.contains(&name) => Facts::leaf("object"),
            "object" => {
                path.push(name);
                let facts = self.of_object(entity, path);
                path.pop();
                facts
            }
            other => Facts::leaf(other),
        }
    }

    /// An object with its members; those that not all variants of a union have may be missing, and one on
    /// whose kind variants disagree is `any`.
    fn of_object(&self, entity: &'a Value, path: &mut Vec<&'a str>) -> Facts {
        let mut facts = Facts::leaf("object");
        for member in entity["members"].as_array().unwrap() {
            let mut of = self.of_type(member["type"].as_str().unwrap(), path);
            if member.get("default").is_some() {
                of.kind.push('?');
            }
            let name = member["name"].as_str().unwrap().to_owned();
            facts.children.insert(name, of);
        }
        let cases = entity["variants"].as_array().map_or(0, Vec::len);
        let variants: Vec<Facts> = entity["variants"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|variant| self.of_type(variant["type"].as_str().unwrap(), path))
            .filter(|variant| !variant.children.is_empty())
            .collect();
        if variants.len() > MOST_VARIANTS {
            return facts;
        }
        let mut members: BTreeMap<String, Vec<Facts>> = BTreeMap::new();
        for (name, member) in variants.into_iter().flat_map(|variant| variant.children) {
            members.entry(name).or_default().push(member);
        }
        for (name, mut same) in members {
            let always = same.len() == cases && same.iter().all(|one| !one.kind.ends_with('?'));
            for one in &mut same {
                one.kind.truncate(one.kind.trim_end_matches('?').len());
            }
            let alike = same.iter().all(|one| one.kind == same[0].kind);
            let mut member = if alike && (same.len() == 1 || same[0].kind != "object") {
                same.swap_remove(0)
            } else {
                Facts::leaf("any")
            };
            member.kind.push_str(if always { "" } else { "?" });
            facts.children.insert(name, member);
        }
        facts
    }
}
