//! The memory of a PV domain: the direct map in its page tables, and the tables below the window area.
//!
//! The kernel's half starts at 0xffff880000000000 (the hypervisor has the half TiB below). The direct map lies at its very
//! beginning, the window area 8 TiB above, each below one entry of level 4, which address spaces share.

use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xen_abi::xen::MmuUpdate;

use super::direct::{self, MOST_FRAMES, Machine, Plan};
use super::frames::{FreeFrames, words_for};
use super::{Lock, Memory};
use crate::mmu::{self, Level, Mfn, P2m, PAGE_SIZE, Pfn, Pte, edge};
use crate::{BootContext, Errno};

/// Where the direct map lies: the beginning of the kernel's half.
const DIRECT_MAP: u64 = 0xffff_8800_0000_0000;
/// Where windows are.
const WINDOWS: u64 = 0xffff_9000_0000_0000;
/// Pages of the window area.
const WINDOW_PAGES: usize = 1 << 18;

/// Builds the direct map and finds out what is free.
pub fn setup(boot: &BootContext) -> Result<Memory, Errno> {
    let plan = Plan {
        frames: boot.pages().min(MOST_FRAMES),
        used: boot.used().end.0,
        root: boot.root_table(),
        base: DIRECT_MAP,
    };
    let first_free = direct::build(&mut Hypervisor { boot, p2m: boot.p2m(), plan }, plan)?;
    edge::flush_all()?;
    let (frames, p2m) = (plan.frames as usize, boot.p2m());
    // Free frames, frames that are away, free window pages, and half a word of owners for each frame.
    let words = 2 * words_for(frames) + words_for(WINDOW_PAGES) + frames.div_ceil(2);
    let run = (words * 8).div_ceil(PAGE_SIZE) as u64;
    let there = |frame| p2m.mfn(Pfn(frame)).is_some();
    let at = find_run(first_free..plan.frames, run, there).ok_or(Errno::ENOMEM)?;
    let storage = ptr::with_exposed_provenance_mut::<u64>((DIRECT_MAP + at * PAGE_SIZE as u64) as usize);
    // SAFETY: these free frames are mapped here for good, and nothing else gets them. Any bytes are numbers.
    let storage = unsafe { core::slice::from_raw_parts_mut(storage, words) };
    storage.fill(0);
    let (of_frames, rest) = storage.split_at_mut(words_for(frames));
    let (of_away, rest) = rest.split_at_mut(words_for(frames));
    let (of_windows, owners) = rest.split_at_mut(words_for(WINDOW_PAGES));
    // SAFETY: two of these atomics for each word, which is aligned for them; the exclusive reference ends here.
    let owners = unsafe { core::slice::from_raw_parts(owners.as_mut_ptr().cast::<AtomicU32>(), frames) };
    let mut free = FreeFrames::new(of_frames, frames);
    for frame in (first_free..at).chain(at + run..plan.frames).filter(|&frame| there(frame)) {
        free.give(frame as usize, 1);
    }
    let mut away = FreeFrames::new(of_away, frames);
    for frame in (0..plan.frames).filter(|&frame| !there(frame)) {
        away.give(frame as usize, 1);
    }
    let mut windows = FreeFrames::new(of_windows, WINDOW_PAGES);
    windows.give(0, WINDOW_PAGES);
    Ok(Memory {
        base: DIRECT_MAP,
        window_base: WINDOWS,
        root: boot.page_tables().start,
        p2m,
        owners,
        free: Lock::new(free),
        away: Lock::new(away),
        tables: Lock::new(()),
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
        // SAFETY: the builder asks for page tables only that one of the two mappings shows, and for free frames that it
        // makes tables of. To all others their entries are atomics, too.
        unsafe { &*entry }
    }
}

impl Machine for Hypervisor<'_> {
    fn mfn(&self, frame: Pfn) -> Option<Mfn> {
        self.p2m.mfn(frame)
    }

    fn pfn(&self, table: Mfn) -> Option<Pfn> {
        mmu::m2p(table).filter(|&frame| self.p2m.mfn(frame) == Some(table))
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
        // SAFETY: the builder changes the initial mapping of free frames, to which nothing refers, and tables that it makes of
        // such frames itself.
        unsafe { edge::apply(requests) }
    }
}
