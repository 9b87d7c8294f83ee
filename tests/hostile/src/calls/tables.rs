//! Games with page tables: tables of every level built from pages of the pool, pinned, linked, loaded, written by emulated
//! stores, taken apart; all of it while other vCPUs do the same with the same pages.

use guest_pv_lib::mmu::Pte;
use xen_abi::hypercall::nr;
use xen_abi::xen::*;

use super::argument::Cx;
use super::edge::{CHANGES, call, change, is_error, peek, poke};
use super::memory::entry_address;
use super::pool::{self, PAGES, map, place};

/// One operation on a frame.
pub fn mmuext(cmd: u32, arg1: u64, arg2: u64) -> bool {
    let operation = MmuextOp { cmd, arg1, arg2, ..MmuextOp::default() };
    let at = &raw const operation as u64;
    !is_error(call(nr::MMUEXT_OP, [at, 1, 0, u64::from(DOMID_SELF), 0, 0]))
}

/// Sets one entry.
pub fn set_entry(at: u64, entry: u64) -> bool {
    let request = MmuUpdate { ptr: at, val: entry };
    !is_error(call(nr::MMU_UPDATE, [&raw const request as u64, 1, 0, u64::from(DOMID_SELF), 0, 0]))
}

/// An entry for a table of this level (1 to 4), half right.
fn entry_for(cx: &mut Cx, level: usize) -> u64 {
    if cx.rarely(10) {
        return cx.entry();
    }
    let page = cx.page();
    let frame = pool::frame(page) << 12;
    match level {
        1 => frame | Pte::PRESENT | if cx.rarely(3) { Pte::WRITABLE } else { 0 },
        // Read-only, as a linear entry must be.
        _ if cx.rarely(6) => frame | Pte::PRESENT,
        _ => frame | Pte::PRESENT | Pte::WRITABLE | Pte::USER,
    }
}

/// Makes a page of the pool a table of some level and pins it.
pub fn build(cx: &mut Cx) {
    let page = cx.page();
    let level = cx.pick(&[1, 1, 1, 2, 2, 3, 4, 4]);
    let at = pool::address(page);
    let frame = pool::frame(page);
    map(page, Pte::data(guest_pv_lib::mmu::Mfn(frame)).0, 2);
    for slot in 0..512 {
        poke(at + 8 * slot, 0);
    }
    for _ in 0..cx.below(8) {
        let slot = if cx.rarely(2) { cx.below(8) } else { cx.below(512) };
        poke(at + 8 * slot as u64, entry_for(cx, level));
    }
    if level == 4 {
        for (slot, entry) in place().kernel_slots.iter().filter(|slot| slot.1 != 0) {
            poke(at + 8 * *slot as u64, *entry);
        }
        if cx.rarely(2) {
            // Linear entries: its own slots among them.
            for slot in [5, 300] {
                poke(at + 8 * slot, frame << 12 | Pte::PRESENT);
            }
        }
    }
    if !cx.rarely(10) {
        map(page, frame << 12 | Pte::PRESENT, cx.pick(&[2, 2, 6, 0]));
    }
    let pinned = mmuext(MMUEXT_PIN_L1_TABLE + level as u32 - 1, frame, 0);
    if level == 4 && pinned && !cx.rarely(3) {
        let cmd = cx.pick(&[MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR]);
        mmuext(cmd, frame, 0);
    }
}

/// Links tables to each other by `mmu_update`, by a store that is emulated, or takes a link away.
pub fn link(cx: &mut Cx) {
    let level = 1 + cx.below(4);
    let entry = if cx.rarely(3) { 0 } else { entry_for(cx, level) };
    if cx.rarely(2) {
        set_entry(entry_address(cx) & !7, entry);
        return;
    }
    store(cx, entry);
}

/// Stores to a page as a kernel does that believes its tables to be writable.
pub fn store(cx: &mut Cx, entry: u64) {
    let page = cx.page();
    let offset = if cx.rarely(3) { cx.offset() } else { 8 * cx.below(8) as u64 };
    let at = pool::address(page) + offset;
    let kind = cx.below(CHANGES + 4);
    if kind >= CHANGES {
        return poke(at, entry);
    }
    let other = match kind {
        10 | 13 => cx.address(),
        // What compares equal is exchanged.
        _ if cx.rarely(2) => peek(at),
        _ => cx.entry(),
    };
    change(kind, at, entry, other);
}

/// Takes a page back: ordinary memory, mapped for writing at its own place.
pub fn repair(cx: &mut Cx, page: usize) {
    let frame = pool::frame(page);
    if frame == 0 {
        return refill(cx, page);
    }
    let entry = Pte::data(guest_pv_lib::mmu::Mfn(frame)).0;
    if map(page, entry, 2) {
        return;
    }
    if cx.rarely(4) {
        mmuext(MMUEXT_SET_LDT, 0, 0);
        call(nr::SET_GDT, [0; 6]);
        mmuext(MMUEXT_NEW_BASEPTR, place().root.0, 0);
        mmuext(MMUEXT_NEW_USER_BASEPTR, place().user_root.0, 0);
    }
    mmuext(MMUEXT_UNPIN_TABLE, frame, 0);
    if !map(page, entry, 2) && cx.rarely(16) {
        // Another domain has it, or a table that nothing here knows of: a new one.
        pool::set_frame(page, 0);
    }
}

/// Asks for a frame for a page that has none, and looks at what it holds: zeros.
pub fn refill(cx: &mut Cx, page: usize) {
    let mut frame = page as u64;
    let arg = xen_abi::memory::XenMemoryReservation {
        extent_start: (&raw mut frame as u64).into(),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let at = &raw const arg as u64;
    let done = call(nr::MEMORY_OP, [u64::from(xen_abi::memory::XENMEM_POPULATE_PHYSMAP), at, 0, 0, 0, 0]);
    if done != 1 {
        return;
    }
    pool::set_frame(page, frame);
    if map(page, Pte::data(guest_pv_lib::mmu::Mfn(frame)).0, 2) {
        super::stale::look_at_new(cx, page, frame);
    }
}

/// Unmaps a page, gives its frame back, and takes a new one.
pub fn balloon(cx: &mut Cx) {
    let page = cx.below(PAGES);
    if !give_back(cx, page) {
        return repair(cx, page);
    }
    if !cx.rarely(4) {
        refill(cx, page);
    }
}

/// Gives the frame of a page back; the flush of its address is as chance has it.
pub fn give_back(cx: &mut Cx, page: usize) -> bool {
    let frame = pool::frame(page);
    map(page, 0, cx.pick(&[0, 0, 2, 6]));
    let arg = xen_abi::memory::XenMemoryReservation {
        extent_start: (&raw const frame as u64).into(),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let at = &raw const arg as u64;
    let given =
        call(nr::MEMORY_OP, [u64::from(xen_abi::memory::XENMEM_DECREASE_RESERVATION), at, 0, 0, 0, 0]);
    if given == 1 {
        pool::set_frame(page, 0);
    }
    given == 1
}
