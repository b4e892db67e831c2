//! Sessions by URI: what a user names a host with everywhere else. Imports dial, uri and what a session is made of.

use super::{Libvirt, Origin};
use crate::config::Config;
use crate::connection::Steps;
use crate::dial::dial;
use crate::error::Error;
use crate::rpc::StateSender;

/// # Which URI do I need
///
/// | The daemon is reached by | URI |
/// |---|---|
/// | this machine's system daemon, virtqemud or libvirtd | `qemu:///system` |
/// | this user's own daemon | `qemu:///session` |
/// | a unix socket elsewhere | `qemu:///system?socket=/run/other/libvirt-sock` |
/// | an abstract unix socket | `qemu:///system?socket=@name` |
/// | ssh, with its configuration, agent and jump hosts | `qemu+ssh://root@host/system` |
/// | ssh to a host without virt-ssh-helper | `qemu+ssh://root@host/system?proxy=netcat` |
/// | TLS, with certificates where libvirt looks for them | `qemu+tls://host/system` |
/// | TLS, with certificates of one's own | `qemu+tls://host/system?pkipath=/etc/my-pki` |
/// | plain TCP, for a network that is trusted | `qemu+tcp://host/system` |
/// | plain TCP, encrypted by Kerberos (feature `gssapi`) | `qemu+tcp://host/system?auth=sasl.GSSAPI` |
/// | a program that leads to it | `qemu+ext:///system?command=/usr/bin/my-tunnel` |
///
/// A parameter that would have no effect is an error that names it. What the daemon then opens is [`Uri::name`](crate::Uri::name):
/// the URI without transport, host and parameters.
impl Libvirt {
    /// Connects to the daemon that `uri` names, or that an alias of `libvirt.conf` does, and opens a session with it. Settings
    /// are the default ones.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), libvirt_qmp::Error> {
    /// use libvirt_qmp::Libvirt;
    ///
    /// let libvirt = Libvirt::connect("qemu+ssh://root@host/system").await?;
    /// println!("{} domains", libvirt.domains().await?.len());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Libvirt::connect_with`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was connected.
    pub async fn connect(uri: &str) -> Result<Self, Error> {
        Libvirt::connect_with(uri, Config::new()).await
    }

    /// As [`Libvirt::connect`], with settings. What is opened is said by the URI: [`Config::uri`] is not used.
    /// [`Config::readonly`] also chooses the daemon's socket for that.
    ///
    /// Connecting, authenticating and opening together have [`Config::connect_timeout`], but those that have a timeout of
    /// their own: see [Deadlines](Config#deadlines). A user's own daemon is not started where it does not run. A program
    /// that leads to the daemon, such as ssh, is ended and reaped with the connection; what it says on standard error comes
    /// with the cause of the connection's end.
    ///
    /// With [`Config::reconnect`] a lost connection is made again, to the daemon that was found here: what names it is not looked up
    /// once more.
    ///
    /// Where the daemon wants SASL, the best mechanism of those that it offers is used, or the one that parameter `auth` names.
    /// User name and password are those of `Config::credentials`, or in libvirt's `auth.conf`. This needs the feature `sasl`. With the
    /// feature `gssapi` a ticket of Kerberos will do, which is also what a daemon wants on plain TCP: `Config::credentials` says
    /// when it is used.
    ///
    /// Must be called inside a tokio runtime with I/O and time enabled, on which the connection's task then runs.
    ///
    /// # Errors
    ///
    /// [`Error::Uri`] where the URI or `libvirt.conf` is not understood; [`Error::Connect`] with the target and what the
    /// system said, of kind [`TimedOut`](std::io::ErrorKind::TimedOut) at the deadline; [`Error::Tls`] where the two do not trust
    /// each other; [`Error::Unsupported`] for a URI that asks for what this client cannot do. Then those of
    /// [`Libvirt::open`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was connected.
    pub async fn connect_with(uri: &str, config: Config) -> Result<Self, Error> {
        Libvirt::connect_to(Some(uri), config).await
    }

    /// Connects to the default daemon: `LIBVIRT_DEFAULT_URI`, else `uri_default` of `libvirt.conf`, else a daemon on this
    /// machine, which chooses the hypervisor. As [`Libvirt::connect_with`] in everything else.
    ///
    /// # Errors
    ///
    /// Those of [`Libvirt::connect_with`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was connected.
    pub async fn connect_default(config: Config) -> Result<Self, Error> {
        Libvirt::connect_to(None, config).await
    }

    async fn connect_to(uri: Option<&str>, mut config: Config) -> Result<Self, Error> {
        let mut steps = Steps::new(config.connect_timeout);
        let (uri, stream) = dial(uri, &config, &mut steps).await?;
        config.uri = uri.name();
        let (origin, state) = (Origin::Uri(Box::new(uri)), StateSender::opening());
        Libvirt::open_by(stream, config, origin, state, steps).await
    }
}
