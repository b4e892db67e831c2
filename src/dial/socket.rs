//! Connecting unix and TCP sockets by a deadline. Imports transport, connection and error.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, ToSocketAddrs, UnixStream, lookup_host};
use tokio::time::Instant;

use crate::connection::{Deadline, sleep_until};
use crate::error::Error;
use crate::transport::Transport;

/// How long to wait before what cannot be connected now is tried again.
const DIAL_AGAIN: Duration = Duration::from_millis(20);

/// Connects to a unix socket; a name that begins with a zero byte is an abstract one. One whose backlog is full refuses at
/// once, and is tried again.
pub(crate) async fn unix(path: &Path, deadline: Deadline) -> Result<Transport, Error> {
    let busy = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    let connect = || UnixStream::connect(path);
    let target = path.display().to_string().replace('\0', "@");
    let stream = retried(target, deadline, busy, connect).await?;
    Ok(Transport::new(stream))
}

/// What `addr` means now, found by `deadline`.
pub(crate) async fn resolved(
    target: &str,
    addr: impl ToSocketAddrs,
    deadline: Deadline,
) -> Result<Vec<SocketAddr>, Error> {
    match within(deadline, lookup_host(addr)).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(failed(target.to_owned(), error)),
    }
}

/// Connects to the first address of `addr` that accepts.
pub(crate) async fn tcp(
    target: String,
    addr: impl ToSocketAddrs,
    deadline: Deadline,
) -> Result<Transport, Error> {
    Ok(over_tcp(tcp_stream(target, addr, deadline).await?))
}

pub(super) async fn tcp_stream(
    target: String,
    addr: impl ToSocketAddrs,
    deadline: Deadline,
) -> Result<TcpStream, Error> {
    let connect = async {
        let addresses: Vec<_> = lookup_host(addr).await?.collect();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for (tried, address) in addresses.iter().enumerate() {
            // One that answers nothing must leave time for the others.
            let share = match deadline {
                Some((at, _)) => share(at, addresses.len() - tried),
                None => None,
            };
            let attempt = TcpStream::connect(address);
            let result = match share {
                Some(share) => tokio::time::timeout(share, attempt).await,
                None => Ok(attempt.await),
            };
            match result {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = silent("connection", deadline),
            }
        }
        Err(failure)
    };
    within(deadline, connect)
        .await
        .map_err(|error| failed(target, error))
}

/// The part of the time until `deadline` that the first of so many may take; all of it, and no limit here, for the last.
fn share(deadline: Instant, many: usize) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match u32::try_from(many) {
        Ok(many) if many > 1 => left.checked_div(many),
        _ => None,
    }
}

pub(crate) fn over_tcp(stream: TcpStream) -> Transport {
    without_delay(&stream);
    Transport::new(stream)
}

/// A small command must not wait for the acknowledgement of the one before it.
pub(super) fn without_delay(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

/// Connects by `deadline`; what fails by an error that is `passing` is tried again until then.
pub(crate) async fn retried<T, F>(
    target: String,
    deadline: Deadline,
    passing: impl Fn(&io::Error) -> bool,
    connect: impl Fn() -> F,
) -> Result<T, Error>
where
    F: Future<Output = io::Result<T>>,
{
    let attempts = async {
        loop {
            match connect().await {
                Err(error) if passing(&error) => tokio::time::sleep(DIAL_AGAIN).await,
                result => return result,
            }
        }
    };
    within(deadline, attempts)
        .await
        .map_err(|error| failed(target, error))
}

/// What `connect` gives, or an error of kind `TimedOut` at the deadline.
pub(crate) async fn within<T>(
    deadline: Deadline,
    connect: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::select! {
        result = connect => result,
        () = sleep_until(deadline) => Err(silent("connection", deadline)),
    }
}

/// There was none of `what` by the deadline.
pub(super) fn silent(what: &str, deadline: Deadline) -> io::Error {
    let after = deadline.map(|(_, after)| after).unwrap_or_default();
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("no {what} within {after:?}"),
    )
}

pub(crate) fn failed(target: String, error: io::Error) -> Error {
    Error::Connect {
        target,
        source: Arc::new(error),
    }
}
