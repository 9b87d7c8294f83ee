//! The matrix as JUnit XML: a suite for each target, which CI services show.

use anyhow::{Context, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::conformance::verdict::{Judged, Matrix, Row, Verdict};

/// The document.
///
/// # Errors
/// The writer refuses a text.
pub fn document(matrix: &Matrix) -> Result<String> {
    let mut report = Report::new("conformance");
    for (column, target) in matrix.targets.iter().enumerate() {
        let mut suite = TestSuite::new(&*target.name);
        suite.add_property(("hypervisor", &*target.hypervisor.name()));
        suite.add_property(("emulator", target.emulator.name()));
        for row in &matrix.rows {
            if let Some(judged) = &row.judged[column] {
                suite.add_test_case(test_case(&target.name, row, judged));
            }
        }
        report.add_test_suite(suite);
    }
    report.to_string().context("writing the JUnit report")
}

fn test_case(target: &str, row: &Row, judged: &Judged) -> TestCase {
    let mut status = match judged.verdict {
        Verdict::Success => TestCaseStatus::success(),
        Verdict::Skip => TestCaseStatus::skipped(),
        Verdict::Failure => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Verdict::Error | Verdict::Crash => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if judged.verdict != Verdict::Success {
        status.set_message(&*judged.reason);
    }
    if judged.verdict.is_bad() {
        status.set_type(judged.verdict.word());
        status.set_description(format!("{}\n{}", row.case.clause, judged.details.join("\n")));
    }
    let (module, _) = row.case.name.split_once("::").unwrap_or((&row.case.name, ""));
    let mut case = TestCase::new(&*row.case.name, status);
    case.set_classname(format!("{target}.{module}"));
    case.set_time(judged.time);
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::verdict::tests::matrix;

    #[test]
    fn it_is_read_back() {
        use Verdict::*;
        let matrix = matrix(&[
            ("a::good", [Some(Success), Some(Success), None]),
            ("a::bad", [Some(Failure), Some(Crash), None]),
            ("a::skipped", [Some(Skip), Some(Error), Some(Success)]),
        ]);
        let report = Report::deserialize_from_str(&document(&matrix).unwrap()).unwrap();
        assert_eq!((report.tests, report.failures, report.errors), (7, 1, 2));
        let ours = &report.test_suites[0];
        assert_eq!((ours.name.as_str(), ours.tests), ("paravane", 3));
        assert!(matches!(&ours.test_cases[2].status, TestCaseStatus::Skipped { .. }));
        let TestCaseStatus::NonSuccess { kind, message, description, .. } = &ours.test_cases[1].status else {
            panic!()
        };
        assert_eq!((*kind, message.as_ref().unwrap().as_str()), (NonSuccessKind::Failure, "why <so>"));
        assert!(description.as_ref().unwrap().as_str().contains("A <clause> & more.\ngot 1, expected 2"));
    }
}
