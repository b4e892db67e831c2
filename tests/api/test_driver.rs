//! What libvirt's own stand-in of a hypervisor has: a domain, a network, a storage pool and an interface.

use libvirt_qmp::protocol::constants::{
    DomainControlState, DomainMemoryStatTags, DomainMetadataType, DomainModificationImpact,
    DomainState, DomainVcpuFlags, StoragePoolState, TypedParameterFlags,
};
use libvirt_qmp::{Domain, TypedParam, TypedParamValue};

use crate::{Peer, ask, sorted, yes};

pub(crate) async fn domains(peer: &mut Peer<'_>) {
    let all = ask!(peer, connect_list_all_domains, Default::default());
    assert_eq!(
        sorted(&all, |dom| dom.name.clone()),
        peer.virsh("list --all --name").lines().collect::<Vec<_>>()
    );
    assert_eq!(ask!(peer, connect_num_of_domains), 1);
    assert_eq!(ask!(peer, connect_num_of_defined_domains), 0);
    assert_eq!(peer.virsh("list --inactive --name"), "");
    let ids = ask!(peer, connect_list_domains);
    assert_eq!(
        ids.iter().map(i32::to_string).collect::<Vec<_>>(),
        peer.virsh_names("list --id")
    );
    assert!(ask!(peer, connect_list_defined_domains).is_empty());

    let dom = ask!(peer, domain_lookup_by_name, "test");
    assert_eq!(dom.uuid.to_string(), peer.virsh("domuuid test"));
    assert_eq!(dom.id.unwrap().to_string(), peer.virsh("domid test"));
    assert_eq!(ask!(peer, domain_lookup_by_uuid, dom.uuid), dom);
    assert_eq!(ask!(peer, domain_lookup_by_id, dom.id.unwrap()), dom);
    assert_eq!(all, std::slice::from_ref(&dom));
    facts(peer, &dom).await;
    devices(peer, &dom).await;
    changes(peer, &dom).await;
    life(peer, &dom).await;
}

async fn facts(peer: &mut Peer<'_>, dom: &Domain) {
    let info = ask!(peer, domain_get_info, dom);
    assert_eq!(info.state, DomainState::RUNNING);
    assert_eq!(
        format!("{} KiB", info.max_mem),
        peer.virsh_field("dominfo test", "Max memory")
    );
    assert_eq!(
        format!("{} KiB", info.memory),
        peer.virsh_field("dominfo test", "Used memory")
    );
    assert_eq!(
        info.nr_virt_cpu.to_string(),
        peer.virsh_field("dominfo test", "CPU(s)")
    );
    let state = ask!(peer, domain_get_state, dom);
    assert_eq!((state.state, state.reason), (DomainState::RUNNING, 0));
    assert_eq!(peer.virsh("domstate test --reason"), "running (unknown)");
    assert_eq!(
        ask!(peer, domain_get_os_type, dom),
        peer.virsh_field("dominfo test", "OS Type")
    );
    assert_eq!(
        ask!(peer, domain_get_xml_desc, dom, Default::default()),
        peer.virsh_text("dumpxml test") + "\n"
    );
    let most = ask!(peer, domain_get_max_memory, dom);
    assert_eq!(
        format!("{most} KiB"),
        peer.virsh_field("dominfo test", "Max memory")
    );
    let most = ask!(peer, domain_get_max_vcpus, dom);
    assert_eq!(
        most.to_string(),
        peer.virsh("vcpucount test --maximum --live")
    );
    let current = ask!(peer, domain_get_vcpus_flags, dom, DomainVcpuFlags::LIVE);
    assert_eq!(
        current.to_string(),
        peer.virsh("vcpucount test --current --live")
    );
    assert!(ask!(peer, domain_is_active, dom));
    assert_eq!(
        yes(ask!(peer, domain_is_persistent, dom)),
        peer.virsh_field("dominfo test", "Persistent")
    );
    assert!(!ask!(peer, domain_is_updated, dom));
    assert!(!ask!(peer, domain_has_managed_save_image, dom));
    assert_eq!(peer.virsh_field("dominfo test", "Managed save"), "no");
    let scheduler = ask!(peer, domain_get_scheduler_type, dom);
    assert_eq!(
        scheduler.r#type,
        peer.virsh_field("schedinfo test", "Scheduler")
    );
    let params = ask!(peer, domain_get_scheduler_parameters, dom);
    assert_eq!(params.len(), usize::try_from(scheduler.nparams).unwrap());
    assert_eq!(
        params[0].value.as_u64().unwrap().to_string(),
        peer.virsh_field("schedinfo test", &params[0].field)
    );
    assert_eq!(
        ask!(peer, domain_get_hostname, dom, Default::default()),
        peer.virsh("domhostname test")
    );
    let control = ask!(peer, domain_get_control_info, dom);
    assert_eq!(
        (control.state, peer.virsh("domcontrol test").as_str()),
        (DomainControlState::OK, "ok")
    );
    let stats = ask!(peer, domain_memory_stats, dom);
    let printed = peer.virsh("dommemstat test");
    let balloon = stats
        .iter()
        .find(|stat| stat.tag == DomainMemoryStatTags::ACTUAL_BALLOON)
        .unwrap();
    assert!(
        printed.contains(&format!("actual {}", balloon.val)),
        "{printed}"
    );
    let all = ask!(
        peer,
        connect_get_all_domain_stats,
        std::slice::from_ref(dom),
        Default::default(),
        Default::default()
    );
    let printed = peer.virsh("domstats test");
    for param in &all[0].params {
        let value = param.value.as_i64().unwrap();
        assert!(
            printed.contains(&format!("{}={value}", param.field)),
            "{printed}"
        );
    }
    assert_eq!(&all[0].dom, dom);
}

async fn devices(peer: &mut Peer<'_>, dom: &Domain) {
    let addresses = ask!(peer, domain_interface_addresses, dom, Default::default());
    let address = &addresses[0];
    assert_eq!(
        format!(
            "{} {} ipv4 {}/{}",
            address.name,
            address.hwaddr.as_deref().unwrap(),
            address.addrs[0].addr,
            address.addrs[0].prefix
        ),
        peer.virsh("domifaddr test")
    );
    let systems = ask!(peer, domain_get_fsinfo, dom);
    let lines: Vec<String> = systems
        .info
        .iter()
        .map(|info| {
            format!(
                "{} {} {} {}",
                info.mountpoint,
                info.name,
                info.fstype,
                info.dev_aliases.join(",")
            )
        })
        .collect();
    assert_eq!(lines.join("\n"), peer.virsh("domfsinfo test"));
    let tune = ask!(
        peer,
        domain_get_block_io_tune,
        dom,
        Some("vda"),
        Default::default()
    );
    for param in tune.iter().filter(|param| param.value.as_u64().is_some()) {
        assert_eq!(
            param.value.as_u64().unwrap().to_string(),
            peer.virsh_field("blkdeviotune test vda", &param.field)
        );
    }
    assert!(tune.len() > 10);
    let numa = ask!(
        peer,
        domain_get_numa_parameters,
        dom,
        DomainModificationImpact(TypedParameterFlags::TYPED_PARAM_STRING_OKAY.0)
    );
    assert_eq!(numa.len(), peer.virsh("numatune test").lines().count());
    let vcpus = ask!(peer, domain_get_vcpus, dom, 2, 1);
    let printed = peer.virsh("vcpuinfo test");
    assert_eq!(vcpus.info.len(), printed.matches("VCPU:").count());
    let pins = ask!(
        peer,
        domain_get_vcpu_pin_info,
        dom,
        2,
        1,
        Default::default()
    );
    assert_eq!((pins.num, pins.cpumaps.len()), (2, 2));
    assert_eq!(peer.virsh("vcpupin test"), "0 0-7\n1 0-7");
    assert_eq!(pins.cpumaps, [0xff, 0xff]);
    let emulator = ask!(
        peer,
        domain_get_emulator_pin_info,
        dom,
        1,
        Default::default()
    );
    assert_eq!(
        (emulator.cpumaps, peer.virsh("emulatorpin test")),
        (vec![0xff], "0-7".to_owned())
    );
}

/// What we set is what virsh sees.
async fn changes(peer: &mut Peer<'_>, dom: &Domain) {
    assert!(!ask!(peer, domain_get_autostart, dom));
    ask!(peer, domain_set_autostart, dom, true);
    assert_eq!(peer.virsh_field("dominfo test", "Autostart"), "enable");
    ask!(peer, domain_set_memory, dom, 1_048_576);
    assert_eq!(
        peer.virsh_field("dominfo test", "Used memory"),
        "1048576 KiB"
    );
    ask!(peer, domain_set_vcpus, dom, 1);
    assert_eq!(peer.virsh("vcpucount test --current --live"), "1");
    ask!(peer, domain_pin_vcpu, dom, 0, &[0b101]);
    assert_eq!(peer.virsh("vcpupin test 0"), "0 0,2");
    ask!(
        peer,
        domain_set_scheduler_parameters,
        dom,
        &[TypedParam::new("weight", 77_u32)]
    );
    assert_eq!(peer.virsh_field("schedinfo test", "weight"), "50");
    let limits = [
        TypedParam::new("total_bytes_sec", TypedParamValue::ULLong(4096)),
        TypedParam::new("total_bytes_sec_max", TypedParamValue::ULLong(8192)),
    ];
    ask!(
        peer,
        domain_set_block_io_tune,
        dom,
        "vda",
        &limits,
        Default::default()
    );
    assert_eq!(
        peer.virsh_field("blkdeviotune test vda", "total_bytes_sec"),
        "4096"
    );
    let description = DomainMetadataType::DESCRIPTION;
    ask!(
        peer,
        domain_set_metadata,
        dom,
        description,
        Some("what it is for"),
        None,
        None,
        DomainModificationImpact::CURRENT
    );
    assert_eq!(peer.virsh("desc test"), "what it is for");
    let said = ask!(
        peer,
        domain_get_metadata,
        dom,
        description,
        None,
        DomainModificationImpact::CURRENT
    );
    assert_eq!(said, "what it is for");
    ask!(
        peer,
        domain_set_metadata,
        dom,
        DomainMetadataType::TITLE,
        Some("a title"),
        None,
        None,
        Default::default()
    );
    assert_eq!(peer.virsh("desc --title test"), "a title");
}

async fn life(peer: &mut Peer<'_>, dom: &Domain) {
    ask!(peer, domain_suspend, dom);
    assert_eq!(peer.virsh("domstate test"), "paused");
    ask!(peer, domain_resume, dom);
    assert_eq!(peer.virsh("domstate test"), "running");
    let xml = "<domain type='test'><name>made</name><memory unit='MiB'>8</memory><os><type>hvm</type></os></domain>";
    let made = ask!(peer, domain_define_xml, xml);
    assert_eq!(
        (made.id, made.uuid.to_string()),
        (None, peer.virsh("domuuid made"))
    );
    assert_eq!(ask!(peer, connect_list_defined_domains), ["made"]);
    ask!(peer, domain_create, &made);
    assert_eq!(peer.virsh("domstate made"), "running");
    ask!(peer, domain_shutdown, &made);
    assert_eq!(peer.virsh("domstate made"), "shut off");
    ask!(peer, domain_create_with_flags, &made, Default::default());
    assert_eq!(peer.virsh("domstate made"), "running");
    ask!(peer, domain_destroy, &made);
    assert_eq!(peer.virsh("domstate made"), "shut off");
    ask!(peer, domain_undefine, &made);
    assert_eq!(peer.virsh("list --all --name"), "test");
    let gone = peer.libvirt.domain_get_info(&made).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    let passing = ask!(peer, domain_create_xml, xml, Default::default());
    assert_eq!(passing.id.unwrap().to_string(), peer.virsh("domid made"));
    ask!(peer, domain_destroy_flags, &passing, Default::default());
    assert_eq!(peer.virsh("list --all --name"), "test");
}

pub(crate) async fn snapshots(peer: &mut Peer<'_>) {
    let dom = ask!(peer, domain_lookup_by_name, "test");
    assert!(!ask!(peer, domain_has_current_snapshot, &dom));
    let xml = "<domainsnapshot><name>one</name></domainsnapshot>";
    let one = ask!(
        peer,
        domain_snapshot_create_xml,
        &dom,
        xml,
        Default::default()
    );
    assert_eq!((&*one.name, &one.domain), ("one", &dom));
    let two = ask!(
        peer,
        domain_snapshot_create_xml,
        &dom,
        &xml.replace("one", "two"),
        Default::default()
    );
    let names = peer.virsh("snapshot-list test --name");
    let names: Vec<_> = names.lines().collect();
    let mut listed = ask!(peer, domain_snapshot_list_names, &dom, Default::default());
    listed.sort();
    assert_eq!(listed, names);
    let all = ask!(peer, domain_list_all_snapshots, &dom, Default::default());
    assert_eq!(sorted(&all, |snapshot| snapshot.name.clone()), names);
    assert_eq!(ask!(peer, domain_snapshot_num, &dom, Default::default()), 2);
    assert_eq!(
        ask!(peer, domain_snapshot_current, &dom).name,
        peer.virsh("snapshot-current test --name")
    );
    assert_eq!(
        ask!(peer, domain_snapshot_get_parent, &two).name,
        peer.virsh("snapshot-parent test two")
    );
    assert_eq!(
        ask!(peer, domain_snapshot_num_children, &one, Default::default()),
        1
    );
    assert!(!ask!(peer, domain_snapshot_is_current, &one));
    assert_eq!(ask!(peer, domain_snapshot_lookup_by_name, &dom, "one"), one);
    assert_eq!(
        ask!(peer, domain_snapshot_get_xml_desc, &one, Default::default()),
        peer.virsh_text("snapshot-dumpxml test one") + "\n"
    );
    ask!(peer, domain_snapshot_delete, &two, Default::default());
    assert_eq!(peer.virsh("snapshot-list test --name"), "one");
}

pub(crate) async fn networks(peer: &mut Peer<'_>) {
    let net = ask!(peer, network_lookup_by_name, "default");
    assert_eq!(net.uuid.to_string(), peer.virsh("net-uuid default"));
    assert_eq!(
        ask!(peer, network_lookup_by_uuid, net.uuid).name,
        peer.virsh(&format!("net-name {}", net.uuid))
    );
    let all = ask!(peer, connect_list_all_networks, Default::default());
    assert_eq!(
        sorted(&all, |net| net.name.clone()),
        peer.virsh_names("net-list --all")
    );
    assert_eq!(ask!(peer, connect_num_of_networks), 1);
    assert_eq!(
        ask!(peer, connect_list_networks),
        peer.virsh_names("net-list")
    );
    let field = |name| peer.virsh_field("net-info default", name);
    let printed = [
        field("Active"),
        field("Persistent"),
        field("Autostart"),
        field("Bridge"),
    ];
    assert_eq!(yes(ask!(peer, network_is_active, &net)), printed[0]);
    assert_eq!(yes(ask!(peer, network_is_persistent, &net)), printed[1]);
    assert_eq!(yes(ask!(peer, network_get_autostart, &net)), printed[2]);
    assert_eq!(ask!(peer, network_get_bridge_name, &net), printed[3]);
    assert_eq!(
        ask!(peer, network_get_xml_desc, &net, Default::default()),
        peer.virsh_text("net-dumpxml default") + "\n"
    );
    ask!(peer, network_set_autostart, &net, true);
    assert_eq!(peer.virsh_field("net-info default", "Autostart"), "yes");
    ask!(peer, network_destroy, &net);
    assert_eq!(peer.virsh_field("net-info default", "Active"), "no");
    assert_eq!(ask!(peer, connect_num_of_defined_networks), 1);
    assert_eq!(ask!(peer, connect_list_defined_networks), ["default"]);
    ask!(peer, network_create, &net);
    assert_eq!(peer.virsh_field("net-info default", "Active"), "yes");
}

pub(crate) async fn storage(peer: &mut Peer<'_>) {
    let pool = ask!(peer, storage_pool_lookup_by_name, "default-pool");
    assert_eq!(pool.uuid.to_string(), peer.virsh("pool-uuid default-pool"));
    let info = ask!(peer, storage_pool_get_info, &pool);
    let field = |name| peer.virsh_field("pool-info default-pool --bytes", name);
    assert_eq!(info.state, StoragePoolState::RUNNING);
    assert_eq!(info.capacity.to_string(), field("Capacity"));
    assert_eq!(info.allocation.to_string(), field("Allocation"));
    assert_eq!(info.available.to_string(), field("Available"));
    let xml = "<volume><name>v1</name><capacity>4096</capacity></volume>";
    let vol = ask!(peer, storage_vol_create_xml, &pool, xml, Default::default());
    assert_eq!(
        (&*vol.pool, vol.key.clone()),
        ("default-pool", peer.virsh("vol-key v1 --pool default-pool"))
    );
    assert_eq!(
        ask!(peer, storage_vol_get_path, &vol),
        peer.virsh("vol-path v1 --pool default-pool")
    );
    ask!(peer, storage_vol_delete, &vol, Default::default());
    assert_eq!(peer.virsh("vol-list default-pool"), "");
}

pub(crate) async fn interfaces(peer: &mut Peer<'_>) {
    let all = ask!(peer, connect_list_all_interfaces, Default::default());
    assert_eq!(
        sorted(&all, |interface| interface.name.clone()),
        peer.virsh_names("iface-list --all")
    );
    assert_eq!(ask!(peer, connect_num_of_interfaces), 1);
    assert_eq!(ask!(peer, connect_list_interfaces), ["eth1"]);
    let eth1 = ask!(peer, interface_lookup_by_name, "eth1");
    assert_eq!(eth1.mac, peer.virsh("iface-mac eth1"));
    assert_eq!(
        ask!(peer, interface_lookup_by_mac_string, &eth1.mac).name,
        peer.virsh(&format!("iface-name {}", eth1.mac))
    );
    assert_eq!(
        ask!(peer, interface_get_xml_desc, &eth1, Default::default()),
        peer.virsh_text("iface-dumpxml eth1") + "\n"
    );
    assert!(ask!(peer, interface_is_active, &eth1));
    ask!(peer, interface_destroy, &eth1);
    assert_eq!(
        peer.virsh("iface-list --inactive"),
        "eth1 inactive aa:bb:cc:dd:ee:ff"
    );
    ask!(peer, interface_create, &eth1);
    assert_eq!(peer.virsh("iface-list"), "eth1 active aa:bb:cc:dd:ee:ff");
}
