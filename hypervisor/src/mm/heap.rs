//! The hypervisor's heap: `talc` over frames of the frame allocator, growing for as long as there are frames.

use super::direct;
use super::early::EARLY;
use super::tables::direct_map_limit;
use core::alloc::Layout;
use hypervisor_core::ids::Mfn;
use talc::{OomHandler, Span, Talc, Talck};

/// Frames that the heap takes at a time, log2, unless one allocation needs more.
const GROW_ORDER: u32 = 6;

/// Gets the heap more frames when it is full.
pub struct Grow;

impl OomHandler for Grow {
    fn handle_oom(talc: &mut Talc<Self>, layout: Layout) -> Result<(), ()> {
        let pages = (layout.size() + layout.align()).div_ceil(4096) as u64 + 1;
        let order = pages.next_power_of_two().ilog2().max(GROW_ORDER);
        let first = frames(order).ok_or(())?;
        let start = direct(first.addr()) as *mut u8;
        // SAFETY: the frames were just allocated for this, are mapped for ever, and never given back.
        unsafe { talc.claim(Span::from_base_size(start, 4096 << order)) }.map(|_| ())
    }
}

fn frames(order: u32) -> Option<Mfn> {
    match crate::machine::try_hv() {
        Some(hv) => hv.frames.alloc(order),
        None => EARLY.lock().alloc(1 << order, 1, direct_map_limit()),
    }
}

#[global_allocator]
static HEAP: Talck<spin::Mutex<()>, Grow> = Talc::new(Grow).lock();
