//! What may be wrong with a command, and what may be unwise about it. Imports `CommandError` of qmp.

use std::fmt;
use std::sync::Arc;

use crate::qmp::CommandError;

/// What QEMU would refuse a command for.
///
/// Arguments are named by their path in the arguments of the command: `actions[0].data.node`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaProblem {
    /// The text is no command, or an argument could not be written as JSON.
    #[error(transparent)]
    Malformed(CommandError),
    /// There is no such command.
    #[error("no command `{command}`{}", did_you_mean(.similar))]
    UnknownCommand {
        /// Its name.
        command: String,
        /// Names like it, the most similar first.
        similar: Vec<String>,
    },
    /// The command is to be executed out of band, and cannot be.
    #[error("command `{command}` cannot be executed out of band")]
    NotOutOfBand {
        /// Its name.
        command: String,
    },
    /// The object has a member that no command has.
    #[error("no command has a member `{member}`")]
    UnknownMember {
        /// Its name.
        member: String,
    },
    /// There is no such argument, here or at all.
    #[error("no argument `{path}`{}", did_you_mean(.similar))]
    UnknownArgument {
        /// Its path.
        path: String,
        /// Names of arguments in its place, the most similar first.
        similar: Vec<String>,
    },
    /// An argument that is required is not there.
    #[error("argument `{path}` ({expected}) is missing")]
    MissingArgument {
        /// Its path.
        path: String,
        /// Its type, as [`Type::shown(0)`](super::Type::shown) has it.
        expected: String,
    },
    /// An argument is of another type in JSON than it should be.
    #[error("argument `{path}` is {found}, not {expected}")]
    WrongType {
        /// Its path; `arguments` where it is all of them.
        path: String,
        /// Its type, as [`Type::shown(0)`](super::Type::shown) has it.
        expected: String,
        /// What it is, such as `a string`.
        found: &'static str,
    },
    /// A string is none of those that the argument may be.
    #[error("argument `{path}` cannot be `{value}`, only {accepted}{}", did_you_mean(.similar))]
    UnknownValue {
        /// Its path.
        path: String,
        /// The string, cut where it is very long.
        value: String,
        /// Values like it, the most similar first.
        similar: Vec<String>,
        /// All values that it may have, as text: `'on' | 'off'`, cut where they are many.
        accepted: String,
    },
    /// An object has two members of one name, which QEMU does not parse.
    #[error("member `{path}` is there more than once")]
    Repeated {
        /// Its path in the whole command.
        path: String,
    },
}

/// ` (did you mean ...?)`, or nothing.
fn did_you_mean(similar: &[String]) -> String {
    if similar.is_empty() {
        return String::new();
    }
    let names: Vec<String> = similar.iter().map(|name| format!("`{name}`")).collect();
    format!(" (did you mean {}?)", names.join(" or "))
}

/// Everything that is wrong with a command, at least one problem. Its `Display` is one line with all of them.
#[derive(Clone, Debug)]
pub struct SchemaProblems {
    problems: Arc<[SchemaProblem]>,
}

impl SchemaProblems {
    /// `None` where there are none.
    pub(super) fn new(problems: Vec<SchemaProblem>) -> Option<Self> {
        (!problems.is_empty()).then(|| SchemaProblems {
            problems: problems.into(),
        })
    }

    /// The problems, in the order of the command's text.
    pub fn iter(&self) -> std::slice::Iter<'_, SchemaProblem> {
        self.problems.iter()
    }
}

impl<'a> IntoIterator for &'a SchemaProblems {
    type Item = &'a SchemaProblem;
    type IntoIter = std::slice::Iter<'a, SchemaProblem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<SchemaProblem> for SchemaProblems {
    fn from(problem: SchemaProblem) -> Self {
        SchemaProblems {
            problems: Arc::new([problem]),
        }
    }
}

impl fmt::Display for SchemaProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.iter().enumerate() {
            let before = if n == 0 { "" } else { "; " };
            write!(f, "{before}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SchemaProblems {}

/// Use of something that will not be, or may not stay, in a later QEMU. The command is all right today.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaWarning {
    /// The argument's path; `None` for the command itself.
    pub argument: Option<String>,
    /// The value of that argument, where only the value is meant.
    pub value: Option<String>,
    /// What about it.
    pub caution: Caution,
}

/// Why something is better not relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Caution {
    /// A later QEMU will not have it.
    Deprecated,
    /// A later QEMU may have changed it.
    Unstable,
}

impl fmt::Display for Caution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Caution::Deprecated => "deprecated",
            Caution::Unstable => "unstable",
        })
    }
}

impl fmt::Display for SchemaWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.argument, &self.value) {
            (None, _) => f.write_str("the command")?,
            (Some(path), None) => write!(f, "argument `{path}`")?,
            (Some(path), Some(value)) => write!(f, "value `{value}` of argument `{path}`")?,
        }
        write!(f, " is {}", self.caution)
    }
}
