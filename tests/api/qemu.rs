//! What QEMU's driver has beside it in one daemon: guests, networks, storage pools of directories, secrets, devices.

use libvirt_qmp::protocol::constants::{DomainState, SecretUsageType, StorageVolType};
use libvirt_qmp::{AgentTimeout, StoragePool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Peer, ask, sorted, yes};

pub(crate) async fn domains(peer: &mut Peer<'_>) {
    let guest = peer.lab.guest("vm-1");
    let dom = ask!(peer, domain_lookup_by_uuid, guest.uuid);
    assert_eq!(dom.id.unwrap().to_string(), peer.virsh("domid vm-1"));
    assert_eq!(
        ask!(peer, domain_get_xml_desc, &dom, Default::default()),
        peer.virsh_text("dumpxml vm-1") + "\n"
    );
    let info = ask!(peer, domain_get_info, &dom);
    assert_eq!(
        format!("{} KiB", info.max_mem),
        peer.virsh_field("dominfo vm-1", "Max memory")
    );
    assert_eq!(ask!(peer, domain_get_job_info, &dom).r#type.0, 0);
    assert_eq!(peer.virsh_field("domjobinfo vm-1", "Job type"), "None");
    let reply = ask!(
        peer,
        domain_monitor_command,
        &dom,
        r#"{"execute":"query-status"}"#,
        Default::default()
    );
    let printed = peer.lab.virsh(&[
        "qemu-monitor-command",
        "vm-1",
        r#"{"execute":"query-status"}"#,
    ]);
    let answer = |text: &str| text.split(r#","id""#).next().unwrap().to_owned();
    assert_eq!(answer(&reply), answer(&printed));
    let agent = peer
        .libvirt
        .domain_agent_command(&dom, r#"{"execute":"guest-ping"}"#, AgentTimeout::Default)
        .await;
    let error = agent.unwrap_err();
    assert!(
        error.is_agent_unresponsive() || error.libvirt_code().is_some(),
        "{error}"
    );
    ask!(peer, domain_suspend, &dom);
    let state = ask!(peer, domain_get_state, &dom);
    assert_eq!(
        (state.state, peer.virsh("domstate vm-1").as_str()),
        (DomainState::PAUSED, "paused")
    );
    ask!(peer, domain_resume, &dom);
    ask!(peer, domain_destroy, &dom);
    assert_eq!(peer.virsh("domstate vm-1"), "shut off");
    ask!(peer, domain_undefine, &dom);
    assert_eq!(peer.virsh("list --all --name"), "");
}

pub(crate) async fn networks(peer: &mut Peer<'_>) {
    let xml = "<network><name>isolated</name><bridge name='virbr77'/>\
               <ip address='192.168.177.1' netmask='255.255.255.0'/></network>";
    let net = ask!(peer, network_define_xml, xml);
    assert_eq!(net.uuid.to_string(), peer.virsh("net-uuid isolated"));
    assert_eq!(
        ask!(peer, network_get_bridge_name, &net),
        peer.virsh_field("net-info isolated", "Bridge")
    );
    assert_eq!(
        yes(ask!(peer, network_is_active, &net)),
        peer.virsh_field("net-info isolated", "Active")
    );
    assert_eq!(
        ask!(peer, connect_list_defined_networks),
        peer.virsh_names("net-list --inactive")
    );
    assert_eq!(
        ask!(peer, network_get_xml_desc, &net, Default::default()),
        peer.virsh_text("net-dumpxml isolated") + "\n"
    );
    ask!(peer, network_set_autostart, &net, true);
    assert_eq!(peer.virsh_field("net-info isolated", "Autostart"), "yes");
    ask!(peer, network_undefine, &net);
    assert_eq!(peer.virsh("net-list --all"), "");
}

pub(crate) async fn storage(peer: &mut Peer<'_>) {
    let target = peer.lab.dir().join("home/pool").display().to_string();
    let xml =
        format!("<pool type='dir'><name>files</name><target><path>{target}</path></target></pool>");
    let pool = ask!(peer, storage_pool_define_xml, &xml, Default::default());
    assert_eq!(pool.uuid.to_string(), peer.virsh("pool-uuid files"));
    assert_eq!(ask!(peer, connect_num_of_defined_storage_pools), 1);
    assert_eq!(
        ask!(peer, connect_list_defined_storage_pools),
        peer.virsh_names("pool-list --inactive")
    );
    ask!(peer, storage_pool_build, &pool, Default::default());
    ask!(peer, storage_pool_create, &pool, Default::default());
    assert_eq!(peer.virsh_field("pool-info files", "State"), "running");
    assert_eq!(ask!(peer, connect_num_of_storage_pools), 1);
    assert_eq!(
        ask!(peer, connect_list_storage_pools),
        peer.virsh_names("pool-list")
    );
    let all = ask!(peer, connect_list_all_storage_pools, Default::default());
    assert_eq!(
        sorted(&all, |pool| pool.name.clone()),
        peer.virsh_names("pool-list --all")
    );
    assert_eq!(ask!(peer, storage_pool_lookup_by_uuid, pool.uuid), pool);
    assert_eq!(
        ask!(peer, storage_pool_lookup_by_target_path, &target),
        pool
    );
    assert_eq!(yes(ask!(peer, storage_pool_is_active, &pool)), "yes");
    assert_eq!(
        yes(ask!(peer, storage_pool_is_persistent, &pool)),
        peer.virsh_field("pool-info files", "Persistent")
    );
    assert_eq!(
        yes(ask!(peer, storage_pool_get_autostart, &pool)),
        peer.virsh_field("pool-info files", "Autostart")
    );
    ask!(peer, storage_pool_set_autostart, &pool, true);
    assert_eq!(peer.virsh_field("pool-info files", "Autostart"), "yes");
    assert_eq!(
        ask!(peer, storage_pool_get_info, &pool)
            .capacity
            .to_string(),
        peer.virsh_field("pool-info files --bytes", "Capacity")
    );
    volumes(peer, &pool).await;
    ask!(peer, storage_pool_refresh, &pool);
    ask!(peer, storage_pool_destroy, &pool);
    assert_eq!(peer.virsh_field("pool-info files", "State"), "inactive");
    ask!(peer, storage_pool_delete, &pool, Default::default());
    assert!(!std::path::Path::new(&target).exists());
    ask!(peer, storage_pool_undefine, &pool);
    assert_eq!(peer.virsh("pool-list --all"), "");
}

async fn volumes(peer: &mut Peer<'_>, pool: &StoragePool) {
    let xml = "<volume><name>v1</name><capacity>65536</capacity><target><format type='raw'/></target></volume>";
    let vol = ask!(peer, storage_vol_create_xml, pool, xml, Default::default());
    assert_eq!(vol.key, peer.virsh("vol-key v1 --pool files"));
    let path = ask!(peer, storage_vol_get_path, &vol);
    assert_eq!(path, peer.virsh("vol-path v1 --pool files"));
    let copy = ask!(
        peer,
        storage_vol_create_xml_from,
        pool,
        &xml.replace("v1", "v2"),
        &vol,
        Default::default()
    );
    let names = peer.virsh_names("vol-list files");
    let mut listed = ask!(peer, storage_pool_list_volumes, pool);
    listed.sort();
    assert_eq!(listed, names);
    let all = ask!(peer, storage_pool_list_all_volumes, pool);
    assert_eq!(sorted(&all, |vol| vol.name.clone()), names);
    assert_eq!(ask!(peer, storage_pool_num_of_volumes, pool), 2);
    assert_eq!(ask!(peer, storage_vol_lookup_by_name, pool, "v1"), vol);
    assert_eq!(ask!(peer, storage_vol_lookup_by_key, &vol.key), vol);
    assert_eq!(ask!(peer, storage_vol_lookup_by_path, &path), vol);
    assert_eq!(
        ask!(peer, storage_pool_lookup_by_volume, &vol).name,
        peer.virsh(&format!("vol-pool {path}"))
    );
    let info = ask!(peer, storage_vol_get_info, &vol);
    assert_eq!(info.r#type, StorageVolType::FILE);
    assert_eq!(
        format!("{} bytes", info.capacity),
        peer.virsh_field("vol-info v1 --pool files --bytes", "Capacity")
    );
    assert_eq!(
        ask!(peer, storage_vol_get_xml_desc, &vol),
        peer.virsh_text("vol-dumpxml v1 --pool files") + "\n"
    );
    ask!(peer, storage_vol_resize, &vol, 131_072, Default::default());
    assert_eq!(
        peer.virsh_field("vol-info v1 --pool files --bytes", "Capacity"),
        "131072 bytes"
    );

    let data: Vec<u8> = (0..131_072_u32)
        .map(|i| i.to_le_bytes()[1] ^ i.to_le_bytes()[0])
        .collect();
    let mut upload = ask!(peer, storage_vol_upload, &vol, 0, 0, Default::default());
    upload.write_all(&data).await.unwrap();
    upload.shutdown().await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), data);
    let mut download = ask!(peer, storage_vol_download, &vol, 0, 0, Default::default());
    let mut read = Vec::new();
    download.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, data);
    // As much is wiped as the daemon knows of, and it looks at the volume some time after an upload.
    ask!(peer, storage_pool_refresh, pool);
    ask!(peer, storage_vol_wipe, &vol);
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    ask!(peer, storage_vol_delete, &vol, Default::default());
    ask!(peer, storage_vol_delete, &copy, Default::default());
    assert_eq!(peer.virsh("vol-list files"), "");
}

pub(crate) async fn secrets(peer: &mut Peer<'_>) {
    let xml = "<secret ephemeral='no' private='no'><usage type='volume'><volume>/a/volume</volume></usage></secret>";
    let secret = ask!(peer, secret_define_xml, xml, Default::default());
    let uuid = secret.uuid.to_string();
    assert_eq!(
        (secret.usage_type, &*secret.usage_id),
        (SecretUsageType::VOLUME, "/a/volume")
    );
    assert_eq!(
        peer.virsh("secret-list"),
        format!("{uuid} volume /a/volume")
    );
    assert_eq!(
        ask!(peer, connect_list_secrets),
        std::slice::from_ref(&uuid)
    );
    assert_eq!(ask!(peer, connect_num_of_secrets), 1);
    assert_eq!(
        ask!(peer, connect_list_all_secrets, Default::default()),
        std::slice::from_ref(&secret)
    );
    assert_eq!(ask!(peer, secret_lookup_by_uuid, secret.uuid), secret);
    assert_eq!(
        ask!(
            peer,
            secret_lookup_by_usage,
            SecretUsageType::VOLUME,
            "/a/volume"
        ),
        secret
    );
    ask!(peer, secret_set_value, &secret, b"open sesame");
    assert_eq!(
        peer.virsh(&format!("secret-get-value {uuid} --plain")),
        "open sesame"
    );
    assert_eq!(ask!(peer, secret_get_value, &secret), b"open sesame");
    assert_eq!(
        ask!(peer, secret_get_xml_desc, &secret),
        peer.virsh_text(&format!("secret-dumpxml {uuid}")) + "\n"
    );
    ask!(peer, secret_undefine, &secret);
    assert_eq!(peer.virsh("secret-list"), "");
}

pub(crate) async fn devices(peer: &mut Peer<'_>) {
    let all = ask!(peer, connect_list_all_node_devices, Default::default());
    let names = peer.virsh_names("nodedev-list");
    assert_eq!(sorted(&all, |device| device.name.clone()), names);
    assert_eq!(
        ask!(peer, node_num_of_devices, None).to_string(),
        names.len().to_string()
    );
    let mut listed = ask!(peer, node_list_devices, Some("net"));
    listed.sort();
    assert_eq!(listed, peer.virsh_names("nodedev-list --cap net"));
    let name = listed[0].clone();
    let device = ask!(peer, node_device_lookup_by_name, &name);
    assert_eq!(device.name, name);
    assert_eq!(
        ask!(peer, node_device_get_xml_desc, &name, Default::default()),
        peer.virsh_text(&format!("nodedev-dumpxml {name}")) + "\n"
    );
    let parent = ask!(peer, node_device_get_parent, &name);
    assert_eq!(
        parent.unwrap_or_default(),
        peer.virsh_field(&format!("nodedev-info {name}"), "Parent")
    );
    assert_eq!(ask!(peer, node_device_num_of_caps, &name), 1);
    assert_eq!(ask!(peer, node_device_list_caps, &name), ["net"]);
    let field = |field| peer.virsh_field(&format!("nodedev-info {name}"), field);
    let printed = [field("Active"), field("Persistent"), field("Autostart")];
    assert_eq!(yes(ask!(peer, node_device_is_active, &name)), printed[0]);
    assert_eq!(
        yes(ask!(peer, node_device_is_persistent, &name)),
        printed[1]
    );
    assert_eq!(
        yes(ask!(peer, node_device_get_autostart, &name)),
        printed[2]
    );
    let lo = ask!(peer, interface_lookup_by_name, "lo");
    assert_eq!(lo.mac, peer.virsh("iface-mac lo"));
    let all = ask!(peer, connect_list_all_interfaces, Default::default());
    assert_eq!(
        sorted(&all, |interface| interface.name.clone()),
        peer.virsh_names("iface-list --all")
    );
}
