//! The table of URIs in `fixtures/uris.txt`, and what the command of an ssh connection runs on a host behind. Imports only std.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const TABLE: &str = include_str!("../../fixtures/uris.txt");

/// A case: who asks for what, what that means, and where virsh does something else.
#[derive(Debug, Default)]
pub(crate) struct Case {
    /// The line of the table that it begins at.
    pub(crate) line: usize,
    pub(crate) uri: String,
    pub(crate) root: bool,
    pub(crate) readonly: bool,
    pub(crate) means: Means,
    /// A part of the error, where the URI is refused.
    pub(crate) refused: Option<String>,
    pub(crate) virsh: Virsh,
    /// Why virsh does something else.
    pub(crate) why: Option<String>,
}

/// What a URI means, each as the table has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Means {
    pub(crate) opens: Option<String>,
    pub(crate) way: Option<String>,
    pub(crate) behind: Option<String>,
    pub(crate) or: Option<String>,
}

/// What virsh does instead.
#[derive(Debug, Default)]
pub(crate) struct Virsh {
    pub(crate) accepts: bool,
    pub(crate) means: Means,
}

impl Virsh {
    fn says_nothing(&self) -> bool {
        !self.accepts && self.means == Means::default()
    }
}

impl Case {
    /// Where the case is, for messages.
    pub(crate) fn place(&self) -> String {
        format!("fixtures/uris.txt:{}: {}", self.line, self.uri)
    }
}

/// The cases of the table.
///
/// # Panics
/// Where a line is not of the form that the table's head says.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in TABLE.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let value = value.trim_start();
        if key == "uri" {
            cases.push(Case {
                line: number + 1,
                uri: value.to_owned(),
                ..Case::default()
            });
            continue;
        }
        let wrong = || -> ! { panic!("fixtures/uris.txt:{}: `{line}`", number + 1) };
        let Some(case) = cases.last_mut() else {
            wrong()
        };
        let set = |place: &mut Option<String>, value: &str| {
            if place.replace(value.to_owned()).is_some() {
                wrong();
            }
        };
        match (key, value) {
            ("user", "root") => case.root = true,
            ("readonly", "yes") => case.readonly = true,
            ("refused", part) => set(&mut case.refused, part),
            ("why", reason) if !reason.is_empty() => set(&mut case.why, reason),
            ("virsh", "accepts") => case.virsh.accepts = true,
            ("virsh", instead) => {
                let (key, value) = instead.split_once(' ').unwrap_or((instead, ""));
                match case.virsh.means.field(key) {
                    Some(field) => set(field, value),
                    None => wrong(),
                }
            }
            _ => match case.means.field(key) {
                Some(field) => set(field, value),
                None => wrong(),
            },
        }
    }
    for case in &cases {
        let place = case.place();
        let means = &case.means;
        assert_eq!(case.refused.is_some(), means.way.is_none(), "{place}");
        assert_eq!(means.way.is_some(), means.opens.is_some(), "{place}");
        assert_eq!(means.behind.is_some(), means.or.is_some(), "{place}");
        assert_eq!(case.why.is_none(), case.virsh.says_nothing(), "{place}");
    }
    cases
}

impl Means {
    fn field(&mut self, key: &str) -> Option<&mut Option<String>> {
        match key {
            "opens" => Some(&mut self.opens),
            "way" => Some(&mut self.way),
            "behind" => Some(&mut self.behind),
            "or" => Some(&mut self.or),
            _ => None,
        }
    }
}

/// Words as the table writes them.
pub(crate) fn written<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    let written = |word: T| match word.as_ref() {
        "" => "␀".to_owned(),
        word => word.replace(' ', "␣"),
    };
    let words: Vec<String> = words.into_iter().map(written).collect();
    words.join(" ")
}

/// Two hosts behind ssh: directories that take the place of their search paths.
pub(crate) struct Hosts(PathBuf);

impl Hosts {
    /// Makes them in a directory.
    ///
    /// # Panics
    /// Where the shell or grep is not found, or the directory is not to be written to.
    pub(crate) fn new(dir: &Path) -> Hosts {
        let show = "printf '%s\\n' \"${0##*/}\" \"$@\"";
        for (host, knows_q) in [("with", true), ("without", false)] {
            let dir = dir.join(host);
            fs::create_dir_all(&dir).unwrap();
            for program in ["sh", "grep", "which"] {
                let found = ["/bin", "/usr/bin"].map(|bin| Path::new(bin).join(program));
                let found = found.iter().find(|path| path.exists());
                let found = found.unwrap_or_else(|| panic!("there is no {program}"));
                std::os::unix::fs::symlink(found, dir.join(program)).unwrap();
            }
            let asked_for_q = match knows_q {
                true => "option requires an argument",
                false => "invalid option",
            };
            let netcat =
                format!("[ \"$*\" != -q ] || {{ echo '{asked_for_q}' >&2; exit 1; }}\n{show}");
            for name in ["nc", "nc.openbsd", "my nc"] {
                script(&dir.join(name), &netcat);
            }
        }
        script(&dir.join("with/virt-ssh-helper"), show);
        Hosts(dir.to_owned())
    }

    /// What each of them runs for `command`, which its login shell gets.
    pub(crate) fn run(&self, command: &str) -> [String; 2] {
        ["with", "without"].map(|host| {
            let output = Command::new("/bin/sh")
                .args(["-c", command])
                .env_clear()
                .env("PATH", self.0.join(host))
                .output()
                .unwrap();
            let ran = String::from_utf8(output.stdout).unwrap();
            match ran.strip_suffix('\n') {
                None => "nothing".to_owned(),
                Some(words) => written(words.split('\n')),
            }
        })
    }
}

/// Writes a script of the shell that anybody may run.
pub(crate) fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
