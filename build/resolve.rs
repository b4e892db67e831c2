//! Definitions to model: looks up every name, gives every constant its value, merges programs.
//!
//! Wire names are one namespace over all files. Rust names are one per module, type, and `procedure` module.

use std::collections::HashMap;

use super::ast::{self, Body, TypeKind};
use super::doc::Doc;
use super::model::{
    Arm, Base, Const, Declared, Discriminant, EnumValue, Field, Item, Model, ModuleModel, Origin,
    Procedure, Program, Shape, Type, TypeBody, TypeId, Union, Variant,
};
use super::{At, Module, Problem, Source, layout, names, path};

/// Everything `emit` needs, or every problem found.
pub(crate) fn resolve<'a>(
    modules: &'a [Module<'a>],
    sources: &'a [&'a Source],
    files: Vec<ast::File>,
) -> Result<Model<'a>, Vec<Problem>> {
    let mut resolver = Resolver::new(modules, sources);
    resolver.collect(&files);
    resolver.evaluate();
    for file in files {
        for definition in file.definitions {
            resolver.definition(file.module, definition);
        }
    }
    resolver.finish()
}

struct Resolver<'a> {
    sources: &'a [&'a Source],
    model: Model<'a>,
    symbols: HashMap<String, (Symbol, At)>,
    constants: Vec<Constant>,
    /// Rust names of enum values by wire name.
    enum_names: HashMap<String, String>,
    problems: Vec<Problem>,
}

/// What a wire name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Symbol {
    /// Index into the constants; with the enum it is a value of.
    Constant(usize, Option<TypeId>),
    Type(TypeId),
    Program,
    Version,
    Procedure,
}

struct Constant {
    at: At,
    expression: Expression,
    /// Nothing before it is evaluated, and while that goes on.
    value: Option<i64>,
    visited: bool,
}

enum Expression {
    Number(i64),
    Name(ast::Name),
    /// One more than the constant before.
    After(usize),
}

impl<'a> Resolver<'a> {
    fn new(modules: &'a [Module<'a>], sources: &'a [&'a Source]) -> Self {
        let modules = modules.iter().map(|module| ModuleModel {
            name: module.name,
            prefixes: module.prefixes,
            sources: Vec::new(),
            items: Vec::new(),
            program: None,
        });
        let model = Model {
            modules: modules.collect(),
            types: Vec::new(),
        };
        let mut resolver = Self {
            sources,
            model,
            symbols: HashMap::new(),
            constants: Vec::new(),
            enum_names: HashMap::new(),
            problems: Vec::new(),
        };
        for (name, value) in [("FALSE", 0), ("TRUE", 1)] {
            let symbol = resolver.constant(At::default(), Expression::Number(value), None);
            resolver
                .symbols
                .insert(name.to_owned(), (symbol, At::default()));
        }
        resolver
    }

    fn problem(&mut self, at: At, message: impl Into<String>) {
        self.problems.push(Problem::new(at, message));
    }

    fn place(&self, at: At) -> String {
        format!("{}:{}", path(self.sources, at), at.line)
    }

    fn origin(&self, name: &ast::Name, doc: Doc) -> Origin {
        Origin {
            wire: name.text.clone(),
            at: name.at,
            place: self.place(name.at),
            doc: doc.lines,
        }
    }

    fn prefixes(&self, module: usize) -> &'a [&'a str] {
        self.model
            .modules
            .get(module)
            .map_or(&[], |module| module.prefixes)
    }

    fn strip<'n>(&self, module: usize, name: &'n str) -> &'n str {
        names::strip(name, self.prefixes(module))
    }
}

/// First pass: what each name stands for.
impl Resolver<'_> {
    fn collect(&mut self, files: &[ast::File]) {
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
                    if let Body::Enum(values) = body {
                        self.enum_constants(types, values);
                        self.name_enum_values(module, name, values);
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

    fn constant(&mut self, at: At, expression: Expression, of: Option<TypeId>) -> Symbol {
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
    fn evaluate(&mut self) {
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

    fn lookup_constant(&mut self, name: &ast::Name) -> Option<usize> {
        let message = match self.symbols.get(&name.text) {
            Some((Symbol::Constant(index, _), _)) => return Some(*index),
            Some(_) => format!("`{}` is not a constant", name.text),
            None => format!("unknown constant `{}`", name.text),
        };
        self.problem(name.at, message);
        None
    }

    /// The number, if it is one and lies in `range`; what it is for goes into the message.
    fn number<T: TryFrom<i64>>(
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

const UNSIGNED: &str = "0 to 4294967295";
const SIGNED: &str = "-2147483648 to 2147483647";

/// Third pass: the items.
impl Resolver<'_> {
    fn definition(&mut self, module: usize, definition: ast::Definition) {
        let ast::Definition { doc, name, body } = definition;
        let origin = self.origin(&name, doc);
        let body = match body {
            Body::Const(value) => {
                if let Some(value) = self.number(&value, "a constant", "a number") {
                    let rust = names::constant(self.strip(module, &name.text));
                    self.item(
                        module,
                        Item::Const(Const {
                            origin,
                            rust,
                            value,
                        }),
                    );
                }
                return;
            }
            Body::Program(program) => return self.program(module, origin, program),
            Body::Typedef(declaration) => TypeBody::Typedef(self.declared(declaration)),
            Body::Enum(values) => TypeBody::Enum(self.enum_values(values)),
            Body::Struct(fields) => TypeBody::Struct(self.fields(fields)),
            Body::Union(union) => TypeBody::Union(self.union(module, union)),
        };
        let rust = names::camel(self.strip(module, &name.text));
        let id = self.model.types.len();
        self.model.types.push(Type {
            origin,
            rust,
            module,
            body,
            layout: Default::default(),
        });
        self.item(module, Item::Type(id));
    }

    fn item(&mut self, module: usize, item: Item) {
        if let Some(module) = self.model.modules.get_mut(module) {
            module.items.push(item);
        }
    }

    fn base(&mut self, ty: &ast::TypeName) -> Option<Base> {
        let name = match &ty.kind {
            TypeKind::Scalar(scalar) => return Some(Base::Scalar(*scalar)),
            TypeKind::String => return Some(Base::String),
            TypeKind::Opaque => return Some(Base::Opaque),
            TypeKind::Named(name) => name,
        };
        let message = match self.symbols.get(name) {
            Some((Symbol::Type(id), _)) => return Some(Base::Type(*id)),
            Some(_) => format!("`{name}` is not a type"),
            None => format!("unknown type `{name}`"),
        };
        self.problem(ty.at, message);
        None
    }

    /// A problem leaves an `int` behind, so that the rest can still be checked.
    fn declared(&mut self, declaration: ast::Declaration) -> Declared {
        let base = self
            .base(&declaration.ty)
            .unwrap_or(Base::Scalar(ast::Scalar::Int));
        let shape = match &declaration.shape {
            ast::Shape::Plain => Shape::Plain,
            ast::Shape::Optional => Shape::Optional,
            ast::Shape::Fixed(length) => {
                Shape::Fixed(self.number(length, "a length", UNSIGNED).unwrap_or(0))
            }
            ast::Shape::Variable(None) => Shape::Variable(u32::MAX),
            ast::Shape::Variable(Some(limit)) => {
                Shape::Variable(self.number(limit, "a limit", UNSIGNED).unwrap_or(0))
            }
        };
        Declared {
            base,
            shape,
            text: declaration.text,
            at: declaration.name.at,
        }
    }

    fn fields(&mut self, fields: Vec<ast::Declaration>) -> Vec<Field> {
        let mut seen = Names::new("field");
        let mut resolved = Vec::new();
        for mut field in fields {
            let doc = std::mem::take(&mut field.doc);
            let origin = self.origin(&field.name, doc);
            let rust = names::field(&field.name.text);
            seen.add(&rust, &origin, &mut self.problems);
            resolved.push(Field {
                origin,
                rust,
                declared: self.declared(field),
            });
        }
        resolved
    }

    fn enum_values(&mut self, values: Vec<ast::EnumValue>) -> Vec<EnumValue> {
        let mut seen = Names::new("value");
        let mut numbers: HashMap<i32, String> = HashMap::new();
        let mut resolved = Vec::new();
        for value in values {
            let wire = value.name.text.clone();
            let origin = self.origin(&value.name, value.doc);
            let number = ast::Value::Name(value.name);
            let Some(number) = self.number::<i32>(&number, "an enum value", SIGNED) else {
                continue;
            };
            if let Some(first) = numbers.insert(number, wire.clone()) {
                self.problem(
                    origin.at,
                    format!("`{wire}` has the number {number} of `{first}`"),
                );
            }
            let rust = self.enum_names.get(&wire).cloned().unwrap_or_default();
            seen.add(&rust, &origin, &mut self.problems);
            resolved.push(EnumValue {
                origin,
                rust,
                value: number,
            });
        }
        resolved
    }
}

/// Unions.
impl Resolver<'_> {
    fn union(&mut self, module: usize, union: ast::Union) -> Union {
        let discriminant = self.discriminant(&union.discriminant);
        let discriminant_name = union.discriminant.name.text;
        let mut variants: Vec<Variant> = Vec::new();
        let mut default: Option<Arm> = None;
        let mut seen = Names::new("arm");
        for mut arm in union.arms {
            let declared = arm.declaration.take().map(|declaration| {
                let name = declaration.name.clone();
                (name, self.declared(declaration))
            });
            let (field, declared) = declared.unzip();
            let single = arm.labels.len() == 1;
            for label in &arm.labels {
                let Some((value, label)) = self.label(discriminant, label) else {
                    continue;
                };
                if variants.iter().any(|variant| variant.value == value) {
                    self.problem(arm.at, format!("case {value} is there twice"));
                }
                let short = self.short_label(module, discriminant, &label);
                let rust = names::variant(
                    field
                        .as_ref()
                        .filter(|_| single)
                        .map_or(&short, |name| &name.text),
                );
                let origin = self.arm_origin(&arm, field.as_ref(), &label);
                seen.add(&rust, &origin, &mut self.problems);
                variants.push(Variant {
                    rust,
                    label,
                    value,
                    arm: Arm {
                        origin,
                        declared: declared.clone(),
                    },
                });
            }
            if arm.labels.is_empty() {
                let origin = self.arm_origin(&arm, field.as_ref(), "default");
                if default.is_some() {
                    self.problem(arm.at, "a union has one default arm");
                }
                if discriminant != Discriminant::Bool {
                    seen.add("Default", &origin, &mut self.problems);
                }
                default = Some(Arm { origin, declared });
            }
        }
        if discriminant == Discriminant::Bool
            && let Some(arm) = default.take()
        {
            self.bool_default(&mut variants, arm, &mut seen);
        }
        Union {
            discriminant,
            discriminant_name,
            variants,
            default,
        }
    }

    /// The default arm of a bool stands for the labels that are not there.
    fn bool_default(&mut self, variants: &mut Vec<Variant>, arm: Arm, seen: &mut Names<'_>) {
        let at = arm.origin.at;
        let before = variants.len();
        for (value, label) in [(0, "FALSE"), (1, "TRUE")] {
            if variants
                .iter()
                .take(before)
                .all(|variant| variant.value != value)
            {
                let rust = names::variant(label);
                seen.add(&rust, &arm.origin, &mut self.problems);
                variants.push(Variant {
                    rust,
                    label: label.to_owned(),
                    value,
                    arm: arm.clone(),
                });
            }
        }
        if variants.len() == before {
            self.problem(at, "no value is left for the default arm");
        }
    }

    fn discriminant(&mut self, declaration: &ast::Declaration) -> Discriminant {
        let plain = matches!(declaration.shape, ast::Shape::Plain);
        let found = match self.base(&declaration.ty) {
            Some(Base::Scalar(ast::Scalar::Int)) => Some(Discriminant::Int),
            Some(Base::Scalar(ast::Scalar::UnsignedInt)) => Some(Discriminant::UnsignedInt),
            Some(Base::Scalar(ast::Scalar::Bool)) => Some(Discriminant::Bool),
            Some(Base::Type(id)) if self.is_enum(id) => Some(Discriminant::Enum(id)),
            Some(_) => None,
            None => return Discriminant::Int,
        };
        found.filter(|_| plain).unwrap_or_else(|| {
            self.problem(
                declaration.ty.at,
                "a union switches on int, unsigned int, bool or an enum",
            );
            Discriminant::Int
        })
    }

    /// An enum has values, and the names of values say whose they are.
    fn is_enum(&self, id: TypeId) -> bool {
        self.symbols
            .values()
            .any(|(symbol, _)| matches!(symbol, Symbol::Constant(_, Some(of)) if *of == id))
    }

    /// Value and spelling of a case label.
    fn label(&mut self, discriminant: Discriminant, label: &ast::Value) -> Option<(i64, String)> {
        let text = match label {
            ast::Value::Number(number, _) => number.to_string(),
            ast::Value::Name(name) => name.text.clone(),
        };
        let value = match discriminant {
            Discriminant::Int => self.number::<i32>(label, "a case", SIGNED).map(i64::from),
            Discriminant::UnsignedInt => {
                self.number::<u32>(label, "a case", UNSIGNED).map(i64::from)
            }
            Discriminant::Bool => {
                let value = self.number::<i64>(label, "a case", SIGNED)?;
                if !(0..=1).contains(&value) {
                    self.problem(
                        label.at(),
                        format!("a case of a bool is FALSE or TRUE, not {value}"),
                    );
                    return None;
                }
                return Some((value, if value == 0 { "FALSE" } else { "TRUE" }.to_owned()));
            }
            Discriminant::Enum(id) => {
                let symbol = self.symbols.get(&text).map(|(symbol, _)| *symbol);
                if !matches!(symbol, Some(Symbol::Constant(_, Some(of))) if of == id) {
                    self.problem(
                        label.at(),
                        format!("`{text}` is not a value of the enum that the union switches on"),
                    );
                    return None;
                }
                self.number::<i32>(label, "a case", SIGNED).map(i64::from)
            }
        };
        Some((value?, text))
    }

    /// A case label as the name of a variant: as the enum calls it, else without the prefix of the module.
    fn short_label(&self, module: usize, discriminant: Discriminant, label: &str) -> String {
        if let Some(number) = label.strip_prefix('-') {
            return format!("case_minus_{number}");
        }
        if label.starts_with(|c: char| c.is_ascii_digit()) {
            return format!("case_{label}");
        }
        match self
            .enum_names
            .get(label)
            .filter(|_| matches!(discriminant, Discriminant::Enum(_)))
        {
            Some(name) => name.clone(),
            None => self.strip(module, label).to_owned(),
        }
    }

    fn arm_origin(&self, arm: &ast::Arm, field: Option<&ast::Name>, label: &str) -> Origin {
        let wire = field.map_or(label, |name| name.text.as_str()).to_owned();
        Origin {
            wire,
            at: arm.at,
            place: self.place(arm.at),
            doc: arm.doc.lines.clone(),
        }
    }
}

/// Programs.
impl Resolver<'_> {
    fn program(&mut self, module: usize, origin: Origin, program: ast::Program) {
        let version_origin = self.origin(&program.version_name, Doc::default());
        let number = self.number(&program.number, "a program number", UNSIGNED);
        let version = self.number(&program.version, "a version number", UNSIGNED);
        let (Some(number), Some(version)) = (number, version) else {
            return;
        };
        let mut procedures = Vec::new();
        for procedure in program.procedures {
            procedures.extend(self.procedure(module, procedure));
        }
        let here = &origin;
        let version_here = &version_origin;
        let elsewhere = self
            .model
            .modules
            .iter()
            .enumerate()
            .find_map(|(index, module_model)| {
                let other = module_model.program.as_ref().filter(|_| index != module)?;
                let same = other.origin.wire == here.wire || other.number == number;
                same.then(|| {
                    (
                        here.at,
                        format!(
                            "`{}` is in module `{}` at {}",
                            other.origin.wire, module_model.name, other.origin.place
                        ),
                    )
                })
            });
        let Some(slot) = self
            .model
            .modules
            .get_mut(module)
            .map(|module| &mut module.program)
        else {
            return;
        };
        let mismatch = slot.as_ref().and_then(|first| {
            let Origin { wire, place, .. } = &first.origin;
            if *wire != here.wire {
                Some((
                    here.at,
                    format!("the module has the program `{wire}` already, at {place}"),
                ))
            } else if first.number != number {
                Some((
                    here.at,
                    format!("`{wire}` has the number {:#x} at {place}", first.number),
                ))
            } else if first.version_origin.wire != version_here.wire || first.version != version {
                let message = format!(
                    "`{wire}` has `{}` = {} at {place}",
                    first.version_origin.wire, first.version
                );
                Some((version_here.at, message))
            } else {
                None
            }
        });
        match slot {
            Some(first) if mismatch.is_none() => first.procedures.extend(procedures),
            Some(_) => {}
            None => {
                *slot = Some(Program {
                    origin,
                    number,
                    version_origin,
                    version,
                    procedures,
                })
            }
        }
        for (at, message) in elsewhere.into_iter().chain(mismatch) {
            self.problem(at, message);
        }
    }

    fn procedure(&mut self, module: usize, procedure: ast::Procedure) -> Option<Procedure> {
        let notes = match procedure.doc.annotations() {
            Ok(notes) => notes,
            Err(problem) => {
                self.problems.push(problem);
                return None;
            }
        };
        let rust = names::camel(self.strip(module, &procedure.name.text));
        let at = procedure.name.at;
        let origin = self.origin(&procedure.name, procedure.doc);
        let number = self.number(&procedure.number, "a procedure number", SIGNED)?;
        if notes.event && procedure.reply.is_some() {
            self.problem(at, "nobody answers an event: it returns void");
        }
        if notes.event && (notes.priority.is_some() || notes.stream.is_some()) {
            self.problem(at, "an event has neither a priority nor a stream");
        }
        let argument = self.message(procedure.argument)?;
        let reply = self.message(procedure.reply)?;
        let mut facts = Vec::new();
        if let Some(way) = notes.stream {
            let who = if way == "read" {
                "the server sends"
            } else {
                "the client sends"
            };
            facts.push(format!("Opens a stream on which {who}."));
        }
        facts.extend(
            notes
                .fds_in
                .map(|range| format!("Descriptors with the call: {range}.")),
        );
        facts.extend(
            notes
                .fds_out
                .map(|range| format!("Descriptors with the reply: {range}.")),
        );
        facts.extend(notes.priority.map(|level| format!("Priority: {level}.")));
        facts.extend(
            notes
                .since
                .map(|version| format!("Since libvirt {version}.")),
        );
        Some(Procedure {
            origin,
            rust,
            number,
            event: notes.event,
            facts,
            argument,
            reply,
        })
    }

    /// What an argument or a reply is made of: `Some(None)` is void, `None` a problem.
    fn message(&mut self, ty: Option<ast::TypeName>) -> Option<Option<Base>> {
        let Some(ty) = ty else { return Some(None) };
        let base = self.base(&ty)?;
        if matches!(base, Base::String | Base::Opaque) {
            self.problem(
                ty.at,
                "an argument or a reply is a struct, a union, an enum, a number or void",
            );
            return None;
        }
        Some(Some(base))
    }
}

/// Last pass: what can be said only of the whole.
impl<'a> Resolver<'a> {
    fn finish(mut self) -> Result<Model<'a>, Vec<Problem>> {
        self.check_rust_names();
        self.check_procedures();
        if self.problems.is_empty()
            && let Err(problems) = layout::lay_out(&mut self.model.types)
        {
            self.problems.extend(problems);
        }
        if self.problems.is_empty() {
            self.check_messages();
        }
        if self.problems.is_empty() {
            Ok(self.model)
        } else {
            Err(self.problems)
        }
    }

    fn check_rust_names(&mut self) {
        for module in &self.model.modules {
            let mut seen = Names::new("item");
            for item in &module.items {
                let named = match item {
                    Item::Const(item) => Some((&item.rust, &item.origin)),
                    Item::Type(id) => self.model.types.get(*id).map(|ty| (&ty.rust, &ty.origin)),
                };
                if let Some((rust, origin)) = named {
                    seen.add(rust, origin, &mut self.problems);
                }
            }
            let Some(program) = &module.program else {
                continue;
            };
            seen.add("PROGRAM", &program.origin, &mut self.problems);
            seen.add("VERSION", &program.version_origin, &mut self.problems);
            let mut seen = Names::new("procedure");
            for procedure in &program.procedures {
                seen.add(&procedure.rust, &procedure.origin, &mut self.problems);
            }
        }
    }

    /// Sorts them by number, and finds numbers given twice.
    fn check_procedures(&mut self) {
        for program in self
            .model
            .modules
            .iter_mut()
            .filter_map(|module| module.program.as_mut())
        {
            program
                .procedures
                .sort_by_key(|procedure| (procedure.number, procedure.origin.at));
            for pair in program.procedures.windows(2) {
                if let [first, second] = pair
                    && first.number == second.number
                {
                    let Origin { wire, place, .. } = &first.origin;
                    let message = format!("{} is the number of `{wire}` at {place}", second.number);
                    self.problems.push(Problem::new(second.origin.at, message));
                }
            }
        }
    }

    /// An argument or a reply needs a Rust type of its own, or one that xdr-codec knows.
    fn check_messages(&mut self) {
        for program in self
            .model
            .modules
            .iter()
            .filter_map(|module| module.program.as_ref())
        {
            for procedure in &program.procedures {
                let mut messages = procedure.argument.iter().chain(&procedure.reply);
                if !messages.all(|base| layout::has_codec(&self.model.types, *base)) {
                    let message =
                        "an argument or a reply is a struct, a union, an enum, a number or void";
                    self.problems
                        .push(Problem::new(procedure.origin.at, message));
                }
            }
        }
    }
}

/// Finds two wire names that become one Rust name.
struct Names<'a> {
    kind: &'a str,
    seen: HashMap<String, (String, String)>,
}

impl<'a> Names<'a> {
    fn new(kind: &'a str) -> Self {
        Self {
            kind,
            seen: HashMap::new(),
        }
    }

    fn add(&mut self, rust: &str, origin: &Origin, problems: &mut Vec<Problem>) {
        let Origin {
            wire, place, at, ..
        } = origin;
        if let Some((other, other_place)) = self.seen.get(rust) {
            // Two equal wire names in one namespace are reported where they are defined.
            if other != wire || matches!(self.kind, "field" | "arm") {
                let message = format!(
                    "{} `{wire}` and `{other}` at {other_place} are both `{rust}` in Rust",
                    self.kind
                );
                problems.push(Problem::new(*at, message));
            }
            return;
        }
        self.seen
            .insert(rust.to_owned(), (wire.clone(), place.clone()));
    }
}
