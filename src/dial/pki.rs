//! Certificates and keys for TLS: the files, where libvirt looks for them, and whether they are right. Imports `validity`, uri and
//! error.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime,
};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{CertificateError, Error as RustlsError, RootCertStore};

use super::validity::why_not_valid;
use crate::error::TlsFailure;
use crate::uri::{Uri, User};

/// No file for TLS is longer.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;

/// The four files that libvirt knows, in one directory or spread over the system's.
struct Place {
    ca: PathBuf,
    revoked: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// What was read.
pub(super) struct Pki {
    pub(super) roots: RootCertStore,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
    pub(super) identity: Option<Identity>,
}

/// Our certificate and its key.
pub(super) struct Identity {
    pub(super) file: PathBuf,
    pub(super) key_file: PathBuf,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Place {
    fn directory(directory: &Path) -> Self {
        Place {
            ca: directory.join("cacert.pem"),
            revoked: directory.join("cacrl.pem"),
            certificate: directory.join("clientcert.pem"),
            key: directory.join("clientkey.pem"),
        }
    }

    fn system() -> Self {
        Place {
            ca: "/etc/pki/CA/cacert.pem".into(),
            revoked: "/etc/pki/CA/cacrl.pem".into(),
            certificate: "/etc/pki/libvirt/clientcert.pem".into(),
            key: "/etc/pki/libvirt/private/clientkey.pem".into(),
        }
    }

    /// Where to look, in this order: the URI's directory and nowhere else, or the user's and then the system's.
    fn of(uri: &Uri, user: &User) -> Vec<Self> {
        if let Some(directory) = &uri.parameters.pkipath {
            return vec![Place::directory(directory)];
        }
        let own = user.home.as_ref().filter(|_| !user.is_root);
        let own = own.map(|home| Place::directory(&home.join(".pki/libvirt")));
        own.into_iter().chain([Place::system()]).collect()
    }
}

impl Pki {
    /// Finds and reads the files for `uri`. Each is looked for by itself, but certificate and key are a pair. Only the CA has
    /// to be there, and not even that where nobody is verified.
    pub(super) fn read(uri: &Uri, user: &User) -> Result<Self, TlsFailure> {
        Pki::read_from(&Place::of(uri, user), uri)
    }

    fn read_from(places: &[Place], uri: &Uri) -> Result<Self, TlsFailure> {
        let parameters = &uri.parameters;
        let mut roots = RootCertStore::empty();
        let ca = places
            .iter()
            .map(|place| &place.ca)
            .find(|file| is_there(file));
        match ca {
            Some(file) => {
                let mut passed_over = None;
                for certificate in certificates(file)? {
                    if let Some(why) = why_not_valid(&certificate) {
                        passed_over = Some(why);
                        continue;
                    }
                    roots
                        .add(certificate)
                        .map_err(|error| file_error(file, error.to_string()))?;
                }
                match passed_over {
                    Some(why) if roots.is_empty() && !parameters.no_verify => {
                        return Err(file_error(file, why));
                    }
                    _ => {}
                }
            }
            None if parameters.no_verify => {}
            None => return Err(missing_ca(places)),
        }
        let revoked = places.iter().map(|place| &place.revoked);
        let revoked = match revoked.into_iter().find(|file| is_there(file)) {
            Some(file) => revocations(file)?,
            None => Vec::new(),
        };
        let identity = identity(places)?;
        if let Some(identity) = &identity
            && !parameters.no_sanity
            && !roots.is_empty()
        {
            check(identity, &roots)?;
        }
        Ok(Pki {
            roots,
            revoked,
            identity,
        })
    }
}

/// What cannot be seen is there: reading it then says why not.
fn is_there(file: &Path) -> bool {
    !matches!(file.try_exists(), Ok(false))
}

fn missing_ca(places: &[Place]) -> TlsFailure {
    let mut files = places.iter().map(|place| &place.ca);
    let first = files.next().cloned().unwrap_or_default();
    let others: Vec<String> = files
        .map(|file| format!(", nor is {}", file.display()))
        .collect();
    file_error(
        &first,
        format!("the CA's certificate is not there{}", others.concat()),
    )
}

fn identity(places: &[Place]) -> Result<Option<Identity>, TlsFailure> {
    let whole = |place: &&Place| is_there(&place.certificate) && is_there(&place.key);
    let Some(place) = places.iter().find(whole) else {
        // Half a pair is a mistake that the daemon's refusal would not explain.
        for place in places {
            let (certificate, key) = (&place.certificate, &place.key);
            match (is_there(certificate), is_there(key)) {
                (true, false) => {
                    let other = certificate.display();
                    return Err(file_error(key, format!("the key of {other} is not there")));
                }
                (false, true) => {
                    let other = key.display();
                    let reason = format!("the certificate for the key {other} is not there");
                    return Err(file_error(certificate, reason));
                }
                _ => {}
            }
        }
        return Ok(None);
    };
    let key = PrivateKeyDer::from_pem_slice(&read(&place.key)?)
        .map_err(|_| file_error(&place.key, "there is no unencrypted private key in it"))?;
    Ok(Some(Identity {
        file: place.certificate.clone(),
        key_file: place.key.clone(),
        chain: certificates(&place.certificate)?,
        key,
    }))
}

/// Checks our own certificate as the daemon will: it is of this CA, valid now, and good for a client.
fn check(identity: &Identity, roots: &RootCertStore) -> Result<(), TlsFailure> {
    let wrong = |reason: String| file_error(&identity.file, reason);
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider).build();
    let verifier = verifier.map_err(|error| wrong(error.to_string()))?;
    let Some((own, others)) = identity.chain.split_first() else {
        return Ok(());
    };
    match verifier.verify_client_cert(own, others, UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(RustlsError::InvalidCertificate(error)) => Err(wrong(trust(&error))),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// What is wrong with a certificate.
pub(super) fn trust(error: &CertificateError) -> String {
    use CertificateError as E;
    let plain = match error {
        E::Expired | E::ExpiredContext { .. } => "it has expired",
        E::NotValidYet | E::NotValidYetContext { .. } => "it is not valid yet",
        E::UnknownIssuer => "it was not issued by our CA",
        E::BadSignature => "its signature does not come from our CA",
        E::Revoked => "it has been revoked",
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "it is not for this purpose",
        other => return other.to_string(),
    };
    plain.to_owned()
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFailure> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    let found = found.map_err(|error| file_error(file, error.to_string()))?;
    match found.is_empty() {
        true => Err(file_error(file, "there is no certificate in it")),
        false => Ok(found),
    }
}

fn revocations(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsFailure> {
    let found: Result<Vec<_>, _> =
        CertificateRevocationListDer::pem_slice_iter(&read(file)?).collect();
    found.map_err(|error| file_error(file, error.to_string()))
}

fn read(file: &Path) -> Result<Vec<u8>, TlsFailure> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let length = File::open(file)?
            .take(LONGEST_FILE + 1)
            .read_to_end(&mut bytes)?;
        match u64::try_from(length) {
            Ok(length) if length <= LONGEST_FILE => Ok(bytes),
            _ => Err(io::Error::other(format!(
                "it is over {LONGEST_FILE} bytes long"
            ))),
        }
    };
    read().map_err(|error| file_error(file, error.to_string()))
}

pub(super) fn file_error(file: &Path, reason: impl Into<String>) -> TlsFailure {
    TlsFailure::File {
        file: file.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(uri: &str, user: &User) -> Vec<String> {
        let places = Place::of(&uri.parse().unwrap(), user);
        let files = places.iter().flat_map(|place| [&place.ca, &place.key]);
        files.map(|file| file.display().to_string()).collect()
    }

    #[test]
    fn files_are_where_libvirt_has_them() {
        let mut user = User {
            home: Some("/home/u".into()),
            ..User::default()
        };
        let system = [
            "/etc/pki/CA/cacert.pem",
            "/etc/pki/libvirt/private/clientkey.pem",
        ];
        assert_eq!(
            places("qemu://h/system?pkipath=/p", &user),
            ["/p/cacert.pem", "/p/clientkey.pem"]
        );
        let own = [
            "/home/u/.pki/libvirt/cacert.pem",
            "/home/u/.pki/libvirt/clientkey.pem",
        ];
        assert_eq!(places("qemu://h/system", &user), [own, system].concat());
        user.is_root = true;
        assert_eq!(places("qemu://h/system", &user), system);
    }

    #[test]
    fn what_is_missing_is_named_with_every_place() {
        let places = [
            Place::directory(Path::new("/no/such/1")),
            Place::directory(Path::new("/no/such/2")),
        ];
        let uri: Uri = "qemu://h/system".parse().unwrap();
        let error = Pki::read_from(&places, &uri).err().unwrap().to_string();
        assert!(
            error.contains("/no/such/1/cacert.pem") && error.contains("/no/such/2/cacert.pem"),
            "{error}"
        );
        let careless: Uri = "qemu://h/system?no_verify=1".parse().unwrap();
        let pki = Pki::read_from(&places, &careless).unwrap();
        assert!(pki.identity.is_none() && pki.roots.is_empty());
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let error = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("4194304"), "{error}");
    }
}
