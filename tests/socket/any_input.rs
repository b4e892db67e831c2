//! Anything a peer may say: replies and events in any order, and bytes that mean nothing.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{Config, Error, Monitor, SocketMonitor};
use proptest::prelude::*;
use tokio::time::timeout;

use crate::support::qmp_peer::{GREETING, QmpPeer, event};
use crate::{STATUS, names, number, numbered, run};

/// What the peer does next.
#[derive(Clone, Debug)]
enum Say {
    Event,
    /// Answers one of the commands that wait, with success or not.
    Answer(usize, bool),
    /// Says something for nobody.
    Noise(usize),
}

const NOISE: [&str; 4] = [
    r#"{"return": {}, "id": "z"}"#,
    r#"{"id": 5, "error": {"class": "X", "desc": "y"}}"#,
    r#"{"return": {}}"#,
    "{}",
];

fn say() -> impl Strategy<Value = Say> {
    prop_oneof![
        Just(Say::Event),
        (0_usize..8, any::<bool>()).prop_map(|(which, ok)| Say::Answer(which, ok)),
        (0..NOISE.len()).prop_map(Say::Noise),
    ]
}

fn on_paused_clock<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever order events, replies and noise come in and however they are cut, each caller gets the reply to their
    /// own command, and the events come in order.
    #[test]
    fn interleavings_never_misroute(
        calls in 1_usize..20,
        script in prop::collection::vec(say(), 0..60),
        cut in 1_usize..200,
    ) {
        on_paused_clock(async {
            let config = Config::new().max_in_flight(8);
            let (monitor, mut peer) = QmpPeer::connected(config).await;
            let monitor = Arc::new(monitor);
            let mut events = monitor.events().await.unwrap();
            let callers: Vec<_> = (0..calls)
                .map(|n| run(&monitor, numbered(i64::try_from(n).unwrap())))
                .collect();
            let mut waiting = Vec::new();
            let mut sent = Vec::new();
            let mut script = script.into_iter();
            let mut received = 0;
            let mut answered = 0;
            while answered < calls {
                while received < calls && waiting.len() < 8 {
                    waiting.push(peer.receive().await);
                    received += 1;
                }
                let last = Say::Answer(0, true);
                let text = match script.next().unwrap_or(last) {
                    Say::Event => {
                        sent.push(format!("E{}", sent.len()));
                        event(&sent[sent.len() - 1])
                    }
                    Say::Answer(which, ok) => {
                        let command = waiting.swap_remove(which % waiting.len());
                        let (id, n) = (command.id(), number(&command));
                        answered += 1;
                        if ok {
                            format!(r#"{{"return": {n}, "id": {id}}}"#)
                        } else {
                            format!(r#"{{"error": {{"class": "C{n}", "desc": ""}}, "id": {id}}}"#)
                        }
                    }
                    Say::Noise(n) => NOISE[n].to_owned(),
                };
                for piece in text.as_bytes().chunks(cut) {
                    peer.send_bytes(piece).await;
                }
            }
            for (n, caller) in callers.into_iter().enumerate() {
                match caller.await.unwrap() {
                    Ok(reply) => assert_eq!(reply, format!(r#"{{"return": {n}}}"#)),
                    Err(Error::Qmp(error)) => assert_eq!(error.class.as_str(), format!("C{n}")),
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert_eq!(names(&mut events, sent.len()).await, sent);
        });
    }

    /// Bytes of any kind, before, within and after the handshake: the calls end, one way or the other, and within their
    /// deadlines.
    #[test]
    fn any_bytes_end_in_an_answer(
        place in 0_usize..3,
        pieces in prop::collection::vec(piece(), 0..8),
        hang_up in any::<bool>(),
    ) {
        on_paused_clock(async {
            let (client, mut peer) = QmpPeer::new();
            let monitor = Arc::new(SocketMonitor::new(client));
            let call = run(&monitor, STATUS);
            if place > 0 {
                peer.send(GREETING).await;
            }
            if place > 1 {
                let command = peer.receive().await;
                peer.reply(&command, "{}").await;
                peer.receive().await;
            }
            for piece in pieces {
                // The monitor may have ended the connection.
                if peer.try_send(&piece).await.is_err() {
                    break;
                }
            }
            if hang_up {
                drop(peer);
            }
            let outcome = timeout(Duration::from_secs(100), call).await;
            assert!(outcome.expect("an end").unwrap().is_err());
            timeout(Duration::from_secs(1), monitor.disconnect()).await.unwrap().unwrap();
        });
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::sample::select(vec![
            GREETING,
            "{",
            "}",
            "\"",
            "\\",
            "\r\n",
            "{}",
            "\u{ff}",
            r#"{"event":"#,
            r#"{"event": 1}"#,
            r#"{"error": "x"}"#,
            r#"{"return": {}, "id": "#,
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ]
}
