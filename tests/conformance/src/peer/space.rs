//! The peer's memory: its frames, its page tables, and the first domain's two pages through which it reaches them.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Level, Mfn, Pte, index};
use xen_abi::hypercall::nr;
use xen_abi::memory::{XENMEM_POPULATE_PHYSMAP, XenMemoryReservation};
use xen_abi::xen::{DOMID_SELF, MMUEXT_PIN_L4_TABLE, MmuextOp, UVMF_INVLPG, VcpuInfo};

use super::{PAGES, program};
use crate::call::{Ret, hc4, op};
use crate::harness::{Env, Outcome, Verdict, need};

/// Pages with a purpose: the four tables from level 4 down, the program, the mailbox, the stack.
pub const ROOT: usize = 0;
pub const LOWEST: usize = 3;
pub const PROGRAM: usize = 4;
pub const MAILBOX: usize = 5;
pub const STACK: usize = 6;

/// Where the peer's memory starts in its address space.
const BASE: u64 = 0xffff_ffff_8000_0000;

/// The address of a page in the peer; page [`PAGES`] is its shared page.
pub const fn virt(page: usize) -> u64 {
    BASE + 4096 * page as u64
}

/// The contents of a page.
#[repr(C, align(4096))]
pub struct Words(pub [AtomicU64; 512]);

impl Words {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }
}

/// The place of the first domain where one foreign frame after the other is mapped.
static WINDOW: Words = Words::new();
/// The place of the mailbox.
static SHARED: Words = Words::new();

/// `update_va_mapping_otherdomain`.
pub fn map_foreign(virt: u64, entry: u64, domain: u16) -> Ret {
    hc4(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, virt, entry, UVMF_INVLPG, u64::from(domain))
}

/// Maps the frame of the image again that was at `place` when the kernel started.
fn restore(env: &Env, place: &'static Words) -> Result<(), Errno> {
    let at = &raw const *place as u64;
    let frame = env.boot.p2m().mfn(env.boot.pfn_of(at)).ok_or(Errno::ENOENT)?;
    map_foreign(at, Pte::data(frame).0, DOMID_SELF).map(drop)
}

/// Reaches frames of another domain.
pub struct Window<'a>(&'a Env);

impl<'a> Window<'a> {
    /// One at a time.
    pub fn new(env: &'a Env) -> Self {
        Self(env)
    }

    /// Maps `frame` of `domain`, runs `body`, and takes the mapping back.
    pub fn with<R>(&self, domain: u16, frame: Mfn, body: impl FnOnce(&Words) -> R) -> Result<R, Verdict> {
        let at = &raw const WINDOW as u64;
        need("mapping a foreign frame", map_foreign(at, Pte::data(frame).0, domain))?;
        let result = body(&WINDOW);
        need("unmapping a foreign frame", restore(self.0, &WINDOW))?;
        Ok(result)
    }
}

/// The mailbox in the first domain.
pub mod mailbox {
    use super::*;
    use crate::peer::Peer;

    /// Maps it.
    pub fn map(peer: &Peer<'_>) -> Ret {
        map_foreign(&raw const SHARED as u64, Pte::data(peer.mfn(MAILBOX)).0, peer.id())
    }

    /// Takes the mapping back.
    pub fn unmap(env: &Env) -> Result<(), Errno> {
        restore(env, &SHARED)
    }

    /// Its words.
    pub fn words() -> &'static Words {
        &SHARED
    }
}

/// Gives the domain its pages.
pub fn populate(domain: u16) -> Result<[u64; PAGES], Verdict> {
    let mut frames: [u64; PAGES] = core::array::from_fn(|at| at as u64);
    let mut arg = XenMemoryReservation {
        extent_start: (frames.as_mut_ptr() as u64).into(),
        nr_extents: PAGES as u64,
        domid: domain,
        ..XenMemoryReservation::default()
    };
    match need("populate_physmap", op(nr::MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut arg))? {
        count if count == PAGES as u64 => Ok(frames),
        _ => Err(Verdict::Error("populate_physmap gave fewer pages")),
    }
}

/// Writes page tables and program into the domain's frames, and pins the tables.
pub fn build(window: &Window<'_>, domain: u16, frames: &[u64; PAGES], shared_info: u64) -> Outcome {
    for frame in frames {
        window.with(domain, Mfn(*frame), |page| page.0.iter().for_each(|word| word.store(0, Relaxed)))?;
    }
    for (page, level) in [(ROOT, Level::L4), (1, Level::L3), (2, Level::L2)] {
        let entry = Pte::table(Mfn(frames[page + 1])).0;
        window.with(domain, Mfn(frames[page]), |table| table.0[index(BASE, level)].store(entry, Relaxed))?;
    }
    window.with(domain, Mfn(frames[LOWEST]), |table| {
        for (page, frame) in frames.iter().enumerate() {
            let entry = if page <= LOWEST { Pte::read_only(Mfn(*frame)) } else { Pte::data(Mfn(*frame)) };
            table.0[page].store((entry.0 | Pte::USER) & !Pte::NO_EXECUTE, Relaxed);
        }
        table.0[PAGES].store(Pte::data(Mfn(shared_info)).0, Relaxed);
    })?;
    window.with(domain, Mfn(frames[PROGRAM]), |page| fill(page, program::code()))?;
    // The program takes no upcalls.
    window.with(domain, Mfn(shared_info), |page| {
        let mask = core::mem::offset_of!(VcpuInfo, evtchn_upcall_mask);
        page.0[mask / 8].fetch_or(1 << (8 * (mask % 8)), Relaxed);
    })?;
    need("pinning the peer's tables", pin(domain, frames[ROOT])).map(drop)
}

/// Writes `bytes` to the beginning of a page.
pub fn fill(page: &Words, bytes: &[u8]) {
    for (word, bytes) in page.0.iter().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(whole), Relaxed);
    }
}

fn pin(domain: u16, root: u64) -> Ret {
    let pin = MmuextOp { cmd: MMUEXT_PIN_L4_TABLE, arg1: root, ..MmuextOp::default() };
    hc4(nr::MMUEXT_OP, &raw const pin as u64, 1, 0, u64::from(domain))
}
