//! Text to tokens. Comments vanish here, except the doc comments `/** ... */`.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use super::{At, Problem};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Word(String),
    Number(i64),
    Mark(char),
    /// What stands between `/**` and `*/`.
    Doc(String),
    End,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Word(word) => write!(f, "`{word}`"),
            Kind::Number(number) => write!(f, "`{number}`"),
            Kind::Mark(mark) => write!(f, "`{mark}`"),
            Kind::Doc(_) => f.write_str("a doc comment"),
            Kind::End => f.write_str("the end of the file"),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) at: At,
}

/// The tokens of `text`; the last is always [`Kind::End`].
pub(crate) fn lex(text: &str, source: usize) -> Result<Vec<Token>, Problem> {
    let at = At {
        source,
        line: 1,
        column: 1,
    };
    let mut lexer = Lexer {
        chars: text.chars().peekable(),
        at,
    };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.token()?;
        let end = token.kind == Kind::End;
        tokens.push(token);
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    at: At,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.chars.next()?;
        if next == '\n' {
            self.at.line += 1;
            self.at.column = 1;
        } else {
            self.at.column += 1;
        }
        Some(next)
    }

    fn take_while(&mut self, mut wanted: impl FnMut(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(&next) = self.chars.peek() {
            if !wanted(next) {
                break;
            }
            taken.push(next);
            self.next();
        }
        taken
    }

    fn token(&mut self) -> Result<Token, Problem> {
        loop {
            self.take_while(char::is_whitespace);
            let at = self.at;
            let Some(&next) = self.chars.peek() else {
                return Ok(Token {
                    kind: Kind::End,
                    at,
                });
            };
            let kind = match next {
                '/' => match self.comment(at)? {
                    Some(doc) => Kind::Doc(doc),
                    None => continue,
                },
                'a'..='z' | 'A'..='Z' | '_' => Kind::Word(self.take_while(is_word)),
                '0'..='9' | '-' => Kind::Number(self.number(at)?),
                '{' | '}' | '(' | ')' | '<' | '>' | '[' | ']' | '*' | ',' | ';' | ':' | '=' => {
                    self.next();
                    Kind::Mark(next)
                }
                '%' | '#' => {
                    let message = format!(
                        "`{next}` lines are C text for rpcgen, which has no meaning here: remove it"
                    );
                    return Err(Problem::new(at, message));
                }
                other => return Err(Problem::new(at, format!("unexpected character {other:?}"))),
            };
            return Ok(Token { kind, at });
        }
    }

    /// Skips a comment, or returns what a doc comment says.
    fn comment(&mut self, at: At) -> Result<Option<String>, Problem> {
        self.next();
        match self.chars.peek() {
            Some('/') => {
                self.take_while(|c| c != '\n');
                Ok(None)
            }
            Some('*') => {
                self.next();
                let mut text = String::new();
                loop {
                    match self.next() {
                        Some('/') if text.ends_with('*') => break,
                        Some(next) => text.push(next),
                        None => return Err(Problem::new(at, "the comment is not closed")),
                    }
                }
                text.pop();
                // `/**/` is empty and `/***` opens a banner: neither is a doc comment.
                let doc = text.strip_prefix('*').filter(|rest| !rest.starts_with('*'));
                Ok(doc.map(str::to_owned))
            }
            _ => Err(Problem::new(at, "unexpected character '/'")),
        }
    }

    /// Decimal, `0x` hexadecimal or `0` octal, with an optional minus sign.
    fn number(&mut self, at: At) -> Result<i64, Problem> {
        let mut word = String::new();
        if self.chars.next_if_eq(&'-').is_some() {
            self.at.column += 1;
            word.push('-');
        }
        word.push_str(&self.take_while(is_word));
        let (sign, digits) = match word.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", word.as_str()),
        };
        let (digits, radix) = match digits
            .strip_prefix("0x")
            .or_else(|| digits.strip_prefix("0X"))
        {
            Some(digits) => (digits, 16),
            None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
            None => (digits, 10),
        };
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(Problem::new(at, format!("`{word}` is not a number")));
        }
        i64::from_str_radix(&format!("{sign}{digits}"), radix)
            .map_err(|_| Problem::new(at, format!("`{word}` does not fit 64 bits with a sign")))
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        lex(text, 0)
            .unwrap()
            .into_iter()
            .map(|token| token.kind)
            .collect()
    }

    fn problem(text: &str) -> (usize, usize, String) {
        let problem = lex(text, 0).unwrap_err();
        (problem.at.line, problem.at.column, problem.message)
    }

    #[test]
    fn numbers() {
        for (text, value) in [
            ("0", 0),
            ("42", 42),
            ("-1", -1),
            ("0x20008086", 0x2000_8086),
            ("0XfF", 255),
            ("-0x10", -16),
            ("0755", 0o755),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(kinds(text), [Kind::Number(value), Kind::End], "{text}");
        }
        for text in [
            "-",
            "- 1",
            "0x",
            "089",
            "12ab",
            "9223372036854775808",
            "-0x",
            "--1",
        ] {
            assert_eq!(problem(text).1, 1, "{text}");
        }
    }

    #[test]
    fn only_doc_comments_are_kept() {
        let text = "/* a */ x // y\n/**/ /*** banner ***/ /** doc * here */ z";
        let word = |word: &str| Kind::Word(word.into());
        assert_eq!(
            kinds(text),
            [
                word("x"),
                Kind::Doc(" doc * here ".into()),
                word("z"),
                Kind::End
            ]
        );
    }

    #[test]
    fn places_count_lines_and_characters() {
        let tokens = lex("é /* ü\n */  int x;", 7);
        assert_eq!(
            tokens.unwrap_err().at,
            At {
                source: 7,
                line: 1,
                column: 1
            }
        );
        let tokens = lex("/* ü\n */  int x;", 7).unwrap();
        assert_eq!(
            tokens[0].at,
            At {
                source: 7,
                line: 2,
                column: 6
            }
        );
        assert_eq!(
            tokens[1].at,
            At {
                source: 7,
                line: 2,
                column: 10
            }
        );
    }

    #[test]
    fn what_is_not_xdr() {
        assert_eq!(problem("int a;\n /* never").2, "the comment is not closed");
        assert_eq!(problem("int a;\n /* never").0, 2);
        assert_eq!(problem("/*/").2, "the comment is not closed");
        assert_eq!(problem("\n#define A 1").0, 2);
        assert!(problem("%#include <x>").2.contains("C text"));
        assert_eq!(problem("a / b").2, "unexpected character '/'");
        assert_eq!(problem("a @ b").2, "unexpected character '@'");
    }
}
