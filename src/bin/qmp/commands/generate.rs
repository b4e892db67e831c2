//! `qmp completions` and `qmp man`: what is made of the definition of the arguments.

use std::path::PathBuf;

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
    let Some(dir) = args.dir else {
        let mut page = Vec::new();
        let rendered = Man::new(command).render(&mut page);
        rendered.map_err(|error| Failure::system("cannot write the page", error))?;
        return print(page, output).await;
    };
    let shown = dir.display().to_string();
    std::fs::create_dir_all(&dir)
        .and_then(|()| clap_mangen::generate_to(command, &dir))
        .map_err(|error| Failure::system(&format!("cannot write to {shown}"), error))
}

async fn print(text: Vec<u8>, output: &mut Output) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(&text);
    output.line(text.trim_end()).await
}
