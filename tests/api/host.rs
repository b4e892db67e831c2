//! What is asked of a host: its name, versions, memory and CPUs.

use libvirt_qmp::protocol::c_text;

use crate::{Peer, ask, yes};

/// `1.2.3` for a version as libvirt has it in one number.
fn version(number: u64) -> String {
    format!(
        "{}.{}.{}",
        number / 1_000_000,
        number / 1000 % 1000,
        number % 1000
    )
}

async fn asked_of_both(peer: &mut Peer<'_>) {
    assert_eq!(ask!(peer, connect_get_hostname), peer.virsh("hostname"));
    assert_eq!(ask!(peer, connect_get_uri), peer.uri);
    let (kind, hypervisor) = (
        ask!(peer, connect_get_type),
        ask!(peer, connect_get_version),
    );
    assert_eq!(
        peer.virsh_field("version", "Running hypervisor"),
        format!("{kind} {}", version(hypervisor))
    );
    let library = ask!(peer, connect_get_lib_version);
    assert_eq!(
        peer.virsh_field("version --daemon", "Running against daemon"),
        version(library)
    );
    assert_eq!(
        ask!(peer, connect_get_capabilities),
        peer.virsh_text("capabilities") + "\n"
    );
    // A local socket.
    assert_eq!(yes(ask!(peer, connect_is_secure)), "yes");

    let info = ask!(peer, node_get_info);
    let field = |name| peer.virsh_field("nodeinfo", name);
    assert_eq!(c_text(&info.model), field("CPU model"));
    assert_eq!(info.cpus.to_string(), field("CPU(s)"));
    assert_eq!(info.sockets.to_string(), field("CPU socket(s)"));
    assert_eq!(info.cores.to_string(), field("Core(s) per socket"));
    assert_eq!(info.threads.to_string(), field("Thread(s) per core"));
    assert_eq!(info.nodes.to_string(), field("NUMA cell(s)"));
    assert_eq!(format!("{} KiB", info.memory), field("Memory size"));

    let map = ask!(peer, node_get_cpu_map);
    let field = |name| peer.virsh_field("nodecpumap", name);
    assert_eq!(map.ret.to_string(), field("CPUs present"));
    assert_eq!(map.online.to_string(), field("CPUs online"));
    let online = |cpu: usize| map.cpumap[cpu / 8] >> (cpu % 8) & 1 == 1;
    let count = usize::try_from(map.ret).unwrap();
    let marks: String = (0..count)
        .map(|cpu| if online(cpu) { 'y' } else { '-' })
        .collect();
    assert_eq!(marks, field("CPU map"));
}

pub(crate) async fn asked_of_the_test_driver(peer: &mut Peer<'_>) {
    asked_of_both(peer).await;
    let most = ask!(peer, connect_get_max_vcpus, None);
    assert_eq!(most.to_string(), peer.virsh("maxvcpus"));
    assert_eq!(
        ask!(peer, connect_get_sysinfo),
        peer.virsh_text("sysinfo") + "\n"
    );
    let cells = ask!(peer, node_get_cells_free_memory, 0);
    let free = peer.virsh("freecell --all");
    for (cell, bytes) in cells.iter().enumerate() {
        let line = format!("{cell}: {} KiB", bytes / 1024);
        assert!(free.contains(&line), "{line} in {free}");
    }
    assert_eq!(cells.len(), 2);
    let total = ask!(peer, node_get_free_memory);
    assert_eq!(
        format!("{} KiB", total / 1024),
        peer.virsh_field("freecell", "Total")
    );
}

pub(crate) async fn asked_of_qemu(peer: &mut Peer<'_>) {
    asked_of_both(peer).await;
    let arch = "x86_64";
    let models = ask!(peer, connect_get_cpu_model_names, arch);
    assert_eq!(
        models,
        peer.virsh("cpu-models x86_64").lines().collect::<Vec<_>>()
    );
    let capabilities = ask!(
        peer,
        connect_get_domain_capabilities,
        None,
        Some(arch),
        None,
        Some("qemu"),
        Default::default()
    );
    assert_eq!(
        capabilities,
        peer.virsh_text("domcapabilities --arch x86_64 --virttype qemu") + "\n"
    );
    assert_eq!(
        ask!(peer, connect_get_storage_pool_capabilities),
        peer.virsh_text("pool-capabilities") + "\n"
    );
    // Memory changes from one question to the next; its total does not.
    let before = ask!(peer, node_get_memory_stats, 0, -1);
    assert!(before.params.is_empty());
    let stats = ask!(peer, node_get_memory_stats, before.nparams, -1);
    let total = stats
        .params
        .iter()
        .find(|stat| stat.field == "total")
        .unwrap();
    assert_eq!(
        format!("{} KiB", total.value),
        peer.virsh_field("nodememstats", "total")
    );
    let count = ask!(peer, node_get_cpu_stats, -1, 0).nparams;
    let stats = ask!(peer, node_get_cpu_stats, -1, count);
    let names: Vec<_> = stats.params.iter().map(|stat| &*stat.field).collect();
    let printed = peer.virsh("nodecpustats");
    assert!(!names.is_empty());
    for name in names {
        // virsh says what libvirt calls `kernel` otherwise, and leaves out what it does not know.
        let printed_name = match name {
            "kernel" => "system",
            "intr" => continue,
            name => name,
        };
        let line = format!("{printed_name}:");
        assert!(printed.contains(&line), "{line} in {printed}");
    }
}
