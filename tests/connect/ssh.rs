//! ssh, through a private sshd to a private libvirtd.

use std::time::Duration;

use libvirt_qmp::{EndCause, Error, Libvirt};

use super::{chain, patient};
use crate::support::lab::Lab;
use crate::support::process::{PATIENCE, find_program, poll_until, signal, that_name};
use crate::support::scratch::is_root;
use crate::support::sshd::Sshd;

/// The clients of this sshd that run, by process id.
fn clients(sshd: &Sshd) -> Vec<u32> {
    let processes = that_name(sshd.dir()).into_iter();
    processes
        .filter(|process| process.contains(" -T -e none "))
        .map(|process| process.split_once(':').unwrap().0.parse().unwrap())
        .collect()
}

fn no_client_is_left(sshd: &Sshd) {
    let gone = poll_until(PATIENCE, || clients(sshd).is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", that_name(sshd.dir()));
}

/// Puts virt-ssh-helper behind the sshd, as the user that the lab's daemon runs as, whose session it then finds.
fn helper(sshd: &Sshd, lab: &Lab) {
    let helper = find_program("virt-ssh-helper")
        .expect("the live tests need virt-ssh-helper: run tests/run");
    let run = lab.dir().join("run");
    let user = match is_root() {
        true => "setpriv --reuid=65534 --regid=65534 --clear-groups ",
        false => "",
    };
    sshd.script(
        "virt-ssh-helper",
        &format!(
            "echo \"$@\" >>{}/asked\nexec {user}env HOME={}/home XDG_RUNTIME_DIR={} {} \"$@\"",
            sshd.dir().display(),
            lab.dir().display(),
            run.display(),
            helper.display()
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn with_virt_ssh_helper_and_without() {
    let (lab, sshd) = (Lab::start(), Sshd::start());
    let guest = lab.guest("one");
    helper(&sshd, &lab);
    let netcat = format!(
        "&no_verify=1&proxy=netcat&socket={}",
        lab.unix_path().display()
    );
    // The first takes the host's key, and so the others know it.
    for parameters in [&*netcat, "&proxy=native", "&proxy=auto"] {
        let uri = sshd.uri("user", parameters);
        let libvirt = Libvirt::connect_with(&uri, patient())
            .await
            .unwrap_or_else(|error| panic!("{uri}: {}", chain(&error)));
        assert_eq!(libvirt.domains().await.unwrap()[0].uuid, guest.uuid);
        assert_eq!(clients(&sshd).len(), 1);
        libvirt.close().await.unwrap();
        assert!(matches!(*libvirt.closed().await, EndCause::UserClosed));
        no_client_is_left(&sshd);
        // Dropped without a word.
        drop(Libvirt::connect_with(&uri, patient()).await.unwrap());
        no_client_is_left(&sshd);
    }
    let asked = std::fs::read_to_string(sshd.dir().join("asked")).unwrap();
    assert_eq!(asked.lines().collect::<Vec<_>>(), ["qemu:///session"; 4]);
}

/// The system's socket is what netcat is then asked for; here it leads to the lab's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_host_without_the_helper_is_reached_by_netcat() {
    let (lab, sshd) = (Lab::start(), Sshd::start_bare());
    let netcat = find_program("nc").unwrap();
    sshd.script(
        "nc",
        &format!(
            "echo \"$@\" >>{}/asked\n[ \"$*\" != -q ] || exec {2} -q\nexec {2} -U {1}",
            sshd.dir().display(),
            lab.unix_path().display(),
            netcat.display()
        ),
    );
    let uri = sshd.uri("user", "&no_verify=1&proxy=auto&name=qemu:///session");
    let uri = uri.replace("/session?", "/system?");
    let libvirt = Libvirt::connect_with(&uri, patient())
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(libvirt.domains().await.unwrap().is_empty());
    libvirt.close().await.unwrap();
    no_client_is_left(&sshd);
    let asked = std::fs::read_to_string(sshd.dir().join("asked")).unwrap();
    let asked: Vec<_> = asked.lines().collect();
    assert_eq!(asked, ["-q", "-q0 -U /var/run/libvirt/libvirt-sock"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn what_ssh_says_is_in_the_error() {
    let sshd = Sshd::start();
    let cases = [
        // Nobody has taken the host's key yet.
        (sshd.uri("user", ""), "Host key verification failed"),
        (sshd.uri("stranger", "&no_verify=1"), "Permission denied"),
        (
            "qemu+ssh://no-such-host.invalid/system?no_tty=1".to_owned(),
            "Could not resolve hostname",
        ),
        (
            sshd.uri("user", "&proxy=netcat&socket=/no/such/socket"),
            "No such file or directory",
        ),
    ];
    for (uri, said) in cases {
        let error = Libvirt::connect_with(&uri, patient()).await.unwrap_err();
        let text = chain(&error);
        assert!(
            text.contains(said) && text.contains("ssh ended (exit status: "),
            "{uri}: {text}"
        );
        assert!(error.is_disconnected(), "{uri}: {text}");
    }
    no_client_is_left(&sshd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_remote_command_that_greets_or_says_nothing() {
    let sshd = Sshd::start();
    // They are asked first which netcat they are.
    sshd.script(
        "greets",
        "[ $1 = -U ] || exit 1; echo 'Welcome to this host!'; exec cat >/dev/null",
    );
    sshd.script("silent", "[ $1 = -U ] || exit 1; exec cat >/dev/null");
    let uri = |netcat| sshd.uri("user", &format!("&no_verify=1&socket=/x&netcat={netcat}"));
    match Libvirt::connect_with(&uri("greets"), patient())
        .await
        .unwrap_err()
    {
        Error::Disconnected { cause, .. } => {
            assert!(matches!(*cause, EndCause::Frame(_)), "{cause}")
        }
        other => panic!("{other:?}"),
    }
    let config = patient().connect_timeout(Some(Duration::from_secs(2)));
    let error = Libvirt::connect_with(&uri("silent"), config)
        .await
        .unwrap_err();
    assert!(error.is_timeout(), "{}", chain(&error));
    no_client_is_left(&sshd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_end_of_ssh_is_the_cause() {
    let (lab, sshd) = (Lab::start(), Sshd::start());
    let netcat = format!(
        "&no_verify=1&proxy=netcat&socket={}",
        lab.unix_path().display()
    );
    let uri = sshd.uri("user", &netcat);
    let libvirt = Libvirt::connect_with(&uri, patient()).await.unwrap();
    signal(clients(&sshd)[0], "KILL");
    let cause = libvirt.closed().await;
    match &*cause {
        EndCause::Io(error) => assert!(
            error.to_string().contains("ssh ended (signal: 9"),
            "{error}"
        ),
        other => panic!("{other:?}"),
    }
    no_client_is_left(&sshd);
}
