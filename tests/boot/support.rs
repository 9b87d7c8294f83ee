//! What all boot tests share: time limits and the form of a test.

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
