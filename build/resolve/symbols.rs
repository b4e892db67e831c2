//! What each wire name stands for, and the value of each constant.

use super::super::At;
use super::super::ast::{self, Body};
use super::super::model::TypeId;
use super::super::names;
use super::Resolver;

/// What a wire name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbol {
    /// Index into the constants; with the enum it is a value of.
    Constant(usize, Option<TypeId>),
    Type(TypeId),
    Program,
    Version,
    Procedure,
}

pub(super) struct Constant {
    at: At,
    expression: Expression,
    /// Nothing before it is evaluated, and while that goes on.
    value: Option<i64>,
    visited: bool,
}

pub(super) enum Expression {
    Number(i64),
    Name(ast::Name),
    /// One more than the constant before.
    After(usize),
}

/// First pass: what each name stands for.
impl Resolver<'_> {
    pub(super) fn collect(&mut self, files: &[ast::File]) {
        for (source, file) in self.sources.iter().zip(files) {
            if let Some(module) = self.model.modules.get_mut(file.module) {
                module.sources.push(&source.path);
            }
        }
        let mut types = 0;
        let definitions = files
            .iter()
            .flat_map(|file| file.definitions.iter().map(|item| (file.module, item)));
        for (module, definition) in definitions {
            let name = &definition.name;
            match &definition.body {
                Body::Const(value) => {
                    let symbol = self.constant(name.at, expression(value), None);
                    self.define(name, symbol);
                }
                Body::Program(program) => {
                    self.define_again(name, Symbol::Program);
                    self.define_again(&program.version_name, Symbol::Version);
                    for procedure in &program.procedures {
                        self.define(&procedure.name, Symbol::Procedure);
                    }
                }
                body => {
                    self.define(name, Symbol::Type(types));
                    if let Body::Enum(item) = body {
                        self.enum_constants(types, &item.values);
                        self.name_enum_values(module, name, &item.values);
                    }
                    types += 1;
                }
            }
        }
    }

    fn enum_constants(&mut self, id: TypeId, values: &[ast::EnumValue]) {
        let mut last = None;
        for value in values {
            let expression = match (&value.value, last) {
                (Some(value), _) => expression(value),
                (None, Some(last)) => Expression::After(last),
                (None, None) => Expression::Number(0),
            };
            last = Some(self.constants.len());
            let symbol = self.constant(value.name.at, expression, Some(id));
            self.define(&value.name, symbol);
        }
    }

    fn name_enum_values(&mut self, module: usize, name: &ast::Name, values: &[ast::EnumValue]) {
        let wire: Vec<&str> = values
            .iter()
            .map(|value| value.name.text.as_str())
            .collect();
        let prefix = names::common_prefix(&name.text, &wire);
        for wire in wire {
            let short = match names::strip(wire, &[&prefix]) {
                whole if whole == wire => self.strip(module, wire),
                short => short,
            };
            let rust = names::constant(short);
            self.enum_names.insert(wire.to_owned(), rust);
        }
    }

    pub(super) fn constant(
        &mut self,
        at: At,
        expression: Expression,
        of: Option<TypeId>,
    ) -> Symbol {
        self.constants.push(Constant {
            at,
            expression,
            value: None,
            visited: false,
        });
        Symbol::Constant(self.constants.len() - 1, of)
    }

    fn define(&mut self, name: &ast::Name, symbol: Symbol) {
        match self.symbols.get(&name.text) {
            None => {
                self.symbols.insert(name.text.clone(), (symbol, name.at));
            }
            Some((_, at)) if at.line == 0 => {
                self.problem(
                    name.at,
                    format!("`{}` is defined by the language", name.text),
                );
            }
            Some((_, at)) => {
                let first = format!("{}:{}", self.place(*at), at.column);
                self.problem(
                    name.at,
                    format!("`{}` is already defined at {first}", name.text),
                );
            }
        }
    }

    /// A program and its version may come in several parts.
    fn define_again(&mut self, name: &ast::Name, symbol: Symbol) {
        if self
            .symbols
            .get(&name.text)
            .is_none_or(|(first, _)| *first != symbol)
        {
            self.define(name, symbol);
        }
    }
}

fn expression(value: &ast::Value) -> Expression {
    match value {
        ast::Value::Number(number, _) => Expression::Number(*number),
        ast::Value::Name(name) => Expression::Name(name.clone()),
    }
}

/// Second pass: the value of each constant. A chain of names is walked with a stack of our own.
impl Resolver<'_> {
    pub(super) fn evaluate(&mut self) {
        for index in 0..self.constants.len() {
            let mut chain = Vec::new();
            let mut here = index;
            let mut value = loop {
                let Some(constant) = self.constants.get_mut(here) else {
                    break 0;
                };
                if let Some(value) = constant.value {
                    break value;
                }
                let at = constant.at;
                if std::mem::replace(&mut constant.visited, true) {
                    self.problem(at, "a constant cannot be defined by itself");
                    break 0;
                }
                chain.push(here);
                here = match &constant.expression {
                    Expression::Number(value) => break *value,
                    Expression::After(before) => *before,
                    Expression::Name(name) => {
                        let name = name.clone();
                        match self.lookup_constant(&name) {
                            Some(index) => index,
                            None => break 0,
                        }
                    }
                };
            };
            for index in chain.into_iter().rev() {
                let Some(constant) = self.constants.get_mut(index) else {
                    continue;
                };
                if matches!(constant.expression, Expression::After(_)) {
                    value = value.saturating_add(1);
                }
                constant.value = Some(value);
            }
        }
    }

    pub(super) fn lookup_constant(&mut self, name: &ast::Name) -> Option<usize> {
        let message = match self.symbols.get(&name.text) {
            Some((Symbol::Constant(index, _), _)) => return Some(*index),
            Some(_) => format!("`{}` is not a constant", name.text),
            None => format!("unknown constant `{}`", name.text),
        };
        self.problem(name.at, message);
        None
    }

    /// The number, if it is one and lies in `range`; what it is for goes into the message.
    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        value: &ast::Value,
        what: &str,
        range: &str,
    ) -> Option<T> {
        let number = match value {
            ast::Value::Number(number, _) => *number,
            ast::Value::Name(name) => {
                let index = self.lookup_constant(name)?;
                self.constants.get(index)?.value?
            }
        };
        let fits = T::try_from(number).ok();
        if fits.is_none() {
            self.problem(value.at(), format!("{what} is {range}, not {number}"));
        }
        fits
    }
}

pub(super) const UNSIGNED: &str = "0 to 4294967295";
pub(super) const SIGNED: &str = "-2147483648 to 2147483647";
