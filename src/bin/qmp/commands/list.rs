//! `qmp list`: the domains of a host.

use libvirt_qmp::HypervisorDomain;
use serde::Serialize;

use crate::connect::{Endpoint, Settings, hypervisor, session};
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::output::{Output, printable, to_line};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print each domain as a JSON object, one a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let endpoint = settings.endpoint()?;
    let mut interrupts = Interrupts::new()?;
    let domains = interrupts.end(domains(&endpoint, settings)).await?;
    let print = async {
        if !args.json {
            return output.line(table(&domains)).await;
        }
        for domain in &domains {
            output.line(as_json(domain)?).await?;
        }
        Ok(())
    };
    interrupts.end(print).await
}

async fn domains(
    endpoint: &Endpoint,
    settings: &Settings,
) -> Result<Vec<HypervisorDomain>, Failure> {
    match endpoint {
        Endpoint::Qmp(address) => Err(Failure::usage(format!(
            "{address} is the socket of one QEMU, which has no domains to list"
        ))),
        Endpoint::Libvirt(_) | Endpoint::Replay(_) => {
            let session = session(endpoint, settings.limit()).await?;
            let hypervisor = libvirt_qmp::Hypervisor::libvirt(session.libvirt.clone());
            let domains = hypervisor.domains().await.map_err(Failure::from);
            if !domains.as_ref().is_err_and(Failure::is_timeout) {
                session.close().await;
            }
            domains
        }
        _ => {
            let hypervisor = hypervisor(endpoint, settings.limit())?;
            hypervisor.domains().await.map_err(Failure::connecting)
        }
    }
}

fn as_json(domain: &HypervisorDomain) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Shown<'a> {
        name: &'a str,
        uuid: Option<String>,
        id: Option<i32>,
        state: String,
    }
    to_line(&Shown {
        name: &domain.name,
        uuid: domain.uuid.map(|uuid| uuid.to_string()),
        id: domain.id,
        state: domain.status.to_string(),
    })
}

fn table(domains: &[HypervisorDomain]) -> String {
    let row = |domain: &HypervisorDomain| {
        let none = || "-".to_owned();
        let id = domain.id.map_or_else(none, |id| id.to_string());
        [
            printable(&domain.name),
            domain.uuid.map_or_else(none, |uuid| uuid.to_string()),
            id,
            domain.status.to_string(),
        ]
    };
    let heading = ["NAME", "UUID", "ID", "STATE"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(heading)
        .chain(domains.iter().map(row))
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let lines = rows.iter().map(|[name, uuid, id, state]| {
        format!(
            "{name:0$}  {uuid:1$}  {id:2$}  {state}",
            widths[0], widths[1], widths[2]
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}
