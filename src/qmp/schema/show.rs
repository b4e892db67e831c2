//! Commands, events and types as short texts for people. The shape is
//!
//! ```text
//! str  int  any        a built-in type          [str]           an array
//! 'on' | 'off'         an enum                  str | null      an alternate
//! { id: str, force?: bool }                     an object; `?` marks what may be left out
//! { type: 'a' | 'b', ..type }                   further members depend on the member `type`
//! {…}                  an object, not shown     ?               unknown
//! ```
//!
//! Imports `view`.

use std::fmt;

use super::view::{
    AlternateType, CommandInfo, EnumType, EventInfo, Features, Member, ObjectType, Type, TypeKind,
    Variant,
};

/// Objects, arrays and alternates inside each other. A type may contain itself.
const MAX_LEVELS: usize = 8;
/// Bytes of one text. Types branch, so a few levels of them may be very many.
const MAX_TEXT: usize = 64 << 10;
/// Values of an enum that are shown where it is not shown for its own sake.
const SOME_VALUES: usize = 6;

/// A type as text, made by [`Type::shown`].
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    ty: Type<'a>,
    levels: usize,
}

impl<'a> Type<'a> {
    /// The type as text, with the members of objects down to so many levels, at most 8: with 0 levels an object is `{…}`,
    /// with 1 its members are shown and those that are objects are `{…}`. An enum inside of it is cut after 6 values.
    pub fn shown(self, levels: usize) -> Shown<'a> {
        Shown { ty: self, levels }
    }
}

impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.shown(1), f)
    }
}

impl fmt::Debug for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Type({}: {self})", self.name())
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ty.kind() {
            TypeKind::Enum(values) => fmt::Display::fmt(&values, f),
            _ => Pen::new(f, self.levels).ty(self.ty),
        }
    }
}

impl EnumType<'_> {
    /// The values, cut where they are many.
    pub(super) fn some(self) -> String {
        struct Some<'a>(EnumType<'a>);
        impl fmt::Display for Some<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Pen::new(f, 0).values(self.0, SOME_VALUES)
            }
        }
        Some(self).to_string()
    }
}

/// All values, quoted: `'on' | 'off'`.
impl fmt::Display for EnumType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Pen::new(f, 0).values(*self, usize::MAX)
    }
}

impl fmt::Debug for EnumType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The members, one level deep, as [`Type::shown`] has it.
impl fmt::Display for ObjectType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Pen::new(f, 1).object(*self)
    }
}

impl fmt::Debug for ObjectType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The types: `str | null`.
impl fmt::Display for AlternateType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Pen::new(f, 1).alternate(*self)
    }
}

impl fmt::Debug for AlternateType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for TypeKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TypeKind::Builtin(builtin) => write!(f, "Builtin({builtin:?})"),
            TypeKind::Enum(values) => write!(f, "Enum({values})"),
            TypeKind::Array(element) => write!(f, "Array({})", element.shown(0)),
            TypeKind::Object(object) => write!(f, "Object({object})"),
            TypeKind::Alternate(types) => write!(f, "Alternate({types})"),
            TypeKind::Unknown => f.write_str("Unknown"),
        }
    }
}

/// `NAME?: TYPE`, with objects as `{…}`.
impl fmt::Display for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Pen::new(f, 0).member(*self)
    }
}

impl fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Variant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} => {}", self.case(), self.ty())
    }
}

impl fmt::Debug for super::view::EnumValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for CommandInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.name())?;
        let mut pen = Pen::new(f, 1);
        match self.argument_type().kind() {
            TypeKind::Object(arguments) => pen.members(arguments, self.is_free_form())?,
            _ => pen.ty(self.argument_type())?,
        }
        write!(f, " -> {}", self.return_type())?;
        let oob = self.is_oob().then_some("oob");
        notes(f, oob, self.features())
    }
}

impl fmt::Debug for CommandInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for EventInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.data_type())?;
        notes(f, None, self.features())
    }
}

impl fmt::Debug for EventInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// ` (oob, deprecated)`, or nothing.
fn notes(f: &mut fmt::Formatter<'_>, first: Option<&str>, features: Features<'_>) -> fmt::Result {
    let mut before = " (";
    for note in first.into_iter().chain(features.iter()) {
        write!(f, "{before}{note}")?;
        before = ", ";
    }
    f.write_str(if before == ", " { ")" } else { "" })
}

struct Pen<'f, 'w> {
    f: &'f mut fmt::Formatter<'w>,
    /// Levels of objects still to be shown.
    objects: usize,
    /// Levels of anything still to be shown.
    levels: usize,
    /// Bytes still to be written; the first piece that does not fit is the end.
    room: usize,
}

impl<'f, 'w> Pen<'f, 'w> {
    fn new(f: &'f mut fmt::Formatter<'w>, objects: usize) -> Self {
        Pen {
            f,
            objects: objects.min(MAX_LEVELS),
            levels: MAX_LEVELS,
            room: MAX_TEXT,
        }
    }

    fn put(&mut self, text: &str) -> fmt::Result {
        if self.is_out() {
            return Ok(());
        }
        self.room = self.room.saturating_sub(text.len());
        self.f.write_str(if self.is_out() { "…" } else { text })
    }

    /// Whether there is no room any more.
    fn is_out(&self) -> bool {
        self.room == 0
    }

    fn ty(&mut self, ty: Type<'_>) -> fmt::Result {
        if self.levels == 0 {
            return self.put("…");
        }
        self.levels -= 1;
        match ty.kind() {
            TypeKind::Unknown => self.put("?"),
            TypeKind::Builtin(builtin) => self.put(builtin.as_str()),
            TypeKind::Enum(values) => self.values(values, SOME_VALUES),
            TypeKind::Array(element) => {
                self.put("[")?;
                self.ty(element)?;
                self.put("]")
            }
            TypeKind::Object(object) => self.object(object),
            TypeKind::Alternate(types) => self.alternate(types),
        }?;
        self.levels += 1;
        Ok(())
    }

    fn values(&mut self, values: EnumType<'_>, limit: usize) -> fmt::Result {
        let all = values.values().len();
        // One more takes no more room than to say that it is missing.
        let shown = if all <= limit.saturating_add(1) {
            all
        } else {
            limit
        };
        for (n, value) in values.values().take(shown).enumerate() {
            self.put(if n == 0 { "'" } else { " | '" })?;
            self.put(value.name())?;
            self.put("'")?;
            if self.is_out() {
                return Ok(());
            }
        }
        match all - shown {
            0 if all == 0 => self.put("''"),
            0 => Ok(()),
            more => self.put(&format!(" | …{more} more")),
        }
    }

    fn alternate(&mut self, types: AlternateType<'_>) -> fmt::Result {
        for (n, ty) in types.types().enumerate() {
            if self.is_out() {
                break;
            }
            self.put(if n == 0 { "" } else { " | " })?;
            self.ty(ty)?;
        }
        Ok(())
    }

    fn object(&mut self, object: ObjectType<'_>) -> fmt::Result {
        let is_empty = object.members().len() == 0 && object.variants().len() == 0;
        if self.objects == 0 && !is_empty {
            return self.put("{…}");
        }
        self.members(object, false)
    }

    /// The members in braces, and after them what else there may be.
    fn members(&mut self, object: ObjectType<'_>, any_more: bool) -> fmt::Result {
        let levels = self.objects;
        self.objects = levels.saturating_sub(1);
        let mut before = "{ ";
        for member in object.members() {
            if self.is_out() {
                break;
            }
            self.put(before)?;
            before = ", ";
            self.member(member)?;
        }
        self.objects = levels;
        let has_variants = object.variants().len() > 0;
        match object.tag() {
            Some(tag) if has_variants => {
                self.put(before)?;
                self.put("..")?;
                self.put(tag.name())?;
                before = ", ";
            }
            None if any_more || has_variants => {
                self.put(before)?;
                self.put("…")?;
                before = ", ";
            }
            _ => {}
        }
        self.put(if before == ", " { " }" } else { "{}" })
    }

    fn member(&mut self, member: Member<'_>) -> fmt::Result {
        self.put(member.name())?;
        self.put(if member.is_optional() { "?: " } else { ": " })?;
        self.ty(member.ty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Schema;
    use super::super::tests::sample;
    use super::MAX_TEXT;

    #[test]
    fn commands_and_events_as_lines() {
        let schema = sample();
        for (name, line) in [
            ("stop", "stop {} -> {}"),
            ("hush", "hush {} -> {} (oob)"),
            (
                "device_add",
                "device_add { driver: str, bus?: str, … } -> {} (json-cli)",
            ),
            (
                "scalars",
                "scalars { s?: str, i?: int, n?: number, b?: bool, a?: any, z?: null } -> int",
            ),
            (
                "node-add",
                "node-add { driver: 'file' | 'raw' | 'none' | 'bare', name?: str, ..driver } -> {} (unstable)",
            ),
            (
                "nodes-set",
                "nodes-set { nodes: [{…}], sizes?: int | 'on' | 'off' | [int] } -> [{ driver: 'file' | 'raw' | 'none' | 'bare', name?: str, ..driver }]",
            ),
        ] {
            assert_eq!(schema.command(name).unwrap().to_string(), line);
        }
        let event = schema.event("NODE_GONE").unwrap();
        assert_eq!(event.to_string(), "NODE_GONE { name: str } (deprecated)");
        assert_eq!(schema.event("STOP").unwrap().to_string(), "STOP {}");
    }

    #[test]
    fn levels_are_shown_one_by_one() {
        let schema = sample();
        let ty = schema.types().find(|ty| ty.name() == "6").unwrap();
        for (levels, text) in [
            (0, "{…}"),
            (1, "{ below: {…} | str | null }"),
            (
                2,
                "{ below: { driver: 'file' | 'raw' | 'none' | 'bare', name?: str, ..driver } | str | null }",
            ),
        ] {
            assert_eq!(ty.shown(levels).to_string(), text);
        }
        assert_eq!(ty.to_string(), ty.shown(1).to_string());
    }

    fn enum_of(values: usize) -> Schema {
        let values: Vec<String> = (0..values).map(|n| format!("\"v{n}\"")).collect();
        let text = format!(
            r#"[{{"name": "e", "meta-type": "enum", "values": [{}]}},
                {{"name": "o", "meta-type": "object", "members": [{{"name": "m", "type": "e"}}]}}]"#,
            values.join(",")
        );
        Schema::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn long_enums_are_cut_inside_of_other_types() {
        let schema = enum_of(8);
        let shown: Vec<String> = schema.types().map(|ty| ty.to_string()).collect();
        assert_eq!(
            shown,
            [
                "'v0' | 'v1' | 'v2' | 'v3' | 'v4' | 'v5' | 'v6' | 'v7'",
                "{ m: 'v0' | 'v1' | 'v2' | 'v3' | 'v4' | 'v5' | …2 more }",
            ]
        );
        let shown: Vec<String> = enum_of(7).types().map(|ty| ty.to_string()).collect();
        assert!(shown[1].ends_with("'v6' }"), "{}", shown[1]);
        assert_eq!(enum_of(0).types().next().unwrap().to_string(), "''");
    }

    #[test]
    fn wide_and_deep_types_are_bounded() {
        let members: Vec<String> = (0..1000)
            .map(|n| format!(r#"{{"name": "m{n}", "type": "o"}}"#))
            .collect();
        let text = format!(
            r#"[{{"name": "o", "meta-type": "object", "members": [{}]}}]"#,
            members.join(",")
        );
        let schema = Schema::parse(text.as_bytes()).unwrap();
        let shown = schema.types().next().unwrap().shown(usize::MAX).to_string();
        assert!(shown.starts_with("{ m0: { m0: { m0: ") && shown.ends_with('…'));
        assert!(shown.len() <= MAX_TEXT + 3, "{}", shown.len());
        let schema = enum_of(20_000);
        let shown = schema.types().next().unwrap().to_string();
        assert!(
            shown.ends_with('…') && shown.len() <= MAX_TEXT + 3,
            "{}",
            shown.len()
        );
    }
}
