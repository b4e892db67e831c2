//! Certificates and keys for tests of TLS, made by openssl in a scratch directory. Imports `scratch` and `process`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{find_program, search_path};
use super::scratch::Scratch;

/// A CA named `ca`, one that nobody trusts named `other`, and what they have issued. `NAME.pem` is a certificate and
/// `NAME.key` its key.
pub(crate) struct Pki {
    scratch: Scratch,
}

impl Pki {
    /// Makes the two CAs.
    ///
    /// # Panics
    /// Where there is no openssl.
    pub(crate) fn new() -> Pki {
        assert!(
            find_program("openssl").is_some(),
            "the live tests need openssl: run tests/run"
        );
        let pki = Pki {
            scratch: Scratch::new(),
        };
        for ca in ["ca", "other"] {
            pki.key(ca);
            pki.openssl(&format!(
                "req -new -x509 -key {ca}.key -subj /CN={ca} -days 3650 -out {ca}.pem"
            ));
        }
        pki
    }

    /// Issues a certificate that is valid for so many days, which may be over, for these names.
    pub(crate) fn issue(&self, name: &str, ca: &str, days: i32, names: &str) {
        self.key(name);
        let extensions = format!(
            "subjectAltName={names}\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n"
        );
        fs::write(self.path(&format!("{name}.ext")), extensions)
            .expect("a file in the scratch directory");
        self.openssl(&format!(
            "req -new -key {name}.key -subj /CN={name} -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days {days} -extfile {name}.ext -out {name}.pem"
        ));
    }

    /// Makes `NAME.crl`, in which the CA revokes the certificate `NAME`.
    pub(crate) fn revoke(&self, name: &str) {
        let config = format!(
            "[ca]\ndefault_ca=this\n[this]\ndatabase={name}.index\ncrlnumber={name}.number\ndefault_md=sha256\n\
             default_crl_days=3650\ncertificate=ca.pem\nprivate_key=ca.key\n"
        );
        let write = |file: &str, text: &str| {
            fs::write(self.path(&format!("{name}.{file}")), text)
                .expect("a file in the scratch directory")
        };
        write("cnf", &config);
        write("index", "");
        write("number", "01\n");
        self.openssl(&format!("ca -config {name}.cnf -revoke {name}.pem"));
        self.openssl(&format!("ca -config {name}.cnf -gencrl -out {name}.crl"));
    }

    /// A directory for the parameter `pkipath`, with copies of these files: (name there, name here).
    pub(crate) fn directory(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.path(name);
        fs::create_dir(&directory).expect("a new directory");
        for (to, from) in files {
            fs::copy(self.path(from), directory.join(to)).expect("a copy");
        }
        directory
    }

    /// A directory for the parameter `pkipath` with the certificate `client` and what a client checks the daemon's by.
    pub(crate) fn of_client(&self) -> PathBuf {
        let files = [
            ("cacert.pem", "ca.pem"),
            ("clientcert.pem", "client.pem"),
            ("clientkey.pem", "client.key"),
        ];
        self.directory("pki", &files)
    }

    /// Settings of a daemon that listens on this port with the certificate `server`, and then authenticates so.
    pub(crate) fn settings(&self, port: u16, auth: &str) -> String {
        let file = |name: &str| self.path(name).display().to_string();
        format!(
            "listen_tls = 1\ntls_port = \"{port}\"\nauth_tls = \"{auth}\"\nca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
            file("ca.pem"),
            file("server.pem"),
            file("server.key")
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.scratch.dir()
    }

    fn key(&self, name: &str) {
        self.openssl(&format!(
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out {name}.key"
        ));
        // The daemon is another user's.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(self.path(&format!("{name}.key")), open).expect("one's own file");
    }

    fn openssl(&self, words: &str) {
        let output = Command::new("openssl")
            .args(words.split(' '))
            .env("PATH", search_path())
            .current_dir(self.scratch.dir())
            .output()
            .expect("openssl starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words}: {stderr}");
    }
}
