//! Holds `xdr/` to `fixtures/protocol-facts.txt`: every name, type, order, limit and number of libvirt's protocol, as the
//! generator resolved them. A field out of place or of another width would be read as something else, in silence.

mod notes;
mod render;

use std::collections::BTreeSet;
use std::fs;

use super::generator::Source;
use super::{root, sources};

/// The lines of the fixture that state something.
fn facts() -> Vec<String> {
    let text = fs::read_to_string(root().join("fixtures/protocol-facts.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

fn definitions() -> Vec<Source> {
    sources(&root().join("xdr"))
}

/// What is only in the facts (`-`), and what is only in the definitions (`+`).
fn differences(definitions: &[Source]) -> Vec<String> {
    let (facts, found) = (facts(), render::lines(definitions));
    let set = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<String>>();
    assert_eq!(set(&facts).len(), facts.len(), "a fact is there twice");
    let (facts, found) = (set(&facts), set(&found));
    let missing = facts.difference(&found).map(|line| format!("- {line}"));
    let added = found.difference(&facts).map(|line| format!("+ {line}"));
    missing.chain(added).collect()
}

#[test]
fn the_definitions_say_what_the_facts_say() {
    let differences = differences(&definitions());
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// So that a line lost from the facts and the definitions alike is noticed.
#[test]
fn all_of_the_protocol_is_there() {
    let facts = facts();
    let count = |kind: &str| {
        let kind = format!("{kind} ");
        facts.iter().filter(|line| line.starts_with(&kind)).count()
    };
    for (kind, number) in [
        ("rpc const", 10),
        ("rpc typedef", 5),
        ("rpc enum", 2),
        ("rpc struct", 5),
        ("keepalive event", 2),
        ("remote const", 71),
        ("remote typedef", 12),
        ("remote enum", 1),
        ("remote struct", 704),
        ("remote bool", 43),
        ("remote union", 1),
        ("remote call", 401),
        ("remote event", 55),
        ("qemu struct", 12),
        ("qemu call", 6),
        ("qemu event", 1),
        ("lxc struct", 1),
        ("lxc call", 1),
        ("admin const", 6),
        ("admin typedef", 2),
        ("admin struct", 31),
        ("admin union", 1),
        ("admin call", 20),
        // The last is `virDrvFeature`, which is not in the public headers.
        ("constants enum", 178 + 1),
    ] {
        assert_eq!(count(kind), number, "{kind}");
    }
    for (module, number) in [
        ("remote", "0x20008086"),
        ("qemu", "0x20008087"),
        ("lxc", "0x00068000"),
        ("admin", "0x06900690"),
        ("keepalive", "0x6b656570"),
    ] {
        let name = module.to_ascii_uppercase();
        let program = format!("{module} program {name}_PROGRAM {number} version 1");
        assert!(facts.contains(&program), "{program}");
    }
    let enums = facts
        .iter()
        .filter(|line| line.starts_with("constants enum "));
    let values: usize = enums.map(|line| line.matches(" = ").count()).sum();
    assert_eq!(values, 994 + 16);
}

/// What a slip of the pen could be: in which file, what stands there, what would, and what is then different.
const SLIPS: &[(&str, &str, &str, &str)] = &[
    // Fields in another order, with another name, missing, one too many.
    (
        "remote/domain_block.x",
        "hyper rd_req;",
        "hyper rd_reqs;",
        "remote struct remote_domain_block_stats_ret",
    ),
    (
        "remote/domain_interface.x",
        "    hyper rx_drop;\n",
        "",
        "remote struct remote_domain_interface_stats_ret",
    ),
    (
        "remote/domain.x",
        "    int reason;\n",
        "    int reason;\n    int reasons;\n",
        "remote struct remote_domain_get_state_ret",
    ),
    // Types.
    (
        "remote/connect_capabilities.x",
        "int max_vcpus;",
        "unsigned int max_vcpus;",
        "remote struct remote_connect_get_max_vcpus_ret",
    ),
    (
        "remote/node.x",
        "unsigned hyper freeMem;",
        "unsigned int freeMem;",
        "remote struct remote_node_get_free_memory_ret",
    ),
    (
        "remote/node.x",
        "char model[32];",
        "opaque model[32];",
        "remote struct remote_node_get_info_ret",
    ),
    (
        "remote/node.x",
        "char model[32];",
        "char model[33];",
        "remote struct remote_node_get_info_ret",
    ),
    (
        "remote/types.x",
        "double d;",
        "hyper d;",
        "remote union remote_typed_param_value",
    ),
    (
        "admin.x",
        "case VIR_TYPED_PARAM_DOUBLE:",
        "case 9:",
        "admin union admin_typed_param_value",
    ),
    // What may be missing.
    (
        "remote/node_device.x",
        "remote_string parentName;",
        "remote_nonnull_string parentName;",
        "remote struct remote_node_device_get_parent_ret",
    ),
    (
        "remote/types.x",
        "typedef remote_nonnull_secret *remote_secret;",
        "typedef remote_nonnull_secret remote_secret;",
        "remote typedef remote_nonnull_secret",
    ),
    // Limits.
    (
        "remote/domain.x",
        "const REMOTE_DOMAIN_LIST_MAX = 16384;",
        "const REMOTE_DOMAIN_LIST_MAX = 16383;",
        "remote struct remote_connect_list_all_domains_ret",
    ),
    (
        "remote/secret.x",
        "remote_nonnull_secret secrets<REMOTE_SECRET_LIST_MAX>;",
        "remote_nonnull_secret secrets<REMOTE_SECRET_VALUE_MAX>;",
        "remote struct remote_connect_list_all_secrets_ret",
    ),
    (
        "rpc.x",
        "const VIR_NET_MESSAGE_MAX = 33554432;",
        "const VIR_NET_MESSAGE_MAX = 33554433;",
        "rpc const VIR_NET_MESSAGE_MAX",
    ),
    // Numbers that are a yes or no.
    (
        "remote/domain.x",
        "     * Whether it runs.\n     * @bool\n",
        "     * Whether it runs.\n",
        "remote bool remote_domain_is_active_ret active",
    ),
    (
        "remote/domain_life.x",
        "     * @bool\n",
        "",
        "remote bool remote_domain_get_autostart_ret autostart",
    ),
    // Enums.
    (
        "rpc.x",
        "VIR_NET_STREAM_HOLE = 6",
        "VIR_NET_STREAM_HOLE = 7",
        "rpc enum virNetMessageType",
    ),
    (
        "constants/domain_state.x",
        "VIR_DOMAIN_PAUSED = 3",
        "VIR_DOMAIN_PAUSED = 8",
        "constants enum virDomainState",
    ),
    (
        "constants/node_device.x",
        "= 2147483648",
        "= 1073741825",
        "constants enum virConnectListAllNodeDeviceFlags",
    ),
    // Procedures.
    (
        "remote/node.x",
        "REMOTE_PROC_NODE_GET_INFO(void) = 6;",
        "REMOTE_PROC_NODE_GET_INFO(void) = 600;",
        "remote call 6 REMOTE_PROC_NODE_GET_INFO",
    ),
    (
        "remote/network.x",
        "REMOTE_PROC_NETWORK_IS_ACTIVE(remote_network_is_active_args)",
        "REMOTE_PROC_NETWORK_IS_ACTIVE(remote_network_is_persistent_args)",
        "remote call 152 REMOTE_PROC_NETWORK_IS_ACTIVE",
    ),
    (
        "remote/connect.x",
        "remote_connect_get_uri_ret REMOTE_PROC_CONNECT_GET_URI",
        "void REMOTE_PROC_CONNECT_GET_URI",
        "remote call 110 REMOTE_PROC_CONNECT_GET_URI",
    ),
    (
        "lxc.x",
        "@fds out 1..32",
        "@fds out 1",
        "lxc call 1 LXC_PROC_DOMAIN_OPEN_NAMESPACE",
    ),
    (
        "remote/storage_vol.x",
        "@stream write",
        "@stream read",
        "remote call 208 REMOTE_PROC_STORAGE_VOL_UPLOAD",
    ),
    (
        "remote/auth.x",
        "@priority high",
        "@priority low",
        "remote call 66 REMOTE_PROC_AUTH_LIST",
    ),
    (
        "qemu.x",
        "@since 8.2.0",
        "@since 8.1.0",
        "qemu call 7 QEMU_PROC_DOMAIN_MONITOR_COMMAND_WITH_FILES",
    ),
    (
        "remote/events_domain.x",
        "         * @event\n",
        "",
        "remote event",
    ),
    (
        "admin.x",
        "} = 0x06900690;",
        "} = 0x06900691;",
        "admin program ADMIN_PROGRAM",
    ),
];

#[test]
fn a_slip_in_a_definition_is_seen() {
    for (file, from, to, fact) in SLIPS {
        let mut definitions = definitions();
        let path = format!("xdr/{file}");
        let source = definitions.iter_mut().find(|source| source.path == path);
        let text = &mut source.unwrap().text;
        let altered = text.replacen(from, to, 1);
        assert_ne!(*text, altered, "{file}: {from}");
        *text = altered;
        let differences = differences(&definitions);
        let missed = format!("- {fact}");
        assert!(
            differences.iter().any(|line| line.starts_with(&missed)),
            "{file}: {from}: {differences:#?}"
        );
    }
}

/// Two fields that changed places, of one type: only the order tells.
#[test]
fn fields_that_changed_places_are_seen() {
    let mut definitions = definitions();
    let path = "xdr/remote/domain_interface.x";
    let source = definitions.iter_mut().find(|source| source.path == path);
    let text = &mut source.unwrap().text;
    let swapped = text
        .replace("hyper rx_errs;", "hyper rx_drop_;")
        .replace("hyper rx_drop;", "hyper rx_errs;")
        .replace("hyper rx_drop_;", "hyper rx_drop;");
    assert_ne!(*text, swapped);
    *text = swapped;
    let differences = differences(&definitions);
    assert_eq!(differences.len(), 2, "{differences:#?}");
    assert!(differences[0].starts_with("- remote struct remote_domain_interface_stats_ret: "));
}

/// What would make `true` of three snapshots.
#[test]
fn a_count_taken_for_a_yes_or_no_is_seen() {
    let mut definitions = definitions();
    let path = "xdr/remote/domain_snapshot.x";
    let source = definitions.iter_mut().find(|source| source.path == path);
    let text = &mut source.unwrap().text;
    let altered = text.replacen("    int num;", "    /** @bool */\n    int num;", 1);
    assert_ne!(*text, altered);
    *text = altered;
    let expected = "+ remote bool remote_domain_snapshot_num_ret num";
    assert_eq!(differences(&definitions), [expected]);
}
