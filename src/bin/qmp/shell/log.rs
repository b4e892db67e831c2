//! The log of a session (`-l`): what was sent and what came, as lines of JSON, without secrets. Imports `secret`, `failure`
//! and `output`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::secret::redacted;
use crate::failure::Failure;
use crate::output::layout;

/// A file that grows. Clones write to the same one.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<File>>);

/// What a line of the log is about.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    /// A command as it was sent.
    Sent,
    /// A reply, an error included.
    Received,
    Event,
}

impl Log {
    /// Opens the file to add to it; a new one is for its owner alone.
    ///
    /// # Errors
    ///
    /// That of the system.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| {
                Failure::system(&format!("cannot open the log {}", path.display()), error)
            })?;
        Ok(Log(Arc::new(Mutex::new(file))))
    }

    /// Adds a line: `{"time":SECONDS.MICROSECONDS,"sent":{...}}`.
    ///
    /// # Errors
    ///
    /// That of the system.
    pub(super) fn add(&self, entry: Entry, json: &str) -> Result<(), Failure> {
        let kind = match entry {
            Entry::Sent => "sent",
            Entry::Received => "received",
            Entry::Event => "event",
        };
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let json = layout(&redacted(json), false);
        let line = format!(
            "{{\"time\":{}.{:06},\"{kind}\":{json}}}\n",
            time.as_secs(),
            time.subsec_micros()
        );
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
            .map_err(|error| Failure::system("cannot write the log", error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_log_is_private_grows_and_holds_no_secrets() {
        let dir = std::env::temp_dir().join(format!("qmp-log-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("log");
        for _ in 0..2 {
            let log = Log::open(&path).unwrap();
            log.add(
                Entry::Sent,
                r#"{"execute": "set_password", "arguments": {"password": "hunter2"}}"#,
            )
            .unwrap();
            log.add(Entry::Received, "{\"return\":\r\n {}}").unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!text.contains("hunter2"), "{text}");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0]["sent"]["arguments"]["password"], "***");
        assert_eq!(lines[3]["received"], serde_json::json!({"return": {}}));
        assert!(lines[0]["time"].is_f64());
    }
}
