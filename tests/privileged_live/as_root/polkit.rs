//! A daemon that asks polkit who may change things.

use libvirt_qmp::{Config, Error, Libvirt, LibvirtError, User};

use crate::support::privileged::{ANNE, BEN, CARL, Privileged, ROOT, part, virsh};

const SYSTEM: &str = "qemu:///system";

/// Anne may change things, Ben may not, and Carl would have to give the password of somebody who may, where nobody asks
/// him for it. Who only reads is not spoken of.
const RULES: &str = r#"
polkit.addRule(function (action, subject) {
    if (action.id != "org.libvirt.unix.manage") {
        return polkit.Result.NOT_HANDLED;
    }
    switch (subject.user) {
        case "lab-anne": return polkit.Result.YES;
        case "lab-carl": return polkit.Result.AUTH_ADMIN;
        default: return polkit.Result.NO;
    }
});
"#;

#[tokio::test]
#[ignore = "needs root, libvirtd and QEMU: run tests/run"]
async fn it_decides_who_comes_in() {
    if let Some(part) = part() {
        return come_in(&part).await;
    }
    let lab = Privileged::start_with_polkit(RULES);
    for (user, part) in [
        (ANNE, "allowed"),
        (BEN, "denied"),
        (CARL, "to be asked"),
        // The rules would deny it: the daemon does not ask.
        (ROOT, "allowed"),
        // A refusal is nothing that lasts.
        (ANNE, "allowed"),
    ] {
        lab.again(user, "as_root::polkit::it_decides_who_comes_in", part);
    }
    // Nor does it ask of root outside, of whom it knows no process.
    let uri = crate::uri("qemu", &lab.unix_path());
    assert_comes_in(&Libvirt::connect(&uri).await.unwrap()).await;
}

/// A session that may change things.
async fn assert_comes_in(libvirt: &Libvirt) {
    let network = "<network><name>one</name></network>";
    let network = libvirt.network_define_xml(network).await.unwrap();
    libvirt.network_undefine(&network).await.unwrap();
}

async fn come_in(part: &str) {
    let by_virsh = virsh(&["-c", SYSTEM, "uri"]);
    let came = Libvirt::connect(SYSTEM).await;
    let by_parameter = Libvirt::connect("qemu:///system?auth=polkit").await;
    if part == "allowed" {
        assert_eq!(by_virsh.as_deref().map(str::trim), Ok(SYSTEM));
        assert_comes_in(&came.unwrap()).await;
        // Of root the daemon says that it wants no authentication, and so not this one.
        match User::current().is_root {
            true => assert!(by_parameter.unwrap_err().is_unsupported()),
            false => assert_comes_in(&by_parameter.unwrap()).await,
        }
    } else {
        let (code, words) = match part {
            "denied" => (LibvirtError::AUTH_FAILED, "access denied by policy"),
            _ => (LibvirtError::AUTH_UNAVAILABLE, "no polkit agent available"),
        };
        for error in [came.unwrap_err(), by_parameter.unwrap_err()] {
            assert!(error.is_auth_failed() && !error.is_unavailable());
            let Error::Libvirt(error) = error else {
                panic!("{error:?}")
            };
            let message = error.message.as_deref().unwrap();
            assert_eq!(error.code, code, "{message}");
            assert!(message.contains(words), "{message}");
            let by_virsh = by_virsh.as_ref().unwrap_err();
            assert!(
                by_virsh.ends_with(&format!("error: {message}")),
                "{by_virsh}"
            );
        }
    }
    // Whoever only reads is asked nothing.
    let config = Config::new().readonly(true);
    let reader = Libvirt::connect_with(SYSTEM, config).await.unwrap();
    assert!(reader.domains().await.unwrap().is_empty());
}
