//! The `multitask` kernel, and with it the library's platforms: one file as a PV guest, as a PVH guest, and on a bare PC.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use xtask::project;
use xtask::qemu::{Hypervisor, Machine, Serial};
use xtask::session::{Ending, Session, run_to_end};

use crate::files;
use crate::support::{SHORT, guest_lines, trial};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("multitask::same_lines_everywhere", same_lines),
        trial("platform::native_by_multiboot", by_multiboot),
        trial("platform::native_by_pvh", by_pvh),
        trial("platform::native_module_and_arguments", module_and_arguments),
        trial("platform::native_on_plain_cpus", plain_cpus),
        trial("platform::native_memory", native_memory),
        trial("platform::pvh_on_xen", pvh_on_xen),
    ]
}

/// A kernel on the bare PC, by whichever protocol QEMU finds in it.
fn native(kernel: PathBuf) -> Machine {
    let mut machine = Machine::new(Hypervisor::File(kernel));
    machine.hypervisor_args = "none".into();
    machine.memory = "256M".into();
    machine
}

fn lines(name: &str, mut session: Session) -> Result<Vec<String>> {
    session.wait_for(&format!("{name}: all steps passed"), SHORT)?;
    Ok(guest_lines(&session.output(), "  ok", "all steps passed"))
}

fn on(name: &str, hypervisor: Hypervisor) -> Result<Vec<String>> {
    let mut machine = Machine::new(hypervisor);
    machine.kernel = Some(project::guest_elf(name));
    lines(name, Session::start(&machine)?)
}

/// As Xen's first domain with hardware virtualization, which needs SVM and an IOMMU of the emulated machine.
fn on_xen_as_pvh(name: &str) -> Result<Vec<String>> {
    let mut machine = Machine::new(Hypervisor::Xen);
    machine.kernel = Some(project::guest_elf(name));
    machine.hypervisor_args.push_str(" dom0=pvh dom0_mem=256M");
    machine.cpu = Some("max,+svm,-smap".into());
    let mut command = machine.command(Serial::Stdio)?;
    command.args(["-machine", "q35", "-device", "amd-iommu"]);
    lines(name, Session::from_command(command)?)
}

fn pvh_on_xen() -> Result<()> {
    ["hello", "memory", "smp", "grants"].iter().try_for_each(|name| on_xen_as_pvh(name).map(drop))
}

/// The library's own page tables, its allocators and its address spaces.
fn native_memory() -> Result<()> {
    lines("memory", Session::start(&native(project::guest_elf("memory")))?).map(drop)
}

fn same_lines() -> Result<()> {
    let ours = on("multitask", Hypervisor::Paravane)?;
    ensure!(ours.len() > 10, "few lines:\n{}", ours.join("\n"));
    let elsewhere = [
        ("PV on Xen", on("multitask", Hypervisor::Xen)?),
        ("PVH on Xen", on_xen_as_pvh("multitask")?),
        ("native", lines("multitask", Session::start(&native(project::guest_elf("multitask")))?)?),
    ];
    for (place, lines) in elsewhere {
        ensure!(ours == lines, "on Paravane:\n{}\n{place}:\n{}", ours.join("\n"), lines.join("\n"));
    }
    Ok(())
}

/// The machine is switched off at the end, by ACPI.
fn passes_and_ends(machine: &Machine) -> Result<()> {
    let (output, ending) = run_to_end(machine, SHORT)?;
    ensure!(output.contains("hello: all steps passed"), "{output}");
    ensure!(ending == Ending::PowerOff, "the machine ended by {ending:?}:\n{output}");
    Ok(())
}

fn by_multiboot() -> Result<()> {
    passes_and_ends(&native(project::guest_elf("hello")))
}

/// QEMU prefers multiboot; without that header's magic it takes the PVH note.
fn by_pvh() -> Result<()> {
    passes_and_ends(&native(files::without_multiboot(&project::guest_elf("hello"), "hello-pvh")?))
}

/// Both protocols hand over the command line and the module.
fn module_and_arguments() -> Result<()> {
    let module = files::save("module", &[b"first line\n".as_slice(), &[b'x'; 10_000]].concat())?;
    let hello = project::guest_elf("hello");
    for kernel in [hello.clone(), files::without_multiboot(&hello, "hello-pvh-module")?] {
        let mut machine = native(kernel);
        machine.hypervisor_args = "one module two".into();
        // Behind `-kernel` the first module is what Xen would take for a kernel.
        machine.kernel = Some(module.clone());
        let (output, _) = run_to_end(&machine, SHORT)?;
        ensure!(output.contains("module: 10011 bytes, \"first line\""), "{output}");
    }
    Ok(())
}

fn plain_cpus() -> Result<()> {
    for cpu in ["qemu64", "Haswell", "EPYC"] {
        let mut machine = native(project::guest_elf("hello"));
        machine.cpu = Some(cpu.into());
        passes_and_ends(&machine)?;
    }
    Ok(())
}
