//! The matrix for programs.

use serde_json::{Value, json};

use crate::conformance::verdict::{Judged, Matrix, Verdict};

/// `{targets, problems, cases}`: each case with its name, clause and ends by target.
pub fn document(matrix: &Matrix) -> String {
    let targets: Vec<Value> = matrix
        .targets
        .iter()
        .enumerate()
        .map(|(column, target)| {
            let tally = Verdict::ALL.iter().zip(matrix.tally(column));
            let tally: serde_json::Map<String, Value> =
                tally.map(|(verdict, count)| (verdict.word().to_owned(), json!(count))).collect();
            json!({
                "name": target.name,
                "hypervisor": target.hypervisor.name(),
                "emulator": target.emulator.name(),
                "tally": tally,
            })
        })
        .collect();
    let cases: Vec<Value> = matrix
        .rows
        .iter()
        .map(|row| {
            let ends: serde_json::Map<String, Value> =
                matrix.columns(row).map(|(target, judged)| (target.name.clone(), end(judged))).collect();
            json!({
                "name": row.case.name,
                "clause": row.case.clause,
                "differs": row.differs(),
                "on": ends,
            })
        })
        .collect();
    let document = json!({ "targets": targets, "problems": matrix.problems(), "cases": cases });
    format!("{document:#}\n")
}

fn end(judged: &Judged) -> Value {
    json!({
        "verdict": judged.verdict.word(),
        "reason": judged.reason,
        "details": judged.details,
        "seconds": judged.time.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::verdict::tests::matrix;

    #[test]
    fn a_program_finds_what_it_looks_for() {
        use Verdict::*;
        let matrix = matrix(&[("a::one", [Some(Failure), Some(Success), None])]);
        let value: Value = serde_json::from_str(&document(&matrix)).unwrap();
        assert_eq!(value["targets"][0]["tally"]["failure"], 1);
        assert_eq!(value["targets"][2]["emulator"], "bochs");
        let case = &value["cases"][0];
        assert_eq!((&case["name"], &case["differs"]), (&json!("a::one"), &json!(true)));
        assert_eq!(case["on"]["paravane"]["reason"], "why <so>");
        assert_eq!(case["on"].as_object().unwrap().len(), 2);
        assert_eq!(value["problems"].as_array().unwrap().len(), 1);
    }
}
