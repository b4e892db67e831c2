//! The domains behind a set of QMP sockets: each is asked, some at a time, and one that fails says so for itself. Imports
//! driver, monitor, qmp and error.

use serde::Deserialize;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{DomainStatus, HypervisorDomain};
use crate::config::Config;
use crate::driver::{QmpAddress, SocketMonitor};
use crate::error::Error;
use crate::monitor::{Monitor, MonitorExt};

/// Sockets asked at once.
const AT_ONCE: usize = 32;

pub(super) async fn domains(
    sockets: &[(String, QmpAddress)],
    config: &Config,
) -> Vec<HypervisorDomain> {
    let mut waiting = sockets.iter().cloned().enumerate();
    // Dropping the set ends its tasks, and with them their connections.
    let mut asking = JoinSet::new();
    let mut found = Vec::with_capacity(sockets.len());
    loop {
        while asking.len() < AT_ONCE
            && let Some((place, (name, address))) = waiting.next()
        {
            let config = config.clone();
            asking.spawn(async move { (place, ask(name, address, config).await) });
        }
        match asking.join_next().await {
            Some(Ok(domain)) => found.push(domain),
            // Neither does a task panic nor does anybody abort one.
            Some(Err(_)) => {}
            None => break,
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, domain)| domain).collect()
}

async fn ask(name: String, address: QmpAddress, config: Config) -> HypervisorDomain {
    match ask_monitor(address, config).await {
        Ok(Answers {
            name: guest,
            uuid,
            status,
        }) => HypervisorDomain {
            name,
            // A QEMU that was told none says that of all zeros.
            uuid: Uuid::try_parse(&uuid).ok().filter(|uuid| !uuid.is_nil()),
            id: None,
            guest_name: guest,
            status: DomainStatus::RunState(status),
        },
        Err(error) => HypervisorDomain {
            name,
            uuid: None,
            id: None,
            guest_name: None,
            status: DomainStatus::Unreachable(error),
        },
    }
}

struct Answers {
    name: Option<String>,
    uuid: String,
    status: String,
}

async fn ask_monitor(address: QmpAddress, config: Config) -> Result<Answers, Error> {
    #[derive(Deserialize)]
    struct Name {
        #[serde(default)]
        name: Option<String>,
    }
    #[derive(Deserialize)]
    struct Identity {
        #[serde(rename = "UUID")]
        uuid: String,
    }
    #[derive(Deserialize)]
    struct Status {
        status: String,
    }
    let monitor = SocketMonitor::dial(address, config).await?;
    let Name { name } = monitor.query("name").await?;
    let Identity { uuid } = monitor.query("uuid").await?;
    let Status { status } = monitor.query("status").await?;
    // QEMU is free for the next client as soon as it notices.
    monitor.disconnect().await?;
    Ok(Answers { name, uuid, status })
}
