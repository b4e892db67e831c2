//! QEMU's version and the greeting that opens a QMP connection. Imports `from_json` of `mod`.

use std::fmt;

use serde::Deserialize;

use super::from_json;

/// The version of a QEMU, as `query-version` returns it and the greeting carries it.
///
/// Ordered by its three numbers; versions with the same numbers are ordered by their package text, which comes after
/// no text. So `version >= Version::new(8, 2, 0)` asks for QEMU 8.2 or later, of any distribution.
///
/// With serde it reads the return value of `query-version`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(from = "VersionInfo")]
#[non_exhaustive]
pub struct Version {
    /// Major version, 9 in 9.2.4.
    pub major: u64,
    /// Minor version, 2 in 9.2.4.
    pub minor: u64,
    /// Micro version, 4 in 9.2.4; from 50 on it is a development version of the next minor one.
    pub micro: u64,
    /// What the distributor added, often empty. Shown as QEMU sent it.
    pub package: String,
}

impl Version {
    /// A version without a package text.
    pub fn new(major: u64, minor: u64, micro: u64) -> Self {
        Self {
            major,
            minor,
            micro,
            package: String::new(),
        }
    }
}

/// `7.2.22`, or `7.2.22 (Debian 1:7.2+dfsg-7)` if there is a package text.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)?;
        // Older QEMU sends the text with the parentheses, newer without.
        let package = self.package.trim();
        let package = package
            .strip_prefix('(')
            .and_then(|inner| inner.strip_suffix(')'))
            .unwrap_or(package);
        if package.is_empty() {
            return Ok(());
        }
        write!(f, " ({package})")
    }
}

/// QAPI's VersionInfo.
#[derive(Deserialize)]
struct VersionInfo {
    qemu: VersionTriple,
    #[serde(default)]
    package: String,
}

#[derive(Deserialize)]
struct VersionTriple {
    major: u64,
    minor: u64,
    micro: u64,
}

impl From<VersionInfo> for Version {
    fn from(info: VersionInfo) -> Self {
        Self {
            major: info.qemu.major,
            minor: info.qemu.minor,
            micro: info.qemu.micro,
            package: info.package,
        }
    }
}

/// The first message on a QMP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Greeting {
    /// QEMU's version.
    pub version: Version,
    /// What may be enabled with `qmp_capabilities`, known to us or not, such as `oob`.
    pub capabilities: Vec<String>,
}

impl Greeting {
    /// Decodes the whole greeting message. Members and capabilities that are not known are no error.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Message {
            #[serde(rename = "QMP")]
            qmp: Body,
        }
        #[derive(Deserialize)]
        struct Body {
            version: Version,
            #[serde(default)]
            capabilities: Vec<serde_json::Value>,
        }
        let Message { qmp } = from_json(text)?;
        Ok(Self {
            version: qmp.version,
            // A capability that is no string could only be one that we cannot ask for.
            capabilities: qmp
                .capabilities
                .into_iter()
                .filter_map(|capability| match capability {
                    serde_json::Value::String(name) => Some(name),
                    _ => None,
                })
                .collect(),
        })
    }

    /// Whether QEMU offers `capability`.
    pub fn offers(&self, capability: &str) -> bool {
        self.capabilities
            .iter()
            .any(|offered| offered == capability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18"}, "capabilities": ["oob"]}}"#;

    #[test]
    fn greeting_of_a_real_server() {
        let greeting = Greeting::parse(GREETING.as_bytes()).unwrap();
        assert_eq!(
            greeting.version.to_string(),
            "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"
        );
        assert!(greeting.offers("oob"));
        assert!(!greeting.offers("OOB"));
    }

    #[test]
    fn unknown_capabilities_and_members_are_tolerated() {
        let text = r#"{"QMP": {"capabilities": ["zero-copy", {"x": 1}, "oob"], "new": [1],
            "version": {"package": "", "more": null, "qemu": {"nano": 0, "major": 11, "minor": 0, "micro": 50}}}, "also": 1}"#;
        let greeting = Greeting::parse(text.as_bytes()).unwrap();
        assert_eq!(greeting.capabilities, ["zero-copy", "oob"]);
        assert_eq!(greeting.version, Version::new(11, 0, 50));
        // Before QEMU 3 a greeting could come with an empty list; absent means the same.
        let bare = r#"{"QMP": {"version": {"qemu": {"major": 1, "minor": 0, "micro": 0}}}}"#;
        assert_eq!(
            Greeting::parse(bare.as_bytes()).unwrap().capabilities,
            [] as [&str; 0]
        );
    }

    #[test]
    fn a_message_that_is_no_greeting_is_an_error() {
        for text in [
            "{}",
            "[]",
            r#"{"return": {}}"#,
            r#"{"QMP": {}}"#,
            r#"{"QMP": {"version": {"qemu": {"major": -1, "minor": 0, "micro": 0}}}}"#,
        ] {
            Greeting::parse(text.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn query_version_and_display() {
        let version: Version =
            from_json(br#"{"qemu":{"micro":2,"minor":2,"major":10},"package":" (v10.2.2-dirty)"}"#)
                .unwrap();
        assert_eq!((version.major, version.minor, version.micro), (10, 2, 2));
        assert_eq!(version.package, " (v10.2.2-dirty)");
        assert_eq!(version.to_string(), "10.2.2 (v10.2.2-dirty)");
        assert_eq!(Version::new(9, 0, 1).to_string(), "9.0.1");
    }

    #[test]
    fn ordered_by_numbers_first() {
        let debian = Version {
            package: "Debian".into(),
            ..Version::new(7, 2, 22)
        };
        assert!(debian >= Version::new(7, 2, 22));
        assert!(debian < Version::new(7, 2, 23));
        assert!(Version::new(10, 0, 0) > Version::new(9, 9, 99));
        assert!(debian < Version::new(10, 0, 0));
    }
}
