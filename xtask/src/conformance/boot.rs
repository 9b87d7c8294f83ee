//! Running the cases of one boot, in as many boots as their crashes make of it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::case::{Case, End};
use super::plan::{Boot, Setup};
use super::tap::{self, Event};
use super::target::Target;
use super::verdict::{Judged, Verdict};
use crate::project;
use crate::qemu::{CONSOLE_ARGS, Emulator, Hypervisor, Machine};
use crate::session::{Ending, Heard, Session, tail};

/// What a dying machine still prints comes within this time.
const LAST_WORDS: Duration = Duration::from_millis(400);
/// Details of a case beyond this many lines are dropped.
const MOST_DETAILS: usize = 60;

/// Runs `boot` on `target`; `report` hears of each case as it ends.
///
/// # Errors
/// The emulator does not start, or a file is missing.
pub fn run(target: &Target, boot: &Boot, hv_args: &str, report: &mut dyn FnMut(&Case, Judged)) -> Result<()> {
    let mut left: &[Case] = &boot.cases;
    let mut after: Option<String> = None;
    while !left.is_empty() {
        let mut session = Session::start(&machine(target, boot, hv_args, after.as_deref()))?;
        let mut attempt = Attempt::new(left);
        let why = attempt.listen(&mut session, silence(target), report)?;
        if let Some((case, started)) = attempt.running.take() {
            report(case, lost(case, &why, std::mem::take(&mut attempt.details), started.elapsed()));
            attempt.ended(case);
        }
        left = &left[attempt.position..];
        if why == Why::Done || attempt.begun.is_none() {
            // Nothing more will come: the kernel does not know them, or does not get as far as the first of them.
            left.iter().for_each(|case| report(case, never_ran(&why, &attempt.details)));
            break;
        }
        // Every boot gets further than the one before, so this comes to an end.
        after = attempt.begun;
    }
    Ok(())
}

/// How long a machine may say nothing.
fn silence(target: &Target) -> Duration {
    Duration::from_secs(match target.emulator {
        Emulator::Qemu => 60,
        Emulator::Bochs => 180,
    })
}

fn machine(target: &Target, boot: &Boot, hv_args: &str, after: Option<&str>) -> Machine {
    let Setup { cpus, vcpus, maker } = &boot.setup;
    let mut machine = Machine::new(target.hypervisor.clone());
    machine.emulator = target.emulator;
    machine.maker = *maker;
    machine.cpus = *cpus;
    machine.kernel = Some(project::guest_elf("conformance"));
    // Some memory must be left for other domains, and `noreboot` keeps a crash on the screen.
    machine.hypervisor_args = format!("{CONSOLE_ARGS} noreboot dom0_mem=256M {hv_args}").trim().to_owned();
    if target.emulator == Emulator::Bochs && target.hypervisor == Hypervisor::Paravane {
        // The emulated CPU needs isolated page tables, which are incompatible with linear entries: the cases on those are to run.
        machine.hypervisor_args.push_str(" xpti=no");
    }
    if vcpus != cpus {
        machine.hypervisor_args.push_str(&format!(" dom0_max_vcpus={vcpus}"));
    }
    let mut words = Vec::new();
    words.extend(boot.patterns.as_ref().map(|patterns| format!("case={patterns}")));
    words.extend(after.map(|name| format!("after={name}")));
    machine.kernel_args = words.join(" ");
    machine
}

/// Why nothing more is to be expected of a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    /// The kernel has run all cases.
    Done,
    /// The kernel gave up.
    Bail(String),
    /// The hypervisor ended the domain.
    Ended(End, String),
    /// The hypervisor ended itself.
    Panic(String),
    /// The machine is gone.
    Gone(Ending),
    /// Silence for so long.
    Silence(Duration),
}

impl Why {
    fn in_words(&self) -> String {
        match self {
            Self::Done => "the kernel did not run it".into(),
            Self::Bail(why) => format!("the kernel gave up: {why}"),
            Self::Ended(_, text) | Self::Panic(text) => text.clone(),
            Self::Gone(Ending::TripleFault) => "triple fault".into(),
            Self::Gone(Ending::Reset) => "the machine was reset".into(),
            Self::Gone(Ending::PowerOff) => "the machine was switched off".into(),
            Self::Gone(Ending::Other) => "the emulator ended".into(),
            Self::Silence(time) => format!("silence for {} s", time.as_secs()),
        }
    }

    /// Whether this is how a case that must end its domain is to end it.
    fn is(&self, end: End) -> bool {
        match self {
            Self::Ended(seen, _) => *seen == end,
            Self::Gone(Ending::PowerOff) => end == End::PowerOff,
            Self::Gone(Ending::Reset) => end == End::Reboot,
            _ => false,
        }
    }
}

/// The end of a case that gave no verdict.
fn lost(case: &Case, why: &Why, details: Vec<String>, time: Duration) -> Judged {
    let (verdict, reason) = match case.ends {
        Some(end) if why.is(end) => (Verdict::Success, String::new()),
        Some(_) => (Verdict::Failure, format!("another end: {}", why.in_words())),
        None => (Verdict::Crash, why.in_words()),
    };
    Judged { verdict, reason, details, time }
}

fn never_ran(why: &Why, details: &[String]) -> Judged {
    let (verdict, reason) = match why {
        Why::Done => (Verdict::Error, why.in_words()),
        _ => (Verdict::Crash, format!("no case was reached: {}", why.in_words())),
    };
    Judged { verdict, reason, details: details.to_vec(), time: Duration::ZERO }
}

/// One boot that is under way.
struct Attempt<'a> {
    /// What it is to run, by the alphabet.
    cases: &'a [Case],
    /// The first of them that has not ended.
    position: usize,
    /// The last that has begun, of all that the kernel runs.
    begun: Option<String>,
    /// The one that runs, and since when.
    running: Option<(&'a Case, Instant)>,
    /// What was printed since it began.
    details: Vec<String>,
}

impl<'a> Attempt<'a> {
    fn new(cases: &'a [Case]) -> Self {
        Self { cases, position: 0, begun: None, running: None, details: Vec::new() }
    }

    /// Follows the machine until nothing more is to be expected.
    fn listen(
        &mut self,
        session: &mut Session,
        silence: Duration,
        report: &mut dyn FnMut(&Case, Judged),
    ) -> Result<Why> {
        let mut why = None;
        loop {
            let limit = if why.is_some() { LAST_WORDS } else { silence };
            match session.next_line(limit) {
                Heard::Line(line) => match self.hear(&line, report) {
                    Some(Why::Done) => return Ok(Why::Done),
                    Some(end) if why.is_none() => why = Some(end),
                    _ => {}
                },
                Heard::Silence => return Ok(why.unwrap_or(Why::Silence(silence))),
                Heard::End => match why {
                    Some(why) => return Ok(why),
                    None => match session.wait_end(silence)? {
                        Ending::Other if self.begun.is_none() => bail!("{}", tail(&session.everything())),
                        ending => return Ok(Why::Gone(ending)),
                    },
                },
            }
        }
    }

    fn hear(&mut self, line: &str, report: &mut dyn FnMut(&Case, Judged)) -> Option<Why> {
        match tap::parse(line) {
            Event::Plan(_) => self.details.clear(),
            Event::Begin(name) => {
                self.details.clear();
                self.running = self.find(&name).map(|case| (case, Instant::now()));
                self.begun = Some(name);
            }
            Event::Verdict { name, verdict, reason } => {
                if let Some(case) = self.find(&name) {
                    let time = self.running.take().map_or(Duration::ZERO, |(_, started)| started.elapsed());
                    let mut details = std::mem::take(&mut self.details);
                    // The kernel repeats the clause for those who read it alone.
                    details.retain(|line| !case.clause.contains(line.as_str()));
                    self.ended(case);
                    report(case, Judged { verdict, reason, details, time });
                }
            }
            Event::Bail(why) => return Some(Why::Bail(why)),
            Event::Done => return Some(Why::Done),
            Event::Ended(end, text) => {
                self.detail(&text);
                return Some(Why::Ended(end, text));
            }
            Event::Panic(text) => {
                self.detail(&text);
                return Some(Why::Panic(text));
            }
            Event::Text(text) => self.detail(&text),
        }
        None
    }

    fn detail(&mut self, text: &str) {
        let text = text.strip_prefix("# ").unwrap_or(text);
        if !text.is_empty() && self.details.len() < MOST_DETAILS {
            self.details.push(text.to_owned());
        }
    }

    /// A case that this boot is about; others run because their names match the same pattern.
    fn find(&self, name: &str) -> Option<&'a Case> {
        let at = self.cases.binary_search_by(|case| case.name.as_str().cmp(name)).ok()?;
        Some(&self.cases[at])
    }

    fn ended(&mut self, case: &'a Case) {
        self.position = self.cases.partition_point(|other| other.name <= case.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A case's name, its verdict, the reason, and what it said.
    type Heard = (String, Verdict, String, Vec<String>);

    /// What is reported of `cases` when the machine prints `lines`, and why it ended.
    fn heard(cases: &str, lines: &[&str]) -> (Vec<Heard>, Option<Why>) {
        let cases = Case::parse_all(cases).unwrap();
        let mut attempt = Attempt::new(&cases);
        let mut reports = Vec::new();
        let mut report = |case: &Case, judged: Judged| {
            reports.push((case.name.clone(), judged.verdict, judged.reason, judged.details));
        };
        let why = lines.iter().find_map(|line| attempt.hear(line, &mut report));
        if let (Some((case, _)), Some(why)) = (attempt.running.take(), &why) {
            report(case, lost(case, why, attempt.details, Duration::ZERO));
        }
        (reports, why)
    }

    #[test]
    fn details_belong_to_the_case_that_runs() {
        let (reports, why) = heard(
            "a::one\na::two\n",
            &[
                "(XEN) boot messages",
                "1..3",
                "# begin a::one",
                "ok 1 - a::one",
                "# begin a::other",
                "# not ours",
                "ok 2 - a::other",
                "# begin a::two",
                "(XEN) mm.c: bad entry",
                "# x: got 1, expected 2",
                "not ok 3 - a::two # FAILURE x",
                "Test result: FAILURE",
            ],
        );
        assert_eq!(why, Some(Why::Done));
        assert_eq!(reports.len(), 2);
        assert_eq!(reports[0], ("a::one".into(), Verdict::Success, String::new(), vec![]));
        let details = vec!["(XEN) mm.c: bad entry".to_owned(), "x: got 1, expected 2".to_owned()];
        assert_eq!(reports[1], ("a::two".into(), Verdict::Failure, "x".into(), details));
    }

    #[test]
    fn a_case_without_verdict_crashed() {
        let (reports, _) = heard(
            "a::one\n",
            &[
                "1..1",
                "# begin a::one",
                "(XEN) Domain 0 (vcpu#0) crashed on cpu#0:",
                "(XEN) Hardware Dom0 crashed: 'noreboot' set - not rebooting.",
            ],
        );
        let (_, verdict, reason, details) = &reports[0];
        assert_eq!((*verdict, details.len()), (Verdict::Crash, 2));
        assert!(reason.contains("Hardware Dom0 crashed"));
        let (reports, _) = heard("a::one\n", &["# begin a::one", "Bail out! CRASH: unexpected exception"]);
        assert_eq!(reports[0].1, Verdict::Crash);
    }

    #[test]
    fn a_case_that_must_end_its_domain() {
        let end = |line: &str| heard("a::one\tends crash\n", &["# begin a::one", line]).0[0].1;
        assert_eq!(end("(HV) Hardware Dom0 crashed: 'noreboot' set - not rebooting."), Verdict::Success);
        assert_eq!(end("(HV) Hardware Dom0 halted: halting machine"), Verdict::Failure);
        assert_eq!(end("(HV) Panic on CPU 0: oh"), Verdict::Failure);
        assert_eq!(end("Bail out! CRASH: unexpected exception"), Verdict::Failure);
        assert_eq!(end("not ok 1 - a::one # FAILURE the domain lives on"), Verdict::Failure);
        let case = Case { ends: Some(End::Reboot), ..Case::default() };
        assert_eq!(lost(&case, &Why::Gone(Ending::Reset), vec![], Duration::ZERO).verdict, Verdict::Success);
        assert_eq!(
            lost(&case, &Why::Gone(Ending::TripleFault), vec![], Duration::ZERO).verdict,
            Verdict::Failure
        );
    }
}
