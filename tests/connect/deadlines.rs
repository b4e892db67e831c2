//! Each step of the way to a daemon has a deadline of its own, where the user wants one: set, it alone ends the step; lifted,
//! nothing does. The clock is stopped once the peer has fallen silent.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use libvirt_qmp::{Config, Error, Libvirt, Phase};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, advance, pause};

use super::child::script;
use super::{chain, patient};
use crate::support::scratch::Scratch;

/// A deadline that is none of the defaults, and longer than a machine under load takes for the way.
const LIMIT: Duration = Duration::from_secs(77);

const LONG: Duration = Duration::from_secs(100_000);

/// Connects with this deadline for the one step, and none or a long one for all others, to a peer that falls silent: `silence`
/// ends when it has. Gives the error, which comes at that deadline and no other.
async fn silent_peer(
    uri: &str,
    own: fn(Config, Option<Duration>) -> Config,
    mut silence: impl AsyncFnMut(),
) -> Error {
    // Lifted.
    let lifted = own(patient(), None);
    let connecting = tokio::spawn(connect(uri.to_owned(), lifted));
    silence().await;
    pause();
    for _ in 0..10 {
        advance(LONG).await;
    }
    assert!(!connecting.is_finished());
    connecting.abort();
    let _ = connecting.await;
    tokio::time::resume();

    // Set.
    let set = own(Config::new().connect_timeout(None), Some(LIMIT));
    let started = Instant::now();
    let connecting = tokio::spawn(connect(uri.to_owned(), set));
    silence().await;
    pause();
    let error = connecting.await.unwrap().unwrap_err();
    assert!(started.elapsed() >= LIMIT, "{:?}", started.elapsed());
    assert!(error.is_timeout() && error.is_unavailable(), "{error}");
    assert!(chain(&error).contains("77s"), "{}", chain(&error));
    tokio::time::resume();
    error
}

async fn connect(uri: String, config: Config) -> Result<(), Error> {
    Libvirt::connect_with(&uri, config).await.map(drop)
}

/// A listener whose backlog is full: the system answers nothing to those who come.
fn full() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
        waiting.push(stream);
    }
    (addr, listener, waiting)
}

#[tokio::test]
async fn a_host_that_answers_nothing() {
    let (addr, _listener, _waiting) = full();
    let uri = format!("qemu+tcp://{addr}/system");
    // The name is found and the first packet is under way in no time, and nothing tells when.
    let tried = async || tokio::time::sleep(Duration::from_millis(300)).await;
    let error = silent_peer(&uri, Config::dial_timeout, tried).await;
    assert!(
        chain(&error).contains("no connection within"),
        "{}",
        chain(&error)
    );
    match error {
        Error::Connect { target, .. } => assert_eq!(target, addr.to_string()),
        other => panic!("{other:?}"),
    }
}

/// ssh and any other program: until the daemon answers, the way is not made.
#[tokio::test]
async fn a_program_that_leads_nowhere() {
    let scratch = Scratch::new();
    let took = scratch.path("took");
    // The first reads what it is told, the second does not.
    for (name, takes) in [("reads", "head -c 28 >/dev/null; "), ("ignores", "")] {
        let text = format!("{takes}touch {}; exec sleep 1000", took.display());
        let uri = script(&scratch, name, &text);
        let started = async || {
            while std::fs::remove_file(&took).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let error = silent_peer(&uri, Config::dial_timeout, started).await;
        assert!(
            matches!(
                error,
                Error::Timeout {
                    phase: Phase::Dial,
                    after: LIMIT,
                    maybe_executed: _
                }
            ),
            "{error:?}"
        );
    }
}

/// Before TLS, and between the handshake and the byte that says that the daemon accepts.
#[cfg(feature = "tls")]
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_daemon_that_is_silent_in_tls() {
    use tokio::io::AsyncReadExt;

    use super::tls::{CA, accept, pki, uri};

    let pki = pki();
    let directory = pki.directory("pki", &[CA]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let uri = uri(addr, &directory);
    for shakes_hands in [false, true] {
        let mut streams = Vec::new();
        let mut secured = Vec::new();
        let silence = async || {
            if shakes_hands {
                secured.push(accept(&pki, "server", &listener).await);
                return;
            }
            let mut stream = listener.accept().await.unwrap().0;
            stream.read_exact(&mut [0; 5]).await.unwrap();
            streams.push(stream);
        };
        let error = silent_peer(&uri, Config::tls_timeout, silence).await;
        assert!(chain(&error).contains("no TLS within"), "{}", chain(&error));
        match error {
            Error::Connect { target, .. } => assert_eq!(target, addr.to_string()),
            other => panic!("{other:?}"),
        }
    }
}
