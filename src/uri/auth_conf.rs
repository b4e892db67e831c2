//! libvirt's file of user names and passwords, `auth.conf`: groups in brackets, `KEY=VALUE` a line, and `#` or `;` before a
//! comment. A password is in no error. Imports credentials and `super`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{Uri, UriError, User};
use crate::credentials::Credentials;

/// The file of the system's clients.
const SYSTEM_FILE: &str = "/etc/libvirt/auth.conf";

impl Uri {
    /// The host that credentials are looked up for.
    pub(crate) fn auth_host(&self) -> &str {
        self.host.as_deref().unwrap_or("localhost")
    }

    /// The user's name and password for this host in `auth.conf`, by libvirt's order: the file that `LIBVIRT_AUTH_FILE` names,
    /// else the parameter `authfile`, else the first that can be read of the user's and the system's. Blocks.
    ///
    /// # Errors
    ///
    /// [`UriError::Config`] where the file that was named cannot be read, or says nothing that makes sense.
    pub(crate) fn auth_conf(&self, user: &User) -> Result<Option<Credentials>, UriError> {
        let named = user
            .auth_file
            .as_ref()
            .or(self.parameters.authfile.as_ref());
        if let Some(file) = named {
            let text = std::fs::read_to_string(file).map_err(|error| wrong(file, &error))?;
            return look_up(&text, self.auth_host()).map_err(|reason| wrong(file, &reason));
        }
        let own = user.config_dir.as_ref();
        let own = own.map(|dir| dir.join("libvirt/auth.conf"));
        for file in own.into_iter().chain([PathBuf::from(SYSTEM_FILE)]) {
            match std::fs::read_to_string(&file) {
                Ok(text) => {
                    return look_up(&text, self.auth_host())
                        .map_err(|reason| wrong(&file, &reason));
                }
                Err(error) if is_closed(&error) => {}
                Err(error) => return Err(wrong(&file, &error)),
            }
        }
        Ok(None)
    }
}

/// Whether a file is not there, or not for this user.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotADirectory | NotFound | PermissionDenied)
}

fn wrong(file: &Path, reason: &dyn std::fmt::Display) -> UriError {
    UriError::Config {
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}

type Groups<'a> = HashMap<&'a str, HashMap<&'a str, &'a str>>;

/// The credentials that `[auth-libvirt-HOST]` names, or `[auth-libvirt-default]` where that is not there.
fn look_up(text: &str, host: &str) -> Result<Option<Credentials>, String> {
    let groups = read(text)?;
    let (specific, default) = (format!("auth-libvirt-{host}"), "auth-libvirt-default");
    let (name, group) = match (groups.get(specific.as_str()), groups.get(default)) {
        (Some(group), _) => (specific.as_str(), group),
        (None, Some(group)) => (default, group),
        (None, None) => return Ok(None),
    };
    let item = |group: &HashMap<&str, &str>, name: &str, key: &str| match group.get(key) {
        Some(value) => Ok((*value).to_owned()),
        None => Err(format!("group `{name}` has no `{key}`")),
    };
    let named = format!("credentials-{}", item(group, name, "credentials")?);
    let Some(group) = groups.get(named.as_str()) else {
        return Err(format!(
            "group `{name}` names group `{named}`, which is not there"
        ));
    };
    Ok(Some(Credentials {
        user: item(group, &named, "authname")?,
        password: item(group, &named, "password")?,
        authorize_as: group.get("username").map(|user| (*user).to_owned()),
    }))
}

/// The file as it is: blanks before a line mean nothing, those in a value are part of it.
fn read(text: &str) -> Result<Groups<'_>, String> {
    let mut groups = Groups::new();
    let mut current = None;
    for (number, line) in text.lines().enumerate() {
        // No line is repeated in an error: there may be a password in it.
        let place = |what: &str| format!("line {}: {what}", number + 1);
        let line = line.trim_start();
        if line.trim_end().is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.trim_end().strip_suffix(']');
            let name = name.ok_or_else(|| place("a group without `]`"))?;
            if groups.insert(name, HashMap::new()).is_some() {
                return Err(place("this group has been before"));
            }
            current = Some(name);
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .filter(|(key, _)| key.bytes().all(|c| c.is_ascii_alphanumeric()))
            .ok_or_else(|| place("expected KEY=VALUE, without blanks before the `=`"))?;
        let group = current.and_then(|name| groups.get_mut(name));
        let group = group.ok_or_else(|| place("a value before the first group"))?;
        if group.insert(key, value).is_some() {
            return Err(place("this key has been before in its group"));
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# who we are
[credentials-test]
authname=fred
password= a=b#c
realm=example.com

  ; another one
[credentials-prod]
authname=bar@example.com
password=letmein
username=boss
[auth-libvirt-test1.example.com]
credentials=test
[auth-libvirt-default]\r
credentials=prod\r
[auth-esx-default]
credentials=none
";

    #[test]
    fn by_host_and_by_default() {
        // A value is everything behind the `=`.
        let test = Credentials::new("fred", " a=b#c");
        assert_eq!(look_up(FILE, "test1.example.com"), Ok(Some(test)));
        let prod = Credentials::new("bar@example.com", "letmein").authorize_as("boss");
        assert_eq!(look_up(FILE, "localhost"), Ok(Some(prod)));
        assert_eq!(look_up("", "localhost"), Ok(None));
        let other = "[auth-libvirt-other]\ncredentials=x\n";
        assert_eq!(look_up(other, "localhost"), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (text, expected) in [
            ("[a\npassword=hunter2", "line 1: a group"),
            ("password=hunter2", "line 1: a value before"),
            ("[a]\npassword =hunter2", "line 2: expected KEY=VALUE"),
            ("[a]\n\nhunter2", "line 3: expected KEY=VALUE"),
            ("[a]\n[a]\n", "line 2: this group"),
            (
                "[a]\npassword=hunter2\npassword=hunter2",
                "line 3: this key",
            ),
            (
                "[auth-libvirt-default]",
                "group `auth-libvirt-default` has no `credentials`",
            ),
            (
                "[auth-libvirt-h]\ncredentials=x",
                "group `auth-libvirt-h` names group `credentials-x`",
            ),
            (
                "[auth-libvirt-h]\ncredentials=x\n[credentials-x]\npassword=hunter2",
                "group `credentials-x` has no `authname`",
            ),
            (
                "[auth-libvirt-h]\ncredentials=x\n[credentials-x]\nauthname=fred",
                "group `credentials-x` has no `password`",
            ),
        ] {
            let error = look_up(text, "h").unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    /// A directory that goes with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            let name = format!("libvirt-qmp-auth-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir_all(dir.join("libvirt")).unwrap();
            Dir(dir)
        }

        fn file(&self, name: &str, user: &str) -> PathBuf {
            let file = self.0.join(name);
            let text = format!(
                "[auth-libvirt-localhost]\ncredentials=x\n[credentials-x]\nauthname={user}\npassword=p\n"
            );
            std::fs::write(&file, text).unwrap();
            file
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_are_looked_for_in_libvirts_order() {
        let dir = Dir::new();
        let found = |uri: &str, user: &User| {
            let uri: Uri = uri.parse().unwrap();
            let found = uri.auth_conf(user);
            found.map(|found| found.map(|found| found.user))
        };
        let plain = "qemu:///system";
        let mut user = User {
            config_dir: Some(dir.0.clone()),
            ..User::default()
        };
        let own = dir.file("libvirt/auth.conf", "own");
        assert_eq!(found(plain, &user), Ok(Some("own".to_owned())));
        let named = dir.file("named.conf", "named");
        let with = format!("{plain}?authfile={}", named.display());
        assert_eq!(found(&with, &user), Ok(Some("named".to_owned())));
        user.auth_file = Some(dir.file("environment.conf", "environment"));
        for uri in [plain, &with] {
            assert_eq!(found(uri, &user), Ok(Some("environment".to_owned())));
        }
        // What is named must be there; what is not need not.
        user.auth_file = Some(dir.0.join("none"));
        assert!(
            matches!(found(plain, &user), Err(UriError::Config { file, .. }) if file.ends_with("none"))
        );
        user.auth_file = None;
        std::fs::remove_file(named).unwrap();
        assert!(
            matches!(found(&with, &user), Err(UriError::Config { file, .. }) if file.ends_with("named.conf"))
        );
        std::fs::remove_file(own).unwrap();
        if !Path::new(SYSTEM_FILE).exists() {
            assert_eq!(found(plain, &user), Ok(None));
        }
    }
}
