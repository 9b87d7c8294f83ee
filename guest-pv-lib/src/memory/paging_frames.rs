//! The allocator by the traits of the crate `x86_64`.

use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};

use super::Pages;
use crate::mmu::Pfn;

/// Hands out pseudo-physical frames to code that is written for the crate `x86_64`, such as
/// [`Tables`](crate::mmu::Tables).
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames;

// SAFETY: a frame that the allocator hands out is nobody else's.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let (frame, _) = Pages::new(1).ok()?.into_raw();
        Some(PhysFrame::containing_address(PhysAddr::new_truncate(frame.0 << 12)))
    }
}

impl FrameDeallocator<Size4KiB> for Frames {
    /// The frame must have come from here, and be ordinary memory: one that is a page table in use cannot go back.
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        // SAFETY: the caller's promise.
        drop(unsafe { Pages::from_raw(Pfn(frame.start_address().as_u64() >> 12), 1) });
    }
}
