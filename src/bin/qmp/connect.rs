//! Where to connect, and connecting: a libvirt URI, or the address of QEMU's own socket. Imports `failure`.

use std::time::Duration;

use libvirt_qmp::{Config, Libvirt, Monitor, QmpAddress, SocketMonitor};

use crate::failure::Failure;

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// The daemon of this URI or alias, or the default one.
    Libvirt(Option<String>),
    /// QEMU's own QMP socket.
    Qmp(QmpAddress),
}

impl Endpoint {
    /// The endpoint that the command line names, or else the environment, or else the default.
    pub(crate) fn choose(given: Option<&str>) -> Result<Self, Failure> {
        let variable = std::env::var_os("LIBVIRT_DEFAULT_URI");
        let variable = variable.as_ref().map(|text| text.to_string_lossy());
        let is_given = given.is_some();
        let text = given.or(variable.as_deref()).unwrap_or_default();
        match text.split_once(':') {
            // Behind a scheme there are slashes.
            Some(("unix" | "tcp" | "pipe", rest)) if !rest.starts_with("//") => text
                .parse()
                .map(Endpoint::Qmp)
                .map_err(|error| Failure::usage(error.to_string())),
            // The library reads the variable itself.
            _ => Ok(Endpoint::Libvirt(is_given.then(|| text.to_owned()))),
        }
    }
}

/// A monitor, and the session it belongs to where it is libvirtd's.
pub(crate) struct Connected {
    pub(crate) monitor: Box<dyn Monitor>,
    session: Option<Libvirt>,
}

impl Connected {
    /// Says goodbye, within the library's limit of 5 s.
    pub(crate) async fn close(&self) {
        // The answer does not matter any more.
        let _ = match &self.session {
            Some(session) => session.close().await,
            None => self.monitor.disconnect().await,
        };
    }
}

/// Connects to the monitor of `domain`, which has to be given for a libvirtd, and for nothing else.
pub(crate) async fn monitor(
    endpoint: &Endpoint,
    domain: Option<&str>,
    timeout: Option<Duration>,
) -> Result<Connected, Failure> {
    match (endpoint, domain) {
        (Endpoint::Libvirt(uri), Some(domain)) => {
            let session = libvirt(uri.as_deref(), timeout).await?;
            let connected = Connected {
                monitor: Box::new(session.monitor(domain)),
                session: Some(session),
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
        (Endpoint::Qmp(address), None) => {
            let monitor = SocketMonitor::dial(address.clone(), config(timeout))
                .await
                .map_err(Failure::connecting)?;
            monitor.connect().await.map_err(Failure::connecting)?;
            Ok(Connected {
                monitor: Box::new(monitor),
                session: None,
            })
        }
        (Endpoint::Libvirt(_), None) => Err(Failure::usage("no domain given")),
        (Endpoint::Qmp(address), Some(domain)) => Err(Failure::usage(format!(
            "{address} is the socket of one QEMU, so there is no domain `{domain}` to choose"
        ))),
    }
}

/// Opens a session with the daemon of `uri`, or with the default one.
pub(crate) async fn libvirt(
    uri: Option<&str>,
    timeout: Option<Duration>,
) -> Result<Libvirt, Failure> {
    let config = config(timeout);
    let session = match uri {
        Some(uri) => Libvirt::connect_with(uri, config).await,
        None => Libvirt::connect_default(config).await,
    };
    session.map_err(Failure::connecting)
}

fn config(timeout: Option<Duration>) -> Config {
    match timeout {
        Some(_) => Config::new().connect_timeout(timeout).call_timeout(timeout),
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
            let endpoint = Endpoint::choose(Some(text)).unwrap();
            assert_eq!(endpoint, Endpoint::Qmp(address), "{text}");
        }
        for text in [
            "qemu:///system",
            "an-alias",
            "",
            "/var/run/libvirt/libvirt-sock",
            "tcp://localhost:4444",
        ] {
            let endpoint = Endpoint::choose(Some(text)).unwrap();
            assert_eq!(endpoint, Endpoint::Libvirt(Some(text.to_owned())), "{text}");
        }
        for text in ["unix:", "tcp:localhost", "tcp:4444"] {
            assert!(Endpoint::choose(Some(text)).is_err(), "{text}");
        }
    }
}
