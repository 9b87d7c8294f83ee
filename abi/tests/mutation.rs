//! Shows that the C check bites: every claim of the crate, changed by one, must be reported, and nothing else.

mod common;

use std::path::Path;

use common::Claim;
use xen_abi::registry::Value;

/// The claim with one digit changed.
fn mutate(claim: &Claim) -> Claim {
    let value = match claim.value {
        Value::Int(value) => Value::Int(value.wrapping_add(1)),
        Value::Str(text) => Value::Str(format!("{text}1").leak()),
    };
    Claim { value, ..claim.clone() }
}

#[test]
fn every_changed_digit_is_reported() {
    let (mut claims, _) = common::claims(&xen_abi::ABI);
    let answers =
        common::ask_c(&xen_abi::ABI, &claims, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutation"));
    assert!(
        common::compare(&claims, &answers).is_empty(),
        "the unchanged claims differ: see the test c_headers"
    );
    for index in 0..claims.len() {
        let mutant = mutate(&claims[index]);
        let (what, original) = (mutant.what.clone(), std::mem::replace(&mut claims[index], mutant));
        let reports = common::compare(&claims[index..=index], &answers[index..=index]);
        assert_eq!(reports.len(), 1, "a changed digit went unnoticed: {what}");
        assert!(reports[0].starts_with(&what));
        claims[index] = original;
    }
}
