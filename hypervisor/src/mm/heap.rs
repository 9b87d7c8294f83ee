//! The hypervisor's heap: `talc` over frames of the frame allocator, growing for as long as there are frames.
//!
//! Taking frames may mean to wait until other CPUs have flushed their TLBs, so the heap never grows under its own lock: an allocation
//! that finds no room lets go of the lock, takes frames, gives them to `talc` and tries again. A CPU that allocates with interrupts off,
//! or waits with interrupts off for a lock under which another one allocates, could be waited for while it waits: so interrupts
//! are on in all such code. The log's lock is one of those locks: code that logs turns interrupts on first, unless it stops the
//! machine.
//!
//! Small allocations do not fail: some frames are the heap's alone, however many the guests want
//! (`hypervisor_core::mem`, `claim.rs`). They may be single ones, so what takes several pages and may be wanted while guests run is
//! allocated fallibly. The heap takes more than it needs at the moment only while there is more than those.
//!
//! What is larger than [`LARGE`] gets frames of its own and gives them back when it is freed: an unpacked kernel must not stay the
//! heap's for ever. They go back dirty, so that a guest gets them cleared.

use super::direct;
use super::early::EARLY;
use super::layout::DIRECT_MAP;
use super::tables::direct_map_limit;
use crate::machine::{Hv, Machine, try_hv};
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_core::ids::{MachineAddr, Mfn, PAGE_SIZE};
use talc::{ErrOnOom, Span, Talc, Talck};

/// Frames that the heap takes at a time, log2, unless one allocation needs more.
const GROW_ORDER: u32 = 6;
/// Bytes from which on an allocation is not `talc`'s.
const LARGE: usize = 1 << 20;

/// Frames that the heap took.
static FRAMES: AtomicU64 = AtomicU64::new(0);

/// Frames that the heap took from the frame allocator and keeps; those of large allocations come back and do not count.
pub fn frames() -> u64 {
    FRAMES.load(Ordering::Relaxed)
}

/// Bytes of new frames that `talc` needs for itself: a tag at each end, and one for the allocation.
const TAGS: usize = 64;
/// The largest thing that is made while guests run and cannot fail: a frame holds it.
const _: () = assert!(size_of::<hypervisor_core::domain::Domain<Machine>>() + 16 + TAGS <= PAGE_SIZE);

/// Frames for an allocation that finds no room in the heap: the first and, log2, how many. The caller does not hold the heap's lock.
fn more_frames(layout: Layout) -> Option<(Mfn, u32)> {
    let bytes = layout.size() + layout.align() + TAGS;
    let least = bytes.div_ceil(PAGE_SIZE).next_power_of_two().ilog2();
    let most = least.max(GROW_ORDER);
    let Some(hv) = try_hv() else {
        return Some((EARLY.lock().alloc(1 << most, 1, direct_map_limit())?, most));
    };
    let block = |order: u32| {
        let may = order == least || hv.frames.has_spare(1u64 << order);
        may.then(|| hv.alloc_frames(order)).flatten().map(|first| (first, order))
    };
    let found = (least..=most).rev().find_map(block)?;
    FRAMES.fetch_add(1 << found.1, Ordering::Relaxed);
    Some(found)
}

struct Heap {
    small: Talck<spin::mutex::TicketMutex<()>, ErrOnOom>,
}

impl Heap {
    /// Lets the heap have more frames; answers whether there were any.
    fn grow(&self, layout: Layout) -> bool {
        let Some((first, order)) = more_frames(layout) else { return false };
        let span = Span::from_base_size(direct(first.addr()) as *mut u8, PAGE_SIZE << order);
        // SAFETY: the frames were just allocated for this, are mapped for ever, and never given back.
        unsafe { self.small.lock().claim(span) }.is_ok()
    }
}

#[global_allocator]
static HEAP: Heap = Heap { small: Talc::new(ErrOnOom).lock() };

/// Frames of an allocation that gets its own, or `None` for one that `talc` serves. The answer is the same at its end as at its
/// beginning: before there is a hypervisor, nothing that large is allocated.
fn own_frames(layout: Layout) -> Option<(&'static Hv, u64)> {
    let large = layout.size() >= LARGE && layout.align() <= PAGE_SIZE;
    try_hv().filter(|_| large).map(|hv| (hv, layout.size().div_ceil(PAGE_SIZE) as u64))
}

/// Gives back `start..end` in the blocks that it is made of.
fn give_back(hv: &Hv, start: u64, end: u64) {
    let mut at = start;
    while at < end {
        let order = at.trailing_zeros().min((end - at).ilog2());
        hv.frames.free(Mfn(at), order);
        at += 1 << order;
    }
}

// SAFETY: small layouts are `talc`'s; large ones get frames that nobody else has, mapped for ever, which come back once.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((hv, pages)) = own_frames(layout) else {
            loop {
                // SAFETY: as the caller promises.
                let at = unsafe { self.small.alloc(layout) };
                if !at.is_null() || !self.grow(layout) {
                    return at;
                }
            }
        };
        let order = pages.next_power_of_two().ilog2();
        let Some(first) = hv.alloc_frames(order) else { return core::ptr::null_mut() };
        give_back(hv, first.0 + pages, first.0 + (1 << order));
        direct(first.addr()) as *mut u8
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match own_frames(layout) {
            Some((hv, pages)) => {
                let first = MachineAddr(at as u64 - DIRECT_MAP).mfn();
                give_back(hv, first.0, first.0 + pages);
            }
            // SAFETY: as the caller promises.
            None => unsafe { self.small.dealloc(at, layout) },
        }
    }
}
