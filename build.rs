//! Runs the generator of `build/` over `xdr/`. What there is to decide is decided there.

#[path = "build/mod.rs"]
mod generator;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(messages) => {
            eprintln!("{messages}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut sources = Vec::new();
    collect(Path::new("xdr"), &mut sources)?;
    let output = generator::generate(generator::MODULES, &sources).map_err(|problems| {
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })?;

    let directory = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build.rs is run by cargo")?;
    let directory = PathBuf::from(directory);
    for (name, text) in [
        ("constants.rs", output.constants),
        ("protocol.rs", output.protocol),
        ("methods.rs", output.methods),
        ("admin.rs", output.admin),
        ("samples.rs", output.samples),
    ] {
        let file = directory.join(name);
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

/// All `.x` files under `directory`. Cargo watches each, and each directory, so that a new file is noticed.
fn collect(directory: &Path, sources: &mut Vec<generator::Source>) -> Result<(), String> {
    let named = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    println!("cargo:rerun-if-changed={}", directory.display());
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|error| named(directory, error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for path in entries.into_iter().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "x") {
            println!("cargo:rerun-if-changed={}", path.display());
            let text = fs::read_to_string(&path).map_err(|error| named(&path, error))?;
            sources.push(generator::Source {
                path: path.display().to_string().replace('\\', "/"),
                text,
            });
        }
    }
    Ok(())
}
