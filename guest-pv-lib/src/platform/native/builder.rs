//! The initial address space, the same as a PV domain builder makes (`xen.h`, above `struct start_info`).
//!
//! From the image's base upwards, each part page-aligned: the image, the module, the P2M, `start_info`, the page tables
//! (read-only), one page of stack; at least 512 KiB are mapped behind them, up to a multiple of 4 MiB. A frame of the
//! domain is a frame of memory with the same number, so the P2M is the identity, and the M2P at its usual address is the
//! same memory.

use core::ptr;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;
use xen_abi::arch_x86::MACH2PHYS_VIRT_START;
use xen_abi::xen::{SIF_INITDOMAIN, SIF_PRIVILEGED, StartInfo};

use super::{PHYSICAL, PHYSICAL_SIZE, paging};
use crate::mmu::{Level, Mfn, Pte, index};
use crate::platform::loader::Said;

const PAGE: u64 = 4096;
const MEGABYTE: u64 = 1 << 20;
/// How much a level-1 table maps.
const LARGE: u64 = 2 * MEGABYTE;
/// The slot of the root table that maps physical memory.
const PHYSICAL_SLOT: usize = index(PHYSICAL, Level::L4);
/// The slot of the M2P.
const M2P_SLOT: usize = index(MACH2PHYS_VIRT_START, Level::L4);

unsafe extern "C" {
    /// Defined by the linker script: its address is the offset from physical to virtual.
    safe static __pv_virt_base: u8;
    safe static __pv_image_end: u8;
    /// Tables of the entry stub: of 512 GiB, and of the 4 GiB at its beginning.
    safe static pv_native_l3_low: u8;
    safe static pv_native_l2: u8;
}

static PAGES: AtomicU64 = AtomicU64::new(0);
/// What the slots of the M2P and of physical memory hold in every root table.
static SLOTS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Frames of the domain.
pub fn pages() -> u64 {
    PAGES.load(Relaxed)
}

/// The physical address of something in the image.
pub fn physical_of<T>(item: *const T) -> u64 {
    (item as u64).wrapping_sub(&raw const __pv_virt_base as u64)
}

fn virtual_of(physical: u64) -> u64 {
    physical + &raw const __pv_virt_base as u64
}

/// Gives a root table the part that belongs to the hypervisor.
///
/// # Safety
///
/// `root` must be a root table.
pub unsafe fn complete_root(root: Mfn) {
    for (slot, value) in [M2P_SLOT, PHYSICAL_SLOT].into_iter().zip(&SLOTS) {
        // SAFETY: the caller's promise; nothing else uses these slots.
        unsafe { paging::entry(root.address() + 8 * slot as u64) }.store(value.load(Relaxed), Relaxed);
    }
}

/// Page tables under construction, one behind the other in memory.
struct Tables {
    root: u64,
    next: u64,
}

impl Tables {
    const FLAGS: u64 = Pte::PRESENT | Pte::WRITABLE | Pte::ACCESSED | Pte::DIRTY;

    /// # Safety
    ///
    /// The memory from `root` on must be free.
    unsafe fn new(root: u64) -> Self {
        let mut tables = Self { root, next: root };
        // SAFETY: the caller's promise.
        unsafe { tables.allocate() };
        tables
    }

    /// # Safety
    ///
    /// The memory from `next` on must be free.
    unsafe fn allocate(&mut self) -> u64 {
        let table = self.next;
        self.next += PAGE;
        let page = ptr::with_exposed_provenance_mut::<u8>((PHYSICAL + table) as usize);
        // SAFETY: free memory, mapped.
        unsafe { page.write_bytes(0, PAGE as usize) };
        table
    }

    /// The level-1 entry of `virt`.
    ///
    /// # Safety
    ///
    /// As for [`Self::allocate`].
    unsafe fn leaf(&mut self, virt: u64) -> &'static AtomicU64 {
        let mut table = self.root;
        for level in [Level::L4, Level::L3, Level::L2] {
            // SAFETY: an entry of a table of ours.
            let entry = unsafe { paging::entry(table + 8 * index(virt, level) as u64) };
            if entry.load(Relaxed) == 0 {
                // SAFETY: the caller's promise.
                let below = unsafe { self.allocate() };
                entry.store(Pte::table(Mfn(below >> 12)).0, Relaxed);
            }
            table = Pte(entry.load(Relaxed)).frame().map_or(0, Mfn::address);
        }
        // SAFETY: as above.
        unsafe { paging::entry(table + 8 * index(virt, Level::L1) as u64) }
    }

    /// Maps `size` bytes of memory at `virt`.
    ///
    /// # Safety
    ///
    /// As for [`Self::allocate`].
    unsafe fn map(&mut self, virt: u64, physical: u64, size: u64, flags: u64) {
        for offset in (0..size).step_by(PAGE as usize) {
            let entry = Pte::new(Mfn((physical + offset) >> 12), flags);
            // SAFETY: the caller's promise.
            unsafe { self.leaf(virt + offset) }.store(entry.0, Relaxed);
        }
    }
}

/// Builds it, switches to it, and returns `start_info`, which may still be changed.
///
/// # Safety
///
/// Once, on the entry stub's page tables, after everything was read that the boot loader left in memory.
pub unsafe fn build(said: &Said) -> &'static mut StartInfo {
    let memory_end = said.memory_end().unwrap_or(0).min(PHYSICAL_SIZE);
    let (pages, module) = (memory_end / PAGE, physical_of(&raw const __pv_image_end));
    let module_size = said.module.map_or(0, |(_, size)| size);
    let p2m = (module + module_size).next_multiple_of(PAGE);
    let info = (p2m + pages * 8).next_multiple_of(PAGE);
    let root = info + PAGE;
    let end = mapped_end(root, pages);
    if end > memory_end {
        panic!(
            "the boot loader's memory map has {memory_end:#x} bytes where the kernel lies; it needs {end:#x}"
        );
    }
    PAGES.store(pages, Relaxed);
    // SAFETY: all of this lies behind the image and below the end of memory. The module is moved first, and nothing else
    // there is needed any more.
    let tables = unsafe {
        if let Some((from, size)) = said.module {
            let at = |address: u64| ptr::with_exposed_provenance_mut::<u8>((PHYSICAL + address) as usize);
            at(module).copy_from(at(from), size as usize);
        }
        for frame in 0..pages {
            paging::entry(p2m + frame * 8).store(frame, Relaxed);
        }
        let mut tables = Tables::new(root);
        tables.map(virtual_of(0), 0, end, Tables::FLAGS);
        let m2p_flags = Pte::PRESENT | Pte::ACCESSED | Pte::NO_EXECUTE;
        tables.map(MACH2PHYS_VIRT_START, p2m, info - p2m, m2p_flags);
        for table in (root..tables.next).step_by(PAGE as usize) {
            tables.leaf(virtual_of(table)).fetch_and(!Pte::WRITABLE, Relaxed);
        }
        tables
    };
    // SAFETY: `root` is complete but for the hypervisor's part, which this adds; it maps what the stub's tables mapped
    // at the image's base.
    unsafe {
        share_slots(root);
        Cr3::write(PhysFrame::containing_address(PhysAddr::new(root)), Cr3Flags::empty());
    }
    let start_info = StartInfo {
        magic: *b"native-x86_64\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        nr_pages: pages,
        shared_info: physical_of(crate::shared::info()),
        flags: SIF_INITDOMAIN | SIF_PRIVILEGED,
        pt_base: virtual_of(root),
        nr_pt_frames: (tables.next - root) / PAGE,
        mfn_list: virtual_of(p2m),
        mod_start: if module_size == 0 { 0 } else { virtual_of(module) },
        mod_len: module_size,
        cmd_line: said.command_line,
        ..zerocopy::FromZeros::new_zeroed()
    };
    let place = ptr::with_exposed_provenance_mut::<StartInfo>(virtual_of(info) as usize);
    // SAFETY: a page of its own, mapped for good; the only other reference is made from what this returns.
    unsafe {
        place.write(start_info);
        &mut *place
    }
}

/// How far the initial mapping goes: over the tables and a page of stack, and 512 KiB further.
fn mapped_end(root: u64, pages: u64) -> u64 {
    // Generous: the mapping ends less than 8 MiB behind the root. The tables above level 1 are at most six.
    let tables = (root + 8 * MEGABYTE).div_ceil(LARGE) + (pages * 8).div_ceil(LARGE) + 6;
    (root + (tables + 1) * PAGE + MEGABYTE / 2).next_multiple_of(4 * MEGABYTE)
}

/// Notes the hypervisor's part of the new root table and adds it.
///
/// # Safety
///
/// `root` must be the new root table with its M2P.
unsafe fn share_slots(root: u64) {
    // SAFETY: entries of that table, and of the stub's, which stay in use for physical memory.
    unsafe {
        let m2p = paging::entry(root + 8 * M2P_SLOT as u64).load(Relaxed);
        SLOTS[0].store(m2p, Relaxed);
        let low = Mfn(physical_of(&raw const pv_native_l3_low) >> 12);
        // For the kernel alone: without the bit for user mode.
        SLOTS[1].store(Pte::new(low, Pte::PRESENT | Pte::WRITABLE).0, Relaxed);
        complete_root(Mfn(root >> 12));
        // The last GiB has devices: not to be cached.
        const UNCACHED: u64 = 0x18;
        for large in 3 * 512..4 * 512 {
            let entry = paging::entry(physical_of(&raw const pv_native_l2) + 8 * large);
            entry.fetch_or(UNCACHED, Relaxed);
        }
    }
}
