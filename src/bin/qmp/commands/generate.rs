//! `qmp completions` and `qmp man`: what is made of the definition of the arguments.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use clap_mangen::Man;

use crate::failure::Failure;
use crate::output::Output;

#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Write a page for the program and each of its commands into this directory, instead of the program's to standard output
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

pub(crate) async fn completions(
    mut command: clap::Command,
    args: CompletionsArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "qmp", &mut script);
    print(script, output).await
}

pub(crate) async fn man(
    command: clap::Command,
    args: ManArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let Some(dir) = args.dir else {
        let page =
            page(&command).map_err(|error| Failure::system("cannot write the page", error))?;
        return print(page, output).await;
    };
    let shown = dir.display().to_string();
    std::fs::create_dir_all(&dir)
        .and_then(|()| write_pages(&command, &dir))
        .map_err(|error| Failure::system(&format!("cannot write to {shown}"), error))
}

/// Writes the page of `command`, and those of its commands.
fn write_pages(command: &clap::Command, dir: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        write_pages(command, dir)?;
    }
    let name = Man::new(command.clone()).get_filename();
    std::fs::write(dir.join(name), page(command)?)
}

/// A page as `clap_mangen` makes it, but for the usage and for what stands behind the options: those are laid out by hand, and
/// keep their lines.
fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").lines();
    let usage: Vec<&str> = usage.map(str::trim).collect();
    as_it_is("SYNOPSIS", &usage.join("\n"), &mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_help() {
        as_it_is("NOTES", &notes.to_string(), &mut page)?;
    }
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}

/// A section whose lines are not filled.
fn as_it_is(heading: &str, text: &str, page: &mut Vec<u8>) -> io::Result<()> {
    writeln!(page, ".SH {heading}\n.nf")?;
    for line in text.lines() {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A dot or an apostrophe in front would make it a request.
        writeln!(page, "\\&{line}")?;
    }
    writeln!(page, ".fi")
}

async fn print(text: Vec<u8>, output: &mut Output) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(&text);
    output.line(text.trim_end()).await
}
