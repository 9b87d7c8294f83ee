//! The `memory` guest: the library's allocator, page tables and address spaces, on our hypervisor, on real Xen and in a large domain.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;
use xtask::{domains, project};

use crate::domains::described;
use crate::support::{SHORT, guest_lines, trial};

const FIRST_LINE: &str = "memory: start";
const LAST_LINE: &str = "memory: all steps passed";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("memory::passes_on_paravane", || lines_on(Hypervisor::Paravane).map(drop)),
        trial("memory::same_lines_on_xen", same_lines),
        trial("memory::passes_in_a_large_domain", large),
        trial("memory::a_small_domain_leaves_nothing_behind", small),
        trial("memory::no_two_free_frames_in_a_row_are_needed", shattered),
    ]
}

fn lines(machine: &Machine) -> Result<Vec<String>> {
    let mut session = Session::start(machine)?;
    session.wait_for(LAST_LINE, SHORT)?;
    Ok(guest_lines(&session.output(), FIRST_LINE, LAST_LINE))
}

fn machine(hypervisor: Hypervisor) -> Machine {
    let mut machine = Machine::new(hypervisor);
    machine.kernel = Some(project::guest_elf("memory"));
    machine
}

fn lines_on(hypervisor: Hypervisor) -> Result<Vec<String>> {
    lines(&machine(hypervisor))
}

fn same_lines() -> Result<()> {
    let ours = lines_on(Hypervisor::Paravane)?;
    let xens = lines_on(Hypervisor::Xen)?;
    ensure!(ours == xens, "on Paravane:\n{}\non Xen:\n{}", ours.join("\n"), xens.join("\n"));
    Ok(())
}

/// 1.5 million frames are mapped and handed out as quickly as a few.
fn large() -> Result<()> {
    for hypervisor in [Hypervisor::Paravane, Hypervisor::Xen] {
        let mut machine = machine(hypervisor);
        machine.memory = "7G".into();
        machine.hypervisor_args.push_str(" dom0_mem=6G");
        machine.kernel_args = "untouched".into();
        lines(&machine)?;
    }
    Ok(())
}

/// A domain without privileges passes, too, and all of its memory comes back from it.
fn small() -> Result<()> {
    let kernel = project::guest_elf("memory");
    let text = format!("[[domain]]\nname = \"m\"\nkernel = \"{}\"\nmemory = \"64M\"\n", kernel.display());
    let mut machine = Machine::new(Hypervisor::Paravane);
    domains::add(&mut machine, &described("memory", &text)?, true)?;
    let mut session = Session::start(&machine)?;
    session.wait_for(LAST_LINE, SHORT)?;
    session.wait_for("left of it: 0 frames that others map, 0 event channels, 0 grants mapped", SHORT)?;
    Ok(())
}

/// What the hypervisor keeps for a domain takes single frames where a hostile domain has left no others: `tests/hostile` with `shatter`.
fn shattered() -> Result<()> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.hypervisor_args.push_str(" dom0_mem=32M");
    machine.kernel = Some(project::guest_elf("hostile"));
    machine.kernel_args = "shatter".into();
    let mut session = Session::start(&machine)?;
    session.wait_for("hostile: shattered", SHORT)?;
    session.wait_for("hostile: the grant table has 48 frames", SHORT).map(drop)
}
