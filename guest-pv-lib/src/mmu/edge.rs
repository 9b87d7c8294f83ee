//! The one place where the library's own page tables change: by hypercall, or by plain stores where there is no
//! hypervisor that would forbid them (a host's unit tests).
//!
//! Callers inside the crate vouch for what they change: frames that nobody refers to, user halves, page tables of their
//! own. That is why these functions are safe and private to the crate.

use xen_abi::xen::{MMUEXT_INVLPG_ALL, MMUEXT_TLB_FLUSH_ALL};
use xen_abi::xen::{MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MmuUpdate, MmuextOp};
use xen_abi::xen::{
    MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE,
};

use super::{Level, Mfn};
use crate::Errno;

/// Applies updates in order.
pub fn apply(requests: &[MmuUpdate]) -> Result<(), Errno> {
    if requests.is_empty() {
        return Ok(());
    }
    imp::apply(requests)
}

/// Performs extended operations in order.
fn operate(operations: &[MmuextOp]) -> Result<(), Errno> {
    imp::operate(operations)
}

/// An operation with a frame or an address.
const fn op(cmd: u32, arg1: u64) -> MmuextOp {
    MmuextOp { cmd, _pad0: 0, arg1, arg2: 0 }
}

/// Throws away every translation of the domain.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub fn flush_all() -> Result<(), Errno> {
    operate(&[op(MMUEXT_TLB_FLUSH_ALL, 0)])
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

/// Applies updates in order, then forgets translations, in one step where it is a hypercall.
pub fn apply_and_forget(requests: &[MmuUpdate], forget: Forget) -> Result<(), Errno> {
    let flush = match forget {
        Forget::Nothing => return apply(requests),
        Forget::Page(at) => op(MMUEXT_INVLPG_ALL, at),
        Forget::Everywhere => op(MMUEXT_TLB_FLUSH_ALL, 0),
    };
    imp::both(requests, &flush)
}

/// Pins a table: it is checked with all below it, and stays a page table until it is unpinned.
pub fn pin(level: Level, table: Mfn) -> Result<(), Errno> {
    let cmd = match level {
        Level::L1 => MMUEXT_PIN_L1_TABLE,
        Level::L2 => MMUEXT_PIN_L2_TABLE,
        Level::L3 => MMUEXT_PIN_L3_TABLE,
        Level::L4 => MMUEXT_PIN_L4_TABLE,
    };
    operate(&[op(cmd, table.0)])
}

/// Ends pins. What nothing else uses is ordinary memory afterwards.
pub fn unpin(tables: &[Mfn]) -> Result<(), Errno> {
    tables.iter().try_for_each(|table| operate(&[op(MMUEXT_UNPIN_TABLE, table.0)]))
}

/// Makes these the roots for the kernel and for user mode on this CPU; 0 is no user mode.
pub fn load_roots(kernel: Mfn, user: Mfn) -> Result<(), Errno> {
    operate(&[op(MMUEXT_NEW_BASEPTR, kernel.0), op(MMUEXT_NEW_USER_BASEPTR, user.0)])
}

#[cfg(target_os = "none")]
mod imp {
    use xen_abi::hypercall::nr;
    use xen_abi::xen::{DOMID_SELF, MulticallEntry};

    use super::{Errno, MmuUpdate, MmuextOp};
    use crate::hypercall::multicall;
    use crate::mmu;

    pub fn apply(requests: &[MmuUpdate]) -> Result<(), Errno> {
        // SAFETY: see the module's head.
        unsafe { mmu::mmu_update(requests) }.map(drop).map_err(|(error, _)| error)
    }

    pub fn operate(operations: &[MmuextOp]) -> Result<(), Errno> {
        // SAFETY: see the module's head.
        unsafe { mmu::mmuext_op(operations) }.map(drop).map_err(|(error, _)| error)
    }

    pub fn both(requests: &[MmuUpdate], flush: &MmuextOp) -> Result<(), Errno> {
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
        // SAFETY: the lists live across the call; for what they do see the module's head.
        unsafe { multicall(&mut calls) }
    }
}

#[cfg(not(target_os = "none"))]
mod imp {
    use core::sync::atomic::Ordering;

    use super::{Errno, MmuUpdate, MmuextOp};

    #[allow(clippy::unnecessary_wraps)]
    pub fn apply(requests: &[MmuUpdate]) -> Result<(), Errno> {
        for request in requests {
            let entry = crate::memory::there().entry_at(request.ptr & !7).ok_or(Errno::EINVAL)?;
            entry.store(request.val, Ordering::Relaxed);
        }
        Ok(())
    }

    #[allow(clippy::unnecessary_wraps)]
    pub fn operate(_: &[MmuextOp]) -> Result<(), Errno> {
        Ok(())
    }

    pub fn both(requests: &[MmuUpdate], _: &MmuextOp) -> Result<(), Errno> {
        apply(requests)
    }
}
