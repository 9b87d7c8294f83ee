//! Pinning: `MMUEXT_PIN_L1..L4_TABLE` and `MMUEXT_UNPIN_TABLE` (xen.h).

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Level, Pte, entry_address};
use xen_abi::xen::*;

use crate::call::{NO_FRAME, mmu, mmuext, plain};
use crate::harness::pool::Page;
use crate::harness::{Env, Outcome, Verdict, need, same};

fn pin(level: u32, page: Page<'_>) -> Result<u64, Errno> {
    mmuext(MMUEXT_PIN_L1_TABLE + level - 1, page.mfn().0, 0)
}

fn unpin(page: Page<'_>) -> Result<u64, Errno> {
    mmuext(MMUEXT_UNPIN_TABLE, page.mfn().0, 0)
}

/// Makes four pages tables of levels 1 to 4, each pointing to the one before, all read-only.
fn chain(env: &Env) -> Result<[Page<'_>; 4], Verdict> {
    let tables = [env.page(0), env.page(1), env.page(2), env.page(3)];
    for pair in tables.windows(2) {
        pair[1].set(0, Pte::table(pair[0].mfn()).0);
    }
    for table in tables {
        need("read-only", table.read_only())?;
    }
    Ok(tables)
}

returns! {
    /// A page that is mapped for writing cannot become a table.
    writable_page(env): pin(1, env.page(0)) => Err(Errno::EINVAL);
    /// A frame that does not exist.
    no_such_frame(env): mmuext(MMUEXT_PIN_L1_TABLE, NO_FRAME, 0) => Err(Errno::EINVAL);
    /// What is not pinned cannot be unpinned.
    unpin_of_nothing(env): unpin(env.page(0)) => Err(Errno::EINVAL);
    /// A frame that does not exist.
    unpin_no_such_frame(env): mmuext(MMUEXT_UNPIN_TABLE, NO_FRAME, 0) => Err(Errno::EINVAL);
}

/// Pins an empty read-only page as a table of `level` and unpins it.
fn empty_table(env: &Env, level: u32) -> Outcome {
    let page = env.page(0);
    need("read-only", page.read_only())?;
    same("pin", pin(level, page), Ok(0))?;
    same("writable while pinned", page.writable(), Err(Errno::EBUSY))?;
    same("pin again", pin(level, page), Err(Errno::EINVAL))?;
    same("unpin", unpin(page), Ok(0))?;
    same("unpin again", unpin(page), Err(Errno::EINVAL))?;
    same("writable again", page.writable(), Ok(()))
}

case! {
    /// An empty level-1 table: pinned once, not writable meanwhile, unpinned once.
    fn empty_level_1(env) { empty_table(env, 1) }
}
case! {
    /// An empty level-2 table.
    fn empty_level_2(env) { empty_table(env, 2) }
}
case! {
    /// An empty level-3 table.
    #[covers(MMUEXT_PIN_L3_TABLE)]
    fn empty_level_3(env) { empty_table(env, 3) }
}
case! {
    /// An empty level-4 table.
    fn empty_level_4(env) { empty_table(env, 4) }
}

case! {
    /// A page has one type at a time: a pinned level-1 table is no level-2 table.
    fn two_levels(env) {
        let page = env.page(0);
        need("read-only", page.read_only())?;
        need("pin", pin(1, page))?;
        for level in 2..=4 {
            same("another level", pin(level, page), Err(Errno::EINVAL))?;
        }
        same("unpin", unpin(page), Ok(0))
    }
}

case! {
    /// Pinning the root pins down all that hangs below it: none of it may be written.
    fn chain_of_tables(env) {
        let tables = chain(env)?;
        same("pin", pin(4, tables[3]), Ok(0))?;
        for table in tables {
            same("writable below a pinned root", table.writable(), Err(Errno::EBUSY))?;
        }
        same("unpin", unpin(tables[3]), Ok(0))?;
        for table in tables {
            same("writable again", table.writable(), Ok(()))?;
        }
        Ok(())
    }
}

case! {
    /// One writable table below makes the whole tree refused, and leaves nothing behind.
    fn chain_with_a_writable_table(env) {
        let tables = chain(env)?;
        need("writable", tables[0].writable())?;
        same("pin", pin(4, tables[3]), Err(Errno::EINVAL))?;
        same("the level above is free", tables[1].writable(), Ok(()))
    }
}

case! {
    /// A table that points to itself at level 1 for writing would be a writable table.
    fn writes_to_itself(env) {
        let page = env.page(0);
        page.set(0, Pte::data(page.mfn()).0);
        need("read-only", page.read_only())?;
        same("pin", pin(1, page), Err(Errno::EBUSY))
    }
}

case! {
    /// A table that points to itself at level 1 for reading is allowed.
    fn reads_itself(env) {
        let page = env.page(0);
        page.set(0, Pte::read_only(page.mfn()).0);
        need("read-only", page.read_only())?;
        same("pin", pin(1, page), Ok(0))?;
        same("unpin", unpin(page), Ok(0))
    }
}

case! {
    /// A frame that a pinned table maps for writing cannot become a table.
    fn target_of_a_pinned_table(env) {
        let (table, data) = (env.page(0), env.page(1));
        table.set(0, Pte::data(data.mfn()).0);
        need("read-only", table.read_only())?;
        need("read-only", data.read_only())?;
        need("pin", pin(1, table))?;
        same("pin of the target", pin(1, data), Err(Errno::EINVAL))?;
        same("take the mapping out", mmu(table.entry(0), 0), Ok(0))?;
        same("pin of the free page", pin(1, data), Ok(0))?;
        same("unpin", unpin(data), Ok(0))?;
        same("unpin", unpin(table), Ok(0))
    }
}

case! {
    /// Entries of a pinned table that is not in use are checked like any other.
    fn update_of_a_pinned_table(env) {
        let table = env.page(0);
        need("read-only", table.read_only())?;
        need("pin", pin(1, table))?;
        same("own page", mmu(table.entry(5), Pte::data(env.page(1).mfn()).0), Ok(0))?;
        same("a table for writing", mmu(table.entry(6), Pte::data(table.mfn()).0), Err(Errno::EBUSY))?;
        same("nowhere", mmu(table.entry(7), NO_FRAME << 12 | 3), Err(Errno::EPERM))?;
        same("seen", plain(table.get(5)), plain(Pte::data(env.page(1).mfn()).0))?;
        same("not stored", (table.get(6), table.get(7)), (0, 0))?;
        same("unpin", unpin(table), Ok(0))
    }
}

case! {
    /// Entries with bits that are reserved for guests make a table invalid.
    fn reserved_bits(env) {
        let table = env.page(0);
        // Bit 8 of a level-2 entry would be "global", bit 7 a large page.
        for bit in [7, 8] {
            need("writable", table.writable())?;
            table.set(0, Pte::table(env.page(1).mfn()).0 | 1 << bit);
            need("read-only", table.read_only())?;
            need("read-only", env.page(1).read_only())?;
            same("pin", pin(2, table), Err(Errno::EINVAL))?;
        }
        Ok(())
    }
}

case! {
    /// A root whose entries lie in the hypervisor's part is pinned; those entries are the hypervisor's.
    fn root_with_hypervisor_slots(env) {
        let root = env.page(0);
        root.set(256, 0xdead_beef_0000_0000);
        need("read-only", root.read_only())?;
        same("pin", pin(4, root), Ok(0))?;
        same("unpin", unpin(root), Ok(0))
    }
}

case! {
    /// The domain's own root is pinned at boot as one of the tables in use, and cannot be written.
    fn boot_tables(env) {
        for frame in env.boot.page_tables().start.0..env.boot.page_tables().end.0 {
            let frame = env.boot.p2m().mfn(guest_pv_lib::mmu::Pfn(frame)).ok_or(Verdict::Error("no frame"))?;
            same("writable", env.page(0).map(Pte::data(frame)), Err(Errno::EBUSY))?;
        }
        let slot = entry_address(&env.boot, env.boot.root_table(), env.page(0).virt(), Level::L4);
        same("the walk finds the root's entry", slot.is_some(), true)
    }
}
