//! The virsh that prints the events of a domain, or of all, and the streams of them. Imports queue, qmp, error, `process`,
//! `transcript`, `failure` and the drivers' `fanout`.
//!
//! virsh prints nothing when it has registered. But libvirt's client can be told to log its calls, with their numbers, on
//! standard error: the reply to the registration is among them, and no event comes before it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use memchr::memmem;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::super::fanout::Fanout;
use super::failure;
use super::process::{Launcher, Process, Started, last_words};
use super::transcript::{Line, Lines};
use crate::config::Config;
use crate::connection::{
    CallOptions, Deadline, Limits, let_others_run, sleep_until, spawn, timed_out,
};
use crate::error::{EndCause, Error, Phase};
use crate::inflight::Progress;
use crate::qmp::{Event, EventDomain, EventFilter, Timestamp};
use crate::queue::{EventQueue, QueueOptions, Queued, Taken, Told};

/// What the log of libvirt's client has of the reply to `QEMU_PROC_CONNECT_DOMAIN_MONITOR_EVENT_REGISTER` (4 of program
/// 0x20008087): a reply (type 1) and no error (status 0).
const REGISTERED: [&str; 4] = ["prog=536903815", "proc=4", "type=1", "status=0"];

/// What virsh was asked to do.
const PROCEDURE: &str = "qemu-monitor-event";

/// The longest line; libvirt's own limit for an event's data is a quarter of it.
const LONGEST_LINE: usize = 16 << 20;

/// What is kept of the errors.
const MOST_ERRORS: usize = 64 * 1024;

/// Places in a line that are tried as the end of a domain's name which is not the expected one.
const MOST_ENDS: usize = 64;

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// What waits in the queues.
#[derive(Clone)]
pub(super) enum Entry {
    Event(Event),
    /// A line that is no event, and why.
    Broken(&'static str),
}

impl Entry {
    /// Whether `filter` may take it; a line that is no event is for everybody.
    pub(super) fn may_match(filter: &EventFilter, entry: &Self) -> bool {
        match entry {
            Entry::Event(event) => filter.may_match(&event.name),
            Entry::Broken(_) => true,
        }
    }
}

impl Queued for Entry {
    fn size(&self) -> usize {
        match self {
            Entry::Event(event) => event.size(),
            Entry::Broken(_) => size_of::<Entry>(),
        }
    }
}

/// A virsh that has registered for the events of a domain, or of all. Dropping it ends the process.
pub(super) struct Source {
    fanout: Arc<Fanout<Entry>>,
    ended: Arc<Mutex<Option<Arc<EndCause>>>>,
    process: Process,
    task: AbortHandle,
}

impl Source {
    /// Starts virsh, and waits until it has registered: for the events of `domain`, or of all.
    pub(super) async fn open(
        launcher: &Launcher,
        domain: Option<Arc<EventDomain>>,
        deadline: Deadline,
    ) -> Result<Arc<Self>, Error> {
        let uuid = domain.as_ref().map(|domain| domain.uuid.to_string());
        let mut arguments = vec![PROCEDURE];
        if let Some(uuid) = &uuid {
            arguments.extend(["--domain", uuid]);
        }
        arguments.push("--loop");
        let started = launcher.lasting(&arguments)?;
        let process = started.process.clone();
        let fanout = Arc::new(Fanout::default());
        let ended = Arc::new(Mutex::new(None));
        let (sender, registered) = oneshot::channel();
        let reader = Reader {
            fanout: fanout.clone(),
            config: launcher.config.clone(),
            // virsh prints names alone, so of any other it is known by no UUID.
            domain: domain.unwrap_or_else(|| Arc::new(EventDomain::new("", Uuid::nil(), None))),
            errors: Vec::new(),
            registered: Some(sender),
        };
        let finish = {
            let (fanout, ended) = (fanout.clone(), ended.clone());
            move |cause: EndCause| {
                let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                let cause = ended.get_or_insert_with(|| Arc::new(cause)).clone();
                drop(ended);
                fanout.end(&cause);
            }
        };
        let at_end = {
            let (finish, process) = (finish.clone(), process.clone());
            move || {
                finish(EndCause::RuntimeGone);
                process.end(false);
            }
        };
        let uri = launcher.uri.clone();
        let task = spawn(
            async move { finish(reader.run(started, &uri).await) },
            at_end,
        );
        let source = Source {
            fanout,
            ended,
            process,
            task: task.abort_handle(),
        };
        tokio::select! {
            outcome = registered => match outcome {
                Ok(outcome) => outcome?,
                Err(_) => return Err(Error::disconnected(Arc::new(EndCause::RuntimeGone), false)),
            },
            () = sleep_until(deadline) => {
                source.process.end(true);
                let options = CallOptions { phase: Phase::Subscription, deadline, limits: Limits::None };
                return Err(timed_out(&options, Progress::Queued));
            }
        }
        Ok(Arc::new(source))
    }

    /// Whether no events come any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// A stream of the events that come from now on.
    pub(super) fn subscribe(self: &Arc<Self>, options: QueueOptions<Entry>) -> VirshEvents {
        VirshEvents {
            queue: self.fanout.add(options),
            source: Some(self.clone()),
            taken: Taken::default(),
        }
    }

    /// Ends the streams for their user, and waits until the process is gone.
    pub(super) async fn close(&self) {
        self.end();
        self.process.gone().await;
    }

    fn end(&self) {
        let cause = Arc::new(EndCause::UserClosed);
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| cause.clone());
        self.fanout.end(&cause);
        self.process.end(false);
        self.task.abort();
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.end();
    }
}

/// The task of a source.
struct Reader {
    fanout: Arc<Fanout<Entry>>,
    config: Config,
    /// The domain as it was called last; of all, the one whose event was the last.
    domain: Arc<EventDomain>,
    errors: Vec<u8>,
    /// Who waits for the registration.
    registered: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Reader {
    async fn run(mut self, started: Started, uri: &str) -> EndCause {
        let Started {
            stdout, mut stderr, ..
        } = started;
        let mut error_lines = Lines::new(MOST_ERRORS);
        let cause = self.listen(stdout, &mut stderr, &mut error_lines).await;
        let cause = match cause {
            Some(cause) => cause,
            None => {
                let mut rest = error_lines.rest().to_vec();
                last_words(&mut stderr, &mut rest).await;
                rest.push(b'\n');
                error_lines = Lines::new(MOST_ERRORS);
                error_lines.push(&rest, |line| drop(self.error_line(line)));
                failure::of_end(&self.errors, &self.config)
            }
        };
        if let Some(waiting) = self.registered.take() {
            let _ = waiting.send(Err(failure::of_connecting(&self.errors, uri, PROCEDURE)));
        }
        cause
    }

    /// Reads until standard output ends, or virsh says that it has lost its connection.
    async fn listen(
        &mut self,
        mut stdout: pipe::Receiver,
        stderr: &mut pipe::Receiver,
        error_lines: &mut Lines,
    ) -> Option<EndCause> {
        let mut lines = Lines::new(LONGEST_LINE);
        let (mut out, mut err) = (vec![0; READ], vec![0; READ]);
        let mut stderr_open = true;
        loop {
            tokio::select! {
                read = stdout.read(&mut out) => match read {
                    Ok(0) => return None,
                    Ok(length) => lines.push(&out[..length], |line| self.line(line)),
                    Err(error) => return Some(EndCause::Io(Arc::new(error))),
                },
                read = stderr.read(&mut err), if stderr_open => match read {
                    Ok(0) | Err(_) => stderr_open = false,
                    Ok(length) => {
                        let mut lost = None;
                        error_lines.push(&err[..length], |line| {
                            lost = lost.take().or(self.error_line(line));
                        });
                        if let Some(cause) = lost {
                            self.rest(&mut stdout, &mut lines).await;
                            return Some(cause);
                        }
                    }
                },
            }
            let_others_run().await;
        }
    }

    /// Reads the events that came before the end was noticed on the other pipe.
    async fn rest(&mut self, stdout: &mut pipe::Receiver, lines: &mut Lines) {
        let mut rest = Vec::new();
        last_words(stdout, &mut rest).await;
        lines.push(&rest, |line| self.line(line));
    }

    /// One line of standard output.
    fn line(&mut self, line: Line) {
        let entry = match line {
            Line::TooLong => Entry::Broken("the line is too long"),
            Line::Whole(line) => match parse(&line, &self.domain.name) {
                Some(Ok((mut event, name))) => {
                    if name != self.domain.name {
                        self.domain =
                            Arc::new(EventDomain::new(name, self.domain.uuid, self.domain.id));
                    }
                    event.domain = Some(self.domain.clone());
                    Entry::Event(event)
                }
                Some(Err(reason)) => Entry::Broken(reason),
                None => return,
            },
        };
        self.fanout.push(|| entry);
    }

    /// One line of standard error; says so where virsh has lost its connection.
    fn error_line(&mut self, line: Line) -> Option<EndCause> {
        let Line::Whole(line) = line else { return None };
        if self.registered.is_some() && is_registration(&line) {
            if let Some(waiting) = self.registered.take() {
                // Nobody waits where subscribing was given up.
                let _ = waiting.send(Ok(()));
            }
            return None;
        }
        if line.starts_with(b"error: ") {
            self.errors.extend_from_slice(&line);
            self.errors.push(b'\n');
            let over = self.errors.len().saturating_sub(MOST_ERRORS);
            self.errors.drain(..over);
        }
        failure::loss(&line, &self.config)
    }
}

/// Whether a line of the log is the reply to the registration.
fn is_registration(line: &[u8]) -> bool {
    let Ok(line) = std::str::from_utf8(line) else {
        return false;
    };
    line.contains("RPC_CLIENT_MSG_RX")
        && REGISTERED
            .iter()
            .all(|wanted| line.split_ascii_whitespace().any(|word| word == *wanted))
}

/// Reads a line `event NAME at SECS.MICROS for domain 'DOMAIN': DATA`, the data an object or `<null>`. Gives the event and
/// the domain's name, which may have anything in it but a line end. `expected` is what the name most probably is. `None` for
/// what virsh says besides.
fn parse(line: &[u8], expected: &str) -> Option<Result<(Event, String), &'static str>> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty()
        || line.starts_with(b"events received: ")
        || line == b"event loop interrupted"
        || line == b"event loop timed out"
    {
        return None;
    }
    Some(parse_event(line, expected))
}

fn parse_event(line: &[u8], expected: &str) -> Result<(Event, String), &'static str> {
    const FORM: &str = "the line is no event";
    let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8")?;
    let rest = line.strip_prefix("event ").ok_or(FORM)?;
    let (name, rest) = rest.split_once(" at ").ok_or(FORM)?;
    let (time, rest) = rest.split_once(" for domain '").ok_or(FORM)?;
    let (seconds, micros) = time.split_once('.').ok_or(FORM)?;
    let seconds: i64 = seconds.parse().map_err(|_| FORM)?;
    // virsh prints it as unsigned; QEMU says -1 where its clock failed.
    let microseconds = match micros.parse::<u32>().map_err(|_| FORM)? {
        u32::MAX => -1,
        micros => i64::from(micros),
    };
    let (domain, data) = split_domain(rest, expected).ok_or(FORM)?;
    let timestamp = Timestamp {
        seconds,
        microseconds,
    };
    Ok((Event::new(name, data, timestamp), domain.to_owned()))
}

/// The domain's name and the data.
fn split_domain<'a>(text: &'a str, expected: &str) -> Option<(&'a str, Option<Box<RawValue>>)> {
    const BETWEEN: &str = "': ";
    let after_expected = text
        .strip_prefix(expected)
        .and_then(|rest| rest.strip_prefix(BETWEEN));
    if let Some(data) = after_expected.and_then(data) {
        return Some((&text[..expected.len()], data));
    }
    // It has another name by now.
    memmem::find_iter(text.as_bytes(), BETWEEN)
        .take(MOST_ENDS)
        .find_map(|at| Some((&text[..at], data(&text[at + BETWEEN.len()..])?)))
}

fn data(text: &str) -> Option<Option<Box<RawValue>>> {
    match text {
        "<null>" => Some(None),
        _ if text.starts_with('{') => RawValue::from_string(text.to_owned()).ok().map(Some),
        _ => None,
    }
}

/// The events of one stream.
pub(super) struct VirshEvents {
    /// Keeps the process running; none once the stream has ended.
    source: Option<Arc<Source>>,
    queue: Arc<EventQueue<Entry>>,
    taken: Taken<Entry>,
}

impl VirshEvents {
    fn leave(&mut self) {
        if let Some(source) = self.source.take() {
            source.fanout.remove(&self.queue);
        }
    }
}

impl Stream for VirshEvents {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.source.is_none() {
            return Poll::Ready(None);
        }
        Poll::Ready(
            match ready!(this.queue.poll_next(&mut this.taken, cx)).told() {
                Told::Event(Entry::Event(event)) => Some(Ok(event)),
                Told::Event(Entry::Broken(reason)) => Some(Err(Error::json("event", reason))),
                Told::Error(error) => Some(Err(error)),
                Told::End(last) => {
                    this.leave();
                    last.map(Err)
                }
            },
        )
    }
}

impl Drop for VirshEvents {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str, expected: &str) -> (Event, String) {
        parse(line.as_bytes(), expected).unwrap().unwrap()
    }

    #[test]
    fn events_as_virsh_prints_them() {
        let (stop, domain) = event(
            "event STOP at 1795242570.957257 for domain 'one': <null>",
            "one",
        );
        assert_eq!((stop.name.as_str(), domain.as_str()), ("STOP", "one"));
        assert!(stop.data.is_none());
        assert_eq!(
            (stop.timestamp.seconds, stop.timestamp.microseconds),
            (1_795_242_570, 957_257)
        );
        let (reset, _) = event(
            r#"event RESET at 5.000007 for domain 'one': {"guest":false,"reason":"': {}"}"#,
            "one",
        );
        assert_eq!(
            reset.data.unwrap().get(),
            r#"{"guest":false,"reason":"': {}"}"#
        );
        assert_eq!(
            (reset.timestamp.seconds, reset.timestamp.microseconds),
            (5, 7)
        );
        let (unknown, _) = event("event E at -1.4294967295 for domain 'one': <null>", "one");
        assert_eq!(unknown.timestamp, Timestamp::UNKNOWN);
    }

    #[test]
    fn a_name_may_have_anything_in_it() {
        for name in [
            "a': {}",
            "': <null>",
            "it's",
            "a at 1.2 for domain 'b",
            "",
            "\u{e9} \\ \t",
        ] {
            for data in ["<null>", r#"{"a":"': <null>"}"#] {
                let line = format!("event E at 1.000000 for domain '{name}': {data}");
                let (event, domain) = event(&line, name);
                assert_eq!(domain, name, "{line}");
                assert_eq!(
                    event
                        .data
                        .map_or("<null>".to_owned(), |data| data.get().to_owned()),
                    data
                );
                assert_eq!(event.name, "E");
            }
        }
        // One that is not expected.
        let (_, domain) = event("event E at 1.000000 for domain 'a': b': {}", "one");
        assert_eq!(domain, "a': b");
    }

    #[test]
    fn what_is_no_event_is_told_from_what_virsh_says_besides() {
        for line in [
            "",
            "event loop interrupted",
            "events received: 4",
            "event loop timed out",
            "\r",
        ] {
            assert!(parse(line.as_bytes(), "one").is_none(), "{line}");
        }
        for line in [
            "event",
            "STOP",
            "event STOP at now for domain 'one': <null>",
            "event STOP at 1.000000 for domain 'one': null",
            "event STOP at 1.000000 for domain 'one': {\"a\":",
            "event STOP at 1.000000 for domain 'one",
            "event STOP at 1 for domain 'one': <null>",
            "event STOP at 1.99999999999 for domain 'one': <null>",
        ] {
            assert!(parse(line.as_bytes(), "one").unwrap().is_err(), "{line}");
        }
        assert!(parse(b"event \xff", "one").unwrap().is_err());
    }

    #[test]
    fn the_log_tells_the_registration_from_all_else() {
        let line = |rest: &str| {
            let head =
                "2026-11-21 06:29:29.956+0000: 25057: info : virNetClientCallDispatch:1299 :";
            is_registration(format!("{head} {rest}").as_bytes())
        };
        assert!(line(
            "RPC_CLIENT_MSG_RX: client=0x560394f82010 len=32 prog=536903815 vers=1 proc=4 type=1 status=0 serial=7"
        ));
        for other in [
            "RPC_CLIENT_MSG_TX_QUEUE: client=0x5 len=68 prog=536903815 vers=1 proc=4 type=0 status=0 serial=7",
            // Refused.
            "RPC_CLIENT_MSG_RX: client=0x5 len=32 prog=536903815 vers=1 proc=4 type=1 status=1 serial=7",
            "RPC_CLIENT_MSG_RX: client=0x5 len=32 prog=536903814 vers=1 proc=4 type=1 status=0 serial=7",
            "RPC_CLIENT_MSG_RX: client=0x5 len=32 prog=536903815 vers=1 proc=44 type=1 status=0 serial=7",
            "RPC_CLIENT_MSG_RX: client=0x5 len=84 prog=536903815 vers=1 proc=6 type=2 status=0 serial=1",
        ] {
            assert!(!line(other), "{other}");
        }
    }
}
