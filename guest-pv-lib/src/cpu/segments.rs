//! Segment bases, and the stack for the way from user mode into the kernel.

use xen_abi::arch_x86::{FLAT_KERNEL_SS, SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER};
use xen_abi::hypercall::nr;

use crate::hypercall::{Errno, check, raw};

fn set_base(which: u32, base: u64) -> Result<(), Errno> {
    // SAFETY: the hypervisor takes canonical addresses only; who uses the segment is the callers' matter.
    check(unsafe { raw::call2(nr::SET_SEGMENT_BASE, u64::from(which), base) }).map(drop)
}

/// Sets the FS base, which kernel and user mode share.
///
/// # Errors
///
/// `EINVAL` for an address that is not canonical.
#[doc(alias("HYPERVISOR_set_segment_base", "SEGBASE_FS", "wrfsbase", "FsBase"))]
pub fn set_fs_base(base: u64) -> Result<(), Errno> {
    set_base(SEGBASE_FS, base)
}

/// Sets the GS base that user mode will have; the kernel's own stays.
///
/// # Errors
///
/// `EINVAL` for an address that is not canonical.
#[doc(alias("SEGBASE_GS_USER", "KernelGsBase"))]
pub fn set_user_gs_base(base: u64) -> Result<(), Errno> {
    set_base(SEGBASE_GS_USER, base)
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
    set_base(SEGBASE_GS_KERNEL, base)
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
