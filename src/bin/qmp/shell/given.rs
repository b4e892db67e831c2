//! The arguments that a line has already, and what by them its command takes: a walk over the schema. Imports nothing of the shell.

use libvirt_qmp::Schema;
use libvirt_qmp::schema::{Member, ObjectType, Type, TypeKind};

/// Levels of objects in a key, and of tags in an object, that are followed.
const MAX_LEVELS: usize = 16;
/// The type of the data of an action of a transaction.
pub(super) fn data_of_action<'s>(name: &str, schema: &'s Schema) -> Option<Type<'s>> {
    let actions = schema.command("transaction")?.argument("actions")?;
    let TypeKind::Array(action) = actions.ty().kind() else {
        return None;
    };
    let variant = object_in(action)?.variant(name)?;
    Some(object_in(variant.ty())?.member("data")?.ty())
}

/// The object that a value of this type is, or may be.
pub(super) fn object_in(ty: Type<'_>) -> Option<ObjectType<'_>> {
    match ty.kind() {
        TypeKind::Object(object) => Some(object),
        TypeKind::Alternate(types) => types.types().find_map(|ty| match ty.kind() {
            TypeKind::Object(object) => Some(object),
            _ => None,
        }),
        _ => None,
    }
}

/// The arguments that are there already.
pub(super) struct Given<'t> {
    /// The command or action.
    pub(super) command: &'t str,
    arguments: Vec<(&'t str, &'t str)>,
}

impl<'t> Given<'t> {
    pub(super) fn new(command: &'t str, arguments: &[&'t str]) -> Self {
        let pairs = arguments.iter().filter_map(|word| word.split_once('='));
        Given {
            command,
            arguments: pairs
                .map(|(key, value)| (key.trim_end_matches(':'), value))
                .collect(),
        }
    }

    /// The value of this key, without quotes.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        let found = self.arguments.iter().find(|(given, _)| *given == key)?;
        Some(found.1.trim_matches(['"', '\'']).to_owned())
    }

    /// Whether the key has a value, or one of its members has.
    pub(super) fn has(&self, key: &str) -> bool {
        self.arguments.iter().any(|(given, _)| {
            given
                .strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

/// The members of an object at `prefix`, those included that depend on tags which have a value.
pub(super) fn members<'s>(
    object: ObjectType<'s>,
    prefix: &str,
    given: &Given<'_>,
) -> Vec<Member<'s>> {
    let mut all = Vec::new();
    let mut next = Some(object);
    for _ in 0..MAX_LEVELS {
        let Some(object) = next else { break };
        all.extend(object.members());
        next = object
            .tag()
            .and_then(|tag| given.value(&format!("{prefix}{}", tag.name())))
            .and_then(|value| object.variant(&value))
            .and_then(|variant| object_in(variant.ty()));
    }
    all
}

/// The object that `prefix`, which is empty or ends with a dot, leads to.
pub(super) fn at<'s>(
    object: ObjectType<'s>,
    prefix: &str,
    given: &Given<'_>,
) -> Option<ObjectType<'s>> {
    let mut object = object;
    let mut done = 0;
    for (levels, (dot, _)) in prefix.match_indices('.').enumerate() {
        let name = &prefix[done..dot];
        let found = members(object, &prefix[..done], given)
            .into_iter()
            .find(|member| member.name() == name)?;
        object = object_in(found.ty())?;
        done = dot + 1;
        if levels >= MAX_LEVELS {
            return None;
        }
    }
    Some(object)
}
