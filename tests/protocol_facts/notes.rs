//! Annotations of fields, held to what they speak of.

use std::collections::HashMap;

use super::super::generator::ast::Scalar;
use super::super::generator::model::{Base, Field, Model, Shape, TypeBody};
use super::definitions;
use super::render::with_model;

fn fields<'a>(model: &'a Model<'_>, message: &Option<Base>) -> &'a [Field] {
    let Some(Base::Type(id)) = message else {
        return &[];
    };
    match &model.types[*id].body {
        TypeBody::Struct(fields) => fields,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_are_bits() {
    with_model(&definitions(), |model| {
        for ty in &model.types {
            let TypeBody::Enum(item) = &ty.body else {
                continue;
            };
            for value in item.values.iter().filter(|_| item.flags) {
                let bits = value.value.count_ones();
                assert!(bits <= 1, "{}: {bits} bits", value.origin.wire);
            }
        }
    });
}

/// `@flags` names an enum of bits, and `@enum` one of values.
#[test]
fn annotations_name_the_kind_of_enum_they_say() {
    let definitions = definitions();
    with_model(&definitions, |model| {
        let mut kinds = HashMap::new();
        for ty in &model.types {
            if let TypeBody::Enum(item) = &ty.body {
                kinds.insert(ty.origin.wire.as_str(), item.flags);
            }
        }
        let mut seen = [0, 0];
        for source in &definitions {
            for line in source.text.lines() {
                let note = line.trim_start_matches([' ', '*', '/']);
                let flags = note.strip_prefix("@flags ").map(|name| (name, true));
                let of = note.strip_prefix("@enum ").map(|name| (name, false));
                if let Some((name, flags)) = flags.or(of) {
                    assert_eq!(kinds.get(name), Some(&flags), "{}: {line}", source.path);
                    seen[usize::from(flags)] += 1;
                }
            }
        }
        let [values, bits] = seen;
        assert!(values > 60 && bits > 130, "{values} and {bits}");
    });
}

/// What a method asks for at most is what its reply can hold: less would cut lists short, more is refused.
#[test]
fn fixed_sizes_are_the_limits_of_the_replies() {
    with_model(&definitions(), |model| {
        let mut sizes = 0;
        let programs = model
            .modules
            .iter()
            .filter_map(|module| module.program.as_ref());
        for procedure in programs.flat_map(|program| &program.procedures) {
            for field in fields(model, &procedure.argument) {
                let name = field.origin.wire.as_str();
                if !(name.starts_with("max") || name == "nparams") {
                    continue;
                }
                let Some(size) = field.value else { continue };
                let mut reply = fields(model, &procedure.reply).iter();
                let holds = |field: &Field| match field.declared.shape {
                    Shape::Variable(limit) => i64::from(limit) == size,
                    _ => false,
                };
                assert!(reply.any(holds), "{}: {name}", procedure.origin.wire);
                sizes += 1;
            }
        }
        assert!(sizes > 25, "{sizes}");
    });
}

/// Servers leave strings out of typed parameters unless they are told that strings are welcome.
#[test]
fn strings_in_replies_are_asked_for() {
    const STRING_OKAY: Option<i64> = Some(4);
    with_model(&definitions(), |model| {
        let is = |base: Base, name: &str| match base {
            Base::Type(id) => model.types[id].origin.wire == name,
            _ => false,
        };
        let mut asked = 0;
        let programs = model
            .modules
            .iter()
            .filter_map(|module| module.program.as_ref());
        for procedure in programs.flat_map(|program| &program.procedures) {
            let reply = fields(model, &procedure.reply);
            let typed = |field: &Field| is(field.declared.base, "remote_typed_param");
            if !reply.iter().any(typed) {
                continue;
            }
            for flags in fields(model, &procedure.argument) {
                let sent = if is(flags.declared.base, "virTypedParameterFlags") {
                    flags.value
                } else if is(flags.declared.base, "virDomainModificationImpact") {
                    flags.adds
                } else {
                    continue;
                };
                assert_eq!(sent, STRING_OKAY, "{}", procedure.origin.wire);
                asked += 1;
            }
        }
        assert_eq!(asked, 12);
    });
}

/// Names of numbers that no annotation speaks of: counts, indices, sizes, times, ids.
const PLAIN: &str = "
    callbackID cellCount cellNum cores cpu cpuNum cpus filesystems holdtime id ids idx int1 int2 iothread_id
    iothreads_id iteration keycodes maplen max_vcpus maxinfo mhz micros ncpumaps ncpus nerrors nfilters nodes noutputs
    nparams nseconds num number nvcpus online pages pageSizes parentIndex period pid_value prefix ret screen seconds
    size sockets start_cpu startCell threads timeout vcpu vcpuid";

/// Numbers that sound like a value of an enum, a set of flags or a yes, and are none.
const BARE: &[(&str, &str)] = &[
    // Of which enum depends on another field.
    ("remote_domain_event_lifecycle_msg", "detail"),
    ("remote_domain_get_state_ret", "reason"),
    // Always 0.
    ("remote_domain_agent_set_response_timeout_ret", "result"),
    ("remote_domain_event_callback_pmsuspend_disk_msg", "reason"),
    ("remote_domain_event_callback_pmsuspend_msg", "reason"),
    ("remote_domain_event_callback_pmwakeup_msg", "reason"),
    ("remote_domain_rename_ret", "retcode"),
    ("remote_network_event_lifecycle_msg", "detail"),
    ("remote_node_device_event_lifecycle_msg", "detail"),
    ("remote_secret_event_lifecycle_msg", "detail"),
    ("remote_storage_pool_event_lifecycle_msg", "detail"),
    // What the step before returned.
    ("remote_domain_migrate_finish2_args", "retcode"),
    // There is no enum of them.
    ("remote_domain_announce_interface_args", "flags"),
    // Clients of the C library send bits of their own in it, which are others than those of `virConnectFlags`.
    ("remote_connect_open_args", "flags"),
];

/// So that the next procedure's number is not forgotten.
#[test]
fn numbers_without_an_annotation_are_known() {
    with_model(&definitions(), |model| {
        let plain: Vec<&str> = PLAIN.split_whitespace().collect();
        let mut bare = Vec::new();
        for ty in &model.types {
            let module = model.modules[ty.module].name;
            let TypeBody::Struct(fields) = &ty.body else {
                continue;
            };
            if matches!(module, "rpc" | "keepalive") {
                continue;
            }
            for field in fields {
                let number = matches!(
                    field.declared.base,
                    Base::Scalar(Scalar::Int | Scalar::UnsignedInt)
                );
                let name = field.origin.wire.as_str();
                if number && field.value.is_none() && !field.yes_or_no && !plain.contains(&name) {
                    bare.push((ty.origin.wire.as_str(), name));
                }
            }
        }
        let mut expected = BARE.to_vec();
        expected.sort_unstable();
        bare.sort_unstable();
        assert_eq!(bare, expected);
    });
}
