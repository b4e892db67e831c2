//! What methods make of numbers: `bool` of those that say yes or no, and enums, which keep what they have no name for.

use libvirt_qmp::protocol::constants::{DomainBlockJobType, SecretUsageType};
use libvirt_qmp::protocol::remote::procedure::{
    ConnectListAllSecrets, DomainGetBlockJobInfo, DomainGetSecurityLabelList, DomainIsActive,
    DomainSetAutostart,
};
use libvirt_qmp::protocol::remote::{
    ConnectListAllSecretsRet, DomainGetBlockJobInfoRet, DomainGetSecurityLabelListRet,
    DomainGetSecurityLabelRet, DomainIsActiveRet,
};
use libvirt_qmp::{Libvirt, Secret};
use tokio::task::JoinHandle;

use super::support::mock::{DOMAIN, domain, quiet, session};

/// Calls a method in a task of its own.
fn spawn<T, F>(libvirt: &Libvirt, call: impl FnOnce(Libvirt) -> F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, libvirt_qmp::Error>> + Send + 'static,
{
    let call = call(libvirt.clone());
    tokio::spawn(async move { call.await.unwrap() })
}

#[tokio::test(start_paused = true)]
async fn any_number_but_0_is_true() {
    let (libvirt, mut daemon) = session(quiet()).await;
    for (active, expected) in [
        (0, false),
        (1, true),
        (2, true),
        (-1, true),
        (i32::MIN, true),
    ] {
        let answer = spawn(&libvirt, |libvirt| async move {
            libvirt.domain_is_active(&domain(DOMAIN)).await
        });
        let call = daemon.expect::<DomainIsActive>().await;
        let reply = DomainIsActiveRet { active };
        daemon.reply::<DomainIsActive>(&call, &reply).await;
        assert_eq!(answer.await.unwrap(), expected, "{active}");
        // Who wants the number gets it.
        let raw = spawn(&libvirt, |libvirt| async move {
            libvirt.call::<DomainIsActive>(&call.args).await
        });
        let call = daemon.expect::<DomainIsActive>().await;
        daemon.reply::<DomainIsActive>(&call, &reply).await;
        assert_eq!(raw.await.unwrap(), reply);
    }
}

#[tokio::test(start_paused = true)]
async fn true_is_sent_as_1() {
    let (libvirt, mut daemon) = session(quiet()).await;
    for (autostart, expected) in [(true, 1), (false, 0)] {
        let done = spawn(&libvirt, |libvirt| async move {
            let dom = domain(DOMAIN);
            libvirt.domain_set_autostart(&dom, autostart).await
        });
        let call = daemon.expect::<DomainSetAutostart>().await;
        assert_eq!(call.args.autostart, expected);
        daemon.reply::<DomainSetAutostart>(&call, &()).await;
        done.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_yes_among_other_fields_is_a_bool_too() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let answer = spawn(&libvirt, |libvirt| async move {
        let dom = domain(DOMAIN);
        let flags = Default::default();
        libvirt.domain_get_block_job_info(&dom, "vda", flags).await
    });
    let call = daemon.expect::<DomainGetBlockJobInfo>().await;
    let reply = DomainGetBlockJobInfoRet {
        found: 1,
        r#type: DomainBlockJobType::COMMIT,
        bandwidth: 1 << 40,
        cur: 3,
        end: 4,
    };
    daemon.reply::<DomainGetBlockJobInfo>(&call, &reply).await;
    let job = answer.await.unwrap();
    assert!(job.found);
    assert_eq!(job.r#type, DomainBlockJobType::COMMIT);
    assert_eq!((job.bandwidth, job.cur, job.end), (1 << 40, 3, 4));

    let answer = spawn(&libvirt, |libvirt| async move {
        let dom = domain(DOMAIN);
        libvirt.domain_get_security_label_list(&dom).await
    });
    let call = daemon.expect::<DomainGetSecurityLabelList>().await;
    let label = |label: &[u8], enforcing| DomainGetSecurityLabelRet {
        label: label.to_vec(),
        enforcing,
    };
    let reply = DomainGetSecurityLabelListRet {
        labels: vec![label(b"a\0", 0), label(b"b\0", 7)],
        ret: 2,
    };
    let sent = daemon.reply::<DomainGetSecurityLabelList>(&call, &reply);
    sent.await;
    let list = answer.await.unwrap();
    let labels: Vec<_> = list
        .labels
        .iter()
        .map(|one| (&*one.label, one.enforcing))
        .collect();
    assert_eq!(labels, [(&b"a\0"[..], false), (b"b\0", true)]);
    assert_eq!(list.ret, 2);
}

/// What is newer than the definitions comes as it is.
#[tokio::test(start_paused = true)]
async fn a_secret_of_a_kind_nobody_knows_keeps_its_number() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let answer = spawn(&libvirt, |libvirt| async move {
        libvirt.connect_list_all_secrets(Default::default()).await
    });
    let call = daemon.expect::<ConnectListAllSecrets>().await;
    let secret = |usage_type| Secret {
        uuid: domain(DOMAIN).uuid,
        usage_type,
        usage_id: "of vm-1".into(),
    };
    let reply = ConnectListAllSecretsRet {
        secrets: vec![secret(SecretUsageType::TLS), secret(SecretUsageType(99))],
        ret: 2,
    };
    daemon.reply::<ConnectListAllSecrets>(&call, &reply).await;
    let secrets = answer.await.unwrap();
    assert_eq!(secrets, reply.secrets);
    assert_eq!(
        secrets[0].usage_type.name(),
        Some("VIR_SECRET_USAGE_TYPE_TLS")
    );
    assert_eq!(secrets[1].usage_type.name(), None);
}
