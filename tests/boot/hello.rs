//! The `hello` guest: every step passes, and its lines are the same on our hypervisor and on real Xen.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::project;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;

use crate::files;
use crate::support::{SHORT, guest_lines, trial};

const FIRST_LINE: &str = "hello from a paravirtual guest";
const LAST_LINE: &str = "hello: all steps passed";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("hello::passes_on_paravane", || lines_on(Hypervisor::Paravane).map(drop)),
        trial("hello::passes_on_xen", || lines_on(Hypervisor::Xen).map(drop)),
        trial("hello::same_lines_on_both", same_lines),
        trial("hello::passes_with_four_cpus", four_cpus),
        trial("hello::passes_when_booted_by_pvh", by_pvh),
        trial("hello::passes_on_plain_cpus", plain_cpus),
        trial("hello::same_lines_with_a_console_that_waits", synchronous),
    ]
}

fn machine(hypervisor: Hypervisor) -> Machine {
    let mut machine = Machine::new(hypervisor);
    machine.kernel = Some(project::guest_elf("hello"));
    machine
}

fn lines(machine: &Machine) -> Result<Vec<String>> {
    let mut session = Session::start(machine)?;
    session.wait_for(LAST_LINE, SHORT)?;
    Ok(guest_lines(&session.output(), FIRST_LINE, LAST_LINE))
}

fn lines_on(hypervisor: Hypervisor) -> Result<Vec<String>> {
    lines(&machine(hypervisor))
}

fn same_lines() -> Result<()> {
    let ours = lines_on(Hypervisor::Paravane)?;
    let xens = lines_on(Hypervisor::Xen)?;
    // The only difference that is meant: the version that each hypervisor reports.
    ensure!(ours == xens, "on Paravane:\n{}\non Xen:\n{}", ours.join("\n"), xens.join("\n"));
    Ok(())
}

fn four_cpus() -> Result<()> {
    let mut machine = machine(Hypervisor::Paravane);
    machine.cpus = 4;
    lines(&machine).map(drop)
}

/// QEMU prefers multiboot; without that header's magic it takes the PVH note.
fn by_pvh() -> Result<()> {
    let elf = files::without_multiboot(&project::hypervisor_elf(), "paravane-pvh")?;
    lines_on(Hypervisor::File(elf)).map(drop)
}

/// `sync_console`, and a port that has no interrupt line, are the other way to write the same.
fn synchronous() -> Result<()> {
    let usual = lines_on(Hypervisor::Paravane)?;
    for args in [" sync_console", " com1=115200,8n1,0x3f8,0"] {
        let mut machine = machine(Hypervisor::Paravane);
        machine.hypervisor_args.push_str(args);
        let lines = lines(&machine).with_context(|| format!("with{args}"))?;
        ensure!(lines == usual, "with{args}:\n{}", lines.join("\n"));
    }
    Ok(())
}

/// Nothing of what newer CPUs have is needed, and nothing that a CPU lacks is used.
fn plain_cpus() -> Result<()> {
    for cpu in ["qemu64", "Haswell", "EPYC", "max,-xsave,-fsgsbase,-rdtscp"] {
        let mut machine = machine(Hypervisor::Paravane);
        machine.cpu = Some(cpu.into());
        lines(&machine).with_context(|| format!("on -cpu {cpu}"))?;
    }
    Ok(())
}
