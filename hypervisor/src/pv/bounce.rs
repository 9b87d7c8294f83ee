//! Entries into the guest kernel: exceptions, events, system calls.
//!
//! The guest kernel finds on its stack, from the top: `rcx`, `r11`, the error code if the exception has one, `rip`, `cs` (with
//! the saved upcall mask in its upper half), `rflags`, `rsp`, `ss` (Xen's docs/guest-guide/x86/pv-traps). To a guest, its kernel's
//! selectors have RPL 0 and `rflags.IF` is the inverse of the upcall mask. A frame that cannot be written ends the
//! domain: its kernel has no stack.

use super::Guest;
use super::switch::toggle_mode;
use crate::cpu::descriptors::{GUEST_CS64, GUEST_SS};
use crate::machine::{Machine, Vcpu};
use crate::mm::uaccess::copy_to_guest;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_core::domain::{Domain, PvState, VcpuFlags};
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::regs::{Regs, VECTOR_SYSCALL};
use x86_64::instructions::interrupts;
use xen_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;

const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_DF: u64 = 1 << 10;
const RFLAGS_IOPL: u64 = 3 << 12;
/// TF, RF, NT, VM, AC: an entry starts with none of them (SDM Vol. 3, 6.12.1.3; AC because the kernel may use it).
const ENTRY_CLEARS: u64 = 1 << 8 | 1 << 16 | 1 << 14 | 1 << 17 | 1 << 18;
/// What an entry by `syscall` starts without.
pub const SYSCALL_CLEARS: u64 = ENTRY_CLEARS | RFLAGS_DF;

/// Byte 1 of the first word of `vcpu_info`: upcalls are masked.
pub const UPCALL_MASK: u64 = 0xff00;
/// The value 1 in that byte: what masking writes.
pub const UPCALL_MASK_SET: u64 = 1 << 8;
/// Byte 0: an upcall is pending.
pub const UPCALL_PENDING: u64 = 0xff;

/// Where an entry goes: always to flat 64-bit code, whatever selector the guest registered.
pub struct Entry {
    /// Address in the guest kernel; zero if it registered none, which ends it.
    pub rip: u64,
    /// Pushed above `r11`, for exceptions that have one.
    pub error_code: Option<u32>,
    /// Whether upcalls are masked from here on.
    pub mask_events: bool,
}

impl Entry {
    /// An entry in 64-bit code.
    pub fn flat(rip: u64, mask_events: bool) -> Self {
        Self { rip, error_code: None, mask_events }
    }
}

/// `rflags` as the guest shall see them.
pub fn guest_rflags(domain: &Domain<Machine>, pv: &PvState, rflags: u64, masked: bool) -> u64 {
    let iopl = if domain.has_vm_assist(VMASST_TYPE_ARCHITECTURAL_IOPL) {
        u64::from(pv.iopl.load(Ordering::Relaxed)) << 12
    } else {
        0
    };
    rflags & !(RFLAGS_IF | RFLAGS_IOPL) | iopl | if masked { 0 } else { RFLAGS_IF }
}

/// Enters the guest kernel. `info` is the first word of the vCPU's `vcpu_info`.
pub fn enter(domain: &Arc<Domain<Machine>>, vcpu: &Vcpu, info: &AtomicU64, regs: &mut Regs, entry: &Entry) {
    let pv = &vcpu.pv;
    if entry.rip == 0 {
        super::crash(domain, regs, "it has no handler for what happened");
        return;
    }
    let from_kernel = pv.kernel_mode.load(Ordering::Relaxed) != 0;
    let masked = info.load(Ordering::Relaxed) & UPCALL_MASK != 0;
    if !from_kernel {
        toggle_mode(pv);
    }
    let stack = if from_kernel { regs.rsp } else { pv.kernel_sp.load(Ordering::Relaxed) };
    let cs = if from_kernel { regs.cs & !3 } else { regs.cs };
    let rflags = guest_rflags(domain, pv, regs.rflags, masked);
    let cs = cs & 0xffff | u64::from(masked) << 32;
    let ss = regs.ss & 0xffff;
    // Without an error code the frame starts one word later.
    let (first, head) = match entry.error_code {
        Some(code) => (0, [regs.rcx, regs.r11, u64::from(code)]),
        None => (1, [0, regs.rcx, regs.r11]),
    };
    let frame = [head[0], head[1], head[2], regs.rip, cs, rflags, regs.rsp, ss];
    let rsp = (stack & !15).wrapping_sub((8 - first as u64) * 8);
    if copy_to_guest(GuestVirt(rsp), zerocopy::IntoBytes::as_bytes(&frame[first..])).is_err() {
        // The heap may grow under the log's lock, and then waits for all CPUs to flush: this one must be able to.
        interrupts::enable();
        crate::error!("{}{}: no stack at {stack:#x} for an entry at {:#x}", domain.id, vcpu.id, entry.rip);
        super::crash(domain, regs, "its kernel stack cannot be written");
        return;
    }
    if entry.mask_events && !masked {
        info.fetch_or(UPCALL_MASK_SET, Ordering::Relaxed);
    }
    regs.rsp = rsp;
    regs.ss = u64::from(GUEST_SS);
    regs.rip = entry.rip;
    regs.cs = u64::from(GUEST_CS64);
    regs.rflags &= !ENTRY_CLEARS;
    // rcx and r11 are on the guest's stack, so the quick way back, which spoils them, is open.
    regs.vector = VECTOR_SYSCALL;
}

/// `syscall` from user code: the entry also starts with DF clear, as if the guest had set its IA32_FMASK so.
pub fn syscall(domain: &Arc<Domain<Machine>>, vcpu: &Vcpu, info: &AtomicU64, regs: &mut Regs, entry: &Entry) {
    enter(domain, vcpu, info, regs, entry);
    regs.rflags &= !SYSCALL_CLEARS;
}

/// Gives the guest an exception through its trap table. A guest without a handler for it ends.
pub fn exception(
    domain: &Arc<Domain<Machine>>,
    vcpu: &Vcpu,
    info: &AtomicU64,
    regs: &mut Regs,
    vector: u8,
    error_code: Option<u32>,
) {
    let slot = &vcpu.pv.traps[usize::from(vector)];
    let rip = slot.address.load(Ordering::Relaxed);
    if rip == 0 {
        // As in `enter`.
        interrupts::enable();
        crate::error!("{}{}: exception {vector}, error code {error_code:x?}", domain.id, vcpu.id);
    }
    let mask_events = slot.meta.load(Ordering::Relaxed) & hypervisor_core::domain::TrapSlot::MASK_EVENTS != 0;
    enter(domain, vcpu, info, regs, &Entry { rip, error_code, mask_events });
}

/// Enters the failsafe callback: selectors of the vCPU that comes to this CPU cannot be loaded any more. Beside the frame the
/// guest finds what DS, ES, FS and GS were.
pub fn failsafe(guest: &Guest<'_>, regs: &mut Regs, selectors: [u16; 4]) {
    let pv = &guest.vcpu.pv;
    let mask_events = pv.has_flags(VcpuFlags::FAILSAFE_MASKS_EVENTS);
    let rip = pv.failsafe_callback.load(Ordering::Relaxed);
    enter(guest.domain, guest.vcpu, guest.info, regs, &Entry::flat(rip, mask_events));
    if guest.domain.stopped.load(Ordering::Relaxed) {
        return;
    }
    // From the lowest address: rcx, r11, ds, es, fs, gs, then what every entry pushes above r11.
    let [ds, es, fs, gs] = selectors.map(u64::from);
    let frame = [regs.rcx, regs.r11, ds, es, fs, gs];
    let rsp = regs.rsp.wrapping_sub(32);
    if copy_to_guest(GuestVirt(rsp), zerocopy::IntoBytes::as_bytes(&frame[..])).is_err() {
        super::crash(guest.domain, regs, "its kernel stack cannot be written");
        return;
    }
    regs.rsp = rsp;
}
