//! SASL's mechanism GSSAPI (RFC 4752) with Kerberos 5, by the C library libgssapi_krb5. Imports transport.
//!
//! Tickets are those of the user's credential cache, and nothing is delegated to the daemon: it could act as the user then.

use std::io;

use libgssapi::context::{ClientCtx, CtxFlags, SecurityContext};
use libgssapi::credential::{Cred, CredUsage};
use libgssapi::error::{Error as GssError, MajorFlags};
use libgssapi::name::Name;
use libgssapi::oid::{GSS_MECH_KRB5, GSS_NT_HOSTBASED_SERVICE, OidSet};

use crate::transport::{Cipher, Layer};

/// The service that libvirt's daemons are in Kerberos.
const SERVICE: &str = "libvirt";

/// The longest token that the daemon may send us.
const LONGEST_RECEIVED: u32 = 128 * 1024;

/// By how much a token is longer than what it holds, at most: headers, checksums and padding of every cipher of Kerberos 5 have less.
const OVERHEAD: usize = 256;

/// Security layers, as bits of what both sides offer.
const NO_LAYER: u8 = 1;
const CONFIDENTIALITY: u8 = 4;

/// The part of a status of GSS that says what failed.
const ROUTINE_ERROR: u32 = 0x00ff_0000;

/// What protects the bytes after the authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    /// The way itself: no layer.
    Way,
    /// A layer, or else nothing would.
    Layer,
    /// A layer, where the daemon has one.
    Any,
}

/// Whom this side talks to, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) host: String,
    pub(super) protection: Protection,
    /// The user to act as; none for the one whom the ticket names.
    pub(super) authorize_as: Option<String>,
}

/// Why an exchange cannot go on.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// Whether that is our ticket, and not what the daemon said.
    pub(super) is_of_ticket: bool,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Failure {
            reason,
            is_of_ticket: false,
        }
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl From<GssError> for Failure {
    fn from(error: GssError) -> Self {
        let of_ticket = [
            MajorFlags::GSS_S_NO_CRED,
            MajorFlags::GSS_S_CREDENTIALS_EXPIRED,
            MajorFlags::GSS_S_CONTEXT_EXPIRED,
        ];
        // They are numbers in a part of the word, not flags.
        let number = error.major.bits() & ROUTINE_ERROR;
        Failure {
            is_of_ticket: of_ticket.iter().any(|known| known.bits() == number),
            reason: reason(error),
        }
    }
}

/// One exchange, this side of it. Its steps block: they ask Kerberos' servers for tickets.
pub(super) struct Gssapi {
    peer: Peer,
    state: State,
    /// Whom the ticket names, once both sides know each other.
    user: Option<String>,
}

enum State {
    Start,
    /// Both sides come to know each other.
    Context(ClientCtx),
    /// They do; the daemon says next which layers it has.
    Choice(ClientCtx),
    /// All is said, and the layer is there for who wants it.
    Done(Option<Layer>),
    Failed,
}

impl Gssapi {
    pub(super) fn new(peer: Peer) -> Self {
        Gssapi {
            peer,
            state: State::Start,
            user: None,
        }
    }

    pub(super) fn user(&self) -> Option<String> {
        self.user.clone()
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done(_))
    }

    /// What was agreed on, once; none where it is that there is no layer, or before the end.
    pub(super) fn layer(&mut self) -> Option<Layer> {
        match &mut self.state {
            State::Done(layer) => layer.take(),
            _ => None,
        }
    }

    /// Takes what the daemon said, and gives the answer, which may be an empty one.
    ///
    /// # Errors
    ///
    /// The exchange is over then.
    pub(super) fn step(&mut self, input: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
        match (std::mem::replace(&mut self.state, State::Failed), input) {
            (State::Start, _) => self.advance(self.context()?, None),
            (State::Context(context), Some(token)) => self.advance(context, Some(token)),
            (State::Choice(context), Some(token)) => self.choose(context, token),
            (State::Context(_) | State::Choice(_), None) => {
                Err("a message of its is missing".into())
            }
            (State::Done(_) | State::Failed, _) => Err("it goes on after the end".into()),
        }
    }

    /// A context that is to be one with the daemon, by the user's ticket.
    fn context(&self) -> Result<ClientCtx, Failure> {
        let name = format!("{SERVICE}@{}", self.peer.host);
        let target = Name::new(name.as_bytes(), Some(GSS_NT_HOSTBASED_SERVICE))?;
        let mut kerberos = OidSet::new();
        kerberos.add(GSS_MECH_KRB5)?;
        let credentials = Cred::acquire(None, None, CredUsage::Initiate, Some(&kerberos))?;
        let (flags, mechanism) = (wanted_flags(), Some(GSS_MECH_KRB5));
        Ok(ClientCtx::new(Some(credentials), target, flags, mechanism))
    }

    fn advance(
        &mut self,
        mut context: ClientCtx,
        token: Option<&[u8]>,
    ) -> Result<Vec<u8>, Failure> {
        let answer = context.step(token, None)?;
        // libgssapi has nothing where an empty message is meant.
        let answer = answer.map_or_else(Vec::new, |answer| answer.to_vec());
        if context.is_complete() {
            self.user = context.source_name().ok().map(|name| name.to_string());
        }
        self.state = match context.is_complete() {
            true if !context.flags()?.contains(wanted_flags()) => {
                return Err("it has not what protects a connection".into());
            }
            true => State::Choice(context),
            false => State::Context(context),
        };
        Ok(answer)
    }

    /// The daemon has said which layers it has and how much it takes at once: says which one it is, and for whom.
    fn choose(&mut self, mut context: ClientCtx, token: &[u8]) -> Result<Vec<u8>, Failure> {
        let offer = context.unwrap(token)?;
        let Ok(offer) = <[u8; 4]>::try_from(&*offer) else {
            return Err(format!("an offer of {} bytes", offer.len()).into());
        };
        let chosen = chosen(offer, self.peer.protection)?;
        let mut answer = match chosen {
            Some(_) => LONGEST_RECEIVED.to_be_bytes(),
            None => [0; 4],
        };
        answer[0] = chosen.map_or(NO_LAYER, |_| CONFIDENTIALITY);
        let mut answer = answer.to_vec();
        answer.extend_from_slice(self.peer.authorize_as.as_deref().unwrap_or("").as_bytes());
        let answer = context.wrap(false, &answer)?.to_vec();
        let longest_received = usize::try_from(LONGEST_RECEIVED).unwrap_or(usize::MAX);
        self.state = State::Done(chosen.map(|longest_sent| Layer {
            cipher: Box::new(Wrapping(context)),
            longest_sent,
            // Some count what a token holds, and not the token.
            longest_received: longest_received.saturating_add(OVERHEAD),
            overhead: OVERHEAD,
        }));
        Ok(answer)
    }
}

/// What a context has to do: prove both sides to each other, and encrypt in a way that shows what is lost, repeated or moved.
fn wanted_flags() -> CtxFlags {
    CtxFlags::GSS_C_MUTUAL_FLAG
        | CtxFlags::GSS_C_REPLAY_FLAG
        | CtxFlags::GSS_C_SEQUENCE_FLAG
        | CtxFlags::GSS_C_CONF_FLAG
        | CtxFlags::GSS_C_INTEG_FLAG
}

/// The longest token that may be sent in the layer to use of those `offer` has; none for no layer.
fn chosen(offer: [u8; 4], protection: Protection) -> Result<Option<usize>, String> {
    let [layers, longest @ ..] = offer;
    let has = |layer: u8| layers & layer != 0;
    let encrypts = match protection {
        Protection::Way => false,
        Protection::Layer => true,
        Protection::Any => has(CONFIDENTIALITY),
    };
    if !encrypts {
        return match has(NO_LAYER) {
            true => Ok(None),
            false => Err("it wants a security layer where the way itself is safe".to_owned()),
        };
    }
    if !has(CONFIDENTIALITY) {
        return Err("it would not encrypt what follows".to_owned());
    }
    let [high, middle, low] = longest;
    let longest = u32::from_be_bytes([0, high, middle, low]);
    match usize::try_from(longest) {
        Ok(longest) if longest > OVERHEAD => Ok(Some(longest)),
        _ => Err(format!("it takes only {longest} bytes at once")),
    }
}

/// What Kerberos says of an error, or else GSS, which says it in general.
fn reason(error: GssError) -> String {
    let text = error.to_string();
    let of_kerberos = text.split_once(" (").filter(|_| error.minor != 0);
    match of_kerberos {
        // It has nothing to add.
        Some((general, "Success)" | "Unknown error)")) => general.to_owned(),
        Some((_, detail)) => detail.strip_suffix(')').unwrap_or(detail).to_owned(),
        None => text,
    }
}

/// A context both sides have agreed on.
struct Wrapping(ClientCtx);

impl Cipher for Wrapping {
    fn wrap(&mut self, plain: &[u8], token: &mut Vec<u8>) -> io::Result<()> {
        let wrapped = self.0.wrap(true, plain).map_err(in_layer)?;
        token.extend_from_slice(&wrapped);
        Ok(())
    }

    fn unwrap(&mut self, token: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        let unwrapped = self.0.unwrap(token).map_err(in_layer)?;
        plain.extend_from_slice(&unwrapped);
        Ok(())
    }
}

fn in_layer(error: GssError) -> io::Error {
    let reason = format!("the security layer of GSSAPI: {}", reason(error));
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_the_one_that_the_way_needs() {
        let full = |layers| [layers, 0x01, 0x86, 0xa0];
        for (layers, protection, expected) in [
            (7, Protection::Way, Ok(None)),
            (7, Protection::Layer, Ok(Some(100_000))),
            (7, Protection::Any, Ok(Some(100_000))),
            (4, Protection::Layer, Ok(Some(100_000))),
            (4, Protection::Any, Ok(Some(100_000))),
            (1, Protection::Way, Ok(None)),
            (1, Protection::Any, Ok(None)),
            (3, Protection::Any, Ok(None)),
            (1, Protection::Layer, Err("would not encrypt")),
            (3, Protection::Layer, Err("would not encrypt")),
            (6, Protection::Way, Err("wants a security layer")),
            (2, Protection::Any, Err("wants a security layer")),
            (0, Protection::Any, Err("wants a security layer")),
        ] {
            match (chosen(full(layers), protection), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{layers} {protection:?}"),
                (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{reason}"),
                (found, _) => panic!("{layers} {protection:?}: {found:?}"),
            }
        }
        assert!(chosen([4, 0, 1, 0], Protection::Layer).is_err());
        assert_eq!(chosen([4, 0, 1, 1], Protection::Layer), Ok(Some(257)));
        assert_eq!(
            chosen([4, 255, 255, 255], Protection::Layer),
            Ok(Some(0xff_ffff))
        );
    }
}
