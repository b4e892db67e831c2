//! One stream of the events of a QMP monitor. Imports queue, qmp, monitor, error and `line`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::line::Line;
use crate::error::{EndCause, Error};
use crate::monitor::EventOptions;
use crate::qmp::Event;
use crate::queue::{EventQueue, Item, Taken};

/// The events of one stream.
pub(super) struct SocketEvents {
    /// Keeps the connection open; none once the stream has ended.
    line: Option<Arc<Line>>,
    queue: Arc<EventQueue>,
    taken: Taken,
    /// QEMU has said that it is going.
    shut_down: bool,
}

impl SocketEvents {
    pub(super) fn new(line: Arc<Line>) -> Self {
        let queue = line.subscribers().add();
        SocketEvents::over(line, queue)
    }

    /// The events that `options` let through by their name. `connected_before`: whether the connection is older than the call.
    pub(super) fn with_options(
        line: Arc<Line>,
        options: &EventOptions,
        connected_before: bool,
    ) -> Self {
        let subscribers = line.subscribers();
        let queue = match options.from_now {
            true => subscribers.add_from_now(options, connected_before),
            false => subscribers.add_with(options),
        };
        SocketEvents::over(line, queue)
    }

    fn over(line: Arc<Line>, queue: Arc<EventQueue>) -> Self {
        SocketEvents {
            line: Some(line),
            queue,
            taken: Taken::default(),
            shut_down: false,
        }
    }

    fn decode(&mut self, message: &[u8]) -> Result<Event, Error> {
        let event = Event::parse(message)?;
        match event.name.as_str() {
            "SHUTDOWN" => self.shut_down = true,
            // With `-no-shutdown` it stays, and may be started again.
            "RESET" | "RESUME" => self.shut_down = false,
            _ => {}
        }
        Ok(event)
    }

    fn end(&mut self, cause: Arc<EndCause>) -> Option<Result<Event, Error>> {
        self.leave();
        let expected = match &*cause {
            EndCause::UserClosed => true,
            EndCause::PeerClosed => self.shut_down,
            // What the system makes of the end where QEMU had not read all that was sent.
            EndCause::Io(error) => self.shut_down && is_gone(error.kind()),
            _ => false,
        };
        (!expected).then(|| Err(Error::disconnected(cause, false)))
    }

    fn leave(&mut self) {
        if let Some(line) = self.line.take() {
            line.subscribers().remove(&self.queue);
        }
    }
}

fn is_gone(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset)
}

impl Stream for SocketEvents {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.line.is_none() {
            return Poll::Ready(None);
        }
        let item = match this.queue.poll_next(&mut this.taken, cx) {
            Poll::Ready(item) => item,
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(match item {
            Item::Event(message) => Some(this.decode(&message)),
            Item::Lost(number) => Some(Err(Error::EventsLost(number))),
            Item::Gap(cause) => {
                // It may be another QEMU now.
                this.shut_down = false;
                Some(Err(Error::Gap { cause }))
            }
            Item::Failed(error) => {
                this.leave();
                Some(Err(error))
            }
            Item::Ended(cause) => this.end(cause),
        })
    }
}

impl Drop for SocketEvents {
    fn drop(&mut self) {
        self.leave();
    }
}
