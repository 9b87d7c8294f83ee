//! The conformance kernel of `tests/conformance`: every case holds on real Xen, and then on our hypervisor.

use std::sync::LazyLock;

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::Trial;
use xtask::project;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::{Session, tail};

use crate::support::{LONG, Verdicts, trial, verdicts};

/// One boot of each hypervisor serves all tests.
static ON_PARAVANE: LazyLock<Result<Verdicts, String>> = LazyLock::new(|| run_on(Hypervisor::Paravane));
static ON_XEN: LazyLock<Result<Verdicts, String>> = LazyLock::new(|| run_on(Hypervisor::Xen));

pub fn trials() -> Vec<Trial> {
    vec![
        trial("conformance::holds_on_paravane", || all_hold(&ON_PARAVANE)),
        trial("conformance::holds_on_xen", || all_hold(&ON_XEN)),
        trial("conformance::same_cases_on_both", same_cases),
    ]
}

fn run_on(hypervisor: Hypervisor) -> Result<Verdicts, String> {
    run(Machine::new(hypervisor)).map_err(|error| format!("{error:#}"))
}

fn run(mut machine: Machine) -> Result<Verdicts> {
    machine.kernel = Some(project::guest_elf("conformance"));
    let mut session = Session::start(&machine)?;
    session.wait_for("Test result: ", LONG)?;
    let output = session.output();
    let verdicts = verdicts(&output);
    let planned = output.lines().find_map(|line| line.strip_prefix("1..")?.parse::<usize>().ok());
    ensure!(
        planned == Some(verdicts.len()),
        "{} verdicts of {planned:?}:\n{}",
        verdicts.len(),
        tail(&output)
    );
    Ok(verdicts)
}

fn all_hold(verdicts: &Result<Verdicts, String>) -> Result<()> {
    let verdicts = verdicts.as_ref().map_err(|error| anyhow!("{error}"))?;
    let failed: Vec<String> = verdicts
        .iter()
        .filter_map(|(name, verdict)| Some(format!("{name}: {}", verdict.as_ref().err()?.trim_end())))
        .collect();
    ensure!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), verdicts.len(), failed.join("\n"));
    Ok(())
}

fn same_cases() -> Result<()> {
    let names = |verdicts: &Result<Verdicts, String>| -> Result<Vec<String>> {
        Ok(verdicts.as_ref().map_err(|error| anyhow!("{error}"))?.keys().cloned().collect())
    };
    let (ours, xens) = (names(&ON_PARAVANE)?, names(&ON_XEN)?);
    ensure!(ours == xens, "{} cases on Paravane, {} on Xen", ours.len(), xens.len());
    Ok(())
}
