//! The hypercalls that change page tables.

use xen_abi::hypercall::nr;
use xen_abi::xen::{
    DOMID_SELF, MmuUpdate, MmuextOp, UVMF_ALL, UVMF_INVLPG, UVMF_LOCAL, UVMF_NONE, UVMF_TLB_FLUSH,
};

use super::Pte;
use crate::hypercall::{Errno, check, raw};

/// Which translations an update throws away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// None: the entry was not present before.
    #[doc(alias = "UVMF_NONE")]
    None,
    /// The one page, on this CPU.
    #[doc(alias = "UVMF_INVLPG")]
    Local,
    /// The one page, on all of the domain's CPUs.
    All,
    /// Every page, on this CPU.
    #[doc(alias = "UVMF_TLB_FLUSH")]
    Everything,
}

impl Flush {
    const fn flags(self) -> u64 {
        match self {
            Self::None => UVMF_NONE,
            Self::Local => UVMF_INVLPG | UVMF_LOCAL,
            Self::All => UVMF_INVLPG | UVMF_ALL,
            Self::Everything => UVMF_TLB_FLUSH | UVMF_LOCAL,
        }
    }
}

/// Sets the level-1 entry that maps the page of `virt` in the current page tables, whose levels 4 to 2 must exist.
///
/// # Errors
///
/// `EINVAL` where the entry is refused: a frame that is not the domain's, a writable mapping of a page table.
///
/// # Safety
///
/// No reference to memory of that page may live on whose rules the new mapping breaks.
#[doc(alias = "HYPERVISOR_update_va_mapping")]
pub unsafe fn update_va_mapping(virt: u64, entry: Pte, flush: Flush) -> Result<(), Errno> {
    // SAFETY: the hypervisor checks the entry; what it does to the page is the caller's promise.
    check(unsafe { raw::call3(nr::UPDATE_VA_MAPPING, virt, entry.0, flush.flags()) }).map(drop)
}

/// Applies `requests` in order and returns how many were done: all of them, or those before the one that failed.
///
/// # Errors
///
/// The error of the first request that failed, with the number of those done before it.
///
/// # Safety
///
/// As for [`update_va_mapping`], for every page that the changed entries translate.
#[doc(alias = "HYPERVISOR_mmu_update")]
pub unsafe fn mmu_update(requests: &[MmuUpdate]) -> Result<u32, (Errno, u32)> {
    let count = u32::try_from(requests.len()).map_err(|_| (Errno::EINVAL, 0))?;
    // SAFETY: the slice lives across the call; the rest is the caller's promise.
    unsafe { batch(nr::MMU_UPDATE, requests.as_ptr() as u64, count) }
}

/// Applies extended operations (pin, flush, base pointers ...) in order.
///
/// # Errors
///
/// The error of the first operation that failed, with the number of those done before it.
///
/// # Safety
///
/// What the operations do to memory, translations and the processor must be something that the caller may do.
#[doc(alias = "HYPERVISOR_mmuext_op")]
pub unsafe fn mmuext_op(operations: &[MmuextOp]) -> Result<u32, (Errno, u32)> {
    let count = u32::try_from(operations.len()).map_err(|_| (Errno::EINVAL, 0))?;
    // SAFETY: the slice lives across the call; the rest is the caller's promise.
    unsafe { batch(nr::MMUEXT_OP, operations.as_ptr() as u64, count) }
}

/// # Safety
///
/// `at` must be the address of `count` requests of hypercall `nr`, whose effects the caller may cause.
unsafe fn batch(nr: u32, at: u64, count: u32) -> Result<u32, (Errno, u32)> {
    let mut done = 0u32;
    // SAFETY: `done` is a local that the hypervisor writes through the address given; the rest is the caller's
    // promise.
    let ret = unsafe { raw::call4(nr, at, u64::from(count), &raw mut done as u64, u64::from(DOMID_SELF)) };
    match check(ret) {
        Ok(_) => Ok(done),
        Err(error) => Err((error, done)),
    }
}
