//! The table at the end of a run: each case beside its floor, from what criterion has stored. Imports std and serde_json.

use std::path::PathBuf;
use std::time::SystemTime;

/// One line of the table.
pub(crate) struct Row {
    pub(crate) title: &'static str,
    /// Criterion's group, and the function in it.
    pub(crate) group: &'static str,
    pub(crate) function: &'static str,
    /// How many calls, events, domains or bytes one iteration is.
    pub(crate) elements: u32,
    pub(crate) unit: Unit,
}

/// How a figure is given.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// Time of one element.
    Time,
    /// Elements a second.
    Rate,
    /// Bytes a second.
    Bytes,
}

/// The function of every group that is its floor.
pub(crate) const FLOOR: &str = "floor";

/// Prints the rows that were measured since `start`.
pub(crate) fn print(rows: &[Row], start: SystemTime) {
    let Some(results) = results() else { return };
    let mut lines = rows.iter().filter_map(|row| {
        let nanoseconds = |function| {
            let path = results
                .join(row.group)
                .join(function)
                .join("new/estimates.json");
            if std::fs::metadata(&path).ok()?.modified().ok()? < start {
                return None;
            }
            let estimates: serde_json::Value =
                serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
            Some(estimates["median"]["point_estimate"].as_f64()? / f64::from(row.elements))
        };
        let figure = nanoseconds(row.function)?;
        let (floor, ratio) = match nanoseconds(FLOOR) {
            Some(floor) => (row.unit.show(floor), format!("{:.2}", figure / floor)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        Some(format!(
            "{:<46} {:>14} {floor:>14} {ratio:>7}",
            row.title,
            row.unit.show(figure)
        ))
    });
    let Some(first) = lines.next() else { return };
    println!(
        "\n{:<46} {:>14} {:>14} {:>7}",
        "case", "figure", "floor", "ratio"
    );
    println!("{first}");
    for line in lines {
        println!("{line}");
    }
}

impl Unit {
    fn show(self, nanoseconds: f64) -> String {
        match self {
            Unit::Time if nanoseconds < 100_000.0 => format!("{:.2} µs", nanoseconds / 1e3),
            Unit::Time => format!("{:.0} µs", nanoseconds / 1e3),
            Unit::Rate if nanoseconds < 1000.0 => format!("{:.2} M/s", 1e3 / nanoseconds),
            Unit::Rate => format!("{:.0} k/s", 1e6 / nanoseconds),
            Unit::Bytes => format!("{:.2} GB/s", 1.0 / nanoseconds),
        }
    }
}

/// Where criterion has put its results: beside the directory of this program.
fn results() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let target = std::env::var_os("CRITERION_HOME").map(PathBuf::from);
    target.or_else(|| {
        program
            .ancestors()
            .map(|above| above.join("criterion"))
            .find(|path| path.is_dir())
    })
}
