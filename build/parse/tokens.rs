//! The parser's view of the tokens: look, take, expect.

use super::super::ast::{Name, Value};
use super::super::doc::Doc;
use super::super::lex::Kind;
use super::super::{At, Problem};
use super::Parser;

/// Words that cannot name anything.
const RESERVED: &[&str] = &[
    "bool",
    "case",
    "char",
    "const",
    "default",
    "double",
    "enum",
    "float",
    "hyper",
    "int",
    "opaque",
    "quadruple",
    "short",
    "string",
    "struct",
    "switch",
    "typedef",
    "union",
    "unsigned",
    "void",
];

impl Parser {
    pub(super) fn kind(&self) -> &Kind {
        self.tokens
            .get(self.next)
            .map_or(&Kind::End, |token| &token.kind)
    }

    pub(super) fn at(&self) -> At {
        self.tokens
            .get(self.next)
            .or(self.tokens.last())
            .map_or(At::default(), |token| token.at)
    }

    pub(super) fn advance(&mut self) {
        self.next += 1;
    }

    pub(super) fn unexpected<T>(&self, wanted: &str) -> Result<T, Problem> {
        Err(Problem::new(
            self.at(),
            format!("expected {wanted}, found {}", self.kind()),
        ))
    }

    pub(super) fn is_mark(&self, mark: char) -> bool {
        self.kind() == &Kind::Mark(mark)
    }

    pub(super) fn is_word(&self, wanted: &str) -> bool {
        matches!(self.kind(), Kind::Word(word) if word == wanted)
    }

    pub(super) fn eat_mark(&mut self, mark: char) -> bool {
        let found = self.is_mark(mark);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn mark(&mut self, mark: char) -> Result<(), Problem> {
        if self.eat_mark(mark) {
            Ok(())
        } else {
            self.unexpected(&format!("`{mark}`"))
        }
    }

    pub(super) fn word(&mut self, word: &str) -> Result<(), Problem> {
        if self.eat_word(word) {
            Ok(())
        } else {
            self.unexpected(&format!("`{word}`"))
        }
    }

    pub(super) fn name(&mut self, wanted: &str) -> Result<Name, Problem> {
        match self.kind() {
            Kind::Word(word) if RESERVED.contains(&word.as_str()) => Err(Problem::new(
                self.at(),
                format!("expected {wanted}, found the word `{word}` of the language"),
            )),
            Kind::Word(word) => {
                let name = Name {
                    text: word.clone(),
                    at: self.at(),
                };
                self.advance();
                Ok(name)
            }
            _ => self.unexpected(wanted),
        }
    }

    pub(super) fn value(&mut self) -> Result<Value, Problem> {
        match *self.kind() {
            Kind::Number(number) => {
                let value = Value::Number(number, self.at());
                self.advance();
                Ok(value)
            }
            _ => Ok(Value::Name(
                self.name("a number or the name of a constant")?,
            )),
        }
    }

    /// The doc comments that stand here.
    pub(super) fn doc(&mut self) -> Doc {
        let mut doc = Doc::default();
        while let Kind::Doc(text) = self.kind() {
            doc.add(text, self.at());
            self.advance();
        }
        doc
    }

    pub(super) fn nothing_to_document(&self, doc: &Doc) -> Result<(), Problem> {
        if doc.lines.is_empty() && doc.notes.is_empty() {
            return Ok(());
        }
        Err(Problem::new(
            self.at(),
            "nothing follows the doc comment that it could describe",
        ))
    }
}
