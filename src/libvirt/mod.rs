//! A session with a libvirt daemon: opening it, looking domains up, and what is shared by all monitors on it.
//! May import rpc, config, error and protocol.

mod domain;
mod events;
mod open;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use xdr_codec::Pack;

use crate::config::Config;
use crate::connection::{CallOptions, Deadline, Encoded, Limits, deadline};
use crate::error::{EndCause, Error, Phase};
use crate::protocol::qemu::procedure::DomainMonitorCommand;
use crate::protocol::remote::procedure::{ConnectClose, ConnectListAllDomains};
use crate::protocol::remote::{self, ConnectListAllDomainsArgs};
use crate::rpc::{self, Client};
use crate::xdr::Writer;

#[cfg(feature = "libvirt-c")]
pub(crate) use domain::hyphenated;
pub use domain::{Domain, DomainKey};

/// Closing never takes longer than this, whatever the peer does.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// `VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT`: the command is QMP.
const MONITOR_COMMAND_QMP: u32 = 0;

/// A session with libvirtd over one connection, shared by any number of monitors and event streams.
///
/// Cheap to clone. The connection closes when the last clone, monitor and event stream is gone, or by
/// [`close`](Libvirt::close).
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use libvirt_qmp::{Config, Libvirt, Monitor};
///
/// let conn = tokio::net::UnixStream::connect("/var/run/libvirt/libvirt-sock").await?;
/// let libvirt = Libvirt::open(conn, Config::new()).await?;
/// for domain in libvirt.domains().await? {
///     println!("{} {} {}", domain.name, domain.uuid, domain.is_running());
/// }
/// let status = libvirt.monitor("vm-1").run(br#"{"execute": "query-status"}"#).await?;
/// # let _ = status;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Libvirt {
    client: Client,
    config: Arc<Config>,
}

impl std::fmt::Debug for Libvirt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Libvirt")
            .field("config", &self.config)
            .field("ended", &self.client.ended())
            .finish()
    }
}

impl Libvirt {
    /// Authenticates and opens `config.uri` over `conn`, a connected stream to libvirtd: its unix socket, TCP port 16509,
    /// or anything that leads there.
    ///
    /// Must be called inside a tokio runtime, on which the connection's task then runs.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] names the phase that got no answer; [`Error::AuthUnsupported`] where the daemon wants SASL;
    /// [`Error::Libvirt`] where it refuses; [`Error::Disconnected`] where the peer closes, or speaks something else.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn open<T>(conn: T, config: Config) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let client = Client::start(conn, &config);
        let libvirt = Libvirt {
            client,
            config: Arc::new(config),
        };
        libvirt.start_session().await?;
        Ok(libvirt)
    }

    /// All domains that the daemon shows, running or not (`REMOTE_PROC_CONNECT_LIST_ALL_DOMAINS`). At most 16384.
    ///
    /// # Errors
    ///
    /// [`Error::Libvirt`], [`Error::Timeout`], [`Error::Disconnected`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the answer.
    pub async fn domains(&self) -> Result<Vec<Domain>, Error> {
        let args = ConnectListAllDomainsArgs {
            need_results: 1,
            flags: 0,
        };
        let options = self.options(Phase::Reply, Limits::Connection);
        let reply = self
            .client
            .call::<ConnectListAllDomains>(&args, options)
            .await?;
        Ok(reply.domains.into_iter().map(Domain::from).collect())
    }

    /// Closes the session: tells the daemon, and ends the connection. Calls, monitors and event streams on it fail with
    /// [`EndCause::UserClosed`]. Repeated calls do nothing. Takes at most 5 s, even where the peer does not read.
    ///
    /// # Errors
    ///
    /// None: whatever the peer says to it, the session is closed. The result matches the other drivers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the connection open or closed; calling again finishes it.
    pub async fn close(&self) -> Result<(), Error> {
        if self.client.ended().is_none() {
            let limit = self
                .config
                .call_timeout
                .map_or(CLOSE_TIMEOUT, |timeout| timeout.min(CLOSE_TIMEOUT));
            let options = CallOptions {
                phase: Phase::Reply,
                deadline: deadline(Some(limit)),
                limits: Limits::None,
            };
            self.client.leave();
            // The daemon closes right after its answer, and over a helper process not even that may arrive: the end of the
            // connection is an answer too.
            let _ = self.client.call::<ConnectClose>(&(), options).await;
            self.client.close();
            self.client.closed().await;
        }
        Ok(())
    }

    /// Waits until the connection has ended, and says why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    pub async fn closed(&self) -> Arc<EndCause> {
        self.client.closed().await
    }

    /// Encodes one QMP command of `domain`, for `run_monitor_command`.
    pub(crate) fn encode_monitor_command(
        domain: &remote::NonnullDomain,
        command: &str,
    ) -> Result<Encoded, Error> {
        rpc::encode::<DomainMonitorCommand>(&MonitorCommand { domain, command })
    }

    /// Runs an encoded QMP command and returns libvirt's answer. `turn` lets one command of a monitor run at a time.
    pub(crate) async fn run_monitor_command(
        &self,
        command: Encoded,
        turn: &Arc<Semaphore>,
    ) -> Result<Bytes, Error> {
        let options = self.options(Phase::Reply, Limits::Monitor(turn));
        let reply = self
            .client
            .send::<DomainMonitorCommand>(command, &options)
            .await?;
        Ok(reply.result.into_bytes())
    }

    fn options<'a>(&self, phase: Phase, limits: Limits<'a>) -> CallOptions<'a> {
        CallOptions {
            phase,
            deadline: deadline(self.config.call_timeout),
            limits,
        }
    }

    fn options_until<'a>(&self, phase: Phase, deadline: Deadline) -> CallOptions<'a> {
        CallOptions {
            phase,
            deadline,
            limits: Limits::Connection,
        }
    }
}

/// The fields of `qemu_domain_monitor_command_args`, borrowed: a command is copied once, into its packet.
struct MonitorCommand<'a> {
    domain: &'a remote::NonnullDomain,
    command: &'a str,
}

impl Pack<Writer> for MonitorCommand<'_> {
    fn pack(&self, out: &mut Writer) -> xdr_codec::Result<usize> {
        Ok(self.domain.pack(out)?
            + out.string(self.command, remote::STRING_MAX as usize)?
            + MONITOR_COMMAND_QMP.pack(out)?)
    }
}

#[cfg(test)]
mod tests {
    use bytestring::ByteString;

    use super::*;
    use crate::protocol::qemu::DomainMonitorCommandArgs;
    use crate::xdr;

    #[test]
    fn a_borrowed_command_is_encoded_as_the_generated_type_is() {
        let domain = remote::NonnullDomain {
            name: ByteString::from_static("stage-lb-1"),
            uuid: [7; 16],
            id: 3,
        };
        let command = r#"{"execute":"query-status"}"#;
        let args = DomainMonitorCommandArgs {
            dom: domain.clone(),
            cmd: command.into(),
            flags: MONITOR_COMMAND_QMP,
        };
        let (mut owned, mut borrowed) = (Vec::new(), Vec::new());
        xdr::encode(&args, &mut owned).unwrap();
        let view = MonitorCommand {
            domain: &domain,
            command,
        };
        xdr::encode(&view, &mut borrowed).unwrap();
        assert_eq!(borrowed, owned);
    }
}
