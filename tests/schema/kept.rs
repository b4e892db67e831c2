//! A monitor asks for its schema once, however many want it, and again only after a failure. The clock is paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use libvirt_qmp::{
    Config, Error, EventStream, Monitor, MonitorExt, MonitorFuture, Schema, SchemaCell,
    SocketMonitor, Transaction,
};
use serde_json::json;

use crate::small;
use crate::support::qmp_peer::QmpPeer;

const ASKED: &str = "query-qmp-schema";

async fn connected() -> (Arc<SocketMonitor>, QmpPeer) {
    let (monitor, peer) = QmpPeer::connected(Config::new()).await;
    (Arc::new(monitor), peer)
}

fn ask(monitor: &Arc<SocketMonitor>) -> tokio::task::JoinHandle<Result<Schema, Error>> {
    let monitor = monitor.clone();
    tokio::spawn(async move { monitor.schema().await })
}

#[tokio::test(start_paused = true)]
async fn many_first_callers_send_one_command() {
    let (monitor, mut peer) = connected().await;
    assert!(monitor.schema_cell().unwrap().get().is_none());
    let calls: Vec<_> = (0..10).map(|_| ask(&monitor)).collect();
    let asked = peer.expect(ASKED).await;
    assert!(asked.command.get("arguments").is_none());
    peer.expect_silence().await;
    peer.reply(&asked, &small().to_string()).await;
    for schema in join_all(calls).await {
        assert_eq!(schema.unwrap().unwrap().commands().len(), 3);
    }
    monitor.schema().await.unwrap();
    assert!(monitor.schema_cell().unwrap().get().is_some());
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_the_first_callers_and_the_next_one_asks_again() {
    let (monitor, mut peer) = connected().await;
    let (first, second) = (ask(&monitor), ask(&monitor));
    let asked = peer.expect(ASKED).await;
    peer.refuse(&asked, "GenericError", "not now").await;
    assert!(matches!(first.await.unwrap(), Err(Error::Qmp(error)) if error.desc == "not now"));
    let asked = peer.expect(ASKED).await;
    peer.reply(&asked, r#"{"no": "schema"}"#).await;
    let error = second.await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Decode { what: "schema", .. }),
        "{error:?}"
    );
    let third = ask(&monitor);
    let asked = peer.expect(ASKED).await;
    peer.reply(&asked, &small().to_string()).await;
    third.await.unwrap().unwrap();
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_leaves_it_to_the_next() {
    let (monitor, mut peer) = connected().await;
    let first = ask(&monitor);
    let asked = peer.expect(ASKED).await;
    let second = ask(&monitor);
    peer.expect_silence().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let again = peer.expect(ASKED).await;
    peer.reply(&asked, "[]").await;
    peer.reply(&again, &small().to_string()).await;
    assert_eq!(second.await.unwrap().unwrap().commands().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_schema_is_asked_for_again() {
    let (monitor, mut peer) = connected().await;
    for _ in 0..2 {
        let call = ask(&monitor);
        let asked = peer.expect(ASKED).await;
        peer.reply(&asked, &small().to_string()).await;
        call.await.unwrap().unwrap();
        monitor.schema_cell().unwrap().forget();
        assert!(monitor.schema_cell().unwrap().get().is_none());
    }
}

/// A driver of one's own, which counts what it is asked.
#[derive(Default)]
struct Counting {
    runs: AtomicUsize,
    cell: Option<SchemaCell>,
}

impl Monitor for Counting {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn run<'a>(&'a self, _: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(json!({"return": small()}).to_string().into()) })
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        Box::pin(async { Err(Error::Closed) })
    }

    fn schema_cell(&self) -> Option<&SchemaCell> {
        self.cell.as_ref()
    }
}

#[tokio::test]
async fn the_place_is_reached_through_every_pointer() {
    let monitor = Arc::new(Counting {
        cell: Some(SchemaCell::new()),
        ..Counting::default()
    });
    monitor.schema().await.unwrap();
    Monitor::schema_cell(&monitor).unwrap();
    let boxed: Box<dyn Monitor> = Box::new(monitor.clone());
    boxed.schema().await.unwrap();
    (&boxed as &dyn Monitor).schema().await.unwrap();
    (&&*monitor).schema().await.unwrap();
    assert_eq!(monitor.runs.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_driver_without_a_place_asks_every_time() {
    let monitor = Counting::default();
    for _ in 0..3 {
        monitor.schema().await.unwrap();
    }
    assert_eq!(monitor.runs.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_looks_its_actions_up_and_sends_nothing_that_qemu_does_not_know() {
    let (monitor, mut peer) = connected().await;
    let run = |transaction: Transaction| {
        let monitor = monitor.clone();
        tokio::spawn(async move { monitor.transaction(transaction).await })
    };
    let unknown = Transaction::new().action("abort", ()).action("x-abort", ());
    let call = run(unknown.clone());
    let asked = peer.expect(ASKED).await;
    peer.reply(&asked, &small().to_string()).await;
    let error = call.await.unwrap().unwrap_err();
    let Error::Command(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        error.to_string(),
        "QEMU has no transaction action `x-abort`, only abort, block-dirty-bitmap-enable"
    );
    peer.expect_silence().await;

    // Unless it is told to.
    let call = run(unknown.unchecked());
    let sent = peer.expect("transaction").await;
    assert_eq!(sent.command["arguments"]["actions"][1]["type"], "x-abort");
    peer.reply(&sent, "{}").await;
    call.await.unwrap().unwrap();

    let known = Transaction::new()
        .action(
            "block-dirty-bitmap-enable",
            json!({"node": "n", "name": "b"}),
        )
        .property("completion-mode", "individual");
    let call = run(known);
    let sent = peer.expect("transaction").await;
    assert_eq!(
        sent.command["arguments"],
        json!({
            "actions": [{"type": "block-dirty-bitmap-enable", "data": {"node": "n", "name": "b"}}],
            "properties": {"completion-mode": "individual"},
        })
    );
    peer.refuse(&sent, "GenericError", "no").await;
    assert!(matches!(call.await.unwrap(), Err(Error::Qmp(error)) if error.desc == "no"));
}
