//! Pages for the cases: their own while they run, and ordinary memory before and after.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Flush, Level, Mfn, Pfn, Pte, entry_address, update_va_mapping};

use super::{Env, Outcome, Verdict, need};
use crate::call;
use xen_abi::hypercall::nr;
use xen_abi::xen::{MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MMUEXT_SET_LDT, MMUEXT_UNPIN_TABLE};

/// An address whose level-2 table exists while its level-1 table does not: for cases that hook one in.
pub const SPARE: u64 = 0xffff_ffff_bfe0_0000;
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

    /// Notes that another machine frame backs it now.
    pub fn adopt(self, frame: Mfn) {
        // SAFETY: the pool's pages are of the image, which nothing grants or maps by the p2m but the cases themselves.
        unsafe { self.env.boot.p2m().set(self.pfn(), Some(frame)) };
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

/// Stores to word 3 of page 0 by an instruction that names it relative to itself.
pub fn store_relative(_: &Env, value: u64) {
    // SAFETY: the pool's words are atomics: any value may be stored to them.
    unsafe { core::arch::asm!("mov [rip + {pool} + 24], {value}", pool = sym POOL, value = in(reg) value) }
}

/// Fills the pool with zeros.
pub fn clear(_: &Env) {
    for word in POOL.iter().flat_map(|page| &page.0) {
        word.store(0, Relaxed);
    }
}

/// Two level-1 tables for [`SPARE`], not yet in use: pages 0 and 1, whose first entries map pages 2 and 3, whose first words are 100
/// and 101. Answers the machine address of the level-2 entry, the tables and what they map.
pub fn two_tables(env: &Env) -> Result<(u64, [Page<'_>; 2], [Page<'_>; 2]), Verdict> {
    let (tables, data) = ([env.page(0), env.page(1)], [env.page(2), env.page(3)]);
    let (at, _) = entry_address(&env.boot, env.boot.root_table(), SPARE, Level::L2)
        .ok_or(Verdict::Error("no level-2 table"))?;
    for n in 0..2 {
        data[n].set(0, 100 + n as u64);
        tables[n].set(0, Pte::data(data[n].mfn()).0);
        need("read-only", tables[n].read_only())?;
    }
    Ok((at, tables, data))
}

/// Makes the pages ordinary memory again; false where one resists.
pub fn reclaim(env: &Env) -> bool {
    if (0..PAGES).all(|index| env.page(index).writable().is_ok()) {
        return true;
    }
    // A case that ended early may have left a page as the root, the GDT or the LDT. What does not apply is refused.
    let _ = call::mmuext(MMUEXT_NEW_BASEPTR, env.boot.root_table().0, 0);
    let _ = call::mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0);
    let _ = call::mmuext(MMUEXT_SET_LDT, 0, 0);
    let _ = call::hc2(nr::SET_GDT, 0, 0);
    if let Some((at, _)) = entry_address(&env.boot, env.boot.root_table(), SPARE, Level::L2) {
        let _ = call::mmu(at, 0);
    }
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

/// With a GDT of these descriptors at selectors 8, 16 and so on, in page 7.
pub fn with_gdt(env: &Env, descriptors: &[u64], run: impl FnOnce() -> Outcome) -> Outcome {
    let page = env.page(7);
    for (n, descriptor) in descriptors.iter().enumerate() {
        page.set(n + 1, *descriptor);
    }
    need("read-only", page.read_only())?;
    let frame = page.mfn().0;
    need("set_gdt", call::hc2(nr::SET_GDT, &raw const frame as u64, 512))?;
    let outcome = run();
    need("no GDT", call::hc2(nr::SET_GDT, 0, 0))?;
    need("writable", page.writable())?;
    outcome
}
