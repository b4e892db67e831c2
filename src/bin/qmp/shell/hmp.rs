//! Lines for QEMU's human monitor: the virtual CPU they are for, and the names it knows. Imports nothing of ours.

/// What a line of HMP mode is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'t> {
    Nothing,
    Leave,
    /// `cpu`, and which.
    Cpu(Option<u32>),
    /// For QEMU.
    Command(&'t str),
}

/// Reads a line. QEMU's own `cpu` would change nothing, as each command comes with its own: so it is the shell's.
///
/// # Errors
///
/// A CPU that is no number.
pub(super) fn parse(text: &str) -> Result<Line<'_>, String> {
    let text = text.trim();
    let mut words = text.split_whitespace();
    Ok(match (words.next(), words.next(), words.next()) {
        (None, ..) => Line::Nothing,
        (Some("exit"), None, None) => Line::Leave,
        (Some("cpu"), None, None) => Line::Cpu(None),
        (Some("cpu"), Some(number), None) => match number.parse() {
            Ok(number) => Line::Cpu(Some(number)),
            Err(_) => return Err(format!("`{number}` is no number of a CPU")),
        },
        _ => Line::Command(text),
    })
}

/// The names in what `help` or `info` say: each line has one, or several with `|` between, before its arguments.
pub(super) fn names(help: &str, below: Option<&str>) -> Vec<String> {
    let mut names = Vec::new();
    for line in help.lines() {
        let mut words = line.split_whitespace();
        let mut first = words.next();
        if below.is_some() && first == below {
            first = words.next();
        }
        let is_name = |name: &&str| {
            name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name
                    .chars()
                    .all(|char| char.is_ascii_alphanumeric() || "_-".contains(char))
        };
        names.extend(
            first
                .unwrap_or("")
                .split('|')
                .filter(is_name)
                .map(str::to_owned),
        );
    }
    names.sort();
    names.dedup();
    names
}

/// What may stand at the end of `text`, from where on: names of commands, or what `info` and `help` have.
pub(super) fn complete(text: &str, commands: &[String], info: &[String]) -> (usize, Vec<String>) {
    let start = text.rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
    let before: Vec<&str> = text[..start].split_whitespace().collect();
    let names = match before[..] {
        [] | ["help"] => commands,
        ["info"] | ["help", "info"] => info,
        _ => &[],
    };
    let fitting = names.iter().filter(|name| name.starts_with(&text[start..]));
    (start, fitting.cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_and_cpus_are_the_shells() {
        for (text, line) in [
            ("", Line::Nothing),
            (" \t ", Line::Nothing),
            ("exit", Line::Leave),
            ("cpu", Line::Cpu(None)),
            (" cpu  3 ", Line::Cpu(Some(3))),
            ("info cpus", Line::Command("info cpus")),
            (" info status ", Line::Command("info status")),
            ("cpu 1 2", Line::Command("cpu 1 2")),
            ("quit", Line::Command("quit")),
        ] {
            assert_eq!(parse(text), Ok(line), "{text:?}");
        }
        assert!(parse("cpu x").is_err() && parse("cpu -1").is_err());
    }

    #[test]
    fn names_are_read_out_of_what_help_says() {
        let help = "announce_self [interfaces] [id] -- Trigger GARP/RARP announcements\r\n\
                    c|cont  -- resume emulation\r\n\
                    help|? [cmd] -- show the help\r\n\
                    \r\n\
                    unknown command: 'x y'\r\n\
                    i /fmt addr -- I/O port read\r\n";
        // A line that is no entry has a first word like one; it does no harm beside the others.
        assert_eq!(
            names(help, None),
            ["announce_self", "c", "cont", "help", "i", "unknown"]
        );
        let info = "info balloon  -- show balloon information\r\ninfo block [-n] -- show\r\n";
        assert_eq!(names(info, Some("info")), ["balloon", "block"]);
    }

    #[test]
    fn completion_goes_by_the_words_before() {
        let commands = ["cont", "cpu", "info"].map(str::to_owned);
        let info = ["block", "blockstats", "cpus"].map(str::to_owned);
        for (text, start, names) in [
            ("", 0, &["cont", "cpu", "info"][..]),
            ("c", 0, &["cont", "cpu"]),
            ("info b", 5, &["block", "blockstats"]),
            ("help c", 5, &["cont", "cpu"]),
            ("help info c", 10, &["cpus"]),
            ("cont x", 5, &[]),
        ] {
            let (at, found) = complete(text, &commands, &info);
            assert_eq!(
                (at, &found[..]),
                (
                    start,
                    &names
                        .iter()
                        .map(|name| (*name).to_owned())
                        .collect::<Vec<_>>()[..]
                ),
                "{text}"
            );
        }
    }
}
