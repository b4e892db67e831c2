//! A hypervisor over a session with libvirtd: what is asked, and what is made of the answers.

use libvirt_qmp::protocol::remote::procedure::{
    ConnectGetLibVersion, ConnectGetType, ConnectGetVersion, ConnectListAllDomains,
};
use libvirt_qmp::protocol::remote::{
    ConnectGetLibVersionRet, ConnectGetTypeRet, ConnectGetVersionRet, ConnectListAllDomainsRet,
};
use libvirt_qmp::{Hypervisor, LibvirtError, Monitor, Version};

use super::STATUS;
use super::support::mock::{DOMAIN, domain, quiet, session};

#[tokio::test(start_paused = true)]
async fn domains_active_or_not_and_their_monitors_share_the_session() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let host = Hypervisor::libvirt(libvirt);
    let serve = async {
        let call = daemon.expect::<ConnectListAllDomains>().await;
        let mut off = domain("odd; $(name)");
        off.id = None;
        let domains = vec![domain(DOMAIN), off];
        let reply = ConnectListAllDomainsRet { domains, ret: 2 };
        daemon.reply::<ConnectListAllDomains>(&call, &reply).await;
    };
    let (domains, ()) = tokio::join!(host.domains(), serve);
    let domains = domains.unwrap();
    let found: Vec<_> = domains
        .iter()
        .map(|domain| {
            (
                domain.name.as_str(),
                domain.id,
                domain.is_active(),
                domain.status.to_string(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (DOMAIN, Some(7), true, "active".to_owned()),
            ("odd; $(name)", None, false, "inactive".to_owned())
        ]
    );
    assert_eq!(domains[0].uuid.unwrap(), domain(DOMAIN).uuid);
    // A monitor says nothing before it is used, and has no connection of its own.
    let monitor = host.clone().monitor(DOMAIN);
    assert!(daemon.sent_by_now().await.is_empty());
    let serve = async {
        daemon.lookup(DOMAIN).await;
        let call = daemon.command().await;
        daemon.answer(&call, r#"{"return":{}}"#).await;
    };
    let (reply, ()) = tokio::join!(monitor.run(STATUS.as_bytes()), serve);
    reply.unwrap();
}

#[tokio::test(start_paused = true)]
async fn versions_are_read_from_libvirts_numbers() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let host = Hypervisor::libvirt(libvirt);
    let serve = async {
        let call = daemon.expect::<ConnectGetType>().await;
        let reply = ConnectGetTypeRet {
            r#type: "QEMU".into(),
        };
        daemon.reply::<ConnectGetType>(&call, &reply).await;
        let call = daemon.expect::<ConnectGetVersion>().await;
        let reply = ConnectGetVersionRet { hv_ver: 10_002_050 };
        daemon.reply::<ConnectGetVersion>(&call, &reply).await;
        let call = daemon.expect::<ConnectGetLibVersion>().await;
        let reply = ConnectGetLibVersionRet { lib_ver: 9_000_000 };
        daemon.reply::<ConnectGetLibVersion>(&call, &reply).await;
        let call = daemon.expect::<ConnectGetType>().await;
        daemon
            .error(&call, LibvirtError::OPERATION_DENIED, "no")
            .await;
    };
    let ask = async { (host.version().await, host.version().await) };
    let ((version, refused), ()) = tokio::join!(ask, serve);
    let version = version.unwrap().unwrap();
    assert_eq!(version.hypervisor, "QEMU");
    assert_eq!(version.version, Version::new(10, 2, 50));
    assert_eq!(version.libvirt, Version::new(9, 0, 0));
    assert!(refused.unwrap_err().is_denied());
}
