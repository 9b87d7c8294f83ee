//! The kernels that try single parts of the guest library: each passes on our hypervisor and on real Xen.

use anyhow::Result;
use libtest_mimic::Trial;
use xtask::describe::{self, Domain};
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;
use xtask::{domains, project};

use crate::files;
use crate::support::{SHORT, trial};

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, hypervisor) in [("paravane", Hypervisor::Paravane), ("xen", Hypervisor::Xen)] {
        for (table, args) in [("", ""), ("_of_version_2", "v2")] {
            let hypervisor = hypervisor.clone();
            trials.push(trial(format!("library::grants{table}_on_{name}"), move || grants(hypervisor, args)));
        }
        trials.push(trial(format!("library::console_on_{name}"), move || echo(hypervisor)));
    }
    trials.push(trial("library::grants_in_a_served_domain", served));
    trials
}

/// In a domain with its own number, and with xenstore: a driver domain's.
fn served() -> Result<()> {
    let grants = Domain::new("grants", "guest:grants").cmdline("xenstore").memory("32M").served_by("drivers");
    let text = describe::all(&[Domain::drivers(), grants]);
    let mut machine = Machine::new(Hypervisor::Paravane);
    domains::add(&mut machine, &files::save("library.toml", text.as_bytes())?, true)?;
    Session::start(&machine)?.wait_for("grants: all steps passed", SHORT).map(drop)
}

/// Grants are given, mapped, copied and taken back.
fn grants(hypervisor: Hypervisor, args: &str) -> Result<()> {
    let mut machine = Machine::new(hypervisor);
    machine.kernel = Some(project::guest_elf("grants"));
    machine.kernel_args = args.into();
    Session::start(&machine)?.wait_for("grants: all steps passed", SHORT).map(drop)
}

/// What is typed arrives, and what is logged appears.
fn echo(hypervisor: Hypervisor) -> Result<()> {
    let mut machine = Machine::new(hypervisor);
    machine.kernel = Some(project::guest_elf("echo"));
    let mut session = Session::start(&machine)?;
    session.wait_for("INFO  echo: type something", SHORT)?;
    session.send("eleven apples\r")?;
    session.wait_for("echo: <eleven apples>", SHORT)?;
    session.send("\r")?;
    session.wait_for("WARN  echo: done", SHORT).map(drop)
}
