//! One method for each procedure that a user calls: its arguments as plain Rust values, its reply as the one value in it or as
//! the generated struct. They are text around `Outgoing`, which encodes, and one function that sends.

use std::fmt::Write as _;

use super::super::ast::Scalar;
use super::super::model::{
    Base, Declared, Field, Model, ModuleModel, Procedure, Shape, TypeBody, TypeId,
};
use super::super::{Problem, names};
use super::expressions::Types;
use super::{HEAD, answers};

/// The methods of the programs `modules`, for `owner`: a block of them for each source.
pub(super) fn emit_methods(
    model: &Model<'_>,
    owner: &str,
    modules: &[&str],
) -> Result<String, Vec<Problem>> {
    let mut out = HEAD.to_owned();
    let mut problems = Vec::new();
    let wanted = |module: &&ModuleModel<'_>| modules.contains(&module.name);
    for module in model.modules.iter().filter(wanted) {
        let Some(program) = &module.program else {
            continue;
        };
        for (source, title) in model.titles.iter().enumerate() {
            let procedures: Vec<&Procedure> = program
                .procedures
                .iter()
                .filter(|procedure| has_method(procedure))
                .filter(|procedure| procedure.origin.at.source == source)
                .collect();
            if procedures.is_empty() {
                continue;
            }
            let _ = write!(
                out,
                "\n/// # {}\nimpl {owner} {{",
                title.trim_end_matches('.')
            );
            for procedure in procedures {
                let method = Method {
                    types: Types {
                        model,
                        module: usize::MAX,
                        home: "",
                        path: "crate::protocol::",
                    },
                    module: module.name,
                    procedure,
                };
                match method.text() {
                    Ok(text) => out.push_str(&text),
                    Err(problem) => problems.push(problem),
                }
            }
            out.push_str("}\n");
        }
    }
    if problems.is_empty() {
        Ok(out)
    } else {
        Err(problems)
    }
}

/// Procedures whose methods are written by hand, for their arguments need more than their types say.
const BY_HAND: &[&str] = &["QEMU_PROC_DOMAIN_AGENT_COMMAND"];

/// Whether a method is written for a procedure.
pub(super) fn has_method(procedure: &Procedure) -> bool {
    let wire = procedure.origin.wire.as_str();
    !procedure.event && !belongs_to_session(wire) && !BY_HAND.contains(&wire)
}

/// Whether a procedure is a part of how sessions are made and events are registered: a method for it would disturb the session.
pub(crate) fn belongs_to_session(wire: &str) -> bool {
    let (_, name) = wire.split_once("_PROC_").unwrap_or(("", wire));
    name.starts_with("AUTH_")
        || matches!(
            name,
            "CONNECT_OPEN" | "CONNECT_CLOSE" | "CONNECT_SUPPORTS_FEATURE" | "CONNECT_SET_IDENTITY"
        )
        || name.contains("CLOSE_CALLBACK")
        || (name.contains("_EVENT") && name.contains("REGISTER"))
}

struct Method<'a> {
    types: Types<'a>,
    module: &'a str,
    procedure: &'a Procedure,
}

/// What a declaration is made of, typedefs looked through.
enum Kind {
    Text(u32),
    Bytes(u32),
    /// What is passed by value, and packed as it is.
    Copy,
    Wide,
    /// What is passed by reference.
    Struct,
}

/// An argument: its type, and the call that encodes it.
struct Argument {
    ty: String,
    encode: String,
}

impl Method<'_> {
    fn text(&self) -> Result<String, Problem> {
        let Procedure {
            origin,
            rust,
            number,
            stream,
            fds_in,
            fds_out,
            facts,
            ..
        } = self.procedure;
        let mut parameters = String::from("&self");
        let mut encode = String::new();
        let arguments = self.fields(self.procedure.argument);
        for field in arguments {
            if let Some(value) = field.value {
                let _ = writeln!(encode, "        {}", self.constant(field, value)?);
                continue;
            }
            let argument = self.argument(field)?;
            let _ = write!(parameters, ", {}: {}", field.rust, argument.ty);
            let _ = writeln!(encode, "        {}", argument.encode);
        }
        let many = arguments.len() > 6;
        if *fds_in {
            parameters.push_str(", files: &[std::os::fd::BorrowedFd<'_>]");
        }
        let (ret, value) = self.reply();
        let (ret, send, result) = match (stream, fds_out, ret.as_str()) {
            (true, _, "()") => (
                "crate::Stream".to_owned(),
                "let (_, stream) = self.exchange_for_stream(outgoing).await?;",
                "Ok(stream)".to_owned(),
            ),
            (true, _, _) => (
                format!("({ret}, crate::Stream)"),
                "let (payload, stream) = self.exchange_for_stream(outgoing).await?;",
                format!("{}        Ok(({value}, stream))", self.decode()),
            ),
            (false, true, "()") => (
                "Vec<std::os::fd::OwnedFd>".to_owned(),
                "let (_, files) = self.exchange_for_files(outgoing).await?;",
                "Ok(files)".to_owned(),
            ),
            (false, true, _) => (
                format!("({ret}, Vec<std::os::fd::OwnedFd>)"),
                "let (payload, files) = self.exchange_for_files(outgoing).await?;",
                format!("{}        Ok(({value}, files))", self.decode()),
            ),
            (false, false, "()") => (ret, "self.exchange(outgoing).await?;", "Ok(())".to_owned()),
            (false, false, _) => (
                ret,
                "let payload = self.exchange(outgoing).await?;",
                format!("{}        Ok({value})", self.decode()),
            ),
        };

        let mut out = String::from("\n");
        for line in &origin.doc {
            let _ = writeln!(out, "{}", format!("    /// {line}").trim_end());
        }
        if !origin.doc.is_empty() {
            out.push_str("    ///\n");
        }
        let facts: String = facts
            .iter()
            .filter(|fact| !fact.starts_with("Priority"))
            .map(|fact| format!(" {fact}"))
            .collect();
        let truth = match ret.as_str() {
            "bool" => " `true` for any number but 0.",
            _ => "",
        };
        let _ = writeln!(out, "    /// `{}`, {number}.{facts}{truth}", origin.wire);
        if many {
            out.push_str(
                "    #[allow(clippy::too_many_arguments, reason = \"the wire decides\")]\n",
            );
        }
        let name = names::field(self.name());
        let _ = writeln!(
            out,
            "    pub async fn {name}({parameters}) -> Result<{ret}, Error> {{"
        );
        let args = match self.procedure.argument {
            Some(Base::Type(id)) => self.types.get(id).map_or("", |ty| &ty.origin.wire),
            _ => "",
        };
        let (new, files) = if *fds_in {
            ("with_files", ", files")
        } else {
            ("new", "")
        };
        let mutable = if encode.is_empty() { "" } else { "mut " };
        let question = if *fds_in { "?" } else { "" };
        let _ = write!(
            out,
            "        const SPEC: &Spec = &Spec::of::<crate::protocol::{}::procedure::{rust}>(\"{args}\");
        let {mutable}outgoing = Outgoing::{new}(SPEC{files}){question};
{encode}        {send}
        {}
    }}
",
            self.module,
            result.trim_start(),
        );
        Ok(out)
    }

    /// The name without its program: `domain_get_info`.
    fn name(&self) -> &str {
        self.procedure.method.as_str()
    }

    fn fields(&self, base: Option<Base>) -> &[Field] {
        let Some(Base::Type(id)) = base else {
            return &[];
        };
        match self.types.get(id).map(|ty| &ty.body) {
            Some(TypeBody::Struct(fields)) => fields,
            _ => &[],
        }
    }

    fn decode(&self) -> String {
        let ret = self
            .procedure
            .reply
            .map_or(String::new(), |base| self.types.base(base));
        format!("let answer: {ret} = decode(SPEC, payload)?;\n")
    }

    /// The type of what a method returns, and how it is got from `answer`, the reply.
    fn reply(&self) -> (String, String) {
        let Some(base) = self.procedure.reply else {
            return ("()".to_owned(), String::new());
        };
        let listing = self.fields(self.procedure.argument).iter().any(|field| {
            matches!(field.origin.wire.as_str(), "need_results" | "nparams")
                && field.value.is_some()
        });
        match self.fields(Some(base)) {
            [only] => answers::field(&self.types, only, &format!("answer.{}", only.rust)),
            // The number of all there is, which is that of the list where the list was asked for.
            [list, count]
                if listing
                    && matches!(list.declared.shape, Shape::Variable(_))
                    && matches!(count.origin.wire.as_str(), "ret" | "nparams") =>
            {
                answers::field(&self.types, list, &format!("answer.{}", list.rust))
            }
            _ => match answers::base(&self.types, base) {
                Some(answer) => (answer, "answer.into()".to_owned()),
                None => (self.types.base(base), "answer".to_owned()),
            },
        }
    }

    /// What is always sent.
    fn constant(&self, field: &Field, value: i64) -> Result<String, Problem> {
        let wire = &field.origin.wire;
        let expression = match (field.declared.base, field.declared.shape) {
            (Base::Scalar(Scalar::Int), Shape::Plain) => format!("{value}_i32"),
            (Base::Scalar(Scalar::UnsignedInt), Shape::Plain) => format!("{value}_u32"),
            (Base::Scalar(Scalar::Hyper), Shape::Plain) => format!("{value}_i64"),
            (Base::Scalar(Scalar::UnsignedHyper), Shape::Plain) => format!("{value}_u64"),
            (Base::Type(id), Shape::Plain) if self.is_enum(id) => {
                format!("{}({value})", self.types.base(field.declared.base))
            }
            // Nothing there.
            (Base::Type(_), _)
                if value == 0 && self.types.plain(&field.declared).starts_with("Option<") =>
            {
                "0_u32".to_owned()
            }
            _ => {
                let message = format!("`{wire}` is not a number: it takes no `@value`");
                return Err(Problem::new(field.origin.at, message));
            }
        };
        Ok(format!("outgoing.put(\"{wire}\", &{expression});"))
    }

    fn is_enum(&self, id: TypeId) -> bool {
        matches!(
            self.types.get(id).map(|ty| &ty.body),
            Some(TypeBody::Enum(_))
        )
    }

    fn is_flags(&self, field: &Field) -> bool {
        let Base::Type(id) = field.declared.base else {
            return false;
        };
        let body = self.types.get(id).map(|ty| &ty.body);
        matches!(body, Some(TypeBody::Enum(item)) if item.flags)
    }

    fn not_flags(&self, field: &Field) -> Problem {
        let message = format!("`{}` has no flags: it takes no `@adds`", field.origin.wire);
        Problem::new(field.origin.at, message)
    }

    fn argument(&self, field: &Field) -> Result<Argument, Problem> {
        let (rust, wire) = (&field.rust, &field.origin.wire);
        let Some((kind, shape, item)) = self.kind(&field.declared, 4) else {
            return Err(self.unfit(field));
        };
        let (ty, encode) = match (kind, shape) {
            (Kind::Text(max), Shape::Plain) => {
                ("&str".into(), format!("text(\"{wire}\", {rust}, {max})"))
            }
            (Kind::Text(max), Shape::Optional) => (
                "Option<&str>".into(),
                format!("optional_text(\"{wire}\", {rust}, {max})"),
            ),
            (Kind::Text(max), Shape::Variable(most)) => (
                "&[&str]".into(),
                format!("texts(\"{wire}\", {rust}, {most}, {max})"),
            ),
            (Kind::Bytes(max), Shape::Plain) => {
                ("&[u8]".into(), format!("bytes(\"{wire}\", {rust}, {max})"))
            }
            (Kind::Copy, Shape::Plain) if field.yes_or_no => (
                "bool".to_owned(),
                format!("put(\"{wire}\", &i32::from({rust}))"),
            ),
            (Kind::Copy, Shape::Plain) => {
                let sent = match field.adds {
                    Some(bits) if self.is_flags(field) => format!("({rust} | {item}({bits}))"),
                    Some(_) => return Err(self.not_flags(field)),
                    None => rust.clone(),
                };
                let encode = format!("put(\"{wire}\", &{sent})");
                (item, encode)
            }
            (Kind::Wide, Shape::Plain) => (item, format!("put(\"{wire}\", &u64::from({rust}.0))")),
            (Kind::Struct, Shape::Plain) => {
                (format!("&{item}"), format!("put(\"{wire}\", {rust})"))
            }
            (Kind::Struct | Kind::Copy, Shape::Variable(most)) => (
                format!("&[{item}]"),
                format!("items(\"{wire}\", {rust}, {most})"),
            ),
            _ => return Err(self.unfit(field)),
        };
        Ok(Argument {
            ty,
            encode: format!("outgoing.{encode};"),
        })
    }

    fn unfit(&self, field: &Field) -> Problem {
        let message = format!(
            "`{}` is of no shape that a method takes",
            field.declared.text
        );
        Problem::new(field.origin.at, message)
    }

    /// What a declaration is, how much of it, and the Rust type of one.
    fn kind(&self, declared: &Declared, depth: usize) -> Option<(Kind, Shape, String)> {
        let item = self.types.base(declared.base);
        let kind = match declared.base {
            Base::String => {
                let Shape::Variable(max) = declared.shape else {
                    return None;
                };
                return Some((Kind::Text(max), Shape::Plain, item));
            }
            Base::Opaque => {
                let Shape::Variable(max) = declared.shape else {
                    return None;
                };
                return Some((Kind::Bytes(max), Shape::Plain, item));
            }
            Base::Wide(_) => Kind::Wide,
            Base::Scalar(scalar) => match scalar {
                Scalar::Char
                | Scalar::UnsignedChar
                | Scalar::Short
                | Scalar::UnsignedShort
                | Scalar::Bool => return None,
                _ => Kind::Copy,
            },
            Base::Type(id) => {
                let ty = self.types.get(id)?;
                match (&ty.given, &ty.body) {
                    (Some(path), _) if path == "uuid::Uuid" => Kind::Copy,
                    (Some(_), _) => Kind::Struct,
                    (None, TypeBody::Enum(_)) => Kind::Copy,
                    (None, TypeBody::Struct(_) | TypeBody::Union(_)) => Kind::Struct,
                    (None, TypeBody::Typedef(inner)) => {
                        let (kind, within, item) = self.kind(inner, depth.checked_sub(1)?)?;
                        let shape = match (declared.shape, within) {
                            (outer, Shape::Plain) => outer,
                            (Shape::Plain, inner) => inner,
                            _ => return None,
                        };
                        return Some((kind, shape, item));
                    }
                }
            }
        };
        Some((kind, declared.shape, item))
    }
}
