//! Descriptor tables of a kernel's own.
//!
//! A 64-bit PV kernel needs none: the hypervisor's part of every GDT has flat segments for kernel and programs
//! (`FLAT_KERNEL_CS` and the like). Those that run 32-bit programs or hand out thread-local segments bring their own. A
//! frame that holds descriptors must not be mapped for writing while it is in use; single entries change by
//! [`update_descriptor`].

use xen_abi::arch_x86::FIRST_RESERVED_GDT_ENTRY;
use xen_abi::hypercall::nr;
use xen_abi::xen::{MMUEXT_SET_LDT, MmuextOp};

use crate::hypercall::{Errno, check, raw};
use crate::mmu::{Mfn, mmuext_op};

/// Descriptors in one frame.
pub const PER_FRAME: usize = 512;
/// Most descriptors of a GDT; the hypervisor's own follow.
#[doc(alias = "FIRST_RESERVED_GDT_ENTRY")]
pub const MAX_GDT: usize = FIRST_RESERVED_GDT_ENTRY;

/// Makes `frames` this CPU's GDT, of which `entries` descriptors count.
///
/// # Errors
///
/// `EINVAL` for more than [`MAX_GDT`] entries, for too few frames, for a frame that is mapped for writing or whose
/// descriptors give away more privilege than the kernel has. `ENOSYS` natively and under PVH, where the library's GDT is
/// in use.
///
/// # Safety
///
/// The selectors in use must mean the same in the new table, or be reloaded before they are used.
#[doc(alias = "HYPERVISOR_set_gdt")]
pub unsafe fn set_gdt(frames: &[Mfn], entries: usize) -> Result<(), Errno> {
    if entries > MAX_GDT || frames.len() < entries.div_ceil(PER_FRAME) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: an `Mfn` is a `u64`, and there are as many as the hypervisor reads; the rest is the caller's promise.
    check(unsafe { raw::call2(nr::SET_GDT, frames.as_ptr() as u64, entries as u64) }).map(drop)
}

/// Makes the `entries` descriptors at `address`, which is page-aligned and mapped read-only, this CPU's LDT. None of
/// them: no LDT.
///
/// # Errors
///
/// `EINVAL` for an address that is not aligned or too many entries. What the table holds is checked when a selector of
/// it is used.
///
/// # Safety
///
/// As for [`set_gdt`]; the mapping must stay while the table is in use.
#[doc(alias = "MMUEXT_SET_LDT")]
pub unsafe fn set_ldt(address: u64, entries: u32) -> Result<(), Errno> {
    let op = MmuextOp { cmd: MMUEXT_SET_LDT, arg1: address, arg2: entries.into(), ..MmuextOp::default() };
    // SAFETY: the caller's promise.
    unsafe { mmuext_op(&[op]) }.map(drop).map_err(|(error, _)| error)
}

/// Writes `descriptor` to the machine address `at`, an entry of a descriptor table in use or of a frame that holds
/// nothing else.
///
/// # Errors
///
/// `EINVAL` for a descriptor that gives away more privilege than the kernel has, or for a frame that is not the
/// domain's or is a page table.
///
/// # Safety
///
/// Nothing but descriptors may lie there; selectors of a changed entry must be reloaded before they are used.
#[doc(alias = "HYPERVISOR_update_descriptor")]
pub unsafe fn update_descriptor(at: u64, descriptor: u64) -> Result<(), Errno> {
    // SAFETY: the hypervisor checks the descriptor; what lies there is the caller's promise.
    check(unsafe { raw::call2(nr::UPDATE_DESCRIPTOR, at, descriptor) }).map(drop)
}
