//! Taking page tables apart: every share of a page that they hold, and their own frames, go back.

use core::sync::atomic::Ordering::Relaxed;

use super::batch::{Batch, Mode};
use super::edge::Forget;
use super::{Level, Mfn, Pte};
use crate::Errno;
use crate::memory::{Page, Pages, there};

/// In a level-1 entry: it holds a share of its page.
pub const OWNED: u64 = 1 << 9;
/// The first entry of level 4 that is the kernel's.
pub const KERNEL_HALF: usize = 256;

/// The share of a page that a level-1 entry holds, where it holds one.
///
/// # Safety
///
/// Whoever drops the result takes the share from the entry, which must then be gone.
pub unsafe fn page_of(entry: Pte) -> Option<Page> {
    if entry.0 & OWNED == 0 {
        return None;
    }
    let frame = there().pfn(entry.frame()?)?;
    // SAFETY: the share that the entry was given when it was made.
    Some(unsafe { Page::from_raw(frame) })
}

/// Entry `slot` of a table of the domain.
pub fn read(table: Mfn, slot: usize) -> Pte {
    // SAFETY: this module's users name tables that a space or a `Frame` owns, or the domain's root.
    let entry = unsafe { there().table_entry(table, slot) };
    entry.map_or(Pte::EMPTY, |entry| Pte(entry.load(Relaxed)))
}

/// Gives back the table `first`, of level `level`, what its entries own, and `second`, a table that owns nothing.
///
/// # Errors
///
/// What the hypervisor refused, where one of the tables is still in use; all of it is leaked, pages included.
///
/// # Safety
///
/// Nothing points to these tables, no CPU uses them, they are not pinned, and they are not looked at again.
pub unsafe fn dissolve(first: Mfn, level: Level, second: Option<Mfn>) -> Result<(), Errno> {
    // Nothing is a page table any more, so all that was one can be written again, and only then be given back.
    let mut batch = Batch::new(Mode::Lazy);
    let mut result = Ok(());
    let mut writable = |table| {
        if let Some(update) = there().pfn(table).and_then(|frame| there().as_memory(frame)) {
            // SAFETY: the frame is the caller's, no table any more, and nobody refers to it.
            result = result.and(unsafe { batch.push(update) });
        }
    };
    each_table(first, level, &mut |table, _| writable(table));
    second.into_iter().for_each(writable);
    result.and(batch.commit(Forget::Everywhere))?;
    // Only now no CPU can have a translation of a page that these tables mapped.
    each_table(first, level, &mut |table, level| {
        if level == Level::L1 {
            drop_pages(table);
        }
        give_back(table);
    });
    second.into_iter().for_each(give_back);
    Ok(())
}

fn give_back(table: Mfn) {
    if let Some(frame) = there().pfn(table) {
        // SAFETY: the frame came from a `Pages` of one page, is writable again, and the entry that named it is not
        // looked at again.
        drop(unsafe { Pages::from_raw(frame, 1) });
    }
}

/// Calls `visit` with all tables, each behind those below it, whose frames it may give away. Of a root, the lower half
/// counts.
fn each_table(table: Mfn, level: Level, visit: &mut impl FnMut(Mfn, Level)) {
    if let Some(lower) = lower(level) {
        let end = if level == Level::L4 { KERNEL_HALF } else { 512 };
        for child in (0..end).filter_map(|slot| read(table, slot).frame()) {
            each_table(child, lower, visit);
        }
    }
    visit(table, level);
}

/// The level of the tables that an entry of a table of `level` points to.
const fn lower(level: Level) -> Option<Level> {
    match level {
        Level::L1 => None,
        Level::L2 => Some(Level::L1),
        Level::L3 => Some(Level::L2),
        Level::L4 => Some(Level::L3),
    }
}

/// Gives up the shares that the entries of a level-1 table hold, which is no table any more.
fn drop_pages(table: Mfn) {
    for slot in 0..512 {
        // SAFETY: the entry translates nothing any more, and is not looked at again.
        drop(unsafe { page_of(read(table, slot)) });
    }
}
