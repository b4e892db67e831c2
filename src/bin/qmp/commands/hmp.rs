//! `qmp hmp`: lines of the human monitor.

use libvirt_qmp::{Monitor, MonitorExt};

use super::batch::{Batch, Line};
use crate::connect::{Settings, with_monitor};
use crate::failure::Failure;
use crate::output::{Output, printable};

const USAGE: &str = "qmp [-C URI] hmp [OPTIONS] DOMAIN LINE...
       qmp [-C URI] hmp [OPTIONS] DOMAIN < SCRIPT
       qmp -C unix:PATH hmp [OPTIONS] [LINE...]";

const HELP: &str = "\
What follows the domain is the line, options of the human monitor too, so those of
this program stand before it. In a script the line `cpu N` chooses the virtual CPU
for the lines after it. A line that the human monitor does not know is no error:
its text says so.";

#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = HELP)]
pub(crate) struct Args {
    /// The virtual CPU that the lines are about
    #[arg(long, value_name = "N")]
    cpu: Option<u32>,
    #[command(flatten)]
    batch: Batch,
    /// The domain by name or UUID, and the line; no domain on QEMU's own socket
    #[arg(
        value_name = "WORD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<String>,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let endpoint = settings.endpoint()?;
    let (domain, words) = endpoint.domain_of(&args.words)?;
    if words.is_empty() {
        args.batch.check()?;
    } else if !args.batch.commands.is_empty() {
        return Err(Failure::usage("a line is given and `-c` too"));
    }
    with_monitor(settings, domain, async |monitor| {
        let mut cpu = args.cpu;
        if !words.is_empty() {
            return one(monitor, &words.join(" "), cpu, output).await;
        }
        let each = async |line: &str| {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                return Ok(Line::Blank);
            }
            match chosen_cpu(line) {
                // It would be forgotten with the line, so it goes with those that follow; a bad one is found at once.
                Some(number) => {
                    let _: String = monitor
                        .hmp("info version", number)
                        .await
                        .map_err(Failure::running)?;
                    cpu = Some(number);
                }
                None => one(monitor, line, cpu, output).await?,
            }
            Ok(Line::Command)
        };
        args.batch.run(each).await
    })
    .await
}

/// The virtual CPU that the line chooses.
fn chosen_cpu(line: &str) -> Option<u32> {
    let (word, number) = line.split_once(char::is_whitespace)?;
    match word {
        "cpu" => number.trim().parse().ok(),
        _ => None,
    }
}

async fn one(
    monitor: &dyn Monitor,
    line: &str,
    cpu: Option<u32>,
    output: &mut Output,
) -> Result<(), Failure> {
    let text = monitor.hmp(line, cpu).await.map_err(Failure::running)?;
    match shown(&text) {
        text if text.is_empty() => Ok(()),
        text => output.line(text).await,
    }
}

/// The text without its last line end, its lines as they end here, and nothing in it that controls a terminal.
pub(crate) fn shown(text: &str) -> String {
    let text = text.trim_end_matches(['\r', '\n']);
    let lines = text.split('\n').map(|line| {
        let cells = line.trim_end_matches('\r').split('\t').map(printable);
        cells.collect::<Vec<_>>().join("\t")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_lines() {
        assert_eq!(shown("a\r\nb\tc\r\n"), "a\nb\tc");
        assert_eq!(shown("\u{1b}[2J\n\n"), "\\u{1b}[2J");
        assert_eq!(shown("\r\n"), "");
    }

    #[test]
    fn a_cpu_is_chosen_by_number() {
        assert_eq!(chosen_cpu("cpu 1"), Some(1));
        assert_eq!(chosen_cpu("cpu  07"), Some(7));
        for line in ["cpu", "cpu x", "cpu -1", "cpus 1", "info cpus"] {
            assert_eq!(chosen_cpu(line), None, "{line}");
        }
    }
}
