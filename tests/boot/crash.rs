//! NMIs of the platform at any moment, and ends of the machine that must be seen: exceptions that no code is ready for, and those
//! at a CPU that is not the first.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::project;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::{Session, tail};

use crate::support::{SHORT, guest_lines, trial, verdicts};

/// How long a machine must stay halted before it counts as halted.
const SETTLED: Duration = Duration::from_secs(1);
/// The pause between two NMIs.
const PAUSE: Duration = Duration::from_millis(1);
/// A kernel that waits for input: its machine stays as it is.
const WAITING: &str = "type something";
/// How the hypervisor begins what it says of NMIs.
const NOTED: [&str; 2] = ["(HV) NMI on ", " NMIs on "];

pub fn trials() -> Vec<Trial> {
    vec![
        trial("nmi::hammers_hello", || hammer_guest("hello", "", "hello: all steps passed")),
        trial("nmi::hammers_multitask", || hammer_guest("multitask", "", "multitask: all steps passed")),
        trial("nmi::hammers_conformance", hammer_conformance),
        trial("nmi::is_fatal_if_wanted", fatal_nmi),
        trial("crash::machine_check_on_the_first_cpu", || machine_check(0)),
        trial("crash::machine_check_on_the_second_cpu", || machine_check(1)),
        trial("crash::first_domain_on_the_second_cpu", first_domain),
    ]
}

/// A machine and QEMU's monitor.
struct Watched {
    session: Session,
    monitor: UnixStream,
    socket: PathBuf,
}

impl Watched {
    fn start(guest: &str, kernel_args: &str, cpus: u32, hypervisor_args: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("paravane-monitor-{}-{number}", std::process::id()));
        let mut machine = Machine::new(Hypervisor::Paravane);
        machine.kernel = Some(project::guest_elf(guest));
        machine.kernel_args = kernel_args.into();
        machine.cpus = cpus;
        machine.hypervisor_args.push_str(hypervisor_args);
        machine.monitor = Some(socket.clone());
        let session = Session::start(&machine)?;
        let deadline = Instant::now() + SHORT;
        let monitor = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => ensure!(Instant::now() < deadline, "no monitor: {error}"),
            }
            thread::sleep(PAUSE);
        };
        // What it answers must be read, or it waits.
        let mut answers = monitor.try_clone()?;
        thread::spawn(move || while answers.read(&mut [0; 4096]).is_ok_and(|count| count != 0) {});
        Ok(Self { session, monitor, socket })
    }

    fn command(&mut self, command: &str) -> Result<()> {
        writeln!(self.monitor, "{command}").with_context(|| tail(&self.session.output()))
    }

    /// Sends NMIs until the machine has printed `last`.
    fn hammer(&mut self, last: &str) -> Result<String> {
        // Before, the firmware or a loader would have to bear them.
        self.session.wait_for("(HV) Domain 0 (", SHORT)?;
        let deadline = Instant::now() + SHORT;
        loop {
            let output = self.session.output();
            if output.contains(last) {
                return Ok(output);
            }
            ensure!(Instant::now() < deadline, "no {last:?} under NMIs:\n{}", tail(&output));
            self.command("nmi")?;
            thread::sleep(PAUSE);
        }
    }

    /// The machine says its last words and stays halted.
    fn ends_with(&mut self, last: &str) -> Result<String> {
        self.session.wait_for(last, SHORT)?;
        thread::sleep(SETTLED);
        let output = self.session.output();
        ensure!(self.session.is_running()?, "the machine did not stay halted:\n{}", tail(&output));
        Ok(output)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

/// They were seen, each line of the hypervisor is whole, and nothing else came of them.
fn only_noted(output: &str) -> Result<()> {
    // The last one may be on its way.
    let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let own = whole.lines().filter(|line| line.starts_with("(HV) "));
    let noted = own.filter(|line| NOTED.iter().any(|text| line.contains(text)));
    ensure!(noted.clone().count() > 3, "hardly an NMI was noted:\n{}", tail(output));
    let torn = noted.clone().find(|line| !line.ends_with(": unknown reason"));
    ensure!(torn.is_none(), "{torn:?}\n{}", tail(output));
    ensure!(!output.to_lowercase().contains("panic"), "{}", tail(output));
    Ok(())
}

/// The guest has no NMI callback, so it prints what it prints without them.
fn hammer_guest(name: &str, kernel_args: &str, last: &str) -> Result<()> {
    for cpus in [1, 2] {
        let mut machine = Watched::start(name, kernel_args, cpus, " loglvl=all")?;
        let output = machine.hammer(last)?;
        only_noted(&output)?;
        let lines = guest_lines(&output, "", last);
        ensure!(
            !lines.iter().any(|line| line.contains("not ok") || line.contains("FAIL")),
            "{}",
            tail(&output)
        );
    }
    Ok(())
}

/// The verdicts are those without NMIs. Cases about NMIs count them, so the platform's are nothing for this domain; one case reads the
/// hypervisor's log, in which each NMI is a line.
fn hammer_conformance() -> Result<()> {
    const LAST: &str = "Test result: ";
    const READS_THE_LOG: &str = "outputs::end_of_the_log";
    let start = || Watched::start("conformance", "", 1, " noreboot dom0_mem=256M nmi=ignore");
    let mut quiet = start()?;
    quiet.session.wait_for(LAST, SHORT)?;
    let without = verdicts(&quiet.session.output());
    drop(quiet);
    let mut machine = start()?;
    let output = machine.hammer(LAST)?;
    only_noted(&output)?;
    let with = verdicts(&output);
    ensure!(with.len() > 100, "{} cases\n{}", with.len(), tail(&output));
    let wrong = |case: &str| case != READS_THE_LOG && with.get(case) != without.get(case);
    let changed: Vec<_> = with.keys().filter(|case| wrong(case)).map(|case| (case, &with[case])).collect();
    ensure!(changed.is_empty() && with.len() == without.len(), "{changed:?}\n{}", tail(&output));
    Ok(())
}

fn fatal_nmi() -> Result<()> {
    let mut machine = Watched::start("echo", "", 2, " noreboot nmi=fatal")?;
    machine.session.wait_for(WAITING, SHORT)?;
    machine.command("nmi")?;
    let output = machine.ends_with("(HV) Halted.")?;
    ensure!(output.contains("NMI: unknown reason") && output.contains("(HV) rip "), "{}", tail(&output));
    Ok(())
}

/// Hardware says that something is broken: that the machine ends is right, and its reason must be seen.
fn machine_check(cpu: u32) -> Result<()> {
    let mut machine = Watched::start("echo", "", 2, " noreboot")?;
    machine.session.wait_for(WAITING, SHORT)?;
    machine.command(&format!("mce {cpu} 1 0xbe00000000000134 0x4 0x1234000 0"))?;
    let output = machine.ends_with("(HV) Halted.")?;
    for text in ["exception 18 in", "bank 1: status 0xbe00000000000134 address 0x1234000", "(HV) rip "] {
        ensure!(output.contains(text), "{text:?} is missing:\n{}", tail(&output));
    }
    let place = format!("(HV) Panic on cpu{cpu}: ");
    ensure!(output.contains(&place), "{place:?} is missing:\n{}", tail(&output));
    Ok(())
}

/// The control domain's end is the machine's, from whichever CPU it comes; `noreboot` keeps the message on the screen.
fn first_domain() -> Result<()> {
    let args = " noreboot dom0_max_vcpus=2 dom0_vcpus_pin";
    let mut machine = Watched::start("conformance", "case=smp::crash_of_the_second", 2, args)?;
    machine.ends_with("(HV) Hardware Dom0 crashed: 'noreboot' set - not rebooting.")?;
    Ok(())
}
