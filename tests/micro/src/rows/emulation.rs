//! Privileged instructions of the kernel, which the hypervisor decodes and emulates.

use core::arch::asm;

use xen_abi::hypercall::nr;
use xen_abi::physdev::{PHYSDEVOP_SET_IOPL, PhysdevSetIopl};

use super::{Row, need};
use crate::call::op;
use crate::measure::ticks;
use crate::{Env, Missing};

/// The rows of this file.
pub const ROWS: &[Row] = &[
    ("emulate_rdmsr", rdmsr),
    ("emulate_wrmsr", wrmsr),
    ("emulate_cpuid", cpuid),
    ("emulate_in", input),
    ("emulate_out", output),
    ("emulate_read_cr0", read_cr0),
    ("emulate_write_cr4", write_cr4),
];

/// The time-stamp counter's neighbour that every guest reads: `IA32_EFER`.
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
/// The port at which firmware shows how far it came: writing to it does nothing.
const POST: u16 = 0x80;

fn rdmsr(_: &Env) -> Result<u64, Missing> {
    // SAFETY: reads a register of the virtual CPU.
    Ok(ticks(|_| unsafe {
        asm!("rdmsr", in("ecx") EFER, out("eax") _, out("edx") _, options(nomem, nostack))
    }))
}

fn wrmsr(_: &Env) -> Result<u64, Missing> {
    // SAFETY: sets the FS base to what it is; nothing uses FS.
    Ok(ticks(|_| unsafe {
        asm!("wrmsr", in("ecx") FS_BASE, in("eax") 0, in("edx") 0, options(nomem, nostack))
    }))
}

/// With the prefix that makes the hypervisor emulate it.
fn cpuid(_: &Env) -> Result<u64, Missing> {
    // SAFETY: the prefix is an invalid instruction that the hypervisor knows; `rbx` is kept.
    Ok(ticks(|_| unsafe {
        asm!("mov rsi, rbx", "ud2", ".ascii \"xen\"", "cpuid", "mov rbx, rsi",
            inout("eax") 1 => _, inout("ecx") 0 => _, out("edx") _, out("rsi") _, options(nomem, nostack))
    }))
}

/// Lets the kernel use ports.
fn with_ports(work: impl FnOnce() -> u64) -> Result<u64, Missing> {
    need("set_iopl", op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl: 1 }))?;
    let count = work();
    need("set_iopl", op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl: 0 }))?;
    Ok(count)
}

fn input(_: &Env) -> Result<u64, Missing> {
    with_ports(|| {
        // SAFETY: reading that port has no effect.
        ticks(|_| unsafe { asm!("in al, dx", in("dx") POST, out("al") _, options(nomem, nostack)) })
    })
}

fn output(_: &Env) -> Result<u64, Missing> {
    with_ports(|| {
        // SAFETY: writing to that port has no effect.
        ticks(|_| unsafe { asm!("out dx, al", in("dx") POST, in("al") 0_u8, options(nomem, nostack)) })
    })
}

fn read_cr0(_: &Env) -> Result<u64, Missing> {
    // SAFETY: reads a register of the virtual CPU.
    Ok(ticks(|_| unsafe { asm!("mov {}, cr0", out(reg) _, options(nomem, nostack)) }))
}

/// Writes what was read.
fn write_cr4(_: &Env) -> Result<u64, Missing> {
    let value: u64;
    // SAFETY: reads a register of the virtual CPU.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack)) };
    // SAFETY: sets it to what it is.
    Ok(ticks(|_| unsafe { asm!("mov cr4, {}", in(reg) value, options(nomem, nostack)) }))
}
