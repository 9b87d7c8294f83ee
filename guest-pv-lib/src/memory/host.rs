//! The memory of a "domain" inside a process, so that what is built on [`Pages`](super::Pages) can be tested.

use core::sync::atomic::{AtomicU32, AtomicU64};

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::vec::Vec;

use super::frames::{FreeFrames, words_for};
use super::{Lock, Memory};
use crate::mmu::{Mfn, P2m, PAGE_SIZE, Pfn};

/// Pages of the domain; half of them are what windows show.
const PAGES: usize = 16 << 10;
/// Machine frame of frame 0: another number, so that a mix-up shows.
const FIRST_MACHINE_FRAME: u64 = 0x10_0000;

/// Allocates it, for the rest of the process.
pub fn setup() -> Memory {
    let layout = Layout::from_size_align(PAGES * PAGE_SIZE, PAGE_SIZE).expect("a fixed size that fits");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    let p2m: Vec<AtomicU64> = (FIRST_MACHINE_FRAME..).take(PAGES).map(AtomicU64::new).collect();
    let p2m = p2m.leak();
    // SAFETY: leaked, and used through this map only.
    let p2m = unsafe { P2m::new(p2m.as_ptr().expose_provenance() as u64, PAGES as u64) };
    Memory {
        base: memory.expose_provenance() as u64,
        window_base: memory.expose_provenance() as u64,
        // Frame 0 is never free: the kernel's half, with nothing in it.
        root: Pfn(0),
        p2m,
        owners: Vec::leak((0..PAGES).map(|_| AtomicU32::new(0)).collect()),
        free: Lock::new(set(2, PAGES / 2)),
        away: Lock::new(set(0, 0)),
        tables: Lock::new(()),
        windows: Lock::new(set(PAGES / 2, PAGES)),
    }
}

/// A set in which `from..to` is free.
fn set(from: usize, to: usize) -> FreeFrames<'static> {
    let mut set = FreeFrames::new(Vec::leak(std::vec![0; words_for(to)]), to);
    set.give(from, to - from);
    set
}

/// The other way round than the p2m.
pub fn m2p(frame: Mfn) -> Option<Pfn> {
    frame.0.checked_sub(FIRST_MACHINE_FRAME).map(Pfn)
}
