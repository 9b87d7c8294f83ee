//! Tables that show tables: entries that name a table of their own level ("linear page tables"), and what must hold of them.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Level, Pte, entry_address, index};
use xen_abi::xen::*;

use crate::call::{mmu, mmuext};
use crate::harness::pool::{Page, SPARE, two_tables};
use crate::harness::{Env, Outcome, Verdict, fault, need, same};
use crate::memory::nothing_left;

/// An entry of a root that nobody uses, and where it shows tables.
const SLOT: usize = 300;

/// An entry that names `page` as a table, for reading only.
fn show(page: Page<'_>) -> u64 {
    Pte::read_only(page.mfn()).0
}

fn pin(level: u32, page: Page<'_>) -> Result<u64, Errno> {
    mmuext(MMUEXT_PIN_L1_TABLE + level - 1, page.mfn().0, 0)
}

fn unpin(page: Page<'_>) -> Result<u64, Errno> {
    mmuext(MMUEXT_UNPIN_TABLE, page.mfn().0, 0)
}

/// `count` empty tables of `level`, pinned.
fn tables<const N: usize>(env: &Env, level: u32) -> Result<[Page<'_>; N], Verdict> {
    let pages: [Page<'_>; N] = core::array::from_fn(|at| env.page(at));
    for page in pages {
        need("read-only", page.read_only())?;
        need("pin", pin(level, page))?;
    }
    Ok(pages)
}

/// A table that shows itself: for reading, never for writing.
fn itself(env: &Env, level: u32) -> Outcome {
    let [table] = tables(env, level)?;
    same("for writing", mmu(table.entry(5), Pte::table(table.mfn()).0), Err(Errno::EINVAL))?;
    same("for reading", mmu(table.entry(5), show(table)), Ok(0))?;
    same("made writable", mmu(table.entry(5), Pte::table(table.mfn()).0), Err(Errno::EINVAL))?;
    same("as it was", table.get(5) & Pte::WRITABLE, 0)?;
    same("unpin", unpin(table), Ok(0))?;
    same("an ordinary page", table.writable(), Ok(()))?;
    nothing_left(table)
}

case! {
    /// A root that shows itself, as kernels do to see their tables: only for reading.
    fn itself_level_4(env) { itself(env, 4) }
}
case! {
    /// A level-3 table that shows itself.
    fn itself_level_3(env) { itself(env, 3) }
}
case! {
    /// A level-2 table that shows itself.
    fn itself_level_2(env) { itself(env, 2) }
}

case! {
    /// The current root shows its tables through an entry that names it; an access there reads entries.
    fn the_kernels_own_tables(env) {
        let root = env.boot.root_table();
        let at = root.address() + 8 * SLOT as u64;
        same("hook in", mmu(at, Pte::read_only(root).0), Ok(0))?;
        // Four times the same entry: the page that shows is the root itself.
        let shown = [SLOT; 4].iter().fold(0u64, |va, slot| va << 9 | *slot as u64) << 12 | 0xffff << 48;
        let kernel = entry_address(&env.boot, root, env.page(0).virt(), Level::L4).map(|(_, entry)| entry.0);
        let seen = fault::read(shown + 8 * index(env.page(0).virt(), Level::L4) as u64);
        let written = fault::write(shown + 8 * SLOT as u64, 0);
        same("take out", mmu(at, 0), Ok(0))?;
        need("flush", mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0))?;
        same("entry", seen.ok().map(|entry| entry & !0x60), kernel.map(|entry| entry & !0x60))?;
        same("a write", written.is_err(), true)
    }
}

/// A table that shows another one of its level.
fn another(env: &Env, level: u32) -> Outcome {
    let [from, to] = tables(env, level)?;
    same("for writing", mmu(from.entry(0), Pte::table(to.mfn()).0), Err(Errno::EINVAL))?;
    same("for reading", mmu(from.entry(0), show(to)), Ok(0))?;
    same("made writable", mmu(from.entry(0), Pte::table(to.mfn()).0), Err(Errno::EINVAL))?;
    same("unpin what is shown", unpin(to), Ok(0))?;
    same("it stays a table", to.writable(), Err(Errno::EBUSY))?;
    same("take out", mmu(from.entry(0), 0), Ok(0))?;
    same("an ordinary page", to.writable(), Ok(()))?;
    same("unpin", unpin(from), Ok(0))?;
    nothing_left(from)?;
    nothing_left(to)
}

case! {
    /// A root that shows another root keeps it what it is.
    fn another_level_4(env) { another(env, 4) }
}
case! {
    /// A level-3 table that shows another one.
    fn another_level_3(env) { another(env, 3) }
}
case! {
    /// A level-2 table that shows another one.
    fn another_level_2(env) { another(env, 2) }
}

case! {
    /// What shows others cannot be shown, and what is shown cannot show: chains have one link.
    fn one_link(env) {
        let [a, b, c] = tables(env, 4)?;
        same("a shows b", mmu(a.entry(0), show(b)), Ok(0))?;
        same("b shows c", mmu(b.entry(0), show(c)), Err(Errno::EINVAL))?;
        same("c shows a", mmu(c.entry(0), show(a)), Err(Errno::EINVAL))?;
        same("b shows a", mmu(b.entry(0), show(a)), Err(Errno::EINVAL))?;
        same("c shows b, too", mmu(c.entry(0), show(b)), Ok(0))?;
        same("a shows c", mmu(a.entry(1), show(c)), Err(Errno::EINVAL))?;
        for page in [a, c, b] {
            same("unpin", unpin(page), Ok(0))?;
        }
        for page in [a, b, c] {
            nothing_left(page)?;
        }
        Ok(())
    }
}

case! {
    /// A link that is gone leaves nothing behind: the two may change places.
    fn links_are_counted(env) {
        let [a, b] = tables(env, 4)?;
        for _ in 0..3 {
            same("a shows b", mmu(a.entry(0), show(b)), Ok(0))?;
            same("twice", mmu(a.entry(1), show(b)), Ok(0))?;
            same("once less", mmu(a.entry(0), 0), Ok(0))?;
            same("b shows a meanwhile", mmu(b.entry(0), show(a)), Err(Errno::EINVAL))?;
            same("no more", mmu(a.entry(1), 0), Ok(0))?;
            same("b shows a", mmu(b.entry(0), show(a)), Ok(0))?;
            same("no more", mmu(b.entry(0), 0), Ok(0))?;
        }
        same("unpin", (unpin(a), unpin(b)), (Ok(0), Ok(0)))
    }
}

case! {
    /// A link to a table of another level is a link to a table of the next lower one, or none.
    fn other_levels(env) {
        let [top] = tables(env, 4)?;
        let low = env.page(1);
        need("read-only", low.read_only())?;
        need("pin", pin(2, low))?;
        same("level 2 in a root", mmu(top.entry(0), show(low)), Err(Errno::EINVAL))?;
        same("unpin", unpin(low), Ok(0))?;
        same("level 3 in a root", mmu(top.entry(0), show(low)), Ok(0))?;
        same("unpin", unpin(top), Ok(0))?;
        nothing_left(low)
    }
}

case! {
    /// A fresh level-1 table behind a level-2 entry is seen at once where the entry is changed.
    fn changed_level_2_entry(env) {
        let (at, tables, _) = two_tables(env)?;
        need("hook in", mmu(at, Pte::table(tables[0].mfn()).0))?;
        let first = fault::read(SPARE);
        need("change", mmu(at, Pte::table(tables[1].mfn()).0))?;
        let second = fault::read(SPARE);
        need("take out", mmu(at, 0))?;
        let third = fault::read(SPARE);
        same("reads", (first, second), (Ok(100), Ok(101)))?;
        same("nothing", third.is_err(), true)
    }
}
