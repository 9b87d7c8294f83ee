//! Debug registers of PV guests (SDM Vol. 3, 17.2).

use crate::cpu::percpu::this_cpu;
use crate::machine::Vcpu;
use crate::mm::layout::{HYPERVISOR_END, HYPERVISOR_START};
use core::arch::asm;
use core::sync::atomic::Ordering;
use hypervisor_core::ids::GuestVirt;
use xen_abi::errno::Errno;

/// DR6 with nothing to report.
pub const DR6_DEFAULT: u64 = 0xffff_0ff0;
/// DR7 with nothing enabled.
pub const DR7_DEFAULT: u64 = 0x400;
/// Enable bits, local and global, of all four breakpoints.
const DR7_ACTIVE: u64 = 0xff;
/// General detect, and bits that must be 0.
const DR7_FORBIDDEN: u64 = 0xffff_ffff_0000_d800 | 1 << 13;

macro_rules! move_to {
    ($reg:literal, $value:expr) => {
        // SAFETY: breakpoints are checked to lie outside of the hypervisor's range.
        unsafe { asm!(concat!("mov ", $reg, ", {}"), in(reg) $value, options(nostack, preserves_flags)) }
    };
}

fn load(reg: usize, value: u64) {
    match reg {
        0 => move_to!("dr0", value),
        1 => move_to!("dr1", value),
        2 => move_to!("dr2", value),
        3 => move_to!("dr3", value),
        6 => move_to!("dr6", value),
        _ => move_to!("dr7", value),
    }
}

/// Loads a vCPU's registers, when another's were loaded. A guest without active breakpoints costs one write.
pub fn load_all(vcpu: &Vcpu) {
    let dr7 = vcpu.arch.debug[7].load(Ordering::Relaxed);
    if dr7 & DR7_ACTIVE != 0 {
        for reg in [0, 1, 2, 3, 6] {
            load(reg, vcpu.arch.debug[reg].load(Ordering::Relaxed));
        }
    }
    load(7, dr7);
}

fn is_loaded(vcpu: &Vcpu) -> bool {
    this_cpu().current().is_some_and(|current| core::ptr::eq(current.vcpu(), vcpu))
}

/// Sets a debug register. Fails with `EPERM` for breakpoints on the hypervisor, with `EINVAL` for what a guest cannot
/// have.
pub fn set(vcpu: &Vcpu, reg: u64, value: u64) -> Result<(), Errno> {
    let reg = alias(vcpu, reg)?;
    let value = match reg {
        0..=3 => {
            if !GuestVirt(value).is_canonical() || (HYPERVISOR_START..HYPERVISOR_END).contains(&value) {
                return Err(Errno::EPERM);
            }
            value
        }
        6 => value & 0xe00f | DR6_DEFAULT,
        _ => {
            if value & DR7_FORBIDDEN != 0 {
                return Err(Errno::EPERM);
            }
            check_lengths(vcpu, value)?;
            value | DR7_DEFAULT
        }
    };
    vcpu.arch.debug[reg].store(value, Ordering::Relaxed);
    if is_loaded(vcpu) {
        load_all(vcpu);
    }
    Ok(())
}

/// I/O breakpoints need CR4.DE, which guests may have in their virtual CR4 only.
fn check_lengths(vcpu: &Vcpu, dr7: u64) -> Result<(), Errno> {
    const IO: u64 = 2;
    const CR4_DE: u64 = 1 << 3;
    let has_io = (0..4).any(|n| dr7 >> (2 * n) & 3 != 0 && dr7 >> (16 + 4 * n) & 3 == IO);
    if has_io && vcpu.pv.cr4.load(Ordering::Relaxed) & CR4_DE == 0 { Err(Errno::EPERM) } else { Ok(()) }
}

/// DR4 and DR5 are other names of DR6 and DR7 unless CR4.DE is set.
fn alias(vcpu: &Vcpu, reg: u64) -> Result<usize, Errno> {
    const CR4_DE: u64 = 1 << 3;
    match reg {
        0..=3 => Ok(reg as usize),
        4 | 5 if vcpu.pv.cr4.load(Ordering::Relaxed) & CR4_DE == 0 => Ok(reg as usize + 2),
        6 | 7 => Ok(reg as usize),
        _ => Err(Errno::EINVAL),
    }
}

/// Reads a debug register. Fails with `EINVAL` for a register that does not exist.
pub fn get(vcpu: &Vcpu, reg: u64) -> Result<u64, Errno> {
    Ok(vcpu.arch.debug[alias(vcpu, reg)?].load(Ordering::Relaxed))
}

/// Takes DR6 after a #DB of the guest: what it reports goes into the guest's.
pub fn take_status(vcpu: &Vcpu) {
    let dr6 = discard_status();
    let status = &vcpu.arch.debug[6];
    let old = status.load(Ordering::Relaxed);
    // Bits that are usually one report by being zero.
    status.store((old | dr6 & !DR6_DEFAULT) & (dr6 | !DR6_DEFAULT), Ordering::Relaxed);
}

/// Reads and resets DR6.
pub fn discard_status() -> u64 {
    let dr6: u64;
    // SAFETY: reads the status.
    unsafe { asm!("mov {}, dr6", out(reg) dr6, options(nostack, preserves_flags)) };
    load(6, DR6_DEFAULT);
    dr6
}
