//! Where in a line of QMP the cursor is: in which command, and behind what. Imports `line`.

use super::line::{after_transaction, words};

/// What is before the cursor, as far as it matters.
pub(super) struct Place<'t> {
    /// The words of the command, up to the cursor's.
    pub(super) done: Vec<&'t str>,
    pub(super) current: &'t str,
    pub(super) start: usize,
    pub(super) in_transaction: bool,
}

impl<'t> Place<'t> {
    /// `None` where nothing can be said: in JSON and in open quotes.
    pub(super) fn new(text: &'t str) -> Option<Self> {
        if text.trim_start().starts_with('{') {
            return None;
        }
        let rest = after_transaction(text);
        let offset = text.len() - rest.unwrap_or(text).len();
        let mut place = Place {
            done: Vec::new(),
            current: "",
            start: text.len(),
            in_transaction: rest.is_some(),
        };
        let mut end_of_last = offset;
        for word in words(&text[offset..]) {
            let (start, end) = (word.start + offset, word.end + offset);
            if place.in_transaction && text[end_of_last..start].contains('\n') {
                place.done.clear();
            }
            end_of_last = end;
            if end < text.len() {
                place.done.push(&text[start..end]);
            } else if word.open.is_some() {
                return None;
            } else {
                (place.current, place.start) = (&text[start..end], start);
            }
        }
        if place.in_transaction && text[end_of_last..].contains('\n') {
            place.done.clear();
        }
        Some(place)
    }

    /// The command that is typed, and its arguments so far. A command is not yet one while the cursor is in it.
    pub(super) fn command(&self) -> Option<(&'t str, &[&'t str])> {
        let words = match self.done.first().copied() {
            Some("!oob") => self.done.get(1..)?,
            Some("!fd") => self.done.get(2..)?,
            _ => &self.done[..],
        };
        let (name, arguments) = words.split_first()?;
        Some((name, arguments))
    }
}
