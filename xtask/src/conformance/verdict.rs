//! How a case ended on a target, and what follows from all of that.

use std::time::Duration;

use super::case::Case;
use super::target::{Owner, Target};
use crate::qemu::Emulator;

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
    /// Forgives what an emulator is to blame for, where the case says so; but not on ours what Xen passes there.
    pub fn settle(&mut self) {
        for row in &mut self.rows {
            let passes = |target: &Target, judged: &Option<Judged>| {
                target.owner == Owner::Xen
                    && judged.as_ref().is_some_and(|judged| judged.verdict == Verdict::Success)
            };
            let passed: Vec<Emulator> = self
                .targets
                .iter()
                .zip(&row.judged)
                .filter(|(target, judged)| passes(target, judged))
                .map(|(target, _)| target.emulator)
                .collect();
            for (target, judged) in self.targets.iter().zip(&mut row.judged) {
                let (Some(why), Some(judged)) = (row.case.limit(target.emulator), judged) else { continue };
                if judged.verdict.is_bad() && !passed.contains(&target.emulator) {
                    let (emulator, was) = (target.emulator.name(), judged.verdict.word());
                    judged.reason = format!("{emulator}: {why} ({was}: {})", judged.reason);
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
    fn an_emulator_is_blamed_only_where_xen_does_not_pass() {
        use Verdict::*;
        let mut matrix = matrix(&[
            ("a::both_fail", [Some(Failure), Some(Failure), Some(Success)]),
            ("a::ours_fails", [Some(Failure), Some(Success), Some(Success)]),
            ("a::other_emulator", [Some(Success), Some(Success), Some(Failure)]),
            ("a::xen_fails", [Some(Success), Some(Crash), None]),
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
        assert_eq!((verdict(3, 0).verdict, verdict(3, 1).verdict), (Success, Skip));
    }
}
