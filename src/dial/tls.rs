//! TLS as libvirt speaks it: it begins at once, both sides show certificates, and then the daemon sends one byte to say that it
//! accepts ours. Imports `pki` and `socket`, connection, error and transport.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error as RustlsError, SignatureScheme,
};
use tracing::warn;

use super::pki::{Pki, file_error, trust};
use super::socket::{failed, silent, tcp_stream, without_delay};
use super::{Error, address, host};
use crate::connection::{Deadline, sleep_until};
use crate::error::TlsFailure;
use crate::transport::Transport;
use crate::uri::{Uri, User};

/// What the daemon sends once it has accepted the client (`virNetServerClientSendTLSConfirm`).
const CONFIRMATION: u8 = 1;

/// Everything that a connection needs, read and checked.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    host: String,
    port: u16,
    /// Our certificate, if there is one.
    certificate: Option<PathBuf>,
}

impl Tls {
    /// Reads the certificates for `uri`. Blocks.
    pub(super) fn prepare(uri: &Uri, user: &User) -> Result<Self, Error> {
        let host = host(uri)?;
        let port = uri.port_or_default().unwrap_or_default();
        let tls = |source| Error::Tls {
            target: address(&host, port),
            source,
        };
        // The zone of an IPv6 address is this machine's own affair.
        let plain = host.split('%').next().unwrap_or_default();
        let name = ServerName::try_from(plain.to_owned()).map_err(|_| {
            tls(TlsFailure::Handshake {
                reason: format!("`{plain}` is neither a name nor an address"),
            })
        })?;
        let pki = Pki::read(uri, user).map_err(tls)?;
        let certificate = pki.identity.as_ref().map(|found| found.file.clone());
        let config = client_config(pki, uri).map_err(tls)?;
        Ok(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            name,
            host,
            port,
            certificate,
        })
    }

    /// Connects the socket.
    pub(super) async fn dial(&self, deadline: Deadline) -> Result<TcpStream, Error> {
        let target = address(&self.host, self.port);
        let stream = tcp_stream(target, (self.host.as_str(), self.port), deadline).await?;
        without_delay(&stream);
        Ok(stream)
    }

    /// Makes a connected socket safe, and waits until the daemon accepts us.
    pub(super) async fn secure(
        &self,
        stream: TcpStream,
        deadline: Deadline,
    ) -> Result<Transport, Error> {
        let target = address(&self.host, self.port);
        let secured = tokio::select! {
            secured = self.handshake(stream) => secured,
            () = sleep_until(deadline) => return Err(failed(target, silent("TLS", deadline))),
        };
        match secured {
            Ok(stream) => Ok(Transport::new(stream)),
            Err(source) => Err(Error::Tls { target, source }),
        }
    }

    async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, TlsFailure> {
        let mut stream = self
            .connector
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| self.explain(&error))?;
        let mut confirmation = [0];
        match stream.read(&mut confirmation).await {
            Ok(0) => Err(self.rejected()),
            Ok(_) if confirmation == [CONFIRMATION] => Ok(stream),
            Ok(_) => Err(TlsFailure::Handshake {
                reason: format!(
                    "the peer is no libvirt daemon: after the handshake it sent {:#04x} instead of {CONFIRMATION:#04x}",
                    confirmation[0]
                ),
            }),
            // A daemon that closes says no, whether it takes its leave properly or not.
            Err(error) => Err(match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => self.rejected(),
                _ => self.explain(&error),
            }),
        }
    }

    fn rejected(&self) -> TlsFailure {
        TlsFailure::Rejected {
            certificate: self.certificate.clone(),
        }
    }

    fn explain(&self, error: &io::Error) -> TlsFailure {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        match tls {
            Some(RustlsError::InvalidCertificate(error)) => TlsFailure::Untrusted {
                reason: trust(error),
            },
            Some(RustlsError::AlertReceived(alert)) if is_about_certificates(*alert) => {
                self.rejected()
            }
            Some(error) => TlsFailure::Handshake {
                reason: error.to_string(),
            },
            None if error.kind() == io::ErrorKind::UnexpectedEof => TlsFailure::Handshake {
                reason: "the peer closed during the handshake".to_owned(),
            },
            None => TlsFailure::Handshake {
                reason: error.to_string(),
            },
        }
    }
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

fn client_config(pki: Pki, uri: &Uri) -> Result<ClientConfig, TlsFailure> {
    let provider = Arc::new(ring::default_provider());
    let internal = |error: &dyn std::fmt::Display| TlsFailure::Handshake {
        reason: error.to_string(),
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| internal(&error))?
        .dangerous();
    let verifier: Arc<dyn ServerCertVerifier> = if uri.parameters.no_verify {
        warn!(
            target: "libvirt_qmp::connection",
            %uri,
            "no_verify: anybody on the way can pass for the daemon, its certificate is not checked"
        );
        Arc::new(Anybody(provider))
    } else {
        // libvirt's revocation list need not speak of every certificate.
        WebPkiServerVerifier::builder_with_provider(Arc::new(pki.roots), provider)
            .with_crls(pki.revoked)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| internal(&error))?
    };
    let builder = builder.with_custom_certificate_verifier(verifier);
    match pki.identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            let (certificate, key) = (identity.file, identity.key_file);
            builder
                .with_client_auth_cert(identity.chain, identity.key)
                .map_err(|error| match error {
                    RustlsError::InconsistentKeys(_) => {
                        let other = certificate.display();
                        file_error(&key, format!("it is not the key of {other}"))
                    }
                    error => file_error(&key, error.to_string()),
                })
        }
    }
}

/// Takes any certificate. Its owner must still have its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::CertificateError;

    use super::*;

    #[test]
    fn alerts_about_certificates_are_told_from_others() {
        assert!(is_about_certificates(AlertDescription::UnknownCA));
        assert!(!is_about_certificates(AlertDescription::ProtocolVersion));
        assert_eq!(trust(&CertificateError::Expired), "it has expired");
    }
}
