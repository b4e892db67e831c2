//! The mechanisms of SASL: which one to use, and what each says. Imports gssapi, credentials and error.
//!
//! The crate rsasl does the cryptography of all but GSSAPI: its own would delegate the user's ticket to the daemon, and forgets
//! how much the daemon takes at once. What the daemon sends is checked before it gets there: rsasl 2.3 panics on a SCRAM message
//! that is cut short, and derives a key in as many rounds as the daemon likes.

use std::sync::Arc;

use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::mechanisms::anonymous::AnonymousToken;
use rsasl::prelude::{Mechname, MessageSent, SASLClient, SASLConfig, Session, SessionError, State};
use rsasl::property::{AuthId, AuthzId, Password};

#[cfg(feature = "gssapi")]
use super::gssapi::{Gssapi, Peer};
use crate::credentials::Credentials;
use crate::error::AuthFailure;
#[cfg(feature = "gssapi")]
use crate::transport::Layer;

/// Rounds of SCRAM's key derivation, which take about a second. Servers ask for thousands.
const MOST_ROUNDS: u32 = 1_000_000;

/// What ANONYMOUS says of us, which the daemon may log. Not nothing: libvirtd takes an empty message for none, and waits on.
const TRACE: &str = "libvirt-qmp";

/// A way to authenticate, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    ScramSha256,
    ScramSha1,
    Plain,
    #[cfg(feature = "gssapi")]
    Gssapi,
    External,
    Anonymous,
}

/// What the choice depends on, besides what the daemon offers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes<'a> {
    /// The mechanism that the URI asks for.
    pub(super) wanted: Option<&'a str>,
    /// Whether the password itself may be sent.
    pub(super) plain: bool,
    /// Whether the way is plain TCP.
    pub(super) tcp: bool,
}

impl Mechanism {
    const ALL: &[Mechanism] = &[
        Mechanism::ScramSha256,
        Mechanism::ScramSha1,
        Mechanism::Plain,
        #[cfg(feature = "gssapi")]
        Mechanism::Gssapi,
        Mechanism::External,
        Mechanism::Anonymous,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::Plain => "PLAIN",
            #[cfg(feature = "gssapi")]
            Mechanism::Gssapi => "GSSAPI",
            Mechanism::External => "EXTERNAL",
            Mechanism::Anonymous => "ANONYMOUS",
        }
    }

    pub(super) fn needs_password(self) -> bool {
        matches!(
            self,
            Mechanism::ScramSha256 | Mechanism::ScramSha1 | Mechanism::Plain
        )
    }

    /// Whether it is one in which the daemon proves that it knows the password too.
    fn is_scram(self) -> bool {
        matches!(self, Mechanism::ScramSha256 | Mechanism::ScramSha1)
    }
}

/// The mechanisms to use of those `offered`, best first; one or more.
pub(super) fn usable(
    offered: &[String],
    wishes: Wishes<'_>,
) -> Result<Vec<Mechanism>, AuthFailure> {
    let is_offered = |name: &str| offered.iter().any(|offer| offer.eq_ignore_ascii_case(name));
    let none = |reason: &str| AuthFailure::NoMechanism {
        offered: offered.to_vec(),
        reason: reason.to_owned(),
    };
    let in_clear = || AuthFailure::PlainInClear {
        offered: offered.to_vec(),
    };
    if let Some(wanted) = wishes.wanted {
        let known = Mechanism::ALL
            .iter()
            .copied()
            .find(|known| known.name() == wanted);
        return match known {
            None => Err(none(&format!(
                "{wanted}, which is asked for, is not supported here{}",
                if wanted == "GSSAPI" {
                    WITHOUT_GSSAPI
                } else {
                    ""
                }
            ))),
            Some(_) if !is_offered(wanted) => Err(AuthFailure::NotOffered {
                wanted: wanted.to_owned(),
                offered: offered.to_vec(),
            }),
            Some(Mechanism::Plain) if !wishes.plain => Err(in_clear()),
            Some(known) => Ok(vec![known]),
        };
    }
    let offers = |known: &Mechanism| is_offered(known.name());
    let mut found: Vec<_> = Mechanism::ALL.iter().copied().filter(offers).collect();
    let plain = found.contains(&Mechanism::Plain);
    found.retain(|known| match known {
        Mechanism::Plain => wishes.plain,
        Mechanism::Anonymous => false,
        _ => true,
    });
    match found.is_empty() {
        false => Ok(found),
        true if plain => Err(in_clear()),
        true if is_offered("ANONYMOUS") => Err(none(
            "ANONYMOUS is used only where the URI asks for it: auth=sasl.ANONYMOUS",
        )),
        true if wishes.tcp => Err(none(OVER_TCP)),
        true => {
            let known: Vec<_> = Mechanism::ALL.iter().map(|known| known.name()).collect();
            let unbuilt = if is_offered("GSSAPI") {
                WITHOUT_GSSAPI
            } else {
                ""
            };
            Err(none(&format!(
                "supported are {}{unbuilt}",
                known.join(", ")
            )))
        }
    }
}

/// What helps a daemon that offers GSSAPI.
const WITHOUT_GSSAPI: &str = " (GSSAPI needs the feature `gssapi` of this crate)";

/// libvirtd demands of a mechanism over TCP that it encrypts the connection (an SSF of 56 or more).
pub(super) const OVER_TCP: &str = if cfg!(feature = "gssapi") {
    "over plain TCP libvirtd allows only mechanisms that encrypt what follows, and of those only GSSAPI is supported here: let the \
     daemon offer that, or use TLS, ssh or a unix socket"
} else {
    "over plain TCP libvirtd allows only mechanisms that encrypt what follows, such as DIGEST-MD5 and GSSAPI, and none of those is \
     supported here (GSSAPI needs the feature `gssapi` of this crate): use TLS, ssh or a unix socket"
};

/// One exchange, this side of it.
pub(super) struct Exchange {
    mechanism: Mechanism,
    side: Side,
    /// Whether our first message was made.
    begun: bool,
    /// Messages of the daemon so far.
    heard: usize,
    done: bool,
    user: Option<String>,
}

/// Who computes what this side says.
enum Side {
    Rsasl(Session),
    #[cfg(feature = "gssapi")]
    Gssapi(Gssapi),
}

impl Exchange {
    /// One by any mechanism but GSSAPI.
    pub(super) fn new(
        mechanism: Mechanism,
        credentials: Option<Credentials>,
    ) -> Result<Self, AuthFailure> {
        let broken = |reason: String| exchange_failure(mechanism, reason);
        let user = credentials.as_ref().map(|found| found.user.clone());
        let config = SASLConfig::builder()
            .with_defaults()
            .with_callback(Answers(credentials))
            .map_err(|error| broken(error.to_string()))?;
        let name = Mechname::parse(mechanism.name().as_bytes())
            .map_err(|error| broken(error.to_string()))?;
        let session = SASLClient::new(Arc::clone(&config))
            .start_suggested(&[name])
            .map_err(|error| broken(error.to_string()))?;
        Ok(Exchange::of(mechanism, Side::Rsasl(session), user))
    }

    /// One by GSSAPI.
    #[cfg(feature = "gssapi")]
    pub(super) fn gssapi(peer: Peer) -> Self {
        let side = Side::Gssapi(Gssapi::new(peer));
        Exchange::of(Mechanism::Gssapi, side, None)
    }

    fn of(mechanism: Mechanism, side: Side, user: Option<String>) -> Self {
        Exchange {
            mechanism,
            side,
            begun: false,
            heard: 0,
            done: false,
            user,
        }
    }

    /// Who wants to log in, as far as that is known yet.
    pub(super) fn user(&self) -> Option<String> {
        match &self.side {
            Side::Rsasl(_) => self.user.clone(),
            #[cfg(feature = "gssapi")]
            Side::Gssapi(gssapi) => gssapi.user(),
        }
    }

    pub(super) fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// The security layer that was agreed on, once; where there is one, it protects all after the daemon's last word.
    #[cfg(feature = "gssapi")]
    pub(super) fn layer(&mut self) -> Option<Layer> {
        match &mut self.side {
            Side::Gssapi(gssapi) => gssapi.layer(),
            Side::Rsasl(_) => None,
        }
    }

    /// Whether nothing more is to be said or heard. With SCRAM and GSSAPI the daemon has then proved who it is.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Takes what the daemon said, where it said something, and gives the answer to it: none is not the same as an empty one.
    /// After an error the exchange is over. Computes for up to a second or so; with GSSAPI it may wait for servers.
    pub(super) fn step(&mut self, input: Option<&[u8]>) -> Result<Option<Vec<u8>>, AuthFailure> {
        if let Some(input) = input {
            self.check(input)?;
            self.heard += 1;
        } else if self.mechanism.is_scram() && self.begun {
            return Err(self.broken("a message of its is missing"));
        }
        match &mut self.side {
            Side::Rsasl(session) => {
                let mut output = Vec::new();
                let state = session.step(input, &mut output);
                let state = state.map_err(|error| self.explain(&error))?;
                self.begun = true;
                self.done = state.is_finished();
                let says = !matches!(state, State::Finished(MessageSent::No));
                Ok(says.then_some(output))
            }
            #[cfg(feature = "gssapi")]
            Side::Gssapi(gssapi) => {
                let answer = gssapi.step(input);
                self.done = gssapi.is_done();
                let answer = answer.map_err(|failure| match self.begun {
                    true if !failure.is_of_ticket => self.broken(&failure.reason),
                    _ => self.unusable(failure.reason),
                })?;
                self.begun = true;
                Ok(Some(answer))
            }
        }
    }

    /// Refuses what rsasl would not survive, or would compute for too long.
    fn check(&self, input: &[u8]) -> Result<(), AuthFailure> {
        match self.side {
            #[cfg(feature = "gssapi")]
            Side::Gssapi(_) => return Ok(()),
            Side::Rsasl(_) if !self.mechanism.is_scram() => {
                return Err(self.broken("it has nothing to say in this mechanism"));
            }
            Side::Rsasl(_) => {}
        }
        let mut parts = input.split(|byte| *byte == b',');
        let mut part = |name: &[u8]| parts.next()?.strip_prefix(name);
        if self.heard > 0 {
            return match part(b"v=").or_else(|| input.strip_prefix(b"e=")) {
                Some(_) => Ok(()),
                None => Err(self.broken("its last message is no SCRAM")),
            };
        }
        let (Some(_), Some(_), Some(rounds)) = (part(b"r="), part(b"s="), part(b"i=")) else {
            return Err(self.broken("its first message is no SCRAM"));
        };
        let rounds = std::str::from_utf8(rounds).ok();
        match rounds.and_then(|rounds| rounds.parse::<u32>().ok()) {
            Some(1..=MOST_ROUNDS) => Ok(()),
            _ => Err(self.broken("it wants a key derived in no or too many rounds")),
        }
    }

    fn explain(&self, error: &SessionError) -> AuthFailure {
        match error {
            SessionError::MutualAuthenticationFailed => {
                self.broken("its proof that it knows the user is wrong")
            }
            SessionError::MechanismError(inner) if self.begun => self.broken(&inner.to_string()),
            // What we say first depends on us alone.
            error if !self.begun => self.unusable(error.to_string()),
            error => self.broken(&error.to_string()),
        }
    }

    fn unusable(&self, reason: String) -> AuthFailure {
        AuthFailure::Credentials {
            mechanism: self.mechanism.name().to_owned(),
            reason,
        }
    }

    pub(super) fn broken(&self, reason: &str) -> AuthFailure {
        exchange_failure(self.mechanism, reason.to_owned())
    }
}

fn exchange_failure(mechanism: Mechanism, reason: String) -> AuthFailure {
    AuthFailure::Exchange {
        mechanism: mechanism.name().to_owned(),
        reason,
    }
}

/// Answers what a mechanism asks about the user.
struct Answers(Option<Credentials>);

impl SessionCallback for Answers {
    fn callback(
        &self,
        _: &SessionData,
        _: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        let Some(credentials) = &self.0 else {
            request.satisfy::<AnonymousToken>(TRACE)?;
            return Ok(());
        };
        if let Some(other) = &credentials.authorize_as {
            request.satisfy::<AuthzId>(other)?;
        }
        request
            .satisfy::<AuthId>(&credentials.user)?
            .satisfy::<Password>(credentials.password.as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FREE: Wishes<'static> = Wishes {
        wanted: None,
        plain: true,
        tcp: false,
    };

    fn names(list: &str) -> Vec<String> {
        list.split_whitespace().map(str::to_owned).collect()
    }

    fn chosen(offered: &str, wishes: Wishes<'_>) -> String {
        match usable(&names(offered), wishes) {
            Ok(found) => found
                .iter()
                .map(|found| found.name())
                .collect::<Vec<_>>()
                .join(" "),
            Err(failure) => panic!("{offered}: {failure}"),
        }
    }

    fn refused(offered: &str, wishes: Wishes<'_>) -> AuthFailure {
        usable(&names(offered), wishes).unwrap_err()
    }

    #[test]
    fn the_best_comes_first_and_what_gives_the_password_away_or_needs_none_is_asked_for() {
        let all = "ANONYMOUS EXTERNAL NTLM PLAIN SCRAM-SHA-1 SCRAM-SHA-256 SCRAM-SHA-256-PLUS";
        assert_eq!(
            chosen(all, FREE),
            "SCRAM-SHA-256 SCRAM-SHA-1 PLAIN EXTERNAL"
        );
        let guarded = Wishes {
            plain: false,
            ..FREE
        };
        assert_eq!(chosen(all, guarded), "SCRAM-SHA-256 SCRAM-SHA-1 EXTERNAL");
        assert_eq!(chosen("plain", FREE), "PLAIN");
        for name in [
            "SCRAM-SHA-256",
            "SCRAM-SHA-1",
            "PLAIN",
            "EXTERNAL",
            "ANONYMOUS",
        ] {
            let wishes = Wishes {
                wanted: Some(name),
                ..FREE
            };
            assert_eq!(chosen(all, wishes), name);
            let failure = refused("NTLM", wishes);
            assert!(
                matches!(&failure, AuthFailure::NotOffered { wanted, offered } if wanted == name && offered == &["NTLM"])
            );
        }
    }

    #[test]
    fn why_none_fits() {
        let guarded = Wishes {
            plain: false,
            ..FREE
        };
        for wishes in [
            guarded,
            Wishes {
                wanted: Some("PLAIN"),
                ..guarded
            },
        ] {
            let failure = refused("PLAIN DIGEST-MD5", wishes);
            assert!(
                matches!(failure, AuthFailure::PlainInClear { .. }),
                "{failure}"
            );
        }
        for (offered, wishes, expected) in [
            (
                "DIGEST-MD5",
                Wishes {
                    tcp: true,
                    ..guarded
                },
                "use TLS, ssh or a unix socket",
            ),
            (
                "DIGEST-MD5 NTLM",
                FREE,
                "the daemon offers DIGEST-MD5, NTLM; supported are SCRAM-SHA-256, ",
            ),
            ("", FREE, "the daemon offers no mechanism; supported"),
            ("ANONYMOUS", FREE, "auth=sasl.ANONYMOUS"),
            (
                "NTLM",
                Wishes {
                    wanted: Some("NTLM"),
                    ..FREE
                },
                "NTLM, which is asked for",
            ),
        ] {
            let failure = refused(offered, wishes);
            assert!(
                matches!(failure, AuthFailure::NoMechanism { .. }),
                "{failure:?}"
            );
            assert!(failure.to_string().contains(expected), "{failure}");
        }
    }

    #[test]
    #[cfg(not(feature = "gssapi"))]
    fn what_gssapi_needs_is_told() {
        let asked = Wishes {
            wanted: Some("GSSAPI"),
            ..FREE
        };
        let tcp = Wishes { tcp: true, ..FREE };
        for wishes in [asked, tcp, FREE] {
            let failure = refused("GSSAPI", wishes);
            assert!(
                matches!(failure, AuthFailure::NoMechanism { .. }),
                "{failure:?}"
            );
            let text = failure.to_string();
            assert!(text.contains("needs the feature `gssapi`"), "{text}");
        }
    }

    #[test]
    #[cfg(feature = "gssapi")]
    fn gssapi_comes_after_passwords_and_is_taken_over_tcp() {
        let asked = Wishes {
            wanted: Some("GSSAPI"),
            ..FREE
        };
        let tcp = Wishes {
            tcp: true,
            plain: false,
            wanted: None,
        };
        for (offered, wishes, expected) in [
            (
                "EXTERNAL GSSAPI SCRAM-SHA-256",
                FREE,
                "SCRAM-SHA-256 GSSAPI EXTERNAL",
            ),
            ("DIGEST-MD5 GSSAPI PLAIN", tcp, "GSSAPI"),
            ("GSSAPI SCRAM-SHA-256", asked, "GSSAPI"),
        ] {
            assert_eq!(chosen(offered, wishes), expected);
        }
        assert!(!Mechanism::Gssapi.needs_password());
    }

    fn exchange(mechanism: Mechanism) -> Exchange {
        let credentials = mechanism.needs_password();
        let credentials = credentials.then(|| Credentials::new("fred", "hunter2"));
        Exchange::new(mechanism, credentials).unwrap()
    }

    #[test]
    fn what_is_said_first() {
        // RFC 4616, RFC 4422 appendix A, RFC 4505.
        for (mechanism, expected) in [
            (Mechanism::Plain, &b"\0fred\0hunter2"[..]),
            (Mechanism::External, b""),
            (Mechanism::Anonymous, b"libvirt-qmp"),
        ] {
            let mut exchange = exchange(mechanism);
            assert_eq!(exchange.step(None).unwrap().as_deref(), Some(expected));
            assert!(exchange.is_done());
        }
        let other = Credentials::new("fred", "hunter2").authorize_as("alice");
        let mut plain = Exchange::new(Mechanism::Plain, Some(other)).unwrap();
        assert_eq!(plain.step(None).unwrap().unwrap(), b"alice\0fred\0hunter2");
        // RFC 5802: neither channel binding nor another user.
        let first = exchange(Mechanism::ScramSha1).step(None).unwrap().unwrap();
        assert!(first.starts_with(b"n,,n=fred,r=") && first.len() > 28);
    }

    #[test]
    fn credentials_that_cannot_be_used() {
        for (mechanism, user, password) in [
            (Mechanism::Plain, "fred", ""),
            (Mechanism::Plain, "", "x"),
            (Mechanism::Plain, "fr\0ed", "x"),
            (Mechanism::Plain, "fred", "hunter2\0"),
            (Mechanism::ScramSha256, "", "x"),
            (Mechanism::ScramSha256, "fr\0ed", "x"),
        ] {
            let credentials = Some(Credentials::new(user, password));
            let mut exchange = Exchange::new(mechanism, credentials).unwrap();
            let failure = exchange.step(None).unwrap_err();
            assert!(
                matches!(failure, AuthFailure::Credentials { .. }),
                "{failure:?}"
            );
            assert!(
                !format!("{failure} {failure:?}").contains("hunter2"),
                "{failure:?}"
            );
        }
    }

    /// What the daemon may answer first to an exchange that has just begun.
    fn answered(
        answer: impl Fn(&str) -> Vec<u8>,
    ) -> (Exchange, Result<Option<Vec<u8>>, AuthFailure>) {
        let mut exchange = exchange(Mechanism::ScramSha256);
        let first = exchange.step(None).unwrap().unwrap();
        let first = String::from_utf8(first).unwrap();
        let nonce = first.split_once("r=").unwrap().1;
        let result = exchange.step(Some(&answer(nonce)));
        (exchange, result)
    }

    #[test]
    fn a_first_message_that_is_no_scram_is_refused() {
        for answer in [
            "",
            "r",
            "r=",
            "r=NONCEx",
            "r=NONCEx,",
            "r=NONCEx,s",
            "r=NONCEx,s=,i",
            "r=NONCEx,s=QQ==",
            "m=x,r=NONCEx,s=QQ==,i=1",
            "r=NONCE,s=QQ==,i=1",
            "r=other,s=QQ==,i=1",
            "r=NONCEx,s=Q,i=1",
            "r=NONCEx,s=QQ==,i=",
            "r=NONCEx,s=QQ==,i=0",
            "r=NONCEx,s=QQ==,i=-1",
            "r=NONCEx,s=QQ==,i=4294967295",
            "r=NONCEx,s=QQ==,i=1000001",
            "e=unknown-user",
            "\u{fffd}",
        ] {
            let (_, result) = answered(|nonce| answer.replace("NONCE", nonce).into_bytes());
            let failure = result.unwrap_err();
            assert!(
                matches!(failure, AuthFailure::Exchange { .. }),
                "{answer}: {failure:?}"
            );
        }
    }

    #[test]
    fn the_daemon_must_prove_that_it_knows_the_user() {
        let good = |nonce: &str| format!("r={nonce}x,s=QQ==,i=1").into_bytes();
        for last in [
            None,
            Some(&b""[..]),
            Some(b"v"),
            Some(b"v="),
            Some(b"v=QQ=="),
            Some(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="),
            Some(b"e=invalid-proof"),
            Some(b"x=1"),
        ] {
            let (mut exchange, result) = answered(good);
            assert!(
                result
                    .unwrap()
                    .is_some_and(|proof| proof.starts_with(b"c=biws,r="))
            );
            assert!(!exchange.is_done());
            let failure = exchange.step(last).unwrap_err();
            assert!(
                matches!(failure, AuthFailure::Exchange { .. }),
                "{failure:?}"
            );
            assert!(!exchange.is_done());
        }
    }

    proptest! {
        #[test]
        fn nothing_a_daemon_says_panics(first in "(r=NONCE)?[rsievm=,0-9a-zA-Z/+]{0,40}", last: Vec<u8>) {
            let (mut exchange, result) = answered(|nonce| {
                first.replace("NONCE", nonce).replace("i=", "i=1,").into_bytes()
            });
            if result.is_ok() {
                prop_assert!(exchange.step(Some(&last)).is_err());
            }
        }
    }
}
