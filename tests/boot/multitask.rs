//! The `multitask` kernel, and with it the library's platforms: one file as a PV guest, as a PVH guest, and on a bare PC.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
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
        trial("platform::native_interrupted", interrupted),
        trial("platform::native_under_nmis", under_nmis),
        trial("platform::a_pv_kernel_keeps_its_fs_base", kernel_base),
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

/// A native kernel with QEMU's monitor at the other end of a socket.
fn with_monitor(name: &str, args: &str) -> Result<(Session, Monitor)> {
    let mut machine = native(project::guest_elf(name));
    machine.hypervisor_args = args.into();
    let socket = project::guests().join(format!("monitor-{}-{name}", std::process::id()));
    let mut command = machine.command(Serial::Stdio)?;
    let device = format!("socket,id=monitor,path={},server=on,wait=off", socket.display());
    command.args(["-chardev", &device, "-mon", "chardev=monitor,mode=readline"]);
    let session = Session::from_command(command)?;
    Ok((session, Monitor::connect(&socket)?))
}

/// QEMU's monitor.
struct Monitor(UnixStream);

impl Monitor {
    fn connect(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + SHORT;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => bail!("no monitor: {error}"),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        fs::remove_file(socket)?;
        // What it answers is of no interest, but must go somewhere.
        let mut answers = stream.try_clone()?;
        thread::spawn(move || io::copy(&mut answers, &mut io::sink()));
        Ok(Self(stream))
    }

    fn say(&mut self, command: &str) -> Result<()> {
        writeln!(self.0, "{command}").context("the monitor is gone")
    }

    /// Sends NMIs, as fast as they are taken, until `done` says that it is enough.
    fn nmis(&mut self, mut done: impl FnMut() -> bool) -> Result<()> {
        while !done() {
            self.say("nmi")?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// From a line of the kernel's to the program that it then enters.
const SETTLED: Duration = Duration::from_millis(500);
/// An uncorrected error in bank 0 of CPU 0, with a valid restart address.
const MACHINE_CHECK: &str = "mce 0 0 0xb200000000000000 0x5 0 0";

/// What is not of the program's making does not harm the kernel: see the example.
fn interrupted() -> Result<()> {
    let (mut session, mut monitor) = with_monitor("interrupted", "none")?;
    session.wait_for("send NMIs to the program", SHORT)?;
    let deadline = Instant::now() + SHORT;
    monitor.nmis(|| session.output().contains("send a machine check") || Instant::now() > deadline)?;
    session.wait_for("send a machine check to the program", SHORT)?;
    // The kernel has printed this; the program is to run when it comes.
    std::thread::sleep(SETTLED);
    monitor.say(MACHINE_CHECK)?;
    session.wait_for("interrupted: all steps passed", SHORT)?;
    session.wait_for("send a machine check to the kernel", SHORT)?;
    monitor.say(MACHINE_CHECK)?;
    session.wait_for("unhandled exception", SHORT)?;
    session.wait_for("vector 0x12", SHORT).map(drop)
}

/// Many programs, forks and faults, with NMIs all the time.
fn under_nmis() -> Result<()> {
    let (mut session, mut monitor) = with_monitor("multitask", "stats")?;
    // Before it has begun, the firmware and the kernel's first instructions are not ready for any.
    session.wait_for("multitask: ", SHORT)?;
    let deadline = Instant::now() + SHORT;
    let ended = |output: &str| output.contains("multitask: all") || output.contains("multitask: some");
    // The machine is gone a moment after its last line.
    let _ = monitor.nmis(|| ended(&session.output()) || Instant::now() > deadline);
    let output = session.wait_for("multitask: all steps passed", SHORT)?;
    let count = output.split_once("NMIs: ").and_then(|(_, rest)| rest.lines().next()?.parse::<u64>().ok());
    ensure!(count.is_some_and(|count| count > 0), "{count:?} NMIs:\n{output}");
    Ok(())
}

fn kernel_base() -> Result<()> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.kernel = Some(project::guest_elf("interrupted"));
    let mut session = Session::start(&machine)?;
    session.wait_for("FS: the kernel's base is there", SHORT)?;
    session.wait_for("interrupted: all steps passed", SHORT).map(drop)
}
