//! Pages for the cases: their own while they run, and ordinary memory before and after.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Flush, Mfn, Pfn, Pte, update_va_mapping};

use super::Env;
use crate::call;
use xen_abi::xen::MMUEXT_UNPIN_TABLE;

/// Number of pages.
pub const PAGES: usize = 12;

/// The contents of a page: atomics, because the hypervisor, other mappings and the case write to it.
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
}

impl Page<'_> {
    /// Where it is mapped.
    pub fn virt(self) -> u64 {
        &raw const POOL[self.index] as u64
    }

    /// Its pseudo-physical frame.
    pub fn pfn(self) -> Pfn {
        self.env.boot.pfn_of(self.virt())
    }

    /// Its machine frame.
    pub fn mfn(self) -> Mfn {
        self.env.boot.p2m().mfn(self.pfn()).expect("the image's pages have frames")
    }

    /// Machine address of its word `index`.
    pub fn entry(self, index: usize) -> u64 {
        self.mfn().address() + 8 * index as u64
    }

    /// Its word `index`. The page must be mapped.
    pub fn get(self, index: usize) -> u64 {
        POOL[self.index].0[index].load(Relaxed)
    }

    /// Sets its word `index`. The page must be mapped for writing.
    pub fn set(self, index: usize, value: u64) {
        POOL[self.index].0[index].store(value, Relaxed);
    }

    /// Maps something at its place.
    pub fn map(self, entry: Pte) -> Result<(), Errno> {
        // SAFETY: the pool's pages are atomics, which may change in any way, and their cases know what is mapped.
        unsafe { update_va_mapping(self.virt(), entry, Flush::Local) }
    }

    /// Maps its own frame for reading only.
    pub fn read_only(self) -> Result<(), Errno> {
        self.map(Pte::read_only(self.mfn()))
    }

    /// Maps its own frame for writing.
    pub fn writable(self) -> Result<(), Errno> {
        self.map(Pte::data(self.mfn()))
    }
}

/// Fills the pool with zeros.
pub fn clear(_: &Env) {
    for word in POOL.iter().flat_map(|page| &page.0) {
        word.store(0, Relaxed);
    }
}

/// Makes the pages ordinary memory again; false where one resists.
pub fn reclaim(env: &Env) -> bool {
    // From the highest level down, a table keeps those below it: two passes free what the order hides.
    for _ in 0..2 {
        for index in 0..PAGES {
            if env.page(index).writable().is_err() {
                // Refused where the page is not pinned: then there is nothing to undo.
                let _ = call::mmuext(MMUEXT_UNPIN_TABLE, env.page(index).mfn().0, 0);
            }
        }
    }
    (0..PAGES).all(|index| env.page(index).writable().is_ok())
}
