//! A connection of libvirt's C library: how it is opened, watched over and given up. One thread of its own does all that, so
//! that nobody else ever waits in the library. Imports config, connection, error, libvirt, queue and what stands beside it.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::super::fanout::Fanout;
use super::end::End;
use super::event_loop::LoopUser;
use super::events::{self, Arrival, Subscription};
use super::ffi::{Api, CloseCallback, Conn, Dom};
use super::lane::{Jobs, Lane, Wait};
use crate::config::Config;
use crate::connection::{Deadline, deadline, sleep_until};
use crate::error::{EndCause, Error, LibvirtError, Phase};
use crate::libvirt::{DomainKey, hyphenated};
use crate::objects::Domain;
use crate::queue::QueueOptions;
use crate::reconnect;

/// How long closing waits for libvirt, which may be stuck in a call. It goes on after that, on its own threads.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after a call has found the connection dead libvirt has time to say why.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection, opened by a thread of its own. Dropping the last handle closes it.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    control: Lane<Session>,
    /// By when it should be open.
    open_by: Deadline,
    config: Config,
}

/// What the handles, the streams, the threads and libvirt's callbacks share.
pub(super) struct Shared {
    /// Whether it is open; set once.
    opened: watch::Sender<Option<Result<(), Error>>>,
    end: Arc<End>,
    /// Whether all of it has been given back to libvirt.
    closed: watch::Sender<bool>,
    pub(super) events: Fanout<Arrival>,
}

/// Whose events. A connection has those of its domain or those of all: where it is registered for one domain, libvirt's client
/// asks the daemon for no others.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Domain,
    All,
}

/// What the thread of a connection has.
pub(super) struct Session {
    shared: Arc<Shared>,
    jobs: Jobs<Session>,
    open: Option<Arc<Open>>,
    close_callback: Option<CloseCallback>,
    domain: Option<Arc<DomainRef>>,
    /// The threads that run commands of the domain.
    lanes: Vec<Jobs<Arc<DomainRef>>>,
    /// The registration for events, and how many streams there are.
    registration: Option<i32>,
    streams: usize,
    /// Last, for it tells that the others are gone.
    gone: Arc<Gone>,
}

/// An open connection. The fields go in this order.
struct Open {
    conn: Conn,
    _events: LoopUser,
    shared: Arc<Shared>,
    _gone: Arc<Gone>,
}

/// A domain, which goes before its connection.
pub(super) struct DomainRef {
    dom: Dom,
    open: Arc<Open>,
}

/// Says that a connection is closed when the last of its parts is dropped.
struct Gone(Arc<Shared>);

impl Connection {
    /// Begins to open `uri` within `Config::connect_timeout`. It goes on by itself; see [`opened`](Connection::opened).
    pub(crate) fn open(uri: &str, config: &Config) -> Result<Self, Error> {
        reconnect::refuse(config, "LibvirtC")?;
        let name = c_string("URI", without_prompts(uri).as_ref())?;
        let target = uri.to_owned();
        let shared = Arc::new(Shared {
            opened: watch::Sender::new(None),
            end: Arc::default(),
            closed: watch::Sender::new(false),
            events: Fanout::default(),
        });
        let control = Lane::start("libvirt-control", shared.end.clone(), |jobs| Session {
            gone: Arc::new(Gone(shared.clone())),
            shared: shared.clone(),
            jobs,
            open: None,
            close_callback: None,
            domain: None,
            lanes: Vec::new(),
            registration: None,
            streams: 0,
        })?;
        let settings = config.clone();
        control.jobs().post(move |session| {
            let result = session
                .open(&name, &settings)
                .map_err(|error| unreachable_peer(error, target));
            if result.is_err() {
                session.jobs.stop();
            }
            session.shared.set_opened(result);
        });
        Ok(Connection {
            shared,
            control,
            open_by: deadline(config.connect_timeout),
            config: config.clone(),
        })
    }

    /// Waits until it is open. Where that fails, it stays so.
    pub(crate) async fn opened(&self) -> Result<(), Error> {
        let mut opened = self.shared.opened.subscribe();
        loop {
            if let Some(result) = opened.borrow_and_update().clone() {
                return result;
            }
            tokio::select! {
                biased;
                _ = opened.changed() => {}
                cause = self.shared.end.wait() => return Err(Error::disconnected(cause, false)),
                () = sleep_until(self.open_by) => {
                    let late = Err(Error::Timeout {
                        phase: Phase::Open,
                        after: self.open_by.map(|(_, after)| after).unwrap_or_default(),
                        maybe_executed: false,
                    });
                    if self.shared.set_opened(late) {
                        self.control.jobs().stop();
                    }
                }
            }
        }
    }

    /// All domains, active or not.
    pub(crate) async fn domains(&self) -> Result<Vec<Domain>, Error> {
        self.opened().await?;
        let wait = self.within(Phase::Reply, self.config.call_timeout);
        let list = |session: &mut Session| {
            let open = session.opened()?;
            open.said(open.conn.domains())
        };
        self.control.call(wait, list).await
    }

    /// Looks the domain up, and starts the thread for its monitor commands.
    pub(super) async fn lookup(&self, key: DomainKey) -> Result<Lane<Arc<DomainRef>>, Error> {
        let wait = self.within(Phase::Lookup, self.config.lookup_within());
        let lookup = move |session: &mut Session| {
            session.lookup(&key)?;
            session.start_lane("libvirt-command")
        };
        self.control.call(wait, lookup).await
    }

    /// Starts the thread for commands of the domain's guest agent, after `lookup`.
    pub(super) async fn agent(&self) -> Result<Lane<Arc<DomainRef>>, Error> {
        let wait = self.within(Phase::Queue, self.config.call_timeout);
        let start = |session: &mut Session| session.start_lane("libvirt-agent");
        self.control.call(wait, start).await
    }

    /// Subscribes to the monitor events of the domain, after `lookup`, or to those of all. No event after this is missed.
    pub(super) async fn subscribe(
        &self,
        of: Of,
        options: QueueOptions<Arrival>,
    ) -> Result<Subscription, Error> {
        let wait = self.within(Phase::Subscription, self.config.subscribe_within());
        let subscribe = move |session: &mut Session| session.subscribe(of, options);
        self.control.call(wait, subscribe).await
    }

    /// Ends it for everybody, and waits for libvirt to be done with it, but not long.
    pub(crate) async fn close(&self) {
        let mut closed = self.shared.closed.subscribe();
        self.shared.end(EndCause::UserClosed);
        self.control.jobs().stop();
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => {}
            () = sleep_until(deadline(self.config.close_within(CLOSE_TIMEOUT))) => {}
        }
    }

    fn within(&self, phase: Phase, timeout: Option<Duration>) -> Wait {
        let deadline = deadline(timeout);
        Wait { phase, deadline }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Its lane is dropped after this, and so stops.
        self.shared.end(EndCause::UserClosed);
    }
}

impl Shared {
    /// Sets whether it is open, and says whether that had not been set before.
    fn set_opened(&self, result: Result<(), Error>) -> bool {
        self.opened.send_if_modified(|opened| {
            let first = opened.is_none();
            opened.get_or_insert(result);
            first
        })
    }

    /// Ends every call and stream, now and later, with the first cause that is given.
    fn end(&self, cause: EndCause) {
        let cause = self.end.set(cause);
        self.events.end(&cause);
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.closed.send_replace(true);
    }
}

impl Session {
    fn open(&mut self, uri: &CStr, config: &Config) -> Result<(), Error> {
        let api = Api::get()?;
        let events = LoopUser::enter(api)?;
        let open = Arc::new(Open {
            conn: Conn::open(api, uri, config.readonly)?,
            _events: events,
            shared: self.shared.clone(),
            _gone: self.gone.clone(),
        });
        self.open = Some(open.clone());
        let mut pings = (0, Duration::ZERO);
        if let Some(keepalive) = config.keepalive {
            // libvirt counts in whole seconds, and takes 0 for never.
            let seconds = keepalive.interval.as_millis().div_ceil(1000).max(1);
            let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
            match open.conn.set_keep_alive(seconds, keepalive.count) {
                // A driver without a daemon has nobody to ask.
                Err(error) if error.libvirt_code() == Some(LibvirtError::NO_SUPPORT) => {}
                result => result?,
            }
            let interval = Duration::from_secs(seconds.unsigned_abs().into());
            let silence = interval.saturating_mul(keepalive.count.saturating_add(1));
            pings = (keepalive.count, silence);
        }
        let (shared, jobs) = (self.shared.clone(), self.jobs.clone());
        self.close_callback = Some(open.conn.on_close(move |reason| {
            shared.end(end_cause(reason, pings));
            jobs.stop();
        })?);
        Ok(())
    }

    fn opened(&self) -> Result<&Arc<Open>, Error> {
        // There is none only where it has ended in this moment.
        self.open.as_ref().ok_or(Error::Closed)
    }

    fn lookup(&mut self, key: &DomainKey) -> Result<(), Error> {
        let open = self.opened()?.clone();
        let dom = open.said(lookup(&open.conn, key))?;
        self.domain = Some(Arc::new(DomainRef { dom, open }));
        Ok(())
    }

    fn domain(&self) -> Result<&Arc<DomainRef>, Error> {
        self.domain.as_ref().ok_or(Error::Closed)
    }

    fn start_lane(&mut self, name: &str) -> Result<Lane<Arc<DomainRef>>, Error> {
        let domain = self.domain()?.clone();
        let lane = Lane::start(name, self.shared.end.clone(), |_| domain)?;
        self.lanes.push(lane.jobs().clone());
        Ok(lane)
    }

    fn subscribe(&mut self, of: Of, options: QueueOptions<Arrival>) -> Result<Subscription, Error> {
        let open = self.opened()?.clone();
        if self.registration.is_none() {
            let domain = match of {
                Of::Domain => Some(&self.domain()?.dom),
                Of::All => None,
            };
            let shared = self.shared.clone();
            let arrived = move |event| shared.events.push(|| events::decode(event));
            let registered = open.conn.register_events(domain, arrived);
            self.registration = Some(open.said(registered)?);
        }
        self.streams += 1;
        let (shared, jobs) = (self.shared.clone(), self.jobs.clone());
        Ok(Subscription::new(shared, jobs, options))
    }

    /// One stream less. The last one takes the registration with it.
    pub(super) fn unsubscribe(&mut self) {
        self.streams = self.streams.saturating_sub(1);
        if self.streams == 0 {
            self.deregister();
        }
    }

    fn deregister(&mut self) {
        if let (Some(open), Some(id)) = (&self.open, self.registration.take()) {
            // Where it fails, there is no connection any more, and no registration either.
            let _ = open.conn.deregister_events(id);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A command that is stuck keeps the domain, and so the connection, until libvirt answers.
        self.lanes.iter().for_each(Jobs::stop);
        self.deregister();
        if let (Some(open), Some(callback)) = (&self.open, self.close_callback.take()) {
            open.conn.forget_on_close(callback);
        }
    }
}

impl DomainRef {
    /// Makes a call of libvirt for the domain.
    pub(super) fn call<T>(&self, call: impl FnOnce(&Dom) -> Result<T, Error>) -> Result<T, Error> {
        self.open.said(call(&self.dom))
    }
}

impl Open {
    /// The result of a call. Where it failed because the connection is dead, that has been told when this returns.
    fn said<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() && !self.conn.is_alive() {
            self.shared.end.wait_blocking(REASON_TIMEOUT);
            self.shared.end(EndCause::PeerClosed);
        }
        result
    }
}

/// The domain, as virsh would find it: by UUID where the text is one, then by name.
fn lookup(conn: &Conn, key: &DomainKey) -> Result<Dom, Error> {
    let name = match key {
        DomainKey::Uuid(uuid) => return conn.lookup_by_uuid(*uuid),
        DomainKey::Name(name) => name,
    };
    let c_name = c_string("domain", name)?;
    match hyphenated(name).map(|uuid| conn.lookup_by_uuid(uuid)) {
        None => conn.lookup_by_name(&c_name),
        Some(Err(error)) if error.is_not_found() => conn.lookup_by_name(&c_name),
        Some(found_or_failed) => found_or_failed,
    }
}

/// What a `virConnectCloseReason` means. `pings` are how many go unanswered, and how long that takes.
fn end_cause(reason: i32, (pings, silence): (u32, Duration)) -> EndCause {
    match reason {
        // VIR_CONNECT_CLOSE_REASON_EOF
        1 => EndCause::PeerClosed,
        // VIR_CONNECT_CLOSE_REASON_KEEPALIVE
        2 => EndCause::KeepaliveTimeout { pings, silence },
        reason => EndCause::HypervisorClosed { reason },
    }
}

/// A failure to open as [`Error::Connect`] where it is one of the system: nobody is there. libvirt's error is its source.
fn unreachable_peer(error: Error, target: String) -> Error {
    match error {
        Error::Libvirt(error) if error.code == LibvirtError::SYSTEM_ERROR && error.int1 > 0 => {
            let kind = io::Error::from_raw_os_error(error.int1).kind();
            Error::Connect {
                target,
                source: Arc::new(io::Error::new(kind, *error)),
            }
        }
        error => error,
    }
}

/// `text` for C, which ends it at a NUL.
pub(super) fn c_string(what: &str, text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Unsupported(format!("a {what} with a NUL in it")))
}

/// The URI with which ssh does not ask for passwords or unknown keys on the terminal, where its user did not say.
fn without_prompts(uri: &str) -> Cow<'_, str> {
    let by_ssh = uri
        .split_once("://")
        .is_some_and(|(scheme, _)| scheme.ends_with("+ssh"));
    let (address, fragment) = uri.split_at(uri.find('#').unwrap_or(uri.len()));
    let query = address.split_once('?').map(|(_, query)| query);
    let mut parameters = query.unwrap_or_default().split(['&', ';']);
    if !by_ssh || parameters.any(|parameter| parameter.starts_with("no_tty=")) {
        return Cow::Borrowed(uri);
    }
    let separator = if query.is_some() { '&' } else { '?' };
    Cow::Owned(format!("{address}{separator}no_tty=1{fragment}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_kept_from_the_terminal_unless_it_is_allowed_there() {
        for (uri, expected) in [
            ("qemu+ssh://host/system", "qemu+ssh://host/system?no_tty=1"),
            (
                "qemu+ssh://host/system?socket=/s",
                "qemu+ssh://host/system?socket=/s&no_tty=1",
            ),
            (
                "qemu+ssh://host/system#x",
                "qemu+ssh://host/system?no_tty=1#x",
            ),
            (
                "qemu+ssh://host/system?a=b&no_tty=0",
                "qemu+ssh://host/system?a=b&no_tty=0",
            ),
            (
                "qemu+unix:///session?socket=/s",
                "qemu+unix:///session?socket=/s",
            ),
            ("test:///default", "test:///default"),
            ("", ""),
        ] {
            assert_eq!(without_prompts(uri), expected);
        }
    }

    #[test]
    fn the_reasons_of_libvirt_are_told_apart() {
        let pings = (3, Duration::from_secs(20));
        assert!(matches!(
            end_cause(0, pings),
            EndCause::HypervisorClosed { reason: 0 }
        ));
        assert!(matches!(end_cause(1, pings), EndCause::PeerClosed));
        assert!(matches!(
            end_cause(2, pings),
            EndCause::KeepaliveTimeout { pings: 3, silence } if silence.as_secs() == 20
        ));
        assert!(matches!(
            end_cause(3, pings),
            EndCause::HypervisorClosed { reason: 3 }
        ));
    }

    #[tokio::test]
    async fn what_c_would_cut_short_is_refused() {
        let error = Connection::open("test:///\0default", &Config::new())
            .err()
            .unwrap();
        assert!(error.is_unsupported(), "{error}");
    }

    #[tokio::test]
    #[ignore = "needs libvirtd and QEMU: run tests/run"]
    async fn the_domains_of_a_hypervisor_are_listed() {
        let connection = Connection::open("test:///default", &Config::new()).unwrap();
        let domains = connection.domains().await.unwrap();
        // libvirt's test driver has this one, which always runs with the id 1.
        let [domain] = &domains[..] else {
            panic!("{domains:?}");
        };
        assert_eq!((domain.name.as_str(), domain.id), ("test", Some(1)));
        assert_eq!(
            domain.uuid.to_string(),
            "6695eb01-f6a4-8304-79aa-97f2502e193f"
        );
        connection.close().await;
        let error = connection.domains().await.unwrap_err();
        assert!(
            error.is_disconnected() && !error.maybe_executed(),
            "{error}"
        );
    }
}
