//! From a URI to a connected stream, and the connecting that the drivers share. Imports uri, config, transport, connection and
//! error.
//!
//! `socket` connects sockets, `child` runs programs, `ssh` writes the command for ssh, `tls` makes a TCP stream safe with what `pki`
//! reads.

mod child;
#[cfg(feature = "tls")]
mod pki;
mod socket;
mod ssh;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod validity;

use std::io;
use std::path::PathBuf;

use tracing::debug;

use crate::config::Config;
use crate::connection::{Deadline, Steps};
use crate::error::{EndCause, Error};
use crate::transport::Transport;
use crate::uri::{self, Uri, User};

pub(crate) use child::ChildStream;
pub(crate) use socket::{failed, over_tcp, resolved, retried, tcp, unix, within};
use ssh::Command;

/// What a URI has turned out to mean on this machine, found without connecting.
struct Target {
    uri: Uri,
    way: Way,
}

enum Way {
    /// A unix socket; an abstract one begins with a zero byte.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String, u16),
    #[cfg(feature = "tls")]
    Tls(Box<tls::Tls>),
    Child(Command),
}

/// Connects to the daemon that `text` means, or to the default one, in the first of `steps`.
///
/// Nothing here blocks: files are read on a thread for that, and so are names looked up.
pub(crate) async fn dial(
    text: Option<&str>,
    config: &Config,
    steps: &mut Steps,
) -> Result<(Uri, Transport), Error> {
    let deadline = steps.next(config.timeouts.dial);
    let readonly = config.readonly;
    let shown = text.unwrap_or("the default daemon").to_owned();
    let owned = text.map(str::to_owned);
    let target = on_thread(shown, deadline, move || find(owned.as_deref(), readonly)).await?;
    debug!(target: "libvirt_qmp::connection", uri = %target.uri, "connecting");
    let transport = target.connect(deadline, config, steps).await?;
    Ok((target.uri, transport))
}

/// Connects to the same daemon once more. Its files are read anew: a socket may be another one by now.
pub(crate) async fn dial_again(
    uri: &Uri,
    config: &Config,
    steps: &mut Steps,
) -> Result<Transport, Error> {
    let deadline = steps.next(config.timeouts.dial);
    let (owned, readonly) = (uri.clone(), config.readonly);
    let target = on_thread(uri.to_string(), deadline, move || {
        Target::of(owned, &User::current(), readonly)
    })
    .await?;
    debug!(target: "libvirt_qmp::connection", %uri, "connecting again");
    target.connect(deadline, config, steps).await
}

/// What `connecting` gives, within `deadline`.
pub(crate) async fn by_function(
    connecting: impl Future<Output = io::Result<Transport>>,
    deadline: Deadline,
) -> Result<Transport, Error> {
    within(deadline, connecting)
        .await
        .map_err(|error| failed("the daemon by a function".to_owned(), error))
}

/// What `find` finds, on a thread where it may block: a home directory may be far away.
async fn on_thread<T: Send + 'static>(
    shown: String,
    deadline: Deadline,
    find: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let finding = tokio::task::spawn_blocking(find);
    match within(deadline, async { Ok(finding.await) }).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => Err(Error::disconnected(EndCause::RuntimeGone.into(), false)),
        Err(error) => Err(failed(shown, error)),
    }
}

/// Reads files of the user's, so it blocks.
fn find(text: Option<&str>, readonly: bool) -> Result<Target, Error> {
    let user = User::current();
    let uri = Uri::resolve(text, &user)?;
    Target::of(uri, &user, readonly)
}

/// The first of the sockets that exists, or the last, whose absence then is the error.
fn socket(candidates: &[PathBuf]) -> PathBuf {
    let found = candidates.iter().find(|path| path.exists());
    let path = found.or(candidates.last()).cloned().unwrap_or_default();
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => PathBuf::from(format!("\0{name}")),
        None => path,
    }
}

fn host(uri: &Uri) -> Result<String, Error> {
    uri.host
        .clone()
        .ok_or_else(|| Error::Unsupported(format!("transport {} without a host", uri.transport)))
}

impl Target {
    /// Reads files of the user's, so it blocks.
    fn of(uri: Uri, user: &User, readonly: bool) -> Result<Self, Error> {
        if uri.parameters.authfile.is_some() && !cfg!(feature = "sasl") {
            let what = "parameter `authfile`: this program was built without the feature `sasl`";
            return Err(Error::Unsupported(what.to_owned()));
        }
        let way = match uri.transport {
            uri::Transport::Unix => Way::Unix(socket(&uri.sockets(user, readonly)?)),
            uri::Transport::Tcp => Way::Tcp(host(&uri)?, uri.port_or_default().unwrap_or_default()),
            #[cfg(feature = "tls")]
            uri::Transport::Tls => Way::Tls(Box::new(tls::Tls::prepare(&uri, user)?)),
            #[cfg(not(feature = "tls"))]
            uri::Transport::Tls => {
                let what = "transport tls: this program was built without the feature `tls`";
                return Err(Error::Unsupported(what.to_owned()));
            }
            uri::Transport::Ssh => Way::Child(ssh::command(&uri, user, readonly)?),
            uri::Transport::Ext => Way::Child(Command {
                program: uri.parameters.command.clone().unwrap_or_default().into(),
                arguments: Vec::new(),
            }),
        };
        Ok(Target { uri, way })
    }

    /// Connects in the step that ends by `deadline`, and makes it safe in the next of `steps`.
    async fn connect(
        &self,
        deadline: Deadline,
        #[cfg_attr(not(feature = "tls"), expect(unused_variables))] config: &Config,
        #[cfg_attr(not(feature = "tls"), expect(unused_variables))] steps: &mut Steps,
    ) -> Result<Transport, Error> {
        match &self.way {
            Way::Unix(path) => unix(path, deadline).await,
            Way::Tcp(host, port) => {
                tcp(address(host, *port), (host.as_str(), *port), deadline).await
            }
            #[cfg(feature = "tls")]
            Way::Tls(tls) => {
                let stream = tls.dial(deadline).await?;
                tls.secure(stream, steps.next(config.timeouts.tls)).await
            }
            Way::Child(command) => {
                let stream = ChildStream::spawn(command, &self.uri.to_string())?;
                Ok(Transport::new(stream))
            }
        }
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
fn address(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
#[path = "../../tests/support/uris.rs"]
mod uris;

#[cfg(test)]
mod tests {
    use super::uris::{Case, Hosts, Means, written};
    use super::*;
    use crate::uri::UriError;

    /// A directory that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let dir = std::env::temp_dir().join(format!("libvirt-qmp-uris-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Directory(dir)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn meant(case: &Case, hosts: &Hosts) -> Result<Means, UriError> {
        let user = User {
            is_root: case.root,
            runtime_dir: Some("/run/user/1000".into()),
            ..User::default()
        };
        let uri = match &*case.uri {
            "" => Uri::resolve(None, &user)?,
            text => text.parse()?,
        };
        let mut means = Means {
            opens: Some(written([uri.name()])).filter(|_| !uri.name().is_empty()),
            ..Means::default()
        };
        means.opens.get_or_insert_default();
        let text = |path: &std::ffi::OsStr| path.to_str().unwrap().to_owned();
        let port = uri.port_or_default().map(|port| port.to_string());
        let host_and_port = || [uri.host.clone().unwrap(), port.clone().unwrap()];
        let parameters = &uri.parameters;
        let (way, words) = match uri.transport {
            uri::Transport::Unix => {
                let sockets = uri.sockets(&user, case.readonly)?;
                (
                    "unix",
                    sockets.iter().map(|path| text(path.as_os_str())).collect(),
                )
            }
            uri::Transport::Tcp => ("tcp", host_and_port().to_vec()),
            uri::Transport::Tls => {
                let pki = parameters.pkipath.iter().map(|path| text(path.as_os_str()));
                ("tls", host_and_port().into_iter().chain(pki).collect())
            }
            uri::Transport::Ssh => {
                let command = ssh::command(&uri, &user, case.readonly)?;
                let words = [command.program].into_iter().chain(command.arguments);
                let mut words: Vec<_> = words.map(|word| text(&word)).collect();
                let [behind, or] = hosts.run(&words.pop().unwrap());
                (means.behind, means.or) = (Some(behind), Some(or));
                ("run", words)
            }
            uri::Transport::Ext => (
                "run",
                vec![text(parameters.command.as_ref().unwrap().as_os_str())],
            ),
        };
        means.way = Some(format!("{way} {}", written(words)));
        Ok(means)
    }

    #[test]
    fn every_uri_means_what_the_table_says() {
        let directory = Directory::new();
        let hosts = Hosts::new(&directory.0);
        for case in uris::cases() {
            let place = case.place();
            match (meant(&case, &hosts), &case.refused) {
                (Ok(means), None) => assert_eq!(means, case.means, "{place}"),
                (Err(error), Some(part)) => {
                    assert!(error.to_string().contains(part), "{place}: {error}");
                }
                (Ok(means), Some(_)) => panic!("{place}: {means:?}"),
                (Err(error), None) => panic!("{place}: {error}"),
            }
        }
    }

    #[test]
    fn the_first_socket_that_exists_is_meant_or_the_last() {
        let there = std::env::current_dir().unwrap();
        let (no, neither) = (PathBuf::from("/no/such/1"), PathBuf::from("/no/such/2"));
        assert_eq!(socket(&[no.clone(), there.clone(), neither.clone()]), there);
        assert_eq!(socket(&[no, neither.clone()]), neither);
        assert_eq!(socket(&["@abstract".into()]), PathBuf::from("\0abstract"));
    }

    #[test]
    fn addresses_read_as_they_are_written() {
        assert_eq!(address("::1", 5), "[::1]:5");
        assert_eq!(address("host", 5), "host:5");
    }
}
