//! Boots that cannot succeed: each ends in one clear line and a halted machine, never in a reset or a triple fault.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use xtask::probe::{self, Probe};
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::{Session, tail};

use crate::files::{self, Field};
use crate::support::{SHORT, trial};

/// How long a machine must stay halted before it counts as halted.
const SETTLED: Duration = Duration::from_secs(1);
/// How each such line ends.
const HALTED: &str = "Halted.";
/// Note types of elfnote.h.
const NOTE_ENTRY: u32 = 1;
const NOTE_VIRT_BASE: u32 = 3;
const NOTE_XEN_VERSION: u32 = 5;
/// Damage that is done to a valid kernel.
type Damage = fn(&mut Vec<u8>) -> Result<()>;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, said, damage) in elf_cases() {
        trials.push(trial(format!("corrupt::{name}"), move || {
            refused(&damaged(name, files::pv_kernel()?, damage)?, said)
        }));
    }
    for (name, said, damage) in bzimage_cases() {
        trials.push(trial(format!("corrupt::{name}"), move || {
            refused(&damaged(name, files::bzimage()?, damage)?, said)
        }));
    }
    for (name, said, machine) in machine_cases() {
        trials.push(trial(format!("corrupt::{name}"), move || refused(&machine()?, said)));
    }
    trials
}

/// Damaged ELF kernels: name, what the message must say, the damage.
fn elf_cases() -> Vec<(&'static str, &'static str, Damage)> {
    vec![
        ("empty_module", "neither an ELF file nor a bzImage", |kernel| {
            kernel.truncate(1);
            Ok(())
        }),
        ("text_file", "neither an ELF file nor a bzImage", |kernel| {
            *kernel = b"not a kernel at all\n".repeat(1000);
            Ok(())
        }),
        ("truncated_elf_header", "damaged", |kernel| {
            kernel.truncate(40);
            Ok(())
        }),
        ("truncated_elf", "damaged", files::truncate_segment),
        ("program_headers_outside", "damaged", |kernel| files::set_program_headers(kernel, 1 << 40, 4)),
        ("program_headers_wrap", "damaged", |kernel| files::set_program_headers(kernel, u64::MAX - 8, 4)),
        ("too_many_program_headers", "damaged", |kernel| files::set_program_headers(kernel, 64, u16::MAX)),
        ("segment_offset_wraps", "damaged", |kernel| {
            files::set_segment(kernel, Field::Offset, u64::MAX - 16)
        }),
        ("segment_file_size_huge", "damaged", |kernel| files::set_segment(kernel, Field::FileSize, 1 << 60)),
        ("segment_address_absurd", "kernel", |kernel| {
            files::set_segment(kernel, Field::PhysicalAddress, 1 << 60)
        }),
        ("larger_than_memory", "kernel", |kernel| files::set_segment(kernel, Field::MemorySize, 1 << 40)),
        ("wrong_machine", "not a 64-bit x86 ELF file", |kernel| {
            files::set_machine(kernel, 183);
            Ok(())
        }),
        ("no_xen_notes", "no Xen ELF notes", |kernel| files::drop_notes(kernel)),
        ("entry_outside_the_image", "ENTRY", |kernel| files::set_note(kernel, NOTE_ENTRY, 0x1000)),
        ("entry_not_canonical", "ENTRY", |kernel| files::set_note(kernel, NOTE_ENTRY, 0x0123_4567_89ab_cdef)),
        ("base_absurd", "Xen note", |kernel| files::set_note(kernel, NOTE_VIRT_BASE, 0x0123_4567_89ab_c000)),
        ("base_in_the_hypervisors_hole", "kernel", |kernel| {
            files::set_note(kernel, NOTE_VIRT_BASE, 0xffff_8000_0000_0000)
        }),
        ("wrong_xen_version", "xen-3.0", |kernel| files::set_note_text(kernel, NOTE_XEN_VERSION, b"xen-9.9")),
    ]
}

/// Damaged bzImages.
fn bzimage_cases() -> Vec<(&'static str, &'static str, Damage)> {
    vec![
        ("bad_payload", "does not unpack", |kernel| files::damage_payload(kernel)),
        ("truncated_payload", "bzImage", files::truncate_payload),
        ("unknown_compression", "no known compression", |kernel| files::unknown_compression(kernel)),
    ]
}

type MakeMachine = fn() -> Result<Machine>;

/// Machines that are not good enough for a valid kernel.
fn machine_cases() -> Vec<(&'static str, &'static str, MakeMachine)> {
    vec![
        ("no_module", "module", || Ok(Machine::new(Hypervisor::Paravane))),
        ("no_long_mode", "no long mode", || with_kernel(|machine| machine.cpu = Some("qemu32".into()))),
        ("too_little_memory", "memory", || with_kernel(|machine| machine.memory = "8M".into())),
        ("too_little_domain_memory", "too little memory", || {
            with_kernel(|machine| machine.hypervisor_args.push_str(" dom0_mem=64K"))
        }),
        ("initrd_larger_than_the_domain", "too little memory", initrd_larger_than_the_domain),
        ("command_line_too_long", "command line", || {
            with_kernel(|machine| machine.kernel_args = "long ".repeat(400))
        }),
        ("elf32_module", "not a 64-bit x86 ELF file", || {
            let mut machine = Machine::new(Hypervisor::Paravane);
            machine.kernel = Some(probe::build(Probe::Firmware)?);
            Ok(machine)
        }),
    ]
}

fn with_kernel(change: impl FnOnce(&mut Machine)) -> Result<Machine> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.kernel = Some(probe::build(Probe::PvGuest)?);
    change(&mut machine);
    Ok(machine)
}

fn damaged(name: &str, mut kernel: Vec<u8>, damage: Damage) -> Result<Machine> {
    damage(&mut kernel)?;
    let path = files::save(name, &kernel)?;
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.kernel = Some(path);
    Ok(machine)
}

fn initrd_larger_than_the_domain() -> Result<Machine> {
    let initrd = files::save("large-initrd", &vec![0x5a; 48 << 20])?;
    with_kernel(|machine| {
        machine.initrd = Some(initrd);
        machine.hypervisor_args.push_str(" dom0_mem=32M");
    })
}

/// The machine says why it cannot boot, once, and stays halted.
fn refused(machine: &Machine, said: &str) -> Result<()> {
    let mut session = Session::start(machine)?;
    session.wait_for(HALTED, SHORT)?;
    thread::sleep(SETTLED);
    let output = session.output();
    let reasons: Vec<&str> = output.lines().filter(|line| line.contains(HALTED)).collect();
    ensure!(reasons.len() == 1, "{} reasons:\n{}", reasons.len(), tail(&output));
    ensure!(reasons[0].contains(said), "{:?} does not say {said:?}", reasons[0]);
    for word in ["panic", "Panic", "BUG"] {
        ensure!(!output.contains(word), "{word}:\n{}", tail(&output));
    }
    if session.has_triple_faulted() {
        bail!("triple fault after:\n{}", tail(&output));
    }
    ensure!(session.is_running()?, "the machine did not stay halted:\n{}", tail(&output));
    Ok(())
}
