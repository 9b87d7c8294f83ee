//! Pages for the rows. Each row says which it uses and leaves them mapped for writing, as they were.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Flush, Mfn, Pte, update_va_mapping};

use crate::Env;

/// Number of pages.
const PAGES: usize = 12;

/// The contents of a page: atomics, because the hypervisor and other mappings write to it.
#[repr(C, align(4096))]
struct Words([AtomicU64; 512]);

static POOL: [Words; PAGES] = [const { Words([const { AtomicU64::new(0) }; 512]) }; PAGES];

/// A page of the pool.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    env: &'a Env,
    index: usize,
}

impl Env {
    /// Page `index` of the pool.
    pub fn page(&self, index: usize) -> Page<'_> {
        assert!(index < PAGES, "the pool has {PAGES} pages");
        Page { env: self, index }
    }

    /// The machine frame of an address in the image.
    pub fn frame_of(&self, virt: u64) -> Mfn {
        self.boot.p2m().mfn(self.boot.pfn_of(virt)).expect("the image's pages have frames")
    }
}

impl Page<'_> {
    /// Where it is mapped.
    pub fn virt(self) -> u64 {
        &raw const POOL[self.index] as u64
    }

    /// Its machine frame.
    pub fn mfn(self) -> Mfn {
        self.env.frame_of(self.virt())
    }

    /// Machine address of its word `index`.
    pub fn entry(self, index: usize) -> u64 {
        self.mfn().address() + 8 * index as u64
    }

    /// Sets its word `index`. The page must be mapped for writing.
    pub fn set(self, index: usize, value: u64) {
        POOL[self.index].0[index].store(value, Relaxed);
    }

    /// Fills it. The page must be mapped for writing.
    pub fn fill(self, value: u64) {
        POOL[self.index].0.iter().for_each(|word| word.store(value, Relaxed));
    }

    /// Maps something at its place.
    #[inline(always)]
    pub fn map(self, entry: Pte) -> Result<(), Errno> {
        // SAFETY: the pool's pages are atomics, which may change in any way, and the rows know what is mapped.
        unsafe { update_va_mapping(self.virt(), entry, Flush::Local) }
    }

    /// Maps its own frame for reading only, so that it can become a page table.
    pub fn read_only(self) -> Result<(), Errno> {
        self.map(Pte::read_only(self.mfn()))
    }

    /// Maps its own frame for writing.
    pub fn writable(self) -> Result<(), Errno> {
        self.map(Pte::data(self.mfn()))
    }
}
