//! The `smp` guest: events, waiting and several CPUs, with both layouts of event channels; the same lines on our hypervisor
//! and on real Xen.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use xtask::project;
use xtask::qemu::{CONSOLE_ARGS, Hypervisor, Machine};
use xtask::session::Session;

use crate::support::{SHORT, guest_lines, trial};

const FIRST_LINE: &str = "smp: several CPUs and their events";
const LAST_LINE: &str = "smp: all steps passed";

/// Virtual CPUs of the guest, processors of the machine: as many of both, and more virtual ones than real ones.
const SHAPES: [(u32, u32); 4] = [(1, 1), (2, 1), (4, 1), (4, 2)];

pub fn trials() -> Vec<Trial> {
    ["", "fifo"]
        .into_iter()
        .flat_map(|layout| SHAPES.map(|shape| (layout, shape)))
        .map(|(layout, (vcpus, cpus))| {
            let kind = if layout.is_empty() { "two_level" } else { layout };
            trial(format!("smp::{kind}_{vcpus}_vcpus_on_{cpus}"), move || same_lines(layout, vcpus, cpus))
        })
        .collect()
}

fn lines_on(hypervisor: Hypervisor, layout: &str, vcpus: u32, cpus: u32) -> Result<Vec<String>> {
    let mut machine = Machine::new(hypervisor);
    machine.hypervisor_args = format!("{CONSOLE_ARGS} dom0_max_vcpus={vcpus}");
    machine.kernel = Some(project::guest_elf("smp"));
    machine.kernel_args = layout.into();
    machine.cpus = cpus;
    if machine.hypervisor == Some(Hypervisor::Xen) {
        // Under load its credit2 scheduler leaves, in one of twenty boots, a vCPU in the queue of processors that are all idle (its
        // keys q and r say so); any key wakes them.
        machine.hypervisor_args += " sched=credit";
    }
    let mut session = Session::start(&machine)?;
    session.wait_for(LAST_LINE, SHORT)?;
    Ok(guest_lines(&session.output(), FIRST_LINE, LAST_LINE))
}

fn same_lines(layout: &str, vcpus: u32, cpus: u32) -> Result<()> {
    let ours = lines_on(Hypervisor::Paravane, layout, vcpus, cpus)?;
    let xens = lines_on(Hypervisor::Xen, layout, vcpus, cpus)?;
    ensure!(ours == xens, "on Paravane:\n{}\non Xen:\n{}", ours.join("\n"), xens.join("\n"));
    ensure!(ours.contains(&format!("start: {vcpus} CPUs")), "another number of CPUs");
    Ok(())
}
