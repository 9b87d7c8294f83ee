//! What the user sees: a line for each case as it ends, the failures once more, and the count.

use std::io::IsTerminal;
use std::time::Duration;

use crate::conformance::case::Case;
use crate::conformance::explain;
use crate::conformance::plan::Boot;
use crate::conformance::target::Target;
use crate::conformance::verdict::{Judged, Matrix, Verdict, in_words};

/// The lines of a run, with their columns.
pub struct Progress {
    width: usize,
    color: bool,
}

impl Progress {
    /// For these cases.
    pub fn new(boots: &[Boot], targets: &[Target]) -> Self {
        let case = boots.iter().flat_map(|boot| &boot.cases).map(|case| case.name.len()).max();
        let target = targets.iter().map(|target| target.name.len()).max();
        let width = case.unwrap_or(0) + target.unwrap_or(0) + 2;
        Self { width, color: std::io::stdout().is_terminal() }
    }

    /// One case has ended.
    pub fn line(&mut self, target: &Target, case: &Case, judged: &Judged) {
        let (color, word) = match judged.verdict {
            Verdict::Success => (32, "ok"),
            Verdict::Skip => (33, "skipped"),
            _ if case.limit(target.emulator).is_some() => (33, "failed, as may be here"),
            Verdict::Error => (31, "ERROR"),
            Verdict::Failure => (31, "FAILED"),
            Verdict::Crash => (31, "CRASHED"),
        };
        let word = if self.color { format!("\x1b[{color}m{word}\x1b[0m") } else { word.to_owned() };
        let why = if judged.reason.is_empty() { String::new() } else { format!(" ({})", judged.reason) };
        println!(
            "test {:width$} ... {word}{why}",
            format!("{}::{}", target.name, case.name),
            width = self.width
        );
    }
}

/// The end of a run.
pub fn summary(matrix: &Matrix, problems: &[String], time: Duration) {
    let bad: Vec<_> = matrix
        .rows
        .iter()
        .flat_map(|row| matrix.columns(row).map(move |(target, judged)| (row, target, judged)))
        .filter(|(_, _, judged)| judged.verdict.is_bad())
        .collect();
    if !bad.is_empty() {
        println!("\nfailures:");
    }
    for (row, target, judged) in bad {
        println!(
            "\n---- {}::{} ----\n    {}\n{}",
            target.name,
            row.case.name,
            row.case.clause,
            explain(judged)
        );
    }
    if !problems.is_empty() {
        println!("\nproblems:");
        problems.iter().for_each(|problem| println!("    {problem}"));
    }
    let tallies: Vec<String> = matrix
        .targets
        .iter()
        .enumerate()
        .map(|(column, target)| format!("{}: {}", target.name, in_words(matrix.tally(column))))
        .collect();
    let word = if problems.is_empty() { "ok" } else { "FAILED" };
    let differences = matrix.differences().count();
    println!(
        "\nconformance result: {word}. {}; {differences} differences; finished in {:.1} s",
        tallies.join("; "),
        time.as_secs_f32()
    );
}
