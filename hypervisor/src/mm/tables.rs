//! The hypervisor's own page tables.
//!
//! The boot CPU's first L4 (`boot_l4`) is the hypervisor's for ever: idle CPUs run on it, and its slots 256..=271 are copied into
//! each guest's. [`init_slots`] gives each of those slots its level-3 table before the first guest exists, so later
//! mappings show up in all address spaces at once. Changes are made under one lock; removed or replaced entries
//! are flushed by whoever changes them.

use super::layout::{
    DEVICES, DEVICES_END, DIRECT_MAP, DIRECT_MAP_END, HYPERVISOR_START, IMAGE_BASE, M2P, M2P_END,
};
use super::{early, frame_words};
use bitflags::bitflags;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_core::ids::{MachineAddr, Mfn};
use spin::Mutex;

bitflags! {
    /// Bits of a page-table entry (SDM Vol. 3, 4.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pte: u64 {
        /// Present.
        const P = 1 << 0;
        /// Writable.
        const W = 1 << 1;
        /// Reachable from ring 3.
        const U = 1 << 2;
        /// Write-through.
        const PWT = 1 << 3;
        /// Not cached.
        const PCD = 1 << 4;
        /// Accessed.
        const A = 1 << 5;
        /// Dirty.
        const D = 1 << 6;
        /// A level-2 or level-3 entry that maps a large page.
        const PS = 1 << 7;
        /// Not executable.
        const NX = 1 << 63;
    }
}

/// Ordinary data.
pub const DATA: Pte = Pte::P.union(Pte::W).union(Pte::A).union(Pte::D).union(Pte::NX);
/// Code.
pub const CODE: Pte = Pte::P.union(Pte::A);
/// Constants.
pub const CONST: Pte = Pte::P.union(Pte::A).union(Pte::NX);
/// Device registers.
pub const DEVICE: Pte = DATA.union(Pte::PCD).union(Pte::PWT);
/// An entry that names a table. The rights of ring 3 are those that all levels give: it gets none but to the M2P.
const TABLE: Pte = Pte::P.union(Pte::W).union(Pte::A);
const M2P_TABLE: Pte = TABLE.union(Pte::U);
const ADDR: u64 = 0x000f_ffff_ffff_f000;

static LOCK: Mutex<()> = Mutex::new(());
/// First frame that the direct map does not reach.
static DIRECT_LIMIT: AtomicU64 = AtomicU64::new(4 << 30 >> 12);
static SLOTS: spin::Once<[u64; 16]> = spin::Once::new();

unsafe extern "C" {
    static boot_l4: [AtomicU64; 512];
}

/// Frame of the hypervisor's own L4.
pub fn root() -> Mfn {
    MachineAddr(&raw const boot_l4 as u64 - IMAGE_BASE).mfn()
}

/// First frame that the direct map does not reach yet.
pub fn direct_map_limit() -> u64 {
    DIRECT_LIMIT.load(Ordering::Relaxed)
}

/// L4 entries 256..=271.
pub fn slots() -> &'static [u64; 16] {
    SLOTS.call_once(|| {
        // SAFETY: the hypervisor's L4 is in the image.
        let l4 = unsafe { frame_words(root()) };
        core::array::from_fn(|n| l4[256 + n].load(Ordering::Relaxed))
    })
}

/// There is no frame left for a page table.
#[derive(Clone, Copy, Debug)]
pub struct NoTable;

fn entry(table: Mfn, va: u64, level: u32) -> &'static AtomicU64 {
    // SAFETY: tables are made here, of frames in the direct map.
    let words = unsafe { frame_words(table) };
    &words[(va >> (12 + 9 * (level - 1)) & 511) as usize]
}

/// The entry at `level` for `va`, with the tables on the way to it.
fn walk(va: u64, level: u32) -> Result<&'static AtomicU64, NoTable> {
    Ok(entry(table_of(va, level)?, va, level))
}

/// The table at `level` for `va`, with those on the way to it. Large pages on the way are split.
fn table_of(va: u64, level: u32) -> Result<Mfn, NoTable> {
    table_below(root(), va, level)
}

/// As [`table_of`], below another level-4 table than the hypervisor's own.
fn table_below(root: Mfn, va: u64, level: u32) -> Result<Mfn, NoTable> {
    let mut table = root;
    for at in (level + 1..=4).rev() {
        let slot = entry(table, va, at);
        let old = slot.load(Ordering::Relaxed);
        let pte = Pte::from_bits_retain(old);
        table = if !pte.contains(Pte::P) || pte.contains(Pte::PS) {
            let new = early::table_frame().ok_or(NoTable)?;
            if pte.contains(Pte::P) {
                split(old, at, new);
            }
            let rights = if (M2P..M2P_END).contains(&va) { M2P_TABLE } else { TABLE };
            slot.store(new.addr().0 | rights.bits(), Ordering::Relaxed);
            new
        } else {
            MachineAddr(old & ADDR).mfn()
        };
    }
    Ok(table)
}

/// Fills `table` with what one large page at `level` mapped.
fn split(large: u64, level: u32, table: Mfn) {
    let step = 1u64 << (12 + 9 * (level - 2));
    let keep = if level == 2 { !Pte::PS.bits() } else { u64::MAX };
    // SAFETY: a fresh frame for a table.
    for (n, slot) in unsafe { frame_words(table) }.iter().enumerate() {
        slot.store((large & keep) + n as u64 * step, Ordering::Relaxed);
    }
}

/// Maps one 4 KiB page; `None` unmaps it. The caller flushes what was there.
///
/// # Safety
/// `va` is in the hypervisor's range. Nothing that the hypervisor uses was mapped there, or the same frame was and is used within
/// the new rights. The frame is the caller's to use through this mapping, or that of a device.
pub unsafe fn map_page(va: u64, to: Option<(Mfn, Pte)>) -> Result<(), NoTable> {
    let _guard = LOCK.lock();
    walk(va, 1)?.store(to.map_or(0, |(mfn, pte)| mfn.addr().0 | pte.bits()), Ordering::Relaxed);
    Ok(())
}

/// Maps one 2 MiB page.
///
/// # Safety
/// As for [`map_page`].
pub unsafe fn map_2m(va: u64, mfn: Mfn, pte: Pte) -> Result<(), NoTable> {
    let _guard = LOCK.lock();
    walk(va, 2)?.store(mfn.addr().0 | (pte | Pte::PS).bits(), Ordering::Relaxed);
    Ok(())
}

/// The level-1 entries of `count` pages from `va` on, which share a table: for windows that change often.
///
/// # Safety
/// `va` is in the hypervisor's range, and all that is ever done to the entries may be done by [`map_page`].
pub unsafe fn page_entries(va: u64, count: usize) -> Result<&'static [AtomicU64], NoTable> {
    let _guard = LOCK.lock();
    // SAFETY: tables are made here, of frames in the direct map.
    let words = unsafe { frame_words(table_of(va, 1)?) };
    words[(va >> 12 & 511) as usize..].get(..count).ok_or(NoTable)
}

/// Maps the page at `va` below another level-4 table as the hypervisor has it: nothing where it has nothing.
pub fn share_page(other: Mfn, va: u64) -> Result<(), NoTable> {
    let _guard = LOCK.lock();
    let mapped = walk(va, 1)?.load(Ordering::Relaxed);
    entry(table_below(other, va, 1)?, va, 1).store(mapped, Ordering::Relaxed);
    Ok(())
}

/// Links the hypervisor's table at `level` for `va` into the tables below another level-4 table.
pub fn share_table(other: Mfn, va: u64, level: u32) -> Result<(), NoTable> {
    let _guard = LOCK.lock();
    let table = table_of(va, level)?;
    let slot = entry(table_below(other, va, level + 1)?, va, level + 1);
    slot.store(table.addr().0 | TABLE.bits(), Ordering::Relaxed);
    Ok(())
}

/// How many 4 KiB pages a level-4 table maps in the hypervisor's slots, the machine-to-physical table left out.
pub fn pages_in_slots(root: Mfn) -> u64 {
    fn pages(table: Mfn, level: u32) -> u64 {
        // SAFETY: tables are made here, of frames in the direct map.
        let words = unsafe { frame_words(table) };
        let present = words.iter().map(|word| word.load(Ordering::Relaxed)).filter(|entry| entry & 1 != 0);
        present.map(|entry| below(entry, level)).sum()
    }
    fn below(entry: u64, level: u32) -> u64 {
        if level == 1 || Pte::from_bits_retain(entry).contains(Pte::PS) {
            return 1 << (9 * (level - 1));
        }
        pages(MachineAddr(entry & ADDR).mfn(), level - 1)
    }
    // SAFETY: as above.
    let words = unsafe { frame_words(root) };
    let slots = words[257..=271].iter().map(|word| word.load(Ordering::Relaxed));
    slots.filter(|entry| entry & 1 != 0).map(|entry| below(entry, 4)).sum()
}

/// Gives each of the hypervisor's slots a level-3 table. The direct map already shares its first with the identity map.
pub fn init_slots() -> Result<(), NoTable> {
    for slot in 0..16 {
        walk(HYPERVISOR_START + (slot << 39), 3)?;
    }
    seal_direct_map();
    Ok(())
}

/// Extends the direct map over RAM up to `end` (a machine address); not beyond its own end.
pub fn extend_direct_map(end: u64) -> Result<(), NoTable> {
    if end > DIRECT_MAP_END - DIRECT_MAP {
        return Err(NoTable);
    }
    let mut at = direct_map_limit() << 12;
    while at < end {
        // SAFETY: the part of the direct map behind its limit, where nothing was. Whoever uses a frame by the direct map has its
        // own reason to, as with every frame.
        unsafe { map_2m(DIRECT_MAP + at, MachineAddr(at).mfn(), DATA) }?;
        at += 2 << 20;
        DIRECT_LIMIT.store(at >> 12, Ordering::Relaxed);
    }
    Ok(())
}

/// Maps `size` bytes of device registers at `addr`, uncached, and answers where. The same page gets the same address again. The
/// device range mirrors machine addresses below 512 GiB; those further up cannot be mapped, and are not device registers of a
/// PC's chipset.
pub fn map_device(addr: u64, size: u64) -> Result<u64, NoTable> {
    let end = addr.checked_add(size).filter(|end| *end <= DEVICES_END - DEVICES).ok_or(NoTable)?;
    let first = addr & !0xfff;
    let mut at = first;
    while at < end {
        // SAFETY: within the device range, where each page has been mapped like this or not at all. What is done with the registers
        // is the caller's own unsafe code.
        unsafe { map_page(DEVICES + at, Some((MachineAddr(at).mfn(), DEVICE))) }?;
        at += 4096;
    }
    Ok(DEVICES + addr)
}

/// Removes the identity map that the boot code and the other CPUs' trampolines needed.
pub fn drop_identity_map() {
    entry(root(), 0, 4).store(0, Ordering::Relaxed);
    flush_local();
}

/// Gives the image's pages the rights of their sections, and takes everything else out of the image's mapping.
pub fn protect_image() -> Result<(), NoTable> {
    unsafe extern "C" {
        static image_start: u8;
        static text_end: u8;
        static rodata_end: u8;
        static image_end: u8;
    }
    let [start, text, rodata, end] =
        [&raw const image_start, &raw const text_end, &raw const rodata_end, &raw const image_end]
            .map(|p| p as u64);
    const LARGE: u64 = 2 << 20;
    let (first, last) = (start & !(LARGE - 1), end.next_multiple_of(LARGE));
    // The level-2 table is the direct map's: give the image its own, with the same large pages, then split those.
    let own = early::table_frame().ok_or(NoTable)?;
    for va in (first..last).step_by(LARGE as usize) {
        entry(own, va, 2).store((va - IMAGE_BASE) | (Pte::P | Pte::W | Pte::PS).bits(), Ordering::Relaxed);
    }
    walk(IMAGE_BASE, 3)?.store(own.addr().0 | TABLE.bits(), Ordering::Relaxed);
    for va in (first..last).step_by(4096) {
        let pte = match va {
            _ if va < start || va >= end => None,
            _ if va < text => Some(CODE),
            _ if va < rodata => Some(CONST),
            _ => Some(DATA),
        };
        // SAFETY: the image keeps its frames, and each section the rights that it is used with.
        unsafe { map_page(va, pte.map(|pte| (MachineAddr(va - IMAGE_BASE).mfn(), pte))) }?;
    }
    flush_local();
    Ok(())
}

/// Forbids execution in the whole direct map, by its level-4 entries.
fn seal_direct_map() {
    for va in (DIRECT_MAP..DIRECT_MAP_END).step_by(1 << 39) {
        entry(root(), va, 4).fetch_or(Pte::NX.bits(), Ordering::Relaxed);
    }
}

/// Flushes this CPU's TLB. The hypervisor's own mappings are not global, so loading CR3 does it.
pub fn flush_local() {
    // SAFETY: loads what is loaded.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags)) }
}

/// Flushes one page from this CPU's TLB.
pub fn flush_page_local(va: u64) {
    // SAFETY: has no effect but on the TLB.
    unsafe { asm!("invlpg [{}]", in(reg) va, options(nostack, preserves_flags)) }
}
