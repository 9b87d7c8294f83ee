//! How a case ended on a target, and what follows from all of that.

use std::time::Duration;

use super::case::Case;
use super::target::{Owner, Target};

/// How a case ended, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it must.
    Success,
    /// It cannot be judged here.
    Skip,
    /// The case itself could not do its work.
    Error,
    /// The hypervisor answered wrongly.
    Failure,
    /// It came to no end.
    Crash,
}

impl Verdict {
    /// All of them, from the best to the worst.
    pub const ALL: [Self; 5] = [Self::Success, Self::Skip, Self::Error, Self::Failure, Self::Crash];

    /// The word in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Skip => "skip",
            Self::Error => "error",
            Self::Failure => "failure",
            Self::Crash => "crash",
        }
    }

    /// Whether it counts as failed.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        !matches!(self, Self::Success | Self::Skip)
    }
}

/// A case's end on one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// How it ended.
    pub verdict: Verdict,
    /// Why, in a few words; empty for a success.
    pub reason: String,
    /// What was printed meanwhile.
    pub details: Vec<String>,
    /// How long it took.
    pub time: Duration,
}

/// One case on all targets, in the order of the matrix' targets.
pub struct Row {
    /// The case.
    pub case: Case,
    /// `None` where it was not to run.
    pub judged: Vec<Option<Judged>>,
}

impl Row {
    /// Whether two targets ended differently.
    #[must_use]
    pub fn differs(&self) -> bool {
        let mut verdicts = self.judged.iter().flatten().map(|judged| judged.verdict);
        let first = verdicts.next();
        verdicts.any(|verdict| Some(verdict) != first)
    }

    /// The worst end.
    #[must_use]
    pub fn worst(&self) -> Option<Verdict> {
        self.judged.iter().flatten().map(|judged| judged.verdict).max()
    }
}

/// Every case on every target.
pub struct Matrix {
    /// The columns.
    pub targets: Vec<Target>,
    /// The rows, by the case's name.
    pub rows: Vec<Row>,
}

impl Matrix {
    /// Forgives what an emulator is to blame for: a case that says so, and that nothing else passes on that emulator.
    pub fn settle(&mut self) {
        for row in &mut self.rows {
            for column in 0..self.targets.len() {
                let emulator = self.targets[column].emulator.name();
                let limit = row.case.limits.iter().find(|(name, _)| name == emulator);
                let passed_elsewhere = self.targets.iter().zip(&row.judged).any(|(target, judged)| {
                    target.emulator.name() == emulator
                        && judged.as_ref().is_some_and(|judged| judged.verdict == Verdict::Success)
                });
                if let (Some((_, why)), Some(judged), false) =
                    (limit, &mut row.judged[column], passed_elsewhere)
                    && judged.verdict.is_bad()
                {
                    let (was, said) = (judged.verdict.word(), &judged.reason);
                    judged.reason = format!("{emulator}: {why} ({was}: {said})");
                    judged.verdict = Verdict::Skip;
                }
            }
        }
    }

    /// What makes the whole run fail: a bad end anywhere, and a skip on ours of what real Xen passes.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for row in &self.rows {
            let xen_passes = self
                .columns(row)
                .any(|(target, judged)| target.owner == Owner::Xen && judged.verdict == Verdict::Success);
            for (target, judged) in self.columns(row) {
                let name = format!("{} on {}", row.case.name, target.name);
                let (word, reason) = (judged.verdict.word(), &judged.reason);
                if judged.verdict.is_bad() {
                    problems.push(format!("{name}: {word}: {reason}"));
                } else if target.owner == Owner::Ours && judged.verdict == Verdict::Skip && xen_passes {
                    problems.push(format!("{name}: skipped although Xen passes it: {reason}"));
                }
            }
        }
        problems
    }

    /// Rows on which the targets differ.
    pub fn differences(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.differs())
    }

    /// How many cases ended how on a target: by the order of [`Verdict::ALL`].
    #[must_use]
    pub fn tally(&self, column: usize) -> [usize; 5] {
        Verdict::ALL.map(|verdict| {
            self.rows
                .iter()
                .filter_map(|row| row.judged[column].as_ref())
                .filter(|judged| judged.verdict == verdict)
                .count()
        })
    }

    /// The targets of a row that have an end, with it.
    pub fn columns<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = (&'a Target, &'a Judged)> {
        self.targets.iter().zip(&row.judged).filter_map(|(target, judged)| Some((target, judged.as_ref()?)))
    }
}

/// `295 success, 3 skip`: without what did not happen.
#[must_use]
pub fn in_words(tally: [usize; 5]) -> String {
    let counted: Vec<String> = Verdict::ALL
        .iter()
        .zip(tally)
        .filter(|(verdict, count)| *count > 0 || **verdict == Verdict::Success)
        .map(|(verdict, count)| format!("{count} {}", verdict.word()))
        .collect();
    counted.join(", ")
}

#[cfg(test)]
pub mod tests {
    //! Here and for the tests of the reports.

    use super::*;

    /// A matrix of paravane, xen and paravane@bochs from each row's verdicts.
    pub fn matrix(rows: &[(&str, [Option<Verdict>; 3])]) -> Matrix {
        let targets = ["paravane", "xen", "bochs"].map(|name| Target::parse(name).unwrap());
        let rows = rows.iter().map(|(name, verdicts)| Row {
            case: Case { name: (*name).into(), clause: "A <clause> & more.".into(), ..Case::default() },
            judged: verdicts
                .map(|verdict| {
                    verdict.map(|verdict| Judged {
                        verdict,
                        reason: if verdict == Verdict::Success { String::new() } else { "why <so>".into() },
                        details: vec!["got 1, expected 2".into()],
                        time: Duration::from_millis(5),
                    })
                })
                .into(),
        });
        Matrix { targets: targets.into(), rows: rows.collect() }
    }

    #[test]
    fn bad_ends_and_lone_skips_are_problems() {
        use Verdict::*;
        let matrix = matrix(&[
            ("a::good", [Some(Success), Some(Success), None]),
            ("a::bad", [Some(Failure), Some(Success), None]),
            ("a::skipped", [Some(Skip), Some(Success), None]),
            ("a::skipped_by_all", [Some(Skip), Some(Skip), None]),
            ("a::better_than_xen", [Some(Success), Some(Crash), None]),
            ("a::bochs", [Some(Success), Some(Success), Some(Error)]),
        ]);
        let problems = matrix.problems();
        let starts = [
            "a::bad on paravane: fail",
            "a::skipped on paravane",
            "a::better_than_xen on xen",
            "a::bochs on",
        ];
        assert_eq!(problems.len(), starts.len(), "{problems:?}");
        for (problem, start) in problems.iter().zip(starts) {
            assert!(problem.starts_with(start), "{problem}");
        }
        let differences: Vec<&str> = matrix.differences().map(|row| row.case.name.as_str()).collect();
        assert_eq!(differences, ["a::bad", "a::skipped", "a::better_than_xen", "a::bochs"]);
        assert_eq!(in_words(matrix.tally(0)), "3 success, 2 skip, 1 failure");
        assert_eq!(matrix.rows[5].worst(), Some(Error));
    }

    #[test]
    fn an_emulator_is_blamed_only_where_nothing_passes_on_it() {
        use Verdict::*;
        let mut matrix = matrix(&[
            ("a::both_fail", [Some(Failure), Some(Failure), Some(Success)]),
            ("a::ours_fails", [Some(Failure), Some(Success), Some(Success)]),
            ("a::other_emulator", [Some(Success), Some(Success), Some(Failure)]),
        ]);
        for row in &mut matrix.rows {
            row.case.limits.push(("qemu".into(), "wrong error code".into()));
        }
        matrix.settle();
        let verdict = |row: usize, column: usize| matrix.rows[row].judged[column].as_ref().unwrap();
        assert_eq!(verdict(0, 0).verdict, Skip);
        assert_eq!(verdict(0, 0).reason, "qemu: wrong error code (failure: why <so>)");
        assert_eq!((verdict(0, 1).verdict, verdict(0, 2).verdict), (Skip, Success));
        assert_eq!(verdict(1, 0).verdict, Failure);
        assert_eq!(verdict(2, 2).verdict, Failure);
    }
}
