//! Authentication by SASL over libvirt's RPC: the mechanism is chosen, the credentials are found, and both sides talk until both
//! are done. Imports config, credentials, connection, error, rpc and uri.

mod mechanism;

use std::time::Duration;

use tracing::debug;

use crate::config::Config;
use crate::connection::{CallOptions, Deadline, Limits, sleep_until};
use crate::credentials::{Credentials, CredentialsRequest, CredentialsSource};
use crate::error::{AuthFailure, EndCause, Error, LibvirtError, Phase};
use crate::protocol::remote::procedure::{AuthSaslInit, AuthSaslStart, AuthSaslStep};
use crate::protocol::remote::{AuthSaslStartArgs, AuthSaslStepArgs};
use crate::rpc::Client;
use crate::uri::{Auth, HostVerify, Transport, Uri, UriError, User};
use mechanism::{Exchange, Mechanism, OVER_TCP, Wishes, usable};

/// Messages of the daemon in one exchange. No mechanism here takes more than two.
const MOST_STEPS: usize = 8;

/// Mechanisms that are looked at in the daemon's list.
const MOST_MECHANISMS: usize = 64;

/// The longest name a mechanism may have (RFC 4422).
const LONGEST_NAME: usize = 20;

/// What the daemon answers, whether to the start or to a later step.
struct Answer {
    complete: bool,
    data: Option<Vec<u8>>,
}

/// Authenticates over `client`, a connection to the daemon that `uri` names, or any other where there is none.
pub(super) async fn authenticate(
    client: &Client,
    config: &Config,
    uri: Option<&Uri>,
    deadline: Deadline,
) -> Result<(), Error> {
    let sasl = Sasl {
        client,
        config,
        uri,
        deadline,
    };
    sasl.run().await
}

struct Sasl<'a> {
    client: &'a Client,
    config: &'a Config,
    uri: Option<&'a Uri>,
    deadline: Deadline,
}

impl Sasl<'_> {
    async fn run(&self) -> Result<(), Error> {
        let authfile = self
            .uri
            .is_some_and(|uri| uri.parameters.authfile.is_some());
        if authfile && self.config.credentials.is_some() {
            return Err(Error::Uri(UriError::Parameter {
                parameter: "authfile".to_owned(),
                reason: "the settings say where credentials come from".to_owned(),
            }));
        }
        let offered = self.offered().await?;
        let usable = usable(&offered, self.wishes())?;
        let (mechanism, credentials) = self.choose(&usable).await?;
        debug!(target: "libvirt_qmp::rpc", mechanism = mechanism.name(), "authenticating");
        let user = credentials.as_ref().map(|found| found.user.clone());
        let refused = |error| match error {
            Error::Libvirt(error) if error.code == LibvirtError::AUTH_FAILED => {
                AuthFailure::Refused {
                    user: user.clone(),
                    mechanism: mechanism.name().to_owned(),
                    error,
                }
                .into()
            }
            error => error,
        };
        let exchange = Exchange::new(mechanism, credentials)?;
        self.talk(mechanism, exchange).await.map_err(refused)
    }

    /// The mechanisms that the daemon offers (`REMOTE_PROC_AUTH_SASL_INIT`).
    async fn offered(&self) -> Result<Vec<String>, Error> {
        match self.client.call::<AuthSaslInit>(&(), self.options()).await {
            Ok(reply) => Ok(read_list(&reply.mechlist)),
            // It has none that it would allow here.
            Err(Error::Libvirt(error)) if error.code == LibvirtError::AUTH_FAILED => {
                let reason = match self.is_over(Transport::Tcp) {
                    true => OVER_TCP.to_owned(),
                    false => error.to_string(),
                };
                let offered = Vec::new();
                Err(AuthFailure::NoMechanism { offered, reason }.into())
            }
            Err(error) => Err(error),
        }
    }

    fn wishes(&self) -> Wishes<'_> {
        let auth = self.uri.and_then(|uri| uri.parameters.auth.as_ref());
        Wishes {
            wanted: match auth {
                Some(Auth::Sasl(Some(name))) => Some(name),
                _ => None,
            },
            plain: self.config.plain_in_clear || self.is_private(),
            tcp: self.is_over(Transport::Tcp),
        }
    }

    fn is_over(&self, transport: Transport) -> bool {
        self.uri.is_some_and(|uri| uri.transport == transport)
    }

    /// Whether nobody but the daemon that is meant hears what we say.
    fn is_private(&self) -> bool {
        let Some(uri) = self.uri else {
            return self.client.passes_files();
        };
        match uri.transport {
            Transport::Unix => true,
            Transport::Tls => !uri.parameters.no_verify,
            Transport::Ssh => {
                let taken = uri.parameters.known_hosts_verify == Some(HostVerify::Ignore);
                !uri.parameters.no_verify && !taken
            }
            Transport::Tcp | Transport::Ext => false,
        }
    }

    /// The best mechanism that there are credentials for.
    async fn choose(
        &self,
        usable: &[Mechanism],
    ) -> Result<(Mechanism, Option<Credentials>), Error> {
        let by_password = usable.iter().find(|found| found.needs_password());
        let without = usable.iter().find(|found| !found.needs_password());
        if let Some(mechanism) = by_password
            && let Some(found) = self.credentials(*mechanism).await?
        {
            return Ok((*mechanism, Some(found)));
        }
        match without {
            Some(mechanism) => Ok((*mechanism, None)),
            None => Err(self.no_credentials().into()),
        }
    }

    async fn credentials(&self, mechanism: Mechanism) -> Result<Option<Credentials>, Error> {
        match (&self.config.credentials, self.uri) {
            (Some(CredentialsSource::Value(credentials)), _) => Ok(Some(credentials.clone())),
            (Some(CredentialsSource::Ask(ask)), uri) => {
                let request = CredentialsRequest {
                    host: uri.map(|uri| uri.auth_host().to_owned()),
                    mechanism: mechanism.name().to_owned(),
                };
                self.in_time(ask(request)).await
            }
            (None, Some(uri)) => {
                let uri = uri.clone();
                let found = self
                    .compute(move || uri.auth_conf(&User::current()))
                    .await?;
                Ok(found?)
            }
            (None, None) => Ok(None),
        }
    }

    fn no_credentials(&self) -> AuthFailure {
        let reason = match (&self.config.credentials, self.uri) {
            (Some(_), _) => "none was given when asked for".to_owned(),
            (None, Some(uri)) => format!(
                "Config::credentials is not set, and no auth.conf has any for libvirt on {}",
                uri.auth_host()
            ),
            (None, None) => "Config::credentials is not set".to_owned(),
        };
        AuthFailure::NoCredentials { reason }
    }

    /// The exchange itself. The daemon must be done, and so must we: with a mechanism in which it proves something, its last
    /// word is waited for and verified. Once it is done, no step follows.
    async fn talk(&self, mechanism: Mechanism, exchange: Exchange) -> Result<(), Error> {
        let (mut exchange, first) = self.step(exchange, None).await?;
        let (nil, data) = to_wire(first);
        let mech = mechanism.name().to_owned();
        let args = AuthSaslStartArgs { mech, nil, data };
        let call = self.client.call::<AuthSaslStart>(&args, self.options());
        let reply = call.await?;
        let mut answer = Answer::new(reply.complete, reply.nil, reply.data);
        for _ in 0..MOST_STEPS {
            let mut next = None;
            if !exchange.is_done() {
                (exchange, next) = self.step(exchange, answer.data.take()).await?;
            } else if answer.data.is_some_and(|data| !data.is_empty()) {
                return Err(exchange.broken("it goes on after the end").into());
            }
            match (answer.complete, exchange.is_done()) {
                (true, true) => return Ok(()),
                (true, false) => return Err(exchange.broken("it ends before the end").into()),
                (false, _) => {}
            }
            let (nil, data) = to_wire(next);
            let args = AuthSaslStepArgs { nil, data };
            let call = self.client.call::<AuthSaslStep>(&args, self.options());
            let reply = call.await?;
            answer = Answer::new(reply.complete, reply.nil, reply.data);
        }
        Err(exchange.broken("it does not come to an end").into())
    }

    /// One step of ours. Deriving a key takes its time, so it does not hold up the runtime.
    async fn step(
        &self,
        mut exchange: Exchange,
        input: Option<Vec<u8>>,
    ) -> Result<(Exchange, Option<Vec<u8>>), Error> {
        let step = move || {
            let output = exchange.step(input.as_deref())?;
            Ok::<_, AuthFailure>((exchange, output))
        };
        Ok(self.compute(step).await??)
    }

    /// What `work` gives, on a thread where it may block.
    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.in_time(tokio::task::spawn_blocking(work)).await?;
        done.map_err(|_| Error::disconnected(EndCause::RuntimeGone.into(), false))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        tokio::select! {
            done = work => Ok(done),
            () = sleep_until(self.deadline) => Err(Error::Timeout {
                phase: Phase::Authentication,
                after: self.deadline.map_or(Duration::ZERO, |(_, after)| after),
                maybe_executed: false,
            }),
        }
    }

    fn options(&self) -> CallOptions<'static> {
        CallOptions {
            phase: Phase::Authentication,
            deadline: self.deadline,
            limits: Limits::Connection,
        }
    }
}

impl Answer {
    fn new(complete: i32, nil: i32, data: Vec<u8>) -> Self {
        Answer {
            complete: complete != 0,
            data: (nil == 0).then_some(data),
        }
    }
}

/// `nil` and `data`.
fn to_wire(data: Option<Vec<u8>>) -> (i32, Vec<u8>) {
    match data {
        Some(data) => (0, data),
        None => (1, Vec::new()),
    }
}

/// The names in a list with commas; what is no name of a mechanism is left out.
fn read_list(list: &str) -> Vec<String> {
    let is_name = |name: &&str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain)
    };
    let names = list.split(|c: char| c == ',' || c.is_ascii_whitespace());
    let names = names.filter(is_name).map(str::to_ascii_uppercase);
    names.take(MOST_MECHANISMS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_mechanisms() {
        assert_eq!(read_list("SCRAM-SHA-256,plain"), ["SCRAM-SHA-256", "PLAIN"]);
        assert_eq!(read_list(" A, B\tC,,d_1"), ["A", "B", "C", "D_1"]);
        assert!(read_list("").is_empty());
        assert!(read_list("LONGER-THAN-ANY-NAME-IS,bl\u{f6}d,\u{1b}[2J").is_empty());
        assert_eq!(read_list(&"X,".repeat(100_000)).len(), MOST_MECHANISMS);
    }

    #[test]
    fn nothing_is_not_an_empty_something() {
        assert_eq!(to_wire(None), (1, Vec::new()));
        assert_eq!(to_wire(Some(Vec::new())), (0, Vec::new()));
        assert_eq!(Answer::new(0, 1, vec![1]).data, None);
        assert_eq!(Answer::new(0, 0, Vec::new()).data, Some(Vec::new()));
    }
}
