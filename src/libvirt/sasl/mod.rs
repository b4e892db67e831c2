//! Authentication by SASL over libvirt's RPC: the mechanism is chosen, the credentials are found, and both sides talk until both
//! are done. Imports config, credentials, connection, error, rpc, transport and uri.

#[cfg(feature = "gssapi")]
mod gssapi;
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
#[cfg(feature = "gssapi")]
use gssapi::{Peer, Protection};
use mechanism::{Exchange, Mechanism, OVER_TCP, Wishes, usable};

/// Messages of the daemon in one exchange. No mechanism here takes more than three.
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

/// An exchange, and what is said first.
struct Begun {
    exchange: Exchange,
    first: Option<Vec<u8>>,
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
        self.talk(self.begin(&usable).await?).await
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

    /// Begins an exchange by the best mechanism that there is all for that it needs.
    ///
    /// Who has a ticket for the daemon is not asked for a password, but a password that is at hand was put there for this.
    async fn begin(&self, usable: &[Mechanism]) -> Result<Begun, Error> {
        let by_password = usable.iter().copied().find(|found| found.needs_password());
        let asks = matches!(self.config.credentials, Some(CredentialsSource::Ask(_)));
        if !asks && let Some(begun) = self.with_password(by_password).await? {
            return Ok(begun);
        }
        let without_ticket = match self.with_ticket(usable).await {
            Ok(Some(begun)) => return Ok(begun),
            Ok(None) => None,
            // The daemon has not heard of it yet.
            Err(Error::Auth(failure)) if usable.len() > 1 => match *failure {
                AuthFailure::Credentials { reason, .. } => Some(reason),
                failure => return Err(failure.into()),
            },
            Err(error) => return Err(error),
        };
        if asks && let Some(begun) = self.with_password(by_password).await? {
            return Ok(begun);
        }
        let mut others = usable.iter().copied();
        match others.find(|found| matches!(found, Mechanism::External | Mechanism::Anonymous)) {
            Some(mechanism) => self.first(Exchange::new(mechanism, None)?).await,
            None => Err(self.no_credentials(without_ticket).into()),
        }
    }

    /// By this mechanism, where there are credentials for it.
    async fn with_password(&self, mechanism: Option<Mechanism>) -> Result<Option<Begun>, Error> {
        let Some(mechanism) = mechanism else {
            return Ok(None);
        };
        match self.credentials(mechanism).await? {
            Some(found) => {
                let exchange = Exchange::new(mechanism, Some(found))?;
                Ok(Some(self.first(exchange).await?))
            }
            None => Ok(None),
        }
    }

    /// By GSSAPI, where the daemon offers it.
    #[cfg(feature = "gssapi")]
    async fn with_ticket(&self, usable: &[Mechanism]) -> Result<Option<Begun>, Error> {
        if !usable.contains(&Mechanism::Gssapi) {
            return Ok(None);
        }
        let authorize_as = match &self.config.credentials {
            Some(CredentialsSource::Value(credentials)) => credentials.authorize_as.clone(),
            _ => None,
        };
        let peer = Peer {
            // As libvirt calls this machine, for its own client too.
            host: self.uri.map_or("localhost", Uri::auth_host).to_owned(),
            protection: self.protection(),
            authorize_as,
        };
        Ok(Some(self.first(Exchange::gssapi(peer)).await?))
    }

    #[cfg(not(feature = "gssapi"))]
    #[expect(clippy::unused_async, reason = "with GSSAPI it waits")]
    async fn with_ticket(&self, _: &[Mechanism]) -> Result<Option<Begun>, Error> {
        Ok(None)
    }

    /// What is to protect the session. libvirtd wants a layer over plain TCP, and has none over TLS or its unix socket.
    #[cfg(feature = "gssapi")]
    fn protection(&self) -> Protection {
        match self.uri.map(|uri| uri.transport) {
            Some(Transport::Tcp) => Protection::Layer,
            Some(Transport::Unix | Transport::Tls | Transport::Ssh) => Protection::Way,
            // Descriptors cannot pass a layer.
            Some(Transport::Ext) | None if self.client.passes_files() => Protection::Way,
            Some(Transport::Ext) | None => Protection::Any,
        }
    }

    /// Makes what is said first.
    async fn first(&self, exchange: Exchange) -> Result<Begun, Error> {
        debug!(target: "libvirt_qmp::rpc", mechanism = exchange.mechanism().name(), "authenticating");
        let (exchange, first) = self.step(exchange, None).await?;
        Ok(Begun { exchange, first })
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

    fn no_credentials(&self, without_ticket: Option<String>) -> AuthFailure {
        let mut reason = match (&self.config.credentials, self.uri) {
            (Some(_), _) => "none was given when asked for".to_owned(),
            (None, Some(uri)) => format!(
                "Config::credentials is not set, and no auth.conf has any for libvirt on {}",
                uri.auth_host()
            ),
            (None, None) => "Config::credentials is not set".to_owned(),
        };
        if let Some(without_ticket) = without_ticket {
            reason = format!("{reason}; and no ticket for GSSAPI: {without_ticket}");
        }
        AuthFailure::NoCredentials { reason }
    }

    /// The exchange itself. The daemon must be done, and so must we: with a mechanism in which it proves something, its last
    /// word is waited for and verified. Once it is done, no step follows.
    async fn talk(&self, begun: Begun) -> Result<(), Error> {
        let Begun {
            mut exchange,
            first,
        } = begun;
        let (nil, data) = to_wire(first);
        let mech = exchange.mechanism().name().to_owned();
        let args = AuthSaslStartArgs { mech, nil, data };
        let call = self.client.call::<AuthSaslStart>(&args, self.options());
        let reply = call.await.map_err(|error| refused(error, &exchange))?;
        let mut answer = Answer::new(reply.complete, reply.nil, reply.data);
        for _ in 0..MOST_STEPS {
            let mut next = None;
            let mut protects = false;
            if !exchange.is_done() {
                (exchange, next) = self.step(exchange, answer.data.take()).await?;
                protects = !answer.complete && self.protect_after_reply(&mut exchange);
            } else if answer.data.is_some_and(|data| !data.is_empty()) {
                return Err(exchange.broken("it goes on after the end").into());
            }
            // What we have still to say may be that a security layer begins: nobody may talk us out of that.
            let is_over = exchange.is_done() && next.as_ref().is_none_or(Vec::is_empty);
            match (answer.complete, is_over) {
                (true, true) => return Ok(()),
                (true, false) => return Err(exchange.broken("it ends before the end").into()),
                (false, _) => {}
            }
            let (nil, data) = to_wire(next);
            let args = AuthSaslStepArgs { nil, data };
            let call = self.client.call::<AuthSaslStep>(&args, self.options());
            let reply = call.await.map_err(|error| refused(error, &exchange))?;
            answer = Answer::new(reply.complete, reply.nil, reply.data);
            if protects && !answer.complete {
                return Err(exchange.broken("it goes on after the end").into());
            }
        }
        Err(exchange.broken("it does not come to an end").into())
    }

    /// Has all that follows the daemon's next word go through the security layer that was agreed on, where there is one: says
    /// whether there is.
    #[cfg(feature = "gssapi")]
    fn protect_after_reply(&self, exchange: &mut Exchange) -> bool {
        let layer = exchange.layer();
        let is_there = layer.is_some();
        if let Some(layer) = layer {
            self.client.secure_after_reply(layer);
        }
        is_there
    }

    #[cfg(not(feature = "gssapi"))]
    fn protect_after_reply(&self, _: &mut Exchange) -> bool {
        false
    }

    /// One step of ours. Deriving a key takes its time, and so do Kerberos' servers, so it does not hold up the runtime.
    async fn step(
        &self,
        mut exchange: Exchange,
        input: Option<Vec<u8>>,
    ) -> Result<(Exchange, Option<Vec<u8>>), Error> {
        #[cfg(feature = "gssapi")]
        let may_hang = exchange.mechanism() == Mechanism::Gssapi;
        let step = move || {
            let output = exchange.step(input.as_deref())?;
            Ok::<_, AuthFailure>((exchange, output))
        };
        #[cfg(feature = "gssapi")]
        if may_hang {
            return Ok(self.compute_apart(step).await??);
        }
        Ok(self.compute(step).await??)
    }

    /// As `compute`, on a thread of its own, for what may hang long after the deadline: a runtime waits for those on its threads
    /// before it ends, and has so many and no more.
    #[cfg(feature = "gssapi")]
    async fn compute_apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, done) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("libvirt-qmp-gssapi".to_owned());
        let started = thread.spawn(move || {
            // Who does not wait any more needs no answer.
            let _ = sender.send(work());
        });
        started.map_err(|error| AuthFailure::Credentials {
            mechanism: Mechanism::Gssapi.name().to_owned(),
            reason: format!("no thread to ask Kerberos on: {error}"),
        })?;
        let done = self.in_time(done).await?;
        done.map_err(|_| Error::disconnected(EndCause::RuntimeGone.into(), false))
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

/// What the daemon's refusal means.
fn refused(error: Error, exchange: &Exchange) -> Error {
    match error {
        Error::Libvirt(error) if error.code == LibvirtError::AUTH_FAILED => AuthFailure::Refused {
            user: exchange.user(),
            mechanism: exchange.mechanism().name().to_owned(),
            error,
        }
        .into(),
        error => error,
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
