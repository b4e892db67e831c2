//! Who the user is to a daemon that wants SASL: a name and a password, or a way to ask for them. Imports nothing of ours.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A user's name and password, for a daemon that wants SASL.
///
/// The password is in no `Debug` output, log or error.
///
/// ```
/// use libvirt_qmp::{Config, Credentials};
///
/// let credentials = Credentials::new("fred", "correct horse");
/// assert!(!format!("{credentials:?}").contains("horse"));
/// let config = Config::new().credentials(credentials);
/// # let _ = config;
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) authorize_as: Option<String>,
}

impl Credentials {
    /// `user` is what the daemon knows the user by (SASL's authentication identity), such as `fred` or `fred@realm`.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Credentials {
            user: user.into(),
            password: password.into(),
            authorize_as: None,
        }
    }

    /// Acts as another user than the one who logs in (SASL's authorization identity), where the daemon allows it.
    pub fn authorize_as(mut self, user: impl Into<String>) -> Self {
        self.authorize_as = Some(user.into());
        self
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        &self.user
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("authorize_as", &self.authorize_as)
            .finish_non_exhaustive()
    }
}

/// What is known when a user's name and password are asked for: see
/// [`Config::ask_credentials`](crate::Config::ask_credentials).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CredentialsRequest {
    /// The host that the URI names, or `localhost` for a daemon on this machine; none over a stream of the user's own.
    pub host: Option<String>,
    /// The mechanism that they will be used with, such as `SCRAM-SHA-256`. `PLAIN` sends the password itself.
    pub mechanism: String,
}

type Answer = Pin<Box<dyn Future<Output = Option<Credentials>> + Send>>;

/// Where a user's name and password come from.
#[derive(Clone)]
pub(crate) enum CredentialsSource {
    Value(Credentials),
    Ask(Arc<dyn Fn(CredentialsRequest) -> Answer + Send + Sync>),
}

impl CredentialsSource {
    pub(crate) fn ask<F, A>(ask: F) -> Self
    where
        F: Fn(CredentialsRequest) -> A + Send + Sync + 'static,
        A: Future<Output = Option<Credentials>> + Send + 'static,
    {
        CredentialsSource::Ask(Arc::new(move |request| Box::pin(ask(request))))
    }
}

impl fmt::Debug for CredentialsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialsSource::Value(credentials) => credentials.fmt(f),
            CredentialsSource::Ask(_) => f.write_str("asked for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let credentials = Credentials::new("fred", "hunter2").authorize_as("alice");
        let source = CredentialsSource::Value(credentials.clone());
        let held = credentials.clone();
        let ask = CredentialsSource::ask(move |_| std::future::ready(Some(held.clone())));
        let shown = format!("{credentials:?} {credentials:#?} {source:?} {ask:?}");
        assert!(shown.contains("fred") && shown.contains("alice"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
