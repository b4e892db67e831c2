//! Messages as bytes: cut anywhere, spread over lines, back to back, and as large as they may be.

use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use libvirt_qmp::{Callbacks, Command, Config, EndCause, Error, Monitor, SocketMonitor, WaitExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::support::process::PATIENCE;
use crate::support::qmp_peer::{GREETING, QmpPeer, event};
use crate::{STATUS, cause, names, run};

/// P1: a monitor with `pretty=on` spreads an object over many lines; a client that reads lines hangs or fails.
#[tokio::test(start_paused = true)]
async fn pretty_printed_messages_are_messages() {
    let (client, mut peer) = QmpPeer::new();
    let monitor = Arc::new(SocketMonitor::new(client));
    let call = run(&monitor, r#"{"execute":"query-status","id":[1]}"#);
    let greeting: serde_json::Value = serde_json::from_str(GREETING).unwrap();
    let pretty = serde_json::to_string_pretty(&greeting).unwrap();
    assert!(pretty.lines().count() > 10);
    peer.send(&pretty.replace('\n', "\r\n")).await;
    let command = peer.receive().await;
    peer.send(&format!(
        "{{\r\n    \"return\": {{\r\n    }},\r\n    \"id\": {}\r\n}}",
        command.id()
    ))
    .await;
    let command = peer.receive().await;
    peer.send("{\r\n    \"timestamp\": {\r\n        \"seconds\": 1,\r\n        \"microseconds\": 2\r\n    },\r\n    \"event\": \"STOP\"\r\n}")
        .await;
    peer.send(&format!(
        "{{\r\n    \"return\": {{\r\n        \"status\": \"}}\\\"{{\"\r\n    }},\r\n    \"id\": {}\r\n}}",
        command.id()
    ))
    .await;
    assert_eq!(
        call.await.unwrap().unwrap(),
        "{\r\n    \"return\": {\r\n        \"status\": \"}\\\"{\"\r\n    },\r\n    \"id\": [1]\r\n}"
    );
    let mut events = monitor.events().await.unwrap();
    assert_eq!(names(&mut events, 1).await, ["STOP"]);
}

/// P1: separators do not matter, nor does where the stream is cut.
#[tokio::test(start_paused = true)]
async fn byte_by_byte_and_back_to_back() {
    for separator in ["\r\n", "\n", "", " \t\r\n\r\n"] {
        let (client, mut peer) = QmpPeer::new();
        let monitor = Arc::new(SocketMonitor::new(client));
        let call = run(&monitor, STATUS);
        let before = [&event("A"), GREETING, &event("B"), ""].join(separator);
        for byte in before.bytes() {
            peer.send_bytes(&[byte]).await;
        }
        let command = peer.receive().await;
        let capabilities = format!(r#"{{"return": {{}}, "id": {}}}"#, command.id());
        peer.send_bytes(capabilities.as_bytes()).await;
        let command = peer.receive().await;
        let reply = format!(r#"{{"return": "\"}}\\", "id": {}}}"#, command.id());
        let all = [separator, &event("C"), &reply, &event("D"), ""].join(separator);
        if separator.is_empty() {
            peer.send_bytes(all.as_bytes()).await;
        } else {
            for byte in all.bytes() {
                peer.send_bytes(&[byte]).await;
            }
        }
        assert_eq!(call.await.unwrap().unwrap(), r#"{"return": "\"}\\"}"#);
        let mut events = monitor.events().await.unwrap();
        assert_eq!(names(&mut events, 4).await, ["A", "B", "C", "D"]);
    }
}

/// Behind broken JSON nothing can be trusted: a reply in it would be waited for in vain.
#[tokio::test(start_paused = true)]
async fn broken_json_ends_the_connection_with_the_reason() {
    for (said, told) in [
        ("]", "expected a JSON object from the QMP server, got \"]"),
        ("{]", "broken JSON"),
        (
            r#"{"event": "A", "data": tru}"#,
            "broken JSON: expected a value at byte 23",
        ),
        ("{\"return\": \"\t\"}", "control character in a string"),
        ("{\"event\": \"\u{1}\"}", "control character in a string"),
        ("\0", "got \"\\x00"),
    ] {
        let (monitor, mut peer) = QmpPeer::connected(Config::new()).await;
        let monitor = Arc::new(monitor);
        let mut events = monitor.events().await.unwrap();
        let call = run(&monitor, STATUS);
        peer.receive().await;
        peer.event("LAST").await;
        peer.send(said).await;
        let error = call.await.unwrap().unwrap_err();
        assert!(error.maybe_executed());
        match cause(&error) {
            EndCause::Protocol(text) => assert!(text.contains(told), "{said:?}: {text}"),
            other => panic!("{other:?}"),
        }
        // The stream has what came before, then the same cause, then no more.
        assert_eq!(names(&mut events, 1).await, ["LAST"]);
        let last = events.next().await.unwrap().unwrap_err();
        assert!(matches!(cause(&last), EndCause::Protocol(_)));
        assert!(events.next().await.is_none());
        peer.expect_end().await;
    }
    let nested = format!(r#"{{"return": {}{}}}"#, "[".repeat(1024), "]".repeat(1024));
    let (monitor, mut peer) = QmpPeer::connected(Config::new()).await;
    peer.send(&nested).await;
    let error = monitor.run(STATUS.as_bytes()).await.unwrap_err();
    assert_eq!(
        cause(&error).to_string(),
        "protocol violation: message nested deeper than 1024 levels"
    );
}

/// P5: as deep as QEMU can echo.
#[tokio::test(start_paused = true)]
async fn replies_nested_to_qemus_limit_are_read() {
    let (monitor, mut peer) = QmpPeer::connected(Config::new()).await;
    let monitor = Arc::new(monitor);
    let value = format!("{}{}", "[".repeat(1023), "]".repeat(1023));
    let call = run(&monitor, STATUS);
    let command = peer.receive().await;
    peer.reply(&command, &value).await;
    assert_eq!(
        call.await.unwrap().unwrap(),
        format!(r#"{{"return": {value}}}"#)
    );
}

#[tokio::test(start_paused = true)]
async fn the_longest_message_can_be_set() {
    let config = Config::new().max_message(1 << 20);
    let (monitor, mut peer) = QmpPeer::connected(config).await;
    let monitor = Arc::new(monitor);
    for (length, comes) in [(1 << 19, true), (1 << 20, false)] {
        let call = run(&monitor, STATUS);
        let command = peer.receive().await;
        let text = format!(r#""{}""#, "x".repeat(length));
        let reply = format!(r#"{{"return": {text}, "id": {}}}"#, command.id());
        // The client may hang up in the midst of it.
        let _ = peer.try_send(reply.as_bytes()).await;
        let answer = call.await.unwrap();
        assert_eq!(answer.is_ok(), comes, "{length}");
        if let Err(error) = answer {
            assert_eq!(
                cause(&error).to_string(),
                "protocol violation: message longer than 1048576 bytes"
            );
        }
    }
}

/// P5: so are the values of commands that are waited for and of those with a callback, while what is decoded may be less deep.
#[tokio::test(start_paused = true)]
async fn values_nested_to_qemus_limit_are_handed_on_as_text() {
    let (monitor, mut peer) = QmpPeer::connected(Config::new()).await;
    let monitor = Arc::new(monitor);
    let value = format!("{}7{}", "[".repeat(1023), "]".repeat(1023));

    let waiting = tokio::spawn({
        let monitor = monitor.clone();
        async move {
            let command = Command::new("x");
            monitor.run_and_wait(command, "STOP", PATIENCE).await
        }
    });
    let command = peer.expect("x").await;
    peer.event("STOP").await;
    peer.reply(&command, &value).await;
    let (returned, _) = waiting.await.unwrap().unwrap();
    assert_eq!(returned.get(), value);

    let callbacks = Callbacks::new(monitor.clone());
    let (tell, told) = oneshot::channel();
    callbacks.command(Command::new("y"), |_, reply| drop(tell.send(reply)));
    let command = peer.expect("y").await;
    peer.reply(&command, &value).await;
    assert_eq!(told.await.unwrap().unwrap().get(), value);

    // What is no value is an error, and the command has run.
    let waiting = tokio::spawn(async move {
        let command = Command::new("z");
        monitor.run_and_wait(command, "STOP", PATIENCE).await
    });
    let command = peer.expect("z").await;
    peer.reply(&command, "[1,]").await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error:?}");
    assert!(error.maybe_executed());
}

/// A stream that speaks as it is told and takes whatever is written. `pad` sets how many bytes the first reply has.
struct Large {
    pad: usize,
    /// What the client has written since the last answer.
    written: Vec<u8>,
    /// What is to be read, and how far it has been.
    said: Vec<u8>,
    read: usize,
}

impl Large {
    fn new(pad: usize) -> Self {
        Large {
            pad,
            written: Vec::new(),
            said: GREETING.as_bytes().to_vec(),
            read: 0,
        }
    }

    fn answer(&mut self) {
        let command: serde_json::Value = match serde_json::from_slice(&self.written) {
            Ok(command) => command,
            Err(_) => return,
        };
        self.written.clear();
        self.said.clear();
        self.read = 0;
        let id = &command["id"];
        match command["execute"].as_str().unwrap() {
            "large" => {
                write!(self.said, r#"{{"return": ""#).unwrap();
                let tail = format!(r#"", "id": {id}}}"#);
                self.said.resize(self.pad - tail.len(), b'x');
                self.said.extend_from_slice(tail.as_bytes());
                assert_eq!(self.said.len(), self.pad);
                write!(self.said, "{}", event("AFTER")).unwrap();
            }
            _ => write!(self.said, r#"{{"return": {{}}, "id": {id}}}"#).unwrap(),
        }
    }
}

impl AsyncRead for Large {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.read == self.said.len() {
            self.answer();
        }
        let rest = &self.said[self.read..];
        if rest.is_empty() {
            // Looks again when the others have run: the client may have written.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Large {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// D1: go-qemu stopped at 64 KiB, and for good. 64 MiB are taken, and a byte more ends the connection and says why.
#[tokio::test]
async fn replies_up_to_64_mib_and_not_a_byte_more() {
    const LIMIT: usize = 64 << 20;
    let large = br#"{"execute":"large"}"#;
    let monitor = SocketMonitor::new(Large::new(LIMIT));
    let reply = monitor.run(large).await.unwrap();
    let id = r#", "id": "q0123456789abcdef-1000000001""#;
    assert_eq!(reply.len(), LIMIT - id.len());
    assert!(reply.ends_with(br#"x"}"#));
    drop(reply);
    let mut events = monitor.events().await.unwrap();
    assert_eq!(names(&mut events, 1).await, ["AFTER"]);
    monitor.run(STATUS.as_bytes()).await.unwrap();

    let monitor = SocketMonitor::new(Large::new(LIMIT + 1));
    let error = monitor.run(large).await.unwrap_err();
    assert!(error.maybe_executed());
    assert_eq!(
        cause(&error).to_string(),
        "protocol violation: message longer than 67108864 bytes"
    );
}
