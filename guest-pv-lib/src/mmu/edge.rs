//! The one place where the library's own page tables change: by hypercall, or by plain stores where there is no
//! hypervisor that would forbid them (a host's unit tests).
//!
//! Whoever calls these functions vouches for what is changed: frames that nobody refers to, user halves, page tables that
//! the caller owns. An error of [`apply_and_forget`] means that the request which failed changed nothing.

use xen_abi::xen::{MMUEXT_INVLPG_ALL, MMUEXT_TLB_FLUSH_ALL};
use xen_abi::xen::{MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MmuUpdate, MmuextOp};
use xen_abi::xen::{
    MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE,
};

use super::{Level, Mfn};
use crate::Errno;

/// Applies updates in order, up to the first that is refused.
///
/// # Safety
///
/// Each names an entry of a page table of this domain, or of a frame that becomes one, and no reference to memory of the
/// page that the entry translates may live on whose rules the new entry breaks.
pub unsafe fn apply(requests: &[MmuUpdate]) -> Result<(), Errno> {
    if requests.is_empty() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe { imp::apply(requests) }
}

/// Performs extended operations in order.
///
/// # Safety
///
/// What they do to frames and translations must be something that the caller may do.
unsafe fn operate(operations: &[MmuextOp]) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { imp::operate(operations) }
}

/// An operation with a frame or an address.
const fn op(cmd: u32, arg1: u64) -> MmuextOp {
    MmuextOp { cmd, _pad0: 0, arg1, arg2: 0 }
}

/// Throws away every translation of the domain.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub fn flush_all() -> Result<(), Errno> {
    // SAFETY: changes no translation; it ends the use of those that are not in the tables any more.
    unsafe { operate(&[op(MMUEXT_TLB_FLUSH_ALL, 0)]) }
}

/// Which CPUs must forget which translations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forget {
    /// None: nothing was there, or the tables are in no CPU's use.
    #[default]
    Nothing,
    /// This page, on all CPUs.
    Page(u64),
    /// Everything, on all CPUs.
    Everywhere,
}

/// Applies updates in order, then forgets translations, in one step where it is a hypercall. They are forgotten also where an
/// update was refused, which those before it were not.
///
/// # Panics
///
/// Where the hypervisor refuses to forget: what was mapped before would stay so, for all that is known.
///
/// # Safety
///
/// As for [`apply`]; with [`Forget::Nothing`] no CPU may have a translation that an entry had before and that breaks the
/// rules of the new one.
pub unsafe fn apply_and_forget(requests: &[MmuUpdate], forget: Forget) -> Result<(), Errno> {
    let flush = match forget {
        // SAFETY: the caller's promise.
        Forget::Nothing => return unsafe { apply(requests) },
        Forget::Page(at) => op(MMUEXT_INVLPG_ALL, at),
        Forget::Everywhere => op(MMUEXT_TLB_FLUSH_ALL, 0),
    };
    // SAFETY: the caller's promise.
    unsafe { imp::both(requests, &flush) }
}

/// Pins a table: it is checked with all below it, and stays a page table until it is unpinned.
///
/// # Safety
///
/// `table` must be a page table of this level that the caller owns, mapped read-only. A root gets the part of it that is the
/// hypervisor's.
pub unsafe fn pin(level: Level, table: Mfn) -> Result<(), Errno> {
    let cmd = match level {
        Level::L1 => MMUEXT_PIN_L1_TABLE,
        Level::L2 => MMUEXT_PIN_L2_TABLE,
        Level::L3 => MMUEXT_PIN_L3_TABLE,
        Level::L4 => MMUEXT_PIN_L4_TABLE,
    };
    // SAFETY: the caller's promise.
    unsafe { operate(&[op(cmd, table.0)]) }
}

/// Ends pins. What nothing else uses is ordinary memory afterwards.
///
/// # Safety
///
/// The pins must be the caller's: nobody else relies on these frames being tables.
pub unsafe fn unpin(tables: &[Mfn]) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    tables.iter().try_for_each(|table| unsafe { operate(&[op(MMUEXT_UNPIN_TABLE, table.0)]) })
}

/// Makes these the roots for the kernel and for user mode on this CPU; 0 is no user mode.
///
/// # Safety
///
/// Both must be roots, and stay so while this CPU has them. `kernel` must map all that the kernel uses, at the same
/// addresses.
pub unsafe fn load_roots(kernel: Mfn, user: Mfn) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { operate(&[op(MMUEXT_NEW_BASEPTR, kernel.0), op(MMUEXT_NEW_USER_BASEPTR, user.0)]) }
}

/// By hypercalls.
#[cfg(target_os = "none")]
mod imp {
    use xen_abi::hypercall::nr;
    use xen_abi::xen::{DOMID_SELF, MulticallEntry};

    use super::{Errno, MmuUpdate, MmuextOp};
    use crate::hypercall::{check, raw};
    use crate::mmu;

    /// # Safety
    ///
    /// As outside.
    pub unsafe fn apply(requests: &[MmuUpdate]) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe { mmu::mmu_update(requests) }.map(drop).map_err(|(error, _)| error)
    }

    /// # Safety
    ///
    /// As outside.
    pub unsafe fn operate(operations: &[MmuextOp]) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe { mmu::mmuext_op(operations) }.map(drop).map_err(|(error, _)| error)
    }

    /// # Safety
    ///
    /// As for `apply_and_forget`.
    pub unsafe fn both(requests: &[MmuUpdate], flush: &MmuextOp) -> Result<(), Errno> {
        let to = u64::from(DOMID_SELF);
        let mut calls = [
            MulticallEntry {
                op: u64::from(nr::MMU_UPDATE),
                args: [requests.as_ptr() as u64, requests.len() as u64, 0, to, 0, 0],
                ..MulticallEntry::default()
            },
            MulticallEntry {
                op: u64::from(nr::MMUEXT_OP),
                args: [core::ptr::from_ref(flush) as u64, 1, 0, to, 0, 0],
                ..MulticallEntry::default()
            },
        ];
        // SAFETY: the lists live across the call, whose entries are exclusively borrowed; what they do is the caller's
        // promise.
        check(unsafe { raw::call2(nr::MULTICALL, calls.as_mut_ptr() as u64, calls.len() as u64) })?;
        let [updated, flushed] = calls.map(|call| check(call.result.cast_signed()));
        assert!(flushed.is_ok(), "the hypervisor refused to flush: {flushed:?}");
        updated.map(drop)
    }
}

/// By plain stores.
#[cfg(not(target_os = "none"))]
mod imp {
    use core::sync::atomic::Ordering;

    use super::{Errno, MmuUpdate, MmuextOp};

    /// # Safety
    ///
    /// As outside.
    #[allow(clippy::unnecessary_wraps)]
    pub unsafe fn apply(requests: &[MmuUpdate]) -> Result<(), Errno> {
        #[cfg(test)]
        if super::testing::REFUSE.get() {
            return Err(Errno::EINVAL);
        }
        for request in requests {
            // SAFETY: an entry of a page table, by the caller's promise.
            let entry = unsafe { crate::memory::there().entry_at(request.ptr & !7) }.ok_or(Errno::EINVAL)?;
            entry.store(request.val, Ordering::Relaxed);
        }
        Ok(())
    }

    /// # Safety
    ///
    /// None is needed: there are no pins, roots and translations.
    #[allow(clippy::unnecessary_wraps)]
    pub unsafe fn operate(_: &[MmuextOp]) -> Result<(), Errno> {
        #[cfg(test)]
        super::testing::WATCH.with_borrow(|watch| watch.iter().for_each(|watch| watch()));
        Ok(())
    }

    /// # Safety
    ///
    /// As for `apply`.
    pub unsafe fn both(requests: &[MmuUpdate], _: &MmuextOp) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe { apply(requests) }
    }
}

/// What tests want of the hypervisor that is not there, on their own thread.
#[cfg(test)]
pub mod testing {
    use core::cell::{Cell, RefCell};
    use std::boxed::Box;

    std::thread_local! {
        /// Refuse every update.
        pub static REFUSE: Cell<bool> = const { Cell::new(false) };
        /// Runs while an extended operation is under way.
        pub static WATCH: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
    }
}
