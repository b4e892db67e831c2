//! Authentication by SASL against a daemon that offers it, and that does not always keep to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use libvirt_qmp::packet::MessageStatus;
use libvirt_qmp::protocol::remote::procedure::{
    AuthSaslInit, AuthSaslStart, AuthSaslStep, ConnectOpen,
};
use libvirt_qmp::protocol::remote::{
    AuthSaslInitRet, AuthSaslStartArgs, AuthSaslStartRet, AuthSaslStepArgs, AuthSaslStepRet,
    AuthType,
};
use libvirt_qmp::{AuthFailure, Config, Credentials, DecodeFailure, Error, Libvirt, Phase};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::support::mock::{Call, MockDaemon, pair, quiet, unix_pair};

const LIMIT: Duration = Duration::from_secs(7);

/// What a daemon answers with when it is done and has no more to say.
const DONE: (i32, Option<&[u8]>) = (1, None);

type Opening = JoinHandle<Result<Libvirt, Error>>;

fn fred() -> Config {
    quiet().credentials(Credentials::new("fred", "hunter2"))
}

/// A client on a unix socket that has been told which mechanisms there are.
async fn offered(config: Config, mechanisms: &str) -> (Opening, MockDaemon) {
    let (conn, mut daemon) = unix_pair();
    let opening = tokio::spawn(Libvirt::open(conn, config));
    offer(&mut daemon, mechanisms).await;
    (opening, daemon)
}

async fn offer(daemon: &mut MockDaemon, mechanisms: &str) {
    daemon.auth(&[AuthType::SASL]).await;
    let init = daemon.expect::<AuthSaslInit>().await;
    let mechlist = mechanisms.to_owned();
    let reply = AuthSaslInitRet { mechlist };
    daemon.reply::<AuthSaslInit>(&init, &reply).await;
}

async fn start(daemon: &mut MockDaemon) -> Call<AuthSaslStartArgs> {
    daemon.expect::<AuthSaslStart>().await
}

async fn step(daemon: &mut MockDaemon) -> Call<AuthSaslStepArgs> {
    daemon.expect::<AuthSaslStep>().await
}

async fn answer_start(
    daemon: &mut MockDaemon,
    call: &Call<AuthSaslStartArgs>,
    (complete, data): (i32, Option<&[u8]>),
) {
    let reply = AuthSaslStartRet {
        complete,
        nil: i32::from(data.is_none()),
        data: data.unwrap_or_default().to_vec(),
    };
    daemon.reply::<AuthSaslStart>(call, &reply).await;
}

async fn answer_step(
    daemon: &mut MockDaemon,
    call: &Call<AuthSaslStepArgs>,
    (complete, data): (i32, Option<&[u8]>),
) {
    let reply = AuthSaslStepRet {
        complete,
        nil: i32::from(data.is_none()),
        data: data.unwrap_or_default().to_vec(),
    };
    daemon.reply::<AuthSaslStep>(call, &reply).await;
}

/// RFC 5802: what a server says to a client's first message.
fn server_first(client_first: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(client_first).unwrap();
    let nonce = text.strip_prefix("n,,n=fred,r=").unwrap();
    format!("r={nonce}theirs,s=QSXCR+Q6sek8bf92,i=4096").into_bytes()
}

async fn failed(opening: Opening) -> AuthFailure {
    let error = opening.await.unwrap().unwrap_err();
    assert!(error.is_auth_failed(), "{error:?}");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    match error {
        Error::Auth(failure) => *failure,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_exchange(failure: &AuthFailure, why: &str) {
    match failure {
        AuthFailure::Exchange { reason, .. } => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn plain_says_all_at_once() {
    // A daemon that has nothing to say may be done at once, or after an empty step.
    for at_once in [true, false] {
        let (opening, mut daemon) = offered(fred(), "GSSAPI,PLAIN").await;
        let call = start(&mut daemon).await;
        assert_eq!(call.args.mech, "PLAIN");
        // RFC 4616.
        assert_eq!(
            (call.args.nil, &call.args.data[..]),
            (0, &b"\0fred\0hunter2"[..])
        );
        if at_once {
            answer_start(&mut daemon, &call, DONE).await;
        } else {
            answer_start(&mut daemon, &call, (0, None)).await;
            let call = step(&mut daemon).await;
            assert_eq!((call.args.nil, call.args.data.len()), (1, 0));
            answer_step(&mut daemon, &call, DONE).await;
        }
        daemon.expect::<ConnectOpen>().await;
        drop(opening);
    }
}

#[tokio::test(start_paused = true)]
async fn a_password_is_not_sent_where_others_could_read_it() {
    for (allow, mechanisms) in [
        (false, "PLAIN"),
        (true, "PLAIN"),
        (false, "PLAIN,SCRAM-SHA-1"),
    ] {
        let (conn, mut daemon) = pair();
        let config = fred().allow_plain_in_clear(allow);
        let opening = tokio::spawn(Libvirt::open(conn, config));
        offer(&mut daemon, mechanisms).await;
        if allow || mechanisms != "PLAIN" {
            let call = start(&mut daemon).await;
            assert_eq!(call.args.mech, if allow { "PLAIN" } else { "SCRAM-SHA-1" });
            continue;
        }
        let failure = failed(opening).await;
        assert!(
            matches!(failure, AuthFailure::PlainInClear { .. }),
            "{failure:?}"
        );
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn external_says_an_empty_something() {
    let (_opening, mut daemon) = offered(quiet(), "EXTERNAL").await;
    let call = start(&mut daemon).await;
    assert_eq!(call.args.mech, "EXTERNAL");
    assert_eq!((call.args.nil, call.args.data.len()), (0, 0));
    answer_start(&mut daemon, &call, DONE).await;
    daemon.expect::<ConnectOpen>().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_says_nothing_in_a_step() {
    let shared = |until| (until, fred().connect_timeout(Some(LIMIT)));
    let own = |until| {
        let config = fred().auth_timeout(Some(LIMIT));
        (
            until,
            config.connect_timeout(Some(Duration::from_millis(1))),
        )
    };
    for (until, mut config) in (0..5).map(shared).chain((0..5).map(own)) {
        let (conn, mut daemon) = unix_pair();
        if until == 4 {
            config = config.ask_credentials(|_| std::future::pending());
        }
        let since = Instant::now();
        let opening = tokio::spawn(Libvirt::open(conn, config));
        if until == 0 {
            daemon.auth(&[AuthType::SASL]).await;
            daemon.expect::<AuthSaslInit>().await;
        } else {
            offer(&mut daemon, "SCRAM-SHA-256").await;
        }
        if (1..4).contains(&until) {
            let call = start(&mut daemon).await;
            assert_eq!(call.args.mech, "SCRAM-SHA-256");
            if until > 1 {
                let first = server_first(&call.args.data);
                answer_start(&mut daemon, &call, (0, Some(&first))).await;
                let call = step(&mut daemon).await;
                assert!(call.args.data.starts_with(b"c=biws,r="));
                if until == 3 {
                    // Half an answer is none.
                    daemon.raw(&[0, 0, 0, 40, 0x20]).await;
                }
            }
        }
        let error = opening.await.unwrap().unwrap_err();
        match error {
            Error::Timeout { phase, after, .. } => {
                assert_eq!((phase, after), (Phase::Authentication, LIMIT));
            }
            other => panic!("{until}: {other:?}"),
        }
        assert!(since.elapsed() >= LIMIT && since.elapsed() < LIMIT + Duration::from_secs(1));
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_done_must_have_proved_that_it_knows_the_user() {
    // At once, and without a word or with an empty or a wrong one at the end.
    let (opening, mut daemon) = offered(fred(), "SCRAM-SHA-256").await;
    let call = start(&mut daemon).await;
    answer_start(&mut daemon, &call, DONE).await;
    assert_exchange(&failed(opening).await, "missing");
    daemon.expect_eof().await;
    for (last, why) in [
        (None, "missing"),
        (Some(&b""[..]), "no SCRAM"),
        (Some(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="), "proof"),
        (
            Some(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
            "proof",
        ),
        (Some(b"e=invalid-proof"), "invalid proof"),
    ] {
        let (opening, mut daemon) = offered(fred(), "SCRAM-SHA-256").await;
        let call = start(&mut daemon).await;
        let first = server_first(&call.args.data);
        answer_start(&mut daemon, &call, (0, Some(&first))).await;
        let call = step(&mut daemon).await;
        answer_step(&mut daemon, &call, (1, last)).await;
        assert_exchange(&failed(opening).await, why);
        daemon.expect_eof().await;
    }
    // Its first message is not its last.
    let (opening, mut daemon) = offered(fred(), "SCRAM-SHA-256").await;
    let call = start(&mut daemon).await;
    let first = server_first(&call.args.data);
    answer_start(&mut daemon, &call, (1, Some(&first))).await;
    assert_exchange(&failed(opening).await, "before the end");
    daemon.expect_eof().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_ends_the_exchange() {
    for (mechanism, data) in [
        ("SCRAM-SHA-256", Some(&b"r"[..])),
        ("SCRAM-SHA-256", Some(&[0xff; 65_536])),
        ("SCRAM-SHA-1", None),
        ("SCRAM-SHA-1", Some(b"")),
        ("PLAIN", Some(b"what?")),
        ("EXTERNAL", Some(b"who?")),
    ] {
        let (opening, mut daemon) = offered(fred(), mechanism).await;
        let call = start(&mut daemon).await;
        answer_start(&mut daemon, &call, (0, data)).await;
        assert_exchange(&failed(opening).await, "");
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn more_data_than_the_protocol_allows_is_not_taken() {
    let (opening, mut daemon) = offered(fred(), "SCRAM-SHA-256").await;
    let call = start(&mut daemon).await;
    let words = [0_u32, 0, 65_537];
    let mut payload: Vec<u8> = words.into_iter().flat_map(u32::to_be_bytes).collect();
    payload.resize(12 + 4 * 65_537, 0);
    daemon
        .reply_raw(&call.header, MessageStatus::OK, Bytes::from(payload))
        .await;
    let error = opening.await.unwrap().unwrap_err();
    let Error::Decode { what, source } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*what, "REMOTE_PROC_AUTH_SASL_START");
    assert!(matches!(source, DecodeFailure::Xdr(_)), "{source}");
    daemon.expect_eof().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_never_comes_to_an_end() {
    let (opening, mut daemon) = offered(fred(), "PLAIN").await;
    let call = start(&mut daemon).await;
    answer_start(&mut daemon, &call, (0, None)).await;
    let mut steps = 0;
    while let Some(packet) = daemon.packet().await {
        let call = super::support::mock::call::<AuthSaslStep>(&packet);
        answer_step(&mut daemon, &call, (0, None)).await;
        steps += 1;
        assert!(steps < 20);
    }
    assert_exchange(&failed(opening).await, "end");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_user_and_mechanism() {
    for at_start in [true, false] {
        let (opening, mut daemon) = offered(fred(), "SCRAM-SHA-256,PLAIN").await;
        let call = start(&mut daemon).await;
        if at_start {
            daemon.error(&call, 45, "authentication failed").await;
        } else {
            let first = server_first(&call.args.data);
            answer_start(&mut daemon, &call, (0, Some(&first))).await;
            let call = step(&mut daemon).await;
            daemon.error(&call, 45, "authentication failed").await;
        }
        let error = opening.await.unwrap().unwrap_err();
        assert!(error.is_auth_failed() && error.is_denied());
        assert_eq!(error.libvirt_code(), Some(45));
        match error {
            Error::Auth(failure) => match *failure {
                AuthFailure::Refused {
                    user, mechanism, ..
                } => {
                    assert_eq!(user.as_deref(), Some("fred"));
                    assert_eq!(mechanism, "SCRAM-SHA-256");
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
        // The password is not tried in another way.
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_credentials_nothing_is_begun() {
    let none = quiet().ask_credentials(|_| std::future::ready(None));
    for config in [quiet(), none] {
        let (opening, mut daemon) = offered(config, "SCRAM-SHA-256,PLAIN").await;
        let failure = failed(opening).await;
        assert!(
            matches!(failure, AuthFailure::NoCredentials { .. }),
            "{failure:?}"
        );
        daemon.expect_eof().await;
    }
    // Nothing that is offered can be done.
    for (mechanisms, expected) in [("DIGEST-MD5,NTLM", 2), ("ANONYMOUS", 1), ("", 0)] {
        let (opening, mut daemon) = offered(fred(), mechanisms).await;
        match failed(opening).await {
            AuthFailure::NoMechanism { offered, .. } => assert_eq!(offered.len(), expected),
            other => panic!("{other:?}"),
        }
        daemon.expect_eof().await;
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_are_asked_for_when_they_are_wanted() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let requests = asked.clone();
    let config = quiet().ask_credentials(move |request| {
        requests.lock().unwrap().push(request);
        async { Some(Credentials::new("alice", "secret")) }
    });
    let (conn, mut daemon) = unix_pair();
    let opening = tokio::spawn(Libvirt::open(conn, config));
    daemon.auth(&[AuthType::SASL]).await;
    let init = daemon.expect::<AuthSaslInit>().await;
    assert!(asked.lock().unwrap().is_empty());
    let mechlist = "PLAIN".to_owned();
    let reply = AuthSaslInitRet { mechlist };
    daemon.reply::<AuthSaslInit>(&init, &reply).await;
    let call = start(&mut daemon).await;
    assert_eq!(call.args.data, b"\0alice\0secret");
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].host.as_deref(), &*asked[0].mechanism),
        (None, "PLAIN")
    );
    drop(opening);
}
