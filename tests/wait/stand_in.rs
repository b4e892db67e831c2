//! A monitor with the four methods of the trait alone, whose answers and events the test gives.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use libvirt_qmp::{
    EndCause, Error, ErrorClass, Event, EventStream, Monitor, MonitorFuture, QmpError, Timestamp,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

/// How the stand-in answers a command.
pub(crate) enum Answer {
    Value(Value),
    Error(Error),
    /// When the test says so.
    When(oneshot::Receiver<Result<Value, Error>>),
    Never,
}

impl From<Value> for Answer {
    fn from(value: Value) -> Self {
        Answer::Value(value)
    }
}

#[derive(Clone, Copy)]
enum Subscribing {
    AtOnce,
    Later,
    Never,
}

type Script = Box<dyn Fn(&StandIn, &str, &Value) -> Answer + Send + Sync>;

type Item = Result<Event, Error>;

#[derive(Clone)]
pub(crate) struct StandIn(Arc<Inner>);

struct Inner {
    script: Script,
    /// The commands that came, by name.
    commands: Mutex<Vec<String>>,
    streams: Mutex<Vec<mpsc::UnboundedSender<Item>>>,
    /// Events for the next stream, from before it was there.
    held: Mutex<VecDeque<Item>>,
    /// How many streams there are.
    subscribed: Arc<watch::Sender<usize>>,
    closed: Mutex<Option<Error>>,
    subscribing: Subscribing,
}

impl StandIn {
    /// Answers `{}` to everything.
    pub(crate) fn new() -> Self {
        StandIn::with(|_, _, _| json!({}).into())
    }

    /// Asks `script` for its answers; it may send events meanwhile, which then come before the reply.
    pub(crate) fn with(
        script: impl Fn(&StandIn, &str, &Value) -> Answer + Send + Sync + 'static,
    ) -> Self {
        StandIn::made(Box::new(script), Subscribing::AtOnce)
    }

    /// Nobody can subscribe.
    pub(crate) fn without_events() -> Self {
        StandIn::made(Box::new(|_, _, _| json!({}).into()), Subscribing::Never)
    }

    /// As [`StandIn::with`], and subscribing takes a moment.
    pub(crate) fn slow_to_subscribe(
        script: impl Fn(&StandIn, &str, &Value) -> Answer + Send + Sync + 'static,
    ) -> Self {
        StandIn::made(Box::new(script), Subscribing::Later)
    }

    fn made(script: Script, subscribing: Subscribing) -> Self {
        StandIn(Arc::new(Inner {
            script,
            commands: Mutex::default(),
            streams: Mutex::default(),
            held: Mutex::default(),
            subscribed: Arc::new(watch::Sender::new(0)),
            closed: Mutex::default(),
            subscribing,
        }))
    }

    /// An event to all streams, with a time of its own.
    pub(crate) fn emit_at(&self, seconds: i64, name: &str, data: Value) {
        self.send(&Ok(event_at(seconds, name, data)));
    }

    pub(crate) fn emit(&self, name: &str, data: Value) {
        self.emit_at(1_700_000_000, name, data);
    }

    pub(crate) fn job(&self, id: &str, status: &str) {
        self.emit("JOB_STATUS_CHANGE", json!({"id": id, "status": status}));
    }

    pub(crate) fn fail(&self, error: Error) {
        self.send(&Err(error));
    }

    /// An event for the next stream, from before it is there.
    pub(crate) fn hold(&self, item: Item) {
        self.0.held.lock().unwrap().push_back(item);
    }

    /// The connection ends: the streams with this item, and commands with the same.
    pub(crate) fn end(&self, error: Error) {
        *self.0.closed.lock().unwrap() = Some(error.clone());
        self.send(&Err(error));
        self.end_streams();
    }

    /// The streams just end.
    pub(crate) fn end_streams(&self) {
        self.0.streams.lock().unwrap().clear();
    }

    /// From now on commands fail.
    pub(crate) fn close(&self, error: Error) {
        *self.0.closed.lock().unwrap() = Some(error);
    }

    fn send(&self, item: &Item) {
        for stream in &*self.0.streams.lock().unwrap() {
            let _ = stream.send(item.clone());
        }
    }

    /// The names of the commands so far.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.0.commands.lock().unwrap().clone()
    }

    /// Waits until there are so many streams.
    pub(crate) async fn subscribers(&self, count: usize) {
        let mut subscribed = self.0.subscribed.subscribe();
        let reached = subscribed.wait_for(|now| *now == count);
        if tokio::time::timeout(super::support::process::PATIENCE, reached)
            .await
            .is_err()
        {
            panic!("{} streams", *self.0.subscribed.borrow());
        }
    }

    async fn answer(&self, command: &[u8]) -> Result<Bytes, Error> {
        let command: Value = serde_json::from_slice(command).unwrap();
        let oob = command["exec-oob"].as_str();
        let name = command["execute"].as_str().or(oob).unwrap();
        if let Some(closed) = self.0.closed.lock().unwrap().clone() {
            return Err(closed);
        }
        self.0.commands.lock().unwrap().push(name.to_owned());
        let value = match (self.0.script)(self, name, &command["arguments"]) {
            Answer::Value(value) => value,
            Answer::Error(error) => return Err(error),
            Answer::When(told) => told.await.unwrap_or_else(|_| Err(peer_closed()))?,
            Answer::Never => pending().await,
        };
        Ok(json!({"return": value}).to_string().into())
    }
}

impl Monitor for StandIn {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        self.end(Error::Closed);
        Box::pin(async { Ok(()) })
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        Box::pin(self.answer(command))
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        Box::pin(async {
            match self.0.subscribing {
                Subscribing::AtOnce => {}
                Subscribing::Later => tokio::task::yield_now().await,
                Subscribing::Never => pending().await,
            }
            let (sender, receiver) = mpsc::unbounded_channel();
            for item in self.0.held.lock().unwrap().drain(..) {
                sender.send(item).unwrap();
            }
            self.0.streams.lock().unwrap().push(sender);
            self.0.subscribed.send_modify(|count| *count += 1);
            Ok(EventStream::new(Subscription {
                items: receiver,
                subscribed: self.0.subscribed.clone(),
            }))
        })
    }
}

struct Subscription {
    items: mpsc::UnboundedReceiver<Item>,
    subscribed: Arc<watch::Sender<usize>>,
}

impl Stream for Subscription {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.items.poll_recv(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscribed.send_modify(|count| *count -= 1);
    }
}

pub(crate) fn event_at(seconds: i64, name: &str, data: Value) -> Event {
    let data = serde_json::value::to_raw_value(&data).unwrap();
    let timestamp = Timestamp {
        seconds,
        microseconds: 0,
    };
    Event::new(name, Some(data), timestamp)
}

pub(crate) fn event(name: &str) -> Event {
    event_at(1_700_000_000, name, json!({}))
}

pub(crate) fn peer_closed() -> Error {
    Error::Disconnected {
        cause: Arc::new(EndCause::PeerClosed),
        maybe_executed: false,
    }
}

pub(crate) fn refused(class: ErrorClass) -> Answer {
    Answer::Error(QmpError::new(class, "refused").into())
}
