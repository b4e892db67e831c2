//! Which events somebody wants. Imports `event`.

use std::fmt;
use std::sync::Arc;

use regex_lite::{Regex, RegexBuilder};

use super::Event;

/// Which events to take: by name, by a pattern of names, by a predicate, or by any combination of them.
///
/// ```
/// use libvirt_qmp::EventFilter;
///
/// let jobs = EventFilter::glob("BLOCK_JOB_*").or("JOB_STATUS_CHANGE");
/// let mine = jobs.when(|event| event.data.as_ref().is_some_and(|data| data.get().contains("mirror0")));
/// # let _ = mine;
/// ```
///
/// A name, or an array of names, is a filter by itself: `"STOP".into()`. An empty list of names takes nothing.
#[derive(Clone)]
pub struct EventFilter(Rule);

#[derive(Clone)]
enum Rule {
    Any,
    Name { name: String, ignore_case: bool },
    Pattern(Pattern),
    When(Predicate),
    Not(Box<Rule>),
    All(Vec<Rule>),
    Either(Vec<Rule>),
}

#[derive(Clone)]
struct Pattern {
    /// What the user wrote.
    text: String,
    is_glob: bool,
    ignore_case: bool,
    regex: Arc<Regex>,
}

type Predicate = Arc<dyn Fn(&Event) -> bool + Send + Sync>;

/// Why a text is no pattern of event names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a regular expression: {reason}")]
#[non_exhaustive]
pub struct FilterError {
    /// The text.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What an event's name alone says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Refused,
    /// A predicate must see the event.
    Open,
}

impl EventFilter {
    /// Every event.
    pub fn any() -> Self {
        EventFilter(Rule::Any)
    }

    /// The events of this name, such as `DEVICE_DELETED`.
    pub fn name(name: impl Into<String>) -> Self {
        EventFilter(Rule::Name {
            name: name.into(),
            ignore_case: false,
        })
    }

    /// The events of these names.
    pub fn names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(|name| EventFilter::name(name).0);
        EventFilter(Rule::Either(names.collect()))
    }

    /// The events whose whole name matches a shell pattern: `*` stands for any characters, `?` for one, all else for itself.
    pub fn glob(pattern: impl Into<String>) -> Self {
        EventFilter(match Pattern::glob(pattern.into(), false) {
            Ok(pattern) => Rule::Pattern(pattern),
            // Only one of many megabytes is too much for the matcher, and no event has such a name.
            Err(_) => Rule::Either(Vec::new()),
        })
    }

    /// The events whose name matches a regular expression, anywhere in it; `^` and `$` tie it to the ends. The syntax is
    /// that of the crate `regex-lite`.
    ///
    /// # Errors
    ///
    /// Where the text is no regular expression, or one too large.
    pub fn regex(pattern: impl Into<String>) -> Result<Self, FilterError> {
        Pattern::regex(pattern.into(), false).map(|pattern| EventFilter(Rule::Pattern(pattern)))
    }

    /// The same filter with upper and lower case alike in all names and patterns.
    pub fn ignore_case(self) -> Self {
        EventFilter(self.0.ignore_case())
    }

    /// What both this filter takes and `predicate` says yes to.
    ///
    /// It is called by whoever takes the events, never by the task of a connection, and only for events whose name fits.
    pub fn when(self, predicate: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        EventFilter(Rule::All(vec![self.0, Rule::When(Arc::new(predicate))]))
    }

    /// What this filter or `other` takes.
    pub fn or(self, other: impl Into<EventFilter>) -> Self {
        let mut rules = match self.0 {
            Rule::Either(rules) => rules,
            rule => vec![rule],
        };
        match other.into().0 {
            Rule::Either(others) => rules.extend(others),
            rule => rules.push(rule),
        }
        EventFilter(Rule::Either(rules))
    }

    /// What both this filter and `other` take.
    pub fn and(self, other: impl Into<EventFilter>) -> Self {
        EventFilter(Rule::All(vec![self.0, other.into().0]))
    }

    /// What this filter does not take.
    #[expect(
        clippy::should_implement_trait,
        reason = "reads as the other combinators do, without an import"
    )]
    pub fn not(self) -> Self {
        EventFilter(Rule::Not(Box::new(self.0)))
    }

    /// Whether it takes this event.
    pub fn matches(&self, event: &Event) -> bool {
        self.0.matches(event)
    }

    /// Whether it can take an event of this name. What a predicate would say is left open: `true` then.
    pub fn may_match(&self, name: &str) -> bool {
        self.0.verdict(name) != Verdict::Refused
    }

    /// Whether it takes everything.
    pub(crate) fn is_any(&self) -> bool {
        matches!(self.0, Rule::Any)
    }

    /// The one name that it takes, and whether case counts not; for a daemon that filters by itself. `None` where there may
    /// be others: what the daemon sends is filtered here in any case.
    pub(crate) fn as_name(&self) -> Option<(&str, bool)> {
        self.0.one_name()
    }

    /// The same names as one regular expression in the common part of all dialects, and whether case counts not; for a
    /// daemon that filters by itself. `None` where it cannot be said so: what the daemon sends is filtered here in any case.
    pub(crate) fn as_common_regex(&self) -> Option<(String, bool)> {
        let mut parts = Vec::new();
        let mut case = None;
        self.0.common_parts(&mut parts, &mut case)?;
        // An alternative of nothing would match everything.
        (!parts.is_empty()).then(|| (format!("^({})$", parts.join("|")), case == Some(true)))
    }
}

impl Rule {
    fn matches(&self, event: &Event) -> bool {
        match self {
            Rule::When(predicate) => predicate(event),
            Rule::Not(rule) => !rule.matches(event),
            Rule::All(rules) => rules.iter().all(|rule| rule.matches(event)),
            Rule::Either(rules) => rules.iter().any(|rule| rule.matches(event)),
            Rule::Any | Rule::Name { .. } | Rule::Pattern(_) => {
                self.verdict(&event.name) == Verdict::Taken
            }
        }
    }

    fn verdict(&self, name: &str) -> Verdict {
        let known = |taken| match taken {
            true => Verdict::Taken,
            false => Verdict::Refused,
        };
        match self {
            Rule::Any => Verdict::Taken,
            Rule::Name {
                name: wanted,
                ignore_case: false,
            } => known(wanted == name),
            Rule::Name { name: wanted, .. } => known(wanted.eq_ignore_ascii_case(name)),
            Rule::Pattern(pattern) => known(pattern.regex.is_match(name)),
            Rule::When(_) => Verdict::Open,
            Rule::Not(rule) => match rule.verdict(name) {
                Verdict::Taken => Verdict::Refused,
                Verdict::Refused => Verdict::Taken,
                Verdict::Open => Verdict::Open,
            },
            Rule::All(rules) => join(rules, name, Verdict::Refused, Verdict::Taken),
            Rule::Either(rules) => join(rules, name, Verdict::Taken, Verdict::Refused),
        }
    }

    fn ignore_case(self) -> Rule {
        let each = |rules: Vec<Rule>| rules.into_iter().map(Rule::ignore_case).collect();
        match self {
            Rule::Name { name, .. } => Rule::Name {
                name,
                ignore_case: true,
            },
            Rule::Pattern(pattern) => Rule::Pattern(pattern.ignoring_case()),
            Rule::Not(rule) => Rule::Not(Box::new(rule.ignore_case())),
            Rule::All(rules) => Rule::All(each(rules)),
            Rule::Either(rules) => Rule::Either(each(rules)),
            rule @ (Rule::Any | Rule::When(_)) => rule,
        }
    }

    fn one_name(&self) -> Option<(&str, bool)> {
        match self {
            Rule::Name { name, ignore_case } => Some((name, *ignore_case)),
            Rule::All(rules) => rules.iter().find_map(Rule::one_name),
            Rule::Either(rules) => match rules.as_slice() {
                [rule] => rule.one_name(),
                _ => None,
            },
            Rule::Any | Rule::Pattern(_) | Rule::When(_) | Rule::Not(_) => None,
        }
    }

    /// Adds the alternatives that together take all that this rule takes, and maybe more.
    fn common_parts(&self, parts: &mut Vec<String>, case: &mut Option<bool>) -> Option<()> {
        let (text, is_glob, ignore_case) = match self {
            Rule::Name { name, ignore_case } => (name, false, *ignore_case),
            Rule::Pattern(pattern) if pattern.is_glob => (&pattern.text, true, pattern.ignore_case),
            Rule::Either(rules) => {
                return rules
                    .iter()
                    .try_for_each(|rule| rule.common_parts(parts, case));
            }
            // One of them is enough: the others are asked here.
            Rule::All(rules) => {
                return rules.iter().find_map(|rule| {
                    let (mut own, mut own_case) = (Vec::new(), *case);
                    rule.common_parts(&mut own, &mut own_case)?;
                    parts.append(&mut own);
                    *case = own_case;
                    Some(())
                });
            }
            Rule::Any | Rule::Pattern(_) | Rule::When(_) | Rule::Not(_) => return None,
        };
        if *case.get_or_insert(ignore_case) != ignore_case {
            return None;
        }
        parts.push(glob_to_regex(text, is_glob, |literal| {
            literal.is_ascii_alphanumeric() || matches!(literal, '_' | '-')
        })?);
        Some(())
    }
}

/// The verdict of several rules: `decisive` if one says so, `otherwise` if all say that.
fn join(rules: &[Rule], name: &str, decisive: Verdict, otherwise: Verdict) -> Verdict {
    let mut joined = otherwise;
    for rule in rules {
        match rule.verdict(name) {
            verdict if verdict == decisive => return decisive,
            Verdict::Open => joined = Verdict::Open,
            _ => {}
        }
    }
    joined
}

impl Pattern {
    fn glob(text: String, ignore_case: bool) -> Result<Self, FilterError> {
        let mut regex = String::from(r"\A");
        for c in text.chars() {
            match c {
                '*' => regex.push_str("(?s:.*)"),
                '?' => regex.push_str("(?s:.)"),
                literal => regex.push_str(&regex_lite::escape(literal.encode_utf8(&mut [0; 4]))),
            }
        }
        regex.push_str(r"\z");
        Pattern::compile(text, &regex, true, ignore_case)
    }

    fn regex(text: String, ignore_case: bool) -> Result<Self, FilterError> {
        let regex = text.clone();
        Pattern::compile(text, &regex, false, ignore_case)
    }

    fn compile(
        text: String,
        regex: &str,
        is_glob: bool,
        ignore_case: bool,
    ) -> Result<Self, FilterError> {
        match RegexBuilder::new(regex)
            .case_insensitive(ignore_case)
            .build()
        {
            Ok(regex) => Ok(Pattern {
                text,
                is_glob,
                ignore_case,
                regex: Arc::new(regex),
            }),
            Err(error) => Err(FilterError {
                pattern: text,
                reason: error.to_string(),
            }),
        }
    }

    fn ignoring_case(self) -> Self {
        let text = self.text.clone();
        let made = match self.is_glob {
            true => Pattern::glob(text, true),
            false => Pattern::regex(text, true),
        };
        // What has been compiled once compiles again, unless it comes to the limit of size by that.
        made.unwrap_or(self)
    }
}

/// `text` as a regular expression without anchors; `None` where a character of it is not `plain`.
fn glob_to_regex(text: &str, is_glob: bool, plain: impl Fn(char) -> bool) -> Option<String> {
    let mut regex = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '*' if is_glob => regex.push_str(".*"),
            '?' if is_glob => regex.push('.'),
            c if plain(c) => regex.push(c),
            _ => return None,
        }
    }
    Some(regex)
}

impl Default for EventFilter {
    fn default() -> Self {
        EventFilter::any()
    }
}

impl From<&str> for EventFilter {
    fn from(name: &str) -> Self {
        EventFilter::name(name)
    }
}

impl From<String> for EventFilter {
    fn from(name: String) -> Self {
        EventFilter::name(name)
    }
}

impl<const N: usize> From<[&str; N]> for EventFilter {
    fn from(names: [&str; N]) -> Self {
        EventFilter::names(names)
    }
}

impl fmt::Debug for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Any => f.write_str("Any"),
            Rule::Name { name, .. } => f.debug_tuple("Name").field(name).finish(),
            Rule::Pattern(pattern) if pattern.is_glob => {
                f.debug_tuple("Glob").field(&pattern.text).finish()
            }
            Rule::Pattern(pattern) => f.debug_tuple("Regex").field(&pattern.text).finish(),
            Rule::When(_) => f.write_str("When"),
            Rule::Not(rule) => f.debug_tuple("Not").field(rule).finish(),
            Rule::All(rules) => f.debug_tuple("All").field(rules).finish(),
            Rule::Either(rules) => f.debug_tuple("Either").field(rules).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Timestamp;
    use super::*;

    fn event(name: &str) -> Event {
        Event::new(name, None, Timestamp::UNKNOWN)
    }

    fn taken(filter: &EventFilter) -> Vec<&'static str> {
        ["STOP", "stop", "BLOCK_JOB_READY", "A.B", "AxB", "A\nB", ""]
            .into_iter()
            .filter(|name| filter.matches(&event(name)))
            .collect()
    }

    #[test]
    fn names_and_patterns() {
        for (filter, expected) in [
            (EventFilter::name("STOP"), &["STOP"][..]),
            ("STOP".into(), &["STOP"]),
            (["STOP", "A.B"].into(), &["STOP", "A.B"]),
            (EventFilter::names(Vec::<String>::new()), &[]),
            (EventFilter::name("Stop").ignore_case(), &["STOP", "stop"]),
            (EventFilter::glob("BLOCK_*"), &["BLOCK_JOB_READY"]),
            (EventFilter::glob("A.B"), &["A.B"]),
            (EventFilter::glob("A?B"), &["A.B", "AxB", "A\nB"]),
            (EventFilter::glob("*TO*").ignore_case(), &["STOP", "stop"]),
            (EventFilter::glob(""), &[""]),
            (EventFilter::glob("TOP"), &[]),
            (EventFilter::regex("TOP").unwrap(), &["STOP"]),
            (EventFilter::regex("^A.B$").unwrap(), &["A.B", "AxB"]),
            (
                EventFilter::regex("^ST").unwrap().ignore_case(),
                &["STOP", "stop"],
            ),
        ] {
            assert_eq!(taken(&filter), expected, "{filter:?}");
        }
        let error = EventFilter::regex("(").unwrap_err();
        assert_eq!(error.pattern, "(");
    }

    #[test]
    fn filters_combine() {
        let long = |event: &Event| event.name.len() > 3;
        let either = EventFilter::glob("A*").or("STOP");
        assert_eq!(taken(&either), ["STOP", "A.B", "AxB", "A\nB"]);
        assert_eq!(taken(&either.clone().when(long)), ["STOP"]);
        assert_eq!(
            taken(&either.clone().and(EventFilter::name("STOP").not())),
            ["A.B", "AxB", "A\nB"]
        );
        assert_eq!(
            taken(&EventFilter::any().not().or(either.when(long))),
            ["STOP"]
        );
    }

    #[test]
    fn a_name_alone_decides_where_no_predicate_has_to() {
        let when = EventFilter::name("STOP").when(|_| false);
        assert!(when.may_match("STOP") && !when.may_match("RESUME"));
        assert!(!when.matches(&event("STOP")));
        let not = when.clone().not();
        assert!(not.may_match("STOP") && not.may_match("RESUME"));
        let both = when.or("RESUME");
        assert!(both.may_match("RESUME") && both.may_match("STOP") && !both.may_match("RESET"));
    }

    #[test]
    fn one_name_is_told_from_several() {
        for (filter, expected) in [
            (EventFilter::name("A.B"), Some(("A.B", false))),
            (EventFilter::names(["STOP"]), Some(("STOP", false))),
            (
                EventFilter::name("STOP").ignore_case().when(|_| false),
                Some(("STOP", true)),
            ),
            (EventFilter::any(), None),
            (EventFilter::names(["STOP", "RESUME"]), None),
            (EventFilter::names(Vec::<String>::new()), None),
            (EventFilter::name("STOP").not(), None),
            (EventFilter::glob("STOP"), None),
        ] {
            assert_eq!(filter.as_name(), expected, "{filter:?}");
        }
    }

    #[test]
    fn what_a_daemon_can_filter_by_itself() {
        let regex = |filter: EventFilter| filter.as_common_regex();
        let some = |text: &str, case| Some((text.to_owned(), case));
        assert_eq!(regex("STOP".into()), some("^(STOP)$", false));
        assert_eq!(
            regex(["STOP", "RESUME"].into()),
            some("^(STOP|RESUME)$", false)
        );
        assert_eq!(
            regex(EventFilter::glob("BLOCK_*").or("STOP").ignore_case()),
            some("^(BLOCK_.*|STOP)$", true)
        );
        // A predicate is asked here, about what the daemon sends.
        assert_eq!(
            regex(EventFilter::name("STOP").when(|_| true)),
            some("^(STOP)$", false)
        );
        for filter in [
            EventFilter::any(),
            EventFilter::any().when(|_| true),
            EventFilter::name("STOP").or(EventFilter::any()),
            EventFilter::name("STOP").not(),
            EventFilter::names(Vec::<String>::new()),
            // Not a character that every dialect takes for itself.
            EventFilter::name("A.B"),
            // Dialects differ, so the user's own is matched here.
            EventFilter::regex("STOP").unwrap(),
            EventFilter::name("STOP").or(EventFilter::name("x").ignore_case()),
        ] {
            assert_eq!(filter.as_common_regex(), None, "{filter:?}");
        }
    }
}
