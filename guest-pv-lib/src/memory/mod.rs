//! The domain's memory: who owns which frame, and where it is mapped.
//!
//! [`init`] maps all of the domain's frames at one place of the kernel's half, the *direct map*, and hands those that
//! the domain builder did not use to an allocator. From then on memory comes in these types, each of which
//! owns its frames:
//!
//! - [`Pages`]: zeroed pages that nobody else can reach; plain bytes.
//! - [`SharedPages`]: pages that somebody else may touch; atomic words.
//! - [`Page`]: one page with several owners, for address spaces; atomic words.
//! - [`Contiguous`]: pages whose machine frames follow one another, for devices.
//! - [`Window`]: addresses without memory, for what is not the domain's own (grants, device registers).
//!
//! With the feature `heap` the same frames back `alloc`'s containers. [`map`], [`current_pages`] and their like ask the
//! hypervisor what memory there is.
//!
//! # Invariants
//!
//! - A frame is free, or owned by one value, or a page table, or was used by the domain builder. Only an owner writes it.
//! - A free frame is mapped once, by the direct map, for writing. The frames of page tables and those that the
//!   domain builder used are mapped read-only there.
//! - Tables of the kernel's half are never taken away again, so an entry's machine address stays what it is.
//!
//! On a host (unit tests) the domain is a piece of the process' heap, with made-up machine frames.

pub mod balloon;
mod contiguous;
#[cfg(any(test, target_os = "none"))]
mod direct;
mod frames;
#[cfg(all(feature = "heap", target_os = "none"))]
mod heap;
#[cfg(not(target_os = "none"))]
mod host;
mod lock;
mod page;
mod pages;
#[cfg(feature = "x86_64")]
mod paging_frames;
#[cfg(target_os = "none")]
mod pv;
mod reservation;
mod tables;
mod window;

use core::fmt;
use core::sync::atomic::AtomicU32;

pub use contiguous::{Contiguous, contiguous};
#[cfg(not(target_os = "none"))]
pub(crate) use host::m2p as host_pfn;
pub use page::Page;
pub use pages::{Pages, SharedPages};
#[cfg(feature = "x86_64")]
pub use paging_frames::Frames;
pub use reservation::{Region, current_pages, machine_map, map, maximum_pages};
#[cfg(feature = "x86_64")]
pub(crate) use tables::Walk;
pub(crate) use tables::request;
pub use window::Window;

use crate::mmu::{Mfn, P2m, PAGE_SIZE, Pfn};
use frames::FreeFrames;
use lock::Lock;

/// There is no memory left for it, or [`init`] has not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// What [`init`] leaves behind.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Virtual address of frame 0 in the direct map.
    base: u64,
    /// Virtual address of the first page of the window area.
    window_base: u64,
    /// The frame of a root whose upper half is the kernel's, as in all of them.
    root: Pfn,
    p2m: P2m,
    /// How many [`Page`]s there are of each frame.
    owners: &'static [AtomicU32],
    /// The frames that nobody owns.
    free: Lock<FreeFrames<'static>>,
    /// The frames that have no memory behind them now: see [`balloon`].
    away: Lock<FreeFrames<'static>>,
    /// Held while tables of the direct map are made.
    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    tables: Lock<()>,
    /// The pages of the window area that no [`Window`] has.
    windows: Lock<FreeFrames<'static>>,
}

static MEMORY: spin::Once<Memory> = spin::Once::new();

/// Maps all of the domain's memory and takes the frames behind [`BootContext::used`](crate::BootContext::used) into
/// the allocator. The first call does it; later ones do nothing. Those frames are no longer part of the initial
/// mapping afterwards.
///
/// The library calls it before `main` where the feature `alloc` is on.
///
/// # Panics
///
/// Where the hypervisor refuses the page tables, or there is not even memory for these.
#[cfg(target_os = "none")]
pub fn init(boot: &crate::BootContext) {
    MEMORY.call_once(|| match pv::setup(boot) {
        Ok(memory) => memory,
        Err(error) => panic!("mapping the domain's memory: {error:?}"),
    });
    // Address spaces share the entries of level 4 that there are when they are made: windows have theirs from now on.
    if let Err(error) = Window::new(1) {
        panic!("the tables of windows: {error:?}");
    }
}

/// Of no effect on a host: the memory is there with its first use.
#[cfg(not(target_os = "none"))]
pub fn init(_: &crate::BootContext) {}

/// The memory, once it is there.
pub(crate) fn get() -> Option<&'static Memory> {
    #[cfg(not(target_os = "none"))]
    MEMORY.call_once(host::setup);
    MEMORY.get()
}

/// The memory, for a value that cannot exist without it.
pub(crate) fn there() -> &'static Memory {
    get().expect("whatever owns frames got them from the allocator")
}

/// Pages that are free.
#[must_use]
pub fn free_pages() -> usize {
    get().map_or(0, |memory| memory.free.with(|free| free.free()))
}

impl Memory {
    /// Where `frame` lies in the direct map.
    pub(crate) const fn address(&self, frame: Pfn) -> u64 {
        self.base + frame.0 * PAGE_SIZE as u64
    }

    /// A root whose upper half is the kernel's. A domain that was suspended may find it in another machine frame.
    pub(crate) fn root(&self) -> Mfn {
        self.mfn(self.root)
    }

    /// The machine frame of a frame that the allocator had.
    pub(crate) fn mfn(&self, frame: Pfn) -> Mfn {
        self.p2m.mfn(frame).expect("the allocator has frames with memory behind them only")
    }
}
