//! Stores to level-1 tables by ordinary instructions, which the hypervisor emulates (xen.h, "writable page tables").

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::Pte;
use xen_abi::xen::{MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_UNPIN_TABLE};

use crate::call::{NO_FRAME, mmuext, plain};
use crate::harness::fault::{self, Fault, page_fault};
use crate::harness::pool::Page;
use crate::harness::{Env, Verdict, need, same};

/// Page 0, a pinned and empty table, mapped for reading.
fn pinned(env: &Env, command: u32) -> Result<Page<'_>, Verdict> {
    let table = env.page(0);
    need("read-only", table.read_only())?;
    need("pin", mmuext(command, table.mfn().0, 0))?;
    Ok(table)
}

/// What a store that is not emulated looks like.
fn refused(address: u64) -> Result<(), Fault> {
    Err(Fault::page(page_fault::PRESENT | page_fault::WRITE, address))
}

case! {
    /// A plain store of a valid entry to a level-1 table takes effect.
    fn store(env) {
        let table = pinned(env, MMUEXT_PIN_L1_TABLE)?;
        let entry = Pte::data(env.page(1).mfn()).0;
        same("store", fault::write(table.virt() + 8 * 3, entry), Ok(()))?;
        same("value", plain(table.get(3)), plain(entry))?;
        same("store of nothing", fault::write(table.virt() + 8 * 3, 0), Ok(()))?;
        same("value", table.get(3), 0)?;
        same("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0, 0), Ok(0))
    }
}

case! {
    /// The page that such a store maps for writing counts as mapped for writing.
    fn store_counts(env) {
        let (table, data) = (pinned(env, MMUEXT_PIN_L1_TABLE)?, env.page(1));
        need("read-only", data.read_only())?;
        same("store", fault::write(table.virt(), Pte::data(data.mfn()).0), Ok(()))?;
        same("pin of the target", mmuext(MMUEXT_PIN_L1_TABLE, data.mfn().0, 0), Err(Errno::EINVAL))?;
        same("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0, 0), Ok(0))
    }
}

case! {
    /// A locked compare-and-exchange works, and reports what was there where it fails.
    fn compare_exchange(env) {
        let table = pinned(env, MMUEXT_PIN_L1_TABLE)?;
        let entry = Pte::read_only(env.page(1).mfn()).0;
        same("with the right guess", fault::compare_exchange(table.virt(), 0, entry), Ok(0))?;
        let seen = fault::compare_exchange(table.virt(), 1, 0);
        same("with a wrong guess", seen.map(plain), Ok(plain(entry)))?;
        same("value", plain(table.get(0)), plain(entry))?;
        same("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0, 0), Ok(0))
    }
}

case! {
    /// An entry that the guest may not have is not stored: the guest gets the page fault.
    fn bad_entry(env) {
        let table = pinned(env, MMUEXT_PIN_L1_TABLE)?;
        let at = table.virt() + 16;
        same("nowhere", fault::write(at, NO_FRAME << 12 | 3), refused(at))?;
        same("a table for writing", fault::write(at, Pte::data(table.mfn()).0), refused(at))?;
        same("value", table.get(2), 0)?;
        same("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0, 0), Ok(0))
    }
}

case! {
    /// Stores to tables of higher levels are never emulated.
    fn level_2(env) {
        let table = pinned(env, MMUEXT_PIN_L2_TABLE)?;
        same("store", fault::write(table.virt(), 0), refused(table.virt()))?;
        same("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0, 0), Ok(0))
    }
}
