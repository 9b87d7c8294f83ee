//! Page tables that name themselves, against what a domain must not read: `tests/hostile` with `linear`.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use xtask::project;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::{Session, tail};

use crate::support::{SHORT, trial};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("linear::no_read_reaches_the_hypervisor", no_read),
        trial("linear::refused_by_the_option", refused),
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
fn no_read() -> Result<()> {
    let mut session = Session::start(&machine(""))?;
    let end = session.wait_until(SHORT, |output| output.contains("Domain 0 crashed"))?;
    for line in [
        "hostile: linear: its own tables: true 3",
        "hostile: linear entries lead nowhere",
        "hostile: linear: nothing without the entry",
        "its iret frame cannot be read",
    ] {
        ensure!(end.contains(line), "no line {line:?}\n{}", tail(&end));
    }
    Ok(())
}

/// With `pv-linear-pt=no` there are none.
fn refused() -> Result<()> {
    let mut session = Session::start(&machine("pv-linear-pt=no"))?;
    session.wait_for("hostile: linear entries are refused: 22", SHORT)?;
    Ok(())
}
