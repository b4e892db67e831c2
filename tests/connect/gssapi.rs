//! SASL's GSSAPI, with a private KDC and a private libvirtd: over plain TCP, where all that follows is encrypted, and elsewhere.
//!
//! Each test is a process of its own, which has its realm and its tickets in the environment.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use libvirt_qmp::events::{DomainEvent, DomainEventFilter, DomainEventId};

use libvirt_qmp::protocol::constants::DomainXmlFlags;
use libvirt_qmp::{
    AuthFailure, Backoff, Config, ConnectionState, Credentials, Error, Libvirt, LibvirtRpc, Monitor,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::{chain, patient};
use crate::support::kdc::{Kdc, REALM, in_realm};
use crate::support::lab::{Lab, SASL_USER};
use crate::support::process::{PATIENCE, search_path};

/// Long enough for a test on a machine under load.
const LIFE: u32 = 3600;

/// The daemon of this realm that knows itself by this service.
fn lab(kdc: &Kdc, mechanisms: &str, more: &str) -> Lab {
    let keys = kdc.add("libvirt/localhost");
    let config = kdc.config();
    let files: [(&str, &Path); 2] = [("krb5.conf", &config), ("krb5.keytab", &keys)];
    Lab::start_with_kerberos(mechanisms, &files, || format!("listen_tls = 0\n{more}"))
}

fn run(name: &str, test: impl AsyncFnOnce(Kdc)) {
    in_realm(&format!("gssapi::{name}"), |kdc| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(test(kdc));
    });
}

fn tcp(addr: SocketAddr, more: &str) -> String {
    format!("test+tcp://localhost:{}/default{more}", addr.port())
}

fn unix(lab: &Lab, more: &str) -> String {
    let socket = lab.unix_path();
    format!("test+unix:///default?socket={}{more}", socket.display())
}

async fn open(uri: &str, config: Config) -> Libvirt {
    let libvirt = Libvirt::connect_with(uri, config)
        .await
        .unwrap_or_else(|error| panic!("{uri}: {}", chain(&error)));
    let domains = libvirt.domains().await.unwrap();
    assert!(domains.iter().any(|domain| domain.name == "test"));
    libvirt
}

async fn failure(uri: &str, config: Config) -> AuthFailure {
    match Libvirt::connect_with(uri, config).await.unwrap_err() {
        Error::Auth(failure) => *failure,
        other => panic!("{uri}: {}", chain(&other)),
    }
}

/// What libvirt's own client says with the same ticket.
fn virsh(lab: &Lab, uri: &str) -> Result<String, String> {
    let output = Command::new("timeout")
        .args(["60", "virsh", "-q", "-c", uri, "list", "--name"])
        .env("LC_ALL", "C")
        .env("PATH", search_path())
        .env("XDG_CACHE_HOME", lab.dir().join("virsh"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// A guest whose description is so long.
fn guest(name: &str, length: usize) -> String {
    let text = "0123456789abcdef".repeat(length / 16);
    format!(
        "<domain type='test'><name>{name}</name><description>{text}</description><memory unit='MiB'>8</memory>\
         <os><type>hvm</type></os></domain>"
    )
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn over_plain_tcp_all_is_encrypted() {
    run("over_plain_tcp_all_is_encrypted", async |kdc| {
        let lab = lab(&kdc, "gssapi digest-md5", "");
        kdc.log_in("fred", LIFE);
        let (proxy, seen) = listening(lab.tcp_addr()).await;
        for uri in [tcp(proxy, ""), tcp(proxy, "?auth=sasl.GSSAPI")] {
            let libvirt = open(&uri, patient()).await;
            many_calls(&libvirt).await;
            long_calls(&libvirt).await;
            events(&libvirt).await;
            libvirt.close().await.unwrap();
        }
        assert_eq!(seen.load(Ordering::Relaxed), 0, "in the clear");
        // Without a layer it is seen.
        let open_lab = Lab::start();
        let (proxy, seen) = listening(open_lab.tcp_addr()).await;
        open(&tcp(proxy, ""), patient())
            .await
            .close()
            .await
            .unwrap();
        assert_ne!(seen.load(Ordering::Relaxed), 0);
        assert_eq!(virsh(&lab, &tcp(lab.tcp_addr(), "")).unwrap(), "test");
        assert!(
            kdc.tickets()
                .contains(&format!("libvirt/localhost@{REALM}"))
        );
        // A monitor goes the same way in.
        let uri = tcp(lab.tcp_addr(), "");
        let monitor = LibvirtRpc::connect_uri_with(&uri, "test", patient()).await;
        monitor.unwrap().disconnect().await.unwrap();
    });
}

/// A way to the daemon, and how often a part of what goes there can be read on it.
async fn listening(daemon: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (read, write) = client.into_split();
            let (from, to) = TcpStream::connect(daemon).await.unwrap().into_split();
            tokio::spawn(forward(read, to, count.clone()));
            tokio::spawn(forward(from, write, count.clone()));
        }
    });
    (addr, seen)
}

async fn forward(mut read: OwnedReadHalf, mut write: OwnedWriteHalf, seen: Arc<AtomicUsize>) {
    let mut bytes = vec![0; 65536];
    while let Ok(count @ 1..) = read.read(&mut bytes).await {
        let part = &bytes[..count];
        let found = part.windows(15).any(|part| part == b"test:///default");
        seen.fetch_add(usize::from(found), Ordering::Relaxed);
        if write.write_all(part).await.is_err() {
            break;
        }
    }
}

async fn many_calls(libvirt: &Libvirt) {
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let libvirt = libvirt.clone();
        calls.spawn(async move {
            for _ in 0..50 {
                assert_eq!(libvirt.connect_get_uri().await.unwrap(), "test:///default");
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
}

/// Both ways more than what one packet holds.
async fn long_calls(libvirt: &Libvirt) {
    for length in [60_000, 100_000, 1_000_000] {
        let xml = guest("long", length);
        let domain = libvirt.domain_define_xml(&xml).await.unwrap();
        let flags = DomainXmlFlags::default();
        let told = libvirt.domain_get_xml_desc(&domain, flags).await.unwrap();
        assert!(told.len() > length, "{}", told.len());
        assert!(told.contains(&"0123456789abcdef".repeat(length / 16)));
        libvirt.domain_undefine(&domain).await.unwrap();
    }
}

async fn events(libvirt: &Libvirt) {
    let filter = DomainEventFilter::all().only([DomainEventId::LIFECYCLE]);
    let mut events = libvirt.domain_events(filter).await.unwrap();
    let domain = libvirt.domain_define_xml(&guest("one", 16)).await.unwrap();
    libvirt.domain_undefine(&domain).await.unwrap();
    let mut seen = 0;
    while seen < 2 {
        let event = tokio::time::timeout(PATIENCE, events.next()).await;
        let event = event.expect("an event in time").unwrap().unwrap();
        let DomainEvent::Lifecycle { domain, .. } = event else {
            panic!("{event:?}");
        };
        // Those of before may come late.
        seen += usize::from(domain.name == "one");
    }
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_lost_connection_is_made_again_with_its_layer() {
    run(
        "a_lost_connection_is_made_again_with_its_layer",
        async |kdc| {
            let lab = Arc::new(lab(&kdc, "gssapi", ""));
            kdc.log_in("fred", LIFE);
            let backoff = Backoff::new().longest(Duration::from_millis(200));
            let config = patient().reconnect(backoff);
            let libvirt = open(&tcp(lab.tcp_addr(), ""), config).await;
            let mut state = libvirt.state();
            for _ in 0..2 {
                let restarted = lab.clone();
                let restart = tokio::task::spawn_blocking(move || restarted.restart_daemon());
                for is_connected in [false, true] {
                    let is = |state: &ConnectionState| match state {
                        ConnectionState::Connected => is_connected,
                        ConnectionState::Reconnecting { .. } => !is_connected,
                        _ => false,
                    };
                    let wait = tokio::time::timeout(PATIENCE, state.wait_for(is)).await;
                    wait.expect("the state in time").unwrap();
                }
                restart.await.unwrap();
                many_calls(&libvirt).await;
                long_calls(&libvirt).await;
            }
            libvirt.close().await.unwrap();
        },
    );
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn where_the_way_is_safe_there_is_no_layer() {
    run("where_the_way_is_safe_there_is_no_layer", async |kdc| {
        let lab = lab(&kdc, "gssapi", "");
        kdc.log_in("fred", LIFE);
        for uri in [unix(&lab, ""), unix(&lab, "&auth=sasl.GSSAPI")] {
            let libvirt = open(&uri, patient()).await;
            many_calls(&libvirt).await;
            libvirt.close().await.unwrap();
        }
        assert_eq!(virsh(&lab, &unix(&lab, "")).unwrap(), "test");
        // Streams of the user's own: who they lead to is not known, so the daemon says what there is.
        let config = || patient().uri("test:///default");
        let socket = UnixStream::connect(lab.unix_path()).await.unwrap();
        let libvirt = Libvirt::open(socket, config()).await.unwrap();
        many_calls(&libvirt).await;
        let socket = TcpStream::connect(lab.tcp_addr()).await.unwrap();
        let libvirt = Libvirt::open(socket, config()).await.unwrap();
        many_calls(&libvirt).await;
        long_calls(&libvirt).await;
    });
}

/// A layer inside of TLS would encrypt twice.
#[cfg(feature = "tls")]
#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn over_tls_there_is_no_layer() {
    use crate::support::pki::Pki;
    use crate::support::process::free_addr;

    run("over_tls_there_is_no_layer", async |kdc| {
        let pki = Pki::new();
        for name in ["server", "client"] {
            pki.issue(name, "ca", 3650, "DNS:localhost");
        }
        let port = std::cell::Cell::new(0);
        let keys = kdc.add("libvirt/localhost");
        let config = kdc.config();
        let files: [(&str, &Path); 2] = [("krb5.conf", &config), ("krb5.keytab", &keys)];
        let lab = Lab::start_with_kerberos("gssapi", &files, || {
            port.set(free_addr().port());
            pki.settings(port.get(), "sasl")
        });
        let directory = pki.of_client();
        kdc.log_in("fred", LIFE);
        let uri = format!(
            "test+tls://localhost:{}/default?pkipath={}",
            port.get(),
            directory.display()
        );
        let libvirt = open(&uri, patient()).await;
        many_calls(&libvirt).await;
        long_calls(&libvirt).await;
        libvirt.close().await.unwrap();
        drop(lab);
    });
}

/// The reason that GSS gives, of a ticket that cannot be had.
async fn no_ticket(uri: &str) -> String {
    match failure(uri, patient()).await {
        AuthFailure::Credentials { mechanism, reason } => {
            assert_eq!(mechanism, "GSSAPI");
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_ticket_that_cannot_be_had_is_told_by_its_reason() {
    run(
        "a_ticket_that_cannot_be_had_is_told_by_its_reason",
        async |kdc| {
            let lab = lab(&kdc, "gssapi", "");
            let uri = tcp(lab.tcp_addr(), "");
            let reason = no_ticket(&uri).await;
            assert!(
                reason.contains("No Kerberos credentials available"),
                "{reason}"
            );
            let error = Libvirt::connect_with(&uri, patient()).await.unwrap_err();
            assert!(error.is_auth_failed(), "{error:?}");
            let text = chain(&error);
            let expected = "a ticket of Kerberos cannot be used with GSSAPI: No Kerberos";
            assert!(text.contains(expected), "{text}");

            kdc.log_in("fred", 1);
            kdc.wait_for_expiry();
            let reason = no_ticket(&uri).await;
            assert!(reason.contains("expired"), "{reason}");

            kdc.log_in("fred", LIFE);
            let port = lab.tcp_addr().port();
            // The host has no service in this realm: it is in it only by another of its names.
            let reason = no_ticket(&format!("test+tcp://127.0.0.1:{port}/default")).await;
            assert!(
                reason.contains("not found in Kerberos database"),
                "{reason}"
            );
            assert!(virsh(&lab, &uri).is_ok());
            kdc.log_out();
            let refused = virsh(&lab, &uri).unwrap_err();
            assert!(
                refused.contains("No Kerberos credentials available"),
                "{refused}"
            );
        },
    );
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn whom_the_daemon_does_not_let_in() {
    run("whom_the_daemon_does_not_let_in", async |kdc| {
        let allowed = "sasl_allowed_username_list = [\"fred\"]\n";
        let lab = lab(&kdc, "gssapi", allowed);
        kdc.add("mallory");
        kdc.log_in("fred", LIFE);
        for uri in [tcp(lab.tcp_addr(), ""), unix(&lab, "")] {
            open(&uri, patient()).await.close().await.unwrap();
        }
        // As somebody else, which no policy of Cyrus SASL allows.
        let other = Credentials::new("fred", "").authorize_as("alice");
        for uri in [tcp(lab.tcp_addr(), ""), unix(&lab, "")] {
            let failed = failure(&uri, patient().credentials(other.clone())).await;
            assert!(matches!(failed, AuthFailure::Refused { .. }), "{failed:?}");
        }
        kdc.log_in("mallory", LIFE);
        for uri in [tcp(lab.tcp_addr(), ""), unix(&lab, "")] {
            match failure(&uri, patient()).await {
                AuthFailure::Refused {
                    user, mechanism, ..
                } => {
                    assert_eq!(user, Some(format!("mallory@{REALM}")));
                    assert_eq!(mechanism, "GSSAPI");
                }
                other => panic!("{other:?}"),
            }
        }
        // Its key is another one by now: the ticket is for a daemon that this one is not.
        kdc.add("libvirt/localhost");
        kdc.log_in("fred", LIFE);
        let failed = failure(&tcp(lab.tcp_addr(), ""), patient()).await;
        assert!(matches!(failed, AuthFailure::Refused { .. }), "{failed:?}");
    });
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn nobody_is_asked_who_has_a_ticket() {
    run("nobody_is_asked_who_has_a_ticket", async |kdc| {
        let lab = lab(&kdc, "gssapi scram-sha-256", "");
        let uri = unix(&lab, "");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let asking = patient().ask_credentials(move |request| {
            assert_eq!(request.mechanism, "SCRAM-SHA-256");
            count.fetch_add(1, Ordering::Relaxed);
            async { Some(Credentials::new(SASL_USER.0, SASL_USER.1)) }
        });
        let expect = |count| assert_eq!(asked.swap(0, Ordering::Relaxed), count);

        // Without a ticket.
        open(&uri, asking.clone()).await.close().await.unwrap();
        expect(1);
        match failure(&uri, patient()).await {
            AuthFailure::NoCredentials { reason } => {
                assert!(reason.contains("no auth.conf has any"), "{reason}");
                assert!(reason.contains("No Kerberos credentials"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        // With one that is good.
        kdc.log_in("fred", LIFE);
        open(&uri, asking.clone()).await.close().await.unwrap();
        open(&uri, patient()).await.close().await.unwrap();
        expect(0);
        assert!(kdc.tickets().contains("libvirt/localhost"));
        // What is in the settings was put there to be used, also where it is wrong.
        let wrong = patient().credentials(Credentials::new(SASL_USER.0, "hunter2"));
        match failure(&uri, wrong).await {
            AuthFailure::Refused { mechanism, .. } => assert_eq!(mechanism, "SCRAM-SHA-256"),
            other => panic!("{other:?}"),
        }
        // With one that is good for others.
        kdc.remove("libvirt/localhost");
        kdc.log_in("fred", LIFE);
        open(&uri, asking).await.close().await.unwrap();
        expect(1);
    });
}

/// The ticket is forwardable and the daemon would be allowed to have it, but nobody gives it away.
#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn the_daemon_cannot_act_as_the_user() {
    run("the_daemon_cannot_act_as_the_user", async |kdc| {
        let lab = lab(&kdc, "gssapi", "");
        kdc.log_in("fred", LIFE);
        assert!(kdc.tickets().contains("Flags: F"), "{}", kdc.tickets());
        open(&tcp(lab.tcp_addr(), ""), patient()).await;
        // To be delegated, it would be fetched once more, forwarded.
        assert_eq!(kdc.forwarded(), 0);
    });
}

/// The KDC takes the connection, and says nothing.
#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn a_kdc_that_does_not_answer_holds_nothing_up() {
    in_realm(
        "gssapi::a_kdc_that_does_not_answer_holds_nothing_up",
        |kdc| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let (mut asked, _silent) = runtime.block_on(async {
                let lab = lab(&kdc, "gssapi", "");
                kdc.log_in("fred", LIFE);
                let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                kdc.move_to(silent.local_addr().unwrap());
                let config = patient().auth_timeout(Some(Duration::from_secs(2)));
                let error = Libvirt::connect_with(&tcp(lab.tcp_addr(), ""), config).await;
                let error = error.unwrap_err();
                assert!(error.is_timeout(), "{}", chain(&error));
                let text = error.to_string();
                assert!(text.contains("while authenticating"), "{text}");
                let asked = tokio::time::timeout(PATIENCE, silent.accept()).await;
                let (asked, _) = asked.expect("the KDC is asked").unwrap();
                asked.readable().await.unwrap();
                (asked.into_std().unwrap(), silent)
            });
            // The runtime ends, and Kerberos' library still waits for an answer.
            drop(runtime);
            let mut heard = 0;
            let waits = loop {
                match asked.read(&mut [0; 4096]) {
                    Ok(0) => break false,
                    Ok(count) => heard += count,
                    Err(error) => break error.kind() == std::io::ErrorKind::WouldBlock,
                }
            };
            assert!(waits && heard > 0, "it gave up, after {heard} bytes");
        },
    );
}

/// What somebody on the way does with the daemon's packets of SASL.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tamper {
    Nothing,
    /// Says that all is done, where the daemon has only said which layers it has: what follows would be in the clear.
    CompleteAtOnce,
    /// Adds this behind the last packet in the clear.
    Add(&'static [u8]),
    /// Changes a bit of the first packet in the layer.
    Flip,
    /// Sends the first packet of the layer twice.
    Repeat,
    /// Says that the first packet of the layer is so long.
    Length(u32),
    /// Ends the stream inside the first packet of the layer.
    Cut,
}

/// The number of the last reply in the clear: the list of ways to authenticate, the list of mechanisms, and three messages.
const LAST_IN_CLEAR: usize = 5;

/// A way to the daemon on which somebody sits.
async fn tampering(daemon: SocketAddr, tamper: Tamper) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut read, write) = client.into_split();
        let (from, mut to) = TcpStream::connect(daemon).await.unwrap().into_split();
        tokio::spawn(async move { tokio::io::copy(&mut read, &mut to).await });
        let _ = tamper_with(from, write, tamper).await;
    });
    addr
}

async fn tamper_with(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    tamper: Tamper,
) -> std::io::Result<()> {
    for number in 1.. {
        let length = from.read_u32().await?;
        // A packet's length counts itself, that of a token does not.
        let is_clear = number <= LAST_IN_CLEAR;
        let rest = usize::try_from(length).unwrap() - if is_clear { 4 } else { 0 };
        let mut packet = length.to_be_bytes().to_vec();
        packet.resize(4 + rest, 0);
        from.read_exact(&mut packet[4..]).await?;
        let is_first_in_layer = number == LAST_IN_CLEAR + 1;
        match tamper {
            // The header is of 28 bytes, and `complete` the first word after it.
            Tamper::CompleteAtOnce if number == LAST_IN_CLEAR - 1 => packet[31] = 1,
            Tamper::Add(more) if number == LAST_IN_CLEAR => packet.extend_from_slice(more),
            Tamper::Flip if is_first_in_layer => packet[40] ^= 1,
            Tamper::Repeat if is_first_in_layer => packet.extend_from_within(..),
            Tamper::Length(length) if is_first_in_layer => {
                packet[..4].copy_from_slice(&length.to_be_bytes());
            }
            Tamper::Cut if is_first_in_layer => {
                to.write_all(&packet[..packet.len() - 1]).await?;
                return Ok(());
            }
            _ => {}
        }
        to.write_all(&packet).await?;
    }
    Ok(())
}

#[test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
fn who_sits_on_the_way_cannot_take_the_layer_away_nor_get_into_it() {
    let name = "who_sits_on_the_way_cannot_take_the_layer_away_nor_get_into_it";
    run(name, async |kdc| {
        let lab = lab(&kdc, "gssapi", "");
        kdc.log_in("fred", LIFE);
        for (tamper, expected) in [
            (Tamper::CompleteAtOnce, "it ends before the end"),
            // The start of a reply, to which what comes next would be added.
            (
                Tamper::Add(&[0, 0, 0, 29]),
                "before the security layer began",
            ),
            (Tamper::Add(b"x"), "before the security layer began"),
            (Tamper::Flip, "the security layer of GSSAPI"),
            (Tamper::Repeat, "the security layer of GSSAPI"),
            (Tamper::Length(0x7fff_ffff), "2147483647 bytes"),
            (Tamper::Cut, "unexpected end of file"),
        ] {
            let addr = tampering(lab.tcp_addr(), tamper).await;
            let error = Libvirt::connect_with(&tcp(addr, ""), patient()).await;
            let text = chain(&error.expect_err("somebody was on the way"));
            assert!(text.contains(expected), "{tamper:?}: {text}");
        }
        let addr = tampering(lab.tcp_addr(), Tamper::Nothing).await;
        open(&tcp(addr, ""), patient()).await;
    });
}
