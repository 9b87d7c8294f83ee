//! Debug registers of PV guests (SDM Vol. 3, 17.2).

use crate::cpu::percpu::this_cpu;
use crate::machine::Vcpu;
use core::arch::asm;
use core::sync::atomic::Ordering;
use hypervisor_core::cpu_policy::CR4_DE;
use hypervisor_core::hypercall::cpu;
use xen_abi::errno::Errno;

/// DR6 with nothing to report.
pub const DR6_DEFAULT: u64 = 0xffff_0ff0;
/// DR7 with nothing enabled.
pub const DR7_DEFAULT: u64 = 0x400;
/// Enable bits, local and global, of all four breakpoints.
const DR7_ACTIVE: u64 = 0xff;

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

/// Sets a debug register to a value that was checked (`hypercall::cpu::checked_debugreg`).
pub fn set(vcpu: &Vcpu, reg: u64, value: u64) -> Result<(), Errno> {
    let slot = vcpu.arch.debug.get(reg as usize & 7).ok_or(Errno::EINVAL)?;
    let mut value = value;
    if reg == 7 {
        let on = value & DR7_ACTIVE != 0;
        let io = if on { cpu::io_breakpoints(value) & value } else { 0 };
        vcpu.arch.io_breakpoints.store(io, Ordering::Relaxed);
        value &= !io;
    }
    slot.store(value, Ordering::Relaxed);
    if is_loaded(vcpu) {
        load_all(vcpu);
    }
    Ok(())
}

/// Reads a debug register that is there.
pub fn get(vcpu: &Vcpu, reg: u64) -> Result<u64, Errno> {
    let io = if reg == 7 { vcpu.arch.io_breakpoints.load(Ordering::Relaxed) } else { 0 };
    let slot = vcpu.arch.debug.get(reg as usize & 7).ok_or(Errno::EINVAL)?;
    Ok(slot.load(Ordering::Relaxed) | io)
}

/// The breakpoints that an emulated access to ports hits, as in DR6.
pub fn io_hits(vcpu: &Vcpu, port: u16, len: u16) -> u64 {
    let enables = vcpu.arch.io_breakpoints.load(Ordering::Relaxed);
    if enables == 0 || vcpu.pv.cr4.load(Ordering::Relaxed) & CR4_DE == 0 {
        return 0;
    }
    let debug = |n: usize| vcpu.arch.debug[n].load(Ordering::Relaxed);
    cpu::hit_io_breakpoints(enables, debug(7), [0, 1, 2, 3].map(debug), port.into(), len.into())
}

/// Adds what an emulated instruction reports to the guest's DR6.
pub fn report(vcpu: &Vcpu, status: u64) {
    vcpu.arch.debug[6].fetch_or(status | DR6_DEFAULT, Ordering::Relaxed);
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
