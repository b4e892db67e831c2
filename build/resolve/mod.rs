//! Definitions to model: looks up every name, gives every constant its value, merges programs.
//!
//! Wire names are one namespace over all files. Rust names are one per module, type, and `procedure` module.

mod programs;
mod symbols;
mod unions;

use std::collections::HashMap;

use self::symbols::{Constant, Expression, SIGNED, Symbol, UNSIGNED};
use super::ast::{self, Body, TypeKind};
use super::doc::Doc;
use super::model::{
    Base, Const, Declared, Enum, EnumValue, Field, Item, Model, ModuleModel, Origin, Shape, Type,
    TypeBody,
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

/// The comment at the top of a source on one line, else its path.
fn title(source: &Source) -> String {
    let comment = source
        .text
        .strip_prefix("/*")
        .filter(|rest| !rest.starts_with('*'));
    match comment.and_then(|rest| rest.split_once("*/")) {
        Some((text, _)) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        None => source.path.clone(),
    }
}

struct Resolver<'a> {
    modules: &'a [Module<'a>],
    sources: &'a [&'a Source],
    model: Model<'a>,
    symbols: HashMap<String, (Symbol, At)>,
    constants: Vec<Constant>,
    /// Rust names of enum values by wire name.
    enum_names: HashMap<String, String>,
    problems: Vec<Problem>,
}

impl<'a> Resolver<'a> {
    fn new(modules: &'a [Module<'a>], sources: &'a [&'a Source]) -> Self {
        let models = modules.iter().map(|module| ModuleModel {
            name: module.name,
            prefixes: module.prefixes,
            sources: Vec::new(),
            items: Vec::new(),
            program: None,
        });
        let model = Model {
            modules: models.collect(),
            titles: sources.iter().map(|source| title(source)).collect(),
            types: Vec::new(),
        };
        let mut resolver = Self {
            modules,
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

    /// The path of the Rust type that stands for a type of this name.
    fn given(&self, module: usize, name: &str) -> Option<String> {
        let given = self.modules.get(module)?.given;
        let (_, path) = given.iter().find(|(wire, _)| *wire == name)?;
        Some((*path).to_owned())
    }

    fn strip<'n>(&self, module: usize, name: &'n str) -> &'n str {
        names::strip(name, self.prefixes(module))
    }
}

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
            Body::Enum(item) => TypeBody::Enum(self.enum_type(module, item)),
            Body::Struct(fields) => TypeBody::Struct(self.fields(fields)),
            Body::Union(union) => TypeBody::Union(self.union(module, union)),
        };
        let rust = names::camel(self.strip(module, &name.text));
        let given = self.given(module, &name.text);
        let id = self.model.types.len();
        self.model.types.push(Type {
            origin,
            rust,
            module,
            given,
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
            let notes = std::mem::take(&mut field.notes);
            let mut declared = self.declared(field);
            if let Some(of) = &notes.of {
                self.number_of(&mut declared, of);
            }
            let yes_or_no = notes.yes_or_no.is_some();
            if let Some(at) = notes.yes_or_no {
                let int = Base::Scalar(ast::Scalar::Int);
                if declared.base != int || declared.shape != Shape::Plain {
                    self.problem(at, "`@bool` goes with an `int`");
                } else if notes.value.is_some() || notes.adds.is_some() {
                    self.problem(at, "`@bool` goes without `@value` and `@adds`");
                }
            }
            let value = notes
                .value
                .and_then(|value| self.number(&value, "a value", "a number"));
            let adds = notes
                .adds
                .and_then(|bits| self.number(&bits, "a flag", UNSIGNED));
            resolved.push(Field {
                origin,
                rust,
                declared,
                value,
                adds: adds.map(|bits: u32| i64::from(bits)),
                secret: notes.secret,
                yes_or_no,
            });
        }
        resolved
    }

    /// A number becomes what it is a value of. Enums take a word on the wire, whatever C type stands there.
    fn number_of(&mut self, declared: &mut Declared, of: &ast::Name) {
        use ast::Scalar;
        let base = self.base(&ast::TypeName {
            kind: TypeKind::Named(of.text.clone()),
            at: of.at,
        });
        let Some(Base::Type(id)) = base else { return };
        let message = match declared.base {
            _ if !self.is_enum(id) => format!("`{}` is not an enum", of.text),
            Base::Scalar(
                Scalar::Int | Scalar::UnsignedInt | Scalar::Char | Scalar::UnsignedChar,
            ) => {
                declared.base = Base::Type(id);
                return;
            }
            Base::Scalar(Scalar::Hyper | Scalar::UnsignedHyper)
                if declared.shape == Shape::Plain =>
            {
                declared.base = Base::Wide(id);
                return;
            }
            _ => "`@enum` and `@flags` go with a number".to_owned(),
        };
        self.problem(of.at, message);
    }

    fn enum_type(&mut self, module: usize, item: ast::Enum) -> Enum {
        let values = self.enum_values(module, item.flags, item.values);
        Enum {
            flags: item.flags,
            values,
        }
    }

    fn enum_values(
        &mut self,
        module: usize,
        flags: bool,
        values: Vec<ast::EnumValue>,
    ) -> Vec<EnumValue> {
        let aliases = self
            .modules
            .get(module)
            .is_some_and(|module| module.aliases);
        let mut seen = Names::new("value");
        let mut numbers: HashMap<i64, String> = HashMap::new();
        let mut resolved = Vec::new();
        for value in values {
            let wire = value.name.text.clone();
            let origin = self.origin(&value.name, value.doc);
            let number = ast::Value::Name(value.name);
            let number = if flags {
                self.number::<u32>(&number, "a flag", UNSIGNED)
                    .map(i64::from)
            } else {
                self.number::<i32>(&number, "an enum value", SIGNED)
                    .map(i64::from)
            };
            let Some(number) = number else { continue };
            if let Some(first) = numbers.insert(number, wire.clone())
                && !aliases
            {
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
