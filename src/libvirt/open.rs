//! The start of a session, in the order that libvirt's own client keeps: authentication, keepalive, open, close callback.
//!
//! Nothing is sent before the reply to connect_open: a call right behind it may run first and fail. The authentication
//! list is always asked for, since that question is what lets root pass a daemon that wants polkit.

use super::Libvirt;
use crate::connection::{CallOptions, Steps};
use crate::error::{Error, LibvirtError, Phase};
use crate::protocol::constants::DrvFeature;
use crate::protocol::remote::procedure::{
    AuthList, AuthPolkit, ConnectOpen, ConnectRegisterCloseCallback, ConnectSupportsFeature,
};
use crate::protocol::remote::{AuthType, ConnectOpenArgs, ConnectSupportsFeatureArgs};
use crate::uri::{Auth, Transport, Uri};

/// `VIR_CONNECT_RO`.
const OPEN_READONLY: u32 = 1;

impl Libvirt {
    /// Does its steps, and gives what is left for the next ones.
    pub(super) async fn start_session(
        &self,
        from: Option<&Uri>,
        mut steps: Steps,
    ) -> Result<Steps, Error> {
        check_uri(&self.config.uri)?;
        let client = &self.client;
        let timeouts = &self.config.timeouts;

        // A program that leads to the daemon has not done so before the daemon answers.
        let (first, own) = match from.map(|uri| uri.transport) {
            Some(Transport::Ssh | Transport::Ext) => (Phase::Dial, timeouts.dial),
            _ => (Phase::Authentication, timeouts.auth),
        };
        let mut deadline = steps.next(own);
        let offered = match client
            .call::<AuthList>(&(), self.options_until(first, deadline))
            .await
        {
            Ok(reply) => reply.types,
            Err(error) if error.libvirt_code() == Some(LibvirtError::NO_SUPPORT) => Vec::new(),
            Err(error) => return Err(error),
        };
        if first == Phase::Dial {
            deadline = steps.next(timeouts.auth);
        }
        match way_in(from.and_then(|uri| uri.parameters.auth.as_ref()), &offered)? {
            WayIn::Open => {}
            WayIn::Polkit => {
                client
                    .call::<AuthPolkit>(&(), self.options_until(Phase::Authentication, deadline))
                    .await?;
            }
            #[cfg(feature = "sasl")]
            WayIn::Sasl => {
                Box::pin(super::sasl::authenticate(
                    client,
                    &self.config,
                    from,
                    deadline,
                ))
                .await?;
            }
        }

        let deadline = steps.next(timeouts.open);
        let options = |phase| self.options_until(phase, deadline);
        // Asking for it starts the daemon's own pinging.
        if self.config.effective_keepalive().is_some()
            && self
                .supports(DrvFeature::PROGRAM_KEEPALIVE, options(Phase::Features))
                .await?
        {
            client.start_keepalive();
        }

        let mut flags = 0;
        if self.config.readonly {
            flags |= OPEN_READONLY;
        }
        let name = Some(self.config.uri.clone());
        client
            .call::<ConnectOpen>(&ConnectOpenArgs { name, flags }, options(Phase::Open))
            .await?;

        if self
            .supports(DrvFeature::REMOTE_CLOSE_CALLBACK, options(Phase::Features))
            .await?
        {
            client
                .call::<ConnectRegisterCloseCallback>(&(), options(Phase::Features))
                .await?;
        }
        Ok(steps)
    }

    pub(super) async fn supports(
        &self,
        feature: DrvFeature,
        options: CallOptions<'_>,
    ) -> Result<bool, Error> {
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

/// How to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayIn {
    /// Not at all.
    Open,
    Polkit,
    #[cfg(feature = "sasl")]
    Sasl,
}

/// The way in, of those that the daemon offers: the one that the URI asks for, where it asks for one.
fn way_in(wanted: Option<&Auth>, offered: &[AuthType]) -> Result<WayIn, Error> {
    let has = |auth| offered.contains(&auth);
    let names = || -> Vec<String> { offered.iter().copied().map(auth_name).collect() };
    let wanted = match wanted {
        Some(Auth::Polkit) if has(AuthType::POLKIT) => return Ok(WayIn::Polkit),
        Some(Auth::Polkit) => "polkit",
        Some(Auth::Sasl(_)) if has(AuthType::SASL) => return by_sasl(names()),
        Some(Auth::Sasl(_)) => "sasl",
        None if has(AuthType::POLKIT) => return Ok(WayIn::Polkit),
        None if offered.is_empty() || has(AuthType::NONE) => return Ok(WayIn::Open),
        None if has(AuthType::SASL) => return by_sasl(names()),
        None => return Err(Error::AuthUnsupported { offered: names() }),
    };
    Err(Error::Unsupported(format!(
        "authentication by {wanted} alone, as parameter `auth` asks; the daemon offers {}",
        names().join(", ")
    )))
}

#[cfg(feature = "sasl")]
fn by_sasl(_: Vec<String>) -> Result<WayIn, Error> {
    Ok(WayIn::Sasl)
}

#[cfg(not(feature = "sasl"))]
fn by_sasl(offered: Vec<String>) -> Result<WayIn, Error> {
    Err(Error::AuthUnsupported { offered })
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
        let (polkit, sasl) = (Auth::Polkit, Auth::Sasl(None));
        let open = way_in(None, &[AuthType::NONE]).unwrap();
        assert_eq!(open, WayIn::Open);
        let by_polkit = way_in(Some(&polkit), &[AuthType::SASL, AuthType::POLKIT]).unwrap();
        assert_eq!(by_polkit, WayIn::Polkit);
        for (wanted, offered) in [
            (&polkit, &[AuthType::NONE][..]),
            (&sasl, &[AuthType::NONE]),
            (&sasl, &[AuthType::POLKIT, AuthType::NONE]),
        ] {
            let error = way_in(Some(wanted), offered).unwrap_err();
            assert!(error.is_unsupported(), "{error}");
            assert!(error.to_string().ends_with("none"), "{error}");
        }
    }

    #[test]
    #[cfg(feature = "sasl")]
    fn sasl_is_used_where_it_is_asked_for_or_alone() {
        let sasl = Auth::Sasl(None);
        let both = [AuthType::POLKIT, AuthType::SASL];
        assert_eq!(way_in(Some(&sasl), &both).unwrap(), WayIn::Sasl);
        assert_eq!(way_in(None, &both).unwrap(), WayIn::Polkit);
        assert_eq!(way_in(None, &[AuthType::SASL]).unwrap(), WayIn::Sasl);
    }
}
