//! What all boot tests share: time limits and the form of a test.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::{Failed, Trial};

/// A small guest boots in about a second; a busy machine may be slow.
pub const SHORT: Duration = Duration::from_secs(60);
/// Linux needs some ten seconds to its shell, and twice that for its checks.
pub const LONG: Duration = Duration::from_secs(300);

/// A test from a function that fails by an error.
pub fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}"))))
}

/// What a guest printed: the lines between `first` and `last`, both included, without the hypervisor's own, which start
/// with a parenthesis.
pub fn guest_lines(output: &str, first: &str, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in output.lines().filter(|line| !line.starts_with('(')) {
        inside |= line.contains(first);
        if inside {
            lines.push(line.trim_end().to_owned());
        }
        if line.contains(last) {
            break;
        }
    }
    lines
}

/// Verdict by name, with the reason of a failure.
pub type Verdicts = BTreeMap<String, Result<(), String>>;

/// Reads the lines of the Test Anything Protocol in a guest's output.
pub fn verdicts(output: &str) -> Verdicts {
    let mut checks = Verdicts::new();
    let mut failed: Option<String> = None;
    for line in output.lines() {
        if let Some(name) = tap_name(line, "ok ") {
            checks.insert(name, Ok(()));
            failed = None;
        } else if let Some(name) = tap_name(line, "not ok ") {
            let reason = line.split_once(" # ").map_or("", |(_, reason)| reason);
            checks.insert(name.clone(), Err(format!("{reason}\n")));
            failed = Some(name);
        } else if let (Some(name), Some(text)) = (&failed, line.strip_prefix("# "))
            && let Some(Err(details)) = checks.get_mut(name)
        {
            details.push_str(text);
            details.push('\n');
        }
    }
    checks
}

/// The name in a line such as `ok 3 - name # SKIP why`.
fn tap_name(line: &str, verdict: &str) -> Option<String> {
    let (number, rest) = line.strip_prefix(verdict)?.split_once(" - ")?;
    number.parse::<u32>().ok()?;
    rest.split_whitespace().next().map(str::to_owned)
}
