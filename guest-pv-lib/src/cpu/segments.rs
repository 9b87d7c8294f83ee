//! Segment bases, and the stack for the way from user mode into the kernel.

use core::sync::atomic::Ordering::Relaxed;

use xen_abi::arch_x86::{FLAT_KERNEL_SS, SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER};
use xen_abi::hypercall::nr;

use crate::hypercall::{Errno, check, raw};
use crate::smp::this_cpu;

/// No base at all: an address that is not canonical.
pub(crate) const NO_BASE: u64 = 1 << 63;

/// # Safety
///
/// Kernel code that finds its data by the segment must find them at the new base, or not run before the base is another
/// one.
unsafe fn set_base(which: u32, base: u64) -> Result<(), Errno> {
    // SAFETY: the hypervisor takes canonical addresses only; the rest is the caller's promise.
    check(unsafe { raw::call2(nr::SET_SEGMENT_BASE, u64::from(which), base) }).map(drop)
}

/// Sets the kernel's FS base on this CPU. Programs share the register, so a [`UserMode`](crate::user::UserMode) loads theirs
/// before it enters one, and this one again afterwards. A kernel that never calls this has no use for FS: the register
/// holds what the last program had.
///
/// ```compile_fail,E0133
/// // `#[thread_local]` data would be somewhere else.
/// let _ = guest_pv_lib::cpu::segments::set_fs_base(0x1000);
/// ```
///
/// # Errors
///
/// `EINVAL` for an address that is not canonical.
///
/// # Safety
///
/// Code that finds its data by FS (`#[thread_local]` data among them) must find them at the new base.
#[doc(alias("HYPERVISOR_set_segment_base", "SEGBASE_FS", "wrfsbase", "FsBase"))]
pub unsafe fn set_fs_base(base: u64) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { set_base(SEGBASE_FS, base) }?;
    this_cpu().fs_base.store(base, Relaxed);
    Ok(())
}

/// Whether the kernel has an FS base of its own on this CPU.
pub(crate) fn has_kernel_fs_base() -> bool {
    this_cpu().fs_base.load(Relaxed) != NO_BASE
}

/// Loads the FS base of a program, which is in the user half.
///
/// # Safety
///
/// No code of the kernel's that uses FS may run before [`load_kernel_fs_base`].
pub(crate) unsafe fn load_user_fs_base(base: u64) {
    // SAFETY: the caller's promise. An address of the user half is canonical, so it is not refused.
    let _ = unsafe { set_base(SEGBASE_FS, base) };
}

/// Loads the kernel's FS base again, where it has one.
pub(crate) fn load_kernel_fs_base() {
    let base = this_cpu().fs_base.load(Relaxed);
    if base != NO_BASE {
        // SAFETY: what the caller of `set_fs_base` promised of this base. It was accepted then.
        let _ = unsafe { set_base(SEGBASE_FS, base) };
    }
}

/// Sets the GS base that user mode will have; the kernel's own stays.
///
/// # Errors
///
/// `EINVAL` for an address that is not canonical.
#[doc(alias("SEGBASE_GS_USER", "KernelGsBase"))]
pub fn set_user_gs_base(base: u64) -> Result<(), Errno> {
    // SAFETY: the kernel does not run with this base.
    unsafe { set_base(SEGBASE_GS_USER, base) }
}

/// Sets the kernel's GS base.
///
/// # Errors
///
/// `EINVAL` for an address that is not canonical.
///
/// # Safety
///
/// Code that finds its data by GS (per-CPU areas) must find them at the new base.
#[doc(alias("SEGBASE_GS_KERNEL", "GsBase"))]
pub unsafe fn set_kernel_gs_base(base: u64) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { set_base(SEGBASE_GS_KERNEL, base) }
}

/// Names the stack, by its top, on which this CPU enters the kernel from user mode.
///
/// [`user`](crate::user) does this itself.
///
/// # Errors
///
/// None for a kernel's own stack segment.
///
/// # Safety
///
/// The memory below `top` must be mapped, writable and used for nothing else while user mode runs.
#[doc(alias = "HYPERVISOR_stack_switch")]
pub unsafe fn stack_switch(top: u64) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    check(unsafe { raw::call2(nr::STACK_SWITCH, u64::from(FLAT_KERNEL_SS), top) }).map(drop)
}
