//! The start of a session, in the order that libvirt's own client keeps: authentication, keepalive, open, close callback.
//!
//! Nothing is sent before the reply to connect_open: a call right behind it may run first and fail. The authentication
//! list is always asked for, since that question is what lets root pass a daemon that wants polkit.

use bytestring::ByteString;

use super::Libvirt;
use crate::connection::{CallOptions, Deadline};
use crate::error::{Error, LibvirtError, Phase};
use crate::protocol::remote::procedure::{
    AuthList, AuthPolkit, ConnectOpen, ConnectRegisterCloseCallback, ConnectSupportsFeature,
};
use crate::protocol::remote::{AuthType, ConnectOpenArgs, ConnectSupportsFeatureArgs};
use crate::uri::Auth;

/// `VIR_DRV_FEATURE_PROGRAM_KEEPALIVE`. Asking for it starts the daemon's own pinging.
const FEATURE_KEEPALIVE: i32 = 10;
/// `VIR_DRV_FEATURE_REMOTE_CLOSE_CALLBACK`.
const FEATURE_CLOSE_CALLBACK: i32 = 15;
/// `VIR_CONNECT_RO`.
const OPEN_READONLY: u32 = 1;

impl Libvirt {
    pub(super) async fn start_session(
        &self,
        auth: Option<&Auth>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        check_uri(&self.config.uri)?;
        let options = |phase| self.options_until(phase, deadline);
        let client = &self.client;

        let offered = match client
            .call::<AuthList>(&(), options(Phase::Authentication))
            .await
        {
            Ok(reply) => reply.types,
            Err(error) if error.libvirt_code() == Some(LibvirtError::NO_SUPPORT) => Vec::new(),
            Err(error) => return Err(error),
        };
        check_wanted(auth, &offered)?;
        if offered.contains(&AuthType::POLKIT) {
            client
                .call::<AuthPolkit>(&(), options(Phase::Authentication))
                .await?;
        } else if !offered.is_empty() && !offered.contains(&AuthType::NONE) {
            return Err(Error::AuthUnsupported {
                offered: offered.into_iter().map(auth_name).collect(),
            });
        }

        if self.config.effective_keepalive().is_some()
            && self
                .supports(FEATURE_KEEPALIVE, options(Phase::Features))
                .await?
        {
            client.start_keepalive();
        }

        let mut flags = 0;
        if self.config.readonly {
            flags |= OPEN_READONLY;
        }
        let name = Some(ByteString::from(self.config.uri.as_str()));
        client
            .call::<ConnectOpen>(&ConnectOpenArgs { name, flags }, options(Phase::Open))
            .await?;

        if self
            .supports(FEATURE_CLOSE_CALLBACK, options(Phase::Features))
            .await?
        {
            client
                .call::<ConnectRegisterCloseCallback>(&(), options(Phase::Features))
                .await?;
        }
        Ok(())
    }

    async fn supports(&self, feature: i32, options: CallOptions<'_>) -> Result<bool, Error> {
        let args = ConnectSupportsFeatureArgs { feature };
        Ok(self
            .client
            .call::<ConnectSupportsFeature>(&args, options)
            .await?
            .supported
            != 0)
    }
}

/// Refuses a URI that names a transport or a host: the daemon would act as a client itself, and libvirtd 9.0 pointed at
/// itself so stops answering anybody.
fn check_uri(uri: &str) -> Result<(), Error> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Ok(());
    };
    if scheme.contains('+') || !rest.starts_with('/') {
        return Err(Error::Unsupported(format!(
            "URI {uri}: what is opened inside the daemon has neither transport nor host, as in qemu:///system"
        )));
    }
    Ok(())
}

/// Refuses what the URI does not ask for, where it asks for one way alone.
fn check_wanted(wanted: Option<&Auth>, offered: &[AuthType]) -> Result<(), Error> {
    let wanted = match wanted {
        None => return Ok(()),
        Some(Auth::Polkit) if offered.contains(&AuthType::POLKIT) => return Ok(()),
        Some(Auth::Polkit) => "polkit",
        Some(Auth::Sasl(_)) => "sasl",
    };
    let offered: Vec<String> = offered.iter().copied().map(auth_name).collect();
    Err(Error::Unsupported(format!(
        "authentication by {wanted} alone, as parameter `auth` asks; the daemon offers {}",
        offered.join(", ")
    )))
}

/// `sasl` for `REMOTE_AUTH_SASL`; the number where it has no name.
fn auth_name(auth: AuthType) -> String {
    match auth.name() {
        Some(name) => name.trim_start_matches("REMOTE_AUTH_").to_ascii_lowercase(),
        None => auth.0.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_never_asked_to_connect_elsewhere() {
        for uri in [
            "qemu:///system",
            "qemu:///session?foo=bar",
            "test:///default",
            "",
        ] {
            assert!(check_uri(uri).is_ok(), "{uri}");
        }
        for uri in [
            "qemu+tcp://127.0.0.1/system",
            "qemu+unix:///system",
            "qemu://host/system",
            "qemu://system",
        ] {
            let error = check_uri(uri).unwrap_err();
            assert!(
                error.is_unsupported() && error.to_string().contains(uri),
                "{error}"
            );
        }
    }

    #[test]
    fn offered_authentication_is_named() {
        assert_eq!(auth_name(AuthType::SASL), "sasl");
        assert_eq!(auth_name(AuthType(9)), "9");
    }

    #[test]
    fn the_only_authentication_wanted_must_be_offered() {
        let polkit = Some(&Auth::Polkit);
        check_wanted(None, &[AuthType::NONE]).unwrap();
        check_wanted(polkit, &[AuthType::POLKIT]).unwrap();
        let error = check_wanted(polkit, &[AuthType::NONE]).unwrap_err();
        assert!(error.is_unsupported(), "{error}");
        assert!(error.to_string().ends_with("offers none"), "{error}");
    }
}
