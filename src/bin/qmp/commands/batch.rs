//! Commands given as lines: by `-c`, or on standard input. Imports `failure`.

use std::io::IsTerminal;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin};

use crate::failure::{Exit, Failure};

/// Bytes of a line. QEMU takes 64 MiB.
const MAX_LINE: u64 = 64 << 20;

/// Where lines come from, and what happens where one fails.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Batch {
    /// A command, as a line of a script; may be given several times
    #[arg(short = 'c', long = "command", value_name = "LINE")]
    pub(crate) commands: Vec<String>,
    /// Go on after a command that failed; the exit code is that of the first failure
    #[arg(short = 'k', long)]
    pub(crate) keep_going: bool,
}

impl Batch {
    /// Whether there may be lines at all: nobody is asked to type them into a terminal.
    ///
    /// # Errors
    ///
    /// Usage, where there cannot be any.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.commands.is_empty() && std::io::stdin().is_terminal() {
            true => Err(nothing()),
            false => Ok(()),
        }
    }

    /// Does `each` for each line that was given by `-c`, or else for each of standard input, until one fails.
    ///
    /// # Errors
    ///
    /// The first failure, with the number of its line; what is wrong with the input; and usage where there is not a single
    /// line, for then something was forgotten.
    pub(crate) async fn run(
        &self,
        mut each: impl AsyncFnMut(&str) -> Result<Line, Failure>,
    ) -> Result<(), Failure> {
        let mut lines = match self.commands.is_empty() {
            false => Lines::Given(self.commands.iter()),
            true => Lines::Read(Box::new(BufReader::new(tokio::io::stdin()))),
        };
        let (mut number, mut any) = (0_usize, false);
        let mut first = None;
        while let Some(line) = lines.next().await? {
            number += 1;
            let failure = match each(&line).await {
                Ok(Line::Command) => {
                    any = true;
                    continue;
                }
                Ok(Line::Blank) => continue,
                Ok(Line::Last) => return Ok(()),
                Err(failure) => failure.on_line(number),
            };
            any = true;
            if !self.keep_going || failure.is_final() {
                return Err(failure);
            }
            failure.tell();
            first.get_or_insert(failure.told());
        }
        match first {
            Some(failure) => Err(failure),
            None if any => Ok(()),
            None => Err(nothing()),
        }
    }
}

/// What a line was.
pub(crate) enum Line {
    Command,
    /// Empty, or a comment.
    Blank,
    /// What comes after it is not wanted.
    Last,
}

fn nothing() -> Failure {
    Failure::usage("no command given")
}

enum Lines<'a> {
    Given(std::slice::Iter<'a, String>),
    Read(Box<BufReader<Stdin>>),
}

impl Lines<'_> {
    async fn next(&mut self) -> Result<Option<String>, Failure> {
        let reader = match self {
            Lines::Given(lines) => return Ok(lines.next().cloned()),
            Lines::Read(reader) => reader,
        };
        let mut line = Vec::new();
        let read = reader.take(MAX_LINE).read_until(b'\n', &mut line).await;
        read.map_err(|error| Failure::system("cannot read standard input", error))?;
        if line.len() as u64 == MAX_LINE {
            return Err(Failure::usage(format!(
                "a line is over {MAX_LINE} bytes long"
            )));
        }
        if line.is_empty() {
            return Ok(None);
        }
        String::from_utf8(line)
            .map(Some)
            .map_err(|error| Failure::new(Exit::Usage, format!("standard input: {error}")))
    }
}
