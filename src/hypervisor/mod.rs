//! Hypervisors: the domains of a host, however it is reached, and a monitor for each. The ways to reach one are the drivers';
//! `later` is a monitor on a socket that is connected on first use, `sockets` asks a set of sockets. May import anything below.

mod later;
mod sockets;

use std::fmt;

use uuid::Uuid;

use crate::config::Config;
#[cfg(feature = "libvirt-c")]
use crate::driver::LibvirtC;
use crate::driver::{QmpAddress, Virsh};
use crate::error::Error;
use crate::libvirt::Libvirt;
use crate::monitor::Monitor;
use crate::objects::Domain;
use crate::qmp::Version;
use later::Later;

/// A host's domains: to list them, and to open the monitor of one, by the same names whatever lies between.
///
/// ```no_run
/// # async fn example() -> Result<(), libvirt_qmp::Error> {
/// use libvirt_qmp::{Hypervisor, MonitorExt, QmpAddress};
///
/// let sockets = ["vm-1", "vm-2"].map(|name| (name, QmpAddress::Unix(format!("/run/{name}.qmp").into())));
/// let host = Hypervisor::sockets(sockets);
/// for domain in host.domains().await? {
///     println!("{} {}", domain.name, domain.status);
///     if domain.is_active() {
///         println!("QEMU {}", host.monitor(&domain.name).version().await?);
///     }
/// }
/// # Ok(()) }
/// ```
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Hypervisor {
    way: Way,
}

#[derive(Clone)]
enum Way {
    Libvirt(Libvirt),
    Virsh {
        uri: String,
        config: Config,
    },
    #[cfg(feature = "libvirt-c")]
    C {
        uri: String,
        config: Config,
    },
    Sockets {
        sockets: Vec<(String, QmpAddress)>,
        config: Config,
    },
}

/// A domain of a [`Hypervisor`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HypervisorDomain {
    /// Its name, by which [`Hypervisor::monitor`] opens it.
    pub name: String,
    /// What identifies it. Behind a socket it is what QEMU was told (`-uuid`), and none where it was told nothing, or does not
    /// answer.
    pub uuid: Option<Uuid>,
    /// libvirt's id while it is active. None behind a socket.
    pub id: Option<i32>,
    /// The name that QEMU itself was given (`-name`), behind a socket.
    pub guest_name: Option<String>,
    /// How it is.
    pub status: DomainStatus,
}

/// How a domain is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DomainStatus {
    /// Its QEMU process exists, running or paused: libvirt's list says no more.
    Active,
    /// It is defined, and has no process.
    Inactive,
    /// What QEMU calls it (`query-status`): `running`, `paused`, `prelaunch`…
    RunState(String),
    /// Its socket leads to no QEMU that answers, for this reason. A monitor that another client has is one of them
    /// ([`Phase::Greeting`](crate::Phase::Greeting)).
    Unreachable(Error),
}

/// What a host runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HypervisorVersion {
    /// Which hypervisor, by libvirt's name: `QEMU`.
    pub hypervisor: String,
    /// Its version; for QEMU that of the default emulator, which a domain may not run.
    pub version: Version,
    /// The version of libvirt, on the host.
    pub libvirt: Version,
}

impl Hypervisor {
    /// The domains of a session with libvirtd. Their monitors share it.
    pub fn libvirt(libvirt: Libvirt) -> Self {
        Hypervisor {
            way: Way::Libvirt(libvirt),
        }
    }

    /// The domains at `uri`, such as `qemu+ssh://host/system`, through the program `virsh`. A list starts one and ends it, and
    /// each monitor has its own. A name that libvirt allows is read as it is, whatever is in it.
    pub fn virsh(uri: impl Into<String>) -> Self {
        Hypervisor::virsh_with_config(uri, Config::new())
    }

    /// As [`Hypervisor::virsh`], with settings for lists and monitors.
    pub fn virsh_with_config(uri: impl Into<String>, config: Config) -> Self {
        let uri = uri.into();
        Hypervisor {
            way: Way::Virsh { uri, config },
        }
    }

    /// The domains at `uri`, through libvirt's C library (feature `libvirt-c`). A list opens a connection and closes it, and each
    /// monitor has one of its own.
    #[cfg(feature = "libvirt-c")]
    pub fn c(uri: impl Into<String>) -> Self {
        Hypervisor::c_with_config(uri, Config::new())
    }

    /// As [`Hypervisor::c`], with settings for lists and monitors.
    #[cfg(feature = "libvirt-c")]
    pub fn c_with_config(uri: impl Into<String>, config: Config) -> Self {
        let uri = uri.into();
        Hypervisor {
            way: Way::C { uri, config },
        }
    }

    /// The QEMU processes behind these QMP sockets, each by a name of the caller's choice.
    ///
    /// A list asks each socket, which serves one client: a domain whose monitor is open elsewhere, be it by this program, is
    /// [`DomainStatus::Unreachable`], after [`Config::connect_timeout`].
    pub fn sockets<N: Into<String>, A: Into<QmpAddress>>(
        sockets: impl IntoIterator<Item = (N, A)>,
    ) -> Self {
        Hypervisor::sockets_with_config(sockets, Config::new())
    }

    /// As [`Hypervisor::sockets`], with settings for lists and monitors.
    pub fn sockets_with_config<N: Into<String>, A: Into<QmpAddress>>(
        sockets: impl IntoIterator<Item = (N, A)>,
        config: Config,
    ) -> Self {
        let sockets = sockets
            .into_iter()
            .map(|(name, address)| (name.into(), address.into()))
            .collect();
        Hypervisor {
            way: Way::Sockets { sockets, config },
        }
    }

    /// All domains, active or not; of sockets, in the order they were given.
    ///
    /// # Errors
    ///
    /// [`Error::Libvirt`], [`Error::Timeout`], [`Error::Disconnected`] of the way to the host. A socket that fails is no error
    /// of the list: see [`DomainStatus::Unreachable`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the answer, and what was connected for it.
    pub async fn domains(&self) -> Result<Vec<HypervisorDomain>, Error> {
        match &self.way {
            Way::Libvirt(libvirt) => Ok(of_libvirt(libvirt.domains().await?)),
            Way::Virsh { uri, config } => Ok(of_libvirt(Virsh::domains(uri, config).await?)),
            #[cfg(feature = "libvirt-c")]
            Way::C { uri, config } => Ok(of_libvirt(LibvirtC::domains(uri, config).await?)),
            Way::Sockets { sockets, config } => Ok(sockets::domains(sockets, config).await),
        }
    }

    /// The monitor of a domain, by its name; through libvirt by its UUID too. Nothing is connected yet, and a domain that does
    /// not exist fails when it is: [`Error::is_not_found`], or [`Error::is_unavailable`] for a set of sockets.
    pub fn monitor(&self, name: &str) -> Box<dyn Monitor> {
        match &self.way {
            Way::Libvirt(libvirt) => Box::new(libvirt.monitor(name)),
            Way::Virsh { uri, config } => Box::new(Virsh::with_config(uri, name, config.clone())),
            #[cfg(feature = "libvirt-c")]
            Way::C { uri, config } => Box::new(LibvirtC::with_config(uri, name, config.clone())),
            Way::Sockets { sockets, config } => {
                let socket = sockets.iter().find(|(socket, _)| socket == name);
                let address = socket.map(|(_, address)| address.clone());
                Box::new(Later::new(name, address, config.clone()))
            }
        }
    }

    /// What the host runs, where it can be asked: through libvirtd and virsh. A set of sockets has no version of its own: each QEMU says
    /// its own ([`MonitorExt::version`](crate::MonitorExt::version)).
    ///
    /// # Errors
    ///
    /// [`Error::Libvirt`], [`Error::Timeout`], [`Error::Disconnected`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the answer.
    pub async fn version(&self) -> Result<Option<HypervisorVersion>, Error> {
        match &self.way {
            Way::Libvirt(libvirt) => libvirt.versions().await.map(of_versions),
            Way::Virsh { uri, config } => Virsh::versions(uri, config).await.map(of_versions),
            #[cfg(feature = "libvirt-c")]
            Way::C { .. } => Ok(None),
            Way::Sockets { .. } => Ok(None),
        }
    }
}

impl HypervisorDomain {
    /// Whether it is known to have a QEMU process, running or paused.
    pub fn is_active(&self) -> bool {
        matches!(
            self.status,
            DomainStatus::Active | DomainStatus::RunState(_)
        )
    }
}

fn of_versions(
    (hypervisor, version, libvirt): (String, Version, Version),
) -> Option<HypervisorVersion> {
    Some(HypervisorVersion {
        hypervisor,
        version,
        libvirt,
    })
}

fn of_libvirt(domains: Vec<Domain>) -> Vec<HypervisorDomain> {
    let described = |domain: Domain| HypervisorDomain {
        status: match domain.is_running() {
            true => DomainStatus::Active,
            false => DomainStatus::Inactive,
        },
        name: domain.name,
        uuid: Some(domain.uuid),
        id: domain.id,
        guest_name: None,
    };
    domains.into_iter().map(described).collect()
}

impl fmt::Display for DomainStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainStatus::Active => f.write_str("active"),
            DomainStatus::Inactive => f.write_str("inactive"),
            DomainStatus::RunState(state) => f.write_str(state),
            DomainStatus::Unreachable(_) => f.write_str("unreachable"),
        }
    }
}

impl fmt::Debug for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Hypervisor");
        match &self.way {
            Way::Libvirt(libvirt) => debug.field("libvirt", libvirt),
            Way::Virsh { uri, .. } => debug.field("virsh", uri),
            #[cfg(feature = "libvirt-c")]
            Way::C { uri, .. } => debug.field("c", uri),
            Way::Sockets { sockets, .. } => debug.field("sockets", sockets),
        };
        debug.finish()
    }
}
