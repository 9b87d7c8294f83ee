//! The matrix as one self-contained page: cards with the counts, filters by verdict, target and text, details to open.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::by_interest;
use crate::conformance::verdict::{Judged, Matrix, Row, Verdict};

/// Colours for light and dark, and the layout.
const STYLE: &str = include_str!("page/style.css");
/// The filters.
const SCRIPT: &str = include_str!("page/script.js");

/// The page. Without a script it shows everything.
pub fn page(matrix: &Matrix) -> String {
    let differences = matrix.differences().count();
    let problems = matrix.problems();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Conformance" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Conformance" }
                    p.lead {
                        (matrix.rows.len()) " cases on " (matrix.targets.len()) " targets, "
                        (differences) " differences, "
                        span.bad[!problems.is_empty()] { (problems.len()) " problems" }
                    }
                }
                section.cards { @for column in 0..matrix.targets.len() { (card(matrix, column)) } }
                @if !problems.is_empty() {
                    details.problems open {
                        summary { "Problems" }
                        ul { @for problem in &problems { li { (problem) } } }
                    }
                }
                (filters())
                (table(matrix))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// Name, counts and their shares as a bar.
fn card(matrix: &Matrix, column: usize) -> Markup {
    let target = &matrix.targets[column];
    let tally = matrix.tally(column);
    html! {
        article.card {
            h2 { (target.name) }
            p.where { (target.hypervisor.name()) " on " (target.emulator.name()) }
            div.bar aria-hidden="true" {
                @for (verdict, count) in Verdict::ALL.iter().zip(tally) {
                    @if count > 0 { span class=(verdict.word()) style=(format!("flex:{count}")) {} }
                }
            }
            p.counts {
                @for (verdict, count) in Verdict::ALL.iter().zip(tally) {
                    @if count > 0 { span.count { i.dot.(verdict.word()) {} (count) " " (verdict.word()) } }
                }
            }
        }
    }
}

fn filters() -> Markup {
    html! {
        nav.filters hidden {
            input #search type="search" placeholder="name, clause or reason" aria-label="search";
            button.chip data-filter="differs" aria-pressed="false" { "differences" }
            @for verdict in Verdict::ALL {
                button.chip data-filter=(verdict.word()) aria-pressed="false" {
                    i.dot.(verdict.word()) {} (verdict.word())
                }
            }
            output #shown {}
        }
    }
}

fn table(matrix: &Matrix) -> Markup {
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th { "case" }
                        @for target in &matrix.targets { th.verdict { (target.name) } }
                        th { "clause" }
                    }
                }
                tbody { @for row in by_interest(matrix) { (line(matrix, row)) } }
            }
        }
    }
}

fn line(matrix: &Matrix, row: &Row) -> Markup {
    let mut words: Vec<&str> = row.judged.iter().flatten().map(|judged| judged.verdict.word()).collect();
    if row.differs() {
        words.push("differs");
    }
    html! {
        tr.differs[row.differs()] data-is=(words.join(" ")) {
            th scope="row" { code { (row.case.name) } }
            @for judged in &row.judged { (cell(judged.as_ref())) }
            td.clause {
                (row.case.clause)
                @for (target, judged) in matrix.columns(row).filter(|(_, judged)| !judged.reason.is_empty()) {
                    (reason(&target.name, judged))
                }
            }
        }
    }
}

fn cell(judged: Option<&Judged>) -> Markup {
    html! {
        @match judged {
            Some(judged) => {
                td.verdict title=(format!("{:.3} s", judged.time.as_secs_f64())) {
                    span.badge.(judged.verdict.word()) { (judged.verdict.word()) }
                }
            }
            None => td.verdict { "–" },
        }
    }
}

fn reason(target: &str, judged: &Judged) -> Markup {
    html! {
        @if judged.details.is_empty() || !judged.verdict.is_bad() {
            p.reason { b { (target) } ": " (judged.reason) }
        } @else {
            details.reason {
                summary { b { (target) } ": " (judged.reason) }
                pre { (judged.details.join("\n")) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::verdict::Verdict::*;
    use crate::conformance::verdict::tests::matrix;

    #[test]
    fn every_case_and_reason_is_there_and_escaped() {
        let text = page(&matrix(&[
            ("a::good", [Some(Success), Some(Success), None]),
            ("c::differs", [Some(Failure), Some(Success), None]),
        ]));
        assert!(text.contains("<tr class=\"differs\" data-is=\"failure success differs\">"), "{text}");
        assert!(text.contains("A &lt;clause&gt; &amp; more."));
        assert!(text.contains("why &lt;so&gt;"));
        assert!(text.find("c::differs").unwrap() < text.find("a::good").unwrap());
        // Nothing is loaded from anywhere.
        assert!(!text.contains("http") && !text.contains("src="));
    }
}
