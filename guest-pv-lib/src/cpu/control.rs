//! Control and debug registers.
//!
//! A PV kernel may read `CR0` and `CR4` and may change a few of their bits; the instructions fault into the
//! hypervisor, which carries them out. `CR0.TS`, which a kernel changes at every switch, has a hypercall of its own.

use core::sync::atomic::Ordering::Relaxed;

use xen_abi::hypercall::nr;

use crate::hypercall::{Errno, check, raw};

/// The address of the last page fault of this CPU.
///
/// A handler finds the address of its own fault in [`Frame::fault_address`](crate::traps::Frame::fault_address).
#[must_use]
pub fn cr2() -> u64 {
    crate::shared::this_vcpu().cr2.load(Relaxed)
}

/// `CR0` as the kernel is to see it (Intel SDM vol. 3, 2.5).
#[cfg(target_os = "none")]
#[must_use]
pub fn cr0() -> u64 {
    let value: u64;
    // SAFETY: reads a register; where the instruction is privileged, the hypervisor emulates it.
    unsafe { core::arch::asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// `CR4` as the kernel is to see it.
#[cfg(target_os = "none")]
#[must_use]
pub fn cr4() -> u64 {
    let value: u64;
    // SAFETY: as in `cr0`.
    unsafe { core::arch::asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets or clears `CR0.TS`: with it set, the first use of the FPU raises
/// [`DEVICE_NOT_AVAILABLE`](crate::traps::Vector::DEVICE_NOT_AVAILABLE). The hypervisor clears it when it delivers that
/// exception.
#[doc(alias("HYPERVISOR_fpu_taskswitch", "clts"))]
pub fn set_task_switched(set: bool) {
    // SAFETY: a kernel for this target does not use the FPU itself (`fpu` sees to that); its programs find out by an
    // exception. Neither value is ever refused.
    let _ = unsafe { raw::call1(nr::FPU_TASKSWITCH, u64::from(set)) };
}

/// A debug register (Intel SDM vol. 3, 17.2); 4 and 5 are other names of 6 and 7.
///
/// # Errors
///
/// `EINVAL` or `ENODEV` for a number that is no debug register. A value in the last page of the number space would look
/// like an error, but is none that a register can hold.
#[doc(alias = "HYPERVISOR_get_debugreg")]
pub fn debug_register(number: u32) -> Result<u64, Errno> {
    // SAFETY: reads a register of this CPU.
    check(unsafe { raw::call1(nr::GET_DEBUGREG, u64::from(number)) })
}

/// Sets a debug register. Breakpoints raise [`DEBUG`](crate::traps::Vector::DEBUG), so set a handler first.
///
/// Natively and under PVH a breakpoint that the entries of the library themselves hit is dropped. A program brings that about
/// by a system call right behind a `mov ss` that hits a breakpoint of its own.
///
/// ```compile_fail,E0133
/// // An address in the library, for all that the compiler knows.
/// let _ = guest_pv_lib::cpu::control::set_debug_register(0, 0xffff_ffff_8010_3000);
/// ```
///
/// # Errors
///
/// `EINVAL` or `EPERM` for a value that the processor would refuse, or a breakpoint outside the domain's own addresses.
///
/// # Safety
///
/// No code of this library may hit a breakpoint, and none may lie on memory that only the library uses: the handler would
/// run on the small stack for the ways from user mode, or with a lock of the library's held. On the code and the data of
/// programs, and of the kernel's own, breakpoints are safe.
#[doc(alias = "HYPERVISOR_set_debugreg")]
pub unsafe fn set_debug_register(number: u32, value: u64) -> Result<(), Errno> {
    // SAFETY: a breakpoint interrupts by an exception that a handler answers; that it does so where a handler can run is the
    // caller's promise.
    check(unsafe { raw::call2(nr::SET_DEBUGREG, u64::from(number), value) }).map(drop)
}
