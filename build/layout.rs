//! What a type takes on the wire, worked out from the types it is made of. Finds recursive types.

use super::ast::Scalar;
use super::model::{Base, Declared, Layout, Shape, Type, TypeBody, TypeId};
use super::{At, Problem};

/// A fixed array is a Rust array, which lives on the stack while it is read.
const FIXED_MAX: u64 = 64 * 1024;

/// Fills in [`Type::layout`] of every type, and checks what depends on it.
pub(crate) fn lay_out(types: &mut [Type]) -> Result<(), Vec<Problem>> {
    let order = order(types).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    for &id in &order {
        if let Some(layout) = types.get(id).map(|ty| layout(types, ty, &mut problems))
            && let Some(ty) = types.get_mut(id)
        {
            ty.layout = layout;
        }
    }
    mark_used(types, &order);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// All types, each after those it is made of.
fn order(types: &[Type]) -> Result<Vec<TypeId>, Problem> {
    let mut missing: Vec<usize> = types.iter().map(|ty| parts(ty).count()).collect();
    let mut users: Vec<Vec<TypeId>> = vec![Vec::new(); types.len()];
    for (id, ty) in types.iter().enumerate() {
        for part in parts(ty) {
            if let Some(users) = users.get_mut(part) {
                users.push(id);
            }
        }
    }
    let mut order: Vec<TypeId> = (0..types.len())
        .filter(|&id| missing.get(id) == Some(&0))
        .collect();
    let mut done = 0;
    while let Some(&id) = order.get(done) {
        done += 1;
        for &user in users.get(id).into_iter().flatten() {
            if let Some(missing) = missing.get_mut(user) {
                *missing -= 1;
                if *missing == 0 {
                    order.push(user);
                }
            }
        }
    }
    let unfinished = |id: &TypeId| missing.get(*id).is_some_and(|&missing| missing > 0);
    match (0..types.len()).find(unfinished) {
        Some(start) => Err(cycle(types, start, unfinished)),
        None => Ok(order),
    }
}

/// Walks from an unfinished type to an unfinished part of it until one comes round again.
fn cycle(types: &[Type], start: TypeId, unfinished: impl Fn(&TypeId) -> bool) -> Problem {
    let mut visited = vec![false; types.len()];
    let mut path = vec![start];
    let mut here = start;
    while let Some(seen) = visited.get_mut(here)
        && !*seen
    {
        *seen = true;
        let next = types.get(here).and_then(|ty| parts(ty).find(&unfinished));
        here = next.unwrap_or(start);
        path.push(here);
    }
    let first = path.iter().position(|&id| id == here).unwrap_or(0);
    let round: Vec<&Type> = path
        .iter()
        .skip(first)
        .filter_map(|&id| types.get(id))
        .collect();
    let names: Vec<String> = round
        .iter()
        .map(|ty| format!("`{}`", ty.origin.wire))
        .collect();
    let at = round.first().map_or(At::default(), |ty| ty.origin.at);
    Problem::new(
        at,
        format!("a type cannot hold itself: {}", names.join(" holds ")),
    )
}

fn declarations(ty: &Type) -> Vec<&Declared> {
    match &ty.body {
        TypeBody::Typedef(declared) => vec![declared],
        TypeBody::Enum(_) => Vec::new(),
        TypeBody::Struct(fields) => fields.iter().map(|field| &field.declared).collect(),
        TypeBody::Union(union) => {
            let arms = union
                .variants
                .iter()
                .map(|variant| &variant.arm)
                .chain(&union.default);
            arms.filter_map(|arm| arm.declared.as_ref()).collect()
        }
    }
}

fn parts(ty: &Type) -> impl Iterator<Item = TypeId> {
    declarations(ty)
        .into_iter()
        .filter_map(|declared| match declared.base {
            Base::Type(id) | Base::Wide(id) => Some(id),
            _ => None,
        })
}

fn layout(types: &[Type], ty: &Type, problems: &mut Vec<Problem>) -> Layout {
    let declarations = declarations(ty);
    let mut sizes = Vec::new();
    for declared in &declarations {
        sizes.push(least(types, declared).unwrap_or_else(|problem| {
            problems.push(problem);
            0
        }));
    }
    let (least, codec) = match &ty.body {
        TypeBody::Typedef(declared) => {
            let codec = declared.shape == Shape::Plain && has_codec(types, declared.base);
            (sizes.first().copied().unwrap_or(0), codec)
        }
        TypeBody::Enum(_) => (4, true),
        TypeBody::Struct(_) => (
            sizes
                .iter()
                .fold(0, |sum: u64, size| sum.saturating_add(*size)),
            true,
        ),
        TypeBody::Union(union) => {
            let arms = union
                .variants
                .iter()
                .map(|variant| &variant.arm)
                .chain(&union.default);
            let void = arms.into_iter().any(|arm| arm.declared.is_none());
            let smallest = if void {
                0
            } else {
                sizes.iter().copied().min().unwrap_or(0)
            };
            (smallest.saturating_add(4), true)
        }
    };
    let float = declarations.iter().any(|declared| match declared.base {
        Base::Scalar(scalar) => matches!(scalar, Scalar::Float | Scalar::Double),
        Base::Type(id) => types.get(id).is_some_and(|ty| ty.layout.float),
        Base::String | Base::Opaque | Base::Wide(_) => false,
    });
    Layout {
        least: least.min(u64::from(u32::MAX)),
        float,
        codec: codec || ty.given.is_some(),
        yes_or_no: ty.given.is_none() && has_yes_or_no(types, &ty.body),
        used: false,
    }
}

/// In a typedef and in a union it stays the number it is on the wire.
fn has_yes_or_no(types: &[Type], body: &TypeBody) -> bool {
    let TypeBody::Struct(fields) = body else {
        return false;
    };
    fields.iter().any(|field| match field.declared.base {
        Base::Type(id) => types.get(id).is_some_and(|ty| ty.layout.yes_or_no),
        _ => field.yes_or_no,
    })
}

/// Whether xdr-codec or the generated code implements `Pack` and `Unpack` for the Rust type, and rightly so:
/// `bool` is read more strictly there than libvirt does.
pub(crate) fn has_codec(types: &[Type], base: Base) -> bool {
    match base {
        Base::Scalar(scalar) => matches!(
            scalar,
            Scalar::Int
                | Scalar::UnsignedInt
                | Scalar::Hyper
                | Scalar::UnsignedHyper
                | Scalar::Float
                | Scalar::Double
        ),
        Base::String | Base::Opaque | Base::Wide(_) => false,
        Base::Type(id) => types.get(id).is_some_and(|ty| ty.layout.codec),
    }
}

/// Fewest bytes of one item on the wire.
pub(crate) fn least_of_base(types: &[Type], base: Base) -> u64 {
    match base {
        Base::Scalar(Scalar::Hyper | Scalar::UnsignedHyper | Scalar::Double) | Base::Wide(_) => 8,
        Base::Scalar(_) => 4,
        Base::String | Base::Opaque => 1,
        Base::Type(id) => types.get(id).map_or(0, |ty| ty.layout.least),
    }
}

/// Fewest bytes of a declaration on the wire.
fn least(types: &[Type], declared: &Declared) -> Result<u64, Problem> {
    let item = least_of_base(types, declared.base);
    match declared.shape {
        Shape::Plain => Ok(item),
        Shape::Optional => Ok(4),
        Shape::Variable(u32::MAX) if item == 0 => Err(Problem::new(
            declared.at,
            "an array of items that take no bytes needs a limit",
        )),
        Shape::Variable(_) => Ok(4),
        Shape::Fixed(length) => {
            let length = u64::from(length);
            let bytes = if declared.base == Base::Opaque {
                length.next_multiple_of(4)
            } else {
                length.saturating_mul(item)
            };
            if length.max(bytes) > FIXED_MAX {
                let message = format!(
                    "{} bytes are more than the {FIXED_MAX} of a fixed array",
                    length.max(bytes)
                );
                return Err(Problem::new(declared.at, message));
            }
            Ok(bytes)
        }
    }
}

/// Marks what structs and unions are made of, users before their parts.
fn mark_used(types: &mut [Type], order: &[TypeId]) {
    for &id in order.iter().rev() {
        let Some(ty) = types.get_mut(id) else {
            continue;
        };
        ty.layout.used |= !matches!(ty.body, TypeBody::Typedef(_));
        if ty.layout.used {
            let parts: Vec<TypeId> = parts(ty).collect();
            for part in parts {
                if let Some(part) = types.get_mut(part) {
                    part.layout.used = true;
                }
            }
        }
    }
}
