//! The memory of a PV domain: the direct map in its page tables, and the tables below the window area.
//!
//! The kernel's half starts at 0xffff880000000000 (the hypervisor has the half TiB below). The direct map lies at its very
//! beginning, the window area 8 TiB above, each below one entry of level 4, which address spaces share.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use xen_abi::xen::{MMU_NORMAL_PT_UPDATE, MMUEXT_TLB_FLUSH_ALL, MmuUpdate, MmuextOp};

use super::direct::{self, MOST_FRAMES, Machine, Plan};
use super::frames::{FreeFrames, words_for};
use super::{Lock, Memory, OutOfMemory, Pages};
use crate::mmu::{self, Level, Mfn, P2m, PAGE_SIZE, Pfn, Pte};
use crate::{BootContext, Errno};

/// Where the direct map lies: the beginning of the kernel's half.
const DIRECT_MAP: u64 = 0xffff_8800_0000_0000;
/// Where windows are.
const WINDOWS: u64 = 0xffff_9000_0000_0000;
/// Pages of the window area.
const WINDOW_PAGES: usize = 1 << 18;

const LEVELS: [Level; 4] = [Level::L4, Level::L3, Level::L2, Level::L1];

/// Builds the direct map and finds out what is free.
pub fn setup(boot: &BootContext) -> Result<Memory, Errno> {
    let plan = Plan {
        frames: boot.pages().min(MOST_FRAMES),
        used: boot.used().end.0,
        root: boot.root_table(),
        base: DIRECT_MAP,
    };
    let first_free = direct::build(&mut Hypervisor { boot, p2m: boot.p2m(), plan }, plan)?;
    flush_all()?;
    let (frames, p2m) = (plan.frames as usize, boot.p2m());
    let words = words_for(frames) + words_for(WINDOW_PAGES);
    let run = (words * 8).div_ceil(PAGE_SIZE) as u64;
    let there = |frame| p2m.mfn(Pfn(frame)).is_some();
    let at = find_run(first_free..plan.frames, run, there).ok_or(Errno::ENOMEM)?;
    let storage = ptr::with_exposed_provenance_mut::<u64>((DIRECT_MAP + at * PAGE_SIZE as u64) as usize);
    // SAFETY: these free frames are mapped here for good, and nothing else gets them. Any bytes are numbers.
    let storage = unsafe { core::slice::from_raw_parts_mut(storage, words) };
    let (of_frames, of_windows) = storage.split_at_mut(words_for(frames));
    let mut free = FreeFrames::new(of_frames, frames);
    for frame in (first_free..at).chain(at + run..plan.frames).filter(|&frame| there(frame)) {
        free.give(frame as usize, 1);
    }
    let mut windows = FreeFrames::new(of_windows, WINDOW_PAGES);
    windows.give(0, WINDOW_PAGES);
    Ok(Memory {
        base: DIRECT_MAP,
        window_base: WINDOWS,
        root: plan.root,
        p2m,
        free: Lock::new(free),
        windows: Lock::new(windows),
    })
}

/// The first `count` frames of `range`, one behind the other, for which `suits` holds.
fn find_run(range: core::ops::Range<u64>, count: u64, suits: impl Fn(u64) -> bool) -> Option<u64> {
    let mut start = range.start;
    for frame in range {
        if !suits(frame) {
            start = frame + 1;
        } else if frame + 1 - start == count {
            return Some(start);
        }
    }
    None
}

/// Throws away every translation of the domain.
fn flush_all() -> Result<(), Errno> {
    let flush = MmuextOp { cmd: MMUEXT_TLB_FLUSH_ALL, ..MmuextOp::default() };
    // SAFETY: forgetting translations changes no memory.
    unsafe { mmu::mmuext_op(&[flush]) }.map(drop).map_err(|(error, _)| error)
}

/// The hypervisor and the page tables that it keeps, while the direct map is being built.
struct Hypervisor<'a> {
    boot: &'a BootContext,
    p2m: P2m,
    plan: Plan,
}

impl Hypervisor<'_> {
    fn entry(&self, table: Pfn, index: u64) -> &AtomicU64 {
        let page = if table.0 < self.plan.first_end() {
            self.boot.virt_of(table)
        } else {
            DIRECT_MAP + table.0 * PAGE_SIZE as u64
        };
        let entry = ptr::with_exposed_provenance::<AtomicU64>((page + 8 * index) as usize);
        // SAFETY: the builder asks for frames only that one of the two mappings shows; nothing but page tables is
        // in them, whose entries are atomics to everyone.
        unsafe { &*entry }
    }
}

impl Machine for Hypervisor<'_> {
    fn mfn(&self, frame: Pfn) -> Option<Mfn> {
        self.p2m.mfn(frame)
    }

    fn pfn(&self, table: Mfn) -> Option<Pfn> {
        // SAFETY: the frame is in a present entry of a page table, so it is memory of the machine.
        unsafe { mmu::m2p(table) }.filter(|&frame| self.p2m.mfn(frame) == Some(table))
    }

    fn read(&self, table: Pfn, index: u64) -> Pte {
        Pte(self.entry(table, index).load(Ordering::Relaxed))
    }

    fn write(&mut self, table: Pfn, index: u64, entry: Pte) {
        self.entry(table, index).store(entry.0, Ordering::Relaxed);
    }

    fn initial_entry(&self, frame: Pfn) -> Option<u64> {
        let virt = self.boot.virt_of(frame);
        let (at, entry) = mmu::entry_address(self.boot, self.plan.root, virt, Level::L1)?;
        (entry.frame().is_some() && entry.frame() == self.p2m.mfn(frame)).then_some(at)
    }

    fn update(&mut self, requests: &[MmuUpdate]) -> Result<(), Errno> {
        update(requests)
    }
}

fn update(requests: &[MmuUpdate]) -> Result<(), Errno> {
    if requests.is_empty() {
        return Ok(());
    }
    // SAFETY: the callers of this module change mappings of free frames, of page tables and of their own pages only.
    unsafe { mmu::mmu_update(requests) }.map(drop).map_err(|(error, _)| error)
}

impl Memory {
    /// Entry `index` of the table `table`, which is reached from the root.
    fn table_entry(&self, table: Mfn, index: usize) -> Option<&AtomicU64> {
        // SAFETY: the frame is in a present entry of a page table, so it is memory of the machine.
        let frame = unsafe { mmu::m2p(table) }.filter(|&frame| self.p2m.mfn(frame) == Some(table))?;
        let at = ptr::with_exposed_provenance::<AtomicU64>((self.address(frame) + 8 * index as u64) as usize);
        // SAFETY: the direct map shows all frames of the domain; this one is a page table, of atomics.
        Some(unsafe { &*at })
    }

    /// The machine address and the contents of the entry that maps `virt`, an address of the kernel's half, as far
    /// down as there are tables: the level says how far.
    fn walk(&self, virt: u64) -> Option<(Level, u64, Pte)> {
        let mut table = self.root;
        for level in LEVELS {
            let index = mmu::index(virt, level);
            let at = table.address() + 8 * index as u64;
            let entry = Pte(self.table_entry(table, index)?.load(Ordering::Relaxed));
            match entry.frame() {
                Some(next) if level != Level::L1 => table = next,
                _ => return Some((level, at, entry)),
            }
        }
        None
    }

    /// The machine address of the level-1 entry that maps `virt` in the kernel's half, where its tables exist.
    pub(super) fn leaf_entry(&self, virt: u64) -> Option<u64> {
        self.walk(virt).filter(|&(level, ..)| level == Level::L1).map(|(_, at, _)| at)
    }

    /// What the level-1 entry says that maps `virt` in the kernel's half.
    pub(super) fn leaf(&self, virt: u64) -> Option<Pte> {
        self.walk(virt).filter(|&(level, ..)| level == Level::L1).map(|(.., entry)| entry)
    }

    /// Makes the tables down to level 1 for `virt`. One caller at a time, for each area.
    pub(super) fn make_tables(&self, virt: u64) -> Result<(), OutOfMemory> {
        while let Some((level, parent, _)) = self.walk(virt)
            && level != Level::L1
        {
            let table = Pages::new(1)?;
            let (mfn, mapping) = (table.mfn(0), self.leaf_entry(table.address()).ok_or(OutOfMemory)?);
            update(&[
                MmuUpdate { ptr: mapping | MMU_NORMAL_PT_UPDATE, val: Pte::read_only(mfn).0 },
                MmuUpdate { ptr: parent | MMU_NORMAL_PT_UPDATE, val: Pte::table(mfn).0 },
            ])
            .map_err(|_| OutOfMemory)?;
            // It belongs to the page tables of the kernel's half from now on.
            let _ = table.into_raw();
        }
        Ok(())
    }

    /// Sets what the direct map shows at the frames `first..first + entries.len()`: nothing, or what `entry` says.
    pub(super) fn remap(&self, first: Pfn, count: usize, entry: impl Fn(Pfn) -> Pte) -> Result<(), Errno> {
        let mut batch = [const { MmuUpdate { ptr: 0, val: 0 } }; 64];
        let mut done = 0;
        while done < count {
            let now = (count - done).min(batch.len());
            for (offset, request) in batch[..now].iter_mut().enumerate() {
                let frame = Pfn(first.0 + (done + offset) as u64);
                let at = self.leaf_entry(self.address(frame)).ok_or(Errno::EFAULT)?;
                *request = MmuUpdate { ptr: at | MMU_NORMAL_PT_UPDATE, val: entry(frame).0 };
            }
            update(&batch[..now])?;
            done += now;
        }
        flush_all()
    }
}
