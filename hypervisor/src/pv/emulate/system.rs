//! Control registers and the like, as a PV guest sees them.

use super::decode::{get, set};
use super::{Emulated, finish};
use crate::cpu::{self, features, fpu};
use crate::pv::{Guest, debug};
use core::arch::asm;
use core::sync::atomic::Ordering;
use hypervisor_core::cpu_policy::{CR4_OSXSAVE, CR4_VISIBLE, guest_cr4, valid_xcr0};
use hypervisor_core::domain::VcpuFlags;
use hypervisor_core::hypercall::cpu::{checked_debugreg, real_debugreg};
use hypervisor_core::ids::MachineAddr;
use hypervisor_core::page::PageError;
use hypervisor_core::regs::Regs;
use iced_x86::{Instruction, OpKind, Register};
use xen_abi::errno::Errno;

const INVALID_OPCODE: u8 = 6;
/// CR0 of a PV guest: PG, AM, WP, NE, ET, MP, PE; TS is its own.
const CR0: u64 = 0x8005_0033;
const CR0_TS: u64 = 1 << 3;

fn cr0(guest: &Guest<'_>) -> u64 {
    CR0 | if guest.vcpu.pv.has_flags(VcpuFlags::TASK_SWITCHED) { CR0_TS } else { 0 }
}

fn set_task_switched(guest: &Guest<'_>, on: bool) -> bool {
    guest.vcpu.pv.set_flags(VcpuFlags::TASK_SWITCHED, on);
    fpu::set_task_switched(on);
    true
}

/// `clts`.
pub fn clts(guest: &Guest<'_>) -> bool {
    set_task_switched(guest, false)
}

/// `mov` between a general register and a control or debug register.
pub fn move_register(guest: &Guest<'_>, regs: &mut Regs, i: &Instruction) -> Emulated {
    if i.op0_kind() != OpKind::Register || i.op1_kind() != OpKind::Register {
        return Emulated::No;
    }
    let (to, from) = (i.op0_register(), i.op1_register());
    let length = i.len() as u64;
    if to.is_dr() || from.is_dr() {
        return match move_debug(guest, regs, to, from) {
            Ok(()) => finish(regs, length, |_| true),
            Err(Errno::ENODEV) => Emulated::Exception(INVALID_OPCODE, None),
            Err(_) => Emulated::No,
        };
    }
    if to == Register::CR3 {
        return get(regs, from).map_or(Emulated::No, |value| write_cr3(guest, regs, value, length));
    }
    finish(regs, length, |regs| {
        if to.is_cr() {
            get(regs, from).is_some_and(|value| write_control(guest, to, value))
        } else {
            read_control(guest, from).is_some_and(|value| set(regs, to, value).is_some())
        }
    })
}

/// `ENODEV` for a register that is not there, another error for a value that it does not take.
fn move_debug(guest: &Guest<'_>, regs: &mut Regs, to: Register, from: Register) -> Result<(), Errno> {
    let cr4 = guest.vcpu.pv.cr4.load(Ordering::Relaxed);
    let number = |register: Register| u32::try_from(register.number()).map_err(|_| Errno::ENODEV);
    if to.is_dr() {
        let value = get(regs, from).ok_or(Errno::EINVAL)?;
        let (reg, value) = checked_debugreg(cr4, number(to)?, value)?;
        debug::set(guest.vcpu, reg, value)
    } else {
        let value = debug::get(guest.vcpu, real_debugreg(cr4, number(from)?)?)?;
        set(regs, to, value).ok_or(Errno::EINVAL)
    }
}

/// A change of root may take long: then the instruction is executed again.
fn write_cr3(guest: &Guest<'_>, regs: &mut Regs, value: u64, length: u64) -> Emulated {
    match guest.hv.new_baseptr(guest.domain, guest.vcpu, MachineAddr(value).mfn()) {
        Ok(()) => finish(regs, length, |_| true),
        Err(PageError::Restart) => Emulated::Done,
        Err(_) => Emulated::No,
    }
}

fn read_control(guest: &Guest<'_>, register: Register) -> Option<u64> {
    match register {
        Register::CR0 => Some(cr0(guest)),
        // A page fault's address is in `vcpu_info`, where the guest may change it.
        Register::CR2 => Some(guest.vcpu_info_cr2().load(Ordering::Relaxed)),
        Register::CR3 => guest.vcpu.pv.guest_table.get().map(|root| root.addr().0),
        Register::CR4 => Some(guest.vcpu.pv.cr4.load(Ordering::Relaxed) | CR4_VISIBLE),
        _ => None,
    }
}

fn write_control(guest: &Guest<'_>, register: Register, value: u64) -> bool {
    match register {
        // TS alone may change.
        Register::CR0 => (value ^ cr0(guest)) & !CR0_TS == 0 && set_task_switched(guest, value & CR0_TS != 0),
        Register::CR2 => {
            guest.vcpu_info_cr2().store(value, Ordering::Relaxed);
            true
        }
        Register::CR4 => write_cr4(guest, value),
        _ => false,
    }
}

/// Bits that the guest cannot switch stay as they are, whatever it writes: kernels write what they would on bare hardware.
fn write_cr4(guest: &Guest<'_>, value: u64) -> bool {
    let value = guest_cr4(value, features().fsgsbase, features().xsave);
    guest.vcpu.pv.cr4.store(value, Ordering::Relaxed);
    cpu::load_guest_cr4(value);
    true
}

/// `wbinvd`: only a domain with devices needs it; for others it is nothing.
pub fn wbinvd(guest: &Guest<'_>) -> bool {
    if guest.domain.privileged {
        // SAFETY: writes back what is dirty; nothing is lost.
        unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
    }
    true
}

/// `xsetbv` of XCR0 to a value that the CPU would take, once the guest's CR4 has it on.
pub fn xsetbv(guest: &Guest<'_>, regs: &mut Regs, length: u64) -> Emulated {
    if guest.vcpu.pv.cr4.load(Ordering::Relaxed) & CR4_OSXSAVE == 0 {
        return Emulated::Exception(INVALID_OPCODE, None);
    }
    let value = regs.rdx << 32 | regs.rax & 0xffff_ffff;
    if !guest.in_kernel() || regs.rcx & 0xffff_ffff != 0 || !valid_xcr0(value, fpu::supported_xcr0()) {
        return Emulated::No;
    }
    // SAFETY: checked to be a combination that the CPU takes.
    unsafe { fpu::set_xcr0(value) };
    guest.vcpu.arch.xcr0.store(value, Ordering::Relaxed);
    finish(regs, length, |_| true)
}

/// `rdtsc` where it faults.
pub fn rdtsc(regs: &mut Regs) -> bool {
    let tsc = crate::dev::clock::tsc();
    regs.rax = tsc & 0xffff_ffff;
    regs.rdx = tsc >> 32;
    true
}

/// `rdtscp` where it faults.
pub fn rdtscp(guest: &Guest<'_>, regs: &mut Regs) -> bool {
    regs.rcx = guest.vcpu.arch.msrs.tsc_aux.load(Ordering::Relaxed).into();
    rdtsc(regs)
}
