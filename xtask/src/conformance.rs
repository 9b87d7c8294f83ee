//! `cargo xtask conformance`: the conformance kernel on one or several hypervisors, and what differs between them.
//!
//! The kernel (`tests/conformance`) reports its cases in the Test Anything Protocol ([`tap`]). A case may crash the
//! domain or fall silent: then that is its verdict, and the rest runs in a new boot ([`boot`]). Cases that need a boot
//! of their own or a machine of another kind get one ([`plan`]). All verdicts together are the [`Matrix`], from which
//! the run's success follows ([`verdict`]) and which is written in four forms ([`report`]).

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::qemu::{Emulator, Hypervisor};
use crate::setup::Need;
use crate::{build, project, session, setup};

pub mod boot;
pub mod case;
pub mod plan;
pub mod report;
pub mod tap;
pub mod target;
pub mod verdict;

use case::Case;
use plan::Boot;
use target::Target;
use verdict::{Judged, Matrix, Row, Verdict};

/// The choices of `cargo xtask conformance`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// `paravane`, `xen`, `both`, `bochs` (paravane on that emulator), `all`, or the path of a multiboot ELF; also a list
    #[arg(long, default_value = "both")]
    pub on: String,
    /// Only cases whose name matches (`*` stands for anything; several with commas)
    #[arg(long, default_value = "*")]
    pub case: String,
    /// Machines that run at the same time; one for each CPU by default
    #[arg(long)]
    pub jobs: Option<usize>,
    /// CPUs of each machine, where a case does not need more
    #[arg(long, default_value_t = 1)]
    pub smp: u32,
    /// Where matrix.md, matrix.json, matrix.html and junit.xml go
    #[arg(long, default_value = "target/conformance")]
    pub out: PathBuf,
    /// Write the JUnit report here instead
    #[arg(long)]
    pub junit: Option<PathBuf>,
    /// Add to the hypervisors' command line, such as `loglvl=all guest_loglvl=all`
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub hv_args: String,
    /// Name the cases with what they check, and run nothing
    #[arg(long)]
    pub list: bool,
}

/// Runs the suite; an error says how many cases went wrong.
///
/// # Errors
/// Something is missing or does not build, or a case failed.
pub fn run(options: &Options) -> Result<()> {
    if options.list {
        case::write_list()?;
        selected(&options.case)?.iter().for_each(|case| println!("{:50} {}", case.name, case.clause));
        return Ok(());
    }
    let targets = Target::parse_list(&options.on)?;
    prepare(&targets)?;
    let cases = selected(&options.case)?;
    let started = Instant::now();
    let boots = plan::boots(&cases, options.smp, options.case == "*");
    let jobs = options.jobs.or_else(|| thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    println!("running {} cases on {}\n", cases.len(), names(&targets));
    let mut matrix = Matrix::empty(&targets, &cases);
    run_boots(&targets, &boots, jobs, &options.hv_args, &mut matrix)?;
    matrix.settle();
    let problems = matrix.problems();
    report::terminal::summary(&matrix, &problems, started.elapsed());
    report::write(&matrix, &options.out, options.junit.as_deref())?;
    if problems.is_empty() { Ok(()) } else { bail!("conformance: {} problems", problems.len()) }
}

/// Builds and installs what the targets need.
fn prepare(targets: &[Target]) -> Result<()> {
    let mut needs = vec![Need::Compiler];
    for target in targets {
        needs.extend(match target.emulator {
            Emulator::Qemu => vec![Need::Emulator],
            Emulator::Bochs => vec![Need::Bochs, Need::ImageTools],
        });
        needs.extend((target.hypervisor == Hypervisor::Xen).then_some(Need::GuestFiles));
    }
    setup::ensure(&needs)?;
    if targets.iter().any(|target| target.hypervisor == Hypervisor::Paravane) {
        build::hypervisor()?;
    }
    build::conformance()?;
    session::sweep(&project::guests());
    Ok(())
}

/// The cases that match one of the comma-separated patterns.
fn selected(patterns: &str) -> Result<Vec<Case>> {
    let mut cases = case::all()?;
    cases.retain(|case| patterns.split(',').any(|pattern| case::matches(pattern, &case.name)));
    ensure!(!cases.is_empty(), "no case matches {patterns}: `cargo xtask conformance --list` names them");
    Ok(cases)
}

fn names(targets: &[Target]) -> String {
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    names.join(", ")
}

/// Runs every boot on every target, `jobs` at a time, and puts the verdicts into the matrix.
fn run_boots(
    targets: &[Target],
    boots: &[Boot],
    jobs: usize,
    hv_args: &str,
    matrix: &mut Matrix,
) -> Result<()> {
    let work: Vec<(usize, &Boot)> =
        boots.iter().flat_map(|boot| (0..targets.len()).map(move |column| (column, boot))).collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new((matrix, report::terminal::Progress::new(boots, targets)));
    let worker = || -> Result<()> {
        while let Some((column, boot)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let target = &targets[*column];
            boot::run(target, boot, hv_args, &mut |case, judged| {
                let mut results = results.lock().expect("no reporter panics");
                results.1.line(target, case, &judged);
                results.0.put(&case.name, *column, judged);
            })?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })
}

impl Matrix {
    /// All rows, nothing judged.
    #[must_use]
    pub fn empty(targets: &[Target], cases: &[Case]) -> Self {
        let rows = cases.iter().map(|case| Row { case: case.clone(), judged: vec![None; targets.len()] });
        Self { targets: targets.to_vec(), rows: rows.collect() }
    }

    /// Notes an end.
    fn put(&mut self, name: &str, column: usize, judged: Judged) {
        if let Ok(at) = self.rows.binary_search_by(|row| row.case.name.as_str().cmp(name)) {
            self.rows[at].judged[column] = Some(judged);
        }
    }
}

/// Runs one boot and returns what became of each case: for tests.
///
/// # Errors
/// As [`boot::run`].
pub fn run_boot(target: &Target, boot: &Boot) -> Result<Vec<(String, Judged)>> {
    let mut ends = Vec::new();
    boot::run(target, boot, "", &mut |case, judged| ends.push((case.name.clone(), judged)))?;
    Ok(ends)
}

/// `FAILURE: why`, with what was printed.
#[must_use]
pub fn explain(judged: &Judged) -> String {
    let word = judged.verdict.word().to_uppercase();
    let details: Vec<String> = judged.details.iter().map(|line| format!("\n    {line}")).collect();
    match judged.verdict {
        Verdict::Success => word,
        _ => format!("{word}: {}{}", judged.reason, details.concat()),
    }
}
