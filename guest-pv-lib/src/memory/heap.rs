//! The global allocator of a kernel: small pieces by `talc`, large ones as pages of their own.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use talc::{OomHandler, Span, Talc};

use super::{Lock, Pages};
use crate::mmu::{PAGE_SIZE, Pfn};

/// From this size on an allocation is pages.
const LARGE: usize = 32 << 10;
/// What the small pieces are cut from, at a time.
const CHUNK_PAGES: usize = 64;

/// Allocates from the domain's frames.
struct Heap(Lock<Talc<Grow>>);

#[global_allocator]
static HEAP: Heap = Heap(Lock::new(Talc::new(Grow)));

/// Gives `talc` more pages when it has run out.
#[derive(Debug)]
struct Grow;

impl OomHandler for Grow {
    fn handle_oom(talc: &mut Talc<Self>, _: Layout) -> Result<(), ()> {
        let pages = Pages::stale(CHUNK_PAGES, 1).map_err(|_| ())?;
        let bytes = pages.leak();
        // SAFETY: leaked pages are nobody else's.
        unsafe { talc.claim(Span::from(bytes)) }.map(drop)
    }
}

/// Whether `layout` is served by pages of its own.
const fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE || layout.align() > PAGE_SIZE
}

/// Pages of an allocation, and the alignment of the first one's frame.
const fn pages_of(layout: Layout) -> (usize, usize) {
    let align = layout.align().div_ceil(PAGE_SIZE);
    (layout.size().div_ceil(PAGE_SIZE), align)
}

// SAFETY: large pieces are whole pages that are owned until they are given back, aligned because the direct map starts
// at a multiple of any alignment there is memory for; the small ones are `talc`'s, under a lock.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return large(layout, |pages| pages);
        }
        // SAFETY: `GlobalAlloc` is never asked for nothing.
        self.0.with(|talc| unsafe { talc.malloc(layout) }).map_or(ptr::null_mut(), ptr::NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_large(layout) {
            let frame = super::there().frame_of(at.expose_provenance() as u64);
            // SAFETY: these are the pages that `alloc` took for this layout.
            drop(unsafe { Pages::from_raw(frame, pages_of(layout).0) });
        } else if let Some(at) = ptr::NonNull::new(at) {
            // SAFETY: the caller's promise: `alloc` returned it for this layout.
            self.0.with(|talc| unsafe { talc.free(at, layout) });
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return large(layout, |mut pages| {
                pages.as_mut().fill(0);
                pages
            });
        }
        // SAFETY: the caller's promise.
        let at = unsafe { self.alloc(layout) };
        if !at.is_null() {
            // SAFETY: just allocated, of that size.
            unsafe { at.write_bytes(0, layout.size()) };
        }
        at
    }
}

/// Pages of their own for `layout`, prepared by `prepare`.
fn large(layout: Layout, prepare: impl FnOnce(Pages) -> Pages) -> *mut u8 {
    let (count, align) = pages_of(layout);
    match Pages::stale(count, align) {
        Ok(pages) => prepare(pages).leak().as_mut_ptr(),
        Err(_) => ptr::null_mut(),
    }
}

impl super::Memory {
    /// The frame that the direct map shows at `address`.
    const fn frame_of(&self, address: u64) -> Pfn {
        Pfn((address - self.base) / PAGE_SIZE as u64)
    }
}
