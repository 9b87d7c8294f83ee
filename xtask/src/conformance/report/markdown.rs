//! The matrix as a page for a repository or a terminal.

use super::{by_interest, reasons};
use crate::conformance::verdict::{Judged, Matrix, Row, in_words};

/// A summary, the rows that differ or did not succeed, then all rows.
pub fn page(matrix: &Matrix) -> String {
    let mut text = String::from("# Conformance\n\n");
    for (column, target) in matrix.targets.iter().enumerate() {
        text.push_str(&format!("- **{}**: {}\n", target.name, in_words(matrix.tally(column))));
    }
    let (interesting, rest): (Vec<&Row>, Vec<&Row>) = by_interest(matrix)
        .into_iter()
        .partition(|row| row.differs() || row.worst().is_some_and(|worst| worst.word() != "success"));
    text.push_str(&format!("- {} differences\n", matrix.differences().count()));
    if !interesting.is_empty() {
        text.push_str("\n## Differences, failures, skips\n\n");
        text.push_str(&table(matrix, &interesting));
    }
    if !rest.is_empty() {
        text.push_str("\n## The same success everywhere\n\n");
        text.push_str(&table(matrix, &rest));
    }
    text
}

fn table(matrix: &Matrix, rows: &[&Row]) -> String {
    let names: Vec<&str> = matrix.targets.iter().map(|target| target.name.as_str()).collect();
    let mut text =
        format!("| case | {} | clause |\n|---|{}---|\n", names.join(" | "), "---|".repeat(names.len()));
    for row in rows {
        let cells: Vec<String> =
            row.judged.iter().map(|judged| cell(judged.as_ref(), row.differs())).collect();
        let why: Vec<String> = reasons(row).iter().map(|why| format!(" *{}*", escaped(why))).collect();
        text.push_str(&format!(
            "| `{}` | {} | {}{} |\n",
            row.case.name,
            cells.join(" | "),
            escaped(&row.case.clause),
            why.concat()
        ));
    }
    text
}

fn cell(judged: Option<&Judged>, differs: bool) -> String {
    match judged {
        None => "–".into(),
        Some(judged) if differs || judged.verdict.is_bad() => format!("**{}**", judged.verdict.word()),
        Some(judged) => judged.verdict.word().into(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::verdict::Verdict::*;
    use crate::conformance::verdict::tests::matrix;

    #[test]
    fn differences_stand_first() {
        let text = page(&matrix(&[
            ("a::good", [Some(Success), Some(Success), None]),
            ("b::skipped", [Some(Skip), Some(Skip), None]),
            ("c::differs", [Some(Failure), Some(Success), None]),
        ]));
        assert!(text.contains("- **paravane**: 1 success, 1 skip, 1 failure\n"), "{text}");
        assert!(text.contains("- 1 differences\n"));
        let row = "| `c::differs` | **failure** | **success** | – | A &lt;clause> & more. *why &lt;so>* |\n";
        assert!(text.contains(row), "{text}");
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("c::differs") < at("b::skipped") && at("b::skipped") < at("a::good"));
    }
}
