//! Exceptions that a guest raises: those the hypervisor resolves, and those its kernel is given.

use super::emulate::{self, Emulated};
use super::{Guest, debug, descriptors};
use crate::cpu::descriptors::gdt_window;
use crate::cpu::percpu::this_cpu;
use crate::cpu::{fpu, isolation};
use crate::mm::layout::{HYPERVISOR_END, HYPERVISOR_START};
use crate::mm::uaccess::copy_from_guest;
use core::arch::asm;
use core::sync::atomic::Ordering;
use hypervisor_core::domain::VcpuFlags;
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::regs::Regs;
use x86_64::instructions::interrupts;

const DEBUG: u8 = 1;
const INVALID_OPCODE: u8 = 6;
const NO_DEVICE: u8 = 7;
const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;
/// Exceptions that push an error code (SDM Vol. 3, table 6-1).
const WITH_CODE: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21;

const PF_PRESENT: u32 = 1 << 0;
const PF_WRITE: u32 = 1 << 1;
const PF_USER: u32 = 1 << 2;
const PF_RESERVED: u32 = 1 << 3;
const RFLAGS_TF: u64 = 1 << 8;
/// DR6: a single step.
const DR6_STEP: u64 = 1 << 14;
/// The error code of a selector: it is one of the LDT.
const SELECTOR_LDT: u32 = 1 << 2;
/// The error code of #GP names an entry of the IDT.
const GP_IDT: u32 = 1 << 1;

/// An exception with interrupts off; they are on again where it takes longer.
pub fn exception(vector: u8, regs: &mut Regs) {
    // Each is a function of its own, so that none saves registers for the others' sake.
    match vector {
        PAGE_FAULT => page_fault(regs),
        GENERAL_PROTECTION => general_protection(regs),
        INVALID_OPCODE => invalid_opcode(regs),
        _ => other(vector, regs),
    }
}

/// The exceptions of which the hypervisor resolves nothing.
#[inline(never)]
fn other(vector: u8, regs: &mut Regs) {
    let guest = Guest::current(this_cpu());
    let code = error_code(regs);
    match vector {
        NO_DEVICE => {
            // A guest that asked for CR0.TS gets its exception, once.
            fpu::set_task_switched(false);
            guest.vcpu.pv.set_flags(VcpuFlags::TASK_SWITCHED, false);
            guest.exception(regs, NO_DEVICE, None);
        }
        DEBUG => {
            debug::take_status(guest.vcpu);
            guest.exception(regs, DEBUG, None);
        }
        _ => guest.exception(regs, vector, (WITH_CODE >> vector & 1 != 0).then_some(code)),
    }
}

fn error_code(regs: &Regs) -> u32 {
    (regs.error_code & 0xffff_ffff) as u32
}

/// `int 0x80`, which stands in front of `rip`.
pub fn int80(regs: &mut Regs) {
    const VECTOR: u8 = 0x80;
    let guest = Guest::current(this_cpu());
    if guest.vcpu.pv.traps[usize::from(VECTOR)].address.load(Ordering::Relaxed) == 0 {
        regs.rip = regs.rip.wrapping_sub(2);
        guest.exception(regs, GENERAL_PROTECTION, Some(u32::from(VECTOR) << 3 | GP_IDT));
        return;
    }
    guest.exception(regs, VECTOR, None);
}

#[inline(never)]
fn page_fault(regs: &mut Regs) {
    let (guest, code) = (&Guest::current(this_cpu()), error_code(regs));
    let mut address: u64;
    // SAFETY: reads a register, before anything else can fault.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    if isolation::is_stale(this_cpu(), address) {
        return;
    }
    interrupts::enable();
    if (HYPERVISOR_START..HYPERVISOR_END).contains(&address) {
        // The CPU reads descriptors with its own privilege; an access of the guest's own is none of them.
        if code & (PF_USER | PF_RESERVED) == 0 {
            match descriptor_fault(guest, regs, address) {
                Some(own) => address = own,
                None => return,
            }
        }
    } else if code & (PF_PRESENT | PF_WRITE | PF_RESERVED) == PF_PRESENT | PF_WRITE && guest.in_kernel() {
        let rip = regs.rip;
        let outcome = emulate::page_table_write(guest, regs, GuestVirt(address));
        if emulated(guest, regs, outcome, rip) {
            return;
        }
    }
    deliver_page_fault(guest, regs, address, code);
}

/// The CPU did not find a descriptor. Answers the address that the guest is to see as missing; `None`: it is there now, or the
/// guest has been given another fault.
fn descriptor_fault(guest: &Guest<'_>, regs: &mut Regs, address: u64) -> Option<u64> {
    let error_code = if descriptors::in_ldt_window(address) {
        let own = descriptors::ldt_fault(guest, address).err()?;
        if own.is_canonical() {
            return Some(own.0);
        }
        let offset = own.0.wrapping_sub(guest.vcpu.pv.ldt_base.load(Ordering::Relaxed));
        (offset & 0xfff8) as u32 | SELECTOR_LDT
    } else if let Some(offset) = gdt_offset(address) {
        // A selector whose descriptor the guest has no frame for: beyond the limit of its table, as it sees it.
        offset & 0xfff8
    } else {
        return Some(address);
    };
    guest.exception(regs, GENERAL_PROTECTION, Some(error_code));
    None
}

/// Gives the guest a page fault, with the privilege in the error code that the guest believes in.
pub fn deliver_page_fault(guest: &Guest<'_>, regs: &mut Regs, address: u64, code: u32) {
    let user = if guest.in_kernel() { 0 } else { PF_USER };
    guest.vcpu_info_cr2().store(address, Ordering::Relaxed);
    guest.exception(regs, PAGE_FAULT, Some(code & !PF_USER | user));
}

fn gdt_offset(address: u64) -> Option<u32> {
    let offset = address.checked_sub(gdt_window(this_cpu().id()))?;
    u32::try_from(offset).ok().filter(|o| *o < 0x1_0000)
}

#[inline(never)]
fn general_protection(regs: &mut Regs) {
    let (guest, code) = (&Guest::current(this_cpu()), error_code(regs));
    interrupts::enable();
    // External events cannot come from ring 3, so an IDT entry in the error code means `int n`. QEMU before version 8 reports
    // another entry than the instruction names: the instruction is what counts.
    if code & GP_IDT != 0 && software_interrupt(guest, regs) {
        return;
    }
    if code == 0 {
        let rip = regs.rip;
        let outcome = emulate::privileged(guest, regs);
        if emulated(guest, regs, outcome, rip) {
            return;
        }
    }
    guest.exception(regs, GENERAL_PROTECTION, Some(code));
}

/// Gives the guest what an emulated instruction raises. Answers whether that is all.
#[inline]
fn emulated(guest: &Guest<'_>, regs: &mut Regs, outcome: Emulated, rip: u64) -> bool {
    match outcome {
        Emulated::No => false,
        Emulated::Done if regs.rflags & RFLAGS_TF == 0 => true,
        _ => {
            raise(guest, regs, outcome, rip);
            true
        }
    }
}

#[cold]
#[inline(never)]
fn raise(guest: &Guest<'_>, regs: &mut Regs, outcome: Emulated, rip: u64) {
    match outcome {
        Emulated::Done => single_step(guest, regs, rip),
        Emulated::DebugHit(status) => {
            debug::report(guest.vcpu, status | if regs.rflags & RFLAGS_TF != 0 { DR6_STEP } else { 0 });
            guest.exception(regs, DEBUG, None);
        }
        Emulated::PageFault(address, code) => deliver_page_fault(guest, regs, address.0, code),
        Emulated::Exception(vector, code) => guest.exception(regs, vector, code),
        Emulated::No => {}
    }
}

/// An emulated instruction is a step as any other.
fn single_step(guest: &Guest<'_>, regs: &mut Regs, rip: u64) {
    if regs.rflags & RFLAGS_TF != 0 && regs.rip != rip {
        debug::report(guest.vcpu, DR6_STEP);
        guest.exception(regs, DEBUG, None);
    }
}

/// `int n`: enters the handler of vector n if its DPL lets this code do so. With too little privilege the error code
/// names the entry, as the CPU does.
fn software_interrupt(guest: &Guest<'_>, regs: &mut Regs) -> bool {
    const INT: u8 = 0xcd;
    let mut code = [0u8; 2];
    let fetched = emulate::instruction_at(regs).is_some_and(|at| copy_from_guest(&mut code, at).is_ok());
    if !fetched || code[0] != INT {
        return false;
    }
    let vector = code[1];
    let needed = if guest.in_kernel() { 1 } else { 3 };
    if guest.vcpu.pv.traps[usize::from(vector)].dpl() < needed {
        guest.exception(regs, GENERAL_PROTECTION, Some(u32::from(vector) << 3 | GP_IDT));
        return true;
    }
    regs.rip = regs.rip.wrapping_add(2);
    guest.exception(regs, vector, None);
    true
}

#[inline(never)]
fn invalid_opcode(regs: &mut Regs) {
    let guest = &Guest::current(this_cpu());
    interrupts::enable();
    let rip = regs.rip;
    let outcome = emulate::forced_cpuid(regs, guest);
    if !emulated(guest, regs, outcome, rip) {
        guest.exception(regs, INVALID_OPCODE, None);
    }
}
