//! Page tables: page 0 of the pool is a level-1 table, pages 1 and 2 are what it maps.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::mmu::Pte;
use xen_abi::xen::{
    MMUEXT_NEW_BASEPTR, MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, MmuUpdate,
};

use super::{Row, need};
use crate::call::{mmu, mmuext};
use crate::measure::{ticks, ticks_after, ticks_of_pair};
use crate::pool::Page;
use crate::{Env, Missing};

/// The rows of this file.
pub const ROWS: &[Row] = &[
    ("update_va_mapping", update_va_mapping),
    ("mmu_update_1", |env| mmu_update(env, 1)),
    ("mmu_update_8", |env| mmu_update(env, 8)),
    ("mmu_update_32", |env| mmu_update(env, 32)),
    ("mmu_update_128", |env| mmu_update(env, 128)),
    ("mmu_update_128_new", mmu_update_new),
    ("l1_pin_full", |env| pin(env, true).map(|(pin, _)| pin)),
    ("l1_unpin_full", |env| pin(env, true).map(|(_, unpin)| unpin)),
    ("l1_pin_empty", |env| pin(env, false).map(|(pin, _)| pin)),
    ("l1_unpin_empty", |env| pin(env, false).map(|(_, unpin)| unpin)),
    ("new_baseptr", new_baseptr),
    ("ptwr_store", writable_table_store),
];

/// Another frame at the place of a page, with INVLPG.
fn update_va_mapping(env: &Env) -> Result<u64, Missing> {
    let place = env.page(3);
    let frames = [env.page(1), env.page(2)].map(|page| Pte::data(page.mfn()));
    need("map", place.map(frames[1]))?;
    let count = ticks(|round| place.map(frames[(round & 1) as usize]));
    need("writable", place.writable())?;
    Ok(count)
}

/// Page 0, pinned as a table of level 1 and mapped read-only, with `entry` in every word.
fn with_table<R>(env: &Env, entry: Pte, work: impl FnOnce(Page<'_>) -> R) -> Result<R, Missing> {
    let table = env.page(0);
    table.fill(entry.0);
    need("read-only", table.read_only())?;
    need("pin", mmuext(MMUEXT_PIN_L1_TABLE, table.mfn().0))?;
    let result = work(table);
    need("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0))?;
    need("writable", table.writable())?;
    Ok(result)
}

fn requests(table: Page<'_>, entry: Pte) -> [MmuUpdate; 128] {
    core::array::from_fn(|at| MmuUpdate { ptr: table.entry(at), val: entry.0 })
}

/// Each of `count` entries gets another frame, writable both times.
fn mmu_update(env: &Env, count: usize) -> Result<u64, Missing> {
    let frames = [env.page(1), env.page(2)].map(|page| Pte::data(page.mfn()));
    with_table(env, frames[1], |table| {
        let lists = frames.map(|frame| requests(table, frame));
        need("mmu_update", mmu(&lists[0][..count]))?;
        need("mmu_update", mmu(&lists[1][..count]))?;
        Ok(ticks(|round| mmu(&lists[(round & 1) as usize][..count])))
    })?
}

/// Entries that were not present get a frame.
fn mmu_update_new(env: &Env) -> Result<u64, Missing> {
    let entry = Pte::data(env.page(1).mfn());
    with_table(env, Pte::EMPTY, |table| {
        let lists = [entry, Pte::EMPTY].map(|entry| requests(table, entry));
        need("mmu_update", mmu(&lists[0]))?;
        Ok(ticks_after(|_| mmu(&lists[1]), |_| mmu(&lists[0])))
    })?
}

/// Pinning and unpinning of a level-1 table whose every entry is there, or none.
fn pin(env: &Env, full: bool) -> Result<(u64, u64), Missing> {
    let table = env.page(0);
    table.fill(if full { Pte::data(env.page(1).mfn()).0 } else { 0 });
    need("read-only", table.read_only())?;
    let frame = table.mfn().0;
    need("pin", mmuext(MMUEXT_PIN_L1_TABLE, frame))?;
    need("unpin", mmuext(MMUEXT_UNPIN_TABLE, frame))?;
    let counts = ticks_of_pair(|| mmuext(MMUEXT_PIN_L1_TABLE, frame), || mmuext(MMUEXT_UNPIN_TABLE, frame));
    need("writable", table.writable())?;
    Ok(counts)
}

/// To another root with the same contents, and back by turns.
fn new_baseptr(env: &Env) -> Result<u64, Missing> {
    let copy = env.page(4);
    for at in 0..512 {
        copy.set(at, if (256..272).contains(&at) { 0 } else { root_entry(env, at) });
    }
    need("read-only", copy.read_only())?;
    need("pin", mmuext(MMUEXT_PIN_L4_TABLE, copy.mfn().0))?;
    let roots = [copy.mfn().0, env.boot.root_table().0];
    for root in roots {
        need("new_baseptr", mmuext(MMUEXT_NEW_BASEPTR, root))?;
    }
    let count = ticks(|round| mmuext(MMUEXT_NEW_BASEPTR, roots[(round & 1) as usize]));
    need("unpin", mmuext(MMUEXT_UNPIN_TABLE, copy.mfn().0))?;
    need("writable", copy.writable())?;
    Ok(count)
}

/// Entry `at` of the root table, by the initial mapping.
fn root_entry(env: &Env, at: usize) -> u64 {
    let table = env.boot.virt_of(env.boot.page_tables().start) + 8 * at as u64;
    let entry = core::ptr::with_exposed_provenance::<AtomicU64>(table as usize);
    // SAFETY: the initial mapping shows the root table, read-only; others write whole words of it.
    unsafe { &*entry }.load(Relaxed)
}

/// A plain store to a level-1 table by its read-only mapping: another frame each time.
fn writable_table_store(env: &Env) -> Result<u64, Missing> {
    let frames = [env.page(1), env.page(2)].map(|page| Pte::data(page.mfn()).0);
    with_table(env, Pte(frames[1]), |table| ticks(|round| table.set(7, frames[(round & 1) as usize])))
}
