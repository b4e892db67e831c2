//! Programs, which may come in several parts, and their procedures.

use super::super::ast;
use super::super::doc::Doc;
use super::super::model::{Base, Origin, Procedure, Program};
use super::super::{Problem, names};
use super::Resolver;
use super::symbols::{SIGNED, UNSIGNED};

impl Resolver<'_> {
    pub(super) fn program(&mut self, module: usize, origin: Origin, program: ast::Program) {
        let version_origin = self.origin(&program.version_name, Doc::default());
        let number = self.number(&program.number, "a program number", UNSIGNED);
        let version = self.number(&program.version, "a version number", UNSIGNED);
        let mut procedures = Vec::new();
        for procedure in program.procedures {
            procedures.extend(self.procedure(module, procedure));
        }
        let (Some(number), Some(version)) = (number, version) else {
            return;
        };
        let part = Program {
            origin,
            number,
            version_origin,
            version,
            procedures,
        };
        self.elsewhere(module, &part);
        self.join(module, part);
    }

    /// A name or number of a program belongs to one module.
    fn elsewhere(&mut self, module: usize, part: &Program) {
        for (index, other) in self.model.modules.iter().enumerate() {
            if let Some(program) = other.program.as_ref().filter(|_| index != module)
                && (program.origin.wire == part.origin.wire || program.number == part.number)
            {
                let Origin { wire, place, .. } = &program.origin;
                let message = format!("`{wire}` is in module `{}` at {place}", other.name);
                self.problems.push(Problem::new(part.origin.at, message));
            }
        }
    }

    /// Adds a part to those that were there before, with which it must agree.
    fn join(&mut self, module: usize, part: Program) {
        let Some(module) = self.model.modules.get_mut(module) else {
            return;
        };
        let Some(whole) = &mut module.program else {
            module.program = Some(part);
            return;
        };
        let Origin { wire, place, .. } = &whole.origin;
        let (at, message) = if *wire != part.origin.wire {
            (
                part.origin.at,
                format!("the module has the program `{wire}` already, at {place}"),
            )
        } else if whole.number != part.number {
            (
                part.origin.at,
                format!("`{wire}` has the number {:#x} at {place}", whole.number),
            )
        } else if whole.version_origin.wire != part.version_origin.wire
            || whole.version != part.version
        {
            let message = format!(
                "`{wire}` has `{}` = {} at {place}",
                whole.version_origin.wire, whole.version
            );
            (part.version_origin.at, message)
        } else {
            whole.procedures.extend(part.procedures);
            return;
        };
        self.problems.push(Problem::new(at, message));
    }

    fn procedure(&mut self, module: usize, procedure: ast::Procedure) -> Option<Procedure> {
        let notes = match procedure.doc.annotations() {
            Ok(notes) => notes,
            Err(problem) => {
                self.problems.push(problem);
                return None;
            }
        };
        let short = self.strip(module, &procedure.name.text);
        let (rust, method) = (names::camel(short), names::snake(short));
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
        let some = |range: Option<String>| range.filter(|range| range != "0");
        let (fds_in, fds_out) = (some(notes.fds_in), some(notes.fds_out));
        let (has_stream, has_in, has_out) =
            (notes.stream.is_some(), fds_in.is_some(), fds_out.is_some());
        let mut facts = Vec::new();
        if let Some(way) = notes.stream {
            let who = match way.as_str() {
                "read" => "the server sends",
                "write" => "the client sends",
                _ => "both sides send",
            };
            facts.push(format!("Opens a stream on which {who}."));
        }
        facts.extend(fds_in.map(|range| format!("Descriptors with the call: {range}.")));
        facts.extend(fds_out.map(|range| format!("Descriptors with the reply: {range}.")));
        facts.extend(notes.priority.map(|level| format!("Priority: {level}.")));
        facts.extend(
            notes
                .since
                .map(|version| format!("Since libvirt {version}.")),
        );
        Some(Procedure {
            origin,
            rust,
            method,
            number,
            event: notes.event,
            stream: has_stream,
            fds_in: has_in,
            fds_out: has_out,
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
