//! What a machine under test prints, line by line: the kernel's Test Anything Protocol between the hypervisor's own
//! messages.

use super::case::End;
use super::verdict::Verdict;

/// What one line means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many cases will run.
    Plan(usize),
    /// A case starts.
    Begin(String),
    /// A case has ended.
    Verdict {
        /// Which one.
        name: String,
        /// How.
        verdict: Verdict,
        /// The word behind the verdict.
        reason: String,
    },
    /// The kernel gives up, for this reason.
    Bail(String),
    /// All cases have run.
    Done,
    /// The hypervisor says how the first domain ended.
    Ended(End, String),
    /// The hypervisor itself gives up.
    Panic(String),
    /// Anything else: details of the case that runs.
    Text(String),
}

/// Reads one line without its end.
#[must_use]
pub fn parse(line: &str) -> Event {
    let line = line.trim_end();
    own_words(line)
        .or_else(|| verdict(line))
        .or_else(|| hypervisors_end(line))
        .unwrap_or_else(|| Event::Text(line.to_owned()))
}

fn own_words(line: &str) -> Option<Event> {
    if let Some(count) = line.strip_prefix("1..") {
        return count.parse().ok().map(Event::Plan);
    }
    if let Some(name) = line.strip_prefix("# begin ") {
        return Some(Event::Begin(name.to_owned()));
    }
    if let Some(why) = line.strip_prefix("Bail out!") {
        return Some(Event::Bail(why.trim().to_owned()));
    }
    line.starts_with("Test result: ").then_some(Event::Done)
}

/// `ok 3 - name`, `ok 3 - name # SKIP why`, `not ok 3 - name # FAILURE why`.
fn verdict(line: &str) -> Option<Event> {
    let (ok, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, rest) = rest.split_once(" - ")?;
    number.parse::<u32>().ok()?;
    let (name, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
    let (word, reason) = directive.split_once(' ').unwrap_or((directive, ""));
    let verdict = match (ok, word) {
        (true, "SKIP") => Verdict::Skip,
        (true, _) => Verdict::Success,
        (false, "ERROR") => Verdict::Error,
        (false, _) => Verdict::Failure,
    };
    Some(Event::Verdict { name: name.to_owned(), verdict, reason: reason.to_owned() })
}

/// A hypervisor's last words. Its messages start with a parenthesis, those of a guest do not.
fn hypervisors_end(line: &str) -> Option<Event> {
    let (_, text) = line.strip_prefix('(')?.split_once(") ")?;
    // A time stamp may stand before the words.
    let text = text.trim_start_matches(|c: char| "[]0123456789.: ".contains(c));
    if text.starts_with("Panic on ") || text.ends_with("Halted.") {
        return Some(Event::Panic(line.to_owned()));
    }
    let (_, how) = text.strip_prefix("Hardware Dom")?.split_once(' ')?;
    let end = match how.split([' ', ':']).next()? {
        "crashed" => End::Crash,
        "halted" => End::PowerOff,
        "shutdown" => End::Reboot,
        _ => return None,
    };
    Some(Event::Ended(end, line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, verdict: Verdict, reason: &str) -> Event {
        Event::Verdict { name: name.into(), verdict, reason: reason.into() }
    }

    #[test]
    fn lines_of_the_kernel() {
        assert_eq!(parse("1..295"), Event::Plan(295));
        assert_eq!(parse("# begin mmuext::pin"), Event::Begin("mmuext::pin".into()));
        assert_eq!(parse("ok 3 - a::b"), said("a::b", Verdict::Success, ""));
        assert_eq!(parse("ok 4 - a::c # SKIP no AVX"), said("a::c", Verdict::Skip, "no AVX"));
        assert_eq!(parse("not ok 5 - a::d # ERROR pin"), said("a::d", Verdict::Error, "pin"));
        assert_eq!(parse("not ok 6 - a::e # FAILURE x # y"), said("a::e", Verdict::Failure, "x # y"));
        assert_eq!(
            parse("Bail out! CRASH: unexpected exception "),
            Event::Bail("CRASH: unexpected exception".into())
        );
        assert_eq!(parse("Test result: SUCCESS"), Event::Done);
    }

    #[test]
    fn lines_of_the_hypervisors() {
        let ended = |line: &str| match parse(line) {
            Event::Ended(end, text) => {
                assert_eq!(text, line);
                Some(end)
            }
            _ => None,
        };
        assert_eq!(ended("(XEN) Hardware Dom0 crashed: 'noreboot' set - not rebooting."), Some(End::Crash));
        assert_eq!(ended("(HV) Hardware Dom0 halted: halting machine"), Some(End::PowerOff));
        assert_eq!(ended("(XEN) Hardware Dom0 shutdown: rebooting machine"), Some(End::Reboot));
        for line in ["(XEN) [   12.345678] Panic on CPU 0:", "(HV) Panic on CPU 0: what", "(HV) Halted."] {
            assert_eq!(parse(line), Event::Panic(line.into()));
        }
        assert_eq!(ended("(XEN) Dom0 has maximum 1 VCPUs"), None);
    }

    #[test]
    fn other_lines_are_details() {
        for line in ["# got 1, expected 2", "ok", "ok then - what", "not ok", "TAP version 14", "", "(XEN) "]
        {
            assert_eq!(parse(line), Event::Text(line.trim_end().into()), "{line}");
        }
    }
}
