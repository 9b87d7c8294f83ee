//! Memory at boot: which RAM there is, the two tables with an entry for each frame, and who gets the rest.

use super::info::{BootInfo, MAX_TEXT, Module};
use crate::machine::{Hv, MAX_FRAMES};
use crate::mm::early::{EARLY, MAX_RANGES};
use crate::mm::layout::{FRAME_TABLE, IMAGE_BASE, M2P};
use crate::mm::tables::{self, DATA, NoTable, Pte};
use crate::mm::{clear_frame, direct};
use core::sync::atomic::AtomicU64;
use hypervisor_core::MemoryRange;
use hypervisor_core::ids::Mfn;
use hypervisor_core::memory_map::RAM;
use hypervisor_core::order::sort_few;
use hypervisor_core::page::FrameInfo;

const LARGE: u64 = 2 << 20;
const FRAMES_PER_LARGE: u64 = 512;
/// Below this the PC's firmware, the other CPUs' trampoline, and nothing for the frame allocator.
const LOW_MEMORY_FRAMES: u64 = 256;

/// The tables, for ever.
pub struct Tables {
    /// One record a frame.
    pub frames: &'static [FrameInfo],
    /// One number a frame.
    pub m2p: &'static [AtomicU64],
}

/// Why memory cannot be set up.
pub enum MemoryError {
    /// The boot loader gave no memory map.
    NoMap,
    /// There is no room for the tables.
    TooLittle,
}

impl core::fmt::Display for MemoryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoMap => "the boot loader passed no memory map",
            Self::TooLittle => "too little memory",
        })
    }
}

impl From<NoTable> for MemoryError {
    fn from(_: NoTable) -> Self {
        Self::TooLittle
    }
}

/// Whole frames of a range of RAM, below what can be mapped.
fn frames_of(range: &MemoryRange) -> (u64, u64) {
    (range.start.div_ceil(4096), ((range.start + range.size) / 4096).min(MAX_FRAMES))
}

fn ram(boot: &BootInfo) -> impl Iterator<Item = (u64, u64)> {
    boot.ranges().iter().filter(|r| r.kind == RAM).map(frames_of).filter(|(start, end)| start < end)
}

/// Finds the RAM, maps all of it, and makes the tables.
pub fn init(boot: &BootInfo) -> Result<Tables, MemoryError> {
    let end = ram(boot).map(|(_, end)| end).max().ok_or(MemoryError::NoMap)?;
    find_free(boot);
    tables::init_slots()?;
    tables::extend_direct_map(end << 12)?;
    let frames = map_table(FRAME_TABLE, end * size_of::<FrameInfo>() as u64, DATA)?;
    let m2p_rights = Pte::P | Pte::U | Pte::A | Pte::NX;
    let m2p = map_table(M2P, end * 8, m2p_rights)?;
    // The M2P is read by guests through its own mapping, and written here through the direct map.
    let m2p_direct = direct(m2p.addr()) as *mut u64;
    clear(FRAME_TABLE as *mut u64, end * size_of::<FrameInfo>() as u64);
    fill_ones(m2p_direct, end.next_multiple_of(LARGE / 8));
    let _ = frames;
    // SAFETY: both tables were just mapped, for ever, over frames of their own, and have a valid value in each entry.
    let tables = unsafe {
        Tables {
            frames: core::slice::from_raw_parts(FRAME_TABLE as *const FrameInfo, end as usize),
            m2p: core::slice::from_raw_parts(m2p_direct as *const AtomicU64, end as usize),
        }
    };
    mark_holes(boot, tables.frames);
    Ok(tables)
}

/// Machine addresses of the hypervisor's image, from the first byte to behind the last.
pub fn image() -> (u64, u64) {
    unsafe extern "C" {
        static image_start: u8;
        static image_end: u8;
    }
    (&raw const image_start as u64 - IMAGE_BASE, &raw const image_end as u64 - IMAGE_BASE)
}

/// Gives free RAM to the early allocator: all but low memory, the image, and the modules.
fn find_free(boot: &BootInfo) {
    let mut early = EARLY.lock();
    for (start, end) in ram(boot) {
        early.add(start.max(LOW_MEMORY_FRAMES), end);
    }
    let modules = boot.modules().iter().map(|m| (m.start, m.end));
    for (start, end) in modules.chain([image()]) {
        early.reserve(start / 4096, end.div_ceil(4096));
    }
    // Loaders put their own records and strings below 1 MiB or beside the modules; strings are read before any of that
    // memory is used again.
    for text in boot.modules().iter().map(|module| module.string).chain([boot.cmdline]).filter(|at| *at != 0)
    {
        early.reserve(text / 4096, text.saturating_add(MAX_TEXT).div_ceil(4096));
    }
}

/// Maps a table of `bytes` bytes over fresh frames, by large pages. Answers the first frame.
fn map_table(at: u64, bytes: u64, rights: Pte) -> Result<Mfn, MemoryError> {
    let pages = bytes.div_ceil(LARGE);
    let limit = tables::direct_map_limit();
    let first = EARLY
        .lock()
        .alloc(pages * FRAMES_PER_LARGE, FRAMES_PER_LARGE, limit)
        .ok_or(MemoryError::TooLittle)?;
    for n in 0..pages {
        // SAFETY: callers give the places of the frame table and the M2P, where nothing is yet; the frames were just allocated.
        unsafe { tables::map_2m(at + n * LARGE, first.add(n * FRAMES_PER_LARGE), rights) }?;
    }
    Ok(first)
}

/// Zeroes memory of a table.
fn clear(at: *mut u64, bytes: u64) {
    // SAFETY: called on tables that were just mapped and that nobody uses yet.
    unsafe { core::ptr::write_bytes(at.cast::<u8>(), 0, bytes as usize) }
}

/// Fills a table with "no pseudo-physical frame".
fn fill_ones(at: *mut u64, words: u64) {
    // SAFETY: as in `clear`.
    unsafe { core::ptr::write_bytes(at, 0xff, words as usize) }
}

/// Records of frames that are no RAM say so.
fn mark_holes(boot: &BootInfo, frames: &[FrameInfo]) {
    let mut at = 0;
    while at < frames.len() as u64 {
        let inside = ram(boot).find(|(start, end)| (*start..*end).contains(&at));
        let next = match inside {
            Some((_, end)) => end,
            None => {
                let next = ram(boot).map(|(start, _)| start).filter(|start| *start > at).min();
                let next = next.unwrap_or(frames.len() as u64).min(frames.len() as u64);
                frames[at as usize..next as usize].iter().for_each(FrameInfo::set_io);
                next
            }
        };
        at = next;
    }
}

/// Ends the early time: marks what is in use as the hypervisor's and gives the rest to the frame allocator.
pub fn hand_over(hv: &Hv, boot: &BootInfo) {
    let frames = hypervisor_core::platform::Platform::frame_table(&hv.platform);
    let mut free_up_to = 0;
    let mut early = EARLY.lock();
    let mut regions = [(0, 0); MAX_RANGES];
    let mut count = 0;
    early.take_rest(|start, end| {
        if count < regions.len() {
            regions[count] = (start.0, end.0);
            count += 1;
        }
    });
    drop(early);
    let regions = &mut regions[..count];
    sort_few(regions, |region| *region);
    for &(start, end) in regions.iter() {
        mark_xen(frames, boot, free_up_to, start);
        hv.frames.add_region(Mfn(start), Mfn(end));
        free_up_to = end;
    }
    mark_xen(frames, boot, free_up_to, frames.len() as u64);
}

/// Frames of RAM that are in use belong to the hypervisor; low memory is left to whoever may map I/O memory, as the first
/// domain looks for firmware tables there.
fn mark_xen(frames: &[FrameInfo], boot: &BootInfo, start: u64, end: u64) {
    for (ram_start, ram_end) in ram(boot) {
        let (first, last) = (ram_start.max(start), ram_end.min(end));
        for n in first..last.max(first) {
            if n < LOW_MEMORY_FRAMES {
                frames[n as usize].set_io();
            } else {
                frames[n as usize].set_xen();
            }
        }
    }
}

/// All domains have their kernels and initrds: gives the modules' frames to the allocator, except those that are `kept`.
pub fn release_modules(hv: &Hv, boot: &BootInfo, kept: impl Fn(&Module) -> bool) {
    for module in boot.modules().iter().filter(|module| !kept(module)) {
        let (start, end) = (module.start.div_ceil(4096), module.end / 4096);
        for mfn in start.max(LOW_MEMORY_FRAMES)..end {
            // SAFETY: RAM in the direct map, and nobody reads the module any more. An initrd may hold secrets.
            unsafe { clear_frame(Mfn(mfn)) };
            hv.frames.free_cleared(Mfn(mfn), 0);
        }
    }
}
