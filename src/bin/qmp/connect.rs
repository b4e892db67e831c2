//! Where to connect, and connecting: a libvirt URI, by whichever driver, the address of QEMU's own socket, or a recording.
//! Imports `failure` and `interrupt`.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::protocol::remote::procedure::ConnectOpen;
use libvirt_qmp::protocol::{Procedure, remote};
use libvirt_qmp::replay::{Direction, Fixture, Replay};
use libvirt_qmp::{Config, Hypervisor, Libvirt, Monitor, QmpAddress, SocketMonitor, xdr};
use tokio::task::JoinHandle;

use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupts;

/// Where qmp-shell expects the address of QEMU's socket: a path, or HOST:PORT.
const QMP_SOCKET: &str = "QMP_SOCKET";

/// How and where every command connects.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Where to connect [default: $QMP_SOCKET, else $LIBVIRT_DEFAULT_URI, else uri_default of libvirt.conf, else this machine]
    #[arg(short = 'C', long, global = true, value_name = "URI")]
    pub(crate) connect: Option<String>,
    /// Seconds that connecting may take, and each call [default: 15, and 60]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub(crate) timeout: Option<NonZeroU64>,
}

impl Settings {
    /// The endpoint that the command line names, or else the environment, or else the default.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        if let Some(given) = &self.connect {
            return Endpoint::parse(given);
        }
        if let Some(socket) = std::env::var_os(QMP_SOCKET).filter(|socket| !socket.is_empty()) {
            return Endpoint::of_qmp_shell(&socket.to_string_lossy());
        }
        // The library reads the variable itself, where it is libvirt's.
        match std::env::var_os("LIBVIRT_DEFAULT_URI") {
            Some(uri) => match Endpoint::parse(&uri.to_string_lossy())? {
                Endpoint::Libvirt(_) => Ok(Endpoint::Libvirt(None)),
                endpoint => Ok(endpoint),
            },
            None => Ok(Endpoint::Libvirt(None)),
        }
    }

    /// Refuses an address, or a limit, that would have no effect on this command.
    pub(crate) fn without(&self, command: &str, limit: bool) -> Result<(), Failure> {
        let option = match (&self.connect, self.timeout) {
            (Some(_), _) => "--connect",
            (None, Some(_)) if !limit => "--timeout",
            _ => return Ok(()),
        };
        Err(Failure::usage(format!(
            "`{option}` has no effect on `qmp {command}`, which connects to no QEMU that was there before"
        )))
    }

    /// The limit that was given, for connecting and for each call.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.timeout
            .map(|seconds| Duration::from_secs(seconds.get()))
    }
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// The daemon of this URI or alias, or the default one, by libvirt's protocol.
    Libvirt(Option<String>),
    /// The same through the program `virsh`; an empty URI is its own default.
    Virsh(String),
    /// The same through libvirt's C library.
    C(String),
    /// QEMU's own QMP socket.
    Qmp(QmpAddress),
    /// A recorded session with a libvirtd, played to us.
    Replay(PathBuf),
}

impl Endpoint {
    /// What `text` names.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(uri) = text.strip_prefix("virsh+") {
            return Ok(Endpoint::Virsh(uri.to_owned()));
        }
        if let Some(uri) = text.strip_prefix("c+") {
            return match cfg!(feature = "libvirt-c") {
                true => Ok(Endpoint::C(uri.to_owned())),
                false => Err(Failure::usage(format!(
                    "`{text}` wants libvirt's C library, and this program was built without the feature `libvirt-c`"
                ))),
            };
        }
        match text.split_once(':') {
            // Behind a scheme there are slashes.
            Some(("unix" | "tcp" | "pipe", rest)) if !rest.starts_with("//") => qmp(text),
            Some(("replay", file)) if !file.is_empty() => Ok(Endpoint::Replay(file.into())),
            Some(("replay", _)) => Err(Failure::usage("`replay:` wants the name of a file")),
            _ => Ok(Endpoint::Libvirt(Some(text.to_owned()))),
        }
    }

    /// The socket that qmp-shell means by `text`.
    fn of_qmp_shell(text: &str) -> Result<Self, Failure> {
        if text.starts_with("unix:") || text.starts_with("tcp:") || text.starts_with("pipe:") {
            return qmp(text);
        }
        let is_tcp = text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.contains('/') && port.parse::<u16>().is_ok());
        match is_tcp {
            true => qmp(&format!("tcp:{text}")),
            false => Ok(Endpoint::Qmp(QmpAddress::Unix(text.into()))),
        }
    }

    /// Whether a domain has to be named: everywhere but on the socket of one QEMU.
    pub(crate) fn has_domains(&self) -> bool {
        !matches!(self, Endpoint::Qmp(_))
    }

    /// The domain that `words` begin with, where there is a choice, and the rest of them.
    pub(crate) fn domain_of<'a>(
        &self,
        words: &'a [String],
    ) -> Result<(Option<&'a str>, &'a [String]), Failure> {
        match words {
            words if !self.has_domains() => Ok((None, words)),
            [domain, words @ ..] => Ok((Some(domain), words)),
            [] => Err(Failure::usage("no domain given")),
        }
    }
}

fn qmp(text: &str) -> Result<Endpoint, Failure> {
    text.parse()
        .map(Endpoint::Qmp)
        .map_err(|error: libvirt_qmp::QmpAddressError| Failure::usage(error.to_string()))
}

/// A monitor, and what belongs to it.
pub(crate) struct Connected {
    pub(crate) monitor: Arc<dyn Monitor>,
    session: Option<Session>,
}

impl Connected {
    /// A monitor that stands alone.
    pub(crate) fn alone(monitor: impl Monitor + 'static) -> Self {
        Connected {
            monitor: Arc::new(monitor),
            session: None,
        }
    }

    /// Says goodbye, within the library's limit of 5 s.
    pub(crate) async fn close(&self) {
        // The answer does not matter any more. The monitor goes first: its events are deregistered then.
        let _ = self.monitor.disconnect().await;
        if let Some(session) = &self.session {
            session.close().await;
        }
    }
}

/// A session with a libvirtd, or with a recording of one.
pub(crate) struct Session {
    pub(crate) libvirt: Libvirt,
    /// The recording's player.
    player: Option<JoinHandle<()>>,
}

impl Session {
    /// Says goodbye, within the library's limit of 5 s.
    pub(crate) async fn close(&self) {
        let _ = self.libvirt.close().await;
        if let Some(player) = &self.player {
            player.abort();
        }
    }
}

/// Connects to the monitor of `domain`, which has to be given where there is a choice, and nowhere else.
///
/// The caller closes what it gets; [`with_monitor`] does that.
pub(crate) async fn monitor(
    endpoint: &Endpoint,
    domain: Option<&str>,
    limit: Option<Duration>,
) -> Result<Connected, Failure> {
    let domain = match (endpoint, domain) {
        (Endpoint::Qmp(address), None) => {
            let monitor = SocketMonitor::dial(address.clone(), config(limit)).await;
            let monitor = monitor.map_err(Failure::connecting)?;
            monitor.connect().await.map_err(Failure::connecting)?;
            return Ok(Connected::alone(monitor));
        }
        (Endpoint::Qmp(address), Some(domain)) => {
            return Err(Failure::usage(format!(
                "{address} is the socket of one QEMU, so there is no domain `{domain}` to choose"
            )));
        }
        (_, Some(domain)) => domain,
        (_, None) => return Err(Failure::usage("no domain given")),
    };
    let connected = match endpoint {
        Endpoint::Libvirt(_) | Endpoint::Replay(_) => {
            let session = session(endpoint, limit).await?;
            Connected {
                monitor: Arc::new(session.libvirt.monitor(domain)),
                session: Some(session),
            }
        }
        _ => Connected {
            monitor: hypervisor(endpoint, limit)?.monitor(domain).into(),
            session: None,
        },
    };
    if let Err(error) = connected.monitor.connect().await {
        let failure = Failure::from(error);
        if !failure.is_timeout() {
            connected.close().await;
        }
        return Err(failure);
    }
    Ok(connected)
}

/// Connects, does `work` with the monitor, and says goodbye, however the work ends: by itself or by a signal. A second
/// signal does not wait for the goodbye, and a peer that has stopped answering gets none.
pub(crate) async fn with_monitor<T>(
    settings: &Settings,
    domain: Option<&str>,
    work: impl AsyncFnOnce(&dyn Monitor) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let endpoint = settings.endpoint()?;
    let mut interrupts = Interrupts::new()?;
    let connecting = monitor(&endpoint, domain, settings.limit());
    let connected = interrupts.end(connecting).await?;
    let result = interrupts.end(work(&*connected.monitor)).await;
    if !result.as_ref().is_err_and(Failure::is_timeout) {
        tokio::select! {
            () = connected.close() => {}
            _ = interrupts.next() => {}
        }
    }
    result
}

/// Opens a session with the daemon of a libvirt endpoint, or with a recording.
pub(crate) async fn session(
    endpoint: &Endpoint,
    limit: Option<Duration>,
) -> Result<Session, Failure> {
    let config = config(limit);
    let libvirt = match endpoint {
        Endpoint::Libvirt(Some(uri)) => Libvirt::connect_with(uri, config).await,
        Endpoint::Replay(file) => return replayed(file, config).await,
        _ => Libvirt::connect_default(config).await,
    };
    Ok(Session {
        libvirt: libvirt.map_err(Failure::connecting)?,
        player: None,
    })
}

async fn replayed(file: &Path, config: Config) -> Result<Session, Failure> {
    let fixture = read_fixture(file)?;
    let uri = opened_uri(&fixture);
    let (conn, player) = Replay::new(fixture).connect();
    let player = tokio::spawn(async move {
        if let Ok(Err(error)) = player.await {
            // Why the recording does not fit says more than that the connection ended.
            crate::failure::say(&error.to_string());
        }
    });
    let libvirt = Libvirt::open(conn, config.uri(uri)).await;
    Ok(Session {
        libvirt: libvirt.map_err(Failure::connecting)?,
        player: Some(player),
    })
}

/// The recording in `file`.
pub(crate) fn read_fixture(file: &Path) -> Result<Fixture, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::system(&format!("cannot read {shown}"), error))?;
    text.parse()
        .map_err(|error| Failure::new(Exit::Failed, format!("{shown}: {error}")))
}

/// What the recorded client opened: the same has to be asked for again.
pub(crate) fn opened_uri(fixture: &Fixture) -> String {
    let mut to_server = fixture.packets.iter().filter_map(|(direction, packet)| {
        let opens = (packet.header.program, packet.header.procedure)
            == (ConnectOpen::PROGRAM, ConnectOpen::NUMBER);
        (*direction == Direction::ToServer && opens).then(|| packet.payload.clone())
    });
    let args = to_server
        .next()
        .and_then(|payload| xdr::decode::<remote::ConnectOpenArgs>(payload).ok());
    args.and_then(|args| args.name)
        .map_or_else(String::new, |name| name.to_string())
}

/// The domains of an endpoint that has some, by a driver that opens a connection for each.
pub(crate) fn hypervisor(
    endpoint: &Endpoint,
    limit: Option<Duration>,
) -> Result<Hypervisor, Failure> {
    match endpoint {
        Endpoint::Virsh(uri) => Ok(Hypervisor::virsh_with_config(uri, config(limit))),
        #[cfg(feature = "libvirt-c")]
        Endpoint::C(uri) => Ok(Hypervisor::c_with_config(uri, config(limit))),
        endpoint => Err(Failure::usage(format!(
            "{endpoint:?} has no driver of its own"
        ))),
    }
}

/// The library's settings, with the limit that was given.
pub(crate) fn config(limit: Option<Duration>) -> Config {
    match limit {
        Some(_) => Config::new().connect_timeout(limit).call_timeout(limit),
        None => Config::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_told_from_addresses_of_qemu() {
        for (text, address) in [
            ("unix:/run/vm.qmp", QmpAddress::Unix("/run/vm.qmp".into())),
            ("tcp:localhost:4444", QmpAddress::tcp("localhost", 4444)),
            ("tcp:[::1]:4444", QmpAddress::tcp("::1", 4444)),
            ("pipe:/run/vm", QmpAddress::Pipe("/run/vm".into())),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint, Endpoint::Qmp(address), "{text}");
            assert!(!endpoint.has_domains());
        }
        for text in [
            "qemu:///system",
            "an-alias",
            "",
            "/var/run/libvirt/libvirt-sock",
            "tcp://localhost:4444",
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint, Endpoint::Libvirt(Some(text.to_owned())), "{text}");
        }
        for text in ["unix:", "tcp:localhost", "tcp:4444", "replay:"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Endpoint::parse("replay:a.fixture").unwrap(),
            Endpoint::Replay("a.fixture".into())
        );
        assert_eq!(
            Endpoint::parse("virsh+qemu+ssh://host/system").unwrap(),
            Endpoint::Virsh("qemu+ssh://host/system".to_owned())
        );
    }

    #[test]
    fn the_c_library_is_there_or_the_error_says_why_not() {
        let parsed = Endpoint::parse("c+qemu:///system");
        match cfg!(feature = "libvirt-c") {
            true => assert_eq!(parsed.unwrap(), Endpoint::C("qemu:///system".to_owned())),
            false => assert!(format!("{:?}", parsed.unwrap_err()).contains("libvirt-c")),
        }
    }

    #[test]
    fn what_qmp_shell_takes_for_an_address() {
        for (text, address) in [
            ("/run/vm.qmp", QmpAddress::Unix("/run/vm.qmp".into())),
            ("vm:1/x", QmpAddress::Unix("vm:1/x".into())),
            ("localhost:4444", QmpAddress::tcp("localhost", 4444)),
            ("tcp:localhost:4444", QmpAddress::tcp("localhost", 4444)),
        ] {
            let endpoint = Endpoint::of_qmp_shell(text).unwrap();
            assert_eq!(endpoint, Endpoint::Qmp(address), "{text}");
        }
    }

    #[test]
    fn a_domain_is_named_where_there_is_a_choice() {
        let words = ["a".to_owned(), "b".to_owned()];
        let libvirt = Endpoint::Libvirt(None);
        assert_eq!(libvirt.domain_of(&words).unwrap(), (Some("a"), &words[1..]));
        assert!(libvirt.domain_of(&[]).is_err());
        let socket = Endpoint::parse("unix:/x").unwrap();
        assert_eq!(socket.domain_of(&words).unwrap(), (None, &words[..]));
    }
}
