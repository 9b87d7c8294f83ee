//! `HYPERVISOR_iret`: how a guest kernel returns from an entry (xen-x86_64.h, `struct iret_context`).

use super::bounce::{UPCALL_MASK, UPCALL_MASK_SET};
use super::switch::toggle_mode;
use super::{Guest, crash};
use crate::cpu::descriptors::{GUEST_CS32, GUEST_CS64, GUEST_SS};
use crate::cpu::percpu::this_cpu;
use crate::mm::uaccess::copy_from_guest;
use core::sync::atomic::Ordering;
use hypervisor_core::domain::VcpuFlags;
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::platform::Work;
use hypervisor_core::regs::{Regs, VECTOR_SYSCALL};
use xen_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;

/// The guest came in by `syscall` and does not want `rcx` and `r11` back (`VGCF_IN_SYSCALL`).
const IN_SYSCALL: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
/// Interrupts on, and the bit that is always one: what the real register has while a guest runs.
pub const RFLAGS_ALWAYS: u64 = RFLAGS_IF | 2;
/// IOPL, VM, VIF, VIP: a guest never has them in the real register.
pub const RFLAGS_FORBIDDEN: u64 = 3 << 12 | 1 << 17 | 1 << 19 | 1 << 20;

/// Resumes what the frame on the guest kernel's stack says.
pub fn iret(guest: &Guest<'_>, regs: &mut Regs) {
    let mut frame = [0u64; 9];
    let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut frame[..]);
    if copy_from_guest(bytes, GuestVirt(regs.rsp)).is_err() {
        crash(guest.domain, regs, "its iret frame cannot be read");
        return;
    }
    let [rax, r11, rcx, flags, rip, cs, rflags, rsp, ss] = frame;
    let pv = &guest.vcpu.pv;
    if cs & 3 == 3 {
        if pv.guest_table_user.get().is_none() {
            crash(guest.domain, regs, "it returns to user mode and has no user page table");
            return;
        }
        toggle_mode(pv);
    }
    if guest.domain.has_vm_assist(VMASST_TYPE_ARCHITECTURAL_IOPL) {
        pv.iopl.store((rflags >> 12 & 3) as u8, Ordering::Relaxed);
    }
    regs.rax = rax;
    regs.rip = rip;
    regs.cs = cs & 0xffff | 3;
    regs.rflags = rflags & !RFLAGS_FORBIDDEN | RFLAGS_ALWAYS;
    regs.rsp = rsp;
    regs.ss = ss & 0xffff | 3;
    if flags & IN_SYSCALL == 0 {
        regs.vector = 0;
        regs.r11 = r11;
        regs.rcx = rcx;
    } else if regs.cs == u64::from(GUEST_CS32) {
        regs.vector = 0;
        regs.ss = u64::from(GUEST_SS);
    } else {
        // `sysret`, which loads flat segments whatever the frame says.
        regs.vector = VECTOR_SYSCALL;
        regs.cs = u64::from(GUEST_CS64);
        regs.ss = u64::from(GUEST_SS);
    }
    if rflags & RFLAGS_IF != 0 {
        guest.info.fetch_and(!UPCALL_MASK, Ordering::SeqCst);
    } else if guest.info.load(Ordering::Relaxed) & UPCALL_MASK == 0 {
        guest.info.fetch_or(UPCALL_MASK_SET, Ordering::SeqCst);
    }
    if pv.has_flags(VcpuFlags::NMI_ACTIVE) {
        pv.set_flags(VcpuFlags::NMI_ACTIVE, false);
        this_cpu().work.raise(Work::NMI);
    }
}
