//! Control registers and the like, as a PV guest sees them.

use super::decode::{get, set};
use crate::cpu::{features, fpu};
use crate::pv::bounce::{UPCALL_MASK, UPCALL_MASK_SET};
use crate::pv::{Guest, debug};
use core::arch::asm;
use core::sync::atomic::Ordering;
use hypervisor_core::domain::VcpuFlags;
use hypervisor_core::ids::{GuestVirt, MachineAddr, Mfn};
use hypervisor_core::regs::Regs;
use iced_x86::{Instruction, OpKind, Register};

/// CR0 of a PV guest: PG, AM, WP, NE, ET, MP, PE; TS is its own.
const CR0: u64 = 0x8005_0033;
const CR0_TS: u64 = 1 << 3;
const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4 as hardware runs a guest: PAE, MCE, PGE, OSFXSR, OSXMMEXCPT.
const CR4_BASE: u64 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10;
/// What a guest may switch, for itself to see: TSD, DE, OSXSAVE. The hardware's stay as they are.
const CR4_OWN: u64 = 1 << 2 | 1 << 3 | CR4_OSXSAVE;

fn cr0(guest: &Guest<'_>) -> u64 {
    CR0 | if guest.vcpu.pv.has_flags(VcpuFlags::TASK_SWITCHED) { CR0_TS } else { 0 }
}

/// CR4 as the guest reads it.
pub fn cr4(guest: &Guest<'_>) -> u64 {
    let fsgsbase = if features().fsgsbase { 1 << 16 } else { 0 };
    CR4_BASE | fsgsbase | guest.vcpu.pv.cr4.load(Ordering::Relaxed) & CR4_OWN
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
pub fn move_register(guest: &Guest<'_>, regs: &mut Regs, i: &Instruction) -> bool {
    if i.op0_kind() != OpKind::Register || i.op1_kind() != OpKind::Register {
        return false;
    }
    let (to, from) = (i.op0_register(), i.op1_register());
    if to.is_cr() {
        get(regs, from).is_some_and(|value| write_control(guest, to, value))
    } else if from.is_cr() {
        read_control(guest, from).is_some_and(|value| set(regs, to, value).is_some())
    } else if to.is_dr() {
        get(regs, from).is_some_and(|value| debug::set(guest.vcpu, to.number() as u64, value).is_ok())
    } else if from.is_dr() {
        debug::get(guest.vcpu, from.number() as u64).is_ok_and(|value| set(regs, to, value).is_some())
    } else {
        false
    }
}

fn read_control(guest: &Guest<'_>, register: Register) -> Option<u64> {
    match register {
        Register::CR0 => Some(cr0(guest)),
        // A page fault's address is in `vcpu_info`, where the guest may change it.
        Register::CR2 => Some(guest.vcpu_info_cr2().load(Ordering::Relaxed)),
        Register::CR3 => Some(Mfn(guest.vcpu.pv.guest_table.load(Ordering::Relaxed)).addr().0),
        Register::CR4 => Some(cr4(guest)),
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
        Register::CR3 => guest.hv.new_baseptr(guest.domain, guest.vcpu, MachineAddr(value).mfn()).is_ok(),
        Register::CR4 => write_cr4(guest, value),
        _ => false,
    }
}

/// Bits that the guest cannot switch stay as they are, whatever it writes: kernels write what they would on bare hardware.
fn write_cr4(guest: &Guest<'_>, value: u64) -> bool {
    let own = if features().xsave { CR4_OWN } else { CR4_OWN & !CR4_OSXSAVE };
    guest.vcpu.pv.cr4.store(value & own, Ordering::Relaxed);
    true
}

/// `lmsw`: of the low four bits only TS can change, and `lmsw` cannot clear PE.
pub fn lmsw(guest: &Guest<'_>, regs: &Regs, i: &Instruction) -> bool {
    if i.op0_kind() != OpKind::Register {
        return false;
    }
    get(regs, i.op0_register()).is_some_and(|value| {
        let wanted = cr0(guest) & !0xe | value & 0xe;
        write_control(guest, Register::CR0, wanted)
    })
}

/// `smsw`, where UMIP makes it fault.
pub fn smsw(guest: &Guest<'_>, regs: &mut Regs, i: &Instruction) -> bool {
    i.op0_kind() == OpKind::Register && set(regs, i.op0_register(), cr0(guest)).is_some()
}

/// `wbinvd`: only a domain with devices needs it; for others it is nothing.
pub fn wbinvd(guest: &Guest<'_>) -> bool {
    if guest.domain.privileged {
        // SAFETY: writes back what is dirty; nothing is lost.
        unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
    }
    true
}

/// `xsetbv` of XCR0 to a value that the CPU would take.
pub fn xsetbv(regs: &Regs) -> bool {
    let value = regs.rdx << 32 | regs.rax & 0xffff_ffff;
    if regs.rcx & 0xffff_ffff != 0 || !features().xsave || !valid_xcr0(value) {
        return false;
    }
    // SAFETY: checked to be a combination that the CPU takes.
    unsafe { fpu::set_xcr0(value) };
    true
}

/// x87 on; AVX needs SSE; the three parts of AVX-512 come together and need AVX (SDM Vol. 1, 13.3).
fn valid_xcr0(value: u64) -> bool {
    const AVX512: u64 = 7 << 5;
    value & 1 != 0
        && value & !fpu::supported_xcr0() == 0
        && (value & 4 == 0 || value & 2 != 0)
        && (value & AVX512 == 0 || (value & AVX512 == AVX512 && value & 4 != 0))
}

/// `rdtsc` where it faults.
pub fn rdtsc(regs: &mut Regs) -> bool {
    let tsc = crate::dev::clock::tsc();
    regs.rax = tsc & 0xffff_ffff;
    regs.rdx = tsc >> 32;
    true
}

/// `cli` and `sti` with enough IOPL: the guest's event mask.
pub fn set_events(guest: &Guest<'_>, masked: bool) -> bool {
    if masked {
        guest.info.fetch_or(UPCALL_MASK_SET, Ordering::SeqCst);
    } else {
        guest.info.fetch_and(!UPCALL_MASK, Ordering::SeqCst);
    }
    true
}

/// An address that a base register may take.
pub fn canonical(value: u64) -> bool {
    GuestVirt(value).is_canonical()
}
