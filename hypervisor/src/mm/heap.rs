//! The hypervisor's heap: `talc` over frames of the frame allocator, growing for as long as there are frames.
//!
//! Taking frames may mean to wait until other CPUs have flushed their TLBs, so the heap never grows under its own lock: an allocation
//! that finds no room lets go of the lock, takes frames, gives them to `talc` and tries again. A CPU that allocates with interrupts off,
//! or waits with interrupts off for a lock under which another one allocates, could be waited for while it waits: so interrupts
//! are on in all such code. The log's lock is one of those locks: code that logs turns interrupts on first, unless it stops the
//! machine.
//!
//! Small allocations do not fail: some frames are the heap's alone, however many the guests want
//! (`hypervisor_core::mem`, `claim.rs`). What takes several pages and may be wanted while guests run is allocated fallibly. But it does not
//! fail because no frames are in a row, which is what a hostile domain can leave: then single frames are mapped side by side in a window of
//! the hypervisor's range ([`Heap::grow_scattered`]). The heap takes more than it needs at the moment only while there is more than what is its alone.
//!
//! What is larger than [`LARGE`] gets frames of its own and gives them back when it is freed: an unpacked kernel must not stay the
//! heap's for ever. They go back dirty, so that a guest gets them cleared.

use super::direct;
use super::early::EARLY;
use super::layout::{DIRECT_MAP, HEAP_WINDOW, HEAP_WINDOW_END};
use super::tables::{self, direct_map_limit};
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

/// Pages for an allocation that finds no room in the heap.
fn pages_for(layout: Layout) -> usize {
    (layout.size() + layout.align() + TAGS).div_ceil(PAGE_SIZE)
}

/// Frames in a row for an allocation that finds no room in the heap: the first and, log2, how many. The caller does not hold the heap's
/// lock.
fn more_frames(layout: Layout) -> Option<(Mfn, u32)> {
    let least = pages_for(layout).next_power_of_two().ilog2();
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
        let Some((first, order)) = more_frames(layout) else { return self.grow_scattered(layout) };
        let span = Span::from_base_size(direct(first.addr()) as *mut u8, PAGE_SIZE << order);
        // SAFETY: the frames were just allocated for this, are mapped for ever, and never given back.
        unsafe { self.small.lock().claim(span) }.is_ok()
    }

    /// Lets the heap have as many single frames as an allocation needs, mapped side by side; answers whether there were as many.
    #[cold]
    #[inline(never)]
    fn grow_scattered(&self, layout: Layout) -> bool {
        let (Some(hv), pages) = (try_hv(), pages_for(layout)) else { return false };
        // A single frame was asked for already.
        let Some(taken) = (pages > 1).then(|| Scattered::take(hv, pages)).flatten() else { return false };
        let Some(start) = taken.map() else { return false };
        FRAMES.fetch_add(pages as u64, Ordering::Relaxed);
        let span = Span::from_base_size(start as *mut u8, PAGE_SIZE * pages);
        // SAFETY: the frames were just allocated for this and mapped there, for ever, and are never given back.
        unsafe { self.small.lock().claim(span) }.is_ok()
    }
}

/// The first byte of the window for scattered frames that is not in use.
static WINDOW: spin::Mutex<u64> = spin::Mutex::new(HEAP_WINDOW);

/// Single frames that were just allocated. The first word of each is the number of the next one. They go back when this is dropped.
struct Scattered {
    hv: &'static Hv,
    first: Option<Mfn>,
}

impl Scattered {
    /// So many frames, if there are as many.
    fn take(hv: &'static Hv, pages: usize) -> Option<Self> {
        let mut taken = Self { hv, first: None };
        for _ in 0..pages {
            let frame = hv.alloc_frames(0)?;
            let next = taken.first.map_or(u64::MAX, |next| next.0);
            // SAFETY: the frame was just allocated, and is in the direct map.
            unsafe { (direct(frame.addr()) as *mut u64).write(next) };
            taken.first = Some(frame);
        }
        Some(taken)
    }

    fn next(&mut self) -> Option<Mfn> {
        let frame = self.first?;
        // SAFETY: it is one of those that were taken, with the number of the next one in its first word.
        let next = unsafe { (direct(frame.addr()) as *const u64).read() };
        self.first = (next != u64::MAX).then_some(Mfn(next));
        Some(frame)
    }

    /// Maps the frames side by side, for ever. Answers where, or `None`, with nothing mapped, if there are no frames for tables.
    fn map(mut self) -> Option<u64> {
        let mut window = WINDOW.lock();
        let start = *window;
        let mut at = start;
        let pages = core::iter::from_fn(|| self.next());
        // The tables come first, for what is mapped stays. They serve the next one where not all of them can be had.
        let size = LARGE as u64 + 2 * PAGE_SIZE as u64;
        if start + size > HEAP_WINDOW_END {
            return None;
        }
        for va in [start, start + size] {
            // SAFETY: nothing is done to the entry.
            unsafe { tables::page_entries(va, 1) }.ok()?;
        }
        for frame in pages {
            // SAFETY: nothing was mapped in this part of the window, and the frame was allocated for this.
            unsafe { tables::map_page(at, Some((frame, tables::DATA))) }.ok()?;
            at += PAGE_SIZE as u64;
        }
        *window = at;
        Some(start)
    }
}

impl Drop for Scattered {
    fn drop(&mut self) {
        while let Some(frame) = self.next() {
            self.hv.frames.free(frame, 0);
        }
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
