//! Where the history of lines is kept: in a file that is its owner's alone. Imports `failure`.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use rustyline::history::FileHistory;
use rustyline::{Editor, Helper};

use crate::failure::say;

/// Lines that are kept.
pub(super) const LINES: usize = 1000;

/// The file of the history.
pub(super) struct History {
    file: PathBuf,
}

impl History {
    /// The user's history of QMP or of HMP, in `$XDG_STATE_HOME/qmp`; none where there is no place for it.
    pub(super) fn new(hmp: bool) -> Option<Self> {
        let absolute = |name: &str| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        let state =
            absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        let name = if hmp { "hmp-history" } else { "history" };
        let file = state.join("qmp").join(name);
        match make(&file) {
            Ok(()) => Some(History { file }),
            Err(error) => {
                say(&format!("no history is kept: {}: {error}", file.display()));
                None
            }
        }
    }

    /// Gives the editor what is kept.
    pub(super) fn load<H: Helper>(&self, editor: &mut Editor<H, FileHistory>) {
        if let Err(error) = editor.load_history(&self.file) {
            say(&format!("no history from {}: {error}", self.file.display()));
        }
    }

    /// Keeps what the editor has more.
    pub(super) fn append<H: Helper>(&self, editor: &mut Editor<H, FileHistory>) {
        if let Err(error) = editor.append_history(&self.file) {
            say(&format!("no history to {}: {error}", self.file.display()));
        }
    }
}

/// Makes the file where it is not there yet. A file whose rights somebody has changed gets its own back with the next line.
fn make(file: &PathBuf) -> std::io::Result<()> {
    if let Some(parent) = file.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(file)?;
    Ok(())
}
