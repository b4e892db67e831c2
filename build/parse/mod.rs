//! Tokens to definitions: RFC 4506 for the types, RFC 5531 for programs. No recursion, so no text is too deep.

mod declarations;
mod tokens;

use super::Problem;
use super::ast::{
    Arm, Body, Declaration, Definition, Enum, EnumValue, Name, Procedure, Program, Union,
};
use super::doc::Doc;
use super::lex::{Kind, Token};

/// All definitions of a file, or the first problem in it.
pub(crate) fn parse(tokens: Vec<Token>) -> Result<Vec<Definition>, Problem> {
    let mut parser = Parser { tokens, next: 0 };
    let mut definitions = Vec::new();
    loop {
        let doc = parser.doc();
        if parser.kind() == &Kind::End {
            parser.nothing_to_document(&doc)?;
            return Ok(definitions);
        }
        definitions.push(parser.definition(doc)?);
    }
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
}

/// Tokens.
impl Parser {
    fn definition(&mut self, doc: Doc) -> Result<Definition, Problem> {
        let Kind::Word(word) = self.kind() else {
            doc.no_notes()?;
            return self.unexpected("a definition");
        };
        let keyword = word.clone();
        let flags = keyword == "enum" && doc.is_flags()?;
        if keyword != "enum" {
            doc.no_notes()?;
        }
        let at = self.at();
        self.advance();
        let (name, body) = match keyword.as_str() {
            "const" => {
                let name = self.name("the name of the constant")?;
                self.mark('=')?;
                (name, Body::Const(self.value()?))
            }
            "typedef" => {
                let declaration = self.declaration(Doc::default())?;
                (declaration.name.clone(), Body::Typedef(declaration))
            }
            "enum" => {
                let name = self.type_name_of("enum")?;
                let values = self.enum_values()?;
                (name, Body::Enum(Enum { flags, values }))
            }
            "struct" => (self.type_name_of("struct")?, Body::Struct(self.fields()?)),
            "union" => (self.type_name_of("union")?, Body::Union(self.union()?)),
            "program" => {
                let name = self.name("the name of the program")?;
                (name, Body::Program(self.program()?))
            }
            _ => {
                let wanted = "`const`, `typedef`, `enum`, `struct`, `union` or `program`";
                return Err(Problem::new(
                    at,
                    format!("expected {wanted}, found `{keyword}`"),
                ));
            }
        };
        self.mark(';')?;
        Ok(Definition { doc, name, body })
    }

    fn type_name_of(&mut self, kind: &str) -> Result<Name, Problem> {
        self.name(&format!("the name of the {kind}"))
    }

    fn enum_values(&mut self) -> Result<Vec<EnumValue>, Problem> {
        let mut values = Vec::new();
        self.mark('{')?;
        loop {
            let doc = self.doc();
            doc.no_notes()?;
            if !values.is_empty() && self.is_mark('}') {
                self.nothing_to_document(&doc)?;
                break;
            }
            let name = self.name("the name of a value")?;
            let value = if self.eat_mark('=') {
                Some(self.value()?)
            } else {
                None
            };
            values.push(EnumValue { doc, name, value });
            if !self.eat_mark(',') {
                break;
            }
        }
        self.mark('}')?;
        Ok(values)
    }

    fn fields(&mut self) -> Result<Vec<Declaration>, Problem> {
        let mut fields = Vec::new();
        self.mark('{')?;
        loop {
            let doc = self.doc();
            let notes = doc.field_notes()?;
            if self.is_mark('}') {
                self.nothing_to_document(&doc)?;
                if fields.is_empty() {
                    return self.unexpected("at least one field");
                }
                self.advance();
                return Ok(fields);
            }
            let field = self.declaration(doc)?;
            fields.push(Declaration { notes, ..field });
            self.mark(';')?;
        }
    }

    fn union(&mut self) -> Result<Union, Problem> {
        self.word("switch")?;
        self.mark('(')?;
        let discriminant = self.declaration(Doc::default())?;
        self.mark(')')?;
        self.mark('{')?;
        let mut arms = Vec::new();
        loop {
            let doc = self.doc();
            doc.no_notes()?;
            if self.is_mark('}') {
                self.nothing_to_document(&doc)?;
                if arms.is_empty() {
                    return self.unexpected("at least one arm");
                }
                self.advance();
                return Ok(Union { discriminant, arms });
            }
            arms.push(self.arm(doc)?);
        }
    }

    fn arm(&mut self, doc: Doc) -> Result<Arm, Problem> {
        let at = self.at();
        let mut labels = Vec::new();
        if self.eat_word("default") {
            self.mark(':')?;
        } else {
            if !self.is_word("case") {
                return self.unexpected("`case` or `default`");
            }
            while self.eat_word("case") {
                labels.push(self.value()?);
                self.mark(':')?;
            }
            if self.is_word("default") {
                return Err(Problem::new(
                    self.at(),
                    "`default` stands alone, not after a `case`",
                ));
            }
        }
        let declaration = if self.eat_word("void") {
            None
        } else {
            Some(self.declaration(Doc::default())?)
        };
        self.mark(';')?;
        Ok(Arm {
            doc,
            at,
            labels,
            declaration,
        })
    }

    fn program(&mut self) -> Result<Program, Problem> {
        self.mark('{')?;
        self.word("version")?;
        let version_name = self.name("the name of the version")?;
        self.mark('{')?;
        let mut procedures = Vec::new();
        loop {
            let doc = self.doc();
            if self.eat_mark('}') {
                self.nothing_to_document(&doc)?;
                break;
            }
            procedures.push(self.procedure(doc)?);
        }
        self.mark('=')?;
        let version = self.value()?;
        self.mark(';')?;
        if self.is_word("version") {
            return Err(Problem::new(self.at(), "a program has one version here"));
        }
        self.mark('}')?;
        self.mark('=')?;
        let number = self.value()?;
        Ok(Program {
            version_name,
            version,
            number,
            procedures,
        })
    }

    fn procedure(&mut self, doc: Doc) -> Result<Procedure, Problem> {
        let reply = if self.eat_word("void") {
            None
        } else {
            Some(self.type_name()?)
        };
        let name = self.name("the name of the procedure")?;
        self.mark('(')?;
        let argument = if self.eat_word("void") {
            None
        } else {
            Some(self.type_name()?)
        };
        if self.is_mark(',') {
            return Err(Problem::new(
                self.at(),
                "a procedure has one argument: put several in a struct",
            ));
        }
        self.mark(')')?;
        self.mark('=')?;
        let number = self.value()?;
        self.mark(';')?;
        Ok(Procedure {
            doc,
            name,
            number,
            argument,
            reply,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::ast::{Scalar, Shape, TypeKind, Value};
    use super::super::lex::lex;
    use super::*;

    fn one(text: &str) -> Definition {
        let mut definitions = parse(lex(text, 0).unwrap()).unwrap();
        assert_eq!(definitions.len(), 1, "{text}");
        definitions.remove(0)
    }

    fn problem(text: &str) -> String {
        let problem = parse(lex(text, 0).unwrap()).unwrap_err();
        format!(
            "{}:{}: {}",
            problem.at.line, problem.at.column, problem.message
        )
    }

    fn field(text: &str) -> Declaration {
        match one(&format!("struct s {{ {text}; }};")).body {
            Body::Struct(mut fields) => fields.remove(0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_scalar() {
        for (text, scalar) in [
            ("int", Scalar::Int),
            ("unsigned int", Scalar::UnsignedInt),
            ("unsigned", Scalar::UnsignedInt),
            ("hyper", Scalar::Hyper),
            ("unsigned hyper", Scalar::UnsignedHyper),
            ("float", Scalar::Float),
            ("double", Scalar::Double),
            ("bool", Scalar::Bool),
            ("char", Scalar::Char),
            ("unsigned char", Scalar::UnsignedChar),
            ("short", Scalar::Short),
            ("unsigned short", Scalar::UnsignedShort),
        ] {
            assert_eq!(
                field(&format!("{text} x")).ty.kind,
                TypeKind::Scalar(scalar),
                "{text}"
            );
        }
    }

    #[test]
    fn every_shape() {
        assert!(matches!(field("foo x").shape, Shape::Plain));
        assert!(matches!(field("foo *x").shape, Shape::Optional));
        assert!(matches!(
            field("foo x[3]").shape,
            Shape::Fixed(Value::Number(3, _))
        ));
        assert!(matches!(field("foo x<>").shape, Shape::Variable(None)));
        assert!(matches!(
            field("foo x<MAX>").shape,
            Shape::Variable(Some(Value::Name(_)))
        ));
        assert_eq!(field("unsigned  int x < MAX >").text, "unsigned int x<MAX>");
        assert_eq!(field("foo*x").text, "foo *x");
        assert_eq!(field("opaque x [ 0x10 ]").text, "opaque x[16]");
    }

    #[test]
    fn program_and_version_may_name_fields() {
        assert_eq!(field("int program").name.text, "program");
        assert_eq!(field("int version").name.text, "version");
    }

    #[test]
    fn arms_share_labels() {
        let text =
            "union u switch (int d) { case 1: case A: int x; case 2: void; default: string s<>; };";
        let Body::Union(union) = one(text).body else {
            panic!("not a union")
        };
        let labels: Vec<usize> = union.arms.iter().map(|arm| arm.labels.len()).collect();
        assert_eq!(labels, [2, 1, 0]);
        assert!(union.arms[1].declaration.is_none());
    }

    #[test]
    fn problems_say_what_was_wanted() {
        for (text, message) in [
            (
                "int x;",
                "1:1: expected `const`, `typedef`, `enum`, `struct`, `union` or `program`, found `int`",
            ),
            ("; ", "1:1: expected a definition, found `;`"),
            (
                "const A = ;",
                "1:11: expected a number or the name of a constant, found `;`",
            ),
            (
                "const A = 1",
                "1:12: expected `;`, found the end of the file",
            ),
            (
                "struct s { };",
                "1:12: expected at least one field, found `}`",
            ),
            ("struct s { int; };", "1:15: expected a name, found `;`"),
            (
                "struct s { int case; };",
                "1:16: expected a name, found the word `case` of the language",
            ),
            (
                "struct s { quadruple q; };",
                "1:12: quadruple is not supported: Rust has no type for it",
            ),
            (
                "struct s { string x; };",
                "1:19: a string is written `string x<MAX>` or `string x<>`",
            ),
            (
                "typedef opaque *x;",
                "1:17: opaque data is written `opaque x[LENGTH]`, `opaque x<MAX>` or `opaque x<>`",
            ),
            (
                "struct s { struct t x; };",
                "1:12: a type is used by its name alone: define the struct on its own, then drop `struct`",
            ),
            (
                "struct s { void x; };",
                "1:12: void stands only for an arm, an argument or a reply",
            ),
            (
                "enum e { };",
                "1:10: expected the name of a value, found `}`",
            ),
            (
                "union u switch (int d) { };",
                "1:26: expected at least one arm, found `}`",
            ),
            (
                "union u switch (int d) { int x; };",
                "1:26: expected `case` or `default`, found `int`",
            ),
            (
                "union u switch (int d) { case 1: default: void; };",
                "1:34: `default` stands alone, not after a `case`",
            ),
            (
                "/** left over */",
                "1:17: nothing follows the doc comment that it could describe",
            ),
            (
                "struct s { int /** late */ x; };",
                "1:16: expected a name, found a doc comment",
            ),
            (
                "/** @event */ const A = 1;",
                "1:5: `@event`: annotations belong to procedures, fields and enums",
            ),
            (
                "program P { version V { void A(int, int) = 1; } = 1; } = 1;",
                "1:35: a procedure has one argument: put several in a struct",
            ),
            (
                "program P { version V { } = 1; version W { } = 2; } = 1;",
                "1:32: a program has one version here",
            ),
        ] {
            assert_eq!(problem(text), message, "{text}");
        }
    }
}
