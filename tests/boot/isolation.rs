//! Page-table isolation: guests run on page tables without the hypervisor's memory, on a CPU that needs it.
//!
//! The emulator does not execute speculatively, so what is shown is that few of the hypervisor's pages are in reach of ring 3 and that
//! guests do not notice.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::project;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;

use crate::support::{SHORT, trial};

/// The CPU area has 32 pages; entry code, IDT and `syscall` stub are a handful, the machine-to-physical table is not counted.
const MOST_PAGES: u64 = 64;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("isolation::is_on_where_the_cpu_needs_it", || on("hello", "max,vendor=GenuineIntel", "")),
        trial("isolation::processes_run_on_it", || on("multitask", "max,vendor=GenuineIntel", "")),
        trial("isolation::is_on_where_it_is_asked_for", || on("hello", "max", "xpti=yes spec-ctrl=verw")),
        trial("isolation::is_off_where_it_is_not_needed", off),
    ]
}

fn start(guest: &str, cpu: &str, options: &str) -> Result<Session> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.kernel = Some(project::guest_elf(guest));
    machine.cpu = Some(cpu.into());
    machine.cpus = 2;
    machine.hypervisor_args += &format!(" loglvl=info {options}");
    let mut session = Session::start(&machine)?;
    session.wait_for(&format!("{guest}: all steps passed"), SHORT)?;
    Ok(session)
}

/// The guest runs to its end, and the pages that the hypervisor counts in an isolated address space are few.
fn on(guest: &str, cpu: &str, options: &str) -> Result<()> {
    let output = start(guest, cpu, options)?.output();
    ensure!(output.contains("page-table isolation: dom0 on, others on"), "{output}");
    let pages = output.lines().find_map(|line| {
        line.split_once("page-table isolation: ")?
            .1
            .split_once(" pages of the hypervisor stay in reach")?
            .0
            .parse()
            .ok()
    });
    let pages: u64 = pages.with_context(|| format!("no count of pages:\n{output}"))?;
    ensure!((1..=MOST_PAGES).contains(&pages), "{pages} pages of the hypervisor are in reach of ring 3");
    Ok(())
}

fn off() -> Result<()> {
    for (cpu, options) in [("max", ""), ("max,vendor=GenuineIntel", "xpti=no")] {
        let output = start("hello", cpu, options)?.output();
        ensure!(
            output.contains("page-table isolation: dom0 off, others off"),
            "on {cpu} {options}:\n{output}"
        );
        ensure!(!output.contains("stay in reach"), "on {cpu} {options}:\n{output}");
    }
    Ok(())
}
