//! Page tables that name themselves, against what a domain must not read: `tests/hostile` with `linear`.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use xtask::project;
use xtask::qemu::{Emulator, Hypervisor, Machine};
use xtask::session::{Session, tail};

use crate::support::{LONG, SHORT, trial};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("linear::no_read_reaches_the_hypervisor", || no_read(machine(""))),
        trial("linear::no_read_reaches_the_hypervisor_with_smap", with_smap),
        trial("linear::refused_by_the_option", || refused("pv-linear-pt=no")),
        trial("linear::refused_with_isolated_tables", || refused("xpti=yes")),
    ]
}

fn machine(option: &str) -> Machine {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.hypervisor_args += " noreboot ";
    machine.hypervisor_args += option;
    machine.cpus = 2;
    machine.kernel = Some(project::guest_elf("hostile"));
    machine.kernel_args = "linear".into();
    machine
}

/// By default such entries are allowed, as on Xen. Neither the domain nor the hypervisor for it reads anything by them but the
/// domain's own tables.
fn no_read(machine: Machine) -> Result<()> {
    let other = if machine.cpus > 1 { "another CPU found 0" } else { "there is no other CPU" };
    let mut session = Session::start(&machine)?;
    let end = session.wait_until(LONG, |output| output.contains("Domain 0 crashed"))?;
    for line in [
        "hostile: linear: its own tables: true 3",
        "hostile: linear entries lead nowhere",
        "hostile: linear: nothing without the entry",
        &format!("hostile: linear: {other}"),
        "its iret frame cannot be read",
    ] {
        ensure!(end.contains(line), "no line {line:?}\n{}", tail(&end));
    }
    Ok(())
}

/// Where accesses to guest memory open and close a gate as well. QEMU's CPU does not count as having it.
fn with_smap() -> Result<()> {
    // The emulated CPU is one that needs isolated page tables, which leave no linear entries to try.
    let mut machine = machine("xpti=no");
    machine.emulator = Emulator::Bochs;
    machine.cpus = 1;
    no_read(machine)
}

/// With `pv-linear-pt=no` there are none, nor where they would lead out of isolated page tables.
fn refused(option: &str) -> Result<()> {
    let mut session = Session::start(&machine(option))?;
    session.wait_for("hostile: linear entries are refused: 22", SHORT)?;
    Ok(())
}
