//! Bochs: what our hypervisor does on a CPU and a chipset that QEMU does not emulate so closely.
//!
//! Its old interrupt controllers deliver until they are masked, its CPU has x2APIC and keeps SMAP where QEMU's forgets
//! it, and a software interrupt's error code is the real one.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use xtask::conformance::target::Target;
use xtask::conformance::{case, explain, plan, run_boot};
use xtask::project;
use xtask::qemu::{Emulator, Hypervisor, Machine};
use xtask::session::Session;

use crate::support::{LONG, trial};

pub fn trials() -> Vec<Trial> {
    vec![trial("bochs::conformance", conformance), trial("bochs::hello_on_two_cpus", hello)]
}

fn hello() -> Result<()> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.emulator = Emulator::Bochs;
    machine.cpus = 2;
    machine.kernel = Some(project::guest_elf("hello"));
    Session::start(&machine)?.wait_for("hello: all steps passed", LONG).map(drop)
}

/// Every case that shares its boot with others.
fn conformance() -> Result<()> {
    let mut cases = case::all()?;
    cases.retain(|case| !case.alone);
    let target = Target::parse("bochs")?;
    let mut bad = Vec::new();
    for boot in plan::boots(&cases, 1, true) {
        for (name, judged) in run_boot(&target, &boot)? {
            let excuse =
                boot.cases.iter().find(|case| case.name == name).and_then(|case| case.limit(target.emulator));
            if judged.verdict.is_bad() && excuse.is_none() {
                bad.push(format!("{name}: {}", explain(&judged)));
            }
        }
    }
    ensure!(bad.is_empty(), "{} of {} cases:\n{}", bad.len(), cases.len(), bad.join("\n"));
    Ok(())
}
