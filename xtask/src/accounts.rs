//! What the hypervisor says it has given out, and how domains are ended by key: for whatever compares before and after.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::session::{Session, tail};

/// Three times the switch character: what is typed goes to the next.
const SWITCH: &str = "\x01\x01\x01";
/// What the hypervisor says then.
const INPUT: &str = "*** Serial input to ";
/// How long a key or the end of a small domain may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What the hypervisor has given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accounts {
    /// Frames that are free, or in its heap, which does not shrink.
    pub free: u64,
    /// Frames of domains.
    pub owned: u64,
    /// Domains.
    pub domains: u64,
    /// Those of them that are being taken apart.
    pub dying: u64,
    /// Event channels that are open.
    pub channels: u64,
    /// Grants that are mapped.
    pub mapped: u64,
}

impl Accounts {
    /// Reads a line that says what became of a domain.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let numbers = line.split_once(": ")?.1.split(|c: char| !c.is_ascii_digit());
        let numbers: Vec<u64> = numbers.filter_map(|word| word.parse().ok()).collect();
        let [free, heap, owned, domains, dying, channels, mapped] = numbers[..] else { return None };
        Some(Self { free: free + heap, owned, domains, dying, channels, mapped })
    }
}

/// Hands the input on until the hypervisor has it.
///
/// # Errors
/// The hypervisor does not take it.
pub fn input_to_hypervisor(session: &mut Session) -> Result<()> {
    let switches = |output: &str| output.lines().filter(|line| line.contains(INPUT)).count();
    for _ in 0..20 {
        let before = switches(&session.output());
        session.send(SWITCH)?;
        let output = session.wait_until(LIMIT, |output| switches(output) > before)?;
        let last = output.lines().rfind(|line| line.contains(INPUT));
        if last.is_some_and(|line| line.contains("to the hypervisor")) {
            return Ok(());
        }
    }
    bail!("the hypervisor does not take input\n{}", tail(&session.output()))
}

/// Ends a domain by key, and answers the line that says what is given out when it is gone.
///
/// # Errors
/// It is not gone in time.
pub fn end_domain(session: &mut Session, name: &str) -> Result<String> {
    let number = name.split(' ').next().unwrap_or_default();
    let ended = format!("(HV) Domain {name} is ended: ");
    // One that is between two lives cannot be ended: once more, then.
    for patience in [5, 5, 10, 60] {
        session.send(&format!("K{number}\r"))?;
        let limit = Duration::from_secs(patience);
        if session.wait_until(limit, |output| output.contains(&ended)).is_ok() {
            break;
        }
    }
    let gone = format!("(HV) Domain {name} is gone: ");
    let after = |output: &str| {
        let at = output.find(&ended).unwrap_or(0);
        let line =
            output[at..].lines().find(|line| line.starts_with(&gone) && Accounts::read(line).is_some());
        line.map(str::to_owned)
    };
    let output = session.wait_until(LIMIT, |output| after(output).is_some())?;
    after(&output).context("it was there just now")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_accounts_is_read() {
        let line = "(HV) Domain 2 (a) is gone: 5 frames free, 7 in the heap, 30 of domains; 4 domains, 1 dying; 6 event \
                    channels, 2 grants mapped";
        let expected = Accounts { free: 12, owned: 30, domains: 4, dying: 1, channels: 6, mapped: 2 };
        assert_eq!(Accounts::read(line), Some(expected));
        assert_eq!(Accounts::read("(HV) Domain 2 (a) is gone"), None);
    }
}
